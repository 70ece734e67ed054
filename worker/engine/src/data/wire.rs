//! How a batch travels between workers: the bytes of a data frame.
//!
//! Both ends know the edge's schema from their plan, so only the record-batch message goes over the wire, never the schema.
//! All numbers are little-endian.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | version, [`WIRE_VERSION`] |
//! | 1 | 1 | flags; bit 0: row kinds follow |
//! | 2 | 2 | zero |
//! | 4 | 4 | `m`, length of the Arrow IPC message |
//! | 8 | 4 | `k`, how many row kinds: the number of rows, or 0 |
//! | 12 | 4 | zero |
//! | 16 | `m` | the `Message` flatbuffer of a `RecordBatch` |
//! | 16 + `m` | `k` | one byte a row: 0 +I, 1 −U, 2 +U, 3 −D |
//! | | 0–15 | zeros up to a multiple of 16 |
//! | | | the message's body, its buffers at multiples of 16; not compressed |
//!
//! A frame arrives at any address. The decoder copies the body once into memory of its own that is aligned: the columns of
//! a batch then share one allocation of known size and keep no network buffer alive.
//!
//! Dictionaries are refused: they would need state on the stream, and no operator makes them.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, BinaryViewArray, RecordBatch, StringViewArray},
    buffer::{Buffer, MutableBuffer},
    datatypes::{DataType, SchemaRef},
    error::ArrowError,
    ipc::{
        MetadataVersion,
        reader::RecordBatchDecoder,
        root_as_message,
        writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions},
    },
};
use bytes::Bytes;
use thiserror::Error;

use crate::api::batch::{Batch, RowKind, RowKinds};

/// The version of data frames that this build writes. It reads this one and no other.
pub const WIRE_VERSION: u8 = 1;

const HEADER: usize = 16;
/// Buffers in the body begin at multiples of this: the widest alignment of any Arrow value, a decimal of 128 bits.
const ALIGNMENT: usize = 16;
const HAS_KINDS: u8 = 1;

