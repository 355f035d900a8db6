//! `/api/v1/users`: the users that may log in. Passwords go in and never come out.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use mynah_broker::Broker;
use mynah_broker::users::{NewPassword, UserView};
use mynah_core::protocol::{Refusal, RefusalKind};
use serde::{Deserialize, Serialize};

use crate::access::Operator;
use crate::error::ApiError;
use crate::server::AppState;

#[derive(Debug, Serialize)]
pub(crate) struct UserJson {
    name: String,
    loopback_only: bool,
    admin: bool,
    /// From the configuration: changed there and nowhere else.
    configured: bool,
}

impl From<UserView> for UserJson {
    fn from(view: UserView) -> Self {
        let UserView { name, loopback_only, admin, configured } = view;
        Self { name: name.to_string(), loopback_only, admin, configured }
    }
}

/// What a user is to be; one of the passwords is needed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewUserJson {
    password: Option<String>,
    password_hash: Option<String>,
    /// Keep of `password` what SCRAM-SHA-256 needs, instead of an argon2id hash.
    #[serde(default)]
    scram: bool,
    #[serde(default)]
    loopback_only: bool,
    #[serde(default)]
    admin: bool,
}

pub(crate) async fn list(_: Operator, State(state): State<AppState>) -> Json<Vec<UserJson>> {
    Json(state.broker.shared.access.user_views().into_iter().map(UserJson::from).collect())
}

pub(crate) async fn show(
    _: Operator,
    State(state): State<AppState>,
    Path(name): Path<String>,
) -> Result<Json<UserJson>, ApiError> {
    let mut views = state.broker.shared.access.user_views().into_iter();
    let found = views.find(|view| *view.name == *name);
    found
        .map(|view| Json(view.into()))
        .ok_or_else(|| ApiError::not_found(format!("there is no user '{name}'")))
}

pub(crate) async fn put(
    _: Operator,
    State(state): State<AppState>,
    Path(name): Path<String>,
    user: Result<Json<NewUserJson>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    let Json(user) = user?;
    change(&state, move |broker| {
        let password = match (&user.password, &user.password_hash) {
            (Some(password), None) => NewPassword::Clear { password, scram: user.scram },
            (None, Some(hash)) => NewPassword::Hash(hash),
            (Some(_), Some(_)) | (None, None) => {
                return Err(ApiError::bad_request("give either password or password_hash".to_owned()));
            }
        };
        Ok(created(broker.put_user(&name, &password, user.loopback_only, user.admin)?))
    })
    .await
}

pub(crate) async fn delete(
    _: Operator,
    State(state): State<AppState>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    change(&state, move |broker| {
        broker.delete_user(&name)?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// Changes something away from the threads that serve others, and answers when it is safe on disk.
pub(crate) async fn change(
    state: &AppState,
    change: impl FnOnce(&Broker) -> Result<StatusCode, ApiError> + Send + 'static,
) -> Result<StatusCode, ApiError> {
    let broker = Arc::clone(&state.broker);
    let changed = tokio::task::spawn_blocking(move || {
        let status = change(&broker)?;
        broker.flush()?;
        Ok(status)
    });
    let fault = |_| Refusal::new(RefusalKind::Unavailable, "a fault in the broker: see its log").into();
    changed.await.unwrap_or_else(|error| Err(fault(error)))
}

pub(crate) fn created(new: bool) -> StatusCode {
    if new { StatusCode::CREATED } else { StatusCode::NO_CONTENT }
}
