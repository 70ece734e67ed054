//! The control loop of a worker: all that is said, reported and done goes through here, one event after the other.
//!
//! The loop never waits for anything but the next event: what takes time runs beside it and comes back as an event. So pings
//! are answered while state is restored. Of all sessions the one with the newest term counts, and lower terms are refused.

pub mod server;
mod sessions;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use weir_protocol::{
    Attempt, CheckpointId,
    record::{Slot, read},
    rpc::{
        self, Acked, Committed, Declined, Finished, Leaving, Pong, Stats, from_worker::Message as Answer,
        to_worker::Message,
    },
};
use weir_runtime::{clock, tasks};
use weir_storage::{Created, JobStore};

use crate::{
    api::{
        failure::{Failure, chain},
        graph::StageId,
    },
    checkpoint::{
        FrozenSubtask, Progressed, ReadyPart, Triggered,
        commits::{CommitEnd, CommitJob},
        persist::Persisted,
    },
    deploy::{self, Deployment, Host, Previous, Standing, remove_outdated},
    event::{Event, Outbox},
    seam::Report,
};

/// How often a coordinator is told what has been counted.
const STATS_INTERVAL: Duration = Duration::from_millis(250);

/// A process that has been told to go, as a pod is whose node is drained, goes on so long for its coordinator to take a
/// checkpoint and hand its work over. Five seconds less than what the platform grants it.
pub const LEAVING: Duration = Duration::from_secs(25);

/// A trigger follows a peer's barrier of the same checkpoint at once, or it never comes: the coordinator ended in between. The
/// peer's channels are held meanwhile.
const ORPHANED: Duration = Duration::from_secs(2);

/// What tells the outside world of a record may take so long before the commit is acknowledged, which may end the job.
const TELLING: Duration = Duration::from_secs(2);

struct Session {
    id: u64,
    /// `None` until it has said hello.
    term: Option<u64>,
    outbox: Outbox,
}

struct Deploying {
    attempt: Attempt,
    task: JoinHandle<Result<Deployment, Failure>>,
    superseded: CancellationToken,
    /// What was said of the attempt before it stood.
    run: bool,
    commit: Option<CheckpointId>,
}

struct Standby {
    deployment: Deployment,
    stopped: CancellationToken,
    ran_at: Option<Instant>,
    first_output: Option<Duration>,
    finished: BTreeSet<(StageId, u32)>,
    failed: bool,
    /// The highest checkpoint that was triggered here, and a peer's barrier of a higher one with the time it was noticed.
    triggered: CheckpointId,
    early: Option<(CheckpointId, Instant)>,
}

pub(crate) struct Control {
    host: Arc<Host>,
    highest_term: u64,
    highest_checkpoint: u64,
    job: Option<(String, String)>,
    sessions: Vec<Session>,
    deploying: Option<Deploying>,
    standing: Option<Standby>,
    /// The newest attempt that this worker was told of, and how it failed, if it did. Told again in every new session.
    attempt: Attempt,
    failure: Option<Failure>,
    ended: bool,
    /// When the process ends at the latest, once it has been told to go.
    leaves_at: Option<Instant>,
}

impl Control {
    pub fn new(host: Arc<Host>) -> Self {
        Self {
            host,
            highest_term: 0,
            highest_checkpoint: 0,
            job: None,
            sessions: Vec::new(),
            deploying: None,
            standing: None,
            attempt: Attempt(0),
            failure: None,
            ended: false,
            leaves_at: None,
        }
    }

    /// Runs until a coordinator says Stop or `shutdown` is cancelled; after `leave`, not for long and not for nothing.
    pub async fn run(
        mut self,
        mut inbox: mpsc::UnboundedReceiver<Event>,
        shutdown: CancellationToken,
        leave: CancellationToken,
    ) {
        let mut stats = tokio::time::interval(STATS_INTERVAL);
        stats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.ended {
            tokio::select! {
                () = shutdown.cancelled() => self.ended = true,
                () = leave.cancelled(), if self.leaves_at.is_none() => self.begin_leaving(),
                event = inbox.recv() => match event {
                    Some(event) => self.on(event).await,
                    None => self.ended = true,
                },
                _ = stats.tick() => {
                    self.host.metrics.turned();
                    self.ended = self.ended || self.leaves_at.is_some_and(|at| at <= clock::now());
                    self.tell_stats();
                    if self.current().is_none() || self.is_orphaned() {
                        self.cancel_orphans();
                    }
                }
            }
        }
        let previous = self.previous();
        drop(deploy::stop_previous(&self.host, previous).await);
        let root = self.host.local.lock().root().to_path_buf();
        // Nobody finds this worker's folder again: its id ends with it.
        drop(tokio::task::spawn_blocking(move || crate::restore::local::remove_all(vec![root])).await);
    }

