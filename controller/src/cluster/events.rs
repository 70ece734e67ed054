//! The story of a job as Kubernetes events: one when something changes, none at each look. What an event of a fact says stands in
//! [`crate::facts::telling`], and how they are written in [`super::publisher`].

use std::{collections::BTreeMap, time::Instant};

use crate::{
    facts::{Fact, told::Told, why::Why},
    reasons::events as reasons,
    ui::text,
};

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
        self.remember(fact, now);
        let told = fact.telling().event;
        match fact {
            Fact::Running { attempt, resumed, .. } => Some(self.running(attempt.0, *resumed, now)),
            Fact::Completed { .. } => told.and_then(|told| self.completed(told)),
            Fact::WorkerWaits { process, .. } => {
                told.filter(|told| self.waits.insert(process.0, told.cause.clone()).as_ref() != Some(&told.cause))
            }
            Fact::TakeOverFailed { .. } | Fact::RecordInDoubt { .. } | Fact::Storage { .. } => {
                told.filter(|_| !std::mem::replace(&mut self.storage, true))
            }
            // It was what is wanted all along.
            Fact::ChangeApplied { .. } => told.filter(|_| !std::mem::take(&mut self.resumed)),
            _ => told,
        }
    }

    /// What later facts are told by.
    fn remember(&mut self, fact: &Fact, now: Instant) {
        match fact {
            Fact::TermOpened { opening, restored, why } => {
                self.storage = false;
                let again = std::mem::replace(&mut self.attempt, opening.attempt.0) != opening.attempt.0;
                if again {
                    self.checkpointed = false;
                }
                self.restored = restored.as_ref().map(|record| record.id.0).filter(|_| *why != Why::Resume);
            }
            Fact::Workers(workers) => {
                self.waits.retain(|number, _| workers.iter().any(|w| w.number == *number && w.state == "starting"));
            }
            Fact::Storage { failure: None } => self.storage = false,
            Fact::WorkerLost { position: Some(_), .. } | Fact::TaskFailed(_) | Fact::HandingOver { .. } => {
                self.broken.get_or_insert(now);
            }
            Fact::Aborted { .. } => self.failing = true,
            _ => {}
        }
    }

    /// The first of an attempt is told of, and the first after some that failed.
    fn completed(&mut self, told: Told) -> Option<Told> {
        let failing = std::mem::take(&mut self.failing) | std::mem::take(&mut self.storage);
        let first = !std::mem::replace(&mut self.checkpointed, true);
        if failing {
            let note = format!("checkpoints complete again: {}", told.note);
            return Some(Told::normal(reasons::CHECKPOINTS_RECOVERED, note).about("checkpoints"));
        }
        first.then_some(told)
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
