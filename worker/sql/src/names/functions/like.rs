//! LIKE and SIMILAR TO with Flink's meaning: only the character after ESCAPE escapes, `_` is one character but no end of a line, and a
//! pattern of SIMILAR TO is one of SQL, which has to match the whole text.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::datatypes::DataType;
use datafusion_common::{Result, ScalarValue, exec_err, plan_err};
use datafusion_expr::{
    ColumnarValue, Expr, Like, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use regex::{Regex, RegexBuilder};

use super::compiled::{Compiled, MAX_REGEX};
use super::kernel::Call;

/// Bytes of a pattern. One that has `_` is compared at every place of a text.
const MAX_PATTERN: usize = 64 << 10;

/// Characters of a pattern that an error tells.
const TOLD: usize = 64;

/// What ends a line in Java, which `_` and `.` do not stand for, for a regular expression and as characters.
const NOT_AN_END: &str = "[^\\n\\r\\u{85}\\u{2028}\\u{2029}]";
const ENDS: [char; 5] = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'];

#[derive(Debug, PartialEq, Eq, Hash)]
struct Matching {
    name: String,
    similar: bool,
    escape: Option<char>,
    signature: Signature,
}

/// `text LIKE pattern`. The planner's own stays where the pattern is known and has nothing that it reads differently.
pub fn like(like: Like) -> Result<Expr> {
    let is_same = match like.pattern.as_ref() {
        Expr::Literal(ScalarValue::Utf8(Some(pattern)), _) => {
            like.escape_char.is_none() && !pattern.contains(['_', '\\'])
        }
        Expr::Literal(ScalarValue::Null | ScalarValue::Utf8(None), _) => true,
        _ => false,
    };
    if is_same { Ok(Expr::Like(like)) } else { planned(like, false) }
}

/// `text SIMILAR TO pattern`.
pub fn similar(like: Like) -> Result<Expr> {
    planned(like, true)
}

fn planned(like: Like, similar: bool) -> Result<Expr> {
    let Like { negated, expr, pattern, escape_char, .. } = like;
    let operator = if similar { "similar to" } else { "like" };
    let name = match escape_char {
        Some(escape) => format!("{operator} escape '{escape}'"),
        None => operator.to_string(),
    };
    let signature = Signature::uniform(2, vec![DataType::Utf8], Volatility::Immutable);
    let matching = Matching { name, similar, escape: escape_char, signature };
    if let Expr::Literal(ScalarValue::Utf8(Some(pattern)), _) = pattern.as_ref()
        && similar
        && let Err(problem) = matching.compile(pattern)
    {
        return plan_err!("{problem}");
    }
    let matches = ScalarUDF::new_from_impl(matching).call(vec![*expr, *pattern]);
    Ok(if negated { Expr::Not(Box::new(matches)) } else { matches })
}

impl Matching {
    /// The error is a clause.
    fn compile(&self, pattern: &str) -> std::result::Result<Matcher, String> {
        let name = if self.similar { "SIMILAR TO" } else { "LIKE" };
        if pattern.len() > MAX_PATTERN {
            return Err(format!("the pattern of {name} has {} bytes, and {MAX_PATTERN} are the most", pattern.len()));
        }
        let told = || pattern.chars().take(TOLD).collect::<String>();
        let dangling = || format!("{name}: the escape in '{}' stands before nothing that it escapes", told());
        if !self.similar {
            return Wildcards::read(pattern, self.escape).map(Matcher::Wildcards).ok_or_else(dangling);
        }
        let text = similar_text(pattern, self.escape).ok_or_else(dangling)?;
        let mut builder = RegexBuilder::new(&format!("^(?:{text})$"));
        match builder.size_limit(MAX_REGEX).dfa_size_limit(MAX_REGEX).build() {
            Ok(regex) => Ok(Matcher::Regex(regex)),
            Err(_) => Err(format!("{name} cannot read the pattern '{}'", told())),
        }
    }
}

impl ScalarUDFImpl for Matching {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn return_field_from_args(&self, _args: ReturnFieldArgs<'_>) -> Result<arrow::datatypes::FieldRef> {
        Ok(Arc::new(arrow::datatypes::Field::new(self.name(), DataType::Boolean, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let call = Call::new(&args.args, args.number_rows, &DataType::Boolean)?;
        let (texts, patterns) = (call.texts(0)?, call.texts(1)?);
        let read = |pattern: &str| self.compile(pattern).or_else(|problem| exec_err!("{problem}"));
        let values: BooleanArray = if let Some(pattern) = patterns.constant() {
            let matcher = read(pattern)?;
            (0..call.rows).map(|row| texts.get(row).map(|text| matcher.matches(text))).collect()
        } else {
            let (similar, escape) = (self.similar, self.escape);
            let mut compiled = Compiled::by(move |pattern| {
                let name = String::new();
                let matching = Self { name, similar, escape, signature: Signature::nullary(Volatility::Immutable) };
                matching.compile(pattern).ok()
            });
            let matches = |row| {
                let Some((text, pattern)) = texts.get(row).zip(patterns.get(row)) else { return Ok(None) };
                match compiled.get(pattern) {
                    Some(matcher) => Ok(Some(matcher.matches(text))),
                    None => read(pattern).map(|matcher| Some(matcher.matches(text))),
                }
            };
            (0..call.rows).map(matches).collect::<Result<_>>()?
        };
        let values: ArrayRef = Arc::new(values);
        if args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_))) {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&values, 0)?));
        }
        Ok(ColumnarValue::Array(values))
    }
}

/// A compiled pattern.
enum Matcher {
    Wildcards(Wildcards),
    Regex(Regex),
}

