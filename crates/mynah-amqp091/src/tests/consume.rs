use mynah_core::protocol::{Connection, CreditMode, Notice, RefusalKind};
use mynah_core::{ConsumerId, Delivery, Value};

use super::{NONE, Pair, delivery};
use crate::codec::field::{Table, put_entry};
use crate::codec::method::Request;

fn consume<'a>(queue: &'a str, tag: &'a str, no_ack: bool) -> Request<'a> {
    Request::BasicConsume {
        ticket: 0,
        queue,
        tag,
        no_local: true,
        no_ack,
        exclusive: false,
        no_wait: false,
        arguments: NONE,
    }
}

fn ack(tag: u64, multiple: bool) -> Request<'static> {
    Request::BasicAck { tag, multiple }
}

fn deliver(tag: u64) -> String {
    format!(
        "1 BasicDeliver {{ consumer: \"c\", tag: {tag}, redelivered: false, exchange: \"\", key: \"q\" }}"
    )
}

/// Tags of the deliveries on the wire.
fn tags(pair: &mut Pair) -> Vec<u64> {
    let tag = |line: &String| line.split("tag: ").nth(1)?.split(',').next()?.parse().ok();
    pair.wire().iter().filter(|line| line.contains("BasicDeliver")).filter_map(tag).collect()
}

#[test]
fn consume_deliver_ack() {
    let mut pair = Pair::open();
    pair.request(1, consume("q", "c", false));
    assert_eq!(pair.agree(), ["attach 1 queue q create=false settled=false Socket"]);
    assert_eq!(pair.wire(), ["1 BasicConsumeOk { tag: \"c\" }"]);
    pair.deliver(delivery(ConsumerId(1), 70, false));
    assert_eq!(pair.wire(), [deliver(1), "1 header 2 \\x00\\x00".into(), "1 body hi".into()]);
    pair.deliver(delivery(ConsumerId(1), 71, false));
    pair.deliver(delivery(ConsumerId(1), 72, false));
    pair.request(1, ack(2, true));
    assert_eq!(pair.calls(), ["settle 1 [70, 71] Accepted"]);
    pair.request(1, ack(3, false));
    assert_eq!(pair.calls(), ["settle 1 [72] Accepted"]);
}

#[test]
fn outcomes() {
    let mut pair = Pair::open();
    let id = pair.consumer(1, "c", false);
    for tag in 1..=5 {
        pair.deliver(delivery(id, tag, false));
    }
    pair.request(1, Request::BasicNack { tag: 2, multiple: true, requeue: true });
    pair.request(1, Request::BasicReject { tag: 3, requeue: false });
    pair.request(1, Request::BasicReject { tag: 4, requeue: true });
    pair.request(1, Request::BasicRecover { requeue: true });
    let returned = "Modified { failed: true, undeliverable_here: false }";
    assert_eq!(
        pair.calls(),
        [
            format!("settle 1 [1, 2] {returned}"),
            "settle 1 [3] Rejected { reason: None }".into(),
            format!("settle 1 [4] {returned}"),
            "settle 1 [5] Released".into(),
        ]
    );
    assert_eq!(pair.wire().last().unwrap(), "1 BasicRecoverOk");
}

#[test]
fn unknown_tags_close_the_channel() {
    let check = |tag: u64, multiple: bool| {
        let mut pair = Pair::open();
        let id = pair.consumer(1, "c", false);
        pair.deliver(delivery(id, 1, false));
        pair.request(1, ack(1, false));
        pair.wire();
        pair.request(1, ack(tag, multiple));
        let text = format!(
            "1 ChannelClose {{ code: 406, text: \"PRECONDITION_FAILED - unknown delivery tag {tag}\", class: 60, method: 80 }}"
        );
        assert_eq!(pair.wire(), [text]);
    };
    check(1, false);
    check(1, true);
    check(2, false);
    check(0, false);
}

#[test]
fn tag_0_is_everything_so_far() {
    let mut pair = Pair::open();
    let id = pair.consumer(1, "c", false);
    pair.request(1, ack(0, true));
    pair.deliver(delivery(id, 1, false));
    pair.deliver(delivery(id, 2, false));
    pair.request(1, ack(0, true));
    assert_eq!(pair.calls(), ["settle 1 [1, 2] Accepted"]);
    assert!(!pair.wire().iter().any(|line| line.contains("Close")));
}

