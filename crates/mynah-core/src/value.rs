//! The values that properties, headers and arguments may hold: the type system of AMQP 1.0 (part 1), of which every
//! other protocol's types are a subset.
//!
//! Never: encodes anything; each protocol crate has its own form.

use bytes::Bytes;

/// One typed value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    I8(i8),
    I16(i16),
    I32(i32),
    I64(i64),
    F32(f32),
    F64(f64),
    /// A decimal of 4, 8 or 16 bytes in its wire form: passed on, never calculated with.
    Decimal(Bytes),
    Char(char),
    /// Milliseconds since the Unix epoch.
    Timestamp(i64),
    Uuid([u8; 16]),
    Binary(Bytes),
    String(Box<str>),
    Symbol(Box<str>),
    List(Vec<Self>),
    /// Entries in the order they were received.
    Map(Vec<(Self, Self)>),
    Array(Vec<Self>),
    /// Descriptor and value.
    Described(Box<(Self, Self)>),
}

#[expect(clippy::wildcard_enum_match_arm, reason = "each accessor answers for the few kinds it knows")]
impl Value {
    /// The text of a string or symbol.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) | Self::Symbol(text) => Some(text),
            _ => None,
        }
    }

    /// Any integer that fits, whatever its width: arguments are compared by value, not by type.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::U8(n) => Some(i64::from(n)),
            Self::U16(n) => Some(i64::from(n)),
            Self::U32(n) => Some(i64::from(n)),
            Self::U64(n) => i64::try_from(n).ok(),
            Self::I8(n) => Some(i64::from(n)),
            Self::I16(n) => Some(i64::from(n)),
            Self::I32(n) => Some(i64::from(n)),
            Self::I64(n) | Self::Timestamp(n) => Some(n),
            _ => None,
        }
    }

    /// A non-negative integer, whatever its width.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U64(n) => Some(n),
            _ => self.as_i64().and_then(|n| u64::try_from(n).ok()),
        }
    }

    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(flag) => Some(flag),
            _ => None,
        }
    }

    /// The plain text a protocol without types shows (STOMP headers, MQTT user properties).
    ///
    /// Bytes that are UTF-8 are shown as they are, others in hexadecimal; lists and maps in a JSON-like form.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Bool(flag) => flag.to_string(),
            Self::U64(n) => n.to_string(),
            Self::F32(n) => n.to_string(),
            Self::F64(n) => n.to_string(),
            Self::Char(c) => c.to_string(),
            Self::Uuid(id) => uuid_text(id),
            Self::Binary(bytes) | Self::Decimal(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => text.to_owned(),
                Err(_) => hex(bytes),
            },
            Self::String(text) | Self::Symbol(text) => text.to_string(),
            Self::List(items) | Self::Array(items) => {
                let items: Vec<String> = items.iter().map(Self::quoted).collect();
                format!("[{}]", items.join(","))
            }
            Self::Map(entries) => {
                let entries: Vec<String> = entries
                    .iter()
                    .map(|(key, value)| format!("{}:{}", key.quoted(), value.quoted()))
                    .collect();
                format!("{{{}}}", entries.join(","))
            }
            Self::Described(inner) => inner.1.to_text(),
            _ => self.as_i64().map(|n| n.to_string()).unwrap_or_default(),
        }
    }

    fn quoted(&self) -> String {
        match self {
            Self::String(_) | Self::Symbol(_) | Self::Binary(_) | Self::Uuid(_) | Self::Char(_) => {
                format!("{:?}", self.to_text())
            }
            Self::Null => "null".to_owned(),
            _ => self.to_text(),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text.into_boxed_str())
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn uuid_text(id: &[u8; 16]) -> String {
    let digits = hex(id);
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default().to_owned();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_values() {
        assert_eq!(Value::I32(-5).to_text(), "-5");
        assert_eq!(Value::Binary(Bytes::from_static(&[0xff, 0])).to_text(), "ff00");
        assert_eq!(Value::List(vec![Value::from("a"), Value::U8(1)]).to_text(), "[\"a\",1]");
        assert_eq!(Value::Uuid([0x11; 16]).to_text(), "11111111-1111-1111-1111-111111111111");
    }

    #[test]
    fn integers_compare_by_value() {
        assert_eq!(Value::I16(7).as_u64(), Value::U64(7).as_u64());
        assert_eq!(Value::I16(-7).as_u64(), None);
    }
}
