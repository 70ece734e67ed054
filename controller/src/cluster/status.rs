//! A job's status as a fold: facts in the order in which they happen, and from all of them together the conditions. Pure; the
//! writing is in [`super::report`].

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use weir_crds::{
    CheckpointStatus, LatestCheckpoint, RequestedCheckpoint, RestoredCheckpoint, RestoredFrom, StreamJobStatus,
    conditions,
};
use weir_protocol::{
    record::{Opening, Record},
    settings::FailureKind,
};

use super::{names, problem::Problem, reasons};
use crate::{
    attempt::{End, Failure},
    facts::{DOUBTS, Fact, why::Why},
    platform::{Obstacle, ObstacleKind, Trouble},
    supervisor::Outcome,
    takeover::Refusal,
    ui::{WorkerView, text},
};

/// What a job is at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Run {
    /// Nothing is known yet.
    #[default]
    Unknown,
    /// Workers are being made.
    Starting,
    /// Workers are told what to run.
    Deploying,
    /// All workers run.
    Running,
    /// A last checkpoint was taken, and the next attempt has not begun.
    HandedOver,
    /// A worker was lost, or a task failed; why.
    Recovering(String),
    /// The next attempt waits.
    BackingOff {
        /// What failed.
        cause: String,
        /// How often, and for how long it waits.
        next: String,
    },
    /// A last checkpoint is being taken.
    Suspending,
    /// Nothing runs, as the spec says. What the last checkpoint lacks, if anything.
    Suspended(Option<String>),
    /// All is done.
    Succeeded,
    /// It was given up.
    Failed(Problem),
    /// It needs help.
    Stalled(Problem),
}

/// Everything that a status is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The generation of the newest spec.
    pub generation: i64,
    /// What is wrong with the newest spec, or with what it names.
    pub spec: Option<Problem>,
    /// What the API server refuses.
    pub objects: Option<Problem>,
    /// What the job is at.
    pub run: Run,
    /// The generation of what runs.
    pub running: Option<i64>,
    /// A change to this generation was refused; why.
    pub refused: Option<(i64, Problem)>,
    /// A change is under way; at what it is.
    pub changing: Option<String>,
    /// What is in the way of workers that do not come up, by process.
    pub waits: BTreeMap<u64, Obstacle>,
    /// Why a worker could not be started, the last time.
    pub unstarted: Option<String>,
    /// What is wrong beside a worker.
    pub beside: Option<Trouble>,
    /// It is being deleted.
    pub deleting: Option<String>,
    /// The name, for the selector.
    pub selector: Option<String>,
    /// Numbers.
    pub attempt: Option<u64>,
    /// See [`StreamJobStatus`].
    pub term: Option<u64>,
    /// Workers that the attempt needs.
    pub wanted: u32,
    /// Workers that run in it.
    pub workers: u32,
    /// Workers that stand by.
    pub standby: u32,
    /// The newest checkpoint.
    pub latest: Option<LatestCheckpoint>,
    /// What the attempt was restored from.
    pub restored: Option<RestoredCheckpoint>,
    /// The one that was asked for last.
    pub requested: Option<RequestedCheckpoint>,
    /// Failed since the newest.
    pub failed: u32,
    /// More than is tolerable; the last reason.
    pub beyond: Option<String>,
    /// Why the output of complete checkpoints cannot be published.
    pub unpublished: Option<String>,
    /// So many pre-commits wait for their commit that sources are held back.
    pub held_back: Option<u64>,
    /// The current attempt has a record.
    pub in_attempt: bool,
    /// The last wish that has acted.
    pub restored_from: Option<RestoredFrom>,
    /// Storage does not answer; since then nothing has come of it.
    pub storage: Option<String>,
    /// Storage has not answered when it was asked whether it does.
    pub unanswered: Option<String>,
}

impl Run {
    /// Whatever is tried next, nothing has come of it yet.
    pub fn forget_failure(&mut self) {
        if let Self::Failed(_) = self {
            *self = Self::Unknown;
        }
    }
}

