//! The connection against a client whose frames another library writes and reads (`fe2o3-amqp-types`), in virtual time.

#![allow(clippy::cast_possible_truncation, reason = "the lengths of test data are small")]

mod hostile;
mod messages;
mod opening;
mod receiving;
mod sending;
mod transactions;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, BytesMut};
use fe2o3_amqp_types::definitions::{Error, Handle, Role, SenderSettleMode};
use fe2o3_amqp_types::messaging::{DeliveryState, Outcome, Source, Target, TargetArchetype};
use fe2o3_amqp_types::performatives::{
    Attach, Begin, Close, Detach, Disposition, Flow, Open, Performative, Transfer,
};
use mynah_core::protocol::{Connection, Input, Notice, Peer, Protocol, Reply, Ticket, Violation};
use mynah_core::testing::RecordingHost;
use mynah_core::{AddressRef, ConsumerId, Delivery, DeliveryTag, Message, PublishRef};

use crate::codec::reader::Reader;
use crate::{Amqp10, Amqp10Config};

pub(crate) struct Client {
    pub(crate) conn: Box<dyn Connection>,
    pub(crate) host: RecordingHost,
    pub(crate) now: Instant,
    /// What the connection has not consumed.
    unread: BytesMut,
    pub(crate) violation: Option<Violation>,
}

pub(crate) struct Got {
    pub(crate) channel: u16,
    pub(crate) performative: Option<Performative>,
    pub(crate) payload: Vec<u8>,
    pub(crate) len: usize,
}

impl Client {
    pub(crate) fn new(config: Amqp10Config) -> Self {
        let now = Instant::now();
        let peer = Peer::new(7, ([127, 0, 0, 1], 5).into(), "test");
        let conn = Amqp10::new(config).accept(&peer, now);
        Self { conn, host: RecordingHost::default(), now, unread: BytesMut::new(), violation: None }
    }

    /// Open, with one session on channel 0.
    pub(crate) fn begun() -> Self {
        Self::begun_with(Amqp10Config::default(), u32::MAX, 1000)
    }

    pub(crate) fn begun_with(config: Amqp10Config, frame_max: u32, window: u32) -> Self {
        let mut client = Self::new(config);
        client.raw(b"AMQP\x00\x01\x00\x00");
        client.agree();
        client.send(0, open("me", frame_max));
        client.agree();
        client.send(0, begin(window));
        client.host.take_wire();
        client.host.take_texts();
        client
    }

    pub(crate) fn input(&mut self, input: Input<'_>) {
        match self.conn.handle(self.now, input, &mut self.host) {
            Ok(used) => self.unread.advance(used),
            Err(violation) => self.violation = Some(violation),
        }
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.unread.put_slice(bytes);
        self.again();
    }

    fn again(&mut self) {
        let unread = self.unread.clone();
        self.input(Input::Bytes(&unread));
    }

    pub(crate) fn send(&mut self, channel: u16, performative: Performative) {
        self.raw(&frame(channel, &performative, b""));
    }

    pub(crate) fn transfer(&mut self, transfer: Transfer, payload: &[u8]) {
        self.raw(&frame(0, &Performative::Transfer(transfer), payload));
    }

    pub(crate) fn reply(&mut self, mut replies: Vec<(Ticket, Reply)>) {
        self.input(Input::Replies(&mut replies));
        self.again();
    }

    /// Answers everything that waits, until nothing does.
    pub(crate) fn agree(&mut self) {
        loop {
            let replies = self.host.agree();
            if replies.is_empty() {
                return;
            }
            self.reply(replies);
        }
    }

    /// The only ticket that waits.
    pub(crate) fn ticket(&mut self) -> Ticket {
        let tickets = self.host.take_tickets();
        assert_eq!(tickets.len(), 1, "{tickets:?}");
        tickets[0].0
    }

    pub(crate) fn deliver(&mut self, mut deliveries: Vec<Delivery>) {
        self.input(Input::Deliveries(&mut deliveries));
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        self.input(Input::Notice(notice));
    }

    pub(crate) fn got(&mut self) -> Vec<Got> {
        let mut wire = self.host.take_wire();
        let mut got = Vec::new();
        while wire.starts_with(b"AMQP") {
            wire.advance(8);
        }
        while !wire.is_empty() {
            let len = u32::from_be_bytes(wire[..4].try_into().unwrap()) as usize;
            let frame = wire.split_to(len);
            let channel = u16::from_be_bytes(frame[6..8].try_into().unwrap());
            if frame[5] == 1 || len == 8 {
                got.push(Got { channel, performative: None, payload: frame[8..].to_vec(), len });
                continue;
            }
            let mut reader = Reader::new(&frame[8..]);
            let raw = reader.raw().unwrap();
            let performative = serde_amqp::from_slice(raw).unwrap();
            got.push(Got { channel, performative: Some(performative), payload: reader.rest().to_vec(), len });
        }
        got
    }

