//! Gathers rows of many batches into one: what an exchange builds for each destination. A column is appended a batch at a
//! time, in a loop over typed values; nothing is allocated for a row.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, BooleanBufferBuilder, GenericByteBuilder,
    GenericByteViewBuilder, PrimitiveArray, RecordBatch, RecordBatchOptions, UInt32Array,
};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::{concat, take};
use arrow::datatypes::{
    BinaryType, BinaryViewType, ByteArrayType, ByteViewType, DataType, Date32Type, Date64Type, Decimal128Type,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType, Float32Type,
    Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, SchemaRef, StringViewType, Time32MillisecondType,
    Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type, Utf8Type,
};
use arrow::error::ArrowError;

use crate::api::batch::{Batch, RowKind};

/// Rows gathered so far.
pub struct Gather {
    schema: SchemaRef,
    columns: Vec<Box<dyn Column>>,
    kinds: Option<Vec<RowKind>>,
    rows: usize,
}

impl Gather {
    /// For rows of this schema.
    pub fn new(schema: SchemaRef) -> Self {
        let columns = schema.fields().iter().map(|field| column(field.data_type())).collect();
        Self { schema, columns, kinds: None, rows: 0 }
    }

    /// How many rows there are.
    pub const fn len(&self) -> usize {
        self.rows
    }

    /// There are none.
    pub const fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The bytes of what has been gathered, about.
    pub fn bytes(&self) -> usize {
        self.columns.iter().map(|column| column.bytes()).sum()
    }

    /// Adds these rows of a batch, in this order.
    pub fn append(&mut self, batch: &Batch, rows: &[u32]) -> Result<(), ArrowError> {
        for (column, array) in self.columns.iter_mut().zip(batch.rows.columns()) {
            column.append(array, rows)?;
        }
        if self.kinds.is_some() || batch.kinds.is_some() {
            let kinds = self.kinds.get_or_insert_with(|| vec![RowKind::Insert; self.rows]);
            match &batch.kinds {
                Some(from) => kinds.extend(rows.iter().map(|row| from[*row as usize])),
                None => kinds.resize(kinds.len() + rows.len(), RowKind::Insert),
            }
        }
        self.rows += rows.len();
        Ok(())
    }

    /// All rows gathered, as one batch; begins anew.
    pub fn finish(&mut self) -> Result<Batch, ArrowError> {
        let columns = self.columns.iter_mut().map(|column| column.finish()).collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(std::mem::take(&mut self.rows)));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        Ok(Batch { rows, kinds: self.kinds.take().map(Into::into) })
    }
}

/// One column of what is gathered.
trait Column: Send {
    fn append(&mut self, array: &ArrayRef, rows: &[u32]) -> Result<(), ArrowError>;
    fn bytes(&self) -> usize;
    fn finish(&mut self) -> Result<ArrayRef, ArrowError>;
}

fn column(data_type: &DataType) -> Box<dyn Column> {
    fn primitive<T: ArrowPrimitiveType>(data_type: &DataType) -> Box<dyn Column> {
        Box::new(Primitive::<T> { data_type: data_type.clone(), values: Vec::new(), nulls: Nulls::default() })
    }
    match data_type {
        DataType::Int8 => primitive::<Int8Type>(data_type),
        DataType::Int16 => primitive::<Int16Type>(data_type),
        DataType::Int32 => primitive::<Int32Type>(data_type),
        DataType::Int64 => primitive::<Int64Type>(data_type),
        DataType::UInt8 => primitive::<UInt8Type>(data_type),
        DataType::UInt16 => primitive::<UInt16Type>(data_type),
        DataType::UInt32 => primitive::<UInt32Type>(data_type),
        DataType::UInt64 => primitive::<UInt64Type>(data_type),
        DataType::Float32 => primitive::<Float32Type>(data_type),
        DataType::Float64 => primitive::<Float64Type>(data_type),
        DataType::Decimal128(_, _) => primitive::<Decimal128Type>(data_type),
        DataType::Date32 => primitive::<Date32Type>(data_type),
        DataType::Date64 => primitive::<Date64Type>(data_type),
        DataType::Time32(TimeUnit::Second) => primitive::<Time32SecondType>(data_type),
        DataType::Time32(TimeUnit::Millisecond) => primitive::<Time32MillisecondType>(data_type),
        DataType::Time64(TimeUnit::Microsecond) => primitive::<Time64MicrosecondType>(data_type),
        DataType::Time64(TimeUnit::Nanosecond) => primitive::<Time64NanosecondType>(data_type),
        DataType::Timestamp(TimeUnit::Second, _) => primitive::<TimestampSecondType>(data_type),
        DataType::Timestamp(TimeUnit::Millisecond, _) => primitive::<TimestampMillisecondType>(data_type),
        DataType::Timestamp(TimeUnit::Microsecond, _) => primitive::<TimestampMicrosecondType>(data_type),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => primitive::<TimestampNanosecondType>(data_type),
        DataType::Duration(TimeUnit::Second) => primitive::<DurationSecondType>(data_type),
        DataType::Duration(TimeUnit::Millisecond) => primitive::<DurationMillisecondType>(data_type),
        DataType::Duration(TimeUnit::Microsecond) => primitive::<DurationMicrosecondType>(data_type),
        DataType::Duration(TimeUnit::Nanosecond) => primitive::<DurationNanosecondType>(data_type),
        DataType::Boolean => Box::new(Booleans { values: BooleanBufferBuilder::new(0), nulls: Nulls::default() }),
        DataType::Utf8 => Box::new(Bytes::<Utf8Type> { builder: GenericByteBuilder::new() }),
        DataType::Binary => Box::new(Bytes::<BinaryType> { builder: GenericByteBuilder::new() }),
        DataType::Utf8View => Box::new(Views::<StringViewType> { builder: GenericByteViewBuilder::new(), bytes: 0 }),
        DataType::BinaryView => Box::new(Views::<BinaryViewType> { builder: GenericByteViewBuilder::new(), bytes: 0 }),
        _ => Box::new(Pieces { data_type: data_type.clone(), taken: Vec::new(), bytes: 0 }),
    }
}

