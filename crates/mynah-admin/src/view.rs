//! What the API's JSON looks like. Names are snake_case, times are seconds unless the name says milliseconds.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mynah_broker::operator::{ConnectionView, Overview, ProtocolTotals, QueueView, TopicView};
use mynah_core::queue::Peeked;
use mynah_core::{Death, Guarantee, Value};
use serde::Serialize;
use serde_json::{Map, json};

#[derive(Debug, Serialize)]
pub struct OverviewJson {
    pub product: &'static str,
    pub version: &'static str,
    pub uptime_s: f64,
    pub connections: usize,
    pub queues: usize,
    pub sessions: usize,
    pub retained: usize,
    pub ready: u64,
    pub unsettled: u64,
    pub protocols: Vec<ProtocolJson>,
}

#[derive(Debug, Serialize)]
pub struct ProtocolJson {
    pub protocol: String,
    pub received: u64,
    pub delivered: u64,
    pub dead_lettered: u64,
    pub connections: i64,
}

impl From<Overview> for OverviewJson {
    fn from(overview: Overview) -> Self {
        Self {
            product: "mynah",
            version: env!("CARGO_PKG_VERSION"),
            uptime_s: overview.uptime.as_secs_f64(),
            connections: overview.connections,
            queues: overview.queues,
            sessions: overview.clients,
            retained: overview.retained,
            ready: overview.ready,
            unsettled: overview.unsettled,
            protocols: overview.protocols.into_iter().map(ProtocolJson::from).collect(),
        }
    }
}

impl From<ProtocolTotals> for ProtocolJson {
    fn from(totals: ProtocolTotals) -> Self {
        Self {
            protocol: totals.protocol,
            received: totals.received,
            delivered: totals.delivered,
            dead_lettered: totals.dead_lettered,
            connections: totals.connections,
        }
    }
}

#[derive(Debug, Serialize)]
pub struct ConnectionJson {
    pub number: u64,
    pub peer: String,
    pub listener: String,
    pub protocol: &'static str,
    pub version: &'static str,
    pub user: Option<String>,
    pub client_id: Option<String>,
    pub virtual_host: Option<String>,
    pub age_s: f64,
    pub received: u64,
    pub delivered: u64,
    pub inbox_bytes: usize,
}

impl From<ConnectionView> for ConnectionJson {
    fn from(view: ConnectionView) -> Self {
        Self {
            number: view.number,
            peer: view.peer.to_string(),
            listener: view.listener.to_string(),
            protocol: view.protocol,
            version: view.version,
            user: view.user.map(|user| user.to_string()),
            client_id: view.client_id.map(|id| id.to_string()),
            virtual_host: view.virtual_host.map(|host| host.to_string()),
            age_s: view.age.as_secs_f64(),
            received: view.received,
            delivered: view.delivered,
            inbox_bytes: view.inbox_bytes,
        }
    }
}

#[derive(Debug, Serialize)]
pub struct QueueJson {
    pub name: String,
    pub virtual_host: String,
    pub kind: &'static str,
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    pub ready: u64,
    pub ready_bytes: u64,
    pub unsettled: u64,
    pub consumers: u32,
    pub published: u64,
    pub delivered: u64,
    pub settled: u64,
    pub dead_lettered: u64,
    pub topics: Vec<String>,
    /// The policy that holds for it.
    pub policy: Option<String>,
}

