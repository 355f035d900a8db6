//! serde over the tree of `tree.rs`: builds a settings struct and says, for what is wrong, where and what to write instead.
//!
//! Each failed reading names one value. That value is recorded, taken out of the tree (so that its default holds) and the
//! tree is read again: a file with five mistakes tells all five at once. The list of known keys is the one serde derives
//! from the struct, so it cannot differ from the code.
//!
//! Never: quotes a value of a secret key, judges values (`check.rs` does).

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};

use super::problem::{Origin, Problem, hint, nearest};
use super::tree::{Entry, Node, Step, Value, dotted};

/// More mistakes than this in one file are not read one by one.
const PROBLEMS_MAX: usize = 50;

/// Reads `T` from `tree`; the problems found on the way are in `problems`. `None` when nothing usable is left.
pub(crate) fn read<T: DeserializeOwned>(tree: &mut Node, problems: &mut Vec<Problem>) -> Option<T> {
    while problems.len() < PROBLEMS_MAX {
        let failed = match T::deserialize(Reader { node: tree }) {
            Ok(value) => return Some(value),
            Err(failed) => failed,
        };
        let path: Vec<Step> = failed.path.into_iter().rev().collect();
        let origin = failed.origin.unwrap_or_else(|| tree.origin_at(&path));
        let key = dotted(&path);
        // What is missing may be what was misspelt: one mistake, one line.
        let told = failed.missing && problems.iter().any(|told| told.key.starts_with(&key));
        if !told {
            problems.push(Problem::new(origin, key, failed.text));
        }
        if !tree.prune(&path) {
            return None;
        }
    }
    None
}

/// A reading that failed; the path is collected innermost first on the way out.
#[derive(Debug)]
struct Failed {
    path: Vec<Step>,
    origin: Option<Origin>,
    text: String,
    /// A required key is not there.
    missing: bool,
}

impl Failed {
    fn within(mut self, step: Step, node: &Node) -> Self {
        if self.origin.is_none() {
            self.origin = Some(node.origin.clone());
        }
        self.path.push(step);
        self
    }
}

impl std::error::Error for Failed {}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl de::Error for Failed {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self { path: Vec::new(), origin: None, text: text.to_string(), missing: false }
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!("expected {expected}, found {}", plain(found)))
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!("expected {expected}, found {}", plain(found)))
    }

    fn missing_field(field: &'static str) -> Self {
        Self { missing: true, ..Self::custom(format_args!("the key \"{field}\" is missing")) }
    }

    fn unknown_variant(found: &str, allowed: &'static [&'static str]) -> Self {
        Self::custom(format_args!("unknown value \"{}\"{}", found.escape_debug(), hint(found, allowed)))
    }
}

fn plain(found: de::Unexpected<'_>) -> String {
    #[allow(clippy::wildcard_enum_match_arm, reason = "serde's own words are good for the rest")]
    match found {
        de::Unexpected::Str(text) => format!("\"{}\"", text.escape_debug()),
        de::Unexpected::Bool(value) => value.to_string(),
        de::Unexpected::Unsigned(value) => value.to_string(),
        de::Unexpected::Signed(value) => value.to_string(),
        de::Unexpected::Float(value) => value.to_string(),
        de::Unexpected::Unit | de::Unexpected::Option => "nothing".to_owned(),
        de::Unexpected::Seq => "a list".to_owned(),
        de::Unexpected::Map => "a map of keys".to_owned(),
        other => other.to_string(),
    }
}

/// Borrowing deserializer of one node.
struct Reader<'a> {
    node: &'a Node,
}

impl Reader<'_> {
    fn expected(&self, what: &str) -> Failed {
        de::Error::custom(format_args!("expected {what}, found {}", self.node.kind()))
    }
}

/// Text of the environment read as a YAML list or map; its parts keep the variable's name as their place.
fn loose_node(text: &str, origin: &Origin) -> Result<Node, Failed> {
    let mut node = Node::parse(text).map_err(|problem| Failed {
        path: Vec::new(),
        origin: None,
        text: problem.text,
        missing: false,
    })?;
    reorigin(&mut node, origin);
    Ok(node)
}

fn reorigin(node: &mut Node, origin: &Origin) {
    node.origin = origin.clone();
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| reorigin(item, origin)),
        Value::Map(entries) => {
            for entry in entries {
                entry.origin = origin.clone();
                reorigin(&mut entry.node, origin);
            }
        }
        Value::Null
        | Value::Bool(_)
        | Value::Unsigned(_)
        | Value::Signed(_)
        | Value::Float(_)
        | Value::Text(_)
        | Value::Loose(_) => {}
    }
}

