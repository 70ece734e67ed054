//! What operators mean in Flink: the types of their results and what they refuse, put into the expression before the planner of
//! DataFusion has its own opinion. Operators of whole numbers, texts and times that mean the same there stay; the others become
//! functions that no script can name.

use std::cell::Cell;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, Result, ScalarValue, internal_err, plan_err};
use datafusion_expr::expr::{BinaryExpr, Case, InList, ScalarFunction};
use datafusion_expr::{Between, Expr, ExprSchemable, Like, Operator};

use crate::logical::size::MAX_NODES;
use crate::names::functions::cast::Way;
use crate::names::functions::compare::kernel_of;
use crate::names::functions::decimal::{self, Operation, as_decimal};
use crate::names::functions::kernel::{Kernel, function};
use crate::names::functions::{cast, like, numbers};
use crate::parse::types::{array_of, entry_of, flink_name, map_of};

/// What may still be written several times where SQL has it once, as the operand of BETWEEN: within each other such operators
/// would double it at each step.
pub struct Copies(Cell<u64>);

impl Default for Copies {
    fn default() -> Self {
        Self(Cell::new(MAX_NODES))
    }
}

impl Copies {
    /// Whether so many more of the expression may be made.
    fn allow(&self, expr: &Expr, times: usize) -> Result<()> {
        let mut nodes = 0_u64;
        expr.apply(|_| {
            nodes += 1;
            Ok(TreeNodeRecursion::Continue)
        })?;
        match self.0.get().checked_sub(nodes.saturating_mul(times as u64)) {
            Some(left) => {
                self.0.set(left);
                Ok(())
            }
            None => plan_err!(
                "BETWEEN, IN, CASE, NULLIF and COALESCE within each other write their operands more than {MAX_NODES} times: compute the inner ones in a view"
            ),
        }
    }
}

/// One node, whose operands have been through this.
pub fn flink(expr: Expr, schema: &DFSchema, copies: &Copies) -> Result<Expr> {
    match expr {
        Expr::BinaryExpr(binary) => operator(binary, schema),
        Expr::Negative(inner) if numbers::is_number(&inner.get_type(schema)?) => call("$negative", vec![*inner]),
        Expr::Not(inner) => Ok(negated(*inner)),
        Expr::Between(between) => range(between, schema, copies),
        Expr::InList(list) => in_list(list, schema, copies),
        Expr::Case(case) => alternatives(case, schema, copies),
        Expr::Cast(cast) => converted(*cast.expr, cast.field.as_ref(), false, schema),
        Expr::TryCast(cast) => converted(*cast.expr, cast.field.as_ref(), true, schema),
        Expr::Like(pattern) => like(pattern, schema),
        Expr::SimilarTo(pattern) => like::similar(pattern),
        Expr::ScalarFunction(function) => choices(function, schema, copies),
        other => Ok(other),
    }
}

/// `CAST(expr AS …)` as Flink makes it.
pub fn converted(expr: Expr, field: &arrow::datatypes::Field, lenient: bool, schema: &DFSchema) -> Result<Expr> {
    let to = || field.data_type().clone();
    Ok(match cast::way(&expr.get_type(schema)?, field, lenient)? {
        Way::Same => expr,
        Way::By(function) => function.call(vec![expr]),
        Way::Plain if lenient => Expr::TryCast(datafusion_expr::TryCast::new(Box::new(expr), to())),
        Way::Plain => Expr::Cast(datafusion_expr::Cast::new(Box::new(expr), to())),
    })
}

/// The expression in this type.
pub fn cast_into(expr: Expr, to: &DataType, schema: &DFSchema) -> Result<Expr> {
    if expr.get_type(schema)? == *to {
        return Ok(expr);
    }
    converted(expr, &cast::Shape::Any.field(to.clone()), false, schema)
}

/// A call of a function that no script can name.
fn call(name: &str, args: Vec<Expr>) -> Result<Expr> {
    let mut kernels = decimal::KERNELS.iter().chain(&numbers::KERNELS);
    match kernels.find(|kernel| kernel.name == name) {
        Some(kernel) => Ok(function(kernel).call(args)),
        None => internal_err!("there is no function {name}"),
    }
}

fn call_of(kernel: &'static Kernel, args: Vec<Expr>) -> Expr {
    function(kernel).call(args)
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

fn is_whole(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64)
}

fn is_float(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Float32 | DataType::Float64)
}

