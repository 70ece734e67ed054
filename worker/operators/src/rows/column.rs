//! A batch's columns as the loops want them: 64 or 128 bits a value, or bytes, whatever the SQL type; and which rows count.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewArray, GenericByteArray, RecordBatch, UInt32Array};
use arrow::buffer::{BooleanBuffer, NullBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{
    BinaryType, DataType, Decimal128Type, Float64Type, Int64Type, LargeBinaryType, LargeUtf8Type, Utf8Type,
};
use weir_engine::OperatorError;

use crate::aggregate::plan::Kind;

/// A column's values without their type; what stands under a null is undefined.
#[derive(Debug, Clone)]
pub enum Plain {
    Int(ScalarBuffer<i64>),
    Float(ScalarBuffer<f64>),
    Decimal(ScalarBuffer<i128>),
    Bytes(BytesColumn),
}

/// Strings and binaries of any layout.
#[derive(Debug, Clone)]
pub enum BytesColumn {
    Utf8(GenericByteArray<Utf8Type>),
    LargeUtf8(GenericByteArray<LargeUtf8Type>),
    Binary(GenericByteArray<BinaryType>),
    LargeBinary(GenericByteArray<LargeBinaryType>),
    View(BinaryViewArray),
}

impl BytesColumn {
    /// Any string or binary array.
    pub fn new(array: &ArrayRef) -> Option<Self> {
        Some(match array.data_type() {
            DataType::Utf8 => Self::Utf8(array.as_bytes::<Utf8Type>().clone()),
            DataType::LargeUtf8 => Self::LargeUtf8(array.as_bytes::<LargeUtf8Type>().clone()),
            DataType::Binary => Self::Binary(array.as_bytes::<BinaryType>().clone()),
            DataType::LargeBinary => Self::LargeBinary(array.as_bytes::<LargeBinaryType>().clone()),
            DataType::Utf8View => Self::View(array.as_string_view().clone().to_binary_view()),
            DataType::BinaryView => Self::View(array.as_binary_view().clone()),
            _ => return None,
        })
    }

    /// Row `i`'s bytes.
    pub fn get(&self, i: usize) -> &[u8] {
        match self {
            Self::Utf8(a) => a.value(i).as_bytes(),
            Self::LargeUtf8(a) => a.value(i).as_bytes(),
            Self::Binary(a) => a.value(i),
            Self::LargeBinary(a) => a.value(i),
            Self::View(a) => a.value(i),
        }
    }
}

impl Plain {
    /// The values of `array` in this kind. Columns that are 64 or 128 bits wide already are not copied.
    pub fn new(array: &ArrayRef, kind: Kind) -> Result<Self, OperatorError> {
        let wrong = || OperatorError::operator(format!("a column of type {} cannot be aggregated", array.data_type()));
        Ok(match kind {
            Kind::Int => Self::Int(as_i64(array)?),
            Kind::Float => match array.data_type() {
                DataType::Float64 => Self::Float(array.as_primitive::<Float64Type>().values().clone()),
                _ => Self::Float(cast(array, &DataType::Float64)?.as_primitive::<Float64Type>().values().clone()),
            },
            Kind::Decimal => {
                Self::Decimal(array.as_primitive_opt::<Decimal128Type>().ok_or_else(wrong)?.values().clone())
            }
            Kind::Bytes => Self::Bytes(BytesColumn::new(array).ok_or_else(wrong)?),
        })
    }
}

/// Integers, times and Booleans as 64 bits.
pub fn as_i64(array: &ArrayRef) -> Result<ScalarBuffer<i64>, OperatorError> {
    let as_is = matches!(
        array.data_type(),
        DataType::Int64 | DataType::Timestamp(..) | DataType::Date64 | DataType::Time64(_) | DataType::Duration(_)
    );
    if as_is {
        let data = array.to_data();
        return Ok(ScalarBuffer::new(data.buffers()[0].clone(), data.offset(), data.len()));
    }
    // Times of 32 bits go by way of the integer that they are made of.
    let array = match array.data_type() {
        DataType::Date32 | DataType::Time32(_) => cast(array, &DataType::Int32)?,
        _ => Arc::clone(array),
    };
    Ok(cast(&array, &DataType::Int64)?.as_primitive::<Int64Type>().values().clone())
}

/// An array of this type from 64-bit integers: the way back from [`as_i64`], an error where they do not fit.
pub fn from_i64(values: Vec<i64>, nulls: Option<NullBuffer>, t: &DataType) -> Result<ArrayRef, OperatorError> {
    let array = arrow::array::Int64Array::new(values.into(), nulls);
    if t == &DataType::Int64 {
        return Ok(Arc::new(array));
    }
    let options = arrow::compute::CastOptions { safe: false, ..Default::default() };
    let cast = |array: &dyn Array, t: &DataType| arrow::compute::cast_with_options(array, t, &options);
    Ok(match t {
        DataType::Timestamp(..) | DataType::Date64 | DataType::Time64(_) | DataType::Duration(_) => {
            let data = array.into_data().into_builder().data_type(t.clone()).build()?;
            arrow::array::make_array(data)
        }
        DataType::Date32 | DataType::Time32(_) => cast(&cast(&array, &DataType::Int32)?, t)?,
        _ => cast(&array, t)?,
    })
}

/// Which rows count: all, or those whose bit is set.
pub type Selection = Option<BooleanBuffer>;

/// A Boolean column as a selection: null is no.
pub fn selection(column: &ArrayRef) -> BooleanBuffer {
    let column = column.as_boolean();
    match column.nulls() {
        Some(nulls) if nulls.null_count() > 0 => column.values() & nulls.inner(),
        _ => column.values().clone(),
    }
}

/// The rows of `filter` in which the column is not null.
pub fn and_valid(filter: Selection, column: Option<&ArrayRef>) -> Selection {
    let valid = column.and_then(Array::logical_nulls).filter(|n| n.null_count() > 0);
    match (filter, valid) {
        (Some(filter), Some(valid)) => Some(&filter & valid.inner()),
        (None, Some(valid)) => Some(valid.inner().clone()),
        (filter, None) => filter,
    }
}

/// The columns of one batch, prepared once each.
#[derive(Debug)]
pub struct Columns<'a> {
    rows: &'a RecordBatch,
    plain: Vec<Option<Plain>>,
    filters: Vec<(Option<usize>, Option<usize>, Selection)>,
}

