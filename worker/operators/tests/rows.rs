//! Filter, projection, window columns and deduplication.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion_common::ScalarValue;
use datafusion_expr::Operator as Op;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, Column, Literal};
use proptest::prelude::*;
use support::*;
use weir_engine::{Batch, RowKind};
use weir_operators::{
    Conflict, ConflictSpec, Deduplicate, DeduplicateSpec, FilterProject, Keep, OnConflict, TimeSource, WindowAssign,
    WindowAssignSpec, WindowShape, spec::MAX_WINDOWS,
};

fn input() -> SchemaRef {
    schema(&[
        ("k", DataType::Int64, true),
        ("s", DataType::Utf8, true),
        ("t", time_type(), false),
        ("x", DataType::Float64, true),
    ])
}

type Row = (Option<i64>, Option<String>, i64, Option<f64>);

fn batch(rows: &[Row]) -> RecordBatch {
    RecordBatch::try_new(
        input(),
        vec![
            ints(rows.iter().map(|r| r.0)),
            strings(rows.iter().map(|r| r.1.as_deref())),
            times(rows.iter().map(|r| r.2)),
            floats(rows.iter().map(|r| r.3)),
        ],
    )
    .unwrap()
}

fn row(k: i64, s: &str, t: i64) -> Row {
    (Some(k), Some(s.to_owned()), t, None)
}

fn column(name: &str, index: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(name, index))
}

fn number(n: i64) -> Arc<dyn PhysicalExpr> {
    Arc::new(Literal::new(ScalarValue::Int64(Some(n))))
}

fn binary(a: Arc<dyn PhysicalExpr>, op: Op, b: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    Arc::new(BinaryExpr::new(a, op, b))
}

#[test]
fn a_filter_and_a_projection_keep_the_kinds_of_the_rows_that_pass() {
    let output = schema(&[("s", DataType::Utf8, true), ("k2", DataType::Int64, true)]);
    let operator = FilterProject::new(
        Some(binary(column("k", 0), Op::Gt, number(1))),
        vec![column("s", 1), binary(column("k", 0), Op::Multiply, number(2))],
        output,
    )
    .unwrap();
    let mut world = World::new();
    let mut subtask = world.start(&operator, 1, &[]).remove(0);
    let rows = batch(&[row(1, "a", 0), row(2, "b", 0), (None, None, 0, None), row(3, "c", 0)]);
    let kinds = vec![RowKind::Insert, RowKind::UpdateBefore, RowKind::Delete, RowKind::UpdateAfter];
    subtask.try_process(Batch::with_kinds(rows, kinds)).unwrap();
    assert_eq!(text(&subtask.take()), ["-U b 4", "+U c 6"]);
    // Nothing passes: nothing is emitted.
    subtask.process(batch(&[row(0, "a", 0)]));
    assert!(subtask.take().is_empty());
}

#[test]
fn a_projection_of_columns_copies_nothing() {
    let output = schema(&[("t", time_type(), false), ("k", DataType::Int64, true)]);
    let operator = FilterProject::new(None, vec![column("t", 2), column("k", 0)], output).unwrap();
    let rows = batch(&[row(1, "a", 5)]);
    let projected = operator.apply(&Batch::inserts(rows.clone())).unwrap().unwrap();
    assert!(Arc::ptr_eq(projected.rows.column(0), rows.column(2)));
    assert!(Arc::ptr_eq(projected.rows.column(1), rows.column(0)));
}

#[test]
fn an_expression_that_fails_is_named() {
    let output = schema(&[("q", DataType::Int64, true)]);
    let divide = binary(number(1), Op::Divide, column("k", 0));
    let operator = FilterProject::new(None, vec![divide], output).unwrap();
    let error = operator.apply(&Batch::inserts(batch(&[row(0, "a", 0)]))).unwrap_err();
    assert!(error.to_string().contains("1 / k"), "{error}");
    assert!(error.describe().to_lowercase().contains("zero"), "{}", error.describe());
}

#[test]
fn a_projection_without_columns_keeps_the_number_of_rows() {
    let operator = FilterProject::new(None, vec![], schema(&[])).unwrap();
    assert_eq!(operator.apply(&Batch::inserts(batch(&[row(1, "a", 0)]))).unwrap().unwrap().len(), 1);
}

