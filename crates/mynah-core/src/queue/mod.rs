//! The queue machine: entries, a ring of consumers with credit, what is out unsettled, and a policy.

mod spec;

pub use spec::{Overflow, QueueSpec};
