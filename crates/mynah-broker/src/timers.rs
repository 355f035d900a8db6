//! What is due later: delayed wills, sessions and messages that expire, queues nobody uses.
//!
//! One task sleeps until the next is due; with nothing due it sleeps for good. Entries are not cancelled: whoever is called
//! looks whether it is still true.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::broker::Broker;
use crate::queues::QueueHandle;
use crate::sessions::Client;
use crate::virtual_host::VirtualHost;

#[derive(Debug, Default)]
pub struct Timers {
    due: Mutex<BTreeMap<(Instant, u64), Due>>,
    number: AtomicU64,
    changed: Notify,
}

#[derive(Debug)]
pub enum Due {
    /// Messages of a queue reach the end of their time.
    Messages(Arc<str>, Weak<QueueHandle>),
    /// A queue may have been unused for long enough.
    Unused(Arc<str>, Weak<QueueHandle>),
    /// A client's will or session; the number tells whether it connected in between.
    Client { host: Arc<str>, client: Weak<Client>, absence: u64 },
}

impl Timers {
    pub fn add(&self, at: Instant, due: Due) {
        let mut waiting = self.due.lock();
        let first = waiting.first_key_value().is_none_or(|((next, _), _)| at < *next);
        waiting.insert((at, self.number.fetch_add(1, Ordering::Relaxed)), due);
        drop(waiting);
        if first {
            self.changed.notify_one();
        }
    }

    /// For when the queue's next message expires.
    pub fn add_messages(&self, at: Instant, host: &VirtualHost, queue: &Arc<QueueHandle>) {
        self.add(at, Due::Messages(Arc::clone(&host.name), Arc::downgrade(queue)));
    }

    pub fn queue_unused(&self, at: Instant, host: &VirtualHost, queue: &Arc<QueueHandle>) {
        self.add(at, Due::Unused(Arc::clone(&host.name), Arc::downgrade(queue)));
    }

    fn take_due(&self, now: Instant) -> (Vec<Due>, Option<Instant>) {
        let mut waiting = self.due.lock();
        let mut due = Vec::new();
        while let Some(entry) = waiting.first_entry() {
            if entry.key().0 > now {
                return (due, Some(entry.key().0));
            }
            due.push(entry.remove());
        }
        (due, None)
    }

    /// Runs until the broker is gone.
    pub(crate) async fn run(broker: Weak<Broker>) {
        loop {
            let Some(alive) = broker.upgrade() else { return };
            let shared = Arc::clone(&alive.shared);
            let (due, next) = shared.timers.take_due(Instant::now());
            if !due.is_empty() {
                alive.on_due(due, Instant::now());
                continue;
            }
            drop(alive);
            match next {
                Some(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at.into()) => {}
                        () = shared.timers.changed.notified() => {}
                    }
                }
                None => shared.timers.changed.notified().await,
            }
        }
    }
}
