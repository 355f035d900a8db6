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
use mynah_mqtt::{Mqtt, MqttConfig, Redirect, Versions};
use mynah_stomp::{Stomp, StompConfig, WallClock};

use crate::config::{
    Anonymous, Config, Listener, ListenerProtocol, MqttTerms, MqttVersion, Overlapping, Size, Strictness,
};

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

/// Those that a listener speaks; MQTT on its own terms, if it has some.
pub(crate) fn of(
    config: &Config,
    all: &[(ListenerProtocol, Arc<dyn Protocol>)],
    listener: &Listener,
) -> Vec<Arc<dyn Protocol>> {
    let wanted = |word| match listener.protocol {
        ListenerProtocol::Auto => true,
        ListenerProtocol::Websocket => matches!(word, ListenerProtocol::Mqtt | ListenerProtocol::Stomp),
        ListenerProtocol::Mqtt | ListenerProtocol::Stomp | ListenerProtocol::Amqp => {
            word == listener.protocol
        }
    };
    all.iter()
        .filter(|(word, _)| wanted(*word))
        .map(|(word, protocol)| match &listener.mqtt {
            Some(terms) if *word == ListenerProtocol::Mqtt => {
                Arc::new(Mqtt::new(mqtt_on_terms(config, terms))) as Arc<dyn Protocol>
            }
            _ => Arc::clone(protocol),
        })
        .collect()
}

fn mqtt_on_terms(config: &Config, terms: &MqttTerms) -> MqttConfig {
    let usual = mqtt(config);
    let spoken = |version| terms.versions.contains(&version);
    MqttConfig {
        versions: Versions {
            v31: spoken(MqttVersion::V31),
            v311: spoken(MqttVersion::V311),
            v5: spoken(MqttVersion::V5),
        },
        qos_max: terms.qos_max,
        packet_bytes_max: terms.packet_bytes_max.map_or(usual.packet_bytes_max, Size::as_u32),
        keep_alive_max: u16::try_from(terms.keep_alive_max.0.as_secs()).unwrap_or(u16::MAX),
        topic_alias_max: terms.topic_alias_max,
        topic_alias_sent_max: terms.topic_alias_max,
        receive_max: terms.receive_max,
        retain: terms.retain,
        tolerant: terms.strictness == Strictness::Tolerant,
        copy_each: terms.overlapping == Overlapping::Each,
        reveal_denials: terms.reveal_denials,
        redirect: (!terms.redirect.is_empty()).then(|| Redirect {
            server: terms.redirect.as_str().into(),
            permanent: terms.redirect_permanent,
        }),
        mount_point: terms.mount_point.as_str().into(),
        ..usual
    }
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
        let config = Config::default();
        let all = all(&config);
        let names = |protocol| -> Vec<&str> {
            let listener = Listener { protocol, ..config.listeners[0].clone() };
            of(&config, &all, &listener).iter().map(|p| p.name()).collect()
        };
        assert_eq!(names(ListenerProtocol::Mqtt), ["mqtt"]);
        assert_eq!(names(ListenerProtocol::Stomp), ["stomp"]);
        assert_eq!(names(ListenerProtocol::Amqp), ["amqp091", "amqp10"]);
        assert_eq!(names(ListenerProtocol::Websocket), ["mqtt", "stomp"]);
        assert_eq!(names(ListenerProtocol::Auto), ["mqtt", "amqp091", "amqp10", "stomp"]);
    }
}
