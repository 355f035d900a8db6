//! Letting a connection in: password, certificate, SCRAM, and the waiting of those who guess.
//!
//! What takes time, a password's hash or the wait of the guard, happens away from the task that reads sockets; the answer
//! comes through the inbox.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mynah_core::protocol::{Credentials, Refusal, RefusalKind, Reply, Ticket};

use super::{ConnectionHost, Turn};
use crate::access::{Login, wrong};
use crate::broker::Shared;
use crate::connections::ConnectionInfo;
use crate::guard::Attempt;
use crate::limits::VERIFICATIONS_MAX;
use crate::scram::{self, Exchange};

impl Turn<'_> {
    pub(super) fn log_in(&mut self, ticket: Ticket, credentials: Credentials<'_>) {
        let peer = Arc::clone(&self.host.info.peer);
        let access = &self.host.broker.shared.access;
        let credentials = access.unproven(&peer, credentials);
        let login = match credentials {
            Credentials::Anonymous | Credentials::Name(_) => match &peer.certified {
                Some(user) => Login::Yes(Arc::clone(user)),
                None => access.anonymous(&peer),
            },
            Credentials::Password { user, password } => {
                match access.guard.attempt(peer.address.ip(), user, self.now) {
                    Attempt::Now => {}
                    Attempt::After(wait) => return verify_later(self.host, ticket, (user, password), wait),
                    Attempt::Refused => return self.refuse_login(ticket, too_many()),
                }
                access.password(peer.address, user, password)
            }
            Credentials::Sasl { mechanism: scram::MECHANISM, data } => return self.exchange(ticket, data),
            Credentials::Sasl { mechanism, .. } => {
                Login::No(unauthenticated(format!("the mechanism '{mechanism}' is not offered")))
            }
        };
        match (login, credentials) {
            (Login::Yes(user), credentials) => {
                if let Credentials::Password { user, .. } = credentials {
                    access.guard.succeeded(user);
                }
                self.let_in(ticket, user, Bytes::new());
            }
            (Login::No(refusal), credentials) => {
                if let Credentials::Password { user, .. } = credentials {
                    access.guard.failed(peer.address.ip(), user, self.now);
                }
                self.refuse_login(ticket, refusal);
            }
            (Login::Verify { .. }, Credentials::Password { user, password }) => {
                verify_later(self.host, ticket, (user, password), Duration::ZERO);
            }
            (
                Login::Verify { .. },
                Credentials::Anonymous | Credentials::Name(_) | Credentials::Sasl { .. },
            ) => {}
        }
    }

    fn refuse_login(&mut self, ticket: Ticket, refusal: Refusal) {
        self.host.info.counters.authentication_failures.inc();
        self.reply(ticket, Reply::Refused(refusal));
    }

    fn let_in(&mut self, ticket: Ticket, user: Arc<str>, proof: Bytes) {
        let reply = admitted(&self.host.info, user, proof);
        self.reply(ticket, reply);
    }

    /// One message of the client in an exchange that it or an earlier one began.
    fn exchange(&mut self, ticket: Ticket, data: &[u8]) {
        let begun = self.host.rare.as_deref_mut().and_then(|rare| rare.login.take());
        match begun.map(|exchange| *exchange) {
            None if data.is_empty() => {
                self.host.rare().login = Some(Box::new(Exchange::Begun));
                self.reply(ticket, Reply::Challenge(Bytes::new()));
            }
            None | Some(Exchange::Begun) => {
                let access = &self.host.broker.shared.access;
                let peer = self.host.info.peer.address;
                let challenge =
                    Exchange::challenge(data, access.seed(), |user| access.scram_secret(peer, user));
                match challenge {
                    Ok((challenged, answer)) => {
                        self.host.rare().login = Some(Box::new(Exchange::Challenged(challenged)));
                        self.reply(ticket, Reply::Challenge(answer.into()));
                    }
                    Err(scram::Failed) => {
                        self.refuse_login(ticket, unauthenticated("this is no SCRAM message [RFC 5802]"));
                    }
                }
            }
            Some(Exchange::Challenged(challenged)) => {
                let access = &self.host.broker.shared.access;
                let address = self.host.info.peer.address.ip();
                let wait = match access.guard.attempt(address, &challenged.user, self.now) {
                    Attempt::Now => None,
                    Attempt::After(wait) => Some(wait),
                    Attempt::Refused => return self.refuse_login(ticket, too_many()),
                };
                let result = match challenged.finish(data) {
                    Ok(proof) => Ok((Arc::from(challenged.user.as_str()), Bytes::from(proof))),
                    Err(scram::Failed) => Err(wrong()),
                };
                let result = verdict(&self.host.broker.shared, &self.host.info, &challenged.user, result);
                match wait {
                    None => self.reply(ticket, result),
                    Some(wait) => {
                        let info = Arc::clone(&self.host.info);
                        tokio::spawn(async move {
                            tokio::time::sleep(wait).await;
                            answer(&info, ticket, result);
                        });
                    }
                }
            }
        }
    }
}

fn unauthenticated(text: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::new(RefusalKind::Unauthenticated, text)
}

fn too_many() -> Refusal {
    unauthenticated("too many failed logins from this address: try again in a minute (auth.failures_max)")
}

/// A connection has one user in all its life.
fn admitted(info: &ConnectionInfo, user: Arc<str>, proof: Bytes) -> Reply {
    info.set_user(Arc::clone(&user));
    if info.user().is_some_and(|known| *known != user) {
        return Reply::Refused(unauthenticated("another user cannot take over this connection"));
    }
    Reply::Authenticated { user, proof }
}

fn verdict(
    shared: &Shared,
    info: &ConnectionInfo,
    user: &str,
    result: Result<(Arc<str>, Bytes), Refusal>,
) -> Reply {
    match result {
        Ok((name, proof)) => {
            shared.access.guard.succeeded(user);
            admitted(info, name, proof)
        }
        Err(refusal) => {
            shared.access.guard.failed(info.peer.address.ip(), user, Instant::now());
            info.counters.authentication_failures.inc();
            Reply::Refused(refusal)
        }
    }
}

fn answer(info: &ConnectionInfo, ticket: Ticket, reply: Reply) {
    if info.inbox.push_reply(ticket, reply).wake {
        info.inbox.wake();
    }
}

/// Waits, computes a password's hash if it has one, and answers through the inbox.
fn verify_later(host: &ConnectionHost, ticket: Ticket, (user, password): (&str, &[u8]), wait: Duration) {
    static TURNS: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(VERIFICATIONS_MAX);
    let (user, password) = (user.to_owned(), password.to_vec());
    let shared = Arc::clone(&host.broker.shared);
    let info = Arc::clone(&host.info);
    tokio::spawn(async move {
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let result = match shared.access.password(info.peer.address, &user, &password) {
            Login::Yes(name) => Ok(name),
            Login::No(refusal) => Err(refusal),
            Login::Verify { hash } => {
                let permit = TURNS.acquire().await;
                let (access, name) = (Arc::clone(&shared), user.clone());
                let verify = move || access.access.verify(&name, &password, &hash);
                let verified = tokio::task::spawn_blocking(verify).await;
                drop(permit);
                verified.unwrap_or_else(|_| {
                    Err(Refusal::new(RefusalKind::Unavailable, "the password could not be checked"))
                })
            }
        };
        let reply = verdict(&shared, &info, &user, result.map(|name| (name, Bytes::new())));
        answer(&info, ticket, reply);
    });
}
