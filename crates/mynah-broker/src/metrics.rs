//! Counters: gathered per connection without sharing, added to the registry once a batch.

use std::sync::Arc;

use mynah_core::Cause;
use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::operator::ProtocolTotals;

/// What one connection (or the broker itself) counted since it last told the registry.
#[derive(Debug)]
pub struct Meter {
    counters: Arc<ProtocolCounters>,
    pub received: u64,
    pub received_bytes: u64,
    pub delivered: u64,
    pub sent_bytes: u64,
    pub refused: u64,
    /// A subscriber's inbox was full.
    pub dropped_full: u64,
    /// A dead letter had nowhere to go.
    pub dropped_dead: u64,
    /// The retained store was full.
    pub dropped_retained: u64,
    pub dead_lettered: [u64; Cause::ALL.len()],
    changed: bool,
}

impl Meter {
    #[must_use]
    pub fn new(counters: Arc<ProtocolCounters>) -> Self {
        Self {
            counters,
            received: 0,
            received_bytes: 0,
            delivered: 0,
            sent_bytes: 0,
            refused: 0,
            dropped_full: 0,
            dropped_dead: 0,
            dropped_retained: 0,
            dead_lettered: [0; Cause::ALL.len()],
            changed: false,
        }
    }

    /// From now on counts for this protocol.
    pub fn work_for(&mut self, counters: &Arc<ProtocolCounters>) {
        if !Arc::ptr_eq(&self.counters, counters) {
            self.report();
            self.counters = Arc::clone(counters);
        }
    }

    pub fn dead_letter(&mut self, cause: Cause) {
        self.changed = true;
        for (known, count) in Cause::ALL.iter().zip(&mut self.dead_lettered) {
            *count += u64::from(*known == cause);
        }
    }

    /// Adds everything to the registry and starts from zero.
    pub fn report(&mut self) {
        let counters = &self.counters;
        add(&counters.received, &mut self.received);
        add(&counters.received_bytes, &mut self.received_bytes);
        add(&counters.delivered, &mut self.delivered);
        add(&counters.sent_bytes, &mut self.sent_bytes);
        add(&counters.refused, &mut self.refused);
        add(&counters.dropped_full, &mut self.dropped_full);
        add(&counters.dropped_dead, &mut self.dropped_dead);
        add(&counters.dropped_retained, &mut self.dropped_retained);
        if std::mem::take(&mut self.changed) {
            for (counter, count) in counters.dead_lettered.iter().zip(&mut self.dead_lettered) {
                add(counter, count);
            }
        }
    }

    #[must_use]
    pub fn counters(&self) -> &Arc<ProtocolCounters> {
        &self.counters
    }
}

fn add(counter: &IntCounter, count: &mut u64) {
    if *count > 0 {
        counter.inc_by(std::mem::take(count));
    }
}

/// The counters of one protocol.
#[derive(Debug)]
pub struct ProtocolCounters {
    pub protocol: &'static str,
    pub received: IntCounter,
    pub received_bytes: IntCounter,
    pub delivered: IntCounter,
    pub sent_bytes: IntCounter,
    pub refused: IntCounter,
    pub dropped_full: IntCounter,
    pub dropped_dead: IntCounter,
    pub dropped_retained: IntCounter,
    pub dead_lettered: Vec<IntCounter>,
    pub connections: IntGauge,
    pub connections_opened: IntCounter,
    pub violations: IntCounter,
    pub authentication_failures: IntCounter,
}

/// What all protocols together have counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    pub received: u64,
    pub received_bytes: u64,
    pub delivered: u64,
    pub sent_bytes: u64,
    pub dropped: u64,
    pub connections: i64,
    pub connections_opened: u64,
}

/// All metrics of the broker, in one registry.
#[derive(Debug)]
pub struct Metrics {
    pub registry: Registry,
    received: IntCounterVec,
    received_bytes: IntCounterVec,
    delivered: IntCounterVec,
    sent_bytes: IntCounterVec,
    refused: IntCounterVec,
    dropped: IntCounterVec,
    dead_lettered: IntCounterVec,
    connections: IntGaugeVec,
    connections_opened: IntCounterVec,
    violations: IntCounterVec,
    authentication_failures: IntCounterVec,
    protocols: Mutex<Vec<Arc<ProtocolCounters>>>,
}

