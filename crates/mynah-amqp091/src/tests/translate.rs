use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use mynah_core::{
    Address, AddressRef, Cause, ContentRef, Death, Guarantee, Header, Message, Properties, PublishRef, Value,
};

use super::message;
use crate::codec::field::{Table, put_entry};
use crate::codec::frame;
use crate::codec::method::Response;
use crate::codec::property::PropertyList;
use crate::deliver::{Head, put_content, put_delivery};

/// The property list a client gets, in its own bytes.
fn written(message: &Message, attempts: u32) -> Bytes {
    let mut wire = BytesMut::new();
    put_content(&mut wire, 1, 131_072, message, attempts);
    let frame = frame::parse(&wire, usize::MAX).unwrap().unwrap();
    Bytes::copy_from_slice(frame.payload.get(12..).unwrap())
}

fn headers(list: &PropertyList<'_>) -> Vec<(String, Value)> {
    list.headers.unwrap().to_arguments().into_iter().map(|(key, value)| (key.into(), value)).collect()
}

fn find(list: &PropertyList<'_>, name: &str) -> Option<Value> {
    list.headers.unwrap().get(name)
}

fn dead(message: &Message, cause: Cause, address: Address) -> Message {
    let death = Death {
        cause,
        queue: "work".into(),
        address,
        time_ms: 5000,
        count: 2,
        reason: Some("because".into()),
        original_ttl_ms: Some(100),
    };
    message.dead_lettered(death, Instant::now())
}

#[test]
fn what_came_by_0_9_1_is_untouched() {
    let mut table = BytesMut::new();
    put_entry(&mut table, "n", &Value::I16(5));
    let list = PropertyList {
        headers: Some(Table::new(&table).unwrap()),
        expiration: Some(b"100"),
        cluster_id: Some(b"old"),
        ..PropertyList::default()
    };
    let mut bytes = BytesMut::new();
    list.write(&mut bytes);
    let message = message(AddressRef::Queue("q"), &bytes, b"x");
    assert_eq!(written(&message, 0), bytes);
}

#[test]
fn a_failed_attempt_is_counted_in_a_header() {
    let mut table = BytesMut::new();
    put_entry(&mut table, "n", &Value::I16(5));
    put_entry(&mut table, "x-delivery-count", &Value::I32(99));
    let list = PropertyList { headers: Some(Table::new(&table).unwrap()), ..PropertyList::default() };
    let mut bytes = BytesMut::new();
    list.write(&mut bytes);
    let message = message(AddressRef::Queue("q"), &bytes, b"x");
    let written = written(&message, 2);
    let expected = [("n".into(), Value::I16(5)), ("x-delivery-count".into(), Value::I64(2))];
    assert_eq!(headers(&PropertyList::parse(&written).unwrap()), expected);
}

#[test]
fn a_dead_letter_tells_its_history() {
    let list = PropertyList { expiration: Some(b"100"), delivery_mode: Some(2), ..PropertyList::default() };
    let mut bytes = BytesMut::new();
    list.write(&mut bytes);
    let message = message(AddressRef::Queue("work"), &bytes, b"x");
    let first = dead(&message, Cause::Expired, Address::Exchange { name: "e".into(), key: "k".into() });
    let message = dead(&first, Cause::Rejected, Address::Topic("a/b".into()));
    let written = written(&message, 0);
    let list = PropertyList::parse(&written).unwrap();
    assert_eq!((list.expiration, list.delivery_mode), (None, Some(2)));
    let Some(Value::List(deaths)) = find(&list, "x-death") else { panic!("no x-death") };
    assert_eq!(deaths.len(), 2);
    let Value::Map(newest) = &deaths[0] else { panic!("no table") };
    let expected = [
        ("count", Value::I64(2)),
        ("reason", Value::from("rejected")),
        ("queue", Value::from("work")),
        ("time", Value::Timestamp(5000)),
        ("exchange", Value::from("amq.topic")),
        ("routing-keys", Value::List(vec![Value::from("a.b")])),
        ("original-expiration", Value::from("100")),
    ];
    assert_eq!(*newest, expected.map(|(key, value)| (Value::from(key), value)));
    for (name, value) in [
        ("x-first-death-reason", "expired"),
        ("x-first-death-exchange", "e"),
        ("x-last-death-reason", "rejected"),
        ("x-death-cause", "rejected"),
        ("x-death-text", "because"),
    ] {
        assert_eq!(find(&list, name), Some(Value::from(value)), "{name}");
    }
}

