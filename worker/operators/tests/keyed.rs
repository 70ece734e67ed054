//! The updating aggregation, alone and behind the local one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Decimal128Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use proptest::prelude::*;
use support::*;
use weir_engine::{Batch, OperatorFactory, RowKind};
use weir_operators::{
    AggregateFunction::{Avg, Count, ListAgg, Max, Min, Sum},
    AggregateInput, AggregateSpec, Aggregation, KeyedAggregate, KeyedAggregateSpec, LocalAggregate, LocalAggregateSpec,
    SpecError,
};

/// k, v (nullable), s (nullable), f (nullable filter), n (a value that is never null).
fn input() -> SchemaRef {
    schema(&[
        ("k", DataType::Utf8, true),
        ("v", DataType::Int64, true),
        ("s", DataType::Utf8, true),
        ("f", DataType::Boolean, true),
        ("n", DataType::Int64, false),
    ])
}

type Row = (Option<&'static str>, Option<i64>, Option<&'static str>, Option<bool>, i64);

fn batch(rows: &[Row]) -> RecordBatch {
    RecordBatch::try_new(
        input(),
        vec![
            strings(rows.iter().map(|r| r.0)),
            ints(rows.iter().map(|r| r.1)),
            strings(rows.iter().map(|r| r.2)),
            bools(rows.iter().map(|r| r.3)),
            ints(rows.iter().map(|r| Some(r.4))),
        ],
    )
    .unwrap()
}

fn aggregates() -> Vec<AggregateSpec> {
    vec![
        AggregateSpec::count_star("all"),
        AggregateSpec::count_star("filtered").filter(3),
        AggregateSpec::new("count", Count, 1),
        AggregateSpec::new("sum", Sum, 1),
        AggregateSpec::new("avg", Avg, 1),
        AggregateSpec::new("min", Min, 1),
        AggregateSpec::new("max", Max, 1).filter(3),
        AggregateSpec::new("min_s", Min, 2),
        AggregateSpec::new("max_s", Max, 2),
        AggregateSpec::new("distinct", Count, 1).distinct(),
        AggregateSpec::new("distinct_f", Count, 1).distinct().filter(3),
        AggregateSpec::new("distinct_sum", Sum, 1).distinct(),
        AggregateSpec::new("distinct_avg", Avg, 1).distinct().filter(3),
        AggregateSpec::new("distinct_s", Count, 2).distinct(),
    ]
}

fn aggregation(group: &[usize], aggregates: Vec<AggregateSpec>) -> Aggregation {
    Aggregation { input: input(), group: group.to_vec(), aggregates }
}

fn keyed(aggregation: &Aggregation, input: AggregateInput, update_before: bool) -> KeyedAggregate {
    let aggregation = aggregation.clone();
    KeyedAggregate::new(KeyedAggregateSpec { aggregation, input, retract_input: false, update_before }).unwrap()
}

fn local(aggregation: &Aggregation) -> LocalAggregate {
    LocalAggregate::new(LocalAggregateSpec { aggregation: aggregation.clone(), window: None, retract_input: false })
        .unwrap()
}

#[test]
fn a_list_beyond_what_a_value_may_have_is_an_error_with_its_column() {
    let text: &'static str = "x".repeat(4 << 20).leak();
    let rows = [(Some("a"), None, Some(text), None, 0); 17];
    let of = aggregation(&[0], vec![AggregateSpec::new("list", ListAgg, 2)]);
    let mut world = World::new();
    let mut task = world.start(&keyed(&of, AggregateInput::Rows, true), 1, &[]).remove(0);
    let error = task.try_process(Batch::inserts(batch(&rows))).unwrap_err().to_string();
    assert!(error.contains("the LISTAGG of column `s` has") && error.contains("67108864 are the most"), "{error}");
}

