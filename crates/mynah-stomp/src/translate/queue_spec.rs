//! Queue arguments given as headers of SUBSCRIBE and SEND, with RabbitMQ's names.

use std::str::FromStr;
use std::time::Duration;

use mynah_core::Value;
use mynah_core::queue::{Overflow, QueueSpec};

use crate::codec::{Frame, number};
use crate::reason::Fault;

/// Whether a header speaks to the broker about the queue, not to the receiver.
pub(crate) fn is_queue_argument(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("x-") else { return false };
    matches!(
        rest,
        "dead-letter-exchange"
            | "dead-letter-routing-key"
            | "expires"
            | "message-ttl"
            | "max-length"
            | "max-length-bytes"
            | "max-message-bytes"
            | "max-priority"
            | "overflow"
            | "delivery-limit"
            | "single-active-consumer"
            | "queue-type"
    )
}

/// The policy a queue is made with if it does not exist, and whether the client said anything about it.
///
/// # Errors
/// A value that cannot be used.
pub(crate) fn queue_spec(frame: &Frame<'_>, durable: bool) -> Result<(QueueSpec, bool), Fault> {
    let mut spec = QueueSpec { durable, ..QueueSpec::default() };
    let mut said = false;
    for (name, value) in frame.headers() {
        let value = frame.text(value);
        said |= argument(&mut spec, name, &value)?;
    }
    Ok((spec, said))
}

fn argument(spec: &mut QueueSpec, name: &str, value: &str) -> Result<bool, Fault> {
    let millis = || parsed::<u64>(name, value, "milliseconds, in digits").map(Duration::from_millis);
    let count = || parsed::<u64>(name, value, "a number, in digits");
    match name {
        "x-dead-letter-exchange" => spec.dead_letter_exchange = Some(value.into()),
        "x-dead-letter-routing-key" => spec.dead_letter_key = Some(value.into()),
        "x-expires" => spec.expires = Some(millis()?),
        "x-message-ttl" => spec.message_ttl = Some(millis()?),
        "x-max-length" => spec.max_messages = Some(count()?),
        "x-max-length-bytes" => spec.max_bytes = Some(count()?),
        "x-max-message-bytes" => spec.max_message_bytes = Some(count()?),
        "x-max-priority" => spec.max_priority = Some(parsed(name, value, "a number from 0 to 255")?),
        "x-delivery-limit" => spec.delivery_limit = Some(attempts(name, value)?),
        "x-single-active-consumer" => spec.single_active_consumer = flag(name, value)?,
        "x-overflow" => {
            spec.overflow = match value.trim() {
                "drop-head" => Overflow::DropHead,
                "reject-publish" => Overflow::RejectPublish,
                "reject-publish-dlx" => Overflow::DeadLetter,
                _ => {
                    let expected = "drop-head, reject-publish or reject-publish-dlx";
                    return Err(Fault::bad_value(name, value, expected));
                }
            }
        }
        "x-queue-type" => {}
        "auto-delete" => {
            spec.auto_delete = flag(name, value)?;
            return Ok(true);
        }
        _ => return Ok(false),
    }
    if !spec.arguments.iter().any(|(own, _)| &**own == name) {
        spec.arguments.push((name.into(), argument_value(value)));
    }
    Ok(true)
}

/// As a client with types would have declared it, so that both declarations are equal.
fn argument_value(text: &str) -> Value {
    match text.trim() {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        digits => number::<i64>(digits).map_or_else(|| Value::from(text), Value::I64),
    }
}

fn parsed<T: FromStr>(name: &str, value: &str, expected: &str) -> Result<T, Fault> {
    number(value).ok_or_else(|| Fault::bad_value(name, value, expected))
}

/// As in 0-9-1: so many failed attempts are forgiven, and a negative number switches it off. The core counts attempts, and 0
/// is no limit.
fn attempts(name: &str, value: &str) -> Result<u32, Fault> {
    let negative = value.trim().strip_prefix('-').and_then(number::<u32>).is_some();
    if negative {
        return Ok(0);
    }
    parsed(name, value, "a number, -1 for no limit").map(|limit: u32| limit.saturating_add(1))
}

fn flag(name: &str, value: &str) -> Result<bool, Fault> {
    match value.trim() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Fault::bad_value(name, value, "true or false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(arguments: &[(&str, &str)]) -> Result<QueueSpec, Fault> {
        let mut spec = QueueSpec::default();
        for (name, value) in arguments {
            assert_eq!(is_queue_argument(name), *name != "auto-delete", "{name}");
            assert!(argument(&mut spec, name, value)?, "{name}");
        }
        Ok(spec)
    }

    #[test]
    fn rabbitmqs_arguments() {
        let spec = spec(&[
            ("x-max-length", "5"),
            ("x-max-length-bytes", "1000"),
            ("x-max-message-bytes", "100"),
            ("x-message-ttl", "60000"),
            ("x-expires", "1800000"),
            ("x-max-priority", "9"),
            ("x-overflow", "reject-publish-dlx"),
            ("x-delivery-limit", "-1"),
            ("x-single-active-consumer", "true"),
            ("x-dead-letter-exchange", ""),
            ("x-dead-letter-routing-key", "dead"),
            ("x-queue-type", "quorum"),
            ("auto-delete", "true"),
        ])
        .unwrap();
        assert_eq!(
            (spec.max_messages, spec.max_bytes, spec.max_message_bytes),
            (Some(5), Some(1000), Some(100))
        );
        assert_eq!(spec.message_ttl, Some(Duration::from_secs(60)));
        assert_eq!(spec.expires, Some(Duration::from_secs(1800)));
        assert_eq!((spec.max_priority, spec.overflow), (Some(9), Overflow::DeadLetter));
        assert_eq!((spec.delivery_limit, spec.single_active_consumer), (Some(0), true));
        assert_eq!(attempts("x-delivery-limit", "3").ok(), Some(4));
        assert_eq!(spec.dead_letter_exchange.as_deref(), Some(""));
        assert_eq!(spec.dead_letter_key.as_deref(), Some("dead"));
        assert!(spec.auto_delete);
        assert_eq!(spec.arguments.len(), 12);
        assert!(spec.arguments.contains(&("x-max-length".into(), Value::I64(5))));
        assert!(spec.arguments.contains(&("x-single-active-consumer".into(), Value::Bool(true))));
    }

    #[test]
    fn values_that_cannot_be() {
        for (name, value) in [
            ("x-max-length", "five"),
            ("x-message-ttl", "-1"),
            ("x-max-priority", "256"),
            ("x-overflow", "drop-tail"),
            ("x-single-active-consumer", "yes"),
        ] {
            assert!(spec(&[(name, value)]).is_err(), "{name}:{value}");
        }
    }
}
