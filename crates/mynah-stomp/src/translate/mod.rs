//! STOMP's destinations and headers to the core's words and back.
//!
//! | header of SEND | core | header of MESSAGE |
//! |---|---|---|
//! | `content-type`, `content-encoding`, `correlation-id`, `user-id`, `app-id`, `type`, `group-id` (`JMSXGroupID`), `group-sequence` (`JMSXGroupSeq`), `reply-to-group-id` | the property of that name (`type`: kind) | the same |
//! | `reply-to` (a destination; `/temp-queue/x` of the connection) | `reply_to` | the destination that leads there |
//! | `message-id` or `amqp-message-id` | `message_id` | `amqp-message-id`; `message-id` is the broker's |
//! | `timestamp` (ms since 1970) | `creation_ms` | `timestamp` |
//! | `expiration` or `ttl` (ms) | `ttl_ms` | `expiration`: what is left |
//! | `expires` (ms since 1970, 0 = never) | `absolute_expiry_ms` and `ttl_ms` | `expires` and `expiration` |
//! | `priority` | `priority` | `priority` |
//! | `persistent:true` | at least once | `persistent:true` |
//! | `retain:true` | kept as the topic's last value | `retained:true` on a copy from the store |
//! | no `content-length`, `content-type:text/...` or `amq-msg-type:text` | `text` | - |
//! | all others | application properties, in order | the same |
//! | - | `to`, `subject` | `to`, `subject` |
//! | - | attempts, handed out before | `delivery-count`, `redelivered` |
//! | - | dead-letter history | `x-death-cause`, `-queue`, `-destination`, `-count`, `-time` (ms), `-reason`, `-original-expiration`, `x-first-death-cause`, `-queue` |

mod content;
mod destination;
mod durable;
mod message;
mod queue_spec;
mod send;

use mynah_core::Format;

pub(crate) use content::decode;
pub(crate) use destination::{Destination, Style, filter, reply_queue, text_of};
pub(crate) use durable::{durable_name, is_durable};
pub(crate) use message::write_facts;
pub(crate) use queue_spec::{is_queue_argument, queue_spec};
pub(crate) use send::Send;

/// The header lines of a SEND that describe its content, escaped as in 1.2: what travels untouched to STOMP receivers.
pub const FORMAT: Format = Format("stomp");
