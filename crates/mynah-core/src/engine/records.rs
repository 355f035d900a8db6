//! What the broker tells the log, record by record.
//!
//! A record is `length u32 | crc32c u32 | kind u8 | fields`; length and checksum are of kind and fields. Numbers on disk are
//! little-endian. The same record of a message stands in the journal and in pages.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::clock::WallClock;
use super::fields::{Fault, Reader, put_bytes, put_varint};
use super::formats::Formats;
use super::frames::FRAME;
use super::parts::{Part, join};
use super::stored::{decode_shared, encode_apart};
use super::wires::{StoredWire, put_wire};
use super::{Extent, QueueNumber, Space, StoredEntry};
use crate::delivery::DeliveryTag;
use crate::message::Message;
use crate::wire::Wire;

const MESSAGE: u8 = 1;
const COPY: u8 = 2;
const SETTLED: u8 = 3;
const ATTEMPTS: u8 = 4;
const DELIVERED: u8 = 5;
const NOTE: u8 = 6;
const PUT: u8 = 7;
const DELETE: u8 = 8;
const PAGE_DROPPED: u8 = 9;
const QUEUE_DROPPED: u8 = 10;
const PAGED: u8 = 11;

const REDELIVERED: u8 = 1;
const HAS_ATTEMPTS: u8 = 2;
const HAS_WIRE: u8 = 4;
const DURABLE: u8 = 8;

/// Names a message that several queues hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SharedNumber(pub u64);

/// What a queue knows of a message in it.
#[derive(Debug, Clone, Copy, Default)]
pub struct EntryState<'a> {
    pub attempts: u32,
    pub redelivered: bool,
    pub wire: Option<&'a Wire>,
    pub durable: bool,
}

/// A message has left a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gone {
    pub extent: Extent,
    pub tag: DeliveryTag,
}

/// Records that survive together or not at all. Reused; keeps its capacity. Large bodies are shared with their messages until
/// [`Records::clear`].
#[derive(Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
    parts: Vec<Part>,
    held: u32,
    held_in: Vec<(Extent, u32)>,
    released: Vec<(Extent, u32)>,
    sync: bool,
}

