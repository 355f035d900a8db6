//! Sets of tags that are mostly runs: what is settled of a page.

use std::collections::BTreeMap;

use crate::delivery::DeliveryTag;

/// A set of tags as ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TagSet {
    /// First to last of each range; no two touch.
    ranges: BTreeMap<u64, u64>,
    len: u64,
}

impl TagSet {
    /// True if it was not in it.
    pub fn insert(&mut self, tag: DeliveryTag) -> bool {
        self.insert_range(tag, tag) > 0
    }

    /// Adds all from `first` to `last`. Answers how many were not in it.
    pub fn insert_range(&mut self, first: DeliveryTag, last: DeliveryTag) -> u64 {
        let (mut first, mut last) = (first.0, last.0);
        if last < first {
            return 0;
        }
        let before = self.len;
        // The range before, if it reaches here, and all that begin within or right behind.
        if let Some((&start, &end)) = self.ranges.range(..first).next_back()
            && end >= first.saturating_sub(1)
        {
            self.take_out(start);
            first = start;
            last = last.max(end);
        }
        while let Some((&start, &end)) = self.ranges.range(first..=last.saturating_add(1)).next() {
            self.take_out(start);
            last = last.max(end);
        }
        self.ranges.insert(first, last);
        self.len += last - first + 1;
        self.len - before
    }

    fn take_out(&mut self, start: u64) {
        if let Some(end) = self.ranges.remove(&start) {
            self.len -= end - start + 1;
        }
    }

    #[must_use]
    pub fn contains(&self, tag: DeliveryTag) -> bool {
        self.ranges.range(..=tag.0).next_back().is_some_and(|(_, end)| *end >= tag.0)
    }

    /// How many tags are in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// First and last of each range, in order.
    pub fn ranges(&self) -> impl Iterator<Item = (DeliveryTag, DeliveryTag)> + '_ {
        self.ranges.iter().map(|(first, last)| (DeliveryTag(*first), DeliveryTag(*last)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_a_plain_set(ranges in prop::collection::vec((0..60_u64, 0..8_u64), 0..40)) {
            let (mut tags, mut plain) = (TagSet::default(), BTreeSet::new());
            for (first, count) in ranges {
                let new = (first..=first + count).filter(|tag| plain.insert(*tag)).count() as u64;
                prop_assert_eq!(tags.insert_range(DeliveryTag(first), DeliveryTag(first + count)), new);
                prop_assert_eq!(tags.len(), plain.len() as u64);
            }
            for tag in 0..70 {
                prop_assert_eq!(tags.contains(DeliveryTag(tag)), plain.contains(&tag));
            }
            let ranges: Vec<_> = tags.ranges().collect();
            prop_assert!(ranges.windows(2).all(|two| two[0].1.0 + 1 < two[1].0.0));
        }
    }
}
