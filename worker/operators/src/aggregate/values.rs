//! The running values of many groups, a column an accumulator: loaded from state rows, updated by tight loops over
//! (group, value), stored back, and finished into output columns.
//!
//! Groups are dense numbers that mean something within one batch only.

use std::collections::BTreeMap;

use arrow::buffer::BooleanBuffer;
use arrow::datatypes::i256;
use weir_engine::OperatorError;

use crate::aggregate::plan::{Accumulator, Kind, Reduce};
use crate::aggregate::staterow::{Layout, Rows, fixed};
use crate::rows::column::{BytesColumn, Plain};
use crate::stateless::oversized::MAX_VALUE;

/// Strings by group, each the last that was put in its place.
#[derive(Debug, Clone, Default)]
pub struct BytesValues {
    pub arena: Vec<u8>,
    /// Where in the arena each begins, and its length.
    pub spans: Vec<(usize, usize)>,
}

impl BytesValues {
    pub fn get(&self, i: usize) -> &[u8] {
        let (start, length) = self.spans[i];
        &self.arena[start..start + length]
    }

    pub fn set(&mut self, i: usize, value: &[u8]) {
        self.spans[i] = (self.arena.len(), value.len());
        self.arena.extend_from_slice(value);
    }
}

/// One accumulator's values.
#[derive(Debug, Clone)]
pub enum Column {
    Int(Vec<i64>),
    Float(Vec<f64>),
    Decimal(Vec<i128>),
    Bytes(BytesValues),
}

/// The values of all accumulators, for groups `0..len`.
#[derive(Debug, Clone)]
pub struct Values {
    pub columns: Vec<Column>,
    /// Which groups have a value, an accumulator; not kept for counts.
    pub present: Vec<Vec<bool>>,
    pub len: usize,
}

/// The rows of a batch with the group of each.
#[derive(Debug, Clone, Copy)]
pub struct Groups<'a> {
    pub of_row: &'a [u32],
    pub len: usize,
    /// What each row counts for: 1, or -1 where it is taken back; absent where all count for 1.
    pub signs: Option<&'a [i8]>,
}

/// A sum that has left its type.
pub fn overflow(a: &Accumulator) -> OperatorError {
    let t = if a.kind == Kind::Decimal { "DECIMAL(38)" } else { "BIGINT" };
    OperatorError::bad_input(format!(
        "the sum of column `{}` is beyond the range of {t}; cast the column to DECIMAL or DOUBLE first",
        a.label
    ))
}

