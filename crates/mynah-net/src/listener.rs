//! Listening, accepting, stopping.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use mynah_broker::Broker;
use mynah_broker::metrics::ProtocolCounters;
use mynah_core::protocol::{Peer, Protocol};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::admit::Prelude;
use crate::deadlines::Deadlines;
use crate::driver::Driver;
use crate::limits::{ACCEPT_PAUSE, BACKLOG};
use crate::tls::{Tls, TlsError, TlsSettings};
use crate::transport::Tcp;
use crate::websocket::WebSocketSettings;

/// What an operator can set about connections.
#[derive(Debug, Clone)]
pub struct NetConfig {
    pub connections_max: usize,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self { connections_max: 1_000_000 }
    }
}

/// One address and what is spoken there.
pub struct ListenerSpec {
    pub name: String,
    pub bind: SocketAddr,
    pub protocols: Vec<Arc<dyn Protocol>>,
    pub tls: Option<TlsSettings>,
    pub websocket: Option<WebSocketSettings>,
    /// Proxies that must say, and are believed, who is at the other end.
    pub proxies: Option<Vec<IpNet>>,
    /// Whether clients without a name are let in, if that is not left to the broker.
    pub anonymous: Option<bool>,
}

impl ListenerSpec {
    /// A plain one.
    #[must_use]
    pub fn new(name: impl Into<String>, bind: SocketAddr, protocols: Vec<Arc<dyn Protocol>>) -> Self {
        Self {
            name: name.into(),
            bind,
            protocols,
            tls: None,
            websocket: None,
            proxies: None,
            anonymous: None,
        }
    }
}

impl std::fmt::Debug for ListenerSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListenerSpec")
            .field("name", &self.name)
            .field("bind", &self.bind)
            .finish_non_exhaustive()
    }
}

/// A protocol as a listener uses it.
pub struct Speaks {
    pub protocol: Arc<dyn Protocol>,
    pub counters: Arc<ProtocolCounters>,
}

impl std::fmt::Debug for Speaks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Speaks").field("protocol", &self.protocol.name()).finish_non_exhaustive()
    }
}

/// From the start of a connection to its login, in the most patient of these protocols.
pub(crate) fn login_timeout<'a>(speaks: impl Iterator<Item = &'a Speaks>) -> Duration {
    speaks.map(|speaks| speaks.protocol.login_timeout()).max().unwrap_or_default()
}

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    pub broker: Arc<Broker>,
    pub config: NetConfig,
    pub deadlines: Arc<Deadlines>,
    stopping: AtomicBool,
    open: AtomicUsize,
}

impl Shared {
    #[must_use]
    pub fn new(broker: &Arc<Broker>, config: NetConfig) -> Arc<Self> {
        Arc::new(Self {
            broker: Arc::clone(broker),
            config,
            deadlines: Arc::default(),
            stopping: AtomicBool::new(false),
            open: AtomicUsize::new(0),
        })
    }

    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// From now on every connection says good-bye.
    pub fn begin_stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let inboxes: Vec<_> = self.broker.connections.iter().map(|info| Arc::clone(&info.inbox)).collect();
        // Not nudged: one that waits for its socket counts as woken already.
        inboxes.iter().for_each(|inbox| inbox.wake());
        // Who has said nothing yet has no inbox.
        self.deadlines.wake_all();
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("listener '{name}' cannot use {bind}: {source}")]
    Bind { name: String, bind: SocketAddr, source: io::Error },
    #[error("listener '{name}': {source}")]
    Tls { name: String, source: TlsError },
}

/// All listeners, running.
#[derive(Debug)]
pub struct Net {
    shared: Arc<Shared>,
    addresses: Vec<(String, SocketAddr)>,
    tasks: Vec<JoinHandle<()>>,
    timer: JoinHandle<()>,
}

