//! What a statement writes: the query's rows as the table's, with as much of their changes as the table takes.

use std::sync::Arc;

use datafusion_expr::LogicalPlan;
use weir_connectors::{ChangelogMode, ConnectorError};
use weir_engine::Exchange;
use weir_operators::{ConflictSpec, OnConflict, UpsertMaterializeSpec};

use crate::error::{Place, PlanError};
use crate::identity::{Identity, Meaning, identity, list};
use crate::names::catalog::Table;
use crate::parse::dialect::Conflict;
use crate::physical::build::rows::Rows;
use crate::physical::build::{Builder, Built};
use crate::physical::changelog::{Given, Refusal, given};
use crate::physical::keys::Key;
use crate::physical::lineage::{Lineage, names};
use crate::physical::ops::{Op, Sink};
use crate::physical::show::key_names;
use crate::physical::traits::Traits;
use crate::physical::tree::{NewNode, NodeId};

/// A statement that writes.
pub struct Writes<'s> {
    /// Its place among the statements.
    pub statement: usize,
    /// The table that it writes.
    pub sink: &'s Arc<Table>,
    /// Where the query stands.
    pub place: Place,
    /// Where the table is named.
    pub at: Place,
    /// What ON CONFLICT says, and where.
    pub conflict: Option<(Conflict, Place)>,
}

