//! The properties of 5.0 as one table: identifier, type, where allowed, how often [MQTT 5.0 2.2.2].
//!
//! A list of properties stays the bytes it was received as; it is validated once and then walked.
//! Never: allocates; understands a property.

use bytes::BufMut;

use super::primitive::{Reader, put_binary, put_varint, varint, varint_len};
use crate::reason::Fault;

/// Identifiers [MQTT 5.0 table 2-4].
pub mod id {
    pub const PAYLOAD_FORMAT: u8 = 0x01;
    pub const MESSAGE_EXPIRY: u8 = 0x02;
    pub const CONTENT_TYPE: u8 = 0x03;
    pub const RESPONSE_TOPIC: u8 = 0x08;
    pub const CORRELATION_DATA: u8 = 0x09;
    pub const SUBSCRIPTION_ID: u8 = 0x0b;
    pub const SESSION_EXPIRY: u8 = 0x11;
    pub const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub const AUTHENTICATION_METHOD: u8 = 0x15;
    pub const AUTHENTICATION_DATA: u8 = 0x16;
    pub const REQUEST_PROBLEM_INFO: u8 = 0x17;
    pub const WILL_DELAY: u8 = 0x18;
    pub const REQUEST_RESPONSE_INFO: u8 = 0x19;
    pub const RESPONSE_INFO: u8 = 0x1a;
    pub const SERVER_REFERENCE: u8 = 0x1c;
    pub const REASON_STRING: u8 = 0x1f;
    pub const RECEIVE_MAX: u8 = 0x21;
    pub const TOPIC_ALIAS_MAX: u8 = 0x22;
    pub const TOPIC_ALIAS: u8 = 0x23;
    pub const MAX_QOS: u8 = 0x24;
    pub const RETAIN_AVAILABLE: u8 = 0x25;
    pub const USER_PROPERTY: u8 = 0x26;
    pub const MAX_PACKET_SIZE: u8 = 0x27;
    pub const WILDCARD_AVAILABLE: u8 = 0x28;
    pub const SUBSCRIPTION_ID_AVAILABLE: u8 = 0x29;
    pub const SHARED_AVAILABLE: u8 = 0x2a;
}

