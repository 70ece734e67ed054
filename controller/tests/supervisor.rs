//! The supervisor with its state machines, sessions over gRPC and a real folder as storage; only the workers are played: they
//! deploy, ack and commit as told, and write parts without state.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{Stream, StreamExt};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
    task::JoinHandle,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};
use weir_controller::{
    coordinator::Policy,
    job::{Job, Overrides},
    platform::{Platform, PlatformEvent, ProcessNumber, WorkerTemplate},
    state_dir::{LocalObserver, StateDir},
    supervisor::{self, Change, Control, Outcome, Parts},
    takeover::{Refusal, Restore},
    ui::{Ui, View, Weight},
};
use weir_protocol::{
    Attempt, BUILD_VERSION, CheckpointId, PROTOCOL_VERSION, WorkerId,
    part::{PART_VERSION, Part},
    paths,
    record::{RECORD_VERSION, Slot, encode, read},
    rpc::{
        self, FromWorker, ToWorker, from_worker, to_worker,
        worker_server::{Worker, WorkerServer},
    },
    settings::PlanRequest,
};
use weir_storage::JobStore;

/// A test that waits longer than this waits for something that will not come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A plan that no state fits.
const UNFIT: &str = "unfit";

/// What the played workers share.
#[derive(Default)]
struct Stage {
    /// All input has ended.
    finished: AtomicBool,
    /// One of them, whichever commits next, is told to end.
    leaves: AtomicBool,
    /// Restoring takes long.
    holds: AtomicBool,
    changed: Notify,
    /// Whose output sinks are told that it is, and which record's pending commits each attempt is to carry out beside.
    owners: Mutex<std::collections::BTreeSet<(String, String)>>,
    /// Workers are of a build that does not know of the latter.
    older: AtomicBool,
    promised: Mutex<BTreeMap<u64, String>>,
    /// The deployments: attempt, worker, what was to be restored.
    deployed: Mutex<Vec<(u64, String, String)>>,
    /// The highest commit of each worker.
    committed: Mutex<BTreeMap<String, u64>>,
}

#[derive(Clone)]
struct Played {
    id: WorkerId,
    store: JobStore,
    stage: Arc<Stage>,
    /// What it has been told to deploy, whoever has a session with it.
    attempt: Arc<AtomicU64>,
    /// It has not restored that yet.
    deploying: Arc<AtomicBool>,
    /// What it has been told to run.
    ran: Arc<AtomicU64>,
    /// So many have said hello; the last of them is told what happens.
    sessions: Arc<AtomicU64>,
}

#[async_trait]
impl Worker for Played {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<FromWorker, Status>> + Send>>;
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<rpc::Credit, Status>> + Send>>;

