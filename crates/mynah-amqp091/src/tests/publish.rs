use bytes::BytesMut;
use mynah_core::AddressRef;
use mynah_core::protocol::{Refusal, RefusalKind, Reply};

use super::{Pair, basic_publish, body, header, message, method, publish};
use crate::codec::method::Request;
use crate::codec::property::PropertyList;

fn properties(list: PropertyList<'_>) -> Vec<u8> {
    let mut buf = BytesMut::new();
    list.write(&mut buf);
    buf.to_vec()
}

/// A publish with these properties to queue `q`.
fn with(list: PropertyList<'_>) -> Vec<u8> {
    let mut bytes = method(1, basic_publish("", "q", false)).to_vec();
    bytes.extend_from_slice(&header(1, 1, &properties(list)));
    bytes.extend_from_slice(&body(1, b"x"));
    bytes
}

#[test]
fn where_keys_lead() {
    let check = |exchange: &str, key: &str, expected: &str| {
        let mut pair = Pair::open();
        pair.bytes(&publish(1, exchange, key, b"x"));
        assert_eq!(pair.calls(), [format!("publish {expected} AtMostOnce No")]);
    };
    check("", "q", "exchange::q");
    check("amq.topic", "a.b", "topic:a/b");
    check("amq.topic", "room%2E2.t", "topic:room.2/t");
    check("amq.direct", "a.b", "exchange:amq.direct:a.b");
    check("mine", "k", "exchange:mine:k");
    check("p2p", "c", "client:c");
    check("", "/topics/a/b.c", "topic:a/b.c");
    check("", "/p2p/c", "client:c");
    check("", "/exchanges/e/k", "exchange:e:k");
    check("", "/not/such", "exchange::/not/such");
}

#[test]
fn bodies_of_any_length_and_in_any_frames() {
    // 0-9-1 section 4.2.6: an empty body has no frame.
    let mut pair = Pair::open();
    pair.bytes(&publish(1, "", "q", b""));
    pair.bytes(&publish(1, "", "q", b"x"));
    pair.request(1, basic_publish("", "q", false));
    pair.bytes(&header(1, 5, &[0, 0]));
    pair.bytes(&body(1, b"ab"));
    pair.bytes(&body(1, b"cd"));
    assert_eq!(pair.host.calls.len(), 2);
    pair.bytes(&body(1, b"e"));
    let bodies: Vec<_> = pair.host.calls.iter().map(|call| call.body.to_vec()).collect();
    assert_eq!(bodies, [b"".to_vec(), b"x".to_vec(), b"abcde".to_vec()]);
    assert_eq!(pair.connection.assembling, 0);
}

#[test]
fn channels_interleave() {
    let mut pair = Pair::open();
    pair.request(2, Request::ChannelOpen { out_of_band: "" });
    pair.request(1, basic_publish("", "one", false));
    pair.request(2, basic_publish("", "two", false));
    pair.bytes(&header(2, 1, &[0, 0]));
    pair.bytes(&header(1, 1, &[0, 0]));
    pair.bytes(&body(1, b"1"));
    pair.bytes(&body(2, b"2"));
    let seen: Vec<_> = pair.host.calls.iter().map(|call| (call.text.clone(), call.body.to_vec())).collect();
    assert_eq!(seen[0], ("publish exchange::one AtMostOnce No".to_owned(), b"1".to_vec()));
    assert_eq!(seen[1], ("publish exchange::two AtMostOnce No".to_owned(), b"2".to_vec()));
}

#[test]
fn properties_that_the_broker_heeds() {
    let mut pair = Pair::open();
    pair.bytes(&with(PropertyList { delivery_mode: Some(2), ..PropertyList::default() }));
    pair.bytes(&with(PropertyList { delivery_mode: Some(1), ..PropertyList::default() }));
    pair.bytes(&with(PropertyList { user_id: Some(b"guest"), ..PropertyList::default() }));
    let calls = pair.calls();
    assert_eq!(calls.len(), 3);
    assert!(calls[0].contains("AtLeastOnce") && calls[1].contains("AtMostOnce"));
    assert!(pair.wire().is_empty());
}

#[test]
fn properties_that_are_refused() {
    let check = |list: PropertyList<'_>, text: &str| {
        let mut pair = Pair::open();
        pair.bytes(&with(list));
        let wire = pair.wire();
        assert!(wire[0].contains("ChannelClose { code: 406"), "{wire:?}");
        assert!(wire[0].contains(text) && wire[0].contains("class: 60, method: 40"), "{wire:?}");
        assert!(pair.calls().is_empty());
    };
    check(PropertyList { expiration: Some(b"-1"), ..PropertyList::default() }, "invalid expiration '-1'");
    check(PropertyList { expiration: Some(b"soon"), ..PropertyList::default() }, "invalid expiration 'soon'");
    check(
        PropertyList { user_id: Some(b"root"), ..PropertyList::default() },
        "user_id property set to 'root' but authenticated user was 'guest'",
    );
    check(
        PropertyList { reply_to: Some(b"amq.rabbitmq.reply-to"), ..PropertyList::default() },
        "fast reply consumer does not exist",
    );
}

