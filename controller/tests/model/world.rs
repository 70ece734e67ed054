//! What the checker's world is made of: object storage with contents, the status, the sink, workers, coordinators.
//!
//! Every piece stands in a [`Cell`], so that a step copies and hashes only what it changes.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use weir_controller::coordinator::Coordinator;
use weir_controller::gc::Removal;
use weir_controller::takeover::{Opened, Restore};
use weir_protocol::paths::{self, Object};
use weir_protocol::record::{Opening, Record, RecordRef, Seal};
use weir_protocol::start::Start;
use weir_protocol::{Attempt, CheckpointId, RecordNumber, Term, WorkerId};

/// A shared value with its hash.
#[derive(Clone, Debug)]
pub struct Cell<T> {
    hash: u64,
    value: Arc<T>,
}

impl<T: Clone + Hash> Cell<T> {
    pub fn new(value: T) -> Self {
        Self { hash: hash_of(&value), value: Arc::new(value) }
    }

    pub fn edit<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(Arc::make_mut(&mut self.value));
        self.hash = hash_of(&*self.value);
        result
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }
}

impl<T> Deref for Cell<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

pub fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = Fold::default();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A hash by folded multiplication, eight bytes at a time: the search spends much of its time in hashing, and the standard
/// hasher is several times slower. With 64 good bits, 10⁷ states collide with a probability of some 10⁻⁶.
#[derive(Default)]
struct Fold(u64);

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        fold(self.0 ^ 0x2d35_8dcc_aa6c_78a5, 0x8bb8_4b93_962e_acc9)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
        self.write_u64(bytes.len() as u64);
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = fold(self.0.rotate_left(23) ^ n ^ 0x9e37_79b9_7f4a_7c15, 0xa076_1d64_78bd_642f);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// No bound on [`Bounds::delays`].
pub const FREELY: u8 = u8::MAX;

/// The bounds of a search.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub coordinators: usize,
    pub slots: usize,
    pub ids: u64,
    pub attempts: u64,
    pub terms: u64,
    /// Requests whose answer is lost and which land later, or never.
    pub doubts: u8,
    /// How often a coordinator is told to take a last checkpoint, and then to carry on: a hand-over that begins and does not
    /// come to its end. That one follows on which another attempt is opened is a takeover like every other.
    pub hand_overs: u8,
    /// How often a user restores nothing, or the oldest record that is retained.
    pub wishes: u8,
    /// Another run of the same job writes into the same output, with checkpoints and attempts of its own.
    pub twin: bool,
    /// How often a queue of messages, a status write or a deletion is held up; what is not held up happens at once, before
    /// anything else. [`FREELY`]: all happen whenever they like.
    pub delays: u8,
    pub retain: u32,
    /// A worker's freeze, upload and ack are three steps, and each deployment is one. Else what nobody else can see between
    /// them is one step, which makes the world much smaller.
    pub fine: bool,
    /// Where a takeover begins to read is written down late, or never.
    pub late_starts: bool,
    /// How often the job is deleted and made anew.
    pub deletions: u8,
    /// One state in so many is healed, to see that all on record becomes visible from there; 0 is none.
    pub healed: u64,
    /// Which rule is broken on purpose.
    pub broken: Broken,
}

