//! How each fact is told: the line that a person reads of `weir run`, the event in a cluster, and the line for programs.
//!
//! A table, one row for each fact. What of it is said again, and what is not since it was said before, is whoever tells it's.

use std::time::Duration;

use serde_json::{Value, json};
use weir_protocol::settings::FailureKind;

use super::{
    DOUBTS, Fact,
    recovery::Breakdown,
    told::{Told, without_numbers},
    why::Why,
};
use crate::{
    attempt::End,
    coordinator::Last,
    reasons::events as reasons,
    ui::{
        Weight::{self, Bad, Change, Good, Routine},
        text,
    },
};

/// A row of the table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Telling {
    /// The line of `weir run`, and how much it matters.
    pub line: Option<(Weight, String)>,
    /// The event in a cluster.
    pub event: Option<Told>,
    /// Its name and what it says in the events' file of a run on this machine, for programs.
    pub program: Option<(&'static str, Value)>,
}

impl Telling {
    fn line(weight: Weight, line: impl Into<String>) -> Self {
        Self { line: Some((weight, line.into())), ..Self::default() }
    }

    fn event(self, event: Told) -> Self {
        Self { event: Some(event), ..self }
    }

    fn program(self, name: &'static str, facts: Value) -> Self {
        Self { program: Some((name, facts)), ..self }
    }

    /// It is told as nothing: it is only counted, or shown.
    fn nothing() -> Self {
        Self::default()
    }
}

impl Fact {
    /// How it is told.
    pub fn telling(&self) -> Telling {
        match self {
            Self::Workers(_)
            | Self::WorkerWaits { .. }
            | Self::WorkerLeaves { .. }
            | Self::WorkerLost { .. }
            | Self::WorkerEnded { .. }
            | Self::StartFailed { .. }
            | Self::Beside { .. }
            | Self::Printed { .. } => worker(self),
            Self::TermOpened { .. }
            | Self::TakeOverFailed { .. }
            | Self::Deploying { .. }
            | Self::Running { .. }
            | Self::FirstOutput(_)
            | Self::TaskFailed(_)
            | Self::Restarting { .. } => attempt(self),
            Self::Completed { .. }
            | Self::Requested { .. }
            | Self::Aborted { .. }
            | Self::RecordInDoubt { .. }
            | Self::Storage { .. }
            | Self::Committed { .. }
            | Self::Publishing { .. }
            | Self::HeldBack { .. } => checkpoint(self),
            Self::Planned { .. }
            | Self::ChangeWaits { .. }
            | Self::HandingOver { .. }
            | Self::HandedOver
            | Self::ChangeApplied { .. }
            | Self::ChangeRefused { .. } => change(self),
            Self::Stopping { .. } | Self::Killed => stop(self),
            Self::Ended(end) => ended(end),
        }
    }
}

/// Rows of processes.
fn worker(fact: &Fact) -> Telling {
    match fact {
        Fact::WorkerWaits { process, obstacle: Some(obstacle) } => {
            let line = Telling::line(Bad, format!("worker {process} waits: {}", obstacle.reason));
            if !obstacle.kind.is_in_the_way() {
                return line;
            }
            let note = format!("a worker does not come up: {}", obstacle.reason);
            line.event(Told::warning(reasons::WORKER_WAITS, note).about(without_numbers(&obstacle.reason)))
        }
        Fact::WorkerLeaves { name, reason } => {
            let line = format!("{name} is to go ({reason}); its place is handed over");
            let event = Told::normal(reasons::WORKER_LEAVES, line.clone()).because(reason);
            Telling::line(Change, line).event(event)
        }
        Fact::WorkerLost { worker, name, cause, position } => Telling::line(Bad, format!("{name} lost: {cause}"))
            .event(Told::warning(reasons::WORKER_LOST, format!("{name} was lost: {cause}")).about(name))
            .program("workerLost", json!({"worker": worker.0, "cause": cause, "position": position})),
        Fact::WorkerEnded { name, how } => {
            let line = format!("{name} has ended: {how}");
            let event = Told::warning(reasons::WORKER_LOST, line.clone()).about(format!("the end of {name}"));
            Telling::line(Bad, line).event(event)
        }
        Fact::StartFailed { reason } => {
            let line = format!("a worker did not start: {reason}");
            Telling::line(Bad, line.clone()).event(Told::warning(reasons::WORKER_START_FAILED, line))
        }
        Fact::Beside { trouble: Some(trouble) } => {
            let line = Telling::line(Bad, trouble.reason.clone());
            if !trouble.lasting {
                return line;
            }
            line.event(Told::warning(reasons::SIDECARS_FAIL, trouble.reason.clone()))
        }
        Fact::Beside { trouble: None } => Telling::line(Good, "what stands beside the workers runs as it should"),
        // Workers, Printed and a wait that is over are shown as they are.
        _ => Telling::nothing(),
    }
}

