//! Rows on their way: where they are, which of a node's columns are the query's, and the filters that wait for a projection.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion_common::DFSchema;
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion_expr::{Expr, ExprSchemable, Operator, Projection};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, Column as PhysicalColumn};

use crate::error::{Place, PlanError};
use crate::identity::{Identity, Meaning};
use crate::logical::exprs::physical;
use crate::physical::build::{Builder, Built, internal};
use crate::physical::lineage::{Lineage, meaning_of};
use crate::physical::ops::{Calc, Op, passed};
use crate::physical::traits::is_volatile;
use crate::physical::tree::{NewNode, NodeId};

/// Rows of one query, or of several with the same columns that have not met yet.
pub struct Rows {
    branches: Vec<Branch>,
    /// They are those of a UNION: projections of projections become one, since no rule has gone through it.
    fuses: bool,
}

/// Rows of one query.
pub struct Branch {
    node: NodeId,
    /// Where each column of the query is among the node's: a source may have more.
    columns: Vec<usize>,
    /// It becomes part of the next projection.
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// What it means.
    filters: Vec<String>,
}

/// A column to be computed.
pub struct Computed {
    /// How.
    pub expr: Arc<dyn PhysicalExpr>,
    /// Its name and type.
    pub field: Field,
    /// What it is, in terms of the source's columns.
    pub meaning: Meaning,
}

impl Rows {
    /// What a node puts out, of which these are the query's columns.
    pub fn of(node: NodeId, columns: Vec<usize>) -> Self {
        Self { branches: vec![Branch { node, columns, filter: None, filters: Vec::new() }], fuses: false }
    }

    /// All that a node with so many columns puts out.
    pub fn all(node: NodeId, width: usize) -> Self {
        Self::of(node, (0..width).collect())
    }

    /// The rows of all of these.
    pub fn union(all: Vec<Self>) -> Self {
        Self { branches: all.into_iter().flat_map(|rows| rows.branches).collect(), fuses: true }
    }

    /// The same, as one of a UNION.
    #[must_use]
    pub fn of_union(self) -> Self {
        Self { fuses: true, ..self }
    }

    /// The nodes that put them out. No filter waits.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.branches.iter().map(|branch| branch.node)
    }

    /// The first of these. All have the same columns.
    pub fn first(&self) -> NodeId {
        self.branches[0].node
    }
}

impl Branch {
    fn is_in_order(&self) -> bool {
        self.columns.iter().enumerate().all(|(place, column)| place == *column)
    }
}