    /// What came, in short.
    pub(crate) fn texts(&mut self) -> Vec<String> {
        self.got().iter().map(describe).collect()
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, expected: &[&str]) {
        assert_eq!(self.texts(), expected);
    }

    #[track_caller]
    pub(crate) fn asked(&mut self, expected: &[&str]) {
        assert_eq!(self.host.take_texts(), expected);
    }

    /// An attached sender's link to a queue, with credit.
    pub(crate) fn sender(&mut self, handle: u32, address: &str) {
        self.send(0, attach_sender(&format!("s{handle}"), handle, Some(address)));
        self.agree();
        self.host.take_wire();
        self.host.take_texts();
    }

    /// An attached receiver's link.
    pub(crate) fn receiver(&mut self, handle: u32, address: &str) {
        self.send(0, attach_receiver(&format!("r{handle}"), handle, address));
        self.agree();
        self.host.take_wire();
        self.host.take_texts();
    }

    pub(crate) fn credit(&mut self, handle: u32, count: u32, credit: u32, drain: bool) {
        self.send(0, link_flow(handle, Some(count), credit, drain));
    }

    pub(crate) fn wait(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
        if self.conn.deadline().is_some_and(|at| at <= self.now) {
            self.input(Input::Deadline);
        }
    }
}

pub(crate) fn frame(channel: u16, performative: &Performative, payload: &[u8]) -> Vec<u8> {
    let body = serde_amqp::to_vec(performative).unwrap();
    let mut bytes = Vec::new();
    bytes.put_u32((8 + body.len() + payload.len()) as u32);
    bytes.put_slice(&[2, 0]);
    bytes.put_u16(channel);
    bytes.put_slice(&body);
    bytes.put_slice(payload);
    bytes
}

pub(crate) fn open(container: &str, frame_max: u32) -> Performative {
    Performative::Open(Open {
        container_id: container.to_owned(),
        hostname: Some("localhost".to_owned()),
        max_frame_size: frame_max.into(),
        channel_max: 100.into(),
        idle_time_out: None,
        outgoing_locales: None,
        incoming_locales: None,
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    })
}

pub(crate) fn begin(window: u32) -> Performative {
    Performative::Begin(Begin {
        remote_channel: None,
        next_outgoing_id: 0,
        incoming_window: window,
        outgoing_window: 1000,
        handle_max: Handle(100),
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    })
}

pub(crate) fn attach(name: &str, handle: u32, role: Role) -> Attach {
    Attach {
        name: name.to_owned(),
        handle: Handle(handle),
        initial_delivery_count: (role == Role::Sender).then_some(0),
        role,
        snd_settle_mode: SenderSettleMode::Mixed,
        rcv_settle_mode: fe2o3_amqp_types::definitions::ReceiverSettleMode::First,
        source: Some(Box::new(Source::default())),
        target: Some(Box::new(TargetArchetype::Target(Target::default()))),
        unsettled: None,
        incomplete_unsettled: false,
        max_message_size: None,
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    }
}

pub(crate) fn attach_sender(name: &str, handle: u32, address: Option<&str>) -> Performative {
    let target = Target { address: address.map(Into::into), ..Target::default() };
    Performative::Attach(Attach {
        target: Some(Box::new(TargetArchetype::Target(target))),
        ..attach(name, handle, Role::Sender)
    })
}

pub(crate) fn attach_receiver(name: &str, handle: u32, address: &str) -> Performative {
    let source = Source { address: Some(address.into()), ..Source::default() };
    Performative::Attach(Attach { source: Some(Box::new(source)), ..attach(name, handle, Role::Receiver) })
}

pub(crate) fn link_flow(handle: u32, count: Option<u32>, credit: u32, drain: bool) -> Performative {
    Performative::Flow(Flow {
        next_incoming_id: None,
        incoming_window: 1000,
        next_outgoing_id: 0,
        outgoing_window: 1000,
        handle: Some(Handle(handle)),
        delivery_count: count,
        link_credit: Some(credit),
        available: None,
        drain,
        echo: false,
        properties: None,
    })
}

pub(crate) fn transfer(handle: u32, id: Option<u32>, settled: bool, more: bool) -> Transfer {
    Transfer {
        handle: Handle(handle),
        delivery_id: id,
        delivery_tag: id.map(|id| id.to_be_bytes().to_vec().into()),
        message_format: id.map(|_| 0),
        settled: Some(settled),
        more,
        rcv_settle_mode: None,
        state: None,
        resume: false,
        aborted: false,
        batchable: false,
    }
}

pub(crate) fn disposition(
    first: u32,
    last: Option<u32>,
    settled: bool,
    state: DeliveryState,
) -> Performative {
    Performative::Disposition(Disposition {
        role: Role::Receiver,
        first,
        last,
        settled,
        state: Some(state),
        batchable: false,
    })
}