/// Validity that costs nothing while there are no nulls.
#[derive(Default)]
struct Nulls {
    builder: Option<BooleanBufferBuilder>,
    rows: usize,
}

impl Nulls {
    fn append(&mut self, nulls: Option<&NullBuffer>, rows: &[u32]) {
        if let Some(nulls) = nulls.filter(|nulls| nulls.null_count() > 0) {
            let builder = self.builder.get_or_insert_with(|| all_valid(self.rows));
            for row in rows {
                builder.append(nulls.is_valid(*row as usize));
            }
        } else if let Some(builder) = &mut self.builder {
            builder.append_n(rows.len(), true);
        }
        self.rows += rows.len();
    }

    fn finish(&mut self) -> Option<NullBuffer> {
        self.rows = 0;
        self.builder.take().map(|mut builder| NullBuffer::new(builder.finish()))
    }
}

fn all_valid(rows: usize) -> BooleanBufferBuilder {
    let mut builder = BooleanBufferBuilder::new(rows);
    builder.append_n(rows, true);
    builder
}

struct Primitive<T: ArrowPrimitiveType> {
    data_type: DataType,
    values: Vec<T::Native>,
    nulls: Nulls,
}

impl<T: ArrowPrimitiveType> Column for Primitive<T> {
    fn append(&mut self, array: &ArrayRef, rows: &[u32]) -> Result<(), ArrowError> {
        let array = array.as_primitive_opt::<T>().ok_or_else(|| other_type(&self.data_type, array))?;
        let values = array.values();
        self.values.extend(rows.iter().map(|row| values[*row as usize]));
        self.nulls.append(array.nulls(), rows);
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.values.len() * size_of::<T::Native>()
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        // The next batch will be about as large.
        let empty = Vec::with_capacity(self.values.len());
        let values = std::mem::replace(&mut self.values, empty);
        let array = PrimitiveArray::<T>::try_new(values.into(), self.nulls.finish())?;
        Ok(Arc::new(array.with_data_type(self.data_type.clone())))
    }
}

struct Booleans {
    values: BooleanBufferBuilder,
    nulls: Nulls,
}

impl Column for Booleans {
    fn append(&mut self, array: &ArrayRef, rows: &[u32]) -> Result<(), ArrowError> {
        let array = array.as_boolean_opt().ok_or_else(|| other_type(&DataType::Boolean, array))?;
        let values: &BooleanBuffer = array.values();
        for row in rows {
            self.values.append(values.value(*row as usize));
        }
        self.nulls.append(array.nulls(), rows);
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.values.len() / 8
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(BooleanArray::new(self.values.finish(), self.nulls.finish())))
    }
}

struct Bytes<T: ByteArrayType> {
    builder: GenericByteBuilder<T>,
}

