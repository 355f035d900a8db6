//! `mynah bench peers`: Mynah and the brokers of this machine, side by side in one run.
//!
//! All brokers run during all rounds; a round goes through the rows, and in each row from broker to broker, starting
//! with another one in each round, and each runs when all have come to rest after the one before. What is compared are
//! medians over the rounds.
//! Never: compares figures of different runs.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::broker::{self, Broker};
use crate::report::{Report, thousands, write_out};
use crate::rows::{DELAY_PEER, Kind, Row, rows};
use crate::{engine, files, idle, markdown, process};

/// Idle connections: for most, and for brokers that need a quarter of a megabyte for each.
const IDLE: usize = 10_000;
const IDLE_HEAVY: usize = 1_000;

/// A broker that still tidies up after its own row would take CPU from the next one: all are at rest when they use less
/// than this in this time, and nobody waits longer than that for it.
const REST_CPU_S: f64 = 0.02;
const REST_LOOK: Duration = Duration::from_millis(400);
const REST_MAX: Duration = Duration::from_secs(20);

/// Options of `mynah bench peers`.
#[derive(Args, Clone, Debug)]
pub struct PeersArgs {
    /// Program of Mynah [default: this program]
    #[arg(long)]
    pub mynah: Option<PathBuf>,
    /// Measure the peers only
    #[arg(long, conflicts_with_all = ["mynah", "check"])]
    pub without_mynah: bool,
    /// Look for the peers' programs here first
    #[arg(long)]
    pub peers: Vec<PathBuf>,
    /// Alternating rounds
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Measured seconds of each run
    #[arg(long, default_value_t = 2.0)]
    pub duration: f64,
    /// Seconds of warm-up of each run
    #[arg(long, default_value_t = 0.5)]
    pub warm_up: f64,
    /// One short round, to see that all works
    #[arg(long)]
    pub quick: bool,
    /// Only rows whose name contains this; may be given more than once
    #[arg(long)]
    pub only: Vec<String>,
    /// Write the tables to this file, as Markdown
    #[arg(long)]
    pub output: Option<PathBuf>,
    /// End with an error when a floor is missed
    #[arg(long)]
    pub check: bool,
}

/// The medians of one broker in one row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    pub reports: Vec<Report>,
    /// Why the broker cannot do it.
    pub failed: Option<String>,
}

/// All that was measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub brokers: Vec<Facts>,
    pub rows: Vec<Row>,
    pub cells: BTreeMap<(usize, Kind), Cell>,
    pub rounds: usize,
    pub seconds: f64,
}

/// One broker apart from the rows.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub kind: Kind,
    pub version: String,
    pub started_in: Duration,
    pub rss_idle: u64,
    pub program_bytes: u64,
    /// Resident bytes for an idle connection, and how many there were.
    pub idle: Option<(f64, usize)>,
}

impl Cell {
    /// The median of a figure over the rounds.
    pub(crate) fn median(&self, figure: impl Fn(&Report) -> f64) -> Option<f64> {
        let mut values: Vec<f64> = self.reports.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        let upper = values.get(values.len() / 2).copied()?;
        if values.len() % 2 == 1 {
            return Some(upper);
        }
        let lower = values.get(values.len() / 2 - 1).copied()?;
        Some(f64::midpoint(lower, upper))
    }

    pub(crate) fn speed(&self) -> Option<f64> {
        self.median(|report| report.per_second)
    }

    /// CPU microseconds a delivery, which are CPU seconds a million.
    pub(crate) fn cpu(&self) -> Option<f64> {
        self.median(|report| report.broker_cpu_us.unwrap_or(0.0))
    }
}

impl Results {
    pub(crate) fn cell(&self, row: usize, kind: Kind) -> Option<&Cell> {
        self.cells.get(&(row, kind)).filter(|cell| !cell.reports.is_empty())
    }