/// Rows of attempts.
fn attempt(fact: &Fact) -> Telling {
    match fact {
        Fact::TermOpened { restored: Some(record), why, .. } => {
            let verb = match why {
                Why::Start => "restored from",
                Why::Resume => "resumed after",
                Why::Failure => "rolled back to",
                Why::Change => "going on from",
            };
            let state = text::bytes(record.state_bytes);
            Telling::line(Change, format!("{verb} checkpoint {} with {state} of state", record.id))
        }
        Fact::TakeOverFailed { reason } => {
            Telling::line(Bad, format!("storage does not answer, trying again: {reason}")).event(storage(reason))
        }
        Fact::Deploying { attempt, workers, slots } => {
            Telling::line(Change, format!("attempt {attempt}: {workers} workers with {slots} slots each"))
                .program("deploying", json!({"attempt": attempt.0}))
        }
        // As an event it says what it was restored from, which an earlier fact has told.
        Fact::Running { attempt, resumed, recovery, .. } => {
            let line = match recovery {
                _ if *resumed => "running on".to_string(),
                Some(recovery) => recovery.running_in_words(),
                None => "running".to_string(),
            };
            let recovery = recovery.as_ref().map(Breakdown::facts);
            let facts = json!({"attempt": attempt.0, "resumed": resumed, "recovery": recovery});
            Telling::line(Good, line).program("running", facts)
        }
        Fact::FirstOutput(recovery) => {
            let line = recovery.first_output_in_words().map(|line| (Change, line));
            Telling { line, ..Telling::nothing() }.program("firstOutput", recovery.facts())
        }
        Fact::TaskFailed(failure) => {
            let words = failure.in_words();
            let lost = failure.kind == FailureKind::OutputLost;
            let reason = if lost { reasons::OUTPUT_LOST } else { reasons::TASK_FAILED };
            let note = format!("attempt {}: {words}", failure.attempt);
            let facts = json!({
                "kind": failure.kind.as_str(),
                "operator": failure.operator,
                "subtask": failure.subtask,
                "message": failure.message,
            });
            Telling::line(Bad, format!("failed: {words}"))
                .event(Told::warning(reason, note).because(&words))
                .program("taskFailed", facts)
        }
        Fact::Restarting { after, failures } if !after.is_zero() => {
            let after = text::span(*after);
            let note = format!("failure {failures} in a row; the next attempt begins in {after}");
            Telling::line(Change, format!("restarting in {after} (failure {failures} in a row)"))
                .event(Told::normal(reasons::BACKING_OFF, note).about("the restart policy"))
        }
        // A term that restores nothing, and a restart at once.
        _ => Telling::nothing(),
    }
}

/// Rows of checkpoints, and of what becomes of their output.
fn checkpoint(fact: &Fact) -> Telling {
    match fact {
        Fact::Completed { record, pause } => {
            let state = format!(
                "checkpoint {} in {}: state {}",
                record.id,
                text::span(Duration::from_millis(record.duration_ms)),
                text::bytes(record.state_bytes)
            );
            let last = if record.is_final { ", the last one" } else { "" };
            let line = format!("{state}, uploaded {}{last}", text::bytes(record.uploaded_bytes));
            let facts = json!({
                "id": record.id.0,
                "attempt": record.attempt.0,
                "durationMs": record.duration_ms,
                "stateBytes": record.state_bytes,
                "uploadedBytes": record.uploaded_bytes,
                "pauseUs": pause.map(|pause| pause.as_micros() as u64),
                "final": record.is_final,
            });
            Telling::line(Routine, line)
                .event(Told::normal(reasons::CHECKPOINTED, state).about("the first of an attempt"))
                .program("checkpoint", facts)
        }
        Fact::Aborted { id, reason, failed, beyond_tolerable } => {
            let more = if *beyond_tolerable { "; more than tolerableFailures" } else { "" };
            let row = Telling::line(Bad, format!("checkpoint {id} aborted: {reason}{more}"))
                .program("aborted", json!({"id": id.0, "reason": reason, "failed": failed}));
            // The first of a row, and then ever fewer.
            if !failed.is_power_of_two() {
                return row;
            }
            let note = format!("checkpoint {id} failed ({failed} in a row): {reason}");
            row.event(Told::warning(reasons::CHECKPOINT_FAILED, note).because(reason))
        }
        Fact::Requested { value, id, failure } => {
            let facts = json!({"value": value, "id": id.0, "failure": failure});
            let (line, event) = match failure {
                None => {
                    let line = format!("checkpoint {id}, which was asked for, is complete");
                    let event = Told::normal(
                        reasons::CHECKPOINTED,
                        format!("checkpoint {id} is complete, as {value:?} has asked"),
                    );
                    (Telling::line(Good, line), event)
                }
                Some(failure) => {
                    let line = format!("checkpoint {id}, which was asked for, has failed: {failure}");
                    let note = format!("checkpoint {id}, for which {value:?} has asked, failed: {failure}");
                    (Telling::line(Bad, line), Told::warning(reasons::CHECKPOINT_FAILED, note))
                }
            };
            line.event(event.about(value)).program("requested", facts)
        }
        Fact::RecordInDoubt { record, reason, tries } => {
            let id = record.id;
            let row = Telling::line(
                Bad,
                format!("whether checkpoint {id} is complete is not known yet (try {tries}): {reason}"),
            );
            if *tries < DOUBTS { row } else { row.event(storage(reason)) }
        }
        Fact::Storage { failure: Some(reason) } => {
            Telling::line(Bad, format!("storage does not answer: {reason}")).event(storage(reason))
        }
        Fact::Storage { failure: None } => Telling::line(Good, "storage answers again"),
        Fact::Committed { id } => Telling::nothing().program("committed", json!({"id": id.0})),
        Fact::Publishing { failure: Some(reason) } => {
            let note = format!("the output of complete checkpoints cannot be published, tried again: {reason}");
            Telling::line(Bad, format!("output waits to be published: {reason}"))
                .event(Told::warning(reasons::OUTPUT_UNPUBLISHED, note))
        }
        Fact::Publishing { failure: None } => {
            let line = "output is published again";
            Telling::line(Good, line).event(Told::normal(reasons::OUTPUT_PUBLISHED, line))
        }
        Fact::HeldBack { waiting: Some(waiting) } => {
            let line = format!("{waiting} files or objects of a worker wait to be published: sources are held back");
            Telling::line(Bad, line.clone()).event(Told::warning(reasons::OUTPUT_HELD_BACK, line))
        }
        Fact::HeldBack { waiting: None } => {
            let line = "sources read on";
            Telling::line(Good, line).event(Told::normal(reasons::OUTPUT_PUBLISHED, line))
        }
        _ => Telling::nothing(),
    }
}

