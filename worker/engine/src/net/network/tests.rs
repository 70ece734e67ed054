//! Two ends of an exchange on loopback.

use std::{pin::Pin, sync::Arc, time::Duration};

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch},
    datatypes::SchemaRef,
};
use futures::stream;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response};
use weir_protocol::rpc::{
    FromWorker, PlanAnswer, PlanCall, ToWorker,
    worker_server::{Worker, WorkerServer},
};

use super::*;
use crate::api::batch::Batch;

const PATIENCE: Duration = Duration::from_secs(10);
const WINDOW_BYTES: usize = 1000;
const CHANNEL: ChannelId = ChannelId { edge: 0, from: 0, to: 1 };

struct Exchanges(Arc<ExchangeHub>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Worker for Exchanges {
    type SessionStream = Answers<FromWorker>;
    type ExchangeStream = Answers<Credit>;

    async fn session(&self, _: Request<Streaming<ToWorker>>) -> Result<Response<Self::SessionStream>, Status> {
        Ok(Response::new(Box::pin(stream::empty())))
    }

    async fn exchange(&self, request: Request<Streaming<Frame>>) -> Result<Response<Self::ExchangeStream>, Status> {
        Ok(Response::new(Box::pin(self.0.accept(request.into_inner()).await?)))
    }

    async fn plan(&self, _: Request<PlanCall>) -> Result<Response<PlanAnswer>, Status> {
        Err(Status::unimplemented("there is no planner here"))
    }
}

struct End {
    hub: Arc<ExchangeHub>,
    address: String,
    serving: JoinHandle<()>,
}

impl End {
    async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let hub = Arc::new(ExchangeHub::default());
        let service = WorkerServer::new(Exchanges(Arc::clone(&hub)));
        let serving = server().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
        let serving = tokio::spawn(async move { serving.await.unwrap() });
        Self { hub, address, serving }
    }

    fn peer(&self, name: &str, subtask: u32) -> Peer {
        Peer { worker: name.into(), address: self.address.clone(), subtasks: vec![subtask] }
    }
}

struct Joined {
    network: Arc<AttemptNetwork>,
    lost: mpsc::UnboundedReceiver<PeerLost>,
    elements: mpsc::UnboundedReceiver<(ChannelId, Element, usize)>,
}

fn join(end: &End, attempt: u64, worker: &str, peers: &[Peer]) -> Joined {
    let (lost_in, lost) = mpsc::unbounded_channel();
    let (elements_in, elements) = mpsc::unbounded_channel();
    let plan = NetworkPlan {
        attempt: Attempt(attempt),
        worker: WorkerId(worker.into()),
        peers: peers.to_vec(),
        schemas: vec![schema()],
        window: WINDOW_BYTES,
        tls: None,
    };
    let network = AttemptNetwork::connect(plan, lost_in);
    end.hub.set(Some(Arc::clone(&network)));
    network.start(Box::new(move |channel, element, cost| elements_in.send((channel, element, cost)).is_ok()));
    Joined { network, lost, elements }
}

fn schema() -> SchemaRef {
    rows(0).schema()
}

fn rows(n: i64) -> RecordBatch {
    let column: ArrayRef = Arc::new((0..n).collect::<Int64Array>());
    RecordBatch::try_from_iter([("n", column)]).unwrap()
}

async fn next<T>(from: &mut mpsc::UnboundedReceiver<T>) -> T {
    tokio::time::timeout(PATIENCE, from.recv()).await.unwrap().unwrap()
}

/// Sends from a thread, as a subtask does, which waits while the channel is full; gives how the sends went.
fn send_all(network: &AttemptNetwork, elements: Vec<(Element, usize)>) -> JoinHandle<Result<(), Stopped>> {
    let (ring, bell) = std::sync::mpsc::channel();
    let mut sender = network.sender(CHANNEL, Waker::new(move || _ = ring.send(())));
    let send = move || {
        elements.into_iter().try_for_each(|(element, cost)| {
            while cost > 0 && sender.is_full() {
                bell.recv_timeout(PATIENCE).unwrap();
            }
            sender.send(CHANNEL, element, cost)
        })
    };
    tokio::task::spawn_blocking(send)
}

