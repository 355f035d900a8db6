//! The comparison as Markdown: `docs/benchmarks.md` and what is printed at the end of a run.
//!
//! Never: a figure that is not in the [`Results`].

use std::fmt::Write;
use std::fs;

use crate::options::Pattern;
use crate::peers::{Results, ratio};
use crate::report::{mib, thousands};
use crate::rows::Kind;

/// The whole page.
pub(crate) fn page(results: &Results, missed: &[String]) -> String {
    let mut text = String::from("# Benchmarks\n\n");
    text.push_str(
        "Written by `mynah bench peers` (`make bench-peers`); do not edit by hand. All brokers and the load generator\n\
         share one machine over loopback, so absolute figures mean little elsewhere: read the ratios within a row, and the\n\
         CPU seconds per million deliveries.\n\n",
    );
    let _infallible = writeln!(
        text,
        "{} alternating rounds of {} s a run after a warm-up that does not count; every figure is the median over the\n\
         rounds. Payloads have 64 bytes where nothing else is said. {}.\n",
        results.rounds,
        results.seconds,
        machine()
    );
    text.push_str(METHOD);
    text.push_str(&tables(results));
    if results.brokers.iter().any(|facts| facts.kind == Kind::Mynah) {
        text.push_str("## Floors that were missed\n\n");
        if missed.is_empty() {
            text.push_str("None.\n");
        }
        for line in missed {
            let _infallible = writeln!(text, "- {line}");
        }
    } else {
        text.push_str("This run measured the peers only.\n");
    }
    text
}

const METHOD: &str = "\
Subscribers are confirmed before publishers connect, and publishers before anything is sent. About 4,000 messages are in
flight end to end (20 for each of 1,000 publishers, 100,000 deliveries in fan-out, 2,000 for queues). Every payload carries
publisher and sequence number: loss, duplicates and reordering are counted in every run and noted below the tables. In the
rows with a rate the load generator sends by the clock and the delay counts from the time a message was due. A run begins
when all brokers together use no more than a twentieth of a core, or 20 s after the one before it. Peers run without logging and
with their limits raised; Mynah runs with its default limits. A dash: the broker cannot do it.

To measure yourself: `make bench-peers` for all of this, `mynah bench peers --quick --only STOMP` for a look, `mynah bench run
--protocol amqp091 --pattern queue --address HOST:PORT --user guest --password guest` for any broker, `mynah bench idle` for
memory. `--help` explains the rest.

";

/// All tables.
pub(crate) fn tables(results: &Results) -> String {
    let mut text = String::new();
    let kinds: Vec<Kind> = results.brokers.iter().map(|facts| facts.kind).collect();
    let saturated: Vec<usize> = rows_of(results, false);
    let paced: Vec<usize> = rows_of(results, true);
    if !saturated.is_empty() {
        text.push_str("## Deliveries a second\n\n");
        let figure = |row: usize, kind| results.cell(row, kind).and_then(|cell| cell.speed()).map(thousands);
        table(&mut text, results, &saturated, &kinds, Some(" best peer | floor |"), figure, |row| {
            Some(format!(" {} | {} |", best(results, row), floor(results, row)))
        });
        text.push_str("## Broker's CPU seconds per million deliveries\n\n");
        let figure = |row: usize, kind| {
            results.cell(row, kind).and_then(|cell| cell.cpu()).map(|cpu| format!("{cpu:.3}"))
        };
        table(&mut text, results, &saturated, &kinds, Some(" floor |"), figure, |row| {
            Some(format!(" {} |", cpu_floor(results, row)))
        });
        if kinds.contains(&Kind::Mynah) {
            text.push_str("## Mynah's speed as a multiple of each peer's (its share of the peer's CPU)\n\n");
            let peers: Vec<Kind> = kinds.iter().copied().filter(|&kind| kind != Kind::Mynah).collect();
            table(
                &mut text,
                results,
                &saturated,
                &peers,
                None,
                |row, kind| over(results, row, kind),
                |_| None,
            );
        }
    }
    let crowds: Vec<usize> = saturated.iter().copied().filter(|&row| is_crowd(results, row)).collect();
    if !crowds.is_empty() {
        text.push_str("## Subscriptions a second (resident bytes each)\n\n");
        let figure = |row: usize, kind| {
            let cell = results.cell(row, kind)?;
            let speed = cell.median(|it| it.subscribed.map_or(0.0, |it| it.per_second))?;
            // Memory that earlier rounds have left behind would hide what they cost.
            let bytes = cell.reports.first()?.subscribed?.bytes_each?;
            Some(format!("{} ({})", thousands(speed), thousands(bytes)))
        };
        table(&mut text, results, &crowds, &kinds, None, figure, |_| None);
    }
    if !paced.is_empty() {
        text.push_str("## Delay at a given rate: p50 / p99 in microseconds (CPU microseconds a message)\n\n");
        let figure = |row: usize, kind| {
            let cell = results.cell(row, kind)?;
            let (p50, p99) = (cell.median(|it| it.latency_us.p50)?, cell.median(|it| it.latency_us.p99)?);
            Some(format!("{p50:.0} / {p99:.0} ({:.1})", cell.cpu()?))
        };
        table(&mut text, results, &paced, &kinds, None, figure, |_| None);
    }
    size(&mut text, results);
    notes(&mut text, results);
    text
}

