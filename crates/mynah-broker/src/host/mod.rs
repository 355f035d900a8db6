//! What one connection sees of the broker.
//!
//! [`ConnectionHost`] is what lasts: small, because there may be a hundred thousand of them. [`Turn`] is one poll of the connection's
//! task, with the thread's batch: it is the `Host` that the protocol talks to.

mod consume;
mod define;
mod held;
mod login;
mod replay;
pub(crate) mod session;
mod settle;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use mynah_core::protocol::{
    Change, Credentials, End, Expiry, Farewell, Host, Peer, Refusal, RefusalKind, Reply, Safe, SessionSpec,
    Source, Step, Ticket, Will,
};
use mynah_core::{Address, AddressRef, ConsumerId, DeliveryTag, Frames, Outcome, PublishRef, TransactionId};

use crate::access::ANONYMOUS;
use crate::batch::Batch;
use crate::broker::Broker;
use crate::connections::ConnectionInfo;
use crate::durable;
use crate::inbox::Inbox;
use crate::metrics::ProtocolCounters;
use crate::pool;
use crate::queues::QueueHandle;
use crate::routing::Route;
use crate::rules::{Action, Who};
use crate::scram::Exchange;
use crate::sessions::Client;
use crate::virtual_host::VirtualHost;

pub(crate) use consume::{Consumer, FromQueue};
use held::Held;
use replay::Replay;
use settle::Transaction;

/// The lasting part of a connection's view of the broker.
#[derive(Debug)]
pub struct ConnectionHost {
    pub broker: Arc<Broker>,
    pub host: Arc<VirtualHost>,
    pub info: Arc<ConnectionInfo>,
    /// Bytes for the peer.
    pub wire: BytesMut,
    pub closing: Option<Box<Farewell>>,
    last_route: Option<Arc<Route>>,
    /// Sorted by number.
    consumers: Vec<(ConsumerId, Consumer)>,
    client: Option<Arc<Client>>,
    /// Of its session.
    expiry: Option<Expiry>,
    will: Option<Box<Will>>,
    rare: Option<Box<Rare>>,
    /// Set once the connection has done something durable.
    held: Option<Box<Held>>,
    finished: bool,
}

/// What few connections have.
#[derive(Debug, Default)]
struct Rare {
    /// A login in several messages.
    login: Option<Box<Exchange>>,
    transactions: HashMap<TransactionId, Transaction>,
    /// Queues to wait for.
    gated: Vec<Arc<QueueHandle>>,
    /// Receivers to wait for, with the round of waiting this connection is registered for.
    congested: Vec<(Arc<Inbox>, Option<u64>)>,
    parked: Option<Bytes>,
    /// Retained messages that are still to be sent.
    replays: VecDeque<Replay>,
    /// Where it published last, which the rules allowed.
    allowed: Option<Address>,
    /// Queues that are exclusive to this connection.
    exclusive: Vec<Arc<str>>,
    /// Consumers that ended but may still settle.
    lingering: Vec<(ConsumerId, FromQueue)>,
}

/// One poll of a connection's task.
#[derive(Debug)]
pub struct Turn<'a> {
    pub host: &'a mut ConnectionHost,
    pub batch: &'a mut Batch,
    pub now: Instant,
    /// Where in the wire its bytes begin.
    wire_start: usize,
}

impl ConnectionHost {
    #[must_use]
    pub fn new(
        broker: &Arc<Broker>,
        peer: &Arc<Peer>,
        counters: &Arc<ProtocolCounters>,
        now: Instant,
    ) -> Self {
        let inbox = Inbox::new(peer.connection, broker.shared.config.inbox_bytes_max);
        let info = ConnectionInfo::new(Arc::clone(peer), inbox, Arc::clone(counters), now);
        broker.register(peer, &info);
        Self {
            broker: Arc::clone(broker),
            host: Arc::clone(broker.default_host()),
            info,
            wire: BytesMut::new(),
            closing: None,
            last_route: None,
            consumers: Vec::new(),
            client: None,
            expiry: None,
            will: None,
            rare: None,
            held: None,
            finished: false,
        }
    }

