//! What a session has sent and not heard of yet, by delivery-id.
//!
//! Identifiers rise, so a queue in order is a map: a range is found by halving. Settled ones leave holes, which are closed
//! when there are more holes than deliveries, so memory is bounded by what is really out.

use std::collections::VecDeque;

use mynah_core::{ConsumerId, DeliveryTag};

use crate::codec::transfer::serial_distance;

/// A delivery that is out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) id: u32,
    pub(crate) handle: u32,
    pub(crate) consumer: ConsumerId,
    pub(crate) tag: DeliveryTag,
    live: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    entries: VecDeque<Entry>,
    holes: usize,
}

impl Unsettled {
    #[inline]
    pub(crate) fn push(&mut self, id: u32, handle: u32, consumer: ConsumerId, tag: DeliveryTag) {
        self.entries.push_back(Entry { id, handle, consumer, tag, live: true });
    }

    /// Takes out the deliveries `first..=last` and hands them to `found` in runs of one link. Answers whether there were any.
    /// Identifiers that are settled already are passed over [AMQP 2.7.6].
    pub(crate) fn take(
        &mut self,
        (first, last): (u32, u32),
        tags: &mut Vec<DeliveryTag>,
        mut found: impl FnMut(u32, ConsumerId, &[DeliveryTag]),
    ) -> bool {
        let start = self.entries.partition_point(|entry| serial_distance(first, entry.id) < 0);
        let mut run: Option<(u32, ConsumerId)> = None;
        tags.clear();
        for entry in self.entries.range_mut(start..) {
            if serial_distance(entry.id, last) < 0 {
                break;
            }
            if !entry.live {
                continue;
            }
            entry.live = false;
            self.holes += 1;
            let link = (entry.handle, entry.consumer);
            if let Some((handle, consumer)) = run.filter(|run| *run != link) {
                found(handle, consumer, tags);
                tags.clear();
            }
            run = Some(link);
            tags.push(entry.tag);
        }
        if let Some((handle, consumer)) = run {
            found(handle, consumer, tags);
        }
        self.close_holes();
        run.is_some()
    }

    /// Takes out the deliveries `first..=last`, as [`Self::take`], to be put back perhaps.
    pub(crate) fn take_out(&mut self, (first, last): (u32, u32)) -> Vec<Entry> {
        let start = self.entries.partition_point(|entry| serial_distance(first, entry.id) < 0);
        let range = self.entries.range_mut(start..);
        let mut out = Vec::new();
        for entry in range.take_while(|entry| serial_distance(entry.id, last) >= 0) {
            if entry.live {
                out.push(*entry);
                entry.live = false;
            }
        }
        self.holes += out.len();
        self.close_holes();
        out
    }

    /// What was taken out is out again.
    pub(crate) fn put_back(&mut self, entry: Entry) {
        let at = self.entries.partition_point(|other| serial_distance(entry.id, other.id) < 0);
        match self.entries.get_mut(at) {
            Some(hole) if hole.id == entry.id => {
                hole.live = true;
                self.holes -= 1;
            }
            Some(_) | None => self.entries.insert(at, entry),
        }
    }

    /// What a link has out.
    pub(crate) fn tags_of(&self, handle: u32) -> impl Iterator<Item = DeliveryTag> {
        self.entries.iter().filter(move |entry| entry.live && entry.handle == handle).map(|entry| entry.tag)
    }

    /// The link of the first delivery of a range.
    pub(crate) fn handle_of(&self, (first, last): (u32, u32)) -> Option<u32> {
        let start = self.entries.partition_point(|entry| serial_distance(first, entry.id) < 0);
        let mut range = self.entries.range(start..).take_while(|entry| serial_distance(entry.id, last) >= 0);
        range.find(|entry| entry.live).map(|entry| entry.handle)
    }

    /// Forgets what a link has out; its consumer's end gives that back.
    pub(crate) fn forget(&mut self, handle: u32) {
        self.entries.retain(|entry| entry.live && entry.handle != handle);
        self.holes = 0;
    }

    fn close_holes(&mut self) {
        while self.entries.front().is_some_and(|entry| !entry.live) {
            self.entries.pop_front();
            self.holes -= 1;
        }
        if self.holes > 64 && self.holes * 2 > self.entries.len() {
            self.entries.retain(|entry| entry.live);
            self.holes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(unsettled: &mut Unsettled, range: (u32, u32), expected: &[(u32, &[u64])]) {
        let mut found = Vec::new();
        unsettled.take(range, &mut Vec::new(), |handle, _, tags| {
            found.push((handle, tags.iter().map(|tag| tag.0).collect::<Vec<_>>()));
        });
        let expected: Vec<_> = expected.iter().map(|(handle, tags)| (*handle, tags.to_vec())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn ranges_cross_links_and_the_end_of_the_numbers() {
        // [AMQP 2.7.6, 2.8.10]
        let mut unsettled = Unsettled::default();
        for (n, handle) in [(0u32, 0), (1, 0), (2, 1), (3, 0)] {
            unsettled.push(
                0xffff_fffe_u32.wrapping_add(n),
                handle,
                ConsumerId(handle + 1),
                DeliveryTag(n.into()),
            );
        }
        check(&mut unsettled, (0xffff_ffff, 0), &[(0, &[1]), (1, &[2])]);
        check(&mut unsettled, (0xffff_fff0, 5), &[(0, &[0, 3])]);
        check(&mut unsettled, (0, 5), &[]);
    }

    #[test]
    fn holes_are_closed() {
        let mut unsettled = Unsettled::default();
        for n in 0..1000u32 {
            unsettled.push(n, 0, ConsumerId(1), DeliveryTag(n.into()));
            if n > 0 {
                check(&mut unsettled, (n, n), &[(0, &[u64::from(n)])]);
            }
        }
        assert!(unsettled.entries.len() < 200);
        unsettled.forget(0);
        assert!(unsettled.entries.is_empty());
    }
}