fn is_crowd(results: &Results, row: usize) -> bool {
    results.rows.get(row).is_some_and(|row| row.spec.pattern == Pattern::Crowd)
}

fn rows_of(results: &Results, open_loop: bool) -> Vec<usize> {
    let rows = results.rows.iter().enumerate();
    rows.filter(|(_, row)| row.open_loop() == open_loop).map(|(index, _)| index).collect()
}

fn table(
    text: &mut String,
    results: &Results,
    rows: &[usize],
    kinds: &[Kind],
    more: Option<&str>,
    figure: impl Fn(usize, Kind) -> Option<String>,
    last: impl Fn(usize) -> Option<String>,
) {
    text.push_str("| |");
    for kind in kinds {
        let _infallible = write!(text, " {} |", kind.name());
    }
    text.push_str(more.unwrap_or_default());
    let columns = kinds.len() + more.map_or(0, |more| more.matches('|').count());
    let _infallible = write!(text, "\n|---|{}\n", "---:|".repeat(columns));
    for &row in rows {
        let name = results.rows.get(row).map_or("", |row| row.name);
        let _infallible = write!(text, "| {name} |");
        for &kind in kinds {
            let _infallible = write!(text, " {} |", figure(row, kind).unwrap_or_else(|| "-".to_owned()));
        }
        text.push_str(&last(row).unwrap_or_default());
        text.push('\n');
    }
    text.push('\n');
}

/// Mynah over one peer: speed, and CPU.
fn over(results: &Results, row: usize, kind: Kind) -> Option<String> {
    let (ours, theirs) = (results.cell(row, Kind::Mynah)?, results.cell(row, kind)?);
    let (speed, cpu) = (ratio(ours.speed(), theirs.speed()), ratio(ours.cpu(), theirs.cpu()));
    Some(format!("{speed:.1}x ({cpu:.2})"))
}

/// Mynah over the fastest peer of the row.
fn best(results: &Results, row: usize) -> String {
    let speed = |kind| results.cell(row, kind).and_then(|cell| cell.speed());
    let peers = Kind::PEERS.into_iter().filter_map(|kind| Some((kind, speed(kind)?)));
    let Some((kind, theirs)) = peers.max_by(|a, b| a.1.total_cmp(&b.1)) else { return "-".to_owned() };
    match speed(Kind::Mynah) {
        Some(ours) => format!("{:.1}x {}", ours / theirs, kind.name()),
        None => kind.name().to_owned(),
    }
}

fn floor(results: &Results, row: usize) -> String {
    let Some(floor) = results.rows.get(row).and_then(|row| row.floor) else { return String::new() };
    let speed = |kind| results.cell(row, kind).and_then(|cell| cell.speed());
    let reached = match speed(Kind::Mynah) {
        Some(ours) => format!(": {:.1}x", ratio(Some(ours), speed(floor.peer))),
        None => String::new(),
    };
    format!("{}x {}{reached}", floor.speed, floor.peer.name())
}