    async fn session(&self, request: Request<Streaming<ToWorker>>) -> Result<Response<Self::SessionStream>, Status> {
        let (answers, stream) = mpsc::channel(64);
        let (played, mut inbox) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            let (mut told, mut session) = (false, None);
            loop {
                let attempt = played.attempt.load(Ordering::SeqCst);
                // Made before the flag is read, so that no change is missed.
                let changed = played.stage.changed.notified();
                let mut said = Vec::new();
                if session == Some(played.sessions.load(Ordering::SeqCst)) && played.restored() {
                    said.push(from_worker::Message::Deployed(rpc::Deployed { attempt, ..rpc::Deployed::default() }));
                } else if attempt > 0 && !told && played.stage.finished.load(Ordering::SeqCst) {
                    told = true;
                    said.push(from_worker::Message::Finished(rpc::Finished { attempt }));
                } else {
                    tokio::select! {
                        message = inbox.next() => match message {
                            Some(Ok(message)) => said = played.answer(message.message.unwrap()).await,
                            _ => return,
                        },
                        () = changed => continue,
                    }
                }
                for answer in said {
                    if matches!(answer, from_worker::Message::Welcome(_)) {
                        session = Some(played.sessions.fetch_add(1, Ordering::SeqCst) + 1);
                    }
                    if answers.send(Ok(FromWorker { message: Some(answer) })).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn exchange(&self, _: Request<Streaming<rpc::Frame>>) -> Result<Response<Self::ExchangeStream>, Status> {
        Err(Status::unimplemented("these workers have nothing to exchange"))
    }

    async fn plan(&self, call: Request<rpc::PlanCall>) -> Result<Response<rpc::PlanAnswer>, Status> {
        let request: PlanRequest = serde_json::from_slice(&call.into_inner().plan_request).unwrap();
        if request.script.contains("crash") {
            return Err(Status::internal("planning ended with signal 6"));
        }
        let answer = if request.script.contains("nonsense") {
            serde_json::json!({"errors": [{"line": 1, "column": 1, "message": "nonsense is no statement"}]})
        } else {
            serde_json::json!({"fingerprint": "f"})
        };
        Ok(Response::new(rpc::PlanAnswer { answer: answer.to_string().into_bytes().into(), mismatch: String::new() }))
    }
}

impl Played {
    /// A restore that took long has just ended.
    fn restored(&self) -> bool {
        !self.stage.holds.load(Ordering::SeqCst) && self.deploying.swap(false, Ordering::SeqCst)
    }

    async fn answer(&self, message: to_worker::Message) -> Vec<from_worker::Message> {
        use from_worker::Message;
        match message {
            to_worker::Message::Hello(_) => {
                // Whoever had a session before was told, if anybody was there.
                self.restored();
                vec![Message::Welcome(rpc::Welcome {
                    protocol_version: PROTOCOL_VERSION,
                    build_version: BUILD_VERSION.to_string(),
                    worker: self.id.0.clone(),
                    attempt: self.attempt.load(Ordering::SeqCst),
                    highest_checkpoint: 0,
                    memory_budget: 0,
                    deploying: self.deploying.load(Ordering::SeqCst),
                })]
            }
            to_worker::Message::Deploy(deploy) => self.deploys(deploy),
            to_worker::Message::Run(run) => {
                assert!(!self.deploying.load(Ordering::SeqCst), "nothing runs before it is restored");
                self.ran.store(run.attempt, Ordering::SeqCst);
                let stats = rpc::Stats { attempt: run.attempt, first_output_us: 1000, ..rpc::Stats::default() };
                vec![Message::Stats(stats)]
            }
            to_worker::Message::Trigger(trigger) if self.ran.load(Ordering::SeqCst) != trigger.attempt => {
                let reason = "it does not run".to_string();
                vec![Message::Declined(rpc::Declined { attempt: trigger.attempt, id: trigger.id, reason })]
            }
            to_worker::Message::Trigger(trigger) => vec![self.takes(&trigger).await],
            to_worker::Message::Commit(commit) => {
                self.stage.committed.lock().unwrap().insert(self.id.0.clone(), commit.id);
                let committed = Message::Committed(rpc::Committed { attempt: commit.attempt, id: commit.id });
                let leaves = self.stage.leaves.swap(false, Ordering::SeqCst);
                [committed].into_iter().chain(leaves.then_some(Message::Leaving(rpc::Leaving {}))).collect()
            }
            to_worker::Message::Ping(ping) => vec![Message::Pong(rpc::Pong { sequence: ping.sequence })],
            _ => Vec::new(),
        }
    }

    fn deploys(&self, deploy: rpc::Deploy) -> Vec<from_worker::Message> {
        use from_worker::Message;
        if deploy.fingerprint == UNFIT {
            return vec![Message::TaskFailed(rpc::TaskFailed {
                attempt: deploy.attempt,
                operator: "sum".to_string(),
                message: "the state of sum is of another type".to_string(),
                fatal: true,
                kind: "StateMismatch".to_string(),
                ..rpc::TaskFailed::default()
            })];
        }
        self.attempt.store(deploy.attempt, Ordering::SeqCst);
        assert_eq!(deploy.restore_path.is_empty(), deploy.restore_record.is_empty());
        if !deploy.restore_path.is_empty() {
            let slot: Slot = read(&deploy.restore_path, &deploy.restore_record).unwrap();
            let Slot::Record(record) = slot else { panic!("{} is no record", deploy.restore_path) };
            assert!(record.version == 1 || !self.is_older(), "the last release reads version 1 and no other");
        }
        assert_eq!(deploy.commits_path.is_empty(), deploy.commits_record.is_empty());
        self.stage.owners.lock().unwrap().insert((deploy.owner.clone(), deploy.cluster.clone()));
        self.stage.promised.lock().unwrap().insert(deploy.attempt, deploy.commits_path.clone());
        assert!(deploy.peers.iter().all(|peer| peer.address.starts_with("127.0.0.1:")));
        let mut deployed = self.stage.deployed.lock().unwrap();
        deployed.push((deploy.attempt, self.id.0.clone(), deploy.restore_path));
        self.stage.changed.notify_waiters();
        if self.stage.holds.load(Ordering::SeqCst) {
            self.deploying.store(true, Ordering::SeqCst);
            return Vec::new();
        }
        let fingerprint = deploy.fingerprint;
        let older = self.is_older();
        vec![Message::Deployed(rpc::Deployed {
            attempt: deploy.attempt,
            fingerprint,
            commits_path: if older { String::new() } else { deploy.commits_path },
            ..rpc::Deployed::default()
        })]
    }

    /// It is of the last release, which knows nothing of versions.
    fn is_older(&self) -> bool {
        self.stage.older.load(Ordering::SeqCst)
    }

    /// Takes a checkpoint that is as good as empty.
    async fn takes(&self, trigger: &rpc::TriggerCheckpoint) -> from_worker::Message {
        let (id, attempt) = (CheckpointId(trigger.id), Attempt(trigger.attempt));
        let part = Part {
            version: if self.is_older() { 1 } else { PART_VERSION },
            id,
            attempt,
            worker: self.id.clone(),
            script: String::new(),
            keepers: Vec::new(),
            subtasks: Vec::new(),
        };
        let (part_path, bytes) = (paths::part(id, attempt, &self.id), encode(&part));
        let part_length = bytes.len() as u64;
        self.store.create(&part_path, bytes.into()).await.unwrap();
        from_worker::Message::Acked(rpc::Acked {
            part_format: if self.is_older() { 0 } else { PART_VERSION },
            attempt: trigger.attempt,
            id: trigger.id,
            part_path,
            part_length,
            finished: self.stage.finished.load(Ordering::SeqCst),
            ..rpc::Acked::default()
        })
    }
}

/// Starts played workers in this process.
struct PlayedPlatform {
    store: JobStore,
    stage: Arc<Stage>,
    events: mpsc::Sender<PlatformEvent>,
    count: Arc<AtomicU64>,
    running: Running,
}

/// The processes that live, and the addresses of those that listen.
type Running = Arc<Mutex<BTreeMap<ProcessNumber, (JoinHandle<()>, String)>>>;

impl PlayedPlatform {
    fn end(&self, process: ProcessNumber) {
        let Some((task, _)) = self.running.lock().unwrap().remove(&process) else { return };
        task.abort();
        let events = self.events.clone();
        tokio::spawn(async move {
            let _ = events.send(PlatformEvent::Died { process, how: "signal 9".to_string() }).await;
        });
    }
}

#[async_trait]
impl Platform for PlayedPlatform {
    fn start(&mut self, template: &WorkerTemplate) -> ProcessNumber {
        let process = ProcessNumber(self.count.fetch_add(1, Ordering::SeqCst) + 1);
        let worker = Played {
            id: WorkerId::generate(),
            store: self.store.clone(),
            stage: self.stage.clone(),
            attempt: Arc::default(),
            deploying: Arc::default(),
            ran: Arc::default(),
            sessions: Arc::default(),
        };
        let (events, template, running) = (self.events.clone(), template.hash.clone(), self.running.clone());
        let mine = self.running.clone();
        // Held until it is in there, so that its address finds it.
        let mut running_before = mine.lock().unwrap();
        let task = tokio::spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let name = format!("worker {process}");
            if let Some((_, listens)) = running.lock().unwrap().get_mut(&process) {
                listens.clone_from(&address);
            }
            events.send(PlatformEvent::Started { process, name, address, pid: None, template }).await.unwrap();
            let _ = Server::builder()
                .add_service(WorkerServer::new(worker))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await;
        });
        running_before.insert(process, (task, String::new()));
        process
    }

    fn stop(&mut self, process: ProcessNumber) {
        self.end(process);
    }

    fn kill(&mut self, process: ProcessNumber) {
        self.end(process);
    }

    async fn finish(&mut self) {
        let running: Vec<_> = self.running.lock().unwrap().keys().copied().collect();
        for process in running {
            self.end(process);
        }
    }

    /// They live on, as pods do.
    async fn release(&mut self) {}
}

/// Keeps the lines, and wakes who waits for one.
#[derive(Clone, Default)]
struct Lines {
    told: Arc<Mutex<Vec<String>>>,
    more: Arc<Notify>,
    /// The next line panics the supervisor, which tells it.
    panics: Arc<AtomicBool>,
}

impl Ui for Lines {
    fn event(&mut self, _: Weight, line: &str) {
        assert!(!self.panics.load(Ordering::SeqCst), "injected at {line}");
        self.told.lock().unwrap().push(line.to_string());
        self.more.notify_waiters();
    }
    fn printed(&mut self, _: &str) {}
    fn show(&mut self, _: &View) {}
    fn finish(&mut self, _: &View) {}
}

impl Lines {
    fn count(&self, part: &str) -> usize {
        self.told.lock().unwrap().iter().filter(|line| line.contains(part)).count()
    }

