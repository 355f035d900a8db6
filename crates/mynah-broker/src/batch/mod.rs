//! What one task publishes between two wake-ups of its receivers.
//!
//! Neighbouring publishes with the same route make a *run*: each wire class is encoded once into a buffer, and the buffer is
//! appended to every target in one go; messages that must be kept are pushed under one lock. A run ends when the route changes,
//! when it is full, or with the batch. Receivers are woken once, at the end of the batch.
//!
//! Never: wakes under a lock, waits; holds two locks of the same kind, but those of queues in their order (`kept`).

mod dead_letters;
mod kept;
mod transaction;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use mynah_core::engine::{Condition, Gone, QueueNumber};
use mynah_core::protocol::{Refusal, RefusalKind, Reply, Safe, Ticket};
use mynah_core::queue::Effect;
use mynah_core::{
    Address, AddressRef, ConsumerId, Delivery, DeliveryTag, Frames, Message, PublishRef, Retain, Run,
};

use self::dead_letters::DeadLetter;
pub(crate) use self::kept::refusal_of;
use self::kept::{NotTaken, Writing};
pub(crate) use self::transaction::{ToPublish, ToSettle};
use crate::durable;
use crate::inbox::{Inbox, Pushed};
use crate::limits::{RUN_BYTES_MAX, RUN_MESSAGES_MAX};
use crate::metrics::{Meter, ProtocolCounters};
use crate::pool;
use crate::queues::QueueHandle;
use crate::routing::{Found, Route};
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
    refused: Vec<(usize, NotTaken)>,
    deliveries: Vec<Delivery>,
    dead: VecDeque<DeadLetter>,
    burying: bool,
    /// Messages to a queue by its name, which was deleted between looking it up and pushing.
    homeless: Vec<Arc<Message>>,
    writing: Writing,
    /// Keys that the publisher's session notes in one with the run.
    notes: Vec<u32>,
    /// The number of that session's queue.
    pub session: Option<QueueNumber>,
    /// What is settled in this turn is to be safe before its bytes leave.
    pub settle_safely: bool,
    /// What the protocol notes, to be written at the end of the turn.
    pub noted_later: Vec<(u32, Option<Bytes>, Safe)>,
    /// A note is among what is being written.
    noted: bool,
    /// The dead letter that is being sent on leaves this behind, in that queue.
    origin: Option<(QueueNumber, Gone)>,
    /// Why the log takes no durable message of this run.
    trouble: Option<Condition>,
    /// Between begin and end; still set at the next begin if a task panicked in between.
    busy: bool,
    pub touched: Vec<Arc<Inbox>>,
    /// Somebody was woken in this turn.
    woke: bool,
    /// This turn's answer is not to wait for anybody.
    pub answers_first: bool,
    pub effects: Vec<Effect>,
    pub replies: Vec<(Ticket, Reply)>,
    /// Queues that the disk does not keep up with: their publishers are to pause.
    pub gated: Vec<Arc<QueueHandle>>,
    /// Receivers that asked the publisher to pause.
    pub congested: Vec<Arc<Inbox>>,
    /// The consumer whose accepted deliveries are being collected.
    pub settling: Option<ConsumerId>,
    pub settling_tags: Vec<DeliveryTag>,
    pub meter: Meter,
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
            writing: Writing::default(),
            notes: Vec::new(),
            session: None,
            settle_safely: false,
            noted_later: Vec::new(),
            noted: false,
            origin: None,
            trouble: None,
            busy: false,
            touched: Vec::new(),
            woke: false,
            answers_first: false,
            effects: Vec::new(),
            replies: Vec::new(),
            gated: Vec::new(),
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
        self.session = None;
        self.noted_later.clear();
        self.settle_safely = false;
        self.woke = false;
        self.answers_first = false;
        durable::begin_turn();
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
        let address = publish.address;
        let route = match self.route.take() {
            Some(route) if route.serves(&host.routes, address) => route,
            old => {
                self.route = old;
                self.flush(host, now);
                let hash = host.routes.hash_of(address);
                let route = match host.routes.remembered(hash, address) {
                    Some(route) => route,
                    None if ticket.is_none() && is_only_retained(host, publish) => return,
                    None => host.routes.remember(hash, host.build_route(publish, now)),
                };
                self.begin_run(&route);
                route
            }
        };
        let nowhere = publish.mandatory && !route.has_taker(publish.header.guarantee, self.publisher);
        if route.outcome != Found::Yes || nowhere {
            self.answer_unroutable(host, now, ticket, publish, &route);
            if route.outcome == Found::NoQueue && !publish.mandatory {
                self.notes.extend(publish.note);
                self.write_notes_alone(host);
            }
            self.route = Some(route);
            return;
        }
        self.notes.extend(publish.note);
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

    /// Takes frames as they are, if everybody they go to gets them so.
    pub fn pass_on(
        &mut self,
        host: &VirtualHost,
        now: Instant,
        address: AddressRef<'_>,
        frames: &Frames<'_>,
    ) -> bool {
        let known = self.route.take_if(|route| route.serves(&host.routes, address));
        let route = known.unwrap_or_else(|| {
            self.flush(host, now);
            let publish = PublishRef::new(address, &[]);
            let route = host.routes.find(address, || host.build_route(&publish, now));
            self.begin_run(&route);
            route
        });
        let passes = route.outcome == Found::Yes
            && !route.needs_message()
            && route.classes.iter().all(|wire| wire.passes(frames));
        if passes {
            // What came before.
            if self.runs.iter().any(|run| run.frames > 0) {
                self.flush_direct(&route, now);
            }
            for target in &route.direct {
                if target.no_local && target.inbox.connection() == self.publisher {
                    continue;
                }
                let pushed = target.inbox.push_frames(frames.bytes, frames.count, &[], now);
                note(pushed, &target.inbox, &mut self.touched, &mut self.congested, &mut self.meter);
            }
        }
        self.route = Some(route);
        passes
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
        if !host.set_retained(topic, publish, now) {
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
        self.write_notes_alone(host);
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
                wire: target.wire.clone(),
            }));
            let pushed = target.inbox.push_direct(&mut self.deliveries, now);
            note(pushed, &target.inbox, &mut self.touched, &mut self.congested, &mut self.meter);
        }
    }

    /// A queue was deleted between looking it up and pushing.
    fn note_homeless(&mut self) {
        if self.messages.first().is_some_and(|message| names_a_queue(&message.address)) {
            self.homeless.extend(self.messages.iter().cloned());
        }
    }

    fn answer(&mut self, route: &Route) {
        for (ticket, at) in self.tickets.drain(..) {
            let refused = self.refused.iter().find(|(refused_at, _)| *refused_at == at);
            let reply = match refused {
                None => Reply::Published { routed: route.targets() },
                Some((_, why)) => Reply::Refused(why.refusal(&route.address)),
            };
            self.replies.push((ticket, reply));
        }
        self.meter.refused += self.refused.len() as u64;
        self.refused.clear();
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

    /// Ends the batch: hands over, then wakes every receiver once.
    pub fn finish(&mut self, host: &VirtualHost, now: Instant) {
        self.flush(host, now);
        if !self.dead.is_empty() {
            self.bury(host, now);
        }
        self.wake();
    }

    /// Whether receivers have something to write which this turn's answer can wait for.
    #[must_use]
    pub fn lets_receivers_write(&self) -> bool {
        self.woke && !self.answers_first
    }

    /// Wakes every receiver that something was appended for.
    pub fn wake(&mut self) {
        self.woke |= !self.touched.is_empty();
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

/// A retained value that nobody waits for: many topics, most of them without a subscriber, are worth a look before a route is built.
fn is_only_retained(host: &VirtualHost, publish: &PublishRef<'_>) -> bool {
    let retained = publish.header.retain == Retain::Keep && !publish.mandatory;
    retained && matches!(publish.address, AddressRef::Topic(topic) if host.routes.leads_nowhere(topic))
}

fn names_a_queue(address: &Address) -> bool {
    match address {
        Address::Queue(_) => true,
        Address::Exchange { name, .. } => name.is_empty(),
        Address::Topic(_) | Address::Client(_) => false,
    }
}

/// Wall-clock milliseconds, for what people read.
#[must_use]
pub fn epoch_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}
