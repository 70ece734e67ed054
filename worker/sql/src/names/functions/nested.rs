//! ROW, ARRAY and MAP: how they are made, read, converted and written. An ARRAY is a list of Arrow's and a MAP a map, whose entries stand in
//! the order of their keys: so two that are equal are the same, and a row that is taken back is the row that was put.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, ListArray, MapArray, StringArray, StringBuilder, StructArray, UInt32Array,
    make_comparator, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::{SortOptions, interleave, take};
use arrow::datatypes::{DataType, Field, Int64Type};
use arrow::row::{RowConverter, SortField};
use datafusion_common::{Result, exec_err, internal_err};

use super::cast::{convert, texts};
use super::kernel::{Call, Kernel};
use crate::logical::operators::common;
use crate::parse::types::{array_of, entry_of, map_of};

/// `ARRAY[…]`.
pub const ARRAY: &str = "$array";

/// `MAP[…]`.
pub const MAP: &str = "$map";

/// `array[1]`, `map['key']`.
pub const ITEM: &str = "$item";

/// The functions of this module.
pub static KERNELS: [Kernel; 6] = [
    Kernel {
        name: ARRAY,
        aliases: &[],
        usage: "values of one type, one at least",
        takes: |types| {
            let common = common(types).filter(|_| !types.is_empty())?;
            Some(vec![common; types.len()])
        },
        gives: |types, _| array_of(types.first().cloned().unwrap_or(DataType::Null)),
        run: array,
    },
    Kernel {
        name: MAP,
        aliases: &[],
        usage: "a key and a value for each entry, keys of one type and values of one type",
        takes: |types| {
            let of = |odd: usize| types.iter().skip(odd).step_by(2).cloned().collect::<Vec<_>>();
            let (key, value) = (common(&of(0))?, common(&of(1))?);
            let is_key = types.len() % 2 == 0 && !types.is_empty() && !key.is_nested();
            is_key.then(|| (0..types.len()).map(|at| if at % 2 == 0 { key.clone() } else { value.clone() }).collect())
        },
        gives: |types, _| match types {
            [key, value, ..] => map_of(key.clone(), value.clone()),
            _ => DataType::Null,
        },
        run: map,
    },
    Kernel {
        name: ITEM,
        aliases: &[],
        usage: "an ARRAY and a number from 1 on, or a MAP and a key",
        takes: |types| match types {
            [array @ DataType::List(_), index] if index.is_integer() => Some(vec![array.clone(), DataType::Int64]),
            [map @ DataType::Map(..), key] => {
                let (wanted, _) = entry_of(map)?;
                let fits = *key == DataType::Null || common(&[wanted.clone(), key.clone()]).as_ref() == Some(wanted);
                fits.then(|| vec![map.clone(), wanted.clone()])
            }
            _ => None,
        },
        gives: |types, _| match types.first() {
            Some(DataType::List(element)) => element.data_type().clone(),
            Some(map) => entry_of(map).map_or(DataType::Null, |(_, value)| value.clone()),
            None => DataType::Null,
        },
        run: item,
    },
    Kernel {
        name: "row",
        aliases: &[],
        usage: "values whose types are known: write CAST(NULL AS …) for one that is missing",
        takes: |types| (!types.is_empty() && !types.contains(&DataType::Null)).then(|| types.to_vec()),
        gives: |types, _| {
            let field = |(at, data_type): (usize, &DataType)| Field::new(format!("EXPR${at}"), data_type.clone(), true);
            DataType::Struct(types.iter().enumerate().map(field).collect())
        },
        run: row,
    },
    Kernel {
        name: "cardinality",
        aliases: &[],
        usage: "an ARRAY or a MAP",
        takes: |types| match types {
            [DataType::List(_) | DataType::Map(..)] => Some(types.to_vec()),
            _ => None,
        },
        gives: |_, _| DataType::Int32,
        run: |call| {
            let values = call.array(0);
            let (offsets, nulls) = lists(values)?;
            let counts: Vec<i32> = offsets.windows(2).map(|pair| pair[1] - pair[0]).collect();
            Ok(Arc::new(Int32Array::new(counts.into(), nulls.cloned())))
        },
    },
    Kernel {
        name: "element",
        aliases: &[],
        usage: "an ARRAY of one element",
        takes: |types| matches!(types, [DataType::List(_)]).then(|| types.to_vec()),
        gives: |types, _| match types.first() {
            Some(DataType::List(element)) => element.data_type().clone(),
            _ => DataType::Null,
        },
        run: |call| {
            let lists = call.array(0).as_list::<i32>();
            let mut found = Vec::with_capacity(lists.len());
            for row in 0..lists.len() {
                found.push(match (lists.is_valid(row), lists.value_length(row)) {
                    (false, _) | (_, 0) => None,
                    (_, 1) => Some(lists.value_offsets()[row] as u32),
                    (_, more) => return exec_err!("ELEMENT takes an ARRAY of one element, and one of {more} is given"),
                });
            }
            Ok(take(lists.values(), &UInt32Array::from(found), None)?)
        },
    },
];

