//! What waits for one connection: encoded runs, deliveries, late replies, notices.
//!
//! Publishers append under the lock and wake the receiver once, at the end of their batch; the receiver takes everything and
//! writes once. The lock is held for a copy, never while writing, waking or encoding.
//!
//! An inbox that fills up asks publishers to pause; one that does not empty in time is *slow*, and from then on until
//! it is empty what does not fit is dropped and counted. So a reading subscriber loses nothing, and a stuck one
//! stops nobody.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Waker;
use std::time::Instant;

use bytes::Buf;
use mynah_core::engine::Waiter;
use mynah_core::protocol::{Notice, Reply, Ticket};
use mynah_core::{ConsumerId, Delivery, Mark, Run};
use parking_lot::Mutex;

use crate::limits::{
    INBOX_BYTES_HIGH, INBOX_BYTES_LOW, INBOX_DELIVERIES_HIGH, INBOX_OVERSHOOT, INBOX_PATIENCE,
};
use crate::pool;
use crate::rules::Identity;

/// The inbox of one connection.
#[derive(Debug)]
pub struct Inbox {
    connection: u64,
    bytes_max: u32,
    /// Whose it is; set if there are rules about that.
    reader: OnceLock<Arc<Identity>>,
    state: Mutex<State>,
    // Outside the lock: a task's waker does not change, and waking must not happen under the lock.
    waker: OnceLock<Waker>,
    /// Somebody wants this connection gone. Seen even by a driver that cannot take the notice, because its peer does not read.
    unwanted: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    run: Run,
    deliveries: Vec<Delivery>,
    rare: Option<Box<Rare>>,
    /// Counts how often those who waited for room were woken.
    round: u64,
    scheduled: bool,
    /// It is over its mark, since when its rare part knows.
    high: bool,
    slow: bool,
    closed: bool,
}

#[derive(Debug, Default)]
struct Rare {
    replies: Vec<(Ticket, Reply)>,
    notices: Vec<Notice>,
    paused: Vec<Weak<Inbox>>,
    high_since: Option<Instant>,
}

/// What a push did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub struct Pushed {
    /// The receiver sleeps: wake it at the end of the batch.
    pub wake: bool,
    /// The publisher should pause until the inbox has emptied; it is registered for that.
    pub pause: bool,
    /// Frames that did not fit.
    pub dropped: u32,
}

/// Everything a receiver takes at once.
#[derive(Debug, Default)]
pub struct Taken {
    pub run: Run,
    pub deliveries: Vec<Delivery>,
    pub replies: Vec<(Ticket, Reply)>,
    pub notices: Vec<Notice>,
    /// Publishers to wake, because there is room again.
    pub resumed: Vec<Arc<Inbox>>,
    /// Frames of an earlier run are left, for want of identifiers.
    pub more: bool,
}

impl Taken {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.run.bytes.is_empty()
            && self.deliveries.is_empty()
            && self.replies.is_empty()
            && self.notices.is_empty()
    }
}

