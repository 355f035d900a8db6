//! The only read and write loop of the product: one task a connection, which owns its socket.
//!
//! A turn reads everything that is there, lets the protocol handle it, takes everything from the inbox, hands over what was
//! published, wakes the receivers, and writes once. So system calls per message fall as load rises.
//!
//! Never: knows a protocol, waits for the broker, writes another connection's socket.

use std::cell::RefCell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use mynah_broker::batch::Batch;
use mynah_broker::{ConnectionHost, Taken, pool};
use mynah_core::protocol::{Connection, Detect, Farewell, Input, Peer, Violation};
use tracing::{debug, error, info};

use crate::deadlines::Armed;
use crate::inputs::{end, handle, handle_bytes, handle_taken, resume, say_lost, taken_is_bytes_only};
use crate::limits::{
    DETECT_BYTES_MAX, FAREWELL, LINGER, READ_BYTES, READ_BYTES_LITTLE, READ_BYTES_MAX, REST_BYTES_COPIED,
    REST_BYTES_EXTRA, ROUNDS_MAX, WIRE_BYTES_HIGH,
};
use crate::listener::{Shared, Speaks, login_timeout};
use crate::transport::Transport;

/// What a thread lends to the connection it polls.
struct Scratch {
    batch: Option<Batch>,
    taken: Taken,
    read: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch { batch: None, taken: Taken::default(), read: vec![0; READ_BYTES_MAX] });
}

/// One connection from accept to close.
pub struct Driver<T> {
    transport: T,
    shared: Arc<Shared>,
    stage: Stage,
    armed: Option<Armed>,
    peer: Arc<Peer>,
    big_reads: bool,
    /// The last read brought so little that it does not matter when it is answered.
    read_little: bool,
    /// It let its receivers write first.
    gave_way: bool,
    write_blocked: bool,
    told_to_stop: bool,
}

enum Stage {
    /// Which of the listener's protocols is it?
    Detecting(Box<Detecting>),
    Speaking(Box<Speaking>),
    /// All is said; waiting for the peer to read it.
    Lingering(Instant),
    Done,
}

struct Detecting {
    speaks: Arc<[Speaks]>,
    since: Instant,
    /// As long as the most patient of the protocols which it can still be.
    until: Instant,
    received: BytesMut,
}

struct Speaking {
    connection: Box<dyn Connection>,
    host: ConnectionHost,
    /// Received and not consumed; most of the time there is nothing.
    rest: Option<Box<BytesMut>>,
    /// Something else than bytes has happened since it was shown the rest.
    show_again: bool,
    /// When the farewell that is to be written was begun.
    closing_since: Option<Box<Instant>>,
}

impl Speaking {
    fn rest_len(&self) -> usize {
        self.rest.as_ref().map_or(0, |rest| rest.len())
    }

    /// An idle connection owns no buffer.
    fn keep(&mut self, rest: BytesMut) {
        self.rest = if rest.is_empty() { None } else { Some(Box::new(rest)) };
    }
}

/// How a part of a turn went on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Idle,
    Progress,
    /// The peer has closed, or the socket is broken.
    Gone,
}

impl<T> std::fmt::Debug for Driver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl<T: Transport> Driver<T> {
    #[must_use]
    pub fn new(transport: T, shared: Arc<Shared>, speaks: Arc<[Speaks]>, peer: Peer, now: Instant) -> Self {
        let until = now + login_timeout(speaks.iter());
        Self {
            transport,
            shared,
            stage: Stage::Detecting(Box::new(Detecting {
                speaks,
                since: now,
                until,
                received: BytesMut::new(),
            })),
            armed: None,
            peer: Arc::new(peer),
            big_reads: false,
            read_little: false,
            gave_way: false,
            write_blocked: false,
            told_to_stop: false,
        }
    }

    /// One poll at a time of the caller's choosing.
    pub(crate) fn poll_at(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        SCRATCH.with_borrow_mut(|scratch| {
            // A fault of ours ends this connection only; what the thread lends must not carry anything of it to the next one.
            let poll = catch_unwind(AssertUnwindSafe(|| self.poll_with(cx, scratch, now)));
            poll.unwrap_or_else(|_| {
                self.abandon(scratch, now);
                Poll::Ready(())
            })
        })
    }

