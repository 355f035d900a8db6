//! Bounds and habits of the STOMP frontend, with their defaults and why.

use std::time::{Duration, Instant};

use mynah_core::limits::NAME_BYTES_MAX;

/// Pairs a moment with the wall clock, so that `expires` (milliseconds since 1970) can be read without reading a clock here.
#[derive(Debug, Clone, Copy)]
pub struct WallClock {
    pub at: Instant,
    /// Milliseconds since the Unix epoch at `at`.
    pub epoch_ms: i64,
}

impl WallClock {
    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn epoch_ms(&self, now: Instant) -> i64 {
        let since = now.saturating_duration_since(self.at).as_millis();
        self.epoch_ms.saturating_add(i64::try_from(since).unwrap_or(i64::MAX))
    }
}

/// What an operator may change.
#[derive(Debug, Clone)]
pub struct StompConfig {
    /// Bytes of a command line. The longest command has 11 letters.
    pub command_bytes_max: usize,
    /// Bytes of one header line.
    pub header_line_bytes_max: usize,
    /// Header lines of one frame.
    pub headers_max: usize,
    /// Bytes of command and headers of one frame together.
    pub head_bytes_max: usize,
    /// Bytes of a body.
    pub body_bytes_max: usize,
    /// Bytes of the first frame, all in all, as nobody knows yet who sends it.
    pub login_bytes_max: usize,
    /// How long a client may take to log in. People type: 10 s is too short for them.
    pub login_timeout: Duration,
    /// The shortest heart-beat interval that is agreed to, in milliseconds, in either direction.
    pub heart_beat_min_ms: u32,
    /// Unacknowledged messages of a subscription in a client ack mode that names no `prefetch-count`.
    pub prefetch_default: u32,
    /// The most that `prefetch-count` can ask for; also what 0 (no limit) means.
    pub prefetch_max: u32,
    /// Subscriptions of one connection.
    pub subscriptions_max: usize,
    /// Open transactions of one connection.
    pub transactions_max: usize,
    /// Temporary queues of one connection.
    pub temp_queues_max: usize,
    /// Frames whose receipt still waits for the broker. Beyond that nothing is read from the connection.
    pub receipts_max: usize,
    /// Bytes of a queue, topic, exchange or client name in a destination.
    pub name_bytes_max: usize,
    /// Whether a SEND without `persistent` header is durable.
    pub persistent_default: bool,
    /// Needed to turn `expires` into a time to live; without it the time is only passed on.
    pub clock: Option<WallClock>,
}

impl Default for StompConfig {
    fn default() -> Self {
        Self {
            command_bytes_max: 32,
            header_line_bytes_max: 64 << 10,
            headers_max: 1_000,
            head_bytes_max: 1 << 20,
            body_bytes_max: 16 << 20,
            login_bytes_max: 64 << 10,
            login_timeout: Duration::from_secs(60),
            heart_beat_min_ms: 500,
            prefetch_default: 1_000,
            prefetch_max: 65_535,
            subscriptions_max: 10_000,
            transactions_max: 16,
            temp_queues_max: 100,
            receipts_max: 10_000,
            name_bytes_max: NAME_BYTES_MAX,
            persistent_default: false,
            clock: None,
        }
    }
}