#[test]
fn confirms_are_one_ascending_row() {
    let mut pair = Pair::open();
    pair.request(1, Request::ConfirmSelect { no_wait: false });
    assert_eq!(pair.wire(), ["1 ConfirmSelectOk"]);
    for _ in 0..3 {
        pair.bytes(&publish(1, "", "q", b"x"));
    }
    pair.agree();
    assert_eq!(pair.wire(), ["1 BasicAck { tag: 3, multiple: true }"]);
    pair.bytes(&publish(1, "", "q", b"x"));
    pair.agree();
    assert_eq!(pair.wire(), ["1 BasicAck { tag: 4, multiple: false }"]);
}

#[test]
fn without_confirm_mode_nothing_is_said() {
    let mut pair = Pair::open();
    pair.bytes(&publish(1, "", "q", b"x"));
    pair.agree();
    assert!(pair.wire().is_empty());
    assert!(pair.connection.publishes.is_empty());
}

#[test]
fn a_full_queue_is_a_nack() {
    let mut pair = Pair::open();
    pair.request(1, Request::ConfirmSelect { no_wait: true });
    for _ in 0..4 {
        pair.bytes(&publish(1, "", "q", b"x"));
    }
    let mut replies = pair.host.agree();
    replies[2].1 = Reply::Refused(Refusal::new(RefusalKind::Full, "full"));
    pair.replies(replies);
    assert_eq!(
        pair.wire(),
        [
            "1 BasicAck { tag: 2, multiple: true }",
            "1 BasicNack { tag: 3, multiple: false, requeue: false }",
            "1 BasicAck { tag: 4, multiple: false }",
        ]
    );
}

#[test]
fn returned_before_it_is_confirmed() {
    let mut pair = Pair::open();
    pair.request(1, Request::ConfirmSelect { no_wait: true });
    let mut bytes = method(1, basic_publish("", "nowhere", true)).to_vec();
    bytes.extend_from_slice(&header(1, 2, &[0x10, 0, 2]));
    bytes.extend_from_slice(&body(1, b"hi"));
    pair.bytes(&bytes);
    assert_eq!(pair.host.calls[0].text, "publish exchange::nowhere AtLeastOnce No mandatory");
    let (ticket, _) = pair.host.take_tickets().remove(0);
    let returned = message(AddressRef::Exchange { name: "", key: "nowhere" }, &[0x10, 0, 2], b"hi");
    pair.replies(vec![(ticket, Reply::Returned(returned))]);
    assert_eq!(
        pair.wire(),
        [
            "1 BasicReturn { code: 312, text: \"NO_ROUTE\", exchange: \"\", key: \"nowhere\" }",
            "1 header 2 \\x10\\x00\\x02",
            "1 body hi",
            "1 BasicAck { tag: 1, multiple: false }",
        ]
    );
}

#[test]
fn a_missing_exchange_closes_the_channel_once() {
    let mut pair = Pair::open();
    for _ in 0..100 {
        pair.bytes(&publish(1, "missing", "k", b"x"));
    }
    let tickets = pair.host.take_tickets();
    let refused = |(ticket, _)| {
        (ticket, Reply::Refused(Refusal::new(RefusalKind::NotFound, "no exchange 'missing' in vhost '/'")))
    };
    pair.replies(tickets.into_iter().map(refused).collect());
    let close = "1 ChannelClose { code: 404, text: \"NOT_FOUND - no exchange 'missing' in vhost '/'\", class: 60, method: 40 }";
    assert_eq!(pair.wire(), [close]);
    // 0-9-1 section 1.5.2.5: what comes before the answer is discarded, and then the number is free.
    pair.bytes(&publish(1, "missing", "k", b"x"));
    assert!(pair.calls().is_empty() && pair.wire().is_empty());
    pair.request(1, Request::ChannelCloseOk {});
    pair.request(1, Request::ChannelOpen { out_of_band: "" });
    assert_eq!(pair.wire(), ["1 ChannelOpenOk { channel_id: [] }"]);
    pair.bytes(&publish(1, "", "q", b"x"));
    assert_eq!(pair.calls().len(), 1);
}

#[test]
fn replies_of_an_earlier_channel_of_the_same_number() {
    let mut pair = Pair::open();
    pair.request(1, Request::ConfirmSelect { no_wait: true });
    pair.bytes(&publish(1, "", "q", b"x"));
    pair.request(1, Request::ChannelClose { code: 200, text: "", class: 0, method: 0 });
    pair.request(1, Request::ChannelOpen { out_of_band: "" });
    pair.request(1, Request::ConfirmSelect { no_wait: true });
    pair.bytes(&publish(1, "", "q", b"y"));
    pair.wire();
    let mut replies = pair.host.agree();
    let second = replies.pop().unwrap();
    pair.replies(replies);
    assert!(pair.wire().is_empty());
    pair.replies(vec![second]);
    assert_eq!(pair.wire(), ["1 BasicAck { tag: 1, multiple: false }"]);
}