    fn poll_with(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, now: Instant) -> Poll<()> {
        for _ in 0..ROUNDS_MAX {
            let flow = match &self.stage {
                Stage::Detecting(_) => self.detect(cx, scratch, now),
                Stage::Speaking(_) => self.turn(cx, scratch, now),
                Stage::Lingering(until) => {
                    let until = *until;
                    self.linger(cx, scratch, now, until)
                }
                Stage::Done => return Poll::Ready(()),
            };
            match flow {
                Flow::Progress => {}
                Flow::Gone => {
                    self.leave(scratch, now);
                    return Poll::Ready(());
                }
                Flow::Idle => {
                    self.arm(cx, now);
                    return Poll::Pending;
                }
            }
        }
        // There may be more, but others have waited for this thread.
        cx.waker().wake_by_ref();
        self.arm(cx, now);
        Poll::Pending
    }

    // ---- before the protocol is known ----

    fn detect(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, now: Instant) -> Flow {
        let Stage::Detecting(detecting) = &mut self.stage else { return Flow::Progress };
        if now >= detecting.until || self.shared.is_stopping() {
            return Flow::Gone;
        }
        let buffer = scratch.read.get_mut(..READ_BYTES).unwrap_or_default();
        match self.transport.poll_read(cx, buffer) {
            Poll::Pending => return Flow::Idle,
            Poll::Ready(Ok(0) | Err(_)) => return Flow::Gone,
            Poll::Ready(Ok(count)) => {
                detecting.received.extend_from_slice(buffer.get(..count).unwrap_or_default());
            }
        }
        let Detecting { speaks, since, until, received } = &mut **detecting;
        let mut possible = Vec::new();
        let transport = &self.transport;
        let allowed = || speaks.iter().filter(|speaks| transport.admits(speaks.protocol.name()));
        let found = allowed().find(|speaks| match speaks.protocol.detect(received) {
            Detect::Yes => true,
            Detect::No => false,
            Detect::NeedMore => {
                possible.push(*speaks);
                false
            }
        });
        if let Some(Speaks { protocol, counters }) = found {
            // It has been connecting since then.
            let connection = protocol.accept(&self.peer, *since);
            let host = ConnectionHost::new(&self.shared.broker, &self.peer, counters, now);
            host.info.inbox.set_waker(cx.waker());
            counters.received_bytes.inc_by(received.len() as u64);
            debug!(conn = self.peer.connection, peer = %self.peer.address, proto = protocol.name(), "connected");
            let rest = Some(Box::new(std::mem::take(received)));
            self.stage = Stage::Speaking(Box::new(Speaking {
                connection,
                host,
                rest,
                show_again: false,
                closing_since: None,
            }));
            if let Err(violation) = self.handle_again(scratch, now) {
                self.note_violation(&violation);
            }
            return Flow::Progress;
        }
        if !possible.is_empty() && received.len() < DETECT_BYTES_MAX {
            *until = *since + login_timeout(possible.into_iter());
            return Flow::Progress;
        }
        info!(conn = self.peer.connection, peer = %self.peer.address, "closed: the first bytes are no protocol of this listener");
        let answer =
            allowed().map(|speaks| speaks.protocol.refuse_unknown()).find(|answer| !answer.is_empty());
        // A header is a few bytes into an empty socket buffer; if it does not fit, the peer does not read.
        if let Some(answer) = answer {
            let _ = self.transport.poll_write(cx, answer);
        }
        self.begin_linger(now);
        Flow::Progress
    }

    // ---- the turn of a speaking connection ----

    fn turn(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, now: Instant) -> Flow {
        let read = self.read(cx, scratch, now);
        if read == Flow::Gone {
            return read;
        }
        let has_given_way = std::mem::take(&mut self.gave_way);
        if read == Flow::Progress && !has_given_way && self.gives_way(cx, scratch) {
            return Flow::Idle;
        }
        let mut flow = read;
        match self.handle_rest_of_turn(scratch, now) {
            Ok(true) => flow = Flow::Progress,
            Ok(false) => {}
            Err(violation) => {
                self.note_violation(&violation);
            }
        }
        if self.farewell_is_late(now) {
            return Flow::Gone;
        }
        let was_blocked = self.write_blocked || self.is_full();
        match self.write(cx) {
            Flow::Gone => return Flow::Gone,
            // The inbox was not taken while the socket was full, and nobody will wake us for what is in it.
            Flow::Progress if was_blocked && !self.is_full() => flow = Flow::Progress,
            Flow::Progress => {}
            // Who has read has not asked yet to be woken when there is more.
            Flow::Idle => return read,
        }
        let Stage::Speaking(speaking) = &mut self.stage else { return Flow::Progress };
        if speaking.host.closing.is_some() && speaking.host.wire.is_empty() {
            self.leave(scratch, now);
            self.begin_linger(now);
            return Flow::Progress;
        }
        flow
    }

