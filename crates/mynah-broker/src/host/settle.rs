//! Settling deliveries, alone or in a transaction.

use std::sync::Arc;

use mynah_core::limits::TRANSACTION_STEPS_MAX;
use mynah_core::protocol::{Refusal, RefusalKind, Reply, Step, Ticket};
use mynah_core::queue::ConsumerKey;
use mynah_core::{ConsumerId, DeliveryTag, Message, Outcome, PublishRef, TransactionId};

use super::{Consumer, FromQueue, Turn};
use crate::batch::{ToPublish, ToSettle};
use crate::limits::{SETTLE_BATCH_MAX, TRANSACTION_BYTES_MAX, TRANSACTIONS_MAX};
use crate::queues::QueueHandle;
use crate::routing::Found;
use crate::virtual_host::VirtualHost;

/// A transaction that has not been committed.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    steps: Vec<Staged>,
    bytes: usize,
    /// Something that belonged to it was refused: it cannot be committed.
    spoilt: Option<Refusal>,
}

fn unknown() -> Refusal {
    Refusal::new(RefusalKind::NotFound, "there is no such transaction: begin it first")
}

#[derive(Debug)]
pub(super) enum Staged {
    Publish { message: Arc<Message> },
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
            // Nobody waits for an answer; what cannot be staged spoils the transaction.
            let _ = self.stage(
                id,
                Staged::Settle { consumer, tags: tags.to_vec(), outcome: outcome.clone() },
                tags.len(),
            );
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
        let key = ConsumerKey { connection: self.host.info.inbox.connection(), consumer };
        queue.settle(self.now, key, tags, outcome, &mut self.batch.touched, &mut self.batch.effects);
        self.batch.collect(&queue);
        self.forget_settled(consumer, &queue);
    }

    /// The queue a consumer takes from, also after it was cancelled.
    pub(super) fn queue_of(&self, consumer: ConsumerId) -> Option<Arc<QueueHandle>> {
        if consumer == ConsumerId::SESSION {
            let client = self.host.client.as_ref()?;
            return client.lock().session.as_ref().map(|session| Arc::clone(&session.queue));
        }
        if let Some(Consumer::Queue(from)) = self.consumer(consumer) {
            return Some(Arc::clone(&from.queue));
        }
        let lingering = &self.host.rare.as_deref()?.lingering;
        lingering.iter().find(|(id, _)| *id == consumer).map(|(_, from)| Arc::clone(&from.queue))
    }

    /// A cancelled consumer that has settled everything is forgotten.
    fn forget_settled(&mut self, consumer: ConsumerId, queue: &Arc<QueueHandle>) {
        let Some(rare) = self.host.rare.as_deref_mut().filter(|rare| !rare.lingering.is_empty()) else {
            return;
        };
        let key = ConsumerKey { connection: self.host.info.inbox.connection(), consumer };
        let of = |(id, from): &(ConsumerId, FromQueue)| *id == consumer && Arc::ptr_eq(&from.queue, queue);
        if rare.lingering.iter().any(of) && !queue.knows(key) {
            rare.lingering.retain(|entry| !of(entry));
        }
    }

    pub(super) fn stage_publish(
        &mut self,
        ticket: Option<Ticket>,
        id: TransactionId,
        publish: &PublishRef<'_>,
    ) {
        let message = Arc::new(Message::from_publish(publish, self.now));
        let bytes = message.size();
        let result = match self.stage(id, Staged::Publish { message }, bytes) {
            Ok(()) => Ok(Reply::Published { routed: 0 }),
            Err(refusal) => Err(refusal),
        };
        if let Some(ticket) = ticket {
            self.reply_or_refuse(ticket, result);
        }
    }

    pub(super) fn transaction(&mut self, step: Step) -> Result<Reply, Refusal> {
        match step {
            Step::Begin(id) => {
                let transactions = &mut self.host.rare().transactions;
                if transactions.contains_key(&id) {
                    return Err(Refusal::new(
                        RefusalKind::Conflict,
                        "a transaction of this name is open already",
                    ));
                }
                if transactions.len() >= TRANSACTIONS_MAX {
                    return Err(Refusal::new(
                        RefusalKind::Full,
                        "too many transactions are open: commit or roll back some",
                    ));
                }
                transactions.insert(id, Transaction::default());
            }
            Step::Rollback(id) => {
                self.host.rare().transactions.remove(&id).ok_or_else(unknown)?;
            }
            Step::Commit(id) => {
                let transaction = self.host.rare().transactions.remove(&id).ok_or_else(unknown)?;
                if let Some(refusal) = transaction.spoilt {
                    return Err(refusal);
                }
                self.commit(transaction.steps)?;
            }
        }
        Ok(Reply::Done)
    }

    /// Adds a step, of so many bytes. One that cannot be added spoils the transaction: it will not be committed in part.
    fn stage(&mut self, id: TransactionId, step: Staged, bytes: usize) -> Result<(), Refusal> {
        let rare = self.host.rare();
        let staged: usize = rare.transactions.values().map(|transaction| transaction.bytes).sum();
        let transaction = rare.transactions.get_mut(&id).ok_or_else(unknown)?;
        if transaction.steps.len() >= TRANSACTION_STEPS_MAX || staged + bytes > TRANSACTION_BYTES_MAX {
            let refusal =
                Refusal::new(RefusalKind::Full, "the transaction has too many steps: commit more often");
            transaction.spoilt = Some(refusal.clone());
            return Err(refusal);
        }
        transaction.bytes += bytes;
        transaction.steps.push(step);
        Ok(())
    }

    /// A step was refused before it came to be staged.
    pub(super) fn spoil(&mut self, id: TransactionId, refusal: &Refusal) {
        if let Some(transaction) = self.host.rare().transactions.get_mut(&id) {
            transaction.spoilt = Some(refusal.clone());
        }
    }

    /// All or nothing.
    fn commit(&mut self, steps: Vec<Staged>) -> Result<(), Refusal> {
        let host = Arc::clone(&self.host.host);
        let (mut publishes, mut settles, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        let mut looked = Vec::new();
        for step in &steps {
            if let Staged::Publish { message } = step {
                // As mandatory: only looking must not make a queue by use.
                looked.push(self.to_publish(&host, message, true)?);
            }
        }
        self.batch.can_commit(&host, &looked)?;
        for step in steps {
            match step {
                Staged::Publish { message } => publishes.push(self.to_publish(&host, &message, false)?),
                Staged::Settle { consumer, tags, outcome } => {
                    let Some(queue) = self.queue_of(consumer) else { continue };
                    let key = ConsumerKey { connection: self.host.info.inbox.connection(), consumer };
                    ended.push((consumer, Arc::clone(&queue)));
                    settles.push(ToSettle { queue, key, tags, outcome });
                }
            }
        }
        self.batch.commit(&host, self.now, &publishes, &settles)?;
        for (consumer, queue) in ended {
            self.forget_settled(consumer, &queue);
        }
        Ok(())
    }

    fn to_publish(
        &self,
        host: &VirtualHost,
        message: &Arc<Message>,
        mandatory: bool,
    ) -> Result<ToPublish, Refusal> {
        let publish = PublishRef { mandatory, ..message.as_publish() };
        let route = host.routes.find(publish.address, || host.build_route(&publish, self.now));
        match route.outcome {
            Found::Yes | Found::NoQueue => Ok(ToPublish { message: Arc::clone(message), route }),
            Found::NoExchange => {
                let text = format!("{} does not exist", message.address);
                Err(Refusal::new(RefusalKind::NotFound, text))
            }
            Found::Internal => {
                let text = format!("cannot publish to internal {}", message.address);
                Err(Refusal::new(RefusalKind::Forbidden, text))
            }
        }
    }
}
