//! STOMP 1.0, 1.1 and 1.2 as a sans-IO state machine.
//!
//! # Layout
//!
//! - [`codec`]: bytes to frames and back; knows no meaning
//! - [`translate`]: destinations and headers to the core's words and back
//! - [`connection`]: what each frame asks of the broker, and what goes back
//! - [`subscription`], [`transaction`]: what a connection remembers of each
//! - [`reason`]: every ERROR a client can get, and what it says
//!
//! Never: a socket, a clock, another protocol.

mod codec;
mod config;
mod connection;
mod reason;
mod subscription;
#[cfg(test)]
mod tests;
mod transaction;
mod translate;
mod version;

use std::sync::Arc;
use std::time::{Duration, Instant};

use mynah_core::engine::FormatEntry;
use mynah_core::protocol::{Connection, Detect, Peer, Protocol};

pub use config::{StompConfig, WallClock};
pub use translate::FORMAT;
pub use version::Version;

/// The factory of STOMP connections.
#[derive(Debug, Default)]
pub struct Stomp {
    config: Arc<StompConfig>,
}

impl Stomp {
    #[must_use]
    pub fn new(config: StompConfig) -> Self {
        Self { config: Arc::new(config) }
    }
}

impl Protocol for Stomp {
    fn name(&self) -> &'static str {
        "stomp"
    }

    fn detect(&self, first: &[u8]) -> Detect {
        codec::detect(first)
    }

    fn login_timeout(&self) -> Duration {
        self.config.login_timeout
    }

    /// Formats of what is stored, which are names on disk: they are never changed.
    fn formats(&self) -> Vec<FormatEntry> {
        vec![FormatEntry { format: FORMAT, decode: Some(translate::decode), encode: None }]
    }

    fn accept(&self, peer: &Peer, now: Instant) -> Box<dyn Connection> {
        Box::new(connection::StompConnection::new(Arc::clone(&self.config), peer, now))
    }

    fn refuse_unknown(&self) -> &'static [u8] {
        reason::NOT_STOMP
    }
}
