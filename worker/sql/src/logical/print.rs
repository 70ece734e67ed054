//! Expressions as texts that stay: identities are made of them, and state is found by identities for as long as a job lives. Every
//! name in here is ours, SQL's where SQL has one; nothing is taken from how a library prints its types.
//!
//! The text says all that an expression means, and no more: no aliases, no places, no order of evaluation. It need not be read back.
//! `tests/it/identities.txt` holds the identities of some sixty plans, which change only with a new alias for the old ones.

use std::fmt::Write;

use arrow::datatypes::DataType;
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion_common::{Column, Result, ScalarValue, not_impl_err};
use datafusion_expr::expr::{BinaryExpr, InList, Like, ScalarFunction};
use datafusion_expr::{Case, Expr, Operator};
use datafusion_functions::{math, string, unicode};
use weir_state::type_name;

/// An expression's text. `column` gives that of a column.
pub fn text(expr: &Expr, column: &dyn Fn(&Column) -> Result<String>) -> Result<String> {
    let mut printer = Printer { out: String::new(), column };
    printer.print(expr)?;
    Ok(printer.out)
}

struct Printer<'a> {
    out: String,
    column: &'a dyn Fn(&Column) -> Result<String>,
}

impl Printer<'_> {
    fn print(&mut self, expr: &Expr) -> Result<()> {
        match expr {
            Expr::Alias(alias) => return self.print(&alias.expr),
            Expr::Column(column) => {
                let text = (self.column)(column)?;
                self.out.push_str(&text);
            }
            Expr::Literal(value, _) => self.out.push_str(&literal(value)),
            Expr::BinaryExpr(binary) => {
                let operator = operator(binary.op)?;
                return self.infix(&binary.left, operator, &binary.right);
            }
            Expr::Not(inner) => return self.call("NOT", [inner.as_ref()]),
            Expr::Negative(inner) => return self.call("NEGATIVE", [inner.as_ref()]),
            Expr::IsNull(inner) => return self.postfix(inner, "IS NULL"),
            Expr::IsNotNull(inner) => return self.postfix(inner, "IS NOT NULL"),
            Expr::IsTrue(inner) => return self.postfix(inner, "IS TRUE"),
            Expr::IsFalse(inner) => return self.postfix(inner, "IS FALSE"),
            Expr::IsUnknown(inner) => return self.postfix(inner, "IS UNKNOWN"),
            Expr::IsNotTrue(inner) => return self.postfix(inner, "IS NOT TRUE"),
            Expr::IsNotFalse(inner) => return self.postfix(inner, "IS NOT FALSE"),
            Expr::IsNotUnknown(inner) => return self.postfix(inner, "IS NOT UNKNOWN"),
            Expr::Between(between) => {
                let name = if between.negated { "NOT BETWEEN" } else { "BETWEEN" };
                return self.call(name, [between.expr.as_ref(), &between.low, &between.high]);
            }
            Expr::Like(like) => return self.like("LIKE", like),
            Expr::SimilarTo(like) => return self.like("SIMILAR TO", like),
            Expr::InList(list) => return self.in_list(list),
            Expr::Case(case) => return self.case(case),
            Expr::Cast(cast) => return self.cast("CAST", &cast.expr, cast.field.data_type()),
            Expr::TryCast(cast) => return self.cast("TRY_CAST", &cast.expr, cast.field.data_type()),
            Expr::ScalarFunction(call) => return self.function(call),
            other => return not_impl_err!("{} in a query", other.variant_name()),
        }
        Ok(())
    }

    fn infix(&mut self, left: &Expr, operator: &str, right: &Expr) -> Result<()> {
        self.out.push('(');
        self.print(left)?;
        self.out.push(' ');
        self.out.push_str(operator);
        self.out.push(' ');
        self.print(right)?;
        self.out.push(')');
        Ok(())
    }

    fn postfix(&mut self, inner: &Expr, words: &str) -> Result<()> {
        self.out.push('(');
        self.print(inner)?;
        self.out.push(' ');
        self.out.push_str(words);
        self.out.push(')');
        Ok(())
    }

    fn call<'e>(&mut self, name: &str, arguments: impl IntoIterator<Item = &'e Expr>) -> Result<()> {
        self.out.push_str(name);
        self.out.push('(');
        for (i, argument) in arguments.into_iter().enumerate() {
            if i > 0 {
                self.out.push_str(", ");
            }
            self.print(argument)?;
        }
        self.out.push(')');
        Ok(())
    }

    /// What became a function and is an operator or a cast in SQL is printed as that.
    fn function(&mut self, call: &ScalarFunction) -> Result<()> {
        let name = call.name();
        match (name, call.args.as_slice()) {
            ("$negative", [inner]) => return self.call("NEGATIVE", [inner]),
            (name, [inner]) if is_rest(name) => return self.print(inner),
            (name, [inner]) if is_cast(name) => {
                let word = if name.starts_with("try") { "TRY_CAST" } else { "CAST" };
                let to = call.func.return_type(&[DataType::Null])?;
                let length = name.split_once(" of ").map(|(_, length)| format!(" OF {}", length.to_ascii_uppercase()));
                return self.cast(&format!("{word}{}", length.unwrap_or_default()), inner, &to);
            }
            (_, [left, right]) => {
                if let Some(kernel) = kernel_operator(name) {
                    return self.infix(left, operator(kernel)?, right);
                }
                for (kernel, word) in [("like", "LIKE"), ("similar to", "SIMILAR TO")] {
                    if let Some(escape) = name.strip_prefix(kernel).filter(|rest| !rest.starts_with('_')) {
                        self.call(word, [left, right])?;
                        self.out.push_str(&escape.replace("escape", "ESCAPE"));
                        return Ok(());
                    }
                }
            }
            _ => {}
        }
        self.call(&function_name(name), &call.args)
    }

    fn like(&mut self, name: &str, like: &Like) -> Result<()> {
        let negated = if like.negated { "NOT " } else { "" };
        let case = if like.case_insensitive { " ANY CASE" } else { "" };
        self.call(&format!("{negated}{name}{case}"), [like.expr.as_ref(), &like.pattern])?;
        if let Some(escape) = like.escape_char {
            self.out.push_str(" ESCAPE ");
            self.out.push_str(&quoted(&escape.to_string()));
        }
        Ok(())
    }

    fn in_list(&mut self, list: &InList) -> Result<()> {
        let name = if list.negated { "NOT IN" } else { "IN" };
        self.call(name, std::iter::once(list.expr.as_ref()).chain(&list.list))
    }

    fn case(&mut self, case: &Case) -> Result<()> {
        self.out.push_str("CASE(");
        if let Some(expr) = &case.expr {
            self.print(expr)?;
        }
        for (when, then) in &case.when_then_expr {
            self.out.push_str(" WHEN ");
            self.print(when)?;
            self.out.push_str(" THEN ");
            self.print(then)?;
        }
        if let Some(otherwise) = &case.else_expr {
            self.out.push_str(" ELSE ");
            self.print(otherwise)?;
        }
        self.out.push(')');
        Ok(())
    }

    fn cast(&mut self, name: &str, inner: &Expr, to: &DataType) -> Result<()> {
        self.out.push_str(name);
        self.out.push('(');
        self.print(inner)?;
        self.out.push_str(" AS ");
        self.out.push_str(&type_name(to));
        self.out.push(')');
        Ok(())
    }
}

