//! Queues, exchanges and bindings as keyed state: what is declared durable is there again after a restart.
//!
//! A key is the names it is about, each behind its length. A value is JSON, so that a later version can add to it; what it does
//! not know is ignored, what is missing has its default. A binding names the queue's number: one to a queue that was deleted
//! and made again under the same name is void, and is taken out at the next start.
//!
//! Never: reads the tables of the broker; it is told.

use std::sync::Arc;
use std::time::Duration;

use mynah_core::Filter;
use mynah_core::engine::{
    QueueNumber, Reader, Space, decode_arguments, encode_arguments, put_bytes, put_text,
};
use mynah_core::exchange::{Arguments, ExchangeKind, ExchangeSpec};
use mynah_core::queue::{Overflow, QueueSpec};
use serde::{Deserialize, Serialize};

use crate::queues::{Guarded, QueueHandle, QueueKind};
use crate::routing::BindingTarget;
use crate::virtual_host::VirtualHost;

/// A key of names.
pub(crate) fn key(parts: &[&str]) -> Vec<u8> {
    let mut key = Vec::new();
    parts.iter().for_each(|part| put_text(&mut key, part));
    key
}

/// The names of a key; `None` if it is no such key.
pub(crate) fn parts(key: &[u8]) -> Option<Vec<String>> {
    let mut reader = Reader::new(key);
    let mut parts = Vec::new();
    while !reader.is_empty() {
        parts.push(reader.text().ok()?.to_owned());
    }
    Some(parts)
}

/// Bytes in a JSON value.
pub(crate) mod hex {
    use std::fmt::Write;

    pub(crate) fn encode(bytes: &[u8]) -> String {
        bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
        let digits = text.as_bytes();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect::<Option<Vec<u8>>>()
            .filter(|_| digits.len().is_multiple_of(2))
    }
}

fn arguments_text(arguments: &Arguments) -> String {
    let mut bytes = Vec::new();
    if !arguments.is_empty() {
        encode_arguments(&mut bytes, arguments);
    }
    hex::encode(&bytes)
}

fn arguments_of(text: &str) -> Arguments {
    let bytes = hex::decode(text).unwrap_or_default();
    if bytes.is_empty() {
        return Arguments::new();
    }
    decode_arguments(&mut Reader::new(&bytes)).unwrap_or_default()
}

fn millis(duration: Option<Duration>) -> Option<u64> {
    duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// A queue as it is kept.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredQueue {
    pub(crate) number: u64,
    kind: String,
    #[serde(default)]
    durable: bool,
    #[serde(default)]
    auto_delete: bool,
    #[serde(default)]
    expires_ms: Option<u64>,
    #[serde(default)]
    message_ttl_ms: Option<u64>,
    #[serde(default)]
    max_messages: Option<u64>,
    #[serde(default)]
    max_bytes: Option<u64>,
    #[serde(default)]
    overflow: u8,
    #[serde(default)]
    max_message_bytes: Option<u64>,
    #[serde(default)]
    max_priority: Option<u8>,
    #[serde(default)]
    delivery_limit: Option<u32>,
    #[serde(default)]
    single_active_consumer: bool,
    #[serde(default)]
    dead_letter_exchange: Option<Box<str>>,
    #[serde(default)]
    dead_letter_key: Option<Box<str>>,
    #[serde(default)]
    arguments: String,
}

impl StoredQueue {
    fn new(queue: &QueueHandle, spec: &QueueSpec) -> Self {
        Self {
            number: queue.number.0,
            kind: queue.kind.name().to_owned(),
            durable: spec.durable,
            auto_delete: spec.auto_delete,
            expires_ms: millis(spec.expires),
            message_ttl_ms: millis(spec.message_ttl),
            max_messages: spec.max_messages,
            max_bytes: spec.max_bytes,
            overflow: match spec.overflow {
                Overflow::DropHead => 0,
                Overflow::RejectPublish => 1,
                Overflow::DeadLetter => 2,
            },
            max_message_bytes: spec.max_message_bytes,
            max_priority: spec.max_priority,
            delivery_limit: spec.delivery_limit,
            single_active_consumer: spec.single_active_consumer,
            dead_letter_exchange: spec.dead_letter_exchange.clone(),
            dead_letter_key: spec.dead_letter_key.clone(),
            arguments: arguments_text(&spec.arguments),
        }
    }

