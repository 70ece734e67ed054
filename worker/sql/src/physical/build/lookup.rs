//! Rows beside those of a table that is looked up in as they pass. They stay where they are: each worker has all of the table.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion_common::JoinType;
use datafusion_expr::utils::split_conjunction;
use datafusion_expr::{Expr, LogicalPlan, TableScan, logical_plan};
use datafusion_physical_expr::PhysicalExpr;
use weir_engine::BatchFn;
use weir_engine::api::lookup::FullTable;
use weir_operators::{JoinInput, JoinKind, LookupJoinSpec};

use crate::error::PlanError;
use crate::identity::{Identity, Meaning, list};
use crate::logical::exprs::physical;
use crate::lower::lookup::{Rows as TableRows, Step};
use crate::lower::scan::plan_source;
use crate::names::catalog::Table;
use crate::physical::build::join::Side;
use crate::physical::build::rows::Rows;
use crate::physical::build::{Builder, Built, refuse_partitioned, wanted};
use crate::physical::lineage::{Lineage, meaning_of, shortened};
use crate::physical::ops::{Join, Lookup, Op};
use crate::physical::traits::is_volatile;
use crate::physical::tree::NewNode;

/// The table's rows as the join reads them.
struct Right {
    table: FullTable,
    prepare: Arc<dyn BatchFn>,
    schema: SchemaRef,
    /// Where the keys stand in it.
    keys: Vec<usize>,
    columns: Vec<Meaning>,
    rows: Meaning,
    by: Meaning,
    filters: Vec<String>,
}

