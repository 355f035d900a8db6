//! What an operator can set about the broker, as plain data; the server fills it from its configuration file.

use std::time::Duration;

use mynah_core::limits::{DELIVERY_LIMIT, QUEUE_BYTES_MAX, QUEUE_MESSAGES_MAX};

use crate::rules::Rule;

#[derive(Debug, Clone)]
pub struct BrokerConfig {
    pub auth: AuthConfig,
    pub virtual_hosts: Vec<String>,
    pub inbox_bytes_max: usize,
    /// Largest message body and properties the broker keeps, whatever a protocol allows.
    pub message_bytes_max: usize,
    pub retained_messages_max: usize,
    pub session_expiry_max: Duration,
    pub session_messages_max: u64,
    pub session_bytes_max: u64,
    /// Bytes of messages in memory, of all queues together; beyond it they go to pages.
    pub memory_max: u64,
    pub queues: QueueConfig,
    /// How often the values under `$SYS` are renewed; zero: there are none.
    pub sys_interval: Duration,
}

#[derive(Debug, Clone)]
pub struct AuthConfig {
    pub anonymous: Anonymous,
    pub users: Vec<User>,
    /// Failed logins of an address or a user before further ones are slowed down; 0: they never are.
    pub failures_max: u32,
    /// Empty: everybody who is let in may do everything.
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anonymous {
    Never,
    Loopback,
    Always,
}

#[derive(Debug, Clone)]
pub struct User {
    pub name: String,
    pub password: Password,
    /// Let in only from this machine.
    pub loopback_only: bool,
    /// May use the admin API.
    pub admin: bool,
}

#[derive(Clone)]
pub enum Password {
    Clear(String),
    /// An argon2 hash in PHC form, or what SCRAM-SHA-256 stores.
    Hash(String),
}

impl Password {
    pub(crate) fn is_hash(&self, hash: &str) -> bool {
        matches!(self, Self::Hash(own) if own == hash)
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(..)")
    }
}

#[derive(Debug, Clone)]
pub struct QueueConfig {
    /// Queues appear on first use by protocols that have no declaration.
    pub auto_create: bool,
    pub delivery_limit: u32,
    pub messages_max: u64,
    pub bytes_max: u64,
    /// Deliveries on the way to a consumer that limits nothing itself.
    pub socket_window: u32,
    /// Where messages go that were sent to a queue that does not exist; empty = they are dropped and counted.
    pub no_queue_dead_letters: String,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            auth: AuthConfig {
                anonymous: Anonymous::Loopback,
                users: Vec::new(),
                failures_max: 10,
                rules: Vec::new(),
            },
            virtual_hosts: vec!["/".to_owned()],
            inbox_bytes_max: 8 << 20,
            message_bytes_max: 16 << 20,
            retained_messages_max: 1_000_000,
            session_expiry_max: Duration::from_secs(7 * 24 * 3600),
            session_messages_max: 100_000,
            session_bytes_max: 64 << 20,
            memory_max: 1 << 30,
            queues: QueueConfig::default(),
            sys_interval: Duration::ZERO,
        }
    }
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            auto_create: true,
            delivery_limit: DELIVERY_LIMIT,
            messages_max: QUEUE_MESSAGES_MAX,
            bytes_max: QUEUE_BYTES_MAX,
            socket_window: 2048,
            no_queue_dead_letters: "mynah.dlq".to_owned(),
        }
    }
}
