use super::*;

#[test]
fn publishes_of_all_kinds() {
    for version in Version::ALL {
        let mut pair = Pair::open(version);
        pair.host.take_wire();
        let properties = if version == Version::V5 { "00" } else { "" };
        let packet = |first: &str, topic_and_id: &str, body: &str| {
            let rest = hex(&[topic_and_id, properties, body].concat());
            show(&[&hex(first)[..], &[u8::try_from(rest.len()).unwrap()], &rest].concat())
        };
        pair.send(&packet("30", "00 01 61", "78"));
        pair.send(&packet("33", "00 03 61 2f 62 00 07", "79"));
        pair.send(&packet("34", "00 01 61 00 08", ""));
        let calls: Vec<_> = pair.host.calls.iter().map(|call| (call.text.as_str(), &call.body[..])).collect();
        assert_eq!(
            calls,
            [
                ("publish topic:a AtMostOnce No", &b"x"[..]),
                ("publish topic:a/b AtLeastOnce Keep", b"y"),
                ("publish topic:a ExactlyOnce No", b""),
            ]
        );
        assert!(pair.host.wire.is_empty(), "no confirm before the broker's answer");
        pair.agree();
        pair.expect("40 02 00 07  50 02 00 08");
        // [MQTT-4.3.3-10]: a repeated PUBLISH is answered and not published again ...
        pair.send(&packet("3c", "00 01 61 00 08", ""));
        pair.expect_calls(&[]);
        pair.expect("50 02 00 08");
        pair.send("62 02 00 08");
        pair.expect("70 02 00 08");
        // ... and after PUBCOMP the same identifier is a new message [MQTT-4.3.3-12].
        pair.send(&packet("34", "00 01 61 00 08", ""));
        pair.expect_calls(&["publish topic:a ExactlyOnce No"]);
        assert_eq!(pair.violation, None);
    }
}

#[test]
fn pubrel_of_nothing() {
    let mut pair = Pair::open(Version::V5);
    pair.host.take_wire();
    pair.send("62 02 00 09");
    pair.expect("70 03 00 09 92");
    let mut pair = Pair::open(Version::V311);
    pair.host.take_wire();
    pair.send("62 02 00 09");
    pair.expect("70 02 00 09");
}

#[test]
fn confirms_keep_the_order_of_the_publishes() {
    // [MQTT-4.6.0-2]: the second is refused here, the first and third are with the broker.
    let mut pair = Pair::open(Version::V5);
    pair.host.take_wire();
    pair.send("32 07 00 01 61 00 01 00 78");
    pair.send("32 0a 00 04 24 53 59 53 00 02 00 78");
    pair.send("32 07 00 01 61 00 03 00 78");
    assert!(pair.host.wire.is_empty());
    let tickets = pair.host.take_tickets();
    assert_eq!(tickets.len(), 2);
    let yes = |at: usize| (tickets[at].0, Reply::Published { routed: 2 });
    pair.reply(vec![yes(0)]);
    pair.expect("40 02 00 01  40 03 00 02 87");
    pair.reply(vec![yes(1)]);
    pair.expect("40 02 00 03");
}

#[test]
fn what_the_broker_says_to_a_publish() {
    let check = |version, qos: &str, reply: &dyn Fn() -> Reply, expected: &str| {
        let mut pair = Pair::open(version);
        pair.host.take_wire();
        let properties = if version == Version::V5 { "00" } else { "" };
        let len = if version == Version::V5 { "07" } else { "06" };
        pair.send(&format!("{qos} {len} 00 01 61 00 05 {properties} 78"));
        let tickets = pair.host.take_tickets();
        pair.reply(vec![(tickets[0].0, reply())]);
        pair.expect(expected);
        assert_eq!(pair.violation, None);
    };
    let none = || Reply::Published { routed: 0 };
    check(Version::V5, "32", &none, "40 03 00 05 10");
    check(Version::V5, "34", &none, "50 03 00 05 10");
    check(Version::V311, "32", &none, "40 02 00 05");
    let refused = |kind| move || Reply::Refused(Refusal::new(kind, "no"));
    check(Version::V5, "32", &refused(RefusalKind::Full), "40 09 00 05 97 05 1f 00 02 6e 6f");
    check(Version::V5, "34", &refused(RefusalKind::Forbidden), "50 09 00 05 87 05 1f 00 02 6e 6f");
    check(Version::V311, "32", &refused(RefusalKind::Forbidden), "40 02 00 05");
    check(Version::V311, "32", &refused(RefusalKind::Full), "");
}

