//! A link on which the peer receives: credit, drain, and deliveries that wait for either (AMQP 1.0 part 2.6.7, 2.6.8).
//!
//! Credit is a limit, not a counter: receiver's delivery-count plus link-credit. The broker is told how many more it may
//! send; what it had sent already when it was told comes on top, and waits here.
//!
//! Never: writes a transfer; the session's window decides when, see [`crate::session`].

use std::collections::VecDeque;

use mynah_core::protocol::Host;
use mynah_core::{ConsumerId, Delivery, DeliveryTag, Outcome};

use crate::codec::performative::SndSettleMode;
use crate::codec::transfer::{LinkFlow, serial_distance};
use crate::context::LinkAt;
use crate::link::PendingAttach;
use crate::translate::TellAddress;

#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) at: LinkAt,
    pub(crate) name: Box<str>,
    /// Set until the attach is answered.
    pub(crate) pending: Option<Box<PendingAttach>>,
    /// None for a link without source: it only asks for, or forgets, a durable subscription.
    pub(crate) consumer: Option<ConsumerId>,
    /// The queue that was made for this link and goes with it.
    pub(crate) temporary: Option<Box<str>>,
    /// The address that the broker chose for it.
    pub(crate) assigned: Option<Box<str>>,
    /// The queue of the durable subscription that a link without source stands for.
    pub(crate) recalled: Option<Box<str>>,
    pub(crate) tell_address: TellAddress,
    /// What happens to deliveries that are settled without an outcome [AMQP 3.5.3].
    pub(crate) default_outcome: Outcome,
    /// 0: no limit.
    pub(crate) max_message_size: u64,
    pub(crate) delivery_count: u32,
    pub(crate) credit: u32,
    drain: bool,
    /// The broker has discarded what it could not use; to be said when what is held has gone out.
    drained: bool,
    /// What the broker was told it may send and has not sent yet.
    granted: u32,
    /// The last it was told was a drain, after which its credit is gone whatever `granted` says.
    told_drain: bool,
    /// Deliveries that wait for credit or for the session's window.
    pub(crate) held: VecDeque<Delivery>,
}

/// A peer that gives more credit than this gets it in parts: so many deliveries may wait here, no more.
const GRANT_MAX: u32 = 2_000;

impl Outbound {
    pub(crate) fn new(at: LinkAt, name: Box<str>, pending: Box<PendingAttach>) -> Self {
        Self {
            at,
            name,
            pending: Some(pending),
            consumer: None,
            temporary: None,
            assigned: None,
            recalled: None,
            tell_address: TellAddress::No,
            default_outcome: Outcome::Released,
            max_message_size: 0,
            delivery_count: 0,
            credit: 0,
            drain: false,
            drained: false,
            granted: 0,
            told_drain: false,
            held: VecDeque::new(),
        }
    }

    /// Whether deliveries are settled by being sent.
    pub(crate) fn is_settled(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.snd_settle_mode == SndSettleMode::Settled)
    }

    /// The peer says how far it has come and how much more it wants.
    pub(crate) fn on_flow(&mut self, flow: &LinkFlow) {
        // Null before the peer has seen the attach: the initial count, which is 0 [AMQP 2.6.7].
        let count = flow.delivery_count.unwrap_or(0);
        if let Some(credit) = flow.link_credit {
            // Serial arithmetic: delivery-count is a sequence number, not a count [AMQP 2.6.7].
            let on_the_way = u32::try_from(serial_distance(count, self.delivery_count)).unwrap_or(0);
            self.credit = credit.saturating_sub(on_the_way);
        }
        self.drain = flow.drain;
        self.drained = false;
    }

    fn held(&self) -> u32 {
        u32::try_from(self.held.len()).unwrap_or(u32::MAX)
    }

    /// Tells the broker what it may send now.
    pub(crate) fn grant(&mut self, host: &mut dyn Host) {
        if self.pending.is_some() {
            return;
        }
        let Some(consumer) = self.consumer else {
            self.drained = self.drain;
            return;
        };
        let wanted = self.credit.saturating_sub(self.held());
        if self.drain {
            self.granted = wanted;
            self.told_drain = true;
            host.flow(consumer, wanted, true);
            return;
        }
        let wanted = wanted.min(GRANT_MAX);
        if wanted != self.granted || self.told_drain {
            self.granted = wanted;
            self.told_drain = false;
            host.flow(consumer, wanted, false);
        }
        if self.credit == 0 {
            self.release_held(host);
        }
    }

    /// One delivery came from the broker.
    #[inline]
    pub(crate) fn arrived(&mut self) {
        self.granted = self.granted.saturating_sub(1);
    }

    /// Gives the next part of a large credit.
    #[inline]
    pub(crate) fn regrant(&mut self, host: &mut dyn Host) {
        if self.granted < GRANT_MAX / 2
            && !self.drain
            && self.credit.saturating_sub(self.held()) > self.granted
        {
            self.grant(host);
        }
    }

    /// One delivery goes out.
    #[inline]
    pub(crate) fn sent(&mut self) {
        self.credit = self.credit.saturating_sub(1);
        self.delivery_count = self.delivery_count.wrapping_add(1);
    }

    /// The broker says that what it could not use of a drained credit is gone. Of an older flow it is no news.
    pub(crate) fn on_drained(&mut self) {
        if self.drain {
            self.drained = true;
            self.granted = 0;
        }
    }

    /// The answer to a drain, once nothing waits any more: the rest of the credit is used up [AMQP 2.6.8].
    pub(crate) fn drain_answer(&mut self, host: &mut dyn Host) -> Option<LinkFlow> {
        if !self.drained || (self.credit > 0 && !self.held.is_empty()) {
            return None;
        }
        self.drained = false;
        self.release_held(host);
        self.delivery_count = self.delivery_count.wrapping_add(self.credit);
        self.credit = 0;
        let flow = self.flow();
        // One answer for each drain; the credit that follows is a new one.
        self.drain = false;
        Some(flow)
    }

    pub(crate) fn flow(&self) -> LinkFlow {
        LinkFlow {
            handle: self.at.handle,
            delivery_count: Some(self.delivery_count),
            link_credit: Some(self.credit),
            available: Some(self.held()),
            drain: self.drain,
        }
    }

    /// What the peer has no credit for goes back to the queue, so that others can have it. What is settled by being sent
    /// cannot go back: it waits for credit.
    fn release_held(&mut self, host: &mut dyn Host) {
        let Some(consumer) = self.consumer else { return };
        let tags: Vec<DeliveryTag> =
            self.held.iter().filter(|delivery| !delivery.settled).map(|delivery| delivery.tag).collect();
        if tags.is_empty() {
            return;
        }
        self.held.retain(|delivery| delivery.settled);
        host.settle(consumer, &tags, &Outcome::Released, None);
    }
}
