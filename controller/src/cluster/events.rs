//! The story of a job as Kubernetes events: one when something changes, none at each look. How they are written is in
//! [`super::publisher`].

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use weir_protocol::settings::FailureKind;

use super::{reasons::events as reasons, status::DOUBTS};
use crate::{
    attempt::End,
    supervisor::{Fact, Why, in_words},
    ui::text,
};

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Somebody should look.
    pub warning: bool,
    /// One of [`reasons::EVENTS`].
    pub reason: &'static str,
    /// What caused it: events of one reason and one cause are one, told again and again.
    pub cause: String,
    /// A sentence.
    pub note: String,
    /// Told again by another controller, it says nothing new.
    pub once: bool,
}

impl Told {
    /// Something in the course of things. What its sentence says is its cause.
    pub fn normal(reason: &'static str, note: impl Into<String>) -> Self {
        let note = note.into();
        Self { warning: false, reason, cause: without_numbers(&note), note, once: false }
    }

    /// Something that somebody should look at.
    pub fn warning(reason: &'static str, note: impl Into<String>) -> Self {
        Self { warning: true, ..Self::normal(reason, note) }
    }

    /// What its sentence is about, where that is not all of it.
    #[must_use]
    pub fn about(self, what: impl std::fmt::Display) -> Self {
        Self { cause: what.to_string(), ..self }
    }

    /// Where the cause is a sentence of its own.
    fn because(self, cause: &str) -> Self {
        self.about(without_numbers(cause))
    }
}

