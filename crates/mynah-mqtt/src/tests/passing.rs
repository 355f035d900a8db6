//! Frames that are passed on as they came are what encoding their publishes would have given.

use proptest::collection::vec;
use proptest::prelude::*;

use mynah_core::Run;

use super::*;
use crate::codec::property::put_user_property;
use crate::codec::publish::{Publish, guarantee};

/// Topic, QoS, retain flag, size of the payload, a property.
type Sent = (&'static str, u8, bool, usize, bool);

fn stream(version: Version, sent: &[Sent]) -> BytesMut {
    let mut out = BytesMut::new();
    for (at, &(topic, qos, retain, size, with)) in sent.iter().enumerate() {
        let mut properties = Vec::new();
        if with {
            put_user_property(&mut properties, "k", "v");
        }
        let payload = vec![u8::try_from(at % 251).unwrap(); size];
        let id = if qos > 0 { u16::try_from(at + 1).unwrap() } else { 0 };
        let publish = Publish {
            dup: false,
            guarantee: guarantee(qos).unwrap(),
            retain,
            topic,
            id,
            properties: Properties::trusted(&properties),
            payload: &payload,
        };
        publish.encode(version, &mut out);
    }
    out
}

/// What was published, in order, and how many of them were passed on.
fn published(version: Version, stream: &[u8], cut: usize, passes: bool) -> (Vec<(String, Bytes)>, usize) {
    let mut pair = Pair::open(version);
    pair.host.passes = passes;
    let (first, second) = stream.split_at(cut.min(stream.len()));
    pair.send_bytes(first);
    pair.send_bytes(second);
    assert_eq!((&pair.violation, pair.unread.len()), (&None, 0));
    let (mut found, mut passed) = (Vec::new(), 0);
    for call in std::mem::take(&mut pair.host.calls) {
        let Some(rest) = call.text.strip_prefix("pass ") else {
            found.push((call.text, call.body));
            continue;
        };
        let (address, count) = rest.rsplit_once(' ').unwrap();
        let before = passed;
        let mut bytes = &call.body[..];
        while let Some(frame) = split_frame(bytes, u32::MAX).unwrap() {
            let publish = Publish::decode(frame.first, frame.body, version).unwrap();
            assert_eq!(format!("topic:{}", publish.topic), address);
            let again = PublishRef::new(AddressRef::Topic(publish.topic), publish.payload);
            let mut run = Run::default();
            crate::translate::encode(&wire(version, Guarantee::ExactlyOnce), &again, &mut run);
            let len = bytes.len() - frame.rest.len();
            assert_eq!((&run.bytes[..], run.frames, run.marks.len()), (&bytes[..len], 1, 0));
            found.push((format!("publish {address} AtMostOnce No"), Bytes::copy_from_slice(publish.payload)));
            (bytes, passed) = (frame.rest, passed + 1);
        }
        assert!(bytes.is_empty());
        assert_eq!((passed - before).to_string(), count);
    }
    (found, passed)
}

#[test]
fn all_alike_are_passed_on_whatever_their_sizes() {
    for version in Version::ALL {
        let sent: Vec<Sent> = [0, 1, 120, 130, 20_000, 7].map(|size| ("a/b", 0, false, size, false)).into();
        assert_eq!(published(version, &stream(version, &sent), 0, true).1, 6, "{version:?}");
        // One alone is not worth it, and what is cut off waits.
        let one = stream(version, &sent[2..3]);
        assert_eq!(published(version, &one, 0, true).1, 0, "{version:?}");
        let two = stream(version, &sent[1..3]);
        assert_eq!(published(version, &two, two.len() - 1, true).1, 0, "{version:?}");
    }
}

#[test]
fn what_is_not_good_is_not_passed_on() {
    for (version, text) in [
        // DUP without QoS; an alias; a topic with a wildcard; one for the broker itself.
        (Version::V311, "38 05 00 01 61 78 78"),
        (Version::V5, "30 07 00 01 61 03 23 00 01"),
        (Version::V311, "30 05 00 01 2b 78 78"),
        (Version::V311, "30 07 00 03 24 53 59 78 78"),
    ] {
        let mut pair = Pair::open(version);
        pair.host.passes = true;
        pair.send_bytes(&hex(text).repeat(3));
        assert!(pair.texts().iter().all(|call| !call.starts_with("pass")), "{text}: {:?}", pair.texts());
    }
    // The good ones before a bad one are.
    let mut pair = Pair::open(Version::V311);
    pair.host.passes = true;
    pair.send("30 04 00 01 61 78  30 04 00 01 61 79  30 04 00 03 61 79");
    assert_eq!(pair.texts(), ["pass topic:a 2"]);
    assert!(pair.violation.is_some());
}

#[test]
fn who_gets_them_otherwise_is_asked_once_for_a_read() {
    let sent: [Sent; 4] = [("a", 0, false, 3, false); 4];
    let mut pair = Pair::open(Version::V5);
    pair.send_bytes(&stream(Version::V5, &sent));
    assert_eq!(pair.texts(), ["publish topic:a AtMostOnce No"; 4]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_nor_changed(
        sent in vec((0..3usize, 0..8u8, 0..10u8, 0..200usize, 0..10u8), 1..40), version in 0..3usize, cut in 0..4000usize,
    ) {
        let version = Version::ALL[version];
        let sent: Vec<Sent> = sent
            .into_iter()
            .map(|(topic, qos, retain, size, with)| {
                let with = with == 0 && version.has_properties();
                (["a", "a/b", "\u{e9}"][topic], u8::from(qos == 0), retain == 0, size, with)
            })
            .collect();
        let stream = stream(version, &sent);
        let (plain, none) = published(version, &stream, cut, false);
        prop_assert_eq!(none, 0);
        prop_assert_eq!(published(version, &stream, cut, true).0, plain);
    }
}