#[test]
fn a_refused_qos_2_frees_its_identifier() {
    // [MQTT-4.3.3]: PUBREC with 0x80 or above ends the exchange.
    let mut pair = Pair::open_with(Version::V5, MqttConfig { receive_max: 1, ..MqttConfig::default() }, &[]);
    for _ in 0..3 {
        pair.send("34 07 00 01 61 00 05 00 78");
        assert_eq!(pair.texts(), ["publish topic:a ExactlyOnce No"]);
        pair.refuse(RefusalKind::Full);
        assert_eq!(pair.violation, None);
    }
}

#[test]
fn receive_maximum() {
    // [MQTT-3.3.4-9]
    let config = MqttConfig { receive_max: 2, ..MqttConfig::default() };
    let mut pair = Pair::open_with(Version::V5, config.clone(), &[]);
    pair.host.take_wire();
    pair.send("32 07 00 01 61 00 01 00 78  34 07 00 01 61 00 02 00 78");
    pair.send("30 05 00 01 61 00 78  c0 00");
    pair.expect("d0 00");
    pair.send("32 07 00 01 61 00 03 00 78");
    assert_eq!(pair.ended(), Some(Reason::RECEIVE_MAX_EXCEEDED));

    // In 3.x reading stops until the broker has answered.
    let mut pair = Pair::open_with(Version::V311, config, &[]);
    pair.host.take_wire();
    pair.send("32 06 00 01 61 00 01 78  32 06 00 01 61 00 02 78  32 06 00 01 61 00 03 78");
    assert_eq!((pair.texts().len(), pair.unread.len()), (2, 8));
    pair.agree();
    assert_eq!((pair.texts().len(), pair.unread.len()), (1, 0));
    pair.expect("40 02 00 01  40 02 00 02");
}

#[test]
fn topic_aliases() {
    // [MQTT-3.3.2-7, MQTT-3.3.2-12]: learned, used, given another topic.
    let mut pair = Pair::open(Version::V5);
    pair.send("30 08 00 01 61 03 23 00 01 78  30 07 00 00 03 23 00 01 78");
    pair.send("30 08 00 01 62 03 23 00 01 78  30 07 00 00 03 23 00 01 78  30 05 00 01 63 00 78");
    pair.expect_calls(&[
        "publish topic:a AtMostOnce No",
        "publish topic:a AtMostOnce No",
        "publish topic:b AtMostOnce No",
        "publish topic:b AtMostOnce No",
        "publish topic:c AtMostOnce No",
    ]);
}

#[test]
fn addresses_that_are_no_topics() {
    let mut pair = Pair::open(Version::V311);
    let mut publish = |topic: &str| {
        let mut bytes =
            vec![0x30, u8::try_from(topic.len() + 2).unwrap(), 0, u8::try_from(topic.len()).unwrap()];
        bytes.extend_from_slice(topic.as_bytes());
        pair.send_bytes(&bytes);
        assert_eq!(pair.violation, None);
        pair.host.take_texts().join(" ").replace("publish ", "").replace(" AtMostOnce No", "")
    };
    assert_eq!(publish("$queue/jobs"), "queue:jobs");
    assert_eq!(publish("$exchange/e/a.b/c"), "exchange:e:a.b/c");
    assert_eq!(publish("$P2P/dev1"), "client:dev1");
    assert_eq!(publish("#P2P/dev1"), "client:dev1");
    assert_eq!(publish("$SYS/broker/x"), "");
    assert_eq!(publish("$queue/"), "");
}

#[test]
fn properties_travel_as_they_came() {
    let properties =
        hex("01 01  02 00 00 00 05  03 00 01 74  08 00 08 24 71 75 65 75 65 2f 72  09 00 02 ff 00
         26 00 01 6b 00 01 76  26 00 01 6b 00 01 77  26 00 0a 6d 65 73 73 61 67 65 2d 69 64 00 01 31");
    let mut packet = vec![0x30, 0, 0, 1, b'a', u8::try_from(properties.len()).unwrap()];
    packet.extend_from_slice(&properties);
    packet[1] = u8::try_from(packet.len() - 2).unwrap();
    let mut spy = Spy::default();
    let now = Instant::now();
    Pair::open(Version::V5).connection.handle(now, Input::Bytes(&packet), &mut spy).unwrap();
    let message = spy.messages.remove(0);
    assert_eq!(message.original(crate::PROPERTIES).unwrap(), &properties);
    assert_eq!((message.header.ttl_ms, message.header.text), (Some(5000), true));
    let decoded = message.properties();
    use mynah_core::Value;
    assert_eq!(decoded.content_type.as_deref(), Some("t"));
    assert_eq!(decoded.reply_to, Some(Address::Queue("r".into())));
    assert_eq!(decoded.correlation_id, Some(Value::Binary(Bytes::from_static(&[0xff, 0]))));
    assert_eq!(decoded.message_id, Some(Value::from("1")));
    assert_eq!(decoded.application, [("k".into(), Value::from("v")), ("k".into(), Value::from("w"))]);
}
