//! One test for each behaviour of the queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::address::AddressRef;
use crate::delivery::Outcome;
use crate::message::Header;
use crate::publish::PublishRef;

const DEFAULTS: QueueDefaults =
    QueueDefaults { delivery_limit: 3, max_messages: 1000, max_bytes: 1 << 20, socket_window: 4 };

const FAILED: Outcome = Outcome::Modified { failed: true, undeliverable_here: false };
const NOT_HERE: Outcome = Outcome::Modified { failed: false, undeliverable_here: true };

/// A queue, a clock, and what came out.
struct Desk {
    queue: Queue<u32>,
    now: Instant,
    effects: Vec<Effect>,
}

fn key(consumer: u32) -> ConsumerKey {
    ConsumerKey { connection: 1, consumer: ConsumerId(consumer) }
}

fn terms(credit: CreditMode) -> ConsumerTerms {
    ConsumerTerms {
        settled: false,
        credit,
        exclusive: false,
        priority: 0,
        role: Role::Consumer,
        no_local: None,
    }
}

fn desk(spec: QueueSpec) -> Desk {
    Desk { queue: Queue::new(Arc::new(spec), DEFAULTS), now: Instant::now(), effects: Vec::new() }
}

impl Desk {
    fn with(terms: &[ConsumerTerms]) -> Self {
        let mut desk = desk(QueueSpec::default());
        (1..).zip(terms).for_each(|(consumer, terms)| desk.attach(consumer, *terms));
        desk
    }

    fn attach(&mut self, consumer: u32, terms: ConsumerTerms) {
        self.queue.attach(key(consumer), consumer, terms).unwrap();
    }

    fn refused(&mut self, consumer: u32, terms: ConsumerTerms) -> bool {
        let refusal = self.queue.attach(key(consumer), consumer, terms).err();
        refusal.is_some_and(|refusal| refusal.kind == RefusalKind::Forbidden)
    }

    fn push_from(&mut self, publisher: u64, body: &str, header: Header) -> Result<(), Refused> {
        let publish = PublishRef { header, ..PublishRef::new(AddressRef::Queue("q"), body.as_bytes()) };
        let message = Arc::new(Message::from_publish(&publish, self.now));
        self.queue.push(self.now, message, None, publisher, &mut self.effects)
    }

    /// One message for each letter.
    fn push(&mut self, letters: &str) {
        for letter in letters.chars() {
            self.push_from(0, &letter.to_string(), Header::default()).unwrap();
        }
    }

    fn push_ttl(&mut self, body: &str, ttl_ms: u64) {
        self.push_from(0, body, Header { ttl_ms: Some(ttl_ms), ..Header::default() }).unwrap();
    }

    fn deliveries(&mut self) -> Vec<(u32, Delivery)> {
        let mut out = Vec::new();
        self.queue.dispatch(self.now, &mut self.effects, |sink, batch| {
            assert!(!batch.is_empty());
            out.extend(batch.drain(..).map(|delivery| (*sink, delivery)));
        });
        out
    }

    /// `1:a 2:b`: consumer and body of each delivery.
    fn dispatch(&mut self) -> String {
        let deliveries = self.deliveries();
        let shown = |(sink, delivery): &(u32, Delivery)| format!("{sink}:{}", body(&delivery.message));
        deliveries.iter().map(shown).collect::<Vec<_>>().join(" ")
    }

    fn settle(&mut self, consumer: u32, tags: &[u64], outcome: &Outcome) -> usize {
        let tags: Vec<DeliveryTag> = tags.iter().copied().map(DeliveryTag).collect();
        self.queue.settle(self.now, key(consumer), &tags, outcome, &mut self.effects)
    }

    fn detach(&mut self, consumer: u32, keep_unsettled: bool, failed: bool) -> Option<u32> {
        self.queue.detach(self.now, key(consumer), keep_unsettled, failed, &mut self.effects)
    }

    /// `a queue-length` or `drained 1`.
    fn effects(&mut self) -> Vec<String> {
        let shown = |effect| match effect {
            Effect::DeadLetter { message, cause, reason } => {
                let reason = reason.map(|reason| format!(" {reason}")).unwrap_or_default();
                format!("{} {}{reason}", body(&message), cause.name())
            }
            Effect::Drained { consumer } => format!("drained {}", consumer.consumer.0),
        };
        self.effects.drain(..).map(shown).collect()
    }

    fn peek(&self) -> String {
        self.queue.peek(0, usize::MAX).iter().map(|peeked| body(&peeked.message)).collect()
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }
}

fn body(message: &Message) -> String {
    String::from_utf8_lossy(&message.body).into_owned()
}

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
fn a_lost_connection_counts_as_an_attempt() {
    let mut desk = desk(QueueSpec { delivery_limit: Some(1), ..QueueSpec::default() });
    desk.attach(1, terms(CreditMode::Window(4)));
    desk.push("ab");
    desk.dispatch();
    desk.detach(1, false, true);
    assert_eq!(desk.effects(), ["a read-count", "b read-count"]);
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
