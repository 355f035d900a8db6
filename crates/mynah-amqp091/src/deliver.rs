//! Messages on their way to a client: method, content header and body frames, written straight to the wire.
//!
//! What came by 0-9-1 goes out with the bytes it came with. Only when the broker has something to add (a death, a failed
//! attempt) are the headers written anew, and then each of the sender's is copied as it stands, type and all.
//! Never: decodes a table to write it again.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use mynah_core::{Cause, Content, Death, Message, Properties, Value};

use crate::codec::field::{Table, put_entry};
use crate::codec::frame;
use crate::codec::method::Response;
use crate::codec::property::PropertyList;
use crate::codec::{clipped, len32};
use crate::translate::{FORMAT, carried, exchange_and_key, spelled};

/// The class of every content.
const BASIC: u16 = 60;

/// Headers that only the broker writes; what a client put there is not passed on beside them.
const OWN: [&str; 10] = [
    "x-death",
    "x-first-death-reason",
    "x-first-death-queue",
    "x-first-death-exchange",
    "x-last-death-reason",
    "x-last-death-queue",
    "x-last-death-exchange",
    "x-death-cause",
    "x-death-text",
    "x-delivery-count",
];

/// What `basic.deliver` says before the content.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) channel: u16,
    pub(crate) consumer: &'a str,
    pub(crate) tag: u64,
    pub(crate) redelivered: bool,
    pub(crate) exchange: &'a str,
    pub(crate) key: &'a str,
}

/// Writes a delivery: method, header and body.
pub(crate) fn put_delivery(
    wire: &mut BytesMut,
    frame_max: usize,
    head: &Head<'_>,
    message: &Message,
    attempts: u32,
) {
    let untouched = message.original(FORMAT).filter(|_| attempts == 0 && message.deaths.is_empty());
    let largest = |properties: &[u8]| (properties.len() + 12).max(message.body.len()) + frame::OVERHEAD;
    if let Some(properties) = untouched
        && largest(properties) <= frame_max
        && !message.body.is_empty()
    {
        put_in_three(wire, head, properties, &message.body);
        return;
    }
    let Head { channel, consumer, tag, redelivered, exchange, key } = *head;
    Response::BasicDeliver { consumer, tag, redelivered, exchange, key }.put(wire, channel);
    put_content(wire, channel, frame_max, message, attempts);
}

/// The usual delivery, three frames whose every length is known: few and large steps, as this is done for each message.
fn put_in_three(wire: &mut BytesMut, head: &Head<'_>, properties: &[u8], body: &[u8]) {
    let (consumer, exchange, key) = (clipped(head.consumer), clipped(head.exchange), clipped(head.key));
    let texts = consumer.len() + exchange.len() + key.len();
    wire.reserve(texts + properties.len() + body.len() + 64);
    let short = |text: &str| u8::try_from(text.len()).unwrap_or(u8::MAX);
    let [c1, c0] = head.channel.to_be_bytes();
    let [m3, m2, m1, m0] = len32(texts + 16).to_be_bytes();
    wire.put_slice(&[frame::METHOD, c1, c0, m3, m2, m1, m0, 0, 60, 0, 60, short(consumer)]);
    wire.put_slice(consumer.as_bytes());
    let [t7, t6, t5, t4, t3, t2, t1, t0] = head.tag.to_be_bytes();
    let redelivered = u8::from(head.redelivered);
    wire.put_slice(&[t7, t6, t5, t4, t3, t2, t1, t0, redelivered, short(exchange)]);
    wire.put_slice(exchange.as_bytes());
    wire.put_slice(&[short(key)]);
    wire.put_slice(key.as_bytes());
    let [h3, h2, h1, h0] = len32(properties.len() + 12).to_be_bytes();
    let [b3, b2, b1, b0] = len32(body.len()).to_be_bytes();
    wire.put_slice(&[
        frame::END,
        frame::HEADER,
        c1,
        c0,
        h3,
        h2,
        h1,
        h0,
        0,
        60,
        0,
        0,
        0,
        0,
        0,
        0,
        b3,
        b2,
        b1,
        b0,
    ]);
    wire.put_slice(properties);
    wire.put_slice(&[frame::END, frame::BODY, c1, c0, b3, b2, b1, b0]);
    wire.put_slice(body);
    wire.put_slice(&[frame::END]);
}