impl Net {
    /// Binds and starts to accept. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// An address is in use, or not ours.
    pub fn start(
        broker: &Arc<Broker>,
        specs: Vec<ListenerSpec>,
        config: NetConfig,
    ) -> Result<Self, ListenError> {
        let shared = Shared::new(broker, config);
        let mut bound = Vec::new();
        for spec in specs {
            let failed = |source| ListenError::Bind { name: spec.name.clone(), bind: spec.bind, source };
            let listener = listen(spec.bind).map_err(failed)?;
            let address = listener.local_addr().map_err(failed)?;
            let tls = spec.tls.clone().map(|settings| Tls::new(settings, Instant::now())).transpose();
            let tls = tls.map_err(|source| ListenError::Tls { name: spec.name.clone(), source })?;
            let prelude = Prelude { proxies: spec.proxies.clone(), tls, websocket: spec.websocket.clone() };
            bound.push((spec, prelude, listener, address));
        }
        let timer = tokio::spawn(Arc::clone(&shared.deadlines).run());
        let mut addresses = Vec::new();
        let mut tasks = Vec::new();
        for (spec, prelude, listener, address) in bound {
            info!(listener = %spec.name, address = %address, "listening");
            addresses.push((spec.name.clone(), address));
            tasks.push(tokio::spawn(accept(listener, spec, prelude, Arc::clone(&shared))));
        }
        Ok(Self { shared, addresses, tasks, timer })
    }

    /// Where each listener really listens (a bind to port 0 gets a free one).
    #[must_use]
    pub fn addresses(&self) -> &[(String, SocketAddr)] {
        &self.addresses
    }

    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }

    /// Accepts nothing more, lets every connection say good-bye, and waits for them, at most `grace`.
    pub async fn stop(self, grace: Duration) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.shared.begin_stop();
        let deadline = Instant::now() + grace;
        while self.open_connections() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let left = self.open_connections();
        if left > 0 {
            warn!(left, "connections did not close in time");
        }
        self.timer.abort();
    }
}

fn listen(bind: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(bind), Type::STREAM, None)?;
    // A restarted broker must not wait for the old one's sockets to time out.
    socket.set_reuse_address(true)?;
    if bind.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&bind.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn accept(listener: TcpListener, spec: ListenerSpec, prelude: Prelude, shared: Arc<Shared>) {
    let prelude = (!prelude.is_empty()).then(|| Arc::new(prelude));
    let anonymous = spec.anonymous;
    let name: Arc<str> = spec.name.as_str().into();
    let speaks: Arc<[Speaks]> = spec
        .protocols
        .into_iter()
        .map(|protocol| {
            let counters = shared.broker.shared.metrics.protocol(protocol.name());
            Speaks { protocol, counters }
        })
        .collect();
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // The peer was gone already, or we are out of descriptors: others may still come.
                warn!(listener = %name, err = %error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if shared.open.load(Ordering::Acquire) >= shared.config.connections_max {
            warn!(listener = %name, peer = %address, "refused: limits.connections_max is reached");
            continue;
        }
        let socket = SockRef::from(&stream);
        // Batches are made by the driver; the kernel must not make them wait.
        let _ = socket.set_tcp_nodelay(true);
        let _ = socket.set_keepalive(true);
        let mut peer = Peer::new(shared.broker.next_connection(), address, Arc::clone(&name));
        peer.anonymous = anonymous;
        shared.open.fetch_add(1, Ordering::AcqRel);
        let open = Open(Arc::clone(&shared));
        if let Some(prelude) = &prelude {
            let (prelude, shared, speaks) = (Arc::clone(prelude), Arc::clone(&shared), Arc::clone(&speaks));
            tokio::spawn(async move {
                prelude.run(stream, shared, speaks, peer).await;
                drop(open);
            });
            continue;
        }
        let driver = Driver::new(Tcp(stream), Arc::clone(&shared), Arc::clone(&speaks), peer, Instant::now());
        tokio::spawn(Counted { driver, _open: open });
    }
}

/// Counts a connection as long as its task lives.
#[derive(Debug)]
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Debug)]
struct Counted {
    driver: Driver<Tcp>,
    _open: Open,
}

impl Future for Counted {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        std::pin::Pin::new(&mut self.driver).poll(cx)
    }
}
