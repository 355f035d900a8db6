//! Queues: made, shared, emptied, deleted, by whom and when.

use std::sync::Arc;
use std::time::Duration;

use mynah_core::protocol::{Change, Notice, RefusalKind, Reply, Role, Source};
use mynah_core::queue::{Overflow, QueueSpec};
use mynah_core::{ConsumerId, Outcome, Value};

use crate::lab::{BACK, CLEAN, KEEP, Lab, at_least_once, from_queue, from_topic, queue, terms};

static AUTO_DELETE: QueueSpec = spec(true, false);
static EXCLUSIVE: QueueSpec = spec(false, true);

const fn spec(auto_delete: bool, exclusive: bool) -> QueueSpec {
    QueueSpec {
        durable: false,
        exclusive,
        auto_delete,
        expires: None,
        message_ttl: None,
        max_messages: None,
        max_bytes: None,
        overflow: Overflow::DropHead,
        max_message_bytes: None,
        max_priority: None,
        delivery_limit: None,
        single_active_consumer: false,
        dead_letter_exchange: None,
        dead_letter_key: None,
        arguments: Vec::new(),
    }
}

fn getter(name: &str) -> Source<'_> {
    Source { role: Role::Getter, ..from_queue(name) }
}

#[test]
fn an_auto_delete_queue_stays_until_it_had_a_consumer() {
    let lab = Lab::new();
    let mut one = lab.connect();
    one.declare("q", &AUTO_DELETE).unwrap();
    one.attach(1, getter("q"));
    one.detach(1, BACK);
    assert!(lab.queue("q").is_some(), "getting is not consuming");
    one.attach(2, from_queue("q"));
    one.attach(3, getter("q"));
    one.detach(2, BACK);
    assert!(lab.queue("q").is_none());
    assert!(one.was_told(|notice| matches!(notice, Notice::Cancelled { consumer: ConsumerId(3) })));
    one.leave(CLEAN);
    lab.assert_only(&[]);
}

#[test]
fn an_auto_delete_queue_goes_with_a_cancelled_consumer_that_holds_messages() {
    let lab = Lab::new();
    let mut one = lab.connect();
    one.declare("q", &AUTO_DELETE).unwrap();
    one.attach(1, from_queue("q"));
    one.send(queue("q"), "x");
    let tag = one.deliveries[0].tag;
    one.detach(1, KEEP);
    assert!(lab.queue("q").is_none());
    one.settle(1, tag, &Outcome::Released);
    one.leave(CLEAN);
    lab.assert_only(&[]);
}

#[test]
fn an_exclusive_queue_is_its_connections_own() {
    let lab = Lab::new();
    let (mut owner, mut other) = (lab.connect(), lab.connect());
    owner.declare("mine", &EXCLUSIVE).unwrap();
    let locked =
        |reply: Reply| matches!(reply, Reply::Refused(refusal) if refusal.kind == RefusalKind::Locked);
    assert!(locked(other.try_attach(1, from_queue("mine"))));
    assert_eq!(other.declare("mine", &EXCLUSIVE).unwrap_err(), RefusalKind::Locked);
    assert_eq!(other.delete("mine").unwrap_err(), RefusalKind::Locked);
    assert_eq!(other.define(Change::PurgeQueue { name: "mine" }).unwrap_err(), RefusalKind::Locked);
    assert_eq!(other.bind("amq.direct", "mine", "k").unwrap_err(), RefusalKind::Locked);
    assert_eq!(other.send(queue("mine"), "sending is for everybody"), 1);
    owner.leave(None);
    assert!(lab.queue("mine").is_none());
    other.declare("mine", &EXCLUSIVE).unwrap();
    other.leave(CLEAN);
    lab.assert_only(&[]);
}

#[test]
fn unused_and_empty_are_looked_at_when_deleting() {
    let lab = Lab::new();
    let mut one = lab.connect();
    one.send(queue("q"), "x");
    let unless = |if_unused, if_empty| Change::DeleteQueue { name: "q", if_unused, if_empty };
    assert_eq!(one.define(unless(false, true)).unwrap_err(), RefusalKind::Conflict);
    one.attach(1, from_queue("q"));
    assert_eq!(one.define(unless(true, false)).unwrap_err(), RefusalKind::Conflict);
    one.detach(1, BACK);
    assert_eq!(one.define(unless(true, false)).unwrap().messages, 1);
    assert_eq!(one.delete("q").unwrap_err(), RefusalKind::NotFound);
}

