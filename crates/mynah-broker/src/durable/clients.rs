//! Durable sessions as keyed state: the session with its times and its will, and each of its subscriptions.
//!
//! Their messages, and what the protocol notes, are in the log with the session's queue. While a client is connected its session
//! is kept as of somebody who is there: after a crash its time begins with the start of the next process, and so does the
//! delay of its will [MQTT-3.1.2-8: the server's failure is no good-bye].
//!
//! Never: decides how long a session lives.

use std::sync::Arc;
use std::time::Duration;

use mynah_core::engine::{Formats, Reader, Space, decode_wire, encode_message, encode_wire};
use mynah_core::protocol::{Expiry, From, Holder, Source, Will};
use mynah_core::{ConsumerId, Wire};
use serde::{Deserialize, Serialize};

use super::definitions::{hex, json, key};
use crate::host::Turn;
use crate::host::session::SESSION_PREFIX;
use crate::sessions::{ClientState, Session};
use crate::virtual_host::VirtualHost;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredSession {
    /// Absent: it never ends by itself.
    #[serde(default)]
    expiry_ms: Option<u64>,
    /// Absent while the client is connected, or if it never ends.
    #[serde(default)]
    pub(crate) ends_at_ms: Option<i64>,
    #[serde(default)]
    pub(crate) will: Option<StoredWill>,
    /// Whose it is, if there were rules about that.
    #[serde(default)]
    pub(crate) user: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredWill {
    message: String,
    delay_ms: u64,
    #[serde(default)]
    held_back_ms: u64,
    /// Absent while the client is connected.
    #[serde(default)]
    pub(crate) at_ms: Option<i64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct StoredSubscription {
    /// Of the session's own subscriptions.
    #[serde(default)]
    pub(crate) filter: Option<String>,
    #[serde(default)]
    wire: String,
    #[serde(default)]
    pub(crate) no_local: bool,
    /// The group's queue, of a shared one.
    #[serde(default)]
    pub(crate) group: Option<String>,
    #[serde(default)]
    memo: String,
}

impl StoredSession {
    pub(crate) fn expiry(&self) -> Expiry {
        self.expiry_ms.map_or(Expiry::Never, |ms| Expiry::After(Duration::from_millis(ms)))
    }
}

impl StoredWill {
    pub(crate) fn message(&self) -> Option<Vec<u8>> {
        hex::decode(&self.message)
    }

    pub(crate) fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms)
    }

    pub(crate) fn held_back(&self) -> Duration {
        Duration::from_millis(self.held_back_ms)
    }
}

impl StoredSubscription {
    pub(crate) fn memo(&self) -> Option<Vec<u8>> {
        hex::decode(&self.memo)
    }

    /// `None` if no protocol knows it any more.
    pub(crate) fn wire(&self, formats: &Formats) -> Option<Arc<Wire>> {
        let bytes = hex::decode(&self.wire)?;
        decode_wire(&mut Reader::new(&bytes), formats).ok().flatten().map(Arc::new)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The client whose session a queue holds.
pub(crate) fn client_of(queue: &str) -> Option<&str> {
    queue.strip_prefix(SESSION_PREFIX)
}

impl VirtualHost {
    /// Writes down how it is with a client's session. `connected` is the will of whoever is connected.
    pub(crate) fn keep_session(&self, id: &str, state: &ClientState, connected: Option<&Will>) {
        let Some(session) = state.session.as_deref().filter(|session| session.queue.is_kept()) else {
            return;
        };
        let clock = &self.shared.engine.clock;
        let stored_will = |will: &Will, at| {
            let mut message = Vec::new();
            encode_message(&mut message, clock, &will.message, None);
            StoredWill {
                message: hex::encode(&message),
                delay_ms: millis(will.delay),
                held_back_ms: millis(will.held_back),
                at_ms: at,
            }
        };
        let waiting = state
            .will
            .as_deref()
            .map(|will| stored_will(will, Some(clock.epoch_ms(state.times().will_at.unwrap_or(clock.at)))));
        let stored = StoredSession {
            expiry_ms: match session.expiry {
                Expiry::AtEnd => Some(0),
                Expiry::After(after) => Some(millis(after)),
                Expiry::Never => None,
            },
            ends_at_ms: state.times().ends_at.map(|at| clock.epoch_ms(at)),
            user: session.queue.reader().map(|reader| reader.user.to_string()),
            will: waiting.or_else(|| connected.map(|will| stored_will(will, None))),
        };
        self.shared.write_safely(|records| {
            records.put(Space::Session, &key(&[&self.name, id]), &json(&stored));
        });
    }

    /// A session ends. Its queue is deleted by itself.
    pub(crate) fn drop_session(&self, session: &Session) {
        let Some(id) = client_of(&session.queue.name).filter(|_| session.queue.is_kept()) else { return };
        self.shared.write_safely(|records| {
            records.delete(Space::Session, &key(&[&self.name, id]));
            for consumer in &session.kept {
                records.delete(Space::Subscription, &self.subscription_key(id, *consumer));
            }
        });
    }

    fn subscription_key(&self, id: &str, consumer: ConsumerId) -> Vec<u8> {
        key(&[&self.name, id, &consumer.0.to_string()])
    }
}

impl Turn<'_> {
    /// A subscription of a durable session is written down; what does not belong to the session is not.
    pub(crate) fn keep_subscription(&mut self, id: ConsumerId, source: &Source<'_>) {
        let Some(client) = self.host.client() else { return };
        let mut state = client.lock();
        let Some(session) = state.session.as_deref_mut().filter(|session| session.queue.is_kept()) else {
            return;
        };
        let mut stored = StoredSubscription {
            memo: hex::encode(source.memo.unwrap_or_default()),
            no_local: source.no_local,
            ..StoredSubscription::default()
        };
        match &source.from {
            From::Topic { filter, holder: Holder::Session } => {
                let mut wire = Vec::new();
                if let Some(known) = &source.wire {
                    encode_wire(&mut wire, known);
                }
                stored.filter = Some(filter.to_string());
                stored.wire = hex::encode(&wire);
            }
            From::Shared { group, filter } => stored.group = Some(format!("$share/{group}/{filter}")),
            // Nothing but what the protocol wants to know of it.
            _ if source.memo.is_some() => {}
            From::Topic { .. } | From::Queue { .. } | From::Exchange { .. } => return,
        }
        session.kept.insert(id);
        session.memos.retain(|(known, _)| *known != id);
        let host = Arc::clone(&self.host.host);
        let key = host.subscription_key(&client.id, id);
        host.shared.write_safely(|records| records.put(Space::Subscription, &key, &json(&stored)));
    }

    /// A subscription of a durable session has ended.
    pub(crate) fn drop_subscription(&mut self, id: ConsumerId) {
        let Some(client) = self.host.client() else { return };
        let mut state = client.lock();
        let Some(session) = state.session.as_deref_mut() else { return };
        if session.kept.remove(&id) {
            session.memos.retain(|(known, _)| *known != id);
            let host = Arc::clone(&self.host.host);
            let key = host.subscription_key(&client.id, id);
            host.shared.write_safely(|records| records.delete(Space::Subscription, &key));
        }
    }
}
