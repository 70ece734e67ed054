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
use crate::parse::dialect::FlinkDialect;

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
    "ARRAY",
    "MAP",
];

/// The type of `TIMESTAMP(3)`, which event time has.
pub const TIMESTAMP: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);

/// The type of `TIMESTAMP_LTZ(3)`, which processing time has.
pub fn timestamp_ltz() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

/// ROWs, ARRAYs and MAPs within each other. All that handles a value recurses over its type, on stacks of every size.
const MAX_ROWS: usize = 32;

/// The name under which a CAST holds a type that the SQL parser's own grammar has not, as a text.
pub const TYPE_TEXT: &str = "$type";

/// The type of `ARRAY<element>`. Any element may be NULL, whatever is declared.
pub fn array_of(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", element, true)))
}

/// The type of `MAP<key, value>`. No key is NULL.
pub fn map_of(key: DataType, value: DataType) -> DataType {
    let entry = Fields::from(vec![Field::new("key", key, false), Field::new("value", value, true)]);
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entry), false)), false)
}

/// Key and value of a MAP.
pub fn entry_of(data_type: &DataType) -> Option<(&DataType, &DataType)> {
    let DataType::Map(entries, _) = data_type else { return None };
    let DataType::Struct(fields) = entries.data_type() else { return None };
    Some((fields.first()?.data_type(), fields.get(1)?.data_type()))
}

/// Reads a type where the parser stands. Says whether `NOT NULL` followed as `false` for nullable.
pub fn parse_type(parser: &mut Parser<'_>) -> Result<(DataType, bool), PlanError> {
    parse_type_within(parser, 0)
}

/// Within so many ROWs, ARRAYs and MAPs. `INT ARRAY` is another way to write `ARRAY<INT>`.
fn parse_type_within(parser: &mut Parser<'_>, rows: usize) -> Result<(DataType, bool), PlanError> {
    let (mut data_type, mut nullable) = parse_one_type(parser, rows)?;
    let mut rows = rows;
    while word_at(parser, 0, "ARRAY") || word_at(parser, 0, "MULTISET") {
        let token = parser.next_token();
        let is_multiset = matches!(&token.token, Token::Word(word) if word.value.eq_ignore_ascii_case("MULTISET"));
        if is_multiset {
            return Err(no_column_of(token.span.into(), "MULTISET"));
        }
        rows += 1;
        within_bounds(token.span.into(), "ARRAY", rows)?;
        data_type = array_of(data_type);
        nullable = parse_nullable(parser)?;
    }
    Ok((data_type, nullable))
}

fn no_column_of(place: Place, name: &str) -> PlanError {
    PlanError::new(
        place,
        format!("values of type {name} are not supported"),
        "declare it as STRING, or leave it out of the table",
    )
}

fn within_bounds(place: Place, name: &str, rows: usize) -> Result<(), PlanError> {
    if rows <= MAX_ROWS {
        return Ok(());
    }
    Err(PlanError::new(
        place,
        format!("a {name} within {MAX_ROWS} others is not supported"),
        "declare the inner one as STRING, or leave it out of the table",
    ))
}

/// `NOT NULL`, `NULL` or nothing.
fn parse_nullable(parser: &mut Parser<'_>) -> Result<bool, PlanError> {
    if consume_word(parser, "NOT") {
        expect_word(parser, "NULL")?;
        return Ok(false);
    }
    consume_word(parser, "NULL");
    Ok(true)
}

fn parse_one_type(parser: &mut Parser<'_>, rows: usize) -> Result<(DataType, bool), PlanError> {
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
        "ROW" | "ARRAY" | "MAP" => {
            within_bounds(place, &name, rows + 1)?;
            match name.as_str() {
                "ROW" => DataType::Struct(parse_row(parser, rows + 1)?),
                "ARRAY" => array_of(parse_arguments(parser, &name, 1, rows + 1)?.remove(0)),
                _ => {
                    let mut arguments = parse_arguments(parser, &name, 2, rows + 1)?;
                    let value = arguments.remove(1);
                    map_of(arguments.remove(0), value)
                }
            }
        }
        "MULTISET" | "RAW" | "VARIANT" => return Err(no_column_of(place, &name)),
        _ => {
            return Err(PlanError::new(
                place,
                format!("there is no data type {}", word.value),
                suggest(&name, "types", NAMES.iter().copied()),
            ));
        }
    };
    let nullable = parse_nullable(parser)?;
    Ok((data_type, nullable))
}