#[tokio::test(flavor = "multi_thread")]
async fn elements_arrive_in_order_and_rows_as_they_were() {
    let (a, b) = (End::listen().await, End::listen().await);
    let peers = [a.peer("a", 0), b.peer("b", 1)];
    let (left, mut right) = (join(&a, 1, "a", &peers), join(&b, 1, "b", &peers));
    let elements = vec![
        (Element::Watermark(-7), 0),
        (Element::Batch(Batch::inserts(rows(20))), 160),
        (Element::Barrier(CheckpointId(3)), 0),
        (Element::Idle, 0),
        (Element::Cancel(CheckpointId(3)), 0),
        (Element::EndOfInput, 0),
    ];
    send_all(&left.network, elements.clone()).await.unwrap().unwrap();
    for (element, cost) in elements {
        assert_eq!(next(&mut right.elements).await, (CHANNEL, element, cost));
    }
    assert_eq!(right.network.highest_barrier(), CheckpointId(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_without_credits_holds_its_rows_and_lets_the_barrier_of_another_pass() {
    let (a, b) = (End::listen().await, End::listen().await);
    let peers = [a.peer("a", 0), b.peer("b", 1)];
    let (left, mut right) = (join(&a, 1, "a", &peers), join(&b, 1, "b", &peers));
    let batch = || (Element::Batch(Batch::inserts(rows(1))), 600);
    // The second overspends what is left; the third waits.
    let sending = send_all(&left.network, vec![batch(), batch(), batch()]);
    next(&mut right.elements).await;
    next(&mut right.elements).await;
    let mut other = left.network.sender(ChannelId { edge: 0, from: 2, to: 1 }, Waker::none());
    let barrier = Element::Barrier(CheckpointId(1));
    other.send(ChannelId { edge: 0, from: 2, to: 1 }, barrier.clone(), 0).unwrap();
    assert_eq!(next(&mut right.elements).await.1, barrier);
    assert!(!sending.is_finished());
    right.network.grant(CHANNEL, 1200);
    next(&mut right.elements).await;
    sending.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_frees_a_sender_that_waits_for_credits_and_loses_nobody() {
    let (a, b) = (End::listen().await, End::listen().await);
    let peers = [a.peer("a", 0), b.peer("b", 1)];
    let (mut left, mut right) = (join(&a, 1, "a", &peers), join(&b, 1, "b", &peers));
    let batch = || (Element::Batch(Batch::inserts(rows(1))), WINDOW_BYTES);
    let sending = send_all(&left.network, vec![batch(), batch()]);
    next(&mut right.elements).await;
    left.network.close();
    assert_eq!(sending.await.unwrap(), Err(Stopped));
    assert!(left.lost.try_recv().is_err());
    assert_eq!(next(&mut right.lost).await.peer, WorkerId("a".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_an_older_attempt_is_refused_and_one_of_a_newer_waits_for_it() {
    let (a, b) = (End::listen().await, End::listen().await);
    let peers = [a.peer("a", 0), b.peer("b", 1)];
    let right = join(&b, 2, "b", &peers);
    let mut old = join(&a, 1, "a", &peers);
    let lost = next(&mut old.lost).await;
    assert!(lost.reason.contains("attempt 1 is over"), "{lost}");
    drop(right);

    let early = join(&a, 3, "a", &peers);
    send_all(&early.network, vec![(Element::Idle, 0)]).await.unwrap().unwrap();
    let mut right = join(&b, 3, "b", &peers);
    assert_eq!(next(&mut right.elements).await.1, Element::Idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_for_a_channel_that_is_not_there_ends_the_stream_by_name() {
    let (a, b) = (End::listen().await, End::listen().await);
    let peers = [a.peer("a", 0), b.peer("b", 1)];
    let (left, mut right) = (join(&a, 1, "a", &peers), join(&b, 1, "b", &peers));
    let nowhere = ChannelId { edge: 9, from: 0, to: 1 };
    let mut sender = left.network.sender(nowhere, Waker::none());
    sender.send(nowhere, Element::Batch(Batch::inserts(rows(1))), 8).unwrap();
    let lost = next(&mut right.lost).await;
    assert!(lost.reason.contains("edge 9 from subtask 0 to 1"), "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_cannot_be_reached_is_lost() {
    let (a, b) = (End::listen().await, End::listen().await);
    let peers = [a.peer("a", 0), b.peer("b", 1)];
    b.serving.abort();
    let mut left = join(&a, 1, "a", &peers);
    assert_eq!(next(&mut left.lost).await.peer, WorkerId("b".into()));
}
