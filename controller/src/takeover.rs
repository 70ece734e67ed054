//! From what stands in storage to the next opening: which slot to seal, what to restore, which term and attempt come next.
//!
//! Facts in, decision out. The caller lists `terms/`, reads what [`reads`] names, makes [`Facts`] of it, asks [`decide`],
//! carries the decision out, and begins again with the list, whatever came of it. Nothing is remembered between two rounds
//! but the term that was asked for: an answer that is lost or in doubt is settled by reading again.
//!
//! A seal counts only as the last slot of its term. One that was decided on long ago can land in a slot which deletion has
//! given free since; there is a higher record by then, and the seal ends nothing: the next decision sees that, and seals
//! again.
//!
//! However many terms there were, only the last few are looked at: who has opened a term writes down what stands in all before
//! it ([`weir_protocol::start`]).

mod facts;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use thiserror::Error;
use weir_protocol::record::{Opening, Record, RecordRef, Restores, Seal};
use weir_protocol::{Attempt, CheckpointId, JobName, RecordNumber, Term, paths};

pub use facts::{Facts, SlotFact, TermFacts, reads};

use crate::time::Millis;

/// Who takes over, and how the next attempt is to look.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Whose storage it is.
    pub job: JobName,
    /// This process, by a name that no other ever has: host, process id, start.
    pub coordinator: String,
    /// The uid of the StreamJob, or of the state folder.
    pub owner: String,
    /// The uid of the cluster, or `local`.
    pub cluster: String,
    /// Take over even where another owner's opening stands (`restoreFrom: {previous: true}`).
    pub adopt: bool,
    /// The workers of the running attempt may all be there: the next term is over the same attempt, which stays what it is.
    /// Else a new one begins, of this request.
    pub resume: bool,
    /// Leave the job to whoever comes next under its name: the next opening names no owner. With `resume`.
    pub release: bool,
    /// What to restore.
    pub restore: Restore,
    /// The user's wish that `restore` and `adopt` come from, as it is written in the resource. Where the newest opening of this
    /// owner names it, it has acted: the chain goes on from its end.
    pub wish: Option<String>,
    /// A term that this process has opened: the newest one cannot be before it.
    pub after: Option<Term>,
    /// Give up output that is lost, or that nobody can read what it is.
    pub accept_lost_output: bool,
    /// Worker processes of the attempt.
    pub workers: u32,
    /// Slots a worker.
    pub slots: u32,
    /// Key groups.
    pub max_parallelism: u32,
    /// The plan's fingerprint.
    pub fingerprint: String,
    /// How many records are retained; a manual restore chooses among these.
    pub retain: u32,
    /// The version in which openings, seals and records are written.
    pub format: u32,
}

/// What the next attempt begins from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Restore {
    /// The end of the chain.
    Latest,
    /// This one, by a user's wish. It must be among the retained ones.
    Record(RecordRef),
    /// A savepoint, by a user's wish. It becomes the first record of a term of its own, from which the attempt then begins.
    Savepoint(Arc<Wanted>),
    /// None: the state is left behind, by a user's wish.
    Nothing,
}

/// A savepoint that was found complete.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Where it stands.
    pub location: String,
    /// The checkpoint that it was taken as.
    pub id: CheckpointId,
    /// Its key groups.
    pub max_parallelism: u32,
}

/// What to do next. After every step but the last three the facts are read anew, whatever came of the step.
#[derive(Clone, Debug, PartialEq, Eq)]
// A takeover makes a handful of them, and none is kept.
#[allow(clippy::large_enum_variant)]
pub enum Decision {
    /// Create this seal at `paths::slot(seal.term, seal.number)`. Whatever the answer (also in doubt, also taken): read
    /// the facts again and decide again.
    CreateSeal(Seal),
    /// Create this opening. Remember its term as `asked`, then read the facts again and decide again.
    CreateOpening(Opening),
    /// The term is ours, and its opening restores a savepoint: create this record's like of it, in the job's own storage. Whatever the
    /// answer: read the facts again and decide again.
    Import(Box<Import>),
    /// The opening stands: the term is ours.
    Opened(Box<Opened>),
    /// Another has opened the term that this one asked for, or a later one.
    Lost {
        /// The newest opening.
        to: Arc<Opening>,
    },
    /// It must not be taken over. Nothing was changed, or at most the newest term was sealed.
    Refuse(Refusal),
}