impl Facts {
    /// As far as a status tells, for a controller that has just begun.
    pub fn of(status: &StreamJobStatus, generation: i64) -> Self {
        let checkpoint = status.checkpoint.clone().unwrap_or_default();
        let holds = |kind: &str| status.conditions.iter().find(|c| c.type_ == kind && c.status == "True");
        let current = |condition: &&Condition| condition.observed_generation == Some(generation);
        let run = match (holds(conditions::SUCCEEDED), holds(conditions::FAILED).filter(current)) {
            (Some(_), _) => Run::Succeeded,
            (_, Some(failed)) => Run::Failed(Problem {
                reason: reasons::known(&failed.reason).unwrap_or(reasons::GIVEN_UP),
                message: failed.message.clone(),
            }),
            _ => Run::Unknown,
        };
        Self {
            generation,
            run,
            attempt: status.attempt,
            term: status.term,
            workers: status.replicas.unwrap_or_default(),
            latest: checkpoint.latest,
            restored: checkpoint.restored,
            requested: checkpoint.requested,
            failed: checkpoint.failed_since_latest,
            in_attempt: holds(conditions::CHECKPOINTED).is_some(),
            beyond: status.conditions.iter().find(|it| it.reason == reasons::CHECKPOINTS_FAIL).map(|failing| {
                let (_, reason) = failing.message.rsplit_once(THE_LAST_ONE).unwrap_or(("", &failing.message));
                reason.to_string()
            }),
            restored_from: status.restored_from.clone(),
            ..Self::default()
        }
    }

    /// The job ended, and does not begin again by itself.
    pub fn ended(&self) -> bool {
        matches!(self.run, Run::Succeeded | Run::Failed(_))
    }

    /// Something happened. `now` is the wall clock's time, RFC 3339.
    pub fn fold(&mut self, fact: &Fact, now: &str) {
        match fact {
            Fact::TermOpened { opening, restored, why } => self.term_opened(opening, restored.as_deref(), *why, now),
            Fact::Workers(workers) => self.there_are(workers),
            Fact::WorkerWaits { process, obstacle: Some(obstacle) } => {
                self.waits.insert(process.0, obstacle.clone());
            }
            Fact::WorkerWaits { process, obstacle: None } => {
                self.waits.remove(&process.0);
            }
            Fact::Beside { trouble } => self.beside.clone_from(trouble),
            Fact::StartFailed { reason } => self.unstarted = Some(reason.clone()),
            Fact::WorkerLost { name, cause, position: Some(_), .. } if self.run == Run::Running => {
                self.run = Run::Recovering(format!("{name} was lost: {cause}"));
            }
            Fact::TaskFailed(failure) => self.run = Run::Recovering(failure.in_words()),
            Fact::Restarting { after, failures } if !after.is_zero() => self.backs_off(*after, *failures),
            Fact::TakeOverFailed { reason } => self.storage = Some(reason.clone()),
            Fact::Storage { failure } => self.unanswered.clone_from(failure),
            Fact::RecordInDoubt { reason, tries, .. } => {
                if *tries >= DOUBTS {
                    self.storage = Some(reason.clone());
                }
            }
            Fact::Deploying { workers, .. } => {
                self.wanted = *workers;
                if !matches!(self.run, Run::Recovering(_)) {
                    self.run = Run::Deploying;
                }
            }
            Fact::Running { generation, .. } => self.runs(*generation),
            Fact::Completed { record, .. } => {
                self.failed = 0;
                self.beyond = None;
                (self.storage, self.unanswered) = (None, None);
                self.in_attempt |= Some(record.attempt.0) == self.attempt;
            }
            Fact::Aborted { reason, failed, beyond_tolerable, .. } => {
                self.failed = *failed;
                self.beyond = beyond_tolerable.then(|| reason.clone());
            }
            Fact::Requested { value, id, failure } => {
                let (value, at, failure) = (value.clone(), now.to_string(), failure.clone());
                self.requested = Some(RequestedCheckpoint { value, id: id.0, at, failure });
            }
            Fact::Publishing { failure } => self.unpublished.clone_from(failure),
            Fact::HeldBack { waiting } => self.held_back = *waiting,
            Fact::ChangeWaits { reason, .. } => self.changing = Some(reason.clone()),
            Fact::HandingOver { .. } => {
                self.changing = Some("a last checkpoint is taken, then the next attempt begins".to_string());
            }
            Fact::HandedOver => self.run = Run::HandedOver,
            Fact::ChangeApplied { generation } => {
                self.changing = None;
                self.refused = None;
                self.running = Some(*generation);
            }
            Fact::ChangeRefused { generation, reason } => {
                self.changing = None;
                let problem = Problem { reason: reasons::CHANGE_REFUSED, message: reason.clone() };
                self.refused = Some((*generation, problem));
            }
            Fact::Stopping { .. } => {
                if self.deleting.is_none() {
                    self.run = Run::Suspending;
                }
            }
            Fact::Ended(End::Succeeded(_)) => self.run = Run::Succeeded,
            Fact::WorkerLost { .. }
            | Fact::WorkerEnded { .. }
            | Fact::Restarting { .. }
            | Fact::WorkerLeaves { .. }
            | Fact::FirstOutput(_)
            | Fact::Committed { .. }
            | Fact::Planned { .. }
            | Fact::Killed
            | Fact::Ended(_)
            | Fact::Printed { .. } => {}
        }
    }

