//! From an address to its targets.
//!
//! The table is written under a lock and read only when a cache has no valid answer: a connection remembers its last route, a
//! thread a thousand of them, and both are valid while the table's generation stands
//! (docs/adr/0004-routes-by-generation.md). In steady traffic nobody takes the lock.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mynah_core::exchange::Exchange;
use mynah_core::hash::Seed;
use mynah_core::trie::Trie;
use mynah_core::{Address, AddressRef, ConsumerId, Guarantee, Wire};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::inbox::Inbox;
use crate::limits::ROUTE_CACHE_ENTRIES;
use crate::queues::QueueHandle;

/// Where the copies of a publish go. Immutable; shared by caches and batches.
#[derive(Debug)]
pub struct Route {
    pub address: Address,
    table: u64,
    generation: u64,
    /// False for routes that depend on more than the address.
    pub cacheable: bool,
    pub outcome: Found,
    /// The different encodings that `direct` wants.
    pub classes: Vec<Wire>,
    pub direct: Vec<DirectTarget>,
    pub objects: Vec<ObjectTarget>,
    pub queues: Vec<QueueTarget>,
}

/// Whether the address exists at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It may still have no targets.
    Yes,
    NoQueue,
    NoExchange,
    /// Clients cannot publish to it.
    Internal,
}

/// A subscriber whose bytes the publisher encodes.
#[derive(Debug)]
pub struct DirectTarget {
    pub inbox: Arc<Inbox>,
    /// Index into [`Route::classes`].
    pub class: usize,
    pub no_local: bool,
}

/// A subscriber without a queue that encodes for itself.
#[derive(Debug)]
pub struct ObjectTarget {
    pub inbox: Arc<Inbox>,
    pub consumer: ConsumerId,
    /// Of its subscriptions that match, if they have one.
    pub wire: Option<Arc<Wire>>,
    pub no_local: bool,
}

#[derive(Debug, Clone)]
pub struct QueueTarget {
    pub queue: Arc<QueueHandle>,
    /// Of a session's subscription: kept with the entry, for the receiver to encode by.
    pub wire: Option<Arc<Wire>>,
    pub no_local: Option<u64>,
}

impl QueueTarget {
    fn is_apart(&self) -> bool {
        self.wire.as_ref().is_some_and(|wire| wire.apart)
    }

    /// A session's queue takes only what must be settled; the rest went directly.
    #[must_use]
    pub fn takes(&self, guarantee: Guarantee, publisher: u64) -> bool {
        let wanted = self.wire.as_ref().is_none_or(|wire| wire.effective(guarantee) > wire.direct_max);
        wanted && self.no_local != Some(publisher)
    }
}

impl Route {
    /// How a queue is reached: more than once by subscriptions that are apart.
    pub fn targets_in<'r>(&'r self, queue: &'r Arc<QueueHandle>) -> impl Iterator<Item = &'r QueueTarget> {
        self.queues.iter().filter(|target| Arc::ptr_eq(&target.queue, queue))
    }

    /// Whether it still says where `address` leads in `table`.
    #[must_use]
    pub fn serves(&self, table: &RoutingTable, address: AddressRef<'_>) -> bool {
        self.cacheable
            && self.generation == table.generation()
            && self.table == table.id
            && self.address.as_ref() == address
    }

    #[must_use]
    pub fn targets(&self) -> u32 {
        u32::try_from(self.direct.len() + self.objects.len() + self.queues.len()).unwrap_or(u32::MAX)
    }

    /// Whether some target takes a message of this guarantee from this publisher: one that must not go nowhere asks.
    #[must_use]
    pub fn has_taker(&self, guarantee: Guarantee, publisher: u64) -> bool {
        let foreign = |inbox: &Inbox, no_local: bool| !no_local || inbox.connection() != publisher;
        let encodes = |class: usize| {
            self.classes.get(class).is_some_and(|wire| wire.effective(guarantee) <= wire.direct_max)
        };
        self.queues.iter().any(|target| target.takes(guarantee, publisher))
            || self.objects.iter().any(|target| foreign(&target.inbox, target.no_local))
            || self
                .direct
                .iter()
                .any(|target| foreign(&target.inbox, target.no_local) && encodes(target.class))
    }

    /// Whether some target keeps or encodes the message itself.
    #[must_use]
    pub fn needs_message(&self) -> bool {
        !self.queues.is_empty() || !self.objects.is_empty()
    }
}

/// One subscription to topics.
#[derive(Debug, Clone)]
pub enum Subscription {
    Direct {
        inbox: Arc<Inbox>,
        consumer: ConsumerId,
        wire: Option<Arc<Wire>>,
        no_local: bool,
    },
    Queue {
        queue: Arc<QueueHandle>,
        consumer: Option<ConsumerId>,
        wire: Option<Arc<Wire>>,
        no_local: Option<u64>,
    },
    /// An exchange bound to topics; the key is the topic in the exchange's spelling.
    Exchange(Arc<str>),
}