/// A list that would have more bytes than a value may.
pub fn list_within(a: &Accumulator, bytes: usize) -> Result<(), OperatorError> {
    if bytes as u64 <= MAX_VALUE {
        return Ok(());
    }
    Err(OperatorError::bad_input(format!(
        "the LISTAGG of column `{}` has {bytes} bytes in one group, and {MAX_VALUE} are the most; group by more columns, or list fewer rows",
        a.label
    )))
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
                    data[start + at..start + at + 4].copy_from_slice(&(span.1 as u32).to_le_bytes());
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
        if let Some(signs) = groups.signs {
            let mut count = |row: usize| counts[groups.of_row[row] as usize] += i64::from(signs[row]);
            match selected {
                None => (0..groups.of_row.len()).for_each(&mut count),
                Some(selected) => selected.set_indices().for_each(&mut count),
            }
            return;
        }
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
            let sign = groups.signs.map_or(1, |signs| signs[row as usize]);
            counts[groups.of_row[row as usize] as usize] += i64::from(sign);
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
        if let Some(signs) = groups.signs {
            return self.add_signed(i, a, groups, signs, input, rows);
        }
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
                Reduce::First | Reduce::List => extreme(values, present, of, input, rows, |_, _| false),
                Reduce::Last => extreme(values, present, of, input, rows, |_, _| true),
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
                Reduce::First | Reduce::List => extreme(values, present, of, input, rows, |_, _| false),
                Reduce::Last => extreme(values, present, of, input, rows, |_, _| true),
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
                Reduce::First | Reduce::List => extreme(values, present, of, input, rows, |_, _| false),
                Reduce::Last => extreme(values, present, of, input, rows, |_, _| true),
            },
            (Column::Bytes(values), Plain::Bytes(input)) => {
                if a.reduce == Reduce::List {
                    append(values, present, of, input, rows, a)?;
                } else {
                    extreme_bytes(values, present, of, input, rows, a.reduce);
                }
            }
            _ => return Err(OperatorError::operator(format!("column `{}` changed its type", a.label))),
        }
        Ok(())
    }

    /// Adds what rows come to that count for 1 or for -1. Only the whole is judged: a large value that is replaced by another must
    /// not overflow on the way.
    fn add_signed(
        &mut self,
        i: usize,
        a: &Accumulator,
        groups: Groups<'_>,
        signs: &[i8],
        input: &Plain,
        rows: impl Iterator<Item = usize>,
    ) -> Result<(), OperatorError> {
        let present = &mut self.present[i];
        let of = groups.of_row;
        let wrong = || OperatorError::operator(format!("column `{}` cannot be taken back", a.label));
        if !matches!(a.reduce, Reduce::Sum | Reduce::Count) {
            return Err(wrong());
        }
        match (&mut self.columns[i], input) {
            (Column::Int(values), Plain::Int(input)) => {
                let mut net = vec![0_i128; values.len()];
                for row in rows {
                    let g = of[row] as usize;
                    net[g] += i128::from(input[row]) * i128::from(signs[row]);
                    present[g] = true;
                }
                for (value, net) in values.iter_mut().zip(net) {
                    *value = i64::try_from(i128::from(*value) + net).map_err(|_| overflow(a))?;
                }
            }
            (Column::Float(values), Plain::Float(input)) => {
                for row in rows {
                    let g = of[row] as usize;
                    values[g] += input[row] * f64::from(signs[row]);
                    present[g] = true;
                }
            }
            (Column::Decimal(values), Plain::Decimal(input)) => {
                let mut net = vec![i256::ZERO; values.len()];
                for row in rows {
                    let g = of[row] as usize;
                    let value = i256::from_i128(input[row]);
                    net[g] = if signs[row] < 0 { net[g].wrapping_sub(value) } else { net[g].wrapping_add(value) };
                    present[g] = true;
                }
                for (value, net) in values.iter_mut().zip(net) {
                    *value = i256::from_i128(*value).wrapping_add(net).to_i128().ok_or_else(|| overflow(a))?;
                }
            }
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// A sum of nothing is null again, and nothing of what floats lose in taking back is left of it.
    pub fn settle_sums(&mut self, sums: &[(usize, usize)]) {
        for &(sum, count) in sums {
            let Column::Int(counts) = &self.columns[count] else { continue };
            let empty: Vec<bool> = counts.iter().map(|count| *count == 0).collect();
            for (present, empty) in self.present[sum].iter_mut().zip(&empty) {
                *present &= !empty;
            }
            for (g, _) in empty.iter().enumerate().filter(|(_, empty)| **empty) {
                match &mut self.columns[sum] {
                    Column::Int(v) => v[g] = 0,
                    Column::Float(v) => v[g] = 0.0,
                    Column::Decimal(v) => v[g] = 0,
                    Column::Bytes(_) => {}
                }
            }
        }
    }

    /// Sets accumulator `i` of these groups, one after the other, to the rows of a column.
    pub fn set_values(&mut self, i: usize, groups: &[u32], input: &Plain) {
        for (row, &g) in groups.iter().enumerate() {
            let g = g as usize;
            match (&mut self.columns[i], input) {
                (Column::Int(v), Plain::Int(input)) => v[g] = input[row],
                (Column::Float(v), Plain::Float(input)) => v[g] = input[row],
                (Column::Decimal(v), Plain::Decimal(input)) => v[g] = input[row],
                (Column::Bytes(v), Plain::Bytes(input)) => v.set(g, input.get(row)),
                _ => {}
            }
            self.present[i][g] = true;
        }
    }

    /// Sets accumulator `i` of this group to these bytes.
    pub fn set_bytes(&mut self, i: usize, group: usize, value: &[u8]) {
        if let Column::Bytes(v) = &mut self.columns[i] {
            v.set(group, value);
            self.present[i][group] = true;
        }
    }

    /// Accumulator `i` of this group has no value.
    pub fn unset(&mut self, i: usize, group: usize) {
        match &mut self.columns[i] {
            Column::Int(v) => v[group] = 0,
            Column::Float(v) => v[group] = 0.0,
            Column::Decimal(v) => v[group] = 0,
            Column::Bytes(v) => v.spans[group] = (0, 0),
        }
        self.present[i][group] = false;
    }

    /// An integer accumulator's values.
    pub fn ints(&self, i: usize) -> &[i64] {
        if let Column::Int(v) = &self.columns[i] { v } else { &[] }
    }

    /// Merges group `from[j]` of another set into group `into[j]` of this one.
    pub fn merge(
        &mut self,
        plan: &[Accumulator],
        other: &Self,
        from: &[u32],
        into: &[u32],
    ) -> Result<(), OperatorError> {
        for (i, a) in plan.iter().enumerate() {
            for (&f, &t) in from.iter().zip(into) {
                self.merge_one(i, a, other, f as usize, t as usize)?;
            }
        }
        Ok(())
    }

    fn merge_one(
        &mut self,
        i: usize,
        a: &Accumulator,
        other: &Self,
        from: usize,
        into: usize,
    ) -> Result<(), OperatorError> {
        if a.reduce != Reduce::Count && !other.present[i][from] {
            return Ok(());
        }
        let had = self.present[i][into];
        match (&mut self.columns[i], &other.columns[i]) {
            (Column::Int(old), Column::Int(new)) => match a.reduce {
                Reduce::Count | Reduce::Sum => {
                    old[into] = old[into].checked_add(new[from]).ok_or_else(|| overflow(a))?;
                }
                Reduce::Min if had => old[into] = old[into].min(new[from]),
                Reduce::Max if had => old[into] = old[into].max(new[from]),
                Reduce::First if had => {}
                _ => old[into] = new[from],
            },
            (Column::Float(old), Column::Float(new)) => match a.reduce {
                Reduce::Count | Reduce::Sum => old[into] += new[from],
                Reduce::Min if had && new[from].total_cmp(&old[into]).is_ge() => {}
                Reduce::Max if had && new[from].total_cmp(&old[into]).is_le() => {}
                Reduce::First if had => {}
                _ => old[into] = new[from],
            },
            (Column::Decimal(old), Column::Decimal(new)) => match a.reduce {
                Reduce::Count | Reduce::Sum => {
                    old[into] = old[into].checked_add(new[from]).ok_or_else(|| overflow(a))?;
                }
                Reduce::Min if had => old[into] = old[into].min(new[from]),
                Reduce::Max if had => old[into] = old[into].max(new[from]),
                Reduce::First if had => {}
                _ => old[into] = new[from],
            },
            (Column::Bytes(old), Column::Bytes(new)) => {
                let value = new.get(from);
                if !had || is_better(a.reduce, value, old.get(into)) {
                    old.set(into, value);
                } else if a.reduce == Reduce::List {
                    list_within(a, old.get(into).len() + a.separator.len() + value.len())?;
                    let list = [old.get(into), a.separator.as_bytes(), value].concat();
                    old.set(into, &list);
                }
            }
            _ => {}
        }
        self.present[i][into] = a.reduce != Reduce::Count;
        Ok(())
    }
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

/// Whether bytes take the place of others that came before them.
fn is_better(reduce: Reduce, new: &[u8], old: &[u8]) -> bool {
    match reduce {
        Reduce::Min => new < old,
        Reduce::Max => new > old,
        Reduce::Last => true,
        Reduce::First | Reduce::List | Reduce::Sum | Reduce::Count => false,
    }
}

fn extreme_bytes(
    values: &mut BytesValues,
    present: &mut [bool],
    of: &[u32],
    input: &BytesColumn,
    rows: impl Iterator<Item = usize>,
    reduce: Reduce,
) {
    for row in rows {
        let g = of[row] as usize;
        let new = input.get(row);
        if !present[g] || is_better(reduce, new, values.get(g)) {
            values.set(g, new);
            present[g] = true;
        }
    }
}

/// Texts behind those that are there: each group's list is put together once, however many come.
fn append(
    values: &mut BytesValues,
    present: &mut [bool],
    of: &[u32],
    input: &BytesColumn,
    rows: impl Iterator<Item = usize>,
    a: &Accumulator,
) -> Result<(), OperatorError> {
    let mut lists: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
    for row in rows {
        let g = of[row] as usize;
        let list = lists.entry(g).or_insert_with(|| values.get(g).to_vec());
        if present[g] {
            list.extend_from_slice(a.separator.as_bytes());
        }
        list.extend_from_slice(input.get(row));
        list_within(a, list.len())?;
        present[g] = true;
    }
    for (g, list) in lists {
        values.set(g, &list);
    }
    Ok(())
}
