//! Every operator in the torture harness, against answers that a few lines over all rows give.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion_common::ScalarValue;
use datafusion_expr::Operator as Op;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, Column, Literal};
use proptest::prelude::*;
use support::torture::{Bag, Deal, Event, Stage, Torture, bag, seeds, ways};
use support::*;
use weir_engine::{Batch, OperatorFactory, RowKind};
use weir_operators::{
    AggregateFunction::{Avg, Count, FirstValue, LastValue, ListAgg, Max, Min, Sum},
    AggregateInput, AggregateSpec, Aggregation, Conflict, ConflictSpec, Deduplicate, DeduplicateSpec, FilterProject,
    Keep, KeyedAggregate, KeyedAggregateSpec, LocalAggregate, LocalAggregateSpec, OnConflict, RankFunction, TimeSource,
    TopN, TopNSpec, UpsertMaterialize, UpsertMaterializeSpec, WindowAggregate, WindowAggregateSpec, WindowAssign,
    WindowAssignSpec, WindowShape,
};
use weir_state::SortOrder;

/// k, v, s, f, t.
fn input() -> SchemaRef {
    schema(&[
        ("k", DataType::Int64, true),
        ("v", DataType::Int64, true),
        ("s", DataType::Utf8, true),
        ("f", DataType::Boolean, true),
        ("t", time_type(), false),
    ])
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    k: Option<i64>,
    v: Option<i64>,
    s: Option<&'static str>,
    f: Option<bool>,
    t: i64,
}

fn record(rows: &[Row]) -> RecordBatch {
    RecordBatch::try_new(
        input(),
        vec![
            ints(rows.iter().map(|r| r.k)),
            ints(rows.iter().map(|r| r.v)),
            strings(rows.iter().map(|r| r.s)),
            bools(rows.iter().map(|r| r.f)),
            times(rows.iter().map(|r| r.t)),
        ],
    )
    .unwrap()
}

fn row() -> impl Strategy<Value = Row> {
    let texts = prop_oneof![Just(None), Just(Some("")), Just(Some("x")), Just(Some("a longer text, not inline"))];
    (prop::option::weighted(0.9, 0..4i64), prop::option::of(-4..5i64), texts, prop::option::of(any::<bool>()), 0..60i64)
        .prop_map(|(k, v, s, f, t)| Row { k, v, s, f, t })
}

fn batches() -> impl Strategy<Value = Vec<Vec<Row>>> {
    prop::collection::vec(prop::collection::vec(row(), 1..12), 1..6)
}

fn inserts(batches: &[Vec<Row>]) -> Vec<Event> {
    batches.iter().map(|rows| Event::Rows(0, Batch::inserts(record(rows)))).collect()
}

/// Cells as [`lines`] writes them.
fn cells(rows: &[Row]) -> Vec<Vec<String>> {
    lines(&Batch::inserts(record(rows))).into_iter().map(|(_, cells)| cells).collect()
}

fn show<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn aggregates() -> Vec<AggregateSpec> {
    vec![
        AggregateSpec::count_star("all"),
        AggregateSpec::count_star("filtered").filter(3),
        AggregateSpec::new("count", Count, 1),
        AggregateSpec::new("sum", Sum, 1),
        AggregateSpec::new("avg", Avg, 1).filter(3),
        AggregateSpec::new("min", Min, 1),
        AggregateSpec::new("max", Max, 1).filter(3),
        AggregateSpec::new("min_s", Min, 2),
        AggregateSpec::new("max_s", Max, 2),
        AggregateSpec::new("distinct", Count, 1).distinct(),
        AggregateSpec::new("distinct_sum", Sum, 1).distinct().filter(3),
        AggregateSpec::new("distinct_s", Count, 2).distinct(),
    ]
}

/// Those that hang on the order in which rows come.
fn by_arrival() -> Vec<AggregateSpec> {
    vec![
        AggregateSpec::new("first", FirstValue, 1),
        AggregateSpec::new("last", LastValue, 1).filter(3),
        AggregateSpec::new("first_s", FirstValue, 2),
        AggregateSpec::new("last_s", LastValue, 2),
        AggregateSpec::new("list", ListAgg, 2),
        AggregateSpec::new("list_f", ListAgg, 2).filter(3).separated_by(" | "),
        AggregateSpec::new("sum", Sum, 1),
    ]
}