impl Metrics {
    /// # Errors
    /// A metric is registered twice, which is a mistake in this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let protocol = ["protocol"];
        let connections = IntGaugeVec::new(Opts::new("mynah_connections", "Open connections."), &protocol)?;
        registry.register(Box::new(connections.clone()))?;
        Ok(Self {
            received: counter(
                "mynah_messages_received_total",
                "Messages received from publishers.",
                &protocol,
            )?,
            received_bytes: counter("mynah_bytes_received_total", "Bytes read from sockets.", &protocol)?,
            delivered: counter("mynah_messages_delivered_total", "Messages handed to consumers.", &protocol)?,
            sent_bytes: counter("mynah_bytes_sent_total", "Bytes written to sockets.", &protocol)?,
            refused: counter("mynah_messages_refused_total", "Messages a full queue refused.", &protocol)?,
            dropped: counter("mynah_messages_dropped_total", "Messages dropped.", &["protocol", "reason"])?,
            dead_lettered: counter(
                "mynah_messages_dead_lettered_total",
                "Messages dead-lettered, by the protocol of the connection that caused it.",
                &["protocol", "cause"],
            )?,
            connections,
            connections_opened: counter(
                "mynah_connections_opened_total",
                "Connections accepted.",
                &protocol,
            )?,
            violations: counter(
                "mynah_protocol_violations_total",
                "Connections that broke the protocol.",
                &protocol,
            )?,
            authentication_failures: counter(
                "mynah_authentication_failures_total",
                "Refused logins.",
                &protocol,
            )?,
            protocols: Mutex::default(),
            registry,
        })
    }

    /// The counters of one protocol; they exist from zero as soon as it is named.
    #[must_use]
    pub fn protocol(&self, protocol: &'static str) -> Arc<ProtocolCounters> {
        let mut protocols = self.protocols.lock();
        if let Some(known) = protocols.iter().find(|known| known.protocol == protocol) {
            return Arc::clone(known);
        }
        let counters = Arc::new(self.counters_of(protocol));
        protocols.push(Arc::clone(&counters));
        counters
    }

    /// The totals of every protocol, for the API: the same numbers as in the registry.
    #[must_use]
    pub fn totals(&self) -> Vec<ProtocolTotals> {
        let protocols = self.protocols.lock();
        protocols
            .iter()
            .map(|counters| ProtocolTotals {
                protocol: counters.protocol.to_owned(),
                received: counters.received.get(),
                delivered: counters.delivered.get(),
                dead_lettered: counters.dead_lettered.iter().map(IntCounter::get).sum(),
                connections: counters.connections.get(),
            })
            .collect()
    }

    /// The sums over all protocols.
    #[must_use]
    pub fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for counters in self.protocols.lock().iter() {
            sums.received += counters.received.get();
            sums.received_bytes += counters.received_bytes.get();
            sums.delivered += counters.delivered.get();
            sums.sent_bytes += counters.sent_bytes.get();
            sums.dropped += counters.dropped_full.get();
            sums.connections += counters.connections.get();
            sums.connections_opened += counters.connections_opened.get();
        }
        sums
    }

    fn counters_of(&self, protocol: &'static str) -> ProtocolCounters {
        let label = [protocol];
        ProtocolCounters {
            protocol,
            received: self.received.with_label_values(&label),
            received_bytes: self.received_bytes.with_label_values(&label),
            delivered: self.delivered.with_label_values(&label),
            sent_bytes: self.sent_bytes.with_label_values(&label),
            refused: self.refused.with_label_values(&label),
            dropped_full: self.dropped.with_label_values(&[protocol, "inbox-full"]),
            dropped_dead: self.dropped.with_label_values(&[protocol, "dead-letter"]),
            dropped_retained: self.dropped.with_label_values(&[protocol, "retained-full"]),
            dead_lettered: Cause::ALL
                .iter()
                .map(|cause| self.dead_lettered.with_label_values(&[protocol, cause.name()]))
                .collect(),
            connections: self.connections.with_label_values(&label),
            connections_opened: self.connections_opened.with_label_values(&label),
            violations: self.violations.with_label_values(&label),
            authentication_failures: self.authentication_failures.with_label_values(&label),
        }
    }
}
