//! A queue that is kept on disk against a plain model: random operations, pages, and crashes.
//!
//! The engine is the one in memory; what it knew to be durable is all that a crash leaves.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::delivery::Delivery;
use crate::engine::memory::Memory;
use crate::engine::{Engine, Formats, QueueNumber, Records, StoredEntry};
use crate::message::Guarantee;

const NUMBER: QueueNumber = QueueNumber(7);

#[derive(Debug, Clone)]
enum Step {
    Push {
        durable: bool,
    },
    Deliver {
        consumer: u32,
        most: u32,
    },
    Settle {
        consumer: u32,
        picks: Vec<prop::sample::Index>,
        outcome: Outcome,
    },
    Leave {
        consumer: u32,
        failed: bool,
    },
    Purge,
    PageOut,
    /// The page being written is there, or could not be.
    PageEnds {
        written: bool,
    },
    PageIn,
    Move,
    Sync,
    Crash,
}

fn steps() -> impl Strategy<Value = Step> {
    let consumer = 0..3_u32;
    let outcome = prop_oneof![
        4 => Just(Outcome::Accepted),
        1 => Just(Outcome::Rejected { reason: None }),
        1 => Just(Outcome::Released),
        2 => Just(FAILED),
    ];
    let picks = prop::collection::vec(any::<prop::sample::Index>(), 1..4);
    prop_oneof![
        10 => any::<bool>().prop_map(|durable| Step::Push { durable }),
        5 => (consumer.clone(), 1..4_u32).prop_map(|(consumer, most)| Step::Deliver { consumer, most }),
        5 => (consumer.clone(), picks, outcome)
            .prop_map(|(consumer, picks, outcome)| Step::Settle { consumer, picks, outcome }),
        1 => (consumer, any::<bool>()).prop_map(|(consumer, failed)| Step::Leave { consumer, failed }),
        1 => Just(Step::Purge),
        4 => Just(Step::PageOut),
        4 => any::<bool>().prop_map(|written| Step::PageEnds { written }),
        4 => Just(Step::PageIn),
        1 => Just(Step::Move),
        2 => Just(Step::Sync),
        2 => Just(Step::Crash),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct Kept {
    durable: bool,
    attempts: u32,
    handed_over: bool,
}

struct Bench {
    queue: Queue<u32>,
    memory: Arc<Memory>,
    engine: Engine,
    records: Records,
    effects: Vec<Effect>,
    now: Instant,
    leaving: Option<Outgoing>,
    coming: Option<Extent>,
    /// Every message that is in the queue, by tag.
    model: BTreeMap<u64, Kept>,
    /// Whose they are.
    out: BTreeMap<u64, u32>,
    last: u64,
}

impl Bench {
    fn new() -> Self {
        let memory = Memory::new(Formats::default(), Instant::now());
        let mut queue = Queue::new(Arc::new(QueueSpec::default()), DEFAULTS);
        queue.keep_facts();
        Self {
            queue,
            engine: memory.engine(),
            memory,
            records: Records::default(),
            effects: Vec::new(),
            now: Instant::now(),
            leaving: None,
            coming: None,
            model: BTreeMap::new(),
            out: BTreeMap::new(),
            last: 0,
        }
    }

    /// As the broker does it at the end of each visit: what was pushed, what has happened, in one append.
    fn tell(&mut self, pushed_behind: u64) {
        let Self { queue, records, engine, effects, .. } = self;
        records.clear();
        let behind = DeliveryTag(pushed_behind);
        queue.for_each_new(behind, |tag, state, message| {
            records.message(&engine.clock, NUMBER, tag, state, None, message);
            None
        });
        queue.tell(NUMBER, records);
        for effect in effects.drain(..) {
            if let Effect::DeadLetter { origin: Some(origin), .. } = effect {
                records.settled(NUMBER, &mut [origin]);
            }
        }
        if !records.is_empty() {
            let appended = engine.log.append(records);
            queue.stamp(behind, appended.extent);
        }
    }

    fn push(&mut self, durable: bool) {
        let guarantee = if durable { Guarantee::AtLeastOnce } else { Guarantee::AtMostOnce };
        let header = Header { guarantee, ..Header::default() };
        let before = self.queue.last_tag();
        let body = (before.0 + 1).to_string();
        let publish = PublishRef { header, ..PublishRef::new(AddressRef::Queue("q"), body.as_bytes()) };
        let message = Arc::new(Message::from_publish(&publish, self.now));
        self.queue.push(self.now, message, None, 0, &mut self.effects).unwrap();
        self.last = self.queue.last_tag().0;
        self.model.insert(self.last, Kept { durable, attempts: 0, handed_over: false });
        self.tell(before.0);
    }

    fn deliver(&mut self, consumer: u32, most: u32) {
        if !self.queue.knows(key(consumer)) {
            self.queue.attach(key(consumer), consumer, terms(CreditMode::Granted)).unwrap();
        }
        self.queue.flow(key(consumer), most, false);
        let mut got: Vec<Delivery> = Vec::new();
        self.queue.dispatch(self.now, &mut self.effects, |_, deliveries| got.append(deliveries));
        self.queue.flow(key(consumer), 0, false);
        let first_here = self.model.keys().find(|tag| !self.out.contains_key(tag)).copied();
        for (at, delivery) in got.iter().enumerate() {
            let tag = delivery.tag.0;
            let kept = self.model.get_mut(&tag).expect("delivered, but gone");
            assert_eq!(delivery.message.body.as_ref(), tag.to_string().as_bytes());
            assert_eq!(delivery.attempts, kept.attempts, "attempts of {tag}");
            assert_eq!(delivery.redelivered, kept.handed_over, "redelivered {tag}");
            if at == 0 {
                assert_eq!(first_here, Some(tag), "not the first");
            }
            kept.handed_over = true;
            assert!(self.out.insert(tag, consumer).is_none(), "{tag} is out already");
        }
        self.tell(self.last);
    }

    fn back(&mut self, tag: u64, failed: bool) {
        self.out.remove(&tag);
        if failed {
            let kept = self.model.get_mut(&tag).unwrap();
            kept.attempts += 1;
            if kept.attempts == DEFAULTS.delivery_limit {
                self.model.remove(&tag);
            }
        }
    }

    fn settle(&mut self, consumer: u32, picks: &[prop::sample::Index], outcome: &Outcome) {
        let mine: Vec<u64> =
            self.out.iter().filter(|(_, of)| **of == consumer).map(|(tag, _)| *tag).collect();
        if mine.is_empty() {
            return;
        }
        let mut tags: Vec<u64> = picks.iter().map(|pick| *pick.get(&mine)).collect();
        tags.dedup();
        tags.sort_unstable();
        tags.dedup();
        let named: Vec<DeliveryTag> = tags.iter().copied().map(DeliveryTag).collect();
        self.queue.settle(self.now, key(consumer), &named, outcome, &mut self.effects);
        for tag in tags {
            match outcome {
                Outcome::Accepted | Outcome::Rejected { .. } => {
                    self.out.remove(&tag);
                    self.model.remove(&tag);
                }
                Outcome::Released => self.back(tag, false),
                Outcome::Modified { failed, .. } => self.back(tag, *failed),
            }
        }
        self.tell(self.last);
    }

    fn leave(&mut self, consumer: u32, failed: bool) {
        self.queue.detach(self.now, key(consumer), false, failed, &mut self.effects);
        let mine: Vec<u64> =
            self.out.iter().filter(|(_, of)| **of == consumer).map(|(tag, _)| *tag).collect();
        mine.into_iter().for_each(|tag| self.back(tag, failed));
        self.tell(self.last);
    }

    fn page_ends(&mut self, written: bool) {
        let Some(outgoing) = self.leaving.take() else { return };
        self.records.clear();
        if written {
            let entries = outgoing.stored();
            self.engine
                .log
                .write_page(NUMBER, outgoing.extent, outgoing.level, &entries, self.engine.log.end())
                .unwrap();
            let mut records = Records::default();
            self.queue.paged(outgoing, NUMBER, &mut records);
            self.queue.tell(NUMBER, &mut records);
            self.engine.log.append(&records);
        } else {
            self.queue.not_paged(outgoing);
        }
    }

    fn page_in(&mut self) {
        if self.coming.is_none() {
            // As if somebody waited.
            self.queue.attach(key(9), 9, terms(CreditMode::Granted)).unwrap();
            self.queue.flow(key(9), 1, false);
            self.coming = self.queue.want_page();
            self.queue.detach(self.now, key(9), false, false, &mut self.effects);
            return;
        }
        let Some(extent) = self.coming.take() else { return };
        match self.engine.log.read_page(NUMBER, extent) {
            Ok(entries) => self.queue.page_arrived(extent, entries),
            // Purged meanwhile.
            Err(_) => self.queue.page_not_read(extent),
        }
    }

    fn crash(&mut self) {
        self.memory = self.memory.reopen();
        self.engine = self.memory.engine();
        let mut queue = Queue::new(Arc::new(QueueSpec::default()), DEFAULTS);
        queue.keep_facts();
        let found = self.engine.log.take_recovered(NUMBER);
        let mut seen: BTreeMap<u64, StoredEntry> =
            found.entries.iter().map(|(entry, _)| (entry.tag.0, entry.clone())).collect();
        for page in &found.pages {
            let entries = self.engine.log.read_page(NUMBER, page.extent).unwrap();
            assert_eq!(entries.len(), page.count as usize);
            seen.extend(entries.into_iter().map(|entry| (entry.tag.0, entry)));
        }
        self.model.retain(|_, kept| kept.durable);
        let tags = |all: &mut dyn Iterator<Item = u64>| all.collect::<Vec<u64>>();
        assert_eq!(tags(&mut seen.keys().copied()), tags(&mut self.model.keys().copied()));
        for (tag, kept) in &mut self.model {
            let entry = &seen[tag];
            assert_eq!((entry.attempts, entry.durable), (kept.attempts, true), "of {tag}");
            assert!(entry.redelivered || !kept.handed_over, "{tag} comes as if it were new");
            // Nobody was told of a message before the last one handed over whether it is new.
            kept.handed_over = entry.redelivered;
        }
        queue.restore(found);
        queue.begin_behind(DeliveryTag(self.last));
        assert_eq!(queue.ready(), self.model.len() as u64);
        self.queue = queue;
        self.out.clear();
        (self.leaving, self.coming) = (None, None);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Push { durable } => self.push(durable),
            Step::Deliver { consumer, most } => self.deliver(consumer, most),
            Step::Settle { consumer, picks, outcome } => self.settle(consumer, &picks, &outcome),
            Step::Leave { consumer, failed } => self.leave(consumer, failed),
            Step::Purge => {
                let ready = self.model.len() - self.out.len();
                assert_eq!(self.queue.purge(), ready as u64);
                self.model.retain(|tag, _| self.out.contains_key(tag));
                self.tell(self.last);
            }
            Step::PageOut => {
                if self.leaving.is_none() {
                    self.leaving = self.queue.cut_page(self.engine.log.next_page(), true);
                }
            }
            Step::PageEnds { written } => self.page_ends(written),
            Step::PageIn => self.page_in(),
            Step::Move => {
                let from = Extent::journal(1);
                self.records.clear();
                let (records, engine) = (&mut self.records, &self.engine);
                self.queue.for_each_held(from, |tag, state, message| {
                    records.message(&engine.clock, NUMBER, tag, state, None, message);
                });
                let appended = self.engine.log.append(&self.records);
                self.queue.moved(from, |_| appended.extent);
            }
            Step::Sync => self.memory.sync(),
            Step::Crash => self.crash(),
        }
        assert_eq!(self.queue.ready() + self.queue.unsettled(), self.model.len() as u64);
        assert_eq!(self.queue.unsettled(), self.out.len() as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn nothing_is_lost_and_nothing_comes_back(steps in prop::collection::vec(steps(), 1..80)) {
        let mut bench = Bench::new();
        for step in steps {
            bench.take(step);
        }
        // Everything can still be had, in order.
        bench.page_ends(true);
        for _ in 0..200 {
            if bench.out.len() == bench.model.len() {
                break;
            }
            bench.deliver(0, 10);
            bench.page_in();
        }
        prop_assert_eq!(bench.out.len(), bench.model.len());
        bench.crash();
    }
}
