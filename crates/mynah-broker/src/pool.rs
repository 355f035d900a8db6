//! Buffers between uses: one pool per thread, bounded by bytes, so that an idle connection owns no buffer.
//!
//! Bounded by bytes and not by number: a fan-out to a thousand subscribers needs a thousand small buffers at once.

use std::cell::RefCell;

use bytes::BytesMut;
use mynah_core::{Mark, Run};

use crate::limits::{POOL_BUFFER_BYTES_MAX, POOL_BYTES_MAX, POOL_MARK_LISTS_MAX, POOL_MARKS_MAX};

#[derive(Default)]
struct Pool {
    buffers: Vec<BytesMut>,
    marks: Vec<Vec<Mark>>,
    bytes: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// An empty run, with capacity if the pool had some.
#[must_use]
pub fn take_run() -> Run {
    POOL.with_borrow_mut(|pool| Run {
        bytes: pool.take(),
        marks: pool.marks.pop().unwrap_or_default(),
        frames: 0,
    })
}

/// Gives a run back; its content is forgotten.
pub fn give_run(run: Run) {
    let Run { bytes, mut marks, .. } = run;
    give_buffer(bytes);
    if marks.capacity() > 0 && marks.capacity() <= POOL_MARKS_MAX {
        marks.clear();
        POOL.with_borrow_mut(|pool| {
            if pool.marks.len() < POOL_MARK_LISTS_MAX {
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
        if pool.bytes + capacity <= POOL_BYTES_MAX {
            pool.bytes += capacity;
            pool.buffers.push(buffer);
        }
    });
}

impl Pool {
    fn take(&mut self) -> BytesMut {
        let buffer = self.buffers.pop().unwrap_or_default();
        self.bytes = self.bytes.saturating_sub(buffer.capacity());
        buffer
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
}