/// Operators that a query can have.
fn operator(operator: Operator) -> Result<&'static str> {
    Ok(match operator {
        Operator::Eq => "=",
        Operator::NotEq => "<>",
        Operator::Lt => "<",
        Operator::LtEq => "<=",
        Operator::Gt => ">",
        Operator::GtEq => ">=",
        Operator::Plus => "+",
        Operator::Minus => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::Modulo => "%",
        Operator::And => "AND",
        Operator::Or => "OR",
        Operator::IsDistinctFrom => "IS DISTINCT FROM",
        Operator::IsNotDistinctFrom => "IS NOT DISTINCT FROM",
        Operator::StringConcat => "||",
        Operator::RegexMatch => "MATCHES",
        Operator::RegexNotMatch => "NOT MATCHES",
        Operator::RegexIMatch => "MATCHES ANY CASE",
        Operator::RegexNotIMatch => "NOT MATCHES ANY CASE",
        Operator::LikeMatch => "LIKE",
        Operator::NotLikeMatch => "NOT LIKE",
        Operator::ILikeMatch => "LIKE ANY CASE",
        Operator::NotILikeMatch => "NOT LIKE ANY CASE",
        Operator::BitwiseAnd => "BIT AND",
        Operator::BitwiseOr => "BIT OR",
        Operator::BitwiseXor => "BIT XOR",
        Operator::BitwiseShiftLeft => "SHIFT LEFT",
        Operator::BitwiseShiftRight => "SHIFT RIGHT",
        other => return not_impl_err!("the operator {other}"),
    })
}

/// An expression with operators, casts and the planner's functions in the place of ours for them: so the planner's own texts have
/// been, which people and identities of state format 1 have.
pub fn as_written(expr: &Expr) -> Result<Expr> {
    expr.clone().transform_up(|expr| Ok(Transformed::yes(node_as_written(expr)?))).data()
}

