//! One run: threads, phases, and what is read off the counters between them.
//!
//! Subscribers are confirmed before publishers connect, publishers before anything is sent. Then: warm-up,
//! measured time, and a rest in which the last messages may arrive, all bounded.
//! Never: counts what was delivered before or after the measured time as throughput.

use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::account::{Bitmap, Faults, Ledger, Tally};
use crate::amqp10::Amqp10;
use crate::amqp091::Amqp091;
use crate::files;
use crate::histogram::Histogram;
use crate::jetstream::Jetstream;
use crate::mqtt::Mqtt;
use crate::options::{Pattern, Protocol, Spec};
use crate::pattern::Plan;
use crate::process::{self, Usage};
use crate::report::{Reading, Report, Subscribed};
use crate::retained;
use crate::stomp::Stomp;
use crate::wire::{Role, Terms, Wire};
use crate::worker::{Job, Pace, Worker};

/// Until all connections are ready.
const READY: Duration = Duration::from_secs(30);
const READY_CROWD: Duration = Duration::from_secs(120);
/// Without a delivery for so long, what is missing is taken for lost.
const QUIET: Duration = Duration::from_millis(1_500);
/// For the last messages, however busy it is.
const DRAIN: Duration = Duration::from_secs(15);
/// A run by count ends after this at the latest.
const COUNT_MAX: Duration = Duration::from_secs(600);

/// What one thread tells the others.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Progress {
    pub delivered: AtomicU64,
    pub sent: AtomicU64,
    pub acked: AtomicU64,
}

/// What all threads of a run share.
#[derive(Debug)]
pub(crate) struct Shared {
    clock: Instant,
    pub run: u32,
    pub threads: usize,
    pub subscribers: usize,
    /// When sending starts; `u64::MAX` until known.
    pub begin_ns: AtomicU64,
    measure_ns: AtomicU64,
    end_ns: AtomicU64,
    pub subscribers_ready: AtomicUsize,
    pub publishers_ready: AtomicUsize,
    pub stopping: AtomicBool,
    /// Deliveries of each publisher's messages.
    pub delivered: Vec<AtomicU64>,
    pub progress: Vec<Progress>,
}

impl Shared {
    fn new(spec: &Spec, plan: &Plan) -> Self {
        Self {
            clock: Instant::now(),
            run: spec.run,
            threads: spec.threads,
            subscribers: plan.subscribers.len(),
            begin_ns: AtomicU64::new(u64::MAX),
            measure_ns: AtomicU64::new(u64::MAX),
            end_ns: AtomicU64::new(u64::MAX),
            subscribers_ready: AtomicUsize::new(0),
            publishers_ready: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            delivered: plan.publishers.iter().map(|_| AtomicU64::new(0)).collect(),
            progress: (0..spec.threads).map(|_| Progress::default()).collect(),
        }
    }

    #[inline]
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    #[inline]
    pub(crate) fn sending(&self, now: u64) -> bool {
        now >= self.begin_ns.load(Acquire) && now < self.end_ns.load(Acquire)
    }

    #[inline]
    pub(crate) fn measuring(&self, now: u64) -> bool {
        now >= self.measure_ns.load(Acquire) && now < self.end_ns.load(Acquire)
    }

    /// Deliveries of all threads.
    pub(crate) fn total_delivered(&self) -> u64 {
        self.sum(|progress| &progress.delivered)
    }

    fn sum(&self, of: impl Fn(&Progress) -> &AtomicU64) -> u64 {
        self.progress.iter().map(|progress| of(progress).load(Acquire)).sum()
    }
}

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Snapshot {
    at_ns: u64,
    delivered: u64,
    broker: Usage,
    own: Usage,
}

impl Snapshot {
    /// What it took to get here from the start of the run, for each subscription.
    #[expect(clippy::cast_precision_loss, reason = "bytes and counts are far below 2^52")]
    fn figures(&self, before: &Usage, spec: &Spec) -> Subscribed {
        let count = f64::from(spec.topics);
        Subscribed {
            per_second: count * 1e9 / (self.at_ns.max(1) as f64),
            bytes_each: spec.pid.map(|_| self.broker.rss.saturating_sub(before.rss) as f64 / count),
        }
    }
}