fn is_exact(data_type: &DataType) -> bool {
    is_whole(data_type) || matches!(data_type, DataType::Decimal128(..))
}

fn is_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Date32 | DataType::Time32(_) | DataType::Timestamp(..))
}

/// The wider of two whole numbers.
fn wider(left: &DataType, right: &DataType) -> DataType {
    let width = |data_type: &DataType| data_type.primitive_width().unwrap_or(0);
    if width(right) > width(left) { right.clone() } else { left.clone() }
}

fn operator(BinaryExpr { left, op, right }: BinaryExpr, schema: &DFSchema) -> Result<Expr> {
    use Operator::{
        Divide, Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, Minus, Modulo, Multiply, NotEq, Plus,
        StringConcat,
    };
    let types = (left.get_type(schema)?, right.get_type(schema)?);
    match op {
        Plus | Minus | Multiply | Divide | Modulo => arithmetic(*left, op, *right, &types, schema),
        Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom => {
            comparison(*left, op, *right, &types, schema)
        }
        StringConcat => match types {
            (DataType::Utf8 | DataType::Null, DataType::Utf8 | DataType::Null)
            | (DataType::Binary, DataType::Binary) => Ok(binary(*left, op, *right)),
            _ => refused(op, &types),
        },
        _ => Ok(binary(*left, op, *right)),
    }
}

fn refused<T>(op: Operator, (left, right): &(DataType, DataType)) -> Result<T> {
    plan_err!("{op} does not take {} and {}: write a CAST", flink_name(left), flink_name(right))
}

fn arithmetic(left: Expr, op: Operator, right: Expr, types: &(DataType, DataType), schema: &DFSchema) -> Result<Expr> {
    let both = |test: fn(&DataType) -> bool| test(&types.0) && test(&types.1);
    if both(is_whole) {
        let common = wider(&types.0, &types.1);
        let (left, right) = (cast_into(left, &common, schema)?, cast_into(right, &common, schema)?);
        let result = match op {
            // By 0 and -1 the planner's own fail in their own way.
            Operator::Divide if !is_plain_divisor(&right) => call("$int_divide", vec![left, right])?,
            Operator::Modulo if !is_plain_divisor(&right) => call("$int_modulo", vec![left, right])?,
            _ => binary(left, op, right),
        };
        // What is left over is smaller than the divisor, and has its type.
        return Ok(if op == Operator::Modulo && common != types.1 { rest(result, &types.1) } else { result });
    }
    if both(is_exact) {
        let (name, operation) = match op {
            Operator::Plus => ("$decimal_add", Operation::Add),
            Operator::Minus => ("$decimal_subtract", Operation::Subtract),
            Operator::Multiply => ("$decimal_multiply", Operation::Multiply),
            Operator::Divide => ("$decimal_divide", Operation::Divide),
            _ => ("$decimal_modulo", Operation::Modulo),
        };
        let exact = as_decimal(&types.0).zip(as_decimal(&types.1));
        let decimal = |(precision, scale): (i32, i32)| DataType::Decimal128(precision as u8, scale as i8);
        let Some((first, second)) = exact else { return refused(op, types) };
        let left = cast_into(left, &decimal(first), schema)?;
        let right = cast_into(right, &decimal(second), schema)?;
        let result = call(name, vec![left, right])?;
        // Without a fraction on either side what is left over has the divisor's type.
        if operation == Operation::Modulo && first.1 == 0 && second.1 == 0 && result.get_type(schema)? != types.1 {
            return Ok(rest(result, &types.1));
        }
        return Ok(result);
    }
    if both(numbers::is_number) && types.0 != DataType::Null && types.1 != DataType::Null {
        if op == Operator::Modulo {
            return refused(op, types);
        }
        // Flink takes the type of the first of two that are not exact.
        let result = match (is_float(&types.0), is_float(&types.1)) {
            (true, true) => types.0.clone(),
            _ if both(|data_type| !matches!(data_type, DataType::Decimal128(..))) => {
                if is_float(&types.0) {
                    types.0.clone()
                } else {
                    types.1.clone()
                }
            }
            _ => DataType::Float64,
        };
        return Ok(binary(cast_into(left, &result, schema)?, op, cast_into(right, &result, schema)?));
    }
    if both(is_time) {
        return refused(op, types);
    }
    let is_number = |data_type: &DataType| numbers::is_number(data_type) && *data_type != DataType::Null;
    let is_other = |data_type: &DataType| matches!(data_type, DataType::Utf8 | DataType::Boolean | DataType::Binary);
    if is_other(&types.0) || is_other(&types.1) || is_number(&types.0) != is_number(&types.1) && both(known) {
        return refused(op, types);
    }
    Ok(binary(left, op, right))
}

