//! What a job reports: the supervisor's observer, the facts, and a writer that copies them into the resource's status.
//!
//! Writes are coalesced: at most one a second, the newest wins, and one that would change nothing is not made. Each carries the
//! version of the resource that this process knows, so that a late write of a deposed leader meets a conflict; what stands there
//! is then read, and a status of a higher term is left alone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff::Timestamp};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use parking_lot::{Mutex, MutexGuard};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Notify, Semaphore, watch};
use weir_crds::{LatestCheckpoint, RestoredFrom, StreamJob, StreamJobStatus};
use weir_runtime::{clock, tasks};

use super::{
    events::Story,
    identity::Identity,
    metrics::{JobLabels, Metrics},
    names,
    problem::Problem,
    publisher::Publisher,
    status::{Facts, Run, rfc3339, selector},
};
use crate::{
    coordinator::StatusOutcome,
    effects::chain,
    facts::{
        Fact,
        history::{Entry, History},
        observer::{Observer, StatusAnswer, StatusWrite},
        told::Told,
        why::Why,
    },
    supervisor::Outcome,
    time::Millis,
    ui::View,
};

/// From one write to the next.
const INTERVAL: Duration = Duration::from_secs(1);
/// From a write that failed to the next try; it doubles with each up to the longest.
const RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(10);
/// An API server that has not answered in this time is asked again.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Writes at once, of all jobs. An API server that has no time for more would let most of them run into their timeout, and the
/// lease with them; what waits its turn here is coalesced with what comes meanwhile.
static WRITES: Semaphore = Semaphore::const_new(16);

/// A job's report. Shared by the reconciler, the supervisor's observer and the writer.
pub struct Report {
    identity: Identity,
    state: Mutex<State>,
    dirty: Notify,
    publisher: Publisher,
    metrics: Metrics,
    stop: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    facts: Facts,
    story: Story,
    /// Answers that wait for a write.
    answers: Vec<(u64, StatusAnswer)>,
    /// The resource as it is known: its version and status.
    version: Option<String>,
    written: Option<StreamJobStatus>,
    /// A supervisor of this process has said which checkpoint is the newest.
    pointed: bool,
    broken: Option<Instant>,
    dirty: bool,
}

impl Report {
    /// Begins to report on a job, with what its status says.
    pub fn start(
        client: Client,
        meta: &ObjectMeta,
        status: &StreamJobStatus,
        identity: Identity,
        publisher: Publisher,
        metrics: Metrics,
    ) -> Arc<Self> {
        let mut facts = Facts::of(status, meta.generation.unwrap_or_default());
        facts.selector = Some(selector(&identity.name));
        let state = State { facts, version: meta.resource_version.clone(), ..State::default() };
        let report = Arc::new(Self {
            identity,
            state: Mutex::new(state),
            dirty: Notify::new(),
            publisher,
            metrics,
            stop: watch::Sender::new(false),
        });
        tasks::spawn(write(Arc::clone(&report), client));
        report
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// A copy of all that is known.
    pub fn facts(&self) -> Facts {
        self.lock().facts.clone()
    }

    /// Changes what is known.
    pub fn change(&self, change: impl FnOnce(&mut Facts)) {
        let mut state = self.lock();
        let before = state.facts.clone();
        change(&mut state.facts);
        if state.facts != before {
            state.dirty = true;
            self.dirty.notify_one();
        }
    }

    /// The newest spec has this problem, or none. An event tells of a new one.
    pub fn problem(&self, generation: i64, problem: Option<Problem>) {
        let before = self.lock().facts.spec.clone();
        if let Some(problem) = problem.as_ref().filter(|problem| Some(*problem) != before.as_ref()) {
            self.tell(Told::warning(
                super::reasons::events::STALLED,
                format!("{}: {}", problem.reason, problem.message),
            ));
        }
        self.change(|facts| {
            facts.generation = generation;
            facts.spec = problem;
        });
    }

    /// Tells an event.
    pub fn tell(&self, told: Told) {
        self.publisher.publish(&self.identity, told);
    }

    /// The watch has shown the resource. A status that is not what was written last is written again.
    pub fn seen(&self, resource: &StreamJob) {
        let mut state = self.lock();
        state.version.clone_from(&resource.metadata.resource_version);
        let wiped = resource.status.as_ref().is_none_or(|status| status.conditions.is_empty());
        if wiped && state.written.is_some() {
            state.written = None;
            state.dirty = true;
            self.dirty.notify_one();
        }
    }

    /// A wish to restore has acted.
    pub fn restored_from(&self, value: String) {
        let at = rfc3339(Timestamp::now());
        self.change(|facts| facts.restored_from = Some(RestoredFrom { value, at }));
    }

    /// A supervisor starts. The age of the job's checkpoint counts from here on, also where no checkpoint ever comes.
    pub fn begins(&self) {
        let since = since(&self.lock().facts, Timestamp::now());
        self.metrics.checkpointing_since(&self.labels(), since.as_second());
    }

    /// The supervisor has ended.
    pub fn ended(&self, outcome: &Outcome) {
        self.change(|facts| facts.ended_with(outcome));
        // The age of a job's checkpoint says nothing while nobody here takes any: it has ended, is suspended, or another leads.
        self.metrics.forget(&self.labels());
        let mut state = self.lock();
        // Nobody asks any more.
        state.answers.clear();
    }

    /// One word, for metrics.
    pub fn word(&self) -> &'static str {
        let state = self.lock();
        if state.facts.is_stalled() && !matches!(state.facts.run, Run::Failed(_)) {
            return "stalled";
        }
        match state.facts.run {
            Run::Unknown | Run::Starting | Run::Deploying => "starting",
            Run::Running | Run::Suspending => "running",
            Run::Recovering(_) | Run::BackingOff { .. } | Run::HandedOver => "recovering",
            Run::Suspended(_) => "suspended",
            Run::Succeeded => "succeeded",
            Run::Failed(_) => "failed",
            Run::Stalled(_) => "stalled",
        }
    }

