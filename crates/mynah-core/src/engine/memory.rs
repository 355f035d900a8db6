//! The trivial engine: everything in memory, in the plainest form. It proves the seam and drives the broker's tests.
//!
//! It can be told to hold its syncs, so that a test decides when something becomes durable, and to be opened again as after
//! a crash: with all that was durable and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;

use super::clock::WallClock;
use super::formats::Formats;
use super::records::{RecordRef, Records, SharedNumber, read_record};
use super::{
    Appended, Condition, Engine, Extent, Log, LogObserver, LogStatus, Lsn, Page, QueueNumber, RecoveredQueue,
    Space, State, StoredEntry, Wait, Waiter,
};
use crate::delivery::DeliveryTag;

/// Log and state of the engine.
#[derive(Debug)]
pub struct Memory {
    clock: WallClock,
    formats: Formats,
    generation: u32,
    inner: Mutex<Inner>,
    pages: AtomicU32,
    shared: AtomicU64,
}

#[derive(Default)]
struct Inner {
    /// Every appended block, in order; those from `durable` on are not safe.
    blocks: Vec<Vec<u8>>,
    durable: usize,
    /// Blocks are only made safe by [`Memory::sync`].
    held: bool,
    condition: Option<Condition>,
    waiters: Vec<(Lsn, Arc<dyn Waiter>)>,
    observers: Vec<Arc<dyn LogObserver>>,
    oldest_wanted: Option<Extent>,
    pages: BTreeMap<Extent, MemoryPage>,
    state: BTreeMap<(Space, Vec<u8>), Bytes>,
    recovered: BTreeMap<QueueNumber, RecoveredQueue>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("blocks", &self.blocks.len()).finish_non_exhaustive()
    }
}

impl Memory {
    #[must_use]
    pub fn new(formats: Formats, now: Instant) -> Arc<Self> {
        let clock = WallClock { at: now, epoch_ms: 1_700_000_000_000 };
        Arc::new(Self {
            clock,
            formats,
            generation: 1,
            inner: Mutex::default(),
            pages: AtomicU32::new(1),
            shared: AtomicU64::new(1),
        })
    }

    #[must_use]
    pub fn engine(self: &Arc<Self>) -> Engine {
        Engine {
            log: Arc::<Self>::clone(self),
            state: Arc::<Self>::clone(self),
            clock: self.clock,
            lasting: true,
        }
    }

    /// As after a crash: a new engine with what was durable.
    #[must_use]
    pub fn reopen(&self) -> Arc<Self> {
        let old = self.lock();
        let blocks: Vec<Vec<u8>> = old.blocks.iter().take(old.durable).cloned().collect();
        let mut inner = Inner { durable: blocks.len(), ..Inner::default() };
        let mut replay = Replay { clock: self.clock, formats: &self.formats, ..Replay::default_of(self) };
        // Pages are safe as soon as they are written.
        for (extent, page) in &old.pages {
            let entries = page.entries.iter().filter(|entry| entry.durable).cloned().collect();
            replay.pages.insert(*extent, MemoryPage { entries, ..*page });
        }
        blocks.iter().for_each(|block| replay.block(block));
        inner.blocks = blocks;
        let (recovered, pages, state) = replay.finish();
        (inner.recovered, inner.pages, inner.state) = (recovered, pages, state);
        Arc::new(Self {
            clock: self.clock,
            formats: self.formats.clone(),
            generation: self.generation + 1,
            inner: Mutex::new(inner),
            pages: AtomicU32::new(self.pages.load(Ordering::Relaxed)),
            shared: AtomicU64::new(self.shared.load(Ordering::Relaxed)),
        })
    }

    /// From now on nothing becomes durable but by [`Memory::sync`].
    pub fn hold(&self) {
        self.lock().held = true;
    }

    /// Everything appended so far is safe.
    pub fn sync(&self) {
        let mut inner = self.lock();
        inner.durable = inner.blocks.len();
        let durable = Lsn(inner.durable as u64);
        let (due, rest) =
            std::mem::take(&mut inner.waiters).into_iter().partition(|(lsn, _)| *lsn <= durable);
        inner.waiters = rest;
        drop(inner);
        let due: Vec<(Lsn, Arc<dyn Waiter>)> = due;
        due.iter().for_each(|(_, waiter)| waiter.wake());
    }