impl Records {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.parts.clear();
        self.held = 0;
        self.held_in.clear();
        self.released.clear();
        self.sync = false;
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.released.is_empty()
    }

    /// How many bytes the records have.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len() + self.parts.iter().map(|part| part.bytes.len()).sum::<usize>()
    }

    /// Hands on all bytes in order.
    pub fn join_to(&self, out: impl FnMut(&[u8])) {
        join(&self.bytes, 0, &self.parts, out);
    }

    /// The records.
    #[must_use]
    pub fn joined(&self) -> Cow<'_, [u8]> {
        if self.parts.is_empty() {
            return Cow::Borrowed(&self.bytes);
        }
        let mut all = Vec::with_capacity(self.size());
        self.join_to(|piece| all.extend_from_slice(piece));
        Cow::Owned(all)
    }

    /// How many messages the extent that these records are written to will hold.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.held
    }

    /// How many more messages other extents hold: copies of messages that stand there.
    #[must_use]
    pub fn held_in(&self) -> &[(Extent, u32)] {
        &self.held_in
    }

    /// The extent that these records are written to is wanted once more, until that is released: the copies of a message in it
    /// are still to come.
    pub fn hold(&mut self) {
        self.held += 1;
    }

    /// How many messages leave which extents.
    #[must_use]
    pub fn released(&self) -> &[(Extent, u32)] {
        &self.released
    }

    /// Somebody waits for these to be safe; otherwise they become so in time.
    pub fn demand_sync(&mut self) {
        self.sync = true;
    }

    #[must_use]
    pub fn demands_sync(&self) -> bool {
        self.sync
    }

    fn record(&mut self, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.open(kind);
        fill(&mut self.bytes);
        close(&mut self.bytes, start, &[]);
    }

    fn open(&mut self, kind: u8) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; FRAME]);
        self.bytes.push(kind);
        start
    }

    fn message_record(&mut self, fill: impl FnOnce(&mut Vec<u8>, &mut dyn FnMut(usize, Bytes))) {
        let (start, known) = (self.open(MESSAGE), self.parts.len());
        let Self { bytes, parts, .. } = self;
        fill(bytes, &mut |at, bytes| parts.push(Part { at, bytes }));
        close(bytes, start, parts.get(known..).unwrap_or_default());
    }

    /// A message has entered a queue. `shared` lets other queues hold it too, see [`Records::copy`].
    pub fn message(
        &mut self,
        clock: &WallClock,
        queue: QueueNumber,
        tag: DeliveryTag,
        state: EntryState<'_>,
        shared: Option<SharedNumber>,
        message: &Message,
    ) {
        self.message_record(|out, apart| {
            put_varint(out, queue.0);
            put_varint(out, tag.0);
            put_varint(out, shared.map_or(0, |number| number.0));
            put_state(out, state);
            encode_apart(out, apart, clock, message, None);
        });
        self.held += 1;
    }

    /// The message of this number, which was appended before, has entered another queue. Its body is not written again; it
    /// counts as held by `body`, the extent where it stands, and leaves its queue from there. `PENDING`: the body is among
    /// these records.
    pub fn copy(
        &mut self,
        of: SharedNumber,
        body: Extent,
        queue: QueueNumber,
        tag: DeliveryTag,
        state: EntryState<'_>,
    ) {
        self.record(COPY, |out| {
            put_varint(out, queue.0);
            put_varint(out, tag.0);
            put_varint(out, of.0);
            put_state(out, state);
        });
        if body == Extent::PENDING {
            self.held += 1;
        } else {
            add(&mut self.held_in, body, 1);
        }
    }

    /// Messages have left a queue for good. Sorts them.
    pub fn settled(&mut self, queue: QueueNumber, gone: &mut [Gone]) {
        gone.sort_unstable();
        for same in gone.chunk_by(|one, other| one.extent == other.extent) {
            let Some(extent) = same.first().map(|first| first.extent) else { continue };
            if extent.is_none() {
                continue;
            }
            self.release(extent, u32::try_from(same.len()).unwrap_or(u32::MAX));
            let page = if extent.is_page() { extent.number() } else { 0 };
            self.record(SETTLED, |out| {
                put_varint(out, queue.0);
                put_varint(out, u64::from(page));
                put_runs(out, same.iter().map(|gone| gone.tag));
            });
        }
    }

    /// Messages, by their tags in order, stand in a page now: what the journal holds of them is of no account any more. The
    /// page is safe already.
    pub fn paged(&mut self, queue: QueueNumber, page: Extent, tags: impl Iterator<Item = DeliveryTag>) {
        self.record(PAGED, |out| {
            put_varint(out, queue.0);
            put_varint(out, u64::from(page.number()));
            put_runs(out, tags);
        });
    }

    /// Messages leave an extent without leaving their queue: they were appended again, or written to a page.
    pub fn release(&mut self, extent: Extent, count: u32) {
        if count > 0 && !extent.is_none() {
            add(&mut self.released, extent, count);
        }
    }

    /// The attempts of a message have changed.
    pub fn attempts(&mut self, queue: QueueNumber, tag: DeliveryTag, attempts: u32) {
        self.record(ATTEMPTS, |out| {
            put_varint(out, queue.0);
            put_varint(out, tag.0);
            put_varint(out, u64::from(attempts));
        });
    }

    /// Messages up to this one may have been handed to a consumer.
    pub fn delivered(&mut self, queue: QueueNumber, upto: DeliveryTag) {
        self.record(DELIVERED, |out| {
            put_varint(out, queue.0);
            put_varint(out, upto.0);
        });
    }

    /// What a protocol remembers with a session; `None` forgets it.
    pub fn note(&mut self, queue: QueueNumber, key: u32, value: Option<&[u8]>) {
        self.record(NOTE, |out| {
            put_varint(out, queue.0);
            put_varint(out, u64::from(key));
            out.push(u8::from(value.is_some()));
            out.extend_from_slice(value.unwrap_or_default());
        });
    }

    pub fn put(&mut self, space: Space, key: &[u8], value: &[u8]) {
        self.record(PUT, |out| {
            out.push(space as u8);
            put_bytes(out, key);
            out.extend_from_slice(value);
        });
    }

    pub fn delete(&mut self, space: Space, key: &[u8]) {
        self.record(DELETE, |out| {
            out.push(space as u8);
            out.extend_from_slice(key);
        });
    }

    /// All that is in a page has left its queue.
    pub fn page_dropped(&mut self, queue: QueueNumber, page: Extent) {
        self.record(PAGE_DROPPED, |out| {
            put_varint(out, queue.0);
            put_varint(out, u64::from(page.number()));
        });
    }

    /// The queue is gone, with its notes and pages. What it held in the journal is released by [`Records::release`].
    pub fn queue_dropped(&mut self, queue: QueueNumber) {
        self.record(QUEUE_DROPPED, |out| put_varint(out, queue.0));
    }

    /// A message of a page, which may lean on the one before it. Only for the engine that writes pages.
    pub fn page_message(&mut self, clock: &WallClock, entry: &StoredEntry, before: Option<&Message>) {
        self.message_record(|out, apart| {
            put_varint(out, 0);
            put_varint(out, entry.tag.0);
            put_varint(out, 0);
            let StoredEntry { attempts, redelivered, durable, .. } = *entry;
            put_state(out, EntryState { attempts, redelivered, durable, wire: entry.wire.as_deref() });
            encode_apart(out, apart, clock, &entry.message, before);
        });
    }
}

