//! One worker's side of a checkpoint: from the trigger to the ack.
//!
//! Gathers what the local subtasks froze, has it persisted beside processing, and puts the worker's part together when all is
//! durable. It holds no client and no clock: effects are answers that the control loop carries out, and what is persisted
//! comes back through [`Checkpoints::persisted`].
//!
//! A checkpoint that is given up is given up for good: ids are never reused. What was frozen for it is handed back to the
//! tables, and a sink's transaction that was cut for it stays pending.

pub mod commits;
pub mod persist;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use weir_protocol::{
    Attempt, CheckpointId, WorkerId,
    part::{KeyedSnapshot, Part},
    paths,
    record::encode,
    rpc::Acked,
};
use weir_state::{SubtaskState, Uploader};

use crate::{
    api::{
        graph::{JobGraph, StageHead, StageId},
        source::SourceFactory,
    },
    checkpoint::{
        commits::Commits,
        persist::{Cancelled, PersistPool, PersistSubtask, Persisted, SubtaskDone, add_items},
    },
    data::splits::SplitState,
    restore::{deal::keepers, local::LocalSnapshots, matching},
    seam::SubtaskSnapshot,
};

/// Keyed snapshots of one checkpoint, of this worker's subtasks.
pub type Snapshots = BTreeMap<(StageId, u32), KeyedSnapshot>;

/// The record that an attempt was restored from, as a base for its first checkpoint.
#[derive(Clone, Debug)]
pub struct RestoredBase {
    /// The record's object.
    pub path: String,
    /// Its checkpoint.
    pub id: CheckpointId,
    /// Of the subtasks that own the very same key groups as before; the others upload everything.
    pub snapshots: Snapshots,
}

/// What the checkpoints of an attempt are made of.
pub struct CheckpointSettings {
    /// Which attempt.
    pub attempt: Attempt,
    /// This worker.
    pub worker: WorkerId,
    /// The plan.
    pub graph: Arc<JobGraph>,
    /// The slots of this worker.
    pub subtasks: Vec<u32>,
    /// Names and uploads state files.
    pub uploader: Arc<Uploader>,
    /// Parts travel in the ack and stand in the record.
    pub inline: bool,
    /// The version that parts are written in.
    pub format: u32,
    /// What was restored.
    pub restored: Option<RestoredBase>,
    /// Takes what a persist thread has done.
    pub persisted: Arc<dyn Fn(Persisted) + Send + Sync>,
}

/// What one subtask froze.
pub struct FrozenSubtask {
    /// Its stage.
    pub stage: StageId,
    /// Which subtask.
    pub subtask: u32,
    /// The checkpoint.
    pub id: CheckpointId,
    /// What it froze.
    pub snapshot: Box<SubtaskSnapshot>,
    /// Its keyed state.
    pub state: Option<SubtaskState>,
}

/// What follows from a trigger.
#[derive(Debug, PartialEq, Eq)]
pub enum Triggered {
    /// Sources are to put barriers into their output.
    Started,
    /// The same, and the record at this path is to be read: [`Checkpoints::base_known`] waits for its id.
    StartedWithBase(String),
    /// The checkpoint is declined.
    Refused(String),
}

/// What follows from a persisted subtask.
#[derive(Debug, PartialEq, Eq)]
pub enum Progressed {
    /// Nothing yet.
    Waiting,
    /// The checkpoint is given up, and is to be declined.
    Declined(String),
    /// All local subtasks are durable: [`Checkpoints::part`] is next.
    Complete,
}

/// While so many given-up checkpoints are still being written, such as to a sink's storage that is away, none begins: what is cut
/// waits in memory, and what is uploaded for nothing waits in storage.
const MOST_UNFINISHED: usize = 2;

/// A worker's part, ready to be stored or sent.
pub struct ReadyPart {
    /// The ack; in it the part itself where it travels inline.
    pub ack: Acked,
    /// To be created in storage before the ack is sent; `None` where it travels inline.
    pub object: Option<Bytes>,
}