    pub(crate) fn kind(&self) -> Option<QueueKind> {
        QueueKind::ALL.into_iter().find(|kind| kind.name() == self.kind)
    }

    pub(crate) fn spec(&self) -> QueueSpec {
        QueueSpec {
            durable: self.durable,
            exclusive: false,
            auto_delete: self.auto_delete,
            expires: self.expires_ms.map(Duration::from_millis),
            message_ttl: self.message_ttl_ms.map(Duration::from_millis),
            max_messages: self.max_messages,
            max_bytes: self.max_bytes,
            overflow: match self.overflow {
                1 => Overflow::RejectPublish,
                2 => Overflow::DeadLetter,
                _ => Overflow::DropHead,
            },
            max_message_bytes: self.max_message_bytes,
            max_priority: self.max_priority,
            delivery_limit: self.delivery_limit,
            single_active_consumer: self.single_active_consumer,
            dead_letter_exchange: self.dead_letter_exchange.clone(),
            dead_letter_key: self.dead_letter_key.clone(),
            arguments: arguments_of(&self.arguments),
        }
    }
}

/// An exchange as it is kept.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredExchange {
    kind: String,
    #[serde(default)]
    auto_delete: bool,
    #[serde(default)]
    internal: bool,
    #[serde(default)]
    alternate: Option<Box<str>>,
    #[serde(default)]
    arguments: String,
}

impl StoredExchange {
    fn new(spec: &ExchangeSpec) -> Self {
        Self {
            kind: spec.kind.name().to_owned(),
            auto_delete: spec.auto_delete,
            internal: spec.internal,
            alternate: spec.alternate.clone(),
            arguments: arguments_text(&spec.arguments),
        }
    }

    pub(crate) fn spec(&self) -> Option<ExchangeSpec> {
        let kinds = [ExchangeKind::Direct, ExchangeKind::Fanout, ExchangeKind::Topic, ExchangeKind::Headers];
        Some(ExchangeSpec {
            kind: kinds.into_iter().find(|kind| kind.name() == self.kind)?,
            durable: true,
            auto_delete: self.auto_delete,
            internal: self.internal,
            alternate: self.alternate.clone(),
            arguments: arguments_of(&self.arguments),
        })
    }
}

/// A binding as it is kept; what it is about is in its key.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct StoredBinding {
    /// The queue it leads to.
    #[serde(default)]
    pub(crate) queue: Option<u64>,
    #[serde(default)]
    arguments: String,
}

impl StoredBinding {
    pub(crate) fn arguments(&self) -> Arguments {
        arguments_of(&self.arguments)
    }
}

pub(crate) fn json(value: &impl Serialize) -> Vec<u8> {
    // Of plain data: cannot fail.
    serde_json::to_vec(value).unwrap_or_default()
}

/// The first part of a binding's key.
pub(crate) const TO_QUEUE: &str = "q";
pub(crate) const TO_EXCHANGE: &str = "e";
/// A binding of topics, whose source is no exchange of the table.
pub(crate) const TOPICS: &str = "";

impl VirtualHost {
    /// Writes down a queue that was made, if it is one that is kept. Call it with the queue locked, before it is known.
    pub(crate) fn keep_definition(&self, queue: &QueueHandle, guarded: &mut Guarded) {
        let spec = Arc::clone(guarded.machine.declared());
        let lasts = match queue.kind {
            QueueKind::Plain => spec.durable && queue.owner.is_none(),
            QueueKind::Durable | QueueKind::Session => true,
            // One with a durable member is kept from then on: `keep_group`.
            QueueKind::Temporary | QueueKind::Shared => false,
        };
        if lasts && self.shared.engine.lasting {
            self.keep_queue(queue, guarded, &spec);
        }
    }

    fn keep_queue(&self, queue: &QueueHandle, guarded: &mut Guarded, spec: &QueueSpec) {
        queue.keep(guarded);
        let stored = json(&StoredQueue::new(queue, spec));
        self.shared.write_safely(|records| {
            records.put(Space::Queue, &key(&[&self.name, &queue.name]), &stored);
        });
    }

    /// A group gets a member that outlives the process: so does the group.
    pub(crate) fn keep_group(&self, queue: &Arc<QueueHandle>) {
        let mut guarded = queue.lock();
        if queue.is_kept() || queue.is_deleted() || !self.shared.engine.lasting {
            return;
        }
        let spec = Arc::clone(guarded.machine.declared());
        self.keep_queue(queue, &mut guarded, &spec);
        drop(guarded);
        for filter in queue.filters() {
            self.keep_topic(queue, &filter);
        }
    }

