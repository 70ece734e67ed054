//! Another version of the job, or another worker in a place: what has to be there before the next attempt, when it begins, and
//! when it is taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use weir_protocol::record::Opening;
use weir_protocol::settings::FailureKind;
use weir_protocol::{Attempt, WorkerId};

use super::{
    Action, AttemptMachine, End, Failure, HAND_OVER_RETRY, HAND_OVER_TRIES, NO_ROOM_PATIENCE, Note, PLAN_CRASHES,
    PLAN_PAUSE, PLAN_RETRY, Phase, Planned, SUCCESSOR_PATIENCE, Size, Version,
};
use crate::coordinator::Last;
use crate::time::Millis;

/// How far a change is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Change {
    /// An attempt was resumed, and whether it is what is wanted is seen when that is planned.
    unsure: bool,
    /// The worker that is asked for the plan.
    asked: Option<WorkerId>,
    /// One that was asked and did not answer. If it is found lost next, planning may have been the cause.
    silent: Option<WorkerId>,
    /// Planning has crashed so often.
    crashes: u32,
    /// When the next one is asked.
    pub ask_at: Option<Millis>,
    /// Hand-overs begun.
    tries: u32,
    /// When the next is begun.
    pub retry_at: Option<Millis>,
    /// The workers of the version before went since nothing had room for both, and what is wanted does not run yet.
    made_room: Option<Millis>,
}

impl Change {
    pub(super) fn tick(&mut self, now: Millis) {
        self.ask_at = self.ask_at.filter(|at| now < *at);
        self.retry_at = self.retry_at.filter(|at| now < *at);
    }

    /// What was resumed is no more.
    pub(super) fn begun(&mut self) {
        self.unsure = false;
    }

    /// There is no way back from here but another change.
    pub(super) fn runs(&mut self) {
        self.made_room = None;
    }

    /// Says whether it was planning.
    pub(super) fn lost(&mut self, worker: &WorkerId) -> bool {
        let planned = [&self.asked, &self.silent].contains(&&Some(worker.clone()));
        self.asked = self.asked.take().filter(|asked| asked != worker);
        self.silent = self.silent.take().filter(|silent| silent != worker);
        planned
    }
}

impl AttemptMachine {
    /// Another version is wanted than the one that is deployed.
    pub(super) fn is_changing(&self) -> bool {
        self.target.number != self.current.number
    }

    /// What the next attempt is made of: what is wanted where it can begin, else what ran last.
    pub(super) fn next_version(&self) -> &Version {
        let ready = self.target.planned && self.crew.suffices(&self.target);
        // Nothing to go back to: never did anything run, or what runs was resumed and is not known here.
        // Or what ran last has gone to make room, and was not for a version that is not wanted any more.
        let only = self.good.is_none()
            || (self.current.number == 0 && self.change_is_open())
            || (self.change.made_room.is_some() && self.is_changing());
        if only || ready { &self.target } else { &self.current }
    }

    /// What is wanted has not been refused.
    fn change_is_open(&self) -> bool {
        self.target.number != 0
    }

