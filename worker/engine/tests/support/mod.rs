//! A small job, run by the data plane alone: the test is the coordinator, the store and the network between workers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use weir_engine::api::error::BuildError;
use weir_engine::api::graph::Kin;
use weir_engine::data::dataflow::RunningAttempt;
use weir_engine::data::gate::InboundSink;
use weir_engine::restore::deal::{Dealt, deal_inputs};
use weir_engine::restore::inputs::Inputs;
use weir_engine::restore::matching::Matched;
use weir_engine::seam::{
    AttemptStats, BuildAttempt, ChannelId, Element, Remote, RemoteSender, Report, Restored, Stopped, SubtaskSnapshot,
};
use weir_engine::{
    Batch, Committer, Edge, Exchange, Item, ItemKind, JobGraph, Operator, OperatorContext, OperatorError,
    OperatorFactory, OperatorNode, OperatorSnapshot, Output, PrepareJob, Progress, RestoredWatermarks, Sink,
    SinkContext, SinkError, SinkFactory, SinkNode, Source, SourceContext, SourceError, SourceFactory, SourceNode,
    SourcePoll, Stage, StageHead, StageId, SystemClock, Timestamp, Waker, WatermarkFn,
};
use weir_protocol::settings::{CheckpointMode, StorageSettings};
use weir_protocol::{Attempt, CheckpointId, JobName, WorkerId};
use weir_state::{BackendRegistry, StateMemory, key_group_range};
use weir_storage::JobStore;

/// Longer than anything here takes, on any machine.
pub const SOON: Duration = Duration::from_mins(1);
pub const MAX_PARALLELISM: u32 = 16;

pub fn schema() -> SchemaRef {
    let fields = ["key", "n", "ts"].map(|name| Field::new(name, DataType::Int64, false));
    Arc::new(Schema::new(fields.to_vec()))
}

pub fn pairs() -> SchemaRef {
    let fields = ["a", "b"].map(|name| Field::new(name, DataType::Int64, false));
    Arc::new(Schema::new(fields.to_vec()))
}

pub fn column(batch: &Batch, column: usize) -> &[i64] {
    batch.rows.column(column).as_primitive::<Int64Type>().values()
}

pub fn pair_rows(rows: &[(i64, i64)]) -> Batch {
    let columns: [Arc<Int64Array>; 2] = [
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
    ];
    Batch::inserts(RecordBatch::try_new(pairs(), columns.map(|column| column as _).to_vec()).unwrap())
}

/// Row `n` of split `s` is `(key: n % keys, n, ts: n)`. Gives rows up to `allowed` only.
#[derive(Clone)]
pub struct Numbers {
    pub splits: usize,
    pub rows: i64,
    pub keys: i64,
    pub allowed: Arc<AtomicI64>,
    pub fail_at: Option<i64>,
}

struct NumbersSource {
    numbers: Numbers,
    positions: Vec<i64>,
    turn: usize,
}

impl SourceFactory for Numbers {
    fn splits(&self, _parallelism: u32) -> Result<Vec<Value>, SourceError> {
        Ok(vec![json!(0); self.splits])
    }

    fn create(&self, ctx: &SourceContext) -> Result<Box<dyn Source>, SourceError> {
        let positions = ctx.splits.iter().map(|split| split.as_i64().unwrap()).collect();
        Ok(Box::new(NumbersSource { numbers: self.clone(), positions, turn: 0 }))
    }

    fn bounded(&self) -> bool {
        true
    }
}

impl Source for NumbersSource {
    fn poll(&mut self, _max_rows: usize) -> Result<SourcePoll, SourceError> {
        let allowed = self.numbers.allowed.load(Ordering::SeqCst).min(self.numbers.rows);
        for _ in 0..self.positions.len() {
            self.turn = (self.turn + 1) % self.positions.len();
            let from = self.positions[self.turn];
            let to = allowed.min(from + 37);
            if self.numbers.fail_at.is_some_and(|at| (from..to).contains(&at)) {
                return Err(SourceError::bad_input("numbers.txt:17: no number"));
            }
            if from < to {
                self.positions[self.turn] = to;
                let key = Int64Array::from_iter_values((from..to).map(|n| n % self.numbers.keys));
                let n = Arc::new(Int64Array::from_iter_values(from..to));
                let rows = RecordBatch::try_new(schema(), vec![Arc::new(key), n.clone(), n])?;
                return Ok(SourcePoll::Rows { split: self.turn, rows });
            }
        }
        if self.positions.iter().all(|position| *position == self.numbers.rows) {
            return Ok(SourcePoll::End);
        }
        Ok(SourcePoll::Pending { until: Some(Instant::now() + Duration::from_millis(1)) })
    }

