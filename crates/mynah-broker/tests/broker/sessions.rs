//! Clients with an identifier of their own: taking over, leaving, coming back, wills, messages to one client.

use std::time::Duration;

use mynah_broker::BrokerConfig;
use mynah_core::protocol::{Expiry, Farewell, Host, Notice, RefusalKind, Reply, Retained, SessionSpec};
use mynah_core::{AddressRef, ConsumerId, Guarantee, Outcome, PublishRef};

use crate::lab::{
    CLEAN, Client, FORGET, Lab, at_least_once, direct, from_queue, of_session, shared, terms, topic, will,
};

const FOR_GOOD: Option<Farewell> = Some(Farewell::Clean { expiry: Some(Expiry::AtEnd) });

fn client(id: &str) -> AddressRef<'_> {
    AddressRef::Client(id)
}

fn settle_all(client: &mut Client) {
    client.sync();
    let tags: Vec<_> = client.held.drain(..).map(|(_, tag)| tag).collect();
    client.turn(|turn| turn.settle(ConsumerId::SESSION, &tags, &Outcome::Accepted, None));
    client.sync();
}

#[test]
fn of_twenty_that_take_over_one_is_left() {
    let lab = Lab::new();
    let mut all: Vec<Client> = (0..20).map(|_| lab.accept()).collect();
    let mut opened: Vec<bool> = Vec::new();
    for one in &mut all {
        opened.push(one.open("same", terms(false, 60), None).is_some());
    }
    assert_eq!(opened.iter().filter(|opened| **opened).count(), 1, "who comes later waits");
    // Whoever was told to go goes; the last one that asked was told nothing.
    let mut last = all.pop().unwrap();
    for (at, mut one) in all.into_iter().enumerate() {
        one.sync();
        assert!(one.open.is_empty(), "every request is answered");
        let refused = matches!(&one.replies[..], [(_, Reply::Refused(_))]);
        let told = one.was_told(|notice| matches!(notice, Notice::TakenOver));
        assert_eq!((refused, told), (at > 0, at == 0));
        one.leave(None);
    }
    last.sync();
    assert!(last.opened().is_some());
    assert!(last.open.is_empty() && last.notices.is_empty());
    last.leave(FOR_GOOD);
    lab.assert_only(&[]);
}

#[test]
fn one_that_waits_may_go_before_its_turn() {
    let lab = Lab::new();
    let (mut first, _) = lab.session("same", terms(false, 0));
    let mut waiting = lab.accept();
    assert!(waiting.open("same", terms(false, 0), None).is_none());
    waiting.leave(None);
    assert!(first.was_told(|notice| matches!(notice, Notice::TakenOver)));
    first.leave(None);
    lab.assert_only(&[]);
    // And the other way round: it goes right after it got its turn without knowing.
    let (first, _) = lab.session("same", terms(false, 0));
    let mut waiting = lab.accept();
    assert!(waiting.open("same", terms(false, 0), None).is_none());
    first.leave(None);
    waiting.leave(None);
    lab.assert_only(&[]);
}

#[test]
fn a_session_that_is_taken_over_goes_on() {
    let lab = Lab::new();
    let (mut old, _) = lab.session("same", terms(false, 60));
    old.attach(1, of_session("a/#"));
    let mut publisher = lab.connect();
    for body in ["1", "2", "3"] {
        publisher.send(topic("a/b"), body);
    }
    old.sync();
    assert_eq!(old.deliveries.len(), 3);
    old.turn(|turn| turn.park(bytes::Bytes::from_static(b"state")));
    let mut new = lab.accept();
    assert!(new.open("same", terms(false, 60), None).is_none());
    publisher.send(topic("a/b"), "4");
    old.leave(None);
    publisher.send(topic("a/b"), "5");
    new.sync();
    let opened = new.opened().unwrap();
    assert!(opened.present);
    assert_eq!(opened.parked.as_deref(), Some(&b"state"[..]));
    assert_eq!(new.bodies(), ["1", "2", "3", "4", "5"]);
    new.leave(FOR_GOOD);
    publisher.leave(CLEAN);
    lab.assert_only(&[]);
}

