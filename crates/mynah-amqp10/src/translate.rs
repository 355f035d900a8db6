//! Between the canonical message and AMQP 1.0 sections (part 3.2).
//!
//! What came by AMQP 1.0 goes out as it came: only the header is written anew, and the broker's own annotations are
//! added in front. What came by another protocol is built from its canonical properties.
//!
//! Never: changes a byte of a bare message [AMQP 3.2].

use std::collections::HashSet;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use mynah_core::{Address, AddressRef, Death, Delivery, Format, Message, Properties, Value};

use crate::address::{self, Hint, Node};
use crate::codec::reader::{Fields, Reader};
use crate::codec::section::{
    self, AMQP_VALUE, APPLICATION_PROPERTIES, Body, DATA, HEADER, MESSAGE_ANNOTATIONS, PROPERTIES, Sections,
};
use crate::codec::value::{put_value, read_value};
use crate::codec::writer::{
    composite, compound, len32, put_binary, put_bool, put_string, put_symbol, put_timestamp, put_uint,
    put_ulong,
};

/// The layout of what is kept: message annotations, properties, application properties, body and footer, as received.
pub(crate) const FORMAT: Format = Format("amqp10");

/// What a body is called that is not plain bytes; RabbitMQ's name for it.
const ENCODED_BODY: &str = "message/vnd.rabbitmq.amqp";

/// Properties of the kept layout, for receivers of other protocols. Unreadable parts are left out.
pub(crate) fn decode(kept: &[u8]) -> Properties {
    let Ok(sections) = section::scan(kept) else { return Properties::default() };
    let mut properties = Properties::default();
    let mut reply_to_topic = false;
    for (key, value) in entries(sections.annotations) {
        let Some(key) = key.as_str() else { continue };
        match key {
            "x-basic-type" => properties.kind = text(&value),
            "x-basic-app-id" => properties.app_id = text(&value),
            _ => {
                // A JMS client says what kind of node a bare name is: 1 and 3 are topics.
                reply_to_topic |= key == "x-opt-jms-reply-to" && matches!(value.as_i64(), Some(1 | 3));
                properties.annotations.push((key.into(), value));
            }
        }
    }
    let hint = if reply_to_topic { Hint::Topic } else { Hint::None };
    decode_properties(&sections, hint, &mut properties);
    for (key, value) in entries(sections.application) {
        if let Value::String(key) | Value::Symbol(key) = key {
            properties.application.push((key, value));
        }
    }
    if properties.content_type.is_none() && matches!(sections.body, Body::Encoded(_)) {
        properties.content_type = Some(ENCODED_BODY.into());
    }
    properties
}

fn decode_properties(sections: &Sections<'_>, hint: Hint, into: &mut Properties) {
    let Some(mut fields) = sections.properties.and_then(|raw| Reader::new(raw).list().ok()) else { return };
    let mut next = || fields.raw().ok().flatten().and_then(|raw| read_value(raw).ok());
    into.message_id = next();
    into.user_id = next().and_then(|value| {
        if let Value::Binary(bytes) = value {
            return Some(bytes);
        }
        value.as_str().map(|text| Bytes::copy_from_slice(text.as_bytes()))
    });
    let mut string = || next().as_ref().and_then(text);
    into.to = string();
    into.subject = string();
    into.reply_to = string().and_then(|text| Node::parse(&text, hint).ok()?.address("").ok());
    into.correlation_id = next();
    let mut string = || next().as_ref().and_then(text);
    into.content_type = string();
    into.content_encoding = string();
    into.absolute_expiry_ms = next().and_then(|value| value.as_i64());
    into.creation_ms = next().and_then(|value| value.as_i64());
    into.group_id = next().as_ref().and_then(text);
    into.group_sequence = next().and_then(|value| u32::try_from(value.as_u64()?).ok());
    into.reply_to_group_id = next().as_ref().and_then(text);
}

fn text(value: &Value) -> Option<Box<str>> {
    value.as_str().map(Into::into)
}

/// The entries of an encoded map that can be read.
fn entries(raw: Option<&[u8]>) -> Vec<(Value, Value)> {
    let mut entries = Vec::new();
    let Some(mut fields) = raw.and_then(|raw| Reader::new(raw).map().ok()) else { return entries };
    while fields.left() > 1 {
        let Some((key, value)) = next_entry(&mut fields) else { break };
        let value = value.map_or(Ok(Value::Null), read_value);
        if let (Some(Ok(key)), Ok(value)) = (key.map(read_value), value) {
            entries.push((key, value));
        }
    }
    entries
}

type RawEntry<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// One entry, encoded; `None` if the map is broken here.
fn next_entry<'a>(fields: &mut Fields<'a>) -> Option<RawEntry<'a>> {
    Some((fields.raw().ok()?, fields.raw().ok()?))
}

/// `to` of the properties and, for exchanges, the subject: all that routing may need of a message.
pub(crate) fn to_and_subject<'a>(sections: &Sections<'a>) -> (Option<&'a str>, Option<&'a str>) {
    let Some(mut fields) = sections.properties.and_then(|raw| Reader::new(raw).list().ok()) else {
        return (None, None);
    };
    let mut third = || {
        let _message_id = fields.raw().ok()?;
        let _user_id = fields.raw().ok()?;
        fields.string().ok()?
    };
    let to = third();
    (to, fields.string().ok().flatten())
}

