//! Mutual TLS: how a worker takes connections and makes them.
//!
//! The files are read anew for each handshake, so that certificates are renewed without a restart; connections that stand
//! go on with the old ones. While the files do not fit together, as they may for a moment while they are replaced, the last
//! ones that did are used.

use std::{
    fs, io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use rustls::{
    RootCertStore, ServerConfig,
    client::verify_server_name,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{ParsedCertificate, WebPkiClientVerifier},
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::{
    Request, Status,
    transport::{Certificate, ClientTlsConfig, Identity, server::Connected},
};
use weir_protocol::tls::{CA_FILE, CERT_FILE, CONTROLLER_NAME, KEY_FILE, WORKER_NAME};

/// Whoever has not shown a certificate by then has none.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Over TLS gRPC is spoken in HTTP/2 and nothing else.
const ALPN: &[u8] = b"h2";

/// The certificates cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} does not hold a {what} in PEM form", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What should be in it.
        what: &'static str,
    },
    /// The files do not fit together.
    #[error("the certificates in {} cannot be used: {reason}", dir.display())]
    Unusable {
        /// The folder.
        dir: PathBuf,
        /// What the TLS library says.
        reason: String,
    },
}

/// Makes the one crypto provider of this process known to all libraries in it. Called once, before any connection.
pub fn install_crypto_provider() {
    // A user's own binary may have installed one; then that is the one.
    let _ = ring::default_provider().install_default();
}

fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(ring::default_provider()))
}

/// What the three files hold.
#[derive(Clone, PartialEq, Eq)]
struct Files {
    ca: Vec<u8>,
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    fn read(dir: &Path) -> Result<Self, TlsError> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read(&path).map_err(|source| TlsError::File { path, source })
        };
        Ok(Self { ca: read(CA_FILE)?, cert: read(CERT_FILE)?, key: read(KEY_FILE)? })
    }

    fn server_config(&self, dir: &Path) -> Result<ServerConfig, TlsError> {
        let pem = |name: &str, what| TlsError::Pem { path: dir.join(name), what };
        let unusable = |reason: String| TlsError::Unusable { dir: dir.to_path_buf(), reason };
        let certificates = |bytes: &[u8], name: &str| {
            let all = CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>();
            all.ok().filter(|all| !all.is_empty()).ok_or_else(|| pem(name, "certificate"))
        };
        let mut authorities = RootCertStore::empty();
        for authority in certificates(&self.ca, CA_FILE)? {
            authorities.add(authority).map_err(|error| unusable(error.to_string()))?;
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| pem(KEY_FILE, "private key"))?;
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider())
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .and_then(|config| {
                config
                    .with_client_cert_verifier(clients)
                    .with_single_cert(certificates(&self.cert, CERT_FILE).unwrap_or_default(), key)
            })
            .map_err(|error| unusable(error.to_string()))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }
}

/// A worker's certificates, in a folder.
#[derive(Clone)]
pub struct Tls {
    dir: Arc<Path>,
    /// The last files that fit together, and what was made of them.
    last: Arc<Mutex<(Files, Arc<ServerConfig>)>>,
}

impl Tls {
    /// Reads the folder once, so that a wrong one is told at the start.
    pub fn new(dir: &Path) -> Result<Self, TlsError> {
        let files = Files::read(dir)?;
        let config = Arc::new(files.server_config(dir)?);
        Ok(Self { dir: dir.into(), last: Arc::new(Mutex::new((files, config))) })
    }

    /// What stands in the folder now; else what stood there last.
    fn current(&self) -> (Files, Arc<ServerConfig>) {
        let mut last = self.last.lock();
        let renewed = Files::read(&self.dir).and_then(|files| {
            if files == last.0 {
                return Ok(None);
            }
            files.server_config(&self.dir).map(|config| Some((files, Arc::new(config))))
        });
        match renewed {
            Ok(None) => {}
            Ok(Some(renewed)) => {
                tracing::info!(folder = %self.dir.display(), "the certificates have been renewed");
                *last = renewed;
            }
            Err(error) => {
                let error = crate::api::failure::chain(&error);
                tracing::warn!(error, "new certificates cannot be used, and the old ones are used on");
            }
        }
        last.clone()
    }

    /// How other workers are reached.
    pub(crate) fn client(&self) -> ClientTlsConfig {
        let (files, _) = self.current();
        ClientTlsConfig::new()
            .domain_name(WORKER_NAME)
            .ca_certificate(Certificate::from_pem(files.ca))
            .identity(Identity::from_pem(files.cert, files.key))
    }

    /// Makes a connection of a stream that somebody has opened.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<Connection> {
        let (_, config) = self.current();
        let handshake = TlsAcceptor::from(config).accept(stream);
        let timeout = |_| io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long");
        let stream = tokio::time::timeout(HANDSHAKE, handshake).await.map_err(timeout)??;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let caller = match certificates.first() {
            Some(certificate) if is_for(certificate, CONTROLLER_NAME) => Caller::Controller,
            Some(certificate) if is_for(certificate, WORKER_NAME) => Caller::Worker,
            _ => {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, "its certificate is for none of this job"));
            }
        };
        Ok(Connection { io: Io::Tls(Box::new(stream)), caller })
    }
}

fn is_for(certificate: &CertificateDer<'_>, name: &'static str) -> bool {
    let Ok(name) = ServerName::try_from(name) else { return false };
    ParsedCertificate::try_from(certificate).is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Somebody of this worker's own user on this machine, by a socket that is in a file; or, where a test opens a plain port,
    /// whoever reaches it.
    Local,
    Controller,
    Worker,
}

impl Caller {
    /// Sessions and plans are for the controller.
    pub(crate) fn must_be_controller<T>(request: &Request<T>) -> Result<(), Status> {
        match request.extensions().get::<Self>() {
            Some(Self::Local | Self::Controller) => Ok(()),
            Some(Self::Worker) | None => {
                Err(Status::permission_denied(format!("this is for whoever has a certificate for {CONTROLLER_NAME}")))
            }
        }
    }
}

/// A connection that somebody has made to this worker.
pub(crate) struct Connection {
    io: Io,
    caller: Caller,
}

enum Io {
    Plain(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    pub(crate) const fn plain(stream: TcpStream) -> Self {
        Self { io: Io::Plain(stream), caller: Caller::Local }
    }

    /// Of somebody of the same machine, if it is the user `owner`, whose worker this is.
    pub(crate) fn local(stream: UnixStream, owner: u32) -> io::Result<Self> {
        let peer = stream.peer_cred()?.uid();
        if peer != owner {
            let reason = format!("the socket is for user {owner}, and not for user {peer}");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
        }
        Ok(Self { io: Io::Unix(stream), caller: Caller::Local })
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Io::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Io::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Io::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Unix(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Io::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