/// `<INT>`, `<STRING, INT>`.
fn parse_arguments(parser: &mut Parser<'_>, name: &str, count: usize, rows: usize) -> Result<Vec<DataType>, PlanError> {
    let open = parser.next_token();
    if open.token != Token::Lt {
        return Err(expected(&format!("'<' after {name}"), &open));
    }
    let mut arguments = Vec::with_capacity(count);
    for argument in 0..count {
        arguments.push(parse_type_within(parser, rows)?.0);
        let (token, wanted) = (parser.next_token(), if argument + 1 < count { Token::Comma } else { Token::Gt });
        if token.token != wanted {
            return Err(expected(&format!("'{wanted}'"), &token));
        }
    }
    Ok(arguments)
}

/// A type in `CAST(x AS …)` that holds others, as a text in the place of a type of the SQL parser's; none for a type that does not.
pub fn parse_nested_cast(parser: &mut Parser<'_>) -> Option<Result<ast::DataType, ParserError>> {
    let is_nested = ["ROW", "ARRAY", "MAP", "MULTISET", "RAW"].iter().any(|word| word_at(parser, 0, word));
    is_nested.then(|| {
        let span = parser.peek_token_ref().span;
        let mut tokens = Vec::new();
        let mut ahead = Parser::new(&FlinkDialect).with_tokens_with_locations(rest_of(parser));
        let before = ahead.index();
        parse_type(&mut ahead).map_err(|error| into_parser(&error))?;
        for _ in before..ahead.index() {
            let token = parser.next_token();
            let is_sized = ["CHAR", "VARCHAR", "BINARY", "VARBINARY"].iter().any(|name| is_word(&token, name))
                && parser.peek_token_ref().token == Token::LParen;
            if is_sized {
                let what = format!("CAST to a type that holds {token} of a length is not supported");
                return Err(into_parser(&PlanError::new(token.span, what, "write STRING or BYTES")));
            }
            tokens.push(token.token.to_string());
        }
        let name = ast::ObjectName::from(vec![ast::Ident::with_span(span, TYPE_TEXT)]);
        Ok(ast::DataType::Custom(name, vec![tokens.join(" ")]))
    })
}

/// What is still to be read, up to the parenthesis that closes what it stands in.
fn rest_of(parser: &Parser<'_>) -> Vec<TokenWithSpan> {
    let mut open = 0;
    let is_within = |token: &&TokenWithSpan| {
        match token.token {
            Token::LParen => open += 1,
            Token::RParen if open > 0 => open -= 1,
            Token::RParen | Token::EOF => return false,
            _ => {}
        }
        true
    };
    let tokens = (parser.index()..).map(|at| parser.token_at(at)).take_while(is_within);
    tokens.filter(|token| !matches!(token.token, Token::Whitespace(_))).cloned().collect()
}

fn is_word(token: &TokenWithSpan, name: &str) -> bool {
    matches!(&token.token, Token::Word(word) if word.value.eq_ignore_ascii_case(name))
}

/// Our error as a parser's, which holds its place in its text.
fn into_parser(error: &PlanError) -> ParserError {
    let remedy = if error.remedy.is_empty() { String::new() } else { format!(": {}", error.remedy) };
    let place = error.place();
    ParserError::ParserError(format!("{}{remedy} at Line: {}, Column: {}", error.message, place.line, place.column))
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
        DataType::List(element) => format!("ARRAY<{}>", flink_name(element.data_type())),
        DataType::Map(..) => match entry_of(data_type) {
            Some((key, value)) => format!("MAP<{}, {}>", flink_name(key), flink_name(value)),
            None => data_type.to_string(),
        },
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
        (DataType::List(from), DataType::List(to)) => casts_implicitly(from.data_type(), to.data_type()),
        (DataType::Map(..), DataType::Map(..)) => match (entry_of(from), entry_of(to)) {
            (Some(from), Some(to)) => casts_implicitly(from.0, to.0) && casts_implicitly(from.1, to.1),
            _ => false,
        },
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
            Sql::Custom(name, text) if name.to_string() == TYPE_TEXT => {
                let text = text.first().map(String::as_str).unwrap_or_default();
                Parser::new(&FlinkDialect)
                    .try_with_sql(text)
                    .map_err(parser_error)
                    .and_then(|mut parser| parse_type(&mut parser))
                    .map(|(data_type, _)| data_type)
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
