//! What happens to a job, in sentences for people: the lines of `weir run`, and the messages of events in a cluster.

use std::time::Duration;

use super::observer::{Fact, Why};
use crate::{
    attempt::{End, Failure},
    coordinator::Last,
    ui::{Weight, text},
};

impl Fact {
    /// A sentence, and how much it matters; none for what is only counted.
    pub fn in_words(&self) -> Option<(Weight, String)> {
        let (weight, line) = match self {
            Self::TermOpened { restored: Some(record), why, .. } => {
                let verb = match why {
                    Why::Start => "restored from",
                    Why::Resume => "resumed after",
                    Why::Failure => "rolled back to",
                    Why::Change => "going on from",
                };
                let state = text::bytes(record.state_bytes);
                (Weight::Change, format!("{verb} checkpoint {} with {state} of state", record.id))
            }
            Self::WorkerWaits { process, obstacle: Some(obstacle) } => {
                (Weight::Bad, format!("worker {process} waits: {}", obstacle.reason))
            }
            Self::Beside { trouble: Some(trouble) } => (Weight::Bad, trouble.reason.clone()),
            Self::Beside { trouble: None } => {
                (Weight::Good, "what stands beside the workers runs as it should".to_string())
            }
            Self::WorkerLeaves { name, reason } => {
                (Weight::Change, format!("{name} is to go ({reason}); its place is handed over"))
            }
            Self::Publishing { failure: Some(reason) } => {
                (Weight::Bad, format!("output waits to be published: {reason}"))
            }
            Self::Publishing { failure: None } => (Weight::Good, "output is published again".to_string()),
            Self::HeldBack { waiting: Some(waiting) } => {
                let line =
                    format!("{waiting} files or objects of a worker wait to be published: sources are held back");
                (Weight::Bad, line)
            }
            Self::HeldBack { waiting: None } => (Weight::Good, "sources read on".to_string()),
            Self::WorkerLost { name, cause, .. } => (Weight::Bad, format!("{name} lost: {cause}")),
            Self::WorkerEnded { name, how } => (Weight::Bad, format!("{name} has ended: {how}")),
            Self::TaskFailed(failure) => (Weight::Bad, format!("failed: {}", in_words(failure))),
            Self::Restarting { after, .. } if after.is_zero() => return None,
            Self::Restarting { after, failures } => {
                (Weight::Change, format!("restarting in {} (failure {failures} in a row)", text::span(*after)))
            }
            Self::StartFailed { reason } => (Weight::Bad, format!("a worker did not start: {reason}")),
            Self::TakeOverFailed { reason } => {
                (Weight::Bad, format!("storage does not answer, trying again: {reason}"))
            }
            Self::Deploying { attempt, workers, slots } => {
                (Weight::Change, format!("attempt {attempt}: {workers} workers with {slots} slots each"))
            }
            Self::Running { recovery, resumed, .. } => {
                let line = match recovery {
                    _ if *resumed => "running on".to_string(),
                    Some(recovery) => recovery.running_in_words(),
                    None => "running".to_string(),
                };
                (Weight::Good, line)
            }
            Self::FirstOutput(recovery) => (Weight::Change, recovery.first_output_in_words()?),
            Self::Completed { record, .. } => {
                let line = format!(
                    "checkpoint {} in {}: state {}, uploaded {}{}",
                    record.id,
                    text::span(Duration::from_millis(record.duration_ms)),
                    text::bytes(record.state_bytes),
                    text::bytes(record.uploaded_bytes),
                    if record.is_final { ", the last one" } else { "" },
                );
                (Weight::Routine, line)
            }
            Self::Aborted { id, reason, beyond_tolerable, .. } => {
                let more = if *beyond_tolerable { "; more than tolerableFailures" } else { "" };
                (Weight::Bad, format!("checkpoint {id} aborted: {reason}{more}"))
            }
            Self::RecordInDoubt { record, reason, tries } => {
                let line =
                    format!("whether checkpoint {} is complete is not known yet (try {tries}): {reason}", record.id);
                (Weight::Bad, line)
            }
            Self::Storage { failure: Some(reason) } => (Weight::Bad, format!("storage does not answer: {reason}")),
            Self::Storage { failure: None } => (Weight::Good, "storage answers again".to_string()),
            Self::Planned { warnings, .. } if warnings.is_empty() => return None,
            Self::Planned { warnings, .. } => (Weight::Bad, format!("warning: {}", warnings.join("; "))),
            Self::ChangeWaits { reason, .. } => (Weight::Change, format!("the change waits: {reason}")),
            Self::HandingOver { .. } => {
                (Weight::Change, "handing over: a last checkpoint, then the next attempt".to_string())
            }
            Self::ChangeApplied { .. } => (Weight::Change, "the change holds, without a new attempt".to_string()),
            Self::ChangeRefused { reason, .. } => (Weight::Bad, format!("the change is refused: {reason}")),
            Self::Stopping { why, last_checkpoint: true } => {
                (Weight::Change, format!("{why}: a last checkpoint, then an end"))
            }
            Self::Stopping { why, last_checkpoint: false } => (Weight::Change, format!("{why}: an end")),
            Self::Killed => {
                (Weight::Bad, "stopping at once; the next run goes on from the newest checkpoint".to_string())
            }
            Self::Ended(End::Succeeded(record)) => {
                let line =
                    format!("finished: all input is read, all output up to checkpoint {} is published", record.id);
                (Weight::Good, line)
            }
            Self::Ended(End::Stopped(Some(Last::Taken { record, .. }))) => {
                (Weight::Good, format!("stopped; running again goes on from checkpoint {}", record.id))
            }
            Self::WorkerWaits { obstacle: None, .. }
            | Self::TermOpened { .. }
            | Self::Workers(_)
            | Self::Committed { .. }
            | Self::HandedOver
            | Self::Printed { .. }
            | Self::Ended(_) => return None,
        };
        Some((weight, line))
    }
}

/// A failure in one line.
pub fn in_words(failure: &Failure) -> String {
    if failure.operator.is_empty() {
        return failure.message.clone();
    }
    format!("{}, subtask {}: {}", failure.operator, failure.subtask, failure.message)
}
