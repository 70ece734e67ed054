//! The interval join against a model that goes through the rows one by one, in any batch split, with checkpoints, restores, other
//! numbers of subtasks and lost work between any two steps.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion_expr::Operator as BinaryOperator;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, Column};
use proptest::prelude::*;
use weir_engine::{Batch, OperatorFactory, PIECE_ROWS};
use weir_operators::{IntervalJoin, IntervalJoinSpec, JoinInput, JoinKind, TimeColumn};

use crate::support::torture::{Deal, Event, Stage, Torture, net, seeds, ways};
use crate::support::{World, column_i64, ints, lines, schema, time_type, times};

const KINDS: [JoinKind; 6] =
    [JoinKind::Inner, JoinKind::Left, JoinKind::Right, JoinKind::Full, JoinKind::Semi, JoinKind::Anti];

/// As the last moment of a window is before its end.
const OFFSET: i64 = -1;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    key: Option<i64>,
    value: i64,
    time: i64,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    kind: JoinKind,
    lower: i64,
    upper: i64,
    /// `left.v <= right.v` must hold.
    condition: bool,
    /// Time is the rows' own, and not the clock's.
    event_time: bool,
    drops_late: bool,
}

fn columns() -> SchemaRef {
    schema(&[("k", DataType::Int64, true), ("v", DataType::Int64, false), ("t", time_type(), false)])
}

fn batch(rows: &[Row]) -> Batch {
    let columns_of = vec![
        ints(rows.iter().map(|row| row.key)),
        ints(rows.iter().map(|row| Some(row.value))),
        times(rows.iter().map(|row| row.time)),
    ];
    Batch::inserts(RecordBatch::try_new(columns(), columns_of).unwrap())
}

impl Case {
    fn operator(self) -> IntervalJoin {
        let side = || JoinInput { schema: columns(), keys: vec![0], outputs: 3, unique: None, retracts: false };
        let condition = || {
            let (left, right) = (Arc::new(Column::new("v", 1)), Arc::new(Column::new("v", 4)));
            Arc::new(BinaryExpr::new(left, BinaryOperator::LtEq, right)) as Arc<dyn PhysicalExpr>
        };
        IntervalJoin::new(IntervalJoinSpec {
            left: side(),
            right: side(),
            times: self.event_time.then_some([TimeColumn { column: 2, offset: OFFSET }; 2]),
            kind: self.kind,
            lower: self.lower,
            upper: self.upper,
            drops_late: self.drops_late,
            residual: self.condition.then(condition),
        })
        .unwrap()
    }

    fn preserves(self, side: usize) -> bool {
        self.kind.preserves()[side] || (self.kind == JoinKind::Anti && side == 0)
    }

    fn ahead(self, side: usize) -> i64 {
        if side == 0 { -self.lower } else { self.upper }
    }
}

/// A row that waits in the model.
struct Waiting {
    row: Row,
    time: i64,
    matched: bool,
}

/// Goes through all rows as they come.
struct Model {
    case: Case,
    now: i64,
    waiting: [Vec<Waiting>; 2],
    out: BTreeMap<String, i64>,
}

impl Model {
    fn new(case: Case) -> Self {
        Self { case, now: i64::MIN, waiting: [Vec::new(), Vec::new()], out: BTreeMap::new() }
    }

    fn put_out(&mut self, side: usize, row: &Row, other: Option<&Row>) {
        let text = |row: Option<&Row>| {
            let columns = row.map(|row| lines(&batch(std::slice::from_ref(row))).remove(0).1);
            columns.unwrap_or_else(|| vec!["-".to_owned(); 3]).join(" ")
        };
        let (own, other) = (text(Some(row)), text(other));
        if self.case.kind.puts_out_left_only() {
            *self.out.entry(own).or_default() += 1;
            return;
        }
        let line = if side == 0 { format!("{own} {other}") } else { format!("{other} {own}") };
        *self.out.entry(line).or_default() += 1;
    }

