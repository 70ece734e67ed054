//! The story of a job as Kubernetes events: one when something changes, none at each look, and a bound on how many.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::mpsc;

use super::{reasons::events as reasons, status::DOUBTS, validate::Identity};
use crate::{
    attempt::End,
    supervisor::{Fact, Why, in_words},
    ui::text,
};

/// Events of one reason that a job may have at once; a job that fails in a circle says so this often, and no more.
const BURST: u32 = 10;
/// One more is allowed in this time.
const REFILL: Duration = Duration::from_mins(1);
/// Events on their way to the API server, of all jobs. What does not fit is left out: events are for people.
const QUEUE: usize = 1024;
/// The API server refuses longer notes.
const MAX_NOTE: usize = 1000;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Somebody should look.
    pub warning: bool,
    /// One of [`reasons::EVENTS`].
    pub reason: &'static str,
    /// What is told apart by the API's series: events that differ in it are events of their own.
    pub action: String,
    /// A sentence.
    pub note: String,
}

impl Told {
    /// Something in the course of things.
    pub fn normal(reason: &'static str, note: impl Into<String>) -> Self {
        Self { warning: false, reason, action: reason.to_string(), note: note.into() }
    }

    /// Something that somebody should look at.
    pub fn warning(reason: &'static str, note: impl Into<String>) -> Self {
        Self { warning: true, ..Self::normal(reason, note) }
    }

    fn about(self, what: impl std::fmt::Display) -> Self {
        Self { action: format!("{}-{what}", self.reason), ..self }
    }
}

/// What has been told up to now.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// When the attempt was broken.
    broken: Option<Instant>,
    restored: Option<u64>,
    attempt: u64,
    /// The attempt has told of a checkpoint.
    checkpointed: bool,
    failing: bool,
    waits: BTreeMap<u64, String>,
    storage: bool,
    /// An attempt was resumed, and whether it is what is wanted has not been seen.
    resumed: bool,
}

