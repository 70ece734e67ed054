//! Batches of records, as they stand on the wire and in a broker's log (format 2, since Kafka 0.11).
//!
//! | bytes | | |
//! |---|---|---|
//! | 0 | base offset | the offset of the first record |
//! | 8 | length | of what follows |
//! | 12 | leader epoch | |
//! | 16 | magic | 2 |
//! | 17 | CRC-32C | of what follows |
//! | 21 | attributes | 0–2 packing, 3 times are the log's, 4 transactional, 5 control |
//! | 23 | last offset delta | |
//! | 27, 35 | base and highest timestamp | milliseconds |
//! | 43, 51, 53 | producer id, epoch, base sequence | |
//! | 57 | number of records | |
//! | 61 | records, packed | length, attributes, deltas, key, value, headers, in varints |
//!
//! Records are not made into structures: a batch is unpacked into one buffer, and a record says where in it key, value and headers are.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use crate::compress::{Compression, MAX_UNPACKED};
use crate::error::KafkaError;

const HEADER: usize = 61;
/// Offset and length, which the length does not count.
const PREFIX: usize = 12;
const CRC_AT: usize = 17;
const CRC_FROM: usize = 21;
const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;

/// A batch as it was fetched, still packed.
#[derive(Clone, Debug)]
pub struct RecordBatch {
    /// The offset of its first record.
    pub base_offset: i64,
    /// The offset of its last record, which may be gone by compaction.
    pub last_offset: i64,
    /// The leader's epoch when it was written.
    pub leader_epoch: i32,
    /// Who wrote it; -1 for a producer without an id.
    pub producer_id: i64,
    attributes: i16,
    base_timestamp: i64,
    max_timestamp: i64,
    count: usize,
    packed: Bytes,
}

/// Where a record stands in its batch's buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRange {
    /// Its offset in the partition.
    pub offset: i64,
    /// Milliseconds since the epoch; whose is said by [`RecordBatch::is_log_append_time`].
    pub timestamp: i64,
    /// Its key; `None` for no key.
    pub key: Option<Range<usize>>,
    /// Its value; `None` for a tombstone.
    pub value: Option<Range<usize>>,
    /// Its headers, for [`headers`].
    pub headers: Range<usize>,
}

/// A header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value; `None` for none.
    pub value: Option<&'a [u8]>,
}

/// The batches of a fetched part of a log. The last one may be cut off, and is left out then.
pub fn batches(mut log: Bytes) -> impl Iterator<Item = Result<RecordBatch, KafkaError>> {
    std::iter::from_fn(move || {
        let length = field::<4>(&log, 8).map(i32::from_be_bytes)?;
        let Some(end) = usize::try_from(length).ok().and_then(|length| length.checked_add(PREFIX)) else {
            log.clear();
            return Some(Err(KafkaError::corrupt("a batch of records has a negative length")));
        };
        if log.len() < end {
            return None;
        }
        Some(RecordBatch::parse(&log.split_to(end)))
    })
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

impl RecordBatch {
    fn parse(bytes: &Bytes) -> Result<Self, KafkaError> {
        let magic = bytes.get(16).copied().unwrap_or_default();
        if magic != 2 {
            return Err(KafkaError::refused(format!(
                "a batch of records has format {magic}, older than Kafka 0.11: copy the topic's records into a new topic"
            )));
        }
        let short = || KafkaError::corrupt("a batch of records is shorter than its header");
        if bytes.len() < HEADER {
            return Err(short());
        }
        let long = |at| field::<8>(bytes, at).map(i64::from_be_bytes).ok_or_else(short);
        let int = |at| field::<4>(bytes, at).map(i32::from_be_bytes).ok_or_else(short);
        let base_offset = long(0)?;
        let crc = field::<4>(bytes, CRC_AT).map(u32::from_be_bytes).ok_or_else(short)?;
        if crc32c::crc32c(&bytes[CRC_FROM..]) != crc {
            return Err(KafkaError::corrupt(format!(
                "the batch of records at offset {base_offset} has a wrong checksum"
            )));
        }
        Ok(Self {
            base_offset,
            last_offset: base_offset.saturating_add(i64::from(int(23)?)),
            leader_epoch: int(12)?,
            producer_id: long(43)?,
            attributes: field::<2>(bytes, 21).map(i16::from_be_bytes).ok_or_else(short)?,
            base_timestamp: long(27)?,
            max_timestamp: long(35)?,
            count: usize::try_from(int(57)?).map_err(|_| short())?,
            packed: bytes.slice(HEADER..),
        })
    }

    /// Part of a transaction.
    pub const fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Not records of anybody's, but the end of a transaction.
    pub const fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// The timestamps are those of the broker and not of the producer.
    pub const fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    /// A control batch that says that the transaction was aborted.
    pub(crate) fn is_abort(&self) -> Result<bool, KafkaError> {
        let (buffer, records) = self.unpack()?;
        let kind = records.first().and_then(|record| field::<2>(&buffer[record.key.clone()?], 2));
        Ok(self.is_control() && kind.map(i16::from_be_bytes) == Some(0))
    }

    /// The records, and the buffer that they stand in.
    pub fn unpack(&self) -> Result<(Bytes, Vec<RecordRange>), KafkaError> {
        let buffer = Compression::of_bits(self.attributes)?
            .unpack(self.packed.clone())
            .map_err(|error| error.while_doing(format!("the batch of records at offset {}", self.base_offset)))?;
        // A record takes seven bytes at least: a wrong count makes no room.
        let mut records = Vec::with_capacity(self.count.min(buffer.len() / 7 + 1));
        let mut cursor = Cursor { bytes: &buffer, at: 0 };
        for _ in 0..self.count {
            let record = cursor.record(self);
            records.push(record.ok_or_else(|| {
                KafkaError::corrupt(format!("the batch of records at offset {} cannot be read", self.base_offset))
            })?);
        }
        Ok((buffer, records))
    }
}

/// The bytes end before a field does.
struct CutOff;

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// Zigzag, seven bits a byte, the lowest first.
    fn varlong(&mut self) -> Option<i64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        None
    }

    fn varint(&mut self) -> Option<i32> {
        i32::try_from(self.varlong()?).ok()
    }

    /// Bytes with their length before them; a negative one means none.
    fn field(&mut self) -> Result<Option<Range<usize>>, CutOff> {
        let length = self.varint().ok_or(CutOff)?;
        let Ok(length) = usize::try_from(length) else { return Ok(None) };
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len()).ok_or(CutOff)?;
        let range = self.at..end;
        self.at = end;
        Ok(Some(range))
    }

    fn record(&mut self, batch: &RecordBatch) -> Option<RecordRange> {
        let length = usize::try_from(self.varint()?).ok()?;
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        self.byte()?;
        let timestamp = batch.base_timestamp.wrapping_add(self.varlong()?);
        let offset = batch.base_offset.wrapping_add(i64::from(self.varint()?));
        let (key, value) = (self.field().ok()?, self.field().ok()?);
        let headers = self.at..end;
        if self.at > end {
            return None;
        }
        self.at = end;
        let timestamp = if batch.is_log_append_time() { batch.max_timestamp } else { timestamp };
        Some(RecordRange { offset, timestamp, key, value, headers })
    }
}