fn rest(expr: Expr, to: &DataType) -> Expr {
    cast::rest(to).call(vec![expr])
}

/// A constant by which whole numbers are divided without an exception.
fn is_plain_divisor(expr: &Expr) -> bool {
    let constant = match expr {
        Expr::Cast(cast) => cast.expr.as_ref(),
        other => other,
    };
    let Expr::Literal(value, _) = constant else { return false };
    match value {
        ScalarValue::Int8(Some(number)) => !matches!(number, 0 | -1),
        ScalarValue::Int16(Some(number)) => !matches!(number, 0 | -1),
        ScalarValue::Int32(Some(number)) => !matches!(number, 0 | -1),
        ScalarValue::Int64(Some(number)) => !matches!(number, 0 | -1),
        _ => false,
    }
}

fn known(data_type: &DataType) -> bool {
    numbers::is_number(data_type) && *data_type != DataType::Null || is_time(data_type)
}

fn is_comparison_of_order(op: Operator) -> bool {
    matches!(op, Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq)
}

fn comparison(left: Expr, op: Operator, right: Expr, types: &(DataType, DataType), schema: &DFSchema) -> Result<Expr> {
    let into = |to: &DataType| -> Result<(Expr, Expr)> {
        Ok((cast_into(left.clone(), to, schema)?, cast_into(right.clone(), to, schema)?))
    };
    let own = |(left, right): (Expr, Expr)| match kernel_of(op) {
        Some(kernel) => call_of(kernel, vec![left, right]),
        None => binary(left, op, right),
    };
    let plain = |(left, right): (Expr, Expr)| binary(left, op, right);
    let either = |test: fn(&DataType) -> bool| test(&types.0) || test(&types.1);
    let both = |test: fn(&DataType) -> bool| test(&types.0) && test(&types.1);
    Ok(match types {
        (DataType::Null, _) | (_, DataType::Null) => binary(left, op, right),
        (a, b) if a.is_nested() || b.is_nested() => {
            let (left, right) = (flink_name(a), flink_name(b));
            return plan_err!("{op} does not take {left} and {right}: compare what they hold, or write a CAST");
        }
        (a, b) if is_float(a) && a == b => {
            // The planner of Flink knows that a column equals itself, and does not ask whether it is NaN.
            if matches!(left, Expr::Column(_)) && left == right && matches!(op, Operator::Eq | Operator::NotEq) {
                plain((left, right))
            } else {
                own((left, right))
            }
        }
        (a, b) if a == b => binary(left, op, right),
        _ if both(is_whole) => plain(into(&wider(&types.0, &types.1))?),
        _ if both(is_exact) => match common_decimal(&types.0, &types.1) {
            Some(common) => plain(into(&common)?),
            None => own(as_decimals(left, right, types, schema)?),
        },
        // A DECIMAL is compared with a DOUBLE in Java's total order.
        _ if either(is_float) && either(|data_type| matches!(data_type, DataType::Decimal128(..))) => {
            plain(into(&DataType::Float64)?)
        }
        // Flink compares these two in the type of the first, but only for equality.
        (DataType::Float32, DataType::Float64) if matches!(op, Operator::Eq | Operator::NotEq) => {
            own(into(&DataType::Float32)?)
        }
        _ if both(numbers::is_number) => own(into(if either(|data_type| *data_type == DataType::Float64) {
            &DataType::Float64
        } else {
            &DataType::Float32
        })?),
        (DataType::Utf8, other) | (other, DataType::Utf8)
            if numbers::is_number(other) && is_comparison_of_order(op) =>
        {
            own_or_plain(into(other)?, op, other)
        }
        (DataType::Utf8, other) if is_time(other) => plain((read_time(left, other, op, schema)?, right)),
        (other, DataType::Utf8) if is_time(other) => plain((left, read_time(right, other, op, schema)?)),
        (DataType::Timestamp(a, _), DataType::Timestamp(b, _)) => {
            let finer = if finer(*b, *a) { &types.1 } else { &types.0 };
            plain(into(finer)?)
        }
        _ if both(is_basic) => return refused(op, types),
        _ => binary(left, op, right),
    })
}

