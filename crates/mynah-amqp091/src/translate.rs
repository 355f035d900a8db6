//! Addresses and properties between 0-9-1 and the core (DESIGN sections 5 and 6).
//!
//! | exchange, key | address |
//! |---|---|
//! | `amq.topic`, `a.b` | topic `a/b` |
//! | `p2p`, `c` | client `c` |
//! | default, `/topics/a/b` `/exchanges/e/k` `/p2p/c` | topic, exchange, client: what a reply-to of another protocol looks like here |
//! | default, `amq.rabbitmq.reply-to.q` | the private queue `q` of a client that consumes `amq.rabbitmq.reply-to` |
//! | any other | that exchange; the default one leads to existing queues only |
//!
//! Headers whose names begin with `x-` are annotations; properties that 0-9-1 has no field for travel as such headers.
//! Never: changes the bytes of a property list that goes from 0-9-1 to 0-9-1, unless the broker has something to add.

use std::borrow::Cow;

use bytes::Bytes;
use mynah_core::limits::TOPIC_WORDS_MAX;
use mynah_core::words::{core_from_dotted, dotted_from_core};
use mynah_core::{Address, AddressRef, Format, Properties, Value};

use crate::codec::property::PropertyList;
use crate::reason::Fault;

/// Property flags and property list, as received and validated.
pub const FORMAT: Format = Format("amqp091");

/// The exchange that stands for all topics.
pub(crate) const TOPIC_EXCHANGE: &str = "amq.topic";

/// The exchange whose keys are client identifiers.
pub(crate) const CLIENT_EXCHANGE: &str = "p2p";

/// The name under which a client asks for replies without declaring a queue, and what the names of such queues begin with.
pub(crate) const REPLY_TO: &str = "amq.rabbitmq.reply-to";

const TOPICS: &str = "/topics/";
const EXCHANGES: &str = "/exchanges/";
const CLIENTS: &str = "/p2p/";

/// A topic key's core form, written to `topic` (whose room is used again).
pub(crate) fn topic_of_key(key: &str, topic: &mut String) -> Result<(), Fault> {
    topic.clear();
    if key.contains('\0') {
        return Err(Fault::precondition("a topic must not contain NUL"));
    }
    if key.contains(['/', '%']) {
        topic.push_str(&core_from_dotted(key));
    } else {
        topic.extend(key.chars().map(|letter| if letter == '.' { '/' } else { letter }));
    }
    check_topic(topic)
}

fn check_topic(topic: &str) -> Result<(), Fault> {
    if topic.bytes().filter(|byte| *byte == b'/').count() >= TOPIC_WORDS_MAX {
        return Err(Fault::precondition(format!("a topic has at most {TOPIC_WORDS_MAX} words")));
    }
    Ok(())
}

/// The address that a key of the default exchange names when it is no queue's: see the table above.
pub(crate) fn spelled_address(key: &str) -> Option<Address> {
    if !key.starts_with('/') || key.contains('\0') {
        return None;
    }
    if let Some(topic) = key.strip_prefix(TOPICS) {
        return check_topic(topic).is_ok().then(|| Address::Topic(topic.into()));
    }
    if let Some(id) = key.strip_prefix(CLIENTS) {
        return Some(Address::Client(id.into()));
    }
    let (name, key) = key.strip_prefix(EXCHANGES)?.split_once('/')?;
    Some(Address::Exchange { name: name.replace("%2F", "/").replace("%25", "%").into(), key: key.into() })
}

/// The queue that a key of the default exchange names: a reply queue is known to clients behind a prefix.
pub(crate) fn queue_of_key(key: &str) -> &str {
    key.strip_prefix(REPLY_TO).and_then(|rest| rest.strip_prefix('.')).unwrap_or(key)
}