    /// Waits until so many lines contain `part`.
    async fn wait(&self, part: &str, times: usize) {
        let waiting = async {
            loop {
                let more = self.more.notified();
                if self.count(part) >= times {
                    return;
                }
                more.await;
            }
        };
        let timely = tokio::time::timeout(PATIENCE, waiting).await;
        timely.unwrap_or_else(|_| panic!("{times} × {part:?} never came: {:#?}", self.told.lock().unwrap()));
    }
}

/// One run of the job in `folder`, in a state folder of its own.
struct Run {
    lines: Lines,
    stage: Arc<Stage>,
    running: Running,
    count: Arc<AtomicU64>,
    events: mpsc::Sender<PlatformEvent>,
    store: JobStore,
    control: mpsc::Sender<Control>,
    outcome: JoinHandle<Outcome>,
}

impl Run {
    fn start(folder: &Path, name: &str, adopt: bool) -> Self {
        let (stage, running, count) = (Arc::default(), Arc::default(), Arc::default());
        Self::over(folder, name, adopt, stage, running, count)
    }

    /// Another supervisor, after the first has let go of its workers.
    async fn resume(self, folder: &Path) -> Self {
        self.control.send(Control::Leave).await.unwrap();
        let (stage, running, count) = (self.stage.clone(), self.running.clone(), self.count.clone());
        assert_eq!(self.outcome().await, Outcome::Left);
        Self::resuming(folder, stage, running, count)
    }