    /// All that follows from where things stand, and is due.
    pub(super) fn proceed(&mut self, now: Millis, actions: &mut Vec<Action>) {
        if let Phase::New | Phase::Ended | Phase::Stopping { .. } = self.phase {
            return;
        }
        if self.gives_room_back_at().is_some_and(|at| now >= at) {
            let reason = self.crew.blocked(&self.current.template).map(|(by, _)| by.reason.clone()).unwrap_or_default();
            let reason = format!("its workers do not come, also without those of the version before: {reason}");
            self.give_room_back(now, &reason, actions);
        }
        if let Phase::Planning
        | Phase::BackOff { .. }
        | Phase::TakingOver { resume: false, .. }
        | Phase::Gathering { .. } = self.phase
        {
            // They have no work, and are not to be waited for.
            let leaving = self.crew.dismiss_leaving(&self.current.template);
            if !leaving.is_empty() {
                actions.extend(leaving.into_iter().map(|worker| Action::StopWorker { worker }));
                self.gather(now, actions);
            }
        }
        self.start_missing(actions);
        self.ask(now, actions);
        match &self.phase {
            // Nothing runs that would be disturbed.
            Phase::Planning | Phase::BackOff { .. } | Phase::Gathering { .. }
                if self.next_version().number != self.current.number =>
            {
                self.begin(now, actions);
            }
            Phase::Planning if self.current.planned => self.take_over(actions),
            Phase::Running { opening, since, suspect: None } if self.hand_over_is_due(now) => {
                let (opening, since) = (Arc::clone(opening), *since);
                self.change.tries += 1;
                self.phase = Phase::HandingOver { opening, since, suspect: None };
                actions.push(Action::Note(Note::HandingOver { version: self.target.number }));
                actions.push(Action::TakeLast);
            }
            Phase::Running { .. } => {
                let wanted = self.wanted();
                let surplus = self.crew.dismiss(&wanted);
                actions.extend(surplus.into_iter().map(|worker| Action::StopWorker { worker }));
            }
            _ => {}
        }
        self.abandon_starts(actions);
    }

    /// What is on its way and not wanted any more is called off: its image may never be pulled, no node may ever take it.
    fn abandon_starts(&mut self, actions: &mut Vec<Action>) {
        if self.waits_for_found() || self.phase == Phase::Ended {
            return;
        }
        let wanted = self.wanted();
        self.abandon_beyond(&wanted, actions);
    }

    /// Calls off what is on its way beyond so many workers of each template.
    pub(super) fn abandon_beyond(&mut self, wanted: &BTreeMap<String, u32>, actions: &mut Vec<Action>) {
        let abandoned = self.crew.abandon(wanted);
        actions.extend(abandoned.into_iter().map(|(template, count)| Action::AbandonStarts { template, count }));
    }

    /// A controller has come to a running job, and the attempt's workers are still looked for, or do not run yet.
    pub(super) fn waits_for_found(&self) -> bool {
        match self.phase {
            Phase::TakingOver { resume, .. } => resume,
            Phase::Resuming { .. } => true,
            Phase::Deploying { .. } => self.is_resumed(),
            _ => false,
        }
    }

    /// What runs here is still being found out: whether anything does, and whether it is what was wanted last. Another wish is to
    /// wait until then, since it would take the place of the only version that can be gone back to.
    pub fn is_unsure(&self, now: Millis) -> bool {
        let can_tell = || !self.crew.eligible(&self.target.template).is_empty();
        let not_yet = || if self.is_running() { self.change.unsure && can_tell() } else { self.good.is_none() };
        self.phase == Phase::New
            || self.waits_for_found()
            || (self.first_until.is_some_and(|until| now < until) && not_yet())
    }

    /// How many workers of each template there should be.
    fn wanted(&self) -> BTreeMap<String, u32> {
        let mut wanted = BTreeMap::new();
        let mut want = |template: &String, workers: u32| {
            let most: &mut u32 = wanted.entry(template.clone()).or_default();
            *most = (*most).max(workers);
        };
        let Size { workers, standby } = self.target.size;
        if self.is_changing() {
            // What was resumed is not known well enough to start more of it.
            if self.current.number != 0 {
                want(&self.current.template, self.current.size.workers);
            }
            // A script that does not plan is found with one worker; until then no more are started. After a resume it is
            // most likely what runs already.
            let all = self.target.planned || self.current.number == 0;
            want(&self.target.template, if all { workers + standby } else { 1 });
        } else {
            want(&self.target.template, workers + standby);
        }
        wanted
    }

    /// Starts as many processes as are neither there nor on their way.
    pub(super) fn start_missing(&mut self, actions: &mut Vec<Action>) {
        if self.phase == Phase::New || self.waits_for_found() {
            return;
        }
        for (template, wanted) in self.wanted() {
            let version = if template == self.target.template { &self.target } else { &self.current };
            let version = version.number;
            if version == 0 {
                continue;
            }
            for _ in 0..self.crew.start(&template, wanted) {
                actions.push(Action::StartWorker { version });
            }
        }
    }

