//! When the status is written, and which records it may name.
//!
//! The newest record wins; writes are coalesced to one in `status_interval`, and at most one is under way. A write without
//! a clear answer may have happened: what it named counts as named until a later write has been answered.

use std::sync::Arc;
use std::time::Duration;

use weir_protocol::Term;
use weir_protocol::record::{Record, RecordRef};

use super::{Action, StatusOutcome, StatusPointer};
use crate::time::Millis;

/// The status of one term.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct StatusWriter {
    /// The last write that is known to stand.
    named: Option<RecordRef>,
    /// Writes since then that may stand.
    doubtful: Vec<RecordRef>,
    writing: Option<RecordRef>,
    next_at: Millis,
}

impl StatusWriter {
    /// A write of this term has gone through. From then on no write of an earlier term can, and the status names a record
    /// that this coordinator knows of; before it nothing may be deleted.
    pub(super) fn is_ours(&self) -> bool {
        self.named.is_some()
    }

    /// The records that the status may name.
    pub(super) fn may_name(&self) -> impl Iterator<Item = RecordRef> {
        self.doubtful.iter().copied().chain(self.named).chain(self.writing)
    }

    /// When the next write is due.
    pub(super) fn due(&self, newest: Option<&Record>) -> Option<Millis> {
        let newest = newest?.reference();
        let settled = self.named == Some(newest) && self.doubtful.is_empty();
        (self.writing.is_none() && !settled).then_some(self.next_at)
    }

    /// Writes, if that is due.
    pub(super) fn proceed(
        &mut self,
        now: Millis,
        term: Term,
        newest: Option<&Arc<Record>>,
        interval: Duration,
        actions: &mut Vec<Action>,
    ) {
        let Some(newest) = newest else { return };
        if self.due(Some(newest)).is_some_and(|due| now >= due) {
            self.writing = Some(newest.reference());
            self.next_at = now + interval;
            actions.push(Action::WriteStatus(StatusPointer { term, record: Arc::clone(newest) }));
        }
    }

    /// A write was answered. True: a higher term has written, so that this one is over.
    pub(super) fn written(&mut self, now: Millis, record: RecordRef, outcome: StatusOutcome, retry: Duration) -> bool {
        if self.writing != Some(record) {
            return false;
        }
        self.writing = None;
        match outcome {
            StatusOutcome::Written => {
                self.named = Some(record);
                self.doubtful.clear();
            }
            StatusOutcome::InDoubt => {
                if !self.doubtful.contains(&record) {
                    self.doubtful.push(record);
                }
                self.next_at = self.next_at.max(now + retry);
            }
            StatusOutcome::Superseded => return true,
        }
        false
    }
}