/// The headers of a record, from what [`RecordRange::headers`] says; what cannot be read ends them.
pub fn headers(bytes: &[u8]) -> impl Iterator<Item = Header<'_>> {
    let mut cursor = Cursor { bytes, at: 0 };
    let count = cursor.varint().unwrap_or(0).max(0);
    (0..count).map_while(move |_| {
        let name = std::str::from_utf8(&bytes[cursor.field().ok()??]).ok()?;
        Some(Header { name, value: cursor.field().ok()?.map(|range| &bytes[range]) })
    })
}

/// Gathers the records of one batch.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    records: BytesMut,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    /// Adds a record.
    pub fn push(&mut self, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header<'_>], timestamp: i64) {
        if self.count == 0 {
            (self.base_timestamp, self.max_timestamp) = (timestamp, timestamp);
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let (time_delta, offset_delta) = (timestamp.wrapping_sub(self.base_timestamp), i64::from(self.count));
        let size = |field: Option<&[u8]>| field.map_or(1, |field| varint_size(field.len() as i64) + field.len());
        let of_headers = headers.iter().map(|header| size(Some(header.name.as_bytes())) + size(header.value));
        let headers_size = varint_size(headers.len() as i64) + of_headers.sum::<usize>();
        let length = 1 + varint_size(time_delta) + varint_size(offset_delta) + size(key) + size(value) + headers_size;
        self.records.reserve(length + 5);
        put_varint(length as i64, &mut self.records);
        self.records.put_u8(0);
        put_varint(time_delta, &mut self.records);
        put_varint(offset_delta, &mut self.records);
        put_field(key, &mut self.records);
        put_field(value, &mut self.records);
        put_varint(headers.len() as i64, &mut self.records);
        for header in headers {
            put_field(Some(header.name.as_bytes()), &mut self.records);
            put_field(header.value, &mut self.records);
        }
        self.count += 1;
    }

    /// Bytes of the records so far, not packed.
    pub fn size(&self) -> usize {
        HEADER + self.records.len()
    }

    /// Records so far.
    pub const fn len(&self) -> i32 {
        self.count
    }

    /// There is none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The batch, and an empty builder in its place. `producer` is id, epoch and the sequence number of the first record.
    pub(crate) fn seal(
        &mut self,
        compression: Compression,
        producer: (i64, i16, i32),
        transactional: bool,
    ) -> Result<Bytes, KafkaError> {
        let builder = std::mem::take(self);
        if builder.records.len() > MAX_UNPACKED {
            return Err(KafkaError::refused(format!("a batch of records is larger than {} MiB", MAX_UNPACKED >> 20)));
        }
        let packed = match compression {
            Compression::None => builder.records.freeze(),
            other => Bytes::from(other.pack(&builder.records).map_err(|error| {
                KafkaError::refused(format!("records cannot be packed with {}: {error}", other.name()))
            })?),
        };
        let (producer_id, epoch, sequence) = producer;
        let attributes = compression.bits() | if transactional { TRANSACTIONAL } else { 0 };
        let mut batch = BytesMut::with_capacity(HEADER + packed.len());
        batch.put_i64(0);
        batch.put_i32((HEADER - PREFIX + packed.len()) as i32);
        batch.put_i32(-1);
        batch.put_i8(2);
        batch.put_u32(0);
        batch.put_i16(attributes);
        batch.put_i32(builder.count - 1);
        batch.put_i64(builder.base_timestamp);
        batch.put_i64(builder.max_timestamp);
        batch.put_i64(producer_id);
        batch.put_i16(epoch);
        batch.put_i32(sequence);
        batch.put_i32(builder.count);
        batch.put_slice(&packed);
        let crc = crc32c::crc32c(&batch[CRC_FROM..]);
        batch[CRC_AT..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
        Ok(batch.freeze())
    }
}

fn put_varint(value: i64, to: &mut BytesMut) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        to.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    to.put_u8(rest as u8);
}

