//! The arguments of declarations: `x-...` of queues, `alternate-exchange` of exchanges.
//!
//! What is not known is kept for comparing and listing, as RabbitMQ does with most of it.
//! Never: guesses; a known argument of the wrong type or range is refused with 406.

use std::time::Duration;

use mynah_core::Value;
use mynah_core::exchange::{Arguments, ExchangeKind, ExchangeSpec};
use mynah_core::queue::{Overflow, QueueSpec};

use crate::codec::field::Table;
use crate::reason::Fault;

/// The bits of `queue.declare`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueBits {
    pub(crate) durable: bool,
    pub(crate) exclusive: bool,
    pub(crate) auto_delete: bool,
}

/// Where an argument stands, for the text of a refusal: `queue 'q' in vhost '/'`.
struct Subject<'a> {
    arguments: &'a Arguments,
    what: String,
}

impl Subject<'_> {
    fn value(&self, name: &str) -> Option<&Value> {
        self.arguments.iter().find(|(key, _)| **key == *name).map(|(_, value)| value)
    }

    fn wrong(&self, name: &str, expected: &str) -> Fault {
        let value = self.value(name).map(Value::to_text).unwrap_or_default();
        Fault::precondition(format!("invalid arg '{name}' for {}: '{value}' is not {expected}", self.what))
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Fault> {
        let Some(value) = self.value(name) else { return Ok(None) };
        value.as_u64().map(Some).ok_or_else(|| self.wrong(name, "an integer of 0 or more"))
    }

    fn milliseconds(&self, name: &str) -> Result<Option<Duration>, Fault> {
        Ok(self.number(name)?.map(Duration::from_millis))
    }

    fn text(&self, name: &str) -> Result<Option<Box<str>>, Fault> {
        let Some(value) = self.value(name) else { return Ok(None) };
        value.as_str().map(|text| Some(text.into())).ok_or_else(|| self.wrong(name, "a string"))
    }

    /// A text that must be one of a few.
    fn one_of(&self, name: &str, choices: &[&str]) -> Result<Option<Box<str>>, Fault> {
        let text = self.text(name)?;
        match &text {
            Some(text) if !choices.contains(&&**text) => {
                Err(self.wrong(name, &format!("one of {}", choices.join(", "))))
            }
            _ => Ok(text),
        }
    }
}

pub(crate) fn queue_spec(
    name: &str,
    virtual_host: &str,
    bits: QueueBits,
    arguments: Table<'_>,
) -> Result<QueueSpec, Fault> {
    let arguments = arguments.to_arguments();
    let subject =
        Subject { arguments: &arguments, what: format!("queue '{name}' in vhost '{virtual_host}'") };
    subject.one_of("x-queue-type", &["classic", "quorum"])?;
    subject.one_of("x-queue-mode", &["default", "lazy"])?;
    let expires = subject.milliseconds("x-expires")?;
    if expires == Some(Duration::ZERO) {
        return Err(subject.wrong("x-expires", "an integer above 0"));
    }
    let overflow = match subject
        .one_of("x-overflow", &["drop-head", "reject-publish", "reject-publish-dlx"])?
        .as_deref()
    {
        Some("reject-publish") => Overflow::RejectPublish,
        Some("reject-publish-dlx") => Overflow::DeadLetter,
        _ => Overflow::DropHead,
    };
    let max_priority = match subject.number("x-max-priority")? {
        None => None,
        Some(number) => Some(
            u8::try_from(number).map_err(|_| subject.wrong("x-max-priority", "an integer from 0 to 255"))?,
        ),
    };
    let dead_letter_exchange = subject.text("x-dead-letter-exchange")?;
    let dead_letter_key = subject.text("x-dead-letter-routing-key")?;
    if dead_letter_key.is_some() && dead_letter_exchange.is_none() {
        return Err(Fault::precondition(format!(
            "invalid arg 'x-dead-letter-routing-key' for {}: it needs 'x-dead-letter-exchange'",
            subject.what
        )));
    }
    let single_active_consumer = match subject.value("x-single-active-consumer") {
        None => false,
        Some(value) => {
            value.as_bool().ok_or_else(|| subject.wrong("x-single-active-consumer", "a boolean"))?
        }
    };
    Ok(QueueSpec {
        durable: bits.durable,
        exclusive: bits.exclusive,
        auto_delete: bits.auto_delete,
        expires,
        message_ttl: subject.milliseconds("x-message-ttl")?,
        max_messages: subject.number("x-max-length")?,
        max_bytes: subject.number("x-max-length-bytes")?,
        overflow,
        max_message_bytes: subject.number("x-max-message-bytes")?,
        max_priority,
        delivery_limit: delivery_limit(&subject)?,
        single_active_consumer,
        dead_letter_exchange,
        dead_letter_key,
        arguments,
    })
}

