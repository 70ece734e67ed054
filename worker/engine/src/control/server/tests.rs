//! Workers on loopback, driven as a coordinator drives them. Each has a runtime of its own, so that it can be killed.

use std::{sync::atomic::Ordering, time::Duration};

use tempfile::TempDir;
use tokio::runtime::Runtime;
use weir_protocol::{
    Attempt, BUILD_VERSION, CheckpointId, JobName, PROTOCOL_VERSION, RecordNumber, Term,
    ids::random_digits,
    paths,
    record::{PartRef, RECORD_VERSION, Record, Slot, encode},
    rpc::{
        Acked, Commit, Deploy, Deployed, Hello, Hold, Peer, Ping, Run, TaskFailed, TriggerCheckpoint, Welcome,
        from_worker::Message as Answer, to_worker::Message, worker_client::WorkerClient,
    },
    settings::{CheckpointMode, FailureKind, JobSettings, PlanRequest, StorageSettings},
};
use weir_storage::{Created, JobStore};

use super::*;
use crate::testing::{CountingJob, FINGERPRINT};

const PATIENCE: Duration = Duration::from_secs(20);
const MAX_PARALLELISM: u32 = 32;

struct TestWorker {
    runtime: Option<Runtime>,
    address: String,
    id: WorkerId,
    slot: u32,
    metrics: Arc<Metrics>,
    leave: CancellationToken,
    served: tokio::task::JoinHandle<Result<(), ServeError>>,
}

impl TestWorker {
    fn start(job: &CountingJob, folder: &TempDir, slot: u32) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let socket = folder.path().join(format!("socket-{slot}-{}", random_digits(8)));
        let listener = {
            let _inside = runtime.enter();
            Listener::unix(&socket).unwrap()
        };
        let address = listener.address().unwrap();
        let mut options = WorkerOptions::new(
            folder.path().join("local"),
            256 << 20,
            BackendRegistry::with_builtin(),
            Arc::new(job.clone()),
        );
        options.on_stuck = Arc::new(|stuck| panic!("subtasks do not stop: {stuck:?}"));
        let (id, leave) = (options.worker.clone(), options.leave.clone());
        let worker = WorkerServer::new(options);
        let metrics = worker.metrics();
        let served = runtime.spawn(worker.serve(listener, CancellationToken::new()));
        Self { runtime: Some(runtime), address, id, slot, metrics, leave, served }
    }

    fn peer(&self) -> Peer {
        Peer { worker: self.id.0.clone(), address: self.address.clone(), subtasks: vec![self.slot] }
    }

    /// As `kill -9` does it: nothing is said to anybody.
    fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Drop for TestWorker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct TestSession {
    term: u64,
    /// Failures of older attempts are told again, and passed over.
    attempt: u64,
    out: mpsc::UnboundedSender<ToWorker>,
    answers: Streaming<FromWorker>,
    welcome: Option<Welcome>,
}

impl TestSession {
    async fn connect(worker: &TestWorker, term: u64) -> Self {
        let mut client = WorkerClient::connect(worker.address.clone()).await.unwrap();
        let (out, said) = mpsc::unbounded_channel();
        let answers = client.session(UnboundedReceiverStream::new(said)).await.unwrap().into_inner();
        Self { term, attempt: 0, out, answers, welcome: None }
    }

    async fn open(worker: &TestWorker, term: u64, attempt: u64) -> Self {
        let mut session = Self::connect(worker, term).await;
        session.attempt = attempt;
        session.say(Message::Hello(Hello {
            protocol_version: PROTOCOL_VERSION,
            build_version: BUILD_VERSION.into(),
            coordinator: "test".into(),
            namespace: "default".into(),
            job: "counting".into(),
        }));
        session.welcome = Some(
            session
                .wait("Welcome", |answer| match answer {
                    Answer::Welcome(welcome) => Some(welcome),
                    _ => None,
                })
                .await,
        );
        session
    }

    fn say(&self, message: Message) {
        self.out.send(ToWorker { term: self.term, message: Some(message) }).unwrap();
    }

    /// The next answer that `pick` takes; others are passed over.
    async fn wait<T>(&mut self, what: &str, pick: impl Fn(Answer) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let answer =
                    self.answers.message().await.unwrap().unwrap_or_else(|| panic!("the session ended before {what}"));
                let answer = answer.message.unwrap();
                if let Answer::TaskFailed(failed) = &answer {
                    assert!(failed.attempt < self.attempt || what == "TaskFailed", "waiting for {what}: {failed:?}");
                    if failed.attempt < self.attempt {
                        continue;
                    }
                }
                if let Some(found) = pick(answer) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("no {what}"))
    }

    async fn failed(&mut self) -> TaskFailed {
        self.wait("TaskFailed", |answer| match answer {
            Answer::TaskFailed(failed) => Some(failed),
            _ => None,
        })
        .await
    }
}

/// The records of one term of the test's coordinator.
struct TestCoordinator {
    folder: TempDir,
    store: JobStore,
    job: CountingJob,
    backend: &'static str,
    term: u64,
    attempt: u64,
    next_id: u64,
    /// Path and bytes of the newest record.
    newest: Option<(String, Record)>,
    /// The version that it asks parts to be written in; 0 is a controller that does not ask yet.
    part_format: u32,
    /// One that is left behind, and whose commits are due.
    left: Option<(String, Record)>,
    script: &'static str,
    accepts_lost: bool,
    sessions: Vec<TestSession>,
}