    /// Begins a turn; [`Turn::finish`] must end it.
    pub fn turn<'a>(&'a mut self, batch: &'a mut Batch, now: Instant) -> Turn<'a> {
        batch.begin(&self.info.inbox, &self.info.counters, self.last_route.take());
        let wire_start = self.wire.len();
        Turn { host: self, batch, now, wire_start }
    }

    /// Whether a receiver this connection publishes to is congested: do not read until it says otherwise.
    pub fn is_paused(&mut self) -> bool {
        if self.waits_for_log() {
            return true;
        }
        let Some(rare) = self.rare.as_deref_mut() else { return false };
        let inbox = &self.info.inbox;
        rare.gated.retain(|queue| queue.gate.wait(inbox));
        if !rare.gated.is_empty() {
            return true;
        }
        rare.congested.retain_mut(|(receiver, registered)| receiver.wait_for_room(inbox, registered));
        !rare.congested.is_empty()
    }

    pub(crate) fn client(&self) -> Option<Arc<Client>> {
        self.client.clone()
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

impl Turn<'_> {
    /// Hands everything over and wakes the receivers.
    pub fn finish(mut self) {
        self.flush_settlements();
        self.go_on_replaying();
        self.batch.finish(&self.host.host, self.now);
        if !self.batch.congested.is_empty() {
            let rare = self.host.rare();
            for receiver in self.batch.congested.drain(..) {
                if !rare.congested.iter().any(|(known, _)| Arc::ptr_eq(known, &receiver)) {
                    rare.congested.push((receiver, None));
                }
            }
        }
        for queue in std::mem::take(&mut self.batch.gated) {
            let gated = &mut self.host.rare().gated;
            if !gated.iter().any(|known| Arc::ptr_eq(known, &queue)) {
                gated.push(queue);
            }
        }
        self.write_notes();
        if std::mem::take(&mut self.batch.settle_safely) {
            self.host.broker.shared.demand_added();
        }
        let durable::Added { demanded, last } = durable::end_turn();
        if let Some(lsn) = demanded {
            self.host.hold(self.wire_start, lsn);
        }
        if let Some(lsn) = last {
            self.host.has_added(lsn);
        }
        self.host.info.count(self.batch.meter.received, self.batch.meter.delivered);
        self.host.last_route = self.batch.end();
    }

    /// Hands over what was published and settled so far, so that its replies are there.
    pub fn flush(&mut self) {
        self.flush_settlements();
        self.batch.flush(&self.host.host, self.now);
    }

    fn reply(&mut self, ticket: Ticket, reply: Reply) {
        // Replies come in the order of the requests: what is still in the run is answered first.
        self.batch.flush(&self.host.host, self.now);
        self.batch.replies.push((ticket, reply));
    }

    fn reply_or_refuse(&mut self, ticket: Ticket, result: Result<Reply, Refusal>) {
        self.reply(ticket, result.unwrap_or_else(Reply::Refused));
    }

    /// Looks at the rules only if it is not where it published last.
    #[inline]
    fn may_publish(&mut self, address: AddressRef<'_>) -> Result<(), Refusal> {
        let access = &self.host.broker.shared.access;
        let ruled = !access.rules.is_empty();
        match address {
            // Nobody else's, and nobody is asked.
            AddressRef::Topic(topic) if !ruled && !topic.starts_with('$') => Ok(()),
            AddressRef::Topic(_)
            | AddressRef::Queue(_)
            | AddressRef::Exchange { .. }
            | AddressRef::Client(_) => self.is_allowed_to_publish(ruled, address),
        }
    }

    fn is_allowed_to_publish(&mut self, ruled: bool, address: AddressRef<'_>) -> Result<(), Refusal> {
        let access = &self.host.broker.shared.access;
        let known = self.host.rare.as_deref().and_then(|rare| rare.allowed.as_ref());
        if ruled && known.is_some_and(|known| known.as_ref() == address) {
            return Ok(());
        }
        access.authorise(self.who(), Action::Publish, address)?;
        if ruled {
            self.host.rare().allowed = Some(address.to_owned());
        }
        Ok(())
    }

    pub(crate) fn who(&self) -> Who<'_> {
        let client = self.host.info.about().map_or("", |about| &*about.client_id);
        Who { user: self.user(), client }
    }

    fn user(&self) -> &str {
        self.host.info.user().map_or(ANONYMOUS, |user| user)
    }
}

