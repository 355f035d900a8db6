//! What a queue has to do with a disk: what it tells of its messages, and which of them are not in memory.
//!
//! The machine says what has changed ([`Facts`]); the broker turns that into records. It gives neighbours away to be written to a
//! page and takes them back when the head gets short.
//!
//! Never: does any of it itself.

use std::sync::Arc;

use super::Queue;
use super::level::{PageSize, Stage};
use super::ready::Entry;
use crate::delivery::DeliveryTag;
use crate::engine::{EntryState, Extent, Gone, QueueNumber, Records, RecoveredQueue, StoredEntry};
use crate::limits::{HEAD_MESSAGES, HEAD_MESSAGES_LOW, PAGE_BYTES, PAGE_MESSAGES};
use crate::message::Message;

const SIZE: PageSize = PageSize { messages: PAGE_MESSAGES, bytes: PAGE_BYTES };

/// Messages for which a page of their own is worth it when the journal wants them out; fewer are appended again.
const MOVED_BY_PAGE_MIN: usize = 64;

/// What has happened to messages that are kept on disk.
#[derive(Debug, Default)]
pub struct Facts {
    /// Durable messages are written down as they come. Otherwise only what is in pages is told of.
    pub(super) keeps: bool,
    pub(super) gone: Vec<Gone>,
    pub(super) attempts: Vec<(DeliveryTag, u32)>,
    /// The highest tag handed to a consumer, and whether that is news.
    delivered: u64,
    delivered_is_new: bool,
    pages_dropped: Vec<Extent>,
}

impl Facts {
    pub(super) fn hand_over(&mut self, seq: u64) {
        if seq > self.delivered {
            self.delivered = seq;
            self.delivered_is_new = true;
        }
    }

    fn is_empty(&self) -> bool {
        self.gone.is_empty()
            && self.attempts.is_empty()
            && self.pages_dropped.is_empty()
            && !self.delivered_is_new
    }
}

/// Neighbours on their way to a page. Must be given back by [`Queue::paged`] or [`Queue::not_paged`].
#[derive(Debug)]
pub struct Outgoing {
    pub extent: Extent,
    pub level: u8,
    entries: Vec<Entry>,
}

impl Outgoing {
    #[must_use]
    pub fn stored(&self) -> Vec<StoredEntry> {
        self.entries.iter().map(Entry::stored).collect()
    }
}

impl<S> Queue<S> {
    /// From now on it tells what happens to its durable messages.
    pub fn keep_facts(&mut self) {
        self.facts.get_or_insert_default().keeps = true;
    }

    /// Whether it does.
    #[must_use]
    pub fn keeps_facts(&self) -> bool {
        self.facts.as_ref().is_some_and(|facts| facts.keeps)
    }

    /// Numbers begin behind this one.
    pub fn begin_behind(&mut self, tag: DeliveryTag) {
        self.last_seq = self.last_seq.max(tag.0);
    }

    /// Takes in what was found on disk, into an empty queue.
    pub fn restore(&mut self, found: RecoveredQueue) {
        self.begin_behind(found.last_tag);
        for page in found.pages {
            self.ready.restore_page(page);
        }
        for (stored, extent) in found.entries {
            let entry = self.entry(stored, extent);
            self.ready.restore(entry);
        }
    }

    fn entry(&self, stored: StoredEntry, kept: Extent) -> Entry {
        let StoredEntry { tag, message, wire, attempts, redelivered, durable } = stored;
        Entry {
            seq: tag.0,
            level: self.ready.level_of(message.header.priority),
            expires: self.expires(message.received, &message),
            size: u32::try_from(message.size()).unwrap_or(u32::MAX),
            message,
            wire,
            publisher: 0,
            attempts,
            redelivered,
            avoids: false,
            durable,
            kept,
        }
    }

