//! The windowed aggregation, by event time and by the clock, with late rows, checkpoints, restores and rescales.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use proptest::prelude::*;
use support::*;
use weir_engine::{Batch, MIN_WATERMARK};
use weir_operators::{
    AggregateFunction::{Count, Max, Sum},
    AggregateInput, AggregateSpec, Aggregation, LocalAggregate, LocalAggregateSpec, TimeSource, WindowAggregate,
    WindowAggregateSpec, WindowShape,
};

fn input() -> SchemaRef {
    schema(&[
        ("k", DataType::Utf8, true),
        ("v", DataType::Int64, true),
        ("f", DataType::Boolean, true),
        ("t", time_type(), false),
    ])
}

type Row = (&'static str, Option<i64>, Option<bool>, i64);

fn batch(rows: &[Row]) -> RecordBatch {
    RecordBatch::try_new(
        input(),
        vec![
            strings(rows.iter().map(|r| Some(r.0))),
            ints(rows.iter().map(|r| r.1)),
            bools(rows.iter().map(|r| r.2)),
            times(rows.iter().map(|r| r.3)),
        ],
    )
    .unwrap()
}

fn aggregates() -> Vec<AggregateSpec> {
    vec![
        AggregateSpec::count_star("c"),
        AggregateSpec::new("sum", Sum, 1).filter(2),
        AggregateSpec::new("max", Max, 1),
        AggregateSpec::new("distinct", Count, 1).distinct(),
        AggregateSpec::new("distinct_f", Count, 1).distinct().filter(2),
        AggregateSpec::new("distinct_sum", Sum, 1).distinct(),
    ]
}

fn expected(rows: &[Row]) -> Vec<String> {
    let show = |v: Option<i64>| v.map_or("-".to_owned(), |v| v.to_string());
    let sum = |v: Vec<i64>| (!v.is_empty()).then(|| v.iter().sum::<i64>());
    let distinct = |f: &dyn Fn(&&Row) -> bool| rows.iter().filter(f).filter_map(|r| r.1).collect::<BTreeSet<_>>();
    vec![
        rows.len().to_string(),
        show(sum(rows.iter().filter(|r| r.2 == Some(true)).filter_map(|r| r.1).collect())),
        show(rows.iter().filter_map(|r| r.1).max()),
        distinct(&|_| true).len().to_string(),
        distinct(&|r| r.2 == Some(true)).len().to_string(),
        show(sum(distinct(&|_| true).into_iter().collect())),
    ]
}

fn aggregation(group: &[usize]) -> Aggregation {
    Aggregation { input: input(), group: group.to_vec(), aggregates: aggregates() }
}

fn windowed(aggregation: Aggregation, window: WindowShape, time: TimeSource, input: AggregateInput) -> WindowAggregate {
    WindowAggregate::new(WindowAggregateSpec { aggregation, input, window, time }).unwrap()
}

const EVENT: TimeSource = TimeSource::Event(3);

fn counting(group: &[usize], window: WindowShape, time: TimeSource) -> WindowAggregate {
    let aggregates = vec![AggregateSpec::count_star("c"), AggregateSpec::new("m", Max, 1)];
    let aggregation = Aggregation { input: input(), group: group.to_vec(), aggregates };
    windowed(aggregation, window, time, AggregateInput::Rows)
}

#[test]
fn a_tumbling_window_fires_when_the_watermark_reaches_its_last_millisecond() {
    let mut world = World::new();
    let operator = counting(&[0], WindowShape::tumble(10), EVENT);
    let names: Vec<&str> = operator.output().fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names, ["k", "c", "m", "window_start", "window_end", "window_time"]);
    let mut subtask = world.start(&operator, 1, &[]).remove(0);
    subtask.process(batch(&[
        ("a", Some(1), None, 3),
        ("b", None, None, 9),
        ("a", Some(4), None, 0),
        ("a", None, None, 10),
    ]));
    subtask.watermark(8);
    assert!(subtask.take().is_empty());
    subtask.watermark(9);
    let mut lines = text(&subtask.take());
    lines.sort();
    let window = "1970-01-01T00:00:00 1970-01-01T00:00:00.010 1970-01-01T00:00:00.009";
    assert_eq!(lines, [format!("+I a 2 4 {window}"), format!("+I b 1 - {window}")]);
    // Late rows are dropped and counted; a row of the next window is not late.
    subtask.process(batch(&[("a", Some(1), None, 9), ("a", Some(1), None, 11), ("b", Some(1), None, -1)]));
    assert_eq!(subtask.counters.late_rows.get(), 2);
    subtask.end();
    let out = subtask.take();
    assert_eq!((column_i64(&out, 1), column_i64(&out, 4)), (vec![2], vec![20]));
}