#[test]
fn automatic_acknowledgement_uses_tags_but_settles_nothing() {
    let mut pair = Pair::open();
    let id = pair.consumer(1, "c", true);
    pair.deliver(delivery(id, 1, true));
    pair.deliver(delivery(id, 2, true));
    assert_eq!(tags(&mut pair), [1, 2]);
    pair.request(1, ack(1, false));
    assert!(pair.wire()[0].contains("unknown delivery tag 1"));
}

#[test]
fn prefetch_is_the_consumers_window() {
    // RabbitMQ: without `global` for consumers that come after it.
    let mut pair = Pair::open();
    pair.done(1, consume("q", "before", false));
    pair.request(1, Request::BasicQos { prefetch_size: 0, prefetch_count: 10, global: false });
    assert_eq!(pair.wire(), ["1 BasicQosOk"]);
    pair.request(1, consume("q", "after", false));
    assert_eq!(pair.agree(), ["attach 2 queue q create=false settled=false Window(10)"]);
    pair.request(1, consume("q", "no-ack", true));
    assert_eq!(pair.agree(), ["attach 3 queue q create=false settled=true Socket"]);
}

#[test]
fn a_shared_prefetch_holds_deliveries_back() {
    let mut pair = Pair::open();
    pair.done(1, Request::BasicQos { prefetch_size: 0, prefetch_count: 2, global: true });
    let one = pair.consumer(1, "c", false);
    let two = pair.consumer(1, "d", false);
    let credit = |pair: &Pair, id| pair.connection.consumers[&id].credit;
    // The first takes the messages for both, so that the queue gives no more than the channel may have.
    assert_eq!(credit(&pair, one), CreditMode::Window(2));
    assert_eq!(credit(&pair, two), CreditMode::Window(0));
    for tag in 1..=4 {
        pair.deliver(delivery(one, tag, false));
    }
    let wire = pair.wire();
    assert!(
        wire[0].contains("consumer: \"d\", tag: 1") && wire[3].contains("consumer: \"c\", tag: 2"),
        "they take turns"
    );
    assert_eq!(wire.len(), 6, "no more than two");
    pair.request(1, ack(1, false));
    assert_eq!(tags(&mut pair), [3]);
    pair.request(1, ack(3, true));
    assert_eq!(tags(&mut pair), [4]);
    pair.calls();
    pair.request(1, Request::BasicCancel { tag: "c", no_wait: false });
    let calls = pair.agree();
    assert_eq!(calls[0], "detach 1 End { forget: false, keep_unsettled: true }");
    assert_eq!(
        calls[2], "attach 3 queue q create=false settled=false Window(2)",
        "the second takes the lead"
    );
}

#[test]
fn a_channel_that_ends_releases_for_consumers_that_ended_before() {
    let mut pair = Pair::open();
    let id = pair.consumer(1, "c", false);
    pair.deliver(delivery(id, 1, false));
    pair.done(1, Request::BasicCancel { tag: "c", no_wait: false });
    pair.calls();
    pair.request(1, Request::ChannelClose { code: 200, text: "", class: 0, method: 0 });
    assert_eq!(
        pair.calls(),
        ["settle 1 [1] Released", "detach 1 End { forget: false, keep_unsettled: false }"]
    );
}

#[test]
fn changing_the_shared_prefetch_renews_credit() {
    // celery raises it while it runs.
    let mut pair = Pair::open();
    pair.done(1, Request::BasicQos { prefetch_size: 0, prefetch_count: 1, global: true });
    let old = pair.consumer(1, "c", false);
    pair.deliver(delivery(old, 1, false));
    pair.calls();
    pair.request(1, Request::BasicQos { prefetch_size: 0, prefetch_count: 3, global: true });
    assert_eq!(
        pair.agree(),
        [
            "detach 1 End { forget: false, keep_unsettled: true }",
            "attach 2 queue q create=false settled=false Window(3)",
        ]
    );
    pair.wire();
    pair.deliver(delivery(ConsumerId(2), 2, false));
    assert_eq!(tags(&mut pair), [2]);
    pair.request(1, ack(2, true));
    let calls = pair.calls();
    assert_eq!(calls[..2], ["settle 1 [1] Accepted", "settle 2 [2] Accepted"]);
    assert_eq!(calls[2], "detach 1 End { forget: false, keep_unsettled: false }");
    pair.request(1, Request::BasicCancel { tag: "c", no_wait: false });
    assert_eq!(pair.calls(), ["detach 2 End { forget: false, keep_unsettled: false }"]);
}

