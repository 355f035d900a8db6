//! A link on which the peer sends: transfers are put together and published (AMQP 1.0 part 2.6.12, 2.6.14).
//!
//! A message in one frame is published where it lies in the read buffer. A longer one is assembled here, bounded by what
//! came, never by what was declared.
//!
//! Never: answers a publish; replies come later and go out as ranges, see [`crate::session`].

use bytes::BytesMut;
use mynah_core::protocol::Host;
use mynah_core::{Address, AddressRef, ContentRef, Guarantee, Header, PublishRef, TransactionId};

use crate::address::{Hint, Node};
use crate::codec::section::{self, Body, Sections};
use crate::codec::transaction::TransactionalState;
use crate::codec::transfer::{LinkFlow, Transfer};
use crate::context::{Asker, Context, LinkAt};
use crate::link::PendingAttach;
use crate::reason::{self, Condition};
use crate::transaction;
use crate::translate;

#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) at: LinkAt,
    pub(crate) name: Box<str>,
    /// Set until the attach is answered.
    pub(crate) pending: Option<Box<PendingAttach>>,
    pub(crate) target: Target,
    /// The queue that was made for this link and goes with it.
    pub(crate) temporary: Option<Box<str>>,
    /// The address that the broker chose for it.
    pub(crate) assigned: Option<Box<str>>,
    pub(crate) delivery_count: u32,
    pub(crate) credit: u32,
    partial: Option<Partial>,
}

/// Where the messages of a link go.
#[derive(Debug)]
pub(crate) enum Target {
    Fixed(Address),
    /// An exchange named without a key: each message's subject is the key.
    BySubject(Box<str>),
    /// Each message's `to` says where; the last one is remembered.
    Anonymous(Option<(Box<str>, Address)>),
    /// What it sends are requests about transactions. `rejects`: failure is an outcome; otherwise it ends the link [AMQP 4.3].
    Coordinator {
        rejects: bool,
    },
}

/// A delivery of which more frames are to come.
#[derive(Debug)]
struct Partial {
    delivery_id: u32,
    message_format: u32,
    settled: bool,
    transaction: Option<TransactionId>,
    payload: BytesMut,
}

/// What became of a delivery that is not in the broker's hands.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// More is to come, or it was published or dropped: nothing to say now.
    Nothing,
    /// Refused here; the peer waits for the outcome.
    Rejected(u32, Condition),
}

impl Inbound {
    pub(crate) fn new(at: LinkAt, name: Box<str>, pending: Box<PendingAttach>, target: Target) -> Self {
        let delivery_count = pending.initial_delivery_count;
        Self {
            at,
            name,
            pending: Some(pending),
            target,
            temporary: None,
            assigned: None,
            delivery_count,
            credit: 0,
            partial: None,
        }
    }

    /// Credit is topped up when half of it is used, so that a busy sender never waits for a flow.
    pub(crate) fn top_up(&mut self, link_credit: u32) -> Option<LinkFlow> {
        if self.credit > link_credit / 2 {
            return None;
        }
        self.credit = link_credit;
        Some(self.flow())
    }

    pub(crate) fn flow(&self) -> LinkFlow {
        LinkFlow {
            handle: self.at.handle,
            delivery_count: Some(self.delivery_count),
            link_credit: Some(self.credit),
            available: None,
            drain: false,
        }
    }

    /// Forgets what it has assembled.
    pub(crate) fn discard(&mut self, ctx: &mut Context) {
        if let Some(partial) = self.partial.take() {
            ctx.assembling = ctx.assembling.saturating_sub(partial.payload.len());
        }
    }

    /// # Errors
    /// The link has to end with this condition.
    pub(crate) fn on_transfer(
        &mut self,
        transfer: &Transfer<'_>,
        payload: &[u8],
        session_life: u64,
        ctx: &mut Context,
        host: &mut dyn Host,
    ) -> Result<Arrival, Condition> {
        if self.partial.is_none() {
            if self.credit == 0 || self.pending.is_some() {
                return Err(Condition::new(reason::TRANSFER_LIMIT_EXCEEDED, "the link has no credit left"));
            }
            let delivery_id = transfer.delivery_id.ok_or_else(|| {
                Condition::new(
                    reason::INVALID_FIELD,
                    "the first transfer of a delivery needs a delivery-id [AMQP 2.7.5]",
                )
            })?;
            let settled = transfer.settled.unwrap_or(false);
            let message_format = transfer.message_format;
            let transaction = match transfer.state.map(TransactionalState::read) {
                None | Some(Ok(None)) => None,
                Some(Ok(Some(state))) => Some(state.id),
                Some(Err(error)) => return Err(reason::decode_error(error)),
            };
            if !transfer.more && !transfer.aborted {
                self.count();
                check_size(payload.len(), ctx.config.message_bytes_max)?;
                let delivery = Whole { delivery_id, settled, message_format, transaction, payload };
                return self.publish(&delivery, session_life, ctx, host);
            }
            let payload = BytesMut::new();
            self.partial = Some(Partial { delivery_id, message_format, settled, transaction, payload });
        }
        self.continue_partial(transfer, payload, session_life, ctx, host)
    }

