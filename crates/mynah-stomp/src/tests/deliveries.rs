//! MESSAGE frames, and their acknowledgements.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mynah_core::protocol::{Input, Notice};
use mynah_core::{
    Address, AddressRef, Cause, ConsumerId, ContentRef, Death, Delivery, Guarantee, Header, Message,
    Properties, PublishRef, Retain, Value,
};

use super::{ALL, Client, check_error, delivery, delivery_of};
use crate::FORMAT;

fn subscribed(version: &str, headers: &str) -> Client {
    let mut client = Client::open(version);
    client.play(&format!("SUBSCRIBE\nid:0\n{headers}\n\n^"));
    client.calls.clear();
    client
}

#[test]
fn what_a_message_says_in_each_version() {
    let ack = "destination:/queue/a\nack:client-individual";
    let check = |version: &str, expected: &str| {
        let mut client = subscribed(version, ack);
        let mut second = delivery(1, 9, AddressRef::Queue("a"), "hello");
        (second.redelivered, second.attempts) = (true, 2);
        client.deliver(vec![delivery(1, 8, AddressRef::Queue("a"), ""), second]);
        assert_eq!(client.wire(), expected, "{version}");
    };
    let old = "MESSAGE\nsubscription:0\ndestination:/queue/a\nmessage-id:1-1\nredelivered:false\n\
               content-length:0\n\n^\n\
               MESSAGE\nsubscription:0\ndestination:/queue/a\nmessage-id:1-2\nredelivered:true\ndelivery-count:2\n\
               content-length:5\n\nhello^\n";
    check("1.0", old);
    check("1.1", old);
    check(
        "1.2",
        "MESSAGE\nsubscription:0\ndestination:/queue/a\nmessage-id:1-1\nack:1-1\nredelivered:false\n\
         content-length:0\n\n^\n\
         MESSAGE\nsubscription:0\ndestination:/queue/a\nmessage-id:1-2\nack:1-2\nredelivered:true\n\
         delivery-count:2\ncontent-length:5\n\nhello^\n",
    );
}

#[test]
fn without_id_a_1_0_message_names_no_subscription() {
    let mut client = Client::open("1.0");
    client.play("SUBSCRIBE\ndestination:/queue/a\nack:client\n\n^");
    client.calls.clear();
    client.deliver(vec![delivery(1, 8, AddressRef::Queue("a"), "x")]);
    assert_eq!(
        client.wire(),
        "MESSAGE\ndestination:/queue/a\nmessage-id:1-1\nredelivered:false\ncontent-length:1\n\nx^\n"
    );
    client.play("ACK\nmessage-id: 1-1\n\n^");
    assert_eq!(client.take_calls(), ["settle 1 [8] Accepted"]);
}

#[test]
fn acknowledgements_of_one_read_go_together() {
    let mut client = subscribed("1.2", "destination:/queue/a\nack:client-individual");
    client.deliver((1..=5).map(|tag| delivery(1, tag * 10, AddressRef::Queue("a"), "x")).collect());
    client.wire();
    client.play("ACK\nid:1-2\n\n^ACK\nid:1-1\nreceipt:r\n\n^NACK\nid:1-3\n\n^NACK\nid:1-5\nrequeue:false\nreason:bad\n\n^");
    assert_eq!(
        client.take_calls(),
        [
            "settle 1 [20, 10] Accepted",
            "settle 1 [30] Modified { failed: true, undeliverable_here: false }",
            "settle 1 [50] Rejected { reason: Some(\"bad\") }"
        ]
    );
    assert_eq!(client.wire(), "RECEIPT\nreceipt-id:r\n\n^\n");
}

#[test]
fn a_cumulative_ack_stays_within_its_subscription() {
    // RabbitMQ 3.10 acknowledges messages of other subscriptions as well.
    for (version, key) in
        [("1.0", "message-id:1-2"), ("1.1", "message-id:1-2\nsubscription:0"), ("1.2", "id:1-2")]
    {
        let mut client = subscribed(version, "destination:/queue/a\nack:client");
        client.play("SUBSCRIBE\nid:1\ndestination:/queue/b\nack:client\n\n^");
        client.calls.clear();
        client.deliver(vec![
            delivery(1, 5, AddressRef::Queue("a"), "x"),
            delivery(2, 1, AddressRef::Queue("b"), "x"),
            delivery(1, 6, AddressRef::Queue("a"), "x"),
            delivery(1, 7, AddressRef::Queue("a"), "x"),
        ]);
        client.play(&format!("ACK\n{key}\n\n^"));
        assert_eq!(client.take_calls(), ["settle 1 [5, 6] Accepted"]);
    }
}