    /// Every floor that was missed, as sentences.
    pub(crate) fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        for (index, row) in self.rows.iter().enumerate() {
            let Some(mynah) = self.cell(index, Kind::Mynah) else {
                missed.push(format!("{}: mynah has no figure", row.name));
                continue;
            };
            missed.extend(faults(row, mynah));
            missed.extend(mynah.failed.as_ref().map(|why| format!("{}: {why}", row.name)));
            if row.open_loop() {
                missed.extend(self.delay_missed(index, row, mynah));
            }
            let Some(floor) = row.floor else { continue };
            let Some(peer) = self.cell(index, floor.peer) else {
                missed.push(format!("{}: {} was not measured", row.name, floor.peer.name()));
                continue;
            };
            let ratio = ratio(mynah.speed(), peer.speed());
            if ratio < floor.speed {
                missed.push(format!("{}: {ratio:.1}x {}, not {}x", row.name, floor.peer.name(), floor.speed));
            }
            let cpu_ratio = self::ratio(mynah.cpu(), peer.cpu());
            if floor.cpu.is_some_and(|share| cpu_ratio > share) {
                let (name, share) = (floor.peer.name(), floor.cpu.unwrap_or_default());
                missed
                    .push(format!("{}: {cpu_ratio:.2} of {name}'s CPU a message, not {share:.2}", row.name));
            }
        }
        missed.extend(self.size_missed());
        missed
    }

    /// At a given rate nobody waits longer than at the peer that is quickest there.
    fn delay_missed(&self, index: usize, row: &Row, mynah: &Cell) -> Vec<String> {
        let Some(peer) = self.cell(index, DELAY_PEER) else {
            return vec![format!("{}: {} was not measured", row.name, DELAY_PEER.name())];
        };
        let medians = |figure: fn(&Report) -> f64| mynah.median(figure).zip(peer.median(figure));
        let figures = [("p50", medians(|it| it.latency_us.p50)), ("p99", medians(|it| it.latency_us.p99))];
        let over = figures.into_iter().filter_map(|(name, pair)| {
            let (ours, theirs) = pair?;
            let text = || format!("{}: {name} {ours:.0} us, {} {theirs:.0} us", row.name, DELAY_PEER.name());
            (ours > theirs).then(text)
        });
        over.collect()
    }

    /// The floors of size: program, start, memory.
    fn size_missed(&self) -> Vec<String> {
        let Some(mynah) = self.brokers.iter().find(|facts| facts.kind == Kind::Mynah) else {
            return Vec::new();
        };
        let mut missed = Vec::new();
        if mynah.program_bytes >= 25_000_000 {
            missed.push(format!("the program has {} bytes, not under 25 MB", mynah.program_bytes));
        }
        if mynah.started_in >= Duration::from_millis(300) {
            missed.push(format!("start to ready took {:?}, not under 300 ms", mynah.started_in));
        }
        if mynah.rss_idle >= 20_000_000 {
            missed.push(format!("{} bytes resident when idle, not under 20 MB", mynah.rss_idle));
        }
        match mynah.idle {
            Some((bytes, _)) if bytes < 2_048.0 => {}
            Some((bytes, _)) => missed.push(format!("{bytes:.0} bytes an idle connection, not under 2 KiB")),
            None => missed.push("idle connections were not measured".to_owned()),
        }
        missed
    }
}

/// What must not happen in any row: loss, duplicates, reordering.
fn faults(row: &Row, cell: &Cell) -> Option<String> {
    let sum = |count: fn(&Report) -> u64| cell.reports.iter().map(count).sum::<u64>();
    let (lost, duplicates, reordered) =
        (sum(|it| it.lost), sum(|it| it.faults.duplicates), sum(|it| it.faults.reordered));
    (lost + duplicates + reordered > 0)
        .then(|| format!("{}: {lost} lost, {duplicates} duplicates, {reordered} reordered", row.name))
}

/// One figure over another; 0 where one is missing.
pub(crate) fn ratio(ours: Option<f64>, theirs: Option<f64>) -> f64 {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if theirs > 0.0 => ours / theirs,
        _ => 0.0,
    }
}

/// Starts what there is, measures, prints, and writes.
///
/// # Errors
///
/// Mynah does not start, nothing can be measured, the output cannot be written, or with `--check` a floor is missed.
pub(crate) fn run(args: &PeersArgs) -> anyhow::Result<()> {
    files::make_room(IDLE)?;
    let rounds = if args.quick { 1 } else { args.rounds.max(1) };
    let (duration, warm_up) = if args.quick { (0.5, 0.2) } else { (args.duration, args.warm_up) };
    let time = |seconds| Duration::try_from_secs_f64(seconds).context("--duration and --warm-up are seconds");
    let folder = env::temp_dir().join(format!("mynah-bench-{}", std::process::id()));
    let result = measure(args, rounds, time(duration)?, time(warm_up)?, &folder);
    // The folder is ours alone; what cannot be removed now is only temporary files.
    let _removed = fs::remove_dir_all(&folder);
    let results = result?;
    let missed = if args.without_mynah { Vec::new() } else { results.missed() };
    write_out(&format!("\n{}", markdown::tables(&results)))?;
    for text in &missed {
        write_out(&format!("missed: {text}\n"))?;
    }
    if let Some(output) = &args.output {
        fs::write(output, markdown::page(&results, &missed))
            .with_context(|| format!("cannot write {}", output.display()))?;
    }
    ensure!(!args.check || missed.is_empty(), "{} floors were missed", missed.len());
    Ok(())
}

