//! What a query may not have, found in its syntax, where every word still has its place; and the syntax that is rewritten
//! to something else: the older group windows, `FLOOR(t TO unit)`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{
    self, AccessExpr, CeilFloorKind, Distinct, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments,
    GroupByExpr, Ident, Query, Select, SelectItem, SetExpr, SetOperator, SetQuantifier, Spanned, Subscript,
    TableFactor, Value, VisitMut, VisitorMut,
};
use datafusion_sql::sqlparser::tokenizer::Span;

use crate::error::{Place, PlanError, suggest};
use crate::names::functions::Functions;
use crate::names::functions::nested::{ARRAY, ITEM};
use crate::names::functions::rank::function_of;
use crate::names::functions::time::{CEIL_TO, FLOOR_TO};
use crate::parse::bounds;
use crate::parse::dialect::{PARTITION_PREFIX, TABLE_PREFIX, call_at, single};
use crate::parse::joins::check_joins;
use crate::parse::subqueries::check_subqueries;

/// Checks and rewrites a query.
pub fn check_query(query: &mut Query, functions: &Functions, place: Place) -> Result<(), PlanError> {
    bounds::check_query(query).map_err(|error| error.or_at(place))?;
    finish(query.visit(&mut Checker { functions, place, window_data: false }))
}

/// Checks and rewrites one expression.
pub fn check_expr(expr: &mut Expr, functions: &Functions, place: Place) -> Result<(), PlanError> {
    bounds::check_expr(expr).map_err(|error| error.or_at(place))?;
    finish(expr.visit(&mut Checker { functions, place, window_data: false }))
}

fn finish(flow: ControlFlow<Box<PlanError>>) -> Result<(), PlanError> {
    match flow {
        ControlFlow::Break(error) => Err(*error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Names that are functions only where their own syntax is.
const SPECIAL: [&str; 5] = ["tumble", "hop", "cumulate", "session", "descriptor"];

/// The columns that the older syntax asks a window for.
const AUXILIARY: [(&str, &str); 12] = [
    ("tumble_start", "window_start"),
    ("tumble_end", "window_end"),
    ("tumble_rowtime", "window_time"),
    ("tumble_proctime", "window_time"),
    ("hop_start", "window_start"),
    ("hop_end", "window_end"),
    ("hop_rowtime", "window_time"),
    ("hop_proctime", "window_time"),
    ("session_start", "window_start"),
    ("session_end", "window_end"),
    ("session_rowtime", "window_time"),
    ("session_proctime", "window_time"),
];

struct Checker<'a> {
    functions: &'a Functions,
    place: Place,
    /// The next subquery is the rows of a window: the older group windows over a subquery are rewritten so.
    window_data: bool,
}

impl Checker<'_> {
    fn refuse(
        &self,
        place: impl Into<Place>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> ControlFlow<Box<PlanError>> {
        ControlFlow::Break(Box::new(PlanError::new(place.into().or(self.place), what, remedy)))
    }

    fn check_body(&self, body: &SetExpr) -> ControlFlow<Box<PlanError>> {
        match body {
            SetExpr::SetOperation { op: SetOperator::Union, set_quantifier, left, right } => {
                if !matches!(set_quantifier, SetQuantifier::All | SetQuantifier::Distinct | SetQuantifier::None) {
                    return self.refuse(
                        right.span(),
                        format!("UNION {set_quantifier} is not supported"),
                        "select the columns in the same order in both queries, and write UNION or UNION ALL",
                    );
                }
                self.check_body(left)?;
                self.check_body(right)
            }
            SetExpr::SetOperation {
                op: SetOperator::Intersect | SetOperator::Except,
                set_quantifier: SetQuantifier::Distinct | SetQuantifier::None,
                left,
                right,
            } => {
                self.check_body(left)?;
                self.check_body(right)
            }
            SetExpr::SetOperation { op, set_quantifier, right, .. } => self.refuse(
                right.span(),
                format!("{op} {set_quantifier} is not supported"),
                "UNION, UNION ALL, INTERSECT and EXCEPT are",
            ),
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) | SetExpr::Table(_) => {
                self.refuse(body.span(), "a SELECT is expected here", "write SELECT … FROM …")
            }
            SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) => ControlFlow::Continue(()),
        }
    }

    fn check_function(&self, call: &Function) -> ControlFlow<Box<PlanError>> {
        let place = Place::from(call.name.span());
        let name = single(&call.name).map_or_else(|| call.name.to_string(), |name| name.value.to_ascii_lowercase());
        if let Some((_, column)) = AUXILIARY.iter().find(|(auxiliary, _)| *auxiliary == name) {
            return self.refuse(
                place,
                format!("{} needs the same window in GROUP BY", name.to_ascii_uppercase()),
                format!("write FROM TABLE(TUMBLE(…)) and take {column}"),
            );
        }
        if self.functions.knows(&name) || SPECIAL.contains(&name.as_str()) {
            if (function_of(&name).is_some() || matches!(name.as_str(), "lag" | "lead")) && call.over.is_none() {
                let name = name.to_ascii_uppercase();
                return self.refuse(
                    place,
                    format!("{name}() lacks its OVER"),
                    format!("write {name}(…) OVER (PARTITION BY … ORDER BY …)"),
                );
            }
            return ControlFlow::Continue(());
        }
        let names = self.functions.names();
        let remedy = match crate::error::nearest(&name, names.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {near}?"),
            None => "a function of your own goes into a worker binary of your own, named by workers.image".to_string(),
        };
        self.refuse(place, format!("there is no function {}", call.name), remedy)
    }
}