impl Inbox {
    #[must_use]
    pub fn new(connection: u64, bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            connection,
            bytes_max: u32::try_from(bytes_max).unwrap_or(u32::MAX),
            reader: OnceLock::new(),
            state: Mutex::default(),
            waker: OnceLock::new(),
            unwanted: AtomicBool::new(false),
        })
    }

    #[must_use]
    pub fn connection(&self) -> u64 {
        self.connection
    }

    pub fn set_reader(&self, reader: Arc<Identity>) {
        self.reader.get_or_init(|| reader);
    }

    #[must_use]
    pub fn reader(&self) -> Option<Arc<Identity>> {
        self.reader.get().cloned()
    }

    /// The receiver's task says how to wake it; once.
    pub fn set_waker(&self, waker: &Waker) {
        self.waker.get_or_init(|| waker.clone());
    }

    /// Wakes the receiver. Call it without holding any lock.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Appends a run. The publisher shall pause when the inbox is over its mark: see [`Inbox::wait_for_room`].
    pub fn push_run(&self, run: &Run, now: Instant) -> Pushed {
        self.push_frames(&run.bytes, run.frames, &run.marks, now)
    }

    /// As [`Inbox::push_run`].
    pub fn push_frames(&self, bytes: &[u8], frames: u32, marks: &[Mark], now: Instant) -> Pushed {
        let mut state = self.state.lock();
        if state.closed {
            return Pushed::default();
        }
        let held = state.run.bytes.len();
        // A reading receiver loses nothing: publishers that do not know yet that they are to pause may go over the bound.
        let bytes_max = usize::try_from(self.bytes_max).unwrap_or(usize::MAX);
        let bound = if state.slow { bytes_max } else { bytes_max.saturating_mul(INBOX_OVERSHOOT) };
        if held + bytes.len() > bound && held > 0 {
            return Pushed { dropped: frames, ..Pushed::default() };
        }
        if state.run.bytes.capacity() == 0 {
            state.run = pool::take_run();
        }
        state.append(bytes, frames, marks);
        state.pressed(now)
    }

    /// Appends a run whatever the bounds: what the receiver itself asked for (retained messages).
    pub fn push_unbounded(&self, run: &Run) -> Pushed {
        let mut state = self.state.lock();
        if state.closed {
            return Pushed::default();
        }
        if state.run.bytes.capacity() == 0 {
            state.run = pool::take_run();
        }
        state.append(&run.bytes, run.frames, &run.marks);
        Pushed { wake: state.schedule(), ..Pushed::default() }
    }

    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Appends deliveries, draining the vector. They are bounded by credit, or by `push_direct`'s caller.
    pub fn push_deliveries(&self, deliveries: &mut Vec<Delivery>) -> Pushed {
        let mut state = self.state.lock();
        if state.closed {
            deliveries.clear();
            return Pushed::default();
        }
        state.deliveries.append(deliveries);
        Pushed { wake: state.schedule(), ..Pushed::default() }
    }

    /// Drops the deliveries to a consumer that has ended: they are back in its queue.
    pub fn forget(&self, consumer: ConsumerId) {
        self.state.lock().deliveries.retain(|delivery| delivery.consumer != consumer);
    }

    /// Appends deliveries that no credit bounds: a subscriber without a queue whose protocol encodes for itself.
    pub fn push_direct(&self, deliveries: &mut Vec<Delivery>, now: Instant) -> Pushed {
        let mut state = self.state.lock();
        if state.closed {
            deliveries.clear();
            return Pushed::default();
        }
        if state.slow && state.deliveries.len() + deliveries.len() > 2 * INBOX_DELIVERIES_HIGH {
            let dropped = u32::try_from(deliveries.len()).unwrap_or(u32::MAX);
            deliveries.clear();
            return Pushed { dropped, ..Pushed::default() };
        }
        state.deliveries.append(deliveries);
        state.pressed(now)
    }

    /// A reply that took its time.
    pub fn push_reply(&self, ticket: Ticket, reply: Reply) -> Pushed {
        let mut state = self.state.lock();
        if state.closed {
            return Pushed::default();
        }
        state.rare.get_or_insert_default().replies.push((ticket, reply));
        Pushed { wake: state.schedule(), ..Pushed::default() }
    }

    pub fn push_notice(&self, notice: Notice) -> Pushed {
        let unwanted = matches!(notice, Notice::TakenOver | Notice::Kicked { .. });
        let mut state = self.state.lock();
        if state.closed {
            return Pushed::default();
        }
        state.rare.get_or_insert_default().notices.push(notice);
        let wake = state.schedule();
        if unwanted {
            self.unwanted.store(true, Ordering::Release);
        }
        // A driver that waits for its socket has not taken what it was scheduled for: wake it all the same.
        Pushed { wake: wake || unwanted, ..Pushed::default() }
    }

    /// Whether somebody wants this connection gone.
    #[must_use]
    pub fn is_unwanted(&self) -> bool {
        self.unwanted.load(Ordering::Acquire)
    }

    /// Has the receiver look again: its pause may be over. It is woken even if it counts as woken already: a driver that
    /// waits for its socket has not taken what it was scheduled for.
    pub fn nudge(&self) {
        self.state.lock().schedule();
        self.wake();
    }

    /// Takes what waits, of marked frames at most `marked_credit`.
    pub fn take(&self, marked_credit: u32, taken: &mut Taken) {
        let mut state = self.state.lock();
        state.scheduled = false;
        taken.more = state.take_run(marked_credit, &mut taken.run);
        if taken.deliveries.is_empty() {
            std::mem::swap(&mut state.deliveries, &mut taken.deliveries);
        } else {
            taken.deliveries.append(&mut state.deliveries);
        }
        if let Some(rare) = state.rare.as_deref_mut() {
            taken.replies.append(&mut rare.replies);
            taken.notices.append(&mut rare.notices);
            if rare.paused.is_empty() && rare.high_since.is_none() {
                state.rare = None;
            }
        }
        if state.high && state.is_low() {
            state.high = false;
            state.slow = false;
            state.round += 1;
            if let Some(rare) = state.rare.take() {
                taken.resumed.extend(rare.paused.into_iter().filter_map(|inbox| inbox.upgrade()));
            }
        }
    }

    /// Whether nothing waits and nobody has asked for a look; the receiver may sleep.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        !self.state.lock().scheduled
    }

    /// When the receiver's patience ends, if the inbox is over its mark.
    #[must_use]
    pub fn patience_ends(&self) -> Option<Instant> {
        let state = self.state.lock();
        let since =
            state.rare.as_ref().and_then(|rare| rare.high_since).filter(|_| state.high && !state.slow)?;
        since.checked_add(INBOX_PATIENCE)
    }

    /// The patience has ended: from now on nobody waits for this receiver. Answers whom to wake.
    pub fn give_up_waiting(&self) -> Vec<Arc<Self>> {
        let mut state = self.state.lock();
        state.slow = true;
        state.round += 1;
        let paused =
            state.rare.as_deref_mut().map(|rare| std::mem::take(&mut rare.paused)).unwrap_or_default();
        paused.into_iter().filter_map(|inbox| inbox.upgrade()).collect()
    }

    /// Whether a publisher has to pause for it; if so, it is nudged when there is room.
    ///
    /// `registered` is the publisher's note of the round of waiting it is registered for: everybody who waits is woken at the
    /// end of a round, and who then finds the inbox full again registers again.
    pub fn wait_for_room(&self, publisher: &Arc<Self>, registered: &mut Option<u64>) -> bool {
        let mut state = self.state.lock();
        if !state.high || state.slow || state.closed {
            return false;
        }
        if *registered != Some(state.round) {
            *registered = Some(state.round);
            state.rare.get_or_insert_default().paused.push(Arc::downgrade(publisher));
        }
        true
    }

    /// Bytes and deliveries waiting.
    #[must_use]
    pub fn level(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.run.bytes.len(), state.deliveries.len())
    }

    /// The end: nothing is accepted any more. Answers whom to wake.
    pub fn close(&self) -> Vec<Arc<Self>> {
        let mut state = self.state.lock();
        let old = std::mem::replace(&mut *state, State { closed: true, scheduled: true, ..State::default() });
        drop(state);
        old.rare
            .map(|rare| rare.paused.into_iter().filter_map(|inbox| inbox.upgrade()).collect())
            .unwrap_or_default()
    }
}

