//! The log: what is appended waits in memory for the committer, which writes and syncs it in groups.
//!
//! Appending is one copy under a short lock. Which file of the journal a block goes to is decided there, so that whoever appends
//! knows at once where its messages stand.
//!
//! Never: touches the disk under the lock of `tail`.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use mynah_core::engine::{
    Appended, Condition, Extent, Formats, Log, LogObserver, LogStatus, Lsn, Page, QueueNumber, Records,
    RecoveredQueue, SharedNumber, Space, State, StoredEntry, Wait, Waiter, WallClock,
};
use parking_lot::{Condvar, Mutex};

use crate::StoreOptions;
use crate::buffer::Buffer;
use crate::commit::Writer;
use crate::disk::Disk;
use crate::format::{ALIGN, GROUP_HEADER, JOURNAL_HEADER, StoreHeader};
use crate::ledger::Ledger;
use crate::pages::PageBuffers;
use crate::state::Keyed;

/// Bytes of blocks that make a group at most, unless one block is larger.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// Blocks of one file that will be a group.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) file: u32,
    /// Begins with room for the group's header.
    pub(crate) bytes: Buffer,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// A file of the journal, as who appends sees it.
#[derive(Debug)]
pub(crate) struct FileInfo {
    pub(crate) number: u32,
    /// Messages in it that are wanted.
    pub(crate) live: i64,
    /// Messages that it was given.
    pub(crate) ever: i64,
    /// Where the log was when the last of its messages was released.
    pub(crate) released_at: u64,
}

#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) chunks: VecDeque<Chunk>,
    /// All files, the one being filled last; their numbers have no gaps.
    pub(crate) files: VecDeque<FileInfo>,
    pub(crate) lsn: u64,
    /// Bytes of the last file that are spoken for.
    used: usize,
    /// Somebody waits for what was appended.
    pub(crate) demand: bool,
    /// When the oldest of the chunks came.
    pub(crate) since: Option<Instant>,
    pub(crate) stop: bool,
    /// The file whose emptying has been asked for.
    asked: Option<u32>,
    /// Emptied buffers.
    pub(crate) spare: Vec<Buffer>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) appended: AtomicU64,
    pub(crate) groups: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) sync_micros: AtomicU64,
    pub(crate) write_errors: AtomicU64,
    pub(crate) read_errors: AtomicU64,
    pub(crate) page_reads: AtomicU64,
    pub(crate) page_writes: AtomicU64,
    pub(crate) pages: AtomicU64,
}

pub(crate) struct Inner {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) keyed: Box<dyn Keyed>,
    pub(crate) clock: WallClock,
    pub(crate) formats: Formats,
    pub(crate) header: StoreHeader,
    pub(crate) options: StoreOptions,
    pub(crate) tail: Mutex<Tail>,
    pub(crate) work: Condvar,
    pub(crate) durable: AtomicU64,
    pub(crate) backlog: AtomicUsize,
    /// The condition is not `Open`.
    pub(crate) troubled: AtomicBool,
    pub(crate) condition: Mutex<Condition>,
    pub(crate) waiters: Mutex<Vec<(u64, Arc<dyn Waiter>)>>,
    pub(crate) observers: Mutex<Vec<Arc<dyn LogObserver>>>,
    pub(crate) ledger: Mutex<Ledger>,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) next_page: AtomicU32,
    pub(crate) next_shared: AtomicU64,
    pub(crate) recovered: Mutex<BTreeMap<QueueNumber, RecoveredQueue>>,
    pub(crate) counters: Counters,
    /// Held while a copy of the directory is taken: nothing is removed meanwhile.
    pub(crate) copying: Mutex<()>,
    pub(crate) page_buffers: Mutex<PageBuffers>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("dir", &self.options.dir).finish_non_exhaustive()
    }
}

impl Tail {
    pub(crate) fn new(files: VecDeque<FileInfo>, lsn: u64) -> Self {
        Self {
            chunks: VecDeque::new(),
            files,
            lsn,
            used: JOURNAL_HEADER,
            demand: false,
            since: None,
            stop: false,
            asked: None,
            spare: Vec::new(),
        }
    }

    fn file(&mut self, extent: Extent) -> Option<&mut FileInfo> {
        let first = self.files.front()?.number;
        let at = extent.number().checked_sub(first)?;
        self.files.get_mut(usize::try_from(at).ok()?)
    }

