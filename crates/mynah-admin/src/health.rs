//! Is it alive, and should clients be sent here.

use axum::extract::State;
use axum::http::StatusCode;
use mynah_core::engine::Condition;

use crate::server::AppState;

/// Answers as long as the process can answer at all; never false because of an alarm.
pub(crate) async fn livez() -> &'static str {
    "ok\n"
}

/// Answers yes while every port is open and the store can be trusted.
pub(crate) async fn readyz(State(state): State<AppState>) -> (StatusCode, &'static str) {
    if matches!(state.broker.shared.engine.log.condition(), Condition::Failed(_)) {
        (StatusCode::SERVICE_UNAVAILABLE, "the store has failed\n")
    } else if state.readiness.get() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting or stopping\n")
    }
}