/// Why a batch could not be turned into a frame, or back.
#[derive(Debug, Error)]
pub enum WireError {
    /// A column holds dictionaries.
    #[error("column `{column}` is a dictionary, which cannot be sent to another worker")]
    Dictionary {
        /// Its name.
        column: String,
    },
    /// Arrow refused the batch.
    #[error("a batch could not be encoded")]
    Encode(#[source] ArrowError),
    /// Arrow refused the bytes.
    #[error("a data frame could not be decoded")]
    Decode(#[source] ArrowError),
    /// The bytes end too early or say what cannot be.
    #[error("a data frame of {length} bytes is malformed: {reason}")]
    Malformed {
        /// All bytes of the frame.
        length: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// Another build's format.
    #[error("a data frame has format version {found}, this build reads {WIRE_VERSION}")]
    Version {
        /// The frame's.
        found: u8,
    },
}

/// Turns batches into frames. One a sending subtask; keeps its buffers for the next batch.
pub struct FrameEncoder {
    generator: IpcDataGenerator,
    options: IpcWriteOptions,
    context: IpcWriteContext,
    dictionaries: DictionaryTracker,
}

impl Default for FrameEncoder {
    fn default() -> Self {
        Self {
            generator: IpcDataGenerator::default(),
            // The only combination that fails is one with the legacy format; the default differs in padding alone.
            options: IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5).unwrap_or_default(),
            context: IpcWriteContext::default(),
            dictionaries: DictionaryTracker::new(true),
        }
    }
}

impl FrameEncoder {
    /// The bytes of a data frame. Slices are cut down to what they show.
    pub fn encode(&mut self, batch: &Batch) -> Result<Bytes, WireError> {
        let rows = compact_views(&batch.rows)?;
        let (_, encoded) = self
            .generator
            .encode(&rows, &mut self.dictionaries, &self.options, &mut self.context)
            .map_err(|error| refused(&batch.rows, error))?;
        let kinds = batch.kinds.as_deref().unwrap_or_default();
        let message = &encoded.ipc_message;
        let body_at = (HEADER + message.len() + kinds.len()).next_multiple_of(ALIGNMENT);
        let mut frame = Vec::with_capacity(body_at + encoded.arrow_data.len());
        frame.extend_from_slice(&[WIRE_VERSION, if batch.kinds.is_some() { HAS_KINDS } else { 0 }, 0, 0]);
        frame.extend_from_slice(&(message.len() as u32).to_le_bytes());
        frame.extend_from_slice(&(kinds.len() as u32).to_le_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(message);
        frame.extend(kinds.iter().map(|kind| *kind as u8));
        frame.resize(body_at, 0);
        frame.extend_from_slice(&encoded.arrow_data);
        Ok(frame.into())
    }
}

/// Turns the frames of one edge back into batches.
#[derive(Clone, Debug)]
pub struct FrameDecoder {
    schema: SchemaRef,
}

impl FrameDecoder {
    /// For an edge whose batches have this schema.
    pub fn new(schema: SchemaRef) -> Self {
        Self { schema }
    }

    /// The batch of a data frame.
    pub fn decode(&self, frame: &[u8]) -> Result<Batch, WireError> {
        let malformed = |reason| WireError::Malformed { length: frame.len(), reason };
        let header = frame.get(..HEADER).ok_or_else(|| malformed("no header"))?;
        if header[0] != WIRE_VERSION {
            return Err(WireError::Version { found: header[0] });
        }
        let number =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
        let (message_length, kinds_length) = (number(4), number(8));
        let kinds_at = HEADER + message_length;
        let kinds_end = kinds_at + kinds_length;
        let message_bytes = frame.get(HEADER..kinds_at).ok_or_else(|| malformed("the message is cut off"))?;
        let kinds = frame.get(kinds_at..kinds_end).ok_or_else(|| malformed("the row kinds are cut off"))?;
        let body_at = kinds_end.next_multiple_of(ALIGNMENT);
        let body = frame.get(body_at..).ok_or_else(|| malformed("the body is cut off"))?;

        let message = root_as_message(message_bytes).map_err(|_| malformed("not an Arrow IPC message"))?;
        let header_batch =
            message.header_as_record_batch().ok_or_else(|| malformed("not the message of a record batch"))?;
        if message.bodyLength() != body.len() as i64 {
            return Err(malformed("the body's length is not the one in the message"));
        }
        // Arrow takes these as they are, and panics.
        let is_within = |at: i64, length: i64| {
            at >= 0 && length >= 0 && at.checked_add(length).is_some_and(|end| end <= body.len() as i64)
        };
        let buffers = header_batch.buffers().into_iter().flatten();
        if !buffers.into_iter().all(|buffer| is_within(buffer.offset(), buffer.length())) {
            return Err(malformed("a column is beyond the body"));
        }
        let mut aligned = MutableBuffer::with_capacity(body.len());
        aligned.extend_from_slice(body);
        let body = Buffer::from(aligned);
        let version = message.version();
        let decode = || {
            let schema = SchemaRef::clone(&self.schema);
            RecordBatchDecoder::try_new(&body, header_batch, schema, &HashMap::default(), &version)
                .and_then(RecordBatchDecoder::read_record_batch)
        };
        // Arrow panics where lengths and offsets do not go together, and checks all else.
        let rows = catch_unwind(AssertUnwindSafe(decode))
            .map_err(|_| malformed("the columns are not within the body"))?
            .map_err(WireError::Decode)?;

        let kinds = if header[1] & HAS_KINDS == 0 {
            None
        } else if kinds.len() == rows.num_rows() {
            Some(decode_kinds(kinds).ok_or_else(|| malformed("an unknown row kind"))?)
        } else {
            return Err(malformed("not one row kind a row"));
        };
        Ok(Batch { rows, kinds })
    }
}

fn decode_kinds(bytes: &[u8]) -> Option<RowKinds> {
    const KINDS: [RowKind; 4] = [RowKind::Insert, RowKind::UpdateBefore, RowKind::UpdateAfter, RowKind::Delete];
    bytes.iter().map(|byte| KINDS.get(usize::from(*byte)).copied()).collect()
}

/// Arrow writes the data buffers of a view array whole, however few of its rows are shown. Those that show less than half
/// are copied first; the rest goes as it is.
fn compact_views(rows: &RecordBatch) -> Result<RecordBatch, WireError> {
    let is_view = |kind: &DataType| matches!(kind, DataType::Utf8View | DataType::BinaryView);
    if !rows.columns().iter().any(|column| is_view(column.data_type())) {
        return Ok(rows.clone());
    }
    let columns = rows.columns().iter().map(compact_view).collect();
    RecordBatch::try_new(rows.schema(), columns).map_err(WireError::Encode)
}

fn compact_view(column: &ArrayRef) -> ArrayRef {
    fn wasteful(kept: usize, shown: usize) -> bool {
        kept > 2 * shown
    }
    let any = column.as_any();
    if let Some(views) = any.downcast_ref::<StringViewArray>() {
        let kept = views.data_buffers().iter().map(Buffer::len).sum();
        if wasteful(kept, views.total_buffer_bytes_used()) {
            return Arc::new(views.gc());
        }
    } else if let Some(views) = any.downcast_ref::<BinaryViewArray>() {
        let kept = views.data_buffers().iter().map(Buffer::len).sum();
        if wasteful(kept, views.total_buffer_bytes_used()) {
            return Arc::new(views.gc());
        }
    }
    ArrayRef::clone(column)
}

/// Arrow knows nothing of dictionaries here, since no schema was written, and refuses them in its own words.
fn refused(rows: &RecordBatch, error: ArrowError) -> WireError {
    let schema = rows.schema();
    let found = schema.fields().iter().find(|field| matches!(field.data_type(), DataType::Dictionary(..)));
    found.map_or(WireError::Encode(error), |field| WireError::Dictionary { column: field.name().clone() })
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{
            BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, StringArray, StructArray,
            TimestampMillisecondArray,
        },
        datatypes::{Field, Int32Type, Schema},
    };
    use proptest::prelude::*;

    use super::*;

    fn round_trip(batch: &Batch) -> Batch {
        let bytes = FrameEncoder::default().encode(batch).unwrap();
        FrameDecoder::new(batch.rows.schema()).decode(&bytes).unwrap()
    }

    fn inserts(columns: Vec<(&str, ArrayRef)>) -> Batch {
        Batch {
            rows: RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap(),
            kinds: None,
        }
    }

    fn assert_same(left: &Batch, right: &Batch) {
        assert_eq!(left.rows, right.rows);
        assert_eq!(left.kinds.as_deref(), right.kinds.as_deref());
    }

    fn wide(rows: i64) -> Batch {
        let structs = StructArray::from(vec![
            (
                Arc::new(Field::new("a", DataType::Int32, true)),
                Arc::new((0..rows as i32).map(|i| (i % 3 != 0).then_some(i)).collect::<Int32Array>()) as ArrayRef,
            ),
            (
                Arc::new(Field::new("b", DataType::Utf8, true)),
                Arc::new((0..rows).map(|i| (i % 2 == 0).then(|| format!("inner {i}"))).collect::<StringArray>())
                    as ArrayRef,
            ),
        ]);
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(
            (0..rows as i32)
                .map(|i| (i % 4 != 1).then(|| (0..i % 5).map(|k| (k != 2).then_some(k)).collect::<Vec<_>>())),
        );
        inserts(vec![
            ("id", Arc::new((0..rows).collect::<Int64Array>()) as ArrayRef),
            ("maybe", Arc::new((0..rows).map(|i| (i % 7 != 0).then_some(i as f64 / 3.0)).collect::<Float64Array>())),
            ("flag", Arc::new((0..rows).map(|i| (i % 5 != 0).then_some(i % 2 == 0)).collect::<BooleanArray>())),
            (
                "text",
                Arc::new((0..rows).map(|i| (i % 3 != 1).then(|| "x".repeat(i as usize % 40))).collect::<StringArray>()),
            ),
            (
                "view",
                Arc::new(
                    (0..rows).map(|i| Some("a long enough text ".repeat(i as usize % 3))).collect::<StringViewArray>(),
                ),
            ),
            ("when", Arc::new((0..rows).map(Some).collect::<TimestampMillisecondArray>())),
            (
                "price",
                Arc::new(
                    (0..rows)
                        .map(|i| Some(i128::from(i) << 70))
                        .collect::<Decimal128Array>()
                        .with_precision_and_scale(38, 2)
                        .unwrap(),
                ),
            ),
            ("structs", Arc::new(structs)),
            ("lists", Arc::new(lists)),
        ])
    }

    #[test]
    fn a_batch_of_every_shape_comes_back_as_it_was() {
        let batch = wide(1000);
        assert_same(&round_trip(&batch), &batch);
    }

    #[test]
    fn row_kinds_travel_beside_the_rows() {
        let kinds = [RowKind::Insert, RowKind::UpdateBefore, RowKind::UpdateAfter, RowKind::Delete, RowKind::Insert];
        let batch = Batch { kinds: Some(Arc::from(kinds.as_slice())), ..wide(5) };
        assert_same(&round_trip(&batch), &batch);
    }

    #[test]
    fn a_slice_sends_only_what_it_shows() {
        let whole = wide(10_000);
        let slice = Batch { rows: whole.rows.slice(4321, 10), kinds: None };
        let bytes = FrameEncoder::default().encode(&slice).unwrap();
        assert!(bytes.len() < 8000, "{} bytes for ten rows", bytes.len());
        assert_same(&FrameDecoder::new(slice.rows.schema()).decode(&bytes).unwrap(), &slice);
    }

    #[test]
    fn empty_batches_and_batches_without_columns_keep_their_row_count() {
        assert_same(&round_trip(&wide(0)), &wide(0));
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(17));
        let rows = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options).unwrap();
        let batch = Batch { rows, kinds: None };
        assert_eq!(round_trip(&batch).rows.num_rows(), 17);
    }

