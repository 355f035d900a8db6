//! One copy of a message on its way to one consumer.

use std::sync::Arc;

use crate::message::Message;
use crate::wire::Wire;

/// A consumer's number, chosen by its connection and unique there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConsumerId(pub u32);

impl ConsumerId {
    /// The consumer through which a connection receives what its own durable session holds.
    /// It exists from `Reply::Opened` on without an attach; its credit is `SessionSpec::credit`.
    pub const SESSION: Self = Self(0);
}

/// Names one delivery until it is settled: the position of the message in its queue.
/// It does not change when the message is delivered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct DeliveryTag(pub u64);

/// One message handed to one consumer. The message is shared; what is particular to this delivery is here.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub consumer: ConsumerId,
    pub tag: DeliveryTag,
    pub message: Arc<Message>,
    /// Failed attempts so far; 0 the first time. Released messages do not count [AMQP 3.4.4].
    pub attempts: u32,
    /// True if the message was handed to any consumer before, counted or not.
    pub redelivered: bool,
    /// True if it is settled by being sent; the consumer must not settle it.
    pub settled: bool,
    /// Messages ready in the queue after this one was taken.
    pub remaining: u32,
    /// The subscription (several merged) by which it came, for consumers that subscribed with a [`Wire`].
    pub wire: Option<Arc<Wire>>,
}

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Done; the message leaves the queue.
    Accepted,
    /// Not wanted by this consumer nor any other: dead-lettered with cause `rejected`.
    Rejected { reason: Option<Box<str>> },
    /// Goes back to its place; the attempt does not count.
    Released,
    /// Goes back to its place; the attempt counts if `failed`. `undeliverable_here` keeps it from this consumer.
    Modified { failed: bool, undeliverable_here: bool },
}
