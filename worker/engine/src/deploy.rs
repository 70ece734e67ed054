//! Puts an attempt on this worker: stops the older one, plans, fetches and checks what is to be restored, builds the subtasks.
//!
//! Nothing that stands in storage is touched; a start from nothing adds what there is to read. What fails here fails the
//! attempt, with the kind that says whether a restart can mend it.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::try_join_all;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use weir_protocol::{
    Attempt, WorkerId,
    part::Part,
    record::{FormatError, PartRef, Record, Slot, read as read_object},
    rpc,
    settings::{FailureKind, JobSettings, Permissions, PlanRequest},
    stored::FORMAT,
};
use weir_runtime::{clock, tasks};
use weir_state::{BackendRegistry, Carriage, StateMemory, SubtaskState, Uploader, key_group_range};
use weir_storage::{JobStore, StorageError};

use crate::{
    api::{
        clock::Clock,
        error::SinkError,
        failure::{Failure, PeerLost, chain},
        graph::{JobGraph, StageId},
        sink::{CommitContext, OutputOwner},
    },
    checkpoint::{
        CheckpointSettings, Checkpoints, RestoredBase, Snapshots,
        commits::{Commits, Committers},
        local_snapshots,
    },
    data::dataflow::RunningAttempt,
    event::Event,
    metrics::Metrics,
    net::{
        network::{AttemptNetwork, ExchangeHub, NetworkPlan},
        tls::Tls,
    },
    restore::{
        blocking,
        deal::{self, Dealt, PendingCommits},
        inputs,
        local::{LocalFolder, LocalSnapshots, remove_all},
        matching::{self, Matched},
    },
    seam::{BuildAttempt, Remote, Restored, channel_window},
};

/// A subtask that has not stopped so long after it was told ends its process: another attempt takes its place, and it must
/// not go on writing beside it.
pub const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// A worker that is to deploy does not plan longer than this: somewhat longer than a plan may take that is only asked for.
const PLAN_PATIENCE: Duration = Duration::from_mins(2);

/// Why a script cannot be planned here. The message says where and what to write instead.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct PlanFailure {
    /// For people.
    pub message: String,
}

/// A planner that did not do its work: it crashed, or took too long. What is wrong with a script is no such thing.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct PlannerFailed {
    /// For people.
    pub message: String,
}

/// Turns a script into a job graph. Deterministic: every worker plans for itself and arrives at the same.
pub trait Planner: Send + Sync {
    /// Blocking. Opens no input and no output.
    fn plan(&self, request: &PlanRequest) -> Result<JobGraph, PlanFailure>;

    /// Answers a plan request (JSON) with the plan's description or its errors (JSON), for people and coordinators.
    /// Blocking: looks whether the inputs are there. Does not panic, ends within a minute, and takes little of what a running
    /// attempt needs, whatever the script is.
    fn describe(&self, request: &[u8]) -> Result<Vec<u8>, PlannerFailed>;
}

/// What becomes of a process whose subtasks do not stop; it is told which.
pub type OnStuck = Arc<dyn Fn(Vec<(StageId, u32)>) + Send + Sync>;

/// What all attempts of a worker process share.
pub(crate) struct Host {
    pub worker: WorkerId,
    pub memory: u64,
    pub registry: Arc<BackendRegistry>,
    pub state_memory: StateMemory,
    pub planner: Arc<dyn Planner>,
    pub clock: Arc<dyn Clock>,
    pub tls: Option<Tls>,
    pub metrics: Arc<Metrics>,
    pub on_stuck: OnStuck,
    pub hub: ExchangeHub,
    pub local: Mutex<LocalFolder>,
    pub events: mpsc::UnboundedSender<Event>,
}

/// An attempt that stands on this worker.
pub(crate) struct Deployment {
    pub attempt: Attempt,
    pub running: Arc<RunningAttempt>,
    pub network: Arc<AttemptNetwork>,
    pub checkpoints: Checkpoints,
    pub commits: Commits,
    pub store: JobStore,
    pub subtasks: usize,
    pub restored: Option<Record>,
    pub answer: rpc::Deployed,
}

