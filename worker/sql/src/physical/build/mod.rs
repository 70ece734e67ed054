//! Logical plans to nodes. Filters wait for the next projection, and become one node with it; what stands above several queries
//! (UNION ALL) stands above each of them, until their rows meet at an exchange or before a sink.

mod aggregate;
mod constant;
mod dedup;
mod expand;
mod join;
mod lookup;
mod over;
mod rows;
pub(crate) mod sink;
mod topn;
mod union;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_expr::{Expr, LogicalPlan, TableScan};
use weir_connectors::ConnectorRegistry;
use weir_engine::Exchange;

use crate::error::{Place, PlanError};
use crate::identity::{Identity, Meaning};
use crate::logical::grouping::Expand;
use crate::logical::nodes::{Deduplicate, WindowTvf, position};
use crate::logical::topn::TopN;
use crate::lower::scan::plan_source;
use crate::names::catalog::Table;
use crate::physical::build::rows::Rows;
use crate::physical::lineage::Lineage;
use crate::physical::ops::{Op, Scan};
use crate::physical::tree::{NewNode, NodeId, Tree};
use crate::settings::Settings;

/// Builds the nodes of one script.
pub struct Builder<'a> {
    settings: &'a Settings,
    connectors: &'a ConnectorRegistry,
    base_dir: &'a Path,
    /// What has been built.
    pub tree: Tree,
    /// What is read of each table, by its serial, where sources are shared.
    shared: BTreeMap<usize, Reads>,
    /// The tables read so far.
    pub read: BTreeSet<String>,
    /// Sources of rows that stand in the script.
    constants: usize,
    statement: usize,
    /// The table that the results go to: part of every identity of state format 1.
    owner: String,
    /// Where the statement stands.
    place: Place,
}

/// What all statements read of a table.
#[derive(Default)]
struct Reads {
    /// How often it is read.
    times: usize,
    columns: BTreeSet<usize>,
}

pub type Built<T> = Result<T, PlanError>;

impl<'a> Builder<'a> {
    /// Nothing is built yet.
    pub fn new(settings: &'a Settings, connectors: &'a ConnectorRegistry, base_dir: &'a Path) -> Self {
        Self {
            settings,
            connectors,
            base_dir,
            tree: Tree::default(),
            shared: BTreeMap::new(),
            read: BTreeSet::new(),
            constants: 0,
            statement: 0,
            owner: String::new(),
            place: Place::default(),
        }
    }

    /// Statements that read the same table read it once: each table that this plan reads gives the columns that it reads, beside
    /// those of the other plans.
    pub fn share(&mut self, plan: &LogicalPlan) {
        if !self.settings.shares_sources() {
            return;
        }
        // What is not understood here is refused when it is built.
        let _ = plan.apply(|plan| {
            if let LogicalPlan::TableScan(scan) = plan
                && let Some(table) = scan.source.downcast_ref::<Table>()
            {
                let reads = self.shared.entry(table.serial).or_default();
                reads.times += 1;
                reads.columns.extend(wanted(scan, table));
            }
            Ok(TreeNodeRecursion::Continue)
        });
    }

    /// Errors of the planner, with the statement's place where they have none.
    fn planner<T>(&self, result: datafusion_common::Result<T>) -> Built<T> {
        result.map_err(|error| PlanError::from_planner(&error, self.place))
    }

    fn refused(&self, place: Place, what: &str, remedy: &str) -> PlanError {
        PlanError::new(place.or(self.place), format!("{what} is not supported"), remedy)
    }

    fn add(&mut self, new: NewNode) -> NodeId {
        let shared = match &new.op {
            Op::Scan(_) => self.settings.shares_sources(),
            _ => self.settings.shares_plans(),
        };
        self.tree.add(new, self.statement, shared)
    }

