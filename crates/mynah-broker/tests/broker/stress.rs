//! Many threads at once: nobody waits for ever, nothing is lost, nothing is left behind.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use mynah_core::exchange::{ExchangeKind, ExchangeSpec};
use mynah_core::protocol::{Change, Destination, Holder, Host, Notice, Retained, Source};
use mynah_core::queue::QueueSpec;
use mynah_core::{AddressRef, ConsumerId, Outcome};

use crate::lab::{
    BACK, CLEAN, Client, Lab, direct, exchange_spec, from_queue, from_topic, of_session, queue, retained,
    shared, terms, topic, will,
};

const MESSAGES: u64 = 6_000;
const ROUNDS: u64 = 600;
/// Everybody is done in a fraction of this unless somebody waits for ever.
const PATIENCE: Duration = Duration::from_secs(30);

type Job = Box<dyn FnOnce(&Lab, &Shared) + Send>;

#[derive(Default)]
struct Shared {
    publishers_done: AtomicU64,
    all_taken: AtomicBool,
    accepted: Mutex<HashSet<String>>,
}

/// A generator that is good enough for who comes when.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn publish(lab: &Lab, number: u64) {
    let mut one = lab.connect();
    let mut dice = Dice(number);
    for at in 0..MESSAGES {
        assert_eq!(one.send(queue("work"), &format!("{number}-{at}")), 1);
        match dice.roll(6) {
            0 => drop(one.send(queue("temporary"), "x")),
            1 => drop(one.send(topic("t/x"), "x")),
            2 => drop(one.publish(&retained(topic("t/kept"), "x"))),
            3 => drop(one.send(AddressRef::Client("s0"), "x")),
            4 => drop(one.publish(&crate::lab::at_least_once(
                AddressRef::Exchange { name: "passing", key: "k" },
                "x",
            ))),
            _ => {}
        }
    }
    assert!(one.open.is_empty());
    one.leave(CLEAN);
}

/// Takes work and gives some of it back; goes away now and then, with work in hand.
fn work(lab: &Lab, shared: &Shared, number: u64) {
    let mut dice = Dice(number);
    while !shared.all_taken.load(Ordering::Acquire) {
        let mut one = lab.connect();
        one.attach(1, from_queue("work"));
        for _ in 0..dice.roll(30) {
            one.sync();
            for delivery in std::mem::take(&mut one.deliveries) {
                if dice.roll(10) == 0 {
                    one.settle(1, delivery.tag, &Outcome::Released);
                    continue;
                }
                let body = crate::lab::body_of(&delivery.message);
                assert!(shared.accepted.lock().unwrap().insert(body), "delivered to two");
                one.turn(|turn| turn.settle(ConsumerId(1), &[delivery.tag], &Outcome::Accepted, None));
            }
        }
        if shared.publishers_done.load(Ordering::Acquire) == 2 && lab.depth("work") == Some((0, 0)) {
            shared.all_taken.store(true, Ordering::Release);
        }
        let end = if dice.roll(2) == 0 { CLEAN } else { None };
        one.leave(end);
    }
}

/// Opens under an identifier that others want too, subscribes, and goes when it is told or has had enough.
fn be_a_client(lab: &Lab, number: u64) {
    let mut dice = Dice(number);
    for _ in 0..ROUNDS {
        let mut one = lab.accept();
        let id = format!("s{}", dice.roll(3));
        let (fresh, expiry) = (dice.roll(4) == 0, dice.roll(2) * 60);
        let will = (dice.roll(3) == 0).then(|| will(AddressRef::Client(&id), "will", 0, lab.now()));
        let told = |one: &mut Client| one.was_told(|notice| matches!(notice, Notice::TakenOver));
        if one.open(&id, terms(fresh, expiry), will).is_none() {
            while !one.open.is_empty() {
                one.sync();
                thread::yield_now();
            }
            if one.opened().is_none() {
                // Somebody else came after it.
                one.leave(None);
                continue;
            }
        }
        one.attach(1, Source { retained: Retained::Always, ..of_session("t/#") });
        one.attach(2, shared("g", "t/+"));
        one.attach(3, Source { no_local: true, ..from_topic("t/#", Holder::Connection) });
        for _ in 0..dice.roll(10) {
            one.sync();
            for (consumer, tag) in std::mem::take(&mut one.held) {
                one.turn(|turn| turn.settle(consumer, &[tag], &Outcome::Accepted, None));
            }
            one.attach(2, shared("g", "t/+"));
            if told(&mut one) {
                break;
            }
        }
        one.detach(1 + u32::try_from(dice.roll(3)).unwrap(), BACK);
        one.leave(if dice.roll(2) == 0 { CLEAN } else { None });
    }
}

