//! Statements that brokers get wrong, as wire scripts: (clause, versions, bytes after login, reason in 5.0).

use super::*;

const ALL: &[Version] = &Version::ALL;
const V3: &[Version] = &[Version::V31, Version::V311];
const V311: &[Version] = &[Version::V311];
const SINCE_311: &[Version] = &[Version::V311, Version::V5];
const V5: &[Version] = &[Version::V5];

const CASES: &[(&str, &[Version], &str, u8)] = &[
    ("1.5.4-1 topic with a surrogate", V3, "30 06 00 03 ed a0 80 78", 0),
    ("1.5.4-1 topic with a surrogate", V5, "30 07 00 03 ed a0 80 00 78", 0x81),
    ("1.5.4-1 overlong NUL", V5, "30 06 00 02 c0 80 00 78", 0x81),
    ("1.5.4-2 topic with NUL", V3, "30 05 00 02 61 00 78", 0),
    ("1.5.4-2 topic with NUL", V5, "30 06 00 02 61 00 00 78", 0x81),
    ("1.5.4-2 filter with NUL", V5, "82 07 00 01 00 00 01 00 00", 0x81),
    ("1.5.5-1 remaining length in two bytes", ALL, "30 8c 00", 0x81),
    ("1.5.5-1 five bytes of remaining length", ALL, "30 80 80 80 80 01", 0x81),
    ("1.5.5-1 property length in two bytes", V5, "30 06 00 01 61 80 00 78", 0x81),
    ("2.1.3-1 reserved type 0", ALL, "00 00", 0x81),
    ("2.1.3-1 flags of PINGREQ", SINCE_311, "c1 00", 0x81),
    ("2.1.3-1 flags of SUBSCRIBE", V311, "80 06 00 01 00 01 61 00", 0),
    ("3.8.1-1 flags of SUBSCRIBE", V5, "80 07 00 01 00 00 01 61 00", 0x81),
    ("2.1.3-1 flags of PUBREL", SINCE_311, "60 02 00 01", 0x81),
    ("2.1.3-1 flags of PUBACK", SINCE_311, "42 02 00 01", 0x81),
    ("type 15 in 3.x", V3, "f0 00", 0),
    ("2.2.1-3 PUBLISH QoS 1 with id 0", V3, "32 06 00 01 61 00 00 78", 0),
    ("2.2.1-3 PUBLISH QoS 1 with id 0", V5, "32 07 00 01 61 00 00 00 78", 0x82),
    ("2.2.1-3 SUBSCRIBE with id 0", V3, "82 06 00 00 00 01 61 00", 0),
    ("2.2.1-3 PUBACK with id 0", ALL, "40 02 00 00", 0x82),
    ("2.2.2.2 session expiry in PUBLISH", V5, "30 0a 00 01 61 05 11 00 00 00 01 78", 0x81),
    ("2.2.2.2 payload format twice", V5, "30 09 00 01 61 04 01 00 01 00 78", 0x82),
    ("3.1.0-2 second CONNECT", V311, "10 0d 00 04 4d 51 54 54 04 02 00 3c 00 01 63", 0),
    ("3.1.0-2 second CONNECT", V5, "10 0e 00 04 4d 51 54 54 05 02 00 3c 00 00 01 63", 0x82),
    ("3.3.1-2 DUP with QoS 0", V311, "38 04 00 01 61 78", 0),
    ("3.3.1-2 DUP with QoS 0", V5, "38 05 00 01 61 00 78", 0x81),
    ("3.3.1-4 QoS 3", V3, "36 06 00 01 61 00 01 78", 0),
    ("3.3.1-4 QoS 3", V5, "36 07 00 01 61 00 01 00 78", 0x81),
    ("3.3.2-2 topic with +", V3, "30 04 00 01 2b 78", 0),
    ("3.3.2-2 topic with +", V5, "30 05 00 01 2b 00 78", 0x90),
    ("3.3.2-2 topic with #", V5, "30 07 00 03 61 2f 23 00 78", 0x90),
    ("4.7.3-1 empty topic", V3, "30 03 00 00 78", 0),
    ("4.7.3-1 empty topic without alias", V5, "30 04 00 00 00 78", 0x82),
    ("3.3.2-8 alias 0", V5, "30 08 00 01 61 03 23 00 00 78", 0x94),
    ("3.3.2-9 alias above the maximum", V5, "30 08 00 01 61 03 23 00 21 78", 0x94),
    ("3.3.2-7 unknown alias", V5, "30 07 00 00 03 23 00 01 78", 0x82),
    ("3.3.2-14 response topic with wildcard", V5, "30 09 00 01 61 04 08 00 01 23 78", 0x82),
    ("3.3.4-6 subscription identifier from a client", V5, "30 07 00 01 61 02 0b 01 78", 0x82),
    ("3.8.2.1.2 subscription identifier 0", V5, "82 09 00 01 02 0b 00 00 01 61 00", 0x82),
    ("3.8.3-2 SUBSCRIBE without a filter", V3, "82 02 00 01", 0),
    ("3.8.3-2 SUBSCRIBE without a filter", V5, "82 03 00 01 00", 0x82),
    (
        "3.8.3-4 no local on a shared subscription",
        V5,
        "82 0f 00 01 00 00 09 24 73 68 61 72 65 2f 67 2f 04",
        0x81,
    ),
    ("3.8.3-5 reserved option bits", V5, "82 07 00 01 00 00 01 61 40", 0x81),
    ("3.8.3-5 reserved option bits", V311, "82 06 00 01 00 01 61 04", 0),
    ("3.8.3-4 of 3.1.1: QoS 3", V3, "82 06 00 01 00 01 61 03", 0),
    ("3.8.3.1 QoS 3", V5, "82 07 00 01 00 00 01 61 03", 0x81),
    ("3.8.3.1 retain handling 3", V5, "82 07 00 01 00 00 01 61 30", 0x82),
    ("3.10.3-2 UNSUBSCRIBE without a filter", V5, "a2 03 00 01 00", 0x82),
    ("a filter cut short", V5, "82 07 00 01 00 00 09 61 00", 0x81),
    ("3.4.2 reason that PUBACK does not have", V5, "40 03 00 01 42", 0x81),
    ("PINGREQ with a body", ALL, "c0 01 00", 0x81),
    ("3.14.4 DISCONNECT with a body", V3, "e0 01 00", 0),
    ("3.14.2.1 reason that DISCONNECT does not have", V5, "e0 01 42", 0x81),
    ("3.14.2.2.2 session expiry raised in DISCONNECT", V5, "e0 07 00 05 11 00 00 00 01", 0x82),
    ("4.12.0-6 AUTH without a method", V5, "f0 00", 0x82),
    ("a packet that only a server sends", ALL, "d0 00", 0x82),
    ("a packet that only a server sends", V311, "20 02 00 00", 0),
];

