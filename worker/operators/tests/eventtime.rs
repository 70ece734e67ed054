//! Windows, sessions and OVER in the torture harness, against answers that a few lines over all rows give; and against Flink's, with
//! a watermark five seconds behind after each row.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use proptest::prelude::*;
use support::torture::{Bag, Deal, Event, Stage, Torture, bag, seeds, ways};
use support::*;
use weir_engine::{Batch, MIN_WATERMARK, OperatorFactory};
use weir_operators::{
    AggregateFunction::{Avg, Count, FirstValue, LastValue, Max, Min, Sum},
    AggregateInput, AggregateSpec, Aggregation, Expand, ExpandSpec, LocalAggregate, LocalAggregateSpec, Over, OverCall,
    OverFrame, OverSpec, SessionAssign, SessionSpec, TimeSource, WindowAggregate, WindowAggregateSpec, WindowAssign,
    WindowAssignSpec, WindowShape, WindowTopN, WindowTopNSpec,
};
use weir_state::SortOrder;

/// Key, value, time.
type Row = (Option<i64>, Option<i64>, i64);

fn input() -> SchemaRef {
    schema(&[("k", DataType::Int64, true), ("v", DataType::Int64, true), ("t", time_type(), false)])
}

fn record(rows: &[Row]) -> Batch {
    let columns = vec![ints(rows.iter().map(|r| r.0)), ints(rows.iter().map(|r| r.1)), times(rows.iter().map(|r| r.2))];
    Batch::inserts(RecordBatch::try_new(input(), columns).unwrap())
}

/// Rows, and the watermark behind them. Those of one batch may be up to three watermarks ahead, and as late.
#[derive(Debug, Clone)]
struct Stream(Vec<(Vec<Row>, i64)>);

fn streams() -> impl Strategy<Value = Stream> {
    let row = (prop::option::weighted(0.9, 0..3i64), prop::option::weighted(0.9, -4..5i64), -25..40i64);
    prop::collection::vec(prop::collection::vec(row, 1..10), 1..6).prop_map(|batches| {
        let batches = (0i64..).zip(batches).map(|(n, rows)| {
            let at = |(k, v, t): Row| (k, v, t + n * 20);
            (rows.into_iter().map(at).collect(), n * 20 + 9)
        });
        Stream(batches.collect())
    })
}

impl Stream {
    fn events(&self) -> Vec<Event> {
        let events = |(rows, watermark): &(Vec<Row>, i64)| [Event::Rows(0, record(rows)), Event::Watermark(*watermark)];
        self.0.iter().flat_map(events).collect()
    }

    /// Each row with the watermark that it meets.
    fn rows(&self) -> impl Iterator<Item = (Row, i64)> {
        let before = std::iter::once(MIN_WATERMARK).chain(self.0.iter().map(|(_, watermark)| *watermark));
        self.0.iter().zip(before).flat_map(|((rows, _), before)| rows.iter().map(move |row| (*row, before)))
    }
}

fn show<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn time(t: i64) -> String {
    let rows = RecordBatch::try_new(schema(&[("t", time_type(), false)]), vec![times([t])]).unwrap();
    lines(&Batch::inserts(rows)).remove(0).1.remove(0)
}

fn cells(row: &Row) -> Vec<String> {
    vec![show(row.0), show(row.1), time(row.2)]
}

fn bounds(start: i64, end: i64) -> Vec<String> {
    vec![time(start), time(end), time(end - 1)]
}

fn aggregates() -> Vec<AggregateSpec> {
    vec![
        AggregateSpec::count_star("all"),
        AggregateSpec::new("sum", Sum, 1),
        AggregateSpec::new("max", Max, 1),
        AggregateSpec::new("distinct", Count, 1).distinct(),
    ]
}

fn aggregated(rows: &[Row]) -> Vec<String> {
    let values: Vec<i64> = rows.iter().filter_map(|row| row.1).collect();
    vec![
        rows.len().to_string(),
        show((!values.is_empty()).then(|| values.iter().sum::<i64>())),
        show(values.iter().max()),
        values.iter().collect::<BTreeSet<_>>().len().to_string(),
    ]
}

