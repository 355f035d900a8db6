//! A host that writes down what a connection asks of it, for tests of the protocol machines in virtual time.
//!
//! Only with the feature `testing`, never in the product.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::address::AddressRef;
use crate::delivery::{ConsumerId, DeliveryTag, Outcome};
use crate::protocol::{
    Change, Credentials, End, Farewell, From, Host, Reply, Safe, SessionSpec, Source, Step, Ticket,
};
use crate::publish::{PublishRef, TransactionId};
use crate::wire::Frames;

/// One call, in words and in parts.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// `publish topic:a/b`, `attach 3 topic a/#`, `settle 3 [7, 8] Accepted` ...
    pub text: String,
    pub ticket: Option<Ticket>,
    /// Of a publish, or of frames that are passed on.
    pub body: Bytes,
}

/// Records calls; replies and wire bytes are the test's to look at.
#[derive(Debug, Default)]
pub struct RecordingHost {
    pub wire: BytesMut,
    pub calls: VecDeque<Call>,
    pub parked: Option<Bytes>,
    /// `None` was forgotten.
    pub notes: Vec<(u32, Option<Bytes>, Safe)>,
    pub closed: Option<Farewell>,
    /// Frames are passed on: `pass topic:a/b 3`, their bytes are the call's body.
    pub passes: bool,
}

impl RecordingHost {
    /// The calls since the last time, as text.
    pub fn take_texts(&mut self) -> Vec<String> {
        self.calls.drain(..).map(|call| call.text).collect()
    }

    /// The bytes written since the last time.
    pub fn take_wire(&mut self) -> Bytes {
        self.wire.split().freeze()
    }

    /// Tickets waiting for a reply, oldest first, with what they asked; removes all recorded calls.
    pub fn take_tickets(&mut self) -> Vec<(Ticket, String)> {
        self.calls.drain(..).filter_map(|call| call.ticket.map(|ticket| (ticket, call.text))).collect()
    }

    /// Answers every waiting ticket as a broker would that says yes to everything.
    pub fn agree(&mut self) -> Vec<(Ticket, Reply)> {
        use crate::protocol::{Attached, Defined, Expiry, Opened};
        self.take_tickets()
            .into_iter()
            .map(|(ticket, text)| {
                let rest = |skip: usize| text.split(' ').nth(skip).unwrap_or_default().to_owned();
                let reply = match text.split(' ').next().unwrap_or_default() {
                    "authenticate" => Reply::Authenticated { user: rest(1).into(), proof: Bytes::new() },
                    "open" => Reply::Opened(Box::new(Opened {
                        present: false,
                        client_id: rest(1).into(),
                        parked: None,
                        notes: Vec::new(),
                        memos: Vec::new(),
                        expiry: Expiry::AtEnd,
                    })),
                    "publish" => Reply::Published { routed: 1 },
                    "attach" => {
                        Reply::Attached(Box::new(Attached { queue: Some(rest(3).into()), new: true }))
                    }
                    "detach" => Reply::Detached { existed: true },
                    "transact" => Reply::Done,
                    _ => {
                        Reply::Defined(Box::new(Defined { name: rest(2).into(), messages: 0, consumers: 0 }))
                    }
                };
                (ticket, reply)
            })
            .collect()
    }

    fn record(&mut self, ticket: Option<Ticket>, text: String) {
        self.calls.push_back(Call { text, ticket, body: Bytes::new() });
    }
}

impl Host for RecordingHost {
    fn wire(&mut self) -> &mut BytesMut {
        &mut self.wire
    }

    fn authenticate(&mut self, ticket: Ticket, credentials: Credentials<'_>) {
        let text = match credentials {
            Credentials::Anonymous => "authenticate anonymous".to_owned(),
            Credentials::Name(user) => format!("authenticate name {user}"),
            Credentials::Sasl { mechanism, data } => {
                format!("authenticate {mechanism} {}", String::from_utf8_lossy(data))
            }
            Credentials::Password { user, password } => {
                format!("authenticate {user} {}", String::from_utf8_lossy(password))
            }
        };
        self.record(Some(ticket), text);
    }