/// Where the elements of each row's ARRAY or MAP begin and end, and which rows have none.
fn lists(values: &ArrayRef) -> Result<(&[i32], Option<&NullBuffer>)> {
    match values.data_type() {
        DataType::List(_) => {
            let list = values.as_list::<i32>();
            Ok((list.value_offsets(), list.nulls()))
        }
        DataType::Map(..) => {
            let map = values.as_map();
            Ok((map.value_offsets(), map.nulls()))
        }
        other => internal_err!("{other} has no elements"),
    }
}

/// Lists of these elements, each to its end.
fn list_array(elements: ArrayRef, ends: Vec<i32>, nulls: Option<NullBuffer>) -> Result<ArrayRef> {
    let field = Arc::new(Field::new("item", elements.data_type().clone(), true));
    Ok(Arc::new(ListArray::try_new(field, offsets(ends), elements, nulls)?))
}

fn offsets(ends: Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(std::iter::once(0).chain(ends).collect::<Vec<_>>()))
}

/// Maps of these entries, in the order of their keys. That a key is NULL, or there twice, is an error.
fn map_array(keys: &ArrayRef, values: &ArrayRef, offsets: &[i32], nulls: Option<NullBuffer>) -> Result<ArrayRef> {
    if keys.null_count() > 0 {
        return exec_err!("a key of a MAP is NULL");
    }
    let rows =
        RowConverter::new(vec![SortField::new(keys.data_type().clone())])?.convert_columns(&[Arc::clone(keys)])?;
    let (mut order, mut ends) = (Vec::with_capacity(keys.len()), Vec::with_capacity(offsets.len()));
    for bounds in offsets.windows(2) {
        let first = order.len();
        order.extend((bounds[0]..bounds[1]).map(|at| at as u32));
        let entries = &mut order[first..];
        entries.sort_unstable_by_key(|at| rows.row(*at as usize));
        if entries.windows(2).any(|pair| rows.row(pair[0] as usize) == rows.row(pair[1] as usize)) {
            return exec_err!("a MAP has two entries of one key");
        }
        ends.push(order.len() as i32);
    }
    let order = UInt32Array::from(order);
    map_of_entries(take(keys, &order, None)?, take(values, &order, None)?, self::offsets(ends), nulls)
}

