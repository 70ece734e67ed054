use std::sync::Arc;

use arrow::{
    array::{
        Array, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, FixedSizeBinaryArray,
        Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, ListArray, NullArray, StringArray,
        StringViewArray, TimestampMillisecondArray, TimestampNanosecondArray, UInt64Array, new_null_array,
    },
    compute::cast,
    datatypes::{DataType, Int32Type, Int64Type, TimeUnit},
};
use proptest::prelude::*;

use super::*;
use crate::layout::hex;

fn encode(columns: &[ArrayRef]) -> Keys {
    let mut keys = Keys::new();
    keys.encode(columns, columns.first().map_or(0, Array::len)).unwrap();
    keys
}

/// The golden vectors of FORMAT.md: type, value, canonical bytes, hash. They never change.
#[test]
fn canonical_bytes_and_hashes_are_those_of_the_format() {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("NULL", Arc::new(NullArray::new(1))),
        ("BOOLEAN true", Arc::new(BooleanArray::from(vec![true]))),
        ("BOOLEAN null", Arc::new(BooleanArray::from(vec![None]))),
        ("TINYINT -1", Arc::new(Int8Array::from(vec![-1]))),
        ("SMALLINT 258", Arc::new(Int16Array::from(vec![258]))),
        ("INT -2", Arc::new(Int32Array::from(vec![-2]))),
        ("BIGINT 0", Arc::new(Int64Array::from(vec![0]))),
        ("BIGINT 1", Arc::new(Int64Array::from(vec![1]))),
        ("BIGINT min", Arc::new(Int64Array::from(vec![i64::MIN]))),
        ("UINT64 1", Arc::new(UInt64Array::from(vec![1]))),
        ("FLOAT 1.5", Arc::new(Float32Array::from(vec![1.5]))),
        ("DOUBLE 0", Arc::new(Float64Array::from(vec![-0.0]))),
        ("DOUBLE -1", Arc::new(Float64Array::from(vec![-1.0]))),
        ("DOUBLE NaN", Arc::new(Float64Array::from(vec![-f64::NAN]))),
        ("STRING ''", Arc::new(StringArray::from(vec![""]))),
        ("STRING 'weir'", Arc::new(StringArray::from(vec!["weir"]))),
        ("STRING 200 times 'x'", Arc::new(StringArray::from(vec!["x".repeat(200)]))),
        ("STRING 300 times 'x'", Arc::new(StringArray::from(vec!["x".repeat(300)]))),
        ("BYTES 00ff", Arc::new(BinaryArray::from(vec![&[0u8, 255][..]]))),
        ("BINARY(2) 00ff", Arc::new(FixedSizeBinaryArray::try_from_iter([[0u8, 255]].iter()).unwrap())),
        ("DATE 2013-01-01", Arc::new(Date32Array::from(vec![15706]))),
        ("TIMESTAMP(3) 1000 ms", Arc::new(TimestampMillisecondArray::from(vec![1000]))),
        ("DECIMAL(10, 2) 1.25", Arc::new(Decimal128Array::from(vec![125]).with_precision_and_scale(10, 2).unwrap())),
    ];
    let mut lines = Vec::new();
    for (name, column) in &columns {
        let keys = encode(std::slice::from_ref(column));
        let bytes = if keys.key(0).len() > 40 { format!("{}…", hex(&keys.key(0)[..8])) } else { hex(keys.key(0)) };
        lines.push(format!("| {name} | `{bytes}` | `{:016x}` |", keys.hash(0)));
    }
    let pair = encode(&[Arc::new(Int64Array::from(vec![7])), Arc::new(StringArray::from(vec!["a"]))]);
    lines.push(format!("| (BIGINT 7, STRING 'a') | `{}` | `{:016x}` |", hex(pair.key(0)), pair.hash(0)));
    let mut empty = Keys::new();
    empty.encode(&[], 2).unwrap();
    lines.push(format!("| no columns | | `{:016x}` |", empty.hash(1)));
    lines.push(format!("`0x{HASH_SEED:016x}`"));
    assert_in_format(&lines);
}

fn assert_in_format(lines: &[String]) {
    let format = include_str!("../../FORMAT.md");
    let missing: Vec<_> = lines.iter().filter(|line| !format.contains(line.as_str())).map(String::as_str).collect();
    assert!(missing.is_empty(), "FORMAT.md lacks these lines:\n{}", missing.join("\n"));
}

