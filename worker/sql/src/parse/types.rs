//! Flink's data types: how they are written, which Arrow type carries each, and which casts happen by themselves.
//!
//! A timestamp of precision up to 3 is kept in milliseconds, up to 6 in microseconds, above in nanoseconds; one "with local
//! time zone" carries the zone UTC, and the session's zone is UTC. Every text type is `Utf8`, every byte type `Binary`: the
//! lengths of CHAR and VARCHAR are read and not enforced, as Flink does by default.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, IntervalUnit, TimeUnit};
use datafusion_common::Result as PlannerResult;
use datafusion_expr::planner::TypePlanner;
use datafusion_sql::sqlparser::ast::{self, ExactNumberInfo, TimezoneInfo};
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::error::{Place, PlanError, suggest};
use crate::names::functions::cast::Shape;

const NAMES: &[&str] = &[
    "BOOLEAN",
    "TINYINT",
    "SMALLINT",
    "INT",
    "BIGINT",
    "FLOAT",
    "DOUBLE",
    "DECIMAL",
    "STRING",
    "CHAR",
    "VARCHAR",
    "BYTES",
    "BINARY",
    "VARBINARY",
    "DATE",
    "TIME",
    "TIMESTAMP",
    "TIMESTAMP_LTZ",
    "ROW",
];

/// The type of `TIMESTAMP(3)`, which event time has.
pub const TIMESTAMP: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);

/// The type of `TIMESTAMP_LTZ(3)`, which processing time has.
pub fn timestamp_ltz() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

/// ROWs within each other. All that handles a value recurses over its type, on stacks of every size.
const MAX_ROWS: usize = 32;

/// Reads a type where the parser stands. Says whether `NOT NULL` followed as `false` for nullable.
pub fn parse_type(parser: &mut Parser<'_>) -> Result<(DataType, bool), PlanError> {
    parse_type_within(parser, 0)
}

/// Within so many ROWs.
fn parse_type_within(parser: &mut Parser<'_>, rows: usize) -> Result<(DataType, bool), PlanError> {
    let token = parser.next_token();
    let Token::Word(word) = &token.token else {
        return Err(expected("a data type", &token));
    };
    let name = word.value.to_ascii_uppercase();
    let place = Place::from(token.span);
    let data_type = match name.as_str() {
        "BOOLEAN" => DataType::Boolean,
        "TINYINT" => DataType::Int8,
        "SMALLINT" => DataType::Int16,
        "INT" | "INTEGER" => DataType::Int32,
        "BIGINT" => DataType::Int64,
        "FLOAT" | "REAL" => DataType::Float32,
        "DOUBLE" => {
            consume_word(parser, "PRECISION");
            DataType::Float64
        }
        "DECIMAL" | "DEC" | "NUMERIC" => {
            let numbers = parse_numbers(parser)?;
            decimal(place, numbers.first().copied(), numbers.get(1).copied())?
        }
        "STRING" | "TEXT" => DataType::Utf8,
        "CHAR" | "VARCHAR" => {
            parse_numbers(parser)?;
            DataType::Utf8
        }
        "CHARACTER" => {
            consume_word(parser, "VARYING");
            parse_numbers(parser)?;
            DataType::Utf8
        }
        "BYTES" => DataType::Binary,
        "BINARY" | "VARBINARY" => {
            parse_numbers(parser)?;
            DataType::Binary
        }
        "DATE" => DataType::Date32,
        "TIME" => {
            parse_numbers(parser)?;
            DataType::Time32(TimeUnit::Millisecond)
        }
        "TIMESTAMP" => {
            let precision = parse_numbers(parser)?.first().copied();
            let local = parse_zone(parser, place)?;
            timestamp(place, precision, local)?
        }
        "TIMESTAMP_LTZ" => {
            let precision = parse_numbers(parser)?.first().copied();
            timestamp(place, precision, true)?
        }
        "ROW" if rows == MAX_ROWS => {
            return Err(PlanError::new(
                place,
                format!("a ROW within {MAX_ROWS} others is not supported"),
                "declare the inner one as STRING, or leave it out of the table",
            ));
        }
        "ROW" => DataType::Struct(parse_row(parser, rows + 1)?),
        "ARRAY" | "MAP" | "MULTISET" | "RAW" | "VARIANT" => {
            return Err(PlanError::new(
                place,
                format!("columns of type {name} are not supported"),
                "declare the column as STRING, or leave it out of the table",
            ));
        }
        _ => {
            return Err(PlanError::new(
                place,
                format!("there is no data type {}", word.value),
                suggest(&name, "types", NAMES.iter().copied()),
            ));
        }
    };
    let nullable = if consume_word(parser, "NOT") {
        expect_word(parser, "NULL")?;
        false
    } else {
        consume_word(parser, "NULL");
        true
    };
    Ok((data_type, nullable))
}

