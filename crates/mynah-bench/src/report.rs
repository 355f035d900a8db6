//! The figures of a run, as a table for people and as JSON for programs.
//!
//! Never: prints by `println!`; everything goes through [`write_out`].

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use crate::account::Faults;
use crate::histogram::Histogram;

/// The figures of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Report {
    /// Deliveries a second in the measured time.
    pub per_second: f64,
    /// Measured seconds.
    pub seconds: f64,
    /// Deliveries in the measured time.
    pub measured: u64,
    /// Messages sent in all, warm-up included.
    pub sent: u64,
    /// Deliveries in all, duplicates not counted.
    pub delivered: u64,
    /// Deliveries that never came.
    pub lost: u64,
    /// What went wrong otherwise.
    #[serde(flatten)]
    pub faults: Faults,
    /// From sending to reading, microseconds.
    pub latency_us: Latency,
    /// CPU microseconds of the broker for a delivery; absent without its pid.
    pub broker_cpu_us: Option<f64>,
    /// CPU microseconds of the generator for a delivery.
    pub generator_cpu_us: f64,
    /// Cores that the broker used.
    pub broker_cores: Option<f64>,
    /// Resident bytes of the broker at the end.
    pub broker_rss: Option<u64>,
    /// Where many subscriptions are the subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribed: Option<Subscribed>,
}

/// What the subscriptions of a crowd cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Subscribed {
    /// Subscriptions confirmed a second.
    pub per_second: f64,
    /// Growth of the broker's resident bytes for each; absent without its pid.
    pub bytes_each: Option<f64>,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Latency {
    /// The median.
    pub p50: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// 999 of 1,000 are at most this.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

/// What the engine read off, before it is divided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub sent: u64,
    pub delivered: u64,
    pub lost: u64,
    pub faults: Faults,
    /// The measured time and what was delivered in it.
    pub elapsed: Duration,
    pub measured: u64,
    /// CPU seconds in the measured time; the broker's only with its pid.
    pub broker_cpu_s: Option<f64>,
    pub own_cpu_s: f64,
    pub broker_rss: Option<u64>,
}

impl Report {
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    pub(crate) fn new(reading: &Reading, latency: &Histogram) -> Self {
        let seconds = reading.elapsed.as_secs_f64();
        let measured = reading.measured.max(1) as f64;
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        Self {
            per_second: reading.measured as f64 / seconds.max(1e-9),
            seconds,
            measured: reading.measured,
            sent: reading.sent,
            delivered: reading.delivered,
            lost: reading.lost,
            faults: reading.faults,
            latency_us: Latency {
                p50: micros(latency.per_mille(500)),
                p99: micros(latency.per_mille(990)),
                p999: micros(latency.per_mille(999)),
                max: micros(latency.max()),
            },
            broker_cpu_us: reading.broker_cpu_s.map(|cpu| cpu * 1e6 / measured),
            generator_cpu_us: reading.own_cpu_s * 1e6 / measured,
            broker_cores: reading.broker_cpu_s.map(|cpu| cpu / seconds.max(1e-9)),
            broker_rss: reading.broker_rss,
            subscribed: None,
        }
    }

    /// Whether every message came once and in order.
    pub(crate) fn clean(&self) -> bool {
        self.lost == 0 && self.faults.duplicates == 0 && self.faults.reordered == 0
    }

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let Latency { p50, p99, p999, max } = self.latency_us;
        let mut text = format!(
            "throughput   {} deliveries/s ({} in {:.2} s)\n\
             latency      p50 {p50:.0} us, p99 {p99:.0} us, p99.9 {p999:.0} us, max {max:.0} us\n\
             correctness  sent {}, delivered {}, lost {}, duplicates {}, reordered {}, foreign {}\n\
             generator    {:.3} us CPU a delivery\n",
            thousands(self.per_second),
            self.measured,
            self.seconds,
            self.sent,
            self.delivered,
            self.lost,
            self.faults.duplicates,
            self.faults.reordered,
            self.faults.foreign,
            self.generator_cpu_us,
        );
        if let (Some(cpu), Some(cores), Some(rss)) = (self.broker_cpu_us, self.broker_cores, self.broker_rss)
        {
            text.push_str(&format!(
                "broker       {cpu:.3} us CPU a delivery, {cores:.2} cores, {} resident\n",
                mib(rss)
            ));
        }
        if let Some(Subscribed { per_second, bytes_each }) = self.subscribed {
            text.push_str(&format!("subscribed   {}/s", thousands(per_second)));
            if let Some(bytes) = bytes_each {
                text.push_str(&format!(", {} resident bytes each", thousands(bytes)));
            }
            text.push('\n');
        }
        text
    }
}

/// A number with commas.
pub(crate) fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in MiB.
#[expect(clippy::cast_precision_loss, reason = "a size in MiB with one digit")]
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1u32 << 20))
}

/// The only way to standard output.
///
/// # Errors
///
/// Standard output is closed.
pub(crate) fn write_out(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading() -> Reading {
        Reading {
            sent: 2_000,
            delivered: 2_000,
            lost: 0,
            faults: Faults::default(),
            elapsed: Duration::from_millis(500),
            measured: 1_000,
            broker_cpu_s: Some(0.25),
            own_cpu_s: 0.125,
            broker_rss: Some(3 << 20),
        }
    }

    #[test]
    fn figures_are_divided_by_what_was_measured() {
        let report = Report::new(&reading(), &Histogram::new());
        assert!((report.per_second - 2_000.0).abs() < 1e-6);
        assert!((report.broker_cpu_us.unwrap() - 250.0).abs() < 1e-6);
        assert!((report.generator_cpu_us - 125.0).abs() < 1e-6);
        assert!((report.broker_cores.unwrap() - 0.5).abs() < 1e-6);
        assert!(report.clean());
        assert!(report.table().contains("2,000 deliveries/s"), "{}", report.table());
    }

    #[test]
    fn json_is_flat_where_it_helps() {
        let faults = Faults { duplicates: 1, reordered: 2, foreign: 3 };
        let report = Report::new(&Reading { faults, broker_cpu_s: None, ..reading() }, &Histogram::new());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((json["duplicates"].as_u64(), json["reordered"].as_u64()), (Some(1), Some(2)));
        assert!(json["broker_cpu_us"].is_null());
        assert!(!report.clean());
    }

    #[test]
    fn thousands_have_commas() {
        assert_eq!(thousands(999.4), "999");
        assert_eq!(thousands(1_234_567.0), "1,234,567");
    }
}
