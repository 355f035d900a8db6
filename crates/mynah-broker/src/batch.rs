//! What one task publishes between two wake-ups of its receivers.
//!
//! Neighbouring publishes with the same route make a *run*: each wire class is encoded once into a buffer, and the buffer is
//! appended to every target in one go; messages that must be kept are pushed under one lock. A run ends when the route changes,
//! when it is full, or with the batch. Receivers are woken once, at the end of the batch.
//!
//! Never: holds two locks of the same kind, wakes under a lock, waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mynah_core::protocol::{Refusal, RefusalKind, Reply, Ticket};
use mynah_core::queue::{Effect, Refused};
use mynah_core::{
    Address, AddressRef, Cause, ConsumerId, Death, Delivery, DeliveryTag, Message, PublishRef, Retain, Run,
};

use crate::inbox::{Inbox, Pushed};
use crate::limits::{DEAD_LETTER_CHAIN_MAX, RUN_BYTES_MAX, RUN_MESSAGES_MAX};
use crate::metrics::{Meter, ProtocolCounters};
use crate::pool;
use crate::queues::QueueHandle;
use crate::routing::{Found, QueueTarget, Route};
use crate::virtual_host::VirtualHost;

/// A batch in the making. Reused; keeps its capacity.
#[derive(Debug)]
pub struct Batch {
    /// The publisher's connection, for "no local".
    publisher: u64,
    route: Option<Arc<Route>>,
    runs: Vec<Run>,
    messages: Vec<Arc<Message>>,
    tickets: Vec<(Ticket, usize)>,
    refused: Vec<(usize, Refused)>,
    deliveries: Vec<Delivery>,
    dead: VecDeque<DeadLetter>,
    burying: bool,
    /// Messages to a queue by its name, which was deleted between looking it up and pushing.
    homeless: Vec<Arc<Message>>,
    /// Between begin and end; still set at the next begin if a task panicked in between.
    busy: bool,
    pub touched: Vec<Arc<Inbox>>,
    pub effects: Vec<Effect>,
    pub replies: Vec<(Ticket, Reply)>,
    /// Receivers that asked the publisher to pause.
    pub congested: Vec<Arc<Inbox>>,
    /// The consumer whose accepted deliveries are being collected.
    pub settling: Option<ConsumerId>,
    pub settling_tags: Vec<DeliveryTag>,
    pub meter: Meter,
}

#[derive(Debug)]
struct DeadLetter {
    queue: Arc<QueueHandle>,
    message: Arc<Message>,
    cause: Cause,
    reason: Option<Box<str>>,
}

impl Batch {
    #[must_use]
    pub fn new(counters: Arc<ProtocolCounters>) -> Self {
        Self {
            publisher: 0,
            route: None,
            runs: Vec::new(),
            messages: Vec::new(),
            tickets: Vec::new(),
            refused: Vec::new(),
            deliveries: Vec::new(),
            dead: VecDeque::new(),
            burying: false,
            homeless: Vec::new(),
            busy: false,
            touched: Vec::new(),
            effects: Vec::new(),
            replies: Vec::new(),
            congested: Vec::new(),
            settling: None,
            settling_tags: Vec::new(),
            meter: Meter::new(counters),
        }
    }

    /// The batch belongs to the thread; from now on it works for this connection.
    pub fn begin(
        &mut self,
        inbox: &Arc<Inbox>,
        counters: &Arc<ProtocolCounters>,
        last_route: Option<Arc<Route>>,
    ) {
        if std::mem::replace(&mut self.busy, true) {
            *self = Self::new(Arc::clone(counters));
            self.busy = true;
        }
        // Replies that an earlier connection did not live to see are nobody's.
        self.replies.clear();
        self.publisher = inbox.connection();
        self.route = last_route;
        self.meter.work_for(counters);
        if let Some(route) = self.route.take() {
            self.begin_run(&route);
            self.route = Some(route);
        }
    }

    /// Everything was handed over: tells the registry, and gives back the route for the connection's next turn.
    pub fn end(&mut self) -> Option<Arc<Route>> {
        self.busy = false;
        self.meter.report();
        self.route.take()
    }

