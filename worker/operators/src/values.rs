//! The running values of many groups, a column an accumulator: loaded from state rows, updated by tight loops over
//! (group, value), stored back, and finished into output columns.
//!
//! Groups are dense numbers that mean something within one batch only. A state row is
//!
//! | bytes | what |
//! |---|---|
//! | 8 a count, integer or float, 16 a decimal, 4 a string's length | in the order of the accumulators, little-endian |
//! | 1 for each 8 accumulators | bit i: accumulator i has a value; counts always have |
//! | the strings | in the order of the accumulators |
//!
//! so it has a fixed width unless a minimum or maximum over strings is kept.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, Decimal128Array, Float64Array};
use arrow::buffer::{BooleanBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, i256};
use weir_engine::OperatorError;
use weir_state::RowLayout;

use crate::column::{BytesColumn, Plain, from_i64};
use crate::plan::{Accumulator, Finish, Kind, Plan, Reduce};

/// Where an accumulator stands in a state row.
#[derive(Debug, Clone)]
pub struct Layout {
    offsets: Vec<usize>,
    flags: usize,
    fixed: usize,
    variable: bool,
}

impl Layout {
    pub fn new(accumulators: &[Accumulator]) -> Self {
        let mut next = 0;
        let offsets = accumulators
            .iter()
            .map(|a| {
                let at = next;
                next += match a.kind {
                    Kind::Int | Kind::Float => 8,
                    Kind::Decimal => 16,
                    Kind::Bytes => 4,
                };
                at
            })
            .collect();
        let flags = next;
        let fixed = flags + accumulators.len().div_ceil(8);
        Self { offsets, flags, fixed, variable: accumulators.iter().any(|a| a.kind == Kind::Bytes) }
    }

    /// The layout as the state knows it.
    pub fn rows(&self) -> RowLayout {
        if self.variable { RowLayout::Variable } else { RowLayout::Fixed(self.fixed) }
    }
}

/// State rows side by side, as they were read or are to be written.
#[derive(Debug, Clone)]
pub struct Rows {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Default for Rows {
    fn default() -> Self {
        Self { bytes: Vec::new(), ends: Vec::new() }
    }
}

impl Rows {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Adds a row. An empty one, as a new group has, reads as zeros.
    pub fn push(&mut self, row: &[u8], layout: &Layout) {
        if row.is_empty() {
            self.bytes.resize(self.bytes.len() + layout.fixed, 0);
        } else {
            self.bytes.extend_from_slice(row);
        }
        self.ends.push(self.bytes.len());
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn get(&self, i: usize) -> &[u8] {
        &self.bytes[self.start(i)..self.ends[i]]
    }

    fn start(&self, i: usize) -> usize {
        if i == 0 { 0 } else { self.ends[i - 1] }
    }

    fn starts(&self) -> impl Iterator<Item = usize> {
        std::iter::once(0).chain(self.ends.iter().copied()).take(self.ends.len())
    }
}

/// Strings by group, each the last that was put in its place.
#[derive(Debug, Clone, Default)]
pub struct BytesValues {
    arena: Vec<u8>,
    spans: Vec<(u32, u32)>,
}

impl BytesValues {
    fn get(&self, i: usize) -> &[u8] {
        let (start, length) = self.spans[i];
        &self.arena[start as usize..(start + length) as usize]
    }

