//! A session: windows, and the frames that go to its links (AMQP 1.0 part 2.5).
//!
//! Links of both directions live under the peer's handles; the broker uses the same numbers for its own, which are free
//! whenever the peer's are, because it answers a detach at once.
//!
//! Never: begins a session or a link; a broker only answers.

use std::time::Instant;

use mynah_core::protocol::Host;
use mynah_core::{Delivery, Outcome};

use crate::codec::performative::{Begin, LinkRole};
use crate::codec::terminus::read_outcome;
use crate::codec::transaction::{TRANSACTIONAL_STATE, TransactionalState};
use crate::codec::transfer::{Disposition, Flow, LinkFlow, Transfer, Verdict, write_disposition};
use crate::codec::{CodecError, performative};
use crate::context::{Context, LinkAt};
use crate::inbound::Arrival;
use crate::link::Link;
use crate::reason::{self, Condition, Fault};
use crate::sending::{FIRST_TRANSFER, Sending};

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) channel: u16,
    /// Unlike its channel never used again.
    pub(crate) life: u64,
    /// The broker has ended it; what the peer still sends is dropped until its own end comes.
    pub(crate) ended: bool,
    next_incoming_id: u32,
    /// Frames the peer may send before it is told of a new window.
    incoming_left: u32,
    /// By handle; grows with the highest one used, up to handle-max.
    pub(crate) links: Vec<Option<Link>>,
    pub(crate) sending: Sending,
    /// Some link may hold deliveries.
    holding: bool,
}

impl Session {
    pub(crate) fn new(channel: u16, begin: &Begin, ctx: &mut Context) -> Self {
        Self {
            channel,
            life: ctx.life(),
            ended: false,
            next_incoming_id: begin.next_outgoing_id,
            incoming_left: ctx.config.session_window,
            links: Vec::new(),
            sending: Sending::new(channel, begin.incoming_window),
            holding: false,
        }
    }

    /// The answer to the peer's begin.
    pub(crate) fn begin(&self, ctx: &Context) -> Begin {
        Begin {
            remote_channel: Some(self.channel),
            next_outgoing_id: FIRST_TRANSFER,
            incoming_window: ctx.config.session_window,
            outgoing_window: ctx.config.session_window,
            handle_max: ctx.config.handle_max,
        }
    }

    pub(crate) fn link(&mut self, handle: u32) -> Option<&mut Link> {
        let at = usize::try_from(handle).ok()?;
        self.links.get_mut(at)?.as_mut()
    }

    /// The link a performative names.
    fn attached(&mut self, handle: u32) -> Result<&mut Link, Fault> {
        self.link(handle).ok_or_else(|| {
            Fault::session(reason::UNATTACHED_HANDLE, format!("no link is attached to handle {handle}"))
        })
    }

    pub(crate) fn on_transfer(
        &mut self,
        transfer: &Transfer<'_>,
        payload: &[u8],
        ctx: &mut Context,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        // The window is counted in frames, whatever becomes of them [AMQP 2.5.6].
        self.incoming_left = self.incoming_left.checked_sub(1).ok_or_else(|| {
            Fault::session(reason::WINDOW_VIOLATION, "more transfers than the incoming-window allows")
        })?;
        self.next_incoming_id = self.next_incoming_id.wrapping_add(1);
        let (channel, life) = (self.channel, self.life);
        let link = match self.attached(transfer.handle)? {
            Link::Inbound(link) => link,
            Link::Detached => return Ok(()),
            Link::Outbound(_) => {
                return Err(Fault::session(
                    reason::NOT_ALLOWED,
                    "a transfer on a link whose sender is the broker",
                ));
            }
        };
        let arrival = link
            .on_transfer(transfer, payload, life, ctx, host)
            .map_err(|condition| Fault::Link(transfer.handle, condition))?;
        let flow = link.top_up(ctx.config.link_credit);
        if let Arrival::Rejected(id, condition) = arrival {
            let verdict = Verdict::Rejected(&condition);
            write_disposition(host.wire(), channel, LinkRole::Receiver, (id, id), verdict);
        }
        if flow.is_some() || self.incoming_left <= ctx.config.session_window / 2 {
            self.write_flow(ctx, host, flow);
        }
        Ok(())
    }

    /// States the session's windows, and a link's state if there is one.
    pub(crate) fn write_flow(&mut self, ctx: &Context, host: &mut dyn Host, link: Option<LinkFlow>) {
        self.incoming_left = ctx.config.session_window;
        let flow = Flow {
            next_incoming_id: Some(self.next_incoming_id),
            incoming_window: self.incoming_left,
            next_outgoing_id: self.sending.next_outgoing_id,
            outgoing_window: ctx.config.session_window,
            link,
            echo: false,
            acquires: false,
        };
        flow.write(host.wire(), self.channel);
    }