impl Story {
    /// What is to be told of this, if anything. `now` is the own clock's time.
    pub fn tell(&mut self, fact: &Fact, now: Instant) -> Option<Told> {
        match fact {
            Fact::TermOpened { opening, restored, why } => {
                self.storage = false;
                let again = std::mem::replace(&mut self.attempt, opening.attempt.0) != opening.attempt.0;
                if again {
                    self.checkpointed = false;
                }
                self.restored = restored.as_ref().map(|record| record.id.0).filter(|_| *why != Why::Resume);
                None
            }
            Fact::Workers(workers) => {
                self.waits.retain(|number, _| workers.iter().any(|w| w.number == *number && w.state == "starting"));
                None
            }
            Fact::WorkerWaits { process, reason } => {
                // The text ends in what changes at each try; the first word is the reason.
                let word = reason.split([':', ' ']).next().unwrap_or_default().to_string();
                if self.waits.insert(process.0, word.clone()).as_ref() == Some(&word) {
                    return None;
                }
                Some(Told::warning(reasons::WORKER_WAITS, format!("a worker does not come up: {reason}")).about(word))
            }
            Fact::WorkerLeaves { name, reason } => {
                let note = format!("{name} is to go ({reason}); its place is handed over");
                Some(Told::normal(reasons::WORKER_LEAVES, note).about(name))
            }
            Fact::Publishing { failure: Some(reason) } => {
                let note = format!("the output of complete checkpoints cannot be published, tried again: {reason}");
                Some(Told::warning(reasons::OUTPUT_UNPUBLISHED, note))
            }
            Fact::Publishing { failure: None } => {
                Some(Told::normal(reasons::OUTPUT_PUBLISHED, "output is published again".to_string()))
            }
            Fact::WorkerLost { name, cause, position, .. } => {
                if position.is_some() {
                    self.broken.get_or_insert(now);
                }
                Some(Told::warning(reasons::WORKER_LOST, format!("{name} was lost: {cause}")).about(name))
            }
            Fact::WorkerEnded { name, how } => {
                Some(Told::warning(reasons::WORKER_LOST, format!("{name} has ended: {how}")).about(how))
            }
            Fact::TaskFailed(failure) => {
                self.broken.get_or_insert(now);
                let note = format!("attempt {}: {}", failure.attempt, in_words(failure));
                Some(Told::warning(reasons::TASK_FAILED, note).about(failure.attempt))
            }
            Fact::Restarting { after, failures } if !after.is_zero() => {
                let note = format!("failure {failures} in a row; the next attempt begins in {}", text::span(*after));
                Some(Told::normal(reasons::BACKING_OFF, note).about(failures))
            }
            Fact::StartFailed { reason } => {
                Some(Told::warning(reasons::WORKER_START_FAILED, format!("a worker did not start: {reason}")))
            }
            Fact::RecordInDoubt { tries, .. } if *tries < DOUBTS => None,
            Fact::TakeOverFailed { reason } | Fact::RecordInDoubt { reason, .. } => {
                if std::mem::replace(&mut self.storage, true) {
                    return None;
                }
                let note = format!("storage does not answer, tried again: {reason}");
                Some(Told::warning(reasons::STORAGE_UNREACHABLE, note))
            }
            Fact::Running { attempt, resumed, .. } => Some(self.running(attempt.0, *resumed, now)),
            Fact::Completed { record, .. } => {
                let failing = std::mem::take(&mut self.failing) | std::mem::take(&mut self.storage);
                let first = !std::mem::replace(&mut self.checkpointed, true);
                let note = format!(
                    "checkpoint {} in {}: state {}",
                    record.id,
                    text::span(Duration::from_millis(record.duration_ms)),
                    text::bytes(record.state_bytes)
                );
                if failing {
                    let note = format!("checkpoints complete again: {note}");
                    return Some(Told::normal(reasons::CHECKPOINTS_RECOVERED, note).about(record.id));
                }
                first.then(|| Told::normal(reasons::CHECKPOINTED, note).about(record.id))
            }
            Fact::Aborted { id, reason, failed, .. } => {
                // The first of a row, and then ever fewer.
                self.failing = true;
                failed.is_power_of_two().then(|| {
                    let note = format!("checkpoint {id} failed ({failed} in a row): {reason}");
                    Told::warning(reasons::CHECKPOINT_FAILED, note).about(id)
                })
            }
            Fact::Planned { warnings, generation, .. } if !warnings.is_empty() => {
                Some(Told::warning(reasons::PLAN_WARNING, warnings.join("; ")).about(generation))
            }
            Fact::HandingOver { generation } => {
                self.broken.get_or_insert(now);
                let note = "a last checkpoint is taken, then the next attempt begins";
                Some(Told::normal(reasons::CHANGING, note).about(generation))
            }
            // It was what is wanted all along.
            Fact::ChangeApplied { .. } if std::mem::take(&mut self.resumed) => None,
            Fact::ChangeApplied { generation } => {
                let note = format!("generation {generation} holds, without a new attempt");
                Some(Told::normal(reasons::CHANGED, note).about(generation))
            }
            Fact::ChangeRefused { generation, reason } => {
                let note = format!("generation {generation} is refused, the last good version runs on: {reason}");
                Some(Told::warning(reasons::CHANGE_REFUSED, note).about(generation))
            }
            Fact::Stopping { why, last_checkpoint } => {
                let how = if *last_checkpoint { "a last checkpoint, then an end" } else { "an end" };
                Some(Told::normal(reasons::STOPPING, format!("{why}: {how}")))
            }
            Fact::Ended(End::Succeeded(record)) => {
                let note = format!("finished: all output up to checkpoint {} is published", record.id);
                Some(Told::normal(reasons::SUCCEEDED, note))
            }
            Fact::Ended(End::Stopped(_)) => Some(Told::normal(reasons::SUSPENDED, "all workers are stopped")),
            Fact::Ended(End::Failed { reason, .. }) => Some(Told::warning(reasons::FAILED, reason.clone())),
            Fact::Ended(End::Refused { reason }) => Some(Told::warning(reasons::STALLED, reason.clone())),
            Fact::Ended(End::Superseded { by }) => {
                let by = by.as_deref().unwrap_or("another coordinator");
                Some(Told::warning(reasons::STALLED, format!("{by} coordinates the job now")))
            }
            Fact::Restarting { .. }
            | Fact::Deploying { .. }
            | Fact::FirstOutput(_)
            | Fact::Committed { .. }
            | Fact::Planned { .. }
            | Fact::ChangeWaits { .. }
            | Fact::Killed
            | Fact::Printed { .. } => None,
        }
    }

    fn running(&mut self, attempt: u64, resumed: bool, now: Instant) -> Told {
        let took = self.broken.take().map(|broken| now - broken);
        self.resumed = resumed;
        if resumed {
            let note = format!("attempt {attempt} runs on under another controller");
            return Told::normal(reasons::RESUMED, note).about(attempt);
        }
        let span = took.map(|took| format!(" in {}", text::span(took))).unwrap_or_default();
        match self.restored.take() {
            Some(id) => {
                let note = format!("attempt {attempt} runs, restored from checkpoint {id}{span}");
                Told::normal(reasons::RESTORED, note).about(attempt)
            }
            None => Told::normal(reasons::RUNNING, format!("attempt {attempt} runs{span}")).about(attempt),
        }
    }
}

