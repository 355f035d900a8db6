//! What the store needs of a disk, and the real one.
//!
//! Everything that must survive goes through this trait, so that a test can put a disk under the store that forgets what was not
//! synced, is full, fails or is slow.
//!
//! Never: buffers.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, OFlags};

/// A directory and what is in it. Paths are relative to it.
pub trait Disk: Send + Sync + fmt::Debug {
    /// # Errors
    /// As the operating system says.
    fn create_dir(&self, path: &str) -> io::Result<()>;

    /// Names of the files and directories in a directory, in no order; none if it is not there.
    ///
    /// # Errors
    /// As the operating system says.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;

    /// Opens for reading and writing; with `create` also what is not there.
    ///
    /// # Errors
    /// As the operating system says.
    fn open(&self, path: &str, create: bool) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens for reading and writing what is written once and hardly ever read: whole blocks go past the page cache where the file system
    /// can do that, which is faster and leaves the cache to others.
    ///
    /// # Errors
    /// As the operating system says.
    fn open_direct(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path, true)
    }

    /// # Errors
    /// As the operating system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// # Errors
    /// As the operating system says.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes what was created, renamed and removed in a directory safe.
    ///
    /// # Errors
    /// As the operating system says.
    fn sync_dir(&self, path: &str) -> io::Result<()>;

    /// Bytes that can still be written, about.
    ///
    /// # Errors
    /// As the operating system says.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// # Errors
    /// As the operating system says.
    fn size(&self) -> io::Result<u64>;

    /// Reads as much as there is, from `offset` on.
    ///
    /// # Errors
    /// As the operating system says.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Writes all.
    ///
    /// # Errors
    /// As the operating system says; what was written of it is not known.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes the content safe (fdatasync).
    ///
    /// # Errors
    /// What was written since the last sync may be lost: it must not be tried again.
    fn sync(&self) -> io::Result<()>;

    /// Reserves room, so that writing up to there finds some.
    ///
    /// # Errors
    /// There is none.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
}

/// All of a file.
pub(crate) fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.size()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    let mut at = 0;
    while at < length {
        let rest = bytes.get_mut(at..).unwrap_or_default();
        let read = file.read_at(at as u64, rest)?;
        if read == 0 {
            break;
        }
        at += read;
    }
    bytes.truncate(at);
    Ok(bytes)
}

/// Whether an error says that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The real disk.
#[derive(Debug)]
pub struct RealDisk {
    dir: PathBuf,
}

impl RealDisk {
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }
}

impl Disk for RealDisk {
    fn create_dir(&self, path: &str) -> io::Result<()> {
        std::fs::create_dir_all(self.dir.join(path))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        match std::fs::read_dir(self.dir.join(path)) {
            Ok(entries) => {
                entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn open(&self, path: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .open(self.dir.join(path))?;
        Ok(Arc::new(RealFile { file, direct: None, refused: AtomicBool::new(false) }))
    }

    fn open_direct(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.dir.join(path);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
        // Not every file system has it.
        let direct = OpenOptions::new().write(true).custom_flags(flags).open(&path).ok();
        Ok(Arc::new(RealFile { file, direct, refused: AtomicBool::new(false) }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(path))
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        File::open(self.dir.join(path))?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[derive(Debug)]
struct RealFile {
    file: File,
    /// The same, past the page cache.
    direct: Option<File>,
    /// It wants larger blocks than it was given.
    refused: AtomicBool,
}

/// The smallest blocks that are written past the page cache.
const BLOCK: usize = 512;

impl RealFile {
    /// Writes whole blocks past the page cache. False: they must be written otherwise.
    fn write_direct(&self, offset: u64, bytes: &[u8]) -> io::Result<bool> {
        let Some(direct) = &self.direct else { return Ok(false) };
        let in_blocks = offset.is_multiple_of(BLOCK as u64)
            && bytes.len().is_multiple_of(BLOCK)
            && bytes.as_ptr().align_offset(BLOCK) == 0;
        if !in_blocks || self.refused.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match direct.write_all_at(bytes, offset) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.refused.store(true, Ordering::Relaxed);
                Ok(false)
            }
            done => done.map(|()| true),
        }
    }
}

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(&self.file, into, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.write_direct(offset, bytes)? { Ok(()) } else { self.file.write_all_at(bytes, offset) }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            // Not every file system can: then room is found when it is written to.
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            done => done.map_err(io::Error::from),
        }
    }
}

/// Held as long as the store is open: nobody else can open it meanwhile.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, or answers who has it.
    pub(crate) fn take(dir: &Path) -> Result<Self, LockError> {
        use std::io::{Read, Seek, Write};
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(LockError::Io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                return Err(LockError::Held(holder.trim().to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
        }
        let pid = format!("{}\n", std::process::id());
        file.set_len(0).and_then(|()| file.rewind()).map_err(LockError::Io)?;
        file.write_all(pid.as_bytes()).map_err(LockError::Io)?;
        Ok(Self { _file: file })
    }
}

#[derive(Debug)]
pub(crate) enum LockError {
    /// The process that has it.
    Held(String),
    Io(io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Buffer;

    /// Whole blocks go past the page cache, the rest does not, and both are read as one; also where the file system has only one way.
    #[test]
    fn direct_and_other_writes_are_one_file() {
        for dir in [std::env::temp_dir(), Path::new("/dev/shm").to_owned()] {
            if !dir.is_dir() {
                continue;
            }
            let name = format!("mynah-direct-{}", std::process::id());
            let disk = RealDisk::new(&dir);
            let file = disk.open_direct(&name).unwrap();
            file.allocate(1 << 20).unwrap();
            let mut like = vec![0; 1 << 20];
            for step in 0..200_usize {
                let length = if step % 3 == 0 { step * 31 } else { step % 9 * 512 };
                let offset = if step % 4 == 0 { step * 777 } else { step * 1536 };
                let mut bytes = Buffer::default();
                bytes.resize(length, u8::try_from(step + 1).unwrap());
                file.write_at(offset as u64, &bytes).unwrap();
                like[offset..offset + length].copy_from_slice(&bytes);
                if step % 5 == 0 {
                    file.sync().unwrap();
                }
            }
            assert!(read_all(&*file).unwrap() == like, "{}", dir.display());
            disk.remove(&name).unwrap();
        }
    }
}