    #[test]
    fn a_frame_may_lie_at_any_address() {
        let batch = wide(100);
        let bytes = FrameEncoder::default().encode(&batch).unwrap();
        for shift in 0..17 {
            let mut moved = vec![0; shift];
            moved.extend_from_slice(&bytes);
            assert_same(&FrameDecoder::new(batch.rows.schema()).decode(&moved[shift..]).unwrap(), &batch);
        }
    }

    #[test]
    fn an_encoder_serves_many_batches() {
        let mut encoder = FrameEncoder::default();
        for rows in [5, 0, 300, 1] {
            let batch = wide(rows);
            let bytes = encoder.encode(&batch).unwrap();
            assert_same(&FrameDecoder::new(batch.rows.schema()).decode(&bytes).unwrap(), &batch);
        }
    }

    #[test]
    fn a_dictionary_is_refused_by_name() {
        let column: arrow::array::DictionaryArray<Int32Type> = vec!["a", "b", "a"].into_iter().collect();
        let error = FrameEncoder::default().encode(&inserts(vec![("colour", Arc::new(column))])).unwrap_err();
        assert!(matches!(error, WireError::Dictionary { column } if column == "colour"));
    }

    #[test]
    fn a_frame_that_is_cut_off_or_of_another_version_is_refused() {
        let batch = Batch { kinds: Some(vec![RowKind::Delete; 20].into()), ..wide(20) };
        let bytes = FrameEncoder::default().encode(&batch).unwrap();
        let decoder = FrameDecoder::new(batch.rows.schema());
        for length in 0..bytes.len() {
            assert!(decoder.decode(&bytes[..length]).is_err(), "{length}");
        }
        let mut other = bytes.to_vec();
        other[0] = 2;
        assert!(matches!(decoder.decode(&other), Err(WireError::Version { found: 2 })));
        let mut unknown = bytes.to_vec();
        let message = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
        unknown[HEADER + message + 3] = 9;
        assert!(matches!(decoder.decode(&unknown), Err(WireError::Malformed { reason: "an unknown row kind", .. })));
    }

