//! Subscriptions to topics: shared, durable, direct; retained messages.

use mynah_core::protocol::{CreditMode, Holder, Host, Notice, Reply, Retained, Source};
use mynah_core::{ConsumerId, Outcome, PublishRef, Wire};

use crate::lab::{
    BACK, CLEAN, FORGET, KEEP, Lab, direct, from_topic, of_session, queue, retained, shared, terms, topic,
};

#[test]
fn a_groups_only_member_may_subscribe_again() {
    let lab = Lab::new();
    let mut one = lab.connect();
    assert!(one.attach(1, shared("g", "a/#")).new);
    one.send(topic("a/b"), "before");
    let tag = one.deliveries.pop().unwrap().tag;
    assert!(!one.attach(1, shared("g", "a/#")).new);
    assert_eq!(one.send(topic("a/b"), "after"), 1);
    assert_eq!(one.bodies(), ["after"]);
    one.settle(1, tag, &Outcome::Accepted);
    assert_eq!(lab.depth("$share/g/a/#"), Some((0, 1)));
    one.leave(CLEAN);
    lab.assert_only(&[]);
}

#[test]
fn a_group_shares_and_ends_with_its_last_member() {
    let lab = Lab::new();
    let (mut one, mut two, mut publisher) = (lab.connect(), lab.connect(), lab.connect());
    one.attach(1, shared("g", "a"));
    two.attach(1, shared("g", "a"));
    for body in ["1", "2", "3", "4"] {
        assert_eq!(publisher.send(topic("a"), body), 1);
    }
    assert_eq!((one.bodies().len(), two.bodies().len()), (2, 2));
    // What one cannot settle any more, the other gets.
    one.leave(None);
    assert_eq!(two.bodies().len(), 2);
    two.detach(1, KEEP);
    assert_eq!(publisher.send(topic("a"), "nobody"), 0);
    two.leave(CLEAN);
    publisher.leave(CLEAN);
    lab.assert_only(&[]);
}

#[test]
fn a_group_gets_no_retained_messages() {
    let lab = Lab::new();
    let mut one = lab.connect();
    one.publish(&retained(topic("a"), "value"));
    one.attach(1, Source { retained: Retained::Always, ..shared("g", "a") });
    assert!(one.bodies().is_empty());
    one.attach(2, Source { retained: Retained::Always, ..direct("a") });
    assert_eq!(one.take_frames(), ["!topic:a=value"]);
}

#[test]
fn a_durable_subscription_stays_until_it_is_forgotten() {
    let lab = Lab::new();
    let (mut one, mut publisher) = (lab.connect(), lab.connect());
    let durable = |filter| from_topic(filter, Holder::Durable("d"));
    one.attach(1, durable("a"));
    one.leave(None);
    publisher.send(topic("a"), "waits");
    let mut one = lab.connect();
    one.attach(1, durable("a"));
    assert_eq!(one.bodies(), ["waits"]);
    one.detach(1, BACK);
    assert_eq!(lab.depth("d"), Some((1, 0)));
    // To something else it is another subscription [JMS 2.0, 8.3.3].
    one.attach(1, durable("b"));
    assert!(one.bodies().is_empty());
    assert_eq!((publisher.send(topic("a"), "x"), publisher.send(topic("b"), "y")), (0, 1));
    assert_eq!(one.bodies(), ["y"]);
    one.detach(1, FORGET);
    one.leave(CLEAN);
    publisher.leave(CLEAN);
    lab.assert_only(&[]);
}

#[test]
fn a_durable_subscription_keeps_bindings_that_others_gave_it() {
    let lab = Lab::new();
    let (mut one, mut publisher) = (lab.connect(), lab.connect());
    let durable = |no_local| Source { no_local, ..from_topic("a", Holder::Durable("d")) };
    one.attach(1, durable(false));
    publisher.bind("amq.topic", "d", "b").unwrap();
    one.leave(None);
    assert_eq!((publisher.send(topic("a"), "x"), publisher.send(topic("b"), "y")), (1, 1));
    for no_local in [false, true] {
        let mut one = lab.connect();
        one.attach(1, durable(no_local));
        assert_eq!(one.bodies(), ["x", "y"]);
        one.leave(None);
    }
    assert_eq!(publisher.send(topic("b"), "z"), 1);
}

