//! One queue at run time: the pure machine behind its lock, and what the broker knows about it.
//!
//! What the machine hands over is appended to the consumers' inboxes while the queue's lock is held, because two
//! tasks that dispatch one after the other must append in that order. An inbox's lock is a leaf: nobody holds it and
//! asks for a queue (docs/adr/0002-inbox-under-queue-lock.md). Whoever lets go of a queue writes down first what has happened to
//! messages that are kept on disk.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use mynah_core::engine::QueueNumber;
use mynah_core::protocol::{Notice, Refusal};
use mynah_core::queue::{ConsumerKey, ConsumerTerms, Effect, Queue, QueueDefaults, QueueSpec};
use mynah_core::{Delivery, DeliveryTag, Filter, Outcome};
use parking_lot::{Mutex, MutexGuard};

use crate::broker::Shared;
use crate::inbox::Inbox;
use crate::limits::QUEUE_MEMORY_MAX;
use crate::rules::Identity;
use crate::timers::{Due, TimerKey};

/// The machine with the inboxes of its consumers.
pub type Machine = Queue<Arc<Inbox>>;

/// Why a queue exists, which decides what becomes of it and of its dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueKind {
    /// Declared or created by use; dead letters go to `<name>.dlq` unless told otherwise.
    Plain,
    /// A named durable subscription; as `Plain`.
    Durable,
    /// Of one consumer's subscription; deleted with it.
    Temporary,
    /// A client's durable session.
    Session,
    /// A group that shares a subscription; deleted with its last member, a durable session being one while it lasts.
    Shared,
}

impl QueueKind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Plain, Self::Durable, Self::Temporary, Self::Session, Self::Shared];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "queue",
            Self::Durable => "durable-subscription",
            Self::Temporary => "temporary",
            Self::Session => "session",
            Self::Shared => "shared-subscription",
        }
    }
}

/// Where a queue belongs: so that it can set its own timer.
#[derive(Debug, Clone)]
pub struct Home {
    /// The virtual host's name.
    pub host: Arc<str>,
    pub shared: Arc<Shared>,
}

#[derive(Debug)]
pub struct QueueHandle {
    pub name: Arc<str>,
    pub kind: QueueKind,
    /// The connection it is exclusive to.
    pub owner: Option<u64>,
    /// Its name on disk.
    pub number: QueueNumber,
    /// Its definition and its durable messages outlive the process.
    kept: AtomicBool,
    home: Home,
    guarded: Mutex<Guarded>,
    deleted: AtomicBool,
    /// Topic filters that lead here, so that deleting it need not search for them.
    filters: Mutex<Vec<Filter>>,
    pub(crate) gate: Gate,
    /// Whose subscription it holds; set if there are rules about that.
    reader: Mutex<Option<Arc<Identity>>>,
    in_exchanges: AtomicBool,
    /// What this connection publishes does not come here through exchanges; 0 = nobody's is left out.
    left_out: AtomicU64,
    pub published: AtomicU64,
    pub delivered: AtomicU64,
    pub settled: AtomicU64,
    pub dead_lettered: AtomicU64,
}

#[derive(Debug)]
pub struct Guarded {
    pub machine: Machine,
    /// For when the timer is set.
    pub armed: Option<Instant>,
    /// Since when it has no consumer, for `expires`.
    pub unused_since: Instant,
    /// The timer for `expires`.
    pub unused_timer: Option<TimerKey>,
    /// The policy in force, by its name.
    pub policy: Option<Arc<str>>,
    /// Durable sessions that are members of this group, connected or not.
    pub members: u32,
    /// The pager has been told that it has too much in memory.
    pub paging: bool,
    /// Bytes in memory from which on it is to be told.
    pub page_at: u64,
    /// Bytes in memory that it may have, when last looked at.
    pub bound: u64,
    /// What of the machine's memory is in the sum of all queues.
    pub counted: u64,
}

/// Closed while the disk does not keep up with a queue: its publishers wait.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    closed: AtomicBool,
    waiting: Mutex<Vec<Weak<Inbox>>>,
}

impl Gate {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn open(&self) {
        if self.closed.swap(false, Ordering::AcqRel) {
            let waiting = std::mem::take(&mut *self.waiting.lock());
            waiting.iter().filter_map(Weak::upgrade).for_each(|publisher| publisher.nudge());
        }
    }

    /// Whether a publisher has to wait; if so it is woken when it need not any more.
    pub(crate) fn wait(&self, publisher: &Arc<Inbox>) -> bool {
        let mut waiting = self.waiting.lock();
        if !self.is_closed() {
            return false;
        }
        let me = Arc::as_ptr(publisher);
        if !waiting.iter().any(|known| known.as_ptr() == me) {
            waiting.push(Arc::downgrade(publisher));
        }
        true
    }
}

