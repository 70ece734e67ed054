//! Runs an operator as the engine does, on the memory backend, with checkpoints and restores, and models of tables.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod torture;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tempfile::TempDir;
use weir_engine::{
    Batch, Counters, MAX_WATERMARK, MIN_WATERMARK, ManualClock, Operator, OperatorContext, OperatorError,
    OperatorFactory, OperatorSnapshot, Output, Progress, RestoredWatermarks, RowKind,
};
use weir_protocol::part::KeyedSnapshot;
use weir_protocol::{Attempt, CheckpointId, WorkerId};
use weir_state::{
    BackendRegistry, Keys, OpenState, Persist, StateMemory, SubtaskState, Uploader, key_group, key_group_range,
    subtask_of,
};
use weir_storage::JobStore;

pub const KEY_GROUPS: u32 = 16;

/// All rows that an operator has put out. It is always full: an operator stops after each piece, and has to be resumed.
#[derive(Default)]
pub struct Collected(pub Vec<Batch>);

impl Output for Collected {
    fn emit(&mut self, batch: Batch) -> Result<(), OperatorError> {
        if !batch.is_empty() {
            self.0.push(batch);
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        true
    }
}

/// What all subtasks share.
pub struct World {
    runtime: tokio::runtime::Runtime,
    folder: TempDir,
    store: JobStore,
    memory: StateMemory,
    registry: Arc<BackendRegistry>,
    uploader: Arc<Uploader>,
    pub clock: Arc<ManualClock>,
    next_id: u64,
    next_folder: u64,
    backend: String,
}

/// What one subtask gave to a checkpoint.
#[derive(Clone)]
pub struct Snapshot {
    pub keyed: KeyedSnapshot,
    pub floors: Vec<(u32, i64)>,
}

/// One subtask.
pub struct Subtask {
    operator: Box<dyn Operator>,
    state: SubtaskState,
    pub out: Collected,
    pub counters: Arc<Counters>,
    pub watermark: i64,
    floors: RestoredWatermarks,
    base: Option<KeyedSnapshot>,
}

impl World {
    pub fn new() -> Self {
        Self::with_backend("memory")
    }

    pub fn with_backend(backend: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let store = JobStore::with_object_store(Arc::new(object_store::memory::InMemory::new()), "job");
        let uploader =
            Arc::new(Uploader::new(store.clone(), runtime.handle().clone(), Attempt(1), WorkerId::generate()));
        Self {
            folder: TempDir::new().unwrap(),
            store,
            memory: StateMemory::new(1 << 30),
            registry: Arc::new(BackendRegistry::with_builtin()),
            uploader,
            clock: Arc::new(ManualClock::at(0)),
            next_id: 1,
            next_folder: 0,
            runtime,
            backend: backend.to_owned(),
        }
    }

    /// Subtasks of an operator, new or restored.
    pub fn start(&mut self, factory: &dyn OperatorFactory, parallelism: u32, restore: &[Snapshot]) -> Vec<Subtask> {
        (0..parallelism).map(|subtask| self.start_one(factory, subtask, parallelism, restore)).collect()
    }

    fn start_one(
        &mut self,
        factory: &dyn OperatorFactory,
        subtask: u32,
        parallelism: u32,
        restore: &[Snapshot],
    ) -> Subtask {
        let range = key_group_range(subtask, parallelism, KEY_GROUPS);
        let overlapping: Vec<&Snapshot> = restore
            .iter()
            .filter(|s| s.keyed.key_group_start < range.end && range.start < s.keyed.key_group_end)
            .collect();
        self.next_folder += 1;
        let state = SubtaskState::open(OpenState {
            dir: self.folder.path().join(self.next_folder.to_string()),
            backend: self.backend.clone(),
            options: BTreeMap::new(),
            registry: self.registry.clone(),
            memory: self.memory.clone(),
            subtask,
            parallelism,
            max_parallelism: KEY_GROUPS,
            restore: overlapping.iter().map(|s| s.keyed.clone()).collect(),
            store: self.store.clone(),
            runtime: self.runtime.handle().clone(),
            local_snapshot: None,
            stopped: tokio_util::sync::CancellationToken::new(),
        })
        .unwrap();
        let floors: Vec<i64> = range
            .clone()
            .map(|kg| {
                let of = overlapping.iter().flat_map(|s| &s.floors).find(|(of, _)| *of == kg);
                of.map_or(MIN_WATERMARK, |(_, floor)| *floor)
            })
            .collect();
        let floors = RestoredWatermarks::new(range.start, floors);
        let counters = Arc::new(Counters::default());
        let operator = factory
            .create(&OperatorContext {
                subtask,
                parallelism,
                max_parallelism: KEY_GROUPS,
                identity: "operator".to_owned(),
                state: state.clone(),
                items: Vec::new(),
                restored_watermarks: floors.clone(),
                counters: counters.clone(),
                clock: self.clock.clone(),
                runtime: self.runtime.handle().clone(),
                cache_bytes: 1 << 20,
            })
            .unwrap();
        state.check_opened("operator", &factory.tables()).unwrap();
        let mut subtask = Subtask {
            operator,
            state,
            out: Collected::default(),
            counters,
            watermark: MIN_WATERMARK,
            floors: floors.clone(),
            base: None,
        };
        if floors.lowest() != MIN_WATERMARK {
            subtask.watermark(floors.lowest());
        }
        subtask
    }

