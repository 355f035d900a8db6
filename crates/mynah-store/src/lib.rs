//! The embedded engine behind the seam of `mynah_core::engine`: one journal for all queues with group commit, pages for what
//! outlives it in long queues, and keyed state in fjall.
//!
//! ```text
//! lock                  held while it is open; names the process
//! FORMAT                magic, version, the store's number, how often it was opened
//! journal/00000001.wal  groups of records, 64 MiB a file; spare-*.wal wait for their next use
//! queues/Q-P.page       neighbours of one queue
//! state/                fjall: definitions, sessions, retained values
//! ```
//!
//! Never: decides what a message means or where it goes.

mod backup;
mod bench;
mod buffer;
mod commit;
mod disk;
mod engine;
mod format;
mod ledger;
mod pages;
mod recovery;
mod scan;
mod state;
#[cfg(test)]
mod tests;
mod tools;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mynah_core::engine::{Condition, Engine, Formats, WallClock};
use parking_lot::{Condvar, Mutex};
use tracing::{error, info};

pub use bench::{Measured, bench_journal};
pub use disk::{Disk, DiskFile, RealDisk};
pub use tools::{Report, format_version, salvage, verify};

use crate::commit::Writer;
use crate::disk::{Lock, LockError};
use crate::engine::{Counters, FileInfo, Inner, Tail};
use crate::format::{Bad, StoreHeader, VERSION};
use crate::recovery::Found;
use crate::state::{Fjall, Keyed};

/// How a store is to be run.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    pub dir: PathBuf,
    /// Beyond so many bytes of journal the oldest messages are moved out of it.
    pub journal_bytes_max: u64,
    pub journal_file_bytes: u64,
    /// With less room than this, durable messages are refused.
    pub free_bytes_min: u64,
    /// Without: every step is the caller's, for tests.
    pub threads: bool,
}

impl StoreOptions {
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            journal_bytes_max: 1 << 30,
            journal_file_bytes: 64 << 20,
            free_bytes_min: 64 << 20,
            threads: true,
        }
    }
}

/// A store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("another process ({0}) uses this data directory")]
    Locked(String),
    #[error("the data directory cannot be written: {0}")]
    NotWritable(io::Error),
    #[error("the data directory is of format version {version}, this program knows versions up to {known}: use a newer program", known = VERSION)]
    Newer { version: u32 },
    #[error("{file} is damaged at byte {at}: {what}; `mynah store salvage DIR` keeps what can be read")]
    Damaged { file: String, at: u64, what: String },
    #[error("{0} belongs to another store")]
    Foreign(String),
    #[error("{0}")]
    Io(io::Error),
}

/// An open store. Closed when it is dropped: everything appended is safe then.
#[derive(Debug)]
pub struct Store {
    inner: Arc<Inner>,
    committer: Option<JoinHandle<()>>,
    _lock: Option<Lock>,
}

impl Store {
    /// Opens the store of a directory, or makes one.
    ///
    /// # Errors
    /// It is in use, damaged, of a later version, or cannot be written.
    pub fn open(options: StoreOptions, formats: Formats) -> Result<Self, StoreError> {
        std::fs::create_dir_all(&options.dir).map_err(StoreError::NotWritable)?;
        let lock = Lock::take(&options.dir).map_err(|error| match error {
            LockError::Held(pid) => StoreError::Locked(pid),
            LockError::Io(error) => StoreError::NotWritable(error),
        })?;
        let disk = Arc::new(RealDisk::new(&options.dir));
        let header = next_header(&*disk)?;
        let keyed = Fjall::open(&options.dir.join("state"))?;
        let mut store = Self::with_disk(options, formats, disk, Box::new(keyed), header)?;
        store._lock = Some(lock);
        Ok(store)
    }

