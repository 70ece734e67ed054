//! The last checkpoints of a job and what each was spent on, for people who want to know why one was slow, or failed. It is kept by who
//! supervises the job, and begins anew with the next one: what can be restored stands in storage.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};
use weir_protocol::{Attempt, CheckpointId, record::Record, rpc};

use crate::time::Millis;

/// So many are kept.
pub const KEPT: usize = 32;

/// Why a checkpoint was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Its time had come.
    #[default]
    Regular,
    /// Somebody has asked for it.
    Requested,
    /// The attempt is to end after it: a stop, a change, a worker that leaves.
    Last,
    /// All input has ended.
    Final,
}

/// What has become of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Result {
    /// It is under way.
    #[default]
    UnderWay,
    /// Its record stands.
    Complete,
    /// It has no record; who or what was in its way, in a sentence.
    Failed(String),
}

/// What a checkpoint was spent on, in microseconds. What workers do beside each other is told of the one that took longest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_field_names, reason = "the ending is the unit")]
pub struct Phases {
    /// From the trigger to the last ack: all of the next four, and the ways there and back.
    pub acks_us: u64,
    /// From the first barrier of a subtask to its last.
    pub align_us: u64,
    /// Processing stands still while a subtask freezes.
    pub freeze_us: u64,
    /// Frozen state is written to the backend, beside processing.
    pub persist_us: u64,
    /// What changed is uploaded, and a sink's transaction finished.
    pub upload_us: u64,
    /// From the last ack until the record stands.
    pub record_us: u64,
    /// From then until all workers have published. None where they have not yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_us: Option<u64>,
}

/// The subtask that took longest from its first barrier until it was durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slowest {
    /// How people call its worker.
    pub worker: String,
    /// Its stage, for people. Empty where the worker does not say.
    pub stage: String,
    /// Which of the stage's subtasks.
    pub subtask: u32,
    /// How long it took, in microseconds.
    pub took_us: u64,
}

/// One checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its id.
    pub id: u64,
    /// The attempt that it was taken of.
    pub attempt: u64,
    /// Why.
    pub kind: Kind,
    /// What has become of it.
    pub result: Result,
    /// When it was triggered, in milliseconds since the epoch.
    pub triggered_at_ms: u64,
    /// From there to its record, or to its failure, in milliseconds.
    pub duration_ms: u64,
    /// What it was spent on.
    pub phases: Phases,
    /// Bytes of state that it names.
    pub state_bytes: u64,
    /// Bytes that were uploaded for it.
    pub uploaded_bytes: u64,
    /// Who held it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowest: Option<Slowest>,
}

/// The last of them, the newest first. As JSON it is their list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History {
    entries: VecDeque<Entry>,
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

impl History {
    /// The newest first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The one that is under way.
    fn current(&mut self) -> Option<&mut Entry> {
        self.entries.front_mut().filter(|entry| entry.result == Result::UnderWay)
    }

    /// A checkpoint was triggered.
    pub fn triggered(&mut self, now: Millis, id: CheckpointId, attempt: Attempt, kind: Kind) {
        let entry = Entry {
            id: id.0,
            attempt: attempt.0,
            kind,
            result: Result::UnderWay,
            triggered_at_ms: now.0,
            duration_ms: 0,
            phases: Phases::default(),
            state_bytes: 0,
            uploaded_bytes: 0,
            slowest: None,
        };
        self.entries.push_front(entry);
        self.entries.truncate(KEPT);
    }

    /// A worker's part stands.
    pub fn acked(&mut self, now: Millis, worker: &str, acked: &rpc::Acked) {
        let same = |entry: &&mut Entry| (entry.id, entry.attempt) == (acked.id, acked.attempt);
        let Some(entry) = self.current().filter(same) else { return };
        let phases = &mut entry.phases;
        phases.acks_us = micros(now - Millis(entry.triggered_at_ms));
        phases.align_us = phases.align_us.max(acked.align_us);
        phases.freeze_us = phases.freeze_us.max(acked.pause_us);
        phases.persist_us = phases.persist_us.max(acked.persist_us);
        phases.upload_us = phases.upload_us.max(acked.upload_us);
        entry.state_bytes += acked.state_bytes;
        entry.uploaded_bytes += acked.uploaded_bytes;
        if acked.slowest_us > 0 && entry.slowest.as_ref().is_none_or(|slowest| slowest.took_us < acked.slowest_us) {
            entry.slowest = Some(Slowest {
                worker: worker.to_string(),
                stage: acked.slowest_stage.clone(),
                subtask: acked.slowest_subtask,
                took_us: acked.slowest_us,
            });
        }
    }

    /// Its record stands.
    pub fn completed(&mut self, now: Millis, record: &Record) -> Option<&Entry> {
        let entry = self.current().filter(|entry| entry.id == record.id.0)?;
        entry.result = Result::Complete;
        entry.duration_ms = now.0.saturating_sub(entry.triggered_at_ms);
        entry.phases.record_us = (entry.duration_ms * 1000).saturating_sub(entry.phases.acks_us);
        if record.is_final {
            entry.kind = Kind::Final;
        }
        Some(entry)
    }

    /// All workers have published what it holds.
    pub fn committed(&mut self, now: Millis, id: CheckpointId) -> Option<&Entry> {
        let entry = self.entries.iter_mut().find(|entry| entry.id == id.0 && entry.result == Result::Complete)?;
        if entry.phases.commit_us.is_some() {
            return None;
        }
        entry.phases.commit_us = Some(micros(now - Millis(entry.triggered_at_ms + entry.duration_ms)));
        Some(entry)
    }

