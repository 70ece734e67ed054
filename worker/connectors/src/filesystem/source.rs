//! The source: each split is a list of files, read one after another, and the splits are read beside each other.
//!
//! Files overlap in event time, and rows that come after their window has closed are lost. So the split that is furthest back
//! in event time is read first, the watermark is the lowest of the splits', and which files are read beside each other does not
//! hang on how many subtasks share them.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use weir_engine::Timestamp;
use weir_engine::api::counters::Counters;
use weir_engine::api::error::SourceError;
use weir_engine::api::source::{Source, SourceContext, SourceFactory, SourcePoll};
use weir_runtime::clock;

use super::closed::Closed;
use super::file::{OpenFile, Place, Reading, Step};
use super::input::Input;
use super::location::Location;
use super::stream::{Ahead, Opening};
use crate::formats::decode::{Format, OnBadRecord, Rows};
use crate::pace::Pace;

/// So many files of a table are read beside each other, by all subtasks together, and more only where there are more subtasks:
/// enough for the files that a day or a region is cut into, and few enough for one subtask's memory.
const FILES_BESIDE: usize = 16;
/// A subtask has so many files open at most. After a rescale it may have more splits; then the file that is furthest ahead is
/// closed for another.
const MOST_OPEN: usize = 64;
/// The form of a split. In the first, files were names; both are read.
const SPLIT_VERSION: u32 = 2;

/// A split's position: its files that are not finished, and the place in the first of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Split {
    #[serde(default = "first_version")]
    version: u32,
    /// How many splits there are: a rate for the whole job is divided among them.
    of: u32,
    files: Vec<Input>,
    /// In unzipped bytes.
    offset: u64,
    line: u64,
}

const fn first_version() -> u32 {
    1
}

impl Split {
    fn read(value: &serde_json::Value) -> Result<Self, SourceError> {
        let refused = |why: &str| SourceError::bad_input(format!("{value} is no position in files{why}"));
        let split = Self::deserialize(value).map_err(|error| refused("").because(error))?;
        if split.version > SPLIT_VERSION {
            return Err(refused(" that this build can read: it is a later one's"));
        }
        Ok(Self { version: SPLIT_VERSION, ..split })
    }
}

