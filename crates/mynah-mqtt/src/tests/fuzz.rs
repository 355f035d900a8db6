//! Whatever comes, and however it is cut: no panic, bounded output, the same result.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use mynah_core::Run;

/// All that is seen from outside.
#[derive(Debug, PartialEq)]
struct Seen {
    calls: Vec<String>,
    wire: Bytes,
    violation: Option<Violation>,
    unread: Vec<u8>,
    closed: bool,
}

/// Feeds the pieces one after the other; the broker answers when all that was sent before has been looked at.
fn run(version: Version, logged_in: bool, stream: &[u8], cuts: &[usize]) -> Seen {
    let mut pair = if logged_in { Pair::open(version) } else { Pair::new(MqttConfig::default()) };
    pair.host.take_wire();
    let mut calls = Vec::new();
    let mut at = 0;
    for cut in cuts.iter().copied().chain([stream.len()]) {
        let cut = cut.clamp(at, stream.len());
        if pair.violation.is_none() {
            pair.send_bytes(&stream[at..cut]);
        }
        at = cut;
    }
    // Twice or more: authenticate, open, then what waited for them.
    for _ in 0..8 {
        calls.append(&mut pair.texts());
        if pair.violation.is_none() {
            pair.agree();
        }
    }
    let seen = Seen {
        calls,
        wire: pair.host.take_wire(),
        violation: pair.violation.clone(),
        unread: if pair.violation.is_none() { std::mem::take(&mut pair.unread) } else { Vec::new() },
        closed: pair.host.closed.is_some(),
    };
    pair.connection.handle(pair.now, Input::Lost, &mut pair.host).unwrap();
    seen
}

fn check(version: Version, logged_in: bool, stream: &[u8], cuts: &[usize]) -> Result<(), TestCaseError> {
    let whole = run(version, logged_in, stream, &[]);
    prop_assert!(
        whole.wire.len() <= 200 + 8 * stream.len(),
        "{} bytes for {}",
        whole.wire.len(),
        stream.len()
    );
    prop_assert_eq!(&run(version, logged_in, stream, cuts), &whole);
    Ok(())
}

/// A stream in which everything happens.
fn valid_stream(version: Version) -> Vec<u8> {
    let texts: &[&str] = if version == Version::V5 {
        &[
            "82 0c 00 01 03 0b ac 02 00 03 61 2f 23 02",
            "30 12 00 03 61 2f 62 0b 02 00 00 00 09 26 00 01 6b 00 00 78",
            "32 0b 00 01 61 00 01 03 23 00 01 78 78",
            "34 07 00 01 61 00 02 00 78",
            "30 07 00 00 03 23 00 01 78",
            "62 04 00 02 00 00",
            "40 03 00 07 10",
            "a2 08 00 03 00 00 03 61 2f 23",
            "c0 00",
            "e0 02 04 00",
        ]
    } else {
        &[
            "82 08 00 01 00 03 61 2f 23 02",
            "30 06 00 03 61 2f 62 78",
            "33 06 00 01 61 00 01 78",
            "34 06 00 01 61 00 02 78",
            "62 02 00 02",
            "50 02 00 07",
            "a2 07 00 03 00 03 61 2f 23",
            "c0 00",
            "30 81 01 00 01 61",
        ]
    };
    let mut stream: Vec<u8> = texts.iter().flat_map(|text| hex(text)).collect();
    if version != Version::V5 {
        stream.extend([7; 126]);
        stream.extend(hex("e0 00"));
    }
    stream
}

#[test]
fn a_valid_stream_cut_anywhere() {
    for version in Version::ALL {
        let stream = valid_stream(version);
        let whole = run(version, true, &stream, &[]);
        assert_eq!((&whole.violation, whole.closed), (&None, true), "{version:?}");
        for cut in 0..=stream.len() {
            assert_eq!(run(version, true, &stream, &[cut]), whole, "{version:?} cut at {cut}");
        }
        let every: Vec<usize> = (0..stream.len()).collect();
        assert_eq!(run(version, true, &stream, &every), whole, "{version:?} byte by byte");
    }
}

