//! One MQTT connection: states, one dispatch on packets, deadlines and good-byes.
//!
//! What packets mean is in the files beside: [`crate::login`], [`crate::inbound`], [`crate::outbound`],
//! [`crate::subscription`]. Never: reads a clock, blocks, holds a buffer: an idle connection is this struct and its
//! subscriptions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mynah_core::protocol::{Connection, Expiry, Farewell, Host, Input, Notice, Reply, Ticket, Violation};

use crate::MqttConfig;
use crate::alias::Aliases;
use crate::codec::ack::{Ack, AckKind};
use crate::codec::control::Disconnect;
use crate::codec::property::{Properties, Value, fits, id, put_field};
use crate::codec::{Frame, Packet, kind, split_frame};
use crate::enhanced::Enhanced;
use crate::inbound::Inbound;
use crate::login::{Login, capped, expiry_of};
use crate::outbound::Outbound;
use crate::parked::Parked;
use crate::reading::Reading;
use crate::reason::{Fault, Reason};
use crate::subscription::Subscriptions;
use crate::tolerant;
use crate::version::Version;

/// What a ticket asks for: its upper byte. The rest is the asker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TicketKind {
    Authenticate,
    /// The client proves again who it is.
    Renew,
    Open,
    /// Packet identifier.
    AtLeastOnce,
    /// Packet identifier.
    ExactlyOnce,
    /// Sequence number of the SUBSCRIBE and place in it.
    Attach,
    /// The same of an UNSUBSCRIBE.
    Detach,
    /// Consumer number.
    Reattach,
}

impl TicketKind {
    const ALL: [Self; 8] = [
        Self::Authenticate,
        Self::Renew,
        Self::Open,
        Self::AtLeastOnce,
        Self::ExactlyOnce,
        Self::Attach,
        Self::Detach,
        Self::Reattach,
    ];

    pub(crate) fn ticket(self, number: u64) -> Ticket {
        Ticket((self as u64) << 56 | number)
    }

    fn of(ticket: Ticket) -> Option<(Self, u64)> {
        let [upper, ..] = ticket.0.to_be_bytes();
        Self::ALL.get(usize::from(upper)).map(|kind| (*kind, ticket.0 & ((1 << 56) - 1)))
    }
}

#[derive(Debug)]
pub(crate) enum State {
    /// Nothing but CONNECT is understood.
    Start,
    Authenticating(Box<Login>),
    /// The client has to answer with AUTH.
    Challenged(Box<Login>),
    Opening(Box<Login>),
    Open,
    /// Good-bye was said; nothing is read any more.
    Closed,
}

#[derive(Debug)]
pub(crate) struct MqttConnection {
    pub(crate) config: Arc<MqttConfig>,
    pub(crate) state: State,
    pub(crate) version: Version,
    /// A bridge of mosquitto: its own messages are not sent back, the retain flag is kept.
    pub(crate) bridge: bool,
    /// There is a session that holds subscriptions, and that may outlive the connection.
    pub(crate) durable: bool,
    /// CONNECT had session expiry 0; DISCONNECT must not raise it [MQTT 5.0 3.14.2.2.2].
    pub(crate) ends_with_connection: bool,
    /// Reason strings are wanted in acknowledgements [MQTT-3.1.2-29].
    pub(crate) problem_info: bool,
    pub(crate) enhanced: Enhanced,
    /// Seconds; 0 = none.
    pub(crate) keep_alive: u16,
    /// The peer's maximum packet size; `u32::MAX` = none.
    pub(crate) packet_max: u32,
    /// When a packet was last received; before login, when the connection was made.
    pub(crate) heard: Instant,
    pub(crate) inbound: Inbound,
    pub(crate) outbound: Outbound,
    /// Topic aliases the peer takes.
    pub(crate) aliases: Option<Box<Aliases>>,
    pub(crate) subscriptions: Subscriptions,
}

impl MqttConnection {
    pub(crate) fn new(config: Arc<MqttConfig>, now: Instant) -> Self {
        Self {
            config,
            state: State::Start,
            version: Version::V311,
            bridge: false,
            durable: false,
            ends_with_connection: false,
            problem_info: true,
            enhanced: Enhanced::No,
            keep_alive: 0,
            packet_max: u32::MAX,
            heard: now,
            inbound: Inbound::default(),
            outbound: Outbound::new(),
            aliases: None,
            subscriptions: Subscriptions::default(),
        }
    }

