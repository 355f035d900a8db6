//! Runs connections: listeners, protocol detection, the driver.
//!
//! # Layout
//!
//! - [`Net`] binds and accepts; [`driver`] is the read and write loop of every connection; [`transport`] is what it reads
//!   and writes: TCP, TLS, WebSocket, put together before the protocol begins (`admit`); [`deadlines`] is the one timer of all connections
//!
//! Never: a concrete protocol or store, or a decision about messages.

mod admit;
pub mod deadlines;
pub mod driver;
mod inputs;
pub mod limits;
mod listener;
mod proxy;
mod tls;
pub mod transport;
mod websocket;

pub use ipnet::IpNet;
pub use listener::{ListenError, ListenerSpec, Net, NetConfig, Shared, Speaks};
pub use tls::{ClientCertificate, TlsError, TlsSettings, UserFrom};
pub use websocket::WebSocketSettings;

#[cfg(test)]
mod tests;
