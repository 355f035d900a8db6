//! One connection: frames to handlers, replies and deliveries to frames, heartbeats, errors.
//!
//! While a request waits for the broker nothing more is consumed, which keeps answers in the order of the requests and bounds
//! what is outstanding. A soft error ends a channel and a hard one the connection; both wait for the client's answer and
//! discard what comes before it.
//! Never: answers twice, nor after `connection.close`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mynah_core::hash::FastMap;
use mynah_core::protocol::{
    Connection, Farewell, Host, Input, Notice, Peer, Reply, Ticket, Violation, ViolationKind,
};
use mynah_core::{ConsumerId, DeliveryTag};

use crate::arguments::{ExchangeBits, QueueBits};
use crate::channel::Channels;
use crate::codec::frame::{self, Frame};
use crate::codec::method::{Request, Response};
use crate::config::Amqp091Config;
use crate::confirm::Published;
use crate::consume::{Consume, Consumer};
use crate::handshake::Capabilities;
use crate::reason::{Code, Fault};
use crate::settle::Entry;
use crate::topology::{Binding, DeclareExchange, DeclareQueue};
use crate::waiting::Waiting;

/// Tickets of publishes, so that replies find their way without a look-up.
pub(crate) const PUBLISH_TICKET: u64 = 1 << 63;

/// Tickets of consumers that take another one's place; the rest is the consumer's number.
pub(crate) const REPLACE_TICKET: u64 = 1 << 62;

/// How long to wait before asking again to be shown what was left; the socket may be too full to go on.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing was heard yet.
    Header,
    /// `connection.start` was sent.
    Start,
    /// `connection.tune` was sent.
    Tune,
    /// `connection.open` is to come.
    Open,
    Ready,
    /// `connection.close` was sent.
    Closing,
    Closed,
}

#[derive(Debug)]
pub(crate) struct Amqp091Connection {
    pub(crate) config: Arc<Amqp091Config>,
    /// The connection's number, for names that must be unique.
    pub(crate) connection: u64,
    pub(crate) stage: Stage,
    pub(crate) capabilities: Capabilities,
    pub(crate) client_name: Box<str>,
    pub(crate) user: Arc<str>,
    pub(crate) virtual_host: Box<str>,
    /// Bytes of the largest frame, either way.
    pub(crate) frame_max: usize,
    pub(crate) channel_max: u16,
    /// Seconds; 0 = none.
    pub(crate) heartbeat: u16,
    last_heard: Instant,
    last_sent: Instant,
    /// Of the login, or of the answer to `connection.close`.
    until: Instant,
    /// Bytes were left because the broker owed an answer.
    unread: bool,
    /// When to look at them again, if the driver does not show them by itself: `basic.get` is answered by a notice.
    look_again: Option<Instant>,
    /// What the peer did wrong, while its `close-ok` is awaited.
    ending: Option<Violation>,
    pub(crate) channels: Channels,
    pub(crate) consumers: FastMap<ConsumerId, Consumer>,
    pub(crate) last_consumer: u32,
    pub(crate) tickets: u64,
    /// Of channels, transactions and generated names.
    pub(crate) serials: u64,
    pub(crate) waiting: Option<Waiting>,
    pub(crate) publishes: VecDeque<Published>,
    /// Channels with confirms to write at the end of a batch of replies.
    pub(crate) confirming: Vec<u16>,
    /// Bytes of bodies that are not complete, of all channels.
    pub(crate) assembling: usize,
    /// The key published last to the topic exchange, and the topic it names.
    pub(crate) topic_key: String,
    pub(crate) topic: String,
    pub(crate) taken: Vec<Entry>,
    pub(crate) tags: Vec<DeliveryTag>,
}

