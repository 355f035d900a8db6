use std::time::Duration;

use mynah_core::protocol::{Connection, Farewell, Input, Notice, RefusalKind, ViolationKind};

use super::{NONE, Pair};
use crate::codec::field::Table;
use crate::codec::method::Request;
use crate::config::Amqp091Config;
use crate::version;

fn start_ok<'a>(properties: Table<'a>, mechanism: &'a str, response: &'a [u8]) -> Request<'a> {
    Request::ConnectionStartOk { client_properties: properties, mechanism, response, locale: "en_US" }
}

const CLOSES: &[u8] = b"\x0ccapabilitiesF\0\0\0\x1f\x1cauthentication_failure_closet\x01";

#[test]
fn from_header_to_open_ok() {
    let mut pair = Pair::with(Amqp091Config::default());
    pair.bytes(b"AMQP\x00");
    assert!(pair.wire().is_empty());
    pair.bytes(b"\x00\x09\x01");
    let start = pair.wire();
    assert_eq!(start.len(), 1);
    assert!(start[0].starts_with("0 ConnectionStart { version_major: 0, version_minor: 9"), "{}", start[0]);
    let mut pair = Pair::with(Amqp091Config::default());
    pair.log_in();
    let wire = pair.wire();
    assert_eq!(wire[1], "0 ConnectionTune { channel_max: 2047, frame_max: 131072, heartbeat: 60 }");
    assert_eq!(wire[2], "0 ConnectionOpenOk { known_hosts: \"\" }");
}

#[test]
fn capabilities_that_work_are_claimed() {
    let mut pair = Pair::with(Amqp091Config::default());
    pair.bytes(version::HEADER);
    let wire = pair.host.take_wire();
    let has = |name: &[u8]| wire.windows(name.len()).any(|window| window == name);
    for name in [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
        "product",
        "Mynah",
    ] {
        assert!(has(name.as_bytes()), "{name}");
    }
    assert!(!has(b"connection.blocked"), "it is never sent");
}

#[test]
fn the_host_is_asked() {
    let mut pair = Pair::with(Amqp091Config::default());
    pair.bytes(version::HEADER);
    pair.request(0, start_ok(NONE, "PLAIN", b"\0alice\0se\0cret"));
    assert_eq!(pair.agree(), ["authenticate alice se\0cret"]);
    pair.request(0, Request::ConnectionTuneOk { channel_max: 0, frame_max: 0, heartbeat: 0 });
    pair.request(0, Request::ConnectionOpen { virtual_host: "v", capabilities: "", insist: false });
    assert_eq!(pair.agree(), ["open  AMQP 0-9-1 Some(\"v\") None"]);
    assert_eq!(pair.connection.deadline(), None, "heartbeats were declined");
}

#[test]
fn other_mechanisms() {
    let check = |mechanism: &str, response: &[u8], expected: &str| {
        let mut pair = Pair::with(Amqp091Config::default());
        pair.bytes(version::HEADER);
        pair.request(0, start_ok(NONE, mechanism, response));
        assert_eq!(pair.calls(), [expected]);
    };
    check("AMQPLAIN", b"\x05LOGINS\0\0\0\x01u\x08PASSWORDS\0\0\0\x01p", "authenticate u p");
    check("ANONYMOUS", b"", "authenticate anonymous");
    check("PLAIN", b"other\0u\0p", "authenticate u p");
}

#[test]
fn bad_protocol_header_gets_ours() {
    // 0-9-1 section 4.2.2
    let mut pair = Pair::with(Amqp091Config::default());
    pair.bytes(b"HTTP/1.1");
    assert_eq!(&pair.host.take_wire()[..], b"AMQP\x00\x00\x09\x01");
    assert_eq!(pair.violation.map(|violation| violation.kind), Some(ViolationKind::Malformed));
}

#[test]
fn a_refused_login() {
    let mut pair = Pair::with(Amqp091Config::default());
    pair.bytes(version::HEADER);
    pair.host.take_wire();
    pair.request(0, start_ok(Table::new(CLOSES).unwrap(), "PLAIN", b"\0u\0p"));
    pair.refuse(RefusalKind::Unauthenticated, "no");
    let wire = pair.wire();
    assert!(wire[0].starts_with("0 ConnectionClose { code: 403, text: \"ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN"), "{wire:?}");
    assert_eq!(pair.violation.unwrap().kind, ViolationKind::Unauthenticated);
    // Without the capability the connection just ends.
    let mut pair = Pair::with(Amqp091Config::default());
    pair.bytes(version::HEADER);
    pair.host.take_wire();
    pair.request(0, start_ok(NONE, "PLAIN", b"\0u\0p"));
    pair.refuse(RefusalKind::Unauthenticated, "no");
    assert!(pair.wire().is_empty());
    assert!(pair.violation.is_some());
}

