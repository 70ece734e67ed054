//! What is to be done about a job: from what is wanted and what is there to one next step. Pure. A step is repeated or followed by
//! the next as things change; a leader that dies between two steps is followed by one that decides the same.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weir_crds::{StreamJobSpec, UpgradeMode};
use weir_storage::S3Keys;

use super::{
    build::pod::{self, PodInputs},
    validate::{ValidJob, wish},
};
use crate::{job::Job, platform::WorkerTemplate};

/// The version of a job that was last taken up, kept in a Secret of the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// The generation of the spec.
    pub generation: i64,
    /// The spec itself.
    pub spec: StreamJobSpec,
    /// The image that its pods have, settled once: the default of a later controller does not restart workers.
    pub image: String,
    /// The last wish to restore that was acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<String>,
}

/// What is there.
#[derive(Clone, Debug)]
pub struct There<'a> {
    /// The supervisor, if there is one.
    pub supervisor: Supervisor<'a>,
    /// The version that was last taken up.
    pub accepted: Option<&'a Accepted>,
    /// Worker pods that nobody looks after yet.
    pub pods: bool,
    /// The job ended with this generation: it succeeded, or failed in a way that only another spec mends.
    pub ended: bool,
    /// The version that is wanted was refused while another ran.
    pub refused: bool,
    /// What stands in storage did not fit what was wanted before this generation.
    pub unfit: bool,
    /// It was refused or stopped by itself at this generation, and is not tried again before the spec changes.
    pub stuck: Option<i64>,
    /// A last wish that acted, as the status has it.
    pub restored_from: Option<&'a str>,
}

/// Whether somebody looks after the job.
#[derive(Clone, Debug)]
pub enum Supervisor<'a> {
    /// Nobody.
    None,
    /// It runs this, or is on its way to it.
    Runs {
        /// As it was last asked to be.
        job: &'a Job,
        /// The generation of it.
        generation: i64,
    },
    /// It has been told to end.
    Ending,
}

/// What the first attempt begins from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Where the workers that are there stand, or else the newest record.
    Newest,
    /// A record, by a user's wish.
    Wish(String),
    /// Nothing: the state is left behind.
    Nothing,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do.
    Rest,
    /// Nothing runs and nothing is to run; what there is of pods is removed.
    Clear,
    /// Start a supervisor over the newest spec.
    Start(Begin),
    /// Start one over the version that was last taken up: what is wanted comes after, as a change or a stop.
    StartAccepted,
    /// Hand it what changes live.
    Configure,
    /// Hand it another version.
    Change {
        /// It begins with empty state.
        empty: bool,
    },
    /// Stop it.
    Stop {
        /// With a last checkpoint.
        last_checkpoint: bool,
        /// For people.
        why: &'static str,
    },
}

/// Decides. A job that is being deleted is not asked for here.
pub fn decide(wanted: &ValidJob, there: &There<'_>) -> Step {
    let wish = unfulfilled(wanted, there);
    match there.supervisor {
        Supervisor::Ending => Step::Rest,
        Supervisor::Runs { job, generation } => running(wanted, (job, generation), there.accepted, wish.as_deref()),
        Supervisor::None => idle(wanted, there, wish),
    }
}

/// The wish to restore that has not acted yet.
pub fn unfulfilled(wanted: &ValidJob, there: &There<'_>) -> Option<String> {
    let wish = wanted.restore_from.as_ref().map(wish)?;
    let acted = |done: Option<&str>| done == Some(wish.as_str());
    let accepted = there.accepted.and_then(|accepted| accepted.restored_from.as_deref());
    (!acted(there.restored_from) && !acted(accepted)).then_some(wish)
}

fn running(wanted: &ValidJob, runs: (&Job, i64), accepted: Option<&Accepted>, wish: Option<&str>) -> Step {
    let (job, generation) = runs;
    if wanted.suspend {
        return Step::Stop { last_checkpoint: true, why: "spec.suspend is true" };
    }
    if wish.is_some() {
        // A last checkpoint would be younger than what is wished for, and could retire it.
        return Step::Stop { last_checkpoint: false, why: "spec.restoreFrom names another checkpoint" };
    }
    if !same_attempt(job, &wanted.job) {
        let another = accepted.is_some_and(|accepted| is_another_program(&accepted.spec, &wanted.spec));
        let empty = wanted.upgrade == UpgradeMode::Stateless && another;
        return if generation == wanted.generation { Step::Rest } else { Step::Change { empty } };
    }
    if generation == wanted.generation {
        return Step::Rest;
    }
    Step::Configure
}

