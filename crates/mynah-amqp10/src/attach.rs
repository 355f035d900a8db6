//! How links come: attach, and the broker's replies until it is answered (AMQP 1.0 part 2.6.3).
//!
//! An attach is answered only when the broker has said that the node is there; a flow that the peer sends meanwhile is
//! remembered.
//!
//! Never: re-declares a queue that exists.

use mynah_core::exchange::{ExchangeKind, ExchangeSpec};
use mynah_core::protocol::{
    Change, CreditMode, From, Holder, Host, Refusal, RefusalKind, Reply, Role, Source,
};
use mynah_core::queue::QueueSpec;
use mynah_core::{Address, AddressRef, Outcome};

use crate::address::{self, Hint, Node};
use crate::codec::performative::{Attach, LinkRole, SndSettleMode};
use crate::codec::reader::Reader;
use crate::codec::terminus::{Filters, Terminus};
use crate::codec::value::read_value;
use crate::context::{AttachStep, Context, LinkAt, Request};
use crate::inbound::{Inbound, Target, invalid};
use crate::link::{Link, PendingAttach};
use crate::outbound::Outbound;
use crate::reason::{self, Condition, Fault, condition_of};
use crate::session::Session;
use crate::translate::TellAddress;

/// Bytes of a link's name: links are many, and each is kept by its name.
const LINK_NAME_BYTES_MAX: usize = 1024;

impl Session {
    pub(crate) fn on_attach(
        &mut self,
        attach: &Attach<'_>,
        ctx: &mut Context,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        if attach.handle > ctx.config.handle_max {
            return Err(Fault::connection(
                reason::FRAMING_ERROR,
                "the handle is above handle-max [AMQP 2.7.2]",
            ));
        }
        if self.link(attach.handle).is_some() {
            return Err(Fault::session(reason::HANDLE_IN_USE, format!("handle {} is in use", attach.handle)));
        }
        let at = LinkAt { channel: self.channel, handle: attach.handle, life: ctx.life() };
        let attached = match attach.role {
            _ if attach.name.len() > LINK_NAME_BYTES_MAX => {
                Err(Condition::new(reason::INVALID_FIELD, "the name of a link may have at most 1024 bytes"))
            }
            LinkRole::Sender => self.attach_inbound(at, attach, ctx, host),
            LinkRole::Receiver => self.attach_outbound(at, attach, ctx, host),
        };
        if let Err(why) = attached {
            let pending = PendingAttach::of(attach, Filters::default());
            pending.refuse(host.wire(), at, attach.name, attach.role.other(), &why);
            self.put(at.handle, Some(Link::Detached));
        }
        Ok(())
    }

    pub(crate) fn put(&mut self, handle: u32, link: Option<Link>) {
        let slot = usize::try_from(handle).unwrap_or(usize::MAX);
        if self.links.len() <= slot {
            self.links.resize_with(slot.saturating_add(1), || None);
        }
        if let Some(place) = self.links.get_mut(slot) {
            *place = link;
        }
    }

