//! One AMQP 1.0 connection: headers, SASL, open, sessions by channel, idle time-outs, close (AMQP 1.0 parts 2.2 to 2.4, 5.3).
//!
//! A peer may send everything at once - header, SASL, open, begin, attach - without waiting for an answer [AMQP 2.4.1];
//! what has to wait for the broker is simply not consumed until its reply is there.
//!
//! Never: knows what a link does; see [`crate::session`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use mynah_core::protocol::{
    Connection, Credentials, Farewell, Host, Input, Notice, Refusal, RefusalKind, Reply, SessionSpec, Ticket,
    Violation, ViolationKind,
};
use mynah_core::{Delivery, Outcome, TransactionId};

use crate::Amqp10Config;
use crate::codec::frame::{self, FRAME_BYTES_MIN, Frame, FrameKind, Scan};
use crate::codec::performative::{self, Attach, Begin, Detach, LinkRole, Open};
use crate::codec::reader::Reader;
use crate::codec::transfer::{Disposition, Flow, Transfer, Verdict, write_disposition};
use crate::context::{Context, PendingPublish, Request};
use crate::reason::{self, Condition, Fault, condition_of};
use crate::sasl;
use crate::session::Session;
use crate::version;

/// Bytes a frame may have before the peer is known: more than the 512 of the standard, because clients describe
/// themselves at length in their open, far less than what a stranger should cost.
const FRAME_BYTES_BEFORE_OPEN: u32 = 16 * 1024;

/// A peer that bears less silence than twice this asks for more signs of life than it is worth.
const SAY_EVERY_MIN: Duration = Duration::from_millis(50);

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The first header.
    Header,
    SaslInit,
    /// The broker looks at the credentials; a bare AMQP header stands for anonymous ones.
    Login {
        sasl: bool,
    },
    /// The second header, after SASL.
    AmqpHeader,
    Open,
    Opening,
    Running,
    /// A close was said; what still comes is dropped.
    Over,
}

#[derive(Debug)]
pub(crate) struct Amqp10Connection {
    pub(crate) ctx: Context,
    phase: Phase,
    /// By channel; grows with the highest one used, up to channel-max.
    sessions: Vec<Option<Box<Session>>>,
    login_by: Instant,
    heard: Instant,
    said: Instant,
    /// Half of the silence the peer bears.
    say_every: Option<Duration>,
}

/// A step that ends the connection, after what is to be said was written.
type Step = Result<(), Violation>;

impl Amqp10Connection {
    pub(crate) fn new(config: Arc<Amqp10Config>, connection: u64, now: Instant) -> Self {
        Self {
            login_by: now + config.login_timeout,
            ctx: Context::new(config, connection),
            phase: Phase::Header,
            sessions: Vec::new(),
            heard: now,
            said: now,
            say_every: None,
        }
    }

    fn on_bytes(&mut self, now: Instant, input: &[u8], host: &mut dyn Host) -> Result<usize, Violation> {
        self.heard = now;
        let mut used = 0;
        loop {
            let rest = input.get(used..).unwrap_or_default();
            let step = match self.phase {
                Phase::Header | Phase::AmqpHeader => self.on_header(rest, host)?,
                Phase::SaslInit => {
                    self.on_frame(FrameKind::Sasl, FRAME_BYTES_BEFORE_OPEN, rest, host, now)?
                }
                Phase::Open => self.on_frame(FrameKind::Amqp, FRAME_BYTES_BEFORE_OPEN, rest, host, now)?,
                Phase::Running => {
                    self.on_frame(FrameKind::Amqp, self.ctx.config.frame_bytes_max, rest, host, now)?
                }
                Phase::Login { .. } | Phase::Opening => 0,
                Phase::Over => return Ok(input.len()),
            };
            if step == 0 {
                return Ok(used);
            }
            used += step;
        }
    }

