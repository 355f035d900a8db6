//! Bytes that begin at a block's boundary in memory, as writes past the page cache want them.

use std::ops::{Deref, DerefMut};

/// As large as a page and a sector of any disk.
const BOUNDARY: usize = 4096;

/// Like a `Vec<u8>`.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    memory: Vec<u8>,
    /// Where in the memory it begins.
    start: usize,
}

impl Buffer {
    pub(crate) fn capacity(&self) -> usize {
        self.memory.capacity() - self.start
    }

    pub(crate) fn clear(&mut self) {
        self.memory.truncate(self.start);
    }

    pub(crate) fn truncate(&mut self, length: usize) {
        self.memory.truncate(self.start + length);
    }

    pub(crate) fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.memory.extend_from_slice(bytes);
    }

    pub(crate) fn resize(&mut self, length: usize, value: u8) {
        self.reserve(length.saturating_sub(self.len()));
        self.memory.resize(self.start + length, value);
    }

    /// Sees to it that so many more bytes find room. The vector must not move its content by itself, so it never grows.
    pub(crate) fn reserve(&mut self, more: usize) {
        if self.memory.capacity() - self.memory.len() >= more {
            return;
        }
        let length = (self.len() + more).max(2 * self.len()).next_multiple_of(BOUNDARY);
        let mut memory: Vec<u8> = Vec::with_capacity(length + BOUNDARY);
        let start =
            Some(memory.as_ptr().align_offset(BOUNDARY)).filter(|start| *start < BOUNDARY).unwrap_or(0);
        memory.resize(start, 0);
        memory.extend_from_slice(self);
        (self.memory, self.start) = (memory, start);
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.get(self.start..).unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_at_a_boundary_however_it_grows() {
        let (mut buffer, mut like) = (Buffer::default(), Vec::new());
        for round in 0..3 {
            for step in 1..200_usize {
                let bytes = vec![u8::try_from(step).unwrap(); step * 7 % 5000];
                buffer.extend_from_slice(&bytes);
                like.extend_from_slice(&bytes);
                assert!(*buffer == *like);
                assert_eq!(buffer.as_ptr().align_offset(BOUNDARY), 0);
            }
            buffer.resize(like.len() + 100, 7);
            like.resize(like.len() + 100, 7);
            buffer.truncate(like.len() - 50);
            like.truncate(like.len() - 50);
            assert!(*buffer == *like && buffer.capacity() >= buffer.len());
            buffer.clear();
            like.clear();
            assert!(buffer.is_empty(), "{round}");
        }
    }
}