/// Start and end of all windows that hold a time, found by looking at all windows around it.
fn windows(shape: WindowShape, t: i64, cumulates: bool) -> Vec<(i64, i64)> {
    let period = if cumulates { shape.size } else { shape.slide };
    let all = (-40..40).map(|n| shape.offset + n * period).flat_map(|start| {
        let steps = if cumulates { shape.size / shape.slide } else { 1 };
        (1..=steps).map(move |n| (start, if cumulates { start + n * shape.slide } else { start + shape.size }))
    });
    all.filter(|(start, end)| (*start..*end).contains(&t)).collect()
}

fn shapes() -> impl Strategy<Value = (WindowShape, bool)> {
    (
        prop_oneof![
            Just((WindowShape::tumble(10), false)),
            Just((WindowShape::hop(5, 15), false)),
            Just((WindowShape::cumulate(5, 20), true)),
            Just((WindowShape::cumulate(10, 10), true)),
        ],
        -7..8i64,
    )
        .prop_map(|((shape, cumulates), offset)| (shape.with_offset(offset), cumulates))
}

/// What rows come to in windows, each row with its windows.
fn in_windows(rows: impl Iterator<Item = (Row, i64, Vec<(i64, i64)>)>, with_start: bool) -> Bag {
    let mut groups: BTreeMap<(Option<i64>, i64, i64), Vec<Row>> = BTreeMap::new();
    for (row, watermark, windows) in rows {
        for (start, end) in windows.into_iter().filter(|(_, end)| end - 1 > watermark) {
            groups.entry((row.0, start, end)).or_default().push(row);
        }
    }
    bag(groups.into_iter().map(|((k, start, end), rows)| {
        let start_key = if with_start { vec![time(start)] } else { Vec::new() };
        [vec![show(k)], start_key, aggregated(&rows), bounds(start, end)].concat()
    }))
}

