//! What each frame asks of the broker, for each version.

use mynah_core::protocol::{Farewell, Input, Notice, Refusal, RefusalKind, Reply};
use mynah_core::{AddressRef, ConsumerId, Message, PublishRef};

use super::{ALL, Client, LATER, check, check_error, delivery};

#[test]
fn send_to_each_kind_of_destination() {
    let publish = |destination: &str, call: &str| {
        check(ALL, &format!("SEND\ndestination:{destination}\n\nx^"), &[call], "");
    };
    publish("/topic/a.b", "publish topic:a/b AtMostOnce No");
    publish("/topic/a/b", "publish topic:a/b AtMostOnce No");
    publish("/queue/a", "publish queue:a AtMostOnce No");
    publish("/queue/a%2Fb", "publish queue:a/b AtMostOnce No");
    publish("jobs", "publish queue:jobs AtMostOnce No");
    publish("/amq/queue/a", "publish queue:a AtMostOnce No mandatory");
    publish("/reply-queue/a", "publish queue:a AtMostOnce No mandatory");
    publish("/exchange/e/k", "publish exchange:e:k AtMostOnce No");
    publish("/p2p/c", "publish client:c AtMostOnce No");
}

#[test]
fn send_says_how_the_message_is_to_be_handled() {
    let publish = |headers: &str, call: &str| {
        check(ALL, &format!("SEND\ndestination:/topic/a\n{headers}\n\nx^"), &[call], "");
    };
    publish("persistent:true", "publish topic:a AtLeastOnce No");
    publish("retain:true", "publish topic:a AtMostOnce Keep");
    publish("persistent:false", "publish topic:a AtMostOnce No");
    check_error(ALL, "SEND\ndestination:/topic/a\npriority:x\n\n^", "bad header priority", "0 to 255");
    check_error(ALL, "SEND\ndestination:/topic/a\nexpires:soon\n\n^", "bad header expires", "1970");
    check_error(ALL, "SEND\n\nx^", "SEND without destination", "/queue/a");
    check_error(ALL, "SEND\ndestination:/topic/a.*\n\nx^", "bad header destination", "wildcards");
    check_error(ALL, "SEND\ndestination:/quuee/a\n\nx^", "bad header destination", "/queue/<name>");
}

#[test]
fn receipts_come_when_the_broker_has_the_message_in_the_order_of_the_frames() {
    for version in ALL {
        let mut client = Client::open(version);
        client.feed("SEND\ndestination:/queue/a\nreceipt:1\n\nx^SEND\ndestination:/queue/b\nreceipt:2\n\ny^");
        client.feed("DISCONNECT\nreceipt:3\n\n^SEND\ndestination:/queue/c\n\nlate^");
        let asked = client.asked();
        assert_eq!(asked.len(), 2, "{asked:?}");
        assert!(client.held.is_empty(), "what follows a DISCONNECT is dropped");
        assert_eq!(client.wire(), "");
        client.reply(asked[0].0.unwrap(), Reply::Published { routed: 1 });
        assert_eq!(client.wire(), "RECEIPT\nreceipt-id:1\n\n^\n");
        assert_eq!(client.host.closed, None);
        client.reply(asked[1].0.unwrap(), Reply::Published { routed: 0 });
        assert_eq!(client.wire(), "RECEIPT\nreceipt-id:2\n\n^\nRECEIPT\nreceipt-id:3\n\n^\n");
        assert_eq!(client.host.closed, Some(Farewell::Clean { expiry: None }));
    }
}

#[test]
fn an_error_waits_for_the_receipts_before_it() {
    let mut client = Client::open("1.2");
    client.feed("SEND\ndestination:/queue/a\nreceipt:1\n\nx^SEND\nreceipt:2\n\nx^");
    let ticket = client.asked()[0].0.unwrap();
    assert_eq!(client.wire(), "");
    client.feed("SEND\ndestination:/queue/a\n\nlate^");
    assert!(client.asked().is_empty());
    client.reply(ticket, Reply::Published { routed: 1 });
    let wire = client.wire();
    assert!(wire.starts_with("RECEIPT\nreceipt-id:1\n\n^\nERROR\nreceipt-id:2\n"), "{wire}");
    assert!(client.failed.is_some());
}

