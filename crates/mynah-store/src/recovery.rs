//! Opening a store: what the journal and the pages hold is put together again.
//!
//! The journal is read twice: first to see which messages are still wanted and where they stand, then to take those in. So
//! memory holds places, not bodies that are not wanted.
//!
//! Never: repairs. What is damaged is refused, with the file and the place.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use mynah_core::engine::{
    Extent, QueueNumber, RecordRef, RecoveredQueue, SharedNumber, StoredEntry, TagSet, read_record,
};
use mynah_core::{DeliveryTag, Message};
use tracing::info;

use crate::StoreError;
use crate::disk::read_all;
use crate::engine::{FileInfo, Inner};
use crate::format::{Bad, JournalHeader, PageHeader, journal_name, page_name};
use crate::ledger::{Ledger, PageState, Then};
use crate::scan::{End, groups};

/// Where a message stands.
#[derive(Debug, Clone, Copy)]
struct Place {
    file: u32,
    at: u32,
    length: u32,
    /// It is a copy of this one.
    of: Option<SharedNumber>,
}

#[derive(Debug, Default)]
struct QueueScan {
    entries: HashMap<u64, Place>,
    attempts: HashMap<u64, u32>,
    last: DeliveryTag,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) files: VecDeque<FileInfo>,
    pub(crate) lsn: u64,
    pub(crate) ledger: Ledger,
    pub(crate) queues: BTreeMap<QueueNumber, RecoveredQueue>,
    pub(crate) next_page: u32,
    pub(crate) spares: Vec<String>,
    pub(crate) pages: u64,
}

#[derive(Default)]
struct Scan {
    queues: HashMap<QueueNumber, QueueScan>,
    bodies: HashMap<SharedNumber, Place>,
    ledger: Ledger,
    durable_of: HashMap<(QueueNumber, u32), TagSet>,
    then: Vec<Then>,
    page_max: u32,
}

impl Inner {
    pub(crate) fn recover(&self) -> Result<Found, StoreError> {
        let mut scan = Scan::default();
        for header in self.find_pages()? {
            if header.store != self.header.id {
                return Err(StoreError::Foreign(page_name(header.queue, header.page)));
            }
            scan.page(&header);
        }
        let (numbers, spares) = self.journal_files()?;
        let mut lsn = None;
        for (index, number) in numbers.iter().enumerate() {
            let last = index + 1 == numbers.len();
            self.scan_file(*number, last, &mut lsn, &mut scan)?;
        }
        scan.drop_paged();
        let mut found = Found { lsn: lsn.unwrap_or(0), spares, ..Found::default() };
        found.files = numbers
            .iter()
            .map(|number| FileInfo { number: *number, live: 0, ever: 0, released_at: 0 })
            .collect();
        self.take_in(&mut scan, &mut found)?;
        for Then::Unlink(queue, page) in scan.then.drain(..) {
            let _ = self.disk.remove(&page_name(queue, page));
        }
        found.next_page = scan.page_max + 1;
        found.ledger = scan.ledger;
        found.pages = found.ledger.queues.values().map(|queue| queue.pages.len() as u64).sum();
        Ok(found)
    }

