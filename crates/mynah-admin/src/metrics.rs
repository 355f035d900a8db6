//! `/metrics` in Prometheus' text form: the broker's counters, and gauges of queues read at the time of the scrape.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use mynah_broker::Broker;
use mynah_core::engine::Condition;
use prometheus::{Encoder as _, IntCounter, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::server::AppState;

/// Queues with lines of their own; a scraper chokes on a hundred thousand sessions.
const QUEUES_MAX: usize = 1000;

pub(crate) async fn metrics(State(state): State<AppState>) -> Response {
    match scrape(&state.broker) {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn scrape(broker: &Broker) -> Result<Vec<u8>, prometheus::Error> {
    let gauges = Registry::new();
    broker_gauges(broker, &gauges)?;
    queue_gauges(broker, &gauges)?;
    store_gauges(broker, &gauges)?;
    let mut families = broker.shared.metrics.registry.gather();
    families.extend(gauges.gather());
    let mut text = Vec::new();
    TextEncoder::new().encode(&families, &mut text)?;
    Ok(text)
}

fn broker_gauges(broker: &Broker, registry: &Registry) -> Result<(), prometheus::Error> {
    let overview = broker.overview();
    let set = |name: &str, help: &str, value: i64| -> Result<(), prometheus::Error> {
        let gauge = IntGauge::new(name, help)?;
        gauge.set(value);
        registry.register(Box::new(gauge))
    };
    set("mynah_uptime_seconds", "Seconds since the start.", signed(overview.uptime.as_secs()))?;
    set("mynah_queues", "Queues, sessions and subscriptions with a queue.", signed(overview.queues as u64))?;
    set("mynah_clients", "Client identifiers in use or remembered.", signed(overview.clients as u64))?;
    set("mynah_retained_messages", "Topics with a retained message.", signed(overview.retained as u64))?;
    set("mynah_messages_ready", "Messages ready in all queues.", signed(overview.ready))?;
    set("mynah_messages_unsettled", "Messages delivered and not settled.", signed(overview.unsettled))?;
    if let Some(bytes) = resident_bytes() {
        set("process_resident_memory_bytes", "Resident memory size in bytes.", signed(bytes))?;
    }
    Ok(())
}

/// What the store holds and does. Totals are counters by nature; they are read at once with the rest.
fn store_gauges(broker: &Broker, registry: &Registry) -> Result<(), prometheus::Error> {
    let shared = &broker.shared;
    let status = shared.engine.log.status();
    let counter = |name: &str, help: &str, value: u64| -> Result<(), prometheus::Error> {
        let counter = IntCounter::new(name, help)?;
        counter.inc_by(value);
        registry.register(Box::new(counter))
    };
    counter("mynah_store_appended_bytes_total", "Bytes appended to the journal.", status.appended_bytes)?;
    counter("mynah_store_groups_total", "Groups written to the journal.", status.groups)?;
    counter("mynah_store_syncs_total", "Syncs of the journal.", status.syncs)?;
    counter("mynah_store_sync_micros_total", "Microseconds spent in syncs.", status.sync_micros)?;
    counter("mynah_store_write_errors_total", "Writes and syncs that failed.", status.write_errors)?;
    counter("mynah_store_read_errors_total", "Pages that could not be read.", status.read_errors)?;
    counter("mynah_store_page_reads_total", "Pages read back.", status.page_reads)?;
    counter("mynah_store_page_writes_total", "Pages written.", status.page_writes)?;
    let (full, failed) = match shared.engine.log.condition() {
        Condition::Open => (0, 0),
        Condition::Full(_) => (1, 0),
        Condition::Failed(_) => (0, 1),
    };
    let gauges: [(&str, &str, u64); 8] = [
        ("mynah_store_journal_files", "Files of the journal.", status.journal_files),
        ("mynah_store_journal_bytes", "Bytes of the journal's files.", status.journal_bytes),
        ("mynah_store_pages", "Pages of queues on disk.", status.pages),
        ("mynah_store_page_bytes", "Bytes of messages in pages.", status.page_bytes),
        ("mynah_store_backlog_bytes", "Bytes appended and not written yet.", status.backlog_bytes),
        ("mynah_store_memory_bytes", "Bytes of messages in memory, about.", shared.pager.used()),
        ("mynah_store_full", "1 while durable messages are refused for want of room.", full),
        ("mynah_store_failed", "1 when nothing becomes durable any more.", failed),
    ];
    for (name, help, value) in gauges {
        let gauge = IntGauge::new(name, help)?;
        gauge.set(signed(value));
        registry.register(Box::new(gauge))?;
    }
    Ok(())
}

fn queue_gauges(broker: &Broker, registry: &Registry) -> Result<(), prometheus::Error> {
    let labels = ["virtual_host", "queue"];
    let make = |name: &str, help: &str| -> Result<IntGaugeVec, prometheus::Error> {
        let gauge = IntGaugeVec::new(Opts::new(name, help), &labels)?;
        registry.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    };
    let ready = make("mynah_queue_messages_ready", "Messages ready in a queue.")?;
    let unsettled = make("mynah_queue_messages_unsettled", "Messages of a queue delivered and not settled.")?;
    let consumers = make("mynah_queue_consumers", "Consumers of a queue.")?;
    let hosts: Vec<_> = broker.hosts.iter().map(|host| host.value().clone()).collect();
    let views = hosts.iter().flat_map(|host| broker.queue_views(host));
    for view in views.filter(|view| view.kind != "session" && view.kind != "temporary").take(QUEUES_MAX) {
        let labels = [&*view.virtual_host, &*view.name];
        ready.with_label_values(&labels).set(signed(view.ready));
        unsettled.with_label_values(&labels).set(signed(view.unsettled));
        consumers.with_label_values(&labels).set(i64::from(view.consumers));
    }
    Ok(())
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The second number of statm, in pages of 4 KiB; `None` where there is no such file.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    statm.split_whitespace().nth(1)?.parse::<u64>().ok().map(|pages| pages * 4096)
}