#[test]
fn a_refused_send_is_told_with_and_without_receipt() {
    for (receipt, named) in [("", ""), ("receipt:r\\c1\n", "receipt-id:r\\c1\n")] {
        let mut client = Client::open("1.2");
        client.feed(&format!("SEND\ndestination:/queue/a\n{receipt}\nx^"));
        let ticket = client.asked()[0].0.unwrap();
        let refusal = Refusal::new(RefusalKind::Full, "the queue 'a' is full. Wait until it is read");
        client.reply(ticket, Reply::Refused(refusal));
        let text = "SEND: the queue 'a' is full. Wait until it is read\n";
        assert_eq!(
            client.wire(),
            format!(
                "ERROR\n{named}message:full\ncontent-type:text/plain\ncontent-length:{}\n\n{text}^\n",
                text.len()
            )
        );
        assert_eq!(client.host.closed, Some(Farewell::Abrupt { expiry: None }));
    }
}

#[test]
fn without_receipts_the_broker_is_asked_once_for_each_read_and_destination() {
    let mut client = Client::open("1.2");
    client
        .feed(&"SEND\ndestination:/queue/a\n\nx^".repeat(3).replacen("/a", "/b", 1).replacen("/a", "/b", 0));
    let asked: Vec<bool> = client.asked().iter().map(|(ticket, _)| ticket.is_some()).collect();
    assert_eq!(asked, [true, true, false]);
    client.feed("SEND\ndestination:/queue/a\n\nx^");
    assert!(client.asked()[0].0.is_some());
}

#[test]
fn amq_queue_must_exist_and_a_reply_queue_need_not() {
    for (destination, receipt) in [("/amq/queue/none", false), ("/reply-queue/none", true)] {
        let mut client = Client::open("1.2");
        client.feed(&format!("SEND\ndestination:{destination}\nreceipt:1\n\nx^"));
        let ticket = client.asked()[0].0.unwrap();
        let publish = PublishRef::new(AddressRef::Queue("none"), b"x");
        let message = Message::from_publish(&publish, client.now);
        client.reply(ticket, Reply::Returned(message.into()));
        let wire = client.wire();
        if receipt {
            assert_eq!(wire, "RECEIPT\nreceipt-id:1\n\n^\n");
        } else {
            assert!(wire.starts_with("ERROR\nreceipt-id:1\nmessage:no such queue\n"), "{wire}");
        }
    }
}

#[test]
fn subscribe_to_each_kind_of_destination() {
    let attach = |headers: &str, call: &str| {
        check(
            ALL,
            &format!("SUBSCRIBE\nid:0\nreceipt:r\n{headers}\n\n^"),
            &[call],
            "RECEIPT\nreceipt-id:r\n\n^\n",
        );
    };
    attach("destination:/topic/a.b", "attach 1 topic a/b Connection settled=true Socket");
    attach("destination:/topic/a/*/+/>\nack:auto", "attach 1 topic a/+/+/# Connection settled=true Socket");
    attach("destination:/topic/a.b\nack:client", "attach 1 topic a/b Connection settled=false Window(1000)");
    attach("destination:/queue/a", "attach 1 queue a create=true settled=true Socket");
    attach("destination:/amq/queue/a", "attach 1 queue a create=false settled=true Socket");
    attach("destination:/exchange/e/k", "attach 1 exchange e k Connection settled=true Socket");
    let individual = "destination:/queue/a\nack:client-individual\n";
    attach(&format!("{individual}prefetch-count:5"), "attach 1 queue a create=true settled=false Window(5)");
    attach(
        &format!("{individual}activemq.prefetchSize:1"),
        "attach 1 queue a create=true settled=false Window(1)",
    );
    attach(
        &format!("{individual}prefetch-count:0"),
        "attach 1 queue a create=true settled=false Window(65535)",
    );
}