impl Subscription {
    /// Compares addresses: looking into the inboxes of a filter's hundred thousand subscribers would cost a miss each.
    #[must_use]
    pub fn is_of(&self, receiver: &Arc<Inbox>, id: ConsumerId) -> bool {
        matches!(self, Self::Direct { inbox, consumer, .. } if *consumer == id && Arc::ptr_eq(inbox, receiver))
    }

    #[must_use]
    pub fn leads_to(&self, target: &Arc<QueueHandle>, id: Option<ConsumerId>) -> bool {
        matches!(self, Self::Queue { queue, consumer, .. } if Arc::ptr_eq(queue, target) && *consumer == id)
    }
}

/// Where a binding of an exchange leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum BindingTarget {
    Queue(Arc<str>),
    Exchange(Arc<str>),
}

#[derive(Debug, Default)]
pub struct Tables {
    pub topics: Trie<Subscription>,
    pub exchanges: HashMap<Arc<str>, Exchange<BindingTarget>>,
}

#[derive(Debug)]
pub struct RoutingTable {
    id: u64,
    generation: AtomicU64,
    tables: RwLock<Tables>,
    hasher: Seed,
}

static TABLES: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static CACHE: RefCell<Vec<Remembered>> = RefCell::new(vec![Remembered::default(); ROUTE_CACHE_ENTRIES]);
}

/// One place of a thread's memory of routes.
#[derive(Debug, Clone, Default)]
struct Remembered {
    /// Of the route's address.
    hash: u64,
    /// Of the last address that was looked for in vain.
    missed: u64,
    route: Option<Arc<Route>>,
}

impl Default for RoutingTable {
    fn default() -> Self {
        Self {
            id: TABLES.fetch_add(1, Ordering::Relaxed),
            generation: AtomicU64::new(1),
            tables: RwLock::default(),
            hasher: Seed::default(),
        }
    }
}

impl RoutingTable {
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read()
    }

    /// For changes; every route that was looked up before is void afterwards.
    pub fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        let guard = self.tables.write();
        // Under the lock, so that a route built after this sees the change, and one built before is void.
        self.generation.fetch_add(1, Ordering::AcqRel);
        guard
    }

    /// A queue came or went.
    pub fn invalidate(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// The thread's remembered route, or `build`'s, which is remembered.
    pub fn find(&self, address: AddressRef<'_>, build: impl FnOnce() -> Route) -> Arc<Route> {
        let hash = self.hash_of(address);
        self.remembered(hash, address).unwrap_or_else(|| self.remember(hash, build()))
    }

    pub fn hash_of(&self, address: AddressRef<'_>) -> u64 {
        self.hasher.hash_one(address)
    }

    fn slot_of(hash: u64) -> usize {
        usize::try_from(hash).unwrap_or_default() % ROUTE_CACHE_ENTRIES
    }

    /// What the thread remembers of an address with this hash.
    pub fn remembered(&self, hash: u64, address: AddressRef<'_>) -> Option<Arc<Route>> {
        CACHE.with_borrow(|cache| {
            let entry = cache.get(Self::slot_of(hash)).filter(|entry| entry.hash == hash)?;
            entry.route.as_ref().filter(|route| route.serves(self, address)).cloned()
        })
    }

    /// Remembers a route that was built if it was asked for twice in a row: where addresses hardly ever come again, remembering them
    /// would cost more than it saves.
    pub fn remember(&self, hash: u64, route: Route) -> Arc<Route> {
        let route = Arc::new(route);
        CACHE.with_borrow_mut(|cache| {
            let Some(entry) = cache.get_mut(Self::slot_of(hash)).filter(|_| route.cacheable) else { return };
            if entry.hash == hash || entry.missed == hash {
                *entry = Remembered { hash, missed: 0, route: Some(Arc::clone(&route)) };
            } else {
                entry.missed = hash;
            }
        });
        route
    }

    /// Whether no subscription to topics matches, now.
    pub fn leads_nowhere(&self, topic: &str) -> bool {
        let mut nowhere = true;
        self.read().topics.matches(topic, &mut |_| nowhere = false);
        nowhere
    }

    /// The route as of now: its own making has voided what was looked up before.
    pub fn renew(&self, route: &mut Route) {
        route.generation = self.generation();
    }

    /// A route without targets, for `build` to fill.
    #[must_use]
    pub fn empty_route(&self, address: Address, generation: u64) -> Route {
        Route {
            address,
            table: self.id,
            generation,
            cacheable: true,
            outcome: Found::Yes,
            classes: Vec::new(),
            direct: Vec::new(),
            objects: Vec::new(),
            queues: Vec::new(),
        }
    }
}

