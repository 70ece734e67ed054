//! From drawn fields to Arrow columns, a field at a time, straight into the buffers that the arrays keep.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMillisecondArray};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use super::events::{Auctions, Bids, Persons, Slice};
use super::shared::{CHANNEL_WIDTH, CITIES, FIRST_NAMES, LAST_NAMES, STATES, Shared, URL_WIDTH};

/// The fields of a person, in the order of the declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PersonField {
    Id,
    Name,
    EmailAddress,
    CreditCard,
    City,
    State,
    DateTime,
    Extra,
}

/// The fields of an auction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuctionField {
    Id,
    ItemName,
    Description,
    InitialBid,
    Reserve,
    DateTime,
    Expires,
    Seller,
    Category,
    Extra,
}

/// The fields of a bid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BidField {
    Auction,
    Bidder,
    Price,
    Channel,
    Url,
    DateTime,
    Extra,
}

/// Where the events of one kind stand among the rows of a batch.
pub(super) struct Rows<'a> {
    /// The row of each event, ascending.
    pub(super) of: &'a [u32],
    /// Rows of the batch.
    pub(super) total: usize,
    /// The rows that are of this kind are valid; none if all are.
    pub(super) valid: Option<NullBuffer>,
}

impl Rows<'_> {
    fn numbers(&self, values: &[i64]) -> ScalarBuffer<i64> {
        if self.valid.is_none() {
            return values.to_vec().into();
        }
        let mut column = vec![0; self.total];
        for (&row, &value) in self.of.iter().zip(values) {
            column[row as usize] = value;
        }
        column.into()
    }

    fn int64(&self, values: &[i64]) -> ArrayRef {
        Arc::new(Int64Array::new(self.numbers(values), self.valid.clone()))
    }

    fn time(&self, values: &[i64], data_type: &DataType) -> ArrayRef {
        let zone = match data_type {
            DataType::Timestamp(_, zone) => zone.clone(),
            _ => None,
        };
        Arc::new(TimestampMillisecondArray::new(self.numbers(values), self.valid.clone()).with_timezone_opt(zone))
    }

    /// A column of texts: `append` writes the text of each event behind the ones before.
    fn texts<T>(
        &self,
        events: &[T],
        bytes: usize,
        mut append: impl FnMut(&mut Vec<u8>, &T),
    ) -> Result<ArrayRef, ArrowError> {
        // Pieces of a fixed size reach beyond the end before they are cut.
        const BEYOND: usize = 256;
        let mut values: Vec<u8> = Vec::with_capacity(bytes + BEYOND);
        let mut offsets: Vec<i32> = Vec::with_capacity(self.total + 1);
        offsets.push(0);
        if self.valid.is_none() {
            for event in events {
                append(&mut values, event);
                offsets.push(values.len() as i32);
            }
        } else {
            for (&row, event) in self.of.iter().zip(events) {
                // Rows of other kinds in between are empty.
                while offsets.len() <= row as usize {
                    offsets.push(values.len() as i32);
                }
                append(&mut values, event);
                offsets.push(values.len() as i32);
            }
            offsets.resize(self.total + 1, values.len() as i32);
        }
        let offsets = OffsetBuffer::new(offsets.into());
        Ok(Arc::new(StringArray::try_new(offsets, values.into(), self.valid.clone())?))
    }

    fn slices(&self, slices: &[Slice], text: &[u8]) -> Result<ArrayRef, ArrowError> {
        let bytes = slices.iter().map(|slice| slice.len as usize).sum();
        self.texts(slices, bytes, |values, slice| {
            values.extend_from_slice(piece(text, *slice));
        })
    }

    /// Slices of at most `WIDTH` bytes: copied in pieces of that size and cut, which is a few wide moves and no call.
    fn short_slices<const WIDTH: usize>(&self, slices: &[Slice], text: &[u8]) -> Result<ArrayRef, ArrowError> {
        let bytes = slices.iter().map(|slice| slice.len as usize).sum();
        self.texts(slices, bytes, |values, slice| {
            let end = values.len() + slice.len as usize;
            match text[slice.at as usize..].first_chunk::<WIDTH>() {
                Some(chunk) if slice.len as usize <= WIDTH => {
                    values.extend_from_slice(chunk);
                    values.truncate(end);
                }
                _ => values.extend_from_slice(piece(text, *slice)),
            }
        })
    }
}