/// How many splits so many files are dealt to: the same for each subtask, and never more than there are files.
fn splits_of(files: usize, parallelism: u32) -> usize {
    let subtasks = parallelism.max(1) as usize;
    files.min(FILES_BESIDE.next_multiple_of(subtasks))
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct FileSourceFactory {
    pub(super) location: Location,
    pub(super) closed: Closed,
    pub(super) format: Format,
    pub(super) schema: SchemaRef,
    pub(super) needed: Vec<usize>,
    pub(super) on_bad: OnBadRecord,
    pub(super) rate_limit: Option<u64>,
}

impl SourceFactory for FileSourceFactory {
    /// The files in their order are dealt to the splits in turn, so that files that are named by time are read side by side
    /// in about that order, and event time moves on in all splits alike.
    fn splits(&self, parallelism: u32) -> Result<Vec<serde_json::Value>, SourceError> {
        let files = self.location.files(&self.closed)?;
        let of = splits_of(files.len(), parallelism);
        (0..of)
            .map(|split| {
                let files = files.iter().skip(split).step_by(of).cloned().collect();
                let split = Split { version: SPLIT_VERSION, of: of as u32, files, offset: 0, line: 1 };
                Ok(serde_json::to_value(split)?)
            })
            .collect()
    }

    fn create(&self, ctx: &SourceContext) -> Result<Box<dyn Source>, SourceError> {
        let splits = ctx.splits.iter().map(Split::read).collect::<Result<Vec<_>, _>>()?;
        let shares = splits.first().map_or(1, |split| ctx.parallelism.min(split.of));
        let ahead = Ahead::of_each(splits.len().min(MOST_OPEN));
        Ok(Box::new(FileSource {
            location: self.location.clone(),
            reading: Reading {
                rows: Rows::new(&self.format, &self.schema, &self.needed)?,
                framing: self.format.framing(),
                header: self.format.has_header(),
                on_bad: self.on_bad,
                opening: Opening {
                    closed: self.closed.clone(),
                    ahead,
                    runtime: ctx.runtime.clone(),
                    waker: ctx.waker.clone(),
                },
            },
            splits: splits.into_iter().map(SplitReader::new).collect(),
            pace: self.rate_limit.map(|limit| Pace::share(limit, shares)),
            counters: Arc::clone(&ctx.counters),
        }))
    }

    fn bounded(&self) -> bool {
        true
    }
}

struct SplitReader {
    split: Split,
    open: Option<OpenFile>,
    /// How far event time has got in it, where the table has any.
    reached: Option<Timestamp>,
    /// It was asked for rows and had none yet.
    waits: bool,
    /// Its end has been told.
    ended: bool,
}

impl SplitReader {
    const fn new(split: Split) -> Self {
        Self { split, open: None, reached: None, waits: false, ended: false }
    }

    fn position(&self) -> Split {
        match &self.open {
            None => self.split.clone(),
            Some(file) => {
                let Place { offset, line } = file.place();
                Split { offset, line, ..self.split.clone() }
            }
        }
    }

    /// Its place is kept.
    fn close(&mut self) {
        self.split = self.position();
        self.open = None;
    }

    fn finish_file(&mut self) {
        self.open = None;
        self.split.files.remove(0);
        (self.split.offset, self.split.line) = (0, 1);
    }

    /// The next of its first file, which is opened where it is not.
    fn step(
        &mut self,
        max: usize,
        location: &Location,
        reading: &Reading,
        counters: &Counters,
    ) -> Result<Step, SourceError> {
        let Some(input) = self.split.files.first() else { return Ok(Step::End) };
        let file = match &mut self.open {
            Some(file) => file,
            closed @ None => {
                let place = Place { offset: self.split.offset, line: self.split.line };
                closed.insert(OpenFile::open(location.file(&input.name)?, input, place, reading)?)
            }
        };
        file.step(max, reading, counters)
    }
}

struct FileSource {
    location: Location,
    reading: Reading,
    splits: Vec<SplitReader>,
    pace: Option<Pace>,
    counters: Arc<Counters>,
}

impl FileSource {
    /// The splits that have not ended: those furthest back in event time first, and in their order where that does not tell.
    fn in_order(&self) -> Vec<usize> {
        let mut open: Vec<usize> = (0..self.splits.len()).filter(|&i| !self.splits[i].ended).collect();
        open.sort_by_key(|&i| self.splits[i].reached);
        open
    }

    /// Makes room for one more open file.
    fn close_one(&mut self, order: &[usize]) {
        if self.splits.iter().filter(|split| split.open.is_some()).count() < MOST_OPEN {
            return;
        }
        if let Some(&furthest) = order.iter().rev().find(|&&i| self.splits[i].open.is_some()) {
            self.splits[furthest].close();
        }
    }
}

impl Source for FileSource {
    fn poll(&mut self, max_rows: usize) -> Result<SourcePoll, SourceError> {
        if let Some(i) = self.splits.iter().position(|split| !split.ended && split.split.files.is_empty()) {
            self.splits[i].ended = true;
            return Ok(SourcePoll::SplitFinished(i));
        }
        let order = self.in_order();
        if order.is_empty() {
            return Ok(SourcePoll::End);
        }
        let mut max = max_rows.max(1);
        if let Some(pace) = &mut self.pace {
            match pace.allow(clock::now(), max) {
                Ok(allowed) => max = allowed,
                Err(until) => return Ok(SourcePoll::Pending { until: Some(until) }),
            }
        }
        for &i in &order {
            if self.splits[i].open.is_none() {
                self.close_one(&order);
            }
            let split = &mut self.splits[i];
            let step = split.step(max, &self.location, &self.reading, &self.counters)?;
            split.waits = matches!(step, Step::Wait);
            match step {
                Step::Rows(Some(rows)) => {
                    if let Some(pace) = &mut self.pace {
                        pace.took(rows.num_rows());
                    }
                    return Ok(SourcePoll::Rows { split: i, rows });
                }
                Step::Rows(None) | Step::Again => return Ok(SourcePoll::Pending { until: Some(clock::now()) }),
                Step::End => {
                    split.finish_file();
                    return Ok(SourcePoll::Pending { until: Some(clock::now()) });
                }
                // What comes next in event time is read meanwhile: it waits downstream until the watermark has come.
                Step::Wait => {}
            }
        }
        Ok(SourcePoll::Pending { until: None })
    }

    fn event_time(&mut self, split: usize, reached: Timestamp) {
        if let Some(split) = self.splits.get_mut(split) {
            split.reached = Some(reached);
        }
    }

    fn holds_back(&self, split: usize) -> bool {
        self.splits.get(split).is_some_and(|split| !split.ended && !split.waits)
    }

    fn snapshot(&mut self) -> Result<Vec<serde_json::Value>, SourceError> {
        self.splits.iter().map(|split| Ok(serde_json::to_value(split.position())?)).collect()
    }
}