/// The attempt before, on its way out.
#[derive(Default)]
pub(crate) struct Previous {
    /// It stands.
    pub standing: Option<Standing>,
    /// It was still being deployed, and has been told to give up.
    pub deploying: Option<JoinHandle<Result<Deployment, Failure>>>,
}

/// What has to be stopped of an attempt.
pub(crate) struct Standing {
    pub running: Arc<RunningAttempt>,
    pub network: Arc<AttemptNetwork>,
    pub states: BTreeMap<(String, u32), SubtaskState>,
}

impl From<Deployment> for Standing {
    fn from(deployment: Deployment) -> Self {
        Self { running: deployment.running, network: deployment.network, states: deployment.checkpoints.close() }
    }
}

/// Stops an attempt; gives where its subtasks' states were. Does not return if a subtask does not stop: a peer may be told of
/// the next attempt already.
pub(crate) async fn stop(host: &Host, standing: Standing) -> BTreeMap<(String, u32), SubtaskState> {
    let Standing { running, network, states } = standing;
    network.close();
    running.stop();
    let joined = tokio::task::spawn_blocking(move || {
        let stuck = running.join(STOP_DEADLINE);
        drop(running);
        stuck
    });
    let stuck = joined.await.unwrap_or_default();
    if !stuck.is_empty() {
        (host.on_stuck)(stuck);
    }
    states
}

/// Stops what was before.
pub(crate) async fn stop_previous(host: &Host, previous: Previous) -> BTreeMap<(String, u32), SubtaskState> {
    let mut states = BTreeMap::new();
    if let Some(standing) = previous.standing {
        states.extend(stop(host, standing).await);
    }
    if let Some(deploying) = previous.deploying
        && let Ok(Ok(deployment)) = deploying.await
    {
        states.extend(stop(host, deployment.into()).await);
    }
    states
}

/// What a `Deploy` says, read.
struct Order {
    attempt: Attempt,
    request: PlanRequest,
    settings: JobSettings,
    owner: OutputOwner,
    record: Option<(String, Record)>,
    /// Whose pending commits are due, where that is another.
    commits: Option<(String, Record)>,
    /// What of them finds nothing to publish, or cannot be read, is given up.
    accepts_lost: bool,
    subtasks: Vec<u32>,
    /// This worker's place among the peers.
    place: usize,
    /// Cancelled when a newer attempt is to be deployed instead.
    superseded: CancellationToken,
}

fn json<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes)
        .map_err(|error| Failure::new(FailureKind::Plan, format!("the {what} is not readable: {error}")))
}

/// The record to restore from, with its path; none where the path is empty.
fn record_of(path: &str, bytes: &[u8]) -> Result<Option<(String, Record)>, Failure> {
    if path.is_empty() {
        return Ok(None);
    }
    match read_object(path, bytes).map_err(|error| unreadable(&error))? {
        Slot::Record(record) => Ok(Some((path.to_string(), record))),
        Slot::Seal(_) => Err(Failure::corrupt(path, "is a seal and no record")),
    }
}

impl Order {
    fn read(deploy: &rpc::Deploy, worker: &WorkerId, superseded: &CancellationToken) -> Result<Self, Failure> {
        let place = deploy.peers.iter().position(|peer| peer.worker == worker.0);
        let place = place.ok_or_else(|| {
            Failure::new(
                FailureKind::Plan,
                format!("worker {worker} is not among the workers of attempt {}", deploy.attempt),
            )
        })?;
        let mut subtasks = deploy.peers[place].subtasks.clone();
        subtasks.sort_unstable();
        let settings: JobSettings = json("settings", &deploy.settings)?;
        Ok(Self {
            attempt: Attempt(deploy.attempt),
            request: json("plan request", &deploy.plan_request)?,
            owner: OutputOwner {
                uid: deploy.owner.clone(),
                cluster: deploy.cluster.clone(),
                storage: settings.storage.url.clone(),
            },
            settings,
            record: record_of(&deploy.restore_path, &deploy.restore_record)?,
            commits: record_of(&deploy.commits_path, &deploy.commits_record)?,
            accepts_lost: deploy.accept_lost_output,
            subtasks,
            place,
            superseded: superseded.clone(),
        })
    }
}