#[test]
fn durable_subscriptions_have_names() {
    let attach = |headers: &str, name: &str| {
        let frames = format!("SUBSCRIBE\nid:news\ndestination:/topic/a.b\n{headers}\n\n^");
        let call = format!("attach 1 topic a/b Durable(\"{name}\") settled=true Socket");
        check(ALL, &frames, &[&call], "");
    };
    attach("durable:true\nauto-delete:false", "stomp-subscription-me.news@a/b");
    attach("persistent:true", "stomp-subscription-me.news@a/b");
    attach("durable:true\nx-queue-name:mine", "mine");
    attach("x-queue-name:shared", "shared");
    attach("activemq.subscriptionName:s", "me.s");
    attach("durable-subscription-name:s.t", "me.s%2Et");

    let subscribe = "SUBSCRIBE\nid:news\ndestination:/topic/a.b\ndurable:true\n\n^";
    let attached = "attach 1 topic a/b Durable(\"stomp-subscription-me.news@a/b\") settled=true Socket";
    let detached = |forget| format!("detach 1 End {{ forget: {forget}, keep_unsettled: false }}");
    check(ALL, &format!("{subscribe}UNSUBSCRIBE\nid:news\n\n^"), &[attached, &detached(false)], "");
    check(
        ALL,
        &format!("{subscribe}UNSUBSCRIBE\nid:news\ndurable:true\n\n^"),
        &[attached, &detached(true)],
        "",
    );
    // Another connection may end it as well.
    check(
        ALL,
        "UNSUBSCRIBE\nid:news\ndestination:/topic/a/b\ndurable:true\nreceipt:1\n\n^",
        &["delete queue stomp-subscription-me.news@a/b"],
        "RECEIPT\nreceipt-id:1\n\n^\n",
    );
}

#[test]
fn what_cannot_be_subscribed() {
    check_error(
        LATER,
        "SUBSCRIBE\ndestination:/queue/a\n\n^",
        "SUBSCRIBE without id",
        "id\\c0".replace("\\c", ":").as_str(),
    );
    check_error(ALL, "SUBSCRIBE\nid:0\n\n^", "SUBSCRIBE without destination", "/topic/a.b");
    check_error(
        ALL,
        "SUBSCRIBE\nid:0\ndestination:/queue/a\nack:maybe\n\n^",
        "bad header ack",
        "client-individual",
    );
    check_error(
        ALL,
        "SUBSCRIBE\nid:0\ndestination:/queue/a\nselector:a = 1\n\n^",
        "selector not supported",
        "Leave the header",
    );
    let twice = "SUBSCRIBE\nid:0\ndestination:/queue/a\n\n^SUBSCRIBE\nid:0\ndestination:/queue/b\n\n^";
    check_error(ALL, twice, "subscription exists already", "another id");
    check_error(ALL, "UNSUBSCRIBE\nid:0\n\n^", "no such subscription", "SUBSCRIBE");
    check_error(LATER, "UNSUBSCRIBE\ndestination:/queue/a\n\n^", "UNSUBSCRIBE without id", "id");
    check_error(ALL, "SUBSCRIBE\nid:0\ndestination:/p2p/other\n\n^", "another client's address", "/p2p/me");

    let mut client = Client::open("1.2");
    client.feed("SUBSCRIBE\nid:0\ndestination:/amq/queue/a\nreceipt:1\n\n^");
    let ticket = client.asked()[0].0.unwrap();
    client.reply(
        ticket,
        Reply::Refused(Refusal::new(RefusalKind::NotFound, "there is no queue 'a'. Declare it")),
    );
    let wire = client.wire();
    assert!(wire.starts_with("ERROR\nreceipt-id:1\nmessage:not found\n"), "{wire}");
    assert!(wire.contains("SUBSCRIBE to /amq/queue/a: there is no queue 'a'"), "{wire}");
}

#[test]
fn in_1_0_the_destination_can_stand_for_the_id() {
    check(
        &["1.0"],
        "SUBSCRIBE\ndestination: /queue/a\n\n^UNSUBSCRIBE\ndestination:/queue/a\nreceipt:1\n\n^",
        &[
            "attach 1 queue a create=true settled=true Socket",
            "detach 1 End { forget: false, keep_unsettled: false }",
        ],
        "RECEIPT\nreceipt-id:1\n\n^\n",
    );
}

