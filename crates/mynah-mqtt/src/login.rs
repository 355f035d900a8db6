//! From CONNECT to CONNACK: authenticate, open the session, say what holds.
//!
//! While the broker thinks, no byte is consumed: what a client sends behind its CONNECT is not even looked at
//! before it is let in [MQTT-3.1.4-6].

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mynah_core::protocol::{
    Credentials, Expiry, Host, Opened, Refusal, SessionSpec, SessionTerms, Violation, Will,
};
use mynah_core::{ContentRef, Header, Message, PublishRef, Retain};

use crate::Redirect;
use crate::address::{RESPONSE, address_of, delayed, mounted, unescaped};
use crate::alias::Aliases;
use crate::codec::ack::{Ack, AckKind};
use crate::codec::connect::{ConnAck, Connect, WillFields};
use crate::codec::primitive::VARINT_MAX;
use crate::codec::property::{Properties, Value, fits, id, put_field, put_flag, put_four, put_two};
use crate::codec::publish::qos;
use crate::connection::{MqttConnection, State, TicketKind};
use crate::enhanced::{Enhanced, METHOD, method_and_data, put_method};
use crate::parked::{Parked, Phase};
use crate::reason::{self, Fault, Reason};
use crate::tolerant;
use crate::translate;
use crate::version::Version;

/// A session that does not expire [MQTT 5.0 3.1.2.11.2].
const NEVER: u32 = u32::MAX;

/// What a CONNECT asked for, until it is answered.
#[derive(Debug)]
pub(crate) struct Login {
    client_id: Box<str>,
    clean: bool,
    expiry: Expiry,
    will: Option<Will>,
    /// Wanted, before our maximum.
    keep_alive: u16,
    /// What the client wanted, in seconds.
    expiry_wanted: u32,
    response_info: bool,
    /// The broker's last word in an enhanced authentication.
    pub(crate) proof: Bytes,
}

/// The properties of a CONNECT that the machine needs.
struct Terms {
    expiry: u32,
    receive_max: u16,
    packet_max: u32,
    alias_max: u16,
    problem_info: bool,
    response_info: bool,
}

impl Terms {
    fn of(connect: &Connect<'_>) -> Self {
        let mut terms = Self {
            expiry: 0,
            receive_max: u16::MAX,
            packet_max: u32::MAX,
            alias_max: 0,
            problem_info: true,
            response_info: false,
        };
        if !connect.version.has_properties() && !connect.clean {
            // A 3.x session that is not clean has no end of its own; the broker's maximum bounds it.
            terms.expiry = NEVER;
        }
        for (id, value) in connect.properties.iter() {
            match (id, value) {
                (id::SESSION_EXPIRY, Value::Four(seconds)) => terms.expiry = seconds,
                (id::RECEIVE_MAX, Value::Two(count)) => terms.receive_max = count,
                // Above what any packet can be it is no limit.
                (id::MAX_PACKET_SIZE, Value::Four(bytes)) if bytes < VARINT_MAX => terms.packet_max = bytes,
                (id::TOPIC_ALIAS_MAX, Value::Two(count)) => terms.alias_max = count,
                (id::REQUEST_PROBLEM_INFO, Value::Flag(wanted)) => terms.problem_info = wanted,
                (id::REQUEST_RESPONSE_INFO, Value::Flag(wanted)) => terms.response_info = wanted,
                _ => {}
            }
        }
        terms
    }
}

pub(crate) fn expiry_of(seconds: u32) -> Expiry {
    match seconds {
        0 => Expiry::AtEnd,
        NEVER => Expiry::Never,
        seconds => Expiry::After(Duration::from_secs(u64::from(seconds))),
    }
}

/// The smaller of the two.
pub(crate) fn capped(expiry: Expiry, max: Option<Duration>) -> Expiry {
    match (expiry, max) {
        (Expiry::Never, Some(max)) => Expiry::After(max),
        (Expiry::After(wanted), Some(max)) => Expiry::After(wanted.min(max)),
        (expiry, _) => expiry,
    }
}

fn seconds_of(expiry: Expiry) -> u32 {
    match expiry {
        Expiry::AtEnd => 0,
        Expiry::Never => NEVER,
        Expiry::After(duration) => u32::try_from(duration.as_secs()).unwrap_or(NEVER),
    }
}