impl Guarded {
    /// Nobody consumes, and no session will come back to.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.machine.consumers() == 0 && self.members == 0
    }

    /// When the timer for messages that expire is to be set, if it is not set for early enough.
    pub fn arm(&mut self) -> Option<Instant> {
        let at = self.machine.next_expiry()?;
        if self.armed.is_some_and(|armed| armed <= at) {
            return None;
        }
        self.armed = Some(at);
        Some(at)
    }
}

impl QueueHandle {
    #[must_use]
    pub fn new(
        name: Arc<str>,
        kind: QueueKind,
        owner: Option<u64>,
        home: Home,
        spec: Arc<QueueSpec>,
        defaults: QueueDefaults,
        now: Instant,
    ) -> Arc<Self> {
        let number = home.shared.next_queue();
        Self::with_number(number, name, kind, owner, home, spec, defaults, now)
    }

    /// As it was called before the process began.
    #[expect(clippy::too_many_arguments, reason = "what a queue is")]
    pub(crate) fn with_number(
        number: QueueNumber,
        name: Arc<str>,
        kind: QueueKind,
        owner: Option<u64>,
        home: Home,
        spec: Arc<QueueSpec>,
        defaults: QueueDefaults,
        now: Instant,
    ) -> Arc<Self> {
        let mut machine = Queue::new(spec, defaults);
        // Tags of an earlier life are never given again.
        machine.begin_behind(home.shared.first_tag());
        let guarded = Guarded {
            machine,
            armed: None,
            unused_since: now,
            unused_timer: None,
            policy: None,
            members: 0,
            paging: false,
            page_at: QUEUE_MEMORY_MAX,
            bound: QUEUE_MEMORY_MAX,
            counted: 0,
        };
        Arc::new(Self {
            name,
            kind,
            owner,
            number,
            kept: AtomicBool::new(false),
            home,
            guarded: Mutex::new(guarded),
            deleted: AtomicBool::new(false),
            filters: Mutex::default(),
            gate: Gate::default(),
            reader: Mutex::default(),
            in_exchanges: AtomicBool::new(false),
            left_out: AtomicU64::new(0),
            published: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            dead_lettered: AtomicU64::new(0),
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, Guarded> {
        self.guarded.lock()
    }

    /// True for the one caller that is to delete it. Call it with the queue locked: who locks it afterwards sees it.
    pub(crate) fn mark_deleted(&self) -> bool {
        !self.deleted.swap(true, Ordering::AcqRel)
    }

    /// Call it with the routing table locked for writing, as all that changes bindings.
    pub(crate) fn note_filter(&self, filter: &Filter) {
        self.filters.lock().push(filter.clone());
    }

    /// False if no such filter leads here.
    pub(crate) fn forget_filter(&self, filter: &Filter) -> bool {
        let mut filters = self.filters.lock();
        let at = filters.iter().position(|known| known == filter);
        at.map(|at| filters.swap_remove(at)).is_some()
    }

    pub(crate) fn has_filter(&self, filter: &Filter) -> bool {
        self.filters.lock().contains(filter)
    }

    /// Call it before binding.
    pub(crate) fn leave_out(&self, connection: u64) {
        self.left_out.store(connection, Ordering::Relaxed);
    }

    pub(crate) fn left_out(&self) -> Option<u64> {
        Some(self.left_out.load(Ordering::Relaxed)).filter(|connection| *connection != 0)
    }

    pub(crate) fn note_exchange(&self) {
        self.in_exchanges.store(true, Ordering::Relaxed);
    }

    /// The filters that lead here, and whether exchanges do; forgotten.
    pub(crate) fn take_bindings(&self) -> (Vec<Filter>, bool) {
        (std::mem::take(&mut self.filters.lock()), self.in_exchanges.swap(false, Ordering::Relaxed))
    }

    #[must_use]
    pub fn filters(&self) -> Vec<Filter> {
        self.filters.lock().clone()
    }

    /// Whether a message for which there is no room is a slow subscriber's loss and not a dead letter.
    #[must_use]
    pub(crate) fn loses_what_does_not_fit(&self) -> bool {
        let of_subscription =
            matches!(self.kind, QueueKind::Session | QueueKind::Temporary | QueueKind::Shared);
        of_subscription && self.spec().dead_letter_exchange.is_none()
    }

    /// Whose subscription it holds, from now on. True if it was somebody else's: routes that lead here are void then.
    #[must_use]
    pub(crate) fn set_reader(&self, reader: &Arc<Identity>) -> bool {
        let mut known = self.reader.lock();
        if known.as_ref() == Some(reader) {
            return false;
        }
        known.replace(Arc::clone(reader)).is_some()
    }

    #[must_use]
    pub(crate) fn reader(&self) -> Option<Arc<Identity>> {
        self.reader.lock().clone()
    }

    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Whether a consumer is attached here or has something to settle.
    #[must_use]
    pub fn knows(&self, key: ConsumerKey) -> bool {
        self.lock().machine.knows(key)
    }

    #[must_use]
    pub fn spec(&self) -> Arc<QueueSpec> {
        Arc::clone(self.lock().machine.spec())
    }

    /// Runs `change` on the machine and hands over what consumers with credit can take afterwards.
    pub fn update<R>(
        self: &Arc<Self>,
        now: Instant,
        touched: &mut Vec<Arc<Inbox>>,
        effects: &mut Vec<Effect>,
        change: impl FnOnce(&mut Machine, &mut Vec<Effect>) -> R,
    ) -> R {
        let mut guarded = self.lock();
        let result = change(&mut guarded.machine, effects);
        self.dispatch(&mut guarded.machine, now, touched, effects);
        self.unlock(guarded);
        result
    }

    /// Lets go of the queue: writes down what has happened, and sees to it that what became ready expires by itself and that
    /// memory is kept in bounds.
    pub fn unlock(self: &Arc<Self>, mut guarded: MutexGuard<'_, Guarded>) {
        if guarded.machine.has_news() {
            self.home.shared.write(|records| {
                guarded.machine.tell(self.number, records);
            });
        }
        let due = guarded.arm();
        self.home.shared.pager.look_after(self, &mut guarded, &self.home.shared);
        drop(guarded);
        if let Some(at) = due {
            let due = Due::Messages(Arc::clone(&self.home.host), Arc::downgrade(self));
            self.home.shared.timers.add(at, due);
        }
    }

    /// Removes the ready messages; answers how many.
    pub fn purge(self: &Arc<Self>) -> u64 {
        let mut guarded = self.lock();
        let removed = guarded.machine.purge();
        self.unlock(guarded);
        removed
    }

    /// Whether its durable messages are kept on disk.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Acquire)
    }

    /// From now on they are. Call it with the queue locked, or before anybody knows it.
    pub(crate) fn keep(&self, guarded: &mut Guarded) {
        guarded.machine.keep_facts();
        self.kept.store(true, Ordering::Release);
    }

    #[must_use]
    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// Hands over what consumers with credit can take.
    pub fn dispatch(
        &self,
        machine: &mut Machine,
        now: Instant,
        touched: &mut Vec<Arc<Inbox>>,
        effects: &mut Vec<Effect>,
    ) {
        let mut delivered = 0;
        machine.dispatch(now, effects, |inbox, deliveries: &mut Vec<Delivery>| {
            delivered += deliveries.len() as u64;
            if inbox.push_deliveries(deliveries).wake {
                touched.push(Arc::clone(inbox));
            }
        });
        if delivered > 0 {
            self.delivered.fetch_add(delivered, Ordering::Relaxed);
        }
        if !effects.is_empty() {
            // Behind the last deliveries.
            effects.retain(|effect| {
                let Effect::Drained { consumer } = effect else { return true };
                if let Some(inbox) = machine.sink(*consumer)
                    && inbox.push_notice(Notice::Drained { consumer: consumer.consumer }).wake
                {
                    touched.push(Arc::clone(inbox));
                }
                false
            });
        }
    }

    /// False if the queue was deleted meanwhile: look it up again.
    ///
    /// # Errors
    /// The queue has an exclusive consumer, or one is asked for and there are others.
    pub fn attach(
        self: &Arc<Self>,
        now: Instant,
        key: ConsumerKey,
        inbox: &Arc<Inbox>,
        terms: ConsumerTerms,
        touched: &mut Vec<Arc<Inbox>>,
        effects: &mut Vec<Effect>,
    ) -> Result<bool, Refusal> {
        self.update(now, touched, effects, |machine, _| {
            if self.is_deleted() {
                return Ok(false);
            }
            machine.attach(key, Arc::clone(inbox), terms).map(|()| true)
        })
    }

    pub fn settle(
        self: &Arc<Self>,
        now: Instant,
        key: ConsumerKey,
        tags: &[DeliveryTag],
        outcome: &Outcome,
        touched: &mut Vec<Arc<Inbox>>,
        effects: &mut Vec<Effect>,
    ) {
        let settled = self.update(now, touched, effects, |machine, effects| {
            machine.settle(now, key, tags, outcome, effects)
        });
        if *outcome == Outcome::Accepted {
            self.settled.fetch_add(settled as u64, Ordering::Relaxed);
        }
    }

    /// Ends a consumer. Answers how many consumers are left.
    pub fn detach(
        self: &Arc<Self>,
        now: Instant,
        key: ConsumerKey,
        keep_unsettled: bool,
        failed: bool,
        touched: &mut Vec<Arc<Inbox>>,
        effects: &mut Vec<Effect>,
    ) -> u32 {
        let mut guarded = self.lock();
        guarded.machine.detach(now, key, keep_unsettled, failed, effects);
        self.dispatch(&mut guarded.machine, now, touched, effects);
        let left = guarded.machine.consumers();
        if left == 0 {
            guarded.unused_since = now;
        }
        self.unlock(guarded);
        left
    }
}
