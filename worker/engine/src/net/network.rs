//! Elements between workers: one stream for a pair of workers and a direction, all channels of an attempt in it.
//!
//! The sender opens the stream. Frames go one way and credits come back on the same stream. A data frame spends credits of its
//! channel, which the receiving subtask grants as it takes batches out; all other frames need none, so that a barrier or a
//! cancel always gets through. The receiver reads whatever comes: HTTP/2's own windows are set so large that they never bind,
//! since a window that channels share would let one held-back channel stop the barrier of another.
//!
//! What this module does not do: it never reconnects a stream that has carried frames. A broken stream ends the attempt.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Status, Streaming,
    transport::{Endpoint, Server},
};
use weir_protocol::{
    Attempt, CheckpointId, WorkerId,
    rpc::{Barrier, Credit, Frame, Peer, frame::Body, worker_client::WorkerClient},
};
use weir_runtime::tasks;

use crate::{
    api::{
        failure::{PeerLost, chain},
        source::Waker,
    },
    data::wire::{FrameDecoder, FrameEncoder, WireError},
    net::{listener::UNIX, tls::Tls},
    seam::{ChannelId, Element, Remote, RemoteSender, Stopped},
};

/// HTTP/2's largest window. Credits bound what is under way, and nothing else may.
const WINDOW: u32 = (1 << 31) - 1;
/// The largest HTTP/2 frame: a batch fits into one or a few.
const HTTP2_FRAME: u32 = 1 << 20;
/// A peer that answers no ping for so long is lost.
const SILENCE: Duration = Duration::from_secs(3);
/// How often a connection is pinged.
const PING: Duration = Duration::from_secs(1);
/// How long a first connection is tried: the peer's process runs, but a network may need a moment to know it.
const CONNECTING: Duration = Duration::from_secs(5);
/// Between two tries.
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// Settings of every gRPC server of a worker.
pub fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .http2_adaptive_window(Some(false))
        .max_frame_size(HTTP2_FRAME)
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(SILENCE))
        .tcp_nodelay(true)
}

fn endpoint(address: &str, tls: Option<&Tls>) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = match tls {
        None if address.starts_with(UNIX) => Endpoint::from_shared(address.to_string())?,
        None => Endpoint::from_shared(format!("http://{address}"))?,
        Some(tls) => Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls.client())?,
    };
    Ok(endpoint
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .http2_adaptive_window(false)
        .max_frame_size(HTTP2_FRAME)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(SILENCE)
        .keep_alive_while_idle(true)
        .connect_timeout(CONNECTING)
        .tcp_nodelay(true))
}

/// Why an incoming frame was refused.
#[derive(Debug, Error)]
enum RefusedFrame {
    #[error("a frame of attempt {found} came into attempt {ours}")]
    Attempt { found: u64, ours: u64 },
    #[error("a frame without content")]
    Empty,
    #[error("a frame for a channel that does not lead here: {0}")]
    Channel(ChannelId),
    #[error("a data frame of {channel}")]
    Data { channel: ChannelId, source: WireError },
}

/// Takes what comes from other workers: channel, element, and what it has cost. Never waits. `false`: no such channel here.
pub type Deliver = Box<dyn Fn(ChannelId, Element, usize) -> bool + Send + Sync>;

/// The credits of one outgoing channel. One thread spends; the stream's task grants.
struct Credits {
    available: AtomicI64,
    closed: AtomicBool,
    /// Tells the spender that there are credits again.
    room: Waker,
}

impl Credits {
    fn new(window: usize, room: Waker) -> Self {
        Self { available: AtomicI64::new(window as i64), closed: AtomicBool::new(false), room }
    }

    /// Nothing is left to spend.
    fn are_spent(&self) -> bool {
        self.available.load(Ordering::Acquire) <= 0 && !self.closed.load(Ordering::Acquire)
    }

    /// Spends `cost`, which may be more than what is left.
    fn spend(&self, cost: usize) -> Result<(), Stopped> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Stopped);
        }
        self.available.fetch_sub(cost as i64, Ordering::AcqRel);
        Ok(())
    }

    fn grant(&self, bytes: u64) {
        let before = self.available.fetch_add(bytes as i64, Ordering::AcqRel);
        if before <= 0 && before + bytes as i64 > 0 {
            self.room.wake();
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.room.wake();
    }
}

/// What this worker holds of one other worker, in one attempt.
struct Link {
    peer: WorkerId,
    address: String,
    frames: mpsc::UnboundedSender<Frame>,
    /// By packed channel.
    credits: Mutex<HashMap<u64, Arc<Credits>>>,
    grants: mpsc::UnboundedSender<Credit>,
    /// Taken when the peer's stream comes; a second stream finds none.
    granted: Mutex<Option<mpsc::UnboundedReceiver<Credit>>>,
}