    fn continue_partial(
        &mut self,
        transfer: &Transfer<'_>,
        payload: &[u8],
        session_life: u64,
        ctx: &mut Context,
        host: &mut dyn Host,
    ) -> Result<Arrival, Condition> {
        let Some(partial) = &mut self.partial else { return Ok(Arrival::Nothing) };
        if transfer.delivery_id.is_some_and(|id| id != partial.delivery_id) {
            return Err(Condition::new(
                reason::NOT_ALLOWED,
                "a delivery must be finished before the next one of its link begins [AMQP 2.6.14]",
            ));
        }
        if transfer.aborted {
            // The delivery is settled and nothing of it is kept; its credit is used [AMQP 2.7.5].
            self.discard(ctx);
            self.count();
            return Ok(Arrival::Nothing);
        }
        check_size(partial.payload.len() + payload.len(), ctx.config.message_bytes_max)?;
        if ctx.assembling + payload.len() > ctx.config.message_bytes_max.saturating_mul(2) {
            return Err(Condition::new(
                reason::RESOURCE_LIMIT_EXCEEDED,
                "too many unfinished large messages at once; finish one before beginning the next",
            ));
        }
        partial.settled |= transfer.settled.unwrap_or(false);
        partial.payload.extend_from_slice(payload);
        ctx.assembling += payload.len();
        if transfer.more {
            return Ok(Arrival::Nothing);
        }
        self.count();
        let Some(partial) = self.partial.take() else { return Ok(Arrival::Nothing) };
        ctx.assembling = ctx.assembling.saturating_sub(partial.payload.len());
        let Partial { delivery_id, message_format, settled, transaction, payload } = partial;
        let delivery = Whole { delivery_id, settled, message_format, transaction, payload: &payload };
        self.publish(&delivery, session_life, ctx, host)
    }

    fn count(&mut self) {
        self.credit = self.credit.saturating_sub(1);
        // Serial arithmetic: delivery-count is a sequence number [AMQP 2.6.7].
        self.delivery_count = self.delivery_count.wrapping_add(1);
    }

    fn publish(
        &mut self,
        delivery: &Whole<'_>,
        session_life: u64,
        ctx: &mut Context,
        host: &mut dyn Host,
    ) -> Result<Arrival, Condition> {
        if delivery.message_format != 0 {
            let text = format!("message-format {:#x} is not known; send format 0", delivery.message_format);
            return delivery.refuse(Condition::new(reason::NOT_IMPLEMENTED, text));
        }
        let sections = match section::scan(delivery.payload) {
            Ok(sections) => sections,
            Err(error) => return delivery.refuse(reason::decode_error(error)),
        };
        if let Target::Coordinator { rejects } = self.target {
            if delivery.settled {
                let text = "a message to the coordinator must not be sent settled [AMQP 4.2, 4.3]";
                return Err(Condition::new(reason::INVALID_FIELD, text));
            }
            let asker = Asker { at: self.at, delivery_id: delivery.delivery_id };
            return match transaction::control(asker, sections.body, ctx, host) {
                Err(condition) if rejects => delivery.refuse(condition),
                result => result.map(|()| Arrival::Nothing),
            };
        }
        if let Some(id) = delivery.transaction
            && !ctx.transactions.is_open(id)
        {
            return delivery.refuse(transaction::unknown());
        }
        let mut by_subject = None;
        let address = match self.target.resolve(&sections, &mut by_subject) {
            Ok(address) => address,
            Err(condition) => return delivery.refuse(condition),
        };
        let (body, text) = match sections.body {
            Body::Bytes { bytes, text } => (bytes, text),
            Body::Encoded(bytes) => (bytes, false),
            Body::Several(encoded) => {
                ctx.body.clear();
                section::concatenate(encoded, &mut ctx.body);
                (&[][..], false)
            }
        };
        let ticket = (!delivery.settled).then(|| {
            let release_unrouted = !matches!(address, AddressRef::Topic(_));
            let id = delivery.delivery_id;
            ctx.publishing(self.at.channel, session_life, id, release_unrouted, delivery.transaction)
        });
        let several = matches!(sections.body, Body::Several(_));
        let publish = PublishRef {
            header: header(&sections, text),
            content: content(&sections),
            transaction: delivery.transaction,
            ..PublishRef::new(address, if several { &ctx.body } else { body })
        };
        host.publish(ticket, &publish);
        Ok(Arrival::Nothing)
    }
}