#[test]
fn what_is_wrong_ends_the_connection_with_its_reason() {
    for (clause, versions, script, reason) in CASES {
        for version in *versions {
            let mut pair = Pair::open(*version);
            pair.host.take_wire();
            pair.send(script);
            assert!(pair.violation.is_some(), "{version:?} {clause}: it goes on");
            assert!(pair.host.calls.is_empty(), "{version:?} {clause}: {:?}", pair.texts());
            let expected = (*version == Version::V5).then_some(Reason(*reason));
            if !clause.starts_with("3.8.3-4 no local") {
                assert_eq!(pair.ended(), expected, "{version:?} {clause}");
            }
            // Nothing but the will's business is left: no farewell was given, so it is sent [MQTT-3.1.2-8].
            assert_eq!(pair.host.closed, None);
        }
    }
}

#[test]
fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    // [MQTT-3.8.3-4]
    let mut pair = Pair::open(Version::V5);
    pair.host.take_wire();
    pair.send("82 10 00 01 00 00 0a 24 73 68 61 72 65 2f 67 2f 61 04");
    assert_eq!(pair.ended(), Some(Reason::PROTOCOL_ERROR));
}

#[test]
fn a_packet_above_the_maximum_is_refused_by_its_header() {
    for version in Version::ALL {
        let config = MqttConfig { packet_bytes_max: 100, ..MqttConfig::default() };
        let mut pair = Pair::open_with(version, config, &[]);
        pair.host.take_wire();
        pair.send("30 63");
        assert!(pair.violation.is_some(), "101 bytes");
        let expected = (version == Version::V5).then_some(Reason::PACKET_TOO_LARGE);
        assert_eq!(pair.ended(), expected);
    }
    let config = MqttConfig { packet_bytes_max: 100, ..MqttConfig::default() };
    let mut pair = Pair::open_with(Version::V311, config, &[]);
    pair.send("30 62");
    assert_eq!(pair.violation, None, "100 bytes");
}

