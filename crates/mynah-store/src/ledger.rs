//! What the store knows of each queue beside its messages: how far it was delivered, what was noted, its pages.
//!
//! It follows the records in the order of the journal. At the start of each file of the journal it is written down again, so that an
//! older file can go.
//!
//! Never: reads or writes.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use mynah_core::DeliveryTag;
use mynah_core::engine::{Extent, Gone, Page, QueueNumber, RecordRef, Records, TagSet};

/// A page that exists.
#[derive(Debug, Default)]
pub(crate) struct PageState {
    pub(crate) level: u8,
    pub(crate) first: DeliveryTag,
    pub(crate) last: DeliveryTag,
    /// Messages in it that count.
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    pub(crate) settled: TagSet,
    pub(crate) attempts: HashMap<DeliveryTag, u32>,
    /// It is from an earlier life: what was not durable in it is gone.
    pub(crate) recovered: bool,
}

impl PageState {
    pub(crate) fn page(&self, extent: Extent) -> Page {
        Page {
            extent,
            level: self.level,
            first: self.first,
            last: self.last,
            count: u32::try_from(self.count.saturating_sub(self.settled.len())).unwrap_or(u32::MAX),
            bytes: self.bytes,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct QueueState {
    pub(crate) delivered: DeliveryTag,
    pub(crate) notes: BTreeMap<u32, Bytes>,
    pub(crate) pages: BTreeMap<u32, PageState>,
}

/// What follows from a record, once it is safe.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Unlink(QueueNumber, u32),
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) queues: HashMap<QueueNumber, QueueState>,
}

impl Ledger {
    /// Takes note of a record. Messages and keyed state are not its business.
    pub(crate) fn apply(&mut self, record: &RecordRef<'_>, then: &mut Vec<Then>) {
        match record {
            RecordRef::Settled { queue, page: Some(page), runs } => {
                self.settle(*queue, page.number(), runs, then);
            }
            RecordRef::Attempts { queue, tag, attempts } => {
                let Some(state) = self.queues.get_mut(queue) else { return };
                let within = |page: &&mut PageState| (page.first..=page.last).contains(tag);
                if let Some(page) = state.pages.values_mut().find(within) {
                    page.attempts.insert(*tag, *attempts);
                }
            }
            RecordRef::Delivered { queue, upto } => {
                let state = self.queues.entry(*queue).or_default();
                state.delivered = state.delivered.max(*upto);
            }
            RecordRef::Note { queue, key, value } => {
                let notes = &mut self.queues.entry(*queue).or_default().notes;
                match value {
                    Some(value) => notes.insert(*key, Bytes::copy_from_slice(value)),
                    None => notes.remove(key),
                };
            }
            RecordRef::PageDropped { queue, page } => {
                let state = self.queues.get_mut(queue);
                if state.is_some_and(|state| state.pages.remove(&page.number()).is_some()) {
                    then.push(Then::Unlink(*queue, page.number()));
                }
            }
            RecordRef::QueueDropped { queue } => {
                if let Some(state) = self.queues.remove(queue) {
                    then.extend(state.pages.keys().map(|page| Then::Unlink(*queue, *page)));
                }
            }
            RecordRef::Message { .. }
            | RecordRef::Copy { .. }
            | RecordRef::Settled { page: None, .. }
            | RecordRef::Paged { .. }
            | RecordRef::Put { .. }
            | RecordRef::Delete { .. } => {}
        }
    }

    fn settle(&mut self, queue: QueueNumber, page: u32, runs: &[(DeliveryTag, u64)], then: &mut Vec<Then>) {
        let Some(state) = self.queues.get_mut(&queue) else { return };
        let Some(known) = state.pages.get_mut(&page) else { return };
        for (first, count) in runs {
            let last = DeliveryTag(first.0 + count.saturating_sub(1));
            known.settled.insert_range(*first, last);
            known.attempts.retain(|tag, _| !(*first..=last).contains(tag));
        }
        if known.settled.len() >= known.count {
            state.pages.remove(&page);
            then.push(Then::Unlink(queue, page));
        }
    }

    /// Everything again, for the start of a file.
    pub(crate) fn checkpoint(&self, records: &mut Records) {
        for (queue, state) in &self.queues {
            if state.delivered > DeliveryTag(0) {
                records.delivered(*queue, state.delivered);
            }
            for (key, value) in &state.notes {
                records.note(*queue, *key, Some(value));
            }
            for (number, page) in &state.pages {
                let extent = Extent::page(*number);
                let mut gone: Vec<Gone> = Vec::new();
                for (first, last) in page.settled.ranges() {
                    gone.extend((first.0..=last.0).map(|tag| Gone { extent, tag: DeliveryTag(tag) }));
                }
                records.settled(*queue, &mut gone);
                for (tag, attempts) in &page.attempts {
                    records.attempts(*queue, *tag, *attempts);
                }
            }
        }
    }
}