fn own_or_plain((left, right): (Expr, Expr), op: Operator, data_type: &DataType) -> Expr {
    match kernel_of(op) {
        Some(kernel) if is_float(data_type) => call_of(kernel, vec![left, right]),
        _ => binary(left, op, right),
    }
}

fn is_basic(data_type: &DataType) -> bool {
    numbers::is_number(data_type)
        || is_time(data_type)
        || matches!(data_type, DataType::Utf8 | DataType::Boolean | DataType::Binary)
}

fn finer(left: TimeUnit, right: TimeUnit) -> bool {
    let rank = |unit: TimeUnit| match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 1,
        TimeUnit::Microsecond => 2,
        TimeUnit::Nanosecond => 3,
    };
    rank(left) > rank(right)
}

/// A text as the time that it is compared with: one that is none is unequal to all, and has no order.
fn read_time(text: Expr, to: &DataType, op: Operator, schema: &DFSchema) -> Result<Expr> {
    converted(text, &cast::Shape::Any.field(to.clone()), !is_comparison_of_order(op), schema)
}

/// The DECIMAL that holds both; none if there is no such.
fn common_decimal(left: &DataType, right: &DataType) -> Option<DataType> {
    let ((p1, s1), (p2, s2)) = as_decimal(left).zip(as_decimal(right))?;
    let scale = s1.max(s2);
    let precision = (p1 - s1).max(p2 - s2) + scale;
    (precision <= decimal::MAX_PRECISION).then_some(DataType::Decimal128(precision as u8, scale as i8))
}

fn as_decimals(left: Expr, right: Expr, types: &(DataType, DataType), schema: &DFSchema) -> Result<(Expr, Expr)> {
    let decimal = |expr: Expr, data_type: &DataType| match as_decimal(data_type) {
        Some((precision, scale)) => cast_into(expr, &DataType::Decimal128(precision as u8, scale as i8), schema),
        None => Ok(expr),
    };
    Ok((decimal(left, &types.0)?, decimal(right, &types.1)?))
}

/// The comparison of two expressions that have been through this.
fn compared(left: Expr, op: Operator, right: Expr, schema: &DFSchema) -> Result<Expr> {
    let types = (left.get_type(schema)?, right.get_type(schema)?);
    comparison(left, op, right, &types, schema)
}

/// `NOT (a < b)` is `a >= b` in Flink, also where one of them is NaN.
fn negated(inner: Expr) -> Expr {
    let opposites = [("$less", Operator::GtEq), ("$less_or_equal", Operator::Gt), ("$greater", Operator::LtEq)];
    let opposites = opposites.into_iter().chain([("$greater_or_equal", Operator::Lt)]);
    if let Expr::ScalarFunction(function) = &inner
        && let Some((_, opposite)) = opposites.into_iter().find(|(name, _)| *name == function.func.name())
        && let Some(kernel) = kernel_of(opposite)
    {
        return call_of(kernel, function.args.clone());
    }
    Expr::Not(Box::new(inner))
}

fn range(Between { expr, negated, low, high }: Between, schema: &DFSchema, copies: &Copies) -> Result<Expr> {
    copies.allow(&expr, 1)?;
    let (below, above, join) = if negated {
        (Operator::Lt, Operator::Gt, Operator::Or)
    } else {
        (Operator::GtEq, Operator::LtEq, Operator::And)
    };
    let first = compared(expr.as_ref().clone(), below, *low, schema)?;
    Ok(binary(first, join, compared(*expr, above, *high, schema)?))
}

fn in_list(InList { expr, list, negated }: InList, schema: &DFSchema, copies: &Copies) -> Result<Expr> {
    let data_type = expr.get_type(schema)?;
    if data_type == DataType::Null {
        return Ok(Expr::InList(InList { expr, list, negated }));
    }
    let mut items = Vec::with_capacity(list.len());
    let mut types = vec![data_type.clone()];
    for item in list {
        // A text in a list of numbers is read as one.
        let item = match item.get_type(schema)? {
            DataType::Utf8 if numbers::is_number(&data_type) => cast_into(item, &data_type, schema)?,
            _ => item,
        };
        types.push(item.get_type(schema)?);
        items.push(item);
    }
    if let Some(common) = one_type(&types) {
        let expr = Box::new(cast_into(*expr, &common, schema)?);
        let list = items.into_iter().map(|item| cast_unless_null(item, &common, schema)).collect::<Result<_>>()?;
        return Ok(Expr::InList(InList { expr, list, negated }));
    }
    copies.allow(&expr, items.len())?;
    let equal = |item| compared(expr.as_ref().clone(), Operator::Eq, item, schema);
    let mut terms: Vec<Expr> = items.into_iter().map(equal).collect::<Result<_>>()?;
    // Two by two, so that a long list is not deep.
    while terms.len() > 1 {
        let mut rest = terms.into_iter();
        terms = Vec::with_capacity(rest.len() / 2 + 1);
        while let Some(left) = rest.next() {
            terms.push(match rest.next() {
                Some(right) => binary(left, Operator::Or, right),
                None => left,
            });
        }
    }
    let any = terms.pop().unwrap_or_else(|| Expr::Literal(ScalarValue::Boolean(Some(false)), None));
    Ok(if negated { Expr::Not(Box::new(any)) } else { any })
}

