//! What is due later: delayed wills, sessions and messages that expire, queues nobody uses.
//!
//! One task sleeps until the next is due; with nothing due it sleeps for good. Whoever is called looks whether it is still
//! true, for cancelling may come too late; entries that would wait for long are cancelled, so that they do not pile up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::broker::Broker;
use crate::limits::TIMERS_AT_ONCE;
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
    /// A delayed message.
    Delayed { host: Arc<str>, number: u64 },
    /// Retained messages wait to be written down.
    Retained { host: Arc<str> },
    /// The values under `$SYS` are to be renewed.
    System,
    /// A client's will or session.
    Client { host: Arc<str>, client: Weak<Client> },
}

/// Names an entry, to cancel it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerKey(Instant, u64);

impl Timers {
    pub fn add(&self, at: Instant, due: Due) -> TimerKey {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let mut waiting = self.due.lock();
        let first = waiting.first_key_value().is_none_or(|((next, _), _)| at < *next);
        waiting.insert((at, number), due);
        drop(waiting);
        if first {
            self.changed.notify_one();
        }
        TimerKey(at, number)
    }

    pub fn cancel(&self, key: TimerKey) {
        self.due.lock().remove(&(key.0, key.1));
    }

    /// How many entries wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.due.lock().len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Has the task look again, e.g. whether the broker is still there.
    pub(crate) fn nudge(&self) {
        self.changed.notify_one();
    }

    /// For when the queue's next message expires.
    pub fn add_messages(&self, at: Instant, host: &VirtualHost, queue: &Arc<QueueHandle>) {
        self.add(at, Due::Messages(Arc::clone(&host.name), Arc::downgrade(queue)));
    }

    pub fn queue_unused(&self, at: Instant, host: &VirtualHost, queue: &Arc<QueueHandle>) -> TimerKey {
        self.add(at, Due::Unused(Arc::clone(&host.name), Arc::downgrade(queue)))
    }

    /// What is due, at most `TIMERS_AT_ONCE`, and otherwise when the next is.
    pub(crate) fn take_due(&self, now: Instant) -> (Vec<Due>, Option<Instant>) {
        let mut waiting = self.due.lock();
        let mut due = Vec::new();
        while let Some(entry) = waiting.first_entry() {
            if entry.key().0 > now || due.len() == TIMERS_AT_ONCE {
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
            let now = Instant::now();
            let (due, next) = shared.timers.take_due(now);
            if !due.is_empty() {
                alive.on_due(due, now);
                drop(alive);
                // There may be very many, and others wait for this thread.
                tokio::task::yield_now().await;
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