    fn term_opened(&mut self, opening: &Opening, restored: Option<&Record>, why: Why, now: &str) {
        if self.attempt != Some(opening.attempt.0) {
            self.in_attempt = false;
        }
        self.attempt = Some(opening.attempt.0);
        self.term = Some(opening.term.0);
        self.wanted = opening.workers;
        (self.storage, self.unanswered, self.held_back) = (None, None, None);
        let Some(record) = restored else {
            self.restored = None;
            return;
        };
        if why != Why::Resume {
            self.restored = Some(RestoredCheckpoint { id: record.id.0, at: now.to_string() });
        }
        self.in_attempt |= record.attempt == opening.attempt;
    }

    fn there_are(&mut self, workers: &[WorkerView]) {
        let starting = |number: u64| workers.iter().any(|w| w.number == number && w.state == "starting");
        self.waits.retain(|number, _| starting(*number));
        let count = |state: &str| workers.iter().filter(|worker| worker.state == state).count() as u32;
        self.workers = count("running");
        self.standby = if self.workers >= self.wanted { count("ready") } else { 0 };
        // Those that could not be started are not among them any more.
        if workers.len() >= self.wanted as usize && workers.iter().all(|worker| worker.state != "starting") {
            self.unstarted = None;
        }
    }

    fn backs_off(&mut self, after: Duration, failures: u32) {
        let cause = match &self.run {
            Run::Recovering(cause) | Run::BackingOff { cause, .. } => cause.clone(),
            _ => "the attempt failed".to_string(),
        };
        let next = format!("failure {failures} in a row, tried again in {}", text::span(after));
        self.run = Run::BackingOff { cause, next };
    }

    /// All workers run what is of this generation; none where that is not known.
    fn runs(&mut self, generation: Option<i64>) {
        self.run = Run::Running;
        self.unstarted = None;
        self.running = generation.or(self.running);
        self.changing = None;
        if generation == Some(self.generation) {
            self.refused = None;
        }
    }