    /// Lets those whom it has just woken write before its own answer is: they have waited longer, and a write takes microseconds. Once for
    /// a read, and only after one that brought little; the thread comes back when it has nothing else to do, or every so often.
    fn gives_way(&mut self, cx: &mut Context<'_>, scratch: &Scratch) -> bool {
        let Stage::Speaking(speaking) = &self.stage else { return false };
        let woke = scratch.batch.as_ref().is_some_and(Batch::lets_receivers_write);
        let answers = !speaking.host.wire.is_empty() && speaking.host.closing.is_none();
        self.gave_way = woke && answers && self.read_little;
        if self.gave_way {
            // Polled once, it has the thread wake this task later.
            let _ = std::pin::pin!(tokio::task::yield_now()).poll(cx);
        }
        self.gave_way
    }

    /// Whether so much waits to be written that nothing is read.
    fn is_full(&self) -> bool {
        matches!(&self.stage, Stage::Speaking(speaking) if speaking.host.wire.len() > WIRE_BYTES_HIGH)
    }

    /// A farewell that the peer does not read must not keep the socket for ever.
    fn farewell_is_late(&mut self, now: Instant) -> bool {
        let Stage::Speaking(speaking) = &mut self.stage else { return false };
        speaking.host.closing.is_some()
            && now >= **speaking.closing_since.get_or_insert(Box::new(now)) + FAREWELL
    }

    fn note_violation(&mut self, violation: &Violation) {
        let Stage::Speaking(speaking) = &mut self.stage else { return };
        speaking.host.info.counters.violations.inc();
        speaking.host.closing.get_or_insert_with(abruptly);
        info!(
            conn = self.peer.connection,
            peer = %self.peer.address,
            proto = speaking.host.info.counters.protocol,
            kind = ?violation.kind,
            reason = %violation.text,
            "closed: the peer broke the protocol"
        );
    }

    /// Reads once, if there is room for what it may cause, and lets the protocol handle it.
    fn read(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, now: Instant) -> Flow {
        let Stage::Speaking(speaking) = &mut self.stage else { return Flow::Progress };
        let kept = speaking.rest_len();
        let Speaking { connection, host, rest, .. } = &mut **speaking;
        let rest_max = host.broker.shared.config.message_bytes_max.saturating_add(REST_BYTES_EXTRA);
        let full = host.wire.len() > WIRE_BYTES_HIGH || kept > rest_max;
        if host.closing.is_some() || full || host.is_paused() {
            return Flow::Idle;
        }
        let size = if self.big_reads { READ_BYTES_MAX } else { READ_BYTES };
        let copied = kept <= REST_BYTES_COPIED;
        // A small rest stands in front of what is read; a large one is appended to.
        let start = if copied { kept } else { 0 };
        let Some(buffer) = scratch.read.get_mut(start..size) else { return Flow::Gone };
        let count = match self.transport.poll_read(cx, buffer) {
            Poll::Pending => return Flow::Idle,
            Poll::Ready(Ok(0) | Err(_)) => return Flow::Gone,
            Poll::Ready(Ok(count)) => count,
        };
        self.big_reads = count == buffer.len();
        self.read_little = count < READ_BYTES_LITTLE;
        let batch = scratch.batch.get_or_insert_with(|| Batch::new(Arc::clone(&host.info.counters)));
        host.info.counters.received_bytes.inc_by(count as u64);
        let mut rest = rest.take().map(|rest| *rest).unwrap_or_default();
        let result = if copied {
            if let Some(front) = scratch.read.get_mut(..kept) {
                front.copy_from_slice(&rest);
            }
            let all = scratch.read.get(..kept + count).unwrap_or_default();
            let handled = handle_bytes(connection.as_mut(), host, batch, now, all);
            rest.clear();
            handled.map(|used| rest.extend_from_slice(all.get(used..).unwrap_or_default()))
        } else {
            rest.extend_from_slice(scratch.read.get(..count).unwrap_or_default());
            handle_bytes(connection.as_mut(), host, batch, now, &rest).map(|used| rest.advance(used))
        };
        match result {
            Ok(()) => speaking.keep(rest),
            Err(violation) => self.note_violation(&violation),
        }
        Flow::Progress
    }