#[test]
fn a_session_ends_when_its_time_is_over() {
    let lab = Lab::new();
    let (mut one, _) = lab.session("c", terms(false, 60));
    one.attach(1, of_session("a"));
    one.leave(CLEAN);
    lab.advance(59_000);
    assert!(lab.queue("$session/c").is_some());
    lab.advance(2_000);
    lab.assert_only(&[]);

    // Coming back in time stops the clock; coming back late is coming back to nothing, even if no timer was there.
    let (one, _) = lab.session("c", terms(false, 60));
    one.leave(CLEAN);
    lab.advance(50_000);
    let (one, opened) = lab.session("c", terms(false, 60));
    assert!(opened.present);
    lab.advance(50_000);
    assert!(lab.queue("$session/c").is_some());
    one.leave(CLEAN);
    lab.advance_unnoticed(61_000);
    let (one, opened) = lab.session("c", terms(false, 60));
    assert!(!opened.present, "it ended a second ago");
    lab.advance(0);
    assert!(lab.queue("$session/c").is_some());
    one.leave(FOR_GOOD);
    lab.assert_only(&[]);
}

#[test]
fn timers_of_clients_that_come_back_do_not_pile_up() {
    let lab = Lab::new();
    for _ in 0..100 {
        let (one, _) = lab.session("c", terms(false, 60));
        one.leave(CLEAN);
    }
    assert_eq!(lab.broker.shared.timers.len(), 1);
    let (one, _) = lab.session("c", terms(true, 0));
    assert_eq!(lab.broker.shared.timers.len(), 0);
    one.leave(CLEAN);
    lab.assert_only(&[]);
}

#[test]
fn offline_messages_wait_and_what_needs_no_settling_does_not() {
    let lab = Lab::new();
    let (mut one, _) = lab.session("c", terms(false, 60));
    one.attach(1, of_session("a"));
    one.leave(CLEAN);
    let mut publisher = lab.connect();
    publisher.send(topic("a"), "kept");
    publisher.publish(&PublishRef::new(topic("a"), b"gone"));
    let (mut one, _) = lab.session("c", terms(false, 60));
    assert_eq!(one.bodies(), ["kept"]);
    assert!(one.take_frames().is_empty());
    publisher.publish(&PublishRef::new(topic("a"), b"direct"));
    assert_eq!(one.take_frames(), ["topic:a=direct"]);
}

#[test]
fn a_fresh_start_forgets_the_session() {
    let lab = Lab::new();
    let (mut one, _) = lab.session("c", terms(false, 60));
    one.attach(1, of_session("a"));
    one.leave(CLEAN);
    let mut publisher = lab.connect();
    publisher.send(topic("a"), "lost");
    let (mut one, opened) = lab.session("c", terms(true, 60));
    assert!(!opened.present);
    assert!(one.bodies().is_empty());
    assert_eq!(lab.subscriptions(), 0);
    assert_eq!(publisher.send(topic("a"), "nobody"), 0);
    one.leave(FOR_GOOD);
    publisher.leave(CLEAN);
    lab.assert_only(&[]);
}

#[test]
fn what_a_session_has_no_room_for_is_dropped_and_counted() {
    let lab = Lab::with(BrokerConfig { session_messages_max: 3, ..BrokerConfig::default() });
    let (mut one, _) = lab.session("c", terms(false, 60));
    one.attach(1, of_session("a"));
    one.leave(CLEAN);
    let mut publisher = lab.connect();
    for body in ["1", "2", "3", "4", "5"] {
        assert_eq!(publisher.send(topic("a"), body), 1);
    }
    assert_eq!(lab.dropped_full(), 2);
    assert_eq!(lab.dead_lettered(), 0);
    let (mut one, _) = lab.session("c", terms(false, 60));
    assert_eq!(one.bodies(), ["3", "4", "5"]);
    assert!(lab.queue("mynah.dlq").is_none());
}

