//! The messages that wait: by priority, in the order they came, with what came back in its old place.
//!
//! Messages that every consumer at hand refused are set aside so that they block nobody, and are recalled when a consumer comes
//! that may take them. Of a long queue only the head and what came last are in memory, see [`super::level`].
//!
//! Never: knows a consumer, decides what becomes of a message.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::level::{Cut, Level, PageSize, Paged, merged};
use crate::delivery::DeliveryTag;
use crate::engine::{EntryState, Extent, Gone, Page, StoredEntry};
use crate::limits::{ENTRY_BYTES, PRIORITY_LEVELS};
use crate::message::Message;
use crate::wire::Wire;

/// Entries of capacity that a queue keeps when it has become short.
pub(super) const ROOM_KEPT: usize = 1024;

/// A message in the queue.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) seq: u64,
    pub(super) message: Arc<Message>,
    pub(super) wire: Option<Arc<Wire>>,
    /// The connection it came from.
    pub(super) publisher: u64,
    pub(super) expires: Option<Instant>,
    /// Bytes counted against the queue's bound.
    pub(super) size: u32,
    pub(super) attempts: u32,
    pub(super) level: u8,
    pub(super) redelivered: bool,
    /// Some consumer said "undeliverable here".
    pub(super) avoids: bool,
    /// It survives a restart.
    pub(super) durable: bool,
    /// What holds it on disk.
    pub(super) kept: Extent,
}

/// A place in the delivery order: by priority, then by number.
pub(super) type Rank = (Reverse<u8>, u64);

const FIRST: Rank = (Reverse(u8::MAX), 0);
const LAST: Rank = (Reverse(0), u64::MAX);

impl Entry {
    fn rank(&self) -> Rank {
        (Reverse(self.level), self.seq)
    }

    pub(super) fn gone(&self) -> Gone {
        Gone { extent: self.kept, tag: DeliveryTag(self.seq) }
    }

    /// What it costs while it is in memory, about.
    pub(super) fn memory(&self) -> u64 {
        u64::from(self.size) + ENTRY_BYTES
    }

    pub(super) fn state(&self) -> EntryState<'_> {
        let Self { attempts, redelivered, durable, .. } = *self;
        EntryState { attempts, redelivered, durable, wire: self.wire.as_deref() }
    }

    pub(super) fn stored(&self) -> StoredEntry {
        StoredEntry {
            tag: DeliveryTag(self.seq),
            message: Arc::clone(&self.message),
            wire: self.wire.clone(),
            attempts: self.attempts,
            redelivered: self.redelivered,
            durable: self.durable,
        }
    }
}

/// How far a consumer knows what is set aside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Examined {
    /// It may take nothing before this, of what was aside at `log`.
    rank: Rank,
    log: u64,
}

impl Default for Examined {
    fn default() -> Self {
        Self { rank: FIRST, log: 0 }
    }
}

#[derive(Debug)]
pub(super) struct Ready {
    /// Lowest priority first.
    levels: Vec<Level>,
    aside: BTreeMap<Rank, Entry>,
    /// What was set aside, in that order, from number `log_from` on. Some may be aside no more.
    log: VecDeque<Rank>,
    log_from: u64,
    /// Times and numbers of what expires; also of some that are not here any more.
    expiries: BinaryHeap<Reverse<(Instant, u64, u8)>>,
    /// In memory or not.
    len: u64,
    bytes: u64,
    /// Messages in memory, and what they cost.
    here: u64,
    memory: u64,
}

