//! Bounds, time, priorities, limits: what the declaration of a queue says.

use super::*;

#[test]
fn messages_of_higher_priority_first() {
    let mut desk = desk(QueueSpec { max_priority: Some(5), ..QueueSpec::default() });
    for (body, priority) in [("a", None), ("b", Some(3)), ("c", Some(9)), ("d", Some(5)), ("e", Some(0))] {
        desk.push_from(0, body, Header { priority, ..Header::default() }).unwrap();
    }
    assert_eq!(desk.peek(), "cdbae");
    desk.attach(1, terms(CreditMode::Window(9)));
    assert_eq!(desk.dispatch(), "1:c 1:d 1:b 1:a 1:e");
    desk.settle(1, &[1, 2, 4], &Outcome::Released);
    assert_eq!(desk.peek(), "dba");
}

#[test]
fn priorities_are_equal_unless_declared() {
    let mut desk = desk(QueueSpec::default());
    desk.push("a");
    desk.push_from(0, "b", Header { priority: Some(9), ..Header::default() }).unwrap();
    assert_eq!(desk.peek(), "ab");
}

#[test]
fn attempts_end_at_the_limit_but_releases_do_not_count() {
    let mut desk = Desk::with(&[terms(CreditMode::Window(1))]);
    desk.push("a");
    for outcome in [&FAILED, &Outcome::Released, &FAILED, &Outcome::Released] {
        assert_eq!(desk.dispatch(), "1:a");
        desk.settle(1, &[1], outcome);
        assert_eq!(desk.effects(), [""; 0]);
    }
    assert_eq!(desk.dispatch(), "1:a");
    desk.settle(1, &[1], &FAILED);
    assert_eq!(desk.effects(), ["a read-count"]);
    assert_eq!(desk.queue.ready(), 0);
}

#[test]
fn a_limit_of_none_is_none() {
    let mut desk = desk(QueueSpec { delivery_limit: Some(0), ..QueueSpec::default() });
    desk.attach(1, terms(CreditMode::Window(1)));
    desk.push("a");
    for attempts in 0..50 {
        assert_eq!(desk.deliveries()[0].1.attempts, attempts);
        desk.settle(1, &[1], &FAILED);
    }
}

#[test]
fn drop_head_makes_room_and_tells() {
    let mut desk = desk(QueueSpec { max_messages: Some(2), ..QueueSpec::default() });
    desk.push("abcd");
    assert_eq!(desk.effects(), ["a queue-length", "b queue-length"]);
    assert_eq!(desk.peek(), "cd");
}

#[test]
fn drop_head_by_bytes_may_drop_the_new_one() {
    let mut desk = desk(QueueSpec { max_bytes: Some(5), ..QueueSpec::default() });
    desk.push_from(0, "aaa", Header::default()).unwrap();
    desk.push_from(0, "bb", Header::default()).unwrap();
    assert_eq!(desk.queue.ready_bytes(), 5);
    desk.push_from(0, "c", Header::default()).unwrap();
    assert_eq!(desk.effects(), ["aaa queue-length"]);
    desk.push_from(0, "dddddd", Header::default()).unwrap();
    assert_eq!(desk.effects(), ["bb queue-length", "c queue-length", "dddddd queue-length"]);
    assert_eq!(desk.queue.ready_bytes(), 0);
}

#[test]
fn the_oldest_goes_whatever_its_priority() {
    let mut desk = desk(QueueSpec { max_priority: Some(9), max_messages: Some(2), ..QueueSpec::default() });
    for (body, priority) in [("a", 9), ("b", 1), ("c", 5)] {
        desk.push_from(0, body, Header { priority: Some(priority), ..Header::default() }).unwrap();
    }
    assert_eq!(desk.effects(), ["a queue-length"]);
}

#[test]
fn a_full_queue_refuses() {
    let refusing = |overflow| QueueSpec { max_messages: Some(1), overflow, ..QueueSpec::default() };
    let mut desk1 = desk(refusing(Overflow::RejectPublish));
    desk1.push("a");
    assert_eq!(desk1.push_from(0, "b", Header::default()), Err(Refused::Full));
    assert_eq!(desk1.effects(), [""; 0]);
    let mut desk2 = desk(refusing(Overflow::DeadLetter));
    desk2.push("a");
    assert_eq!(desk2.push_from(0, "b", Header::default()), Err(Refused::Full));
    assert_eq!(desk2.effects(), ["b queue-length"]);
    assert_eq!(desk2.peek(), "a");
}