fn unreadable(error: &FormatError) -> Failure {
    match error {
        FormatError::Json { path, source } => Failure::corrupt(path, &format!("is not readable ({source})")),
        FormatError::Version { .. } => Failure::new(FailureKind::StateMismatch, error.to_string()),
    }
}

/// Deploys an attempt. `superseded` is cancelled when a newer one is to be deployed instead.
pub(crate) async fn deploy(
    host: Arc<Host>,
    deploy: rpc::Deploy,
    previous: Previous,
    superseded: CancellationToken,
) -> Result<Deployment, Failure> {
    let begun = clock::now();
    // What is read is independent of what stops, and a restart is only as fast as the sum of what is not.
    let stopping = async {
        let states = stop_previous(&host, previous).await;
        (states, clock::since(begun))
    };
    let order = Order::read(&deploy, &host.worker, &superseded);
    let reading = async {
        let order = order.as_ref().map_err(Failure::clone)?;
        unless(&superseded, read(&host, order, &deploy)).await
    };
    let ((states, stop_time), read) = tokio::join!(stopping, reading);
    let order = order?;
    // Also where nothing comes of this deployment: the next one restores from here what is here.
    let local = keep_local(&host, order.record.as_ref().map(|(_, record)| record), &states);
    // The old states are closed here: their files stay where they are, their memory goes.
    drop(states);
    let Readied { graph, store, dealt, format } = read?;

    let commits = unless(&superseded, prepare_commits(&order, &graph, &deploy, dealt.commits)).await?;

    let restored = restored_for(&order, dealt.restored, &graph, deploy.parallelism, &local);
    let (local_bytes, downloaded_bytes) = bytes_of(&restored, &order.subtasks);
    let base = order.record.as_ref().map(|(path, record)| RestoredBase {
        path: path.clone(),
        id: record.id,
        snapshots: reusable(&restored, deploy.parallelism, deploy.max_parallelism),
    });
    let network =
        AttemptNetwork::connect(network_plan(&host, &order, &graph, &deploy), lost_peers(&host, order.attempt));
    host.hub.set(Some(Arc::clone(&network)));
    let running = match build(&host, &order, &graph, &deploy, &store, restored, Arc::clone(&network)).await {
        Ok(running) => running,
        Err(failure) => {
            network.close();
            return Err(failure);
        }
    };
    let checkpoints = checkpoint_settings(&host, &order, &graph, &store, base, format)
        .and_then(|settings| Checkpoints::new(settings).map_err(|error| Failure::io(&error)));
    let checkpoints = match checkpoints {
        Ok(checkpoints) => checkpoints,
        Err(failure) => {
            stop(&host, Standing { running, network, states: BTreeMap::new() }).await;
            return Err(failure);
        }
    };
    let inbound = running.inbound();
    network.start(Box::new(move |channel, element, cost| inbound.deliver(channel, element, cost)));
    remove_outdated(&host, order.attempt);
    let answer = rpc::Deployed {
        attempt: order.attempt.0,
        fingerprint: deploy.fingerprint.clone(),
        local_bytes,
        downloaded_bytes,
        stop_ms: stop_time.as_millis() as u64,
        restore_ms: clock::since(begun).saturating_sub(stop_time).as_millis() as u64,
        commits_path: order.commits.as_ref().map(|(path, _)| path.clone()).unwrap_or_default(),
    };
    let subtasks = graph.stages.len() * order.subtasks.len();
    let restored = order.record.map(|(_, record)| record);
    let deployment = Deployment {
        attempt: order.attempt,
        running,
        network,
        checkpoints,
        commits,
        store,
        subtasks,
        restored,
        answer,
    };
    if superseded.is_cancelled() {
        stop(&host, deployment.into()).await;
    } else {
        return Ok(deployment);
    }
    Err(superseded_failure())
}