    /// Takes one publish. Its reply, if it has a ticket, comes with the flush at the latest.
    pub fn publish(
        &mut self,
        host: &VirtualHost,
        now: Instant,
        ticket: Option<Ticket>,
        publish: &PublishRef<'_>,
    ) {
        if publish.header.retain == Retain::Keep {
            // Before looking who subscribes: a new subscriber finds it in the store, or is found here.
            self.retain(host, now, publish);
        }
        let route = match self.route.take() {
            Some(route) if route.serves(&host.routes, publish.address) => route,
            old => {
                self.route = old;
                self.flush(host, now);
                let route = host.routes.find(publish.address, || host.build_route(publish, now));
                self.begin_run(&route);
                route
            }
        };
        let nowhere = publish.mandatory && !route.has_taker(publish.header.guarantee, self.publisher);
        if route.outcome != Found::Yes || nowhere {
            self.answer_unroutable(host, now, ticket, publish, &route);
            self.route = Some(route);
            return;
        }
        for (wire, run) in route.classes.iter().zip(&mut self.runs) {
            (wire.encode)(wire, publish, run);
        }
        if let Some(ticket) = ticket {
            if route.queues.is_empty() {
                // Nothing can go wrong any more, and what came before was answered when its run ended.
                self.replies.push((ticket, Reply::Published { routed: route.targets() }));
            } else {
                self.tickets.push((ticket, self.messages.len()));
            }
        }
        if route.needs_message() {
            self.messages.push(Arc::new(Message::with_address(publish, route.address.clone(), now)));
        }
        let full = self.runs.iter().any(|run| run.bytes.len() >= RUN_BYTES_MAX);
        let full = full || self.messages.len() >= RUN_MESSAGES_MAX;
        self.route = Some(route);
        if full {
            self.flush(host, now);
        }
    }

    /// Takes a message that is owned already (a will, a dead letter, an operator's), to `address`. Answers how many
    /// targets there are; 0 if the address does not exist.
    pub fn publish_message(
        &mut self,
        host: &VirtualHost,
        now: Instant,
        message: &Message,
        address: &Address,
    ) -> u32 {
        self.flush(host, now);
        let publish = PublishRef { address: address.as_ref(), ..message.as_publish() };
        if publish.header.retain == Retain::Keep {
            self.retain(host, now, &publish);
        }
        let route = host.routes.find(publish.address, || host.build_route(&publish, now));
        if matches!(route.outcome, Found::NoQueue | Found::NoExchange) {
            return 0;
        }
        self.begin_run(&route);
        for (wire, run) in route.classes.iter().zip(&mut self.runs) {
            (wire.encode)(wire, &publish, run);
        }
        if route.needs_message() {
            let mut copy = Message::with_address(&publish, address.clone(), now);
            copy.deaths.clone_from(&message.deaths);
            self.messages.push(Arc::new(copy));
        }
        let targets = route.targets();
        self.route = Some(route);
        self.flush(host, now);
        targets
    }

    fn begin_run(&mut self, route: &Route) {
        while self.runs.len() < route.classes.len() {
            self.runs.push(pool::take_run());
        }
    }

    fn retain(&mut self, host: &VirtualHost, now: Instant, publish: &PublishRef<'_>) {
        let AddressRef::Topic(topic) = publish.address else { return };
        let message = Arc::new(Message::from_publish(publish, now));
        if !host.retained.set(topic, &message) {
            self.meter.dropped_retained += 1;
        }
    }

    /// Hands the run over to all its targets and answers its tickets.
    pub fn flush(&mut self, host: &VirtualHost, now: Instant) {
        let Some(route) = self.route.take() else { return };
        if !route.direct.is_empty() {
            self.flush_direct(&route, now);
        }
        if !self.messages.is_empty() {
            self.flush_objects(&route, now);
            self.flush_queues(&route, host, now);
            self.messages.clear();
        }
        self.answer(&route);
        // The route is kept: the next publish probably has the same.
        self.route = Some(route);
        for message in std::mem::take(&mut self.homeless) {
            let address = message.address.clone();
            if self.publish_message(host, now, &message, &address) == 0 {
                self.dead_letter_without_queue(host, now, &message);
            }
        }
        if !self.dead.is_empty() {
            self.bury(host, now);
        }
    }