#[test]
fn a_missing_virtual_host() {
    let mut pair = Pair::with(Amqp091Config::default());
    pair.bytes(version::HEADER);
    pair.request(0, start_ok(NONE, "ANONYMOUS", b""));
    pair.agree();
    pair.request(0, Request::ConnectionTuneOk { channel_max: 0, frame_max: 0, heartbeat: 0 });
    pair.request(0, Request::ConnectionOpen { virtual_host: "nope", capabilities: "", insist: false });
    pair.host.take_wire();
    pair.refuse(RefusalKind::NotFound, "x");
    let close = "0 ConnectionClose { code: 530, text: \"NOT_ALLOWED - vhost nope not found\", class: 10, method: 40 }";
    assert_eq!(pair.wire(), [close]);
}

#[test]
fn tune_is_checked() {
    let check = |channel_max, frame_max, text: &str| {
        let mut pair = Pair::with(Amqp091Config::default());
        pair.bytes(version::HEADER);
        pair.request(0, start_ok(NONE, "ANONYMOUS", b""));
        pair.agree();
        pair.host.take_wire();
        pair.request(0, Request::ConnectionTuneOk { channel_max, frame_max, heartbeat: 0 });
        let wire = pair.wire();
        assert!(wire[0].contains("530") && wire[0].contains(text), "{wire:?}");
    };
    check(0, 4095, "negotiated frame_max = 4095 is lower than the minimum allowed value (4096)");
    check(0, 131_073, "negotiated frame_max = 131073 is higher than the maximum allowed value (131072)");
    check(2048, 0, "negotiated channel_max = 2048 is higher than the maximum allowed value (2047)");
}

#[test]
fn a_slow_login_ends() {
    let mut pair = Pair::with(Amqp091Config::default());
    let begun = pair.now;
    assert_eq!(pair.connection.deadline(), Some(begun + Duration::from_secs(10)));
    pair.deadline();
    assert_eq!(pair.violation.unwrap().kind, ViolationKind::Timeout);
}

#[test]
fn heartbeats_both_ways() {
    // 0-9-1 section 4.2.7: at half the interval, and two missed ones end the connection without a close.
    let mut pair = Pair::open();
    let opened = pair.now;
    assert_eq!(pair.connection.deadline(), Some(opened + Duration::from_secs(30)));
    for _ in 0..3 {
        pair.deadline();
        assert_eq!(pair.wire(), ["0 heartbeat"]);
    }
    assert_eq!(pair.now, opened + Duration::from_secs(90));
    pair.bytes(b"\x08\0\0\0\0\0\0\xce");
    assert!(pair.wire().is_empty());
    while pair.violation.is_none() {
        pair.deadline();
        pair.host.take_wire();
    }
    assert_eq!(pair.now, opened + Duration::from_secs(90 + 120));
    assert_eq!(pair.violation.unwrap().kind, ViolationKind::Timeout);
}

#[test]
fn traffic_counts_as_a_heartbeat() {
    let mut pair = Pair::open();
    pair.later(Duration::from_secs(29));
    pair.request(1, Request::BasicQos { prefetch_size: 0, prefetch_count: 1, global: false });
    assert_eq!(pair.connection.deadline(), Some(pair.now + Duration::from_secs(30)));
}

#[test]
fn good_byes() {
    let mut pair = Pair::open();
    pair.request(0, Request::ConnectionClose { code: 200, text: "bye", class: 0, method: 0 });
    assert_eq!(pair.wire(), ["0 ConnectionCloseOk"]);
    assert_eq!(pair.host.closed, Some(Farewell::Clean { expiry: None }));

    let mut pair = Pair::open();
    pair.input(Input::Shutdown);
    let wire = pair.wire();
    assert!(wire[0].contains("code: 320, text: \"CONNECTION_FORCED - "), "{wire:?}");
    assert!(pair.host.closed.is_some());

    let mut pair = Pair::open();
    pair.notice(Notice::Kicked { reason: "because".into() });
    let wire = pair.wire();
    assert!(wire[0].contains("320") && wire[0].contains("because"), "{wire:?}");
}

#[test]
fn old_libraries_get_their_ticket() {
    let mut pair = Pair::open();
    let [exclusive, passive, active, write, read] = [true; 5];
    pair.request(1, Request::AccessRequest { realm: "/data", exclusive, passive, active, write, read });
    assert_eq!(pair.wire(), ["1 AccessRequestOk { ticket: 1 }"]);
}

#[test]
fn update_secret_is_answered() {
    let mut pair = Pair::open();
    pair.request(0, Request::ConnectionUpdateSecret { secret: b"new", reason: "old" });
    assert_eq!(pair.wire(), ["0 ConnectionUpdateSecretOk"]);
}
