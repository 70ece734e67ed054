use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field as ArrowField, Int32Type, Int64Type, Schema, TimestampMillisecondType};
use proptest::prelude::*;
use serde_json::json;
use sha2::{Digest, Sha256};
use weir_engine::api::source::SourcePoll;

use super::layout::kind_fields;
use super::*;
use crate::testing::{SourceTest, remedy};

/// The published hashes of the first events at a rate of 1,000,000 per second.
const PUBLISHED: [(u64, &str); 3] = [
    (1_000, "beb12e929418e5db0876b36062accee82fe75333b53e38a109df4ed072c58062"),
    (100_000, "e58d1c54385fda75dc32e243186a22314a21b820f161ca482bd4db0a58bc57f8"),
    (1_000_000, "b78108300feb36e397aacb85250f33505bd1312ef2de10cfb7e3b98363b1f2e1"),
];

fn events() -> TableSpec {
    TableSpec::new("events", event_schema()).with("connector", "nexmark").with("first-event.rate", "1000000")
}

fn bids() -> TableSpec {
    let schema = Arc::new(Schema::new(kind_fields(Kind::Bid)));
    TableSpec::new("bids", schema).with("connector", "nexmark").with("first-event.rate", "1000000").with("type", "bid")
}

fn source(table: &TableSpec) -> Arc<dyn SourceFactory> {
    Nexmark.source(table).unwrap()
}

/// A field as the published lines have it.
fn write_field(line: &mut String, column: &dyn Array, row: usize) {
    match column.data_type() {
        DataType::Int64 => write!(line, "\t{}", column.as_primitive::<Int64Type>().value(row)).unwrap(),
        DataType::Timestamp(..) => {
            write!(line, "\t{}", column.as_primitive::<TimestampMillisecondType>().value(row)).unwrap();
        }
        _ => write!(line, "\t{}", column.as_string::<i32>().value(row)).unwrap(),
    }
}

/// The published line of a row of a table of all events.
fn line(rows: &RecordBatch, row: usize, n: u64) -> String {
    let kind = rows.column(0).as_primitive::<Int32Type>().value(row);
    let mut line = format!("{n}\t{kind}");
    for other in 0..3 {
        assert_eq!(rows.column(1 + other).is_valid(row), other == kind as usize);
    }
    let fields: &StructArray = rows.column(1 + kind as usize).as_struct();
    for column in fields.columns() {
        write_field(&mut line, column, row);
    }
    line.push('\n');
    line
}

#[test]
fn the_first_million_events_have_the_published_hashes() {
    let table = events().with("events.num", "1000000");
    let mut hash = Sha256::new();
    let mut n = 0;
    let mut published = PUBLISHED.into_iter();
    let mut next = published.next();
    SourceTest::start(&*source(&table), 1).run(4096, |_, rows| {
        for row in 0..rows.num_rows() {
            hash.update(line(&rows, row, n));
            n += 1;
            if let Some((events, expected)) = next
                && events == n
            {
                let hex = hash.clone().finalize().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
                assert_eq!(hex, expected, "of the first {events} events");
                next = published.next();
            }
        }
    });
    assert_eq!((n, next), (1_000_000, None));
}

#[test]
fn the_first_thousand_events_are_the_published_ones_line_by_line() {
    let published = include_str!("../../tests/nexmark-first-1000.tsv");
    let table = events().with("events.num", "1000");
    let mut lines = published.lines().enumerate();
    SourceTest::start(&*source(&table), 1).run(77, |_, rows| {
        for row in 0..rows.num_rows() {
            let (n, expected) = lines.next().unwrap();
            assert_eq!(line(&rows, row, n as u64).trim_end(), expected);
        }
    });
    assert_eq!(lines.next(), None);
}

#[test]
fn a_table_of_bids_has_the_bids_of_the_table_of_events() {
    let all = source(&events().with("events.num", "5000"));
    let mut expected = Vec::new();
    SourceTest::start(&*all, 1).run(1024, |_, rows| {
        let bids = rows.column(3).as_struct();
        for row in (0..rows.num_rows()).filter(|&row| bids.is_valid(row)) {
            let mut line = String::new();
            bids.columns().iter().for_each(|column| write_field(&mut line, column, row));
            expected.push(line);
        }
    });
    for all_columns in ["false", "true"] {
        let table = bids().with("events.num", "5000").with("generate.all-columns", all_columns);
        let mut found = Vec::new();
        SourceTest::start(&*source(&table), 1).run(1024, |_, rows| {
            for row in 0..rows.num_rows() {
                let mut line = String::new();
                rows.columns().iter().for_each(|column| write_field(&mut line, column, row));
                found.push(line);
            }
        });
        assert!(found == expected);
    }
}

