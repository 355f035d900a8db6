//! Every bound of the broker's running parts, with its reason. What operators may change is in [`crate::BrokerConfig`].

use std::time::Duration;

/// Bytes of publishes with one route that are encoded before they are handed to the targets: large enough that a lock
/// and a wake are nothing beside them, small enough to stay in the second-level cache.
pub const RUN_BYTES_MAX: usize = 32 * 1024;

/// Messages of one run that wait for a queue's lock.
pub const RUN_MESSAGES_MAX: usize = 256;

/// Bytes of spare buffers a thread keeps.
pub const POOL_BYTES_MAX: usize = 32 << 20;

/// A buffer larger than this is given back to the allocator.
pub const POOL_BUFFER_BYTES_MAX: usize = 1 << 20;

/// An inbox over this asks its publishers to pause.
pub const INBOX_BYTES_HIGH: usize = 1 << 20;

/// Paused publishers go on when an inbox is under this.
pub const INBOX_BYTES_LOW: usize = 512 << 10;

/// Deliveries in an inbox that count like `INBOX_BYTES_HIGH`.
pub const INBOX_DELIVERIES_HIGH: usize = 8 * 1024;

/// A receiver that does not get from high to low in this time is slow: publishers no longer wait for it, and what does not fit
/// is dropped and counted.
pub const INBOX_PATIENCE: Duration = Duration::from_secs(1);

/// Routes each thread remembers beside the last one of each connection.
pub const ROUTE_CACHE_ENTRIES: usize = 1024;

/// Settlements of one read that are collected before the queue is locked.
pub const SETTLE_BATCH_MAX: usize = 512;

/// Dead letters that one operation may cause, directly or through further queues, before the rest is dropped and counted.
pub const DEAD_LETTER_CHAIN_MAX: usize = 100_000;

/// Users whose verified passwords are remembered (as keyed hashes), so that argon2 runs once and not at every connect.
pub const VERIFIED_PASSWORDS_MAX: usize = 10_000;

/// Password verifications that run at once; each takes 19 MiB and tens of milliseconds.
pub const VERIFICATIONS_MAX: usize = 4;
