//! One gRPC session with one worker, in one term: what is sent, what comes back, and pings that find a silent peer.
//!
//! A session is never mended. When it breaks the worker is taken for lost, and its successor or a later term gets a new one.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc},
    task::AbortHandle,
    time::{Instant, MissedTickBehavior},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use weir_protocol::{
    BUILD_VERSION, JobName, PROTOCOL_VERSION, Term,
    rpc::{FromWorker, Hello, Ping, ToWorker, from_worker, to_worker, worker_client::WorkerClient},
};
use weir_runtime::tasks;

use crate::{
    platform::ProcessNumber,
    workers::wire::{MAX_MESSAGE, SessionTls},
};

/// From one ping to the next.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// So many pings without any word from the worker, and the session is broken.
const PINGS_MISSED: u32 = 3;
/// Messages under way to one worker. More than this means that it does not read, which is as good as silence.
const OUTBOX: usize = 256;
/// Connecting takes milliseconds where the worker listens at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A new worker that does not let itself be connected to is tried again for so long: its process may have just begun, and what
/// lies between, such as a network policy, may take a moment longer still. That its process has ended is told by the platform.
pub const FIRST_PATIENCE: Duration = Duration::from_secs(30);
/// From one try to the next.
const CONNECT_RETRY: Duration = Duration::from_millis(50);
/// Messages of all workers of all jobs that have been read and are not acted upon yet, in bytes, as far as they are large.
static UNHEARD: Semaphore = Semaphore::const_new(64 << 20);
/// Smaller ones are many, and are bounded by their number.
const LARGE: usize = 64 << 10;

/// Tells sessions apart: the same process has another one in each term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    /// With whom.
    pub process: ProcessNumber,
    /// In which term.
    pub term: Term,
}

/// Room that a message takes until it is acted upon.
#[derive(Clone, Debug, Default)]
pub struct Unheard(#[allow(dead_code, reason = "it is held")] Option<Arc<SemaphorePermit<'static>>>);

impl Unheard {
    /// Waits for room for a message of so many bytes.
    async fn room(bytes: usize) -> Self {
        if bytes < LARGE {
            return Self::default();
        }
        let permits = u32::try_from(bytes.min(MAX_MESSAGE)).unwrap_or(u32::MAX);
        Self(UNHEARD.acquire_many(permits).await.ok().map(Arc::new))
    }
}

/// What comes of a session.
#[derive(Clone, Debug)]
pub enum SessionEvent {
    /// The worker said something. Pongs are not passed on.
    Said(Box<from_worker::Message>, Unheard),
    /// The session is broken. Nothing more comes of it.
    Lost {
        /// For people.
        reason: String,
    },
}

/// Sends to one worker. Dropping it ends the session, and nothing more is told of it.
#[derive(Debug)]
pub struct Session {
    term: Term,
    outbox: mpsc::Sender<ToWorker>,
    task: AbortHandle,
}

impl Session {
    /// Connects and says hello, trying for as long as `patience` says. Messages can be sent at once; they follow the hello in
    /// order.
    pub fn open(
        id: SessionId,
        address: &str,
        patience: Duration,
        job: &JobName,
        coordinator: &str,
        tls: Option<SessionTls>,
        events: mpsc::Sender<(SessionId, SessionEvent)>,
    ) -> Self {
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        let hello = Hello {
            protocol_version: PROTOCOL_VERSION,
            build_version: BUILD_VERSION.to_string(),
            coordinator: coordinator.to_string(),
            namespace: job.namespace.clone(),
            job: job.name.clone(),
        };
        let (address, pings) = (address.to_string(), outbox.clone());
        let task = tasks::spawn(async move {
            let reason = talk(id, &address, patience, tls.as_ref(), pings, inbox, &events).await;
            let _ = events.send((id, SessionEvent::Lost { reason })).await;
        });
        let session = Self { term: id.term, outbox, task: task.abort_handle() };
        session.send(to_worker::Message::Hello(hello));
        session
    }

    /// The term that it is in.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Queues a message. A worker that does not read its messages is found by the pings.
    pub fn send(&self, message: to_worker::Message) {
        let _ = self.outbox.try_send(ToWorker { term: self.term.0, message: Some(message) });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Says which implementation of cryptography this process uses: the one that is in the tree. To be called at its start; a
/// second call changes nothing.
pub fn install_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Connects to a worker, with mutual TLS where that is given; says why it could not.
pub async fn connect(address: &str, tls: Option<&SessionTls>) -> Result<Channel, String> {
    let uri = match tls {
        Some(_) => format!("https://{address}"),
        // A socket in a file, of a worker on this machine.
        None if address.starts_with("unix:") => address.to_string(),
        None => format!("http://{address}"),
    };
    let unusable =
        |error: &dyn std::error::Error| format!("its address {address} cannot be used: {}", root_cause(error));
    let mut endpoint = Endpoint::from_shared(uri).map_err(|error| unusable(&error))?;
    if let Some(tls) = tls {
        let config = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&tls.ca))
            .identity(Identity::from_pem(&tls.cert, &tls.key))
            .domain_name(&tls.server_name);
        endpoint = endpoint.tls_config(config).map_err(|error| unusable(&error))?;
    }
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
    // Also the handshake: the kernel of a node that stalls still takes connections.
    match tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect()).await {
        Ok(connected) => connected.map_err(|error| format!("no connection to {address}: {}", root_cause(&error))),
        Err(_) => Err(format!("no connection to {address}: no answer in {} s", CONNECT_TIMEOUT.as_secs())),
    }
}