#[test]
fn retained_messages_reach_subscriptions_with_a_queue() {
    let lab = Lab::new();
    let mut one = lab.connect();
    one.publish(&retained(topic("a"), "value"));
    let with_retained = |holder| Source { retained: Retained::Always, ..from_topic("a", holder) };
    one.attach(1, with_retained(Holder::Connection));
    assert_eq!(one.bodies(), ["value"]);
    one.attach(2, with_retained(Holder::Durable("d")));
    let tag = one.deliveries[0].tag;
    assert_eq!(one.bodies(), ["value"]);
    one.settle(2, tag, &Outcome::Accepted);
    one.detach(2, BACK);
    one.attach(2, with_retained(Holder::Durable("d")));
    assert!(one.bodies().is_empty(), "it has had it");
}

#[test]
fn retained_messages_live_as_long_as_they_say() {
    let lab = Lab::new();
    let mut one = lab.connect();
    let with_ttl = |body| {
        let mut publish = retained(topic("a"), body);
        publish.header.ttl_ms = Some(1_000);
        publish
    };
    let subscribe = |one: &mut crate::lab::Client, id| {
        one.attach(id, Source { retained: Retained::Always, ..direct("a") });
        let frames = one.take_frames();
        one.detach(id, BACK);
        frames
    };
    one.publish(&with_ttl("value"));
    lab.advance(900);
    assert_eq!(subscribe(&mut one, 1), ["!topic:a=value"]);
    lab.advance(200);
    assert!(subscribe(&mut one, 2).is_empty());
    assert_eq!(lab.host().retained.len(), 0, "it was found to be over, so it is gone");
    // An empty one clears, and is delivered [MQTT-3.3.1-6].
    one.publish(&retained(topic("a"), "value"));
    one.attach(3, direct("a"));
    one.publish(&retained(topic("a"), ""));
    assert_eq!(one.take_frames(), ["topic:a="]);
    assert_eq!(lab.host().retained.len(), 0);
}

#[test]
fn a_full_store_makes_room_by_what_is_over() {
    let lab = Lab::with(mynah_broker::BrokerConfig { retained_messages_max: 2, ..Default::default() });
    let mut one = lab.connect();
    for name in ["a", "b"] {
        let mut publish = retained(topic(name), "value");
        publish.header.ttl_ms = Some(1_000);
        one.publish(&publish);
    }
    one.publish(&retained(topic("c"), "value"));
    assert!(lab.host().retained.get("c").is_none(), "full");
    lab.advance(1_000);
    one.publish(&retained(topic("c"), "value"));
    assert!(lab.host().retained.get("c").is_some());
    assert_eq!(lab.host().retained.len(), 1);
}

#[test]
fn a_subscriber_may_leave_out_its_own_messages() {
    let lab = Lab::new();
    let (mut one, mut other) = (lab.connect(), lab.connect());
    one.attach(1, Source { no_local: true, ..direct("a") });
    one.attach(2, Source { no_local: true, ..from_topic("a", Holder::Connection) });
    one.attach(3, Source { no_local: true, ..from_topic("a", Holder::Durable("d")) });
    let name = one.host.info.number();
    one.publish(&PublishRef::new(topic("a"), b"mine"));
    other.publish(&PublishRef::new(topic("a"), b"yours"));
    assert_eq!(one.take_frames(), ["topic:a=yours"], "connection {name}");
    assert_eq!(one.bodies(), ["yours", "yours"]);
    let ready: u64 = lab.host().queues.iter().map(|queue| queue.lock().machine.ready()).sum();
    assert_eq!(ready, 0, "its own messages wait for nobody");
    // The durable one's "local" is another connection when it comes back.
    one.leave(CLEAN);
    let mut one = lab.connect();
    one.attach(3, Source { no_local: true, ..from_topic("a", Holder::Durable("d")) });
    one.deliveries.clear();
    one.send(topic("a"), "mine");
    other.send(topic("a"), "yours");
    assert_eq!(one.bodies(), ["yours"]);
}

#[test]
fn overlapping_subscriptions_are_one_copy() {
    let lab = Lab::new();
    let mut one = lab.connect();
    one.attach(1, direct("a/+"));
    one.attach(2, direct("a/#"));
    assert_eq!(one.send(topic("a/b"), "x"), 1);
    assert_eq!(one.take_frames(), ["topic:a/b=x"]);
    one.detach(1, BACK);
    one.send(topic("a/b"), "y");
    assert_eq!(one.take_frames(), ["topic:a/b=y"]);
}

