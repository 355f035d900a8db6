//! A message through the machine and out again: what goes in comes out.

use proptest::collection::vec;
use proptest::prelude::*;

use mynah_core::Run;

use super::*;
use crate::codec::property::{Value, id, put_field, put_flag, put_four, put_two, put_user_property};
use crate::codec::publish::Publish;

type Part = (u8, Vec<u8>);

fn part(id: u8, write: impl FnOnce(&mut Vec<u8>)) -> Part {
    let mut out = Vec::new();
    write(&mut out);
    (id, out)
}

/// Properties of all kinds in any order, some of them hop-local.
fn properties() -> impl Strategy<Value = Vec<u8>> {
    let text = || "[a-zé€]{0,8}";
    let field = |id: u8| text().prop_map(move |t| part(id, |out| put_field(out, id, t.as_bytes())));
    let one = prop_oneof![
        any::<bool>().prop_map(|flag| part(id::PAYLOAD_FORMAT, |out| put_flag(
            out,
            id::PAYLOAD_FORMAT,
            flag
        ))),
        (1..u32::MAX).prop_map(|n| part(id::MESSAGE_EXPIRY, |out| put_four(out, id::MESSAGE_EXPIRY, n))),
        (1..32u16).prop_map(|n| part(id::TOPIC_ALIAS, |out| put_two(out, id::TOPIC_ALIAS, n))),
        field(id::CONTENT_TYPE),
        field(id::RESPONSE_TOPIC),
        vec(any::<u8>(), 0..20).prop_map(|d| part(id::CORRELATION_DATA, |out| put_field(
            out,
            id::CORRELATION_DATA,
            &d
        ))),
        (text(), text()).prop_map(|(k, v)| part(id::USER_PROPERTY, |out| put_user_property(out, &k, &v))),
    ];
    vec(one, 0..8).prop_map(|list| {
        let mut seen = Vec::new();
        let mut out = Vec::new();
        for (id, bytes) in list {
            if id == id::USER_PROPERTY || !seen.contains(&id) {
                seen.push(id);
                out.extend_from_slice(&bytes);
            }
        }
        out
    })
}

/// What a receiver is to see of a publisher's properties.
fn end_to_end(bytes: &[u8]) -> Vec<(u8, Value<'_>)> {
    let local = [id::TOPIC_ALIAS, id::MESSAGE_EXPIRY, id::SUBSCRIPTION_ID];
    Properties::trusted(bytes).iter().filter(|(id, _)| !local.contains(id)).collect()
}

fn expiry(bytes: &[u8]) -> Option<u32> {
    Properties::trusted(bytes).iter().find_map(|(id, value)| match (id, value) {
        (id::MESSAGE_EXPIRY, Value::Four(seconds)) => Some(seconds),
        _ => None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn from_5_0_to_every_version(
        topic in "[a-z/é%2B5]{1,30}", qos in 0..3u8, retain in any::<bool>(), properties in properties(),
        payload in vec(any::<u8>(), 0..200), identifiers in vec(1..100_000u32, 0..3), keep_retain in any::<bool>(),
    ) {
        let guarantee = crate::codec::publish::guarantee(qos).unwrap();
        let publish = Publish {
            dup: false, guarantee, retain, topic: &topic, id: if qos > 0 { 7 } else { 0 },
            properties: Properties::trusted(&properties), payload: &payload,
        };
        let mut bytes = BytesMut::new();
        publish.encode(Version::V5, &mut bytes);
        let mut spy = Spy::default();
        Pair::open(Version::V5).connection.handle(Instant::now(), Input::Bytes(&bytes), &mut spy).unwrap();
        let message = spy.messages.remove(0);
        for version in Version::ALL {
            let class = Wire { identifiers: identifiers.clone(), keep_retain, ..wire(version, Guarantee::ExactlyOnce) };
            let mut run = Run::default();
            crate::translate::encode(&class, &message.as_publish(), &mut run);
            // The identifier is the receiver's to patch.
            if let Some(mark) = run.marks.first() {
                let at = mark.patch as usize;
                run.bytes[at..at + 2].copy_from_slice(&[0, 9]);
            }
            let frame = split_frame(&run.bytes, u32::MAX).unwrap().unwrap();
            prop_assert!(frame.rest.is_empty());
            let out = Publish::decode(frame.first, frame.body, version).unwrap();
            prop_assert_eq!((out.topic, out.payload, out.guarantee), (topic.as_str(), &payload[..], guarantee));
            prop_assert_eq!((out.retain, out.dup), (retain && keep_retain, false));
            let seen = out.properties.bytes();
            if version == Version::V5 {
                prop_assert_eq!(end_to_end(seen), end_to_end(&properties));
                prop_assert_eq!(expiry(seen), expiry(&properties));
                let number = |value| if let Value::VarInt(number) = value { Some(number) } else { None };
                let numbers: Vec<u32> = out.properties.iter().filter_map(|(_, value)| number(value)).collect();
                prop_assert_eq!(&numbers, &identifiers);
            } else {
                prop_assert!(seen.is_empty());
            }
        }
    }
}
