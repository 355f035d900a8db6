//! A YAML document as a tree whose every key and value knows where it was written.
//!
//! serde alone forgets places once a value is built, and stops at the first error. The tree keeps both: values can be
//! overridden from the environment, read again after a bad one was taken out, and asked for their place by path.
//!
//! Never: knows which keys exist (`read.rs` asks serde), resolves a default.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::problem::{Origin, Problem};

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) origin: Origin,
    pub(crate) value: Value,
}

/// A YAML value; `Loose` is text from the environment, which becomes whatever the key wants.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    Loose(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key, its place and its value, in the order written.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) origin: Origin,
    pub(crate) node: Node,
}

/// One step of a path into the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// `listeners[0].bind`
pub(crate) fn dotted(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => {
                text.push('.');
                text.push_str(key);
            }
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

impl Node {
    /// Reads a document. Errors: the YAML is malformed, or repeats a key.
    pub(crate) fn parse(yaml: &str) -> Result<Self, Problem> {
        // An empty document, or one of comments only, is a valid file that changes nothing.
        if yaml.lines().all(|line| line.trim_start().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(Self { origin: Origin::File { line: 1, column: 1 }, value: Value::Map(Vec::new()) });
        }
        serde_saphyr::from_str(yaml).map_err(|error| {
            let origin = error.location().map_or(Origin::File { line: 1, column: 1 }, origin_of);
            Problem::new(origin, "", syntax_text(&error))
        })
    }

    pub(crate) fn empty_map(origin: Origin) -> Self {
        Self { origin, value: Value::Map(Vec::new()) }
    }

    /// What kind of value this is, for "expected a list, found ...". Never shows text: it may be a secret.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a yes/no value",
            Value::Unsigned(_) | Value::Signed(_) => "a whole number",
            Value::Float(_) => "a number with a fraction",
            Value::Text(_) | Value::Loose(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map of keys",
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    fn step(&self, step: &Step) -> Option<&Self> {
        match (step, &self.value) {
            (Step::Key(key), _) => self.get(key),
            (Step::Index(index), Value::List(items)) => items.get(*index),
            (Step::Index(_), _) => None,
        }
    }

    /// The place of the deepest part of `path` that was written at all.
    pub(crate) fn origin_at(&self, path: &[Step]) -> Origin {
        let mut node = self;
        for step in path {
            match node.step(step) {
                Some(next) => node = next,
                None => break,
            }
        }
        node.origin.clone()
    }

    /// Takes the value at `path` out; false when there is none.
    pub(crate) fn prune(&mut self, path: &[Step]) -> bool {
        let Some((last, parents)) = path.split_last() else { return false };
        let mut node = self;
        for step in parents {
            let next = match (step, &mut node.value) {
                (Step::Key(key), Value::Map(entries)) => {
                    entries.iter_mut().find(|entry| entry.key == *key).map(|entry| &mut entry.node)
                }
                (Step::Index(index), Value::List(items)) => items.get_mut(*index),
                _ => None,
            };
            let Some(next) = next else { return false };
            node = next;
        }
        match (last, &mut node.value) {
            (Step::Key(key), Value::Map(entries)) => {
                let before = entries.len();
                entries.retain(|entry| entry.key != *key);
                entries.len() < before
            }
            (Step::Index(index), Value::List(items)) if *index < items.len() => {
                items.remove(*index);
                true
            }
            _ => false,
        }
    }
}

/// The parser's message without its picture of the source: the place is in front of the line already.
fn syntax_text(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let text = text.lines().next().unwrap_or_default().trim();
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let text = match text.split_once("line ") {
        Some((_, rest)) if text.starts_with("error: line ") || text.starts_with("line ") => {
            rest.split_once(": ").map_or(text, |(_, message)| message)
        }
        _ => text,
    };
    format!("not valid YAML: {text}")
}

fn origin_of(location: Location) -> Origin {
    Origin::File { line: location.line().max(1), column: location.column().max(1) }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { origin: origin_of(spanned.referenced), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Unsigned(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(u64::try_from(v).map_or(Value::Signed(v), Value::Unsigned))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Value::Float(v))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::Text(v.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let node = map.next_value()?;
            entries.push(Entry { origin: origin_of(key.referenced), key: key.value, node });
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<Step> {
        text.split('.').map(|s| s.parse().map_or_else(|_| Step::Key(s.to_owned()), Step::Index)).collect()
    }

    #[test]
    fn every_value_knows_its_place() {
        let tree = Node::parse("a: 1\nlist:\n  - { x: y, z: [1, 2] }\n").unwrap();
        assert_eq!(tree.origin_at(&path("a")), Origin::File { line: 1, column: 4 });
        assert_eq!(tree.origin_at(&path("list.0.x")), Origin::File { line: 3, column: 10 });
        assert_eq!(tree.origin_at(&path("list.0.z.1")), Origin::File { line: 3, column: 20 });
        assert_eq!(tree.origin_at(&path("list.0.missing")), tree.origin_at(&path("list.0")));
    }

    #[test]
    fn comments_only_is_an_empty_map() {
        assert!(matches!(Node::parse("# nothing\n\n").unwrap().value, Value::Map(e) if e.is_empty()));
        assert!(matches!(Node::parse("").unwrap().value, Value::Map(e) if e.is_empty()));
    }

    #[test]
    fn pruning_takes_out_keys_and_items() {
        let mut tree = Node::parse("a: 1\nlist: [ {x: 1}, {x: 2} ]\n").unwrap();
        assert!(tree.prune(&path("list.0")));
        assert!(tree.prune(&path("a")));
        assert!(!tree.prune(&path("a")));
        assert!(!tree.prune(&path("list.7.x")));
        assert!(matches!(tree.get("list").map(|n| &n.value), Some(Value::List(items)) if items.len() == 1));
    }

    #[test]
    fn dotted_path() {
        assert_eq!(dotted(&[Step::Key("a".into()), Step::Index(2), Step::Key("b".into())]), "a[2].b");
    }
}