/// What the aggregates of [`aggregates`] come to.
fn expected(rows: &[&Row]) -> Vec<String> {
    let show = |v: Option<i64>| v.map_or("-".to_owned(), |v| v.to_string());
    let show_s = |v: Option<&str>| v.unwrap_or("-").to_owned();
    let values: Vec<i64> = rows.iter().filter_map(|r| r.1).collect();
    let f = |r: &&&Row| r.3 == Some(true);
    let of = |values: &[i64]| (!values.is_empty()).then(|| values.iter().sum::<i64>());
    let avg = |values: &[i64]| of(values).map(|s| s / values.len() as i64);
    let distinct: Vec<i64> = values.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let distinct_f: Vec<i64> = rows.iter().filter(f).filter_map(|r| r.1).collect::<BTreeSet<_>>().into_iter().collect();
    vec![
        rows.len().to_string(),
        rows.iter().filter(f).count().to_string(),
        values.len().to_string(),
        show(of(&values)),
        show(avg(&values)),
        show(values.iter().min().copied()),
        show(rows.iter().filter(f).filter_map(|r| r.1).max()),
        show_s(rows.iter().filter_map(|r| r.2).min()),
        show_s(rows.iter().filter_map(|r| r.2).max()),
        distinct.len().to_string(),
        distinct_f.len().to_string(),
        show(of(&distinct)),
        show(avg(&distinct_f)),
        rows.iter().filter_map(|r| r.2).collect::<BTreeSet<_>>().len().to_string(),
    ]
}

fn run_one(factory: &dyn OperatorFactory, batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let mut world = World::new();
    let mut subtask = world.start(factory, 1, &[]).remove(0);
    batches
        .iter()
        .map(|b| {
            subtask.process(b.clone());
            text(&subtask.take())
        })
        .collect()
}

#[test]
fn a_batch_emits_one_change_for_each_key_and_none_where_the_result_is_the_same() {
    let spec = aggregation(&[0], vec![AggregateSpec::count_star("c"), AggregateSpec::new("m", Max, 1)]);
    let batches = [
        batch(&[
            (Some("a"), Some(5), None, None, 0),
            (Some("b"), None, None, None, 0),
            (Some("a"), Some(7), None, None, 0),
            (None, Some(1), None, None, 0),
        ]),
        batch(&[(Some("b"), Some(-2), None, None, 0), (Some("c"), Some(1), None, None, 0)]),
    ];
    assert_eq!(
        run_one(&keyed(&spec, AggregateInput::Rows, true), &batches),
        [vec!["+I a 2 7", "+I b 1 -", "+I - 1 1"], vec!["-U b 1 -", "+U b 2 -2", "+I c 1 1"]]
    );
    assert_eq!(run_one(&keyed(&spec, AggregateInput::Rows, false), &batches)[1], ["+U b 2 -2", "+I c 1 1"]);

    let max_only = aggregation(&[0], vec![AggregateSpec::new("m", Max, 1), AggregateSpec::new("a", Avg, 1)]);
    let same = |v| batch(&[(Some("a"), Some(v), None, None, 0)]);
    assert_eq!(
        run_one(&keyed(&max_only, AggregateInput::Rows, true), &[same(5), same(5), same(4), same(5)]),
        [vec!["+I a 5 5"], vec![], vec!["-U a 5 5", "+U a 5 4"], vec![]]
    );
}

#[test]
fn averages_of_integers_are_truncated_toward_zero() {
    let spec = aggregation(&[], vec![AggregateSpec::new("a", Avg, 1)]);
    let rows = |values: &[i64]| batch(&values.iter().map(|v| (None, Some(*v), None, None, 0)).collect::<Vec<_>>());
    assert_eq!(
        run_one(&keyed(&spec, AggregateInput::Rows, true), &[rows(&[1, 2]), rows(&[-9])]),
        [vec!["+I 1"], vec!["-U 1", "+U -2"]]
    );
}

