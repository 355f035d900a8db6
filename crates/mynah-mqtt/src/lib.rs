//! MQTT 3.1, 3.1.1 and 5.0 as one sans-IO state machine: bytes in, calls on the broker out, and back.
//!
//! # Layout
//!
//! - [`version`], [`codec`], [`reason`]: packets of all versions, with the version as a value
//! - `connection`: states and dispatch; `login`: CONNECT to CONNACK; `inbound`, `outbound`, `subscription`: what packets do;
//!   `parked`: what a durable session keeps
//! - `enhanced`: AUTH; `tolerant`: what is overlooked if the listener is told to
//! - `address`, `alias`, `translate`: topics and properties in the broker's words
//!
//! Never: a socket, a clock, an executor, another protocol.

mod address;
mod alias;
pub mod codec;
mod connection;
mod enhanced;
mod inbound;
mod login;
mod outbound;
mod parked;
pub mod reading;
mod reason;
mod subscription;
#[cfg(test)]
mod tests;
mod tolerant;
mod translate;
pub mod version;

use std::sync::Arc;
use std::time::{Duration, Instant};

use mynah_core::engine::FormatEntry;
use mynah_core::protocol::{Connection, Detect, Peer, Protocol};

pub use translate::{PROPERTIES, WIRE};

use connection::MqttConnection;

/// Bounds and terms of all MQTT connections of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttConfig {
    /// Greatest packet accepted, with its header. At most 268,435,460 [MQTT 5.0 3.1.2.11.4].
    pub packet_bytes_max: u32,
    /// Greatest CONNECT accepted, will included: what a stranger may cost.
    pub login_bytes_max: u32,
    /// Publishes with QoS 1 and 2 a client may have unacknowledged (5.0), or that may wait for the broker (3.x).
    pub receive_max: u16,
    /// Publishes with QoS 1 and 2 sent to a client and unacknowledged, if the client allows as many.
    pub in_flight_max: u16,
    /// Topic aliases a client may use; 0 = none.
    pub topic_alias_max: u16,
    /// Topic aliases used towards a client that takes them; 0 = none. Such a client's messages are encoded one by one, which
    /// costs more than it saves on a fast network.
    pub topic_alias_sent_max: u16,
    /// Whether messages are retained; 5.0 clients are told, and those of 3.x find nothing.
    pub retain: bool,
    /// Greatest quality of service: more is granted less, and published more is refused [MQTT-3.2.2-11].
    pub qos_max: u8,
    /// Versions that are spoken.
    pub versions: Versions,
    /// Before every topic that clients name, and taken off again.
    pub mount_point: Arc<str>,
    /// Some of `retain` and `qos_max` is less than all; set by [`Mqtt::new`].
    pub is_restricted: bool,
    /// Seconds. Clients of 5.0 that want a longer keep alive or none get this one; 0 = no maximum.
    pub keep_alive_max: u16,
    /// Sessions that want to live longer get this expiry; `None` leaves it to the broker.
    pub session_expiry_max: Option<Duration>,
    /// Subscriptions of one connection.
    pub subscriptions_max: usize,
    /// Lenient with what is wrong but harmless, see [`tolerant`].
    pub tolerant: bool,
    /// Of overlapping subscriptions each gets a copy of its own; otherwise there is one for all of them [MQTT 5.0 3.3.4].
    pub copy_each: bool,
    /// Clients of 5.0 are told that it is the rules which refuse what they want; otherwise the reason is unspecified
    /// [MQTT 5.0 3.2.2.2, 3.4.2.1, 3.9.3].
    pub reveal_denials: bool,
    /// Clients are told to go there and are not let in.
    pub redirect: Option<Redirect>,
    /// From the connection to the end of the login.
    pub login_timeout: Duration,
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            packet_bytes_max: 16 << 20,
            login_bytes_max: 64 << 10,
            receive_max: 4096,
            in_flight_max: 4096,
            topic_alias_max: 32,
            topic_alias_sent_max: 32,
            retain: true,
            is_restricted: false,
            qos_max: 2,
            versions: Versions { v31: true, v311: true, v5: true },
            mount_point: "".into(),
            keep_alive_max: 0,
            session_expiry_max: None,
            subscriptions_max: 100_000,
            tolerant: false,
            copy_each: false,
            reveal_denials: true,
            redirect: None,
            login_timeout: Duration::from_secs(10),
        }
    }
}

/// Another server [MQTT 5.0 4.11].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// `host:port`, or several with spaces between them.
    pub server: Arc<str>,
    /// For good, or for this time.
    pub permanent: bool,
}

/// Versions of MQTT that a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    pub v31: bool,
    pub v311: bool,
    pub v5: bool,
}

impl Versions {
    pub(crate) fn has(self, version: version::Version) -> bool {
        match version {
            version::Version::V31 => self.v31,
            version::Version::V311 => self.v311,
            version::Version::V5 => self.v5,
        }
    }
}

/// The factory of MQTT connections.
#[derive(Debug, Clone, Default)]
pub struct Mqtt {
    config: Arc<MqttConfig>,
}

impl Mqtt {
    #[must_use]
    pub fn new(mut config: MqttConfig) -> Self {
        // With 0 nothing could ever be confirmed; 5.0 cannot even say it [MQTT 5.0 3.2.2.3.3].
        config.receive_max = config.receive_max.max(1);
        config.in_flight_max = config.in_flight_max.max(1);
        config.is_restricted = !config.retain || config.qos_max < 2;
        Self { config: Arc::new(config) }
    }
}

impl Protocol for Mqtt {
    fn name(&self) -> &'static str {
        "mqtt"
    }

    fn login_timeout(&self) -> Duration {
        self.config.login_timeout
    }

    /// A CONNECT packet: its type, a remaining length, and one of the two protocol names.
    fn detect(&self, first: &[u8]) -> Detect {
        let Some((&packet, rest)) = first.split_first() else { return Detect::NeedMore };
        if packet != codec::kind::CONNECT << 4 {
            return Detect::No;
        }
        let (length, name) = match codec::primitive::varint(rest) {
            Ok(Some((length, len))) => (length, rest.get(len..).unwrap_or_default()),
            Ok(None) => return Detect::NeedMore,
            Err(_) => return Detect::No,
        };
        let names = [b"\0\x04MQTT".as_slice(), b"\0\x06MQIsdp".as_slice()];
        if names.iter().any(|known| name.starts_with(known)) {
            Detect::Yes
        } else if names.iter().any(|known| known.starts_with(name)) {
            // No protocol else begins like this, so one that is whole or too large is ours to refuse at once.
            let whole = usize::try_from(length).is_ok_and(|length| name.len() >= length);
            if whole || length > self.config.login_bytes_max { Detect::Yes } else { Detect::NeedMore }
        } else {
            Detect::No
        }
    }

    /// Formats of what is stored, which are names on disk: they are never changed.
    fn formats(&self) -> Vec<FormatEntry> {
        vec![
            FormatEntry { format: PROPERTIES, decode: Some(translate::decode), encode: None },
            FormatEntry { format: WIRE, decode: None, encode: Some(translate::encode) },
        ]
    }

    fn accept(&self, _peer: &Peer, now: Instant) -> Box<dyn Connection> {
        Box::new(MqttConnection::new(Arc::clone(&self.config), now))
    }
}