/// Lets go of a future that nobody waits for any more.
async fn unless<T>(
    superseded: &CancellationToken,
    future: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    superseded.run_until_cancelled(future).await.unwrap_or_else(|| Err(superseded_failure()))
}

fn superseded_failure() -> Failure {
    Failure::new(FailureKind::Operator, "a newer attempt is to be deployed")
}

/// What an attempt is built from.
struct Readied {
    graph: Arc<JobGraph>,
    store: JobStore,
    dealt: Dealt,
    /// The version that parts are written in.
    format: u32,
}

/// All that can be done while an older attempt is being stopped.
async fn read(host: &Host, order: &Order, deploy: &rpc::Deploy) -> Result<Readied, Failure> {
    let planning = plan(host, &order.request, &deploy.fingerprint);
    let opening = open_store(&order.settings);
    let (mut graph, store) = futures::try_join!(planning, opening)?;
    let allowed =
        Permissions { allow_new_state: deploy.allow_new_state, allow_dropped_state: deploy.allow_dropped_state };
    let (matched, mut dealt) = match &order.record {
        None => (Matched::default(), Dealt::default()),
        Some((_, record)) => {
            let parts = fetch_parts(&store, record).await?;
            let matched;
            (graph, matched) = matching::choose(graph, deploy.max_parallelism, allowed, record, &parts)?;
            let dealt = deal::deal(&graph, deploy.parallelism, record, &parts, &matched)?;
            (matched, dealt)
        }
    };
    if deal::new_sources(&graph, &matched).next().is_some() {
        let id = |record: &Option<(String, Record)>| record.as_ref().map(|(_, record)| record.id);
        let of = inputs::Of::new(&order.owner, &graph, id(&order.record), id(&order.commits));
        let inputs = inputs::agree(&graph, &store, order.attempt, deploy.parallelism, &deploy.peers, of).await?;
        deal::deal_inputs(&graph, deploy.parallelism, &inputs, &matched, &mut dealt)?;
    }
    if let Some((path, record)) = &order.commits {
        // Of what the record that is restored has promised this one carries all that is not published yet.
        dealt.commits = match fetch_parts(&store, record).await.and_then(|parts| deal::pending(&parts)) {
            Err(failure) if failure.kind == FailureKind::Corrupt && order.accepts_lost => {
                tracing::warn!(path, %failure, "what this checkpoint has promised cannot be read, and is given up");
                PendingCommits::new()
            }
            pending => pending?,
        };
    }
    // A controller that says nothing is one that reads version 1 and no other.
    let mut format = deploy.part_format.clamp(1, FORMAT);
    matched.settle(Arc::make_mut(&mut graph), format);
    if format == 1 && !matching::fits_version_1(&graph) {
        tracing::warn!(
            "operators have changed places since their state was first written, which version 1 of parts cannot say: parts are \
             written in version {FORMAT}"
        );
        format = FORMAT;
    }
    if format < FORMAT && !matching::fits_version_2(&graph) {
        tracing::warn!(
            "an operator holds event time back, which parts cannot say before version {FORMAT}: they are written in it"
        );
        format = FORMAT;
    }
    Ok(Readied { graph, store, dealt, format })
}

/// Whether what is to be planned can be restored from the record that comes with it. Reads the record's parts, and touches nothing.
pub(crate) async fn fits(host: &Host, call: &rpc::PlanCall) -> Result<(), Failure> {
    let Some((_, record)) = record_of(&call.restore_path, &call.restore_record)? else { return Ok(()) };
    let request: PlanRequest = json("plan request", &call.plan_request)?;
    let settings: JobSettings = json("settings", &call.settings)?;
    let (graph, store) = futures::try_join!(graph_of(host, &request), open_store(&settings))?;
    let parts = fetch_parts(&store, &record).await?;
    let allowed = Permissions { allow_new_state: call.allow_new_state, allow_dropped_state: call.allow_dropped_state };
    matching::choose(Arc::new(graph), request.max_parallelism, allowed, &record, &parts).map(drop)
}