/// What these come to for the rows of a key, by their changes: of equal values the first that came is taken back, whatever row it
/// was of.
fn listed(changes: &[(RowKind, Row)]) -> Vec<String> {
    fn sequence<T: PartialEq>(changes: &[(RowKind, Row)], value: impl Fn(&Row) -> Option<T>) -> Vec<T> {
        let mut sequence = Vec::new();
        for (kind, row) in changes {
            let Some(value) = value(row) else { continue };
            if kind.is_addition() {
                sequence.push(value);
            } else {
                sequence.remove(sequence.iter().position(|of| *of == value).unwrap());
            }
        }
        sequence
    }
    let chosen = |row: &Row| row.f == Some(true);
    let values = sequence(changes, |row| row.v);
    let texts = sequence(changes, |row| row.s);
    let list = |texts: &[&str], separator: &str| show((!texts.is_empty()).then(|| texts.join(separator)));
    vec![
        show(values.first()),
        show(sequence(changes, |row| row.v.filter(|_| chosen(row))).last()),
        show(texts.first()),
        show(texts.last()),
        list(&texts, ","),
        list(&sequence(changes, |row| row.s.filter(|_| chosen(row))), " | "),
        show((!values.is_empty()).then(|| values.iter().sum::<i64>())),
    ]
}

/// What the aggregates come to.
fn aggregated(rows: &[&Row]) -> Vec<String> {
    let chosen: Vec<&&Row> = rows.iter().filter(|r| r.f == Some(true)).collect();
    let values: Vec<i64> = rows.iter().filter_map(|r| r.v).collect();
    let of_chosen: Vec<i64> = chosen.iter().filter_map(|r| r.v).collect();
    let sum = |values: &[i64]| (!values.is_empty()).then(|| values.iter().sum::<i64>());
    let distinct: BTreeSet<i64> = of_chosen.iter().copied().collect();
    let distinct: Vec<i64> = distinct.into_iter().collect();
    vec![
        rows.len().to_string(),
        chosen.len().to_string(),
        values.len().to_string(),
        show(sum(&values)),
        show(sum(&of_chosen).map(|sum| sum / of_chosen.len() as i64)),
        show(values.iter().min()),
        show(of_chosen.iter().max()),
        show(rows.iter().filter_map(|r| r.s).min()),
        show(rows.iter().filter_map(|r| r.s).max()),
        values.iter().collect::<BTreeSet<_>>().len().to_string(),
        show(sum(&distinct)),
        rows.iter().filter_map(|r| r.s).collect::<BTreeSet<_>>().len().to_string(),
    ]
}

fn by_key<'a>(rows: impl IntoIterator<Item = &'a Row>, global: bool) -> Bag {
    let mut groups: BTreeMap<Vec<String>, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        groups.entry(if global { vec![] } else { vec![show(row.k)] }).or_default().push(row);
    }
    bag(groups.into_iter().map(|(key, rows)| [key, aggregated(&rows)].concat()))
}

fn aggregation(group: &[usize]) -> Aggregation {
    Aggregation { input: input(), group: group.to_vec(), aggregates: aggregates() }
}

fn keyed(aggregation: Aggregation, input: AggregateInput, update_before: bool) -> KeyedAggregate {
    KeyedAggregate::new(KeyedAggregateSpec { aggregation, input, retract_input: false, update_before }).unwrap()
}

