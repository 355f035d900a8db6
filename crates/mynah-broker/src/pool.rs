//! Buffers between uses: one pool per thread, bounded by bytes, so that an idle connection owns no buffer.
//!
//! Bounded by bytes and not by number: a fan-out to a thousand subscribers needs a thousand small buffers at once.

use std::cell::RefCell;

use bytes::BytesMut;
use mynah_core::Run;

use crate::limits::{POOL_BUFFER_BYTES_MAX, POOL_BYTES_MAX};

#[derive(Default)]
struct Pool {
    runs: Vec<Run>,
    buffers: Vec<BytesMut>,
    bytes: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// An empty run, with capacity if the pool had one.
#[must_use]
pub fn take_run() -> Run {
    POOL.with_borrow_mut(|pool| {
        let run = pool.runs.pop().unwrap_or_default();
        pool.bytes = pool.bytes.saturating_sub(run.bytes.capacity());
        run
    })
}

/// Gives a run back; its content is forgotten.
pub fn give_run(mut run: Run) {
    let capacity = run.bytes.capacity();
    if capacity == 0 || capacity > POOL_BUFFER_BYTES_MAX {
        return;
    }
    run.clear();
    POOL.with_borrow_mut(|pool| {
        if pool.bytes + capacity <= POOL_BYTES_MAX {
            pool.bytes += capacity;
            pool.runs.push(run);
        }
    });
}

/// An empty buffer, with capacity if the pool had one.
#[must_use]
pub fn take_buffer() -> BytesMut {
    POOL.with_borrow_mut(|pool| {
        let buffer = pool.buffers.pop().unwrap_or_default();
        pool.bytes = pool.bytes.saturating_sub(buffer.capacity());
        buffer
    })
}

/// Gives a buffer back; its content is forgotten.
pub fn give_buffer(mut buffer: BytesMut) {
    let capacity = buffer.capacity();
    if capacity == 0 || capacity > POOL_BUFFER_BYTES_MAX {
        return;
    }
    buffer.clear();
    POOL.with_borrow_mut(|pool| {
        if pool.bytes + capacity <= POOL_BYTES_MAX {
            pool.bytes += capacity;
            pool.buffers.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_comes_back_empty() {
        let mut run = Run::default();
        run.bytes.extend_from_slice(&[1; 100]);
        run.frames = 1;
        give_run(run);
        let run = take_run();
        assert!(run.bytes.is_empty() && run.bytes.capacity() >= 100 && run.frames == 0);
        give_buffer(BytesMut::with_capacity(POOL_BUFFER_BYTES_MAX * 2));
        assert_eq!(take_buffer().capacity(), 0);
    }
}
