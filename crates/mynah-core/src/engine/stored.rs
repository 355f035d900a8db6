//! The canonical message as it is stored.
//!
//! The sender's encoding and the body are kept as they came. In a page a message may say "address and format as of the one
//! before"; in the journal each stands alone.

use std::sync::Arc;

use bytes::Bytes;

use super::clock::WallClock;
use super::fields::{Fault, Reader, put_bytes, put_text, put_varint};
use super::formats::Formats;
use super::parts::PART_MIN;
use super::values::{decode_address, decode_properties, encode_address, encode_properties};
use crate::body::Body;
use crate::message::{Cause, Content, Death, Format, Guarantee, Header, Message, Original, Retain};

// Bits of the first two bytes.
const RETAIN: u16 = 1 << 2;
const REPLAYED: u16 = 1 << 3;
const TEXT: u16 = 1 << 4;
const PRIORITY: u16 = 1 << 5;
const TTL: u16 = 1 << 6;
const DECODED: u16 = 1 << 7;
const ENCODED: u16 = 1 << 8;
/// The body is a part of the encoding.
const INSIDE: u16 = 1 << 9;
const DEATHS: u16 = 1 << 10;
const AS_BEFORE: u16 = 1 << 11;
const ALL: u16 = (1 << 12) - 1;

fn format_of(message: &Message) -> Option<Format> {
    match &message.content {
        Content::Encoded(original) => Some(original.format),
        Content::None | Content::Decoded(_) => None,
    }
}

/// Appends a message. `before` is the one before it in the same page, if there is one.
pub fn encode_message(out: &mut Vec<u8>, clock: &WallClock, message: &Message, before: Option<&Message>) {
    encode(out, clock, message, before, &mut |out, bytes, _body| put_bytes(out, bytes));
}

/// The same, but large bytes only shared: `apart` is told where they belong.
pub(super) fn encode_apart(
    out: &mut Vec<u8>,
    apart: &mut dyn FnMut(usize, Bytes),
    clock: &WallClock,
    message: &Message,
    before: Option<&Message>,
) {
    encode(out, clock, message, before, &mut |out, bytes, body| {
        if bytes.len() < PART_MIN {
            put_bytes(out, bytes);
        } else {
            put_varint(out, bytes.len() as u64);
            apart(out.len(), body.share(bytes));
        }
    });
}

/// Appends bytes of the body behind their length.
type Put<'a> = dyn FnMut(&mut Vec<u8>, &[u8], &Body) + 'a;

fn encode(
    out: &mut Vec<u8>,
    clock: &WallClock,
    message: &Message,
    before: Option<&Message>,
    put: &mut Put<'_>,
) {
    let header = &message.header;
    let inside = match &message.content {
        Content::Encoded(_) => message.body.inside(),
        Content::None | Content::Decoded(_) => None,
    };
    let as_before = before
        .is_some_and(|other| other.address == message.address && format_of(other) == format_of(message));
    let flag = |bit: u16, set: bool| if set { bit } else { 0 };
    let guarantee = match header.guarantee {
        Guarantee::AtMostOnce => 0,
        Guarantee::AtLeastOnce => 1,
        Guarantee::ExactlyOnce => 2,
    };
    let flags = guarantee
        | flag(RETAIN, header.retain == Retain::Keep)
        | flag(REPLAYED, header.retain == Retain::Replayed)
        | flag(TEXT, header.text)
        | flag(PRIORITY, header.priority.is_some())
        | flag(TTL, header.ttl_ms.is_some())
        | flag(DECODED, matches!(message.content, Content::Decoded(_)))
        | flag(ENCODED, matches!(message.content, Content::Encoded(_)))
        | flag(INSIDE, inside.is_some())
        | flag(DEATHS, !message.deaths.is_empty())
        | flag(AS_BEFORE, as_before);
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&clock.epoch_ms(message.received).to_le_bytes());
    out.extend(header.priority);
    if let Some(ttl) = header.ttl_ms {
        put_varint(out, ttl);
    }
    if !as_before {
        encode_address(out, &message.address);
    }
    match &message.content {
        Content::None => {}
        Content::Decoded(properties) => encode_properties(out, properties),
        Content::Encoded(original) => {
            if !as_before {
                put_text(out, original.format.0);
            }
            put(out, message.body.encoded(), &message.body);
        }
    }
    if !message.deaths.is_empty() {
        encode_deaths(out, &message.deaths);
    }
    match inside {
        Some(start) => {
            put_varint(out, start as u64);
            put_varint(out, message.body.len() as u64);
        }
        None => put(out, &message.body, &message.body),
    }
}