/// A savepoint that is to become the first record of a term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The term's opening.
    pub opening: Arc<Opening>,
    /// Where the savepoint stands.
    pub location: String,
    /// The checkpoint that it was taken as.
    pub savepoint: CheckpointId,
    /// The record's own id: above all that the job has.
    pub id: CheckpointId,
}

/// A term that is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The opening as it stands in storage.
    pub opening: Arc<Opening>,
    /// The record that it restores.
    pub restored: Option<Arc<Record>>,
    /// The record whose pending commits are carried out, where that is another.
    pub commits: Option<Arc<Record>>,
    /// Every record that still stands in earlier terms.
    pub inherited: Vec<Arc<Record>>,
    /// The highest id in any of them.
    pub highest_id: CheckpointId,
}

/// Why a job must not be taken over.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Condition reason `StorageOwnedByAnother`.
    #[error("the storage belongs to another job: its newest opening was written by owner {owner} of cluster {cluster}")]
    OwnedByAnother {
        /// Its owner.
        owner: String,
        /// Its cluster.
        cluster: String,
    },
    /// The number of key groups is fixed once there is state.
    #[error("maxParallelism was {was} when the state was written and cannot be changed to {wanted}")]
    MaxParallelismChanged {
        /// As it was.
        was: u32,
        /// As it is asked for.
        wanted: u32,
    },
    /// An object that the decision hangs on is missing or damaged.
    #[error("{path} cannot be used: {reason}")]
    Unusable {
        /// The object.
        path: String,
        /// Why.
        reason: String,
    },
    /// What this job has written to its storage was deleted, while it was looked after.
    #[error("{path} is gone: somebody has deleted the checkpoints of this job while it ran")]
    Gone {
        /// The object.
        path: String,
    },
    /// A manual restore leaves a record behind whose output may not be published yet, and which that is cannot be read.
    #[error("what output checkpoint {path} has promised cannot be known: {reason}")]
    OutputUnknown {
        /// The record.
        path: String,
        /// Why.
        reason: String,
    },
    /// A savepoint that is to be restored is not what it was when it was found, or is no savepoint. Condition reason `SavepointUnusable`.
    #[error("the savepoint {location} cannot be restored: {reason}")]
    SavepointUnusable {
        /// Where it should stand.
        location: String,
        /// Why.
        reason: String,
    },
    /// A manual restore names a record that is not there any more, or no retained one.
    #[error("{path} is not one of the retained checkpoints of this job")]
    NotRetained {
        /// The record asked for.
        path: String,
    },
}

/// What to do next. `asked` is the term of the last [`Decision::CreateOpening`] of this takeover.
pub fn decide(request: &Request, facts: &Facts, asked: Option<Term>, now: Millis) -> Decision {
    match step(request, facts, asked, now) {
        Ok(decision) => decision,
        Err(refusal) => Decision::Refuse(refusal),
    }
}

