//! Destinations this connection sent to before, read once.

use mynah_core::Address;

use crate::translate::Destination;

/// Destinations remembered; a power of two. A publisher that cycles over more pays for reading them anew.
const SLOTS: usize = 64;

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

/// A table with one place for each destination. It is made with the first SEND: most connections only listen.
#[derive(Debug, Default)]
pub(super) struct Routes {
    slots: Vec<Option<Route>>,
    /// Most publishers stay with one destination.
    last: usize,
}

impl Routes {
    pub(super) fn get(&mut self, raw: &str) -> Option<&mut Route> {
        if !self.is_at(self.last, raw) {
            let slot = slot(raw);
            if !self.is_at(slot, raw) {
                return None;
            }
            self.last = slot;
        }
        self.slots.get_mut(self.last)?.as_mut()
    }

    pub(super) fn insert(&mut self, route: Route) {
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS, || None);
        }
        self.last = slot(&route.raw);
        if let Some(place) = self.slots.get_mut(self.last) {
            *place = Some(route);
        }
    }

    pub(super) fn declared(&mut self, raw: &str) {
        if let Some(route) = self.get(raw) {
            route.declared = true;
        }
    }

    fn is_at(&self, slot: usize, raw: &str) -> bool {
        matches!(self.slots.get(slot), Some(Some(route)) if *route.raw == *raw)
    }
}

/// Destinations of one application differ near their ends.
fn slot(raw: &str) -> usize {
    let hash = raw
        .bytes()
        .rev()
        .take(16)
        .fold(raw.len(), |hash, byte| hash.wrapping_mul(0x0100_0193) ^ usize::from(byte));
    (hash ^ (hash >> 16)) % SLOTS
}
