//! The messages of one priority that wait: the head in memory, neighbours on disk behind it, what came last in memory again.
//!
//! New messages stand in a deque, sorted because sequence numbers only grow. A message that comes back goes to its front
//! if it is older than all, else to a small sorted map beside it. While there are pages, new messages go behind them.
//!
//! Never: reads or writes a page; that is asked for and told.

use std::collections::{BTreeMap, VecDeque};

use super::ready::Entry;
use crate::engine::{Extent, Gone, Page};

/// A place in a deque. Taking a message from the middle leaves its number, so that the deque stays sorted.
#[derive(Debug)]
enum Place {
    Live(Entry),
    Gone(u64),
}

impl Place {
    fn seq(&self) -> u64 {
        match self {
            Self::Live(entry) => entry.seq,
            Self::Gone(seq) => *seq,
        }
    }

    fn live(&self) -> Option<&Entry> {
        match self {
            Self::Live(entry) => Some(entry),
            Self::Gone(_) => None,
        }
    }
}

/// Messages in the order of their numbers, with holes. The first place, if any, is live.
#[derive(Debug, Default)]
pub(super) struct Places {
    deque: VecDeque<Place>,
    gone: usize,
}

impl Places {
    pub(super) fn len(&self) -> usize {
        self.deque.len() - self.gone
    }

    fn is_empty(&self) -> bool {
        self.deque.is_empty()
    }

    fn first_seq(&self) -> Option<u64> {
        self.deque.front().map(Place::seq)
    }

    fn push_back(&mut self, entry: Entry) {
        self.deque.push_back(Place::Live(entry));
    }

    fn pop_front(&mut self) -> Option<Entry> {
        match self.deque.pop_front() {
            Some(Place::Live(entry)) => {
                if self.gone > 0 {
                    self.trim();
                }
                Some(entry)
            }
            Some(Place::Gone(_)) | None => None,
        }
    }

    fn last(&self) -> Option<&Entry> {
        self.deque.iter().rev().find_map(Place::live)
    }

    fn pop_back(&mut self) -> Option<Entry> {
        loop {
            match self.deque.pop_back()? {
                Place::Live(entry) => return Some(entry),
                Place::Gone(_) => self.gone -= 1,
            }
        }
    }

    fn take(&mut self, seq: u64) -> Option<Entry> {
        let at = self.deque.binary_search_by_key(&seq, Place::seq).ok()?;
        let place = self.deque.get_mut(at).filter(|place| place.live().is_some())?;
        let Place::Live(entry) = std::mem::replace(place, Place::Gone(seq)) else { return None };
        self.gone += 1;
        self.trim();
        Some(entry)
    }

    /// Keeps the front live and the gone places fewer than the live ones.
    fn trim(&mut self) {
        while let Some(Place::Gone(_)) = self.deque.front() {
            self.deque.pop_front();
            self.gone -= 1;
        }
        if self.gone > 64 && self.gone > self.deque.len() / 2 {
            self.deque.retain(|place| place.live().is_some());
            self.gone = 0;
        }
    }

    fn iter_from(&self, from: u64) -> impl Iterator<Item = &Entry> {
        let start = self.deque.partition_point(|place| place.seq() < from);
        self.deque.range(start..).filter_map(Place::live)
    }

    /// Those with a number of at least `from`, the last first.
    fn newest(&mut self, from: u64) -> impl Iterator<Item = &mut Entry> {
        self.deque.iter_mut().rev().take_while(move |place| place.seq() >= from).filter_map(|place| {
            match place {
                Place::Live(entry) => Some(entry),
                Place::Gone(_) => None,
            }
        })
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.newest(0)
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.deque.capacity()
    }

    /// Gives memory back, if the deque has become short.
    fn tidy(&mut self, kept: usize) {
        let capacity = self.deque.capacity();
        if capacity > kept && self.deque.len() < capacity / 8 {
            self.deque.shrink_to(capacity / 2);
        }
    }
}

/// How far a page is.
#[derive(Debug)]
pub(super) enum Stage {
    /// It is being written; where its messages stand until then.
    Leaving(Vec<Gone>),
    OnDisk,
    /// It is being read.
    Coming,
}

/// Neighbours that are not in memory.
#[derive(Debug)]
pub(super) struct Paged {
    pub(super) page: Page,
    pub(super) stage: Stage,
}

/// Where a page is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// From the end of the head, down to so many messages.
    Head { keep: usize },
    /// From the front of what stands behind the pages.
    Tail,
}