    /// Numbers of the journal's files in order, and the names of spare ones.
    fn journal_files(&self) -> Result<(Vec<u32>, Vec<String>), StoreError> {
        let (mut numbers, mut spares) = (Vec::new(), Vec::new());
        for name in self.disk.list("journal")? {
            if name.starts_with("spare-") {
                spares.push(format!("journal/{name}"));
            } else if let Some(number) = name.strip_suffix(".wal").and_then(|stem| stem.parse().ok()) {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        for pair in numbers.windows(2) {
            if let [one, other] = pair
                && other - one != 1
            {
                return Err(StoreError::Damaged {
                    file: journal_name(one + 1),
                    at: 0,
                    what: "it is not there".to_owned(),
                });
            }
        }
        Ok((numbers, spares))
    }

    fn scan_file(
        &self,
        number: u32,
        last: bool,
        lsn: &mut Option<u64>,
        scan: &mut Scan,
    ) -> Result<(), StoreError> {
        let file = journal_name(number);
        let bytes = read_all(&*self.disk.open(&file, false)?)?;
        let damaged =
            |at: usize, what: String| StoreError::Damaged { file: file.clone(), at: at as u64, what };
        let header = match JournalHeader::decode(&bytes) {
            Ok(header) if header.number == number && header.store == self.header.id => header,
            Ok(header) if header.store != self.header.id => return Err(StoreError::Foreign(file)),
            Err(Bad::Newer(version)) => return Err(StoreError::Newer { version }),
            // The crash came before its header was safe, so before anything else was.
            Ok(_) | Err(Bad::Damaged) if last => return Ok(()),
            Ok(_) | Err(Bad::Damaged) => return Err(damaged(0, "its header is damaged".to_owned())),
        };
        let mut at = *lsn.get_or_insert(header.lsn);
        if header.lsn != at {
            let what =
                format!("it begins at position {} of the log, the file before it ends at {at}", header.lsn);
            return Err(damaged(0, what));
        }
        let end = groups(&bytes, &header, &mut at, |_, start, content| {
            self.scan_group(number, start, content, scan).map_err(|what| damaged(start, what))
        })?;
        *lsn = Some(at);
        match end {
            End::Clean => Ok(()),
            End::Torn { at } => {
                info!(file, at, "cut off where the last crash came");
                Ok(())
            }
            End::Damaged { at, what } => Err(damaged(at, what)),
        }
    }

    fn scan_group(&self, number: u32, start: usize, content: &[u8], scan: &mut Scan) -> Result<(), String> {
        let mut at = 0;
        while let Some(rest) = content.get(at..).filter(|rest| !rest.is_empty()) {
            let (record, used) = read_record(rest).map_err(|fault| fault.to_string())?;
            let small = |value: usize| u32::try_from(value).map_err(|_| "the file is too large".to_owned());
            let place = Place { file: number, at: small(start + at)?, length: small(used)?, of: None };
            match &record {
                RecordRef::Put { space, key, value } => {
                    self.keyed.put(*space, key, value).map_err(|error| error.to_string())?;
                }
                RecordRef::Delete { space, key } => {
                    self.keyed.delete(*space, key).map_err(|error| error.to_string())?;
                }
                other @ (RecordRef::Message { .. }
                | RecordRef::Copy { .. }
                | RecordRef::Settled { .. }
                | RecordRef::Paged { .. }
                | RecordRef::Attempts { .. }
                | RecordRef::Delivered { .. }
                | RecordRef::Note { .. }
                | RecordRef::PageDropped { .. }
                | RecordRef::QueueDropped { .. }) => scan.record(other, place),
            }
            at += used;
        }
        Ok(())
    }

    /// Reads what is wanted.
    fn take_in(&self, scan: &mut Scan, found: &mut Found) -> Result<(), StoreError> {
        let mut by_file: BTreeMap<u32, Vec<(QueueNumber, u64, Place)>> = BTreeMap::new();
        let mut copies: Vec<(QueueNumber, u64, Place)> = Vec::new();
        let mut wanted: HashMap<SharedNumber, Option<Arc<Message>>> = HashMap::new();
        for (queue, state) in &scan.queues {
            for (tag, place) in &state.entries {
                match place.of {
                    None => by_file.entry(place.file).or_default().push((*queue, *tag, *place)),
                    Some(number) => {
                        copies.push((*queue, *tag, *place));
                        wanted.insert(number, None);
                    }
                }
            }
        }
        let mut bodies: BTreeMap<u32, Vec<(SharedNumber, Place)>> = BTreeMap::new();
        for number in wanted.keys() {
            if let Some(place) = scan.bodies.get(number) {
                bodies.entry(place.file).or_default().push((*number, *place));
            }
        }
        let files: Vec<u32> = found.files.iter().map(|file| file.number).collect();
        for number in files {
            let (own, shared, of_copies) = (
                by_file.remove(&number).unwrap_or_default(),
                bodies.remove(&number).unwrap_or_default(),
                copies.extract_if(.., |(_, _, place)| place.file == number).collect::<Vec<_>>(),
            );
            if own.is_empty() && shared.is_empty() && of_copies.is_empty() {
                continue;
            }
            let bytes = read_all(&*self.disk.open(&journal_name(number), false)?)?;
            for (shared_number, place) in shared {
                let entry = self.message_at(&bytes, &place)?;
                wanted.insert(shared_number, Some(entry.message));
            }
            for (queue, tag, place) in own {
                let entry = match self.shared_message(&bytes, &place, &wanted)? {
                    Some(entry) => entry,
                    None => self.message_at(&bytes, &place)?,
                };
                scan.keep(found, queue, tag, entry, place.file);
            }
            for (queue, tag, place) in of_copies {
                let Some(number) = place.of else { continue };
                let body = scan.bodies.get(&number).map(|body| body.file);
                let (Some(file), Some(Some(message))) = (body, wanted.get(&number)) else {
                    return Err(self.damaged_at(&place, "a copy of a message that is not there"));
                };
                let record = self.record_at(&bytes, &place)?;
                let RecordRef::Copy { state, .. } = record else { continue };
                let entry = state.entry(DeliveryTag(tag), Arc::clone(message), &self.formats, None);
                scan.keep(found, queue, tag, entry, file);
            }
        }
        scan.finish(found);
        Ok(())
    }

    fn record_at<'b>(&self, bytes: &'b [u8], place: &Place) -> Result<RecordRef<'b>, StoreError> {
        let record = bytes.get(place.at as usize..).and_then(|rest| rest.get(..place.length as usize));
        let read = record.and_then(|record| read_record(record).ok());
        read.map(|(record, _)| record).ok_or_else(|| self.damaged_at(place, "a record has changed"))
    }

