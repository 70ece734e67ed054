//! Functions whose results are of any length, held to a size before they are computed: a value of 64 MiB, all values of a batch
//! together, and a constant of 1 MiB. Whose functions they are makes no difference: each is held by its name.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use arrow::util::display::array_value_to_string;
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion_common::{DFSchema, Result, ScalarValue, plan_err};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion_expr::{
    ColumnarValue, Expr, ExprSchemable, ExpressionPlacement, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion_functions::string;
use weir_operators::{MAX_VALUE, Oversized};

use super::{Functions, java_regex};

/// Bytes of a constant: it is folded when the script is planned, and stands in the plan.
pub const MAX_CONSTANT: u64 = 1 << 20;

/// Bytes of one character at most.
const CHARACTER: u64 = 4;

/// Arguments that an error tells, and characters of each.
const ARGUMENTS: usize = 5;
const TOLD: usize = 40;

/// How much a function makes of its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Growth {
    /// `REPEAT(text, times)`.
    Repeat,
    /// `LPAD(text, characters[, with])`, `RPAD`.
    Pad,
    /// `REPLACE(text, what, by)`.
    Replace,
    /// `REGEXP_REPLACE(text, pattern, by)`: what stands for a match is put in as it is.
    Rewrite,
    /// All arguments one after the other.
    Join,
    /// All arguments, with the first between each two.
    JoinWith,
}

/// Those that there are. What is not here gives a few times of what it is given at most.
const GROWING: [(&str, Growth); 7] = [
    ("repeat", Growth::Repeat),
    ("lpad", Growth::Pad),
    ("rpad", Growth::Pad),
    ("replace", Growth::Replace),
    ("regexp_replace", Growth::Rewrite),
    ("concat", Growth::Join),
    ("concat_ws", Growth::JoinWith),
];

fn growth(name: &str) -> Option<Growth> {
    GROWING.iter().find(|(growing, _)| *growing == name).map(|(_, growth)| *growth)
}

/// A function that is held to a size.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    growth: Growth,
}

/// Holds those that a script can call.
pub fn hold(functions: &mut Functions) {
    for function in functions.scalar.values_mut() {
        if let Some(growth) = growth(function.name()) {
            *function = bounded(Arc::clone(function), growth);
        }
    }
}

/// Holds values that are filled to one length.
pub fn all_of_one_length(function: &str, rows: usize, length: usize) -> Result<()> {
    let bytes = (rows as u64).saturating_mul(length as u64);
    if bytes <= MAX_VALUE {
        return Ok(());
    }
    Err(Oversized::Batch { function: function.to_string(), rows, bytes }.into_expression_error())
}

fn bounded(inner: Arc<ScalarUDF>, growth: Growth) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Bounded { inner, growth }))
}

/// Holds what is about to be compiled: `||`, and the functions that calls were rewritten to.
pub fn held(expr: &Expr, schema: &DFSchema) -> Result<Expr> {
    let written = [string::concat(), string::concat_ws()];
    let is_written = |function: &ScalarUDF| written.iter().any(|written| written.as_ref() == function);
    let grows = |expr: &Expr| match expr {
        Expr::BinaryExpr(binary) => binary.op == Operator::StringConcat,
        Expr::ScalarFunction(call) => is_written(&call.func),
        _ => false,
    };
    if !expr.exists(|expr| Ok(grows(expr)))? {
        return Ok(expr.clone());
    }
    expr.clone()
        .transform_down(|expr| {
            let call = match &expr {
                Expr::BinaryExpr(binary) if binary.op == Operator::StringConcat => {
                    // A chain becomes one call: as many within each other would copy their beginnings as often as it is long.
                    let mut operands = Vec::new();
                    collect_operands(&expr, &mut operands);
                    let mut texts = true;
                    for operand in &operands {
                        texts &= operand.get_type(schema)? == DataType::Utf8;
                    }
                    let function = || ScalarUDF::new_from_impl(Concat(Signature::user_defined(Volatility::Immutable)));
                    texts.then(|| (function(), Growth::Join, operands.into_iter().cloned().collect()))
                }
                Expr::ScalarFunction(call) if is_written(&call.func) => {
                    let growth = growth(call.name()).unwrap_or(Growth::Join);
                    Some((call.func.as_ref().clone(), growth, call.args.clone()))
                }
                _ => None,
            };
            Ok(match call {
                Some((function, growth, args)) => {
                    let function = bounded(Arc::new(function), growth);
                    Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(function, args)))
                }
                None => Transformed::no(expr),
            })
        })
        .data()
}