#[test]
fn transactions_with_sends_and_acknowledgements() {
    for (version, key) in
        [("1.0", "message-id:1-1"), ("1.1", "message-id:1-1\nsubscription:0"), ("1.2", "id:1-1")]
    {
        let mut client = Client::open(version);
        client.play("SUBSCRIBE\nid:0\ndestination:/queue/a\nack:client-individual\n\n^");
        client.deliver(vec![delivery(1, 41, AddressRef::Queue("a"), "x")]);
        client.play("BEGIN\ntransaction:t\nreceipt:b\n\n^");
        client.play(&format!("ACK\n{key}\ntransaction:t\nreceipt:a\n\n^"));
        client.play("SEND\ndestination:/queue/b\ntransaction:t\nreceipt:s\n\nx^");
        client.wire();
        client.calls.remove(0);
        client.play("ABORT\ntransaction:t\nreceipt:e\n\n^");
        assert_eq!(
            client.take_calls(),
            [
                "transact Begin(TransactionId(1))",
                "settle 1 [41] Accepted tx1",
                "publish queue:b AtMostOnce No tx1",
                "transact Rollback(TransactionId(1))"
            ]
        );
        assert_eq!(client.wire(), "RECEIPT\nreceipt-id:e\n\n^\n");
        // The message is with the client as before, and the name is free.
        client.play("BEGIN\ntransaction:t\n\n^");
        client.play(&format!("NACK\n{key}\ntransaction:t\n\n^COMMIT\ntransaction:t\nreceipt:c\n\n^"));
        assert_eq!(
            client.take_calls(),
            [
                "transact Begin(TransactionId(2))",
                "settle 1 [41] Modified { failed: true, undeliverable_here: false } tx2",
                "transact Commit(TransactionId(2))"
            ]
        );
        assert_eq!(client.wire(), "RECEIPT\nreceipt-id:c\n\n^\n");
        client.play(&format!("ACK\n{key}\n\n^"));
        assert!(client.wire().contains("message:ACK of an unknown message\n"));
    }
}

#[test]
fn transactions_that_cannot_be() {
    check_error(ALL, "BEGIN\n\n^", "BEGIN without transaction", "name");
    let twice = "BEGIN\ntransaction:t\n\n^BEGIN\ntransaction:t\nreceipt:2\n\n^";
    check_error(ALL, twice, "transaction open already", "another name");
    check_error(ALL, twice, "transaction open already", "receipt-id:2\n");
    check_error(ALL, "COMMIT\ntransaction:t\n\n^", "no such transaction", "BEGIN");
    check_error(ALL, "ABORT\ntransaction:t\n\n^", "no such transaction", "BEGIN");
    check_error(ALL, "SEND\ndestination:/queue/a\ntransaction:t\n\nx^", "no such transaction", "BEGIN");

    let mut client = Client::open("1.2");
    client.play("BEGIN\ntransaction:t\n\n^");
    client.feed("COMMIT\ntransaction:t\nreceipt:1\n\n^");
    let ticket = client.asked()[0].0.unwrap();
    client.reply(ticket, Reply::Refused(Refusal::new(RefusalKind::Full, "the queue 'a' is full")));
    let wire = client.wire();
    assert!(wire.starts_with("ERROR\nreceipt-id:1\nmessage:full\n"), "{wire}");
    assert!(wire.contains("nothing was done"), "{wire}");
}

#[test]
fn a_reply_to_a_temporary_queue_makes_it_and_listens() {
    // As RabbitMQ does.
    let send = "SEND\ndestination:/queue/a\nreply-to:/temp-queue/x\n\nx^";
    check(
        ALL,
        &format!("{send}{send}"),
        &[
            "declare queue  passive=false",
            "attach 1 queue amq.gen-1 create=false settled=true Socket",
            "publish queue:a AtMostOnce No",
            "publish queue:a AtMostOnce No",
        ],
        "",
    );
    let mut client = Client::open("1.2");
    client.play(send);
    client.wire();
    client.deliver(vec![delivery(1, 1, AddressRef::Queue("amq.gen-1"), "answer")]);
    assert_eq!(
        client.wire(),
        "MESSAGE\nsubscription:/temp-queue/x\ndestination:/temp-queue/x\nmessage-id:1-1\nredelivered:false\n\
         content-length:6\n\nanswer^\n"
    );
}