#[test]
fn a_session_does_not_get_its_own_messages_if_it_says_so() {
    let lab = Lab::new();
    let mut source = of_session("a");
    source.no_local = true;
    let (mut one, _) = lab.session("c", terms(false, 60));
    let mut other = lab.connect();
    one.attach(1, source.clone());
    assert!(!one.attach(1, source).new);
    one.send(topic("a"), "mine");
    other.send(topic("a"), "yours");
    assert_eq!(one.bodies(), ["yours"]);
    settle_all(&mut one);
    one.leave(CLEAN);
    // "Local" is another connection after coming back.
    let (mut one, _) = lab.session("c", terms(false, 60));
    one.send(topic("a"), "mine");
    one.publish(&PublishRef::new(topic("a"), b"mine"));
    other.send(topic("a"), "yours");
    assert_eq!(one.bodies(), ["yours"]);
    assert!(one.take_frames().is_empty());
    one.leave(FOR_GOOD);
    other.leave(CLEAN);
    lab.assert_only(&[]);
}

#[test]
fn a_subscription_is_replaced_by_its_number() {
    let lab = Lab::new();
    let (mut one, _) = lab.session("c", terms(false, 60));
    assert!(one.attach(1, of_session("a")).new);
    let mut again = of_session("a");
    again.wire = Some(crate::lab::wire(Guarantee::AtMostOnce, Guarantee::AtMostOnce));
    assert!(!one.attach(1, again).new);
    one.send(topic("a"), "x");
    assert_eq!(one.take_frames(), ["topic:a=x"]);
    assert!(one.bodies().is_empty(), "one copy");
    assert!(!one.attach(1, of_session("b")).new);
    assert_eq!((one.send(topic("a"), "x"), one.send(topic("b"), "y")), (0, 2));
    assert_eq!(one.bodies(), ["y"]);
    assert!(one.detach(1, FORGET));
    assert!(!one.detach(1, FORGET));
    assert_eq!(lab.subscriptions(), 0);
    // Without a session, too.
    let mut plain = lab.connect();
    assert!(plain.attach(1, direct("a")).new);
    assert!(!plain.attach(1, direct("b")).new);
    assert_eq!(lab.subscriptions(), 1);
    // And from one sort to another.
    assert!(!plain.attach(1, from_queue("q")).new);
    assert_eq!(lab.subscriptions(), 0);
    assert!(!plain.attach(1, direct("b")).new);
    assert_eq!(lab.queue("q").unwrap().lock().machine.consumers(), 0);
}

// ---- wills ----

fn watcher(lab: &Lab) -> Client {
    let mut watcher = lab.connect();
    watcher.attach(1, direct("will"));
    watcher
}

fn with_will(lab: &Lab, delay_s: u64, expiry_s: u64) -> Client {
    let mut one = lab.accept();
    let will = will(topic("will"), "dead", delay_s, lab.now());
    assert!(one.open("c", terms(false, expiry_s), Some(will)).is_some());
    one
}

#[test]
fn a_will_is_sent_when_the_connection_ends_abruptly() {
    let lab = Lab::new();
    let mut watcher = watcher(&lab);
    with_will(&lab, 0, 0).leave(CLEAN);
    assert!(watcher.take_frames().is_empty());
    with_will(&lab, 0, 0).leave(None);
    with_will(&lab, 0, 60).leave(None);
    // A delay does not outlive the session [MQTT-3.1.3-9].
    with_will(&lab, 10, 0).leave(None);
    assert_eq!(watcher.take_frames().len(), 3);
    watcher.leave(CLEAN);
}

