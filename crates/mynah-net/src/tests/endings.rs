//! Every way in which a connection ends, and what it is told.

use std::borrow::Cow;
use std::time::Duration;

use mynah_core::protocol::Notice;

use super::lab::Lab;
use crate::limits::FAREWELL;

#[test]
fn a_violation_is_answered_and_then_the_socket_closed() {
    let mut lab = Lab::new();
    let other = lab.speaking("sub t\n");
    let one = lab.speaking("echo a\nbad\necho never\n");
    assert_eq!(lab.socket(one).text(), "a\nthat was bad\n");
    assert!(lab.socket(one).is_write_closed());
    assert_eq!(lab.told_lost(one), 1);
    lab.socket(other).send("pub t x\n");
    lab.settle();
    assert_eq!(lab.socket(other).text(), "attached\nx\n");
    assert!(!lab.is_done(other));
}

#[test]
fn a_violation_in_the_first_bytes_is_answered_too() {
    let mut lab = Lab::new();
    let one = lab.connect();
    lab.socket(one).send("LINE\nbad\n");
    lab.settle();
    assert_eq!(lab.socket(one).text(), "that was bad\n");
    assert_eq!(lab.told(one), ["lost"]);
}

#[test]
fn after_a_violation_a_connection_is_told_only_that_it_is_lost() {
    for room in [usize::MAX, 4] {
        let mut lab = Lab::new();
        // Polled first, so that all of it waits when the other one breaks the rules.
        let two = lab.speaking("");
        let one = lab.speaking("sub t\nqsub q\n");
        lab.socket(one).take();
        lab.socket(one).room(room);
        lab.socket(two).send("pub t x\nput q y\n");
        lab.socket(one).send("bad\n");
        lab.settle();
        lab.socket(two).send("pub t x\nput q y\n");
        lab.settle();
        lab.shared.begin_stop();
        lab.advance(FAREWELL);
        assert!(lab.is_done(one));
        assert_eq!(lab.told(one), ["attached", "attached", "lost"], "room {room}");
        assert_eq!(lab.socket(one).text(), "that was bad\n"[..room.min(13)], "room {room}");
    }
}

#[test]
fn after_a_violation_deliveries_go_to_somebody_else() {
    let mut lab = Lab::new();
    let one = lab.speaking("qsub q\n");
    lab.socket(one).take();
    lab.socket(one).room(4);
    lab.socket(one).send("bad\n");
    lab.settle();
    let two = lab.speaking("put q y\n");
    lab.settle();
    lab.advance(FAREWELL);
    assert!(lab.is_done(one));
    assert_eq!(lab.told(one), ["attached", "lost"]);
    lab.socket(two).send("qsub q\n");
    lab.settle();
    assert_eq!(lab.socket(two).text(), "published 1\nattached\ny\n");
}

/// Replies that the broken connection had coming are nobody else's.
#[test]
fn after_a_violation_its_replies_are_not_the_next_ones() {
    let mut lab = Lab::new();
    let one = lab.speaking("");
    let two = lab.speaking("");
    lab.socket(one).room(0);
    lab.socket(one).send("pubt t x\npubt t x\npubt t x\nbad\n");
    lab.settle();
    lab.socket(two).send("echo a\n");
    lab.settle();
    assert!(!lab.tasks[two].panicked);
    assert_eq!(lab.socket(two).text(), "a\n");
}