    /// The queue is deleted, with all that is on disk of it. Call it with the queue locked.
    pub(crate) fn drop_definition(&self, queue: &QueueHandle, guarded: &mut Guarded) {
        let fill = |records: &mut mynah_core::engine::Records| {
            guarded.machine.tell_dropped(queue.number, records);
            if queue.is_kept() {
                records.delete(Space::Queue, &key(&[&self.name, &queue.name]));
            }
        };
        if queue.is_kept() { self.shared.write_safely(fill) } else { self.shared.write(fill) }
    }

    /// Topics lead to a queue.
    pub(crate) fn keep_topic(&self, queue: &QueueHandle, filter: &Filter) {
        if queue.is_kept() && queue.kind != QueueKind::Session {
            self.put_binding(TOPICS, (TO_QUEUE, &queue.name), &filter.to_string(), &Arguments::new(), {
                Some(queue.number)
            });
        }
    }

    pub(crate) fn drop_topic(&self, queue: &QueueHandle, filter: &Filter) {
        if queue.is_kept() && queue.kind != QueueKind::Session {
            let target = (TO_QUEUE, &*queue.name);
            self.delete_binding(TOPICS, target, &filter.to_string(), &Arguments::new());
        }
    }

    pub(crate) fn put_binding(
        &self,
        source: &str,
        target: (&str, &str),
        routing_key: &str,
        arguments: &Arguments,
        queue: Option<QueueNumber>,
    ) {
        if !self.shared.engine.lasting {
            return;
        }
        let stored =
            StoredBinding { queue: queue.map(|number| number.0), arguments: arguments_text(arguments) };
        self.shared.write_safely(|records| {
            let key = self.binding_key(source, target, routing_key, arguments);
            records.put(Space::Binding, &key, &json(&stored));
        });
    }

    pub(crate) fn delete_binding(
        &self,
        source: &str,
        target: (&str, &str),
        routing_key: &str,
        arguments: &Arguments,
    ) {
        if self.shared.engine.lasting {
            let key = self.binding_key(source, target, routing_key, arguments);
            self.shared.write_safely(|records| records.delete(Space::Binding, &key));
        }
    }

    fn binding_key(
        &self,
        source: &str,
        (kind, name): (&str, &str),
        routing_key: &str,
        arguments: &Arguments,
    ) -> Vec<u8> {
        let mut key = key(&[&self.name, source, kind, name, routing_key]);
        if !arguments.is_empty() {
            // Only to tell bindings apart; the arguments themselves may be too long for a key.
            let mut bytes = Vec::new();
            encode_arguments(&mut bytes, arguments);
            put_bytes(&mut key, hex::encode(&digest(&bytes)).as_bytes());
        }
        key
    }

    pub(crate) fn keep_exchange(&self, name: &str, spec: &ExchangeSpec) {
        if spec.durable && self.shared.engine.lasting {
            let stored = json(&StoredExchange::new(spec));
            self.shared.write_safely(|records| {
                records.put(Space::Exchange, &key(&[&self.name, name]), &stored);
            });
        }
    }

    pub(crate) fn drop_exchange(&self, name: &str, spec: &ExchangeSpec) {
        if spec.durable && self.shared.engine.lasting {
            self.shared.write_safely(|records| {
                records.delete(Space::Exchange, &key(&[&self.name, name]));
            });
        }
    }

    /// Whether a binding from a durable exchange to this is kept, and to which queue it leads.
    pub(crate) fn keeps_target(&self, target: &BindingTarget) -> Option<Option<QueueNumber>> {
        match target {
            BindingTarget::Queue(name) => {
                let queue = self.queue(name)?;
                queue.is_kept().then_some(Some(queue.number))
            }
            BindingTarget::Exchange(_) => Some(None),
        }
    }
}

/// Sixteen bytes that tell arguments apart, the same in every life of the process.
fn digest(bytes: &[u8]) -> [u8; 16] {
    let fold = |seed: u64| {
        bytes.iter().fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
    };
    let (low, high) = (fold(0xcbf2_9ce4_8422_2325), fold(0x9e37_79b9_7f4a_7c15));
    let mut digest = [0; 16];
    let (front, back) = digest.split_at_mut(8);
    front.copy_from_slice(&low.to_le_bytes());
    back.copy_from_slice(&high.to_le_bytes());
    digest
}
