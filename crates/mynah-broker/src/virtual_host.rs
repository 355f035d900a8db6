//! One tenant: its topics, exchanges, queues, clients and retained messages. Nothing crosses from one to another.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use dashmap::DashMap;
use mynah_core::exchange::{Exchange, ExchangeKind, ExchangeSpec};
use mynah_core::limits::EXCHANGE_HOPS_MAX;
use mynah_core::protocol::{Refusal, RefusalKind};
use mynah_core::queue::{QueueDefaults, QueueSpec};
use mynah_core::{Address, AddressRef, Filter, PublishRef, Value, words};
use parking_lot::Mutex;

use crate::broker::Shared;
use crate::delayed::Delayed;
use crate::policies::Policies;
use crate::queues::{Home, QueueHandle, QueueKind};
use crate::retained::Retained;
use crate::routing::{
    BindingTarget, Found, ObjectTarget, QueueTarget, Route, RoutingTable, Subscription, Tables, Targets,
};
use crate::rules::Action;
use crate::sessions::Client;

#[derive(Debug)]
pub struct VirtualHost {
    pub name: Arc<str>,
    pub routes: RoutingTable,
    pub queues: DashMap<Arc<str>, Arc<QueueHandle>>,
    pub clients: DashMap<Arc<str>, Arc<Client>>,
    pub retained: Retained,
    pub(crate) delayed: Delayed,
    pub(crate) policies: Policies,
    pub shared: Arc<Shared>,
    /// Exchanges that topics lead to, so that deleting one need not search for its filters. Locked with the routing table locked.
    pub(crate) topics_to_exchanges: Mutex<HashMap<Arc<str>, Vec<Filter>>>,
    names: AtomicU64,
    /// Durable sessions, and those of them whose client is connected.
    pub(crate) sessions: AtomicU64,
    pub(crate) sessions_connected: AtomicU64,
}

/// The exchange that stands for all topics; its key is the topic with dots.
pub const TOPIC_EXCHANGE: &str = "amq.topic";

/// The exchange whose key is a client identifier.
pub const CLIENT_EXCHANGE: &str = "p2p";

impl VirtualHost {
    #[must_use]
    pub fn new(name: &str, shared: Arc<Shared>) -> Arc<Self> {
        let host = Self {
            name: name.into(),
            routes: RoutingTable::default(),
            queues: DashMap::new(),
            clients: DashMap::new(),
            retained: Retained::new(shared.config.retained_messages_max),
            delayed: Delayed::default(),
            policies: Policies::default(),
            shared,
            topics_to_exchanges: Mutex::default(),
            names: AtomicU64::new(1),
            sessions: AtomicU64::new(0),
            sessions_connected: AtomicU64::new(0),
        };
        {
            let mut tables = host.routes.write();
            for (name, kind) in [
                ("amq.direct", ExchangeKind::Direct),
                ("amq.fanout", ExchangeKind::Fanout),
                ("amq.headers", ExchangeKind::Headers),
                ("amq.match", ExchangeKind::Headers),
            ] {
                tables.exchanges.insert(name.into(), Exchange::new(Arc::new(builtin(kind))));
            }
        }
        Arc::new(host)
    }

    /// A name nobody has, nor can guess.
    #[must_use]
    pub fn generated_name(&self, prefix: &str) -> String {
        use std::hash::{BuildHasher, RandomState};
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        let random = RandomState::new().hash_one(number);
        format!("{prefix}{random:016x}{number:x}")
    }

    #[must_use]
    pub fn queue(&self, name: &str) -> Option<Arc<QueueHandle>> {
        self.queues.get(name).map(|queue| Arc::clone(&queue)).filter(|queue| !queue.is_deleted())
    }

    /// Subscriptions to topics, and groups that share one.
    pub(crate) fn count_subscriptions(&self) -> (usize, usize) {
        let shared = self.queues.iter().filter(|queue| queue.kind == QueueKind::Shared).count();
        (self.routes.read().topics.len(), shared)
    }

