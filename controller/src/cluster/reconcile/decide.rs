//! From what is known of a job to the steps of one look at it. Pure. What is to become of a job that can run is [`plan`]'s; what is
//! done about the rest of it, and in which order, is decided here.

use std::time::Duration;

use super::facts::{Deleted, Facts, Held, Keys, Subject, Wanted};
use crate::{
    cluster::{
        delete,
        plan::{self, Accepted, Supervisor, There},
        problem::Problem,
        status::Run,
        validate::ValidJob,
    },
    reasons,
};

/// A job is looked at this often without any cause: certificates end, Secrets change.
pub const LOOK_AGAIN: Duration = Duration::from_mins(10);
/// What somebody has to mend, and no watch tells of: a Secret that is missing.
pub const LOOK_SOON: Duration = Duration::from_secs(10);
/// Steps of a deletion.
pub const LOOK_AT_DELETION: Duration = Duration::from_secs(2);

/// What is done about a job, in this order. A step that fails ends the look.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The steps.
    pub steps: Vec<Step>,
    /// When it is looked at again without any cause.
    pub again: Option<Duration>,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The newest spec has this problem, or none.
    Say(Option<Problem>),
    /// Hold the resource, for what has to be done before it may go.
    Hold,
    /// Let the resource go.
    Release,
    /// Keep up what a running job needs: its certificates and objects.
    KeepUp,
    /// The same of what is to run, and what the API server refuses of it is said.
    Apply,
    /// Keep the version that runs: a later leader goes on with it even where the newest spec cannot run.
    KeepRunning(Box<Accepted>),
    /// Say that no workers are there.
    NoWorkers,
    /// Let go of the workers, which run on: a supervisor with other keys takes them up, and hands over to pods that have them too.
    LetGo,
    /// Say that nothing runs, as the spec says.
    SaySuspended,
    /// Make a status again, from storage, that was lost or not written.
    ReadBack(Box<ValidJob>),
    /// What is next for a job that can run.
    Next {
        /// The step.
        step: plan::Step,
        /// The job, with its pods.
        job: Box<ValidJob>,
        /// The image of its pods.
        image: String,
        /// A wish to restore that has not acted yet.
        wish: Option<String>,
    },
    /// Ask for a checkpoint.
    Checkpoint(String),
    /// Say that it is being deleted, and what becomes of its checkpoints.
    SayDeleting(&'static str),
    /// Stop it for good.
    StopForGood {
        /// There is no time for anything.
        kill: bool,
        /// With a last checkpoint.
        last_checkpoint: bool,
    },
    /// Remove the pods that nobody looks after.
    RemovePods,
    /// Leave its storage to whoever comes next, or empty it, beside the looks at jobs.
    LeaveStorage,
}

/// Decides.
pub fn decide(facts: &Facts) -> Decision {
    match &facts.subject {
        Subject::Unreadable { error, deleted } => unreadable(error, *deleted, facts.finalized),
        Subject::Deleted(job) => deleted(job, facts.finalized),
        Subject::Wanted(job) => {
            let mut decision = wanted(job, facts.finalized);
            decision.steps.extend(checkpoint(job).map(Step::Checkpoint));
            decision
        }
    }
}

/// The checkpoint that somebody asks for, and that nobody has been asked for yet. Each value acts once, for which the status stands;
/// while nothing runs it waits.
fn checkpoint(wanted: &Wanted) -> Option<String> {
    let supervisor = wanted.held.supervisor.as_ref().filter(|supervisor| !supervisor.ending)?;
    let asked = wanted.asked.as_ref()?;
    let served = wanted.held.said.requested.as_ref().is_some_and(|served| served.value == *asked);
    (!served && supervisor.checkpoint.as_ref() != Some(asked)).then(|| asked.clone())
}

fn unreadable(error: &str, deleted: bool, finalized: bool) -> Decision {
    let message = format!("the resource cannot be read: {error}; is the CRD the one of this version?");
    let steps = match (deleted, finalized) {
        (false, _) => vec![Step::Say(Some(Problem::spec(message)))],
        (true, true) => vec![Step::Release],
        (true, false) => Vec::new(),
    };
    Decision { steps, again: None }
}

fn deleted(job: &Deleted, finalized: bool) -> Decision {
    let what = if job.removes { "its checkpoints are removed" } else { "its checkpoints stay" };
    let kill = delete::out_of_time(&job.since, job.now);
    // Nobody goes on from a checkpoint that is removed at once.
    let mut steps = vec![Step::SayDeleting(what), Step::StopForGood { kill, last_checkpoint: !job.removes }];
    let next = delete::decide(finalized, job.supervised, job.pods.len(), &job.since, job.now);
    let again = match next {
        delete::Step::Wait => {
            steps.push(Step::RemovePods);
            Some(LOOK_AT_DELETION)
        }
        delete::Step::Storage if job.storage_left => {
            steps.push(Step::Release);
            None
        }
        delete::Step::Storage => {
            steps.push(Step::LeaveStorage);
            Some(LOOK_AT_DELETION)
        }
        delete::Step::Release => None,
    };
    Decision { steps, again }
}

