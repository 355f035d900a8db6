//! The committer: writes what was appended in groups, syncs once for all who wait, wakes them, and gives old files back.
//!
//! While a group is being synced the next one gathers, so the number of syncs follows the disk and not the load. What nobody
//! waits for is written in [`IN_TIME`] at the latest. With nothing to do it sleeps for good.
//!
//! Never: retries a failed sync; what was written since the last good one may be lost, and nobody may be told otherwise.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mynah_core::engine::{Condition, RecordRef, Records, Waiter, read_record, skip_message};
use tracing::{error, info, warn};

use crate::buffer::Buffer;
use crate::disk::{DiskFile, is_full};
use crate::engine::{Chunk, Inner};
use crate::format::{
    ALIGN, GROUP_HEADER, GroupHeader, JOURNAL_HEADER, JournalHeader, journal_name, page_name,
};
use crate::ledger::Then;

/// How long what nobody waits for may stay in memory.
const IN_TIME: Duration = Duration::from_millis(50);
/// Bytes that are not kept waiting.
const AT_ONCE: usize = 4 << 20;
/// How often a full disk is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Files kept for the next time, so that their room need not be found again.
const SPARES_MAX: usize = 4;
/// Buffers kept.
const BUFFERS_MAX: usize = 4;

/// What the committer is writing to.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    file: Option<Arc<dyn DiskFile>>,
    number: u32,
    offset: u64,
    dirty: bool,
    spares: Vec<String>,
    spare_number: u32,
    /// Keyed state has changes that only the journal holds.
    unpersisted: bool,
    unlinked: bool,
    then: Vec<Then>,
    keyed: Vec<(mynah_core::engine::Space, Vec<u8>, Option<Vec<u8>>)>,
}

/// Why a commit did not come through.
enum Stop {
    Full(io::Error),
    Failed(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        if is_full(&error) { Self::Full(error) } else { Self::Failed(error) }
    }
}

impl Inner {
    /// Until the store is closed.
    pub(crate) fn run(&self) {
        while let Some(chunks) = self.gather() {
            // A fault of ours must not look like a disk that takes its time.
            if catch_unwind(AssertUnwindSafe(|| self.commit(chunks))).is_err() {
                self.fail(&io::Error::other("a fault in the store"), "the committer has panicked");
            }
        }
    }

    /// What is to be written now; waits until there is something. `None` at the end.
    fn gather(&self) -> Option<Vec<Chunk>> {
        let mut tail = self.tail.lock();
        loop {
            let troubled = self.troubled.load(Ordering::Relaxed);
            if troubled && matches!(*self.condition.lock(), Condition::Failed(_)) {
                tail.chunks.clear();
                if tail.stop {
                    return None;
                }
                self.work.wait(&mut tail);
                continue;
            }
            if tail.chunks.is_empty() {
                if std::mem::take(&mut tail.demand) {
                    return Some(Vec::new());
                }
                if tail.stop {
                    return None;
                }
                if troubled {
                    self.work.wait_for(&mut tail, LOOK_AGAIN);
                    return Some(Vec::new());
                }
                self.work.wait(&mut tail);
                continue;
            }
            let due = tail.since.unwrap_or_else(Instant::now) + IN_TIME;
            if !troubled && !tail.demand && !tail.stop && self.backlog.load(Ordering::Relaxed) < AT_ONCE {
                let now = Instant::now();
                if due > now {
                    self.work.wait_for(&mut tail, due - now);
                    continue;
                }
            }
            tail.demand = false;
            tail.since = None;
            return Some(tail.chunks.drain(..).collect());
        }
    }

    /// One round without waiting. False if there was nothing.
    #[cfg(test)]
    pub(crate) fn step(&self) -> bool {
        let chunks: Vec<Chunk> = {
            let mut tail = self.tail.lock();
            tail.demand = false;
            tail.since = None;
            tail.chunks.drain(..).collect()
        };
        let some = !chunks.is_empty();
        self.commit(chunks);
        some
    }

