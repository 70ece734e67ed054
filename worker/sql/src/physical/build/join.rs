//! Joins: both sides come together by their keys, each an expression over its own side.

use std::sync::Arc;

use datafusion_common::{JoinType, NullEquality};
use datafusion_expr::utils::{conjunction, split_conjunction};
use datafusion_expr::{Expr, LogicalPlan, logical_plan};
use datafusion_physical_expr::PhysicalExpr;
use weir_engine::Exchange;
use weir_operators::{SpecError, TimeColumn};

use crate::error::{Place, PlanError};
use crate::identity::{Identity, Meaning, list};
use crate::logical::columns::{Time, WindowJoin, as_of, window_join};
use crate::logical::exprs::physical;
use crate::logical::intervals::{TimeBounds, time_bounds};
use crate::logical::optimize::place_of;
use crate::parse::types::{TIMESTAMP, timestamp_ltz};
use crate::physical::build::rows::Rows;
use crate::physical::build::{Builder, Built};
use crate::physical::lineage::{Lineage, meaning_of, shortened};
use crate::physical::ops::{Join, JoinSide, Op, Within, duration};
use crate::physical::tree::{NewNode, NodeId};

/// One side of a join behind its exchange: the query's columns, and the keys.
pub(super) struct Side {
    pub node: NodeId,
    pub lineage: Lineage,
    pub width: usize,
    pub keys: Vec<usize>,
    /// What the keys are.
    pub by: Meaning,
}