    pub(crate) fn on_flow(
        &mut self,
        flow: &Flow,
        ctx: &mut Context,
        host: &mut dyn Host,
        now: Instant,
    ) -> Result<(), Fault> {
        if !self.sending.on_flow(flow.next_incoming_id, flow.incoming_window) {
            return Err(Fault::session(reason::INVALID_FIELD, "next-incoming-id is ahead of what was sent"));
        }
        if let Some(state) = &flow.link
            && let Link::Outbound(link) = self.attached(state.handle)?
        {
            if flow.acquires {
                let text = "messages cannot be acquired in a transaction; settle them in it";
                return Err(Fault::Link(state.handle, Condition::new(reason::NOT_IMPLEMENTED, text)));
            }
            link.on_flow(state);
        }
        self.pump(ctx, host, now);
        let Some(state) = &flow.link else {
            if flow.echo {
                self.write_flow(ctx, host, None);
            }
            return Ok(());
        };
        let answer = match self.link(state.handle) {
            Some(Link::Outbound(link)) => {
                link.grant(host);
                let answered = flow.echo.then(|| link.flow());
                link.drain_answer(host).or(answered)
            }
            Some(Link::Inbound(link)) => flow.echo.then(|| link.flow()),
            Some(Link::Detached) | None => None,
        };
        if answer.is_some() {
            self.write_flow(ctx, host, answer);
        }
        Ok(())
    }

    /// Sends what waited for the window or for credit.
    pub(crate) fn pump(&mut self, ctx: &mut Context, host: &mut dyn Host, now: Instant) {
        self.sending.go_on(host.wire(), ctx.frame_max);
        if !self.holding {
            return;
        }
        let mut holding = false;
        let mut drained = Vec::new();
        for link in &mut self.links {
            let Some(Link::Outbound(link)) = link else { continue };
            while link.credit > 0 && self.sending.is_open() {
                let Some(delivery) = link.held.pop_front() else { break };
                self.sending.send(link, &delivery, ctx, host, now);
            }
            holding |= !link.held.is_empty();
            drained.extend(link.drain_answer(host));
        }
        self.holding = holding;
        for flow in drained {
            self.write_flow(ctx, host, Some(flow));
        }
    }

    pub(crate) fn on_delivery(
        &mut self,
        at: LinkAt,
        delivery: Delivery,
        ctx: &mut Context,
        host: &mut dyn Host,
        now: Instant,
    ) {
        let slot = usize::try_from(at.handle).ok().and_then(|handle| self.links.get_mut(handle));
        let Some(Some(Link::Outbound(link))) = slot else { return };
        if link.at.life != at.life {
            return;
        }
        link.arrived();
        if link.held.is_empty() && link.credit > 0 && self.sending.is_open() {
            self.sending.send(link, &delivery, ctx, host, now);
        } else {
            link.held.push_back(delivery);
            self.holding = true;
        }
        link.regrant(host);
    }

    pub(crate) fn on_drained(&mut self, at: LinkAt, ctx: &Context, host: &mut dyn Host) {
        let Some(Link::Outbound(link)) = self.link(at.handle) else { return };
        link.on_drained();
        if let Some(flow) = link.drain_answer(host) {
            self.write_flow(ctx, host, Some(flow));
        }
    }

    /// The peer says what became of deliveries.
    pub(crate) fn on_disposition(
        &mut self,
        disposition: &Disposition<'_>,
        ctx: &mut Context,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        // What it says of its own transfers is no news: the broker settles first and remembers nothing [AMQP 2.6.12].
        if disposition.role == LinkRole::Sender {
            return Ok(());
        }
        let range = (disposition.first, disposition.last);
        if disposition.settled {
            ctx.transactions.forget(self.life, range);
        }
        let outcome = match disposition.state.map(read_outcome).transpose() {
            Ok(outcome) => outcome.flatten(),
            Err(CodecError::Descriptor(found)) if found == u64::from(TRANSACTIONAL_STATE) => {
                return self.on_transactional(disposition, ctx, host);
            }
            Err(error @ CodecError::Descriptor(_)) => {
                return Err(Fault::session(reason::NOT_IMPLEMENTED, error.to_string()));
            }
            Err(error) => return Err(error.into()),
        };
        if outcome.is_none() && !disposition.settled {
            return Ok(());
        }
        let mut tags = std::mem::take(&mut ctx.tags);
        let links = &self.links;
        let any = self.sending.unsettled.take(range, &mut tags, |handle, consumer, tags| {
            let outcome = outcome.as_ref().unwrap_or_else(|| default_outcome(links, handle));
            host.settle(consumer, tags, outcome, None);
        });
        ctx.tags = tags;
        if let (true, false, Some(state)) = (any, disposition.settled, disposition.state) {
            write_disposition(host.wire(), self.channel, LinkRole::Sender, range, Verdict::Echo(state));
        }
        Ok(())
    }

    fn on_transactional(
        &mut self,
        disposition: &Disposition<'_>,
        ctx: &mut Context,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        match disposition.state.map(TransactionalState::read).transpose()?.flatten() {
            Some(state) => self.on_retire(disposition, state, ctx, host),
            None => Ok(()),
        }
    }

    /// The broker ends the session: everything of it ends, and the peer is told why.
    pub(crate) fn fail(&mut self, why: &Condition, ctx: &mut Context, host: &mut dyn Host) {
        self.end_links(ctx, host);
        self.ended = true;
        performative::write_end(host.wire(), self.channel, Some(why));
    }
}

pub(crate) fn default_outcome(links: &[Option<Link>], handle: u32) -> &Outcome {
    let link = usize::try_from(handle).ok().and_then(|at| links.get(at));
    match link {
        Some(Some(Link::Outbound(link))) => &link.default_outcome,
        _ => &Outcome::Released,
    }
}