    fn commit(&self, chunks: Vec<Chunk>) {
        let mut writer = self.writer.lock();
        let mut written = self.durable.load(Ordering::Acquire);
        let mut rest = chunks.into_iter();
        let mut stop = None;
        let mut done = Vec::new();
        while let Some(mut chunk) = rest.next() {
            match self.write_chunk(&mut writer, &mut chunk) {
                Ok(()) => {
                    written = chunk.to;
                    done.push(chunk);
                }
                Err(why) => {
                    // In front of what came meanwhile.
                    let mut tail = self.tail.lock();
                    let left: Vec<Chunk> = std::iter::once(chunk).chain(rest).collect();
                    left.into_iter().rev().for_each(|chunk| tail.chunks.push_front(chunk));
                    stop = Some(why);
                    break;
                }
            }
        }
        if writer.dirty
            && let Err(error) = self.sync(&mut writer)
        {
            self.fail(&error, "a sync of the journal has failed");
            return;
        }
        self.durable.store(written, Ordering::Release);
        self.after_sync(&mut writer);
        self.give_buffers_back(done);
        self.wake(written);
        match stop {
            Some(Stop::Failed(error)) => self.fail(&error, "the journal cannot be written"),
            Some(Stop::Full(error)) => {
                self.set_full(&error.to_string());
                drop(writer);
                std::thread::sleep(if self.options.threads { LOOK_AGAIN } else { Duration::ZERO });
            }
            None => {
                self.recycle(&mut writer);
                self.look_for_room(&mut writer);
            }
        }
    }

    fn write_chunk(&self, writer: &mut Writer, chunk: &mut Chunk) -> Result<(), Stop> {
        if writer.file.is_none() || writer.number != chunk.file {
            self.begin_file(writer, chunk.file, chunk.from)?;
        }
        let length = chunk.bytes.len() - GROUP_HEADER;
        self.put_group(writer, &mut chunk.bytes, chunk.from, chunk.to)?;
        self.backlog.fetch_sub(length, Ordering::Relaxed);
        self.follow(writer, chunk.bytes.get(GROUP_HEADER..).unwrap_or_default());
        Ok(())
    }