    pub fn checkpoint(&mut self, subtasks: &mut [Subtask]) -> Vec<Snapshot> {
        let id = CheckpointId(self.next_id);
        self.next_id += 1;
        subtasks.iter_mut().map(|s| s.checkpoint(id, &self.uploader)).collect()
    }
}

impl Subtask {
    pub fn process(&mut self, rows: RecordBatch) {
        self.try_process(Batch::inserts(rows)).unwrap();
    }

    pub fn try_process(&mut self, batch: Batch) -> Result<(), OperatorError> {
        self.try_input(0, batch)
    }

    /// Rows of one of several inputs.
    pub fn try_input(&mut self, input: usize, batch: Batch) -> Result<(), OperatorError> {
        let mut progress = self.operator.process(input, batch, &mut self.out)?;
        while progress == Progress::More {
            let before = self.out.0.len();
            progress = self.operator.resume(&mut self.out)?;
            assert!(self.out.0.len() <= before + 1, "more than a piece into an output that is full");
        }
        Ok(())
    }

    /// One call; whether it has to be repeated.
    pub fn watermark_once(&mut self, watermark: i64) -> bool {
        self.watermark = watermark;
        self.operator.on_watermark(watermark, &mut self.out).unwrap() == Progress::More
    }

    pub fn watermark(&mut self, watermark: i64) {
        while self.watermark_once(watermark) {}
    }

    pub fn try_watermark(&mut self, watermark: i64) -> Result<(), OperatorError> {
        self.watermark = watermark;
        while self.operator.on_watermark(watermark, &mut self.out)? == Progress::More {}
        Ok(())
    }

    /// Fires timers up to this time.
    pub fn timers(&mut self, now: i64) {
        while self.operator.next_timer().is_some_and(|t| t <= now) {
            while self.operator.on_timer(now, &mut self.out).unwrap() == Progress::More {}
        }
    }

    pub fn next_timer(&self) -> Option<i64> {
        self.operator.next_timer()
    }

    pub fn end(&mut self) {
        self.try_end().unwrap();
    }

    pub fn try_end(&mut self) -> Result<(), OperatorError> {
        self.watermark = MAX_WATERMARK;
        while self.operator.on_watermark(MAX_WATERMARK, &mut self.out)? == Progress::More {}
        while self.operator.end_of_input(&mut self.out)? == Progress::More {}
        Ok(())
    }

    fn checkpoint(&mut self, id: CheckpointId, uploader: &Arc<Uploader>) -> Snapshot {
        self.operator.before_barrier(&mut self.out).unwrap();
        let mut snapshot = OperatorSnapshot::default();
        self.operator.freeze(&mut snapshot).unwrap();
        let persist = Persist { id, base: self.base.clone(), uploader: uploader.clone() };
        let (keyed, _) = self.state.persist(snapshot.frozen, &persist).unwrap();
        self.base = Some(keyed.clone());
        let floors = self.state.key_groups().map(|kg| (kg, self.floors.of(kg).max(self.watermark))).collect();
        Snapshot { keyed, floors }
    }

