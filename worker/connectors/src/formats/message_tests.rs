//! Messages: what Flink 2.3's own classes answer to the same bytes (`CsvRowDataDeserializationSchema`,
//! `JsonParserRowDataDeserializationSchema`, `RawFormatDeserializationSchema` and their counterparts), but for what docs/sql.md says.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::array::{BinaryArray, BooleanArray, Float64Array, Int32Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};
use weir_engine::api::batch::RowKind;

use super::decode::{Format, Rows};
use super::encode::Messages;
use super::registry::{Part, declared};
use crate::options::Options;
use crate::spec::TableSpec;

fn format(name: &str, options: &[(&str, &str)]) -> Format {
    let table = TableSpec::new("t", Arc::new(Schema::empty())).with("format", name);
    let table = options.iter().fold(table, |table, (key, value)| table.with(key, value));
    declared(&Options::of(&table), Part::Whole, &[]).unwrap().format
}

fn two() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("a", DataType::Int32, true), Field::new("b", DataType::Utf8, true)]))
}

fn one(data_type: DataType) -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("v", data_type, true)]))
}

/// The only row of a message; `Ok(None)` where it stands for none.
fn read(format: &Format, schema: &SchemaRef, message: Option<&[u8]>) -> Result<Option<RecordBatch>, String> {
    let all: Vec<usize> = (0..schema.fields().len()).collect();
    let mut rows = Rows::new(format, schema, &all).unwrap();
    if !rows.push_message(message, 0)? {
        return Ok(None);
    }
    Ok(Some(RecordBatch::try_new(Arc::clone(schema), rows.finish().unwrap()).unwrap()))
}

fn two_of(row: &RecordBatch) -> (Option<i32>, Option<&str>) {
    let (a, b) = (row.column(0).as_primitive::<Int32Type>(), row.column(1).as_string::<i32>());
    (a.is_valid(0).then(|| a.value(0)), b.is_valid(0).then(|| b.value(0)))
}

#[test]
fn messages_of_csv_and_json_are_read_as_flink_reads_them() {
    let csv = format("csv", &[]);
    for message in ["1,x", "1,x\n", "1,x\n2,y", " 1 ,x"] {
        let row = read(&csv, &two(), Some(message.as_bytes())).unwrap().unwrap();
        assert_eq!(two_of(&row), (Some(1), Some("x")), "{message}");
    }
    for message in ["", "\n", "1", "1,x,z", "#1,x", "\n1,x"] {
        assert!(read(&csv, &two(), Some(message.as_bytes())).is_err(), "{message:?}");
    }
    let json = format("json", &[]);
    for message in ["{\"a\":1,\"b\":\"x\"}", "\n{\"a\":1,\n\"b\":\"x\"}\n"] {
        let row = read(&json, &two(), Some(message.as_bytes())).unwrap().unwrap();
        assert_eq!(two_of(&row), (Some(1), Some("x")), "{message}");
    }
    assert!(read(&json, &two(), Some(b"")).unwrap().is_none());
    for message in ["null", "{\"a\":1", "{\"a\":1} x", "[{\"a\":1},{\"a\":2}]"] {
        assert!(read(&json, &two(), Some(message.as_bytes())).is_err(), "{message}");
    }
    for format in [csv, json] {
        assert!(read(&format, &two(), None).unwrap().is_none(), "a tombstone");
    }
}