    /// The messages pushed behind `tag` are kept by this extent now.
    pub fn stamp(&mut self, tag: DeliveryTag, extent: Extent) {
        let news = self.ready.newest(tag.0 + 1);
        news.filter(|entry| entry.kept == Extent::PENDING).for_each(|entry| entry.kept = extent);
        if let Some(facts) = &mut self.facts {
            let pending = facts.gone.iter_mut().filter(|gone| gone.extent == Extent::PENDING);
            pending.for_each(|gone| gone.extent = extent);
        }
    }

    /// The durable messages pushed behind `tag` that are still here, oldest first. `each` answers where a message stands if
    /// it stands somewhere already; of the others [`Queue::stamp`] says it.
    pub fn for_each_new(
        &mut self,
        tag: DeliveryTag,
        mut each: impl FnMut(DeliveryTag, EntryState<'_>, &Arc<Message>) -> Option<Extent>,
    ) {
        let mut news: Vec<&mut Entry> =
            self.ready.newest(tag.0 + 1).filter(|entry| entry.kept == Extent::PENDING).collect();
        news.sort_unstable_by_key(|entry| entry.seq);
        for entry in news {
            if let Some(extent) = each(DeliveryTag(entry.seq), entry.state(), &entry.message) {
                entry.kept = extent;
            }
        }
    }

    /// Whether [`Queue::tell`] has something to write down.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.facts.as_ref().is_some_and(|facts| !facts.is_empty())
    }

    /// Writes down what has happened since the last time. False if there was nothing.
    pub fn tell(&mut self, number: QueueNumber, records: &mut Records) -> bool {
        let Some(facts) = self.facts.as_deref_mut().filter(|facts| !facts.is_empty()) else { return false };
        if !facts.gone.is_empty() {
            records.settled(number, &mut facts.gone);
            facts.gone.clear();
        }
        for (tag, attempts) in facts.attempts.drain(..) {
            records.attempts(number, tag, attempts);
        }
        for page in facts.pages_dropped.drain(..) {
            records.page_dropped(number, page);
        }
        if std::mem::take(&mut facts.delivered_is_new) {
            records.delivered(number, DeliveryTag(facts.delivered));
        }
        true
    }

    /// The queue is being deleted: what it held on disk is given back.
    pub fn tell_dropped(&mut self, number: QueueNumber, records: &mut Records) {
        let Some(facts) = self.facts.as_deref_mut() else { return };
        for gone in facts.gone.drain(..) {
            if !gone.extent.is_page() {
                records.release(gone.extent, 1);
            }
        }
        facts.pages_dropped.clear();
        facts.attempts.clear();
        facts.delivered_is_new = false;
        records.queue_dropped(number);
    }

    // ---- memory ----