    /// Deadline, stop, inbox, and again the bytes that were left. True if something was there.
    fn handle_rest_of_turn(&mut self, scratch: &mut Scratch, now: Instant) -> Result<bool, Violation> {
        let stopping = self.shared.is_stopping() && !self.told_to_stop;
        self.told_to_stop |= stopping;
        let Stage::Speaking(speaking) = &mut self.stage else { return Ok(false) };
        let Speaking { connection, host, show_again, .. } = &mut **speaking;
        let batch = scratch.batch.get_or_insert_with(|| Batch::new(Arc::clone(&host.info.counters)));
        if host.info.inbox.patience_ends().is_some_and(|at| at <= now) {
            resume(host.info.inbox.give_up_waiting());
        }
        let mut active = false;
        if host.closing.is_none() && connection.deadline().is_some_and(|at| at <= now) {
            (active, *show_again) = (true, true);
            handle(connection.as_mut(), host, batch, now, Input::Deadline)?;
        }
        if host.closing.is_none() && stopping {
            (active, *show_again) = (true, true);
            handle(connection.as_mut(), host, batch, now, Input::Shutdown)?;
        }
        if host.closing.is_some() {
            // All is said. Nothing may follow a farewell, and nobody has to wait for who takes nothing any more.
            resume(host.info.inbox.give_up_waiting());
            return Ok(active);
        }
        if self.write_blocked || host.wire.len() > WIRE_BYTES_HIGH {
            if host.info.inbox.is_unwanted() {
                // It cannot be told to go; somebody waits for its place.
                host.closing = Some(abruptly());
                speaking.closing_since = now.checked_sub(FAREWELL).map(Box::new);
            }
            return Ok(active);
        }
        let taken = &mut scratch.taken;
        host.info.inbox.take(connection.marked_credit(), taken);
        resume(taken.resumed.drain(..));
        if taken.is_empty() && !host.can_replay() {
            pool::give_run(std::mem::take(&mut taken.run));
        } else {
            active = true;
            *show_again |= !taken_is_bytes_only(taken);
            let result = handle_taken(connection.as_mut(), host, batch, now, taken);
            if result.is_err() || host.closing.is_some() {
                // What is left of it comes too late.
                *taken = Taken::default();
            }
            result?;
        }
        // What the connection could not do before, it may do now.
        if std::mem::take(&mut speaking.show_again) {
            self.handle_again(scratch, now)?;
            active = true;
        }
        Ok(active)
    }

    /// Shows the connection again what it left.
    fn handle_again(&mut self, scratch: &mut Scratch, now: Instant) -> Result<(), Violation> {
        let Stage::Speaking(speaking) = &mut self.stage else { return Ok(()) };
        let Speaking { connection, host, rest, .. } = &mut **speaking;
        let (None, Some(mut rest)) = (&host.closing, rest.take()) else { return Ok(()) };
        let batch = scratch.batch.get_or_insert_with(|| Batch::new(Arc::clone(&host.info.counters)));
        let used = handle_bytes(connection.as_mut(), host, batch, now, &rest)?;
        rest.advance(used);
        speaking.keep(*rest);
        Ok(())
    }

    /// Writes what may leave. `Progress`: all of it (or nothing was there); `Idle`: the socket is full.
    fn write(&mut self, cx: &mut Context<'_>) -> Flow {
        let Stage::Speaking(speaking) = &mut self.stage else { return Flow::Progress };
        let host = &mut speaking.host;
        while !host.wire.is_empty() {
            let Ok(sendable) = host.sendable() else {
                error!(conn = self.peer.connection, peer = %self.peer.address, "closed: what it did cannot be made durable");
                return Flow::Gone;
            };
            if sendable == 0 {
                // Its confirms wait for the disk, which wakes it. It is read from meanwhile.
                self.write_blocked = false;
                return Flow::Progress;
            }
            let some = host.wire.get(..sendable).unwrap_or_default();
            match self.transport.poll_write(cx, some) {
                Poll::Pending => {
                    self.write_blocked = true;
                    return Flow::Idle;
                }
                Poll::Ready(Ok(0) | Err(_)) => return Flow::Gone,
                Poll::Ready(Ok(count)) => {
                    host.info.counters.sent_bytes.inc_by(count as u64);
                    host.wire.advance(count);
                    host.has_sent(count);
                }
            }
        }
        match self.transport.poll_flush(cx) {
            Poll::Pending => {
                self.write_blocked = true;
                return Flow::Idle;
            }
            Poll::Ready(Err(_)) => return Flow::Gone,
            Poll::Ready(Ok(())) => {}
        }
        self.write_blocked = false;
        if host.wire.capacity() > 0 {
            pool::give_buffer(std::mem::take(&mut host.wire));
        }
        Flow::Progress
    }

