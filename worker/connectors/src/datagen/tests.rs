use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int32Type, Int64Type, Schema, TimeUnit, TimestampMillisecondType};
use proptest::prelude::*;
use weir_engine::api::source::SourcePoll;

use super::*;
use crate::testing::SourceTest;

fn table(fields: &[(&str, DataType)]) -> TableSpec {
    let fields: Vec<_> = fields.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true)).collect();
    TableSpec::new("made", Arc::new(Schema::new(fields)))
        .with("connector", "datagen")
        .with("rows-per-second", "1000000000")
}

fn rows(table: &TableSpec) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    SourceTest::start(&*Datagen.source(table).unwrap(), 1).run(64, |_, rows| batches.push(rows));
    batches
}

fn refused(table: &TableSpec) -> ConnectorError {
    Datagen.source(table).map(|_| ()).unwrap_err()
}

#[test]
fn a_sequence_counts_from_start_to_end_and_ends_the_table() {
    let table = table(&[("id", DataType::Int32), ("text", DataType::Utf8)])
        .with("fields.id.kind", "sequence")
        .with("fields.id.start", "5")
        .with("fields.id.end", "204")
        .with("fields.text.length", "8")
        .with("number-of-rows", "1000");
    assert!(Datagen.source(&table).unwrap().bounded());
    let ids: Vec<i32> =
        rows(&table).iter().flat_map(|rows| rows.column(0).as_primitive::<Int32Type>().values().to_vec()).collect();
    assert_eq!(ids, (5..205).collect::<Vec<_>>());
    assert!(rows(&table).iter().all(|rows| rows.column(1).as_string::<i32>().iter().all(|t| t.unwrap().len() == 8)));
}

#[test]
fn random_values_stay_within_their_bounds_and_fill_them() {
    let table = table(&[("n", DataType::Int64), ("x", DataType::Float64), ("d", DataType::Decimal128(10, 2))])
        .with("fields.n.min", "-2")
        .with("fields.n.max", "2")
        .with("fields.x.min", "1")
        .with("fields.x.max", "1.5")
        .with("number-of-rows", "1000");
    let mut seen = [0; 5];
    for rows in rows(&table) {
        for &n in rows.column(0).as_primitive::<Int64Type>().values() {
            seen[(n + 2) as usize] += 1;
        }
        assert!(rows.column(1).as_primitive::<Float64Type>().values().iter().all(|x| (1.0..1.5).contains(x)));
    }
    assert!(seen.iter().all(|&count| count > 100), "{seen:?}");
}

#[test]
fn another_seed_gives_other_rows_and_the_same_seed_the_same() {
    let table = table(&[("n", DataType::Int64)]).with("number-of-rows", "100");
    assert_eq!(rows(&table), rows(&table));
    assert_ne!(rows(&table), rows(&table.with("seed", "1")));
}

#[test]
fn times_are_those_at_which_a_row_is_made() {
    let table = table(&[("t", DataType::Timestamp(TimeUnit::Millisecond, None)), ("d", DataType::Date32)])
        .with("number-of-rows", "1");
    let rows = rows(&table);
    assert!(
        rows[0].column(0).as_primitive::<arrow::datatypes::TimestampMillisecondType>().value(0) > 1_700_000_000_000
    );
}

#[test]
fn wrong_options_are_refused_with_the_form_that_is_expected() {
    let error = refused(&table(&[("n", DataType::Int64)]).with("fields.m.min", "1"));
    assert_eq!(error.remedy(), "name a physical column: n");
    let error = refused(&table(&[("n", DataType::Int8)]).with("fields.n.max", "300"));
    assert!(error.to_string().contains("'300' is not a whole number that the column's type holds"), "{error}");
    let error = refused(&table(&[("n", DataType::Int8)]).with("fields.n.kind", "sequence"));
    assert_eq!(error.to_string(), "table made: the option 'fields.n.start' is missing");
    let error = refused(&table(&[("b", DataType::Boolean)]).with("fields.b.kind", "sequence"));
    assert_eq!(error.option(), Some("fields.b.kind"));
    let error = refused(&table(&[("n", DataType::Int8)]).with("fields.n.length", "3"));
    assert!(error.to_string().contains("only texts have a length"), "{error}");
    let error = refused(&table(&[("s", DataType::Utf8)]).with("fields.s.length", "16777217"));
    assert!(error.to_string().contains("'16777217' is not a whole number from 1 to 16777216"), "{error}");
    let error = refused(&table(&[("r", DataType::Struct(vec![Field::new("a", DataType::Int8, true)].into()))]));
    assert_eq!(error.column(), Some("r"));
}

