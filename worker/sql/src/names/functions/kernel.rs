//! The frame of our own functions: what one takes, what it gives, and what it does with whole columns.

use std::hash::{Hash, Hasher};

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray, StringArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::{Result, ScalarValue, internal_err, plan_err};
use datafusion_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::parse::types::flink_name;

/// A function as data.
pub struct Kernel {
    /// In lower case; one that starts with `$` has no name that a script could write.
    pub name: &'static str,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// What it takes, in words: `TRUNCATE takes …`.
    pub usage: &'static str,
    /// The types that arguments of these types are cast to; none if it does not take them.
    pub takes: fn(&[DataType]) -> Option<Vec<DataType>>,
    /// The type of the result, of arguments that have been cast.
    pub gives: fn(&[DataType], &[Option<&ScalarValue>]) -> DataType,
    /// The values.
    pub run: fn(&Call<'_>) -> Result<ArrayRef>,
}

/// Arguments of one call. Constants have one row, whatever the batch has.
pub struct Call<'a> {
    arrays: Vec<(ArrayRef, bool)>,
    /// How many values are to be given.
    pub rows: usize,
    /// Their type.
    pub returns: &'a DataType,
}

impl<'a> Call<'a> {
    /// The arguments of this call.
    pub fn new(args: &[ColumnarValue], rows: usize, returns: &'a DataType) -> Result<Self> {
        let all_constant = args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let arrays = args
            .iter()
            .map(|arg| match arg {
                ColumnarValue::Scalar(value) => Ok((value.to_array()?, true)),
                ColumnarValue::Array(array) => Ok((ArrayRef::clone(array), false)),
            })
            .collect::<Result<_>>()?;
        Ok(Self { arrays, rows: if all_constant { 1 } else { rows }, returns })
    }

    /// How many arguments there are.
    pub fn arguments(&self) -> usize {
        self.arrays.len()
    }

    /// An argument as it is: one row if it is constant.
    pub fn array(&self, position: usize) -> &ArrayRef {
        &self.arrays[position].0
    }

    /// An argument with a value for each row.
    pub fn full(&self, position: usize) -> Result<ArrayRef> {
        let (array, constant) = &self.arrays[position];
        if !constant || self.rows == 1 {
            return Ok(ArrayRef::clone(array));
        }
        Ok(arrow::compute::take(array, &arrow::array::UInt32Array::from(vec![0; self.rows]), None)?)
    }

    /// Other values in the place of an argument, constant if that is.
    pub fn column(&self, position: usize, values: ArrayRef) -> ColumnarValue {
        match ScalarValue::try_from_array(&values, 0) {
            Ok(value) if self.arrays[position].1 => ColumnarValue::Scalar(value),
            _ => ColumnarValue::Array(values),
        }
    }

    /// The type of an argument.
    pub fn data_type(&self, position: usize) -> &DataType {
        self.arrays[position].0.data_type()
    }

    /// A text argument.
    pub fn texts(&self, position: usize) -> Result<Texts<'_>> {
        let (array, constant) = &self.arrays[position];
        match array.as_string_opt::<i32>() {
            Some(array) => Ok(Texts { array, constant: *constant }),
            None => internal_err!("a text is expected, and {} is given", array.data_type()),
        }
    }

    /// Where either of two arguments is NULL.
    fn nulls_of_two(&self) -> Option<NullBuffer> {
        let nulls = |position: usize| {
            let (array, constant) = &self.arrays[position];
            match array.nulls() {
                Some(nulls) if *constant && nulls.is_null(0) => Some(NullBuffer::new_null(self.rows)),
                Some(nulls) if !constant => Some(nulls.clone()),
                _ => None,
            }
        };
        NullBuffer::union(nulls(0).as_ref(), nulls(1).as_ref())
    }

    /// One value of each pair of numbers, which must not fail, also where one of them is NULL: then it is not looked at.
    pub fn of_two<T: ArrowPrimitiveType, O: ArrowPrimitiveType>(
        &self,
        of: impl Fn(T::Native, T::Native) -> O::Native,
    ) -> Result<PrimitiveArray<O>> {
        let (left, right) = (self.numbers::<T>(0)?, self.numbers::<T>(1)?);
        let nulls = self.nulls_of_two();
        let values: Vec<O::Native> = match (left.values(), right.values()) {
            (Values::Each(left), Values::Each(right)) => left.iter().zip(right).map(|(l, r)| of(*l, *r)).collect(),
            (Values::Each(left), Values::Same(r)) => left.iter().map(|l| of(*l, r)).collect(),
            (Values::Same(l), Values::Each(right)) => right.iter().map(|r| of(l, *r)).collect(),
            (Values::Same(l), Values::Same(r)) => vec![of(l, r); self.rows],
        };
        Ok(PrimitiveArray::new(values.into(), nulls))
    }

    /// The same, where a pair may have no value, or fail.
    pub fn try_of_two<T: ArrowPrimitiveType>(
        &self,
        of: impl Fn(T::Native, T::Native) -> Result<Option<T::Native>>,
    ) -> Result<PrimitiveArray<T>> {
        let (left, right) = (self.numbers::<T>(0)?, self.numbers::<T>(1)?);
        let nulls = self.nulls_of_two();
        let (left, right) = (left.values(), right.values());
        let mut values: Vec<T::Native> = Vec::with_capacity(self.rows);
        let mut without: Vec<usize> = Vec::new();
        for row in 0..self.rows {
            let known = nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
            match if known { of(left.get(row), right.get(row))? } else { None } {
                Some(value) => values.push(value),
                None => {
                    values.push(T::Native::default());
                    if known {
                        without.push(row);
                    }
                }
            }
        }
        if without.is_empty() {
            return Ok(PrimitiveArray::new(values.into(), nulls));
        }
        let mut known: Vec<bool> = match &nulls {
            Some(nulls) => nulls.iter().collect(),
            None => vec![true; self.rows],
        };
        for row in without {
            known[row] = false;
        }
        Ok(PrimitiveArray::new(values.into(), Some(NullBuffer::from(known))))
    }

    /// Whether something holds of each pair of numbers; NULL where one of them is.
    pub fn holds_of_two<T: ArrowPrimitiveType>(
        &self,
        of: impl Fn(T::Native, T::Native) -> bool,
    ) -> Result<BooleanArray> {
        let (left, right) = (self.numbers::<T>(0)?, self.numbers::<T>(1)?);
        let values = match (left.values(), right.values()) {
            (Values::Each(left), Values::Each(right)) => {
                BooleanBuffer::collect_bool(self.rows, |row| of(left[row], right[row]))
            }
            (Values::Each(left), Values::Same(r)) => BooleanBuffer::collect_bool(self.rows, |row| of(left[row], r)),
            (Values::Same(l), Values::Each(right)) => BooleanBuffer::collect_bool(self.rows, |row| of(l, right[row])),
            (Values::Same(l), Values::Same(r)) => BooleanBuffer::collect_bool(self.rows, |_| of(l, r)),
        };
        Ok(BooleanArray::new(values, self.nulls_of_two()))
    }

    /// An argument of numbers.
    pub fn numbers<T: ArrowPrimitiveType>(&self, position: usize) -> Result<Numbers<'_, T>> {
        let (array, constant) = &self.arrays[position];
        match array.as_primitive_opt::<T>() {
            Some(array) => Ok(Numbers { array, constant: *constant }),
            None => internal_err!("{} is expected, and {} is given", T::DATA_TYPE, array.data_type()),
        }
    }
}