/// What one attempt needs of the network.
pub struct NetworkPlan {
    /// Which attempt.
    pub attempt: Attempt,
    /// This worker.
    pub worker: WorkerId,
    /// All workers of the attempt, this one among them.
    pub peers: Vec<Peer>,
    /// What flows on each edge, by the edge's index.
    pub schemas: Vec<SchemaRef>,
    /// Bytes that a channel's credits begin with, on both sides.
    pub window: usize,
    /// How peers are reached; `None` is in plain text.
    pub tls: Option<Tls>,
}

/// One attempt's streams to and from all other workers.
pub struct AttemptNetwork {
    attempt: Attempt,
    worker: WorkerId,
    links: Vec<Link>,
    /// The link of each subtask's worker; `None` for this worker's own.
    link_of: HashMap<u32, usize>,
    decoders: Vec<FrameDecoder>,
    window: usize,
    tls: Option<Tls>,
    deliver: OnceLock<Deliver>,
    ready: CancellationToken,
    closed: CancellationToken,
    lost: mpsc::UnboundedSender<PeerLost>,
    highest_barrier: AtomicU64,
}

impl AttemptNetwork {
    /// Opens a stream to each peer. Streams from peers wait until [`Self::start`]. What is lost is told once a peer and stream.
    pub fn connect(plan: NetworkPlan, lost: mpsc::UnboundedSender<PeerLost>) -> Arc<Self> {
        let mut links = Vec::new();
        let mut outgoing = Vec::new();
        let mut link_of = HashMap::new();
        for peer in plan.peers.iter().filter(|peer| peer.worker != plan.worker.0) {
            let (frames, frames_out) = mpsc::unbounded_channel();
            let (grants, granted) = mpsc::unbounded_channel();
            link_of.extend(peer.subtasks.iter().map(|subtask| (*subtask, links.len())));
            links.push(Link {
                peer: WorkerId(peer.worker.clone()),
                address: peer.address.clone(),
                frames,
                credits: Mutex::new(HashMap::new()),
                grants,
                granted: Mutex::new(Some(granted)),
            });
            outgoing.push(frames_out);
        }
        let network = Arc::new(Self {
            attempt: plan.attempt,
            worker: plan.worker,
            links,
            link_of,
            decoders: plan.schemas.into_iter().map(FrameDecoder::new).collect(),
            window: plan.window,
            tls: plan.tls,
            deliver: OnceLock::new(),
            ready: CancellationToken::new(),
            closed: CancellationToken::new(),
            lost,
            highest_barrier: AtomicU64::new(0),
        });
        for (link, frames) in outgoing.into_iter().enumerate() {
            let network = Arc::clone(&network);
            tasks::spawn(async move {
                let closed = network.closed.clone();
                let ended = tokio::select! {
                    () = closed.cancelled() => return,
                    ended = network.send_to(link, frames) => ended,
                };
                network.lose(link, ended);
            });
        }
        network
    }

    /// The attempt that these streams belong to.
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// The highest checkpoint of which a peer has sent a barrier: this worker may know it from nowhere else.
    pub fn highest_barrier(&self) -> CheckpointId {
        CheckpointId(self.highest_barrier.load(Ordering::Acquire))
    }

    /// From here on elements are delivered. Called once, when the attempt's subtasks are built.
    pub fn start(&self, deliver: Deliver) {
        // A second call finds it set, and changes nothing.
        drop(self.deliver.set(deliver));
        self.ready.cancel();
    }

    /// Ends all streams, and wakes whoever waits for credits: the next send says that the attempt is being stopped.
    pub fn close(&self) {
        self.closed.cancel();
        for link in &self.links {
            for credits in link.credits.lock().values() {
                credits.close();
            }
        }
    }

    fn lose(&self, link: usize, reason: String) {
        if !self.closed.is_cancelled() {
            let peer = self.links[link].peer.clone();
            tracing::warn!(attempt = %self.attempt, %peer, reason, "lost a peer");
            // Nobody listens any more once the attempt has been dropped.
            let _ = self.lost.send(PeerLost { peer, reason });
        }
    }

