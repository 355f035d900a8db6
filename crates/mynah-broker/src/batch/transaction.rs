//! A transaction takes effect: all its messages and settlements, or nothing, also across a crash.
//!
//! All queues it is about are locked, in their order. Looking whether every message finds room and pushing them is one step, so
//! nobody can fill a queue in between; one append makes all of it durable.
//!
//! Never: knows how the steps were collected.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use mynah_core::protocol::{Refusal, RefusalKind};
use mynah_core::queue::{ConsumerKey, Refused};
use mynah_core::{DeliveryTag, Message, Outcome, Retain};

use super::Batch;
use super::kept::{Locked, forget_unwritten, lock_all, refusal_of};
use crate::queues::QueueHandle;
use crate::routing::{Found, Route};
use crate::virtual_host::VirtualHost;

/// A message of a transaction and where it goes.
pub(crate) struct ToPublish {
    pub(crate) message: Arc<Message>,
    pub(crate) route: Arc<Route>,
}

/// Deliveries that a transaction settles.
pub(crate) struct ToSettle {
    pub(crate) queue: Arc<QueueHandle>,
    pub(crate) key: ConsumerKey,
    pub(crate) tags: Vec<DeliveryTag>,
    pub(crate) outcome: Outcome,
}

impl Batch {
    /// # Errors
    /// Some message finds no room, or the log takes nothing: nothing has happened.
    pub(crate) fn commit(
        &mut self,
        host: &VirtualHost,
        now: Instant,
        publishes: &[ToPublish],
        settles: &[ToSettle],
    ) -> Result<(), Refusal> {
        self.flush(host, now);
        let targets = publishes.iter().flat_map(|publish| &publish.route.queues).map(|target| &target.queue);
        let mut locked = lock_all(targets.chain(settles.iter().map(|settle| &settle.queue)));
        self.check(host, &locked, publishes)?;
        self.writing.begin();
        let mut effects_of = Vec::new();
        let many = locked.iter().filter(|locked| locked.queue.is_kept()).count() > 1;
        for (at, one) in locked.iter_mut().enumerate() {
            self.commit_one(host, now, one, publishes, settles, many);
            effects_of.push((at, self.effects.len()));
        }
        let mut extent = mynah_core::engine::Extent::NONE;
        if !self.writing.records.is_empty() {
            self.writing.records.demand_sync();
            extent = host.shared.append(&mut self.writing.records).extent;
        }
        self.writing.appended(extent);
        self.deliver_together(locked, effects_of, extent, now);
        self.writing.end(host);
        // Subscribers without a queue, and retained values.
        for ToPublish { message, route } in publishes {
            let publish = message.as_publish();
            if publish.header.retain == Retain::Keep {
                self.retain(host, now, &publish);
            }
            if !route.direct.is_empty() || !route.objects.is_empty() {
                self.begin_run(route);
                for (wire, run) in route.classes.iter().zip(&mut self.runs) {
                    (wire.encode)(wire, &publish, run);
                }
                self.messages.push(Arc::clone(message));
                self.flush_direct(route, now);
                self.flush_objects(route, now);
                self.messages.clear();
            } else if route.outcome == Found::NoQueue {
                self.dead_letter_without_queue(host, now, message);
            }
        }
        if !self.dead.is_empty() {
            self.bury(host, now);
        }
        Ok(())
    }

    /// Whether it would be refused as things stand. Nothing changes by it.
    ///
    /// # Errors
    /// As [`Batch::commit`].
    pub(crate) fn can_commit(&self, host: &VirtualHost, publishes: &[ToPublish]) -> Result<(), Refusal> {
        let targets = publishes.iter().flat_map(|publish| &publish.route.queues).map(|target| &target.queue);
        self.check(host, &lock_all(targets), publishes)
    }

    /// What the transaction does to one queue, and writes down of it.
    fn commit_one(
        &mut self,
        host: &VirtualHost,
        now: Instant,
        one: &mut Locked<'_>,
        publishes: &[ToPublish],
        settles: &[ToSettle],
        many: bool,
    ) {
        let Locked { queue, guarded, before } = one;
        let already = self.effects.len();
        let mut pushed = 0;
        for ToPublish { message, route } in publishes {
            for target in route.targets_in(queue) {
                if !target.takes(message.header.guarantee, self.publisher) {
                    continue;
                }
                let (message, wire) = (Arc::clone(message), target.wire.clone());
                let taken = guarded.machine.push(now, message, wire, self.publisher, &mut self.effects);
                pushed += u64::from(taken.is_ok());
            }
        }
        queue.published.fetch_add(pushed, Ordering::Relaxed);
        forget_unwritten(&mut self.effects, already);
        for settle in settles.iter().filter(|settle| Arc::ptr_eq(&settle.queue, queue)) {
            let ToSettle { key, tags, outcome, .. } = settle;
            let settled = guarded.machine.settle(now, *key, tags, outcome, &mut self.effects);
            if *outcome == Outcome::Accepted {
                queue.settled.fetch_add(settled as u64, Ordering::Relaxed);
            }
        }
        let engine = &host.shared.engine;
        self.writing.cursor = 0;
        self.writing.new_messages(engine, queue.number, &mut guarded.machine, *before, many);
        guarded.machine.tell(queue.number, &mut self.writing.records);
    }

    fn check(
        &self,
        host: &VirtualHost,
        locked: &[Locked<'_>],
        publishes: &[ToPublish],
    ) -> Result<(), Refusal> {
        let mut durable = false;
        for Locked { queue, guarded, .. } in locked {
            let (mut messages, mut bytes, mut largest) = (0, 0, 0);
            for ToPublish { message, route } in publishes {
                for target in route.targets_in(queue) {
                    if target.takes(message.header.guarantee, self.publisher) {
                        let size = message.size() as u64;
                        (messages, bytes, largest) = (messages + 1, bytes + size, size.max(largest));
                        durable |= queue.is_kept() && message.header.durable();
                    }
                }
            }
            if messages == 0 {
                continue;
            }
            if queue.is_deleted() {
                let text = format!("queue '{}' was deleted meanwhile", queue.name);
                return Err(Refusal::new(RefusalKind::NotFound, text));
            }
            let (kind, what) = match guarded.machine.would_refuse(messages, bytes, largest) {
                None => continue,
                Some(Refused::Full) => (RefusalKind::Full, "has no room for the transaction"),
                Some(Refused::TooLarge) => (RefusalKind::TooLarge, "does not take messages of that size"),
            };
            return Err(Refusal::new(kind, format!("queue '{}' {what}", queue.name)));
        }
        match host.shared.trouble().filter(|_| durable) {
            Some(trouble) => Err(refusal_of(&trouble)),
            None => Ok(()),
        }
    }
}