#[test]
fn acknowledgements_that_cannot_be() {
    check_error(&["1.2"], "ACK\nid:1-1\n\n^", "ACK of an unknown message", "1-1");
    check_error(&["1.2"], "NACK\nid:x\nreceipt:7\n\n^", "NACK of an unknown message", "receipt-id:7\n");
    check_error(&["1.2"], "ACK\nmessage-id:1-1\n\n^", "ACK without id", "header ack");
    check_error(&["1.1"], "ACK\nmessage-id:1-1\n\n^", "ACK without subscription", "id of the subscription");
    check_error(&["1.0", "1.1"], "ACK\nsubscription:0\n\n^", "ACK without message-id", "message-id");
    check_error(
        ALL,
        "NACK\nid:1-1\nmessage-id:1-1\nsubscription:0\nrequeue:perhaps\n\n^",
        "bad header requeue",
        "true",
    );
    // In the mode auto there is nothing to acknowledge.
    let mut client = subscribed("1.2", "destination:/queue/a");
    client.deliver(vec![Delivery { settled: true, ..delivery(1, 1, AddressRef::Queue("a"), "x") }]);
    client.wire();
    client.play("ACK\nid:1-1\n\n^");
    assert!(client.wire().contains("ack:auto"));
}

#[test]
fn a_subscriber_with_wildcards_hears_where_it_was_sent_in_its_own_spelling() {
    let check = |subscribed_to: &str, address: AddressRef<'_>, destination: &str| {
        let mut client = subscribed("1.2", &format!("destination:{subscribed_to}"));
        client.deliver(vec![Delivery { settled: true, ..delivery(1, 0, address, "x") }]);
        let wire = client.wire();
        assert!(wire.contains(&format!("\ndestination:{destination}\n")), "{wire}");
    };
    check("/topic/a.*", AddressRef::Topic("a/b.c"), "/topic/a.b%2Ec");
    check("/topic/a/*", AddressRef::Topic("a/b.c"), "/topic/a/b%2Ec");
    check("/topic/a/b", AddressRef::Topic("a/b"), "/topic/a/b");
    check("/topic/a.b", AddressRef::Topic("a/b"), "/topic/a.b");
    check("/exchange/e/*.x", AddressRef::Exchange { name: "e", key: "k.x" }, "/exchange/e/k.x");
    check("/queue/dead", AddressRef::Queue("origin"), "/queue/dead");
}

fn from_elsewhere() -> Properties {
    Properties {
        message_id: Some(Value::U64(7)),
        user_id: Some(Bytes::from_static(b"guest")),
        reply_to: Some(Address::Topic("r/s".into())),
        correlation_id: Some(Value::from("c:1")),
        content_type: Some("text/plain".into()),
        creation_ms: Some(1_700_000_000_000),
        absolute_expiry_ms: Some(99),
        application: vec![
            ("colour".into(), Value::from("red\nblue")),
            ("a:b".into(), Value::I32(-5)),
            ("destination".into(), Value::from("/queue/forged")),
        ],
        ..Properties::default()
    }
}

