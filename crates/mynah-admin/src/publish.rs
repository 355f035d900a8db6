//! `POST /api/v1/publish`: one message, from an operator or a shell script.

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mynah_broker::rules::{Action, Who};
use mynah_core::{Address, ContentRef, Guarantee, Header, Message, Properties, PublishRef, Retain, Value};
use serde::Deserialize;
use serde_json::{Map, json};

use crate::access::Operator;
use crate::api::host;
use crate::error::ApiError;
use crate::server::AppState;

/// The request. Exactly one of `topic`, `queue`, `exchange`, `client` says where to, one of `body`, `body_base64` what.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishJson {
    topic: Option<String>,
    queue: Option<String>,
    exchange: Option<String>,
    key: Option<String>,
    client: Option<String>,
    virtual_host: Option<String>,
    body: Option<String>,
    body_base64: Option<String>,
    #[serde(default)]
    durable: bool,
    #[serde(default)]
    retain: bool,
    priority: Option<u8>,
    ttl_ms: Option<u64>,
    content_type: Option<String>,
    correlation_id: Option<String>,
    #[serde(default)]
    properties: Map<String, serde_json::Value>,
}

impl PublishJson {
    fn address(&self) -> Result<Address, ApiError> {
        let one = match (&self.topic, &self.queue, &self.exchange, &self.client) {
            (Some(topic), None, None, None) => {
                if topic.is_empty() || topic.contains(['+', '#', '\0']) {
                    return Err(ApiError::bad_request(
                        "a topic is not empty and has no wildcards".to_owned(),
                    ));
                }
                Address::Topic(topic.as_str().into())
            }
            (None, Some(queue), None, None) => Address::Queue(queue.as_str().into()),
            (None, None, Some(exchange), None) => Address::Exchange {
                name: exchange.as_str().into(),
                key: self.key.as_deref().unwrap_or_default().into(),
            },
            (None, None, None, Some(client)) => Address::Client(client.as_str().into()),
            _ => {
                let text = "name exactly one of topic, queue, exchange (with key), client";
                return Err(ApiError::bad_request(text.to_owned()));
            }
        };
        Ok(one)
    }

    fn body(&self) -> Result<Vec<u8>, ApiError> {
        match (&self.body, &self.body_base64) {
            (Some(text), None) => Ok(text.clone().into_bytes()),
            (None, Some(encoded)) => STANDARD
                .decode(encoded)
                .map_err(|error| ApiError::bad_request(format!("body_base64 is not base64: {error}"))),
            (None, None) => Ok(Vec::new()),
            (Some(_), Some(_)) => Err(ApiError::bad_request("give body or body_base64, not both".to_owned())),
        }
    }

    fn properties(&self) -> Properties {
        Properties {
            content_type: self.content_type.as_deref().map(Into::into),
            correlation_id: self.correlation_id.as_deref().map(Value::from),
            application: self
                .properties
                .iter()
                .map(|(key, value)| (key.as_str().into(), from_json(value)))
                .collect(),
            ..Properties::default()
        }
    }
}

pub(crate) async fn publish(
    operator: Operator,
    State(state): State<AppState>,
    request: Result<Json<PublishJson>, axum::extract::rejection::JsonRejection>,
) -> Result<Json<serde_json::Value>, ApiError> {
    let Json(request) = request?;
    let host = host(&state, request.virtual_host.as_deref())?;
    let address = request.address()?;
    let body = request.body()?;
    state.broker.shared.access.authorise(
        Who { user: &operator.0, client: "" },
        Action::Publish,
        address.as_ref(),
    )?;
    let properties = request.properties();
    let header = Header {
        guarantee: if request.durable { Guarantee::AtLeastOnce } else { Guarantee::AtMostOnce },
        retain: if request.retain { Retain::Keep } else { Retain::No },
        priority: request.priority,
        ttl_ms: request.ttl_ms,
        text: request.body.is_some(),
    };
    let content = ContentRef::Decoded(&properties);
    let publish = PublishRef { header, content, ..PublishRef::new(address.as_ref(), &body) };
    let message = Message::from_publish(&publish, Instant::now());
    let routed = state.broker.publish_as_operator(&host, &message, &address);
    Ok(Json(json!({ "routed": routed })))
}

fn from_json(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(flag) => Value::Bool(*flag),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(n), _) => Value::I64(n),
            (None, Some(n)) => Value::U64(n),
            (None, None) => Value::F64(number.as_f64().unwrap_or_default()),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => Value::List(items.iter().map(from_json).collect()),
        serde_json::Value::Object(entries) => Value::Map(
            entries.iter().map(|(key, value)| (Value::from(key.as_str()), from_json(value))).collect(),
        ),
    }
}
