//! One thread of the generator: an event loop over its share of the connections.
//!
//! A turn reads every connection that has something, then lets publishers fill their windows, then writes each
//! connection once. So a batch costs one read and one write, and nothing is allocated for a message. Epoll is
//! edge-triggered and armed once: a short read says empty, a short write waits for the next edge.
//! Never: more than one write for a connection in a turn, a wait while something is left to read.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use anyhow::Context;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::account::{Ledger, Sink, Tally};
use crate::engine::Shared;
use crate::wire::{Role, Wire};

/// Bytes of a read; grows for larger frames.
const READ: usize = 256 * 1024;
/// Bytes that a publisher writes in one go at most.
const WRITE: usize = 512 * 1024;
/// After so long without any delivery of the run, a publisher takes what is outstanding for lost and goes on; and
/// after so long without one of its own. A slow broker must not be given more for being slow.
const SILENCE_NS: u64 = 1_000_000_000;
const PATIENCE_NS: u64 = 5_000_000_000;

/// What a thread is given to do.
pub(crate) struct Job {
    pub role: Role,
    pub ledger: Ledger,
    pub wire: Box<dyn Wire>,
}

/// How publishers pace themselves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Messages of one publisher outstanding.
    pub window: u64,
    pub copies: u64,
    /// Messages of one publisher in all.
    pub limit: u64,
    /// Nanoseconds between two messages of this thread, in an open loop.
    pub interval_ns: Option<f64>,
    /// Bytes of a payload, to bound a batch.
    pub size: usize,
    /// Confirms count as deliveries.
    pub store: bool,
}

struct Publisher {
    id: usize,
    sent: u64,
    /// Deliveries taken for lost.
    forgiven: u64,
    seen: u64,
    seen_ns: u64,
    /// Waits in the pump list.
    listed: bool,
    /// Where confirms are what counts: when each unconfirmed message was sent, and how many are confirmed.
    open: VecDeque<u64>,
    confirmed: u64,
}

struct Connection {
    stream: TcpStream,
    wire: Box<dyn Wire>,
    ledger: Ledger,
    publisher: Option<Publisher>,
    partial: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    /// The last write was short.
    blocked: bool,
    dirty: bool,
    reading: bool,
    /// The peer has closed its side: read until the end.
    ending: bool,
    ready: bool,
}

impl Publisher {
    /// The broker has confirmed `acked` messages in all.
    fn confirm(&mut self, acked: u64, now_ns: u64, measuring: bool, tally: &mut Tally) {
        let fresh = acked.saturating_sub(self.confirmed);
        self.confirmed += fresh;
        if fresh > 0 {
            tally.confirmed(u32::try_from(self.id).unwrap_or(u32::MAX), fresh);
        }
        for sent_ns in self.open.drain(..usize::try_from(fresh).unwrap_or(0).min(self.open.len())) {
            if measuring {
                tally.latency.record(now_ns.saturating_sub(sent_ns), 1);
            }
        }
    }
}