    /// The rows of a plan.
    fn rows(&mut self, plan: &LogicalPlan) -> Built<Rows> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::SubqueryAlias(alias) => self.rows(&alias.input),
            LogicalPlan::Projection(projection) => {
                let rows = self.rows(&projection.input)?;
                self.projection(rows, projection, None)
            }
            LogicalPlan::Filter(filter) => {
                let mut rows = self.rows(&filter.input)?;
                self.filter(&mut rows, &filter.predicate, filter.input.schema())?;
                Ok(rows)
            }
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Window(window) => self.over(window),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Values(values) => self.values(values),
            LogicalPlan::EmptyRelation(empty) if empty.produce_one_row => self.one_row(),
            LogicalPlan::Extension(extension) => {
                let node = extension.node.as_any();
                if let Some(window) = node.downcast_ref::<WindowTvf>() {
                    self.assign(window)
                } else if let Some(sets) = node.downcast_ref::<Expand>() {
                    self.expand(sets)
                } else if let Some(deduplicate) = node.downcast_ref::<Deduplicate>() {
                    self.deduplicate(deduplicate)
                } else if let Some(top) = node.downcast_ref::<TopN>() {
                    self.top_n(top)
                } else {
                    Err(self.refused(Place::default(), extension.node.name(), "write the query in another way"))
                }
            }
            other => Err(self.refuse_plan(other)),
        }
    }

    fn refuse_plan(&self, plan: &LogicalPlan) -> PlanError {
        match plan {
            LogicalPlan::EmptyRelation(_) => self.refused(
                Place::default(),
                "a query that never gives a row",
                "its condition is never true: change it, or leave the INSERT out",
            ),
            other => {
                let text = other.display().to_string();
                let name = text.split(':').next().unwrap_or_default();
                self.refused(Place::default(), name, "write the query in another way")
            }
        }
    }

    fn scan(&mut self, scan: &TableScan) -> Built<Rows> {
        let Some(table) = scan.source.downcast_ref::<Table>() else {
            return Err(self.refused(Place::default(), "this relation", "read from a table or a view"));
        };
        if let Some(at) = &table.as_of {
            return Err(PlanError::new(
                at.place,
                "FOR SYSTEM_TIME AS OF stands behind a table that is on the right of a JOIN, and nowhere else",
                "write FROM a JOIN b FOR SYSTEM_TIME AS OF a.p ON a.x = b.y",
            ));
        }
        self.read.insert(table.name.clone());
        let own = wanted(scan, table);
        let together = self.shared.get(&table.serial).filter(|reads| reads.times > 1);
        let read = together.map_or_else(|| own.clone(), |reads| reads.columns.iter().copied().collect());
        let planned = plan_source(table, &read, self.settings, self.connectors, self.base_dir)?;
        let connector = connector(table);
        refuse_partitioned(table)?;
        let identity =
            Identity::of("source", &self.owner, &[&Meaning::same(table.name.as_str()), &Meaning::same(connector)]);
        let place = |column: &usize| planned.columns.iter().position(|read| read == column);
        let primary_key: Option<Vec<usize>> = table.primary_key_columns().iter().map(place).collect();
        let own: Option<Vec<usize>> = own.iter().map(place).collect();
        let lineage = Lineage {
            columns: planned
                .columns
                .iter()
                .map(|&column| Meaning::same(format!("{}.{}", table.name, table.schema.field(column).name())))
                .collect(),
            rows: Meaning::same(format!("FROM {}", table.name)),
            filters: Vec::new(),
        };
        let own = own.ok_or_else(|| lost(&table.name, self.place))?;
        let node = self.add(NewNode {
            schema: Arc::clone(&planned.node.schema),
            name: table.name.clone(),
            op: Op::Scan(Box::new(Scan {
                serial: table.serial,
                times: planned.columns.iter().map(|&column| table.time_of(column)).collect(),
                primary_key: primary_key.filter(|key| !key.is_empty()),
                bounded: planned.bounded,
                columns: planned.columns,
                node: planned.node,
            })),
            inputs: Vec::new(),
            lineage,
            identity,
            place: self.place,
        });
        Ok(Rows::of(node, own))
    }

    /// Brings all rows to where their key belongs, for the operator of this identity.
    fn exchange(&mut self, rows: &Rows, exchange: Exchange, identity: &Identity) -> NodeId {
        let lineage = self.lineage(rows);
        let schema = Arc::clone(self.tree[rows.first()].schema());
        self.add(NewNode {
            op: Op::Exchange(exchange),
            inputs: rows.nodes().collect(),
            schema,
            lineage,
            identity: identity.clone(),
            name: String::new(),
            place: Place::default(),
        })
    }

    /// Where a column stands in a plan's output.
    fn column(&self, expr: &Expr, input: &LogicalPlan) -> Built<usize> {
        position(expr, input).ok_or_else(|| lost(&expr.to_string(), self.place))
    }

    /// What takes a row back must find it: a column that is never the same twice cannot be in it.
    fn refuse_unstable(&self, rows: &Rows, what: &str, place: Place) -> Built<()> {
        let unstable = rows.nodes().map(|node| &self.tree[node].traits).find_map(|traits| {
            let column = traits.unstable.first()?;
            Some((traits.schema.field(*column).name().clone(), traits.updating.as_ref()?.clone()))
        });
        let Some((column, updating)) = unstable else { return Ok(()) };
        Err(PlanError::new(
            place.or(self.place),
            format!(
                "{what} over {column}, which the clock gives: it is another whenever a row changes ({updating} updates them), \
                 so that no row could be taken back"
            ),
            "take the time below what updates the rows, where they are only inserted",
        ))
    }

    /// Not every operator takes rows back.
    fn refuse_updating(&self, rows: &Rows, what: &str, place: Place) -> Built<()> {
        let Some(updating) = rows.nodes().find_map(|node| self.tree[node].traits.updating.as_ref()) else {
            return Ok(());
        };
        Err(PlanError::new(
            place.or(self.place),
            format!("{what} over rows that change ({updating} updates them) is not supported yet"),
            "let the rows below be final: aggregate them in a window, GROUP BY window_start, window_end over TABLE(TUMBLE(…))",
        ))
    }
}

/// The columns that a scan reads of its table.
fn wanted(scan: &TableScan, table: &Table) -> Vec<usize> {
    scan.projection.clone().unwrap_or_else(|| (0..table.columns.len()).collect())
}

fn refuse_partitioned(table: &Table) -> Built<()> {
    let Some(column) = table.declared.partitioned.first().filter(|_| connector(table) == "filesystem") else {
        return Ok(());
    };
    Err(PlanError::new(
        column.span,
        format!(
            "the table {} is PARTITIONED BY {}: values out of folders' names are not read",
            table.name, column.value
        ),
        "read a table of each folder, without the column, and bring them together with UNION ALL",
    ))
}

fn connector(table: &Table) -> &str {
    let option = table.options.iter().find(|option| option.key == "connector");
    option.map_or("", |option| option.value.as_str())
}

fn lost(column: &str, place: Place) -> PlanError {
    PlanError::new(
        place,
        format!("the column {column} got lost"),
        "write the query in another way, and report this one",
    )
}

/// An operator refused its spec: the planner let something through that it should have caught.
pub fn internal(error: &dyn std::error::Error) -> PlanError {
    PlanError::new(Place::default(), error.to_string(), "write the query in another way, and report this one")
}
