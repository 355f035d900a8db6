//! HTTP around the broker: API, health, metrics.
//!
//! # Layout
//!
//! - [`Admin`] binds the two ports; [`api`] is `/api/v1`, described by [`openapi`]; [`view`] is what its JSON looks like
//! - [`health`] and [`metrics`] are for machines; [`access`] lets people in
//!
//! Never: a protocol, a socket of a client, a decision about messages.

pub mod access;
pub mod api;
pub mod error;
pub mod health;
pub mod metrics;
pub mod openapi;
mod policies;
pub mod publish;
mod server;
mod users;
pub mod view;

pub use server::{Admin, AdminConfig, Readiness};
