//! How links go: the peer's detach, the broker's own, and the end of their session (AMQP 1.0 part 2.6.4 to 2.6.6).
//!
//! A detach is answered at once, so that a handle that is free for the peer is free for the broker too.

use mynah_core::protocol::{Change, Host};

use crate::codec::performative::{Detach, LinkRole};
use crate::context::{Context, LinkAt, Request};
use crate::inbound::Target;
use crate::link::Link;
use crate::reason::{self, Condition, Fault};
use crate::session::Session;
use crate::transaction;

impl Session {
    pub(crate) fn on_detach(
        &mut self,
        detach: Detach,
        ctx: &mut Context,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        match self.link(detach.handle) {
            None => {
                let text = format!("no link is attached to handle {}", detach.handle);
                return Err(Fault::session(reason::UNATTACHED_HANDLE, text));
            }
            // The answer to the broker's own detach.
            Some(Link::Detached) => {}
            Some(Link::Inbound(_) | Link::Outbound(_)) => {
                self.end_link(detach.handle, detach.closed, ctx, host);
                detach.write(host.wire(), self.channel, None);
            }
        }
        self.put(detach.handle, None);
        Ok(())
    }

    /// The broker ends a link and says why.
    pub(crate) fn fail_link(&mut self, handle: u32, why: &Condition, ctx: &mut Context, host: &mut dyn Host) {
        if matches!(self.link(handle), None | Some(Link::Detached)) {
            return;
        }
        self.end_link(handle, false, ctx, host);
        Detach { handle, closed: true }.write(host.wire(), self.channel, Some(why));
        self.put(handle, Some(Link::Detached));
    }

    /// The queue of a consumer is gone, and with it the consumer.
    pub(crate) fn on_cancelled(&mut self, at: LinkAt, ctx: &mut Context, host: &mut dyn Host) {
        let Some(Link::Outbound(link)) = self.link(at.handle) else { return };
        if let Some(consumer) = link.consumer.take() {
            ctx.free_consumer(consumer);
        }
        let why = Condition::new(reason::RESOURCE_DELETED, "the queue of this link was deleted");
        self.fail_link(at.handle, &why, ctx, host);
    }

    /// All links end with their session; durable subscriptions stay.
    pub(crate) fn end_links(&mut self, ctx: &mut Context, host: &mut dyn Host) {
        for handle in 0..=ctx.config.handle_max {
            if usize::try_from(handle).is_ok_and(|at| at >= self.links.len()) {
                break;
            }
            self.end_link(handle, false, ctx, host);
        }
        self.links.clear();
    }

    /// Gives back what a link has in the broker. `closed` ends what would outlive it, too.
    pub(crate) fn end_link(&mut self, handle: u32, closed: bool, ctx: &mut Context, host: &mut dyn Host) {
        let (name, at, temporary) = match self.link(handle) {
            Some(Link::Inbound(link)) => {
                link.discard(ctx);
                if let Target::Coordinator { .. } = link.target {
                    transaction::roll_back_all(link.at, ctx, host);
                }
                ((std::mem::take(&mut link.name), LinkRole::Receiver), link.at, link.temporary.take())
            }
            Some(Link::Outbound(link)) => {
                let consumer = link.consumer.take();
                let recalled = link.recalled.take().filter(|_| closed);
                let queue = link.temporary.take().or(recalled);
                let ended = ((std::mem::take(&mut link.name), LinkRole::Sender), link.at, queue);
                let held: Vec<_> = std::mem::take(&mut link.held).iter().map(|held| held.tag).collect();
                if let Some(consumer) = consumer {
                    if ctx.transactions.hold(consumer) {
                        self.release_untransacted(handle, consumer, &held, host);
                    }
                    ctx.end_consumer(consumer, closed, host);
                }
                ended
            }
            Some(Link::Detached) | None => return,
        };
        self.sending.forget(handle);
        if ctx.names.get(&name) == Some(&at) {
            ctx.names.remove(&name);
        }
        if let Some(queue) = temporary {
            let ticket = ctx.ask(Request::Nothing);
            host.define(ticket, Change::DeleteQueue { name: &queue, if_unused: false, if_empty: false });
        }
    }
}
