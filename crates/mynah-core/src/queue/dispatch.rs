//! From ready to consumers: whose turn it is takes the next message, and everybody touched gets one batch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::consumer::Consumer;
use super::ready::Entry;
use super::ring::Verdict;
use super::{Effect, Queue};
use crate::delivery::{Delivery, DeliveryTag};
use crate::hash::FastMap;
use crate::message::Cause;

/// Vectors for deliveries that are kept for the next dispatch, and how large they may be.
const SPARE_MAX: usize = 8;
const SPARE_CAPACITY_MAX: usize = 1024;

/// Whether a message may go to a consumer, credit aside.
pub(super) fn may_take<S>(
    consumer: &Consumer<S>,
    entry: &Entry,
    avoiding: &FastMap<u64, VecDeque<u64>>,
) -> bool {
    if consumer.terms.no_local == Some(entry.publisher) {
        return false;
    }
    !entry.avoids || !avoiding.get(&entry.seq).is_some_and(|serials| serials.contains(&consumer.serial))
}

impl<S> Queue<S> {
    /// Delivers what credit allows: one message at a time in turn, but collected, so that `hand_over` is called once for each
    /// consumer touched. It drains the vector; what it leaves is dropped.
    ///
    /// Expired messages met on the way are dead-lettered. Drains end here: [`Effect::Drained`] stands for "after the
    /// deliveries handed over now".
    pub fn dispatch(
        &mut self,
        now: Instant,
        effects: &mut Vec<Effect>,
        mut hand_over: impl FnMut(&S, &mut Vec<Delivery>),
    ) {
        if !self.browsers.is_empty() {
            self.browse(now);
        }
        while self.usable_credit > 0 {
            let Some(entry) = self.ready.pop() else { break };
            // Not what expires this very moment: a time to live of 0 means "at once or never".
            if entry.expires.is_some_and(|at| at < now) {
                self.seek_on(&entry, None);
                self.dead_letter(entry, Cause::Expired, None, effects);
                continue;
            }
            match self.whose_turn(&entry) {
                Some(slot) => {
                    self.seek_on(&entry, Some(slot));
                    self.deliver(slot, entry);
                }
                None => self.ready.set_aside(entry),
            }
        }
        for slot in self.touched.drain(..) {
            let Some(consumer) = self.consumers.get_mut(slot) else { continue };
            let mut batch = std::mem::take(&mut consumer.batch);
            if let Some(sink) = &consumer.sink {
                hand_over(sink, &mut batch);
            }
            batch.clear();
            if self.spare.len() < SPARE_MAX && batch.capacity() <= SPARE_CAPACITY_MAX {
                self.spare.push(batch);
            }
        }
        self.end_drains(effects);
        self.drop_excess(effects);
        self.ready.tidy();
    }

    fn whose_turn(&mut self, entry: &Entry) -> Option<u32> {
        let Self { ring, consumers, avoiding, .. } = self;
        ring.next(|slot| {
            let Some(consumer) = consumers.get_mut(slot) else { return Verdict::NoCredit };
            if consumer.counted == 0 {
                consumer.in_ring = false;
                Verdict::NoCredit
            } else if may_take(consumer, entry, avoiding) {
                Verdict::Takes
            } else {
                Verdict::Refuses
            }
        })
    }

    /// A message is gone, perhaps to `taker`: others who could have taken it and know of more aside look for the next.
    pub(super) fn seek_on(&mut self, entry: &Entry, taker: Option<u32>) {
        if self.seekers.is_empty() {
            return;
        }
        for slot in std::mem::take(&mut self.seekers) {
            let Some(consumer) = self.consumers.get(slot) else { continue };
            if !consumer.seeks || !consumer.in_ring || consumer.counted == 0 {
                continue;
            }
            if taker != Some(slot) && may_take(consumer, entry, &self.avoiding) {
                self.seek(slot, 1);
            } else {
                self.seekers.push(slot);
            }
        }
    }

    fn deliver(&mut self, slot: u32, mut entry: Entry) {
        let remaining = u32::try_from(self.ready.len()).unwrap_or(u32::MAX);
        let Some(consumer) = self.consumers.get_mut(slot) else { return };
        let settled = consumer.settled();
        if consumer.batch.is_empty() {
            self.touched.push(slot);
            if consumer.batch.capacity() == 0
                && let Some(spare) = self.spare.pop()
            {
                consumer.batch = spare;
            }
        }
        consumer.spend();
        let delivery = |message, wire| Delivery {
            consumer: consumer.key.consumer,
            tag: DeliveryTag(entry.seq),
            message,
            attempts: entry.attempts,
            redelivered: entry.redelivered,
            settled,
            remaining,
            wire,
        };
        if settled {
            let (avoids, gone) = (entry.avoids.then_some(entry.seq), entry.gone());
            consumer.batch.push(delivery(entry.message, entry.wire));
            if let Some(seq) = avoids {
                self.avoiding.remove(&seq);
            }
            if let (Some(facts), false) = (&mut self.facts, gone.extent.is_none()) {
                facts.gone.push(gone);
            }
        } else {
            if let (Some(facts), true) = (&mut self.facts, entry.durable) {
                facts.hand_over(entry.seq);
            }
            consumer.batch.push(delivery(Arc::clone(&entry.message), entry.wire.clone()));
            consumer.hold(entry.seq);
            entry.redelivered = true;
            self.unsettled.insert(slot, entry);
        }
        let usable = u64::from(consumer.credit());
        self.usable_credit = self.usable_credit - consumer.counted + usable;
        consumer.counted = usable;
    }

    /// Copies for browsers: each sees each message once.
    fn browse(&mut self, now: Instant) {
        let remaining = u32::try_from(self.ready.len()).unwrap_or(u32::MAX);
        for slot in self.browsers.iter().copied() {
            let Some(consumer) = self.consumers.get_mut(slot) else { continue };
            for level in (0..self.ready.levels()).rev() {
                let Some(from) = consumer.cursors.get(level).copied() else { continue };
                let mut next = from;
                for entry in self.ready.iter_level(level, from) {
                    if consumer.credit() == 0 {
                        break;
                    }
                    next = entry.seq + 1;
                    let expired = entry.expires.is_some_and(|at| at < now);
                    if expired || !may_take(consumer, entry, &self.avoiding) {
                        continue;
                    }
                    if consumer.batch.is_empty() {
                        self.touched.push(slot);
                    }
                    consumer.spend();
                    consumer.batch.push(Delivery {
                        consumer: consumer.key.consumer,
                        tag: DeliveryTag(entry.seq),
                        message: Arc::clone(&entry.message),
                        attempts: entry.attempts,
                        redelivered: entry.redelivered,
                        settled: true,
                        remaining,
                        wire: entry.wire.clone(),
                    });
                }
                if let Some(cursor) = consumer.cursors.get_mut(level) {
                    *cursor = next;
                }
            }
        }
    }

    fn end_drains(&mut self, effects: &mut Vec<Effect>) {
        if self.usable_credit > 0 && self.ready.has_pages() {
            // There is more, and somebody has credit for it: it is on its way from the disk.
            return;
        }
        while let Some(slot) = self.draining.pop_front() {
            let Some(consumer) = self.consumers.get_mut(slot) else { continue };
            consumer.draining = false;
            consumer.granted = 0;
            effects.push(Effect::Drained { consumer: consumer.key });
            self.refresh(slot);
        }
    }
}
