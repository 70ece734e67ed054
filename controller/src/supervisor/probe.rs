//! Whether storage answers, asked while something that needs it is late. A checkpoint that fails says mostly that a worker was not heard
//! in time; that it waits for storage is said here, within seconds, whatever the checkpoint's timeout is.

use std::time::{Duration, Instant};

use weir_protocol::{Attempt, CheckpointId, Term, paths};
use weir_runtime::clock;
use weir_storage::{JobStore, StorageError};

use super::{Done, Supervisor};
use crate::{
    effects::{OPENING_LIMIT, chain},
    facts::Fact,
};

/// What takes longer makes storage worth asking. Most checkpoints are complete by then.
const LATE: Duration = Duration::from_secs(3);
/// Storage that answers at all answers a small read in this time.
const PATIENCE: Duration = Duration::from_secs(5);
/// From one answer to the next question: a read every now and then is nothing beside the uploads of a checkpoint.
const PAUSE: Duration = Duration::from_secs(5);

/// What needs storage, and is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    TakeOver,
    /// An attempt is restored.
    Deployment(Attempt),
    Checkpoint(CheckpointId),
}

/// When storage is asked, and what it has answered.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// What is under way, and since when it has been seen.
    watched: Option<(Work, Instant)>,
    /// A takeover has not been answered.
    taking_over: bool,
    /// A checkpoint has failed since storage was asked last.
    failed: bool,
    under_way: bool,
    not_before: Option<Instant>,
    /// It did not answer, the last time.
    failure: Option<String>,
}

impl Probe {
    /// A checkpoint has failed.
    pub(super) fn failed(&mut self) {
        self.failed = true;
    }

    /// A checkpoint is complete: storage has answered.
    pub(super) fn completed(&mut self) {
        (self.failed, self.failure) = (false, None);
    }

    /// A takeover begins, or is over.
    pub(super) fn takes_over(&mut self, under_way: bool) {
        self.taking_over = under_way;
    }

    /// Whether to ask now, where this is under way. Whoever is told so asks.
    fn asks(&mut self, now: Instant, under_way: Option<Work>) -> bool {
        let since = self.watched.filter(|(work, _)| Some(*work) == under_way).map_or(now, |(_, since)| since);
        self.watched = under_way.map(|work| (work, since));
        let late = under_way.is_some() && now.duration_since(since) >= LATE;
        let wants = late || self.failed || self.failure.is_some();
        let asks = wants && !self.under_way && self.not_before.is_none_or(|at| now >= at);
        if asks {
            (self.under_way, self.failed) = (true, false);
        }
        asks
    }

    /// What is to be told of an answer: whether storage answers, where that has changed.
    fn answered(&mut self, now: Instant, failure: Option<String>) -> Option<Heard> {
        self.under_way = false;
        self.not_before = Some(now + PAUSE);
        let before = std::mem::replace(&mut self.failure, failure);
        (self.failure != before).then(|| Heard { failure: self.failure.clone() })
    }
}

/// What is to be told of storage: why it does not answer, or that it does again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Heard {
    failure: Option<String>,
}

impl Supervisor {
    /// Asks storage whether it answers, where there is a reason to.
    pub(super) fn probe(&mut self) {
        let coordinator = self.coordinator.as_ref().map(|(_, coordinator)| coordinator);
        let checkpoint = coordinator.and_then(|it| it.collecting().or_else(|| it.creating().map(|record| record.id)));
        let under_way = match checkpoint {
            _ if self.probe.taking_over => Some(Work::TakeOver),
            Some(id) => Some(Work::Checkpoint(id)),
            None => self.attempt.deploying().map(Work::Deployment),
        };
        if !self.probe.asks(clock::now(), under_way) {
            return;
        }
        // It is small, and stands as long as the term is ours. Where there is none yet, that nothing is there is an answer.
        let term = self.opened.as_ref().map_or(Term(1), |opened| opened.opening.term);
        let (store, path) = (self.store.clone(), paths::opening(term));
        self.beside(async move { Done::Probed(ask(&store, &path).await) });
    }

    /// Storage has answered, or has not: why.
    pub(super) fn on_probed(&mut self, failure: Option<String>) {
        if let Some(Heard { failure }) = self.probe.answered(clock::now(), failure) {
            self.tell(&Fact::Storage { failure });
        }
    }
}

/// Reads an object; what failed, if something did. That it is not there is an answer.
async fn ask(store: &JobStore, path: &str) -> Option<String> {
    match tokio::time::timeout(PATIENCE, store.get_at_most(path, OPENING_LIMIT)).await {
        Ok(Ok(_) | Err(StorageError::NotFound { .. } | StorageError::TooLarge { .. })) => None,
        Ok(Err(error)) => Some(chain(&error)),
        Err(_) => {
            Some(format!("storage {}: reading {path} was not answered within {} s", store.name(), PATIENCE.as_secs()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Option<Work> = Some(Work::Checkpoint(CheckpointId(1)));
    const TWO: Option<Work> = Some(Work::Checkpoint(CheckpointId(2)));

    #[test]
    fn storage_is_asked_while_a_checkpoint_is_late_and_until_it_answers_again() {
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let mut probe = Probe::default();
        assert!(!probe.asks(at(0), None) && !probe.asks(at(0), ONE));
        assert!(!probe.asks(at(4), TWO), "another one has just begun");
        assert!(probe.asks(at(7), TWO));
        assert!(!probe.asks(at(8), TWO), "one question at a time");
        let away = || Some("connection refused".to_string());
        assert_eq!(probe.answered(at(9), away()), Some(Heard { failure: away() }));
        assert!(!probe.asks(at(10), None), "not at once");
        assert!(probe.asks(at(14), None), "also where nothing is under way");
        assert_eq!(probe.answered(at(15), away()), None, "told once");
        assert!(probe.asks(at(20), None));
        assert_eq!(probe.answered(at(21), None), Some(Heard { failure: None }));
        assert!(!probe.asks(at(60), None), "it answers");
    }

    #[test]
    fn storage_is_asked_when_a_checkpoint_has_failed() {
        let begun = Instant::now();
        let mut probe = Probe::default();
        probe.failed();
        assert!(probe.asks(begun, None));
        assert_eq!(probe.answered(begun, None), None, "it answers, and nothing was said of it");
        assert!(!probe.asks(begun + PAUSE, None));
        probe.failed();
        probe.completed();
        assert!(!probe.asks(begun + PAUSE, None), "it has answered since");
    }

    #[tokio::test]
    async fn what_is_not_answered_names_the_call() {
        let store = JobStore::with_object_store(std::sync::Arc::new(object_store::memory::InMemory::new()), "air/j");
        assert_eq!(ask(&store, "terms/0000000001/opening").await, None, "nothing is there, which is an answer");
        let fault = weir_storage::fault::FaultStore::new(
            std::sync::Arc::new(object_store::memory::InMemory::new()),
            weir_storage::fault::Fault::Stop,
            1,
        );
        let store = JobStore::with_object_store(std::sync::Arc::new(fault), "air/j");
        let failure = ask(&store, "terms/0000000001/opening").await.unwrap();
        assert!(failure.contains("reading terms/0000000001/opening failed"), "{failure}");
    }
}
