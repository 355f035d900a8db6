//! Who gets what, and what comes back.

use super::*;

#[test]
fn consumers_take_turns_and_get_one_batch_each() {
    let mut desk = Desk::with(&[terms(CreditMode::Window(10)), terms(CreditMode::Window(10))]);
    desk.push("abcde");
    assert_eq!(desk.dispatch(), "1:a 1:c 1:e 2:b 2:d");
    desk.push("fg");
    assert_eq!(desk.dispatch(), "2:f 1:g");
    assert_eq!(desk.queue.unsettled(), 7);
}

#[test]
fn a_window_is_what_may_be_unsettled() {
    let mut desk = Desk::with(&[terms(CreditMode::Window(2)), terms(CreditMode::Window(0))]);
    desk.push("abcd");
    assert_eq!(desk.dispatch(), "1:a 1:b");
    assert_eq!(desk.settle(1, &[2, 2, 9], &Outcome::Accepted), 1);
    assert_eq!(desk.dispatch(), "1:c");
    desk.queue.set_window(key(2), 1);
    assert_eq!(desk.dispatch(), "2:d");
    assert_eq!(desk.settle(2, &[1], &Outcome::Accepted), 0, "another consumer's tag");
}

#[test]
fn a_socket_has_a_window_of_what_is_on_its_way() {
    let mut desk = Desk::with(&[ConsumerTerms { settled: true, ..terms(CreditMode::Socket) }]);
    desk.push("abcdef");
    assert_eq!(desk.dispatch(), "1:a 1:b 1:c 1:d");
    assert_eq!(desk.queue.unsettled(), 0);
    assert_eq!(desk.dispatch(), "");
    desk.queue.replenish(key(1), 1);
    assert_eq!(desk.dispatch(), "1:e");
    desk.queue.replenish(key(1), 100);
    assert_eq!(desk.dispatch(), "1:f");
}

#[test]
fn what_is_settled_never_fills_a_window() {
    let mut desk = Desk::with(&[ConsumerTerms { settled: true, ..terms(CreditMode::Window(1)) }]);
    desk.push("abc");
    assert_eq!(desk.dispatch(), "1:a 1:b 1:c");
    desk.queue.set_window(key(1), 0);
    desk.push("d");
    assert_eq!(desk.dispatch(), "");
}

#[test]
fn granted_credit_is_absolute_and_drains_after_the_deliveries() {
    let mut desk = Desk::with(&[terms(CreditMode::Granted)]);
    desk.push("abcd");
    assert_eq!(desk.dispatch(), "");
    desk.queue.flow(key(1), 5, false);
    desk.queue.flow(key(1), 2, false);
    assert_eq!(desk.dispatch(), "1:a 1:b");
    desk.queue.flow(key(1), 5, true);
    assert_eq!(desk.dispatch(), "1:c 1:d");
    assert_eq!(desk.effects(), ["drained 1"]);
    desk.push("e");
    assert_eq!(desk.dispatch(), "");
    assert_eq!(desk.effects(), [""; 0]);
}

#[test]
fn a_drain_can_be_taken_back_and_ends_with_its_consumer() {
    let mut desk = Desk::with(&[terms(CreditMode::Granted), terms(CreditMode::Granted)]);
    desk.queue.flow(key(1), 5, true);
    desk.queue.flow(key(1), 5, false);
    desk.queue.flow(key(2), 5, true);
    desk.detach(2, false, false);
    assert_eq!(desk.dispatch(), "");
    assert_eq!(desk.effects(), [""; 0]);
    desk.push("a");
    assert_eq!(desk.dispatch(), "1:a");
}