macro_rules! whole_numbers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
            if let Value::Unsigned(value) = self.node.value {
                return visitor.visit_u64(value);
            }
            if let Value::Signed(value) = self.node.value {
                return visitor.visit_i64(value);
            }
            if let Value::Loose(text) = &self.node.value {
                return match text.trim().replace('_', "").parse() {
                    Ok(value) => visitor.visit_u64(value),
                    Err(_) => Err(de::Error::invalid_value(de::Unexpected::Str(text), &"a whole number")),
                };
            }
            Err(self.expected("a whole number"))
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Failed;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Signed(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) | Value::Loose(text) => visitor.visit_str(text),
            Value::List(items) => visitor.visit_seq(Items { items, next: 0 }),
            Value::Map(entries) => visitor.visit_map(Entries { entries, next: 0 }),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        if let Value::Bool(value) = self.node.value {
            return visitor.visit_bool(value);
        }
        if let Value::Loose(text) = &self.node.value {
            match text.trim().to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => return visitor.visit_bool(true),
                "false" | "no" | "off" | "0" => return visitor.visit_bool(false),
                _ => {}
            }
        }
        Err(self.expected("true or false"))
    }

    whole_numbers! {
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        match &self.node.value {
            Value::Text(text) | Value::Loose(text) => visitor.visit_str(text),
            Value::Bool(_) | Value::Unsigned(_) | Value::Signed(_) | Value::Float(_) => {
                Err(self.expected("text (put it in quotes: \"...\")"))
            }
            Value::Null | Value::List(_) | Value::Map(_) => Err(self.expected("text")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        if matches!(&self.node.value, Value::Null) {
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failed> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        let parsed;
        let items: &[Node] = if let Value::List(items) = &self.node.value {
            items
        } else if matches!(self.node.value, Value::Null) {
            &[]
        } else if let Value::Loose(text) = &self.node.value {
            parsed = loose_node(text, &self.node.origin)?;
            let Value::List(items) = &parsed.value else { return Err(self.expected("a list")) };
            items
        } else {
            return Err(self.expected("a list"));
        };
        visitor.visit_seq(Items { items, next: 0 })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        let parsed;
        let entries: &[Entry] = if let Value::Map(entries) = &self.node.value {
            entries
        } else if matches!(self.node.value, Value::Null) {
            // A section whose keys are all commented out.
            &[]
        } else if let Value::Loose(text) = &self.node.value {
            parsed = loose_node(text, &self.node.origin)?;
            let Value::Map(entries) = &parsed.value else { return Err(self.expected("a map of keys")) };
            entries
        } else {
            return Err(self.expected("a map of keys"));
        };
        if let Some(entry) = entries.iter().find(|entry| !fields.contains(&entry.key.as_str())) {
            return Err(unknown_key(entry, fields));
        }
        visitor.visit_map(Entries { entries, next: 0 })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        let (Value::Text(text) | Value::Loose(text)) = &self.node.value else {
            return Err(self.expected("one word"));
        };
        visitor.visit_enum(Choice { text })
    }

    serde::forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct map identifier ignored_any
    }
}

fn unknown_key(entry: &Entry, fields: &'static [&'static str]) -> Failed {
    let text = match (&entry.origin, nearest(&entry.key, fields.iter().copied())) {
        (Origin::Env(name), Some(meant)) => {
            let given = entry.key.to_ascii_uppercase();
            let meant = name.replacen(&given, &meant.to_ascii_uppercase(), 1);
            format!("unknown variable; did you mean {meant}?")
        }
        (_, _) => format!("unknown key{}", hint(&entry.key, fields)),
    };
    Failed {
        path: vec![Step::Key(entry.key.clone())],
        origin: Some(entry.origin.clone()),
        text,
        missing: false,
    }
}

struct Items<'a> {
    items: &'a [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Failed;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Failed> {
        let index = self.next;
        let Some(node) = self.items.get(index) else { return Ok(None) };
        self.next += 1;
        seed.deserialize(Reader { node }).map(Some).map_err(|failed| failed.within(Step::Index(index), node))
    }
}

struct Entries<'a> {
    entries: &'a [Entry],
    next: usize,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Failed;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Failed> {
        let Some(entry) = self.entries.get(self.next) else { return Ok(None) };
        let key: StrDeserializer<'_, Failed> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Failed> {
        let Some(entry) = self.entries.get(self.next) else {
            return Err(de::Error::custom("a value without a key"));
        };
        self.next += 1;
        seed.deserialize(Reader { node: &entry.node })
            .map_err(|failed| failed.within(Step::Key(entry.key.clone()), &entry.node))
    }
}

struct Choice<'a> {
    text: &'a str,
}

impl<'de> EnumAccess<'de> for Choice<'_> {
    type Error = Failed;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Failed> {
        let word: StrDeserializer<'_, Failed> = self.text.into_deserializer();
        Ok((seed.deserialize(word)?, self))
    }
}

impl<'de> VariantAccess<'de> for Choice<'_> {
    type Error = Failed;

    fn unit_variant(self) -> Result<(), Failed> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Failed> {
        Err(de::Error::custom("this word takes no value"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Failed> {
        Err(de::Error::custom("this word takes no value"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Failed> {
        Err(de::Error::custom("this word takes no value"))
    }
}