    /// The peer wants to send.
    fn attach_inbound(
        &mut self,
        at: LinkAt,
        attach: &Attach<'_>,
        ctx: &mut Context,
        host: &mut dyn Host,
    ) -> Result<(), Condition> {
        let terminus = read_terminus(attach.target, "target")?;
        let assigned = temporary_topic(&terminus, at, ctx);
        let text =
            assigned.as_deref().or(terminus.address).filter(|_| !terminus.dynamic || assigned.is_some());
        let node = text
            .map(|text| Node::parse(text, Hint::of(&terminus.capabilities)))
            .transpose()
            .map_err(invalid)?;
        let target = match &node {
            _ if terminus.coordinator => Target::Coordinator { rejects: rejects(attach)? },
            Some(node) => Target::of(node)?,
            None => Target::Anonymous(None),
        };
        let pending = PendingAttach::of(attach, Filters::default());
        let mut link = Inbound::new(at, attach.name.into(), pending, target);
        link.assigned = assigned.as_deref().map(Into::into);
        ctx.names.insert((attach.name.into(), LinkRole::Receiver), at);
        self.put(at.handle, Some(Link::Inbound(Box::new(link))));
        match &node {
            None if terminus.dynamic => {
                let spec = QueueSpec { exclusive: true, ..QueueSpec::default() };
                let ticket = ctx.ask(Request::Link(at, AttachStep::Dynamic));
                host.define(ticket, Change::DeclareQueue { name: "", spec: &spec, passive: false });
            }
            Some(Node::Queue(name)) => {
                let ticket = ctx.ask(Request::Link(at, AttachStep::Probe));
                host.define(ticket, Change::DeclareQueue { name, spec: &queue_spec(), passive: true });
            }
            Some(Node::Exchange { name, .. }) if !name.is_empty() => {
                let ticket = ctx.ask(Request::Link(at, AttachStep::Probe));
                host.define(ticket, Change::DeclareExchange { name, spec: &exchange_spec(), passive: true });
            }
            None | Some(Node::Topic(_) | Node::Client(_) | Node::Exchange { .. }) => {
                self.answer_attach(at.handle, ctx, host);
            }
        }
        Ok(())
    }

    /// The peer wants to receive.
    fn attach_outbound(
        &mut self,
        at: LinkAt,
        attach: &Attach<'_>,
        ctx: &mut Context,
        host: &mut dyn Host,
    ) -> Result<(), Condition> {
        let subscription = format!("{}:{}", ctx.container_id, attach.name);
        if attach.source.is_none() {
            // A link without source asks for what is left of one with its name: a durable subscription [AMQP 2.6.3].
            let pending = PendingAttach::of(attach, Filters::default());
            self.keep_outbound(Outbound::new(at, attach.name.into(), pending), ctx);
            let ticket = ctx.ask(Request::Link(at, AttachStep::Recall));
            host.define(
                ticket,
                Change::DeclareQueue { name: &subscription, spec: &queue_spec(), passive: true },
            );
            return Ok(());
        }
        let terminus = read_terminus(attach.source, "source")?;
        let filters = terminus
            .filters
            .map(Filters::read)
            .transpose()
            .map_err(reason::decode_error)?
            .unwrap_or_default();
        let no_local = filters.no_local;
        let mut link = Outbound::new(at, attach.name.into(), PendingAttach::of(attach, filters));
        link.max_message_size = attach.max_message_size;
        link.default_outcome = terminus.default_outcome.clone().unwrap_or(Outcome::Released);
        let assigned = temporary_topic(&terminus, at, ctx);
        if terminus.dynamic && assigned.is_none() {
            self.keep_outbound(link, ctx);
            let ticket = ctx.ask(Request::Link(at, AttachStep::Dynamic));
            let spec = QueueSpec { exclusive: true, auto_delete: true, ..QueueSpec::default() };
            host.define(ticket, Change::DeclareQueue { name: "", spec: &spec, passive: false });
            return Ok(());
        }
        let text = assigned.as_deref().or(terminus.address);
        let text = text.ok_or_else(|| Condition::new(reason::INVALID_FIELD, "the source has no address"))?;
        let node = Node::parse(text, Hint::of(&terminus.capabilities)).map_err(invalid)?;
        let holder = if terminus.outlives() { Holder::Durable(&subscription) } else { Holder::Connection };
        let (from, tell_address) = from_of(&node, holder, ctx.config.create_queues)?;
        let group = shared_group(&terminus, attach.name, &ctx.container_id)?;
        let from = match (from, &group) {
            (From::Topic { filter, .. }, Some(group)) => From::Shared { group, filter },
            (from, _) => from,
        };
        link.tell_address = tell_address;
        link.assigned = assigned.as_deref().map(Into::into);
        let is_queue = matches!(from, From::Queue { .. });
        let role = if terminus.copy && is_queue { Role::Browser } else { Role::Consumer };
        if let (Role::Browser, Some(pending)) = (role, &mut link.pending) {
            // Of a copy there is nothing to settle.
            pending.snd_settle_mode = SndSettleMode::Settled;
        }
        let settled = link.is_settled();
        let consumer = ctx.consumer(at);
        link.consumer = Some(consumer);
        self.keep_outbound(link, ctx);
        let spec = queue_spec();
        let source = Source {
            settled,
            credit: CreditMode::Granted,
            no_local,
            priority: priority_of(attach),
            role,
            queue_spec: is_queue.then_some(&spec),
            ..Source::new(from)
        };
        let ticket = ctx.ask(Request::Link(at, AttachStep::Consume));
        host.attach(ticket, consumer, source);
        Ok(())
    }