#[test]
fn a_getter_comes_first_and_is_no_consumer() {
    let getter = ConsumerTerms { role: Role::Getter, ..terms(CreditMode::Granted) };
    let mut desk = Desk::with(&[terms(CreditMode::Window(10)), getter]);
    assert_eq!(desk.queue.consumers(), 1);
    desk.queue.flow(key(2), 1, true);
    assert_eq!(desk.dispatch(), "");
    assert_eq!(desk.effects(), ["drained 2"]);
    desk.push("abc");
    desk.queue.flow(key(2), 1, true);
    assert_eq!(
        desk.deliveries().iter().map(|(sink, it)| (*sink, it.remaining)).collect::<Vec<_>>(),
        [(2, 2), (1, 1), (1, 0)]
    );
    assert_eq!(desk.settle(2, &[1], &Outcome::Accepted), 1);
}

#[test]
fn a_browser_sees_copies_once_and_removes_nothing() {
    let browser = ConsumerTerms { role: Role::Browser, ..terms(CreditMode::Granted) };
    let mut desk = Desk::with(&[browser]);
    desk.push("abc");
    desk.queue.flow(key(1), 2, false);
    assert_eq!(desk.dispatch(), "1:a 1:b");
    desk.queue.flow(key(1), 10, true);
    let seen = desk.deliveries();
    assert!(seen.iter().all(|(_, delivery)| delivery.settled && !delivery.redelivered));
    assert_eq!((seen.len(), desk.queue.ready(), desk.queue.consumers()), (1, 3, 0));
    assert_eq!(desk.effects(), ["drained 1"]);
    desk.push("d");
    desk.queue.flow(key(1), 10, false);
    assert_eq!(desk.dispatch(), "1:d");
    assert_eq!(desk.peek(), "abcd");
}

#[test]
fn higher_priority_consumers_first() {
    let high = ConsumerTerms { priority: 5, ..terms(CreditMode::Window(2)) };
    let low = ConsumerTerms { priority: -1, ..terms(CreditMode::Window(9)) };
    let mut desk = Desk::with(&[low, terms(CreditMode::Window(1)), high, high]);
    desk.push("abcdefg");
    assert_eq!(desk.dispatch(), "3:a 3:c 4:b 4:d 2:e 1:f 1:g");
    desk.settle(3, &[1], &Outcome::Accepted);
    desk.push("h");
    assert_eq!(desk.dispatch(), "3:h");
}

#[test]
fn released_goes_back_to_its_place_with_its_tag() {
    let mut desk = Desk::with(&[terms(CreditMode::Window(4))]);
    desk.push("abcdef");
    assert_eq!(desk.dispatch(), "1:a 1:b 1:c 1:d");
    desk.queue.set_window(key(1), 0);
    assert_eq!(desk.settle(1, &[4], &Outcome::Released), 1);
    assert_eq!(desk.settle(1, &[2], &Outcome::Released), 1);
    assert_eq!(desk.settle(1, &[3], &FAILED), 1);
    assert_eq!(desk.peek(), "bcdef");
    desk.queue.set_window(key(1), 9);
    let again = desk.deliveries();
    let facts: Vec<_> = again.iter().map(|(_, it)| (it.tag.0, it.attempts, it.redelivered)).collect();
    assert_eq!(facts, [(2, 0, true), (3, 1, true), (4, 0, true), (5, 0, false), (6, 0, false)]);
}

#[test]
fn rejected_is_a_dead_letter_with_its_reason() {
    let mut desk = Desk::with(&[terms(CreditMode::Window(4))]);
    desk.push("ab");
    desk.dispatch();
    desk.settle(1, &[1], &Outcome::Rejected { reason: Some("bad".into()) });
    desk.settle(1, &[2], &Outcome::Rejected { reason: None });
    assert_eq!(desk.effects(), ["a rejected bad", "b rejected"]);
    assert_eq!((desk.queue.ready(), desk.queue.unsettled()), (0, 0));
}

