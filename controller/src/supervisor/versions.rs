//! The versions of the job that have been wanted: what each is, its plan, and which of them an attempt is made of.

use weir_protocol::{WorkerId, settings::FailureKind};

use super::{Change, Done, Input, Supervisor};
use crate::{
    attempt::{self, Planned},
    facts::Fact,
    job::{Job, Live},
    takeover::Restore,
    workers::{
        planner::{self, Plan, PlanError},
        session,
    },
};

/// Versions kept: the wanted one, the one that runs, the one that ran last, and some that a plan may still be on its way for.
const KEPT: usize = 8;

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub job: Job,
    pub fingerprint: Option<String>,
    /// Its first attempt begins with empty state.
    pub empty: bool,
}

impl Wanted {
    pub(super) fn version(&self, number: u64) -> attempt::Version {
        attempt::Version {
            number,
            size: self.job.size(),
            template: self.job.template.hash.clone(),
            planned: self.fingerprint.is_some(),
        }
    }
}

impl Supervisor {
    /// The next attempt is made of this one.
    pub(super) fn use_version(&mut self, number: u64) {
        let Some(wanted) = self.versions.get(&number) else { return };
        self.job = wanted.job.clone();
        self.request.workers = self.job.workers;
        self.request.slots = self.job.slots;
        self.request.max_parallelism = self.job.plan.max_parallelism;
        self.request.fingerprint = wanted.fingerprint.clone().unwrap_or_default();
        match self.request.restore {
            _ if wanted.empty => self.request.restore = Restore::Nothing,
            // What begins with nothing was taken back before it began.
            Restore::Nothing if self.opened.is_some() => self.request.restore = Restore::Latest,
            _ => {}
        }
    }

    /// A term is open: what began with empty state goes on from its own checkpoints from now on.
    pub(super) fn version_began(&mut self) {
        if let Some(wanted) = self.versions.get_mut(&self.attempt.version()) {
            wanted.empty = false;
        }
    }

    /// The generation of a version.
    pub(super) fn generation(&self, number: u64) -> Option<i64> {
        self.versions.get(&number).map(|wanted| wanted.job.generation)
    }

    /// The job is to be another.
    pub(super) fn change(&mut self, change: Change) {
        let Change { job, fingerprint, empty } = change;
        self.configure(job.live());
        self.inputs.push_back(Input::Attempt(attempt::Event::Standby(job.standby)));
        let generation = job.generation;
        if let Some((newest, wanted)) = self.versions.iter_mut().next_back()
            && wanted.job.same_attempt(&job)
            // What was refused is tried again where the resource has changed since, even if it says the same.
            && (self.refused != Some(*newest) || wanted.job.generation == generation)
        {
            let newest = *newest;
            wanted.job = job;
            if self.attempt.is_running() && self.attempt.version() == newest {
                self.tell(&Fact::ChangeApplied { generation });
            }
            return;
        }
        let plan_of = |wanted: &&Wanted| {
            wanted.job.plan == job.plan && wanted.job.template.hash == job.template.hash && wanted.fingerprint.is_some()
        };
        let known = self.versions.values().find(plan_of).and_then(|wanted| wanted.fingerprint.clone());
        let wanted = Wanted { job, fingerprint: fingerprint.or(known), empty };
        let number = self.versions.keys().next_back().map_or(1, |newest| newest + 1);
        let same = self.runs_already(&wanted);
        let version = wanted.version(number);
        self.versions.insert(number, wanted);
        let running = self.attempt.version();
        while self.versions.len() > KEPT {
            let Some(oldest) = self.versions.keys().copied().find(|version| *version != running) else { break };
            self.versions.remove(&oldest);
        }
        self.inputs.push_back(Input::Attempt(attempt::Event::Change { version, same }));
    }

    /// The attempt that runs is one of this version: same script, size and settings.
    fn runs_already(&self, wanted: &Wanted) -> bool {
        let Some(opened) = self.opened.as_ref().filter(|_| self.attempt.is_running()) else { return false };
        let opening = &opened.opening;
        // What another controller has begun is known by its opening only.
        let settings = self.attempt.version() == 0 || self.job.same_settings(&wanted.job);
        settings
            && !wanted.empty
            && wanted.fingerprint.as_ref() == Some(&opening.fingerprint)
            && (opening.workers, opening.slots) == (wanted.job.workers, wanted.job.slots)
            && opening.max_parallelism == wanted.job.plan.max_parallelism
    }

