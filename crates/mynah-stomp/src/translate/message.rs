//! What a MESSAGE says beside its subscription: the facts by which it is handled, its history, its properties.

use std::time::Instant;

use bytes::BytesMut;
use mynah_core::{Content as MessageContent, Death, Message, Retain};

use super::FORMAT;
use super::content::Content;
use super::destination::{Style, text_of};
use crate::codec::{Escape, plain_header, transcode, write_header};

/// Appends the header lines of everything that is a fact of the message, not of the delivery.
pub(crate) fn write_facts(escape: Escape, style: Style, message: &Message, now: Instant, out: &mut BytesMut) {
    let header = &message.header;
    if let Some(priority) = header.priority {
        plain_header("priority:", u64::from(priority), out);
    }
    if header.durable() {
        out.extend_from_slice(b"persistent:true\n");
    }
    if let Some(ms) = message.ttl_left_ms(now) {
        plain_header("expiration:", ms, out);
    }
    if header.retain == Retain::Replayed {
        out.extend_from_slice(b"retained:true\n");
    }
    if let Some(last) = message.deaths.first() {
        write_death(escape, style, last, out);
        if let Some(first) = message.deaths.last() {
            write_header(escape, "x-first-death-cause", first.cause.name(), out);
            write_header(escape, "x-first-death-queue", &first.queue, out);
        }
    }
    match (&message.content, message.original(FORMAT)) {
        (MessageContent::None, _) => {}
        (_, Some(block)) => transcode(escape, block, out),
        _ => Content { escape, style, out }.write(message.properties()),
    }
}

/// The newest line of the dead-letter history; the oldest is named besides, as it tells where the message came from.
fn write_death(escape: Escape, style: Style, death: &Death, out: &mut BytesMut) {
    write_header(escape, "x-death-cause", death.cause.name(), out);
    write_header(escape, "x-death-queue", &death.queue, out);
    write_header(escape, "x-death-destination", &text_of(death.address.as_ref(), style), out);
    plain_header("x-death-count:", u64::from(death.count), out);
    write_header(escape, "x-death-time", &death.time_ms.to_string(), out);
    if let Some(reason) = &death.reason {
        write_header(escape, "x-death-reason", reason, out);
    }
    if let Some(ms) = death.original_ttl_ms {
        plain_header("x-death-original-expiration:", ms, out);
    }
}
