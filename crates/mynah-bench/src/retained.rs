//! Retained messages: how fast one publisher stores them, and how fast one subscriber is sent all of them.
//!
//! Blocking sockets and QoS 0: what is measured are messages, not confirms. "Stored" ends with the answer to a PINGREQ behind
//! the last PUBLISH, which a broker answers in order; "sent" with the last PUBLISH of a new subscription to all topics. Both are
//! repeated until the measured time is over, and the topics are cleared at the end.
//! Never: leaves a retained message behind in a broker that answers.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::account::Faults;
use crate::histogram::Histogram;
use crate::mqtt;
use crate::options::{Pattern, Spec};
use crate::payload::Stamp;
use crate::process;
use crate::report::{Reading, Report};

/// For an answer, and between two retained messages.
const PATIENCE: Duration = Duration::from_secs(30);
const RETAIN: u8 = 1;

/// One connection, with what was read and not used.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    at: usize,
}

impl Client {
    fn connect(spec: &Spec, name: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&spec.address, PATIENCE).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut client = Self { stream, buffer: Vec::new(), at: 0 };
        let mut packet = Vec::new();
        let id = format!("bench-{:08x}-{name}", spec.run);
        mqtt::connect(false, &id, spec.user.as_deref(), &spec.password, &mut packet);
        client.stream.write_all(&packet)?;
        client.next(|first, body| (first == 0x20 && body == [0, 0]).then_some(()))?;
        Ok(client)
    }

    /// The first packet that `wanted` makes something of; others are left out.
    fn next<T>(&mut self, mut wanted: impl FnMut(u8, &[u8]) -> Option<T>) -> anyhow::Result<T> {
        loop {
            let rest = self.buffer.get(self.at..).unwrap_or_default();
            match mqtt::packet(rest).map_err(|fault| anyhow::anyhow!(fault.0))? {
                Some((first, body, len)) => {
                    self.at += len;
                    if let Some(found) = wanted(first, body) {
                        return Ok(found);
                    }
                }
                None => self.fill()?,
            }
        }
    }

    fn fill(&mut self) -> anyhow::Result<()> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let kept = self.buffer.len();
        self.buffer.resize(kept + (256 << 10), 0);
        let got = self.stream.read(self.buffer.get_mut(kept..).unwrap_or_default());
        let got = got.context("no answer from the broker")?;
        self.buffer.truncate(kept + got);
        ensure!(got > 0, "the broker closed a connection");
        Ok(())
    }

    /// Writes, and waits until the broker has come to the end of it.
    fn store(&mut self, packets: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(packets)?;
        self.stream.write_all(&[0xC0, 0])?;
        self.next(|first, _| (first == 0xD0).then_some(()))
    }

    /// Subscribes to all topics and reads until all have come, or nothing more comes; answers how many different ones.
    fn replay(&mut self, spec: &Spec, seen: &mut Seen) -> anyhow::Result<()> {
        let filter = format!("bench/{:08x}/#", spec.run);
        let mut packet = Vec::new();
        mqtt::subscribe(false, 0, &filter, &mut packet);
        self.stream.write_all(&packet)?;
        seen.begin();
        while seen.topics.len() < spec.topics as usize {
            self.next(|first, body| {
                if first >> 4 != 3 {
                    return None;
                }
                seen.take(first, body, spec.run);
                Some(())
            })?;
        }
        packet.clear();
        let mut body = vec![0, 2];
        mqtt::put_text(&filter, &mut body);
        mqtt::put_packet(0xA2, &body, &mut packet);
        self.stream.write_all(&packet)?;
        self.next(|first, _| (first == 0xB0).then_some(()))
    }
}

/// What one subscription was sent.
#[derive(Default)]
struct Seen {
    topics: HashSet<u64>,
    delivered: u64,
    faults: Faults,
}

impl Seen {
    fn begin(&mut self) {
        self.topics.clear();
    }

    fn take(&mut self, first: u8, body: &[u8], run: u32) {
        let topic = usize::from(crate::wire::u16_at(body, 0).unwrap_or(0));
        let stamp = body.get(2 + topic..).and_then(Stamp::read).filter(|stamp| stamp.run == run);
        match stamp {
            Some(stamp) if first & RETAIN != 0 => {
                if self.topics.insert(stamp.sequence) {
                    self.delivered += 1;
                } else {
                    self.faults.duplicates += 1;
                }
            }
            _ => self.faults.foreign += 1,
        }
    }
}

/// One PUBLISH for each topic: its retained message, or nothing, which clears it.
fn packets(spec: &Spec, clear: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for index in 0..spec.topics {
        let stamp = Stamp { run: spec.run, publisher: 0, sequence: u64::from(index), sent_ns: 0 };
        let payload = if clear { Vec::new() } else { stamp.payload(spec.size) };
        let mut body = Vec::new();
        mqtt::put_text(&format!("bench/{:08x}/{:03}/{index:07}", spec.run, index % 1_000), &mut body);
        body.extend_from_slice(&payload);
        mqtt::put_packet(0x30 | RETAIN, &body, &mut out);
    }
    out
}

/// Runs `spec` to its end.
pub(crate) fn run(spec: &Spec) -> anyhow::Result<Report> {
    let mut publisher = Client::connect(spec, "p0")?;
    let mut subscriber = Client::connect(spec, "s0")?;
    let stored = packets(spec, false);
    publisher.store(&stored).context("storing")?;
    let mut seen = Seen::default();
    let usage = || spec.pid.map(process::tree).unwrap_or_default();
    let (first, own, started) = (usage(), process::own(), Instant::now());
    let mut passes = 0;
    while passes == 0 || started.elapsed() < spec.duration {
        match spec.pattern {
            Pattern::Retain => publisher.store(&stored)?,
            Pattern::Replay => subscriber.replay(spec, &mut seen)?,
            Pattern::Pairs
            | Pattern::Scattered
            | Pattern::FanIn
            | Pattern::FanOut
            | Pattern::Queue
            | Pattern::Store
            | Pattern::Crowd => bail!("no pattern of retained messages"),
        }
        passes += 1;
    }
    let (elapsed, last, own_last) = (started.elapsed(), usage(), process::own());
    let measured = passes * u64::from(spec.topics);
    if spec.pattern == Pattern::Retain {
        // What was stored is there.
        subscriber.replay(spec, &mut seen)?;
        seen.delivered = measured;
    }
    publisher.store(&packets(spec, true)).context("clearing")?;
    let with_pid = spec.pid.is_some();
    let reading = Reading {
        sent: measured,
        delivered: seen.delivered,
        lost: measured.saturating_sub(seen.delivered),
        faults: seen.faults,
        elapsed,
        measured,
        broker_cpu_s: with_pid.then_some(last.cpu_s - first.cpu_s),
        own_cpu_s: own_last.cpu_s - own.cpu_s,
        broker_rss: with_pid.then_some(last.rss),
    };
    Ok(Report::new(&reading, &Histogram::new()))
}
