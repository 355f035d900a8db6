//! The rows of the comparison: what is measured, and which ratio to whom is the floor.
//!
//! Windows keep about 4,000 messages in flight (20 for each of a thousand publishers, 100,000 deliveries in
//! fan-out, 2,000 for queues), so that brokers without back-pressure are not driven to drop.
//! Never: a measurement.

use std::time::Duration;

use crate::options::{Pattern, Protocol, Spec};
use crate::wire::Settle;

/// A broker of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Mynah,
    Rumqttd,
    Nats,
    Mosquitto,
    Rabbitmq,
}

impl Kind {
    pub(crate) const PEERS: [Self; 4] = [Self::Rumqttd, Self::Nats, Self::Mosquitto, Self::Rabbitmq];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mynah => "mynah",
            Self::Rumqttd => "rumqttd",
            Self::Nats => "nats-server",
            Self::Mosquitto => "mosquitto",
            Self::Rabbitmq => "rabbitmq",
        }
    }
}

/// The least that Mynah must reach in a row, against one peer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Floor {
    pub peer: Kind,
    /// Times the peer's deliveries a second.
    pub speed: f64,
    /// Share of the peer's CPU for a delivery, at most.
    pub cpu: Option<f64>,
}

/// Whose p50 and p99 Mynah's must not exceed in the rows with a rate.
pub(crate) const DELAY_PEER: Kind = Kind::Mosquitto;

/// One line of the tables.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub name: &'static str,
    /// All but address, run, login, time.
    pub spec: Spec,
    pub floor: Option<Floor>,
}

impl Row {
    /// Whether the row is about delay at a given rate, not about speed.
    pub(crate) fn open_loop(&self) -> bool {
        self.spec.rate.is_some()
    }

    /// Whether a broker speaks the protocol at all.
    pub(crate) fn fits(&self, kind: Kind) -> bool {
        match kind {
            Kind::Mynah => true,
            // Each subscription is a binding of a queue there, and retained messages come by exact topics only.
            Kind::Rabbitmq => {
                !matches!(self.spec.pattern, Pattern::Crowd | Pattern::Retain | Pattern::Replay)
            }
            Kind::Nats if self.spec.pattern == Pattern::Store => true,
            // It goes through all filters for each topic, delivers nothing in the time, and does not recover.
            Kind::Rumqttd if self.spec.pattern == Pattern::Crowd => false,
            // It takes more than a minute to subscribe.
            Kind::Nats if self.spec.pattern == Pattern::Crowd && self.spec.topics >= 1_000_000 => false,
            Kind::Rumqttd | Kind::Nats | Kind::Mosquitto => self.spec.protocol == Protocol::Mqtt,
        }
    }
}

/// All rows, with the measured time and the warm-up of each run.
pub(crate) fn rows(duration: Duration, warm_up: Duration) -> Vec<Row> {
    let base = Spec { duration, warm_up, ..Spec::default() };
    let mut rows = mqtt(&base);
    rows.extend(queues(&base));
    rows.extend(durable(&base));
    let paced = |qos| Spec { rate: Some(20_000), qos, ..base.clone() };
    rows.extend([
        row("MQTT 50 pairs, QoS 0, 20,000/s", paced(0), None),
        row("MQTT 50 pairs, QoS 1, 20,000/s", paced(1), None),
    ]);
    rows
}

fn row(name: &'static str, spec: Spec, floor: Option<Floor>) -> Row {
    Row { name, spec, floor }
}

fn floor(peer: Kind, speed: f64, cpu: Option<f64>) -> Option<Floor> {
    Some(Floor { peer, speed, cpu })
}

fn mqtt(base: &Spec) -> Vec<Row> {
    let pairs = |qos| Spec { qos, ..base.clone() };
    let one = Spec { publishers: 1, subscribers: 1, ..base.clone() };
    let scattered = Spec { pattern: Pattern::Scattered, ..base.clone() };
    let fan_out =
        |qos| Spec { pattern: Pattern::FanOut, subscribers: 1_000, window: 100_000, qos, ..one.clone() };
    let fan_in =
        Spec { pattern: Pattern::FanIn, publishers: 1_000, subscribers: 1, window: 20_000, ..base.clone() };
    let large = |size| Spec { publishers: 10, subscribers: 10, size, ..base.clone() };
    let crowd = |topics| Spec { pattern: Pattern::Crowd, subscribers: 100, topics, ..base.clone() };
    let retained = |pattern| Spec { pattern, ..one.clone() };
    vec![
        row("MQTT 50 pairs, QoS 0", pairs(0), floor(Kind::Rumqttd, 10.0, Some(0.12))),
        row("MQTT 50 pairs, QoS 1", pairs(1), floor(Kind::Rumqttd, 8.0, Some(0.14))),
        row("MQTT 50 pairs, QoS 2", pairs(2), floor(Kind::Rumqttd, 5.0, Some(0.19))),
        row("MQTT 50 x 50 scattered, QoS 0", scattered, floor(Kind::Rumqttd, 7.0, Some(0.25))),
        row("MQTT 1 to 1, QoS 0", one.clone(), floor(Kind::Nats, 10.0, Some(0.1))),
        row("MQTT 1 to 1, QoS 1", Spec { qos: 1, ..one.clone() }, floor(Kind::Rumqttd, 12.0, Some(0.1))),
        row("MQTT 1 to 1,000, QoS 0", fan_out(0), floor(Kind::Rumqttd, 2.5, Some(0.5))),
        row("MQTT 1 to 1,000, QoS 1", fan_out(1), floor(Kind::Rumqttd, 2.5, Some(0.5))),
        row("MQTT 1,000 to 1, QoS 0", fan_in, floor(Kind::Nats, 4.0, None)),
        row("MQTT 10 pairs of 1 KiB, QoS 0", large(1 << 10), floor(Kind::Rumqttd, 8.0, None)),
        row("MQTT 10 pairs of 16 KiB, QoS 0", large(1 << 14), floor(Kind::Rumqttd, 4.0, None)),
        row("MQTT 100,000 subscriptions, QoS 0", crowd(100_000), floor(Kind::Mosquitto, 8.0, None)),
        row("MQTT 1,000,000 subscriptions, QoS 0", crowd(1_000_000), floor(Kind::Mosquitto, 8.0, None)),
        row("MQTT 50,000 retained, stored", retained(Pattern::Retain), floor(Kind::Mosquitto, 6.0, None)),
        row("MQTT 50,000 retained, delivered", retained(Pattern::Replay), floor(Kind::Mosquitto, 4.0, None)),
    ]
}

