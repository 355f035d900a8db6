//! What is known about each connection, for operators.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use mynah_core::protocol::Peer;

use crate::inbox::Inbox;
use crate::metrics::ProtocolCounters;

#[derive(Debug)]
pub struct ConnectionInfo {
    pub peer: Arc<Peer>,
    pub since: Instant,
    pub inbox: Arc<Inbox>,
    pub counters: Arc<ProtocolCounters>,
    pub received: AtomicU64,
    pub delivered: AtomicU64,
    about: OnceLock<Box<About>>,
    user: OnceLock<Arc<str>>,
}

/// What the client said of itself when it opened.
#[derive(Debug, Clone)]
pub struct About {
    /// `MQTT 5.0`
    pub protocol: &'static str,
    pub client_id: Arc<str>,
    pub virtual_host: Arc<str>,
}

impl ConnectionInfo {
    #[must_use]
    pub fn new(
        peer: Arc<Peer>,
        inbox: Arc<Inbox>,
        counters: Arc<ProtocolCounters>,
        since: Instant,
    ) -> Arc<Self> {
        Arc::new(Self {
            peer,
            since,
            inbox,
            counters,
            received: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            about: OnceLock::new(),
            user: OnceLock::new(),
        })
    }

    #[must_use]
    pub fn number(&self) -> u64 {
        self.peer.connection
    }

    #[must_use]
    pub fn user(&self) -> Option<&Arc<str>> {
        self.user.get()
    }

    pub fn set_user(&self, user: Arc<str>) {
        self.user.get_or_init(|| user);
    }

    #[must_use]
    pub fn about(&self) -> Option<&About> {
        self.about.get().map(|about| &**about)
    }

    pub fn set_about(&self, about: About) {
        self.about.get_or_init(|| Box::new(about));
    }

    pub fn count(&self, received: u64, delivered: u64) {
        if received > 0 {
            self.received.fetch_add(received, Ordering::Relaxed);
        }
        if delivered > 0 {
            self.delivered.fetch_add(delivered, Ordering::Relaxed);
        }
    }
}
