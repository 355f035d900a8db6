//! Random work on a disk that loses its power: what was said to be safe is there, and all that is there was once so.
//!
//! After every crash the store must be as after some number of its appends, in order, at least those that were safe.

use std::collections::BTreeMap;
use std::sync::Arc;

use mynah_core::engine::{
    Engine, EntryState, Extent, Formats, Gone, QueueNumber, Records, Space, StoredEntry,
};
use mynah_core::{AddressRef, DeliveryTag, Guarantee, Header, Message, PublishRef};

use super::sim::{Dice, SimDisk, SimState};
use crate::{Store, StoreError, StoreOptions, next_header};

/// What is kept, in plain words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Queue and tag; body and attempts.
    messages: BTreeMap<(u64, u64), (u64, u32)>,
    notes: BTreeMap<(u64, u32), Vec<u8>>,
    state: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Snapshot {
    /// In what it differs from another.
    fn unlike(&self, due: &Self) -> String {
        let extra: Vec<_> =
            self.messages.iter().filter(|(at, it)| due.messages.get(at) != Some(it)).collect();
        let missing: Vec<_> =
            due.messages.iter().filter(|(at, it)| self.messages.get(at) != Some(it)).collect();
        format!(
            "found {extra:?}, missed {missing:?}; notes {:?} for {:?}; state {:?} for {:?}",
            self.notes, due.notes, self.state, due.state
        )
    }
}

/// A store and whoever uses it.
pub(super) struct Bench {
    pub(super) disk: SimDisk,
    pub(super) keyed: SimState,
    pub(super) store: Store,
    pub(super) engine: Engine,
    pub(super) now: Snapshot,
    /// After each append: where the log was, and what was so then.
    pub(super) history: Vec<(u64, Snapshot)>,
    where_: BTreeMap<(u64, u64), Extent>,
    last: u64,
    must_crash: bool,
    /// The queues there are now: a number is never used again.
    queues: [u64; 3],
}

fn open(disk: &SimDisk, keyed: &SimState) -> Result<Store, StoreError> {
    let options = StoreOptions {
        journal_bytes_max: 64 << 10,
        journal_file_bytes: 16 << 10,
        free_bytes_min: 0,
        threads: false,
        ..StoreOptions::new("sim".as_ref())
    };
    let header = next_header(disk)?;
    Store::with_disk(options, Formats::default(), Arc::new(disk.clone()), Box::new(keyed.clone()), header)
}

/// A body is its number so often. A few are so large that the records only share them.
fn repeated(body: u64) -> String {
    let times = if body.is_multiple_of(97) { 1_500 } else { 1 + body % 40 };
    format!("{body},").repeat(usize::try_from(times).unwrap())
}

fn message(engine: &Engine, body: u64) -> Arc<Message> {
    let header = Header { guarantee: Guarantee::AtLeastOnce, ..Header::default() };
    let text = repeated(body);
    let publish = PublishRef { header, ..PublishRef::new(AddressRef::Queue("q"), text.as_bytes()) };
    Arc::new(Message::from_publish(&publish, engine.clock.at))
}