impl TestCoordinator {
    fn new(job: CountingJob) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = JobStore::open(&storage(&folder), &job_name()).unwrap();
        Self {
            folder,
            store,
            job,
            backend: "memory",
            term: 0,
            attempt: 0,
            next_id: 1,
            newest: None,
            part_format: RECORD_VERSION,
            left: None,
            script: "counting",
            accepts_lost: false,
            sessions: Vec::new(),
        }
    }

    fn worker(&self, slot: u32) -> TestWorker {
        TestWorker::start(&self.job, &self.folder, slot)
    }

    fn order(&self, workers: &[&TestWorker]) -> Deploy {
        let settings = JobSettings {
            job: job_name(),
            storage: storage(&self.folder),
            state_backend: self.backend.into(),
            state_options: std::collections::BTreeMap::new(),
            mode: CheckpointMode::ExactlyOnce,
            alignment_timeout_ms: 0,
            memory_budget: 256 << 20,
        };
        let request =
            PlanRequest { script: self.script.into(), base_dir: "/".into(), max_parallelism: MAX_PARALLELISM };
        let told = |record: &Option<(String, Record)>| match record {
            Some((path, record)) => (path.clone(), encode(&Slot::Record(record.clone()))),
            None => Default::default(),
        };
        let (restore_path, restore_record) = told(&self.newest);
        let (commits_path, commits_record) = told(&self.left);
        Deploy {
            attempt: self.attempt,
            plan_request: serde_json::to_vec(&request).unwrap().into(),
            fingerprint: FINGERPRINT.into(),
            parallelism: workers.len() as u32,
            max_parallelism: MAX_PARALLELISM,
            peers: workers.iter().map(|worker| worker.peer()).collect(),
            restore_path,
            restore_record: restore_record.into(),
            settings: serde_json::to_vec(&settings).unwrap().into(),
            // Nor does a controller that does not ask for a version say whose output it is.
            owner: if self.part_format == 0 { String::new() } else { "u1".into() },
            cluster: if self.part_format == 0 { String::new() } else { "local".into() },
            commits_path,
            commits_record: commits_record.into(),
            accept_lost_output: self.accepts_lost,
            part_format: self.part_format,
            ..Deploy::default()
        }
    }

    /// A new term and attempt on these workers, up to Run, and the commit of what was restored.
    async fn deploy(&mut self, workers: &[&TestWorker]) -> Vec<Deployed> {
        self.term += 1;
        self.attempt += 1;
        self.sessions.clear();
        for worker in workers {
            self.sessions.push(TestSession::open(worker, self.term, self.attempt).await);
        }
        let order = self.order(workers);
        self.say_all(&Message::Deploy(order));
        let mut all = Vec::new();
        for session in &mut self.sessions {
            let deployed = session.wait("Deployed", |answer| match answer {
                Answer::Deployed(deployed) => Some(deployed),
                _ => None,
            });
            all.push(deployed.await);
        }
        assert!(all.iter().all(|deployed| deployed.attempt == self.attempt));
        self.say_all(&Message::Run(Run { attempt: self.attempt }));
        let promised = self.newest.iter().chain(&self.left).map(|(_, record)| record.id.0).max();
        if let Some(id) = promised {
            self.commit(id).await;
        }
        all
    }

    /// Checkpoints until the newest record names output, which is not committed. Gives the record's checkpoint.
    async fn promise(&mut self) -> u64 {
        loop {
            let (id, acks) = self.acks().await;
            self.record(id, &acks).await;
            if !self.job.output.unfinished.lock().is_empty() {
                return id;
            }
            self.commit(id).await;
        }
    }

    fn say_all(&self, message: &Message) {
        self.sessions.iter().for_each(|session| session.say(message.clone()));
    }

    fn trigger(&self, id: u64) {
        let base_path = self.newest.as_ref().map(|(path, _)| path.clone()).unwrap_or_default();
        self.say_all(&Message::Trigger(TriggerCheckpoint { attempt: self.attempt, id, base_path }));
    }

    /// Takes a checkpoint up to its acks; the record is not made.
    async fn acks(&mut self) -> (u64, Vec<Acked>) {
        let id = self.next_id;
        self.next_id += 1;
        self.trigger(id);
        let mut acks = Vec::new();
        for session in &mut self.sessions {
            acks.push(
                session
                    .wait("Acked", |answer| match answer {
                        Answer::Acked(acked) if acked.id == id => Some(acked),
                        Answer::Declined(declined) if declined.id == id => panic!("declined: {declined:?}"),
                        _ => None,
                    })
                    .await,
            );
        }
        (id, acks)
    }

    /// A whole checkpoint: acks, record, commit. Says whether all input had ended.
    async fn checkpoint(&mut self) -> bool {
        let (id, acks) = self.acks().await;
        self.record(id, &acks).await;
        self.commit(id).await;
        acks.iter().all(|acked| acked.finished)
    }

    async fn record(&mut self, id: u64, acks: &[Acked]) {
        let part = |acked: &Acked| PartRef {
            worker: WorkerId(acked.part_path.rsplit('-').next().unwrap().to_string()),
            path: acked.part_path.clone(),
            length: acked.part_length,
            crc32c: acked.part_crc32c,
            inline: (!acked.inline_part.is_empty()).then(|| String::from_utf8(acked.inline_part.to_vec()).unwrap()),
        };
        let record = Record {
            version: RECORD_VERSION,
            id: CheckpointId(id),
            term: Term(self.term),
            number: RecordNumber(id),
            attempt: Attempt(self.attempt),
            job: job_name(),
            is_final: acks.iter().all(|acked| acked.finished),
            parallelism: acks.len() as u32,
            max_parallelism: MAX_PARALLELISM,
            fingerprint: FINGERPRINT.into(),
            parts: acks.iter().map(part).collect(),
            completed_at_ms: 0,
            duration_ms: 0,
            state_bytes: 0,
            uploaded_bytes: 0,
        };
        let path = record.reference().path();
        let bytes = encode(&Slot::Record(record.clone()));
        assert_eq!(self.store.create(&path, bytes.into()).await.unwrap(), Created::New);
        self.newest = Some((path, record));
    }

    async fn commit(&mut self, id: u64) {
        self.say_all(&Message::Commit(Commit { attempt: self.attempt, id }));
        for session in &mut self.sessions {
            session
                .wait("Committed", |answer| match answer {
                    Answer::Committed(committed) if committed.id == id => Some(()),
                    _ => None,
                })
                .await;
        }
    }

    /// Checkpoints until all input has ended and is committed.
    async fn finish(&mut self) {
        while !self.checkpoint().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn job_name() -> JobName {
    JobName { namespace: "default".into(), name: "counting".into() }
}

fn storage(folder: &TempDir) -> StorageSettings {
    StorageSettings { url: format!("file://{}/store", folder.path().display()), endpoint: None, region: None }
}

fn job(rows: i64) -> CountingJob {
    CountingJob { splits: 4, rows, pace: Duration::from_millis(1), ..CountingJob::default() }
}

#[tokio::test]
async fn two_workers_run_a_job_to_its_end_and_commit_it_once() {
    let mut coordinator = TestCoordinator::new(job(2_000));
    let workers = [coordinator.worker(0), coordinator.worker(1)];
    coordinator.deploy(&[&workers[0], &workers[1]]).await;
    coordinator.finish().await;
    coordinator.job.assert_exact();
}

#[tokio::test]
async fn workers_that_find_different_things_to_read_take_what_the_first_has_found() {
    let mut coordinator = TestCoordinator::new(job(2_000));
    let workers = [0, 1, 2].map(|slot| coordinator.worker(slot));
    coordinator.deploy(&workers.each_ref()).await;
    assert_eq!(
        coordinator.job.looked.load(Ordering::Relaxed),
        3,
        "each has looked, and the splits stood in another order"
    );
    assert_eq!(coordinator.store.list(paths::INPUTS).await.unwrap().len(), 1);
    coordinator.finish().await;
    coordinator.job.assert_exact();
}

#[tokio::test]
async fn a_job_goes_on_from_its_record_when_a_worker_is_killed() {
    let mut coordinator = TestCoordinator::new(job(20_000));
    let (survivor, victim) = (coordinator.worker(0), coordinator.worker(1));
    coordinator.deploy(&[&survivor, &victim]).await;
    coordinator.checkpoint().await;
    coordinator.checkpoint().await;
    // Acked by all, and no record: what it cut must not be published, and not be lost either.
    coordinator.acks().await;
    let lost = victim.id.clone();
    victim.kill();
    let failed = coordinator.sessions[0].failed().await;
    assert_eq!((failed.kind.as_str(), failed.operator.as_str()), ("PeerLost", lost.0.as_str()));
    assert!(!failed.fatal);

    let successor = coordinator.worker(1);
    let deployed = coordinator.deploy(&[&survivor, &successor]).await;
    assert!(deployed[0].local_bytes > 0 && deployed[0].downloaded_bytes == 0, "{deployed:?}");
    assert!(deployed[1].local_bytes == 0 && deployed[1].downloaded_bytes > 0, "{deployed:?}");
    coordinator.checkpoint().await;
    coordinator.finish().await;
    coordinator.job.assert_exact();
}

#[tokio::test]
async fn a_controller_that_asks_for_no_version_gets_parts_of_version_1_and_a_newer_one_goes_on_from_them() {
    let mut coordinator = TestCoordinator::new(job(20_000));
    let workers = [coordinator.worker(0), coordinator.worker(1)];
    coordinator.part_format = 0;
    for (format, described) in [(1, false), (RECORD_VERSION, true)] {
        coordinator.deploy(&[&workers[0], &workers[1]]).await;
        let (id, acks) = coordinator.acks().await;
        for ack in &acks {
            assert_eq!(ack.part_format, format);
            let bytes = coordinator.store.get(&ack.part_path).await.unwrap();
            let part: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!((part["version"].as_u64(), part["keepers"].is_array()), (Some(u64::from(format)), described));
            let read: weir_protocol::part::Part = weir_protocol::record::read("part", &bytes).unwrap();
            let count = read.keepers.iter().find(|keeper| keeper.operator == "count");
            assert_eq!(count.map(|keeper| keeper.tables[0].key.clone()), described.then(|| vec!["BIGINT".to_string()]));
        }
        coordinator.record(id, &acks).await;
        coordinator.commit(id).await;
        coordinator.part_format = RECORD_VERSION;
    }
    coordinator.deploy(&[&workers[0], &workers[1]]).await;
    coordinator.finish().await;
    coordinator.job.assert_exact();
}

#[tokio::test]
async fn a_job_goes_on_with_more_workers_and_with_fewer() {
    let mut coordinator = TestCoordinator::new(job(20_000));
    coordinator.backend = "rocksdb";
    let workers = [coordinator.worker(0), coordinator.worker(1), coordinator.worker(2)];
    coordinator.deploy(&[&workers[0], &workers[1]]).await;
    coordinator.checkpoint().await;
    coordinator.deploy(&[&workers[0], &workers[1], &workers[2]]).await;
    coordinator.checkpoint().await;
    coordinator.checkpoint().await;
    coordinator.deploy(&[&workers[0]]).await;
    coordinator.finish().await;
    coordinator.job.assert_exact();
}

#[tokio::test]
async fn a_worker_is_reset_from_the_same_record_twice() {
    let mut coordinator = TestCoordinator::new(job(20_000));
    coordinator.backend = "rocksdb";
    let workers = [coordinator.worker(0), coordinator.worker(1)];
    coordinator.deploy(&[&workers[0], &workers[1]]).await;
    coordinator.checkpoint().await;
    for _ in 0..2 {
        let deployed = coordinator.deploy(&[&workers[0], &workers[1]]).await;
        assert!(
            deployed.iter().all(|deployed| deployed.local_bytes > 0 && deployed.downloaded_bytes == 0),
            "{deployed:?}"
        );
    }
    coordinator.finish().await;
    coordinator.job.assert_exact();
}

/// All files below a folder.
fn files_below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

#[tokio::test]
async fn a_survivor_whose_local_files_have_rotted_downloads_and_the_job_goes_on() {
    let mut coordinator = TestCoordinator::new(job(20_000));
    coordinator.backend = "rocksdb";
    let (survivor, victim) = (coordinator.worker(0), coordinator.worker(1));
    coordinator.deploy(&[&survivor, &victim]).await;
    coordinator.checkpoint().await;
    coordinator.checkpoint().await;
    victim.kill();
    coordinator.sessions[0].failed().await;
    // One byte of each sorted file that the survivor has kept. Storage is whole.
    let mut rotten = std::collections::BTreeSet::new();
    for path in files_below(&coordinator.folder.path().join("local").join(&survivor.id.0)) {
        let place = path.display().to_string();
        let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
        if place.contains("/snapshots/")
            && std::path::Path::new(&place).extension().is_some_and(|extension| extension == "sst")
            && rotten.insert(inode)
        {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[10] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
    assert!(!rotten.is_empty());
    let successor = coordinator.worker(1);
    coordinator.deploy(&[&survivor, &successor]).await;
    coordinator.finish().await;
    coordinator.job.assert_exact();
}

#[tokio::test]
async fn checkpoints_that_fail_for_an_hour_leave_disk_and_storage_bounded() {
    const AN_HOUR_OF_TEN_SECONDS: usize = 360;
    // What one checkpoint needs: a few objects a subtask, and the parts of the record and of the newest.
    const OBJECTS: usize = 24;
    let mut coordinator = TestCoordinator::new(job(1_000_000));
    coordinator.backend = "rocksdb";
    let worker = coordinator.worker(0);
    coordinator.deploy(&[&worker]).await;
    coordinator.checkpoint().await;
    let local = coordinator.folder.path().join("local");
    for aborted in 1..=AN_HOUR_OF_TEN_SECONDS {
        coordinator.acks().await;
        if aborted % 60 == 0 {
            // Deleting goes on beside everything else.
            let bounded = async {
                loop {
                    let objects = coordinator.store.list("").await.unwrap().len();
                    if objects <= OBJECTS {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let bounded = tokio::time::timeout(PATIENCE, bounded).await;
            let objects = coordinator.store.list("").await.unwrap();
            assert!(bounded.is_ok(), "after {aborted} aborted checkpoints: {} objects", objects.len());
            let kept: std::collections::BTreeSet<_> = files_below(&local)
                .iter()
                .filter(|path| path.display().to_string().contains("/snapshots/"))
                .map(|path| path.parent().unwrap().to_path_buf())
                .collect();
            assert!(kept.len() <= 2 * 3, "after {aborted} aborted checkpoints: {kept:?}");
        }
    }
    // What the next record names is all there.
    coordinator.checkpoint().await;
    worker.kill();
    let successor = coordinator.worker(0);
    coordinator.deploy(&[&successor]).await;
    let deployed = coordinator.checkpoint().await;
    assert!(!deployed, "the input goes on");
}

#[tokio::test]
async fn a_commit_that_was_recorded_and_never_told_is_made_after_the_restore() {
    let mut coordinator = TestCoordinator::new(job(5_000));
    let (survivor, victim) = (coordinator.worker(0), coordinator.worker(1));
    coordinator.deploy(&[&survivor, &victim]).await;
    let (id, acks) = coordinator.acks().await;
    coordinator.record(id, &acks).await;
    victim.kill();
    coordinator.sessions[0].failed().await;
    let successor = coordinator.worker(1);
    coordinator.deploy(&[&survivor, &successor]).await;
    coordinator.finish().await;
    coordinator.job.assert_exact();
}

#[tokio::test]
async fn output_that_is_lost_ends_the_attempt_and_goes_on_only_where_that_is_accepted() {
    let mut coordinator = TestCoordinator::new(job(5_000));
    let worker = coordinator.worker(0);
    coordinator.deploy(&[&worker]).await;
    let id = coordinator.promise().await;
    coordinator.job.output.unfinished.lock().clear();
    // The second time after a restore from the record that has promised it.
    for _ in 0..2 {
        coordinator.say_all(&Message::Commit(Commit { attempt: coordinator.attempt, id }));
        let failed = coordinator.sessions[0].failed().await;
        assert_eq!((failed.kind.as_str(), failed.operator.as_str(), failed.fatal), ("OutputLost", "sink", true));
        assert!(failed.message.contains(&format!("output of checkpoint {id} ")), "{failed:?}");
        assert!(failed.message.contains("is gone"), "{failed:?}");
        let order = {
            coordinator.attempt += 1;
            coordinator.order(&[&worker])
        };
        coordinator.sessions[0].attempt = coordinator.attempt;
        coordinator.say_all(&Message::Deploy(order));
    }
    coordinator.accepts_lost = true;
    coordinator.deploy(&[&worker]).await;
    coordinator.finish().await;
}

#[tokio::test]
async fn a_panic_in_a_sinks_commit_fails_the_attempt_and_the_next_one_commits() {
    let mut coordinator = TestCoordinator::new(job(5_000));
    let worker = coordinator.worker(0);
    coordinator.deploy(&[&worker]).await;
    let id = coordinator.promise().await;
    coordinator.job.output.panics.store(true, Ordering::Relaxed);
    coordinator.say_all(&Message::Commit(Commit { attempt: coordinator.attempt, id }));
    let failed = coordinator.sessions[0].failed().await;
    assert_eq!((failed.kind.as_str(), failed.operator.as_str(), failed.fatal), ("Operator", "sink", false));
    assert!(failed.message.contains("panicked: the cat sat on it"), "{failed:?}");
    coordinator.job.output.panics.store(false, Ordering::Relaxed);
    coordinator.deploy(&[&worker]).await;
    coordinator.finish().await;
    coordinator.job.assert_exact();
}

#[tokio::test]
async fn what_a_record_has_promised_is_published_by_an_attempt_that_starts_from_nothing() {
    for script in ["counting", "another sink"] {
        let mut coordinator = TestCoordinator::new(job(5_000));
        let workers = [coordinator.worker(0), coordinator.worker(1)];
        coordinator.deploy(&[&workers[0]]).await;
        coordinator.promise().await;
        let promised: Vec<String> = coordinator.job.output.unfinished.lock().keys().cloned().collect();
        (coordinator.left, coordinator.script) = (coordinator.newest.take(), script);
        // Both say that all is committed up to there before there is any record of the new attempt.
        coordinator.deploy(&[&workers[0], &workers[1]]).await;
        let published = coordinator.job.output.published.lock().clone();
        assert!(promised.iter().all(|name| published.contains_key(name)), "{script}: {promised:?}, {published:?}");
        coordinator.left = None;
        coordinator.finish().await;
    }
}

#[tokio::test]
async fn what_waits_to_be_published_is_told_and_sources_that_are_held_read_nothing_and_answer_barriers() {
    let mut coordinator = TestCoordinator::new(job(20_000));
    let worker = coordinator.worker(0);
    coordinator.deploy(&[&worker]).await;
    coordinator.job.output.read_only.store(true, Ordering::Relaxed);
    let id = coordinator.promise().await;
    coordinator.say_all(&Message::Commit(Commit { attempt: 1, id }));
    let waits = |answer| match answer {
        Answer::Stats(stats) if stats.pending_commits > 0 && !stats.commit_failure.is_empty() => Some(()),
        _ => None,
    };
    coordinator.sessions[0].wait("what waits", waits).await;
    coordinator.say_all(&Message::Hold(Hold { attempt: 1, hold: true }));
    // A checkpoint goes through all queues: what was read before it is counted after it.
    coordinator.promise().await;
    let rows = |answer| match answer {
        Answer::Stats(stats) => Some(stats.source_rows),
        _ => None,
    };
    // One that was under way may be older than the checkpoint.
    coordinator.sessions[0].wait("Stats", rows).await;
    let before = coordinator.sessions[0].wait("Stats", rows).await;
    for _ in 0..3 {
        assert_eq!(coordinator.sessions[0].wait("Stats", rows).await, before, "a source that is held has read");
    }
    coordinator.job.output.read_only.store(false, Ordering::Relaxed);
    coordinator.say_all(&Message::Hold(Hold { attempt: 1, hold: false }));
    coordinator.finish().await;
    coordinator.job.assert_exact();
}

#[tokio::test]
async fn a_checkpoint_that_came_to_nothing_is_published_with_the_next() {
    let mut coordinator = TestCoordinator::new(job(5_000));
    let workers = [coordinator.worker(0), coordinator.worker(1)];
    coordinator.deploy(&[&workers[0], &workers[1]]).await;
    coordinator.acks().await;
    coordinator.finish().await;
    coordinator.job.assert_exact();
}

#[tokio::test]
async fn state_is_stored_while_what_the_sink_writes_to_is_away() {
    let mut coordinator = TestCoordinator::new(job(20_000));
    let worker = coordinator.worker(0);
    coordinator.deploy(&[&worker]).await;
    // Until there is state.
    while coordinator.store.list(paths::STATE).await.unwrap().is_empty() {
        coordinator.checkpoint().await;
    }
    coordinator.job.output.away.store(true, Ordering::Relaxed);
    let first = coordinator.next_id;
    for id in [first, first + 1] {
        let before = coordinator.store.list(paths::STATE).await.unwrap();
        coordinator.trigger(id);
        let stored = async {
            while coordinator.store.list(paths::STATE).await.unwrap().iter().all(|object| before.contains(object)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, stored)
            .await
            .expect("the state of a checkpoint waits for the sink's transaction");
    }
    coordinator.next_id = first + 2;
    // What is cut and cannot be written does not grow with each checkpoint.
    let begin = async |coordinator: &mut TestCoordinator| {
        let id = coordinator.next_id;
        coordinator.next_id += 1;
        coordinator.say_all(&Message::Trigger(TriggerCheckpoint { attempt: 1, id, base_path: String::new() }));
        let answered = coordinator.sessions[0].wait("Acked or Declined", |answer| match answer {
            Answer::Acked(acked) if acked.id == id => Some(Ok(())),
            Answer::Declined(declined) if declined.id == id => Some(Err(declined.reason)),
            _ => None,
        });
        answered.await
    };
    let refusal = begin(&mut coordinator).await.unwrap_err();
    assert!(refusal.contains(&format!("checkpoint {first} ")), "{refusal}");
    coordinator.job.output.away.store(false, Ordering::Relaxed);
    while begin(&mut coordinator).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    coordinator.finish().await;
    coordinator.job.assert_exact();
}

#[tokio::test]
async fn parts_of_an_inline_backend_stand_in_the_record() {
    let mut coordinator = TestCoordinator::new(job(5_000));
    coordinator.backend = "jobmanager";
    let (survivor, victim) = (coordinator.worker(0), coordinator.worker(1));
    coordinator.deploy(&[&survivor, &victim]).await;
    coordinator.checkpoint().await;
    assert!(coordinator.newest.as_ref().unwrap().1.parts.iter().all(|part| part.inline.is_some()));
    assert_eq!(coordinator.store.list("parts").await.unwrap(), []);
    victim.kill();
    coordinator.sessions[0].failed().await;
    let successor = coordinator.worker(1);
    coordinator.deploy(&[&survivor, &successor]).await;
    coordinator.finish().await;
    coordinator.job.assert_exact();
}

#[tokio::test]
async fn a_lower_term_is_refused_and_a_higher_one_ends_the_session_before_it() {
    let coordinator = TestCoordinator::new(job(100));
    let worker = coordinator.worker(0);
    let mut first = TestSession::open(&worker, 5, 0).await;
    let second = TestSession::open(&worker, 6, 0).await;
    assert_eq!(second.welcome.as_ref().map(|welcome| welcome.attempt), Some(0));
    let refused = |answer| match answer {
        Answer::Refused(refused) => Some(refused.highest_term),
        _ => None,
    };
    assert_eq!(first.wait("Refused", refused).await, 6);
    assert!(first.answers.message().await.unwrap().is_none());
    let mut late = TestSession::connect(&worker, 5).await;
    late.say(Message::Ping(Ping { sequence: 1 }));
    assert_eq!(late.wait("Refused", refused).await, 6);
}

#[tokio::test]
async fn output_goes_on_when_the_session_breaks_during_a_checkpoint() {
    let mut coordinator = TestCoordinator::new(job(20_000));
    let workers = [coordinator.worker(0), coordinator.worker(1)];
    coordinator.deploy(&[&workers[0], &workers[1]]).await;
    for session in &mut coordinator.sessions {
        let reads = |answer| matches!(answer, Answer::Stats(stats) if stats.source_rows > 0).then_some(());
        session.wait("rows", reads).await;
    }
    // Only one of two is told: the other's barrier never comes, and what has come is held back.
    let trigger = TriggerCheckpoint { attempt: 1, id: 1, base_path: String::new() };
    let first = &mut coordinator.sessions[0];
    first.say(Message::Trigger(trigger));
    first.say(Message::Ping(Ping { sequence: 1 }));
    first.wait("Pong", |answer| matches!(answer, Answer::Pong(_)).then_some(())).await;
    coordinator.next_id = 2;
    coordinator.sessions.clear();
    coordinator.term += 1;
    for worker in &workers {
        let session = TestSession::open(worker, coordinator.term, 1).await;
        assert_eq!(session.welcome.as_ref().map(|welcome| welcome.attempt), Some(1));
        coordinator.sessions.push(session);
    }
    for session in &mut coordinator.sessions {
        let finished = |answer| matches!(answer, Answer::Finished(_)).then_some(());
        session.wait("Finished", finished).await;
    }
    coordinator.finish().await;
    coordinator.job.assert_exact();
}

#[tokio::test]
async fn a_part_with_a_flipped_byte_is_not_restored_and_is_named() {
    let mut coordinator = TestCoordinator::new(job(50_000));
    let workers = [coordinator.worker(0), coordinator.worker(1)];
    coordinator.deploy(&[&workers[0], &workers[1]]).await;
    coordinator.checkpoint().await;
    let part = coordinator.newest.as_ref().unwrap().1.parts[1].path.clone();
    let file = coordinator.folder.path().join("store/default/counting").join(&part);
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(deploy_fails(&mut coordinator, &workers, |_| ()).await, (FailureKind::Corrupt, part));
}

#[tokio::test]
async fn a_plan_that_does_not_fit_the_record_or_the_fingerprint_is_refused() {
    let mut coordinator = TestCoordinator::new(job(50_000));
    let workers = [coordinator.worker(0), coordinator.worker(1)];
    coordinator.deploy(&[&workers[0], &workers[1]]).await;
    coordinator.checkpoint().await;
    let script = |script: &'static str| {
        move |deploy: &mut Deploy| {
            let request = PlanRequest { script: script.into(), base_dir: "/".into(), max_parallelism: MAX_PARALLELISM };
            deploy.plan_request = serde_json::to_vec(&request).unwrap().into();
        }
    };
    let (kind, named) = deploy_fails(&mut coordinator, &workers, script("another operator")).await;
    assert_eq!((kind, named.as_str()), (FailureKind::StateMismatch, "count"));
    let (kind, named) = deploy_fails(&mut coordinator, &workers, script("nonsense")).await;
    assert_eq!((kind, named.as_str()), (FailureKind::Plan, "line 1, column 1: nonsense"));
    let other = |deploy: &mut Deploy| deploy.fingerprint = "other".into();
    assert_eq!(deploy_fails(&mut coordinator, &workers, other).await.0, FailureKind::Plan);
}

/// Deploys the next attempt with a change, and gives kind and name of the failure that every worker tells.
async fn deploy_fails(
    coordinator: &mut TestCoordinator,
    workers: &[TestWorker; 2],
    change: impl Fn(&mut Deploy),
) -> (FailureKind, String) {
    coordinator.attempt += 1;
    let mut order = coordinator.order(&[&workers[0], &workers[1]]);
    change(&mut order);
    let order_attempt = order.attempt;
    coordinator.say_all(&Message::Deploy(order));
    let mut outcome = None;
    for session in &mut coordinator.sessions {
        session.attempt = order_attempt;
        let failed = session.failed().await;
        let kind: FailureKind = failed.kind.parse().unwrap();
        assert_eq!((failed.attempt, failed.fatal), (coordinator.attempt, true));
        let named = match kind {
            FailureKind::Corrupt => failed.message.split(' ').next().unwrap().to_string(),
            FailureKind::StateMismatch => failed.operator,
            _ => failed.message,
        };
        assert!(outcome.is_none_or(|outcome| outcome == (kind, named.clone())));
        outcome = Some((kind, named));
    }
    outcome.unwrap()
}

#[tokio::test]
async fn a_worker_plans_for_whoever_asks_without_a_session() {
    let coordinator = TestCoordinator::new(job(1));
    let worker = coordinator.worker(0);
    let mut client = WorkerClient::connect(worker.address.clone()).await.unwrap();
    let mut ask = async |script: &str| {
        let request = PlanRequest { script: script.into(), base_dir: "/".into(), max_parallelism: MAX_PARALLELISM };
        let call = PlanCall { plan_request: serde_json::to_vec(&request).unwrap().into(), ..PlanCall::default() };
        let answer = client.plan(call).await.unwrap().into_inner().answer;
        serde_json::from_slice::<serde_json::Value>(&answer).unwrap()
    };
    assert_eq!(ask("a script").await["fingerprint"], FINGERPRINT);
    assert_eq!(ask("nonsense").await["errors"][0]["message"], "line 1, column 1: nonsense");
}

#[tokio::test]
async fn a_planner_that_crashes_or_panics_is_told_and_the_attempt_runs_on() {
    let mut coordinator = TestCoordinator::new(job(50_000));
    let workers = [coordinator.worker(0), coordinator.worker(1)];
    coordinator.deploy(&[&workers[0], &workers[1]]).await;
    let mut client = WorkerClient::connect(workers[0].address.clone()).await.unwrap();
    for (script, cause) in [("crash", "planning ended with signal 6"), ("panic", "the planner failed")] {
        let request = PlanRequest { script: script.into(), base_dir: "/".into(), max_parallelism: MAX_PARALLELISM };
        let call = PlanCall { plan_request: serde_json::to_vec(&request).unwrap().into(), ..PlanCall::default() };
        let status = client.plan(call).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Internal, "what a controller counts");
        assert!(status.message().contains(cause), "{status}");
    }
    coordinator.checkpoint().await;
}

#[tokio::test]
async fn a_plan_is_held_against_a_record_and_nothing_is_touched() {
    let mut coordinator = TestCoordinator::new(job(50_000));
    let workers = [coordinator.worker(0), coordinator.worker(1)];
    coordinator.deploy(&[&workers[0], &workers[1]]).await;
    coordinator.checkpoint().await;
    // With the record that a Deploy would carry now.
    let Deploy { restore_path, restore_record, settings, .. } = coordinator.order(&[&workers[0], &workers[1]]);
    let mut client = WorkerClient::connect(workers[0].address.clone()).await.unwrap();
    let mut ask = async |script: &str, path: &str| {
        let request = PlanRequest { script: script.into(), base_dir: "/".into(), max_parallelism: MAX_PARALLELISM };
        let call = PlanCall {
            plan_request: serde_json::to_vec(&request).unwrap().into(),
            restore_path: path.to_string(),
            restore_record: restore_record.clone(),
            settings: settings.clone(),
            ..PlanCall::default()
        };
        client.plan(call).await.unwrap().into_inner().mismatch
    };
    assert_eq!(ask("counting", &restore_path).await, "");
    let mismatch = ask("another operator", &restore_path).await;
    assert!(mismatch.contains("`count` has state in the checkpoint and is not in the plan any more"), "{mismatch}");
    assert_eq!(ask("another operator", "").await, "", "without a record there is nothing to fit");
    assert_eq!(ask("nonsense", &restore_path).await, "", "that is told in the answer");
    coordinator.checkpoint().await;
}

#[tokio::test]
async fn a_worker_says_what_its_subtasks_have_counted() {
    let mut coordinator = TestCoordinator::new(job(2_000));
    let workers = [coordinator.worker(0), coordinator.worker(1)];
    assert!(workers[0].metrics.text().contains("weir_worker_attempt{job=\"\"} 0"), "{}", workers[0].metrics.text());
    coordinator.deploy(&[&workers[0], &workers[1]]).await;
    coordinator.finish().await;
    let texts = workers.each_ref().map(|worker| worker.metrics.text());
    let sum = |name: &str, operator: &str| -> u64 {
        let begins = format!("weir_worker_{name}{{job=\"counting\",operator=\"{operator}\",subtask=");
        let lines = texts.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with(&begins));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
    };
    let rows = u64::from(coordinator.job.splits) * coordinator.job.rows as u64;
    for (name, operator) in [("rows_out_total", "source"), ("rows_in_total", "count"), ("rows_in_total", "sink")] {
        assert_eq!(sum(name, operator), rows, "{name} of {operator} in:\n{}", texts[0]);
    }
    for line in [
        "weir_worker_attempt{job=\"counting\"} 1",
        "weir_worker_checkpoints_total{job=\"counting\",outcome=\"acked\"} ",
        "weir_worker_checkpoint_seconds_count{job=\"counting\",stage=\"reading\",phase=\"freeze\"} ",
        "weir_worker_checkpoint_seconds_count{job=\"counting\",stage=\"counting\",phase=\"upload\"} ",
        "weir_worker_pending_commits{job=\"counting\"} 0",
        "weir_worker_failed_commits_total{job=\"counting\"} 0",
        "weir_worker_memory_bytes{job=\"counting\",of=\"budget\"} 268435456",
    ] {
        assert!(texts[0].lines().any(|found| found.starts_with(line)), "{line} is not in:\n{}", texts[0]);
    }
    let mut series: Vec<_> = texts[0].lines().filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name).collect();
    series.retain(|name| !name.starts_with('#'));
    let all = series.len();
    series.sort_unstable();
    series.dedup();
    assert_eq!(series.len(), all, "no series comes twice");
}

#[tokio::test]
async fn a_worker_that_is_told_to_go_works_on_until_its_coordinator_lets_it() {
    let mut coordinator = TestCoordinator::new(job(50_000));
    let workers = [coordinator.worker(0), coordinator.worker(1)];
    coordinator.deploy(&[&workers[0], &workers[1]]).await;
    assert!(workers[0].metrics.is_ready());
    workers[0].leave.cancel();
    coordinator.sessions[0].wait("Leaving", |answer| matches!(answer, Answer::Leaving(_)).then_some(())).await;
    // There is time for one more.
    coordinator.checkpoint().await;
    assert!(!workers[0].metrics.is_ready() && workers[0].metrics.is_alive());
    assert!(!workers[0].served.is_finished());
    coordinator.say_all(&Message::Stop(weir_protocol::rpc::Stop {}));
    for mut worker in workers {
        tokio::time::timeout(PATIENCE, &mut worker.served).await.unwrap().unwrap().unwrap();
    }

    let mut idle = coordinator.worker(2);
    idle.leave.cancel();
    tokio::time::timeout(PATIENCE, &mut idle.served).await.unwrap().unwrap().unwrap();
}

/// Whether a session, a plan and a stream of rows are answered by a worker, if only by a no.
async fn answered(address: String) -> [bool; 3] {
    let Ok(mut client) = WorkerClient::connect(address).await else { return [false; 3] };
    let by_it = |failed: Option<Status>| failed.is_none_or(|status| std::error::Error::source(&status).is_none());
    let session = client.session(futures::stream::empty()).await.err();
    let plan = client.plan(PlanCall::default()).await.err();
    let exchange = client.exchange(futures::stream::empty()).await.err();
    [session, plan, exchange].map(by_it)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_on_this_machine_can_tell_a_worker_nothing_and_hear_nothing_of_it() {
    for stranger in [false, true] {
        let folder = TempDir::new().unwrap();
        let Listener::Unix { listener, owner } = Listener::unix(&folder.path().join("socket")).unwrap() else {
            panic!()
        };
        // Whoever runs this is nobody else; so the worker is made somebody else's.
        let listener = Listener::Unix { listener, owner: owner + u32::from(stranger) };
        let address = listener.address().unwrap();
        let (local, planner) = (folder.path().join("local"), Arc::new(job(1)));
        let worker = WorkerServer::new(WorkerOptions::new(local, 256 << 20, BackendRegistry::with_builtin(), planner));
        let ended = CancellationToken::new();
        let serving = tokio::spawn(worker.serve(listener, ended.clone()));
        let answered = tokio::time::timeout(PATIENCE, answered(address)).await.expect("nobody is kept waiting");
        assert_eq!(answered, [!stranger; 3]);
        ended.cancel();
        serving.await.unwrap().unwrap();
    }
}
