//! Destinations this connection sent to before, read once.

use mynah_core::Address;

use crate::translate::Destination;

/// Places at first, and at most: powers of two. A publisher that cycles over more destinations than find a place of
/// their own pays for reading some of them anew.
const SLOTS_MIN: usize = 8;
const SLOTS_MAX: usize = 1024;

/// Where a destination leads.
#[derive(Debug)]
pub(super) struct Route {
    /// As it was written.
    raw: Box<str>,
    pub(super) address: Address,
    /// The queue must exist already.
    pub(super) mandatory: bool,
    /// It does not matter if it is gone.
    pub(super) forgiving: bool,
    /// The batch in which the broker was last asked what became of a SEND to it.
    pub(super) asked: u64,
    /// The queue was declared with the arguments of a SEND.
    pub(super) declared: bool,
}

impl Route {
    pub(super) fn new(raw: &str, destination: &Destination<'_>, address: Address) -> Self {
        Self {
            raw: raw.into(),
            address,
            mandatory: matches!(destination, Destination::ExistingQueue(_) | Destination::ReplyQueue(_)),
            forgiving: matches!(destination, Destination::ReplyQueue(_)),
            asked: 0,
            declared: false,
        }
    }
}

/// A table with one place for each destination. It is made with the first SEND, as most connections only listen, and grows
/// when two destinations want one place.
#[derive(Debug, Default)]
pub(super) struct Routes {
    slots: Vec<Option<Box<Route>>>,
    /// Most publishers stay with one destination.
    last: usize,
}

impl Routes {
    pub(super) fn get(&mut self, raw: &str) -> Option<&mut Route> {
        if !self.is_at(self.last, raw) {
            let slot = self.slot(raw);
            if !self.is_at(slot, raw) {
                return None;
            }
            self.last = slot;
        }
        self.slots.get_mut(self.last)?.as_deref_mut()
    }

    pub(super) fn insert(&mut self, route: Route) {
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS_MIN, || None);
        }
        while self.slots.len() < SLOTS_MAX && matches!(self.slots.get(self.slot(&route.raw)), Some(Some(_))) {
            self.grow();
        }
        self.put(Box::new(route));
    }

    pub(super) fn declared(&mut self, raw: &str) {
        if let Some(route) = self.get(raw) {
            route.declared = true;
        }
    }

    fn grow(&mut self) {
        let size = self.slots.len() * 2;
        let old = std::mem::take(&mut self.slots);
        self.slots.resize_with(size, || None);
        old.into_iter().flatten().for_each(|route| self.put(route));
    }

    fn put(&mut self, route: Box<Route>) {
        self.last = self.slot(&route.raw);
        if let Some(place) = self.slots.get_mut(self.last) {
            *place = Some(route);
        }
    }

    fn is_at(&self, slot: usize, raw: &str) -> bool {
        matches!(self.slots.get(slot), Some(Some(route)) if *route.raw == *raw)
    }

    /// Destinations of one application differ near their ends.
    fn slot(&self, raw: &str) -> usize {
        let bytes = raw.as_bytes();
        let hash = match bytes.split_last_chunk::<8>() {
            Some((before, last)) => {
                let before = before.last_chunk::<8>().map_or(0, |chunk| u64::from_be_bytes(*chunk));
                u64::from_be_bytes(*last) ^ before.rotate_left(29)
            }
            None => bytes.iter().fold(0, |hash, byte| (hash << 8) | u64::from(*byte)),
        };
        let mixed = hash.wrapping_add(bytes.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The high bits of a product depend on all of its bits.
        usize::try_from(mixed >> 48).unwrap_or_default() & self.slots.len().saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_find_their_routes_again() {
        let mut routes = Routes::default();
        let all: Vec<String> = (0..2_000).map(|n| format!("/topic/sensor.{n}")).collect();
        for raw in &all {
            let destination = Destination::parse(raw, 100).unwrap();
            let address = destination.address().unwrap().unwrap();
            routes.insert(Route::new(raw, &destination, address));
            assert_eq!(*routes.get(raw).unwrap().raw, **raw);
        }
        assert_eq!(routes.slots.len(), SLOTS_MAX);
        let found =
            all.iter().filter(|raw| routes.get(raw).is_some_and(|route| *route.raw == ***raw)).count();
        assert!(found > 700, "{found}");
        assert!(routes.get("/topic/other").is_none());
    }
}
