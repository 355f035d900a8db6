use super::*;
use crate::translate::{SIZE_LIMIT, encode};
use mynah_core::{Cause, ContentRef, Death, Properties as Canonical, Retain, Run, Value};

/// A connection with a consumer of `$queue/q`, number 1.
fn consuming(version: Version, qos: u8, config: MqttConfig, properties: &[u8]) -> Pair {
    let mut pair = Pair::open_with(version, config, properties);
    let mut filter = hex("00 08 24 71 75 65 75 65 2f 71");
    filter.push(qos);
    let packet = crate::codec::subscribe::Subscribe::new(1, Properties::default(), &filter);
    pair.send_packet(&Packet::Subscribe(packet));
    pair.agree();
    pair.host.take_wire();
    pair
}

fn run_of(wire: &Wire, publish: &PublishRef<'_>) -> Run {
    let mut run = Run::default();
    encode(wire, publish, &mut run);
    run
}

fn publish(topic: &str, guarantee: Guarantee) -> PublishRef<'_> {
    let header = Header { guarantee, ..Header::default() };
    PublishRef { header, ..PublishRef::new(AddressRef::Topic(topic), b"xy") }
}

#[test]
fn the_encoder_writes_plain_publishes() {
    let (zero, one, two) = (Guarantee::AtMostOnce, Guarantee::AtLeastOnce, Guarantee::ExactlyOnce);
    let check = |version, wanted, published, expected: &str, marks: usize| {
        let run = run_of(&wire(version, wanted), &publish("a/b", published));
        assert_eq!(show(&run.bytes), show(&hex(expected)));
        assert_eq!((run.frames, run.marks.len()), (1, marks));
        assert!(run.marks.iter().all(|mark| mark.frame == 0 && mark.patch == 7));
    };
    check(Version::V311, zero, two, "30 07 00 03 61 2f 62 78 79", 0);
    check(Version::V311, one, two, "32 09 00 03 61 2f 62 00 00 78 79", 1);
    check(Version::V311, two, one, "32 09 00 03 61 2f 62 00 00 78 79", 1);
    check(Version::V5, zero, zero, "30 08 00 03 61 2f 62 00 78 79", 0);
    check(Version::V5, two, two, "34 0a 00 03 61 2f 62 00 00 00 78 79", 1);
    // What a durable session keeps in its queue is left out.
    let session = Wire { direct_max: zero, ..wire(Version::V311, two) };
    assert_eq!(run_of(&session, &publish("a", one)).frames, 0);
    assert_eq!(run_of(&session, &publish("a", zero)).frames, 1);
}

#[test]
fn long_packets_have_long_lengths() {
    for size in [118, 119, 120, 121, 122, 123, 16_378, 16_379, 16_380, 2_097_150, 2_097_160] {
        let body = vec![7; size];
        let header = Header { guarantee: Guarantee::AtLeastOnce, ..Header::default() };
        let publish = PublishRef { header, ..PublishRef::new(AddressRef::Topic("a/b"), &body) };
        let run = run_of(&wire(Version::V311, Guarantee::AtLeastOnce), &publish);
        let frame = split_frame(&run.bytes, u32::MAX).unwrap().unwrap();
        assert_eq!((frame.body.len(), frame.rest.len()), (size + 7, 0));
        assert_eq!(run.marks[0].patch as usize, run.bytes.len() - size - 2);
    }
}

#[test]
fn the_retain_flag() {
    // [MQTT-3.3.1-12, MQTT-3.3.1-13]
    let check = |retain, keep_retain, expected| {
        let mut publish = publish("a", Guarantee::AtMostOnce);
        publish.header.retain = retain;
        let wire = Wire { keep_retain, ..wire(Version::V5, Guarantee::AtMostOnce) };
        assert_eq!(run_of(&wire, &publish).bytes[0], expected);
    };
    check(Retain::Keep, false, 0x30);
    check(Retain::Keep, true, 0x31);
    check(Retain::Replayed, false, 0x31);
    check(Retain::No, true, 0x30);
}