#[test]
fn declaring_again_must_be_the_same() {
    let lab = Lab::new();
    let mut one = lab.connect();
    let ttl = |value: Value| QueueSpec {
        message_ttl: Some(Duration::from_secs(60)),
        arguments: vec![("x-message-ttl".into(), value)],
        ..QueueSpec::default()
    };
    one.declare("q", &ttl(Value::U8(60))).unwrap();
    one.declare("q", &ttl(Value::I64(60))).unwrap();
    assert_eq!(one.declare("q", &ttl(Value::I64(61))).unwrap_err(), RefusalKind::Conflict);
    assert_eq!(one.declare("q", &AUTO_DELETE).unwrap_err(), RefusalKind::Conflict);
    let passive = |name| Change::DeclareQueue { name, spec: &AUTO_DELETE, passive: true };
    assert_eq!(&*one.define(passive("q")).unwrap().name, "q");
    assert_eq!(one.define(passive("none")).unwrap_err(), RefusalKind::NotFound);
}

#[test]
fn the_brokers_names_are_not_for_clients() {
    let lab = Lab::new();
    let mut one = lab.connect();
    let plain = QueueSpec::default();
    assert_eq!(one.declare("amq.mine", &plain).unwrap_err(), RefusalKind::Forbidden);
    assert_eq!(one.declare("$session/x", &plain).unwrap_err(), RefusalKind::Forbidden);
    let name = one.declare("", &plain).unwrap().name;
    assert!(name.starts_with("amq.gen-"));
    // It is there, so its name may be said again.
    assert_eq!(one.declare(&name, &plain).unwrap().name, name);
}

#[test]
fn sessions_and_groups_are_not_to_be_taken_by_name() {
    let lab = Lab::new();
    let (sensor, _) = lab.session("sensor", terms(false, 60));
    let mut thief = lab.connect();
    let refused = thief.try_attach(1, from_queue("$session/sensor"));
    assert!(matches!(refused, Reply::Refused(refusal) if refusal.kind == RefusalKind::Forbidden));
    assert_eq!(thief.delete("$session/sensor").unwrap_err(), RefusalKind::Forbidden);
    assert_eq!(
        thief.define(Change::PurgeQueue { name: "$session/sensor" }).unwrap_err(),
        RefusalKind::Forbidden
    );
    assert_eq!(thief.bind("amq.topic", "$session/sensor", "#").unwrap_err(), RefusalKind::Forbidden);
    sensor.leave(CLEAN);
}

#[test]
fn a_remembered_route_does_not_lead_to_a_deleted_queue() {
    let lab = Lab::new();
    let (mut one, mut other) = (lab.connect(), lab.connect());
    one.send(queue("q"), "old");
    let old = lab.queue("q").unwrap();
    other.attach(1, from_queue("q"));
    other.delete("q").unwrap();
    assert!(other.was_told(|notice| matches!(notice, Notice::Cancelled { consumer: ConsumerId(1) })));
    assert_eq!(one.send(queue("q"), "new"), 1);
    assert_eq!(lab.depth("q"), Some((1, 0)));
    assert_eq!(old.lock().machine.ready(), 0);
    other.detach(1, BACK);
    assert_eq!(lab.depth("q"), Some((1, 0)), "the consumer was of the old queue");
}

#[test]
fn a_run_for_a_queue_that_is_deleted_meanwhile_finds_the_new_one() {
    let lab = Lab::new();
    let (mut one, mut other) = (lab.connect(), lab.connect());
    one.declare("q", &QueueSpec::default()).unwrap();
    let old = lab.queue("q").unwrap();
    let tickets: Vec<_> = (0..3).map(|_| one.ticket()).collect();
    one.turn(|turn| {
        use mynah_core::protocol::Host;
        for (ticket, body) in tickets.iter().zip(["1", "2", "3"]) {
            turn.publish(Some(*ticket), &at_least_once(queue("q"), body));
        }
        // What is published waits for the end of the run; somebody else is quicker.
        other.delete("q").unwrap();
    });
    assert_eq!(one.replies.len(), 3);
    assert_eq!(old.lock().machine.ready(), 0);
    assert_eq!(lab.depth("q"), Some((3, 0)));
    let mut reader = lab.connect();
    reader.attach(1, from_queue("q"));
    assert_eq!(reader.bodies(), ["1", "2", "3"]);
}

