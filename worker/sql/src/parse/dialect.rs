//! Flink's dialect: a script as a list of statements, each with its place.
//!
//! Queries and expressions are read by sqlparser; what it does not know (WATERMARK, computed columns, METADATA, ROW types,
//! options) is read here, on its tokens. Names are case-sensitive, backticks quote them.

use datafusion_sql::sqlparser::ast::{
    CastKind, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, ObjectName,
    Query, Spanned, TrimWhereField,
};
use datafusion_sql::sqlparser::dialect::Dialect;
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Span, Token};

use arrow::datatypes::DataType;

use crate::error::{Place, PlanError};
use crate::names::functions::nested::MAP;
use crate::parse::like::{Like, parse_like};
use crate::parse::loose::{Hints, Pieces, pieces};
use crate::parse::statements::{CreateCatalog, Name, Statement, parse_name, parse_statement};
use crate::parse::types::{consume_word, expect_word, expected, parse_nested_cast, parse_type, parser_error, word_at};

/// The prefix under which `TABLE t` stands among a function's arguments.
pub const TABLE_PREFIX: &str = "TABLE";

/// The prefix under which `TABLE t PARTITION BY k` stands there: a list of the table and the columns.
pub const PARTITION_PREFIX: &str = "PARTITION";

/// Flink's, as far as tokens and expressions go.
#[derive(Debug)]
pub struct FlinkDialect;

impl Dialect for FlinkDialect {
    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '`'
    }

    fn identifier_quote_style(&self, _identifier: &str) -> Option<char> {
        Some('`')
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_' || ch == '$'
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_alphanumeric() || ch == '_' || ch == '$'
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }

    fn supports_group_by_expr(&self) -> bool {
        true
    }

    /// `FOR SYSTEM_TIME AS OF`.
    fn supports_table_versioning(&self) -> bool {
        true
    }

    fn supports_named_fn_args_with_rarrow_operator(&self) -> bool {
        true
    }

    /// `TABLE t` as an argument, `TRIM(LEADING FROM text)`, casts to Flink's types, `MAP['k', 1]`.
    fn parse_prefix(&self, parser: &mut Parser<'_>) -> Option<Result<Expr, ParserError>> {
        if let Some(side) = trimmed_side(parser) {
            return Some(parse_trim(parser, side));
        }
        if let Some(parsed) = parse_cast(parser).or_else(|| parse_map(parser)) {
            return Some(parsed);
        }
        let is_table = word_at(parser, 0, "TABLE") && matches!(parser.peek_nth_token_ref(1).token, Token::Word(_));
        is_table.then(|| {
            let token = parser.next_token();
            let name = parser.parse_object_name(false)?;
            let parts = name.0.into_iter().filter_map(|part| part.as_ident().cloned()).collect();
            let table = Expr::Prefixed {
                prefix: Ident::with_span(token.span, TABLE_PREFIX),
                value: Box::new(Expr::CompoundIdentifier(parts)),
            };
            parse_partition(parser, token.span, table)
        })
    }
}

/// `PARTITION BY k` or `PARTITION BY (a, b)` behind a table, where it stands there.
fn parse_partition(parser: &mut Parser<'_>, span: Span, table: Expr) -> Result<Expr, ParserError> {
    if !word_at(parser, 0, "PARTITION") || !word_at(parser, 1, "BY") {
        return Ok(table);
    }
    parser.next_token();
    parser.next_token();
    let mut all = vec![table];
    if parser.consume_token(&Token::LParen) {
        all.extend(parser.parse_comma_separated(Parser::parse_identifier)?.into_iter().map(Expr::Identifier));
        parser.expect_token(&Token::RParen)?;
    } else {
        all.push(Expr::Identifier(parser.parse_identifier()?));
    }
    Ok(Expr::Prefixed { prefix: Ident::with_span(span, PARTITION_PREFIX), value: Box::new(Expr::Tuple(all)) })
}

/// The side of a TRIM of blanks that names one.
fn trimmed_side(parser: &Parser<'_>) -> Option<TrimWhereField> {
    let is_call = word_at(parser, 0, "TRIM") && parser.peek_nth_token_ref(1).token == Token::LParen;
    if !is_call || !word_at(parser, 3, "FROM") {
        return None;
    }
    let sides =
        [("LEADING", TrimWhereField::Leading), ("TRAILING", TrimWhereField::Trailing), ("BOTH", TrimWhereField::Both)];
    sides.into_iter().find(|(word, _)| word_at(parser, 2, word)).map(|(_, side)| side)
}

