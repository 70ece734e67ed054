//! Functions that are another way to write an expression: MOD, IF, CONCAT, POWER, FLOOR and CEIL of whole numbers, REGEXP.
//! They have Flink's types and Flink's treatment of NULL, and are gone once the plan is simplified.

use std::hash::{Hash, Hasher};

use arrow::datatypes::DataType;
use datafusion_common::{Result, plan_err};
use datafusion_expr::expr::{BinaryExpr, Case};
use datafusion_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion_expr::type_coercion::binary::comparison_coercion;
use datafusion_expr::{
    ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, cast,
};
use datafusion_functions::{math, regex as regexes};

use super::text::matches;
use crate::parse::types::flink_name;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Mod,
    If,
    Concat,
    ConcatWs,
    Power,
    Floor,
    Ceil,
    Regexp,
    Truncate,
}

#[derive(Debug)]
struct Rewrite {
    name: &'static str,
    aliases: Vec<String>,
    kind: Kind,
    signature: Signature,
}

impl PartialEq for Rewrite {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Rewrite {}

impl Hash for Rewrite {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

/// All functions of this module.
pub fn functions() -> Vec<ScalarUDF> {
    [
        ("mod", &[][..], Kind::Mod),
        ("if", &[], Kind::If),
        ("concat", &[], Kind::Concat),
        ("concat_ws", &[], Kind::ConcatWs),
        ("power", &["pow"], Kind::Power),
        ("floor", &[], Kind::Floor),
        ("ceil", &["ceiling"], Kind::Ceil),
        ("regexp", &["similar"], Kind::Regexp),
        ("truncate", &[], Kind::Truncate),
    ]
    .into_iter()
    .map(|(name, aliases, kind)| {
        let signature = Signature::user_defined(Volatility::Immutable);
        let aliases = aliases.iter().map(|&alias| alias.to_string()).collect();
        ScalarUDF::new_from_impl(Rewrite { name, aliases, kind, signature })
    })
    .collect()
}

impl Rewrite {
    fn wrong(&self, takes: &str, given: &[DataType]) -> Result<Vec<DataType>> {
        let given: Vec<String> = given.iter().map(flink_name).collect();
        plan_err!("{} takes {takes}, and ({}) is given", self.name.to_ascii_uppercase(), given.join(", "))
    }
}

impl ScalarUDFImpl for Rewrite {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(match (self.kind, arguments) {
            (Kind::Mod | Kind::Floor | Kind::Ceil | Kind::Truncate, [first, ..]) => first.clone(),
            (Kind::If, [_, then, _]) => then.clone(),
            (Kind::Power, _) => DataType::Float64,
            (Kind::Regexp, _) => DataType::Boolean,
            _ => DataType::Utf8,
        })
    }

    #[allow(clippy::match_same_arms, reason = "a table of functions in order")]
    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let numeric = |data_type: &DataType| data_type.is_numeric() || *data_type == DataType::Null;
        match (self.kind, arguments) {
            (Kind::Mod, [left, right]) if numeric(left) && numeric(right) => match comparison_coercion(left, right) {
                Some(both) => Ok(vec![both.clone(), both]),
                None => self.wrong("two numbers", arguments),
            },
            (Kind::Mod, _) => self.wrong("two numbers", arguments),
            (Kind::If, [_, then, other]) => match comparison_coercion(then, other) {
                Some(both) => Ok(vec![DataType::Boolean, both.clone(), both]),
                None => self.wrong("a condition and two values of one type", arguments),
            },
            (Kind::If, _) => self.wrong("a condition and two values of one type", arguments),
            (Kind::Concat, [_, ..]) | (Kind::ConcatWs, [_, _, ..]) => Ok(vec![DataType::Utf8; arguments.len()]),
            (Kind::Concat | Kind::ConcatWs, _) => self.wrong("texts", arguments),
            (Kind::Power, [left, right]) if numeric(left) && numeric(right) => {
                Ok(vec![DataType::Float64, DataType::Float64])
            }
            (Kind::Power, _) => self.wrong("two numbers", arguments),
            (Kind::Floor | Kind::Ceil, [number]) if numeric(number) => Ok(vec![number.clone()]),
            (Kind::Floor | Kind::Ceil, _) => self.wrong("a number, or a time and TO with a unit", arguments),
            (Kind::Truncate, [number]) if numeric(number) => Ok(vec![number.clone()]),
            (Kind::Truncate, [number, places]) if numeric(number) && numeric(places) => {
                Ok(vec![number.clone(), DataType::Int64])
            }
            (Kind::Truncate, _) => self.wrong("a number and the number of places", arguments),
            (Kind::Regexp, [_, _]) => Ok(vec![DataType::Utf8, DataType::Utf8]),
            (Kind::Regexp, _) => self.wrong("a text and a pattern", arguments),
        }
    }

