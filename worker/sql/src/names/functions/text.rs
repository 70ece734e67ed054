//! Functions of text that DataFusion lacks or gives another meaning: `SPLIT_INDEX`, `REGEXP_EXTRACT`, `REGEXP_REPLACE`. Each
//! argument may be a column. A pattern that is one gives NULL (`REGEXP`: FALSE) where it has no meaning; a constant one is refused then.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArray};
use arrow::datatypes::{DataType, Int64Type};
use datafusion_common::{Result, ScalarValue, exec_err, plan_err};
use datafusion_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use regex::{NoExpand, Regex};

use super::compiled::Compiled;
use super::java_regex;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// `SPLIT_INDEX(text, delimiter, index)`: from 0, null beyond the end.
    SplitIndex,
    /// `REGEXP_EXTRACT(text, pattern[, group])`: null without a match.
    Extract,
    /// `REGEXP_REPLACE(text, pattern, replacement)`: every match.
    Replace,
    /// `REGEXP(text, pattern)`.
    Matches,
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
        .map(|(name, kind)| function(name, kind))
        .collect()
}

fn function(name: &'static str, kind: Kind) -> ScalarUDF {
    ScalarUDF::new_from_impl(TextFunction { name, kind, signature: Signature::user_defined(Volatility::Immutable) })
}

impl ScalarUDFImpl for TextFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(if self.kind == Kind::Matches { DataType::Boolean } else { DataType::Utf8 })
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<arrow::datatypes::FieldRef> {
        if self.kind != Kind::SplitIndex
            && let Some(Some(ScalarValue::Utf8(Some(pattern)))) = args.scalar_arguments.get(1)
            && let Err(problem) = java_regex::compile(pattern)
        {
            return plan_err!("{}: {problem}", self.name.to_ascii_uppercase());
        }
        Ok(Arc::new(arrow::datatypes::Field::new(self.name, self.return_type(&[])?, true)))
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let third = match self.kind {
            Kind::SplitIndex | Kind::Extract => DataType::Int64,
            Kind::Replace | Kind::Matches => DataType::Utf8,
        };
        match (self.kind, arguments.len()) {
            (Kind::Extract | Kind::Matches, 2) => Ok(vec![DataType::Utf8, DataType::Utf8]),
            (_, 3) => Ok(vec![DataType::Utf8, DataType::Utf8, third]),
            (kind, given) => {
                let expected = if kind == Kind::Extract { "2 or 3" } else { "3" };
                plan_err!("{} takes {expected} arguments, and {given} are given", self.name.to_ascii_uppercase())
            }
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let texts = Argument::new(&args, 0)?;
        let second = Argument::new(&args, 1)?;
        let mut patterns = match (self.kind, &args.args[1]) {
            (Kind::SplitIndex, _) => Patterns::Column(Compiled::regexes()),
            (_, ColumnarValue::Scalar(ScalarValue::Utf8(Some(pattern)))) => {
                Patterns::Constant(java_regex::compile(pattern).or_else(|problem| exec_err!("{problem}"))?)
            }
            _ => Patterns::Column(Compiled::regexes()),
        };
        let result: ArrayRef = match self.kind {
            Kind::SplitIndex => {
                let indexes = Argument::new(&args, 2)?;
                let item = |row| part(texts.text(row)?, second.text(row)?, indexes.number(row)?);
                Arc::new((0..rows).map(item).collect::<StringArray>())
            }
            Kind::Extract => {
                let groups = if args.args.len() == 3 { Some(Argument::new(&args, 2)?) } else { None };
                // Where the groups of a constant pattern stand is kept for the next row.
                let mut locations = match &patterns {
                    Patterns::Constant(regex) => Some(regex.capture_locations()),
                    Patterns::Column(_) => None,
                };
                let group = |row| {
                    let group = groups.as_ref().map_or(Some(0), |groups| groups.number(row))?;
                    let (pattern, text) = (second.text(row)?, texts.text(row)?);
                    let (regex, group) = (patterns.get(pattern)?, usize::try_from(group).ok()?);
                    match &mut locations {
                        _ if group == 0 => regex.find(text).map(|found| found.as_str()),
                        Some(locations) => {
                            regex.captures_read(locations, text)?;
                            locations.get(group).map(|(from, to)| &text[from..to])
                        }
                        None => regex.captures(text)?.get(group).map(|found| found.as_str()),
                    }
                };
                Arc::new((0..rows).map(group).collect::<StringArray>())
            }
            Kind::Replace => {
                let replacements = Argument::new(&args, 2)?;
                let replaced = |row| {
                    let (text, replacement) = (texts.text(row)?, replacements.text(row)?);
                    Some(patterns.get(second.text(row)?)?.replace_all(text, NoExpand(replacement)))
                };
                Arc::new((0..rows).map(replaced).collect::<StringArray>())
            }
            Kind::Matches => {
                // Nothing is found by a pattern that is empty, or that is none.
                let matches = |row| {
                    let (text, pattern) = (texts.text(row)?, second.text(row)?);
                    Some(!pattern.is_empty() && patterns.get(pattern).is_some_and(|regex| regex.is_match(text)))
                };
                Arc::new((0..rows).map(matches).collect::<BooleanArray>())
            }
        };
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

/// What is looked for: one pattern, which has a meaning, or one a row.
enum Patterns {
    Constant(Regex),
    Column(Compiled<Regex>),
}

impl Patterns {
    fn get(&mut self, pattern: &str) -> Option<&Regex> {
        match self {
            Self::Constant(regex) => Some(regex),
            Self::Column(compiled) => compiled.get(pattern),
        }
    }
}

/// An argument, row by row.
struct Argument {
    array: ArrayRef,
    constant: bool,
}

impl Argument {
    fn new(args: &ScalarFunctionArgs, position: usize) -> Result<Self> {
        Ok(match &args.args[position] {
            ColumnarValue::Scalar(value) => Self { array: value.to_array()?, constant: true },
            ColumnarValue::Array(array) => Self { array: Arc::clone(array), constant: false },
        })
    }

    /// The row that holds its value, unless that is NULL.
    fn row(&self, row: usize) -> Option<usize> {
        Some(if self.constant { 0 } else { row }).filter(|row| self.array.is_valid(*row))
    }

    fn text(&self, row: usize) -> Option<&str> {
        let row = self.row(row)?;
        self.array.as_string_opt::<i32>().map(|texts| texts.value(row))
    }

    fn number(&self, row: usize) -> Option<i64> {
        let row = self.row(row)?;
        self.array.as_primitive_opt::<Int64Type>().map(|numbers| numbers.value(row))
    }
}

/// What `REGEXP` becomes.
pub fn matches() -> ScalarUDF {
    function("regexp_like", Kind::Matches)
}

/// The part of a text at this index. An empty text has no parts, and one that nothing divides is one.
fn part<'t>(text: &'t str, delimiter: &str, index: i64) -> Option<&'t str> {
    let index = usize::try_from(index).ok().filter(|_| !text.is_empty())?;
    match delimiter.as_bytes() {
        [] => (index == 0).then_some(text),
        // Bytes of ASCII are found many at a time.
        &[byte] if byte.is_ascii() => text.split(char::from(byte)).nth(index),
        _ => text.split(delimiter).nth(index),
    }
}