    /// Writes a group whose content stands behind room for its header.
    fn put_group(&self, writer: &mut Writer, bytes: &mut Buffer, from: u64, to: u64) -> Result<(), Stop> {
        let length = bytes.len() - GROUP_HEADER;
        let header = GroupHeader {
            length: u32::try_from(length).unwrap_or(u32::MAX),
            file: writer.number,
            generation: self.header.generation,
            from,
            to,
            durable: self.durable.load(Ordering::Relaxed),
        };
        let (front, content) = bytes.split_at_mut(GROUP_HEADER);
        let no_records = || Stop::Failed(io::Error::other("what was appended is no whole records"));
        front.copy_from_slice(&header.encode(content).ok_or_else(no_records)?);
        let padded = GroupHeader::padded(length);
        bytes.resize(padded.max(ALIGN), 0);
        let Some(file) = writer.file.as_ref() else { return Err(Stop::Failed(io::Error::other("no file"))) };
        let written = file.write_at(writer.offset, bytes);
        // Also if it failed, for then the same bytes are written again.
        bytes.truncate(GROUP_HEADER + length);
        written?;
        writer.offset += padded as u64;
        writer.dirty = true;
        self.counters.groups.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The next file: one that was used before, or a new one. It begins with what older files hold beside messages.
    fn begin_file(&self, writer: &mut Writer, number: u32, lsn: u64) -> Result<(), Stop> {
        if writer.dirty {
            self.sync(writer)?;
        }
        let name = journal_name(number);
        let fresh = match writer.spares.pop() {
            Some(spare) => {
                self.disk.rename(&spare, &name)?;
                false
            }
            None => true,
        };
        let file = self.disk.open_direct(&name)?;
        if fresh {
            file.allocate(self.options.journal_file_bytes)?;
        }
        let header = JournalHeader { store: self.header.id, number, generation: self.header.generation, lsn };
        file.write_at(0, &header.encode())?;
        file.sync()?;
        self.disk.sync_dir("journal")?;
        (writer.file, writer.number, writer.offset) = (Some(file), number, JOURNAL_HEADER as u64);
        let mut records = Records::default();
        self.ledger.lock().checkpoint(&mut records);
        if !records.is_empty() {
            let mut bytes = Buffer::default();
            bytes.resize(GROUP_HEADER, 0);
            bytes.extend_from_slice(&records.joined());
            self.put_group(writer, &mut bytes, lsn, lsn)?;
        }
        Ok(())
    }

    fn sync(&self, writer: &mut Writer) -> io::Result<()> {
        let began = Instant::now();
        if let Some(file) = &writer.file {
            file.sync()?;
        }
        writer.dirty = false;
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counters.sync_micros.fetch_add(micros, Ordering::Relaxed);
        Ok(())
    }

    /// Takes note of what a group says beside its messages.
    fn follow(&self, writer: &mut Writer, mut rest: &[u8]) {
        let mut ledger = None;
        while !rest.is_empty() {
            if let Some(used) = skip_message(rest) {
                rest = rest.get(used..).unwrap_or_default();
                continue;
            }
            let Ok((record, used)) = read_record(rest) else {
                debug_assert!(false, "a record that was appended cannot be read");
                return;
            };
            rest = rest.get(used..).unwrap_or_default();
            match record {
                RecordRef::Put { space, key, value } => {
                    writer.keyed.push((space, key.to_vec(), Some(value.to_vec())));
                }
                RecordRef::Delete { space, key } => writer.keyed.push((space, key.to_vec(), None)),
                other @ (RecordRef::Message { .. }
                | RecordRef::Copy { .. }
                | RecordRef::Settled { .. }
                | RecordRef::Paged { .. }
                | RecordRef::Attempts { .. }
                | RecordRef::Delivered { .. }
                | RecordRef::Note { .. }
                | RecordRef::PageDropped { .. }
                | RecordRef::QueueDropped { .. }) => {
                    ledger.get_or_insert_with(|| self.ledger.lock()).apply(&other, &mut writer.then);
                }
            }
        }
    }

    /// What was waiting for the sync.
    fn after_sync(&self, writer: &mut Writer) {
        for (space, key, value) in writer.keyed.drain(..) {
            let done = match &value {
                Some(value) => self.keyed.put(space, &key, value),
                None => self.keyed.delete(space, &key),
            };
            if let Err(error) = done {
                self.counters.write_errors.fetch_add(1, Ordering::Relaxed);
                error!(%error, "keyed state cannot be changed: the journal keeps the change until the next start");
            }
            writer.unpersisted = true;
        }
        if !writer.then.is_empty() {
            let _copying = self.copying.lock();
            for Then::Unlink(queue, page) in writer.then.drain(..) {
                if let Err(error) = self.disk.remove(&page_name(queue, page)) {
                    warn!(%error, page = page_name(queue, page), "a page cannot be removed");
                }
                self.counters.pages.fetch_sub(1, Ordering::Relaxed);
            }
            writer.unlinked = true;
        }
    }

    fn give_buffers_back(&self, chunks: Vec<Chunk>) {
        let mut tail = self.tail.lock();
        for chunk in chunks {
            if tail.spare.len() < BUFFERS_MAX && chunk.bytes.capacity() <= 2 * AT_ONCE {
                tail.spare.push(chunk.bytes);
            }
        }
    }

    fn wake(&self, durable: u64) {
        let due: Vec<Arc<dyn Waiter>> = {
            let mut waiters = self.waiters.lock();
            let mut due = Vec::new();
            waiters.retain_mut(|(lsn, waiter)| {
                let is_due = *lsn <= durable;
                if is_due {
                    due.push(Arc::clone(waiter));
                }
                !is_due
            });
            due
        };
        due.iter().for_each(|waiter| waiter.wake());
    }

    /// Gives the oldest files back as far as nothing in them is wanted.
    fn recycle(&self, writer: &mut Writer) {
        let mut given = false;
        while let Some(number) = self.oldest_done(writer.number) {
            if let Err(error) = self.give_back(writer, number) {
                self.counters.write_errors.fetch_add(1, Ordering::Relaxed);
                warn!(%error, file = journal_name(number), "a file of the journal cannot be given back");
                break;
            }
            let mut tail = self.tail.lock();
            tail.files.pop_front();
            given = true;
        }
        if given && let Err(error) = self.disk.sync_dir("journal") {
            warn!(%error, "the journal's directory cannot be synced");
        }
        if self.tail.lock().wanted(&self.options).is_some() {
            let observers = self.observers.lock().clone();
            observers.iter().for_each(|observer| observer.look_again());
        }
    }

    fn oldest_done(&self, current: u32) -> Option<u32> {
        let durable = self.durable.load(Ordering::Acquire);
        let tail = self.tail.lock();
        let oldest = tail.files.front().filter(|_| tail.files.len() > 1)?;
        let done = oldest.live <= 0 && oldest.released_at <= durable && oldest.number < current;
        done.then_some(oldest.number)
    }

    fn give_back(&self, writer: &mut Writer, number: u32) -> io::Result<()> {
        let _copying = self.copying.lock();
        if writer.unpersisted {
            self.keyed.persist()?;
            writer.unpersisted = false;
        }
        if std::mem::take(&mut writer.unlinked) {
            self.disk.sync_dir("queues")?;
        }
        let name = journal_name(number);
        if writer.spares.len() < SPARES_MAX {
            writer.spare_number += 1;
            let spare = format!("journal/spare-{}-{}.wal", self.header.generation, writer.spare_number);
            self.disk.rename(&name, &spare)?;
            writer.spares.push(spare);
            Ok(())
        } else {
            self.disk.remove(&name)
        }
    }

    // ---- trouble ----

    /// Sees to it that there is a file for the next messages, and says whether there is.
    fn look_for_room(&self, writer: &mut Writer) {
        let is_low = || self.disk.free_bytes().is_ok_and(|free| free < self.options.free_bytes_min);
        let mut low = is_low();
        while low
            && writer.spares.len() > 1
            && let Some(spare) = writer.spares.pop()
        {
            // Room that the journal keeps for itself, and others need more.
            let _ = self.disk.remove(&spare);
            low = is_low();
        }
        let mut why = low.then(|| "less room is left than store.free_bytes_min".to_owned());
        if !low && writer.spares.is_empty() && writer.file.is_some() {
            writer.spare_number += 1;
            let spare = format!("journal/spare-{}-{}.wal", self.header.generation, writer.spare_number);
            let made =
                self.disk.open(&spare, true).and_then(|file| file.allocate(self.options.journal_file_bytes));
            match made {
                Ok(()) => writer.spares.push(spare),
                Err(error) => {
                    let _ = self.disk.remove(&spare);
                    why = is_full(&error).then(|| error.to_string());
                }
            }
        }
        match why {
            Some(why) => self.set_full(&why),
            None if self.troubled.load(Ordering::Relaxed) => {
                info!(dir = %self.options.dir.display(), "there is room again");
                *self.condition.lock() = Condition::Open;
                self.troubled.store(false, Ordering::Release);
            }
            None => {}
        }
    }

    fn set_full(&self, why: &str) {
        let mut condition = self.condition.lock();
        if *condition == Condition::Open {
            self.counters.write_errors.fetch_add(1, Ordering::Relaxed);
            let dir = self.options.dir.display();
            error!(%dir, why, "no room: durable messages are refused until there is");
            *condition = Condition::Full(format!("no room in {dir} ({why})").into());
            self.troubled.store(true, Ordering::Release);
        }
    }

    fn fail(&self, error: &io::Error, what: &str) {
        self.counters.write_errors.fetch_add(1, Ordering::Relaxed);
        let dir = self.options.dir.display();
        error!(%dir, %error, "{what}: nothing is confirmed any more; restart the broker when the disk is well");
        *self.condition.lock() = Condition::Failed(format!("{what} in {dir}: {error}").into());
        self.troubled.store(true, Ordering::Release);
        let waiters = std::mem::take(&mut *self.waiters.lock());
        waiters.iter().for_each(|(_, waiter)| waiter.wake());
    }

    /// Writes everything, so that the next start finds nothing to do twice.
    pub(crate) fn persist_state(&self) -> io::Result<()> {
        self.keyed.persist()
    }
}

impl Writer {
    /// The file being written, and how far.
    pub(crate) fn place(&self) -> (u32, u64) {
        (self.number, self.offset)
    }

    pub(crate) fn with_spares(spares: Vec<String>, unpersisted: bool) -> Self {
        Self { spares, unpersisted, ..Self::default() }
    }
}
