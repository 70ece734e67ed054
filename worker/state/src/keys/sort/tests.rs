use std::{cmp::Ordering, sync::Arc};

use arrow::{
    array::{
        Array, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float64Array, Int32Array,
        Int64Array, ListArray, NullArray, StringArray, TimestampMillisecondArray,
    },
    compute::{SortOptions, cast},
    datatypes::{Float64Type, Int32Type},
    row::{RowConverter, SortField},
};
use proptest::prelude::*;

use super::{super::tests::columns, *};
use crate::layout::hex;

const ASC: SortOrder = SortOrder::ASCENDING;
const DESC: SortOrder = SortOrder::DESCENDING;
const ASC_LAST: SortOrder = SortOrder { descending: false, nulls_first: false };
const DESC_FIRST: SortOrder = SortOrder { descending: true, nulls_first: true };

fn encode(columns: &[ArrayRef], orders: &[SortOrder]) -> SortKeys {
    let mut keys = SortKeys::new();
    keys.encode(columns, orders, columns.first().map_or(0, Array::len)).unwrap();
    keys
}

/// The golden vectors of FORMAT.md. They never change.
#[test]
fn sort_keys_are_those_of_the_format() {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("BOOLEAN true", Arc::new(BooleanArray::from(vec![true]))),
        ("INT -2", Arc::new(Int32Array::from(vec![-2]))),
        ("BIGINT null", Arc::new(Int64Array::from(vec![None]))),
        ("NULL", Arc::new(NullArray::new(1))),
        ("DOUBLE -0.0", Arc::new(Float64Array::from(vec![-0.0]))),
        ("DOUBLE -1", Arc::new(Float64Array::from(vec![-1.0]))),
        ("DOUBLE NaN", Arc::new(Float64Array::from(vec![-f64::NAN]))),
        ("STRING ''", Arc::new(StringArray::from(vec![""]))),
        ("STRING 'weir'", Arc::new(StringArray::from(vec!["weir"]))),
        ("BYTES 00ff", Arc::new(BinaryArray::from(vec![&[0u8, 255][..]]))),
        ("BINARY(2) 00ff", Arc::new(FixedSizeBinaryArray::try_from_iter([[0u8, 255]].iter()).unwrap())),
        ("DATE 2013-01-01", Arc::new(Date32Array::from(vec![15706]))),
        ("TIMESTAMP(3) 1000 ms", Arc::new(TimestampMillisecondArray::from(vec![1000]))),
        ("DECIMAL(10, 2) 1.25", Arc::new(Decimal128Array::from(vec![125]).with_precision_and_scale(10, 2).unwrap())),
    ];
    let mut lines = Vec::new();
    for (name, column) in &columns {
        let [ascending, descending] =
            [ASC, DESC].map(|order| hex(encode(std::slice::from_ref(column), &[order]).key(0)));
        lines.push(format!("| {name} | `{ascending}` | `{descending}` |"));
    }
    let pair: [ArrayRef; 2] = [Arc::new(StringArray::from(vec!["a"])), Arc::new(Int64Array::from(vec![7]))];
    let [ascending, descending] = [ASC, DESC].map(|order| hex(encode(&pair, &[order; 2]).key(0)));
    lines.push(format!("| (STRING 'a', BIGINT 7) | `{ascending}` | `{descending}` |"));
    let format = include_str!("../../../FORMAT.md");
    let missing: Vec<_> = lines.iter().filter(|line| !format.contains(line.as_str())).map(String::as_str).collect();
    assert!(missing.is_empty(), "FORMAT.md lacks these lines:\n{}", missing.join("\n"));
}

#[test]
fn nulls_stand_where_the_order_says_whichever_way_the_values_go() {
    let column: ArrayRef = Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)]));
    for (order, expected) in [(ASC, [1, 0, 2]), (ASC_LAST, [0, 2, 1]), (DESC, [2, 0, 1]), (DESC_FIRST, [1, 2, 0])] {
        let keys = encode(std::slice::from_ref(&column), &[order]);
        let mut rows = [0, 1, 2];
        rows.sort_by_key(|row| keys.key(*row).to_vec());
        assert_eq!(rows, expected, "{order:?}");
    }
}

#[test]
fn zeroes_are_equal_and_nan_is_the_greatest_number() {
    let column: ArrayRef = Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN, f64::INFINITY]));
    let keys = encode(std::slice::from_ref(&column), &[ASC]);
    assert_eq!(keys.key(0), keys.key(1));
    assert_eq!(keys.key(2), keys.key(3));
    assert!(keys.key(4) < keys.key(2));
    let keys = encode(&[column], &[DESC]);
    assert!(keys.key(2) < keys.key(4));
}