impl Amqp091Connection {
    pub(crate) fn new(config: Arc<Amqp091Config>, peer: &Peer, now: Instant) -> Self {
        let login_frame = usize::try_from(config.login_frame_bytes_max.max(frame::FRAME_BYTES_MIN));
        Self {
            connection: peer.connection,
            stage: Stage::Header,
            capabilities: Capabilities::default(),
            client_name: Box::default(),
            user: "".into(),
            virtual_host: Box::default(),
            frame_max: login_frame.unwrap_or(usize::MAX),
            channel_max: config.channel_max,
            heartbeat: 0,
            last_heard: now,
            last_sent: now,
            until: now + config.login_timeout,
            unread: false,
            look_again: None,
            ending: None,
            channels: Channels::default(),
            consumers: FastMap::default(),
            last_consumer: 0,
            tickets: 0,
            serials: 0,
            waiting: None,
            publishes: VecDeque::new(),
            confirming: Vec::new(),
            assembling: 0,
            topic_key: String::new(),
            topic: String::new(),
            taken: Vec::new(),
            tags: Vec::new(),
            config,
        }
    }

    fn on_bytes(&mut self, bytes: &[u8], host: &mut dyn Host) -> Result<usize, Violation> {
        let mut used = 0;
        while !self.is_blocked() {
            let rest = bytes.get(used..).unwrap_or_default();
            let taken = match self.stage {
                Stage::Closed => return Ok(bytes.len()),
                Stage::Header => self.on_protocol_header(rest, host)?,
                Stage::Start | Stage::Tune | Stage::Open | Stage::Ready | Stage::Closing => {
                    self.on_frame(rest, host)?
                }
            };
            if taken == 0 {
                break;
            }
            used += taken;
        }
        self.unread = self.is_blocked() && used < bytes.len();
        Ok(used)
    }

    /// Whether the broker owes an answer that has to come first.
    fn is_blocked(&self) -> bool {
        self.waiting.is_some() || self.publishes.len() >= self.config.publishes_max.max(1)
    }

