//! Batches of events: rows sorted into kinds, each kind drawn and laid out column by column.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, RecordBatchOptions, StructArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use super::columns::Rows;
use super::events::{Auctions, Bids, EPOCH, Kind, Persons, Rate};
use super::layout::{Column, Field, Layout};
use super::shared::Shared;

/// Makes batches; keeps its scratch memory from one to the next.
pub(super) struct Generator {
    layout: Layout,
    rate: Rate,
    shared: &'static Shared,
    /// The kind of each event of the batch.
    kinds: Vec<u8>,
    /// Rows of each kind.
    rows: [Vec<u32>; 3],
    bid_numbers: Vec<u64>,
    persons: Persons,
    auctions: Auctions,
    bids: Bids,
}

impl Generator {
    pub(super) fn new(layout: Layout, rate: Rate) -> Self {
        Self {
            layout,
            rate,
            shared: Shared::get(),
            kinds: Vec::new(),
            rows: Default::default(),
            bid_numbers: Vec::new(),
            persons: Persons::default(),
            auctions: Auctions::default(),
            bids: Bids::default(),
        }
    }

    /// The events `first`, `first + step`, …, `count` of them, in this order. Where the table has one kind only, the batch
    /// has fewer rows.
    pub(super) fn events(&mut self, first: u64, step: u64, count: usize) -> Result<RecordBatch, ArrowError> {
        self.draw(first, step, count);
        let columns = self.layout.columns.iter().map(|column| self.column(column)).collect::<Result<Vec<_>, _>>()?;
        for column in &self.layout.discarded {
            std::hint::black_box(self.column(column)?);
        }
        let rows = self.layout.only.map_or(count, |kind| self.rows[kind as usize].len());
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.layout.schema), columns, &options)
    }

    fn draw(&mut self, first: u64, step: u64, count: usize) {
        let [makes_persons, makes_auctions, makes_bids] =
            [Kind::Person, Kind::Auction, Kind::Bid].map(|kind| self.layout.makes(kind));
        self.kinds.clear();
        self.rows.iter_mut().for_each(Vec::clear);
        self.bid_numbers.clear();
        self.persons.clear();
        self.auctions.clear();
        let mut n = first;
        let mut offset = first % EPOCH;
        let offset_step = step % EPOCH;
        for row in 0..count as u32 {
            let kind = Kind::of_offset(offset);
            self.kinds.push(kind as u8);
            self.rows[kind as usize].push(row);
            match kind {
                Kind::Bid => self.bid_numbers.push(n),
                Kind::Auction if makes_auctions => self.auctions.draw(n, self.rate, self.shared),
                Kind::Person if makes_persons => self.persons.draw(n, self.rate),
                Kind::Auction | Kind::Person => {}
            }
            n += step;
            offset += offset_step;
            if offset >= EPOCH {
                offset -= EPOCH;
            }
        }
        if makes_bids {
            self.bids.draw(&self.bid_numbers, self.rate, self.shared);
        }
    }

    fn column(&self, column: &Column) -> Result<ArrayRef, ArrowError> {
        match column {
            Column::EventType => {
                Ok(Arc::new(Int32Array::from_iter_values(self.kinds.iter().map(|&kind| i32::from(kind)))))
            }
            Column::Flat { field, data_type } => {
                let rows = &self.rows[field.kind() as usize];
                self.field(*field, data_type, &Rows { of: rows, total: rows.len(), valid: None })
            }
            Column::Row { kind, fields, arrow } => {
                let valid = BooleanBuffer::collect_bool(self.kinds.len(), |row| self.kinds[row] == *kind as u8);
                // The fields of a null ROW are null too: a kernel that takes a field out of a ROW need not look further.
                let valid = NullBuffer::new(valid);
                let rows = Rows { of: &self.rows[*kind as usize], total: self.kinds.len(), valid: Some(valid.clone()) };
                let columns = fields
                    .iter()
                    .map(|(field, data_type)| self.field(*field, data_type, &rows))
                    .collect::<Result<_, _>>()?;
                Ok(Arc::new(StructArray::try_new(arrow.clone(), columns, Some(valid))?))
            }
        }
    }

    fn field(&self, field: Field, data_type: &DataType, rows: &Rows<'_>) -> Result<ArrayRef, ArrowError> {
        match field {
            Field::Person(field) => self.persons.column(field, data_type, rows, self.shared),
            Field::Auction(field) => self.auctions.column(field, data_type, rows, self.shared),
            Field::Bid(field) => self.bids.column(field, data_type, rows, self.shared),
        }
    }
}
