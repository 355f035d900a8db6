//! What the broker keeps on disk, through the seam of `mynah_core::engine`.
//!
//! - this file: appending, and how far the current turn of a connection has to wait before its bytes may leave
//! - [`definitions`]: queues, exchanges and bindings as keyed state
//! - [`clients`]: sessions, their subscriptions and wills
//! - `retained`: the values of topics
//! - [`recovery`]: everything back after a start
//! - [`pager`]: bodies out of memory and back, and old files of the journal emptied
//!
//! Never: knows how an engine works, waits for a disk but on the pager's threads.

pub(crate) mod clients;
pub(crate) mod definitions;
pub mod pager;
pub(crate) mod recovery;
mod retained;

use std::cell::{Cell, RefCell};

use mynah_core::engine::{Appended, Condition, Lsn, Records};

use crate::broker::Shared;

thread_local! {
    static ADDED: Cell<Added> = const { Cell::new(Added { demanded: None, last: None }) };
    static RECORDS: RefCell<Records> = RefCell::default();
}

/// What the turn that runs on this thread has appended.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Added {
    /// Must be safe before the bytes of the turn leave.
    pub(crate) demanded: Option<Lsn>,
    pub(crate) last: Option<Lsn>,
}

/// A turn begins: nothing is appended yet.
pub(crate) fn begin_turn() {
    ADDED.set(Added::default());
}

pub(crate) fn end_turn() -> Added {
    ADDED.take()
}

impl Shared {
    /// Appends records, and clears them: they share bodies. If they demand it, the turn on this thread waits for them to be
    /// safe before its bytes leave.
    pub(crate) fn append(&self, records: &mut Records) -> Appended {
        let appended = self.engine.log.append(records);
        let Added { demanded, .. } = ADDED.get();
        let last = Some(appended.lsn);
        ADDED.set(Added { demanded: if records.demands_sync() { last } else { demanded }, last });
        records.clear();
        appended
    }

    /// Appends what `fill` writes, if it writes anything; safe in time.
    pub(crate) fn write(&self, fill: impl FnOnce(&mut Records)) {
        RECORDS.with_borrow_mut(|records| {
            records.clear();
            fill(records);
            if !records.is_empty() {
                self.append(records);
            }
        });
    }

    /// As `write`; and the turn on this thread waits for it.
    pub(crate) fn write_safely(&self, fill: impl FnOnce(&mut Records)) {
        self.write(|records| {
            fill(records);
            if !records.is_empty() {
                records.demand_sync();
            }
        });
    }

    /// Whatever this turn has appended is safe before its bytes leave.
    pub(crate) fn demand_added(&self) {
        if ADDED.get().last.is_some() {
            RECORDS.with_borrow_mut(|records| {
                records.clear();
                records.demand_sync();
                self.append(records);
            });
        }
    }

    /// Why durable messages cannot be taken now.
    pub(crate) fn trouble(&self) -> Option<Condition> {
        match self.engine.log.condition() {
            Condition::Open => None,
            trouble @ (Condition::Full(_) | Condition::Failed(_)) => Some(trouble),
        }
    }
}