/// An aggregation alone, or behind a local one, whose rows are dealt so.
fn stages<'a>(
    deal: Deal,
    local: Option<&'a dyn OperatorFactory>,
    global: &'a dyn OperatorFactory,
    key: &[usize],
) -> Vec<Stage<'a>> {
    let mut stages: Vec<Stage<'a>> = local.map(|local| Stage::new(local, deal)).into_iter().collect();
    // The group columns are the first of the partial results.
    let key = if stages.is_empty() { key.to_vec() } else { (0..key.len()).collect() };
    stages.push(Stage::new(global, Deal::Hash(key)));
    stages
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn the_keyed_aggregation(batches in batches(), seed in seeds(), global in any::<bool>(), two_phase in any::<bool>()) {
        let group: &[usize] = if global { &[] } else { &[0] };
        let local = LocalAggregate::new(LocalAggregateSpec { aggregation: aggregation(group), window: None, retract_input: false }).unwrap();
        let local: Option<&dyn OperatorFactory> = two_phase.then_some(&local);
        let input = if two_phase { AggregateInput::Partials } else { AggregateInput::Rows };
        let expected = by_key(batches.iter().flatten(), global);
        let both = keyed(aggregation(group), input, true);
        let torture = Torture { stages: stages(Deal::Any, local, &both, group), events: inserts(&batches) };
        torture.comes_to(&expected, &ways(seed));
        let after = keyed(aggregation(group), input, false);
        let torture = Torture { stages: stages(Deal::Any, local, &after, group), events: inserts(&batches) };
        let key: Vec<usize> = (0..group.len()).collect();
        torture.comes_to_by_key(&expected, &key, &ways(seed));
    }

    #[test]
    fn the_windowed_aggregation(
        batches in batches(), seed in seeds(), global in any::<bool>(), two_phase in any::<bool>(), hop in any::<bool>()
    ) {
        let group: &[usize] = if global { &[] } else { &[0] };
        let shape = if hop { WindowShape::hop(5, 15) } else { WindowShape::tumble(10) };
        let time = TimeSource::Event(4);
        let window = Some((shape, time));
        let local = LocalAggregate::new(LocalAggregateSpec { aggregation: aggregation(group), window, retract_input: false }).unwrap();
        let local: Option<&dyn OperatorFactory> = two_phase.then_some(&local);
        let input = if two_phase { AggregateInput::Partials } else { AggregateInput::Rows };
        let spec = WindowAggregateSpec { aggregation: aggregation(group), input, window: shape, time };
        let windowed = WindowAggregate::new(spec).unwrap();
        // Batch n's times lie behind n times twenty, and what is before that has been fired.
        let batches: Vec<Vec<Row>> = (0i64..)
            .zip(&batches)
            .map(|(n, rows)| rows.iter().map(|row| Row { t: row.t + n * 20, ..row.clone() }).collect())
            .collect();
        let mut events = Vec::new();
        let mut groups: BTreeMap<(i64, Vec<String>), Vec<&Row>> = BTreeMap::new();
        for (n, rows) in (0i64..).zip(&batches) {
            events.extend(inserts(std::slice::from_ref(rows)));
            events.push(Event::Watermark((n + 1) * 20 - 1));
            for row in rows {
                let first = (row.t - shape.size).div_euclid(shape.slide) + 1;
                for end in (first..).map(|i| i * shape.slide + shape.size).take((shape.size / shape.slide) as usize) {
                    let late = end <= n * 20 && n > 0;
                    if !late {
                        let key = if global { vec![] } else { vec![show(row.k)] };
                        groups.entry((end, key)).or_default().push(row);
                    }
                }
            }
        }
        let window_columns = |end: i64| {
            let columns = vec![times([end - shape.size]), times([end]), times([end - 1])];
            let fields = schema(&[("a", time_type(), false), ("b", time_type(), false), ("c", time_type(), false)]);
            lines(&Batch::inserts(RecordBatch::try_new(fields, columns).unwrap())).remove(0).1
        };
        let expected =
            bag(groups.into_iter().map(|((end, key), rows)| [key, aggregated(&rows), window_columns(end)].concat()));
        let torture = Torture { stages: stages(Deal::Any, local, &windowed, group), events };
        torture.comes_to(&expected, &ways(seed));
    }

    #[test]
    fn deduplication(batches in batches(), seed in seeds(), first in any::<bool>(), by_event in any::<bool>()) {
        let keep = if first { Keep::First } else { Keep::Last };
        let order = if by_event { TimeSource::Event(4) } else { TimeSource::Processing };
        let mut kept: BTreeMap<Option<i64>, Row> = BTreeMap::new();
        for row in batches.iter().flatten() {
            let replaces = kept.get(&row.k).is_none_or(|old| match (keep, by_event) {
                (Keep::First, true) => row.t < old.t,
                (Keep::Last, true) => row.t >= old.t,
                (keep, false) => keep == Keep::Last,
            });
            if replaces {
                kept.insert(row.k, row.clone());
            }
        }
        let expected = bag(cells(&kept.into_values().collect::<Vec<_>>()));
        for update_before in [true, false] {
            let spec = DeduplicateSpec { input: input(), keys: vec![0], order, keep, update_before };
            let operator = Deduplicate::new(spec).unwrap();
            let stages = vec![Stage::new(&operator, Deal::Hash(vec![0]))];
            let torture = Torture { stages, events: inserts(&batches) };
            if update_before {
                torture.comes_to(&expected, &ways(seed));
            } else {
                torture.comes_to_by_key(&expected, &[0], &ways(seed));
            }
        }
    }

    #[test]
    fn filters_and_projections_over_rows_that_change(changes in changes(), seed in seeds()) {
        let column = |name: &str, index| Arc::new(Column::new(name, index)) as Arc<dyn PhysicalExpr>;
        let number = Arc::new(Literal::new(ScalarValue::Int64(Some(1)))) as Arc<dyn PhysicalExpr>;
        let filter = Arc::new(BinaryExpr::new(column("v", 1), Op::Gt, number)) as Arc<dyn PhysicalExpr>;
        let output = schema(&[("s", DataType::Utf8, true), ("v", DataType::Int64, true)]);
        let operator =
            FilterProject::new(Some(filter), vec![column("s", 2), column("v", 1)], output).unwrap();
        let there = changes.there();
        let expected = bag(there.iter().filter(|r| r.v > Some(1)).map(|r| vec![show(r.s), show(r.v)]));
        // A row and what takes it back must take one way.
        let stages = vec![Stage::new(&operator, Deal::Hash(vec![0]))];
        Torture { stages, events: changes.events() }.comes_to(&expected, &ways(seed));
    }

    #[test]
    fn the_keyed_aggregation_of_rows_that_change(
        changes in changes(), seed in seeds(), global in any::<bool>(), two_phase in any::<bool>()
    ) {
        let group: &[usize] = if global { &[] } else { &[0] };
        let spec = LocalAggregateSpec { aggregation: aggregation(group), window: None, retract_input: true };
        let local = LocalAggregate::new(spec).unwrap();
        let local: Option<&dyn OperatorFactory> = two_phase.then_some(&local);
        let input = if two_phase { AggregateInput::Partials } else { AggregateInput::Rows };
        let there = changes.there();
        let expected = by_key(&there, global);
        for update_before in [true, false] {
            let aggregation = aggregation(group);
            let spec = KeyedAggregateSpec { aggregation, input, retract_input: true, update_before };
            let operator = KeyedAggregate::new(spec).unwrap();
            // A row and what takes it back take one way, as from an operator before it: another subtask might pass on what it
            // holds of the one before this one passes on the other.
            let one_way = Deal::Hash(vec![0]);
            let torture = Torture { stages: stages(one_way, local, &operator, group), events: changes.events() };
            if update_before {
                torture.comes_to(&expected, &ways(seed));
            } else {
                let key: Vec<usize> = (0..group.len()).collect();
                torture.comes_to_by_key(&expected, &key, &ways(seed));
            }
        }
    }

    #[test]
    fn first_and_last_values_and_lists(changes in changes(), seed in seeds(), retract in any::<bool>()) {
        let changes = if retract {
            changes
        } else {
            let added = |batch: Vec<(RowKind, Row)>| batch.into_iter().filter(|(kind, _)| *kind == RowKind::Insert).collect();
            Changing { batches: changes.batches.into_iter().map(added).collect() }
        };
        let mut groups: BTreeMap<Option<i64>, Vec<(RowKind, Row)>> = BTreeMap::new();
        for change in changes.batches.iter().flatten() {
            groups.entry(change.1.k).or_default().push(change.clone());
        }
        let there: BTreeSet<Option<i64>> = changes.there().iter().map(|row| row.k).collect();
        let of_key = |k: &Option<i64>| [vec![show(*k)], listed(&groups[k])].concat();
        let expected = bag(there.iter().map(of_key));
        let aggregation = Aggregation { input: input(), group: vec![0], aggregates: by_arrival() };
        let input = AggregateInput::Rows;
        let spec = KeyedAggregateSpec { aggregation, input, retract_input: retract, update_before: true };
        let operator = KeyedAggregate::new(spec).unwrap();
        let torture = Torture { stages: stages(Deal::Any, None, &operator, &[0]), events: changes.events() };
        torture.comes_to(&expected, &ways(seed));
    }

    #[test]
    fn the_first_rows_of_rows_that_change(changes in changes(), seed in seeds(), top in top()) {
        top.check(&changes, true, seed);
    }

    #[test]
    fn the_first_rows_of_rows_that_come(batches in batches(), seed in seeds(), top in top(), retract in any::<bool>()) {
        let batches = batches.into_iter().map(|rows| rows.into_iter().map(|row| (RowKind::Insert, row)).collect());
        top.check(&Changing { batches: batches.collect() }, retract, seed);
    }

    #[test]
    fn the_last_row_of_each_primary_key(changes in changes(), seed in seeds()) {
        let mut rows: BTreeMap<Option<i64>, Vec<Row>> = BTreeMap::new();
        for (kind, row) in changes.batches.iter().flatten() {
            let of_key = rows.entry(row.k).or_default();
            if kind.is_addition() {
                of_key.push(row.clone());
            } else {
                of_key.remove(of_key.iter().position(|of| of == row).unwrap());
            }
        }
        let last: Vec<Row> = rows.into_values().filter_map(|rows| rows.last().cloned()).collect();
        let operator = UpsertMaterialize::new(UpsertMaterializeSpec { input: input(), key: vec![0] }).unwrap();
        let stages = vec![Stage::new(&operator, Deal::Hash(vec![0]))];
        Torture { stages, events: changes.events() }.comes_to_by_key(&bag(cells(&last)), &[0], &ways(seed));
    }

    #[test]
    fn the_first_row_of_each_primary_key_when_event_time_goes_on(changes in changes(), seed in seeds()) {
        let mut current: BTreeMap<Option<i64>, Row> = BTreeMap::new();
        let mut events = Vec::new();
        for (n, batch) in (0i64..).zip(&changes.batches) {
            let mut left: BTreeMap<Option<i64>, Vec<Row>> = BTreeMap::new();
            for (key, row) in &current {
                left.entry(*key).or_default().push(row.clone());
            }
            // Of rows that were dropped what takes them back finds nothing, and takes back what comes alike behind it.
            let mut early: Vec<Row> = Vec::new();
            for (kind, row) in batch {
                let of_key = left.entry(row.k).or_default();
                let (here, missing) = if kind.is_addition() { (&mut early, of_key) } else { (of_key, &mut early) };
                match here.iter().position(|of| of == row) {
                    Some(at) => drop(here.remove(at)),
                    None => missing.push(row.clone()),
                }
            }
            current = left.into_iter().filter_map(|(key, rows)| Some((key, rows.first()?.clone()))).collect();
            events.extend(Changing { batches: vec![batch.clone()] }.events());
            events.push(Event::Watermark(n * 10));
        }
        let expected = bag(cells(&current.into_values().collect::<Vec<_>>()));
        let spec = ConflictSpec { input: input(), key: vec![0], on_conflict: OnConflict::Nothing };
        let operator = Conflict::new(spec).unwrap();
        let torture = Torture { stages: vec![Stage::new(&operator, Deal::Hash(vec![0]))], events };
        torture.comes_to_by_key(&expected, &[0], &ways(seed));
    }

    #[test]
    fn windows_of_rows_that_change(changes in changes(), seed in seeds()) {
        let spec = WindowAssignSpec { input: input(), window: WindowShape::hop(5, 10), time: TimeSource::Event(4) };
        let operator = WindowAssign::new(spec).unwrap();
        let torture = |events| Torture { stages: vec![Stage::new(&operator, Deal::Hash(vec![0]))], events };
        // What it makes of the rows that are left.
        let there = changes.there();
        let plain = torture(inserts(&[there]));
        let expected = support::torture::net(&plain.run(ways(seed)[0]), ways(seed)[0]);
        torture(changes.events()).comes_to(&expected, &ways(seed));
    }
}

