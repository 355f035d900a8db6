//! Bounds that hold for the core, with their reasons. What an operator may change is in the configuration; these are its
//! defaults or hard ends.

/// Delivery attempts before a message is dead-lettered; RabbitMQ's quorum queues use the same default.
pub const DELIVERY_LIMIT: u32 = 20;

/// Words in a topic or filter: beyond that matching would cost more than the message is worth.
pub const TOPIC_WORDS_MAX: usize = 128;

/// Bytes of an MQTT-sized name: topics, queue names, client identifiers [MQTT 1.5.4].
pub const NAME_BYTES_MAX: usize = 65_535;

/// Bytes of a queue or exchange name in 0-9-1, where it is a short string.
pub const SHORT_NAME_BYTES_MAX: usize = 255;

/// Messages a queue holds unless its policy says otherwise. What is not in memory is in pages, so this bounds the disk.
pub const QUEUE_MESSAGES_MAX: u64 = 100_000_000;

/// Bytes a queue holds unless its policy says otherwise.
pub const QUEUE_BYTES_MAX: u64 = 64 << 30;

/// Lines in a message's dead-letter history; older ones are dropped so that a loop through many queues stays small.
pub const DEATHS_MAX: usize = 32;

/// Messages and settlements staged in one transaction.
pub const TRANSACTION_STEPS_MAX: usize = 10_000;

/// Priority levels a queue can be declared with: 0 to 9 are different, higher ones count as 9 [AMQP 1.0 3.2.1].
pub const PRIORITY_LEVELS: u8 = 10;

/// Bytes that a message in a queue costs beside its own, about: its place, its facts, the allocator's part.
pub const ENTRY_BYTES: u64 = 400;

/// Messages of the head of a long queue that stay in memory, and how many are left when the next page is read.
pub const HEAD_MESSAGES: usize = 16_384;
pub const HEAD_MESSAGES_LOW: usize = 8_192;

/// Messages and bytes in a page: enough that a sync and a file for each are cheap, few enough to be read at once.
pub const PAGE_MESSAGES: usize = 16_384;
pub const PAGE_BYTES: u64 = 2 << 20;

/// Hops through exchange-to-exchange bindings and alternate exchanges before a message is taken to be in a loop.
pub const EXCHANGE_HOPS_MAX: usize = 16;
