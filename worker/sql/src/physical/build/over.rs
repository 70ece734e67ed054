//! `… OVER (PARTITION BY … ORDER BY time …)`: one operator for each partition, order and frame.

use std::sync::Arc;

use arrow::array::ArrayRef;
use datafusion_common::{Column, ScalarValue};
use datafusion_expr::expr::WindowFunctionParams;
use datafusion_expr::{Expr, Window, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition};
use weir_engine::Exchange;
use weir_operators::{AggregateFunction, AggregateSpec, OverCall, OverFrame, OverSpec, TimeSource};

use crate::error::{Place, PlanError};
use crate::identity::{Identity, Meaning, list};
use crate::logical::columns::{Time, of_expr, traits};
use crate::logical::optimize::place_of;
use crate::logical::tvf::interval_millis;
use crate::names::functions::aggregate::function_of;
use crate::physical::build::aggregate::{Exprs, aggregate_text, spec_error};
use crate::physical::build::rows::Rows;
use crate::physical::build::{Builder, Built};
use crate::physical::lineage::{Lineage, names};
use crate::physical::ops::{Op, duration, over};
use crate::physical::tree::NewNode;

const ORDER: &str =
    "order by the column that has the WATERMARK, or by a PROCTIME() column: OVER (PARTITION BY … ORDER BY t)";

/// Calls of one frame.
struct Over {
    partition: Vec<usize>,
    time: TimeSource,
    frame: OverFrame,
    /// With their places among all.
    calls: Vec<(usize, OverCall)>,
    place: Place,
}

