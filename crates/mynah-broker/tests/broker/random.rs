//! Random operations of several connections against what must always hold.

use std::collections::{HashMap, HashSet};

use mynah_core::protocol::{Change, CreditMode, Holder, Notice, Reply, Source};
use mynah_core::queue::QueueSpec;
use mynah_core::{AddressRef, ConsumerId, DeliveryTag, Outcome};
use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::lab::{
    BACK, CLEAN, Client, KEEP, Lab, at_least_once, direct, from_queue, from_topic, of_session, queue, shared,
    terms, topic, will,
};

const SLOTS: usize = 3;

#[derive(Debug, Clone)]
enum Op {
    Connect { slot: usize, id: Option<u8>, fresh: bool, expiry_s: u64 },
    Publish { slot: usize, to: u8, many: u8 },
    Attach { slot: usize, consumer: u32, from: u8 },
    Detach { slot: usize, consumer: u32, keep: bool },
    Settle { slot: usize, at: usize, how: u8 },
    Leave { slot: usize, clean: bool },
    Declare { slot: usize, exclusive: bool, auto_delete: bool },
    Delete { slot: usize, name: u8 },
    Advance { ms: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let slot = 0..SLOTS;
    let consumer = 1..4u32;
    prop_oneof![
        2 => (slot.clone(), proptest::option::of(0..2u8), any::<bool>(), 0..3u64)
            .prop_map(|(slot, id, fresh, expiry_s)| Op::Connect { slot, id, fresh, expiry_s }),
        6 => (slot.clone(), 0..6u8, 1..4u8).prop_map(|(slot, to, many)| Op::Publish { slot, to, many }),
        5 => (slot.clone(), consumer.clone(), 0..9u8)
            .prop_map(|(slot, consumer, from)| Op::Attach { slot, consumer, from }),
        3 => (slot.clone(), consumer, any::<bool>())
            .prop_map(|(slot, consumer, keep)| Op::Detach { slot, consumer, keep }),
        6 => (slot.clone(), 0..8usize, 0..5u8).prop_map(|(slot, at, how)| Op::Settle { slot, at, how }),
        1 => (slot.clone(), any::<bool>()).prop_map(|(slot, clean)| Op::Leave { slot, clean }),
        1 => (slot.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(slot, exclusive, auto_delete)| Op::Declare { slot, exclusive, auto_delete }),
        1 => (slot, 0..3u8).prop_map(|(slot, name)| Op::Delete { slot, name }),
        1 => (1..3_000u64).prop_map(|ms| Op::Advance { ms }),
    ]
}

/// A delivery from `keep` that is to be settled.
#[derive(Debug, Clone)]
struct Held {
    consumer: u32,
    tag: DeliveryTag,
    body: String,
}

struct Connected {
    client: Client,
    /// It waits for its identifier.
    waits: bool,
    /// Consumers that are attached to `keep` now.
    on_keep: HashSet<u32>,
    held: Vec<Held>,
}

struct World {
    lab: Lab,
    slots: Vec<Option<Connected>>,
    published: u64,
    accepted: u64,
    rejected: u64,
    /// Who has what is out: a message is out once.
    out: HashMap<String, usize>,
    bodies: u64,
}

const OTHERS: [&str; 3] = ["made", "used", "keep.dlq"];

impl World {
    fn new() -> Self {
        let lab = Lab::new();
        let mut first = lab.connect();
        // `keep` is never deleted; what goes in comes out once or is there.
        first.declare("keep", &QueueSpec { delivery_limit: Some(0), ..QueueSpec::default() }).unwrap();
        first.leave(CLEAN);
        let slots = (0..SLOTS).map(|_| None).collect();
        Self { lab, slots, published: 0, accepted: 0, rejected: 0, out: HashMap::new(), bodies: 0 }
    }

    /// Forgets what a consumer had from `keep`: it has gone back.
    fn gone_back(&mut self, slot: usize, consumer: Option<u32>) {
        let Some(connected) = &mut self.slots[slot] else { return };
        connected.held.retain(|held| {
            let back = consumer.is_none_or(|consumer| held.consumer == consumer);
            if back {
                self.out.remove(&held.body);
            }
            !back
        });
    }

    fn leave(&mut self, slot: usize, clean: bool) {
        self.gone_back(slot, None);
        if let Some(connected) = self.slots[slot].take() {
            assert!(connected.waits || connected.client.open.is_empty(), "unanswered");
            connected.client.leave(if clean { CLEAN } else { None });
        }
    }