/// What `a || b || …` joins, in order.
fn collect_operands<'e>(expr: &'e Expr, operands: &mut Vec<&'e Expr>) {
    match expr {
        Expr::BinaryExpr(binary) if binary.op == Operator::StringConcat => {
            collect_operands(&binary.left, operands);
            collect_operands(&binary.right, operands);
        }
        operand => operands.push(operand),
    }
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let constants: Option<Vec<_>> = args.scalar_arguments.iter().copied().collect();
        if let Some(constants) = constants {
            let args = constants.into_iter().map(|value| ColumnarValue::Scalar(value.clone())).collect::<Vec<_>>();
            if let Some(Oversized::Value { call, bytes, .. }) = self.excess(&Arguments::new(&args, 1)?, MAX_CONSTANT) {
                return plan_err!("{call} is a constant of {bytes} bytes, and {MAX_CONSTANT} are the most");
            }
        }
        if self.growth == Growth::Pad
            && let Some(Some(width)) = args.scalar_arguments.get(1)
            && let Ok(Some(width)) = width.cast_to(&DataType::Int64).map(|width| as_width(&width))
            && width > MAX_VALUE
        {
            return plan_err!("{} to {width} characters: a value has {MAX_VALUE} bytes at most", self.upper());
        }
        self.inner.return_field_from_args(args)
    }

    fn is_strict(&self) -> bool {
        self.inner.inner().is_strict()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let most = if constant { MAX_CONSTANT } else { MAX_VALUE };
        match self.excess(&Arguments::new(&args.args, rows)?, most) {
            Some(oversized) => Err(oversized.into_expression_error()),
            None => self.inner.invoke_with_args(args),
        }
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner.inner().simplify(args, info)
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.inner().coerce_types(arguments)
    }

    fn short_circuits(&self) -> bool {
        self.inner.short_circuits()
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        self.inner.inner().placement(args)
    }
}

fn as_width(value: &ScalarValue) -> Option<u64> {
    match value {
        ScalarValue::Int64(Some(width)) => u64::try_from(*width).ok(),
        _ => None,
    }
}

/// The arguments of a call: columns, and constants, which have one row.
struct Arguments {
    arrays: Vec<(ArrayRef, bool)>,
    rows: usize,
}

impl Arguments {
    fn new(args: &[ColumnarValue], rows: usize) -> Result<Self> {
        let array = |arg: &ColumnarValue| match arg {
            ColumnarValue::Scalar(value) => Ok((value.to_array()?, true)),
            ColumnarValue::Array(array) => Ok((Arc::clone(array), false)),
        };
        Ok(Self { arrays: args.iter().map(array).collect::<Result<_>>()?, rows })
    }

    /// The value at a row: none for NULL, and for what there is not.
    fn at(&self, position: usize, row: usize) -> Option<(&ArrayRef, usize)> {
        let (array, constant) = self.arrays.get(position)?;
        let row = if *constant { 0 } else { row };
        (row < array.len() && array.is_valid(row)).then_some((array, row))
    }

    fn text(&self, position: usize, row: usize) -> Option<&str> {
        let (array, row) = self.at(position, row)?;
        match array.data_type() {
            DataType::Utf8 => Some(array.as_string::<i32>().value(row)),
            DataType::LargeUtf8 => Some(array.as_string::<i64>().value(row)),
            DataType::Utf8View => Some(array.as_string_view().value(row)),
            _ => None,
        }
    }

    fn number(&self, position: usize, row: usize) -> Option<u64> {
        let (array, row) = self.at(position, row)?;
        let number = match array.data_type() {
            DataType::Int64 => array.as_primitive::<Int64Type>().value(row),
            DataType::Int32 => array.as_primitive::<arrow::datatypes::Int32Type>().value(row).into(),
            _ => return None,
        };
        Some(u64::try_from(number).unwrap_or(0))
    }

    /// Shortened, for an error.
    fn told(&self, row: usize) -> String {
        let one = |position: usize| {
            let Some((array, row)) = self.at(position, row) else { return "NULL".to_string() };
            // A long text would be copied whole to be shown in part.
            let text = match self.text(position, row) {
                Some(text) => text.chars().take(TOLD + 1).collect(),
                None => array_value_to_string(array, row).unwrap_or_default(),
            };
            if text.chars().count() > TOLD {
                format!("{}…", text.chars().take(TOLD).collect::<String>())
            } else {
                text
            }
        };
        let more = if self.arrays.len() > ARGUMENTS { ", …" } else { "" };
        (0..self.arrays.len().min(ARGUMENTS)).map(one).collect::<Vec<_>>().join(", ") + more
    }
}