    fn snapshot(&mut self) -> Result<Vec<Value>, SourceError> {
        Ok(self.positions.iter().map(|position| json!(position)).collect())
    }
}

/// The largest value of the third column.
pub struct MaxTs;

impl WatermarkFn for MaxTs {
    fn watermark(&self, rows: &RecordBatch) -> Result<Option<Timestamp>, OperatorError> {
        Ok(rows.column(2).as_primitive::<Int64Type>().values().iter().max().map(|ts| ts - 1))
    }
}

/// Puts out `(key, how many rows of this key so far)`: a row lost or counted twice shows.
pub struct Count;

struct CountOperator(BTreeMap<i64, i64>);

impl OperatorFactory for Count {
    fn create(&self, ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        let entries = ctx.items.iter().map(|item| serde_json::from_value::<(i64, i64)>(item.value.clone()).unwrap());
        Ok(Box::new(CountOperator(entries.collect())))
    }
}

fn other<T: serde::Serialize>(value: T) -> Item {
    Item { kind: ItemKind::Other, value: serde_json::to_value(value).unwrap() }
}

impl Operator for CountOperator {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        let mut rows = Vec::new();
        for key in column(&batch, 0) {
            let count = self.0.entry(*key).or_default();
            *count += 1;
            rows.push((*key, *count));
        }
        out.emit(pair_rows(&rows))?;
        Ok(Progress::Done)
    }

    fn freeze(&mut self, snapshot: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        snapshot.items.extend(self.0.iter().map(|(key, count)| other((key, count))));
        Ok(())
    }
}

/// Puts out `(end, sum of n)` for each window of `WIDTH` milliseconds and key, one row a call.
pub struct Windows;

pub const WIDTH: i64 = 100;

struct WindowsOperator(BTreeMap<(i64, i64), i64>);

impl OperatorFactory for Windows {
    fn create(&self, ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        let entries = ctx.items.iter().map(|item| serde_json::from_value(item.value.clone()).unwrap());
        Ok(Box::new(WindowsOperator(entries.collect())))
    }
}

impl Operator for WindowsOperator {
    fn process(&mut self, _input: usize, batch: Batch, _out: &mut dyn Output) -> Result<Progress, OperatorError> {
        let (keys, ns) = (column(&batch, 0), column(&batch, 1));
        for (key, n) in keys.iter().zip(ns) {
            *self.0.entry(((n / WIDTH + 1) * WIDTH, *key)).or_default() += n;
        }
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, watermark: Timestamp, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        match self.0.first_entry() {
            Some(first) if first.key().0 - 1 <= watermark => {
                let ((end, _), sum) = first.remove_entry();
                out.emit(pair_rows(&[(end, sum)]))?;
                Ok(Progress::More)
            }
            _ => Ok(Progress::Done),
        }
    }

    fn freeze(&mut self, snapshot: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        snapshot.items.extend(self.0.iter().map(other));
        Ok(())
    }
}

/// What sinks have published, by the name of the transaction.
#[derive(Clone, Default)]
pub struct Published(Arc<Mutex<Transactions>>);

type Transactions = BTreeMap<String, Vec<(i64, i64)>>;

impl Published {
    pub fn rows(&self) -> Vec<(i64, i64)> {
        let mut rows: Vec<_> = self.0.lock().values().flatten().copied().collect();
        rows.sort_unstable();
        rows
    }

    fn commit(&self, pending: &[Value]) {
        for value in pending {
            let (name, rows): (String, Vec<(i64, i64)>) = serde_json::from_value(value.clone()).unwrap();
            self.0.lock().insert(name, rows);
        }
    }
}

struct Collect {
    subtask: u32,
    rows: Vec<(i64, i64)>,
}