/// Whether receivers of this link must be told where a message was sent: those that may get it from several places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TellAddress {
    Yes,
    No,
}

/// Writes everything of a delivery's payload that is not shared into `head`, and answers the rest, which is.
pub(crate) fn write_payload<'m>(
    head: &mut BytesMut,
    delivery: &'m Delivery,
    tell: TellAddress,
    now: Instant,
) -> &'m [u8] {
    write_header(head, delivery, now);
    let message = &*delivery.message;
    let own = own_annotations(message, tell);
    if let Some(original) = message.original(FORMAT) {
        if own.is_empty() {
            return original;
        }
        let Ok(sections) = section::scan(original) else { return original };
        write_annotations(head, sections.annotations, &own);
        return sections.bare;
    }
    write_built(head, message, own)
}

fn write_header(head: &mut BytesMut, delivery: &Delivery, now: Instant) {
    let message = &delivery.message;
    head.reserve(24);
    head.put_slice(&[0x00, 0x53, HEADER, 0xc0, 0, 5]);
    let at = head.len();
    put_bool(head, message.header.durable());
    match message.header.priority {
        Some(priority) => head.put_slice(&[0x50, priority]),
        None => head.put_u8(0x40),
    }
    match message.ttl_left_ms(now) {
        Some(ms) => put_uint(head, u32::try_from(ms).unwrap_or(u32::MAX)),
        None => head.put_u8(0x40),
    }
    put_bool(head, !delivery.redelivered);
    put_uint(head, delivery.attempts);
    let len = head.len() - at + 1;
    if let (Some(slot), Ok(len)) = (head.get_mut(at - 2), u8::try_from(len)) {
        *slot = len;
    }
}

type Annotations = Vec<(&'static str, Value)>;

/// What the broker itself has to say about a message.
fn own_annotations(message: &Message, tell: TellAddress) -> Annotations {
    let mut own = Vec::new();
    if let AddressRef::Exchange { name, key } = message.address.as_ref() {
        own.push(("x-exchange", Value::from(name)));
        own.push(("x-routing-key", Value::from(key)));
    }
    if tell == TellAddress::Yes {
        own.push(("x-opt-address", Value::from(address::text_of(message.address.as_ref()))));
    }
    if let Some(last) = message.deaths.first() {
        own.push(("x-death-cause", Value::from(last.cause.name())));
        own.push(("x-death-queue", Value::from(&*last.queue)));
        own.push(("x-death-count", Value::U32(last.count)));
        own.push(("x-death-time", Value::Timestamp(last.time_ms)));
        own.push(("x-death-address", Value::from(address::text_of(last.address.as_ref()))));
        if let Some(reason) = &last.reason {
            own.push(("x-death-reason", Value::from(&**reason)));
        }
        own.push(("x-opt-deaths", Value::List(message.deaths.iter().map(death).collect())));
    }
    own
}

fn death(death: &Death) -> Value {
    let symbol = |name: &str| Value::Symbol(name.into());
    let mut entries = vec![
        (symbol("queue"), Value::from(&*death.queue)),
        (symbol("reason"), Value::from(death.cause.name())),
        (symbol("count"), Value::U64(u64::from(death.count))),
        (symbol("first-time"), Value::Timestamp(death.time_ms)),
        (symbol("address"), Value::from(address::text_of(death.address.as_ref()))),
    ];
    if let Address::Exchange { name, key } = &death.address {
        entries.push((symbol("exchange"), Value::from(&**name)));
        entries.push((symbol("routing-keys"), Value::Array(vec![Value::from(&**key)])));
    }
    if let Some(ttl) = death.original_ttl_ms {
        entries.push((symbol("ttl"), Value::U64(ttl)));
    }
    if let Some(said) = &death.reason {
        entries.push((symbol("description"), Value::from(&**said)));
    }
    Value::Map(entries)
}

/// Message annotations: those that came (encoded, untouched) and the broker's own, which win over forged ones.
fn write_annotations(head: &mut BytesMut, came: Option<&[u8]>, own: &Annotations) {
    head.put_slice(&[0x00, 0x53, MESSAGE_ANNOTATIONS]);
    compound(head, 0xd1, |buf| {
        let mut count = 0;
        if let Some(mut fields) = came.and_then(|raw| Reader::new(raw).map().ok()) {
            while fields.left() > 1 {
                let Some((key, value)) = next_entry(&mut fields) else { break };
                let Some(key) = key else { continue };
                let name = Reader::new(key).text_or_binary().map(|(_, name)| name).unwrap_or_default();
                if own.iter().any(|(own, _)| own.as_bytes() == name) {
                    continue;
                }
                buf.put_slice(key);
                buf.put_slice(value.unwrap_or(&[0x40]));
                count += 2;
            }
        }
        for (key, value) in own {
            put_symbol(buf, key);
            put_value(buf, value);
            count += 2;
        }
        count
    });
}

/// A message of another protocol. The head ends with the constructor of the body, which is the answer.
fn write_built<'m>(head: &mut BytesMut, message: &'m Message, own: Annotations) -> &'m [u8] {
    let properties = message.properties();
    write_built_annotations(head, properties, own);
    write_properties(head, properties);
    write_application(head, properties);
    let body = &*message.body;
    let text = message.header.text && std::str::from_utf8(body).is_ok();
    let (section, small) = if text { (AMQP_VALUE, 0xa1) } else { (DATA, 0xa0) };
    head.put_slice(&[0x00, 0x53, section]);
    match u8::try_from(body.len()) {
        Ok(len) => head.put_slice(&[small, len]),
        Err(_) => {
            head.put_u8(small + 0x10);
            head.put_u32(len32(body.len()));
        }
    }
    body
}

