//! `/api/v1`: looking, purging, deleting. Every handler takes an [`Operator`], so none is open to strangers.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use mynah_broker::VirtualHost;
use mynah_broker::operator::queue_view;
use serde::Deserialize;
use serde_json::json;

use crate::access::Operator;
use crate::error::ApiError;
use crate::server::AppState;
use crate::view::{ConnectionJson, MessageJson, OverviewJson, QueueJson, TopicJson};

/// Messages shown at once.
const PEEK_MAX: usize = 1000;

/// Topics listed at once.
const TOPICS_MAX: usize = 10_000;

/// Which virtual host; the default one if it is not said.
#[derive(Debug, Deserialize)]
pub struct Where {
    pub(crate) virtual_host: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Window {
    virtual_host: Option<String>,
    skip: Option<usize>,
    count: Option<usize>,
}

pub(crate) fn host(state: &AppState, name: Option<&str>) -> Result<Arc<VirtualHost>, ApiError> {
    match name {
        None => Ok(Arc::clone(state.broker.default_host())),
        Some(name) => state
            .broker
            .host(name)
            .ok_or_else(|| ApiError::not_found(format!("there is no virtual host '{name}'"))),
    }
}

fn no_queue(name: &str) -> ApiError {
    ApiError::not_found(format!("there is no queue '{name}'; slashes in names are written %2F"))
}

pub(crate) async fn overview(_: Operator, State(state): State<AppState>) -> Json<OverviewJson> {
    Json(state.broker.overview().into())
}

pub(crate) async fn connections(_: Operator, State(state): State<AppState>) -> Json<Vec<ConnectionJson>> {
    Json(state.broker.connection_views().into_iter().map(ConnectionJson::from).collect())
}

pub(crate) async fn close_connection(
    operator: Operator,
    State(state): State<AppState>,
    Path(number): Path<u64>,
) -> Result<StatusCode, ApiError> {
    if state.broker.kick(number, format!("closed by operator {}", operator.0)) {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(ApiError::not_found(format!("there is no connection {number}")))
}

pub(crate) async fn queues(
    _: Operator,
    State(state): State<AppState>,
    Query(at): Query<Where>,
) -> Result<Json<Vec<QueueJson>>, ApiError> {
    let host = host(&state, at.virtual_host.as_deref())?;
    Ok(Json(state.broker.queue_views(&host).into_iter().map(QueueJson::from).collect()))
}

pub(crate) async fn queue(
    _: Operator,
    State(state): State<AppState>,
    Path(name): Path<String>,
    Query(at): Query<Where>,
) -> Result<Json<QueueJson>, ApiError> {
    let host = host(&state, at.virtual_host.as_deref())?;
    let queue = host.queue(&name).ok_or_else(|| no_queue(&name))?;
    Ok(Json(queue_view(&host, &queue).into()))
}

pub(crate) async fn delete_queue(
    _: Operator,
    State(state): State<AppState>,
    Path(name): Path<String>,
    Query(at): Query<Where>,
) -> Result<Json<serde_json::Value>, ApiError> {
    let host = host(&state, at.virtual_host.as_deref())?;
    let messages = state.broker.delete_queue(&host, &name).ok_or_else(|| no_queue(&name))?;
    Ok(Json(json!({ "messages": messages })))
}

pub(crate) async fn purge(
    _: Operator,
    State(state): State<AppState>,
    Path(name): Path<String>,
    Query(at): Query<Where>,
) -> Result<Json<serde_json::Value>, ApiError> {
    let host = host(&state, at.virtual_host.as_deref())?;
    let purged = state.broker.purge(&host, &name).ok_or_else(|| no_queue(&name))?;
    Ok(Json(json!({ "purged": purged })))
}

pub(crate) async fn peek(
    _: Operator,
    State(state): State<AppState>,
    Path(name): Path<String>,
    Query(window): Query<Window>,
) -> Result<Json<Vec<MessageJson>>, ApiError> {
    let host = host(&state, window.virtual_host.as_deref())?;
    let count = window.count.unwrap_or(10).min(PEEK_MAX);
    let peeked =
        state.broker.peek(&host, &name, window.skip.unwrap_or(0), count).ok_or_else(|| no_queue(&name))?;
    Ok(Json(peeked.into_iter().map(MessageJson::from).collect()))
}

pub(crate) async fn topics(
    _: Operator,
    State(state): State<AppState>,
    Query(window): Query<Window>,
) -> Result<Json<Vec<TopicJson>>, ApiError> {
    let host = host(&state, window.virtual_host.as_deref())?;
    let count = window.count.unwrap_or(1000).min(TOPICS_MAX);
    Ok(Json(state.broker.topic_views(&host, count).into_iter().map(TopicJson::from).collect()))
}

/// Where a backup goes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackupJson {
    dir: String,
}

/// Copies what the broker keeps to an empty directory of the broker's machine.
pub(crate) async fn backup(
    _: Operator,
    State(state): State<AppState>,
    Json(request): Json<BackupJson>,
) -> Result<Json<serde_json::Value>, ApiError> {
    let dir = PathBuf::from(&request.dir);
    if !dir.is_absolute() {
        return Err(ApiError::bad_request("dir must be an absolute path on the broker's machine".to_owned()));
    }
    let broker = Arc::clone(&state.broker);
    let copied = tokio::task::spawn_blocking(move || {
        broker.write_down();
        broker.shared.engine.log.backup(&dir)
    })
    .await;
    match copied {
        Ok(Ok(())) => Ok(Json(json!({ "dir": request.dir }))),
        Ok(Err(error)) => Err(ApiError::bad_request(format!("{}: {error}", request.dir))),
        Err(_) => Err(ApiError::bad_request("the backup was given up".to_owned())),
    }
}
