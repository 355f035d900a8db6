//! TLS by rustls: certificates that are read again when they change, client certificates, and their names as users.
//!
//! Never: a cipher or version that rustls does not offer by default; a handshake without a deadline (`admit.rs`).

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{error, info};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::asn1::{PrintableStringRef, Utf8StringRef};

use crate::limits::CERTIFICATES_LOOKED_AT;
use crate::transport::Transport;

/// OID 2.5.4.3, common name [RFC 5280 appendix A.1].
const COMMON_NAME: &str = "2.5.4.3";

/// What a listener says about TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// PEM, the server's own first.
    pub certificates: PathBuf,
    /// PEM.
    pub key: PathBuf,
    /// PEM: who may sign clients' certificates.
    pub client_authorities: Option<PathBuf>,
    pub client_certificate: ClientCertificate,
    pub user_from: UserFrom,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    None,
    /// Asked for, and verified if there is one.
    Optional,
    Required,
}

/// What of a client's certificate is its user's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserFrom {
    None,
    CommonName,
    /// All of it, as RFC 4514 writes it.
    Subject,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {0}: {1}", .path.display(), .text)]
    File { path: PathBuf, text: String },
    #[error("{0}")]
    Terms(String),
}

/// Does the handshakes of one listener.
#[derive(Debug)]
pub(crate) struct Tls {
    settings: TlsSettings,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    changed: Vec<Option<SystemTime>>,
    looked: Instant,
}

impl Tls {
    /// # Errors
    /// A file cannot be read, or they do not fit together.
    pub(crate) fn new(settings: TlsSettings, now: Instant) -> Result<Self, TlsError> {
        let current = Current { changed: changed(&settings), config: load(&settings)?, looked: now };
        Ok(Self { settings, current: Mutex::new(current) })
    }

    /// The files' content as of now; what cannot be used leaves things as they were.
    pub(crate) fn acceptor(&self, now: Instant) -> TlsAcceptor {
        let mut current = self.current.lock();
        if now.saturating_duration_since(current.looked) >= CERTIFICATES_LOOKED_AT {
            current.looked = now;
            let found = changed(&self.settings);
            if found != current.changed {
                current.changed = found;
                match load(&self.settings) {
                    Ok(config) => {
                        info!(file = %self.settings.certificates.display(), "new certificates");
                        current.config = config;
                    }
                    Err(err) => error!(%err, "the new certificates cannot be used, the old ones are kept"),
                }
            }
        }
        Arc::clone(&current.config).into()
    }

    /// The user that the peer's certificate names.
    pub(crate) fn user(&self, stream: &TlsStream<TcpStream>) -> Option<Arc<str>> {
        let certificate = stream.get_ref().1.peer_certificates()?.first()?;
        user_of(certificate, self.settings.user_from)
    }
}

fn user_of(certificate: &CertificateDer<'_>, from: UserFrom) -> Option<Arc<str>> {
    let subject = Certificate::from_der(certificate).ok()?.tbs_certificate.subject;
    match from {
        UserFrom::None => None,
        UserFrom::Subject => Some(subject.to_string().into()),
        UserFrom::CommonName => {
            let parts = subject.0.iter().flat_map(|part| part.0.iter());
            let value = &parts.into_iter().find(|part| part.oid.to_string() == COMMON_NAME)?.value;
            let text = value.decode_as::<Utf8StringRef<'_>>().map(|text| text.as_str().to_owned());
            let text = text.or_else(|_| {
                value.decode_as::<PrintableStringRef<'_>>().map(|text| text.as_str().to_owned())
            });
            text.ok().filter(|name| !name.is_empty()).map(Into::into)
        }
    }
}

fn changed(settings: &TlsSettings) -> Vec<Option<SystemTime>> {
    [Some(&settings.certificates), Some(&settings.key), settings.client_authorities.as_ref()]
        .into_iter()
        .flatten()
        .map(|path| std::fs::metadata(path).and_then(|data| data.modified()).ok())
        .collect()
}

fn load(settings: &TlsSettings) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let terms = |error: rustls::Error| TlsError::Terms(error.to_string());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(terms)?;
    let builder = match (settings.client_certificate, &settings.client_authorities) {
        (ClientCertificate::None, _) => builder.with_no_client_auth(),
        (_, None) => {
            return Err(TlsError::Terms(
                "client certificates are verified by client_ca, which is missing".into(),
            ));
        }
        (wanted, Some(path)) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).map_err(terms)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = if wanted == ClientCertificate::Optional {
                verifier.allow_unauthenticated()
            } else {
                verifier
            };
            let verifier = verifier.build().map_err(|error| TlsError::Terms(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let file = |text: String| TlsError::File { path: settings.key.clone(), text };
    let key = PrivateKeyDer::from_pem_file(&settings.key).map_err(|error| file(error.to_string()))?;
    builder.with_single_cert(certificates(&settings.certificates)?, key).map(Arc::new).map_err(terms)
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |text: String| TlsError::File { path: path.clone(), text };
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(error.to_string()))?;
    if found.is_empty() { Err(failed("there is no certificate in it".into())) } else { Ok(found) }
}

/// An encrypted stream for the driver.
#[derive(Debug)]
pub(crate) struct Encrypted(pub(crate) Box<TlsStream<TcpStream>>);

impl Transport for Encrypted {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(&mut *self.0).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, bytes)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn close_write(&mut self) {
        // It may be gone already, and that is the same to us.
        let _ = Pin::new(&mut *self.0).poll_shutdown(&mut Context::from_waker(Waker::noop()));
    }
}
