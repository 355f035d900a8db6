//! Loss, duplicates and order, by the sequence number of each publisher and destination.
//!
//! A subscriber that gets everything of a destination knows which number comes next: what is missing is a gap,
//! what fills a gap later is a reordering, anything else below is a duplicate. Consumers that compete for one
//! queue see only a part each: there a bitmap of all numbers tells duplicates, and order means "rising".
//! Never: allocates for a message that arrives as it should.

use crate::histogram::Histogram;
use crate::payload::Stamp;

/// Gaps remembered for each lane; older ones count as lost for good.
const GAPS_MAX: usize = 4096;

/// What went wrong at one or many subscribers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Faults {
    pub duplicates: u64,
    pub reordered: u64,
    /// Messages that do not belong to this run.
    pub foreign: u64,
}

/// The numbers one publisher sent to one subscriber.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lane {
    next: u64,
    gaps: Vec<(u64, u64)>,
}

impl Lane {
    #[cold]
    fn out_of_turn(&mut self, sequence: u64, faults: &mut Faults) -> bool {
        if sequence > self.next {
            if self.gaps.len() == GAPS_MAX {
                self.gaps.remove(0);
            }
            self.gaps.push((self.next, sequence));
            self.next = sequence + 1;
            return true;
        }
        let Some(at) = self.gaps.iter().position(|&(from, to)| from <= sequence && sequence < to) else {
            faults.duplicates += 1;
            return false;
        };
        let (from, to) = self.gaps.remove(at);
        for rest in [(from, sequence), (sequence + 1, to)] {
            if rest.0 < rest.1 {
                self.gaps.push(rest);
            }
        }
        faults.reordered += 1;
        true
    }
}

/// One subscriber's view of the publishers it hears.
#[derive(Debug)]
pub(crate) enum Ledger {
    /// Gets every message of its destination.
    Whole { first: u32, lanes: Vec<Lane> },
    /// Shares a queue with others: last number + 1 of each publisher.
    Shared { last: Vec<u64> },
}

impl Ledger {
    /// For a subscriber that hears the publishers `first .. first + count` completely.
    pub(crate) fn whole(first: u32, count: u32) -> Self {
        Self::Whole { first, lanes: vec![Lane::default(); count as usize] }
    }

    /// For a consumer that competes with others.
    pub(crate) fn shared(publishers: u32) -> Self {
        Self::Shared { last: vec![0; publishers as usize] }
    }
}

/// Numbers seen by the competing consumers of one thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bitmap(Vec<u64>);

impl Bitmap {
    /// Marks `sequence`; false if it was marked before. Numbers above 2^32 are not tracked.
    fn insert(&mut self, sequence: u64) -> bool {
        let Ok(word) = usize::try_from(sequence >> 6) else { return true };
        if word >= 1 << 26 {
            return true;
        }
        if word >= self.0.len() {
            self.0.resize((word + 1).next_power_of_two(), 0);
        }
        let bit = 1u64 << (sequence & 63);
        let Some(place) = self.0.get_mut(word) else { return true };
        let fresh = *place & bit == 0;
        *place |= bit;
        fresh
    }

    /// Joins two maps and answers how many numbers were in both.
    pub(crate) fn merge(&mut self, other: &Self) -> u64 {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        let mut both = 0;
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            both += u64::from((*mine & *theirs).count_ones());
            *mine |= theirs;
        }
        both
    }
}

/// What the subscribers of one thread have counted.
#[derive(Debug)]
pub(crate) struct Tally {
    run: u32,
    /// Deliveries of each publisher's messages since the last hand-over.
    fresh: Vec<u64>,
    /// Publishers with a count in `fresh`.
    touched: Vec<u32>,
    /// Every first arrival since the start of the run.
    pub delivered: u64,
    pub faults: Faults,
    pub latency: Histogram,
    pub seen: Vec<Bitmap>,
}

impl Tally {
    pub(crate) fn new(run: u32, publishers: u32) -> Self {
        let publishers = publishers as usize;
        Self {
            run,
            fresh: vec![0; publishers],
            touched: Vec::with_capacity(publishers),
            delivered: 0,
            faults: Faults::default(),
            latency: Histogram::new(),
            seen: vec![Bitmap::default(); publishers],
        }
    }

    /// Books `count` messages of a publisher that the broker has confirmed, where confirms are what counts.
    pub(crate) fn confirmed(&mut self, publisher: u32, count: u64) {
        self.delivered += count;
        if let Some(fresh) = self.fresh.get_mut(publisher as usize) {
            if *fresh == 0 {
                self.touched.push(publisher);
            }
            *fresh += count;
        }
    }

    /// Hands over the deliveries counted since the last call, publisher by publisher.
    pub(crate) fn take(&mut self, mut each: impl FnMut(u32, u64)) {
        for publisher in self.touched.drain(..) {
            if let Some(count) = self.fresh.get_mut(publisher as usize) {
                each(publisher, std::mem::take(count));
            }
        }
    }
}

/// Where a protocol puts the messages of one read.
#[derive(Debug)]
pub(crate) struct Sink<'a> {
    pub ledger: &'a mut Ledger,
    pub tally: &'a mut Tally,
    /// When the bytes were read.
    pub now_ns: u64,
    /// Whether latencies count: not before the warm-up is over.
    pub measuring: bool,
    /// The last latency and how often it came: batches share one time stamp.
    pub run_of: (u64, u64),
}

