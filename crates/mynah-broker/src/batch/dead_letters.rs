//! Messages that leave a queue without having been consumed, and where they go.
//!
//! What a dead letter leaves on disk is settled in the same append that keeps it where it goes: after a crash it is in one
//! place.
//!
//! Never: decides that a message is dead; the queue's machine does.

use std::sync::Arc;
use std::time::Instant;

use mynah_core::engine::Gone;
use mynah_core::queue::Effect;
use mynah_core::{Address, Cause, Death, Message};

use super::{Batch, epoch_ms};
use crate::limits::DEAD_LETTER_CHAIN_MAX;
use crate::queues::QueueHandle;
use crate::virtual_host::VirtualHost;

#[derive(Debug)]
pub(super) struct DeadLetter {
    queue: Arc<QueueHandle>,
    message: Arc<Message>,
    cause: Cause,
    reason: Option<Box<str>>,
    /// What is on disk of it.
    origin: Option<Gone>,
}

impl Batch {
    /// Takes note of what a queue's machine has to have done. Call it after each change of a queue, without its lock.
    pub fn collect(&mut self, queue: &Arc<QueueHandle>) {
        for effect in self.effects.drain(..) {
            match effect {
                Effect::DeadLetter { message, cause, reason, origin } => {
                    let queue = Arc::clone(queue);
                    self.dead.push_back(DeadLetter { queue, message, cause, reason, origin });
                }
                // The consumer was told when it was dispatched.
                Effect::Drained { .. } => {}
            }
        }
    }

    /// Sends dead letters on until none is left.
    pub fn bury(&mut self, host: &VirtualHost, now: Instant) {
        if std::mem::replace(&mut self.burying, true) {
            // Dead letters of dead letters: the loop below takes them too.
            return;
        }
        let mut steps = 0;
        // What was published before must be gone: it leaves nothing behind.
        self.flush(host, now);
        while let Some(dead) = self.dead.pop_front() {
            steps += 1;
            self.origin = dead.origin.map(|gone| (dead.queue.number, gone));
            if dead.cause == Cause::QueueLength && dead.queue.loses_what_does_not_fit() {
                // The slow subscriber's own loss, as with a full inbox.
                self.meter.dropped_full += 1;
                self.settle_origin(host);
                continue;
            }
            dead.queue.dead_lettered.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.meter.dead_letter(dead.cause);
            let spec = dead.queue.spec();
            let address = host.dead_letter_address(&dead.queue, &spec, dead.cause, &dead.message.address);
            let looping = dead.cause != Cause::Rejected && went_round(&dead.message, &dead.queue.name);
            let Some(address) = address.filter(|_| !looping && steps <= DEAD_LETTER_CHAIN_MAX) else {
                self.meter.dropped_dead += 1;
                self.settle_origin(host);
                continue;
            };
            let letter = dead.message.dead_lettered(
                Death {
                    cause: dead.cause,
                    queue: Arc::clone(&dead.queue.name),
                    address: dead.message.address.clone(),
                    time_ms: epoch_ms(),
                    count: 1,
                    reason: dead.reason,
                    original_ttl_ms: dead.message.header.ttl_ms,
                },
                now,
            );
            host.make_dead_letter_queue(&address, now);
            if self.publish_message(host, now, &letter, &address) == 0 {
                self.meter.dropped_dead += 1;
            }
            // Unless it has gone with the letter.
            self.settle_origin(host);
        }
        self.burying = false;
    }

    /// A message whose queue does not exist goes to the queue for such messages.
    pub(super) fn dead_letter_without_queue(&mut self, host: &VirtualHost, now: Instant, message: &Message) {
        self.meter.dead_letter(Cause::NoQueue);
        let target = &host.shared.config.queues.no_queue_dead_letters;
        let name = missing_name(&message.address);
        if target.is_empty() || **target == *name {
            self.meter.dropped_dead += 1;
            return;
        }
        let letter = message.dead_lettered(
            Death {
                cause: Cause::NoQueue,
                queue: name,
                address: message.address.clone(),
                time_ms: epoch_ms(),
                count: 1,
                reason: None,
                original_ttl_ms: message.header.ttl_ms,
            },
            now,
        );
        let kept = self.route.take();
        let address = Address::Queue(target.as_str().into());
        host.make_dead_letter_queue(&address, now);
        if self.publish_message(host, now, &letter, &address) == 0 {
            self.meter.dropped_dead += 1;
        }
        self.route = kept;
    }
}

/// It has been dead-lettered from this queue before, and nobody rejected it on the way: it would go round for ever.
fn went_round(message: &Message, queue: &str) -> bool {
    message.deaths.iter().any(|death| &*death.queue == queue)
        && message.deaths.iter().all(|death| death.cause != Cause::Rejected)
}

fn missing_name(address: &Address) -> Arc<str> {
    match address {
        Address::Topic(name) | Address::Queue(name) | Address::Client(name) => Arc::clone(name),
        Address::Exchange { key, .. } => Arc::clone(key),
    }
}
