//! Deploys, runs, replaces and gives up: the life of a job from its start to its end, attempt after attempt.
//!
//! A pure machine beside the coordinator. It knows which workers there are and what they run, and decides when a new attempt
//! begins: at once when a worker is lost, after the restart policy's back-off when a task failed or a worker is lost again
//! soon. Survivors stay: the new attempt is deployed onto them in place. Checkpoints are not its business.

mod events;
mod restart;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use weir_protocol::record::Opening;
use weir_protocol::settings::FailureKind;
use weir_protocol::{Attempt, WorkerId};

pub use events::{Action, End, Event, Failure, Note, RestartPolicy, Size};
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

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttemptMachine {
    policy: RestartPolicy,
    size: Size,
    /// Who holds which slots, by position.
    members: Vec<Option<WorkerId>>,
    /// Everyone with a session, and what it says it runs; members and standbys.
    ready: BTreeMap<WorkerId, Attempt>,
    /// Started, and not ready yet.
    starting: u32,
    start_failures: Failures,
    start_again_at: Option<Millis>,
    phase: Phase,
    failures: Failures,
    /// The attempt was begun because of a failure or a loss.
    again: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    New,
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
        resume: bool,
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
    pub fn new(policy: RestartPolicy, size: Size) -> Self {
        Self {
            policy,
            size,
            members: vec![None; size.workers as usize],
            ready: BTreeMap::new(),
            starting: 0,
            start_failures: Failures::default(),
            start_again_at: None,
            phase: Phase::New,
            failures: Failures::default(),
            again: false,
        }
    }

    /// Something happened.
    pub fn on(&mut self, now: Millis, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.phase == Phase::Ended {
            return actions;
        }
        match event {
            Event::Start => self.start(Vec::new(), &mut actions),
            Event::Resume { workers } => self.start(workers, &mut actions),
            Event::Tick => self.tick(now, &mut actions),
            Event::Configure(policy) => self.policy = policy,
            Event::WorkerReady { worker, attempt } => self.worker_ready(now, worker, attempt, &mut actions),
            Event::StartFailed { reason } => self.start_failed(now, reason, &mut actions),
            Event::WorkerLost { worker, cause } => self.worker_lost(now, &worker, cause, &mut actions),
            Event::TakenOver { opening } => {
                if let Phase::TakingOver { resume, .. } = self.phase {
                    self.phase = Phase::Gathering { opening, resume };
                    self.gather(now, &mut actions);
                }
            }
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
            Event::Deployed { worker, attempt } => self.deployed(now, worker, attempt, &mut actions),
            Event::TaskFailed(failure) => self.task_failed(now, failure, &mut actions),
            Event::Succeeded(record) => {
                if matches!(self.phase, Phase::Running { .. } | Phase::Stopping { .. }) {
                    self.end(End::Succeeded(record), &mut actions);
                }
            }
            Event::Superseded { by } => {
                self.phase = Phase::Ended;
                actions.push(Action::DropCoordinator);
                actions.push(Action::Ended(End::Superseded { by }));
            }
            Event::Stop { last_checkpoint } => match &self.phase {
                Phase::Running { opening, .. } if last_checkpoint => {
                    self.phase = Phase::Stopping { opening: Arc::clone(opening) };
                    actions.push(Action::TakeLast);
                }
                _ => self.end(End::Stopped(None), &mut actions),
            },
            Event::LastTaken(last) => {
                if matches!(self.phase, Phase::Stopping { .. }) {
                    self.end(End::Stopped(Some(last)), &mut actions);
                }
            }
        }
        actions
    }

    /// When the next [`Event::Tick`] is due.
    pub fn next_wake(&self) -> Option<Millis> {
        let phase = match &self.phase {
            Phase::BackOff { until } => Some(*until),
            Phase::TakingOver { retry_at, .. } => *retry_at,
            Phase::Deploying { suspect, .. } | Phase::Running { suspect, .. } => {
                suspect.as_ref().map(|suspect| suspect.until)
            }
            Phase::Ended => return None,
            Phase::New | Phase::Gathering { .. } | Phase::Stopping { .. } => None,
        };
        [phase, self.start_again_at].into_iter().flatten().min()
    }

    /// The opening of the attempt that is deployed or runs.
    pub fn opening(&self) -> Option<&Arc<Opening>> {
        match &self.phase {
            Phase::Gathering { opening, .. }
            | Phase::Deploying { opening, .. }
            | Phase::Running { opening, .. }
            | Phase::Stopping { opening } => Some(opening),
            _ => None,
        }
    }

    /// All workers run.
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }

    /// Who holds the slots, by position.
    pub fn members(&self) -> &[Option<WorkerId>] {
        &self.members
    }

    fn start(&mut self, running: Vec<WorkerId>, actions: &mut Vec<Action>) {
        if self.phase != Phase::New {
            return;
        }
        let resume = running.len() == self.members.len();
        if resume {
            self.members = running.into_iter().map(Some).collect();
        }
        self.fill();
        self.start_missing(actions);
        self.phase = Phase::TakingOver { resume, retry_at: None };
        actions.push(Action::TakeOver { resume });
    }

    fn tick(&mut self, now: Millis, actions: &mut Vec<Action>) {
        if self.start_again_at.is_some_and(|at| now >= at) {
            self.start_again_at = None;
            self.start_missing(actions);
        }
        match &mut self.phase {
            Phase::BackOff { until } if now >= *until => {
                self.phase = Phase::TakingOver { resume: false, retry_at: None };
                actions.push(Action::TakeOver { resume: false });
            }
            Phase::TakingOver { resume, retry_at } if retry_at.is_some_and(|at| now >= at) => {
                *retry_at = None;
                actions.push(Action::TakeOver { resume: *resume });
            }
            Phase::Deploying { suspect, .. } | Phase::Running { suspect, .. }
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

    /// Gives free positions to workers that are ready and hold none.
    fn fill(&mut self) {
        for position in 0..self.members.len() {
            if self.members[position].is_none() {
                let free =
                    self.ready.keys().find(|worker| !self.members.iter().flatten().any(|member| member == *worker));
                self.members[position] = free.cloned();
            }
        }
    }

    /// Starts as many processes as are neither there nor on their way.
    fn start_missing(&mut self, actions: &mut Vec<Action>) {
        if self.start_again_at.is_some() {
            return;
        }
        let unheard = self.members.iter().flatten().filter(|member| !self.ready.contains_key(*member)).count();
        let there = u32::try_from(self.ready.len() + unheard).unwrap_or(u32::MAX).saturating_add(self.starting);
        for _ in there..self.size.workers + self.size.standby {
            self.starting += 1;
            actions.push(Action::StartWorker);
        }
    }

    fn worker_ready(&mut self, now: Millis, worker: WorkerId, attempt: Attempt, actions: &mut Vec<Action>) {
        let expected =
            self.ready.contains_key(&worker) || self.members.iter().flatten().any(|member| *member == worker);
        if !expected {
            self.starting = self.starting.saturating_sub(1);
            self.start_failures.forget();
        }
        self.ready.insert(worker, attempt);
        self.fill();
        self.gather(now, actions);
    }

    fn start_failed(&mut self, now: Millis, reason: String, actions: &mut Vec<Action>) {
        self.starting = self.starting.saturating_sub(1);
        let after = match self.start_failures.next(&self.policy, Duration::ZERO) {
            Some(after) => after,
            // A standby that does not come is no reason to end a job that has all its workers.
            None if self.members.iter().all(Option::is_some) => self.policy.max_backoff,
            None => {
                let reason = format!("no worker could be started: {reason}");
                self.end(End::Failed { failure: None, reason }, actions);
                return;
            }
        };
        self.start_again_at = Some(now + after);
        actions.push(Action::Note(Note::StartFailed { reason }));
    }

    fn worker_lost(&mut self, now: Millis, worker: &WorkerId, cause: String, actions: &mut Vec<Action>) {
        let position = self.members.iter().position(|member| member.as_ref() == Some(worker));
        if self.ready.remove(worker).is_none() && position.is_none() {
            return;
        }
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
            self.members[position] = None;
            self.fill();
        }
        self.start_missing(actions);
        match &self.phase {
            Phase::Deploying { .. } | Phase::Running { .. } if position.is_some() => self.lost_a_member(now, actions),
            // The others still run the attempt that was to be resumed; it cannot go on without this one.
            Phase::Gathering { resume: true, .. } if position.is_some() => {
                self.restart(now, Duration::ZERO, 0, actions);
            }
            // A takeover that is under way is let come to its end; that it resumes nothing is found then.
            Phase::TakingOver { resume: true, retry_at } if retry_at.is_some() && position.is_some() => {
                self.phase = Phase::TakingOver { resume: false, retry_at: *retry_at };
            }
            _ => {}
        }
    }

    /// A worker of the attempt is gone, or cut off from another: a new attempt, at once unless this happens again soon.
    fn lost_a_member(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let ran = self.ran(now);
        if self.again && ran < SOON {
            self.restart_after_backoff(now, None, "workers are lost again and again", actions);
        } else {
            self.restart(now, Duration::ZERO, 0, actions);
        }
    }

    fn task_failed(&mut self, now: Millis, failure: Failure, actions: &mut Vec<Action>) {
        let current = match &self.phase {
            Phase::Deploying { opening, .. } | Phase::Running { opening, .. } | Phase::Stopping { opening } => {
                opening.attempt
            }
            _ => return,
        };
        if failure.attempt != current || !self.members.iter().flatten().any(|member| *member == failure.worker) {
            return;
        }
        // The peer is the cause, and its loss is seen in a moment, by the platform or by missed pings.
        if failure.kind == FailureKind::PeerLost
            && let Phase::Deploying { suspect, .. } | Phase::Running { suspect, .. } = &mut self.phase
        {
            if suspect.is_none() {
                *suspect = Some(Suspicion { until: now + PEER_GRACE, failure });
                actions.push(Action::Note(Note::PeerLost));
            }
            return;
        }
        actions.push(Action::Note(Note::TaskFailed(failure.clone())));
        let reason = failure.message.clone();
        if failure.kind.is_fatal() {
            self.end(End::Failed { failure: Some(failure), reason }, actions);
            return;
        }
        match &self.phase {
            Phase::Stopping { .. } => self.end(End::Stopped(Some(Last::Failed { reason })), actions),
            _ => self.restart_after_backoff(now, Some(failure), &reason, actions),
        }
    }

    /// For how long all workers have run.
    fn ran(&self, now: Millis) -> Duration {
        match &self.phase {
            Phase::Running { since, .. } => now - *since,
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
        self.again = true;
        actions.push(Action::DropCoordinator);
        actions.push(Action::Note(Note::Restarting { after, failures }));
        if after.is_zero() {
            self.phase = Phase::TakingOver { resume: false, retry_at: None };
            actions.push(Action::TakeOver { resume: false });
        } else {
            self.phase = Phase::BackOff { until: now + after };
        }
    }

    /// The opening stands: once all positions have a worker that is ready, deploys onto them, or goes on.
    fn gather(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let Phase::Gathering { opening, resume } = &self.phase else { return };
        let (opening, resume) = (Arc::clone(opening), *resume);
        let workers: Vec<WorkerId> = self.members.iter().flatten().cloned().collect();
        if resume && workers.len() < self.members.len() {
            self.restart(now, Duration::ZERO, 0, actions);
            return;
        }
        if workers.len() < self.members.len() || !workers.iter().all(|worker| self.ready.contains_key(worker)) {
            return;
        }
        let goes_on = workers.iter().all(|worker| self.ready.get(worker) == Some(&opening.attempt));
        if resume && goes_on {
            self.run(now, opening, workers, true, actions);
        } else if resume {
            self.restart(now, Duration::ZERO, 0, actions);
        } else {
            let attempt = opening.attempt;
            self.phase = Phase::Deploying { opening: Arc::clone(&opening), deployed: BTreeSet::new(), suspect: None };
            actions.push(Action::Note(Note::Deploying { attempt }));
            actions.push(Action::Deploy { opening, workers });
        }
    }

    fn deployed(&mut self, now: Millis, worker: WorkerId, attempt: Attempt, actions: &mut Vec<Action>) {
        let Phase::Deploying { opening, deployed, .. } = &mut self.phase else { return };
        if attempt != opening.attempt || !self.members.iter().flatten().any(|member| *member == worker) {
            return;
        }
        self.ready.insert(worker.clone(), attempt);
        deployed.insert(worker);
        if self.members.iter().flatten().all(|member| deployed.contains(member)) {
            let opening = Arc::clone(opening);
            let workers = self.members.iter().flatten().cloned().collect();
            self.run(now, opening, workers, false, actions);
        }
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
        self.phase = Phase::Running { opening: Arc::clone(&opening), since: now, suspect: None };
        actions.push(Action::Run { opening, workers, resumed });
        actions.push(Action::Note(Note::Running { attempt, resumed }));
    }

    fn end(&mut self, end: End, actions: &mut Vec<Action>) {
        self.phase = Phase::Ended;
        actions.push(Action::DropCoordinator);
        actions.extend(self.ready.keys().map(|worker| Action::StopWorker { worker: worker.clone() }));
        actions.push(Action::Ended(end));
    }
}
