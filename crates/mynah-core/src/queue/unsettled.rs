//! What is out: delivered and not settled, by sequence number, with the consumer that holds it.

use super::ready::{Entry, ROOM_KEPT};
use crate::hash::FastMap;

#[derive(Debug, Default)]
pub(super) struct Unsettled {
    held: FastMap<u64, Held>,
    memory: u64,
}

#[derive(Debug)]
struct Held {
    entry: Entry,
    slot: u32,
}

impl Unsettled {
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.held.capacity()
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn memory(&self) -> u64 {
        self.memory
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.held.values().map(|held| &held.entry)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.held.values_mut().map(|held| &mut held.entry)
    }

    pub(super) fn insert(&mut self, slot: u32, entry: Entry) {
        self.memory += entry.memory();
        self.held.insert(entry.seq, Held { entry, slot });
    }

    pub(super) fn is_held(&self, slot: u32, seq: u64) -> bool {
        self.held.get(&seq).is_some_and(|held| held.slot == slot)
    }

    /// `None` if nobody or somebody else holds it.
    pub(super) fn take(&mut self, slot: u32, seq: u64) -> Option<Entry> {
        if let std::collections::hash_map::Entry::Occupied(held) = self.held.entry(seq)
            && held.get().slot == slot
        {
            let entry = held.remove().entry;
            self.memory -= entry.memory();
            return Some(entry);
        }
        None
    }

    /// Gives memory back after many were out.
    pub(super) fn tidy(&mut self) {
        let capacity = self.held.capacity();
        if capacity > ROOM_KEPT && self.held.len() < capacity / 8 {
            self.held.shrink_to(capacity / 2);
        }
    }

    /// All of all consumers, in order.
    pub(super) fn drain(&mut self) -> Vec<Entry> {
        self.memory = 0;
        let mut entries: Vec<Entry> = self.held.drain().map(|(_, held)| held.entry).collect();
        entries.sort_unstable_by_key(|entry| entry.seq);
        entries
    }
}
