//! The regular join against the join of what has come so far, over rows that change, in any batch split, with checkpoints and
//! restores to another parallelism in between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "join/interval.rs"]
mod interval;
#[path = "join/lookup.rs"]
mod lookup;
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion_expr::Operator as BinaryOperator;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, Column};
use proptest::prelude::*;
use support::torture::{Deal, Event, Stage, Torture, net, seeds, ways};
use support::{Subtask, World, ints, lines, route_batch, schema, strings};
use weir_engine::{Batch, PIECE_ROWS, RowKind};
use weir_operators::{JoinInput, JoinKind, NotIn, NotInSpec, RegularJoin, RegularJoinSpec};

/// A key, a number that tells rows apart where the side has such a column, and a value that the condition compares.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Row {
    key: Option<i64>,
    id: i64,
    value: Option<i64>,
}

const KINDS: [JoinKind; 6] =
    [JoinKind::Inner, JoinKind::Left, JoinKind::Right, JoinKind::Full, JoinKind::Semi, JoinKind::Anti];

fn columns() -> SchemaRef {
    schema(&[("k", DataType::Int64, true), ("id", DataType::Utf8, false), ("v", DataType::Int64, true)])
}

fn batch(rows: &[(RowKind, Row)]) -> Batch {
    let columns_of = vec![
        ints(rows.iter().map(|(_, row)| row.key)),
        strings(rows.iter().map(|(_, row)| Some(format!("id {}", row.id)))),
        ints(rows.iter().map(|(_, row)| row.value)),
    ];
    let kinds = rows.iter().map(|(kind, _)| *kind).collect();
    Batch::with_kinds(RecordBatch::try_new(columns(), columns_of).unwrap(), kinds)
}

#[derive(Clone, Copy, Debug)]
struct Case {
    kind: JoinKind,
    /// `left.v <= right.v` must hold.
    condition: bool,
    nulls_match: bool,
    /// The left, and the right, side has ids that no two rows share.
    unique: [bool; 2],
    /// Their rows are taken back too.
    retracts: [bool; 2],
}

impl Case {
    fn operator(self) -> RegularJoin {
        let side = |side: usize| JoinInput {
            schema: columns(),
            keys: vec![0],
            outputs: 3,
            unique: self.unique[side].then(|| vec![1]),
            retracts: self.retracts[side],
        };
        let condition = || {
            let (left, right) = (Arc::new(Column::new("v", 2)), Arc::new(Column::new("v", 5)));
            Arc::new(BinaryExpr::new(left, BinaryOperator::LtEq, right)) as Arc<dyn PhysicalExpr>
        };
        RegularJoin::new(RegularJoinSpec {
            left: side(0),
            right: side(1),
            kind: self.kind,
            nulls_match: vec![self.nulls_match],
            residual: self.condition.then(condition),
        })
        .unwrap()
    }

    fn matches(self, left: &Row, right: &Row) -> bool {
        let keys = left.key == right.key && (left.key.is_some() || self.nulls_match);
        let values = left.value.zip(right.value).is_some_and(|(left, right)| left <= right);
        keys && (values || !self.condition)
    }

    /// The join of all that is there, as text, and how often.
    fn answer(self, sides: &[Vec<Row>; 2]) -> BTreeMap<String, i64> {
        let [left, right] = sides;
        let text = |row: Option<&Row>| {
            let number = |n: Option<i64>| n.map_or("-".to_owned(), |n| n.to_string());
            row.map_or("- - -".to_owned(), |row| format!("{} id {} {}", number(row.key), row.id, number(row.value)))
        };
        let mut rows = Vec::new();
        for l in left {
            let partners: Vec<&Row> = right.iter().filter(|r| self.matches(l, r)).collect();
            match self.kind {
                JoinKind::Semi | JoinKind::Anti => {
                    if partners.is_empty() == (self.kind == JoinKind::Anti) {
                        rows.push(text(Some(l)));
                    }
                }
                _ => {
                    rows.extend(partners.iter().map(|r| format!("{} {}", text(Some(l)), text(Some(r)))));
                    if partners.is_empty() && self.kind.preserves()[0] {
                        rows.push(format!("{} {}", text(Some(l)), text(None)));
                    }
                }
            }
        }
        if self.kind.preserves()[1] {
            let alone = right.iter().filter(|r| !left.iter().any(|l| self.matches(l, r)));
            rows.extend(alone.map(|r| format!("{} {}", text(None), text(Some(r)))));
        }
        let mut counted = BTreeMap::new();
        for row in rows {
            *counted.entry(row).or_default() += 1;
        }
        counted
    }
}