    pub fn set_condition(&self, condition: Condition) {
        let mut inner = self.lock();
        inner.condition = Some(condition);
        let waiters = std::mem::take(&mut inner.waiters);
        drop(inner);
        waiters.iter().for_each(|(_, waiter)| waiter.wake());
    }

    /// Asks for the messages of an extent to be moved.
    pub fn want_moved(&self, extent: Option<Extent>) {
        let mut inner = self.lock();
        inner.oldest_wanted = extent;
        let observers = inner.observers.clone();
        drop(inner);
        observers.iter().for_each(|observer| observer.look_again());
    }

    /// A test that panicked with the lock must not hide why.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone)]
struct MemoryPage {
    queue: QueueNumber,
    level: u8,
    entries: Vec<StoredEntry>,
}

impl MemoryPage {
    fn settle(&mut self, runs: &[(DeliveryTag, u64)]) {
        self.entries.retain(|entry| !is_in(runs, entry.tag));
    }
}

/// All blocks stand in the first file of the journal.
const JOURNAL: Extent = Extent(1);

impl Log for Memory {
    fn append(&self, records: &Records) -> Appended {
        let mut inner = self.lock();
        let block = records.joined();
        let (mut rest, mut changes) = (&*block, Vec::new());
        while let Ok((record, used)) = read_record(rest) {
            match record {
                RecordRef::Put { space, key, value } => {
                    changes.push(((space, key.to_vec()), Some(Bytes::copy_from_slice(value))));
                }
                RecordRef::Delete { space, key } => changes.push(((space, key.to_vec()), None)),
                RecordRef::PageDropped { page, .. } => {
                    inner.pages.remove(&page);
                }
                RecordRef::Settled { page: Some(page), runs, .. } => {
                    if let Some(page) = inner.pages.get_mut(&page) {
                        page.settle(&runs);
                    }
                }
                RecordRef::Message { .. }
                | RecordRef::Copy { .. }
                | RecordRef::Settled { .. }
                | RecordRef::Paged { .. }
                | RecordRef::Attempts { .. }
                | RecordRef::Delivered { .. }
                | RecordRef::Note { .. }
                | RecordRef::QueueDropped { .. } => {}
            }
            rest = rest.get(used..).unwrap_or_default();
        }
        debug_assert!(rest.is_empty(), "a record that cannot be read");
        for (key, value) in changes {
            match value {
                Some(value) => inner.state.insert(key, value),
                None => inner.state.remove(&key),
            };
        }
        inner.blocks.push(block.into_owned());
        if !inner.held && inner.condition.is_none() {
            inner.durable = inner.blocks.len();
        }
        Appended { lsn: Lsn(inner.blocks.len() as u64), extent: JOURNAL }
    }

    fn end(&self) -> Lsn {
        Lsn(self.lock().blocks.len() as u64)
    }

    fn durable(&self) -> Lsn {
        Lsn(self.lock().durable as u64)
    }

    fn wait(&self, lsn: Lsn, waiter: &Arc<dyn Waiter>) -> Wait {
        let mut inner = self.lock();
        if inner.durable as u64 >= lsn.0 {
            Wait::Done
        } else if matches!(inner.condition, Some(Condition::Failed(_))) {
            Wait::Failed
        } else {
            inner.waiters.push((lsn, Arc::clone(waiter)));
            Wait::Registered
        }
    }

    fn condition(&self) -> Condition {
        self.lock().condition.clone().unwrap_or(Condition::Open)
    }

    fn backlog(&self) -> usize {
        let inner = self.lock();
        inner.blocks.iter().skip(inner.durable).map(Vec::len).sum()
    }

    fn next_shared(&self) -> SharedNumber {
        SharedNumber(self.shared.fetch_add(1, Ordering::Relaxed))
    }

    fn next_page(&self) -> Extent {
        Extent::page(self.pages.fetch_add(1, Ordering::Relaxed))
    }

    fn write_page(
        &self,
        queue: QueueNumber,
        extent: Extent,
        level: u8,
        entries: &[StoredEntry],
        _: Lsn,
    ) -> io::Result<Page> {
        self.lock().pages.insert(extent, MemoryPage { queue, level, entries: entries.to_vec() });
        page_of(extent, level, entries).ok_or_else(|| io::Error::other("an empty page"))
    }