/// Writes the content of a message: its header frame and its body frames.
pub(crate) fn put_content(
    wire: &mut BytesMut,
    channel: u16,
    frame_max: usize,
    message: &Message,
    attempts: u32,
) {
    let start = wire.len();
    put_header(wire, channel, message.body.len(), |buf| put_properties(buf, message, attempts));
    // A header frame cannot be split [0-9-1 4.2.6.1]: what was translated may be too large for this client.
    if wire.len() - start > frame_max {
        wire.truncate(start);
        put_header(wire, channel, message.body.len(), |buf| {
            let mode = if message.header.durable() { 2 } else { 1 };
            PropertyList { delivery_mode: Some(mode), ..PropertyList::default() }.write(buf);
        });
    }
    frame::put_body(wire, channel, &message.body, frame_max);
}

fn put_header(wire: &mut BytesMut, channel: u16, body: usize, properties: impl FnOnce(&mut BytesMut)) {
    frame::put(wire, frame::HEADER, channel, |buf| {
        buf.put_u16(BASIC);
        buf.put_u16(0);
        buf.put_u64(body as u64);
        properties(buf);
    });
}

fn put_properties(buf: &mut BytesMut, message: &Message, attempts: u32) {
    let added = !message.deaths.is_empty() || attempts > 0;
    match (message.original(FORMAT), &message.content) {
        (Some(original), _) if !added => buf.put_slice(original),
        (Some(original), _) => put_original(buf, original, message, attempts),
        (None, Content::None) if !added => list_of_header(message, &expiration(message)).write(buf),
        (None, _) => put_translated(buf, message, attempts),
    }
}

/// The sender's own list with the broker's headers.
fn put_original(buf: &mut BytesMut, original: &[u8], message: &Message, attempts: u32) {
    let mut list = PropertyList::parse(original).unwrap_or_default();
    let mut headers = BytesMut::new();
    for entry in list.headers.unwrap_or_default().entries() {
        if !OWN.iter().any(|own| own.as_bytes() == entry.key) {
            headers.put_slice(entry.raw);
        }
    }
    put_own_headers(&mut headers, message, attempts);
    list.headers = Some(Table::trusted(&headers));
    if !message.deaths.is_empty() {
        // A dead letter does not expire again where it ends up; x-death tells what it had.
        list.expiration = None;
    }
    list.write(buf);
}

/// A message of another protocol.
fn put_translated(buf: &mut BytesMut, message: &Message, attempts: u32) {
    let properties = message.properties();
    let mut headers = BytesMut::new();
    put_headers(&mut headers, properties);
    put_own_headers(&mut headers, message, attempts);
    let expiration = expiration(message);
    let message_id = properties.message_id.as_ref().map(identifier);
    let correlation_id = properties.correlation_id.as_ref().map(identifier);
    let reply_to = properties.reply_to.as_ref().map(|to| spelled(to.as_ref()));
    let list = PropertyList {
        content_type: properties.content_type.as_deref().map(str::as_bytes),
        content_encoding: properties.content_encoding.as_deref().map(str::as_bytes),
        headers: (!headers.is_empty()).then_some(Table::trusted(&headers)),
        correlation_id: fitting(correlation_id.as_deref()),
        reply_to: fitting(reply_to.as_deref().map(str::as_bytes)),
        message_id: fitting(message_id.as_deref()),
        timestamp: properties.creation_ms.and_then(|ms| u64::try_from(ms).ok()).map(|ms| ms / 1000),
        kind: properties.kind.as_deref().map(str::as_bytes),
        user_id: fitting(properties.user_id.as_deref()),
        app_id: properties.app_id.as_deref().map(str::as_bytes),
        ..list_of_header(message, &expiration)
    };
    list.write(buf);
}

/// Identifiers and addresses are not cut: half of one is another one.
fn fitting(text: Option<&[u8]>) -> Option<&[u8]> {
    text.filter(|text| text.len() <= 255)
}