fn encode_deaths(out: &mut Vec<u8>, deaths: &[Death]) {
    put_varint(out, deaths.len() as u64);
    for death in deaths {
        put_text(out, death.cause.name());
        put_text(out, &death.queue);
        encode_address(out, &death.address);
        out.extend_from_slice(&death.time_ms.to_le_bytes());
        put_varint(out, u64::from(death.count));
        out.push(u8::from(death.reason.is_some()) | u8::from(death.original_ttl_ms.is_some()) << 1);
        if let Some(reason) = &death.reason {
            put_text(out, reason);
        }
        if let Some(ttl) = death.original_ttl_ms {
            put_varint(out, ttl);
        }
    }
}

fn decode_deaths(reader: &mut Reader<'_>) -> Result<Vec<Death>, Fault> {
    let mut deaths = Vec::new();
    for _ in 0..reader.varint()? {
        let name = reader.text()?;
        let cause = Cause::ALL.into_iter().find(|cause| cause.name() == name).ok_or(Fault::Unknown)?;
        let queue = reader.shared()?;
        let address = decode_address(reader)?;
        let (time_ms, count) = (reader.i64()?, reader.varint32()?);
        let has = reader.u8()?;
        let reason = if has & 1 == 0 { None } else { Some(reader.boxed()?) };
        let original_ttl_ms = if has & 2 == 0 { None } else { Some(reader.varint()?) };
        deaths.push(Death { cause, queue, address, time_ms, count, reason, original_ttl_ms });
    }
    Ok(deaths)
}

/// Reads a message, to the end of `reader`. `before` is the one before it in the same page.
///
/// # Errors
/// It is damaged, or says "as before" and nothing was before.
pub fn decode_message(
    reader: &mut Reader<'_>,
    clock: &WallClock,
    formats: &Formats,
    before: Option<&Message>,
) -> Result<Message, Fault> {
    let flags = reader.u16()?;
    if flags & !ALL != 0 {
        return Err(Fault::Unknown);
    }
    let has = |bit: u16| flags & bit != 0;
    let before = if has(AS_BEFORE) { Some(before.ok_or(Fault::Unknown)?) } else { None };
    let received = clock.instant(reader.i64()?);
    let guarantee = match flags & 3 {
        0 => Guarantee::AtMostOnce,
        1 => Guarantee::AtLeastOnce,
        2 => Guarantee::ExactlyOnce,
        _ => return Err(Fault::Unknown),
    };
    let retain = match (has(RETAIN), has(REPLAYED)) {
        (true, _) => Retain::Keep,
        (_, true) => Retain::Replayed,
        _ => Retain::No,
    };
    let priority = if has(PRIORITY) { Some(reader.u8()?) } else { None };
    let ttl_ms = if has(TTL) { Some(reader.varint()?) } else { None };
    let header = Header { guarantee, retain, priority, ttl_ms, text: has(TEXT) };
    let address = match before {
        Some(before) => before.address.clone(),
        None => decode_address(reader)?,
    };
    let mut content = Content::None;
    let mut encoded = None;
    if has(DECODED) {
        content = Content::Decoded(Box::new(decode_properties(reader)?));
    } else if has(ENCODED) {
        let known = match before {
            Some(before) => match &before.content {
                Content::Encoded(original) => Some((original.format, original.decoder())),
                Content::None | Content::Decoded(_) => None,
            },
            None => formats.decoder(reader.text()?),
        };
        encoded = Some((known, reader.bytes()?));
    }
    let deaths = if has(DEATHS) { decode_deaths(reader)? } else { Vec::new() };
    let body = match (has(INSIDE), encoded) {
        (true, Some((_, bytes))) => {
            let (start, length) = (reader.varint()?, reader.varint()?);
            let bounds = || Some((usize::try_from(start).ok()?, usize::try_from(length).ok()?));
            let part = |(start, length): (usize, usize)| bytes.get(start..start.checked_add(length)?);
            bounds().and_then(part).ok_or(Fault::Short)?
        }
        (true, None) => return Err(Fault::Unknown),
        (false, _) => reader.bytes()?,
    };
    let body = match encoded {
        // A protocol that is not there any more: its properties cannot be read, the body can.
        None | Some((None, _)) => Body::new(body),
        Some((Some((format, decode)), bytes)) => {
            content = Content::Encoded(Box::new(Original::new(format, decode)));
            Body::with_encoded(bytes, body)
        }
    };
    Ok(Message { address, header, content, body, deaths, received })
}