/// The record whose files a checkpoint may reuse.
#[derive(Clone, Copy)]
enum Base {
    /// It is being read.
    Unknown,
    /// Everything is uploaded.
    None,
    /// That of this checkpoint.
    Of(CheckpointId),
}

impl From<Option<CheckpointId>> for Base {
    fn from(base: Option<CheckpointId>) -> Self {
        base.map_or(Self::None, Self::Of)
    }
}

struct Current {
    id: CheckpointId,
    base: Base,
    done: BTreeMap<(StageId, u32), SubtaskDone>,
}

/// Positions of splits, by the stage of their source.
type Positions = BTreeMap<StageId, Vec<serde_json::Value>>;

/// The checkpoints of one attempt.
pub struct Checkpoints {
    settings: CheckpointSettings,
    pool: PersistPool,
    cancelled: Cancelled,
    current: Option<Current>,
    /// Frozen before the trigger came (a peer's barrier was faster), or before its base was known.
    waiting: VecDeque<FrozenSubtask>,
    /// Subtasks that have been submitted and are not done, by checkpoint.
    unfinished: BTreeMap<CheckpointId, usize>,
    /// Of checkpoints that were acked and may serve as a base.
    taken: BTreeMap<CheckpointId, Snapshots>,
    /// Parts that were begun and that no record is known to name; `true` once storage has answered.
    parts: BTreeMap<CheckpointId, bool>,
    /// The newest record of this attempt that is known.
    recorded: Option<CheckpointId>,
    /// Positions of the sources that are told of records, by stage: of parts that no record is known to name yet.
    positions: BTreeMap<CheckpointId, Positions>,
    states: BTreeMap<(StageId, u32), SubtaskState>,
}

impl Checkpoints {
    /// Starts the persist threads.
    pub fn new(settings: CheckpointSettings) -> std::io::Result<Self> {
        let pool = PersistPool::new(settings.graph.stages.len() * settings.subtasks.len())?;
        Ok(Self {
            settings,
            pool,
            cancelled: Cancelled::default(),
            current: None,
            waiting: VecDeque::new(),
            unfinished: BTreeMap::new(),
            taken: BTreeMap::new(),
            parts: BTreeMap::new(),
            recorded: None,
            positions: BTreeMap::new(),
            states: BTreeMap::new(),
        })
    }

    /// The coordinator starts a checkpoint. A lower one that is under way is given up.
    pub fn trigger(&mut self, id: CheckpointId, base_path: &str) -> Triggered {
        if self.cancelled.contains(id) || self.current.as_ref().is_some_and(|current| current.id >= id) {
            return Triggered::Refused(format!("checkpoint {id} was cancelled or is under way already"));
        }
        // Also of checkpoints that were never triggered here, but frozen after a peer's barrier: what they cut has to be in the
        // pending commits before this one's part is made.
        self.cancel(CheckpointId(id.0.saturating_sub(1)));
        if let Some((oldest, _)) = self.unfinished.iter().next().filter(|_| self.unfinished.len() >= MOST_UNFINISHED) {
            return Triggered::Refused(format!("what checkpoint {oldest} has cut is still being written to storage"));
        }
        self.current = Some(Current { id, base: Base::Unknown, done: BTreeMap::new() });
        match &self.settings.restored {
            _ if base_path.is_empty() || self.settings.inline => self.base_known(id, None),
            Some(restored) if restored.path == base_path => self.base_known(id, Some(restored.id)),
            _ => return Triggered::StartedWithBase(base_path.to_string()),
        }
        Triggered::Started
    }

    /// The base record of checkpoint `id` has been read: it is that of `base`, taken in this attempt, or none to build on.
    pub fn base_known(&mut self, id: CheckpointId, base: Option<CheckpointId>) {
        let Some(current) = self.current.as_mut().filter(|current| current.id == id) else { return };
        current.base = base.into();
        self.settle(id, base);
        self.submit_waiting();
    }