#[test]
fn key_groups_and_their_owners_are_those_of_the_format() {
    let mut lines = Vec::new();
    for (hash, max) in [(0, 128), (u64::MAX, 128), (0x8000_0000_0000_0000, 128), (0x0123_4567_89ab_cdef, 32768)] {
        lines.push(format!("| `{hash:016x}` | {max} | {} |", key_group(hash, max).0));
    }
    for (subtask, parallelism, max) in [(0, 4, 128), (3, 4, 128), (1, 3, 16), (2, 3, 16)] {
        let range = key_group_range(subtask, parallelism, max);
        lines.push(format!("| {subtask} | {parallelism} | {max} | {} to {} |", range.start, range.end - 1));
    }
    assert_in_format(&lines);
}

#[test]
fn every_key_group_is_in_the_range_of_its_subtask_and_of_no_other() {
    for max in [1, 2, 7, 16, 128, 1000, MAX_KEY_GROUPS] {
        for parallelism in [1, 2, 3, 5, 7, 16, 100, 128].into_iter().filter(|&parallelism| parallelism <= max) {
            let mut next = 0;
            for subtask in 0..parallelism {
                let range = key_group_range(subtask, parallelism, max);
                assert_eq!(range.start, next);
                next = range.end;
                for group in [range.start, range.end - 1] {
                    assert_eq!(subtask_of(KeyGroup(group as u16), max, parallelism), subtask);
                }
            }
            assert_eq!(next, max);
        }
    }
}

#[test]
fn equal_values_have_equal_bytes_however_they_are_stored() {
    let floats = encode(&[Arc::new(Float64Array::from(vec![
        0.0,
        -0.0,
        f64::NAN,
        -f64::NAN,
        f64::from_bits(0x7ff0_0000_0000_0001),
    ]))]);
    assert_eq!(floats.key(0), floats.key(1));
    assert_eq!(floats.key(2), floats.key(3));
    assert_eq!(floats.key(2), floats.key(4));
    let words: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("a longer one, not inline")]));
    let expected = encode(std::slice::from_ref(&words));
    for stored in [
        DataType::LargeUtf8,
        DataType::Utf8View,
        DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
    ] {
        let keys = encode(&[cast(&words, &stored).unwrap()]);
        for row in 0..3 {
            assert_eq!(keys.key(row), expected.key(row), "{stored}");
            assert_eq!(keys.hash(row), expected.hash(row));
        }
    }
    // A slice of a column has its own rows, not the column's.
    let sliced = encode(&[words.slice(2, 1)]);
    assert_eq!(sliced.key(0), expected.key(2));
}

#[test]
fn numbers_are_ordered_as_bytes_as_they_are_as_numbers() {
    let floats = [f64::NEG_INFINITY, -1e300, -1.0, -1e-300, 0.0, 1e-300, 1.0, 1e300, f64::INFINITY, f64::NAN];
    let keys = encode(&[Arc::new(Float64Array::from(floats.to_vec()))]);
    assert!((1..floats.len()).all(|row| keys.key(row - 1) < keys.key(row)));
    let numbers = [i64::MIN, -257, -1, 0, 1, 255, 256, i64::MAX];
    let keys = encode(&[Arc::new(Int64Array::from(numbers.to_vec()))]);
    assert!((1..numbers.len()).all(|row| keys.key(row - 1) < keys.key(row)));
}

#[test]
fn composed_keys_stand_in_the_key_group_of_what_they_were_composed_from() {
    let group: ArrayRef = Arc::new(Int64Array::from(vec![1, 1, 2]));
    let value: ArrayRef = Arc::new(StringArray::from(vec!["x", "y", "x"]));
    let groups = encode(std::slice::from_ref(&group));
    let mut composed = encode(&[group.clone(), value.clone()]);
    composed.with_key_group_hashes(groups.hashes()).unwrap();
    assert_ne!(composed.hash(0), composed.hash(1));
    assert_eq!(composed.key_group_hash(0), groups.hash(1));
    assert!(composed.key(0).starts_with(groups.key(0)));
    let back = decode_keys(&[DataType::Int64], (0..3).map(|row| composed.key(row))).unwrap();
    assert_eq!(&back[0], &group);
    composed.with_key_group_hashes(&[1]).unwrap_err();
    composed.encode(&[value], 3).unwrap();
    assert_eq!(composed.key_group_hash(0), composed.hash(0));
}

