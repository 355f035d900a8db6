//! From the protocol header to `connection.open-ok`: start, SASL, tune, open (0-9-1 sections 2.2.4 and 1.4).
//!
//! Mechanisms: PLAIN, AMQPLAIN, ANONYMOUS. Whether a login is good is the broker's to say.
//! Never: claims a capability that does not work.

use bytes::BytesMut;
use mynah_core::Value;
use mynah_core::protocol::{Credentials, Host, Reply, SessionSpec, Violation, ViolationKind};

use crate::codec::field::{Table, put_entry};
use crate::codec::frame::FRAME_BYTES_MIN;
use crate::codec::method::{Request, Response};
use crate::codec::{clipped, put_sized};
use crate::connection::{Amqp091Connection, Stage};
use crate::reason::{Code, Fault};
use crate::version;
use crate::waiting::Asked;

const CAPABILITIES: [&str; 8] = [
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
];

/// What the client said it can do.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Capabilities {
    pub(crate) cancel_notify: bool,
    pub(crate) failure_close: bool,
    /// Not said but known: py-amqp, under kombu and celery, takes any broker that is not RabbitMQ to follow the letter of the
    /// specification, in which `basic.qos` without `global` is for the whole channel at once.
    pub(crate) shares_prefetch: bool,
}

impl Amqp091Connection {
    /// The first eight bytes. Answers how many were used.
    pub(crate) fn on_protocol_header(
        &mut self,
        bytes: &[u8],
        host: &mut dyn Host,
    ) -> Result<usize, Violation> {
        if bytes.len() < version::HEADER.len() && version::HEADER.starts_with(bytes) {
            return Ok(0);
        }
        if !bytes.starts_with(version::HEADER) {
            // The answer to anything else is the header this side would take (0-9-1 section 4.2.2).
            host.wire().extend_from_slice(version::HEADER);
            return Err(Violation::new(
                ViolationKind::Malformed,
                "the protocol header is not that of AMQP 0-9-1",
            ));
        }
        let mut properties = BytesMut::new();
        server_properties(&mut properties);
        let mechanisms: &[u8] =
            if self.config.anonymous { b"PLAIN AMQPLAIN ANONYMOUS" } else { b"PLAIN AMQPLAIN" };
        let start = Response::ConnectionStart {
            version_major: version::MAJOR,
            version_minor: version::MINOR,
            server_properties: Table::trusted(&properties),
            mechanisms,
            locales: b"en_US",
        };
        start.put(host.wire(), 0);
        self.stage = Stage::Start;
        Ok(version::HEADER.len())
    }

    /// A method before the connection is open.
    pub(crate) fn on_handshake(&mut self, request: &Request<'_>, host: &mut dyn Host) -> Result<(), Fault> {
        match (self.stage, request) {
            (Stage::Start, Request::ConnectionStartOk { client_properties, mechanism, response, .. }) => {
                self.on_start_ok(*client_properties, mechanism, response, host)
            }
            (Stage::Tune, Request::ConnectionTuneOk { channel_max, frame_max, heartbeat }) => {
                self.on_tune_ok(*channel_max, *frame_max, *heartbeat)
            }
            (Stage::Open, Request::ConnectionOpen { virtual_host, .. }) => {
                self.open(virtual_host, host);
                Ok(())
            }
            (_, Request::ConnectionClose { .. }) => {
                self.on_connection_close(host);
                Ok(())
            }
            (stage, _) => {
                let text =
                    format!("a method that does not belong to the stage '{stage:?}' of opening a connection");
                Err(Fault::new(Code::CommandInvalid, text))
            }
        }
    }

    fn on_start_ok(
        &mut self,
        properties: Table<'_>,
        mechanism: &str,
        response: &[u8],
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        self.capabilities.shares_prefetch =
            properties.get("product").is_some_and(|product| product.as_str() == Some("py-amqp"));
        if let Some(Value::Map(capabilities)) = properties.get("capabilities") {
            let has = |name: &str| {
                capabilities
                    .iter()
                    .any(|(key, value)| key.as_str() == Some(name) && value.as_bool() == Some(true))
            };
            self.capabilities.cancel_notify = has("consumer_cancel_notify");
            self.capabilities.failure_close = has("authentication_failure_close");
        }
        if let Some(name) = properties.get("connection_name") {
            self.client_name = clipped(name.as_str().unwrap_or_default()).into();
        }
        let (mechanism, user, password): (_, Option<Vec<u8>>, Vec<u8>) = match mechanism {
            "PLAIN" => {
                // [authorisation identity] NUL user NUL password [RFC 4616]
                let mut parts = response.splitn(3, |byte| *byte == 0).skip(1);
                ("PLAIN", parts.next().map(<[u8]>::to_vec), parts.next().unwrap_or_default().to_vec())
            }
            "AMQPLAIN" => {
                let table = Table::new(response).unwrap_or_default();
                let text = |name| table.get(name).map(|value| value.to_text().into_bytes());
                ("AMQPLAIN", text("LOGIN"), text("PASSWORD").unwrap_or_default())
            }
            "ANONYMOUS" if self.config.anonymous => {
                let ticket = self.ask(0, (10, 11), false, Asked::Login { mechanism: "ANONYMOUS" });
                host.authenticate(ticket, Credentials::Anonymous);
                return Ok(());
            }
            other => {
                let text = format!("unknown authentication mechanism '{}'", clipped(other));
                return Err(Fault::new(Code::CommandInvalid, text));
            }
        };
        let Some(user) = user.and_then(|user| String::from_utf8(user).ok()) else {
            return Err(Fault::access(refused_login(mechanism)));
        };
        let ticket = self.ask(0, (10, 11), false, Asked::Login { mechanism });
        host.authenticate(ticket, Credentials::Password { user: &user, password: &password });
        Ok(())
    }