    fn on_header(&mut self, rest: &[u8], host: &mut dyn Host) -> Result<usize, Violation> {
        let Some((header, _)) = rest.split_first_chunk::<{ version::HEADER_LEN }>() else { return Ok(0) };
        match (self.phase, header) {
            (Phase::Header, version::SASL) => {
                host.wire().extend_from_slice(version::SASL);
                sasl::write_mechanisms(host.wire(), &self.ctx.config.mechanisms);
                self.phase = Phase::SaslInit;
            }
            (Phase::Header, version::AMQP) => {
                let ticket = self.ctx.ask(Request::Login);
                host.authenticate(ticket, Credentials::Anonymous);
                self.phase = Phase::Login { sasl: false };
            }
            (Phase::AmqpHeader, version::AMQP) => {
                host.wire().extend_from_slice(version::AMQP);
                self.phase = Phase::Open;
            }
            _ => {
                // The answer to an unknown header is the one that would do [AMQP 2.2].
                let own = if self.phase == Phase::Header { version::SASL } else { version::AMQP };
                host.wire().extend_from_slice(own);
                self.phase = Phase::Over;
                return Err(Violation::new(ViolationKind::Malformed, "no protocol header of AMQP 1.0"));
            }
        }
        Ok(version::HEADER_LEN)
    }

    fn on_frame(
        &mut self,
        kind: FrameKind,
        max: u32,
        rest: &[u8],
        host: &mut dyn Host,
        now: Instant,
    ) -> Result<usize, Violation> {
        match frame::scan(rest, kind, max) {
            Scan::Partial => Ok(0),
            Scan::Bad(text) => {
                self.fail(ViolationKind::Malformed, &Condition::new(reason::FRAMING_ERROR, text), host)?;
                Ok(rest.len())
            }
            Scan::Whole(frame) => {
                match self.phase {
                    Phase::SaslInit => self.on_sasl(&frame, host)?,
                    Phase::Open if !frame.body.is_empty() => self.on_open(&frame, host)?,
                    Phase::Running if !frame.body.is_empty() => self.on_performative(&frame, host, now)?,
                    Phase::Header
                    | Phase::Login { .. }
                    | Phase::AmqpHeader
                    | Phase::Open
                    | Phase::Opening
                    | Phase::Running
                    | Phase::Over => {}
                }
                Ok(frame.len)
            }
        }
    }

    fn on_sasl(&mut self, frame: &Frame<'_>, host: &mut dyn Host) -> Step {
        match sasl::read_init(frame.body, &self.ctx.config.mechanisms) {
            Ok(Some(credentials)) => {
                let ticket = self.ctx.ask(Request::Login);
                host.authenticate(ticket, credentials);
                self.phase = Phase::Login { sasl: true };
                Ok(())
            }
            Ok(None) => {
                sasl::write_outcome(host.wire(), sasl::Code::Auth);
                self.phase = Phase::Over;
                Err(Violation::new(ViolationKind::Unauthenticated, "mechanism or response not understood"))
            }
            Err(error) => {
                sasl::write_outcome(host.wire(), sasl::Code::Auth);
                self.phase = Phase::Over;
                Err(Violation::new(ViolationKind::Malformed, error.to_string()))
            }
        }
    }

    fn on_login(&mut self, reply: Reply, host: &mut dyn Host) -> Step {
        let Phase::Login { sasl } = self.phase else { return Ok(()) };
        match (reply, sasl) {
            (Reply::Authenticated { .. }, true) => {
                sasl::write_outcome(host.wire(), sasl::Code::Ok);
                self.phase = Phase::AmqpHeader;
                Ok(())
            }
            (Reply::Authenticated { .. }, false) => {
                host.wire().extend_from_slice(version::AMQP);
                self.phase = Phase::Open;
                Ok(())
            }
            (reply, true) => {
                let refusal = refusal_of(reply);
                let unavailable = refusal.kind == RefusalKind::Unavailable;
                let code = if unavailable { sasl::Code::SysTemp } else { sasl::Code::Auth };
                sasl::write_outcome(host.wire(), code);
                self.phase = Phase::Over;
                Err(Violation::new(ViolationKind::Unauthenticated, refusal.text))
            }
            (reply, false) => {
                host.wire().extend_from_slice(version::AMQP);
                self.fail(ViolationKind::Unauthenticated, &condition_of(&refusal_of(reply)), host)
            }
        }
    }