#[test]
fn a_type_that_has_no_order_is_refused_and_so_are_columns_that_do_not_fit() {
    let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1)])]));
    let error = SortKeys::new().encode(&[lists], &[ASC], 1).unwrap_err().to_string();
    assert!(error.contains("List"), "{error}");
    let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    SortKeys::new().encode(std::slice::from_ref(&column), &[ASC], 3).unwrap_err();
    SortKeys::new().encode(&[column], &[], 2).unwrap_err();
}

#[test]
fn damaged_sort_keys_are_refused_and_not_misread() {
    for bytes in [&[][..], &[1], &[1, 0], &[2, 0, 0, 0, 0, 0, 0, 0, 0], &[255]] {
        decode_sort_keys(&[DataType::Int64], &[ASC], std::iter::once(bytes)).unwrap_err();
    }
    for bytes in [&[1][..], &[1, b'a'], &[1, b'a', 0], &[1, b'a', 0, 7], &[1, 0xff, 0, 0]] {
        decode_sort_keys(&[DataType::Utf8], &[ASC], std::iter::once(bytes)).unwrap_err();
    }
}

/// Zeroes and NaN as one value each, since the library that is held against us tells them apart.
fn plain(column: &ArrayRef) -> ArrayRef {
    let column = match column.data_type() {
        DataType::Dictionary(_, values) => cast(column, values).unwrap(),
        _ => column.clone(),
    };
    match column.as_any().downcast_ref::<Float64Array>() {
        Some(floats) => {
            Arc::new(floats.unary::<_, Float64Type>(|value| if value.is_nan() { f64::NAN } else { value + 0.0 }))
        }
        None => column,
    }
}

fn order() -> impl Strategy<Value = SortOrder> {
    (any::<bool>(), any::<bool>()).prop_map(|(descending, nulls_first)| SortOrder { descending, nulls_first })
}

/// Texts over few letters, zeroes and the highest byte among them, so that many begin alike.
fn texts() -> impl Strategy<Value = Vec<ArrayRef>> {
    let bytes = prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(b'a'), Just(255)], 0..5);
    let column = || prop::collection::vec(prop::option::of(bytes.clone()), 8);
    (column(), column()).prop_map(|columns| {
        <[_; 2]>::from(columns).map(|values| Arc::new(BinaryArray::from_iter(values)) as ArrayRef).to_vec()
    })
}

fn floats() -> impl Strategy<Value = Vec<ArrayRef>> {
    prop::collection::vec(prop::option::of(any::<f64>()), 8).prop_map(|values| {
        let mut values = values;
        values.extend([Some(0.0), Some(-0.0), Some(f64::NAN), Some(f64::INFINITY), Some(f64::NEG_INFINITY)]);
        vec![Arc::new(Float64Array::from(values)) as ArrayRef]
    })
}

proptest! {
    #[test]
    fn sort_keys_are_ordered_as_their_rows_are(
        columns in prop_oneof![columns(), texts(), floats()],
        orders in prop::collection::vec(order(), 4),
    ) {
        let columns: Vec<ArrayRef> = columns.iter().map(plain).collect();
        let orders = &orders[..columns.len()];
        let fields = columns.iter().zip(orders).map(|(column, order)| {
            let options = SortOptions { descending: order.descending, nulls_first: order.nulls_first };
            SortField::new_with_options(column.data_type().clone(), options)
        });
        let oracle = RowConverter::new(fields.collect()).unwrap().convert_columns(&columns).unwrap();
        let keys = encode(&columns, orders);
        for a in 0..keys.len() {
            for b in 0..keys.len() {
                let expected = oracle.row(a).cmp(&oracle.row(b));
                prop_assert_eq!(keys.key(a).cmp(keys.key(b)), expected, "rows {} and {}", a, b);
                let begins = expected != Ordering::Equal && keys.key(b).starts_with(keys.key(a));
                prop_assert!(!begins, "the key of row {} is the beginning of that of row {}", a, b);
            }
        }
    }

    #[test]
    fn sort_keys_decode_to_the_columns_they_were_made_of(
        columns in prop_oneof![columns(), texts(), floats()],
        orders in prop::collection::vec(order(), 4),
    ) {
        let columns: Vec<ArrayRef> = columns.iter().map(plain).collect();
        let types: Vec<DataType> = columns.iter().map(|column| column.data_type().clone()).collect();
        let orders = &orders[..columns.len()];
        let keys = encode(&columns, orders);
        // Whatever stands behind a key does not disturb.
        let longer: Vec<Vec<u8>> = (0..keys.len()).map(|row| [keys.key(row), &[7]].concat()).collect();
        let back = decode_sort_keys(&types, orders, longer.iter().map(Vec::as_slice)).unwrap();
        for (column, back) in columns.iter().zip(&back) {
            prop_assert_eq!(column.to_data(), back.to_data());
        }
    }
}