fn piece(text: &[u8], slice: Slice) -> &[u8] {
    &text[slice.at as usize..(slice.at + slice.len) as usize]
}

/// No bid's `extra` is longer: 68 bytes are missing, give or take 14.
const BID_EXTRA_WIDTH: usize = 96;

impl Persons {
    /// One field as a column.
    pub(super) fn column(
        &self,
        field: PersonField,
        data_type: &DataType,
        rows: &Rows<'_>,
        shared: &Shared,
    ) -> Result<ArrayRef, ArrowError> {
        const SHORT_TEXT: usize = 24;
        let short = self.id.len() * SHORT_TEXT;
        match field {
            PersonField::Id => Ok(rows.int64(&self.id)),
            PersonField::Name => rows.texts(&self.name, short, |values, &(first, last)| {
                values.extend_from_slice(FIRST_NAMES[usize::from(first)].as_bytes());
                values.push(b' ');
                values.extend_from_slice(LAST_NAMES[usize::from(last)].as_bytes());
            }),
            PersonField::EmailAddress => rows.texts(&self.mail, short, |values, &(account, host)| {
                values.extend_from_slice(piece(&shared.words, account));
                values.push(b'@');
                values.extend_from_slice(piece(&shared.words, host));
                values.extend_from_slice(b".com");
            }),
            PersonField::CreditCard => rows.texts(&self.card, short, |values, card| {
                for (i, &group) in card.iter().enumerate() {
                    if i > 0 {
                        values.push(b' ');
                    }
                    let digit = |power: u16| b'0' + (group / power % 10) as u8;
                    values.extend_from_slice(&[digit(1000), digit(100), digit(10), digit(1)]);
                }
            }),
            PersonField::City => rows.texts(&self.city, short, |values, &city| {
                values.extend_from_slice(CITIES[usize::from(city)].as_bytes());
            }),
            PersonField::State => rows.texts(&self.state, short, |values, &state| {
                values.extend_from_slice(STATES[usize::from(state)].as_bytes());
            }),
            PersonField::DateTime => Ok(rows.time(&self.time, data_type)),
            PersonField::Extra => rows.slices(&self.extra, &shared.text),
        }
    }
}

impl Auctions {
    /// One field as a column.
    pub(super) fn column(
        &self,
        field: AuctionField,
        data_type: &DataType,
        rows: &Rows<'_>,
        shared: &Shared,
    ) -> Result<ArrayRef, ArrowError> {
        match field {
            AuctionField::Id => Ok(rows.int64(&self.id)),
            AuctionField::ItemName => rows.slices(&self.name, &shared.words),
            AuctionField::Description => rows.slices(&self.description, &shared.words),
            AuctionField::InitialBid => Ok(rows.int64(&self.initial_bid)),
            AuctionField::Reserve => Ok(rows.int64(&self.reserve)),
            AuctionField::DateTime => Ok(rows.time(&self.time, data_type)),
            AuctionField::Expires => Ok(rows.time(&self.expires, data_type)),
            AuctionField::Seller => Ok(rows.int64(&self.seller)),
            AuctionField::Category => Ok(rows.int64(&self.category)),
            AuctionField::Extra => rows.slices(&self.extra, &shared.text),
        }
    }
}

impl Bids {
    /// One field as a column.
    pub(super) fn column(
        &self,
        field: BidField,
        data_type: &DataType,
        rows: &Rows<'_>,
        shared: &Shared,
    ) -> Result<ArrayRef, ArrowError> {
        match field {
            BidField::Auction => Ok(rows.int64(&self.auction)),
            BidField::Bidder => Ok(rows.int64(&self.bidder)),
            BidField::Price => Ok(rows.int64(&self.price)),
            BidField::Channel => rows.texts(&self.channel, self.channel.len() * CHANNEL_WIDTH, |values, &channel| {
                let (text, len) = shared.channels.get(channel as usize);
                let end = values.len() + len;
                values.extend_from_slice(text);
                values.truncate(end);
            }),
            BidField::Url => rows.texts(&self.channel, self.channel.len() * URL_WIDTH, |values, &channel| {
                let (text, len) = shared.urls.get(channel as usize);
                let end = values.len() + len;
                values.extend_from_slice(text);
                values.truncate(end);
            }),
            BidField::DateTime => Ok(rows.time(&self.time, data_type)),
            BidField::Extra => rows.short_slices::<BID_EXTRA_WIDTH>(&self.extra, &shared.text),
        }
    }
}
