//! Deliveries a channel has not settled, and the methods that settle them: ack, nack, reject, recover.
//!
//! Delivery tags count per channel, so they name entries of one ring in order: "multiple" takes its head. An entry settled out
//! of order leaves a gap, and gaps are swept when they are the larger half.
//! Never: settles a tag twice; a second time it is unknown and the channel is closed with 406.

use std::collections::VecDeque;

use mynah_core::limits::TRANSACTION_STEPS_MAX;
use mynah_core::protocol::{End, Host};
use mynah_core::{ConsumerId, DeliveryTag, Outcome, TransactionId};

use crate::channel::Channel;
use crate::codec::method::Response;
use crate::connection::Amqp091Connection;
use crate::consume::State;
use crate::reason::{Code, Fault};

/// One delivery that waits for its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The channel's delivery tag.
    pub(crate) number: u64,
    pub(crate) tag: DeliveryTag,
    pub(crate) consumer: ConsumerId,
    /// Whether it uses the channel's shared prefetch; what was got by `basic.get` does not.
    pub(crate) counted: bool,
    gone: bool,
}

impl Entry {
    pub(crate) fn new(number: u64, tag: DeliveryTag, consumer: ConsumerId, counted: bool) -> Self {
        Self { number, tag, consumer, counted, gone: false }
    }
}

/// Gaps below this number are not worth sweeping.
const GAPS_MIN: usize = 64;

/// The ring.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    entries: VecDeque<Entry>,
    gaps: usize,
}

impl Unsettled {
    pub(crate) fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
    }

    fn find(&self, number: u64) -> Option<usize> {
        let first = self.entries.front()?.number;
        // Without automatic acknowledgements in between, tags are consecutive.
        let guess = usize::try_from(number.checked_sub(first)?).ok()?;
        let at = match self.entries.get(guess) {
            Some(entry) if entry.number == number => guess,
            _ => self.entries.binary_search_by_key(&number, |entry| entry.number).ok()?,
        };
        self.entries.get(at).filter(|entry| !entry.gone).map(|_| at)
    }

    pub(crate) fn take(&mut self, number: u64) -> Option<Entry> {
        let at = self.find(number)?;
        let entry = self.entries.get_mut(at)?;
        let taken = *entry;
        if at > 0 {
            entry.gone = true;
            self.gaps += 1;
            self.sweep();
            return Some(taken);
        }
        self.entries.pop_front();
        while self.entries.front().is_some_and(|entry| entry.gone) {
            self.entries.pop_front();
            self.gaps -= 1;
        }
        Some(taken)
    }

    fn sweep(&mut self) {
        if self.gaps > GAPS_MIN && self.gaps * 2 > self.entries.len() {
            self.entries.retain(|entry| !entry.gone);
            self.gaps = 0;
        }
    }

    /// Takes everything up to a tag that is there, or all for 0. False if it is not there.
    pub(crate) fn take_through(&mut self, number: u64, taken: &mut Vec<Entry>) -> bool {
        if number == 0 {
            taken.extend(self.entries.drain(..).filter(|entry| !entry.gone));
            self.gaps = 0;
            return true;
        }
        let Some(at) = self.find(number) else { return false };
        for entry in self.entries.drain(..=at) {
            if entry.gone {
                self.gaps -= 1;
            } else {
                taken.push(entry);
            }
        }
        while self.entries.front().is_some_and(|entry| entry.gone) {
            self.entries.pop_front();
            self.gaps -= 1;
        }
        true
    }

    pub(crate) fn shrink(&mut self) {
        self.entries.shrink_to_fit();
    }

    /// Undoes takes, in whatever order.
    pub(crate) fn put_back(&mut self, entries: &mut Vec<Entry>) {
        self.entries.retain(|entry| !entry.gone);
        self.gaps = 0;
        self.entries.extend(entries.drain(..));
        self.entries.make_contiguous().sort_unstable_by_key(|entry| entry.number);
    }
}

