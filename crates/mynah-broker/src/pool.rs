//! Buffers between uses: one pool per thread, bounded by bytes, so that an idle connection owns no buffer.
//!
//! Bounded by bytes and not by number: a fan-out to a thousand subscribers needs a thousand small buffers at once.

use std::cell::RefCell;

use bytes::BytesMut;
use mynah_core::{Mark, Run};

use crate::limits::{
    POOL_BUFFER_BYTES_MAX, POOL_BUFFER_BYTES_SMALL, POOL_BYTES_MAX, POOL_MARKS_MAX, POOL_MARKS_TOTAL,
};

#[derive(Default)]
struct Pool {
    /// Of those who have many receivers: the large ones must not leave them without.
    small: Shelf,
    large: Shelf,
    marks: Vec<Vec<Mark>>,
    /// Marks that those lists have room for.
    mark_room: usize,
}

#[derive(Default)]
struct Shelf {
    buffers: Vec<BytesMut>,
    bytes: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// An empty run, with capacity if the pool had some.
#[must_use]
pub fn take_run() -> Run {
    POOL.with_borrow_mut(|pool| Run { bytes: pool.take(), marks: pool.take_marks(), frames: 0 })
}

/// Gives a run back; its content is forgotten.
pub fn give_run(run: Run) {
    let Run { bytes, mut marks, .. } = run;
    give_buffer(bytes);
    if marks.capacity() > 0 && marks.capacity() <= POOL_MARKS_MAX {
        marks.clear();
        POOL.with_borrow_mut(|pool| {
            if pool.mark_room + marks.capacity() <= POOL_MARKS_TOTAL {
                pool.mark_room += marks.capacity();
                pool.marks.push(marks);
            }
        });
    }
}

/// An empty buffer, with capacity if the pool had one.
#[must_use]
pub fn take_buffer() -> BytesMut {
    POOL.with_borrow_mut(Pool::take)
}

/// Gives a buffer back; its content is forgotten.
pub fn give_buffer(mut buffer: BytesMut) {
    buffer.clear();
    let capacity = buffer.capacity();
    if capacity == 0 || capacity > POOL_BUFFER_BYTES_MAX {
        return;
    }
    POOL.with_borrow_mut(|pool| {
        let small = capacity <= POOL_BUFFER_BYTES_SMALL;
        let shelf = if small { &mut pool.small } else { &mut pool.large };
        if shelf.bytes + capacity <= POOL_BYTES_MAX {
            shelf.bytes += capacity;
            shelf.buffers.push(buffer);
        }
    });
}

impl Pool {
    fn take(&mut self) -> BytesMut {
        self.small.take().or_else(|| self.large.take()).unwrap_or_default()
    }

    fn take_marks(&mut self) -> Vec<Mark> {
        let marks = self.marks.pop().unwrap_or_default();
        self.mark_room -= marks.capacity().min(self.mark_room);
        marks
    }
}

impl Shelf {
    fn take(&mut self) -> Option<BytesMut> {
        let buffer = self.buffers.pop()?;
        self.bytes -= buffer.capacity().min(self.bytes);
        Some(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_comes_back_empty() {
        let mut run = Run::default();
        run.bytes.extend_from_slice(&[1; 100]);
        run.marks.reserve(10);
        run.frames = 1;
        give_run(run);
        let run = take_run();
        assert!(run.bytes.is_empty() && run.bytes.capacity() >= 100 && run.frames == 0);
        assert!(run.marks.capacity() >= 10);
        give_buffer(BytesMut::with_capacity(POOL_BUFFER_BYTES_MAX * 2));
        assert_eq!(take_buffer().capacity(), 0);
    }

    #[test]
    fn large_buffers_leave_room_for_small_ones() {
        for _ in 0..2 * POOL_BYTES_MAX / POOL_BUFFER_BYTES_MAX {
            give_buffer(BytesMut::with_capacity(POOL_BUFFER_BYTES_MAX));
        }
        let small = || BytesMut::with_capacity(POOL_BUFFER_BYTES_SMALL);
        (0..1000).for_each(|_| give_buffer(small()));
        let held = POOL_BYTES_MAX / POOL_BUFFER_BYTES_SMALL;
        let taken: Vec<usize> = (0..1000).map(|_| take_buffer().capacity()).collect();
        assert_eq!(taken.iter().filter(|capacity| **capacity == POOL_BUFFER_BYTES_SMALL).count(), held);
        let large = taken.iter().filter(|capacity| **capacity == POOL_BUFFER_BYTES_MAX).count();
        assert_eq!(large, POOL_BYTES_MAX / POOL_BUFFER_BYTES_MAX);
    }
}