fn storage(reason: &str) -> Told {
    Told::warning(reasons::STORAGE_UNREACHABLE, format!("storage does not answer, tried again: {reason}"))
}

/// Rows of changes.
fn change(fact: &Fact) -> Telling {
    match fact {
        Fact::Planned { warnings, generation, .. } if !warnings.is_empty() => {
            let warnings = warnings.join("; ");
            let told = Told::warning(reasons::PLAN_WARNING, warnings.clone()).about(generation);
            Telling::line(Bad, format!("warning: {warnings}")).event(Told { once: true, ..told })
        }
        Fact::ChangeWaits { reason, .. } => Telling::line(Change, format!("the change waits: {reason}")),
        Fact::HandingOver { generation } => {
            let note = "a last checkpoint is taken, then the next attempt begins";
            Telling::line(Change, "handing over: a last checkpoint, then the next attempt")
                .event(Told::normal(reasons::CHANGING, note).about(generation))
        }
        Fact::ChangeApplied { generation } => {
            let note = format!("generation {generation} holds, without a new attempt");
            Telling::line(Change, "the change holds, without a new attempt")
                .event(Told::normal(reasons::CHANGED, note).about(generation))
        }
        Fact::ChangeRefused { generation, reason } => {
            let note = format!("generation {generation} is refused, the last good version runs on: {reason}");
            Telling::line(Bad, format!("the change is refused: {reason}"))
                .event(Told::warning(reasons::CHANGE_REFUSED, note).about(generation))
        }
        // A plan without warnings, and what a handover has come to.
        _ => Telling::nothing(),
    }
}

/// Rows of what was asked for.
fn stop(fact: &Fact) -> Telling {
    match fact {
        Fact::Stopping { why, last_checkpoint } => {
            let how = if *last_checkpoint { "a last checkpoint, then an end" } else { "an end" };
            let line = format!("{why}: {how}");
            Telling::line(Change, line.clone()).event(Told::normal(reasons::STOPPING, line))
        }
        Fact::Killed => Telling::line(Bad, "stopping at once; the next run goes on from the newest checkpoint"),
        _ => Telling::nothing(),
    }
}

/// Rows of ends.
fn ended(end: &End) -> Telling {
    match end {
        End::Succeeded(record) => {
            let id = record.id;
            let note = format!("finished: all output up to checkpoint {id} is published");
            let line = format!("finished: all input is read, all output up to checkpoint {id} is published");
            Telling::line(Good, line).event(Told::normal(reasons::SUCCEEDED, note))
        }
        End::Stopped(last) => {
            let line = match last {
                Some(Last::Taken { record, .. }) => {
                    Telling::line(Good, format!("stopped; running again goes on from checkpoint {}", record.id))
                }
                _ => Telling::nothing(),
            };
            line.event(Told::normal(reasons::SUSPENDED, "all workers are stopped"))
        }
        End::Failed { reason, .. } => Telling::nothing().event(Told::warning(reasons::FAILED, reason.clone())),
        End::Refused { reason } => Telling::nothing().event(Told::warning(reasons::STALLED, reason.clone())),
        End::Superseded { by } => {
            let by = by.as_deref().unwrap_or("another coordinator");
            Telling::nothing().event(Told::warning(reasons::STALLED, format!("{by} coordinates the job now")))
        }
    }
}

#[cfg(test)]
mod tests;
