//! `FOR SYSTEM_TIME AS OF`: a table as it is, or was, at the time of a row that is joined with it. It becomes a table of its own, which
//! knows by which time it is looked at; where it stands, and what that time is, is judged once the query is planned.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, TableReference};
use datafusion_expr::LogicalPlan;
use datafusion_sql::sqlparser::ast::{
    Expr, Ident, ObjectName, Query, Spanned, TableAlias, TableFactor, TableVersion, VisitMut, VisitorMut,
};

use super::Script;
use crate::error::{Place, PlanError};
use crate::logical::columns::{Time, as_of, traits};
use crate::names::catalog::{AsOf, HINTED, Table};

impl Script<'_> {
    /// Puts a table that knows its time in the place of each `FOR SYSTEM_TIME AS OF`.
    pub(super) fn versions(&mut self, query: &mut Query) -> Result<(), PlanError> {
        match query.visit(&mut Versions { script: self }) {
            ControlFlow::Break(error) => Err(*error),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    fn version(&mut self, parts: &[Ident], at: &Expr) -> Result<String, PlanError> {
        let place = Place::from(at.span());
        let column = match at {
            Expr::Identifier(name) => vec![name.value.clone()],
            Expr::CompoundIdentifier(names) if names.len() == 2 => {
                names.iter().map(|name| name.value.clone()).collect()
            }
            _ => {
                return Err(PlanError::new(
                    place,
                    "FOR SYSTEM_TIME AS OF takes a column of the rows that are joined with the table",
                    "give them a column with the time, in a table p AS PROCTIME(), or in a SELECT, PROCTIME() AS p; and write AS OF a.p",
                ));
            }
        };
        let texts: Vec<&str> = parts.iter().map(|part| part.value.as_str()).collect();
        let path = match texts[..] {
            [hinted] if hinted.contains(HINTED) => hinted.to_string(),
            _ => self.names.path(&texts),
        };
        let table = match self.names.table(&path) {
            Some(table) => Arc::clone(table),
            None if self.names.is_view(&path) => {
                return Err(PlanError::new(
                    place,
                    format!("{path} is a view: FOR SYSTEM_TIME AS OF a view is not supported yet"),
                    "name the table that the view reads, and filter in ON",
                ));
            }
            None => return Err(self.names.unknown_table(&path, place)),
        };
        let called = format!("{path}{HINTED} AS OF {} */", column.join("."));
        self.names.add_table_as(called.clone(), Table { as_of: Some(AsOf { place, column }), ..Table::clone(&table) });
        Ok(called)
    }
}

struct Versions<'s, 'a> {
    script: &'s mut Script<'a>,
}

impl VisitorMut for Versions<'_, '_> {
    type Break = Box<PlanError>;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        let TableFactor::Table { name, alias, args: None, version, .. } = factor else {
            return ControlFlow::Continue(());
        };
        let Some(TableVersion::ForSystemTimeAsOf(at)) = version else { return ControlFlow::Continue(()) };
        let parts: Vec<Ident> = name.0.iter().filter_map(|part| part.as_ident().cloned()).collect();
        let Some(last) = parts.last().cloned() else { return ControlFlow::Continue(()) };
        match self.script.version(&parts, at) {
            Ok(called) => {
                *name = ObjectName::from(vec![Ident { value: called, ..last.clone() }]);
                alias.get_or_insert(TableAlias { explicit: false, name: last, columns: Vec::new(), at: None });
                *version = None;
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}

/// Refuses a time that is no processing time of the rows that are joined with the table.
pub(super) fn check_versions(plan: &LogicalPlan) -> Result<(), PlanError> {
    let mut wrong = None;
    // Visiting never fails.
    let _ = plan.apply(|plan| {
        if let LogicalPlan::Join(join) = plan
            && let Some((_, table)) = as_of(&join.right)
            && let Some(at) = &table.as_of
        {
            wrong = judge(&join.left, at).err();
        }
        Ok(if wrong.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    wrong.map_or(Ok(()), Err)
}

fn judge(left: &LogicalPlan, at: &AsOf) -> Result<(), PlanError> {
    let text = at.column.join(".");
    let column = match at.column.as_slice() {
        [relation, name] => Column::new(Some(TableReference::bare(relation.as_str())), name),
        _ => Column::new_unqualified(&text),
    };
    let found = left.schema().index_of_column(&column).ok();
    let time = found.and_then(|index| traits(left).get(index).and_then(|column| column.time));
    match time {
        Some(Time::Processing) => Ok(()),
        Some(Time::Event) => Err(PlanError::new(
            at.place,
            format!("FOR SYSTEM_TIME AS OF {text}, which is event time, is not supported yet"),
            "look up by processing time, with a column PROCTIME(); or join with the rows of the table as they come, without FOR SYSTEM_TIME AS OF",
        )),
        None if found.is_none() => Err(PlanError::new(
            at.place,
            format!("FOR SYSTEM_TIME AS OF {text} is no column of what stands before the JOIN"),
            "name a column with the processing time of these rows, with the name of their table before it",
        )),
        None => Err(PlanError::new(
            at.place,
            format!("FOR SYSTEM_TIME AS OF {text}, which is no time attribute"),
            "give the rows before the JOIN a column with the time: p AS PROCTIME() in their table, or PROCTIME() AS p in a SELECT",
        )),
    }
}
