//! Bytes that may not leave yet: a confirm is written to the wire at once, and stays there until what it confirms is on disk.
//!
//! Each turn that did something durable marks where its bytes begin and how far the log must be. What is behind a mark waits
//! for it, also what has nothing to do with it: a connection's bytes stay in order.
//!
//! Never: blocks.

use std::collections::VecDeque;
use std::sync::Arc;

use mynah_core::engine::{Lsn, Wait, Waiter};

use super::{ConnectionHost, Turn};
use crate::limits::LOG_BACKLOG_BYTES_MAX;

/// What a connection waits for.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Offsets into the wire, with what must be safe before the bytes from there on leave.
    marks: VecDeque<(usize, Lsn)>,
    /// What its waker is registered for.
    registered: Option<Lsn>,
    /// The last of its marks, passed or not.
    last: Lsn,
}

/// Nothing that was not confirmed yet ever will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogFailed;

impl ConnectionHost {
    pub(super) fn hold(&mut self, start: usize, lsn: Lsn) {
        let held = self.held.get_or_insert_default();
        held.last = held.last.max(lsn);
        match held.marks.back_mut() {
            // Its bytes waited for less, or there are none between.
            Some((from, known)) if *from == start => *known = lsn.max(*known),
            _ => held.marks.push_back((start, lsn)),
        }
    }

    /// The turn has added to the log, up to here.
    pub(super) fn has_added(&mut self, lsn: Lsn) {
        let behind = self.broker.shared.engine.log.backlog() > LOG_BACKLOG_BYTES_MAX;
        if behind || self.held.is_some() {
            let held = self.held.get_or_insert_default();
            held.last = held.last.max(lsn);
        }
    }

    /// How many bytes of the wire may leave now. If not all, the connection is woken when more may.
    ///
    /// # Errors
    /// What is held will never be safe: the peer must not be told that it is.
    pub fn sendable(&mut self) -> Result<usize, LogFailed> {
        let Some(held) = self.held.as_deref_mut() else { return Ok(self.wire.len()) };
        let log = &self.broker.shared.engine.log;
        held.registered = held.registered.filter(|registered| log.durable() < *registered);
        while let Some((from, lsn)) = held.marks.front().copied() {
            if log.durable() >= lsn {
                held.marks.pop_front();
                continue;
            }
            if from > 0 || held.registered.is_some_and(|registered| registered <= lsn) {
                if from == 0 && matches!(log.condition(), mynah_core::engine::Condition::Failed(_)) {
                    return Err(LogFailed);
                }
                return Ok(from);
            }
            let inbox = Arc::clone(&self.info.inbox);
            let waiter: Arc<dyn Waiter> = inbox;
            match log.wait(lsn, &waiter) {
                Wait::Done => {}
                Wait::Failed => return Err(LogFailed),
                Wait::Registered => {
                    held.registered = Some(lsn);
                    return Ok(from);
                }
            }
        }
        held.registered = None;
        Ok(self.wire.len())
    }

    /// So many bytes of the wire have left.
    pub fn has_sent(&mut self, count: usize) {
        if let Some(held) = self.held.as_deref_mut() {
            held.marks.iter_mut().for_each(|(from, _)| *from = from.saturating_sub(count));
        }
    }

    /// Whether the log is so far behind that who adds to it has to wait. The connection is woken when what it added is safe.
    pub(super) fn waits_for_log(&mut self) -> bool {
        let Some(held) = self.held.as_deref_mut() else { return false };
        let log = &self.broker.shared.engine.log;
        if log.backlog() <= LOG_BACKLOG_BYTES_MAX || log.durable() >= held.last {
            return false;
        }
        let inbox = Arc::clone(&self.info.inbox);
        let waiter: Arc<dyn Waiter> = inbox;
        log.wait(held.last, &waiter) == Wait::Registered
    }
}

impl Turn<'_> {
    /// What the protocol has noted in this turn, behind what was settled in it.
    pub(super) fn write_notes(&mut self) {
        use mynah_core::protocol::Safe;
        if self.batch.noted_later.is_empty() {
            return;
        }
        let mut notes = std::mem::take(&mut self.batch.noted_later);
        if let Some(session) = self.session_number() {
            self.host.broker.shared.write(|records| {
                for (key, value, when) in notes.drain(..) {
                    records.note(session, key, value.as_deref());
                    if when == Safe::BeforeWire {
                        records.demand_sync();
                    }
                }
            });
        }
        notes.clear();
        self.batch.noted_later = notes;
    }

    /// The number of the queue of the connection's durable session.
    pub(super) fn session_number(&self) -> Option<mynah_core::engine::QueueNumber> {
        let client = self.host.client.as_ref()?;
        let state = client.lock();
        let session = state.session.as_deref()?;
        session.queue.is_kept().then_some(session.queue.number)
    }
}