#[test]
fn reasons_are_rabbitmqs_words() {
    let check = |cause, expected: &str| {
        let message = message(AddressRef::Queue("q"), &[0, 0], b"");
        let written = written(&dead(&message, cause, Address::Queue("q".into())), 0);
        let list = PropertyList::parse(&written).unwrap();
        assert_eq!(find(&list, "x-first-death-reason"), Some(Value::from(expected)));
        assert_eq!(find(&list, "x-death-cause"), Some(Value::from(cause.name())));
    };
    check(Cause::Rejected, "rejected");
    check(Cause::Expired, "expired");
    check(Cause::QueueLength, "maxlen");
    check(Cause::ReadCount, "delivery_limit");
    check(Cause::MessageLength, "message-length");
    check(Cause::NoQueue, "no-queue");
}

fn translated(properties: &Properties, header: Header) -> Arc<Message> {
    let content = ContentRef::Decoded(properties);
    let publish = PublishRef { content, header, ..PublishRef::new(AddressRef::Queue("q"), b"x") };
    Arc::new(Message::from_publish(&publish, Instant::now()))
}

#[test]
fn what_came_by_another_protocol_is_translated() {
    let properties = Properties {
        message_id: Some(Value::U64(7)),
        correlation_id: Some(Value::Binary(Bytes::from_static(b"\xff"))),
        reply_to: Some(Address::Topic("a/b".into())),
        content_type: Some("text/plain".into()),
        content_encoding: Some("gzip".into()),
        creation_ms: Some(7999),
        kind: Some("k".into()),
        app_id: Some("app".into()),
        user_id: Some(Bytes::from_static(b"u")),
        subject: Some("s".into()),
        group_sequence: Some(3),
        application: vec![("a".into(), Value::U16(1)), ("a".into(), Value::Null)],
        annotations: vec![("x-note".into(), Value::Bool(true)), ("private".into(), Value::Null)],
        ..Properties::default()
    };
    let header = Header {
        guarantee: Guarantee::AtLeastOnce,
        priority: Some(4),
        ttl_ms: Some(1500),
        ..Header::default()
    };
    let written = written(&translated(&properties, header), 0);
    let list = PropertyList::parse(&written).unwrap();
    let expected = PropertyList {
        content_type: Some(b"text/plain"),
        content_encoding: Some(b"gzip"),
        headers: list.headers,
        delivery_mode: Some(2),
        priority: Some(4),
        correlation_id: Some(b"\xff"),
        reply_to: Some(b"/topics/a/b"),
        expiration: Some(b"1500"),
        message_id: Some(b"7"),
        timestamp: Some(7),
        kind: Some(b"k"),
        user_id: Some(b"u"),
        app_id: Some(b"app"),
        cluster_id: None,
    };
    assert_eq!(list, expected);
    let expected = [
        ("a", Value::U16(1)),
        ("a", Value::Null),
        ("x-note", Value::Bool(true)),
        ("x-subject", Value::from("s")),
        ("x-group-sequence", Value::I64(3)),
    ];
    assert_eq!(headers(&list), expected.map(|(key, value)| (key.to_owned(), value)));
}

#[test]
fn a_bare_message_has_a_delivery_mode_only() {
    let publish = PublishRef::new(AddressRef::Queue("q"), b"x");
    let message = Message::from_publish(&publish, Instant::now());
    assert_eq!(&written(&message, 0)[..], [0x10, 0, 1]);
}

#[test]
fn headers_that_do_not_fit_a_frame_are_left_out() {
    // A header frame cannot be split.
    let properties = Properties {
        application: vec![("a".into(), Value::from("x".repeat(5000)))],
        ..Properties::default()
    };
    let message = translated(&properties, Header::default());
    let mut wire = BytesMut::new();
    put_content(&mut wire, 1, 4096, &message, 0);
    let frame = frame::parse(&wire, 4096).unwrap().unwrap();
    assert_eq!(frame.payload.get(12..).unwrap(), [0x10, 0, 1]);
}

#[test]
fn the_short_way_writes_what_the_long_way_does() {
    let check = |body: &[u8], consumer: &str, key: &str| {
        let message = message(AddressRef::Queue("q"), &[0x10, 0, 2], body);
        let head = Head { channel: 300, consumer, tag: 1 << 40, redelivered: true, exchange: "e", key };
        let mut short = BytesMut::new();
        put_delivery(&mut short, 4096, &head, &message, 0);
        let mut long = BytesMut::new();
        let method = Response::BasicDeliver { consumer, tag: 1 << 40, redelivered: true, exchange: "e", key };
        method.put(&mut long, 300);
        put_content(&mut long, 300, 4096, &message, 0);
        assert_eq!(short, long);
    };
    check(b"x", "c", "k");
    check(b"", "", "");
    check(&[7; 4088], "c", &"k".repeat(300));
    check(&[7; 4089], &"c".repeat(255), "k");
}
