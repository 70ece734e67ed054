//! One open file: bytes in, batches out, with the position behind the last row given.

use arrow::array::RecordBatch;
use memchr::memchr;
use weir_engine::api::counters::Counters;
use weir_engine::api::error::SourceError;

use super::input::Input;
use super::location::Location;
use super::stream::{Got, Opening, Stream};
use crate::formats::decode::{OnBadRecord, Rows};
use crate::formats::records::{Framing, Record};

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
    pub(super) opening: Opening,
}

/// See the module.
pub(super) struct OpenFile {
    location: Location,
    input: Input,
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
    /// Bytes behind `place` of a record that is too long, which are gone already.
    given_up: u64,
    records: Vec<Record>,
}

enum Phase {
    /// The header is to be read, and then this place to be gone to.
    Header(Place),
    Rows,
}

impl OpenFile {
    pub(super) fn open(
        location: Location,
        input: &Input,
        place: Place,
        reading: &Reading,
    ) -> Result<Self, SourceError> {
        let (phase, from) = if reading.header { (Phase::Header(place), Place::START) } else { (Phase::Rows, place) };
        Ok(Self {
            stream: Stream::open(&location, input, from.offset, &reading.opening)?,
            location,
            input: input.clone(),
            rows: reading.rows.clone(),
            phase,
            buffer: Vec::new(),
            start: 0,
            ended: false,
            added: false,
            place: from,
            given_up: 0,
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
            return self.header(place, reading, counters);
        }
        match self.collect(max, reading, counters)? {
            Collected::Records => {}
            Collected::Wait => return Ok(Step::Wait),
            Collected::Again => return Ok(Step::Again),
            Collected::End => return Ok(Step::End),
        }
        let parsed = self.rows.parse(&self.buffer, &self.records, reading.on_bad, &self.input.name)?;
        counters.skipped_rows.add(parsed.skipped);
        let behind = self.records.last().map(|last| (last.end, last.line + u64::from(last.lines)));
        if let Some((end, line)) = parsed.resume.or(behind) {
            self.move_to(end, line);
        }
        Ok(Step::Rows(parsed.rows))
    }

    fn header(&mut self, place: Place, reading: &Reading, counters: &Counters) -> Result<Step, SourceError> {
        match self.collect(1, reading, counters)? {
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
                self.input.name, record.line
            ))
        })?;
        self.move_to(record.end, record.line + u64::from(record.lines));
        self.phase = Phase::Rows;
        if place.offset > self.place.offset {
            self.stream = Stream::open(&self.location, &self.input, place.offset, &reading.opening)?;
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
    fn collect(&mut self, max: usize, reading: &Reading, counters: &Counters) -> Result<Collected, SourceError> {
        self.records.clear();
        self.buffer.drain(..self.start);
        self.start = 0;
        let (mut at, mut line) = (0, self.place.line);
        loop {
            if self.given_up > 0 {
                self.find_line_end();
                line = self.place.line;
            }
            while self.records.len() < max
                && let Some((end, lines)) = reading.framing.end_of_record(&self.buffer, at)
            {
                if !reading.framing.is_blank(&self.buffer[at..end]) {
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
                return Ok(self.tail(at, line, reading.framing));
            }
            if self.buffer.len() - at >= MAX_RECORD {
                if !self.records.is_empty() {
                    return Ok(Collected::Records);
                }
                self.too_long(line, reading.on_bad)?;
                counters.skipped_rows.add(1);
                line = self.place.line;
                continue;
            }
            match self.stream.read(&mut self.buffer)? {
                Got::Bytes(_) => {
                    if self.place == Place::START
                        && self.given_up == 0
                        && self.buffer.starts_with(BYTE_ORDER_MARK)
                        && at == 0
                    {
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

    /// A record has no end within [`MAX_RECORD`]. Where it is skipped only its first line is: a quote that is never closed
    /// swallows good lines.
    fn too_long(&mut self, line: u64, on_bad: OnBadRecord) -> Result<(), SourceError> {
        if on_bad == OnBadRecord::Fail {
            return Err(SourceError::bad_input(format!(
                "{}:{line}: no end of the record within {} MiB; check for a quote that is not closed, or for another format",
                self.input.name,
                MAX_RECORD >> 20
            )));
        }
        match memchr(b'\n', &self.buffer) {
            Some(end) => {
                self.move_to(end + 1, line + 1);
                self.buffer.drain(..self.start);
                self.start = 0;
            }
            None => {
                self.given_up = self.buffer.len() as u64;
                self.buffer = Vec::new();
            }
        }
        Ok(())
    }

    /// Throws away what belongs to a line that is too long.
    fn find_line_end(&mut self) {
        let end = memchr(b'\n', &self.buffer).map(|end| end + 1);
        let gone = end.unwrap_or(self.buffer.len());
        self.buffer.drain(..gone);
        self.given_up += gone as u64;
        if end.is_some() || self.ended {
            self.place = Place { offset: self.place.offset + self.given_up, line: self.place.line + 1 };
            self.given_up = 0;
        }
    }

    /// At the file's end: the last record may lack its line end.
    fn tail(&mut self, at: usize, line: u64, framing: Framing) -> Collected {
        if !self.added && !framing.is_blank(&self.buffer[at..]) {
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