    /// Has a worker of what is wanted plan it, if that is not done.
    pub(super) fn ask(&mut self, now: Millis, actions: &mut Vec<Action>) {
        if self.waits_for_found() {
            return;
        }
        let known = self.target.planned && !self.change.unsure;
        if known || self.change.asked.is_some() || self.change.ask_at.is_some_and(|at| now < at) {
            return;
        }
        let worker = self.crew.eligible(&self.target.template).first().map(|worker| (*worker).clone());
        if let Some(worker) = worker {
            self.change.asked = Some(worker.clone());
            self.change.silent = None;
            actions.push(Action::Plan { worker, version: self.target.number });
        }
    }

    pub(super) fn changed(&mut self, version: Version, same: bool, actions: &mut Vec<Action>) {
        if version.number == self.target.number || matches!(self.phase, Phase::Stopping { .. }) {
            return;
        }
        self.change = Change { made_room: self.change.made_room, ..Change::default() };
        self.target = version;
        if self.phase == Phase::New {
            self.current = self.target.clone();
        } else if self.target.planned && same {
            self.adopt(actions);
        }
    }

    /// What is wanted is what runs, if it runs on the right workers.
    fn adopt(&mut self, actions: &mut Vec<Action>) {
        let size = self.current.size.workers == self.target.size.workers;
        if size && self.is_running() && self.crew.is_settled(&self.target.template) {
            self.current = self.target.clone();
            self.good = Some(self.target.clone());
            actions.push(Action::Note(Note::Applied { version: self.target.number }));
        }
    }

    pub(super) fn planned(&mut self, now: Millis, version: u64, planned: Planned, actions: &mut Vec<Action>) {
        if version != self.target.number {
            return;
        }
        let Some(worker) = self.change.asked.take() else { return };
        match planned {
            Planned::Fits { same } => {
                self.target.planned = true;
                self.change.unsure = false;
                self.change.crashes = 0;
                if !self.is_changing() {
                    self.current.planned = true;
                } else if same {
                    self.adopt(actions);
                }
            }
            Planned::Refused { failure } => self.plan_refused(now, failure, actions),
            Planned::Unreachable => {
                self.change.silent = Some(worker);
                self.change.ask_at = Some(now + PLAN_RETRY);
            }
            Planned::Crashed { reason } => self.plan_crashed(now, &worker, &reason, PLAN_RETRY, actions),
        }
    }

    /// What is wanted cannot be planned.
    fn plan_refused(&mut self, now: Millis, failure: Failure, actions: &mut Vec<Action>) {
        // Its workers have the room of those that ran.
        if self.has_made_room() {
            self.give_room_back(now, &failure.message, actions);
            return;
        }
        if self.good.is_some() {
            self.refuse(self.target.number, failure.message, actions);
            return;
        }
        let reason = failure.message.clone();
        actions.push(Action::Note(Note::TaskFailed(failure.clone())));
        self.end(End::Failed { failure: Some(failure), reason }, actions);
    }

    /// Planning did not come to its end. Another worker is asked after a while, and after the last of [`PLAN_CRASHES`] none: what
    /// runs is not to be worn down by what is only wanted.
    pub(super) fn plan_crashed(
        &mut self,
        now: Millis,
        worker: &WorkerId,
        reason: &str,
        retry: Duration,
        actions: &mut Vec<Action>,
    ) {
        self.change.crashes = (self.change.crashes + 1).min(PLAN_CRASHES);
        let last = self.change.crashes == PLAN_CRASHES;
        // What was resumed is most likely this very version, and it has been planned before.
        if last && self.current.number != 0 {
            let failure = Failure {
                worker: worker.clone(),
                attempt: Attempt(0),
                operator: String::new(),
                subtask: 0,
                kind: FailureKind::Plan,
                message: format!("planning it failed {PLAN_CRASHES} times and is not tried again: {reason}"),
            };
            self.plan_refused(now, failure, actions);
            return;
        }
        if self.is_running() {
            let reason = format!("planning it failed, and is tried again: {reason}");
            actions.push(Action::Note(Note::ChangeWaits { version: self.target.number, reason }));
        }
        let pause = if last { PLAN_PAUSE } else { retry };
        self.change.ask_at = (!pause.is_zero()).then(|| now + pause);
    }