#[test]
fn a_missing_queue_is_no_error() {
    let mut pair = Pair::open();
    pair.request(1, Request::ConfirmSelect { no_wait: true });
    pair.bytes(&publish(1, "", "q", b"x"));
    pair.refuse(RefusalKind::NotFound, "no queue");
    assert_eq!(pair.wire(), ["1 BasicAck { tag: 1, multiple: false }"]);
}

#[test]
fn a_body_that_is_too_large() {
    let mut pair = Pair::open();
    pair.request(1, basic_publish("", "q", false));
    pair.bytes(&header(1, (16 << 20) + 1, &[0, 0]));
    let wire = pair.wire();
    let text = "PRECONDITION_FAILED - message size 16777217 is larger than configured max size 16777216";
    assert!(wire[0].contains("ChannelClose { code: 406") && wire[0].contains(text), "{wire:?}");
    pair.bytes(&body(1, b"it comes all the same"));
    assert!(pair.wire().is_empty());
}

#[test]
fn immediate_is_not_implemented() {
    let mut pair = Pair::open();
    pair.request(
        1,
        Request::BasicPublish { ticket: 0, exchange: "", key: "q", mandatory: false, immediate: true },
    );
    let wire = pair.wire();
    assert!(wire[0].contains("0 ConnectionClose { code: 540, text: \"NOT_IMPLEMENTED - immediate=true\""));
}

#[test]
fn too_many_unanswered_publishes_stop_the_reading() {
    let mut pair = Pair::with(crate::Amqp091Config { publishes_max: 2, ..Default::default() });
    pair.log_in();
    pair.request(1, Request::ChannelOpen { out_of_band: "" });
    pair.calls();
    for _ in 0..5 {
        pair.bytes(&publish(1, "", "q", b"x"));
    }
    assert_eq!(pair.agree().len(), 2);
    assert_eq!(pair.agree().len(), 2);
    assert_eq!(pair.agree().len(), 1);
}

#[test]
fn transactions() {
    let mut pair = Pair::open();
    pair.request(1, Request::TxSelect {});
    let begun = pair.agree();
    let first = begun[0].strip_prefix("transact Begin(TransactionId(").unwrap().to_owned();
    assert_eq!(pair.wire(), ["1 TxSelectOk"]);
    pair.bytes(&publish(1, "", "q", b"x"));
    let id = first.trim_end_matches(')');
    assert_eq!(pair.agree(), [format!("publish exchange::q AtMostOnce No tx{id}")]);
    pair.request(1, Request::TxCommit {});
    assert_eq!(pair.agree(), [format!("transact Commit(TransactionId({first}")]);
    assert_eq!(pair.wire(), ["1 TxCommitOk"]);
    assert!(pair.calls()[0].starts_with("transact Begin"), "the next one begins at once");
    pair.request(1, Request::TxRollback {});
    assert!(pair.agree()[0].starts_with("transact Rollback"));
    assert_eq!(pair.wire(), ["1 TxRollbackOk"]);
}

#[test]
fn a_rollback_undoes_acknowledgements() {
    let mut pair = Pair::open();
    let consumer = pair.consumer(1, "c", false);
    pair.done(1, Request::TxSelect {});
    for tag in 1..=3 {
        pair.deliver(super::delivery(consumer, tag, false));
    }
    pair.wire();
    pair.request(1, Request::BasicAck { tag: 2, multiple: false });
    assert!(pair.calls()[0].starts_with(&format!("settle {} [2] Accepted tx", consumer.0)));
    pair.done(1, Request::TxRollback {});
    pair.calls();
    pair.request(1, Request::BasicAck { tag: 3, multiple: true });
    assert!(pair.calls()[0].starts_with(&format!("settle {} [1, 2, 3] Accepted tx", consumer.0)));
    pair.done(1, Request::TxCommit {});
    pair.calls();
    pair.request(1, Request::BasicAck { tag: 2, multiple: false });
    assert!(pair.wire()[0].contains("unknown delivery tag 2"));
}

#[test]
fn confirms_and_transactions_exclude_each_other() {
    let mut pair = Pair::open();
    pair.request(1, Request::ConfirmSelect { no_wait: true });
    pair.request(1, Request::TxSelect {});
    assert!(
        pair.wire()[0].contains("406, text: \"PRECONDITION_FAILED - cannot switch from confirm to tx mode")
    );
    let mut pair = Pair::open();
    pair.done(1, Request::TxSelect {});
    pair.request(1, Request::ConfirmSelect { no_wait: false });
    assert!(pair.wire()[0].contains("cannot switch from tx to confirm mode"));
    let mut pair = Pair::open();
    pair.request(1, Request::TxCommit {});
    assert!(pair.wire()[0].contains("channel is not transactional"));
}