/// RabbitMQ's limit counts returns: a message that was returned more often is dead-lettered. The core's counts attempts.
fn delivery_limit(subject: &Subject<'_>) -> Result<Option<u32>, Fault> {
    const NAME: &str = "x-delivery-limit";
    let Some(value) = subject.value(NAME) else { return Ok(None) };
    match value.as_i64() {
        // Any negative number switches it off.
        Some(..0) => Ok(Some(0)),
        Some(limit) => Ok(Some(u32::try_from(limit).unwrap_or(u32::MAX).saturating_add(1))),
        None => Err(subject.wrong(NAME, "an integer")),
    }
}

pub(crate) fn exchange_kind(name: &str) -> Option<ExchangeKind> {
    [ExchangeKind::Direct, ExchangeKind::Fanout, ExchangeKind::Topic, ExchangeKind::Headers]
        .into_iter()
        .find(|kind| kind.name() == name)
}

/// The bits of `exchange.declare`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExchangeBits {
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) internal: bool,
}

pub(crate) fn exchange_spec(
    name: &str,
    virtual_host: &str,
    kind: ExchangeKind,
    bits: ExchangeBits,
    arguments: Table<'_>,
) -> Result<ExchangeSpec, Fault> {
    let arguments = arguments.to_arguments();
    let subject =
        Subject { arguments: &arguments, what: format!("exchange '{name}' in vhost '{virtual_host}'") };
    let alternate = subject.text("alternate-exchange")?;
    Ok(ExchangeSpec {
        kind,
        durable: bits.durable,
        auto_delete: bits.auto_delete,
        internal: bits.internal,
        alternate,
        arguments,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::field::put_entry;
    use bytes::BytesMut;

    fn spec(arguments: &[(&str, Value)]) -> Result<QueueSpec, Fault> {
        let mut buf = BytesMut::new();
        for (key, value) in arguments {
            put_entry(&mut buf, key, value);
        }
        let bits = QueueBits { durable: true, exclusive: false, auto_delete: false };
        queue_spec("q", "/", bits, Table::new(&buf).unwrap())
    }

    #[test]
    fn known_arguments() {
        let found = spec(&[
            ("x-message-ttl", Value::I16(1000)),
            ("x-expires", Value::I32(2000)),
            ("x-max-length", Value::U8(3)),
            ("x-max-length-bytes", Value::I64(4)),
            ("x-max-message-bytes", Value::I32(5)),
            ("x-overflow", Value::from("reject-publish")),
            ("x-dead-letter-exchange", Value::from("")),
            ("x-dead-letter-routing-key", Value::from("dead")),
            ("x-max-priority", Value::I32(9)),
            ("x-delivery-limit", Value::I32(2)),
            ("x-single-active-consumer", Value::Bool(true)),
            ("x-queue-type", Value::from("quorum")),
            ("x-queue-mode", Value::from("lazy")),
            ("x-anything", Value::from("kept")),
        ])
        .unwrap();
        let expected = QueueSpec {
            durable: true,
            message_ttl: Some(Duration::from_secs(1)),
            expires: Some(Duration::from_secs(2)),
            max_messages: Some(3),
            max_bytes: Some(4),
            max_message_bytes: Some(5),
            overflow: Overflow::RejectPublish,
            dead_letter_exchange: Some("".into()),
            dead_letter_key: Some("dead".into()),
            max_priority: Some(9),
            delivery_limit: Some(3),
            single_active_consumer: true,
            arguments: found.arguments.clone(),
            ..QueueSpec::default()
        };
        assert_eq!(found, expected);
        assert_eq!(found.arguments.len(), 14);
    }

    #[test]
    fn wrong_arguments_are_refused() {
        let check = |name: &str, value: Value, text: &str| {
            let fault = spec(&[(name, value)]).unwrap_err();
            assert_eq!(fault.code, crate::reason::Code::PreconditionFailed);
            assert!(fault.text.contains(text), "{}", fault.text);
        };
        check("x-message-ttl", Value::I32(-1), "invalid arg 'x-message-ttl' for queue 'q' in vhost '/'");
        check("x-message-ttl", Value::from("a"), "'a' is not an integer");
        check("x-expires", Value::I32(0), "above 0");
        check("x-max-priority", Value::I32(256), "0 to 255");
        check("x-overflow", Value::from("explode"), "one of drop-head");
        check("x-queue-type", Value::from("stream"), "one of classic, quorum");
        check("x-dead-letter-routing-key", Value::from("k"), "needs 'x-dead-letter-exchange'");
        check("x-single-active-consumer", Value::from("yes"), "a boolean");
    }
}