    fn set(&mut self, i: usize, value: &[u8]) {
        self.spans[i] = (self.arena.len() as u32, value.len() as u32);
        self.arena.extend_from_slice(value);
    }
}

/// One accumulator's values.
#[derive(Debug, Clone)]
enum Column {
    Int(Vec<i64>),
    Float(Vec<f64>),
    Decimal(Vec<i128>),
    Bytes(BytesValues),
}

/// The values of all accumulators, for groups `0..len`.
#[derive(Debug, Clone)]
pub struct Values {
    columns: Vec<Column>,
    /// Which groups have a value, an accumulator; not kept for counts.
    present: Vec<Vec<bool>>,
    len: usize,
}

/// The rows of a batch with the group of each.
#[derive(Debug, Clone, Copy)]
pub struct Groups<'a> {
    pub of_row: &'a [u32],
    pub len: usize,
}

fn overflow(a: &Accumulator) -> OperatorError {
    let t = if a.kind == Kind::Decimal { "DECIMAL(38)" } else { "BIGINT" };
    OperatorError::bad_input(format!(
        "the sum of column `{}` is beyond the range of {t}; cast the column to DECIMAL or DOUBLE first",
        a.label
    ))
}

impl Values {
    /// No groups.
    pub fn new(accumulators: &[Accumulator]) -> Self {
        let columns = accumulators
            .iter()
            .map(|a| match a.kind {
                Kind::Int => Column::Int(Vec::new()),
                Kind::Float => Column::Float(Vec::new()),
                Kind::Decimal => Column::Decimal(Vec::new()),
                Kind::Bytes => Column::Bytes(BytesValues::default()),
            })
            .collect();
        Self { columns, present: vec![Vec::new(); accumulators.len()], len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn clear(&mut self) {
        self.resize(0);
        for column in &mut self.columns {
            if let Column::Bytes(v) = column {
                v.arena.clear();
            }
        }
    }

    /// Bytes of strings kept, those replaced included.
    pub fn arena_bytes(&self) -> usize {
        self.columns.iter().map(|c| if let Column::Bytes(v) = c { v.arena.len() } else { 0 }).sum()
    }

    /// As many groups; new ones have no rows yet.
    pub fn resize(&mut self, len: usize) {
        self.len = len;
        for (column, present) in self.columns.iter_mut().zip(&mut self.present) {
            match column {
                Column::Int(v) => v.resize(len, 0),
                Column::Float(v) => v.resize(len, 0.0),
                Column::Decimal(v) => v.resize(len, 0),
                Column::Bytes(v) => v.spans.resize(len, (0, 0)),
            }
            present.resize(len, false);
        }
    }

    /// The values that stand in state rows; before, there were none.
    pub fn load(&mut self, rows: &Rows, layout: &Layout) {
        self.clear();
        self.resize(rows.len());
        let data = rows.bytes.as_slice();
        for (i, (column, present)) in self.columns.iter_mut().zip(&mut self.present).enumerate() {
            let at = layout.offsets[i];
            match column {
                Column::Int(v) => {
                    for (v, start) in v.iter_mut().zip(rows.starts()) {
                        *v = i64::from_le_bytes(fixed(data, start + at));
                    }
                }
                Column::Float(v) => {
                    for (v, start) in v.iter_mut().zip(rows.starts()) {
                        *v = f64::from_le_bytes(fixed(data, start + at));
                    }
                }
                Column::Decimal(v) => {
                    for (v, start) in v.iter_mut().zip(rows.starts()) {
                        *v = i128::from_le_bytes(fixed(data, start + at));
                    }
                }
                Column::Bytes(_) => {}
            }
            let (byte, bit) = (layout.flags + i / 8, 1 << (i % 8));
            for (present, start) in present.iter_mut().zip(rows.starts()) {
                *present = data[start + byte] & bit != 0;
            }
        }
        if layout.variable {
            self.load_bytes(rows, layout);
        }
    }

    fn load_bytes(&mut self, rows: &Rows, layout: &Layout) {
        for row in 0..rows.len() {
            let bytes = rows.get(row);
            let mut next = layout.fixed;
            for (i, column) in self.columns.iter_mut().enumerate() {
                if let Column::Bytes(v) = column {
                    let length = u32::from_le_bytes(fixed(bytes, layout.offsets[i])) as usize;
                    v.set(row, &bytes[next..next + length]);
                    next += length;
                }
            }
        }
    }

    /// The state rows of these values.
    pub fn store(&self, rows: &mut Rows, layout: &Layout) {
        rows.clear();
        if layout.variable {
            self.store_variable(rows, layout);
            return;
        }
        let width = layout.fixed;
        rows.bytes.resize(self.len * width, 0);
        rows.ends.extend((1..=self.len).map(|i| i * width));
        for i in 0..self.columns.len() {
            self.store_column(i, &mut rows.bytes, (0..self.len).map(|g| g * width), layout);
        }
    }

    fn store_column(&self, i: usize, data: &mut [u8], starts: impl Iterator<Item = usize> + Clone, layout: &Layout) {
        let at = layout.offsets[i];
        match &self.columns[i] {
            Column::Int(v) => {
                for (v, start) in v.iter().zip(starts.clone()) {
                    data[start + at..start + at + 8].copy_from_slice(&v.to_le_bytes());
                }
            }
            Column::Float(v) => {
                for (v, start) in v.iter().zip(starts.clone()) {
                    data[start + at..start + at + 8].copy_from_slice(&v.to_le_bytes());
                }
            }
            Column::Decimal(v) => {
                for (v, start) in v.iter().zip(starts.clone()) {
                    data[start + at..start + at + 16].copy_from_slice(&v.to_le_bytes());
                }
            }
            Column::Bytes(v) => {
                for (span, start) in v.spans.iter().zip(starts.clone()) {
                    data[start + at..start + at + 4].copy_from_slice(&span.1.to_le_bytes());
                }
            }
        }
        let (byte, bit) = (layout.flags + i / 8, i % 8);
        for (present, start) in self.present[i].iter().zip(starts) {
            data[start + byte] |= u8::from(*present) << bit;
        }
    }

    fn store_variable(&self, rows: &mut Rows, layout: &Layout) {
        let mut starts = Vec::with_capacity(self.len);
        for g in 0..self.len {
            starts.push(rows.bytes.len());
            rows.bytes.resize(rows.bytes.len() + layout.fixed, 0);
            for column in &self.columns {
                if let Column::Bytes(v) = column {
                    rows.bytes.extend_from_slice(v.get(g));
                }
            }
            rows.ends.push(rows.bytes.len());
        }
        for i in 0..self.columns.len() {
            self.store_column(i, &mut rows.bytes, starts.iter().copied(), layout);
        }
    }

    /// Counts, for accumulator `i`, the rows that are selected.
    pub fn count(&mut self, i: usize, groups: Groups<'_>, selected: Option<&BooleanBuffer>) {
        let Column::Int(counts) = &mut self.columns[i] else { return };
        match selected {
            _ if groups.len == 1 => {
                counts[0] += selected.map_or(groups.of_row.len(), BooleanBuffer::count_set_bits) as i64;
            }
            None => {
                for &g in groups.of_row {
                    counts[g as usize] += 1;
                }
            }
            Some(selected) => {
                for (&g, s) in groups.of_row.iter().zip(selected) {
                    counts[g as usize] += i64::from(s);
                }
            }
        }
    }

    /// Counts, for accumulator `i`, these rows.
    pub fn count_rows(&mut self, i: usize, groups: Groups<'_>, rows: &[u32]) {
        let Column::Int(counts) = &mut self.columns[i] else { return };
        for &row in rows {
            counts[groups.of_row[row as usize] as usize] += 1;
        }
    }

    /// Takes the selected rows of a column into accumulator `i`.
    pub fn reduce(
        &mut self,
        i: usize,
        a: &Accumulator,
        groups: Groups<'_>,
        input: &Plain,
        selected: Option<&BooleanBuffer>,
    ) -> Result<(), OperatorError> {
        match selected {
            None => self.reduce_over(i, a, groups, input, 0..groups.of_row.len()),
            Some(selected) => self.reduce_over(i, a, groups, input, selected.set_indices()),
        }
    }

    /// Takes these rows of a column into accumulator `i`.
    pub fn reduce_rows(
        &mut self,
        i: usize,
        a: &Accumulator,
        groups: Groups<'_>,
        input: &Plain,
        rows: &[u32],
    ) -> Result<(), OperatorError> {
        self.reduce_over(i, a, groups, input, rows.iter().map(|&r| r as usize))
    }

    fn reduce_over(
        &mut self,
        i: usize,
        a: &Accumulator,
        groups: Groups<'_>,
        input: &Plain,
        rows: impl Iterator<Item = usize>,
    ) -> Result<(), OperatorError> {
        let present = &mut self.present[i];
        let of = groups.of_row;
        match (&mut self.columns[i], input) {
            (Column::Int(values), Plain::Int(input)) => match a.reduce {
                // Partial counts are added up.
                Reduce::Sum | Reduce::Count => {
                    let mut overflown = false;
                    for row in rows {
                        let g = of[row] as usize;
                        let (sum, over) = values[g].overflowing_add(input[row]);
                        values[g] = sum;
                        overflown |= over;
                        present[g] = true;
                    }
                    if overflown {
                        return Err(overflow(a));
                    }
                }
                Reduce::Min => extreme(values, present, of, input, rows, |new, old| new < old),
                Reduce::Max => extreme(values, present, of, input, rows, |new, old| new > old),
            },
            (Column::Float(values), Plain::Float(input)) => match a.reduce {
                Reduce::Sum | Reduce::Count => {
                    for row in rows {
                        let g = of[row] as usize;
                        values[g] += input[row];
                        present[g] = true;
                    }
                }
                Reduce::Min => extreme(values, present, of, input, rows, |new, old| new.total_cmp(old).is_lt()),
                Reduce::Max => extreme(values, present, of, input, rows, |new, old| new.total_cmp(old).is_gt()),
            },
            (Column::Decimal(values), Plain::Decimal(input)) => match a.reduce {
                Reduce::Sum | Reduce::Count => {
                    let mut overflown = false;
                    for row in rows {
                        let g = of[row] as usize;
                        let (sum, over) = values[g].overflowing_add(input[row]);
                        values[g] = sum;
                        overflown |= over;
                        present[g] = true;
                    }
                    if overflown {
                        return Err(overflow(a));
                    }
                }
                Reduce::Min => extreme(values, present, of, input, rows, |new, old| new < old),
                Reduce::Max => extreme(values, present, of, input, rows, |new, old| new > old),
            },
            (Column::Bytes(values), Plain::Bytes(input)) => {
                extreme_bytes(values, present, of, input, rows, a.reduce == Reduce::Max);
            }
            _ => return Err(OperatorError::operator(format!("column `{}` changed its type", a.label))),
        }
        Ok(())
    }

    /// Merges group `from[j]` of another set into group `into[j]` of this one.
    pub fn merge(&mut self, plan: &[Accumulator], other: &Self, from: &[u32], into: &[u32]) -> Result<(), OperatorError> {
        for (i, a) in plan.iter().enumerate() {
            for (&f, &t) in from.iter().zip(into) {
                self.merge_one(i, a, other, f as usize, t as usize)?;
            }
        }
        Ok(())
    }

    fn merge_one(&mut self, i: usize, a: &Accumulator, other: &Self, f: usize, t: usize) -> Result<(), OperatorError> {
        if a.reduce != Reduce::Count && !other.present[i][f] {
            return Ok(());
        }
        let had = self.present[i][t];
        match (&mut self.columns[i], &other.columns[i]) {
            (Column::Int(v), Column::Int(o)) => match a.reduce {
                Reduce::Count | Reduce::Sum => v[t] = v[t].checked_add(o[f]).ok_or_else(|| overflow(a))?,
                Reduce::Min if had => v[t] = v[t].min(o[f]),
                Reduce::Max if had => v[t] = v[t].max(o[f]),
                _ => v[t] = o[f],
            },
            (Column::Float(v), Column::Float(o)) => match a.reduce {
                Reduce::Count | Reduce::Sum => v[t] += o[f],
                Reduce::Min if had && o[f].total_cmp(&v[t]).is_ge() => {}
                Reduce::Max if had && o[f].total_cmp(&v[t]).is_le() => {}
                _ => v[t] = o[f],
            },
            (Column::Decimal(v), Column::Decimal(o)) => match a.reduce {
                Reduce::Count | Reduce::Sum => v[t] = v[t].checked_add(o[f]).ok_or_else(|| overflow(a))?,
                Reduce::Min if had => v[t] = v[t].min(o[f]),
                Reduce::Max if had => v[t] = v[t].max(o[f]),
                _ => v[t] = o[f],
            },
            (Column::Bytes(v), Column::Bytes(o)) => {
                let new = o.get(f);
                let better = if a.reduce == Reduce::Max { new > v.get(t) } else { new < v.get(t) };
                if !had || better {
                    v.set(t, new);
                }
            }
            _ => {}
        }
        self.present[i][t] = a.reduce != Reduce::Count;
        Ok(())
    }

    /// Adds to a count.
    pub fn add_count(&mut self, i: usize, group: usize, n: i64) {
        if let Column::Int(v) = &mut self.columns[i] {
            v[group] += n;
        }
    }

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
                    offsets.push(bytes.len() as i32);
                }
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                let array = BinaryArray::try_new(offsets, bytes.into(), nulls)?;
                Ok(cast(&array, t)?)
            }
        }
    }

    fn export_mean(
        &self,
        sum: usize,
        count: usize,
        a: &Accumulator,
        t: &DataType,
    ) -> Result<ArrayRef, OperatorError> {
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

fn fixed<const N: usize>(data: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&data[at..at + N]);
    bytes
}

fn pick<T: Copy>(a: &[T], b: &[T], groups: &[u32]) -> Vec<T> {
    let n = a.len();
    groups.iter().map(|&g| if (g as usize) < n { a[g as usize] } else { b[g as usize - n] }).collect()
}

fn extreme<T: Copy>(
    values: &mut [T],
    present: &mut [bool],
    of: &[u32],
    input: &[T],
    rows: impl Iterator<Item = usize>,
    better: impl Fn(&T, &T) -> bool,
) {
    for row in rows {
        let g = of[row] as usize;
        if !present[g] || better(&input[row], &values[g]) {
            values[g] = input[row];
            present[g] = true;
        }
    }
}

fn extreme_bytes(
    values: &mut BytesValues,
    present: &mut [bool],
    of: &[u32],
    input: &BytesColumn,
    rows: impl Iterator<Item = usize>,
    max: bool,
) {
    for row in rows {
        let g = of[row] as usize;
        let new = input.get(row);
        let better = if max { new > values.get(g) } else { new < values.get(g) };
        if !present[g] || better {
            values.set(g, new);
            present[g] = true;
        }
    }
}