impl SinkFactory for Published {
    fn create(&self, ctx: &SinkContext) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(Collect { subtask: ctx.subtask, rows: Vec::new() }))
    }

    fn committer(&self, _ctx: &weir_engine::CommitContext) -> Result<Arc<dyn Committer>, SinkError> {
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
impl Committer for Published {
    async fn commit(&self, pending: &[Value]) -> Result<(), SinkError> {
        Self::commit(self, pending);
        Ok(())
    }

    async fn clean(&self, _keep: &[Value]) -> Result<(), SinkError> {
        Ok(())
    }
}

impl Sink for Collect {
    fn write(&mut self, batch: Batch) -> Result<(), SinkError> {
        self.rows.extend(column(&batch, 0).iter().copied().zip(column(&batch, 1).iter().copied()));
        Ok(())
    }

    fn prepare(&mut self, id: CheckpointId) -> Result<PrepareJob, SinkError> {
        let rows = std::mem::take(&mut self.rows);
        let name = format!("{id}-{}", self.subtask);
        Ok(Box::new(move || Ok(if rows.is_empty() { vec![] } else { vec![json!((name, rows))] })))
    }
}

/// Source → exchange → operator → sink.
pub fn graph(numbers: &Numbers, exchange: Exchange, operator: Arc<dyn OperatorFactory>, sink: &Published) -> JobGraph {
    let source = SourceNode {
        identity: "numbers".into(),
        kin: Kin::default(),
        name: "numbers".into(),
        source: Arc::new(numbers.clone()),
        prepare: None,
        watermark: Some(Arc::new(MaxTs)),
        schema: schema(),
        idle_timeout: None,
    };
    let stage = |id: u32, head, operators, sink| Stage {
        id: StageId(id),
        identity: format!("stage {id}"),
        aliases: vec![],
        name: format!("stage {id}"),
        head,
        operators,
        changelog: Vec::new(),
        sink,
        stateful: false,
    };
    let node = OperatorNode {
        identity: "operator".into(),
        kin: Kin::default(),
        name: "operator".into(),
        factory: operator,
        state: None,
        output: pairs(),
    };
    let sink = SinkNode {
        identity: "sink".into(),
        kin: Kin::default(),
        name: "sink".into(),
        sink: Arc::new(sink.clone()),
        input: pairs(),
    };
    let edge = Edge { from: StageId(0), exchange, schema: schema() };
    JobGraph {
        stages: vec![
            stage(0, StageHead::Source(source), vec![], None),
            stage(1, StageHead::Inputs(vec![edge]), vec![node], Some(sink)),
        ],
        fingerprint: "test".into(),
        warnings: vec![],
        script: String::new(),
        apart: None,
    }
}

/// Carries elements between workers that are all in this process, and counts credits.
#[derive(Default)]
pub struct Loopback {
    inbound: OnceLock<Vec<InboundSink>>,
    /// The worker of each subtask.
    workers: Vec<usize>,
    window: usize,
    credits: Mutex<HashMap<u64, (i64, Waker)>>,
}

#[derive(Clone)]
pub struct Wire(Arc<Loopback>);

impl Remote for Wire {
    fn sender(&self, channel: ChannelId, room: Waker) -> Box<dyn RemoteSender> {
        self.0.credits.lock().insert(channel.pack(), (self.0.window as i64, room));
        Box::new(OneWire { wire: self.clone(), channel })
    }

    fn grant(&self, channel: ChannelId, bytes: u64) {
        let room = {
            let mut credits = self.0.credits.lock();
            let (available, room) = credits.get_mut(&channel.pack()).unwrap();
            *available += bytes as i64;
            room.clone()
        };
        room.wake();
    }
}

struct OneWire {
    wire: Wire,
    channel: ChannelId,
}

impl RemoteSender for OneWire {
    fn send(&mut self, channel: ChannelId, element: Element, cost: usize) -> Result<(), Stopped> {
        let Loopback { inbound, workers, credits, .. } = &*self.wire.0;
        if cost > 0 {
            let mut credits = credits.lock();
            let (available, _) = credits.get_mut(&channel.pack()).unwrap();
            *available -= cost as i64;
            assert!(*available > -(1 << 20), "more is under way than the window and one batch");
        }
        let worker = workers[channel.to as usize];
        assert!(inbound.wait()[worker].deliver(channel, element, cost), "{channel} leads nowhere");
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.wire.0.credits.lock()[&self.channel.pack()].0 <= 0
    }
}

/// A completed checkpoint.
#[derive(Clone, Default)]
pub struct Checkpoint {
    pub id: u64,
    pub finished: bool,
    subtasks: BTreeMap<(StageId, u32), (bool, Option<Timestamp>)>,
    items: BTreeMap<String, Vec<Item>>,
    pub pending: Vec<Value>,
}

/// All workers of one attempt.
pub struct Workers {
    pub attempts: Vec<RunningAttempt>,
    subtasks: usize,
    gathering: BTreeMap<u64, BTreeMap<(StageId, u32), Box<SubtaskSnapshot>>>,
    pub finished: BTreeSet<(StageId, u32)>,
    pub declined: Vec<(u64, String)>,
    pub first_outputs: usize,
    parallelism: u32,
}

pub struct Deployment<'a> {
    pub graph: &'a Arc<JobGraph>,
    /// The subtasks of each worker.
    pub placement: Vec<Range<u32>>,
    pub mode: CheckpointMode,
    pub alignment_timeout: Option<Duration>,
    pub restore: Option<&'a Checkpoint>,
    pub folder: &'a Path,
    pub runtime: &'a tokio::runtime::Runtime,
}

