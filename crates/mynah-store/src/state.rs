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
use mynah_core::engine::{Reader, Space, put_bytes};

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

/// Longer keys do not fit into a keyspace: they stand in one of their own, under a digest, with the key in front of the value.
const KEY_BYTES_MAX: usize = 60_000;

pub(crate) struct Fjall {
    database: Database,
    long: Keyspace,
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
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let long = database.keyspace("long-keys", options).map_err(io::Error::other)?;
        Ok(Self { database, long, spaces })
    }

    fn keyspace(&self, space: Space) -> io::Result<&Keyspace> {
        let found = self.spaces.iter().find(|(known, _)| *known == space);
        found.map(|(_, keyspace)| keyspace).ok_or_else(|| io::Error::other("no such space"))
    }
}

impl Keyed for Fjall {
    fn put(&self, space: Space, key: &[u8], value: &[u8]) -> io::Result<()> {
        if key.len() > KEY_BYTES_MAX {
            let mut entry = Vec::with_capacity(key.len() + value.len() + 4);
            put_bytes(&mut entry, key);
            entry.extend_from_slice(value);
            return self.long.insert(digest(space, key), entry).map_err(io::Error::other);
        }
        self.keyspace(space)?.insert(key, value).map_err(io::Error::other)
    }

    fn delete(&self, space: Space, key: &[u8]) -> io::Result<()> {
        if key.len() > KEY_BYTES_MAX {
            return self.long.remove(digest(space, key)).map_err(io::Error::other);
        }
        self.keyspace(space)?.remove(key).map_err(io::Error::other)
    }

    fn persist(&self) -> io::Result<()> {
        self.database.persist(PersistMode::SyncAll).map_err(io::Error::other)
    }

    fn get(&self, space: Space, key: &[u8]) -> io::Result<Option<Bytes>> {
        if key.len() > KEY_BYTES_MAX {
            let found = self.long.get(digest(space, key)).map_err(io::Error::other)?;
            return Ok(found.and_then(|entry| {
                let mut reader = Reader::new(&entry);
                (reader.bytes().ok()? == key).then(|| Bytes::copy_from_slice(reader.rest()))
            }));
        }
        let found = self.keyspace(space)?.get(key).map_err(io::Error::other)?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, space: Space, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> io::Result<()> {
        for entry in self.keyspace(space)?.prefix(prefix) {
            let (key, value) = entry.into_inner().map_err(io::Error::other)?;
            each(&key, &value);
        }
        for entry in self.long.prefix([space as u8]) {
            let (_, value) = entry.into_inner().map_err(io::Error::other)?;
            let mut reader = Reader::new(&value);
            if let Some(key) = reader.bytes().ok().filter(|key| key.starts_with(prefix)) {
                each(key, reader.rest());
            }
        }
        Ok(())
    }
}

/// The kind, and what tells long keys apart: the same in every life of the process.
fn digest(space: Space, key: &[u8]) -> [u8; 17] {
    let fold = |seed: u64| {
        key.iter().fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
    };
    let (low, high) = (fold(0xcbf2_9ce4_8422_2325), fold(0x9e37_79b9_7f4a_7c15));
    let mut digest = [space as u8; 17];
    let bytes = low.to_le_bytes().into_iter().chain(high.to_le_bytes());
    digest.iter_mut().skip(1).zip(bytes).for_each(|(place, byte)| *place = byte);
    digest
}