    /// A version cannot be: it is as if it had not been asked for.
    pub(super) fn refuse(&mut self, version: u64, reason: String, actions: &mut Vec<Action>) {
        actions.push(Action::Note(Note::ChangeRefused { version, reason }));
        let size = Size { standby: self.target.size.standby, ..self.current.size };
        self.target = Version { size, ..self.current.clone() };
        self.change = Change::default();
    }

    /// A new version that does not fit the state is taken back, if there is one to go back to.
    pub(super) fn takes_back(&mut self, failure: &Failure, actions: &mut Vec<Action>) -> bool {
        let Some(good) = self.good.clone().filter(|good| good.number != self.current.number && good.number != 0) else {
            return false;
        };
        if !failure.kind.is_unfit() || !matches!(self.phase, Phase::Deploying { .. }) {
            return false;
        }
        self.back_to(good, failure.message.clone(), actions);
        true
    }

    /// What is deployed, or was to be, is refused, and what ran before is to run again.
    fn back_to(&mut self, good: Version, reason: String, actions: &mut Vec<Action>) {
        let (refused, made_room) = (self.current.number, self.change.made_room.is_some());
        let wanted = self.target.clone();
        self.current = good;
        self.refuse(refused, reason, actions);
        if made_room {
            self.stop_others(actions);
        }
        // Where something else is wanted by now, only what was tried is refused.
        if wanted.number != refused {
            self.target = wanted;
        }
    }

    /// Where there is no room for two sorts of workers, those that are not of what is begun go at once.
    pub(super) fn stop_others(&mut self, actions: &mut Vec<Action>) {
        let others = self.crew.dismiss_others(&self.current.template);
        actions.extend(others.into_iter().map(|worker| Action::StopWorker { worker }));
    }

    pub(super) fn made_room(&self) -> bool {
        self.change.made_room.is_some()
    }

    /// The workers of what ran last went for what is wanted, and that does not run yet.
    pub(super) fn has_made_room(&self) -> bool {
        let waits = matches!(self.phase, Phase::Planning | Phase::Gathering { .. });
        let good = self.good.as_ref().is_some_and(|good| good.number != self.current.number && good.number != 0);
        self.change.made_room.is_some() && waits && good
    }

    /// What ran last runs again: what was wanted in its place cannot be.
    pub(super) fn give_room_back(&mut self, now: Millis, reason: &str, actions: &mut Vec<Action>) {
        let Some(good) = self.good.clone() else { return };
        self.back_to(good, reason.to_string(), actions);
        self.begin(now, actions);
    }

    /// When that is to happen, since the new workers do not come, even now.
    pub(super) fn gives_room_back_at(&self) -> Option<Millis> {
        let (made, (_, since)) = (self.change.made_room?, self.crew.blocked(&self.current.template)?);
        self.has_made_room().then(|| made.max(since) + NO_ROOM_PATIENCE)
    }

    /// The next attempt has all that it needs, and there is a reason for it.
    fn hand_over_is_due(&self, now: Millis) -> bool {
        let can = self.can_hand_over() || self.makes_room(now) || self.goes_without(now);
        self.has_reason() && can && self.change.retry_at.is_none_or(|at| now >= at)
    }

    /// Something else is wanted than what runs, or other workers.
    fn has_reason(&self) -> bool {
        self.is_changing() || !self.crew.is_settled(&self.target.template)
    }

    /// When the old workers are to go before the new ones are there: nothing has room for both. Whether the script plans may not be
    /// known yet, where there is no room for a single one.
    pub(super) fn makes_room_at(&self) -> Option<Millis> {
        let other = self.is_changing() && self.target.template != self.current.template;
        let planned = self.target.planned || self.crew.eligible(&self.target.template).is_empty();
        let (by, since) = self.crew.blocked(&self.target.template)?;
        (other && by.room && planned && !self.change.unsure).then(|| since + NO_ROOM_PATIENCE)
    }