    fn read_page(&self, _: QueueNumber, extent: Extent) -> io::Result<Vec<StoredEntry>> {
        let inner = self.lock();
        let page = inner.pages.get(&extent).map(|page| page.entries.clone());
        page.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such page"))
    }

    fn oldest_wanted(&self) -> Option<Extent> {
        self.lock().oldest_wanted.take()
    }

    fn observe(&self, observer: Arc<dyn LogObserver>) {
        self.lock().observers.push(observer);
    }

    fn take_recovered(&self, queue: QueueNumber) -> RecoveredQueue {
        self.lock().recovered.remove(&queue).unwrap_or_default()
    }

    fn recovered(&self) -> Vec<QueueNumber> {
        self.lock().recovered.keys().copied().collect()
    }

    fn generation(&self) -> u32 {
        self.generation
    }

    fn status(&self) -> LogStatus {
        let inner = self.lock();
        LogStatus { journal_files: 1, pages: inner.pages.len() as u64, ..LogStatus::default() }
    }

    fn flush(&self) -> io::Result<()> {
        self.sync();
        Ok(())
    }
}

impl State for Memory {
    fn get(&self, space: Space, key: &[u8]) -> io::Result<Option<Bytes>> {
        Ok(self.lock().state.get(&(space, key.to_vec())).cloned())
    }

    fn scan(&self, space: Space, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> io::Result<()> {
        let inner = self.lock();
        let from = (space, prefix.to_vec());
        for ((_, key), value) in
            inner.state.range(from..).take_while(|((at, key), _)| *at == space && key.starts_with(prefix))
        {
            each(key, value);
        }
        Ok(())
    }
}

fn is_in(runs: &[(DeliveryTag, u64)], tag: DeliveryTag) -> bool {
    runs.iter().any(|(first, count)| (first.0..first.0 + count).contains(&tag.0))
}

fn page_of(extent: Extent, level: u8, entries: &[StoredEntry]) -> Option<Page> {
    Some(Page {
        extent,
        level,
        first: entries.first()?.tag,
        last: entries.last()?.tag,
        count: u32::try_from(entries.len()).unwrap_or(u32::MAX),
        bytes: entries.iter().map(|entry| entry.message.size() as u64).sum(),
    })
}

/// Blocks read again from the start.
struct Replay<'a> {
    clock: WallClock,
    formats: &'a Formats,
    queues: BTreeMap<QueueNumber, ReplayedQueue>,
    shared: HashMap<SharedNumber, StoredEntry>,
    pages: BTreeMap<Extent, MemoryPage>,
    state: BTreeMap<(Space, Vec<u8>), Bytes>,
}

#[derive(Default)]
struct ReplayedQueue {
    entries: BTreeMap<DeliveryTag, StoredEntry>,
    attempts: HashMap<DeliveryTag, u32>,
    delivered: DeliveryTag,
    last: DeliveryTag,
    notes: BTreeMap<u32, Bytes>,
}

type Replayed =
    (BTreeMap<QueueNumber, RecoveredQueue>, BTreeMap<Extent, MemoryPage>, BTreeMap<(Space, Vec<u8>), Bytes>);

impl<'a> Replay<'a> {
    fn default_of(memory: &'a Memory) -> Self {
        Self {
            clock: memory.clock,
            formats: &memory.formats,
            queues: BTreeMap::new(),
            shared: HashMap::new(),
            pages: BTreeMap::new(),
            state: BTreeMap::new(),
        }
    }

    fn block(&mut self, mut rest: &[u8]) {
        while let Ok((record, used)) = read_record(rest) {
            self.record(&record);
            rest = rest.get(used..).unwrap_or_default();
        }
    }