impl MqttConnection {
    pub(crate) fn on_connect(
        &mut self,
        now: Instant,
        body: &[u8],
        host: &mut dyn Host,
    ) -> Result<(), Violation> {
        let lenient;
        let body = if self.config.tolerant {
            lenient = tolerant::connect(body);
            &lenient
        } else {
            body
        };
        let connect = match Connect::decode(body) {
            Ok(connect) => connect,
            Err((version, fault)) => return Err(self.reject(version, fault, host)),
        };
        if !self.config.versions.has(connect.version) {
            let fault =
                Fault::new(Reason::UNSUPPORTED_VERSION, "this version of MQTT is not spoken on this port");
            return Err(self.reject(Some(connect.version), fault, host));
        }
        if self.config.redirect.is_some() {
            return Err(self.send_elsewhere(&connect, host));
        }
        let login = match self.examine(now, &connect) {
            Ok(login) => login,
            Err(fault) => return Err(self.reject(Some(connect.version), fault, host)),
        };
        if let (Some(_), data) = method_and_data(&connect.properties) {
            self.enhanced = Enhanced::Yes;
            self.state = State::Authenticating(Box::new(login));
            self.ask_login(TicketKind::Authenticate, data, host);
            return Ok(());
        }
        let credentials = match (connect.user, connect.password) {
            (None, None) => Credentials::Anonymous,
            (Some(user), None) => Credentials::Name(user),
            (user, password) => Credentials::Password {
                user: user.unwrap_or_default(),
                password: password.unwrap_or_default(),
            },
        };
        self.state = State::Authenticating(Box::new(login));
        host.authenticate(TicketKind::Authenticate.ticket(0), credentials);
        Ok(())
    }

    /// Checks what can be checked without the broker, and takes over the terms.
    fn examine(&mut self, now: Instant, connect: &Connect<'_>) -> Result<Login, Fault> {
        let terms = Terms::of(connect);
        // First: the refusal has to fit too [MQTT-3.1.2-24].
        self.packet_max = terms.packet_max;
        match method_and_data(&connect.properties) {
            (None, []) | (Some(METHOD), _) => {}
            (None, _) => return Err(Fault::protocol("authentication data without a method")),
            (Some(_), _) => {
                let text = "this authentication method is not offered; SCRAM-SHA-256 is";
                return Err(Fault::new(Reason::BAD_AUTHENTICATION_METHOD, text));
            }
        }
        let nameless = connect.client_id.is_empty();
        if nameless && !self.config.tolerant {
            let refused = match connect.version {
                Version::V31 => true,
                // [MQTT-3.1.3-8 of 3.1.1]
                Version::V311 => !connect.clean,
                Version::V5 => false,
            };
            if refused {
                return Err(Fault::new(Reason::CLIENT_ID_INVALID, "a client identifier is needed here"));
            }
        }
        self.version = connect.version;
        let will = connect.will.as_ref().map(|will| self.will_of(will, now)).transpose()?;
        self.bridge = connect.bridge;
        self.problem_info = terms.problem_info;
        self.aliases = Aliases::new(terms.alias_max.min(self.config.topic_alias_sent_max));
        self.outbound.set_window(terms.receive_max.min(self.config.in_flight_max));
        let forgotten = nameless && !connect.version.has_properties();
        let expiry = if forgotten {
            Expiry::AtEnd
        } else {
            capped(expiry_of(terms.expiry), self.config.session_expiry_max)
        };
        Ok(Login {
            client_id: connect.client_id.into(),
            // A session of 3.x under a name that the client never learns could not be found again.
            clean: connect.clean || forgotten,
            expiry,
            will,
            keep_alive: connect.keep_alive,
            expiry_wanted: terms.expiry,
            response_info: terms.response_info,
            proof: Bytes::new(),
        })
    }

    pub(crate) fn on_authenticated(&mut self, mut login: Box<Login>, host: &mut dyn Host) {
        let will = login.will.take();
        let terms = SessionTerms {
            fresh: login.clean,
            expiry: login.expiry,
            credit: u32::from(self.outbound.window()),
        };
        let session = SessionSpec {
            protocol: self.version.label(),
            virtual_host: None,
            client_id: &login.client_id,
            session: Some(terms),
            will,
        };
        host.open(TicketKind::Open.ticket(0), session);
        self.state = State::Opening(login);
    }

