//! How a worker is reached where both sides show who they are: only a worker of this job's authority, with a worker's name, is
//! believed, and none believes a controller without a certificate.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{pin::Pin, time::Duration};

use async_trait::async_trait;
use futures::Stream;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};
use weir_controller::{
    platform::ProcessNumber,
    workers::{
        planner,
        session::{Session, SessionEvent, SessionId, connect, install_crypto},
        wire::SessionTls,
    },
};
use weir_protocol::{
    JobName, Term,
    rpc::{
        self, FromWorker, ToWorker,
        worker_server::{Worker, WorkerServer},
    },
    settings::PlanRequest,
    tls::{CONTROLLER_NAME, WORKER_NAME},
};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for a name, and its key.
fn signed(name: &str, by: &Authority) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_string()]).unwrap();
    (params.signed_by(&key, &**by).unwrap().pem(), key.serialize_pem())
}

/// A controller that believes workers of one authority, with a certificate of another or the same.
fn controller(believes: &Authority, by: &Authority) -> SessionTls {
    let (cert, key) = signed(CONTROLLER_NAME, by);
    SessionTls {
        ca: believes.pem().into_bytes().into(),
        cert: cert.into_bytes().into(),
        key: key.into_bytes().into(),
        server_name: WORKER_NAME.to_string(),
    }
}

struct Plans;

#[async_trait]
impl Worker for Plans {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<FromWorker, Status>> + Send>>;
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<rpc::Credit, Status>> + Send>>;

    async fn session(&self, _: Request<Streaming<ToWorker>>) -> Result<Response<Self::SessionStream>, Status> {
        Err(Status::unimplemented("only plans"))
    }
    async fn exchange(&self, _: Request<Streaming<rpc::Frame>>) -> Result<Response<Self::ExchangeStream>, Status> {
        Err(Status::unimplemented("only plans"))
    }
    async fn plan(&self, _: Request<rpc::PlanCall>) -> Result<Response<rpc::PlanAnswer>, Status> {
        Ok(Response::new(rpc::PlanAnswer {
            answer: br#"{"fingerprint":"f"}"#.as_slice().into(),
            mismatch: String::new(),
        }))
    }
}

/// A worker with this certificate, that asks for one of `clients`; its address.
async fn serve(name: &str, by: &Authority, clients: &Authority) -> String {
    let (cert, key) = signed(name, by);
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(cert, key))
        .client_ca_root(Certificate::from_pem(clients.pem()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Server::builder().tls_config(tls).unwrap().add_service(WorkerServer::new(Plans));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

/// What comes of asking for a plan.
async fn ask(address: &str, tls: Option<&SessionTls>) -> Result<String, String> {
    let channel = connect(address, tls).await?;
    let request = PlanRequest { script: "SELECT 1".into(), base_dir: "/".into(), max_parallelism: 128 };
    planner::ask(channel, &request, None).await.map(|plan| plan.fingerprint).map_err(|error| error.to_string())
}

#[tokio::test]
async fn only_who_shows_the_right_certificate_is_spoken_to() {
    install_crypto();
    let (ours, others) = (authority(), authority());
    let tls = |by: &Authority| controller(&ours, by);
    let mine = tls(&ours);
    assert_eq!(ask(&serve(WORKER_NAME, &ours, &ours).await, Some(&mine)).await, Ok("f".to_string()));

    let wrong_name = serve("somebody.else", &ours, &ours).await;
    let error = ask(&wrong_name, Some(&mine)).await.unwrap_err();
    assert!(error.contains(&wrong_name) && error.contains("certificate"), "{error}");

    let error = ask(&serve(WORKER_NAME, &others, &ours).await, Some(&mine)).await.unwrap_err();
    assert!(error.contains("certificate"), "{error}");

    let address = serve(WORKER_NAME, &ours, &ours).await;
    assert!(ask(&address, Some(&tls(&others))).await.is_err(), "a controller of another authority");
    assert!(ask(&address, None).await.is_err(), "plain text");
}

#[tokio::test]
async fn a_worker_that_takes_connections_and_says_nothing_is_found_lost() {
    install_crypto();
    // As the kernel of a node that stalls does.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let ours = authority();
    let job = JobName { namespace: "n".to_string(), name: "j".to_string() };
    let id = SessionId { process: ProcessNumber(1), term: Term(1) };
    for (tls, expected) in [(Some(controller(&ours, &ours)), "no answer"), (None, "has not taken up the session")] {
        let (events, mut told) = mpsc::channel(1);
        let session = Session::open(id, &address, Duration::ZERO, &job, "c", tls, events);
        match told.recv().await {
            Some((_, SessionEvent::Lost { reason })) => assert!(reason.contains(expected), "{reason}"),
            other => panic!("{other:?}"),
        }
        drop(session);
    }
}
