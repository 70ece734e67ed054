//! The checkpoints of one term over one attempt: triggers, collects acks, creates the record, commits, and then has the
//! status written and what is retired deleted.
//!
//! A pure machine: it is told what happened, time included, and says what is to be done. At most one checkpoint is under
//! way. From the first create of a record until its slot can be read nothing else is decided, however long that takes. A
//! coordinator that finds its term sealed says so and does nothing more.
//!
//! Whether a worker is lost and what follows from it is the attempt's business (`crate::attempt`); here a broken session
//! only aborts the checkpoint under way.

#[cfg(test)]
mod bounds;
mod cleaning;
mod events;
mod status;

use std::{sync::Arc, time::Duration};

use weir_protocol::record::{Opening, PartRef, Record, RecordRef};
use weir_protocol::{Attempt, CheckpointId, RecordNumber, Term, WorkerId, paths};

use cleaning::Cleaning;
pub use events::{
    Ack, Action, COMMIT_WAIT, Event, LONGEST_BACK_OFF, Last, MOST_PENDING, NamesOutcome, Note, Outcome, Policy, RETRY,
    STATUS_INTERVAL, Start, StatusOutcome, StatusPointer, Taken,
};
use status::StatusWriter;

use crate::gc::{Known, Records, Standing};
use crate::time::Millis;

/// What all records that stand carry of state, in bytes. A takeover reads them all at once, within
/// [`crate::effects::TAKEOVER_LIMIT`], and in JSON they are somewhat longer.
const CARRIED_LIMIT: u64 = 96 << 20;

/// Bytes of parts that stand in the records themselves.
fn carried<'a>(parts: impl Iterator<Item = &'a PartRef>) -> u64 {
    parts.filter_map(|part| part.inline.as_ref()).map(|inline| inline.len() as u64).sum()
}

/// One coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Coordinator {
    policy: Policy,
    opening: Arc<Opening>,
    workers: Arc<[WorkerId]>,
    /// One a worker, as all lists below.
    sessions: Vec<bool>,
    finished: Vec<bool>,
    committed: Vec<CheckpointId>,
    /// Pre-commits that wait for their commit there.
    pending: Vec<u64>,
    /// Sources are held back: too much waits to be published.
    held: bool,
    next_id: CheckpointId,
    next_number: RecordNumber,
    phase: Phase,
    /// The end of the chain: the newest record of this term, else the one that the term was opened with.
    newest: Option<Arc<Record>>,
    /// All records that stand, of this and earlier terms.
    records: Records,
    /// Aborted in a row.
    failed: u32,
    last_trigger: Millis,
    last_end: Millis,
    trigger_now: bool,
    all_committed: bool,
    last: LastWish,
    /// It is being looked whether what this term stands on is still there.
    looking: bool,
    status: StatusWriter,
    cleaning: Cleaning,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    /// Triggered; waiting for the acks.
    Collecting {
        id: CheckpointId,
        since: Millis,
        acks: Vec<Option<Ack>>,
    },
    /// All have acked; whether the record exists is not known yet.
    Creating {
        record: Arc<Record>,
        tries: u32,
        doubt: bool,
        retry_at: Option<Millis>,
    },
    /// The term is over.
    Over,
}

/// The last checkpoint before a stop.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum LastWish {
    No,
    Wanted,
    Running(CheckpointId),
    Committing { record: RecordRef, until: Millis },
    Told,
}

impl Coordinator {
    /// A coordinator whose opening stands and whose workers are deployed. The first actions: the commit of what was
    /// restored, the status.
    pub fn new(now: Millis, policy: Policy, start: Start) -> (Self, Vec<Action>) {
        let count = start.workers.len();
        let standing = |record: &Arc<Record>| {
            let standing = Standing { record: Arc::clone(record), clear: false, names: Known::No };
            (record.reference(), standing)
        };
        let mut coordinator = Self {
            policy,
            workers: start.workers.into(),
            sessions: vec![true; count],
            finished: vec![false; count],
            committed: vec![CheckpointId(0); count],
            pending: vec![0; count],
            held: false,
            next_id: start.highest_id.next(),
            next_number: RecordNumber(1),
            phase: Phase::Idle,
            records: start.inherited.iter().chain(&start.restored).map(standing).collect(),
            newest: start.restored,
            failed: start.failed,
            last_trigger: now,
            last_end: now,
            trigger_now: false,
            all_committed: false,
            last: LastWish::No,
            looking: false,
            status: StatusWriter::default(),
            cleaning: Cleaning::default(),
            opening: start.opening,
        };
        let mut actions = Vec::new();
        coordinator.commit_all(&mut actions);
        coordinator.proceed(now, &mut actions);
        (coordinator, actions)
    }

