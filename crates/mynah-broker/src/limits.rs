//! Every bound of the broker's running parts, with its reason. What operators may change is in [`crate::BrokerConfig`].

use std::time::Duration;

/// Bytes of publishes with one route that are encoded before they are handed to the targets: large enough that a lock
/// and a wake are nothing beside them, small enough to stay in the second-level cache.
pub const RUN_BYTES_MAX: usize = 32 * 1024;

/// Messages of one run that wait for a queue's lock.
pub const RUN_MESSAGES_MAX: usize = 256;

/// Bytes of spare buffers a thread keeps, of small ones and of large ones each.
pub const POOL_BYTES_MAX: usize = 16 << 20;

/// A buffer larger than this is given back to the allocator.
pub const POOL_BUFFER_BYTES_MAX: usize = 1 << 20;

/// Up to this a buffer is small.
pub const POOL_BUFFER_BYTES_SMALL: usize = 32 << 10;

/// An inbox over this asks its publishers to pause.
pub const INBOX_BYTES_HIGH: usize = 1 << 20;

/// Paused publishers go on when an inbox is under this.
pub const INBOX_BYTES_LOW: usize = 512 << 10;

/// Times the bound of an inbox that its content may reach while the receiver reads: each of thousands of publishers may have
/// a read's worth on the way when it is asked to pause.
pub const INBOX_OVERSHOOT: usize = 16;

/// Deliveries in an inbox that count like `INBOX_BYTES_HIGH`.
pub const INBOX_DELIVERIES_HIGH: usize = 8 * 1024;

/// A receiver that does not get from high to low in this time is slow: publishers no longer wait for it, and what does not fit
/// is dropped and counted.
pub const INBOX_PATIENCE: Duration = Duration::from_secs(1);

/// Marks that the spare lists of a thread have room for, of 12 bytes each, and how many one list may have.
pub const POOL_MARKS_TOTAL: usize = 1 << 18;
pub const POOL_MARKS_MAX: usize = 4096;

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

/// Timers that are served before the task lets others have the thread.
pub const TIMERS_AT_ONCE: usize = 256;

/// Bytes of one queue's messages in memory, about: beyond this its middle goes to pages. Small enough that a queue of ten
/// million messages leaves room for others, large enough that a short burst never touches a page.
pub const QUEUE_MEMORY_MAX: u64 = 32 << 20;

/// The same for bodies of [`LARGE_BODY`] on average, if it is no more than an eighth of the budget: few of them fill the memory,
/// and each is written to the disk twice once it goes to a page. At twice the bound publishers wait for the pages.
pub const QUEUE_MEMORY_LARGE: u64 = 1 << 30;

/// Bytes of a body for which the second write costs more than the memory.
pub const LARGE_BODY: u64 = 4096;

/// Bytes under which a queue is left alone even if all queues together are over the budget.
pub const QUEUE_MEMORY_SMALL: u64 = 256 << 10;

/// Bytes by which a queue's memory may differ from what the sum of all knows.
pub const MEMORY_UNCOUNTED: u64 = 64 << 10;

/// Bytes in the log's hands that are not written yet: beyond this, connections that add to it are not read from.
pub const LOG_BACKLOG_BYTES_MAX: usize = 32 << 20;

/// Transactions that one connection may have open: clients use one for each session or channel.
pub const TRANSACTIONS_MAX: usize = 1_000;

/// Bytes of the name of a user or a policy.
pub const DEFINITION_NAME_BYTES_MAX: usize = 255;

/// Users that operators make, and those of the configuration.
pub const USERS_MAX: usize = 100_000;

/// Policies of one virtual host: each new queue is compared with all of them.
pub const POLICIES_MAX: usize = 1_000;

/// Bytes of messages staged in all transactions of one connection.
pub const TRANSACTION_BYTES_MAX: usize = 64 << 20;

/// Delayed messages of one virtual host; they wait in memory.
pub const DELAYED_MESSAGES_MAX: usize = 1_000_000;

/// Bytes of them.
pub const DELAYED_BYTES_MAX: usize = 256 << 20;

/// When a retained message that was published at most once is written down; until then the topic may get others.
pub const RETAINED_WRITTEN_AFTER: Duration = Duration::from_millis(100);

/// So many of them are written in one go; a hundred microseconds of a thread that reads sockets.
pub const RETAINED_WRITTEN_AT_ONCE: usize = 128;

/// Between one go and the next: some 40,000 a second, so that many take turns with what must be written.
pub const RETAINED_WRITTEN_PAUSE: Duration = Duration::from_millis(3);

/// Retained values that a subscriber gets in one go; more are streamed as fast as it takes them.
pub const RETAINED_AT_ONCE: usize = 1024;

/// Bytes of retained messages that wait in a subscriber's inbox.
pub const RETAINED_BYTES: usize = 64 << 10;
