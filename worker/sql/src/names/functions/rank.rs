//! ROW_NUMBER, RANK and DENSE_RANK as the planner sees them. What they come to is an operator's: the first rows of each partition.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::{Result, not_impl_err};
use datafusion_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion_expr::{PartitionEvaluator, Signature, Volatility, WindowUDF, WindowUDFImpl};
use weir_operators::RankFunction;

#[derive(Debug, PartialEq, Eq, Hash)]
struct Rank {
    name: &'static str,
    signature: Signature,
}

const FUNCTIONS: [(&str, RankFunction); 3] =
    [("row_number", RankFunction::RowNumber), ("rank", RankFunction::Rank), ("dense_rank", RankFunction::DenseRank)];

/// All of them.
pub fn functions() -> Vec<WindowUDF> {
    let function = |(name, _)| {
        let signature = Signature::nullary(Volatility::Immutable);
        WindowUDF::new_from_impl(Rank { name, signature })
    };
    FUNCTIONS.into_iter().map(function).collect()
}

/// The function of this name, in lower case.
pub fn function_of(name: &str) -> Option<RankFunction> {
    FUNCTIONS.into_iter().find(|(known, _)| *known == name).map(|(_, function)| function)
}

impl WindowUDFImpl for Rank {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn field(&self, args: WindowUDFFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(args.name(), DataType::Int64, false)))
    }

    fn partition_evaluator(&self, _args: PartitionEvaluatorArgs<'_>) -> Result<Box<dyn PartitionEvaluator>> {
        not_impl_err!("{} is computed by an operator", self.name)
    }
}
