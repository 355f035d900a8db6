//! What the files look like. Numbers are little-endian; every file has magic, version and checksum.
//!
//! - `FORMAT`: the store's header, rewritten as a whole at each start
//! - `journal/NNNNNNNN.wal`: a header of 4 KiB, then groups, each beginning at a multiple of [`ALIGN`]
//! - `queues/Q-P.page`: a header, then records
//!
//! Since version 2 the checksum of a group and of a page is over the lengths and checksums of its records; before it was over all
//! bytes. Both can be read.
//!
//! Never: reads or writes.

use mynah_core::DeliveryTag;
use mynah_core::engine::{QueueNumber, Reader, TagSet, put_varint, sum_checked_frames, sum_frames};

/// The version of the format. A store of a higher one is refused.
pub(crate) const VERSION: u32 = 2;
pub(crate) const JOURNAL_HEADER: usize = 4096;
pub(crate) const GROUP_HEADER: usize = 48;
/// Groups begin at multiples of this: what one sync has made safe is in no sector that the next one writes.
pub(crate) const ALIGN: usize = 512;

const STORE_MAGIC: u32 = 0x594d_0001;
const JOURNAL_MAGIC: u32 = 0x594d_0002;
/// Of version 1.
const GROUP_MAGIC_1: u32 = 0x594d_0003;
const PAGE_MAGIC: u32 = 0x594d_0004;
const GROUP_MAGIC: u32 = 0x594d_0005;

/// Why a header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bad {
    Damaged,
    /// Of a later version.
    Newer(u32),
}

fn sealed(magic: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + 12);
    bytes.extend_from_slice(&magic.to_le_bytes());
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// What is sealed, and by which version.
fn opened(magic: u32, bytes: &[u8], length: usize) -> Result<(Reader<'_>, u32), Bad> {
    let mut reader = Reader::new(bytes);
    let mut read = || reader.u32().map_err(|_| Bad::Damaged);
    let (found, version, sum) = (read()?, read()?, read()?);
    if found != magic {
        return Err(Bad::Damaged);
    }
    if version > VERSION {
        return Err(Bad::Newer(version));
    }
    let body = reader.take(length).map_err(|_| Bad::Damaged)?;
    if crc32c::crc32c(body) != sum {
        return Err(Bad::Damaged);
    }
    Ok((Reader::new(body), version))
}

/// The store's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoreHeader {
    pub(crate) id: u64,
    /// How often the store was opened.
    pub(crate) generation: u32,
}

impl StoreHeader {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut body = self.id.to_le_bytes().to_vec();
        body.extend_from_slice(&self.generation.to_le_bytes());
        sealed(STORE_MAGIC, &body)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Bad> {
        let (mut reader, _) = opened(STORE_MAGIC, bytes, 12)?;
        let damaged = |_| Bad::Damaged;
        Ok(Self { id: reader.u64().map_err(damaged)?, generation: reader.u32().map_err(damaged)? })
    }
}

/// The header of a file of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JournalHeader {
    pub(crate) store: u64,
    pub(crate) number: u32,
    pub(crate) generation: u32,
    /// Where the log was when the file began.
    pub(crate) lsn: u64,
}

impl JournalHeader {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut body = self.store.to_le_bytes().to_vec();
        body.extend_from_slice(&self.number.to_le_bytes());
        body.extend_from_slice(&self.generation.to_le_bytes());
        body.extend_from_slice(&self.lsn.to_le_bytes());
        let mut bytes = sealed(JOURNAL_MAGIC, &body);
        bytes.resize(JOURNAL_HEADER, 0);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Bad> {
        let (mut reader, _) = opened(JOURNAL_MAGIC, bytes, 24)?;
        let damaged = |_| Bad::Damaged;
        Ok(Self {
            store: reader.u64().map_err(damaged)?,
            number: reader.u32().map_err(damaged)?,
            generation: reader.u32().map_err(damaged)?,
            lsn: reader.u64().map_err(damaged)?,
        })
    }
}

/// A group: what one write appended. Its checksum covers file, generation and the frames of its records, so that what an earlier use
/// of the file has left is never taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    pub(crate) length: u32,
    pub(crate) file: u32,
    pub(crate) generation: u32,
    /// Where the log was before it and after it.
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// How far the log was safe when it was written.
    pub(crate) durable: u64,
}

impl GroupHeader {
    fn fields(self) -> [u8; GROUP_HEADER - 8] {
        let mut fields = [0; GROUP_HEADER - 8];
        let parts: [&[u8]; 6] = [
            &self.length.to_le_bytes(),
            &self.file.to_le_bytes(),
            &self.generation.to_le_bytes(),
            &self.from.to_le_bytes(),
            &self.to.to_le_bytes(),
            &self.durable.to_le_bytes(),
        ];
        let all = parts.into_iter().flatten();
        fields.iter_mut().zip(all).for_each(|(field, byte)| *field = *byte);
        fields
    }

