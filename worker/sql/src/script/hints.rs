//! Hints, `/*+ … */`: OPTIONS behind a table's name reads or writes it with other options. What only tells Flink how to run a query
//! changes nothing here, which is said; so is a hint that is not known.

use std::fmt::Write;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion_sql::sqlparser::ast::{
    Expr, Ident, ObjectName, Query, Select, TableAlias, TableFactor, VisitMut, VisitorMut,
};
use datafusion_sql::sqlparser::parser::Parser;
use datafusion_sql::sqlparser::tokenizer::{Token, Tokenizer};

use super::Script;
use crate::error::{Place, PlanError, suggest};
use crate::names::catalog::{HINTED, Table};
use crate::parse::dialect::{FlinkDialect, OptionDef, TABLE_PREFIX, parse_options};
use crate::parse::statements::Name;
use crate::parse::types::{expected, parser_error};

/// How Flink is to run a query. What comes out is the same.
const TUNING: [&str; 7] =
    ["BROADCAST", "SHUFFLE_HASH", "SHUFFLE_MERGE", "NEST_LOOP", "LOOKUP", "MULTI_JOIN", "STATE_TTL"];

/// Other options for a table.
const OPTIONS: &str = "OPTIONS";

impl Script<'_> {
    /// Obeys the hints of a query.
    pub(super) fn obey_hints(&mut self, query: &mut Query) -> Result<(), PlanError> {
        if self.hints.is_empty() {
            return Ok(());
        }
        match query.visit(&mut Obey { script: self }) {
            ControlFlow::Break(error) => Err(*error),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    /// A table that is written, with the options of the hint behind its name.
    pub(super) fn hinted(&mut self, name: &Name, table: Arc<Table>) -> Result<Arc<Table>, PlanError> {
        let Some(options) = self.options_behind(name.parts.last())? else { return Ok(table) };
        let called = self.with_options(&table, &options);
        Ok(self.names.table(&called).map_or(table, Arc::clone))
    }

    /// All hints that stood where none is looked for.
    pub(super) fn unused_hints(&mut self) {
        for (text, place) in std::mem::take(&mut self.hints).into_values().flatten() {
            self.warn(place, format!("the hint {} stands where it has no effect", text.trim()));
        }
    }

    /// What OPTIONS behind a name says.
    fn options_behind(&mut self, name: Option<&Ident>) -> Result<Option<Vec<OptionDef>>, PlanError> {
        let Some(hints) = name.and_then(|name| self.hints.remove(&name.span.into())) else { return Ok(None) };
        let mut options = None;
        for (text, place) in hints {
            for (name, given) in read(&text, place)? {
                match given {
                    Some(given) if name == OPTIONS => options = Some(self.last_wins(given)),
                    _ => self.without_effect(&name, place),
                }
            }
        }
        Ok(options)
    }

    fn without_effect(&mut self, name: &str, place: Place) {
        let message = if TUNING.contains(&name) {
            format!("the hint {name} has no effect: how a query runs is decided here")
        } else if name == OPTIONS {
            "the hint OPTIONS has no effect here: it stands behind the name of a table".to_string()
        } else {
            let remedy = suggest(name, "hints", TUNING.into_iter().chain([OPTIONS]));
            format!("there is no hint {name}, and it has no effect; {remedy}")
        };
        self.warn(place, message);
    }

    /// A table of other options. Gives the name under which queries find it.
    fn with_options(&mut self, table: &Arc<Table>, options: &[OptionDef]) -> String {
        let mut called = format!("{}{HINTED} OPTIONS(", table.name);
        for (index, OptionDef { key, value, .. }) in options.iter().enumerate() {
            // Writing to a text does not fail.
            let _ = write!(called, "{}'{key}'='{value}'", if index == 0 { "" } else { ", " });
        }
        called.push_str(") */");
        if self.names.table(&called).is_none_or(|other| !Arc::ptr_eq(&other.declared, &table.declared)) {
            let mut other = Table::clone(table);
            for option in options {
                other.options.retain(|old| old.key != option.key);
                other.options.push(option.clone());
            }
            self.names.add_table_as(called.clone(), other);
        }
        called
    }
}

struct Obey<'s, 'a> {
    script: &'s mut Script<'a>,
}

impl Obey<'_, '_> {
    /// Puts the name of the table of other options where a table's name with a hint stands. Gives the name that it had.
    fn renamed(&mut self, parts: &[Ident]) -> Result<Option<(Ident, Ident)>, PlanError> {
        let Some(options) = self.script.options_behind(parts.last())? else { return Ok(None) };
        let Some(last) = parts.last().cloned() else { return Ok(None) };
        let texts: Vec<&str> = parts.iter().map(|part| part.value.as_str()).collect();
        let path = self.script.names.path(&texts);
        let place = Place::from(last.span);
        let Some(table) = self.script.names.table(&path).map(Arc::clone) else {
            if self.script.names.is_view(&path) {
                let remedy = "put the hint behind the table's name in the view";
                return Err(PlanError::new(place, format!("{path} is a view, and OPTIONS are a table's"), remedy));
            }
            return Err(self.script.names.unknown_table(&path, place));
        };
        let called = self.script.with_options(&table, &options);
        Ok(Some((Ident { value: called, ..last.clone() }, last)))
    }
}

impl VisitorMut for Obey<'_, '_> {
    type Break = Box<PlanError>;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        let place = Place::from(select.select_token.0.span);
        for (text, at) in self.script.hints.remove(&place).unwrap_or_default() {
            match read(&text, at) {
                Ok(hints) => hints.into_iter().for_each(|(name, _)| self.script.without_effect(&name, at)),
                Err(error) => return ControlFlow::Break(Box::new(error)),
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        let TableFactor::Table { name, alias, args: None, .. } = factor else { return ControlFlow::Continue(()) };
        let parts: Vec<Ident> = name.0.iter().filter_map(|part| part.as_ident().cloned()).collect();
        match self.renamed(&parts) {
            Ok(Some((called, was))) => {
                *name = ObjectName::from(vec![called]);
                alias.get_or_insert(TableAlias { explicit: false, name: was, columns: Vec::new(), at: None });
                ControlFlow::Continue(())
            }
            Ok(None) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        if let Expr::Prefixed { prefix, value } = expr
            && prefix.value == TABLE_PREFIX
            && let Expr::CompoundIdentifier(parts) = value.as_mut()
        {
            match self.renamed(parts) {
                Ok(Some((called, _))) => *parts = vec![called],
                Ok(None) => {}
                Err(error) => return ControlFlow::Break(Box::new(error)),
            }
        }
        ControlFlow::Continue(())
    }
}

/// Its name, and what OPTIONS gives.
type Hint = (String, Option<Vec<OptionDef>>);

/// The hints of one comment: their names in upper case, and what OPTIONS gives.
fn read(text: &str, place: Place) -> Result<Vec<Hint>, PlanError> {
    let wrong = |error: PlanError| {
        PlanError::new(
            place,
            format!("the hint cannot be read: {}", error.message),
            "write /*+ OPTIONS('key' = 'value') */",
        )
    };
    let tokens = Tokenizer::new(&FlinkDialect, text).tokenize_with_location();
    let tokens = tokens.map_err(|error| wrong(PlanError::new(place, error.message, "")))?;
    let tokens = tokens.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    let mut parser = Parser::new(&FlinkDialect).with_tokens_with_locations(tokens);
    let mut hints = Vec::new();
    while parser.peek_token_ref().token != Token::EOF {
        let name = parser.parse_identifier().map_err(parser_error).map_err(wrong)?.value.to_ascii_uppercase();
        let mut options = None;
        if name == OPTIONS {
            let given = parse_options(&mut parser).map_err(wrong)?;
            options = Some(given.into_iter().map(|option| OptionDef { place, ..option }).collect());
        } else if parser.consume_token(&Token::LParen) {
            while !parser.consume_token(&Token::RParen) {
                if parser.next_token().token == Token::EOF {
                    return Err(wrong(expected("')'", &parser.peek_token())));
                }
            }
        }
        hints.push((name, options));
        let _ = parser.consume_token(&Token::Comma);
    }
    Ok(hints)
}
