//! A disk that forgets what was not synced, keeps any part of what was written since, fails, and is full, as a test wants it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use mynah_core::engine::Space;
use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile};
use crate::state::Keyed;

/// Sectors are written whole or not at all.
const SECTOR: usize = 512;

/// Numbers that a seed gives again.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below.max(1)
    }

    pub(super) fn one_in(&mut self, many: u64) -> bool {
        self.roll(many) == 0
    }
}

#[derive(Debug, Clone, Default)]
struct Inode {
    safe: Vec<u8>,
    now: Vec<u8>,
    /// Since the last sync, in order.
    writes: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug, Default)]
struct Inner {
    inodes: HashMap<u64, Inode>,
    next: u64,
    names: BTreeMap<String, u64>,
    safe_names: BTreeMap<String, u64>,
    syncs: u64,
    fail_sync: Option<u64>,
    fail_write: bool,
    quota: Option<u64>,
}

impl Inner {
    fn used(&self) -> u64 {
        self.names
            .values()
            .filter_map(|inode| self.inodes.get(inode))
            .map(|inode| inode.now.len() as u64)
            .sum()
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct SimDisk(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct SimFile {
    disk: Arc<Mutex<Inner>>,
    inode: u64,
}

fn write_into(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

impl SimDisk {
    /// The power goes: what was synced is there, of the rest any sectors.
    pub(super) fn crash(&self, dice: &mut Dice) -> Self {
        let inner = self.0.lock();
        let names = if dice.one_in(2) { &inner.names } else { &inner.safe_names };
        let mut after = Inner { next: inner.next, ..Inner::default() };
        for (name, number) in names {
            let Some(inode) = inner.inodes.get(number) else { continue };
            let mut bytes = inode.safe.clone();
            let luck = dice.roll(3);
            for (at, data) in &inode.writes {
                for (place, sector) in data.chunks(SECTOR).enumerate() {
                    let survives = match luck {
                        0 => false,
                        1 => true,
                        _ => dice.one_in(2),
                    };
                    if survives {
                        write_into(&mut bytes, at + place * SECTOR, sector);
                    }
                }
            }
            let inode = Inode { safe: bytes.clone(), now: bytes, writes: Vec::new() };
            after.inodes.insert(*number, inode);
            after.names.insert(name.clone(), *number);
        }
        after.safe_names.clone_from(&after.names);
        Self(Arc::new(Mutex::new(after)))
    }

    /// The power goes in the middle of the last write: so many bytes of it are there, and all before it.
    pub(super) fn torn(&self, keep: usize) -> Self {
        let inner = self.0.lock();
        let mut after = Inner {
            next: inner.next,
            names: inner.names.clone(),
            safe_names: inner.names.clone(),
            ..Inner::default()
        };
        for (number, inode) in &inner.inodes {
            let mut bytes = inode.safe.clone();
            if let Some(((at, last), before)) = inode.writes.split_last() {
                for (at, data) in before {
                    write_into(&mut bytes, *at, data);
                }
                write_into(&mut bytes, *at, &last[..keep.min(last.len())]);
            }
            after.inodes.insert(*number, Inode { safe: bytes.clone(), now: bytes, writes: Vec::new() });
        }
        Self(Arc::new(Mutex::new(after)))
    }

    /// Length of the last write that was not synced.
    pub(super) fn last_write(&self) -> usize {
        let inner = self.0.lock();
        inner
            .inodes
            .values()
            .filter_map(|inode| inode.writes.last())
            .map(|(_, data)| data.len())
            .max()
            .unwrap_or(0)
    }

    pub(super) fn fail_next_sync(&self) {
        let mut inner = self.0.lock();
        inner.fail_sync = Some(inner.syncs + 1);
    }

    /// It finds no room, and writes a part.
    pub(super) fn fail_next_write(&self) {
        self.0.lock().fail_write = true;
    }

    pub(super) fn set_quota(&self, quota: Option<u64>) {
        self.0.lock().quota = quota;
    }

    pub(super) fn used(&self) -> u64 {
        self.0.lock().used()
    }

    /// Every file with its length.
    pub(super) fn files(&self) -> Vec<(String, usize)> {
        let inner = self.0.lock();
        inner.names.iter().map(|(name, inode)| (name.clone(), inner.inodes[inode].now.len())).collect()
    }

    /// As it is, but for one bit.
    pub(super) fn flipped(&self, name: &str, bit: usize) -> Self {
        let inner = self.0.lock();
        let mut inodes = inner.inodes.clone();
        let inode = inodes.get_mut(&inner.names[name]).unwrap();
        inode.now[bit / 8] ^= 1 << (bit % 8);
        inode.safe.clone_from(&inode.now);
        let names = inner.names.clone();
        let after = Inner { inodes, next: inner.next, safe_names: names.clone(), names, ..Inner::default() };
        Self(Arc::new(Mutex::new(after)))
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let inner = self.0.lock();
        let prefix = format!("{path}/");
        Ok(inner.names.keys().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect())
    }

    fn open(&self, path: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.0.lock();
        let known = inner.names.get(path).copied();
        let inode = match known {
            Some(inode) => inode,
            None if create => {
                inner.next += 1;
                let inode = inner.next;
                inner.inodes.insert(inode, Inode::default());
                inner.names.insert(path.to_owned(), inode);
                inode
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(SimFile { disk: Arc::clone(&self.0), inode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.0.lock();
        let inode = inner.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        inner.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.0.lock().names.remove(path).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _: &str) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.safe_names = inner.names.clone();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let inner = self.0.lock();
        Ok(inner.quota.map_or(1 << 40, |quota| quota.saturating_sub(inner.used())))
    }
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.lock().inodes[&self.inode].now.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let inner = self.disk.lock();
        let bytes = &inner.inodes[&self.inode].now;
        let from = usize::try_from(offset).unwrap().min(bytes.len());
        let count = into.len().min(bytes.len() - from);
        into[..count].copy_from_slice(&bytes[from..from + count]);
        Ok(count)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.disk.lock();
        let at = usize::try_from(offset).unwrap();
        let grows = (at + bytes.len()).saturating_sub(inner.inodes[&self.inode].now.len()) as u64;
        if inner.quota.is_some_and(|quota| inner.used() + grows > quota) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let failed = std::mem::take(&mut inner.fail_write);
        let bytes = if failed { &bytes[..bytes.len() / 2] } else { bytes };
        let inode = inner.inodes.get_mut(&self.inode).unwrap();
        write_into(&mut inode.now, at, bytes);
        inode.writes.push((at, bytes.to_vec()));
        if failed { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.lock();
        inner.syncs += 1;
        if inner.fail_sync == Some(inner.syncs) {
            return Err(io::Error::other("the disk says no"));
        }
        let inode = inner.inodes.get_mut(&self.inode).unwrap();
        inode.safe.clone_from(&inode.now);
        inode.writes.clear();
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut inner = self.disk.lock();
        let length = usize::try_from(bytes).unwrap();
        let grows = length.saturating_sub(inner.inodes[&self.inode].now.len()) as u64;
        if inner.quota.is_some_and(|quota| inner.used() + grows > quota) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = inner.inodes.get_mut(&self.inode).unwrap();
        if inode.now.len() < length {
            inode.now.resize(length, 0);
            inode.safe.resize(length, 0);
        }
        Ok(())
    }
}

type Map = BTreeMap<(Space, Vec<u8>), Vec<u8>>;

/// Keyed state that forgets what was not persisted.
#[derive(Debug, Clone, Default)]
pub(super) struct SimState(Arc<Mutex<(Map, Map)>>);

impl SimState {
    /// What was persisted, or more.
    pub(super) fn crash(&self, dice: &mut Dice) -> Self {
        let (now, safe) = &*self.0.lock();
        let map = if dice.one_in(2) { now.clone() } else { safe.clone() };
        Self(Arc::new(Mutex::new((map.clone(), map))))
    }
}

impl Keyed for SimState {
    fn put(&self, space: Space, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.0.lock().0.insert((space, key.to_vec()), value.to_vec());
        Ok(())
    }

    fn delete(&self, space: Space, key: &[u8]) -> io::Result<()> {
        self.0.lock().0.remove(&(space, key.to_vec()));
        Ok(())
    }

    fn persist(&self) -> io::Result<()> {
        let mut both = self.0.lock();
        both.1 = both.0.clone();
        Ok(())
    }

    fn get(&self, space: Space, key: &[u8]) -> io::Result<Option<Bytes>> {
        Ok(self.0.lock().0.get(&(space, key.to_vec())).map(|value| Bytes::copy_from_slice(value)))
    }

    fn scan(&self, space: Space, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> io::Result<()> {
        for ((at, key), value) in &self.0.lock().0 {
            if *at == space && key.starts_with(prefix) {
                each(key, value);
            }
        }
        Ok(())
    }
}