async fn graph_of(host: &Host, request: &PlanRequest) -> Result<JobGraph, Failure> {
    let (planner, request) = (Arc::clone(&host.planner), request.clone());
    let planning =
        blocking(move || planner.plan(&request).map_err(|error| Failure::new(FailureKind::Plan, error.message)));
    // It has been planned before, in less time: what is slow is this machine, and may pass.
    tokio::time::timeout(PLAN_PATIENCE, planning).await.unwrap_or_else(|_| {
        let seconds = PLAN_PATIENCE.as_secs();
        Err(Failure::new(FailureKind::Operator, format!("planning took more than {seconds} s on this worker")))
    })
}

async fn plan(host: &Host, request: &PlanRequest, fingerprint: &str) -> Result<Arc<JobGraph>, Failure> {
    let graph = graph_of(host, request).await?;
    if graph.fingerprint != fingerprint {
        return Err(Failure::new(
            FailureKind::Plan,
            format!(
                "this worker's plan is {} and the job's is {fingerprint}: the worker binaries of a job must be the same build",
                graph.fingerprint
            ),
        ));
    }
    Ok(Arc::new(graph))
}

async fn open_store(settings: &JobSettings) -> Result<JobStore, Failure> {
    let settings = settings.clone();
    blocking(move || Ok(JobStore::open(&settings.storage, &settings.job)?)).await
}

async fn fetch_parts(store: &JobStore, record: &Record) -> Result<Vec<Part>, Failure> {
    try_join_all(record.parts.iter().map(|part| fetch_part(store, part))).await
}

async fn fetch_part(store: &JobStore, part: &PartRef) -> Result<Part, Failure> {
    let bytes = match &part.inline {
        Some(inline) => Bytes::copy_from_slice(inline.as_bytes()),
        None => match store.get(&part.path).await {
            Ok(bytes) => bytes,
            Err(StorageError::NotFound { .. }) => return Err(Failure::corrupt(&part.path, "is missing")),
            Err(error) => return Err(error.into()),
        },
    };
    if bytes.len() as u64 != part.length {
        return Err(Failure::corrupt(&part.path, &format!("has {} bytes instead of {}", bytes.len(), part.length)));
    }
    let crc32c = crc32c::crc32c(&bytes);
    if crc32c != part.crc32c {
        let what = format!("has the checksum {crc32c:08x} instead of {:08x}", part.crc32c);
        return Err(Failure::corrupt(&part.path, &what));
    }
    read_object(&part.path, &bytes).map_err(|error| unreadable(&error))
}

/// Local snapshots of the record to be restored, from the attempt that has just ended or one before it.
fn keep_local(host: &Host, record: Option<&Record>, states: &BTreeMap<(String, u32), SubtaskState>) -> LocalSnapshots {
    let mut local = host.local.lock();
    match record {
        Some(record) => local.keep(record.id, local_snapshots(states, record.id)),
        None => {
            local.keep_nothing();
            LocalSnapshots::new()
        }
    }
}

/// This worker's pending commits. The first worker also drops what older attempts have left unfinished.
async fn prepare_commits(
    order: &Order,
    graph: &JobGraph,
    deploy: &rpc::Deploy,
    pending: PendingCommits,
) -> Result<Commits, Failure> {
    let mut committers = Committers::new();
    for sink in graph.stages.iter().filter_map(|stage| stage.sink.as_ref()) {
        let (job, owner) = (order.settings.job.clone(), order.owner.clone());
        let context = CommitContext { job, owner, attempt: order.attempt, sink: sink.identity.clone() };
        let committer = sink.sink.committer(&context).map_err(|error| of_sink(&sink.identity, &error))?;
        committers.insert(sink.identity.clone(), committer);
    }
    let pending = adopt(pending, &committers, order.accepts_lost)?;
    for (sink, committer) in committers.iter().filter(|_| order.place == 0) {
        let keep = pending.get(sink).map_or(&[][..], Vec::as_slice);
        let keep: Vec<Value> = keep.iter().map(|pending| pending.value.clone()).collect();
        committer.clean(&keep).await.map_err(|error| of_sink(sink, &error))?;
    }
    let newest = [&order.record, &order.commits].into_iter().flatten().map(|(_, record)| record.id).max();
    let pending = deal::share_of(&pending, order.place, deploy.peers.len());
    Ok(Commits::new(committers, pending, newest.unwrap_or_default(), order.accepts_lost))
}