    /// All checkpoints before `id` are decided: a coordinator triggers none while one is not, and who took over has sealed the
    /// term before. The newest of this attempt that is on record is `base`, and each older one on record was the base of a
    /// checkpoint before this. All others were given up for good: what they hold here and in storage goes. What they have
    /// uploaded is each subtask's to name again or to delete.
    fn settle(&mut self, id: CheckpointId, base: Option<CheckpointId>) {
        self.taken.retain(|taken, _| *taken >= id || Some(*taken) == base);
        // A base whose parts stand in the record is not read, but its commit has mostly come.
        let on_record = base.or(self.recorded);
        for state in self.states.values() {
            state.drop_local_snapshots_given_up(id, on_record);
        }
        if let Some(base) = base {
            self.parts.remove(&base);
        }
        let (attempt, worker) = (self.settings.attempt, &self.settings.worker);
        // One that is still on its way would land after its deletion.
        let given_up = self.parts.extract_if(..id, |_, answered| *answered);
        let given_up: Vec<String> = given_up.map(|(id, _)| paths::part(id, attempt, worker)).collect();
        self.settings.uploader.discard(given_up);
    }

    /// Storage has answered to the part of checkpoint `id`, be it with an error.
    pub fn part_stored(&mut self, id: CheckpointId) {
        if let Some(answered) = self.parts.get_mut(&id) {
            *answered = true;
        }
    }

    /// A subtask has frozen. Its state is persisted as soon as the base is known.
    pub fn frozen(&mut self, frozen: FrozenSubtask) {
        if let Some(state) = &frozen.state {
            self.states.insert((frozen.stage, frozen.subtask), state.clone());
        }
        self.waiting.push_back(frozen);
        self.submit_waiting();
    }

    fn submit_waiting(&mut self) {
        for frozen in std::mem::take(&mut self.waiting) {
            let base = match &self.current {
                Some(Current { id, base: Base::Of(base), .. }) if *id == frozen.id => Some(*base),
                Some(Current { id, base: Base::None, .. }) if *id == frozen.id => None,
                // It is only handed back, in its turn.
                _ if self.cancelled.contains(frozen.id) => None,
                _ => {
                    self.waiting.push_back(frozen);
                    continue;
                }
            };
            self.submit(frozen, base);
        }
    }

    fn submit(&mut self, frozen: FrozenSubtask, base: Option<CheckpointId>) {
        let FrozenSubtask { stage, subtask, id, snapshot, state } = frozen;
        let Some(planned) = self.settings.graph.stages.get(stage.0 as usize) else { return };
        let place = self.settings.subtasks.iter().position(|local| *local == subtask).unwrap_or_default();
        let work = PersistSubtask {
            stage,
            identity: planned.identity.clone(),
            keepers: keepers(planned).map(str::to_string).collect(),
            subtask,
            id,
            snapshot: *snapshot,
            state,
            base: base.and_then(|base| self.base_snapshot(base, stage, subtask)),
            uploader: Arc::clone(&self.settings.uploader),
            cancelled: self.cancelled.clone(),
        };
        *self.unfinished.entry(id).or_default() += 1;
        let persisted = Arc::clone(&self.settings.persisted);
        // Neighbouring places are the subtasks of one stage, which have about the same to write.
        self.pool.submit(stage.0 as usize * self.settings.subtasks.len() + place, work, move |done| persisted(done));
    }

    fn base_snapshot(&self, base: CheckpointId, stage: StageId, subtask: u32) -> Option<KeyedSnapshot> {
        let restored = self.settings.restored.as_ref().filter(|restored| restored.id == base);
        let snapshots = self.taken.get(&base).or(restored.map(|restored| &restored.snapshots))?;
        snapshots.get(&(stage, subtask)).cloned()
    }