    pub(crate) fn has_subscriber(&self, topic: &str) -> bool {
        !self.routes.leads_nowhere(topic)
    }

    #[must_use]
    pub fn queue_defaults(&self, kind: QueueKind) -> QueueDefaults {
        let config = &self.shared.config;
        let (max_messages, max_bytes) = match kind {
            QueueKind::Session => (config.session_messages_max, config.session_bytes_max),
            QueueKind::Plain | QueueKind::Durable | QueueKind::Temporary | QueueKind::Shared => {
                (config.queues.messages_max, config.queues.bytes_max)
            }
        };
        QueueDefaults {
            delivery_limit: config.queues.delivery_limit,
            max_messages,
            max_bytes,
            socket_window: config.queues.socket_window,
        }
    }

    /// The queue of that name, made now if there was none. The second answer says whether it was made.
    pub fn queue_or_create(
        &self,
        name: &str,
        kind: QueueKind,
        owner: Option<u64>,
        spec: &QueueSpec,
        now: Instant,
    ) -> (Arc<QueueHandle>, bool) {
        if let Some(queue) = self.queue(name) {
            return (queue, false);
        }
        let name: Arc<str> = name.into();
        loop {
            let mut made = false;
            let queue = Arc::clone(&self.queues.entry(Arc::clone(&name)).or_insert_with(|| {
                made = true;
                let home = Home { host: Arc::clone(&self.name), shared: Arc::clone(&self.shared) };
                let spec = Arc::new(spec.clone());
                let defaults = self.queue_defaults(kind);
                let queue = QueueHandle::new(Arc::clone(&name), kind, owner, home, spec, defaults, now);
                // Before anybody can bind it or push to it.
                self.keep_definition(&queue, &mut queue.lock());
                queue
            }));
            if !made && queue.is_deleted() {
                // Whoever deletes it is not done yet. Its bindings and what is kept of it must be gone before the name is
                // given again.
                drop(queue.lock());
                self.forget_bindings(&queue);
                self.queues.remove_if(&name, |_, known| Arc::ptr_eq(known, &queue));
                continue;
            }
            if made {
                self.routes.invalidate();
                self.begin_policy(&queue, now);
            }
            return (queue, made);
        }
    }

    /// The queue to consume from or send to, made by use if that is allowed.
    ///
    /// # Errors
    /// `NotFound` if there is none and none may be made.
    pub fn queue_by_use(
        &self,
        name: &str,
        create: bool,
        spec: Option<&QueueSpec>,
        now: Instant,
    ) -> Result<Arc<QueueHandle>, Refusal> {
        if let Some(queue) = self.queue(name) {
            return Ok(queue);
        }
        if !create || !self.shared.config.queues.auto_create || is_reserved(name) {
            return Err(Refusal::new(
                RefusalKind::NotFound,
                format!("no queue '{name}' in vhost '{}'", self.name),
            ));
        }
        let by_use = QueueSpec { durable: true, ..QueueSpec::default() };
        Ok(self.queue_or_create(name, QueueKind::Plain, None, spec.unwrap_or(&by_use), now).0)
    }

    /// Builds the way of a publish.
    #[must_use]
    pub fn build_route(&self, publish: &PublishRef<'_>, now: Instant) -> Route {
        // Before looking: a change between the two makes the route void, never stale.
        let generation = self.routes.generation();
        let mut route = self.routes.empty_route(publish.address.to_owned(), generation);
        let mut targets = Targets::default();
        match publish.address {
            AddressRef::Topic(topic) => self.add_topic(&mut route, &mut targets, topic, publish),
            // Who wants to be told that there is no queue does not want it made.
            AddressRef::Queue(name) => {
                let create = !publish.mandatory;
                if self.queue(name).is_none() && self.queue_by_use(name, create, None, now).is_ok() {
                    // Making it made older generations void. It is looked up again after that, as always.
                    self.routes.renew(&mut route);
                }
                match self.queue(name) {
                    Some(queue) => {
                        targets.add_queue(&mut route, QueueTarget { queue, wire: None, no_local: None });
                    }
                    None => {
                        route.outcome = Found::NoQueue;
                        route.cacheable = create;
                    }
                }
            }
            AddressRef::Client(id) => self.add_client(&mut route, &mut targets, id),
            AddressRef::Exchange { name, key } => {
                self.add_exchange(&mut route, &mut targets, name, key, publish)
            }
        }
        targets.finish(&mut route);
        route
    }