fn cpu_floor(results: &Results, row: usize) -> String {
    let Some(floor) = results.rows.get(row).and_then(|row| row.floor) else { return String::new() };
    let Some(share) = floor.cpu else { return String::new() };
    let cpu = |kind| results.cell(row, kind).and_then(|cell| cell.cpu());
    let reached = match cpu(Kind::Mynah) {
        Some(ours) => format!(": {:.2}", ratio(Some(ours), cpu(floor.peer))),
        None => String::new(),
    };
    format!("{share} of {}{reached}", floor.peer.name())
}

fn size(text: &mut String, results: &Results) {
    text.push_str("## Size\n\n| | version | start to ready | resident, idle | bytes an idle connection |\n");
    text.push_str("|---|---|---:|---:|---:|\n");
    for facts in &results.brokers {
        let idle = facts.idle.map_or_else(
            || "-".to_owned(),
            |(bytes, connections)| format!("{} ({})", thousands(bytes), thousands_of(connections)),
        );
        let _infallible = writeln!(
            text,
            "| {} | {} | {} ms | {} | {idle} |",
            facts.kind.name(),
            facts.version,
            facts.started_in.as_millis(),
            mib(facts.rss_idle)
        );
    }
    text.push_str("\nAn idle connection has one subscription (MQTT, QoS 0); in brackets how many were open.");
    if let Some(mynah) = results.brokers.iter().find(|facts| facts.kind == Kind::Mynah) {
        let _infallible = write!(text, " Mynah's program has {}.", mib(mynah.program_bytes));
    }
    text.push_str("\n\n");
}

fn thousands_of(count: usize) -> String {
    thousands(f64::from(u32::try_from(count).unwrap_or(u32::MAX)))
}

/// What went wrong in a row, and why a cell is empty.
fn notes(text: &mut String, results: &Results) {
    let mut notes = Vec::new();
    for (&(row, kind), cell) in &results.cells {
        let name = results.rows.get(row).map_or("", |row| row.name);
        if let Some(why) = &cell.failed {
            notes.push(format!("- {name}, {}: {why}", kind.name()));
        }
        let sum = |count: fn(&crate::report::Report) -> u64| cell.reports.iter().map(count).sum::<u64>();
        let (sent, lost) = (sum(|it| it.sent), sum(|it| it.lost));
        let (duplicates, reordered) = (sum(|it| it.faults.duplicates), sum(|it| it.faults.reordered));
        if lost + duplicates + reordered > 0 {
            notes.push(format!(
                "- {name}, {}: of {sent} messages {lost} lost, {duplicates} duplicates, {reordered} reordered",
                kind.name()
            ));
        }
    }
    if notes.is_empty() {
        text.push_str("Nothing was lost, duplicated or reordered in any run.\n\n");
        return;
    }
    text.push_str(&notes.join("\n"));
    text.push_str("\n- Otherwise nothing was lost, duplicated or reordered in any run.\n\n");
}

/// The machine in a line.
fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "Machine: {cores} cores, {}, Linux {}",
        model.map_or("unknown CPU", |(_, name)| name),
        kernel.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::tests::{cell, results};

    #[test]
    fn the_tables_have_ratios_and_dashes() {
        let mut results = results(cell(&[700_000.0], 0.1), cell(&[100_000.0], 1.0));
        let text = tables(&results);
        assert!(
            text.contains("| MQTT 50 pairs, QoS 0 | 700,000 | 100,000 | 7.0x rumqttd | 10x rumqttd: 7.0x |"),
            "{text}"
        );
        assert!(text.contains("| 0.100 | 1.000 | 0.12 of rumqttd: 0.10 |"), "{text}");
        assert!(text.contains("| 7.0x (0.10) |"), "{text}");
        results.cells.clear();
        let text = tables(&results);
        assert!(text.contains("| - | - | - |"), "{text}");
    }

    #[test]
    fn every_line_of_a_table_has_the_same_columns() {
        let page = page(&results(cell(&[7.0], 0.1), cell(&[1.0], 1.0)), &["x".to_owned()]);
        let mut width = None;
        for line in page.lines() {
            if line.starts_with('|') {
                let columns = line.matches('|').count();
                assert_eq!(*width.get_or_insert(columns), columns, "{line}");
            } else {
                width = None;
            }
        }
        assert!(page.contains("- x\n"));
    }
}