    /// It has failed.
    pub fn failed(&mut self, now: Millis, id: CheckpointId, why: &str) -> Option<&Entry> {
        let entry = self.current().filter(|entry| entry.id == id.0)?;
        entry.result = Result::Failed(why.to_string());
        entry.duration_ms = now.0.saturating_sub(entry.triggered_at_ms);
        Some(entry)
    }

    /// Its attempt is over, or its coordinator; whatever was under way has failed, as far as anybody here will know.
    pub fn given_up(&mut self, now: Millis) -> Option<&Entry> {
        let id = CheckpointId(self.current()?.id);
        self.failed(now, id, "its attempt ended before it was known to be complete")
    }
}

#[cfg(test)]
mod tests {
    use weir_protocol::{
        JobName, RecordNumber, Term,
        record::{RECORD_VERSION, Record},
    };

    use super::*;

    fn record(id: u64, is_final: bool) -> Record {
        Record {
            version: RECORD_VERSION,
            id: CheckpointId(id),
            term: Term(1),
            number: RecordNumber(1),
            attempt: Attempt(1),
            job: JobName { namespace: "air".to_string(), name: "flights".to_string() },
            is_final,
            parallelism: 2,
            max_parallelism: 128,
            fingerprint: String::new(),
            parts: Vec::new(),
            completed_at_ms: 0,
            duration_ms: 0,
            state_bytes: 0,
            uploaded_bytes: 0,
        }
    }

    fn acked(id: u64, attempt: u64, slowest_us: u64) -> rpc::Acked {
        rpc::Acked {
            attempt,
            id,
            state_bytes: 10,
            uploaded_bytes: 1,
            align_us: slowest_us / 2,
            upload_us: 7,
            slowest_stage: "sum".to_string(),
            slowest_subtask: 3,
            slowest_us,
            ..rpc::Acked::default()
        }
    }

    #[test]
    fn a_checkpoint_is_told_by_what_it_was_spent_on() {
        let mut history = History::default();
        history.triggered(Millis(1_000), CheckpointId(1), Attempt(1), Kind::Requested);
        history.acked(Millis(1_200), "worker 1", &acked(1, 1, 90_000));
        history.acked(Millis(1_250), "worker 2", &acked(1, 1, 30_000));
        history.acked(Millis(1_260), "worker 3", &acked(1, 9, 99_999_999));
        history.acked(Millis(1_270), "worker 3", &acked(2, 1, 99_999_999));
        assert!(history.completed(Millis(1_300), &record(2, false)).is_none(), "another's");
        history.completed(Millis(1_300), &record(1, false)).unwrap();
        history.committed(Millis(1_340), CheckpointId(1)).unwrap();
        assert!(history.committed(Millis(9_000), CheckpointId(1)).is_none(), "once");
        let slowest = Slowest { worker: "worker 1".to_string(), stage: "sum".to_string(), subtask: 3, took_us: 90_000 };
        let phases = Phases {
            acks_us: 250_000,
            align_us: 45_000,
            freeze_us: 0,
            persist_us: 0,
            upload_us: 7,
            record_us: 50_000,
            commit_us: Some(40_000),
        };
        let expected = Entry {
            id: 1,
            attempt: 1,
            kind: Kind::Requested,
            result: Result::Complete,
            triggered_at_ms: 1_000,
            duration_ms: 300,
            phases,
            state_bytes: 20,
            uploaded_bytes: 2,
            slowest: Some(slowest),
        };
        assert_eq!(history.entries().collect::<Vec<_>>(), [&expected]);
        let read: History = serde_json::from_str(&serde_json::to_string(&history).unwrap()).unwrap();
        assert_eq!(read, history);
    }

    #[test]
    fn what_fails_says_why_and_what_an_attempt_leaves_has_failed() {
        let mut history = History::default();
        assert!(history.given_up(Millis(1)).is_none(), "nothing is under way");
        history.triggered(Millis(1), CheckpointId(1), Attempt(1), Kind::Regular);
        history.failed(Millis(4), CheckpointId(1), "worker 2 declined: no space").unwrap();
        assert!(history.failed(Millis(5), CheckpointId(1), "again").is_none());
        history.triggered(Millis(6), CheckpointId(2), Attempt(1), Kind::Last);
        history.given_up(Millis(9)).unwrap();
        history.triggered(Millis(9), CheckpointId(3), Attempt(2), Kind::Regular);
        history.completed(Millis(10), &record(3, true)).unwrap();
        let told: Vec<_> = history.entries().map(|entry| (entry.id, entry.kind, entry.result.clone())).collect();
        let failed = |why: &str| Result::Failed(why.to_string());
        assert_eq!(
            told,
            [
                (3, Kind::Final, Result::Complete),
                (2, Kind::Last, failed("its attempt ended before it was known to be complete")),
                (1, Kind::Regular, failed("worker 2 declined: no space")),
            ]
        );
    }

    #[test]
    fn only_the_last_are_kept() {
        let mut history = History::default();
        for id in 1..100 {
            history.triggered(Millis(id), CheckpointId(id), Attempt(1), Kind::Regular);
            history.completed(Millis(id), &record(id, false));
        }
        let ids: Vec<u64> = history.entries().map(|entry| entry.id).collect();
        assert_eq!(ids, (68..100).rev().collect::<Vec<_>>());
        assert!(history.committed(Millis(100), CheckpointId(1)).is_none(), "it is not among them any more");
    }
}