    fn keep_outbound(&mut self, link: Outbound, ctx: &mut Context) {
        ctx.names.insert((link.name.clone(), LinkRole::Sender), link.at);
        self.put(link.at.handle, Some(Link::Outbound(Box::new(link))));
    }

    /// The broker's reply to one step of an attach.
    pub(crate) fn on_link_reply(
        &mut self,
        at: LinkAt,
        step: AttachStep,
        reply: Reply,
        ctx: &mut Context,
        host: &mut dyn Host,
    ) {
        let life = match self.link(at.handle) {
            Some(Link::Inbound(link)) => link.at.life,
            Some(Link::Outbound(link)) => link.at.life,
            Some(Link::Detached) | None => 0,
        };
        if life == at.life {
            self.on_attach_reply(at, step, reply, ctx, host);
        } else {
            undo(step, &reply, ctx, host);
        }
    }

    fn on_attach_reply(
        &mut self,
        at: LinkAt,
        step: AttachStep,
        reply: Reply,
        ctx: &mut Context,
        host: &mut dyn Host,
    ) {
        match (step, reply) {
            (AttachStep::Dynamic, Reply::Defined(made)) => self.on_dynamic(at, &made.name, ctx, host),
            (AttachStep::Recall, Reply::Defined(found)) => {
                if let Some(Link::Outbound(link)) = self.link(at.handle) {
                    link.recalled = Some((&*found.name).into());
                }
                self.answer_attach(at.handle, ctx, host);
            }
            (
                AttachStep::Probe | AttachStep::Create | AttachStep::Consume,
                Reply::Defined(_) | Reply::Attached(_),
            ) => {
                self.answer_attach(at.handle, ctx, host);
            }
            (AttachStep::Probe, Reply::Refused(refusal)) => self.on_no_target(at, &refusal, ctx, host),
            (_, Reply::Refused(refusal)) => self.refuse_attach(at.handle, &condition_of(&refusal), ctx, host),
            (_, _) => {
                let why =
                    Condition::new(reason::INTERNAL_ERROR, "the broker gave no usable answer; attach again");
                self.refuse_attach(at.handle, &why, ctx, host);
            }
        }
    }

    /// What is sent to is not there for this connection.
    fn on_no_target(&mut self, at: LinkAt, refusal: &Refusal, ctx: &mut Context, host: &mut dyn Host) {
        let Some(Link::Inbound(link)) = self.link(at.handle) else { return };
        let queue = match &link.target {
            Target::Fixed(Address::Queue(name)) => Some(name.clone()),
            Target::Fixed(_) | Target::BySubject(_) | Target::Anonymous(_) | Target::Coordinator { .. } => {
                None
            }
        };
        match (queue, refusal.kind) {
            // Names of the broker's own choice are not made by use: such a queue is gone.
            (Some(name), RefusalKind::NotFound) if ctx.config.create_queues && !name.starts_with("amq.") => {
                let ticket = ctx.ask(Request::Link(at, AttachStep::Create));
                host.define(
                    ticket,
                    Change::DeclareQueue { name: &name, spec: &queue_spec(), passive: false },
                );
            }
            // Another connection's own queue may be sent to: that is what a reply address is.
            (Some(_), RefusalKind::Locked) => self.answer_attach(at.handle, ctx, host),
            _ => self.refuse_attach(at.handle, &condition_of(refusal), ctx, host),
        }
    }

