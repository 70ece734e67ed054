//! A job for tests of the control plane: splits of numbered rows, counted by key, into a sink in memory.
//!
//! Every row gives one output row with its key and how often the key has come. So the output shows by itself whether a row was
//! lost or counted twice: each key's counts are 1, 2, 3 … without a gap or a repeat.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, RecordBatch},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use weir_protocol::{
    CheckpointId,
    settings::{FailureKind, PlanRequest},
};
use weir_runtime::clock;
use weir_state::{Keys, RowLayout, Slot, Table, TableKind, TableShape};

use crate::{
    Batch, CommitContext, Committer, Edge, Exchange, JobGraph, Kin, Operator, OperatorContext, OperatorError,
    OperatorFactory, OperatorNode, OperatorSnapshot, Output, PrepareJob, Progress, Sink, SinkContext, SinkError,
    SinkFactory, SinkNode, Source, SourceContext, SourceError, SourceFactory, SourceNode, SourcePoll, Stage, StageHead,
    StageId, StateNote,
    deploy::{PlanFailure, Planner, PlannerFailed},
};

const KEYS: i64 = 17;
const ROWS_A_POLL: i64 = 50;

/// The fingerprint of every test plan.
pub const FINGERPRINT: &str = "counting";

/// A graph of so many splits with so many rows each, whose output nobody sees.
pub fn counting_graph(splits: u32, rows: i64) -> JobGraph {
    CountingJob { splits, rows, ..CountingJob::default() }.graph()
}

/// The job.
#[derive(Clone, Default)]
pub struct CountingJob {
    pub splits: u32,
    /// A split.
    pub rows: i64,
    /// Between two polls of a source.
    pub pace: Duration,
    pub output: Arc<TestOutput>,
    /// How often it was asked for its splits: their order is another each time, as that of a folder into which files come.
    pub looked: Arc<AtomicU32>,
}

impl CountingJob {
    fn graph(&self) -> JobGraph {
        let schema = numbers(&["key", "number"]);
        let source = SourceNode {
            identity: "source".into(),
            kin: Kin::default(),
            name: "source".into(),
            source: Arc::new(self.clone()),
            prepare: None,
            watermark: None,
            schema: Arc::clone(&schema),
            idle_timeout: None,
        };
        let count = OperatorNode {
            identity: "count".into(),
            kin: Kin::default(),
            name: "count".into(),
            factory: Arc::new(CountFactory),
            state: Some(StateNote { bounded_by: Some("the keys of the test".into()) }),
            output: numbers(&["key", "count"]),
        };
        let sink = SinkNode {
            identity: "sink".into(),
            kin: Kin::default(),
            name: "sink".into(),
            sink: Arc::new(OutputRef(Arc::clone(&self.output))),
            input: numbers(&["key", "count"]),
        };
        let edge = Edge { from: StageId(0), exchange: Exchange::Hash { keys: vec![0] }, schema };
        let stage = |id, name: &str, head, operators: Vec<OperatorNode>, sink: Option<SinkNode>| Stage {
            id: StageId(id),
            identity: name.into(),
            aliases: Vec::new(),
            name: name.into(),
            head,
            stateful: !operators.is_empty(),
            operators,
            changelog: Vec::new(),
            sink,
        };
        JobGraph {
            stages: vec![
                stage(0, "reading", StageHead::Source(source), Vec::new(), None),
                stage(1, "counting", StageHead::Inputs(vec![edge]), vec![count], Some(sink)),
            ],
            fingerprint: FINGERPRINT.into(),
            warnings: Vec::new(),
            script: String::new(),
            apart: None,
        }
    }

    /// Each key's counts without a gap or a repeat.
    pub fn assert_exact(&self) {
        let published = self.output.published.lock();
        let mut counts: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for (key, count) in published.values().flatten() {
            counts.entry(*key).or_default().push(*count);
        }
        for (key, counts) in &mut counts {
            counts.sort_unstable();
            let expected: Vec<i64> = (1..=counts.len() as i64).collect();
            assert_eq!(*counts, expected, "key {key}");
        }
        let all: usize = counts.values().map(Vec::len).sum();
        assert_eq!(all as i64, i64::from(self.splits) * self.rows);
    }
}