impl Amqp091Connection {
    pub(crate) fn on_ack(
        &mut self,
        number: u16,
        tag: u64,
        multiple: bool,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        self.settle(number, tag, multiple, &Outcome::Accepted, host)
    }

    /// `basic.nack` and `basic.reject`.
    pub(crate) fn on_nack(
        &mut self,
        number: u16,
        tag: u64,
        multiple: bool,
        requeue: bool,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let outcome = match (requeue, self.config.requeue_counts) {
            (false, _) => Outcome::Rejected { reason: None },
            (true, true) => Outcome::Modified { failed: true, undeliverable_here: false },
            (true, false) => Outcome::Released,
        };
        self.settle(number, tag, multiple, &outcome, host)
    }

    fn settle(
        &mut self,
        number: u16,
        tag: u64,
        multiple: bool,
        outcome: &Outcome,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        let mut taken = std::mem::take(&mut self.taken);
        taken.clear();
        let found = if multiple {
            channel.unsettled.take_through(tag, &mut taken)
        } else {
            channel.unsettled.take(tag).map(|entry| taken.push(entry)).is_some()
        };
        let result = if found {
            self.settle_taken(number, &taken, outcome, host)
        } else {
            Err(Fault::unknown_delivery_tag(tag))
        };
        self.taken = taken;
        result
    }

    fn settle_taken(
        &mut self,
        number: u16,
        taken: &[Entry],
        outcome: &Outcome,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        if let Some(transaction) = &mut channel.transaction {
            if transaction.settled.len() + taken.len() > TRANSACTION_STEPS_MAX {
                return Err(Fault::precondition("the transaction has too many steps: commit more often"));
            }
            transaction.settled.extend_from_slice(taken);
            let id = transaction.id;
            self.tell(taken, outcome, Some(id), host);
            return Ok(());
        }
        self.tell(taken, outcome, None, host);
        self.let_go(number, taken, host);
        Ok(())
    }

    /// One call for each consumer in a row.
    fn tell(
        &mut self,
        taken: &[Entry],
        outcome: &Outcome,
        transaction: Option<TransactionId>,
        host: &mut dyn Host,
    ) {
        for run in taken.chunk_by(|one, other| one.consumer == other.consumer) {
            let Some(first) = run.first() else { continue };
            if run.len() == 1 {
                host.settle(first.consumer, &[first.tag], outcome, transaction);
                continue;
            }
            self.tags.clear();
            self.tags.extend(run.iter().map(|entry| entry.tag));
            host.settle(first.consumer, &self.tags, outcome, transaction);
        }
    }

    /// What was settled makes room: for held deliveries, and for consumers that only waited for it.
    pub(crate) fn let_go(&mut self, number: u16, settled: &[Entry], host: &mut dyn Host) {
        for entry in settled {
            if let Some(channel) = self.channels.get_mut(&number) {
                channel.prefetched -= u32::from(entry.counted).min(channel.prefetched);
            }
            let Some(consumer) = self.consumers.get_mut(&entry.consumer) else { continue };
            consumer.unsettled = consumer.unsettled.saturating_sub(1);
            if consumer.unsettled == 0 && matches!(consumer.state, State::Ended | State::Replaced) {
                self.consumers.remove(&entry.consumer);
                let ticket = self.ticket();
                host.detach(ticket, entry.consumer, End { forget: false, keep_unsettled: false });
            }
        }
        self.send_held(number, host);
    }

    /// `basic.recover`, which answers, and `basic.recover-async`, which does not.
    pub(crate) fn on_recover(
        &mut self,
        number: u16,
        requeue: bool,
        answer: bool,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        if !requeue {
            return Err(Fault::new(Code::NotImplemented, "requeue=false"));
        }
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        let mut taken = Vec::new();
        channel.unsettled.take_through(0, &mut taken);
        self.tell(&taken, &Outcome::Released, None, host);
        if answer {
            Response::BasicRecoverOk {}.put(host.wire(), number);
        }
        self.let_go(number, &taken, host);
        Ok(())
    }