    /// Carries frames to one peer and credits back, until the stream breaks; says why it did.
    async fn send_to(&self, link: usize, frames: mpsc::UnboundedReceiver<Frame>) -> String {
        let Link { address, credits, .. } = &self.links[link];
        let mut client = match connect(address, self.tls.as_ref()).await {
            Ok(client) => client,
            Err(error) => return format!("{address} cannot be reached: {}", chain(&error)),
        };
        let hello =
            Frame { attempt: self.attempt.0, channel: 0, body: Some(Body::Hello(self.worker.0.clone())), cost: 0 };
        let frames = futures::stream::iter([hello]).chain(UnboundedReceiverStream::new(frames));
        let mut granted = match client.exchange(frames).await {
            Ok(response) => response.into_inner(),
            Err(status) => return format!("it refused the stream: {}", describe(&status)),
        };
        loop {
            match granted.message().await {
                Ok(Some(credit)) if credit.attempt == self.attempt.0 => {
                    if let Some(credits) = credits.lock().get(&credit.channel) {
                        credits.grant(credit.bytes);
                    }
                }
                Ok(Some(credit)) => return format!("it granted credits in attempt {}", credit.attempt),
                Ok(None) => return "it closed the stream".to_string(),
                Err(status) => return format!("the stream broke: {}", describe(&status)),
            }
        }
    }

    /// Takes a peer's frames until its stream ends.
    async fn receive_from(&self, link: usize, mut frames: Streaming<Frame>) {
        let ended = tokio::select! {
            () = self.closed.cancelled() => return,
            ended = self.receive_all(&mut frames) => ended,
        };
        self.lose(link, ended);
    }

    async fn receive_all(&self, frames: &mut Streaming<Frame>) -> String {
        self.ready.cancelled().await;
        let Some(deliver) = self.deliver.get() else { return "the attempt was never started".to_string() };
        loop {
            match frames.message().await {
                Ok(Some(frame)) => match self.open(frame) {
                    Ok((channel, element, cost)) => {
                        if !deliver(channel, element, cost) {
                            return RefusedFrame::Channel(channel).to_string();
                        }
                    }
                    Err(refused) => return chain(&refused),
                },
                Ok(None) => return "it closed its stream".to_string(),
                Err(status) => return format!("its stream broke: {}", describe(&status)),
            }
        }
    }

    fn open(&self, frame: Frame) -> Result<(ChannelId, Element, usize), RefusedFrame> {
        if frame.attempt != self.attempt.0 {
            return Err(RefusedFrame::Attempt { found: frame.attempt, ours: self.attempt.0 });
        }
        let channel = ChannelId::unpack(frame.channel);
        let element = match frame.body.ok_or(RefusedFrame::Empty)? {
            Body::Data(bytes) => {
                let decoder = self.decoders.get(channel.edge as usize).ok_or(RefusedFrame::Channel(channel))?;
                Element::Batch(decoder.decode(&bytes).map_err(|source| RefusedFrame::Data { channel, source })?)
            }
            Body::Barrier(barrier) => {
                self.highest_barrier.fetch_max(barrier.id, Ordering::AcqRel);
                Element::Barrier(CheckpointId(barrier.id))
            }
            Body::Watermark(watermark) => Element::Watermark(watermark),
            Body::Idle(_) => Element::Idle,
            Body::Cancel(id) => Element::Cancel(CheckpointId(id)),
            Body::EndOfInput(_) => Element::EndOfInput,
            Body::Hello(_) => return Err(RefusedFrame::Empty),
        };
        Ok((channel, element, frame.cost as usize))
    }
}

impl Remote for AttemptNetwork {
    fn sender(&self, channel: ChannelId, room: Waker) -> Box<dyn RemoteSender> {
        let credits = Arc::new(Credits::new(self.window, room));
        let frames = self.link_of.get(&channel.to).map(|link| {
            let link = &self.links[*link];
            link.credits.lock().insert(channel.pack(), Arc::clone(&credits));
            link.frames.clone()
        });
        if frames.is_none() || self.closed.is_cancelled() {
            credits.close();
        }
        Box::new(Sender { attempt: self.attempt, frames, credits, encoder: FrameEncoder::default() })
    }

    fn grant(&self, channel: ChannelId, bytes: u64) {
        if let Some(link) = self.link_of.get(&channel.from) {
            let credit = Credit { attempt: self.attempt.0, channel: channel.pack(), bytes };
            // The peer's stream has ended; the attempt will, too.
            let _ = self.links[*link].grants.send(credit);
        }
    }
}

/// The sending end of one channel to another worker.
struct Sender {
    attempt: Attempt,
    /// `None` where the plan of peers names nobody for the receiving subtask: nothing can be sent.
    frames: Option<mpsc::UnboundedSender<Frame>>,
    credits: Arc<Credits>,
    encoder: FrameEncoder,
}