impl Deployment<'_> {
    pub fn start(&self) -> Result<Workers, BuildError> {
        let parallelism = self.placement.last().unwrap().end;
        let workers = self.placement.iter().enumerate().flat_map(|(worker, range)| range.clone().map(move |_| worker));
        let window = weir_engine::seam::channel_window(self.graph, parallelism, BUDGET);
        let wire = Arc::new(Loopback { workers: workers.collect(), window, ..Loopback::default() });
        let attempts = self
            .placement
            .iter()
            .map(|range| self.build(range.clone(), parallelism, &wire))
            .collect::<Result<Vec<_>, _>>()?;
        let _ = wire.inbound.set(attempts.iter().map(RunningAttempt::inbound).collect());
        attempts.iter().for_each(RunningAttempt::run);
        Ok(Workers {
            attempts,
            subtasks: self.graph.stages.len() * parallelism as usize,
            gathering: BTreeMap::new(),
            finished: BTreeSet::new(),
            declined: Vec::new(),
            first_outputs: 0,
            parallelism,
        })
    }

    fn build(&self, range: Range<u32>, parallelism: u32, wire: &Arc<Loopback>) -> Result<RunningAttempt, BuildError> {
        let job = JobName { namespace: "default".into(), name: "test".into() };
        let storage =
            StorageSettings { url: format!("file://{}", self.folder.display()), endpoint: None, region: None };
        RunningAttempt::build(BuildAttempt {
            store: JobStore::open(&storage, &job).unwrap(),
            job,
            owner: weir_engine::OutputOwner::default(),
            attempt: Attempt(1),
            worker: WorkerId::generate(),
            graph: Arc::clone(self.graph),
            restored: self.restored(range.clone(), parallelism),
            subtasks: range.collect(),
            parallelism,
            max_parallelism: MAX_PARALLELISM,
            mode: self.mode,
            alignment_timeout: self.alignment_timeout,
            state_dir: self.folder.join("state"),
            state_backend: "memory".into(),
            state_options: BTreeMap::new(),
            registry: Arc::new(BackendRegistry::with_builtin()),
            state_memory: StateMemory::new(BUDGET),
            remote: Arc::new(Wire(Arc::clone(wire))),
            clock: Arc::new(SystemClock),
            runtime: self.runtime.handle().clone(),
            memory_budget: BUDGET,
            stopped: CancellationToken::new(),
        })
    }

    fn restored(&self, range: Range<u32>, parallelism: u32) -> BTreeMap<(StageId, u32), Restored> {
        let Some(checkpoint) = self.restore else {
            let inputs = Inputs::look(self.graph, parallelism).unwrap();
            let mut dealt = Dealt::default();
            deal_inputs(self.graph, parallelism, &inputs, &Matched::default(), &mut dealt).unwrap();
            return dealt.restored;
        };
        let mut all = BTreeMap::new();
        for stage in &self.graph.stages {
            for subtask in range.clone() {
                let groups = key_group_range(subtask, parallelism, MAX_PARALLELISM);
                let olds: Vec<_> = checkpoint.subtasks.iter().filter(|(key, _)| key.0 == stage.id).collect();
                let watermark = olds.iter().map(|(_, old)| old.1.unwrap_or(i64::MIN)).min().unwrap();
                let mut restored = Restored {
                    finished: olds.iter().all(|(_, old)| old.0),
                    watermarks: RestoredWatermarks::uniform(groups.clone(), watermark),
                    ..Restored::default()
                };
                for (identity, items) in &checkpoint.items {
                    let mine = items.iter().enumerate().filter(|(i, item)| match item.kind {
                        ItemKind::Split => *i as u32 % parallelism == subtask,
                        // The key stands at the end of the item's key, and decides as the exchange does.
                        _ => owner_of(key_of(&item.value), parallelism) == subtask,
                    });
                    restored.items.insert(identity.clone(), mine.map(|(_, item)| item.clone()).collect());
                }
                all.insert((stage.id, subtask), restored);
            }
        }
        all
    }
}