    fn message_at(&self, bytes: &[u8], place: &Place) -> Result<StoredEntry, StoreError> {
        let record = self.record_at(bytes, place)?;
        record
            .entry(&self.clock, &self.formats, None)
            .map_err(|fault| self.damaged_at(place, &fault.to_string()))
    }

    /// If the message has copies: the same object as theirs.
    fn shared_message(
        &self,
        bytes: &[u8],
        place: &Place,
        wanted: &HashMap<SharedNumber, Option<Arc<Message>>>,
    ) -> Result<Option<StoredEntry>, StoreError> {
        let record = self.record_at(bytes, place)?;
        let RecordRef::Message { tag, shared: Some(number), state, .. } = record else { return Ok(None) };
        let Some(Some(message)) = wanted.get(&number) else { return Ok(None) };
        Ok(Some(state.entry(tag, Arc::clone(message), &self.formats, None)))
    }

    fn damaged_at(&self, place: &Place, what: &str) -> StoreError {
        StoreError::Damaged { file: journal_name(place.file), at: u64::from(place.at), what: what.to_owned() }
    }
}

impl Scan {
    fn page(&mut self, header: &PageHeader) {
        self.page_max = self.page_max.max(header.page);
        let all = header.durable.ranges().chain(header.transient.ranges());
        let first = all.map(|(first, _)| first).min().unwrap_or_default();
        let all = header.durable.ranges().chain(header.transient.ranges());
        let last = all.map(|(_, last)| last).max().unwrap_or_default();
        let state = PageState {
            level: header.level,
            first,
            last,
            count: header.durable.len(),
            bytes: header.bytes,
            recovered: true,
            ..PageState::default()
        };
        self.ledger.queues.entry(header.queue).or_default().pages.insert(header.page, state);
        self.durable_of.insert((header.queue, header.page), header.durable.clone());
    }

    fn record(&mut self, record: &RecordRef<'_>, place: Place) {
        match record {
            RecordRef::Message { queue, tag, shared, .. } => {
                if let Some(number) = shared {
                    self.bodies.insert(*number, place);
                }
                self.enter(*queue, *tag, place);
            }
            RecordRef::Copy { of, queue, tag, .. } => {
                self.enter(*queue, *tag, Place { of: Some(*of), ..place });
            }
            RecordRef::Settled { queue, page, runs } => {
                self.page_max = self.page_max.max(page.map_or(0, Extent::number));
                self.settle(*queue, runs);
            }
            RecordRef::Paged { queue, page, runs } => {
                self.page_max = self.page_max.max(page.number());
                let Some(state) = self.queues.get_mut(queue) else { return };
                for (first, count) in runs {
                    (first.0..first.0 + count).for_each(|tag| {
                        state.entries.remove(&tag);
                    });
                }
            }
            RecordRef::Attempts { queue, tag, attempts } => {
                self.queues.entry(*queue).or_default().attempts.insert(tag.0, *attempts);
                self.ledger.apply(record, &mut self.then);
            }
            RecordRef::PageDropped { page, .. } => {
                self.page_max = self.page_max.max(page.number());
                self.ledger.apply(record, &mut self.then);
            }
            RecordRef::QueueDropped { queue } => {
                self.queues.remove(queue);
                self.ledger.apply(record, &mut self.then);
            }
            RecordRef::Delivered { .. } | RecordRef::Note { .. } => {
                self.ledger.apply(record, &mut self.then);
            }
            RecordRef::Put { .. } | RecordRef::Delete { .. } => {}
        }
    }

