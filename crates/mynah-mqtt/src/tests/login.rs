use super::*;
use crate::codec::connect::WillFields;
use mynah_core::protocol::ViolationKind;

fn failed(connect: &str) -> (Option<Vec<u8>>, ViolationKind) {
    let mut pair = Pair::new(MqttConfig::default());
    pair.send(connect);
    assert!(pair.host.calls.is_empty(), "the broker was asked");
    let wire = pair.host.take_wire();
    ((!wire.is_empty()).then(|| wire.to_vec()), pair.violation.expect("it goes on").kind)
}

#[test]
fn connect_is_authenticated_opened_and_answered() {
    for version in Version::ALL {
        let mut pair = Pair::new(MqttConfig::default());
        pair.version = version;
        let packet = Connect { user: Some("u"), password: Some(b"p"), ..connect(version, &[]) };
        pair.send_packet(&Packet::Connect(packet));
        assert_eq!(pair.texts(), ["authenticate u p"]);
        pair.agree();
        let terms = "Some(SessionTerms { fresh: true, expiry: AtEnd, credit: 4096 })";
        assert_eq!(pair.texts(), [format!("open c {} None {terms}", version.label())]);
        pair.agree();
        match version {
            Version::V31 | Version::V311 => pair.expect("20 02 00 00"),
            Version::V5 => pair.expect("20 14 00 00 11 21 10 00 27 01 00 00 00 22 00 20 28 01 29 01 2a 01"),
        }
    }
}

#[test]
fn a_name_alone_is_not_a_password_that_is_empty() {
    // MQTT-3.1.2-17 and -19: each has a flag of its own.
    for version in Version::ALL {
        for (password, call) in [(None, "authenticate name u"), (Some(&b""[..]), "authenticate u ")] {
            let mut pair = Pair::new(MqttConfig::default());
            pair.version = version;
            pair.send_packet(&Packet::Connect(Connect {
                user: Some("u"),
                password,
                ..connect(version, &[])
            }));
            assert_eq!(pair.texts(), [call]);
        }
    }
}

#[test]
fn nothing_is_read_while_the_broker_thinks() {
    // [MQTT-3.1.4-6]
    let mut pair = Pair::new(MqttConfig::default());
    pair.send("10 0d 00 04 4d 51 54 54 04 02 00 3c 00 01 63  30 04 00 01 61 78  c0 00");
    assert_eq!(pair.texts(), ["authenticate anonymous"]);
    assert_eq!(pair.unread.len(), 8);
    pair.agree();
    assert_eq!(pair.unread.len(), 8);
    pair.agree();
    pair.expect("20 02 00 00  d0 00");
    pair.expect_calls(&["publish topic:a AtMostOnce No"]);
}

#[test]
fn wrong_credentials() {
    for (version, kind, expected) in [
        (Version::V311, RefusalKind::Unauthenticated, 5),
        (Version::V311, RefusalKind::Forbidden, 5),
        (Version::V5, RefusalKind::Unauthenticated, 0x86),
        (Version::V5, RefusalKind::Forbidden, 0x87),
        (Version::V311, RefusalKind::Unavailable, 3),
        (Version::V5, RefusalKind::Full, 0x97),
    ] {
        let mut pair = Pair::new(MqttConfig::default());
        pair.version = version;
        pair.send_packet(&Packet::Connect(connect(version, &[])));
        pair.refuse(kind);
        assert_eq!(pair.ended(), Some(Reason(expected)));
        let unauthenticated = pair.violation.unwrap().kind == ViolationKind::Unauthenticated;
        let expected = matches!(kind, RefusalKind::Unauthenticated | RefusalKind::Forbidden);
        assert_eq!(unauthenticated, expected);
    }
}

#[test]
fn versions_we_do_not_speak() {
    // [MQTT-3.1.2-2]: "MQTT" level 3, level 6; a name nobody knows.
    assert_eq!(failed("10 0d 00 04 4d 51 54 54 03 02 00 3c 00 01 63").0, Some(hex("20 02 00 01")));
    let (answer, _) = failed("10 0d 00 04 4d 51 54 54 06 02 00 3c 00 01 63");
    assert_eq!(answer.unwrap()[..4][3], 0x84);
    assert_eq!(failed("10 0d 00 04 4d 51 54 55 04 02 00 3c 00 01 63").0, None);
}