fn queue(base: &Spec, protocol: Protocol, confirm: bool) -> Spec {
    Spec {
        protocol,
        confirm,
        settle: if confirm { Settle::Every(50) } else { Settle::Auto },
        pattern: Pattern::Queue,
        publishers: 1,
        subscribers: 1,
        window: 2_000,
        ..base.clone()
    }
}

fn queues(base: &Spec) -> Vec<Row> {
    let queue = |protocol, confirm| queue(base, protocol, confirm);
    let rabbit = || floor(Kind::Rabbitmq, 8.0, Some(0.1));
    vec![
        row("STOMP queue", queue(Protocol::Stomp, false), rabbit()),
        row("AMQP 0-9-1 queue", queue(Protocol::Amqp091, false), rabbit()),
        row("AMQP 0-9-1 queue, confirms, ack of 50", queue(Protocol::Amqp091, true), None),
        row("AMQP 1.0 queue, pre-settled", queue(Protocol::Amqp10, false), rabbit()),
        row("AMQP 1.0 queue, unsettled", queue(Protocol::Amqp10, true), None),
    ]
}

fn durable(base: &Spec) -> Vec<Row> {
    // A message is outstanding until it is both confirmed and delivered; the queue stays short.
    let durable = |publishers, window, size| Spec {
        durable: true,
        publishers,
        window,
        size,
        settle: Settle::Auto,
        ..queue(base, Protocol::Amqp091, true)
    };
    // Nobody consumes: a message is outstanding until it is confirmed. With a consumer that settles at once RabbitMQ
    // confirms without a sync, so its figures there are for another promise.
    let stored =
        |publishers, window, size| Spec { pattern: Pattern::Store, ..durable(publishers, window, size) };
    let safe = |speed| floor(Kind::Rabbitmq, speed, None);
    vec![
        row("Stored, 200 B, 1 publisher waits for each confirm", stored(1, 1, 200), safe(1.0)),
        row("Stored, 200 B, 16 publishers wait for each confirm", stored(16, 16, 200), None),
        row("Stored, 200 B, 256 publishers wait for each confirm", stored(256, 256, 200), safe(5.0)),
        row("Stored, 200 B, 1 publisher, 1,000 unconfirmed", stored(1, 1_000, 200), safe(5.0)),
        row("Stored, 16 KB, 1 publisher waits for each confirm", stored(1, 1, 16_384), safe(1.0)),
        row("Stored, 16 KB, 16 publishers wait for each confirm", stored(16, 16, 16_384), None),
        row("Stored, 16 KB, 256 publishers wait for each confirm", stored(256, 256, 16_384), safe(5.0)),
        row("Stored, 16 KB, 1 publisher, 1,000 unconfirmed", stored(1, 1_000, 16_384), safe(5.0)),
        row("Durable, 200 B, 1 publisher waits for each confirm", durable(1, 1, 200), None),
        row("Durable, 200 B, 16 publishers wait for each confirm", durable(16, 16, 200), None),
        row("Durable, 200 B, 256 publishers wait for each confirm", durable(256, 256, 200), None),
        row("Durable, 200 B, 1 publisher, 1,000 unconfirmed", durable(1, 1_000, 200), None),
        row("Durable, 16 KB, 1 publisher waits for each confirm", durable(1, 1, 16_384), None),
        row("Durable, 16 KB, 16 publishers wait for each confirm", durable(16, 16, 16_384), None),
        row("Durable, 16 KB, 256 publishers wait for each confirm", durable(256, 256, 16_384), None),
        row("Durable, 16 KB, 1 publisher, 1,000 unconfirmed", durable(1, 1_000, 16_384), None),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_floor_names_a_peer_that_speaks_the_protocol() {
        let rows = rows(Duration::from_secs(2), Duration::ZERO);
        for row in &rows {
            if let Some(floor) = row.floor {
                assert!(row.fits(floor.peer), "{}", row.name);
                assert!(!row.open_loop(), "{}", row.name);
            }
        }
        assert_eq!(rows.iter().filter(|row| row.floor.is_some()).count(), 24);
    }
}
