//! One write a batch, full sockets, and what waits behind them.

use std::time::Duration;

use super::lab::Lab;
use crate::limits::{FAREWELL, LINGER, WIRE_BYTES_HIGH};

#[test]
fn a_batch_of_replies_is_one_write() {
    let mut lab = Lab::new();
    let one = lab.speaking("sub t\n");
    let before = lab.socket(one).writes();
    lab.socket(one).send("echo a\npubt u x\necho b\n".repeat(50));
    lab.settle();
    assert_eq!(lab.socket(one).writes() - before, 1);
    let text = lab.socket(one).text();
    assert_eq!((text.matches("a\n").count(), text.matches("published 0\n").count()), (50, 50));
}

#[test]
fn a_batch_of_messages_is_one_write_and_one_poll() {
    let mut lab = Lab::new();
    let one = lab.speaking("sub t\n");
    let two = lab.speaking("");
    lab.socket(one).take();
    let before = lab.socket(one).writes();
    lab.socket(two).send("pub t x\n".repeat(500));
    lab.settle();
    assert_eq!(lab.socket(one).text(), "x\n".repeat(500));
    assert_eq!(lab.socket(one).writes() - before, 1);
}

#[test]
fn a_short_write_resumes_where_it_stopped() {
    let mut lab = Lab::new();
    let one = lab.speaking("");
    lab.socket(one).room(3);
    lab.socket(one).send("echo abcdef\n");
    lab.settle();
    assert_eq!(lab.socket(one).text(), "abc");
    lab.socket(one).room(2);
    lab.settle();
    lab.socket(one).room(100);
    lab.settle();
    assert_eq!(lab.socket(one).text(), "def\n");
}

#[test]
fn behind_a_full_socket_the_inbox_waits_and_is_taken_afterwards() {
    let mut lab = Lab::new();
    let one = lab.speaking("sub t\n");
    let two = lab.speaking("");
    lab.socket(one).take();
    lab.socket(one).room(1);
    lab.socket(two).send("pub t first\n");
    lab.settle();
    lab.socket(two).send("pub t second\n");
    lab.settle();
    let inbox = lab.broker.connections.get(&lab.tasks[one].number).unwrap().inbox.clone();
    assert_eq!(inbox.level().0, "second\n".len());
    // Nobody publishes any more; the socket's room is all that happens.
    lab.socket(one).room(usize::MAX);
    lab.settle();
    assert_eq!(lab.socket(one).text(), "first\nsecond\n");
}

#[test]
fn with_little_unsent_a_connection_still_reads() {
    let mut lab = Lab::new();
    let one = lab.speaking("");
    lab.socket(one).room(0);
    for _ in 0..100 {
        lab.socket(one).send("echo a\n");
    }
    lab.settle();
    assert_eq!(lab.socket(one).unread(), 0);
    lab.socket(one).room(usize::MAX);
    lab.settle();
    assert_eq!(lab.socket(one).text(), "a\n".repeat(100));
}

#[test]
fn with_much_unsent_a_connection_does_not_read() {
    let mut lab = Lab::new();
    let one = lab.speaking("");
    lab.socket(one).room(0);
    lab.socket(one).send(format!("big {}\n", WIRE_BYTES_HIGH + 1));
    for _ in 0..10 {
        lab.socket(one).send("echo a\n");
        lab.settle();
    }
    assert_eq!(lab.socket(one).unread(), 70);
    lab.socket(one).room(usize::MAX);
    lab.settle();
    assert_eq!(lab.socket(one).take().len(), WIRE_BYTES_HIGH + 1 + 20);
}

#[test]
fn a_socket_that_takes_no_more_than_nothing_is_broken() {
    let mut lab = Lab::new();
    let one = lab.speaking("");
    lab.socket(one).take_nothing();
    lab.socket(one).send("echo a\n");
    lab.settle();
    assert!(lab.is_done(one));
    assert_eq!(lab.told_lost(one), 1);
}

#[test]
fn a_farewell_is_flushed_and_then_the_socket_closed() {
    let mut lab = Lab::new();
    let one = lab.speaking("echo a\nquit\necho never\n");
    assert_eq!(lab.socket(one).text(), "a\nbye\n");
    assert!(lab.socket(one).is_write_closed() && !lab.is_done(one));
    assert_eq!(lab.told_lost(one), 1);
    assert!(lab.broker.connections.is_empty());
    lab.socket(one).end();
    lab.settle();
    assert!(lab.is_done(one));
    lab.assert_empty();
}

#[test]
fn a_farewell_waits_for_a_slow_reader() {
    let mut lab = Lab::new();
    let one = lab.speaking("");
    lab.socket(one).room(2);
    lab.socket(one).send("quit\n");
    lab.settle();
    lab.advance(FAREWELL / 2);
    assert!(!lab.socket(one).is_write_closed());
    lab.socket(one).room(2);
    lab.settle();
    assert_eq!(lab.socket(one).text(), "bye\n");
    assert!(lab.socket(one).is_write_closed());
    lab.advance(LINGER);
    assert!(lab.is_done(one));
    lab.assert_empty();
}

#[test]
fn a_farewell_that_nobody_reads_is_given_up() {
    let mut lab = Lab::new();
    let one = lab.speaking("");
    lab.socket(one).room(2);
    lab.socket(one).send("quit\n");
    lab.settle();
    lab.advance(FAREWELL - Duration::from_millis(1));
    assert!(!lab.is_done(one));
    lab.advance(Duration::from_millis(1));
    assert!(lab.is_done(one));
    assert_eq!(lab.told_lost(one), 1);
    lab.assert_empty();
}

#[test]
fn nothing_follows_a_farewell() {
    let mut lab = Lab::new();
    let one = lab.speaking("sub t\n");
    let two = lab.speaking("");
    lab.socket(one).take();
    lab.socket(one).room(1);
    lab.socket(one).send("quit\n");
    lab.settle();
    for _ in 0..5 {
        lab.socket(two).send("pub t late\n");
        lab.settle();
        lab.socket(one).room(1);
        lab.settle();
    }
    assert_eq!(lab.socket(one).text(), "bye\n");
    assert!(lab.socket(one).is_write_closed());
}

#[test]
fn nothing_follows_a_farewell_in_the_same_turn() {
    let mut lab = Lab::new();
    let one = lab.speaking("sub t\n");
    lab.socket(one).take();
    lab.socket(one).send("pub t mine\nquit\n");
    lab.settle();
    assert_eq!(lab.socket(one).text(), "bye\n");
}

#[test]
fn who_is_taken_over_and_cannot_write_goes() {
    let mut lab = Lab::new();
    let one = lab.speaking("open x\n");
    lab.socket(one).room(0);
    lab.socket(one).send("echo a\n");
    lab.settle();
    let two = lab.speaking("open x\n");
    assert!(lab.is_done(one));
    assert_eq!(lab.told_lost(one), 1);
    assert_eq!(lab.socket(two).text(), "opened\n");
}

#[test]
fn who_is_taken_over_is_told_first() {
    let mut lab = Lab::new();
    let one = lab.speaking("open x\n");
    lab.speaking("open x\n");
    assert_eq!(lab.socket(one).text(), "opened\ngo\n");
    assert_eq!(lab.told_lost(one), 1);
    assert!(lab.socket(one).is_write_closed());
}
