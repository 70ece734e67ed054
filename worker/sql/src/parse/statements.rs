//! All statements but CREATE TABLE, CREATE VIEW and INSERT: what they are, and how they are written.

use std::fmt;

use datafusion_sql::sqlparser::ast::{Ident, Query};
use datafusion_sql::sqlparser::parser::Parser;
use datafusion_sql::sqlparser::tokenizer::Token;

use crate::error::{Place, PlanError};
use crate::parse::dialect::{
    CreateTable, CreateView, Insert, OptionDef, parse_create, parse_insert, parse_options, parse_string,
};
use crate::parse::loose::{Lines, Piece};
use crate::parse::types::{consume_word, expect_word, expected, parser_error, word_at};

/// One statement of a script.
#[derive(Debug)]
pub enum Statement {
    /// `CREATE TABLE`.
    CreateTable(Box<CreateTable>),
    /// `CREATE VIEW`.
    CreateView(CreateView),
    /// `CREATE CATALOG`.
    CreateCatalog(CreateCatalog),
    /// `CREATE DATABASE`.
    CreateDatabase {
        /// One or two parts.
        name: Name,
        /// An existing one stays as it is.
        if_not_exists: bool,
    },
    /// `CREATE FUNCTION`.
    CreateFunction {
        /// Its name.
        name: Name,
        /// The class, or nothing.
        class: String,
    },
    /// `INSERT INTO`.
    Insert(Insert),
    /// A query whose rows go nowhere.
    Query(Box<Query>, Place),
    /// `DROP …`.
    Drop(Drop),
    /// `ALTER TABLE`.
    AlterTable(AlterTable),
    /// `USE`, `USE CATALOG`.
    Use {
        /// The catalog, or a database of one or two parts.
        name: Name,
        /// `CATALOG` stands there.
        catalog: bool,
    },
    /// `SET 'key' = 'value'`.
    Set {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// Where the key stands.
        place: Place,
    },
    /// `RESET 'key'`, or all.
    Reset {
        /// The key.
        key: Option<String>,
        /// Where the statement stands.
        place: Place,
    },
    /// What asks and changes nothing.
    Ask(Ask, Place),
}

/// What a user may ask of a script's names and plans.
#[derive(Debug)]
pub enum Ask {
    /// `SHOW TABLES` and the like.
    Show(Shown),
    /// `SHOW CREATE TABLE`, `SHOW CREATE VIEW`.
    Create(Name),
    /// `SHOW COLUMNS FROM`, `DESCRIBE`.
    Columns(Name),
    /// `EXPLAIN` of INSERTs, or of a query.
    Explain(Vec<Explained>),
    /// `SET`.
    Settings,
}

/// What EXPLAIN explains.
#[derive(Debug)]
pub enum Explained {
    /// `INSERT INTO`.
    Insert(Insert),
    /// A query.
    Query(Box<Query>, Place),
}

/// Of what there is a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Tables and views.
    Tables,
    /// Views.
    Views,
    /// Databases of the catalog in use.
    Databases,
    /// Catalogs.
    Catalogs,
    /// Functions.
    Functions,
    /// The catalog in use.
    CurrentCatalog,
    /// The database in use.
    CurrentDatabase,
    /// There are none here.
    Jars,
    /// Modules: `core`.
    Modules,
}

/// `CREATE CATALOG`.
#[derive(Debug)]
pub struct CreateCatalog {
    /// Its name.
    pub name: Ident,
    /// An existing one stays as it is.
    pub if_not_exists: bool,
    /// `WITH (…)`.
    pub options: Vec<OptionDef>,
}

/// `DROP …`.
#[derive(Debug)]
pub struct Drop {
    /// Of what.
    pub kind: Dropped,
    /// Its name.
    pub name: Name,
    /// It need not be there.
    pub if_exists: bool,
    /// With all that it holds.
    pub cascade: bool,
}

/// What can be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// A table.
    Table,
    /// A view.
    View,
    /// A database.
    Database,
    /// A catalog.
    Catalog,
    /// A function.
    Function,
}

impl Dropped {
    /// In words.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::View => "view",
            Self::Database => "database",
            Self::Catalog => "catalog",
            Self::Function => "function",
        }
    }
}

/// `ALTER TABLE`.
#[derive(Debug)]
pub struct AlterTable {
    /// The table.
    pub name: Name,
    /// It need not be there.
    pub if_exists: bool,
    /// What becomes of it.
    pub change: Change,
}

