//! Lets people in: the broker's own users by HTTP Basic, and without a name those whom the broker lets in anonymously.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mynah_broker::access::{Access, Login};
use mynah_core::protocol::Peer;
use mynah_core::protocol::{Refusal, RefusalKind};

use crate::error::ApiError;
use crate::server::AppState;

/// Who asks. A handler that takes it is closed to everybody else.
#[derive(Debug, Clone)]
pub struct Operator(pub Arc<str>);

impl FromRequestParts<AppState> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let peer = parts
            .extensions
            .get::<ConnectInfo<SocketAddr>>()
            .map(|info| info.0)
            .ok_or_else(|| ApiError::bad_request("the peer's address is not known".to_owned()))?;
        let shared = Arc::clone(&state.broker.shared);
        let Some(value) = parts.headers.get(AUTHORIZATION) else {
            return match shared.access.anonymous(&Peer::new(0, peer, "admin")) {
                Login::Yes(user) => admin(&shared.access, user),
                Login::No(refusal) => Err(refusal.into()),
                Login::Verify { .. } => Err(wrong_header()),
            };
        };
        let (user, password) = basic(value.as_bytes()).ok_or_else(wrong_header)?;
        match shared.access.password(peer, &user, &password) {
            Login::Yes(user) => admin(&shared.access, user),
            Login::No(refusal) => Err(refusal.into()),
            Login::Verify { hash } => {
                // Tens of milliseconds of computing do not belong on a thread that serves others.
                let access = Arc::clone(&shared);
                let verify = move || access.access.verify(&user, &password, &hash);
                let verified = tokio::task::spawn_blocking(verify).await;
                let user = verified.map_err(|_| wrong_header())?.map_err(ApiError::from)?;
                admin(&shared.access, user)
            }
        }
    }
}

fn admin(access: &Access, user: Arc<str>) -> Result<Operator, ApiError> {
    if access.is_admin(&user) {
        return Ok(Operator(user));
    }
    let text = format!("user '{user}' may not use the admin API: it needs admin: true");
    Err(Refusal::new(RefusalKind::Forbidden, text).into())
}

fn basic(value: &[u8]) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let decoded = STANDARD.decode(encoded.trim_ascii()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let (user, password) = decoded.split_at_checked(colon)?;
    Some((String::from_utf8(user.to_vec()).ok()?, password.get(1..)?.to_vec()))
}

fn wrong_header() -> ApiError {
    Refusal::new(RefusalKind::Unauthenticated, "the Authorization header must be Basic user:password").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_credentials() {
        assert_eq!(basic(b"Basic Z3Vlc3Q6Z3Vlc3Q="), Some(("guest".into(), b"guest".to_vec())));
        assert_eq!(basic(b"basic YTpiOmM="), Some(("a".into(), b"b:c".to_vec())));
        assert_eq!(basic(b"Bearer x"), None);
        assert_eq!(basic(b"Basic %%%"), None);
        assert_eq!(basic(b"Basic"), None);
    }
}
