//! The lookup join against a model that goes through the pairs one by one, in any batch split, with checkpoints, restores, other numbers
//! of subtasks and lost work between any two steps; and a table that is read again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion_expr::Operator as BinaryOperator;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, Column};
use proptest::prelude::*;
use weir_engine::api::lookup::{FullTable, Reload};
use weir_engine::{
    Batch, BatchFn, OperatorError, PIECE_ROWS, Source, SourceContext, SourceError, SourceFactory, SourcePoll, Waker,
};
use weir_operators::{JoinInput, JoinKind, LookupJoin, LookupJoinSpec};

use crate::support::torture::{Deal, Event, Stage, Torture, bag, seeds, ways};
use crate::support::{World, ints, lines, schema, text};

/// Key and value.
type Row = (Option<i64>, i64);

fn input() -> SchemaRef {
    schema(&[("k", DataType::Int64, true), ("v", DataType::Int64, false)])
}

fn record(rows: &[Row]) -> RecordBatch {
    let columns = vec![ints(rows.iter().map(|row| row.0)), ints(rows.iter().map(|row| Some(row.1)))];
    RecordBatch::try_new(input(), columns).unwrap()
}

/// A table that is another each time that it is read, and in the end the last or one that cannot be read.
struct Versions {
    all: Vec<RecordBatch>,
    breaks: bool,
    reads: AtomicUsize,
}

impl SourceFactory for Versions {
    fn splits(&self, _parallelism: u32) -> Result<Vec<serde_json::Value>, SourceError> {
        Ok(vec![serde_json::Value::Null])
    }

    fn create(&self, ctx: &SourceContext) -> Result<Box<dyn Source>, SourceError> {
        let read = self.reads.fetch_add(1, Ordering::SeqCst);
        if self.breaks && read >= self.all.len() {
            return Err(SourceError::io("the disk is gone"));
        }
        let rows = self.all[read.min(self.all.len() - 1)].clone();
        Ok(Box::new(Reader { left: rows, waited: false, waker: ctx.waker.clone() }))
    }

    fn bounded(&self) -> bool {
        true
    }
}

/// Gives its rows three at a time, with a pause before them.
struct Reader {
    left: RecordBatch,
    waited: bool,
    waker: Waker,
}

impl Source for Reader {
    fn poll(&mut self, _max_rows: usize) -> Result<SourcePoll, SourceError> {
        if !std::mem::replace(&mut self.waited, true) {
            self.waker.wake();
            return Ok(SourcePoll::Pending { until: None });
        }
        let rows = self.left.slice(0, self.left.num_rows().min(3));
        self.left = self.left.slice(rows.num_rows(), self.left.num_rows() - rows.num_rows());
        Ok(if rows.num_rows() == 0 { SourcePoll::End } else { SourcePoll::Rows { split: 0, rows } })
    }

    fn snapshot(&mut self) -> Result<Vec<serde_json::Value>, SourceError> {
        unreachable!("it is read from the start")
    }
}

/// Leaves a table's rows with a negative value out.
struct Prepare;

impl BatchFn for Prepare {
    fn apply(&self, rows: RecordBatch) -> Result<RecordBatch, OperatorError> {
        let values = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(rows.column(1));
        let kept: arrow::array::BooleanArray = values.iter().map(|value| Some(value.unwrap() >= 0)).collect();
        Ok(arrow::compute::filter_record_batch(&rows, &kept)?)
    }
}

fn operator(kind: JoinKind, condition: bool, table: Versions, reload: Option<Reload>) -> LookupJoin {
    let side = || JoinInput { schema: input(), keys: vec![0], outputs: 2, unique: None, retracts: false };
    let residual = || {
        let (left, right) = (Arc::new(Column::new("v", 1)), Arc::new(Column::new("v", 3)));
        Arc::new(BinaryExpr::new(left, BinaryOperator::LtEq, right)) as Arc<dyn PhysicalExpr>
    };
    LookupJoin::new(LookupJoinSpec {
        left: side(),
        right: side(),
        kind,
        table: FullTable { source: Arc::new(table), reload },
        prepare: Arc::new(Prepare),
        residual: condition.then(residual),
    })
    .unwrap()
}

fn of(all: Vec<RecordBatch>) -> Versions {
    Versions { all, breaks: false, reads: AtomicUsize::new(0) }
}

