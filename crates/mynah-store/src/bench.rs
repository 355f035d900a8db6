//! How fast the journal is on a disk, beside a bare loop of writing and syncing groups of the same size.
//!
//! Both take turns in one run, and medians are compared: a disk is never twice the same.
//!
//! Never: leaves anything behind.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use mynah_core::engine::{Formats, QueueNumber, Records};

use crate::disk::{Disk, RealDisk};
use crate::{Store, StoreError, StoreOptions};

const ROUNDS: usize = 5;
const FOR: Duration = Duration::from_millis(600);

/// One size of group.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Bytes that one sync covers.
    pub group_bytes: usize,
    /// Medians.
    pub journal_bytes_per_second: f64,
    pub bare_bytes_per_second: f64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group_bytes, journal_bytes_per_second: journal, bare_bytes_per_second: bare } = self;
        let syncs = journal / *group_bytes as f64;
        write!(
            f,
            "{group_bytes:>8} B a group: journal {:>8.2} MB/s ({syncs:.0} syncs/s), bare loop {:>8.2} MB/s, ratio {:.2}",
            journal / 1e6,
            bare / 1e6,
            journal / bare
        )
    }
}

/// Measures in a directory of its own below `dir`.
///
/// # Errors
/// The directory cannot be written.
pub fn bench_journal(dir: &Path) -> Result<Vec<Measured>, StoreError> {
    let place = dir.join(format!("journal-bench-{}", std::process::id()));
    std::fs::create_dir_all(&place)?;
    let done =
        [256_usize, 4 << 10, 64 << 10, 1 << 20].into_iter().map(|size| measure(&place, size)).collect();
    std::fs::remove_dir_all(&place)?;
    done
}

fn measure(place: &Path, group_bytes: usize) -> Result<Measured, StoreError> {
    let (mut journal, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        bare.push(bare_round(place, group_bytes)?);
        journal.push(journal_round(place, group_bytes)?);
    }
    Ok(Measured {
        group_bytes,
        journal_bytes_per_second: median(journal),
        bare_bytes_per_second: median(bare),
    })
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

fn journal_round(place: &Path, group_bytes: usize) -> Result<f64, StoreError> {
    let dir = place.join("store");
    let rate = {
        let store = Store::open(StoreOptions::new(&dir), Formats::default())?;
        let log = store.engine().log;
        let mut records = Records::default();
        // A note, because it is nobody's but the journal's.
        records.note(QueueNumber(1), 1, Some(&vec![0; group_bytes.saturating_sub(16)]));
        records.demand_sync();
        let (began, mut bytes) = (Instant::now(), 0);
        while began.elapsed() < FOR {
            log.append(&records);
            log.flush()?;
            bytes += records.size();
        }
        bytes as f64 / began.elapsed().as_secs_f64()
    };
    std::fs::remove_dir_all(dir)?;
    Ok(rate)
}

/// As the journal does it: into room that was reserved, each group at the next sector.
fn bare_round(place: &Path, group_bytes: usize) -> io::Result<f64> {
    let disk = RealDisk::new(place);
    let file = disk.open("bare", true)?;
    let room = 64_usize << 20;
    file.allocate(room as u64)?;
    let group = vec![7_u8; group_bytes];
    let (began, mut bytes, mut at) = (Instant::now(), 0, 0);
    while began.elapsed() < FOR {
        if at + group_bytes > room {
            at = 0;
        }
        file.write_at(at as u64, &group)?;
        file.sync()?;
        at += group_bytes.next_multiple_of(crate::format::ALIGN);
        bytes += group_bytes;
    }
    let rate = bytes as f64 / began.elapsed().as_secs_f64();
    disk.remove("bare")?;
    Ok(rate)
}