#[test]
fn properties_of_5_0_pass_without_those_of_one_hop() {
    let received = hex("02 00 00 00 09  23 00 01  03 00 01 74  26 00 01 6b 00 01 76");
    let mut publish = publish("a", Guarantee::AtMostOnce);
    publish.header.ttl_ms = Some(4001);
    publish.content =
        ContentRef::Encoded { format: crate::PROPERTIES, bytes: &received, decode: crate::translate::decode };
    let five = Wire { identifiers: vec![1, 300], ..wire(Version::V5, Guarantee::AtMostOnce) };
    let run = run_of(&five, &publish);
    // Expiry rounded up, then theirs in their order, then all subscription identifiers [MQTT-3.3.4-3].
    let expected =
        "30 1b 00 01 61  15  02 00 00 00 05  03 00 01 74  26 00 01 6b 00 01 76  0b 01  0b ac 02  78 79";
    assert_eq!(show(&run.bytes), show(&hex(expected)));
    // 3.x has none of it.
    let run = run_of(&wire(Version::V311, Guarantee::AtMostOnce), &publish);
    assert_eq!(show(&run.bytes), show(&hex("30 05 00 01 61 78 79")));
}

#[test]
fn properties_of_other_protocols_become_those_of_5_0() {
    let canonical = Canonical {
        message_id: Some(Value::U64(7)),
        reply_to: Some(Address::Queue("r".into())),
        correlation_id: Some(Value::from("c")),
        content_type: Some("t".into()),
        application: vec![
            ("k".into(), Value::from("v")),
            ("n".into(), Value::I32(-1)),
            ("z".into(), Value::from("a\0b")),
        ],
        ..Canonical::default()
    };
    let mut publish = publish("a", Guarantee::AtMostOnce);
    publish.header.text = true;
    publish.content = ContentRef::Decoded(&canonical);
    let run = run_of(&wire(Version::V5, Guarantee::AtMostOnce), &publish);
    let frame = split_frame(&run.bytes, u32::MAX).unwrap().unwrap();
    let Packet::Publish(packet) = Packet::decode(frame.first, frame.body, Version::V5).unwrap() else {
        panic!()
    };
    use crate::codec::property::Value::{Binary, Flag, Pair, Text};
    assert_eq!(
        packet.properties.iter().map(|(_, value)| value).collect::<Vec<_>>(),
        [
            Flag(true),
            Text("t"),
            Text("$queue/r"),
            Binary(b"c"),
            Pair("k", "v"),
            Pair("n", "-1"),
            Pair("z", "a\u{fffd}b"),
            Pair("message-id", "7"),
        ]
    );
}

#[test]
fn a_receivers_maximum_packet_size_is_kept() {
    // [MQTT-3.1.2-24]
    let limited =
        |max: u32| Wire { identifiers: vec![max | SIZE_LIMIT], ..wire(Version::V5, Guarantee::AtMostOnce) };
    assert_eq!(run_of(&limited(8), &publish("a", Guarantee::AtMostOnce)).frames, 1);
    assert_eq!(run_of(&limited(7), &publish("a", Guarantee::AtMostOnce)).frames, 0);
    assert_eq!(run_of(&limited(8), &publish("a", Guarantee::AtMostOnce)).bytes.len(), 8);

    // Of objects too: as if it had been completed [MQTT-3.1.2-25]; of a queue it is dead-lettered.
    let mut pair = consuming(Version::V5, 1, MqttConfig::default(), &[0x27, 0, 0, 0, 30]);
    let now = pair.now;
    let large = || message("a", Guarantee::AtLeastOnce, &[0; 100], now);
    let small = || message("a", Guarantee::AtLeastOnce, b"x", now);
    pair.deliver(vec![
        delivery(ConsumerId::SESSION, 1, large()),
        delivery(ConsumerId(1), 2, large()),
        delivery(ConsumerId::SESSION, 3, small()),
    ]);
    pair.expect_calls(&[
        "settle 0 [1] Accepted",
        "settle 1 [2] Rejected { reason: Some(\"the receiver cannot take a packet of this size\") }",
    ]);
    pair.expect("32 07 00 01 61 00 03 00 78");
}

