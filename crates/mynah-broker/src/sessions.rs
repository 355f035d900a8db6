//! Clients whose identifier is exclusive: who is connected under it, what they left behind, who waits to take over.
//!
//! A session without a durable part costs one entry here. A durable one has a queue, and its subscriptions stay in
//! the routing table while it is away.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mynah_core::protocol::{Expiry, Notice, Refusal, RefusalKind, Reply, SessionTerms, Ticket, Will};
use mynah_core::{ConsumerId, Filter, Wire};
use parking_lot::{Mutex, MutexGuard};

use crate::inbox::Inbox;
use crate::queues::QueueHandle;
use crate::timers::TimerKey;

#[derive(Debug)]
pub struct Client {
    pub id: Arc<str>,
    state: Mutex<ClientState>,
}

#[derive(Debug, Default)]
pub struct ClientState {
    /// Whoever is connected under this identifier.
    pub online: Option<Arc<Inbox>>,
    /// Whoever waits for it to go.
    pub pending: Option<Box<PendingOpen>>,
    pub session: Option<Box<Session>>,
    /// A will that waits for its delay.
    pub will: Option<Box<Will>>,
    times: Option<Box<Times>>,
    /// It was taken off the register; look it up again.
    pub gone: bool,
}

/// What is to happen to a client that is not connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// When the will is due.
    pub will_at: Option<Instant>,
    /// When the session ends.
    pub ends_at: Option<Instant>,
    /// Set for the earlier of the two.
    pub timer: Option<TimerKey>,
}

impl ClientState {
    #[must_use]
    pub fn times(&self) -> Times {
        self.times.as_deref().copied().unwrap_or_default()
    }

    /// Changes them; who is connected has none, and no room for them.
    pub fn set_times(&mut self, change: impl FnOnce(&mut Times)) {
        let mut times = self.times();
        change(&mut times);
        self.times = (times != Times::default()).then(|| Box::new(times));
    }
}

#[derive(Debug)]
pub struct PendingOpen {
    pub inbox: Arc<Inbox>,
    pub ticket: Ticket,
    pub terms: SessionTerms,
    /// To be written down when it has the session.
    pub will: Option<Box<Will>>,
}

/// What is kept while the client is away.
#[derive(Debug)]
pub struct Session {
    pub queue: Arc<QueueHandle>,
    pub subscriptions: HashMap<ConsumerId, SessionSubscription>,
    /// Queues of the groups it is a member of, which stay while it is away.
    pub groups: Vec<(ConsumerId, Arc<QueueHandle>)>,
    pub parked: Option<Bytes>,
    /// What the protocol noted and was to know in an earlier life of the process; until something is parked.
    pub notes: Vec<(u32, Bytes)>,
    pub memos: Vec<(ConsumerId, Bytes)>,
    /// The subscriptions that are on disk.
    pub kept: HashSet<ConsumerId>,
    pub expiry: Expiry,
}

#[derive(Debug, Clone)]
pub struct SessionSubscription {
    pub filter: Filter,
    pub wire: Arc<Wire>,
    pub no_local: bool,
}

impl Client {
    #[must_use]
    pub fn new(id: Arc<str>) -> Arc<Self> {
        Arc::new(Self { id, state: Mutex::default() })
    }

    pub fn lock(&self) -> MutexGuard<'_, ClientState> {
        self.state.lock()
    }

    /// How a message gets to it without a subscription: its session's queue, or the inbox of its connection.
    #[must_use]
    pub fn reach(&self) -> (Option<Arc<QueueHandle>>, Option<Arc<Inbox>>) {
        let state = self.lock();
        (state.session.as_ref().map(|session| Arc::clone(&session.queue)), state.online.clone())
    }
}

impl ClientState {
    /// Asks whoever is connected to go, for somebody who waits; who waited before is refused.
    pub fn wait_for_turn(&mut self, pending: PendingOpen) -> Vec<Arc<Inbox>> {
        let mut wake = Vec::new();
        if let Some(earlier) = self.pending.replace(Box::new(pending)) {
            let text = "another connection opens under this client identifier, later than this one";
            let refused = Reply::Refused(Refusal::new(RefusalKind::Unavailable, text));
            if earlier.inbox.push_reply(earlier.ticket, refused).wake {
                wake.push(earlier.inbox);
            }
        } else if let Some(online) =
            self.online.as_ref().filter(|online| online.push_notice(Notice::TakenOver).wake)
        {
            wake.push(Arc::clone(online));
        }
        wake
    }
}
