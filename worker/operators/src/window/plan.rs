//! A windowed aggregation, checked, and the tables that it keeps.

use arrow::datatypes::{DataType, Field, SchemaRef};
use weir_engine::{OperatorError, Timestamp};
use weir_state::SliceTable;

use crate::aggregate::ingest::Ingest;
use crate::aggregate::keyed::check_group;
use crate::aggregate::plan::Plan;
use crate::spec::{
    Aggregation, SpecError, TimeSource, WindowAggregateSpec, WindowKind, WindowShape, schema_of, window_fields,
};
use crate::window::slices::Slices;

/// GROUP BY over TUMBLE, HOP or CUMULATE, or over rows that have their windows already, those of SESSION too. A window is emitted once, when the watermark has reached its end less a millisecond; rows that
/// come when all their windows have been are dropped and counted. By processing time a window is emitted when the clock
/// has reached its end, and what is still open at the end of input then.
///
/// State: a row of accumulators a slice and key, and for each DISTINCT column a row a slice, key and value, until the last
/// window that holds the slice has fired.
#[derive(Debug, Clone)]
pub struct WindowAggregate {
    pub(crate) ingest: Ingest,
    pub(crate) slices: Slices,
    /// The column that has the ends of the rows' windows, where they have some.
    pub(crate) ends: Option<usize>,
    /// The last group column is the window's start.
    pub(crate) start_in_group: bool,
    pub(crate) time: TimeSource,
    pub(crate) output: SchemaRef,
    pub(crate) time_type: DataType,
}

impl WindowAggregate {
    /// Checks the spec. The output has the group columns, the aggregates, then the window's three columns.
    pub fn new(spec: WindowAggregateSpec) -> Result<Self, SpecError> {
        spec.window.check()?;
        check_group(&spec.aggregation)?;
        check_attached(&spec.aggregation, spec.window, spec.time)?;
        let window = window_fields(&spec.aggregation.input, spec.time)?;
        let time_type = window[2].data_type().clone();
        let fields: Vec<Field> = spec.aggregation.output_fields()?.into_iter().chain(window).collect();
        let by_event = matches!(spec.time, TimeSource::Event(_));
        Ok(Self {
            ingest: Ingest::new(Plan::new(spec.aggregation, false)?, spec.input, by_event),
            slices: Slices::new(spec.window),
            ends: spec.window.attached,
            start_in_group: spec.window.kind == WindowKind::Session,
            time: spec.time,
            output: schema_of(fields),
            time_type,
        })
    }

    pub fn output(&self) -> &SchemaRef {
        &self.output
    }

    /// Distinct values are counted over the slices of a window when it fires.
    pub(crate) fn merges(&self) -> bool {
        !self.ingest.plan.maps.is_empty() && !self.slices.is_tumbling()
    }
}

/// Columns of windows that rows have already are there. Sessions are never found by their time alone.
pub(crate) fn check_attached(
    aggregation: &Aggregation,
    window: WindowShape,
    time: TimeSource,
) -> Result<(), SpecError> {
    let is_time = |column: usize, role| {
        let field = aggregation.field(column)?;
        match field.data_type() {
            DataType::Timestamp(..) => Ok(()),
            found => Err(SpecError::WrongType {
                column: field.name().clone(),
                role,
                found: found.clone(),
                expected: "a TIMESTAMP",
            }),
        }
    };
    let Some(end) = window.attached else {
        return match window.kind {
            WindowKind::Session => Err(SpecError::BadWindow("a session is not found by a row's time alone".to_owned())),
            WindowKind::Hop | WindowKind::Cumulate => Ok(()),
        };
    };
    if time == TimeSource::Processing {
        // Who fires by the clock cannot know whether all rows of the window are there.
        return Err(SpecError::Unsupported("windows by processing time that rows have already".to_owned()));
    }
    is_time(end, "a window's end")?;
    match (window.kind, aggregation.group.last()) {
        (WindowKind::Session, Some(start)) => is_time(*start, "a window's start"),
        (WindowKind::Session, None) => Err(SpecError::BadWindow("a session's start must be grouped by".to_owned())),
        (WindowKind::Hop | WindowKind::Cumulate, _) => Ok(()),
    }
}

/// The operator's state but for the progress of firing.
pub(crate) struct Tables {
    /// (slice, key) → accumulators.
    pub groups: SliceTable,
    /// For each DISTINCT column (slice, key and value) → mask.
    pub maps: Vec<SliceTable>,
    /// Where windows share slices: (window, key) → what the distinct values come to. Made anew whenever a window fires.
    pub merged: Option<SliceTable>,
    /// (window, key) for what has been emitted of a window whose firing a barrier may interrupt.
    pub emitted: SliceTable,
}

impl Tables {
    /// Drops a slice whose last window has fired.
    pub fn delete_slice(&mut self, end: Timestamp) -> Result<(), OperatorError> {
        self.groups.delete_slice(end)?;
        for map in &mut self.maps {
            map.delete_slice(end)?;
        }
        Ok(())
    }

    /// Drops what was only kept while the window fired.
    pub fn end_window(&mut self, window: Timestamp) -> Result<(), OperatorError> {
        if let Some(merged) = &mut self.merged {
            merged.delete_slice(window)?;
        }
        self.emitted.delete_slice(window)?;
        Ok(())
    }

    /// What was merged when the checkpoint was taken may be half of it.
    pub fn forget_merged(&mut self) -> Result<(), OperatorError> {
        let Some(merged) = &mut self.merged else { return Ok(()) };
        let windows: Vec<Timestamp> = merged.slices().collect();
        for window in windows {
            merged.delete_slice(window)?;
        }
        Ok(())
    }
}