    /// Gives back what a channel that ends has not settled, and ends its consumers.
    pub(crate) fn release(&mut self, number: u16, channel: &mut Channel, host: &mut dyn Host) {
        let mut taken = Vec::new();
        channel.unsettled.take_through(0, &mut taken);
        taken.extend(channel.held.iter().filter(|held| !held.settled).map(|held| {
            // Never sent, so without a tag of the channel.
            Entry::new(0, held.tag, held.consumer, false)
        }));
        if let Some(mut transaction) = channel.transaction.take() {
            self.forget_transaction(&transaction, host);
            taken.append(&mut transaction.settled);
        }
        channel.held.clear();
        self.forget_getters(channel);
        // Those that go on take theirs back by being detached; those that ended before only settle.
        let ended = |entry: &Entry| {
            let consumer = self.consumers.get(&entry.consumer);
            consumer.is_some_and(|consumer| matches!(consumer.state, State::Ended | State::Replaced))
        };
        taken.retain(ended);
        self.tell(&taken, &Outcome::Released, None, host);
        let ended: Vec<ConsumerId> = self
            .consumers
            .iter()
            .filter(|(_, consumer)| consumer.channel == number)
            .map(|(id, _)| *id)
            .collect();
        for id in ended {
            self.consumers.remove(&id);
            let ticket = self.ticket();
            host.detach(ticket, id, End { forget: false, keep_unsettled: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(number: u64) -> Entry {
        Entry::new(number, DeliveryTag(number), ConsumerId(1), true)
    }

    #[test]
    fn tags_are_taken_once() {
        let mut ring = Unsettled::default();
        for number in [1, 2, 4, 7, 8] {
            ring.push(entry(number));
        }
        assert_eq!(ring.take(4).map(|entry| entry.number), Some(4));
        assert_eq!(ring.take(4), None);
        assert_eq!(ring.take(3), None);
        assert_eq!(ring.take(9), None);
        assert_eq!(ring.take(0), None);
        let mut taken = Vec::new();
        assert!(!ring.take_through(4, &mut taken), "settled already");
        assert!(ring.take_through(7, &mut taken));
        assert_eq!(taken.iter().map(|entry| entry.number).collect::<Vec<_>>(), [1, 2, 7]);
        ring.put_back(&mut taken);
        assert!(ring.take_through(0, &mut taken));
        assert_eq!(taken.iter().map(|entry| entry.number).collect::<Vec<_>>(), [1, 2, 7, 8]);
        assert!(ring.take_through(0, &mut taken), "all of nothing is no error");
    }

    proptest! {
        #[test]
        fn the_ring_is_a_set(steps in proptest::collection::vec((0..3u8, 1..300u64), 0..600)) {
            let mut ring = Unsettled::default();
            let mut model = std::collections::BTreeSet::new();
            let mut next = 0;
            for (step, number) in steps {
                match step {
                    0 => {
                        next += 1 + number % 2;
                        ring.push(entry(next));
                        model.insert(next);
                    }
                    1 => prop_assert_eq!(ring.take(number).is_some(), model.remove(&number)),
                    _ => {
                        let mut taken = Vec::new();
                        let found = number % 16 == 0 && ring.take_through(number, &mut taken);
                        if found {
                            prop_assert!(model.contains(&number));
                            let rest = model.split_off(&(number + 1));
                            let numbers: Vec<u64> = taken.iter().map(|entry| entry.number).collect();
                            prop_assert_eq!(numbers, model.into_iter().collect::<Vec<_>>());
                            model = rest;
                        }
                    }
                }
                let live = ring.entries.iter().filter(|entry| !entry.gone).count();
                prop_assert_eq!(live, model.len());
                prop_assert_eq!(ring.entries.len() - live, ring.gaps);
            }
        }
    }
}