/// As [`decode_message`], shared.
pub(super) fn decode_shared(
    bytes: &[u8],
    clock: &WallClock,
    formats: &Formats,
    before: Option<&Message>,
) -> Result<Arc<Message>, Fault> {
    decode_message(&mut Reader::new(bytes), clock, formats, before).map(Arc::new)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use bytes::Bytes;

    use super::*;
    use crate::address::{Address, AddressRef};
    use crate::engine::FormatEntry;
    use crate::message::Properties;
    use crate::publish::{ContentRef, PublishRef};
    use crate::value::Value;

    fn decode(bytes: &[u8]) -> Properties {
        Properties { user_id: Some(Bytes::copy_from_slice(bytes)), ..Properties::default() }
    }

    const FORMAT: Format = Format("test");

    fn formats() -> Formats {
        Formats::new(vec![FormatEntry { format: FORMAT, decode: Some(decode), encode: None }])
    }

    /// Debug shows all of a message but whether the properties were decoded.
    fn check(message: &Message, before: Option<&Message>) -> Message {
        let clock = WallClock { at: message.received, epoch_ms: 1_700_000_000_000 };
        let mut out = Vec::new();
        encode_message(&mut out, &clock, message, before);
        let mut reader = Reader::new(&out);
        let back = decode_message(&mut reader, &clock, &formats(), before).unwrap();
        assert!(reader.is_empty());
        assert_eq!(format!("{back:?}"), format!("{message:?}"));
        for end in 0..out.len() {
            let short = out.get(..end).unwrap();
            assert!(decode_message(&mut Reader::new(short), &clock, &formats(), before).is_err());
        }
        back
    }

    fn plain(body: &[u8]) -> Message {
        Message::from_publish(&PublishRef::new(AddressRef::Topic("a/b"), body), Instant::now())
    }

    #[test]
    fn messages_come_back() {
        let now = Instant::now();
        let first = plain(b"");
        check(&first, None);
        check(&plain(b"x"), Some(&first));
        let header = Header {
            guarantee: Guarantee::ExactlyOnce,
            retain: Retain::Keep,
            priority: Some(9),
            ttl_ms: Some(1 << 40),
            text: true,
        };
        let encoded = b"head-body-tail".as_slice();
        for body in [encoded.get(5..9).unwrap(), b"else"] {
            let content = ContentRef::Encoded { format: FORMAT, bytes: encoded, decode };
            let address = AddressRef::Exchange { name: "e", key: "k" };
            let publish = PublishRef { header, content, ..PublishRef::new(address, body) };
            let message = Message::from_publish(&publish, now);
            let back = check(&message, None);
            assert_eq!(back.properties().user_id.as_deref(), Some(encoded));
            check(&message, Some(&message));
        }
        let properties = Properties {
            reply_to: Some(Address::Client("c".into())),
            correlation_id: Some(Value::Uuid([7; 16])),
            application: vec![("a".into(), Value::from("b")), ("a".into(), Value::U8(1))],
            creation_ms: Some(-1),
            group_sequence: Some(3),
            ..Properties::default()
        };
        let content = ContentRef::Decoded(&properties);
        let publish = PublishRef { header, content, ..PublishRef::new(AddressRef::Queue("q"), b"b") };
        let message = Message::from_publish(&publish, now);
        let death = Death {
            cause: Cause::ReadCount,
            queue: "q".into(),
            address: message.address.clone(),
            time_ms: 5,
            count: 2,
            reason: Some("why".into()),
            original_ttl_ms: Some(4),
        };
        check(&message.dead_lettered(death, now), Some(&message));
    }

    #[test]
    fn a_format_nobody_knows_keeps_the_body() {
        let content = ContentRef::Encoded { format: FORMAT, bytes: b"props", decode };
        let publish = PublishRef { content, ..PublishRef::new(AddressRef::Queue("q"), b"body") };
        let message = Message::from_publish(&publish, Instant::now());
        let clock = WallClock { at: message.received, epoch_ms: 0 };
        let mut out = Vec::new();
        encode_message(&mut out, &clock, &message, None);
        let back = decode_message(&mut Reader::new(&out), &clock, &Formats::default(), None).unwrap();
        assert!(matches!(back.content, Content::None) && back.body.as_ref() == b"body");
    }
}
