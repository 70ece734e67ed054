//! What is wrong with a script, where, and what to write instead.

use std::fmt;

use datafusion_common::{DataFusionError, SchemaError};
use datafusion_sql::sqlparser::parser::ParserError;
use datafusion_sql::sqlparser::tokenizer::{Location, Span};
use serde::{Deserialize, Serialize};

/// A line and a column of the script, both from 1. Zero means that the place is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// From 1.
    pub line: u64,
    /// From 1, in characters.
    pub column: u64,
}

impl Place {
    /// Whether there is a place at all.
    pub fn is_known(self) -> bool {
        self.line > 0
    }

    /// This place, or the other where this one is not known.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if self.is_known() { self } else { other }
    }
}

impl From<Location> for Place {
    fn from(location: Location) -> Self {
        Self { line: location.line, column: location.column }
    }
}

impl From<Span> for Place {
    fn from(span: Span) -> Self {
        span.start.into()
    }
}

/// A script that cannot be planned. Nothing has been started when it is raised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanError {
    /// The line, from 1.
    pub line: Option<u64>,
    /// The column, from 1.
    pub column: Option<u64>,
    /// What is wrong.
    pub message: String,
    /// What to write instead; empty where the message says it already.
    pub remedy: String,
}

impl PlanError {
    /// An error at a place.
    pub fn new(place: impl Into<Place>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        let place = place.into();
        Self {
            line: place.is_known().then_some(place.line),
            column: place.is_known().then_some(place.column),
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    /// Where it is; unknown if nobody could say.
    pub fn place(&self) -> Place {
        Place { line: self.line.unwrap_or(0), column: self.column.unwrap_or(0) }
    }

    /// The same error, at `place` if it had none.
    #[must_use]
    pub fn or_at(self, place: Place) -> Self {
        if self.line.is_some() { self } else { Self::new(place, self.message, self.remedy) }
    }

    /// As an error that travels through the SQL planner and comes out unchanged at [`PlanError::from_planner`].
    pub fn into_planner(self) -> DataFusionError {
        DataFusionError::External(Box::new(self))
    }

    /// An error of the tokenizer or parser. Its text ends in the place.
    pub fn from_parser(error: &ParserError) -> Self {
        let text = match error {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.as_str(),
            ParserError::RecursionLimitExceeded => {
                let remedy = "compute the inner part in a view, and select from it";
                return Self::new(Place::default(), "the statement is nested too deeply", remedy);
            }
        };
        let (message, place) = match text.rsplit_once(" at Line: ") {
            Some((message, place)) => {
                let mut numbers = place.split(", Column: ").map(|number| number.trim().parse().unwrap_or(0));
                (message, Place { line: numbers.next().unwrap_or(0), column: numbers.next().unwrap_or(0) })
            }
            None => (text, Place::default()),
        };
        let message = message.strip_prefix("sql parser error: ").unwrap_or(message);
        Self::new(place, message, "")
    }

    /// An error of the SQL planner, at the place that it names, else at `fallback`.
    pub fn from_planner(error: &DataFusionError, fallback: Place) -> Self {
        Self::read_planner(error).or_at(fallback)
    }

    fn read_planner(error: &DataFusionError) -> Self {
        match error {
            DataFusionError::External(inner) => match inner.downcast_ref::<PlanError>() {
                Some(ours) => ours.clone(),
                None => Self::new(Place::default(), inner.to_string(), ""),
            },
            DataFusionError::Context(_, inner) => Self::read_planner(inner),
            DataFusionError::Shared(inner) => Self::read_planner(inner),
            DataFusionError::Collection(errors) if !errors.is_empty() => Self::read_planner(&errors[0]),
            DataFusionError::Diagnostic(diagnostic, inner) => {
                let place = diagnostic
                    .span
                    .map_or(Place::default(), |span| Place { line: span.start.line, column: span.start.column });
                Self::read_planner(inner).or_at(place)
            }
            DataFusionError::SchemaError(schema, _) => Self::from_schema(schema),
            DataFusionError::Plan(text) | DataFusionError::NotImplemented(text) | DataFusionError::Execution(text) => {
                Self::new(Place::default(), first_line(text), "")
            }
            DataFusionError::ArrowError(inner, _) => Self::new(Place::default(), inner.to_string(), ""),
            DataFusionError::SQL(inner, _) => Self::from_parser(inner),
            other => Self::new(Place::default(), first_line(&other.strip_backtrace()), ""),
        }
    }

    fn from_schema(error: &SchemaError) -> Self {
        match error {
            SchemaError::FieldNotFound { field, valid_fields } => {
                let place = field
                    .spans
                    .first()
                    .map_or(Place::default(), |span| Place { line: span.start.line, column: span.start.column });
                let names: Vec<&str> = valid_fields.iter().map(|field| field.name.as_str()).collect();
                let remedy = match nearest(&field.name, names.iter().copied()) {
                    Some(near) => format!("did you mean {near}? Names are case-sensitive"),
                    None if names.is_empty() => "there are no columns here".to_string(),
                    None => format!("the columns here are {}", names.join(", ")),
                };
                let name = field.relation.as_ref().map_or_else(String::new, |relation| format!("{relation}."));
                Self::new(place, format!("there is no column {name}{}", field.name), remedy)
            }
            SchemaError::AmbiguousReference { field } => {
                let place = field
                    .spans
                    .first()
                    .map_or(Place::default(), |span| Place { line: span.start.line, column: span.start.column });
                Self::new(
                    place,
                    format!("the column {} is ambiguous", field.name),
                    "write the table's name or alias before it",
                )
            }
            SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
                Self::new(
                    Place::default(),
                    format!("two columns have the name {name}"),
                    "give one of them another name with AS",
                )
            }
        }
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(out, "line {line}, column {column}: ")?;
        }
        out.write_str(&self.message)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(out, ": {}", self.remedy) }
    }
}