    fn enter(&mut self, queue: QueueNumber, tag: DeliveryTag, place: Place) {
        let state = self.queues.entry(queue).or_default();
        state.last = state.last.max(tag);
        state.entries.insert(tag.0, place);
    }

    /// Tags leave, wherever they stand.
    fn settle(&mut self, queue: QueueNumber, runs: &[(DeliveryTag, u64)]) {
        let state = self.queues.entry(queue).or_default();
        let pages = self.ledger.queues.get_mut(&queue).map(|state| &mut state.pages);
        let mut pages: Vec<_> = pages.into_iter().flatten().collect();
        for (first, count) in runs {
            let last = DeliveryTag(first.0 + count.saturating_sub(1));
            state.last = state.last.max(last);
            for tag in first.0..=last.0 {
                state.entries.remove(&tag);
                state.attempts.remove(&tag);
            }
            for (number, page) in &mut pages {
                if *first > page.last || last < page.first {
                    continue;
                }
                let Some(durable) = self.durable_of.get(&(queue, **number)) else { continue };
                let from = (*first).max(page.first).0;
                for tag in from..=last.min(page.last).0 {
                    if durable.contains(DeliveryTag(tag)) {
                        page.settled.insert(DeliveryTag(tag));
                        page.attempts.remove(&DeliveryTag(tag));
                    }
                }
            }
        }
    }

    /// What stands in a page as well was moved there.
    fn drop_paged(&mut self) {
        for (queue, state) in &mut self.queues {
            let Some(known) = self.ledger.queues.get(queue) else { continue };
            for number in known.pages.keys() {
                let Some(durable) = self.durable_of.get(&(*queue, *number)) else { continue };
                state.entries.retain(|tag, _| !durable.contains(DeliveryTag(*tag)));
            }
        }
    }

    /// An entry is there again; the file counts it.
    fn keep(&self, found: &mut Found, queue: QueueNumber, tag: u64, mut entry: StoredEntry, file: u32) {
        if let Some(attempts) = self.queues.get(&queue).and_then(|state| state.attempts.get(&tag)) {
            entry.attempts = entry.attempts.max(*attempts);
        }
        let delivered = self.ledger.queues.get(&queue).map_or(DeliveryTag(0), |state| state.delivered);
        entry.redelivered |= entry.tag <= delivered;
        if let Some(info) = found.files.iter_mut().find(|info| info.number == file) {
            info.live += 1;
            info.ever += 1;
        }
        found.queues.entry(queue).or_default().entries.push((entry, Extent::journal(file)));
    }

    fn finish(&mut self, found: &mut Found) {
        for (queue, state) in &self.queues {
            let recovered = found.queues.entry(*queue).or_default();
            recovered.last_tag = recovered.last_tag.max(state.last);
        }
        for (queue, state) in &mut self.ledger.queues {
            let recovered = found.queues.entry(*queue).or_default();
            recovered.last_tag = recovered.last_tag.max(state.delivered);
            recovered.notes = state.notes.iter().map(|(key, value)| (*key, value.clone())).collect();
            state.pages.retain(|number, page| {
                let some = page.settled.len() < page.count;
                if some {
                    recovered.last_tag = recovered.last_tag.max(page.last);
                    recovered.pages.push(page.page(Extent::page(*number)));
                } else {
                    self.then.push(Then::Unlink(*queue, *number));
                }
                some
            });
            recovered.pages.sort_by_key(|page| (page.level, page.first));
        }
        for recovered in found.queues.values_mut() {
            recovered.entries.sort_by_key(|(entry, _)| entry.tag);
        }
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