    pub(crate) fn on_opened(&mut self, now: Instant, login: &Login, opened: &Opened, host: &mut dyn Host) {
        // A session that goes on to the end of this connection only is still where its subscriptions are held.
        self.durable = opened.present || opened.expiry != Expiry::AtEnd;
        self.ends_with_connection = login.expiry_wanted == 0;
        self.keep_alive = match (login.keep_alive, self.config.keep_alive_max) {
            // 3.x cannot be told, so it gets what it asked for.
            (wanted, max) if max > 0 && self.version.has_properties() && (wanted == 0 || wanted > max) => max,
            (wanted, _) => wanted,
        };
        self.heard = now;
        self.state = State::Open;
        let properties = self.connack_properties(login, opened);
        let connack = ConnAck {
            // The byte is reserved in 3.1 [MQTT 3.1 3.2].
            session_present: opened.present && self.version != Version::V31,
            code: Reason::SUCCESS.0,
            properties: Properties::trusted(&properties),
        };
        connack.encode(self.version, host.wire());
        // A state that cannot be read is as good as none: messages then come with new identifiers.
        let parked = match &opened.parked {
            Some(bytes) => Parked::decode(bytes).ok(),
            // The broker was started again meanwhile.
            None => Some(Parked::from_notes(&opened.notes, &opened.memos)),
        };
        if let Some(parked) = parked.filter(|parked| opened.present && *parked != Parked::default()) {
            self.resume(&parked, host);
        }
        self.send_waiting(now, host);
        self.outbound.flush(host);
    }

    fn resume(&mut self, parked: &Parked, host: &mut dyn Host) {
        self.inbound.resume(&parked.unreleased);
        self.outbound.resume(&parked.owed);
        for owed in parked.owed.iter().filter(|owed| owed.phase == Phase::Received) {
            Ack::new(AckKind::PubRel, owed.id, Reason::SUCCESS).encode(self.version, host.wire());
        }
        self.resume_subscriptions(&parked.subscriptions, host);
    }