/// Rows that come, change and go.
#[derive(Debug, Clone)]
struct Changing {
    batches: Vec<Vec<(RowKind, Row)>>,
}

impl Changing {
    fn events(&self) -> Vec<Event> {
        let batch = |changes: &Vec<(RowKind, Row)>| {
            let (kinds, rows): (Vec<RowKind>, Vec<Row>) = changes.iter().cloned().unzip();
            Event::Rows(0, Batch::with_kinds(record(&rows), kinds))
        };
        self.batches.iter().filter(|changes| !changes.is_empty()).map(batch).collect()
    }

    /// The rows that are left.
    fn there(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for (kind, row) in self.batches.iter().flatten() {
            if kind.is_addition() {
                rows.push(row.clone());
            } else {
                let at = rows.iter().position(|of| of == row).unwrap();
                rows.remove(at);
            }
        }
        rows
    }
}

fn changes() -> impl Strategy<Value = Changing> {
    // For each change: what it does to which of the rows that are there, and the row that comes.
    let change = (0..10u8, any::<prop::sample::Index>(), row());
    prop::collection::vec(prop::collection::vec(change, 1..12), 1..6).prop_map(|batches| {
        let mut there: Vec<Row> = Vec::new();
        let batches = batches.into_iter().map(|changes| {
            let mut batch = Vec::new();
            for (what, which, row) in changes {
                match what {
                    5..8 if !there.is_empty() => batch.push((RowKind::Delete, there.remove(which.index(there.len())))),
                    8.. if !there.is_empty() => {
                        // An update keeps its key, as what takes a row back goes where the row went.
                        let old = there.remove(which.index(there.len()));
                        let new = Row { k: old.k, ..row };
                        batch.push((RowKind::UpdateBefore, old));
                        batch.push((RowKind::UpdateAfter, new.clone()));
                        there.push(new);
                    }
                    _ => {
                        batch.push((RowKind::Insert, row.clone()));
                        there.push(row);
                    }
                }
            }
            batch
        });
        Changing { batches: batches.collect() }
    })
}