#[test]
fn window_columns_are_added_and_hopping_windows_repeat_their_rows() {
    let mut world = World::new();
    let spec = |window, time| WindowAssign::new(WindowAssignSpec { input: input(), window, time }).unwrap();
    let mut subtask = world.start(&spec(WindowShape::tumble(10), TimeSource::Event(2)), 1, &[]).remove(0);
    subtask.process(batch(&[row(1, "a", 5), row(2, "b", -1)]));
    let out = subtask.take();
    assert_eq!(column_i64(&out, 0), [1, 2]);
    assert_eq!(
        (column_i64(&out, 4), column_i64(&out, 5), column_i64(&out, 6)),
        (vec![0, -10], vec![10, 0], vec![9, -1])
    );

    let mut subtask = world.start(&spec(WindowShape::hop(5, 10), TimeSource::Event(2)), 1, &[]).remove(0);
    let rows = batch(&[row(1, "a", 5), row(2, "b", 1)]);
    subtask.try_process(Batch::with_kinds(rows, vec![RowKind::Delete, RowKind::Insert])).unwrap();
    let out = subtask.take();
    assert_eq!((column_i64(&out, 0), column_i64(&out, 4)), (vec![1, 1, 2, 2], vec![0, 5, -5, 0]));
    assert_eq!((0..4).map(|i| out[0].kind(i).short()).collect::<Vec<_>>(), ["-D", "-D", "+I", "+I"]);

    world.clock.set(17);
    let mut subtask = world.start(&spec(WindowShape::tumble(10), TimeSource::Processing), 1, &[]).remove(0);
    subtask.process(batch(&[row(1, "a", 5)]));
    assert_eq!(column_i64(&subtask.take(), 4), [10]);
}

#[test]
fn rows_of_very_many_windows_are_put_out_in_pieces_and_too_many_windows_are_refused() {
    let mut world = World::new();
    let spec = |window| WindowAssign::new(WindowAssignSpec { input: input(), window, time: TimeSource::Event(2) });
    let mut subtask = world.start(&spec(WindowShape::hop(1, MAX_WINDOWS)).unwrap(), 1, &[]).remove(0);
    let rows: Vec<Row> = (0..50).map(|n| row(n, "a", n)).collect();
    subtask.process(batch(&rows));
    let out = subtask.take();
    let lengths: Vec<usize> = out.iter().map(Batch::len).collect();
    assert_eq!(lengths.iter().sum::<usize>(), 50 * MAX_WINDOWS as usize);
    assert!(lengths.iter().all(|length| *length <= 1 << 15), "{lengths:?}");
    let starts = column_i64(&out, 4);
    assert_eq!((starts[0], starts[MAX_WINDOWS as usize]), (1 - MAX_WINDOWS, 2 - MAX_WINDOWS));

    let refused = spec(WindowShape::hop(1, MAX_WINDOWS + 1)).unwrap_err().to_string();
    assert!(refused.contains("5001 windows"), "{refused}");
}

fn deduplicate(keep: Keep, order: TimeSource, update_before: bool) -> Deduplicate {
    Deduplicate::new(DeduplicateSpec { input: input(), keys: vec![0], order, keep, update_before }).unwrap()
}

fn run(operator: &Deduplicate, batches: &[&[Row]]) -> Vec<Vec<String>> {
    let mut world = World::new();
    let mut subtask = world.start(operator, 1, &[]).remove(0);
    batches
        .iter()
        .map(|rows| {
            subtask.process(batch(rows));
            subtask
                .take()
                .iter()
                .flat_map(lines)
                .map(|(kind, cells)| format!("{} {} {}", kind.short(), cells[0], cells[1]))
                .collect()
        })
        .collect()
}

#[test]
fn the_last_row_by_time_stands_and_of_equals_the_one_that_came_last() {
    let batches: [&[Row]; 3] = [
        &[row(1, "a", 5), row(1, "b", 5), row(1, "c", 3), row(2, "d", 1)],
        &[row(1, "e", 4), row(2, "f", 1)],
        &[row(1, "g", 9), row(3, "h", 0)],
    ];
    let last = deduplicate(Keep::Last, TimeSource::Event(2), true);
    assert_eq!(
        run(&last, &batches),
        [vec!["+I 1 b", "+I 2 d"], vec!["-U 2 d", "+U 2 f"], vec!["-U 1 b", "+U 1 g", "+I 3 h"]]
    );
    let upsert = deduplicate(Keep::Last, TimeSource::Event(2), false);
    assert_eq!(run(&upsert, &batches)[2], ["+U 1 g", "+I 3 h"]);
}

#[test]
fn the_first_row_by_time_stands_until_an_earlier_one_comes() {
    let batches: [&[Row]; 3] =
        [&[row(1, "a", 5), row(1, "b", 5), row(2, "c", 3)], &[row(1, "d", 4), row(2, "e", 3)], &[row(1, "f", 9)]];
    let first = deduplicate(Keep::First, TimeSource::Event(2), true);
    assert_eq!(run(&first, &batches), [vec!["+I 1 a", "+I 2 c"], vec!["-U 1 a", "+U 1 d"], vec![]]);
}