/// Tags in order: each run by the gap before it and its length.
fn put_runs(out: &mut Vec<u8>, tags: impl Iterator<Item = DeliveryTag>) {
    let (mut next, mut run) = (0, None::<(u64, u64)>);
    let mut put = |(first, count): (u64, u64), out: &mut Vec<u8>| {
        put_varint(out, first - next);
        put_varint(out, count);
        next = first + count;
    };
    for DeliveryTag(tag) in tags {
        run = match run {
            Some((first, count)) if first + count == tag => Some((first, count + 1)),
            Some(whole) => {
                put(whole, out);
                Some((tag, 1))
            }
            None => Some((tag, 1)),
        };
    }
    if let Some(whole) = run {
        put(whole, out);
    }
}

fn read_runs(reader: &mut Reader<'_>) -> Result<Vec<(DeliveryTag, u64)>, Fault> {
    let (mut runs, mut next) = (Vec::new(), 0_u64);
    while !reader.is_empty() {
        let first = next.checked_add(reader.varint()?).ok_or(Fault::Unknown)?;
        let count = reader.varint()?;
        next = first.checked_add(count).ok_or(Fault::Unknown)?;
        runs.push((DeliveryTag(first), count));
    }
    Ok(runs)
}

fn add(counts: &mut Vec<(Extent, u32)>, extent: Extent, count: u32) {
    match counts.iter_mut().find(|(known, _)| *known == extent) {
        Some((_, sum)) => *sum += count,
        None => counts.push((extent, count)),
    }
}

fn close(out: &mut [u8], start: usize, parts: &[Part]) {
    let (mut length, mut sum) = (0_usize, 0);
    join(out, start + FRAME, parts, |piece| {
        length += piece.len();
        sum = crc32c::crc32c_append(sum, piece);
    });
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    if let Some((length_at, rest)) =
        out.get_mut(start..).and_then(|record| record.split_first_chunk_mut::<4>())
        && let Some(sum_at) = rest.first_chunk_mut::<4>()
    {
        *length_at = length.to_le_bytes();
        *sum_at = sum.to_le_bytes();
    }
}

