//! The queue machine: entries, a ring of consumers with credit, what is out unsettled, and a policy.
//!
//! Everything that can hold a message is one of these. A message is ready, or unsettled with one consumer, or gone; each
//! way out other than being consumed is an [`Effect`] that the broker carries out after it has let go of the queue.
//! Pushing never delivers: [`Queue::dispatch`] does, once for a batch of pushes, settlements and grants of credit.
//!
//! Never: knows other queues, sends, stores, reads a clock.

mod consumer;
mod dispatch;
#[cfg(test)]
mod model;
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

pub use spec::{Overflow, QueueSpec};

use self::consumer::Consumer;
use self::ready::{Entry, Ready};
use self::ring::Ring;
use self::unsettled::Unsettled;
use crate::delivery::{ConsumerId, Delivery, DeliveryTag};
use crate::hash::FastMap;
use crate::message::{Cause, Message};
use crate::protocol::{CreditMode, Refusal, RefusalKind, Role};
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
    /// The message has left this queue.
    DeadLetter { message: Arc<Message>, cause: Cause, reason: Option<Box<str>> },
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
    touched: Vec<u32>,
    spare: Vec<Vec<Delivery>>,
}

impl<S> Queue<S> {
    #[must_use]
    pub fn new(spec: Arc<QueueSpec>, defaults: QueueDefaults) -> Self {
        Self {
            ready: Ready::new(spec.max_priority),
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
            touched: Vec::new(),
            spare: Vec::new(),
        }
    }