/// The value of a property in its own type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// 0 or 1; there is no property of this type with other values.
    Flag(bool),
    Two(u16),
    Four(u32),
    VarInt(u32),
    Text(&'a str),
    Binary(&'a [u8]),
    Pair(&'a str, &'a str),
}

/// The identifiers allowed in one place, a bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed(u64);

const fn bit(id: u8) -> u64 {
    1 << id
}

const DESCRIBED: u64 = bit(id::REASON_STRING) | bit(id::USER_PROPERTY);
const APPLICATION: u64 = bit(id::PAYLOAD_FORMAT)
    | bit(id::MESSAGE_EXPIRY)
    | bit(id::CONTENT_TYPE)
    | bit(id::RESPONSE_TOPIC)
    | bit(id::CORRELATION_DATA)
    | bit(id::USER_PROPERTY);
const AUTHENTICATION: u64 = bit(id::AUTHENTICATION_METHOD) | bit(id::AUTHENTICATION_DATA);

impl Allowed {
    pub const CONNECT: Self = Self(
        AUTHENTICATION
            | bit(id::SESSION_EXPIRY)
            | bit(id::RECEIVE_MAX)
            | bit(id::MAX_PACKET_SIZE)
            | bit(id::TOPIC_ALIAS_MAX)
            | bit(id::REQUEST_RESPONSE_INFO)
            | bit(id::REQUEST_PROBLEM_INFO)
            | bit(id::USER_PROPERTY),
    );
    pub const WILL: Self = Self(APPLICATION | bit(id::WILL_DELAY));
    pub const CONNACK: Self = Self(
        DESCRIBED
            | AUTHENTICATION
            | bit(id::SESSION_EXPIRY)
            | bit(id::RECEIVE_MAX)
            | bit(id::MAX_QOS)
            | bit(id::RETAIN_AVAILABLE)
            | bit(id::MAX_PACKET_SIZE)
            | bit(id::ASSIGNED_CLIENT_ID)
            | bit(id::TOPIC_ALIAS_MAX)
            | bit(id::WILDCARD_AVAILABLE)
            | bit(id::SUBSCRIPTION_ID_AVAILABLE)
            | bit(id::SHARED_AVAILABLE)
            | bit(id::SERVER_KEEP_ALIVE)
            | bit(id::RESPONSE_INFO)
            | bit(id::SERVER_REFERENCE),
    );
    pub const PUBLISH: Self = Self(APPLICATION | bit(id::TOPIC_ALIAS) | bit(id::SUBSCRIPTION_ID));
    /// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK.
    pub const ACK: Self = Self(DESCRIBED);
    pub const SUBSCRIBE: Self = Self(bit(id::SUBSCRIPTION_ID) | bit(id::USER_PROPERTY));
    pub const UNSUBSCRIBE: Self = Self(bit(id::USER_PROPERTY));
    pub const DISCONNECT: Self = Self(DESCRIBED | bit(id::SESSION_EXPIRY) | bit(id::SERVER_REFERENCE));
    pub const AUTH: Self = Self(DESCRIBED | AUTHENTICATION);
}

/// Validated properties, as they were received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Properties<'a>(&'a [u8]);

/// Whether a packet of these properties and `other` more bytes behind its fixed header is one that a peer with this maximum
/// packet size takes [MQTT-3.1.2-24].
#[must_use]
pub fn fits(properties: &[u8], other: usize, packet_max: u32) -> bool {
    let body = other + varint_len(properties.len()) + properties.len();
    1 + varint_len(body) + body <= packet_max as usize
}

impl<'a> Properties<'a> {
    /// Reads the length and the properties.
    ///
    /// # Errors
    /// Malformed: an identifier that does not exist or is not allowed here [MQTT 5.0 2.2.2.2]. Protocol error: one that
    /// may stand only once stands twice, or has a value it must not have.
    pub fn read(reader: &mut Reader<'a>, allowed: Allowed) -> Result<Self, Fault> {
        let len = reader.varint()?;
        if len == 0 {
            return Ok(Self::default());
        }
        let bytes = reader.take(len as usize)?;
        let mut seen = 0u64;
        let mut rest = Reader::new(bytes);
        while !rest.is_empty() {
            let (id, value) = read_property(&mut rest)?;
            let bit = 1u64.checked_shl(u32::from(id)).unwrap_or(0);
            if allowed.0 & bit == 0 {
                return Err(Fault::malformed("a property is not allowed in this packet"));
            }
            // Subscription identifiers repeat only where a server sends them.
            let repeats =
                id == id::USER_PROPERTY || (id == id::SUBSCRIPTION_ID && allowed == Allowed::PUBLISH);
            if seen & bit != 0 && !repeats {
                return Err(Fault::protocol("a property stands twice"));
            }
            seen |= bit;
            check_value(id, value)?;
        }
        Ok(Self(bytes))
    }

    /// Takes bytes that were validated before, or were written by this crate.
    #[must_use]
    pub fn trusted(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Identifiers and values in order; ends at the first that cannot be read.
    pub fn iter(&self) -> impl Iterator<Item = (u8, Value<'a>)> + use<'a> {
        let mut rest = Reader::new(self.0);
        std::iter::from_fn(move || if rest.is_empty() { None } else { read_property(&mut rest).ok() })
    }

    /// Identifiers with the bytes of each property, its identifier included; not decoded, so it is faster.
    #[inline]
    pub fn parts(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let id = *rest.first()?;
            let (part, after) = rest.split_at_checked(part_len(id, rest)?)?;
            rest = after;
            Some((id, part))
        })
    }

    /// Bytes they take with their length.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        varint_len(self.0.len()) + self.0.len()
    }

    pub fn write(&self, out: &mut impl BufMut) {
        put_varint(out, self.0.len());
        out.put_slice(self.0);
    }
}

