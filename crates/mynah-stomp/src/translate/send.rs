//! The headers of a SEND: what they ask of the broker, and what they tell the receiver.
//!
//! One pass. What the receiver shall see is collected in a block of header lines, escaped as in 1.2 and without
//! repetitions, which travels untouched to STOMP receivers and is decoded only if another protocol asks.

use std::collections::HashSet;
use std::time::Instant;

use bytes::BytesMut;
use mynah_core::{Guarantee, Header, Retain};

use super::is_queue_argument;
use crate::codec::{Escape, Frame, number, write_header};
use crate::config::StompConfig;
use crate::reason::Fault;

/// Up to so many headers, repetitions are looked for by comparing each with each.
const FEW: usize = 16;

/// What a SEND says, as it was written: values keep their escapes.
#[derive(Debug, Default)]
pub(crate) struct Send<'a> {
    pub(crate) destination: Option<&'a str>,
    pub(crate) receipt: Option<&'a str>,
    pub(crate) transaction: Option<&'a str>,
    pub(crate) reply_to: Option<&'a str>,
    pub(crate) header: Header,
    /// It says how the queue shall be made.
    pub(crate) queue_arguments: bool,
}

/// What decides on more than one header.
#[derive(Debug, Default)]
struct Seen {
    persistent: Option<bool>,
    text_type: bool,
    body_kind: Option<bool>,
    message_id: bool,
}

impl<'a> Send<'a> {
    /// Reads the headers; appends those for the receiver to `block`, except `reply-to`.
    ///
    /// # Errors
    /// A header whose value cannot be used.
    pub(crate) fn read(
        frame: &Frame<'a>,
        config: &StompConfig,
        now: Instant,
        block: &mut BytesMut,
    ) -> Result<Self, Fault> {
        let mut send = Self::default();
        let mut seen = Seen::default();
        let mut names = Names::new(frame);
        for (at, (name, value)) in frame.headers().enumerate() {
            match name {
                "destination" => first(&mut send.destination, value),
                "receipt" => first(&mut send.receipt, value),
                "transaction" => first(&mut send.transaction, value),
                "reply-to" => first(&mut send.reply_to, value),
                // Read by the scanner, or said anew to each receiver.
                "content-length" | "subscription" | "ack" | "redelivered" | "delivery-count" | "retained" => {
                }
                "persistent" => first(&mut seen.persistent, value.trim() == "true"),
                "amq-msg-type" => first(&mut seen.body_kind, value.trim() == "text"),
                "priority" | "expiration" | "ttl" | "retain" => send.fact(name, value)?,
                _ if is_queue_argument(name) => send.queue_arguments = true,
                _ if !names.is_first(frame, at, name) => {}
                "expires" => {
                    let epoch_ms: i64 =
                        parsed(name, value, "milliseconds since 1970, in digits; 0 for never")?;
                    if epoch_ms != 0 {
                        send.expires(epoch_ms, config, now);
                        write_header(Escape::V1_2, name, value.trim(), block);
                    }
                }
                // In a MESSAGE, `message-id` is the broker's own; the sender's goes by RabbitMQ's name for it.
                "message-id" | "amqp-message-id" if seen.message_id => {}
                "message-id" | "amqp-message-id" => {
                    seen.message_id = true;
                    write_header(Escape::V1_2, "amqp-message-id", &frame.text(value), block);
                }
                _ => {
                    seen.text_type |= name == "content-type" && value.trim_start().starts_with("text/");
                    frame.copy(at, block);
                }
            }
        }
        if seen.persistent.unwrap_or(config.persistent_default) {
            send.header.guarantee = Guarantee::AtLeastOnce;
        }
        // A client that counts bytes sends bytes, one that does not sends text: what JMS receivers are used to.
        send.header.text = seen.body_kind.unwrap_or(!frame.counted || seen.text_type);
        Ok(send)
    }

    fn fact(&mut self, name: &str, value: &str) -> Result<(), Fault> {
        match name {
            "priority" => {
                let priority = parsed(name, value, "a number from 0 to 255")?;
                self.header.priority.get_or_insert(priority);
            }
            "retain" => match value.trim() {
                "true" | "set" => self.header.retain = Retain::Keep,
                "false" => {}
                _ => return Err(Fault::bad_value(name, value, "true or false")),
            },
            _ => {
                let ms: u64 = parsed(name, value, "milliseconds to live, in digits")?;
                if ms > 0 {
                    self.live_at_most(ms);
                }
            }
        }
        Ok(())
    }

    fn expires(&mut self, epoch_ms: i64, config: &StompConfig, now: Instant) {
        if let Some(clock) = config.clock {
            let left = epoch_ms.saturating_sub(clock.epoch_ms(now));
            // Late already: one millisecond, as 0 would mean for ever.
            self.live_at_most(u64::try_from(left).unwrap_or_default().max(1));
        }
    }

    fn live_at_most(&mut self, ms: u64) {
        self.header.ttl_ms = Some(self.header.ttl_ms.map_or(ms, |other| other.min(ms)));
    }
}

fn first<T>(place: &mut Option<T>, value: T) {
    if place.is_none() {
        *place = Some(value);
    }
}

fn parsed<T: std::str::FromStr>(name: &str, value: &str, expected: &str) -> Result<T, Fault> {
    number(value).ok_or_else(|| Fault::bad_value(name, value, expected))
}

/// Tells repeated headers from first ones [STOMP 1.2, Repeated Header Entries].
enum Names<'a> {
    Few,
    /// Comparing each with each would let one frame cost a million comparisons.
    Many(HashSet<&'a str>),
}

impl<'a> Names<'a> {
    fn new(frame: &Frame<'a>) -> Self {
        if frame.headers_len() <= FEW { Self::Few } else { Self::Many(HashSet::new()) }
    }

    fn is_first(&mut self, frame: &Frame<'a>, at: usize, name: &'a str) -> bool {
        match self {
            Self::Few => !frame.is_repeated(at, name),
            Self::Many(names) => names.insert(name),
        }
    }
}
