//! Which joins a query may have, in its syntax: those of Flink. What they compare is judged where it is planned.

use datafusion_sql::sqlparser::ast::{
    Join, JoinConstraint, JoinOperator, Select, SelectItem, Spanned, TableFactor, TableWithJoins,
};

use crate::error::{Place, PlanError};
use crate::parse::subqueries::subquery_in;

/// Joins of one SELECT. Each is a level of the plan, which rules recurse over.
const MAX_JOINS: usize = 64;

/// Checks the joins of a SELECT.
pub fn check_joins(select: &Select) -> Result<(), PlanError> {
    let mut merges = false;
    if let Some(place) = select.from.iter().flat_map(relations).nth(MAX_JOINS + 1) {
        return Err(PlanError::new(
            place,
            format!("the SELECT has more than {MAX_JOINS} joins"),
            "join some of the tables in a view, and select from it",
        ));
    }
    for from in &select.from {
        merges |= check_from(from)?;
    }
    let wildcard = select.projection.iter().find(|item| matches!(item, SelectItem::Wildcard(_)));
    match wildcard.filter(|_| merges) {
        Some(wildcard) => Err(PlanError::new(
            wildcard.span(),
            "* over a join with USING or NATURAL is not supported",
            "name the columns, or write ON a.x = b.x",
        )),
        None => Ok(()),
    }
}

/// Where each relation stands.
fn relations(from: &TableWithJoins) -> Vec<Place> {
    let all = std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation));
    all.flat_map(|relation| match relation {
        TableFactor::NestedJoin { table_with_joins, .. } => relations(table_with_joins),
        other => vec![Place::from(other.span())],
    })
    .collect()
}

/// Whether columns of both sides become one.
fn check_from(from: &TableWithJoins) -> Result<bool, PlanError> {
    let mut merges = check_relation(&from.relation)?;
    for join in &from.joins {
        merges |= check_relation(&join.relation)?;
        merges |= check_join(join)?;
    }
    Ok(merges)
}

fn check_relation(relation: &TableFactor) -> Result<bool, PlanError> {
    let TableFactor::NestedJoin { table_with_joins, alias } = relation else { return Ok(false) };
    if let Some(alias) = alias {
        return Err(PlanError::new(
            alias.name.span,
            "a join in parentheses has no name",
            "write (SELECT … FROM a JOIN b ON …) before the name, or leave it out",
        ));
    }
    check_from(table_with_joins)
}

fn check_join(join: &Join) -> Result<bool, PlanError> {
    use JoinOperator as Of;
    let place = Place::from(join.relation.span());
    if join.global {
        return Err(PlanError::new(place, "GLOBAL JOIN is not supported", "write JOIN"));
    }
    let (constraint, keeps_right) = match &join.join_operator {
        Of::Join(on) | Of::Inner(on) | Of::Left(on) | Of::LeftOuter(on) => (on, false),
        Of::Right(on) | Of::RightOuter(on) | Of::FullOuter(on) => (on, true),
        Of::CrossJoin(JoinConstraint::None) => return Ok(false),
        Of::CrossJoin(_) => {
            return Err(PlanError::new(place, "CROSS JOIN has no condition", "write JOIN … ON …, or leave it out"));
        }
        Of::Semi(_) | Of::LeftSemi(_) | Of::RightSemi(_) => {
            return Err(PlanError::new(
                place,
                "SEMI JOIN is not Flink's SQL",
                "write WHERE EXISTS (SELECT …), or WHERE x IN (SELECT …)",
            ));
        }
        Of::Anti(_) | Of::LeftAnti(_) | Of::RightAnti(_) => {
            return Err(PlanError::new(
                place,
                "ANTI JOIN is not Flink's SQL",
                "write WHERE NOT EXISTS (SELECT …), or WHERE x NOT IN (SELECT …)",
            ));
        }
        _ => {
            return Err(PlanError::new(
                place,
                "this kind of join is not supported",
                "write JOIN, LEFT JOIN, RIGHT JOIN, FULL JOIN or CROSS JOIN",
            ));
        }
    };
    match constraint {
        JoinConstraint::On(condition) => match subquery_in(condition) {
            Some(at) => Err(PlanError::new(
                at.or(place),
                "a subquery in ON is not supported",
                "write it into WHERE, or join with what it selects",
            )),
            None => Ok(false),
        },
        JoinConstraint::None => {
            Err(PlanError::new(place, "the join has no condition", "write ON a.x = b.y, or CROSS JOIN"))
        }
        // The column of the left, which stands for both, is null beside a row of the right alone.
        JoinConstraint::Using(_) | JoinConstraint::Natural if keeps_right => Err(PlanError::new(
            place,
            "USING and NATURAL of a RIGHT or FULL join are not supported",
            "write ON a.x = b.x, and select COALESCE(a.x, b.x)",
        )),
        JoinConstraint::Using(_) | JoinConstraint::Natural => Ok(true),
    }
}