#[test]
fn raw_values_are_read_and_written_as_flink_does() {
    let (big, little) = (format("raw", &[]), format("raw", &[("raw.endianness", "little-endian")]));
    let cases: [(ArrayRef, &[u8]); 6] = [
        (Arc::new(StringArray::from(vec!["h\u{e9}"])), &[104, 0xc3, 0xa9]),
        (Arc::new(Int32Array::from(vec![258])), &[0, 0, 1, 2]),
        (Arc::new(BooleanArray::from(vec![true])), &[1]),
        (Arc::new(Int64Array::from(vec![258])), &[0, 0, 0, 0, 0, 0, 1, 2]),
        (Arc::new(Float64Array::from(vec![1.5])), &[63, 0xf8, 0, 0, 0, 0, 0, 0]),
        (Arc::new(BinaryArray::from(vec![&[1u8, 2][..]])), &[1, 2]),
    ];
    for (array, bytes) in cases {
        let schema = one(array.data_type().clone());
        let rows = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::clone(&array)]).unwrap();
        for (format, is_little) in [(&big, false), (&little, true)] {
            let mut expected = bytes.to_vec();
            if is_little && array.data_type().is_numeric() {
                expected.reverse();
            }
            let mut written = Vec::new();
            assert!(Messages::of(format, &rows).unwrap().write(0, RowKind::Insert, &mut written).unwrap());
            assert_eq!(written, expected, "{} {is_little}", array.data_type());
            let back = read(format, &schema, Some(&written)).unwrap().unwrap();
            assert_eq!(back.column(0), &array);
        }
        let none = read(&big, &schema, None).unwrap().unwrap();
        assert!(none.column(0).is_null(0), "a message without a value is a row of NULL");
        assert!(!Messages::of(&big, &none).unwrap().write(0, RowKind::Insert, &mut Vec::new()).unwrap());
    }
    let lossy = read(&big, &one(DataType::Utf8), Some(&[0xc3, 0x28, 0xe2, 0x82])).unwrap().unwrap();
    assert_eq!(lossy.column(0).as_string::<i32>().value(0), "\u{fffd}(\u{fffd}");
    let wrong = read(&big, &one(DataType::Int32), Some(&[1])).unwrap_err();
    assert_eq!(wrong, "the value has 1 bytes, and one of column 'v' has 4");
    let two = read(&big, &one(DataType::Boolean), Some(&[2])).unwrap().unwrap();
    assert!(two.column(0).as_boolean().value(0));
    let low = read(&little, &one(DataType::Int64), Some(&[0, 0, 0, 0, 0, 0, 1, 2])).unwrap().unwrap();
    assert_eq!(low.column(0).as_primitive::<Int64Type>().value(0), 144_396_663_052_566_528);
}

#[test]
fn messages_are_written_without_a_line_end() {
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int32Array::from(vec![Some(1), None])), Arc::new(StringArray::from(vec![Some("x"), None]))];
    let rows = RecordBatch::try_new(two(), columns).unwrap();
    for (name, expected) in [("csv", ["1,x", ","]), ("json", ["{\"a\":1,\"b\":\"x\"}", "{\"a\":null,\"b\":null}"])] {
        let format = format(name, &[]);
        let mut messages = Messages::of(&format, &rows).unwrap();
        for (row, expected) in expected.iter().enumerate() {
            let mut written = b"left over".to_vec();
            assert!(messages.write(row, RowKind::Insert, &mut written).unwrap());
            assert_eq!(String::from_utf8(written).unwrap(), *expected);
        }
    }
}

#[test]
fn a_record_that_cannot_be_read_leaves_nothing_in_the_columns() {
    let schema = two();
    let mut rows = Rows::new(&format("csv", &[]), &schema, &[0, 1]).unwrap();
    assert!(rows.push_message(Some(b"1,x"), 0).unwrap());
    assert!(rows.push_message(Some(b"2"), 1).is_err());
    rows.truncate(1);
    assert!(rows.push_message(Some(b"3,y"), 1).unwrap());
    let rows = RecordBatch::try_new(schema, rows.finish().unwrap()).unwrap();
    assert_eq!(rows.column(0).as_primitive::<Int32Type>().values(), &[1, 3]);
}