/// Lets so many through at once, and then one in a while.
#[derive(Clone, Debug, Default)]
pub struct Limiter {
    /// What is left, and when it was looked at last.
    buckets: BTreeMap<&'static str, (u32, Option<Instant>)>,
}

impl Limiter {
    /// Whether one more of this reason may be told.
    pub fn lets(&mut self, reason: &'static str, now: Instant) -> bool {
        let (left, seen) = self.buckets.entry(reason).or_insert((BURST, None));
        let since = seen.map_or(Duration::ZERO, |seen| now - seen);
        let more = (since.as_secs() / REFILL.as_secs()) as u32;
        if more > 0 || seen.is_none() {
            *left = left.saturating_add(more).min(BURST);
            *seen = Some(now);
        }
        let lets = *left > 0;
        *left = left.saturating_sub(1);
        lets
    }
}

/// Publishes events of all jobs, one after the other. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    queue: mpsc::Sender<(ObjectReference, Told)>,
}

impl Publisher {
    /// Starts publishing. `instance` is this controller's name.
    pub fn start(client: Client, instance: String) -> Self {
        let (queue, mut inbox) = mpsc::channel::<(ObjectReference, Told)>(QUEUE);
        let reporter = Reporter { controller: "weir-controller".to_string(), instance: Some(instance) };
        let recorder = Recorder::new(client, reporter);
        tokio::spawn(async move {
            while let Some((about, told)) = inbox.recv().await {
                let event = Event {
                    type_: if told.warning { EventType::Warning } else { EventType::Normal },
                    reason: told.reason.to_string(),
                    note: Some(told.note.chars().take(MAX_NOTE).collect()),
                    action: told.action.chars().take(128).collect(),
                    secondary: None,
                };
                if let Err(error) = recorder.publish(&event, &about).await {
                    tracing::debug!(error = crate::effects::chain(&error), "an event was not published");
                }
            }
        });
        Self { queue }
    }

    /// Publishes one about a job, unless too many wait.
    pub fn publish(&self, about: &Identity, told: Told) {
        let job = format!("{}/{}", about.namespace, about.name);
        if told.warning {
            tracing::warn!(job, reason = told.reason, "{}", told.note);
        } else {
            tracing::info!(job, reason = told.reason, "{}", told.note);
        }
        let _ = self.queue.try_send((about.reference(), told));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::ProcessNumber;

    #[test]
    fn a_job_that_fails_in_a_circle_does_not_flood() {
        let mut limiter = Limiter::default();
        let start = Instant::now();
        let told = (0..1000).filter(|i| limiter.lets("x", start + Duration::from_secs(*i))).count();
        assert!((BURST as usize..BURST as usize + 17).contains(&told), "{told}");
        assert!(limiter.lets("y", start));
    }

    #[test]
    fn a_pod_that_waits_is_told_of_once_for_each_reason() {
        let mut story = Story::default();
        let waits = |reason: &str| Fact::WorkerWaits { process: ProcessNumber(1), reason: reason.to_string() };
        let now = Instant::now();
        assert!(story.tell(&waits("ErrImagePull: try 1"), now).is_some());
        assert!(story.tell(&waits("ErrImagePull: try 2"), now).is_none());
        assert!(story.tell(&waits("ImagePullBackOff: wait"), now).is_some());
    }

    #[test]
    fn an_attempt_that_is_resumed_is_no_change() {
        let mut story = Story::default();
        let now = Instant::now();
        let running =
            Fact::Running { attempt: weir_protocol::Attempt(3), resumed: true, generation: None, recovery: None };
        let applied = Fact::ChangeApplied { generation: 2 };
        assert_eq!(story.tell(&running, now).map(|told| told.reason), Some(reasons::RESUMED));
        assert!(story.tell(&applied, now).is_none());
        assert_eq!(story.tell(&applied, now).map(|told| told.reason), Some(reasons::CHANGED));
    }

    #[test]
    fn checkpoints_that_fail_are_told_of_ever_more_rarely() {
        let mut story = Story::default();
        let aborted = |failed: u32| Fact::Aborted {
            id: weir_protocol::CheckpointId(u64::from(failed)),
            reason: "storage".to_string(),
            failed,
            beyond_tolerable: false,
        };
        let told = (1..=100).filter(|failed| story.tell(&aborted(*failed), Instant::now()).is_some()).count();
        assert_eq!(told, 7);
    }
}