    /// Nothing is written any more once what is known now has been, or has failed once.
    pub fn stop(&self) {
        self.stop.send_replace(true);
        self.metrics.forget(&self.labels());
        self.metrics.forget_history(&self.labels());
    }

    fn labels(&self) -> JobLabels {
        JobLabels { namespace: self.identity.namespace.clone(), job: self.identity.name.clone() }
    }

    fn fact(&self, fact: &Fact) {
        let now = clock::now();
        match fact {
            // Storage knows better than a status, which may be old or lost. What any other term restores says nothing: the
            // job may have been suspended for days.
            Fact::TermOpened { restored: Some(record), why: Why::Resume, .. } => {
                self.metrics.checkpointed_at(&self.labels(), (record.completed_at_ms / 1000) as i64);
            }
            Fact::TermOpened { .. } => {
                self.metrics.checkpointing_since(&self.labels(), Timestamp::now().as_second());
            }
            Fact::Completed { record, .. } => {
                let took = Duration::from_millis(record.duration_ms);
                self.metrics.checkpoint_completed(&self.labels(), took, (record.completed_at_ms / 1000) as i64);
            }
            Fact::Aborted { .. } => self.metrics.checkpoint_aborted(),
            Fact::WorkerLost { .. } => self.metrics.worker_lost(),
            _ => {}
        }
        let mut state = self.lock();
        match fact {
            Fact::WorkerLost { position: Some(_), .. } | Fact::TaskFailed(_) => {
                state.broken.get_or_insert(now);
            }
            Fact::Running { .. } => {
                if let Some(broken) = state.broken.take() {
                    self.metrics.recovered(now - broken);
                }
            }
            _ => {}
        }
        let told = state.story.tell(fact, now);
        drop(state);
        if let Some(told) = told {
            self.tell(told);
        }
        let at = rfc3339(Timestamp::now());
        self.change(|facts| facts.fold(fact, &at));
    }
}

/// Since when a job that a supervisor starts over has had no checkpoint: one that ran, since its newest; any other begins now.
fn since(facts: &Facts, now: Timestamp) -> Timestamp {
    let latest = facts.latest.as_ref().filter(|_| facts.workers > 0);
    latest.and_then(|latest| latest.completed_at.parse().ok()).unwrap_or(now)
}

/// The supervisor's view of a report. `woken` is told when something happened that the reconciler may have to act upon.
pub struct ReportObserver {
    /// Where it all goes.
    pub report: Arc<Report>,
    /// See above.
    pub woken: Box<dyn Fn(&Fact) + Send>,
}

