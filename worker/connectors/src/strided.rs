//! Sources whose rows are functions of their numbers: splits interleave, and a position is the next number.

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};
use weir_engine::api::error::SourceError;
use weir_engine::api::source::{Source, SourceContext, SourcePoll};
use weir_runtime::clock;

use crate::pace::Pace;

/// Makes rows by number.
pub(crate) trait Numbered: Send {
    /// The rows of the numbers `first`, `first + step`, …, `count` of them; there may be fewer rows than numbers.
    fn batch(&mut self, first: u64, step: u64, count: usize) -> Result<RecordBatch, SourceError>;

    /// So many rows fit into one batch; there may be one where this is none.
    fn at_once(&self) -> usize {
        usize::MAX
    }
}

/// A split: the numbers `split`, `split + of`, `split + 2 * of`, …, from `next` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Split {
    #[serde(rename = "split")]
    index: u64,
    of: u64,
    next: u64,
}

/// So many splits, each at its start.
pub(crate) fn initial_splits(of: u32) -> Result<Vec<serde_json::Value>, SourceError> {
    let of = u64::from(of.max(1));
    (0..of).map(|split| Ok(serde_json::to_value(Split { index: split, of, next: split })?)).collect()
}

/// The source.
pub(crate) struct Strided<N> {
    rows: N,
    splits: Vec<Split>,
    /// Splits whose end has been told.
    ended: Vec<bool>,
    end: u64,
    pace: Option<Pace>,
}

impl<N: Numbered> Strided<N> {
    /// Reads the numbers below `end`, at a rate for the whole job.
    pub(crate) fn new(
        rows: N,
        ctx: &SourceContext,
        end: Option<u64>,
        rows_per_second: Option<u64>,
    ) -> Result<Self, SourceError> {
        let splits = ctx
            .splits
            .iter()
            .map(|split| match Split::deserialize(split) {
                Ok(split) if split.of > 0 && split.next % split.of == split.index => Ok(split),
                _ => Err(SourceError::bad_input(format!("{split} is no position in numbered rows"))),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let shares = splits.first().map_or(1, |split| u64::from(ctx.parallelism).min(split.of) as u32);
        Ok(Self {
            rows,
            ended: vec![false; splits.len()],
            splits,
            end: end.unwrap_or(u64::MAX),
            pace: rows_per_second.map(|rate| Pace::share(rate, shares)),
        })
    }
}

impl<N: Numbered> Source for Strided<N> {
    fn poll(&mut self, max_rows: usize) -> Result<SourcePoll, SourceError> {
        // The split that is furthest behind, so that event time moves on in all alike.
        let open = (0..self.splits.len()).filter(|&i| !self.ended[i]);
        let Some(i) = open.min_by_key(|&i| self.splits[i].next) else {
            return Ok(SourcePoll::End);
        };
        let Split { of, next, .. } = self.splits[i];
        if next >= self.end {
            self.ended[i] = true;
            return Ok(SourcePoll::SplitFinished(i));
        }
        let most = max_rows.min(self.rows.at_once()).max(1);
        let mut count = usize::try_from((self.end - next).div_ceil(of)).unwrap_or(usize::MAX).min(most);
        if let Some(pace) = &mut self.pace {
            match pace.allow(clock::now(), count) {
                Ok(allowed) => count = allowed,
                Err(until) => return Ok(SourcePoll::Pending { until: Some(until) }),
            }
            pace.took(count);
        }
        let rows = self.rows.batch(next, of, count)?;
        self.splits[i].next += count as u64 * of;
        Ok(SourcePoll::Rows { split: i, rows })
    }

    fn snapshot(&mut self) -> Result<Vec<serde_json::Value>, SourceError> {
        self.splits.iter().map(|split| Ok(serde_json::to_value(split)?)).collect()
    }
}