impl Checker<'_> {
    /// `ARRAY[…]`, and what reads values that others hold.
    fn check_nested(&self, place: Place, expr: &mut Expr) -> ControlFlow<Box<PlanError>> {
        let meant = match expr {
            Expr::CompoundFieldAccess { root, access_chain } => access(root, access_chain),
            Expr::Array(array) => {
                let elements = std::mem::take(&mut array.elem);
                Some(call_at(array.span(), ARRAY, elements))
            }
            _ => None,
        };
        let Some(meant) = meant else {
            let remedy = "write a field as row.field, an element as array[1], a value as map['key']";
            return self.refuse(place, format!("{expr} cannot be read"), remedy);
        };
        *expr = meant;
        ControlFlow::Continue(())
    }
}

impl VisitorMut for Checker<'_> {
    type Break = Box<PlanError>;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        if let Some(order) = &query.order_by {
            return self.refuse(
                order.span(),
                "ORDER BY cannot sort rows that never end",
                "leave it out; to keep the first row of each key write ROW_NUMBER() OVER (PARTITION BY … ORDER BY …) … WHERE row_num = 1",
            );
        }
        if query.limit_clause.is_some() || query.fetch.is_some() {
            let place = query.limit_clause.as_ref().map_or(Place::default(), |limit| limit.span().into());
            return self.refuse(
                place,
                "LIMIT is not supported on rows that never end",
                "leave it out, or filter with WHERE",
            );
        }
        if let Some(with) = &query.with
            && with.recursive
        {
            return self.refuse(with.span(), "WITH RECURSIVE is not supported", "write the query without recursion");
        }
        self.check_body(&query.body)
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        let place = Place::from(select.select_token.0.span);
        match select.from.as_slice() {
            [] => {}
            _ => {
                if let Err(error) = check_joins(select) {
                    return ControlFlow::Break(Box::new(error.or_at(place)));
                }
            }
        }
        if let Some(Distinct::On(columns)) = &select.distinct {
            let at = columns.first().map_or(place, |column| column.span().into());
            return self.refuse(
                at,
                "DISTINCT ON is not supported",
                "write ROW_NUMBER() OVER (PARTITION BY … ORDER BY …) in a subquery, and WHERE row_num = 1",
            );
        }
        if let Some(qualify) = &select.qualify {
            return self.refuse(
                qualify.span(),
                "QUALIFY is not supported",
                "put the query into a subquery, and its condition into WHERE",
            );
        }
        match &select.group_by {
            GroupByExpr::All(_) => {
                return self.refuse(place, "GROUP BY ALL is not supported", "name the columns");
            }
            GroupByExpr::Expressions(exprs, modifiers) => {
                if !modifiers.is_empty() {
                    return self.refuse(
                        exprs.first().map_or(place, |expr| expr.span().into()),
                        "GROUP BY … WITH is not supported",
                        "write GROUP BY ROLLUP (…), CUBE (…) or GROUPING SETS (…)",
                    );
                }
            }
        }
        if let Err(error) = group_windows(select) {
            return ControlFlow::Break(Box::new(error.or_at(place)));
        }
        if let Err(error) = check_subqueries(select) {
            return ControlFlow::Break(Box::new(error.or_at(place)));
        }
        name_items(select);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        let place = Place::from(factor.span());
        match factor {
            TableFactor::Table { version: Some(_), .. } => self.refuse(
                place,
                "such a version of a table is not supported",
                "write FOR SYSTEM_TIME AS OF a.p behind JOIN, or leave it out",
            ),
            TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } => {
                self.refuse(place, "TABLESAMPLE is not supported", "filter with WHERE")
            }
            TableFactor::Table { .. }
            | TableFactor::Derived { lateral: false, .. }
            | TableFactor::NestedJoin { .. }
            | TableFactor::TableFunction { expr: Expr::Function(_), .. } => ControlFlow::Continue(()),
            TableFactor::Derived { .. } | TableFactor::Function { .. } => {
                self.refuse(place, "LATERAL is not supported", "call the function in the SELECT")
            }
            TableFactor::UNNEST { .. } => {
                self.refuse(place, "UNNEST is not supported", "let the source give one row for each element")
            }
            TableFactor::MatchRecognize { .. } => {
                self.refuse(place, "MATCH_RECOGNIZE is not supported", "leave it out")
            }
            other => {
                let text = other.to_string();
                self.refuse(place, format!("{text} is not supported in FROM"), "name a table, a view or a subquery")
            }
        }
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        let place = Place::from(expr.span());
        match expr {
            Expr::Function(call) => self.check_function(call),
            Expr::Prefixed { prefix, .. } if prefix.value == TABLE_PREFIX => {
                self.window_data = true;
                ControlFlow::Continue(())
            }
            Expr::Subquery(_) => {
                self.window_data = false;
                ControlFlow::Continue(())
            }
            Expr::InSubquery { expr: value, .. } if matches!(value.as_ref(), Expr::Tuple(_)) => self.refuse(
                place,
                "several columns IN a subquery are not supported",
                "write EXISTS (SELECT 1 FROM … WHERE … = … AND … = …)",
            ),
            Expr::AnyOp { .. } | Expr::AllOp { .. } => self.refuse(
                place,
                "ANY and ALL are not supported",
                "write IN (SELECT …), or compare with (SELECT MAX(…) …)",
            ),
            Expr::Value(value) => match &value.value {
                Value::Number(text, _) => match number(text) {
                    Ok(None) => ControlFlow::Continue(()),
                    Ok(Some(typed)) => {
                        *expr = typed;
                        ControlFlow::Continue(())
                    }
                    Err(remedy) => self.refuse(place, format!("the number {text} is out of range"), remedy),
                },
                Value::DoubleQuotedString(text) => {
                    let remedy = format!("write '{text}' for a text, `{text}` for a name");
                    self.refuse(place, format!("\"{text}\" is in double quotes"), remedy)
                }
                _ => ControlFlow::Continue(()),
            },
            Expr::Interval(interval) if interval.last_field.is_some() => match in_one_unit(interval) {
                Some(one) => {
                    *interval = one;
                    ControlFlow::Continue(())
                }
                None => self.refuse(
                    place,
                    format!("the interval {} cannot be read", interval.value),
                    "write one such as INTERVAL '1-2' YEAR TO MONTH or INTERVAL '1 02:03:04.5' DAY TO SECOND",
                ),
            },
            Expr::CompoundFieldAccess { .. } | Expr::Array(_) => self.check_nested(place, expr),
            Expr::RLike { .. } => {
                self.refuse(place, "RLIKE is not supported", "write REGEXP(text, pattern), which takes any pattern")
            }
            Expr::TypedString(typed) if matches!(typed.data_type, ast::DataType::Timestamp(None, _)) => {
                // As many digits of the second as are written out.
                let text = typed.value.clone().into_string().unwrap_or_default();
                let digits = text.rsplit_once('.').map_or(0, |(_, digits)| digits.len() as u64);
                typed.data_type = ast::DataType::Timestamp(Some(digits.min(9)), ast::TimezoneInfo::None);
                ControlFlow::Continue(())
            }
            Expr::Floor { expr: inner, field } | Expr::Ceil { expr: inner, field } => {
                if let CeilFloorKind::DateTimeField(unit) = field
                    && *unit != ast::DateTimeField::NoDateTime
                {
                    let unit = unit.to_string();
                    let inner = inner.as_ref().clone();
                    let name = if matches!(expr, Expr::Floor { .. }) { FLOOR_TO } else { CEIL_TO };
                    *expr = call(name, vec![Expr::value(Value::SingleQuotedString(unit)), inner]);
                }
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// A number that is not whole as Flink types it: exact, of the digits that are written out, or DOUBLE where it has an exponent.
/// None for a whole number; the error says what to write instead.
fn number(text: &str) -> Result<Option<Expr>, &'static str> {
    let cast = |data_type: ast::DataType, text: &str| Expr::Cast {
        kind: ast::CastKind::Cast,
        expr: Box::new(Expr::value(Value::SingleQuotedString(text.to_string()))),
        data_type,
        array: false,
        format: None,
    };
    if text.contains(['e', 'E']) {
        return match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Some(cast(ast::DataType::DoublePrecision, text))),
            _ => Err("write one that DOUBLE holds"),
        };
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.is_empty() {
        return match whole.parse::<i64>() {
            Ok(_) if whole.len() == text.len() => Ok(None),
            Ok(number) => Ok(Some(Expr::value(Value::Number(number.to_string(), false)))),
            // The least BIGINT is written with its sign before it.
            Err(_) if whole == "9223372036854775808" => Ok(None),
            Err(_) => Err("write it as a text: CAST('…' AS DECIMAL(38, 0))"),
        };
    }
    let (precision, scale) = ((whole.len() + fraction.len()) as u64, fraction.len() as i64);
    if precision > 38 {
        return Err("write one of at most 38 digits");
    }
    Ok(Some(cast(ast::DataType::Decimal(ast::ExactNumberInfo::PrecisionAndScale(precision, scale)), text)))
}

