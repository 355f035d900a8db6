//! Connections over sockets that are not there, polled by hand in virtual time.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use mynah_broker::{Broker, BrokerConfig};
use mynah_core::protocol::Peer;
use parking_lot::Mutex;

use super::line::{Lines, PREAMBLE, Seen};
use crate::driver::Driver;
use crate::listener::{NetConfig, Shared, Speaks};
use crate::transport::Transport;

/// Polls after which somebody is taken to be running in circles.
const POLLS_MAX: usize = 200_000;

/// The driver's end of a virtual socket, and the test's.
#[derive(Debug, Clone, Default)]
pub(super) struct Virtual(Arc<Mutex<Socket>>);

#[derive(Debug, Default)]
struct Socket {
    incoming: VecDeque<Vec<u8>>,
    ended: bool,
    broken: bool,
    /// Bytes that may still be written.
    room: usize,
    /// Bytes taken by one write at most.
    write_max: usize,
    written: Vec<u8>,
    writes: usize,
    write_closed: bool,
    /// Answers that it has written nothing, instead of waiting.
    takes_nothing: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Transport for Virtual {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut socket = self.0.lock();
        if socket.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let Some(mut chunk) = socket.incoming.pop_front() else {
            if socket.ended {
                return Poll::Ready(Ok(0));
            }
            socket.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let count = chunk.len().min(buffer.len());
        buffer[..count].copy_from_slice(&chunk[..count]);
        if count < chunk.len() {
            chunk.drain(..count);
            socket.incoming.push_front(chunk);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut socket = self.0.lock();
        if socket.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if socket.takes_nothing {
            return Poll::Ready(Ok(0));
        }
        let count = bytes.len().min(socket.room).min(socket.write_max);
        if count == 0 {
            socket.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        assert!(!socket.write_closed, "written after the end");
        socket.room -= count;
        socket.written.extend_from_slice(&bytes[..count]);
        socket.writes += 1;
        Poll::Ready(Ok(count))
    }

    fn close_write(&mut self) {
        self.0.lock().write_closed = true;
    }
}

impl Virtual {
    fn change<R>(&self, f: impl FnOnce(&mut Socket) -> R) -> R {
        let mut socket = self.0.lock();
        let result = f(&mut socket);
        let mut wakers = Vec::new();
        if !socket.incoming.is_empty() || socket.ended || socket.broken {
            wakers.extend(socket.reader.take());
        }
        if socket.room > 0 || socket.broken {
            wakers.extend(socket.writer.take());
        }
        drop(socket);
        wakers.into_iter().for_each(Waker::wake);
        result
    }

    pub(super) fn send(&self, bytes: impl AsRef<[u8]>) {
        // An empty read is the end of the stream.
        let bytes = bytes.as_ref().to_vec();
        self.change(|socket| socket.incoming.extend((!bytes.is_empty()).then_some(bytes)));
    }

    pub(super) fn end(&self) {
        self.change(|socket| socket.ended = true);
    }

    pub(super) fn break_off(&self) {
        self.change(|socket| socket.broken = true);
    }

    pub(super) fn room(&self, bytes: usize) {
        self.change(|socket| socket.room = bytes);
    }

    pub(super) fn write_max(&self, bytes: usize) {
        self.change(|socket| socket.write_max = bytes);
    }

    pub(super) fn take_nothing(&self) {
        self.change(|socket| socket.takes_nothing = true);
    }

    /// What was written since the last time.
    pub(super) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().written)
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8(self.take()).unwrap()
    }

    pub(super) fn writes(&self) -> usize {
        self.0.lock().writes
    }

    pub(super) fn unread(&self) -> usize {
        self.0.lock().incoming.iter().map(Vec::len).sum()
    }

    pub(super) fn is_write_closed(&self) -> bool {
        self.0.lock().write_closed
    }
}

#[derive(Debug, Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// A connection's task, and the peer's end of its socket.
pub(super) struct Task {
    driver: Option<Pin<Box<Driver<Virtual>>>>,
    flag: Arc<Flag>,
    pub(super) socket: Virtual,
    pub(super) number: u64,
    pub(super) panicked: bool,
}

pub(super) struct Lab {
    pub(super) broker: Arc<Broker>,
    pub(super) shared: Arc<Shared>,
    pub(super) seen: Arc<Seen>,
    pub(super) tasks: Vec<Task>,
    pub(super) now: Instant,
    speaks: Arc<[Speaks]>,
    // Never polled: time goes by when the test says so.
    _runtime: tokio::runtime::Runtime,
}

impl Lab {
    pub(super) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let broker = {
            let _guard = runtime.enter();
            Broker::start(BrokerConfig::default()).unwrap()
        };
        let shared = Shared::new(&broker, NetConfig::default());
        let lines = Lines::default();
        let seen = Arc::clone(&lines.0);
        let counters = broker.shared.metrics.protocol("line");
        let speaks = [Speaks { protocol: Arc::new(lines), counters }].into();
        Self { broker, shared, seen, tasks: Vec::new(), now: Instant::now(), speaks, _runtime: runtime }
    }

