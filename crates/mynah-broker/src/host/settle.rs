//! Settling deliveries, alone or in a transaction.

use std::sync::Arc;

use mynah_core::limits::TRANSACTION_STEPS_MAX;
use mynah_core::protocol::{Refusal, RefusalKind, Reply, Step, Ticket};
use mynah_core::queue::{ConsumerKey, Overflow};
use mynah_core::{ConsumerId, DeliveryTag, Message, Outcome, PublishRef, TransactionId};

use super::{Consumer, Turn};
use crate::limits::SETTLE_BATCH_MAX;
use crate::queues::QueueHandle;
use crate::routing::Found;

/// A step of a transaction that has not been committed.
#[derive(Debug)]
pub(super) enum Staged {
    Publish { message: Box<Message> },
    Settle { consumer: ConsumerId, tags: Vec<DeliveryTag>, outcome: Outcome },
}

impl Turn<'_> {
    pub(super) fn settle_deliveries(
        &mut self,
        consumer: ConsumerId,
        tags: &[DeliveryTag],
        outcome: &Outcome,
        transaction: Option<TransactionId>,
    ) {
        if let Some(id) = transaction {
            let steps = self.host.rare().transactions.get_mut(&id);
            if let Some(steps) = steps.filter(|steps| steps.len() < TRANSACTION_STEPS_MAX) {
                steps.push(Staged::Settle { consumer, tags: tags.to_vec(), outcome: outcome.clone() });
            }
            return;
        }
        if *outcome != Outcome::Accepted {
            self.flush_settlements();
            self.settle_now(consumer, tags, outcome);
            return;
        }
        // The acknowledgements of one read are one visit to the queue.
        if self.batch.settling != Some(consumer) {
            self.flush_settlements();
            self.batch.settling = Some(consumer);
        }
        self.batch.settling_tags.extend_from_slice(tags);
        if self.batch.settling_tags.len() >= SETTLE_BATCH_MAX {
            self.flush_settlements();
        }
    }

    pub(super) fn flush_settlements(&mut self) {
        let Some(consumer) = self.batch.settling.take() else { return };
        let mut tags = std::mem::take(&mut self.batch.settling_tags);
        self.settle_now(consumer, &tags, &Outcome::Accepted);
        tags.clear();
        self.batch.settling_tags = tags;
    }

    fn settle_now(&mut self, consumer: ConsumerId, tags: &[DeliveryTag], outcome: &Outcome) {
        let Some(queue) = self.queue_of(consumer) else { return };
        let key = ConsumerKey { connection: self.host.inbox.connection(), consumer };
        queue.settle(self.now, key, tags, outcome, &mut self.batch.touched, &mut self.batch.effects);
        self.batch.collect(&queue);
    }

    /// The queue a consumer takes from, also after it was cancelled.
    pub(super) fn queue_of(&self, consumer: ConsumerId) -> Option<Arc<QueueHandle>> {
        if consumer == ConsumerId::SESSION {
            let client = self.host.client.as_ref()?;
            return client.lock().session.as_ref().map(|session| Arc::clone(&session.queue));
        }
        let lingering = || {
            let rare = self.host.rare.as_deref()?;
            rare.lingering.iter().find(|(id, _)| *id == consumer).map(|(_, consumer)| consumer)
        };
        match self.consumer(consumer).or_else(lingering)? {
            Consumer::Queue(from) => Some(Arc::clone(&from.queue)),
            Consumer::Direct { .. } | Consumer::Session => None,
        }
    }

    pub(super) fn stage_publish(
        &mut self,
        ticket: Option<Ticket>,
        id: TransactionId,
        publish: &PublishRef<'_>,
    ) {
        let now = self.now;
        let result = match self.host.rare().transactions.get_mut(&id) {
            None => Err(Refusal::new(RefusalKind::NotFound, "there is no such transaction: begin it first")),
            Some(steps) if steps.len() >= TRANSACTION_STEPS_MAX => {
                Err(Refusal::new(RefusalKind::Full, "the transaction has too many steps: commit more often"))
            }
            Some(steps) => {
                steps.push(Staged::Publish { message: Box::new(Message::from_publish(publish, now)) });
                Ok(Reply::Published { routed: 0 })
            }
        };
        if let Some(ticket) = ticket {
            self.reply_or_refuse(ticket, result);
        }
    }

    pub(super) fn transaction(&mut self, step: Step) -> Result<Reply, Refusal> {
        let unknown = || Refusal::new(RefusalKind::NotFound, "there is no such transaction: begin it first");
        match step {
            Step::Begin(id) => {
                let transactions = &mut self.host.rare().transactions;
                if transactions.contains_key(&id) {
                    return Err(Refusal::new(
                        RefusalKind::Conflict,
                        "a transaction of this name is open already",
                    ));
                }
                transactions.insert(id, Vec::new());
            }
            Step::Rollback(id) => {
                self.host.rare().transactions.remove(&id).ok_or_else(unknown)?;
            }
            Step::Commit(id) => {
                let steps = self.host.rare().transactions.remove(&id).ok_or_else(unknown)?;
                self.can_commit(&steps)?;
                self.commit(steps);
            }
        }
        Ok(Reply::Done)
    }

    /// All or nothing: looks whether every message will find room before the first is sent.
    fn can_commit(&self, steps: &[Staged]) -> Result<(), Refusal> {
        for step in steps {
            let Staged::Publish { message } = step else { continue };
            let host = &self.host.host;
            let publish = message.as_publish();
            let route = host.routes.find(publish.address, || host.build_route(&publish, self.now));
            if route.outcome == Found::NoExchange {
                return Err(Refusal::new(
                    RefusalKind::NotFound,
                    format!("{} does not exist", message.address),
                ));
            }
            for target in &route.queues {
                let guarded = target.queue.lock();
                let spec = guarded.machine.spec();
                let Some(max) = spec.max_messages else { continue };
                if spec.overflow != Overflow::DropHead && guarded.machine.ready() + steps.len() as u64 > max {
                    let text = format!("queue '{}' has no room for the transaction", target.queue.name);
                    return Err(Refusal::new(RefusalKind::Full, text));
                }
            }
        }
        Ok(())
    }

    fn commit(&mut self, steps: Vec<Staged>) {
        for step in steps {
            match step {
                Staged::Publish { message } => {
                    let host = Arc::clone(&self.host.host);
                    self.batch.publish(&host, self.now, None, &message.as_publish());
                }
                Staged::Settle { consumer, tags, outcome } => {
                    self.settle_now(consumer, &tags, &outcome);
                }
            }
        }
    }
}