#[test]
fn decimals_and_floats_follow_flink() {
    let input = schema(&[
        ("d", DataType::Decimal128(10, 2), true),
        ("x", DataType::Float64, true),
        ("y", DataType::Float32, true),
        ("i", DataType::Int32, true),
    ]);
    let spec = Aggregation {
        input: input.clone(),
        group: vec![],
        aggregates: vec![
            AggregateSpec::new("sum_d", Sum, 0),
            AggregateSpec::new("avg_d", Avg, 0),
            AggregateSpec::new("max_d", Max, 0),
            AggregateSpec::new("sum_x", Sum, 1),
            AggregateSpec::new("avg_x", Avg, 1),
            AggregateSpec::new("min_y", Min, 2),
            AggregateSpec::new("sum_i", Sum, 3),
        ],
    };
    let operator = keyed(&spec, AggregateInput::Rows, true);
    let types: Vec<DataType> = operator.output().fields().iter().map(|f| f.data_type().clone()).collect();
    assert_eq!(types[..3], [DataType::Decimal128(38, 2), DataType::Decimal128(38, 6), DataType::Decimal128(10, 2)]);
    assert_eq!(types[5..], [DataType::Float32, DataType::Int32]);
    let rows = RecordBatch::try_new(
        input,
        vec![
            Arc::new(
                Decimal128Array::from(vec![Some(100), Some(-200), None, Some(201)])
                    .with_precision_and_scale(10, 2)
                    .unwrap(),
            ),
            floats([Some(0.5), Some(1.0), Some(1.5), None]),
            arrow::compute::cast(&floats([Some(3.5), Some(-1.0), None, None]), &DataType::Float32).unwrap(),
            arrow::compute::cast(&ints([Some(1), Some(2), None, None]), &DataType::Int32).unwrap(),
        ],
    )
    .unwrap();
    assert_eq!(run_one(&operator, &[rows]), [vec!["+I 1.01 0.336667 2.01 3.0 1.0 -1.0 3"]]);
}

#[test]
fn a_global_aggregate_of_no_rows_emits_nothing() {
    let mut world = World::new();
    let spec = aggregation(&[], vec![AggregateSpec::count_star("c")]);
    let mut subtask = world.start(&keyed(&spec, AggregateInput::Rows, true), 1, &[]).remove(0);
    subtask.process(batch(&[]));
    subtask.end();
    assert!(subtask.take().is_empty());
}

#[test]
fn a_sum_beyond_its_type_is_an_error_that_names_the_column() {
    let mut world = World::new();
    let spec = aggregation(&[0], vec![AggregateSpec::new("s", Sum, 1)]);
    let mut subtask = world.start(&keyed(&spec, AggregateInput::Rows, true), 1, &[]).remove(0);
    let rows = batch(&[(None, Some(i64::MAX), None, None, 0), (None, Some(1), None, None, 0)]);
    let error = subtask.try_process(Batch::inserts(rows)).unwrap_err();
    assert!(error.to_string().contains("column `v`") && error.to_string().contains("BIGINT"), "{error}");
}

#[test]
fn rows_that_update_or_delete_are_refused() {
    let mut world = World::new();
    let spec = aggregation(&[0], vec![AggregateSpec::count_star("c")]);
    let mut subtask = world.start(&keyed(&spec, AggregateInput::Rows, true), 1, &[]).remove(0);
    let rows = batch(&[(None, None, None, None, 0), (None, None, None, None, 0)]);
    let kinds = vec![RowKind::Insert, RowKind::Delete];
    let error = subtask.try_process(Batch::with_kinds(rows, kinds)).unwrap_err();
    assert!(error.to_string().contains("-D"), "{error}");
}

/// Whatever it is given as kinds and rows.
fn retracting(spec: &Aggregation, batches: &[&[(RowKind, Row)]]) -> (Vec<Vec<String>>, u64) {
    let operator = KeyedAggregate::new(KeyedAggregateSpec {
        aggregation: spec.clone(),
        input: AggregateInput::Rows,
        retract_input: true,
        update_before: true,
    })
    .unwrap();
    let mut world = World::new();
    let mut subtask = world.start(&operator, 1, &[]).remove(0);
    let mut out = Vec::new();
    for changes in batches {
        let (kinds, rows): (Vec<RowKind>, Vec<Row>) = changes.iter().copied().unzip();
        subtask.try_process(Batch::with_kinds(batch(&rows), kinds)).unwrap();
        out.push(text(&subtask.take()));
    }
    (out, subtask.counters.unmatched_retractions.get())
}

