//! What the sessions and links of one connection share: tickets under way, consumer numbers, link names, buffers.
//!
//! Never: decides anything about a session or a link; it only remembers who asked what.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;
use mynah_core::hash::FastMap;
use mynah_core::protocol::{End, Host, Ticket};
use mynah_core::{ConsumerId, DeliveryTag, TransactionId};

use crate::Amqp10Config;
use crate::codec::performative::LinkRole;
use crate::transaction::Transactions;

/// One life of a link; handles are used again, this is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkAt {
    pub(crate) channel: u16,
    pub(crate) handle: u32,
    pub(crate) life: u64,
}

/// The delivery on a coordinator's link that waits for its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) at: LinkAt,
    pub(crate) delivery_id: u32,
}

/// What a ticket was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Login,
    Open,
    /// A step towards the answer of an attach.
    Link(LinkAt, AttachStep),
    /// A transaction is to begin, for a message to the coordinator.
    Declare(Asker, TransactionId),
    /// One is to end; nobody may be waiting for that.
    Discharge(Option<Asker>, TransactionId),
    /// The consumer's number is free again when this is answered.
    ConsumerGone(ConsumerId),
    /// Nobody waits for the answer.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttachStep {
    /// Whether the queue or exchange that is sent to is there.
    Probe,
    /// It was not, so it is made.
    Create,
    /// A queue with a name of the broker's choice.
    Dynamic,
    /// The consumer.
    Consume,
    /// Whether the durable subscription of a link without source is there.
    Recall,
}

/// A publish whose outcome the peer waits for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PendingPublish {
    ticket: u64,
    pub(crate) channel: u16,
    /// The life of the session.
    pub(crate) life: u64,
    pub(crate) delivery_id: u32,
    /// A queue or exchange that takes the message nowhere releases it; a topic without subscribers accepts.
    pub(crate) release_unrouted: bool,
    pub(crate) transaction: Option<TransactionId>,
}

/// Tickets of requests have this bit, those of publishes do not.
const REQUEST: u64 = 1 << 63;

#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: Arc<Amqp10Config>,
    /// Unique in the life of the process.
    pub(crate) connection: u64,
    pub(crate) container_id: Box<str>,
    /// The largest frame the peer takes.
    pub(crate) frame_max: u32,
    /// Bytes in messages of which not all frames came yet, over all links.
    pub(crate) assembling: usize,
    pub(crate) names: HashMap<(Box<str>, LinkRole), LinkAt>,
    /// For the parts of a payload that are written anew for each delivery.
    pub(crate) head: BytesMut,
    /// For the deliveries of one disposition.
    pub(crate) tags: Vec<DeliveryTag>,
    /// For bodies of several data sections.
    pub(crate) body: Vec<u8>,
    pub(crate) transactions: Transactions,
    requests: HashMap<u64, Request>,
    publishes: VecDeque<PendingPublish>,
    next_ticket: u64,
    next_life: u64,
    consumers: FastMap<u32, LinkAt>,
    last_consumer: u32,
}

impl Context {
    pub(crate) fn new(config: Arc<Amqp10Config>, connection: u64) -> Self {
        Self {
            config,
            connection,
            container_id: Box::default(),
            frame_max: crate::codec::frame::FRAME_BYTES_MIN,
            assembling: 0,
            names: HashMap::new(),
            head: BytesMut::new(),
            tags: Vec::new(),
            body: Vec::new(),
            transactions: Transactions::default(),
            requests: HashMap::new(),
            publishes: VecDeque::new(),
            next_ticket: 0,
            next_life: 0,
            consumers: FastMap::default(),
            last_consumer: 0,
        }
    }

    pub(crate) fn life(&mut self) -> u64 {
        self.next_life += 1;
        self.next_life
    }

    pub(crate) fn ask(&mut self, request: Request) -> Ticket {
        self.next_ticket += 1;
        let ticket = self.next_ticket | REQUEST;
        self.requests.insert(ticket, request);
        Ticket(ticket)
    }

    pub(crate) fn answered(&mut self, ticket: Ticket) -> Option<Request> {
        self.requests.remove(&ticket.0)
    }

    pub(crate) fn publishing(
        &mut self,
        channel: u16,
        life: u64,
        delivery_id: u32,
        release_unrouted: bool,
        transaction: Option<TransactionId>,
    ) -> Ticket {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        self.publishes.push_back(PendingPublish {
            ticket,
            channel,
            life,
            delivery_id,
            release_unrouted,
            transaction,
        });
        Ticket(ticket)
    }

    /// The publish that a reply belongs to; replies to publishes come in their order.
    #[inline]
    pub(crate) fn published(&mut self, ticket: Ticket) -> Option<PendingPublish> {
        if ticket.0 & REQUEST != 0 {
            return None;
        }
        if self.publishes.front().is_some_and(|pending| pending.ticket == ticket.0) {
            return self.publishes.pop_front();
        }
        let at = self.publishes.iter().position(|pending| pending.ticket == ticket.0)?;
        self.publishes.remove(at)
    }

    /// A number for a new consumer; never 0, which is the session's own [`ConsumerId::SESSION`], and never one that was used
    /// before: a late delivery must not be taken for one of the next consumer.
    pub(crate) fn consumer(&mut self, at: LinkAt) -> ConsumerId {
        self.last_consumer = self.last_consumer.wrapping_add(1).max(1);
        self.consumers.insert(self.last_consumer, at);
        ConsumerId(self.last_consumer)
    }

    #[inline]
    pub(crate) fn link_of(&self, consumer: ConsumerId) -> Option<LinkAt> {
        self.consumers.get(&consumer.0).copied()
    }

    /// The broker knows nothing of this consumer (any more).
    pub(crate) fn free_consumer(&mut self, consumer: ConsumerId) {
        self.consumers.remove(&consumer.0);
    }

    /// Ends a consumer. What it has settled in a transaction stays with that.
    pub(crate) fn end_consumer(&mut self, consumer: ConsumerId, forget: bool, host: &mut dyn Host) {
        self.free_consumer(consumer);
        let ticket = self.ask(Request::ConsumerGone(consumer));
        let keep_unsettled = self.transactions.hold(consumer);
        host.detach(ticket, consumer, End { forget, keep_unsettled });
    }
}