/// `<a INT, b STRING>` or `(a INT, b STRING)`.
fn parse_row(parser: &mut Parser<'_>, rows: usize) -> Result<Fields, PlanError> {
    let angled = parser.consume_token(&Token::Lt);
    if !angled && !parser.consume_token(&Token::LParen) {
        return Err(expected("'<' after ROW", &parser.peek_token()));
    }
    let mut fields = Vec::new();
    loop {
        let name = parser.parse_identifier().map_err(|error| PlanError::from_parser(&error))?;
        let (data_type, nullable) = parse_type_within(parser, rows)?;
        if consume_word(parser, "COMMENT") {
            parser.parse_literal_string().map_err(|error| PlanError::from_parser(&error))?;
        }
        fields.push(Field::new(name.value, data_type, nullable));
        if !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    let token = parser.peek_token();
    match (angled, &token.token) {
        (true, Token::Gt) | (false, Token::RParen) => {
            parser.next_token();
        }
        _ => return Err(expected(if angled { "',' or '>'" } else { "',' or ')'" }, &token)),
    }
    Ok(Fields::from(fields))
}

/// `(1, 2)`, or nothing.
fn parse_numbers(parser: &mut Parser<'_>) -> Result<Vec<u64>, PlanError> {
    let mut numbers = Vec::new();
    if !parser.consume_token(&Token::LParen) {
        return Ok(numbers);
    }
    loop {
        let token = parser.next_token();
        match &token.token {
            Token::Number(number, _) => {
                numbers.push(number.parse().map_err(|_| expected("a whole number", &token))?);
            }
            _ => return Err(expected("a whole number", &token)),
        }
        let token = parser.next_token();
        match token.token {
            Token::Comma => {}
            Token::RParen => return Ok(numbers),
            _ => return Err(expected("',' or ')'", &token)),
        }
    }
}

/// `WITH LOCAL TIME ZONE`, `WITHOUT TIME ZONE`, or nothing. The table's own `WITH (` is left alone.
fn parse_zone(parser: &mut Parser<'_>, place: Place) -> Result<bool, PlanError> {
    if consume_word(parser, "WITHOUT") {
        expect_word(parser, "TIME")?;
        expect_word(parser, "ZONE")?;
        return Ok(false);
    }
    let local = word_at(parser, 0, "WITH") && word_at(parser, 1, "LOCAL");
    if word_at(parser, 0, "WITH") && word_at(parser, 1, "TIME") {
        return Err(PlanError::new(
            place,
            "columns of type TIMESTAMP WITH TIME ZONE are not supported",
            "write TIMESTAMP_LTZ(3)",
        ));
    }
    if local {
        parser.next_token();
        parser.next_token();
        expect_word(parser, "TIME")?;
        expect_word(parser, "ZONE")?;
    }
    Ok(local)
}

fn timestamp(place: Place, precision: Option<u64>, local: bool) -> Result<DataType, PlanError> {
    let unit = match precision.unwrap_or(6) {
        0..=3 => TimeUnit::Millisecond,
        4..=6 => TimeUnit::Microsecond,
        7..=9 => TimeUnit::Nanosecond,
        other => {
            return Err(PlanError::new(
                place,
                format!("a timestamp cannot have a precision of {other}"),
                "write one from 0 to 9",
            ));
        }
    };
    Ok(DataType::Timestamp(unit, local.then(|| "UTC".into())))
}

fn decimal(place: Place, precision: Option<u64>, scale: Option<u64>) -> Result<DataType, PlanError> {
    let (precision, scale) = (precision.unwrap_or(10), scale.unwrap_or(0));
    if !(1..=38).contains(&precision) || scale > precision {
        return Err(PlanError::new(
            place,
            format!("there is no DECIMAL({precision}, {scale})"),
            "write a precision from 1 to 38, and a scale of at most the precision",
        ));
    }
    Ok(DataType::Decimal128(precision as u8, scale as i8))
}

/// The type as Flink's users write it.
pub fn flink_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "NULL".to_string(),
        DataType::Boolean => "BOOLEAN".to_string(),
        DataType::Int8 => "TINYINT".to_string(),
        DataType::Int16 | DataType::UInt8 => "SMALLINT".to_string(),
        DataType::Int32 | DataType::UInt16 => "INT".to_string(),
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => "BIGINT".to_string(),
        DataType::Float16 | DataType::Float32 => "FLOAT".to_string(),
        DataType::Float64 => "DOUBLE".to_string(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "STRING".to_string(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "BYTES".to_string(),
        DataType::Date32 | DataType::Date64 => "DATE".to_string(),
        DataType::Time32(_) | DataType::Time64(_) => "TIME".to_string(),
        DataType::Timestamp(unit, zone) => {
            let precision = match unit {
                TimeUnit::Second => 0,
                TimeUnit::Millisecond => 3,
                TimeUnit::Microsecond => 6,
                TimeUnit::Nanosecond => 9,
            };
            format!("TIMESTAMP{}({precision})", if zone.is_some() { "_LTZ" } else { "" })
        }
        DataType::Interval(_) | DataType::Duration(_) => "INTERVAL".to_string(),
        DataType::Struct(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|field| format!("{} {}", field.name(), flink_name(field.data_type()))).collect();
            format!("ROW<{}>", fields.join(", "))
        }
        other => other.to_string(),
    }
}