#[test]
fn a_type_that_cannot_be_a_key_is_refused_by_name() {
    let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1)])]));
    let error = Keys::new().encode(&[lists], 1).unwrap_err().to_string();
    assert!(error.contains("List"), "{error}");
    let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    Keys::new().encode(&[column], 3).unwrap_err();
}

#[test]
fn damaged_keys_are_refused_and_not_misread() {
    for bytes in [&[][..], &[1], &[1, 0, 0], &[2, 0, 0, 0, 0, 0, 0, 0, 0]] {
        decode_keys(&[DataType::Int64], std::iter::once(bytes)).unwrap_err();
    }
    for bytes in [&[1][..], &[1, 3, b'a'], &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], &[1, 1, 0xff]] {
        decode_keys(&[DataType::Utf8], std::iter::once(bytes)).unwrap_err();
    }
}

pub(super) fn columns() -> impl Strategy<Value = Vec<ArrayRef>> {
    let rows = 0..20usize;
    rows.prop_flat_map(|rows| {
        let optional = |nulls: bool| if nulls { 0.7 } else { 0.999 };
        let longs = any::<bool>().prop_flat_map(move |nulls| {
            prop::collection::vec(prop::option::weighted(optional(nulls), any::<i64>()), rows)
        });
        let texts = any::<bool>().prop_flat_map(move |nulls| {
            prop::collection::vec(prop::option::weighted(optional(nulls), ".{0,40}"), rows)
        });
        let flags = prop::collection::vec(prop::option::of(any::<bool>()), rows);
        let column = prop_oneof![
            longs.clone().prop_map(|values| Arc::new(Int64Array::from(values)) as ArrayRef),
            longs.clone().prop_map(|values| Arc::new(
                values
                    .into_iter()
                    .map(|v| v.map(i128::from))
                    .collect::<Decimal128Array>()
                    .with_precision_and_scale(20, 3)
                    .unwrap()
            ) as ArrayRef),
            longs
                .clone()
                .prop_map(|values| Arc::new(TimestampNanosecondArray::from(values).with_timezone("UTC")) as ArrayRef),
            longs.clone().prop_map(|values| cast(&Int64Array::from(values), &DataType::Float64).unwrap()),
            longs.clone().prop_map(|values| cast(
                &Int64Array::from(values),
                &DataType::Timestamp(TimeUnit::Second, None)
            )
            .unwrap()),
            longs.prop_map(|values| {
                let words = values.into_iter().map(|v| v.map(|v| if v % 2 == 0 { "even" } else { "odd" }));
                Arc::new(words.collect::<DictionaryArray<Int64Type>>()) as ArrayRef
            }),
            texts.clone().prop_map(|values| Arc::new(StringArray::from(values)) as ArrayRef),
            texts.clone().prop_map(|values| Arc::new(StringViewArray::from_iter(values)) as ArrayRef),
            texts.prop_map(|values| cast(&StringArray::from(values), &DataType::LargeBinary).unwrap()),
            flags.prop_map(|values| Arc::new(BooleanArray::from(values)) as ArrayRef),
            Just(new_null_array(&DataType::Null, rows)),
            Just(new_null_array(&DataType::FixedSizeBinary(3), rows)),
        ];
        prop::collection::vec(column, 1..4)
    })
}

proptest! {
    #[test]
    fn keys_decode_to_the_columns_they_were_made_of(columns in columns()) {
        let keys = encode(&columns);
        let types: Vec<DataType> = columns.iter().map(|column| column.data_type().clone()).collect();
        let back = decode_keys(&types, (0..keys.len()).map(|row| keys.key(row))).unwrap();
        for (column, back) in columns.iter().zip(&back) {
            prop_assert_eq!(column.data_type(), back.data_type());
            if matches!(column.data_type(), DataType::Dictionary(..)) {
                prop_assert_eq!(&cast(column, &DataType::Utf8).unwrap(), &cast(back, &DataType::Utf8).unwrap());
            } else {
                prop_assert_eq!(column, back);
            }
        }
        for row in 0..keys.len() {
            prop_assert_eq!(keys.hash(row), hash(keys.key(row)));
        }
    }

    #[test]
    fn rows_encode_alike_alone_and_in_any_company(columns in columns()) {
        let together = encode(&columns);
        let mut alone = Keys::new();
        for row in 0..together.len() {
            let one: Vec<ArrayRef> = columns.iter().map(|column| column.slice(row, 1)).collect();
            alone.encode(&one, 1).unwrap();
            prop_assert_eq!(alone.key(0), together.key(row));
        }
    }
}
