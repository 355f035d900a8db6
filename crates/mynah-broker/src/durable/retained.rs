//! The last known good values of topics, as keyed state: the topic is the key, the stored message the value.
//!
//! A value that was published with a guarantee is written at once and safe before its confirm. One at most once promises nothing, and
//! sensors renew them all the time: its topic is noted, and what it has then is written a little later.
//!
//! Never: writes a value over a newer one.

use std::sync::Arc;
use std::time::Instant;

use mynah_core::engine::{Records, Space, encode_message};
use mynah_core::{Guarantee, Message, PublishRef};

use super::definitions::key;
use crate::limits::{RETAINED_WRITTEN_AFTER, RETAINED_WRITTEN_AT_ONCE, RETAINED_WRITTEN_PAUSE};
use crate::retained::Set;
use crate::sys;
use crate::timers::Due;
use crate::virtual_host::VirtualHost;

impl VirtualHost {
    /// A topic has a value, or with an empty body none any more. False if there are too many.
    pub(crate) fn set_retained(&self, topic: &str, publish: &PublishRef<'_>, now: Instant) -> bool {
        let lasting = self.shared.engine.lasting && !topic.starts_with(sys::PREFIX);
        if lasting && publish.header.guarantee == Guarantee::AtMostOnce {
            let renewed = self.retained.renew(topic, publish, now);
            let set = renewed.unwrap_or_else(|| {
                self.retained.set(topic, &Arc::new(Message::from_publish(publish, now)), true)
            });
            if set == Set::FirstToWrite {
                self.write_retained_at(now + RETAINED_WRITTEN_AFTER);
            }
            return set != Set::Full;
        }
        let message = &Arc::new(Message::from_publish(publish, now));
        if !lasting {
            return self.retained.set(topic, message, false) != Set::Full;
        }
        let _in_order = self.retained.in_order();
        if self.retained.set(topic, message, false) == Set::Full {
            return false;
        }
        let over = self.retained.take_over();
        self.shared.write(|records| {
            // Before the topic's new value, if it is one of them.
            self.forget(records, &over);
            self.put_retained(records, topic, Some(message).filter(|message| !message.body.is_empty()));
            records.demand_sync();
        });
        true
    }

    fn write_retained_at(&self, at: Instant) {
        self.shared.timers.add(at, Due::Retained { host: Arc::clone(&self.name) });
    }

    /// Writes a part of what was only noted so far; the next part has its turn a little later.
    pub(crate) fn write_some_retained(&self, now: Instant) {
        if self.write_retained() {
            self.write_retained_at(now + RETAINED_WRITTEN_PAUSE);
        }
    }

    /// Writes some of what was only noted so far; true if there is more.
    pub(crate) fn write_retained(&self) -> bool {
        let (topics, more) = self.retained.take_unwritten(RETAINED_WRITTEN_AT_ONCE);
        let _in_order = self.retained.in_order();
        let over = self.retained.take_over();
        let values = self.retained.begin_writing(&topics);
        self.shared.write(|records| {
            self.forget(records, &over);
            for (topic, message) in values {
                self.put_retained(records, topic, message.as_ref());
            }
        });
        more
    }

    fn forget(&self, records: &mut Records, topics: &[String]) {
        for topic in topics {
            records.delete(Space::Retained, &key(&[&self.name, topic]));
        }
    }

    fn put_retained(&self, records: &mut Records, topic: &str, message: Option<&Arc<Message>>) {
        let key = key(&[&self.name, topic]);
        let Some(message) = message else { return records.delete(Space::Retained, &key) };
        let mut value = Vec::with_capacity(message.size() + 64);
        encode_message(&mut value, &self.shared.engine.clock, message, None);
        records.put(Space::Retained, &key, &value);
    }
}