fn map_of_entries(
    keys: ArrayRef,
    values: ArrayRef,
    offsets: OffsetBuffer<i32>,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef> {
    let DataType::Map(field, _) = map_of(keys.data_type().clone(), values.data_type().clone()) else {
        return internal_err!("a MAP is no map");
    };
    let DataType::Struct(fields) = field.data_type().clone() else { return internal_err!("a MAP has no entries") };
    let entries = StructArray::try_new(fields, vec![keys, values], None)?;
    Ok(Arc::new(MapArray::try_new(field, offsets, entries, nulls, false)?))
}

fn arguments(call: &Call<'_>) -> Result<Vec<ArrayRef>> {
    (0..call.arguments()).map(|position| call.full(position)).collect()
}

/// Of each row the values of these columns, one after the other.
fn row_by_row(columns: &[&ArrayRef], rows: usize) -> Result<ArrayRef> {
    let columns: Vec<&dyn Array> = columns.iter().map(AsRef::as_ref).collect();
    let places: Vec<(usize, usize)> =
        (0..rows).flat_map(|row| (0..columns.len()).map(move |column| (column, row))).collect();
    Ok(interleave(&columns, &places)?)
}

fn array(call: &Call<'_>) -> Result<ArrayRef> {
    let columns = arguments(call)?;
    let width = columns.len() as i32;
    let elements = row_by_row(&columns.iter().collect::<Vec<_>>(), call.rows)?;
    list_array(elements, (1..=call.rows as i32).map(|row| row * width).collect(), None)
}

fn map(call: &Call<'_>) -> Result<ArrayRef> {
    let columns = arguments(call)?;
    let of = |odd: usize| row_by_row(&columns.iter().skip(odd).step_by(2).collect::<Vec<_>>(), call.rows);
    let width = columns.len() as i32 / 2;
    let offsets: Vec<i32> = (0..=call.rows as i32).map(|row| row * width).collect();
    map_array(&of(0)?, &of(1)?, &offsets, None)
}

fn row(call: &Call<'_>) -> Result<ArrayRef> {
    let DataType::Struct(fields) = call.returns else { return internal_err!("a ROW is no struct") };
    Ok(Arc::new(StructArray::try_new(fields.clone(), arguments(call)?, None)?))
}

fn item(call: &Call<'_>) -> Result<ArrayRef> {
    let (of, wanted) = (call.full(0)?, call.full(1)?);
    let (offsets, nulls) = lists(&of)?;
    let is_known = |row: usize| nulls.is_none_or(|nulls| nulls.is_valid(row)) && wanted.is_valid(row);
    let mut found: Vec<Option<u32>> = vec![None; call.rows];
    if let Some(maps) = of.as_map_opt() {
        let compare = make_comparator(maps.keys(), &wanted, SortOptions::default())?;
        for (row, found) in found.iter_mut().enumerate().filter(|(row, _)| is_known(*row)) {
            let entries = offsets[row]..offsets[row + 1];
            *found = entries.map(|at| at as u32).find(|at| compare(*at as usize, row).is_eq());
        }
        return Ok(take(maps.values(), &UInt32Array::from(found), None)?);
    }
    let indexes = wanted.as_primitive::<Int64Type>();
    for (row, found) in found.iter_mut().enumerate().filter(|(row, _)| is_known(*row)) {
        let (start, end, index) = (i64::from(offsets[row]), i64::from(offsets[row + 1]), indexes.value(row));
        if index < 1 {
            return exec_err!("the elements of an ARRAY are counted from 1, and element {index} is asked for");
        }
        *found = start.checked_add(index - 1).filter(|at| *at < end).and_then(|at| u32::try_from(at).ok());
    }
    Ok(take(of.as_list::<i32>().values(), &UInt32Array::from(found), None)?)
}

/// Values of one type in another, where at least one of them holds others.
pub fn convert_nested(values: &ArrayRef, to: &DataType, lenient: bool) -> Result<ArrayRef> {
    if values.data_type() == to {
        return Ok(Arc::clone(values));
    }
    match (values.data_type(), to) {
        (DataType::Null, _) => Ok(new_null_array(to, values.len())),
        (_, DataType::Utf8) => nested_texts(values),
        (DataType::List(_), DataType::List(element)) => {
            let list = values.as_list::<i32>();
            let elements = convert(list.values(), element.data_type(), lenient)?;
            let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
            Ok(Arc::new(ListArray::try_new(Arc::clone(element), offsets, elements, nulls)?))
        }
        (DataType::Map(..), DataType::Map(..)) => {
            let map = values.as_map();
            let Some((key, value)) = entry_of(to) else { return internal_err!("a MAP has no entries") };
            let keys = convert(map.keys(), key, lenient)?;
            let values = convert(map.values(), value, lenient)?;
            map_array(&keys, &values, map.value_offsets(), map.nulls().cloned())
        }
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let row = values.as_struct();
            let nulls = row.nulls();
            let mut columns = Vec::with_capacity(fields.len());
            for (column, field) in row.columns().iter().zip(fields) {
                columns.push(convert(&masked(column, nulls)?, field.data_type(), lenient)?);
            }
            Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, nulls.cloned(), row.len())?))
        }
        (from, to) => internal_err!("CAST from {from} to {to}"),
    }
}

