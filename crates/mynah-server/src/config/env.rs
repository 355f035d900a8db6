//! `MYNAH_...` variables laid over the file: `MYNAH_A__B=x` sets `a.b`, `MYNAH_LISTENERS__MQTT__BIND` the item named `mqtt`.
//!
//! A suffix `_FILE` reads the value from that file, which is how containers hand over secrets. Values are text; the key they
//! land on decides whether that is a number, a word or (in YAML flow form) a list. A variable that sets nothing is an error:
//! a typo that is ignored is a setting that is silently not there.
//!
//! Never: reads the environment itself (the caller passes it), shows a value.

use super::problem::{Origin, Problem};
use super::tree::{Entry, Node, Value};

const PREFIX: &str = "MYNAH_";

/// Variables that are not settings: the file's path, "first boot in a container", the binary the test suite starts.
const RESERVED: &[&str] = &["MYNAH_CONFIG", "MYNAH_CONTAINER", "MYNAH_BIN"];

/// Lays the variables of `vars` over `tree`. `defaults` supplies the lists that the file does not mention, so that one
/// item of a default list can be changed; `read_file` reads what a `_FILE` variable points to.
pub(crate) fn overlay(
    tree: &mut Node,
    defaults: &Node,
    vars: &[(String, String)],
    read_file: &dyn Fn(&str) -> std::io::Result<String>,
    problems: &mut Vec<Problem>,
) {
    let mut ours: Vec<&(String, String)> = vars
        .iter()
        .filter(|(name, _)| name.starts_with(PREFIX) && !RESERVED.contains(&name.as_str()))
        .collect();
    // Sorted: what an index or a name refers to must not depend on the order of the environment.
    ours.sort();
    for (name, value) in ours {
        let origin = Origin::Env(name.clone());
        let (key, value) = match name.strip_suffix("_FILE") {
            None => (name.as_str(), value.clone()),
            Some(key) if vars.iter().any(|(other, _)| other == key) => {
                problems.push(Problem::new(origin, "", format!("{key} is set as well; keep one of the two")));
                continue;
            }
            Some(key) => match read_file(value) {
                Ok(text) => (key, text.trim_end_matches(['\r', '\n']).to_owned()),
                Err(error) => {
                    let text = format!("cannot read \"{}\": {error}", value.escape_debug());
                    problems.push(Problem::new(origin, "", text));
                    continue;
                }
            },
        };
        let path = key.strip_prefix(PREFIX).unwrap_or_default().to_ascii_lowercase();
        let segments: Vec<&str> = path.split("__").collect();
        if let Err(text) = set(tree, Some(defaults), &segments, &value, &origin) {
            problems.push(Problem::new(origin, "", text));
        }
    }
}

/// Walks down `path`, making what is missing, and puts `text` at its end.
fn set(
    node: &mut Node,
    defaults: Option<&Node>,
    path: &[&str],
    text: &str,
    origin: &Origin,
) -> Result<(), String> {
    let Some((first, rest)) = path.split_first() else {
        *node = Node { origin: origin.clone(), value: Value::Loose(text.to_owned()) };
        return Ok(());
    };
    if first.is_empty() {
        return Err("an empty part between underscores; write MYNAH_SECTION__KEY".to_owned());
    }
    if matches!(node.value, Value::Null) {
        *node = defaults.cloned().unwrap_or_else(|| Node::empty_map(origin.clone()));
    }
    if let Value::Map(entries) = &mut node.value {
        let under = defaults.and_then(|node| node.get(first));
        set(entry(entries, first, under, origin), under, rest, text, origin)
    } else if let Value::List(items) = &mut node.value {
        set(item(items, first, origin)?, None, rest, text, origin)
    } else {
        Err(format!("sets a key inside a single value; there is nothing called \"{first}\" there"))
    }
}

fn entry<'a>(
    entries: &'a mut Vec<Entry>,
    key: &str,
    default: Option<&Node>,
    origin: &Origin,
) -> &'a mut Node {
    let index = match entries.iter().position(|entry| entry.key == key) {
        Some(index) => index,
        None => {
            // Only lists are taken over from the defaults: a map's other keys default by themselves.
            let node = match default {
                Some(node) if matches!(node.value, Value::List(_)) => node.clone(),
                _ => Node::empty_map(origin.clone()),
            };
            entries.push(Entry { key: key.to_owned(), origin: origin.clone(), node });
            entries.len() - 1
        }
    };
    #[allow(clippy::indexing_slicing, reason = "the index was found or pushed three lines above")]
    &mut entries[index].node
}

/// The item with this index or, whatever the case and `-` for `_`, this name; a new one is appended.
fn item<'a>(items: &'a mut Vec<Node>, wanted: &str, origin: &Origin) -> Result<&'a mut Node, String> {
    let count = items.len();
    let index = match wanted.parse::<usize>() {
        Ok(index) if index <= count => Some(index).filter(|index| *index < count),
        Ok(_) => return Err(format!("there are only {count} items; the next one has the index {count}")),
        Err(_) => items.iter().position(|item| named(item, wanted)),
    };
    let index = index.unwrap_or_else(|| {
        let mut node = Node::empty_map(origin.clone());
        if let (Value::Map(entries), Err(_)) = (&mut node.value, wanted.parse::<usize>()) {
            let name = Node { origin: origin.clone(), value: Value::Text(wanted.to_owned()) };
            entries.push(Entry { key: "name".to_owned(), origin: origin.clone(), node: name });
        }
        items.push(node);
        count
    });
    items.get_mut(index).ok_or_else(|| format!("there is no item \"{wanted}\""))
}

fn named(item: &Node, wanted: &str) -> bool {
    let Some(Value::Text(name) | Value::Loose(name)) = item.get("name").map(|name| &name.value) else {
        return false;
    };
    name.to_ascii_lowercase().replace('-', "_") == wanted
}
