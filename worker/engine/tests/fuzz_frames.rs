//! Frames with bytes changed: each is refused, or read as a batch that can be looked at and sent on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::from_iter_instead_of_collect)]

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray, StringViewArray, StructArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field};
use weir_engine::data::wire::{FrameDecoder, FrameEncoder};
use weir_engine::{Batch, RowKind};
use weir_fuzz::cases;

/// A batch with a column of each layout.
fn batch(rows: i64, with_kinds: bool) -> Batch {
    let numbers = || (0..rows).map(|row| (row % 3 != 0).then_some(row));
    let texts: Vec<Option<String>> = numbers().map(|n| n.map(|n| "text ".repeat(n as usize % 7))).collect();
    let inner: ArrayRef = Arc::new(Int32Array::from_iter(numbers().map(|n| n.map(|n| n as i32))));
    let text: ArrayRef = Arc::new(StringArray::from(texts.clone()));
    let inner = StructArray::from(vec![
        (Arc::new(Field::new("a", DataType::Int32, true)), inner),
        (Arc::new(Field::new("b", DataType::Utf8, true)), text),
    ]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("bigint", Arc::new(Int64Array::from_iter(numbers()))),
        ("double", Arc::new(Float64Array::from_iter(numbers().map(|n| n.map(|n| n as f64))))),
        ("boolean", Arc::new(BooleanArray::from_iter(numbers().map(|n| n.map(|n| n % 2 == 0))))),
        ("decimal", Arc::new(Decimal128Array::from_iter(numbers().map(|n| n.map(i128::from))))),
        ("time", Arc::new(TimestampMillisecondArray::from_iter(numbers()))),
        ("string", Arc::new(StringArray::from(texts.clone()))),
        (
            "view",
            Arc::new(StringViewArray::from_iter(texts.iter().map(|text| text.as_ref().map(|text| text.repeat(3))))),
        ),
        ("bytes", Arc::new(BinaryArray::from_iter(texts.iter().map(|text| text.as_ref().map(String::as_bytes))))),
        ("row", Arc::new(inner)),
    ];
    let rows = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)));
    let rows = rows.unwrap();
    let all = [RowKind::Insert, RowKind::UpdateBefore, RowKind::UpdateAfter, RowKind::Delete];
    let kinds = with_kinds.then(|| (0..rows.num_rows()).map(|row| all[row % 4]).collect());
    Batch { rows, kinds }
}

#[test]
fn whatever_comes_over_the_wire_is_a_batch_or_refused() {
    let batches = [batch(1, false), batch(40, true), batch(300, false), batch(0, false)];
    let decoder = FrameDecoder::new(batches[0].rows.schema());
    let frames: Vec<_> = batches.iter().map(|batch| FrameEncoder::default().encode(batch).unwrap()).collect();
    for (frame, batch) in frames.iter().zip(&batches) {
        assert_eq!(decoder.decode(frame).unwrap().rows, batch.rows);
    }
    cases(10_000, |random| {
        let frame = random.below(frames.len());
        let frame = random.changed(&frames[frame], &[]);
        let Ok(read) = decoder.decode(&frame) else { return };
        for column in read.rows.columns() {
            column.to_data().validate_full().expect("what was read holds together");
        }
        let again = FrameEncoder::default().encode(&read).unwrap();
        assert_eq!(decoder.decode(&again).unwrap().rows.num_rows(), read.rows.num_rows());
    });
}