/// One rule that is skipped, to see that the checker finds what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    Nothing,
    /// Workers ack before their state file is stored.
    AckBeforeUpload,
    /// The record is created when the first worker has acked.
    RecordWithoutAllAcks,
    /// Files are deleted before the record that names them.
    FilesBeforeRecord,
    /// The next term is opened without a seal on the last.
    NoSeal,
    /// A takeover restores what the last opening restored, not the last record.
    RestoreOlder,
    /// Workers are told to commit when the record is asked for, not when it stands.
    CommitBeforeRecord,
    /// Nothing is committed again after a restore.
    NoCommitAfterRestore,
    /// An abort drops the sink transaction.
    AbortDropsTransaction,
    /// A restore does not drop what is newer than the record.
    RestoreKeepsNewer,
    /// Deleting a record deletes all its files, also those that other records name.
    DeleteSharedFiles,
    /// A slot whose create was in doubt is given free.
    FreeDoubtfulSlot,
    /// Leftovers are swept under the current attempt too.
    SweepCurrentAttempt,
    /// A worker deletes what it has uploaded for a checkpoint that is not known to be on record when another coordinator
    /// comes, and not when that triggers the next.
    DiscardUndecided,
    /// A worker deletes what it names no more, though the base names it.
    DiscardOnRecord,
    /// The status is written when the record is asked for.
    StatusBeforeRecord,
    /// The status is written whatever stands there.
    StatusUnconditional,
    /// A status write that was lost counts as written.
    StatusLost,
    /// Worker processes that hold the same slot share their names.
    SharedNames,
    /// Where a takeover begins to read is written down without the records that stand before.
    StartNamesNothing,
    /// A worker that is cut off publishes what it has prepared.
    CutOffPublishes,
    /// A user's wish for an older record, or for nothing, forgets what the end of the chain has promised.
    WishForgetsPromises,
    /// The names of unfinished output do not say which run of the job wrote it.
    NamesWithoutOwner,
}

/// What stands in a slot of a term.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub enum InSlot {
    Record(Arc<Record>),
    Seal(Seal),
    Empty,
}

/// Object storage.
#[derive(Clone, Debug, Hash, Default)]
pub struct Store {
    pub openings: BTreeMap<Term, Arc<Opening>>,
    pub slots: BTreeMap<(Term, RecordNumber), InSlot>,
    pub parts: BTreeMap<String, Arc<Part>>,
    pub files: BTreeMap<String, Rows>,
    pub start: Option<Start>,
    /// [`Broken::SharedNames`], over so many slots.
    pub shared_names: Option<usize>,
}

impl Store {
    pub fn part(&self, path: &str) -> Option<&Arc<Part>> {
        self.parts.get(&*self.key(path))
    }

    pub fn file(&self, path: &str) -> Option<Rows> {
        self.files.get(&*self.key(path)).copied()
    }

    /// An object of a term is there, though it may be empty.
    pub fn holds(&self, path: &str) -> bool {
        match paths::parse(path) {
            Some(Object::Opening(term)) => self.openings.contains_key(&term),
            Some(Object::Slot(term, number)) => self.slots.contains_key(&(term, number)),
            _ => false,
        }
    }

    /// Both are created only if absent.
    pub fn put_part(&mut self, path: &str, part: Arc<Part>) {
        let key = self.key(path).into_owned();
        self.parts.entry(key).or_insert(part);
    }

    pub fn put_file(&mut self, path: &str, rows: Rows) {
        let key = self.key(path).into_owned();
        self.files.entry(key).or_insert(rows);
    }

    pub fn delete(&mut self, path: &str) {
        let key = self.key(path).into_owned();
        match paths::parse(path) {
            Some(Object::Slot(term, number)) => drop(self.slots.remove(&(term, number))),
            Some(Object::Part(..)) => drop(self.parts.remove(&key)),
            Some(Object::State(..)) => drop(self.files.remove(&key)),
            Some(Object::Opening(term)) => drop(self.openings.remove(&term)),
            Some(Object::Inputs(..)) | None => {}
        }
    }

    /// What a list of `parts/` and `state/` shows; no worker of the model has inputs.
    pub fn listed(&self) -> Vec<String> {
        self.parts.keys().chain(self.files.keys()).cloned().collect()
    }

    fn key<'a>(&self, path: &'a str) -> Cow<'a, str> {
        let Some(slots) = self.shared_names else { return Cow::Borrowed(path) };
        match paths::parse(path) {
            Some(Object::Part(id, _, worker)) => Cow::Owned(format!("parts/{id}-{}", slot_of(slots, index(&worker)))),
            Some(Object::State(_, worker, n)) => Cow::Owned(format!("state/{}/{n}", slot_of(slots, index(&worker)))),
            _ => Cow::Borrowed(path),
        }
    }

    /// Those of terms that were opened.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &Arc<Record>> {
        self.slots.values().filter_map(|slot| match slot {
            InSlot::Record(record) if self.openings.contains_key(&record.term) => Some(record),
            _ => None,
        })
    }

    pub fn is_free(&self, reference: RecordRef) -> bool {
        !self.slots.contains_key(&(reference.term, reference.number))
    }
}