#[test]
fn what_a_cancelled_consumer_holds_it_can_still_settle() {
    let lab = Lab::new();
    let mut one = lab.connect();
    one.attach(1, from_queue("q"));
    for body in ["a", "b", "c"] {
        one.send(queue("q"), body);
    }
    let tags: Vec<_> = one.deliveries.iter().map(|delivery| delivery.tag).collect();
    one.detach(1, KEEP);
    assert_eq!(lab.depth("q"), Some((0, 3)));
    one.settle(1, tags[0], &Outcome::Accepted);
    one.settle(1, tags[1], &Outcome::Released);
    assert_eq!(lab.depth("q"), Some((1, 1)));
    // The number is taken for something else; the old tag is not the new consumer's.
    one.attach(1, from_topic("t", mynah_core::protocol::Holder::Connection));
    one.settle(1, tags[2], &Outcome::Accepted);
    assert_eq!(lab.depth("q"), Some((2, 0)), "it went back when the number was taken");
    one.leave(CLEAN);
    assert_eq!(lab.depth("q"), Some((2, 0)));
}

#[test]
fn what_was_on_its_way_to_a_consumer_is_not_the_next_ones() {
    let lab = Lab::new();
    let (mut one, mut other) = (lab.connect(), lab.connect());
    one.attach(1, from_queue("old"));
    other.send(queue("old"), "for the old one");
    other.send(queue("new"), "for the new one");
    // In one read: detach, and attach under the same number; the delivery waits in the inbox.
    let (detach, attach) = (one.ticket(), one.ticket());
    one.turn(|turn| {
        use mynah_core::protocol::Host;
        turn.detach(detach, ConsumerId(1), BACK);
        turn.attach(attach, ConsumerId(1), from_queue("new"));
    });
    assert_eq!(one.bodies(), ["for the new one"]);
    assert_eq!(lab.depth("old"), Some((1, 0)));
    // The same by replacing.
    other.send(queue("new"), "late");
    let replace = one.ticket();
    one.turn(|turn| {
        use mynah_core::protocol::Host;
        turn.attach(replace, ConsumerId(1), from_queue("old"));
    });
    assert_eq!(one.bodies(), ["for the old one"]);
    assert_eq!(lab.depth("new"), Some((2, 0)));
}

#[test]
fn cancelled_consumers_that_settled_all_are_forgotten() {
    let lab = Lab::new();
    let mut one = lab.connect();
    for id in 1..=20 {
        one.attach(id, from_queue("q"));
        one.send(queue("q"), "x");
        let tag = one.deliveries.pop().unwrap().tag;
        one.detach(id, KEEP);
        one.settle(id, tag, &Outcome::Accepted);
    }
    let handle = lab.queue("q").unwrap();
    one.delete("q").unwrap();
    // This handle and the connection's last route.
    assert!(Arc::strong_count(&handle) <= 3, "{} hold it", Arc::strong_count(&handle));
}

#[test]
fn a_released_message_expires_by_itself() {
    let lab = Lab::new();
    let mut one = lab.connect();
    one.attach(1, from_queue("q"));
    let mut publish = at_least_once(queue("q"), "short");
    publish.header.ttl_ms = Some(1_000);
    one.publish(&publish);
    let tag = one.deliveries[0].tag;
    lab.advance(500);
    one.detach(1, KEEP);
    one.settle(1, tag, &Outcome::Released);
    assert_eq!(lab.depth("q"), Some((1, 0)));
    lab.advance(600);
    assert_eq!(lab.depth("q"), Some((0, 0)));

    // The timer fires while the message is out, and finds nothing.
    one.attach(2, from_queue("q"));
    one.publish(&publish);
    lab.advance(400);
    one.detach(2, BACK);
    assert_eq!(lab.depth("q"), Some((1, 0)));
    lab.advance(700);
    assert_eq!(lab.depth("q"), Some((0, 0)));
}

#[test]
fn a_message_out_when_the_timer_fired_expires_when_it_is_released() {
    let lab = Lab::new();
    let mut one = lab.connect();
    one.attach(1, from_queue("q"));
    let with_ttl = |body, ttl| {
        let mut publish = at_least_once(queue("q"), body);
        publish.header.ttl_ms = Some(ttl);
        publish
    };
    one.publish(&with_ttl("first", 1_000));
    one.publish(&with_ttl("second", 2_000));
    let tag = one.deliveries[1].tag;
    lab.advance(1_100);
    one.detach(1, KEEP);
    one.settle(1, tag, &Outcome::Released);
    assert_eq!(lab.depth("q").unwrap().0, 1);
    lab.advance(1_000);
    assert_eq!(lab.depth("q").unwrap().0, 0);
}