    pub(crate) fn on_login(
        &mut self,
        mechanism: &str,
        reply: Reply,
        host: &mut dyn Host,
    ) -> Result<(), Violation> {
        if let Reply::Authenticated { user, .. } = reply {
            self.user = user;
            let tune = Response::ConnectionTune {
                channel_max: self.config.channel_max,
                frame_max: self.config.frame_max.max(FRAME_BYTES_MIN),
                heartbeat: self.config.heartbeat,
            };
            tune.put(host.wire(), 0);
            self.stage = Stage::Tune;
            return Ok(());
        }
        Err(self.refuse_login(&Fault::access(refused_login(mechanism)), host))
    }

    /// Says why, if the client can take it; without that capability it expects the connection just to end.
    pub(crate) fn refuse_login(&mut self, fault: &Fault, host: &mut dyn Host) -> Violation {
        if self.capabilities.failure_close {
            self.put_connection_close(fault, host);
        }
        self.stage = Stage::Closed;
        Violation::new(ViolationKind::Unauthenticated, fault.text.clone())
    }

    fn on_tune_ok(&mut self, channel_max: u16, frame_max: u32, heartbeat: u16) -> Result<(), Fault> {
        let own_frames = self.config.frame_max.max(FRAME_BYTES_MIN);
        let own_channels = self.config.channel_max;
        let refuse = |field, value: u32, how, bound, limit: u32| {
            let text =
                format!("negotiated {field} = {value} is {how} than the {bound} allowed value ({limit})");
            Err(Fault::new(Code::NotAllowed, text))
        };
        if frame_max != 0 && frame_max < FRAME_BYTES_MIN {
            return refuse("frame_max", frame_max, "lower", "minimum", FRAME_BYTES_MIN);
        }
        if frame_max > own_frames {
            return refuse("frame_max", frame_max, "higher", "maximum", own_frames);
        }
        if own_channels != 0 && channel_max > own_channels {
            return refuse("channel_max", channel_max.into(), "higher", "maximum", own_channels.into());
        }
        // 0 means "no limit" for the client; this side keeps its own.
        let agreed = if frame_max == 0 { own_frames } else { frame_max };
        self.frame_max = usize::try_from(agreed).unwrap_or(usize::MAX);
        self.channel_max = match (channel_max, own_channels) {
            (0, 0) => u16::MAX,
            (0, own) => own,
            (asked, _) => asked,
        };
        self.heartbeat = heartbeat;
        self.stage = Stage::Open;
        Ok(())
    }

    fn open(&mut self, virtual_host: &str, host: &mut dyn Host) {
        self.virtual_host = virtual_host.into();
        let ticket = self.ask(0, (10, 40), false, Asked::Open { virtual_host: virtual_host.into() });
        let session = SessionSpec {
            protocol: "AMQP 0-9-1",
            virtual_host: Some(virtual_host),
            client_id: &self.client_name,
            session: None,
            will: None,
        };
        host.open(ticket, session);
    }

    pub(crate) fn on_opened(
        &mut self,
        virtual_host: &str,
        reply: Reply,
        host: &mut dyn Host,
    ) -> Result<(), Violation> {
        if let Reply::Refused(refusal) = reply {
            let fault = Fault::not_opened(&refusal, virtual_host).by((10, 40));
            return self.on_fault(0, fault, host);
        }
        Response::ConnectionOpenOk { known_hosts: "" }.put(host.wire(), 0);
        self.stage = Stage::Ready;
        Ok(())
    }
}

/// RabbitMQ's words.
fn refused_login(mechanism: &str) -> String {
    format!(
        "Login was refused using authentication mechanism {mechanism}. For details see the broker logfile."
    )
}

fn server_properties(buf: &mut BytesMut) {
    buf.extend_from_slice(b"\x0ccapabilitiesF");
    put_sized(buf, |buf| {
        for name in CAPABILITIES {
            put_entry(buf, name, &Value::Bool(true));
        }
    });
    for (name, text) in [
        ("product", "Mynah"),
        ("version", env!("CARGO_PKG_VERSION")),
        ("platform", "Rust"),
        ("information", "AMQP 0-9-1, with RabbitMQ's extensions"),
    ] {
        put_entry(buf, name, &Value::from(text));
    }
}