pub const BUDGET: u64 = 64 << 20;

/// Items are `(key, count)` or `((end, key), sum)`.
fn key_of(value: &Value) -> i64 {
    value[0].as_i64().unwrap_or_else(|| value[0][1].as_i64().unwrap())
}

pub fn owner_of(key: i64, parallelism: u32) -> u32 {
    let mut keys = weir_state::Keys::new();
    keys.encode(&[Arc::new(Int64Array::from(vec![key]))], 1).unwrap();
    weir_engine::data::exchange::owner(keys.hash(0), MAX_PARALLELISM, parallelism)
}

impl Workers {
    pub fn trigger(&self, id: u64) {
        self.attempts.iter().for_each(|attempt| attempt.trigger(CheckpointId(id)));
    }

    pub fn stats(&self) -> Vec<AttemptStats> {
        self.attempts.iter().map(RunningAttempt::stats).collect()
    }

    /// Takes reports until `done`; an error is what a subtask failed with.
    pub fn until<T>(&mut self, mut done: impl FnMut(&mut Self) -> Option<T>) -> Result<T, OperatorError> {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(result) = done(self) {
                return Ok(result);
            }
            assert!(Instant::now() < deadline, "waited in vain; finished {:?}", self.finished);
            for i in 0..self.attempts.len() {
                let reports = self.attempts[i].reports();
                while let Ok(report) = reports.recv_timeout(Duration::from_millis(1)) {
                    self.report(report)?;
                }
            }
        }
    }

    fn report(&mut self, report: Report) -> Result<(), OperatorError> {
        match report {
            Report::Frozen { stage, subtask, id, snapshot, .. } => {
                let before = self.gathering.entry(id.0).or_default().insert((stage, subtask), snapshot);
                assert!(before.is_none(), "a subtask froze twice for checkpoint {id}");
            }
            Report::Declined { id, reason, .. } => self.declined.push((id.0, reason)),
            Report::Failed { error, .. } => return Err(error),
            Report::Finished { stage, subtask } => {
                assert!(self.finished.insert((stage, subtask)), "a subtask finished twice");
            }
            Report::FirstOutput { .. } => self.first_outputs += 1,
        }
        Ok(())
    }

    /// The snapshots of a checkpoint, once all subtasks have frozen.
    pub fn complete(&mut self, id: u64) -> Result<Checkpoint, OperatorError> {
        let subtasks = self.subtasks;
        let snapshots = self.until(|workers| {
            let all = workers.gathering.get(&id).is_some_and(|snapshots| snapshots.len() == subtasks);
            all.then(|| workers.gathering.remove(&id).unwrap())
        })?;
        let mut checkpoint = Checkpoint { id, finished: true, ..Checkpoint::default() };
        for (key, snapshot) in snapshots {
            checkpoint.finished &= snapshot.finished;
            checkpoint.subtasks.insert(key, (snapshot.finished, snapshot.event_time.watermark));
            for (operator, items) in snapshot.items {
                checkpoint.items.entry(operator).or_default().extend(items);
            }
            if let Some(prepared) = snapshot.prepared {
                checkpoint.pending.extend((prepared.job)().unwrap());
            }
        }
        Ok(checkpoint)
    }

    pub fn all_finished(&mut self) -> Result<(), OperatorError> {
        let subtasks = self.subtasks;
        self.until(|workers| (workers.finished.len() == subtasks).then_some(()))
    }

    pub fn parallelism(&self) -> u32 {
        self.parallelism
    }

    /// Stops everything; every thread has to end.
    pub fn stop(self) {
        self.attempts.iter().for_each(RunningAttempt::stop);
        for attempt in &self.attempts {
            assert_eq!(attempt.join(SOON), []);
        }
    }
}