/// The rows `from..to` of one source; what a state file holds.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rows {
    pub slot: usize,
    pub from: u8,
    pub to: u8,
}

/// What a part says.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct Part {
    pub id: CheckpointId,
    pub attempt: Attempt,
    pub process: usize,
    pub slot: usize,
    /// Rows that the source had given out.
    pub position: u8,
    pub pending: Vec<Transaction>,
    pub files: Vec<String>,
}

/// One sink transaction: by whom, under which attempt, for which checkpoint, and the row that it publishes.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub struct Transaction {
    pub attempt: Attempt,
    pub process: usize,
    pub id: CheckpointId,
    pub slot: usize,
    pub row: u8,
}

/// The output: what is unfinished there, and what readers see.
#[derive(Clone, Debug, Hash, Default)]
pub struct Sink {
    /// Cut and not published. What dead attempts have left is among it, until it is cleaned.
    pub unfinished: BTreeSet<Transaction>,
    /// What another run of the job has promised and not published yet. Whole until it does so.
    pub twins: BTreeSet<Transaction>,
    pub published: BTreeSet<Transaction>,
    /// By line, bit r of entry s: row r of source s is visible.
    pub rows: Vec<Vec<u64>>,
}

/// What was read from one start on: a user's wish for an older record, or for nothing, begins the next. Its rows are read a second
/// time, and it is no repeat that they are seen a second time.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct Line {
    /// Its first attempt.
    pub since: Attempt,
    /// The positions that it began at, a source each.
    pub from: Vec<u8>,
    /// The positions that its last record had reached when the next line began.
    pub to: Vec<u8>,
}

/// The resource's status, with the version that a conditional write compares.
#[derive(Clone, Debug, Hash, Default)]
pub struct Status {
    pub version: u8,
    pub term: Term,
    pub names: Option<RecordRef>,
}

/// A status write under way.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct StatusWrite {
    pub expects: u8,
    pub term: Term,
    pub record: RecordRef,
}

/// A message of a coordinator to a worker.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub enum Message {
    Trigger { term: Term, attempt: Attempt, id: CheckpointId, base: Option<CheckpointId> },
    Commit { term: Term, attempt: Attempt, id: CheckpointId },
}

/// One worker process.
#[derive(Clone, Debug, Hash)]
pub struct Worker {
    pub slot: usize,
    pub highest_term: Term,
    pub highest_id: CheckpointId,
    pub attempt: Attempt,
    pub position: u8,
    pub pending: Vec<Transaction>,
    pub taking: Option<Taking>,
    /// What of earlier checkpoints, given up or not, may be named again: id, position, files.
    pub uploaded: Vec<(CheckpointId, u8, Vec<String>)>,
    /// Files of this attempt that were begun, and that no record is known to name.
    pub begun: BTreeSet<String>,
    /// Checkpoints of this attempt whose part was stored, and that are not known to be on record.
    pub acked: BTreeSet<CheckpointId>,
    /// Objects that it is about to delete.
    pub garbage: Vec<String>,
    pub files: u64,
    /// Messages on their way, one queue a coordinator.
    pub inbox: Vec<VecDeque<Message>>,
    /// Bit p: the queue of coordinator p is held up.
    pub held_up: u8,
}

/// A checkpoint that a worker is persisting.
#[derive(Clone, Debug, Hash)]
pub struct Taking {
    /// Who triggered it, and hears of it.
    pub by: usize,
    pub part: Arc<Part>,
    pub file: (String, Rows),
    pub stored: bool,
}

