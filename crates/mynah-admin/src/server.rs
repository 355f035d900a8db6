//! The two ports: one for people and their tools, one for the scraper, so that the second may be opened wider.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post};
use mynah_broker::Broker;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::{api, health, metrics, openapi, policies, publish, users};

/// Bytes of a request's body: a message of the default maximum in base64, and a little.
const BODY_BYTES_MAX: usize = 24 << 20;

#[derive(Debug, Clone, Copy)]
pub struct AdminConfig {
    pub bind: SocketAddr,
    pub metrics_bind: SocketAddr,
}

/// Whether clients should be sent here: yes from when every port is open until the broker stops.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    #[must_use]
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What every handler sees.
#[derive(Debug, Clone)]
pub struct AppState {
    pub broker: Arc<Broker>,
    pub readiness: Readiness,
}

/// The HTTP ports, running.
#[derive(Debug)]
pub struct Admin {
    pub address: SocketAddr,
    pub metrics_address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

impl Admin {
    /// Binds both ports and serves. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// An address is in use, or not ours; the error names it.
    pub async fn start(broker: Arc<Broker>, config: AdminConfig, readiness: Readiness) -> io::Result<Self> {
        let state = AppState { broker, readiness };
        let (address, admin) = serve("admin", config.bind, router(state.clone())).await?;
        let (metrics_address, metrics) = serve("metrics", config.metrics_bind, metrics_router(state)).await?;
        Ok(Self { address, metrics_address, tasks: vec![admin, metrics] })
    }

    /// Ends both; requests under way are cut.
    pub fn stop(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn serve(
    name: &'static str,
    bind: SocketAddr,
    router: Router,
) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::bind(bind)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("{name} cannot use {bind}: {error}")))?;
    let address = listener.local_addr()?;
    info!(listener = name, address = %address, "listening");
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, service).await {
            warn!(listener = name, err = %error, "stopped serving");
        }
    });
    Ok((address, task))
}

/// Everything on the admin port. Paths and methods are those of the OpenAPI document; a test compares them.
pub(crate) fn router(state: AppState) -> Router {
    let v1 = Router::new()
        .route("/overview", get(api::overview))
        .route("/connections", get(api::connections))
        .route("/connections/{number}", delete(api::close_connection))
        .route("/queues", get(api::queues))
        .route("/queues/{name}", get(api::queue).delete(api::delete_queue))
        .route("/queues/{name}/purge", post(api::purge))
        .route("/queues/{name}/messages", get(api::peek))
        .route("/topics", get(api::topics))
        .route("/users", get(users::list))
        .route("/users/{name}", get(users::show).put(users::put).delete(users::delete))
        .route("/policies", get(policies::list))
        .route("/policies/{name}", get(policies::show).put(policies::put).delete(policies::delete))
        .route("/publish", post(publish::publish))
        .route("/backup", post(api::backup));
    Router::new()
        .nest("/api/v1", v1)
        .route("/api/v1/openapi.json", get(openapi::document))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .fallback(crate::error::no_such_path)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(state)
}

/// Everything on the metrics port.
pub(crate) fn metrics_router(state: AppState) -> Router {
    Router::new()
        .route("/metrics", get(metrics::metrics))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .fallback(crate::error::no_such_path)
        .with_state(state)
}