#[test]
fn by_processing_time_the_order_of_arrival_decides() {
    let batches: [&[Row]; 2] = [&[row(1, "a", 5), row(1, "b", 1)], &[row(1, "c", 9), row(2, "d", 3)]];
    let first = deduplicate(Keep::First, TimeSource::Processing, true);
    assert_eq!(run(&first, &batches), [vec!["+I 1 a"], vec!["+I 2 d"]]);
    let last = deduplicate(Keep::Last, TimeSource::Processing, true);
    assert_eq!(run(&last, &batches), [vec!["+I 1 b"], vec!["-U 1 b", "+U 1 c", "+I 2 d"]]);
}

#[derive(Debug, Clone)]
enum Step {
    Rows(Vec<Row>),
    Checkpoint,
    Restore(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let row = (prop::option::of(0_i64..6), prop::option::of("[a-c]{0,14}"), -3_i64..4, prop::option::of(-1.0..1.0));
    let step = prop_oneof![
        6 => prop::collection::vec(row, 1..20).prop_map(Step::Rows),
        2 => Just(Step::Checkpoint),
        1 => (1_u32..4).prop_map(Step::Restore),
    ];
    prop::collection::vec(step, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_table_is_that_of_a_naive_model_with_checkpoints_restores_and_rescales(
        steps in steps(), first in any::<bool>(), by_event in any::<bool>()
    ) {
        let keep = if first { Keep::First } else { Keep::Last };
        let order = if by_event { TimeSource::Event(2) } else { TimeSource::Processing };
        let factory = deduplicate(keep, order, true);
        let mut world = World::new();
        let mut parallelism = 1;
        let mut subtasks = world.start(&factory, 1, &[]);
        let mut table: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
        let mut model: BTreeMap<Option<i64>, Row> = BTreeMap::new();
        let mut saved = (Vec::new(), table.clone(), model.clone());
        for step in steps {
            match step {
                Step::Rows(rows) => {
                    for row in &rows {
                        let replaces = model.get(&row.0).is_none_or(|old| match (keep, by_event) {
                            (Keep::First, true) => row.2 < old.2,
                            (Keep::Last, true) => row.2 >= old.2,
                            (Keep::First, false) => false,
                            (Keep::Last, false) => true,
                        });
                        if replaces {
                            model.insert(row.0, row.clone());
                        }
                    }
                    for (subtask, rows) in subtasks.iter_mut().zip(route(&batch(&rows), &[0], parallelism)) {
                        subtask.process(rows);
                        apply(&mut table, &subtask.take(), &[0]);
                    }
                }
                Step::Checkpoint => saved = (world.checkpoint(&mut subtasks), table.clone(), model.clone()),
                Step::Restore(with) => {
                    parallelism = with;
                    subtasks = world.start(&factory, parallelism, &saved.0);
                    (table, model) = (saved.1.clone(), saved.2.clone());
                }
            }
        }
        let rows: Vec<Row> = model.into_values().collect();
        let expected: Vec<Vec<String>> = lines(&Batch::inserts(batch(&rows))).into_iter().map(|(_, cells)| cells).collect();
        let mut expected = expected;
        expected.sort();
        let mut actual: Vec<Vec<String>> = table.into_values().collect();
        actual.sort();
        prop_assert_eq!(actual, expected);
    }
}

#[test]
fn two_rows_of_one_primary_key_fail_when_event_time_goes_on_and_not_before() {
    let spec = ConflictSpec { input: input(), key: vec![0], on_conflict: OnConflict::Error };
    let operator = Conflict::new(spec).unwrap();
    let mut world = World::new();
    let mut subtask = world.start(&operator, 1, &[]).remove(0);
    let change = |kind, row: Row| Batch::with_kinds(batch(&[row]), vec![kind]);
    // One comes before the other has gone: that is no conflict.
    subtask.try_process(change(RowKind::Insert, row(1, "a", 0))).unwrap();
    subtask.try_watermark(10).unwrap();
    assert_eq!(text(&subtask.take()), ["+I 1 a 1970-01-01T00:00:00 -"]);
    subtask.try_process(change(RowKind::UpdateAfter, row(1, "b", 0))).unwrap();
    subtask.try_process(change(RowKind::UpdateBefore, row(1, "a", 0))).unwrap();
    assert!(subtask.take().is_empty(), "it waits");
    subtask.try_watermark(20).unwrap();
    assert_eq!(text(&subtask.take()), ["+U 1 b 1970-01-01T00:00:00 -"]);
    subtask.try_process(change(RowKind::Delete, row(1, "b", 0))).unwrap();
    subtask.try_watermark(20).unwrap();
    assert!(subtask.take().is_empty(), "event time has not gone on");
    subtask.try_watermark(21).unwrap();
    assert_eq!(text(&subtask.take()), ["-D 1 b 1970-01-01T00:00:00 -"]);
    for name in ["c", "d"] {
        subtask.try_process(change(RowKind::Insert, row(1, name, 0))).unwrap();
    }
    let error = subtask.try_watermark(30).unwrap_err().to_string();
    assert!(error.contains("several rows have the primary key k = 1"), "{error}");
}