impl Builder<'_> {
    pub(super) fn join(&mut self, join: &logical_plan::Join) -> Built<Rows> {
        if let Some((scan, table)) = as_of(&join.right) {
            return self.lookup(join, scan, table);
        }
        let place = place_of(join.on.iter().flat_map(|(left, right)| [left, right]).chain(&join.filter)).or(self.place);
        let (lefts, rights): (Vec<&Expr>, Vec<&Expr>) = join.on.iter().map(|(left, right)| (left, right)).unzip();
        let left = self.side(&join.left, &lefts)?;
        let right = self.side(&join.right, &rights)?;
        let both: Vec<Meaning> = columns(&left).cloned().chain(columns(&right).map(of_right)).collect();
        let conditions: Vec<&Expr> = join.filter.iter().flat_map(split_conjunction).collect();
        let equal: Vec<Expr> = join.on.iter().map(|(left, right)| left.clone().eq(right.clone())).collect();
        let compared: Vec<&Expr> = conditions.iter().copied().chain(&equal).collect();
        let window = self.window(join, &left, &right, &compared, place)?;
        let bounds = if window.is_some() { None } else { self.bounds(join, &left, &right, &compared, place)? };
        let (residual, of_residual) = self.residual(join, &both, &conditions, bounds.as_ref())?;
        if join.null_aware && residual.is_some() {
            return Err(PlanError::new(
                place,
                "NOT IN (SELECT …) whose WHERE compares with columns outside by anything but = is not supported",
                "write NOT EXISTS (SELECT … WHERE y = x AND …), where neither can be null",
            ));
        }
        let kind = join.join_type;
        let nulls_match = join.null_equality == NullEquality::NullEqualsNull;
        let name_of_kind = if join.null_aware { "NOT IN".to_string() } else { format!("{kind} JOIN") };
        let equals = if nulls_match { "IS NOT DISTINCT FROM" } else { "=" };
        let rows = Meaning::of(|of| {
            let (left_rows, right_rows) = (of(&left.lineage.rows), of(&right.lineage.rows));
            let (by_left, by_right, and) = (of(&left.by), of(&right.by), of(&of_residual));
            let within = bounds.as_ref().map_or_else(String::new, |bounds| {
                let (one, other) = bounds.columns;
                let (one, other) = (of(&left.lineage.columns[one]), of(&right.lineage.columns[other]));
                format!(" {} <= {one} - {other} <= {}", bounds.lower, bounds.upper)
            });
            shortened(
                "JOIN",
                format!("{name_of_kind}({left_rows}, {right_rows}) ON ({by_left}) {equals} ({by_right}) {and}{within}"),
            )
        });
        let of_columns: Vec<Meaning> = match Join::sides_of(kind) {
            (true, true) => both,
            (true, false) => columns(&left).cloned().collect(),
            (false, _) => columns(&right).map(of_right).collect(),
        };
        let filters = left.lineage.filters.iter().chain(&right.lineage.filters).cloned().collect();
        let of_kind = match (&window, &bounds) {
            (Some(_), _) => "window-join",
            (None, Some(_)) => "interval-join",
            (None, None) => "join",
        };
        let identity = Identity::of(of_kind, &self.owner, &[&rows, &list(&of_columns)]);
        let op = Join {
            kind,
            keys: left.keys.iter().copied().zip(right.keys.iter().copied()).collect(),
            widths: (left.width, right.width),
            nulls_match,
            null_aware: join.null_aware,
            residual,
            within: window.or_else(|| bounds.as_ref().map(within)),
        };
        let text = self.texts(&left, &right, op.residual.as_ref(), bounds.as_ref());
        let name = format!("{}({text})", op.name());
        let (by_left, by_right) = op.meets_by().iter().copied().unzip();
        let inputs = vec![self.by_keys(&left, by_left, &identity), self.by_keys(&right, by_right, &identity)];
        let plain = |side: &Side| JoinSide {
            schema: Arc::clone(self.tree[side.node].schema()),
            unique: None,
            retracts: op.within.is_none(),
        };
        let schema = op.make(plain(&left), plain(&right)).map_err(|error| spec_error(&error, place))?.output;
        let width = schema.fields().len();
        let lineage = Lineage { columns: of_columns, rows, filters };
        let node = self.add(NewNode { op: Op::Join(Box::new(op)), inputs, schema, lineage, identity, name, place });
        Ok(Rows::all(node, width))
    }

    /// What must hold beside keys and bounds of time.
    pub(super) fn residual(
        &self,
        join: &logical_plan::Join,
        both: &[Meaning],
        conditions: &[&Expr],
        bounds: Option<&TimeBounds>,
    ) -> Built<(Option<Arc<dyn PhysicalExpr>>, Meaning)> {
        let said = bounds.map_or(&[][..], |bounds| &bounds.conditions);
        let rest = conditions.iter().enumerate().filter(|(place, _)| !said.contains(place));
        let Some(filter) = conjunction(rest.map(|(_, condition)| (*condition).clone())) else {
            return Ok((None, Meaning::default()));
        };
        let schema = self.planner(join.left.schema().join(join.right.schema()))?;
        let meanings: Vec<&Meaning> = both.iter().collect();
        let meaning = self.planner(meaning_of(&meanings, &filter, &schema))?;
        Ok((Some(self.planner(physical(&filter, &schema))?), meaning))
    }

    /// The windows that the rows of both sides are in, if they are joined in them.
    fn window(
        &self,
        join: &logical_plan::Join,
        left: &Side,
        right: &Side,
        conditions: &[&Expr],
        place: Place,
    ) -> Built<Option<Within>> {
        let Some(WindowJoin { ends, times, .. }) = window_join(join, conditions) else { return Ok(None) };
        let changing = [left.node, right.node].into_iter().find_map(|node| self.tree[node].traits.updating.clone());
        if let Some(changing) = changing {
            return Err(PlanError::new(
                place,
                format!("a join of windows over rows that change ({changing} updates them) is not supported"),
                "join rows that are final: aggregates in the same windows, or the rows of the window function itself",
            ));
        }
        // A window is over with its last moment.
        let times_of = ends.map(|column| TimeColumn { column, offset: -1 });
        Ok(Some(Within { times: Some(times_of), lower: 0, upper: 0, windows: Some(times) }))
    }

    /// Within which time of each other rows must be. What is put out for that is final, so the rows below have to be.
    fn bounds(
        &self,
        join: &logical_plan::Join,
        left: &Side,
        right: &Side,
        conditions: &[&Expr],
        place: Place,
    ) -> Built<Option<TimeBounds>> {
        if !matches!(join.join_type, JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full) {
            return Ok(None);
        }
        let of = |is_right: bool, column: usize| {
            let node = &self.tree[if is_right { right.node } else { left.node }];
            let is_time = *node.schema().field(column).data_type() == TIMESTAMP
                || *node.schema().field(column).data_type() == timestamp_ltz();
            node.traits.times.get(column).copied().filter(|_| is_time)
        };
        // Rows that come no later than their own time are like those of a time attribute.
        let time_of = |is_right: bool, column: usize| {
            let time = of(is_right, column)?;
            time.attribute.or_else(|| (time.behind == Some(0)).then_some(Time::Event))
        };
        let Some(bounds) = time_bounds(conditions, join.left.schema(), join.right.schema(), time_of) else {
            return Ok(None);
        };
        let changing = [left.node, right.node].into_iter().find_map(|node| self.tree[node].traits.updating.clone());
        let Some(changing) = changing else { return Ok(Some(bounds)) };
        let attributes = [(false, bounds.columns.0), (true, bounds.columns.1)];
        if attributes
            .into_iter()
            .any(|(is_right, column)| of(is_right, column).is_none_or(|time| time.attribute.is_none()))
        {
            return Ok(None);
        }
        Err(PlanError::new(
            place,
            format!("a join within bounds of time over rows that change ({changing} updates them) is not supported"),
            "join rows that are final, or compare a time that is no time attribute: CAST(t AS TIMESTAMP(3))",
        ))
    }

    /// One side, with its keys as columns.
    pub(super) fn side(&mut self, input: &LogicalPlan, keys: &[&Expr]) -> Built<Side> {
        let rows = self.rows(input)?;
        let fields: Vec<Expr> = input.schema().iter().map(|field| Expr::Column(field.into())).collect();
        let width = fields.len();
        let mut exprs: Vec<&Expr> = fields.iter().collect();
        let mut places = Vec::with_capacity(keys.len());
        for key in keys {
            let place = exprs.iter().position(|expr| expr == key).unwrap_or_else(|| {
                exprs.push(key);
                exprs.len() - 1
            });
            places.push(place);
        }
        let names: Vec<String> = exprs.iter().map(|expr| expr.schema_name().to_string()).collect();
        let fields = input.schema().fields().iter().map(|field| field.name().as_str());
        let names = fields.chain(names.iter().skip(width).map(String::as_str));
        let named: Vec<(&Expr, &str)> = exprs.iter().copied().zip(names).collect();
        let rows = self.compute(rows, &named, input.schema(), None)?;
        self.refuse_unstable(&rows, "a join", self.place)?;
        let lineage = self.lineage(&rows);
        let by = list(places.iter().map(|&key| &lineage.columns[key]));
        Ok(Side { node: self.together(&rows), lineage, width, keys: places, by })
    }

    fn by_keys(&mut self, side: &Side, keys: Vec<usize>, identity: &Identity) -> NodeId {
        let exchange = if keys.is_empty() { Exchange::Single } else { Exchange::Hash { keys } };
        let schema = Arc::clone(self.tree[side.node].schema());
        self.add(NewNode {
            op: Op::Exchange(exchange),
            inputs: vec![side.node],
            schema,
            lineage: side.lineage.clone(),
            identity: identity.clone(),
            name: String::new(),
            place: Place::default(),
        })
    }

    /// What is compared, for people.
    fn texts(
        &self,
        left: &Side,
        right: &Side,
        residual: Option<&Arc<dyn PhysicalExpr>>,
        bounds: Option<&TimeBounds>,
    ) -> String {
        let name = |side: &Side, key: usize| self.tree[side.node].schema().field(key).name().clone();
        let pairs = left.keys.iter().zip(&right.keys);
        let equal = pairs.map(|(&one, &other)| format!("{} = {}", name(left, one), name(right, other)));
        let within = bounds.map(|TimeBounds { columns: (one, other), lower, upper, .. }| {
            let (lower, upper) = (duration(*lower), duration(*upper));
            format!("{} - {} from {lower} to {upper}", name(left, *one), name(right, *other))
        });
        equal.chain(residual.map(ToString::to_string)).chain(within).collect::<Vec<_>>().join(" AND ")
    }
}

fn within(bounds: &TimeBounds) -> Within {
    let columns = [bounds.columns.0, bounds.columns.1].map(|column| TimeColumn { column, offset: 0 });
    let times = (bounds.time == Time::Event).then_some(columns);
    Within { times, lower: bounds.lower, upper: bounds.upper, windows: None }
}

/// A column of the right: the same table may stand on the left.
fn of_right(column: &Meaning) -> Meaning {
    Meaning::of(|of| format!("right({})", of(column)))
}

fn spec_error(error: &SpecError, place: Place) -> PlanError {
    PlanError::new(
        place,
        error.to_string(),
        "join by columns of plain types, cast to one type, and select the fields of a ROW",
    )
}

/// What the query's columns of a side are, without those that are keys only.
fn columns(side: &Side) -> impl Iterator<Item = &Meaning> {
    side.lineage.columns.iter().take(side.width)
}