const fn of(k: Option<&'static str>, v: Option<i64>) -> Row {
    (k, v, None, None, 0)
}

#[test]
fn a_group_goes_with_its_last_row_and_sums_of_nothing_are_null_again() {
    use RowKind::{Delete, Insert};
    let spec = aggregation(
        &[0],
        vec![
            AggregateSpec::count_star("c"),
            AggregateSpec::new("s", Sum, 1),
            AggregateSpec::new("a", Avg, 1),
            AggregateSpec::new("min", Min, 1),
            AggregateSpec::new("max", Max, 1),
            AggregateSpec::new("d", Count, 1).distinct(),
        ],
    );
    let (a5, anull, a7) = (of(Some("a"), Some(5)), of(Some("a"), None), of(Some("a"), Some(7)));
    let (out, unmatched) = retracting(
        &spec,
        &[
            &[(Insert, a5), (Insert, anull), (Insert, a5)],
            &[(Insert, a7), (Delete, a5)],
            &[(Delete, a7)],
            &[(Delete, a5)],
            &[(Delete, anull)],
            &[(Insert, a7)],
        ],
    );
    let expected: [&[&str]; 6] = [
        &["+I a 3 10 5 5 5 1"],
        &["-U a 3 10 5 5 5 1", "+U a 3 12 6 5 7 2"],
        &["-U a 3 12 6 5 7 2", "+U a 2 5 5 5 5 1"],
        &["-U a 2 5 5 5 5 1", "+U a 1 - - - - 0"],
        &["-D a 1 - - - - 0"],
        &["+I a 1 7 7 7 7 1"],
    ];
    assert_eq!((out, unmatched), (expected.map(|lines| lines.iter().map(ToString::to_string).collect()).to_vec(), 0));
}

#[test]
fn the_global_aggregate_has_no_row_while_there_are_none() {
    use RowKind::{Delete, Insert};
    let spec = aggregation(&[], vec![AggregateSpec::count_star("c"), AggregateSpec::new("s", Sum, 1)]);
    let row = of(None, Some(7));
    let (out, _) = retracting(&spec, &[&[(Insert, row)], &[(Delete, row)], &[(Insert, row)]]);
    assert_eq!(out, [["+I 1 7"], ["-D 1 7"], ["+I 1 7"]]);
}

#[test]
fn what_nets_to_nothing_within_a_batch_emits_nothing() {
    use RowKind::{Delete, Insert, UpdateAfter, UpdateBefore};
    let (a, b) = (of(Some("a"), Some(1)), of(Some("b"), Some(2)));
    let (out, unmatched) = retracting(
        &aggregation(&[0], aggregates()),
        &[&[(Insert, a)], &[(UpdateBefore, a), (UpdateAfter, a), (Insert, b), (Delete, b)]],
    );
    assert_eq!((out[0].len(), out[1].len(), unmatched), (1, 0, 0));
}

#[test]
fn a_sum_overflows_by_what_a_batch_comes_to_and_not_on_the_way() {
    use RowKind::{Insert, UpdateAfter, UpdateBefore};
    let spec = aggregation(&[], vec![AggregateSpec::new("s", Sum, 1)]);
    let (large, larger) = (of(None, Some(i64::MAX - 1)), of(None, Some(i64::MAX)));
    let (out, _) = retracting(&spec, &[&[(Insert, large)], &[(UpdateAfter, larger), (UpdateBefore, large)]]);
    assert_eq!(out[1], [format!("-U {}", i64::MAX - 1), format!("+U {}", i64::MAX)]);
}

#[test]
fn rows_taken_back_that_were_never_there_are_counted_and_make_no_group() {
    use RowKind::{Delete, Insert};
    let (a, b) = (of(Some("a"), Some(1)), of(Some("b"), Some(2)));
    let (out, unmatched) = retracting(
        &aggregation(&[0], aggregates()),
        &[&[(Delete, a)], &[(Insert, b), (Delete, b), (Delete, b)], &[(Insert, a)], &[(Delete, a), (Delete, a)]],
    );
    assert_eq!(out.iter().map(Vec::len).collect::<Vec<_>>(), [0, 0, 1, 1]);
    assert!(out[2][0].starts_with("+I a 1 ") && out[3][0].starts_with("-D a 1 "), "{out:?}");
    assert_eq!(unmatched, 3);
}