/// Application properties hold simple types only [AMQP 3.2.5].
fn is_simple(value: &Value) -> bool {
    !matches!(value, Value::List(_) | Value::Map(_) | Value::Array(_) | Value::Described(_))
}

fn write_built_annotations(head: &mut BytesMut, properties: &Properties, own: Annotations) {
    let nested = properties.application.iter().filter(|(_, value)| !is_simple(value));
    let names = [("x-basic-type", &properties.kind), ("x-basic-app-id", &properties.app_id)];
    let named = names.into_iter().filter_map(|(key, text)| Some((key, Value::from(text.as_deref()?))));
    let mut entries: Vec<(String, &Value)> = Vec::new();
    let own: Annotations = own.into_iter().chain(named).collect();
    entries.extend(own.iter().map(|(key, value)| ((*key).to_owned(), value)));
    entries.extend(properties.annotations.iter().map(|(key, value)| (key.to_string(), value)));
    // A nested value finds no place among the application properties; an annotation may be of any type.
    entries.extend(nested.map(|(key, value)| {
        (if key.starts_with("x-") { key.to_string() } else { format!("x-opt-{key}") }, value)
    }));
    if entries.is_empty() {
        return;
    }
    head.put_slice(&[0x00, 0x53, MESSAGE_ANNOTATIONS]);
    compound(head, 0xd1, |buf| {
        let mut seen = HashSet::new();
        for (key, value) in &entries {
            // A map has each key once [AMQP 1.6.23], and annotation keys are symbols.
            if key.is_ascii() && seen.insert(key.as_str()) {
                put_symbol(buf, key);
                put_value(buf, value);
            }
        }
        len32(seen.len() * 2)
    });
}

fn write_application(head: &mut BytesMut, properties: &Properties) {
    if !properties.application.iter().any(|(_, value)| is_simple(value)) {
        return;
    }
    head.put_slice(&[0x00, 0x53, APPLICATION_PROPERTIES]);
    compound(head, 0xd1, |buf| {
        let mut seen = HashSet::new();
        for (key, value) in properties.application.iter().filter(|(_, value)| is_simple(value)) {
            // The first of several of one name counts, as in STOMP.
            if seen.insert(&**key) {
                put_string(buf, key);
                put_value(buf, value);
            }
        }
        len32(seen.len() * 2)
    });
}

/// The properties section, if there is anything to say.
fn write_properties(head: &mut BytesMut, p: &Properties) {
    let any = p.message_id.is_some()
        || p.user_id.is_some()
        || p.reply_to.is_some()
        || p.correlation_id.is_some()
        || p.absolute_expiry_ms.is_some()
        || p.creation_ms.is_some()
        || p.group_sequence.is_some()
        || [&p.to, &p.subject, &p.content_type, &p.content_encoding, &p.group_id, &p.reply_to_group_id]
            .into_iter()
            .any(Option::is_some);
    if !any {
        return;
    }
    composite(head, PROPERTIES, |list| {
        list.field(p.message_id.as_ref(), put_id);
        list.field(p.user_id.as_deref(), put_binary);
        list.string(p.to.as_deref());
        list.string(p.subject.as_deref());
        list.field(p.reply_to.as_ref(), |buf, to| put_string(buf, &address::text_of(to.as_ref())));
        list.field(p.correlation_id.as_ref(), put_id);
        list.symbol(p.content_type.as_deref());
        list.symbol(p.content_encoding.as_deref());
        list.field(p.absolute_expiry_ms, put_timestamp);
        list.field(p.creation_ms, put_timestamp);
        list.string(p.group_id.as_deref());
        list.uint(p.group_sequence);
        list.string(p.reply_to_group_id.as_deref());
    });
}

/// Identifiers are ulong, uuid, binary or string [AMQP 3.2.11-14]; a number becomes a ulong, anything else its text.
fn put_id(buf: &mut BytesMut, id: &Value) {
    if matches!(id, Value::Uuid(_) | Value::Binary(_) | Value::String(_)) {
        put_value(buf, id);
    } else if let (Value::U8(_) | Value::U16(_) | Value::U32(_) | Value::U64(_), Some(n)) = (id, id.as_u64())
    {
        put_ulong(buf, n);
    } else {
        put_string(buf, &id.to_text());
    }
}