impl From<QueueView> for QueueJson {
    fn from(view: QueueView) -> Self {
        Self {
            name: view.name.to_string(),
            virtual_host: view.virtual_host.to_string(),
            kind: view.kind,
            durable: view.durable,
            exclusive: view.exclusive,
            auto_delete: view.auto_delete,
            ready: view.ready,
            ready_bytes: view.ready_bytes,
            unsettled: view.unsettled,
            consumers: view.consumers,
            published: view.published,
            delivered: view.delivered,
            settled: view.settled,
            dead_lettered: view.dead_lettered,
            topics: view.topics,
            policy: view.policy.map(|name| name.to_string()),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct TopicJson {
    pub name: String,
    pub subscriptions: usize,
    pub retained_bytes: Option<usize>,
}

impl From<TopicView> for TopicJson {
    fn from(view: TopicView) -> Self {
        Self { name: view.name, subscriptions: view.subscriptions, retained_bytes: view.retained_bytes }
    }
}

/// A message that waits in a queue. The body is text if it is UTF-8, otherwise base64.
#[derive(Debug, Serialize)]
pub struct MessageJson {
    pub address: String,
    pub attempts: u32,
    pub redelivered: bool,
    pub durable: bool,
    pub guarantee: &'static str,
    pub priority: Option<u8>,
    pub ttl_ms: Option<u64>,
    pub size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    pub content_type: Option<String>,
    pub correlation_id: Option<serde_json::Value>,
    pub message_id: Option<serde_json::Value>,
    pub reply_to: Option<String>,
    pub properties: Map<String, serde_json::Value>,
    pub deaths: Vec<DeathJson>,
}

#[derive(Debug, Serialize)]
pub struct DeathJson {
    pub cause: &'static str,
    pub queue: String,
    pub address: String,
    pub time_ms: i64,
    pub count: u32,
    pub reason: Option<String>,
}

impl From<Peeked> for MessageJson {
    fn from(peeked: Peeked) -> Self {
        let message = &peeked.message;
        let properties = message.properties();
        let text = std::str::from_utf8(&message.body).ok().map(ToOwned::to_owned);
        let body_base64 = text.is_none().then(|| STANDARD.encode(&message.body));
        Self {
            address: message.address.to_string(),
            attempts: peeked.attempts,
            redelivered: peeked.redelivered,
            durable: message.header.durable(),
            guarantee: guarantee_name(message.header.guarantee),
            priority: message.header.priority,
            ttl_ms: message.header.ttl_ms,
            size: message.body.len(),
            body: text,
            body_base64,
            content_type: properties.content_type.as_deref().map(ToOwned::to_owned),
            correlation_id: properties.correlation_id.as_ref().map(value_json),
            message_id: properties.message_id.as_ref().map(value_json),
            reply_to: properties.reply_to.as_ref().map(ToString::to_string),
            properties: properties
                .application
                .iter()
                .map(|(key, value)| (key.to_string(), value_json(value)))
                .collect(),
            deaths: message.deaths.iter().map(DeathJson::from).collect(),
        }
    }
}

impl From<&Death> for DeathJson {
    fn from(death: &Death) -> Self {
        Self {
            cause: death.cause.name(),
            queue: death.queue.to_string(),
            address: death.address.to_string(),
            time_ms: death.time_ms,
            count: death.count,
            reason: death.reason.as_deref().map(ToOwned::to_owned),
        }
    }
}

fn guarantee_name(guarantee: Guarantee) -> &'static str {
    match guarantee {
        Guarantee::AtMostOnce => "at-most-once",
        Guarantee::AtLeastOnce => "at-least-once",
        Guarantee::ExactlyOnce => "exactly-once",
    }
}

/// JSON where JSON has the type, otherwise the text the other protocols show.
fn value_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(flag) => json!(flag),
        Value::F32(n) => json!(n),
        Value::F64(n) => json!(n),
        Value::List(items) | Value::Array(items) => items.iter().map(value_json).collect(),
        Value::Map(entries) => {
            let entries = entries.iter().map(|(key, value)| (key.to_text(), value_json(value)));
            serde_json::Value::Object(entries.collect())
        }
        Value::String(_) | Value::Symbol(_) | Value::Binary(_) | Value::Uuid(_) | Value::Char(_) => {
            json!(value.to_text())
        }
        Value::U8(_)
        | Value::U16(_)
        | Value::U32(_)
        | Value::U64(_)
        | Value::I8(_)
        | Value::I16(_)
        | Value::I32(_)
        | Value::I64(_)
        | Value::Timestamp(_) => match (value.as_u64(), value.as_i64()) {
            (Some(n), _) => json!(n),
            (None, n) => json!(n),
        },
        Value::Decimal(_) | Value::Described(_) => json!(value.to_text()),
    }
}
