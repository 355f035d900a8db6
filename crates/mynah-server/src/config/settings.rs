//! What can be configured, with its defaults: plain data, mapped onto the broker and the network in `run.rs`.
//!
//! `config/mynah.yaml` shows every key with its default and a line of why; a test keeps the two equal.
//!
//! Never: reads files or variables (`mod.rs`, `env.rs`), judges values (`check.rs`), shows a secret in `Debug`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

use super::limits::{Limits, Queues, Store};
use super::units::{Size, Span};

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Where the broker keeps what must survive; created when missing.
    pub(crate) data_dir: String,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) admin: Admin,
    pub(crate) metrics: Metrics,
    /// Names of the separate worlds clients can choose between.
    pub(crate) virtual_hosts: Vec<String>,
    pub(crate) auth: Auth,
    pub(crate) log: Log,
    pub(crate) sys: Sys,
    pub(crate) limits: Limits,
    pub(crate) queues: Queues,
    pub(crate) store: Store,
}

/// One port clients connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listener {
    /// Unique; appears in logs and `MYNAH_LISTENERS__<NAME>__BIND`.
    pub(crate) name: String,
    pub(crate) protocol: ListenerProtocol,
    pub(crate) bind: Bind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<Tls>,
    /// Instead of `auth.anonymous`: always or never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) anonymous: Option<ListenerAnonymous>,
    /// Addresses and networks of proxies, which must then say who is at the other end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) proxy_protocol: Vec<String>,
    /// Pages whose scripts may connect to a websocket listener; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) origins: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mqtt: Option<MqttTerms>,
}

/// Whom a listener lets in without a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ListenerAnonymous {
    Never,
    Always,
}

/// Certificates of a listener; all files are PEM and read again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    /// The server's own first, then those that signed it.
    pub(crate) cert: String,
    pub(crate) key: String,
    /// Who may sign clients' certificates.
    #[serde(default)]
    pub(crate) client_ca: Option<String>,
    #[serde(default)]
    pub(crate) client_cert: ClientCert,
    #[serde(default)]
    pub(crate) user_from: UserFrom,
}

/// Whether clients are asked for a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ClientCert {
    #[default]
    None,
    Optional,
    Required,
}

/// What of a client's certificate is the user's name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UserFrom {
    #[default]
    None,
    CommonName,
    Subject,
}

/// What MQTT clients of one listener may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MqttTerms {
    pub(crate) versions: Vec<MqttVersion>,
    /// 0, 1 or 2.
    pub(crate) qos_max: u8,
    pub(crate) packet_bytes_max: Option<Size>,
    /// Zero: no maximum.
    pub(crate) keep_alive_max: Span,
    pub(crate) topic_alias_max: u16,
    pub(crate) receive_max: u16,
    pub(crate) retain: bool,
    pub(crate) strictness: Strictness,
    pub(crate) overlapping: Overlapping,
    /// Clients of 5.0 are told when it is `auth.rules` that refuses something; otherwise the reason is unspecified.
    pub(crate) reveal_denials: bool,
    /// Clients are told to go to this server (host:port) and are not let in; empty: they are let in.
    pub(crate) redirect: String,
    /// The redirection is for good.
    pub(crate) redirect_permanent: bool,
    /// Before every topic its clients name, and taken off again; empty: none.
    pub(crate) mount_point: String,
}

/// What is wrong but harmless ends the connection, or is overlooked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Strictness {
    #[default]
    Strict,
    Tolerant,
}

/// How often a message comes that several subscriptions of a client match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Overlapping {
    #[default]
    Once,
    Each,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MqttVersion {
    #[serde(rename = "3.1")]
    V31,
    #[serde(rename = "3.1.1")]
    V311,
    #[serde(rename = "5.0")]
    V5,
}

impl Default for MqttTerms {
    fn default() -> Self {
        Self {
            versions: vec![MqttVersion::V31, MqttVersion::V311, MqttVersion::V5],
            qos_max: 2,
            packet_bytes_max: None,
            keep_alive_max: Span::secs(0),
            topic_alias_max: 32,
            receive_max: 4096,
            retain: true,
            strictness: Strictness::Strict,
            overlapping: Overlapping::Once,
            reveal_denials: true,
            redirect: String::new(),
            redirect_permanent: false,
            mount_point: String::new(),
        }
    }
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ListenerProtocol {
    Mqtt,
    Stomp,
    /// 0-9-1 and 1.0, told apart by the first eight bytes.
    Amqp,
    /// Any of the above, told apart by the first bytes.
    Auto,
    /// MQTT and STOMP in WebSocket frames, at /mqtt, /stomp and /ws.
    Websocket,
}

/// An address and port to listen on. Port 0 takes any free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bind(pub(crate) SocketAddr);

/// The admin API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Admin {
    pub(crate) bind: Bind,
}

/// The Prometheus end point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Metrics {
    pub(crate) bind: Bind,
}