fn parse_trim(parser: &mut Parser<'_>, side: TrimWhereField) -> Result<Expr, ParserError> {
    // TRIM, the parenthesis, the side, and FROM.
    for _ in 0..4 {
        parser.next_token();
    }
    let expr = Box::new(parser.parse_expr()?);
    parser.expect_token(&Token::RParen)?;
    Ok(Expr::Trim { expr, trim_where: Some(side), trim_what: None, trim_characters: None })
}

/// `CAST(x AS type)`, whose type may be one that holds others.
fn parse_cast(parser: &mut Parser<'_>) -> Option<Result<Expr, ParserError>> {
    let kind = match (word_at(parser, 0, "CAST"), word_at(parser, 0, "TRY_CAST")) {
        (true, _) => CastKind::Cast,
        (_, true) => CastKind::TryCast,
        _ => return None,
    };
    if parser.peek_nth_token_ref(1).token != Token::LParen {
        return None;
    }
    Some((|| {
        parser.next_token();
        parser.next_token();
        let expr = Box::new(parser.parse_expr()?);
        parser.expect_keyword(Keyword::AS)?;
        let data_type = match parse_nested_cast(parser) {
            Some(nested) => nested?,
            None => parser.parse_data_type()?,
        };
        parser.expect_token(&Token::RParen)?;
        Ok(Expr::Cast { kind, expr, data_type, array: false, format: None })
    })())
}

/// `MAP['key', value, …]`, as a call.
fn parse_map(parser: &mut Parser<'_>) -> Option<Result<Expr, ParserError>> {
    if !word_at(parser, 0, "MAP") || parser.peek_nth_token_ref(1).token != Token::LBracket {
        return None;
    }
    let span = parser.next_token().span;
    parser.next_token();
    Some((|| {
        let values = parser.parse_comma_separated0(Parser::parse_expr, Token::RBracket)?;
        parser.expect_token(&Token::RBracket)?;
        Ok(call_at(span, MAP, values))
    })())
}