#[test]
fn undeliverable_here_goes_to_another_or_waits() {
    let mut desk = Desk::with(&[terms(CreditMode::Window(2))]);
    desk.push("ab");
    desk.dispatch();
    desk.settle(1, &[1, 2], &NOT_HERE);
    desk.push("c");
    assert_eq!(desk.dispatch(), "1:c", "it blocks nobody");
    assert_eq!((desk.peek().as_str(), desk.queue.ready()), ("ab", 2));
    desk.attach(2, terms(CreditMode::Window(1)));
    assert_eq!(desk.dispatch(), "2:a");
    desk.settle(2, &[1], &Outcome::Accepted);
    assert_eq!(desk.dispatch(), "2:b");
    desk.settle(2, &[2], &Outcome::Accepted);
    assert!(desk.queue.avoiding.is_empty());
}

#[test]
fn a_new_consumer_is_not_the_one_that_refused() {
    let mut desk = Desk::with(&[terms(CreditMode::Window(1))]);
    desk.push("a");
    desk.dispatch();
    desk.settle(1, &[1], &NOT_HERE);
    assert_eq!(desk.dispatch(), "");
    desk.detach(1, false, false);
    desk.attach(1, terms(CreditMode::Window(1)));
    assert_eq!(desk.dispatch(), "1:a");
}

#[test]
fn own_messages_stay_for_others() {
    let mine = ConsumerTerms { no_local: Some(7), ..terms(CreditMode::Window(9)) };
    let mut desk = Desk::with(&[mine]);
    desk.push_from(7, "a", Header::default()).unwrap();
    desk.push_from(8, "b", Header::default()).unwrap();
    desk.push_from(7, "c", Header::default()).unwrap();
    assert_eq!(desk.dispatch(), "1:b");
    assert_eq!((desk.peek().as_str(), desk.queue.ready()), ("ac", 2));
    desk.attach(2, terms(CreditMode::Window(1)));
    desk.push("d");
    assert_eq!(desk.dispatch(), "2:a 1:d");
    desk.settle(2, &[1], &Outcome::Accepted);
    assert_eq!(desk.dispatch(), "2:c");
}

#[test]
fn detached_consumers_give_back_in_order() {
    let mut desk = Desk::with(&[terms(CreditMode::Window(4)), terms(CreditMode::Window(4))]);
    desk.push("abcdefghij");
    desk.dispatch();
    assert_eq!(desk.peek(), "ij");
    assert_eq!(desk.detach(1, false, true), Some(1));
    assert_eq!(desk.peek(), "acegij");
    assert_eq!(desk.detach(2, false, false), Some(2));
    assert_eq!((desk.detach(2, false, false), desk.queue.consumers()), (None, 0));
    let peeked = desk.queue.peek(0, 100);
    let facts: Vec<_> = peeked.iter().map(|it| (body(&it.message), it.attempts, it.redelivered)).collect();
    let expected = "abcdefghij".chars().map(|letter| {
        let failed = u32::from("aceg".contains(letter));
        (letter.to_string(), failed, !"ij".contains(letter))
    });
    assert_eq!(facts, expected.collect::<Vec<_>>());
}

#[test]
fn a_cancelled_consumer_may_still_settle() {
    let mut desk = Desk::with(&[terms(CreditMode::Window(9))]);
    desk.push("abc");
    desk.dispatch();
    assert_eq!(desk.detach(1, true, false), Some(1));
    desk.push("d");
    assert_eq!(desk.dispatch(), "");
    assert_eq!((desk.queue.consumers(), desk.queue.unsettled()), (0, 3));
    assert_eq!(desk.settle(1, &[1], &Outcome::Accepted), 1);
    assert_eq!(desk.settle(1, &[2], &Outcome::Released), 1);
    assert_eq!(desk.detach(1, false, true), None);
    assert_eq!((desk.peek().as_str(), desk.queue.unsettled()), ("bcd", 0));
    assert!(desk.queue.consumer_stats().is_empty());
}

#[test]
fn a_cancelled_consumer_ends_when_all_is_settled() {
    let mut desk = Desk::with(&[terms(CreditMode::Window(9))]);
    desk.push("a");
    desk.dispatch();
    desk.detach(1, true, false);
    desk.settle(1, &[1], &Outcome::Accepted);
    assert!(desk.queue.consumer_stats().is_empty() && desk.queue.keys.is_empty());
    desk.attach(2, terms(CreditMode::Window(9)));
    assert_eq!(desk.detach(2, true, false), Some(2));
    assert!(desk.queue.consumer_stats().is_empty());
}