    fn connect(&mut self, slot: usize, id: Option<u8>, fresh: bool, expiry_s: u64) {
        self.leave(slot, false);
        let (client, waits) = match id {
            None => (self.lab.connect(), false),
            Some(id) => {
                let id = format!("c{id}");
                let mut client = self.lab.accept();
                let will = will(AddressRef::Client(&id), "will", expiry_s / 2, self.lab.now());
                let opened = client.open(&id, terms(fresh, expiry_s), Some(will));
                (client, opened.is_none())
            }
        };
        self.slots[slot] = Some(Connected { client, waits, on_keep: HashSet::new(), held: Vec::new() });
    }

    fn publish(&mut self, slot: usize, to: u8, many: u8) {
        for _ in 0..many {
            self.bodies += 1;
            let body = format!("m{}", self.bodies);
            let address = match to {
                0 | 1 => queue("keep"),
                2 => queue("used"),
                3 => topic("t/x"),
                4 => AddressRef::Client("c0"),
                _ => AddressRef::Exchange { name: "", key: "made" },
            };
            let Some(connected) = &mut self.slots[slot] else { return };
            let reply = connected.client.publish(&at_least_once(address, &body));
            let Reply::Published { routed } = reply else { panic!("{reply:?}") };
            if to < 2 {
                assert_eq!(routed, 1);
                self.published += 1;
            }
        }
    }

    fn attach(&mut self, slot: usize, consumer: u32, from: u8) {
        let Some(connected) = &mut self.slots[slot] else { return };
        let source = match from {
            0..=2 => from_queue("keep"),
            3 => from_queue("used"),
            4 => direct("t/+"),
            5 => shared("g", "t/#"),
            6 => from_topic("t/#", Holder::Connection),
            7 => of_session("t/x"),
            _ => Source { credit: CreditMode::Window(1), ..from_queue("made") },
        };
        let has_queue = !matches!(from, 4 | 7);
        let attached = match connected.client.ask(|turn, ticket| {
            use mynah_core::protocol::Host;
            turn.attach(ticket, ConsumerId(consumer), source);
        }) {
            Reply::Attached(_) => true,
            Reply::Refused(_) => false,
            other => panic!("{other:?}"),
        };
        if !attached {
            return;
        }
        if from <= 2 {
            connected.on_keep.insert(consumer);
            return;
        }
        // What the number had goes back; what a cancelled consumer may still settle stays if nothing stands in its way.
        if connected.on_keep.remove(&consumer) || has_queue {
            self.gone_back(slot, Some(consumer));
        }
    }

    fn detach(&mut self, slot: usize, consumer: u32, keep: bool) {
        let Some(connected) = &mut self.slots[slot] else { return };
        connected.client.detach(consumer, if keep { KEEP } else { BACK });
        if connected.on_keep.remove(&consumer) && !keep {
            self.gone_back(slot, Some(consumer));
        }
    }

    fn settle(&mut self, slot: usize, at: usize, how: u8) {
        let Some(connected) = &mut self.slots[slot] else { return };
        let at = if how < 4 { at % connected.held.len().max(1) } else { usize::MAX };
        if at >= connected.held.len() {
            // What somebody else holds or nobody ever had is ignored.
            connected.client.settle(1, DeliveryTag(1_000_000), &Outcome::Accepted);
            return;
        }
        let held = connected.held.remove(at);
        self.out.remove(&held.body);
        let outcome = match how {
            0 | 1 => {
                self.accepted += 1;
                Outcome::Accepted
            }
            2 => {
                self.rejected += 1;
                Outcome::Rejected { reason: None }
            }
            _ => Outcome::Released,
        };
        connected.client.settle(held.consumer, held.tag, &outcome);
    }

    fn declare(&mut self, slot: usize, exclusive: bool, auto_delete: bool) {
        let Some(connected) = &mut self.slots[slot] else { return };
        let spec = QueueSpec { exclusive, auto_delete, ..QueueSpec::default() };
        let _ = connected.client.declare("made", &spec);
        let _ = connected.client.bind("amq.topic", "made", "t.*");
    }

