//! Runs queues: routing table, sessions, retained messages, policies, transactions, access.
//!
//! # Layout
//!
//! - [`Broker`] holds virtual hosts ([`VirtualHost`]) and connections; [`ConnectionHost`] is what a connection sees of it
//! - the hot path: [`batch`] (runs), [`routing`] (routes and their caches), [`inbox`], [`queues`]
//! - the rest: [`sessions`], [`retained`], [`access`], [`timers`], [`metrics`], [`operator`], [`users`], [`policies`]
//!
//! Never: a socket, HTTP, a concrete protocol or store.

pub mod access;
pub mod batch;
mod bindings;
mod broker;
mod config;
pub mod connections;
mod delayed;
pub mod durable;
mod guard;
pub mod host;
pub mod inbox;
pub mod limits;
pub mod metrics;
pub mod operator;
pub mod policies;
pub mod pool;
pub mod queues;
pub mod retained;
pub mod routing;
pub mod rules;
pub mod scram;
pub mod sessions;
mod sys;
pub mod timers;
pub mod users;
mod virtual_host;

pub use broker::{Broker, Shared, StartError};
pub use config::{Anonymous, AuthConfig, BrokerConfig, Password, QueueConfig, User};
pub use host::{ConnectionHost, Turn};
pub use inbox::{Inbox, Taken};
pub use rules::{Action, Rule};
pub use virtual_host::{CLIENT_EXCHANGE, TOPIC_EXCHANGE, VirtualHost};