#[test]
fn a_wrong_spec_says_what_is_wrong() {
    let spec = |a: AggregateSpec, group: &[usize]| {
        KeyedAggregate::new(KeyedAggregateSpec {
            aggregation: aggregation(group, vec![a]),
            input: AggregateInput::Rows,
            retract_input: false,
            update_before: true,
        })
        .map(|_| ())
    };
    assert!(matches!(spec(AggregateSpec::new("s", Sum, 2), &[0]), Err(SpecError::UnsupportedArgument { .. })));
    assert!(matches!(spec(AggregateSpec::new("s", Sum, 9), &[0]), Err(SpecError::NoSuchColumn { .. })));
    assert!(matches!(spec(AggregateSpec::count_star("c").filter(1), &[0]), Err(SpecError::WrongType { .. })));
    assert!(matches!(spec(AggregateSpec::count_star("c"), &[7]), Err(SpecError::NoSuchColumn { .. })));
}

/// How the rows get to the aggregation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Rows,
    Partials,
}

fn row() -> impl Strategy<Value = Row> {
    let keys = prop_oneof![Just(None), Just(Some("a")), Just(Some("b")), Just(Some("key c")), Just(Some("d"))];
    let strings = prop_oneof![Just(None), Just(Some("x")), Just(Some("yy")), Just(Some("")), Just(Some("zzz"))];
    (keys, prop::option::of(-4_i64..5), strings, prop::option::of(any::<bool>()), -3_i64..3)
}

#[derive(Debug, Clone)]
enum Step {
    Rows(Vec<Row>),
    Checkpoint,
    /// Back to the last checkpoint, with this parallelism.
    Restore(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop::collection::vec(row(), 1..40).prop_map(Step::Rows),
        2 => Just(Step::Checkpoint),
        1 => (1_u32..4).prop_map(Step::Restore),
    ];
    prop::collection::vec(step, 1..20)
}

fn check(steps: Vec<Step>, group: &[usize], way: Way) {
    let spec = aggregation(group, aggregates());
    let input = if way == Way::Rows { AggregateInput::Rows } else { AggregateInput::Partials };
    let factory = keyed(&spec, input, true);
    let first = local(&spec);
    let keys: Vec<usize> = if way == Way::Rows { group.to_vec() } else { (0..group.len()).collect() };
    let mut world = World::new();
    let mut parallelism = 1;
    let mut before = world.start(&first, 1, &[]).remove(0);
    let mut subtasks = world.start(&factory, parallelism, &[]);
    let mut table = BTreeMap::new();
    let mut seen: Vec<Row> = Vec::new();
    let mut saved = (Vec::new(), table.clone(), seen.clone());
    let output_keys: Vec<usize> = (0..group.len()).collect();
    let deliver = |before: &mut Subtask, subtasks: &mut Vec<Subtask>, parallelism: u32, table: &mut _| {
        for out in before.take() {
            for (subtask, rows) in subtasks.iter_mut().zip(route(&out.rows, &keys, parallelism)) {
                subtask.process(rows);
                apply(table, &subtask.take(), &output_keys);
            }
        }
    };
    for step in steps.into_iter().chain([Step::Checkpoint]) {
        match step {
            Step::Rows(rows) => {
                before.out.0.extend(if way == Way::Rows { Some(Batch::inserts(batch(&rows))) } else { None });
                if way == Way::Partials {
                    before.process(batch(&rows));
                }
                seen.extend(rows);
            }
            Step::Checkpoint => {
                // The barrier takes along what the local aggregation holds.
                world.checkpoint(std::slice::from_mut(&mut before));
                deliver(&mut before, &mut subtasks, parallelism, &mut table);
                let snapshots = world.checkpoint(&mut subtasks);
                saved = (snapshots, table.clone(), seen.clone());
            }
            Step::Restore(with) => {
                parallelism = with;
                before = world.start(&first, 1, &[]).remove(0);
                subtasks = world.start(&factory, parallelism, &saved.0);
                (table, seen) = (saved.1.clone(), saved.2.clone());
            }
        }
        deliver(&mut before, &mut subtasks, parallelism, &mut table);
    }
    let mut by_key: BTreeMap<Vec<String>, Vec<&Row>> = BTreeMap::new();
    for row in &seen {
        let key = if group.is_empty() { vec![] } else { vec![row.0.unwrap_or("-").to_owned()] };
        by_key.entry(key).or_default().push(row);
    }
    let model: BTreeMap<Vec<String>, Vec<String>> =
        by_key.into_iter().map(|(key, rows)| (key.clone(), key.into_iter().chain(expected(&rows)).collect())).collect();
    assert_eq!(table, model);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_table_is_that_of_a_naive_model_with_checkpoints_restores_and_rescales(steps in steps()) {
        check(steps, &[0], Way::Rows);
    }

    #[test]
    fn pre_aggregation_changes_nothing(steps in steps()) {
        check(steps, &[0], Way::Partials);
    }

    #[test]
    fn a_global_aggregate_is_that_of_a_naive_model(steps in steps()) {
        check(steps.clone(), &[], Way::Rows);
        check(steps, &[], Way::Partials);
    }
}