/// One coordinating process.
#[derive(Clone, Debug, Hash)]
pub enum Process {
    Idle,
    TakingOver { resume: bool, wish: Restore, asked: Option<Term>, intent: Option<Create> },
    Deploying { opened: Arc<OpenedTerm>, next: usize },
    Leading(Leading),
}

/// [`Opened`] with a hash.
#[derive(Clone, Debug)]
pub struct OpenedTerm(pub Opened);

impl Hash for OpenedTerm {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.opening.hash(state);
        self.0.inherited.hash(state);
    }
}

/// A coordinator at work, and what it has under way.
#[derive(Clone, Debug, Hash)]
pub struct Leading {
    pub coordinator: Coordinator,
    pub create: Option<Arc<Record>>,
    pub status: Option<StatusWrite>,
    /// Steps of a removal that are still to be done; those of one kind are done at once.
    pub removing: Vec<Vec<Removal>>,
    /// The status write is held up.
    pub status_held_up: bool,
    /// The removal is held up.
    pub removing_held_up: bool,
}

/// A create-if-absent.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub enum Create {
    /// And what it was wished to restore.
    Opening(Arc<Opening>, Restore),
    Seal(Seal),
    Record(Arc<Record>),
}

/// A request whose sender has no answer, or waits for none any more.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub enum Flight {
    Create(Create),
    Status(StatusWrite),
    /// A record of a job that was deleted.
    Stray(Arc<Record>),
    /// Where a takeover begins to read.
    Start(Start),
}

/// All of it.
#[derive(Clone, Debug)]
pub struct State {
    pub store: Cell<Store>,
    pub sink: Cell<Sink>,
    pub status: Cell<Status>,
    pub workers: Vec<Cell<Worker>>,
    pub processes: Vec<Cell<Process>>,
    pub flights: Cell<Vec<Flight>>,
    pub doubts: u8,
    pub hand_overs: u8,
    pub wishes: u8,
    pub delays: u8,
    /// How often the job was deleted.
    pub deleted: u8,
    /// What the next attempt restores unless somebody wishes otherwise: the end of the chain. Only the checks read it.
    pub end: Option<RecordRef>,
    /// The newest record that has ever come to stand in the chain: what it has promised is published, whatever is restored. Only
    /// the checks read it.
    pub promised: Option<RecordRef>,
    /// Only the checks read them.
    pub lines: Vec<Line>,
}

impl State {
    /// The line that an attempt reads on.
    pub fn line_of(&self, attempt: Attempt) -> usize {
        self.lines.iter().rposition(|line| line.since <= attempt).unwrap_or_default()
    }

    pub fn fingerprint(&self) -> u64 {
        let mut hasher = Fold::default();
        (self.store.hash(), self.sink.hash(), self.status.hash(), self.flights.hash()).hash(&mut hasher);
        for worker in &self.workers {
            worker.hash().hash(&mut hasher);
        }
        for process in &self.processes {
            process.hash().hash(&mut hasher);
        }
        (self.doubts, self.hand_overs, self.wishes, self.delays, self.deleted).hash(&mut hasher);
        (self.end, self.promised, &self.lines).hash(&mut hasher);
        hasher.finish()
    }
}

/// The name of a worker process.
pub fn name(process: usize) -> WorkerId {
    WorkerId(format!("w{process}"))
}

/// The process of that name.
pub fn index(worker: &WorkerId) -> usize {
    worker.0[1..].parse().expect("a name of this world")
}

/// The slot that a process holds all its life.
pub fn slot_of(slots: usize, process: usize) -> usize {
    if process < slots { process } else { (process - slots + 2) % slots }
}

/// The processes of an attempt in slot order. Every attempt but the first has a new process for one slot; whoever held it
/// before may still be alive.
pub fn members(slots: usize, attempt: Attempt) -> Vec<usize> {
    let mut members: Vec<usize> = (0..slots).collect();
    for attempt in 2..=attempt.0 as usize {
        members[attempt % slots] = slots + attempt - 2;
    }
    members
}
