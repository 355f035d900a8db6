//! Values by small numbers, which are used again: nodes of trees and consumers of queues without pointers.
//!
//! Never: checks that a number still means the same value; who keeps numbers forgets them in time.

/// No number.
pub(crate) const NONE: u32 = u32::MAX;

#[derive(Debug)]
enum Slot<T> {
    Full(T),
    /// The next free slot.
    Free(u32),
}

#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: u32,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: NONE, len: 0 }
    }
}

impl<T> Slab<T> {
    /// Memory ends long before the numbers do.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        let at = self.free;
        if let Some(slot) = self.slots.get_mut(at as usize) {
            if let Slot::Free(next) = *slot {
                self.free = next;
            }
            *slot = Slot::Full(value);
            return at;
        }
        self.slots.push(Slot::Full(value));
        u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
    }

    pub(crate) fn remove(&mut self, at: u32) -> Option<T> {
        let slot = self.slots.get_mut(at as usize)?;
        if matches!(slot, Slot::Free(_)) {
            return None;
        }
        let old = std::mem::replace(slot, Slot::Free(self.free));
        self.free = at;
        self.len -= 1;
        match old {
            Slot::Full(value) => Some(value),
            Slot::Free(_) => None,
        }
    }

    pub(crate) fn get(&self, at: u32) -> Option<&T> {
        match self.slots.get(at as usize) {
            Some(Slot::Full(value)) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        match self.slots.get_mut(at as usize) {
            Some(Slot::Full(value)) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(&self.slots).filter_map(|(at, slot)| match slot {
            Slot::Full(value) => Some((at, value)),
            Slot::Free(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_again() {
        let mut slab = Slab::default();
        let (a, b) = (slab.insert("a"), slab.insert("b"));
        assert_eq!(slab.remove(a), Some("a"));
        assert_eq!((slab.remove(a), slab.get(a), slab.get(b)), (None, None, Some(&"b")));
        assert_eq!(slab.insert("c"), a);
        assert_eq!(slab.insert("d"), 2);
        assert_eq!(slab.iter().map(|(_, text)| *text).collect::<Vec<_>>(), ["c", "b", "d"]);
        assert!(!slab.is_empty() && slab.get(NONE).is_none());
    }
}
