//! What comes before the protocol on listeners that want more than a plain socket: the PROXY header, TLS, the WebSocket
//! handshake, all within one deadline.
//!
//! Never: on the way of a plain listener.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use ipnet::IpNet;
use mynah_core::protocol::Peer;
use tokio::net::TcpStream;
use tracing::{debug, info};

use crate::driver::Driver;
use crate::limits::WEBSOCKET_FRAME_EXTRA;
use crate::listener::{Shared, Speaks, login_timeout};
use crate::proxy;
use crate::tls::{Encrypted, Tls};
use crate::transport::{Tcp, Transport};
use crate::websocket::handshake::shake;
use crate::websocket::{WebSocket, WebSocketSettings};

/// What one listener wants before the protocol.
#[derive(Debug)]
pub(crate) struct Prelude {
    pub(crate) proxies: Option<Vec<IpNet>>,
    pub(crate) tls: Option<Tls>,
    pub(crate) websocket: Option<WebSocketSettings>,
}

impl Prelude {
    pub(crate) fn is_empty(&self) -> bool {
        self.proxies.is_none() && self.tls.is_none() && self.websocket.is_none()
    }

    /// Runs a connection from its first byte to its end.
    pub(crate) async fn run(
        &self,
        stream: TcpStream,
        shared: Arc<Shared>,
        speaks: Arc<[Speaks]>,
        mut peer: Peer,
    ) {
        let frame_max = shared.broker.shared.config.message_bytes_max as u64 + WEBSOCKET_FRAME_EXTRA;
        let admitted =
            tokio::time::timeout(login_timeout(speaks.iter()), self.admit(stream, &mut peer, frame_max))
                .await;
        let transport = match admitted {
            Ok(Ok(transport)) => transport,
            Ok(Err(reason)) => {
                info!(conn = peer.connection, peer = %peer.address, listener = %peer.listener, %reason, "closed before login");
                return;
            }
            Err(_) => {
                debug!(conn = peer.connection, peer = %peer.address, "closed: the handshake took too long");
                return;
            }
        };
        if !shared.is_stopping() {
            Driver::new(transport, shared, speaks, peer, Instant::now()).await;
        }
    }

    async fn admit(
        &self,
        mut stream: TcpStream,
        peer: &mut Peer,
        frame_max: u64,
    ) -> io::Result<Box<dyn Transport>> {
        if let Some(trusted) = &self.proxies {
            if !proxy::is_trusted(trusted, peer.address) {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "not a trusted proxy (proxy_protocol)",
                ));
            }
            if let Some(address) = proxy::read_header(&mut stream).await? {
                peer.address = address;
            }
        }
        let Some(tls) = &self.tls else {
            let Some(settings) = &self.websocket else { return Ok(Box::new(Tcp(stream))) };
            let mut early = BytesMut::new();
            let agreed = shake(&mut stream, &mut early, &settings.origins).await?;
            return Ok(Box::new(WebSocket::new(Tcp(stream), agreed, early, frame_max)));
        };
        let mut stream = tls.acceptor(Instant::now()).accept(stream).await?;
        peer.certified = tls.user(&stream);
        let Some(settings) = &self.websocket else { return Ok(Box::new(Encrypted(Box::new(stream)))) };
        let mut early = BytesMut::new();
        let agreed = shake(&mut stream, &mut early, &settings.origins).await?;
        Ok(Box::new(WebSocket::new(Encrypted(Box::new(stream)), agreed, early, frame_max)))
    }
}