fn step(request: &Request, facts: &Facts, asked: Option<Term>, now: Millis) -> Result<Decision, Refusal> {
    let last = facts.terms.last_key_value().map(|(term, _)| *term);
    if let Some(after) = request.after.filter(|after| last.is_none_or(|last| last < *after)) {
        return Err(Refusal::Gone { path: paths::opening(after) });
    }
    let Some((&term, newest)) = facts.terms.last_key_value() else {
        let restores = match &request.restore {
            Restore::Record(record) => return Err(Refusal::NotRetained { path: record.path() }),
            Restore::Savepoint(wanted) => wanted.restores(request)?,
            Restore::Latest | Restore::Nothing => Restores::Nothing,
        };
        let (term, attempt) = (facts.free_term(), facts.free_attempt());
        let from = RestorePoint { restores, ..RestorePoint::default() };
        return Ok(Decision::CreateOpening(opening(request, term, attempt, from)));
    };
    let opened = newest.opening.as_ref().ok_or_else(|| Refusal::Unusable {
        path: paths::opening(term),
        reason: newest.damage.clone().unwrap_or_else(|| "it is missing".to_string()),
    })?;
    let mut request = wished(request, opened);
    if let Some(asked) = asked.filter(|asked| *asked <= term) {
        if asked != term || opened.coordinator != request.coordinator {
            return Ok(Decision::Lost { to: Arc::clone(opened) });
        }
        match import(facts, newest, opened) {
            Some(_) if request.release => return won(facts, term, opened),
            None => return won(facts, term, opened),
            Some(Imported::Not(import)) => return Ok(Decision::Import(Box::new(import))),
            Some(Imported::SealedOff) => return Ok(Decision::Lost { to: Arc::clone(opened) }),
            // It has acted, whether the opening could name the wish or not.
            Some(Imported::Done) => (request.restore, request.adopt) = (Restore::Latest, false),
        }
    }
    // Without the opening nobody knows what that term began with; who wants to go on from before it has to say so.
    if let Some(lost) = facts.lost(term).filter(|_| request.restore == Restore::Latest && !request.adopt) {
        return Err(Refusal::Unusable { path: paths::opening(lost), reason: "it is missing".to_string() });
    }
    let request = &request;
    if !request.adopt && is_anothers(request, opened) {
        let (owner, cluster) = (opened.owner.clone(), opened.cluster.clone());
        return Err(Refusal::OwnedByAnother { owner, cluster });
    }
    let restores = restore_point(request, facts, term, newest, opened);
    match newest.slots.last_key_value() {
        Some((_, SlotFact::Seal(_))) => {
            let restores = restores?;
            let term = facts.free_term();
            // No worker has ever run an attempt that is there for a savepoint to be brought in.
            let imports = is_savepoint(&opened.restores) || is_savepoint(&restores.restores);
            let next = if request.release || (request.resume && !imports) {
                resumption(request, term, opened, restores)
            } else {
                opening(request, term, opened.attempt.next(), restores)
            };
            Ok(Decision::CreateOpening(Opening { wish: request.wish.clone().or_else(|| opened.wish.clone()), ..next }))
        }
        last => {
            // A restore that cannot be is refused before anything is touched. Only a record that was deleted between the
            // list and the read says nothing: the term goes on, and there is a newer one by now.
            if !matches!(last, Some((_, SlotFact::Gone))) {
                restores?;
            }
            let number = last.map_or(RecordNumber(1), |(number, _)| number.next());
            let by = request.coordinator.clone();
            Ok(Decision::CreateSeal(Seal { version: request.format, term, number, by, at_ms: now.0 }))
        }
    }
}

const fn is_savepoint(restores: &Restores) -> bool {
    matches!(restores, Restores::Savepoint { .. })
}

/// What has become of a savepoint in the term that was opened for it.
enum Imported {
    /// Its record is not there yet.
    Not(Import),
    /// Its record stands.
    Done,
    /// Another has sealed the term before.
    SealedOff,
}

/// None where the newest term was not opened for a savepoint.
fn import(facts: &Facts, newest: &TermFacts, opened: &Arc<Opening>) -> Option<Imported> {
    let Restores::Savepoint { location, id } = &opened.restores else { return None };
    Some(match newest.slots.get(&RecordNumber(1)) {
        None => Imported::Not(Import {
            opening: Arc::clone(opened),
            location: location.clone(),
            savepoint: *id,
            id: facts.records().map(|record| record.id).max().unwrap_or_default().next(),
        }),
        Some(SlotFact::Seal(_)) => Imported::SealedOff,
        Some(_) => Imported::Done,
    })
}