#[test]
fn properties_of_other_protocols_become_headers() {
    let properties = from_elsewhere();
    let header = Header {
        guarantee: Guarantee::AtLeastOnce,
        retain: Retain::Replayed,
        priority: Some(4),
        ttl_ms: None,
        text: false,
    };
    let publish = PublishRef {
        header,
        content: ContentRef::Decoded(&properties),
        ..PublishRef::new(AddressRef::Queue("a"), b"\x00\xff")
    };
    let check = |version: &str, correlation: &str, own: &str| {
        let mut client = subscribed(version, "destination:/queue/a");
        client.deliver(vec![Delivery { settled: true, ..delivery_of(1, 1, &publish) }]);
        assert_eq!(
            client.host.take_wire(),
            [
                format!(
                    "MESSAGE\nsubscription:0\ndestination:/queue/a\nmessage-id:1-1\nredelivered:false\npriority:4\n\
                     persistent:true\nretained:true\ncontent-type:text/plain\ncorrelation-id:{correlation}\n\
                     reply-to:/topic/r.s\namqp-message-id:7\ntimestamp:1700000000000\nexpires:99\n\
                     user-id:guest\n{own}content-length:2\n\n"
                )
                .as_bytes(),
                b"\x00\xff\0\n"
            ]
            .concat()
        );
    };
    check("1.0", "c:1", "colour:red blue\na_b:-5\n");
    check("1.1", "c\\c1", "colour:red\\nblue\na\\cb:-5\n");
    check("1.2", "c\\c1", "colour:red\\nblue\na\\cb:-5\n");
}

/// Plays a SEND and hands the message to a subscriber of another version.
fn relay(from: &str, frame: &str, to: &str) -> String {
    struct Capture(Vec<(Message, bool)>);
    let mut sender = Client::open(from);
    sender.held = super::bytes(frame);
    // The recording host does not keep properties, so the SEND is read by its own parts.
    let mut scanner = crate::codec::Scanner::default();
    let limits = crate::codec::Limits { command: 32, line: 1000, headers: 100, head: 5000, body: 5000 };
    let scanned = scanner.next(&sender.held, &limits).unwrap();
    assert!(matches!(scanned, crate::codec::Scanned::Frame { skip: 0, .. }));
    let version = crate::Version::negotiate(Some(from));
    let found = crate::codec::Frame::found(&sender.held, &scanner, version).unwrap();
    let mut block = bytes::BytesMut::new();
    let config = crate::StompConfig::default();
    let send = crate::translate::Send::read(&found, &config, sender.now, &mut block).unwrap();
    let content = ContentRef::Encoded { format: FORMAT, bytes: &block, decode: crate::translate::decode };
    let publish =
        PublishRef { header: send.header, content, ..PublishRef::new(AddressRef::Queue("a"), found.body) };
    let capture = Capture(vec![(Message::from_publish(&publish, sender.now), send.header.text)]);
    let mut client = subscribed(to, "destination:/queue/a");
    let mut copy = delivery(1, 1, AddressRef::Queue("a"), "");
    copy.message = Arc::new(capture.0.into_iter().next().unwrap().0);
    copy.settled = true;
    client.deliver(vec![copy]);
    let wire = client.wire();
    let start = wire.find("redelivered:false\n").unwrap() + "redelivered:false\n".len();
    wire[start..wire.find("content-length").unwrap()].to_owned()
}

#[test]
fn headers_travel_from_version_to_version() {
    let check = |from: &str, headers: &str, to: &str, expected: &str| {
        let frame = format!("SEND\ndestination:/queue/a\n{headers}\n\nx^");
        assert_eq!(relay(from, &frame, to), expected, "{from} to {to}");
    };
    check("1.2", "k:a\\cb\\nc\\rd\\\\", "1.2", "k:a\\cb\\nc\\rd\\\\\n");
    check("1.2", "k:a\\cb\\nc\\rd\\\\", "1.1", "k:a\\cb\\nc d\\\\\n");
    check("1.2", "k:a\\cb\\nc\\rd\\\\", "1.0", "k:a:b c d\\\n");
    check("1.0", "k: a\\cb:c ", "1.2", "k:a\\\\cb\\cc\n");
    check("1.0", "k: a\\cb:c ", "1.0", "k:a\\cb:c\n");
    check("1.1", "k: a:b", "1.2", "k: a\\cb\n");
    // Of repeated headers the first counts [STOMP 1.2, Repeated Header Entries].
    check("1.2", "foo:World\nfoo:Hello", "1.2", "foo:World\n");
    check(
        "1.2",
        "content-type:text/x\nx:\n:y".strip_suffix("\n:y").unwrap(),
        "1.2",
        "content-type:text/x\nx:\n",
    );
    check(
        "1.2",
        "message-id:m\nreceipt:1\npriority:3\npersistent:true",
        "1.2",
        "priority:3\npersistent:true\namqp-message-id:m\n",
    );
    let many: String = (0..30).map(|n| format!("k{}:{n}\n", n % 20)).collect();
    let first: String = (0..20).map(|n| format!("k{n}:{n}\n")).collect();
    check("1.2", many.trim_end(), "1.2", &first);
    check("1.2", "expiration:1000\nexpires:5", "1.2", "expiration:1000\nexpires:5\n");
}

