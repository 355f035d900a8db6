//! Messages between AMQP 1.0 and the canonical form.

use bytes::{Bytes, BytesMut};
use fe2o3_amqp_types::messaging::message::__private::Deserializable;
use fe2o3_amqp_types::messaging::{Body, Message as Theirs};
use mynah_core::{Address, Cause, ContentRef, Death, Guarantee, Header, Properties, Value};
use serde_amqp::Value as TheirValue;

use super::*;
use crate::codec::section;
use crate::translate::{FORMAT, TellAddress, decode, write_payload};

fn payload(delivery: &Delivery, tell: TellAddress) -> Vec<u8> {
    let mut head = BytesMut::new();
    let tail = write_payload(&mut head, delivery, tell, delivery.message.received);
    [&head[..], tail].concat()
}

fn read(bytes: &[u8]) -> Theirs<Body<TheirValue>> {
    serde_amqp::from_slice::<Deserializable<Theirs<Body<TheirValue>>>>(bytes).unwrap().0
}

/// As the connection publishes it.
fn received(message: &[u8]) -> Delivery {
    let sections = section::scan(message).unwrap();
    let section::Body::Bytes { bytes, text } = sections.body else { panic!("another body") };
    let content = ContentRef::Encoded { format: FORMAT, bytes: sections.kept, decode };
    let header = Header { text, ..Header::default() };
    delivery_of(1, 1, PublishRef { content, header, ..PublishRef::new(AddressRef::Queue("q"), bytes) })
}

const HEADER: &[u8] = &[0x00, 0x53, 0x70, 0xc0, 0x02, 0x01, 0x41];
/// Written in a wider form than needed, with a key that nobody knows, and a footer.
const NOTES: &[u8] = b"\x00\x80\0\0\0\0\0\0\0\x72\xd1\0\0\0\x10\0\0\0\x02\xa3\x05x-odd\x70\0\0\0\x01";
const BARE: &[u8] = b"\x00\x53\x73\xc0\x04\x01\xa1\x01m\x00\x53\x75\xb0\0\0\0\x03one\x00\x53\x78\xc1\x01\x00";

#[test]
fn a_bare_message_passes_untouched() {
    // [AMQP 3.2]
    let delivery = received(&[HEADER, NOTES, BARE].concat());
    assert_eq!(&delivery.message.body[..], b"one");
    let out = payload(&delivery, TellAddress::No);
    assert!(out.ends_with(&[NOTES, BARE].concat()));
    let header = read(&out).header.unwrap();
    assert!(header.first_acquirer && header.delivery_count == 0);
}

#[test]
fn the_broker_s_annotations_are_added_in_front() {
    let mut delivery = received(&[NOTES, BARE].concat());
    let death = Death {
        cause: Cause::Rejected,
        queue: "q".into(),
        address: Address::Exchange { name: "e".into(), key: "k".into() },
        time_ms: 1_700_000_000_000,
        count: 2,
        reason: Some("bad".into()),
        original_ttl_ms: Some(5),
    };
    delivery.message = Arc::new(delivery.message.dead_lettered(death, delivery.message.received));
    let out = payload(&delivery, TellAddress::Yes);
    assert!(out.ends_with(BARE));
    let notes = read(&out).message_annotations.unwrap().0;
    let get =
        |key: &str| notes.iter().find(|(k, _)| format!("{k:?}").contains(&format!("\"{key}\""))).unwrap().1;
    assert_eq!(get("x-odd"), &TheirValue::Uint(1));
    assert_eq!(get("x-opt-address"), &TheirValue::String("/queues/q".to_owned()));
    assert_eq!(get("x-death-cause"), &TheirValue::String("rejected".to_owned()));
    assert_eq!(get("x-death-count"), &TheirValue::Uint(2));
    assert_eq!(get("x-death-address"), &TheirValue::String("/exchanges/e/k".to_owned()));
    assert!(matches!(get("x-opt-deaths"), TheirValue::List(lines) if lines.len() == 1));
    // A copy that the dead message is made of again carries the broker's history, not the forged one.
    let sections = section::scan(&out).unwrap();
    let mut again = received(sections.kept);
    again.message = Arc::new(again.message.dead_lettered(
        Death {
            cause: Cause::Expired,
            queue: "dlq".into(),
            address: Address::Queue("dlq".into()),
            time_ms: 0,
            count: 1,
            reason: None,
            original_ttl_ms: None,
        },
        again.message.received,
    ));
    let notes = read(&payload(&again, TellAddress::No)).message_annotations.unwrap().0;
    let causes: Vec<_> = notes.iter().filter(|(k, _)| format!("{k:?}").contains("x-death-cause")).collect();
    assert_eq!(causes.len(), 1);
    assert_eq!(causes[0].1, &TheirValue::String("expired".to_owned()));
}

