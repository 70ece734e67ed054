//! A worker's gRPC server: sessions of coordinators, and streams of other workers.
//!
//! What is said in a session goes to the control loop in order, and its answers come back; nothing is decided here.

use std::{
    io,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    sync::{Semaphore, mpsc},
};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use weir_protocol::{
    WorkerId,
    rpc::{
        Credit, Frame, FromWorker, PlanAnswer, PlanCall, ToWorker,
        worker_server::{Worker, WorkerServer as GrpcServer},
    },
    settings::FailureKind,
};
use weir_runtime::tasks;
use weir_state::{BackendRegistry, StateMemory};

pub use crate::control::LEAVING;
pub use crate::deploy::{OnStuck, PlanFailure, Planner, PlannerFailed};
use crate::{
    api::clock::{Clock, SystemClock},
    control::Control,
    deploy::{self, Host},
    event::Event,
    metrics::Metrics,
    net::{
        listener::Listener,
        network::{self, ExchangeHub},
        tls::{Caller, Connection, Tls},
    },
    restore::local::LocalFolder,
};

/// Handshakes under way at once. A peer that never ends one holds up nobody but so many others, and not for long.
const HANDSHAKES: usize = 64;

/// The exit code of a process with a subtask that does not stop.
pub const STUCK_EXIT_CODE: i32 = 70;

/// What a worker process is given at its start.
pub struct WorkerOptions {
    /// The id that the process made for itself.
    pub worker: WorkerId,
    /// Below this the worker has a folder of its own for local state.
    pub state_dir: PathBuf,
    /// Bytes of memory that the worker obeys.
    pub memory: u64,
    /// State backends by name.
    pub registry: BackendRegistry,
    /// Plans scripts.
    pub planner: Arc<dyn Planner>,
    /// Processing time.
    pub clock: Arc<dyn Clock>,
    /// By default connections are in plain text, which is for the socket of one user on one machine.
    pub tls: Option<Tls>,
    /// Cancelled when the process has been told to go, and may take [`LEAVING`] for it: so long it waits for its coordinator
    /// to say Stop, if anything is deployed. By default nobody cancels it.
    pub leave: CancellationToken,
    /// By default the process exits with [`STUCK_EXIT_CODE`].
    pub on_stuck: OnStuck,
}

impl WorkerOptions {
    /// With the system's clock.
    pub fn new(state_dir: PathBuf, memory: u64, registry: BackendRegistry, planner: Arc<dyn Planner>) -> Self {
        Self {
            worker: WorkerId::generate(),
            state_dir,
            memory,
            registry,
            planner,
            clock: Arc::new(SystemClock),
            tls: None,
            leave: CancellationToken::new(),
            on_stuck: Arc::new(|stuck| {
                tracing::error!(?stuck, "subtasks do not stop, and the process ends");
                std::process::exit(STUCK_EXIT_CODE);
            }),
        }
    }
}

/// The server could not run.
#[derive(Debug, thiserror::Error)]
#[error("the worker's gRPC server failed")]
pub struct ServeError(#[from] tonic::transport::Error);

/// A worker: options and [`Self::serve`].
pub struct WorkerServer {
    host: Arc<Host>,
    inbox: mpsc::UnboundedReceiver<Event>,
    leave: CancellationToken,
}

impl WorkerServer {
    /// Nothing runs yet.
    pub fn new(options: WorkerOptions) -> Self {
        let (events, inbox) = mpsc::unbounded_channel();
        let local = LocalFolder::new(options.state_dir.join(&options.worker.0));
        let state_memory = StateMemory::new(options.memory);
        let clock = Arc::clone(&options.clock);
        let metrics = Metrics::new(options.worker.clone(), options.memory, state_memory.clone(), clock);
        let host = Host {
            worker: options.worker,
            memory: options.memory,
            registry: Arc::new(options.registry),
            state_memory,
            planner: options.planner,
            clock: options.clock,
            tls: options.tls,
            metrics: Arc::new(metrics),
            on_stuck: options.on_stuck,
            hub: ExchangeHub::default(),
            local: Mutex::new(local),
            events,
        };
        Self { host: Arc::new(host), inbox, leave: options.leave }
    }

    /// What this worker says of itself.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.host.metrics)
    }

    /// Serves until a coordinator says Stop or `shutdown` is cancelled; then the attempt has ended and local state is gone.
    pub async fn serve(self, listener: impl Into<Listener>, shutdown: CancellationToken) -> Result<(), ServeError> {
        let service = Service { host: Arc::clone(&self.host), plans: Semaphore::new(1), sessions: AtomicU64::new(0) };
        let service =
            GrpcServer::new(service).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX);
        let incoming = incoming(listener.into(), self.host.tls.clone());
        let ended = CancellationToken::new();
        let serving = network::server()
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, ended.clone().cancelled_owned());
        let control = Control::new(self.host).run(self.inbox, shutdown, self.leave);
        tokio::select! {
            served = serving => Ok(served?),
            // Streams of peers would hold a graceful end back for as long as the peers live.
            () = control => Ok(()),
        }
    }
}