#[test]
fn the_history_of_a_dead_letter_is_told() {
    let now = Instant::now();
    let message = Message::from_publish(&PublishRef::new(AddressRef::Topic("t/u"), b"x"), now);
    let death = |cause, queue: &str, time_ms, reason: Option<&str>| Death {
        cause,
        queue: queue.into(),
        address: message.address.clone(),
        time_ms,
        count: 1,
        reason: reason.map(Into::into),
        original_ttl_ms: None,
    };
    let dead = message
        .dead_lettered(death(Cause::Expired, "first", 1, None), now)
        .dead_lettered(death(Cause::Rejected, "second", 2, Some("no: never")), now);
    let mut client = subscribed("1.2", "destination:/queue/dead");
    let mut copy = delivery(1, 1, AddressRef::Queue("dead"), "");
    (copy.message, copy.settled) = (Arc::new(dead), true);
    client.deliver(vec![copy]);
    let wire = client.wire();
    assert!(
        wire.contains(
            "x-death-cause:rejected\nx-death-queue:second\nx-death-destination:/topic/t.u\nx-death-count:1\n\
             x-death-time:2\nx-death-reason:no\\c never\nx-first-death-cause:expired\nx-first-death-queue:first\n"
        ),
        "{wire}"
    );
}

#[test]
fn what_is_sent_to_the_client_itself() {
    let copy = || Delivery { settled: true, ..delivery(0, 1, AddressRef::Client("me"), "x") };
    let mut client = Client::open("1.2");
    client.deliver(vec![copy()]);
    assert!(
        client.wire().starts_with("MESSAGE\nsubscription:/p2p/me\ndestination:/p2p/me\nmessage-id:0-1\n")
    );
    client.play("SUBSCRIBE\nid:own\ndestination:/p2p/me\nreceipt:1\n\n^");
    assert_eq!(client.wire(), "RECEIPT\nreceipt-id:1\n\n^\n");
    client.deliver(vec![copy()]);
    assert!(client.wire().starts_with("MESSAGE\nsubscription:own\ndestination:/p2p/me\n"));
    client.play("UNSUBSCRIBE\nid:own\nreceipt:2\n\n^");
    assert_eq!(client.wire(), "RECEIPT\nreceipt-id:2\n\n^\n");
    assert!(client.take_calls().is_empty());
    // Not settled by being sent: done all the same, as nobody acknowledges it.
    client.deliver(vec![Delivery { settled: false, ..copy() }]);
    assert_eq!(client.take_calls(), ["settle 0 [1] Accepted"]);
}

#[test]
fn a_browser_sees_the_end() {
    let mut client = Client::open("1.2");
    client.play("SUBSCRIBE\nid:0\ndestination:/queue/a\nbrowser:true\n\n^");
    assert_eq!(
        client.take_calls(),
        ["attach 1 queue a create=true settled=true Granted", "flow 1 4294967295 drain=true"]
    );
    client.deliver(vec![Delivery { settled: true, ..delivery(1, 1, AddressRef::Queue("a"), "x") }]);
    client.wire();
    client.input(Input::Notice(Notice::Drained { consumer: ConsumerId(1) }));
    assert_eq!(
        client.wire(),
        "MESSAGE\nsubscription:0\ndestination:/queue/a\nmessage-id:1-2\nbrowser:end\ncontent-length:0\n\n^\n"
    );
}

#[test]
fn deliveries_after_unsubscribe_are_left_to_the_broker() {
    let mut client = subscribed("1.2", "destination:/queue/a\nack:client");
    client.feed("UNSUBSCRIBE\nid:0\n\n^");
    client.deliver(vec![delivery(1, 1, AddressRef::Queue("a"), "x")]);
    assert_eq!(client.wire(), "");
}
