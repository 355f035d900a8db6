//! What operators say about queues by their names, on top of how clients have declared them.

use std::time::Duration;

use super::spec::{Overflow, QueueSpec};

/// Bounds for every queue that it applies to. What is absent changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueuePolicy {
    pub expires: Option<Duration>,
    /// For messages that come from then on.
    pub message_ttl: Option<Duration>,
    pub max_messages: Option<u64>,
    pub max_bytes: Option<u64>,
    pub overflow: Option<Overflow>,
    pub max_message_bytes: Option<u64>,
    pub delivery_limit: Option<u32>,
    pub dead_letter_exchange: Option<Box<str>>,
    pub dead_letter_key: Option<Box<str>>,
}

impl QueuePolicy {
    /// The bounds in force for a queue that was declared so: of two numbers the lower one, of anything else what was declared.
    #[must_use]
    pub fn in_force(&self, declared: &QueueSpec) -> QueueSpec {
        let names_overflow = declared.arguments.iter().any(|(name, _)| &**name == "x-overflow");
        QueueSpec {
            expires: lower(declared.expires, self.expires),
            message_ttl: lower(declared.message_ttl, self.message_ttl),
            max_messages: lower(declared.max_messages, self.max_messages),
            max_bytes: lower(declared.max_bytes, self.max_bytes),
            overflow: self.overflow.filter(|_| !names_overflow).unwrap_or(declared.overflow),
            max_message_bytes: lower(declared.max_message_bytes, self.max_message_bytes),
            // 0 is no limit, which is not the lowest one.
            delivery_limit: lower(declared.delivery_limit.filter(|limit| *limit > 0), self.delivery_limit)
                .or(declared.delivery_limit),
            dead_letter_exchange: declared
                .dead_letter_exchange
                .clone()
                .or_else(|| self.dead_letter_exchange.clone()),
            dead_letter_key: declared.dead_letter_key.clone().or_else(|| self.dead_letter_key.clone()),
            ..declared.clone()
        }
    }
}

fn lower<T: Ord + Copy>(declared: Option<T>, policy: Option<T>) -> Option<T> {
    match (declared, policy) {
        (Some(declared), Some(policy)) => Some(declared.min(policy)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;

    #[test]
    fn the_lower_number_and_the_declared_word() {
        let policy = QueuePolicy {
            max_messages: Some(10),
            message_ttl: Some(Duration::from_secs(1)),
            overflow: Some(Overflow::RejectPublish),
            delivery_limit: Some(5),
            dead_letter_exchange: Some("dlx".into()),
            ..QueuePolicy::default()
        };
        let plain = policy.in_force(&QueueSpec { durable: true, ..QueueSpec::default() });
        assert!(plain.durable);
        assert_eq!((plain.max_messages, plain.delivery_limit), (Some(10), Some(5)));
        assert_eq!(
            (plain.overflow, plain.dead_letter_exchange.as_deref()),
            (Overflow::RejectPublish, Some("dlx"))
        );
        let declared = QueueSpec {
            max_messages: Some(20),
            message_ttl: Some(Duration::from_millis(1)),
            delivery_limit: Some(0),
            dead_letter_exchange: Some("own".into()),
            arguments: vec![("x-overflow".into(), Value::from("drop-head"))],
            ..QueueSpec::default()
        };
        let both = policy.in_force(&declared);
        assert_eq!((both.max_messages, both.delivery_limit), (Some(10), Some(5)));
        assert_eq!(both.message_ttl, Some(Duration::from_millis(1)));
        assert_eq!((both.overflow, both.dead_letter_exchange.as_deref()), (Overflow::DropHead, Some("own")));
        assert_eq!(QueuePolicy::default().in_force(&declared), declared);
    }
}
