//! The events as a source.

use arrow::array::RecordBatch;
use weir_engine::api::error::SourceError;
use weir_engine::api::source::{Source, SourceContext, SourceFactory};

use super::events::Rate;
use super::generator::Generator;
use super::layout::Layout;
use crate::strided::{Numbered, Strided, initial_splits};

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct NexmarkSourceFactory {
    pub(super) layout: Layout,
    pub(super) rate: Rate,
    pub(super) events: Option<u64>,
    pub(super) splits: Option<u32>,
    pub(super) rate_limit: Option<u64>,
}

impl SourceFactory for NexmarkSourceFactory {
    fn splits(&self, parallelism: u32) -> Result<Vec<serde_json::Value>, SourceError> {
        initial_splits(self.splits.unwrap_or(parallelism))
    }

    fn create(&self, ctx: &SourceContext) -> Result<Box<dyn Source>, SourceError> {
        let generator = Generator::new(self.layout.clone(), self.rate);
        Ok(Box::new(Strided::new(generator, ctx, self.events, self.rate_limit)?))
    }

    fn bounded(&self) -> bool {
        self.events.is_some()
    }
}

impl Numbered for Generator {
    fn batch(&mut self, first: u64, step: u64, count: usize) -> Result<RecordBatch, SourceError> {
        Ok(self.events(first, step, count)?)
    }
}