/// A sentence without what differs each time that it is said: counts, ports, the digits of names.
fn without_numbers(text: &str) -> String {
    let mut rest = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '0'..='9' if rest.ends_with('#') => {}
            '0'..='9' => rest.push('#'),
            c => rest.push(c),
        }
    }
    rest
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
            Fact::WorkerWaits { process, obstacle } => {
                let obstacle = obstacle.as_ref().filter(|obstacle| obstacle.kind.is_in_the_way())?;
                let cause = without_numbers(&obstacle.reason);
                if self.waits.insert(process.0, cause.clone()).as_ref() == Some(&cause) {
                    return None;
                }
                let note = format!("a worker does not come up: {}", obstacle.reason);
                Some(Told::warning(reasons::WORKER_WAITS, note).about(cause))
            }
            Fact::Beside { trouble } => {
                let reason = &trouble.as_ref().filter(|trouble| trouble.lasting)?.reason;
                Some(Told::warning(reasons::SIDECARS_FAIL, reason.clone()))
            }
            Fact::Storage { failure: None } => {
                self.storage = false;
                None
            }
            Fact::WorkerLeaves { name, reason } => {
                let note = format!("{name} is to go ({reason}); its place is handed over");
                Some(Told::normal(reasons::WORKER_LEAVES, note).because(reason))
            }
            Fact::Publishing { failure: Some(reason) } => {
                let note = format!("the output of complete checkpoints cannot be published, tried again: {reason}");
                Some(Told::warning(reasons::OUTPUT_UNPUBLISHED, note))
            }
            Fact::Publishing { failure: None } => {
                Some(Told::normal(reasons::OUTPUT_PUBLISHED, "output is published again".to_string()))
            }
            Fact::HeldBack { waiting: Some(waiting) } => {
                let note =
                    format!("{waiting} files or objects of a worker wait to be published: sources are held back");
                Some(Told::warning(reasons::OUTPUT_HELD_BACK, note))
            }
            Fact::HeldBack { waiting: None } => {
                Some(Told::normal(reasons::OUTPUT_PUBLISHED, "sources read on".to_string()))
            }
            Fact::WorkerLost { name, cause, position, .. } => {
                if position.is_some() {
                    self.broken.get_or_insert(now);
                }
                Some(Told::warning(reasons::WORKER_LOST, format!("{name} was lost: {cause}")).about(name))
            }
            Fact::WorkerEnded { name, how } => {
                let note = format!("{name} has ended: {how}");
                Some(Told::warning(reasons::WORKER_LOST, note).about(format!("the end of {name}")))
            }
            Fact::TaskFailed(failure) => {
                self.broken.get_or_insert(now);
                let note = format!("attempt {}: {}", failure.attempt, in_words(failure));
                let lost = failure.kind == FailureKind::OutputLost;
                let reason = if lost { reasons::OUTPUT_LOST } else { reasons::TASK_FAILED };
                Some(Told::warning(reason, note).because(&in_words(failure)))
            }
            Fact::Restarting { after, failures } if !after.is_zero() => {
                let note = format!("failure {failures} in a row; the next attempt begins in {}", text::span(*after));
                Some(Told::normal(reasons::BACKING_OFF, note).about("the restart policy"))
            }
            Fact::StartFailed { reason } => {
                Some(Told::warning(reasons::WORKER_START_FAILED, format!("a worker did not start: {reason}")))
            }
            Fact::RecordInDoubt { tries, .. } if *tries < DOUBTS => None,
            Fact::TakeOverFailed { reason }
            | Fact::RecordInDoubt { reason, .. }
            | Fact::Storage { failure: Some(reason) } => {
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
                    return Some(Told::normal(reasons::CHECKPOINTS_RECOVERED, note).about("checkpoints"));
                }
                first.then(|| Told::normal(reasons::CHECKPOINTED, note).about("the first of an attempt"))
            }
            Fact::Aborted { id, reason, failed, .. } => {
                // The first of a row, and then ever fewer.
                self.failing = true;
                failed.is_power_of_two().then(|| {
                    let note = format!("checkpoint {id} failed ({failed} in a row): {reason}");
                    Told::warning(reasons::CHECKPOINT_FAILED, note).because(reason)
                })
            }
            Fact::Planned { warnings, generation, .. } if !warnings.is_empty() => {
                let told = Told::warning(reasons::PLAN_WARNING, warnings.join("; ")).about(generation);
                Some(Told { once: true, ..told })
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
            | Fact::HandedOver
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
            return Told::normal(reasons::RESUMED, note).about("another controller");
        }
        let span = took.map(|took| format!(" in {}", text::span(took))).unwrap_or_default();
        match self.restored.take() {
            Some(id) => {
                let note = format!("attempt {attempt} runs, restored from checkpoint {id}{span}");
                Told::normal(reasons::RESTORED, note).about("a checkpoint")
            }
            None => Told::normal(reasons::RUNNING, format!("attempt {attempt} runs{span}")).about("an attempt"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::{Obstacle, ObstacleKind, ProcessNumber};

    #[test]
    fn a_pod_that_waits_is_told_of_once_for_each_reason() {
        let mut story = Story::default();
        let waits = |kind: ObstacleKind, reason: &str| {
            let obstacle = Some(Obstacle { kind, reason: reason.to_string() });
            Fact::WorkerWaits { process: ProcessNumber(1), obstacle }
        };
        let now = Instant::now();
        let mut tell = |kind: ObstacleKind, reason: &str| story.tell(&waits(kind, reason), now).map(|told| told.cause);
        let first = tell(ObstacleKind::Image, "ErrImagePull: dial 10.0.0.1:41234: refused");
        assert_eq!(first.as_deref(), Some("ErrImagePull: dial #.#.#.#:#: refused"));
        assert_eq!(tell(ObstacleKind::Image, "ErrImagePull: dial 10.0.0.1:41300: refused"), None);
        assert!(tell(ObstacleKind::Image, "ImagePullBackOff: wait").is_some());
        assert_eq!(tell(ObstacleKind::Initializing, "its container early: runs"), None, "nothing is wrong");
    }

    #[test]
    fn causes_are_whole_and_not_a_word_of_them() {
        let stalled = |text: &str| Told::warning(reasons::STALLED, text).cause;
        assert_ne!(stalled("InvalidSpec: no url"), stalled("InvalidSpec: no name"));
        assert_eq!(stalled("failure 3 of job-worker-12345678"), stalled("failure 4 of job-worker-87654321"));
    }

    #[test]
    fn storage_that_does_not_answer_is_told_of_once_and_again_when_it_has_answered_meanwhile() {
        let mut story = Story::default();
        let now = Instant::now();
        let away = Fact::Storage { failure: Some("reading terms/0000000001/opening failed".to_string()) };
        let told = story.tell(&away, now).unwrap();
        assert_eq!(told.reason, reasons::STORAGE_UNREACHABLE);
        assert!(told.note.contains("reading terms/0000000001/opening failed"), "{}", told.note);
        assert!(story.tell(&away, now).is_none());
        assert!(story.tell(&Fact::Storage { failure: None }, now).is_none());
        assert!(story.tell(&away, now).is_some());
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