fn put_state(out: &mut Vec<u8>, state: EntryState<'_>) {
    let EntryState { attempts, redelivered, wire, durable } = state;
    let flag = |bit: u8, set: bool| if set { bit } else { 0 };
    out.push(
        flag(REDELIVERED, redelivered)
            | flag(HAS_ATTEMPTS, attempts > 0)
            | flag(HAS_WIRE, wire.is_some())
            | flag(DURABLE, durable),
    );
    if attempts > 0 {
        put_varint(out, u64::from(attempts));
    }
    if let Some(wire) = wire {
        put_wire(out, wire);
    }
}

/// The fields of an [`EntryState`], read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadState<'a> {
    pub attempts: u32,
    pub redelivered: bool,
    pub durable: bool,
    pub wire: Option<StoredWire<'a>>,
}

fn read_state<'a>(reader: &mut Reader<'a>) -> Result<ReadState<'a>, Fault> {
    let flags = reader.u8()?;
    if flags & !(REDELIVERED | HAS_ATTEMPTS | HAS_WIRE | DURABLE) != 0 {
        return Err(Fault::Unknown);
    }
    let attempts = if flags & HAS_ATTEMPTS == 0 { 0 } else { reader.varint32()? };
    let wire = if flags & HAS_WIRE == 0 { None } else { Some(StoredWire::read(reader)?) };
    Ok(ReadState { attempts, redelivered: flags & REDELIVERED != 0, durable: flags & DURABLE != 0, wire })
}

impl ReadState<'_> {
    /// The entry of a queue. Neighbours share their wire: `last` is that of the one before.
    #[must_use]
    pub fn entry(
        &self,
        tag: DeliveryTag,
        message: Arc<Message>,
        formats: &Formats,
        last: Option<&Arc<Wire>>,
    ) -> StoredEntry {
        let wire = self.wire.as_ref().and_then(|wire| wire.wire(formats)).map(|wire| match last {
            Some(last) if **last == wire => Arc::clone(last),
            _ => Arc::new(wire),
        });
        let Self { attempts, redelivered, durable, .. } = *self;
        StoredEntry { tag, message, wire, attempts, redelivered, durable }
    }
}

/// One record, read.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordRef<'a> {
    Message {
        queue: QueueNumber,
        tag: DeliveryTag,
        shared: Option<SharedNumber>,
        state: ReadState<'a>,
        /// For [`super::decode_message`].
        message: &'a [u8],
    },
    Copy {
        of: SharedNumber,
        queue: QueueNumber,
        tag: DeliveryTag,
        state: ReadState<'a>,
    },
    /// These tags have left the queue, wherever they stand when this is read: in the journal or in a page. `page` is the page
    /// they were in when it was written, if it was one. First tag and count of each run.
    Settled {
        queue: QueueNumber,
        page: Option<Extent>,
        runs: Vec<(DeliveryTag, u64)>,
    },
    /// These tags stand in the page: what the journal holds of them does not count. A page that exists counts also without
    /// this record (a crash came between); one that was dropped since leaves nothing behind.
    Paged {
        queue: QueueNumber,
        page: Extent,
        runs: Vec<(DeliveryTag, u64)>,
    },
    Attempts {
        queue: QueueNumber,
        tag: DeliveryTag,
        attempts: u32,
    },
    Delivered {
        queue: QueueNumber,
        upto: DeliveryTag,
    },
    Note {
        queue: QueueNumber,
        key: u32,
        value: Option<&'a [u8]>,
    },
    Put {
        space: Space,
        key: &'a [u8],
        value: &'a [u8],
    },
    Delete {
        space: Space,
        key: &'a [u8],
    },
    PageDropped {
        queue: QueueNumber,
        page: Extent,
    },
    QueueDropped {
        queue: QueueNumber,
    },
}

