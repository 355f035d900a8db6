//! What a session has sent and not heard of yet, by delivery-id.
//!
//! Identifiers rise, so a queue in order is a map: a range is found by halving. Settled ones leave holes, which are closed
//! when there are more holes than deliveries, so memory is bounded by what is really out.

use std::collections::VecDeque;

use mynah_core::{ConsumerId, DeliveryTag};

use crate::codec::transfer::serial_distance;

#[derive(Debug, Clone, Copy)]
struct Entry {
    id: u32,
    handle: u32,
    consumer: ConsumerId,
    tag: DeliveryTag,
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