impl Bounded {
    fn upper(&self) -> String {
        self.inner.name().to_ascii_uppercase()
    }

    /// What is too much of these, if anything is: of one row, or of all together.
    fn excess(&self, args: &Arguments, most: u64) -> Option<Oversized> {
        let mut sum = 0_u64;
        for row in 0..args.rows {
            let mut bytes = self.at_most(args, row);
            if bytes > most {
                bytes = self.nearly(args, row).min(bytes);
            }
            if bytes > most {
                let call = format!("{}({})", self.upper(), args.told(row));
                return Some(Oversized::Value { call, row: row + 1, rows: args.rows, bytes });
            }
            sum = sum.saturating_add(bytes);
        }
        (sum > MAX_VALUE).then(|| Oversized::Batch { function: self.upper(), rows: args.rows, bytes: sum })
    }

    /// Bytes of the value at a row, at most: told by lengths alone.
    fn at_most(&self, args: &Arguments, row: usize) -> u64 {
        let length = |position: usize| args.text(position, row).map_or(0, |text| text.len() as u64);
        let all = || (0..args.arrays.len()).map(length).fold(0_u64, u64::saturating_add);
        match self.growth {
            Growth::Repeat => length(0).saturating_mul(args.number(1, row).unwrap_or(0)),
            Growth::Pad => length(0).saturating_add(args.number(1, row).unwrap_or(0).saturating_mul(CHARACTER)),
            Growth::Replace => {
                let places = length(0) / length(1).max(1) + 1;
                length(0).saturating_add(places.saturating_mul(length(2)))
            }
            Growth::Rewrite => (length(0) + 1).saturating_mul(length(2)).saturating_add(length(0)),
            Growth::Join => all(),
            Growth::JoinWith => all().saturating_add(length(0).saturating_mul(args.arrays.len() as u64)),
        }
    }

    /// The same, by a look at the texts: only where lengths alone would not let it through.
    fn nearly(&self, args: &Arguments, row: usize) -> u64 {
        let Some(text) = args.text(0, row) else { return 0 };
        let length = text.len() as u64;
        match self.growth {
            Growth::Pad => {
                let width = args.number(1, row).unwrap_or(0);
                let with = args.text(2, row).unwrap_or(" ");
                let missing = width.saturating_sub(text.chars().count() as u64);
                let (bytes, characters) = (with.len() as u64, with.chars().count() as u64);
                if characters == 0 { length } else { length + missing.div_ceil(characters).saturating_mul(bytes) }
            }
            Growth::Replace => {
                let (Some(what), Some(by)) = (args.text(1, row), args.text(2, row)) else { return 0 };
                let places = if what.is_empty() { length + 1 } else { text.matches(what).count() as u64 };
                (length - places.saturating_mul(what.len() as u64).min(length))
                    .saturating_add(places.saturating_mul(by.len() as u64))
            }
            Growth::Rewrite => {
                let (Some(pattern), Some(by)) = (args.text(1, row), args.text(2, row)) else { return 0 };
                // What does not compile is the function's own to tell.
                let Ok(pattern) = java_regex::compile(pattern) else { return 0 };
                let places = pattern.find_iter(text).count() as u64;
                length.saturating_add(places.saturating_mul(by.len() as u64))
            }
            Growth::Repeat | Growth::Join | Growth::JoinWith => u64::MAX,
        }
    }
}

/// `a || b || …`, as a function: NULL where one is.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Concat(Signature);

impl ScalarUDFImpl for Concat {
    fn name(&self) -> &'static str {
        "||"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        Ok(arguments.to_vec())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let args = Arguments::new(&args.args, if constant { 1 } else { args.number_rows })?;
        let mut joined = StringBuilder::with_capacity(args.rows, 0);
        let mut text = String::new();
        for row in 0..args.rows {
            text.clear();
            let mut parts = (0..args.arrays.len()).map(|position| args.text(position, row));
            if parts.all(|part| part.map(|part| text.push_str(part)).is_some()) {
                joined.append_value(&text);
            } else {
                joined.append_null();
            }
        }
        let joined: ArrayRef = Arc::new(joined.finish());
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&joined, 0)?));
        }
        Ok(ColumnarValue::Array(joined))
    }
}