impl Wanted {
    /// As an opening has it, where its key groups are the job's.
    fn restores(&self, request: &Request) -> Result<Restores, Refusal> {
        same_groups(self.max_parallelism, request)?;
        Ok(Restores::Savepoint { location: self.location.clone(), id: self.id })
    }
}

fn same_groups(was: u32, request: &Request) -> Result<(), Refusal> {
    let wanted = request.max_parallelism;
    if was == wanted { Ok(()) } else { Err(Refusal::MaxParallelismChanged { was, wanted }) }
}

/// The user's wish has acted: an opening of this owner names it, and none after it another.
pub fn has_acted(wish: &str, owner: &str, cluster: &str, opened: &Opening) -> bool {
    opened.wish.as_deref() == Some(wish) && opened.owner == owner && opened.cluster == cluster
}

/// A wish that has acted is none any more: whoever opened a term for it may have died before it could write that down.
fn wished(request: &Request, opened: &Opening) -> Request {
    let mut request = request.clone();
    let acted = |wish: &String| has_acted(wish, &request.owner, &request.cluster, opened);
    if request.wish.as_ref().is_some_and(acted) {
        (request.restore, request.adopt, request.accept_lost_output) = (Restore::Latest, false, false);
    }
    request
}

/// The seal that ends the newest term, if it is not sealed: before a job's storage is emptied, so that a record which its last
/// coordinator still has on its way finds its place taken for as long as anything stands there.
pub fn last_seal(facts: &Facts, request: &Request, now: Millis) -> Option<Seal> {
    let (&term, newest) = facts.terms.last_key_value()?;
    let number = match newest.slots.last_key_value() {
        Some((_, SlotFact::Seal(_))) => return None,
        last => last.map_or(RecordNumber(1), |(number, _)| number.next()),
    };
    Some(Seal { version: request.format, term, number, by: request.coordinator.clone(), at_ms: now.0 })
}

/// A job that was let go of, with its resource, leaves no owner behind: whoever comes next under its name goes on.
pub fn is_anothers(request: &Request, opened: &Opening) -> bool {
    !opened.owner.is_empty() && (opened.owner != request.owner || opened.cluster != request.cluster)
}

/// What the next opening says of where its attempt begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct RestorePoint {
    restores: Restores,
    commits: Option<RecordRef>,
    accepts_lost: bool,
}

impl RestorePoint {
    /// The version of an opening that says this. The build before knows no commits beside what is restored: it must not read such an
    /// opening as one without.
    fn version(&self, request: &Request) -> u32 {
        let new = self.commits.is_some() || self.accepts_lost || is_savepoint(&self.restores);
        if new { request.format.max(2) } else { request.format }
    }
}

