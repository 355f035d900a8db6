//! The state machine against a host that writes down what it is asked, in virtual time.

mod consume;
mod errors;
mod handshake;
mod publish;
mod split;
mod topology;
mod translate;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use mynah_core::protocol::{
    Connection, Defined, Input, Notice, Peer, Refusal, RefusalKind, Reply, Ticket, Violation,
};
use mynah_core::testing::RecordingHost;
use mynah_core::{
    Address, AddressRef, ConsumerId, ContentRef, Delivery, DeliveryTag, Header, Message, PublishRef,
};

use crate::codec::field::{Table, put_entry};
use crate::codec::frame;
use crate::codec::method::{Request, Response};
use crate::config::Amqp091Config;
use crate::connection::Amqp091Connection;
use crate::version;

/// A client and a broker around one connection.
pub(crate) struct Pair {
    pub(crate) connection: Amqp091Connection,
    pub(crate) host: RecordingHost,
    pub(crate) now: Instant,
    rest: BytesMut,
    pub(crate) violation: Option<Violation>,
}

pub(crate) const NONE: Table<'static> = Table::trusted(b"");

impl Pair {
    pub(crate) fn with(config: Amqp091Config) -> Self {
        let now = Instant::now();
        let peer = Peer::new(7, "127.0.0.1:5".parse().unwrap(), "amqp");
        Self {
            connection: Amqp091Connection::new(Arc::new(config), &peer, now),
            host: RecordingHost::default(),
            now,
            rest: BytesMut::new(),
            violation: None,
        }
    }

    /// Logged in as `guest`, with channel 1 open; all that was said so far is forgotten.
    pub(crate) fn open() -> Self {
        let mut pair = Self::with(Amqp091Config::default());
        pair.log_in();
        pair.request(1, Request::ChannelOpen { out_of_band: "" });
        pair.host.take_wire();
        pair.host.take_texts();
        pair
    }

    pub(crate) fn log_in(&mut self) {
        self.bytes(version::HEADER);
        let mut properties = BytesMut::new();
        client_properties(&mut properties);
        self.request(
            0,
            Request::ConnectionStartOk {
                client_properties: Table::trusted(&properties),
                mechanism: "PLAIN",
                response: b"\0guest\0guest",
                locale: "en_US",
            },
        );
        self.agree();
        self.request(0, Request::ConnectionTuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 60 });
        self.request(0, Request::ConnectionOpen { virtual_host: "/", capabilities: "", insist: false });
        self.agree();
    }

    fn input(&mut self, input: Input<'_>) -> usize {
        match self.connection.handle(self.now, input, &mut self.host) {
            Ok(used) => used,
            Err(violation) => {
                self.violation = Some(violation);
                0
            }
        }
    }

    /// Bytes from the client; what is not used is shown again with the next.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        self.again();
    }

    /// Hides what was not used, as a driver would that does not show it again.
    pub(crate) fn take_rest(&mut self) -> BytesMut {
        std::mem::take(&mut self.rest)
    }

    fn again(&mut self) {
        if self.violation.is_some() || self.host.closed.is_some() || self.rest.is_empty() {
            return;
        }
        let rest = self.rest.split();
        let used = self.input(Input::Bytes(&rest));
        self.rest = BytesMut::from(&rest[used..]);
    }

    pub(crate) fn request(&mut self, channel: u16, request: Request<'_>) {
        self.bytes(&method(channel, request));
    }

    pub(crate) fn replies(&mut self, mut replies: Vec<(Ticket, Reply)>) {
        self.input(Input::Replies(&mut replies));
        self.again();
    }

    /// Says yes to everything that waits.
    pub(crate) fn agree(&mut self) -> Vec<String> {
        let texts = self.host.calls.iter().map(|call| call.text.clone()).collect();
        let replies = self.host.agree();
        self.replies(replies);
        texts
    }

    /// Says no to the first that waits.
    pub(crate) fn refuse(&mut self, kind: RefusalKind, text: &'static str) {
        let (ticket, _) = self.host.take_tickets().remove(0);
        self.replies(vec![(ticket, Reply::Refused(Refusal::new(kind, text)))]);
    }

    pub(crate) fn define(&mut self, name: &str, messages: u64, consumers: u32) {
        let (ticket, _) = self.host.take_tickets().remove(0);
        let defined = Defined { name: name.into(), messages, consumers };
        self.replies(vec![(ticket, Reply::Defined(Box::new(defined)))]);
    }

    pub(crate) fn deliver(&mut self, delivery: Delivery) {
        self.input(Input::Deliveries(&mut vec![delivery]));
        self.again();
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        self.input(Input::Notice(notice));
        self.again();
    }

    pub(crate) fn deadline(&mut self) {
        self.now = self.connection.deadline().unwrap();
        self.input(Input::Deadline);
    }

    pub(crate) fn later(&mut self, by: Duration) {
        self.now += by;
    }

    /// What the broker was asked.
    pub(crate) fn calls(&mut self) -> Vec<String> {
        self.host.take_texts()
    }

    /// What the client got.
    pub(crate) fn wire(&mut self) -> Vec<String> {
        shown(&self.host.take_wire())
    }

    /// Asks and answers with yes, and forgets both.
    pub(crate) fn done(&mut self, channel: u16, request: Request<'_>) {
        self.request(channel, request);
        self.agree();
        self.host.take_wire();
    }

    /// A consumer `tag` of queue `q`; answers its number.
    pub(crate) fn consumer(&mut self, channel: u16, tag: &str, no_ack: bool) -> ConsumerId {
        self.done(
            channel,
            Request::BasicConsume {
                ticket: 0,
                queue: "q",
                tag,
                no_local: false,
                no_ack,
                exclusive: false,
                no_wait: false,
                arguments: NONE,
            },
        );
        ConsumerId(self.connection.last_consumer)
    }
}

