//! From running values to output columns, and what of them has changed.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Decimal128Array, Float64Array};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, i256};
use weir_engine::OperatorError;

use crate::aggregate::plan::{Accumulator, Finish, Plan, Reduce};
use crate::aggregate::values::{BytesValues, Column, Values, overflow};
use crate::rows::column::from_i64;

impl Values {
    /// The groups whose results differ between `self` and `old`.
    pub fn changed(&self, old: &Self, plan: &Plan, changed: &mut Vec<bool>) {
        changed.clear();
        changed.resize(self.len, false);
        for output in &plan.outputs {
            match output.finish {
                Finish::Value(i) => self.mark_changed(old, i, changed),
                Finish::Mean { sum, .. } if matches!(self.columns[sum], Column::Int(_)) => {
                    let Finish::Mean { sum, count } = output.finish else { continue };
                    for (g, changed) in changed.iter_mut().enumerate() {
                        *changed |= self.mean(sum, count, g) != old.mean(sum, count, g);
                    }
                }
                Finish::Mean { sum, count } => {
                    self.mark_changed(old, sum, changed);
                    self.mark_changed(old, count, changed);
                }
            }
        }
    }

    fn mark_changed(&self, old: &Self, i: usize, changed: &mut [bool]) {
        match (&self.columns[i], &old.columns[i]) {
            (Column::Int(a), Column::Int(b)) => {
                for ((changed, a), b) in changed.iter_mut().zip(a).zip(b) {
                    *changed |= a != b;
                }
            }
            (Column::Float(a), Column::Float(b)) => {
                for ((changed, a), b) in changed.iter_mut().zip(a).zip(b) {
                    *changed |= a.to_bits() != b.to_bits();
                }
            }
            (Column::Decimal(a), Column::Decimal(b)) => {
                for ((changed, a), b) in changed.iter_mut().zip(a).zip(b) {
                    *changed |= a != b;
                }
            }
            (Column::Bytes(a), Column::Bytes(b)) => {
                for (g, changed) in changed.iter_mut().enumerate() {
                    *changed |= a.get(g) != b.get(g);
                }
            }
            _ => {}
        }
        for ((changed, a), b) in changed.iter_mut().zip(&self.present[i]).zip(&old.present[i]) {
            *changed |= a != b;
        }
    }

    fn mean(&self, sum: usize, count: usize, g: usize) -> Option<i64> {
        match (&self.columns[sum], &self.columns[count]) {
            (Column::Int(s), Column::Int(c)) if c[g] != 0 => Some(s[g] / c[g]),
            _ => None,
        }
    }

    /// New values made of groups of two sets: number n below `self.len` is group n of this one, and `self.len + n` group n
    /// of `other`.
    pub fn pick(&self, other: &Self, groups: &[u32]) -> Self {
        let n = self.len;
        let columns = self
            .columns
            .iter()
            .zip(&other.columns)
            .map(|columns| match columns {
                (Column::Int(a), Column::Int(b)) => Column::Int(pick(a, b, groups)),
                (Column::Float(a), Column::Float(b)) => Column::Float(pick(a, b, groups)),
                (Column::Decimal(a), Column::Decimal(b)) => Column::Decimal(pick(a, b, groups)),
                (Column::Bytes(a), Column::Bytes(b)) => {
                    let mut picked = BytesValues { arena: Vec::new(), spans: vec![(0, 0); groups.len()] };
                    for (i, &g) in groups.iter().enumerate() {
                        let g = g as usize;
                        picked.set(i, if g < n { a.get(g) } else { b.get(g - n) });
                    }
                    Column::Bytes(picked)
                }
                (other, _) => other.clone(),
            })
            .collect();
        let present = self.present.iter().zip(&other.present).map(|(a, b)| pick(a, b, groups)).collect();
        Self { columns, present, len: groups.len() }
    }

    fn nulls(&self, i: usize) -> Option<NullBuffer> {
        if self.present[i].iter().all(|p| *p) {
            return None;
        }
        Some(NullBuffer::from(self.present[i].as_slice()))
    }

    /// The output columns of all groups.
    pub fn finish(&self, plan: &Plan) -> Result<Vec<ArrayRef>, OperatorError> {
        plan.outputs
            .iter()
            .map(|output| match output.finish {
                Finish::Value(i) => self.export(i, &plan.accumulators[i], &output.output),
                Finish::Mean { sum, count } => self.export_mean(sum, count, &plan.accumulators[sum], &output.output),
            })
            .collect()
    }