    /// Bytes that its messages cost in memory, about.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.ready.memory() + self.unsettled.memory()
    }

    /// Whether some of its messages are not in memory.
    #[must_use]
    pub fn has_pages(&self) -> bool {
        self.ready.has_pages()
    }

    /// Gives away neighbours that will not be wanted soon: a whole page, or with `any` what there is.
    pub fn cut_page(&mut self, extent: Extent, any: bool) -> Option<Outgoing> {
        // From now on there is something to tell even of a queue that is not kept.
        self.facts.get_or_insert_default();
        let (head, least) = if any { (0, 1) } else { (HEAD_MESSAGES, PAGE_MESSAGES) };
        let entries = self.ready.cut(extent, SIZE, head, least).or_else(|| {
            // Large messages fill a page and memory sooner.
            let large = self.ready.memory() > PAGE_BYTES * 8 && !any;
            large.then(|| self.ready.cut(extent, SIZE, 256, 64)).flatten()
        })?;
        Some(outgoing(extent, entries))
    }

    /// Gives away neighbours because the extent that holds them is to be given back. `None` if there are too few to be
    /// worth a page: see [`Queue::for_each_held`].
    pub fn cut_held(&mut self, extent: Extent, held: Extent) -> Option<Outgoing> {
        let those = |entry: &Entry| entry.kept == held;
        let many = self.ready.in_memory().filter(|entry| those(entry)).nth(MOVED_BY_PAGE_MIN - 1).is_some();
        if !many {
            return None;
        }
        Some(outgoing(extent, self.ready.cut_those(extent, SIZE, those)?))
    }

    /// The page is written and holds them now.
    pub fn paged(&mut self, outgoing: Outgoing, number: QueueNumber, records: &mut Records) {
        let Outgoing { extent, level, entries } = outgoing;
        if self.ready.written(level, extent) {
            records.paged(number, extent, entries.iter().map(|entry| DeliveryTag(entry.seq)));
            for entry in &entries {
                records.release(entry.kept, 1);
            }
        } else if let Some(facts) = &mut self.facts {
            // Purged while it was written. That they are gone has been told.
            facts.pages_dropped.push(extent);
        }
    }

    /// The page could not be written.
    pub fn not_paged(&mut self, outgoing: Outgoing) {
        let Outgoing { extent, level, entries } = outgoing;
        // What is given back was purged meanwhile and is told.
        drop(self.ready.not_written(level, extent, entries));
    }

    /// The page to read next, if somebody waits for messages or the oldest must go.
    pub fn want_page(&mut self) -> Option<Extent> {
        if !self.ready.has_pages() {
            return None;
        }
        let wanted = self.usable_credit > 0 || !self.browsers.is_empty() || self.is_over();
        if !wanted {
            return None;
        }
        self.ready.want(HEAD_MESSAGES_LOW)
    }

    fn is_over(&self) -> bool {
        self.spec.overflow == super::Overflow::DropHead && self.exceeds(0, 0)
    }

    /// A page was read.
    pub fn page_arrived(&mut self, extent: Extent, found: Vec<StoredEntry>) {
        let keeps = self.keeps_facts();
        let kept = if keeps { extent } else { Extent::NONE };
        let entries: Vec<Entry> = found.into_iter().map(|stored| self.entry(stored, kept)).collect();
        let wanted = self.ready.arrived(extent, entries);
        if let (Some(facts), true) = (&mut self.facts, wanted && !keeps) {
            // Nobody will look for it after a restart.
            facts.pages_dropped.push(extent);
        }
    }

    /// A page could not be read. It may be asked for again.
    pub fn page_not_read(&mut self, extent: Extent) {
        self.ready.not_read(extent);
    }

    pub(super) fn drop_pages(&mut self) {
        let pages = self.ready.take_pages();
        let Some(facts) = &mut self.facts else { return };
        for paged in pages {
            // Whether the page or the journal is read after a crash, they must not come back.
            if let Stage::Leaving(gone) = paged.stage {
                facts.gone.extend(gone);
            } else {
                facts.pages_dropped.push(paged.page.extent);
            }
        }
    }

    /// How many of its messages an extent holds that are in memory.
    #[must_use]
    pub fn holds(&self, held: Extent) -> usize {
        let all = self.ready.in_memory().chain(self.unsettled.iter());
        all.filter(|entry| entry.kept == held).count()
    }

    /// The messages in memory that an extent holds, to be appended again; [`Queue::moved`] says where they went.
    pub fn for_each_held(
        &self,
        held: Extent,
        mut each: impl FnMut(DeliveryTag, EntryState<'_>, &Arc<Message>),
    ) {
        let all = self.ready.in_memory().chain(self.unsettled.iter());
        for entry in all.filter(|entry| entry.kept == held) {
            each(DeliveryTag(entry.seq), entry.state(), &entry.message);
        }
    }

    /// What `held` held, others hold now.
    pub fn moved(&mut self, held: Extent, to: impl Fn(DeliveryTag) -> Extent) {
        let all = self.ready.in_memory_mut().chain(self.unsettled.iter_mut());
        all.filter(|entry| entry.kept == held).for_each(|entry| entry.kept = to(DeliveryTag(entry.seq)));
    }

    /// Whether some of its messages are in this page.
    #[must_use]
    pub fn holds_page(&self, extent: Extent) -> bool {
        self.ready.has_page(extent)
    }
}

fn outgoing(extent: Extent, entries: Vec<Entry>) -> Outgoing {
    let level = entries.first().map_or(0, |entry| entry.level);
    Outgoing { extent, level, entries }
}