const fn varint_size(value: i64) -> usize {
    let bits = 64 - (((value << 1) ^ (value >> 63)) as u64).leading_zeros() as usize;
    if bits == 0 { 1 } else { bits.div_ceil(7) }
}

fn put_field(field: Option<&[u8]>, to: &mut BytesMut) {
    match field {
        None => put_varint(-1, to),
        Some(field) => {
            put_varint(field.len() as i64, to);
            to.put_slice(field);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Written = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>, i64);

    fn written() -> impl Strategy<Value = Written> {
        let field = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..50));
        (field(), field(), proptest::collection::vec((".{0,5}", field()), 0..3), any::<i64>())
    }

    fn sealed(all: &[Written], compression: Compression) -> Bytes {
        let mut builder = BatchBuilder::default();
        for (key, value, headers, timestamp) in all {
            let headers: Vec<_> =
                headers.iter().map(|(name, value)| Header { name, value: value.as_deref() }).collect();
            let before = builder.records.len();
            builder.push(key.as_deref(), value.as_deref(), &headers, *timestamp);
            assert!(builder.records.len() > before);
        }
        builder.seal(compression, (7, 3, 100), true).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(all in proptest::collection::vec(written(), 1..40), packing in 0usize..5) {
            let log = sealed(&all, Compression::ALL[packing]);
            let batch = batches(log).next().unwrap().unwrap();
            prop_assert_eq!((batch.producer_id, batch.last_offset), (7, all.len() as i64 - 1));
            prop_assert!(batch.is_transactional() && !batch.is_control());
            let (buffer, records) = batch.unpack().unwrap();
            prop_assert_eq!(records.len(), all.len());
            for (i, (record, (key, value, written_headers, timestamp))) in records.iter().zip(&all).enumerate() {
                prop_assert_eq!((record.offset, record.timestamp), (i as i64, *timestamp));
                prop_assert_eq!(record.key.clone().map(|range| buffer[range].to_vec()), key.clone());
                prop_assert_eq!(record.value.clone().map(|range| buffer[range].to_vec()), value.clone());
                let read: Vec<_> = headers(&buffer[record.headers.clone()])
                    .map(|header| (header.name.to_string(), header.value.map(<[u8]>::to_vec)))
                    .collect();
                prop_assert_eq!(&read, written_headers);
            }
        }

        #[test]
        fn bytes_that_are_no_batch_are_an_error_and_not_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for batch in batches(bytes.into()).take(10) {
                drop(batch.and_then(|batch| batch.unpack()));
            }
        }

        #[test]
        fn a_flipped_bit_is_found(flipped in 21usize..150, bit in 0u8..8) {
            let log = sealed(&[(None, Some(vec![1; 100]), Vec::new(), 5)], Compression::None);
            let mut log = log.to_vec();
            let at = flipped.min(log.len() - 1);
            log[at] ^= 1 << bit;
            let error = batches(log.into()).next().unwrap().unwrap_err();
            prop_assert!(error.to_string().contains("checksum"), "{}", error);
        }
    }

    #[test]
    fn a_batch_that_is_cut_off_is_left_out_and_an_old_format_is_refused() {
        let whole = sealed(&[(None, None, Vec::new(), 5)], Compression::None);
        let mut two = whole.to_vec();
        two.extend_from_slice(&whole[..whole.len() - 1]);
        assert_eq!(batches(two.into()).count(), 1);
        let mut old = whole.to_vec();
        old[16] = 1;
        assert!(batches(old.into()).next().unwrap().unwrap_err().to_string().contains("0.11"));
        assert_eq!(batches(Bytes::new()).count(), 0);
    }

    #[test]
    fn numbers_take_as_many_bytes_as_is_reckoned() {
        for value in [0, -1, 1, 63, 64, -64, -65, 8191, 8192, i64::MAX, i64::MIN] {
            let mut to = BytesMut::new();
            put_varint(value, &mut to);
            assert_eq!(to.len(), varint_size(value), "{value}");
            assert_eq!(Cursor { bytes: &to, at: 0 }.varlong(), Some(value));
        }
    }
}