impl Builder<'_> {
    /// What the rows are. Filters that still wait are not in it.
    pub fn lineage(&self, rows: &Rows) -> Lineage {
        Lineage::union(rows.nodes().map(|node| &self.tree[node].lineage))
    }

    /// What the rows look like.
    pub fn schema(&self, rows: &Rows) -> SchemaRef {
        Arc::clone(self.tree[rows.first()].schema())
    }

    /// Keeps the rows in which this is true.
    pub fn filter(&self, rows: &mut Rows, predicate: &Expr, input: &DFSchema) -> Built<()> {
        for branch in &mut rows.branches {
            let text = self.planner(meaning_of(&self.meanings(branch), predicate, input))?.text;
            let predicate = self.placed(branch, self.planner(physical(predicate, input))?)?;
            branch.filter = Some(match branch.filter.take() {
                Some(first) => Arc::new(BinaryExpr::new(first, Operator::And, predicate)),
                None => predicate,
            });
            branch.filters.push(text);
        }
        Ok(())
    }

    /// The columns of a projection.
    pub fn projection(&mut self, rows: Rows, projection: &Projection, output: Option<&SchemaRef>) -> Built<Rows> {
        let names = projection.schema.fields().iter().map(|field| field.name().as_str());
        let exprs: Vec<(&Expr, &str)> = projection.expr.iter().zip(names).collect();
        self.compute(rows, &exprs, projection.input.schema(), output)
    }

    /// Makes the columns that these expressions are; `input` names what they are computed from.
    pub fn compute(
        &mut self,
        rows: Rows,
        exprs: &[(&Expr, &str)],
        input: &DFSchema,
        output: Option<&SchemaRef>,
    ) -> Built<Rows> {
        self.project(rows, output, |builder, branch| {
            let meanings = builder.meanings(branch);
            let computed = exprs.iter().map(|&(expr, name)| {
                let nullable = builder.planner(expr.nullable(input))?;
                let field = Field::new(name, builder.planner(expr.get_type(input))?, nullable);
                let meaning = builder.planner(meaning_of(&meanings, expr, input))?;
                let expr = builder.placed(branch, builder.planner(physical(expr, input))?)?;
                Ok(Computed { expr, field, meaning })
            });
            computed.collect()
        })
    }

    /// The column at this position, unchanged.
    pub fn pass(&self, branch: &Branch, position: usize) -> Computed {
        let node = &self.tree[branch.node];
        let column = branch.columns[position];
        let field = node.schema().field(column).clone();
        let meaning = node.lineage.columns[column].clone();
        Computed { expr: Arc::new(PhysicalColumn::new(field.name(), column)), field, meaning }
    }

    /// Drops the columns that are not the query's, and applies filters that wait.
    pub fn trim(&mut self, rows: Rows) -> Built<Rows> {
        self.pass_all(rows, None)
    }

    /// All columns as they are, but named and typed as `output` says.
    pub fn pass_all(&mut self, rows: Rows, output: Option<&SchemaRef>) -> Built<Rows> {
        self.project(rows, output, |builder, branch| {
            Ok((0..branch.columns.len()).map(|position| builder.pass(branch, position)).collect())
        })
    }

    /// Makes these the columns, with the filter that waits, in one node; in none if nothing changes. The output is named and
    /// typed as `output` says, else as the columns are.
    pub fn project(
        &mut self,
        rows: Rows,
        output: Option<&SchemaRef>,
        columns: impl Fn(&Self, &Branch) -> Built<Vec<Computed>>,
    ) -> Built<Rows> {
        let Rows { branches: all, fuses } = rows;
        let mut branches = Vec::with_capacity(all.len());
        for branch in all {
            let columns = columns(self, &branch)?;
            branches.push(self.calc(branch, columns, output.cloned(), fuses)?);
        }
        Ok(Rows { branches, fuses })
    }

    fn calc(
        &mut self,
        branch: Branch,
        mut columns: Vec<Computed>,
        output: Option<SchemaRef>,
        fuses: bool,
    ) -> Built<Branch> {
        if branch.filter.as_ref().is_some_and(is_volatile) {
            self.refuse_volatile_filter(&branch)?;
        }
        let node = &self.tree[branch.node];
        if columns.is_empty() {
            // Rows are counted by a column.
            let whole = Branch { columns: vec![0], node: branch.node, filter: None, filters: Vec::new() };
            columns.push(self.pass(&whole, 0));
        }
        let schema = output.unwrap_or_else(|| {
            Arc::new(Schema::new(columns.iter().map(|column| column.field.clone()).collect::<Vec<_>>()))
        });
        let width = columns.len();
        let in_place = columns.iter().enumerate().all(|(place, column)| passed(&column.expr) == Some(place));
        if branch.filter.is_none() && in_place && schema == *node.schema() {
            return Ok(Branch { columns: (0..width).collect(), ..branch });
        }
        let calc =
            Calc { predicate: branch.filter, columns: columns.iter().map(|column| Arc::clone(&column.expr)).collect() };
        let (calc, input) = match (&node.op, node.inputs.as_slice()) {
            (Op::Calc(below), [input]) if fuses => calc.fused(below).map_or((calc, branch.node), |one| (one, *input)),
            _ => (calc, branch.node),
        };
        let name = match (&calc.predicate, calc.only_passes()) {
            (Some(predicate), true) => format!("Filter({predicate})"),
            (Some(predicate), false) => format!("Filter, Project({predicate})"),
            (None, _) => "Project".to_string(),
        };
        calc.make(&schema).map_err(|error| internal(&error))?;
        let lineage = Lineage {
            columns: columns.into_iter().map(|column| column.meaning).collect(),
            rows: node.lineage.rows.clone(),
            filters: node.lineage.filters.iter().cloned().chain(branch.filters).collect(),
        };
        let node = self.add(NewNode {
            op: Op::Calc(calc),
            inputs: vec![input],
            schema,
            lineage,
            identity: Identity::default(),
            name,
            place: Place::default(),
        });
        Ok(Branch { node, columns: (0..width).collect(), filter: None, filters: Vec::new() })
    }

    /// A row might pass that is taken back later and does not.
    fn refuse_volatile_filter(&self, branch: &Branch) -> Built<()> {
        match &self.tree[branch.node].traits.updating {
            None => Ok(()),
            Some(updating) => Err(PlanError::new(
                self.place,
                format!("a condition on the clock over rows that change ({updating} updates them) is not supported"),
                "put the condition below what updates the rows, where they are only inserted",
            )),
        }
    }

    fn meanings(&self, branch: &Branch) -> Vec<&Meaning> {
        let columns = &self.tree[branch.node].lineage.columns;
        branch.columns.iter().map(|&column| &columns[column]).collect()
    }

    /// An expression over a query's columns, as one over the node's.
    fn placed(&self, branch: &Branch, expr: Arc<dyn PhysicalExpr>) -> Built<Arc<dyn PhysicalExpr>> {
        if branch.is_in_order() {
            return Ok(expr);
        }
        let schema = self.tree[branch.node].schema();
        let placed = expr.transform_up(|expr| {
            let Some(column) = passed(&expr) else { return Ok(Transformed::no(expr)) };
            let column = branch.columns[column];
            let moved = PhysicalColumn::new(schema.field(column).name(), column);
            Ok(Transformed::yes(Arc::new(moved) as Arc<dyn PhysicalExpr>))
        });
        self.planner(placed.data())
    }
}