/// One behind the other, with a local aggregation between where there is one.
fn two_phase<'a>(local: &'a LocalAggregate, windowed: &'a WindowAggregate, both: bool, keys: usize) -> Vec<Stage<'a>> {
    let by: Vec<usize> = (0..keys).collect();
    let mut stages = Vec::new();
    if both {
        stages.push(Stage::new(local as &dyn OperatorFactory, Deal::Any));
    }
    stages.push(Stage::new(windowed as &dyn OperatorFactory, Deal::Hash(by)));
    stages
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn windows_of_all_shapes(stream in streams(), (shape, cumulates) in shapes(), both in any::<bool>(), seed in seeds()) {
        let aggregation = Aggregation { input: input(), group: vec![0], aggregates: aggregates() };
        let time = TimeSource::Event(2);
        let spec = LocalAggregateSpec { aggregation: aggregation.clone(), window: Some((shape, time)), retract_input: false };
        let local = LocalAggregate::new(spec).unwrap();
        let input = if both { AggregateInput::Partials } else { AggregateInput::Rows };
        let windowed = WindowAggregate::new(WindowAggregateSpec { aggregation, input, window: shape, time }).unwrap();
        let expected = in_windows(stream.rows().map(|(row, at)| (row, at, windows(shape, row.2, cumulates))), false);
        let stages = two_phase(&local, &windowed, both, 1);
        Torture { stages, events: stream.events() }.comes_to(&expected, &ways(seed));
    }

    #[test]
    fn windows_as_columns(stream in streams(), (shape, cumulates) in shapes(), seed in seeds()) {
        let operator = WindowAssign::new(WindowAssignSpec { input: input(), window: shape, time: TimeSource::Event(2) }).unwrap();
        let all = stream.rows().flat_map(|(row, _)| windows(shape, row.2, cumulates).into_iter().map(move |w| (row, w)));
        let expected = bag(all.map(|(row, (start, end))| [cells(&row), bounds(start, end)].concat()));
        let stages = vec![Stage::new(&operator, Deal::Any)];
        Torture { stages, events: stream.events() }.comes_to(&expected, &ways(seed));
    }

    #[test]
    fn windows_that_rows_have_already(stream in streams(), session in any::<bool>(), both in any::<bool>(), seed in seeds()) {
        // Ends at every time, and starts that hang on the row where they may.
        let own = |row: &Row| {
            let end = row.2.div_euclid(5) * 5 + 5;
            (if session { end - 7 - row.1.unwrap_or(0).rem_euclid(2) } else { end - 10 }, end)
        };
        let fields = schema(&[
            ("k", DataType::Int64, true), ("v", DataType::Int64, true), ("s", time_type(), false), ("e", time_type(), false),
        ]);
        let events = stream.0.iter().flat_map(|(rows, watermark)| {
            let (starts, ends): (Vec<i64>, Vec<i64>) = rows.iter().map(own).unzip();
            let columns = vec![ints(rows.iter().map(|r| r.0)), ints(rows.iter().map(|r| r.1)), times(starts), times(ends)];
            let batch = Batch::inserts(RecordBatch::try_new(fields.clone(), columns).unwrap());
            [Event::Rows(0, batch), Event::Watermark(*watermark)]
        });
        let events = events.collect();
        let shape = if session { WindowShape::session(3) } else { WindowShape::hop(5, 10) };
        let group = if session { vec![0, 2] } else { vec![0] };
        let keys = group.len();
        let (window, time) = (shape.attached(3), TimeSource::Event(3));
        let aggregation = Aggregation { input: fields.clone(), group, aggregates: aggregates() };
        let spec = LocalAggregateSpec { aggregation: aggregation.clone(), window: Some((window, time)), retract_input: false };
        let local = LocalAggregate::new(spec).unwrap();
        let input = if both { AggregateInput::Partials } else { AggregateInput::Rows };
        let windowed = WindowAggregate::new(WindowAggregateSpec { aggregation, input, window, time }).unwrap();
        let expected = in_windows(stream.rows().map(|(row, at)| (row, at, vec![own(&row)])), session);
        let mut stages = two_phase(&local, &windowed, both, keys);
        if !both && session {
            stages[0].inputs = vec![Deal::Hash(vec![0, 2])];
        }
        Torture { stages, events }.comes_to(&expected, &ways(seed));
    }

    #[test]
    fn sessions(stream in streams(), global in any::<bool>(), seed in seeds()) {
        let (partition, gap) = (if global { vec![] } else { vec![0] }, 8);
        let spec = SessionSpec { input: input(), partition: partition.clone(), time: TimeSource::Event(2), gap };
        let operator = SessionAssign::new(spec).unwrap();
        let stages = vec![Stage::new(&operator, Deal::Hash(partition))];
        let expected = in_sessions(&stream, gap, global, true);
        Torture { stages, events: stream.events() }.comes_to(&expected, &ways(seed));
    }

    #[test]
    fn sessions_by_the_clock(batches in prop::collection::vec((prop::collection::vec(0..3i64, 1..5), 1..30i64), 1..8), seed in seeds()) {
        let spec = SessionSpec { input: input(), partition: vec![0], time: TimeSource::Processing, gap: 10 };
        let operator = SessionAssign::new(spec).unwrap();
        let (mut events, mut rows, mut now) = (Vec::new(), Vec::new(), 0);
        for (keys, later) in batches {
            now += later;
            events.push(Event::Clock(now));
            let of: Vec<Row> = keys.iter().map(|k| (Some(*k), None, now)).collect();
            events.push(Event::Rows(0, record(&of)));
            rows.extend(of);
        }
        // By the clock a session is over when the gap is: a row that comes then begins another.
        let expected = in_sessions(&Stream(vec![(rows, 0)]), 10, false, false);
        let stages = vec![Stage::new(&operator, Deal::Hash(vec![0]))];
        let torture = Torture { stages, events };
        // A row that takes its time anew after a restore takes the same: the clock stands still between two events.
        torture.comes_to(&expected, &ways(seed));
    }

    #[test]
    fn over_rows_and_ranges(stream in streams(), frame in frames(), global in any::<bool>(), seed in seeds()) {
        let partition = if global { vec![] } else { vec![0] };
        let operator = Over::new(over(TimeSource::Event(2), frame, &partition)).unwrap();
        let expected = over_by_hand(&stream, frame, global);
        let stages = vec![Stage::new(&operator, Deal::Hash(partition))];
        Torture { stages, events: stream.events() }.comes_to(&expected, &ways(seed));
    }

    #[test]
    fn over_ranges_by_the_clock(
        batches in prop::collection::vec((prop::collection::vec((0..2i64, -4..5i64), 1..5), 1..20i64), 1..8),
        bound in 0..25i64,
        seed in seeds(),
    ) {
        let frame = OverFrame::Range(Some(bound));
        let operator = Over::new(over(TimeSource::Processing, frame, &[0])).unwrap();
        let (mut events, mut rows, mut now) = (Vec::new(), Vec::new(), 0);
        for (pairs, later) in batches {
            now += later;
            events.push(Event::Clock(now));
            let of: Vec<Row> = pairs.iter().map(|(k, v)| (Some(*k), Some(*v), now)).collect();
            events.push(Event::Rows(0, record(&of)));
            rows.extend(of);
        }
        let expected = over_by_hand(&Stream(vec![(rows, 0)]), frame, false);
        let stages = vec![Stage::new(&operator, Deal::Hash(vec![0]))];
        Torture { stages, events }.comes_to(&expected, &ways(seed));
    }

    #[test]
    fn over_rows_as_they_come(stream in streams(), bound in prop::option::of(0..3u64), seed in seeds()) {
        let frame = OverFrame::Rows(bound);
        let operator = Over::new(over(TimeSource::Processing, frame, &[0])).unwrap();
        // In the order in which they come, and none is late.
        let rows: Vec<Row> = stream.rows().map(|(row, _)| row).collect();
        let places: Vec<Row> = (0i64..).zip(&rows).map(|(at, row)| (row.0, row.1, at)).collect();
        let by_place = over_by_hand(&Stream(vec![(places, 0)]), frame, false);
        let expected = bag(by_place.into_iter().flat_map(|(cells, count)| {
            let at = (0..rows.len()).find(|at| cells[2] == time(*at as i64)).unwrap();
            std::iter::repeat_n([&cells[..2], &[time(rows[at].2)], &cells[3..]].concat(), count as usize)
        }));
        let stages = vec![Stage::new(&operator, Deal::Hash(vec![0]))];
        Torture { stages, events: stream.events() }.comes_to(&expected, &ways(seed));
    }

    #[test]
    fn grouping_sets(stream in streams(), seed in seeds()) {
        let sets = vec![(0, vec![true, true]), (1, vec![true, false]), (3, vec![false, false])];
        let columns = vec![(0, "k".to_owned()), (1, "v".to_owned())];
        let spec = ExpandSpec { input: input(), keep: 3, columns, number: "set".to_owned(), sets: sets.clone() };
        let operator = Expand::new(spec).unwrap();
        let copies = stream.rows().flat_map(|(row, _)| sets.iter().map(move |(number, has)| {
            let of = |at: usize, value: Option<i64>| show(value.filter(|_| has[at]));
            [cells(&row), vec![of(0, row.0), of(1, row.1), number.to_string()]].concat()
        }));
        let expected = bag(copies);
        let stages = vec![Stage::new(&operator, Deal::Any)];
        Torture { stages, events: stream.events() }.comes_to(&expected, &ways(seed));
    }
}

