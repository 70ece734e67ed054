//! Window table functions, and the relations that are refused: `FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(c), INTERVAL …))`,
//! arguments by position or by name.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion_expr::{Expr, Extension, LogicalPlan};
use datafusion_sql::sqlparser::ast::{
    self, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Spanned, TableAlias, TableFactor,
};
use weir_operators::WindowShape;

use crate::error::{Place, PlanError};
use crate::logical::columns::{Time, traits};
use crate::logical::nodes::{WINDOW_COLUMNS, WindowTvf};
use crate::parse::dialect::{PARTITION_PREFIX, TABLE_PREFIX};
use crate::parse::types::flink_name;

/// Plans what stands in FROM where DataFusion cannot.
#[derive(Debug)]
pub struct FlinkRelations;

impl RelationPlanner for FlinkRelations {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let (name, args, alias) = match relation {
            TableFactor::TableFunction { expr: ast::Expr::Function(function), alias } => {
                let args = match function.args {
                    FunctionArguments::List(list) => list.args,
                    _ => Vec::new(),
                };
                (function.name, args, alias)
            }
            TableFactor::Table { name, alias, args: Some(args), .. } => (name, args.args, alias),
            other => return Ok(RelationPlanning::Original(Box::new(other))),
        };
        plan_window(&name, args, alias, context).map_err(|error| match error {
            Refusal::Ours(error) => error.into_planner(),
            Refusal::Planner(error) => error,
        })
    }
}

enum Refusal {
    Ours(PlanError),
    Planner(datafusion_common::DataFusionError),
}

impl From<PlanError> for Refusal {
    fn from(error: PlanError) -> Self {
        Self::Ours(error)
    }
}

impl From<datafusion_common::DataFusionError> for Refusal {
    fn from(error: datafusion_common::DataFusionError) -> Self {
        Self::Planner(error)
    }
}

/// The arguments of a window function, as written.
struct Arguments {
    function: String,
    place: Place,
    positional: Vec<ast::Expr>,
    named: Vec<(Ident, ast::Expr)>,
}

impl Arguments {
    fn read(function: &str, place: Place, args: Vec<FunctionArg>) -> Result<Self, PlanError> {
        let mut read = Self { function: function.to_string(), place, positional: Vec::new(), named: Vec::new() };
        for arg in args {
            match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => read.positional.push(expr),
                FunctionArg::Named { name, arg: FunctionArgExpr::Expr(expr), .. } => read.named.push((name, expr)),
                other => {
                    let place = Place::from(other.span()).or(place);
                    return Err(PlanError::new(
                        place,
                        format!("{other} is no argument of {function}"),
                        usage(function),
                    ));
                }
            }
        }
        if !read.named.is_empty() && !read.positional.is_empty() {
            return Err(PlanError::new(
                place,
                format!("{function} has arguments with and without names"),
                "name all of them, or none",
            ));
        }
        Ok(read)
    }

    /// The argument at this position, or of one of these names.
    fn take(&mut self, names: &[&str]) -> Option<ast::Expr> {
        if let Some(found) =
            self.named.iter().position(|(name, _)| names.iter().any(|n| name.value.eq_ignore_ascii_case(n)))
        {
            return Some(self.named.remove(found).1);
        }
        (!self.positional.is_empty()).then(|| self.positional.remove(0))
    }

    fn required(&mut self, names: &[&str]) -> Result<ast::Expr, PlanError> {
        self.take(names).ok_or_else(|| {
            PlanError::new(
                self.place,
                format!("{} lacks its argument {}", self.function, names[0]),
                usage(&self.function),
            )
        })
    }

    fn finish(&self) -> Result<(), PlanError> {
        let (place, what) = match (self.named.first(), self.positional.first()) {
            (Some((name, _)), _) => (Place::from(name.span), format!("{} has no argument {name}", self.function)),
            (_, Some(expr)) => (Place::from(expr.span()), format!("{} has too many arguments", self.function)),
            _ => return Ok(()),
        };
        Err(PlanError::new(place.or(self.place), what, usage(&self.function)))
    }
}