/// One property. Unknown identifiers are malformed, and those of more than one byte do not exist.
fn read_property<'a>(reader: &mut Reader<'a>) -> Result<(u8, Value<'a>), Fault> {
    let id = reader.u8()?;
    let value = match id {
        id::PAYLOAD_FORMAT
        | id::REQUEST_PROBLEM_INFO
        | id::REQUEST_RESPONSE_INFO
        | id::MAX_QOS
        | id::RETAIN_AVAILABLE
        | id::WILDCARD_AVAILABLE
        | id::SUBSCRIPTION_ID_AVAILABLE
        | id::SHARED_AVAILABLE => match reader.u8()? {
            0 => Value::Flag(false),
            1 => Value::Flag(true),
            _ => return Err(Fault::protocol("a property that is 0 or 1 has another value")),
        },
        id::SERVER_KEEP_ALIVE | id::RECEIVE_MAX | id::TOPIC_ALIAS_MAX | id::TOPIC_ALIAS => {
            Value::Two(reader.u16()?)
        }
        id::MESSAGE_EXPIRY | id::SESSION_EXPIRY | id::WILL_DELAY | id::MAX_PACKET_SIZE => {
            Value::Four(reader.u32()?)
        }
        id::SUBSCRIPTION_ID => Value::VarInt(reader.varint()?),
        id::CONTENT_TYPE
        | id::RESPONSE_TOPIC
        | id::ASSIGNED_CLIENT_ID
        | id::AUTHENTICATION_METHOD
        | id::RESPONSE_INFO
        | id::SERVER_REFERENCE
        | id::REASON_STRING => Value::Text(reader.text()?),
        id::CORRELATION_DATA | id::AUTHENTICATION_DATA => Value::Binary(reader.binary()?),
        id::USER_PROPERTY => Value::Pair(reader.text()?, reader.text()?),
        _ => return Err(Fault::malformed("there is no property of this number")),
    };
    Ok((id, value))
}

/// The length of a validated property, its identifier included.
#[inline]
fn part_len(id: u8, bytes: &[u8]) -> Option<usize> {
    let field = |at: usize| match bytes.get(at..)? {
        [high, low, ..] => Some(2 + usize::from(u16::from_be_bytes([*high, *low]))),
        _ => None,
    };
    match id {
        id::USER_PROPERTY => {
            let key = 1 + field(1)?;
            Some(key + field(key)?)
        }
        id::CONTENT_TYPE
        | id::RESPONSE_TOPIC
        | id::CORRELATION_DATA
        | id::ASSIGNED_CLIENT_ID
        | id::AUTHENTICATION_METHOD
        | id::AUTHENTICATION_DATA
        | id::RESPONSE_INFO
        | id::SERVER_REFERENCE
        | id::REASON_STRING => Some(1 + field(1)?),
        id::MESSAGE_EXPIRY | id::SESSION_EXPIRY | id::WILL_DELAY | id::MAX_PACKET_SIZE => Some(5),
        id::SERVER_KEEP_ALIVE | id::RECEIVE_MAX | id::TOPIC_ALIAS_MAX | id::TOPIC_ALIAS => Some(3),
        id::SUBSCRIPTION_ID => Some(1 + varint(bytes.get(1..)?).ok()??.1),
        _ => Some(2),
    }
}

fn check_value(id: u8, value: Value<'_>) -> Result<(), Fault> {
    match (id, value) {
        (id::RECEIVE_MAX, Value::Two(0)) => Err(Fault::protocol("receive maximum is 0")),
        (id::MAX_PACKET_SIZE, Value::Four(0)) => Err(Fault::protocol("maximum packet size is 0")),
        (id::SUBSCRIPTION_ID, Value::VarInt(0)) => Err(Fault::protocol("subscription identifier is 0")),
        (id::TOPIC_ALIAS, Value::Two(0)) => {
            Err(Fault::new(crate::reason::Reason::ALIAS_INVALID, "topic alias is 0"))
        }
        (id::RESPONSE_TOPIC, Value::Text(topic)) if topic.contains(['+', '#']) => {
            // [MQTT-3.3.2-14]
            Err(Fault::protocol("response topic has a wildcard"))
        }
        _ => Ok(()),
    }
}

pub fn put_flag(out: &mut impl BufMut, id: u8, value: bool) {
    out.put_u8(id);
    out.put_u8(u8::from(value));
}

pub fn put_two(out: &mut impl BufMut, id: u8, value: u16) {
    out.put_u8(id);
    out.put_u16(value);
}