#[test]
fn a_login_cut_anywhere() {
    for script in [
        "10 0d 00 04 4d 51 54 54 04 02 00 3c 00 01 63  c0 00",
        "10 13 00 04 4d 51 54 54 05 c2 00 3c 00 00 01 63 00 01 75 00 00  c0 00",
    ] {
        let stream = hex(script);
        let whole = run(Version::V311, false, &stream, &[]);
        assert_eq!(whole.violation, None);
        for cut in 0..=stream.len() {
            assert_eq!(run(Version::V311, false, &stream, &[cut]), whole, "cut at {cut}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes(stream in vec(any::<u8>(), 0..300), cuts in vec(0..300usize, 0..6), five in any::<bool>(), open in any::<bool>()) {
        check(if five { Version::V5 } else { Version::V311 }, open, &stream, &cuts)?;
    }

    #[test]
    fn mutated_streams(
        changes in vec((0..200usize, any::<u8>()), 1..4), cuts in vec(0..200usize, 0..4), version in 0..3usize,
    ) {
        let version = Version::ALL[version];
        let mut stream = valid_stream(version);
        for (at, byte) in changes {
            let at = at % stream.len();
            stream[at] = byte;
        }
        check(version, true, &stream, &cuts)?;
    }

    #[test]
    fn mutated_logins(changes in vec((0..40usize, any::<u8>()), 1..3), cuts in vec(0..40usize, 0..3)) {
        let mut stream = hex("10 1e 00 04 4d 51 54 54 05 c6 00 3c 03 21 00 05 00 01 63 00 00 01 77 00 01 78 00 01 75 00 01 70");
        for (at, byte) in changes {
            let at = at % stream.len();
            stream[at] = byte;
        }
        check(Version::V5, false, &stream, &cuts)?;
    }

    /// Deliveries, runs and acknowledgements in any order: never more in flight than the window, never an identifier twice.
    #[test]
    fn the_window_holds(steps in vec((0..4u8, 0..3u8, 1..12u16), 1..120)) {
        let mut pair = Pair::open_with(Version::V311, MqttConfig { in_flight_max: 5, ..MqttConfig::default() }, &[]);
        pair.host.take_wire();
        let mut out = std::collections::HashMap::new();
        let mut tag = 0;
        for (step, qos, id) in steps {
            let guarantee = crate::codec::publish::guarantee(qos).unwrap();
            let mut sent = Vec::new();
            match step {
                0 => {
                    tag += 1;
                    let now = pair.now;
                    pair.deliver(vec![delivery(ConsumerId::SESSION, tag, message("a", guarantee, b"", now))]);
                }
                1 if pair.connection.marked_credit() > 0 => {
                    let mut run = Run::default();
                    let header = Header { guarantee, ..Header::default() };
                    let publish = PublishRef { header, ..PublishRef::new(AddressRef::Topic("a"), b"") };
                    crate::translate::encode(&wire(Version::V311, Guarantee::ExactlyOnce), &publish, &mut run);
                    pair.event(Input::Encoded { bytes: &mut run.bytes, marks: &run.marks });
                    sent.extend_from_slice(&run.bytes);
                }
                2 => {
                    let id_bytes = id.to_be_bytes();
                    let kind = match out.get(&id) { Some(1) => 0x40, Some(2) => 0x50, Some(_) => 0x70, None => 0x40 };
                    pair.send_bytes(&[kind, 2, id_bytes[0], id_bytes[1]]);
                    if out.remove(&id) == Some(2) { out.insert(id, 3); }
                }
                _ => {}
            }
            sent.extend_from_slice(&pair.host.take_wire());
            let mut rest = &sent[..];
            while let Some(frame) = split_frame(rest, u32::MAX).unwrap() {
                if let Packet::Publish(packet) = Packet::decode(frame.first, frame.body, Version::V311).unwrap()
                    && packet.id != 0
                {
                    let qos = crate::codec::publish::qos(packet.guarantee);
                    prop_assert_eq!(out.insert(packet.id, qos), None, "an identifier in use");
                }
                rest = frame.rest;
            }
            prop_assert!(out.len() <= 5);
            prop_assert!(pair.connection.marked_credit() as usize <= 5 - out.len());
            prop_assert_eq!(&pair.violation, &None);
        }
    }
}