/// Runs `spec` to its end.
///
/// # Errors
///
/// The broker cannot be reached, refuses, closes a connection, or does not get ready in time.
pub(crate) fn run(spec: &Spec) -> anyhow::Result<Report> {
    if matches!(spec.pattern, Pattern::Retain | Pattern::Replay) {
        return retained::run(spec);
    }
    let plan = Plan::new(spec);
    let before = spec.pid.map(process::tree).unwrap_or_default();
    files::make_room(plan.publishers.len() + plan.subscribers.len())?;
    let shared = Shared::new(spec, &plan);
    let mut jobs = jobs(spec, &plan);
    let counts: Vec<u64> = jobs.iter().map(|jobs| publishers_of(jobs)).collect();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (index, (jobs, publishers)) in jobs.drain(..).zip(counts).enumerate() {
            let (shared, pace, all) = (&shared, pace(spec, &plan, publishers), plan.publishers.len());
            threads.push(scope.spawn(move || {
                let result = Worker::new(shared, index, pace, all).and_then(|it| it.run(spec.address, jobs));
                if result.is_err() {
                    shared.stopping.store(true, Release);
                }
                result
            }));
        }
        let observed = observe(spec, &plan, &shared);
        shared.stopping.store(true, Release);
        let mut tallies = Vec::new();
        let mut failure = None;
        for thread in threads {
            match thread.join() {
                Ok(Ok(tally)) => tallies.push(tally),
                // "Stopped" is only the echo of another thread's trouble.
                Ok(Err(error)) if failure.is_none() || format!("{error}") != "the run was stopped" => {
                    failure = Some(error);
                }
                Ok(Err(_)) => {}
                Err(_) => bail!("a thread of the generator panicked"),
            }
        }
        if let Some(error) = failure {
            return match observed {
                Err(reason) if format!("{error}") == "the run was stopped" => Err(reason),
                _ => Err(error),
            };
        }
        let (subscribed, first, last) = observed?;
        if last.delivered == first.delivered {
            bail!("nothing was delivered in the measured time");
        }
        let mut report = report(spec, &plan, tallies, first, last);
        report.subscribed = (spec.pattern == Pattern::Crowd).then(|| subscribed.figures(&before, spec));
        Ok(report)
    })
}

/// Leads the run through its phases and reads the counters at both ends of the measured time.
fn observe(spec: &Spec, plan: &Plan, shared: &Shared) -> anyhow::Result<(Snapshot, Snapshot, Snapshot)> {
    let ready = || (shared.subscribers_ready.load(Acquire), shared.publishers_ready.load(Acquire));
    let all = (plan.subscribers.len(), plan.publishers.len());
    let patience = Instant::now() + if spec.pattern == Pattern::Crowd { READY_CROWD } else { READY };
    let mut subscribed = None;
    while ready() != all {
        nap(shared)?;
        if subscribed.is_none() && ready().0 == all.0 {
            subscribed = Some(snapshot(spec, shared));
        }
        if Instant::now() > patience {
            let (subscribers, publishers) = ready();
            bail!(
                "only {subscribers} of {} subscribers and {publishers} of {} publishers were ready after {READY:?}",
                all.0,
                all.1
            );
        }
    }
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let begin = shared.now_ns() + 2_000_000;
    let measure = begin + nanos(spec.warm_up);
    let end = measure + nanos(if spec.count.is_some() { COUNT_MAX } else { spec.duration });
    shared.measure_ns.store(measure, Release);
    shared.end_ns.store(end, Release);
    shared.begin_ns.store(begin, Release);
    sleep_until(shared, measure)?;
    let first = snapshot(spec, shared);
    if let Some(count) = spec.count {
        let wanted = count * plan.publishers.len() as u64;
        until_quiet(shared, end, || {
            shared.sum(|it| &it.sent) >= wanted && shared.total_delivered() >= wanted * plan.copies
        })?;
        shared.end_ns.store(shared.now_ns(), Release);
    } else {
        sleep_until(shared, end)?;
    }
    let last = snapshot(spec, shared);
    // One turn of every thread after the end, so that the numbers of sent messages are final.
    thread::sleep(Duration::from_millis(30));
    let until = shared.now_ns() + nanos(DRAIN);
    until_quiet(shared, until, || {
        let sent = shared.sum(|it| &it.sent);
        shared.total_delivered() >= sent * plan.copies && shared.sum(|it| &it.acked) >= sent
    })?;
    Ok((subscribed.unwrap_or(first), first, last))
}