    fn on_bytes(&mut self, now: Instant, bytes: &[u8], host: &mut dyn Host) -> Result<usize, Violation> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match &self.state {
                State::Start | State::Challenged(_) => {
                    let Some(after) = self.on_first_packet(now, rest, host)? else { break };
                    rest = after;
                }
                State::Open => {
                    let Some(after) = self.on_packets(now, rest, host)? else { break };
                    rest = after;
                }
                State::Authenticating(_) | State::Opening(_) => break,
                State::Closed => return Ok(bytes.len()),
            }
        }
        self.outbound.flush(host);
        Ok(bytes.len() - rest.len())
    }

    /// [MQTT-3.1.0-1]: anything but a CONNECT is answered by closing. It may take less than 64 KiB in all.
    fn on_first_packet<'a>(
        &mut self,
        now: Instant,
        bytes: &'a [u8],
        host: &mut dyn Host,
    ) -> Result<Option<&'a [u8]>, Violation> {
        let fail = |fault: Fault| Err(fault.violation());
        let is_first = matches!(self.state, State::Start);
        if is_first && bytes.first().is_some_and(|first| *first != kind::CONNECT << 4) {
            self.state = State::Closed;
            return fail(Fault::protocol("the first packet is not a CONNECT [MQTT-3.1.0-1]"));
        }
        match split_frame(bytes, self.config.login_bytes_max) {
            Ok(Some(frame)) => {
                if is_first {
                    self.on_connect(now, frame.body, host)?;
                } else {
                    self.on_answer(&frame, host)?;
                }
                Ok(Some(frame.rest))
            }
            Ok(None) => Ok(None),
            Err(fault) => {
                self.state = State::Closed;
                fail(fault)
            }
        }
    }

    /// All complete packets; `None` if the rest must wait.
    fn on_packets<'a>(
        &mut self,
        now: Instant,
        bytes: &'a [u8],
        host: &mut dyn Host,
    ) -> Result<Option<&'a [u8]>, Violation> {
        let bytes_max = self.config.packet_bytes_max;
        let mut reading = Reading::new(bytes);
        let waits = loop {
            if self.is_blocked() {
                break true;
            }
            let done = match split_frame(reading.rest, bytes_max) {
                Ok(Some(mut frame)) => {
                    (reading.packet, reading.rest) = (reading.rest, frame.rest);
                    if self.config.tolerant {
                        frame.first = tolerant::header(frame.first);
                    }
                    self.on_packet(now, &frame, &mut reading, host)
                }
                Ok(None) => break true,
                Err(fault) => Err(fault),
            };
            if let Err(fault) = done {
                return Err(self.fail(fault, host));
            }
            if matches!(self.state, State::Closed) {
                break false;
            }
        };
        let nothing = reading.rest.len() == bytes.len();
        if !nothing {
            self.heard = now;
        }
        if waits && nothing { Ok(None) } else { Ok(Some(reading.rest)) }
    }

    /// The broker has to answer first. In 5.0 it is the receive maximum that bounds publishes.
    fn is_blocked(&self) -> bool {
        self.subscriptions.is_blocked()
            || self.inbound.is_blocked()
            || ((!self.version.has_properties() || self.config.tolerant)
                && self.inbound.unanswered() >= u64::from(self.config.receive_max))
    }

    #[inline]
    fn on_packet<'a>(
        &mut self,
        now: Instant,
        frame: &Frame<'a>,
        reading: &mut Reading<'a>,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        match (frame.first >> 4, frame.body) {
            (kind::PUBLISH, body) => self.on_publish(frame.first, body, reading, host),
            // The plain form of the usual acknowledgement.
            (kind::PUBACK, [high, low]) if frame.first & 0x0f == 0 && (*high | *low) != 0 => {
                let id = u16::from_be_bytes([*high, *low]);
                self.on_ack(now, &Ack::new(AckKind::PubAck, id, Reason::SUCCESS), host)
            }
            _ => self.on_other_packet(now, frame, host),
        }
    }

    fn on_other_packet(&mut self, now: Instant, frame: &Frame<'_>, host: &mut dyn Host) -> Result<(), Fault> {
        if frame.first >> 4 == kind::CONNECT {
            return Err(Fault::protocol("a second CONNECT [MQTT-3.1.0-2]"));
        }
        match Packet::decode(frame.first, frame.body, self.version)? {
            Packet::Ack(ack) => self.on_ack(now, &ack, host),
            Packet::Subscribe(packet) => self.on_subscribe(&packet, host),
            Packet::Unsubscribe(packet) => self.on_unsubscribe(&packet, host),
            Packet::PingReq => {
                self.outbound.rest();
                Packet::PingResp.encode(self.version, host.wire());
                Ok(())
            }
            Packet::Disconnect(packet) => self.on_disconnect(&packet, host),
            Packet::Auth(auth) => self.on_auth(&auth, host),
            Packet::Publish(_)
            | Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => Err(Fault::protocol("a packet that only a server sends")),
        }
    }

    fn on_disconnect(&mut self, packet: &Disconnect<'_>, host: &mut dyn Host) -> Result<(), Fault> {
        let wanted = packet.properties.iter().find_map(|(id, value)| match (id, value) {
            (id::SESSION_EXPIRY, Value::Four(seconds)) => Some(seconds),
            _ => None,
        });
        let raised = self.ends_with_connection && wanted.is_some_and(|seconds| seconds > 0);
        let wanted = wanted.filter(|_| !raised);
        if raised && !self.config.tolerant {
            return Err(Fault::protocol("session expiry raised in DISCONNECT after 0 in CONNECT"));
        }
        if packet.properties.iter().any(|(id, _)| id == id::SERVER_REFERENCE) {
            return Err(Fault::protocol("a client must not send a server reference"));
        }
        let expiry = wanted.map(|seconds| capped(expiry_of(seconds), self.config.session_expiry_max));
        if let Some(expiry) = expiry {
            self.durable = self.durable && expiry != Expiry::AtEnd;
        }
        // Every other code leaves the will in force [MQTT-3.14.4-3, MQTT 5.0 3.1.2.5].
        let farewell = match packet.reason {
            Reason::SUCCESS => Farewell::Clean { expiry },
            _ => Farewell::Abrupt { expiry },
        };
        self.outbound.flush(host);
        self.state = State::Closed;
        host.close(farewell);
        Ok(())
    }

    fn on_replies(
        &mut self,
        now: Instant,
        replies: &mut Vec<(Ticket, Reply)>,
        host: &mut dyn Host,
    ) -> Result<(), Violation> {
        host.wire().reserve(4 * replies.len());
        for (ticket, reply) in replies.drain(..) {
            let Some((kind, number)) = TicketKind::of(ticket) else { continue };
            let [.., high, low] = number.to_be_bytes();
            let id = u16::from_be_bytes([high, low]);
            match kind {
                TicketKind::AtLeastOnce => self.on_published(AckKind::PubAck, id, &reply, host),
                TicketKind::ExactlyOnce => self.on_published(AckKind::PubRec, id, &reply, host),
                TicketKind::Attach | TicketKind::Detach => self.on_subscribed(number, &reply, host),
                TicketKind::Reattach => {
                    if let (Reply::Refused(_), Ok(consumer)) = (&reply, u32::try_from(number)) {
                        self.subscriptions.remove_consumer(consumer);
                    }
                }
                TicketKind::Authenticate | TicketKind::Open => self.on_login_reply(now, reply, host)?,
                TicketKind::Renew => self.on_renewal_reply(&reply, host)?,
            }
        }
        Ok(())
    }

    fn on_login_reply(&mut self, now: Instant, reply: Reply, host: &mut dyn Host) -> Result<(), Violation> {
        match (std::mem::replace(&mut self.state, State::Closed), reply) {
            (State::Authenticating(_) | State::Opening(_), Reply::Refused(refusal)) => {
                Err(self.on_login_refused(&refusal, host))
            }
            (State::Authenticating(login), Reply::Challenge(data)) => self.on_challenge(login, &data, host),
            (State::Authenticating(mut login), reply) => {
                if let Reply::Authenticated { proof, .. } = reply {
                    login.proof = proof;
                }
                self.on_authenticated(login, host);
                Ok(())
            }
            (State::Opening(login), Reply::Opened(opened)) => {
                self.on_opened(now, &login, &opened, host);
                Ok(())
            }
            (state, _) => {
                self.state = state;
                Ok(())
            }
        }
    }

    fn on_notice(&mut self, notice: Notice, host: &mut dyn Host) {
        match notice {
            Notice::Drained { .. } => {}
            Notice::Cancelled { consumer } => self.subscriptions.remove_consumer(consumer.0),
            Notice::TakenOver => {
                self.say_goodbye(Reason::TAKEN_OVER, "another connection uses this client identifier", host);
            }
            Notice::Kicked { reason } => self.say_goodbye(Reason::ADMINISTRATIVE, &reason, host),
        }
    }

    /// Ends the connection because the broker wants it; the will is sent.
    fn say_goodbye(&mut self, reason: Reason, text: &str, host: &mut dyn Host) {
        self.write_disconnect(reason, text, host);
        self.state = State::Closed;
        host.close(Farewell::Abrupt { expiry: None });
    }

    /// The peer broke the rules.
    pub(crate) fn fail(&mut self, fault: Fault, host: &mut dyn Host) -> Violation {
        self.outbound.flush(host);
        self.write_disconnect(fault.reason, &fault.text, host);
        self.state = State::Closed;
        fault.violation()
    }

    /// [MQTT-4.13.1-1]; 3.x has no such packet from a server.
    fn write_disconnect(&self, reason: Reason, text: &str, host: &mut dyn Host) {
        if !matches!(self.state, State::Open) || !self.version.has_properties() {
            return;
        }
        let mut properties = Vec::new();
        put_field(&mut properties, id::REASON_STRING, text.as_bytes());
        let properties = if fits(&properties, 1, self.packet_max) {
            Properties::trusted(&properties)
        } else {
            Properties::default()
        };
        Disconnect { reason, properties }.encode(self.version, host.wire());
    }

    fn on_deadline(&mut self, now: Instant, host: &mut dyn Host) -> Result<(), Violation> {
        if self.deadline().is_none_or(|due| now < due) {
            return Ok(());
        }
        let fault = Fault::new(Reason::KEEP_ALIVE_TIMEOUT, "nothing was heard in time [MQTT-3.1.2-22]");
        Err(self.fail(fault, host))
    }

    /// Keeps with a durable session what it needs to go on.
    fn on_lost(&self, host: &mut dyn Host) {
        if self.durable {
            let parked = Parked {
                unreleased: self.inbound.unreleased(),
                owed: self.outbound.owed(),
                subscriptions: self.subscriptions.kept(),
            };
            host.park(parked.encode());
        }
    }
}

