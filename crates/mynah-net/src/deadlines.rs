//! One timer for all connections.
//!
//! A connection registers its next deadline once and looks only when it fires whether the deadline has moved, so traffic costs
//! nothing here, and an idle connection owns no timer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub struct Deadlines {
    due: Mutex<BTreeMap<Key, Waker>>,
    numbers: AtomicU64,
    changed: Notify,
}

type Key = (Instant, u64);

/// A registration, to be given back with [`Deadlines::disarm`].
#[derive(Debug)]
#[must_use]
pub struct Armed(Key);

impl Armed {
    #[must_use]
    pub fn at(&self) -> Instant {
        self.0.0
    }
}

impl Deadlines {
    /// Wakes the task at that time.
    pub fn arm(&self, at: Instant, waker: &Waker) -> Armed {
        let key = (at, self.numbers.fetch_add(1, Ordering::Relaxed));
        let mut due = self.due.lock();
        let first = due.first_key_value().is_none_or(|((next, _), _)| at < *next);
        due.insert(key, waker.clone());
        drop(due);
        if first {
            self.changed.notify_one();
        }
        Armed(key)
    }

    /// The task need not be woken any more.
    pub fn disarm(&self, armed: &Armed) {
        let waker = self.due.lock().remove(&armed.0);
        // Dropping a waker may drop a task; not under the lock.
        drop(waker);
    }

    /// Wakes everybody who is registered, and leaves the registrations as they are.
    pub fn wake_all(&self) {
        let wakers: Vec<_> = self.due.lock().values().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Takes off the wakers that are due; answers also when the next one is.
    pub(crate) fn take_due(&self, now: Instant) -> (Vec<Waker>, Option<Instant>) {
        let mut due = self.due.lock();
        let mut wakers = Vec::new();
        while let Some(entry) = due.first_entry() {
            if entry.key().0 > now {
                return (wakers, Some(entry.key().0));
            }
            wakers.push(entry.remove());
        }
        (wakers, None)
    }

    /// Runs until its task is aborted; sleeps while nothing is due.
    pub async fn run(self: Arc<Self>) {
        loop {
            let (wakers, next) = self.take_due(Instant::now());
            wakers.into_iter().for_each(Waker::wake);
            match next {
                Some(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at.into()) => {}
                        () = self.changed.notified() => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }
}
