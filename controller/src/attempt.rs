//! Deploys, runs, replaces, changes and gives up: the life of a job from its start to its end, attempt after attempt.
//!
//! A pure machine beside the coordinator. It knows which workers there are and what they run, and decides when a new attempt
//! begins: at once when a worker is lost, after the restart policy's back-off when a task failed or a worker is lost again
//! soon, and by a hand-over when the job is changed or a worker is told to go. Survivors stay: the new attempt is deployed
//! onto them in place. Checkpoints are not its business.
//!
//! A hand-over waits until all workers that the next attempt needs are ready; the running attempt goes on until then. It begins
//! with a last checkpoint, and workers that are not needed any more are stopped only when the next attempt runs, so that one
//! that is refused can be taken back.

mod change;
mod crew;
mod events;
mod restart;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use weir_protocol::record::Opening;
use weir_protocol::settings::FailureKind;
use weir_protocol::{Attempt, WorkerId};

use change::Change;
use crew::Crew;
pub use events::{Action, Blocked, End, Event, Failure, Note, Planned, RestartPolicy, Size, Version};
use restart::Failures;

use crate::coordinator::Last;
use crate::time::Millis;

/// A worker that is lost again before the new attempt has run for so long makes the next one wait for the back-off:
/// something in the job may be killing it.
pub const SOON: Duration = Duration::from_secs(10);
/// A stream between two workers broke. If neither is found lost within this time (three missed pings, and some), the
/// network between them is the cause, and all begin anew.
pub const PEER_GRACE: Duration = Duration::from_secs(5);
/// From a takeover that storage did not answer to the next try.
pub const TAKE_OVER_RETRY: Duration = Duration::from_secs(1);
/// So long the workers of an attempt that is to be resumed have to answer. A process that is there answers in milliseconds;
/// one that has not in so long is not worth holding up the others.
pub const RESUME_PATIENCE: Duration = Duration::from_secs(10);
/// So long after a takeover another wish waits for what was wanted last to run again, as the version to go back to.
pub const LAST_VERSION_PATIENCE: Duration = Duration::from_secs(30);
/// From a worker that could not be asked for a plan to the next try.
pub const PLAN_RETRY: Duration = Duration::from_secs(1);
/// A version whose planning has crashed so often is refused: once may be the machine's doing, and each try costs a worker beside
/// a running attempt its processor and memory for a while.
pub const PLAN_CRASHES: u32 = 3;
/// From one try to the next where planning goes on crashing and the version cannot be refused, since it may be what runs.
pub const PLAN_PAUSE: Duration = Duration::from_mins(1);
/// From a last checkpoint before a hand-over that failed to the next try; the job runs on meanwhile.
pub const HAND_OVER_RETRY: Duration = Duration::from_secs(5);
/// A hand-over whose last checkpoint has failed so often is made without one: what keeps checkpoints from completing may be
/// what the change is to mend. Sources rewind to the newest record, as after a failure.
pub const HAND_OVER_TRIES: u32 = 3;

/// New workers that nothing has had room for in so long get the old ones' room: the hand-over begins without them, and the job
/// stands still until they are there. Sooner than this a cluster that grows by itself may have made room.
pub const NO_ROOM_PATIENCE: Duration = Duration::from_mins(1);
/// A worker that is to go works on until its successor is there. Where something is in the successor's way for so long, it is not
/// waited for: who goes would only hold up a drain, or a namespace, for its whole grace period.
pub const SUCCESSOR_PATIENCE: Duration = Duration::from_secs(3);

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttemptMachine {
    policy: RestartPolicy,
    /// What is deployed, or is being deployed.
    current: Version,
    /// What is wanted.
    target: Version,
    /// What ran last.
    good: Option<Version>,
    change: Change,
    crew: Crew,
    phase: Phase,
    failures: Failures,
    /// The attempt was begun because of a failure or a loss.
    again: bool,
    /// A stop is to follow as soon as what runs is resumed.
    stops: Option<Stop>,
    /// A running job was taken over: until then other wishes wait for what was wanted last.
    first_until: Option<Millis>,
}

