//! A stage under construction: rows on their way, with what is known of them. Filters and projections gather here and become
//! one operator.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, DFSchema, Result};
use datafusion_expr::{Expr, ExprSchemable};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, Column as PhysicalColumn};
use weir_engine::{Edge, Exchange, Kin, OperatorFactory, OperatorNode, SinkNode, Stage, StageHead, StageId, StateNote};
use weir_operators::FilterProject;

use crate::error::{Place, PlanError};
use crate::identity::{Identity, Meaning, fingerprint};
use crate::logical::exprs::physical;
use crate::logical::print;

/// What the columns of one expression may mean together, in bytes, before hashes stand for their texts.
const LONGEST_MEANING: usize = 64 << 10;

/// What is no longer than this is as short as its hash.
const LONGEST_NAME: usize = 64;

/// Rows in a stage that is not closed yet. The first columns are those of the logical plan, in its order; sources may have
/// more behind them.
pub struct Flow {
    head: StageHead,
    identity: Identity,
    operators: Vec<OperatorNode>,
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// What an operator here is given, before a pending filter.
    pub schema: SchemaRef,
    /// What each column is, in terms of the source's columns.
    pub meaning: Vec<Meaning>,
    /// Which rows these are: the table, its windows, its aggregations.
    pub rows: Meaning,
    /// Which of them are kept, on the whole way from the source. State may outlive a change of these: it stays as it is, and what
    /// comes then is filtered the new way.
    pub filters: Vec<String>,
    /// There are updates and deletes among the rows.
    pub updating: Option<Updating>,
    /// The input ends.
    pub bounded: bool,
}

/// Why rows are updated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Updating {
    /// The operator that does it.
    pub operator: String,
    /// Where it stands in the script.
    pub place: Place,
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

impl Flow {
    /// Rows at the head of a stage.
    pub fn new(head: StageHead, identity: Identity, schema: SchemaRef, meaning: Vec<Meaning>, rows: Meaning) -> Self {
        Self {
            head,
            identity,
            operators: Vec::new(),
            filter: None,
            schema,
            meaning,
            rows,
            filters: Vec::new(),
            updating: None,
            bounded: false,
        }
    }

    /// An expression over these rows, whose first columns `input` names.
    pub fn compute(&self, expr: &Expr, name: &str, input: &DFSchema) -> Result<Computed> {
        let field = Field::new(name, expr.get_type(input)?, expr.nullable(input)?);
        Ok(Computed { expr: physical(expr, input)?, field, meaning: self.meaning_of(expr, input)? })
    }

    /// The column at this position, unchanged.
    pub fn pass(&self, position: usize) -> Computed {
        let field = self.schema.field(position).clone();
        Computed {
            expr: Arc::new(PhysicalColumn::new(field.name(), position)),
            field,
            meaning: self.meaning[position].clone(),
        }
    }

    /// What an expression is, in terms of the source's columns.
    pub fn meaning_of(&self, expr: &Expr, input: &DFSchema) -> Result<Meaning> {
        let text_of = self.texts(expr, input, |meaning| &meaning.text)?;
        let column = |column: &Column| {
            let index = input.maybe_index_of_column(column);
            Ok(index.map_or_else(|| column.name().to_string(), &text_of))
        };
        Ok(Meaning { text: print::text(expr, &column)?, before: self.meaning_before(expr, input)? })
    }

