//! What is written down of a run for others to read: the status file, the workers, events; and what is said of them.

use std::{io::Write, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use weir_crds::{CheckpointStatus, LatestCheckpoint, StreamJobStatus};
use weir_storage::JobStore;

use super::Supervisor;
use crate::{
    attempt,
    coordinator::{self, StatusOutcome, StatusPointer},
    state_dir::StateDir,
    ui::{Weight, text},
};

/// The newest checkpoint, as the resource's status names it in a cluster.
const STATUS_FILE: &str = "status.json";
/// The processes that run: number, id, process id.
const WORKERS_FILE: &str = "workers.json";
/// One line of JSON for each event of the run.
const EVENTS_FILE: &str = "events.jsonl";

/// Writes `status.checkpoint` into the state folder. One process holds the folder's lock, so it never goes backwards.
pub fn write(state_dir: &StateDir, store: &JobStore, pointer: &StatusPointer, failed: u32) -> StatusOutcome {
    let record = &pointer.record;
    let completed = DateTime::<Utc>::from_timestamp_millis(i64::try_from(record.completed_at_ms).unwrap_or_default());
    let status = StreamJobStatus {
        attempt: Some(record.attempt.0),
        checkpoint: Some(CheckpointStatus {
            latest: Some(LatestCheckpoint {
                id: record.id.0,
                record: format!("{}/{}", store.name(), record.reference().path()),
                completed_at: completed.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true),
                duration: weir_crds::Duration(Duration::from_millis(record.duration_ms)),
                state_bytes: record.state_bytes,
                uploaded_bytes: record.uploaded_bytes,
            }),
            failed_since_latest: failed,
            restored: None,
        }),
        ..StreamJobStatus::default()
    };
    let written = serde_json::to_vec_pretty(&status).map_err(std::io::Error::other);
    match written.and_then(|bytes| state_dir.write(STATUS_FILE, &bytes)) {
        Ok(()) => StatusOutcome::Written,
        Err(error) => {
            tracing::warn!(%error, "the status file cannot be written");
            StatusOutcome::InDoubt
        }
    }
}

impl Supervisor {
    /// Shows an event.
    pub(super) fn tell(&mut self, weight: Weight, line: &str) {
        self.ui.event(weight, line);
    }

    /// Writes an event down for programs. Failing to is no reason to disturb the job.
    pub(super) fn record(&self, event: &str, facts: &Value) {
        let line = json!({"at": self.clock.now().0, "event": event, "facts": facts});
        let path = self.state_dir.path().join(EVENTS_FILE);
        let written = std::fs::File::options()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        if let Err(error) = written {
            tracing::debug!(%error, "an event cannot be written down");
        }
    }

    /// Writes down which processes there are, so that scripts and tests need not guess.
    pub(super) fn note_workers(&mut self) {
        let workers: Vec<Value> = self
            .roster
            .views()
            .into_iter()
            .map(|worker| json!({"number": worker.number, "pid": worker.pid, "state": worker.state}))
            .collect();
        if let Ok(bytes) = serde_json::to_vec(&workers) {
            let _ = self.state_dir.write(WORKERS_FILE, &bytes);
        }
    }

    pub(super) fn on_attempt_note(&mut self, note: attempt::Note) {
        use attempt::Note;
        match note {
            Note::WorkerLost { worker, cause, position } => {
                let name = self.roster.name(&worker);
                self.traffic.state("recovering");
                self.record("workerLost", &json!({"worker": worker.0, "cause": cause, "position": position}));
                self.tell(Weight::Bad, &format!("{name} lost: {cause}"));
            }
            Note::TaskFailed(failure) => {
                self.traffic.state("recovering");
                if self.recovery.as_ref().is_none_or(super::Recovery::is_over) {
                    self.recovery = Some(super::Recovery::new("task"));
                }
                self.record(
                    "taskFailed",
                    &json!({"kind": failure.kind.as_str(), "operator": failure.operator, "subtask": failure.subtask, "message": failure.message}),
                );
                self.tell(Weight::Bad, &format!("failed: {}", in_words(&failure)));
            }
            Note::Restarting { after, failures } if !after.is_zero() => {
                let line = format!("restarting in {} (failure {failures} in a row)", text::span(after));
                self.tell(Weight::Change, &line);
            }
            Note::Restarting { .. } => {}
            Note::StartFailed { reason } => self.tell(Weight::Bad, &format!("a worker did not start: {reason}")),
            Note::TakeOverFailed { reason } => {
                self.tell(Weight::Bad, &format!("storage does not answer, trying again: {reason}"));
            }
            Note::Deploying { attempt } => {
                let (workers, slots) = (self.job.workers, self.job.slots);
                self.record("deploying", &json!({"attempt": attempt.0}));
                self.tell(Weight::Change, &format!("attempt {attempt}: {workers} workers with {slots} slots each"));
            }
            Note::Running { attempt, resumed } => {
                if !self.stopping {
                    self.traffic.state("running");
                }
                self.note_workers();
                let line = self.recovery.as_mut().and_then(super::Recovery::running);
                let facts = self.recovery.as_ref().map(super::Recovery::facts);
                self.record("running", &json!({"attempt": attempt.0, "resumed": resumed, "recovery": facts}));
                self.tell(Weight::Good, &line.unwrap_or_else(|| "running".to_string()));
            }
        }
    }

    pub(super) fn on_coordinator_note(&mut self, note: coordinator::Note) {
        use coordinator::Note;
        match note {
            Note::Triggered { .. } => {}
            Note::Completed { record } => {
                let pause = self.traffic.completed(&record);
                self.record(
                    "checkpoint",
                    &json!({
                        "id": record.id.0,
                        "attempt": record.attempt.0,
                        "durationMs": record.duration_ms,
                        "stateBytes": record.state_bytes,
                        "uploadedBytes": record.uploaded_bytes,
                        "pauseUs": pause.map(|pause| pause.as_micros() as u64),
                        "final": record.is_final,
                    }),
                );
                let line = format!(
                    "checkpoint {} in {}: state {}, uploaded {}{}",
                    record.id,
                    text::span(Duration::from_millis(record.duration_ms)),
                    text::bytes(record.state_bytes),
                    text::bytes(record.uploaded_bytes),
                    if record.is_final { ", the last one" } else { "" },
                );
                self.tell(Weight::Routine, &line);
            }
            Note::Aborted { id, reason, failed, beyond_tolerable } => {
                self.traffic.failed(failed);
                self.record("aborted", &json!({"id": id.0, "reason": reason, "failed": failed}));
                let more = if beyond_tolerable { "; more than tolerableFailures" } else { "" };
                self.tell(Weight::Bad, &format!("checkpoint {id} aborted: {reason}{more}"));
            }
            Note::RecordInDoubt { record, reason, tries } => {
                let line =
                    format!("whether checkpoint {} is complete is not known yet (try {tries}): {reason}", record.id);
                self.tell(Weight::Bad, &line);
            }
            Note::Committed { id } => self.record("committed", &json!({"id": id.0})),
        }
    }
}

/// A failure in one line.
pub fn in_words(failure: &attempt::Failure) -> String {
    if failure.operator.is_empty() {
        return failure.message.clone();
    }
    format!("{}, subtask {}: {}", failure.operator, failure.subtask, failure.message)
}