    fn add_topic(&self, route: &mut Route, targets: &mut Targets, topic: &str, publish: &PublishRef<'_>) {
        let tables = self.routes.read();
        let mut exchanges = Vec::new();
        tables.topics.matches(topic, &mut |subscription| {
            if let Subscription::Exchange(name) = subscription {
                exchanges.push(Arc::clone(name));
            }
            if self.reaches(subscription, topic) {
                targets.add(route, subscription);
            }
        });
        if exchanges.is_empty() {
            return;
        }
        let key = words::dotted_from_core(topic);
        for name in exchanges {
            self.follow(&tables, route, targets, &name, &key, publish);
        }
    }

    /// Whether the rules let the holder of a subscription have this topic. Asked when a route is built, not for each message.
    fn reaches(&self, subscription: &Subscription, topic: &str) -> bool {
        let rules = &self.shared.access.rules;
        if rules.is_empty() {
            return true;
        }
        let reader = match subscription {
            Subscription::Direct { inbox, .. } => inbox.reader(),
            Subscription::Queue { queue, .. } => queue.reader(),
            Subscription::Exchange(_) => None,
        };
        reader.is_none_or(|reader| rules.allow(reader.who(), Action::Deliver, AddressRef::Topic(topic)))
    }

    fn add_exchange(
        &self,
        route: &mut Route,
        targets: &mut Targets,
        name: &str,
        key: &str,
        publish: &PublishRef<'_>,
    ) {
        match name {
            "" => match self.queue(key) {
                Some(queue) => targets.add_queue(route, QueueTarget { queue, wire: None, no_local: None }),
                None => route.outcome = Found::NoQueue,
            },
            TOPIC_EXCHANGE => self.add_topic(route, targets, &words::core_from_dotted(key), publish),
            CLIENT_EXCHANGE => self.add_client(route, targets, key),
            _ => {
                let tables = self.routes.read();
                match tables.exchanges.get(name) {
                    Some(exchange) => {
                        if exchange.spec().internal {
                            // For clients; what the broker itself sends there passes.
                            route.outcome = Found::Internal;
                        }
                        self.follow(&tables, route, targets, name, key, publish);
                    }
                    None => route.outcome = Found::NoExchange,
                }
            }
        }
    }

    /// Exchange by exchange, each at most once, so that a ring of bindings ends.
    fn follow(
        &self,
        tables: &Tables,
        route: &mut Route,
        targets: &mut Targets,
        start: &str,
        key: &str,
        publish: &PublishRef<'_>,
    ) {
        let mut pending: Vec<(Arc<str>, usize)> = vec![(start.into(), 0)];
        let mut seen: HashSet<Arc<str>> = HashSet::new();
        while let Some((name, hops)) = pending.pop() {
            if hops > EXCHANGE_HOPS_MAX || !seen.insert(Arc::clone(&name)) {
                continue;
            }
            if &*name == TOPIC_EXCHANGE {
                let topic = words::core_from_dotted(key);
                tables.topics.matches(&topic, &mut |found| {
                    if let Subscription::Exchange(next) = found {
                        pending.push((Arc::clone(next), hops + 1));
                    }
                    if self.reaches(found, &topic) {
                        targets.add(route, found);
                    }
                });
                continue;
            }
            let Some(exchange) = tables.exchanges.get(&*name) else { continue };
            if exchange.spec().kind == ExchangeKind::Headers {
                route.cacheable = false;
            }
            let mut found = false;
            let mut take = |target: &BindingTarget| {
                found = true;
                match target {
                    BindingTarget::Queue(queue) => {
                        if let Some(queue) = self.queue(queue) {
                            let no_local = queue.left_out();
                            targets.add_queue(route, QueueTarget { queue, wire: None, no_local });
                        }
                    }
                    BindingTarget::Exchange(next) => pending.push((Arc::clone(next), hops + 1)),
                }
            };
            // Headers are decoded only for exchanges that look at them.
            exchange.route(key, &|header| header_of(publish, header), &mut take);
            if let (false, Some(alternate)) = (found, &exchange.spec().alternate) {
                pending.push((alternate.as_ref().into(), hops + 1));
            }
        }
    }