    /// Something happened.
    pub fn on(&mut self, now: Millis, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.phase == Phase::Over {
            return actions;
        }
        match event {
            Event::Tick => self.tick(now, &mut actions),
            Event::Configure(policy) => self.policy = policy,
            Event::TriggerNow => self.trigger_now = true,
            Event::TakeLast if self.last == LastWish::No => self.last = LastWish::Wanted,
            Event::CarryOn if self.last == LastWish::Told => self.last = LastWish::No,
            Event::TakeLast | Event::CarryOn => {}
            Event::SessionOpened { worker, highest_checkpoint } => {
                self.session_opened(&worker, highest_checkpoint, &mut actions);
            }
            Event::SessionLost { worker } => {
                if let Some(i) = self.position(&worker) {
                    self.sessions[i] = false;
                    self.abort(now, &format!("the session of worker {worker} broke"), &mut actions);
                }
            }
            Event::Acked(ack) => self.acked(now, ack, &mut actions),
            Event::Declined { worker, attempt, id, reason } => {
                if self.member(&worker, attempt).is_some() && self.collecting() == Some(id) {
                    self.abort(now, &format!("worker {worker} declined: {reason}"), &mut actions);
                }
            }
            Event::Committed { worker, attempt, id } => self.worker_committed(&worker, attempt, id, &mut actions),
            Event::Pending { worker, attempt, commits } => {
                if let Some(i) = self.member(&worker, attempt) {
                    self.pending[i] = commits;
                    self.hold_back(&mut actions);
                }
            }
            Event::Finished { worker, attempt } => {
                if let Some(i) = self.member(&worker, attempt) {
                    self.finished[i] = true;
                }
            }
            Event::Created { number, outcome } => self.created(now, number, outcome, &mut actions),
            Event::StatusWritten { record, outcome } => {
                if self.status.written(now, record, outcome, self.policy.retry) {
                    self.over(None, &mut actions);
                }
            }
            Event::NamesRead { record, names } => self.names_read(now, record, names),
            Event::Leftovers(listed) => self.leftovers_listed(now, listed, &mut actions),
            Event::Removed { complete } => self.removed(now, complete),
            Event::Looked { missing } => self.looked(missing, &mut actions),
        }
        self.proceed(now, &mut actions);
        actions
    }

    /// When the next [`Event::Tick`] is due.
    pub fn next_wake(&self) -> Option<Millis> {
        let phase = match &self.phase {
            Phase::Idle => self.trigger_due(),
            Phase::Collecting { since, .. } => Some(*since + self.policy.timeout),
            Phase::Creating { retry_at, .. } => *retry_at,
            Phase::Over => return None,
        };
        let last = match self.last {
            LastWish::Committing { until, .. } => Some(until),
            _ => None,
        };
        let status = self.status.due(self.newest.as_deref());
        [phase, last, status, self.cleaning_due()].into_iter().flatten().min()
    }

    /// This coordinator's term.
    pub fn term(&self) -> Term {
        self.opening.term
    }

    /// The attempt that this term is over.
    pub fn attempt(&self) -> Attempt {
        self.opening.attempt
    }

    /// The end of the chain.
    pub fn newest(&self) -> Option<&Arc<Record>> {
        self.newest.as_ref()
    }

    /// The checkpoint under way, if its record was not asked for yet.
    pub fn collecting(&self) -> Option<CheckpointId> {
        match &self.phase {
            Phase::Collecting { id, .. } => Some(*id),
            _ => None,
        }
    }

    /// The record whose create has not been answered clearly yet.
    pub fn creating(&self) -> Option<&Arc<Record>> {
        match &self.phase {
            Phase::Creating { record, .. } => Some(record),
            _ => None,
        }
    }

    /// Checkpoints aborted since the last record.
    pub fn failed_since_latest(&self) -> u32 {
        self.failed
    }

