//! What an operator does with a directory that no broker uses: look whether it is whole, and keep what can be read of one that
//! is not.
//!
//! Salvaging rewrites the journal from the first damage on and every damaged page; what was there before is moved aside, so that
//! nothing is thrown away.
//!
//! Never: changes a directory by looking at it.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use mynah_core::engine::{RecordRef, TagSet, read_record};

use crate::disk::{Disk, Lock, LockError, RealDisk, read_all};
use crate::format::{
    ALIGN, Bad, ContentSum, GROUP_HEADER, GroupHeader, JOURNAL_HEADER, JournalHeader, PageHeader,
    StoreHeader, journal_name,
};
use crate::pages::whole_page;
use crate::scan::{End, groups};
use crate::{StoreError, VERSION};

/// What was found, and what was done about it.
#[derive(Debug, Default)]
pub struct Report {
    pub journal_files: u64,
    pub groups: u64,
    pub records: u64,
    pub pages: u64,
    pub page_messages: u64,
    /// What is damaged, with file and place.
    pub problems: Vec<String>,
    /// What is worth knowing and no damage.
    pub notes: Vec<String>,
    /// What was done.
    pub done: Vec<String>,
}

impl Report {
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { journal_files, groups, records, pages, page_messages, .. } = self;
        writeln!(f, "journal: {journal_files} files, {groups} groups, {records} records")?;
        writeln!(f, "pages: {pages}, with {page_messages} messages")?;
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))?;
        self.problems.iter().try_for_each(|problem| writeln!(f, "damaged: {problem}"))?;
        self.done.iter().try_for_each(|done| writeln!(f, "done: {done}"))?;
        write!(f, "{}", if self.is_sound() { "sound" } else { "not sound" })
    }
}

struct Dir {
    disk: RealDisk,
    header: Option<StoreHeader>,
    report: Report,
    _lock: Lock,
}

/// Looks at every file of a store that is not in use.
///
/// # Errors
/// It is in use, or is no directory that can be read.
pub fn verify(dir: &Path) -> Result<Report, StoreError> {
    let mut dir = Dir::open(dir)?;
    dir.verify_journal()?;
    dir.verify_pages()?;
    Ok(dir.report)
}

/// Keeps what can be read of a damaged store, so that it opens again.
///
/// # Errors
/// It is in use, or cannot be written.
pub fn salvage(path: &Path) -> Result<Report, StoreError> {
    let mut dir = Dir::open(path)?;
    dir.verify_journal()?;
    dir.verify_pages()?;
    if dir.report.is_sound() {
        return Ok(dir.report);
    }
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let aside = format!("salvaged-{seconds}");
    dir.disk.create_dir(&aside)?;
    dir.salvage_header(&aside)?;
    dir.salvage_journal(&aside)?;
    dir.salvage_pages(&aside)?;
    for dir_name in ["journal", "queues", ""] {
        dir.disk.sync_dir(dir_name)?;
    }
    let mut again = Dir { report: Report::default(), ..dir };
    again.verify_journal()?;
    again.verify_pages()?;
    again.report.done = dir.report.done;
    again.report.notes.extend(dir.report.problems.into_iter().map(|was| format!("was damaged: {was}")));
    Ok(again.report)
}

impl Dir {
    fn open(path: &Path) -> Result<Self, StoreError> {
        if !path.join("FORMAT").exists() && !path.join("journal").exists() {
            let text = format!("{} is no data directory", path.display());
            return Err(StoreError::Io(io::Error::new(io::ErrorKind::NotFound, text)));
        }
        let lock = Lock::take(path).map_err(|error| match error {
            LockError::Held(pid) => StoreError::Locked(pid),
            LockError::Io(error) => StoreError::NotWritable(error),
        })?;
        let disk = RealDisk::new(path);
        let mut report = Report::default();
        let bytes = disk.open("FORMAT", false).and_then(|file| read_all(&*file)).unwrap_or_default();
        let header = match StoreHeader::decode(&bytes) {
            Ok(header) => Some(header),
            Err(Bad::Newer(version)) => return Err(StoreError::Newer { version }),
            Err(Bad::Damaged) => {
                report.problems.push("FORMAT: it is no header of a store".to_owned());
                None
            }
        };
        Ok(Self { disk, header, report, _lock: lock })
    }