    fn record(&mut self, record: &RecordRef<'_>) {
        match record {
            RecordRef::Message { queue, tag, shared, .. } => {
                let Ok(entry) = record.entry(&self.clock, self.formats, None) else { return };
                if let Some(number) = shared {
                    self.shared.insert(*number, entry.clone());
                }
                self.enter(*queue, *tag, entry);
            }
            RecordRef::Copy { of, queue, tag, state } => {
                let Some(body) = self.shared.get(of).map(|entry| Arc::clone(&entry.message)) else { return };
                let entry = state.entry(*tag, body, self.formats, None);
                self.enter(*queue, *tag, entry);
            }
            RecordRef::Settled { queue, runs, .. } => {
                self.pages
                    .values_mut()
                    .filter(|page| page.queue == *queue)
                    .for_each(|page| page.settle(runs));
                let queue = self.queue(*queue);
                queue.entries.retain(|tag, _| !is_in(runs, *tag));
                let last = runs.last().map(|(first, count)| DeliveryTag(first.0 + count - 1));
                queue.last = queue.last.max(last.unwrap_or_default());
            }
            RecordRef::Paged { queue, runs, .. } => {
                self.queue(*queue).entries.retain(|tag, _| !is_in(runs, *tag));
            }
            RecordRef::Attempts { queue, tag, attempts } => {
                self.queue(*queue).attempts.insert(*tag, *attempts);
            }
            RecordRef::Delivered { queue, upto } => {
                let queue = self.queue(*queue);
                queue.delivered = queue.delivered.max(*upto);
            }
            RecordRef::Note { queue, key, value } => {
                let notes = &mut self.queue(*queue).notes;
                match value {
                    Some(value) => notes.insert(*key, Bytes::copy_from_slice(value)),
                    None => notes.remove(key),
                };
            }
            RecordRef::Put { space, key, value } => {
                self.state.insert((*space, key.to_vec()), Bytes::copy_from_slice(value));
            }
            RecordRef::Delete { space, key } => {
                self.state.remove(&(*space, key.to_vec()));
            }
            RecordRef::PageDropped { page, .. } => {
                self.pages.remove(page);
            }
            RecordRef::QueueDropped { queue } => {
                self.queues.remove(queue);
                self.pages.retain(|_, page| page.queue != *queue);
            }
        }
    }

    fn queue(&mut self, number: QueueNumber) -> &mut ReplayedQueue {
        self.queues.entry(number).or_default()
    }

    fn enter(&mut self, queue: QueueNumber, tag: DeliveryTag, entry: StoredEntry) {
        let queue = self.queue(queue);
        queue.last = queue.last.max(tag);
        queue.entries.insert(tag, entry);
    }

    fn finish(mut self) -> Replayed {
        let mut recovered: BTreeMap<QueueNumber, RecoveredQueue> = BTreeMap::new();
        for (number, queue) in &mut self.queues {
            // What stands in a page as well was moved there.
            let in_page = |tag: &DeliveryTag| {
                let mut pages = self.pages.values().filter(|page| page.queue == *number);
                pages.any(|page| page.entries.iter().any(|entry| entry.tag == *tag))
            };
            let found = recovered.entry(*number).or_default();
            found.last_tag = queue.last.max(queue.delivered);
            found.notes = std::mem::take(&mut queue.notes).into_iter().collect();
            for (tag, mut entry) in std::mem::take(&mut queue.entries) {
                if in_page(&tag) {
                    continue;
                }
                queue.amend(&mut entry);
                found.entries.push((entry, JOURNAL));
            }
        }
        for (extent, MemoryPage { queue: number, level, entries }) in &mut self.pages {
            if let Some(queue) = self.queues.get(number) {
                entries.iter_mut().for_each(|entry| queue.amend(entry));
            }
            let found = recovered.entry(*number).or_default();
            if let Some(page) = page_of(*extent, *level, entries) {
                found.last_tag = found.last_tag.max(page.last);
                found.pages.push(page);
            }
        }
        for found in recovered.values_mut() {
            found.pages.sort_by_key(|page| (page.level, page.first));
        }
        (recovered, self.pages, self.state)
    }
}

impl ReplayedQueue {
    fn amend(&self, entry: &mut StoredEntry) {
        if let Some(attempts) = self.attempts.get(&entry.tag) {
            entry.attempts = entry.attempts.max(*attempts);
        }
        entry.redelivered |= entry.tag <= self.delivered;
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract;
    use super::*;

    #[test]
    fn the_contract() {
        contract::all(|| {
            let mut memory: Option<Arc<Memory>> = None;
            Box::new(move || {
                let next = memory
                    .take()
                    .map_or_else(|| Memory::new(Formats::default(), Instant::now()), |old| old.reopen());
                memory = Some(Arc::clone(&next));
                next.engine()
            })
        });
    }
}