/// One node of it.
pub fn node_as_written(expr: Expr) -> Result<Expr> {
    let Expr::ScalarFunction(ScalarFunction { func, mut args }) = expr else { return Ok(expr) };
    let name = func.name();
    if is_rest(name) && args.len() == 1 {
        return Ok(args.swap_remove(0));
    }
    // With a length it is no cast of the planner's.
    if is_cast(name) && !name.contains(" of ") && args.len() == 1 {
        let to = func.return_type(&[DataType::Null])?;
        let inner = Box::new(args.swap_remove(0));
        return Ok(if name.starts_with("try") {
            Expr::TryCast(datafusion_expr::TryCast::new(inner, to))
        } else {
            Expr::Cast(datafusion_expr::Cast::new(inner, to))
        });
    }
    match (name, args.len()) {
        ("$negative", 1) => Ok(Expr::Negative(Box::new(args.swap_remove(0)))),
        ("trim", _) => Ok(string::btrim().call(args)),
        ("substring", _) => Ok(unicode::substr().call(args)),
        ("char_length", _) => Ok(unicode::character_length().call(args)),
        ("sign", _) => Ok(math::signum().call(args)),
        ("position", 2) => {
            args.reverse();
            Ok(unicode::strpos().call(args))
        }
        ("like", 2) => {
            let (pattern, text) = (Box::new(args.swap_remove(1)), Box::new(args.swap_remove(0)));
            Ok(Expr::Like(Like::new(false, text, pattern, None, false)))
        }
        (name, 2) => match kernel_operator(name) {
            Some(operator) => {
                let (right, left) = (Box::new(args.swap_remove(1)), Box::new(args.swap_remove(0)));
                Ok(Expr::BinaryExpr(BinaryExpr::new(left, operator, right)))
            }
            None => Ok(Expr::ScalarFunction(ScalarFunction { func, args })),
        },
        _ => Ok(Expr::ScalarFunction(ScalarFunction { func, args })),
    }
}

/// Whether a function only gives what a division leaves over its type.
pub fn is_rest(name: &str) -> bool {
    name.starts_with("rest to ")
}

/// Whether a function is a cast of ours.
fn is_cast(name: &str) -> bool {
    name.starts_with("cast to ") || name.starts_with("try_cast to ")
}

/// The operator that a function of ours stands for.
fn kernel_operator(name: &str) -> Option<Operator> {
    Some(match name {
        "$decimal_add" => Operator::Plus,
        "$decimal_subtract" => Operator::Minus,
        "$decimal_multiply" => Operator::Multiply,
        "$decimal_divide" | "$int_divide" => Operator::Divide,
        "$decimal_modulo" | "$int_modulo" => Operator::Modulo,
        "$equal" => Operator::Eq,
        "$not_equal" => Operator::NotEq,
        "$less" => Operator::Lt,
        "$less_or_equal" => Operator::LtEq,
        "$greater" => Operator::Gt,
        "$greater_or_equal" => Operator::GtEq,
        "$distinct" => Operator::IsDistinctFrom,
        "$not_distinct" => Operator::IsNotDistinctFrom,
        _ => return None,
    })
}

/// Functions by the names that they have in SQL. Those of a library whose own names may change are named here.
fn function_name(name: &str) -> String {
    match name {
        "btrim" => "TRIM".to_string(),
        "character_length" => "CHAR_LENGTH".to_string(),
        "substr" => "SUBSTRING".to_string(),
        "strpos" => "POSITION".to_string(),
        "nvl" => "IFNULL".to_string(),
        "get_field" => "FIELD".to_string(),
        "signum" => "SIGN".to_string(),
        other => other.to_ascii_uppercase(),
    }
}

/// A value with its type: `1:INT`.
fn literal(value: &ScalarValue) -> String {
    let data_type = value.data_type();
    let text = if value.is_null() { "NULL".to_string() } else { plain(value) };
    format!("{text}:{}", type_name(&data_type))
}