#[test]
fn a_projection_makes_these_columns_and_no_others() {
    let mut table = events().with("events.num", "300");
    table.projection = Some(vec![0, 3]);
    let layout = Layout::of(&table, None, false).unwrap();
    assert!(layout.makes(Kind::Bid) && !layout.makes(Kind::Auction) && !layout.makes(Kind::Person));
    let mut seen = 0;
    SourceTest::start(&*source(&table), 1).run(128, |_, rows| {
        assert_eq!(rows.schema(), table.projected_schema());
        seen += rows.num_rows();
    });
    assert_eq!(seen, 300);

    table.projection = Some(vec![]);
    let mut seen = 0;
    SourceTest::start(&*source(&table), 1).run(128, |_, rows| seen += rows.num_rows());
    assert_eq!(seen, 300);
}

proptest! {
    #[test]
    fn splits_restored_at_any_position_give_every_event_once_and_in_order(
        parallelism in 1_u32..6,
        polls in 0_usize..40,
        sizes in proptest::collection::vec(1_usize..120, 1..6),
    ) {
        let table = events().with("events.num", "2000");
        let factory = source(&table);
        let mut whole = Vec::new();
        SourceTest::start(&*factory, 1).run(512, |_, rows| {
            whole.extend((0..rows.num_rows()).map(|row| line(&rows, row, 0)));
        });
        let splits = factory.splits(parallelism).unwrap();
        let mut next: Vec<usize> = (0..splits.len()).collect();
        let mut take = |split: usize, rows: &RecordBatch| {
            for row in 0..rows.num_rows() {
                assert_eq!(line(rows, row, 0), whole[next[split]]);
                next[split] += splits.len();
            }
        };
        let mut test = SourceTest::restored(&*factory, 1, splits.clone());
        for i in 0..polls {
            if let SourcePoll::Rows { split, rows } = test.poll(sizes[i % sizes.len()]) {
                take(split, &rows);
            }
        }
        let positions = test.snapshot();
        drop(test);
        SourceTest::restored(&*factory, 1, positions).run(100, |split, rows| take(split, &rows));
        prop_assert!(next.iter().all(|&n| n >= 2000 && n < 2000 + splits.len()));
    }
}

#[test]
fn event_time_follows_the_rate() {
    assert_eq!(Rate(1_000_000).time(999), 1_436_918_400_000);
    assert_eq!(Rate(1_000_000).time(1_000), 1_436_918_400_001);
    assert_eq!(Rate(100).time(7), 1_436_918_400_070);
}

#[test]
fn what_is_declared_wrong_is_refused_with_what_to_write() {
    let refused = |table: TableSpec| Nexmark.source(&table).map(|_| ()).unwrap_err();
    let error = refused(events().with("next-event.rate", "5"));
    assert!(remedy(&error).contains("same value"), "{}", remedy(&error));
    let error = refused(events().with("events.num", "many"));
    assert_eq!(error.to_string(), "table events: 'events.num' = 'many' is not a whole number of at least 1");
    let error = refused(events().with("bid.proportion", "92"));
    assert!(error.to_string().contains("'bid.proportion' = '92' is another mix of events"), "{error}");
    assert!(Nexmark.source(&events().with("bid.proportion", "46").with("bid.avg-size", "100B")).is_ok());
    let error = refused(events().with("type", "bids"));
    assert!(remedy(&error).contains("'person', 'auction' or 'bid'"));

    let column = |name: &str, data_type| {
        let schema = Schema::new(vec![ArrowField::new(name, data_type, true)]);
        refused(TableSpec::new("events", Arc::new(schema)).with("connector", "nexmark"))
    };
    assert!(remedy(&column("bids", DataType::Int64)).contains("bid ROW<…>"));
    assert!(remedy(&column("bid", DataType::Int64)).contains("`price` BIGINT"));
    let row = DataType::Struct(vec![ArrowField::new("price", DataType::Float64, true)].into());
    let error = column("bid", row);
    assert_eq!(error.column(), Some("bid.price"));
    assert_eq!(remedy(&error), "declare it as `price` BIGINT");
    assert!(remedy(&Nexmark.sink(&events()).map(|_| ()).unwrap_err()).contains("blackhole"));
}

#[test]
fn a_position_of_something_else_is_refused() {
    let factory = source(&events());
    let error = SourceTest::try_restored(&*factory, 1, vec![json!({"split": 1, "of": 2, "next": 4})]).err().unwrap();
    assert!(error.to_string().contains("no position"), "{error}");
}

#[test]
fn without_a_number_of_events_the_table_is_unbounded() {
    assert!(!source(&events()).bounded());
    assert!(source(&events().with("events.num", "1")).bounded());
}