impl Sink<'_> {
    /// One message arrived; `payload` may be cut after its head.
    #[inline]
    pub(crate) fn deliver(&mut self, payload: &[u8]) {
        let Some(stamp) = Stamp::read(payload).filter(|stamp| stamp.run == self.tally.run) else {
            self.tally.faults.foreign += 1;
            return;
        };
        if !self.enter(stamp) {
            return;
        }
        self.tally.delivered += 1;
        if let Some(count) = self.tally.fresh.get_mut(stamp.publisher as usize) {
            if *count == 0 {
                self.tally.touched.push(stamp.publisher);
            }
            *count += 1;
        }
        if self.measuring {
            if self.run_of.0 == stamp.sent_ns {
                self.run_of.1 += 1;
            } else {
                self.flush();
                self.run_of = (stamp.sent_ns, 1);
            }
        }
    }

    /// Books the latencies still held back; call it once after each read.
    #[inline]
    pub(crate) fn flush(&mut self) {
        let (sent_ns, times) = std::mem::take(&mut self.run_of);
        if times > 0 {
            self.tally.latency.record(self.now_ns.saturating_sub(sent_ns), times);
        }
    }

    /// Books the number; false for a duplicate.
    #[inline]
    fn enter(&mut self, stamp: Stamp) -> bool {
        match self.ledger {
            Ledger::Whole { first, lanes } => {
                let index = stamp.publisher.wrapping_sub(*first) as usize;
                let Some(lane) = lanes.get_mut(index) else {
                    self.tally.faults.foreign += 1;
                    return false;
                };
                if lane.next == stamp.sequence {
                    lane.next += 1;
                    return true;
                }
                lane.out_of_turn(stamp.sequence, &mut self.tally.faults)
            }
            Ledger::Shared { last } => {
                let index = stamp.publisher as usize;
                let (Some(last), Some(seen)) = (last.get_mut(index), self.tally.seen.get_mut(index)) else {
                    self.tally.faults.foreign += 1;
                    return false;
                };
                if !seen.insert(stamp.sequence) {
                    self.tally.faults.duplicates += 1;
                    return false;
                }
                if stamp.sequence < *last {
                    self.tally.faults.reordered += 1;
                } else {
                    *last = stamp.sequence + 1;
                }
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mut ledger: Ledger, sequences: &[u64], delivered: u64, duplicates: u64, reordered: u64) {
        let mut tally = Tally::new(5, 2);
        for &sequence in sequences {
            let mut sink =
                Sink { ledger: &mut ledger, tally: &mut tally, now_ns: 100, measuring: true, run_of: (0, 0) };
            sink.deliver(&Stamp { run: 5, publisher: 1, sequence, sent_ns: 40 }.payload(24));
            sink.flush();
        }
        assert_eq!(tally.delivered, delivered, "{sequences:?}");
        assert_eq!(tally.faults, Faults { duplicates, reordered, foreign: 0 }, "{sequences:?}");
        assert_eq!(tally.latency.max(), 60);
        let mut handed = Vec::new();
        tally.take(|publisher, count| handed.push((publisher, count)));
        assert_eq!(handed, [(1, delivered)]);
    }

    #[test]
    fn a_subscriber_of_everything() {
        check(Ledger::whole(1, 1), &[0, 1, 2, 3], 4, 0, 0);
        check(Ledger::whole(1, 1), &[0, 1, 1, 2, 0], 3, 2, 0);
        check(Ledger::whole(1, 1), &[0, 3, 1, 2, 4], 5, 0, 2);
        check(Ledger::whole(1, 1), &[0, 4, 2, 2, 5], 4, 1, 1);
        check(Ledger::whole(0, 2), &[2, 5, 3, 0, 4, 1, 6], 7, 0, 4);
    }

    #[test]
    fn a_competing_consumer() {
        check(Ledger::shared(2), &[0, 4, 7, 100], 4, 0, 0);
        check(Ledger::shared(2), &[4, 0, 7, 7], 3, 1, 1);
    }

    #[test]
    fn strangers_are_counted_apart() {
        let (mut ledger, mut tally) = (Ledger::whole(0, 1), Tally::new(5, 1));
        let mut sink =
            Sink { ledger: &mut ledger, tally: &mut tally, now_ns: 1, measuring: true, run_of: (0, 0) };
        sink.deliver(b"hello");
        sink.deliver(&Stamp { run: 4, publisher: 0, sequence: 0, sent_ns: 0 }.payload(24));
        sink.deliver(&Stamp { run: 5, publisher: 3, sequence: 0, sent_ns: 0 }.payload(24));
        assert_eq!((tally.delivered, tally.faults.foreign), (0, 3));
    }

    #[test]
    fn bitmaps_of_threads_show_duplicates_between_them() {
        let (mut a, mut b) = (Bitmap::default(), Bitmap::default());
        assert!([0, 5, 64, 1000].iter().all(|&n| a.insert(n)));
        assert!([5, 64, 70_000].iter().all(|&n| b.insert(n)));
        assert!(!a.insert(5));
        assert_eq!(a.merge(&b), 2);
        assert!(!a.insert(70_000));
    }
}