impl Builder<'_> {
    /// Builds a statement.
    pub fn insert(&mut self, plan: &LogicalPlan, writes: &Writes<'_>) -> Built<NodeId> {
        let Writes { statement, sink, place, at, .. } = *writes;
        self.statement = statement;
        self.owner.clone_from(&sink.name);
        self.place = place;
        let rows = self.rows_for(plan, sink)?;
        let mut input = self.together(&rows);
        let mut spec = sink.spec(self.base_dir);
        let accepts = self.connectors.accepts(&spec).map_err(|error| sink.refused(&error))?;
        let primary_key: Key = sink.primary_key.iter().copied().collect();
        let conflict = writes.conflict.map(|(conflict, _)| conflict);
        let of = |traits: &Traits| given(&accepts, &primary_key, traits.kinds, &traits.keys, conflict);
        let mut found = of(&self.tree[input].traits);
        if let (Err(Refusal::OtherKey), Some(conflict)) = (&found, conflict) {
            input = self.keep_apart(&rows, conflict, writes)?;
            found = of(&self.tree[input].traits);
        }
        let given = match found {
            Ok(given) => given,
            Err(refusal) => {
                // What is wrong with the declaration comes first.
                self.connectors.sink(&spec).map_err(|error| sink.refused(&error))?;
                return Err(self.refuse_sink(&refusal, input, writes));
            }
        };
        spec.changelog = given.mode;
        let factory = self.connectors.sink(&spec).map_err(|error| refused(sink, &error, given, at))?;
        let connector = spec.options.get("connector").map_or("", String::as_str);
        let called = identity("sink", &[&sink.name, connector]);
        Ok(self.add(NewNode {
            op: Op::Sink(Box::new(Sink { factory, called: called.clone(), given })),
            inputs: vec![input],
            schema: Arc::clone(&sink.physical),
            lineage: self.tree[input].lineage.clone(),
            identity: Identity { now: called.clone(), before: called },
            name: sink.name.clone(),
            place: at,
        }))
    }

    /// The plan's rows with the table's own columns.
    fn rows_for(&mut self, plan: &LogicalPlan, sink: &Table) -> Built<Rows> {
        let output = Some(&sink.physical);
        if let LogicalPlan::Projection(projection) = plan {
            let rows = self.rows(&projection.input)?;
            return self.projection(rows, projection, output);
        }
        let rows = self.rows(plan)?;
        self.pass_all(rows, output)
    }

    /// Keeps apart the rows of each primary key.
    fn keep_apart(&mut self, rows: &Rows, conflict: Conflict, writes: &Writes<'_>) -> Built<NodeId> {
        let at = writes.conflict.map_or(writes.at, |(_, at)| at);
        let (input, key) = (self.schema(rows), writes.sink.primary_key.clone());
        let (op, kind, keeps, what) = match conflict {
            Conflict::Deduplicate => {
                let op = Op::UpsertMaterialize(UpsertMaterializeSpec { input: Arc::clone(&input), key: key.clone() });
                (op, "upsert-materialize", "LAST", "DO DEDUPLICATE")
            }
            Conflict::Nothing | Conflict::Error => {
                let (on_conflict, keeps, what) = match conflict {
                    Conflict::Error => (OnConflict::Error, "ONLY", "DO ERROR"),
                    _ => (OnConflict::Nothing, "FIRST", "DO NOTHING"),
                };
                self.refuse_without_watermarks(rows, what, at)?;
                let op = Op::Conflict(ConflictSpec { input: Arc::clone(&input), key: key.clone(), on_conflict });
                (op, "conflict", keeps, what)
            }
        };
        self.refuse_unstable(rows, &format!("ON CONFLICT {what}"), at)?;
        let Lineage { columns, rows: below, filters } = self.lineage(rows);
        let by = list(key.iter().map(|&column| &columns[column]));
        let of = Meaning::of(|of| format!("{} {keeps} OF {}", of(&below), of(&by)));
        let identity = Identity::of(kind, &self.owner, &[&of, &list(&columns)]);
        let by = names(key.iter().map(|&column| input.field(column)));
        let name = match conflict {
            Conflict::Deduplicate => format!("UpsertMaterialize(by {by})"),
            Conflict::Nothing => format!("Conflict(first by {by})"),
            Conflict::Error => format!("Conflict(error by {by})"),
        };
        let exchange = self.exchange(rows, Exchange::Hash { keys: key }, &identity);
        let lineage = Lineage { columns, rows: of, filters };
        Ok(self.add(NewNode { op, inputs: vec![exchange], schema: input, lineage, identity, name, place: at }))
    }

    /// What waits for event time to go on would wait for ever.
    fn refuse_without_watermarks(&self, rows: &Rows, what: &str, at: Place) -> Built<()> {
        let mut below: Vec<NodeId> = rows.nodes().collect();
        while let Some(node) = below.pop().map(|id| &self.tree[id]) {
            below.extend(&node.inputs);
            if let Op::Scan(scan) = &node.op
                && scan.node.watermark.is_none()
                && !scan.bounded
            {
                return Err(PlanError::new(
                    at,
                    format!(
                        "ON CONFLICT {what} looks for conflicts whenever event time goes on, and the table {} has no watermark",
                        node.name
                    ),
                    format!("declare a WATERMARK in {}, or write ON CONFLICT DO DEDUPLICATE", node.name),
                ));
            }
        }
        Ok(())
    }

    fn refuse_sink(&self, refusal: &Refusal, input: NodeId, writes: &Writes<'_>) -> PlanError {
        let Writes { sink, at, conflict, .. } = writes;
        let traits = &self.tree[input].traits;
        let table = &sink.name;
        let updating = traits.updating.as_ref().map_or_else(|| "the query".to_string(), ToString::to_string);
        let conflict_at = conflict.map_or(*at, |(_, place)| place);
        match refusal {
            Refusal::InsertsOnly { remedy } => PlanError::new(
                *at,
                format!("table {table}: it takes inserts only, and {updating} updates its rows"),
                remedy.clone(),
            ),
            Refusal::OtherKey => {
                let fields = sink.primary_key.iter().map(|&column| sink.physical.field(column));
                let primary_key = names(fields);
                let apart = match key_names(&traits.keys, &traits.schema) {
                    Some(key) if !key.is_empty() => format!("are kept apart by {}", key.join(", ")),
                    _ => "have no key that is known".to_string(),
                };
                PlanError::new(
                    conflict_at,
                    format!(
                        "the primary key of {table} is {primary_key}, and the rows that {updating} updates {apart}: \
                         several of them may have one primary key, and one that goes would take another with it"
                    ),
                    format!(
                        "declare the columns that the rows are kept apart by as PRIMARY KEY of {table}, or group by \
                         {primary_key}, or write ON CONFLICT DO DEDUPLICATE behind the query: all rows are kept then, and of \
                         those of one key the last stands"
                    ),
                )
            }
            Refusal::NoConflicts => PlanError::new(
                conflict_at,
                format!("ON CONFLICT is for tables that are written by their primary key, and {table} is not"),
                "leave ON CONFLICT out",
            ),
        }
    }
}

/// What a connector says of a table; where it is of how the rows change, that is the query's doing and not the declaration's.
fn refused(sink: &Table, error: &ConnectorError, given: Given, at: Place) -> PlanError {
    let refused = sink.refused(error);
    if given.mode != ChangelogMode::Append && error.option().is_none() && error.column().is_none() {
        PlanError::new(at, refused.message, refused.remedy)
    } else {
        refused
    }
}