/// A stop that came before it was known what runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stop {
    /// With a last checkpoint.
    Last,
    /// Without one.
    AtOnce,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    New,
    /// No attempt is under way; the first worker that is ready is asked for the plan.
    Planning,
    BackOff {
        until: Millis,
    },
    /// The next opening is being made.
    TakingOver {
        resume: bool,
        retry_at: Option<Millis>,
    },
    /// The opening stands; not all positions have a worker that is ready.
    Gathering {
        opening: Arc<Opening>,
    },
    /// The opening stands over an attempt that runs; its workers are looked for until then.
    Resuming {
        opening: Arc<Opening>,
        order: Vec<WorkerId>,
        until: Millis,
    },
    Deploying {
        opening: Arc<Opening>,
        deployed: BTreeSet<WorkerId>,
        suspect: Option<Suspicion>,
    },
    Running {
        opening: Arc<Opening>,
        since: Millis,
        suspect: Option<Suspicion>,
    },
    /// The coordinator takes the last checkpoint before the next attempt.
    HandingOver {
        opening: Arc<Opening>,
        since: Millis,
        suspect: Option<Suspicion>,
    },
    /// The coordinator takes the last checkpoint.
    Stopping {
        opening: Arc<Opening>,
    },
    Ended,
}

/// A stream between two workers broke, and neither has been found lost yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Suspicion {
    until: Millis,
    failure: Failure,
}

impl AttemptMachine {
    /// Nothing happens before [`Event::Start`] or [`Event::Resume`].
    pub fn new(policy: RestartPolicy, version: Version) -> Self {
        Self {
            policy,
            target: version.clone(),
            current: version,
            good: None,
            change: Change::default(),
            crew: Crew::default(),
            phase: Phase::New,
            failures: Failures::default(),
            again: false,
            stops: None,
            first_until: None,
        }
    }

    /// Something happened.
    pub fn on(&mut self, now: Millis, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.phase == Phase::Ended {
            return actions;
        }
        match event {
            Event::Start if self.phase == Phase::New => self.start(now, &mut actions),
            Event::Resume { found } if self.phase == Phase::New => self.take_up(found, &mut actions),
            Event::Start | Event::Resume { .. } => {}
            Event::Tick => self.tick(now, &mut actions),
            Event::Configure(policy) => self.policy = policy,
            Event::Standby(standby) => {
                self.current.size.standby = standby;
                self.target.size.standby = standby;
            }
            Event::Change { version, same } => self.changed(version, same, &mut actions),
            Event::Planned { version, planned } => self.planned(now, version, planned, &mut actions),
            Event::WorkerReady { worker, attempt, deploying, template } => {
                self.crew.welcome(worker, attempt, deploying, template);
                self.crew.fill(&self.current.template);
                self.gather(now, &mut actions);
            }
            Event::StartFailed { template, reason } => self.start_failed(now, &template, reason, &mut actions),
            Event::Blocked { template, by } => self.crew.is_blocked(now, &template, by),
            Event::WorkerLeaving { worker } => self.worker_leaving(&worker, &mut actions),
            Event::WorkerLost { worker, cause } => self.worker_lost(now, &worker, cause, &mut actions),
            Event::TakenOver { opening, order } => self.taken_over(now, opening, order, &mut actions),
            Event::TakeOverFailed { reason } => {
                if let Phase::TakingOver { retry_at, .. } = &mut self.phase {
                    *retry_at = Some(now + TAKE_OVER_RETRY);
                    actions.push(Action::Note(Note::TakeOverFailed { reason }));
                }
            }
            Event::TakeOverRefused { reason } => {
                if matches!(self.phase, Phase::TakingOver { .. }) {
                    self.end(End::Refused { reason }, &mut actions);
                }
            }
            Event::StorageGone { reason } => {
                if self.phase != Phase::Ended {
                    self.end(End::Refused { reason }, &mut actions);
                }
            }
            Event::Deployed { worker, attempt } => self.deployed(now, worker, attempt, &mut actions),
            Event::TaskFailed(failure) => self.task_failed(now, failure, &mut actions),
            Event::Succeeded(record) => {
                if let Phase::Running { .. } | Phase::HandingOver { .. } | Phase::Stopping { .. } = self.phase {
                    self.end(End::Succeeded(record), &mut actions);
                }
            }
            Event::Superseded { by } => {
                self.phase = Phase::Ended;
                actions.push(Action::DropCoordinator);
                actions.push(Action::Ended(End::Superseded { by }));
            }
            Event::Stop { last_checkpoint } => self.stop(last_checkpoint, &mut actions),
            Event::LastTaken(last) => match &self.phase {
                Phase::Stopping { .. } => self.end(End::Stopped(Some(last)), &mut actions),
                Phase::HandingOver { .. } => self.hand_over(now, last, &mut actions),
                _ => {}
            },
        }
        self.proceed(now, &mut actions);
        actions
    }