    /// Takes the first frame. Answers how many bytes were used, 0 if it is not all there.
    fn on_frame(&mut self, bytes: &[u8], host: &mut dyn Host) -> Result<usize, Violation> {
        let frame = match frame::parse(bytes, self.frame_max) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(0),
            Err(error) => return Err(self.on_broken_frame(error.into(), host)),
        };
        let mut used = frame.len();
        let rest = bytes.get(used..).unwrap_or_default();
        let result = match self.stage {
            Stage::Ready => match self.on_whole_publish(&frame, rest, host) {
                Some((more, result)) => {
                    used += more;
                    result.map_err(|fault| fault.by((60, 40)))
                }
                None => self.on_any_frame(&frame, host),
            },
            Stage::Closing => {
                self.on_frame_while_closing(&frame, host)?;
                Ok(())
            }
            Stage::Header | Stage::Start | Stage::Tune | Stage::Open | Stage::Closed => {
                self.on_any_frame(&frame, host)
            }
        };
        if let Err(fault) = result {
            self.on_fault(frame.channel, fault, host)?;
        }
        Ok(used)
    }

    fn on_any_frame(&mut self, frame: &Frame<'_>, host: &mut dyn Host) -> Result<(), Fault> {
        let number = frame.channel;
        match frame.kind {
            frame::HEARTBEAT if number == 0 => return Ok(()),
            frame::HEARTBEAT => return Err(Fault::unexpected("a heartbeat frame must be on channel 0")),
            _ if number == 0 || self.stage != Stage::Ready => return self.on_connection_frame(frame, host),
            _ => {}
        }
        let Some(channel) = self.channels.get(&number) else {
            if frame.kind == frame::METHOD
                && let Request::ChannelOpen { .. } = read(frame.payload)?
            {
                return self.on_channel_open(number, host).map_err(|fault| fault.by((20, 10)));
            }
            return Err(Fault::new(Code::ChannelError, "expected 'channel.open'").by(ids(frame.payload)));
        };
        if channel.closing {
            self.on_frame_of_closing_channel(frame, host);
            return Ok(());
        }
        match frame.kind {
            frame::METHOD if !channel.incoming.expects_method() => Err(channel.incoming.instead_of_content()),
            frame::METHOD => {
                let request = read(frame.payload)?;
                let ids = request.ids();
                self.on_channel_method(number, request, host).map_err(|fault| fault.by(ids))
            }
            frame::HEADER => {
                self.on_header_frame(number, frame.payload, host).map_err(|fault| fault.by((60, 40)))
            }
            _ => self.on_body_frame(number, frame.payload, host).map_err(|fault| fault.by((60, 40))),
        }
    }

    /// On channel 0, or before the connection is open.
    fn on_connection_frame(&mut self, frame: &Frame<'_>, host: &mut dyn Host) -> Result<(), Fault> {
        if frame.kind != frame::METHOD {
            return Err(Fault::unexpected("expected method frame, got non method frame instead"));
        }
        let request = read(frame.payload)?;
        let ids = request.ids();
        if frame.channel != 0 {
            return Err(Fault::new(Code::ChannelError, "the connection is not open yet").by(ids));
        }
        let result = if self.stage == Stage::Ready {
            self.on_connection_method(&request, host)
        } else {
            self.on_handshake(&request, host)
        };
        result.map_err(|fault| fault.by(ids))
    }

    fn on_connection_method(&mut self, request: &Request<'_>, host: &mut dyn Host) -> Result<(), Fault> {
        if let Request::ConnectionClose { .. } = request {
            self.on_connection_close(host);
            return Ok(());
        }
        if let Request::ConnectionUpdateSecret { .. } = request {
            // Passwords do not expire here; the next login uses the new one.
            Response::ConnectionUpdateSecretOk {}.put(host.wire(), 0);
            return Ok(());
        }
        Err(Fault::new(Code::CommandInvalid, "this method is not allowed on channel 0 of an open connection"))
    }

    /// Only the client's answer counts; a close that crossed ours is answered.
    fn on_frame_while_closing(&mut self, frame: &Frame<'_>, host: &mut dyn Host) -> Result<(), Violation> {
        if frame.kind != frame::METHOD || frame.channel != 0 {
            return Ok(());
        }
        match ids(frame.payload) {
            (10, 50) => Response::ConnectionCloseOk {}.put(host.wire(), 0),
            (10, 51) => {
                self.stage = Stage::Closed;
                if let Some(violation) = self.ending.take() {
                    return Err(violation);
                }
                host.close(Farewell::Abrupt { expiry: None });
            }
            _ => {}
        }
        Ok(())
    }

    fn on_frame_of_closing_channel(&mut self, frame: &Frame<'_>, host: &mut dyn Host) {
        if frame.kind != frame::METHOD {
            return;
        }
        match ids(frame.payload) {
            (20, 40) => {
                self.channels.remove(&frame.channel);
                Response::ChannelCloseOk {}.put(host.wire(), frame.channel);
            }
            (20, 41) => {
                self.channels.remove(&frame.channel);
            }
            _ => {}
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest is the next function's")]
    fn on_channel_method(
        &mut self,
        number: u16,
        request: Request<'_>,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        match request {
            Request::BasicPublish { exchange, key, mandatory, immediate, .. } => {
                self.on_publish(number, exchange, key, mandatory, immediate)
            }
            Request::BasicAck { tag, multiple } => self.on_ack(number, tag, multiple, host),
            Request::BasicNack { tag, multiple, requeue } => {
                self.on_nack(number, tag, multiple, requeue, host)
            }
            Request::BasicReject { tag, requeue } => self.on_nack(number, tag, false, requeue, host),
            Request::BasicGet { queue, no_ack, .. } => self.on_get(number, queue, no_ack, host),
            Request::BasicConsume { queue, tag, no_ack, exclusive, no_wait, arguments, .. } => {
                // `no-local` is ignored, as in RabbitMQ.
                let consume = Consume { queue, tag, no_ack, exclusive, no_wait, arguments };
                self.on_consume(number, consume, host)
            }
            Request::BasicCancel { tag, no_wait } => {
                self.on_cancel(number, tag, no_wait, host);
                Ok(())
            }
            Request::BasicQos { prefetch_size, prefetch_count, global } => {
                self.on_qos(number, prefetch_size, prefetch_count, global, host)
            }
            Request::BasicRecover { requeue } => self.on_recover(number, requeue, true, host),
            Request::BasicRecoverAsync { requeue } => self.on_recover(number, requeue, false, host),
            Request::ConfirmSelect { no_wait } => self.on_confirm_select(number, no_wait, host),
            Request::TxSelect {} => self.on_tx_select(number, host),
            Request::TxCommit {} => self.on_tx_end(number, true, host),
            Request::TxRollback {} => self.on_tx_end(number, false, host),
            Request::ChannelFlow { active } => {
                self.on_channel_flow(number, active, host);
                Ok(())
            }
            Request::ChannelClose { .. } => {
                self.on_channel_close(number, host);
                Ok(())
            }
            Request::AccessRequest { .. } => {
                // Tickets went away with 0-9; old libraries still ask for one and send it along.
                Response::AccessRequestOk { ticket: 1 }.put(host.wire(), number);
                Ok(())
            }
            // Late answers to what this side sent.
            Request::ChannelFlowOk { .. } | Request::ChannelCloseOk {} | Request::BasicCancelOk { .. } => {
                Ok(())
            }
            Request::ChannelOpen { .. } => Err(Fault::new(Code::ChannelError, "second 'channel.open' seen")),
            _ => self.on_definition(number, request, host),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest was taken before")]
    fn on_definition(&mut self, number: u16, request: Request<'_>, host: &mut dyn Host) -> Result<(), Fault> {
        use mynah_core::protocol::Destination;
        let queue = |source, key, arguments, bind, no_wait| Binding {
            source,
            destination: Destination::Queue(""),
            key,
            arguments,
            bind,
            no_wait,
        };
        match request {
            Request::QueueDeclare {
                queue: name,
                passive,
                durable,
                exclusive,
                auto_delete,
                no_wait,
                arguments,
                ..
            } => {
                let bits = QueueBits { durable, exclusive, auto_delete };
                let declare = DeclareQueue { name, passive, bits, no_wait, arguments };
                self.on_queue_declare(number, declare, host)
            }
            Request::QueueDelete { queue, if_unused, if_empty, no_wait, .. } => {
                self.on_queue_delete(number, queue, [if_unused, if_empty, no_wait], host)
            }
            Request::QueuePurge { queue, no_wait, .. } => self.on_queue_purge(number, queue, no_wait, host),
            Request::QueueBind { queue: name, exchange, key, no_wait, arguments, .. } => {
                self.on_queue_bind(number, name, queue(exchange, key, arguments, true, no_wait), host)
            }
            Request::QueueUnbind { queue: name, exchange, key, arguments, .. } => {
                self.on_queue_bind(number, name, queue(exchange, key, arguments, false, false), host)
            }
            Request::ExchangeDeclare {
                exchange,
                kind,
                passive,
                durable,
                auto_delete,
                internal,
                no_wait,
                arguments,
                ..
            } => {
                let bits = ExchangeBits { durable, auto_delete, internal };
                let declare = DeclareExchange { name: exchange, kind, passive, bits, no_wait, arguments };
                self.on_exchange_declare(number, declare, host)
            }
            Request::ExchangeDelete { exchange, if_unused, no_wait, .. } => {
                self.on_exchange_delete(number, exchange, if_unused, no_wait, host)
            }
            Request::ExchangeBind { destination, source, key, no_wait, arguments, .. } => {
                let destination = Destination::Exchange(destination);
                let binding = Binding { source, destination, key, arguments, bind: true, no_wait };
                self.on_binding(number, binding, host)
            }
            Request::ExchangeUnbind { destination, source, key, no_wait, arguments, .. } => {
                let destination = Destination::Exchange(destination);
                let binding = Binding { source, destination, key, arguments, bind: false, no_wait };
                self.on_binding(number, binding, host)
            }
            _ => Err(Fault::new(Code::CommandInvalid, "this method is only allowed on channel 0")),
        }
    }

    /// Closes what the fault ends.
    ///
    /// # Errors
    /// Only before the connection is open: then nothing is awaited.
    pub(crate) fn on_fault(
        &mut self,
        channel: u16,
        fault: Fault,
        host: &mut dyn Host,
    ) -> Result<(), Violation> {
        match self.stage {
            Stage::Ready if channel != 0 && !fault.code.is_hard() => {
                self.close_channel(channel, &fault, host);
                Ok(())
            }
            Stage::Ready => {
                self.put_connection_close(&fault, host);
                self.stage = Stage::Closing;
                self.until = self.last_heard + self.config.close_timeout;
                self.ending = Some(Violation::new(fault.code.violation(), fault.reply_text()));
                self.waiting = None;
                Ok(())
            }
            Stage::Start if fault.code == Code::AccessRefused => Err(self.refuse_login(&fault, host)),
            Stage::Header | Stage::Start | Stage::Tune | Stage::Open => {
                self.put_connection_close(&fault, host);
                self.stage = Stage::Closed;
                Err(Violation::new(fault.code.violation(), fault.reply_text()))
            }
            Stage::Closing | Stage::Closed => Ok(()),
        }
    }

    /// What follows cannot be told into frames any more, so no answer can be awaited either.
    fn on_broken_frame(&mut self, fault: Fault, host: &mut dyn Host) -> Violation {
        if self.stage != Stage::Closing {
            self.put_connection_close(&fault, host);
        }
        self.stage = Stage::Closed;
        Violation::new(ViolationKind::Malformed, fault.reply_text())
    }

    pub(crate) fn put_connection_close(&mut self, fault: &Fault, host: &mut dyn Host) {
        let (class, method) = fault.caused_by;
        Response::ConnectionClose { code: fault.code.number(), text: &fault.reply_text(), class, method }
            .put(host.wire(), 0);
    }

    /// The client closes the connection.
    pub(crate) fn on_connection_close(&mut self, host: &mut dyn Host) {
        Response::ConnectionCloseOk {}.put(host.wire(), 0);
        self.stage = Stage::Closed;
        host.close(Farewell::Clean { expiry: None });
    }

    fn on_reply(&mut self, ticket: Ticket, reply: Reply, host: &mut dyn Host) -> Result<(), Violation> {
        if ticket.0 & PUBLISH_TICKET != 0 {
            self.on_published(ticket, reply, host);
            return Ok(());
        }
        if let Some(waiting) = self.waiting.take_if(|waiting| waiting.ticket == ticket) {
            return self.on_answer(waiting, reply, host);
        }
        if ticket.0 & REPLACE_TICKET != 0
            && let (Reply::Refused(_), Ok(id)) = (reply, u32::try_from(ticket.0 & !REPLACE_TICKET))
        {
            // The place was lost, to an exclusive consumer for instance.
            self.on_cancelled(ConsumerId(id), host);
        }
        Ok(())
    }

    fn on_notice(&mut self, notice: Notice, host: &mut dyn Host) {
        match notice {
            Notice::Drained { consumer } => self.on_drained(consumer, host),
            Notice::Cancelled { consumer } => self.on_cancelled(consumer, host),
            Notice::TakenOver => self.force_close("another connection took over", host),
            Notice::Kicked { reason } => self.force_close(&reason, host),
        }
    }

    /// The broker ends the connection, through no fault of the client.
    fn force_close(&mut self, reason: &str, host: &mut dyn Host) {
        if !matches!(self.stage, Stage::Header | Stage::Closing | Stage::Closed) {
            let text = format!("broker forced connection closure with reason '{reason}'");
            self.put_connection_close(&Fault::new(Code::ConnectionForced, text), host);
        }
        self.stage = Stage::Closed;
        host.close(Farewell::Abrupt { expiry: None });
    }

    fn interval(&self, halves: u32) -> Duration {
        Duration::from_millis(500) * u32::from(self.heartbeat) * halves
    }

    fn on_deadline(&mut self, now: Instant, host: &mut dyn Host) -> Result<(), Violation> {
        match self.stage {
            Stage::Ready if self.heartbeat > 0 => {
                if self.is_blocked() {
                    // What the client sends waits because of us; silence is not its fault.
                    self.last_heard = now;
                }
                if now >= self.last_heard + self.interval(4) {
                    self.stage = Stage::Closed;
                    // No close frame: nobody is there to read it (0-9-1 section 4.2.7).
                    return Err(Violation::new(ViolationKind::Timeout, "missed heartbeats from client"));
                }
                if now >= self.last_sent + self.interval(1) {
                    // Nothing was said for a while: what a burst needed can go.
                    self.channels.shrink();
                    self.publishes.shrink_to_fit();
                    self.taken = Vec::new();
                    self.tags = Vec::new();
                    frame::put_heartbeat(host.wire());
                }
            }
            Stage::Ready | Stage::Closed => {}
            Stage::Header | Stage::Start | Stage::Tune | Stage::Open if now >= self.until => {
                self.stage = Stage::Closed;
                return Err(Violation::new(
                    ViolationKind::Timeout,
                    "the client did not open the connection in time",
                ));
            }
            Stage::Closing if now >= self.until => {
                self.stage = Stage::Closed;
                let unanswered =
                    || Violation::new(ViolationKind::Timeout, "connection.close was not answered");
                return Err(self.ending.take().unwrap_or_else(unanswered));
            }
            Stage::Header | Stage::Start | Stage::Tune | Stage::Open | Stage::Closing => {}
        }
        Ok(())
    }

    fn on_input(&mut self, now: Instant, input: Input<'_>, host: &mut dyn Host) -> Result<usize, Violation> {
        match input {
            Input::Bytes(bytes) => {
                if !bytes.is_empty() {
                    self.last_heard = now;
                }
                return self.on_bytes(bytes, host);
            }
            Input::Replies(replies) => {
                for (ticket, reply) in replies.drain(..) {
                    self.on_reply(ticket, reply, host)?;
                }
                self.write_confirms(host);
            }
            Input::Deliveries(deliveries) => {
                for delivery in deliveries.drain(..) {
                    if self.stage == Stage::Ready {
                        self.on_delivery(delivery, host);
                    }
                }
            }
            // This crate attaches no wires.
            Input::Encoded { .. } => {}
            Input::Notice(notice) => {
                if self.stage != Stage::Closed {
                    self.on_notice(notice, host);
                }
            }
            Input::Deadline => self.on_deadline(now, host)?,
            Input::Shutdown => self.force_close("shutdown", host),
            Input::Lost => self.stage = Stage::Closed,
        }
        Ok(0)
    }
}

impl Connection for Amqp091Connection {
    fn handle(&mut self, now: Instant, input: Input<'_>, host: &mut dyn Host) -> Result<usize, Violation> {
        if let Input::Lost = input {
            return self.on_input(now, input, host);
        }
        let before = host.wire().len();
        let pause = if let Input::Deadline = input { LOOK_AGAIN } else { Duration::ZERO };
        let result = self.on_input(now, input, host);
        self.look_again = (self.unread && !self.is_blocked()).then(|| now + pause);
        if host.wire().len() != before {
            self.last_sent = now;
        }
        result
    }

    fn deadline(&self) -> Option<Instant> {
        let own = match self.stage {
            Stage::Header | Stage::Start | Stage::Tune | Stage::Open | Stage::Closing => Some(self.until),
            Stage::Ready if self.heartbeat > 0 => {
                Some((self.last_sent + self.interval(1)).min(self.last_heard + self.interval(4)))
            }
            Stage::Ready | Stage::Closed => None,
        };
        own.into_iter().chain(self.look_again).min()
    }
}

/// Parses a method; what cannot be read is a fault of the method it would have been.
fn read(payload: &[u8]) -> Result<Request<'_>, Fault> {
    Request::read(payload).map_err(|error| Fault::from(error).by(ids(payload)))
}

/// Class and method of a method frame; zeros if it is too short for them.
fn ids(payload: &[u8]) -> (u16, u16) {
    match payload {
        [c1, c0, m1, m0, ..] => (u16::from_be_bytes([*c1, *c0]), u16::from_be_bytes([*m1, *m0])),
        _ => (0, 0),
    }
}
