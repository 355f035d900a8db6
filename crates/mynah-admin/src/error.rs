//! What a request is told when it cannot be done: `{"error": "...", "message": "..."}`.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use mynah_broker::operator::Unmade;
use mynah_core::protocol::{Refusal, RefusalKind};
use serde_json::json;

#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    /// A word for programs.
    error: &'static str,
    /// What to change, for people.
    message: String,
}

impl ApiError {
    #[must_use]
    pub fn not_found(message: String) -> Self {
        Self { status: StatusCode::NOT_FOUND, error: "not-found", message }
    }

    #[must_use]
    pub fn bad_request(message: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error: "bad-request", message }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let (status, error) = match refusal.kind {
            RefusalKind::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            RefusalKind::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
            RefusalKind::NotFound => (StatusCode::NOT_FOUND, "not-found"),
            RefusalKind::Conflict => (StatusCode::CONFLICT, "conflict"),
            RefusalKind::Locked => (StatusCode::LOCKED, "locked"),
            RefusalKind::Full => (StatusCode::INSUFFICIENT_STORAGE, "full"),
            RefusalKind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large"),
            RefusalKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        };
        Self { status, error, message: refusal.text.into_owned() }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl From<Unmade> for ApiError {
    fn from(unmade: Unmade) -> Self {
        match unmade {
            Unmade::Invalid(message) => Self::bad_request(message),
            Unmade::Refused(refusal) => refusal.into(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.error, "message": self.message }));
        if self.status == StatusCode::UNAUTHORIZED {
            return (self.status, [(header::WWW_AUTHENTICATE, "Basic realm=\"mynah\"")], body)
                .into_response();
        }
        (self.status, body).into_response()
    }
}

pub(crate) async fn no_such_path(uri: Uri) -> ApiError {
    ApiError::not_found(format!("there is nothing at {}: see /api/v1/openapi.json", uri.path()))
}