    fn give(&mut self, side: usize, row: &Row) {
        let case = self.case;
        let time = if case.event_time { row.time + OFFSET } else { self.now };
        if case.drops_late && row.key.is_some() && time <= self.now {
            return;
        }
        let left_only = case.kind.puts_out_left_only();
        let mut partners = Vec::new();
        for other in &mut self.waiting[1 - side] {
            let difference = if side == 0 { time - other.time } else { other.time - time };
            let (left, right) = if side == 0 { (row, &other.row) } else { (&other.row, row) };
            let fits = row.key.is_some()
                && row.key == other.row.key
                && (case.lower..=case.upper).contains(&difference)
                && (!case.condition || left.value <= right.value);
            if fits {
                let is_first = !std::mem::replace(&mut other.matched, true);
                partners.push((other.row.clone(), is_first));
            }
        }
        let matched = !partners.is_empty();
        for (other, is_first) in &partners {
            if !left_only {
                self.put_out(side, row, Some(other));
            } else if case.kind == JoinKind::Semi && side == 1 && *is_first {
                self.put_out(0, other, None);
            }
        }
        if case.kind == JoinKind::Semi && side == 0 && matched {
            self.put_out(0, row, None);
        }
        if row.key.is_some() && self.now < time + case.ahead(side) {
            self.waiting[side].push(Waiting { row: row.clone(), time, matched });
        } else if !matched && case.preserves(side) {
            self.put_out(side, row, None);
        }
    }

