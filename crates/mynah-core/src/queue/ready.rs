//! The messages that wait: by priority, in the order they came, with what came back in its old place.
//!
//! New messages stand in a deque, sorted because sequence numbers only grow. A message that comes back goes to its front
//! if it is older than all, else to a small sorted map beside it. Messages that every consumer at hand refused are set
//! aside so that they block nobody, and are recalled when a consumer comes that may take them.
//!
//! Never: knows a consumer, decides what becomes of a message.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::limits::PRIORITY_LEVELS;
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
}

/// A place in the delivery order: by priority, then by number.
pub(super) type Rank = (Reverse<u8>, u64);

const FIRST: Rank = (Reverse(u8::MAX), 0);
const LAST: Rank = (Reverse(0), u64::MAX);

impl Entry {
    fn rank(&self) -> Rank {
        (Reverse(self.level), self.seq)
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

/// A place in the deque. Taking a message from the middle leaves its number, so that the deque stays sorted.
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

/// One priority.
#[derive(Debug, Default)]
struct Level {
    /// The first place, if any, is live.
    fresh: VecDeque<Place>,
    gone: usize,
    returned: BTreeMap<u64, Entry>,
}

impl Level {
    fn first_seq(&self) -> Option<u64> {
        let fresh = self.fresh.front().map(Place::seq);
        match self.returned.first_key_value() {
            None => fresh,
            Some((&returned, _)) => Some(fresh.map_or(returned, |fresh| fresh.min(returned))),
        }
    }

    fn pop(&mut self) -> Option<Entry> {
        let fresh = self.fresh.front().map(Place::seq);
        if let Some(first) = self.returned.first_entry()
            && fresh.is_none_or(|fresh| *first.key() < fresh)
        {
            return Some(first.remove());
        }
        match self.fresh.pop_front() {
            Some(Place::Live(entry)) => {
                if self.gone > 0 {
                    self.trim();
                }
                Some(entry)
            }
            Some(Place::Gone(_)) | None => None,
        }
    }

    fn put_back(&mut self, entry: Entry) {
        if self.fresh.front().is_none_or(|first| entry.seq < first.seq()) {
            self.fresh.push_front(Place::Live(entry));
        } else {
            self.returned.insert(entry.seq, entry);
        }
    }

    fn take(&mut self, seq: u64) -> Option<Entry> {
        if let Some(entry) = self.returned.remove(&seq) {
            return Some(entry);
        }
        let at = self.fresh.binary_search_by_key(&seq, Place::seq).ok()?;
        let place = self.fresh.get_mut(at).filter(|place| place.live().is_some())?;
        let Place::Live(entry) = std::mem::replace(place, Place::Gone(seq)) else { return None };
        self.gone += 1;
        self.trim();
        Some(entry)
    }

    /// Keeps the front live and the gone places fewer than the live ones.
    fn trim(&mut self) {
        while let Some(Place::Gone(_)) = self.fresh.front() {
            self.fresh.pop_front();
            self.gone -= 1;
        }
        if self.gone > 64 && self.gone > self.fresh.len() / 2 {
            self.fresh.retain(|place| place.live().is_some());
            self.gone = 0;
        }
    }

    /// Those with a number of at least `from`, in order.
    fn iter_from(&self, from: u64) -> impl Iterator<Item = &Entry> {
        let start = self.fresh.partition_point(|place| place.seq() < from);
        let fresh = self.fresh.range(start..).filter_map(Place::live);
        merged(fresh, self.returned.range(from..).map(|(_, entry)| entry))
    }
}

/// Two sorted sequences as one.
fn merged<'e>(
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
    len: u64,
    bytes: u64,
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
            level.fresh.push_back(Place::Live(entry));
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
        if let Some(expires) = entry.expires {
            self.expiries.push(Reverse((expires, entry.seq, entry.level)));
            if self.expiries.len() as u64 > 2 * self.len + 64 {
                self.rebuild_expiries();
                // The entry itself is in no level yet.
                self.expiries.push(Reverse((expires, entry.seq, entry.level)));
            }
        }
    }

    fn count_out(&mut self, entry: &Entry) {
        self.len -= 1;
        self.bytes -= u64::from(entry.size);
    }

    fn rebuild_expiries(&mut self) {
        let times: Vec<_> = self
            .iter()
            .filter_map(|entry| entry.expires.map(|at| Reverse((at, entry.seq, entry.level))))
            .collect();
        self.expiries = times.into();
    }

    /// The next in delivery order.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let entry = self.levels.iter_mut().rev().find_map(Level::pop)?;
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
        for level in &mut self.levels {
            let capacity = level.fresh.capacity();
            if capacity > ROOM_KEPT && level.fresh.len() < capacity / 8 {
                level.fresh.shrink_to(capacity / 2);
            }
        }
        let times = self.expiries.len() as u64;
        if times > ROOM_KEPT as u64 && times > 4 * self.len {
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

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.expiries.peek().map(|Reverse((at, _, _))| *at)
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.levels.iter().map(|level| level.fresh.capacity()).sum()
    }

    #[cfg(test)]
    pub(super) fn aside_len(&self) -> usize {
        self.aside.len()
    }

    #[cfg(test)]
    pub(super) fn expiries_len(&self) -> usize {
        self.expiries.len()
    }

    /// All in delivery order.
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

    /// Empties it, in delivery order.
    pub(super) fn drain(&mut self) -> Vec<Entry> {
        self.recall(&mut Examined::default(), u64::MAX, |_| true);
        self.expiries = BinaryHeap::new();
        std::iter::from_fn(|| self.pop()).collect()
    }
}
