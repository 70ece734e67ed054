//! Runs the graph of a script as the engine does, in one thread: rows in any split into batches, checkpoints, restores and other
//! numbers of subtasks between them, exchanges that deal by key group. What leaves by a sink is collected.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use weir_connectors::{Accepts, ConnectorError, ConnectorFactory, ConnectorRegistry, Filesystem, OptionDoc, TableSpec};
use weir_engine::{
    Batch, Exchange, JobGraph, MAX_WATERMARK, MIN_WATERMARK, RowKind, SinkFactory, SourceFactory, Stage, StageHead,
};
use weir_sql::{Catalog, PlanError, PlanRequest, plan};

use crate::operators::{Snapshot, Subtask, World, lines, route_batch};
use crate::support::{TestSink, TestSource};

/// Remembers the columns of its tables, whose rows a test gives.
#[derive(Default)]
struct Values {
    schemas: Mutex<BTreeMap<String, SchemaRef>>,
}

const OPTIONS: &[OptionDoc] = &[OptionDoc {
    name: "changelog",
    expects: "'retract' or 'upsert'",
    default: Some("retract"),
    about: "How it takes updates.",
}];

impl ConnectorFactory for Values {
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn SourceFactory>, ConnectorError> {
        self.schemas.lock().insert(table.name.clone(), table.projected_schema());
        Ok(Arc::new(TestSource { bounded: true }))
    }

    fn sink(&self, _table: &TableSpec) -> Result<Arc<dyn SinkFactory>, ConnectorError> {
        Ok(Arc::new(TestSink))
    }

    fn accepts(&self, table: &TableSpec) -> Result<Accepts, ConnectorError> {
        let by_key = table.options.get("changelog").is_some_and(|changelog| changelog == "upsert");
        Ok(if by_key { Accepts::Upserts } else { Accepts::Changes })
    }

    fn options(&self) -> &[OptionDoc] {
        OPTIONS
    }
}

/// A planned script, and the columns of the tables that it reads.
pub struct Script {
    pub graph: JobGraph,
    schemas: BTreeMap<String, SchemaRef>,
}

/// Plans a script over tables of the connector `values`.
pub fn script(text: &str) -> Result<Script, PlanError> {
    let values = Arc::new(Values::default());
    let mut connectors = ConnectorRegistry::new();
    connectors.register("values", Arc::clone(&values) as Arc<dyn ConnectorFactory>);
    connectors.register("filesystem", Arc::new(Filesystem));
    let request = PlanRequest { script: text.to_string(), base_dir: ".".to_string(), max_parallelism: 128 };
    let graph = plan(&request, &Catalog::new(connectors))?;
    let schemas = std::mem::take(&mut *values.schemas.lock());
    Ok(Script { graph, schemas })
}

/// Rows of a table as texts.
pub type Texts = Vec<Vec<Option<String>>>;

/// How a script is run.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub seed: u64,
    pub pieces: Pieces,
}

/// How rows come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pieces {
    /// All rows of a table as one batch, to one subtask, which nothing disturbs.
    Whole,
    /// One by one, to one subtask, with checkpoints and restores between them: their order is that of the table all the way.
    InOrder,
    /// A few together, with checkpoints, restores and other numbers of subtasks between them.
    Few,
}

/// Operators by stage, place in the stage, and subtask.
type Tasks = Vec<Vec<Vec<Subtask>>>;

struct Run<'s> {
    script: &'s Script,
    way: Way,
    random: StdRng,
    world: World,
    parallelism: u32,
    tasks: Tasks,
    /// By source.
    watermarks: BTreeMap<usize, i64>,
    watermark: i64,
    out: BTreeMap<String, Vec<(RowKind, Vec<String>)>>,
}

/// What each sink is given, in order.
pub fn run(script: &Script, rows: &BTreeMap<String, Texts>, way: Way) -> BTreeMap<String, Vec<(RowKind, Vec<String>)>> {
    let mut run = Run {
        script,
        way,
        random: StdRng::seed_from_u64(way.seed),
        world: World::with_backend("memory"),
        parallelism: 1,
        tasks: Vec::new(),
        watermarks: BTreeMap::new(),
        watermark: MIN_WATERMARK,
        out: BTreeMap::new(),
    };
    run.start(1, &[]);
    run.rows(rows);
    run.end();
    run.out
}