#[test]
fn hopping_windows_share_slices_and_a_row_is_late_when_its_last_window_has_fired() {
    let mut world = World::new();
    let mut subtask = world.start(&counting(&[], WindowShape::hop(5, 10), EVENT), 1, &[]).remove(0);
    subtask.process(batch(&[("a", Some(1), None, 3), ("a", Some(2), None, 7)]));
    subtask.watermark(9);
    let out = subtask.take();
    assert_eq!((column_i64(&out, 0), column_i64(&out, 3)), (vec![1, 2], vec![5, 10]));
    // At 7 only the window from 5 to 15 is left, at 4 none.
    subtask.process(batch(&[("a", Some(9), None, 7), ("a", Some(9), None, 4)]));
    assert_eq!(subtask.counters.late_rows.get(), 1);
    subtask.end();
    let out = subtask.take();
    assert_eq!((column_i64(&out, 0), column_i64(&out, 1), column_i64(&out, 3)), (vec![2], vec![9], vec![15]));
}

#[test]
fn a_row_without_a_time_is_an_error_that_names_the_column() {
    let nullable = schema(&[("t", time_type(), true)]);
    let aggregation =
        Aggregation { input: nullable.clone(), group: vec![], aggregates: vec![AggregateSpec::count_star("c")] };
    let operator = windowed(aggregation, WindowShape::tumble(10), TimeSource::Event(0), AggregateInput::Rows);
    let mut world = World::new();
    let mut subtask = world.start(&operator, 1, &[]).remove(0);
    let rows = RecordBatch::try_new(nullable, vec![arrow::array::new_null_array(&time_type(), 1)]).unwrap();
    let error = subtask.try_process(Batch::inserts(rows)).unwrap_err();
    assert!(error.to_string().contains("`t`"), "{error}");
}

#[test]
fn processing_time_windows_fire_by_the_clock_and_at_the_end_of_input() {
    let mut world = World::new();
    let operator = counting(&[0], WindowShape::tumble(10), TimeSource::Processing);
    let mut subtasks = world.start(&operator, 1, &[]);
    let rows = batch(&[("a", Some(1), None, 999)]);
    world.clock.set(103);
    subtasks[0].process(rows.clone());
    assert_eq!(subtasks[0].next_timer(), Some(110));
    world.clock.set(109);
    subtasks[0].process(rows.clone());
    world.clock.set(112);
    subtasks[0].timers(112);
    assert_eq!((column_i64(&subtasks[0].out.0, 1), column_i64(&subtasks[0].take(), 4)), (vec![2], vec![110]));
    // The clock goes back: what has fired does not fire again, also not after a restore.
    world.clock.set(104);
    subtasks[0].process(rows.clone());
    let snapshots = world.checkpoint(&mut subtasks);
    let mut restored = world.start(&operator, 2, &snapshots);
    for (subtask, rows) in restored.iter_mut().zip(route(&rows, &[0], 2)) {
        subtask.process(rows);
        subtask.end();
    }
    let out: Vec<Batch> = restored.iter_mut().flat_map(Subtask::take).collect();
    assert_eq!((column_i64(&out, 1), column_i64(&out, 4)), (vec![2], vec![120]));
}

#[test]
fn a_firing_that_a_barrier_interrupts_goes_on_after_a_restore_and_repeats_nothing() {
    const KEYS: i64 = 20_000;
    for (window, slices) in [(WindowShape::tumble(10), 1), (WindowShape::hop(5, 10), 2)] {
        let keyed = schema(&[("k", DataType::Int64, false), ("t", time_type(), false)]);
        let aggregation = Aggregation {
            input: keyed.clone(),
            group: vec![0],
            aggregates: vec![AggregateSpec::count_star("c"), AggregateSpec::new("d", Count, 0).distinct()],
        };
        let operator = windowed(aggregation, window, TimeSource::Event(1), AggregateInput::Rows);
        let mut world = World::new();
        let mut subtasks = world.start(&operator, 1, &[]);
        for first in (0..KEYS).step_by(5000) {
            for slice in 0..slices {
                let columns = vec![ints((first..first + 5000).map(Some)), times((0..5000).map(|_| 5 * slice + 1))];
                subtasks[0].process(RecordBatch::try_new(keyed.clone(), columns).unwrap());
            }
        }
        let mut out = Vec::new();
        let mut calls = 0;
        let mut again = true;
        while again {
            calls += 1;
            again = subtasks[0].watermark_once(12);
            let snapshots = world.checkpoint(&mut subtasks);
            out.extend(subtasks[0].take());
            // Every other time the subtask is lost, and others take over.
            if calls % 2 == 1 {
                subtasks = world.start(&operator, 3, &snapshots);
                let snapshots = world.checkpoint(&mut subtasks);
                out.extend(subtasks.iter_mut().flat_map(Subtask::take));
                subtasks = world.start(&operator, 1, &snapshots);
                again = true;
            }
        }
        assert!(calls > 1);
        for subtask in &mut subtasks {
            subtask.end();
            out.extend(subtask.take());
        }
        let keys = column_i64(&out, 0);
        let ends = column_i64(&out, 4);
        let mut emitted: Vec<(i64, i64)> = keys.iter().copied().zip(ends).collect();
        emitted.sort_unstable();
        let windows: Vec<i64> = if slices == 1 { vec![10] } else { vec![5, 10, 15] };
        let all: Vec<(i64, i64)> = (0..KEYS).flat_map(|k| windows.iter().map(move |w| (k, *w))).collect();
        assert!(emitted == all, "{} rows of {}", emitted.len(), all.len());
        let full = (0..keys.len()).filter(|i| column_of(&out, 1, *i) == slices).count() as i64;
        assert_eq!(full, KEYS);
    }
}

