//! Messages that are published later: held back until their time, then routed as if they came at that moment.
//!
//! A durable one is keyed state, safe before its confirm. When its time has come it is published first and forgotten then, so a
//! crash in between may bring it twice and never loses it. Its time to live begins when it is published.
//! Never: looks where it will go before its time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mynah_core::engine::{Reader, Space, decode_message, encode_message};
use mynah_core::protocol::{Refusal, RefusalKind, Reply, Ticket};
use mynah_core::{Message, PublishRef};
use parking_lot::Mutex;

use crate::batch::Batch;
use crate::durable::definitions::key;
use crate::host::Turn;
use crate::limits::{DELAYED_BYTES_MAX, DELAYED_MESSAGES_MAX};
use crate::timers::Due;
use crate::virtual_host::VirtualHost;

#[derive(Debug, Default)]
pub(crate) struct Delayed(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    by_number: HashMap<u64, Held>,
    bytes: usize,
}

#[derive(Debug)]
struct Held {
    message: Arc<Message>,
    kept: bool,
}

impl Waiting {
    fn insert(&mut self, number: u64, held: Held) {
        self.bytes += held.message.size();
        self.by_number.insert(number, held);
    }
}

impl Delayed {
    fn insert(&self, number: u64, held: Held) -> bool {
        let mut waiting = self.0.lock();
        let size = held.message.size();
        if waiting.by_number.len() >= DELAYED_MESSAGES_MAX || waiting.bytes + size > DELAYED_BYTES_MAX {
            return false;
        }
        waiting.insert(number, held);
        true
    }

    fn take(&self, number: u64) -> Option<Held> {
        let mut waiting = self.0.lock();
        let held = waiting.by_number.remove(&number)?;
        waiting.bytes = waiting.bytes.saturating_sub(held.message.size());
        Some(held)
    }
}

impl Turn<'_> {
    pub(crate) fn publish_later(&mut self, ticket: Option<Ticket>, publish: &PublishRef<'_>) {
        let host = Arc::clone(&self.host.host);
        // Replies come in the order of the requests.
        self.batch.flush(&host, self.now);
        let result = host.delay(self.batch, publish, self.now);
        if result.is_err() {
            self.batch.meter.refused += 1;
        }
        if let Some(ticket) = ticket {
            let reply = result.map_or_else(Reply::Refused, |()| Reply::Published { routed: 1 });
            self.batch.replies.push((ticket, reply));
        }
    }
}

impl VirtualHost {
    pub(crate) fn delay(
        &self,
        batch: &mut Batch,
        publish: &PublishRef<'_>,
        now: Instant,
    ) -> Result<(), Refusal> {
        let message = Arc::new(Message::from_publish(publish, now));
        let engine = &self.shared.engine;
        let kept = engine.lasting && message.header.durable();
        if kept && let Some(condition) = self.shared.trouble() {
            let text = format!("nothing can be made durable: {condition:?}");
            return Err(Refusal::new(RefusalKind::Unavailable, text));
        }
        let delay = Duration::from_millis(publish.delay_ms);
        let Some(at) = now.checked_add(delay) else {
            return Err(Refusal::new(RefusalKind::Conflict, "the delay is too long"));
        };
        let number = self.shared.next_queue().0;
        if !self.delayed.insert(number, Held { message: Arc::clone(&message), kept }) {
            return Err(Refusal::new(RefusalKind::Full, "too many messages are delayed already"));
        }
        batch.note_publish(publish.note);
        if kept {
            let mut value = engine.clock.epoch_ms(at).to_be_bytes().to_vec();
            encode_message(&mut value, &engine.clock, &message, None);
            let key = self.delayed_key(number);
            batch.write_with_notes(self, |records| records.put(Space::Delayed, &key, &value));
        } else {
            batch.write_with_notes(self, |_| {});
        }
        self.arm_delayed(number, at);
        Ok(())
    }

    fn delayed_key(&self, number: u64) -> Vec<u8> {
        key(&[&self.name, &number.to_string()])
    }

    fn arm_delayed(&self, number: u64, at: Instant) {
        self.shared.timers.add(at, Due::Delayed { host: Arc::clone(&self.name), number });
    }

    /// Its time has come.
    pub(crate) fn send_delayed(&self, batch: &mut Batch, number: u64, now: Instant) {
        let Some(held) = self.delayed.take(number) else { return };
        batch.publish(self, now, None, &held.message.as_publish());
        // Written before it is forgotten.
        batch.flush(self, now);
        if held.kept {
            let key = self.delayed_key(number);
            self.shared.write(|records| records.delete(Space::Delayed, &key));
        }
    }

    /// What an earlier life of the process has left. False if it cannot be read.
    pub(crate) fn restore_delayed(&self, number: &str, value: &[u8]) -> bool {
        let (Ok(number), Some((at_ms, rest))) = (number.parse(), value.split_first_chunk()) else {
            return false;
        };
        let engine = &self.shared.engine;
        let decoded = decode_message(&mut Reader::new(rest), &engine.clock, &self.shared.formats, None);
        let Ok(message) = decoded else { return false };
        self.delayed.0.lock().insert(number, Held { message: Arc::new(message), kept: true });
        self.arm_delayed(number, engine.clock.instant(i64::from_be_bytes(*at_ms)));
        true
    }
}