#[test]
fn lost_is_told_once_in_every_way_of_ending() {
    type End = fn(&mut Lab, usize);
    let ways: [(&str, End); 9] = [
        ("the peer closes", |lab, one| lab.socket(one).end()),
        ("the socket breaks", |lab, one| lab.socket(one).break_off()),
        ("the socket breaks while writing", |lab, one| {
            lab.socket(one).room(0);
            lab.socket(one).send("echo a\n");
            lab.settle();
            lab.socket(one).break_off();
        }),
        ("the peer says good-bye", |lab, one| lab.socket(one).send("quit\n")),
        ("the peer says good-bye and closes", |lab, one| {
            lab.socket(one).send("quit\n");
            lab.socket(one).end();
        }),
        ("the peer breaks the protocol", |lab, one| lab.socket(one).send("bad\n")),
        ("an operator closes", |lab, one| {
            let info = lab.broker.connections.get(&lab.tasks[one].number).unwrap().value().clone();
            if info.inbox.push_notice(Notice::Kicked { reason: Cow::Borrowed("test") }).wake {
                info.inbox.wake();
            }
        }),
        ("the broker stops", |lab, _| lab.shared.begin_stop()),
        ("the runtime ends", |lab, one| lab.drop_task(one)),
    ];
    for (way, end) in ways {
        let mut lab = Lab::new();
        let one = lab.speaking("sub t\nqsub q\nlater 3600000\n");
        end(&mut lab, one);
        lab.settle();
        assert_eq!(lab.told_lost(one), 1, "{way}");
        lab.socket(one).end();
        lab.settle();
        assert!(lab.is_done(one), "{way}");
        assert_eq!(lab.told_lost(one), 1, "{way}");
        lab.assert_empty();
        // Nobody consumes from the queue any more.
        let two = lab.speaking("put q x\nqsub q\n");
        if way != "the broker stops" {
            assert_eq!(lab.socket(two).text(), "published 1\nattached\nx\n", "{way}");
        }
    }
}

#[test]
fn the_end_of_the_broker_is_told_once() {
    let mut lab = Lab::new();
    let one = lab.speaking("");
    lab.socket(one).room(1);
    lab.shared.begin_stop();
    lab.settle();
    lab.socket(one).send("echo a\n");
    lab.settle();
    lab.shared.begin_stop();
    lab.settle();
    lab.socket(one).room(usize::MAX);
    lab.settle();
    assert_eq!(lab.told(one), ["shutdown", "lost"]);
    assert_eq!(lab.socket(one).text(), "bye\n");
}

#[test]
fn the_end_of_the_broker_ends_who_has_said_nothing() {
    let mut lab = Lab::new();
    let one = lab.connect();
    lab.settle();
    lab.shared.begin_stop();
    lab.settle();
    assert!(lab.is_done(one));
    let late = lab.speaking("echo a\n");
    assert!(lab.is_done(late));
    lab.assert_empty();
}

#[test]
fn the_end_of_the_broker_reaches_who_waits_for_its_socket() {
    let mut lab = Lab::new();
    let one = lab.speaking("sub t\n");
    let two = lab.speaking("");
    lab.socket(one).room(0);
    for _ in 0..3 {
        // The second stays in the inbox.
        lab.socket(two).send("pub t x\n");
        lab.settle();
    }
    lab.shared.begin_stop();
    lab.settle();
    assert!(lab.told(one).contains(&"shutdown".to_owned()));
    lab.advance(FAREWELL);
    assert!(lab.is_done(one));
    assert_eq!(lab.told_lost(one), 1);
}

#[test]
fn a_deadline_moves_later_and_earlier() {
    let mut lab = Lab::new();
    let one = lab.speaking("later 1000\n");
    lab.advance(Duration::from_millis(900));
    lab.socket(one).send("later 1000\n");
    lab.settle();
    lab.advance(Duration::from_millis(900));
    assert_eq!(lab.socket(one).text(), "");
    lab.socket(one).send("later 10\n");
    lab.settle();
    lab.advance(Duration::from_millis(9));
    assert_eq!(lab.socket(one).text(), "");
    lab.advance(Duration::from_millis(1));
    assert_eq!(lab.socket(one).text(), "deadline\n");
    lab.advance(Duration::from_secs(3600));
    assert_eq!(lab.socket(one).text(), "");
    // Nothing is registered for who has none.
    let (due, next) = lab.shared.deadlines.take_due(lab.now + Duration::from_secs(3600));
    assert!(due.is_empty() && next.is_none());
}