/// What the next opening restores: the end of the chain, which is the last record before the seal, else what that opening began
/// with; or a user's choice. Then the pending commits of the end of the chain are carried out all the same: what a record has
/// promised becomes visible, whatever is restored.
fn restore_point(
    request: &Request,
    facts: &Facts,
    term: Term,
    newest: &TermFacts,
    opened: &Opening,
) -> Result<RestorePoint, Refusal> {
    let end = newest.end().map(|(number, fact)| Ok(fact.record_at(&paths::slot(term, number))?.reference()));
    // The first record of a term that was opened for a savepoint was made of that, by no worker: what was due before is due.
    let imported = is_savepoint(&opened.restores);
    let is_new = end.is_some() && !imported;
    let due = |end: Option<Result<RecordRef, Refusal>>| match end {
        Some(_) if imported => Ok(opened.commits),
        Some(end) => promised(request, end),
        None => Ok(opened.commits.or(opened.restores.record())),
    };
    let (restores, commits) = match (&request.restore, end) {
        (Restore::Latest, Some(end)) => (Restores::Record(end?), opened.commits.filter(|_| imported)),
        // A savepoint that was not brought in whole is brought in anew.
        (Restore::Latest, None) => (opened.restores.clone(), opened.commits),
        (Restore::Record(chosen), end) => {
            is_retained(request, facts, opened, *chosen)?;
            (Restores::Record(*chosen), due(end)?.filter(|due| due != chosen))
        }
        (Restore::Savepoint(wanted), end) => (wanted.restores(request)?, due(end)?),
        (Restore::Nothing, end) => (Restores::Nothing, due(end)?),
    };
    match &restores {
        Restores::Record(reference) => same_groups(facts.record(*reference)?.max_parallelism, request)?,
        Restores::Savepoint { .. } if request.restore == Restore::Latest => {
            same_groups(opened.max_parallelism, request)?;
        }
        Restores::Savepoint { .. } | Restores::Nothing => {}
    }
    let commits = match commits.map(|reference| promised(request, facts.record(reference).map(|_| reference))) {
        Some(readable) => readable?,
        None => None,
    };
    let accepts_lost = request.accept_lost_output || (!is_new && opened.accepts_lost_output);
    Ok(RestorePoint { restores, commits, accepts_lost })
}

/// A record that is left behind, whose pending commits are due. One that cannot be read may have promised anything: it is only
/// passed over by a user's wish.
fn promised(request: &Request, record: Result<RecordRef, Refusal>) -> Result<Option<RecordRef>, Refusal> {
    match record {
        Ok(reference) => Ok(Some(reference)),
        Err(_) if request.accept_lost_output => Ok(None),
        Err(Refusal::Unusable { path, reason }) => Err(Refusal::OutputUnknown { path, reason }),
        Err(refusal) => Err(refusal),
    }
}

fn is_retained(request: &Request, facts: &Facts, opened: &Opening, chosen: RecordRef) -> Result<(), Refusal> {
    // An older one may be half deleted already, by this job's own last coordinator.
    let mut newest = facts.records().rev().take(request.retain.max(1) as usize);
    if newest.any(|record| record.reference() == chosen) || opened.restores.record() == Some(chosen) {
        return Ok(());
    }
    Err(Refusal::NotRetained { path: chosen.path() })
}

fn opening(request: &Request, term: Term, attempt: Attempt, from: RestorePoint) -> Opening {
    Opening {
        version: from.version(request),
        term,
        attempt,
        job: request.job.clone(),
        coordinator: request.coordinator.clone(),
        owner: request.owner.clone(),
        cluster: request.cluster.clone(),
        restores: from.restores,
        commits: from.commits,
        accepts_lost_output: from.accepts_lost,
        workers: request.workers,
        slots: request.slots,
        max_parallelism: request.max_parallelism,
        fingerprint: request.fingerprint.clone(),
        wish: request.wish.clone(),
    }
}

/// The next term over the same attempt, which is what it was begun as, whatever is wanted by now.
fn resumption(request: &Request, term: Term, of: &Opening, from: RestorePoint) -> Opening {
    Opening {
        version: from.version(request),
        term,
        coordinator: request.coordinator.clone(),
        owner: if request.release { String::new() } else { request.owner.clone() },
        cluster: request.cluster.clone(),
        restores: from.restores,
        commits: from.commits,
        accepts_lost_output: from.accepts_lost,
        ..of.clone()
    }
}

fn won(facts: &Facts, term: Term, opening: &Arc<Opening>) -> Result<Decision, Refusal> {
    let restored = opening.restores.record().map(|reference| facts.record(reference)).transpose()?;
    let commits = opening.commits.map(|reference| facts.record(reference)).transpose()?;
    let inherited: Vec<_> = facts.records().filter(|record| record.term < term).map(Arc::clone).collect();
    let highest_id = inherited.iter().map(|record| record.id).max().unwrap_or_default();
    Ok(Decision::Opened(Box::new(Opened { opening: Arc::clone(opening), restored, commits, inherited, highest_id })))
}
