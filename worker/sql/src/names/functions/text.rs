//! Functions of text that DataFusion lacks or gives another meaning: `SPLIT_INDEX`, `REGEXP_EXTRACT`, `REGEXP_REPLACE`.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use arrow::datatypes::{DataType, Int64Type};
use datafusion_common::{Result, ScalarValue, exec_err, plan_err};
use datafusion_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use regex::Regex;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// `SPLIT_INDEX(text, delimiter, index)`: from 0, null beyond the end.
    SplitIndex,
    /// `REGEXP_EXTRACT(text, pattern[, group])`: null without a match.
    Extract,
    /// `REGEXP_REPLACE(text, pattern, replacement)`: every match.
    Replace,
}

#[derive(Debug)]
struct TextFunction {
    name: &'static str,
    kind: Kind,
    signature: Signature,
}

impl PartialEq for TextFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for TextFunction {}

impl Hash for TextFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

/// All functions of this module.
pub fn functions() -> Vec<ScalarUDF> {
    [("split_index", Kind::SplitIndex), ("regexp_extract", Kind::Extract), ("regexp_replace", Kind::Replace)]
        .into_iter()
        .map(|(name, kind)| {
            let signature = Signature::user_defined(Volatility::Immutable);
            ScalarUDF::new_from_impl(TextFunction { name, kind, signature })
        })
        .collect()
}

impl ScalarUDFImpl for TextFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<arrow::datatypes::FieldRef> {
        if matches!(self.kind, Kind::Extract | Kind::Replace)
            && let Some(Some(ScalarValue::Utf8(Some(pattern)))) = args.scalar_arguments.get(1)
            && let Err(problem) = Regex::new(pattern)
        {
            return plan_err!("{}: {}", self.name.to_ascii_uppercase(), last_line(&problem));
        }
        Ok(Arc::new(arrow::datatypes::Field::new(self.name, DataType::Utf8, true)))
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let third = match self.kind {
            Kind::SplitIndex | Kind::Extract => DataType::Int64,
            Kind::Replace => DataType::Utf8,
        };
        match (self.kind, arguments.len()) {
            (Kind::Extract, 2) => Ok(vec![DataType::Utf8, DataType::Utf8]),
            (_, 3) => Ok(vec![DataType::Utf8, DataType::Utf8, third]),
            (kind, given) => {
                let expected = if kind == Kind::Extract { "2 or 3" } else { "3" };
                plan_err!("{} takes {expected} arguments, and {given} are given", self.name.to_ascii_uppercase())
            }
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let texts = args.args[0].to_array(args.number_rows)?;
        let texts = texts.as_string::<i32>();
        let mut out = StringBuilder::with_capacity(texts.len(), texts.len() * 8);
        let second = text_at(&args, 1)?;
        match self.kind {
            Kind::SplitIndex => {
                let index = int_at(&args, 2)?;
                for text in texts {
                    out.append_option(match (text, second.as_deref(), index) {
                        (Some(text), Some(delimiter), Some(index)) if !delimiter.is_empty() => {
                            usize::try_from(index).ok().and_then(|index| text.split(delimiter).nth(index))
                        }
                        _ => None,
                    });
                }
            }
            Kind::Extract => {
                let group = if args.args.len() == 3 { int_at(&args, 2)? } else { Some(0) };
                let regex = second.as_deref().map(compiled).transpose()?;
                for text in texts {
                    out.append_option(match (text, &regex, group) {
                        (Some(text), Some(regex), Some(group)) => usize::try_from(group).ok().and_then(|group| {
                            regex.captures(text).and_then(|found| found.get(group).map(|found| found.as_str()))
                        }),
                        _ => None,
                    });
                }
            }
            Kind::Replace => {
                let replacement = text_at(&args, 2)?;
                let regex = second.as_deref().map(compiled).transpose()?;
                for text in texts {
                    match (text, &regex, &replacement) {
                        (Some(text), Some(regex), Some(replacement)) => {
                            out.append_value(regex.replace_all(text, replacement.as_str()));
                        }
                        _ => out.append_null(),
                    }
                }
            }
        }
        let result: ArrayRef = Arc::new(out.finish());
        if args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_))) && !result.is_empty() {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

fn compiled(pattern: &str) -> Result<Regex> {
    Regex::new(pattern).or_else(|problem| exec_err!("{}", last_line(&problem)))
}

fn last_line(problem: &regex::Error) -> String {
    problem.to_string().lines().last().unwrap_or_default().to_string()
}

/// A constant text; none for NULL.
fn text_at(args: &ScalarFunctionArgs, position: usize) -> Result<Option<String>> {
    match &args.args[position] {
        ColumnarValue::Scalar(ScalarValue::Utf8(text)) => Ok(text.clone()),
        ColumnarValue::Scalar(_) => Ok(None),
        ColumnarValue::Array(_) => exec_err!("argument {} must be a constant", position + 1),
    }
}

/// A constant number; none for NULL.
fn int_at(args: &ScalarFunctionArgs, position: usize) -> Result<Option<i64>> {
    match &args.args[position] {
        ColumnarValue::Scalar(ScalarValue::Int64(number)) => Ok(*number),
        ColumnarValue::Scalar(_) => Ok(None),
        ColumnarValue::Array(values) if values.as_primitive_opt::<Int64Type>().is_some() => {
            exec_err!("argument {} must be a constant", position + 1)
        }
        ColumnarValue::Array(_) => exec_err!("argument {} must be a number", position + 1),
    }
}