    /// With nothing deployed there is nothing to hand over.
    fn begin_leaving(&mut self) {
        self.host.metrics.leaving();
        self.leaves_at = Some(clock::now() + LEAVING);
        self.ended = self.standing.is_none() && self.deploying.is_none();
        self.tell(Answer::Leaving(Leaving {}));
        tracing::info!(attempt = %self.attempt, "this worker has been told to go");
    }

    async fn on(&mut self, event: Event) {
        match event {
            Event::SessionOpened { session, outbox } => self.sessions.push(Session { id: session, term: None, outbox }),
            Event::SessionEnded { session, reason } => self.on_session_ended(session, &reason),
            Event::Said { session, message } => self.on_said(session, *message),
            Event::Deployed(attempt) => self.on_deployed(attempt).await,
            Event::Report(attempt, report) => self.on_report(attempt, report),
            Event::PeerLost(attempt, lost) => self.fail(attempt, lost.into()),
            Event::BaseRead { attempt, id, base } => self.on_base_read(attempt, id, base),
            Event::Persisted(attempt, persisted) => self.on_persisted(attempt, *persisted),
            Event::PartStored { ack, stored } => self.on_part_stored(*ack, stored),
            Event::Committed { attempt, id } => self.on_committed(attempt, id),
            Event::CommitFailed(attempt, failure) => self.fail(attempt, failure),
        }
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Hello(_) => {}
            Message::Deploy(deploy) => self.on_deploy(deploy),
            Message::Run(run) => self.on_run(Attempt(run.attempt)),
            Message::Trigger(trigger) => self.on_trigger(&trigger),
            Message::Cancel(cancel) => self.on_cancel(Attempt(cancel.attempt), CheckpointId(cancel.id)),
            Message::Commit(commit) => self.on_commit(Attempt(commit.attempt), CheckpointId(commit.id)),
            Message::Ping(ping) => self.tell(Answer::Pong(Pong { sequence: ping.sequence })),
            Message::Stop(_) => self.ended = true,
            Message::Configure(configure) => {
                if let Some(standing) = self.standing(Attempt(configure.attempt)) {
                    standing.deployment.running.set_alignment_timeout(deploy::timeout(configure.alignment_timeout_ms));
                }
            }
            Message::Hold(hold) => {
                if let Some(standing) = self.standing(Attempt(hold.attempt)) {
                    standing.deployment.running.hold(hold.hold);
                }
            }
        }
    }

    fn standing(&mut self, attempt: Attempt) -> Option<&mut Standby> {
        self.standing.as_mut().filter(|standing| standing.deployment.attempt == attempt)
    }

    // Deployment.

    /// Takes what stands or is being deployed, to be stopped.
    fn previous(&mut self) -> Previous {
        self.host.metrics.stopped();
        let standing = self.standing.take().map(|standing| {
            standing.stopped.cancel();
            Standing::from(standing.deployment)
        });
        let deploying = self.deploying.take().map(|deploying| {
            deploying.superseded.cancel();
            deploying.task
        });
        Previous { standing, deploying }
    }

    fn on_deploy(&mut self, deploy: rpc::Deploy) {
        let attempt = Attempt(deploy.attempt);
        if attempt <= self.attempt {
            tracing::warn!(%attempt, newest = %self.attempt, "an attempt that is over is not deployed again");
            return;
        }
        tracing::info!(%attempt, restore = deploy.restore_path, "deploying");
        self.attempt = attempt;
        self.failure = None;
        // Older attempts' streams are refused from here on.
        let previous = self.previous();
        let superseded = CancellationToken::new();
        let deployment = deploy::deploy(Arc::clone(&self.host), deploy, previous, superseded.clone());
        let events = self.host.events.clone();
        let task = tasks::spawn(async move {
            let outcome = deployment.await;
            drop(events.send(Event::Deployed(attempt)));
            outcome
        });
        self.deploying = Some(Deploying { attempt, task, superseded, run: false, commit: None });
    }

    async fn on_deployed(&mut self, attempt: Attempt) {
        let Some(deploying) = self.deploying.take_if(|deploying| deploying.attempt == attempt) else { return };
        // The task has nothing left to do but to return.
        let outcome = deploying.task.await.unwrap_or_else(|error| {
            Err(Failure::new(weir_protocol::settings::FailureKind::Operator, format!("the deployment failed: {error}")))
        });
        let deployment = match outcome {
            Ok(deployment) => deployment,
            Err(failure) => return self.fail(attempt, failure),
        };
        if let Some(record) = &deployment.restored {
            self.highest_checkpoint = self.highest_checkpoint.max(record.id.0);
        }
        tracing::info!(%attempt, restore_ms = deployment.answer.restore_ms, stop_ms = deployment.answer.stop_ms, "deployed");
        self.host.metrics.deployed(attempt, &deployment.running, deployment.commits.stats());
        let answer = deployment.answer.clone();
        self.standing = Some(Standby {
            deployment,
            stopped: CancellationToken::new(),
            ran_at: None,
            first_output: None,
            finished: BTreeSet::new(),
            failed: self.failure.is_some(),
            triggered: CheckpointId(0),
            early: None,
        });
        self.tell(Answer::Deployed(answer));
        if deploying.run {
            self.on_run(attempt);
        }
        if let Some(id) = deploying.commit {
            self.on_commit(attempt, id);
        }
    }

    fn on_run(&mut self, attempt: Attempt) {
        if let Some(deploying) = self.deploying.as_mut().filter(|deploying| deploying.attempt == attempt) {
            deploying.run = true;
        }
        if let Some(standing) = self.standing(attempt)
            && standing.ran_at.is_none()
        {
            standing.ran_at = Some(clock::now());
            standing.deployment.running.run();
        }
    }

    /// An attempt has failed. The first cause counts: what follows it is mostly its own consequence.
    fn fail(&mut self, attempt: Attempt, failure: Failure) {
        if attempt != self.attempt || self.failure.is_some() {
            tracing::debug!(%attempt, %failure, "a later failure");
            return;
        }
        tracing::warn!(%attempt, kind = failure.kind.as_str(), operator = failure.operator, %failure, "the attempt failed");
        if let Some(standing) = self.standing(attempt) {
            standing.failed = true;
        }
        self.tell(Answer::TaskFailed(failure.to_message(attempt)));
        self.failure = Some(failure);
    }

    fn on_report(&mut self, attempt: Attempt, report: Report) {
        match report {
            Report::Failed { subtask, error, .. } => {
                if !error.is_stopped() {
                    self.fail(attempt, Failure::of_subtask(subtask, &error));
                }
            }
            Report::Frozen { stage, subtask, id, snapshot, state } => {
                self.highest_checkpoint = self.highest_checkpoint.max(id.0);
                if let Some(standing) = self.standing(attempt) {
                    standing.deployment.checkpoints.frozen(FrozenSubtask { stage, subtask, id, snapshot, state });
                }
            }
            Report::Declined { id, stage, subtask, reason } => {
                self.decline(attempt, id, format!("subtask {subtask} of stage {}: {reason}", stage.0));
            }
            Report::Finished { stage, subtask } => {
                let Some(standing) = self.standing(attempt) else { return };
                standing.finished.insert((stage, subtask));
                self.tell_if_finished();
            }
            Report::FirstOutput { at } => {
                if let Some(standing) = self.standing(attempt)
                    && let Some(ran_at) = standing.ran_at
                {
                    standing.first_output = Some(at.saturating_duration_since(ran_at));
                }
            }
        }
    }

    fn tell_if_finished(&self) {
        if let Some(standing) = &self.standing
            && standing.finished.len() == standing.deployment.subtasks
        {
            // The last counts come before the end that they belong to.
            self.tell_stats();
            self.tell(Answer::Finished(Finished { attempt: standing.deployment.attempt.0 }));
        }
    }

    fn tell_stats(&self) {
        let Some(standing) = &self.standing else { return };
        let counted = standing.deployment.running.stats();
        let commits = standing.deployment.commits.stats();
        self.tell(Answer::Stats(Stats {
            attempt: standing.deployment.attempt.0,
            source_rows: counted.source_rows,
            sink_rows: counted.sink_rows,
            late_rows: counted.late_rows,
            skipped_rows: counted.skipped_rows,
            watermark_ms: counted.watermark_ms,
            state_bytes: counted.state_bytes,
            // 0 means that none has come yet.
            first_output_us: standing.first_output.map_or(0, |time| time.as_micros().max(1) as u64),
            finished_subtasks: counted.finished_subtasks,
            subtasks: counted.subtasks,
            busy_us: counted.busy_us,
            idle_us: counted.idle_us,
            backpressured_us: counted.backpressured_us,
            failed_commits: commits.failed(),
            commit_failure: commits.failing().unwrap_or_default(),
            pending_commits: commits.pending() as u64,
        }));
    }

    // Checkpoints.

    fn on_trigger(&mut self, trigger: &rpc::TriggerCheckpoint) {
        let (attempt, id) = (Attempt(trigger.attempt), CheckpointId(trigger.id));
        self.highest_checkpoint = self.highest_checkpoint.max(id.0);
        let Some(standing) = self.standing(attempt).filter(|standing| standing.ran_at.is_some() && !standing.failed)
        else {
            let declined =
                Declined { attempt: attempt.0, id: id.0, reason: format!("attempt {attempt} does not run here") };
            return self.tell(Answer::Declined(declined));
        };
        standing.triggered = standing.triggered.max(id);
        match standing.deployment.checkpoints.trigger(id, &trigger.base_path) {
            // Barriers of peers that have not refused it are let through.
            Triggered::Refused(reason) => self.decline(attempt, id, reason),
            Triggered::Started => standing.deployment.running.trigger(id),
            Triggered::StartedWithBase(path) => {
                standing.deployment.running.trigger(id);
                let (store, events) = (standing.deployment.store.clone(), self.host.events.clone());
                tasks::spawn(async move {
                    let base = read_base(&store, &path, attempt).await;
                    drop(events.send(Event::BaseRead { attempt, id, base }));
                });
            }
        }
    }

    fn on_base_read(&mut self, attempt: Attempt, id: CheckpointId, base: Result<Option<CheckpointId>, String>) {
        match base {
            Err(reason) => self.decline(attempt, id, reason),
            Ok(base) => {
                if let Some(standing) = self.standing(attempt) {
                    standing.deployment.checkpoints.base_known(id, base);
                }
                if let Some(base) = base {
                    drop(self.recorded(attempt, base));
                }
            }
        }
    }

    fn on_persisted(&mut self, attempt: Attempt, mut persisted: Persisted) {
        let id = persisted.id;
        let commits = std::mem::replace(&mut persisted.commits, Ok(Vec::new()));
        let host = Arc::clone(&self.host);
        let Some(standing) = self.standing(attempt) else { return };
        match commits {
            Ok(commits) => {
                for (operator, pending) in commits {
                    standing.deployment.commits.add(operator, pending);
                }
            }
            Err(failure) => {
                self.decline(attempt, id, failure.message.clone());
                return self.fail(attempt, failure);
            }
        }
        if let Ok(done) = &persisted.outcome
            && let Some(stage) = standing.deployment.running.stage_name(persisted.stage)
        {
            host.metrics.persisted(stage, done);
        }
        match standing.deployment.checkpoints.persisted(persisted) {
            Progressed::Waiting => {}
            Progressed::Declined(reason) => self.decline(attempt, id, reason),
            Progressed::Complete => {
                let Deployment { checkpoints, commits, store, .. } = &mut standing.deployment;
                let Some(ReadyPart { ack, object }) = checkpoints.part(commits) else { return };
                commits.parted(id);
                let (store, events) = (store.clone(), self.host.events.clone());
                match object {
                    None => self.tell(Answer::Acked(ack)),
                    Some(bytes) => drop(tasks::spawn(async move {
                        let stored = store_part(&store, &ack.part_path, bytes).await;
                        drop(events.send(Event::PartStored { ack: Box::new(ack), stored }));
                    })),
                }
            }
        }
    }

    fn on_part_stored(&mut self, ack: Acked, stored: Result<(), String>) {
        let (attempt, id) = (Attempt(ack.attempt), CheckpointId(ack.id));
        if let Some(standing) = self.standing(attempt) {
            standing.deployment.checkpoints.part_stored(id);
        }
        match stored {
            Err(reason) => self.decline(attempt, id, reason),
            Ok(()) => {
                let standing = self.standing(attempt);
                if standing.is_some_and(|standing| !standing.deployment.checkpoints.is_cancelled(id)) {
                    self.tell(Answer::Acked(ack));
                }
            }
        }
    }

    /// Gives up a checkpoint on this worker, and tells the coordinator.
    fn decline(&mut self, attempt: Attempt, id: CheckpointId, reason: String) {
        tracing::info!(%attempt, checkpoint = %id, reason, "declined");
        self.on_cancel(attempt, id);
        self.tell(Answer::Declined(Declined { attempt: attempt.0, id: id.0, reason }));
    }

    fn on_cancel(&mut self, attempt: Attempt, id: CheckpointId) {
        if let Some(standing) = self.standing(attempt) {
            standing.deployment.running.cancel(id);
            standing.deployment.checkpoints.cancel(id);
        }
    }

    // Commits.

    fn on_commit(&mut self, attempt: Attempt, id: CheckpointId) {
        if let Some(deploying) = self.deploying.as_mut().filter(|deploying| deploying.attempt == attempt) {
            deploying.commit = deploying.commit.max(Some(id));
        }
        let told = self.recorded(attempt, id);
        let Some(standing) = self.standing(attempt) else { return };
        let job = standing.deployment.commits.commit(id);
        self.spawn_commit(attempt, job, told);
    }

    /// `told`: sources that are telling the outside world of the record. A job that ends with this commit waits a moment for them.
    fn spawn_commit(&mut self, attempt: Attempt, job: Option<CommitJob>, told: Vec<JoinHandle<()>>) {
        let (Some(job), events) = (job, self.host.events.clone()) else { return };
        let Some(standing) = self.standing(attempt) else { return };
        let stopped = standing.stopped.clone();
        tasks::spawn(async move {
            let id = job.id;
            match job.run(stopped).await {
                CommitEnd::Published => {
                    drop(tokio::time::timeout(TELLING, futures::future::join_all(told)).await);
                    drop(events.send(Event::Committed { attempt, id }));
                }
                CommitEnd::Failed(failure) => drop(events.send(Event::CommitFailed(attempt, failure))),
                CommitEnd::Stopped => {}
            }
        });
    }

    fn on_committed(&mut self, attempt: Attempt, id: CheckpointId) {
        let Some(standing) = self.standing(attempt) else { return };
        let next = standing.deployment.commits.done(id);
        self.tell(Answer::Committed(Committed { attempt: attempt.0, id: id.0 }));
        self.spawn_commit(attempt, next, Vec::new());
    }

    /// A record exists: local files of older ones are of no use any more, nor marks of commits that it does not carry. Gives what
    /// tells the outside world of it.
    fn recorded(&mut self, attempt: Attempt, id: CheckpointId) -> Vec<JoinHandle<()>> {
        let Some(standing) = self.standing(attempt) else { return Vec::new() };
        let told = standing.deployment.checkpoints.recorded(id).into_iter();
        let told = told.map(|(source, splits)| tasks::spawn(source.recorded(splits))).collect();
        for (committer, published) in standing.deployment.commits.recorded(id) {
            tasks::spawn(async move { committer.forget(&published).await });
        }
        if self.host.local.lock().recorded(id) {
            remove_outdated(&self.host, attempt);
        }
        told
    }
}

/// Which checkpoint the record at `path` completes, if it was taken in this attempt: only then are its files known here.
async fn read_base(store: &JobStore, path: &str, attempt: Attempt) -> Result<Option<CheckpointId>, String> {
    let bytes = store.get(path).await.map_err(|error| chain(&error))?;
    match read(path, &bytes).map_err(|error| chain(&error))? {
        Slot::Record(record) if record.attempt == attempt => Ok(Some(record.id)),
        _ => Ok(None),
    }
}

async fn store_part(store: &JobStore, path: &str, bytes: Bytes) -> Result<(), String> {
    match store.create(path, bytes).await {
        Ok(Created::New | Created::Same) => Ok(()),
        Ok(Created::Taken(_)) => Err(format!("{path} holds other bytes already")),
        Err(error) => Err(chain(&error)),
    }
}