impl Builder<'_> {
    pub(super) fn lookup(&mut self, join: &logical_plan::Join, scan: &TableScan, table: &Table) -> Built<Rows> {
        let place = table.as_of.as_ref().map_or(self.place, |at| at.place);
        let kind = match join.join_type {
            JoinType::Inner => JoinKind::Inner,
            JoinType::Left => JoinKind::Left,
            _ => {
                return Err(PlanError::new(
                    place,
                    "a table is looked up in by JOIN and LEFT JOIN, and by no other join",
                    "write JOIN or LEFT JOIN",
                ));
            }
        };
        if join.on.is_empty() {
            return Err(PlanError::new(
                place,
                format!("nothing is compared with = with a column of {}", table.name),
                "write ON a.x = b.y: rows are looked up by their key",
            ));
        }
        let (lefts, rights): (Vec<&Expr>, Vec<&Expr>) = join.on.iter().map(|(left, right)| (left, right)).unzip();
        let left = self.side(&join.left, &lefts)?;
        if let Some(updating) = &self.tree[left.node].traits.updating {
            return Err(PlanError::new(
                place,
                format!("a look-up for rows that change ({updating} updates them) is not supported"),
                "look up before the rows are aggregated: what is found may be another when a row is taken back",
            ));
        }
        let right = self.looked_up(join, scan, table, &rights)?;
        let both: Vec<Meaning> = left.lineage.columns.iter().take(left.width).chain(&right.columns).cloned().collect();
        let conditions: Vec<&Expr> = join.filter.iter().flat_map(split_conjunction).collect();
        let (residual, of_residual) = self.residual(join, &both, &conditions, None)?;
        let width = join.right.schema().fields().len();
        let joined = Join {
            kind: join.join_type,
            keys: left.keys.iter().copied().zip(right.keys.iter().copied()).collect(),
            widths: (left.width, width),
            nulls_match: false,
            null_aware: false,
            residual: None,
            within: None,
        };
        let left_schema = Arc::clone(self.tree[left.node].schema());
        let residual = residual.map(|of| joined.over_inputs(&of, left_schema.fields().len()));
        let name = self.lookup_name(&left, &right, table, residual.as_ref());
        let rows = Meaning::of(|of| {
            let (left_rows, right_rows) = (of(&left.lineage.rows), of(&right.rows));
            let (by_left, by_right, and) = (of(&left.by), of(&right.by), of(&of_residual));
            let kind = join.join_type;
            shortened("LOOKUP", format!("{kind} LOOKUP({left_rows}, {right_rows}) ON ({by_left}) = ({by_right}) {and}"))
        });
        let input = |schema, keys, outputs| JoinInput { schema, keys, outputs, unique: None, retracts: false };
        let op = Lookup {
            spec: LookupJoinSpec {
                left: input(left_schema, left.keys.clone(), left.width),
                right: input(Arc::clone(&right.schema), right.keys.clone(), width),
                kind,
                table: right.table,
                prepare: right.prepare,
                residual,
            },
        };
        let schema = op
            .make()
            .map_err(|error| PlanError::new(place, error.to_string(), "look up by columns of plain types"))?
            .output;
        let filters = left.lineage.filters.iter().chain(&right.filters).cloned().collect();
        let lineage = Lineage { columns: both, rows, filters };
        let width = schema.fields().len();
        let op = Op::Lookup(Box::new(op));
        let identity = Identity::default();
        let node = self.add(NewNode { op, inputs: vec![left.node], schema, lineage, identity, name, place });
        Ok(Rows::all(node, width))
    }

    fn lookup_name(
        &self,
        left: &Side,
        right: &Right,
        table: &Table,
        residual: Option<&Arc<dyn PhysicalExpr>>,
    ) -> String {
        let of_left = |key: usize| self.tree[left.node].schema().field(key).name().clone();
        let pairs = left.keys.iter().zip(&right.keys);
        let equal = pairs.map(|(&one, &other)| format!("{} = {}", of_left(one), right.schema.field(other).name()));
        let all: Vec<String> = equal.chain(residual.map(ToString::to_string)).collect();
        let again = right.table.reload.map_or_else(String::new, |reload| {
            format!(", read again every {}", humantime::format_duration(reload.every))
        });
        format!("LookupJoin({}: {}{again})", table.name, all.join(" AND "))
    }

    /// How the rows of the table are read, with what stands between it and the join.
    fn looked_up(
        &mut self,
        join: &logical_plan::Join,
        scan: &TableScan,
        table: &Table,
        keys: &[&Expr],
    ) -> Built<Right> {
        let place = table.as_of.as_ref().map_or(self.place, |at| at.place);
        refuse_partitioned(table)?;
        let own = wanted(scan, table);
        let reload =
            self.connectors.lookup(&table.spec(self.base_dir)).map_err(|error| table.refused(&error).or_at(place))?;
        let planned = plan_source(table, &own, self.settings, self.connectors, self.base_dir)?;
        if !planned.bounded {
            return Err(PlanError::new(
                place,
                format!("{} never ends, and so can never be read whole", table.name),
                "look up in a table that ends, as a folder of files",
            ));
        }
        self.read.insert(table.name.clone());
        let column = |&column: &usize| Meaning::same(format!("{}.{}", table.name, table.schema.field(column).name()));
        let mut columns: Vec<Meaning> = own.iter().map(column).collect();
        let (mut steps, mut filters) = (Vec::new(), Vec::new());
        for plan in between(&join.right).into_iter().rev() {
            match plan {
                LogicalPlan::Filter(filter) => {
                    let schema = filter.input.schema();
                    let meanings: Vec<&Meaning> = columns.iter().collect();
                    filters.push(self.planner(meaning_of(&meanings, &filter.predicate, schema))?.text);
                    steps.push(Step::Keep(self.planner(physical(&filter.predicate, schema))?));
                }
                LogicalPlan::Projection(projection) => {
                    let exprs: Vec<&Expr> = projection.expr.iter().collect();
                    let (step, meanings) = self.made(&exprs, &projection.input, &columns)?;
                    steps.push(step);
                    columns = meanings;
                }
                _ => {}
            }
        }
        let mut exprs: Vec<Expr> = join.right.schema().iter().map(|field| Expr::Column(field.into())).collect();
        let mut places = Vec::with_capacity(keys.len());
        for &key in keys {
            places.push(exprs.iter().position(|expr| expr == key).unwrap_or_else(|| {
                exprs.push(key.clone());
                exprs.len() - 1
            }));
        }
        let (last, all) = self.made(&exprs.iter().collect::<Vec<_>>(), &join.right, &columns)?;
        let Step::Make(_, schema) = &last else { return Err(PlanError::new(place, "no columns are looked up", "")) };
        let schema = Arc::clone(schema);
        steps.push(last);
        if steps.iter().any(|step| step.exprs().any(is_volatile)) {
            return Err(PlanError::new(
                place,
                "what is computed of a table that rows are looked up in is not the same twice",
                "compute it behind the join",
            ));
        }
        let by = list(places.iter().map(|&key| &all[key]));
        let texts = filters.join(" AND ");
        let rows = Meaning::same(format!("LOOKUP IN {} {texts}", table.name));
        let table = FullTable { source: planned.node.source, reload };
        let prepare = Arc::new(TableRows { prepare: planned.node.prepare, take: own.len(), steps });
        Ok(Right { table, prepare, schema, keys: places, columns, rows, by, filters })
    }

    /// Columns over those of a plan.
    fn made(&self, exprs: &[&Expr], input: &LogicalPlan, columns: &[Meaning]) -> Built<(Step, Vec<Meaning>)> {
        let schema = input.schema();
        let meanings: Vec<&Meaning> = columns.iter().collect();
        let (mut made, mut fields, mut of) = (Vec::new(), Vec::new(), Vec::new());
        for expr in exprs {
            let compiled = self.planner(physical(expr, schema))?;
            let data_type = self.planner(compiled.data_type(schema.as_arrow()))?;
            let nullable = self.planner(compiled.nullable(schema.as_arrow()))?;
            let name =
                expr.try_as_col().map_or_else(|| expr.schema_name().to_string(), |column| column.name().to_string());
            fields.push(Field::new(name, data_type, nullable));
            of.push(self.planner(meaning_of(&meanings, expr, schema))?);
            made.push(compiled);
        }
        Ok((Step::Make(made, Arc::new(Schema::new(fields))), of))
    }
}

/// What stands between a join and the table, from above.
fn between(plan: &LogicalPlan) -> Vec<&LogicalPlan> {
    let mut all = Vec::new();
    let mut at = plan;
    loop {
        match at {
            LogicalPlan::SubqueryAlias(alias) => at = &alias.input,
            LogicalPlan::Filter(filter) => {
                all.push(at);
                at = &filter.input;
            }
            LogicalPlan::Projection(projection) => {
                all.push(at);
                at = &projection.input;
            }
            _ => return all,
        }
    }
}
