//! A broker with a clock of its own, and connections that are driven by hand.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mynah_broker::batch::Batch;
use mynah_broker::metrics::ProtocolCounters;
use mynah_broker::queues::QueueHandle;
use mynah_broker::{Broker, BrokerConfig, ConnectionHost, Taken, Turn, VirtualHost};
use mynah_core::Format;
use mynah_core::exchange::{ExchangeKind, ExchangeSpec};
use mynah_core::protocol::{
    Attached, Change, Credentials, CreditMode, Defined, Destination, End, Expiry, Farewell, From, Holder,
    Host, Notice, Opened, Peer, RefusalKind, Reply, SessionSpec, SessionTerms, Source, Step, Ticket, Will,
};
use mynah_core::queue::QueueSpec;
use mynah_core::{
    AddressRef, ConsumerId, Delivery, DeliveryTag, Filter, Guarantee, Header, Mark, Message, Outcome,
    PublishRef, Retain, Run, TransactionId, Wire,
};

pub(crate) const FORGET: End = End { forget: true, keep_unsettled: false };
pub(crate) const KEEP: End = End { forget: false, keep_unsettled: true };
pub(crate) const BACK: End = End { forget: false, keep_unsettled: false };
pub(crate) const CLEAN: Option<Farewell> = Some(Farewell::Clean { expiry: None });

/// Virtual time, shared by a broker's connections.
#[derive(Debug)]
pub(crate) struct Clock {
    base: Instant,
    ms: AtomicU64,
}

impl Clock {
    pub(crate) fn now(&self) -> Instant {
        self.base + Duration::from_millis(self.ms.load(Ordering::Relaxed))
    }
}