    /// A persist thread is done with a subtask.
    pub fn persisted(&mut self, persisted: Persisted) -> Progressed {
        let Persisted { stage, subtask, id, outcome, .. } = persisted;
        if let Some(left) = self.unfinished.get_mut(&id) {
            *left -= 1;
            if *left == 0 {
                self.unfinished.remove(&id);
            }
        }
        let Some(current) = self.current.as_mut().filter(|current| current.id == id) else {
            return Progressed::Waiting;
        };
        match outcome {
            Err(reason) => {
                self.cancel(id);
                Progressed::Declined(reason)
            }
            Ok(done) => {
                current.done.insert((stage, subtask), done);
                let all = self.settings.graph.stages.len() * self.settings.subtasks.len();
                if current.done.len() == all { Progressed::Complete } else { Progressed::Waiting }
            }
        }
    }

    /// The part of a checkpoint of which all subtasks are durable, with the pending commits that it carries. The checkpoint
    /// is no longer the current one.
    pub fn part(&mut self, commits: &Commits) -> Option<ReadyPart> {
        let Current { id, done, .. } = self.current.take()?;
        let snapshots = done.iter().filter_map(|(place, done)| Some((*place, done.part.keyed.clone()?))).collect();
        let mut ack = Acked {
            attempt: self.settings.attempt.0,
            id: id.0,
            part_path: paths::part(id, self.settings.attempt, &self.settings.worker),
            finished: done.values().all(|done| done.part.finished),
            state_bytes: done.values().map(|done| done.stats.state_bytes).sum(),
            uploaded_bytes: done.values().map(|done| done.stats.uploaded_bytes).sum(),
            pause_us: longest(&done, |done| done.pause),
            align_us: longest(&done, |done| done.align),
            part_format: self.settings.format,
            persist_us: longest(&done, SubtaskDone::persist),
            upload_us: longest(&done, SubtaskDone::upload),
            ..Acked::default()
        };
        self.add_slowest(&mut ack, &done);
        let positions = self.positions_of(&done);
        self.positions.insert(id, positions);
        let mut part = Part {
            version: self.settings.format,
            id,
            attempt: self.settings.attempt,
            worker: self.settings.worker.clone(),
            script: self.settings.graph.script.clone(),
            keepers: matching::describe(&self.settings.graph),
            subtasks: done.into_values().map(|done| done.part).collect(),
        };
        self.add_commits(&mut part, commits);
        part = match self.settings.format {
            1 => part.into_version_1(&matching::called_before(&self.settings.graph)),
            2 => part.into_version_2(),
            _ => part,
        };
        let bytes = Bytes::from(encode(&part));
        ack.part_length = bytes.len() as u64;
        ack.part_crc32c = crc32c::crc32c(&bytes);
        if self.settings.inline {
            // No later checkpoint names files of it: it has none.
            ack.inline_part = bytes;
            return Some(ReadyPart { ack, object: None });
        }
        self.taken.insert(id, snapshots);
        self.parts.insert(id, false);
        Some(ReadyPart { ack, object: Some(bytes) })
    }

    /// Says who held the checkpoint up here.
    fn add_slowest(&self, ack: &mut Acked, done: &BTreeMap<(StageId, u32), SubtaskDone>) {
        let Some(((stage, subtask), slowest)) = done.iter().max_by_key(|(_, done)| done.took()) else { return };
        let stage = self.settings.graph.stages.get(stage.0 as usize);
        ack.slowest_stage = stage.map(|stage| stage.name.clone()).unwrap_or_default();
        ack.slowest_subtask = *subtask;
        ack.slowest_us = slowest.took().as_micros() as u64;
    }

