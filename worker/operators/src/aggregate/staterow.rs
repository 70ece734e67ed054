//! State rows of accumulators.
//!
//! | bytes | what |
//! |---|---|
//! | 8 a count, integer or float, 16 a decimal, 4 a string's length | in the order of the accumulators, little-endian |
//! | 1 for each 8 accumulators | bit i: accumulator i has a value; never set for counts, which always have |
//! | the strings | in the order of the accumulators |
//!
//! So a row has a fixed width unless a minimum or maximum over strings is kept.

use weir_state::RowLayout;

use crate::aggregate::plan::{Accumulator, Kind};

/// Where an accumulator stands in a state row.
#[derive(Debug, Clone)]
pub struct Layout {
    pub offsets: Vec<usize>,
    /// Where the bits stand.
    pub flags: usize,
    /// The bytes before the strings.
    pub fixed: usize,
    /// There are strings.
    pub variable: bool,
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
#[derive(Debug, Clone, Default)]
pub struct Rows {
    pub bytes: Vec<u8>,
    pub ends: Vec<usize>,
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

    /// Where each row starts.
    pub fn starts(&self) -> impl Iterator<Item = usize> {
        std::iter::once(0).chain(self.ends.iter().copied()).take(self.ends.len())
    }
}

/// `N` bytes of a row.
pub fn fixed<const N: usize>(data: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&data[at..at + N]);
    bytes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::AggregateFunction::{Avg, Max, Min, Sum};
    use crate::aggregate::plan::Plan;
    use crate::aggregate::values::Values;
    use crate::{AggregateSpec, Aggregation};

    fn accumulators() -> Vec<Accumulator> {
        let field = |name: &str, t| Field::new(name, t, true);
        let input = Schema::new(vec![
            field("i", DataType::Int64),
            field("x", DataType::Float64),
            field("d", DataType::Decimal128(10, 2)),
            field("s", DataType::Utf8),
        ]);
        let aggregates = vec![
            AggregateSpec::count_star("count"),
            AggregateSpec::new("avg", Avg, 0),
            AggregateSpec::new("sum", Sum, 1),
            AggregateSpec::new("max", Max, 2),
            AggregateSpec::new("first", Min, 3),
            AggregateSpec::new("last", Max, 3),
        ];
        Plan::new(Aggregation { input: Arc::new(input), group: vec![], aggregates }, false).unwrap().accumulators
    }

    #[test]
    fn a_state_row_has_the_bytes_that_the_table_says() {
        let golden = [
            &[3, 0, 0, 0, 0, 0, 0, 0][..],                         // count(*) = 3
            &[0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF][..], // sum(i) = -2
            &[2, 0, 0, 0, 0, 0, 0, 0][..],                         // count(i) = 2
            &[0, 0, 0, 0, 0, 0, 0xF8, 0x3F][..],                   // sum(x) = 1.5
            &[0; 16][..],                                          // max(d) is null
            &[2, 0, 0, 0][..],                                     // min(s) has two bytes
            &[3, 0, 0, 0][..],                                     // max(s) has three
            &[0b0110_1010][..],                                    // sum(i), sum(x), min(s) and max(s) have values
            b"ab".as_slice(),
            b"xyz".as_slice(),
        ]
        .concat();
        let accumulators = accumulators();
        let layout = Layout::new(&accumulators);
        assert_eq!(layout.rows(), RowLayout::Variable);
        let mut rows = Rows::default();
        rows.push(&golden, &layout);
        rows.push(&[], &layout);
        let mut values = Values::new(&accumulators);
        values.load(&rows, &layout);
        let mut stored = Rows::default();
        values.store(&mut stored, &layout);
        assert_eq!((stored.get(0), stored.get(1)), (golden.as_slice(), [0; 57].as_slice()));
    }
}