#[test]
fn runs_are_patched_and_acknowledged() {
    for version in Version::ALL {
        let config = MqttConfig { in_flight_max: 3, ..MqttConfig::default() };
        let mut pair = Pair::open_with(version, config, &[]);
        pair.host.take_wire();
        let mut run = Run::default();
        let class = wire(version, Guarantee::ExactlyOnce);
        for guarantee in [Guarantee::AtLeastOnce, Guarantee::AtMostOnce, Guarantee::ExactlyOnce] {
            encode(&class, &publish("a", guarantee), &mut run);
        }
        assert_eq!(pair.connection.marked_credit(), 3);
        pair.event(Input::Encoded { bytes: &mut run.bytes, marks: &run.marks });
        let ids: Vec<_> = run.marks.iter().map(|mark| &run.bytes[mark.patch as usize..][..2]).collect();
        assert_eq!(ids, [[0, 1], [0, 2]]);
        assert_eq!(pair.connection.marked_credit(), 1);
        pair.send("40 02 00 01  50 02 00 02");
        pair.expect("62 02 00 02");
        assert_eq!(pair.connection.marked_credit(), 2, "[MQTT-4.9.0-2]: a slot until PUBCOMP");
        pair.send("50 02 00 02  70 02 00 02");
        pair.expect("62 02 00 02");
        assert_eq!(pair.connection.marked_credit(), 3);
        // Nothing to settle, and acknowledgements of nothing are ignored.
        pair.send("40 02 00 02  70 02 ff ff");
        pair.expect_calls(&[]);
        assert_eq!(pair.violation, None);
    }
}

#[test]
fn objects_are_sent_settled_and_held_back() {
    let config = MqttConfig { in_flight_max: 2, ..MqttConfig::default() };
    let mut pair = Pair::open_with(Version::V311, config, &[]);
    pair.host.take_wire();
    let now = pair.now;
    let of =
        |tag, guarantee: Guarantee| delivery(ConsumerId::SESSION, tag, message("a", guarantee, b"x", now));
    let (zero, one, two) = (Guarantee::AtMostOnce, Guarantee::AtLeastOnce, Guarantee::ExactlyOnce);
    pair.deliver(vec![of(11, one), of(12, two), of(13, one), of(14, two), of(15, zero)]);
    // QoS 0 is not held back, and settled at once.
    pair.expect("32 06 00 01 61 00 01 78  34 06 00 01 61 00 02 78  30 04 00 01 61 78");
    pair.expect_calls(&["settle 0 [15] Accepted"]);
    assert_eq!(pair.connection.marked_credit(), 0);
    pair.send("40 02 00 01");
    pair.expect("32 06 00 01 61 00 01 78");
    pair.expect_calls(&["settle 0 [11] Accepted"]);
    // From PUBREC on it is the receiver's; the slot is free at PUBCOMP.
    pair.send("50 02 00 02");
    pair.expect("62 02 00 02");
    pair.expect_calls(&["settle 0 [12] Accepted"]);
    pair.send("40 02 00 01  70 02 00 02");
    pair.expect("34 06 00 01 61 00 01 78");
    pair.expect_calls(&["settle 0 [13] Accepted"]);
}

#[test]
fn acknowledgements_of_one_read_are_settled_in_one_call() {
    let mut pair = consuming(Version::V311, 1, MqttConfig::default(), &[]);
    let now = pair.now;
    let of =
        |consumer, tag| delivery(ConsumerId(consumer), tag, message("a", Guarantee::AtLeastOnce, b"", now));
    pair.deliver(vec![of(0, 1), of(0, 2), of(1, 3), of(0, 4)]);
    pair.send("40 02 00 01  40 02 00 02  40 02 00 03  40 02 00 04");
    pair.expect_calls(&["settle 0 [1, 2] Accepted", "settle 1 [3] Accepted", "settle 0 [4] Accepted"]);
}