fn rows(most: usize) -> impl Strategy<Value = Vec<Row>> {
    prop::collection::vec((prop::option::weighted(0.9, 0..5i64), -2..5i64), 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn each_row_stands_beside_what_the_table_has_of_its_key(
        table in rows(20),
        batches in prop::collection::vec(rows(12), 1..6),
        is_left in any::<bool>(),
        condition in any::<bool>(),
        seed in seeds(),
    ) {
        let kind = if is_left { JoinKind::Left } else { JoinKind::Inner };
        let operator = operator(kind, condition, of(vec![record(&table)]), None);
        let show = |value: Option<i64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let mut expected = Vec::new();
        for row in batches.iter().flatten() {
            let fits = |other: &&Row| {
                row.0.is_some() && row.0 == other.0 && other.1 >= 0 && (!condition || row.1 <= other.1)
            };
            let found: Vec<&Row> = table.iter().filter(fits).collect();
            for other in &found {
                expected.push(vec![show(row.0), row.1.to_string(), show(other.0), other.1.to_string()]);
            }
            if found.is_empty() && is_left {
                expected.push(vec![show(row.0), row.1.to_string(), show(None), show(None)]);
            }
        }
        let events = batches.iter().map(|rows| Event::Rows(0, Batch::inserts(record(rows)))).collect();
        let torture = Torture { stages: vec![Stage::new(&operator, Deal::Any)], events };
        torture.comes_to(&bag(expected), &ways(seed));
    }
}

#[test]
fn a_row_with_very_many_partners_comes_out_in_pieces() {
    const ROWS: i64 = 5 * PIECE_ROWS as i64;
    let table: Vec<Row> = (0..ROWS).map(|value| (Some(1), value)).collect();
    let operator = operator(JoinKind::Left, false, of(vec![record(&table)]), None);
    let mut subtask = World::new().start(&operator, 1, &[]).remove(0);
    subtask.process(record(&[(Some(1), 0), (Some(2), 0), (Some(1), 7), (None, 1)]));
    let out = subtask.take();
    assert!(out.iter().all(|piece| piece.len() <= PIECE_ROWS));
    assert_eq!(out.iter().map(Batch::len).sum::<usize>() as i64, 2 * ROWS + 2);
    let alone: Vec<Vec<String>> =
        out.iter().flat_map(lines).map(|(_, cells)| cells).filter(|row| row[3] == "-").collect();
    assert_eq!(alone, [["2", "0", "-", "-"], ["-", "1", "-", "-"]]);
}

#[test]
fn a_table_is_read_again_when_its_time_has_come_and_not_before() {
    let reload = Some(Reload { every: Duration::from_secs(10), from_begin: false });
    let tables = vec![record(&[(Some(1), 1)]), record(&[(Some(1), 2)])];
    let operator = operator(JoinKind::Inner, false, of(tables), reload);
    let mut world = World::new();
    let mut subtasks = world.start(&operator, 2, &[]);
    let mut found = |subtask: usize| {
        subtasks[subtask].process(record(&[(Some(1), 0)]));
        text(&subtasks[subtask].take())
    };
    assert_eq!((found(0), found(1)), (vec!["+I 1 0 1 1".to_owned()], vec!["+I 1 0 1 1".to_owned()]));
    assert_eq!(subtasks[0].next_timer(), Some(10_000));
    world.clock.set(9_999);
    subtasks[0].timers(9_999);
    subtasks[1].process(record(&[(Some(1), 0)]));
    assert_eq!(text(&subtasks[1].take()), ["+I 1 0 1 1"]);
    world.clock.set(10_000);
    subtasks[0].timers(10_000);
    // It is read on a thread of its own, once for both.
    for subtask in &mut subtasks {
        loop {
            subtask.process(record(&[(Some(1), 0)]));
            match text(&subtask.take()).as_slice() {
                [row] if row == "+I 1 0 1 2" => break,
                rows => assert_eq!(rows, ["+I 1 0 1 1"]),
            }
            std::thread::yield_now();
        }
        assert_eq!(subtask.next_timer(), Some(20_000));
    }
}

#[test]
fn a_table_that_cannot_be_read_again_ends_the_attempt_with_its_reason() {
    let reload = Some(Reload { every: Duration::from_secs(10), from_begin: true });
    let table = Versions { all: vec![record(&[(Some(1), 1)])], breaks: true, reads: AtomicUsize::new(0) };
    let operator = operator(JoinKind::Inner, false, table, reload);
    let mut world = World::new();
    let mut subtask = world.start(&operator, 1, &[]).remove(0);
    world.clock.set(10_000);
    subtask.timers(10_000);
    let error = loop {
        match subtask.try_process(Batch::inserts(record(&[(Some(1), 0)]))) {
            Ok(()) => std::thread::yield_now(),
            Err(error) => break error,
        }
    };
    assert!(error.message.contains("was read again") && error.message.contains("the disk is gone"), "{error}");
}