#[test]
fn what_is_no_connect() {
    use ViolationKind::{Limit, Malformed, Protocol};
    // [MQTT-3.1.0-1]
    assert_eq!(failed("c0 00"), (None, Protocol));
    // Decided by the first byte.
    assert_eq!(failed("30"), (None, Protocol));
    assert_eq!(failed("11 0d"), (None, Protocol));
    // Reserved flag [MQTT-3.1.2-3].
    assert_eq!(failed("10 0d 00 04 4d 51 54 54 04 03 00 3c 00 01 63"), (None, Malformed));
    // Will QoS without will [MQTT-3.1.2-11], password without user [MQTT 3.1.1, MQTT-3.1.2-22].
    assert_eq!(failed("10 0d 00 04 4d 51 54 54 04 0a 00 3c 00 01 63"), (None, Malformed));
    assert_eq!(failed("10 10 00 04 4d 51 54 54 04 42 00 3c 00 01 63 00 01 78"), (None, Malformed));
    // Client identifier with a surrogate [MQTT-1.5.4-1].
    assert_eq!(failed("10 0f 00 04 4d 51 54 54 04 02 00 3c 00 03 ed a0 80"), (None, Malformed));
    // Will QoS 3, will topic with wildcard, bytes behind the end.
    assert_eq!(failed("10 13 00 04 4d 51 54 54 04 1e 00 3c 00 01 63 00 01 77 00 01 78"), (None, Malformed));
    assert_eq!(failed("10 13 00 04 4d 51 54 54 04 06 00 3c 00 01 63 00 01 23 00 01 78"), (None, Protocol));
    assert_eq!(failed("10 0e 00 04 4d 51 54 54 04 02 00 3c 00 01 63 00"), (None, Malformed));
    // Remaining length in more bytes than needed, in five, and a CONNECT of more than 64 KiB.
    assert_eq!(failed("10 8d 00 00 04"), (None, Malformed));
    assert_eq!(failed("10 80 80 80 80 01"), (None, Malformed));
    assert_eq!(failed("10 80 80 08"), (None, Limit));
    // Empty identifier with clean session 0 [MQTT-3.1.3-8 of 3.1.1].
    assert_eq!(failed("10 0c 00 04 4d 51 54 54 04 00 00 3c 00 00"), (Some(hex("20 02 00 02")), Protocol));
    // Enhanced authentication is not offered: 0x8C.
    let (answer, _) = failed("10 11 00 04 4d 51 54 54 05 02 00 3c 04 15 00 01 41 00 00");
    assert_eq!(answer.unwrap()[3], 0x8c);
}

#[test]
fn mqtt_3_1_is_taken_as_its_clients_send_it() {
    let mut pair = Pair::new(MqttConfig::default());
    // Reserved flag set, user flag without a user name [MQTT 3.1 3.1].
    pair.send("10 0f 00 06 4d 51 49 73 64 70 03 83 00 3c 00 01 63");
    pair.agree();
    assert!(pair.texts()[0].starts_with("open c MQTT 3.1 "));
}

#[test]
fn an_empty_identifier_is_assigned() {
    // [MQTT-3.1.3-6, MQTT-3.2.2-16]
    let packet = Connect { client_id: "", ..connect(Version::V5, &[]) };
    let opened = Opened { client_id: "auto-1".into(), ..opened(false, Expiry::AtEnd, None) };
    let mut pair = Pair::log_in(MqttConfig::default(), packet, opened);
    let wire = pair.host.take_wire();
    let assigned = hex("12 00 06 61 75 74 6f 2d 31");
    assert!(wire.windows(assigned.len()).any(|window| window == assigned), "{}", show(&wire));
}