#[test]
fn a_reason_of_0x80_rejects() {
    // [MQTT-4.8.2-6]
    let mut pair = consuming(Version::V5, 1, MqttConfig { in_flight_max: 2, ..MqttConfig::default() }, &[]);
    let now = pair.now;
    pair.deliver(vec![
        delivery(ConsumerId(1), 1, message("a", Guarantee::AtLeastOnce, b"", now)),
        delivery(ConsumerId::SESSION, 2, message("a", Guarantee::ExactlyOnce, b"", now)),
    ]);
    pair.host.take_wire();
    pair.send("40 03 00 01 87  50 03 00 02 97");
    pair.expect_calls(&["settle 1 [1] Rejected { reason: None }", "settle 0 [2] Rejected { reason: None }"]);
    pair.expect("");
    assert_eq!(pair.connection.marked_credit(), 2, "[MQTT-4.9.0-2]: PUBREC of 0x80 frees the slot");
    pair.send("50 02 00 09");
    pair.expect("62 03 00 09 92");
}

#[test]
fn identifiers_in_use_are_never_given_out() {
    // [MQTT-2.2.1-4]: 70,000 deliveries with one unacknowledged.
    let mut pair = Pair::open(Version::V311);
    let class = wire(Version::V311, Guarantee::AtLeastOnce);
    let next = |pair: &mut Pair| {
        let mut run = run_of(&class, &publish("a", Guarantee::AtLeastOnce));
        pair.event(Input::Encoded { bytes: &mut run.bytes, marks: &run.marks });
        let at = run.marks[0].patch as usize;
        u16::from_be_bytes([run.bytes[at], run.bytes[at + 1]])
    };
    let stuck = next(&mut pair);
    for _ in 0..70_000 {
        let id = next(&mut pair);
        assert!(id != 0 && id != stuck);
        let [high, low] = id.to_be_bytes();
        pair.send_bytes(&[0x40, 2, high, low]);
    }
    assert_eq!(pair.connection.marked_credit(), 4095);
}

#[test]
fn a_history_of_dead_letters_is_shown() {
    let mut pair = Pair::open(Version::V5);
    pair.host.take_wire();
    let now = pair.now;
    let death = Death {
        cause: Cause::Rejected,
        queue: "q".into(),
        address: Address::Queue("q".into()),
        time_ms: 5,
        count: 2,
        reason: None,
        original_ttl_ms: None,
    };
    let dead = message("a", Guarantee::AtMostOnce, b"", now).dead_lettered(death, now);
    pair.deliver(vec![delivery(ConsumerId::SESSION, 1, dead)]);
    let wire = pair.host.take_wire();
    let text = String::from_utf8_lossy(&wire);
    for part in [
        "x-death-cause\0\u{8}rejected",
        "x-death-queue\0\u{1}q",
        "x-death-count\0\u{1}2",
        "x-death-time\0\u{1}5",
    ] {
        assert!(text.contains(part), "{part:?} in {text:?}");
    }
}

#[test]
fn time_to_live_counts_down() {
    // [MQTT-3.3.2-6]: 10 s, of which 3.5 s were spent in the queue.
    let mut pair = Pair::open(Version::V5);
    pair.host.take_wire();
    let header = Header { ttl_ms: Some(10_000), ..Header::default() };
    let old = Message::from_publish(
        &PublishRef { header, ..PublishRef::new(AddressRef::Topic("a"), b"") },
        pair.now,
    );
    pair.now += Duration::from_millis(3500);
    pair.deliver(vec![delivery(ConsumerId::SESSION, 1, old)]);
    pair.expect("30 09 00 01 61 05 02 00 00 00 07");
}

