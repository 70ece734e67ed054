//! One column of generated values: a function of the seed, the column and the row's number.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array, Int16Array,
    Int32Array, Int64Array, StringBuilder, TimestampMicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray, TimestampSecondArray,
};
use arrow::compute::nullif;
use arrow::datatypes::{DataType, TimeUnit};
use weir_engine::api::error::SourceError;

use crate::nexmark::random::mix;

/// How the values of a column are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Values {
    /// `start` plus the row's number.
    Sequence { start: i64 },
    /// A whole number between these, both included.
    Whole { min: i64, max: i64 },
    /// A number from `min` up to `max`.
    Real { min: f64, max: f64 },
    /// Hexadecimal digits: so many, or from one up to so many.
    Text { length: usize, varies: bool },
    /// True or false.
    Flag,
    /// The time at which the row is made, or up to so many milliseconds before it.
    Now { past: i64 },
}

/// One column.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) data_type: DataType,
    pub(super) values: Values,
    /// The seed of this column.
    pub(super) seed: u64,
    /// Of all values so many are NULL: from 0 to 1.
    pub(super) null_rate: f64,
}

/// Draws for NULL are others than those for values.
const NULLS: u64 = 0x6E75_6C6C_7261_7465;

/// 53 bits fill the fraction of a number from 0 up to 1.
fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

impl Column {
    fn random(&self, n: u64) -> u64 {
        mix(self.seed ^ mix(n))
    }

    fn whole(&self, n: u64) -> i64 {
        match self.values {
            Values::Sequence { start } => start.wrapping_add_unsigned(n),
            Values::Whole { min, max } => {
                let range = (i128::from(max) - i128::from(min) + 1) as u128;
                min.wrapping_add((u128::from(self.random(n)).wrapping_mul(range) >> 64) as i64)
            }
            _ => self.random(n).cast_signed(),
        }
    }

    fn real(&self, n: u64) -> f64 {
        match self.values {
            Values::Real { min, max } => min + (max - min) * unit(self.random(n)),
            _ => self.whole(n) as f64,
        }
    }

    fn text(&self, n: u64, length: usize, text: &mut Vec<u8>) {
        text.clear();
        let mut bits = self.random(n);
        while text.len() < length {
            for shift in (0..64).step_by(4).take(length - text.len()) {
                text.push(b"0123456789abcdef"[(bits >> shift & 15) as usize]);
            }
            bits = mix(bits ^ self.seed);
        }
    }

    /// The time of a row that is made now.
    fn time(&self, n: u64, now_ms: i64) -> i64 {
        match self.values {
            Values::Now { past } if past > 0 => {
                let range = u128::from(past.unsigned_abs()) + 1;
                now_ms - ((u128::from(self.random(n)) * range) >> 64) as i64
            }
            _ => now_ms,
        }
    }

    /// The values of the rows with these numbers.
    pub(super) fn array(
        &self,
        numbers: impl ExactSizeIterator<Item = u64> + Clone,
        now_ms: i64,
    ) -> Result<ArrayRef, SourceError> {
        let values = self.values(numbers.clone(), now_ms)?;
        if self.null_rate <= 0.0 {
            return Ok(values);
        }
        let is_null: BooleanArray = numbers.map(|n| Some(unit(mix(self.random(n) ^ NULLS)) < self.null_rate)).collect();
        Ok(nullif(&values, &is_null)?)
    }

    fn values(&self, numbers: impl ExactSizeIterator<Item = u64>, now_ms: i64) -> Result<ArrayRef, SourceError> {
        let rows = numbers.len();
        Ok(match &self.data_type {
            DataType::Boolean => Arc::new(numbers.map(|n| Some(self.random(n) & 1 == 1)).collect::<BooleanArray>()),
            DataType::Int8 => Arc::new(Int8Array::from_iter_values(numbers.map(|n| self.whole(n) as i8))),
            DataType::Int16 => Arc::new(Int16Array::from_iter_values(numbers.map(|n| self.whole(n) as i16))),
            DataType::Int32 => Arc::new(Int32Array::from_iter_values(numbers.map(|n| self.whole(n) as i32))),
            DataType::Int64 => Arc::new(Int64Array::from_iter_values(numbers.map(|n| self.whole(n)))),
            DataType::Float32 => Arc::new(Float32Array::from_iter_values(numbers.map(|n| self.real(n) as f32))),
            DataType::Float64 => Arc::new(Float64Array::from_iter_values(numbers.map(|n| self.real(n)))),
            DataType::Decimal128(precision, scale) => {
                let unit = 10_f64.powi(i32::from(*scale));
                let values = numbers.map(|n| match self.values {
                    Values::Sequence { .. } => i128::from(self.whole(n)) * 10_i128.pow(u32::from(scale.unsigned_abs())),
                    _ => (self.real(n) * unit) as i128,
                });
                Arc::new(Decimal128Array::from_iter_values(values).with_precision_and_scale(*precision, *scale)?)
            }
            DataType::Utf8 => match self.values {
                Values::Text { length, varies } => {
                    let mut texts = StringBuilder::with_capacity(rows, rows * length);
                    let mut text = Vec::with_capacity(length);
                    for n in numbers {
                        let length = if varies {
                            1 + ((u128::from(mix(self.random(n) ^ length as u64)) * length as u128) >> 64) as usize
                        } else {
                            length
                        };
                        self.text(n, length, &mut text);
                        texts.append_value(std::str::from_utf8(&text).unwrap_or_default());
                    }
                    Arc::new(texts.finish())
                }
                _ => {
                    let mut texts = StringBuilder::new();
                    numbers.for_each(|n| texts.append_value(self.whole(n).to_string()));
                    Arc::new(texts.finish())
                }
            },
            DataType::Date32 => {
                const DAY_MS: i64 = 86_400_000;
                Arc::new(Date32Array::from_value(now_ms.div_euclid(DAY_MS) as i32, rows))
            }
            DataType::Timestamp(unit, zone) => {
                let zone = zone.clone();
                let times = numbers.map(|n| self.time(n, now_ms));
                match unit {
                    TimeUnit::Second => Arc::new(
                        TimestampSecondArray::from_iter_values(times.map(|ms| ms.div_euclid(1000)))
                            .with_timezone_opt(zone),
                    ),
                    TimeUnit::Millisecond => {
                        Arc::new(TimestampMillisecondArray::from_iter_values(times).with_timezone_opt(zone))
                    }
                    TimeUnit::Microsecond => Arc::new(
                        TimestampMicrosecondArray::from_iter_values(times.map(|ms| ms * 1000)).with_timezone_opt(zone),
                    ),
                    TimeUnit::Nanosecond => Arc::new(
                        TimestampNanosecondArray::from_iter_values(times.map(|ms| ms * 1_000_000))
                            .with_timezone_opt(zone),
                    ),
                }
            }
            other => return Err(SourceError::bad_input(format!("datagen makes no values of type {other}"))),
        })
    }
}