impl Ready {
    pub(super) fn new(max_priority: Option<u8>) -> Self {
        let levels = max_priority.map_or(1, |max| max.min(PRIORITY_LEVELS - 1) + 1);
        Self {
            levels: (0..levels).map(|_| Level::default()).collect(),
            aside: BTreeMap::new(),
            log: VecDeque::new(),
            log_from: 0,
            expiries: BinaryHeap::new(),
            len: 0,
            bytes: 0,
            here: 0,
            memory: 0,
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn levels(&self) -> usize {
        self.levels.len()
    }

    /// The level of a message of this priority; without levels, all are equal.
    pub(super) fn level_of(&self, priority: Option<u8>) -> u8 {
        let top = u8::try_from(self.levels.len() - 1).unwrap_or(0);
        priority.unwrap_or(0).min(top)
    }

    /// A new message: its number is higher than all others.
    pub(super) fn push(&mut self, entry: Entry) {
        self.count_in(&entry);
        if let Some(level) = self.levels.get_mut(usize::from(entry.level)) {
            level.push(entry);
        }
    }

    /// A message that was out before. Several are best put back from the last to the first.
    pub(super) fn put_back(&mut self, entry: Entry) {
        self.count_in(&entry);
        if let Some(level) = self.levels.get_mut(usize::from(entry.level)) {
            level.put_back(entry);
        }
    }

    fn count_in(&mut self, entry: &Entry) {
        self.len += 1;
        self.bytes += u64::from(entry.size);
        self.count_here(entry);
    }

    /// It has come to be in memory.
    fn count_here(&mut self, entry: &Entry) {
        self.here += 1;
        self.memory += entry.memory();
        if let Some(expires) = entry.expires {
            self.expiries.push(Reverse((expires, entry.seq, entry.level)));
            if self.expiries.len() as u64 > 2 * self.here + 64 {
                self.rebuild_expiries();
                // The entry itself is in no level yet.
                self.expiries.push(Reverse((expires, entry.seq, entry.level)));
            }
        }
    }

    fn count_out(&mut self, entry: &Entry) {
        self.len -= 1;
        self.bytes = self.bytes.saturating_sub(u64::from(entry.size));
        self.here -= 1;
        self.memory -= entry.memory();
    }

    fn rebuild_expiries(&mut self) {
        let times: Vec<_> = self
            .in_memory()
            .filter_map(|entry| entry.expires.map(|at| Reverse((at, entry.seq, entry.level))))
            .collect();
        self.expiries = times.into();
    }

    /// The next in delivery order.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let level = self.levels.iter_mut().rev().find(|level| level.first_seq().is_some())?;
        // Nothing while the next is not in memory: what is behind it, or less urgent, waits.
        let entry = level.pop()?;
        self.count_out(&entry);
        Some(entry)
    }

    /// The one that has been in the queue longest, whatever its priority.
    pub(super) fn pop_oldest(&mut self) -> Option<Entry> {
        let oldest = self
            .levels
            .iter_mut()
            .filter_map(|level| Some((level.first_seq()?, level)))
            .min_by_key(|it| it.0);
        let first_aside = |level: u8| {
            let (rank, _) = self.aside.range((Reverse(level), 0)..=(Reverse(level), u64::MAX)).next()?;
            Some(*rank)
        };
        let aside = (0..PRIORITY_LEVELS).filter_map(first_aside).min_by_key(|(_, seq)| *seq);
        let entry = match (oldest, aside) {
            // Nothing while the oldest is not in memory.
            (Some((seq, level)), aside) if aside.is_none_or(|aside| seq < aside.1) => level.pop()?,
            (_, aside) => self.aside.remove(&aside?)?,
        };
        self.count_out(&entry);
        Some(entry)
    }

    /// Nobody at hand may take it: it stays ready, but out of the way. Its expiry is known already.
    pub(super) fn set_aside(&mut self, entry: Entry) {
        self.len += 1;
        self.bytes += u64::from(entry.size);
        self.here += 1;
        self.memory += entry.memory();
        self.log.push_back(entry.rank());
        self.aside.insert(entry.rank(), entry);
        if self.log.len() > 2 * self.aside.len() + 64 {
            self.log_from = self.log_end();
            self.log = self.aside.keys().copied().collect();
        }
    }

    fn log_end(&self) -> u64 {
        self.log_from + self.log.len() as u64
    }

    /// Takes back into the order the next of what is aside and may be taken, `most` at most. True if that is all there is.
    pub(super) fn recall(
        &mut self,
        examined: &mut Examined,
        most: u64,
        mut may_take: impl FnMut(&Entry) -> bool,
    ) -> bool {
        let log_end = self.log_end();
        if self.aside.is_empty() {
            *examined = Examined { rank: LAST, log: log_end };
            return true;
        }
        let skip = examined.log.saturating_sub(self.log_from);
        for rank in self.log.range(usize::try_from(skip).unwrap_or(usize::MAX).min(self.log.len())..) {
            examined.rank = examined.rank.min(*rank);
        }
        examined.log = log_end;
        let mut recalled = 0;
        while recalled < most {
            let next = self.aside.range(examined.rank..).find(|(_, entry)| may_take(entry));
            let Some((&rank, _)) = next else {
                examined.rank = LAST;
                return true;
            };
            examined.rank = (rank.0, rank.1 + 1);
            recalled += 1;
            if let Some(entry) = self.aside.remove(&rank)
                && let Some(level) = self.levels.get_mut(usize::from(entry.level))
            {
                level.put_back(entry);
            }
        }
        false
    }

    /// Gives memory back after a backlog. Worth a call after each batch.
    pub(super) fn tidy(&mut self) {
        self.levels.iter_mut().for_each(|level| level.tidy(ROOM_KEPT));
        let times = self.expiries.len() as u64;
        if times > ROOM_KEPT as u64 && times > 4 * self.here {
            self.rebuild_expiries();
        }
    }

    /// The next that is due, wherever it stands.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<Entry> {
        while let Some(Reverse((at, seq, level))) = self.expiries.peek().copied() {
            if at > now {
                return None;
            }
            self.expiries.pop();
            let waiting = self.levels.get_mut(usize::from(level)).and_then(|level| level.take(seq));
            if let Some(entry) = waiting.or_else(|| self.aside.remove(&(Reverse(level), seq))) {
                self.count_out(&entry);
                return Some(entry);
            }
        }
        None
    }