    fn start(&mut self, now: Millis, actions: &mut Vec<Action>) {
        if self.stops.is_some() {
            return self.end(End::Stopped(None), actions);
        }
        self.begin(now, actions);
    }

    /// Workers of these templates are there, and an attempt may run on them.
    fn take_up(&mut self, found: Vec<String>, actions: &mut Vec<Action>) {
        if self.stops == Some(Stop::AtOnce) {
            return self.end(End::Stopped(None), actions);
        }
        for template in found {
            self.crew.found(template);
        }
        self.phase = Phase::TakingOver { resume: true, retry_at: None };
        actions.push(Action::TakeOver { resume: true, version: self.current.number });
    }

    fn taken_over(&mut self, now: Millis, opening: Arc<Opening>, order: Vec<WorkerId>, actions: &mut Vec<Action>) {
        let Phase::TakingOver { resume, .. } = self.phase else { return };
        self.phase = if resume {
            self.first_until = Some(now + LAST_VERSION_PATIENCE);
            Phase::Resuming { opening, order, until: now + RESUME_PATIENCE }
        } else {
            Phase::Gathering { opening }
        };
        self.gather(now, actions);
    }

    fn stop(&mut self, last_checkpoint: bool, actions: &mut Vec<Action>) {
        match &self.phase {
            Phase::Running { opening, .. } if last_checkpoint => {
                self.phase = Phase::Stopping { opening: Arc::clone(opening) };
                actions.push(Action::TakeLast);
            }
            // The one that is being taken is the last.
            Phase::HandingOver { opening, .. } if last_checkpoint => {
                self.phase = Phase::Stopping { opening: Arc::clone(opening) };
            }
            // It runs, and nobody can take a checkpoint of it yet.
            Phase::TakingOver { resume: true, .. } | Phase::Resuming { .. } if last_checkpoint => {
                self.stops = Some(Stop::Last);
            }
            // It may run. Who that is has to be found before it can be ended.
            Phase::New => self.stops = Some(if last_checkpoint { Stop::Last } else { Stop::AtOnce }),
            _ => self.end(End::Stopped(None), actions),
        }
    }