    pub(crate) fn with_disk(
        options: StoreOptions,
        formats: Formats,
        disk: Arc<dyn Disk>,
        keyed: Box<dyn Keyed>,
        header: StoreHeader,
    ) -> Result<Self, StoreError> {
        for dir in ["journal", "queues"] {
            disk.create_dir(dir).map_err(StoreError::NotWritable)?;
        }
        disk.sync_dir("")?;
        let threads = options.threads;
        let mut inner = Inner {
            disk,
            keyed,
            clock: now(),
            formats,
            header,
            options,
            tail: Mutex::new(Tail::new([].into(), 0)),
            work: Condvar::new(),
            durable: AtomicU64::new(0),
            backlog: AtomicUsize::new(0),
            troubled: AtomicBool::new(false),
            condition: Mutex::new(Condition::Open),
            waiters: Mutex::default(),
            observers: Mutex::default(),
            ledger: Mutex::default(),
            writer: Mutex::default(),
            next_page: AtomicU32::new(1),
            next_shared: AtomicU64::new((u64::from(header.generation) << 40) | 1),
            recovered: Mutex::default(),
            counters: Counters::default(),
            copying: Mutex::default(),
            page_buffers: Mutex::default(),
        };
        let Found { mut files, lsn, ledger, queues, next_page, spares, pages } = inner.recover()?;
        let next = files.back().map_or(1, |file| file.number + 1);
        files.push_back(FileInfo { number: next, live: 0, ever: 0, released_at: 0 });
        inner.tail = Mutex::new(Tail::new(files, lsn));
        inner.durable = AtomicU64::new(lsn);
        inner.ledger = Mutex::new(ledger);
        inner.recovered = Mutex::new(queues);
        inner.next_page = AtomicU32::new(next_page);
        inner.counters.pages = AtomicU64::new(pages);
        inner.writer = Mutex::new(Writer::with_spares(spares, true));
        let inner = Arc::new(inner);
        let committer = threads
            .then(|| {
                let inner = Arc::clone(&inner);
                std::thread::Builder::new().name("mynah-journal".to_owned()).spawn(move || inner.run())
            })
            .transpose()?;
        info!(dir = %inner.options.dir.display(), generation = header.generation, "store open");
        Ok(Self { inner, committer, _lock: None })
    }

    #[must_use]
    pub fn engine(&self) -> Engine {
        Engine {
            log: Arc::<Inner>::clone(&self.inner),
            state: Arc::<Inner>::clone(&self.inner),
            clock: self.inner.clock,
            lasting: true,
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(committer) = self.committer.take() {
            self.inner.tail.lock().stop = true;
            self.inner.work.notify_all();
            if committer.join().is_err() {
                error!("the committer has panicked: what was appended last may be lost");
            }
            if let Err(err) = self.inner.persist_state() {
                error!(%err, "keyed state could not be made safe: the next start does it from the journal");
            }
        }
    }
}

fn now() -> WallClock {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallClock { at: Instant::now(), epoch_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX) }
}

/// Reads the header, and makes it that of one more life.
fn next_header(disk: &dyn Disk) -> Result<StoreHeader, StoreError> {
    let file = disk.open("FORMAT", true).map_err(StoreError::NotWritable)?;
    let bytes = disk::read_all(&*file)?;
    let header = if bytes.is_empty() {
        use std::hash::{BuildHasher, RandomState};
        StoreHeader { id: RandomState::new().hash_one(std::process::id()), generation: 1 }
    } else {
        let known = StoreHeader::decode(&bytes).map_err(|bad| match bad {
            Bad::Newer(version) => StoreError::Newer { version },
            Bad::Damaged => StoreError::Damaged {
                file: "FORMAT".to_owned(),
                at: 0,
                what: "it is no header of a store".to_owned(),
            },
        })?;
        StoreHeader { generation: known.generation + 1, ..known }
    };
    drop(file);
    let beside = disk.open("FORMAT.tmp", true).map_err(StoreError::NotWritable)?;
    beside.write_at(0, &header.encode()).map_err(StoreError::NotWritable)?;
    beside.sync()?;
    disk.rename("FORMAT.tmp", "FORMAT")?;
    disk.sync_dir("")?;
    Ok(header)
}