fn usage(function: &str) -> String {
    match function {
        "HOP" => {
            "write HOP(TABLE t, DESCRIPTOR(time_column), INTERVAL '1' MINUTE, INTERVAL '5' MINUTE): first the slide, then the size"
        }
        "CUMULATE" => {
            "write CUMULATE(TABLE t, DESCRIPTOR(time_column), INTERVAL '1' MINUTE, INTERVAL '1' HOUR): first the step, then the size"
        }
        "SESSION" => "write SESSION(TABLE t PARTITION BY key, DESCRIPTOR(time_column), INTERVAL '1' MINUTE)",
        _ => "write TUMBLE(TABLE t, DESCRIPTOR(time_column), INTERVAL '1' MINUTE)",
    }
    .to_string()
}

fn plan_window(
    name: &ObjectName,
    args: Vec<FunctionArg>,
    alias: Option<TableAlias>,
    context: &mut dyn RelationPlannerContext,
) -> Result<RelationPlanning, Refusal> {
    let place = Place::from(name.span());
    let function = name.to_string().to_ascii_uppercase();
    if !matches!(function.as_str(), "TUMBLE" | "HOP" | "CUMULATE" | "SESSION") {
        return Err(PlanError::new(
            place,
            format!("there is no table function {name}"),
            "the table functions are TUMBLE, HOP, CUMULATE and SESSION",
        )
        .into());
    }
    let mut args = Arguments::read(&function, place, args)?;
    let (data, partition) = partitioned(args.required(&["DATA"])?);
    if !partition.is_empty() && function != "SESSION" {
        return Err(PlanError::new(
            place,
            format!("{function} has no PARTITION BY: its windows are the same for all rows"),
            "leave it out, and GROUP BY the columns",
        )
        .into());
    }
    let descriptor = args.required(&["TIMECOL"])?;
    let (shape, size_place) = window_shape(&mut args, context)?;
    let input = plan_data(data, place, &function, context)?;
    shape.check().map_err(|error| PlanError::new(size_place, error.to_string(), usage(&function)))?;
    let partition = partition
        .into_iter()
        .map(|column| {
            let planned = context.sql_to_expr(column, input.schema())?;
            let Expr::Column(named) = &planned else { return Ok(planned) };
            let (qualifier, field) = input.schema().qualified_field(input.schema().index_of_column(named)?);
            Ok(Expr::Column(datafusion_common::Column::new(qualifier.cloned(), field.name())))
        })
        .collect::<Result<Vec<Expr>>>()?;

    let (time, kind) = time_column(&descriptor, place, &function, &input, context)?;
    for column in WINDOW_COLUMNS {
        if input.schema().has_column_with_unqualified_name(column) {
            return Err(PlanError::new(
                place,
                format!("the rows that {function} windows have a column {column} already"),
                "give it another name with AS in a view, and window that",
            )
            .into());
        }
    }
    let time = (kind == Time::Event).then_some(time);
    let node = WindowTvf::new(Arc::new(input), partition, time, kind, shape, place)?;
    let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
    Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
}

/// The rows, and the columns that they are partitioned by.
fn partitioned(data: ast::Expr) -> (ast::Expr, Vec<ast::Expr>) {
    match data {
        ast::Expr::Prefixed { prefix, value } if prefix.value == PARTITION_PREFIX => match *value {
            ast::Expr::Tuple(mut all) if !all.is_empty() => {
                let data = all.remove(0);
                (data, all)
            }
            other => (other, Vec::new()),
        },
        other => (other, Vec::new()),
    }
}

/// The lengths of a window, and where the size stands.
fn window_shape(
    args: &mut Arguments,
    context: &mut dyn RelationPlannerContext,
) -> Result<(WindowShape, Place), Refusal> {
    let place = args.place;
    let function = args.function.clone();
    let slide = match function.as_str() {
        "HOP" => Some(args.required(&["SLIDE"])?),
        "CUMULATE" => Some(args.required(&["STEP"])?),
        _ => None,
    };
    let size = args.required(if function == "SESSION" { &["GAP"] } else { &["SIZE"] })?;
    let offset = if function == "SESSION" { None } else { args.take(&["OFFSET"]) };
    args.finish()?;
    let size_place = Place::from(size.span()).or(place);
    let size = millis(size, place, context)?;
    let slide = slide.map(|slide| millis(slide, place, context)).transpose()?.unwrap_or(size);
    let offset = offset.map(|offset| millis(offset, place, context)).transpose()?.unwrap_or(0);
    let shape = match function.as_str() {
        "SESSION" => WindowShape::session(size),
        "CUMULATE" => WindowShape::cumulate(slide, size),
        _ => WindowShape::hop(slide, size),
    };
    Ok((shape.with_offset(offset), size_place))
}

