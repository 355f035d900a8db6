//! The last known good values of topics, as keyed state: the topic is the key, the stored message the value.
//!
//! A value that was published with a guarantee is safe before its confirm; one at most once is safe in time.
//!
//! Never: reads the store of values.

use mynah_core::engine::{Space, encode_message};
use mynah_core::{Guarantee, Message};

use super::definitions::key;
use crate::sys;
use crate::virtual_host::VirtualHost;

impl VirtualHost {
    /// A topic has a value, or with an empty body none any more.
    pub(crate) fn keep_retained(&self, topic: &str, message: &Message) {
        if !self.shared.engine.lasting || topic.starts_with(sys::PREFIX) {
            return;
        }
        let over = self.retained.take_over();
        self.shared.write(|records| {
            // Before the topic's new value, if it is one of them.
            for topic in &over {
                records.delete(Space::Retained, &key(&[&self.name, topic]));
            }
            let key = key(&[&self.name, topic]);
            if message.body.is_empty() {
                records.delete(Space::Retained, &key);
            } else {
                let mut value = Vec::with_capacity(message.size() + 64);
                encode_message(&mut value, &self.shared.engine.clock, message, None);
                records.put(Space::Retained, &key, &value);
            }
            if message.header.guarantee != Guarantee::AtMostOnce {
                records.demand_sync();
            }
        });
    }
}
