//! The ways back: outcomes, and consumers that end.

use std::time::Instant;

use super::ready::Entry;
use super::{ConsumerKey, Effect, Queue};
use crate::delivery::{DeliveryTag, Outcome};
use crate::message::Cause;

/// Consumers a message remembers as unable to take it; the oldest is tried again.
const AVOIDED_MAX: usize = 16;

impl<S> Queue<S> {
    /// Settles deliveries of one consumer; tags that it does not hold are ignored. Answers how many were settled.
    pub fn settle(
        &mut self,
        now: Instant,
        key: ConsumerKey,
        tags: &[DeliveryTag],
        outcome: &Outcome,
        effects: &mut Vec<Effect>,
    ) -> usize {
        let Some(&slot) = self.keys.get(&key) else { return 0 };
        let Some(serial) = self.consumers.get(slot).map(|consumer| consumer.serial) else { return 0 };
        let mut count = 0;
        for tag in tags {
            let Some(entry) = self.unsettled.take(slot, tag.0) else { continue };
            count += 1;
            if let Some(consumer) = self.consumers.get_mut(slot) {
                consumer.let_go(slot, tag.0, &self.unsettled);
            }
            self.conclude(now, entry, serial, outcome, effects);
        }
        if count > 0 {
            self.unsettled.tidy();
            if let Some(consumer) = self.consumers.get_mut(slot) {
                consumer.tidy();
            }
            self.refresh(slot);
            self.remove_if_done(slot);
        }
        count
    }

    fn conclude(
        &mut self,
        now: Instant,
        mut entry: Entry,
        serial: u64,
        outcome: &Outcome,
        effects: &mut Vec<Effect>,
    ) {
        match outcome {
            Outcome::Accepted => self.leave(&entry),
            Outcome::Rejected { reason } => self.dead_letter(entry, Cause::Rejected, reason.clone(), effects),
            Outcome::Released => self.give_back(now, entry, effects),
            Outcome::Modified { failed, undeliverable_here } => {
                if *undeliverable_here {
                    entry.avoids = true;
                    let serials = self.avoiding.entry(entry.seq).or_default();
                    if serials.len() == AVOIDED_MAX {
                        serials.pop_front();
                    }
                    serials.push_back(serial);
                }
                if let Some(entry) = self.count_attempt(entry, *failed, effects) {
                    self.give_back(now, entry, effects);
                }
            }
        }
    }

    /// `None` if that was the last attempt.
    fn count_attempt(&mut self, mut entry: Entry, failed: bool, effects: &mut Vec<Effect>) -> Option<Entry> {
        if failed {
            entry.attempts = entry.attempts.saturating_add(1);
            let limit = self.spec.delivery_limit.unwrap_or(self.defaults.delivery_limit);
            if limit > 0 && entry.attempts >= limit {
                self.dead_letter(entry, Cause::ReadCount, None, effects);
                return None;
            }
            if let (Some(facts), true) = (&mut self.facts, entry.durable) {
                facts.attempts.push((DeliveryTag(entry.seq), entry.attempts));
            }
        }
        Some(entry)
    }

    fn give_back(&mut self, now: Instant, entry: Entry, effects: &mut Vec<Effect>) {
        if entry.expires.is_some_and(|at| at <= now) {
            self.dead_letter(entry, Cause::Expired, None, effects);
        } else {
            self.ready.put_back(entry);
        }
    }

    /// Ends a consumer. What it holds goes back to its place, with an attempt counted if its connection `failed`. With
    /// `keep_unsettled` it keeps that, gets nothing more, and may settle until it is detached again.
    ///
    /// Answers its sink, the first time.
    pub fn detach(
        &mut self,
        now: Instant,
        key: ConsumerKey,
        keep_unsettled: bool,
        failed: bool,
        effects: &mut Vec<Effect>,
    ) -> Option<S> {
        let slot = *self.keys.get(&key)?;
        self.retire(slot);
        let consumer = self.consumers.get_mut(slot)?;
        let sink = consumer.sink.take();
        if !keep_unsettled {
            let entries = consumer.let_go_all(slot, &mut self.unsettled);
            let mut back: Vec<Entry> = Vec::with_capacity(entries.len());
            for entry in entries {
                back.extend(self.count_attempt(entry, failed, effects));
            }
            while let Some(entry) = back.pop() {
                self.give_back(now, entry, effects);
            }
            self.unsettled.tidy();
        }
        self.remove_if_done(slot);
        sink
    }

    /// A detached consumer with nothing left to settle.
    fn remove_if_done(&mut self, slot: u32) {
        let done = |consumer: &&super::Consumer<S>| consumer.sink.is_none() && consumer.unsettled == 0;
        if let Some(key) = self.consumers.get(slot).filter(done).map(|consumer| consumer.key) {
            self.consumers.remove(slot);
            self.keys.remove(&key);
        }
    }
}
