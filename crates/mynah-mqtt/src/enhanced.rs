//! Enhanced authentication: SCRAM-SHA-256 in AUTH packets, at login and again while connected [MQTT 5.0 4.12].
//!
//! The exchange itself is the broker's; here it is put into packets, in the order the standard wants.

use mynah_core::protocol::{Credentials, Host, Reply, Violation};

use crate::codec::control::Auth;
use crate::codec::property::{Properties, Value, fits, id, put_field};
use crate::codec::{Frame, check_flags, kind};
use crate::connection::{MqttConnection, State, TicketKind};
use crate::login::Login;
use crate::reason::{self, Fault, Reason};

/// The method that is offered [RFC 7677].
pub(crate) const METHOD: &str = "SCRAM-SHA-256";

/// How the client proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Enhanced {
    /// By CONNECT alone: no AUTH may come [MQTT-4.12.0-6].
    #[default]
    No,
    Yes,
    /// It does so again; the broker has the word.
    RenewalAsked,
    /// It does so again, and has the word.
    RenewalChallenged,
}

/// Method and data of an AUTH or CONNECT.
pub(crate) fn method_and_data<'a>(properties: &Properties<'a>) -> (Option<&'a str>, &'a [u8]) {
    let (mut method, mut data) = (None, b"".as_slice());
    for (id, value) in properties.iter() {
        match (id, value) {
            (id::AUTHENTICATION_METHOD, Value::Text(text)) => method = Some(text),
            (id::AUTHENTICATION_DATA, Value::Binary(bytes)) => data = bytes,
            _ => {}
        }
    }
    (method, data)
}

pub(crate) fn put_method(out: &mut Vec<u8>, data: &[u8]) {
    put_field(out, id::AUTHENTICATION_METHOD, METHOD.as_bytes());
    if !data.is_empty() {
        put_field(out, id::AUTHENTICATION_DATA, data);
    }
}

impl MqttConnection {
    pub(crate) fn ask_login(&self, kind: TicketKind, data: &[u8], host: &mut dyn Host) {
        host.authenticate(kind.ticket(0), Credentials::Sasl { mechanism: METHOD, data });
    }

    pub(crate) fn on_challenge(
        &mut self,
        login: Box<Login>,
        data: &[u8],
        host: &mut dyn Host,
    ) -> Result<(), Violation> {
        if let Err(fault) = self.write_auth(Reason::CONTINUE_AUTHENTICATION, data, host) {
            return Err(self.reject(Some(self.version), fault, host));
        }
        self.state = State::Challenged(login);
        Ok(())
    }

    /// Before CONNACK nothing but AUTH and DISCONNECT is allowed [MQTT-3.1.2-30].
    pub(crate) fn on_answer(&mut self, frame: &Frame<'_>, host: &mut dyn Host) -> Result<(), Violation> {
        let State::Challenged(login) = std::mem::replace(&mut self.state, State::Closed) else {
            return Ok(());
        };
        let data = match frame.first >> 4 {
            kind::DISCONNECT => return Err(Fault::protocol("the client gave up its login").violation()),
            kind::AUTH => check_flags(frame.first, self.version)
                .and_then(|()| Auth::decode(frame.body))
                .and_then(|auth| answer_in(&auth, Reason::CONTINUE_AUTHENTICATION)),
            _ => Err(Fault::protocol("only AUTH can follow a challenge [MQTT-3.1.2-30]")),
        };
        match data {
            Ok(data) => {
                self.state = State::Authenticating(login);
                self.ask_login(TicketKind::Authenticate, data, host);
                Ok(())
            }
            Err(fault) => Err(self.reject(Some(self.version), fault, host)),
        }
    }

    /// AUTH while connected: the client proves once more who it is [MQTT 5.0 4.12.1].
    pub(crate) fn on_auth(&mut self, auth: &Auth<'_>, host: &mut dyn Host) -> Result<(), Fault> {
        let expected = match self.enhanced {
            Enhanced::No => {
                let text = "AUTH without an authentication method in CONNECT [MQTT-4.12.0-6]";
                return Err(Fault::protocol(text));
            }
            Enhanced::RenewalAsked => {
                return Err(Fault::protocol("AUTH while another one is not answered yet"));
            }
            Enhanced::Yes => Reason::RE_AUTHENTICATE,
            Enhanced::RenewalChallenged => Reason::CONTINUE_AUTHENTICATION,
        };
        let data = answer_in(auth, expected)?;
        self.enhanced = Enhanced::RenewalAsked;
        self.ask_login(TicketKind::Renew, data, host);
        Ok(())
    }

    /// The broker's answer [MQTT-4.12.1-2].
    pub(crate) fn on_renewal_reply(&mut self, reply: &Reply, host: &mut dyn Host) -> Result<(), Violation> {
        if let Reply::Refused(refusal) = reply {
            let reason = match reason::of_login(refusal) {
                // DISCONNECT has no code for a bad user name or password.
                Reason::BAD_LOGIN => Reason::NOT_AUTHORIZED,
                reason => reason,
            };
            return Err(self.fail(Fault { reason, text: refusal.text.clone() }, host));
        }
        let written = if let Reply::Challenge(data) = reply {
            self.enhanced = Enhanced::RenewalChallenged;
            self.write_auth(Reason::CONTINUE_AUTHENTICATION, data, host)
        } else if let Reply::Authenticated { proof, .. } = reply {
            self.enhanced = Enhanced::Yes;
            self.write_auth(Reason::SUCCESS, proof, host)
        } else {
            Ok(())
        };
        written.map_err(|fault| self.fail(fault, host))
    }

    fn write_auth(&self, reason: Reason, data: &[u8], host: &mut dyn Host) -> Result<(), Fault> {
        let mut properties = Vec::new();
        put_method(&mut properties, data);
        if !fits(&properties, 1, self.packet_max) {
            return Err(Fault::new(
                Reason::PACKET_TOO_LARGE,
                "AUTH does not fit the client's maximum packet size",
            ));
        }
        Auth { reason, properties: Properties::trusted(&properties) }.encode(host.wire());
        Ok(())
    }
}

/// The data of an AUTH that must have this reason and our method [MQTT-4.12.0-5].
fn answer_in<'a>(auth: &Auth<'a>, expected: Reason) -> Result<&'a [u8], Fault> {
    if auth.reason != expected {
        return Err(Fault::protocol("AUTH with a reason code that does not belong here [MQTT-4.12.0-3]"));
    }
    match method_and_data(&auth.properties) {
        (Some(METHOD), data) => Ok(data),
        (Some(_), _) => Err(Fault::protocol("AUTH with another method than CONNECT's [MQTT-4.12.0-5]")),
        (None, _) => Err(Fault::protocol("AUTH without a method [MQTT 5.0 3.15.2.2.2]")),
    }
}