/// Each row with its session: sessions are joined as rows come, and closed as the watermark passes them.
fn in_sessions(stream: &Stream, gap: i64, global: bool, touching: bool) -> Bag {
    type Open = (i64, i64, Vec<Row>);
    let mut open: BTreeMap<Option<i64>, Vec<Open>> = BTreeMap::new();
    let mut closed: Vec<Open> = Vec::new();
    let mut last = MIN_WATERMARK;
    for (row, watermark) in stream.rows().map(Some).chain([None]).map(|one| one.unwrap_or(((None, None, 0), i64::MAX)))
    {
        if watermark > last {
            last = watermark;
            for sessions in open.values_mut() {
                let (over, left) = sessions.drain(..).partition(|(_, end, _)| end - 1 <= watermark);
                *sessions = left;
                let over: Vec<Open> = over;
                closed.extend(over);
            }
        }
        if watermark == i64::MAX {
            break;
        }
        let sessions = open.entry(row.0.filter(|_| !global)).or_default();
        let (meet, mut apart): (Vec<Open>, Vec<Open>) = sessions
            .drain(..)
            .partition(|(start, end, _)| row.2 <= *end - i64::from(!touching) && row.2 + gap >= *start);
        let mut all = (row.2, row.2 + gap, vec![row]);
        for (start, end, rows) in &meet {
            all = (all.0.min(*start), all.1.max(*end), [all.2, rows.clone()].concat());
        }
        if all.1 - 1 > watermark {
            apart.push(all);
        } else {
            apart.extend(meet);
        }
        *sessions = apart;
    }
    let rows = closed.into_iter().flat_map(|(start, end, rows)| rows.into_iter().map(move |row| (start, end, row)));
    bag(rows.map(|(start, end, row)| [cells(&row), bounds(start, end)].concat()))
}