impl std::error::Error for PlanError {}

/// The planner's types, and Flink's names for them.
const TYPES: [(&str, &str); 14] = [
    ("Timestamp(ms, \"UTC\")", "TIMESTAMP_LTZ(3)"),
    ("Timestamp(ms)", "TIMESTAMP(3)"),
    ("Timestamp(µs)", "TIMESTAMP(6)"),
    ("Interval(MonthDayNano)", "INTERVAL"),
    ("Boolean", "BOOLEAN"),
    ("Int64", "BIGINT"),
    ("Int32", "INT"),
    ("Int16", "SMALLINT"),
    ("Int8", "TINYINT"),
    ("Float64", "DOUBLE"),
    ("Float32", "FLOAT"),
    ("Utf8", "STRING"),
    ("Date32", "DATE"),
    ("Decimal128", "DECIMAL"),
];

/// The first line, which says what is wrong, in Flink's words.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let line = line.strip_prefix("Error during planning: ").unwrap_or(line).to_string();
    TYPES.iter().fold(line, |line, (planner, flink)| line.replace(planner, flink))
}

/// The candidate with the fewest edits from `name`, case aside, if that is at most a third of its length.
pub fn nearest<'n>(name: &str, candidates: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let name = name.to_ascii_lowercase();
    candidates
        .map(|candidate| (edits(&name, &candidate.to_ascii_lowercase()), candidate))
        .min()
        .filter(|&(edits, candidate)| edits <= candidate.len().max(3) / 3 && edits < candidate.len())
        .map(|(_, candidate)| candidate)
}

/// `did you mean x?`, or the whole list where nothing is near.
pub fn suggest<'n>(name: &str, what: &str, candidates: impl Iterator<Item = &'n str> + Clone) -> String {
    match nearest(name, candidates.clone()) {
        Some(near) => format!("did you mean {near}?"),
        None => {
            let all: Vec<&str> = candidates.collect();
            if all.is_empty() { format!("there are no {what}") } else { format!("the {what} are {}", all.join(", ")) }
        }
    }
}

/// Levenshtein's distance in bytes.
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.bytes().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}