/// The value alone: numbers in decimal, times as their integers, floats by their bits where they are no plain numbers.
fn plain(value: &ScalarValue) -> String {
    match value {
        ScalarValue::Boolean(Some(value)) => if *value { "TRUE" } else { "FALSE" }.to_string(),
        ScalarValue::Float32(Some(value)) => float(f64::from(*value)),
        ScalarValue::Float64(Some(value)) => float(*value),
        ScalarValue::Int8(Some(value)) => value.to_string(),
        ScalarValue::Int16(Some(value)) => value.to_string(),
        ScalarValue::Int32(Some(value))
        | ScalarValue::Date32(Some(value))
        | ScalarValue::Time32Second(Some(value))
        | ScalarValue::Time32Millisecond(Some(value))
        | ScalarValue::IntervalYearMonth(Some(value))
        | ScalarValue::Decimal32(Some(value), ..) => value.to_string(),
        ScalarValue::Int64(Some(value))
        | ScalarValue::Date64(Some(value))
        | ScalarValue::Time64Microsecond(Some(value))
        | ScalarValue::Time64Nanosecond(Some(value))
        | ScalarValue::TimestampSecond(Some(value), _)
        | ScalarValue::TimestampMillisecond(Some(value), _)
        | ScalarValue::TimestampMicrosecond(Some(value), _)
        | ScalarValue::TimestampNanosecond(Some(value), _)
        | ScalarValue::DurationSecond(Some(value))
        | ScalarValue::DurationMillisecond(Some(value))
        | ScalarValue::DurationMicrosecond(Some(value))
        | ScalarValue::DurationNanosecond(Some(value))
        | ScalarValue::Decimal64(Some(value), ..) => value.to_string(),
        ScalarValue::UInt8(Some(value)) => value.to_string(),
        ScalarValue::UInt16(Some(value)) => value.to_string(),
        ScalarValue::UInt32(Some(value)) => value.to_string(),
        ScalarValue::UInt64(Some(value)) => value.to_string(),
        ScalarValue::Decimal128(Some(value), ..) => value.to_string(),
        ScalarValue::Decimal256(Some(value), ..) => value.to_string(),
        ScalarValue::IntervalDayTime(Some(value)) => format!("{} {}", value.days, value.milliseconds),
        ScalarValue::IntervalMonthDayNano(Some(value)) => {
            format!("{} {} {}", value.months, value.days, value.nanoseconds)
        }
        ScalarValue::Utf8(Some(value)) | ScalarValue::Utf8View(Some(value)) | ScalarValue::LargeUtf8(Some(value)) => {
            quoted(value)
        }
        ScalarValue::Binary(Some(value))
        | ScalarValue::BinaryView(Some(value))
        | ScalarValue::LargeBinary(Some(value))
        | ScalarValue::FixedSizeBinary(_, Some(value)) => hex(value),
        ScalarValue::Dictionary(_, value) => plain(value),
        // No literal of a script is any of these; what a rule makes of one is still told apart.
        other => quoted(&other.to_string()),
    }
}

/// The shortest decimal that reads as the same number, which the standard library promises.
fn float(value: f64) -> String {
    if value.is_finite() { format!("{value:e}") } else { format!("bits {:016x}", value.to_bits()) }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::from("X'");
    for byte in bytes {
        // Writing into a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\'');
    text
}

#[cfg(test)]
mod tests {
    use datafusion_expr::{col, lit};

    use super::*;

    fn printed(expr: &Expr) -> String {
        text(expr, &|column| Ok(format!("t.{}", column.name()))).unwrap()
    }

    #[test]
    fn an_expression_is_printed_with_our_own_names() {
        let cases = [
            (col("a") + lit(1), "(t.a + 1:INT)"),
            (col("a").alias("b").not_eq(lit("it's")), "(t.a <> 'it''s':STRING)"),
            (col("a").is_null().and(!col("b")), "((t.a IS NULL) AND NOT(t.b))"),
            (lit(ScalarValue::Int64(None)), "NULL:BIGINT"),
            (lit(-0.5_f64), "-5e-1:DOUBLE"),
            (lit(f64::NAN), "bits 7ff8000000000000:DOUBLE"),
            (lit(ScalarValue::Decimal128(Some(125), 3, 2)), "125:DECIMAL(3, 2)"),
            (lit(ScalarValue::Binary(Some(vec![0, 255]))), "X'00ff':BYTES"),
            (lit(ScalarValue::TimestampMillisecond(Some(5), None)), "5:TIMESTAMP(3)"),
            (datafusion_expr::cast(col("a"), DataType::Decimal128(10, 2)), "CAST(t.a AS DECIMAL(10, 2))"),
            (
                datafusion_expr::when(col("a").gt(lit(1)), lit(true)).otherwise(lit(false)).unwrap(),
                "CASE( WHEN (t.a > 1:INT) THEN TRUE:BOOLEAN ELSE FALSE:BOOLEAN)",
            ),
            (col("a").in_list(vec![lit(1), lit(2)], true), "NOT IN(t.a, 1:INT, 2:INT)"),
            (col("a").between(lit(1), lit(2)), "BETWEEN(t.a, 1:INT, 2:INT)"),
            (datafusion_functions::string::btrim().call(vec![col("a")]), "TRIM(t.a)"),
        ];
        for (expr, expected) in cases {
            assert_eq!(printed(&expr), expected, "{expr}");
        }
    }
}
