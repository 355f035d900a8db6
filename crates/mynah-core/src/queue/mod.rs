//! The queue machine: entries, a ring of consumers with credit, what is out unsettled, and a policy.
//!
//! Everything that can hold a message is one of these. A message is ready, or unsettled with one consumer, or gone; each
//! way out other than being consumed is an [`Effect`] that the broker carries out after it has let go of the queue.
//! Pushing never delivers: [`Queue::dispatch`] does, once for a batch of pushes, settlements and grants of credit.
//!
//! Never: knows other queues, sends, stores, reads a clock.

mod attach;
mod consumer;
mod dispatch;
mod level;
#[cfg(test)]
mod model;
mod paging;
mod policy;
mod ready;
mod ring;
mod settle;
mod spec;
#[cfg(test)]
mod tests;
mod unsettled;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

pub use policy::QueuePolicy;
pub use spec::{Overflow, QueueSpec};

use self::consumer::Consumer;
pub use self::level::PageSize;
pub use self::paging::{Facts, Outgoing};
use self::ready::{Entry, Ready};
use self::ring::Ring;
use self::unsettled::Unsettled;
use crate::delivery::{ConsumerId, Delivery, DeliveryTag};
use crate::engine::{Extent, Gone};
use crate::hash::FastMap;
use crate::message::{Cause, Message};
use crate::protocol::{CreditMode, Role};
use crate::slab::Slab;
use crate::wire::Wire;

/// A consumer in the whole process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConsumerKey {
    pub connection: u64,
    pub consumer: ConsumerId,
}

/// How a consumer consumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerTerms {
    /// Deliveries are settled by being handed over.
    pub settled: bool,
    pub credit: CreditMode,
    /// The only one; not together with any other.
    pub exclusive: bool,
    /// Higher first.
    pub priority: i32,
    pub role: Role,
    /// The connection whose own messages it does not get. They stay for others.
    pub no_local: Option<u64>,
}

/// What holds where a queue's declaration says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueDefaults {
    /// 0: no limit.
    pub delivery_limit: u32,
    pub max_messages: u64,
    pub max_bytes: u64,
    /// Deliveries on their way to one socket with [`CreditMode::Socket`].
    pub socket_window: u32,
}

/// What the broker has to do after a call.
#[derive(Debug)]
pub enum Effect {
    /// The message has left this queue. With `origin`, what is on disk of it is the effect's: it is to be settled in one with
    /// whatever becomes of the message.
    DeadLetter { message: Arc<Message>, cause: Cause, reason: Option<Box<str>>, origin: Option<Gone> },
    /// The deliveries before this were the last; its credit is 0.
    Drained { consumer: ConsumerKey },
}

/// The queue did not take a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Full,
    TooLarge,
}

/// A ready message, looked at.
#[derive(Debug, Clone)]
pub struct Peeked {
    pub tag: DeliveryTag,
    pub message: Arc<Message>,
    pub attempts: u32,
    pub redelivered: bool,
}

/// The machine. `S` is the broker's handle of a consumer.
#[derive(Debug)]
pub struct Queue<S> {
    declared: Arc<QueueSpec>,
    /// What is in force: as declared, with a policy on top.
    spec: Arc<QueueSpec>,
    defaults: QueueDefaults,
    ready: Ready,
    unsettled: Unsettled,
    consumers: Slab<Consumer<S>>,
    keys: FastMap<ConsumerKey, u32>,
    ring: Ring,
    browsers: Vec<u32>,
    /// Consumers with credit for whom there may be more aside; usually none.
    seekers: Vec<u32>,
    draining: VecDeque<u32>,
    /// Of all consumers that may get messages; while it is 0 there is nobody to look for.
    usable_credit: u64,
    /// Those with [`Role::Consumer`] that still receive.
    attached: u32,
    /// The one that receives, with `single_active_consumer`.
    active: Option<u32>,
    /// Which consumers (by serial number) found a message undeliverable.
    avoiding: FastMap<u64, VecDeque<u64>>,
    last_seq: u64,
    last_serial: u64,
    /// Of a queue that is kept on disk: what is to be told there.
    facts: Option<Box<Facts>>,
    touched: Vec<u32>,
    spare: Vec<Vec<Delivery>>,
}