/// Whether a value of `from` goes into a column of `to` without a CAST, as Flink's sinks take it: numbers widen, any number
/// becomes DECIMAL, FLOAT or DOUBLE, times turn into each other.
pub fn casts_implicitly(from: &DataType, to: &DataType) -> bool {
    use DataType::{
        Date32, Decimal128, Float32, Float64, Int8, Int16, Int32, Int64, Null, Struct, Timestamp, UInt64, Utf8,
    };
    if from == to || *from == Null {
        return true;
    }
    match (from, to) {
        (Int8, Int16 | Int32 | Int64)
        | (Int16, Int32 | Int64)
        | (Int32 | UInt64, Int64)
        | (Int8 | Int16 | Int32 | Int64 | UInt64 | Decimal128(..), Float32 | Float64 | Decimal128(..))
        | (Float32, Float64)
        | (Float32 | Float64, Decimal128(..))
        | (Timestamp(..), Timestamp(..))
        | (Timestamp(_, None), Date32 | DataType::Time32(_))
        | (DataType::Utf8View | DataType::LargeUtf8, Utf8) => true,
        (Struct(from), Struct(to)) => {
            from.len() == to.len()
                && from.iter().zip(to.iter()).all(|(from, to)| casts_implicitly(from.data_type(), to.data_type()))
        }
        _ => false,
    }
}

/// The types in `CAST(x AS …)`, which the SQL parser reads with its own grammar.
#[derive(Debug)]
pub struct FlinkTypes;