/// Reads one record from the front. Answers also how many bytes it has.
///
/// # Errors
/// It is cut off, damaged, or of a later version.
pub fn read_record(bytes: &[u8]) -> Result<(RecordRef<'_>, usize), Fault> {
    let mut reader = Reader::new(bytes);
    let (length, sum) = (reader.u32()?, reader.u32()?);
    let body = reader.take(length as usize)?;
    if crc32c::crc32c(body) != sum {
        return Err(Fault::Checksum);
    }
    let mut reader = Reader::new(body);
    let kind = reader.u8()?;
    Ok((read_fields(kind, &mut reader)?, FRAME + body.len()))
}

/// If the first record is a message or a copy of one: how many bytes it has. Nothing of it is looked at, nor its checksum.
#[must_use]
pub fn skip_message(bytes: &[u8]) -> Option<usize> {
    let mut reader = Reader::new(bytes);
    let length = reader.u32().ok()? as usize;
    let _sum = reader.u32().ok()?;
    let kind = reader.u8().ok()?;
    let whole = FRAME + length;
    (matches!(kind, MESSAGE | COPY) && whole <= bytes.len()).then_some(whole)
}

fn read_fields<'a>(kind: u8, reader: &mut Reader<'a>) -> Result<RecordRef<'a>, Fault> {
    if let PUT | DELETE = kind {
        let space = Space::from_number(reader.u8()?).ok_or(Fault::Unknown)?;
        return Ok(match kind {
            PUT => RecordRef::Put { space, key: reader.bytes()?, value: reader.rest() },
            _ => RecordRef::Delete { space, key: reader.rest() },
        });
    }
    let queue = QueueNumber(reader.varint()?);
    let tag = |reader: &mut Reader<'_>| reader.varint().map(DeliveryTag);
    Ok(match kind {
        MESSAGE => {
            let (tag, shared) = (tag(reader)?, reader.varint()?);
            let shared = Some(SharedNumber(shared)).filter(|number| number.0 != 0);
            let state = read_state(reader)?;
            RecordRef::Message { queue, tag, shared, state, message: reader.rest() }
        }
        COPY => {
            let (tag, of) = (tag(reader)?, SharedNumber(reader.varint()?));
            RecordRef::Copy { of, queue, tag, state: read_state(reader)? }
        }
        SETTLED => {
            let page = Some(reader.varint32()?).filter(|number| *number != 0).map(Extent::page);
            RecordRef::Settled { queue, page, runs: read_runs(reader)? }
        }
        PAGED => {
            let page = Extent::page(reader.varint32()?);
            RecordRef::Paged { queue, page, runs: read_runs(reader)? }
        }
        ATTEMPTS => RecordRef::Attempts { queue, tag: tag(reader)?, attempts: reader.varint32()? },
        DELIVERED => RecordRef::Delivered { queue, upto: tag(reader)? },
        NOTE => {
            let (key, there) = (reader.varint32()?, reader.u8()? != 0);
            RecordRef::Note { queue, key, value: there.then_some(reader.rest()) }
        }
        PAGE_DROPPED => RecordRef::PageDropped { queue, page: Extent::page(reader.varint32()?) },
        QUEUE_DROPPED => RecordRef::QueueDropped { queue },
        _ => return Err(Fault::Unknown),
    })
}