    fn simplify(&self, mut args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let call = |function: std::sync::Arc<ScalarUDF>, args: Vec<Expr>| function.call(args);
        let expr = match self.kind {
            Kind::Mod => {
                let right = args.remove(1);
                binary(args.remove(0), Operator::Modulo, right)
            }
            Kind::If => {
                let other = args.remove(2);
                let then = args.remove(1);
                let condition = args.remove(0);
                Expr::Case(Case::new(None, vec![(Box::new(condition), Box::new(then))], Some(Box::new(other))))
            }
            Kind::Concat => {
                let mut args = args.into_iter();
                let Some(first) = args.next() else { return Ok(ExprSimplifyResult::Original(Vec::new())) };
                args.fold(first, |left, right| binary(left, Operator::StringConcat, right))
            }
            Kind::ConcatWs => call(datafusion_functions::string::concat_ws(), args),
            Kind::Power => call(math::power(), args),
            Kind::Floor | Kind::Ceil | Kind::Truncate => {
                let data_type = info.get_data_type(&args[0])?;
                if data_type.is_integer() {
                    args.swap_remove(0)
                } else {
                    let function = match self.kind {
                        Kind::Floor => math::floor(),
                        Kind::Ceil => math::ceil(),
                        _ => math::trunc(),
                    };
                    cast(call(function, args), data_type)
                }
            }
            // The pattern of a column is compiled with bounds.
            Kind::Regexp if !matches!(args[1], Expr::Literal(..)) => call(std::sync::Arc::new(matches()), args),
            Kind::Regexp => call(regexes::regexp_like(), args),
        };
        Ok(ExprSimplifyResult::Simplified(expr))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        // Reached only where a constant is folded before the call is rewritten.
        let fields = args.arg_fields.clone();
        let schema = datafusion_common::DFSchema::from_unqualified_fields(
            fields
                .iter()
                .enumerate()
                .map(|(index, field)| field.as_ref().clone().with_name(format!("a{index}")))
                .collect::<Vec<_>>()
                .into(),
            std::collections::HashMap::new(),
        )?;
        let names: Vec<Expr> = (0..fields.len()).map(|index| Expr::Column(format!("a{index}").into())).collect();
        let schema = std::sync::Arc::new(schema);
        let context = SimplifyContext::builder().with_schema(std::sync::Arc::clone(&schema)).build();
        let ExprSimplifyResult::Simplified(expr) = self.simplify(names, &context)? else {
            return Ok(ColumnarValue::Scalar(lit_null(args.return_type())?));
        };
        let physical = crate::logical::exprs::physical(&expr, &schema)?;
        let columns = args.args.iter().map(|arg| arg.to_array(args.number_rows)).collect::<Result<Vec<_>>>()?;
        let arrow_schema = std::sync::Arc::new(schema.as_arrow().clone());
        physical.evaluate(&arrow::array::RecordBatch::try_new(arrow_schema, columns)?)
    }
}

fn lit_null(data_type: &DataType) -> Result<datafusion_common::ScalarValue> {
    datafusion_common::ScalarValue::try_new_null(data_type)
}

fn binary(left: Expr, operator: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), operator, Box::new(right)))
}