    fn numbers(&self) -> Result<Vec<u32>, StoreError> {
        let names = self.disk.list("journal")?;
        let number = |name: &String| name.strip_suffix(".wal").and_then(|stem| stem.parse().ok());
        let mut numbers: Vec<u32> = names.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn verify_journal(&mut self) -> Result<(), StoreError> {
        let numbers = self.numbers()?;
        let mut lsn = None;
        let mut due = numbers.first().copied().unwrap_or(1);
        for (place, number) in numbers.iter().enumerate() {
            while due < *number {
                self.report.problems.push(format!("{}: it is not there", journal_name(due)));
                due += 1;
            }
            due = number + 1;
            self.report.journal_files += 1;
            self.verify_file(*number, place + 1 == numbers.len(), &mut lsn)?;
        }
        Ok(())
    }

    fn verify_file(&mut self, number: u32, last: bool, lsn: &mut Option<u64>) -> Result<(), StoreError> {
        let name = journal_name(number);
        let bytes = read_all(&*self.disk.open(&name, false)?)?;
        let Self { header: store, report, .. } = self;
        let header = match JournalHeader::decode(&bytes) {
            Ok(header) if header.number == number => header,
            _ if last => {
                report.notes.push(format!("{name}: begun when the last crash came"));
                return Ok(());
            }
            _ => {
                report.problems.push(format!("{name} at byte 0: its header is damaged"));
                return Ok(());
            }
        };
        if store.is_some_and(|store| store.id != header.store) {
            report.problems.push(format!("{name}: it belongs to another store"));
            return Ok(());
        }
        let mut at = *lsn.get_or_insert(header.lsn);
        if at != header.lsn {
            report.problems.push(format!("{name}: something is missing before it"));
            at = header.lsn;
        }
        let end = groups(&bytes, &header, &mut at, |_, start, content| {
            report.groups += 1;
            let mut rest = content;
            while !rest.is_empty() {
                match read_record(rest) {
                    Ok((_, used)) => rest = rest.get(used..).unwrap_or_default(),
                    Err(fault) => {
                        report.problems.push(format!("{name} in the group at byte {start}: {fault}"));
                        return Ok(());
                    }
                }
                report.records += 1;
            }
            Ok::<(), StoreError>(())
        })?;
        *lsn = Some(at);
        match end {
            End::Clean => {}
            End::Torn { at } => {
                report.notes.push(format!("{name}: cut off at byte {at}, where a crash came"))
            }
            End::Damaged { at, what } => report.problems.push(format!("{name} at byte {at}: {what}")),
        }
        Ok(())
    }

    fn verify_pages(&mut self) -> Result<(), StoreError> {
        for name in self.disk.list("queues")?.into_iter().filter(|name| name.ends_with(".page")) {
            self.report.pages += 1;
            let path = format!("queues/{name}");
            let bytes = read_all(&*self.disk.open(&path, false)?)?;
            match whole_page(&bytes) {
                Ok((header, _)) => {
                    self.report.page_messages += header.durable.len() + header.transient.len();
                }
                Err(what) => self.report.problems.push(format!("{path}: {what}")),
            }
        }
        Ok(())
    }

    // ---- keeping what can be read ----

    fn salvage_header(&mut self, aside: &str) -> Result<(), StoreError> {
        if self.header.is_some() {
            return Ok(());
        }
        // Any file of the journal knows whose it is.
        let mut found = StoreHeader { id: 0, generation: 0 };
        for number in self.numbers()? {
            let bytes = read_all(&*self.disk.open(&journal_name(number), false)?)?;
            if let Ok(header) = JournalHeader::decode(&bytes) {
                found.id = header.store;
                found.generation = found.generation.max(header.generation);
            }
        }
        let _ = self.disk.rename("FORMAT", &format!("{aside}/FORMAT"));
        self.write("FORMAT", &found.encode())?;
        self.report.done.push("FORMAT: written again, from the journal".to_owned());
        self.header = Some(found);
        Ok(())
    }

    /// Rewrites every file, each group with its old content: positions follow from what is left.
    fn salvage_journal(&mut self, aside: &str) -> Result<(), StoreError> {
        let Some(store) = self.header else { return Ok(()) };
        let numbers = self.numbers()?;
        let (Some(first), Some(last)) = (numbers.first().copied(), numbers.last().copied()) else {
            return Ok(());
        };
        let mut lsn = None;
        for number in first..=last {
            let name = journal_name(number);
            let bytes = match self.disk.open(&name, false) {
                Ok(file) => read_all(&*file)?,
                Err(_) => Vec::new(),
            };
            let known = JournalHeader::decode(&bytes).ok().filter(|header| header.number == number);
            let at = *lsn.get_or_insert(known.map_or(0, |header| header.lsn));
            let generation = known.map_or(store.generation, |header| header.generation);
            let header = JournalHeader { store: store.id, number, generation, lsn: at };
            let (contents, lost) = readable(&bytes, number);
            let mut file = header.encode();
            let mut at = at;
            for content in contents {
                let to = at + content.len() as u64;
                let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
                let group = GroupHeader { length, file: number, generation, from: at, to, durable: at };
                let Some(header) = group.encode(&content) else { continue };
                file.extend_from_slice(&header);
                file.extend_from_slice(&content);
                file.resize(file.len().next_multiple_of(ALIGN), 0);
                at = to;
            }
            lsn = Some(at);
            if !bytes.is_empty() {
                self.disk.rename(&name, &format!("{aside}/{}", name.replace('/', "-")))?;
            }
            self.write(&name, &file)?;
            if lost > 0 || bytes.is_empty() {
                self.report.done.push(format!("{name}: rewritten; {lost} bytes in it could not be read"));
            }
        }
        Ok(())
    }

    fn salvage_pages(&mut self, aside: &str) -> Result<(), StoreError> {
        for name in self.disk.list("queues")?.into_iter().filter(|name| name.ends_with(".page")) {
            let path = format!("queues/{name}");
            let bytes = read_all(&*self.disk.open(&path, false)?)?;
            if whole_page(&bytes).is_ok() {
                continue;
            }
            let kept = PageHeader::decode(&bytes).ok().and_then(|(header, start)| {
                let content = bytes.get(start..).unwrap_or_default();
                page_of_what_is_left(header, content)
            });
            self.disk.rename(&path, &format!("{aside}/{name}"))?;
            match kept {
                Some((header, content)) => {
                    let mut file = header.encode();
                    file.extend_from_slice(&content);
                    self.write(&path, &file)?;
                    let count = header.durable.len() + header.transient.len();
                    self.report
                        .done
                        .push(format!("{path}: rewritten with the {count} messages before the damage"));
                }
                None => self.report.done.push(format!("{path}: nothing in it could be read; moved aside")),
            }
        }
        Ok(())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let file = self.disk.open(name, true)?;
        file.write_at(0, bytes)?;
        file.sync()
    }
}

/// The contents of all groups of this use of the file, whole or as many of their records as can be read, and how many bytes
/// could not.
fn readable(bytes: &[u8], number: u32) -> (Vec<Vec<u8>>, usize) {
    let (mut contents, mut lost, mut at) = (Vec::new(), 0, JOURNAL_HEADER);
    let generation = JournalHeader::decode(bytes).ok().map(|header| header.generation);
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        if let Some((group, content)) = GroupHeader::decode(rest) {
            if group.file == number && generation.is_none_or(|known| known == group.generation) {
                contents.push(content.to_vec());
            }
            at += GroupHeader::padded(content.len());
            continue;
        }
        let header = JournalHeader { store: 0, number, generation: generation.unwrap_or(0), lsn: 0 };
        if GroupHeader::is_begun(rest, &header) {
            // Its length stands behind magic and checksum, if that is right.
            let length =
                rest.get(8..12).and_then(|field| field.first_chunk::<4>()).map(|l| u32::from_le_bytes(*l));
            let end = GROUP_HEADER.saturating_add(length.map_or(usize::MAX, |length| length as usize));
            let content =
                rest.get(GROUP_HEADER..end).or_else(|| rest.get(GROUP_HEADER..)).unwrap_or_default();
            let records = records_of(content);
            lost += content.len() - records.len();
            if !records.is_empty() {
                contents.push(records);
            }
        }
        at += ALIGN;
    }
    (contents, lost)
}