impl Run<'_> {
    fn stages(&self) -> usize {
        self.script.graph.stages.len()
    }

    fn start(&mut self, parallelism: u32, restore: &[Vec<Vec<Snapshot>>]) {
        self.parallelism = parallelism;
        self.tasks.clear();
        for (s, stage) in self.script.graph.stages.iter().enumerate() {
            let mut chain = Vec::new();
            for (o, operator) in stage.operators.iter().enumerate() {
                let restore = restore.get(s).map_or(&[][..], |stage| &stage[o]);
                chain.push(self.world.start(operator.factory.as_ref(), parallelism, restore));
            }
            self.tasks.push(chain);
        }
        self.deliver();
    }

    /// All sources, in turns.
    fn rows(&mut self, rows: &BTreeMap<String, Texts>) {
        let mut left: Vec<(usize, RecordBatch)> = Vec::new();
        for (s, stage) in self.script.graph.stages.iter().enumerate() {
            if let StageHead::Source(source) = &stage.head {
                let schema = &self.script.schemas[&source.name];
                self.watermarks.insert(s, MIN_WATERMARK);
                left.push((s, record(schema, &rows[&source.name])));
            }
        }
        let mut next = 0;
        while !left.is_empty() {
            next %= left.len();
            let (s, rows) = left[next].clone();
            let length = match self.way.pieces {
                Pieces::Whole => rows.num_rows(),
                Pieces::InOrder => 1,
                Pieces::Few => self.random.random_range(1..=4),
            };
            self.read(s, &rows.slice(0, length.min(rows.num_rows())));
            let rest = rows.slice(length.min(rows.num_rows()), rows.num_rows().saturating_sub(length));
            if rest.num_rows() == 0 {
                left.remove(next);
                self.watermarks.insert(s, MAX_WATERMARK);
            } else {
                left[next].1 = rest;
                next += 1;
            }
            self.between();
        }
    }

    fn read(&mut self, s: usize, rows: &RecordBatch) {
        let script = self.script;
        let StageHead::Source(source) = &script.graph.stages[s].head else { panic!("no source") };
        let rows = source.prepare.as_ref().map_or_else(|| rows.clone(), |prepare| prepare.apply(rows.clone()).unwrap());
        let watermark = source.watermark.as_ref().and_then(|watermark| watermark.watermark(&rows).unwrap());
        self.through(s, 0, 0, 0, Batch::inserts(rows));
        if let Some(watermark) = watermark {
            let known = self.watermarks.entry(s).or_insert(MIN_WATERMARK);
            *known = watermark.max(*known);
        }
        let all = self.watermarks.values().copied().min().unwrap_or(MAX_WATERMARK);
        // The end is told by its own call.
        if all > self.watermark && all != MAX_WATERMARK {
            self.advance(all);
        }
    }

    fn advance(&mut self, watermark: i64) {
        self.watermark = watermark;
        for s in 0..self.stages() {
            for o in 0..self.tasks[s].len() {
                for subtask in &mut self.tasks[s][o] {
                    subtask.watermark(watermark);
                }
                self.deliver();
            }
        }
    }

    fn end(&mut self) {
        for s in 0..self.stages() {
            for o in 0..self.tasks[s].len() {
                for subtask in &mut self.tasks[s][o] {
                    subtask.end();
                }
                self.deliver();
            }
        }
    }

    /// A batch into an operator of a chain, or out of it.
    fn through(&mut self, s: usize, o: usize, input: usize, subtask: u32, batch: Batch) {
        if batch.is_empty() {
            return;
        }
        if o < self.tasks[s].len() {
            self.tasks[s][o][subtask as usize].try_input(input, batch).unwrap();
            self.deliver();
            return;
        }
        if let Some(sink) = &self.script.graph.stages[s].sink {
            self.out.entry(sink.name.clone()).or_default().extend(lines(&batch));
        }
        let script = self.script;
        for to in &script.graph.stages {
            for (input, edge) in to.inputs().iter().enumerate().filter(|(_, edge)| edge.from.0 as usize == s) {
                self.send(to, input, &edge.exchange, subtask, &batch);
            }
        }
    }

    fn send(&mut self, to: &Stage, input: usize, exchange: &Exchange, from: u32, batch: &Batch) {
        let s = to.id.0 as usize;
        match exchange {
            Exchange::Forward => self.through(s, 0, input, from, batch.clone()),
            Exchange::Single => self.through(s, 0, input, 0, batch.clone()),
            Exchange::Rebalance => {
                let subtask = self.random.random_range(0..self.parallelism);
                self.through(s, 0, input, subtask, batch.clone());
            }
            Exchange::Broadcast => (0..self.parallelism).for_each(|to| self.through(s, 0, input, to, batch.clone())),
            Exchange::Hash { keys } => {
                for (subtask, part) in (0..).zip(route_batch(batch, keys, self.parallelism)) {
                    self.through(s, 0, input, subtask, part);
                }
            }
        }
    }

    /// Hands on what was put out.
    fn deliver(&mut self) {
        for s in 0..self.tasks.len() {
            for o in 0..self.tasks[s].len() {
                for subtask in 0..self.tasks[s][o].len() {
                    for batch in self.tasks[s][o][subtask].take() {
                        self.through(s, o + 1, 0, subtask as u32, batch);
                    }
                }
            }
        }
    }

    fn checkpoint(&mut self) -> Vec<Vec<Vec<Snapshot>>> {
        let mut all = Vec::new();
        for s in 0..self.stages() {
            let mut chain = Vec::new();
            for o in 0..self.tasks[s].len() {
                chain.push(self.world.checkpoint(&mut self.tasks[s][o]));
                self.deliver();
            }
            all.push(chain);
        }
        all
    }

    fn between(&mut self) {
        let most = match self.way.pieces {
            Pieces::Whole => return,
            Pieces::InOrder => 1,
            Pieces::Few => 3,
        };
        match self.random.random_range(0..10) {
            0 => drop(self.checkpoint()),
            1 => {
                let snapshots = self.checkpoint();
                let parallelism = self.random.random_range(1..=most);
                self.start(parallelism, &snapshots);
            }
            _ => {}
        }
    }
}