    /// Pending commits stand with the first local subtask of their sink's stage: any subtask can carry them out.
    fn add_commits(&self, part: &mut Part, commits: &Commits) {
        for (operator, items) in commits.items(part.id) {
            let mut stages = self.settings.graph.stages.iter();
            let stage = stages.find(|stage| stage.sink.as_ref().is_some_and(|sink| sink.identity == operator));
            let subtask = stage.and_then(|stage| part.subtasks.iter_mut().find(|part| part.stage == stage.identity));
            if let Some(subtask) = subtask {
                add_items(&mut subtask.operators, operator, items);
            }
        }
    }

    /// Gives up checkpoint `id` and every older one. What is under way ends by itself.
    pub fn cancel(&mut self, id: CheckpointId) {
        self.cancelled.up_to(id);
        if self.current.as_ref().is_some_and(|current| current.id <= id) {
            self.current = None;
        }
        self.submit_waiting();
    }

    /// The checkpoint that is under way here.
    pub fn under_way(&self) -> Option<CheckpointId> {
        let frozen = self.waiting.iter().map(|frozen| frozen.id).max();
        frozen.max(self.current.as_ref().map(|current| current.id))
    }

    /// Whether a checkpoint has been given up.
    pub fn is_cancelled(&self, id: CheckpointId) -> bool {
        self.cancelled.contains(id)
    }

    /// The record of checkpoint `id` exists: local snapshots of older ones are dropped. Gives the sources that are told of it, with
    /// the positions of their splits.
    pub fn recorded(&mut self, id: CheckpointId) -> Vec<(Arc<dyn SourceFactory>, Vec<serde_json::Value>)> {
        self.recorded = self.recorded.max(Some(id));
        for state in self.states.values() {
            state.drop_local_snapshots_before(id);
        }
        let later = self.positions.split_off(&CheckpointId(id.0 + 1));
        let recorded = std::mem::replace(&mut self.positions, later).remove(&id).unwrap_or_default();
        let source = |(stage, splits): (StageId, Vec<serde_json::Value>)| {
            let StageHead::Source(node) = &self.settings.graph.stages.get(stage.0 as usize)?.head else { return None };
            Some((Arc::clone(&node.source), splits))
        };
        recorded.into_iter().filter_map(source).collect()
    }

    /// What the parts of a worker's subtasks say of the sources that are told of records.
    fn positions_of(&self, done: &BTreeMap<(StageId, u32), SubtaskDone>) -> Positions {
        let mut positions = Positions::new();
        for ((stage, _), done) in done {
            let stage_of = self.settings.graph.stages.get(stage.0 as usize);
            let Some(StageHead::Source(node)) = stage_of.map(|stage| &stage.head) else { continue };
            if !node.source.follows_records() {
                continue;
            }
            let items = done.part.operators.iter().filter(|part| part.operator == node.identity);
            let states = items.flat_map(|part| &part.items).filter_map(SplitState::from_item).flatten();
            positions.entry(*stage).or_default().extend(states.map(|state| state.split));
        }
        positions
    }

    /// The attempt ends: nothing more is persisted. Gives where the subtasks' states are.
    pub fn close(mut self) -> BTreeMap<(String, u32), SubtaskState> {
        self.cancel(CheckpointId(u64::MAX));
        let graph = &self.settings.graph;
        let name = |stage: StageId| graph.stages.get(stage.0 as usize).map(|stage| stage.identity.clone());
        self.states.into_iter().filter_map(|((stage, subtask), state)| Some(((name(stage)?, subtask), state))).collect()
    }
}

/// Which of these states have local files of a checkpoint, and where.
pub fn local_snapshots(states: &BTreeMap<(String, u32), SubtaskState>, id: CheckpointId) -> LocalSnapshots {
    states.iter().filter_map(|(place, state)| Some((place.clone(), state.local_snapshot(id)?))).collect()
}

/// In microseconds.
fn longest(done: &BTreeMap<(StageId, u32), SubtaskDone>, phase: impl Fn(&SubtaskDone) -> Duration) -> u64 {
    done.values().map(phase).max().unwrap_or_default().as_micros() as u64
}
