//! AMQP 0-9-1 in RabbitMQ's dialect as a sans-IO state machine.
//!
//! # Layout
//!
//! - [`codec`]: bytes to frames, methods, tables and property lists, and back; knows no meaning
//! - [`connection`]: frames to handlers, heartbeats, errors; [`handshake`]: until the connection is open
//! - [`channel`]: what a channel remembers; [`waiting`]: the request that waits for the broker, one at a time
//! - [`publish`], [`confirm`], [`consume`], [`get`], [`qos`], [`settle`], [`topology`], [`tx`]: what each method asks of the
//!   broker, and what goes back; [`arguments`]: declarations to the core's specifications
//! - [`translate`], [`deliver`]: addresses and properties to the core's words and back
//! - [`reason`]: every reply code
//!
//! # What is different from RabbitMQ
//!
//! The exchange `amq.topic` is the broker's topic space, which all protocols share: its keys are topics with dots, and the
//! exchange `p2p` reaches one client by its identifier. A reply-to that is no queue is shown as a text that works as a key
//! of the default exchange: `/topics/a/b`, `/exchanges/e/k`, `/p2p/c`. Direct reply-to is a private queue.
//!
//! Not built: CC and BCC headers, streams, `connection.blocked` (not claimed), `mandatory` inside a transaction.
//!
//! Never: a socket, a clock, another protocol.

mod arguments;
mod channel;
mod codec;
mod config;
mod confirm;
mod connection;
mod consume;
mod deliver;
mod get;
mod handshake;
mod publish;
mod qos;
mod reason;
mod settle;
#[cfg(test)]
mod tests;
mod topology;
mod translate;
mod tx;
mod version;
mod waiting;

use std::sync::Arc;
use std::time::{Duration, Instant};

use mynah_core::engine::FormatEntry;
use mynah_core::protocol::{Connection, Detect, Peer, Protocol};

pub use config::Amqp091Config;
pub use translate::FORMAT;

/// The factory of AMQP 0-9-1 connections.
#[derive(Debug, Default)]
pub struct Amqp091 {
    config: Arc<Amqp091Config>,
}

impl Amqp091 {
    #[must_use]
    pub fn new(config: Amqp091Config) -> Self {
        Self { config: Arc::new(config) }
    }
}

impl Protocol for Amqp091 {
    fn name(&self) -> &'static str {
        "amqp091"
    }

    fn detect(&self, first: &[u8]) -> Detect {
        version::detect(first)
    }

    fn login_timeout(&self) -> Duration {
        self.config.login_timeout
    }

    /// Formats of what is stored, which are names on disk: they are never changed.
    fn formats(&self) -> Vec<FormatEntry> {
        vec![FormatEntry { format: FORMAT, decode: Some(translate::decode), encode: None }]
    }

    fn accept(&self, peer: &Peer, now: Instant) -> Box<dyn Connection> {
        Box::new(connection::Amqp091Connection::new(Arc::clone(&self.config), peer, now))
    }

    fn refuse_unknown(&self) -> &'static [u8] {
        version::HEADER
    }
}
