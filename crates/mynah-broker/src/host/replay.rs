//! Retained messages on their way to a new subscription.
//!
//! A few are sent at once. Many are collected away from the task that reads sockets and then come as fast as the subscriber
//! takes them: the next ones when the inbox or the queue has nearly emptied. So one subscription to `#` costs the others
//! nothing, and its memory is a pointer per value.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use mynah_core::protocol::Expiry;
use mynah_core::{
    ConsumerId, Delivery, DeliveryTag, Filter, Guarantee, Message, PublishRef, Retain, Run, Wire,
};

use super::{ConnectionHost, Turn};
use crate::limits::{RETAINED_AT_ONCE, RETAINED_BYTES};
use crate::queues::QueueHandle;

/// Where the messages of a subscription go.
#[derive(Debug, Clone)]
pub(super) enum Receiver {
    /// Without a queue; encoded if there is a wire.
    Inbox(Option<Arc<Wire>>),
    /// With a wire (a session's) only what needs settling waits in the queue.
    Queue(Arc<QueueHandle>, Option<Arc<Wire>>),
}

/// What one subscription still gets.
#[derive(Debug)]
pub(super) struct Replay {
    consumer: ConsumerId,
    receiver: Receiver,
    found: Arc<OnceLock<Vec<Arc<Message>>>>,
    /// How many of them were sent.
    sent: usize,
}

impl ConnectionHost {
    /// Whether retained messages wait that there is room for: the connection is to have a turn.
    #[must_use]
    pub fn can_replay(&self) -> bool {
        let is_ready = |replay: &Replay| replay.found.get().is_some() && self.has_room(&replay.receiver);
        self.rare.as_deref().is_some_and(|rare| rare.replays.iter().any(is_ready))
    }

    fn has_room(&self, receiver: &Receiver) -> bool {
        let (bytes, deliveries) = self.info.inbox.level();
        let room = bytes < RETAINED_BYTES && deliveries < RETAINED_AT_ONCE;
        match receiver {
            Receiver::Inbox(_) => room,
            Receiver::Queue(queue, _) => room && queue.lock().machine.ready() < RETAINED_AT_ONCE as u64,
        }
    }
}

/// Turns to look through very many retained messages.
static WALKS: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(1);

impl Turn<'_> {
    pub(super) fn send_retained(&mut self, id: ConsumerId, filter: &Filter, receiver: Receiver) {
        self.forget_replays(id);
        let host = Arc::clone(&self.host.host);
        if !host.retained.is_long(filter) {
            let found = host.retained.matching(filter, self.now);
            return self.replay(id, &found, &receiver);
        }
        let found = Arc::new(OnceLock::new());
        let replay = Replay { consumer: id, receiver, found: Arc::clone(&found), sent: 0 };
        self.host.rare().replays.push_back(replay);
        let (filter, inbox, now) = (filter.clone(), Arc::clone(&self.host.info.inbox), self.now);
        tokio::spawn(async move {
            // One after the other: a crowd of them must not take all cores from those who read sockets.
            let _turn = WALKS.acquire().await;
            if Arc::strong_count(&found) == 1 {
                // The subscription has ended meanwhile.
                return;
            }
            let walk = tokio::task::spawn_blocking(move || {
                found.get_or_init(|| host.retained.matching_slowly(&filter, now));
                inbox.nudge();
            });
            // A walk that panicked has nothing to send; the panic is logged by its thread.
            let _done = walk.await;
        });
    }

    /// The subscription has ended, or is another one now.
    pub(super) fn forget_replays(&mut self, id: ConsumerId) {
        if let Some(rare) = self.host.rare.as_deref_mut() {
            rare.replays.retain(|replay| replay.consumer != id);
        }
    }

    /// Sends more to those that have room.
    pub(super) fn go_on_replaying(&mut self) {
        let Some(rare) = self.host.rare.as_deref_mut().filter(|rare| !rare.replays.is_empty()) else {
            return;
        };
        let mut waiting = VecDeque::new();
        for mut replay in std::mem::take(&mut rare.replays) {
            let found = Arc::clone(&replay.found);
            let Some(found) = found.get() else {
                waiting.push_back(replay);
                continue;
            };
            if self.host.has_room(&replay.receiver) {
                let (mut bytes, mut end) = (0, replay.sent);
                while let Some(message) = found.get(end).filter(|_| bytes < RETAINED_BYTES) {
                    bytes += message.size();
                    end += 1;
                }
                let chunk = found.get(replay.sent..end).unwrap_or_default();
                self.replay(replay.consumer, chunk, &replay.receiver);
                replay.sent = end;
            }
            if replay.sent < found.len() {
                waiting.push_back(replay);
            }
        }
        if let Some(rare) = self.host.rare.as_deref_mut() {
            rare.replays.append(&mut waiting);
        }
    }

    /// The connection ends: what a session has not got yet waits in its queue.
    pub(super) fn keep_replays(&mut self) {
        let Some(rare) = self.host.rare.as_deref_mut() else { return };
        let replays = std::mem::take(&mut rare.replays);
        if self.host.expiry.is_none_or(|expiry| expiry == Expiry::AtEnd) {
            return;
        }
        for replay in replays {
            if let (Receiver::Queue(_, Some(_)), Some(found)) = (&replay.receiver, replay.found.get()) {
                let rest = found.get(replay.sent..).unwrap_or_default();
                self.replay(replay.consumer, rest, &replay.receiver);
            }
        }
    }

    fn replay(&mut self, id: ConsumerId, messages: &[Arc<Message>], receiver: &Receiver) {
        let mut run = Run::default();
        let mut deliveries = Vec::new();
        let mut kept = Vec::new();
        for message in messages.iter().filter(|message| self.may_have(message.address.as_ref())) {
            match receiver {
                Receiver::Inbox(None) => deliveries.push(replayed_delivery(id, message, self.now)),
                Receiver::Inbox(Some(wire)) => (wire.encode)(wire, &replayed(message, self.now), &mut run),
                Receiver::Queue(_, Some(wire))
                    if wire.effective(message.header.guarantee) == Guarantee::AtMostOnce =>
                {
                    (wire.encode)(wire, &replayed(message, self.now), &mut run);
                }
                Receiver::Queue(..) => {
                    kept.push(Arc::new(Message::from_publish(&replayed(message, self.now), self.now)));
                }
            }
        }
        let inbox = Arc::clone(&self.host.info.inbox);
        let mut wake = false;
        if run.frames > 0 {
            wake |= inbox.push_unbounded(&run).wake;
        }
        if !deliveries.is_empty() {
            wake |= inbox.push_deliveries(&mut deliveries).wake;
        }
        if wake {
            self.batch.touched.push(inbox);
        }
        if let (Receiver::Queue(queue, wire), false) = (receiver, kept.is_empty()) {
            let host = Arc::clone(&self.host.host);
            self.batch.push_kept(&host, self.now, queue, wire.as_ref(), kept);
        }
    }
}

fn replayed(message: &Message, now: std::time::Instant) -> PublishRef<'_> {
    let mut publish = message.as_publish();
    publish.header.retain = Retain::Replayed;
    publish.header.ttl_ms = message.ttl_left_ms(now);
    publish
}

fn replayed_delivery(consumer: ConsumerId, message: &Message, now: std::time::Instant) -> Delivery {
    Delivery {
        consumer,
        tag: DeliveryTag(0),
        message: Arc::new(Message::from_publish(&replayed(message, now), now)),
        attempts: 0,
        redelivered: false,
        settled: true,
        remaining: 0,
        wire: None,
    }
}
