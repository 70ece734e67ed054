//! One open file: bytes in, batches out, with the position behind the last row given.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use tokio::runtime::Handle;
use weir_engine::api::counters::Counters;
use weir_engine::api::error::SourceError;
use weir_engine::api::source::Waker;

use super::location::Location;
use super::stream::{Got, Stream};
use crate::formats::decode::{OnBadRecord, Rows, parse_records};
use crate::formats::records::{Framing, Record, is_blank};

/// The longest record. It bounds what a file without line ends, or an unclosed quote, can make us hold.
const MAX_RECORD: usize = 16 << 20;
/// A batch ends here even if it has few rows.
const BATCH_BYTES: usize = 1 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Where reading goes on in a file: before a record. The offset counts unzipped bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u64,
    /// The line of that record, from 1.
    pub(super) line: u64,
}

impl Place {
    pub(super) const START: Self = Self { offset: 0, line: 1 };
}

/// What a file gives.
pub(super) enum Step {
    /// Rows, or none if all records read were skipped.
    Rows(Option<RecordBatch>),
    /// Not yet; the waker will be called.
    Wait,
    /// On the way to the place; ask again.
    Again,
    End,
}

/// What does not change from file to file.
pub(super) struct Reading {
    pub(super) rows: Rows,
    pub(super) framing: Framing,
    pub(super) header: bool,
    pub(super) on_bad: OnBadRecord,
    pub(super) runtime: Handle,
    pub(super) waker: Waker,
}

/// See the module.
pub(super) struct OpenFile {
    location: Location,
    name: String,
    rows: Rows,
    stream: Stream,
    phase: Phase,
    buffer: Vec<u8>,
    /// Of `buffer`, what lies before this has been given.
    start: usize,
    ended: bool,
    /// A line end was added behind the last record, which had none.
    added: bool,
    place: Place,
    records: Vec<Record>,
}

enum Phase {
    /// The header is to be read, and then this place to be gone to.
    Header(Place),
    Rows,
}

impl OpenFile {
    pub(super) fn open(location: Location, name: &str, place: Place, reading: &Reading) -> Result<Self, SourceError> {
        let (phase, from) = if reading.header { (Phase::Header(place), Place::START) } else { (Phase::Rows, place) };
        Ok(Self {
            stream: Stream::open(&location, name, from.offset, &reading.runtime, &reading.waker)?,
            location,
            name: name.to_string(),
            rows: reading.rows.clone(),
            phase,
            buffer: Vec::new(),
            start: 0,
            ended: false,
            added: false,
            place: from,
            records: Vec::new(),
        })
    }

    /// Where a restored source would go on. Before the header is read that is where it was told to start.
    pub(super) fn place(&self) -> Place {
        match self.phase {
            Phase::Header(place) => place,
            Phase::Rows => self.place,
        }
    }