/// A delivery of which all bytes are there.
struct Whole<'a> {
    delivery_id: u32,
    settled: bool,
    message_format: u32,
    transaction: Option<TransactionId>,
    payload: &'a [u8],
}

impl Whole<'_> {
    /// The smallest scope that can be told: the delivery, or the link if nobody waits for the delivery's outcome.
    fn refuse(&self, condition: Condition) -> Result<Arrival, Condition> {
        if self.settled { Err(condition) } else { Ok(Arrival::Rejected(self.delivery_id, condition)) }
    }
}

fn check_size(len: usize, max: usize) -> Result<(), Condition> {
    if len <= max {
        return Ok(());
    }
    Err(Condition::new(reason::MESSAGE_SIZE_EXCEEDED, format!("a message may have at most {max} bytes")))
}

fn header(sections: &Sections<'_>, text: bool) -> Header {
    Header {
        guarantee: if sections.durable { Guarantee::AtLeastOnce } else { Guarantee::AtMostOnce },
        priority: sections.priority,
        ttl_ms: sections.ttl.map(u64::from),
        text,
        ..Header::default()
    }
}

fn content<'a>(sections: &Sections<'a>) -> ContentRef<'a> {
    ContentRef::Encoded { format: translate::FORMAT, bytes: sections.kept, decode: translate::decode }
}

impl Target {
    pub(crate) fn of(node: &Node<'_>) -> Result<Self, Condition> {
        match node {
            Node::Exchange { name, key: None } => Ok(Self::BySubject(name.as_ref().into())),
            Node::Exchange { .. } | Node::Queue(_) | Node::Topic(_) | Node::Client(_) => {
                node.address("").map(Self::Fixed).map_err(invalid)
            }
        }
    }

    /// Where one message goes; `made` owns the address if it had to be made for it.
    fn resolve<'a>(
        &'a mut self,
        sections: &Sections<'_>,
        made: &'a mut Option<Address>,
    ) -> Result<AddressRef<'a>, Condition> {
        match self {
            Self::Fixed(address) => Ok(address.as_ref()),
            Self::Coordinator { .. } => Err(Condition::new(reason::INTERNAL_ERROR, "no address")),
            Self::BySubject(exchange) => {
                let (_, subject) = translate::to_and_subject(sections);
                let key = subject.unwrap_or_default().into();
                let address = Address::Exchange { name: exchange.as_ref().into(), key };
                Ok(made.insert(address).as_ref())
            }
            Self::Anonymous(last) => {
                let (to, subject) = translate::to_and_subject(sections);
                let to = to.ok_or_else(|| {
                    Condition::new(
                        reason::PRECONDITION_FAILED,
                        "a message to the anonymous terminus needs an address in its property 'to'",
                    )
                })?;
                if last.as_ref().is_none_or(|(text, _)| **text != *to) {
                    let node = Node::parse(to, Hint::None).map_err(invalid)?;
                    let address = node.address(subject.unwrap_or_default()).map_err(invalid)?;
                    if matches!(node, Node::Exchange { key: None, .. }) {
                        // The key is this message's own: not to be remembered.
                        return Ok(made.insert(address).as_ref());
                    }
                    *last = Some((to.into(), address));
                }
                match last {
                    Some((_, address)) => Ok(address.as_ref()),
                    None => Err(Condition::new(reason::INTERNAL_ERROR, "no address")),
                }
            }
        }
    }
}

pub(crate) fn invalid(error: crate::address::AddressError) -> Condition {
    Condition::new(reason::INVALID_FIELD, error.to_string())
}