/// Texts as columns of these types.
fn record(schema: &SchemaRef, rows: &Texts) -> RecordBatch {
    let columns = schema.fields().iter().enumerate().map(|(c, field)| {
        let texts: ArrayRef = Arc::new(rows.iter().map(|row| row[c].as_deref()).collect::<StringArray>());
        let column = cast(&texts, field.data_type()).unwrap();
        assert_eq!(column.null_count(), texts.null_count(), "column {} of {rows:?}", field.name());
        column
    });
    RecordBatch::try_new(Arc::clone(schema), columns.collect()).unwrap()
}

/// What a changelog comes to. A row that is taken back must be there.
pub fn table(changes: &[(RowKind, Vec<String>)]) -> BTreeMap<Vec<String>, i64> {
    let mut table: BTreeMap<Vec<String>, i64> = BTreeMap::new();
    for (kind, row) in changes {
        let count = table.entry(row.clone()).or_default();
        *count += if kind.is_addition() { 1 } else { -1 };
        assert!(*count >= 0, "{} of {row:?}, which is not there: {changes:?}", kind.short());
        if *count == 0 {
            table.remove(row);
        }
    }
    table
}
/// The same, of a sink that is written by these columns.
pub fn table_by_key(changes: &[(RowKind, Vec<String>)], key: &[usize]) -> BTreeMap<Vec<String>, i64> {
    let mut rows: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
    for (kind, row) in changes {
        let key: Vec<String> = key.iter().map(|&column| row[column].clone()).collect();
        if kind.is_addition() {
            rows.insert(key, row.clone());
        } else {
            rows.remove(&key);
        }
    }
    rows.into_values().map(|row| (row, 1)).collect()
}