fn column_of(batches: &[Batch], column: usize, mut row: usize) -> i64 {
    for batch in batches {
        if row < batch.len() {
            return column_i64(std::slice::from_ref(batch), column)[row];
        }
        row -= batch.len();
    }
    panic!("no such row")
}

#[test]
fn key_groups_that_are_ahead_in_time_keep_what_is_late_for_them_and_what_has_fired() {
    let operator = counting(&[0], WindowShape::hop(5, 10), EVENT);
    let mut world = World::new();
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let at = |t: i64| batch(&keys.map(|k| (k, Some(1), None, t)));
    let rows = at(12);
    let mut subtasks = world.start(&operator, 2, &[]);
    for (subtask, rows) in subtasks.iter_mut().zip(route(&rows, &[0], 2)) {
        subtask.process(rows);
    }
    subtasks[0].watermark(MIN_WATERMARK + 1);
    subtasks[1].watermark(15);
    let ahead = column_i64(&subtasks[1].take(), 1).len();
    assert!((1..10).contains(&ahead), "both subtasks have keys");
    let snapshots = world.checkpoint(&mut subtasks);
    let mut one = world.start(&operator, 1, &snapshots).remove(0);
    // At 9 there is one window more for the key groups that are behind, and none for the others.
    one.process(at(9));
    assert_eq!(one.counters.late_rows.get(), ahead as u64);
    one.end();
    let mut ends = column_i64(&one.take(), 4);
    ends.sort_unstable();
    let behind = 10 - ahead;
    let times = |end: i64, n: usize| std::iter::repeat_n(end, n);
    // The windows that end at 10 and 15 have both been emitted for who is ahead, the one at 20 for nobody.
    let expected: Vec<i64> = times(10, behind).chain(times(15, behind)).chain(times(20, 10)).collect();
    assert_eq!(ends, expected);
}

#[derive(Debug, Clone)]
enum Step {
    Rows(Vec<Row>),
    /// Event time goes on by so much.
    Watermark(i64),
    Checkpoint,
    Restore(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = prop_oneof![Just("a"), Just("b"), Just("c"), Just("a longer key")];
    // Times are around the watermark; see `check`.
    let row = (key, prop::option::of(-3_i64..4), prop::option::of(any::<bool>()), -15_i64..25);
    let step = prop_oneof![
        6 => prop::collection::vec(row, 1..30).prop_map(Step::Rows),
        4 => (0_i64..20).prop_map(Step::Watermark),
        2 => Just(Step::Checkpoint),
        1 => (1_u32..4).prop_map(Step::Restore),
    ];
    prop::collection::vec(step, 1..25)
}

fn shapes() -> impl Strategy<Value = WindowShape> {
    prop_oneof![
        Just(WindowShape::tumble(10)),
        Just(WindowShape::tumble(7).with_offset(3)),
        Just(WindowShape::hop(5, 10)),
        Just(WindowShape::hop(4, 10).with_offset(-1)),
        Just(WindowShape::hop(2, 12)),
    ]
}

/// The ends of the windows that hold a time, by the definition.
fn windows(shape: WindowShape, t: i64) -> Vec<i64> {
    let first = (t - shape.offset - shape.size).div_euclid(shape.slide);
    (first..first + shape.size / shape.slide + 3)
        .map(|k| k * shape.slide + shape.offset)
        .filter(|start| (*start..*start + shape.size).contains(&t))
        .map(|start| start + shape.size)
        .collect()
}

#[derive(Clone)]
struct Model {
    watermark: i64,
    late: u64,
    open: BTreeMap<(i64, String), Vec<Row>>,
    emitted: Vec<Vec<String>>,
}

impl Model {
    fn add(&mut self, row: Row, shape: WindowShape, global: bool) {
        let open: Vec<i64> = windows(shape, row.3).into_iter().filter(|end| end - 1 > self.watermark).collect();
        self.late += u64::from(open.is_empty());
        for end in open {
            let key = if global { String::new() } else { row.0.to_owned() };
            self.open.entry((end, key)).or_default().push(row);
        }
    }