impl Planner for CountingJob {
    fn plan(&self, request: &PlanRequest) -> Result<JobGraph, PlanFailure> {
        if request.script == "nonsense" {
            return Err(PlanFailure { message: "line 1, column 1: nonsense".into() });
        }
        let mut graph = self.graph();
        if request.script == "another operator" {
            graph.stages[1].operators[0].identity = "count by carrier".into();
        }
        if request.script == "another sink"
            && let Some(sink) = &mut graph.stages[1].sink
        {
            sink.identity = "elsewhere".into();
        }
        Ok(graph)
    }

    fn describe(&self, request: &[u8]) -> Result<Vec<u8>, PlannerFailed> {
        let request: PlanRequest = serde_json::from_slice(request).unwrap();
        if request.script == "crash" {
            return Err(PlannerFailed { message: "planning ended with signal 6".into() });
        }
        assert_ne!(request.script, "panic", "a planner that panics");
        Ok(match self.plan(&request) {
            Ok(graph) => serde_json::json!({"fingerprint": graph.fingerprint}).to_string().into(),
            Err(error) => serde_json::json!({"errors": [{"message": error.message}]}).to_string().into(),
        })
    }
}

fn numbers(columns: &[&str]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(|name| Field::new(*name, DataType::Int64, false)).collect::<Vec<_>>()))
}

fn pairs(schema: SchemaRef, rows: &[(i64, i64)]) -> RecordBatch {
    let first: ArrayRef = Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>());
    let second: ArrayRef = Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>());
    RecordBatch::try_new(schema, vec![first, second]).unwrap()
}

fn read_pairs(batch: &Batch) -> Vec<(i64, i64)> {
    let column = |i: usize| batch.rows.column(i).as_primitive::<Int64Type>().values().to_vec();
    column(0).into_iter().zip(column(1)).collect()
}

impl SourceFactory for CountingJob {
    fn splits(&self, _parallelism: u32) -> Result<Vec<Value>, SourceError> {
        let looked = self.looked.fetch_add(1, Ordering::Relaxed);
        Ok((0..self.splits).map(|i| json!({"split": (i + looked) % self.splits, "next": 0})).collect())
    }

    fn create(&self, ctx: &SourceContext) -> Result<Box<dyn Source>, SourceError> {
        let position = |split: &Value| (split["split"].as_i64().unwrap(), split["next"].as_i64().unwrap());
        Ok(Box::new(Numbers {
            splits: ctx.splits.iter().map(position).collect(),
            told: BTreeSet::new(),
            turn: 0,
            rows: self.rows,
            pace: self.pace,
            due: clock::now(),
        }))
    }

    fn bounded(&self) -> bool {
        true
    }
}

struct Numbers {
    /// Number of the split and its next row.
    splits: Vec<(i64, i64)>,
    told: BTreeSet<usize>,
    turn: usize,
    rows: i64,
    pace: Duration,
    due: Instant,
}

impl Source for Numbers {
    fn poll(&mut self, _max_rows: usize) -> Result<SourcePoll, SourceError> {
        if let Some(finished) =
            (0..self.splits.len()).find(|i| self.splits[*i].1 >= self.rows && !self.told.contains(i))
        {
            self.told.insert(finished);
            return Ok(SourcePoll::SplitFinished(finished));
        }
        if self.told.len() == self.splits.len() {
            return Ok(SourcePoll::End);
        }
        if clock::now() < self.due {
            return Ok(SourcePoll::Pending { until: Some(self.due) });
        }
        self.due = clock::now() + self.pace;
        loop {
            self.turn = (self.turn + 1) % self.splits.len();
            let (split, next) = &mut self.splits[self.turn];
            if *next < self.rows {
                let end = (*next + ROWS_A_POLL).min(self.rows);
                let rows: Vec<_> = (*next..end).map(|row| ((row + *split) % KEYS, row)).collect();
                *next = end;
                return Ok(SourcePoll::Rows { split: self.turn, rows: pairs(numbers(&["key", "number"]), &rows) });
            }
        }
    }

    fn snapshot(&mut self) -> Result<Vec<Value>, SourceError> {
        Ok(self.splits.iter().map(|(split, next)| json!({"split": split, "next": next})).collect())
    }
}

struct CountFactory;

impl OperatorFactory for CountFactory {
    fn create(&self, ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        let counts = ctx.state.table(&ctx.identity, "counts", RowLayout::Fixed(8))?;
        Ok(Box::new(Count { counts, keys: Keys::new(), slots: Vec::new(), created: Vec::new() }))
    }