    /// The supervisor has ended.
    pub fn ended_with(&mut self, outcome: &Outcome) {
        // What was left runs on; whoever comes next tells of it.
        if *outcome == Outcome::Left {
            return;
        }
        if !matches!(outcome, Outcome::Panicked(_)) {
            (self.workers, self.standby) = (0, 0);
        }
        self.forget_doings();
        self.run = match outcome {
            Outcome::Succeeded => Run::Succeeded,
            Outcome::Stopped => Run::Suspended(None),
            Outcome::StoppedWithoutCheckpoint(reason) => Run::Suspended(Some(reason.clone())),
            // The next step is decided anew; nothing is said about it before.
            Outcome::Killed | Outcome::Left => return,
            Outcome::Failed(failure) => failed(failure),
            Outcome::GivenUp(reason) => {
                Run::Failed(Problem { reason: reasons::GIVEN_UP, message: format!("{reason}{TRY_AGAIN}") })
            }
            Outcome::Refused(refusal, reason) => Run::Stalled(refused(refusal.as_ref(), reason)),
            Outcome::Superseded(by) => Run::Stalled(Problem {
                reason: reasons::SUPERSEDED,
                message: match by {
                    Some(by) => format!("{by} coordinates the job now; tried again in a while"),
                    None => "another coordinator has taken the job; tried again in a while".to_string(),
                },
            }),
            Outcome::Panicked(cause) => Run::Stalled(Problem {
                reason: reasons::SUPERVISOR_FAILED,
                message: format!(
                    "the controller failed while it looked after the job, and tries again in a while: {cause}"
                ),
            }),
            Outcome::NoWorkers(reason) => {
                Run::Stalled(Problem { reason: reasons::WORKERS_CRASH, message: reason.clone() })
            }
        };
    }

    /// What is said of a supervisor's doings says nothing once it has ended, or before the next has begun.
    pub fn forget_doings(&mut self) {
        self.waits.clear();
        (self.unstarted, self.beside, self.changing) = (None, None, None);
        (self.unpublished, self.held_back, self.storage, self.unanswered) = (None, None, None, None);
    }

    /// What storage tells of a status that has been lost: the term that was opened last, and the newest record with its URL.
    pub fn found(&mut self, opening: &Opening, newest: Option<(&Record, &str)>) {
        self.attempt = Some(opening.attempt.0);
        self.term = Some(opening.term.0);
        // One that was known already may be unreadable by now.
        let newer = |(record, _): &(&Record, &str)| self.latest.as_ref().is_none_or(|known| known.id < record.id.0);
        if let Some((record, url)) = newest.filter(newer) {
            self.in_attempt = record.attempt == opening.attempt;
            self.latest = Some(latest(record, url));
        }
    }

    /// The whole status. `old` gives the times of conditions that did not change.
    pub fn status(&self, old: &[Condition], now: Timestamp) -> StreamJobStatus {
        let folded = [
            (conditions::READY, self.ready()),
            (conditions::RECONCILING, self.reconciling()),
            (conditions::STALLED, self.stalled()),
            (conditions::CHECKPOINTED, self.checkpointed()),
            (conditions::SUCCEEDED, self.succeeded()),
            (conditions::FAILED, self.failed()),
        ];
        let conditions = folded.map(|(kind, verdict)| verdict.condition(kind, self.generation, old, now));
        StreamJobStatus {
            observed_generation: Some(self.generation),
            conditions: conditions.into(),
            attempt: self.attempt,
            term: self.term,
            replicas: Some(self.workers),
            workers: Some(self.workers_in_words()),
            selector: self.selector.clone(),
            state_size: self.latest.as_ref().map(|latest| text::bytes(latest.state_bytes)),
            checkpoint: self.checkpoint_status(),
            restored_from: self.restored_from.clone(),
        }
    }

    /// None where nothing is to be said.
    fn checkpoint_status(&self) -> Option<CheckpointStatus> {
        let said = CheckpointStatus {
            latest: self.latest.clone(),
            failed_since_latest: self.failed,
            restored: self.restored.clone(),
            requested: self.requested.clone(),
        };
        (said != CheckpointStatus::default()).then_some(said)
    }

    fn workers_in_words(&self) -> String {
        let mut text = format!("{}/{}", self.workers, self.wanted);
        if self.standby > 0 {
            let _ = write!(text, "+{}", self.standby);
        }
        text
    }