#[test]
fn session_terms() {
    let check = |packet: Connect<'_>, expected: &str| {
        let mut pair = Pair::new(MqttConfig {
            session_expiry_max: Some(Duration::from_secs(100)),
            in_flight_max: 50,
            ..MqttConfig::default()
        });
        pair.version = packet.version;
        pair.send_packet(&Packet::Connect(packet));
        pair.agree();
        let text = pair.texts().remove(0);
        assert!(text.contains(expected), "{text}");
    };
    check(connect(Version::V311, &[]), "fresh: true, expiry: AtEnd, credit: 50");
    let keep = |version, properties| Connect { clean: false, ..connect(version, properties) };
    check(keep(Version::V311, &[]), "fresh: false, expiry: After(100s), credit: 50");
    check(keep(Version::V5, &[]), "fresh: false, expiry: AtEnd");
    check(keep(Version::V5, &[0x11, 0, 0, 0, 9, 0x21, 0, 7]), "fresh: false, expiry: After(9s), credit: 7");
    check(connect(Version::V5, &[0x11, 0xff, 0xff, 0xff, 0xff]), "fresh: true, expiry: After(100s)");
}

#[test]
fn capped_terms_are_told() {
    let config = MqttConfig { keep_alive_max: 30, ..MqttConfig::default() };
    let properties = [0x11, 0, 0, 1, 0];
    let expiry = Expiry::After(Duration::from_secs(10));
    let mut pair = Pair::log_in(config, connect(Version::V5, &properties), opened(false, expiry, None));
    let wire = pair.host.take_wire();
    let Some(frame) = split_frame(&wire, u32::MAX).unwrap() else { panic!() };
    let Packet::ConnAck(connack) = Packet::decode(frame.first, frame.body, Version::V5).unwrap() else {
        panic!()
    };
    let found: Vec<_> = connack.properties.iter().filter(|(id, _)| [0x11, 0x13].contains(id)).collect();
    use crate::codec::property::Value::{Four, Two};
    assert_eq!(found, [(0x11, Four(10)), (0x13, Two(30))], "[MQTT-3.2.2-21]");
    // And it holds: 45 s.
    pair.wait(44_999);
    assert_eq!(pair.violation, None);
    pair.wait(1);
    assert_eq!(pair.ended(), Some(Reason::KEEP_ALIVE_TIMEOUT));
}

#[test]
fn a_will_is_handed_to_the_broker() {
    let properties = hex("18 00 00 00 05  02 00 00 00 09  03 00 01 74");
    let will = WillFields {
        guarantee: Guarantee::AtLeastOnce,
        retain: true,
        properties: Properties::trusted(&properties),
        topic: "w/t",
        payload: b"gone",
    };
    for version in Version::ALL {
        let mut pair = Pair::new(MqttConfig::default());
        pair.version = version;
        let packet = Connect { will: Some(will), ..connect(version, &[]) };
        pair.send_packet(&Packet::Connect(packet));
        pair.agree();
        let delay = if version == Version::V5 { "5s" } else { "0ns" };
        assert!(pair.texts()[0].ends_with(&format!(" will topic:w/t {delay}")), "{:?}", pair.texts());
    }
}

#[test]
fn time_to_log_in_is_short() {
    let mut pair = Pair::new(MqttConfig::default());
    pair.send("10 0d 00");
    pair.wait(9_999);
    assert_eq!(pair.violation, None);
    pair.wait(1);
    assert_eq!(pair.violation.as_ref().unwrap().kind, ViolationKind::Timeout);
    assert_eq!(pair.ended(), None);
}

#[test]
fn a_small_maximum_packet_size_holds_for_connack_too() {
    // [MQTT-3.1.2-24]
    let mut pair = Pair::open_with(Version::V5, MqttConfig::default(), &[0x27, 0, 0, 0, 20]);
    assert!(pair.host.take_wire().len() <= 20);
}

#[test]
fn a_refusal_leaves_out_its_text_if_it_would_not_fit() {
    // [MQTT-3.2.2-19]
    for (max, len) in [(30, 5), (200, 67)] {
        let mut properties = hex("27 00 00 00 00 15 00 01 41");
        properties[4] = max;
        let mut pair = Pair::new(MqttConfig::default());
        pair.version = Version::V5;
        pair.send_packet(&Packet::Connect(connect(Version::V5, &properties)));
        let wire = pair.host.take_wire();
        assert_eq!((wire.len(), wire[3]), (len, 0x8c), "{}", show(&wire));
    }
}