#[test]
fn a_delayed_will_is_sent_unless_the_client_comes_back() {
    let lab = Lab::new();
    let mut watcher = watcher(&lab);
    with_will(&lab, 10, 60).leave(None);
    lab.advance(9_000);
    let (back, _) = lab.session("c", terms(false, 60));
    lab.advance(9_000);
    back.leave(CLEAN);
    assert!(watcher.take_frames().is_empty());
    with_will(&lab, 10, 60).leave(None);
    lab.advance(10_000);
    assert_eq!(watcher.take_frames().len(), 1);
    // The session's end comes before the delay's.
    with_will(&lab, 100, 5).leave(None);
    lab.advance(5_000);
    assert_eq!(watcher.take_frames().len(), 1);
    lab.advance(100_000);
    assert!(watcher.take_frames().is_empty(), "once");
    // A fresh start ends the session, so the will is due at once.
    with_will(&lab, 10, 60).leave(None);
    let (fresh, _) = lab.session("c", terms(true, 0));
    assert_eq!(watcher.take_frames().len(), 1);
    fresh.leave(CLEAN);
    // It was due before the client came back, and the timer was late.
    with_will(&lab, 10, 60).leave(None);
    lab.advance_unnoticed(11_000);
    let (late, _) = lab.session("c", terms(false, 0));
    assert_eq!(watcher.take_frames().len(), 1);
    late.leave(CLEAN);
    watcher.leave(CLEAN);
    lab.assert_only(&[]);
}

#[test]
fn a_will_may_be_for_the_client_itself() {
    let lab = Lab::new();
    let mut one = lab.accept();
    let to_itself = will(client("c"), "from my former self", 0, lab.now());
    one.open("c", terms(false, 60), Some(to_itself)).unwrap();
    one.leave(None);
    let (mut one, _) = lab.session("c", terms(false, 60));
    assert_eq!(one.bodies(), ["from my former self"]);
    // And to whoever waits for the identifier.
    settle_all(&mut one);
    one.leave(FOR_GOOD);
    let mut one = lab.accept();
    one.open("c", terms(false, 0), Some(will(client("c"), "to my heir", 0, lab.now()))).unwrap();
    let mut heir = lab.accept();
    assert!(heir.open("c", terms(false, 0), None).is_none());
    one.leave(None);
    assert_eq!(heir.bodies(), ["to my heir"]);
    heir.leave(None);
    lab.assert_only(&[]);
}

#[test]
fn a_will_must_be_allowed() {
    let lab = Lab::new();
    let mut one = lab.accept();
    let ticket = one.ticket();
    let will = Some(will(topic("$SYS/broker/uptime"), "forged", 0, lab.now()));
    let spec = SessionSpec {
        protocol: "test",
        virtual_host: None,
        client_id: "c",
        session: Some(terms(false, 0)),
        will,
    };
    one.turn(|turn| turn.open(ticket, spec));
    assert!(
        matches!(&one.replies[..], [(_, Reply::Refused(refusal))] if refusal.kind == RefusalKind::Forbidden)
    );
    one.leave(None);
    lab.assert_only(&[]);
}

// ---- to one client ----

#[test]
fn messages_to_a_client() {
    let lab = Lab::new();
    let mut publisher = lab.connect();
    let (mut here, _) = lab.session("here", terms(false, 0));
    let (mut kept, _) = lab.session("kept", terms(false, 60));
    let mut curious = lab.connect();
    curious.attach(1, direct("#"));
    for id in ["here", "kept"] {
        assert_eq!(publisher.send(client(id), id), 1);
        assert_eq!(publisher.send(AddressRef::Exchange { name: "p2p", key: id }, "p2p"), 1);
    }
    assert_eq!(here.bodies(), ["here", "p2p"]);
    assert_eq!(kept.bodies(), ["kept", "p2p"]);
    settle_all(&mut kept);
    assert!(curious.take_frames().is_empty());
    here.leave(CLEAN);
    kept.leave(CLEAN);
    assert_eq!(publisher.send(client("kept"), "later"), 1);
    assert_eq!(publisher.send(client("here"), "nobody"), 0);
    assert_eq!(publisher.send(client("nobody"), "nobody"), 0);
    assert_eq!(lab.depth("mynah.dlq"), Some((2, 0)));
    let (mut kept, _) = lab.session("kept", terms(false, 60));
    assert_eq!(kept.bodies(), ["later"]);
    let mut mandatory = at_least_once(client("nobody"), "back");
    mandatory.mandatory = true;
    assert!(matches!(publisher.publish(&mandatory), Reply::Returned(_)));
    let refused = curious.try_attach(2, direct("$P2P/#"));
    assert!(matches!(refused, Reply::Refused(refusal) if refusal.kind == RefusalKind::Forbidden));
}