fn frames() -> impl Strategy<Value = OverFrame> {
    prop_oneof![
        prop::option::of(0..4u64).prop_map(OverFrame::Rows),
        prop::option::of(0..25i64).prop_map(OverFrame::Range),
    ]
}

fn over(time: TimeSource, frame: OverFrame, partition: &[usize]) -> OverSpec {
    let aggregates = [
        AggregateSpec::count_star("n"),
        AggregateSpec::new("sum", Sum, 1),
        AggregateSpec::new("avg", Avg, 1),
        AggregateSpec::new("min", Min, 1),
        AggregateSpec::new("first", FirstValue, 1),
        AggregateSpec::new("last", LastValue, 1),
    ];
    let mut calls: Vec<OverCall> = aggregates.into_iter().map(OverCall::Aggregate).collect();
    if matches!(frame, OverFrame::Rows(_)) {
        let zero = Arc::new(Int64Array::from(vec![0]));
        calls.push(OverCall::Lag { name: "lag".to_owned(), column: 1, offset: 2, default: Some(zero) });
    }
    OverSpec { input: input(), partition: partition.to_vec(), time, frame, calls }
}

/// Rows go out in the order of their times when the watermark has reached them; then the frame of each is all that went out before.
fn over_by_hand(stream: &Stream, frame: OverFrame, global: bool) -> Bag {
    let mut waiting: BTreeMap<Option<i64>, Vec<Row>> = BTreeMap::new();
    let mut through: BTreeMap<Option<i64>, Vec<Row>> = BTreeMap::new();
    let mut gone: BTreeMap<Option<i64>, i64> = BTreeMap::new();
    let mut out = Vec::new();
    let mut reached = MIN_WATERMARK;
    let ends = stream.0.iter().map(|(rows, watermark)| (rows.as_slice(), *watermark)).chain([(&[][..], i64::MAX)]);
    for (rows, watermark) in ends {
        for row in rows {
            let key = row.0.filter(|_| !global);
            let before = through.entry(key).or_default();
            let late = match frame {
                OverFrame::Rows(None) | OverFrame::Range(None) => row.2 <= reached,
                OverFrame::Rows(Some(_)) | OverFrame::Range(Some(_)) => {
                    before.last().is_some_and(|last| row.2 <= last.2)
                }
            };
            if late {
                continue;
            }
            waiting.entry(key).or_default().push(*row);
            if let OverFrame::Range(Some(bound)) = frame {
                let at = gone.entry(key).or_insert(i64::MIN);
                if *at < row.2 + bound + 1 {
                    *at = row.2 + bound + bound / 2 + 1;
                }
            }
        }
        reached = watermark;
        for (key, waiting) in &mut waiting {
            let mut due: Vec<Row> = waiting.iter().copied().filter(|row| row.2 <= watermark).collect();
            waiting.retain(|row| row.2 > watermark);
            due.sort_by_key(|row| row.2);
            let before = through.entry(*key).or_default();
            let first = before.len();
            before.extend(due);
            for at in first..before.len() {
                let seen: Vec<Row> = match frame {
                    OverFrame::Rows(bound) => {
                        before[bound.map_or(0, |bound| at.saturating_sub(bound as usize))..=at].to_vec()
                    }
                    OverFrame::Range(bound) => {
                        let sees = |row: &&Row| {
                            row.2 <= before[at].2 && bound.is_none_or(|bound| row.2 >= before[at].2 - bound)
                        };
                        before.iter().filter(sees).copied().collect()
                    }
                };
                let lag = matches!(frame, OverFrame::Rows(_)).then(|| match at.checked_sub(2) {
                    Some(at) => show(before[at].1),
                    None => "0".to_owned(),
                });
                out.push([cells(&before[at]), over_values(&seen), lag.into_iter().collect()].concat());
            }
            // The key is forgotten when no row can see its rows any more, and with it what is late.
            if gone.get(key).is_some_and(|at| *at <= watermark) {
                before.clear();
                gone.remove(key);
            }
        }
    }
    bag(out)
}

