//! `/metrics` in Prometheus' text form: the broker's counters, and gauges of queues read at the time of the scrape.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use mynah_broker::Broker;
use prometheus::{Encoder as _, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

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