#[test]
fn what_credit_will_take_does_not_count_against_the_bounds() {
    for overflow in [Overflow::DropHead, Overflow::RejectPublish] {
        let mut desk = desk(QueueSpec { max_messages: Some(1), overflow, ..QueueSpec::default() });
        desk.attach(1, terms(CreditMode::Window(3)));
        desk.push("abcd");
        assert_eq!(desk.dispatch(), "1:a 1:b 1:c");
        assert_eq!((desk.effects(), desk.peek().as_str()), (Vec::new(), "d"));
    }
}

#[test]
fn what_credit_did_not_take_makes_room_after_the_dispatch() {
    let mut desk = desk(QueueSpec { max_messages: Some(1), ..QueueSpec::default() });
    desk.attach(1, ConsumerTerms { no_local: Some(7), ..terms(CreditMode::Window(3)) });
    for body in ["a", "b", "c"] {
        desk.push_from(7, body, Header::default()).unwrap();
    }
    assert_eq!(desk.dispatch(), "");
    desk.queue.set_window(key(1), 0);
    assert_eq!(desk.dispatch(), "");
    assert_eq!(desk.effects(), ["a queue-length", "b queue-length"]);
    assert_eq!(desk.peek(), "c");
}

#[test]
fn too_large_is_refused_and_kept_as_a_dead_letter() {
    for overflow in [Overflow::DropHead, Overflow::DeadLetter, Overflow::RejectPublish] {
        let mut desk = desk(QueueSpec { max_message_bytes: Some(3), overflow, ..QueueSpec::default() });
        desk.push_from(0, "abc", Header::default()).unwrap();
        assert_eq!(desk.push_from(0, "abcd", Header::default()), Err(Refused::TooLarge));
        let told = if overflow == Overflow::RejectPublish { vec![] } else { vec!["abcd message-length"] };
        assert_eq!(desk.effects(), told);
    }
}

#[test]
fn messages_expire_wherever_they_stand() {
    let mut desk = desk(QueueSpec { message_ttl: Some(Duration::from_millis(100)), ..QueueSpec::default() });
    desk.push("a");
    desk.push_ttl("b", 10);
    desk.push_ttl("c", 5000);
    desk.push_ttl("d", 10);
    assert_eq!(desk.queue.next_expiry(), Some(desk.now + Duration::from_millis(10)));
    desk.pass(10);
    desk.queue.expire(desk.now, &mut desk.effects);
    assert_eq!(desk.effects(), ["b expired", "d expired"]);
    assert_eq!((desk.peek().as_str(), desk.queue.ready()), ("ac", 2));
    desk.pass(90);
    desk.queue.expire(desk.now, &mut desk.effects);
    assert_eq!(desk.effects(), ["a expired", "c expired"]);
    assert_eq!(desk.queue.next_expiry(), None);
}

#[test]
fn the_expired_are_not_delivered() {
    let mut desk = Desk::with(&[terms(CreditMode::Window(9))]);
    desk.push_ttl("a", 10);
    desk.push("b");
    desk.pass(11);
    assert_eq!(desk.dispatch(), "1:b");
    assert_eq!(desk.effects(), ["a expired"]);
}

#[test]
fn no_time_to_live_means_at_once_or_never() {
    let mut desk = Desk::with(&[terms(CreditMode::Window(1))]);
    desk.push_ttl("a", 0);
    desk.push_ttl("b", 0);
    assert_eq!(desk.dispatch(), "1:a");
    assert_eq!(desk.queue.next_expiry(), Some(desk.now));
    desk.queue.expire(desk.now, &mut desk.effects);
    assert_eq!(desk.effects(), ["b expired"]);
}

#[test]
fn what_expires_while_it_is_out_is_not_given_back() {
    let mut desk = Desk::with(&[terms(CreditMode::Window(9))]);
    desk.push_ttl("a", 10);
    desk.push_ttl("b", 1000);
    desk.dispatch();
    desk.pass(20);
    desk.queue.expire(desk.now, &mut desk.effects);
    assert_eq!(desk.effects(), [""; 0], "it is with a consumer");
    desk.queue.set_window(key(1), 0);
    desk.settle(1, &[1, 2], &Outcome::Released);
    assert_eq!((desk.effects(), desk.peek().as_str()), (vec!["a expired".to_owned()], "b"));
    desk.pass(1000);
    desk.queue.expire(desk.now, &mut desk.effects);
    assert_eq!(desk.effects(), ["b expired"]);
}