/// Waits for `done`, for silence, or for `until_ns`.
fn until_quiet(shared: &Shared, until_ns: u64, done: impl Fn() -> bool) -> anyhow::Result<()> {
    let mut last = (u64::MAX, shared.now_ns());
    while !done() && shared.now_ns() < until_ns {
        nap(shared)?;
        let moved = shared.total_delivered() + shared.sum(|it| &it.acked);
        if moved != last.0 {
            last = (moved, shared.now_ns());
        } else if u128::from(shared.now_ns() - last.1) > QUIET.as_nanos() {
            break;
        }
    }
    Ok(())
}

fn nap(shared: &Shared) -> anyhow::Result<()> {
    if shared.stopping.load(Acquire) {
        bail!("the run was stopped");
    }
    thread::sleep(Duration::from_millis(2));
    Ok(())
}

fn sleep_until(shared: &Shared, at_ns: u64) -> anyhow::Result<()> {
    loop {
        let left = at_ns.saturating_sub(shared.now_ns());
        if left == 0 {
            return Ok(());
        }
        if shared.stopping.load(Acquire) {
            bail!("the run was stopped");
        }
        thread::sleep(Duration::from_nanos(left.min(50_000_000)));
    }
}

fn snapshot(spec: &Spec, shared: &Shared) -> Snapshot {
    let broker = spec.pid.map(process::tree).unwrap_or_default();
    Snapshot { own: process::own(), broker, delivered: shared.total_delivered(), at_ns: shared.now_ns() }
}

fn publishers_of(jobs: &[Job]) -> u64 {
    jobs.iter().filter(|job| matches!(job.role, Role::Publisher { .. })).count() as u64
}

fn pace(spec: &Spec, plan: &Plan, own: u64) -> Pace {
    let all = plan.publishers.len().max(1) as u64;
    #[expect(clippy::cast_precision_loss, reason = "rates are far below 2^52")]
    let interval_ns = spec.rate.map(|rate| 1e9 * all as f64 / (rate as f64 * own.max(1) as f64));
    Pace {
        window: (spec.window / (all * plan.copies)).max(1),
        copies: plan.copies,
        limit: spec.count.unwrap_or(u64::MAX),
        interval_ns,
        size: spec.size,
        store: spec.pattern == Pattern::Store,
    }
}

/// The connections of each thread; the two ends of a pair share one.
fn jobs(spec: &Spec, plan: &Plan) -> Vec<Vec<Job>> {
    let terms = spec.terms();
    let mut threads: Vec<Vec<Job>> = (0..spec.threads).map(|_| Vec::new()).collect();
    let publishers = u32::try_from(plan.publishers.len()).unwrap_or(u32::MAX);
    let mut give = |index: u32, role: Role, ledger: Ledger| {
        let name = match role {
            Role::Publisher { .. } => format!("bench-{:08x}-p{index}", spec.run),
            Role::Subscriber { .. } => format!("bench-{:08x}-s{index}", spec.run),
        };
        let wire = wire(spec.protocol, &terms, &role, name);
        if let Some(jobs) = threads.get_mut(index as usize % spec.threads) {
            jobs.push(Job { role, ledger, wire });
        }
    };
    for (index, reader) in (0u32..).zip(&plan.subscribers) {
        let ledger = match reader.hears {
            Some((first, count)) => Ledger::whole(first, count),
            None => Ledger::shared(publishers),
        };
        give(
            index,
            Role::Subscriber { source: reader.source.clone(), more: reader.more.clone(), index },
            ledger,
        );
    }
    for (index, targets) in (0u32..).zip(&plan.publishers) {
        give(index, Role::Publisher { id: index, targets: targets.clone() }, Ledger::whole(0, 0));
    }
    threads
}