impl Matcher {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Wildcards(wildcards) => wildcards.matches(text),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

/// A pattern of LIKE: what stands between its `%`, one at least.
struct Wildcards {
    runs: Vec<Run>,
}

/// Characters, and `_` as none.
struct Run(Vec<Piece>);

enum Piece {
    Text(String),
    One,
}

impl Wildcards {
    /// None if an escape stands before nothing that it escapes.
    fn read(pattern: &str, escape: Option<char>) -> Option<Self> {
        let (mut runs, mut run, mut literal) = (Vec::new(), Vec::new(), String::new());
        let mut rest = pattern.chars();
        while let Some(ch) = rest.next() {
            if Some(ch) == escape {
                literal.push(rest.next().filter(|next| matches!(next, '_' | '%') || Some(*next) == escape)?);
                continue;
            }
            if !matches!(ch, '%' | '_') {
                literal.push(ch);
                continue;
            }
            if !literal.is_empty() {
                run.push(Piece::Text(std::mem::take(&mut literal)));
            }
            if ch == '_' {
                run.push(Piece::One);
            } else {
                runs.push(Run(std::mem::take(&mut run)));
            }
        }
        if !literal.is_empty() {
            run.push(Piece::Text(literal));
        }
        runs.push(Run(run));
        Some(Self { runs })
    }

    fn matches(&self, text: &str) -> bool {
        let (Some((first, rest)), Some(last)) = (self.runs.split_first(), self.runs.last()) else { return false };
        let Some(text) = first.before(text) else { return false };
        let Some((_, middle)) = rest.split_last() else { return text.is_empty() };
        // The first place of each run leaves the most to those that follow.
        let text = middle.iter().try_fold(text, |text, run| run.within(text));
        text.is_some_and(|text| last.behind(text))
    }
}

impl Run {
    /// What follows, where the text begins so.
    fn before<'t>(&self, text: &'t str) -> Option<&'t str> {
        self.0.iter().try_fold(text, |text, piece| match piece {
            Piece::Text(literal) => text.strip_prefix(literal.as_str()),
            Piece::One => text.strip_prefix(|ch| !ENDS.contains(&ch)),
        })
    }

    /// Whether the text ends so.
    fn behind(&self, text: &str) -> bool {
        let rest = self.0.iter().rev().try_fold(text, |text, piece| match piece {
            Piece::Text(literal) => text.strip_suffix(literal.as_str()),
            Piece::One => text.strip_suffix(|ch| !ENDS.contains(&ch)),
        });
        rest.is_some()
    }

    /// What follows the first place where it stands.
    fn within<'t>(&self, mut text: &'t str) -> Option<&'t str> {
        loop {
            if let Some(Piece::Text(literal)) = self.0.first() {
                text = &text[text.find(literal.as_str())?..];
            }
            if let Some(rest) = self.before(text) {
                return Some(rest);
            }
            let mut rest = text.chars();
            rest.next()?;
            text = rest.as_str();
        }
    }
}

/// Classes of characters that SQL names.
const CLASSES: [(&str, &str); 7] = [
    ("[:alpha:]", "A-Za-z"),
    ("[:upper:]", "A-Z"),
    ("[:lower:]", "a-z"),
    ("[:digit:]", "0-9"),
    ("[:space:]", " "),
    ("[:whitespace:]", " \\t\\n\\x0B\\f\\r"),
    ("[:alnum:]", "0-9A-Za-z"),
];

fn similar_text(pattern: &str, escape: Option<char>) -> Option<String> {
    let mut out = String::new();
    let mut rest = pattern;
    let mut in_set = false;
    while let Some(ch) = rest.chars().next() {
        let mut after = &rest[ch.len_utf8()..];
        if Some(ch) == escape {
            let escaped = after.chars().next()?;
            out.push_str(&regex::escape(&escaped.to_string()));
            after = &after[escaped.len_utf8()..];
        } else if in_set {
            let class = CLASSES
                .iter()
                .find(|(name, _)| rest.get(..name.len()).is_some_and(|head| head.eq_ignore_ascii_case(name)));
            match (class, ch) {
                (Some((name, class)), _) => {
                    out.push_str(class);
                    after = &rest[name.len()..];
                }
                (None, '[' | '\\' | '&' | '~') => {
                    out.push('\\');
                    out.push(ch);
                }
                (None, _) => {
                    in_set = ch != ']';
                    out.push(ch);
                }
            }
        } else {
            match ch {
                '%' => out.push_str("(?s:.*)"),
                '_' | '.' => out.push_str(NOT_AN_END),
                '\\' => out.push_str("\\\\"),
                '#' => out.push_str("\\#"),
                _ => {
                    in_set = ch == '[';
                    out.push(ch);
                }
            }
        }
        rest = after;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_as_the_regular_expression_that_they_stand_for() {
        let mut seed = 7_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        for _ in 0..20_000 {
            let pattern: String = (0..random(7)).map(|_| ['a', 'b', 'ä', '%', '%', '_', '\n'][random(7)]).collect();
            let text: String = (0..random(9)).map(|_| ['a', 'b', 'ä', '\n', 'a'][random(5)]).collect();
            let regex: String = pattern
                .chars()
                .map(|ch| match ch {
                    '%' => "(?s:.*)".to_string(),
                    '_' => NOT_AN_END.to_string(),
                    other => regex::escape(&other.to_string()),
                })
                .collect();
            let expected = Regex::new(&format!("^(?:{regex})$")).unwrap().is_match(&text);
            let found = Wildcards::read(&pattern, None).unwrap().matches(&text);
            assert_eq!(found, expected, "{text:?} LIKE {pattern:?}");
        }
    }
}
