//! Certificates of a job's own authority, and of another's, tried on a worker.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Endpoint};
use weir_protocol::{
    BUILD_VERSION, PROTOCOL_VERSION,
    rpc::{Frame, Hello, PlanCall, ToWorker, frame::Body, from_worker, to_worker, worker_client::WorkerClient},
};
use weir_state::BackendRegistry;

use super::*;
use crate::{
    control::server::{WorkerOptions, WorkerServer},
    testing::CountingJob,
};

type Client = WorkerClient<tonic::transport::Channel>;

/// A job's certificate authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn certificate(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_string()]).unwrap().signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Puts the files of a worker into a folder.
    fn equip(&self, folder: &Path) {
        let (certificate, key) = self.certificate(WORKER_NAME);
        for (name, content) in [(CA_FILE, self.0.pem()), (CERT_FILE, certificate), (KEY_FILE, key)] {
            std::fs::write(folder.join(name), content).unwrap();
        }
    }

    /// What somebody connects with who trusts this authority and shows a certificate of another's.
    fn client(&self, signed_by: &Self, name: &str) -> ClientTlsConfig {
        let (certificate, key) = signed_by.certificate(name);
        self.client_without().identity(Identity::from_pem(certificate, key))
    }

    fn client_without(&self) -> ClientTlsConfig {
        ClientTlsConfig::new().domain_name(WORKER_NAME).ca_certificate(Certificate::from_pem(self.0.pem()))
    }
}

/// A worker with certificates, listening.
struct Served {
    folder: TempDir,
    address: String,
    authority: Authority,
    shutdown: CancellationToken,
}

impl Served {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        authority.equip(folder.path());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let planner = Arc::new(CountingJob { splits: 1, rows: 1, ..CountingJob::default() });
        let registry = BackendRegistry::with_builtin();
        let mut options = WorkerOptions::new(folder.path().join("state"), 128 << 20, registry, planner);
        options.tls = Some(Tls::new(folder.path()).unwrap());
        let shutdown = CancellationToken::new();
        tokio::spawn(WorkerServer::new(options).serve(listener, shutdown.clone()));
        Self { folder, address, authority, shutdown }
    }

    async fn connect(&self, tls: ClientTlsConfig) -> Result<Client, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address)).unwrap().tls_config(tls).unwrap();
        endpoint.connect().await.map(Client::new)
    }

    async fn connect_as(&self, name: &str) -> Client {
        self.connect(self.authority.client(&self.authority, name)).await.unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn hello() -> ToWorker {
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        build_version: BUILD_VERSION.into(),
        coordinator: "test".into(),
        namespace: "default".into(),
        job: "counting".into(),
    };
    ToWorker { term: 1, message: Some(to_worker::Message::Hello(hello)) }
}

/// Asks for a plan: what every caller who is let in can be told.
async fn ask(client: &mut Client) -> Result<(), Code> {
    let request = br#"{"script": "nonsense", "baseDir": "/", "maxParallelism": 8}"#;
    let answer = client.plan(PlanCall { plan_request: request.to_vec().into(), ..PlanCall::default() }).await;
    answer.map(drop).map_err(|status| status.code())
}

#[tokio::test]
async fn the_controller_opens_sessions_and_asks_for_plans() {
    let served = Served::new().await;
    let mut controller = served.connect_as(CONTROLLER_NAME).await;
    assert_eq!(ask(&mut controller).await, Ok(()));
    let (said, saying) = mpsc::unbounded_channel();
    said.send(hello()).unwrap();
    let mut answers = controller.session(UnboundedReceiverStream::new(saying)).await.unwrap().into_inner();
    let first = answers.message().await.unwrap().unwrap().message;
    assert!(matches!(first, Some(from_worker::Message::Welcome(_))), "{first:?}");
}

#[tokio::test]
async fn a_worker_may_exchange_and_nothing_else() {
    let served = Served::new().await;
    let mut worker = served.connect_as(WORKER_NAME).await;
    assert_eq!(ask(&mut worker).await, Err(Code::PermissionDenied));
    let session = worker.session(tokio_stream::iter([hello()])).await;
    assert_eq!(session.map(drop).unwrap_err().code(), Code::PermissionDenied);
    // Whoever may exchange is asked who it is; this one does not say.
    let silent = Frame { attempt: 1, channel: 0, body: Some(Body::Idle(true)), cost: 0 };
    let exchange = worker.exchange(tokio_stream::iter([silent])).await;
    assert_eq!(exchange.map(drop).unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn whoever_has_no_certificate_of_this_job_is_refused() {
    let served = Served::new().await;
    let other = Authority::new();
    let ours = &served.authority;
    for (who, tls) in [
        ("signed by another authority", ours.client(&other, CONTROLLER_NAME)),
        ("trusting another authority", other.client(ours, CONTROLLER_NAME)),
        ("for another name", ours.client(ours, "somebody.weir")),
        ("without any", ours.client_without()),
    ] {
        // In TLS 1.3 a client learns that its certificate is refused only with the first answer.
        let refused = match served.connect(tls).await {
            Err(_) => true,
            Ok(mut client) => ask(&mut client).await.is_err(),
        };
        assert!(refused, "{who}");
    }
    let plain = Endpoint::from_shared(format!("http://{}", served.address)).unwrap().connect().await;
    let refused = match plain {
        Err(_) => true,
        Ok(channel) => ask(&mut Client::new(channel)).await.is_err(),
    };
    assert!(refused, "in plain text");
    assert_eq!(ask(&mut served.connect_as(CONTROLLER_NAME).await).await, Ok(()), "and the server goes on");
}

#[tokio::test]
async fn new_files_count_for_new_connections_and_broken_ones_do_not() {
    let mut served = Served::new().await;
    let mut before = served.connect_as(CONTROLLER_NAME).await;
    assert_eq!(ask(&mut before).await, Ok(()));

    std::fs::write(served.folder.path().join(CERT_FILE), "half a certif").unwrap();
    assert_eq!(ask(&mut served.connect_as(CONTROLLER_NAME).await).await, Ok(()), "the last good ones are used on");

    let renewed = Authority::new();
    renewed.equip(served.folder.path());
    let old = served.connect(served.authority.client(&served.authority, CONTROLLER_NAME)).await;
    assert!(old.is_err(), "the worker shows a certificate of the new authority");
    served.authority = renewed;
    assert_eq!(ask(&mut served.connect_as(CONTROLLER_NAME).await).await, Ok(()));
    assert_eq!(ask(&mut before).await, Ok(()), "what stands goes on");
}

#[test]
fn a_folder_that_cannot_be_used_is_told_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let told = |folder: &Path| Tls::new(folder).map(drop).unwrap_err().to_string();
    assert!(told(folder.path()).contains(CA_FILE));
    let authority = Authority::new();
    authority.equip(folder.path());
    assert!(Tls::new(folder.path()).is_ok());
    let (_, other_key) = authority.certificate(WORKER_NAME);
    std::fs::write(folder.path().join(KEY_FILE), other_key).unwrap();
    assert!(told(folder.path()).contains("cannot be used"));
    std::fs::write(folder.path().join(KEY_FILE), "").unwrap();
    assert!(told(folder.path()).contains(KEY_FILE));
}
