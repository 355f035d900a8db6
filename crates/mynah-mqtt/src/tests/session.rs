use super::*;

const DURABLE: Expiry = Expiry::After(Duration::from_secs(1000));

fn log_in(version: Version, present: bool, parked: Option<Bytes>) -> Pair {
    let properties = if version == Version::V5 { &[0x11, 0, 0, 3, 0xe8][..] } else { &[] };
    let packet = Connect { clean: false, ..connect(version, properties) };
    let config = MqttConfig { in_flight_max: 10, ..MqttConfig::default() };
    let mut pair = Pair::log_in(config, packet, opened(present, DURABLE, parked));
    let wire = pair.host.take_wire();
    let told = present && version != Version::V31;
    assert_eq!(wire[2], u8::from(told), "[MQTT-3.2.2-2, MQTT-3.2.2-3]");
    let connack = split_frame(&wire, u32::MAX).unwrap().unwrap();
    pair.host.wire.extend_from_slice(connack.rest);
    pair
}

#[test]
fn a_session_that_ends_parks_nothing() {
    assert_eq!(Pair::open(Version::V311).lose(), None);
}

#[test]
fn subscriptions_of_a_session_go_by_its_queue() {
    let mut pair = log_in(Version::V311, false, None);
    pair.send("82 06 00 01 00 01 61 01");
    assert_eq!(pair.texts(), ["attach 1 topic a Session settled=false Socket"]);
}

#[test]
fn what_was_in_flight_is_sent_again() {
    // [MQTT-4.4.0-1, MQTT-4.6.0-5, MQTT-4.6.0-6]
    for version in Version::ALL {
        let none = if version == Version::V5 { "00" } else { "" };
        let len = if version == Version::V5 { "07" } else { "06" };
        let mut pair = log_in(version, false, None);
        let now = pair.now;
        let of = |tag, guarantee: Guarantee, body: &[u8]| {
            delivery(ConsumerId::SESSION, tag, message("a", guarantee, body, now))
        };
        let (one, two) = (Guarantee::AtLeastOnce, Guarantee::ExactlyOnce);
        pair.deliver(vec![
            of(1, one, b"1"),
            of(2, two, b"2"),
            of(3, two, b"3"),
            of(4, one, b"4"),
            of(5, two, b"5"),
            of(6, one, b"6"),
        ]);
        // 1 is done, 2 is received, 3 to 6 are out.
        pair.send("40 02 00 01  50 02 00 02");
        // Not the session's: goes back to its queue with the connection.
        pair.deliver(vec![delivery(ConsumerId(9), 77, message("b", one, b"q", now))]);
        let parked = pair.lose();

        let mut pair = log_in(version, true, parked.clone());
        pair.expect("62 02 00 02");
        assert_eq!(pair.connection.marked_credit(), 9);
        let again = |tag, guarantee, body: &[u8]| Delivery { redelivered: true, ..of(tag, guarantee, body) };
        // 4 and 5 have expired meanwhile, 7 is new. The receiver may hold 5, so it is told to let it go.
        pair.deliver(vec![again(3, two, b"3"), again(6, one, b"6"), of(7, one, b"7")]);
        pair.expect(&format!(
            "3c {len} 00 01 61 00 03 {none} 33  3a {len} 00 01 61 00 06 {none} 36  62 02 00 05
             32 {len} 00 01 61 00 04 {none} 37"
        ));
        pair.send("70 02 00 02  50 02 00 03  40 02 00 06  40 02 00 04  70 02 00 03");
        pair.expect("62 02 00 03");
        pair.expect_calls(&["settle 0 [3, 6, 7] Accepted"]);
        assert_eq!(pair.connection.marked_credit(), 9);
        pair.send("70 02 00 05");
        assert_eq!(pair.connection.marked_credit(), 10);

        // Lost again before anything came again: still owed.
        let parked_again = log_in(version, true, parked.clone()).lose();
        assert_eq!(parked_again, parked);
    }
}

#[test]
fn received_qos_2_is_not_published_again_after_resuming() {
    // [MQTT-4.3.3-10] over a reconnect.
    let mut pair = log_in(Version::V311, false, None);
    pair.send("34 06 00 01 61 00 08 78");
    pair.agree();
    let parked = pair.lose();
    let mut pair = log_in(Version::V311, true, parked);
    pair.send("3c 06 00 01 61 00 08 78  62 02 00 08");
    pair.expect_calls(&[]);
    pair.expect("50 02 00 08  70 02 00 08");
}

#[test]
fn consumers_keep_their_numbers() {
    let mut pair = log_in(Version::V5, false, None);
    pair.send("82 07 00 01 00 00 01 61 01  82 07 00 02 00 00 01 62 02");
    pair.send("82 10 00 03 00 00 0a 24 73 68 61 72 65 2f 67 2f 63 01");
    pair.agree();
    pair.send("a2 06 00 04 00 00 01 61");
    pair.agree();
    let parked = pair.lose();
    let mut pair = log_in(Version::V5, true, parked);
    // The group's member ended with the connection; the rest is in force.
    assert_eq!(pair.texts(), ["attach 3 shared c g settled=false Window(10)"]);
    pair.agree();
    pair.expect("");
    pair.send("82 07 00 01 00 00 01 62 00  82 07 00 02 00 00 01 64 00");
    assert_eq!(
        pair.texts(),
        ["attach 2 topic b Session settled=false Socket", "attach 4 topic d Session settled=false Socket"]
    );
}

#[test]
fn inherited_subscriptions_can_be_ended() {
    let mut pair = log_in(Version::V311, false, None);
    pair.send("82 06 00 01 00 01 61 01");
    pair.agree();
    let parked = pair.lose();
    let mut pair = log_in(Version::V311, true, parked);
    pair.send("a2 05 00 03 00 01 61");
    assert_eq!(
        pair.texts(),
        [
            "attach 1 topic a Session settled=false Socket",
            "detach 1 End { forget: true, keep_unsettled: true }"
        ]
    );
    pair.agree();
    pair.expect("b0 02 00 03");
}

#[test]
fn a_session_that_ends_with_this_connection_still_holds_its_subscriptions() {
    // Clean start 0 with session expiry 0: resumed, and gone at the end.
    let packet = Connect { clean: false, ..connect(Version::V5, &[]) };
    let mut pair = Pair::log_in(MqttConfig::default(), packet, opened(true, Expiry::AtEnd, None));
    pair.send("82 07 00 01 00 00 01 61 01");
    assert_eq!(pair.texts(), ["attach 1 topic a Session settled=false Socket"]);
}

#[test]
fn a_state_that_cannot_be_read_is_as_good_as_none() {
    let mut pair = log_in(Version::V5, true, Some(Bytes::from_static(b"\x07nonsense")));
    pair.send("c0 00");
    pair.expect("d0 00");
}

#[test]
fn qos_0_of_a_session_is_not_parked() {
    let mut pair = log_in(Version::V311, false, None);
    let now = pair.now;
    pair.deliver(vec![delivery(ConsumerId::SESSION, 1, message("a", Guarantee::AtMostOnce, b"", now))]);
    pair.expect_calls(&["settle 0 [1] Accepted"]);
    let parked = pair.lose().unwrap();
    assert_eq!(crate::parked::Parked::decode(&parked).unwrap(), crate::parked::Parked::default());
}