/// Runs the session until it breaks; says why it did.
async fn talk(
    id: SessionId,
    address: &str,
    patience: Duration,
    tls: Option<&SessionTls>,
    outbox: mpsc::Sender<ToWorker>,
    inbox: mpsc::Receiver<ToWorker>,
    events: &mpsc::Sender<(SessionId, SessionEvent)>,
) -> String {
    let until = Instant::now() + patience;
    let channel = loop {
        match connect(address, tls).await {
            Ok(channel) => break channel,
            Err(reason) if Instant::now() >= until => return reason,
            Err(_) => tokio::time::sleep(CONNECT_RETRY).await,
        }
    };
    let mut client =
        WorkerClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
    let patience = CONNECT_TIMEOUT.max(until.saturating_duration_since(Instant::now()));
    let mut answers = match tokio::time::timeout(patience, client.session(ReceiverStream::new(inbox))).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return format!("it refuses the session: {}", status.message()),
        Err(_) => return format!("it has not taken up the session in {} s", patience.as_secs()),
    };

    let mut pings = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    // A coordinator that was stopped for a while must not take its own absence for the worker's silence: pings that it missed
    // are not made up for, and what the worker has said meanwhile is read first.
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut sequence, mut missed) = (0, 0);
    loop {
        tokio::select! {
            biased;
            answer = answers.message() => match answer {
                Ok(Some(FromWorker { message: Some(message) })) => {
                    missed = 0;
                    if matches!(message, from_worker::Message::Pong(_)) {
                        continue;
                    }
                    let room = Unheard::room(message.encoded_len()).await;
                    if events.send((id, SessionEvent::Said(Box::new(message), room))).await.is_err() {
                        return "the run is over".to_string();
                    }
                }
                Ok(Some(FromWorker { message: None })) => missed = 0,
                Ok(None) => return "it ended the session".to_string(),
                Err(status) => return format!("the connection broke: {}", status.message()),
            },
            _ = pings.tick() => {
                if missed >= PINGS_MISSED {
                    return format!("it has not answered for {missed} s");
                }
                sequence += 1;
                missed += 1;
                // A full outbox is a worker that does not read: the count goes on.
                let _ = outbox.try_send(ToWorker { term: id.term.0, message: Some(to_worker::Message::Ping(Ping { sequence })) });
            }
        }
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
