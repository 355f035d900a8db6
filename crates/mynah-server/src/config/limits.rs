//! Every bound an operator can move, with the reason of its default.
//!
//! Everything that queues, counts or nests has a bound: a broker without one hands its memory to the fastest client.
//!
//! Never: enforces anything (the broker and the protocols do), counts.

use serde::{Deserialize, Serialize};

use super::units::{Size, Span};

/// Bounds on connections, sessions and what waits for them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// Sockets at once, all listeners together. An idle one costs about 2 KB here and a file descriptor in the kernel.
    pub(crate) connections_max: u32,
    /// Time from connect to login; machines need milliseconds.
    pub(crate) login_timeout: Span,
    /// The same for STOMP: a person types CONNECT into telnet.
    pub(crate) login_timeout_stomp: Span,
    /// Bytes of one frame before login: a login fits easily, an attack does not.
    pub(crate) login_bytes_max: Size,
    /// Bytes of one message, all its parts together.
    pub(crate) message_bytes_max: Size,
    /// Unsent bytes of one connection that are never exceeded.
    pub(crate) inbox_bytes_max: Size,
    /// The longest a session may outlive its connection; a client that asks for more gets this.
    pub(crate) session_expiry_max: Span,
    /// Messages that wait for one absent session.
    pub(crate) session_messages_max: u64,
    /// Bytes that wait for one absent session.
    pub(crate) session_bytes_max: Size,
    /// Retained messages in all.
    pub(crate) retained_messages_max: u64,
    /// Subscriptions, consumers and links of one connection together.
    pub(crate) subscriptions_per_connection_max: u32,
}

/// What a queue gets that does not say otherwise by its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Queues {
    /// STOMP, AMQP 1.0 and MQTT `$queue/` create a queue on first use.
    pub(crate) auto_create: bool,
    pub(crate) max_length_messages: u64,
    pub(crate) max_length_bytes: Size,
    /// Deliveries of one message before it is dead-lettered as `read-count`; 0: no limit.
    pub(crate) delivery_limit: u32,
    /// Deliveries on the way to one consumer that sets no limit of its own.
    pub(crate) consumer_window: u32,
    /// Where messages go that name a queue which does not exist; empty: they are dropped and counted.
    pub(crate) no_queue_dead_letters: String,
}

/// What is kept in `data_dir`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Store {
    /// Bytes of messages in memory, all queues together; 0: a quarter of what the machine or the container has.
    pub(crate) memory_max: Size,
    /// Bytes of journal beyond which old messages are moved to pages.
    pub(crate) journal_bytes_max: Size,
    /// Room on the disk below which durable messages are refused.
    pub(crate) free_bytes_min: Size,
}

impl Default for Store {
    fn default() -> Self {
        Self { memory_max: Size(0), journal_bytes_max: Size(1 << 30), free_bytes_min: Size(64 << 20) }
    }
}

impl Limits {
    pub(crate) fn subscriptions(&self) -> usize {
        usize::try_from(self.subscriptions_per_connection_max).unwrap_or(usize::MAX)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 100_000,
            login_timeout: Span::secs(10),
            login_timeout_stomp: Span::secs(60),
            login_bytes_max: Size::kib(64),
            message_bytes_max: Size::mib(16),
            inbox_bytes_max: Size::mib(8),
            session_expiry_max: Span::secs(7 * 86_400),
            session_messages_max: 100_000,
            session_bytes_max: Size::mib(64),
            retained_messages_max: 1_000_000,
            subscriptions_per_connection_max: 10_000,
        }
    }
}

impl Default for Queues {
    fn default() -> Self {
        Self {
            auto_create: true,
            max_length_messages: 100_000_000,
            max_length_bytes: Size::mib(64 * 1024),
            delivery_limit: 20,
            consumer_window: 2_048,
            no_queue_dead_letters: "mynah.dlq".to_owned(),
        }
    }
}
