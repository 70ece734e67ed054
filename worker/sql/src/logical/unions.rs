//! What the queries of a UNION must have in common: their columns are of like types, as Flink has it. Numbers become the widest of them;
//! a text and a number are refused.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::TreeNodeRecursion;
use datafusion_common::{JoinType, NullEquality, Result};
use datafusion_expr::LogicalPlan;
use datafusion_optimizer::AnalyzerRule;

use crate::error::Place;
use crate::names::catalog::refuse;
use crate::parse::types::flink_name;

/// Refuses a UNION of unlike columns, before a library makes them texts.
#[derive(Debug)]
pub struct SameTypes;

impl AnalyzerRule for SameTypes {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        plan.apply_with_subqueries(|plan| {
            match plan {
                LogicalPlan::Union(union) => check("UNION", &union.inputs)?,
                // INTERSECT and EXCEPT: what they compare are all columns, and a null equals a null.
                LogicalPlan::Join(join)
                    if join.null_equality == NullEquality::NullEqualsNull && !join.on.is_empty() =>
                {
                    let name = if join.join_type == JoinType::LeftSemi { "INTERSECT" } else { "EXCEPT" };
                    check(name, &[Arc::clone(&join.left), Arc::clone(&join.right)])?;
                }
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(plan)
    }

    fn name(&self) -> &'static str {
        "same_types"
    }
}

fn check(name: &str, inputs: &[Arc<LogicalPlan>]) -> Result<()> {
    let Some((first, others)) = inputs.split_first() else { return Ok(()) };
    for other in others {
        for (column, (one, other)) in first.schema().fields().iter().zip(other.schema().fields()).enumerate() {
            if !alike(one.data_type(), other.data_type()) {
                let (one_type, other_type) = (flink_name(one.data_type()), flink_name(other.data_type()));
                return Err(refuse(
                    Place::default(),
                    format!(
                        "column {} of the {name} is {one_type} in one query ({}) and {other_type} in another ({})",
                        column + 1,
                        one.name(),
                        other.name()
                    ),
                    format!("write CAST({} AS {one_type})", other.name()),
                ));
            }
        }
    }
    Ok(())
}

/// Whether a column can be of both types.
pub fn alike(one: &DataType, other: &DataType) -> bool {
    let both = |is: fn(&DataType) -> bool| is(one) && is(other);
    one == other
        || one.is_null()
        || other.is_null()
        || both(DataType::is_numeric)
        || both(|of| matches!(of, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View))
        || both(|of| matches!(of, DataType::Binary | DataType::LargeBinary | DataType::BinaryView))
        || both(|of| matches!(of, DataType::Timestamp(..)))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::TimeUnit;

    use super::*;

    #[test]
    fn numbers_are_alike_and_so_are_timestamps_but_not_a_number_and_a_text() {
        let millis = DataType::Timestamp(TimeUnit::Millisecond, None);
        let cases = [
            (DataType::Int32, DataType::Decimal128(10, 2), true),
            (DataType::Int32, DataType::Float64, true),
            (DataType::Null, DataType::Utf8, true),
            (millis.clone(), DataType::Timestamp(TimeUnit::Microsecond, None), true),
            (DataType::Int32, DataType::Utf8, false),
            (millis.clone(), DataType::Utf8, false),
            (millis, DataType::Date32, false),
            (DataType::Boolean, DataType::Int32, false),
        ];
        for (one, other, expected) in cases {
            assert_eq!((alike(&one, &other), alike(&other, &one)), (expected, expected), "{one} and {other}");
        }
    }
}