    /// The problem of the newest spec, and what runs meanwhile.
    fn problem(&self) -> Option<Problem> {
        let refused = self.refused.as_ref().filter(|(generation, _)| *generation == self.generation);
        let problem = self.spec.as_ref().or(refused.map(|(_, problem)| problem))?;
        Some(self.and_what_runs(problem.clone()))
    }

    fn and_what_runs(&self, mut problem: Problem) -> Problem {
        if let (Run::Running | Run::Recovering(_) | Run::BackingOff { .. } | Run::Deploying, Some(running)) =
            (&self.run, self.running.filter(|running| *running != self.generation || self.spec.is_some()))
        {
            let _ = write!(problem.message, "; the last good version (generation {running}) keeps running");
        }
        problem
    }

    /// What is in the way of a worker that is missing: what needs help most.
    fn obstacle(&self) -> Option<(ObstacleKind, Problem)> {
        let obstacle = self.waits.values().min_by_key(|obstacle| obstacle.kind);
        if let Some(Obstacle { kind, reason }) = obstacle.filter(|o| self.unstarted.is_none() || o.kind.is_in_the_way())
        {
            let message = format!("a worker does not come up: {reason}");
            return Some((*kind, Problem { reason: of_obstacle(*kind), message }));
        }
        let unstarted = self.unstarted.as_ref()?;
        Some((ObstacleKind::Crash, Problem { reason: reasons::WORKERS_CRASH, message: unstarted.clone() }))
    }

    /// Why what is on its way does not get there.
    fn held_up_by(&self) -> Option<Problem> {
        self.obstacle().map(|(_, problem)| problem).or_else(|| self.unanswering())
    }

    /// Storage does not answer.
    fn unanswering(&self) -> Option<Problem> {
        let reason = self.storage.as_ref().or(self.unanswered.as_ref())?;
        let message = format!("storage does not answer, tried again: {reason}");
        Some(Problem { reason: reasons::STORAGE_UNREACHABLE, message })
    }

    /// No attempt runs, and what it lacks does not come: workers that are there have no work.
    pub fn stands_still(&self) -> bool {
        let stands = matches!(self.run, Run::Starting | Run::Recovering(_) | Run::BackingOff { .. } | Run::HandedOver);
        stands && self.obstacle().is_some_and(|(kind, _)| kind.is_in_the_way())
    }

    /// The newest spec runs as it says, as far as workers go.
    fn is_current(&self) -> bool {
        self.run == Run::Running && self.running == Some(self.generation) && self.changing.is_none()
    }

    /// What the controller is about; none where it has nothing to do.
    fn stage(&self) -> Option<Stage> {
        let stage = |reason, doing: &str, lacks: String| Some(Stage { reason, doing: doing.to_string(), lacks });
        let count = || format!("{} of {} workers run", self.workers, self.wanted);
        match &self.run {
            Run::Unknown | Run::Starting if self.workers > 0 => {
                let lacks = "whether its workers run is not known yet".to_string();
                stage(reasons::STARTING, "the workers that run are looked for", lacks)
            }
            Run::Unknown | Run::Starting => stage(reasons::STARTING, "workers are being started", count()),
            Run::Deploying => stage(reasons::DEPLOYING, "workers are told what to run", count()),
            Run::HandedOver => stage(reasons::CHANGING, "the next attempt begins once its workers are there", count()),
            Run::Recovering(cause) => {
                stage(reasons::RECOVERING, "the job is brought back from its newest checkpoint", cause.clone())
            }
            Run::BackingOff { cause, next } => stage(reasons::BACKING_OFF, next, cause.clone()),
            Run::Suspending => {
                stage(reasons::SUSPENDING, "a last checkpoint is taken", "the job is to be suspended".to_string())
            }
            Run::Running => self.changing_to(),
            Run::Suspended(_) | Run::Succeeded | Run::Failed(_) | Run::Stalled(_) => None,
        }
    }