#[test]
fn a_temporary_queue_can_be_subscribed_to() {
    // As ActiveMQ does; a SEND names it afterwards.
    check(
        ALL,
        "SUBSCRIBE\nid:r\ndestination:/temp-queue/x\nack:client\n\n^\
         SEND\ndestination:/queue/a\nreply-to:/temp-queue/x\n\nx^SEND\ndestination:/temp-queue/x\n\nx^",
        &[
            "declare queue  passive=false",
            "attach 1 queue amq.gen-1 create=false settled=false Window(1000)",
            "publish queue:a AtMostOnce No",
            "publish queue:amq.gen-1 AtMostOnce No",
        ],
        "",
    );
    // The automatic subscription gives way.
    check(
        ALL,
        "SEND\ndestination:/queue/a\nreply-to:/temp-queue/x\n\nx^SUBSCRIBE\nid:r\ndestination:/temp-queue/x\n\n^",
        &[
            "declare queue  passive=false",
            "attach 1 queue amq.gen-1 create=false settled=true Socket",
            "publish queue:a AtMostOnce No",
            "detach 1 End { forget: false, keep_unsettled: false }",
            "attach 2 queue amq.gen-1 create=false settled=true Socket",
        ],
        "",
    );
}

#[test]
fn queue_arguments_of_a_send_make_the_queue_once() {
    let send = "SEND\ndestination:/queue/a\nx-max-length:5\n\nx^";
    let calls =
        ["declare queue a passive=false", "publish queue:a AtMostOnce No", "publish queue:a AtMostOnce No"];
    check(ALL, &format!("{send}{send}"), &calls, "");
    let mut client = Client::open("1.2");
    client.feed(send);
    let ticket = client.asked()[0].0.unwrap();
    client.reply(ticket, Reply::Refused(Refusal::new(RefusalKind::Conflict, "it is there already")));
    assert_eq!(client.asked()[0].1, "publish queue:a AtMostOnce No", "an existing queue is used as it is");
}

#[test]
fn what_the_broker_says_unasked() {
    let says = |input: fn() -> Input<'static>, expected: &str| {
        let mut client = Client::open("1.2");
        client.play("SUBSCRIBE\nid:0\ndestination:/queue/a\n\n^");
        client.input(input());
        let wire = client.wire();
        assert!(wire.starts_with(&format!("ERROR\nmessage:{expected}\n")), "{wire}");
        assert_eq!(client.host.closed, Some(Farewell::Abrupt { expiry: None }));
        assert_eq!(client.failed, None);
    };
    says(|| Input::Shutdown, "server shutting down");
    says(|| Input::Notice(Notice::TakenOver), "taken over");
    says(|| Input::Notice(Notice::Kicked { reason: "maintenance".into() }), "closed by an operator");
    says(|| Input::Notice(Notice::Cancelled { consumer: ConsumerId(1) }), "subscription ended");
}

#[test]
fn after_the_last_word_nothing_is_said() {
    let mut client = Client::open("1.2");
    client.feed("SEND\ndestination:/queue/a\nreceipt:1\n\nx^");
    let ticket = client.asked()[0].0.unwrap();
    client.input(Input::Shutdown);
    client.wire();
    let mut replies = vec![(ticket, Reply::Published { routed: 1 })];
    client.connection.handle(client.now, Input::Replies(&mut replies), &mut client.host).unwrap();
    let mut deliveries = vec![delivery(1, 1, AddressRef::Queue("a"), "x")];
    client.connection.handle(client.now, Input::Deliveries(&mut deliveries), &mut client.host).unwrap();
    assert!(replies.is_empty() && deliveries.is_empty());
    assert_eq!(client.wire(), "");
    assert_eq!(client.connection.deadline(), None);
}

#[test]
fn disconnect_needs_no_receipt() {
    for version in ALL {
        let mut client = Client::open(version);
        client.feed("DISCONNECT\n\n^");
        assert_eq!(client.wire(), "");
        assert_eq!(client.host.closed, Some(Farewell::Clean { expiry: None }));
    }
}

#[test]
fn a_body_only_in_send() {
    check_error(LATER, "BEGIN\ntransaction:t\n\nbody^", "body not allowed", "Only SEND");
    check(ALL, "BEGIN\ntransaction:t\n\n\r\n^", &["transact Begin(TransactionId(1))"], "");
    check(&["1.0"], "BEGIN\ntransaction:t\n\nbody^", &["transact Begin(TransactionId(1))"], "");
}
