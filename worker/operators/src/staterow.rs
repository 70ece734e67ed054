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

use crate::plan::{Accumulator, Kind};

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
