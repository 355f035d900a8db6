//! Settling deliveries, alone or in a transaction.

use std::sync::Arc;

use mynah_core::limits::TRANSACTION_STEPS_MAX;
use mynah_core::protocol::{Refusal, RefusalKind, Reply, Step, Ticket};
use mynah_core::queue::{ConsumerKey, Refused};
use mynah_core::{ConsumerId, DeliveryTag, Message, Outcome, PublishRef, TransactionId};

use super::{Consumer, FromQueue, Turn};
use crate::limits::{SETTLE_BATCH_MAX, TRANSACTION_BYTES_MAX, TRANSACTIONS_MAX};
use crate::queues::QueueHandle;
use crate::routing::Found;

/// A transaction that has not been committed.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    steps: Vec<Staged>,
    bytes: usize,
    /// Something that belonged to it was refused: it cannot be committed.
    spoilt: Option<Refusal>,
}

/// What a transaction wants to put into one queue.
struct Load {
    queue: Arc<QueueHandle>,
    messages: u64,
    bytes: u64,
    largest: u64,
}

fn unknown() -> Refusal {
    Refusal::new(RefusalKind::NotFound, "there is no such transaction: begin it first")
}

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
        let key = ConsumerKey { connection: self.host.inbox.connection(), consumer };
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
        let key = ConsumerKey { connection: self.host.inbox.connection(), consumer };
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
        let message = Box::new(Message::from_publish(publish, self.now));
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
                self.can_commit(&transaction.steps)?;
                self.commit(transaction.steps);
            }
        }
        Ok(Reply::Done)
    }

    /// All or nothing: looks whether every message will find room before the first is sent. What other connections
    /// send in between can still fill a queue; then the message goes the way of its overflow policy.
    fn can_commit(&self, steps: &[Staged]) -> Result<(), Refusal> {
        let host = &self.host.host;
        let mut loads: Vec<Load> = Vec::new();
        for step in steps {
            let Staged::Publish { message } = step else { continue };
            // As mandatory: only looking must not make a queue by use.
            let publish = PublishRef { mandatory: true, ..message.as_publish() };
            let route = host.routes.find(publish.address, || host.build_route(&publish, self.now));
            match route.outcome {
                Found::Yes | Found::NoQueue => {}
                Found::NoExchange => {
                    let text = format!("{} does not exist", message.address);
                    return Err(Refusal::new(RefusalKind::NotFound, text));
                }
                Found::Internal => {
                    let text = format!("cannot publish to internal {}", message.address);
                    return Err(Refusal::new(RefusalKind::Forbidden, text));
                }
            }
            for target in &route.queues {
                let known = loads.iter().position(|load| Arc::ptr_eq(&load.queue, &target.queue));
                let at = known.unwrap_or_else(|| {
                    loads.push(Load { queue: Arc::clone(&target.queue), messages: 0, bytes: 0, largest: 0 });
                    loads.len() - 1
                });
                if let Some(load) = loads.get_mut(at) {
                    let size = message.size() as u64;
                    load.messages += 1;
                    load.bytes += size;
                    load.largest = load.largest.max(size);
                }
            }
        }
        for Load { queue, messages, bytes, largest } in loads {
            let refused = queue.lock().machine.would_refuse(messages, bytes, largest);
            let (kind, what) = match refused {
                None => continue,
                Some(Refused::Full) => (RefusalKind::Full, "has no room for the transaction"),
                Some(Refused::TooLarge) => (RefusalKind::TooLarge, "does not take messages of that size"),
            };
            return Err(Refusal::new(kind, format!("queue '{}' {what}", queue.name)));
        }
        Ok(())
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