/// Who may log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Auth {
    pub(crate) anonymous: Anonymous,
    pub(crate) users: Vec<User>,
    /// Failed logins of an address or a user before further ones are slowed down; 0: they never are.
    pub(crate) failures_max: u32,
    /// Empty: whoever is let in may do everything.
    pub(crate) rules: Vec<Rule>,
}

/// What some may or may not do; the first that matches decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    /// One of these two.
    #[serde(default)]
    pub(crate) allow: Vec<RuleAction>,
    #[serde(default)]
    pub(crate) deny: Vec<RuleAction>,
    /// Empty: everybody.
    #[serde(default)]
    pub(crate) users: Vec<String>,
    /// Topics, topic filters, `$queue/NAME`, `$exchange/NAME/KEY`, `$P2P/CLIENT`; with `+`, `#`, `%u`, `%c`.
    pub(crate) to: Vec<String>,
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RuleAction {
    /// To connect; `to` is the client identifier.
    Connect,
    Publish,
    /// To ask for a filter or a queue.
    Subscribe,
    /// To be sent a message of this topic.
    Deliver,
    /// Subscribe and deliver.
    Read,
    /// Publish, subscribe and deliver.
    All,
}

/// From where a client without a name is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Anonymous {
    Never,
    Loopback,
    Always,
}

/// A name with its password, in one of two forms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct User {
    pub(crate) name: String,
    /// argon2id in PHC form, or the stored form of SCRAM-SHA-256, as `mynah hash-password` prints it.
    #[serde(default)]
    pub(crate) password_hash: Option<Secret>,
    /// In the clear; hashed in memory at start.
    #[serde(default)]
    pub(crate) password: Option<Secret>,
    /// Refused from any address but 127.0.0.0/8 and ::1.
    #[serde(default)]
    pub(crate) loopback_only: bool,
    /// May use the admin API.
    #[serde(default = "yes")]
    pub(crate) admin: bool,
}

fn yes() -> bool {
    true
}

/// Text that must not reach a log.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(pub(crate) String);

/// What the broker publishes about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Sys {
    /// Zero: nothing.
    pub(crate) interval: Span,
}

/// What is written to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    pub(crate) level: LogLevel,
    pub(crate) format: LogFormat,
}

/// The least severe event that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl Bind {
    pub(crate) const fn loopback(port: u16) -> Self {
        Self(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
    }

    pub(crate) const fn is_loopback(self) -> bool {
        self.0.ip().is_loopback()
    }
}

impl Config {
    /// Some listener can be reached from another machine.
    pub(crate) fn reaches_beyond_loopback(&self) -> bool {
        self.listeners.iter().any(|listener| !listener.bind.is_loopback())
    }

    /// Neither a user nor anonymous gets in from another machine.
    pub(crate) fn lets_nobody_in_from_elsewhere(&self) -> bool {
        self.auth.anonymous != Anonymous::Always && self.auth.users.iter().all(|user| user.loopback_only)
    }
}

impl Default for Config {
    fn default() -> Self {
        let listener = |name: &str, protocol, port| Listener {
            name: name.to_owned(),
            protocol,
            bind: Bind::loopback(port),
            tls: None,
            anonymous: None,
            proxy_protocol: Vec::new(),
            origins: Vec::new(),
            mqtt: None,
        };
        Self {
            data_dir: "./data".to_owned(),
            listeners: vec![
                listener("mqtt", ListenerProtocol::Mqtt, 1883),
                listener("stomp", ListenerProtocol::Stomp, 61613),
                listener("amqp", ListenerProtocol::Amqp, 5672),
                listener("websocket", ListenerProtocol::Websocket, 15674),
            ],
            admin: Admin::default(),
            metrics: Metrics::default(),
            virtual_hosts: vec!["/".to_owned()],
            auth: Auth::default(),
            log: Log::default(),
            sys: Sys::default(),
            limits: Limits::default(),
            queues: Queues::default(),
            store: Store::default(),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { bind: Bind::loopback(15672) }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { bind: Bind::loopback(15692) }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            anonymous: Anonymous::Loopback,
            users: vec![User::guest()],
            failures_max: 10,
            rules: Vec::new(),
        }
    }
}

impl Default for Sys {
    fn default() -> Self {
        Self { interval: Span::secs(10) }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Text }
    }
}

impl User {
    /// The login every AMQP client library tries first; let in from this machine only, as RabbitMQ does.
    pub(crate) fn guest() -> Self {
        Self {
            name: "guest".to_owned(),
            password_hash: None,
            password: Some(Secret("guest".to_owned())),
            loopback_only: true,
            admin: true,
        }
    }

    pub(crate) fn is_guest_default(&self) -> bool {
        *self == Self::guest()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("...")
    }
}

impl Serialize for Bind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.trim().parse().map(Self).map_err(|_| {
            de::Error::custom(format_args!(
                "\"{}\" is not an address and port; write it like \"127.0.0.1:1883\", \"0.0.0.0:1883\" or \"[::]:1883\"",
                text.escape_debug()
            ))
        })
    }
}
