//! `$SYS/broker/...`: what the broker says of itself, as mosquitto names it: retained values that are renewed every interval if
//! they have changed, and events of clients that come and go.
//!
//! The numbers are those of `/metrics`; "messages" are publishes, whatever the protocol. Values live in the virtual host `/`
//! and are not kept on disk.
//! Never: does anything between two intervals.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mynah_core::{Address, AddressRef, Header, Message, PublishRef, Retain};
use parking_lot::Mutex;

use crate::broker::Broker;
use crate::connections::ConnectionInfo;
use crate::metrics::Sums;
use crate::timers::Due;
use crate::virtual_host::VirtualHost;

pub(crate) const PREFIX: &str = "$SYS/";

/// Minutes over which load is averaged, and how the topics call them.
const PERIODS: [(f64, &str); 3] = [(1.0, "1min"), (5.0, "5min"), (15.0, "15min")];

/// Names of what load is of, under `$SYS/broker/load`.
const LOADS: [&str; 8] = [
    "messages/received",
    "messages/sent",
    "publish/received",
    "publish/sent",
    "publish/dropped",
    "bytes/received",
    "bytes/sent",
    "connections",
];

#[derive(Debug, Default)]
pub(crate) struct Sys(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    published: HashMap<String, String>,
    last: Option<(Instant, [u64; LOADS.len()])>,
    /// A minute's worth, for each period.
    loads: [[f64; LOADS.len()]; PERIODS.len()],
    clients_maximum: u64,
    /// Messages in queues, as of the counts beside it: counting them touches every queue.
    queued: (Option<[u64; LOADS.len()]>, u64),
}

fn counted(sums: &Sums) -> [u64; LOADS.len()] {
    [
        sums.received,
        sums.delivered,
        sums.received,
        sums.delivered,
        sums.dropped,
        sums.received_bytes,
        sums.sent_bytes,
        sums.connections_opened,
    ]
}

impl State {
    /// Exponential averages of the rates a minute, as mosquitto has them.
    fn average(&mut self, now: Instant, counts: [u64; LOADS.len()]) {
        let Some((then, before)) = self.last.replace((now, counts)) else { return };
        let minutes = now.saturating_duration_since(then).as_secs_f64() / 60.0;
        if minutes <= 0.0 {
            return;
        }
        for ((period, _), loads) in PERIODS.iter().zip(&mut self.loads) {
            let keep = (-minutes / period).exp();
            for (load, (count, old)) in loads.iter_mut().zip(counts.iter().zip(before)) {
                #[expect(clippy::cast_precision_loss, reason = "rates are far below 2^52")]
                let rate = count.saturating_sub(old) as f64 / minutes;
                *load = rate + keep * (*load - rate);
            }
        }
    }

    fn values(&mut self, broker: &Broker, sums: &Sums, now: Instant) -> Vec<(String, String)> {
        let host = broker.default_host();
        let sessions = broker.sum_hosts(|host| host.sessions.load(Ordering::Relaxed));
        let present = broker.sum_hosts(|host| host.sessions_connected.load(Ordering::Relaxed));
        let connected = sums.connections.max(0).unsigned_abs();
        let away = sessions.saturating_sub(present);
        self.clients_maximum = self.clients_maximum.max(connected + away);
        let counts = counted(sums);
        if self.queued.0 != Some(counts) {
            self.queued = (Some(counts), broker.messages_queued());
        }
        let stored = self.queued.1 + host.retained.len() as u64;
        let (subscriptions, shared) = host.count_subscriptions();
        let uptime = now.saturating_duration_since(broker.started).as_secs();
        let status = broker.shared.engine.log.status();
        let mut values: Vec<(String, String)> = [
            ("version", format!("mynah version {}", env!("CARGO_PKG_VERSION"))),
            ("uptime", format!("{uptime} seconds")),
            ("clients/total", (connected + away).to_string()),
            ("clients/connected", connected.to_string()),
            ("clients/active", connected.to_string()),
            ("clients/disconnected", away.to_string()),
            ("clients/inactive", away.to_string()),
            ("clients/maximum", self.clients_maximum.to_string()),
            ("messages/received", sums.received.to_string()),
            ("messages/sent", sums.delivered.to_string()),
            ("messages/stored", stored.to_string()),
            ("publish/messages/received", sums.received.to_string()),
            ("publish/messages/sent", sums.delivered.to_string()),
            ("publish/messages/dropped", sums.dropped.to_string()),
            ("messages/dropped", sums.dropped.to_string()),
            ("bytes/received", sums.received_bytes.to_string()),
            ("bytes/sent", sums.sent_bytes.to_string()),
            ("subscriptions/count", subscriptions.to_string()),
            ("shared_subscriptions/count", shared.to_string()),
            ("retained messages/count", host.retained.len().to_string()),
            ("store/messages/count", stored.to_string()),
            ("store/messages/bytes", (broker.shared.pager.used() + status.page_bytes).to_string()),
        ]
        .map(|(name, value)| (format!("$SYS/broker/{name}"), value))
        .into();
        for ((_, period), loads) in PERIODS.iter().zip(&self.loads) {
            for (name, load) in LOADS.iter().zip(loads) {
                values.push((format!("$SYS/broker/load/{name}/{period}"), format!("{load:.2}")));
            }
        }
        values
    }
}