    fn resuming(folder: &Path, stage: Arc<Stage>, running: Running, count: Arc<AtomicU64>) -> Self {
        Self::over(folder, "here", false, stage, running, count)
    }

    fn job(folder: &Path) -> Job {
        let yaml = folder.join("job.yaml");
        std::fs::write(
            &yaml,
            "apiVersion: weir.dev/v1alpha1\nkind: StreamJob\nmetadata: {name: j}\nspec:\n  sql: SELECT 1\n  workers: {replicas: 2, slots: 2}\n  checkpoint: {storage: {url: ck}, interval: 50ms}\n",
        )
        .unwrap();
        let mut job = Job::local(&yaml, &Overrides::default()).unwrap();
        job.policy = Policy { retry: Duration::from_millis(20), ..job.policy };
        job
    }

    fn over(
        folder: &Path,
        name: &str,
        adopt: bool,
        stage: Arc<Stage>,
        running: Running,
        count: Arc<AtomicU64>,
    ) -> Self {
        let job = Self::job(folder);
        let state_dir = Arc::new(StateDir::open(&folder.join(name)).unwrap());
        let store = JobStore::open(&job.settings.storage, &job.name).unwrap();
        let (events, platform_events) = mpsc::channel(64);
        let (control, told) = mpsc::channel(8);
        let lines = Lines::default();
        let found: Vec<(ProcessNumber, String)> =
            running.lock().unwrap().iter().map(|(process, (_, address))| (*process, address.clone())).collect();
        let resume = !found.is_empty();
        if resume {
            let processes = found.iter().map(|(process, _)| (*process, String::new())).collect();
            events.try_send(PlatformEvent::Found { processes }).unwrap();
            for (process, address) in found {
                let (name, template) = (format!("worker {process}"), String::new());
                events.try_send(PlatformEvent::Started { process, name, address, pid: None, template }).unwrap();
            }
        }
        let platform = PlayedPlatform {
            store: store.clone(),
            stage: stage.clone(),
            events: events.clone(),
            count: count.clone(),
            running: Arc::clone(&running),
        };
        let parts = Parts {
            job,
            fingerprint: Some("f".to_string()).filter(|_| !resume),
            coordinator: uuid::Uuid::new_v4().to_string(),
            cluster: "local".to_string(),
            owner: state_dir.owner().to_string(),
            resume,
            format: RECORD_VERSION,
            control: told,
            observer: Box::new(LocalObserver::new(state_dir, Box::new(lines.clone()), None)),
            tls: None,
            restore: Restore::Latest,
            adopt,
            failed: 0,
            wish: None,
            accept_lost_output: false,
            store: store.clone(),
            platform: Box::new(platform),
            platform_events,
        };
        let parts = if resume { parts } else { Parts { coordinator: name.to_string(), ..parts } };
        let outcome = tokio::spawn(async move { supervisor::run(parts).await });
        Self { lines, stage, running, count, events, store, control, outcome }
    }

    /// Asks for another version of the job.
    async fn change(&self, folder: &Path, fingerprint: Option<&str>, change: impl FnOnce(&mut Job)) {
        self.change_to(folder, fingerprint, false, change).await;
    }

    async fn change_to(&self, folder: &Path, fingerprint: Option<&str>, empty: bool, change: impl FnOnce(&mut Job)) {
        let mut job = Self::job(folder);
        job.generation = 2;
        change(&mut job);
        let change = Change { job, fingerprint: fingerprint.map(str::to_string), empty };
        self.control.send(Control::Change(Box::new(change))).await.unwrap();
    }