impl Waiter for Inbox {
    fn wake(&self) {
        // Not `schedule`: nothing has come, the driver only looks whether more of its bytes may leave.
        Self::wake(self);
    }
}

impl State {
    fn schedule(&mut self) -> bool {
        !std::mem::replace(&mut self.scheduled, true)
    }

    fn append(&mut self, bytes: &[u8], frames: u32, marks: &[Mark]) {
        // An inbox is bounded far below 4 GiB, so offsets fit.
        let base = u32::try_from(self.run.bytes.len()).unwrap_or(u32::MAX);
        self.run.bytes.extend_from_slice(bytes);
        self.run.frames += frames;
        if !marks.is_empty() {
            self.run.marks.extend(marks.iter().map(|mark| Mark {
                frame: mark.frame + base,
                patch: mark.patch + base,
                ..*mark
            }));
        }
    }

    fn is_low(&self) -> bool {
        self.run.bytes.len() <= INBOX_BYTES_LOW && self.deliveries.len() <= INBOX_DELIVERIES_HIGH / 2
    }

    /// What the publisher is told. A receiver that waits for its socket has not taken what it was scheduled for; when the
    /// inbox reaches its mark it is woken all the same, as it has to watch how long that lasts.
    fn pressed(&mut self, now: Instant) -> Pushed {
        let was_high = self.high;
        let pause = self.pressure(now);
        let rose = !was_high && self.high;
        Pushed { wake: self.schedule() || rose, pause, dropped: 0 }
    }

    /// Notes that the inbox is over its mark; true if the publisher shall pause.
    fn pressure(&mut self, now: Instant) -> bool {
        if self.run.bytes.len() < INBOX_BYTES_HIGH && self.deliveries.len() < INBOX_DELIVERIES_HIGH {
            return false;
        }
        if !std::mem::replace(&mut self.high, true) {
            self.rare.get_or_insert_default().high_since = Some(now);
        }
        !self.slow
    }