/// What a changelog makes of a table. No row may be taken back that is not there.
#[derive(Default)]
struct Net(BTreeMap<String, i64>);

impl Net {
    fn apply(&mut self, batches: &[Batch]) {
        for (kind, cells) in batches.iter().flat_map(lines) {
            let row = cells.join(" ");
            let times = self.0.entry(row.clone()).or_default();
            *times += if kind.is_addition() { 1 } else { -1 };
            assert!(*times >= 0, "{} {row} of a row that is not there", kind.short());
            if *times == 0 {
                self.0.remove(&row);
            }
        }
    }
}

/// What happens next to one side.
#[derive(Clone, Debug)]
enum Step {
    Add { key: Option<i64>, value: Option<i64>, again: bool },
    Remove(usize),
    Update { which: usize, key: Option<i64>, value: Option<i64> },
}

fn key() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![5 => (0i64..3).prop_map(Some), 1 => Just(None)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (key(), key(), any::<bool>()).prop_map(|(key, value, again)| Step::Add { key, value, again }),
        2 => any::<usize>().prop_map(Step::Remove),
        2 => (any::<usize>(), key(), key()).prop_map(|(which, key, value)| Step::Update { which, key, value }),
    ]
}

/// Makes changes of steps, over what is there.
fn changes(case: Case, side: usize, rows: &mut Vec<Row>, next: &mut i64, steps: &[Step]) -> Vec<(RowKind, Row)> {
    let mut changes = Vec::new();
    for step in steps {
        match step.clone() {
            Step::Add { key, value, again } => {
                // Without a unique key a row may come several times.
                let same = rows.last().filter(|_| again && !case.unique[side]).cloned();
                let row = same.unwrap_or_else(|| {
                    *next += 1;
                    Row { key, id: *next, value }
                });
                rows.push(row.clone());
                changes.push((RowKind::Insert, row));
            }
            Step::Remove(which) if case.retracts[side] && !rows.is_empty() => {
                let row = rows.remove(which % rows.len());
                changes.push((RowKind::Delete, row));
            }
            Step::Update { which, key, value } if case.retracts[side] && !rows.is_empty() => {
                let which = which % rows.len();
                let before = rows.remove(which);
                let after = Row { key, value, ..before.clone() };
                rows.push(after.clone());
                changes.extend([(RowKind::UpdateBefore, before), (RowKind::UpdateAfter, after)]);
            }
            Step::Remove(_) | Step::Update { .. } => {}
        }
    }
    changes
}

fn give(subtasks: &mut [Subtask], side: usize, batch: &Batch, net: &mut Net) {
    let routed = route_batch(batch, &[0], subtasks.len() as u32);
    for (subtask, batch) in subtasks.iter_mut().zip(routed) {
        subtask.try_input(side, batch).unwrap();
        net.apply(&subtask.take());
    }
}