    #[test]
    fn the_bytes_of_a_small_batch_are_golden() {
        let batch = Batch {
            kinds: Some(Arc::from([RowKind::Insert, RowKind::Delete].as_slice())),
            ..inserts(vec![("n", Arc::new(Int64Array::from(vec![Some(1), None])))])
        };
        let bytes = FrameEncoder::default().encode(&batch).unwrap();
        let hex = bytes.iter().fold(String::new(), |mut text, byte| {
            use std::fmt::Write as _;
            let _ = write!(text, "{byte:02x}");
            text
        });
        assert_eq!(hex, GOLDEN);
    }

    const GOLDEN: &str = concat!(
        // Header.
        "01010000880000000200000000000000",
        // The message.
        "100000000c001a0018001700040008000c000000200000002000000000000000",
        "000000000000000304000a0018000c00080004000a0000002c00000010000000",
        "0200000000000000000000000100000002000000000000000100000000000000",
        "0000000002000000000000000000000001000000000000001000000000000000",
        "1000000000000000",
        // Row kinds +I and -D, and zeros up to a multiple of 16.
        "0003000000000000",
        // Validity and values, each up to a multiple of 16.
        "01000000000000000000000000000000",
        "01000000000000000000000000000000",
    );

    proptest! {
        #[test]
        fn any_numbers_and_texts_come_back(
            cells in proptest::collection::vec((proptest::option::of(any::<i64>()), proptest::option::of(".{0,20}")), 0..200),
            from in 0usize..200,
        ) {
            let batch = inserts(vec![
                ("n", Arc::new(cells.iter().map(|cell| cell.0).collect::<Int64Array>()) as ArrayRef),
                ("t", Arc::new(cells.iter().map(|cell| cell.1.as_deref()).collect::<StringArray>()) as ArrayRef),
            ]);
            let from = from.min(batch.rows.num_rows());
            let slice = Batch { rows: batch.rows.slice(from, batch.rows.num_rows() - from), kinds: None };
            assert_same(&round_trip(&slice), &slice);
        }
    }
}
