//! The source: each split is a list of files, read one after another.

use std::sync::Arc;
use std::time::Instant;

use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use weir_engine::api::counters::Counters;
use weir_engine::api::error::SourceError;
use weir_engine::api::source::{Source, SourceContext, SourceFactory, SourcePoll};

use super::file::{OpenFile, Place, Reading, Step};
use super::location::Location;
use crate::formats::decode::{Format, OnBadRecord, Rows};
use crate::pace::Pace;

/// A split's position: its files that are not finished, and the place in the first of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Split {
    /// How many splits there are: a rate for the whole job is divided among them.
    of: u32,
    files: Vec<String>,
    /// In unzipped bytes.
    offset: u64,
    line: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct FileSourceFactory {
    pub(super) location: Location,
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
        let files = self.location.files()?;
        let of = files.len().min(parallelism.max(1) as usize);
        (0..of)
            .map(|split| {
                let files = files.iter().skip(split).step_by(of).cloned().collect();
                Ok(serde_json::to_value(Split { of: of as u32, files, offset: 0, line: 1 })?)
            })
            .collect()
    }

    fn create(&self, ctx: &SourceContext) -> Result<Box<dyn Source>, SourceError> {
        let splits = ctx
            .splits
            .iter()
            .map(|split| {
                Split::deserialize(split)
                    .map_err(|error| SourceError::bad_input(format!("{split} is no position in files")).because(error))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let shares = splits.first().map_or(1, |split| ctx.parallelism.min(split.of));
        Ok(Box::new(FileSource {
            location: self.location.clone(),
            reading: Reading {
                rows: Rows::new(&self.format, &self.schema, &self.needed)?,
                framing: self.format.framing(),
                header: self.format.has_header(),
                on_bad: self.on_bad,
                runtime: ctx.runtime.clone(),
                waker: ctx.waker.clone(),
            },
            splits: splits.into_iter().map(|split| SplitReader { split, open: None, ended: false }).collect(),
            next: 0,
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
    /// Its end has been told.
    ended: bool,
}

impl SplitReader {
    fn position(&self) -> Split {
        match &self.open {
            None => self.split.clone(),
            Some(file) => {
                let Place { offset, line } = file.place();
                Split { offset, line, ..self.split.clone() }
            }
        }
    }

    fn finish_file(&mut self) {
        self.open = None;
        self.split.files.remove(0);
        (self.split.offset, self.split.line) = (0, 1);
    }
}

struct FileSource {
    location: Location,
    reading: Reading,
    splits: Vec<SplitReader>,
    /// The split to be polled next: in turn.
    next: usize,
    pace: Option<Pace>,
    counters: Arc<Counters>,
}

impl Source for FileSource {
    fn poll(&mut self, max_rows: usize) -> Result<SourcePoll, SourceError> {
        if self.splits.iter().all(|split| split.ended) {
            return Ok(SourcePoll::End);
        }
        let mut max = max_rows.max(1);
        if let Some(pace) = &mut self.pace {
            match pace.allow(Instant::now(), max) {
                Ok(allowed) => max = allowed,
                Err(until) => return Ok(SourcePoll::Pending { until: Some(until) }),
            }
        }
        let mut until = None;
        for _ in 0..self.splits.len() {
            let i = self.next;
            self.next = (i + 1) % self.splits.len();
            let split = &mut self.splits[i];
            if split.ended {
                continue;
            }
            let Some(name) = split.split.files.first() else {
                split.ended = true;
                return Ok(SourcePoll::SplitFinished(i));
            };
            let file = match &mut split.open {
                Some(file) => file,
                closed @ None => {
                    let place = Place { offset: split.split.offset, line: split.split.line };
                    closed.insert(OpenFile::open(self.location.file(name), name, place, &self.reading)?)
                }
            };
            match file.step(max, &self.reading, &self.counters)? {
                Step::Rows(Some(rows)) => {
                    if let Some(pace) = &mut self.pace {
                        pace.took(rows.num_rows());
                    }
                    return Ok(SourcePoll::Rows { split: i, rows });
                }
                Step::Rows(None) | Step::Again => until = Some(Instant::now()),
                Step::End => {
                    split.finish_file();
                    until = Some(Instant::now());
                }
                Step::Wait => {}
            }
        }
        Ok(SourcePoll::Pending { until })
    }

    fn snapshot(&mut self) -> Result<Vec<serde_json::Value>, SourceError> {
        self.splits.iter().map(|split| Ok(serde_json::to_value(split.position())?)).collect()
    }
}