impl<S> Queue<S> {
    #[must_use]
    pub fn new(spec: Arc<QueueSpec>, defaults: QueueDefaults) -> Self {
        Self {
            ready: Ready::new(spec.max_priority),
            declared: Arc::clone(&spec),
            spec,
            defaults,
            unsettled: Unsettled::default(),
            consumers: Slab::default(),
            keys: FastMap::default(),
            ring: Ring::default(),
            browsers: Vec::new(),
            seekers: Vec::new(),
            draining: VecDeque::new(),
            usable_credit: 0,
            attached: 0,
            active: None,
            avoiding: FastMap::default(),
            last_seq: 0,
            last_serial: 0,
            facts: None,
            touched: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// The bounds in force.
    #[must_use]
    pub fn spec(&self) -> &Arc<QueueSpec> {
        &self.spec
    }

    #[must_use]
    pub fn declared(&self) -> &Arc<QueueSpec> {
        &self.declared
    }

    /// Another policy holds from now on, or none.
    pub fn apply(&mut self, policy: Option<&QueuePolicy>, effects: &mut Vec<Effect>) {
        self.spec = policy
            .map_or_else(|| Arc::clone(&self.declared), |policy| Arc::new(policy.in_force(&self.declared)));
        self.drop_excess(effects);
    }

    /// Adds a message at the end (of its priority); delivers nothing. `publisher` is the connection it came from.
    ///
    /// Messages that the consumers' credit will take at the next dispatch do not count against the bounds: a short queue
    /// with ready consumers passes a large batch.
    ///
    /// # Errors
    /// The message was not added. A message that is too large is dead-lettered unless the policy is to tell the
    /// publisher alone; one that finds the queue full is with [`Overflow::DeadLetter`].
    pub fn push(
        &mut self,
        now: Instant,
        message: Arc<Message>,
        wire: Option<Arc<Wire>>,
        publisher: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        let size = message.size();
        if self.spec.max_message_bytes.is_some_and(|max| size as u64 > max) {
            if self.spec.overflow != Overflow::RejectPublish {
                effects.push(Effect::DeadLetter {
                    message,
                    cause: Cause::MessageLength,
                    reason: None,
                    origin: None,
                });
            }
            return Err(Refused::TooLarge);
        }
        if self.spec.overflow != Overflow::DropHead && self.exceeds(1, size as u64) {
            if self.spec.overflow == Overflow::DeadLetter {
                effects.push(Effect::DeadLetter {
                    message,
                    cause: Cause::QueueLength,
                    reason: None,
                    origin: None,
                });
            }
            return Err(Refused::Full);
        }
        let expires = self.expires(now, &message);
        let durable = self.keeps_facts() && message.header.durable();
        self.last_seq += 1;
        self.ready.push(Entry {
            seq: self.last_seq,
            level: self.ready.level_of(message.header.priority),
            message,
            wire,
            publisher,
            expires,
            size: u32::try_from(size).unwrap_or(u32::MAX),
            attempts: 0,
            redelivered: false,
            avoids: false,
            durable,
            kept: if durable { Extent::PENDING } else { Extent::NONE },
        });
        self.drop_excess(effects);
        Ok(())
    }

    /// When a message that comes at `now` is over.
    fn expires(&self, now: Instant, message: &Message) -> Option<Instant> {
        let queue_ttl = self.spec.message_ttl.and_then(|ttl| now.checked_add(ttl));
        match (message.expires(), queue_ttl) {
            (Some(own), Some(queue)) => Some(own.min(queue)),
            (own, queue) => own.or(queue),
        }
    }

    /// Whether a push of so many messages, `largest` being the bytes of the largest, would be refused as things stand.
    #[must_use]
    pub fn would_refuse(&self, messages: u64, bytes: u64, largest: u64) -> Option<Refused> {
        if self.spec.max_message_bytes.is_some_and(|max| largest > max) {
            return Some(Refused::TooLarge);
        }
        (self.spec.overflow != Overflow::DropHead && self.exceeds(messages, bytes)).then_some(Refused::Full)
    }

    /// Whether so much more would be over the bounds.
    fn exceeds(&self, messages: u64, bytes: u64) -> bool {
        let after = self.ready.len() + messages;
        if after <= self.usable_credit {
            return false;
        }
        let max_messages = self.spec.max_messages.unwrap_or(self.defaults.max_messages);
        let max_bytes = self.spec.max_bytes.unwrap_or(self.defaults.max_bytes);
        after - self.usable_credit > max_messages || self.ready.bytes() + bytes > max_bytes
    }

    /// The oldest messages make room, if that is the policy.
    fn drop_excess(&mut self, effects: &mut Vec<Effect>) {
        if self.spec.overflow != Overflow::DropHead {
            return;
        }
        while self.exceeds(0, 0) {
            let Some(entry) = self.ready.pop_oldest() else { return };
            self.seek_on(&entry, None);
            self.dead_letter(entry, Cause::QueueLength, None, effects);
        }
    }

    fn dead_letter(
        &mut self,
        entry: Entry,
        cause: Cause,
        reason: Option<Box<str>>,
        effects: &mut Vec<Effect>,
    ) {
        self.forget(&entry);
        let origin = (!entry.kept.is_none()).then(|| entry.gone());
        effects.push(Effect::DeadLetter { message: entry.message, cause, reason, origin });
    }

    /// The message leaves the queue for good.
    fn leave(&mut self, entry: &Entry) {
        self.forget(entry);
        if let (Some(facts), false) = (&mut self.facts, entry.kept.is_none()) {
            facts.gone.push(entry.gone());
        }
    }

    /// The message leaves the queue.
    fn forget(&mut self, entry: &Entry) {
        if entry.avoids {
            self.avoiding.remove(&entry.seq);
        }
    }

    /// Removes all expired ready messages, wherever they stand.
    pub fn expire(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while let Some(entry) = self.ready.pop_expired(now) {
            self.seek_on(&entry, None);
            self.dead_letter(entry, Cause::Expired, None, effects);
        }
        self.ready.tidy();
    }

    /// When [`Queue::expire`] is worth a call: never later than needed, perhaps earlier.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.ready.next_expiry()
    }

    /// Removes the ready messages; answers how many there were.
    pub fn purge(&mut self) -> u64 {
        let removed = self.ready.len();
        self.drop_pages();
        let entries = self.ready.drain();
        entries.iter().for_each(|entry| self.leave(entry));
        self.ready.tidy();
        removed
    }

    /// Removes everything, ready (first) and unsettled: the queue is being deleted. What is in pages is not answered.
    pub fn drain_all(&mut self) -> Vec<Arc<Message>> {
        self.drop_pages();
        let mut entries = self.ready.drain();
        entries.append(&mut self.unsettled.drain());
        entries.iter().for_each(|entry| self.leave(entry));
        self.avoiding.clear();
        let slots: Vec<u32> = self.keys.values().copied().collect();
        for slot in slots {
            if let Some(consumer) = self.consumers.get_mut(slot) {
                consumer.let_go_all(slot, &mut self.unsettled);
            }
            self.refresh(slot);
        }
        entries.into_iter().map(|entry| entry.message).collect()
    }

    /// Ready messages in delivery order, as far as they are in memory without a gap; nothing changes by it.
    #[must_use]
    pub fn peek(&self, skip: usize, count: usize) -> Vec<Peeked> {
        let peeked = |entry: &Entry| Peeked {
            tag: DeliveryTag(entry.seq),
            message: Arc::clone(&entry.message),
            attempts: entry.attempts,
            redelivered: entry.redelivered,
        };
        self.ready.iter().skip(skip).take(count).map(peeked).collect()
    }

    /// Messages that wait for a consumer.
    #[must_use]
    pub fn ready(&self) -> u64 {
        self.ready.len()
    }

    /// Bytes of the messages that wait for a consumer.
    #[must_use]
    pub fn ready_bytes(&self) -> u64 {
        self.ready.bytes()
    }

    /// Messages that are delivered and not settled.
    #[must_use]
    pub fn unsettled(&self) -> u64 {
        self.unsettled.len() as u64
    }

    /// Consumers in the sense of [`Role::Consumer`].
    #[must_use]
    pub fn consumers(&self) -> u32 {
        self.attached
    }

    /// The tag of the last message that was pushed.
    #[must_use]
    pub fn last_tag(&self) -> DeliveryTag {
        DeliveryTag(self.last_seq)
    }

    /// Key, credit and unsettled deliveries of everybody attached, in no order.
    #[must_use]
    pub fn consumer_stats(&self) -> Vec<(ConsumerKey, u32, u32)> {
        let stats =
            |(_, consumer): (u32, &Consumer<S>)| (consumer.key, consumer.credit(), consumer.unsettled);
        self.consumers.iter().map(stats).collect()
    }

    /// Whether a consumer is attached, or detached with something left to settle.
    #[must_use]
    pub fn knows(&self, key: ConsumerKey) -> bool {
        self.keys.contains_key(&key)
    }

    /// The sink of a consumer that still receives.
    #[must_use]
    pub fn sink(&self, key: ConsumerKey) -> Option<&S> {
        self.consumers.get(*self.keys.get(&key)?)?.sink.as_ref()
    }

    /// Everybody that still receives, in no order.
    pub fn sinks(&self) -> impl Iterator<Item = (ConsumerKey, &S)> {
        self.consumers.iter().filter_map(|(_, consumer)| Some((consumer.key, consumer.sink.as_ref()?)))
    }
}
