//! Values that functions make, held to a size: what a function says that would make more, and what is done about it.

use std::error::Error;

use datafusion_common::DataFusionError;
use thiserror::Error as ThisError;

/// Bytes of one value that a function makes, and of all values that it makes of the rows of one batch. Batches of some rows are
/// cut into smaller ones where they would have more; one value is one record of an output, and a worker of the smallest size
/// could hold no larger one.
pub const MAX_VALUE: u64 = 64 << 20;

/// A function would make more than it may.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
pub enum Oversized {
    /// Of one row. Another attempt would meet it again.
    #[error("{call} in row {row} of {rows} gives {bytes} bytes, and {MAX_VALUE} are the most")]
    Value {
        /// The function with its arguments, shortened.
        call: String,
        /// From 1, of the rows that are computed together.
        row: usize,
        /// How many these are.
        rows: usize,
        /// What it would be.
        bytes: u64,
    },
    /// Of all rows together.
    #[error(
        "{function} gives {bytes} bytes for {rows} rows at once, and {MAX_VALUE} are the most: call it in a query, where rows are computed in smaller batches"
    )]
    Batch {
        /// The function.
        function: String,
        /// How many rows.
        rows: usize,
        /// What it would be.
        bytes: u64,
    },
}

impl Oversized {
    /// As an error of an expression.
    pub fn into_expression_error(self) -> DataFusionError {
        DataFusionError::External(Box::new(self))
    }

    /// Whether an error comes from too many rows at once: half of them at a time may do.
    pub fn is_by_rows(error: &(dyn Error + 'static)) -> bool {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(oversized) = error.downcast_ref::<Self>() {
                return matches!(oversized, Self::Batch { .. });
            }
            next = match error.downcast_ref::<DataFusionError>() {
                Some(DataFusionError::External(inner)) => Some(inner.as_ref()),
                _ => error.source(),
            };
        }
        false
    }
}