#[test]
fn an_unused_queue_is_deleted_and_any_use_puts_it_off() {
    let lab = Lab::new();
    let mut one = lab.connect();
    let spec = QueueSpec { expires: Some(Duration::from_secs(10)), ..QueueSpec::default() };
    one.declare("q", &spec).unwrap();
    lab.advance(6_000);
    one.declare("q", &spec).unwrap();
    lab.advance(6_000);
    assert!(lab.queue("q").is_some(), "declared again 6 s ago");
    one.attach(1, getter("q"));
    lab.advance(6_000);
    assert!(lab.queue("q").is_none(), "a getter that does not get is no use");
    one.declare("q", &spec).unwrap();
    one.attach(2, from_queue("q"));
    lab.advance(60_000);
    assert!(lab.queue("q").is_some(), "it has a consumer");
    one.detach(2, BACK);
    lab.advance(9_000);
    assert!(lab.queue("q").is_some());
    lab.advance(12_000);
    assert!(lab.queue("q").is_none());
    for _ in 0..100 {
        one.declare("q", &spec).unwrap();
        one.delete("q").unwrap();
    }
    assert_eq!(lab.broker.shared.timers.len(), 0, "timers of deleted queues");
}

#[test]
fn the_timer_task_ends_with_the_broker() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let broker = mynah_broker::Broker::start(mynah_broker::BrokerConfig::default()).unwrap();
        tokio::task::yield_now().await;
        let shared = Arc::clone(&broker.shared);
        drop(broker);
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while Arc::strong_count(&shared) > 1 {
            assert!(std::time::Instant::now() < until, "something holds on to a broker that is gone");
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn draining_is_answered_after_the_deliveries() {
    let lab = Lab::new();
    let mut one = lab.connect();
    let granted = Source { credit: mynah_core::protocol::CreditMode::Granted, ..from_queue("q") };
    one.attach(1, granted);
    one.send(queue("q"), "x");
    one.turn(|turn| {
        use mynah_core::protocol::Host;
        turn.flow(ConsumerId(1), 5, true);
    });
    assert_eq!(one.bodies(), ["x"]);
    assert!(one.was_told(|notice| matches!(notice, Notice::Drained { consumer: ConsumerId(1) })));
    one.send(queue("q"), "y");
    assert!(one.bodies().is_empty(), "the credit is gone");
}

#[test]
fn attaching_again_to_the_same_queue_keeps_what_is_unsettled() {
    let lab = Lab::new();
    let mut one = lab.connect();
    one.attach(1, from_queue("q"));
    one.send(queue("q"), "x");
    let tag = one.deliveries.pop().unwrap().tag;
    assert!(!one.attach(1, from_queue("q")).new);
    assert!(one.bodies().is_empty(), "it is not delivered a second time");
    one.settle(1, tag, &Outcome::Accepted);
    assert_eq!(lab.depth("q"), Some((0, 0)));
}

#[test]
fn dead_letters_have_a_queue_even_where_none_is_made_by_use() {
    let mut config = mynah_broker::BrokerConfig::default();
    config.queues.auto_create = false;
    let lab = Lab::with(config);
    let mut one = lab.connect();
    assert_eq!(one.send(queue("missing"), "x"), 0);
    assert_eq!(lab.depth("mynah.dlq"), Some((1, 0)));
    one.declare("q", &QueueSpec::default()).unwrap();
    one.attach(1, from_queue("q"));
    one.send(queue("q"), "y");
    let tag = one.deliveries[0].tag;
    one.settle(1, tag, &Outcome::Rejected { reason: None });
    assert_eq!(lab.depth("q.dlq"), Some((1, 0)));
}

#[test]
fn a_client_that_is_refused_consuming_leaves_nothing() {
    let lab = Lab::new();
    let (mut one, mut other) = (lab.connect(), lab.connect());
    one.attach(1, Source { exclusive: true, ..from_queue("q") });
    let refused = other.try_attach(1, from_queue("q"));
    assert!(matches!(refused, Reply::Refused(refusal) if refusal.kind == RefusalKind::Forbidden));
    assert!(!other.detach(1, BACK));
    one.leave(CLEAN);
    other.leave(CLEAN);
    lab.assert_only(&["q"]);
}