    /// A job that runs is changed.
    fn changing_to(&self) -> Option<Stage> {
        let other = self.running != Some(self.generation) && self.problem().is_none();
        let doing = match &self.changing {
            Some(at) => at.clone(),
            None if other => "the change to the newest version begins".to_string(),
            None => return None,
        };
        let lacks = match self.running.filter(|running| *running != self.generation) {
            Some(running) => format!("generation {running} runs, and generation {} is wanted", self.generation),
            None => "the job runs, and another attempt of it is being made".to_string(),
        };
        Some(Stage { reason: reasons::CHANGING, doing, lacks })
    }

    /// Why the newest spec does not run as it says; what is done about it is said by [`Self::reconciling`].
    fn ready(&self) -> Verdict {
        let not = |reason: &'static str, message: &str| Verdict::new("False", reason, message);
        if self.deleting.is_some() {
            return not(reasons::DELETING, "the job is being deleted");
        }
        if let Some(problem) = self.problem().or_else(|| self.objects.clone()) {
            return not(problem.reason, &problem.message);
        }
        match &self.run {
            Run::Succeeded => Verdict::new("True", reasons::SUCCEEDED, "all input is read, all output is published"),
            Run::Failed(problem) | Run::Stalled(problem) => not(problem.reason, &problem.message),
            Run::Suspended(lacks) => not(reasons::SUSPENDED, &suspended(lacks.as_deref())),
            Run::Running if self.is_current() => match &self.beside {
                Some(Trouble { lasting: true, reason }) => not(reasons::SIDECARS_FAIL, &runs_on(reason)),
                Some(Trouble { lasting: false, reason }) => not(reasons::WORKERS_WAITING, &runs_on(reason)),
                None => {
                    let attempt = self.attempt.unwrap_or_default();
                    let message = format!("attempt {attempt} runs on {} of {} workers", self.workers, self.wanted);
                    Verdict::new("True", reasons::RUNNING, &message)
                }
            },
            // A back-off waits for nothing but its time.
            Run::BackingOff { cause, .. } => not(reasons::BACKING_OFF, cause),
            _ => match (self.held_up_by(), self.stage()) {
                (Some(problem), _) => not(problem.reason, &problem.message),
                (None, Some(stage)) => not(stage.reason, &stage.lacks),
                (None, None) => not(reasons::UNKNOWN, "nothing is known yet"),
            },
        }
    }

    /// What is being done.
    fn reconciling(&self) -> Verdict {
        if let Some(deleting) = &self.deleting {
            return Verdict::new("True", reasons::DELETING, deleting);
        }
        let stuck = self.run != Run::Running && self.problem().is_some() && self.running.is_none();
        match self.stage().filter(|_| !stuck) {
            Some(stage) => Verdict::new("True", stage.reason, &stage.doing),
            None => Verdict::new("False", reasons::DONE, "nothing is left to do"),
        }
    }

    /// It needs somebody's help.
    pub fn is_stalled(&self) -> bool {
        self.stalled_by().is_some()
    }

    fn stalled_by(&self) -> Option<Problem> {
        self.problem().or_else(|| self.objects.clone()).or_else(|| match &self.run {
            Run::Failed(problem) | Run::Stalled(problem) => Some(problem.clone()),
            // A standby that does not come is missed by nobody yet.
            _ if self.is_current() => {
                let lasting = self.beside.as_ref().filter(|trouble| trouble.lasting)?;
                Some(Problem { reason: reasons::SIDECARS_FAIL, message: runs_on(&lasting.reason) })
            }
            _ => {
                let (_, problem) = self.obstacle().filter(|(kind, _)| kind.is_refusal())?;
                Some(self.and_what_runs(problem))
            }
        })
    }

    fn stalled(&self) -> Verdict {
        match self.stalled_by() {
            Some(problem) => Verdict::new("True", problem.reason, &problem.message),
            None => Verdict::new("False", reasons::FINE, "no help is needed"),
        }
    }