#[test]
fn rows_that_do_not_fold_are_passed_on_and_come_to_the_same() {
    let spec = aggregation(
        &[4],
        vec![
            AggregateSpec::count_star("c"),
            AggregateSpec::new("s", Sum, 1).filter(3),
            AggregateSpec::new("m", Max, 2),
            AggregateSpec::new("d", Count, 1).distinct(),
        ],
    );
    let rows: Vec<Row> = (0..60_000)
        .map(|i| {
            (None, (i % 7 > 0).then_some(i), Some(if i % 2 == 0 { "e" } else { "o" }), Some(i % 3 == 0), i % 50_000)
        })
        .collect();
    let mut world = World::new();
    let mut before = world.start(&local(&spec), 1, &[]).remove(0);
    let mut folded = world.start(&keyed(&spec, AggregateInput::Partials, true), 1, &[]).remove(0);
    let mut plain = world.start(&keyed(&spec, AggregateInput::Rows, true), 1, &[]).remove(0);
    let (mut a, mut b) = (BTreeMap::new(), BTreeMap::new());
    for rows in rows.chunks(3000) {
        before.process(batch(rows));
        plain.process(batch(rows));
        apply(&mut b, &plain.take(), &[0]);
        for partial in before.take() {
            folded.process(partial.rows);
            apply(&mut a, &folded.take(), &[0]);
        }
    }
    before.end();
    for partial in before.take() {
        folded.process(partial.rows);
        apply(&mut a, &folded.take(), &[0]);
    }
    assert_eq!(a.len(), 50_000);
    assert!(a == b);
}

#[test]
fn the_local_aggregation_folds_distinct_values_with_their_filters() {
    let spec = aggregation(
        &[0],
        vec![
            AggregateSpec::count_star("c"),
            AggregateSpec::new("d", Count, 1).distinct(),
            AggregateSpec::new("df", Count, 1).distinct().filter(3),
        ],
    );
    let mut world = World::new();
    let mut before = world.start(&local(&spec), 1, &[]).remove(0);
    before.process(batch(&[
        (Some("a"), Some(1), None, Some(false), 0),
        (Some("a"), Some(2), None, Some(true), 0),
        (Some("a"), Some(1), None, Some(true), 0),
        (Some("b"), None, None, Some(true), 0),
    ]));
    assert!(before.take().is_empty());
    assert_eq!(before.next_timer(), Some(50));
    before.timers(50);
    assert_eq!(text(&before.take()), ["+I a 3 1 3", "+I a 0 2 3", "+I b 1 - 0"]);
    assert_eq!(before.next_timer(), None);
}
