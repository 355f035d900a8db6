//! One consumer of a queue: its terms, its credit and the tags it holds.

use std::collections::VecDeque;

use super::ready::{Entry, Examined, ROOM_KEPT};
use super::unsettled::Unsettled;
use super::{ConsumerKey, ConsumerTerms};
use crate::delivery::Delivery;
use crate::protocol::{CreditMode, Role};

#[derive(Debug)]
pub(super) struct Consumer<S> {
    pub(super) key: ConsumerKey,
    /// `None` once it is detached and only settles what it holds.
    pub(super) sink: Option<S>,
    /// Unlike keys and slots never used again.
    pub(super) serial: u64,
    pub(super) terms: ConsumerTerms,
    /// Socket: most deliveries on their way to the socket. Window: most unsettled.
    pub(super) window: u32,
    /// Socket: handed over and not yet sent.
    pub(super) on_the_way: u32,
    pub(super) granted: u32,
    pub(super) draining: bool,
    pub(super) unsettled: u32,
    /// Tags handed to it, in that order; of those settled out of order some are still here.
    log: VecDeque<u64>,
    /// Waits in the ring.
    pub(super) in_ring: bool,
    /// Its part of the queue's sum of usable credit.
    pub(super) counted: u64,
    pub(super) examined: Examined,
    /// There may be more aside for it than it had credit for.
    pub(super) seeks: bool,
    /// Of a dispatch under way.
    pub(super) batch: Vec<Delivery>,
    /// Browser: by level, the number of the next message to look at.
    pub(super) cursors: Box<[u64]>,
}

impl<S> Consumer<S> {
    pub(super) fn new(
        key: ConsumerKey,
        sink: S,
        serial: u64,
        terms: ConsumerTerms,
        socket_window: u32,
    ) -> Self {
        let window = match terms.credit {
            CreditMode::Socket => socket_window,
            CreditMode::Window(window) => window,
            CreditMode::Granted => 0,
        };
        Self {
            key,
            sink: Some(sink),
            serial,
            terms,
            window,
            on_the_way: 0,
            granted: 0,
            draining: false,
            unsettled: 0,
            log: VecDeque::new(),
            in_ring: false,
            counted: 0,
            examined: Examined::default(),
            seeks: false,
            batch: Vec::new(),
            cursors: Box::default(),
        }
    }

    /// A new subscription under an old key keeps what is unsettled and on its way.
    pub(super) fn take_over(&mut self, old: &mut Self) {
        self.unsettled = old.unsettled;
        self.on_the_way = old.on_the_way;
        self.log = std::mem::take(&mut old.log);
    }

    /// Deliveries that leave nothing to settle.
    pub(super) fn settled(&self) -> bool {
        self.terms.settled || self.terms.role == Role::Browser
    }

    /// How many deliveries it may get now.
    pub(super) fn credit(&self) -> u32 {
        match self.terms.credit {
            _ if self.sink.is_none() => 0,
            CreditMode::Socket => self.window.saturating_sub(self.on_the_way),
            // Nothing is unsettled, so the window never fills.
            CreditMode::Window(_) if self.settled() && self.window > 0 => u32::MAX,
            CreditMode::Window(_) => self.window.saturating_sub(self.unsettled),
            CreditMode::Granted => self.granted,
        }
    }

    /// One delivery was handed over; what it holds unsettled is counted by `hold`.
    pub(super) fn spend(&mut self) {
        match self.terms.credit {
            CreditMode::Socket => self.on_the_way = self.on_the_way.saturating_add(1),
            CreditMode::Granted => self.granted = self.granted.saturating_sub(1),
            CreditMode::Window(_) => {}
        }
    }

    pub(super) fn hold(&mut self, seq: u64) {
        self.unsettled += 1;
        self.log.push_back(seq);
    }

    /// It does not hold the tag any more.
    pub(super) fn let_go(&mut self, slot: u32, seq: u64, unsettled: &Unsettled) {
        self.unsettled -= 1;
        if self.log.front() == Some(&seq) {
            self.log.pop_front();
        } else if self.log.len() > 2 * self.unsettled as usize + 32 {
            self.log.retain(|seq| unsettled.is_held(slot, *seq));
            self.log.make_contiguous().sort_unstable();
            let mut last = None;
            self.log.retain(|seq| last.replace(*seq) != Some(*seq));
        }
    }

    /// Gives memory back after it held much.
    pub(super) fn tidy(&mut self) {
        let capacity = self.log.capacity();
        if capacity > ROOM_KEPT && self.log.len() < capacity / 8 {
            self.log.shrink_to(capacity / 2);
        }
    }

    #[cfg(test)]
    pub(super) fn log_len(&self) -> usize {
        self.log.len()
    }

    /// Everything it holds, in the order of the queue.
    pub(super) fn let_go_all(&mut self, slot: u32, unsettled: &mut Unsettled) -> Vec<Entry> {
        self.unsettled = 0;
        let tags = std::mem::take(&mut self.log);
        let mut entries: Vec<Entry> = tags.iter().filter_map(|seq| unsettled.take(slot, *seq)).collect();
        entries.sort_unstable_by_key(|entry| entry.seq);
        entries
    }
}