    fn reach(&mut self, now: i64) {
        self.now = now;
        for side in [0, 1] {
            let ahead = self.case.ahead(side);
            let (gone, stay) = std::mem::take(&mut self.waiting[side])
                .into_iter()
                .partition(|of| of.time.saturating_add(ahead) <= now);
            self.waiting[side] = stay;
            let gone: Vec<Waiting> = gone;
            let preserves = self.case.preserves(side);
            for of in gone.iter().filter(|of| !of.matched && preserves) {
                self.put_out(side, &of.row, None);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Rows(usize, Vec<Row>),
    Time(i64),
}

fn row() -> impl Strategy<Value = Row> {
    (prop::option::weighted(0.9, 0..3i64), 0..3i64, 0..40i64).prop_map(|(key, value, time)| Row { key, value, time })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0usize..2, prop::collection::vec(row(), 1..8)).prop_map(|(side, rows)| Step::Rows(side, rows)),
        1 => (1..15i64).prop_map(Step::Time),
    ];
    prop::collection::vec(step, 1..14)
}

fn case() -> impl Strategy<Value = Case> {
    let bounds = prop_oneof![
        3 => (-12..=0i64, 0..=12i64),
        1 => (-12..=-4i64, -4..=0i64),
        1 => (0..=4i64, 4..=12i64),
        1 => Just((0, 0)),
    ];
    (0..KINDS.len(), bounds, any::<(bool, bool, bool)>()).prop_map(
        |(kind, (lower, upper), (condition, event_time, late))| Case {
            kind: KINDS[kind],
            lower,
            upper,
            condition,
            event_time,
            drops_late: event_time && late,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn what_comes_out_is_what_the_model_says_late_rows_included(case in case(), steps in steps(), seed in seeds()) {
        let operator = case.operator();
        let mut model = Model::new(case);
        let mut events = Vec::new();
        let mut now = 0;
        if !case.event_time {
            model.reach(0);
        }
        for step in &steps {
            match step {
                Step::Rows(side, rows) => {
                    for row in rows {
                        model.give(*side, row);
                    }
                    events.push(Event::Rows(*side, batch(rows)));
                }
                Step::Time(more) => {
                    now += more;
                    model.reach(now);
                    events.push(if case.event_time { Event::Watermark(now) } else { Event::Clock(now) });
                }
            }
        }
        model.reach(i64::MAX);
        let deal = || Deal::Hash(vec![0]);
        let torture = Torture { stages: vec![Stage { factory: &operator, inputs: vec![deal(), deal()] }], events };
        for schedule in ways(seed) {
            let out = torture.run(schedule);
            prop_assert!(out.iter().all(|(kind, _)| kind.short() == "+I"), "{:?}", out);
            let bag: BTreeMap<String, i64> =
                net(&out, schedule).into_iter().map(|(cells, count)| (cells.join(" "), count)).collect();
            prop_assert_eq!(&bag, &model.out, "{:?} {:?}", case, schedule);
        }
    }

    /// Rows that are not late: none comes out that is older than what event time behind the join has been told.
    #[test]
    fn event_time_is_held_back_by_as_much_as_a_row_may_wait(case in case(), steps in steps()) {
        let case = Case { event_time: true, ..case };
        let operator = case.operator();
        let mut subtask = World::new().start(&operator, 1, &[]).remove(0);
        let held = case.ahead(0).max(case.ahead(1)).max(0);
        prop_assert_eq!(operator.holds_back(), held > 0);
        let (mut now, mut told) = (0, i64::MIN);
        subtask.watermark(0);
        for step in steps {
            match step {
                Step::Rows(side, mut rows) => {
                    for row in &mut rows {
                        row.time += now + 1 - OFFSET;
                    }
                    subtask.try_input(side, batch(&rows)).unwrap();
                }
                Step::Time(more) => {
                    now += more;
                    subtask.watermark(now);
                }
            }
            let out = subtask.take();
            let present = |column: usize| {
                let all = out.iter().flat_map(lines).map(move |(_, cells)| cells[column] != "-");
                column_i64(&out, column).into_iter().zip(all).filter(|(_, present)| *present).map(|(time, _)| time)
            };
            let second = (!case.kind.puts_out_left_only()).then(|| present(5)).into_iter().flatten();
            for time in present(2).chain(second) {
                prop_assert!(time + OFFSET > told, "{} after {}", time, told);
            }
            told = now - held;
        }
    }
}

#[test]
fn many_rows_of_one_key_and_time_come_out_in_pieces_and_go_in_pieces() {
    const ROWS: i64 = 2 * PIECE_ROWS as i64 + 100;
    let case =
        Case { kind: JoinKind::Full, lower: -5, upper: 5, condition: false, event_time: true, drops_late: false };
    let operator = case.operator();
    let mut world = World::new();
    let mut subtask = world.start(&operator, 1, &[]).remove(0);
    let rows: Vec<Row> = (0..ROWS).map(|value| Row { key: Some(1), value: value / 2, time: 10 }).collect();
    for rows in rows.chunks(3000) {
        subtask.try_input(0, batch(rows)).unwrap();
    }
    let alone = Row { key: Some(1), value: -1, time: 30 };
    subtask.try_input(0, batch(&[alone])).unwrap();
    subtask.try_input(1, batch(&[Row { key: Some(1), value: 7, time: 12 }])).unwrap();
    let out = subtask.take();
    assert!(out.iter().all(|piece| piece.len() <= PIECE_ROWS));
    assert_eq!(out.iter().map(Batch::len).sum::<usize>() as i64, ROWS);
    // The same again, of another key, that nobody meets.
    let rows: Vec<Row> = rows.into_iter().map(|row| Row { key: Some(2), ..row }).collect();
    subtask.try_input(1, batch(&rows)).unwrap();
    subtask.watermark(16);
    let out = subtask.take();
    assert!(out.len() > 2 && out.iter().all(|piece| piece.len() <= PIECE_ROWS));
    assert_eq!(out.iter().map(Batch::len).sum::<usize>() as i64, ROWS, "what has matched goes in silence");
    subtask.end();
    assert_eq!(subtask.take().iter().map(Batch::len).sum::<usize>(), 1);
}