fn wanted(wanted: &Wanted, finalized: bool) -> Decision {
    let say = |problem: &Problem| Step::Say(Some(problem.clone()));
    let mut steps: Vec<Step> = wanted.problem.iter().map(say).collect();
    let Some(job) = &wanted.job else {
        // What runs is kept up whatever the newest spec is.
        let supervised = wanted.held.supervisor.is_some();
        steps.extend(supervised.then_some(Step::KeepUp));
        return Decision { steps, again: supervised.then_some(LOOK_AGAIN) };
    };
    if !finalized {
        steps.push(Step::Hold);
    }
    let (refused, again) = match &wanted.keys {
        Keys::With(_) => (None, LOOK_AGAIN),
        Keys::NotAllowed(problem) => (Some(problem), LOOK_AGAIN),
        Keys::Missing(problem) => (Some(problem), LOOK_SOON),
    };
    let again = Some(again);
    if let Some(problem) = refused {
        steps.push(say(problem));
        return Decision { steps, again };
    }
    steps.extend([Step::Apply, Step::Say(wanted.problem.clone())]);
    let runs = runs(&wanted.held);
    steps.extend(runs.cloned().map(|accepted| Step::KeepRunning(Box::new(accepted))));
    if wanted.pods.as_ref().is_some_and(Vec::is_empty) {
        steps.push(Step::NoWorkers);
    }
    steps.extend(next(wanted, job, runs.or(wanted.accepted.as_ref())));
    Decision { steps, again }
}

/// The version that runs, of all that the supervisor was asked to be.
fn runs(held: &Held) -> Option<&Accepted> {
    let running = held.said.running?;
    held.supervisor.as_ref()?.asked.iter().rev().find(|asked| asked.generation == running)
}

/// What becomes of a job that can run. `accepted` is the version that was last taken up.
fn next(wanted: &Wanted, job: &ValidJob, accepted: Option<&Accepted>) -> Vec<Step> {
    let Keys::With(keys) = &wanted.keys else { return Vec::new() };
    let (held, said) = (&wanted.held, &wanted.held.said);
    if held.supervisor.as_ref().is_some_and(|supervisor| supervisor.keys != *keys && !supervisor.ending) {
        return vec![Step::LetGo];
    }
    let image = plan::settled_image(job, accepted);
    let templated = ValidJob { job: plan::with_template(job, image.clone(), keys.as_ref()), ..job.clone() };
    let there = There {
        supervisor: match &held.supervisor {
            None => Supervisor::None,
            Some(supervisor) if supervisor.ending => Supervisor::Ending,
            Some(supervisor) => Supervisor::Runs { job: &supervisor.job, generation: supervisor.job.generation },
        },
        accepted,
        pods: wanted.pods.as_ref().is_some_and(|pods| !pods.is_empty()),
        // A job that failed is tried again when its spec changes; one that succeeded, when another is wanted.
        ended: match said.run {
            Run::Failed(_) => held.stuck.is_none_or(|(at, _)| at == job.generation),
            _ => said.ended(),
        },
        refused: said.refused.as_ref().is_some_and(|(generation, _)| *generation == job.generation),
        unfit: matches!(&said.run, Run::Stalled(problem) if problem.reason == reasons::STATE_MISMATCH),
        stuck: held.stuck.filter(|(_, until)| until.is_none_or(|until| wanted.now < until)).map(|(at, _)| at),
        restored_from: said.restored_from.as_ref().map(|wish| wish.value.as_str()),
    };
    match plan::decide(&templated, &there) {
        plan::Step::Rest if held.supervisor.is_some() => Vec::new(),
        plan::Step::Rest => rest(held, templated),
        step => {
            let wish = plan::unfulfilled(&templated, &there);
            vec![Step::Next { step, job: Box::new(templated), image, wish }]
        }
    }
}

/// Nothing runs and nothing is to. A status that was lost, or that a controller did not come to write, is made again from storage.
fn rest(held: &Held, job: ValidJob) -> Vec<Step> {
    let said = &held.said;
    let mut steps = Vec::new();
    if job.suspend && !said.ended() && !matches!(said.run, Run::Suspended(_)) {
        steps.push(Step::SaySuspended);
    }
    if said.term.is_none() || said.run == Run::Unknown {
        steps.push(Step::ReadBack(Box::new(job)));
    }
    steps
}

#[cfg(test)]
mod tests;
