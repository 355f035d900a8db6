//! Large bytes of records: the records share them with the message, and the engine copies them once, to where it writes from.
//!
//! Never: copied twice on their way to the disk.

use bytes::Bytes;

/// Shorter ones are copied with what stands around them, which costs less than sharing them.
pub(super) const PART_MIN: usize = 4096;

/// Length and checksum in front of a record.
pub(super) const FRAME: usize = 8;

/// Bytes that belong between those at `at`, in the record that begins at `record`.
#[derive(Debug)]
pub(super) struct Part {
    record: usize,
    at: usize,
    bytes: Bytes,
}

impl Part {
    pub(super) fn new(record: usize, at: usize, bytes: Bytes) -> Self {
        Self { record, at, bytes }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// Hands on all bytes in order, those apart in their places and with the checksums that they need.
pub(super) fn join(bytes: &[u8], parts: &[Part], mut out: impl FnMut(&[u8])) {
    let between = |from: usize, to: usize| bytes.get(from..to).unwrap_or_default();
    let mut from = 0;
    for parts in parts.chunk_by(|one, other| one.record == other.record) {
        let Some(record) = parts.first().map(|part| part.record) else { continue };
        out(between(from, record));
        let length = bytes.get(record..).and_then(<[u8]>::first_chunk::<4>).copied().unwrap_or_default();
        let apart: usize = parts.iter().map(Part::len).sum();
        let end = (record + FRAME + u32::from_le_bytes(length) as usize).saturating_sub(apart);
        let pieces = |each: &mut dyn FnMut(&[u8])| {
            let mut at = record + FRAME;
            for part in parts {
                each(between(at, part.at));
                each(&part.bytes);
                at = part.at;
            }
            each(between(at, end));
        };
        let mut sum = 0;
        pieces(&mut |piece| sum = crc32c::crc32c_append(sum, piece));
        out(&length);
        out(&sum.to_le_bytes());
        pieces(&mut out);
        from = end;
    }
    out(between(from, bytes.len()));
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::address::AddressRef;
    use crate::delivery::DeliveryTag;
    use crate::engine::{
        EntryState, FormatEntry, Formats, QueueNumber, Records, SharedNumber, StoredEntry, WallClock,
        read_record,
    };
    use crate::message::{Format, Message, Properties};
    use crate::publish::{ContentRef, PublishRef};

    const FORMAT: Format = Format("test");

    fn decode(_: &[u8]) -> Properties {
        Properties::default()
    }

    fn message(properties: Option<usize>, body: usize) -> Message {
        let bytes = |length: usize, seed: usize| -> Vec<u8> {
            (0..length).map(|at| u8::try_from((at * 7 + seed) % 251).unwrap()).collect()
        };
        let (encoded, body) = (bytes(properties.unwrap_or_default(), 1), bytes(body, 2));
        let mut publish = PublishRef::new(AddressRef::Queue("q"), &body);
        if properties.is_some() {
            publish.content = ContentRef::Encoded { format: FORMAT, bytes: &encoded, decode };
        }
        Message::from_publish(&publish, Instant::now())
    }

    fn inside(whole: usize) -> Message {
        let bytes = vec![3; whole];
        let mut publish = PublishRef::new(AddressRef::Queue("q"), &bytes[10..]);
        publish.content = ContentRef::Encoded { format: FORMAT, bytes: &bytes, decode };
        Message::from_publish(&publish, Instant::now())
    }

    #[test]
    fn records_with_large_bytes_are_read_as_those_with_small_ones() {
        let clock = WallClock { at: Instant::now(), epoch_ms: 9 };
        let formats = Formats::new(vec![FormatEntry { format: FORMAT, decode: Some(decode), encode: None }]);
        let sizes = [0, 1, PART_MIN - 1, PART_MIN, 20_000];
        let mut messages: Vec<Message> = sizes.into_iter().map(|size| message(None, size)).collect();
        for properties in sizes {
            messages.extend(sizes.into_iter().map(|size| message(Some(properties), size)));
        }
        messages.extend([inside(100), inside(9_000)]);
        let mut records = Records::default();
        records.note(QueueNumber(1), 1, Some(b"first"));
        for (tag, message) in (1..).zip(&messages) {
            let shared = (tag % 3 == 0).then_some(SharedNumber(tag));
            records.message(&clock, QueueNumber(1), DeliveryTag(tag), EntryState::default(), shared, message);
            records.delivered(QueueNumber(1), DeliveryTag(tag));
        }
        let joined = records.joined();
        assert_eq!(joined.len(), records.size());
        let (mut rest, mut read) = (&*joined, Vec::<StoredEntry>::new());
        while !rest.is_empty() {
            let (record, used) = read_record(rest).unwrap();
            read.extend(record.entry(&clock, &formats, None));
            rest = &rest[used..];
        }
        let text = |message: &Message| format!("{:?}", (&message.body, &message.content, &message.address));
        assert_eq!(read.len(), messages.len());
        for (read, message) in read.iter().zip(&messages) {
            assert_eq!(text(&read.message), text(message));
        }
    }
}