impl TypePlanner for FlinkTypes {
    fn plan_type_field(&self, sql_type: &ast::DataType) -> PlannerResult<Option<arrow::datatypes::FieldRef>> {
        use ast::DataType as Sql;
        let nowhere = Place::default();
        let shape = shape(sql_type);
        let data_type = match sql_type {
            Sql::Boolean => Ok(DataType::Boolean),
            Sql::TinyInt(_) => Ok(DataType::Int8),
            Sql::SmallInt(_) => Ok(DataType::Int16),
            Sql::Int(_) | Sql::Integer(_) => Ok(DataType::Int32),
            Sql::BigInt(_) => Ok(DataType::Int64),
            Sql::Float(_) | Sql::Real => Ok(DataType::Float32),
            Sql::Double(_) | Sql::DoublePrecision => Ok(DataType::Float64),
            Sql::Decimal(info) | Sql::Numeric(info) | Sql::Dec(info) => match info {
                ExactNumberInfo::None => decimal(nowhere, None, None),
                ExactNumberInfo::Precision(precision) => decimal(nowhere, Some(*precision), None),
                ExactNumberInfo::PrecisionAndScale(precision, scale) => {
                    decimal(nowhere, Some(*precision), u64::try_from(*scale).ok())
                }
            },
            Sql::String(_)
            | Sql::Text
            | Sql::Varchar(_)
            | Sql::Char(_)
            | Sql::CharacterVarying(_)
            | Sql::Character(_) => Ok(DataType::Utf8),
            Sql::Bytes(_) | Sql::Binary(_) | Sql::Varbinary(_) => Ok(DataType::Binary),
            Sql::Date => Ok(DataType::Date32),
            Sql::Time(_, _) => Ok(DataType::Time32(TimeUnit::Millisecond)),
            Sql::Timestamp(precision, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
                timestamp(nowhere, *precision, false)
            }
            Sql::Custom(name, arguments) if name.to_string().eq_ignore_ascii_case("TIMESTAMP_LTZ") => {
                timestamp(nowhere, arguments.first().and_then(|precision| precision.parse().ok()), true)
            }
            Sql::Custom(name, _) if name.to_string().eq_ignore_ascii_case("BYTES") => Ok(DataType::Binary),
            Sql::Interval { .. } => Ok(DataType::Interval(IntervalUnit::MonthDayNano)),
            other => Err(PlanError::new(
                nowhere,
                format!("CAST to {other} is not supported"),
                format!("the types are {}", NAMES.join(", ")),
            )),
        };
        data_type.map(|data_type| Some(Arc::new(shape.field(data_type)))).map_err(PlanError::into_planner)
    }
}

/// What a CAST to this type cuts, or fills.
fn shape(sql_type: &ast::DataType) -> Shape {
    use ast::DataType as Sql;
    let length = |length: &Option<ast::CharacterLength>| match length {
        Some(ast::CharacterLength::IntegerLength { length, .. }) => usize::try_from(*length).ok(),
        Some(ast::CharacterLength::Max) | None => None,
    };
    match sql_type {
        Sql::Varchar(size) | Sql::CharacterVarying(size) => length(size).map_or(Shape::Any, Shape::AtMost),
        // One character, or byte, where no length is given.
        Sql::Char(size) | Sql::Character(size) => Shape::Exactly(length(size).unwrap_or(1)),
        Sql::Binary(size) => Shape::Exactly(size.and_then(|size| usize::try_from(size).ok()).unwrap_or(1)),
        Sql::Varbinary(Some(ast::BinaryLength::IntegerLength { length })) => {
            usize::try_from(*length).map_or(Shape::Any, Shape::AtMost)
        }
        // Digits behind the second.
        Sql::Time(digits, _) => Shape::AtMost(digits.map_or(0, |digits| digits.min(3) as usize)),
        Sql::Timestamp(Some(digits), _) if !matches!(digits, 3 | 6 | 9) => Shape::AtMost(*digits as usize),
        _ => Shape::Any,
    }
}

/// Whether the `n`-th token from here is this word, unquoted, in any case.
pub fn word_at(parser: &Parser<'_>, n: usize, word: &str) -> bool {
    matches!(&parser.peek_nth_token_ref(n).token, Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
}

/// Goes past this word if it is next.
pub fn consume_word(parser: &mut Parser<'_>, word: &str) -> bool {
    let is_next = word_at(parser, 0, word);
    if is_next {
        parser.next_token();
    }
    is_next
}

/// Goes past this word, or says that it is missing.
pub fn expect_word(parser: &mut Parser<'_>, word: &str) -> Result<(), PlanError> {
    if consume_word(parser, word) { Ok(()) } else { Err(expected(word, &parser.peek_token())) }
}

/// `expected x, found y`, at y.
pub fn expected(what: &str, found: &TokenWithSpan) -> PlanError {
    let text = match &found.token {
        Token::EOF => "the end of the script".to_string(),
        token => token.to_string(),
    };
    PlanError::new(found.span, format!("expected {what}, found {text}"), "")
}

/// A parser's error as ours.
#[allow(clippy::needless_pass_by_value, reason = "it stands in map_err")]
pub fn parser_error(error: ParserError) -> PlanError {
    PlanError::from_parser(&error)
}