    fn connack_properties(&self, login: &Login, opened: &Opened) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.version.has_properties() {
            return out;
        }
        let config = &self.config;
        let expiry = seconds_of(opened.expiry);
        if expiry != login.expiry_wanted {
            put_four(&mut out, id::SESSION_EXPIRY, expiry);
        }
        if config.receive_max != u16::MAX {
            put_two(&mut out, id::RECEIVE_MAX, config.receive_max);
        }
        if config.qos_max < 2 {
            put_flag(&mut out, id::MAX_QOS, config.qos_max == 1);
        }
        if !config.retain {
            put_flag(&mut out, id::RETAIN_AVAILABLE, false);
        }
        if config.packet_bytes_max < VARINT_MAX {
            put_four(&mut out, id::MAX_PACKET_SIZE, config.packet_bytes_max);
        }
        if login.client_id.is_empty() {
            put_field(&mut out, id::ASSIGNED_CLIENT_ID, opened.client_id.as_bytes());
        }
        if config.topic_alias_max > 0 {
            put_two(&mut out, id::TOPIC_ALIAS_MAX, config.topic_alias_max);
        }
        if self.keep_alive != login.keep_alive {
            put_two(&mut out, id::SERVER_KEEP_ALIVE, self.keep_alive);
        }
        if self.enhanced != Enhanced::No {
            put_method(&mut out, &login.proof);
        }
        // A word of its own: only this client may subscribe below it.
        if login.response_info && !opened.client_id.contains(['/', '+', '#']) {
            let prefix = [RESPONSE, &opened.client_id].concat();
            if out.len() + prefix.len() + 16 <= self.packet_max as usize {
                put_field(&mut out, id::RESPONSE_INFO, prefix.as_bytes());
            }
        }
        // All of these are the default; they are only said to clients that can take the bytes [MQTT-3.1.2-24].
        if out.len() + 16 <= self.packet_max as usize {
            put_flag(&mut out, id::WILDCARD_AVAILABLE, true);
            put_flag(&mut out, id::SUBSCRIPTION_ID_AVAILABLE, true);
            put_flag(&mut out, id::SHARED_AVAILABLE, true);
        }
        out
    }

    /// The broker does not let the client in.
    pub(crate) fn on_login_refused(&mut self, refusal: &Refusal, host: &mut dyn Host) -> Violation {
        let fault = Fault { reason: reason::of_login(refusal), text: refusal.text.clone() };
        self.reject(Some(self.version), fault, host)
    }

    /// [MQTT 5.0 4.11]; 3.x has no word for it but "not now".
    fn send_elsewhere(&mut self, connect: &Connect<'_>, host: &mut dyn Host) -> Violation {
        self.packet_max = Terms::of(connect).packet_max;
        let reason = self.config.redirect.as_ref().map_or(Reason::SERVER_UNAVAILABLE, Redirect::reason);
        let fault = Fault::new(reason, "another server takes the clients of this port");
        self.reject(Some(connect.version), fault, host)
    }

    /// CONNACK with a code where the version has one, and the end.
    pub(crate) fn reject(
        &mut self,
        version: Option<Version>,
        fault: Fault,
        host: &mut dyn Host,
    ) -> Violation {
        self.state = State::Closed;
        let Some(version) = version else { return fault.violation() };
        if version.has_properties() {
            let mut text = Vec::new();
            let told = fault.reason.told(self.config.reveal_denials);
            let redirect = self.config.redirect.as_ref();
            if let Some(redirect) = redirect.filter(|redirect| redirect.reason() == fault.reason) {
                put_field(&mut text, id::SERVER_REFERENCE, redirect.server.as_bytes());
            }
            if told == fault.reason {
                put_field(&mut text, id::REASON_STRING, fault.text.as_bytes());
            }
            // Flags and code.
            let properties = if fits(&text, 2, self.packet_max) {
                Properties::trusted(&text)
            } else {
                Properties::default()
            };
            ConnAck { session_present: false, code: told.0, properties }.encode(version, host.wire());
        } else if let Some(code) = fault.reason.return_code_v3() {
            let properties = Properties::default();
            ConnAck { session_present: false, code, properties }.encode(version, host.wire());
        }
        fault.violation()
    }
}

impl Redirect {
    fn reason(&self) -> Reason {
        if self.permanent { Reason::SERVER_MOVED } else { Reason::USE_ANOTHER_SERVER }
    }
}

impl MqttConnection {
    fn will_of(&self, fields: &WillFields<'_>, now: Instant) -> Result<Will, Fault> {
        if qos(fields.guarantee) > self.config.qos_max {
            return Err(Fault::new(
                Reason::QOS_NOT_SUPPORTED,
                "the will's QoS is above the maximum of this listener",
            ));
        }
        if fields.retain && !self.config.retain && self.version.has_properties() {
            return Err(Fault::new(Reason::RETAIN_NOT_SUPPORTED, "messages are not retained here"));
        }
        let mut delay = Duration::ZERO;
        let mut header = Header {
            guarantee: fields.guarantee,
            retain: if fields.retain && self.config.retain { Retain::Keep } else { Retain::No },
            ..Header::default()
        };
        let mut content = ContentRef::None;
        for (id, value) in fields.properties.iter() {
            match (id, value) {
                (id::WILL_DELAY, Value::Four(seconds)) => delay = Duration::from_secs(u64::from(seconds)),
                (id::MESSAGE_EXPIRY, Value::Four(seconds)) => header.ttl_ms = Some(u64::from(seconds) * 1000),
                (id, value) => {
                    if let (id::PAYLOAD_FORMAT, Value::Flag(text)) = (id, value) {
                        header.text = text;
                    }
                    content = ContentRef::Encoded {
                        format: translate::PROPERTIES,
                        bytes: fields.properties.bytes(),
                        decode: translate::decode,
                    };
                }
            }
        }
        let (topic, held_back_ms) = delayed(fields.topic)?;
        let topic = mounted(&self.config.mount_point, unescaped(topic));
        let address = address_of(&topic)?;
        let publish = PublishRef { header, content, ..PublishRef::new(address, fields.payload) };
        let held_back = Duration::from_millis(held_back_ms);
        Ok(Will { message: Arc::new(Message::from_publish(&publish, now)), delay, held_back })
    }
}