    fn flush_direct(&mut self, route: &Route, now: Instant) {
        for target in &route.direct {
            let Some(run) = self.runs.get(target.class) else { continue };
            if run.frames == 0 || (target.no_local && target.inbox.connection() == self.publisher) {
                continue;
            }
            let pushed = target.inbox.push_run(run, now);
            note(pushed, &target.inbox, &mut self.touched, &mut self.congested, &mut self.meter);
        }
        self.runs.iter_mut().for_each(Run::clear);
    }

    fn flush_objects(&mut self, route: &Route, now: Instant) {
        for target in &route.objects {
            if target.no_local && target.inbox.connection() == self.publisher {
                continue;
            }
            self.deliveries.extend(self.messages.iter().map(|message| Delivery {
                consumer: target.consumer,
                tag: DeliveryTag(0),
                message: Arc::clone(message),
                attempts: 0,
                redelivered: false,
                settled: true,
                remaining: 0,
                wire: None,
            }));
            let pushed = target.inbox.push_direct(&mut self.deliveries, now);
            note(pushed, &target.inbox, &mut self.touched, &mut self.congested, &mut self.meter);
        }
    }

    fn flush_queues(&mut self, route: &Route, host: &VirtualHost, now: Instant) {
        for target in &route.queues {
            if let Some(at) = self.push_to_queue(target, now) {
                host.shared.timers.add_messages(at, host, &target.queue);
            }
            self.collect(&target.queue);
        }
    }

    /// Answers when the queue's timer is to be set, if that has changed.
    fn push_to_queue(&mut self, target: &QueueTarget, now: Instant) -> Option<Instant> {
        let queue = &target.queue;
        let mut guarded = queue.lock();
        if queue.is_deleted() {
            drop(guarded);
            if self.messages.first().is_some_and(|message| names_a_queue(&message.address)) {
                self.homeless.extend(self.messages.iter().cloned());
            }
            return None;
        }
        let mut pushed = 0;
        for (at, message) in self.messages.iter().enumerate() {
            if !target.takes(message.header.guarantee, self.publisher) {
                continue;
            }
            let copy = Arc::clone(message);
            match guarded.machine.push(now, copy, target.wire.clone(), self.publisher, &mut self.effects) {
                Ok(()) => pushed += 1,
                Err(refused) => self.refused.push((at, refused)),
            }
        }
        queue.dispatch(&mut guarded.machine, now, &mut self.touched, &mut self.effects);
        let due = guarded.arm();
        drop(guarded);
        queue.published.fetch_add(pushed, std::sync::atomic::Ordering::Relaxed);
        due
    }

    fn answer(&mut self, route: &Route) {
        for (ticket, at) in self.tickets.drain(..) {
            let refused = self.refused.iter().find(|(refused_at, _)| *refused_at == at);
            let reply = match refused {
                None => Reply::Published { routed: route.targets() },
                Some((_, Refused::Full)) => Reply::Refused(Refusal::new(
                    RefusalKind::Full,
                    format!("{} is full: consume from it, or raise its maximum length", route.address),
                )),
                Some((_, Refused::TooLarge)) => Reply::Refused(Refusal::new(
                    RefusalKind::TooLarge,
                    format!("the message is larger than {} takes", route.address),
                )),
            };
            self.replies.push((ticket, reply));
        }
        self.meter.refused += self.refused.len() as u64;
        self.refused.clear();
    }