    fn open(&mut self, ticket: Ticket, session: SessionSpec<'_>) {
        let will =
            session.will.as_ref().map(|will| format!(" will {} {:?}", will.message.address, will.delay));
        let text = format!(
            "open {} {} {:?} {:?}{}",
            session.client_id,
            session.protocol,
            session.virtual_host,
            session.session,
            will.unwrap_or_default()
        );
        self.record(Some(ticket), text);
    }

    fn publish(&mut self, ticket: Option<Ticket>, publish: &PublishRef<'_>) {
        let mut text =
            format!("publish {} {:?} {:?}", publish.address, publish.header.guarantee, publish.header.retain);
        if publish.mandatory {
            text.push_str(" mandatory");
        }
        if let Some(TransactionId(id)) = publish.transaction {
            text.push_str(&format!(" tx{id}"));
        }
        self.calls.push_back(Call { text, ticket, body: Bytes::copy_from_slice(publish.body) });
    }

    fn pass_on(&mut self, address: AddressRef<'_>, frames: &Frames<'_>) -> bool {
        if self.passes {
            let (text, body) =
                (format!("pass {address} {}", frames.count), Bytes::copy_from_slice(frames.bytes));
            self.calls.push_back(Call { text, ticket: None, body });
        }
        self.passes
    }

    fn attach(&mut self, ticket: Ticket, consumer: ConsumerId, source: Source<'_>) {
        let from = match &source.from {
            From::Topic { filter, holder } => format!("topic {filter} {holder:?}"),
            From::Shared { group, filter } => format!("shared {filter} {group}"),
            From::Queue { name, create } => format!("queue {name} create={create}"),
            From::Exchange { name, key, holder } => format!("exchange {name} {key} {holder:?}"),
        };
        let text = format!("attach {} {from} settled={} {:?}", consumer.0, source.settled, source.credit);
        self.record(Some(ticket), text);
    }

    fn flow(&mut self, consumer: ConsumerId, credit: u32, drain: bool) {
        self.record(None, format!("flow {} {credit} drain={drain}", consumer.0));
    }

    fn settle(
        &mut self,
        consumer: ConsumerId,
        tags: &[DeliveryTag],
        outcome: &Outcome,
        transaction: Option<TransactionId>,
    ) {
        let tags: Vec<u64> = tags.iter().map(|tag| tag.0).collect();
        let tx = transaction.map(|id| format!(" tx{}", id.0)).unwrap_or_default();
        self.record(None, format!("settle {} {tags:?} {outcome:?}{tx}", consumer.0));
    }

    fn detach(&mut self, ticket: Ticket, consumer: ConsumerId, end: End) {
        self.record(Some(ticket), format!("detach {} {end:?}", consumer.0));
    }

    fn define(&mut self, ticket: Ticket, change: Change<'_>) {
        let text = match &change {
            Change::DeclareQueue { name, passive, .. } => format!("declare queue {name} passive={passive}"),
            Change::DeleteQueue { name, .. } => format!("delete queue {name}"),
            Change::PurgeQueue { name } => format!("purge queue {name}"),
            Change::DeclareExchange { name, passive, .. } => {
                format!("declare exchange {name} passive={passive}")
            }
            Change::DeleteExchange { name, .. } => format!("delete exchange {name}"),
            Change::Bind { source, destination, key, .. } => {
                format!("bind exchange {source} {destination:?} {key}")
            }
            Change::Unbind { source, destination, key, .. } => {
                format!("unbind exchange {source} {destination:?} {key}")
            }
            Change::BindTopic { filter, queue } => format!("bind topic {filter} {queue}"),
            Change::UnbindTopic { filter, queue } => format!("unbind topic {filter} {queue}"),
        };
        self.record(Some(ticket), text);
    }

    fn transact(&mut self, ticket: Ticket, step: Step) {
        self.record(Some(ticket), format!("transact {step:?}"));
    }

    fn park(&mut self, state: Bytes) {
        self.parked = Some(state);
    }

    fn note(&mut self, key: u32, value: Option<&[u8]>, when: Safe) {
        self.notes.push((key, value.map(Bytes::copy_from_slice), when));
    }

    fn close(&mut self, farewell: Farewell) {
        self.closed = Some(farewell);
    }
}
