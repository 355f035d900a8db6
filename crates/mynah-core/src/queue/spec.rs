//! How a queue was declared, and what makes a second declaration equal.

use std::time::Duration;

use crate::exchange::{Arguments, difference, same};

/// What happens to a message that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The oldest ready message makes room; dead-lettered if there is a target.
    #[default]
    DropHead,
    /// The publisher is told no (`RefusalKind::Full`).
    RejectPublish,
    /// The publisher is told no, and the message is dead-lettered.
    DeadLetter,
}

/// The policy of one queue. Absent bounds mean the broker's defaults.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct QueueSpec {
    pub durable: bool,
    /// Only for the connection that declared it, and deleted with it.
    pub exclusive: bool,
    /// Deleted when its last consumer goes.
    pub auto_delete: bool,
    /// Deleted after being unused (no consumer, no get, no re-declaration) for so long.
    pub expires: Option<Duration>,
    pub message_ttl: Option<Duration>,
    pub max_messages: Option<u64>,
    pub max_bytes: Option<u64>,
    pub overflow: Overflow,
    pub max_message_bytes: Option<u64>,
    /// Highest priority that is told apart; absent = first in, first out.
    pub max_priority: Option<u8>,
    /// Failed attempts before a message is dead-lettered. `None`: the broker's default; `Some(0)`: no limit.
    pub delivery_limit: Option<u32>,
    pub single_active_consumer: bool,
    /// The exchange for dead letters ("" = the default exchange, so that the key names a queue).
    pub dead_letter_exchange: Option<Box<str>>,
    /// The key for dead letters; absent = the key the message had.
    pub dead_letter_key: Option<Box<str>>,
    /// As the client declared them, for listings and for comparing declarations.
    pub arguments: Arguments,
}

impl QueueSpec {
    /// Whether declaring it again as `other` is the same: arguments count by value, not by type.
    ///
    /// # Errors
    /// The text for the client: what differs, how it was asked for, and how it is.
    pub fn same_declaration(&self, other: &Self, name: &str, virtual_host: &str) -> Result<(), String> {
        let subject = format!("queue '{name}' in vhost '{virtual_host}'");
        same("durable", &subject, self.durable, other.durable)?;
        same("exclusive", &subject, self.exclusive, other.exclusive)?;
        same("auto_delete", &subject, self.auto_delete, other.auto_delete)?;
        difference(&self.arguments, &other.arguments, &subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;

    fn with(arguments: &[(&str, Value)]) -> QueueSpec {
        let arguments = arguments.iter().map(|(name, value)| ((*name).into(), value.clone())).collect();
        QueueSpec { arguments, ..QueueSpec::default() }
    }

    fn check(current: &QueueSpec, received: &QueueSpec, expected: Result<(), &str>) {
        let expected = expected.map_err(|text| {
            let (name, rest) = text.split_once(": ").unwrap();
            format!("inequivalent arg '{name}' for queue 'q' in vhost '/': {rest}")
        });
        assert_eq!(current.same_declaration(received, "q", "/"), expected);
    }

    #[test]
    fn declared_again() {
        let plain = QueueSpec::default();
        let durable = QueueSpec { durable: true, ..QueueSpec::default() };
        check(&plain, &plain, Ok(()));
        check(&plain, &durable, Err("durable: received 'true' but current is 'false'"));
        let ttl = |value| with(&[("x-message-ttl", value)]);
        check(&ttl(Value::U8(60)), &ttl(Value::I64(60)), Ok(()));
        let text = "x-message-ttl: received '61' but current is '60'";
        check(&ttl(Value::U8(60)), &ttl(Value::U8(61)), Err(text));
        check(&plain, &ttl(Value::U8(1)), Err("x-message-ttl: received '1' but current is none"));
        check(&ttl(Value::U8(1)), &plain, Err("x-message-ttl: received none but current is '1'"));
    }

    #[test]
    fn the_classic_type_is_the_default() {
        let kind = |name| with(&[("x-queue-type", Value::from(name))]);
        check(&QueueSpec::default(), &kind("classic"), Ok(()));
        check(&kind("classic"), &QueueSpec::default(), Ok(()));
        let text = "x-queue-type: received 'quorum' but current is none";
        check(&kind("classic"), &kind("quorum"), Err(text));
    }
}
