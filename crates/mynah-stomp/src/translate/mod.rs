//! STOMP's destinations and headers to the core's words and back.

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