pub(crate) fn detach(handle: u32, closed: bool) -> Performative {
    Performative::Detach(Detach { handle: Handle(handle), closed, error: None })
}

pub(crate) fn close() -> Performative {
    Performative::Close(Close { error: None })
}

/// A data section of up to 255 bytes.
pub(crate) fn data(body: &[u8]) -> Vec<u8> {
    let mut section = vec![0x00, 0x53, 0x75, 0xa0, body.len() as u8];
    section.extend_from_slice(body);
    section
}

pub(crate) fn delivery(consumer: u32, tag: u64, body: &[u8]) -> Delivery {
    delivery_of(consumer, tag, PublishRef::new(AddressRef::Queue("q"), body))
}

pub(crate) fn delivery_of(consumer: u32, tag: u64, publish: PublishRef<'_>) -> Delivery {
    Delivery {
        consumer: ConsumerId(consumer),
        tag: DeliveryTag(tag),
        message: Arc::new(Message::from_publish(&publish, Instant::now())),
        attempts: 0,
        redelivered: false,
        settled: false,
        remaining: 0,
        wire: None,
    }
}

fn number(id: &[u8]) -> u64 {
    u64::from_be_bytes(id.try_into().unwrap())
}

fn error(error: Option<&Error>) -> String {
    let Some(error) = error else { return String::new() };
    let raw = serde_amqp::to_vec(error).unwrap();
    let text = crate::codec::performative::read_error(&raw).unwrap();
    format!(" {}", text.rsplit_once(": ").map_or(&*text, |(condition, _)| condition))
}

fn describe(got: &Got) -> String {
    let Some(performative) = &got.performative else {
        return if got.len == 8 { "empty".to_owned() } else { format!("sasl {:02x?}", got.payload) };
    };
    let text = match performative {
        Performative::Open(_) => "open".to_owned(),
        Performative::Begin(begin) => format!("begin {:?}", begin.remote_channel),
        Performative::Attach(attach) => describe_attach(attach),
        Performative::Flow(flow) => match &flow.handle {
            Some(handle) => format!(
                "flow {} count={} credit={}{}",
                handle.0,
                flow.delivery_count.unwrap(),
                flow.link_credit.unwrap(),
                if flow.drain { " drain" } else { "" }
            ),
            None => format!("flow window={}", flow.incoming_window),
        },
        Performative::Transfer(transfer) => format!(
            "transfer {} id={:?}{}{} {}",
            transfer.handle.0,
            transfer.delivery_id,
            if transfer.settled == Some(true) { " settled" } else { "" },
            if transfer.more { " more" } else { "" },
            got.payload.len()
        ),
        Performative::Disposition(disposition) => {
            let state = match disposition.state.as_ref().unwrap() {
                DeliveryState::Rejected(rejected) => format!("rejected{}", error(rejected.error.as_ref())),
                DeliveryState::Accepted(_) => "accepted".to_owned(),
                DeliveryState::Released(_) => "released".to_owned(),
                DeliveryState::Declared(declared) => format!("declared {}", number(&declared.txn_id)),
                DeliveryState::TransactionalState(state) => {
                    let outcome = state.outcome.as_ref().unwrap();
                    let id = number(&state.txn_id);
                    match outcome {
                        Outcome::Accepted(_) => format!("tx{id} accepted"),
                        Outcome::Rejected(why) => format!("tx{id} rejected{}", error(why.error.as_ref())),
                        other @ (Outcome::Released(_) | Outcome::Modified(_) | Outcome::Declared(_)) => {
                            format!("tx{id} {other:?}")
                        }
                    }
                }
                other @ (DeliveryState::Received(_) | DeliveryState::Modified(_)) => format!("{other:?}"),
            };
            assert!(disposition.settled);
            format!(
                "disposition {:?} {}..{:?} {state}",
                disposition.role, disposition.first, disposition.last
            )
        }
        Performative::Detach(detach) => format!(
            "detach {}{}{}",
            detach.handle.0,
            if detach.closed { " closed" } else { "" },
            error(detach.error.as_ref())
        ),
        Performative::End(end) => format!("end{}", error(end.error.as_ref())),
        Performative::Close(close) => format!("close{}", error(close.error.as_ref())),
    };
    if got.channel == 0 { text } else { format!("[{}] {text}", got.channel) }
}

fn describe_attach(attach: &Attach) -> String {
    let source = attach.source.as_ref().map(|source| source.address.clone().unwrap_or_default());
    let target = attach.target.as_ref().map(|target| match &**target {
        TargetArchetype::Target(target) => target.address.clone().unwrap_or_default(),
        TargetArchetype::Coordinator(it) => {
            format!("coordinator {}", it.capabilities.as_ref().map_or(0, |all| all.0.len()))
        }
    });
    format!("attach {} {} {:?} {source:?} {target:?}", attach.name, attach.handle.0, attach.role)
}
