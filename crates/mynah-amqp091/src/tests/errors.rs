use std::time::Duration;

use mynah_core::protocol::{Connection, Farewell, RefusalKind, ViolationKind};

use super::{NONE, Pair, basic_publish, body, header, method};
use crate::codec::method::Request;

fn passive(queue: &str) -> Request<'_> {
    Request::QueueDeclare {
        ticket: 0,
        queue,
        passive: true,
        durable: false,
        exclusive: false,
        auto_delete: false,
        no_wait: false,
        arguments: NONE,
    }
}

#[test]
fn a_soft_error_ends_the_channel_only() {
    let mut pair = Pair::open();
    pair.request(1, passive("nope"));
    pair.refuse(RefusalKind::NotFound, "no queue 'nope' in vhost '/'");
    let close = "1 ChannelClose { code: 404, text: \"NOT_FOUND - no queue 'nope' in vhost '/'\", class: 50, method: 10 }";
    assert_eq!(pair.wire(), [close]);
    pair.request(2, Request::ChannelOpen { out_of_band: "" });
    assert_eq!(pair.wire(), ["2 ChannelOpenOk { channel_id: [] }"]);
}

#[test]
fn a_client_may_close_the_channel_we_are_closing() {
    let mut pair = Pair::open();
    pair.request(1, passive("nope"));
    pair.refuse(RefusalKind::NotFound, "no");
    pair.wire();
    pair.request(1, Request::ChannelClose { code: 200, text: "", class: 0, method: 0 });
    assert_eq!(pair.wire(), ["1 ChannelCloseOk"]);
    pair.request(1, Request::ChannelOpen { out_of_band: "" });
    assert_eq!(pair.wire(), ["1 ChannelOpenOk { channel_id: [] }"]);
}

#[test]
fn refusals_have_codes() {
    let check = |kind, code: &str| {
        let mut pair = Pair::open();
        pair.request(1, passive("q"));
        pair.refuse(kind, "text");
        let wire = pair.wire();
        assert!(wire[0].contains(code) && wire[0].contains("- text"), "{wire:?}");
    };
    check(RefusalKind::Forbidden, "1 ChannelClose { code: 403, text: \"ACCESS_REFUSED");
    check(RefusalKind::NotFound, "1 ChannelClose { code: 404, text: \"NOT_FOUND");
    check(RefusalKind::Locked, "1 ChannelClose { code: 405, text: \"RESOURCE_LOCKED");
    check(RefusalKind::Conflict, "1 ChannelClose { code: 406, text: \"PRECONDITION_FAILED");
    check(RefusalKind::Unavailable, "0 ConnectionClose { code: 541, text: \"INTERNAL_ERROR");
}

/// Bytes that end the connection with this code.
fn hard(bytes: &[u8], code: u16, text: &str) -> Pair {
    let mut pair = Pair::open();
    pair.bytes(bytes);
    let wire = pair.wire();
    assert_eq!(wire.len(), 1, "{wire:?}");
    assert!(wire[0].starts_with(&format!("0 ConnectionClose {{ code: {code}, ")), "{wire:?}");
    assert!(wire[0].contains(text), "{wire:?}");
    pair
}

#[test]
fn hard_errors_end_the_connection() {
    let publish = |channel| method(channel, basic_publish("", "q", false)).to_vec();
    let two = |one: &[u8], other: &[u8]| [one, other].concat();
    // 501: frames that are none
    hard(b"\x01\0\x01\0\0\0\0\xcd", 501, "frame end octet 0xCE expected, got 0xCD");
    hard(b"\x01\0\x01\0\x02\0\0", 501, "larger than the negotiated frame_max of 131072");
    hard(b"\x05\0\x01", 501, "unknown frame type 5");
    // 502: arguments that cannot be read
    hard(b"\x01\0\x01\0\0\0\x05\0\x3c\0\x50\0\xce", 502, "class: 60, method: 80");
    // 503: methods that do not exist or not here
    hard(b"\x01\0\x01\0\0\0\x04\0\x63\0\x01\xce", 503, "no method 1 in class 99");
    hard(&method(0, Request::ChannelOpen { out_of_band: "" }), 503, "COMMAND_INVALID");
    hard(&method(1, Request::ConnectionCloseOk {}), 503, "only allowed on channel 0");
    // 504: channels
    hard(&method(9, Request::TxSelect {}), 504, "CHANNEL_ERROR - expected 'channel.open'");
    hard(&method(1, Request::ChannelOpen { out_of_band: "" }), 504, "second 'channel.open' seen");
    hard(&method(3000, Request::ChannelOpen { out_of_band: "" }), 504, "range of 1 to 2047");
    // 505: frames in the wrong order
    hard(&two(&publish(1), &publish(1)), 505, "expected content header for class 60");
    hard(&two(&publish(1), &body(1, b"x")), 505, "expected content header for class 60");
    hard(&header(1, 1, &[0, 0]), 505, "expected method frame");
    hard(&two(&two(&publish(1), &header(1, 2, &[0, 0])), &publish(1)), 505, "expected content body");
    hard(
        &two(&two(&publish(1), &header(1, 1, &[0, 0])), &body(1, b"xy")),
        505,
        "longer than its header said",
    );
    hard(b"\x08\0\x01\0\0\0\0\xce", 505, "heartbeat");
    // 540
    hard(
        &method(1, Request::BasicQos { prefetch_size: 1, prefetch_count: 0, global: false }),
        540,
        "prefetch_size!=0 (1)",
    );
    hard(&method(1, Request::BasicRecover { requeue: false }), 540, "requeue=false");
}

#[test]
fn after_a_hard_error_only_the_answer_counts() {
    let mut pair = hard(&method(9, Request::TxSelect {}), 504, "");
    pair.calls();
    pair.bytes(&super::publish(1, "", "q", b"x"));
    assert!(pair.calls().is_empty() && pair.wire().is_empty() && pair.violation.is_none());
    pair.request(0, Request::ConnectionCloseOk {});
    assert_eq!(pair.violation.unwrap().kind, ViolationKind::Protocol);
}

#[test]
fn an_answer_that_does_not_come_is_not_awaited_for_ever() {
    let mut pair = hard(&method(9, Request::TxSelect {}), 504, "");
    assert_eq!(pair.connection.deadline(), Some(pair.now + Duration::from_secs(10)));
    pair.deadline();
    assert!(pair.violation.is_some());
}

#[test]
fn a_close_that_crosses_ours_is_answered() {
    let mut pair = hard(&method(9, Request::TxSelect {}), 504, "");
    pair.request(0, Request::ConnectionClose { code: 200, text: "", class: 0, method: 0 });
    assert_eq!(pair.wire(), ["0 ConnectionCloseOk"]);
    pair.request(0, Request::ConnectionCloseOk {});
    assert!(pair.violation.is_some() || pair.host.closed == Some(Farewell::Abrupt { expiry: None }));
}

#[test]
fn incomplete_bodies_of_all_channels_are_bounded() {
    let mut pair = Pair::with(crate::Amqp091Config { message_bytes_max: 1000, ..Default::default() });
    pair.log_in();
    pair.wire();
    for number in 1..=9 {
        pair.request(number, Request::ChannelOpen { out_of_band: "" });
        pair.request(number, basic_publish("", "q", false));
        pair.bytes(&header(number, 1000, &[0, 0]));
        pair.bytes(&body(number, &[b'x'; 900]));
    }
    let wire = pair.wire();
    assert!(wire.last().unwrap().contains("0 ConnectionClose { code: 506"), "{wire:?}");
}