#[test]
fn flow_stops_and_goes_on() {
    let mut pair = Pair::open();
    let old = pair.consumer(1, "c", true);
    pair.request(1, Request::ChannelFlow { active: false });
    assert_eq!(pair.wire(), ["1 ChannelFlowOk { active: false }"]);
    assert_eq!(pair.agree()[1], "attach 2 queue q create=false settled=true Window(0)");
    pair.deliver(delivery(old, 1, true));
    assert!(pair.wire().is_empty(), "it was under way");
    pair.request(1, Request::ChannelFlow { active: true });
    let wire = pair.wire();
    assert_eq!(wire[0], "1 ChannelFlowOk { active: true }");
    assert_eq!(wire[1], deliver(1));
}

#[test]
fn cancel_keeps_what_is_unacknowledged() {
    let mut pair = Pair::open();
    let id = pair.consumer(1, "c", false);
    pair.deliver(delivery(id, 1, false));
    pair.wire();
    pair.request(1, Request::BasicCancel { tag: "c", no_wait: false });
    assert_eq!(pair.agree(), ["detach 1 End { forget: false, keep_unsettled: true }"]);
    assert_eq!(pair.wire(), ["1 BasicCancelOk { tag: \"c\" }"]);
    pair.deliver(delivery(id, 2, false));
    assert!(pair.wire().is_empty(), "never after cancel-ok");
    assert_eq!(pair.calls(), ["settle 1 [2] Released"]);
    pair.request(1, ack(1, false));
    assert_eq!(
        pair.calls(),
        ["settle 1 [1] Accepted", "detach 1 End { forget: false, keep_unsettled: false }"]
    );
    assert!(pair.connection.consumers.is_empty());
}

#[test]
fn cancelling_what_is_not_there_is_no_error() {
    let mut pair = Pair::open();
    pair.request(1, Request::BasicCancel { tag: "x", no_wait: false });
    assert_eq!(pair.wire(), ["1 BasicCancelOk { tag: \"x\" }"]);
    pair.request(1, Request::BasicCancel { tag: "x", no_wait: true });
    assert!(pair.wire().is_empty());
}

#[test]
fn a_deleted_queue_cancels_its_consumers() {
    let mut pair = Pair::open();
    let id = pair.consumer(1, "c", false);
    pair.deliver(delivery(id, 1, false));
    pair.wire();
    pair.notice(Notice::Cancelled { consumer: id });
    assert_eq!(pair.wire(), ["1 BasicCancel { tag: \"c\", no_wait: true }"]);
    pair.request(1, ack(1, false));
    assert!(pair.wire().is_empty(), "acknowledging is still no error");
    pair.request(1, consume("q", "c", false));
    assert_eq!(pair.agree().last().unwrap(), "attach 2 queue q create=false settled=false Socket");
}

#[test]
fn deliveries_wait_for_consume_ok() {
    let mut pair = Pair::open();
    pair.request(1, consume("q", "c", false));
    pair.deliver(delivery(ConsumerId(1), 1, false));
    assert!(pair.wire().is_empty());
    pair.agree();
    assert_eq!(pair.wire()[..2], ["1 BasicConsumeOk { tag: \"c\" }".to_owned(), deliver(1)]);
}

#[test]
fn consumer_tags() {
    let mut pair = Pair::open();
    pair.request(1, consume("q", "", false));
    pair.agree();
    assert!(pair.wire()[0].starts_with("1 BasicConsumeOk { tag: \"amq.ctag-7."));
    pair.consumer(1, "c", false);
    pair.request(1, consume("q", "c", false));
    let wire = pair.wire();
    assert!(wire[0].contains("530, text: \"NOT_ALLOWED - attempt to reuse consumer tag 'c'"), "{wire:?}");
}

