//! What `weir run` does with what happens: it is shown, and written into the state folder for scripts and tests to read.

use std::{
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use weir_crds::{CheckpointStatus, StreamJobStatus};
use weir_runtime::clock;

use super::StateDir;
use crate::{
    coordinator::StatusOutcome,
    facts::{
        Fact,
        history::{Entry, History},
        observer::{Observer, StatusAnswer, StatusWrite},
    },
    time::Millis,
    ui::{Ui, View, WorkerView},
};

/// The newest checkpoint, as the resource's status names it in a cluster.
pub const STATUS_FILE: &str = "status.json";
/// The processes that run: number, id, process id.
const WORKERS_FILE: &str = "workers.json";
/// One line of JSON for each event of the run.
pub(super) const EVENTS_FILE: &str = "events.jsonl";
/// The last checkpoints of the run, as `weir checkpoints --history` shows them.
pub const HISTORY_FILE: &str = "checkpoints.json";
/// The history is written at most once in this time, and at the end: a job may take a hundred checkpoints a second.
const HISTORY_INTERVAL: Duration = Duration::from_millis(500);
/// The YAML's wish to restore that has acted last.
pub const RESTORED_FILE: &str = "restored-from";

/// Shows a run on this machine, and writes it down.
pub struct LocalObserver {
    state_dir: Arc<StateDir>,
    ui: Box<dyn Ui>,
    restore_wish: Option<String>,
    /// What has not been written yet.
    history: Option<History>,
    written: Option<Instant>,
}

impl LocalObserver {
    /// `restore_wish` is the YAML's wish to restore: it is written down once it has acted.
    pub fn new(state_dir: Arc<StateDir>, ui: Box<dyn Ui>, restore_wish: Option<String>) -> Self {
        Self { state_dir, ui, restore_wish, history: None, written: None }
    }

    /// Writes down what the last checkpoints were spent on. Failing to is no reason to disturb the job.
    fn write_history(&mut self) {
        if let Some(history) = self.history.take()
            && let Ok(bytes) = serde_json::to_vec(&history)
        {
            let _ = self.state_dir.write(HISTORY_FILE, &bytes);
            self.written = Some(clock::now());
        }
    }

    /// Writes an event down for programs. Failing to is no reason to disturb the job.
    fn record(&self, at: Millis, event: &str, facts: &Value) {
        let line = json!({"at": at.0, "event": event, "facts": facts});
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
    fn note_workers(&self, workers: &[WorkerView]) {
        let worker = |worker: &WorkerView| json!({"number": worker.number, "pid": worker.pid, "state": worker.state});
        let workers: Vec<Value> = workers.iter().map(worker).collect();
        if let Ok(bytes) = serde_json::to_vec(&workers) {
            let _ = self.state_dir.write(WORKERS_FILE, &bytes);
        }
    }
}

impl Observer for LocalObserver {
    fn fact(&mut self, at: Millis, fact: &Fact) {
        match fact {
            Fact::TermOpened { .. } => {
                if let Some(wish) = self.restore_wish.take() {
                    let _ = self.state_dir.write(RESTORED_FILE, wish.as_bytes());
                }
            }
            Fact::Workers(workers) => self.note_workers(workers),
            // On this machine a process's own end is told at once, and what is told later is that it was ended from here.
            Fact::WorkerEnded { .. } => return,
            Fact::Printed { line, .. } => self.ui.printed(line),
            _ => {}
        }
        let telling = fact.telling();
        if let Some((event, facts)) = telling.program {
            self.record(at, event, &facts);
        }
        if let Some((weight, mut line)) = telling.line {
            if let Fact::Stopping { last_checkpoint: true, .. } = fact {
                line.push_str("; once more stops at once");
            }
            self.ui.event(weight, &line);
        }
    }

    /// One process holds the folder's lock, so the status never goes backwards.
    fn write_status(&mut self, write: StatusWrite, answer: StatusAnswer) {
        let status = StreamJobStatus {
            attempt: Some(write.pointer.record.attempt.0),
            checkpoint: Some(CheckpointStatus {
                latest: Some(write.latest()),
                failed_since_latest: write.failed_since_latest,
                restored: None,
                requested: None,
            }),
            ..StreamJobStatus::default()
        };
        let written = serde_json::to_vec_pretty(&status).map_err(std::io::Error::other);
        answer.give(match written.and_then(|bytes| self.state_dir.write(STATUS_FILE, &bytes)) {
            Ok(()) => StatusOutcome::Written,
            Err(error) => {
                tracing::warn!(%error, "the status file cannot be written");
                StatusOutcome::InDoubt
            }
        });
    }

    fn checkpoint(&mut self, _: &Entry, history: &History) {
        self.history = Some(history.clone());
        if self.written.is_none_or(|written| clock::since(written) >= HISTORY_INTERVAL) {
            self.write_history();
        }
    }

    fn view(&mut self, view: &View) {
        if self.written.is_none_or(|written| clock::since(written) >= HISTORY_INTERVAL) {
            self.write_history();
        }
        self.ui.show(view);
    }

    fn finish(&mut self, view: &View) {
        self.write_history();
        self.ui.finish(view);
    }
}