fn idle(wanted: &ValidJob, there: &There<'_>, wish: Option<String>) -> Step {
    let another = there.accepted.filter(|accepted| !fits(accepted, wanted));
    if there.ended && wish.is_none() && (another.is_none() || there.refused) {
        return if there.pods { Step::Clear } else { Step::Rest };
    }
    if wanted.suspend {
        // Somebody has to take the last checkpoint of what still runs.
        return match there.accepted {
            Some(_) if there.pods => Step::StartAccepted,
            _ if there.pods => Step::Clear,
            _ => Step::Rest,
        };
    }
    let stateless = wanted.upgrade == UpgradeMode::Stateless;
    let stuck = there.stuck == Some(wanted.generation);
    // Where nothing was ever taken up, the spec that did not fit has said already what is to be done about it.
    let said = !stuck || there.accepted.is_none();
    let leaves_state = stateless && there.unfit && said && wish.is_none() && another.is_none();
    if stuck && !leaves_state {
        return Step::Rest;
    }
    let begin = match (wish, another) {
        (Some(wish), _) => Begin::Wish(wish),
        (None, Some(accepted)) if stateless && is_another_program(&accepted.spec, &wanted.spec) => Begin::Nothing,
        _ if leaves_state => Begin::Nothing,
        _ => Begin::Newest,
    };
    match (&begin, there.accepted) {
        _ if !there.pods => Step::Start(begin),
        (Begin::Newest, _) if another.is_none() => Step::Start(begin),
        // What runs is taken up as it is: it goes on until the new version is known to fit, or is stopped first.
        (_, Some(_)) => Step::StartAccepted,
        (_, None) => Step::Clear,
    }
}

/// Whether state may mean something else in one than in the other.
fn is_another_program(before: &StreamJobSpec, after: &StreamJobSpec) -> bool {
    before.sql != after.sql
        || before.max_parallelism != after.max_parallelism
        || before.state != after.state
        || before.workers.image != after.workers.image
}

/// Whether the version that was taken up needs no other attempt than the one wanted.
fn fits(accepted: &Accepted, wanted: &ValidJob) -> bool {
    let (before, after) = (&accepted.spec, &wanted.spec);
    before.sql == after.sql
        && before.max_parallelism == after.max_parallelism
        && before.state == after.state
        && before.checkpoint.mode == after.checkpoint.mode
        && before.workers.replicas == after.workers.replicas
        && before.workers.slots == after.workers.slots
        && before.workers.resources == after.workers.resources
        && before.workers.pod_template == after.workers.pod_template
        && before.workers.image_pull_policy == after.workers.image_pull_policy
        && before.workers.image == after.workers.image
}

/// Whether one becomes the other without a new attempt.
fn same_attempt(a: &Job, b: &Job) -> bool {
    a.same_attempt(b)
}

/// The job with its pods' template, whose image is settled.
pub fn with_template(wanted: &ValidJob, image: String, keys: Option<&S3Keys>) -> Job {
    let inputs = PodInputs { image, ..wanted.pods.clone() };
    let mut job = wanted.job.clone();
    job.standby = wanted.spec.workers.standby;
    job.template =
        WorkerTemplate { hash: pod::hash(&inputs, keys), pod: Some(Arc::new(pod::pod(&wanted.identity, &inputs))) };
    job
}

/// The image of a job that names none: what its pods have already, else the controller's own.
pub fn settled_image(wanted: &ValidJob, accepted: Option<&Accepted>) -> String {
    match accepted {
        // Where pods have to be made anew in any case the newer default is taken.
        Some(accepted) if !wanted.own_image && accepted.spec.workers.image.is_none() && fits(accepted, wanted) => {
            accepted.image.clone()
        }
        _ => wanted.pods.image.clone(),
    }
}

#[cfg(test)]
mod tests;