    // ---- the end ----

    fn leave(&mut self, scratch: &mut Scratch, now: Instant) {
        self.disarm();
        if let Stage::Speaking(speaking) = &mut self.stage {
            let Speaking { connection, host, .. } = &mut **speaking;
            let batch = scratch.batch.get_or_insert_with(|| Batch::new(Arc::clone(&host.info.counters)));
            say_lost(connection.as_mut(), host, batch, now);
            end(host, batch, now);
            debug!(conn = self.peer.connection, peer = %self.peer.address, "disconnected");
        }
        self.stage = Stage::Done;
    }

    /// The end after a panic: the connection is not asked any more, as nobody knows what state it is in.
    fn abandon(&mut self, scratch: &mut Scratch, now: Instant) {
        error!(conn = self.peer.connection, peer = %self.peer.address, "closed: a fault in the broker");
        self.disarm();
        scratch.taken = Taken::default();
        // Those that something was handed to already have to hear of it.
        if let Some(mut batch) = scratch.batch.take() {
            batch.wake();
        }
        if let Stage::Speaking(mut speaking) = std::mem::replace(&mut self.stage, Stage::Done) {
            let host = &mut speaking.host;
            end(host, &mut Batch::new(Arc::clone(&host.info.counters)), now);
        }
    }

    fn begin_linger(&mut self, now: Instant) {
        self.transport.close_write();
        self.stage = Stage::Lingering(now + LINGER);
    }

    /// Reads and forgets, so that the farewell is not lost to a reset.
    fn linger(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, now: Instant, until: Instant) -> Flow {
        if now >= until {
            return Flow::Gone;
        }
        match self.transport.poll_read(cx, &mut scratch.read) {
            Poll::Pending => Flow::Idle,
            Poll::Ready(Ok(0) | Err(_)) => Flow::Gone,
            Poll::Ready(Ok(_)) => Flow::Progress,
        }
    }

    /// Sees to it that the task is woken at its next deadline.
    fn arm(&mut self, cx: &Context<'_>, now: Instant) {
        let next = match &self.stage {
            Stage::Detecting(detecting) => Some(detecting.until),
            Stage::Lingering(until) => Some(*until),
            Stage::Speaking(speaking) => {
                let own = match &speaking.closing_since {
                    Some(since) => Some(**since + FAREWELL),
                    None => speaking.connection.deadline(),
                };
                [own, speaking.host.info.inbox.patience_ends()].into_iter().flatten().min()
            }
            Stage::Done => None,
        };
        let Some(next) = next else {
            self.disarm();
            return;
        };
        if self.armed.as_ref().is_none_or(|armed| armed.at() > next || armed.at() <= now) {
            self.disarm();
            self.armed = Some(self.shared.deadlines.arm(next, cx.waker()));
        }
        // Whoever ends the broker wakes those whom it finds registered, which we may have become just now.
        if matches!(self.stage, Stage::Detecting(_)) && self.shared.is_stopping() {
            cx.waker().wake_by_ref();
        }
    }

    fn disarm(&mut self) {
        if let Some(armed) = self.armed.take() {
            self.shared.deadlines.disarm(&armed);
        }
    }
}

impl<T: Transport> Future for Driver<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_at(cx, Instant::now())
    }
}

impl<T> Drop for Driver<T> {
    /// A task that is dropped in the middle (the end of the runtime) must not leave consumers behind.
    fn drop(&mut self) {
        if let Some(armed) = self.armed.take() {
            self.shared.deadlines.disarm(&armed);
        }
        if let Stage::Speaking(speaking) = &mut self.stage {
            let Speaking { connection, host, .. } = &mut **speaking;
            let mut batch = Batch::new(Arc::clone(&host.info.counters));
            let now = Instant::now();
            // A second panic would end the process.
            if !std::thread::panicking() {
                say_lost(connection.as_mut(), host, &mut batch, now);
            }
            end(host, &mut batch, now);
        }
    }
}

fn abruptly() -> Box<Farewell> {
    Box::new(Farewell::Abrupt { expiry: None })
}