    /// Asks a worker for the plan, beside the loop.
    pub(super) fn plan(&mut self, worker: &WorkerId, version: u64) {
        let (Some(wanted), Some(address)) =
            (self.versions.get(&version), self.roster.by_id(worker).map(|worker| worker.address.clone()))
        else {
            let event = attempt::Event::Planned { version, planned: Planned::Unreachable };
            self.inputs.push_back(Input::Attempt(event));
            return;
        };
        if let Some(fingerprint) = &wanted.fingerprint {
            let plan = Plan { fingerprint: fingerprint.clone(), description: serde_json::Value::Null };
            self.on_planned(version, Ok(plan));
            return;
        }
        let (job, tls) = (wanted.job.clone(), self.tls.clone());
        // What runs has state that the next version goes on from.
        let newest = self.coordinator.as_ref().and_then(|(_, coordinator)| coordinator.newest().cloned());
        let restore = newest.filter(|_| !wanted.empty);
        self.beside(async move {
            let result = match session::connect(&address, tls.as_ref()).await {
                Ok(channel) => {
                    let restore = restore.as_deref().map(|record| (record, &job.settings, job.upgrade));
                    planner::ask(channel, &job.plan, restore).await
                }
                Err(reason) => Err(PlanError::Process { binary: "weir-worker".to_string(), reason }),
            };
            Done::Planned(version, result)
        });
    }

    pub(super) fn on_planned(&mut self, version: u64, result: Result<Plan, PlanError>) {
        let Some(wanted) = self.versions.get_mut(&version) else { return };
        let generation = wanted.job.generation;
        let planned = match result {
            Ok(plan) => {
                let fingerprint = plan.fingerprint.clone();
                wanted.fingerprint = Some(plan.fingerprint);
                let wanted = wanted.clone();
                let mut warnings = wanted.job.warnings.clone();
                warnings.extend(planner::warnings(&plan.description));
                self.tell(&Fact::Planned { generation, fingerprint, warnings });
                Planned::Fits { same: self.runs_already(&wanted) }
            }
            Err(error @ PlanError::Script { .. }) => refused(FailureKind::Plan, &error),
            Err(error @ PlanError::Mismatch(_)) => refused(FailureKind::StateMismatch, &error),
            Err(error @ PlanError::Crashed(_)) => {
                tracing::warn!(%error, generation, "a worker could not plan");
                Planned::Crashed { reason: error.to_string() }
            }
            Err(error @ PlanError::Process { .. }) => {
                tracing::warn!(%error, "a worker could not be asked for the plan");
                Planned::Unreachable
            }
        };
        self.inputs.push_back(Input::Attempt(attempt::Event::Planned { version, planned }));
    }

    /// Changes what changes without a new attempt.
    pub(super) fn configure(&mut self, live: Live) {
        use weir_protocol::rpc::{Configure, to_worker::Message};

        use crate::coordinator;

        let changed = self.job.settings.alignment_timeout_ms != live.alignment_timeout_ms;
        self.job.configure(live);
        for wanted in self.versions.values_mut() {
            wanted.job.configure(live);
        }
        self.request.retain = live.policy.retain;
        self.inputs.push_back(Input::Attempt(attempt::Event::Configure(live.restart)));
        self.inputs.push_back(Input::Coordinator(coordinator::Event::Configure(live.policy)));
        if changed && let Some(opened) = &self.opened {
            let (attempt, alignment_timeout_ms) = (opened.opening.attempt.0, live.alignment_timeout_ms);
            self.broadcast(&Message::Configure(Configure { attempt, alignment_timeout_ms }));
        }
    }
}

/// A version that cannot be, found before anything was done for it.
fn refused(kind: FailureKind, error: &PlanError) -> Planned {
    Planned::Refused {
        failure: attempt::Failure {
            worker: WorkerId(String::new()),
            attempt: weir_protocol::Attempt(0),
            operator: String::new(),
            subtask: 0,
            kind,
            message: error.to_string(),
        },
    }
}