impl Connection for MqttConnection {
    fn handle(&mut self, now: Instant, input: Input<'_>, host: &mut dyn Host) -> Result<usize, Violation> {
        match input {
            Input::Bytes(bytes) => return self.on_bytes(now, bytes, host),
            Input::Encoded { bytes, marks } => self.outbound.patch(bytes, marks),
            // Nothing can be sent any more: they go back with the connection.
            Input::Deliveries(deliveries) if matches!(self.state, State::Closed) => deliveries.clear(),
            Input::Deliveries(deliveries) => self.on_deliveries(now, deliveries, host),
            Input::Replies(replies) => {
                if matches!(self.state, State::Closed) {
                    replies.clear();
                } else {
                    self.on_replies(now, replies, host)?;
                }
            }
            Input::Notice(notice) => self.on_notice(notice, host),
            Input::Deadline => self.on_deadline(now, host)?,
            Input::Shutdown => self.say_goodbye(Reason::SHUTTING_DOWN, "the broker shuts down", host),
            Input::Lost => self.on_lost(host),
        }
        Ok(0)
    }

    fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Start | State::Authenticating(_) | State::Challenged(_) | State::Opening(_) => {
                self.heard.checked_add(self.config.login_timeout)
            }
            // One and a half times the keep alive [MQTT-3.1.2-22].
            State::Open if self.keep_alive > 0 => {
                self.heard.checked_add(Duration::from_millis(u64::from(self.keep_alive) * 1500))
            }
            State::Open | State::Closed => None,
        }
    }

    fn marked_credit(&self) -> u32 {
        self.outbound.credit()
    }
}
