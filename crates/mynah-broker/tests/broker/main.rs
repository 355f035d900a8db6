//! The broker without sockets and protocols: connections are driven as the driver does, in virtual time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "in a test a surprise ends the test"
)]

mod exchanges;
mod lab;
mod queues;
mod random;
mod sessions;
mod stress;
mod subscriptions;
mod transactions;