fn define(lab: &Lab, number: u64) {
    let mut dice = Dice(number);
    let passing = ExchangeSpec { auto_delete: true, ..exchange_spec(ExchangeKind::Direct) };
    for round in 0..ROUNDS {
        let mut one = lab.connect();
        let name = format!("own-{number}-{round}");
        one.declare(&name, &QueueSpec { exclusive: true, ..QueueSpec::default() }).unwrap();
        // Somebody else may be quicker at each of these.
        let _ = one.exchange("passing", &passing);
        let _ = one.bind("passing", &name, "k");
        let destination = Destination::Exchange("passing");
        let none = Vec::new();
        let _ = one.define(Change::Bind { source: "amq.topic", destination, key: "t.*", arguments: &none });
        one.bind("amq.topic", &name, "t.#").unwrap();
        one.attach(1, direct("t/+"));
        let _ = one.delete("temporary");
        let _ = one.try_attach(2, from_queue("temporary"));
        one.sync();
        if dice.roll(2) == 0 {
            let _ = one.delete(&name);
        }
        one.leave(None);
    }
}

fn operate(lab: &Lab) {
    for _ in 0..ROUNDS / 3 {
        let _ = lab.broker.overview();
        let _ = lab.broker.connection_views();
        let _ = lab.broker.queue_views(lab.host());
        let _ = lab.broker.topic_views(lab.host(), 100);
        let _ = lab.broker.delete_queue(lab.host(), "$session/s1");
        let _ = lab.broker.purge(lab.host(), "temporary");
        lab.broker.run_due(lab.now());
        thread::yield_now();
    }
}

#[test]
fn many_at_once() {
    let lab = Arc::new(Lab::new());
    let shared = Arc::new(Shared::default());
    let mut first = lab.connect();
    first.declare("work", &QueueSpec { delivery_limit: Some(0), ..QueueSpec::default() }).unwrap();
    first.leave(CLEAN);
    let (done, finished) = mpsc::channel();
    let mut threads = Vec::new();
    let mut spawn = |name: &'static str, job: Job| {
        let (lab, shared, done) = (Arc::clone(&lab), Arc::clone(&shared), done.clone());
        let run = move || {
            job(&lab, &shared);
            let _ = done.send(name);
        };
        threads.push((name, thread::Builder::new().name(name.to_owned()).spawn(run).unwrap()));
    };
    for number in [1, 2] {
        spawn(
            "publisher",
            Box::new(move |lab, shared| {
                publish(lab, number);
                shared.publishers_done.fetch_add(1, Ordering::AcqRel);
            }),
        );
        spawn("worker", Box::new(move |lab, shared| work(lab, shared, number)));
        spawn("definer", Box::new(move |lab, _| define(lab, number)));
    }
    for number in [1, 2, 3] {
        spawn("client", Box::new(move |lab, _| be_a_client(lab, number)));
    }
    spawn("operator", Box::new(|lab, _| operate(lab)));
    for _ in 0..threads.len() {
        if finished.recv_timeout(PATIENCE).is_err() {
            let waiting: Vec<_> =
                threads.iter().filter(|(_, thread)| !thread.is_finished()).map(|(name, _)| *name).collect();
            panic!("these do not end, or one of them has failed: {waiting:?}");
        }
    }
    for (_, thread) in threads {
        thread.join().unwrap();
    }
    assert_eq!(shared.accepted.lock().unwrap().len() as u64, 2 * MESSAGES);
    // Sessions that outlived their connection end with their time.
    lab.advance(61_000);
    for name in ["work", "temporary", "temporary.dlq", "mynah.dlq"] {
        let _ = lab.broker.delete_queue(lab.host(), name);
    }
    lab.assert_only(&[]);
}
