//! One gRPC server for all workers: which of them is spoken to is said by the address that the connection came to.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Secret;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{
        Server,
        server::{TcpConnectInfo, TlsConnectInfo},
    },
};
use weir_protocol::{
    rpc::{
        Credit, Frame, FromWorker, PlanAnswer, PlanCall, ToWorker,
        worker_server::{Worker as Calls, WorkerServer},
    },
    tls::{CA_FILE, CERT_FILE, KEY_FILE},
};

use super::{Workers, worker};

const PORT: u16 = 6120;
/// All workers may be connected to in the same moment.
const HANDSHAKES: usize = 4_096;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// As a worker's own server has them.
const PING: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(3);

/// How connections to the workers of a job are taken: who they are, and whom they trust.
pub fn config(secret: &Secret) -> Result<Arc<ServerConfig>, String> {
    let entry = |name: &str| {
        let entry = secret.data.as_ref().and_then(|data| data.get(name));
        entry.map(|bytes| bytes.0.as_slice()).ok_or_else(|| format!("its Secret has no {name}"))
    };
    let all = |name: &str| {
        let read = CertificateDer::pem_slice_iter(entry(name)?).collect::<Result<Vec<_>, _>>();
        read.map_err(|error| format!("{name} is no certificate: {error}"))
    };
    let wrong = |error: &dyn std::error::Error| format!("its certificates cannot be used: {error}");
    let mut authorities = RootCertStore::empty();
    for authority in all(CA_FILE)? {
        authorities.add(authority).map_err(|error| wrong(&error))?;
    }
    let key = PrivateKeyDer::from_pem_slice(entry(KEY_FILE)?).map_err(|error| wrong(&error))?;
    let provider = Arc::new(ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(&provider));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?
        .with_client_cert_verifier(clients.build().map_err(|error| wrong(&error))?)
        .with_single_cert(all(CERT_FILE)?, key)
        .map_err(|error| wrong(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Serves for ever.
pub async fn serve(workers: Workers) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await.expect("the workers' port is free");
    let known = workers.clone();
    let ready = TcpListenerStream::new(listener)
        .map(move |connection| {
            let workers = known.clone();
            async move {
                // One that cannot be taken is dropped; an error in this stream would end the server.
                take(connection, &workers).await.inspect_err(|error| eprintln!("a connection is refused: {error}")).ok()
            }
        })
        .buffer_unordered(HANDSHAKES)
        .filter_map(|taken| std::future::ready(taken.map(io::Result::Ok)));
    Server::builder()
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(SILENCE))
        .add_service(WorkerServer::new(Service(workers)))
        .serve_with_incoming(ready)
        .await
        .expect("the server goes on");
}

async fn take(connection: io::Result<TcpStream>, workers: &Workers) -> io::Result<TlsStream<TcpStream>> {
    let connection = connection?;
    connection.set_nodelay(true)?;
    let address = connection.local_addr()?.ip();
    let worker = find(workers, address).ok_or_else(|| io::Error::other(format!("{address} is no pod of this node")))?;
    let config = worker.config().ok_or_else(|| io::Error::other(format!("the pod at {address} has not started")))?;
    let handshake = TlsAcceptor::from(config).accept(connection);
    tokio::time::timeout(HANDSHAKE, handshake).await.map_err(io::Error::other)?
}

fn find(workers: &Workers, address: IpAddr) -> Option<Arc<worker::Worker>> {
    let IpAddr::V4(address) = address else { return None };
    workers.read().get(&address).cloned()
}

/// What all workers answer to calls.
struct Service(Workers);

impl Service {
    fn called<T>(&self, request: &Request<T>) -> Result<Arc<worker::Worker>, Status> {
        let connection = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
        let address = connection.and_then(|connection| connection.get_ref().local_addr());
        address
            .and_then(|address| find(&self.0, address.ip()))
            .ok_or_else(|| Status::unavailable("this worker has ended"))
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Calls for Service {
    type SessionStream = Answers<FromWorker>;
    type ExchangeStream = Answers<Credit>;

    async fn session(&self, request: Request<Streaming<ToWorker>>) -> Result<Response<Self::SessionStream>, Status> {
        let worker = self.called(&request)?;
        let (outbox, answers) = mpsc::unbounded_channel();
        tokio::spawn(worker.talk(request.into_inner(), outbox));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(answers).map(Ok))))
    }

    /// Workers of one stage have nothing to say to each other.
    async fn exchange(&self, _: Request<Streaming<Frame>>) -> Result<Response<Self::ExchangeStream>, Status> {
        Err(Status::unimplemented("a stub takes no rows"))
    }

    async fn plan(&self, request: Request<PlanCall>) -> Result<Response<PlanAnswer>, Status> {
        self.called(&request)?;
        let answer = worker::plan(&request.into_inner().plan_request).map_err(Status::invalid_argument)?;
        Ok(Response::new(PlanAnswer { answer: answer.into(), mismatch: String::new() }))
    }
}