    // ---- pages ----

    pub(super) fn memory(&self) -> u64 {
        self.memory
    }

    pub(super) fn has_pages(&self) -> bool {
        self.levels.iter().any(Level::has_pages)
    }

    /// Takes out neighbours for a page: of the least urgent level that has enough. They stay counted.
    pub(super) fn cut(
        &mut self,
        extent: Extent,
        size: PageSize,
        head: usize,
        least: usize,
    ) -> Option<Vec<Entry>> {
        for (at, level) in self.levels.iter_mut().enumerate() {
            let cut = match level.has_pages() {
                true if level.tail_len() >= least => Cut::Tail,
                false if level.head_len() >= head.saturating_add(least) => Cut::Head { keep: head },
                _ => continue,
            };
            return self.cut_at(at, extent, cut, size);
        }
        None
    }

    /// Takes out neighbours for a page that `wanted` says must go, from wherever they stand.
    pub(super) fn cut_those(
        &mut self,
        extent: Extent,
        size: PageSize,
        wanted: impl Fn(&Entry) -> bool,
    ) -> Option<Vec<Entry>> {
        let at = self.levels.iter().position(|level| level.in_order().any(&wanted))?;
        let level = self.levels.get(at)?;
        // The head leaves from its end, so that what it leaves stands before it.
        let cut = if level.head().any(&wanted) { Cut::Head { keep: 0 } } else { Cut::Tail };
        self.cut_at(at, extent, cut, size)
    }

    fn cut_at(&mut self, at: usize, extent: Extent, cut: Cut, size: PageSize) -> Option<Vec<Entry>> {
        let name = u8::try_from(at).unwrap_or(u8::MAX);
        let entries = self.levels.get_mut(at)?.cut(extent, name, cut, size);
        for entry in &entries {
            self.here -= 1;
            self.memory -= entry.memory();
        }
        Some(entries).filter(|entries| !entries.is_empty())
    }

    pub(super) fn written(&mut self, level: u8, extent: Extent) -> bool {
        self.levels.get_mut(usize::from(level)).is_some_and(|level| level.written(extent))
    }

    /// They stay in memory after all. Those of a page that was purged meanwhile are given back.
    pub(super) fn not_written(&mut self, level: u8, extent: Extent, entries: Vec<Entry>) -> Vec<Entry> {
        let there = self.levels.get(usize::from(level)).is_some_and(|level| level.has_page(extent));
        if !there {
            return entries;
        }
        entries.iter().for_each(|entry| self.count_here(entry));
        match self.levels.get_mut(usize::from(level)) {
            Some(level) => level.not_written(extent, entries),
            None => entries,
        }
    }