#[test]
fn a_named_queue_delivers_with_the_guarantee_that_was_asked_for() {
    // The consumer settles, whatever the publisher promised; with QoS 0 it is settled by being sent.
    let now_and = |qos, guarantee: Guarantee| {
        let mut pair = consuming(Version::V311, qos, MqttConfig::default(), &[]);
        let now = pair.now;
        pair.deliver(vec![delivery(ConsumerId(1), 1, message("a", guarantee, b"", now))]);
        (pair.host.take_wire()[0], pair.host.take_texts().len())
    };
    assert_eq!(now_and(1, Guarantee::AtMostOnce), (0x32, 0));
    assert_eq!(now_and(1, Guarantee::ExactlyOnce), (0x32, 0));
    assert_eq!(now_and(2, Guarantee::AtMostOnce), (0x34, 0));
    assert_eq!(now_and(0, Guarantee::AtLeastOnce), (0x30, 1));
}

#[test]
fn what_waits_for_an_unsubscribed_queue_goes_back() {
    // [MQTT-3.10.4-2, MQTT-3.10.4-3]
    let config = MqttConfig { in_flight_max: 1, ..MqttConfig::default() };
    let mut pair = consuming(Version::V311, 1, config, &[]);
    let now = pair.now;
    let of = |tag| delivery(ConsumerId(1), tag, message("a", Guarantee::AtLeastOnce, b"", now));
    pair.deliver(vec![of(1), of(2)]);
    pair.send("a2 0c 00 01 00 08 24 71 75 65 75 65 2f 71");
    pair.agree();
    pair.host.take_wire();
    pair.send("40 02 00 01");
    pair.expect_calls(&["settle 1 [1] Accepted", "settle 1 [2] Released"]);
    pair.expect("");
}

#[test]
fn deliveries_before_connack_wait_for_it() {
    let mut pair = Pair::new(MqttConfig::default());
    pair.send("10 0d 00 04 4d 51 54 54 04 02 00 3c 00 01 63");
    pair.agree();
    let now = pair.now;
    pair.deliver(vec![delivery(ConsumerId::SESSION, 1, message("a", Guarantee::AtLeastOnce, b"", now))]);
    pair.expect("");
    pair.agree();
    pair.expect("20 02 00 00  32 05 00 01 61 00 01");
}

#[test]
fn topic_aliases_are_used_as_far_as_the_receiver_takes_them() {
    // [MQTT-3.1.2-26, MQTT-3.1.2-27, MQTT-3.3.2-11]
    let mut pair = Pair::open_with(Version::V5, MqttConfig::default(), &[0x22, 0, 1]);
    pair.host.take_wire();
    pair.send("82 09 00 01 02 0b 05 00 01 23 01");
    assert_eq!(pair.texts(), ["attach 1 topic # Connection settled=true Socket"]);
    pair.agree();
    pair.expect("90 04 00 01 00 01");
    let now = pair.now;
    let of = |topic, guarantee: Guarantee| Delivery {
        settled: true,
        ..delivery(ConsumerId(1), 0, message(topic, guarantee, b"x", now))
    };
    let (zero, two) = (Guarantee::AtMostOnce, Guarantee::ExactlyOnce);
    pair.deliver(vec![of("ab", zero), of("ab", two), of("cd", zero), of("ab", zero)]);
    pair.expect(
        "30 0b 00 02 61 62 05 23 00 01 0b 05 78
         32 0b 00 00 00 01 05 23 00 01 0b 05 78
         30 08 00 02 63 64 02 0b 05 78
         30 09 00 00 05 23 00 01 0b 05 78",
    );
    // Nobody is to be settled, and what comes after the end of the subscription is not sent.
    pair.send("40 02 00 01");
    pair.expect_calls(&[]);
    pair.send("a2 06 00 02 00 00 01 23");
    pair.agree();
    pair.expect("b0 04 00 02 00 00");
    pair.deliver(vec![of("ab", zero)]);
    pair.expect("");
}
