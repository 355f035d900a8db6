//! The machine driven by hand, in virtual time: a peer, a host that records, and nothing else.

mod fuzz;
mod inbound;
mod login;
mod outbound;
mod passing;
mod session;
mod spy;
mod strict;
mod subscription;
mod through;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use mynah_core::protocol::{
    Connection, Detect, Expiry, Input, Opened, Protocol, Refusal, RefusalKind, Reply, Violation,
};
use mynah_core::testing::RecordingHost;
use mynah_core::{
    Address, AddressRef, ConsumerId, ContentRef, Delivery, DeliveryTag, Guarantee, Header, Message,
    PublishRef, Wire,
};

use crate::codec::property::Properties;
use crate::codec::{Packet, connect::Connect, split_frame};
use crate::connection::MqttConnection;
use crate::reason::Reason;
use crate::version::Version;
use crate::{Mqtt, MqttConfig};
use spy::Spy;

pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    assert!(digits.len().is_multiple_of(2), "{text}");
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

pub(crate) fn show(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// One connection, its host, and the driver's duties.
pub(crate) struct Pair {
    pub connection: MqttConnection,
    pub host: RecordingHost,
    pub now: Instant,
    /// Received and not consumed.
    pub unread: Vec<u8>,
    pub violation: Option<Violation>,
    pub version: Version,
}

impl Pair {
    pub(crate) fn new(config: MqttConfig) -> Self {
        let now = Instant::now();
        Self {
            connection: MqttConnection::new(config.into(), now),
            host: RecordingHost::default(),
            now,
            unread: Vec::new(),
            violation: None,
            version: Version::V311,
        }
    }

    /// Logged in, with a session that ends with the connection.
    pub(crate) fn open(version: Version) -> Self {
        Self::open_with(version, MqttConfig::default(), &[])
    }

    pub(crate) fn open_with(version: Version, config: MqttConfig, properties: &[u8]) -> Self {
        Self::log_in(config, connect(version, properties), opened(false, Expiry::AtEnd, None))
    }

    pub(crate) fn log_in(config: MqttConfig, connect: Connect<'_>, opened: Opened) -> Self {
        let mut pair = Self::new(config);
        pair.version = connect.version;
        pair.send_packet(&Packet::Connect(connect));
        pair.agree();
        let tickets = pair.host.take_tickets();
        assert_eq!(tickets.len(), 1, "{:?}", pair.violation);
        pair.reply(vec![(tickets[0].0, Reply::Opened(Box::new(opened)))]);
        assert_eq!(pair.violation, None);
        pair
    }

    fn input(&mut self, input: Input<'_>) -> usize {
        assert_eq!(self.violation, None, "nothing but the end comes after a violation");
        match self.connection.handle(self.now, input, &mut self.host) {
            Ok(used) => used,
            Err(violation) => {
                self.violation = Some(violation);
                0
            }
        }
    }

    fn read(&mut self) {
        if !self.unread.is_empty() && self.violation.is_none() {
            let unread = std::mem::take(&mut self.unread);
            let used = self.input(Input::Bytes(&unread));
            self.unread = unread[used..].to_vec();
        }
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        self.read();
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.send_bytes(&hex(text));
    }

    pub(crate) fn send_packet(&mut self, packet: &Packet<'_>) {
        let mut bytes = BytesMut::new();
        packet.encode(self.version, &mut bytes);
        self.send_bytes(&bytes);
    }

    pub(crate) fn reply(&mut self, mut replies: Vec<(mynah_core::protocol::Ticket, Reply)>) {
        self.input(Input::Replies(&mut replies));
        assert!(replies.is_empty());
        self.read();
    }

    /// The broker says yes to all that was asked.
    pub(crate) fn agree(&mut self) {
        let replies = self.host.agree();
        self.reply(replies);
    }

    /// The broker says no to all that was asked.
    pub(crate) fn refuse(&mut self, kind: RefusalKind) {
        let tickets = self.host.take_tickets();
        let refused = |(ticket, _)| (ticket, Reply::Refused(Refusal::new(kind, "no")));
        self.reply(tickets.into_iter().map(refused).collect());
    }

    pub(crate) fn deliver(&mut self, mut deliveries: Vec<Delivery>) {
        self.input(Input::Deliveries(&mut deliveries));
        assert!(deliveries.is_empty());
        self.read();
    }

    pub(crate) fn event(&mut self, input: Input<'_>) {
        self.input(input);
        self.read();
    }

    pub(crate) fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        if self.connection.deadline().is_some_and(|due| due <= self.now) {
            self.input(Input::Deadline);
        }
    }

    /// The end; what was parked.
    pub(crate) fn lose(mut self) -> Option<Bytes> {
        self.connection.handle(self.now, Input::Lost, &mut self.host).unwrap();
        self.host.parked
    }

    /// The calls and their texts, without answering.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.host.calls.iter().map(|call| call.text.clone()).collect()
    }

    pub(crate) fn expect(&mut self, text: &str) {
        let wire = self.host.take_wire();
        assert_eq!(show(&wire), show(&hex(text)), "violation {:?}", self.violation);
    }

    pub(crate) fn expect_calls(&mut self, texts: &[&str]) {
        assert_eq!(self.host.take_texts(), texts);
    }

    /// The reason of the DISCONNECT or CONNACK with which it ended; `None` if nothing was said.
    pub(crate) fn ended(&mut self) -> Option<Reason> {
        assert!(self.violation.is_some() || self.host.closed.is_some(), "it goes on");
        let wire = self.host.take_wire();
        let mut rest = wire.as_ref();
        let mut reason = None;
        while let Some(frame) = split_frame(rest, u32::MAX).unwrap() {
            let packet = Packet::decode(frame.first, frame.body, self.version).unwrap();
            if let Packet::Disconnect(packet) = packet {
                reason = Some(packet.reason);
            } else if let Packet::ConnAck(packet) = packet {
                reason = Some(Reason(packet.code));
            }
            rest = frame.rest;
        }
        reason
    }
}