    /// Who deployed an attempt, and what it was to restore.
    fn deployed(&self, attempt: u64) -> Vec<(String, String)> {
        let deployed = self.stage.deployed.lock().unwrap();
        let of = deployed.iter().filter(|(of, ..)| *of == attempt);
        of.map(|(_, worker, restore)| (worker.clone(), restore.clone())).collect()
    }

    /// As `kill -9` would.
    async fn kill_a_worker(&self) {
        let (process, (task, _)) = self.running.lock().unwrap().pop_first().unwrap();
        task.abort();
        self.events.send(PlatformEvent::Died { process, how: "signal 9".to_string() }).await.unwrap();
    }

    fn finish_input(&self) {
        self.stage.finished.store(true, Ordering::SeqCst);
        self.stage.changed.notify_waiters();
    }

    async fn outcome(self) -> Outcome {
        let ended = tokio::time::timeout(PATIENCE, self.outcome).await;
        ended.unwrap_or_else(|_| panic!("the run did not end: {:#?}", self.lines.told.lock().unwrap())).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_checkpoints_finishes_with_a_final_record_and_keeps_as_many_as_it_should() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(folder.path(), "here", false);
    run.lines.wait("checkpoint 5 in", 1).await;
    run.finish_input();
    let (store, stage, lines) = (run.store.clone(), run.stage.clone(), run.lines.clone());
    assert_eq!(run.outcome().await, Outcome::Succeeded);

    assert_eq!(lines.count("first output"), 1);
    let terms = store.list(paths::TERMS).await.unwrap();
    let newest = terms.iter().rev().find(|object| object.size > 0 && !object.path.ends_with("opening")).unwrap();
    let slot: Slot = read(&newest.path, &store.get(&newest.path).await.unwrap()).unwrap();
    let Slot::Record(record) = slot else { panic!("the term ends in {slot:?}") };
    assert!(record.is_final);
    assert_eq!(record.parts.len(), 2);
    assert!(stage.committed.lock().unwrap().values().all(|id| *id == record.id.0));
    let owner = StateDir::open(&folder.path().join("here")).unwrap().owner().to_string();
    assert_eq!(stage.owners.lock().unwrap().iter().cloned().collect::<Vec<_>>(), [(owner, "local".to_string())]);
    let status = std::fs::read_to_string(folder.path().join("here/status.json")).unwrap();
    assert!(status.contains("\"latest\""), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_worker_is_replaced_and_all_go_back_to_the_last_record() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(folder.path(), "here", false);
    run.lines.wait("checkpoint 2 in", 1).await;
    run.kill_a_worker().await;
    run.lines.wait("lost: signal 9", 1).await;
    run.lines.wait("rolled back to checkpoint", 1).await;
    run.lines.wait("running again after", 1).await;
    let completed = run.lines.count("checkpoint");
    run.lines.wait("checkpoint", completed + 2).await;
    run.finish_input();
    let stage = run.stage.clone();
    assert_eq!(run.outcome().await, Outcome::Succeeded);

    let deployed = stage.deployed.lock().unwrap();
    let second: Vec<_> = deployed.iter().filter(|(attempt, ..)| *attempt == 2).collect();
    assert_eq!(second.len(), 2, "{deployed:?}");
    assert!(second.iter().all(|(_, _, restore)| restore.starts_with("terms/0000000001/")), "{deployed:?}");
    let survivors =
        second.iter().filter(|(_, id, _)| deployed.iter().any(|(attempt, other, _)| *attempt == 1 && other == id));
    assert_eq!(survivors.count(), 1, "one worker stays: {deployed:?}");
}

/// Removes all that stands in storage, while the job goes on writing there.
fn empty(folder: &Path) {
    while std::fs::remove_dir_all(folder.join("ck/default/j")).is_err() {}
}

fn is_gone(outcome: &Outcome) -> bool {
    let Outcome::Refused(Some(Refusal::Gone { path }), reason) = outcome else { return false };
    path.ends_with("terms/0000000001/opening") && reason.contains(path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_checkpoints_are_deleted_ends_and_names_what_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(folder.path(), "here", false);
    run.lines.wait("checkpoint 2 in", 1).await;
    empty(folder.path());
    let outcome = run.outcome().await;
    assert!(is_gone(&outcome), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_lost_after_the_checkpoints_were_deleted_does_not_begin_the_job_anew() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(folder.path(), "here", false);
    run.lines.wait("first output", 1).await;
    empty(folder.path());
    run.kill_a_worker().await;
    let store = run.store.clone();
    let outcome = run.outcome().await;
    assert!(is_gone(&outcome), "{outcome:?}");
    let openings =
        store.list(paths::TERMS).await.unwrap().into_iter().filter(|object| object.path.ends_with("opening"));
    assert_eq!(openings.count(), 0, "no other term is opened");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_from_elsewhere_takes_over_and_the_first_stops_and_says_by_whom() {
    let folder = tempfile::tempdir().unwrap();
    let first = Run::start(folder.path(), "first", false);
    first.lines.wait("checkpoint 2 in", 1).await;
    let second = Run::start(folder.path(), "second", true);
    second.lines.wait("restored from checkpoint", 1).await;
    assert_eq!(first.outcome().await, Outcome::Superseded(Some("second".to_string())));
    second.lines.wait("running after", 1).await;
    second.finish_input();
    assert_eq!(second.outcome().await, Outcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_from_elsewhere_is_refused_unless_it_asks_to_take_over() {
    let folder = tempfile::tempdir().unwrap();
    let first = Run::start(folder.path(), "first", false);
    first.lines.wait("checkpoint 1 in", 1).await;
    let second = Run::start(folder.path(), "second", false);
    assert!(matches!(second.outcome().await, Outcome::Refused(Some(_), _)));
    let completed = first.lines.count("checkpoint");
    first.lines.wait("checkpoint", completed + 1).await;
    first.finish_input();
    assert_eq!(first.outcome().await, Outcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_workers_are_ready_before_the_job_goes_on_with_them_from_a_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(folder.path(), "here", false);
    run.lines.wait("checkpoint 2 in", 1).await;
    run.change(folder.path(), None, |job| job.workers = 4).await;
    run.lines.wait("handing over", 1).await;
    run.lines.wait("attempt 2: 4 workers", 1).await;
    run.lines.wait("running again after", 1).await;
    let (first, second) = (run.deployed(1), run.deployed(2));
    assert_eq!(second.len(), 4);
    assert!(first.iter().all(|(worker, _)| second.iter().any(|(other, _)| other == worker)), "who was there stays");
    run.change(folder.path(), None, |job| (job.workers, job.generation) = (1, 3)).await;
    run.lines.wait("attempt 3: 1 workers", 1).await;
    run.lines.wait("running again after", 2).await;
    let completed = run.lines.count("checkpoint");
    run.lines.wait("checkpoint", completed + 2).await;
    run.finish_input();
    let (lines, running) = (run.lines.clone(), run.running.clone());
    assert_eq!(run.outcome().await, Outcome::Succeeded);
    assert_eq!(lines.count("lost:"), 0, "who is not needed any more is not lost");
    assert_eq!(running.lock().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_the_state_does_not_fit_is_refused_and_the_job_runs_on_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(folder.path(), "here", false);
    run.lines.wait("checkpoint 2 in", 1).await;
    run.change(folder.path(), Some(UNFIT), |job| job.plan.script = "SELECT 2".to_string()).await;
    run.lines.wait("the change is refused: the state of sum is of another type", 1).await;
    run.lines.wait("running again after", 1).await;
    assert_eq!((run.deployed(1).len(), run.deployed(2).len(), run.deployed(3).len()), (2, 0, 2));
    let completed = run.lines.count("checkpoint");
    run.lines.wait("checkpoint", completed + 2).await;
    run.finish_input();
    assert_eq!(run.outcome().await, Outcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_leaves_the_state_behind_begins_with_none_once() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(folder.path(), "here", false);
    run.lines.wait("checkpoint 2 in", 1).await;
    run.change_to(folder.path(), None, true, |job| job.plan.script = "nonsense".to_string()).await;
    run.lines.wait("nonsense is no statement", 1).await;
    let change = |job: &mut Job| (job.plan.script, job.generation) = ("SELECT 2".to_string(), 3);
    run.change_to(folder.path(), None, true, change).await;
    run.lines.wait("handing over", 1).await;
    run.lines.wait("running again after", 1).await;
    let completed = run.lines.count("checkpoint");
    run.lines.wait("checkpoint", completed + 2).await;
    run.kill_a_worker().await;
    run.lines.wait("running again after", 2).await;
    let restored = |attempt| run.deployed(attempt).into_iter().map(|(_, restore)| restore).collect::<Vec<_>>();
    assert_eq!(restored(2), ["", ""]);
    assert!(restored(3).iter().all(|record| record.starts_with("terms/0000000002/")), "{:?}", restored(3));
    // What starts from nothing publishes what the last checkpoint before it has promised; its own records carry that on.
    let promised = run.stage.promised.lock().unwrap().clone();
    assert!(promised[&2].starts_with("terms/0000000001/"), "{promised:?}");
    assert_eq!((promised[&1].as_str(), promised[&3].as_str()), ("", ""));
    run.finish_input();
    assert_eq!(run.outcome().await, Outcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_of_the_last_release_are_given_records_that_they_read_and_new_ones_take_over_from_these() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Arc::new(Stage::default());
    stage.older.store(true, Ordering::SeqCst);
    let run = Run::over(folder.path(), "here", false, Arc::clone(&stage), Arc::default(), Arc::default());
    run.lines.wait("checkpoint 2 in", 1).await;
    run.kill_a_worker().await;
    run.lines.wait("running again after", 1).await;
    let completed = run.lines.count("checkpoint");
    run.lines.wait("checkpoint", completed + 2).await;
    // The workers are rolled out: what they are given from here on is of the last release still.
    stage.older.store(false, Ordering::SeqCst);
    run.kill_a_worker().await;
    run.lines.wait("running again after", 2).await;
    run.finish_input();
    let store = run.store.clone();
    assert_eq!(run.outcome().await, Outcome::Succeeded);
    let mut versions = Vec::new();
    for object in store.list(paths::TERMS).await.unwrap().iter().filter(|object| object.size > 0) {
        if let Ok(Slot::Record(record)) = read(&object.path, &store.get(&object.path).await.unwrap()) {
            versions.push(record.version);
        }
    }
    assert!(versions.is_sorted() && versions.last() == Some(&RECORD_VERSION), "{versions:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_of_a_build_that_would_drop_what_was_promised_run_nothing_that_starts_from_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(folder.path(), "here", false);
    run.stage.older.store(true, Ordering::SeqCst);
    run.lines.wait("checkpoint 2 in", 1).await;
    let completed = run.lines.count("checkpoint");
    // Where there is nothing that they would have to know, they are as good as any.
    run.kill_a_worker().await;
    run.lines.wait("running again after", 1).await;
    run.lines.wait("checkpoint", completed + 2).await;
    let change = |job: &mut Job| (job.plan.script, job.generation) = ("SELECT 2".to_string(), 2);
    run.change_to(folder.path(), None, true, change).await;
    run.lines.wait("a build that cannot publish what terms/", 1).await;
    let Outcome::Failed(failure) = run.outcome().await else { panic!("it must not go on") };
    assert!(failure.message.contains("use workers of this build"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_does_not_plan_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(folder.path(), "here", false);
    run.lines.wait("checkpoint 1 in", 1).await;
    run.change(folder.path(), None, |job| job.plan.script = "nonsense".to_string()).await;
    run.lines.wait("nonsense is no statement", 1).await;
    let completed = run.lines.count("checkpoint");
    run.lines.wait("checkpoint", completed + 2).await;
    run.finish_input();
    let (lines, stage) = (run.lines.clone(), run.stage.clone());
    assert_eq!(run.outcome().await, Outcome::Succeeded);
    assert_eq!((lines.count("handing over"), stage.deployed.lock().unwrap().len()), (0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_planning_crashes_three_times_is_refused_with_the_cause_and_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(folder.path(), "here", false);
    run.lines.wait("checkpoint 1 in", 1).await;
    run.change(folder.path(), None, |job| job.plan.script = "crash".to_string()).await;
    run.lines.wait("the change is refused: planning it failed 3 times", 1).await;
    assert!(run.lines.count("planning ended with signal 6") > 0, "the cause is told");
    let completed = run.lines.count("checkpoint");
    run.lines.wait("checkpoint", completed + 2).await;
    run.finish_input();
    let (lines, stage) = (run.lines.clone(), run.stage.clone());
    assert_eq!(run.outcome().await, Outcome::Succeeded);
    assert_eq!((lines.count("handing over"), stage.deployed.lock().unwrap().len()), (0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_panics_ends_with_the_cause_and_the_next_one_takes_up_what_runs() {
    let folder = tempfile::tempdir().unwrap();
    let first = Run::start(folder.path(), "here", false);
    first.lines.wait("checkpoint 2 in", 1).await;
    let (stage, running, count) = (first.stage.clone(), first.running.clone(), first.count.clone());
    first.lines.panics.store(true, Ordering::SeqCst);
    let outcome = first.outcome().await;
    assert!(matches!(&outcome, Outcome::Panicked(cause) if cause.contains("injected at")), "{outcome:?}");
    assert_eq!(running.lock().unwrap().len(), 2, "the workers run on");
    let second = Run::resuming(folder.path(), stage, running, count);
    second.lines.wait("running on", 1).await;
    second.lines.wait("checkpoint", 2).await;
    second.finish_input();
    assert_eq!(second.outcome().await, Outcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_live_changes_without_a_new_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(folder.path(), "here", false);
    run.lines.wait("checkpoint 1 in", 1).await;
    run.change(folder.path(), None, |job| job.policy.interval = Duration::from_hours(1)).await;
    run.lines.wait("the change holds", 1).await;
    let asked = "which was asked for, is complete";
    for round in 1..3 {
        run.control.send(Control::Checkpoint(round.to_string())).await.unwrap();
        run.lines.wait(asked, round).await;
    }
    run.control.send(Control::Stop { last_checkpoint: true, why: "a test".to_string() }).await.unwrap();
    let stage = run.stage.clone();
    assert_eq!(run.outcome().await, Outcome::Stopped);
    assert_eq!(stage.deployed.lock().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_go_is_replaced_before_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(folder.path(), "here", false);
    run.lines.wait("checkpoint 2 in", 1).await;
    let process = *run.running.lock().unwrap().keys().next().unwrap();
    run.events.send(PlatformEvent::Leaving { process, reason: "a drain".to_string() }).await.unwrap();
    run.lines.wait("worker 1 is to go (a drain)", 1).await;
    is_replaced(run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_says_itself_that_it_is_to_go_is_replaced_before_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(folder.path(), "here", false);
    run.lines.wait("checkpoint 2 in", 1).await;
    run.stage.leaves.store(true, Ordering::SeqCst);
    run.lines.wait("is to go (it was told to end)", 1).await;
    is_replaced(run).await;
}

async fn is_replaced(run: Run) {
    run.lines.wait("running again after", 1).await;
    let (first, second) = (run.deployed(1), run.deployed(2));
    assert_eq!(second.iter().filter(|(worker, _)| first.iter().any(|(other, _)| other == worker)).count(), 1);
    run.finish_input();
    let lines = run.lines.clone();
    assert_eq!(run.outcome().await, Outcome::Succeeded);
    assert_eq!(lines.count("lost:"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_controller_takes_up_a_running_attempt_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let first = Run::start(folder.path(), "here", false);
    first.lines.wait("checkpoint 2 in", 1).await;
    let second = first.resume(folder.path()).await;
    second.lines.wait("resumed after checkpoint", 1).await;
    second.lines.wait("running on", 1).await;
    second.lines.wait("the change holds", 1).await;
    let completed = second.lines.count(" in ");
    second.lines.wait(" in ", completed + 2).await;

    // It has a worker's loss to mend like any other.
    second.kill_a_worker().await;
    second.lines.wait("running again after", 1).await;
    assert_eq!((second.deployed(1).len(), second.deployed(2).len()), (2, 2));
    second.finish_input();
    assert_eq!(second.outcome().await, Outcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_was_being_deployed_runs_under_the_next_controller() {
    // The workers have restored it before that one comes, or are at it yet.
    for before in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let stage = Arc::new(Stage { holds: true.into(), ..Stage::default() });
        let first = Run::over(folder.path(), "here", false, Arc::clone(&stage), Arc::default(), Arc::default());
        let told = async {
            loop {
                let changed = stage.changed.notified();
                if first.deployed(1).len() == 2 {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(PATIENCE, told).await.expect("both are told to deploy");
        let release = || {
            stage.holds.store(false, Ordering::SeqCst);
            stage.changed.notify_waiters();
        };
        first.control.send(Control::Leave).await.unwrap();
        let (running, count) = (first.running.clone(), first.count.clone());
        assert_eq!(first.outcome().await, Outcome::Left);
        if before {
            release();
        }
        let second = Run::resuming(folder.path(), Arc::clone(&stage), running, count);
        if !before {
            second.lines.wait("attempt 1: 2 workers", 1).await;
            assert_eq!(second.lines.count("running on"), 0);
            release();
        }
        second.lines.wait("running on", 1).await;
        second.lines.wait("the change holds", 1).await;
        second.lines.wait("checkpoint 2 in", 1).await;
        assert_eq!((second.deployed(1).len(), second.deployed(2).len()), (2, 0));
        second.finish_input();
        assert_eq!(second.outcome().await, Outcome::Succeeded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_with_a_worker_missing_is_recovered_by_the_next_controller() {
    let folder = tempfile::tempdir().unwrap();
    let first = Run::start(folder.path(), "here", false);
    first.lines.wait("checkpoint 2 in", 1).await;
    first.control.send(Control::Leave).await.unwrap();
    let (stage, running, count) = (first.stage.clone(), first.running.clone(), first.count.clone());
    assert_eq!(first.outcome().await, Outcome::Left);
    let (_, (task, _)) = running.lock().unwrap().pop_first().unwrap();
    task.abort();
    let second = Run::resuming(folder.path(), stage, running, count);
    second.lines.wait("attempt 2: 2 workers", 1).await;
    second.lines.wait("running again after", 1).await;
    second.finish_input();
    assert_eq!(second.outcome().await, Outcome::Succeeded);
}