#[test]
fn a_byte_order_mark_is_part_of_the_topic() {
    // [MQTT-1.5.4-3]
    let mut pair = Pair::open(Version::V311);
    pair.send("30 07 00 04 ef bb bf 61 78");
    pair.expect_calls(&["publish topic:\u{feff}a AtMostOnce No"]);
}

#[test]
fn a_topic_of_65535_levels_is_refused() {
    let mut pair = Pair::open(Version::V5);
    pair.host.take_wire();
    let mut bytes = hex("30 82 80 04 ff ff");
    bytes.extend(std::iter::repeat_n(b'/', 65_535));
    bytes.push(0);
    bytes[1..4].copy_from_slice(&[0x82, 0x80, 0x04]);
    pair.send_bytes(&bytes);
    assert_eq!(pair.ended(), Some(Reason::TOPIC_INVALID));
}

#[test]
fn keep_alive() {
    // [MQTT-3.1.2-22]: between 1 and 1.5 times; receiving alone does not count.
    for version in Version::ALL {
        let mut pair = Pair::open(version);
        pair.host.take_wire();
        pair.wait(60_000);
        pair.send("c0 00");
        pair.expect("d0 00");
        pair.wait(60_000);
        let now = pair.now;
        pair.deliver(vec![delivery(ConsumerId::SESSION, 1, message("a", Guarantee::AtMostOnce, b"", now))]);
        pair.host.take_wire();
        pair.wait(29_999);
        assert_eq!(pair.violation, None);
        pair.wait(1);
        assert_eq!(pair.ended(), (version == Version::V5).then_some(Reason::KEEP_ALIVE_TIMEOUT));
    }
}

#[test]
fn goodbyes() {
    use mynah_core::protocol::{Farewell, Notice};
    let end = |version, script: &str| {
        let mut pair = Pair::open(version);
        pair.send(script);
        assert_eq!(pair.violation, None);
        // What follows a DISCONNECT is not looked at [MQTT-3.14.4-2].
        pair.send("30 04 00 01 61 78");
        assert!(pair.host.calls.is_empty() && pair.unread.is_empty());
        pair.host.closed
    };
    let (clean, abrupt) = (Farewell::Clean { expiry: None }, Farewell::Abrupt { expiry: None });
    assert_eq!(end(Version::V311, "e0 00"), Some(clean));
    assert_eq!(end(Version::V5, "e0 00"), Some(clean), "[MQTT-3.14.4-3]");
    assert_eq!(end(Version::V5, "e0 01 04"), Some(abrupt), "[MQTT-3.1.2-10]");
    for (version, notice, expected) in [
        (Version::V5, Some(Notice::TakenOver), Some(Reason::TAKEN_OVER)),
        (Version::V311, Some(Notice::TakenOver), None),
        (Version::V5, Some(Notice::Kicked { reason: "bye".into() }), Some(Reason::ADMINISTRATIVE)),
        (Version::V5, None, Some(Reason::SHUTTING_DOWN)),
    ] {
        let mut pair = Pair::open(version);
        pair.host.take_wire();
        match notice {
            Some(notice) => pair.event(Input::Notice(notice)),
            None => pair.event(Input::Shutdown),
        }
        assert_eq!(pair.ended(), expected);
        assert_eq!(pair.host.closed, Some(abrupt));
    }
}

#[test]
fn disconnect_changes_the_expiry() {
    use mynah_core::protocol::Farewell;
    let after = |seconds| Expiry::After(Duration::from_secs(seconds));
    let mut pair = Pair::log_in(
        MqttConfig::default(),
        connect(Version::V5, &[0x11, 0, 0, 0, 9]),
        opened(false, after(9), None),
    );
    pair.send("e0 07 00 05 11 00 00 00 20");
    assert_eq!(pair.host.closed, Some(Farewell::Clean { expiry: Some(after(32)) }));
}