/// One thread's state.
pub(crate) struct Worker<'a> {
    shared: &'a Shared,
    index: usize,
    pace: Pace,
    poll: Poll,
    connections: Vec<Connection>,
    /// Connection of each publisher of the run, where it is ours.
    of_publisher: Vec<Option<usize>>,
    own_publishers: Vec<usize>,
    reads: Vec<usize>,
    pumps: Vec<usize>,
    dirty: Vec<usize>,
    buffer: Vec<u8>,
    tally: Tally,
    sent: u64,
    /// Messages of the open loop that are due or sent.
    ticks: u64,
    checked_ns: u64,
    /// Deliveries of the whole run when they last changed, and when that was.
    moved: (u64, u64),
    closing: bool,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(
        shared: &'a Shared,
        index: usize,
        pace: Pace,
        publishers: usize,
    ) -> anyhow::Result<Self> {
        let count = u32::try_from(publishers).unwrap_or(u32::MAX);
        Ok(Self {
            shared,
            index,
            pace,
            poll: Poll::new().context("epoll")?,
            connections: Vec::new(),
            of_publisher: vec![None; publishers],
            own_publishers: Vec::new(),
            reads: Vec::new(),
            pumps: Vec::new(),
            dirty: Vec::new(),
            buffer: vec![0; READ],
            tally: Tally::new(shared.run, count),
            sent: 0,
            ticks: 0,
            checked_ns: 0,
            moved: (0, 0),
            closing: false,
        })
    }

    /// Opens the connections, takes part in the run, and answers what was counted.
    pub(crate) fn run(mut self, address: SocketAddr, jobs: Vec<Job>) -> anyhow::Result<(Tally, u64)> {
        let mut events = Events::with_capacity(1024);
        let (subscribers, publishers): (Vec<_>, Vec<_>) =
            jobs.into_iter().partition(|job| matches!(job.role, Role::Subscriber { .. }));
        let (subscriber_count, all) = (subscribers.len(), subscribers.len() + publishers.len());
        self.connect(address, subscribers)?;
        self.until(&mut events, |worker| worker.ready_count() == subscriber_count)?;
        self.shared.subscribers_ready.fetch_add(subscriber_count, Release);
        let wanted = self.shared.subscribers;
        self.until(&mut events, |worker| worker.shared.subscribers_ready.load(Acquire) >= wanted)?;
        self.connect(address, publishers)?;
        self.until(&mut events, |worker| worker.ready_count() == all)?;
        self.shared.publishers_ready.fetch_add(all - subscriber_count, Release);
        self.until(&mut events, |worker| worker.shared.begin_ns.load(Acquire) != u64::MAX)?;
        self.pumps.extend(self.own_publishers.iter().copied());
        for &at in &self.own_publishers {
            if let Some(publisher) = self.connections.get_mut(at).and_then(|it| it.publisher.as_mut()) {
                publisher.listed = true;
            }
        }
        while !self.shared.stopping.load(Acquire) {
            let timeout = self.timeout();
            self.turn(&mut events, timeout)?;
        }
        self.close(&mut events);
        Ok((self.tally, self.sent))
    }

    fn connect(&mut self, address: SocketAddr, jobs: Vec<Job>) -> anyhow::Result<()> {
        for Job { role, ledger, mut wire } in jobs {
            anyhow::ensure!(!self.shared.stopping.load(Acquire), "the run was stopped");
            let stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(5))
                .with_context(|| format!("cannot connect to {address}"))?;
            stream.set_nodelay(true).context("TCP_NODELAY")?;
            stream.set_nonblocking(true).context("O_NONBLOCK")?;
            let mut stream = TcpStream::from_std(stream);
            let at = self.connections.len();
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(at), interest).context("epoll_ctl")?;
            let publisher = match role {
                Role::Subscriber { .. } => None,
                Role::Publisher { id, .. } => {
                    let id = id as usize;
                    if let Some(place) = self.of_publisher.get_mut(id) {
                        *place = Some(at);
                    }
                    self.own_publishers.push(at);
                    Some(Publisher {
                        id,
                        sent: 0,
                        forgiven: 0,
                        seen: 0,
                        seen_ns: 0,
                        listed: false,
                        open: VecDeque::new(),
                        confirmed: 0,
                    })
                }
            };
            let mut out = Vec::new();
            wire.open(&mut out);
            self.connections.push(Connection {
                stream,
                wire,
                ledger,
                publisher,
                partial: Vec::new(),
                out,
                written: 0,
                blocked: false,
                dirty: true,
                reading: false,
                ending: false,
                ready: false,
            });
            self.dirty.push(at);
            // Brokers with a short accept queue, and logins that take their time: keep the loop turning.
            if at % 32 == 31 {
                self.turn(&mut Events::with_capacity(64), Duration::ZERO)?;
            }
        }
        Ok(())
    }

    fn ready_count(&self) -> usize {
        self.connections.iter().filter(|connection| connection.ready).count()
    }

    fn until(&mut self, events: &mut Events, done: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        while !done(self) {
            anyhow::ensure!(!self.shared.stopping.load(Acquire), "the run was stopped");
            self.turn(events, Duration::from_millis(1))?;
        }
        Ok(())
    }

    /// How long a turn may wait for the sockets.
    fn timeout(&self) -> Duration {
        if !self.reads.is_empty() || !self.pumps.is_empty() {
            return Duration::ZERO;
        }
        let now = self.shared.now_ns();
        if self.pace.interval_ns.is_some() && self.shared.sending(now) {
            // An open loop with less than a millisecond between messages cannot sleep in epoll.
            return Duration::ZERO;
        }
        // Deliveries that another thread counts do not wake this one.
        Duration::from_millis(if self.shared.threads > 1 { 1 } else { 10 })
    }

    fn turn(&mut self, events: &mut Events, timeout: Duration) -> anyhow::Result<()> {
        match self.poll.poll(events, Some(timeout)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error).context("epoll_wait"),
        }
        for event in events.iter() {
            let at = event.token().0;
            let Some(connection) = self.connections.get_mut(at) else { continue };
            connection.ending |= event.is_read_closed();
            if (event.is_readable() || event.is_read_closed() || event.is_error()) && !connection.reading {
                connection.reading = true;
                self.reads.push(at);
            }
            if event.is_writable() && connection.blocked {
                connection.blocked = false;
                if !connection.dirty {
                    connection.dirty = true;
                    self.dirty.push(at);
                }
            }
        }
        let reads = std::mem::take(&mut self.reads);
        for &at in &reads {
            self.read(at)?;
        }
        if self.reads.is_empty() {
            self.reads = reads;
            self.reads.clear();
        }
        self.hand_over();
        self.pump();
        self.flush()
    }

    fn read(&mut self, at: usize) -> anyhow::Result<()> {
        let Some(connection) = self.connections.get_mut(at) else { return Ok(()) };
        connection.reading = false;
        let kept = connection.partial.len();
        if kept * 2 > self.buffer.len() {
            self.buffer.resize(kept * 4, 0);
        }
        let Some((head, space)) = self.buffer.split_at_mut_checked(kept) else { return Ok(()) };
        let room = space.len();
        let got = match connection.stream.read(space) {
            Ok(0) if self.closing => return Ok(()),
            Ok(0) => anyhow::bail!("the broker closed a connection"),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(_) if self.closing => return Ok(()),
            Err(error) => return Err(error).context("a connection broke"),
        };
        head.copy_from_slice(&connection.partial);
        connection.partial.clear();
        let now_ns = self.shared.now_ns();
        let measuring = self.shared.measuring(now_ns);
        let input = self.buffer.get(..kept + got).unwrap_or_default();
        let mut sink = Sink {
            ledger: &mut connection.ledger,
            tally: &mut self.tally,
            now_ns,
            measuring,
            run_of: (0, 0),
        };
        let taken = match connection.wire.read(input, &mut connection.out, &mut sink) {
            Ok(taken) => taken,
            Err(_) if self.closing => return Ok(()),
            Err(fault) => anyhow::bail!("{}", fault.0),
        };
        sink.flush();
        connection.partial.extend_from_slice(input.get(taken..).unwrap_or_default());
        if let Some(publisher) = connection.publisher.as_mut().filter(|_| self.pace.store) {
            publisher.confirm(connection.wire.acked(), now_ns, measuring, &mut self.tally);
        }
        connection.ready = connection.wire.ready();
        if !connection.out.is_empty() && !connection.dirty {
            connection.dirty = true;
            self.dirty.push(at);
        }
        if let Some(publisher) = connection.publisher.as_mut().filter(|it| !it.listed) {
            publisher.listed = true;
            self.pumps.push(at);
        }
        if got == room || got == 0 || connection.ending {
            connection.reading = true;
            self.reads.push(at);
        }
        Ok(())
    }

    /// Gives the deliveries of this turn to their publishers.
    fn hand_over(&mut self) {
        let (shared, connections, pumps) = (self.shared, &mut self.connections, &mut self.pumps);
        let of_publisher = &self.of_publisher;
        self.tally.take(|publisher, count| {
            let publisher = publisher as usize;
            if let Some(delivered) = shared.delivered.get(publisher) {
                delivered.fetch_add(count, Relaxed);
            }
            let Some(at) = of_publisher.get(publisher).copied().flatten() else { return };
            let publisher = connections.get_mut(at).and_then(|it| it.publisher.as_mut());
            if let Some(publisher) = publisher.filter(|it| !it.listed) {
                publisher.listed = true;
                pumps.push(at);
            }
        });
        if let Some(thread) = self.shared.progress.get(self.index) {
            thread.delivered.store(self.tally.delivered, Relaxed);
            thread.sent.store(self.sent, Release);
        }
    }

    fn pump(&mut self) {
        let now = self.shared.now_ns();
        if !self.shared.sending(now) {
            for at in std::mem::take(&mut self.pumps) {
                if let Some(publisher) = self.connections.get_mut(at).and_then(|it| it.publisher.as_mut()) {
                    publisher.listed = false;
                }
            }
            self.report_acked(now);
            return;
        }
        if let Some(interval) = self.pace.interval_ns {
            self.pump_by_time(now, interval);
            return;
        }
        if self.shared.threads > 1 || now.saturating_sub(self.checked_ns) > 50_000_000 {
            self.checked_ns = now;
            let total = self.shared.total_delivered();
            if total != self.moved.0 {
                self.moved = (total, now);
            }
            for index in 0..self.own_publishers.len() {
                if let Some(&at) = self.own_publishers.get(index) {
                    self.fill(at, now);
                }
            }
        }
        let mut pumps = std::mem::take(&mut self.pumps);
        for at in pumps.drain(..) {
            if let Some(publisher) = self.connections.get_mut(at).and_then(|it| it.publisher.as_mut()) {
                publisher.listed = false;
            }
            self.fill(at, now);
        }
        if self.pumps.is_empty() {
            self.pumps = pumps;
        }
    }

    /// Lets one publisher fill its window, in batches of at least half of it.
    fn fill(&mut self, at: usize, now: u64) {
        let pace = self.pace;
        let Some(connection) = self.connections.get_mut(at) else { return };
        let Some(publisher) = &mut connection.publisher else { return };
        let delivered = self.shared.delivered.get(publisher.id).map_or(0, |count| count.load(Relaxed));
        if delivered != publisher.seen {
            publisher.seen = delivered;
            publisher.seen_ns = now;
        }
        let open = (publisher.sent * pace.copies).saturating_sub(delivered + publisher.forgiven);
        let silence = now.saturating_sub(publisher.seen_ns);
        let silent = silence > SILENCE_NS && now.saturating_sub(self.moved.1) > SILENCE_NS;
        if open > 0 && (silent || silence > PATIENCE_NS) {
            publisher.forgiven += open;
            publisher.seen_ns = now;
        }
        if connection.blocked || publisher.sent >= pace.limit {
            return;
        }
        let unacked = publisher.sent.saturating_sub(connection.wire.acked());
        let room = pace.window.saturating_sub(open.div_ceil(pace.copies).max(unacked));
        if room < (pace.window / 2).clamp(1, 1000) {
            return;
        }
        let most = (WRITE / (pace.size + 64)).max(1) as u64;
        let count = room.min(connection.wire.room()).min(pace.limit - publisher.sent).min(most);
        let Ok(batch) = usize::try_from(count) else { return };
        if batch == 0 {
            return;
        }
        if open == 0 {
            publisher.seen_ns = now;
        }
        connection.wire.publish(batch, now, &mut connection.out);
        if pace.store {
            publisher.open.resize(publisher.open.len() + batch, now);
        }
        publisher.sent += count;
        self.sent += count;
        if room > count && !publisher.listed {
            publisher.listed = true;
            self.pumps.push(at);
        }
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(at);
        }
    }

    /// Sends what is due, publisher after publisher; the stamp is the time it was due, not the time it left.
    fn pump_by_time(&mut self, now: u64, interval: f64) {
        self.pumps.clear();
        let begin = self.shared.begin_ns.load(Relaxed);
        loop {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a time below 2^53 ns"
            )]
            let due = begin + (self.ticks as f64 * interval) as u64;
            let Ok(turn) = usize::try_from(self.ticks % self.own_publishers.len().max(1) as u64) else {
                return;
            };
            let Some(&at) = self.own_publishers.get(turn) else { return };
            let Some(connection) = self.connections.get_mut(at) else { return };
            if due > now || connection.wire.room() == 0 || connection.out.len() > WRITE {
                return;
            }
            connection.wire.publish(1, due, &mut connection.out);
            if let Some(publisher) = &mut connection.publisher {
                publisher.listed = false;
                publisher.sent += 1;
            }
            self.sent += 1;
            self.ticks += 1;
            if !connection.dirty {
                connection.dirty = true;
                self.dirty.push(at);
            }
        }
    }

    /// While the last messages are on their way: how many are settled. Held back settlements are let go.
    fn report_acked(&mut self, now: u64) {
        if now.saturating_sub(self.checked_ns) < 5_000_000 {
            return;
        }
        self.checked_ns = now;
        let mut acked = 0;
        for (at, connection) in self.connections.iter_mut().enumerate() {
            if connection.publisher.is_some() {
                acked += connection.wire.acked();
            } else if connection.ready {
                connection.wire.settle(&mut connection.out);
                if !connection.out.is_empty() && !connection.dirty {
                    connection.dirty = true;
                    self.dirty.push(at);
                }
            }
        }
        if let Some(thread) = self.shared.progress.get(self.index) {
            thread.acked.store(acked, Release);
        }
    }

    /// One write for each connection that has something to send.
    fn flush(&mut self) -> anyhow::Result<()> {
        let mut dirty = std::mem::take(&mut self.dirty);
        for at in dirty.drain(..) {
            let Some(connection) = self.connections.get_mut(at) else { continue };
            connection.dirty = false;
            if connection.blocked {
                continue;
            }
            let behind = connection.written > 0;
            let rest = connection.out.get(connection.written..).unwrap_or_default();
            match connection.stream.write(rest) {
                Ok(written) if written == rest.len() => {
                    connection.out.clear();
                    connection.written = 0;
                }
                Ok(written) => {
                    connection.written += written;
                    connection.blocked = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => connection.blocked = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => connection.blocked = true,
                Err(_) if self.closing => {}
                Err(error) => return Err(error).context("a connection broke"),
            }
            // The window may have opened while the socket was full.
            let publisher = connection.publisher.as_mut().filter(|it| behind && !it.listed);
            if let Some(publisher) = publisher.filter(|_| connection.written == 0) {
                publisher.listed = true;
                self.pumps.push(at);
            }
        }
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
        Ok(())
    }

    fn close(&mut self, events: &mut Events) {
        self.closing = true;
        for (at, connection) in self.connections.iter_mut().enumerate() {
            connection.wire.settle(&mut connection.out);
            connection.wire.close(&mut connection.out);
            connection.dirty = true;
            self.dirty.push(at);
        }
        let until = Instant::now() + Duration::from_millis(100);
        while Instant::now() < until {
            // What goes wrong while saying goodbye is of no interest any more.
            if self.turn(events, Duration::from_millis(5)).is_err() {
                return;
            }
        }
    }
}
