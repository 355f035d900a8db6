//! CONNECT: the version, who it is, heart-beats; then CONNECTED.

use std::sync::Arc;
use std::time::Instant;

use mynah_core::protocol::{Credentials, Host, Opened, Refusal, RefusalKind, SessionSpec};

use super::replies::{Asked, Waiting};
use super::{Failure, Flow, State, StompConnection};
use crate::codec::{Escape, Frame, heart_beat, unescape, write_header};
use crate::reason::Fault;
use crate::version::Version;

/// What CONNECT said, until it is answered.
pub(super) struct Login {
    /// With the escapes a client wrongly put in, to be tried once more without them.
    escaped: Option<(Box<str>, Box<str>)>,
    /// A blank stands before the user or the password, as people type it.
    blank: bool,
    client_id: Box<str>,
    virtual_host: Option<Box<str>>,
    heart_beat: (u32, u32),
}

impl std::fmt::Debug for Login {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

impl StompConnection {
    pub(super) fn on_connect(&mut self, frame: &Frame<'_>, host: &mut dyn Host) -> Result<Flow, Fault> {
        if self.state != State::Login {
            let text = "This connection is logged in already. Open another one for another login";
            return Err(Fault::protocol("connected already", text));
        }
        let accept = frame.get("accept-version");
        let version = Version::negotiate(accept.as_deref())
            .ok_or_else(|| Fault::no_common_version(accept.as_deref().unwrap_or_default()))?;
        self.version = Some(version);
        let frame = if version == Version::V1_0 { frame.trimmed() } else { *frame };

        let heart_beat = match frame.get("heart-beat") {
            None => (0, 0),
            Some(text) => heart_beat(&text).ok_or_else(|| {
                Fault::bad_value(
                    "heart-beat",
                    &text,
                    "two numbers of milliseconds, as in heart-beat:10000,10000",
                )
            })?,
        };
        let user = frame.get("login").unwrap_or_default();
        let password = frame.get("passcode").unwrap_or_default();
        // Some clients escape the values of CONNECT, which they must not.
        let escaped = user.contains('\\') || password.contains('\\');
        self.login = Some(Box::new(Login {
            blank: user.starts_with(' ') || password.starts_with(' '),
            escaped: escaped.then(|| (user.as_ref().into(), password.as_ref().into())),
            client_id: frame.get("client-id").unwrap_or_default().into(),
            virtual_host: frame.get("host").filter(|name| name.starts_with('/')).map(Box::from),
            heart_beat,
        }));
        self.authenticate(&user, &password, host);
        Ok(Flow::Done)
    }

    fn authenticate(&mut self, user: &str, password: &str, host: &mut dyn Host) {
        let ticket = self.ticket();
        let credentials = if user.is_empty() && password.is_empty() {
            Credentials::Anonymous
        } else {
            Credentials::Password { user, password: password.as_bytes() }
        };
        host.authenticate(ticket, credentials);
        self.waiting = Some(Waiting { ticket, asked: Asked::Login, receipt: None });
    }

    pub(super) fn on_login_refused(&mut self, refusal: &Refusal, host: &mut dyn Host) -> Result<(), Failure> {
        let escaped = self.login.as_mut().and_then(|login| login.escaped.take());
        let plain = escaped.as_ref().and_then(|(user, password)| {
            Some((unescape(Escape::V1_2, user)?, unescape(Escape::V1_2, password)?))
        });
        match plain {
            Some((user, password)) if refusal.kind == RefusalKind::Unauthenticated => {
                self.authenticate(&user, &password, host);
                Ok(())
            }
            _ => {
                let mut fault =
                    Fault::refused("CONNECT with this user (login) and password (passcode)", refusal);
                if self.login.as_ref().is_some_and(|login| login.blank) {
                    fault.text = format!(
                        "{}. Leave out the blank after the colon: since STOMP 1.1 it belongs to the value",
                        fault.text
                    )
                    .into();
                }
                Err(fault.into())
            }
        }
    }

    pub(super) fn on_authenticated(&mut self, host: &mut dyn Host) {
        if let Some(login) = &mut self.login {
            login.escaped = None;
        }
        let ticket = self.ticket();
        let login = self.login.as_deref();
        host.open(
            ticket,
            SessionSpec {
                protocol: self.version.map_or("STOMP", Version::protocol),
                virtual_host: login.and_then(|login| login.virtual_host.as_deref()),
                client_id: login.map_or("", |login| &*login.client_id),
                session: None,
                will: None,
            },
        );
        self.waiting = Some(Waiting { ticket, asked: Asked::Open, receipt: None });
    }

    /// A virtual host that does not exist is taken for the name of the machine, which many clients put there.
    pub(super) fn on_open_refused(&mut self, refusal: &Refusal, host: &mut dyn Host) -> Result<(), Failure> {
        let named = self.login.as_mut().and_then(|login| login.virtual_host.take());
        if named.is_some() && refusal.kind == RefusalKind::NotFound {
            self.on_authenticated(host);
            return Ok(());
        }
        Err(Fault::refused("CONNECT", refusal).into())
    }

    pub(super) fn on_opened(&mut self, now: Instant, opened: &Opened, host: &mut dyn Host) {
        let heart_beat = self.login.take().map_or((0, 0), |login| login.heart_beat);
        self.client_id = opened.client_id.as_ref().into();
        self.state = State::Open;
        self.beat.heard(now);
        let (can, wants) = self.beat.agree(heart_beat, self.config.heart_beat_min_ms);
        let session = if opened.client_id.is_empty() {
            Arc::from(format!("mynah-{}", self.number))
        } else {
            Arc::clone(&opened.client_id)
        };
        let out = host.wire();
        out.extend_from_slice(b"CONNECTED\n");
        write_header(Escape::None, "version", self.version.map_or("1.0", Version::text), out);
        write_header(Escape::None, "session", &session, out);
        write_header(Escape::None, "server", concat!("mynah/", env!("CARGO_PKG_VERSION")), out);
        write_header(Escape::None, "heart-beat", &format!("{can},{wants}"), out);
        out.extend_from_slice(b"\n\0\n");
    }
}