fn measure(
    args: &PeersArgs,
    rounds: usize,
    duration: Duration,
    warm_up: Duration,
    folder: &Path,
) -> anyhow::Result<Results> {
    let brokers = start_all(args, folder)?;
    let wanted =
        |row: &Row| args.only.is_empty() || args.only.iter().any(|only| row.name.contains(only.as_str()));
    let rows: Vec<Row> = rows(duration, warm_up).into_iter().filter(wanted).collect();
    ensure!(!rows.is_empty(), "no row has that in its name");
    let mut results =
        Results { rounds, seconds: duration.as_secs_f64(), rows: rows.clone(), ..Results::default() };
    for round in 0..rounds {
        for (index, row) in rows.iter().enumerate() {
            let fitting: Vec<&Broker> = brokers.iter().filter(|broker| row.fits(broker.kind)).collect();
            for turn in 0..fitting.len() {
                let Some(broker) = fitting.get((round + turn) % fitting.len()) else { continue };
                let cell = results.cells.entry((index, broker.kind)).or_default();
                write_out(&format!("round {}  {:38} {:12} ", round + 1, row.name, broker.kind.name()))?;
                await_rest(&brokers);
                write_out(&one(broker, row, cell))?;
            }
        }
    }
    results.brokers = sizes(brokers, folder, args.quick)?;
    Ok(results)
}

fn await_rest(brokers: &[Broker]) {
    let used = || brokers.iter().map(|broker| process::tree(broker.pid()).cpu_s).sum::<f64>();
    let (since, mut before) = (Instant::now(), used());
    while since.elapsed() < REST_MAX {
        thread::sleep(REST_LOOK);
        let after = used();
        if after - before <= REST_CPU_S {
            return;
        }
        before = after;
    }
}

/// One run of one broker in one row; answers the line about it.
fn one(broker: &Broker, row: &Row, cell: &mut Cell) -> String {
    if let Some(why) = &cell.failed {
        return format!("- ({why})\n");
    }
    match engine::run(&broker.aim(&row.spec)) {
        Ok(report) => {
            let speed = thousands(report.per_second);
            let note = if report.clean() {
                String::new()
            } else {
                let faults = report.faults;
                format!("  lost {} dup {} reordered {}", report.lost, faults.duplicates, faults.reordered)
            };
            let subscribed = report.subscribed.map_or_else(String::new, |it| {
                let bytes = it.bytes_each.map_or_else(String::new, thousands);
                format!("  subscribed {}/s {bytes} bytes", thousands(it.per_second))
            });
            let line = format!(
                "{speed:>12}/s  {:>8.3} us CPU  p50 {:>7.0} us  p99 {:>7.0} us{subscribed}{note}\n",
                report.broker_cpu_us.unwrap_or(0.0),
                report.latency_us.p50,
                report.latency_us.p99
            );
            cell.reports.push(report);
            line
        }
        Err(error) => {
            let why = format!("{error:#}");
            let line = format!("- ({why})\n");
            cell.failed = Some(why);
            line
        }
    }
}

fn start_all(args: &PeersArgs, folder: &Path) -> anyhow::Result<Vec<Broker>> {
    let mut brokers = Vec::new();
    if !args.without_mynah {
        let program = match &args.mynah {
            Some(program) => {
                fs::canonicalize(program).with_context(|| format!("cannot find {}", program.display()))?
            }
            None => env::current_exe().context("cannot find this program")?,
        };
        let started = Broker::start(Kind::Mynah, &program, &folder.join("mynah"));
        brokers.push(started.context("mynah")?);
    }
    for kind in Kind::PEERS {
        let Some(program) = broker::find(kind, &args.peers) else {
            write_out(&format!("{} is not on this machine, skipped\n", kind.name()))?;
            continue;
        };
        match Broker::start(kind, &program, &folder.join(kind.name())) {
            Ok(broker) => brokers.push(broker),
            Err(error) => write_out(&format!("{error:#}, skipped\n"))?,
        }
    }
    if brokers.is_empty() {
        bail!("there is no broker to measure");
    }
    for broker in &brokers {
        let (name, started) = (broker.kind.name(), broker.started_in);
        write_out(&format!(
            "{name} {} runs, pid {}, ready after {started:.0?}\n",
            broker.version,
            broker.pid()
        ))?;
    }
    Ok(brokers)
}