    /// Adds a block; answers the file it goes to.
    fn push(&mut self, records: &Records, file_bytes: usize) -> u32 {
        let mut number = self.files.back().map_or(1, |file| file.number);
        let length = records.size();
        if length == 0 {
            return number;
        }
        let need = length + GROUP_HEADER + ALIGN;
        if self.used + need > file_bytes && self.used > JOURNAL_HEADER {
            number += 1;
            self.files.push_back(FileInfo { number, live: 0, ever: 0, released_at: 0 });
            self.used = JOURNAL_HEADER;
            self.asked = None;
        }
        let from = self.lsn;
        self.lsn += length as u64;
        let to = self.lsn;
        let fits = |chunk: &&mut Chunk| chunk.file == number && chunk.bytes.len() + length <= GROUP_BYTES_MAX;
        if let Some(chunk) = self.chunks.back_mut().filter(fits) {
            records.join_to(|piece| chunk.bytes.extend_from_slice(piece));
            chunk.to = to;
            self.used += length;
        } else {
            let mut bytes = self.spare.pop().unwrap_or_default();
            bytes.clear();
            bytes.resize(GROUP_HEADER, 0);
            records.join_to(|piece| bytes.extend_from_slice(piece));
            self.chunks.push_back(Chunk { file: number, bytes, from, to });
            self.used += need;
        }
        number
    }

    /// Messages that came, and that went.
    fn count(&mut self, number: u32, records: &Records) {
        let lsn = self.lsn;
        if records.held() > 0
            && let Some(file) = self.file(Extent::journal(number))
        {
            file.live += i64::from(records.held());
            file.ever += i64::from(records.held());
        }
        for (extent, count) in records.held_in() {
            if let Some(file) = self.file(*extent).filter(|_| extent.is_journal()) {
                file.live += i64::from(*count);
                file.ever += i64::from(*count);
            }
        }
        for (extent, count) in records.released() {
            if extent.is_journal()
                && let Some(file) = self.file(*extent)
            {
                file.live -= i64::from(*count);
                file.released_at = lsn;
            }
        }
    }

    /// The file that should be emptied, if one should.
    pub(crate) fn wanted(&self, options: &StoreOptions) -> Option<u32> {
        let oldest = self.files.front().filter(|_| self.files.len() > 1)?;
        if oldest.live <= 0 || self.asked == Some(oldest.number) {
            return None;
        }
        let bytes = self.files.len() as u64 * options.journal_file_bytes;
        let few = self.files.len() > 4 && oldest.live * 4 < oldest.ever;
        (few || bytes > options.journal_bytes_max).then_some(oldest.number)
    }
}

impl Inner {
    /// A page must not be safe before what its messages came with: they would be there after a crash, and what was to leave in
    /// the same append as well.
    fn catch_up(&self, after: Lsn) -> io::Result<()> {
        if Log::durable(self) >= after {
            return Ok(());
        }
        match Log::condition(self) {
            Condition::Open if self.options.threads => self.flush_to(after),
            Condition::Open => {
                #[cfg(test)]
                self.step();
                Ok(())
            }
            Condition::Full(why) | Condition::Failed(why) => Err(io::Error::other(why.to_string())),
        }
    }
}

impl Log for Inner {
    fn append(&self, records: &Records) -> Appended {
        let length = records.size();
        let file_bytes = usize::try_from(self.options.journal_file_bytes).unwrap_or(usize::MAX);
        let mut tail = self.tail.lock();
        if self.troubled.load(Ordering::Relaxed) && matches!(*self.condition.lock(), Condition::Failed(_)) {
            // Nothing is written any more: only the position moves, and nobody waits for it in vain.
            tail.lsn += length.max(1) as u64;
            let number = tail.files.back().map_or(1, |file| file.number);
            return Appended { lsn: Lsn(tail.lsn), extent: Extent::journal(number) };
        }
        let number = tail.push(records, file_bytes);
        tail.count(number, records);
        self.backlog.fetch_add(length, Ordering::Relaxed);
        self.counters.appended.fetch_add(length as u64, Ordering::Relaxed);
        let first = tail.since.is_none() && length > 0;
        if first {
            tail.since = Some(Instant::now());
        }
        let demanded = records.demands_sync() && !tail.demand;
        tail.demand |= records.demands_sync();
        let appended = Appended { lsn: Lsn(tail.lsn), extent: Extent::journal(number) };
        drop(tail);
        if first || demanded {
            self.work.notify_one();
        }
        appended
    }

    fn end(&self) -> Lsn {
        Lsn(self.tail.lock().lsn)
    }

    fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }

    fn wait(&self, lsn: Lsn, waiter: &Arc<dyn Waiter>) -> Wait {
        {
            let mut waiters = self.waiters.lock();
            // The committer moves the position first, and then looks who waits.
            if self.durable.load(Ordering::Acquire) >= lsn.0 {
                return Wait::Done;
            }
            if self.troubled.load(Ordering::Acquire) && matches!(*self.condition.lock(), Condition::Failed(_))
            {
                return Wait::Failed;
            }
            waiters.push((lsn.0, Arc::clone(waiter)));
        }
        let mut tail = self.tail.lock();
        if !std::mem::replace(&mut tail.demand, true) {
            drop(tail);
            self.work.notify_one();
        }
        Wait::Registered
    }

    fn condition(&self) -> Condition {
        if self.troubled.load(Ordering::Acquire) { self.condition.lock().clone() } else { Condition::Open }
    }

    fn backlog(&self) -> usize {
        self.backlog.load(Ordering::Relaxed)
    }

    fn next_shared(&self) -> SharedNumber {
        SharedNumber(self.next_shared.fetch_add(1, Ordering::Relaxed))
    }

    fn next_page(&self) -> Extent {
        Extent::page(self.next_page.fetch_add(1, Ordering::Relaxed))
    }

    fn write_page(
        &self,
        queue: QueueNumber,
        extent: Extent,
        level: u8,
        entries: &[StoredEntry],
        after: Lsn,
    ) -> io::Result<Page> {
        if entries.iter().any(|entry| entry.durable) {
            self.catch_up(after)?;
        }
        self.write_page_file(queue, extent, level, entries).inspect_err(|_| {
            self.counters.write_errors.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn read_page(&self, queue: QueueNumber, extent: Extent) -> io::Result<Vec<StoredEntry>> {
        self.read_page_file(queue, extent).inspect_err(|_| {
            self.counters.read_errors.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn oldest_wanted(&self) -> Option<Extent> {
        let mut tail = self.tail.lock();
        let wanted = tail.wanted(&self.options)?;
        tail.asked = Some(wanted);
        Some(Extent::journal(wanted))
    }

    fn observe(&self, observer: Arc<dyn LogObserver>) {
        self.observers.lock().push(observer);
    }

    fn take_recovered(&self, queue: QueueNumber) -> RecoveredQueue {
        self.recovered.lock().remove(&queue).unwrap_or_default()
    }

    fn recovered(&self) -> Vec<QueueNumber> {
        self.recovered.lock().keys().copied().collect()
    }

    fn generation(&self) -> u32 {
        self.header.generation
    }

    fn status(&self) -> LogStatus {
        let files = self.tail.lock().files.len() as u64;
        let Counters {
            appended,
            groups,
            syncs,
            sync_micros,
            write_errors,
            read_errors,
            page_reads,
            page_writes,
            pages,
        } = &self.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LogStatus {
            journal_files: files,
            journal_bytes: files * self.options.journal_file_bytes,
            pages: get(pages),
            page_bytes: self
                .ledger
                .lock()
                .queues
                .values()
                .flat_map(|queue| queue.pages.values())
                .map(|page| page.bytes)
                .sum(),
            backlog_bytes: self.backlog() as u64,
            appended_bytes: get(appended),
            groups: get(groups),
            syncs: get(syncs),
            sync_micros: get(sync_micros),
            write_errors: get(write_errors),
            read_errors: get(read_errors),
            page_reads: get(page_reads),
            page_writes: get(page_writes),
        }
    }

    fn backup(&self, to: &std::path::Path) -> io::Result<()> {
        self.backup_to(to)
    }

    fn flush(&self) -> io::Result<()> {
        self.flush_to(self.end())
    }
}

impl Inner {
    /// Waits until what is before `lsn` is safe.
    fn flush_to(&self, lsn: Lsn) -> io::Result<()> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let waiter: Arc<dyn Waiter> = Arc::new(Signal(Mutex::new(sender)));
        match self.wait(lsn, &waiter) {
            Wait::Done => return Ok(()),
            Wait::Registered => {
                let _ = receiver.recv();
            }
            Wait::Failed => {}
        }
        if self.durable() >= lsn { Ok(()) } else { Err(io::Error::other("the log has failed")) }
    }
}

#[derive(Debug)]
struct Signal(Mutex<std::sync::mpsc::Sender<()>>);

impl Waiter for Signal {
    fn wake(&self) {
        let _ = self.0.lock().send(());
    }
}

impl State for Inner {
    fn get(&self, space: Space, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.keyed.get(space, key)
    }

    fn scan(&self, space: Space, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> io::Result<()> {
        self.keyed.scan(space, prefix, each)
    }
}