/// `'1-2' YEAR TO MONTH` in months, `'1 02:03:04.5' DAY TO SECOND` in seconds.
fn in_one_unit(interval: &ast::Interval) -> Option<ast::Interval> {
    use ast::DateTimeField::{Day, Hour, Minute, Month, Second, Year};
    let Expr::Value(value) = interval.value.as_ref() else { return None };
    let Value::SingleQuotedString(text) = &value.value else { return None };
    let (sign, text) = match text.strip_prefix('-') {
        Some(text) => ("-", text),
        None => ("", text.as_str()),
    };
    let below = |text: &str, bound: u64| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u64>().ok().filter(|number| is_number && *number < bound)
    };
    let most = 1_000_000_000;
    let (value, unit) = match (interval.leading_field.as_ref()?, interval.last_field.as_ref()?) {
        (Year, Month) => {
            let (years, months) = text.split_once('-')?;
            (format!("{sign}{}", below(years, most)? * 12 + below(months, 12)?), Month)
        }
        (first, last) => {
            // What stands for each field, with how many seconds it has and how many of it the one before has.
            let fields = [(Day, 86_400, most), (Hour, 3_600, 24), (Minute, 60, 60), (Second, 1, 60)];
            let from = fields.iter().position(|(field, ..)| field == first)?;
            let to = fields.iter().position(|(field, ..)| field == last)?;
            let (text, fraction) =
                if *last == Second { text.split_once('.').unwrap_or((text, "0")) } else { (text, "0") };
            below(fraction, most)?;
            let mut rest = text.splitn(2, ' ').flat_map(|part| part.split(':'));
            let mut seconds = 0;
            for (index, (_, length, bound)) in fields.iter().enumerate().take(to + 1).skip(from) {
                seconds += below(rest.next()?, if index == from { most } else { *bound })? * length;
            }
            if rest.next().is_some() || text.contains(' ') != (*first == Day && from < to) {
                return None;
            }
            (format!("{sign}{seconds}.{fraction}"), Second)
        }
    };
    let value = Box::new(Expr::value(Value::SingleQuotedString(value)));
    Some(ast::Interval { value, leading_field: Some(unit), last_field: None, ..interval.clone() })
}