pub(crate) struct Lab {
    pub(crate) broker: Arc<Broker>,
    clock: Arc<Clock>,
    counters: Arc<ProtocolCounters>,
    // Never polled: the broker's own timer task does nothing, `advance` does.
    _runtime: tokio::runtime::Runtime,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::with(BrokerConfig::default())
    }

    pub(crate) fn with(config: BrokerConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let broker = {
            let _guard = runtime.enter();
            Broker::start(config).unwrap()
        };
        let counters = broker.shared.metrics.protocol("test");
        let clock = Arc::new(Clock { base: Instant::now(), ms: AtomicU64::new(0) });
        Self { broker, clock, counters, _runtime: runtime }
    }

    pub(crate) fn host(&self) -> &VirtualHost {
        self.broker.default_host()
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(crate) fn advance(&self, ms: u64) {
        self.clock.ms.fetch_add(ms, Ordering::Relaxed);
        self.broker.run_due(self.clock.now());
    }

    /// Time goes by and no timer notices.
    pub(crate) fn advance_unnoticed(&self, ms: u64) {
        self.clock.ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// A connection that has logged in and not opened.
    pub(crate) fn accept(&self) -> Client {
        let peer = Arc::new(Peer::new(self.broker.next_connection(), "127.0.0.1:1".parse().unwrap(), "test"));
        let host = ConnectionHost::new(&self.broker, &peer, &self.counters, self.now());
        let mut client = Client {
            host,
            batch: Batch::new(Arc::clone(&self.counters)),
            clock: Arc::clone(&self.clock),
            last_ticket: 0,
            open: HashSet::new(),
            replies: Vec::new(),
            deliveries: Vec::new(),
            held: Vec::new(),
            frames: Vec::new(),
            notices: Vec::new(),
        };
        let reply = client.ask(|turn, ticket| turn.authenticate(ticket, Credentials::Anonymous));
        assert!(matches!(reply, Reply::Authenticated { .. }));
        client
    }

    /// A connection whose client identifier is nobody's business.
    pub(crate) fn connect(&self) -> Client {
        let mut client = self.accept();
        let reply = client.ask(|turn, ticket| {
            turn.open(
                ticket,
                SessionSpec {
                    protocol: "test",
                    virtual_host: None,
                    client_id: "",
                    session: None,
                    will: None,
                },
            );
        });
        assert!(matches!(reply, Reply::Opened(_)));
        client
    }

    /// A connection with an exclusive identifier, which must be free.
    pub(crate) fn session(&self, id: &str, terms: SessionTerms) -> (Client, Opened) {
        let mut client = self.accept();
        let opened = client.open(id, terms, None).expect("the identifier was taken");
        (client, opened)
    }

    pub(crate) fn queue(&self, name: &str) -> Option<Arc<QueueHandle>> {
        self.host().queue(name)
    }

    /// Ready and unsettled messages of a queue.
    pub(crate) fn depth(&self, name: &str) -> Option<(u64, u64)> {
        let queue = self.queue(name)?;
        let guarded = queue.lock();
        Some((guarded.machine.ready(), guarded.machine.unsettled()))
    }

    /// Topics' subscriptions in the routing table.
    pub(crate) fn subscriptions(&self) -> usize {
        self.host().routes.read().topics.len()
    }

    pub(crate) fn dropped_full(&self) -> u64 {
        self.counters.dropped_full.get()
    }

    pub(crate) fn dead_lettered(&self) -> u64 {
        self.counters.dead_lettered.iter().map(|counter| counter.get()).sum()
    }

    /// Nobody is connected, and only these queues are there.
    #[track_caller]
    pub(crate) fn assert_only(&self, queues: &[&str]) {
        let mut left: Vec<String> = self.host().queues.iter().map(|queue| queue.name.to_string()).collect();
        left.sort();
        assert_eq!(left, queues);
        let clients: Vec<String> = self.host().clients.iter().map(|client| client.id.to_string()).collect();
        assert!(clients.is_empty(), "clients left: {clients:?}");
        assert_eq!(self.broker.connections.len(), 0, "connections left");
        if queues.is_empty() {
            let tables = self.host().routes.read();
            tables.topics.for_each(|filter, left| panic!("{filter} still leads to {left:?}"));
            drop(tables);
            assert!(self.host().routes.read().exchanges.values().all(|exchange| exchange.is_empty()));
        }
    }
}

pub(crate) struct Client {
    pub(crate) host: ConnectionHost,
    batch: Batch,
    clock: Arc<Clock>,
    last_ticket: u64,
    /// Tickets without a reply.
    pub(crate) open: HashSet<Ticket>,
    pub(crate) replies: Vec<(Ticket, Reply)>,
    pub(crate) deliveries: Vec<Delivery>,
    /// What is to be settled, in the order of delivery.
    pub(crate) held: Vec<(ConsumerId, DeliveryTag)>,
    /// What publishers encoded: `topic=body`.
    pub(crate) frames: Vec<String>,
    pub(crate) notices: Vec<Notice>,
}

impl Client {
    /// One poll of the connection's task.
    pub(crate) fn turn(&mut self, f: impl FnOnce(&mut Turn<'_>)) {
        let mut turn = self.host.turn(&mut self.batch, self.clock.now());
        f(&mut turn);
        turn.flush();
        let replies = std::mem::take(&mut turn.batch.replies);
        turn.finish();
        self.note(replies);
    }

    fn note(&mut self, replies: Vec<(Ticket, Reply)>) {
        for (ticket, reply) in replies {
            assert!(self.open.remove(&ticket), "{ticket:?} is answered twice, now with {reply:?}");
            self.replies.push((ticket, reply));
        }
    }

    pub(crate) fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.open.insert(ticket);
        ticket
    }

    /// Takes everything from the inbox.
    pub(crate) fn sync(&mut self) {
        loop {
            let mut taken = Taken::default();
            self.host.info.inbox.take(u32::MAX, &mut taken);
            if taken.is_empty() {
                return;
            }
            self.note(std::mem::take(&mut taken.replies));
            self.frames.extend(frames_of(&taken.run));
            let mut deliveries = std::mem::take(&mut taken.deliveries);
            self.turn(|turn| turn.sent(&deliveries));
            let unsettled = deliveries.iter().filter(|delivery| !delivery.settled);
            self.held.extend(unsettled.map(|delivery| (delivery.consumer, delivery.tag)));
            self.deliveries.append(&mut deliveries);
            self.notices.append(&mut taken.notices);
        }
    }

    /// Asks and waits for the answer, which must be there.
    #[track_caller]
    pub(crate) fn ask(&mut self, f: impl FnOnce(&mut Turn<'_>, Ticket)) -> Reply {
        let ticket = self.ticket();
        self.turn(|turn| f(turn, ticket));
        self.sync();
        let at = self.replies.iter().position(|(known, _)| *known == ticket).expect("no reply");
        self.replies.remove(at).1
    }

    /// `None`: it has to wait for its turn.
    pub(crate) fn open(&mut self, id: &str, terms: SessionTerms, will: Option<Will>) -> Option<Opened> {
        let ticket = self.ticket();
        let spec =
            SessionSpec { protocol: "test", virtual_host: None, client_id: id, session: Some(terms), will };
        self.turn(|turn| turn.open(ticket, spec));
        self.sync();
        self.opened()
    }

    pub(crate) fn opened(&mut self) -> Option<Opened> {
        let at = self.replies.iter().position(|(_, reply)| matches!(reply, Reply::Opened(_)))?;
        match self.replies.remove(at).1 {
            Reply::Opened(opened) => Some(*opened),
            _ => None,
        }
    }

    // ---- publishing ----

    pub(crate) fn publish(&mut self, publish: &PublishRef<'_>) -> Reply {
        self.ask(|turn, ticket| turn.publish(Some(ticket), publish))
    }

    /// At least once; answers the number of targets.
    #[track_caller]
    pub(crate) fn send(&mut self, address: AddressRef<'_>, body: &str) -> u32 {
        match self.publish(&at_least_once(address, body)) {
            Reply::Published { routed } => routed,
            other => panic!("{other:?}"),
        }
    }

    // ---- consuming ----

    #[track_caller]
    pub(crate) fn attach(&mut self, id: u32, source: Source<'_>) -> Attached {
        match self.try_attach(id, source) {
            Reply::Attached(attached) => *attached,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn try_attach(&mut self, id: u32, source: Source<'_>) -> Reply {
        self.ask(|turn, ticket| turn.attach(ticket, ConsumerId(id), source))
    }

    pub(crate) fn detach(&mut self, id: u32, end: End) -> bool {
        match self.ask(|turn, ticket| turn.detach(ticket, ConsumerId(id), end)) {
            Reply::Detached { existed } => existed,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn settle(&mut self, consumer: u32, tag: DeliveryTag, outcome: &Outcome) {
        self.turn(|turn| turn.settle(ConsumerId(consumer), &[tag], outcome, None));
        self.sync();
    }

    /// Bodies of the deliveries since the last time.
    pub(crate) fn bodies(&mut self) -> Vec<String> {
        self.sync();
        self.deliveries.drain(..).map(|delivery| body_of(&delivery.message)).collect()
    }

    pub(crate) fn take_frames(&mut self) -> Vec<String> {
        self.sync();
        std::mem::take(&mut self.frames)
    }

    // ---- definitions and transactions ----

    pub(crate) fn define(&mut self, change: Change<'_>) -> Result<Defined, RefusalKind> {
        match self.ask(|turn, ticket| turn.define(ticket, change)) {
            Reply::Defined(defined) => Ok(*defined),
            Reply::Refused(refusal) => Err(refusal.kind),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn declare(&mut self, name: &str, spec: &QueueSpec) -> Result<Defined, RefusalKind> {
        self.define(Change::DeclareQueue { name, spec, passive: false })
    }

    pub(crate) fn delete(&mut self, name: &str) -> Result<Defined, RefusalKind> {
        self.define(Change::DeleteQueue { name, if_unused: false, if_empty: false })
    }

    pub(crate) fn exchange(&mut self, name: &str, spec: &ExchangeSpec) -> Result<Defined, RefusalKind> {
        self.define(Change::DeclareExchange { name, spec, passive: false })
    }

    pub(crate) fn bind(&mut self, source: &str, queue: &str, key: &str) -> Result<Defined, RefusalKind> {
        let destination = Destination::Queue(queue);
        self.define(Change::Bind { source, destination, key, arguments: &Vec::new() })
    }

    pub(crate) fn transact(&mut self, step: Step) -> Result<(), RefusalKind> {
        match self.ask(|turn, ticket| turn.transact(ticket, step)) {
            Reply::Done => Ok(()),
            Reply::Refused(refusal) => Err(refusal.kind),
            other => panic!("{other:?}"),
        }
    }

    // ---- the end ----

    /// The connection is gone, after this farewell if it said one.
    pub(crate) fn leave(mut self, farewell: Option<Farewell>) {
        self.leave_in_place(farewell);
    }

    pub(crate) fn leave_in_place(&mut self, farewell: Option<Farewell>) {
        self.host.closing = farewell.map(Box::new);
        let mut turn = self.host.turn(&mut self.batch, self.clock.now());
        turn.leave();
        turn.batch.replies.clear();
        turn.finish();
    }

    pub(crate) fn was_told(&mut self, is_it: impl Fn(&Notice) -> bool) -> bool {
        self.sync();
        self.notices.iter().any(is_it)
    }
}

// ---- shorthands ----

pub(crate) fn queue(name: &str) -> AddressRef<'_> {
    AddressRef::Queue(name)
}

pub(crate) fn topic(name: &str) -> AddressRef<'_> {
    AddressRef::Topic(name)
}

pub(crate) fn at_least_once<'a>(address: AddressRef<'a>, body: &'a str) -> PublishRef<'a> {
    let header = Header { guarantee: Guarantee::AtLeastOnce, ..Header::default() };
    PublishRef { header, ..PublishRef::new(address, body.as_bytes()) }
}

pub(crate) fn retained<'a>(address: AddressRef<'a>, body: &'a str) -> PublishRef<'a> {
    let mut publish = at_least_once(address, body);
    publish.header.retain = Retain::Keep;
    publish
}

pub(crate) fn in_transaction<'a>(id: u64, address: AddressRef<'a>, body: &'a str) -> PublishRef<'a> {
    PublishRef { transaction: Some(TransactionId(id)), ..at_least_once(address, body) }
}

pub(crate) fn from_queue(name: &str) -> Source<'_> {
    Source { credit: CreditMode::Window(10), ..Source::new(From::Queue { name, create: true }) }
}

pub(crate) fn from_topic<'a>(filter: &str, holder: Holder<'a>) -> Source<'a> {
    let filter = Filter::parse(filter).unwrap();
    Source { credit: CreditMode::Window(10), ..Source::new(From::Topic { filter, holder }) }
}

pub(crate) fn shared<'a>(group: &'a str, filter: &str) -> Source<'a> {
    let filter = Filter::parse(filter).unwrap();
    Source { credit: CreditMode::Window(10), ..Source::new(From::Shared { group, filter }) }
}

/// Without a queue: publishers encode.
pub(crate) fn direct(filter: &str) -> Source<'static> {
    let mut source = from_topic(filter, Holder::Connection);
    source.settled = true;
    source.credit = CreditMode::Socket;
    source.wire = Some(wire(Guarantee::AtLeastOnce, Guarantee::ExactlyOnce));
    source
}