fn body_of(message: &Message) -> u64 {
    let text = std::str::from_utf8(&message.body).unwrap();
    let body = text.split(',').next().and_then(|body| body.parse().ok()).unwrap();
    assert_eq!(text, repeated(body));
    body
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::open(SimDisk::default(), SimState::default(), None).unwrap()
    }

    /// Opens what a crash has left, and checks it against the states it may be in.
    pub(super) fn open(
        disk: SimDisk,
        keyed: SimState,
        allowed: Option<&[(u64, Snapshot)]>,
    ) -> Result<Self, StoreError> {
        let store = open(&disk, &keyed)?;
        let engine = store.engine();
        let (mut now, mut where_, mut last) = (Snapshot::default(), BTreeMap::new(), 0);
        for queue in engine.log.recovered() {
            let found = engine.log.take_recovered(queue);
            last = last.max(found.last_tag.0);
            let mut entries = found.entries;
            for page in &found.pages {
                let read = engine.log.read_page(queue, page.extent).unwrap();
                assert_eq!(read.len(), page.count as usize, "{page:?}");
                entries.extend(read.into_iter().map(|entry| (entry, page.extent)));
            }
            for (entry, extent) in entries {
                let at = (queue.0, entry.tag.0);
                let old = now.messages.insert(at, (body_of(&entry.message), entry.attempts));
                assert!(old.is_none(), "{at:?} is in two places");
                where_.insert(at, extent);
            }
            now.notes.extend(found.notes.into_iter().map(|(key, value)| ((queue.0, key), value.to_vec())));
        }
        engine
            .state
            .scan(Space::Meta, &[], &mut |key, value| {
                now.state.insert(key.to_vec(), value.to_vec());
            })
            .unwrap();
        if let Some(allowed) = allowed {
            let fits = allowed.iter().any(|(_, snapshot)| *snapshot == now);
            assert!(fits, "none of {} states: {}", allowed.len(), now.unlike(&allowed[0].1));
        }
        let history = vec![(engine.log.durable().0, now.clone())];
        Ok(Self {
            disk,
            keyed,
            store,
            engine,
            now,
            history,
            where_,
            last,
            must_crash: false,
            queues: [0, 1, 2],
        })
    }

    /// What may be found after a crash now.
    pub(super) fn allowed(&self) -> Vec<(u64, Snapshot)> {
        let durable = self.engine.log.durable().0;
        let first = self.history.iter().rposition(|(lsn, _)| *lsn <= durable).unwrap_or(0);
        self.history[first..].to_vec()
    }

    pub(super) fn step(&self) {
        self.store.inner.step();
    }

    fn append(&mut self, records: &Records) -> Extent {
        let appended = self.engine.log.append(records);
        self.history.push((appended.lsn.0, self.now.clone()));
        appended.extent
    }

    pub(super) fn enqueue(&mut self, dice: &mut Dice) {
        let queue = self.queue(dice.roll(3));
        let mut records = Records::default();
        let mut tags = Vec::new();
        for _ in 0..=dice.roll(4) {
            self.last += 1;
            let body = dice.roll(100_000);
            records.message(
                &self.engine.clock,
                QueueNumber(queue),
                DeliveryTag(self.last),
                EntryState { durable: true, ..EntryState::default() },
                None,
                &message(&self.engine, body),
            );
            self.now.messages.insert((queue, self.last), (body, 0));
            tags.push(self.last);
        }
        if dice.one_in(2) {
            records.demand_sync();
        }
        let extent = self.append(&records);
        self.where_.extend(tags.into_iter().map(|tag| ((queue, tag), extent)));
    }

    /// One message to all queues: in one append, or one after the other.
    fn fan_out(&mut self, dice: &mut Dice) {
        let (body, number) = (dice.roll(100_000), self.engine.log.next_shared());
        let together = dice.one_in(2);
        let mut records = Records::default();
        let (mut extent, mut entered) = (Extent::PENDING, Vec::new());
        for at in 0..3 {
            let queue = self.queue(at);
            self.last += 1;
            let (to, tag) = (QueueNumber(queue), DeliveryTag(self.last));
            let state = EntryState { durable: true, ..EntryState::default() };
            if at == 0 {
                let message = message(&self.engine, body);
                records.message(&self.engine.clock, to, tag, state, Some(number), &message);
                records.hold();
            } else {
                records.copy(number, extent, to, tag, state);
            }
            self.now.messages.insert((queue, self.last), (body, 0));
            entered.push((queue, self.last));
            if !together {
                let stands = self.append(&records);
                if at == 0 {
                    extent = stands;
                }
                records.clear();
            }
        }
        if together {
            extent = self.append(&records);
            records.clear();
        }
        records.release(extent, 1);
        self.append(&records);
        self.where_.extend(entered.into_iter().map(|at| (at, extent)));
    }

    fn queue(&self, at: u64) -> u64 {
        self.queues[usize::try_from(at).unwrap()]
    }

    fn pick(&self, dice: &mut Dice) -> Option<(u64, u64)> {
        let count = self.now.messages.len() as u64;
        self.now.messages.keys().nth(usize::try_from(dice.roll(count)).unwrap()).copied()
    }

    fn gone(&mut self, at: (u64, u64)) -> Gone {
        self.now.messages.remove(&at);
        Gone { extent: self.where_.remove(&at).unwrap(), tag: DeliveryTag(at.1) }
    }

    pub(super) fn settle(&mut self, dice: &mut Dice) {
        let Some((queue, _)) = self.pick(dice) else { return };
        let of_queue: Vec<_> = self.now.messages.keys().filter(|at| at.0 == queue).copied().collect();
        let mut gone = Vec::new();
        for at in of_queue {
            if dice.one_in(3) {
                gone.push(self.gone(at));
            }
        }
        let mut records = Records::default();
        records.settled(QueueNumber(queue), &mut gone);
        self.append(&records);
    }

    /// As a dead letter: into another queue and out of this one.
    fn move_over(&mut self, dice: &mut Dice) {
        let Some(at) = self.pick(dice) else { return };
        let (body, _) = self.now.messages[&at];
        let to = self.queue((at.0 % 3 + 1) % 3);
        self.last += 1;
        let mut records = Records::default();
        records.message(
            &self.engine.clock,
            QueueNumber(to),
            DeliveryTag(self.last),
            EntryState { durable: true, ..EntryState::default() },
            None,
            &message(&self.engine, body),
        );
        let gone = self.gone(at);
        records.settled(QueueNumber(at.0), &mut [gone]);
        self.now.messages.insert((to, self.last), (body, 0));
        let extent = self.append(&records);
        self.where_.insert((to, self.last), extent);
    }

    fn small_things(&mut self, dice: &mut Dice) {
        let mut records = Records::default();
        let key = u32::try_from(dice.roll(4)).unwrap();
        match dice.roll(5) {
            0 => {
                let Some(at) = self.pick(dice) else { return };
                let entry = self.now.messages.get_mut(&at).unwrap();
                entry.1 += 1;
                records.attempts(QueueNumber(at.0), DeliveryTag(at.1), entry.1);
            }
            1 => {
                let queue = self.queue(1);
                records.note(QueueNumber(queue), key, Some(b"noted"));
                self.now.notes.insert((queue, key), b"noted".to_vec());
            }
            2 => {
                let queue = self.queue(1);
                records.note(QueueNumber(queue), key, None);
                self.now.notes.remove(&(queue, key));
            }
            3 => {
                let value = dice.roll(1000).to_string().into_bytes();
                records.put(Space::Meta, &key.to_le_bytes(), &value);
                self.now.state.insert(key.to_le_bytes().to_vec(), value);
            }
            _ => {
                records.delete(Space::Meta, &key.to_le_bytes());
                self.now.state.remove(key.to_le_bytes().as_slice());
            }
        }
        self.append(&records);
    }

    fn stored(&self, at: (u64, u64)) -> StoredEntry {
        let (body, attempts) = self.now.messages[&at];
        StoredEntry {
            tag: DeliveryTag(at.1),
            message: message(&self.engine, body),
            wire: None,
            attempts,
            redelivered: false,
            durable: true,
        }
    }

    pub(super) fn page_out(&mut self, dice: &mut Dice) {
        let queue = self.queue(dice.roll(3));
        let in_journal: Vec<_> = self
            .where_
            .iter()
            .filter(|(at, extent)| at.0 == queue && extent.is_journal())
            .map(|(at, _)| *at)
            .take(usize::try_from(1 + dice.roll(12)).unwrap())
            .collect();
        if in_journal.is_empty() {
            return;
        }
        let entries: Vec<StoredEntry> = in_journal.iter().map(|at| self.stored(*at)).collect();
        let page = self.engine.log.next_page();
        self.engine.log.write_page(QueueNumber(queue), page, 0, &entries, self.engine.log.end()).unwrap();
        if dice.one_in(8) {
            // The power goes before it is told: the messages stand in both.
            self.must_crash = true;
            return;
        }
        let mut records = Records::default();
        records.paged(QueueNumber(queue), page, in_journal.iter().map(|at| DeliveryTag(at.1)));
        for at in in_journal {
            records.release(self.where_[&at], 1);
            self.where_.insert(at, page);
        }
        self.append(&records);
    }

    fn drop_queue(&mut self, dice: &mut Dice) {
        let at = dice.roll(3);
        let queue = self.queue(at);
        let mut records = Records::default();
        let all: Vec<_> = self.where_.keys().filter(|at| at.0 == queue).copied().collect();
        for at in all {
            let extent = self.where_.remove(&at).unwrap();
            if extent.is_journal() {
                records.release(extent, 1);
            }
            self.now.messages.remove(&at);
        }
        self.now.notes.retain(|(of, _), _| *of != queue);
        records.queue_dropped(QueueNumber(queue));
        self.append(&records);
        self.queues[usize::try_from(at).unwrap()] += 3;
    }

    fn empty_oldest(&mut self) {
        let Some(held) = self.engine.log.oldest_wanted() else { return };
        let there: Vec<_> =
            self.where_.iter().filter(|(_, extent)| **extent == held).map(|(at, _)| *at).collect();
        let mut records = Records::default();
        for at in &there {
            let entry = self.stored(*at);
            let state = EntryState { attempts: entry.attempts, durable: true, ..EntryState::default() };
            records.message(&self.engine.clock, QueueNumber(at.0), entry.tag, state, None, &entry.message);
        }
        records.release(held, u32::try_from(there.len()).unwrap());
        let extent = self.append(&records);
        self.where_.extend(there.into_iter().map(|at| (at, extent)));
    }

    fn work(&mut self, dice: &mut Dice) {
        match dice.roll(20) {
            0..6 => self.enqueue(dice),
            6 => self.fan_out(dice),
            7..11 => self.settle(dice),
            11 => self.move_over(dice),
            12 | 13 => self.small_things(dice),
            14 => self.page_out(dice),
            15 if dice.one_in(6) => self.drop_queue(dice),
            16 => self.empty_oldest(),
            _ => self.step(),
        }
    }

    fn crash(self, dice: &mut Dice) -> Self {
        let allowed = self.allowed();
        let (disk, keyed) = (self.disk.crash(dice), self.keyed.crash(dice));
        let queues = self.queues;
        Self { queues, ..Self::open(disk, keyed, Some(&allowed)).unwrap() }
    }
}