/// A field's values, none where its row is none: what stands there has no meaning.
fn masked(column: &ArrayRef, nulls: Option<&NullBuffer>) -> Result<ArrayRef> {
    let Some(nulls) = nulls.filter(|nulls| nulls.null_count() > 0) else { return Ok(Arc::clone(column)) };
    let data = column.to_data().into_builder().nulls(NullBuffer::union(column.nulls(), Some(nulls)));
    Ok(arrow::array::make_array(data.build()?))
}

/// Whether a CAST from one type that holds others to another is one that Flink makes.
pub fn is_convertible(from: &DataType, to: &DataType, is_allowed: fn(&DataType, &DataType) -> bool) -> bool {
    match (from, to) {
        (DataType::Null, _) | (_, DataType::Utf8) => true,
        (DataType::List(from), DataType::List(to)) => is_convertible(from.data_type(), to.data_type(), is_allowed),
        (DataType::Struct(from), DataType::Struct(to)) => {
            let mut pairs = from.iter().zip(to.iter());
            from.len() == to.len()
                && pairs.all(|(from, to)| is_convertible(from.data_type(), to.data_type(), is_allowed))
        }
        (DataType::Map(..), DataType::Map(..)) => match (entry_of(from), entry_of(to)) {
            (Some(from), Some(to)) => {
                is_convertible(from.0, to.0, is_allowed) && is_convertible(from.1, to.1, is_allowed)
            }
            _ => false,
        },
        (from, to) => !from.is_nested() && !to.is_nested() && is_allowed(from, to),
    }
}

/// `[1, 2]`, `{a=1, b=2}`, `(1, a)`, as Flink writes them.
fn nested_texts(values: &ArrayRef) -> Result<ArrayRef> {
    let text_of = |column: &ArrayRef| -> Result<StringArray> {
        Ok(if column.data_type().is_nested() { nested_texts(column)? } else { texts(column)? }
            .as_string::<i32>()
            .clone())
    };
    let mut out = StringBuilder::with_capacity(values.len(), values.len() * 16);
    let mut text = String::new();
    let push = |text: &mut String, of: &StringArray, at: usize| {
        text.push_str(if of.is_valid(at) { of.value(at) } else { "NULL" });
    };
    match values.data_type() {
        DataType::Struct(_) => {
            let columns = values.as_struct().columns().iter().map(text_of).collect::<Result<Vec<_>>>()?;
            for row in 0..values.len() {
                text.clear();
                for (at, column) in columns.iter().enumerate() {
                    text.push_str(if at == 0 { "(" } else { ", " });
                    push(&mut text, column, row);
                }
                text.push(')');
                out.append_option(values.is_valid(row).then_some(&text));
            }
        }
        DataType::List(_) | DataType::Map(..) => {
            let maps = values.as_map_opt();
            let (open, close) = if maps.is_some() { ('{', '}') } else { ('[', ']') };
            let keys = maps.map(|maps| text_of(maps.keys())).transpose()?;
            let elements = match maps {
                Some(maps) => text_of(maps.values())?,
                None => text_of(values.as_list::<i32>().values())?,
            };
            let (offsets, _) = lists(values)?;
            for row in 0..values.len() {
                text.clear();
                text.push(open);
                for at in offsets[row] as usize..offsets[row + 1] as usize {
                    if at > offsets[row] as usize {
                        text.push_str(", ");
                    }
                    if let Some(keys) = &keys {
                        push(&mut text, keys, at);
                        text.push('=');
                    }
                    push(&mut text, &elements, at);
                }
                text.push(close);
                out.append_option(values.is_valid(row).then_some(&text));
            }
        }
        other => return internal_err!("{other} holds no values"),
    }
    Ok(Arc::new(out.finish()))
}