/// A call of a function of this name, which stands here.
pub fn call_at(span: Span, name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::with_span(span, name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// `CREATE TABLE …`.
#[derive(Clone, Debug)]
pub struct CreateTable {
    /// The table's name.
    pub name: Name,
    /// An existing one stays as it is.
    pub if_not_exists: bool,
    /// An existing one goes.
    pub replace: bool,
    /// In the order written.
    pub columns: Vec<ColumnDef>,
    /// `WATERMARK FOR`.
    pub watermark: Option<WatermarkDef>,
    /// `PRIMARY KEY (…) NOT ENFORCED`.
    pub primary_key: Vec<Ident>,
    /// `PARTITIONED BY (…)`.
    pub partitioned: Vec<Ident>,
    /// `WITH (…)`.
    pub options: Vec<OptionDef>,
    /// `LIKE`.
    pub like: Option<Like>,
    /// `AS`: what goes in, and what it is like.
    pub query: Option<(Box<Query>, Place)>,
}

impl CreateTable {
    /// A table that prints what is written to it; its columns are still to come.
    pub fn printing(name: Name, place: Place) -> Self {
        let connector = OptionDef { key: "connector".to_string(), value: "print".to_string(), place };
        Self {
            name,
            if_not_exists: false,
            replace: false,
            columns: Vec::new(),
            watermark: None,
            primary_key: Vec::new(),
            partitioned: Vec::new(),
            options: vec![connector],
            like: None,
            query: None,
        }
    }
}

/// One column.
#[derive(Clone, Debug)]
pub struct ColumnDef {
    /// Its name.
    pub name: Ident,
    /// Where its values come from.
    pub kind: ColumnKind,
}

/// Where a column's values come from.
#[derive(Clone, Debug)]
pub enum ColumnKind {
    /// The connector.
    Physical {
        /// Its type.
        data_type: DataType,
        /// Without `NOT NULL`.
        nullable: bool,
    },
    /// `c AS expression`.
    Computed(Box<Expr>),
    /// `c TYPE METADATA FROM 'key' VIRTUAL`.
    Metadata {
        /// Its type.
        data_type: DataType,
        /// Without `NOT NULL`.
        nullable: bool,
        /// What the connector calls it.
        key: String,
        /// It is read, and never written.
        is_virtual: bool,
    },
}

/// `WATERMARK FOR column AS expression`.
#[derive(Clone, Debug)]
pub struct WatermarkDef {
    /// The event-time column; more than one part for a field of a ROW.
    pub column: Vec<Ident>,
    /// The watermark that a row gives.
    pub expr: Box<Expr>,
    /// Where the clause starts.
    pub place: Place,
}

/// `'key' = 'value'`.
#[derive(Clone, Debug)]
pub struct OptionDef {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
    /// Where the key stands.
    pub place: Place,
}

/// `CREATE VIEW …`.
#[derive(Debug)]
pub struct CreateView {
    /// The view's name.
    pub name: Name,
    /// An existing one stays as it is.
    pub if_not_exists: bool,
    /// An existing one goes.
    pub replace: bool,
    /// New names for its columns; empty keeps those of the query.
    pub columns: Vec<Ident>,
    /// What it stands for.
    pub query: Box<Query>,
}

/// `INSERT INTO …`.
#[derive(Debug)]
pub struct Insert {
    /// The sink table.
    pub table: Name,
    /// The columns named; empty means all.
    pub columns: Vec<Ident>,
    /// What goes in.
    pub query: Box<Query>,
    /// What `ON CONFLICT` says, and where.
    pub conflict: Option<(Conflict, Place)>,
    /// Where the statement starts.
    pub place: Place,
}

/// What becomes of several rows with one primary key, where that is not what keeps them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The last stays, and if it goes the one before it.
    Deduplicate,
    /// The first stays.
    Nothing,
    /// The job fails.
    Error,
}

/// A script's statements in order, and what is wrong with the others.
#[derive(Debug, Default)]
pub struct Script {
    /// Those that could be read.
    pub statements: Vec<Statement>,
    /// What is wrong with the others, in the order written.
    pub errors: Vec<PlanError>,
    /// All hints.
    pub hints: Hints,
}

/// Reads a script. What is wrong with one statement keeps no other from being read.
pub fn parse_script(script: &str) -> Result<Script, PlanError> {
    let Pieces { all: pieces, hints, lines } = pieces(script)?;
    let mut read = Script { hints, ..Script::default() };
    let mut in_set: Option<Place> = None;
    for piece in &pieces {
        let mut parser = Parser::new(&FlinkDialect).with_tokens_with_locations(piece.tokens.clone());
        let place = Place::from(parser.peek_token_ref().span);
        if in_set.is_none() && is_statement_set(&mut parser) {
            in_set = Some(place);
            if parser.peek_token_ref().token == Token::EOF {
                continue;
            }
        }
        if in_set.is_some() && consume_word(&mut parser, "END") {
            in_set = None;
        } else {
            match parse_statement(&mut parser, piece, &lines) {
                Ok(statement) => read.statements.push(statement),
                Err(error) => {
                    // What the SQL parser says of nesting has no place.
                    let at = Place::from(parser.peek_token_ref().span).or(piece.end);
                    read.errors.push(error.or_at(at));
                    continue;
                }
            }
        }
        let next = parser.peek_token();
        if next.token != Token::EOF {
            read.errors.push(expected("';' between statements", &next));
        }
    }
    if let Some(place) = in_set {
        let remedy = "write END; after its last INSERT";
        read.errors.push(PlanError::new(place, "the statement set has no END", remedy));
    }
    Ok(read)
}

/// `EXECUTE STATEMENT SET BEGIN`, or `BEGIN STATEMENT SET;`.
fn is_statement_set(parser: &mut Parser<'_>) -> bool {
    let words: &[&str] = if word_at(parser, 0, "EXECUTE") {
        &["EXECUTE", "STATEMENT", "SET", "BEGIN"]
    } else {
        &["BEGIN", "STATEMENT", "SET"]
    };
    let is_set = words.iter().enumerate().all(|(n, word)| word_at(parser, n, word));
    if is_set {
        for _ in words {
            parser.next_token();
        }
    }
    is_set
}

/// What stands behind `CREATE`.
pub fn parse_create(parser: &mut Parser<'_>) -> Result<Statement, PlanError> {
    let replace = if consume_word(parser, "OR") {
        expect_word(parser, "REPLACE")?;
        true
    } else {
        false
    };
    if consume_word(parser, "TEMPORARY") {
        consume_word(parser, "SYSTEM");
    }
    let token = parser.next_token();
    let Token::Word(word) = &token.token else {
        return Err(expected("TABLE or VIEW", &token));
    };
    match word.value.to_ascii_uppercase().as_str() {
        "TABLE" => parse_create_table(parser, replace).map(|table| Statement::CreateTable(Box::new(table))),
        "VIEW" => parse_create_view(parser, replace).map(Statement::CreateView),
        "FUNCTION" => parse_create_function(parser),
        "CATALOG" => {
            let if_not_exists = parse_if_not_exists(parser)?;
            let name = parser.parse_identifier().map_err(parser_error)?;
            parse_comment(parser)?;
            let options = if consume_word(parser, "WITH") { parse_options(parser)? } else { Vec::new() };
            Ok(Statement::CreateCatalog(CreateCatalog { name, if_not_exists, options }))
        }
        "DATABASE" => {
            let if_not_exists = parse_if_not_exists(parser)?;
            let name = parse_name(parser)?;
            parse_comment(parser)?;
            if consume_word(parser, "WITH") {
                parse_options(parser)?;
            }
            Ok(Statement::CreateDatabase { name, if_not_exists })
        }
        other @ ("MODEL" | "CONNECTION" | "MATERIALIZED") => Err(PlanError::new(
            token.span,
            format!("CREATE {other} is not supported"),
            "declare the tables in the script itself",
        )),
        _ => Err(expected("TABLE or VIEW", &token)),
    }
}

/// `CREATE FUNCTION [IF NOT EXISTS] name AS 'class' [LANGUAGE JAVA] [USING JAR '…', …]`.
fn parse_create_function(parser: &mut Parser<'_>) -> Result<Statement, PlanError> {
    parse_if_not_exists(parser)?;
    let name = parse_name(parser)?;
    expect_word(parser, "AS")?;
    let class = parse_string(parser, "the function's class in quotes")?;
    if consume_word(parser, "LANGUAGE") {
        parser.parse_identifier().map_err(parser_error)?;
    }
    if consume_word(parser, "USING") {
        loop {
            parser.next_token();
            parse_string(parser, "a path in quotes")?;
            if !parser.consume_token(&Token::Comma) {
                break;
            }
        }
    }
    Ok(Statement::CreateFunction { name, class })
}

fn parse_comment(parser: &mut Parser<'_>) -> Result<(), PlanError> {
    if consume_word(parser, "COMMENT") {
        parser.parse_literal_string().map_err(parser_error)?;
    }
    Ok(())
}

fn parse_if_not_exists(parser: &mut Parser<'_>) -> Result<bool, PlanError> {
    if !consume_word(parser, "IF") {
        return Ok(false);
    }
    expect_word(parser, "NOT")?;
    expect_word(parser, "EXISTS")?;
    Ok(true)
}

/// The name, if it has one part.
pub fn single(name: &ObjectName) -> Option<Ident> {
    match name.0.as_slice() {
        [part] => part.as_ident().cloned(),
        _ => None,
    }
}

fn parse_create_table(parser: &mut Parser<'_>, replace: bool) -> Result<CreateTable, PlanError> {
    let if_not_exists = parse_if_not_exists(parser)?;
    let name = parse_name(parser)?;
    let mut table = CreateTable {
        name,
        if_not_exists,
        replace,
        columns: Vec::new(),
        watermark: None,
        primary_key: Vec::new(),
        partitioned: Vec::new(),
        options: Vec::new(),
        like: None,
        query: None,
    };
    let open = parser.peek_token();
    if parser.consume_token(&Token::LParen) {
        // LIKE may stand over nothing: `CREATE TABLE t () … LIKE s`.
        while !parser.consume_token(&Token::RParen) {
            parse_table_element(parser, &mut table)?;
            let token = parser.peek_token();
            match token.token {
                Token::Comma if parser.peek_nth_token_ref(1).token != Token::RParen => {
                    parser.next_token();
                }
                Token::RParen => {}
                _ => return Err(expected("',' or ')'", &token)),
            }
        }
    } else if !["COMMENT", "PARTITIONED", "WITH", "LIKE", "AS"].iter().any(|word| word_at(parser, 0, word)) {
        return Err(expected("'(' and the columns", &open));
    }
    parse_comment(parser)?;
    let next = parser.peek_token();
    if consume_word(parser, "DISTRIBUTED") {
        return Err(PlanError::new(
            next.span,
            "DISTRIBUTED BY is not supported in CREATE TABLE: no connector here deals rows to buckets",
            "leave the clause out",
        ));
    }
    if consume_word(parser, "PARTITIONED") {
        expect_word(parser, "BY")?;
        parser.expect_token(&Token::LParen).map_err(parser_error)?;
        table.partitioned = parser.parse_comma_separated(Parser::parse_identifier).map_err(parser_error)?;
        parser.expect_token(&Token::RParen).map_err(parser_error)?;
    }
    let is_made = word_at(parser, 0, "LIKE") || word_at(parser, 0, "AS");
    if !is_made {
        expect_word(parser, "WITH")?;
        table.options = parse_options(parser)?;
    }
    if word_at(parser, 0, "LIKE") {
        table.like = Some(parse_like(parser)?);
    }
    if consume_word(parser, "AS") {
        let query = parser.parse_query().map_err(parser_error)?;
        let place = Place::from(query.span()).or(open.span.into());
        table.query = Some((query, place));
    }
    Ok(table)
}

fn parse_table_element(parser: &mut Parser<'_>, table: &mut CreateTable) -> Result<(), PlanError> {
    let first = parser.peek_token();
    let place = Place::from(first.span);
    if word_at(parser, 0, "WATERMARK") && word_at(parser, 1, "FOR") {
        parser.next_token();
        parser.next_token();
        if table.watermark.is_some() {
            return Err(PlanError::new(place, "the table has two watermarks", "leave one of them out"));
        }
        let mut column = vec![parser.parse_identifier().map_err(parser_error)?];
        while parser.consume_token(&Token::Period) {
            column.push(parser.parse_identifier().map_err(parser_error)?);
        }
        expect_word(parser, "AS")?;
        let expr = parser.parse_expr().map_err(parser_error)?;
        table.watermark = Some(WatermarkDef { column, expr: Box::new(expr), place });
        return Ok(());
    }
    if word_at(parser, 0, "CONSTRAINT") {
        parser.next_token();
        parser.parse_identifier().map_err(parser_error)?;
        return parse_primary_key(parser, table);
    }
    if word_at(parser, 0, "PRIMARY") && word_at(parser, 1, "KEY") {
        return parse_primary_key(parser, table);
    }
    if word_at(parser, 0, "UNIQUE") && matches!(parser.peek_nth_token_ref(1).token, Token::LParen) {
        return Err(PlanError::new(place, "UNIQUE is not supported", "write PRIMARY KEY (…) NOT ENFORCED"));
    }
    let name = parser.parse_identifier().map_err(parser_error)?;
    let kind = if consume_word(parser, "AS") {
        ColumnKind::Computed(Box::new(parser.parse_expr().map_err(parser_error)?))
    } else {
        let (data_type, nullable) = parse_type(parser)?;
        if consume_word(parser, "METADATA") {
            parse_metadata(parser, &name, data_type, nullable)?
        } else {
            ColumnKind::Physical { data_type, nullable }
        }
    };
    if word_at(parser, 0, "PRIMARY") {
        parser.next_token();
        expect_word(parser, "KEY")?;
        parse_not_enforced(parser)?;
        table.primary_key.push(name.clone());
    }
    if consume_word(parser, "COMMENT") {
        parser.parse_literal_string().map_err(parser_error)?;
    }
    table.columns.push(ColumnDef { name, kind });
    Ok(())
}

/// Behind `METADATA`.
fn parse_metadata(
    parser: &mut Parser<'_>,
    name: &Ident,
    data_type: DataType,
    nullable: bool,
) -> Result<ColumnKind, PlanError> {
    let key = if consume_word(parser, "FROM") {
        parse_string(parser, "the metadata's name in quotes")?
    } else {
        name.value.clone()
    };
    let is_virtual = consume_word(parser, "VIRTUAL");
    Ok(ColumnKind::Metadata { data_type, nullable, key, is_virtual })
}

fn parse_primary_key(parser: &mut Parser<'_>, table: &mut CreateTable) -> Result<(), PlanError> {
    expect_word(parser, "PRIMARY")?;
    expect_word(parser, "KEY")?;
    parser.expect_token(&Token::LParen).map_err(parser_error)?;
    table.primary_key = parser.parse_comma_separated(Parser::parse_identifier).map_err(parser_error)?;
    parser.expect_token(&Token::RParen).map_err(parser_error)?;
    parse_not_enforced(parser)
}

fn parse_not_enforced(parser: &mut Parser<'_>) -> Result<(), PlanError> {
    let next = parser.peek_token();
    if consume_word(parser, "NOT") && consume_word(parser, "ENFORCED") {
        return Ok(());
    }
    Err(PlanError::new(next.span, "a primary key is not checked by a stream", "write PRIMARY KEY (…) NOT ENFORCED"))
}

/// `('key' = 'value', …)`, each as often as it is written.
pub fn parse_options(parser: &mut Parser<'_>) -> Result<Vec<OptionDef>, PlanError> {
    parser.expect_token(&Token::LParen).map_err(parser_error)?;
    let mut options: Vec<OptionDef> = Vec::new();
    if parser.consume_token(&Token::RParen) {
        return Ok(options);
    }
    loop {
        let place = Place::from(parser.peek_token_ref().span);
        let key = parse_string(parser, "an option's name in quotes")?;
        parser.expect_token(&Token::Eq).map_err(parser_error)?;
        let value = parse_string(parser, "the option's value in quotes")?;
        options.push(OptionDef { key, value, place });
        let token = parser.next_token();
        match token.token {
            Token::Comma => {}
            Token::RParen => return Ok(options),
            _ => return Err(expected("',' or ')'", &token)),
        }
    }
}

/// A text in single quotes.
pub fn parse_string(parser: &mut Parser<'_>, what: &str) -> Result<String, PlanError> {
    let token = parser.next_token();
    match token.token {
        Token::SingleQuotedString(text) => Ok(text),
        _ => Err(expected(what, &token)),
    }
}

fn parse_create_view(parser: &mut Parser<'_>, replace: bool) -> Result<CreateView, PlanError> {
    let if_not_exists = parse_if_not_exists(parser)?;
    let name = parse_name(parser)?;
    let mut columns = Vec::new();
    if parser.consume_token(&Token::LParen) {
        loop {
            columns.push(parser.parse_identifier().map_err(parser_error)?);
            if consume_word(parser, "COMMENT") {
                parser.parse_literal_string().map_err(parser_error)?;
            }
            let token = parser.next_token();
            match token.token {
                Token::Comma => {}
                Token::RParen => break,
                _ => return Err(expected("',' or ')'", &token)),
            }
        }
    }
    if consume_word(parser, "COMMENT") {
        parser.parse_literal_string().map_err(parser_error)?;
    }
    expect_word(parser, "AS")?;
    let query = parser.parse_query().map_err(parser_error)?;
    Ok(CreateView { name, if_not_exists, replace, columns, query })
}

/// What stands behind `INSERT`.
pub fn parse_insert(parser: &mut Parser<'_>, place: Place) -> Result<Insert, PlanError> {
    if word_at(parser, 0, "OVERWRITE") {
        return Err(PlanError::new(place, "INSERT OVERWRITE is not supported", "write INSERT INTO"));
    }
    expect_word(parser, "INTO")?;
    let table = parse_name(parser)?;
    if word_at(parser, 0, "PARTITION") {
        return Err(PlanError::new(
            parser.peek_token_ref().span,
            "PARTITION is not supported in INSERT INTO",
            "select the column's value in the query",
        ));
    }
    let mut columns = Vec::new();
    let is_query = matches!(&parser.peek_nth_token_ref(1).token, Token::Word(word) if word.keyword == Keyword::SELECT);
    if parser.peek_token_ref().token == Token::LParen && !is_query {
        parser.next_token();
        columns = parser.parse_comma_separated(Parser::parse_identifier).map_err(parser_error)?;
        parser.expect_token(&Token::RParen).map_err(parser_error)?;
    }
    let query = parser.parse_query().map_err(parser_error)?;
    let conflict = parse_conflict(parser)?;
    Ok(Insert { table, columns, query, conflict, place })
}

/// `ON CONFLICT DO DEDUPLICATE`, `NOTHING` or `ERROR`.
fn parse_conflict(parser: &mut Parser<'_>) -> Result<Option<(Conflict, Place)>, PlanError> {
    let place = Place::from(parser.peek_token_ref().span);
    if !(word_at(parser, 0, "ON") && word_at(parser, 1, "CONFLICT")) {
        return Ok(None);
    }
    expect_word(parser, "ON")?;
    expect_word(parser, "CONFLICT")?;
    expect_word(parser, "DO")?;
    for (word, conflict) in
        [("DEDUPLICATE", Conflict::Deduplicate), ("NOTHING", Conflict::Nothing), ("ERROR", Conflict::Error)]
    {
        if consume_word(parser, word) {
            return Ok(Some((conflict, place)));
        }
    }
    Err(expected("DEDUPLICATE, NOTHING or ERROR", &parser.peek_token()))
}
