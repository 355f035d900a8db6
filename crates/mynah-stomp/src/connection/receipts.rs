//! Receipts in the order of the frames that asked for them.
//!
//! A RECEIPT says that all frames before it were dealt with as well [STOMP 1.2, RECEIPT]. So one that could be written at
//! once waits while an earlier SEND waits for the broker.

use std::collections::VecDeque;

use mynah_core::protocol::Ticket;

use super::Failure;

/// What is owed to the client.
#[derive(Debug)]
pub(super) enum Due {
    /// A SEND whose fate the broker has not told.
    Send { ticket: Ticket, receipt: Option<Box<str>>, forgiving: bool },
    /// A frame that is dealt with.
    Done(Box<str>),
    /// DISCONNECT: the connection ends when all before it is done.
    Goodbye(Option<Box<str>>),
    /// A frame that cannot be obeyed: the ERROR comes when all before it is done, so that nobody sends again what was
    /// accepted.
    Fail(Failure),
}

#[derive(Debug, Default)]
pub(super) struct Receipts {
    due: VecDeque<Due>,
}

impl Receipts {
    pub(super) fn len(&self) -> usize {
        self.due.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    pub(super) fn push(&mut self, due: Due) {
        self.due.push_back(due);
    }

    /// The SEND a reply belongs to. Replies come in the order of the publishes, so it is the first.
    pub(super) fn answered(&mut self, ticket: Ticket) -> Option<(Option<Box<str>>, bool)> {
        let at =
            self.due.iter().position(|due| matches!(due, Due::Send { ticket: own, .. } if *own == ticket))?;
        match self.due.remove(at)? {
            Due::Send { receipt, forgiving, .. } => Some((receipt, forgiving)),
            Due::Done(_) | Due::Goodbye(_) | Due::Fail(_) => None,
        }
    }

    /// What has waited only for its turn.
    pub(super) fn next_done(&mut self) -> Option<Due> {
        if matches!(self.due.front()?, Due::Send { .. }) { None } else { self.due.pop_front() }
    }
}