/// The records that are whole.
fn records_of(mut rest: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    loop {
        if let Ok((_, used)) = read_record(rest) {
            kept.extend_from_slice(rest.get(..used).unwrap_or_default());
            rest = rest.get(used..).unwrap_or_default();
            continue;
        }
        // Its length may be right even so: then what follows can be read.
        let length = rest.first_chunk::<4>().map_or(0, |length| u32::from_le_bytes(*length) as usize);
        let next = rest.get(length.saturating_add(8)..).filter(|_| length > 0);
        match next.filter(|next| read_record(next).is_ok()) {
            Some(next) => rest = next,
            None => return kept,
        }
    }
}

/// A page of the messages that stand before the damage.
fn page_of_what_is_left(header: PageHeader, content: &[u8]) -> Option<(PageHeader, Vec<u8>)> {
    let (mut durable, mut transient) = (TagSet::default(), TagSet::default());
    let mut at = 0;
    while let Ok((RecordRef::Message { tag, .. }, used)) = read_record(content.get(at..)?) {
        if header.durable.contains(tag) {
            durable.insert(tag);
        } else {
            transient.insert(tag);
        }
        at += used;
    }
    let content = content.get(..at).filter(|content| !content.is_empty())?.to_vec();
    let (content_length, content_sum) = (content.len() as u64, ContentSum::of(&content)?);
    Some((PageHeader { durable, transient, content_length, content_sum, ..header }, content))
}

/// The version of the format that this program writes.
#[must_use]
pub fn format_version() -> u32 {
    VERSION
}