    /// The next rows, at most `max`.
    pub(super) fn step(&mut self, max: usize, reading: &Reading, counters: &Counters) -> Result<Step, SourceError> {
        if let Phase::Header(place) = self.phase {
            return self.header(place, reading);
        }
        match self.collect(max, reading)? {
            Collected::Records => {}
            Collected::Wait => return Ok(Step::Wait),
            Collected::Again => return Ok(Step::Again),
            Collected::End => return Ok(Step::End),
        }
        let parsed = parse_records(&self.rows, &self.buffer, &self.records, reading.on_bad, &self.name)?;
        counters.skipped_rows.add(parsed.skipped);
        let behind = self.records.last().map(|last| (last.end, last.line + u64::from(last.lines)));
        if let Some((end, line)) = parsed.resume.or(behind) {
            self.move_to(end, line);
        }
        Ok(Step::Rows(match parsed.batches.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            [first, ..] => Some(concat_batches(first.schema_ref(), &parsed.batches)?),
        }))
    }

    fn header(&mut self, place: Place, reading: &Reading) -> Result<Step, SourceError> {
        match self.collect(1, reading)? {
            Collected::Records => {}
            Collected::Wait => return Ok(Step::Wait),
            Collected::Again => return Ok(Step::Again),
            Collected::End => return Ok(Step::End),
        }
        let Some(&record) = self.records.first() else {
            return Ok(Step::Again);
        };
        self.rows = reading.rows.with_header(&self.buffer[record.start..record.end]).map_err(|reason| {
            SourceError::bad_input(format!(
                "{}:{}: {reason}; correct the header or the table's columns, or take out 'csv.header'",
                self.name, record.line
            ))
        })?;
        self.move_to(record.end, record.line + u64::from(record.lines));
        self.phase = Phase::Rows;
        if place.offset > self.place.offset {
            self.stream = Stream::open(&self.location, &self.name, place.offset, &reading.runtime, &reading.waker)?;
            self.buffer.clear();
            (self.start, self.ended, self.added, self.place) = (0, false, false, place);
        }
        Ok(Step::Again)
    }

    /// What lies before `end` has been given.
    fn move_to(&mut self, end: usize, line: u64) {
        let real = if self.added { end.min(self.buffer.len().saturating_sub(1)) } else { end };
        self.place = Place { offset: self.place.offset + (real - self.start) as u64, line };
        self.start = end;
    }

    /// Reads on until there are `max` records, enough bytes, or no more.
    fn collect(&mut self, max: usize, reading: &Reading) -> Result<Collected, SourceError> {
        self.records.clear();
        self.buffer.drain(..self.start);
        self.start = 0;
        let (mut at, mut line) = (0, self.place.line);
        loop {
            while self.records.len() < max
                && let Some((end, lines)) = reading.framing.end_of_record(&self.buffer, at)
            {
                if !is_blank(&self.buffer[at..end]) {
                    self.records.push(Record { start: at, end, line, lines });
                }
                (at, line) = (end, line + u64::from(lines));
            }
            if self.records.len() == max || (at >= BATCH_BYTES && !self.records.is_empty()) {
                return Ok(Collected::Records);
            }
            if self.records.is_empty() {
                // Blank lines are behind us for good.
                self.move_to(at, line);
                self.buffer.drain(..at);
                (self.start, at) = (0, 0);
            }
            if self.ended {
                return Ok(self.tail(at, line));
            }
            if self.buffer.len() - at >= MAX_RECORD {
                if !self.records.is_empty() {
                    return Ok(Collected::Records);
                }
                return Err(SourceError::bad_input(format!(
                    "{}:{line}: no end of the record within {} MiB; check for a quote that is not closed, or for another format",
                    self.name,
                    MAX_RECORD >> 20
                )));
            }
            match self.stream.read(&mut self.buffer)? {
                Got::Bytes(_) => {
                    if self.place == Place::START && self.buffer.starts_with(BYTE_ORDER_MARK) && at == 0 {
                        // Part of the file, not of its first field.
                        self.move_to(BYTE_ORDER_MARK.len(), 1);
                        self.buffer.drain(..BYTE_ORDER_MARK.len());
                        self.start = 0;
                    }
                }
                Got::End => self.ended = true,
                Got::Nothing if !self.records.is_empty() => return Ok(Collected::Records),
                Got::Nothing if self.stream.is_skipping() => return Ok(Collected::Again),
                Got::Nothing => return Ok(Collected::Wait),
            }
        }
    }

    /// At the file's end: the last record may lack its line end.
    fn tail(&mut self, at: usize, line: u64) -> Collected {
        if !self.added && !is_blank(&self.buffer[at..]) {
            self.added = true;
            self.buffer.push(b'\n');
            let lines = memchr::memchr_iter(b'\n', &self.buffer[at..]).count() as u32;
            self.records.push(Record { start: at, end: self.buffer.len(), line, lines });
        }
        if self.records.is_empty() { Collected::End } else { Collected::Records }
    }
}

enum Collected {
    Records,
    Wait,
    Again,
    End,
}
