//! `/api/v1/policies`: bounds for queues by their names.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use mynah_broker::policies::{Policy, PolicySpec};
use serde::Serialize;

use crate::access::Operator;
use crate::api::{Where, host};
use crate::error::ApiError;
use crate::server::AppState;
use crate::users::{change, created};

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
    spec: Result<Json<PolicySpec>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    let Json(spec) = spec?;
    let host = host(&state, at.virtual_host.as_deref())?;
    change(&state, move |broker| Ok(created(broker.put_policy(&host, &name, spec)?))).await
}

pub(crate) async fn delete(
    _: Operator,
    State(state): State<AppState>,
    Path(name): Path<String>,
    Query(at): Query<Where>,
) -> Result<StatusCode, ApiError> {
    let host = host(&state, at.virtual_host.as_deref())?;
    change(&state, move |broker| {
        let known = broker.delete_policy(&host, &name);
        known.then_some(StatusCode::NO_CONTENT).ok_or_else(|| no_policy(&name))
    })
    .await
}
