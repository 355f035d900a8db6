//! Publishers wait for receivers that read, and not for those that do not.

use std::time::Duration;

use mynah_broker::limits::{INBOX_BYTES_HIGH, INBOX_PATIENCE};

use super::lab::Lab;

fn publish(size: usize) -> String {
    format!("pub t {}\n", "x".repeat(size))
}

/// A subscriber to `t` that does not read, with its inbox over its mark.
fn congested(lab: &mut Lab, publisher: usize) -> usize {
    let one = lab.speaking("sub t\n");
    lab.socket(one).take();
    lab.socket(one).room(0);
    // The first goes to the wire.
    lab.socket(publisher).send(publish(1));
    lab.settle();
    lab.socket(publisher).send(publish(INBOX_BYTES_HIGH));
    lab.settle();
    one
}

#[test]
fn a_publisher_waits_until_its_receiver_reads() {
    let mut lab = Lab::new();
    let publisher = lab.speaking("");
    let one = congested(&mut lab, publisher);
    lab.socket(publisher).send("echo a\n");
    lab.settle();
    assert_eq!(lab.socket(publisher).unread(), 7);
    lab.socket(one).room(usize::MAX);
    lab.settle();
    assert_eq!(lab.socket(publisher).text(), "a\n");
    assert_eq!(lab.socket(one).take().len(), 2 + INBOX_BYTES_HIGH + 1);
}

#[test]
fn patience_ends() {
    let mut lab = Lab::new();
    let publisher = lab.speaking("");
    let one = congested(&mut lab, publisher);
    lab.socket(publisher).send("echo a\n");
    lab.advance(INBOX_PATIENCE - Duration::from_millis(1));
    assert_eq!(lab.socket(publisher).text(), "");
    lab.advance(Duration::from_millis(1));
    assert_eq!(lab.socket(publisher).text(), "a\n");
    assert!(!lab.is_done(one));
    // From now on nobody waits for it.
    lab.socket(publisher).send(format!("{}echo b\n", publish(10)));
    lab.settle();
    assert_eq!(lab.socket(publisher).text(), "b\n");
}

#[test]
fn a_receiver_that_goes_lets_its_publishers_go_on() {
    let mut lab = Lab::new();
    let publisher = lab.speaking("");
    let one = congested(&mut lab, publisher);
    lab.socket(publisher).send("echo a\n");
    lab.settle();
    lab.socket(one).break_off();
    lab.settle();
    assert_eq!(lab.socket(publisher).text(), "a\n");
}

/// Its own inbox holds something, so that it counts as woken already.
fn blocked_publisher(lab: &mut Lab) -> (usize, usize) {
    let publisher = lab.speaking("sub own\n");
    let helper = lab.speaking("");
    lab.socket(publisher).take();
    lab.socket(publisher).room(0);
    lab.socket(helper).send("pub own x\n");
    lab.settle();
    lab.socket(helper).send("pub own x\n");
    lab.settle();
    let one = congested(lab, publisher);
    lab.socket(publisher).send("echo a\n");
    lab.settle();
    assert_eq!(lab.socket(publisher).unread(), 7);
    (publisher, one)
}

#[test]
fn a_publisher_that_waits_for_its_socket_too_goes_on_when_there_is_room() {
    let mut lab = Lab::new();
    let (publisher, one) = blocked_publisher(&mut lab);
    lab.socket(one).room(usize::MAX);
    lab.settle();
    assert_eq!(lab.socket(publisher).unread(), 0);
}

#[test]
fn a_publisher_that_waits_for_its_socket_too_goes_on_when_patience_ends() {
    let mut lab = Lab::new();
    let (publisher, _) = blocked_publisher(&mut lab);
    lab.advance(INBOX_PATIENCE);
    assert_eq!(lab.socket(publisher).unread(), 0);
}

#[test]
fn a_publisher_that_waits_for_its_socket_too_goes_on_when_its_receiver_goes() {
    let mut lab = Lab::new();
    let (publisher, one) = blocked_publisher(&mut lab);
    lab.socket(one).break_off();
    lab.settle();
    assert_eq!(lab.socket(publisher).unread(), 0);
}

#[test]
fn a_publisher_that_waits_for_its_socket_too_goes_on_when_its_receivers_task_is_dropped() {
    let mut lab = Lab::new();
    let (publisher, one) = blocked_publisher(&mut lab);
    lab.drop_task(one);
    assert_eq!(lab.socket(publisher).unread(), 0);
}

/// Its own subscriber, and its peer reads only when it has written everything.
#[test]
fn who_publishes_to_itself_does_not_wait_for_itself_for_ever() {
    let mut lab = Lab::new();
    let one = lab.speaking("sub t\n");
    lab.socket(one).take();
    lab.socket(one).room(0);
    for _ in 0..60 {
        lab.socket(one).send(publish(20_000));
        lab.settle();
    }
    assert!(lab.socket(one).unread() > 0);
    lab.advance(INBOX_PATIENCE);
    assert_eq!(lab.socket(one).unread(), 0);
    lab.socket(one).room(usize::MAX);
    lab.settle();
    assert_eq!(lab.socket(one).take().len(), 60 * 20_001);
}

/// Several publishers, one slow reader: everything arrives, and nobody is left waiting.
#[test]
fn several_publishers_and_a_slow_reader() {
    for (publishers, room, size) in [(1, 1 << 20, 30_000), (5, 100_000, 9_000), (8, 333_333, 1_000)] {
        let mut lab = Lab::new();
        let reader = lab.speaking("sub t\n");
        lab.socket(reader).take();
        lab.socket(reader).room(0);
        let tasks: Vec<_> = (0..publishers).map(|_| lab.speaking("")).collect();
        let (mut received, mut sent) = (0, 0);
        for round in 0..40 {
            for &task in &tasks {
                let batch = publish(size).repeat(100_000 / size);
                sent += (size + 1) * (100_000 / size);
                lab.socket(task).send(batch);
            }
            lab.settle();
            lab.socket(reader).room(room + round);
            lab.settle();
            received += lab.socket(reader).take().len();
        }
        while received < sent {
            let before = received;
            lab.socket(reader).room(room);
            lab.settle();
            received += lab.socket(reader).take().len();
            assert!(received > before, "stuck at {received} of {sent}");
        }
        assert_eq!(received, sent);
        assert!(tasks.iter().all(|&task| lab.socket(task).unread() == 0));
    }
}