    fn checkpointed(&self) -> Verdict {
        // What checkpoints fail for follows from it.
        if let Some(problem) = self.unanswering() {
            let failed =
                if self.failed > 0 { format!("; {} checkpoints failed in a row", self.failed) } else { String::new() };
            return Verdict::new("False", problem.reason, &format!("{}{failed}", problem.message));
        }
        if let Some(reason) = &self.beyond {
            let message = format!("{} checkpoints failed one after the other{THE_LAST_ONE}{reason}", self.failed);
            return Verdict::new("False", reasons::CHECKPOINTS_FAIL, &message);
        }
        if let Some(waiting) = self.held_back {
            let why = self.unpublished.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            let message = format!(
                "{waiting} files or objects of a worker wait to be published, and sources are held back until they are{why}"
            );
            return Verdict::new("False", reasons::OUTPUT_HELD_BACK, &message);
        }
        if let Some(reason) = &self.unpublished {
            let message = format!("checkpoints complete, but their output cannot be published, tried again: {reason}");
            return Verdict::new("False", reasons::OUTPUT_UNPUBLISHED, &message);
        }
        match &self.latest {
            Some(latest) if self.in_attempt => {
                let message = format!("checkpoint {} is complete", latest.id);
                Verdict::new("True", reasons::COMPLETED, &message)
            }
            _ => Verdict::new("False", reasons::NO_CHECKPOINT_YET, "the attempt has no complete checkpoint yet"),
        }
    }

    fn succeeded(&self) -> Verdict {
        match self.run {
            Run::Succeeded => Verdict::new("True", reasons::SUCCEEDED, "all input is read, all output is published"),
            _ => Verdict::new("False", reasons::NOT_ENDED, "the job has not ended"),
        }
    }

    fn failed(&self) -> Verdict {
        match &self.run {
            Run::Failed(problem) => Verdict::new("True", problem.reason, &problem.message),
            _ => Verdict::new("False", reasons::NOT_ENDED, "the job has not failed"),
        }
    }
}

/// As a status has a record.
pub fn latest(record: &Record, url: &str) -> LatestCheckpoint {
    let millis = i64::try_from(record.completed_at_ms).unwrap_or_default();
    LatestCheckpoint {
        id: record.id.0,
        record: url.to_string(),
        completed_at: rfc3339(Timestamp::from_millisecond(millis).unwrap_or_default()),
        duration: weir_crds::Duration(Duration::from_millis(record.duration_ms)),
        state_bytes: record.state_bytes,
        uploaded_bytes: record.uploaded_bytes,
    }
}

/// A time as statuses have it.
pub fn rfc3339(at: Timestamp) -> String {
    format!("{at:.3}")
}

/// Before the reason of the last checkpoint that failed. A new leader reads it back.
const THE_LAST_ONE: &str = ", the last one: ";

/// What ends a failure.
const TRY_AGAIN: &str =
    "; any change of the spec tries again from the last checkpoint, see \"Trying again\" in docs/runbook.md";

fn suspended(lacks: Option<&str>) -> String {
    match lacks {
        None => "suspended; set spec.suspend to false to resume from the newest checkpoint".to_string(),
        Some(reason) => {
            format!("suspended, but without a last checkpoint: {reason}; it will resume from the one before")
        }
    }
}

fn failed(failure: &Failure) -> Run {
    let problem =
        |reason: &'static str, remedy: &str| Problem { reason, message: format!("{}{remedy}", failure.in_words()) };
    match failure.kind {
        FailureKind::Plan => Run::Stalled(problem(reasons::INVALID_SQL, "")),
        FailureKind::StateMismatch => Run::Stalled(problem(
            reasons::STATE_MISMATCH,
            "; go back to the SQL that the checkpoint was taken with, or set upgrade.mode to Stateless",
        )),
        FailureKind::Corrupt => Run::Stalled(problem(
            reasons::CHECKPOINT_CORRUPT,
            "; nothing was restored. Set restoreFrom to an older record; `weir checkpoints` lists them",
        )),
        FailureKind::OutputLost => Run::Stalled(problem(
            reasons::OUTPUT_LOST,
            "; the runbook says how to go on: bring the files back, or set restoreFrom with acceptLostOutput: true",
        )),
        _ => Run::Failed(problem(reasons::TASK_FAILED, TRY_AGAIN)),
    }
}