/// The type in which values of these types are compared for equality with the planner's own meaning; none if there is no such.
fn one_type(types: &[DataType]) -> Option<DataType> {
    let mut known = types.iter().filter(|data_type| **data_type != DataType::Null);
    let first = known.next()?.clone();
    let found = known.try_fold(first, |found, next| {
        if found == *next {
            return Some(found);
        }
        if is_whole(&found) && is_whole(next) {
            return Some(wider(&found, next));
        }
        if is_exact(&found) && is_exact(next) { common_decimal(&found, next) } else { None }
    });
    found.filter(|data_type| !is_float(data_type) && !data_type.is_nested())
}

fn cast_unless_null(expr: Expr, to: &DataType, schema: &DFSchema) -> Result<Expr> {
    if expr.get_type(schema)? == DataType::Null { Ok(expr) } else { cast_into(expr, to, schema) }
}

/// The type that alternatives of these types have together; none if there is no such.
pub fn common(types: &[DataType]) -> Option<DataType> {
    let mut types = types.iter().filter(|data_type| **data_type != DataType::Null);
    let first = types.next()?.clone();
    types.try_fold(first, |found, next| {
        Some(match (&found, next) {
            (a, b) if a == b => found,
            (a, b) if is_whole(a) && is_whole(b) => wider(a, b),
            (a, b) if is_exact(a) && is_exact(b) => common_decimal(a, b)?,
            (a, b) if numbers::is_number(a) && numbers::is_number(b) => {
                let float = [a, b].iter().all(|data_type| is_whole(data_type) || **data_type == DataType::Float32);
                if float { DataType::Float32 } else { DataType::Float64 }
            }
            (DataType::Timestamp(a, None), DataType::Timestamp(b, None)) => {
                DataType::Timestamp(if finer(*a, *b) { *a } else { *b }, None)
            }
            (DataType::Timestamp(a, _), DataType::Timestamp(b, _)) => {
                DataType::Timestamp(if finer(*a, *b) { *a } else { *b }, Some("UTC".into()))
            }
            (DataType::List(a), DataType::List(b)) => {
                array_of(common(&[a.data_type().clone(), b.data_type().clone()])?)
            }
            (DataType::Map(..), DataType::Map(..)) => {
                let ((a, b), (c, d)) = entry_of(&found).zip(entry_of(next))?;
                map_of(common(&[a.clone(), c.clone()])?, common(&[b.clone(), d.clone()])?)
            }
            (DataType::Struct(a), DataType::Struct(b)) if a.len() == b.len() => {
                let field = |(a, b): (&FieldRef, &FieldRef)| {
                    let both = common(&[a.data_type().clone(), b.data_type().clone()])?;
                    Some(Field::new(a.name(), both, a.is_nullable() || b.is_nullable()))
                };
                DataType::Struct(a.iter().zip(b).map(field).collect::<Option<_>>()?)
            }
            _ => return None,
        })
    })
}

/// These expressions in the type that they have together.
fn unified(exprs: Vec<Expr>, what: &str, schema: &DFSchema) -> Result<Vec<Expr>> {
    let types = exprs.iter().map(|expr| expr.get_type(schema)).collect::<Result<Vec<_>>>()?;
    let is_known = |data_type: &DataType| is_basic(data_type) || data_type.is_nested();
    if types.iter().all(|data_type| *data_type == DataType::Null) || !types.iter().all(is_known) {
        return Ok(exprs);
    }
    match common(&types) {
        Some(common) if common.is_nested() => {
            exprs.into_iter().map(|expr| cast_unless_null(expr, &common, schema)).collect()
        }
        Some(common) => exprs.into_iter().map(|expr| cast_into(expr, &common, schema)).collect(),
        None => {
            let names: Vec<String> = types.iter().map(flink_name).collect();
            plan_err!("{what} does not take values of the types {}: write a CAST", names.join(", "))
        }
    }
}

