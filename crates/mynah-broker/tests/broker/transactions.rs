//! All or nothing.

use mynah_broker::limits::TRANSACTIONS_MAX;
use mynah_core::protocol::{Host, RefusalKind, Reply, Step};
use mynah_core::queue::{Overflow, QueueSpec};
use mynah_core::{AddressRef, ConsumerId, DeliveryTag, Outcome, TransactionId};

use crate::lab::{CLEAN, Client, KEEP, Lab, from_queue, in_transaction, queue, topic};

const ONE: TransactionId = TransactionId(1);

fn bounded(max: u64) -> QueueSpec {
    QueueSpec { max_messages: Some(max), overflow: Overflow::RejectPublish, ..QueueSpec::default() }
}

fn stage(client: &mut Client, address: AddressRef<'_>, body: &str) {
    let reply = client.publish(&in_transaction(1, address, body));
    assert!(matches!(reply, Reply::Published { routed: 0 }), "{reply:?}");
}

fn settle_in(client: &mut Client, id: u64, tags: &[DeliveryTag]) {
    client.turn(|turn| turn.settle(ConsumerId(1), tags, &Outcome::Accepted, Some(TransactionId(id))));
}

#[test]
fn a_commit_does_everything_and_a_rollback_nothing() {
    let lab = Lab::new();
    let mut one = lab.connect();
    one.attach(1, from_queue("in"));
    one.send(queue("in"), "x");
    let tags = [one.deliveries[0].tag];
    for (end, ready, unsettled) in [(Step::Rollback(ONE), None, 1), (Step::Commit(ONE), Some((1, 0)), 0)] {
        one.transact(Step::Begin(ONE)).unwrap();
        assert_eq!(one.transact(Step::Begin(ONE)).unwrap_err(), RefusalKind::Conflict);
        stage(&mut one, queue("out"), "y");
        settle_in(&mut one, 1, &tags);
        assert_eq!((lab.depth("out"), lab.depth("in")), (None, Some((0, 1))), "not yet");
        one.transact(end).unwrap();
        assert_eq!((lab.depth("out"), lab.depth("in")), (ready, Some((0, unsettled))));
        assert_eq!(one.transact(end).unwrap_err(), RefusalKind::NotFound);
    }
}

#[test]
fn what_has_no_room_undoes_everything() {
    let lab = Lab::new();
    let mut one = lab.connect();
    one.declare("small", &bounded(2)).unwrap();
    one.declare("short", &QueueSpec { max_message_bytes: Some(3), ..bounded(100) }).unwrap();
    one.declare("bytes", &QueueSpec { max_bytes: Some(5), ..bounded(100) }).unwrap();
    let attempts: [(&[(&str, &str)], RefusalKind); 5] = [
        (&[("other", "x"), ("small", "1"), ("small", "2"), ("small", "3")], RefusalKind::Full),
        (&[("other", "x"), ("short", "long")], RefusalKind::TooLarge),
        (&[("other", "x"), ("bytes", "123"), ("bytes", "456")], RefusalKind::Full),
        (
            &[("other", "x"), ("small", "1"), ("small", "2"), ("small", "3"), ("small", "4")],
            RefusalKind::Full,
        ),
        (&[("small", "1"), ("small", "2"), ("small", "3"), ("other", "x")], RefusalKind::Full),
    ];
    for (steps, expected) in attempts {
        one.transact(Step::Begin(ONE)).unwrap();
        for (name, body) in steps {
            stage(&mut one, queue(name), body);
        }
        assert_eq!(one.transact(Step::Commit(ONE)).unwrap_err(), expected);
        assert_eq!(lab.depth("small"), Some((0, 0)));
        assert_eq!(lab.depth("other"), None, "not even made by use");
    }
    // What goes elsewhere does not count for a queue.
    one.transact(Step::Begin(ONE)).unwrap();
    for name in ["other", "other", "other", "small", "small"] {
        stage(&mut one, queue(name), "x");
    }
    one.transact(Step::Commit(ONE)).unwrap();
    assert_eq!((lab.depth("small"), lab.depth("other")), (Some((2, 0)), Some((3, 0))));
}

#[test]
fn a_refused_step_spoils_the_transaction() {
    let lab = Lab::new();
    let mut one = lab.connect();
    one.transact(Step::Begin(ONE)).unwrap();
    stage(&mut one, queue("q"), "x");
    one.turn(|turn| turn.publish(None, &in_transaction(1, topic("$SYS/x"), "forbidden")));
    assert_eq!(one.transact(Step::Commit(ONE)).unwrap_err(), RefusalKind::Forbidden);
    one.transact(Step::Begin(ONE)).unwrap();
    stage(&mut one, queue("q"), "x");
    stage(&mut one, AddressRef::Exchange { name: "none", key: "k" }, "x");
    assert_eq!(one.transact(Step::Commit(ONE)).unwrap_err(), RefusalKind::NotFound);
    assert_eq!(lab.depth("q"), None);
}

#[test]
fn steps_of_an_unknown_transaction() {
    let lab = Lab::new();
    let mut one = lab.connect();
    one.attach(1, from_queue("q"));
    one.send(queue("q"), "x");
    let tags = [one.deliveries[0].tag];
    let reply = one.publish(&in_transaction(7, queue("q"), "x"));
    assert!(matches!(reply, Reply::Refused(refusal) if refusal.kind == RefusalKind::NotFound));
    settle_in(&mut one, 7, &tags);
    assert_eq!(lab.depth("q"), Some((0, 1)), "it is not settled");
    for step in [Step::Commit(ONE), Step::Rollback(ONE)] {
        assert_eq!(one.transact(step).unwrap_err(), RefusalKind::NotFound);
    }
}

#[test]
fn transactions_are_bounded() {
    let lab = Lab::new();
    let mut one = lab.connect();
    for id in 0..TRANSACTIONS_MAX as u64 {
        one.transact(Step::Begin(TransactionId(id))).unwrap();
    }
    assert_eq!(one.transact(Step::Begin(TransactionId(u64::MAX))).unwrap_err(), RefusalKind::Full);
    let body = "x".repeat(8 << 20);
    for _ in 0..8 {
        stage(&mut one, queue("q"), &body[..(8 << 20) - 1]);
    }
    let reply = one.publish(&in_transaction(1, queue("q"), &body));
    assert!(matches!(reply, Reply::Refused(refusal) if refusal.kind == RefusalKind::Full));
    assert_eq!(one.transact(Step::Commit(ONE)).unwrap_err(), RefusalKind::Full);
}

#[test]
fn a_lost_connection_rolls_back() {
    let lab = Lab::new();
    let mut one = lab.connect();
    one.attach(1, from_queue("q"));
    one.send(queue("q"), "x");
    let tags = [one.deliveries[0].tag];
    one.transact(Step::Begin(ONE)).unwrap();
    stage(&mut one, queue("out"), "y");
    settle_in(&mut one, 1, &tags);
    one.detach(1, KEEP);
    one.leave(CLEAN);
    assert_eq!((lab.depth("q"), lab.depth("out")), (Some((1, 0)), None));
    lab.assert_only(&["q"]);
}