impl Builder<'_> {
    pub(super) fn over(&mut self, window: &Window) -> Built<Rows> {
        let input = &window.input;
        let rows = self.rows(input)?;
        self.refuse_updating(&rows, "OVER", place_of(window.window_expr.iter()))?;
        let width = input.schema().fields().len();
        let mut exprs = Exprs::of(input.schema().iter().map(|field| Expr::Column(Column::from(field))).collect());
        let mut all: Vec<Over> = Vec::new();
        for (at, expr) in window.window_expr.iter().enumerate() {
            let name = window.schema.field(width + at).name();
            let one = self.over_call(expr, name, window, &mut exprs, at)?;
            let same = |of: &&mut Over| (&of.partition, of.time, of.frame) == (&one.partition, one.time, one.frame);
            match all.iter_mut().find(same) {
                Some(of) => of.calls.extend(one.calls),
                None => all.push(one),
            }
        }
        let mut rows = self.columns_of(rows, exprs, input.schema())?;
        let columns = self.schema(&rows).fields().len();
        let mut places = vec![0; window.window_expr.len()];
        let mut next = columns;
        for of in all {
            for (place, _) in &of.calls {
                places[*place] = next;
                next += 1;
            }
            rows = self.over_node(&rows, of)?;
        }
        let order: Vec<usize> = (0..width).chain(places).collect();
        self.project(rows, None, |builder, branch| {
            Ok(order.iter().map(|&column| builder.pass(branch, column)).collect())
        })
    }

    /// One call, with the rows that it sees.
    fn over_call(&self, expr: &Expr, name: &str, window: &Window, exprs: &mut Exprs, at: usize) -> Built<Over> {
        let Expr::WindowFunction(call) = expr.clone().unalias_nested().data else {
            return Err(self.refused(self.place, "this expression over rows", "write an aggregate with OVER"));
        };
        let params = &call.params;
        let place =
            place_of(params.partition_by.iter().chain(params.order_by.iter().map(|sort| &sort.expr)).chain([expr]));
        let called = call.fun.name().to_ascii_uppercase();
        let [sort] = params.order_by.as_slice() else {
            return Err(self.refused(
                place,
                &format!("{called} OVER rows that are not ordered by one time attribute"),
                ORDER,
            ));
        };
        let known = traits(&window.input);
        let kind = of_expr(&sort.expr, &window.input, &known).time;
        let Some(kind) = kind.filter(|_| sort.asc) else {
            let what = if sort.asc { "is no time attribute" } else { "is descending" };
            return Err(PlanError::new(
                place_of([&sort.expr].into_iter()).or(place).or(self.place),
                format!("the order of {called} OVER {what}"),
                ORDER,
            ));
        };
        if params.distinct || params.null_treatment.is_some() {
            return Err(self.refused(place, &format!("DISTINCT and IGNORE NULLS in {called} OVER"), "leave it out"));
        }
        let time = match kind {
            Time::Event => TimeSource::Event(exprs.column_of(&sort.expr)),
            Time::Processing => TimeSource::Processing,
        };
        let partition = params.partition_by.iter().map(|key| exprs.column_of(key)).collect();
        let (call, fixed) = self.over_function(&call.fun, params, name, exprs, place)?;
        let frame = match fixed {
            Some(frame) => frame,
            None => self.over_frame(&params.window_frame, place)?,
        };
        Ok(Over { partition, time, frame, calls: vec![(at, call)], place: place.or(self.place) })
    }

    /// What is computed, and the frame of what has one of its own, whatever is written. As in Flink LAG goes by RANGE: rows of one time are
    /// as one.
    fn over_function(
        &self,
        function: &WindowFunctionDefinition,
        params: &WindowFunctionParams,
        name: &str,
        exprs: &mut Exprs,
        place: Place,
    ) -> Built<(OverCall, Option<OverFrame>)> {
        let filter = params.filter.as_deref().map(|filter| exprs.column_of(filter));
        match function {
            WindowFunctionDefinition::AggregateUDF(aggregate) => {
                let Some(function) = function_of(aggregate, &params.args) else {
                    return Err(self.refused(
                        place,
                        &format!("{} OVER", aggregate.name()),
                        "write COUNT, SUM, AVG, MIN or MAX",
                    ));
                };
                if function == AggregateFunction::ListAgg {
                    return Err(self.refused(place, "LISTAGG OVER", "write it with GROUP BY"));
                }
                let argument = (function != AggregateFunction::CountStar).then(|| params.args.first()).flatten();
                let spec = AggregateSpec {
                    name: name.to_string(),
                    function,
                    argument: argument.map(|argument| exprs.column_of(argument)),
                    distinct: false,
                    filter,
                    separator: None,
                };
                Ok((OverCall::Aggregate(spec), None))
            }
            WindowFunctionDefinition::WindowUDF(function) => match function.name() {
                "row_number" => Ok((OverCall::Aggregate(AggregateSpec::count_star(name)), Some(OverFrame::Rows(None)))),
                "lag" => Ok((self.lag(params, name, exprs, place)?, Some(OverFrame::Range(None)))),
                "lead" => Err(self.refused(
                    place,
                    "LEAD, which would wait for a row that may never come,",
                    "use LAG from the other row, or join the rows",
                )),
                other => {
                    let what = format!("{} OVER as a column", other.to_ascii_uppercase());
                    Err(self.refused(
                        place,
                        &what,
                        "write ROW_NUMBER(), or keep the first n rows: WHERE rownum <= n around it",
                    ))
                }
            },
        }
    }

    fn lag(&self, params: &WindowFunctionParams, name: &str, exprs: &mut Exprs, place: Place) -> Built<OverCall> {
        let wrong =
            |what: &str| PlanError::new(place.or(self.place), what, "write LAG(column, 1) or LAG(column, 1, 0)");
        let Some(value) = params.args.first() else { return Err(wrong("LAG lacks its column")) };
        let offset = match params.args.get(1) {
            None => 1,
            Some(Expr::Literal(number, _)) => match number.cast_to(&arrow::datatypes::DataType::UInt64) {
                Ok(ScalarValue::UInt64(Some(number))) => number,
                _ => return Err(wrong("the offset of LAG is no number of rows")),
            },
            Some(_) => return Err(wrong("the offset of LAG must be a constant")),
        };
        let column = exprs.column_of(value);
        let default: Option<ScalarValue> = match params.args.get(2).map(strip_cast) {
            None => None,
            Some(Expr::Literal(default, _)) if default.is_null() => None,
            Some(Expr::Literal(default, _)) => Some(default.clone()),
            Some(_) => return Err(wrong("the default of LAG must be a constant")),
        };
        // Of which type it has to be is known once the columns are there.
        let default = default.map(|default| self.planner(default.to_array())).transpose()?;
        Ok(OverCall::Lag { name: name.to_string(), column, offset, default })
    }

    fn over_frame(&self, frame: &WindowFrame, place: Place) -> Built<OverFrame> {
        let refused = |what: String| {
            let remedy = "write ROWS BETWEEN 10 PRECEDING AND CURRENT ROW, or RANGE BETWEEN INTERVAL '1' HOUR PRECEDING AND CURRENT ROW";
            PlanError::new(place.or(self.place), what, remedy)
        };
        if frame.end_bound != WindowFrameBound::CurrentRow {
            return Err(refused("rows after the current one are not seen OVER rows that never end".to_string()));
        }
        let bound = match &frame.start_bound {
            WindowFrameBound::CurrentRow => Some(None),
            WindowFrameBound::Preceding(bound) if bound.is_null() => None,
            WindowFrameBound::Preceding(bound) => Some(Some(bound)),
            WindowFrameBound::Following(_) => {
                return Err(refused("the frame of OVER begins after the current row".to_string()));
            }
        };
        match (frame.units, bound) {
            (WindowFrameUnits::Rows, None) => Ok(OverFrame::Rows(None)),
            (WindowFrameUnits::Range, None) => Ok(OverFrame::Range(None)),
            (WindowFrameUnits::Rows, Some(None)) => Ok(OverFrame::Rows(Some(0))),
            (WindowFrameUnits::Range, Some(None)) => Ok(OverFrame::Range(Some(0))),
            (WindowFrameUnits::Rows, Some(Some(bound))) => match bound.cast_to(&arrow::datatypes::DataType::UInt64) {
                Ok(ScalarValue::UInt64(Some(bound))) => Ok(OverFrame::Rows(Some(bound))),
                _ => Err(refused(format!("{bound} is no number of rows"))),
            },
            (WindowFrameUnits::Range, Some(Some(bound))) => match interval_millis(bound).filter(|bound| *bound >= 0) {
                Some(bound) => Ok(OverFrame::Range(Some(bound))),
                None => Err(refused(format!("{bound} is no length of time"))),
            },
            (WindowFrameUnits::Groups, _) => Err(refused("GROUPS in OVER is not supported".to_string())),
        }
    }

    fn over_node(&mut self, rows: &Rows, of: Over) -> Built<Rows> {
        let Over { partition, time, frame, calls, place } = of;
        let input = self.schema(rows);
        let calls = calls.into_iter().map(|(_, call)| typed(call, &input, place)).collect::<Built<Vec<OverCall>>>()?;
        let spec = OverSpec { input: Arc::clone(&input), partition: partition.clone(), time, frame, calls };
        let schema = over(&spec).map_err(|error| spec_error(&error, place))?.output;
        let Lineage { mut columns, rows: below, filters } = self.lineage(rows);
        let meaning = |call: &OverCall| match call {
            OverCall::Aggregate(one) => Meaning::of(|of| aggregate_text(one, |column| of(&columns[column]))),
            OverCall::Lag { column, offset, default, .. } => Meaning::of(|of| {
                let default = default.as_ref().map_or_else(String::new, |default| format!(", {default:?}"));
                format!("LAG({}, {offset}{default})", of(&columns[*column]))
            }),
        };
        let meanings: Vec<Meaning> = spec.calls.iter().map(meaning).collect();
        let by = list(partition.iter().map(|&column| &columns[column]));
        let order = match time {
            TimeSource::Event(column) => columns[column].clone(),
            TimeSource::Processing => Meaning::same("processing time"),
        };
        let frame_of = |millis: i64| format!("{millis} ms");
        let window = frame_text(frame, frame_of);
        let of = Meaning::of(|of| format!("{} OVER {} BY {} {window}", of(&below), of(&by), of(&order)));
        let identity = Identity::of("over", &self.owner, &[&of, &list(&meanings)]);
        let by = names(partition.iter().map(|&column| input.field(column)));
        let by = if by.is_empty() { by } else { format!("by {by}, ") };
        let what = spec.calls.iter().map(|call| match call {
            OverCall::Aggregate(one) => aggregate_text(one, |column| input.field(column).name()),
            OverCall::Lag { column, offset, .. } => format!("LAG({}, {offset})", input.field(*column).name()),
        });
        let what = what.collect::<Vec<_>>().join(", ");
        let name = format!("OverAggregate({by}{}: {what})", frame_text(frame, duration));
        columns.extend(meanings);
        let exchange = if partition.is_empty() { Exchange::Single } else { Exchange::Hash { keys: partition } };
        let exchange = self.exchange(rows, exchange, &identity);
        let width = schema.fields().len();
        let node = self.add(NewNode {
            op: Op::Over(Box::new(spec)),
            inputs: vec![exchange],
            schema,
            lineage: Lineage { columns, rows: of, filters },
            identity,
            name,
            place,
        });
        Ok(Rows::all(node, width))
    }
}

