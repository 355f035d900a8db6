//! `/api/v1/policies`: bounds for queues by their names.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use mynah_broker::policies::{Policy, PolicySpec};
use serde::Serialize;

use crate::access::Operator;
use crate::api::{Where, host};
use crate::error::ApiError;
use crate::server::AppState;
use crate::users::created;

#[derive(Debug, Serialize)]
pub(crate) struct PolicyJson {
    name: String,
    virtual_host: String,
    #[serde(flatten)]
    spec: PolicySpec,
}

impl PolicyJson {
    fn new(virtual_host: &str, policy: &Policy) -> Self {
        Self {
            name: policy.name.to_string(),
            virtual_host: virtual_host.to_owned(),
            spec: policy.spec.clone(),
        }
    }
}

fn no_policy(name: &str) -> ApiError {
    ApiError::not_found(format!("there is no policy '{name}'"))
}

pub(crate) async fn list(
    _: Operator,
    State(state): State<AppState>,
    Query(at): Query<Where>,
) -> Result<Json<Vec<PolicyJson>>, ApiError> {
    let host = host(&state, at.virtual_host.as_deref())?;
    Ok(Json(host.policies().iter().map(|policy| PolicyJson::new(&host.name, policy)).collect()))
}

pub(crate) async fn show(
    _: Operator,
    State(state): State<AppState>,
    Path(name): Path<String>,
    Query(at): Query<Where>,
) -> Result<Json<PolicyJson>, ApiError> {
    let host = host(&state, at.virtual_host.as_deref())?;
    let policies = host.policies();
    let found = policies.iter().find(|policy| *policy.name == *name).ok_or_else(|| no_policy(&name))?;
    Ok(Json(PolicyJson::new(&host.name, found)))
}

pub(crate) async fn put(
    _: Operator,
    State(state): State<AppState>,
    Path(name): Path<String>,
    Query(at): Query<Where>,
    Json(spec): Json<PolicySpec>,
) -> Result<StatusCode, ApiError> {
    let host = host(&state, at.virtual_host.as_deref())?;
    let broker = Arc::clone(&state.broker);
    let made = tokio::task::spawn_blocking(move || {
        let new = broker.put_policy(&host, &name, spec)?;
        broker.flush()?;
        Ok(new)
    })
    .await;
    made.unwrap_or_else(|_| Err(ApiError::bad_request("given up".to_owned()))).map(created)
}

pub(crate) async fn delete(
    _: Operator,
    State(state): State<AppState>,
    Path(name): Path<String>,
    Query(at): Query<Where>,
) -> Result<StatusCode, ApiError> {
    let host = host(&state, at.virtual_host.as_deref())?;
    let broker = Arc::clone(&state.broker);
    let deleted = tokio::task::spawn_blocking(move || {
        if !broker.delete_policy(&host, &name) {
            return Err(no_policy(&name));
        }
        broker.flush()?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await;
    deleted.unwrap_or_else(|_| Err(ApiError::bad_request("given up".to_owned())))
}