    /// The queue for a dynamic node is made.
    fn on_dynamic(&mut self, at: LinkAt, name: &str, ctx: &mut Context, host: &mut dyn Host) {
        let assigned = Some(address::text_of(AddressRef::Queue(name)).into_boxed_str());
        match self.link(at.handle) {
            Some(Link::Inbound(link)) => {
                link.target = Target::Fixed(Address::Queue(name.into()));
                link.temporary = Some(name.into());
                link.assigned = assigned;
                self.answer_attach(at.handle, ctx, host);
            }
            Some(Link::Outbound(link)) => {
                let consumer = ctx.consumer(at);
                link.consumer = Some(consumer);
                link.temporary = Some(name.into());
                link.assigned = assigned;
                let source = Source {
                    settled: link.is_settled(),
                    credit: CreditMode::Granted,
                    ..Source::new(From::Queue { name, create: false })
                };
                let ticket = ctx.ask(Request::Link(at, AttachStep::Consume));
                host.attach(ticket, consumer, source);
            }
            Some(Link::Detached) | None => {}
        }
    }

    /// The link is there: says so, and lets messages come.
    fn answer_attach(&mut self, handle: u32, ctx: &mut Context, host: &mut dyn Host) {
        let message_bytes_max = ctx.config.message_bytes_max;
        let link_credit = ctx.config.link_credit;
        let flow = match self.link(handle) {
            Some(Link::Inbound(link)) => {
                let Some(pending) = link.pending.take() else { return };
                let assigned = link.assigned.as_deref();
                pending.answer(
                    host.wire(),
                    link.at,
                    &link.name,
                    LinkRole::Receiver,
                    assigned,
                    message_bytes_max,
                );
                link.top_up(link_credit)
            }
            Some(Link::Outbound(link)) => {
                let Some(pending) = link.pending.take() else { return };
                let assigned = link.assigned.as_deref();
                pending.answer(
                    host.wire(),
                    link.at,
                    &link.name,
                    LinkRole::Sender,
                    assigned,
                    message_bytes_max,
                );
                link.grant(host);
                link.drain_answer(host)
            }
            Some(Link::Detached) | None => None,
        };
        if flow.is_some() {
            self.write_flow(ctx, host, flow);
        }
    }

    fn refuse_attach(&mut self, handle: u32, why: &Condition, ctx: &mut Context, host: &mut dyn Host) {
        match self.link(handle) {
            Some(Link::Inbound(link)) => {
                let Some(pending) = link.pending.take() else { return };
                pending.refuse(host.wire(), link.at, &link.name, LinkRole::Receiver, why);
            }
            Some(Link::Outbound(link)) => {
                let Some(pending) = link.pending.take() else { return };
                pending.refuse(host.wire(), link.at, &link.name, LinkRole::Sender, why);
                // The broker has refused it: there is nothing to end.
                if let Some(consumer) = link.consumer.take() {
                    ctx.free_consumer(consumer);
                }
            }
            Some(Link::Detached) | None => return,
        }
        self.end_link(handle, false, ctx, host);
        self.put(handle, Some(Link::Detached));
    }
}

/// The link has gone before its attach was answered: what was made for it goes, too.
pub(crate) fn undo(step: AttachStep, reply: &Reply, ctx: &mut Context, host: &mut dyn Host) {
    if let (AttachStep::Dynamic, Reply::Defined(made)) = (step, reply) {
        let ticket = ctx.ask(Request::Nothing);
        host.define(ticket, Change::DeleteQueue { name: &made.name, if_unused: false, if_empty: false });
    }
}

fn read_terminus<'a>(raw: Option<&'a [u8]>, which: &str) -> Result<Terminus<'a>, Condition> {
    let raw =
        raw.ok_or_else(|| Condition::new(reason::INVALID_FIELD, format!("the attach has no {which}")))?;
    let terminus = Terminus::read(raw).map_err(reason::decode_error)?;
    if terminus.coordinator && which == "source" {
        return Err(Condition::new(reason::INVALID_FIELD, "a coordinator can only be a target [AMQP 4.1]"));
    }
    Ok(terminus)
}