/// How large a page gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSize {
    pub messages: usize,
    pub bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Level {
    fresh: Places,
    returned: BTreeMap<u64, Entry>,
    /// Behind `fresh`, in order.
    pages: VecDeque<Paged>,
    /// Behind `pages`; empty while there are none.
    tail: Places,
}

impl Level {
    /// The number of the first message, in memory or not.
    pub(super) fn first_seq(&self) -> Option<u64> {
        let fresh = self.fresh.first_seq().or_else(|| self.first_paged());
        match self.returned.first_key_value() {
            None => fresh,
            Some((&returned, _)) => Some(fresh.map_or(returned, |fresh| fresh.min(returned))),
        }
    }

    fn first_paged(&self) -> Option<u64> {
        self.pages.front().map(|paged| paged.page.first.0)
    }

    /// `None` also while the next is not in memory.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let next = self.fresh.first_seq().or_else(|| self.first_paged());
        if let Some(first) = self.returned.first_entry()
            && next.is_none_or(|next| *first.key() < next)
        {
            return Some(first.remove());
        }
        self.fresh.pop_front()
    }

    pub(super) fn push(&mut self, entry: Entry) {
        let places = if self.pages.is_empty() { &mut self.fresh } else { &mut self.tail };
        places.push_back(entry);
    }

    pub(super) fn put_back(&mut self, entry: Entry) {
        let next = self.fresh.first_seq().or_else(|| self.first_paged());
        if next.is_none_or(|next| entry.seq < next) {
            self.fresh.deque.push_front(Place::Live(entry));
        } else {
            self.returned.insert(entry.seq, entry);
        }
    }

    /// `None` also if it is not in memory.
    pub(super) fn take(&mut self, seq: u64) -> Option<Entry> {
        if let Some(entry) = self.returned.remove(&seq) {
            return Some(entry);
        }
        self.fresh.take(seq).or_else(|| self.tail.take(seq))
    }

    /// Those in memory before the first page, with a number of at least `from`, in order.
    pub(super) fn iter_from(&self, from: u64) -> impl Iterator<Item = &Entry> {
        let end = self.first_paged().unwrap_or(u64::MAX);
        merged(self.fresh.iter_from(from), self.returned.range(from.min(end)..end).map(|(_, entry)| entry))
    }

    /// All in memory, in no order.
    pub(super) fn in_memory(&self) -> impl Iterator<Item = &Entry> {
        self.fresh.iter_from(0).chain(self.tail.iter_from(0)).chain(self.returned.values())
    }

    pub(super) fn in_memory_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.fresh.iter_mut().chain(self.tail.iter_mut()).chain(self.returned.values_mut())
    }

    /// The messages pushed last, from the number on.
    pub(super) fn newest(&mut self, from: u64) -> impl Iterator<Item = &mut Entry> {
        self.tail.newest(from).chain(self.fresh.newest(from))
    }

    /// What could be cut off, in memory and in order.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &Entry> {
        self.fresh.iter_from(0).chain(self.tail.iter_from(0))
    }

    pub(super) fn head(&self) -> impl Iterator<Item = &Entry> {
        self.fresh.iter_from(0)
    }

    // ---- pages ----

    pub(super) fn has_page(&self, extent: Extent) -> bool {
        self.position(extent).is_some()
    }

    pub(super) fn has_pages(&self) -> bool {
        !self.pages.is_empty()
    }

    pub(super) fn head_len(&self) -> usize {
        self.fresh.len()
    }

    pub(super) fn tail_len(&self) -> usize {
        self.tail.len()
    }

    /// Restores a page found on disk; they come in order, before anything else.
    pub(super) fn restore_page(&mut self, page: Page) {
        self.pages.push_back(Paged { page, stage: Stage::OnDisk });
    }

    /// A message found in the journal, in order: those before the pages make the head; those among them had been out.
    pub(super) fn restore(&mut self, entry: Entry) {
        let (first, last) = (self.first_paged(), self.pages.back().map(|paged| paged.page.last.0));
        if first.is_none_or(|first| entry.seq < first) {
            self.fresh.push_back(entry);
        } else if last.is_some_and(|last| entry.seq > last) {
            self.tail.push_back(entry);
        } else {
            self.returned.insert(entry.seq, entry);
        }
    }

    /// Takes out neighbours for a page; a placeholder stands for them.
    pub(super) fn cut(&mut self, extent: Extent, name: u8, cut: Cut, size: PageSize) -> Vec<Entry> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while entries.len() < size.messages && bytes < size.bytes {
            let entry = match cut {
                Cut::Head { keep } if self.fresh.len() <= keep => None,
                // A message stands in one page at most: what came from one stays until it is wanted.
                Cut::Head { .. } if self.fresh.last().is_some_and(|entry| entry.kept.is_page()) => None,
                Cut::Head { .. } => self.fresh.pop_back(),
                Cut::Tail => self.tail.pop_front(),
            };
            let Some(entry) = entry else { break };
            bytes += u64::from(entry.size);
            entries.push(entry);
        }
        if matches!(cut, Cut::Head { .. }) {
            entries.reverse();
            self.fresh.trim();
        }
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return entries };
        let page = Page {
            extent,
            level: name,
            first: crate::DeliveryTag(first.seq),
            last: crate::DeliveryTag(last.seq),
            count: u32::try_from(entries.len()).unwrap_or(u32::MAX),
            bytes,
        };
        let stage = Stage::Leaving(entries.iter().map(Entry::gone).collect());
        match cut {
            Cut::Head { .. } => self.pages.push_front(Paged { page, stage }),
            Cut::Tail => self.pages.push_back(Paged { page, stage }),
        }
        entries
    }

    fn position(&self, extent: Extent) -> Option<usize> {
        self.pages.iter().position(|paged| paged.page.extent == extent)
    }

    /// A page is written. False if it was purged meanwhile.
    pub(super) fn written(&mut self, extent: Extent) -> bool {
        let at = self.position(extent);
        match at.and_then(|at| self.pages.get_mut(at)) {
            Some(paged) => {
                paged.stage = Stage::OnDisk;
                true
            }
            None => false,
        }
    }

    /// A page could not be written: its messages stay in memory. Gives them back if the page was purged meanwhile.
    pub(super) fn not_written(&mut self, extent: Extent, entries: Vec<Entry>) -> Vec<Entry> {
        let Some(at) = self.position(extent) else { return entries };
        self.pages.remove(at);
        if at == 0 {
            entries.into_iter().for_each(|entry| self.fresh.push_back(entry));
            self.join();
        } else if at == self.pages.len() {
            entries.into_iter().rev().for_each(|entry| self.tail.deque.push_front(Place::Live(entry)));
        } else {
            // Pages before and behind it: they wait beside them, in their places.
            self.returned.extend(entries.into_iter().map(|entry| (entry.seq, entry)));
        }
        Vec::new()
    }

    /// The page to read next, when the head is shorter than `low`.
    pub(super) fn want(&mut self, low: usize) -> Option<Extent> {
        if self.fresh.len() >= low {
            return None;
        }
        let paged = self.pages.front_mut().filter(|paged| matches!(paged.stage, Stage::OnDisk))?;
        paged.stage = Stage::Coming;
        Some(paged.page.extent)
    }

    /// The first page is there. `None` if it is not the one (purged meanwhile).
    pub(super) fn arrived(&mut self, extent: Extent) -> Option<Page> {
        let paged = self.pages.front().filter(|paged| paged.page.extent == extent)?;
        debug_assert!(matches!(paged.stage, Stage::Coming));
        self.pages.pop_front().map(|paged| paged.page)
    }

    /// Behind what arrived; the caller calls `join` when it has all.
    pub(super) fn push_arrived(&mut self, entry: Entry) {
        self.fresh.push_back(entry);
    }

    /// With no page between them, head and tail are one.
    pub(super) fn join(&mut self) {
        if self.pages.is_empty() && !self.tail.is_empty() {
            if self.fresh.is_empty() {
                std::mem::swap(&mut self.fresh, &mut self.tail);
            } else {
                self.fresh.gone += std::mem::take(&mut self.tail.gone);
                self.fresh.deque.append(&mut self.tail.deque);
            }
        }
    }

    /// Reading it failed: it can be asked for again.
    pub(super) fn not_read(&mut self, extent: Extent) {
        let at = self.position(extent);
        if let Some(paged) = at.and_then(|at| self.pages.get_mut(at)) {
            paged.stage = Stage::OnDisk;
        }
    }

    pub(super) fn take_pages(&mut self) -> VecDeque<Paged> {
        let pages = std::mem::take(&mut self.pages);
        self.join();
        pages
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.fresh.capacity() + self.tail.capacity()
    }

    pub(super) fn tidy(&mut self, kept: usize) {
        self.fresh.tidy(kept);
        self.tail.tidy(kept);
    }
}

/// Two sorted sequences as one.
pub(super) fn merged<'e>(
    one: impl Iterator<Item = &'e Entry>,
    other: impl Iterator<Item = &'e Entry>,
) -> impl Iterator<Item = &'e Entry> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some(left), Some(right)) if right.seq < left.seq => other.next(),
        (Some(_), _) => one.next(),
        (None, _) => other.next(),
    })
}