    fn on_open(&mut self, frame: &Frame<'_>, host: &mut dyn Host) -> Step {
        let mut reader = Reader::new(frame.body);
        let open = match reader.descriptor() {
            Ok(0x10) => reader.list().and_then(Open::read),
            Ok(other) => Err(crate::codec::CodecError::Descriptor(other)),
            Err(error) => Err(error),
        };
        let open = match open {
            Ok(open) => open,
            Err(error) => return self.fail(ViolationKind::Protocol, &reason::decode_error(error), host),
        };
        if open.max_frame_size < FRAME_BYTES_MIN {
            let why =
                Condition::new(reason::INVALID_FIELD, "max-frame-size must be at least 512 [AMQP 2.4.1]");
            return self.fail(ViolationKind::Protocol, &why, host);
        }
        self.ctx.frame_max = open.max_frame_size.min(self.ctx.config.frame_bytes_max);
        self.ctx.container_id = open.container_id.into();
        let half = |ms: u32| Duration::from_millis(u64::from(ms) / 2).max(SAY_EVERY_MIN);
        self.say_every = open.idle_time_out.filter(|ms| *ms > 0).map(half);
        let ticket = self.ctx.ask(Request::Open);
        let session = SessionSpec {
            protocol: "AMQP 1.0",
            // Clients put the name of the host here; a virtual host is asked for in RabbitMQ's way.
            virtual_host: open.hostname.and_then(|name| name.strip_prefix("vhost:")),
            client_id: open.container_id,
            session: None,
            will: None,
        };
        self.phase = Phase::Opening;
        host.open(ticket, session);
        Ok(())
    }

    fn on_opened(&mut self, reply: Reply, host: &mut dyn Host) -> Step {
        if self.phase != Phase::Opening {
            return Ok(());
        }
        if let Reply::Opened(_) = reply {
            self.write_open(host);
            self.phase = Phase::Running;
            return Ok(());
        }
        let refusal = refusal_of(reply);
        self.fail(ViolationKind::Unauthenticated, &condition_of(&refusal), host)
    }

    fn write_open(&self, host: &mut dyn Host) {
        let config = &self.ctx.config;
        let open = Open {
            container_id: &config.container_id,
            hostname: None,
            max_frame_size: config.frame_bytes_max,
            channel_max: config.channel_max,
            // Half of what is enforced, so that a peer that is just in time is not cut off [AMQP 2.4.5].
            idle_time_out: config
                .idle_time_out
                .map(|time| u32::try_from(time.as_millis() / 2).unwrap_or(u32::MAX)),
        };
        let properties = [("product", "Mynah"), ("version", env!("CARGO_PKG_VERSION"))];
        frame::write(host.wire(), FrameKind::Amqp, 0, |buf| {
            open.write(buf, &["ANONYMOUS-RELAY"], &properties)
        });
    }

