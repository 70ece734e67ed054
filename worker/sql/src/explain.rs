//! A plan for people and for tools: what `weir-worker plan` prints and `weir plan` renders.

use std::fmt;

use arrow::datatypes::Schema;
use serde::{Deserialize, Serialize};
use weir_engine::{Exchange, JobGraph, PlanWarning, Stage, StageHead};

use crate::parse::types::flink_name;

/// A job graph, described.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanDescription {
    /// In topological order.
    pub stages: Vec<StageDescription>,
    /// What a user should know before running this.
    pub warnings: Vec<PlanWarning>,
    /// The same for the same plan.
    pub fingerprint: String,
}

/// A chain of operators with no exchange inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageDescription {
    /// Its index.
    pub id: u32,
    /// For people.
    pub name: String,
    /// Survives edits elsewhere in the script.
    pub identity: String,
    /// Where its rows come from, if it is a source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceDescription>,
    /// Where its rows come from otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<InputDescription>,
    /// In the order that rows pass them.
    pub operators: Vec<OperatorDescription>,
    /// What the rows do that leave it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changelog: Vec<ChangelogDescription>,
    /// Where its rows leave the job, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<SinkDescription>,
}

/// A source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceDescription {
    /// The table.
    pub table: String,
    /// Its splits are found by it.
    pub identity: String,
    /// `name TYPE`, after computed columns.
    pub columns: Vec<String>,
    /// It says what the event time is.
    pub watermark: bool,
    /// It ends.
    pub bounded: bool,
}

/// An edge into a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InputDescription {
    /// The stage that sends.
    pub from: u32,
    /// `hash`, `forward`, `broadcast`, `rebalance` or `single`.
    pub exchange: String,
    /// The columns hashed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// `name TYPE`.
    pub columns: Vec<String>,
}

/// An operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatorDescription {
    /// What it does.
    pub name: String,
    /// Its state is found by it.
    pub identity: String,
    /// Its state, if it keeps any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<StateDescription>,
    /// `name TYPE`.
    pub columns: Vec<String>,
}

/// What rows do to the table that they describe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangelogDescription {
    /// `+I`, `+I -U +U`, and so on.
    pub rows: String,
    /// The columns by which a later row replaces an earlier one; absent where that is not known, or no row does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Vec<String>>,
}

/// An operator's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateDescription {
    /// What bounds it; absent if it grows for ever.
    pub bounded_by: Option<String>,
}

/// A sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SinkDescription {
    /// The table.
    pub table: String,
    /// Its pending commits are found by it.
    pub identity: String,
    /// `name TYPE`.
    pub columns: Vec<String>,
}

/// Describes a graph.
pub fn explain(graph: &JobGraph) -> PlanDescription {
    PlanDescription {
        stages: graph.stages.iter().map(stage).collect(),
        warnings: graph.warnings.clone(),
        fingerprint: graph.fingerprint.clone(),
    }
}

fn stage(stage: &Stage) -> StageDescription {
    let source = match &stage.head {
        StageHead::Source(source) => Some(SourceDescription {
            table: source.name.clone(),
            identity: source.identity.clone(),
            columns: columns(&source.schema),
            watermark: source.watermark.is_some(),
            bounded: source.source.bounded(),
        }),
        StageHead::Inputs(_) => None,
    };
    StageDescription {
        id: stage.id.0,
        name: stage.name.clone(),
        identity: stage.identity.clone(),
        source,
        inputs: stage
            .inputs()
            .iter()
            .map(|edge| {
                let (exchange, keys) = match &edge.exchange {
                    Exchange::Hash { keys } => ("hash", keys.as_slice()),
                    Exchange::Forward => ("forward", &[][..]),
                    Exchange::Broadcast => ("broadcast", &[][..]),
                    Exchange::Rebalance => ("rebalance", &[][..]),
                    Exchange::Single => ("single", &[][..]),
                };
                InputDescription {
                    from: edge.from.0,
                    exchange: exchange.to_string(),
                    keys: keys.iter().map(|&key| edge.schema.field(key).name().clone()).collect(),
                    columns: columns(&edge.schema),
                }
            })
            .collect(),
        operators: stage
            .operators
            .iter()
            .map(|operator| OperatorDescription {
                name: operator.name.clone(),
                identity: operator.identity.clone(),
                state: operator.state.as_ref().map(|state| StateDescription { bounded_by: state.bounded_by.clone() }),
                columns: columns(&operator.output),
            })
            .collect(),
        changelog: stage
            .changelog
            .iter()
            .map(|note| ChangelogDescription { rows: note.rows.clone(), key: note.key.clone() })
            .collect(),
        sink: stage.sink.as_ref().map(|sink| SinkDescription {
            table: sink.name.clone(),
            identity: sink.identity.clone(),
            columns: columns(&sink.input),
        }),
    }
}

/// The stages as they stand in fingerprints. A record's plan is recognised by it, so nothing is added here that older plans have as
/// well.
pub struct Fingerprinted<'d>(pub &'d [StageDescription]);

impl fmt::Debug for Fingerprinted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(FingerprintedStage)).finish()
    }
}

struct FingerprintedStage<'d>(&'d StageDescription);

impl fmt::Debug for FingerprintedStage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StageDescription { id, name, identity, source, inputs, operators, sink, changelog: _ } = self.0;
        f.debug_struct("StageDescription")
            .field("id", id)
            .field("name", name)
            .field("identity", identity)
            .field("source", source)
            .field("inputs", inputs)
            .field("operators", operators)
            .field("sink", sink)
            .finish()
    }
}

fn columns(schema: &Schema) -> Vec<String> {
    schema
        .fields()
        .iter()
        .map(|field| {
            let not_null = if field.is_nullable() { "" } else { " NOT NULL" };
            format!("{} {}{not_null}", field.name(), flink_name(field.data_type()))
        })
        .collect()
}
