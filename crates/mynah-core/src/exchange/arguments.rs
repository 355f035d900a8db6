//! Arguments of declarations and bindings, compared by what they mean rather than by how they were encoded.

use crate::value::Value;

/// Named arguments of a declaration or binding.
pub type Arguments = Vec<(Box<str>, Value)>;

/// Whether two values are equal: integers of any width, floats of either, texts as string, symbol or bytes; maps in any order.
#[must_use]
pub fn same_value(one: &Value, other: &Value) -> bool {
    if let (Some(one), Some(other)) = (integer(one), integer(other)) {
        return one == other;
    }
    if let (Some(one), Some(other)) = (float(one), float(other)) {
        return one == other;
    }
    if let (Some(one), Some(other)) = (text(one), text(other)) {
        return one == other;
    }
    if let (Some(one), Some(other)) = (items(one), items(other)) {
        return one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same_value(one, other));
    }
    if let (Value::Map(one), Value::Map(other)) = (one, other) {
        let finds = |(key, value): &(Value, Value)| {
            other.iter().any(|(name, held)| same_value(key, name) && same_value(value, held))
        };
        return one.len() == other.len() && one.iter().all(finds);
    }
    one == other
}

fn integer(value: &Value) -> Option<i128> {
    value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from))
}

fn float(value: &Value) -> Option<f64> {
    if let Value::F32(n) = value {
        return Some(f64::from(*n));
    }
    if let Value::F64(n) = value { Some(*n) } else { None }
}

fn text(value: &Value) -> Option<&[u8]> {
    if let Value::Binary(bytes) = value { Some(bytes) } else { value.as_str().map(str::as_bytes) }
}

fn items(value: &Value) -> Option<&[Value]> {
    if let Value::List(items) | Value::Array(items) = value { Some(items) } else { None }
}

fn find<'a>(arguments: &'a Arguments, name: &str) -> Option<&'a Value> {
    arguments.iter().find(|(key, _)| **key == *name).map(|(_, value)| value)
}

/// The same names with the same values, in any order.
pub(super) fn same_arguments(one: &Arguments, other: &Arguments) -> bool {
    one.len() == other.len()
        && one.iter().all(|(name, value)| find(other, name).is_some_and(|held| same_value(value, held)))
}

/// One property of a declaration.
pub(crate) fn same<T: PartialEq + std::fmt::Display>(
    name: &str,
    subject: &str,
    current: T,
    received: T,
) -> Result<(), String> {
    if current == received {
        return Ok(());
    }
    Err(format!("inequivalent arg '{name}' for {subject}: received '{received}' but current is '{current}'"))
}

/// The arguments of a declaration. Naming the default kind of queue is the same as naming none.
pub(crate) fn difference(current: &Arguments, received: &Arguments, subject: &str) -> Result<(), String> {
    let value = |arguments, name| {
        find(arguments, name).filter(|value| !(name == "x-queue-type" && value.as_str() == Some("classic")))
    };
    let shown =
        |value: Option<&Value>| value.map_or("none".to_owned(), |value| format!("'{}'", value.to_text()));
    for (name, _) in current.iter().chain(received) {
        let (is, wanted): (Option<&Value>, Option<&Value>) = (value(current, name), value(received, name));
        let same = match (is, wanted) {
            (Some(is), Some(wanted)) => same_value(is, wanted),
            (None, None) => true,
            _ => false,
        };
        if !same {
            return Err(format!(
                "inequivalent arg '{name}' for {subject}: received {} but current is {}",
                shown(wanted),
                shown(is)
            ));
        }
    }
    Ok(())
}

/// How a headers binding matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HeadersMatch {
    /// All of the arguments must match, not just one.
    all: bool,
    /// Arguments that begin with `x-` count.
    with_x: bool,
}

/// The binding's `x-match`; absent means all. `None` if it is a word that means nothing.
fn headers_rule(arguments: &Arguments) -> Option<HeadersMatch> {
    let Some(rule) = find(arguments, "x-match") else {
        return Some(HeadersMatch { all: true, with_x: false });
    };
    match text(rule) {
        Some(b"all") => Some(HeadersMatch { all: true, with_x: false }),
        Some(b"any") => Some(HeadersMatch { all: false, with_x: false }),
        Some(b"all-with-x") => Some(HeadersMatch { all: true, with_x: true }),
        Some(b"any-with-x") => Some(HeadersMatch { all: false, with_x: true }),
        _ => None,
    }
}

/// Whether a headers exchange can bind with these arguments.
///
/// # Errors
/// The text for the client: what `x-match` may be.
pub fn check_headers_rule(arguments: &Arguments) -> Result<(), String> {
    match headers_rule(arguments) {
        Some(_) => Ok(()),
        None => {
            let value = find(arguments, "x-match").map(Value::to_text).unwrap_or_default();
            Err(format!(
                "invalid x-match field value '{value}': use 'all', 'any', 'all-with-x' or 'any-with-x'"
            ))
        }
    }
}

/// Whether a message's headers match a binding. A value of null asks for presence only.
pub(super) fn headers_match(arguments: &Arguments, headers: &dyn Fn(&str) -> Option<Value>) -> bool {
    let Some(rule) = headers_rule(arguments) else { return false };
    let mut counted =
        arguments.iter().filter(|(name, _)| **name != *"x-match" && (rule.with_x || !name.starts_with("x-")));
    let matches = |(name, wanted): &(Box<str>, Value)| match headers(name) {
        Some(value) => *wanted == Value::Null || same_value(wanted, &value),
        None => false,
    };
    if rule.all { counted.all(matches) } else { counted.any(matches) }
}