/// Of a durable session: what needs settling waits in its queue.
pub(crate) fn of_session(filter: &str) -> Source<'static> {
    let mut source = from_topic(filter, Holder::Session);
    source.settled = true;
    source.credit = CreditMode::Socket;
    source.wire = Some(wire(Guarantee::AtLeastOnce, Guarantee::AtMostOnce));
    source
}

pub(crate) fn terms(fresh: bool, expiry_s: u64) -> SessionTerms {
    let expiry = if expiry_s == 0 { Expiry::AtEnd } else { Expiry::After(Duration::from_secs(expiry_s)) };
    SessionTerms { fresh, expiry, credit: 10 }
}

pub(crate) fn will(address: AddressRef<'_>, body: &str, delay_s: u64, now: Instant) -> Will {
    let message = Message::from_publish(&at_least_once(address, body), now);
    Will { message: Arc::new(message), delay: Duration::from_secs(delay_s), held_back: Duration::ZERO }
}

pub(crate) fn exchange_spec(kind: ExchangeKind) -> ExchangeSpec {
    ExchangeSpec {
        kind,
        durable: false,
        auto_delete: false,
        internal: false,
        alternate: None,
        arguments: Vec::new(),
    }
}

pub(crate) fn body_of(message: &Message) -> String {
    String::from_utf8_lossy(&message.body).into_owned()
}