#[test]
fn refused_consumers_are_forgotten() {
    let mut pair = Pair::open();
    pair.request(1, consume("q", "c", false));
    pair.refuse(RefusalKind::Locked, "cannot obtain exclusive access to locked queue 'q' in vhost '/'");
    assert!(pair.wire()[0].contains("405, text: \"RESOURCE_LOCKED - cannot obtain exclusive access"));
    assert!(pair.connection.consumers.is_empty());
}

#[test]
fn priorities() {
    let mut arguments = bytes::BytesMut::new();
    put_entry(&mut arguments, "x-priority", &Value::I8(-3));
    fn request(arguments: Table<'_>) -> Request<'_> {
        Request::BasicConsume {
            ticket: 0,
            queue: "q",
            tag: "c",
            no_local: false,
            no_ack: false,
            exclusive: true,
            no_wait: true,
            arguments,
        }
    }
    let mut pair = Pair::open();
    pair.request(1, request(Table::new(&arguments).unwrap()));
    let consumer = &pair.connection.consumers[&ConsumerId(1)];
    assert_eq!((consumer.priority, consumer.exclusive), (-3, true));
    pair.agree();
    assert!(pair.wire().is_empty(), "no-wait");
    let mut arguments = bytes::BytesMut::new();
    put_entry(&mut arguments, "x-priority", &Value::from("high"));
    let mut pair = Pair::open();
    pair.request(1, request(Table::new(&arguments).unwrap()));
    assert!(pair.wire()[0].contains("invalid arg 'x-priority'"));
}

#[test]
fn get_one_or_nothing() {
    let get = Request::BasicGet { ticket: 0, queue: "q", no_ack: false };
    let mut pair = Pair::open();
    pair.request(1, get);
    assert_eq!(pair.agree(), ["attach 1 queue q create=false settled=false Granted"]);
    assert_eq!(pair.calls(), ["flow 1 1 drain=true"]);
    let id = ConsumerId(1);
    pair.deliver(Delivery { redelivered: true, ..delivery(id, 9, false) });
    pair.notice(Notice::Drained { consumer: id });
    assert_eq!(
        pair.wire(),
        [
            "1 BasicGetOk { tag: 1, redelivered: true, exchange: \"\", key: \"q\", messages: 3 }",
            "1 header 2 \\x00\\x00",
            "1 body hi",
        ]
    );
    pair.request(1, get);
    assert_eq!(pair.calls(), ["flow 1 1 drain=true"], "attached already");
    pair.request(1, ack(1, false));
    assert!(pair.calls().is_empty(), "nothing is read before the answer");
    pair.notice(Notice::Drained { consumer: id });
    assert_eq!(pair.wire(), ["1 BasicGetEmpty { cluster_id: \"\" }"]);
    assert_eq!(pair.calls(), ["settle 1 [9] Accepted"]);
}

#[test]
fn what_follows_a_get_is_asked_for() {
    let mut pair = Pair::open();
    let get = super::method(1, Request::BasicGet { ticket: 0, queue: "q", no_ack: true });
    pair.bytes(&[&get[..], &get[..]].concat());
    pair.agree();
    let heartbeat = pair.connection.deadline();
    assert!(heartbeat > Some(pair.now));
    // The driver shows the rest after replies; after a notice it has to be asked.
    let rest = pair.take_rest();
    assert!(!rest.is_empty());
    pair.notice(Notice::Drained { consumer: ConsumerId(1) });
    assert_eq!(pair.connection.deadline(), Some(pair.now));
    pair.deadline();
    assert_eq!(pair.connection.deadline(), Some(pair.now + std::time::Duration::from_millis(20)));
    pair.bytes(&rest);
    assert_eq!(pair.connection.deadline(), heartbeat);
    assert_eq!(pair.calls().len(), 2);
}

#[test]
fn get_of_a_missing_queue() {
    let mut pair = Pair::open();
    pair.request(1, Request::BasicGet { ticket: 0, queue: "q", no_ack: true });
    pair.refuse(RefusalKind::NotFound, "no queue 'q' in vhost '/'");
    assert!(
        pair.wire()[0]
            .contains("404, text: \"NOT_FOUND - no queue 'q' in vhost '/'\", class: 60, method: 70")
    );
}

#[test]
fn polling_many_queues_is_bounded() {
    let mut pair = Pair::with(crate::Amqp091Config { getters_max: 2, ..Default::default() });
    pair.log_in();
    pair.request(1, Request::ChannelOpen { out_of_band: "" });
    pair.calls();
    for number in 1..=5_u32 {
        pair.request(1, Request::BasicGet { ticket: 0, queue: &format!("q{number}"), no_ack: true });
        pair.agree();
        pair.notice(Notice::Drained { consumer: ConsumerId(number) });
    }
    assert_eq!(pair.connection.consumers.len(), 2);
}

#[test]
fn a_channel_that_ends_gives_everything_back() {
    let mut pair = Pair::open();
    let id = pair.consumer(1, "c", false);
    pair.deliver(delivery(id, 1, false));
    pair.wire();
    pair.request(1, Request::ChannelClose { code: 200, text: "", class: 0, method: 0 });
    assert_eq!(pair.calls(), ["detach 1 End { forget: false, keep_unsettled: false }"]);
    assert_eq!(pair.wire(), ["1 ChannelCloseOk"]);
    pair.deliver(delivery(id, 2, false));
    assert_eq!(pair.calls(), ["settle 1 [2] Released"]);
    assert!(pair.wire().is_empty());
}

#[test]
fn direct_reply_to() {
    let mut pair = Pair::open();
    pair.request(1, consume("amq.rabbitmq.reply-to", "c", true));
    assert_eq!(pair.host.calls[0].text, "declare queue  passive=false");
    pair.define("amq.gen-1", 0, 0);
    assert_eq!(pair.agree(), ["attach 1 queue amq.gen-1 create=false settled=true Socket"]);
    assert_eq!(pair.wire(), ["1 BasicConsumeOk { tag: \"c\" }"]);
    // A request carries the queue's name.
    let list = crate::codec::property::PropertyList {
        reply_to: Some(b"amq.rabbitmq.reply-to"),
        message_id: Some(b"m"),
        ..Default::default()
    };
    let mut properties = bytes::BytesMut::new();
    list.write(&mut properties);
    let mut bytes = super::method(1, super::basic_publish("", "rpc", false)).to_vec();
    bytes.extend_from_slice(&super::header(1, 0, &properties));
    pair.bytes(&bytes);
    let replies = pair.connection.channels.get(&1).unwrap().replies.as_ref().unwrap();
    assert_eq!(&*replies.reply_to, "amq.rabbitmq.reply-to.amq.gen-1");
    assert_eq!(pair.calls().len(), 1);
    pair.bytes(&super::publish(1, "", "amq.rabbitmq.reply-to.amq.gen-1", b"reply"));
    assert_eq!(pair.calls(), ["publish exchange::amq.gen-1 AtMostOnce No"]);
    // Only one, and only without acknowledgements.
    pair.request(1, consume("amq.rabbitmq.reply-to", "d", true));
    assert!(pair.wire()[0].contains("406, text: \"PRECONDITION_FAILED - reply consumer already set"));
    let mut pair = Pair::open();
    pair.request(1, consume("amq.rabbitmq.reply-to", "c", false));
    assert!(pair.wire()[0].contains("reply consumer cannot acknowledge"));
}

#[test]
fn bodies_are_split_for_the_client() {
    let mut pair = Pair::open();
    pair.connection.frame_max = 4096;
    let id = pair.consumer(1, "c", false);
    let big = vec![b'x'; 10_000];
    let message = super::message(mynah_core::AddressRef::Topic("a/b.c"), &[0, 0], &big);
    pair.deliver(Delivery { message, ..delivery(id, 1, false) });
    let wire = pair.wire();
    assert_eq!(wire.len(), 5);
    assert!(wire[0].contains("exchange: \"amq.topic\", key: \"a.b%2Ec\""), "{}", wire[0]);
    assert_eq!(wire[1], "1 header 10000 \\x00\\x00");
}