impl<'a> Columns<'a> {
    pub fn new(rows: &'a RecordBatch) -> Self {
        Self { rows, plain: vec![None; rows.num_columns()], filters: Vec::new() }
    }

    /// The values of a column.
    pub fn plain(&mut self, column: usize, kind: Kind) -> Result<&Plain, OperatorError> {
        let entry = &mut self.plain[column];
        if entry.is_none() {
            *entry = Some(Plain::new(self.rows.column(column), kind)?);
        }
        entry.as_ref().ok_or_else(|| OperatorError::operator("a column is missing"))
    }

    /// Makes the selection of the rows in which `filter` holds and `column` is not null; says where it stands.
    pub fn select(&mut self, filter: Option<usize>, column: Option<usize>) -> usize {
        let column = column.filter(|&c| self.rows.column(c).is_nullable());
        if let Some(found) = self.filters.iter().position(|(f, c, _)| *f == filter && *c == column) {
            return found;
        }
        let selected = and_valid(filter.map(|f| selection(self.rows.column(f))), column.map(|c| self.rows.column(c)));
        self.filters.push((filter, column, selected));
        self.filters.len() - 1
    }

    /// A selection made before.
    pub fn selected(&self, index: usize) -> Option<&BooleanBuffer> {
        self.filters[index].2.as_ref()
    }

    /// Both, for a loop that needs them at once.
    pub fn both(
        &mut self,
        column: usize,
        kind: Kind,
        index: usize,
    ) -> Result<(&Plain, Option<&BooleanBuffer>), OperatorError> {
        self.plain(column, kind)?;
        let plain = self.plain[column].as_ref().ok_or_else(|| OperatorError::operator("a column is missing"))?;
        Ok((plain, self.filters[index].2.as_ref()))
    }
}

/// `take` by row numbers, for all of these columns.
pub fn take_columns(columns: &[ArrayRef], rows: &UInt32Array) -> Result<Vec<ArrayRef>, OperatorError> {
    columns.iter().map(|c| arrow::compute::take(c, rows, None).map_err(Into::into)).collect()
}