/// Start, memory and idle connections of each broker, fresh and alone: memory that traffic has left behind would
/// hide what connections cost, and some brokers never recover from ten thousand of them.
fn sizes(brokers: Vec<Broker>, folder: &Path, quick: bool) -> anyhow::Result<Vec<Facts>> {
    let programs: Vec<_> = brokers.iter().map(|broker| (broker.kind, broker.program.clone())).collect();
    drop(brokers);
    let measured = programs.into_iter().map(|(kind, program)| {
        let fresh = Broker::start(kind, &program, &folder.join(format!("{}-fresh", kind.name())))?;
        facts(&fresh, quick)
    });
    measured.collect()
}

fn facts(broker: &Broker, quick: bool) -> anyhow::Result<Facts> {
    let connections = match broker.kind {
        Kind::Rabbitmq => IDLE_HEAVY,
        // It lets in 900 a second.
        Kind::Rumqttd if quick => IDLE_HEAVY,
        Kind::Mynah | Kind::Mosquitto | Kind::Nats | Kind::Rumqttd => IDLE,
    };
    let idle = idle::measure(broker.mqtt(), connections, None, Some(broker.pid()));
    let line = match &idle {
        Ok(report) => report.table().replace('\n', "  "),
        Err(error) => format!("idle connections: {error:#}"),
    };
    write_out(&format!("{:12} {line}\n", broker.kind.name()))?;
    Ok(Facts {
        kind: broker.kind,
        version: broker.version.clone(),
        started_in: broker.started_in,
        rss_idle: broker.rss_idle,
        program_bytes: fs::metadata(&broker.program).map_or(0, |data| data.len()),
        idle: idle.ok().and_then(|report| Some((report.bytes_per_connection?, report.connections))),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn cell(speeds: &[f64], cpu: f64) -> Cell {
        let report = |&per_second: &f64| Report { per_second, broker_cpu_us: Some(cpu), ..Report::default() };
        Cell { reports: speeds.iter().map(report).collect(), failed: None }
    }

    pub(crate) fn results(mynah: Cell, peer: Cell) -> Results {
        let rows: Vec<Row> = rows(Duration::from_secs(1), Duration::ZERO).into_iter().take(1).collect();
        let facts = |kind| Facts {
            kind,
            version: "1.2".into(),
            started_in: Duration::from_millis(20),
            rss_idle: 5_000_000,
            program_bytes: 9_000_000,
            idle: Some((1_200.0, 10_000)),
        };
        Results {
            brokers: vec![facts(Kind::Mynah), facts(Kind::Rumqttd)],
            rows,
            cells: [((0, Kind::Mynah), mynah), ((0, Kind::Rumqttd), peer)].into(),
            rounds: 3,
            seconds: 1.0,
        }
    }

    #[test]
    fn medians_ignore_the_outlier() {
        assert_eq!(cell(&[1.0, 100.0, 3.0], 1.0).speed(), Some(3.0));
        assert_eq!(cell(&[4.0, 1.0], 1.0).speed(), Some(2.5));
        assert_eq!(cell(&[], 1.0).speed(), None);
    }

    #[test]
    fn floors_of_speed_cpu_and_correctness_are_checked() {
        assert_eq!(results(cell(&[1_000.0], 0.12), cell(&[100.0], 1.0)).missed(), Vec::<String>::new());
        let missed = results(cell(&[999.0], 0.13), cell(&[100.0], 1.0)).missed();
        assert_eq!(missed.len(), 2, "{missed:?}");
        let mut lossy = cell(&[1_000.0], 0.1);
        lossy.reports[0].lost = 1;
        assert_eq!(results(lossy, cell(&[100.0], 1.0)).missed().len(), 1);
        assert_eq!(results(cell(&[1_000.0], 0.1), cell(&[], 1.0)).missed().len(), 1);
    }

    #[test]
    fn size_is_checked() {
        let mut results = results(cell(&[1_000.0], 0.12), cell(&[100.0], 1.0));
        results.brokers[0].rss_idle = 20_000_000;
        results.brokers[0].started_in = Duration::from_millis(300);
        results.brokers[0].idle = Some((3_000.0, 10));
        assert_eq!(results.missed().len(), 3);
    }
}
