//! Large bytes of records: the records share them with the message, and the engine copies them once, to where it writes from.
//!
//! Never: copied twice on their way to the disk.

use bytes::Bytes;

/// Shorter ones are copied with what stands around them, which costs less than sharing them.
pub(super) const PART_MIN: usize = 4096;

/// Bytes that belong between those at `at`.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) at: usize,
    pub(super) bytes: Bytes,
}

/// Hands on all bytes behind `from` in order, those apart in their places.
pub(super) fn join(bytes: &[u8], mut from: usize, parts: &[Part], mut out: impl FnMut(&[u8])) {
    for part in parts {
        out(bytes.get(from..part.at).unwrap_or_default());
        out(&part.bytes);
        from = part.at;
    }
    out(bytes.get(from..).unwrap_or_default());
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