    pub fn take(&mut self) -> Vec<Batch> {
        std::mem::take(&mut self.out.0)
    }
}

/// The rows of each subtask, as a hash exchange on these columns deals them.
pub fn route(rows: &RecordBatch, keys: &[usize], parallelism: u32) -> Vec<RecordBatch> {
    let columns: Vec<ArrayRef> = keys.iter().map(|&k| rows.column(k).clone()).collect();
    let mut encoded = Keys::new();
    encoded.encode(&columns, rows.num_rows()).unwrap();
    (0..parallelism)
        .map(|subtask| {
            let mine: BooleanArray = (0..rows.num_rows())
                .map(|i| Some(subtask_of(key_group(encoded.hash(i), KEY_GROUPS), KEY_GROUPS, parallelism) == subtask))
                .collect();
            arrow::compute::filter_record_batch(rows, &mine).unwrap()
        })
        .collect()
}

/// The same with the rows' kinds.
pub fn route_batch(batch: &Batch, keys: &[usize], parallelism: u32) -> Vec<Batch> {
    let Some(kinds) = &batch.kinds else {
        return route(&batch.rows, keys, parallelism).into_iter().map(Batch::inserts).collect();
    };
    // The kind goes along as a column.
    let mut columns = batch.rows.columns().to_vec();
    let mut fields: Vec<Field> = batch.rows.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    columns.push(ints(kinds.iter().map(|kind| Some(*kind as i64))));
    fields.push(Field::new("$kind", DataType::Int64, false));
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let parts = route(&rows, keys, parallelism);
    let last = rows.num_columns() - 1;
    let part = |mut rows: RecordBatch| {
        let kinds = rows.remove_column(last);
        let kinds = kinds.as_primitive::<arrow::datatypes::Int64Type>().values();
        let kinds = kinds.iter().map(|kind| RowKind::from_u8(*kind as u8).unwrap()).collect();
        Batch::with_kinds(rows.with_schema(batch.schema()).unwrap(), kinds)
    };
    parts.into_iter().map(part).collect()
}

/// A row as text, a cell a string; null is `-`.
pub fn lines(batch: &Batch) -> Vec<(RowKind, Vec<String>)> {
    let options = FormatOptions::default().with_null("-");
    let columns: Vec<ArrayFormatter<'_>> =
        batch.rows.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap()).collect();
    (0..batch.len()).map(|i| (batch.kind(i), columns.iter().map(|c| c.value(i).to_string()).collect())).collect()
}

/// All rows as `+I a b c`.
pub fn text(batches: &[Batch]) -> Vec<String> {
    batches.iter().flat_map(lines).map(|(kind, cells)| format!("{} {}", kind.short(), cells.join(" "))).collect()
}

/// A table by its first columns, from its changes. Panics where a change does not fit.
pub fn apply(table: &mut BTreeMap<Vec<String>, Vec<String>>, batches: &[Batch], keys: &[usize]) {
    for (kind, cells) in batches.iter().flat_map(lines) {
        let key: Vec<String> = keys.iter().map(|&k| cells[k].clone()).collect();
        match kind {
            RowKind::Insert => assert_eq!(table.insert(key, cells), None, "+I of a row that is there"),
            RowKind::UpdateBefore => assert_eq!(table.get(&key), Some(&cells), "-U of a row that is not there"),
            RowKind::UpdateAfter => assert!(table.insert(key, cells).is_some(), "+U of a row that is not there"),
            RowKind::Delete => assert_eq!(table.remove(&key), Some(cells), "-D of a row that is not there"),
        }
    }
}

pub fn schema(fields: &[(&str, DataType, bool)]) -> SchemaRef {
    Arc::new(Schema::new(fields.iter().map(|(n, t, null)| Field::new(*n, t.clone(), *null)).collect::<Vec<_>>()))
}

pub fn ints(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Int64Array>())
}

pub fn strings<S: AsRef<str>>(values: impl IntoIterator<Item = Option<S>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<StringArray>())
}

pub fn floats(values: impl IntoIterator<Item = Option<f64>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Float64Array>())
}

pub fn bools(values: impl IntoIterator<Item = Option<bool>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<BooleanArray>())
}

pub fn times(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from(values.into_iter().collect::<Vec<_>>()))
}

pub fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, None)
}

/// Column `c` of all batches as numbers, times in milliseconds.
pub fn column_i64(batches: &[Batch], c: usize) -> Vec<i64> {
    batches
        .iter()
        .flat_map(|b| {
            let column = arrow::compute::cast(b.rows.column(c), &DataType::Int64).unwrap();
            column.as_primitive::<arrow::datatypes::Int64Type>().values().to_vec()
        })
        .collect()
}
