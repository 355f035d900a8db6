//! ACK, NACK and transactions.

use mynah_core::protocol::{Host, Step};
use mynah_core::{ConsumerId, DeliveryTag, Outcome, TransactionId};

use super::replies::{Asked, Waiting};
use super::{Flow, StompConnection};
use crate::codec::Frame;
use crate::reason::{Fault, clipped};
use crate::subscription::parse_id;
use crate::version::Version;

/// Acknowledgements of one read that can be handed to the broker together.
#[derive(Debug)]
pub(super) struct Settling {
    consumer: ConsumerId,
    outcome: Outcome,
    transaction: Option<TransactionId>,
    tags: Vec<DeliveryTag>,
}

impl Default for Settling {
    fn default() -> Self {
        Self {
            consumer: ConsumerId::SESSION,
            outcome: Outcome::Accepted,
            transaction: None,
            tags: Vec::new(),
        }
    }
}

impl Settling {
    /// Hands over what was gathered if what comes next is of another kind; answers where to put the tags.
    fn gather(
        &mut self,
        consumer: ConsumerId,
        outcome: Outcome,
        transaction: Option<TransactionId>,
        host: &mut dyn Host,
    ) -> &mut Vec<DeliveryTag> {
        if self.consumer != consumer || self.transaction != transaction || self.outcome != outcome {
            self.flush(host);
            (self.consumer, self.outcome, self.transaction) = (consumer, outcome, transaction);
        }
        &mut self.tags
    }

    /// A delivery that is done by being sent.
    pub(super) fn add(&mut self, consumer: ConsumerId, tag: DeliveryTag, host: &mut dyn Host) {
        self.gather(consumer, Outcome::Accepted, None, host).push(tag);
    }

    pub(super) fn flush(&mut self, host: &mut dyn Host) {
        if !self.tags.is_empty() {
            host.settle(self.consumer, &self.tags, &self.outcome, self.transaction);
            self.tags.clear();
        }
    }
}

impl StompConnection {
    pub(super) fn on_ack(&mut self, frame: &Frame<'_>, host: &mut dyn Host) -> Result<Flow, Fault> {
        self.settle(frame, Outcome::Accepted, host)
    }

    pub(super) fn on_nack(&mut self, frame: &Frame<'_>, host: &mut dyn Host) -> Result<Flow, Fault> {
        let requeue = frame.get("requeue");
        let outcome = match requeue.as_deref().map(str::trim) {
            None | Some("true") => Outcome::Modified { failed: true, undeliverable_here: false },
            Some("false") => Outcome::Rejected { reason: frame.get("reason").map(|text| text.into()) },
            Some(other) => {
                return Err(Fault::bad_value(
                    "requeue",
                    other,
                    "true (deliver again) or false (dead-letter)",
                ));
            }
        };
        self.settle(frame, outcome, host)
    }

    fn settle(&mut self, frame: &Frame<'_>, outcome: Outcome, host: &mut dyn Host) -> Result<Flow, Fault> {
        let command = frame.command.text();
        // 1.2: the value of the MESSAGE's `ack`; before, its `message-id` [STOMP 1.2, ACK].
        let id = match self.version {
            Some(Version::V1_2) => frame.require("id", "the value of the header ack of the MESSAGE")?,
            _ => frame.require("message-id", "the value of the header message-id of the MESSAGE")?,
        };
        let of = match self.version {
            Some(Version::V1_1) => Some(frame.require("subscription", "the id of the subscription")?),
            _ => None,
        };
        let transaction = match frame.get("transaction") {
            Some(name) => Some(self.transactions.get(&name)?),
            None => None,
        };
        let unknown = || {
            let text = format!(
                "No message '{}' waits for an acknowledgement: it was acknowledged before, or its subscription has \
                 ack:auto or is gone",
                clipped(&id)
            );
            Fault::protocol(format!("{command} of an unknown message"), text)
        };
        let (consumer, number) = parse_id(&id).ok_or_else(unknown)?;
        let subscription = self.subscriptions.get_mut(consumer).ok_or_else(unknown)?;
        if of.is_some_and(|of| *subscription.key != *of) {
            return Err(unknown());
        }
        let tags = self.settling.gather(consumer, outcome, transaction, host);
        if !subscription.ledger.take(number, subscription.mode, transaction, tags) {
            return Err(unknown());
        }
        let receipt: Option<Box<str>> = frame.get("receipt").map(|text| text.into());
        if receipt.is_some() {
            host.settle_safely();
        }
        self.done(receipt, host);
        Ok(Flow::Done)
    }

    pub(super) fn on_begin(&mut self, frame: &Frame<'_>, host: &mut dyn Host) -> Result<Flow, Fault> {
        let name = frame.require("transaction", "a name for the transaction")?;
        let id = self.transactions.begin(&name, self.config.transactions_max)?;
        self.transact(frame, Step::Begin(id), Asked::Begin, host);
        Ok(Flow::Done)
    }

    pub(super) fn on_end(
        &mut self,
        frame: &Frame<'_>,
        commit: bool,
        host: &mut dyn Host,
    ) -> Result<Flow, Fault> {
        let name = frame.require("transaction", "the name given in BEGIN")?;
        let transaction = self.transactions.get(&name)?;
        // What was acknowledged in it must be there before it ends.
        self.settling.flush(host);
        let step = if commit { Step::Commit(transaction) } else { Step::Rollback(transaction) };
        self.transact(frame, step, Asked::End { transaction, commit }, host);
        Ok(Flow::Done)
    }

    fn transact(&mut self, frame: &Frame<'_>, step: Step, asked: Asked, host: &mut dyn Host) {
        let ticket = self.ticket();
        host.transact(ticket, step);
        let receipt = frame.get("receipt").map(|text| text.into());
        self.waiting = Some(Waiting { ticket, asked, receipt });
    }
}