/// What ALTER TABLE does.
#[derive(Debug)]
pub enum Change {
    /// `SET (…)`.
    Set(Vec<OptionDef>),
    /// `RESET (…)`.
    Reset(Vec<String>),
    /// `RENAME TO`.
    Rename(Name),
}

/// A name of up to three parts: catalog, database, and what it names.
#[derive(Clone, Debug)]
pub struct Name {
    /// At least one.
    pub parts: Vec<Ident>,
}

impl Name {
    /// Where it starts.
    pub fn place(&self) -> Place {
        self.parts.first().map_or(Place::default(), |part| part.span.into())
    }

    /// The parts' texts.
    pub fn texts(&self) -> Vec<&str> {
        self.parts.iter().map(|part| part.value.as_str()).collect()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.texts().join("."))
    }
}

/// Reads a name.
pub fn parse_name(parser: &mut Parser<'_>) -> Result<Name, PlanError> {
    let place = Place::from(parser.peek_token_ref().span);
    let name = parser.parse_object_name(false).map_err(parser_error)?;
    let parts: Vec<Ident> = name.0.iter().filter_map(|part| part.as_ident().cloned()).collect();
    if parts.is_empty() || parts.len() != name.0.len() || parts.len() > 3 {
        let remedy = "write at most catalog.database.name; a name with dots in it stands in backquotes";
        return Err(PlanError::new(place, format!("{name} is no name of a table"), remedy));
    }
    Ok(Name { parts })
}

/// The first words of statements, for who has written none of them.
const FIRST: &str = "CREATE TABLE, CREATE VIEW, INSERT INTO or SET";

/// Reads the statement where the parser stands.
pub fn parse_statement(parser: &mut Parser<'_>, piece: &Piece<'_>, lines: &Lines<'_>) -> Result<Statement, PlanError> {
    let first = parser.peek_token();
    let place = Place::from(first.span);
    let word = match &first.token {
        Token::Word(word) => word.value.to_ascii_uppercase(),
        Token::LParen => return parse_query(parser, place),
        _ => return Err(expected(FIRST, &first)),
    };
    match word.as_str() {
        "SELECT" | "WITH" | "VALUES" => return parse_query(parser, place),
        "SET" => return parse_set(parser, piece, lines),
        _ => {}
    }
    parser.next_token();
    match word.as_str() {
        "CREATE" => parse_create(parser),
        "REPLACE" if word_at(parser, 0, "TABLE") => {
            Err(PlanError::new(place, "REPLACE TABLE is not supported", "write CREATE OR REPLACE TABLE … AS SELECT …"))
        }
        "INSERT" => parse_insert(parser, place).map(Statement::Insert),
        "DROP" => parse_drop(parser).map(Statement::Drop),
        "ALTER" => parse_alter(parser, place),
        "USE" => parse_use(parser),
        "RESET" => Ok(parse_reset(parser, place)),
        "SHOW" => Ok(Statement::Ask(parse_show(parser)?, place)),
        "DESCRIBE" | "DESC" => {
            consume_word(parser, "EXTENDED");
            Ok(Statement::Ask(Ask::Columns(parse_name(parser)?), place))
        }
        "EXPLAIN" => Ok(Statement::Ask(Ask::Explain(parse_explain(parser)?), place)),
        "BEGIN" | "EXECUTE" => Err(PlanError::new(
            place,
            format!("{word} is not supported here"),
            "write EXECUTE STATEMENT SET BEGIN … END, or the INSERTs one after another",
        )),
        "ADD" | "REMOVE" if word_at(parser, 0, "JAR") => Err(PlanError::new(
            place,
            format!("{word} JAR is not supported: there is no Java here"),
            "leave it out; what the connectors and formats of this build need is in it, and a function of your own goes into a worker \
             binary of your own, named by workers.image",
        )),
        other @ ("ADD" | "REMOVE" | "LOAD" | "UNLOAD" | "UPDATE" | "DELETE" | "ANALYZE" | "CALL" | "TRUNCATE"
        | "COMPILE" | "MERGE" | "STOP" | "HELP" | "QUIT" | "EXIT" | "CLEAR" | "SOURCE") => Err(PlanError::new(
            place,
            format!("{other} is not supported"),
            "a job's script declares its tables and views, and then inserts",
        )),
        _ => Err(expected(FIRST, &first)),
    }
}