fn list_of_header<'a>(message: &Message, expiration: &'a Option<String>) -> PropertyList<'a> {
    PropertyList {
        delivery_mode: Some(if message.header.durable() { 2 } else { 1 }),
        priority: message.header.priority,
        expiration: expiration.as_deref().map(str::as_bytes),
        ..PropertyList::default()
    }
}

fn expiration(message: &Message) -> Option<String> {
    message.header.ttl_ms.map(|ms| ms.to_string())
}

/// Identifiers are short strings here, whatever they were.
fn identifier(id: &Value) -> Cow<'_, [u8]> {
    if let Value::Binary(bytes) = id {
        return Cow::Borrowed(bytes);
    }
    match id.as_str() {
        Some(text) => Cow::Borrowed(text.as_bytes()),
        None => Cow::Owned(id.to_text().into_bytes()),
    }
}

fn put_headers(buf: &mut BytesMut, properties: &Properties) {
    for (key, value) in &properties.application {
        put_entry(buf, key, value);
    }
    for (key, value) in &properties.annotations {
        if key.starts_with("x-") && !OWN.contains(&&**key) {
            put_entry(buf, key, value);
        }
    }
    for (key, text) in [
        (carried::TO, &properties.to),
        (carried::SUBJECT, &properties.subject),
        (carried::GROUP_ID, &properties.group_id),
        (carried::REPLY_TO_GROUP_ID, &properties.reply_to_group_id),
    ] {
        if let Some(text) = text {
            put_entry(buf, key, &Value::String(text.clone()));
        }
    }
    if let Some(number) = properties.group_sequence {
        put_entry(buf, carried::GROUP_SEQUENCE, &Value::I64(i64::from(number)));
    }
    if let Some(ms) = properties.absolute_expiry_ms {
        put_entry(buf, carried::ABSOLUTE_EXPIRY, &Value::I64(ms));
    }
}

fn put_own_headers(buf: &mut BytesMut, message: &Message, attempts: u32) {
    if attempts > 0 {
        put_entry(buf, "x-delivery-count", &Value::I64(i64::from(attempts)));
    }
    let (Some(last), Some(first)) = (message.deaths.first(), message.deaths.last()) else { return };
    put_entry(buf, "x-death", &Value::List(message.deaths.iter().map(death_table).collect()));
    for (which, death) in [("first", first), ("last", last)] {
        let (exchange, _) = exchange_and_key(&death.address);
        put_entry(buf, &format!("x-{which}-death-reason"), &Value::from(reason(death.cause)));
        put_entry(buf, &format!("x-{which}-death-queue"), &Value::from(&*death.queue));
        put_entry(buf, &format!("x-{which}-death-exchange"), &Value::from(exchange));
    }
    put_entry(buf, "x-death-cause", &Value::from(last.cause.name()));
    if let Some(text) = &last.reason {
        put_entry(buf, "x-death-text", &Value::String(text.clone()));
    }
}

/// One line of `x-death`, shaped as RabbitMQ's.
fn death_table(death: &Death) -> Value {
    let (exchange, key) = exchange_and_key(&death.address);
    let mut table = vec![
        (Value::from("count"), Value::I64(i64::from(death.count))),
        (Value::from("reason"), Value::from(reason(death.cause))),
        (Value::from("queue"), Value::from(&*death.queue)),
        (Value::from("time"), Value::Timestamp(death.time_ms)),
        (Value::from("exchange"), Value::from(exchange)),
        (Value::from("routing-keys"), Value::List(vec![Value::from(&*key)])),
    ];
    if let Some(ms) = death.original_ttl_ms {
        table.push((Value::from("original-expiration"), Value::from(ms.to_string())));
    }
    Value::Map(table)
}

/// RabbitMQ's word for a cause, if it has one.
fn reason(cause: Cause) -> &'static str {
    match cause {
        Cause::Rejected => "rejected",
        Cause::Expired => "expired",
        Cause::QueueLength => "maxlen",
        Cause::ReadCount => "delivery_limit",
        Cause::NoQueue | Cause::MessageLength => cause.name(),
    }
}
