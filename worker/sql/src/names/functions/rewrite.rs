//! Functions that are another way to write an expression: MOD, IF, CONCAT, REGEXP.
//! They have Flink's types and Flink's treatment of NULL, and are gone once the plan is simplified.

use std::hash::{Hash, Hasher};

use arrow::datatypes::DataType;
use datafusion_common::{Result, plan_err};
use datafusion_expr::expr::{BinaryExpr, Case};
use datafusion_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion_expr::type_coercion::binary::comparison_coercion;
use datafusion_expr::{
    ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::text::matches;
use crate::parse::types::flink_name;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Mod,
    If,
    Concat,
    ConcatWs,
    Regexp,
}

#[derive(Debug)]
struct Rewrite {
    name: &'static str,
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
        ("mod", Kind::Mod),
        ("if", Kind::If),
        ("concat", Kind::Concat),
        ("concat_ws", Kind::ConcatWs),
        ("regexp", Kind::Regexp),
    ]
    .into_iter()
    .map(|(name, kind)| {
        let signature = Signature::user_defined(Volatility::Immutable);
        ScalarUDF::new_from_impl(Rewrite { name, kind, signature })
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

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(match (self.kind, arguments) {
            (Kind::Mod, [_, second, ..]) => second.clone(),
            (Kind::If, [_, then, _]) => then.clone(),
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
            (Kind::Concat, [_, ..]) | (Kind::ConcatWs, [_, _, ..])
                if arguments.iter().all(|argument| matches!(argument, DataType::Utf8 | DataType::Null)) =>
            {
                Ok(vec![DataType::Utf8; arguments.len()])
            }
            (Kind::Concat | Kind::ConcatWs, _) => self.wrong("texts", arguments),
            (Kind::Regexp, [_, _]) => Ok(vec![DataType::Utf8, DataType::Utf8]),
            (Kind::Regexp, _) => self.wrong("a text and a pattern", arguments),
        }
    }

    fn simplify(&self, mut args: Vec<Expr>, _info: &SimplifyContext) -> Result<ExprSimplifyResult> {
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
            Kind::Regexp => call(std::sync::Arc::new(matches()), args),
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