#[test]
fn an_operator_deletes_a_session_with_its_queue() {
    let lab = Lab::new();
    let (mut one, _) = lab.session("c", terms(false, 60));
    one.attach(1, of_session("a"));
    let _ = lab.broker.delete_queue(lab.host(), "$session/c");
    assert!(one.was_told(|notice| matches!(notice, Notice::Kicked { .. })));
    one.leave(None);
    let (one, opened) = lab.session("c", terms(false, 60));
    assert!(!opened.present, "nothing of it is left");
    one.leave(CLEAN);
    let _ = lab.broker.delete_queue(lab.host(), "$session/c");
    lab.assert_only(&[]);
}

#[test]
fn a_shorter_expiry_may_be_asked_for_at_the_end() {
    let lab = Lab::new();
    let (one, _) = lab.session("c", terms(false, 60));
    one.leave(Some(Farewell::Clean { expiry: Some(Expiry::After(Duration::from_secs(5))) }));
    lab.advance(5_000);
    lab.assert_only(&[]);
}

#[test]
fn a_group_waits_for_its_members_that_have_sessions() {
    let lab = Lab::new();
    let mut publisher = lab.connect();
    let (mut one, _) = lab.session("c", terms(false, 60));
    one.attach(5, shared("g", "a"));
    publisher.send(topic("a"), "out");
    assert_eq!(one.bodies(), ["out"]);
    one.leave(None);
    assert_eq!(publisher.send(topic("a"), "waits"), 1);
    let mut guest = lab.connect();
    guest.attach(1, shared("g", "a"));
    assert_eq!(guest.bodies(), ["out", "waits"]);
    guest.leave(None);
    // The protocol attaches again what its session had.
    let (mut one, _) = lab.session("c", terms(false, 60));
    one.attach(5, shared("g", "a"));
    assert_eq!(one.bodies(), ["out", "waits"]);
    one.attach(5, shared("g", "a"));
    one.leave(None);
    lab.advance(60_000);
    assert_eq!(publisher.send(topic("a"), "nobody"), 0, "the session was the last member");
    // Unsubscribing ends it at once, and so does a fresh start.
    let (mut one, _) = lab.session("c", terms(false, 60));
    one.attach(5, shared("g", "a"));
    one.detach(5, FORGET);
    assert_eq!(publisher.send(topic("a"), "nobody"), 0);
    one.attach(6, shared("g", "a"));
    one.leave(None);
    let (one, _) = lab.session("c", terms(true, 0));
    assert_eq!(publisher.send(topic("a"), "nobody"), 0);
    one.leave(CLEAN);
    publisher.leave(CLEAN);
    lab.assert_only(&[]);
}

#[test]
fn retained_messages_come_with_a_session_subscription() {
    let lab = Lab::new();
    let mut publisher = lab.connect();
    publisher.publish(&crate::lab::retained(topic("a"), "value"));
    let (mut one, _) = lab.session("c", terms(false, 60));
    let mut source = of_session("a");
    source.retained = Retained::IfNew;
    one.attach(1, source.clone());
    assert_eq!(one.bodies(), ["value"]);
    one.attach(1, source);
    assert!(one.bodies().is_empty());
}
