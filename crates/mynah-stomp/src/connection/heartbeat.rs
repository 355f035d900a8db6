//! Heart-beats both ways [STOMP 1.2, Heart-beating].
//!
//! Any bytes are a sign of life. The broker sends a line end when it wrote nothing for 0.6 of the interval, and waits
//! for twice the interval and a second before it gives up: timers of strict peers have cut many good connections.
//! A client that agreed to no heart-beats is never cut.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct HeartBeat {
    send: Option<Duration>,
    receive: Option<Duration>,
    sent: Instant,
    heard: Instant,
}

impl HeartBeat {
    pub(super) fn new(now: Instant) -> Self {
        Self { send: None, receive: None, sent: now, heard: now }
    }

    /// Agrees with the client's `<what it can do>,<what it wants>`; answers the server's two numbers.
    pub(super) fn agree(&mut self, client: (u32, u32), min_ms: u32) -> (u32, u32) {
        let (can, wants) = client;
        let own = |theirs: u32| if theirs == 0 { 0 } else { theirs.max(min_ms) };
        let interval = |ms: u32| (ms > 0).then(|| Duration::from_millis(u64::from(ms)));
        // As the server offers at least what the client says, the greater of both numbers is the server's.
        self.send = interval(own(wants));
        self.receive = interval(own(can));
        (own(wants), own(can))
    }

    pub(super) fn sent(&mut self, now: Instant) {
        self.sent = now;
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    pub(super) fn send_due(&self) -> Option<Instant> {
        self.sent.checked_add(self.send? * 3 / 5)
    }

    pub(super) fn receive_due(&self) -> Option<Instant> {
        self.heard.checked_add(self.receive? * 2 + Duration::from_secs(1))
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match (self.send_due(), self.receive_due()) {
            (Some(send), Some(receive)) => Some(send.min(receive)),
            (send, receive) => send.or(receive),
        }
    }
}