impl RemoteSender for Sender {
    fn send(&mut self, channel: ChannelId, element: Element, cost: usize) -> Result<(), Stopped> {
        let body = match element {
            Element::Batch(batch) => {
                self.credits.spend(cost)?;
                match self.encoder.encode(&batch) {
                    Ok(bytes) => Body::Data(bytes),
                    Err(error) => {
                        // Only a plan with a column type that no worker can send comes here. An empty frame is refused by
                        // the receiver, which ends the attempt with this channel's name; the reason stands in this log.
                        tracing::error!(%channel, error = chain(&error), "a batch cannot be sent");
                        Body::Data(Bytes::new())
                    }
                }
            }
            Element::Barrier(id) => Body::Barrier(Barrier { id: id.0 }),
            Element::Watermark(watermark) => Body::Watermark(watermark),
            Element::Idle => Body::Idle(true),
            Element::Cancel(id) => Body::Cancel(id.0),
            Element::EndOfInput => Body::EndOfInput(true),
        };
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        let frame = Frame { attempt: self.attempt.0, channel: channel.pack(), body: Some(body), cost };
        self.frames.as_ref().ok_or(Stopped)?.send(frame).map_err(|_| Stopped)
    }

    fn is_full(&self) -> bool {
        self.credits.are_spent()
    }
}

async fn connect(
    address: &str,
    tls: Option<&Tls>,
) -> Result<WorkerClient<tonic::transport::Channel>, tonic::transport::Error> {
    let deadline = tokio::time::Instant::now() + CONNECTING;
    loop {
        // Made anew for each try, with the certificates that there are by then.
        match endpoint(address, tls)?.connect().await {
            Ok(channel) => {
                return Ok(WorkerClient::new(channel)
                    .max_decoding_message_size(usize::MAX)
                    .max_encoding_message_size(usize::MAX));
            }
            Err(error) if tokio::time::Instant::now() >= deadline => return Err(error),
            Err(_) => tokio::time::sleep(BETWEEN_TRIES).await,
        }
    }
}

fn describe(status: &Status) -> String {
    if status.message().is_empty() { status.code().to_string() } else { status.message().to_string() }
}

/// Where incoming streams find the attempt that they belong to. One a process.
pub struct ExchangeHub {
    current: watch::Sender<Option<Arc<AttemptNetwork>>>,
}

impl Default for ExchangeHub {
    fn default() -> Self {
        Self { current: watch::Sender::new(None) }
    }
}

impl ExchangeHub {
    /// Streams of this attempt are welcome from here on, those of any other are refused.
    pub fn set(&self, network: Option<Arc<AttemptNetwork>>) {
        self.current.send_replace(network);
    }

    /// Serves one incoming stream. A stream may come before this worker has been told of its attempt, and waits for it.
    pub async fn accept(
        &self,
        mut frames: Streaming<Frame>,
    ) -> Result<impl Stream<Item = Result<Credit, Status>> + Send + use<>, Status> {
        let first = frames.message().await?.ok_or_else(|| Status::invalid_argument("a stream without a frame"))?;
        let Some(Body::Hello(peer)) = first.body else {
            return Err(Status::invalid_argument("the first frame of a stream is its sender's hello"));
        };
        let attempt = Attempt(first.attempt);
        let network = self.attempt(attempt).await?;
        let unknown = || Status::permission_denied(format!("worker {peer} is no peer of attempt {attempt}"));
        let link = network.links.iter().position(|link| link.peer.0 == peer).ok_or_else(unknown)?;
        let granted = network.links[link].granted.lock().take();
        let granted = granted.ok_or_else(|| Status::already_exists(format!("worker {peer} has a stream already")))?;
        let closed = network.closed.clone();
        tasks::spawn(async move { network.receive_from(link, frames).await });
        Ok(UnboundedReceiverStream::new(granted).map(Ok).take_until(closed.cancelled_owned()))
    }

    async fn attempt(&self, attempt: Attempt) -> Result<Arc<AttemptNetwork>, Status> {
        let mut current = self.current.subscribe();
        let mut newest = None;
        let reached = current
            .wait_for(|network| {
                newest = network.as_ref().map(|network| network.attempt);
                newest.is_some_and(|newest| newest >= attempt)
            })
            .await
            .map(|network| network.clone());
        match reached {
            Ok(Some(network)) if network.attempt == attempt => Ok(network),
            _ => Err(Status::failed_precondition(format!(
                "attempt {attempt} is over, this worker runs attempt {}",
                newest.unwrap_or_default()
            ))),
        }
    }
}

#[cfg(test)]
mod tests;