impl Host for Turn<'_> {
    fn wire(&mut self) -> &mut BytesMut {
        if self.host.wire.capacity() == 0 {
            self.host.wire = pool::take_buffer();
        }
        &mut self.host.wire
    }

    fn authenticate(&mut self, ticket: Ticket, credentials: Credentials<'_>) {
        self.log_in(ticket, credentials);
    }

    fn open(&mut self, ticket: Ticket, session: SessionSpec<'_>) {
        self.open_session(ticket, session);
    }

    fn publish(&mut self, ticket: Option<Ticket>, publish: &PublishRef<'_>) {
        self.batch.meter.received += 1;
        let refusal = if publish.size() > self.host.broker.shared.config.message_bytes_max {
            Some(Refusal::new(
                RefusalKind::TooLarge,
                "the message is larger than the broker takes (limits.message_bytes_max)",
            ))
        } else {
            self.may_publish(publish.address).err()
        };
        if let Some(refusal) = refusal {
            self.batch.meter.refused += 1;
            if let Some(transaction) = publish.transaction {
                self.spoil(transaction, &refusal);
            }
            if let Some(ticket) = ticket {
                self.reply(ticket, Reply::Refused(refusal));
            }
            return;
        }
        if let Some(transaction) = publish.transaction {
            self.stage_publish(ticket, transaction, publish);
            return;
        }
        if publish.note.is_some() && self.batch.session.is_none() {
            self.batch.session = self.session_number();
        }
        if publish.delay_ms > 0 {
            self.publish_later(ticket, publish);
            return;
        }
        self.batch.publish(&self.host.host, self.now, ticket, publish);
    }

    fn pass_on(&mut self, address: AddressRef<'_>, frames: &Frames<'_>) -> bool {
        // None of them can be too large for the broker if all of them together are not.
        let small = frames.bytes.len() <= self.host.broker.shared.config.message_bytes_max;
        let passed = small
            && self.may_publish(address).is_ok()
            && self.batch.pass_on(&self.host.host, self.now, address, frames);
        self.batch.meter.received += if passed { u64::from(frames.count) } else { 0 };
        passed
    }

    fn attach(&mut self, ticket: Ticket, consumer: ConsumerId, source: Source<'_>) {
        self.flush_settlements();
        let result = self.attach_consumer(consumer, &source);
        if result.is_ok() {
            self.keep_subscription(consumer, &source);
        }
        self.reply_or_refuse(ticket, result);
    }

    fn flow(&mut self, consumer: ConsumerId, credit: u32, drain: bool) {
        self.flush_settlements();
        self.grant(consumer, credit, drain);
    }

    fn settle(
        &mut self,
        consumer: ConsumerId,
        tags: &[DeliveryTag],
        outcome: &Outcome,
        transaction: Option<TransactionId>,
    ) {
        self.settle_deliveries(consumer, tags, outcome, transaction);
    }

    fn detach(&mut self, ticket: Ticket, consumer: ConsumerId, end: End) {
        self.flush_settlements();
        let existed = self.detach_consumer(consumer, end);
        self.reply(ticket, Reply::Detached { existed });
    }

    fn define(&mut self, ticket: Ticket, change: Change<'_>) {
        // What was published before must be there before a queue is purged or deleted.
        self.batch.flush(&self.host.host, self.now);
        self.flush_settlements();
        let result = self.change(&change);
        self.reply_or_refuse(ticket, result);
    }

    fn transact(&mut self, ticket: Ticket, step: Step) {
        self.batch.flush(&self.host.host, self.now);
        self.flush_settlements();
        let result = self.transaction(step);
        self.reply_or_refuse(ticket, result);
    }

    fn park(&mut self, state: Bytes) {
        self.host.rare().parked = Some(state);
    }

    fn note(&mut self, key: u32, value: Option<&[u8]>, when: Safe) {
        self.batch.noted_later.push((key, value.map(Bytes::copy_from_slice), when));
    }

    fn settle_safely(&mut self) {
        self.batch.settle_safely = true;
    }

    fn answer_first(&mut self) {
        self.batch.answers_first = true;
    }

    fn close(&mut self, farewell: Farewell) {
        self.host.closing = Some(Box::new(farewell));
    }
}
