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
            Kind::Mynah | Kind::Rabbitmq => true,
            Kind::Nats if self.spec.pattern == Pattern::Store => true,
            Kind::Rumqttd | Kind::Nats | Kind::Mosquitto => self.spec.protocol == Protocol::Mqtt,
        }
    }
}

/// All rows, with the measured time and the warm-up of each run.
pub(crate) fn rows(duration: Duration, warm_up: Duration) -> Vec<Row> {
    let base = Spec { duration, warm_up, ..Spec::default() };
    let row = |name, spec, floor| Row { name, spec, floor };
    let floor = |peer, speed, cpu| Some(Floor { peer, speed, cpu });
    let pairs = |qos| Spec { qos, ..base.clone() };
    let queue = |protocol, confirm| Spec {
        protocol,
        confirm,
        settle: if confirm { Settle::Every(50) } else { Settle::Auto },
        pattern: Pattern::Queue,
        publishers: 1,
        subscribers: 1,
        window: 2_000,
        ..base.clone()
    };
    let one = Spec { publishers: 1, subscribers: 1, ..base.clone() };
    let scattered = Spec { pattern: Pattern::Scattered, ..base.clone() };
    let fan_out = Spec { pattern: Pattern::FanOut, subscribers: 1_000, window: 100_000, ..one.clone() };
    let fan_in =
        Spec { pattern: Pattern::FanIn, publishers: 1_000, subscribers: 1, window: 20_000, ..base.clone() };
    let paced = |qos| Spec { rate: Some(20_000), ..pairs(qos) };
    let rabbit = || floor(Kind::Rabbitmq, 8.0, Some(0.1));
    // A message is outstanding until it is both confirmed and delivered; the queue stays short.
    let durable = |publishers, window, size| Spec {
        durable: true,
        publishers,
        window,
        size,
        settle: Settle::Auto,
        ..queue(Protocol::Amqp091, true)
    };
    // Nobody consumes: a message is outstanding until it is confirmed. With a consumer that settles at once RabbitMQ
    // confirms without a sync, so its figures there are for another promise.
    let stored =
        |publishers, window, size| Spec { pattern: Pattern::Store, ..durable(publishers, window, size) };
    let safe = |speed| floor(Kind::Rabbitmq, speed, None);
    vec![
        row("MQTT 50 pairs, QoS 0", pairs(0), floor(Kind::Rumqttd, 6.0, Some(0.2))),
        row("MQTT 50 pairs, QoS 1", pairs(1), floor(Kind::Rumqttd, 5.0, None)),
        row("MQTT 50 pairs, QoS 2", pairs(2), None),
        row("MQTT 50 x 50 scattered, QoS 0", scattered, floor(Kind::Rumqttd, 4.0, None)),
        row("MQTT 1 to 1, QoS 0", one, floor(Kind::Nats, 5.0, None)),
        row("MQTT 1 to 1,000, QoS 0", fan_out, floor(Kind::Rumqttd, 2.0, None)),
        row("MQTT 1,000 to 1, QoS 0", fan_in, floor(Kind::Nats, 2.0, None)),
        row("STOMP queue", queue(Protocol::Stomp, false), rabbit()),
        row("AMQP 0-9-1 queue", queue(Protocol::Amqp091, false), rabbit()),
        row("AMQP 0-9-1 queue, confirms, ack of 50", queue(Protocol::Amqp091, true), None),
        row("AMQP 1.0 queue, pre-settled", queue(Protocol::Amqp10, false), rabbit()),
        row("AMQP 1.0 queue, unsettled", queue(Protocol::Amqp10, true), None),
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
        row("MQTT 50 pairs, QoS 0, 20,000/s", paced(0), None),
        row("MQTT 50 pairs, QoS 1, 20,000/s", paced(1), None),
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
        assert_eq!(rows.iter().filter(|row| row.floor.is_some()).count(), 15);
    }
}