/// As `DebeziumJsonSerializationSchema`, `CanalJsonSerializationSchema` and `MaxwellJsonSerializationSchema` write them.
#[test]
fn changes_are_written_as_flink_writes_them() {
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int32Array::from(vec![1])), Arc::new(StringArray::from(vec![Some("x\"y")]))];
    let rows = RecordBatch::try_new(two(), columns).unwrap();
    let row = r#"{"a":1,"b":"x\"y"}"#;
    let puts = [RowKind::Insert, RowKind::UpdateAfter];
    let takes = [RowKind::UpdateBefore, RowKind::Delete];
    for (name, put, taken) in [
        (
            "debezium-json",
            format!(r#"{{"before":null,"after":{row},"op":"c"}}"#),
            format!(r#"{{"before":{row},"after":null,"op":"d"}}"#),
        ),
        (
            "canal-json",
            format!(r#"{{"data":[{row}],"type":"INSERT"}}"#),
            format!(r#"{{"data":[{row}],"type":"DELETE"}}"#),
        ),
        (
            "maxwell-json",
            format!(r#"{{"data":{row},"type":"insert"}}"#),
            format!(r#"{{"data":{row},"type":"delete"}}"#),
        ),
    ] {
        let format = format(name, &[]);
        let mut messages = Messages::of(&format, &rows).unwrap();
        for (kinds, expected) in [(puts, &put), (takes, &taken)] {
            for kind in kinds {
                let mut written = Vec::new();
                assert!(messages.write(0, kind, &mut written).unwrap());
                assert_eq!(String::from_utf8(written).unwrap(), *expected, "{name} {kind:?}");
            }
        }
    }
}

#[test]
fn arrays_maps_and_rows_of_any_depth_are_read_and_written() {
    let list = |data_type: DataType| DataType::List(Arc::new(Field::new("item", data_type, true)));
    let map = |value: DataType| {
        let entry = vec![Field::new("key", DataType::Utf8, false), Field::new("value", value, true)];
        DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entry.into()), false)), false)
    };
    let row = DataType::Struct(
        vec![Field::new("x", list(DataType::Int32), true), Field::new("y", map(DataType::Utf8), true)].into(),
    );
    let schema = Arc::new(Schema::new(vec![
        Field::new("l", list(row.clone()), true),
        Field::new("m", map(list(DataType::Int64)), true),
        Field::new("r", row, true),
    ]));
    let json = format("json", &[]);
    for (message, written) in [
        (r#"{"l":[{"x":[1,null],"y":{"a":"b"}},null,{"y":{}}],"m":{"k":[1],"n":null},"r":{"x":[],"y":null}}"#, None),
        (r#"{"l":[],"m":{},"r":null}"#, None),
        (
            r#"{ "m" : { "k" : [ 1 ] , "j" : [] , "k" : [ 2, 3 ] } }"#,
            Some(r#"{"l":null,"m":{"j":[],"k":[2,3]},"r":null}"#),
        ),
        (
            r#"{"l":[{"x":null,"y":{"a":{"b":1}}}],"m":null,"r":null}"#,
            Some(r#"{"l":[{"x":null,"y":{"a":"{\"b\":1}"}}],"m":null,"r":null}"#),
        ),
    ] {
        let rows = read(&json, &schema, Some(message.as_bytes())).unwrap().unwrap();
        let mut bytes = Vec::new();
        Messages::of(&json, &rows).unwrap().write(0, RowKind::Insert, &mut bytes).unwrap();
        let written =
            written.map_or_else(|| message.replace(r#"{"y":{}}"#, r#"{"x":null,"y":{}}"#), ToString::to_string);
        assert_eq!(String::from_utf8(bytes).unwrap(), written);
    }
    for message in
        [r#"{"l":[1]}"#, r#"{"l":{"x":1}}"#, r#"{"m":[1]}"#, r#"{"m":{"a":1}}"#, r#"{"l":[{"x":["a"]}]}"#, r#"{"l":[}"#]
    {
        // What was read of the bad one leaves nothing behind.
        let mut rows = Rows::new(&json, &schema, &[0, 1, 2]).unwrap();
        assert!(rows.push_message(Some(br#"{"l":[{"x":[7]}],"m":{"a":[8]}}"#), 0).unwrap());
        assert!(rows.push_message(Some(message.as_bytes()), 1).is_err(), "{message}");
        rows.truncate(1);
        let rows = RecordBatch::try_new(Arc::clone(&schema), rows.finish().unwrap()).unwrap();
        let mut bytes = Vec::new();
        Messages::of(&json, &rows).unwrap().write(0, RowKind::Insert, &mut bytes).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), r#"{"l":[{"x":[7],"y":null}],"m":{"a":[8]},"r":null}"#);
    }
}