    fn delete(&mut self, slot: usize, name: u8) {
        let Some(connected) = &mut self.slots[slot] else { return };
        let name = OTHERS[usize::from(name) % 2];
        let _ = connected.client.define(Change::DeleteQueue { name, if_unused: false, if_empty: false });
    }

    fn apply(&mut self, op: Op) {
        // A slot without a connection gets one that is nobody's in particular.
        let ready = |world: &mut Self, slot: usize| {
            if world.slots[slot].is_none() {
                world.connect(slot, None, false, 0);
            }
            world.slots[slot].as_ref().is_some_and(|one| !one.waits)
        };
        match op {
            Op::Connect { slot, id, fresh, expiry_s } => self.connect(slot, id, fresh, expiry_s),
            Op::Leave { slot, clean } => self.leave(slot, clean),
            Op::Advance { ms } => self.lab.advance(ms),
            Op::Publish { slot, .. }
            | Op::Attach { slot, .. }
            | Op::Detach { slot, .. }
            | Op::Settle { slot, .. }
            | Op::Declare { slot, .. }
            | Op::Delete { slot, .. }
                if !ready(self, slot) => {}
            Op::Publish { slot, to, many } => self.publish(slot, to, many),
            Op::Attach { slot, consumer, from } => self.attach(slot, consumer, from),
            Op::Detach { slot, consumer, keep } => self.detach(slot, consumer, keep),
            Op::Settle { slot, at, how } => self.settle(slot, at, how),
            Op::Declare { slot, exclusive, auto_delete } => self.declare(slot, exclusive, auto_delete),
            Op::Delete { slot, name } => self.delete(slot, name),
        }
        while self.receive() {}
        self.check();
    }

    /// Everybody takes what is there; who is told to go goes. True if that may have changed something for others.
    fn receive(&mut self) -> bool {
        let mut told = None;
        for (slot, connected) in self.slots.iter_mut().enumerate() {
            let Some(connected) = connected else { continue };
            let client = &mut connected.client;
            client.sync();
            if client.opened().is_some() {
                connected.waits = false;
            }
            if connected.waits && client.open.is_empty() {
                // Refused: somebody else came after it.
                told = Some(slot);
            }
            if client.notices.drain(..).any(|notice| matches!(notice, Notice::TakenOver)) {
                told = Some(slot);
            }
            client.frames.clear();
            let deliveries = std::mem::take(&mut client.deliveries);
            for delivery in deliveries.into_iter().filter(|delivery| !delivery.settled) {
                let consumer = delivery.consumer.0;
                let of_keep = delivery.message.address == mynah_core::Address::Queue("keep".into());
                if !of_keep || !connected.on_keep.contains(&consumer) {
                    continue;
                }
                let body = crate::lab::body_of(&delivery.message);
                assert!(self.out.insert(body.clone(), slot).is_none(), "{body} is out twice");
                connected.held.push(Held { consumer, tag: delivery.tag, body });
            }
        }
        if let Some(slot) = told {
            self.leave(slot, false);
        }
        told.is_some()
    }

    fn check(&self) {
        let (ready, unsettled) = self.lab.depth("keep").unwrap();
        let there = self.published - self.accepted - self.rejected;
        assert_eq!(ready + unsettled, there, "messages in the queue");
        assert_eq!(unsettled, self.out.len() as u64, "messages that are out");
        for connected in self.slots.iter().flatten() {
            let open = connected.client.open.len();
            assert_eq!(open, usize::from(connected.waits), "tickets without a reply");
        }
    }

    fn end(mut self) {
        for slot in 0..SLOTS {
            self.leave(slot, true);
            while self.receive() {}
        }
        // The longest session lives two seconds.
        self.lab.advance(3_000);
        self.check();
        assert_eq!(self.out.len(), 0);
        for name in ["keep", "made", "used", "keep.dlq", "made.dlq", "used.dlq", "mynah.dlq"] {
            let _ = self.lab.broker.delete_queue(self.lab.host(), name);
        }
        self.lab.assert_only(&[]);
        assert_eq!(self.lab.broker.shared.timers.len(), 0, "timers left");
    }
}

proptest! {
    #![proptest_config(Config { cases: 256, failure_persistence: None, ..Config::default() })]

    #[test]
    fn nothing_is_lost_doubled_or_left(ops in proptest::collection::vec(op(), 20..120)) {
        let mut world = World::new();
        for op in ops {
            world.apply(op);
        }
        world.end();
    }
}
