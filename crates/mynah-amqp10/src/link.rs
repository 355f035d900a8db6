//! What links of both directions have in common: the attach that waits for its answer, and how it is answered.

use bytes::BytesMut;

use crate::codec::frame::{self, FrameKind};
use crate::codec::performative::{Attach, Detach, LinkRole, SndSettleMode};
use crate::codec::terminus::{Filters, Terminus};
use crate::context::LinkAt;
use crate::inbound::Inbound;
use crate::outbound::Outbound;
use crate::reason::Condition;

/// One handle of a session.
#[derive(Debug)]
pub(crate) enum Link {
    /// The peer sends.
    Inbound(Box<Inbound>),
    /// The peer receives.
    Outbound(Box<Outbound>),
    /// The broker has detached; what the peer still sends is dropped until its own detach comes.
    Detached,
}

/// What the answer to an attach repeats. Its termini stay as the peer encoded them.
#[derive(Debug)]
pub(crate) struct PendingAttach {
    pub(crate) snd_settle_mode: SndSettleMode,
    pub(crate) source: Option<Box<[u8]>>,
    pub(crate) target: Option<Box<[u8]>>,
    pub(crate) filters: Filters,
    /// The peer's, if it is the sender.
    pub(crate) initial_delivery_count: u32,
}

impl PendingAttach {
    pub(crate) fn of(attach: &Attach<'_>, filters: Filters) -> Box<Self> {
        Box::new(Self {
            snd_settle_mode: attach.snd_settle_mode,
            source: attach.source.map(Into::into),
            target: attach.target.map(Into::into),
            filters,
            initial_delivery_count: attach.initial_delivery_count.unwrap_or(0),
        })
    }

    /// The peer's own terminus as it was sent, the broker's with what is in force; `address` if the broker chose it.
    pub(crate) fn answer(
        &self,
        wire: &mut BytesMut,
        at: LinkAt,
        name: &str,
        role: LinkRole,
        address: Option<&str>,
        message_bytes_max: usize,
    ) {
        let mut own = BytesMut::new();
        let raw = if role == LinkRole::Sender { &self.source } else { &self.target };
        let mut terminus = raw.as_deref().and_then(|raw| Terminus::read(raw).ok()).unwrap_or_default();
        if address.is_some() {
            terminus.address = address;
        }
        let (source, target) = if role == LinkRole::Sender {
            terminus.write_source(&mut own, &self.filters.answer);
            (Some(&*own), self.target.as_deref())
        } else {
            terminus.write_target(&mut own);
            (self.source.as_deref(), Some(&*own))
        };
        let attach = Attach {
            name,
            handle: at.handle,
            role,
            snd_settle_mode: self.snd_settle_mode,
            source,
            target,
            initial_delivery_count: (role == LinkRole::Sender).then_some(0),
            max_message_size: u64::try_from(message_bytes_max).unwrap_or(0),
            properties: None,
        };
        frame::write(wire, FrameKind::Amqp, at.channel, |buf| attach.write(buf));
    }

    /// A link is refused by an attach without the terminus that could not be, and then a detach that says why
    /// [AMQP 2.6.3].
    pub(crate) fn refuse(
        &self,
        wire: &mut BytesMut,
        at: LinkAt,
        name: &str,
        role: LinkRole,
        why: &Condition,
    ) {
        let sender = role == LinkRole::Sender;
        let attach = Attach {
            name,
            handle: at.handle,
            role,
            snd_settle_mode: self.snd_settle_mode,
            source: self.source.as_deref().filter(|_| !sender),
            target: self.target.as_deref().filter(|_| sender),
            initial_delivery_count: sender.then_some(0),
            max_message_size: 0,
            properties: None,
        };
        frame::write(wire, FrameKind::Amqp, at.channel, |buf| attach.write(buf));
        Detach { handle: at.handle, closed: true }.write(wire, at.channel, Some(why));
    }
}