fn client_properties(buf: &mut BytesMut) {
    use mynah_core::Value;
    let capabilities = ["consumer_cancel_notify", "authentication_failure_close", "basic.nack"]
        .map(|name| (Value::from(name), Value::Bool(true)));
    put_entry(buf, "product", &Value::from("test"));
    put_entry(buf, "connection_name", &Value::from("tester"));
    put_entry(buf, "capabilities", &Value::Map(capabilities.into()));
}

pub(crate) fn method(channel: u16, request: Request<'_>) -> Bytes {
    let mut buf = BytesMut::new();
    frame::put(&mut buf, frame::METHOD, channel, |buf| request.write(buf));
    buf.freeze()
}

pub(crate) fn header(channel: u16, size: u64, properties: &[u8]) -> Bytes {
    use bytes::BufMut;
    let mut buf = BytesMut::new();
    frame::put(&mut buf, frame::HEADER, channel, |buf| {
        buf.put_u16(60);
        buf.put_u16(0);
        buf.put_u64(size);
        buf.put_slice(properties);
    });
    buf.freeze()
}

pub(crate) fn body(channel: u16, body: &[u8]) -> Bytes {
    let mut buf = BytesMut::new();
    frame::put_body(&mut buf, channel, body, usize::MAX);
    buf.freeze()
}

pub(crate) fn basic_publish<'a>(exchange: &'a str, key: &'a str, mandatory: bool) -> Request<'a> {
    Request::BasicPublish { ticket: 0, exchange, key, mandatory, immediate: false }
}

/// A whole publish without properties.
pub(crate) fn publish(channel: u16, exchange: &str, key: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = method(channel, basic_publish(exchange, key, false)).to_vec();
    bytes.extend_from_slice(&header(channel, content.len() as u64, &[0, 0]));
    bytes.extend_from_slice(&body(channel, content));
    bytes
}

pub(crate) fn message(address: AddressRef<'_>, properties: &[u8], body: &[u8]) -> Arc<Message> {
    let content =
        ContentRef::Encoded { format: crate::FORMAT, bytes: properties, decode: crate::translate::decode };
    let publish = PublishRef { content, header: Header::default(), ..PublishRef::new(address, body) };
    Arc::new(Message::from_publish(&publish, Instant::now()))
}

pub(crate) fn delivery(consumer: ConsumerId, tag: u64, settled: bool) -> Delivery {
    Delivery {
        consumer,
        tag: DeliveryTag(tag),
        message: message(Address::Queue("q".into()).as_ref(), &[0, 0], b"hi"),
        attempts: 0,
        redelivered: false,
        settled,
        remaining: 3,
        wire: None,
    }
}

/// The frames of a wire, readable.
pub(crate) fn shown(wire: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    let mut rest = wire;
    while !rest.is_empty() {
        let Ok(Some(frame)) = frame::parse(rest, usize::MAX) else {
            all.push(format!("raw {}", rest.escape_ascii()));
            break;
        };
        let number = frame.channel;
        all.push(match frame.kind {
            frame::METHOD => format!("{number} {:?}", Response::read(frame.payload).unwrap()),
            frame::HEADER => {
                let properties = frame.payload.get(12..).unwrap();
                let size = u64::from_be_bytes(frame.payload.get(4..12).unwrap().try_into().unwrap());
                format!("{number} header {size} {}", properties.escape_ascii())
            }
            frame::BODY => format!("{number} body {}", frame.payload.escape_ascii()),
            _ => format!("{number} heartbeat"),
        });
        rest = rest.get(frame.len()..).unwrap();
    }
    all
}