/// So many targets are told apart without a map.
const TARGETS_FEW: usize = 16;

#[derive(Debug)]
struct Direct {
    inbox: Arc<Inbox>,
    /// Of one subscription; of several it is nobody's in particular.
    consumer: ConsumerId,
    wire: Wire,
    no_local: bool,
}

impl Direct {
    /// It can be merged with another subscription of this connection.
    fn is_of(&self, connection: u64) -> bool {
        self.inbox.connection() == connection && !self.wire.apart
    }
}

/// Collects targets, one for each receiver however many of its subscriptions match [MQTT-3.3.4-2], but for those that are apart.
#[derive(Debug, Default)]
pub struct Targets {
    direct: Vec<Direct>,
    by_connection: HashMap<u64, usize>,
    queue_at: HashMap<*const QueueHandle, usize>,
}

impl Targets {
    pub fn add(&mut self, route: &mut Route, subscription: &Subscription) {
        match subscription {
            Subscription::Direct { inbox, consumer, wire: None, no_local } => {
                route.objects.push(ObjectTarget {
                    inbox: Arc::clone(inbox),
                    consumer: *consumer,
                    wire: None,
                    no_local: *no_local,
                });
            }
            Subscription::Direct { inbox, consumer, wire: Some(wire), no_local } => {
                self.add_wire(inbox, *consumer, wire, *no_local)
            }
            Subscription::Queue { queue, wire, no_local, .. } => self.add_queue(
                route,
                QueueTarget { queue: Arc::clone(queue), wire: wire.clone(), no_local: *no_local },
            ),
            Subscription::Exchange(_) => {}
        }
    }

    fn add_wire(&mut self, inbox: &Arc<Inbox>, consumer: ConsumerId, wire: &Wire, no_local: bool) {
        let (next, connection) = (self.direct.len(), inbox.connection());
        // A few are looked through: a map would cost an allocation.
        let at = if wire.apart {
            next
        } else if next < TARGETS_FEW {
            self.direct.iter().position(|known| known.is_of(connection)).unwrap_or(next)
        } else {
            if self.by_connection.is_empty() {
                let known = self.direct.iter().enumerate().filter(|(_, known)| !known.wire.apart);
                self.by_connection.extend(known.map(|(at, known)| (known.inbox.connection(), at)));
            }
            *self.by_connection.entry(connection).or_insert(next)
        };
        match self.direct.get_mut(at) {
            None => {
                let (inbox, wire) = (Arc::clone(inbox), wire.clone());
                self.direct.push(Direct { inbox, consumer, wire, no_local });
            }
            Some(known) => {
                known.consumer = ConsumerId::SESSION;
                known.wire = known.wire.merged(wire);
                known.no_local &= no_local;
            }
        }
    }

    pub fn add_queue(&mut self, route: &mut Route, target: QueueTarget) {
        let (next, queue) = (route.queues.len(), Arc::as_ptr(&target.queue));
        let at = if target.is_apart() {
            next
        } else if next < TARGETS_FEW {
            let same = |known: &QueueTarget| Arc::as_ptr(&known.queue) == queue && !known.is_apart();
            route.queues.iter().position(same).unwrap_or(next)
        } else {
            if self.queue_at.is_empty() {
                let known = route.queues.iter().enumerate().filter(|(_, known)| !known.is_apart());
                self.queue_at.extend(known.map(|(at, known)| (Arc::as_ptr(&known.queue), at)));
            }
            *self.queue_at.entry(queue).or_insert(next)
        };
        match route.queues.get_mut(at) {
            None => route.queues.push(target),
            Some(known) => {
                known.no_local = known.no_local.filter(|_| target.no_local.is_some());
                known.wire = match (known.wire.take(), target.wire) {
                    (Some(one), Some(other)) => Some(Arc::new(one.merged(&other))),
                    // A binding without a subscription's terms takes everything.
                    _ => None,
                };
            }
        }
    }

    /// Sorts the direct targets into classes.
    pub fn finish(self, route: &mut Route) {
        for Direct { inbox, consumer, wire, no_local } in self.direct {
            if wire.as_message {
                route.objects.push(ObjectTarget { inbox, consumer, wire: Some(Arc::new(wire)), no_local });
                continue;
            }
            let class = route.classes.iter().position(|known| *known == wire).unwrap_or_else(|| {
                route.classes.push(wire);
                route.classes.len() - 1
            });
            route.direct.push(DirectTarget { inbox, class, no_local });
        }
        // Neighbours of one class read the same run.
        route.direct.sort_by_key(|target| target.class);
    }
}