/// Texts by row.
#[derive(Clone, Copy)]
pub struct Texts<'a> {
    array: &'a StringArray,
    constant: bool,
}

impl<'a> Texts<'a> {
    /// The text of a row; none for NULL.
    pub fn get(&self, row: usize) -> Option<&'a str> {
        let row = if self.constant { 0 } else { row };
        self.array.is_valid(row).then(|| self.array.value(row))
    }

    /// All of them, NULL or not, if they are not the same in every row.
    pub fn array(&self) -> Option<&'a StringArray> {
        if self.constant { None } else { Some(self.array) }
    }

    /// Whether all are of ASCII, so that a byte is a character.
    pub fn are_ascii(&self) -> bool {
        self.bytes().is_ascii()
    }

    /// What they hold, one after the other.
    pub fn bytes(&self) -> &'a [u8] {
        let offsets = self.array.value_offsets();
        match (offsets.first(), offsets.last()) {
            (Some(first), Some(last)) => &self.array.value_data()[*first as usize..*last as usize],
            _ => &[],
        }
    }

    /// The text, if it is the same in every row and not NULL.
    pub fn constant(&self) -> Option<&'a str> {
        if self.constant { self.get(0) } else { None }
    }
}

/// Numbers by row.
#[derive(Clone, Copy)]
pub struct Numbers<'a, T: ArrowPrimitiveType> {
    array: &'a PrimitiveArray<T>,
    constant: bool,
}

/// Numbers without a look at which of them are NULL.
#[derive(Clone, Copy)]
enum Values<'a, N> {
    Each(&'a [N]),
    Same(N),
}

impl<N: Copy> Values<'_, N> {
    fn get(&self, row: usize) -> N {
        match self {
            Self::Each(values) => values[row],
            Self::Same(value) => *value,
        }
    }
}

impl<'a, T: ArrowPrimitiveType> Numbers<'a, T> {
    fn values(&self) -> Values<'a, T::Native> {
        if self.constant { Values::Same(self.array.value(0)) } else { Values::Each(self.array.values()) }
    }

    /// The number of a row; none for NULL.
    pub fn get(&self, row: usize) -> Option<T::Native> {
        let row = if self.constant { 0 } else { row };
        self.array.is_valid(row).then(|| self.array.value(row))
    }
}

/// A kernel as the planner calls it.
struct Named {
    kernel: &'static Kernel,
    aliases: Vec<String>,
    signature: Signature,
}

impl std::fmt::Debug for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kernel.name)
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.kernel.name == other.kernel.name
    }
}

impl Eq for Named {}

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kernel.name.hash(state);
    }
}

/// A kernel as a function of the planner's.
pub fn function(kernel: &'static Kernel) -> ScalarUDF {
    let aliases = kernel.aliases.iter().map(|&alias| alias.to_string()).collect();
    ScalarUDF::new_from_impl(Named { kernel, aliases, signature: Signature::user_defined(Volatility::Immutable) })
}

impl ScalarUDFImpl for Named {
    fn name(&self) -> &str {
        self.kernel.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok((self.kernel.gives)(arguments, &vec![None; arguments.len()]))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        Ok(std::sync::Arc::new(Field::new(self.kernel.name, (self.kernel.gives)(&types, args.scalar_arguments), true)))
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match (self.kernel.takes)(arguments) {
            Some(types) => Ok(types),
            None => {
                let name = self.kernel.name.trim_start_matches('$').to_ascii_uppercase();
                let given: Vec<String> = arguments.iter().map(flink_name).collect();
                plan_err!("{name} takes {}, and ({}) is given", self.kernel.usage, given.join(", "))
            }
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let call = Call::new(&args.args, args.number_rows, args.return_field.data_type())?;
        let all_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let values = (self.kernel.run)(&call)?;
        if all_constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&values, 0)?));
        }
        Ok(ColumnarValue::Array(values))
    }
}