impl RecordRef<'_> {
    /// The entry a message record describes. `before` is the entry before it, of the same page.
    ///
    /// # Errors
    /// It is damaged, or no message.
    pub fn entry(
        &self,
        clock: &WallClock,
        formats: &Formats,
        before: Option<&StoredEntry>,
    ) -> Result<StoredEntry, Fault> {
        let Self::Message { tag, state, message, .. } = self else { return Err(Fault::Unknown) };
        let message = decode_shared(message, clock, formats, before.map(|entry| &*entry.message))?;
        Ok(state.entry(*tag, message, formats, before.and_then(|entry| entry.wire.as_ref())))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::address::AddressRef;
    use crate::publish::PublishRef;

    const Q: QueueNumber = QueueNumber(300);

    #[test]
    fn records_come_back() {
        let clock = WallClock { at: Instant::now(), epoch_ms: 9 };
        let message = Message::from_publish(&PublishRef::new(AddressRef::Queue("q"), b"x"), clock.at);
        let mut records = Records::default();
        let state = EntryState { attempts: 3, redelivered: true, wire: None, durable: true };
        records.message(&clock, Q, DeliveryTag(7), state, Some(SharedNumber(5)), &message);
        records.copy(
            SharedNumber(5),
            Extent::journal(3),
            QueueNumber(2),
            DeliveryTag(1 << 41),
            EntryState::default(),
        );
        let gone = |extent, tag| Gone { extent, tag: DeliveryTag(tag) };
        let (one, page) = (Extent::journal(1), Extent::page(4));
        let mut all =
            [gone(one, 9), gone(page, 5), gone(one, 7), gone(one, 8), gone(Extent::NONE, 1), gone(one, 20)];
        records.settled(Q, &mut all);
        records.attempts(Q, DeliveryTag(8), 2);
        records.delivered(Q, DeliveryTag(9));
        records.note(Q, 70_000, Some(b"v"));
        records.note(Q, 1, None);
        records.put(Space::Retained, b"key", b"value");
        records.delete(Space::Queue, b"key");
        records.page_dropped(Q, page);
        records.queue_dropped(Q);
        records.paged(Q, page, [3, 4, 9].into_iter().map(DeliveryTag));
        assert_eq!((records.held(), records.released()), (1, [(one, 4), (page, 1)].as_slice()));
        assert_eq!(records.held_in(), [(Extent::journal(3), 1)]);
        let joined = records.joined();
        let (mut rest, mut read) = (&*joined, Vec::new());
        while !rest.is_empty() {
            let (record, used) = read_record(rest).unwrap();
            read.push(record);
            rest = &rest[used..];
        }
        let entry = read[0].entry(&clock, &Formats::default(), None).unwrap();
        assert_eq!((entry.tag, entry.attempts, entry.redelivered), (DeliveryTag(7), 3, true));
        assert_eq!(format!("{:?}", entry.message), format!("{message:?}"));
        let bare = ReadState { attempts: 0, redelivered: false, durable: false, wire: None };
        let tag = DeliveryTag;
        assert_eq!(
            read[1..],
            [
                RecordRef::Copy {
                    of: SharedNumber(5),
                    queue: QueueNumber(2),
                    tag: tag(1 << 41),
                    state: bare
                },
                RecordRef::Settled { queue: Q, page: None, runs: vec![(tag(7), 3), (tag(20), 1)] },
                RecordRef::Settled { queue: Q, page: Some(page), runs: vec![(tag(5), 1)] },
                RecordRef::Attempts { queue: Q, tag: tag(8), attempts: 2 },
                RecordRef::Delivered { queue: Q, upto: tag(9) },
                RecordRef::Note { queue: Q, key: 70_000, value: Some(b"v") },
                RecordRef::Note { queue: Q, key: 1, value: None },
                RecordRef::Put { space: Space::Retained, key: b"key", value: b"value" },
                RecordRef::Delete { space: Space::Queue, key: b"key" },
                RecordRef::PageDropped { queue: Q, page },
                RecordRef::QueueDropped { queue: Q },
                RecordRef::Paged { queue: Q, page, runs: vec![(tag(3), 2), (tag(9), 1)] },
            ]
        );
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let mut records = Records::default();
        records.put(Space::Meta, b"key", b"value");
        for bit in 0..records.size() * 8 {
            let mut bytes = records.joined().into_owned();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read_record(&bytes).is_err());
        }
    }

    proptest! {
        #[test]
        fn fuzz_any_bytes(kind in 0..13_u8, bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut records = Records::default();
            records.record(kind, |out| out.extend_from_slice(&bytes));
            if let Ok((record, _)) = read_record(&records.joined()) {
                let clock = WallClock { at: Instant::now(), epoch_ms: 9 };
                let _ = record.entry(&clock, &Formats::default(), None);
            }
        }
    }
}
