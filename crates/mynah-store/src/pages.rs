//! Pages: neighbours of one queue in a file of their own.
//!
//! Written beside and renamed, so that a page is there whole or not at all.
//!
//! Never: keeps a file open.

use std::io;
use std::sync::atomic::Ordering;

use mynah_core::DeliveryTag;
use mynah_core::engine::{
    Extent, Page, QueueNumber, RecordRef, Records, StoredEntry, TagSet, read_record, sum_checked_frames,
};

use crate::buffer::Buffer;
use crate::disk::read_all;
use crate::engine::Inner;
use crate::format::{ALIGN, ContentSum, PageHeader, page_name};
use crate::ledger::PageState;

/// A larger buffer is not kept for the next page.
const PAGE_BUFFER_MAX: usize = 8 << 20;

/// What a page is put together in, kept from one to the next: fresh memory would cost as much as what is done in it.
#[derive(Debug, Default)]
pub(crate) struct PageBuffers {
    records: Records,
    file: Buffer,
}

fn damaged(queue: QueueNumber, page: u32, what: &str) -> io::Error {
    let text = format!("{}: {what}; `mynah store salvage` keeps what can be read", page_name(queue, page));
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Inner {
    pub(crate) fn write_page_file(
        &self,
        queue: QueueNumber,
        extent: Extent,
        level: u8,
        entries: &[StoredEntry],
    ) -> io::Result<Page> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an empty page"));
        };
        let PageBuffers { mut records, mut file } = std::mem::take(&mut *self.page_buffers.lock());
        records.clear();
        file.clear();
        let (mut durable, mut transient) = (TagSet::default(), TagSet::default());
        let mut before = None;
        let mut bytes = 0;
        for entry in entries {
            records.page_message(&self.clock, entry, before);
            before = Some(&*entry.message);
            bytes += entry.message.size() as u64;
            if entry.durable { &mut durable } else { &mut transient }.insert(entry.tag);
        }
        let safe = !durable.is_empty();
        let count = durable.len() + transient.len();
        let mut header = PageHeader {
            store: self.header.id,
            queue,
            page: extent.number(),
            level,
            bytes,
            durable,
            transient,
            content_length: records.size() as u64,
            content_sum: ContentSum::Frames(0),
        };
        let head = header.encode().len();
        let length = (head + records.size()).next_multiple_of(ALIGN);
        file.reserve(length);
        file.resize(head, 0);
        records.join_to(|piece| file.extend_from_slice(piece));
        records.clear();
        let (front, content) = file.split_at_mut(head);
        let no_records = || io::Error::other("what a page is to hold is no whole records");
        header.content_sum = ContentSum::of(content).ok_or_else(no_records)?;
        front.copy_from_slice(&header.encode());
        // Whole blocks; the header says how much of it is content.
        file.resize(length, 0);
        self.write_file(&page_name(queue, extent.number()), &file, safe)?;
        if file.capacity() <= PAGE_BUFFER_MAX {
            *self.page_buffers.lock() = PageBuffers { records, file };
        }
        if safe {
            self.disk.sync_dir("queues")?;
        }
        let state =
            PageState { level, first: first.tag, last: last.tag, count, bytes, ..PageState::default() };
        let page = state.page(extent);
        self.ledger.lock().queues.entry(queue).or_default().pages.insert(extent.number(), state);
        self.counters.page_writes.fetch_add(1, Ordering::Relaxed);
        self.counters.pages.fetch_add(1, Ordering::Relaxed);
        Ok(page)
    }

    /// Writes a file beside its name and renames it.
    pub(crate) fn write_file(&self, name: &str, bytes: &[u8], safe: bool) -> io::Result<()> {
        let beside = format!("{name}.tmp");
        let done = (|| {
            let file = self.disk.open_direct(&beside)?;
            file.write_at(0, bytes)?;
            if safe {
                file.sync()?;
            }
            self.disk.rename(&beside, name)
        })();
        if done.is_err() {
            let _ = self.disk.remove(&beside);
        }
        done
    }

    pub(crate) fn read_page_file(&self, queue: QueueNumber, extent: Extent) -> io::Result<Vec<StoredEntry>> {
        self.counters.page_reads.fetch_add(1, Ordering::Relaxed);
        let number = extent.number();
        let file = read_all(&*self.disk.open(&page_name(queue, number), false)?)?;
        let (header, content) = page_content(&file).map_err(|what| damaged(queue, number, what))?;
        let (settled, attempts, recovered, delivered) = {
            let ledger = self.ledger.lock();
            let state = ledger.queues.get(&queue);
            let delivered = state.map_or(DeliveryTag(0), |state| state.delivered);
            match state.and_then(|state| state.pages.get(&number)) {
                Some(page) => (page.settled.clone(), page.attempts.clone(), page.recovered, delivered),
                None => return Err(io::Error::new(io::ErrorKind::NotFound, "the page is gone")),
            }
        };
        let mut entries: Vec<StoredEntry> = Vec::new();
        let (mut rest, mut before) = (content, None::<StoredEntry>);
        while !rest.is_empty() {
            let bad = |_| damaged(queue, number, "a record cannot be read");
            let (record, used) = read_record(rest).map_err(bad)?;
            rest = rest.get(used..).unwrap_or_default();
            let RecordRef::Message { .. } = record else { continue };
            let entry = record.entry(&self.clock, &self.formats, before.as_ref()).map_err(bad)?;
            before = Some(entry.clone());
            if settled.contains(entry.tag) || (recovered && header.transient.contains(entry.tag)) {
                continue;
            }
            let mut entry = entry;
            if let Some(attempts) = attempts.get(&entry.tag) {
                entry.attempts = entry.attempts.max(*attempts);
            }
            if recovered {
                entry.redelivered |= entry.tag <= delivered;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The pages that are there, as of an earlier life.
    pub(crate) fn find_pages(&self) -> io::Result<Vec<PageHeader>> {
        let mut found = Vec::new();
        for name in self.disk.list("queues")? {
            let path = format!("queues/{name}");
            if name.ends_with(".tmp") {
                self.disk.remove(&path)?;
                continue;
            }
            if !name.ends_with(".page") {
                continue;
            }
            found.push(read_header(&*self.disk.open(&path, false)?).map_err(|what| {
                let text = format!("{path}: {what}; `mynah store salvage` keeps what can be read");
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?);
        }
        Ok(found)
    }
}

/// Header and content of a page, if they are whole. What the checksums of the records cover is for whoever reads those.
pub(crate) fn page_content(file: &[u8]) -> Result<(PageHeader, &[u8]), &'static str> {
    let (header, start) = PageHeader::decode(file).map_err(|_| "its header is damaged")?;
    let length = usize::try_from(header.content_length).map_err(|_| "its header is damaged")?;
    let content = file.get(start..).and_then(|rest| rest.get(..length)).ok_or("it is cut off")?;
    if !header.content_sum.fits(content) {
        return Err("its checksum is wrong");
    }
    Ok((header, content))
}

/// The same, if its records are whole as well.
pub(crate) fn whole_page(file: &[u8]) -> Result<(PageHeader, &[u8]), &'static str> {
    let (header, content) = page_content(file)?;
    sum_checked_frames(0, content).ok_or("a record in it has changed")?;
    Ok((header, content))
}

fn read_header(file: &dyn crate::disk::DiskFile) -> Result<PageHeader, String> {
    let length = file.size().map_err(|error| error.to_string())?;
    let mut size = 4096_usize;
    loop {
        let mut front = vec![0; size];
        let read = file.read_at(0, &mut front).map_err(|error| error.to_string())?;
        front.truncate(read);
        match PageHeader::decode(&front) {
            Ok((header, _)) => return Ok(header),
            Err(crate::format::Bad::Newer(version)) => return Err(format!("of format version {version}")),
            // Perhaps there was not all of it.
            Err(_) if (size as u64) < length => size *= 8,
            Err(_) => return Err("its header is damaged".to_owned()),
        }
    }
}
