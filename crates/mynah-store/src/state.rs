//! Keyed state: fjall, one keyspace for each kind.
//!
//! Changes come from the journal, in its order, and are made safe here only before the journal forgets them.
//!
//! Never: decides what a change means.

use std::fmt;
use std::io;
use std::path::Path;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use mynah_core::engine::Space;

/// Bytes of blocks kept in memory, and of changes before they are written out: keyed state is small beside the messages.
const CACHE_BYTES: u64 = 8 << 20;
const MEMTABLE_BYTES: u64 = 8 << 20;
const JOURNAL_BYTES_MAX: u64 = 64 << 20;

/// What holds keyed state.
pub(crate) trait Keyed: Send + Sync + fmt::Debug {
    fn put(&self, space: Space, key: &[u8], value: &[u8]) -> io::Result<()>;
    fn delete(&self, space: Space, key: &[u8]) -> io::Result<()>;
    /// All changes so far are safe.
    fn persist(&self) -> io::Result<()>;
    fn get(&self, space: Space, key: &[u8]) -> io::Result<Option<Bytes>>;
    fn scan(&self, space: Space, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> io::Result<()>;
}

pub(crate) struct Fjall {
    database: Database,
    spaces: Vec<(Space, Keyspace)>,
}

impl fmt::Debug for Fjall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fjall").field("spaces", &self.spaces.len()).finish_non_exhaustive()
    }
}

impl Fjall {
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let database = Database::builder(dir)
            .cache_size(CACHE_BYTES)
            .worker_threads(1)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .manual_journal_persist(true)
            .open()
            .map_err(io::Error::other)?;
        let mut spaces = Vec::new();
        for space in Space::ALL {
            let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
            spaces.push((space, database.keyspace(space.name(), options).map_err(io::Error::other)?));
        }
        Ok(Self { database, spaces })
    }

    fn keyspace(&self, space: Space) -> io::Result<&Keyspace> {
        let found = self.spaces.iter().find(|(known, _)| *known == space);
        found.map(|(_, keyspace)| keyspace).ok_or_else(|| io::Error::other("no such space"))
    }
}

impl Keyed for Fjall {
    fn put(&self, space: Space, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.keyspace(space)?.insert(key, value).map_err(io::Error::other)
    }

    fn delete(&self, space: Space, key: &[u8]) -> io::Result<()> {
        self.keyspace(space)?.remove(key).map_err(io::Error::other)
    }

    fn persist(&self) -> io::Result<()> {
        self.database.persist(PersistMode::SyncAll).map_err(io::Error::other)
    }

    fn get(&self, space: Space, key: &[u8]) -> io::Result<Option<Bytes>> {
        let found = self.keyspace(space)?.get(key).map_err(io::Error::other)?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, space: Space, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> io::Result<()> {
        for entry in self.keyspace(space)?.prefix(prefix) {
            let (key, value) = entry.into_inner().map_err(io::Error::other)?;
            each(&key, &value);
        }
        Ok(())
    }
}