    fn tables(&self) -> Vec<TableShape> {
        vec![TableShape {
            name: "counts".into(),
            kind: TableKind::Table,
            key: vec!["BIGINT".into()],
            row: vec!["COUNT".into()],
            layout: RowLayout::Fixed(8),
            codec: "count/1",
        }]
    }
}

struct Count {
    counts: Table,
    keys: Keys,
    slots: Vec<Slot>,
    created: Vec<Slot>,
}

impl Operator for Count {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        self.keys.encode(&batch.rows.columns()[..1], batch.len())?;
        self.counts.upsert(&self.keys, &mut self.slots, &mut self.created)?;
        let mut counted = Vec::with_capacity(batch.len());
        for ((key, _), slot) in read_pairs(&batch).into_iter().zip(&self.slots) {
            let row = self.counts.row_mut(*slot);
            let count = i64::from_le_bytes(row.try_into().unwrap()) + 1;
            row.copy_from_slice(&count.to_le_bytes());
            counted.push((key, count));
        }
        out.emit(Batch::inserts(pairs(numbers(&["key", "count"]), &counted)))?;
        Ok(Progress::Done)
    }

    fn freeze(&mut self, snapshot: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        snapshot.frozen.extend(self.counts.freeze());
        Ok(())
    }
}

type Rows = Vec<(i64, i64)>;

/// What stands in for a folder: transactions that were cut, and those that were published.
#[derive(Default)]
pub struct TestOutput {
    pub unfinished: Mutex<BTreeMap<String, Rows>>,
    pub published: Mutex<BTreeMap<String, Rows>>,
    /// It does not answer: no transaction is finished.
    pub away: AtomicBool,
    /// Its committer has a fault.
    pub panics: AtomicBool,
    /// No transaction can be published for now.
    pub read_only: AtomicBool,
}

/// The output as a sink's factory and as its committer.
struct OutputRef(Arc<TestOutput>);

impl SinkFactory for OutputRef {
    fn create(&self, ctx: &SinkContext) -> Result<Box<dyn Sink>, SinkError> {
        let name = format!("{}-{}-{}", ctx.attempt, ctx.worker, ctx.subtask);
        Ok(Box::new(TestSink { output: Arc::clone(&self.0), name, rows: Vec::new() }))
    }

    fn committer(&self, _ctx: &CommitContext) -> Result<Arc<dyn Committer>, SinkError> {
        Ok(Arc::new(Self(Arc::clone(&self.0))))
    }
}

struct TestSink {
    output: Arc<TestOutput>,
    name: String,
    rows: Rows,
}

impl Sink for TestSink {
    fn write(&mut self, batch: Batch) -> Result<(), SinkError> {
        self.rows.extend(read_pairs(&batch));
        Ok(())
    }

    fn prepare(&mut self, id: CheckpointId) -> Result<PrepareJob, SinkError> {
        let (rows, name) = (std::mem::take(&mut self.rows), format!("{}-{id}", self.name));
        let output = Arc::clone(&self.output);
        Ok(Box::new(move || {
            while output.away.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
            if rows.is_empty() {
                return Ok(Vec::new());
            }
            output.unfinished.lock().insert(name.clone(), rows);
            Ok(vec![json!(name)])
        }))
    }
}

#[async_trait::async_trait]
impl Committer for OutputRef {
    async fn commit(&self, pending: &[Value]) -> Result<(), SinkError> {
        assert!(!self.0.panics.load(Ordering::Relaxed), "the cat sat on it");
        if self.0.read_only.load(Ordering::Relaxed) {
            return Err(SinkError::io("it is read-only"));
        }
        for name in pending.iter().filter_map(Value::as_str) {
            let rows = self.0.unfinished.lock().remove(name);
            if let Some(rows) = rows {
                self.0.published.lock().insert(name.to_string(), rows);
            } else if !self.0.published.lock().contains_key(name) {
                return Err(SinkError::new(FailureKind::OutputLost, format!("{name} is gone")));
            }
        }
        Ok(())
    }

    async fn clean(&self, keep: &[Value]) -> Result<(), SinkError> {
        let keep: BTreeSet<&str> = keep.iter().filter_map(Value::as_str).collect();
        self.0.unfinished.lock().retain(|name, _| keep.contains(name.as_str()));
        Ok(())
    }

    fn understands(&self, pending: &Value) -> bool {
        pending.is_string()
    }
}
