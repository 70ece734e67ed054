//! COUNT, SUM, AVG, MIN, MAX, FIRST_VALUE, LAST_VALUE and LISTAGG as the planner sees them: names and Flink's types. What they compute is the operators'.

use std::hash::{Hash, Hasher};

use arrow::datatypes::DataType;
use datafusion_common::{Result, ScalarValue, not_impl_err, plan_err};
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Expr, Signature, Volatility};
use weir_operators::AggregateFunction;

use crate::parse::types::flink_name;

#[derive(Debug)]
struct FlinkAggregate {
    name: &'static str,
    function: AggregateFunction,
    signature: Signature,
}

impl PartialEq for FlinkAggregate {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for FlinkAggregate {}

impl Hash for FlinkAggregate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

/// All aggregate functions.
pub fn functions() -> Vec<AggregateUDF> {
    use AggregateFunction::{Avg, Count, FirstValue, LastValue, ListAgg, Max, Min, Sum};
    [
        ("count", Count),
        ("sum", Sum),
        ("avg", Avg),
        ("min", Min),
        ("max", Max),
        ("first_value", FirstValue),
        ("last_value", LastValue),
        ("listagg", ListAgg),
    ]
    .into_iter()
    .map(|(name, function)| {
        let signature = Signature::user_defined(Volatility::Immutable);
        AggregateUDF::new_from_impl(FlinkAggregate { name, function, signature })
    })
    .collect()
}

/// What LISTAGG puts between the texts: its second argument, which is written out. `None`: nothing is said. The error says what
/// stands there instead.
pub fn separator_of(arguments: &[Expr]) -> Result<Option<String>, &Expr> {
    let [_, separator] = arguments else { return Ok(None) };
    match separator.clone().unalias() {
        Expr::Literal(value, _) => value.try_as_str().flatten().map(|text| Some(text.to_string())).ok_or(separator),
        _ => Err(separator),
    }
}

/// Which of ours a planned aggregate is. A count of something that is never null counts rows.
pub fn function_of(udaf: &AggregateUDF, arguments: &[Expr]) -> Option<AggregateFunction> {
    use AggregateFunction::{Avg, Count, CountStar, FirstValue, LastValue, ListAgg, Max, Min, Sum};
    Some(match udaf.name() {
        "count" if matches!(arguments, [Expr::Literal(value, _)] if !value.is_null()) => CountStar,
        "count" => Count,
        "sum" => Sum,
        "avg" => Avg,
        "min" => Min,
        "max" => Max,
        "first_value" => FirstValue,
        "last_value" => LastValue,
        "listagg" => ListAgg,
        _ => return None,
    })
}

impl AggregateUDFImpl for FlinkAggregate {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.function.result_type(arguments.first()).or_else(|_| {
            let given: Vec<String> = arguments.iter().map(flink_name).collect();
            plan_err!("{} does not take {}", self.name.to_ascii_uppercase(), given.join(", "))
        })
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let name = self.name.to_ascii_uppercase();
        match arguments {
            [_] => {
                self.return_type(arguments)?;
                Ok(arguments.to_vec())
            }
            [] if self.function == AggregateFunction::Count => Ok(Vec::new()),
            [of, separator] if self.function == AggregateFunction::ListAgg => {
                self.return_type(std::slice::from_ref(of))?;
                if !separator.is_string() {
                    return plan_err!("{name} puts a text between others, and not {}", flink_name(separator));
                }
                Ok(arguments.to_vec())
            }
            more if self.function == AggregateFunction::ListAgg => {
                plan_err!("{name} takes a text and what to put between, and {} arguments are given", more.len())
            }
            more => plan_err!("{name} takes one argument, and {} are given", more.len()),
        }
    }

    fn is_nullable(&self) -> bool {
        self.function.nullable()
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        if self.function.nullable() { ScalarValue::try_from(data_type) } else { Ok(ScalarValue::Int64(Some(0))) }
    }

    fn accumulator(&self, _args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        not_impl_err!("{} is computed by an operator", self.name)
    }

    fn state_fields(&self, _args: StateFieldsArgs<'_>) -> Result<Vec<arrow::datatypes::FieldRef>> {
        Ok(Vec::new())
    }
}

/// `GROUPING(a, …)` and `GROUPING_ID`: which of its arguments a row of GROUPING SETS was grouped without.
pub const GROUPING: &str = "grouping";

#[derive(Debug, PartialEq, Eq, Hash)]
struct Grouping(Signature);

/// It is a number of the grouping before anything is computed.
pub fn grouping() -> AggregateUDF {
    AggregateUDF::new_from_impl(Grouping(Signature::variadic_any(Volatility::Immutable)))
}

impl AggregateUDFImpl for Grouping {
    fn name(&self) -> &str {
        GROUPING
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn is_nullable(&self) -> bool {
        false
    }

    fn default_value(&self, _data_type: &DataType) -> Result<ScalarValue> {
        Ok(ScalarValue::Int64(Some(0)))
    }

    fn accumulator(&self, _args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        not_impl_err!("GROUPING is a number of its GROUP BY")
    }

    fn state_fields(&self, _args: StateFieldsArgs<'_>) -> Result<Vec<arrow::datatypes::FieldRef>> {
        Ok(Vec::new())
    }
}
