//! From what the two state machines note to what the observer is told, and to what stands in the view.

use weir_protocol::{Attempt, CheckpointId};

use super::Supervisor;
use crate::{
    attempt, coordinator,
    facts::{
        Fact,
        history::{Entry, History, Kind},
        recovery::Breakdown,
    },
    time::Millis,
};

impl Supervisor {
    pub(super) fn tell(&mut self, fact: &Fact) {
        self.observer.fact(self.clock.now(), fact);
    }

    /// Tells which processes there are.
    pub(super) fn note_workers(&mut self) {
        let workers = self.roster.views();
        self.tell(&Fact::Workers(workers));
    }

    pub(super) fn on_attempt_note(&mut self, note: attempt::Note) {
        use attempt::Note;
        let fact = match note {
            Note::WorkerLost { worker, cause, position } => {
                self.traffic.state("recovering");
                let name = self.roster.name(&worker);
                Fact::WorkerLost { worker, name, cause, position }
            }
            Note::PeerLost => {
                self.recovering("worker");
                return;
            }
            Note::TaskFailed(failure) => {
                self.recovering("task");
                Fact::TaskFailed(failure)
            }
            Note::Restarting { after, failures } => Fact::Restarting { after, failures },
            Note::StartFailed { reason } => Fact::StartFailed { reason },
            Note::TakeOverFailed { reason } => Fact::TakeOverFailed { reason },
            Note::Deploying { attempt } => {
                Fact::Deploying { attempt, workers: self.job.workers, slots: self.job.slots }
            }
            Note::HandedOver => {
                self.traffic.state("changing");
                self.recovery = Some(Breakdown::new("change"));
                Fact::HandedOver
            }
            Note::ChangeWaits { version, reason } => {
                Fact::ChangeWaits { generation: self.generation(version).unwrap_or_default(), reason }
            }
            Note::HandingOver { version } => {
                Fact::HandingOver { generation: self.generation(version).unwrap_or_default() }
            }
            Note::Applied { version } => {
                self.use_version(version);
                Fact::ChangeApplied { generation: self.job.generation }
            }
            Note::ChangeRefused { version, reason } => {
                self.refused = Some(version);
                Fact::ChangeRefused { generation: self.generation(version).unwrap_or_default(), reason }
            }
            Note::Running { attempt, resumed, version } => {
                if !self.stopping {
                    self.traffic.state("running");
                }
                self.note_workers();
                if let Some(recovery) = &mut self.recovery {
                    recovery.running();
                }
                let generation = self.generation(version);
                Fact::Running { attempt, generation, resumed, recovery: self.recovery.clone() }
            }
        };
        self.tell(&fact);
    }

    /// The attempt is broken; from now on the time is counted, unless it is already.
    fn recovering(&mut self, cause: &'static str) {
        self.traffic.state("recovering");
        if self.recovery.as_ref().is_none_or(Breakdown::is_over) {
            self.recovery = Some(Breakdown::new(cause));
        }
    }

    /// Something has become of a checkpoint.
    pub(super) fn note_checkpoint(&mut self, became: impl FnOnce(&mut History, Millis) -> Option<&Entry>) {
        let ended = became(&mut self.history, self.clock.now()).cloned();
        if let Some(ended) = ended {
            self.observer.checkpoint(&ended, &self.history);
        }
    }

    /// A checkpoint has ended, and those who asked for it hear of it.
    fn tell_who_asked(&mut self, id: CheckpointId, failure: Option<&str>) {
        for value in self.asked.ended(id) {
            self.tell(&Fact::Requested { value, id, failure: failure.map(str::to_string) });
        }
    }

    pub(super) fn on_coordinator_note(&mut self, note: coordinator::Note) {
        use coordinator::Note;
        let fact = match note {
            Note::Triggered { id } => {
                let asked = self.asked.triggered(id);
                let kind = if self.takes_last {
                    Kind::Last
                } else if asked {
                    Kind::Requested
                } else {
                    Kind::Regular
                };
                let attempt = self.opened.as_ref().map_or(Attempt(0), |opened| opened.opening.attempt);
                self.history.triggered(self.clock.now(), id, attempt, kind);
                return;
            }
            Note::Completed { record } => {
                self.probe.completed();
                let (id, pause) = (record.id, self.traffic.completed(&record));
                self.note_checkpoint(|history, now| history.completed(now, &record));
                self.tell(&Fact::Completed { record, pause });
                self.tell_who_asked(id, None);
                return;
            }
            Note::Aborted { id, reason, failed, beyond_tolerable } => {
                self.probe.failed();
                self.traffic.failed(failed);
                self.note_checkpoint(|history, now| history.failed(now, id, &reason));
                self.tell(&Fact::Aborted { id, reason: reason.clone(), failed, beyond_tolerable });
                self.tell_who_asked(id, Some(&reason));
                return;
            }
            Note::RecordInDoubt { record, reason, tries } => Fact::RecordInDoubt { record, reason, tries },
            Note::Committed { id } => {
                self.note_checkpoint(|history, now| history.committed(now, id));
                Fact::Committed { id }
            }
            Note::HeldBack { commits } => Fact::HeldBack { waiting: Some(commits) },
            Note::LetGo => Fact::HeldBack { waiting: None },
        };
        self.tell(&fact);
    }
}