    /// What stands for each column in an expression's text. Where that would be long it is a hash: a view may name each column of
    /// the one below it several times, and a text would grow as fast as that multiplies.
    fn texts(&self, expr: &Expr, input: &DFSchema, text: fn(&Meaning) -> &String) -> Result<impl Fn(usize) -> String> {
        let mut length = 0_usize;
        expr.apply(|expr| {
            if let Expr::Column(column) = expr
                && let Some(index) = input.maybe_index_of_column(column)
            {
                length += text(&self.meaning[index]).len();
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(move |index: usize| match text(&self.meaning[index]) {
            text if length > LONGEST_MEANING && text.len() > LONGEST_NAME => format!("#{}", fingerprint(text)),
            text => text.clone(),
        })
    }

    /// As DataFusion prints it: so it stands in identities of state format 1.
    fn meaning_before(&self, expr: &Expr, input: &DFSchema) -> Result<String> {
        let text_of = self.texts(expr, input, |meaning| &meaning.before)?;
        let expr = expr
            .clone()
            .transform_up(|expr| {
                Ok(match &expr {
                    Expr::Column(column) => match input.maybe_index_of_column(column) {
                        Some(index) => Transformed::yes(Expr::Column(Column::new_unqualified(text_of(index)))),
                        None => Transformed::no(expr),
                    },
                    Expr::Alias(alias) => Transformed::yes(alias.expr.as_ref().clone()),
                    _ => Transformed::yes(print::node_as_written(expr)?),
                })
            })
            .data()?;
        Ok(expr.to_string())
    }

    /// Keeps the rows in which this is true. It becomes part of the next projection.
    pub fn filter(&mut self, predicate: &Expr, input: &DFSchema) -> Result<()> {
        let text = self.meaning_of(predicate, input)?.text;
        let predicate = physical(predicate, input)?;
        self.filter = Some(match self.filter.take() {
            Some(first) => Arc::new(BinaryExpr::new(first, datafusion_expr::Operator::And, predicate)),
            None => predicate,
        });
        self.filters.push(text);
        Ok(())
    }

    /// Makes these the columns, with the pending filter, in one operator; in none if nothing changes. The output is named and
    /// typed as `output` says, else as the columns are.
    pub fn project(&mut self, mut columns: Vec<Computed>, output: Option<SchemaRef>) -> Result<(), PlanError> {
        if columns.is_empty() {
            // Rows are counted by a column.
            columns.push(self.pass(0));
        }
        let schema = output.unwrap_or_else(|| {
            Arc::new(Schema::new(columns.iter().map(|column| column.field.clone()).collect::<Vec<_>>()))
        });
        let unchanged = self.filter.is_none()
            && schema == self.schema
            && columns.iter().enumerate().all(|(position, column)| is_column(&column.expr, position));
        if !unchanged {
            let filter = self.filter.take();
            let name =
                match (&filter, columns.iter().all(|column| column.expr.downcast_ref::<PhysicalColumn>().is_some())) {
                    (Some(_), true) => "Filter",
                    (Some(_), false) => "Filter, Project",
                    (None, _) => "Project",
                };
            let detail = filter.as_ref().map_or_else(String::new, |filter| format!("({filter})"));
            let factory = FilterProject::new(
                filter,
                columns.iter().map(|column| Arc::clone(&column.expr)).collect(),
                Arc::clone(&schema),
            )
            .map_err(|error| internal(&error))?;
            self.operators.push(OperatorNode {
                identity: self.identity.within("project", &[&self.operators.len().to_string()]).now,
                kin: Kin::default(),
                name: format!("{name}{detail}"),
                factory: Arc::new(factory),
                state: None,
                output: Arc::clone(&schema),
            });
            self.schema = schema;
        }
        self.meaning = columns.into_iter().map(|column| column.meaning).collect();
        Ok(())
    }

    /// Applies a pending filter, with the columns as they are.
    pub fn settle(&mut self) -> Result<(), PlanError> {
        if self.filter.is_none() {
            return Ok(());
        }
        let columns = (0..self.schema.fields().len()).map(|position| self.pass(position)).collect();
        self.project(columns, None)
    }

    /// Drops the columns behind the first `width`.
    pub fn trim(&mut self, width: usize) -> Result<(), PlanError> {
        if self.schema.fields().len() == width {
            return self.settle();
        }
        let columns = (0..width).map(|position| self.pass(position)).collect();
        self.project(columns, None)
    }

    /// Adds an operator; `place` is where it stands in the script.
    pub fn push(
        &mut self,
        identity: Identity,
        place: Place,
        name: String,
        factory: Arc<dyn OperatorFactory>,
        state: Option<StateNote>,
        output: SchemaRef,
    ) {
        self.schema = Arc::clone(&output);
        let kin = kin(place, identity.before);
        self.operators.push(OperatorNode { identity: identity.now, kin, name, factory, state, output });
    }

    /// Closes this stage, adds it to the graph, and starts the next one behind an exchange.
    pub fn exchange(self, exchange: Exchange, identity: Identity, stages: &mut Vec<Stage>) -> Self {
        let (schema, meaning, rows) = (Arc::clone(&self.schema), self.meaning.clone(), self.rows.clone());
        let (filters, updating, bounded) = (self.filters.clone(), self.updating.clone(), self.bounded);
        let from = self.close(None, stages);
        let edge = Edge { from, exchange, schema: Arc::clone(&schema) };
        Self { filters, updating, bounded, ..Self::new(StageHead::Inputs(vec![edge]), identity, schema, meaning, rows) }
    }

    /// Closes this stage and adds it to the graph.
    pub fn close(self, sink: Option<SinkNode>, stages: &mut Vec<Stage>) -> StageId {
        let id = StageId(stages.len() as u32);
        let mut names: Vec<&str> = Vec::new();
        if let StageHead::Source(source) = &self.head {
            names.push(&source.name);
        }
        names.extend(self.operators.iter().map(|operator| operator.name.split('(').next().unwrap_or_default()));
        names.extend(sink.as_ref().map(|sink| sink.name.as_str()));
        let name = names.join(" -> ");
        let stateful = self.operators.iter().any(|operator| operator.state.is_some());
        let Identity { now, before } = self.identity.within("stage", &[]);
        stages.push(Stage {
            id,
            identity: now,
            aliases: vec![before],
            name,
            head: self.head,
            operators: self.operators,
            sink,
            stateful,
        });
        id
    }
}

/// Of what stands at this place and was called so before. The rest is said when the statement is whole.
pub fn kin(place: Place, before: String) -> Kin {
    Kin { line: place.is_known().then_some(place.line), aliases: vec![before], ..Kin::default() }
}

/// Whether an expression is the column at this position.
fn is_column(expr: &Arc<dyn PhysicalExpr>, position: usize) -> bool {
    expr.downcast_ref::<PhysicalColumn>().is_some_and(|column| column.index() == position)
}

/// An operator refused its spec: the planner let something through that it should have caught.
pub fn internal(error: &dyn std::error::Error) -> PlanError {
    PlanError::new(Place::default(), error.to_string(), "write the query in another way, and report this one")
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;
    use datafusion_expr::{col, lit};

    use super::*;
    use crate::logical::exprs::unqualified;

    fn meaning(of_column: &str, expr: &Expr) -> String {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        let flow = Flow::new(
            StageHead::Inputs(Vec::new()),
            Identity::default(),
            Arc::clone(&schema),
            vec![Meaning::same(of_column)],
            Meaning::default(),
        );
        let meaning = flow.meaning_of(expr, &unqualified(&schema).unwrap()).unwrap();
        assert_eq!(meaning.text.len() > LONGEST_MEANING, meaning.before.len() > LONGEST_MEANING);
        meaning.before
    }

    #[test]
    fn a_meaning_is_the_whole_text_until_that_is_long_and_then_no_longer_than_its_expression() {
        assert_eq!(meaning("t.a", &(col("a") + lit(1))), "t.a + Int32(1)");
        let long = "x".repeat(LONGEST_MEANING / 2);
        assert_eq!(meaning(&long, &(col("a") + col("a"))), format!("{long} + {long}"));
        let longer = format!("{long}y");
        let hashed = meaning(&longer, &(col("a") + col("a")));
        assert!(hashed.len() < 100, "{hashed}");
        assert_ne!(hashed, meaning(&format!("{long}z"), &(col("a") + col("a"))), "it still says which");
        let mut text = "t.a".to_string();
        for _ in 0..60 {
            text = meaning(&text, &(col("a") + col("a")));
        }
        assert!(text.len() <= LONGEST_MEANING + 10, "{}", text.len());
    }
}
