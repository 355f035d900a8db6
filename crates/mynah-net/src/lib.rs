//! Runs connections: listeners, protocol detection, the driver.
//!
//! # Layout
//!
//! - [`Net`] binds and accepts; [`driver`] is the read and write loop of every connection; [`transport`] is what it reads
//!   and writes; [`deadlines`] is the one timer of all connections
//!
//! Never: a concrete protocol or store, or a decision about messages.

pub mod deadlines;
pub mod driver;
mod inputs;
pub mod limits;
mod listener;
pub mod transport;

pub use listener::{ListenError, ListenerSpec, Net, NetConfig, Shared, Speaks};

#[cfg(test)]
mod tests;