    /// A client is reached without a subscription: through its session's queue, or directly while it is connected.
    fn add_client(&self, route: &mut Route, targets: &mut Targets, id: &str) {
        // Clients come and go too often to void every route for it.
        route.cacheable = false;
        let Some(client) = self.clients.get(id).map(|client| Arc::clone(&client)) else {
            route.outcome = Found::NoQueue;
            return;
        };
        match client.reach() {
            (Some(queue), _) => targets.add_queue(route, QueueTarget { queue, wire: None, no_local: None }),
            (None, Some(inbox)) => {
                route.objects.push(ObjectTarget {
                    inbox,
                    consumer: mynah_core::ConsumerId::SESSION,
                    wire: None,
                    no_local: false,
                });
            }
            (None, None) => route.outcome = Found::NoQueue,
        }
    }

    /// Where the dead letters of a queue go; `None` = nowhere, they are dropped and counted.
    #[must_use]
    pub fn dead_letter_address(
        &self,
        queue: &QueueHandle,
        spec: &QueueSpec,
        cause: mynah_core::Cause,
        original: &Address,
    ) -> Option<Address> {
        if let Some(exchange) = &spec.dead_letter_exchange {
            let key: Arc<str> = match &spec.dead_letter_key {
                Some(key) => key.as_ref().into(),
                None => key_of(original),
            };
            return Some(Address::Exchange { name: exchange.as_ref().into(), key });
        }
        // What outlived its time was not lost by an accident: it goes where somebody asked for it, or away.
        let wanted = cause != mynah_core::Cause::Expired
            && matches!(queue.kind, QueueKind::Plain | QueueKind::Durable)
            && !queue.name.ends_with(".dlq")
            && !spec.exclusive;
        wanted.then(|| Address::Queue(format!("{}.dlq", queue.name).into()))
    }
}

impl VirtualHost {
    /// The broker's own queues for dead letters are made even where clients make none by use.
    pub(crate) fn make_dead_letter_queue(&self, address: &Address, now: Instant) {
        let Address::Queue(name) = address else { return };
        if self.queue(name).is_none() && !is_reserved(name) {
            let spec = QueueSpec { durable: true, ..QueueSpec::default() };
            self.queue_or_create(name, QueueKind::Plain, None, &spec, now);
        }
    }
}

fn header_of(publish: &PublishRef<'_>, name: &str) -> Option<Value> {
    publish.with_properties(|properties| {
        let named =
            properties.application.iter().chain(&properties.annotations).find(|(key, _)| &**key == name);
        named.map(|(_, value)| value.clone())
    })
}

/// The key by which a message would have been routed, in the exchanges' spelling.
fn key_of(address: &Address) -> Arc<str> {
    match address {
        Address::Topic(topic) => words::dotted_from_core(topic).into(),
        Address::Queue(name) => Arc::clone(name),
        Address::Exchange { key, .. } => Arc::clone(key),
        Address::Client(id) => Arc::clone(id),
    }
}

pub(crate) fn builtin(kind: ExchangeKind) -> ExchangeSpec {
    ExchangeSpec {
        kind,
        durable: true,
        auto_delete: false,
        internal: false,
        alternate: None,
        arguments: Vec::new(),
    }
}

/// Names that only the broker gives.
#[must_use]
pub(crate) fn is_reserved(name: &str) -> bool {
    name.is_empty() || name.starts_with("amq.") || name.starts_with('$')
}