fn call(name: &str, args: Vec<Expr>) -> Expr {
    call_at(Span::empty(), name, args)
}

/// `a.b[1].c` as calls: names that stand first are a column and its fields, which the planner finds.
fn access(root: &Expr, chain: &[AccessExpr]) -> Option<Expr> {
    let mut chain = chain.iter().peekable();
    let mut found = root.clone();
    if let Expr::Identifier(first) = root {
        let mut parts = vec![first.clone()];
        while let Some(AccessExpr::Dot(Expr::Identifier(name))) = chain.peek() {
            parts.push(name.clone());
            chain.next();
        }
        if parts.len() > 1 {
            found = Expr::CompoundIdentifier(parts);
        }
    }
    for step in chain {
        let span = root.span();
        found = match step {
            AccessExpr::Dot(Expr::Identifier(name)) => {
                let name = Value::SingleQuotedString(name.value.clone());
                call_at(span, "get_field", vec![found, Expr::value(name)])
            }
            AccessExpr::Subscript(Subscript::Index { index }) => call_at(span, ITEM, vec![found, index.clone()]),
            _ => return None,
        };
    }
    Some(found)
}

/// Names what the SELECT list leaves without a name, as Flink does: a field of a ROW by its own name, a computed value
/// `EXPR$n`, a name that is there already with a number behind it.
fn name_items(select: &mut Select) {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    // Where the numbers behind a name go on: one name may be selected some ten thousand times.
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    for (position, item) in select.projection.iter_mut().enumerate() {
        let (mut name, keep) = match item {
            SelectItem::UnnamedExpr(Expr::Identifier(name)) => (name.value.clone(), true),
            SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => {
                (parts.last().map_or_else(String::new, |part| part.value.clone()), false)
            }
            SelectItem::UnnamedExpr(_) => (format!("EXPR${position}"), false),
            SelectItem::ExprWithAlias { alias, .. } => {
                taken.insert(alias.value.clone());
                continue;
            }
            _ => continue,
        };
        let is_taken = taken.contains(&name);
        if is_taken {
            let number = numbers.entry(name.clone()).or_default();
            // Ends, since only so many names are taken.
            let numbered = loop {
                let numbered = format!("{name}{number}");
                *number += 1;
                if !taken.contains(&numbered) {
                    break numbered;
                }
            };
            name = numbered;
        }
        taken.insert(name.clone());
        if !keep || is_taken {
            let SelectItem::UnnamedExpr(expr) = item else { continue };
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::new(name) };
        }
    }
}

