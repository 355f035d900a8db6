//! AMQP 1.0 as a sans-IO state machine.
//!
//! # Layout
//!
//! - [`Amqp10`]: the factory; `connection` -> `session` -> `inbound` / `outbound`: one file for each level of the standard
//! - `attach`, `detach`, `link`: how links come and go; `sending`, `unsettled`: a session's window and what is out
//! - `transaction`: the coordinator, and what is published and settled in transactions
//! - `context`: tickets, consumer numbers and buffers that all of a connection shares
//! - `address`: texts to nodes and back; `translate`: sections to properties and back
//! - `codec`: types, frames, performatives, sections; `sasl`, `version`
//! - `reason`: the only table from refusals and faults to error conditions
//!
//! Never: opens a socket, reads a clock, or changes a byte of a bare message.

mod address;
mod attach;
mod codec;
mod connection;
mod context;
mod detach;
mod inbound;
mod link;
mod outbound;
mod reason;
mod sasl;
mod sending;
mod session;
#[cfg(test)]
mod tests;
mod transaction;
mod translate;
mod unsettled;
mod version;

use std::sync::Arc;
use std::time::{Duration, Instant};

use mynah_core::engine::FormatEntry;
use mynah_core::protocol::{Connection, Detect, Peer, Protocol};

pub use codec::CodecError;
pub use sasl::Mechanism;

/// What an operator may set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amqp10Config {
    /// The broker's name for itself in its open.
    pub container_id: String,
    /// Largest frame taken, in bytes; also the largest one sent. At least 512 [AMQP 2.4.1].
    pub frame_bytes_max: u32,
    /// Highest channel number: one less than the sessions of a connection.
    pub channel_max: u16,
    /// Highest handle: one less than the links of a session.
    pub handle_max: u32,
    /// Largest message taken, in bytes.
    pub message_bytes_max: usize,
    /// How long a peer may be silent; half of it is announced. `None`: for ever.
    pub idle_time_out: Option<Duration>,
    /// From the first byte to the open.
    pub login_timeout: Duration,
    /// What is offered, in this order.
    pub mechanisms: Vec<Mechanism>,
    /// Messages a sender may have on the way; given again when half is used. The window over the time of an fsync decides
    /// how fast durable messages come, so it is generous.
    pub link_credit: u32,
    /// Transfer frames a session may have on the way; given again when half is used.
    pub session_window: u32,
    /// Whether a queue that does not exist is made when a link names it.
    pub create_queues: bool,
}

impl Default for Amqp10Config {
    fn default() -> Self {
        Self {
            container_id: "mynah".to_owned(),
            frame_bytes_max: 128 * 1024,
            channel_max: 255,
            handle_max: 255,
            message_bytes_max: 16 * 1024 * 1024,
            idle_time_out: Some(Duration::from_secs(120)),
            login_timeout: Duration::from_secs(10),
            mechanisms: vec![Mechanism::Plain, Mechanism::Anonymous],
            link_credit: 2_000,
            session_window: 8_192,
            create_queues: true,
        }
    }
}

/// The protocol, to be registered with the server.
#[derive(Debug, Clone, Default)]
pub struct Amqp10 {
    config: Arc<Amqp10Config>,
}

impl Amqp10 {
    #[must_use]
    pub fn new(config: Amqp10Config) -> Self {
        Self { config: Arc::new(config) }
    }
}

impl Protocol for Amqp10 {
    fn name(&self) -> &'static str {
        "amqp10"
    }

    fn detect(&self, first: &[u8]) -> Detect {
        version::detect(first)
    }

    fn login_timeout(&self) -> Duration {
        self.config.login_timeout
    }

    /// Formats of what is stored, which are names on disk: they are never changed.
    fn formats(&self) -> Vec<FormatEntry> {
        vec![FormatEntry { format: translate::FORMAT, decode: Some(translate::decode), encode: None }]
    }

    fn accept(&self, peer: &Peer, now: Instant) -> Box<dyn Connection> {
        Box::new(connection::Amqp10Connection::new(Arc::clone(&self.config), peer.connection, now))
    }

    fn refuse_unknown(&self) -> &'static [u8] {
        version::SASL
    }
}