    /// Moves the run out, up to the mark that there is no identifier for. True if something stays.
    fn take_run(&mut self, marked_credit: u32, out: &mut Run) -> bool {
        let credit = usize::try_from(marked_credit).unwrap_or(usize::MAX);
        let Some(stop) = self.run.marks.get(credit).map(|mark| mark.frame) else {
            // The receiver hands in what it emptied before, so this is a swap, not a copy.
            std::mem::swap(&mut self.run, out);
            return false;
        };
        let length = usize::try_from(stop).unwrap_or(usize::MAX).min(self.run.bytes.len());
        out.bytes.extend_from_slice(self.run.bytes.get(..length).unwrap_or_default());
        self.run.bytes.advance(length);
        out.marks.extend(self.run.marks.drain(..credit));
        for mark in &mut self.run.marks {
            mark.frame -= stop;
            mark.patch -= stop;
        }
        // Which of the frames without marks went is not known here; they are counted with the first part.
        let marked_left = u32::try_from(self.run.marks.len()).unwrap_or(u32::MAX);
        out.frames += self.run.frames.saturating_sub(marked_left);
        self.run.frames = marked_left;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mynah_core::Guarantee;

    fn run(frames: u32, marked: bool) -> Run {
        let mut run = Run::default();
        for frame in 0..frames {
            if marked {
                run.marks.push(Mark {
                    frame: frame * 10,
                    patch: frame * 10 + 4,
                    guarantee: Guarantee::AtLeastOnce,
                });
            }
            run.bytes.extend_from_slice(&[u8::try_from(frame % 256).unwrap(); 10]);
            run.frames += 1;
        }
        run
    }

    #[test]
    fn a_batch_wakes_once() {
        let inbox = Inbox::new(1, 1 << 20);
        let now = Instant::now();
        assert!(inbox.push_run(&run(2, false), now).wake);
        assert!(!inbox.push_run(&run(2, false), now).wake);
        let mut taken = Taken::default();
        inbox.take(u32::MAX, &mut taken);
        assert_eq!((taken.run.bytes.len(), taken.run.frames), (40, 4));
        assert!(inbox.push_run(&run(1, false), now).wake);
    }

    #[test]
    fn only_as_many_marked_frames_as_there_are_identifiers() {
        let inbox = Inbox::new(1, 1 << 20);
        let now = Instant::now();
        let _ = inbox.push_run(&run(3, true), now);
        let _ = inbox.push_run(&run(3, true), now);
        let mut taken = Taken::default();
        inbox.take(4, &mut taken);
        assert!(taken.more);
        assert_eq!((taken.run.bytes.len(), taken.run.marks.len(), taken.run.frames), (40, 4, 4));
        assert_eq!(taken.run.marks.last().map(|m| m.patch), Some(34));
        taken.run.clear();
        inbox.take(4, &mut taken);
        assert!(!taken.more);
        assert_eq!((taken.run.bytes.len(), taken.run.marks.len(), taken.run.frames), (20, 2, 2));
        assert_eq!(taken.run.marks.first().map(|m| (m.frame, m.patch)), Some((0, 4)));
    }

    #[test]
    fn a_reading_receiver_pauses_publishers_and_a_stuck_one_does_not() {
        let inbox = Inbox::new(1, INBOX_BYTES_HIGH + 100);
        let publisher = Inbox::new(2, 1 << 20);
        let now = Instant::now();
        let mut big = Run::default();
        big.bytes.resize(INBOX_BYTES_HIGH, 0);
        big.frames = 1;
        let mut registered = None;
        assert!(inbox.push_run(&big, now).pause);
        assert!(inbox.wait_for_room(&publisher, &mut registered));
        assert!(inbox.wait_for_room(&publisher, &mut registered));
        assert_eq!(inbox.give_up_waiting().len(), 1);
        assert!(!inbox.wait_for_room(&publisher, &mut registered));
        assert_eq!(inbox.push_run(&big, now).dropped, 1);
        let mut taken = Taken::default();
        inbox.take(u32::MAX, &mut taken);
        assert!(inbox.push_run(&big, now).pause);
    }

    #[test]
    fn a_receiver_that_waits_for_its_socket_is_woken_when_its_inbox_gets_full() {
        let inbox = Inbox::new(1, INBOX_BYTES_HIGH + 100);
        let now = Instant::now();
        let mut run = Run::default();
        run.bytes.resize(INBOX_BYTES_HIGH / 2, 0);
        run.frames = 1;
        assert!(inbox.push_run(&run, now).wake);
        assert!(inbox.patience_ends().is_none());
        // Nothing was taken meanwhile.
        assert!(inbox.push_run(&run, now).wake);
        assert!(inbox.patience_ends().is_some());
        assert!(!inbox.push_run(&run, now).wake);
    }

    #[test]
    fn who_finds_it_full_again_waits_again() {
        let inbox = Inbox::new(1, INBOX_BYTES_HIGH + 100);
        let publisher = Inbox::new(2, 1 << 20);
        let now = Instant::now();
        let mut big = Run::default();
        big.bytes.resize(INBOX_BYTES_HIGH, 0);
        big.frames = 1;
        let mut registered = None;
        for _ in 0..3 {
            let _ = inbox.push_run(&big, now);
            assert!(inbox.wait_for_room(&publisher, &mut registered));
            let mut taken = Taken::default();
            inbox.take(u32::MAX, &mut taken);
            assert_eq!(taken.resumed.len(), 1);
            // Somebody else fills it before the one that was woken looks.
        }
    }
}