    /// A connection that has said nothing yet; its place in `tasks`.
    pub(super) fn connect(&mut self) -> usize {
        let socket = Virtual::default();
        socket.room(usize::MAX);
        socket.write_max(usize::MAX);
        let number = self.broker.next_connection();
        let peer = Peer::new(number, "127.0.0.1:1".parse().unwrap(), "test");
        let (shared, speaks) = (Arc::clone(&self.shared), Arc::clone(&self.speaks));
        let driver = Driver::new(socket.clone(), shared, speaks, peer, self.now);
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        self.tasks.push(Task { driver: Some(Box::pin(driver)), flag, socket, number, panicked: false });
        self.tasks.len() - 1
    }

    /// A connection that speaks, and what it is told to do first.
    pub(super) fn speaking(&mut self, first: &str) -> usize {
        let at = self.connect();
        self.socket(at).send(PREAMBLE);
        self.socket(at).send(first);
        self.settle();
        at
    }

    pub(super) fn socket(&self, at: usize) -> &Virtual {
        &self.tasks[at].socket
    }

    /// What the connection has been told.
    pub(super) fn told(&self, at: usize) -> Vec<String> {
        self.seen.of(self.tasks[at].number)
    }

    pub(super) fn told_lost(&self, at: usize) -> usize {
        self.seen.count(self.tasks[at].number, "lost")
    }

    pub(super) fn is_done(&self, at: usize) -> bool {
        self.tasks[at].driver.is_none()
    }

    /// Polls everybody who was woken until nobody is.
    pub(super) fn settle(&mut self) {
        for _ in 0..POLLS_MAX {
            if !self.poll_some() {
                return;
            }
        }
        panic!("somebody wakes itself for ever");
    }

    fn poll_some(&mut self) -> bool {
        let mut polled = false;
        for task in &mut self.tasks {
            let Some(driver) = task.driver.as_mut() else { continue };
            if !task.flag.0.swap(false, Ordering::AcqRel) {
                continue;
            }
            polled = true;
            let waker = Waker::from(Arc::clone(&task.flag));
            let now = self.now;
            let mut poll = || driver.as_mut().get_mut().poll_at(&mut Context::from_waker(&waker), now);
            // As tokio does it.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut poll));
            if matches!(result, Ok(Poll::Pending)) {
                continue;
            }
            task.panicked = result.is_err();
            task.driver = None;
        }
        polled
    }

    /// Time goes by, and the timer does its work.
    pub(super) fn advance(&mut self, by: Duration) {
        self.now += by;
        self.shared.deadlines.take_due(self.now).0.into_iter().for_each(Waker::wake);
        self.settle();
    }

    /// The runtime ends.
    pub(super) fn drop_task(&mut self, at: usize) {
        self.tasks[at].driver = None;
        self.settle();
    }

    /// Nobody is left, and nothing of anybody.
    pub(super) fn assert_empty(&self) {
        assert!(self.broker.connections.is_empty());
        let (due, next) = self.shared.deadlines.take_due(self.now + Duration::from_secs(3600));
        assert!(due.is_empty() && next.is_none(), "a registration for a deadline is left behind");
    }
}