    /// The records that stand, as far as this coordinator knows.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The term has been found sealed.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    fn position(&self, worker: &WorkerId) -> Option<usize> {
        self.workers.iter().position(|member| member == worker)
    }

    /// A worker of this term that speaks of this term's attempt; what others say is not heard.
    fn member(&self, worker: &WorkerId, attempt: Attempt) -> Option<usize> {
        self.position(worker).filter(|_| attempt == self.opening.attempt)
    }

    /// All that follows from where things stand, and is due.
    fn proceed(&mut self, now: Millis, actions: &mut Vec<Action>) {
        if self.phase == Phase::Over {
            return;
        }
        self.last_wish(now, actions);
        if self.trigger_due().is_some_and(|due| now >= due) && self.is_urgent() {
            self.trigger(now, actions);
        }
        self.status.proceed(now, self.opening.term, self.newest.as_ref(), self.policy.status_interval, actions);
        self.clean(now, actions);
    }

    fn tick(&mut self, now: Millis, actions: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::Idle => {
                if self.trigger_due().is_some_and(|due| now >= due) {
                    self.trigger(now, actions);
                }
            }
            Phase::Collecting { since, acks, .. } => {
                if now >= *since + self.policy.timeout {
                    let missing: Vec<_> =
                        acks.iter().zip(self.workers.iter()).filter(|(ack, _)| ack.is_none()).collect();
                    let missing = missing.iter().map(|(_, worker)| worker.0.as_str()).collect::<Vec<_>>().join(", ");
                    self.abort(now, &format!("no ack within {:?} from {missing}", self.policy.timeout), actions);
                }
            }
            Phase::Creating { record, tries, retry_at, .. } => {
                if retry_at.is_some_and(|at| now >= at) {
                    *retry_at = None;
                    *tries += 1;
                    actions.push(Action::CreateRecord(Arc::clone(record)));
                }
            }
            Phase::Over => {}
        }
    }

    /// The job's end is on record: no checkpoint comes after it.
    fn is_final(&self) -> bool {
        self.newest.as_ref().is_some_and(|record| record.is_final)
    }

    /// A checkpoint is wanted without waiting for the interval.
    fn is_urgent(&self) -> bool {
        self.trigger_now || self.last == LastWish::Wanted || self.finished.iter().all(|finished| *finished)
    }

    /// When the next checkpoint may be triggered, if any may.
    fn trigger_due(&self) -> Option<Millis> {
        let stopping = !matches!(self.last, LastWish::No | LastWish::Wanted);
        if self.phase != Phase::Idle || self.is_final() || stopping || !self.sessions.iter().all(|open| *open) {
            return None;
        }
        // What is read no further needs no further checkpoint, and each would only cut more.
        if self.held && !self.is_urgent() {
            return None;
        }
        let pause = self.policy.min_pause.max(self.back_off());
        let regular = (self.last_trigger + self.policy.interval).max(self.last_end + pause);
        // After a failure not even an urgent one follows at once, or a worker that declines would be asked without end.
        let soon = if self.failed > 0 { self.last_end + self.policy.retry } else { self.last_end };
        Some(if self.is_urgent() { soon.min(regular) } else { regular })
    }

    /// What fails at once is not tried at a short interval again and again: nobody gains by it, and storage that comes back is met by
    /// all jobs together.
    fn back_off(&self) -> Duration {
        let doubled = |failed: u32| self.policy.retry.saturating_mul(2u32.saturating_pow(failed - 1));
        if self.failed == 0 { Duration::ZERO } else { doubled(self.failed).min(LONGEST_BACK_OFF) }
    }

    fn trigger(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let id = self.next_id;
        self.next_id = id.next();
        self.last_trigger = now;
        self.trigger_now = false;
        if self.last == LastWish::Wanted {
            self.last = LastWish::Running(id);
        }
        self.phase = Phase::Collecting { id, since: now, acks: vec![None; self.workers.len()] };
        actions.push(Action::Trigger { id, base: self.newest.as_ref().map(|record| record.reference()) });
        actions.push(Action::Note(Note::Triggered { id }));
    }

    /// Aborts the checkpoint whose acks are being collected; where none is, nothing happens. What workers have prepared
    /// for it stays pending in their later parts.
    fn abort(&mut self, now: Millis, reason: &str, actions: &mut Vec<Action>) {
        if let Some(id) = self.collecting() {
            actions.push(Action::Cancel { id });
            self.ended_without_record(now, id, reason, actions);
        }
    }

    fn ended_without_record(&mut self, now: Millis, id: CheckpointId, reason: &str, actions: &mut Vec<Action>) {
        self.phase = Phase::Idle;
        self.last_end = now;
        self.failed += 1;
        let beyond_tolerable = self.failed > self.policy.tolerable_failures;
        let note = Note::Aborted { id, reason: reason.to_string(), failed: self.failed, beyond_tolerable };
        actions.push(Action::Note(note));
        self.look(true, actions);
        if self.last == LastWish::Running(id) {
            self.last = LastWish::Told;
            actions.push(Action::LastTaken(Last::Failed { reason: reason.to_string() }));
        }
    }

    /// A checkpoint has ended: without the opening of its term no takeover finds it, and begins from nothing. Where it failed it
    /// may be that the record is gone which all others build on. Nobody of this protocol deletes either.
    fn look(&mut self, failed: bool, actions: &mut Vec<Action>) {
        if !self.looking {
            self.looking = true;
            let newest = self.newest.as_ref().filter(|_| failed).map(|record| record.reference().path());
            actions
                .push(Action::Look { paths: [paths::opening(self.opening.term)].into_iter().chain(newest).collect() });
        }
    }

    fn looked(&mut self, missing: Option<String>, actions: &mut Vec<Action>) {
        self.looking = false;
        // While a record is in doubt nothing else is decided; its checkpoint is the next to fail, or to succeed.
        let decided = !matches!(self.phase, Phase::Creating { .. });
        if let Some(path) = missing.filter(|_| decided) {
            self.phase = Phase::Over;
            actions.push(Action::Gone { path });
        }
    }

    fn acked(&mut self, now: Millis, ack: Ack, actions: &mut Vec<Action>) {
        let Some(i) = self.member(&ack.worker, ack.attempt) else { return };
        let Phase::Collecting { id, acks, .. } = &mut self.phase else { return };
        if ack.id != *id {
            return;
        }
        // A worker writes only under its own names; a record that names anything else must not come to be.
        if ack.part.path != paths::part(ack.id, ack.attempt, &ack.worker) || ack.part.worker != ack.worker {
            let reason = format!("worker {} acked with {}, which is not its own", ack.worker, ack.part.path);
            self.abort(now, &reason, actions);
            return;
        }
        let parts = acks.iter().flatten().map(|ack| &ack.part).chain([&ack.part]);
        let standing = self.records.values().flat_map(|standing| &standing.record.parts);
        if carried(parts.chain(standing)) > CARRIED_LIMIT {
            let reason = format!(
                "the retained records would carry more than {} MiB of state, and a takeover reads no more; retain fewer, or use another \
                 state backend, such as rocksdb",
                CARRIED_LIMIT >> 20
            );
            self.abort(now, &reason, actions);
            return;
        }
        acks[i] = Some(ack);
        if acks.iter().all(Option::is_some) {
            self.complete(now, actions);
        }
    }

    /// All have acked: the record is made and asked for.
    fn complete(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let Phase::Collecting { id, since, acks } = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
        let acks: Vec<Ack> = acks.into_iter().flatten().collect();
        let record = Arc::new(Record {
            // A worker of the build before, whose parts are of the version before, reads no newer record either.
            version: acks.iter().map(|ack| ack.format).min().unwrap_or(self.opening.version),
            id,
            term: self.opening.term,
            number: self.next_number,
            attempt: self.opening.attempt,
            job: self.opening.job.clone(),
            is_final: acks.iter().all(|ack| ack.finished),
            parallelism: self.opening.workers * self.opening.slots,
            max_parallelism: self.opening.max_parallelism,
            fingerprint: self.opening.fingerprint.clone(),
            completed_at_ms: now.0,
            duration_ms: u64::try_from((now - since).as_millis()).unwrap_or(u64::MAX),
            state_bytes: acks.iter().map(|ack| ack.state_bytes).sum(),
            uploaded_bytes: acks.iter().map(|ack| ack.uploaded_bytes).sum(),
            parts: acks.into_iter().map(|ack| ack.part).collect(),
        });
        actions.push(Action::CreateRecord(Arc::clone(&record)));
        self.phase = Phase::Creating { record, tries: 1, doubt: false, retry_at: None };
    }

    fn created(&mut self, now: Millis, number: RecordNumber, outcome: Outcome, actions: &mut Vec<Action>) {
        let Phase::Creating { record, tries, doubt, retry_at } = &mut self.phase else { return };
        if record.number != number {
            return;
        }
        match outcome {
            Outcome::New => {
                let clear = !*doubt;
                self.recorded(now, clear, actions);
            }
            Outcome::Same => self.recorded(now, false, actions),
            Outcome::Taken(Taken::Seal(seal)) => self.over(Some(seal.by), actions),
            Outcome::Taken(Taken::Other) => self.over(None, actions),
            // Nothing was ever on its way: the checkpoint has failed, and its slot is free for the next one.
            Outcome::Refused { reason } if !*doubt => {
                let id = record.id;
                self.ended_without_record(now, id, &reason, actions);
            }
            Outcome::InDoubt { reason } | Outcome::Refused { reason } => {
                *doubt = true;
                *retry_at = Some(now + self.policy.retry);
                let (record, tries) = (record.reference(), *tries);
                actions.push(Action::Note(Note::RecordInDoubt { record, reason, tries }));
            }
        }
    }

    /// The record stands: the checkpoint is complete. Commit and status follow, independent of each other.
    fn recorded(&mut self, now: Millis, clear: bool, actions: &mut Vec<Action>) {
        let Phase::Creating { record, .. } = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
        self.next_number = record.number.next();
        self.last_end = now;
        self.failed = 0;
        self.records.insert(record.reference(), Standing { record: Arc::clone(&record), clear, names: Known::No });
        if self.last == LastWish::Running(record.id) {
            self.last = LastWish::Committing { record: record.reference(), until: now + COMMIT_WAIT };
        }
        self.newest = Some(Arc::clone(&record));
        actions.push(Action::Note(Note::Completed { record }));
        self.look(false, actions);
        self.commit_all(actions);
    }

    fn over(&mut self, by: Option<String>, actions: &mut Vec<Action>) {
        self.phase = Phase::Over;
        actions.push(Action::Superseded { by });
    }

    fn commit_all(&mut self, actions: &mut Vec<Action>) {
        self.all_committed = false;
        for i in 0..self.workers.len() {
            self.commit(i, actions);
        }
    }

    /// Up to where output is promised: by the newest record, and by one that a user's wish has left behind.
    fn promised(&self) -> Option<CheckpointId> {
        let newest = self.newest.as_ref().map(|record| record.id);
        newest.max(self.opening.commits.map(|left| left.id))
    }

    /// Has one worker publish all that is promised, unless it has done so, or has no session. It is sent again with its next.
    fn commit(&self, i: usize, actions: &mut Vec<Action>) {
        if let Some(id) = self.promised().filter(|id| self.sessions[i] && self.committed[i] < *id) {
            actions.push(Action::Commit { worker: self.workers[i].clone(), id });
        }
    }

    fn worker_committed(&mut self, worker: &WorkerId, attempt: Attempt, id: CheckpointId, actions: &mut Vec<Action>) {
        let Some(i) = self.member(worker, attempt) else { return };
        self.committed[i] = self.committed[i].max(id);
        let Some(promised) = self.promised().filter(|_| !self.all_committed) else { return };
        if self.committed.iter().all(|committed| *committed >= promised) {
            self.all_committed = true;
            actions.push(Action::Note(Note::Committed { id: promised }));
            if let Some(last) = self.newest.as_ref().filter(|newest| newest.is_final) {
                actions.push(Action::Succeeded(last.reference()));
            }
        }
    }

    /// Has the sources stop where any worker has too much to publish, and go on when all have little.
    fn hold_back(&mut self, actions: &mut Vec<Action>) {
        let most = self.pending.iter().copied().max().unwrap_or_default();
        let held = most > if self.held { MOST_PENDING / 2 } else { MOST_PENDING };
        if held != self.held {
            self.held = held;
            actions.push(Action::Hold(held));
            actions.push(Action::Note(if held { Note::HeldBack { commits: most } } else { Note::LetGo }));
        }
    }

    fn session_opened(&mut self, worker: &WorkerId, highest: CheckpointId, actions: &mut Vec<Action>) {
        let Some(i) = self.position(worker) else { return };
        self.next_id = self.next_id.max(highest.next());
        self.sessions[i] = true;
        if self.held {
            actions.push(Action::Hold(true));
        }
        self.commit(i, actions);
    }

    fn last_wish(&mut self, now: Millis, actions: &mut Vec<Action>) {
        if self.last == LastWish::Wanted && self.phase == Phase::Idle && self.is_final() {
            let record = self.newest.as_ref().map(|record| record.reference());
            if let Some(record) = record {
                self.last = LastWish::Committing { record, until: now + COMMIT_WAIT };
            }
        }
        if let LastWish::Committing { record, until } = self.last
            && (self.all_committed || now >= until)
        {
            self.last = LastWish::Told;
            actions.push(Action::LastTaken(Last::Taken { record, committed: self.all_committed }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weir_protocol::{
        JobName,
        record::{RECORD_VERSION, Restores},
    };

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn coordinator() -> Coordinator {
        after_failures(0)
    }

    /// So many checkpoints have failed in the terms before.
    fn after_failures(failed: u32) -> Coordinator {
        let policy = Policy {
            interval: SECOND,
            min_pause: Duration::ZERO,
            timeout: 60 * SECOND,
            tolerable_failures: 3,
            retain: 10,
            status_interval: SECOND,
            retry: SECOND,
        };
        let opening = Opening {
            version: RECORD_VERSION,
            term: Term(1),
            attempt: Attempt(1),
            job: JobName { namespace: "air".to_string(), name: "flights".to_string() },
            coordinator: "here".to_string(),
            owner: "owner".to_string(),
            cluster: "cluster".to_string(),
            restores: Restores::Nothing,
            commits: None,
            accepts_lost_output: false,
            workers: 1,
            slots: 1,
            max_parallelism: 128,
            fingerprint: String::new(),
            wish: None,
        };
        let start = Start {
            opening: Arc::new(opening),
            workers: vec![WorkerId("w".to_string())],
            restored: None,
            inherited: Vec::new(),
            highest_id: CheckpointId(0),
            failed,
        };
        Coordinator::new(Millis(0), policy, start).0
    }

    /// Triggers a checkpoint whose only part is carried in its record; says what came of it.
    fn checkpoint(coordinator: &mut Coordinator, now: Millis, inline: &str) -> Vec<Action> {
        coordinator.on(now, Event::TriggerNow);
        coordinator.on(now, Event::Tick);
        let id = coordinator.collecting().unwrap();
        let worker = WorkerId("w".to_string());
        let part = PartRef {
            path: paths::part(id, Attempt(1), &worker),
            worker: worker.clone(),
            length: inline.len() as u64,
            crc32c: 0,
            inline: Some(inline.to_string()),
        };
        let ack = Ack {
            worker,
            attempt: Attempt(1),
            id,
            part,
            finished: false,
            state_bytes: 1,
            uploaded_bytes: 0,
            format: RECORD_VERSION,
        };
        let actions = coordinator.on(now, Event::Acked(ack));
        if let Some(record) = coordinator.creating() {
            let number = record.number;
            coordinator.on(now, Event::Created { number, outcome: Outcome::New });
        }
        actions
    }

    #[test]
    fn records_do_not_carry_more_than_a_takeover_reads() {
        let (mut coordinator, large) = (coordinator(), "x".repeat(30 << 20));
        for round in 1..=3 {
            let actions = checkpoint(&mut coordinator, Millis(round * 10_000), &large);
            assert!(actions.iter().any(|action| matches!(action, Action::CreateRecord(_))), "{round}");
        }
        let aborted = |actions: &[Action]| {
            let mut notes = actions.iter().filter_map(|action| match action {
                Action::Note(Note::Aborted { reason, .. }) => Some(reason.clone()),
                _ => None,
            });
            notes.next()
        };
        let reason = aborted(&checkpoint(&mut coordinator, Millis(40_000), &large)).unwrap();
        assert!(reason.contains("96 MiB") && reason.contains("retain fewer"), "{reason}");
        assert_eq!(aborted(&checkpoint(&mut coordinator, Millis(50_000), "small")), None);
    }

    #[test]
    fn failures_are_counted_from_the_first_whoever_coordinated_then() {
        for (before, beyond) in [(0, false), (2, false), (3, true)] {
            let mut coordinator = after_failures(before);
            let now = coordinator.next_wake().unwrap();
            coordinator.on(now, Event::Tick);
            let id = coordinator.collecting().unwrap();
            let worker = WorkerId("w".to_string());
            let declined = Event::Declined { worker, attempt: Attempt(1), id, reason: "no".to_string() };
            let noted = coordinator.on(now, declined).into_iter().find_map(|action| match action {
                Action::Note(Note::Aborted { failed, beyond_tolerable, .. }) => Some((failed, beyond_tolerable)),
                _ => None,
            });
            assert_eq!(noted, Some((before + 1, beyond)));
        }
    }
}