fn of_sink(sink: &str, error: &SinkError) -> Failure {
    Failure { operator: sink.to_string(), ..Failure::new(error.kind, chain(error)) }
}

/// Pending commits of sinks that the plan does not have any more, by a user's wish, go to one that can carry them out: they
/// hold all that this takes.
fn adopt(pending: PendingCommits, committers: &Committers, accepts_lost: bool) -> Result<PendingCommits, Failure> {
    let mut adopted = PendingCommits::new();
    for (sink, pending) in pending {
        for commit in pending {
            let understands = |by: &&String| committers.get(*by).is_some_and(|by| by.understands(&commit.value));
            let by = if committers.contains_key(&sink) { Some(&sink) } else { committers.keys().find(understands) };
            match by {
                Some(by) => adopted.entry(by.clone()).or_default().push(commit),
                None if accepts_lost => tracing::warn!(sink, %commit.checkpoint, "output is given up as asked for"),
                None => {
                    return Err(Failure {
                        operator: sink.clone(),
                        ..Failure::new(
                            FailureKind::OutputLost,
                            format!(
                                "output of checkpoint {} is not published yet, and the new script has no sink that can do it: run the \
                                 script that has this one until it is",
                                commit.checkpoint
                            ),
                        )
                    });
                }
            }
        }
    }
    Ok(adopted)
}

/// What this worker's subtasks start with.
fn restored_for(
    order: &Order,
    all: BTreeMap<(StageId, u32), Restored>,
    graph: &JobGraph,
    parallelism: u32,
    local: &LocalSnapshots,
) -> BTreeMap<(StageId, u32), Restored> {
    let same = order.record.as_ref().is_some_and(|(_, record)| record.parallelism == parallelism);
    let mut ours: BTreeMap<_, _> =
        all.into_iter().filter(|((_, subtask), _)| order.subtasks.contains(subtask)).collect();
    for ((stage, subtask), restored) in &mut ours {
        let identity = graph.stages.get(stage.0 as usize).map(|stage| stage.identity.clone()).unwrap_or_default();
        restored.local_snapshot = local.get(&(identity, *subtask)).filter(|_| same).cloned();
    }
    ours
}

/// Bytes of keyed state that are here already, and those that have to be fetched.
fn bytes_of(restored: &BTreeMap<(StageId, u32), Restored>, subtasks: &[u32]) -> (u64, u64) {
    let (mut local, mut remote) = (0, 0);
    for ((_, subtask), restored) in restored {
        if subtasks.contains(subtask) {
            let bytes: u64 = restored.keyed.iter().flat_map(|keyed| &keyed.files).map(|file| file.length).sum();
            *(if restored.local_snapshot.is_some() { &mut local } else { &mut remote }) += bytes;
        }
    }
    (local, remote)
}

/// Snapshots whose files the first checkpoint may reuse: of subtasks that own the very same key groups as before.
fn reusable(restored: &BTreeMap<(StageId, u32), Restored>, parallelism: u32, max_parallelism: u32) -> Snapshots {
    let same = |((stage, subtask), restored): (&(StageId, u32), &Restored)| {
        let groups = key_group_range(*subtask, parallelism, max_parallelism);
        match restored.keyed.as_slice() {
            [one] if (one.key_group_start..one.key_group_end) == groups => Some(((*stage, *subtask), one.clone())),
            _ => None,
        }
    };
    restored.iter().filter_map(same).collect()
}

fn network_plan(host: &Host, order: &Order, graph: &JobGraph, deploy: &rpc::Deploy) -> NetworkPlan {
    NetworkPlan {
        attempt: order.attempt,
        worker: host.worker.clone(),
        peers: deploy.peers.clone(),
        schemas: graph.edges().map(|(_, _, _, edge)| Arc::clone(&edge.schema)).collect(),
        window: channel_window(graph, deploy.parallelism, order.settings.memory_budget),
        tls: host.tls.clone(),
    }
}

