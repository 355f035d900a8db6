//! `mynah serve` as an operator and as a Rust client meet it.
//!
//! Never: tests what the broker does with messages in all protocols (the black-box suites under `tests/` do).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test of its own crate: clippy knows only #[test] functions as tests"
)]

mod process;
mod rumqttc;
mod serve;