#[test]
fn attaching_again_changes_the_terms() {
    let mut desk = Desk::with(&[terms(CreditMode::Window(2))]);
    desk.push("abcd");
    desk.dispatch();
    desk.queue.attach(key(1), 11, terms(CreditMode::Window(3))).unwrap();
    assert_eq!((desk.dispatch().as_str(), desk.queue.consumers()), ("11:c", 1));
    assert_eq!(desk.queue.consumer_stats(), [(key(1), 0, 3)]);
    assert_eq!(desk.settle(1, &[1, 2, 3], &Outcome::Accepted), 3);
    assert_eq!((desk.dispatch().as_str(), desk.queue.sink(key(1))), ("11:d", Some(&11)));
}

#[test]
fn peeking_pages() {
    let mut desk = desk(QueueSpec::default());
    desk.push("abcde");
    let page: Vec<_> = desk.queue.peek(1, 2).iter().map(|it| (it.tag.0, body(&it.message))).collect();
    assert_eq!(page, [(2, "b".to_owned()), (3, "c".to_owned())]);
    assert_eq!((desk.queue.ready(), desk.queue.last_tag()), (5, DeliveryTag(5)));
}

#[test]
fn tags_settled_out_of_order_do_not_pile_up() {
    let mut desk = Desk::with(&[terms(CreditMode::Window(3))]);
    desk.push("a");
    desk.dispatch();
    for round in 0..1000_u64 {
        desk.push("b");
        desk.dispatch();
        desk.settle(1, &[round + 2], if round % 2 == 0 { &Outcome::Accepted } else { &Outcome::Released });
        desk.dispatch();
        desk.settle(1, &[round + 2], &Outcome::Accepted);
    }
    assert_eq!(desk.queue.unsettled(), 1);
    let slot = desk.queue.keys[&key(1)];
    assert!(desk.queue.consumers.get(slot).unwrap().log_len() < 50);
}

#[test]
fn queues_without_credit_look_at_nobody() {
    let mut desk = desk(QueueSpec::default());
    for consumer in 0..100 {
        desk.attach(consumer, terms(CreditMode::Window(1)));
    }
    desk.push(&"x".repeat(200));
    desk.dispatch();
    assert_eq!((desk.queue.ready(), desk.queue.usable_credit), (100, 0));
    desk.settle(50, &[51], &Outcome::Accepted);
    assert_eq!(desk.dispatch(), "50:x");
}

#[test]
fn what_is_aside_costs_a_consumer_only_its_credit() {
    let mut desk = Desk::with(&[ConsumerTerms { no_local: Some(7), ..terms(CreditMode::Window(9)) }]);
    for _ in 0..500 {
        desk.push_from(7, "a", Header::default()).unwrap();
    }
    desk.attach(2, terms(CreditMode::Window(1)));
    for tag in 1..=500 {
        assert_eq!(desk.dispatch(), "2:a");
        assert_eq!(desk.queue.ready.aside_len(), 500 - tag);
        desk.settle(2, &[tag as u64], &Outcome::Accepted);
    }
    assert_eq!(desk.queue.ready(), 0);
}

#[test]
fn what_comes_and_goes_aside_is_found_again() {
    let mut desk = Desk::with(&[terms(CreditMode::Window(9)), terms(CreditMode::Window(0))]);
    for round in 1..200 {
        desk.push("a");
        assert_eq!(desk.dispatch(), "1:a");
        desk.settle(1, &[round], &NOT_HERE);
        assert_eq!((desk.dispatch().as_str(), desk.queue.ready()), ("", 1));
        desk.queue.set_window(key(2), 1);
        assert_eq!(desk.dispatch(), "2:a");
        desk.queue.set_window(key(2), 0);
        desk.settle(2, &[round], &Outcome::Accepted);
    }
}