    #[must_use]
    pub fn spec(&self) -> &Arc<QueueSpec> {
        &self.spec
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
                effects.push(Effect::DeadLetter { message, cause: Cause::MessageLength, reason: None });
            }
            return Err(Refused::TooLarge);
        }
        if self.spec.overflow != Overflow::DropHead && self.exceeds(1, size as u64) {
            if self.spec.overflow == Overflow::DeadLetter {
                effects.push(Effect::DeadLetter { message, cause: Cause::QueueLength, reason: None });
            }
            return Err(Refused::Full);
        }
        let queue_ttl = self.spec.message_ttl.and_then(|ttl| now.checked_add(ttl));
        let expires = match (message.expires(), queue_ttl) {
            (Some(own), Some(queue)) => Some(own.min(queue)),
            (own, queue) => own.or(queue),
        };
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
        });
        self.drop_excess(effects);
        Ok(())
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
        effects.push(Effect::DeadLetter { message: entry.message, cause, reason });
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
    }

    /// When [`Queue::expire`] is worth a call: never later than needed, perhaps earlier.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.ready.next_expiry()
    }

    /// Removes the ready messages; answers how many there were.
    pub fn purge(&mut self) -> u64 {
        let entries = self.ready.drain();
        entries.iter().for_each(|entry| self.forget(entry));
        entries.len() as u64
    }

    /// Removes everything, ready (first) and unsettled: the queue is being deleted.
    pub fn drain_all(&mut self) -> Vec<Arc<Message>> {
        let mut entries = self.ready.drain();
        entries.append(&mut self.unsettled.drain());
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

    /// Ready messages in delivery order; nothing changes by it.
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

/// Consumers come, and their credit changes.
impl<S> Queue<S> {
    /// Adds a consumer. One that is there already under this key gets new terms, without credit granted before; what
    /// it has unsettled stays with it.
    ///
    /// # Errors
    /// `Forbidden`: somebody consumes exclusively, or the consumer wants to and is not alone.
    pub fn attach(&mut self, key: ConsumerKey, sink: S, terms: ConsumerTerms) -> Result<(), Refusal> {
        if terms.role == Role::Consumer {
            self.check_exclusive(key, terms.exclusive)?;
        }
        self.last_serial += 1;
        let mut consumer = Consumer::new(key, sink, self.last_serial, terms, self.defaults.socket_window);
        if terms.role == Role::Browser {
            consumer.cursors = vec![0; self.ready.levels()].into();
        }
        let slot = match self.keys.get(&key).copied() {
            Some(slot) => {
                self.retire(slot);
                if let Some(old) = self.consumers.get_mut(slot) {
                    consumer.take_over(old);
                    *old = consumer;
                }
                slot
            }
            None => {
                let slot = self.consumers.insert(consumer);
                self.keys.insert(key, slot);
                slot
            }
        };
        match terms.role {
            Role::Consumer => {
                self.attached += 1;
                if self.spec.single_active_consumer && self.active.is_none() {
                    self.active = Some(slot);
                }
            }
            Role::Browser => self.browsers.push(slot),
            Role::Getter => {}
        }
        self.refresh(slot);
        Ok(())
    }

    fn check_exclusive(&self, key: ConsumerKey, exclusive: bool) -> Result<(), Refusal> {
        if self.attached == 0 {
            return Ok(());
        }
        let mut others =
            self.consumers.iter().map(|(_, other)| other).filter(|other| {
                other.key != key && other.sink.is_some() && other.terms.role == Role::Consumer
            });
        // An exclusive consumer is alone, so the first one tells it all.
        match others.next() {
            Some(other) if other.terms.exclusive => Err(Refusal::new(
                RefusalKind::Forbidden,
                "the queue has an exclusive consumer: wait until it ends, or consume from another queue",
            )),
            Some(_) if exclusive => Err(Refusal::new(
                RefusalKind::Forbidden,
                "the queue has other consumers: exclusive consuming needs it to have none",
            )),
            _ => Ok(()),
        }
    }

    /// Takes a consumer out of everything that leads to deliveries.
    fn retire(&mut self, slot: u32) {
        let Some(consumer) = self.consumers.get_mut(slot) else { return };
        if consumer.sink.is_none() {
            return;
        }
        self.usable_credit -= std::mem::take(&mut consumer.counted);
        if std::mem::take(&mut consumer.in_ring) {
            self.ring.leave(slot);
        }
        self.draining.retain(|member| *member != slot);
        self.seekers.retain(|member| *member != slot);
        match consumer.terms.role {
            Role::Consumer => {
                self.attached -= 1;
                if self.active == Some(slot) {
                    self.activate_next(slot);
                }
            }
            Role::Browser => self.browsers.retain(|member| *member != slot),
            Role::Getter => {}
        }
    }

    /// With a single active consumer: the highest priority, and then the longest here, is next.
    fn activate_next(&mut self, leaving: u32) {
        let candidates = self.consumers.iter().filter(|(slot, consumer)| {
            *slot != leaving && consumer.sink.is_some() && consumer.terms.role == Role::Consumer
        });
        let best = candidates
            .max_by_key(|(_, consumer)| (consumer.terms.priority, std::cmp::Reverse(consumer.serial)));
        self.active = best.map(|(slot, _)| slot);
        if let Some(slot) = self.active {
            self.refresh(slot);
        }
    }

    /// Grants credit: so many deliveries from now, not a sum. With `drain`, what the next dispatch does not use is
    /// discarded, and [`Effect::Drained`] follows. Only with [`CreditMode::Granted`].
    pub fn flow(&mut self, key: ConsumerKey, credit: u32, drain: bool) {
        let Some(&slot) = self.keys.get(&key) else { return };
        let Some(consumer) = self.consumers.get_mut(slot) else { return };
        if consumer.terms.credit != CreditMode::Granted || consumer.sink.is_none() {
            return;
        }
        consumer.granted = credit;
        if drain && !consumer.draining {
            self.draining.push_back(slot);
        } else if !drain && consumer.draining {
            self.draining.retain(|member| *member != slot);
        }
        consumer.draining = drain;
        self.refresh(slot);
    }

    /// So many deliveries have left for the socket. Only with [`CreditMode::Socket`].
    pub fn replenish(&mut self, key: ConsumerKey, sent: u32) {
        let Some(&slot) = self.keys.get(&key) else { return };
        let Some(consumer) = self.consumers.get_mut(slot) else { return };
        consumer.on_the_way = consumer.on_the_way.saturating_sub(sent);
        self.refresh(slot);
    }

    /// Changes the window of [`CreditMode::Window`] or [`CreditMode::Socket`].
    pub fn set_window(&mut self, key: ConsumerKey, window: u32) {
        let Some(&slot) = self.keys.get(&key) else { return };
        let Some(consumer) = self.consumers.get_mut(slot) else { return };
        consumer.window = window;
        self.refresh(slot);
    }

    /// After every change of a consumer's credit: keeps the sum and the ring, and recalls what it may take.
    fn refresh(&mut self, slot: u32) {
        let Some(consumer) = self.consumers.get_mut(slot) else { return };
        let waits = match consumer.terms.role {
            Role::Consumer => self.spec.single_active_consumer && self.active != Some(slot),
            Role::Getter => false,
            Role::Browser => true,
        };
        let usable = if waits { 0 } else { u64::from(consumer.credit()) };
        self.usable_credit = self.usable_credit - consumer.counted + usable;
        let before = std::mem::replace(&mut consumer.counted, usable);
        if usable == 0 {
            return;
        }
        if consumer.in_ring {
            // Who was in the ring all the time has refused what was set aside meanwhile.
            if consumer.seeks && usable > before {
                self.seek(slot, usable - before);
            }
            return;
        }
        consumer.in_ring = true;
        match consumer.terms.role {
            Role::Getter => self.ring.join_getters(slot),
            Role::Consumer | Role::Browser => self.ring.join(consumer.terms.priority, slot),
        }
        self.seek(slot, usable);
    }

    /// Recalls for a consumer what was set aside: so that in delivery order the next messages that it may take, as many as
    /// it has credit, are not aside.
    fn seek(&mut self, slot: u32, most: u64) {
        let Some(consumer) = self.consumers.get_mut(slot) else { return };
        let mut examined = consumer.examined;
        let all = self
            .ready
            .recall(&mut examined, most, |entry| dispatch::may_take(consumer, entry, &self.avoiding));
        consumer.examined = examined;
        consumer.seeks = !all;
        if !all && !self.seekers.contains(&slot) {
            self.seekers.push(slot);
        }
    }
}