    /// `None` if `content` is no whole records.
    pub(crate) fn encode(self, content: &[u8]) -> Option<[u8; GROUP_HEADER]> {
        let fields = self.fields();
        let sum = sum_frames(crc32c::crc32c(&fields), content)?;
        let mut bytes = [0; GROUP_HEADER];
        let front = GROUP_MAGIC.to_le_bytes().into_iter().chain(sum.to_le_bytes()).chain(fields);
        bytes.iter_mut().zip(front).for_each(|(byte, value)| *byte = value);
        Some(bytes)
    }

    /// As version 1 wrote it.
    #[cfg(test)]
    pub(crate) fn encode_version_1(self, content: &[u8]) -> [u8; GROUP_HEADER] {
        let sum = crc32c::crc32c_append(crc32c::crc32c(&self.fields()), content);
        let mut bytes = self.encode(content).unwrap();
        bytes[..4].copy_from_slice(&GROUP_MAGIC_1.to_le_bytes());
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The group at the front of `bytes` with its content, if there is a whole one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut reader = Reader::new(bytes);
        let magic = reader.u32().ok()?;
        if magic != GROUP_MAGIC && magic != GROUP_MAGIC_1 {
            return None;
        }
        let sum = reader.u32().ok()?;
        let header = Self {
            length: reader.u32().ok()?,
            file: reader.u32().ok()?,
            generation: reader.u32().ok()?,
            from: reader.u64().ok()?,
            to: reader.u64().ok()?,
            durable: reader.u64().ok()?,
        };
        let length = usize::try_from(header.length).ok()?;
        let content = bytes.get(GROUP_HEADER..)?.get(..length)?;
        let of_fields = crc32c::crc32c(&header.fields());
        let found = if magic == GROUP_MAGIC_1 {
            crc32c::crc32c_append(of_fields, content)
        } else {
            sum_checked_frames(of_fields, content)?
        };
        (found == sum).then_some((header, content))
    }

    /// Whether a group of this use of the file begins here, whole or not.
    pub(crate) fn is_begun(bytes: &[u8], header: &JournalHeader) -> bool {
        let mut reader = Reader::new(bytes);
        let mut next = || reader.u32().ok();
        let (magic, _sum, _length) = (next(), next(), next());
        matches!(magic, Some(GROUP_MAGIC | GROUP_MAGIC_1))
            && next() == Some(header.number)
            && next() == Some(header.generation)
    }

    /// Bytes it takes in the file.
    pub(crate) fn padded(length: usize) -> usize {
        (GROUP_HEADER + length).next_multiple_of(ALIGN)
    }
}

/// The header of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PageHeader {
    pub(crate) store: u64,
    pub(crate) queue: QueueNumber,
    pub(crate) page: u32,
    pub(crate) level: u8,
    /// What its messages count against the queue's bound.
    pub(crate) bytes: u64,
    pub(crate) durable: TagSet,
    pub(crate) transient: TagSet,
    pub(crate) content_length: u64,
    pub(crate) content_sum: ContentSum,
}

/// The checksum of a page's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContentSum {
    /// Of version 1: over all bytes.
    Bytes(u32),
    Frames(u32),
}

impl ContentSum {
    /// `None` if they are no whole records.
    pub(crate) fn of(content: &[u8]) -> Option<Self> {
        sum_frames(0, content).map(Self::Frames)
    }

    /// Whether nothing has changed but what the records' own checksums tell.
    pub(crate) fn fits(self, content: &[u8]) -> bool {
        match self {
            Self::Bytes(sum) => crc32c::crc32c(content) == sum,
            Self::Frames(sum) => sum_frames(0, content) == Some(sum),
        }
    }

    fn value(self) -> u32 {
        match self {
            Self::Bytes(sum) | Self::Frames(sum) => sum,
        }
    }
}