/// The first rows by v, or by s and v, of each k or of all.
#[derive(Debug, Clone)]
struct Top {
    global: bool,
    function: RankFunction,
    from: u64,
    to: u64,
    with_rank: bool,
    descending: bool,
    by_text: bool,
}

fn top() -> impl Strategy<Value = Top> {
    let function = prop_oneof![Just(RankFunction::RowNumber), Just(RankFunction::Rank), Just(RankFunction::DenseRank)];
    let range =
        prop_oneof![3 => (Just(1u64), 1..5u64), 1 => (2..4u64, 0..3u64).prop_map(|(from, more)| (from, from + more))];
    (any::<bool>(), function, range, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(global, function, (from, to), with_rank, descending, by_text)| Top {
            global,
            function,
            from,
            to,
            with_rank,
            descending,
            by_text,
        },
    )
}

impl Top {
    fn order(&self) -> Vec<(usize, SortOrder)> {
        let v = if self.descending { SortOrder::DESCENDING } else { SortOrder::ASCENDING };
        if self.by_text { vec![(2, SortOrder { descending: false, nulls_first: false }), (1, v)] } else { vec![(1, v)] }
    }

    /// What comes before what, without the codec that is tried.
    fn compare(&self, a: &Row, b: &Row) -> std::cmp::Ordering {
        let text = |row: &Row| (row.s.is_none(), row.s);
        // A null is less than any value.
        let v = if self.descending { b.v.cmp(&a.v) } else { a.v.cmp(&b.v) };
        if self.by_text { text(a).cmp(&text(b)).then(v) } else { v }
    }