    /// When the next [`Event::Tick`] is due.
    pub fn next_wake(&self) -> Option<Millis> {
        let phase = match &self.phase {
            Phase::BackOff { until } | Phase::Resuming { until, .. } => Some(*until),
            Phase::TakingOver { retry_at, .. } => *retry_at,
            Phase::Deploying { suspect, .. } | Phase::Running { suspect, .. } | Phase::HandingOver { suspect, .. } => {
                suspect.as_ref().map(|suspect| suspect.until)
            }
            Phase::Ended => return None,
            _ => None,
        };
        let running = matches!(self.phase, Phase::Running { suspect: None, .. });
        let early = [self.makes_room_at(), self.goes_without_at()].into_iter().flatten().min();
        let change = running.then_some(self.change.retry_at.or(early)).flatten();
        [phase, change, self.gives_room_back_at(), self.change.ask_at, self.crew.next_start()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The opening of the attempt that is deployed or runs.
    pub fn opening(&self) -> Option<&Arc<Opening>> {
        match &self.phase {
            Phase::Gathering { opening }
            | Phase::Resuming { opening, .. }
            | Phase::Deploying { opening, .. }
            | Phase::Running { opening, .. }
            | Phase::HandingOver { opening, .. }
            | Phase::Stopping { opening } => Some(opening),
            _ => None,
        }
    }

    /// All workers run.
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. } | Phase::HandingOver { .. })
    }

    /// The attempt that workers restore, if they do.
    pub fn deploying(&self) -> Option<Attempt> {
        match &self.phase {
            Phase::Deploying { opening, .. } => Some(opening.attempt),
            _ => None,
        }
    }

    /// Who holds the slots, by position.
    pub fn members(&self) -> &[Option<WorkerId>] {
        &self.crew.members
    }

    /// The version that is deployed or being deployed; 0 is that of a resumed attempt.
    pub fn version(&self) -> u64 {
        self.current.number
    }

    fn tick(&mut self, now: Millis, actions: &mut Vec<Action>) {
        self.crew.tick(now);
        self.change.tick(now);
        match &mut self.phase {
            Phase::BackOff { until } if now >= *until => self.begin(now, actions),
            Phase::TakingOver { resume, retry_at } if retry_at.is_some_and(|at| now >= at) => {
                *retry_at = None;
                actions.push(Action::TakeOver { resume: *resume, version: self.current.number });
            }
            Phase::Resuming { .. } => self.gather(now, actions),
            Phase::Deploying { suspect, .. } | Phase::Running { suspect, .. } | Phase::HandingOver { suspect, .. }
                if suspect.as_ref().is_some_and(|suspect| now >= suspect.until) =>
            {
                if let Some(Suspicion { failure, .. }) = suspect.take() {
                    actions.push(Action::Note(Note::TaskFailed(failure)));
                }
                self.lost_a_member(now, actions);
            }
            _ => {}
        }
    }

    fn start_failed(&mut self, now: Millis, template: &str, reason: String, actions: &mut Vec<Action>) {
        // One that was found and is gone was not started by us.
        if self.waits_for_found() {
            self.crew.given_up(template);
            self.gather(now, actions);
            return;
        }
        let again = self.crew.start_failed(now, template, &self.policy);
        if !again && self.is_changing() && template == self.target.template && template != self.current.template {
            self.refuse(self.target.number, format!("no worker could be started: {reason}"), actions);
            return;
        }
        if !again && self.has_made_room() {
            self.give_room_back(now, &format!("no worker could be started: {reason}"), actions);
            return;
        }
        // A standby that does not come is no reason to end a job that has all its workers.
        if !again && self.crew.complete().is_none_or(|members| members.is_empty()) {
            let reason = format!("no worker could be started: {reason}");
            self.end(End::Failed { failure: None, reason }, actions);
            return;
        }
        actions.push(Action::Note(Note::StartFailed { reason }));
    }

    /// It still works, but not for long: a checkpoint at once, so that little is lost if it goes before its place is handed
    /// over, and a successor.
    fn worker_leaving(&mut self, worker: &WorkerId, actions: &mut Vec<Action>) {
        let Some(ready) = self.crew.ready.get_mut(worker).filter(|ready| !ready.leaving) else { return };
        ready.leaving = true;
        if self.crew.position(worker).is_some() && matches!(self.phase, Phase::Running { .. }) {
            actions.push(Action::Checkpoint);
        }
    }

    fn worker_lost(&mut self, now: Millis, worker: &WorkerId, cause: String, actions: &mut Vec<Action>) {
        if self.crew.ready.remove(worker).is_none() {
            return;
        }
        let planned = self.change.lost(worker);
        let position = self.crew.position(worker);
        let crash = planned.then(|| format!("the worker that was planning it was lost: {cause}"));
        let note = Note::WorkerLost { worker: worker.clone(), cause, position: position.map(|at| at as u32) };
        actions.push(Action::Note(note));
        if let Phase::Stopping { .. } = self.phase {
            if position.is_some() {
                let reason = format!("worker {worker} was lost before the last checkpoint was complete");
                self.end(End::Stopped(Some(Last::Failed { reason })), actions);
            }
            return;
        }
        if let Some(position) = position {
            self.crew.members[position] = None;
            self.crew.fill(&self.current.template);
        }
        match &self.phase {
            Phase::Deploying { .. } | Phase::Running { .. } | Phase::HandingOver { .. } if position.is_some() => {
                self.lost_a_member(now, actions);
            }
            // The others still run the attempt that was to be resumed; whether it can go on without this one is seen there.
            Phase::Resuming { .. } => self.gather(now, actions),
            _ => {}
        }
        if let Some(reason) = crash
            && self.phase != Phase::Ended
        {
            self.plan_crashed(now, worker, &reason, Duration::ZERO, actions);
        }
    }

    /// A worker of the attempt is gone, or cut off from another: a new attempt, at once unless this happens again soon.
    fn lost_a_member(&mut self, now: Millis, actions: &mut Vec<Action>) {
        if self.again && self.ran(now) < SOON {
            self.restart_after_backoff(now, None, "workers are lost again and again", actions);
        } else {
            self.restart(now, Duration::ZERO, 0, actions);
        }
    }

    fn task_failed(&mut self, now: Millis, failure: Failure, actions: &mut Vec<Action>) {
        let Some(current) = self.deployment() else { return };
        // Who holds the slots of an attempt that is being resumed is not known yet; who runs it is one of them.
        let member = self.crew.position(&failure.worker).is_some() || matches!(self.phase, Phase::Resuming { .. });
        if failure.attempt != current || !member {
            return;
        }
        // The peer is the cause, and its loss is seen in a moment, by the platform or by missed pings.
        if failure.kind == FailureKind::PeerLost
            && let Phase::Deploying { suspect, .. }
            | Phase::Running { suspect, .. }
            | Phase::HandingOver { suspect, .. } = &mut self.phase
        {
            if suspect.is_none() {
                *suspect = Some(Suspicion { until: now + PEER_GRACE, failure });
                actions.push(Action::Note(Note::PeerLost));
            }
            return;
        }
        // One of its workers was lost while nobody looked.
        if failure.kind == FailureKind::PeerLost && matches!(self.phase, Phase::Resuming { .. }) {
            self.restart(now, Duration::ZERO, 0, actions);
            return;
        }
        let reason = failure.message.clone();
        if self.takes_back(&failure, actions) {
            self.restart(now, Duration::ZERO, 0, actions);
            return;
        }
        actions.push(Action::Note(Note::TaskFailed(failure.clone())));
        // It may have been tried in place of what was taken up last, which is not at fault then.
        if matches!(self.phase, Phase::Deploying { .. }) && self.is_resumed() && failure.kind.is_unfit() {
            self.restart(now, Duration::ZERO, 0, actions);
            return;
        }
        if failure.kind.is_fatal() {
            self.end(End::Failed { failure: Some(failure), reason }, actions);
            return;
        }
        match &self.phase {
            Phase::Stopping { .. } => self.end(End::Stopped(Some(Last::Failed { reason })), actions),
            _ => self.restart_after_backoff(now, Some(failure), &reason, actions),
        }
    }

    /// The attempt that workers have been told to deploy.
    fn deployment(&self) -> Option<Attempt> {
        match &self.phase {
            Phase::Resuming { opening, .. }
            | Phase::Deploying { opening, .. }
            | Phase::Running { opening, .. }
            | Phase::HandingOver { opening, .. }
            | Phase::Stopping { opening } => Some(opening.attempt),
            _ => None,
        }
    }

    /// For how long all workers have run.
    fn ran(&self, now: Millis) -> Duration {
        match &self.phase {
            Phase::Running { since, .. } | Phase::HandingOver { since, .. } => now - *since,
            _ => Duration::ZERO,
        }
    }

    fn restart_after_backoff(
        &mut self,
        now: Millis,
        failure: Option<Failure>,
        reason: &str,
        actions: &mut Vec<Action>,
    ) {
        match self.failures.next(&self.policy, self.ran(now)) {
            Some(after) => self.restart(now, after, self.failures.count(), actions),
            None => {
                let reason = format!("{} failures in a row, the last: {reason}", self.failures.count());
                self.end(End::Failed { failure, reason }, actions);
            }
        }
    }

    fn restart(&mut self, now: Millis, after: Duration, failures: u32, actions: &mut Vec<Action>) {
        if self.stops.is_some() {
            self.end(End::Stopped(None), actions);
            return;
        }
        self.again = true;
        actions.push(Action::DropCoordinator);
        actions.push(Action::Note(Note::Restarting { after, failures }));
        if after.is_zero() {
            self.begin(now, actions);
        } else {
            self.phase = Phase::BackOff { until: now + after };
        }
    }

    /// The next attempt begins, with what is wanted, or, while that is not ready, with what there was.
    fn begin(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let next = self.next_version().clone();
        self.begin_as(now, next, actions);
    }

    fn begin_as(&mut self, now: Millis, version: Version, actions: &mut Vec<Action>) {
        self.current = version;
        self.change.begun();
        if self.current.number == 0 {
            let reason = "the attempt that was resumed cannot be deployed anew, and what is wanted was refused";
            self.end(End::Failed { failure: None, reason: reason.to_string() }, actions);
            return;
        }
        if self.made_room() {
            self.stop_others(actions);
        }
        self.crew.lay_out(&self.current);
        self.phase = Phase::Planning;
        self.start_missing(actions);
        if self.current.planned {
            self.take_over(actions);
        } else {
            self.ask(now, actions);
        }
    }

    fn take_over(&mut self, actions: &mut Vec<Action>) {
        self.phase = Phase::TakingOver { resume: false, retry_at: None };
        actions.push(Action::TakeOver { resume: false, version: self.current.number });
    }

    /// The opening stands: once all positions have a worker that is ready, deploys onto them, or goes on.
    fn gather(&mut self, now: Millis, actions: &mut Vec<Action>) {
        match &self.phase {
            Phase::Resuming { opening, order, until } => {
                let wanted = opening.workers as usize;
                let runs_it = |worker: &&WorkerId| {
                    self.crew.ready.get(*worker).is_some_and(|ready| ready.attempt == opening.attempt)
                };
                // Who is known to hold which slots comes first, in that order.
                let known = order.iter().filter(runs_it);
                let others = self.crew.ready.keys().filter(runs_it).filter(|worker| !order.contains(worker));
                let workers: Vec<WorkerId> = known.chain(others).cloned().collect();
                if workers.len() == wanted {
                    let opening = Arc::clone(opening);
                    self.resume(now, opening, workers, actions);
                } else if now >= *until {
                    // Who is silent is as good as dead, and must not stand in the way of its successor.
                    self.abandon_beyond(&BTreeMap::new(), actions);
                    self.restart(now, Duration::ZERO, 0, actions);
                } else if workers.len() + self.crew.unheard() < wanted {
                    self.restart(now, Duration::ZERO, 0, actions);
                }
            }
            Phase::Gathering { opening } => {
                let Some(workers) = self.crew.complete() else { return };
                let (opening, version) = (Arc::clone(opening), self.current.number);
                let attempt = opening.attempt;
                self.phase =
                    Phase::Deploying { opening: Arc::clone(&opening), deployed: BTreeSet::new(), suspect: None };
                actions.push(Action::Note(Note::Deploying { attempt }));
                actions.push(Action::Deploy { opening, workers, version });
            }
            _ => {}
        }
    }

    fn deployed(&mut self, now: Millis, worker: WorkerId, attempt: Attempt, actions: &mut Vec<Action>) {
        // Also while the others of an attempt that is resumed are looked for.
        if let Some(ready) = self.crew.ready.get_mut(&worker).filter(|ready| ready.attempt <= attempt) {
            (ready.attempt, ready.deploying) = (attempt, false);
        }
        let Phase::Deploying { opening, deployed, .. } = &mut self.phase else { return };
        if attempt != opening.attempt || self.crew.position(&worker).is_none() {
            return;
        }
        deployed.insert(worker);
        if self.crew.members.iter().flatten().all(|member| deployed.contains(member)) {
            let opening = Arc::clone(opening);
            let workers = self.crew.members.iter().flatten().cloned().collect();
            let resumed = self.is_resumed();
            self.run(now, opening, workers, resumed, actions);
        }
    }

    /// Another has begun what is deployed.
    fn is_resumed(&self) -> bool {
        self.current.number == 0
    }

    fn run(
        &mut self,
        now: Millis,
        opening: Arc<Opening>,
        workers: Vec<WorkerId>,
        resumed: bool,
        actions: &mut Vec<Action>,
    ) {
        let attempt = opening.attempt;
        self.good = Some(self.current.clone());
        self.change.runs();
        self.phase = Phase::Running { opening: Arc::clone(&opening), since: now, suspect: None };
        actions.push(Action::Run { opening, workers, resumed });
        actions.push(Action::Note(Note::Running { attempt, resumed, version: self.current.number }));
    }

    fn end(&mut self, end: End, actions: &mut Vec<Action>) {
        self.phase = Phase::Ended;
        actions.push(Action::DropCoordinator);
        actions.extend(self.crew.ready.keys().map(|worker| Action::StopWorker { worker: worker.clone() }));
        actions.push(Action::Ended(end));
    }
}
