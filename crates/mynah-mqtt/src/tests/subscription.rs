use super::*;

#[test]
fn subscribe_attaches_and_suback_comes_when_all_is_answered() {
    for version in Version::ALL {
        let mut pair = Pair::open(version);
        pair.host.take_wire();
        let properties = if version == Version::V5 { "00" } else { "" };
        let len = if version == Version::V5 { "0f" } else { "0e" };
        pair.send(
            &format!("82 {len} 00 0a {properties} 00 01 61 01  00 03 62 2f 23 02  00 01 2b 00")
                .replace(&format!("82 {len}"), if version == Version::V5 { "82 11" } else { "82 10" }),
        );
        assert_eq!(
            pair.texts(),
            [
                "attach 1 topic a Connection settled=true Socket",
                "attach 2 topic b/# Connection settled=true Socket",
                "attach 3 topic + Connection settled=true Socket",
            ]
        );
        let mut tickets = pair.host.take_tickets();
        let attached =
            || Reply::Attached(Box::new(mynah_core::protocol::Attached { queue: None, new: true }));
        let last = tickets.pop().unwrap();
        let mut replies: Vec<_> = tickets.into_iter().map(|(ticket, _)| (ticket, attached())).collect();
        replies.reverse();
        pair.reply(replies);
        pair.expect("");
        pair.reply(vec![(last.0, Reply::Refused(Refusal::new(RefusalKind::Forbidden, "no")))]);
        match version {
            Version::V31 | Version::V311 => pair.expect("90 05 00 0a 01 02 80"),
            Version::V5 => pair.expect("90 06 00 0a 00 01 02 87"),
        }
    }
}

#[test]
fn the_same_filter_again_replaces() {
    // [MQTT-3.8.4-3]
    let mut pair = Pair::open(Version::V311);
    pair.send("82 06 00 01 00 01 61 01");
    pair.agree();
    pair.send("82 06 00 02 00 01 61 00  82 06 00 03 00 01 62 00");
    let texts = pair.texts();
    assert!(
        texts[0].starts_with("attach 1 topic a ") && texts[1].starts_with("attach 2 topic b "),
        "{texts:?}"
    );
}

#[test]
fn unsubscribe() {
    // [MQTT-3.10.4-4]
    let mut pair = Pair::open(Version::V5);
    pair.send("82 07 00 01 00 00 01 61 01");
    pair.agree();
    pair.host.take_wire();
    pair.send("a2 09 00 02 00 00 01 61 00 01 7a");
    assert_eq!(pair.texts(), ["detach 1 End { forget: true, keep_unsettled: true }"]);
    pair.agree();
    pair.expect("b0 05 00 02 00 00 11");
    pair.send("a2 06 00 03 00 00 01 61");
    pair.expect("b0 04 00 03 00 11");
    let mut pair = Pair::open(Version::V311);
    pair.host.take_wire();
    pair.send("a2 05 00 03 00 01 61");
    pair.expect("b0 02 00 03");
}

#[test]
fn filters_that_are_none_fail_alone() {
    // [MQTT-4.7.1-1, MQTT-4.7.1-2, MQTT-4.8.2-1, MQTT-4.8.2-2]
    let check = |filter: &str, v5: u8| {
        for version in Version::ALL {
            let mut pair = Pair::open(version);
            pair.host.take_wire();
            let mut filters = Vec::new();
            for filter in [filter, "ok"] {
                filters.extend_from_slice(&u16::try_from(filter.len()).unwrap().to_be_bytes());
                filters.extend_from_slice(filter.as_bytes());
                filters.push(0);
            }
            let packet = crate::codec::subscribe::Subscribe::new(5, Properties::default(), &filters);
            pair.send_packet(&Packet::Subscribe(packet));
            assert_eq!(pair.texts(), ["attach 1 topic ok Connection settled=true Socket"], "{filter}");
            pair.agree();
            match version {
                Version::V31 | Version::V311 => pair.expect("90 04 00 05 80 00"),
                Version::V5 => pair.expect(&format!("90 05 00 05 00 {v5:02x} 00")),
            }
        }
    };
    for filter in [
        "",
        "a+",
        "a/#/b",
        "#a",
        "$share/g",
        "$share//t",
        "$share/g+/t",
        "$share/g/",
        "$queue/",
        "$exchange/e/k",
    ] {
        check(filter, 0x8f);
    }
    check(&"/".repeat(200), 0x8f);
}

