//! A copy of the directory while it is in use, that opens as a store of its own.
//!
//! While it is taken nothing is removed: no page, no file of the journal. What is copied of the journal ends where it was safe
//! when the copy began, so the copy is the store as of that moment, or a little later for what pages hold.
//!
//! Never: stops the committer for longer than a look at where it is.

use std::io;
use std::path::Path;

use mynah_core::engine::{Log, Space};

use crate::disk::{Disk, DiskFile, RealDisk, read_all};
use crate::engine::Inner;
use crate::format::{StoreHeader, journal_name};
use crate::state::{Fjall, Keyed};

impl Inner {
    pub(crate) fn backup_to(&self, to: &Path) -> io::Result<()> {
        let is_empty = match std::fs::read_dir(to) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        if !is_empty {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the directory is not empty"));
        }
        Log::flush(self)?;
        let _copying = self.copying.lock();
        let (last, end) = self.writer.lock().place();
        let numbers: Vec<u32> = self.tail.lock().files.iter().map(|file| file.number).collect();
        std::fs::create_dir_all(to)?;
        let copy = RealDisk::new(to);
        copy.create_dir("journal")?;
        copy.create_dir("queues")?;
        // 0: nothing was written since it was opened.
        for number in numbers.into_iter().filter(|number| last == 0 || *number <= last) {
            let name = journal_name(number);
            let Ok(file) = self.disk.open(&name, false) else { continue };
            let mut bytes = read_all(&*file)?;
            if number == last {
                bytes.truncate(usize::try_from(end).unwrap_or(usize::MAX));
            }
            put(&copy, &name, &bytes)?;
        }
        for name in self.disk.list("queues")?.into_iter().filter(|name| name.ends_with(".page")) {
            let path = format!("queues/{name}");
            put(&copy, &path, &read_all(&*self.disk.open(&path, false)?)?)?;
        }
        let state = Fjall::open(&to.join("state"))?;
        for space in Space::ALL {
            let mut done = Ok(());
            self.keyed.scan(space, &[], &mut |key, value| {
                if done.is_ok() {
                    done = state.put(space, key, value);
                }
            })?;
            done?;
        }
        state.persist()?;
        for dir in ["journal", "queues"] {
            copy.sync_dir(dir)?;
        }
        // Last: without it, it is no store yet.
        let header = StoreHeader { ..self.header };
        put(&copy, "FORMAT", &header.encode())?;
        copy.sync_dir("")
    }
}

fn put(disk: &RealDisk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let file: std::sync::Arc<dyn DiskFile> = disk.open(name, true)?;
    file.write_at(0, bytes)?;
    file.sync()
}