    /// Takes note of what a queue's machine has to have done. Call it after each change of a queue, without its lock.
    pub fn collect(&mut self, queue: &Arc<QueueHandle>) {
        for effect in self.effects.drain(..) {
            match effect {
                Effect::DeadLetter { message, cause, reason, origin: _ } => {
                    self.dead.push_back(DeadLetter { queue: Arc::clone(queue), message, cause, reason });
                }
                // Only the connection that asked for it drains, and it has looked already: host/consume.rs.
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
        while let Some(dead) = self.dead.pop_front() {
            steps += 1;
            if dead.cause == Cause::QueueLength && dead.queue.loses_what_does_not_fit() {
                // The slow subscriber's own loss, as with a full inbox.
                self.meter.dropped_full += 1;
                continue;
            }
            dead.queue.dead_lettered.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.meter.dead_letter(dead.cause);
            let spec = dead.queue.spec();
            let address = host.dead_letter_address(&dead.queue, &spec, dead.cause, &dead.message.address);
            let looping = dead.cause != Cause::Rejected && went_round(&dead.message, &dead.queue.name);
            let Some(address) = address.filter(|_| !looping && steps <= DEAD_LETTER_CHAIN_MAX) else {
                self.meter.dropped_dead += 1;
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
        }
        self.burying = false;
    }

    fn answer_unroutable(
        &mut self,
        host: &VirtualHost,
        now: Instant,
        ticket: Option<Ticket>,
        publish: &PublishRef<'_>,
        route: &Route,
    ) {
        if route.outcome == Found::NoExchange {
            if let Some(ticket) = ticket {
                let Address::Exchange { name, .. } = &route.address else { return };
                let text = format!("no exchange '{name}' in vhost '{}'", host.name);
                self.replies.push((ticket, Reply::Refused(Refusal::new(RefusalKind::NotFound, text))));
            }
            return;
        }
        if route.outcome == Found::Internal {
            if let Some(ticket) = ticket {
                let text = format!("cannot publish to internal {} in vhost '{}'", route.address, host.name);
                self.replies.push((ticket, Reply::Refused(Refusal::new(RefusalKind::Forbidden, text))));
            }
            self.meter.refused += 1;
            return;
        }
        let message = Message::with_address(publish, route.address.clone(), now);
        if publish.mandatory {
            if let Some(ticket) = ticket {
                self.replies.push((ticket, Reply::Returned(Arc::new(message))));
            }
            return;
        }
        if let Some(ticket) = ticket {
            self.replies.push((ticket, Reply::Published { routed: 0 }));
        }
        self.dead_letter_without_queue(host, now, &message);
    }

    /// A message whose queue does not exist goes to the queue for such messages.
    fn dead_letter_without_queue(&mut self, host: &VirtualHost, now: Instant, message: &Message) {
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

    /// Ends the batch: hands over, then wakes every receiver once.
    pub fn finish(&mut self, host: &VirtualHost, now: Instant) {
        self.flush(host, now);
        if !self.dead.is_empty() {
            self.bury(host, now);
        }
        self.wake();
    }

    /// Wakes every receiver that something was appended for.
    pub fn wake(&mut self) {
        for inbox in self.touched.drain(..) {
            inbox.wake();
        }
    }
}

fn note(
    pushed: Pushed,
    inbox: &Arc<Inbox>,
    touched: &mut Vec<Arc<Inbox>>,
    congested: &mut Vec<Arc<Inbox>>,
    meter: &mut Meter,
) {
    if pushed.wake {
        touched.push(Arc::clone(inbox));
    }
    if pushed.pause {
        congested.push(Arc::clone(inbox));
    }
    meter.dropped_full += u64::from(pushed.dropped);
}

/// It has been dead-lettered from this queue before, and nobody rejected it on the way: it would go round for ever.
fn went_round(message: &Message, queue: &str) -> bool {
    message.deaths.iter().any(|death| &*death.queue == queue)
        && message.deaths.iter().all(|death| death.cause != Cause::Rejected)
}

fn names_a_queue(address: &Address) -> bool {
    match address {
        Address::Queue(_) => true,
        Address::Exchange { name, .. } => name.is_empty(),
        Address::Topic(_) | Address::Client(_) => false,
    }
}

fn missing_name(address: &Address) -> Arc<str> {
    match address {
        Address::Topic(name) | Address::Queue(name) | Address::Client(name) => Arc::clone(name),
        Address::Exchange { key, .. } => Arc::clone(key),
    }
}

/// Wall-clock milliseconds, for what people read.
#[must_use]
pub fn epoch_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}