/// `TABLE t`, or a query that the older syntax was rewritten to.
fn plan_data(
    data: ast::Expr,
    place: Place,
    function: &str,
    context: &mut dyn RelationPlannerContext,
) -> Result<LogicalPlan, Refusal> {
    let relation = match data {
        ast::Expr::Prefixed { prefix, value } if prefix.value == TABLE_PREFIX => match *value {
            ast::Expr::CompoundIdentifier(parts) => table_factor(parts),
            ast::Expr::Subquery(subquery) => {
                TableFactor::Derived { lateral: false, subquery, alias: None, sample: None }
            }
            _ => return Err(PlanError::new(place, format!("{function} windows a table"), usage(function)).into()),
        },
        other => {
            let place = Place::from(other.span()).or(place);
            return Err(PlanError::new(place, format!("{other} is no table"), usage(function)).into());
        }
    };
    Ok(context.plan(relation)?)
}

/// A table or view by name.
pub fn table_factor(parts: Vec<Ident>) -> TableFactor {
    TableFactor::Table {
        name: ObjectName::from(parts),
        alias: None,
        args: None,
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    }
}

/// A constant interval in milliseconds.
fn millis(expr: ast::Expr, place: Place, context: &mut dyn RelationPlannerContext) -> Result<i64, Refusal> {
    let place = Place::from(expr.span()).or(place);
    let text = expr.to_string();
    let planned = context.sql_to_expr(expr, &datafusion_common::DFSchema::empty())?;
    let refused = |remedy: &str| PlanError::new(place, format!("{text} is no length of a window"), remedy);
    match &planned {
        Expr::Literal(value, _) if matches!(value.data_type(), DataType::Interval(_)) => {
            interval_millis(value).ok_or_else(|| refused("write one in days or less: months differ in length").into())
        }
        _ => Err(refused("write an interval, as INTERVAL '10' SECOND").into()),
    }
}

/// A constant interval in milliseconds; none if it is in months, or finer than a millisecond.
pub fn interval_millis(value: &ScalarValue) -> Option<i64> {
    match value {
        ScalarValue::IntervalMonthDayNano(Some(interval)) if interval.months == 0 => {
            let days = i64::from(interval.days).checked_mul(86_400_000)?;
            (interval.nanoseconds % 1_000_000 == 0)
                .then(|| days.checked_add(interval.nanoseconds / 1_000_000))
                .flatten()
        }
        ScalarValue::IntervalDayTime(Some(interval)) => {
            i64::from(interval.days).checked_mul(86_400_000)?.checked_add(i64::from(interval.milliseconds))
        }
        _ => None,
    }
}

/// `DESCRIPTOR(c)`: the column, which must be a time attribute.
fn time_column(
    descriptor: &ast::Expr,
    place: Place,
    function: &str,
    input: &LogicalPlan,
    context: &mut dyn RelationPlannerContext,
) -> Result<(Expr, Time), Refusal> {
    let at = Place::from(descriptor.span()).or(place);
    let wrong = || PlanError::new(at, format!("{descriptor} is no DESCRIPTOR of one column"), usage(function));
    let ast::Expr::Function(call) = descriptor else { return Err(wrong().into()) };
    if !call.name.to_string().eq_ignore_ascii_case("DESCRIPTOR") {
        return Err(wrong().into());
    }
    let FunctionArguments::List(list) = &call.args else { return Err(wrong().into()) };
    let [FunctionArg::Unnamed(FunctionArgExpr::Expr(column))] = list.args.as_slice() else {
        return Err(wrong().into());
    };
    let at = Place::from(column.span()).or(at);
    let planned = context.sql_to_expr(column.clone(), input.schema())?;
    let Expr::Column(named) = &planned else { return Err(wrong().into()) };
    let index = input.schema().index_of_column(named)?;
    let Some(kind) = traits(input)[index].time else {
        let data_type = flink_name(input.schema().field(index).data_type());
        return Err(PlanError::new(
            at,
            format!("the column {} ({data_type}) is no time attribute", named.name()),
            format!(
                "declare WATERMARK FOR {0} AS {0} - INTERVAL '5' SECOND in its table, or take a column PROCTIME()",
                named.name()
            ),
        )
        .into());
    };
    let (qualifier, field) = input.schema().qualified_field(index);
    Ok((Expr::Column(datafusion_common::Column::new(qualifier.cloned(), field.name())), kind))
}