    /// One accumulator's values as a column.
    pub fn export(&self, i: usize, a: &Accumulator, t: &DataType) -> Result<ArrayRef, OperatorError> {
        let nulls = if a.reduce == Reduce::Count { None } else { self.nulls(i) };
        match &self.columns[i] {
            Column::Int(v) => from_i64(v.clone(), nulls, t).map_err(|e| {
                OperatorError::bad_input(format!("the result over column `{}` is beyond the range of {t}", a.label))
                    .because(e)
            }),
            Column::Float(v) => {
                let array = Float64Array::new(v.clone().into(), nulls);
                if t == &DataType::Float64 { Ok(Arc::new(array)) } else { Ok(cast(&array, t)?) }
            }
            Column::Decimal(v) => decimals(v.clone(), nulls, t, a),
            Column::Bytes(v) => {
                let mut bytes = Vec::with_capacity(v.arena.len());
                let mut offsets = Vec::with_capacity(self.len + 1);
                offsets.push(0);
                for g in 0..self.len {
                    bytes.extend_from_slice(v.get(g));
                    offsets.push(i32::try_from(bytes.len()).map_err(|_| {
                        OperatorError::bad_input(format!(
                            "the results over column `{}` of {} groups have more than 2 GiB together; make the texts shorter",
                            a.label, self.len
                        ))
                    })?);
                }
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                let array = BinaryArray::try_new(offsets, bytes.into(), nulls)?;
                Ok(cast(&array, t)?)
            }
        }
    }

    fn export_mean(&self, sum: usize, count: usize, a: &Accumulator, t: &DataType) -> Result<ArrayRef, OperatorError> {
        let Column::Int(counts) = &self.columns[count] else {
            return Err(OperatorError::operator("a count is no number"));
        };
        let nulls = counts
            .contains(&0)
            .then(|| NullBuffer::from(counts.iter().map(|c| *c != 0).collect::<Vec<bool>>().as_slice()));
        // The quotient under a null is never seen.
        let counts = counts.iter().map(|c| (*c).max(1));
        match &self.columns[sum] {
            Column::Int(sums) => from_i64(sums.iter().zip(counts).map(|(s, c)| s / c).collect(), nulls, t),
            Column::Float(sums) => {
                let means: Vec<f64> = sums.iter().zip(counts).map(|(s, c)| s / c as f64).collect();
                let array = Float64Array::new(means.into(), nulls);
                if t == &DataType::Float64 { Ok(Arc::new(array)) } else { Ok(cast(&array, t)?) }
            }
            Column::Decimal(sums) => {
                let from = a.scale.unwrap_or(0);
                let to = if let DataType::Decimal128(_, scale) = t { *scale } else { from };
                let factor = 10_i128.pow(u32::from((to - from).max(0).unsigned_abs()));
                let means = sums
                    .iter()
                    .zip(counts)
                    .map(|(s, c)| divide_half_up(*s, factor, i128::from(c)).ok_or_else(|| overflow(a)))
                    .collect::<Result<Vec<i128>, _>>()?;
                decimals(means, nulls, t, a)
            }
            Column::Bytes(_) => Err(OperatorError::operator("strings have no mean")),
        }
    }
}

/// `a × factor ÷ b`, rounded half away from zero, as Flink divides decimals.
fn divide_half_up(a: i128, factor: i128, b: i128) -> Option<i128> {
    let scaled = i256::from_i128(a).checked_mul(i256::from_i128(factor))?;
    let b = i256::from_i128(b);
    let quotient = scaled.checked_div(b)?;
    let rest = scaled.checked_rem(b)?;
    let rest = if rest < i256::ZERO { rest.checked_neg()? } else { rest };
    let round = rest.checked_add(rest)? >= b;
    let step = if scaled < i256::ZERO { -i256::ONE } else { i256::ONE };
    (if round { quotient.checked_add(step)? } else { quotient }).to_i128()
}

fn decimals(
    values: Vec<i128>,
    nulls: Option<NullBuffer>,
    t: &DataType,
    a: &Accumulator,
) -> Result<ArrayRef, OperatorError> {
    let DataType::Decimal128(precision, scale) = t else {
        return Err(OperatorError::operator(format!("a decimal cannot become {t}")));
    };
    let array = Decimal128Array::new(values.into(), nulls).with_precision_and_scale(*precision, *scale)?;
    array.validate_decimal_precision(*precision).map_err(|e| overflow(a).because(e))?;
    Ok(Arc::new(array))
}

fn pick<T: Copy>(a: &[T], b: &[T], groups: &[u32]) -> Vec<T> {
    let n = a.len();
    groups.iter().map(|&g| if (g as usize) < n { a[g as usize] } else { b[g as usize - n] }).collect()
}