/// Rewrites `FROM t GROUP BY TUMBLE(c, size)` to `FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(c), size)) GROUP BY window_start,
/// window_end`, and `TUMBLE_START(…)` to `window_start`.
fn group_windows(select: &mut Select) -> Result<(), PlanError> {
    let GroupByExpr::Expressions(group, _) = &mut select.group_by else { return Ok(()) };
    let Some(index) = group.iter().position(|expr| window_call(expr).is_some()) else { return Ok(()) };
    let Some((function, args)) = window_call(&group[index]) else { return Ok(()) };
    let place = Place::from(group[index].span());
    let usage = format!(
        "write FROM TABLE({function}(TABLE t, DESCRIPTOR(time_column), …)), and GROUP BY window_start, window_end"
    );
    let Some((time, lengths)) = args.split_first().filter(|(_, lengths)| !lengths.is_empty()) else {
        return Err(PlanError::new(place, format!("{function} lacks arguments"), usage));
    };
    if select.from.len() > 1 || select.from.iter().any(|from| !from.joins.is_empty()) {
        return Err(PlanError::new(
            place,
            format!("{function} in GROUP BY windows one table, and not a join"),
            format!(
                "join over TABLE({function}(TABLE t, DESCRIPTOR(time_column), …)), and GROUP BY window_start, window_end"
            ),
        ));
    }
    let data = match select.from.first().map(|from| &from.relation) {
        Some(TableFactor::Table { name, args: None, .. }) => {
            Expr::CompoundIdentifier(name.0.iter().filter_map(|part| part.as_ident().cloned()).collect())
        }
        Some(TableFactor::Derived { subquery, lateral: false, .. }) => Expr::Subquery(subquery.clone()),
        _ => return Err(PlanError::new(place, format!("{function} in GROUP BY windows one table"), usage)),
    };
    let alias = match select.from.first().map(|from| &from.relation) {
        Some(TableFactor::Table { name, alias, .. }) => alias.clone().or_else(|| {
            name.0.last().and_then(|part| part.as_ident()).map(|name| ast::TableAlias {
                explicit: false,
                name: name.clone(),
                columns: Vec::new(),
                at: None,
            })
        }),
        Some(TableFactor::Derived { alias, .. }) => alias.clone(),
        _ => None,
    };
    let mut data = Expr::Prefixed { prefix: Ident::new(TABLE_PREFIX), value: Box::new(data) };
    if function == "SESSION" {
        let keys = group.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, key)| key);
        data = partitioned(data, keys)?;
    }
    let descriptor = match time {
        Expr::CompoundIdentifier(parts) => {
            parts.last().map_or_else(|| time.clone(), |part| Expr::Identifier(part.clone()))
        }
        other => other.clone(),
    };
    let mut arguments = vec![data, call("DESCRIPTOR", vec![descriptor])];
    arguments.extend(lengths.iter().cloned());
    if let Some(from) = select.from.first_mut() {
        from.relation = TableFactor::TableFunction { expr: call(&function, arguments), alias };
    }
    let mut needs_time = false;
    let mut rewriter = Auxiliary { needs_time: &mut needs_time };
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
            let _ = expr.visit(&mut rewriter);
        }
    }
    if let Some(having) = &mut select.having {
        let _ = having.visit(&mut rewriter);
    }
    let column = |name: &str| Expr::Identifier(Ident::new(name));
    group.splice(index..=index, [column("window_start"), column("window_end")]);
    if needs_time {
        group.push(column("window_time"));
    }
    Ok(())
}

