//! The seam between a protocol and the broker: a `Connection` gets borrowed bytes in and makes calls on its `Host`.
//!
//! A connection is a pure state machine. Its driver calls [`Connection::handle`] with one [`Input`] at a time and never
//! at once from two threads. Every ticket handed to the host gets exactly one [`Reply`], in a later input; replies
//! to publishes come in the order of the publishes.
//!
//! Never: blocks, reads a clock, owns a socket.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::address::AddressRef;
use crate::delivery::{ConsumerId, Delivery, DeliveryTag, Outcome};
use crate::engine::FormatEntry;
use crate::exchange::{Arguments, ExchangeSpec};
use crate::filter::Filter;
use crate::message::Message;
use crate::publish::{PublishRef, TransactionId};
use crate::queue::QueueSpec;
use crate::wire::{Frames, Mark, Wire};

/// A factory of connections; registered in the server's `protocols.rs`.
pub trait Protocol: Send + Sync {
    /// The name used in metrics and logs: `mqtt`, `stomp`, `amqp10`, `amqp091`.
    fn name(&self) -> &'static str;
    /// Whether the first bytes of a connection are this protocol's.
    fn detect(&self, first: &[u8]) -> Detect;
    /// From the start of a connection to its login; with that many seconds gone before the protocol is known, it cannot be this one.
    fn login_timeout(&self) -> Duration;
    fn accept(&self, peer: &Peer, now: Instant) -> Box<dyn Connection>;
    /// What to send to a peer whose first bytes no protocol of the listener knows, e.g. the own protocol header.
    fn refuse_unknown(&self) -> &'static [u8] {
        b""
    }
    /// The formats in which its messages and subscriptions are stored, so that they can be read again after a restart.
    fn formats(&self) -> Vec<FormatEntry> {
        Vec::new()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detect {
    Yes,
    No,
    NeedMore,
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Unique in the life of the process.
    pub connection: u64,
    pub address: SocketAddr,
    pub listener: Arc<str>,
    /// The user that its certificate names; who then needs no password.
    pub certified: Option<Arc<str>>,
    /// Whether the listener lets in clients without a name, if it says so itself.
    pub anonymous: Option<bool>,
}

impl Peer {
    #[must_use]
    pub fn new(connection: u64, address: SocketAddr, listener: impl Into<Arc<str>>) -> Self {
        Self { connection, address, listener: listener.into(), certified: None, anonymous: None }
    }
}

/// One connection as a state machine.
pub trait Connection: Send {
    /// Answers how many bytes of [`Input::Bytes`] were used (0 for other inputs). The driver keeps the rest and shows it
    /// again, with more behind it, when more came or after the next other input: a connection that waits for a reply
    /// simply consumes nothing until then.
    ///
    /// # Errors
    /// The peer broke the protocol. What the protocol wants to say about that was written to `host.wire()` already; the driver
    /// flushes it and closes. The connection is then only told [`Input::Lost`].
    fn handle(&mut self, now: Instant, input: Input<'_>, host: &mut dyn Host) -> Result<usize, Violation>;

    /// When [`Input::Deadline`] is due: login time-out, keep alive, heartbeat. May move later without notice; the
    /// driver asks again when the time has come, and after every batch to see whether it moved to an earlier time.
    fn deadline(&self) -> Option<Instant>;

    /// How many marked frames of an encoded run it can take now (free packet identifiers within receive maximum).
    fn marked_credit(&self) -> u32 {
        u32::MAX
    }
}

/// What happens to a connection.
#[derive(Debug)]
pub enum Input<'a> {
    /// Everything received and not yet consumed.
    Bytes(&'a [u8]),
    /// Answers to tickets, in the order they were given. The connection drains the vector.
    Replies(&'a mut Vec<(Ticket, Reply)>),
    /// Messages that this connection encodes itself. The connection drains the vector.
    Deliveries(&'a mut Vec<Delivery>),
    /// A run encoded by publishers for this connection's wires. The connection patches its identifiers at the marks (at
    /// most [`Connection::marked_credit`] of them); the driver appends the bytes to the wire afterwards.
    Encoded {
        bytes: &'a mut [u8],
        marks: &'a [Mark],
    },
    Notice(Notice),
    /// The time of [`Connection::deadline`] has come.
    Deadline,
    /// The broker stops: say good-bye in the protocol's words and call [`Host::close`].
    Shutdown,
    /// The end, exactly once, however it came: the connection may [`Host::park`] state; nothing can be written any more.
    Lost,
}

/// Something the broker has to say that nobody asked for.
#[derive(Debug)]
pub enum Notice {
    /// All credit that was to be drained is used up or discarded; the consumer's credit is 0 now.
    Drained { consumer: ConsumerId },
    /// The consumer is gone because its queue is.
    Cancelled { consumer: ConsumerId },
    /// Another connection has opened the same session. Say so and close; the session goes on there.
    TakenOver,
    /// An operator closes this connection.
    Kicked { reason: Cow<'static, str> },
}

/// Names a request until its reply. Chosen by the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// All that a protocol can ask of the broker.
pub trait Host {
    /// Bytes for the peer; written once, at the end of the batch.
    fn wire(&mut self) -> &mut BytesMut;

    /// Replies `Authenticated`, `Challenge` or `Refused`.
    fn authenticate(&mut self, ticket: Ticket, credentials: Credentials<'_>);

    /// Names the client, and for a durable session takes it over. Replies `Opened` or `Refused`.
    /// Must follow `authenticate` and come before everything else.
    fn open(&mut self, ticket: Ticket, session: SessionSpec<'_>);

    /// Replies `Published`, `Returned` or `Refused` if there is a ticket. With a transaction, `Published { routed: 0 }` means
    /// it is staged.
    fn publish(&mut self, ticket: Option<Ticket>, publish: &PublishRef<'_>);

    /// Publishes frames in the bytes they came in: all of them, or none, and then it answers false: somebody gets them in other bytes, and
    /// they are to be published one by one.
    fn pass_on(&mut self, _address: AddressRef<'_>, _frames: &Frames<'_>) -> bool {
        false
    }

    /// Attaching with the number of a consumer that exists replaces its subscription. Replies `Attached` or `Refused`.
    fn attach(&mut self, ticket: Ticket, consumer: ConsumerId, source: Source<'_>);

    /// Explicit credit: sets the consumer's credit to `credit` more deliveries from now (not a sum). With `drain`, what
    /// cannot be used at once is discarded and `Notice::Drained` follows (after the deliveries).
    fn flow(&mut self, consumer: ConsumerId, credit: u32, drain: bool);

    /// Unknown tags are ignored. With a transaction, nothing happens until it commits.
    fn settle(
        &mut self,
        consumer: ConsumerId,
        tags: &[DeliveryTag],
        outcome: &Outcome,
        transaction: Option<TransactionId>,
    );

    /// Ends a consumer; what it has unsettled goes back to its place unless `keep_unsettled`, in which case it can still settle
    /// it (0-9-1 `basic.cancel`) until the connection ends. `forget` also ends what would outlive it: a durable
    /// subscription, a session's subscription. Replies `Detached`.
    fn detach(&mut self, ticket: Ticket, consumer: ConsumerId, end: End);

    /// Replies `Defined` or `Refused`.
    fn define(&mut self, ticket: Ticket, change: Change<'_>);

    /// Replies `Done` or `Refused` (then nothing of it happened).
    fn transact(&mut self, ticket: Ticket, step: Step);

    /// State of the protocol to keep with the durable session; given back in [`Opened::parked`]. Bytes, so that it can be stored.
    fn park(&mut self, state: Bytes);

    /// Remembers one part of the protocol's state with the durable session, or forgets it (`None`), so that it survives the
    /// process; all that is remembered is given back in [`Opened::notes`] if nothing was parked. Nothing happens without
    /// a durable session. What was settled earlier in this turn is safe no later than the note.
    fn note(&mut self, key: u32, value: Option<&[u8]>, when: Safe);

    /// The peer is told that what is settled in this turn is done: it is safe before the turn's bytes leave. Otherwise it
    /// becomes so in time.
    fn settle_safely(&mut self) {}

    /// What is answered in this turn does not end the exchange, and the peer can only go on with it when it has the answer: the answer is
    /// written before the receivers write.
    fn answer_first(&mut self) {}

    /// After this batch: flush the wire and close. Not calling it before the connection is lost means `Abrupt`.
    fn close(&mut self, farewell: Farewell);
}

/// How a connection ends a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub forget: bool,
    pub keep_unsettled: bool,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// The client said good-bye: no will. May change the session's expiry.
    Clean { expiry: Option<Expiry> },
    /// The will, if any, is sent.
    Abrupt { expiry: Option<Expiry> },
}

#[derive(Debug, Clone, Copy)]
pub enum Credentials<'a> {
    Anonymous,
    /// A name that nothing proves: a user name of MQTT without a password.
    Name(&'a str),
    Password {
        user: &'a str,
        password: &'a [u8],
    },
    /// One message of the client in a login of several; each has a ticket of its own.
    Sasl {
        mechanism: &'a str,
        data: &'a [u8],
    },
}

/// When a note must be safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Safe {
    /// Soon. A crash before that is as if it had not been written.
    InTime,
    /// Before anything that is written to the peer in this turn leaves.
    BeforeWire,
}

/// What a client is, once it is authenticated.
#[derive(Debug, Clone)]
pub struct SessionSpec<'a> {
    /// Shown to operators: `MQTT 5.0`, `STOMP 1.2`.
    pub protocol: &'static str,
    pub virtual_host: Option<&'a str>,
    /// The client's name for itself. Empty with `session` set: the broker assigns one.
    pub client_id: &'a str,
    /// Set by protocols in which a client identifier is exclusive: opening takes over from whoever has it.
    pub session: Option<SessionTerms>,
    pub will: Option<Will>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionTerms {
    /// Forget what an earlier session of this name left.
    pub fresh: bool,
    pub expiry: Expiry,
    /// Credit of [`ConsumerId::SESSION`]: how many deliveries may be unsettled.
    pub credit: u32,
}

/// How long a session outlives its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Not at all: nothing is kept, subscriptions hold no queue.
    AtEnd,
    After(Duration),
    Never,
}

/// Published by the broker when the connection ends abruptly.
#[derive(Debug, Clone)]
pub struct Will {
    pub message: Arc<Message>,
    /// From the end of the connection; who comes back in that time has none.
    pub delay: Duration,
    /// From then on, whoever comes back: it is published as a delayed message.
    pub held_back: Duration,
}

/// What a consumer consumes and how.
#[derive(Debug, Clone)]
pub struct Source<'a> {
    pub from: From<'a>,
    /// Set: publishers encode for it (topics that need no settling), and deliveries carry the subscription they came by.
    pub wire: Option<Wire>,
    /// Deliveries are settled by being sent.
    pub settled: bool,
    pub credit: CreditMode,
    pub no_local: bool,
    /// Whether retained messages are sent first.
    pub retained: Retained,
    pub exclusive: bool,
    /// Higher first; consumers of one priority take turns.
    pub priority: i32,
    pub role: Role,
    /// How the queue made for a topic or exchange subscription is bounded, if one is made.
    pub queue_spec: Option<&'a QueueSpec>,
    /// What the protocol must know of this subscription to go on with it after a restart; kept with the durable session
    /// until the consumer is detached with [`End::forget`].
    pub memo: Option<&'a [u8]>,
}

impl<'a> Source<'a> {
    #[must_use]
    pub fn new(from: From<'a>) -> Self {
        Self {
            from,
            wire: None,
            settled: false,
            credit: CreditMode::Socket,
            no_local: false,
            retained: Retained::Never,
            exclusive: false,
            priority: 0,
            role: Role::Consumer,
            queue_spec: None,
            memo: None,
        }
    }
}

#[derive(Debug, Clone)]
pub enum From<'a> {
    /// A subscription to topics, held by `holder`.
    Topic { filter: Filter, holder: Holder<'a> },
    /// A subscription shared by a group: one queue for all members, which are its consumers.
    Shared { group: &'a str, filter: Filter },
    /// A queue; `create` makes it (with `queue_spec` or the defaults) if it does not exist and that is allowed. An
    /// existing queue is never re-declared.
    Queue { name: &'a str, create: bool },
    /// A fresh queue bound to the exchange, or the durable one of that name.
    Exchange { name: &'a str, key: &'a str, holder: Holder<'a> },
}

/// What holds the messages of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder<'a> {
    /// Lives with the connection. Settled with credit `Socket`: no queue at all, the connection's inbox.
    /// Otherwise a queue of its own that is deleted with the consumer.
    Connection,
    /// The connection's durable session: what needs settling waits in the session's queue and is delivered to
    /// [`ConsumerId::SESSION`]; the rest goes directly.
    Session,
    /// A durable subscription: a queue of this name that stays until it is forgotten.
    Durable(&'a str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreditMode {
    /// As fast as the socket takes it.
    Socket,
    /// At most this many unsettled; settling one frees one. 0 = nothing is delivered.
    Window(u32),
    /// Only what [`Host::flow`] grants.
    Granted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retained {
    Always,
    /// Only if the consumer number had no subscription before.
    IfNew,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Consumer,
    /// Takes single messages on request (0-9-1 `basic.get`): not counted as a consumer, has no turn in the round.
    Getter,
    /// Sees copies; removes nothing (AMQP 1.0 distribution mode `copy`).
    Browser,
}

/// A change of definitions.
#[derive(Debug, Clone)]
pub enum Change<'a> {
    /// An empty name asks for a generated one. `passive` only asks whether it is there.
    DeclareQueue {
        name: &'a str,
        spec: &'a QueueSpec,
        passive: bool,
    },
    DeleteQueue {
        name: &'a str,
        if_unused: bool,
        if_empty: bool,
    },
    PurgeQueue {
        name: &'a str,
    },
    DeclareExchange {
        name: &'a str,
        spec: &'a ExchangeSpec,
        passive: bool,
    },
    DeleteExchange {
        name: &'a str,
        if_unused: bool,
    },
    Bind {
        source: &'a str,
        destination: Destination<'a>,
        key: &'a str,
        arguments: &'a Arguments,
    },
    Unbind {
        source: &'a str,
        destination: Destination<'a>,
        key: &'a str,
        arguments: &'a Arguments,
    },
    /// Binds a queue to topics directly.
    BindTopic {
        filter: &'a Filter,
        queue: &'a str,
    },
    UnbindTopic {
        filter: &'a Filter,
        queue: &'a str,
    },
}

/// Where a binding leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination<'a> {
    Queue(&'a str),
    Exchange(&'a str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Begin(TransactionId),
    Commit(TransactionId),
    Rollback(TransactionId),
}

/// The answer to a ticket.
#[derive(Debug)]
pub enum Reply {
    /// The name the client goes by from now on.
    Authenticated {
        user: Arc<str>,
        /// The broker's last word in a login of several messages.
        proof: Bytes,
    },
    /// The login goes on: what the client has to answer.
    Challenge(Bytes),
    Opened(Box<Opened>),
    /// In how many places it was put. For a durable message to a durable queue: and it is on disk.
    Published {
        routed: u32,
    },
    /// Mandatory, and no place was found.
    Returned(Arc<Message>),
    Attached(Box<Attached>),
    Detached {
        existed: bool,
    },
    Defined(Box<Defined>),
    Done,
    Refused(Refusal),
}

#[derive(Debug, Clone)]
pub struct Opened {
    /// A session of this name was there and goes on.
    pub present: bool,
    /// The client identifier in force (assigned if the client gave none).
    pub client_id: Arc<str>,
    /// What the protocol parked when the session was last connected.
    pub parked: Option<Bytes>,
    /// What it noted, when nothing is parked because the process ended meanwhile; in the order of the keys.
    pub notes: Vec<(u32, Bytes)>,
    /// The same of its subscriptions, see [`Source::memo`].
    pub memos: Vec<(ConsumerId, Bytes)>,
    /// The session's expiry in force, after the broker's maximum.
    pub expiry: Expiry,
}

#[derive(Debug, Clone)]
pub struct Attached {
    /// The queue it consumes from, if there is one.
    pub queue: Option<Arc<str>>,
    /// False if the consumer number had a subscription already, which was replaced.
    pub new: bool,
}

#[derive(Debug, Clone)]
pub struct Defined {
    pub name: Arc<str>,
    /// Messages ready in the queue (declare), or removed (purge, delete).
    pub messages: u64,
    pub consumers: u32,
}

/// The broker says no. The connection answers at the smallest scope and stays open.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub kind: RefusalKind,
    /// What was wrong and what to change, for the user.
    pub text: Cow<'static, str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    Unauthenticated,
    Forbidden,
    NotFound,
    /// It exists with other properties, or is in a state that does not allow this.
    Conflict,
    /// It belongs to another connection.
    Locked,
    /// A bound is reached and the policy is to refuse.
    Full,
    TooLarge,
    /// Not now.
    Unavailable,
}

impl Refusal {
    #[must_use]
    pub fn new(kind: RefusalKind, text: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, text: text.into() }
    }
}

/// The peer broke the rules; the connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub kind: ViolationKind,
    /// For the log; what the peer is told is on the wire already.
    pub text: Cow<'static, str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ViolationKind {
    /// Bytes that are no frame of the protocol.
    Malformed,
    /// A frame that is not allowed here and now.
    Protocol,
    /// A bound of the broker was exceeded.
    Limit,
    /// Wrong user or password, or no permission to connect.
    Unauthenticated,
    /// Nothing was heard in time.
    Timeout,
}

impl Violation {
    #[must_use]
    pub fn new(kind: ViolationKind, text: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, text: text.into() }
    }
}