impl Observer for ReportObserver {
    fn fact(&mut self, _: Millis, fact: &Fact) {
        self.report.fact(fact);
        (self.woken)(fact);
    }

    fn write_status(&mut self, write: StatusWrite, answer: StatusAnswer) {
        let mut state = self.report.lock();
        state.facts.latest = Some(write.latest());
        state.pointed = true;
        state.facts.failed = write.failed_since_latest;
        state.facts.term = Some(write.pointer.term.0);
        state.answers.push((write.pointer.term.0, answer));
        state.dirty = true;
        self.report.dirty.notify_one();
    }

    fn checkpoint(&mut self, ended: &Entry, history: &History) {
        self.report.metrics.checkpoint_ended(&self.report.labels(), ended, history);
    }

    fn view(&mut self, _: &View) {}

    fn finish(&mut self, _: &View) {}
}

/// What came of one write.
enum Written {
    Yes,
    /// Nothing had to be written.
    Same,
    /// A higher term has written.
    Superseded,
    /// The job is gone, or another of the same name is there.
    Gone,
    Failed,
}

async fn write(report: Arc<Report>, client: Client) {
    // One that cannot be read as a StreamJob has a status all the same.
    let api = Api::namespaced_with(client, &report.identity.namespace, &ApiResource::erase::<StreamJob>(&()));
    let mut stop = report.stop.subscribe();
    let mut retry = RETRY;
    loop {
        if !report.lock().dirty {
            if *stop.borrow() {
                return;
            }
            tokio::select! {
                () = report.dirty.notified() => {}
                _ = stop.changed() => {}
            }
            continue;
        }
        // It is never closed.
        let turn = WRITES.acquire().await;
        let (status, answers) = take(&report);
        let outcome = tokio::time::timeout(TIMEOUT, write_one(&report, &api, &status)).await;
        drop(turn);
        let written = outcome.unwrap_or(Written::Failed);
        if !matches!(written, Written::Same) {
            report.metrics.status_written(matches!(written, Written::Yes));
        }
        for (_, answer) in answers {
            answer.give(match written {
                Written::Yes | Written::Same => StatusOutcome::Written,
                Written::Superseded => StatusOutcome::Superseded,
                Written::Gone | Written::Failed => StatusOutcome::InDoubt,
            });
        }
        let pause = match written {
            Written::Failed => {
                report.lock().dirty = true;
                let pause = retry;
                retry = (retry * 2).min(MAX_RETRY);
                pause
            }
            Written::Yes => {
                retry = RETRY;
                INTERVAL
            }
            Written::Same => Duration::ZERO,
            Written::Superseded | Written::Gone => INTERVAL,
        };
        if *stop.borrow() {
            return;
        }
        // The end does not wait.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.changed() => {}
        }
    }
}

fn take(report: &Report) -> (StreamJobStatus, Vec<(u64, StatusAnswer)>) {
    let mut state = report.lock();
    state.dirty = false;
    let old = state.written.as_ref().map(|written| written.conditions.clone()).unwrap_or_default();
    let status = state.facts.status(&old, Timestamp::now());
    (status, std::mem::take(&mut state.answers))
}

async fn write_one(report: &Report, api: &Api<DynamicObject>, status: &StreamJobStatus) -> Written {
    let mut status = status.clone();
    for _ in 0..3 {
        let (version, written) = {
            let state = report.lock();
            (state.version.clone(), state.written.clone())
        };
        if written.as_ref() == Some(&status) {
            return Written::Same;
        }
        // The first write of this process: what stands there is needed for the times of conditions.
        if written.is_none() {
            match read(report, api, &mut status).await {
                Ok(true) => {}
                Ok(false) => return Written::Superseded,
                Err(outcome) => return outcome,
            }
        }
        let version = report.lock().version.clone().or(version);
        let patch = json!({
            "apiVersion": StreamJob::api_version(&()),
            "kind": StreamJob::kind(&()),
            "metadata": {
                "name": report.identity.name,
                "namespace": report.identity.namespace,
                "uid": report.identity.uid,
                "resourceVersion": version,
            },
            "status": status,
        });
        let params = PatchParams::apply(names::STATUS_MANAGER).force();
        match api.patch_status(&report.identity.name, &params, &Patch::Apply(&patch)).await {
            Ok(resource) => {
                let mut state = report.lock();
                state.version = resource.metadata.resource_version;
                state.written = Some(status);
                return Written::Yes;
            }
            Err(kube::Error::Api(refused)) if refused.code == 409 => match read(report, api, &mut status).await {
                Ok(true) => {}
                Ok(false) => return Written::Superseded,
                Err(outcome) => return outcome,
            },
            Err(kube::Error::Api(refused)) if refused.code == 404 => return Written::Gone,
            Err(error) => {
                tracing::warn!(job = %report.identity.job(), error = chain(&error), "the status could not be written");
                return Written::Failed;
            }
        }
    }
    Written::Failed
}

