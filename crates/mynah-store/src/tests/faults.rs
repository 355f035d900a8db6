//! What happens when the disk is damaged, full, failing or not ours.

use mynah_core::engine::{Condition, Formats, Records, Space};

use super::powercut::Bench;
use super::sim::Dice;
use crate::{Store, StoreError, StoreOptions};

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