pub(crate) fn wire(guarantee: Guarantee, direct_max: Guarantee) -> Wire {
    Wire {
        format: Format("test"),
        version: 1,
        guarantee,
        direct_max,
        keep_retain: false,
        identifiers: Vec::new(),
        apart: false,
        as_message: false,
        encode,
    }
}

/// `<length> topic=body`, with `!` in front if it comes from the retained store.
fn encode(wire: &Wire, publish: &PublishRef<'_>, run: &mut Run) {
    let guarantee = wire.effective(publish.header.guarantee);
    if guarantee > wire.direct_max {
        return;
    }
    let replayed = if publish.header.retain == Retain::Replayed { "!" } else { "" };
    let text = format!("{replayed}{}={}", publish.address, String::from_utf8_lossy(publish.body));
    let frame = u32::try_from(run.bytes.len()).unwrap();
    if guarantee > Guarantee::AtMostOnce {
        run.marks.push(Mark { frame, patch: frame, guarantee });
    }
    run.bytes.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
    run.bytes.extend_from_slice(text.as_bytes());
    run.frames += 1;
}

fn frames_of(run: &Run) -> Vec<String> {
    let mut frames = Vec::new();
    let mut rest = &run.bytes[..];
    while let [high, low, tail @ ..] = rest {
        let (text, next) = tail.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        frames.push(String::from_utf8_lossy(text).into_owned());
        rest = next;
    }
    frames
}