impl<T: ByteArrayType> Column for Bytes<T> {
    fn append(&mut self, array: &ArrayRef, rows: &[u32]) -> Result<(), ArrowError> {
        let array = array.as_bytes_opt::<T>().ok_or_else(|| other_type(&T::DATA_TYPE, array))?;
        if array.null_count() == 0 {
            for row in rows {
                self.builder.append_value(array.value(*row as usize));
            }
        } else {
            for row in rows {
                let row = *row as usize;
                self.builder.append_option(array.is_valid(row).then(|| array.value(row)));
            }
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.builder.values_slice().len() + size_of_val(self.builder.offsets_slice())
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let next =
            GenericByteBuilder::with_capacity(self.builder.offsets_slice().len(), self.builder.values_slice().len());
        let mut builder = std::mem::replace(&mut self.builder, next);
        Ok(Arc::new(builder.finish()))
    }
}

/// Views are copied too: what is gathered would else keep every batch alive that a row came from.
struct Views<T: ByteViewType> {
    builder: GenericByteViewBuilder<T>,
    bytes: usize,
}

impl<T: ByteViewType> Column for Views<T> {
    fn append(&mut self, array: &ArrayRef, rows: &[u32]) -> Result<(), ArrowError> {
        let array = array.as_byte_view_opt::<T>().ok_or_else(|| other_type(&T::DATA_TYPE, array))?;
        for row in rows {
            let row = *row as usize;
            if array.is_valid(row) {
                let value: &[u8] = array.value(row).as_ref();
                self.bytes += value.len();
                self.builder.append_value(array.value(row));
            } else {
                self.builder.append_null();
            }
        }
        self.bytes += rows.len() * size_of::<u128>();
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        self.bytes = 0;
        Ok(Arc::new(self.builder.finish()))
    }
}

/// Any other type: taken out batch by batch, and put together at the end.
struct Pieces {
    data_type: DataType,
    taken: Vec<ArrayRef>,
    bytes: usize,
}

impl Column for Pieces {
    fn append(&mut self, array: &ArrayRef, rows: &[u32]) -> Result<(), ArrowError> {
        if array.data_type() != &self.data_type {
            return Err(other_type(&self.data_type, array));
        }
        let piece = take(array, &UInt32Array::from(rows.to_vec()), None)?;
        self.bytes += piece.get_array_memory_size();
        self.taken.push(piece);
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        self.bytes = 0;
        let pieces = std::mem::take(&mut self.taken);
        if pieces.is_empty() {
            return Ok(arrow::array::new_empty_array(&self.data_type));
        }
        concat(&pieces.iter().map(AsRef::as_ref).collect::<Vec<_>>())
    }
}

fn other_type(expected: &DataType, found: &ArrayRef) -> ArrowError {
    ArrowError::SchemaError(format!("a column of type {} came where {expected} was planned", found.data_type()))
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BinaryArray, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, StringArray, StringViewArray,
        TimestampMillisecondArray,
    };
    use arrow::compute::concat_batches;
    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn every_type() -> RecordBatch {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>([
            Some(vec![Some(1)]),
            None,
            Some(vec![]),
            Some(vec![None, Some(2)]),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![1, 2, 3, 4])),
            Arc::new(Int32Array::from(vec![Some(1), None, Some(3), None])),
            Arc::new(Float64Array::from(vec![Some(1.5), Some(-0.0), None, Some(2.5)])),
            Arc::new(Decimal128Array::from(vec![1, 2, 3, 4]).with_precision_and_scale(10, 2).unwrap()),
            Arc::new(TimestampMillisecondArray::from(vec![Some(1), None, Some(3), Some(4)]).with_timezone("UTC")),
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), Some(true)])),
            Arc::new(StringArray::from(vec![Some("a"), None, Some(""), Some("dd")])),
            Arc::new(BinaryArray::from(vec![Some(&b"a"[..]), None, Some(b""), Some(b"dd")])),
            Arc::new(StringViewArray::from(vec![Some("a"), None, Some("longer than twelve bytes"), Some("d")])),
            Arc::new(list),
        ];
        let fields: Vec<Field> = columns
            .iter()
            .enumerate()
            .map(|(i, column)| Field::new(format!("c{i}"), column.data_type().clone(), true))
            .collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    }

    #[test]
    fn rows_of_every_type_and_their_nulls_come_out_as_take_would_give_them() {
        let rows = every_type();
        let plain = rows.slice(2, 1);
        let mut gather = Gather::new(rows.schema());
        for round in 0..2 {
            gather.append(&Batch::inserts(plain.clone()), &[0]).unwrap();
            gather.append(&Batch::inserts(rows.clone()), &[3, 1, 1]).unwrap();
            gather.append(&Batch::inserts(plain.clone()), &[0]).unwrap();
            assert_eq!(gather.len(), 5);
            assert!(gather.bytes() > 0);
            let taken = gather.finish().unwrap();
            let picks = [rows.slice(2, 1), rows.slice(3, 1), rows.slice(1, 1), rows.slice(1, 1), rows.slice(2, 1)];
            assert_eq!(taken.rows, concat_batches(&rows.schema(), &picks).unwrap(), "round {round}");
            assert!(gather.is_empty());
        }
    }

    #[test]
    fn kinds_appear_with_the_first_batch_that_has_them() {
        let rows = every_type();
        let mut gather = Gather::new(rows.schema());
        gather.append(&Batch::inserts(rows.clone()), &[0]).unwrap();
        let deletes = Batch::with_kinds(rows.clone(), vec![RowKind::Delete; 4]);
        gather.append(&deletes, &[2]).unwrap();
        gather.append(&Batch::inserts(rows), &[1]).unwrap();
        let kinds = gather.finish().unwrap().kinds.unwrap();
        assert_eq!(*kinds, [RowKind::Insert, RowKind::Delete, RowKind::Insert]);
        assert_eq!(gather.finish().unwrap().kinds, None);
    }
}