fn over_values(seen: &[Row]) -> Vec<String> {
    let values: Vec<i64> = seen.iter().filter_map(|row| row.1).collect();
    let sum = (!values.is_empty()).then(|| values.iter().sum::<i64>());
    vec![
        seen.len().to_string(),
        show(sum),
        show(sum.map(|sum| sum / values.len() as i64)),
        show(values.iter().min()),
        show(values.first()),
        show(values.last()),
    ]
}

/// By value downwards, and of equal values by arrival, of each key of a window; from the second to the third.
#[derive(Debug, Clone, Copy)]
struct Ranked {
    from: u64,
    to: u64,
    with_rank: bool,
    last_first: bool,
}

fn ranked() -> impl Strategy<Value = Ranked> {
    (1..3u64, 0..3u64, any::<bool>(), any::<bool>()).prop_map(|(from, more, with_rank, last_first)| Ranked {
        from,
        to: from + more,
        with_rank,
        last_first,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn the_first_rows_of_windows(stream in streams(), ranked in ranked(), seed in seeds()) {
        let fields = schema(&[
            ("k", DataType::Int64, true), ("v", DataType::Int64, true), ("s", time_type(), false), ("e", time_type(), false),
        ]);
        let end = |row: &Row| row.2.div_euclid(10) * 10 + 10;
        let events = stream.0.iter().flat_map(|(rows, watermark)| {
            let columns = vec![
                ints(rows.iter().map(|r| r.0)), ints(rows.iter().map(|r| r.1)),
                times(rows.iter().map(|r| end(r) - 10)), times(rows.iter().map(end)),
            ];
            let batch = Batch::inserts(RecordBatch::try_new(fields.clone(), columns).unwrap());
            [Event::Rows(0, batch), Event::Watermark(*watermark)]
        });
        let events = events.collect();
        let Ranked { from, to, with_rank, last_first } = ranked;
        let order = vec![(1, SortOrder { descending: true, nulls_first: false })];
        let rank = with_rank.then(|| "n".to_owned());
        let spec = WindowTopNSpec { input: fields.clone(), partition: vec![0, 2, 3], end: 3, order, last_first, from, to, rank };
        let operator = WindowTopN::new(spec).unwrap();
        let mut partitions: BTreeMap<(Option<i64>, i64), Vec<Row>> = BTreeMap::new();
        for (row, watermark) in stream.rows().filter(|(row, watermark)| end(row) - 1 > *watermark) {
            let _ = watermark;
            partitions.entry((row.0, end(&row))).or_default().push(row);
        }
        let expected = bag(partitions.into_iter().flat_map(|((k, end), mut rows)| {
            if last_first {
                rows.reverse();
            }
            rows.sort_by_key(|row| std::cmp::Reverse(row.1));
            let numbered = rows.into_iter().zip(1u64..).filter(|(_, n)| (from..=to).contains(n)).collect::<Vec<_>>();
            numbered.into_iter().map(move |(row, n)| {
                let n = with_rank.then(|| n.to_string());
                [vec![show(k), show(row.1), time(end - 10), time(end)], n.into_iter().collect()].concat()
            }).collect::<Vec<_>>()
        }));
        let stages = vec![Stage::new(&operator, Deal::Hash(vec![0, 2, 3]))];
        Torture { stages, events }.comes_to(&expected, &ways(seed));
    }
}

/// What Flink 2.3 answers to each of these queries over these rows, which come one by one.
const FLINK: &str = include_str!("data/eventtime.txt");

/// The columns of the rows: id, k, ts, v.
fn flink_rows() -> (SchemaRef, Vec<(Batch, i64)>) {
    let fields = schema(&[
        ("id", DataType::Int64, true),
        ("k", DataType::Utf8, true),
        ("ts", time_type(), false),
        ("v", DataType::Int64, true),
    ]);
    let text = FLINK.split("\n> ").next().unwrap();
    let rows = text.lines().filter(|line| line.split(',').count() == 4 && !line.starts_with("--")).map(|line| {
        let cells: Vec<&str> = line.split(',').collect();
        let at = cells[2].parse::<i64>().unwrap();
        let columns = vec![
            ints([cells[0].parse().ok()]),
            strings([Some(cells[1])]),
            times([FLINK_START + at * 1000]),
            ints([cells[3].parse().ok()]),
        ];
        (Batch::inserts(RecordBatch::try_new(fields.clone(), columns).unwrap()), FLINK_START + at * 1000)
    });
    let rows = rows.collect();
    (fields, rows)
}

/// The query with LAG.
const LAG: usize = 11;

/// 2020-01-01 00:00:00.
const FLINK_START: i64 = 1_577_836_800_000;

/// The answer to query `n`: cells as [`lines`] writes them.
fn flink_answer(n: usize) -> Bag {
    let section = FLINK.split("\n> ").nth(n).unwrap_or_else(|| panic!("no query {n}"));
    let cell = |cell: &str| match cell {
        "NULL" => "-".to_owned(),
        // A time without seconds.
        cell if cell.len() == 16 && cell.contains('T') => format!("{cell}:00"),
        cell => cell.to_owned(),
    };
    bag(section.lines().skip(1).filter(|line| !line.is_empty()).map(|line| line.split('\t').map(cell).collect()))
}

/// Runs stages over Flink's rows, with the watermark five seconds behind each, and holds the chosen columns against its answer.
fn as_flink(stages: Vec<Stage<'_>>, rows: &[(Batch, i64)], columns: &[usize], query: usize) {
    let mut watermark = i64::MIN;
    let mut events = Vec::new();
    for (batch, time) in rows {
        events.push(Event::Rows(0, batch.clone()));
        if time - 5000 > watermark {
            watermark = time - 5000;
            events.push(Event::Watermark(watermark));
        }
    }
    let torture = Torture { stages, events };
    // Undisturbed, and with anything between two steps.
    let ways = ways((query as u64, false));
    for way in [ways[0], ways[3]] {
        let out = torture.run(way);
        // What Flink's LAG keeps of a null comes back as -1.
        let cell = |cell: &String| if query == LAG && cell == "-" { "-1".to_owned() } else { cell.clone() };
        let found = bag(out.iter().map(|(_, cells)| columns.iter().map(|&c| cell(&cells[c])).collect()));
        assert_eq!(found, flink_answer(query), "query {query}, {way:?}");
    }
}

#[test]
fn windows_are_flinks() {
    let (input, rows) = flink_rows();
    let aggregates = vec![
        AggregateSpec::count_star("n"),
        AggregateSpec::new("sum", Sum, 3),
        AggregateSpec::new("max", Max, 3),
        AggregateSpec::new("distinct", Count, 3).distinct(),
    ];
    let shapes = [
        WindowShape::tumble(10_000).with_offset(3000),
        WindowShape::hop(5000, 15_000).with_offset(-2000),
        WindowShape::cumulate(5000, 20_000),
    ];
    for (query, window) in (1..).zip(shapes) {
        let aggregation = Aggregation { input: input.clone(), group: vec![1], aggregates: aggregates.clone() };
        let spec = WindowAggregateSpec { aggregation, input: AggregateInput::Rows, window, time: TimeSource::Event(2) };
        let operator = WindowAggregate::new(spec).unwrap();
        // The key, the windows, and then the aggregates.
        as_flink(vec![Stage::new(&operator, Deal::Hash(vec![1]))], &rows, &[0, 5, 6, 7, 1, 2, 3, 4], query);
    }
}

#[test]
fn sessions_are_flinks() {
    let (input, rows) = flink_rows();
    let session = |partition: &[usize], gap| {
        let spec = SessionSpec { input: input.clone(), partition: partition.to_vec(), time: TimeSource::Event(2), gap };
        SessionAssign::new(spec).unwrap()
    };
    let by_key = session(&[1], 3000);
    let aggregates = vec![
        AggregateSpec::count_star("n"),
        AggregateSpec::new("sum", Sum, 3),
        AggregateSpec::new("max", Max, 3),
        AggregateSpec::new("distinct", Count, 3).distinct(),
    ];
    let aggregation = Aggregation { input: by_key.output().clone(), group: vec![1, 4], aggregates };
    let window = WindowShape::session(3000).attached(5);
    let spec = WindowAggregateSpec { aggregation, input: AggregateInput::Rows, window, time: TimeSource::Event(6) };
    let windowed = WindowAggregate::new(spec).unwrap();
    let stages = || {
        vec![
            Stage::new(&by_key as &dyn OperatorFactory, Deal::Hash(vec![1])),
            Stage::new(&windowed as &dyn OperatorFactory, Deal::Hash(vec![1, 4])),
        ]
    };
    as_flink(stages(), &rows, &[0, 6, 7, 8, 2, 3, 4, 5], 4);
    let global = session(&[], 2000);
    as_flink(vec![Stage::new(&global, Deal::Hash(vec![]))], &rows, &[0, 4, 5], 5);
}

#[test]
fn windows_of_windows_are_flinks() {
    let (input, rows) = flink_rows();
    let window = WindowShape::hop(5000, 15_000);
    let aggregation = Aggregation { input, group: vec![1], aggregates: vec![AggregateSpec::count_star("n")] };
    let time = TimeSource::Event(2);
    let spec = WindowAggregateSpec { aggregation, input: AggregateInput::Rows, window, time };
    let first = WindowAggregate::new(spec).unwrap();
    let aggregates =
        vec![AggregateSpec::count_star("rows"), AggregateSpec::new("sum", Sum, 1), AggregateSpec::new("max", Max, 1)];
    let aggregation = Aggregation { input: first.output().clone(), group: vec![], aggregates };
    let time = TimeSource::Event(4);
    let spec = WindowAggregateSpec { aggregation, input: AggregateInput::Rows, window: window.attached(3), time };
    let second = WindowAggregate::new(spec).unwrap();
    let stages = vec![
        Stage::new(&first as &dyn OperatorFactory, Deal::Hash(vec![1])),
        Stage::new(&second as &dyn OperatorFactory, Deal::Hash(vec![])),
    ];
    as_flink(stages, &rows, &[3, 4, 0, 1, 2], 6);
}

#[test]
fn over_is_flinks() {
    let (input, rows) = flink_rows();
    let aggregates = || {
        let all = [
            AggregateSpec::count_star("n"),
            AggregateSpec::new("sum", Sum, 3),
            AggregateSpec::new("avg", Avg, 3),
            AggregateSpec::new("min", Min, 3),
            AggregateSpec::new("first", FirstValue, 3),
            AggregateSpec::new("last", LastValue, 3),
        ];
        all.into_iter().map(OverCall::Aggregate).collect::<Vec<_>>()
    };
    let frames = [
        (OverFrame::Rows(Some(2)), aggregates()),
        (OverFrame::Range(Some(4000)), aggregates()),
        (OverFrame::Rows(None), aggregates()),
        (OverFrame::Range(None), aggregates()),
        (
            OverFrame::Range(None),
            vec![OverCall::Lag {
                name: "lag".to_owned(),
                column: 3,
                offset: 2,
                default: Some(Arc::new(Int64Array::from(vec![0]))),
            }],
        ),
        (OverFrame::Rows(None), vec![OverCall::Aggregate(AggregateSpec::count_star("number"))]),
    ];
    for (query, (frame, calls)) in (7..).zip(frames) {
        let columns: Vec<usize> = [0].into_iter().chain(4..4 + calls.len()).collect();
        let time = TimeSource::Event(2);
        let operator = Over::new(OverSpec { input: input.clone(), partition: vec![1], time, frame, calls }).unwrap();
        as_flink(vec![Stage::new(&operator, Deal::Hash(vec![1]))], &rows, &columns, query);
    }
}