    fn on_performative(&mut self, frame: &Frame<'_>, host: &mut dyn Host, now: Instant) -> Step {
        let Err(fault) = self.dispatch(frame, host, now) else { return Ok(()) };
        match fault {
            Fault::Connection(why) => {
                let kind = if why.symbol == reason::DECODE_ERROR {
                    ViolationKind::Malformed
                } else {
                    ViolationKind::Protocol
                };
                return self.fail(kind, &why, host);
            }
            Fault::Session(why) => {
                if let Some((session, ctx)) = self.session(frame.channel) {
                    session.fail(&why, ctx, host);
                }
            }
            Fault::Link(handle, why) => {
                if let Some((session, ctx)) = self.session(frame.channel) {
                    session.fail_link(handle, &why, ctx, host);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn session(&mut self, channel: u16) -> Option<(&mut Session, &mut Context)> {
        let session = self.sessions.get_mut(usize::from(channel))?.as_deref_mut()?;
        Some((session, &mut self.ctx))
    }

    #[inline]
    fn dispatch(&mut self, frame: &Frame<'_>, host: &mut dyn Host, now: Instant) -> Result<(), Fault> {
        let mut reader = Reader::new(frame.body);
        let code = reader.descriptor()?;
        let fields = reader.list()?;
        let code = u8::try_from(code).unwrap_or(u8::MAX);
        match code {
            performative::BEGIN => return self.on_begin(frame.channel, &Begin::read(fields)?, host),
            performative::END => return self.on_end(frame.channel, host),
            performative::CLOSE => {
                self.on_close(host);
                return Ok(());
            }
            performative::ATTACH => return self.on_attach(frame.channel, &Attach::read(fields)?, host),
            _ => {}
        }
        let Some((session, ctx)) = self.session(frame.channel) else {
            return Err(no_session(frame.channel));
        };
        if session.ended {
            return Ok(());
        }
        match code {
            performative::TRANSFER => session.on_transfer(&Transfer::read(fields)?, reader.rest(), ctx, host),
            performative::DISPOSITION => session.on_disposition(&Disposition::read(fields)?, ctx, host),
            performative::FLOW => session.on_flow(&Flow::read(fields)?, ctx, host, now),
            performative::DETACH => session.on_detach(Detach::read(fields)?, ctx, host),
            _ => Err(Fault::connection(
                reason::NOT_ALLOWED,
                "a performative that is not known or not allowed here",
            )),
        }
    }

    fn on_begin(&mut self, channel: u16, begin: &Begin, host: &mut dyn Host) -> Result<(), Fault> {
        if channel > self.ctx.config.channel_max {
            return Err(Fault::connection(
                reason::FRAMING_ERROR,
                "the channel is above channel-max [AMQP 2.7.1]",
            ));
        }
        let at = usize::from(channel);
        if self.sessions.len() <= at {
            self.sessions.resize_with(at + 1, || None);
        }
        let session = Session::new(channel, begin, &mut self.ctx);
        let Some(slot @ None) = self.sessions.get_mut(at) else {
            return Err(Fault::connection(reason::NOT_ALLOWED, "the channel has a session already"));
        };
        let answer = session.begin(&self.ctx);
        *slot = Some(Box::new(session));
        frame::write(host.wire(), FrameKind::Amqp, channel, |buf| answer.write(buf));
        Ok(())
    }

    fn on_end(&mut self, channel: u16, host: &mut dyn Host) -> Result<(), Fault> {
        let slot = self.sessions.get_mut(usize::from(channel));
        let mut session = slot.and_then(Option::take).ok_or_else(|| no_session(channel))?;
        if !session.ended {
            session.end_links(&mut self.ctx, host);
            performative::write_end(host.wire(), channel, None);
        }
        Ok(())
    }

    fn on_attach(&mut self, channel: u16, attach: &Attach<'_>, host: &mut dyn Host) -> Result<(), Fault> {
        if self.sessions.get(usize::from(channel)).is_none_or(Option::is_none) {
            return Err(no_session(channel));
        }
        // A name is attached once in each direction: the newer link takes it over [AMQP 2.6.1].
        let old = self.ctx.names.get(&(attach.name.into(), attach.role.other())).copied();
        if let Some(old) = old
            && let Some((session, ctx)) = self.session(old.channel)
        {
            let why = Condition::new(reason::STOLEN, "another link of this name was attached");
            session.fail_link(old.handle, &why, ctx, host);
        }
        match self.session(channel) {
            Some((session, _)) if session.ended => Ok(()),
            Some((session, ctx)) => session.on_attach(attach, ctx, host),
            None => Ok(()),
        }
    }

    fn on_close(&mut self, host: &mut dyn Host) {
        performative::write_close(host.wire(), None);
        host.close(Farewell::Clean { expiry: None });
        self.phase = Phase::Over;
    }

    /// Says why the connection ends. An open comes before a close, always [AMQP 2.4.3].
    fn fail(&mut self, kind: ViolationKind, why: &Condition, host: &mut dyn Host) -> Step {
        self.farewell(why, host);
        Err(Violation::new(kind, why.text.clone()))
    }

    fn farewell(&mut self, why: &Condition, host: &mut dyn Host) {
        match self.phase {
            Phase::Running => performative::write_close(host.wire(), Some(why)),
            Phase::Open | Phase::Opening | Phase::Login { sasl: false } => {
                self.write_open(host);
                performative::write_close(host.wire(), Some(why));
            }
            Phase::SaslInit | Phase::Login { sasl: true } => {
                sasl::write_outcome(host.wire(), sasl::Code::SysTemp)
            }
            Phase::Header | Phase::AmqpHeader | Phase::Over => {}
        }
        self.phase = Phase::Over;
    }

    fn on_replies(&mut self, replies: &mut Vec<(Ticket, Reply)>, host: &mut dyn Host) -> Step {
        let mut verdicts = Verdicts::default();
        let mut step = Ok(());
        for (ticket, reply) in replies.drain(..) {
            if let Some(publish) = self.ctx.published(ticket) {
                let live =
                    self.session(publish.channel).is_some_and(|(s, _)| s.life == publish.life && !s.ended);
                if live {
                    verdicts.add(&publish, reply, host);
                }
                continue;
            }
            // Keeps the order of dispositions and of what other replies lead to.
            verdicts.flush(host);
            if step.is_ok() {
                step = self.on_reply(ticket, reply, host);
            }
        }
        verdicts.flush(host);
        step
    }

    fn on_reply(&mut self, ticket: Ticket, reply: Reply, host: &mut dyn Host) -> Step {
        match self.ctx.answered(ticket) {
            Some(Request::Login) => self.on_login(reply, host)?,
            Some(Request::Open) => self.on_opened(reply, host)?,
            Some(Request::Link(at, step)) => {
                if let Some((session, ctx)) = self.session(at.channel) {
                    session.on_link_reply(at, step, reply, ctx, host);
                } else {
                    crate::attach::undo(step, &reply, &mut self.ctx, host);
                }
            }
            Some(Request::Declare(asker, id)) => self.on_declared(asker, id, reply, host),
            Some(Request::Discharge(asker, id)) => self.on_discharged(asker, id, reply, host),
            Some(Request::ConsumerGone(consumer)) => self.ctx.free_consumer(consumer),
            Some(Request::Nothing) | None => {}
        }
        Ok(())
    }

    fn on_deliveries(&mut self, deliveries: &mut Vec<Delivery>, host: &mut dyn Host, now: Instant) {
        for delivery in deliveries.drain(..) {
            let Some(at) = self.ctx.link_of(delivery.consumer) else {
                // Its link has ended; only what a transaction has settled stays with the consumer.
                if !delivery.settled {
                    host.settle(delivery.consumer, &[delivery.tag], &Outcome::Released, None);
                }
                continue;
            };
            if let Some((session, ctx)) = self.session(at.channel) {
                session.on_delivery(at, delivery, ctx, host, now);
            }
        }
    }

    fn on_notice(&mut self, notice: Notice, host: &mut dyn Host) {
        match notice {
            Notice::Drained { consumer } => {
                if let Some(at) = self.ctx.link_of(consumer)
                    && let Some((session, ctx)) = self.session(at.channel)
                {
                    session.on_drained(at, ctx, host);
                }
            }
            Notice::Cancelled { consumer } => {
                if let Some(at) = self.ctx.link_of(consumer)
                    && let Some((session, ctx)) = self.session(at.channel)
                {
                    session.on_cancelled(at, ctx, host);
                }
            }
            Notice::TakenOver => {
                let text = "another connection has opened with this container-id";
                self.dismiss(Condition::new(reason::CONNECTION_FORCED, text), host);
            }
            Notice::Kicked { reason: text } => {
                self.dismiss(Condition::new(reason::CONNECTION_FORCED, text), host);
            }
        }
    }

    /// The broker, not the peer, wants the end.
    fn dismiss(&mut self, why: Condition, host: &mut dyn Host) {
        self.farewell(&why, host);
        host.close(Farewell::Clean { expiry: None });
    }

    fn on_deadline(&mut self, now: Instant, host: &mut dyn Host) -> Step {
        if self.phase == Phase::Over {
            return Ok(());
        }
        if self.phase != Phase::Running {
            if now < self.login_by {
                return Ok(());
            }
            let why = Condition::new(reason::RESOURCE_LIMIT_EXCEEDED, "not opened in time");
            return self.fail(ViolationKind::Timeout, &why, host);
        }
        if self.silent_until().is_some_and(|until| now >= until) {
            let why =
                Condition::new(reason::RESOURCE_LIMIT_EXCEEDED, "nothing was heard within idle-time-out");
            return self.fail(ViolationKind::Timeout, &why, host);
        }
        if self.speak_at().is_some_and(|at| now >= at) {
            // An empty frame says that the broker is alive [AMQP 2.4.5].
            frame::write(host.wire(), FrameKind::Amqp, 0, |_| ());
        }
        Ok(())
    }

    fn silent_until(&self) -> Option<Instant> {
        self.ctx.config.idle_time_out.and_then(|time| self.heard.checked_add(time))
    }

    fn speak_at(&self) -> Option<Instant> {
        self.say_every.and_then(|time| self.said.checked_add(time))
    }
}

impl Connection for Amqp10Connection {
    fn handle(&mut self, now: Instant, input: Input<'_>, host: &mut dyn Host) -> Result<usize, Violation> {
        let before = host.wire().len();
        let mut used = Ok(0);
        match input {
            Input::Bytes(bytes) => used = self.on_bytes(now, bytes, host),
            Input::Replies(replies) => used = self.on_replies(replies, host).map(|()| 0),
            Input::Deliveries(deliveries) => self.on_deliveries(deliveries, host, now),
            // No consumer of this protocol subscribes with a wire class.
            Input::Encoded { .. } => {}
            Input::Notice(notice) => self.on_notice(notice, host),
            Input::Deadline => used = self.on_deadline(now, host).map(|()| 0),
            Input::Shutdown => {
                let why = Condition::new(
                    reason::CONNECTION_FORCED,
                    "the broker is shutting down; connect again later",
                );
                self.dismiss(why, host);
            }
            // Sessions and links are the connection's: the broker ends their consumers with it.
            Input::Lost => self.phase = Phase::Over,
        }
        if host.wire().len() != before {
            self.said = now;
        }
        used
    }

    fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Over => None,
            Phase::Running => [self.silent_until(), self.speak_at()].into_iter().flatten().min(),
            Phase::Header
            | Phase::SaslInit
            | Phase::Login { .. }
            | Phase::AmqpHeader
            | Phase::Open
            | Phase::Opening => Some(self.login_by),
        }
    }
}

fn no_session(channel: u16) -> Fault {
    Fault::connection(reason::NOT_ALLOWED, format!("no session has begun on channel {channel}"))
}

pub(crate) fn refusal_of(reply: Reply) -> Refusal {
    if let Reply::Refused(refusal) = reply {
        return refusal;
    }
    Refusal::new(RefusalKind::Unavailable, "the broker gave no usable answer")
}

/// Outcomes of publishes, gathered into ranges: one disposition for neighbours with the same fate.
#[derive(Debug, Default)]
struct Verdicts {
    run: Option<VerdictRun>,
}

#[derive(Debug)]
struct VerdictRun {
    channel: u16,
    first: u32,
    last: u32,
    accepted: bool,
    transaction: Option<TransactionId>,
}

impl Verdicts {
    #[inline]
    fn add(&mut self, publish: &PendingPublish, reply: Reply, host: &mut dyn Host) {
        let accepted = match reply {
            Reply::Published { routed } => {
                routed > 0 || !publish.release_unrouted || publish.transaction.is_some()
            }
            Reply::Returned(_) => false,
            Reply::Refused(refusal) => {
                self.flush(host);
                let range = (publish.delivery_id, publish.delivery_id);
                let why = condition_of(&refusal);
                let verdict = match publish.transaction {
                    Some(id) => Verdict::NotStaged(id, &why),
                    None => Verdict::Rejected(&why),
                };
                write_disposition(host.wire(), publish.channel, LinkRole::Receiver, range, verdict);
                return;
            }
            // No answer to a publish; but an answer, so the message is in the broker's hands.
            Reply::Authenticated { .. }
            | Reply::Challenge(_)
            | Reply::Opened(_)
            | Reply::Attached(_)
            | Reply::Detached { .. }
            | Reply::Defined(_)
            | Reply::Done => true,
        };
        if let Some(run) = &mut self.run {
            let next = run.last.wrapping_add(1) == publish.delivery_id;
            let same = run.accepted == accepted && run.transaction == publish.transaction;
            if next && run.channel == publish.channel && same {
                run.last = publish.delivery_id;
                return;
            }
        }
        self.flush(host);
        let PendingPublish { channel, delivery_id: id, transaction, .. } = *publish;
        self.run = Some(VerdictRun { channel, first: id, last: id, accepted, transaction });
    }

    fn flush(&mut self, host: &mut dyn Host) {
        let Some(run) = self.run.take() else { return };
        let verdict = match run.transaction {
            Some(id) => Verdict::Staged(id),
            None if run.accepted => Verdict::Accepted,
            None => Verdict::Released,
        };
        write_disposition(host.wire(), run.channel, LinkRole::Receiver, (run.first, run.last), verdict);
    }
}