#[test]
fn overlapping_subscriptions_that_are_apart_are_a_copy_each() {
    // More receivers than are told apart without a map.
    let lab = Lab::new();
    let apart = |mut source: Source<'static>, apart| {
        source.wire = source.wire.map(|wire| Wire { apart, ..wire });
        source
    };
    let mut readers: Vec<_> = (0..40).map(|_| lab.connect()).collect();
    for (number, reader) in readers.iter_mut().enumerate() {
        reader.attach(1, apart(direct("a/+"), number % 2 == 0));
        reader.attach(2, apart(direct("a/#"), number % 2 == 0));
        reader.attach(3, apart(direct("a/b"), number % 4 == 0));
    }
    let (mut session, _) = lab.session("s", terms(true, 100));
    session.attach(1, apart(of_session("a/+"), true));
    session.attach(2, apart(of_session("a/#"), true));
    session.attach(3, of_session("a/b"));
    session.attach(4, of_session("#"));
    assert_eq!(lab.connect().send(topic("a/b"), "x"), 20 * 3 + 20 + 3 + 3);
    for (number, mut reader) in readers.into_iter().enumerate() {
        // One of a kind that is not apart is merged with nothing.
        let copies = if number % 2 == 0 { 3 } else { 1 };
        assert_eq!(reader.take_frames().len(), copies, "{number}");
    }
    assert_eq!(session.bodies(), ["x", "x", "x"]);
}

#[test]
fn a_subscriber_that_does_not_take_it_is_no_place_for_a_mandatory_message() {
    let lab = Lab::new();
    let (mut one, mut two) = (lab.connect(), lab.connect());
    one.attach(1, Source { no_local: true, ..direct("t") });
    let mut mandatory = PublishRef::new(topic("t"), b"x");
    mandatory.mandatory = true;
    assert!(matches!(one.publish(&mandatory), Reply::Returned(_)));
    assert!(matches!(two.publish(&mandatory), Reply::Published { routed: 1 }));
}

#[test]
fn replies_come_in_the_order_of_the_requests() {
    let lab = Lab::new();
    let mut one = lab.connect();
    one.attach(1, direct("t"));
    let tickets: Vec<_> = (0..8).map(|_| one.ticket()).collect();
    let unknown = mynah_core::AddressRef::Exchange { name: "none", key: "k" };
    let mut returned = PublishRef::new(topic("nobody"), b"x");
    returned.mandatory = true;
    one.turn(|turn| {
        turn.publish(Some(tickets[0]), &PublishRef::new(queue("q"), b"1"));
        turn.publish(Some(tickets[1]), &PublishRef::new(topic("t"), b"2"));
        turn.publish(Some(tickets[2]), &PublishRef::new(unknown, b"3"));
        turn.publish(None, &PublishRef::new(unknown, b"nobody waits"));
        turn.publish(Some(tickets[3]), &PublishRef::new(queue("q"), b"4"));
        turn.publish(Some(tickets[4]), &returned);
        turn.publish(Some(tickets[5]), &PublishRef::new(topic("$SYS/x"), b"6"));
        turn.publish(None, &PublishRef::new(topic("$SYS/x"), b"nobody waits"));
        turn.publish(Some(tickets[6]), &PublishRef::new(queue("q"), b"7"));
        turn.attach(tickets[7], ConsumerId(2), direct("u"));
    });
    let order: Vec<_> = one.replies.iter().map(|(ticket, _)| *ticket).collect();
    assert_eq!(order, tickets);
    assert!(one.open.is_empty());
    let refused = one.replies.iter().filter(|(_, reply)| matches!(reply, Reply::Refused(_))).count();
    assert_eq!(refused, 2);
    assert!(matches!(one.replies[4].1, Reply::Returned(_)));
}

#[test]
fn a_cancelled_temporary_subscription_is_told_once() {
    let lab = Lab::new();
    let mut one = lab.connect();
    let attached =
        one.attach(1, Source { credit: CreditMode::Granted, ..from_topic("a", Holder::Connection) });
    let name = attached.queue.unwrap();
    let _ = lab.broker.delete_queue(lab.host(), &name);
    let _ = lab.broker.delete_queue(lab.host(), &name);
    one.sync();
    assert!(matches!(one.notices[..], [Notice::Cancelled { consumer: ConsumerId(1) }]));
    assert_eq!(lab.subscriptions(), 0);
    one.detach(1, FORGET);
    one.leave(CLEAN);
    lab.assert_only(&[]);
}

#[test]
fn many_subscribers_of_one_filter_go_one_by_one() {
    let lab = Lab::new();
    let mut all: Vec<_> = (0..300).map(|_| lab.connect()).collect();
    for (at, one) in all.iter_mut().enumerate() {
        one.attach(1, direct("a"));
        one.attach(2, if at % 2 == 0 { direct("a") } else { direct("b") });
    }
    let mut publisher = lab.connect();
    assert_eq!(publisher.send(topic("a"), "x"), 300);
    for one in all.drain(..150) {
        one.leave(None);
    }
    assert_eq!(publisher.send(topic("a"), "x"), 150);
    assert!(all.iter_mut().all(|one| one.take_frames().len() == 2));
}