#[test]
fn shared_subscriptions_and_queues() {
    let config = MqttConfig { in_flight_max: 9, ..MqttConfig::default() };
    let mut pair = Pair::open_with(Version::V5, config, &[]);
    let mut subscribe = |filter: &str, qos: u8| {
        let mut filters = u16::try_from(filter.len()).unwrap().to_be_bytes().to_vec();
        filters.extend_from_slice(filter.as_bytes());
        filters.push(qos);
        let packet = crate::codec::subscribe::Subscribe::new(5, Properties::default(), &filters);
        pair.send_packet(&Packet::Subscribe(packet));
        let text = pair.texts().remove(0);
        pair.agree();
        text
    };
    assert_eq!(subscribe("$share/g/a/+", 1), "attach 1 shared a/+ g settled=false Window(9)");
    assert_eq!(subscribe("$share/g/b", 0), "attach 2 shared b g settled=true Socket");
    assert_eq!(subscribe("$queue/jobs", 2), "attach 3 queue jobs create=true settled=false Window(9)");
    assert_eq!(subscribe("$queue/a/b", 0), "attach 4 queue a/b create=true settled=true Socket");
    assert_eq!(subscribe("$queue/a%2Bb", 0), "attach 5 queue a+b create=true settled=true Socket");
    assert_eq!(subscribe("$SYS/#", 0), "attach 6 topic $SYS/# Connection settled=true Socket");
}

#[test]
fn words_of_other_protocols_in_filters() {
    // What is shown as `c%2B%2B` is subscribed to as `c%2B%2B`.
    let mut pair = Pair::open(Version::V311);
    pair.send("82 10 00 01 00 0b 63 25 32 42 25 32 42 2f 2b 2f 61 00");
    assert_eq!(pair.texts(), ["attach 1 topic c++/+/a Connection settled=true Socket"]);
    pair.send("30 0b 00 09 63 25 32 42 25 32 42 2f 62");
    assert_eq!(pair.texts()[1], "publish topic:c++/b AtMostOnce No");
}

#[test]
fn many_subscriptions_and_their_bound() {
    let config = MqttConfig { subscriptions_max: 40, ..MqttConfig::default() };
    let mut pair = Pair::open_with(Version::V311, config, &[]);
    for number in 0..41 {
        pair.host.take_wire();
        pair.send(&format!("82 07 00 01 00 02 {:02x} {:02x} 00", 0x41 + number / 10, 0x30 + number % 10));
        pair.agree();
        pair.expect(if number < 40 { "90 03 00 01 00" } else { "90 03 00 01 80" });
    }
    // All of them are still known, and one that is gone makes room.
    pair.send("82 07 00 01 00 02 43 35 00");
    assert_eq!(pair.texts(), ["attach 26 topic C5 Connection settled=true Socket"]);
    pair.agree();
    pair.send("a2 06 00 01 00 02 43 35");
    assert_eq!(pair.texts(), ["detach 26 End { forget: true, keep_unsettled: true }"]);
    pair.agree();
    pair.send("82 07 00 01 00 02 58 58 00");
    assert_eq!(pair.texts(), ["attach 41 topic XX Connection settled=true Socket"]);
}

#[test]
fn a_refused_filter_is_forgotten() {
    let mut pair = Pair::open(Version::V311);
    pair.send("82 06 00 01 00 01 61 01");
    pair.refuse(RefusalKind::Forbidden);
    pair.host.take_wire();
    pair.send("a2 05 00 03 00 01 61");
    pair.expect_calls(&[]);
    pair.expect("b0 02 00 03");
}

#[test]
fn a_cancelled_consumer_is_forgotten() {
    let mut pair = Pair::open(Version::V311);
    pair.send("82 0d 00 01 00 08 24 71 75 65 75 65 2f 71 01");
    pair.agree();
    pair.event(Input::Notice(mynah_core::protocol::Notice::Cancelled { consumer: ConsumerId(1) }));
    pair.send("82 0d 00 01 00 08 24 71 75 65 75 65 2f 71 01");
    assert!(pair.texts()[0].starts_with("attach 2 queue q"));
}

#[test]
fn unanswered_subscribes_stop_reading() {
    let mut pair = Pair::open(Version::V311);
    for _ in 0..70 {
        pair.send("82 06 00 01 00 01 61 01");
    }
    assert_eq!(pair.texts().len(), 64);
    assert_eq!(pair.unread.len(), 6 * 8);
    pair.agree();
    assert_eq!(pair.texts().len(), 6);
    assert!(pair.unread.is_empty());
}