/// Connections that are ready for gRPC. One that cannot be made ready is told of and dropped: an error in this stream would
/// end the server.
fn incoming(listener: Listener, tls: Option<Tls>) -> Pin<Box<dyn Stream<Item = io::Result<Connection>> + Send>> {
    let (listener, owner) = match listener {
        Listener::Tcp(listener) => {
            let ready = move |connection: io::Result<TcpStream>| {
                let tls = tls.clone();
                async move {
                    let connection = match connection {
                        Ok(connection) => connection,
                        Err(error) => return Some(Err(error)),
                    };
                    let peer = connection.peer_addr().map_or_else(|_| "somebody".to_string(), |peer| peer.to_string());
                    unless_refused(&peer, make_ready(connection, tls).await)
                }
            };
            let ready = TcpListenerStream::new(listener).map(ready).buffer_unordered(HANDSHAKES);
            return Box::pin(ready.filter_map(std::future::ready));
        }
        Listener::Unix { listener, owner } => (listener, owner),
    };
    let ready = UnixListenerStream::new(listener).filter_map(move |connection| {
        let ready = match connection {
            Ok(connection) => unless_refused("somebody of this machine", Connection::local(connection, owner)),
            Err(error) => Some(Err(error)),
        };
        std::future::ready(ready)
    });
    Box::pin(ready)
}

fn unless_refused(peer: &str, connection: io::Result<Connection>) -> Option<io::Result<Connection>> {
    match connection {
        Ok(connection) => Some(Ok(connection)),
        Err(error) => {
            tracing::warn!(peer, %error, "a connection is refused");
            None
        }
    }
}

async fn make_ready(connection: TcpStream, tls: Option<Tls>) -> io::Result<Connection> {
    // A listener that was made by hand has no options: answers would wait for more to be sent with them.
    connection.set_nodelay(true)?;
    match tls {
        None => Ok(Connection::plain(connection)),
        Some(tls) => tls.accept(connection).await,
    }
}

struct Service {
    host: Arc<Host>,
    /// Whose turn it is to plan.
    plans: Semaphore,
    sessions: AtomicU64,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Worker for Service {
    type SessionStream = Answers<FromWorker>;
    type ExchangeStream = Answers<Credit>;

    async fn session(&self, request: Request<Streaming<ToWorker>>) -> Result<Response<Self::SessionStream>, Status> {
        Caller::must_be_controller(&request)?;
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        // Bounded by what a coordinator asks for; stats, which nobody asks for, come four times a second.
        let (outbox, answers) = mpsc::unbounded_channel();
        let events = self.host.events.clone();
        let tell = move |event| events.send(event).map_err(|_| Status::unavailable("this worker is ending"));
        tell(Event::SessionOpened { session, outbox })?;
        let mut said = request.into_inner();
        tasks::spawn(async move {
            loop {
                let event = match said.message().await {
                    Ok(Some(message)) => Event::Said { session, message: Box::new(message) },
                    Ok(None) => Event::SessionEnded { session, reason: "the coordinator closed it".to_string() },
                    Err(status) => Event::SessionEnded { session, reason: status.message().to_string() },
                };
                let ended = matches!(event, Event::SessionEnded { .. });
                if tell(event).is_err() || ended {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(answers).map(Ok))))
    }

    async fn exchange(&self, request: Request<Streaming<Frame>>) -> Result<Response<Self::ExchangeStream>, Status> {
        let credits = self.host.hub.accept(request.into_inner()).await?;
        Ok(Response::new(Box::pin(credits)))
    }

    async fn plan(&self, request: Request<PlanCall>) -> Result<Response<PlanAnswer>, Status> {
        Caller::must_be_controller(&request)?;
        let call = request.into_inner();
        let (planner, asked) = (Arc::clone(&self.host.planner), call.plan_request.clone());
        // One after the other: whoever asks for many takes no more of the machine than one does.
        let _turn = self.plans.acquire().await.map_err(|_| Status::unavailable("this worker is ending"))?;
        let answer = tokio::task::spawn_blocking(move || planner.describe(&asked)).await;
        let answer = answer.map_err(|panicked| Status::internal(format!("the planner failed: {panicked}")))?;
        let answer = answer.map_err(|failed| Status::internal(failed.message))?;
        let mismatch = match deploy::fits(&self.host, &call).await {
            Ok(()) => String::new(),
            // What is wrong with the script stands in the answer.
            Err(failure) if failure.kind == FailureKind::Plan => String::new(),
            Err(failure) if failure.kind == FailureKind::StateMismatch => failure.message,
            Err(failure) => return Err(Status::unavailable(failure.message)),
        };
        Ok(Response::new(PlanAnswer { answer: answer.into(), mismatch }))
    }
}

#[cfg(test)]
mod tests;