    fn makes_room(&self, now: Millis) -> bool {
        self.makes_room_at().is_some_and(|at| now >= at)
    }

    /// When a worker that is to go is not kept any longer, though there is no successor: none can come.
    pub(super) fn goes_without_at(&self) -> Option<Millis> {
        let (_, since) = self.crew.blocked(&self.current.template)?;
        (self.crew.is_leaving() && self.current.number != 0).then(|| since + SUCCESSOR_PATIENCE)
    }

    fn goes_without(&self, now: Millis) -> bool {
        self.goes_without_at().is_some_and(|at| now >= at)
    }

    fn can_hand_over(&self) -> bool {
        self.target.planned && !self.change.unsure && self.crew.suffices(&self.target)
    }

    /// The last checkpoint before the next attempt was taken, or was not.
    pub(super) fn hand_over(&mut self, now: Millis, last: Last, actions: &mut Vec<Action>) {
        let Phase::HandingOver { opening, since, suspect } = &self.phase else { return };
        let (opening, since, suspect) = (Arc::clone(opening), *since, suspect.clone());
        if !self.has_reason() {
            // What was wanted is not any more.
            self.phase = Phase::Running { opening, since, suspect };
            actions.push(Action::CarryOn);
            return;
        }
        let makes_room = !self.can_hand_over() && self.makes_room(now);
        let goes_without = !self.can_hand_over() && !makes_room && self.goes_without(now);
        let can = self.can_hand_over() || makes_room || goes_without;
        let reason = match last {
            Last::Taken { .. } if can => None,
            Last::Failed { .. } if can && self.change.tries >= HAND_OVER_TRIES => None,
            Last::Taken { .. } => Some("a worker that it needs is gone".to_string()),
            Last::Failed { reason } => Some(format!("no last checkpoint: {reason}")),
        };
        match reason {
            None => {
                self.again = false;
                self.change = Change::default();
                actions.push(Action::DropCoordinator);
                actions.push(Action::Note(Note::HandedOver));
                if makes_room {
                    self.change.made_room = Some(now);
                }
                let next = if goes_without { self.next_version().clone() } else { self.target.clone() };
                self.begin_as(now, next, actions);
            }
            Some(reason) => {
                self.phase = Phase::Running { opening, since, suspect };
                self.change.retry_at = Some(now + HAND_OVER_RETRY);
                actions.push(Action::CarryOn);
                actions.push(Action::Note(Note::ChangeWaits { version: self.target.number, reason }));
            }
        }
    }

    /// All workers of the attempt that was found are there: it goes on. Where the one before has died while it was deployed,
    /// it runs when that is done.
    pub(super) fn resume(
        &mut self,
        now: Millis,
        opening: Arc<Opening>,
        workers: Vec<WorkerId>,
        actions: &mut Vec<Action>,
    ) {
        let template = workers.first().and_then(|worker| self.crew.ready.get(worker));
        self.current = Version {
            number: 0,
            size: Size { workers: opening.workers, standby: 0 },
            template: template.map(|ready| ready.template.clone()).unwrap_or_default(),
            planned: true,
        };
        self.change.unsure = true;
        self.crew.members = workers.iter().cloned().map(Some).collect();
        let is_deployed = |worker: &&WorkerId| self.crew.ready.get(*worker).is_some_and(|ready| !ready.deploying);
        let deployed: BTreeSet<WorkerId> = workers.iter().filter(is_deployed).cloned().collect();
        if deployed.len() < workers.len() {
            let attempt = opening.attempt;
            self.phase = Phase::Deploying { opening, deployed, suspect: None };
            if self.stops.take().is_some() {
                // It has done nothing since the checkpoint that it is restored from.
                self.end(End::Stopped(None), actions);
            } else {
                actions.push(Action::Note(Note::Deploying { attempt }));
            }
            return;
        }
        self.run(now, Arc::clone(&opening), workers, true, actions);
        if self.stops.take().is_some() {
            self.phase = Phase::Stopping { opening };
            actions.push(Action::TakeLast);
        }
    }
}