impl Broker {
    /// Begins to renew the values; an interval of zero means there are none.
    pub(crate) fn start_sys(&self) {
        if !self.shared.config.sys_interval.is_zero() {
            self.renew_sys(Instant::now());
        }
    }

    /// Publishes what has changed, and comes again after the interval.
    pub(crate) fn renew_sys(&self, now: Instant) {
        let sums = self.shared.metrics.sums();
        let mut state = self.sys.0.lock();
        state.average(now, counted(&sums));
        let mut values = state.values(self, &sums, now);
        values.retain(|(topic, value)| state.published.get(topic) != Some(value));
        for (topic, value) in &values {
            state.published.insert(topic.clone(), value.clone());
        }
        drop(state);
        let host = self.default_host();
        let header = Header { retain: Retain::Keep, text: true, ..Header::default() };
        let mut batch = self.own_batch();
        for (topic, value) in values {
            let publish =
                PublishRef { header, ..PublishRef::new(AddressRef::Topic(&topic), value.as_bytes()) };
            let message = Message::from_publish(&publish, now);
            batch.publish_message(host, now, &message, &message.address);
        }
        batch.finish(host, now);
        batch.end();
        if let Some(at) = now.checked_add(self.shared.config.sys_interval) {
            self.shared.timers.add(at, Due::System);
        }
    }

    fn sum_hosts(&self, of: impl Fn(&VirtualHost) -> u64) -> u64 {
        self.hosts.iter().map(|host| of(&host)).sum()
    }

    fn messages_queued(&self) -> u64 {
        self.sum_hosts(|host| host.queues.iter().map(|queue| queue.lock().machine.ready()).sum())
    }

    /// Tells those who subscribe to `$SYS/broker/clients/+/connected` or `.../disconnected`.
    pub(crate) fn client_event(&self, info: &ConnectionInfo, event: &str, now: Instant) {
        let Some(about) = info.about() else { return };
        let host = self.default_host();
        let topic = format!("$SYS/broker/clients/{}/{event}", about.client_id);
        if !host.has_subscriber(&topic) {
            return;
        }
        let body = serde_json::json!({
            "client_id": &*about.client_id,
            "user": info.user().map_or("", |user| user),
            "protocol": about.protocol,
            "virtual_host": &*about.virtual_host,
            "address": info.peer.address.to_string(),
            "listener": &*info.peer.listener,
            "connected_for_ms": millis(now.saturating_duration_since(info.since)),
        });
        let body = Bytes::from(body.to_string());
        let header = Header { text: true, ..Header::default() };
        let publish = PublishRef { header, ..PublishRef::new(AddressRef::Topic(&topic), &body) };
        let message = Message::from_publish(&publish, now);
        let address: Address = message.address.clone();
        self.publish(host, &message, &address);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_approach_the_rate() {
        let mut state = State::default();
        let start = Instant::now();
        let mut counts = [0; LOADS.len()];
        state.average(start, counts);
        for step in 1..=180u32 {
            counts[0] += 100;
            state.average(start + Duration::from_secs(10) * step, counts);
        }
        // 100 in 10 s are 600 a minute.
        assert!((state.loads[0][0] - 600.0).abs() < 0.1);
        assert!(state.loads[1][0] > 580.0 && state.loads[2][0] > 500.0 && state.loads[2][0] < 600.0);
        state.average(start + Duration::from_secs(1860), counts);
        assert!((state.loads[0][0] - 600.0 * (-1.0f64).exp()).abs() < 0.1);
    }
}