fn wire(protocol: Protocol, terms: &Terms, role: &Role, name: String) -> Box<dyn Wire> {
    match protocol {
        Protocol::Mqtt => Box::new(Mqtt::new(false, terms, role, name)),
        Protocol::Mqtt5 => Box::new(Mqtt::new(true, terms, role, name)),
        Protocol::Stomp => Box::new(Stomp::new(terms, role)),
        Protocol::Amqp091 => Box::new(Amqp091::new(terms, role)),
        Protocol::Amqp10 => Box::new(Amqp10::new(terms, role, name)),
        Protocol::Jetstream => Box::new(Jetstream::new(terms, role)),
    }
}

fn report(spec: &Spec, plan: &Plan, tallies: Vec<(Tally, u64)>, first: Snapshot, last: Snapshot) -> Report {
    let mut faults = Faults::default();
    let mut latency = Histogram::new();
    let (mut sent, mut delivered) = (0, 0);
    let mut seen: Vec<Bitmap> = Vec::new();
    for (tally, own) in tallies {
        sent += own;
        delivered += tally.delivered;
        faults.duplicates += tally.faults.duplicates;
        faults.reordered += tally.faults.reordered;
        faults.foreign += tally.faults.foreign;
        latency.merge(&tally.latency);
        if seen.is_empty() {
            seen = tally.seen;
        } else {
            let twice: u64 = seen.iter_mut().zip(&tally.seen).map(|(all, own)| all.merge(own)).sum();
            faults.duplicates += twice;
            delivered -= twice;
        }
    }
    let with_pid = spec.pid.is_some();
    let reading = Reading {
        sent,
        delivered,
        lost: (sent * plan.copies).saturating_sub(delivered),
        faults,
        elapsed: Duration::from_nanos(last.at_ns - first.at_ns),
        measured: last.delivered - first.delivered,
        broker_cpu_s: with_pid.then_some(last.broker.cpu_s - first.broker.cpu_s),
        own_cpu_s: last.own.cpu_s - first.own.cpu_s,
        broker_rss: with_pid.then_some(last.broker.rss),
    };
    Report::new(&reading, &latency)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn answer(stream: &mut TcpStream, packet_len: usize, with: &[u8]) {
        let mut packet = vec![0; packet_len];
        stream.read_exact(&mut packet).unwrap();
        stream.write_all(with).unwrap();
    }

    /// A broker for one pair at QoS 0, where what is delivered is what was published: it copies frame by frame and
    /// asks `copies` how often.
    fn broker(listener: TcpListener, copies: fn(usize) -> usize) {
        let connect = 2 + 10 + 2 + "bench-00000007-s0".len();
        let (mut subscriber, _) = listener.accept().unwrap();
        answer(&mut subscriber, connect, &[0x20, 2, 0, 0]);
        let topic = "bench/00000007/00000".len();
        answer(&mut subscriber, 2 + 2 + 2 + topic + 1, &[0x90, 3, 0, 1, 0]);
        let (mut publisher, _) = listener.accept().unwrap();
        answer(&mut publisher, connect, &[0x20, 2, 0, 0]);
        let mut frame = vec![0; 2 + 2 + topic + 64];
        for number in 0.. {
            if publisher.read_exact(&mut frame).is_err() {
                return;
            }
            for _ in 0..copies(number) {
                if subscriber.write_all(&frame).is_err() {
                    return;
                }
            }
        }
    }

    fn check(copies: fn(usize) -> usize, delivered: u64, lost: u64, duplicates: u64) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let spec = Spec {
            run: 7,
            address: listener.local_addr().unwrap(),
            publishers: 1,
            subscribers: 1,
            count: Some(500),
            warm_up: Duration::ZERO,
            ..Spec::default()
        };
        let broker = thread::spawn(move || broker(listener, copies));
        let report = run(&spec).unwrap();
        broker.join().unwrap();
        assert_eq!((report.sent, report.delivered), (500, delivered));
        assert_eq!((report.lost, report.faults.duplicates, report.faults.reordered), (lost, duplicates, 0));
        assert_eq!(report.clean(), lost + duplicates == 0);
        assert!(report.latency_us.p50 > 0.0);
    }

    #[test]
    fn a_faithful_broker_is_clean() {
        check(|_| 1, 500, 0, 0);
    }

    #[test]
    fn loss_and_duplicates_are_seen() {
        check(|number| if number == 3 { 0 } else { 1 + usize::from(number == 9) }, 499, 1, 1);
    }

    /// Bytes of every kind, at random and as damaged beginnings, are taken or refused, never more than there are.
    #[test]
    fn no_input_panics_or_is_taken_twice() {
        let protocols = [
            Protocol::Mqtt,
            Protocol::Mqtt5,
            Protocol::Stomp,
            Protocol::Amqp091,
            Protocol::Amqp10,
            Protocol::Jetstream,
        ];
        let starts: [&[u8]; 7] = [
            b"MSG _INBOX.1 1 3\r\nabc\r\nPING\r\n",
            &[0x20, 2, 0, 0, 0x30, 9, 0, 1, b'a'],
            b"MESSAGE\nack:1\ncontent-length:3\n\nabc\0",
            &[1, 0, 1, 0, 0, 0, 13, 0, 60, 0, 60, 1, b'c', 0, 0, 0, 0, 0, 0, 0, 1, 0xCE],
            &[0, 0, 0, 20, 2, 0, 0, 0, 0, 0x53, 0x14, 0xC0, 7, 4, 0x43, 0x43, 0xA0, 1, 0, 0x43],
            b"AMQP\0\x01\0\0",
            &[],
        ];
        let seed = crate::options::fresh_run();
        let mut state = u64::from(seed) | 1;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 40).unwrap()
        };
        for round in 0..20_000 {
            let mut input = starts[random() % starts.len()].to_vec();
            input.extend((0..random() % 40).map(|_| u8::try_from(random() % 256).unwrap()));
            for _ in 0..random() % 4 {
                let at = random() % input.len().max(1);
                if let Some(byte) = input.get_mut(at) {
                    *byte = u8::try_from(random() % 256).unwrap();
                }
            }
            let protocol = protocols[round % protocols.len()];
            let role = match random() % 2 {
                0 => Role::Publisher { id: 0, targets: vec!["a".into()] },
                _ => Role::Subscriber { source: "a".into(), more: Vec::new(), index: 0 },
            };
            let mut wire = wire(protocol, &Spec::default().terms(), &role, "c".into());
            let (mut ledger, mut tally) = (Ledger::whole(0, 1), Tally::new(0, 1));
            let mut out = Vec::new();
            let mut sink = crate::account::Sink {
                ledger: &mut ledger,
                tally: &mut tally,
                now_ns: 0,
                measuring: false,
                run_of: (0, 0),
            };
            if let Ok(taken) = wire.read(&input, &mut out, &mut sink) {
                assert!(taken <= input.len(), "seed {seed}, round {round}: {protocol:?} {input:?}");
            }
            assert!(out.len() <= 4096, "seed {seed}, round {round}: {protocol:?} {input:?}");
        }
    }

    #[test]
    fn nobody_there_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = run(&Spec { address, ..Spec::default() }).unwrap_err();
        assert!(error.to_string().contains("cannot connect"), "{error}");
    }
}