fn full() -> Properties {
    Properties {
        message_id: Some(Value::from("id")),
        user_id: Some(Bytes::from_static(b"guest")),
        to: Some("/queues/q".into()),
        subject: Some("s".into()),
        reply_to: Some(Address::Topic("a/b".into())),
        correlation_id: Some(Value::Binary(Bytes::from_static(&[0, 255]))),
        content_type: Some("text/plain".into()),
        content_encoding: Some("gzip".into()),
        absolute_expiry_ms: Some(1),
        creation_ms: Some(2),
        group_id: Some("g".into()),
        group_sequence: Some(3),
        reply_to_group_id: Some("h".into()),
        kind: Some("order".into()),
        app_id: Some("shop".into()),
        application: vec![("n".into(), Value::I32(5)), ("t".into(), Value::from("x"))],
        annotations: vec![("x-note".into(), Value::Bool(true))],
    }
}

#[test]
fn canonical_properties_there_and_back() {
    let properties = full();
    let content = ContentRef::Decoded(&properties);
    let header = Header {
        guarantee: Guarantee::AtLeastOnce,
        priority: Some(7),
        ttl_ms: Some(900),
        ..Header::default()
    };
    let publish = PublishRef { content, header, ..PublishRef::new(AddressRef::Queue("q"), b"\0\xff") };
    let delivery = Delivery { attempts: 2, redelivered: true, ..delivery_of(1, 1, publish) };
    let out = payload(&delivery, TellAddress::No);
    let theirs = read(&out);
    let got = theirs.header.unwrap();
    assert_eq!((got.durable, got.priority.0, got.ttl), (true, 7, Some(900)));
    assert_eq!((got.first_acquirer, got.delivery_count), (false, 2));
    assert_eq!(theirs.properties.unwrap().reply_to.as_deref(), Some("/topics/a/b"));
    let sections = section::scan(&out).unwrap();
    assert_eq!(sections.body, section::Body::Bytes { bytes: b"\0\xff", text: false });
    let mut back = decode(sections.kept);
    back.annotations.retain(|(key, _)| !key.starts_with("x-basic"));
    assert_eq!(back, properties);
}

#[test]
fn text_stays_text_and_nested_values_find_a_place() {
    let nested = Value::List(vec![Value::U8(1)]);
    let properties = Properties {
        application: vec![
            ("deep".into(), nested.clone()),
            ("a".into(), Value::from("1")),
            ("a".into(), Value::from("2")),
        ],
        ..Properties::default()
    };
    let header = Header { text: true, ..Header::default() };
    let content = ContentRef::Decoded(&properties);
    let publish = PublishRef {
        content,
        header,
        ..PublishRef::new(AddressRef::Exchange { name: "e", key: "k" }, "ü".as_bytes())
    };
    let out = payload(&delivery_of(1, 1, publish), TellAddress::No);
    let sections = section::scan(&out).unwrap();
    assert_eq!(sections.body, section::Body::Bytes { bytes: "ü".as_bytes(), text: true });
    let back = decode(sections.kept);
    assert_eq!(back.application, [("a".into(), Value::from("1"))]);
    let find = |key: &str| back.annotations.iter().find(|(k, _)| &**k == key).map(|(_, value)| value);
    assert_eq!(find("x-opt-deep"), Some(&nested));
    assert_eq!(find("x-exchange"), Some(&Value::from("e")));
    assert_eq!(find("x-routing-key"), Some(&Value::from("k")));
    // What claims to be text and is none is bytes.
    let publish = PublishRef { header, ..PublishRef::new(AddressRef::Queue("q"), b"\xff") };
    let out = payload(&delivery_of(1, 1, publish), TellAddress::No);
    assert_eq!(section::scan(&out).unwrap().body, section::Body::Bytes { bytes: b"\xff", text: false });
}

#[test]
fn a_jms_reply_to_says_what_it_is() {
    let topic = b"\x00\x53\x72\xc1\x17\x02\xa3\x12x-opt-jms-reply-to\x51\x01\x00\x53\x73\xc0\x0a\x05\x40\x40\x40\x40\xa1\x03a.b";
    assert_eq!(decode(topic).reply_to, Some(Address::Topic("a/b".into())));
    let bare = b"\x00\x53\x73\xc0\x0a\x05\x40\x40\x40\x40\xa1\x03a.b";
    assert_eq!(decode(bare).reply_to, Some(Address::Queue("a.b".into())));
}

#[test]
fn bodies_that_are_not_bytes_say_so() {
    let number = [0x00, 0x53, 0x77, 0x54, 5];
    assert_eq!(decode(&number).content_type.as_deref(), Some("message/vnd.rabbitmq.amqp"));
    let mut client = Client::begun();
    client.sender(0, "q");
    client.transfer(transfer(0, Some(0), true, false), &number);
    client.transfer(transfer(0, Some(1), true, false), &[data(b"ab"), data(b"cd")].concat());
    let bodies: Vec<Vec<u8>> = client.host.calls.iter().map(|call| call.body.to_vec()).collect();
    assert_eq!(bodies, [number.to_vec(), b"abcd".to_vec()]);
}