/// Why storage must not be taken over, with the remedy.
pub fn refused(refusal: Option<&Refusal>, reason: &str) -> Problem {
    let (kind, remedy) = match refusal {
        Some(Refusal::OwnedByAnother { .. }) => (
            reasons::STORAGE_OWNED_BY_ANOTHER,
            "; set restoreFrom to {previous: true} to take it over, which stops the other, or use another checkpoint.storage.url",
        ),
        Some(Refusal::MaxParallelismChanged { .. }) => (
            reasons::STATE_MISMATCH,
            "; apply the job with the maxParallelism that its checkpoints have, or delete them",
        ),
        Some(Refusal::NotRetained { .. }) => {
            (reasons::RECORD_NOT_FOUND, "; `weir checkpoints` lists what can be restored")
        }
        Some(Refusal::SavepointUnusable { .. }) => (
            reasons::SAVEPOINT_UNUSABLE,
            "; put it back from a copy, or set restoreFrom to another savepoint or to a record: `weir checkpoints` lists these",
        ),
        Some(Refusal::Gone { .. }) => (
            reasons::CHECKPOINT_CORRUPT,
            "; put them back from a copy, or name another checkpoint.storage.url to begin from nothing",
        ),
        Some(Refusal::Unusable { .. }) => {
            (reasons::CHECKPOINT_CORRUPT, "; set restoreFrom to an older record: `weir checkpoints` lists them")
        }
        Some(Refusal::OutputUnknown { .. }) => (
            reasons::CHECKPOINT_CORRUPT,
            "; with acceptLostOutput: true beside it restoreFrom goes on without what it promised and has not published yet",
        ),
        None => (reasons::STORAGE_UNREACHABLE, ""),
    };
    Problem { reason: kind, message: format!("{reason}{remedy}") }
}

/// What the controller is about, and what is missing until it is done.
struct Stage {
    reason: &'static str,
    doing: String,
    lacks: String,
}

fn runs_on(trouble: &str) -> String {
    format!("{trouble}; its worker runs on")
}

/// The reason of a condition for what is in a worker's way.
fn of_obstacle(kind: ObstacleKind) -> &'static str {
    match kind {
        ObstacleKind::Quota | ObstacleKind::Refused => reasons::OBJECTS_REFUSED,
        ObstacleKind::Image => reasons::IMAGE_PULL_FAILED,
        ObstacleKind::Crash => reasons::WORKERS_CRASH,
        ObstacleKind::NoRoom | ObstacleKind::NoPlace => reasons::UNSCHEDULABLE,
        ObstacleKind::Other | ObstacleKind::Initializing => reasons::WORKERS_WAITING,
    }
}

/// What one condition is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verdict {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn new(status: &'static str, reason: &'static str, message: &str) -> Self {
        Self { status, reason, message: message.to_string() }
    }

    fn condition(self, kind: &str, generation: i64, old: &[Condition], now: Timestamp) -> Condition {
        let before = old.iter().find(|condition| condition.type_ == kind && condition.status == self.status);
        Condition {
            type_: kind.to_string(),
            status: self.status.to_string(),
            reason: self.reason.to_string(),
            message: self.message.chars().take(MAX_MESSAGE).collect(),
            observed_generation: Some(generation),
            last_transition_time: before.map_or(Time(now), |before| before.last_transition_time.clone()),
        }
    }
}

/// The API server refuses longer ones.
const MAX_MESSAGE: usize = 32_000;

/// The selector of a job's pods, as `kubectl scale` and autoscalers want it.
pub fn selector(job: &str) -> String {
    names::selector(job)
}

#[cfg(test)]
mod tests;