/// `TABLE t PARTITION BY` these columns.
fn partitioned<'k>(data: Expr, keys: impl Iterator<Item = &'k Expr>) -> Result<Expr, PlanError> {
    let mut all = vec![data];
    for key in keys {
        let name = match key {
            Expr::Identifier(name) => Some(name),
            Expr::CompoundIdentifier(parts) => parts.last(),
            _ => None,
        };
        let Some(name) = name else {
            return Err(PlanError::new(
                Place::from(key.span()),
                format!("a session of {key}, which is no column, is not supported"),
                "give it a name in a view, and GROUP BY that",
            ));
        };
        all.push(Expr::Identifier(name.clone()));
    }
    Ok(match all.len() {
        1 => all.remove(0),
        _ => Expr::Prefixed { prefix: Ident::new(PARTITION_PREFIX), value: Box::new(Expr::Tuple(all)) },
    })
}

/// `TUMBLE(…)`, `HOP(…)` or `SESSION(…)` and its arguments.
fn window_call(expr: &Expr) -> Option<(String, Vec<Expr>)> {
    let Expr::Function(function) = expr else { return None };
    let name = function.name.to_string().to_ascii_uppercase();
    if !matches!(name.as_str(), "TUMBLE" | "HOP" | "SESSION") {
        return None;
    }
    let FunctionArguments::List(list) = &function.args else { return None };
    let args = list
        .args
        .iter()
        .filter_map(|arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
            _ => None,
        })
        .collect();
    Some((name, args))
}

struct Auxiliary<'a> {
    needs_time: &'a mut bool,
}

impl VisitorMut for Auxiliary<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr {
            let name = function.name.to_string().to_ascii_lowercase();
            if let Some((_, column)) = AUXILIARY.iter().find(|(auxiliary, _)| *auxiliary == name) {
                *self.needs_time |= *column == "window_time";
                *expr = Expr::Identifier(Ident::new(*column));
            }
        }
        ControlFlow::Continue(())
    }
}

/// Suggests a column for a name that none has.
pub fn unknown_column<'n>(
    name: &str,
    table: &str,
    place: Place,
    columns: impl Iterator<Item = &'n str> + Clone,
) -> PlanError {
    PlanError::new(place, format!("the table {table} has no column {name}"), suggest(name, "columns", columns))
}
