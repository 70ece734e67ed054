//! Deletes what is retired, one record at a time, and once a term what aborted checkpoints of earlier attempts left behind.
//!
//! Which objects may go is decided in [`crate::gc`]; here stands when. Nothing is begun before the term's first status write
//! has gone through, nor while a record is in doubt.

use std::sync::Arc;

use weir_protocol::record::RecordRef;

use super::{Action, Coordinator, NamesOutcome, Phase};
use crate::gc::{self, Known, Removal};
use crate::time::Millis;

/// What is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Cleaning {
    swept: bool,
    /// An answer is waited for.
    busy: bool,
    retry_at: Option<Millis>,
    /// What was begun and has not been completed. Its record does not count as standing any more: it may be half gone.
    begun: Option<Arc<Vec<Removal>>>,
}

impl Coordinator {
    /// When something that failed is tried again.
    pub(super) fn cleaning_due(&self) -> Option<Millis> {
        self.cleaning.retry_at
    }

    pub(super) fn clean(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let waits = self.cleaning.retry_at.is_some_and(|at| now < at);
        if self.cleaning.busy || waits || self.phase_forbids_cleaning() || !self.status.is_ours() {
            return;
        }
        self.cleaning.retry_at = None;
        if let Some(begun) = &self.cleaning.begun {
            self.cleaning.busy = true;
            actions.push(Action::Remove(begun.as_ref().clone()));
            return;
        }
        let held: Vec<RecordRef> = self
            .newest
            .iter()
            .map(|record| record.reference())
            .chain(self.opening.restores.record())
            .chain(self.opening.commits)
            .chain(self.status.may_name())
            .collect();
        let retired = gc::next_retired(&self.records, self.policy.retain, &held);
        if retired.is_none() && self.cleaning.swept {
            return;
        }
        if let Some(unknown) = self.records.values().find(|standing| standing.names == Known::No) {
            self.cleaning.busy = true;
            actions.push(Action::ReadNames(Arc::clone(&unknown.record)));
            return;
        }
        self.cleaning.busy = true;
        match retired.and_then(|retired| self.records.remove(&retired)) {
            Some(retired) => {
                let removals = gc::removal(self.opening.term, &retired, &self.records);
                self.cleaning.begun = Some(Arc::new(removals.clone()));
                actions.push(Action::Remove(removals));
            }
            None => actions.push(Action::ListLeftovers),
        }
    }

    fn phase_forbids_cleaning(&self) -> bool {
        matches!(self.phase, Phase::Creating { .. } | Phase::Over)
    }

    pub(super) fn names_read(&mut self, now: Millis, record: RecordRef, names: NamesOutcome) {
        self.cleaning.busy = false;
        match (self.records.get_mut(&record), names) {
            (Some(standing), NamesOutcome::Read(names)) => standing.names = Known::Yes(names),
            (Some(standing), NamesOutcome::Broken) => standing.names = Known::Never,
            _ => self.cleaning.retry_at = Some(now + self.policy.retry),
        }
    }

    pub(super) fn leftovers_listed(&mut self, now: Millis, listed: Option<Vec<String>>, actions: &mut Vec<Action>) {
        self.cleaning.busy = false;
        let Some(listed) = listed else {
            self.cleaning.retry_at = Some(now + self.policy.retry);
            return;
        };
        let removals = gc::leftovers(listed.iter().map(String::as_str), self.opening.attempt, &self.records);
        self.cleaning.swept = true;
        if !removals.is_empty() {
            self.cleaning.begun = Some(Arc::new(removals.clone()));
            self.cleaning.busy = true;
            actions.push(Action::Remove(removals));
        }
    }

    pub(super) fn removed(&mut self, now: Millis, complete: bool) {
        self.cleaning.busy = false;
        if complete {
            self.cleaning.begun = None;
        } else {
            self.cleaning.retry_at = Some(now + self.policy.retry);
        }
    }
}
