//! What happens when the disk is damaged, full, failing or not ours.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mynah_core::engine::{Condition, Formats, Records, Space};

use super::powercut::Bench;
use super::sim::{Dice, SimDisk, SimState};
use crate::disk::{Disk, DiskFile, read_all};
use crate::format::{GroupHeader, JOURNAL_HEADER};
use crate::pages::whole_page;
use crate::{Store, StoreError, StoreOptions, next_header};

fn filled() -> Bench {
    let mut dice = Dice::new(3);
    let mut bench = Bench::new();
    for _ in 0..6 {
        bench.enqueue(&mut dice);
        bench.settle(&mut dice);
        bench.step();
    }
    bench
}

#[test]
fn every_flipped_bit_is_damage_or_what_was_once_so() {
    let bench = filled();
    let history = bench.history.clone();
    for (name, length) in bench.disk.files() {
        if name.contains("spare") {
            continue;
        }
        let mut refused = 0;
        // Beyond what was written there is nothing to flip.
        let bits = length.min(12 << 10) * 8;
        for bit in (0..bits).step_by(7) {
            match Bench::open(bench.disk.flipped(&name, bit), bench.keyed.clone(), Some(&history)) {
                Ok(_) => {}
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 0, "{name}: nothing was noticed");
    }
}

/// Writes everything again as version 1 had it; answers how many groups and pages there were.
fn as_version_1(disk: &SimDisk) -> (usize, usize) {
    let (mut groups, mut pages) = (0, 0);
    let version = 1_u32.to_le_bytes();
    for (name, _) in disk.files() {
        let file = disk.open(&name, false).unwrap();
        let bytes = read_all(&*file).unwrap();
        if name.ends_with(".page") {
            let (header, content) = whole_page(&bytes).unwrap();
            file.write_at(0, &header.encode_version_1(content)).unwrap();
            pages += 1;
        } else if name == "FORMAT" || !name.contains("spare") {
            file.write_at(4, &version).unwrap();
            let mut at = JOURNAL_HEADER;
            while let Some((group, content)) = bytes.get(at..).and_then(GroupHeader::decode) {
                file.write_at(at as u64, &group.encode_version_1(content)).unwrap();
                at += GroupHeader::padded(content.len());
                groups += 1;
            }
        }
        file.sync().unwrap();
    }
    (groups, pages)
}

#[test]
fn a_store_of_version_1_is_taken_over_and_goes_on() {
    let mut dice = Dice::new(7);
    let mut bench = filled();
    (0..3).for_each(|_| bench.page_out(&mut dice));
    // What only the journal has.
    (0..3).for_each(|_| bench.enqueue(&mut dice));
    bench.step();
    let (groups, pages) = as_version_1(&bench.disk);
    assert!(groups > 3 && pages > 0, "{groups} groups, {pages} pages");
    let mut bench = Bench::open(bench.disk.clone(), bench.keyed.clone(), Some(&bench.allowed())).unwrap();
    for _ in 0..4 {
        bench.enqueue(&mut dice);
        bench.page_out(&mut dice);
        bench.settle(&mut dice);
        bench.step();
    }
    let (disk, keyed) = (bench.disk.crash(&mut dice), bench.keyed.crash(&mut dice));
    Bench::open(disk, keyed, Some(&bench.allowed())).unwrap();
}

#[test]
fn fsync_fail() {
    let mut dice = Dice::new(5);
    let mut bench = filled();
    let durable = bench.engine.log.durable();
    bench.enqueue(&mut dice);
    bench.disk.fail_next_sync();
    bench.step();
    assert!(matches!(bench.engine.log.condition(), Condition::Failed(_)));
    assert_eq!(bench.engine.log.durable(), durable);
    // Never tried again, never confirmed.
    bench.enqueue(&mut dice);
    bench.step();
    assert_eq!(bench.engine.log.durable(), durable);
    assert_eq!(bench.engine.log.status().write_errors, 1);
}

#[test]
fn disk_full() {
    let mut dice = Dice::new(9);
    let mut bench = filled();
    bench.disk.set_quota(Some(bench.disk.used()));
    for _ in 0..400 {
        bench.enqueue(&mut dice);
        bench.step();
    }
    assert!(matches!(bench.engine.log.condition(), Condition::Full(_)));
    // What was appended is not lost, only not safe yet.
    let before = bench.engine.log.durable();
    bench.disk.set_quota(None);
    for _ in 0..3 {
        bench.step();
    }
    assert_eq!(bench.engine.log.condition(), Condition::Open);
    assert!(bench.engine.log.durable() > before);
    let last = [bench.history.last().cloned().unwrap()];
    Bench::open(bench.disk.crash(&mut dice), bench.keyed.crash(&mut dice), Some(&last)).unwrap();
}

#[test]
fn a_group_that_found_no_room_is_written_again() {
    let mut dice = Dice::new(11);
    for _ in 0..20 {
        let mut bench = filled();
        bench.enqueue(&mut dice);
        bench.disk.fail_next_write();
        for _ in 0..3 {
            bench.step();
        }
        bench.enqueue(&mut dice);
        bench.step();
        assert_eq!(bench.engine.log.condition(), Condition::Open);
        assert_eq!((bench.engine.log.durable(), bench.engine.log.backlog()), (bench.engine.log.end(), 0));
        let last = [bench.history.last().cloned().unwrap()];
        Bench::open(bench.disk.crash(&mut dice), bench.keyed.crash(&mut dice), Some(&last)).unwrap();
    }
}

fn folder(name: &str) -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("mynah-store-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

fn opened(dir: &std::path::Path) -> Result<Store, StoreError> {
    Store::open(StoreOptions { free_bytes_min: 0, ..StoreOptions::new(dir) }, Formats::default())
}

#[test]
fn two_of_one_directory_and_a_later_format() {
    let dir = folder("lock");
    let store = opened(&dir).unwrap();
    let error = opened(&dir).unwrap_err().to_string();
    assert!(error.contains(&std::process::id().to_string()), "{error}");
    drop(store);
    drop(opened(&dir).unwrap());
    let mut format = std::fs::read(dir.join("FORMAT")).unwrap();
    format[4] = 99;
    std::fs::write(dir.join("FORMAT"), format).unwrap();
    let error = opened(&dir).unwrap_err().to_string();
    assert!(error.contains("version 99"), "{error}");
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn keyed_state_on_the_real_disk() {
    let dir = folder("state");
    for life in 0..3_u8 {
        let store = opened(&dir).unwrap();
        let engine = store.engine();
        let known = engine.state.get(Space::Meta, b"life").unwrap();
        assert_eq!(known.as_deref(), (life > 0).then(|| [life - 1]).as_ref().map(|life| life.as_slice()));
        let mut records = Records::default();
        records.put(Space::Meta, b"life", &[life]);
        engine.log.append(&records);
        engine.log.flush().unwrap();
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn the_contract_on_the_real_disk() {
    let mut number = 0;
    mynah_core::engine::contract::all(|| {
        number += 1;
        let dir = folder(&format!("contract-{number}"));
        let mut store: Option<Store> = None;
        Box::new(move || {
            drop(store.take());
            let next = opened(&dir).unwrap();
            let engine = next.engine();
            store = Some(next);
            engine
        })
    });
    for number in 1..=number {
        std::fs::remove_dir_all(folder(&format!("contract-{number}"))).unwrap_or_default();
    }
}

/// A disk whose syncs take their time.
#[derive(Debug)]
struct Slow(SimDisk);

#[derive(Debug)]
struct SlowFile(Arc<dyn DiskFile>);

impl Disk for Slow {
    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.0.create_dir(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.0.list(path)
    }

    fn open(&self, path: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SlowFile(self.0.open(path, create)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.0.remove(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.0.sync_dir(path)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.0.free_bytes()
    }
}

impl DiskFile for SlowFile {
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        std::thread::sleep(Duration::from_millis(50));
        self.0.sync()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.0.allocate(bytes)
    }
}

#[test]
fn slow_disk() {
    let disk = SimDisk::default();
    let header = next_header(&disk).unwrap();
    let options = StoreOptions { free_bytes_min: 0, ..StoreOptions::new("sim".as_ref()) };
    let (slow, keyed) = (Arc::new(Slow(disk)), Box::new(SimState::default()));
    let store = Store::with_disk(options, Formats::default(), slow, keyed, header).unwrap();
    let log = store.engine().log;
    let mut records = Records::default();
    records.put(Space::Meta, b"k", b"v");
    records.demand_sync();
    let began = Instant::now();
    for _ in 0..1000 {
        log.append(&records);
    }
    // Nobody who appends waits for the disk, and what gathers while it syncs is one group.
    assert!(began.elapsed() < Duration::from_secs(5), "appending waited for the disk");
    log.flush().unwrap();
    assert!(log.status().syncs < 100, "{} syncs", log.status().syncs);
    assert_eq!(log.condition(), Condition::Open);
}
