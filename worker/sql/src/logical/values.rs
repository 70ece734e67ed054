//! VALUES: each column has one type for all its rows. Numbers become the widest of them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion_common::{DFSchema, Result};
use datafusion_expr::type_coercion::binary::type_union_resolution;
use datafusion_expr::{Expr, ExprSchemable, LogicalPlan, Values};
use datafusion_optimizer::AnalyzerRule;

use crate::error::Place;
use crate::logical::exprs::cast_to;
use crate::logical::unions::alike;
use crate::names::catalog::refuse;
use crate::parse::types::flink_name;

/// Types VALUES anew, after whole numbers have got Flink's types.
#[derive(Debug)]
pub struct TypedValues;

impl AnalyzerRule for TypedValues {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up(|plan| match plan {
            LogicalPlan::Values(values) => Ok(Transformed::yes(LogicalPlan::Values(typed(values)?))),
            other => other.recompute_schema().map(Transformed::yes),
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "typed_values"
    }
}

fn typed(values: Values) -> Result<Values> {
    let none = DFSchema::empty();
    let mut columns: Vec<Vec<Expr>> = vec![Vec::new(); values.schema.fields().len()];
    for row in values.values {
        row.into_iter().zip(&mut columns).for_each(|(value, column)| column.push(value));
    }
    let mut fields = Vec::with_capacity(columns.len());
    for (index, column) in columns.iter_mut().enumerate() {
        let types = column.iter().map(|value| value.get_type(&none)).collect::<Result<Vec<DataType>>>()?;
        if let Some(other) = types.iter().find(|other| !alike(&types[0], other)) {
            let (one, other) = (flink_name(&types[0]), flink_name(other));
            return Err(refuse(
                Place::default(),
                format!("column {} of the VALUES is {one} in one row and {other} in another", index + 1),
                format!("write CAST(… AS {one})"),
            ));
        }
        let known: Vec<DataType> = types.iter().filter(|of| !of.is_null()).cloned().collect();
        let together = type_union_resolution(&known).unwrap_or(DataType::Null);
        for value in column.iter_mut() {
            *value = cast_to(std::mem::take(value), &together, &none)?;
        }
        let (_, field) = values.schema.qualified_field(index);
        let nullable = column.iter().any(|value| value.nullable(&none).unwrap_or(true));
        fields.push(Field::new(field.name(), together, nullable));
    }
    let schema = Arc::new(DFSchema::from_unqualified_fields(fields.into(), std::collections::HashMap::new())?);
    let rows = columns.first().map_or(0, Vec::len);
    let mut columns: Vec<_> = columns.into_iter().map(Vec::into_iter).collect();
    let values = (0..rows).map(|_| columns.iter_mut().filter_map(Iterator::next).collect()).collect();
    Ok(Values { schema, values })
}