/// Whether `rejected` is among the outcomes of what a sender calls its source; none named means all.
fn rejects(attach: &Attach<'_>) -> Result<bool, Condition> {
    let Some(raw) = attach.source else { return Ok(true) };
    let source = Terminus::read(raw).map_err(reason::decode_error)?;
    Ok(source.outcomes.is_empty() || source.outcomes.contains(&"amqp:rejected:list"))
}

/// A dynamic node that is to be a topic needs only a name that nobody else has.
fn temporary_topic(terminus: &Terminus<'_>, at: LinkAt, ctx: &Context) -> Option<String> {
    let wanted = terminus.dynamic && terminus.capabilities.contains(&"temporary-topic");
    wanted.then(|| format!("/topics/mynah-temporary/{}/{}", ctx.connection, at.life))
}

/// The group of a shared subscription: the link's name up to `|`, after which clients count their links. Without the
/// capability `global` it is shared among links of one container only.
fn shared_group(terminus: &Terminus<'_>, link: &str, container: &str) -> Result<Option<String>, Condition> {
    if !terminus.capabilities.contains(&"shared") {
        return Ok(None);
    }
    if terminus.outlives() {
        let text =
            "a shared subscription lives as long as it has members; attach without expiry-policy never";
        return Err(Condition::new(reason::NOT_IMPLEMENTED, text));
    }
    let name = link.split('|').next().unwrap_or_default();
    let global = terminus.capabilities.contains(&"global");
    Ok(Some(if global { name.to_owned() } else { format!("{container}:{name}") }))
}

/// Where a source's messages come from, and whether each must say where it was sent.
fn from_of<'a>(
    node: &'a Node<'_>,
    holder: Holder<'a>,
    create: bool,
) -> Result<(From<'a>, TellAddress), Condition> {
    match node {
        Node::Queue(name) => Ok((From::Queue { name, create }, TellAddress::No)),
        Node::Topic(words) => {
            let filter = address::filter(words).map_err(invalid)?;
            let tell = if filter.has_wildcard() { TellAddress::Yes } else { TellAddress::No };
            Ok((From::Topic { filter, holder }, tell))
        }
        Node::Exchange { name, key } => {
            let key = key.as_deref().unwrap_or_default();
            Ok((From::Exchange { name, key, holder }, TellAddress::No))
        }
        Node::Client(_) => Err(Condition::new(
            reason::NOT_ALLOWED,
            "p2p/<client> can be sent to; to receive, attach to a queue or topic",
        )),
    }
}

/// RabbitMQ's name for a consumer's priority, in the properties of the link.
fn priority_of(attach: &Attach<'_>) -> i32 {
    let Some(mut entries) = attach.properties.and_then(|raw| Reader::new(raw).map().ok()) else { return 0 };
    while entries.left() > 1 {
        let (Ok(key), Ok(value)) = (entries.raw(), entries.raw()) else { return 0 };
        let (Some(key), Some(value)) = (key, value) else { continue };
        let name = Reader::new(key).text_or_binary().map(|(_, name)| name);
        if name == Ok(b"rabbitmq:priority".as_slice()) {
            let value = read_value(value).ok().and_then(|value| value.as_i64());
            return value.and_then(|n| i32::try_from(n).ok()).unwrap_or(0);
        }
    }
    0
}

/// How a queue is made that is used before anybody declared it.
fn queue_spec() -> QueueSpec {
    QueueSpec { durable: true, ..QueueSpec::default() }
}

/// Only to ask whether an exchange is there; the kind is not looked at.
fn exchange_spec() -> ExchangeSpec {
    ExchangeSpec {
        kind: ExchangeKind::Direct,
        durable: true,
        auto_delete: false,
        internal: false,
        alternate: None,
        arguments: Vec::new(),
    }
}
