//! The protocols this binary speaks, one line each, and which of them a listener speaks.
//!
//! A new protocol is one crate and one line in [`all`].
//!
//! Never: knows what a protocol does with its settings.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mynah_amqp10::{Amqp10, Amqp10Config, Mechanism};
use mynah_amqp091::{Amqp091, Amqp091Config};
use mynah_core::protocol::Protocol;
use mynah_mqtt::{Mqtt, MqttConfig};
use mynah_stomp::{Stomp, StompConfig, WallClock};

use crate::config::{Anonymous, Config, ListenerProtocol};

/// Every protocol with the listeners' word for it.
pub(crate) fn all(config: &Config) -> Vec<(ListenerProtocol, Arc<dyn Protocol>)> {
    vec![
        (ListenerProtocol::Mqtt, Arc::new(Mqtt::new(mqtt(config)))),
        (ListenerProtocol::Amqp, Arc::new(Amqp091::new(amqp091(config)))),
        (ListenerProtocol::Amqp, Arc::new(Amqp10::new(amqp10(config)))),
        // Last: a person's first key stroke is the least distinct preamble.
        (ListenerProtocol::Stomp, Arc::new(Stomp::new(stomp(config)))),
    ]
}

/// Those that a listener of this kind speaks.
pub(crate) fn of(
    all: &[(ListenerProtocol, Arc<dyn Protocol>)],
    wanted: ListenerProtocol,
) -> Vec<Arc<dyn Protocol>> {
    all.iter()
        .filter(|(word, _)| wanted == ListenerProtocol::Auto || *word == wanted)
        .map(|(_, protocol)| Arc::clone(protocol))
        .collect()
}

fn mqtt(config: &Config) -> MqttConfig {
    let limits = &config.limits;
    MqttConfig {
        packet_bytes_max: limits.message_bytes_max.as_u32(),
        login_bytes_max: limits.login_bytes_max.as_u32(),
        subscriptions_max: limits.subscriptions(),
        login_timeout: limits.login_timeout.0,
        ..MqttConfig::default()
    }
}

fn stomp(config: &Config) -> StompConfig {
    let limits = &config.limits;
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    StompConfig {
        body_bytes_max: limits.message_bytes_max.as_usize(),
        login_bytes_max: limits.login_bytes_max.as_usize(),
        login_timeout: limits.login_timeout_stomp.0,
        subscriptions_max: limits.subscriptions(),
        clock: Some(WallClock {
            at: Instant::now(),
            epoch_ms: i64::try_from(epoch.as_millis()).unwrap_or(i64::MAX),
        }),
        ..StompConfig::default()
    }
}

fn amqp091(config: &Config) -> Amqp091Config {
    let limits = &config.limits;
    Amqp091Config {
        message_bytes_max: limits.message_bytes_max.0,
        login_frame_bytes_max: limits.login_bytes_max.as_u32(),
        login_timeout: limits.login_timeout.0,
        consumers_max: limits.subscriptions(),
        anonymous: config.auth.anonymous != Anonymous::Never,
        ..Amqp091Config::default()
    }
}

fn amqp10(config: &Config) -> Amqp10Config {
    let limits = &config.limits;
    // Offered only where somebody may use it: clients take the first mechanism they know.
    let mut mechanisms = vec![Mechanism::Plain];
    if config.auth.anonymous != Anonymous::Never {
        mechanisms.push(Mechanism::Anonymous);
    }
    Amqp10Config {
        message_bytes_max: limits.message_bytes_max.as_usize(),
        login_timeout: limits.login_timeout.0,
        mechanisms,
        create_queues: config.queues.auto_create,
        ..Amqp10Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_speaks_what_it_says() {
        let all = all(&Config::default());
        let names = |wanted| -> Vec<&str> { of(&all, wanted).iter().map(|p| p.name()).collect() };
        assert_eq!(names(ListenerProtocol::Mqtt), ["mqtt"]);
        assert_eq!(names(ListenerProtocol::Stomp), ["stomp"]);
        assert_eq!(names(ListenerProtocol::Amqp), ["amqp091", "amqp10"]);
        assert_eq!(names(ListenerProtocol::Auto), ["mqtt", "amqp091", "amqp10", "stomp"]);
    }
}