    fn advance(&mut self, watermark: i64, global: bool) {
        self.watermark = watermark;
        while let Some(entry) = self.open.first_entry() {
            if entry.key().0 - 1 > watermark {
                break;
            }
            let ((end, key), rows) = entry.remove_entry();
            let mut line = if global { vec![] } else { vec![key] };
            line.extend(expected(&rows));
            line.push(end.to_string());
            self.emitted.push(line);
        }
    }
}

/// The rows that came of windows, with the end of each.
fn closed(out: &[Batch], shape: WindowShape, width: usize) -> Vec<Vec<String>> {
    let mut emitted: Vec<Vec<String>> = Vec::new();
    for batch in out {
        let ends = column_i64(std::slice::from_ref(batch), width + 1);
        let starts = column_i64(std::slice::from_ref(batch), width);
        let row_times = column_i64(std::slice::from_ref(batch), width + 2);
        for (i, (_, mut cells)) in lines(batch).into_iter().enumerate() {
            assert_eq!((starts[i], row_times[i]), (ends[i] - shape.size, ends[i] - 1));
            cells.truncate(width);
            cells.push(ends[i].to_string());
            emitted.push(cells);
        }
    }
    emitted
}

fn check(steps: Vec<Step>, shape: WindowShape, global: bool, partials: bool) {
    let group: &[usize] = if global { &[] } else { &[0] };
    let spec = aggregation(group);
    let input = if partials { AggregateInput::Partials } else { AggregateInput::Rows };
    let factory = windowed(spec.clone(), shape, EVENT, input);
    let first = LocalAggregate::new(LocalAggregateSpec {
        aggregation: spec,
        window: Some((shape, EVENT)),
        retract_input: false,
    })
    .unwrap();
    let mut world = World::new();
    let mut parallelism = 1;
    let mut before = world.start(&first, 1, &[]).remove(0);
    let mut subtasks = world.start(&factory, parallelism, &[]);
    let mut model = Model { watermark: -1000, late: 0, open: BTreeMap::new(), emitted: Vec::new() };
    let mut out: Vec<Batch> = Vec::new();
    let mut saved = (Vec::new(), model.clone(), 0);
    let mut restored = false;
    let deliver = |before: &mut Subtask, subtasks: &mut Vec<Subtask>, parallelism: u32| {
        for out in before.take() {
            for (subtask, rows) in subtasks.iter_mut().zip(route(&out.rows, group, parallelism)) {
                subtask.process(rows);
            }
        }
    };
    let end = model.watermark + 3000;
    for step in steps.into_iter().chain([Step::Watermark(end)]) {
        match step {
            Step::Rows(rows) => {
                let rows: Vec<Row> = rows.into_iter().map(|r| (r.0, r.1, r.2, r.3 + model.watermark.max(0))).collect();
                for row in &rows {
                    model.add(*row, shape, global);
                }
                if partials {
                    before.process(batch(&rows));
                } else {
                    before.out.0.push(Batch::inserts(batch(&rows)));
                }
            }
            Step::Watermark(by) => {
                let watermark = model.watermark.max(-10) + by;
                model.advance(watermark, global);
                before.watermark(watermark);
                deliver(&mut before, &mut subtasks, parallelism);
                for subtask in &mut subtasks {
                    subtask.watermark(watermark);
                }
            }
            Step::Checkpoint => {
                world.checkpoint(std::slice::from_mut(&mut before));
                deliver(&mut before, &mut subtasks, parallelism);
                let snapshots = world.checkpoint(&mut subtasks);
                saved = (snapshots, model.clone(), out.len());
            }
            Step::Restore(with) => {
                restored = true;
                parallelism = with;
                before = world.start(&first, 1, &[]).remove(0);
                subtasks = world.start(&factory, parallelism, &saved.0);
                model = saved.1.clone();
                out.truncate(saved.2);
            }
        }
        deliver(&mut before, &mut subtasks, parallelism);
        out.extend(subtasks.iter_mut().flat_map(Subtask::take));
    }
    let mut emitted = closed(&out, shape, group.len() + aggregates().len());
    emitted.sort();
    model.emitted.sort();
    assert_eq!(emitted, model.emitted);
    if !restored {
        assert_eq!(subtasks.iter().map(|s| s.counters.late_rows.get()).sum::<u64>(), model.late);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn windows_are_those_of_a_naive_model_with_late_rows_checkpoints_restores_and_rescales(
        steps in steps(), shape in shapes(), global in any::<bool>()
    ) {
        check(steps, shape, global, false);
    }

    #[test]
    fn pre_aggregation_by_slices_changes_nothing(steps in steps(), shape in shapes(), global in any::<bool>()) {
        check(steps, shape, global, true);
    }
}
