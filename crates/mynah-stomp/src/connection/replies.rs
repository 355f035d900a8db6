//! What the broker answers, and what it says unasked.

use std::sync::Arc;
use std::time::Instant;

use mynah_core::protocol::{Host, Notice, Refusal, RefusalKind, Reply, Ticket};
use mynah_core::{AddressRef, ConsumerId, TransactionId};

use super::{Failure, StompConnection, TempQueue};
use crate::reason::Fault;
use crate::translate::{Style, text_of};

/// A question that must be answered before the next frame is read.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    pub(super) asked: Asked,
    /// Of the frame that is done when the answer comes.
    pub(super) receipt: Option<Box<str>>,
}

#[derive(Debug)]
pub(super) enum Asked {
    Login,
    Open,
    Attach {
        destination: Box<str>,
        browse: Option<ConsumerId>,
    },
    Detach,
    /// To a temporary queue, for a SEND that comes again; its receipt, should this be refused.
    Listen {
        receipt: Option<Box<str>>,
    },
    /// A durable subscription that is not in use is deleted.
    Forget,
    /// The frame comes again when the queue is there.
    TempQueue(Box<str>),
    /// The same for a SEND with queue arguments; its destination as it was written.
    Declare(Box<str>),
    Begin,
    End {
        transaction: TransactionId,
        commit: bool,
    },
}

impl StompConnection {
    pub(super) fn on_reply(
        &mut self,
        now: Instant,
        ticket: Ticket,
        reply: Reply,
        host: &mut dyn Host,
    ) -> Result<(), Failure> {
        match self.waiting.take_if(|waiting| waiting.ticket == ticket) {
            Some(waiting) => self.on_answer(now, waiting, reply, host),
            None => self.on_sent(ticket, reply, host),
        }
    }

    /// The fate of a SEND.
    fn on_sent(&mut self, ticket: Ticket, reply: Reply, host: &mut dyn Host) -> Result<(), Failure> {
        let Some((receipt, forgiving)) = self.receipts.answered(ticket) else { return Ok(()) };
        let gone = |refusal: &Refusal| forgiving && refusal.kind == RefusalKind::NotFound;
        if let Reply::Refused(refusal) = &reply
            && !gone(refusal)
        {
            return Err(Failure { fault: Fault::refused("SEND", refusal), receipt });
        }
        if let Reply::Returned(message) = &reply
            && !forgiving
        {
            let fault = match message.address.as_ref() {
                AddressRef::Queue(name) => Fault::no_queue(name),
                address @ (AddressRef::Topic(_) | AddressRef::Exchange { .. } | AddressRef::Client(_)) => {
                    Fault::notice("nobody there", text_of(address, Style::Dots))
                }
            };
            return Err(Failure { fault, receipt });
        }
        if let Some(receipt) = receipt {
            self.write_receipt(&receipt, host);
        }
        self.settle_receipts(host)
    }

    fn on_answer(
        &mut self,
        now: Instant,
        waiting: Waiting,
        reply: Reply,
        host: &mut dyn Host,
    ) -> Result<(), Failure> {
        // Time went by while nothing was read.
        self.beat.heard(now);
        if let Reply::Refused(refusal) = reply {
            return self.on_refused(waiting, &refusal, host);
        }
        match (waiting.asked, reply) {
            (Asked::Login, Reply::Authenticated { .. }) => self.on_authenticated(host),
            (Asked::Open, Reply::Opened(opened)) => self.on_opened(now, &opened, host),
            (Asked::TempQueue(name), Reply::Defined(defined)) => {
                let queue = Arc::clone(&defined.name);
                self.temp_queues.push(TempQueue { name, queue, consumer: None });
            }
            (Asked::Declare(destination), _) => self.routes.declared(&destination),
            (Asked::Attach { browse: Some(consumer), .. }, _) => {
                // All there is now, and then the end.
                host.flow(consumer, u32::MAX, true);
                self.done(waiting.receipt, host);
            }
            (Asked::End { transaction, commit }, _) => {
                self.transactions.end(transaction);
                for subscription in self.subscriptions.iter_mut() {
                    subscription.ledger.end(transaction, commit);
                }
                self.done(waiting.receipt, host);
            }
            _ => self.done(waiting.receipt, host),
        }
        Ok(())
    }

    fn on_refused(
        &mut self,
        waiting: Waiting,
        refusal: &Refusal,
        host: &mut dyn Host,
    ) -> Result<(), Failure> {
        let mut receipt = waiting.receipt;
        let what = match waiting.asked {
            Asked::Login => return self.on_login_refused(refusal, host),
            Asked::Open => return self.on_open_refused(refusal, host),
            // It is there, made otherwise: nothing is ever declared anew.
            Asked::Declare(destination) if refusal.kind == RefusalKind::Conflict => {
                self.routes.declared(&destination);
                return Ok(());
            }
            Asked::Forget if refusal.kind == RefusalKind::NotFound => {
                self.done(receipt, host);
                return Ok(());
            }
            Asked::Attach { destination, .. } => format!("SUBSCRIBE to {destination}"),
            Asked::Listen { receipt: asked } => {
                receipt = asked;
                "SEND with reply-to".to_owned()
            }
            Asked::Declare(destination) => format!("SEND to {destination}"),
            Asked::TempQueue(name) => format!("/temp-queue/{name}"),
            Asked::Detach | Asked::Forget => "UNSUBSCRIBE".to_owned(),
            Asked::Begin => "BEGIN".to_owned(),
            Asked::End { commit: true, .. } => "COMMIT, of which nothing was done".to_owned(),
            Asked::End { commit: false, .. } => "ABORT".to_owned(),
        };
        Err(Failure { fault: Fault::refused(&what, refusal), receipt })
    }

    pub(super) fn on_notice(&mut self, notice: Notice, host: &mut dyn Host) -> Result<(), Failure> {
        let fault = match notice {
            Notice::Drained { consumer } => {
                self.on_drained(consumer, host);
                return Ok(());
            }
            Notice::Cancelled { consumer } => {
                let Some(gone) = self.subscriptions.remove(consumer) else { return Ok(()) };
                let text = format!(
                    "The queue of the subscription '{}' was deleted. Connect and SUBSCRIBE again to make it anew",
                    gone.key
                );
                Fault::notice("subscription ended", text)
            }
            Notice::TakenOver => {
                let text = "Another connection uses the same client-id. Give each client its own";
                Fault::notice("taken over", text)
            }
            Notice::Kicked { reason } => Fault::notice(
                "closed by an operator",
                format!("An operator closed this connection: {reason}"),
            ),
        };
        Err(fault.into())
    }
}