/// The text by which a client answers to an address through the default exchange.
pub(crate) fn spelled(address: AddressRef<'_>) -> Cow<'_, str> {
    match address {
        AddressRef::Queue(name) | AddressRef::Exchange { name: "", key: name } => Cow::Borrowed(name),
        AddressRef::Topic(topic) => Cow::Owned(format!("{TOPICS}{topic}")),
        AddressRef::Client(id) => Cow::Owned(format!("{CLIENTS}{id}")),
        AddressRef::Exchange { name, key } => {
            let name = name.replace('%', "%25").replace('/', "%2F");
            Cow::Owned(format!("{EXCHANGES}{name}/{key}"))
        }
    }
}

/// Exchange and routing key as a receiver sees an address.
pub(crate) fn exchange_and_key(address: &Address) -> (&str, Cow<'_, str>) {
    match address {
        Address::Topic(topic) => (TOPIC_EXCHANGE, dotted_from_core(topic)),
        Address::Queue(name) => ("", Cow::Borrowed(name)),
        Address::Exchange { name, key } => (name, Cow::Borrowed(key)),
        Address::Client(id) => (CLIENT_EXCHANGE, Cow::Borrowed(id)),
    }
}

/// Headers that carry what 0-9-1 has no property for.
pub(crate) mod carried {
    pub(crate) const TO: &str = "x-to";
    pub(crate) const SUBJECT: &str = "x-subject";
    pub(crate) const GROUP_ID: &str = "x-group-id";
    pub(crate) const GROUP_SEQUENCE: &str = "x-group-sequence";
    pub(crate) const REPLY_TO_GROUP_ID: &str = "x-reply-to-group-id";
    pub(crate) const ABSOLUTE_EXPIRY: &str = "x-absolute-expiry-time";
}

/// Properties of a validated list, for receivers of other protocols.
pub(crate) fn decode(bytes: &[u8]) -> Properties {
    let Ok(list) = PropertyList::parse(bytes) else { return Properties::default() };
    let mut properties = Properties {
        message_id: list.message_id.map(identifier),
        user_id: list.user_id.map(Bytes::copy_from_slice),
        reply_to: list.reply_to.and_then(reply_to),
        correlation_id: list.correlation_id.map(identifier),
        content_type: list.content_type.and_then(text),
        content_encoding: list.content_encoding.and_then(text),
        creation_ms: list.timestamp.map(|s| i64::try_from(s).unwrap_or(i64::MAX).saturating_mul(1000)),
        kind: list.kind.and_then(text),
        app_id: list.app_id.and_then(text),
        ..Properties::default()
    };
    for entry in list.headers.unwrap_or_default().entries() {
        let Ok(key) = std::str::from_utf8(entry.key) else { continue };
        add_header(&mut properties, key, entry.value());
    }
    properties
}

fn add_header(properties: &mut Properties, key: &str, value: Value) {
    let text = || Some(value.to_text().into_boxed_str());
    match key {
        carried::TO => properties.to = text(),
        carried::SUBJECT => properties.subject = text(),
        carried::GROUP_ID => properties.group_id = text(),
        carried::GROUP_SEQUENCE => {
            properties.group_sequence = value.as_u64().and_then(|n| u32::try_from(n).ok());
        }
        carried::REPLY_TO_GROUP_ID => properties.reply_to_group_id = text(),
        carried::ABSOLUTE_EXPIRY => properties.absolute_expiry_ms = value.as_i64(),
        _ if key.starts_with("x-") => properties.annotations.push((key.into(), value)),
        _ => properties.application.push((key.into(), value)),
    }
}

fn text(bytes: &[u8]) -> Option<Box<str>> {
    std::str::from_utf8(bytes).ok().map(Into::into)
}

fn identifier(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::String(text.into()),
        Err(_) => Value::Binary(Bytes::copy_from_slice(bytes)),
    }
}

fn reply_to(bytes: &[u8]) -> Option<Address> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| !text.is_empty())?;
    Some(spelled_address(text).unwrap_or_else(|| Address::Queue(queue_of_key(text).into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_to_can_be_published_to() {
        let check = |address: AddressRef<'_>, expected: &str| {
            let text = spelled(address);
            assert_eq!(text, expected);
            let back = reply_to(text.as_bytes()).unwrap();
            assert_eq!(back.as_ref(), address);
        };
        check(AddressRef::Queue("q"), "q");
        check(AddressRef::Topic("room.2/t"), "/topics/room.2/t");
        check(AddressRef::Exchange { name: "e/1%", key: "k/2" }, "/exchanges/e%2F1%25/k/2");
        check(AddressRef::Client("c"), "/p2p/c");
        assert_eq!(reply_to(b"amq.rabbitmq.reply-to.q"), Some(Address::Queue("q".into())));
        assert_eq!(spelled_address("/other/x"), None);
        assert_eq!(spelled_address("topics/x"), None);
    }

    #[test]
    fn keys_are_topics_with_dots() {
        let mut topic = String::new();
        let mut check = |key: &str, expected: &str| {
            topic_of_key(key, &mut topic).unwrap();
            assert_eq!(topic, expected);
            assert_eq!(dotted_from_core(&topic), key);
        };
        check("a.b", "a/b");
        check("room%2E2.t", "room.2/t");
        check("a/b", "a%2Fb");
        check("", "");
        assert!(topic_of_key("a\0b", &mut topic).is_err());
        assert!(topic_of_key(&".".repeat(200), &mut topic).is_err());
    }

    #[test]
    fn properties_of_every_kind() {
        let mut headers = bytes::BytesMut::new();
        crate::codec::field::put_entry(&mut headers, "a", &Value::I32(1));
        crate::codec::field::put_entry(&mut headers, "x-b", &Value::I32(2));
        crate::codec::field::put_entry(&mut headers, "x-subject", &Value::from("s"));
        let list = PropertyList {
            content_type: Some(b"text/plain"),
            headers: Some(crate::codec::field::Table::new(&headers).unwrap()),
            correlation_id: Some(b"\xff"),
            reply_to: Some(b"/topics/a/b"),
            message_id: Some(b"m"),
            timestamp: Some(7),
            kind: Some(b"k"),
            user_id: Some(b"u"),
            app_id: Some(b"app"),
            ..PropertyList::default()
        };
        let mut bytes = bytes::BytesMut::new();
        list.write(&mut bytes);
        let expected = Properties {
            content_type: Some("text/plain".into()),
            correlation_id: Some(Value::Binary(Bytes::from_static(b"\xff"))),
            reply_to: Some(Address::Topic("a/b".into())),
            message_id: Some(Value::from("m")),
            creation_ms: Some(7000),
            kind: Some("k".into()),
            user_id: Some(Bytes::from_static(b"u")),
            app_id: Some("app".into()),
            subject: Some("s".into()),
            application: vec![("a".into(), Value::I32(1))],
            annotations: vec![("x-b".into(), Value::I32(2))],
            ..Properties::default()
        };
        assert_eq!(decode(&bytes), expected);
    }
}
