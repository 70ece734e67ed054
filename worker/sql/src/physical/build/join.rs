//! Joins: both sides come together by their keys, each an expression over its own side.

use std::sync::Arc;

use datafusion_common::NullEquality;
use datafusion_expr::{Expr, LogicalPlan, logical_plan};
use datafusion_physical_expr::PhysicalExpr;
use weir_engine::Exchange;
use weir_operators::SpecError;

use crate::error::{Place, PlanError};
use crate::identity::{Identity, Meaning, list};
use crate::logical::exprs::physical;
use crate::logical::optimize::place_of;
use crate::physical::build::rows::Rows;
use crate::physical::build::{Builder, Built};
use crate::physical::lineage::{Lineage, meaning_of, shortened};
use crate::physical::ops::{Join, JoinSide, Op};
use crate::physical::tree::{NewNode, NodeId};

/// One side of a join behind its exchange: the query's columns, and the keys.
struct Side {
    node: NodeId,
    lineage: Lineage,
    width: usize,
    keys: Vec<usize>,
    /// What the keys are.
    by: Meaning,
}

impl Builder<'_> {
    pub(super) fn join(&mut self, join: &logical_plan::Join) -> Built<Rows> {
        let place = place_of(join.on.iter().flat_map(|(left, right)| [left, right]).chain(&join.filter)).or(self.place);
        let (lefts, rights): (Vec<&Expr>, Vec<&Expr>) = join.on.iter().map(|(left, right)| (left, right)).unzip();
        let left = self.side(&join.left, &lefts)?;
        let right = self.side(&join.right, &rights)?;
        let both: Vec<Meaning> = columns(&left).cloned().chain(columns(&right).map(of_right)).collect();
        let (residual, of_residual) = match &join.filter {
            None => (None, Meaning::default()),
            Some(filter) => {
                let schema = self.planner(join.left.schema().join(join.right.schema()))?;
                let meanings: Vec<&Meaning> = both.iter().collect();
                let meaning = self.planner(meaning_of(&meanings, filter, &schema))?;
                (Some(self.planner(physical(filter, &schema))?), meaning)
            }
        };
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
            shortened(
                "JOIN",
                format!("{name_of_kind}({left_rows}, {right_rows}) ON ({by_left}) {equals} ({by_right}) {and}"),
            )
        });
        let of_columns: Vec<Meaning> = match Join::sides_of(kind) {
            (true, true) => both,
            (true, false) => columns(&left).cloned().collect(),
            (false, _) => columns(&right).map(of_right).collect(),
        };
        let filters = left.lineage.filters.iter().chain(&right.lineage.filters).cloned().collect();
        let identity = Identity::of("join", &self.owner, &[&rows, &list(&of_columns)]);
        let op = Join {
            kind,
            keys: left.keys.iter().copied().zip(right.keys.iter().copied()).collect(),
            widths: (left.width, right.width),
            nulls_match,
            null_aware: join.null_aware,
            residual,
        };
        let name = format!("{}({})", op.name(), self.texts(&left, &right, op.residual.as_ref()));
        let (by_left, by_right) = op.meets_by().iter().copied().unzip();
        let inputs = vec![self.by_keys(&left, by_left, &identity), self.by_keys(&right, by_right, &identity)];
        let plain =
            |side: &Side| JoinSide { schema: Arc::clone(self.tree[side.node].schema()), unique: None, retracts: true };
        let schema = op.make(plain(&left), plain(&right)).map_err(|error| spec_error(&error, place))?.output;
        let width = schema.fields().len();
        let lineage = Lineage { columns: of_columns, rows, filters };
        let node = self.add(NewNode { op: Op::Join(Box::new(op)), inputs, schema, lineage, identity, name, place });
        Ok(Rows::all(node, width))
    }

    /// One side, with its keys as columns.
    fn side(&mut self, input: &LogicalPlan, keys: &[&Expr]) -> Built<Side> {
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
    fn texts(&self, left: &Side, right: &Side, residual: Option<&Arc<dyn PhysicalExpr>>) -> String {
        let name = |side: &Side, key: usize| self.tree[side.node].schema().field(key).name().clone();
        let pairs = left.keys.iter().zip(&right.keys);
        let equal = pairs.map(|(&one, &other)| format!("{} = {}", name(left, one), name(right, other)));
        equal.chain(residual.map(ToString::to_string)).collect::<Vec<_>>().join(" AND ")
    }
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