/// Gives a default the type of its column.
fn typed(call: OverCall, input: &arrow::datatypes::Schema, place: Place) -> Built<OverCall> {
    match call {
        OverCall::Lag { name, column, offset, default: Some(default) } => {
            let data_type = input.field(column).data_type();
            let cast: ArrayRef = arrow::compute::cast(&default, data_type).map_err(|error| {
                PlanError::new(
                    place,
                    format!("the default of LAG is not of its column's type: {error}"),
                    "write it as the column's type",
                )
            })?;
            Ok(OverCall::Lag { name, column, offset, default: Some(cast) })
        }
        other => Ok(other),
    }
}

fn strip_cast(expr: &Expr) -> &Expr {
    match expr {
        Expr::Cast(cast) => strip_cast(&cast.expr),
        Expr::Alias(alias) => strip_cast(&alias.expr),
        other => other,
    }
}

fn frame_text(frame: OverFrame, duration: impl Fn(i64) -> String) -> String {
    match frame {
        OverFrame::Rows(None) => "ROWS UNBOUNDED PRECEDING".to_string(),
        OverFrame::Range(None) => "RANGE UNBOUNDED PRECEDING".to_string(),
        OverFrame::Rows(Some(bound)) => format!("ROWS {bound} PRECEDING"),
        OverFrame::Range(Some(bound)) => format!("RANGE {} PRECEDING", duration(bound)),
    }
}