pub(crate) fn connect(version: Version, properties: &[u8]) -> Connect<'_> {
    Connect {
        version,
        bridge: false,
        clean: true,
        keep_alive: 60,
        properties: Properties::trusted(properties),
        client_id: "c",
        will: None,
        user: None,
        password: None,
    }
}

pub(crate) fn opened(present: bool, expiry: Expiry, parked: Option<Bytes>) -> Opened {
    Opened { present, client_id: "c".into(), parked, notes: Vec::new(), memos: Vec::new(), expiry }
}

pub(crate) fn message(topic: &str, guarantee: Guarantee, body: &[u8], now: Instant) -> Message {
    let header = Header { guarantee, ..Header::default() };
    Message::from_publish(&PublishRef { header, ..PublishRef::new(AddressRef::Topic(topic), body) }, now)
}

pub(crate) fn delivery(consumer: ConsumerId, tag: u64, message: Message) -> Delivery {
    Delivery {
        consumer,
        tag: DeliveryTag(tag),
        message: message.into(),
        attempts: 0,
        redelivered: false,
        settled: false,
        remaining: 0,
        wire: None,
    }
}

pub(crate) fn wire(version: Version, guarantee: Guarantee) -> Wire {
    Wire {
        format: crate::WIRE,
        version: version.wire(),
        guarantee,
        direct_max: Guarantee::ExactlyOnce,
        keep_retain: false,
        identifiers: Vec::new(),
        apart: false,
        as_message: false,
        encode: crate::translate::encode,
    }
}

#[test]
fn which_first_bytes_are_ours() {
    let check = |text: &str, expected| assert_eq!(Mqtt::default().detect(&hex(text)), expected, "{text}");
    check("", Detect::NeedMore);
    check("10", Detect::NeedMore);
    check("10 80", Detect::NeedMore);
    check("10 0c 00 04 4d 51", Detect::NeedMore);
    check("10 0c 00 04 4d 51 54 54", Detect::Yes);
    check("10 80 01 00 06 4d 51 49 73 64 70", Detect::Yes);
    check("10 04 00 04 4d 51", Detect::Yes);
    check("10 ff ff ff 7f", Detect::Yes);
    check("10 0c 00 05", Detect::No);
    check("41 4d 51 50", Detect::No);
    check("10 ff ff ff ff", Detect::No);
}

#[test]
fn an_idle_connection_is_small() {
    let size = size_of::<MqttConnection>();
    // The next size of a block is 320.
    assert!(size <= 256, "{size}");
}

#[test]
fn addresses_are_displayed_as_the_tests_expect() {
    assert_eq!(Address::Topic("a".into()).to_string(), "topic:a");
    assert_eq!(PublishRef::new(AddressRef::Queue("q"), b"").address.to_string(), "queue:q");
    assert!(matches!(PublishRef::new(AddressRef::Queue("q"), b"").content, ContentRef::None));
}