fn case() -> impl Strategy<Value = Case> {
    (0..KINDS.len(), any::<(bool, bool, [bool; 2], [bool; 2])>()).prop_map(
        |(kind, (condition, nulls_match, unique, retracts))| Case {
            kind: KINDS[kind],
            condition,
            nulls_match,
            unique,
            retracts,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn what_has_come_out_is_the_join_of_what_has_come_in(
        case in case(),
        rounds in proptest::collection::vec((0usize..2, proptest::collection::vec(step(), 1..8), 0u32..6), 1..14),
    ) {
        let operator = case.operator();
        let mut world = World::new();
        let mut subtasks = world.start(&operator, 2, &[]);
        let (mut sides, mut next, mut net) = ([Vec::new(), Vec::new()], 0, Net::default());
        for (side, steps, then) in rounds {
            let changes = changes(case, side, &mut sides[side], &mut next, &steps);
            if !changes.is_empty() {
                give(&mut subtasks, side, &batch(&changes), &mut net);
            }
            prop_assert_eq!(&net.0, &case.answer(&sides), "{:?}", case);
            if (1..4).contains(&then) {
                let snapshots = world.checkpoint(&mut subtasks);
                subtasks = world.start(&operator, then, &snapshots);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_split_any_checkpoint_and_any_number_of_subtasks_come_to_the_same_join(
        case in case(),
        rounds in proptest::collection::vec((0usize..2, proptest::collection::vec(step(), 1..8)), 1..8),
        seed in seeds(),
    ) {
        let operator = case.operator();
        let (mut sides, mut next, mut events) = ([Vec::new(), Vec::new()], 0, Vec::new());
        for (side, steps) in rounds {
            let changes = changes(case, side, &mut sides[side], &mut next, &steps);
            if !changes.is_empty() {
                events.push(Event::Rows(side, batch(&changes)));
            }
        }
        let deal = || Deal::Hash(vec![0]);
        let torture = Torture { stages: vec![Stage { factory: &operator, inputs: vec![deal(), deal()] }], events };
        let expected = case.answer(&sides);
        for schedule in ways(seed) {
            let bag: BTreeMap<String, i64> = net(&torture.run(schedule), schedule)
                .into_iter()
                .map(|(cells, count)| (cells.join(" "), count))
                .collect();
            prop_assert_eq!(&bag, &expected, "{:?} {:?}", case, schedule);
        }
    }
}

fn plain(kind: JoinKind) -> Case {
    Case { kind, condition: false, nulls_match: false, unique: [false; 2], retracts: [true; 2] }
}

fn row(key: i64, id: i64) -> Row {
    Row { key: Some(key), id, value: Some(id) }
}

/// All kinds and texts that come of some changes of one side.
fn come_of(subtask: &mut Subtask, side: usize, changes: &[(RowKind, Row)]) -> Vec<String> {
    subtask.try_input(side, batch(changes)).unwrap();
    support::text(&subtask.take())
}

#[test]
fn nulls_beside_a_row_are_taken_back_before_its_first_partner_comes_and_come_back_after_the_last_one_goes() {
    use RowKind::{Delete, Insert, UpdateAfter, UpdateBefore};
    let mut world = World::new();
    let mut left = world.start(&plain(JoinKind::Left).operator(), 1, &[]).remove(0);
    assert_eq!(come_of(&mut left, 0, &[(Insert, row(1, 1))]), ["+I 1 id 1 1 - - -"]);
    assert_eq!(
        come_of(&mut left, 1, &[(Insert, row(1, 7)), (Insert, row(1, 8))]),
        ["-D 1 id 1 1 - - -", "+I 1 id 1 1 1 id 7 7", "+I 1 id 1 1 1 id 8 8"]
    );
    assert_eq!(
        come_of(&mut left, 1, &[(Delete, row(1, 7)), (Delete, row(1, 8))]),
        ["-D 1 id 1 1 1 id 7 7", "-D 1 id 1 1 1 id 8 8", "+I 1 id 1 1 - - -"]
    );
    let mut inner = world.start(&plain(JoinKind::Inner).operator(), 1, &[]).remove(0);
    come_of(&mut inner, 0, &[(Insert, row(1, 1))]);
    assert_eq!(come_of(&mut inner, 1, &[(Insert, row(1, 7))]), ["+I 1 id 1 1 1 id 7 7"]);
    assert_eq!(
        come_of(&mut inner, 1, &[(UpdateBefore, row(1, 7)), (UpdateAfter, row(1, 9))]),
        ["-D 1 id 1 1 1 id 7 7", "+I 1 id 1 1 1 id 9 9"]
    );
}

#[test]
fn a_row_that_was_never_there_takes_nothing_back() {
    let mut world = World::new();
    for kind in KINDS {
        let mut subtask = world.start(&plain(kind).operator(), 1, &[]).remove(0);
        come_of(&mut subtask, 1, &[(RowKind::Insert, row(1, 7))]);
        let nothing: [&str; 0] = [];
        assert_eq!(come_of(&mut subtask, 0, &[(RowKind::Delete, row(1, 1))]), nothing, "{kind:?}");
    }
}

#[test]
fn a_row_with_many_partners_comes_out_in_pieces_and_what_each_has_matched_is_kept() {
    const PARTNERS: i64 = 3 * PIECE_ROWS as i64 + 100;
    let mut world = World::new();
    for kind in KINDS {
        for retracts in [[true; 2], [true, false]] {
            let case = Case { retracts, ..plain(kind) };
            let operator = case.operator();
            let mut subtasks = world.start(&operator, 1, &[]);
            let mut net = Net::default();
            let right: Vec<Row> = (0..PARTNERS).map(|id| row(1, id)).collect();
            for rows in right.chunks(5000) {
                let rows: Vec<_> = rows.iter().map(|row| (RowKind::Insert, row.clone())).collect();
                give(&mut subtasks, 1, &batch(&rows), &mut net);
            }
            let mut sides = [vec![row(1, -1), row(1, -2), row(2, -3)], right];
            let rows: Vec<_> = sides[0].iter().map(|row| (RowKind::Insert, row.clone())).collect();
            subtasks[0].try_input(0, batch(&rows)).unwrap();
            let out = subtasks[0].take();
            assert!(out.iter().all(|piece| piece.len() <= PIECE_ROWS));
            net.apply(&out);
            assert!(net.0 == case.answer(&sides), "{case:?}: {} rows", net.0.len());

            let snapshots = world.checkpoint(&mut subtasks);
            subtasks = world.start(&operator, 1, &snapshots);
            for row in [row(1, -1), row(1, -2)] {
                sides[0].retain(|other| *other != row);
                give(&mut subtasks, 0, &batch(&[(RowKind::Delete, row)]), &mut net);
                assert!(net.0 == case.answer(&sides), "{case:?}: {} rows", net.0.len());
            }
        }
    }
}

#[test]
fn a_batch_of_many_rows_and_many_partners_is_joined_a_run_at_a_time() {
    let mut world = World::new();
    let case = Case { condition: true, ..plain(JoinKind::Full) };
    let mut subtasks = world.start(&case.operator(), 1, &[]);
    let mut net = Net::default();
    let sides = [0, 1].map(|side| (0..300).map(|id| row(id % 3, id * (side + 1))).collect::<Vec<Row>>());
    for (side, rows) in sides.iter().enumerate() {
        let rows: Vec<_> = rows.iter().map(|row| (RowKind::Insert, row.clone())).collect();
        give(&mut subtasks, side, &batch(&rows), &mut net);
    }
    assert!(net.0 == case.answer(&sides), "{} rows", net.0.len());
}

#[test]
fn a_row_that_takes_another_back_is_refused_where_the_plan_knew_of_none() {
    let case = Case { retracts: [false; 2], ..plain(JoinKind::Inner) };
    let mut subtask = World::new().start(&case.operator(), 1, &[]).remove(0);
    let error = subtask.try_input(0, batch(&[(RowKind::Delete, row(1, 1))])).unwrap_err();
    assert!(error.to_string().contains("planned for a side without"), "{error}");
}

/// `left.v NOT IN (SELECT v FROM right WHERE right.k = left.k)`, or without the WHERE.
fn not_in(keyed: bool) -> NotIn {
    let keys = if keyed { vec![0] } else { vec![] };
    NotIn::new(NotInSpec {
        left: columns(),
        outputs: 3,
        right: columns(),
        left_keys: keys.clone(),
        right_keys: keys,
        left_value: 2,
        right_value: 2,
    })
    .unwrap()
}

/// SQL's three values of `NOT IN`: only true counts.
fn not_in_answer(keyed: bool, [left, right]: &[Vec<Row>; 2]) -> BTreeMap<String, i64> {
    let number = |n: Option<i64>| n.map_or("-".to_owned(), |n| n.to_string());
    let mut counted = BTreeMap::new();
    for l in left {
        let of_key = |r: &&Row| !keyed || (l.key.is_some() && l.key == r.key);
        let set: Vec<Option<i64>> = right.iter().filter(of_key).map(|r| r.value).collect();
        let certain = set.is_empty() || (l.value.is_some() && set.iter().all(|v| v.is_some() && *v != l.value));
        if certain {
            *counted.entry(format!("{} id {} {}", number(l.key), l.id, number(l.value))).or_default() += 1;
        }
    }
    counted
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn not_in_with_its_nulls_is_what_sql_says_over_rows_that_change(
        keyed in any::<bool>(),
        rounds in proptest::collection::vec((0usize..2, proptest::collection::vec(step(), 1..6), 0u32..6), 1..14),
    ) {
        let operator = not_in(keyed);
        let case = Case { unique: [false; 2], retracts: [true; 2], ..plain(JoinKind::Anti) };
        let mut world = World::new();
        let mut subtasks = world.start(&operator, 2, &[]);
        let (mut sides, mut next, mut net) = ([Vec::new(), Vec::new()], 0, Net::default());
        for (side, steps, then) in rounds {
            let changes = changes(case, side, &mut sides[side], &mut next, &steps);
            if !changes.is_empty() {
                let keys: &[usize] = if keyed { &[0] } else { &[] };
                let batch = batch(&changes);
                let routed = route_batch(&batch, keys, subtasks.len() as u32);
                for (subtask, batch) in subtasks.iter_mut().zip(routed) {
                    subtask.try_input(side, batch).unwrap();
                    net.apply(&subtask.take());
                }
            }
            prop_assert_eq!(&net.0, &not_in_answer(keyed, &sides));
            if (1..4).contains(&then) {
                let snapshots = world.checkpoint(&mut subtasks);
                subtasks = world.start(&operator, then, &snapshots);
            }
        }
    }
}

#[test]
fn the_first_row_and_a_null_of_the_right_take_back_many_rows_in_pieces() {
    const ROWS: i64 = 2 * PIECE_ROWS as i64 + 50;
    let operator = not_in(false);
    let mut subtask = World::new().start(&operator, 1, &[]).remove(0);
    let left: Vec<_> = (0..ROWS).map(|id| (RowKind::Insert, Row { key: None, id, value: Some(id) })).collect();
    let mut net = Net::default();
    let mut give = |side: usize, rows: &[(RowKind, Row)]| {
        subtask.try_input(side, batch(rows)).unwrap();
        let out = subtask.take();
        assert!(side == 0 || out.iter().all(|piece| piece.len() <= PIECE_ROWS));
        net.apply(&out);
        net.0.len() as i64
    };
    let of = |kind, value| [(kind, Row { key: None, id: 0, value })];
    assert_eq!(give(0, &left), ROWS);
    assert_eq!(give(1, &of(RowKind::Insert, Some(7))), ROWS - 1);
    assert_eq!(give(1, &of(RowKind::Insert, None)), 0);
    assert_eq!(give(1, &of(RowKind::Delete, None)), ROWS - 1);
    assert_eq!(give(1, &of(RowKind::Delete, Some(7))), ROWS);
}