pub fn put_four(out: &mut impl BufMut, id: u8, value: u32) {
    out.put_u8(id);
    out.put_u32(value);
}

/// Text or binary data.
pub fn put_field(out: &mut impl BufMut, id: u8, value: &[u8]) {
    out.put_u8(id);
    put_binary(out, value);
}

pub fn put_user_property(out: &mut impl BufMut, key: &str, value: &str) {
    out.put_u8(id::USER_PROPERTY);
    put_binary(out, key.as_bytes());
    put_binary(out, value.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    fn check(bytes: &[u8], allowed: Allowed) -> Result<usize, Reason> {
        let mut out = Vec::new();
        put_varint(&mut out, bytes.len());
        out.extend_from_slice(bytes);
        Properties::read(&mut Reader::new(&out), allowed)
            .map(|properties| properties.iter().count())
            .map_err(|f| f.reason)
    }

    #[test]
    fn where_and_how_often() {
        assert_eq!(check(&[0x01, 1, 0x26, 0, 1, b'k', 0, 0], Allowed::PUBLISH), Ok(2));
        assert_eq!(check(&[0x11, 0, 0, 0, 1], Allowed::PUBLISH), Err(Reason::MALFORMED));
        assert_eq!(check(&[0x7f], Allowed::PUBLISH), Err(Reason::MALFORMED));
        assert_eq!(check(&[0x01, 1, 0x01, 1], Allowed::PUBLISH), Err(Reason::PROTOCOL_ERROR));
        assert_eq!(check(&[0x0b, 1, 0x0b, 2], Allowed::PUBLISH), Ok(2));
        assert_eq!(check(&[0x0b, 1, 0x0b, 2], Allowed::SUBSCRIBE), Err(Reason::PROTOCOL_ERROR));
        assert_eq!(check(&[0x0b, 0], Allowed::SUBSCRIBE), Err(Reason::PROTOCOL_ERROR), "[MQTT-3.3.4-6]");
        assert_eq!(check(&[0x23, 0, 0], Allowed::PUBLISH), Err(Reason::ALIAS_INVALID), "[MQTT-3.3.2-8]");
        assert_eq!(check(&[0x01, 2], Allowed::PUBLISH), Err(Reason::PROTOCOL_ERROR));
        assert_eq!(check(&[0x21, 0, 0], Allowed::CONNECT), Err(Reason::PROTOCOL_ERROR));
        assert_eq!(check(&[0x08, 0, 1, b'+'], Allowed::WILL), Err(Reason::PROTOCOL_ERROR), "[MQTT-3.3.2-14]");
        assert_eq!(check(&[0x26, 0, 9, b'k'], Allowed::WILL), Err(Reason::MALFORMED));
    }

    #[test]
    fn every_property_has_its_length() {
        let bytes = [
            &[0x01, 1][..],
            &[0x02, 0, 0, 0, 9],
            &[0x03, 0, 1, b't'],
            &[0x09, 0, 0],
            &[0x0b, 0xac, 0x02],
            &[0x11, 0, 0, 0, 1],
            &[0x13, 0, 1],
            &[0x1f, 0, 1, b'r'],
            &[0x24, 1],
            &[0x26, 0, 1, b'k', 0, 2, b'v', b'v'],
            &[0x2a, 1],
        ];
        let all = bytes.concat();
        let properties = Properties::trusted(&all);
        assert_eq!(properties.parts().map(|(_, part)| part).collect::<Vec<_>>(), bytes);
        assert!(properties.parts().map(|(id, _)| id).eq(properties.iter().map(|(id, _)| id)));
        // Whatever is cut off, it ends.
        for cut in 0..all.len() {
            assert!(Properties::trusted(&all[..cut]).parts().count() <= bytes.len());
        }
    }

    #[test]
    fn parts_are_the_bytes() {
        let bytes = [0x02, 0, 0, 0, 9, 0x26, 0, 1, b'k', 0, 1, b'v'];
        let parts: Vec<_> = Properties::trusted(&bytes).parts().collect();
        assert_eq!(parts, [(0x02, &bytes[..5]), (0x26, &bytes[5..])]);
    }
}