fn alternatives(case: Case, schema: &DFSchema, copies: &Copies) -> Result<Expr> {
    let Case { expr, when_then_expr, else_expr } = case;
    let (whens, thens): (Vec<_>, Vec<_>) = when_then_expr.into_iter().map(|(when, then)| (*when, then)).unzip();
    let (expr, whens) = match expr {
        None => (None, whens),
        Some(value) => {
            let types = std::iter::once(value.as_ref()).chain(&whens).map(|expr| expr.get_type(schema));
            match one_type(&types.collect::<Result<Vec<_>>>()?) {
                Some(common) => {
                    let cast = |expr| cast_unless_null(expr, &common, schema);
                    (Some(Box::new(cast(*value)?)), whens.into_iter().map(cast).collect::<Result<_>>()?)
                }
                None => {
                    copies.allow(&value, whens.len())?;
                    let equal = |when| compared(value.as_ref().clone(), Operator::Eq, when, schema);
                    (None, whens.into_iter().map(equal).collect::<Result<Vec<_>>>()?)
                }
            }
        }
    };
    let has_else = else_expr.is_some();
    let values: Vec<Expr> = thens.into_iter().chain(else_expr).map(|then| *then).collect();
    let mut values = unified(values, "CASE", schema)?;
    let other = if has_else { values.pop().map(Box::new) } else { None };
    let pairs = whens.into_iter().zip(values).map(|(when, then)| (Box::new(when), Box::new(then))).collect();
    Ok(Expr::Case(Case::new(expr, pairs, other)))
}

/// Functions that give one of their arguments.
fn choices(function: ScalarFunction, schema: &DFSchema, copies: &Copies) -> Result<Expr> {
    let ScalarFunction { func, mut args } = function;
    let args = match (func.name(), args.len()) {
        ("coalesce" | "nvl", 1..) => {
            let name = if func.name() == "nvl" { "IFNULL" } else { "COALESCE" };
            return first_known(unified(args, name, schema)?, copies);
        }
        ("if", 3) => {
            let rest = args.split_off(1);
            args.extend(unified(rest, "IF", schema)?);
            args
        }
        ("nullif", 2) => {
            let (Some(other), Some(value)) = (args.pop(), args.pop()) else {
                return plan_err!("NULLIF takes two values");
            };
            copies.allow(&value, 1)?;
            let null = Expr::Literal(ScalarValue::try_from(&value.get_type(schema)?)?, None);
            let equal = compared(value.clone(), Operator::Eq, other, schema)?;
            return Ok(Expr::Case(Case::new(None, vec![(Box::new(equal), Box::new(null))], Some(Box::new(value)))));
        }
        ("mod", 2) => {
            let (Some(right), Some(left)) = (args.pop(), args.pop()) else { return plan_err!("MOD takes two numbers") };
            let types = (left.get_type(schema)?, right.get_type(schema)?);
            return arithmetic(left, Operator::Modulo, right, &types, schema);
        }
        _ => args,
    };
    Ok(func.call(args))
}

/// COALESCE as the CASE that the planner would make of it, but counted.
fn first_known(mut args: Vec<Expr>, copies: &Copies) -> Result<Expr> {
    let Some(last) = args.pop() else { return plan_err!("COALESCE takes one value at least") };
    if args.is_empty() {
        return Ok(last);
    }
    let mut pairs = Vec::with_capacity(args.len());
    for arg in args {
        copies.allow(&arg, 1)?;
        pairs.push((Box::new(Expr::IsNotNull(Box::new(arg.clone()))), Box::new(arg)));
    }
    Ok(Expr::Case(Case::new(None, pairs, Some(Box::new(last)))))
}

fn like(pattern: Like, schema: &DFSchema) -> Result<Expr> {
    let types = (pattern.expr.get_type(schema)?, pattern.pattern.get_type(schema)?);
    match types {
        (DataType::Utf8 | DataType::Null, DataType::Utf8 | DataType::Null) => like::like(pattern),
        (left, right) => plan_err!("LIKE does not take {} and {}: write a CAST", flink_name(&left), flink_name(&right)),
    }
}