impl PageHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = self.store.to_le_bytes().to_vec();
        put_varint(&mut body, self.queue.0);
        put_varint(&mut body, u64::from(self.page));
        body.push(self.level);
        put_varint(&mut body, self.bytes);
        put_varint(&mut body, self.content_length);
        body.extend_from_slice(&self.content_sum.value().to_le_bytes());
        for tags in [&self.durable, &self.transient] {
            put_varint(&mut body, tags.ranges().count() as u64);
            for (first, last) in tags.ranges() {
                put_varint(&mut body, first.0);
                put_varint(&mut body, last.0 - first.0);
            }
        }
        let mut bytes = sealed(PAGE_MAGIC, &body);
        // Its length stands in front, for it varies.
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        bytes.splice(0..0, length.to_le_bytes());
        bytes
    }

    /// As version 1 wrote it.
    #[cfg(test)]
    pub(crate) fn encode_version_1(&self, content: &[u8]) -> Vec<u8> {
        let content_sum = ContentSum::Bytes(crc32c::crc32c(content));
        let mut bytes = Self { content_sum, ..self.clone() }.encode();
        // Behind length and magic.
        bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
        bytes
    }

    /// The header, and where the content begins.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, usize), Bad> {
        let mut front = Reader::new(bytes);
        let length = front.u32().map_err(|_| Bad::Damaged)? as usize;
        let (mut reader, version) = opened(PAGE_MAGIC, front.rest(), length)?;
        let mut header = Self::fields(&mut reader).map_err(|_| Bad::Damaged)?;
        if version < 2 {
            header.content_sum = ContentSum::Bytes(header.content_sum.value());
        }
        Ok((header, length + 16))
    }

    fn fields(reader: &mut Reader<'_>) -> Result<Self, mynah_core::engine::Fault> {
        let store = reader.u64()?;
        let queue = QueueNumber(reader.varint()?);
        let page = reader.varint32()?;
        let level = reader.u8()?;
        let bytes = reader.varint()?;
        let content_length = reader.varint()?;
        let content_sum = ContentSum::Frames(reader.u32()?);
        let mut sets = [TagSet::default(), TagSet::default()];
        for set in &mut sets {
            for _ in 0..reader.varint()? {
                let first = reader.varint()?;
                let last = first.saturating_add(reader.varint()?);
                set.insert_range(DeliveryTag(first), DeliveryTag(last));
            }
        }
        let [durable, transient] = sets;
        Ok(Self { store, queue, page, level, bytes, durable, transient, content_length, content_sum })
    }
}

/// `00000012.wal`
pub(crate) fn journal_name(number: u32) -> String {
    format!("journal/{number:08}.wal")
}

pub(crate) fn page_name(queue: QueueNumber, page: u32) -> String {
    format!("queues/{:x}-{page}.page", queue.0)
}

#[cfg(test)]
mod tests {
    use mynah_core::engine::Records;

    use super::*;

    fn content() -> Vec<u8> {
        let mut records = Records::default();
        records.note(QueueNumber(1), 2, Some(b"noted"));
        records.delivered(QueueNumber(1), DeliveryTag(9));
        records.joined().into_owned()
    }

    #[test]
    fn groups_of_both_versions_are_read_and_a_changed_byte_is_seen() {
        let content = content();
        let length = u32::try_from(content.len()).unwrap();
        let header = GroupHeader { length, file: 3, generation: 4, from: 5, to: 6, durable: 5 };
        let now = [&header.encode(&content).unwrap()[..], &content].concat();
        let before = [&header.encode_version_1(&content)[..], &content].concat();
        for group in [now, before] {
            assert_eq!(GroupHeader::decode(&group), Some((header, &*content)));
            // But for what pads the header.
            for at in (0..44).chain(GROUP_HEADER..group.len()) {
                let mut changed = group.clone();
                changed[at] ^= 1;
                assert_eq!(GroupHeader::decode(&changed), None, "byte {at}");
            }
        }
    }

    #[test]
    fn pages_of_both_versions_are_read() {
        let content = content();
        let mut durable = TagSet::default();
        durable.insert(DeliveryTag(9));
        let header = PageHeader {
            store: 1,
            queue: QueueNumber(2),
            page: 3,
            level: 0,
            bytes: 5,
            durable,
            transient: TagSet::default(),
            content_length: content.len() as u64,
            content_sum: ContentSum::of(&content).unwrap(),
        };
        let now = header.encode();
        assert_eq!(PageHeader::decode(&now).map(|(header, _)| header), Ok(header.clone()));
        assert!(header.content_sum.fits(&content));
        let (read, _) = PageHeader::decode(&header.encode_version_1(&content)).unwrap();
        assert_eq!(read.content_sum, ContentSum::Bytes(crc32c::crc32c(&content)));
        assert_eq!(PageHeader { content_sum: header.content_sum, ..read.clone() }, header);
        let mut changed = content;
        assert!(read.content_sum.fits(&changed));
        changed[12] ^= 1;
        assert!(!read.content_sum.fits(&changed));
    }

    #[test]
    fn a_later_version_is_told() {
        let mut header = StoreHeader { id: 1, generation: 2 }.encode();
        assert!(StoreHeader::decode(&header).is_ok());
        header[4..8].copy_from_slice(&(VERSION + 1).to_le_bytes());
        assert_eq!(StoreHeader::decode(&header).err(), Some(Bad::Newer(VERSION + 1)));
    }
}
