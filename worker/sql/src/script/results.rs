//! Queries that stand alone. Where somebody looks at their rows, or has them printed, each is an INSERT into a table that has the
//! query's columns.

use datafusion_sql::sqlparser::ast::{Expr, Ident, LimitClause, Query, Spanned, Value};
use weir_connectors::RESULTS;

use super::{Script, Written, columns_of, into_sink, targets};
use crate::error::{Place, PlanError};
use crate::logical::optimize::optimize;
use crate::logical::size::check_plan;
use crate::parse::dialect::{CreateTable, OptionDef};
use crate::parse::statements::{Name, Statement};
use crate::settings::QUERY_RESULTS;

/// What the first result is called. Later ones have a number behind it.
const RESULT: &str = "result";

/// The connector that takes the results of queries that stand alone, if the script says one.
pub(super) fn connector(statements: &[Statement]) -> Option<String> {
    statements.iter().rev().find_map(|statement| match statement {
        Statement::Set { key, value, .. } if key == QUERY_RESULTS => Some(value.clone()),
        _ => None,
    })
}

impl Script<'_> {
    /// A query that stands alone.
    pub(super) fn query_alone(&mut self, mut query: Query, place: Place) -> Result<(), PlanError> {
        let Some(connector) = self.results.clone() else {
            return Err(PlanError::new(
                place,
                "a query alone has nowhere to put its result",
                "write INSERT INTO <table> before it; a table WITH ('connector' = 'print') shows the rows, and so does `weir sql`",
            ));
        };
        let mut options = vec![("connector", connector.clone())];
        if connector == RESULTS
            && let Some(limit) = limit_of(&mut query)
        {
            options.push(("limit", limit));
        }
        self.checked(&mut query, place)?;
        let at = Place::from(query.span()).or(place);
        let plan = self.query(&query, at)?;
        check_plan(&plan, at)?;
        let mut name = RESULT.to_string();
        let mut number = 1;
        while self.names.ever(&name).next().is_some() || self.names.is_view(&name) {
            number += 1;
            name = format!("{RESULT}{number}");
        }
        let mut create = CreateTable::printing(Name { parts: vec![Ident::new(&name)] }, place);
        create.options =
            options.into_iter().map(|(key, value)| OptionDef { key: key.to_string(), value, place }).collect();
        let mut table = self.table(name.clone(), columns_of(create, &plan, at)?)?;
        table.place = place;
        // Under a name that no query can write.
        let hidden = format!("${name}");
        self.names.add_table_as(hidden.clone(), table);
        let Some(sink) = self.names.table(&hidden).cloned() else { return Ok(()) };
        let target = targets(&[], &sink)?;
        let plan = optimize(into_sink(plan, &sink, &target, at, place, &[])?, at)?;
        self.written.push(Written { plan, sink, place: at, at: place, conflict: None });
        Ok(())
    }
}

/// How many rows a query asks for, in no order: whoever looks at them stops there.
fn limit_of(query: &mut Query) -> Option<String> {
    if query.order_by.is_some() || query.fetch.is_some() {
        return None;
    }
    let Some(LimitClause::LimitOffset { limit: Some(Expr::Value(limit)), offset: None, limit_by }) =
        &query.limit_clause
    else {
        return None;
    };
    let Value::Number(limit, _) = &limit.value else { return None };
    let limit = limit.parse::<u64>().ok().filter(|limit| *limit > 0 && limit_by.is_empty())?;
    query.limit_clause = None;
    Some(limit.to_string())
}