#[test]
fn times_of_what_is_gone_are_forgotten() {
    let mut desk = Desk::with(&[ConsumerTerms { settled: true, ..terms(CreditMode::Window(1)) }]);
    for _ in 0..1000 {
        desk.push_ttl("a", 1_000_000);
        desk.dispatch();
    }
    assert!(desk.queue.ready.expiries_len() < 100);
}

#[test]
fn a_lost_connection_counts_as_an_attempt() {
    let mut desk = desk(QueueSpec { delivery_limit: Some(1), ..QueueSpec::default() });
    desk.attach(1, terms(CreditMode::Window(4)));
    desk.push("ab");
    desk.dispatch();
    desk.detach(1, false, true);
    assert_eq!(desk.effects(), ["a read-count", "b read-count"]);
}

#[test]
fn an_exclusive_consumer_is_alone() {
    let exclusive = ConsumerTerms { exclusive: true, ..terms(CreditMode::Window(1)) };
    let mut desk = Desk::with(&[terms(CreditMode::Window(1))]);
    assert!(desk.refused(2, exclusive));
    desk.attach(1, exclusive);
    assert!(desk.refused(2, terms(CreditMode::Window(1))) && desk.refused(2, exclusive));
    desk.attach(3, ConsumerTerms { role: Role::Getter, ..terms(CreditMode::Granted) });
    desk.detach(1, false, false);
    desk.attach(2, exclusive);
}

#[test]
fn a_single_consumer_is_active_until_it_ends() {
    let mut desk = desk(QueueSpec { single_active_consumer: true, ..QueueSpec::default() });
    desk.attach(1, terms(CreditMode::Window(2)));
    desk.attach(2, terms(CreditMode::Window(9)));
    desk.attach(3, ConsumerTerms { priority: 1, ..terms(CreditMode::Window(1)) });
    desk.push("abcd");
    assert_eq!((desk.dispatch().as_str(), desk.queue.consumers()), ("1:a 1:b", 3));
    desk.detach(1, true, false);
    assert_eq!(desk.dispatch(), "3:c");
    desk.detach(3, false, false);
    assert_eq!(desk.dispatch(), "2:c 2:d");
    desk.detach(2, false, false);
    assert_eq!(desk.peek(), "cd");
}

#[test]
fn purging_and_deleting() {
    let mut desk = Desk::with(&[terms(CreditMode::Window(2))]);
    desk.push("abcde");
    desk.dispatch();
    assert_eq!((desk.queue.purge(), desk.queue.ready(), desk.queue.unsettled()), (3, 0, 2));
    assert_eq!(desk.queue.ready_bytes(), 0);
    desk.settle(1, &[1], &Outcome::Accepted);
    desk.push("fg");
    assert_eq!(desk.dispatch(), "1:f");
    let all: Vec<String> = desk.queue.drain_all().iter().map(|message| body(message)).collect();
    assert_eq!(all, ["g", "b", "f"]);
    assert_eq!((desk.settle(1, &[2], &Outcome::Accepted), desk.queue.unsettled()), (0, 0));
    desk.push("h");
    assert_eq!((desk.dispatch().as_str(), desk.queue.consumer_stats()), ("1:h", vec![(key(1), 1, 1)]));
}

#[test]
fn a_queue_that_was_long_gives_memory_back() {
    let mut desk = Desk::with(&[terms(CreditMode::Window(0))]);
    let many = 100_000;
    desk.queue = Queue::new(Arc::default(), QueueDefaults { max_messages: u64::MAX, ..DEFAULTS });
    desk.attach(1, terms(CreditMode::Window(0)));
    for _ in 0..many {
        desk.push_ttl("a", 1_000_000);
    }
    desk.queue.set_window(key(1), many);
    assert_eq!(desk.deliveries().len(), many as usize);
    let tags: Vec<u64> = (1..=u64::from(many)).collect();
    for some in tags.chunks(1000) {
        desk.settle(1, some, &Outcome::Accepted);
        desk.dispatch();
    }
    let kept =
        (desk.queue.ready.capacity(), desk.queue.unsettled.capacity(), desk.queue.ready.expiries_len());
    assert!(kept.0 <= 4096 && kept.1 <= 4096 && kept.2 <= 4096, "{kept:?}");
}