/// Tells the control loop of peers that are lost in this attempt.
fn lost_peers(host: &Host, attempt: Attempt) -> mpsc::UnboundedSender<PeerLost> {
    let (lost, mut told) = mpsc::unbounded_channel();
    let events = host.events.clone();
    tasks::spawn(async move {
        while let Some(lost) = told.recv().await {
            // The control loop has ended, and with it the process.
            drop(events.send(Event::PeerLost(attempt, lost)));
        }
    });
    lost
}

fn build<'a>(
    host: &Host,
    order: &Order,
    graph: &Arc<JobGraph>,
    deploy: &rpc::Deploy,
    store: &JobStore,
    restored: BTreeMap<(StageId, u32), Restored>,
    network: Arc<AttemptNetwork>,
) -> impl Future<Output = Result<Arc<RunningAttempt>, Failure>> + use<'a> {
    let settings = &order.settings;
    let attempt = order.attempt;
    let remote: Arc<dyn Remote> = network;
    let build = BuildAttempt {
        job: settings.job.clone(),
        owner: order.owner.clone(),
        attempt,
        worker: host.worker.clone(),
        graph: Arc::clone(graph),
        subtasks: order.subtasks.clone(),
        parallelism: deploy.parallelism,
        max_parallelism: deploy.max_parallelism,
        mode: settings.mode,
        alignment_timeout: timeout(settings.alignment_timeout_ms),
        state_dir: host.local.lock().attempt(attempt),
        state_backend: settings.state_backend.clone(),
        state_options: settings.state_options.clone(),
        registry: Arc::clone(&host.registry),
        state_memory: host.state_memory.clone(),
        store: store.clone(),
        restored,
        remote,
        clock: Arc::clone(&host.clock),
        runtime: tokio::runtime::Handle::current(),
        memory_budget: settings.memory_budget,
        stopped: order.superseded.child_token(),
    };
    let events = host.events.clone();
    blocking(move || {
        let running = Arc::new(RunningAttempt::build(build)?);
        let reports = running.reports();
        // Ends with the attempt's subtasks, which hold the other end.
        let forward = move || reports.iter().for_each(|report| drop(events.send(Event::Report(attempt, report))));
        std::thread::Builder::new()
            .name(format!("reports-{attempt}"))
            .spawn(forward)
            .map_err(|error| Failure::io(&error))?;
        Ok(running)
    })
}

/// As `Option`: 0 is no limit.
pub(crate) fn timeout(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

fn checkpoint_settings(
    host: &Host,
    order: &Order,
    graph: &Arc<JobGraph>,
    store: &JobStore,
    restored: Option<RestoredBase>,
    format: u32,
) -> Result<CheckpointSettings, Failure> {
    let carriage = host.registry.get(&order.settings.state_backend)?.carriage();
    let (events, attempt) = (host.events.clone(), order.attempt);
    let runtime = tokio::runtime::Handle::current();
    Ok(CheckpointSettings {
        attempt,
        worker: host.worker.clone(),
        graph: Arc::clone(graph),
        subtasks: order.subtasks.clone(),
        uploader: Arc::new(Uploader::new(store.clone(), runtime, attempt, host.worker.clone())),
        inline: carriage == Carriage::Inline,
        format,
        restored,
        persisted: Arc::new(move |persisted| drop(events.send(Event::Persisted(attempt, Box::new(persisted))))),
    })
}

/// Removes the folders of older attempts that no reset will use, beside everything else.
pub(crate) fn remove_outdated(host: &Host, current: Attempt) {
    match host.local.lock().outdated(current) {
        Ok(folders) if folders.is_empty() => {}
        Ok(folders) => drop(tokio::task::spawn_blocking(move || remove_all(folders))),
        Err(error) => tracing::warn!(%error, "old state folders stay"),
    }
}