fn parse_query(parser: &mut Parser<'_>, place: Place) -> Result<Statement, PlanError> {
    Ok(Statement::Query(parser.parse_query().map_err(parser_error)?, place))
}

/// `DROP [TEMPORARY [SYSTEM]] TABLE | VIEW | DATABASE | CATALOG | FUNCTION [IF EXISTS] name [RESTRICT | CASCADE]`.
fn parse_drop(parser: &mut Parser<'_>) -> Result<Drop, PlanError> {
    if consume_word(parser, "TEMPORARY") {
        consume_word(parser, "SYSTEM");
    }
    let token = parser.next_token();
    let kinds = [
        ("TABLE", Dropped::Table),
        ("VIEW", Dropped::View),
        ("DATABASE", Dropped::Database),
        ("CATALOG", Dropped::Catalog),
        ("FUNCTION", Dropped::Function),
    ];
    let word = token.token.to_string();
    let Some((_, kind)) = kinds.into_iter().find(|(name, _)| word.eq_ignore_ascii_case(name)) else {
        return Err(expected("TABLE, VIEW, DATABASE, CATALOG or FUNCTION", &token));
    };
    let if_exists = parse_if_exists(parser)?;
    let name = parse_name(parser)?;
    let cascade = consume_word(parser, "CASCADE");
    consume_word(parser, "RESTRICT");
    Ok(Drop { kind, name, if_exists, cascade })
}

fn parse_if_exists(parser: &mut Parser<'_>) -> Result<bool, PlanError> {
    if !consume_word(parser, "IF") {
        return Ok(false);
    }
    expect_word(parser, "EXISTS")?;
    Ok(true)
}

fn parse_alter(parser: &mut Parser<'_>, place: Place) -> Result<Statement, PlanError> {
    if !consume_word(parser, "TABLE") {
        let what = parser.peek_token().token.to_string().to_ascii_uppercase();
        return Err(PlanError::new(
            place,
            format!("ALTER {what} is not supported"),
            "write the CREATE statement as it is to be",
        ));
    }
    let if_exists = parse_if_exists(parser)?;
    let name = parse_name(parser)?;
    let next = parser.peek_token();
    let change = if consume_word(parser, "SET") {
        Change::Set(parse_options(parser)?)
    } else if consume_word(parser, "RESET") {
        parser.expect_token(&Token::LParen).map_err(parser_error)?;
        let mut keys = Vec::new();
        loop {
            keys.push(parse_string(parser, "an option's name in quotes")?);
            if !parser.consume_token(&Token::Comma) {
                break;
            }
        }
        parser.expect_token(&Token::RParen).map_err(parser_error)?;
        Change::Reset(keys)
    } else if consume_word(parser, "RENAME") {
        expect_word(parser, "TO")?;
        Change::Rename(parse_name(parser)?)
    } else {
        let what = next.token.to_string().to_ascii_uppercase();
        return Err(PlanError::new(
            next.span,
            format!("ALTER TABLE … {what} is not supported"),
            "write the CREATE TABLE as it is to be; SET (…), RESET (…) and RENAME TO are supported",
        ));
    };
    Ok(Statement::AlterTable(AlterTable { name, if_exists, change }))
}

fn parse_use(parser: &mut Parser<'_>) -> Result<Statement, PlanError> {
    if word_at(parser, 0, "MODULES") {
        return Err(PlanError::new(
            parser.peek_token_ref().span,
            "USE MODULES is not supported",
            "leave it out: there is one module, core",
        ));
    }
    let catalog = word_at(parser, 0, "CATALOG") && !matches!(parser.peek_nth_token_ref(1).token, Token::EOF);
    if catalog {
        parser.next_token();
    }
    Ok(Statement::Use { name: parse_name(parser)?, catalog })
}

fn parse_reset(parser: &mut Parser<'_>, place: Place) -> Statement {
    let mut key = String::new();
    while !matches!(parser.peek_token_ref().token, Token::EOF) {
        key.push_str(&match parser.next_token().token {
            Token::SingleQuotedString(text) => text,
            other => other.to_string(),
        });
    }
    Statement::Reset { key: (!key.is_empty()).then_some(key), place }
}