    fn expected(&self, rows: &[Row]) -> Bag {
        let mut partitions: BTreeMap<Option<i64>, Vec<&Row>> = BTreeMap::new();
        for row in rows {
            partitions.entry(if self.global { None } else { row.k }).or_default().push(row);
        }
        let mut first = Vec::new();
        for mut rows in partitions.into_values() {
            // Stable: of equal rows the one that came first stands first.
            rows.sort_by(|a, b| self.compare(a, b));
            for (i, row) in rows.iter().enumerate() {
                let before = rows.iter().filter(|of| self.compare(of, row).is_lt());
                let rank = match self.function {
                    RankFunction::RowNumber => i + 1,
                    RankFunction::Rank => before.count() + 1,
                    RankFunction::DenseRank => {
                        before.map(|of| (of.v, of.s.filter(|_| self.by_text))).collect::<BTreeSet<_>>().len() + 1
                    }
                } as u64;
                if (self.from..=self.to).contains(&rank) {
                    let mut cells = cells(std::slice::from_ref(*row)).remove(0);
                    cells.extend(self.with_rank.then(|| rank.to_string()));
                    first.push(cells);
                }
            }
        }
        bag(first)
    }

    fn check(&self, changes: &Changing, retract_input: bool, seed: (u64, bool)) {
        let partition = if self.global { vec![] } else { vec![0] };
        let expected = self.expected(&changes.there());
        for update_before in [true, false] {
            let operator = TopN::new(TopNSpec {
                input: input(),
                partition: partition.clone(),
                order: self.order(),
                function: self.function,
                from: self.from,
                to: self.to,
                rank: self.with_rank.then(|| "rank".to_owned()),
                retract_input,
                update_before,
            })
            .unwrap();
            let stages = vec![Stage::new(&operator, Deal::Hash(partition.clone()))];
            let torture = Torture { stages, events: changes.events() };
            if update_before {
                torture.comes_to(&expected, &ways(seed));
            } else if self.function == RankFunction::RowNumber && (self.with_rank || self.from == self.to) {
                let key: Vec<usize> = partition.iter().copied().chain(self.with_rank.then_some(5)).collect();
                torture.comes_to_by_key(&expected, &key, &ways(seed));
            }
        }
    }
}