/// Reads what stands there; false where it is of a higher term. The times of its conditions are taken over.
/// The status that stands there, as far as it is one of this version.
fn there(resource: &DynamicObject) -> StreamJobStatus {
    let status = &resource.data["status"];
    StreamJobStatus::deserialize(status).unwrap_or_else(|_| StreamJobStatus {
        term: Option::deserialize(&status["term"]).unwrap_or_default(),
        conditions: Vec::deserialize(&status["conditions"]).unwrap_or_default(),
        ..StreamJobStatus::default()
    })
}

async fn read(report: &Report, api: &Api<DynamicObject>, status: &mut StreamJobStatus) -> Result<bool, Written> {
    let resource = match api.get_opt(&report.identity.name).await {
        Ok(Some(resource)) if resource.metadata.uid.as_deref() == Some(&report.identity.uid) => resource,
        Ok(_) => return Err(Written::Gone),
        Err(error) => {
            tracing::warn!(job = %report.identity.job(), error = chain(&error), "the status could not be read");
            return Err(Written::Failed);
        }
    };
    let there = there(&resource);
    let mut state = report.lock();
    state.version = resource.metadata.resource_version;
    if there.term > status.term {
        return Ok(false);
    }
    // The leader before may have written another checkpoint since the resource was listed.
    if !state.pointed
        && let Some(checkpoint) = there.checkpoint
    {
        let id = |latest: &Option<LatestCheckpoint>| latest.as_ref().map(|latest| latest.id);
        if id(&checkpoint.latest) > id(&state.facts.latest) {
            (state.facts.latest, state.facts.failed) = (checkpoint.latest, checkpoint.failed_since_latest);
        }
    }
    *status = state.facts.status(&there.conditions, Timestamp::now());
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_that_is_not_of_this_version_still_has_its_term_and_conditions() {
        let read = |status: serde_json::Value| {
            let resource = serde_json::json!({"apiVersion": "weir.dev/v1alpha1", "kind": "StreamJob",
                "metadata": {"name": "a"}, "spec": {"sql": 7}, "status": status});
            there(&serde_json::from_value(resource).unwrap())
        };
        let condition = json!({"type": "Ready", "status": "True", "reason": "Running", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        assert_eq!(read(json!({"term": 7, "attempt": 3})).attempt, Some(3));
        let odd = read(json!({"term": 7, "attempt": "three", "conditions": [condition]}));
        assert_eq!((odd.term, odd.attempt, odd.conditions.len()), (Some(7), None, 1));
        assert_eq!(read(json!(null)), StreamJobStatus::default());
    }

    #[test]
    fn only_a_job_that_ran_is_as_old_as_its_checkpoint() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let of = |status: serde_json::Value| {
            let status = StreamJobStatus::deserialize(status).unwrap();
            since(&Facts::of(&status, 1), now).as_second()
        };
        let checkpoint = json!({"latest": {"id": 3, "record": "r", "completedAt": "2027-01-15T07:00:00.000Z",
            "duration": "180ms", "stateBytes": 1, "uploadedBytes": 1}});
        assert_eq!(of(json!({"replicas": 2, "checkpoint": checkpoint})), 1_800_000_000 - 3600);
        assert_eq!(of(json!({"replicas": 0, "checkpoint": checkpoint})), 1_800_000_000, "suspended, or not begun");
        assert_eq!(of(json!({"replicas": 2})), 1_800_000_000);
    }
}