    /// The page to read next: of the most urgent level whose head is short.
    pub(super) fn want(&mut self, low: usize) -> Option<Extent> {
        self.levels.iter_mut().rev().find_map(|level| level.want(low))
    }

    /// A page was read. False if it is not wanted any more.
    pub(super) fn arrived(&mut self, extent: Extent, entries: Vec<Entry>) -> bool {
        let Some((at, page)) =
            self.levels.iter_mut().enumerate().find_map(|(at, level)| Some((at, level.arrived(extent)?)))
        else {
            return false;
        };
        self.len -= u64::from(page.count);
        self.bytes = self.bytes.saturating_sub(page.bytes);
        for entry in entries {
            self.count_in(&entry);
            if let Some(level) = self.levels.get_mut(at) {
                level.push_arrived(entry);
            }
        }
        if let Some(level) = self.levels.get_mut(at) {
            level.join();
        }
        true
    }

    pub(super) fn has_page(&self, extent: Extent) -> bool {
        self.levels.iter().any(|level| level.has_page(extent))
    }

    pub(super) fn not_read(&mut self, extent: Extent) {
        self.levels.iter_mut().for_each(|level| level.not_read(extent));
    }

    /// The pages, which count no more.
    pub(super) fn take_pages(&mut self) -> Vec<Paged> {
        let taken: Vec<Paged> = self.levels.iter_mut().flat_map(Level::take_pages).collect();
        for Paged { page, .. } in &taken {
            self.len -= u64::from(page.count);
            self.bytes = self.bytes.saturating_sub(page.bytes);
        }
        taken
    }

    pub(super) fn restore_page(&mut self, page: Page) {
        let at = usize::from(page.level).min(self.levels.len() - 1);
        self.len += u64::from(page.count);
        self.bytes += page.bytes;
        if let Some(level) = self.levels.get_mut(at) {
            level.restore_page(page);
        }
    }

    pub(super) fn restore(&mut self, entry: Entry) {
        self.count_in(&entry);
        if let Some(level) = self.levels.get_mut(usize::from(entry.level)) {
            level.restore(entry);
        }
    }

    /// The messages pushed last, from the number on.
    pub(super) fn newest(&mut self, from: u64) -> impl Iterator<Item = &mut Entry> {
        self.levels.iter_mut().flat_map(move |level| level.newest(from))
    }

    pub(super) fn in_memory_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.levels.iter_mut().flat_map(Level::in_memory_mut).chain(self.aside.values_mut())
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.expiries.peek().map(|Reverse((at, _, _))| *at)
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.levels.iter().map(Level::capacity).sum()
    }

    #[cfg(test)]
    pub(super) fn aside_len(&self) -> usize {
        self.aside.len()
    }

    #[cfg(test)]
    pub(super) fn expiries_len(&self) -> usize {
        self.expiries.len()
    }

    /// What is in memory before the first page of its level, in delivery order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        (0..self.levels.len()).rev().flat_map(|level| self.iter_level(level, 0))
    }

    /// One level's messages with a number of at least `from`, in order.
    pub(super) fn iter_level(&self, level: usize, from: u64) -> impl Iterator<Item = &Entry> {
        let name = u8::try_from(level).unwrap_or(u8::MAX);
        let aside = self.aside.range((Reverse(name), from)..=(Reverse(name), u64::MAX));
        let waiting = self.levels.get(level).into_iter().flat_map(move |level| level.iter_from(from));
        merged(waiting, aside.map(|(_, entry)| entry))
    }

    pub(super) fn in_memory(&self) -> impl Iterator<Item = &Entry> {
        self.levels.iter().flat_map(Level::in_memory).chain(self.aside.values())
    }

    /// Empties it, in delivery order. Pages must have been taken out before.
    pub(super) fn drain(&mut self) -> Vec<Entry> {
        self.recall(&mut Examined::default(), u64::MAX, |_| true);
        self.expiries = BinaryHeap::new();
        std::iter::from_fn(|| self.pop()).collect()
    }
}
