//! Bounds and habits of the AMQP 0-9-1 frontend, with their defaults and why.

use std::time::Duration;

/// What an operator may change.
#[derive(Debug, Clone)]
pub struct Amqp091Config {
    /// Bytes of the largest frame, offered in `connection.tune`; at least 4096.
    pub frame_max: u32,
    /// The highest channel number, offered in `connection.tune`.
    pub channel_max: u16,
    /// Heartbeat interval in seconds, offered in `connection.tune`; the client's answer counts. 0 = none.
    pub heartbeat: u16,
    /// Bytes of a frame before the connection is open, as nobody knows yet who sends it.
    pub login_frame_bytes_max: u32,
    /// Bytes of a message's body.
    pub message_bytes_max: u64,
    /// How long a client may take until `connection.open`.
    pub login_timeout: Duration,
    /// How long a client may take to answer a close.
    pub close_timeout: Duration,
    /// Publishes the broker has not answered yet. Beyond that nothing is read from the connection.
    pub publishes_max: usize,
    /// Consumers of one connection.
    pub consumers_max: usize,
    /// Queues that one channel polls by `basic.get` at the same time; the rest are attached again when they are asked.
    pub getters_max: usize,
    /// Whether SASL ANONYMOUS is offered; the broker still decides.
    pub anonymous: bool,
    /// Whether `basic.nack` and `basic.reject` with requeue count as a failed attempt, so that delivery limits work.
    pub requeue_counts: bool,
}

impl Default for Amqp091Config {
    fn default() -> Self {
        Self {
            frame_max: 131_072,
            channel_max: 2047,
            heartbeat: 60,
            login_frame_bytes_max: 16 << 10,
            message_bytes_max: 16 << 20,
            login_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(10),
            publishes_max: 20_000,
            consumers_max: 10_000,
            getters_max: 64,
            anonymous: true,
            requeue_counts: true,
        }
    }
}
