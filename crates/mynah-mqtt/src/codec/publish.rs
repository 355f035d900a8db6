//! PUBLISH [MQTT 5.0 3.3]: the packet that everything else is for, decoded in place.

use bytes::{BufMut, BytesMut};

use mynah_core::Guarantee;
use mynah_core::limits::TOPIC_WORDS_MAX;

use super::primitive::{Reader, has_special, put_binary};
use super::property::{Allowed, Properties, id};
use super::{kind, packet_id, put_header};
use crate::reason::{Fault, Reason};
use crate::version::Version;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    pub dup: bool,
    pub guarantee: Guarantee,
    pub retain: bool,
    /// Empty only with a topic alias.
    pub topic: &'a str,
    /// 0 with QoS 0.
    pub id: u16,
    pub properties: Properties<'a>,
    pub payload: &'a [u8],
}

/// What the machine needs to know of a PUBLISH's properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// Seconds.
    pub expiry: Option<u32>,
    pub alias: Option<u16>,
    pub text: bool,
    /// It carries a subscription identifier, which only a server may send.
    pub identified: bool,
    /// There is something to pass on.
    pub content: bool,
}

impl<'a> Publish<'a> {
    /// # Errors
    /// Malformed or protocol error; 0x90 for a topic that is none.
    pub fn decode(first: u8, body: &'a [u8], version: Version) -> Result<Self, Fault> {
        Self::decode_after("", first, body, version)
    }

    /// As [`Publish::decode`]; if its topic is `seen`, which was found good before, that is what it gets, and it is not looked at again.
    ///
    /// # Errors
    /// As [`Publish::decode`].
    #[inline]
    pub fn decode_after(seen: &'a str, first: u8, body: &'a [u8], version: Version) -> Result<Self, Fault> {
        let guarantee = guarantee(first >> 1 & 3)?;
        let dup = first & 0x08 != 0;
        if dup && guarantee == Guarantee::AtMostOnce && version.checks_reserved_bits() {
            return Err(Fault::malformed("DUP is set with QoS 0 [MQTT-3.3.1-2]"));
        }
        let mut reader = Reader::new(body);
        let topic = read_topic(seen, &mut reader)?;
        let id = if guarantee == Guarantee::AtMostOnce { 0 } else { packet_id(&mut reader)? };
        let properties = if version.has_properties() {
            Properties::read(&mut reader, Allowed::PUBLISH)?
        } else {
            Properties::default()
        };
        if topic.is_empty() && !properties.parts().any(|(id, _)| id == id::TOPIC_ALIAS) {
            // [MQTT-4.7.3-1]; in 5.0 it is the missing alias that is the error [MQTT 5.0 3.3.2.1].
            return Err(Fault::protocol("the topic is empty and there is no topic alias"));
        }
        Ok(Self { dup, guarantee, retain: first & 1 != 0, topic, id, properties, payload: reader.rest() })
    }

    #[must_use]
    pub fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        for (id, part) in self.properties.parts() {
            match (id, part) {
                (id::MESSAGE_EXPIRY, [_, a, b, c, d]) => {
                    facts.expiry = Some(u32::from_be_bytes([*a, *b, *c, *d]))
                }
                (id::TOPIC_ALIAS, [_, high, low]) => facts.alias = Some(u16::from_be_bytes([*high, *low])),
                (id::SUBSCRIPTION_ID, _) => facts.identified = true,
                (id::PAYLOAD_FORMAT, [_, format]) => {
                    facts.text = *format == 1;
                    facts.content = true;
                }
                _ => facts.content = true,
            }
        }
        facts
    }

    pub fn encode(&self, version: Version, out: &mut BytesMut) {
        let properties = if version.has_properties() { self.properties.encoded_len() } else { 0 };
        let id = if self.guarantee == Guarantee::AtMostOnce { 0 } else { 2 };
        put_header(
            out,
            first_byte(self.guarantee, self.retain, self.dup),
            2 + self.topic.len() + id + properties + self.payload.len(),
        );
        put_binary(out, self.topic.as_bytes());
        if id > 0 {
            out.put_u16(self.id);
        }
        if version.has_properties() {
            self.properties.write(out);
        }
        out.put_slice(self.payload);
    }
}

/// The first byte of a PUBLISH.
#[must_use]
#[inline]
pub fn first_byte(guarantee: Guarantee, retain: bool, dup: bool) -> u8 {
    kind::PUBLISH << 4 | qos(guarantee) << 1 | u8::from(retain) | u8::from(dup) << 3
}

/// # Errors
/// QoS 3 does not exist [MQTT-3.3.1-4].
#[inline]
pub fn guarantee(qos: u8) -> Result<Guarantee, Fault> {
    match qos {
        0 => Ok(Guarantee::AtMostOnce),
        1 => Ok(Guarantee::AtLeastOnce),
        2 => Ok(Guarantee::ExactlyOnce),
        _ => Err(Fault::malformed("QoS 3 [MQTT-3.3.1-4]")),
    }
}

#[must_use]
#[inline]
pub fn qos(guarantee: Guarantee) -> u8 {
    match guarantee {
        Guarantee::AtMostOnce => 0,
        Guarantee::AtLeastOnce => 1,
        Guarantee::ExactlyOnce => 2,
    }
}

/// What a client may write before the name of another client; the only topic with a `#` [DESIGN 5].
pub(crate) const P2P_LITERAL: &str = "#P2P/";

/// Reads and checks the topic in one pass over its bytes.
#[inline]
fn read_topic<'a>(seen: &'a str, reader: &mut Reader<'a>) -> Result<&'a str, Fault> {
    let bytes = reader.binary()?;
    if bytes == seen.as_bytes() {
        return Ok(seen);
    }
    let Ok(topic) = std::str::from_utf8(bytes) else {
        return Err(Fault::malformed("the topic is not valid UTF-8 [MQTT-1.5.4-1]"));
    };
    check_topic(topic)?;
    Ok(topic)
}

/// # Errors
/// U+0000 is malformed [MQTT-1.5.4-2]; wildcards [MQTT-3.3.2-2] and too many levels are 0x90.
#[inline]
pub(crate) fn check_topic(topic: &str) -> Result<(), Fault> {
    let bad = has_special(topic.as_bytes());
    if bad || topic.len() > TOPIC_WORDS_MAX { check_strange_topic(topic) } else { Ok(()) }
}

#[cold]
fn check_strange_topic(topic: &str) -> Result<(), Fault> {
    if topic.contains('\0') {
        return Err(Fault::malformed("the topic contains U+0000 [MQTT-1.5.4-2]"));
    }
    if topic.strip_prefix(P2P_LITERAL).unwrap_or(topic).contains(['+', '#']) {
        return Err(Fault::new(Reason::TOPIC_INVALID, "the topic has a wildcard [MQTT-3.3.2-2]"));
    }
    if topic.bytes().filter(|&byte| byte == b'/').count() >= TOPIC_WORDS_MAX {
        return Err(Fault::new(Reason::TOPIC_INVALID, "the topic has more than 128 levels"));
    }
    Ok(())
}