fn parse_show(parser: &mut Parser<'_>) -> Result<Ask, PlanError> {
    consume_word(parser, "FULL");
    consume_word(parser, "USER");
    let token = parser.next_token();
    let lists = [
        ("TABLES", Shown::Tables),
        ("VIEWS", Shown::Views),
        ("DATABASES", Shown::Databases),
        ("CATALOGS", Shown::Catalogs),
        ("FUNCTIONS", Shown::Functions),
        ("JARS", Shown::Jars),
        ("MODULES", Shown::Modules),
    ];
    let word = token.token.to_string().to_ascii_uppercase();
    if let Some((_, list)) = lists.into_iter().find(|(name, _)| word == *name) {
        return Ok(Ask::Show(list));
    }
    match word.as_str() {
        "CURRENT" if consume_word(parser, "CATALOG") => Ok(Ask::Show(Shown::CurrentCatalog)),
        "CURRENT" if consume_word(parser, "DATABASE") => Ok(Ask::Show(Shown::CurrentDatabase)),
        "CREATE" if consume_word(parser, "TABLE") || consume_word(parser, "VIEW") => {
            parse_name(parser).map(Ask::Create)
        }
        "COLUMNS" if consume_word(parser, "FROM") || consume_word(parser, "IN") => parse_name(parser).map(Ask::Columns),
        _ => Err(expected("TABLES, VIEWS, DATABASES, CATALOGS, FUNCTIONS, COLUMNS FROM or CREATE TABLE", &token)),
    }
}

/// `EXPLAIN [PLAN FOR | details] query | INSERT | STATEMENT SET BEGIN … END`. What is told is the same with all details.
fn parse_explain(parser: &mut Parser<'_>) -> Result<Vec<Explained>, PlanError> {
    if consume_word(parser, "PLAN") {
        expect_word(parser, "FOR")?;
    }
    let details = ["ESTIMATED_COST", "CHANGELOG_MODE", "JSON_EXECUTION_PLAN", "PLAN_ADVICE"];
    while details.iter().any(|detail| consume_word(parser, detail)) {
        let _ = parser.consume_token(&Token::Comma);
    }
    if word_at(parser, 0, "STATEMENT") {
        return Err(PlanError::new(
            parser.peek_token_ref().span,
            "EXPLAIN STATEMENT SET is not supported",
            "write EXPLAIN before each INSERT; `weir plan` shows all of them as one graph",
        ));
    }
    let place = Place::from(parser.peek_token_ref().span);
    if consume_word(parser, "INSERT") {
        return Ok(vec![Explained::Insert(parse_insert(parser, place)?)]);
    }
    let query = parser.parse_query().map_err(parser_error)?;
    Ok(vec![Explained::Query(query, place)])
}

/// `SET 'key' = 'value'`, and both without quotes: the value is then what stands there up to the end.
fn parse_set(parser: &mut Parser<'_>, piece: &Piece<'_>, lines: &Lines<'_>) -> Result<Statement, PlanError> {
    let set = parser.next_token();
    let first = parser.peek_token();
    if first.token == Token::EOF {
        return Ok(Statement::Ask(Ask::Settings, set.span.into()));
    }
    let place = Place::from(first.span);
    let quoted = |text: &str| -> Result<String, PlanError> {
        let text = text.trim();
        if text.starts_with('"') {
            return Err(PlanError::new(place, format!("{text} is in double quotes"), "write it in single ones"));
        }
        Ok(text.to_string())
    };
    let equals = loop {
        let token = parser.next_token();
        match token.token {
            Token::Eq => break token,
            Token::EOF => return Err(expected("'=' and the setting's value", &token).or_at(piece.end)),
            _ => {}
        }
    };
    let key = match (&first.token, piece.tokens.get(2)) {
        (Token::SingleQuotedString(key), Some(second)) if second.token == Token::Eq => key.clone(),
        _ => quoted(piece.between(lines, &set, Some(&equals)))?,
    };
    let token = parser.next_token();
    let value = match token.token {
        Token::SingleQuotedString(value) if parser.peek_token_ref().token == Token::EOF => value,
        _ => quoted(piece.between(lines, &equals, None))?,
    };
    while parser.next_token().token != Token::EOF {}
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(PlanError::new(place, format!("'{key}' is no name of a setting"), "write SET 'key' = 'value'"));
    }
    Ok(Statement::Set { key, value, place })
}
