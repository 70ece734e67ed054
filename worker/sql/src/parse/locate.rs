//! Where an error stands that came without a place: the query is planned in parts, and the first part that fails alone is it.

use datafusion_sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, JoinConstraint, JoinOperator, Query, Select, SelectItem, SetExpr, Spanned, TableFactor,
    Value,
};

use crate::error::Place;

/// The place of the smallest part of the query for which `fails` says yes, if there is one. Only called once planning has
/// failed, so it may be slow.
pub fn locate(query: &Query, fails: &dyn Fn(Query) -> bool) -> Option<Place> {
    if let Some(with) = &query.with {
        for table in &with.cte_tables {
            if fails(table.query.as_ref().clone()) {
                return locate(&table.query, fails).or_else(|| known(table.query.span()));
            }
        }
    }
    if let SetExpr::SetOperation { left, right, .. } = query.body.as_ref() {
        return locate_side(query, [left.as_ref(), right.as_ref()], fails).or_else(|| known(right.span()));
    }
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let relations = select
        .from
        .iter()
        .flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)));
    for relation in relations {
        if let TableFactor::Derived { subquery, .. } = relation
            && fails(subquery.as_ref().clone())
        {
            return locate(subquery, fails).or_else(|| known(subquery.span()));
        }
    }
    locate_part(query, select, fails)
}

/// In the parts of one SELECT, each with nothing of the rest.
fn locate_part(query: &Query, select: &Select, fails: &dyn Fn(Query) -> bool) -> Option<Place> {
    let with = |change: &dyn Fn(&mut Select)| {
        let mut query = query.clone();
        if let SetExpr::Select(select) = query.body.as_mut() {
            change(select);
        }
        fails(query)
    };
    let constant = || SelectItem::ExprWithAlias {
        expr: Expr::value(Value::Number("1".to_string(), false)),
        alias: Ident::new("one"),
    };
    // A join with those before it, and nothing of the rest.
    for (place, from) in select.from.iter().enumerate() {
        for (last, join) in from.joins.iter().enumerate() {
            let fails_alone = with(&|select| {
                select.from.truncate(place + 1);
                select.from[place].joins.truncate(last + 1);
                select.projection = vec![constant()];
                select.selection = None;
                select.group_by = GroupByExpr::Expressions(Vec::new(), Vec::new());
                select.having = None;
            });
            if fails_alone {
                return condition(&join.join_operator)
                    .and_then(|on| known(on.span()))
                    .or_else(|| known(join.relation.span()));
            }
        }
    }
    if let Some(selection) = &select.selection
        && with(&|select| {
            select.projection = vec![constant()];
            select.group_by = GroupByExpr::Expressions(Vec::new(), Vec::new());
            select.having = None;
        })
    {
        return known(selection.span());
    }
    if let GroupByExpr::Expressions(group, _) = &select.group_by {
        for expr in group {
            let fails_alone = with(&|select| {
                select.projection = vec![SelectItem::UnnamedExpr(expr.clone())];
                select.group_by = GroupByExpr::Expressions(vec![expr.clone()], Vec::new());
                select.having = None;
            });
            if fails_alone {
                return known(expr.span());
            }
        }
    }
    for item in &select.projection {
        let fails_alone = with(&|select| {
            select.projection = vec![item.clone()];
            select.having = None;
        });
        if fails_alone {
            return known(item.span());
        }
    }
    select.having.as_ref().and_then(|having| known(having.span()))
}

/// What a join compares.
fn condition(join: &JoinOperator) -> Option<&Expr> {
    use JoinOperator as Of;
    match join {
        Of::Join(on)
        | Of::Inner(on)
        | Of::Left(on)
        | Of::LeftOuter(on)
        | Of::Right(on)
        | Of::RightOuter(on)
        | Of::FullOuter(on) => match on {
            JoinConstraint::On(condition) => Some(condition),
            _ => None,
        },
        _ => None,
    }
}

/// In the first query of a UNION that fails alone.
fn locate_side(query: &Query, sides: [&SetExpr; 2], fails: &dyn Fn(Query) -> bool) -> Option<Place> {
    let alone = |side: &SetExpr| match side {
        SetExpr::Query(query) => query.as_ref().clone(),
        other => Query { body: Box::new(other.clone()), ..query.clone() },
    };
    let failing = sides.into_iter().map(alone).find(|side| fails(side.clone()))?;
    locate(&failing, fails).or_else(|| known(failing.span()))
}

fn known(span: datafusion_sql::sqlparser::tokenizer::Span) -> Option<Place> {
    Some(Place::from(span)).filter(|place| place.is_known())
}