#[test]
fn long_texts_come_in_small_batches() {
    let made = table(&[("s", DataType::Utf8), ("t", DataType::Utf8)])
        .with("fields.s.length", "3000000")
        .with("fields.t.length", "7")
        .with("number-of-rows", "3");
    let batches = rows(&made);
    assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [1, 1, 1]);
    assert!(batches.iter().all(|rows| rows.column(0).as_string::<i32>().value(0).len() == 3_000_000));
}

proptest! {
    #[test]
    fn splits_restored_at_any_position_give_every_row_once(polls in 0_usize..30, size in 1_usize..40, of in 1_u32..5) {
        let table = table(&[("id", DataType::Int64), ("x", DataType::Int64)])
            .with("fields.id.kind", "sequence")
            .with("fields.id.start", "0")
            .with("fields.id.end", "499");
        let mut whole = vec![0; 500];
        for rows in rows(&table) {
            let (ids, xs) = (rows.column(0).as_primitive::<Int64Type>(), rows.column(1).as_primitive::<Int64Type>());
            ids.values().iter().zip(xs.values()).for_each(|(&id, &x)| whole[id as usize] = x);
        }
        let factory = Datagen.source(&table).unwrap();
        let mut seen = vec![0; 500];
        let mut take = |rows: RecordBatch| {
            let (ids, xs) = (rows.column(0).as_primitive::<Int64Type>(), rows.column(1).as_primitive::<Int64Type>());
            for (&id, &x) in ids.values().iter().zip(xs.values()) {
                seen[id as usize] += 1;
                assert_eq!(x, whole[id as usize]);
            }
        };
        let mut test = SourceTest::start(&*factory, of);
        for _ in 0..polls {
            if let SourcePoll::Rows { rows, .. } = test.poll(size) {
                take(rows);
            }
        }
        let positions = test.snapshot();
        SourceTest::restored(&*factory, 1, positions).run(64, |_, rows| take(rows));
        prop_assert!(seen.iter().all(|&times| times == 1));
    }
}

#[test]
fn nulls_lengths_and_times_in_the_past_are_as_the_options_say() {
    let millis = DataType::Timestamp(TimeUnit::Millisecond, None);
    let table = table(&[
        ("n", DataType::Int64),
        ("s", DataType::Utf8),
        ("t", millis),
        ("now", DataType::Timestamp(TimeUnit::Millisecond, None)),
    ])
    .with("fields.n.null-rate", "0.5")
    .with("fields.s.length", "7")
    .with("fields.s.var-len", "true")
    .with("fields.t.max-past", "10 s")
    .with("number-of-rows", "1000");
    let (mut nulls, mut lengths, mut most) = (0, [0; 8], 0);
    for rows in rows(&table) {
        nulls += rows.column(0).null_count();
        rows.column(1).as_string::<i32>().iter().for_each(|text| lengths[text.unwrap().len()] += 1);
        let past = rows.column(2).as_primitive::<TimestampMillisecondType>().values();
        let now = rows.column(3).as_primitive::<TimestampMillisecondType>().values();
        for (past, now) in past.iter().zip(now) {
            assert!((0..=10_000).contains(&(now - past)), "{past} {now}");
            most = most.max(now - past);
        }
    }
    assert!((400..600).contains(&nulls), "{nulls}");
    assert!(lengths[0] == 0 && lengths[1..].iter().all(|&count| count > 50), "{lengths:?}");
    assert!(most > 5_000, "{most}");
    for (option, value) in [
        ("fields.n.null-rate", "2"),
        ("fields.n.max-past", "1 s"),
        ("fields.t.max-past", "soon"),
        ("fields.n.var-len", "true"),
    ] {
        let other = table.clone().with(option, value);
        assert_eq!(refused(&other).option(), Some(option), "{option}");
    }
}
