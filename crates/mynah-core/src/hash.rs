//! A fast hash for short keys, seeded once per process.
//!
//! Topics, names and tags are short, and the standard hash costs more on them than the look-up itself. Each step multiplies
//! to 128 bits and folds the halves; the seeds are random, so that nobody outside can choose keys that collide.
//!
//! Never: a hash that is stored, sent, or compared between processes.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;

pub type FastMap<K, V> = HashMap<K, V, Seed>;
pub type FastSet<K> = HashSet<K, Seed>;

/// The process's seeds.
#[derive(Debug, Clone, Copy)]
pub struct Seed {
    state: u64,
    key: u64,
}

impl Default for Seed {
    fn default() -> Self {
        static SEED: OnceLock<Seed> = OnceLock::new();
        *SEED.get_or_init(|| {
            let random = RandomState::new();
            // Odd, so that the multiplication loses no bit of its input.
            Self { state: random.hash_one(1_u8), key: random.hash_one(2_u8) | 1 }
        })
    }
}

impl BuildHasher for Seed {
    type Hasher = FastHasher;

    fn build_hasher(&self) -> FastHasher {
        FastHasher { state: self.state, key: self.key }
    }
}

#[derive(Debug, Clone)]
pub struct FastHasher {
    state: u64,
    key: u64,
}

impl FastHasher {
    #[expect(clippy::cast_possible_truncation, reason = "both halves of the product are wanted")]
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.key);
        self.state = (product as u64) ^ ((product >> 64) as u64);
    }
}

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        // The last chunk may overlap the one before it; the length keeps such texts apart.
        self.state = self.state.wrapping_add((bytes.len() as u64) << 32);
        if let Some(last) = bytes.last_chunk::<8>() {
            let mut rest = bytes;
            while let Some((chunk, tail)) = rest.split_first_chunk::<8>() {
                self.mix(u64::from_le_bytes(*chunk));
                rest = tail;
            }
            if !rest.is_empty() {
                self.mix(u64::from_le_bytes(*last));
            }
        } else if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
            let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
            self.mix(u64::from(first) << 32 | u64::from(last));
        } else {
            self.mix(bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.mix(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.mix(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.mix(n);
    }

    fn write_usize(&mut self, n: usize) {
        self.mix(n as u64);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_keys_spread() {
        let seed = Seed::default();
        let mut hashes: Vec<u64> = (0..10_000).map(|n| seed.hash_one(format!("sensors/{n}/t"))).collect();
        hashes.extend((0..10_000_u64).map(|n| seed.hash_one(n)));
        hashes.extend((1..100).map(|n| seed.hash_one("a".repeat(n))));
        let total = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), total);
        let low: FastSet<u64> = hashes.iter().map(|hash| hash & 0xffff).collect();
        assert!(low.len() > 15_000, "{} of 65,536 places used by {total} keys", low.len());
    }
}