fn run(seed: u64) {
    let mut dice = Dice::new(seed);
    let mut bench = Bench::new();
    for _ in 0..4 {
        for _ in 0..dice.roll(120) {
            bench.work(&mut dice);
            if bench.must_crash {
                break;
            }
        }
        bench = bench.crash(&mut dice);
    }
    // With everything safe nothing may be missing.
    bench.step();
    let all = bench.now.clone();
    let last = [(0, all)];
    let (disk, keyed) = (bench.disk.crash(&mut dice), bench.keyed.crash(&mut dice));
    Bench::open(disk, keyed, Some(&last)).unwrap();
}

#[test]
fn powercut_confirmed() {
    let runs: u64 = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1500);
    let first: u64 = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for seed in first..first + runs {
        let done = std::panic::catch_unwind(|| run(seed));
        assert!(done.is_ok(), "SEED={seed}");
    }
}

#[test]
fn the_last_group_torn_at_every_byte() {
    let mut dice = Dice::new(7);
    let mut bench = Bench::new();
    for _ in 0..5 {
        bench.enqueue(&mut dice);
        bench.settle(&mut dice);
        bench.step();
    }
    let before = bench.allowed();
    bench.enqueue(&mut dice);
    let after = bench.history.last().cloned().unwrap();
    // Written and not synced: the sync fails.
    bench.disk.fail_next_sync();
    bench.step();
    let length = bench.disk.last_write();
    assert!(length >= 512);
    for keep in 0..=length {
        let either = [before.last().cloned().unwrap(), after.clone()];
        Bench::open(bench.disk.torn(keep), bench.keyed.clone(), Some(&either)).unwrap();
    }
}
