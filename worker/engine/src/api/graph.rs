//! The job graph: stages and the exchanges between them. Planned by every worker for itself, never serialised.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::api::error::OperatorError;
use crate::api::operator::OperatorFactory;
use crate::api::sink::SinkFactory;
use crate::api::source::SourceFactory;
use crate::api::time::Timestamp;

/// A job's dataflow.
#[derive(Clone)]
pub struct JobGraph {
    /// In topological order: an edge leads from an earlier stage to a later one. `stages[i].id` is `i`.
    pub stages: Vec<Stage>,
    /// The same for the same plan, and another for any plan that would run differently.
    pub fingerprint: String,
    /// What a user should know before running this.
    pub warnings: Vec<PlanWarning>,
    /// A hash of the script. Where it is the same, another plan is the planner's doing. Empty where there is no script.
    pub script: String,
    /// The same script with nothing that several of its queries have in common: as builds planned that knew no sharing. What they
    /// have written goes on as this. Nothing where nothing is shared.
    pub apart: Option<Box<JobGraph>>,
}

/// What tells a source, an operator or a sink from others that mean the same, and what builds before this one called it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kin {
    /// The identity that it shares with those that mean the same. Empty: its own, which is then no other's.
    pub family: String,
    /// Its place among those, in the order of the script.
    pub ordinal: u32,
    /// A hash of what the statement's other keepers of state are.
    pub statement: String,
    /// The statement's filters, which no identity has in it.
    pub discriminator: String,
    /// Where it stands in the script.
    pub line: Option<u64>,
    /// The identities that earlier builds gave it in this script, the newest last: what they stored is found by them.
    pub aliases: Vec<String>,
    /// What its tables stand under in the state backend. Empty: its identity.
    pub rows_under: String,
}

impl JobGraph {
    /// All edges with their index and the stage they lead to, in the order that numbers channels.
    pub fn edges(&self) -> impl Iterator<Item = (u32, &Stage, usize, &Edge)> {
        self.stages
            .iter()
            .flat_map(|stage| stage.inputs().iter().enumerate().map(move |(input, edge)| (stage, input, edge)))
            .enumerate()
            .map(|(index, (stage, input, edge))| (index as u32, stage, input, edge))
    }
}

/// Something about a plan that is allowed and may not be meant.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PlanWarning {
    /// The operator it is about.
    pub operator: String,
    /// What, and what to do about it.
    pub message: String,
}

/// The index of a stage in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct StageId(pub u32);

/// A chain of operators with no exchange inside, run by one thread a subtask.
#[derive(Clone)]
pub struct Stage {
    /// Its index.
    pub id: StageId,
    /// Survives edits elsewhere in the script; state is found by it.
    pub identity: String,
    /// What earlier builds called it in this script, the newest last.
    pub aliases: Vec<String>,
    /// For people.
    pub name: String,
    /// Where its rows come from.
    pub head: StageHead,
    /// In the order that rows pass them.
    pub operators: Vec<OperatorNode>,
    /// What the rows do that leave it, for people.
    pub changelog: Vec<ChangelogNote>,
    /// Where the last operator's rows go, if they leave the job here.
    pub sink: Option<SinkNode>,
    /// Some operator keeps keyed state.
    pub stateful: bool,
}

impl Stage {
    /// The edges that lead here; none for a source's stage.
    pub fn inputs(&self) -> &[Edge] {
        match &self.head {
            StageHead::Source(_) => &[],
            StageHead::Inputs(edges) => edges,
        }
    }
}

/// Where a stage's rows come from.
// A job has a handful of these.
#[allow(clippy::large_enum_variant)]
#[derive(Clone)]
pub enum StageHead {
    /// Out of a source.
    Source(SourceNode),
    /// From other stages; the index is what `Operator::process` calls `input`.
    Inputs(Vec<Edge>),
}

/// Leads from one stage to the input of another.
#[derive(Clone)]
pub struct Edge {
    /// The stage that sends.
    pub from: StageId,
    /// Which of its rows go where.
    pub exchange: Exchange,
    /// What the sending stage puts out.
    pub schema: SchemaRef,
}

/// How rows are spread over the subtasks of the receiving stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// Rows of a key group go to the subtask that owns it.
    Hash {
        /// Columns of the sending stage's output.
        keys: Vec<usize>,
    },
    /// Subtask i sends to subtask i.
    Forward,
    /// Every subtask gets every row.
    Broadcast,
    /// Whole batches, to each subtask in turn.
    Rebalance,
    /// All rows go to the subtask that owns the key group of the empty key.
    Single,
}

/// A source at the head of a stage.
#[derive(Clone)]
pub struct SourceNode {
    /// Survives edits elsewhere in the script; its splits are found by it.
    pub identity: String,
    /// What tells it from others of the same meaning.
    pub kin: Kin,
    /// For people.
    pub name: String,
    /// Makes the source's subtasks.
    pub source: Arc<dyn SourceFactory>,
    /// Computed columns, projection, pushed filter.
    pub prepare: Option<Arc<dyn BatchFn>>,
    /// What the rows say about event time, after `prepare`.
    pub watermark: Option<Arc<dyn WatermarkFn>>,
    /// After `prepare`.
    pub schema: SchemaRef,
    /// A split that gives no rows for so long no longer holds back the watermark. `None`: it always does.
    pub idle_timeout: Option<Duration>,
}

/// An operator in a stage.
#[derive(Clone)]
pub struct OperatorNode {
    /// Survives edits elsewhere in the script; its state is found by it.
    pub identity: String,
    /// What tells it from others of the same meaning.
    pub kin: Kin,
    /// For people.
    pub name: String,
    /// Makes the operator's subtasks.
    pub factory: Arc<dyn OperatorFactory>,
    /// `None` if it keeps no state.
    pub state: Option<StateNote>,
    /// What it puts out.
    pub output: SchemaRef,
}

impl OperatorNode {
    /// The name under which its tables stand in the state backend.
    pub fn rows_under(&self) -> &str {
        if self.kin.rows_under.is_empty() { &self.identity } else { &self.kin.rows_under }
    }
}

/// What is to be known about an operator's state.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StateNote {
    /// What bounds it, for people; `None` means that it grows without bound.
    pub bounded_by: Option<String>,
}

/// What is to be known about the rows that leave a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangelogNote {
    /// `+I`, `+I -U +U`, and so on.
    pub rows: String,
    /// The columns by which a later row replaces an earlier one; absent where that is not known, or no row does.
    pub key: Option<Vec<String>>,
}

/// A sink at the end of a stage.
#[derive(Clone)]
pub struct SinkNode {
    /// Survives edits elsewhere in the script; its pending commits are found by it.
    pub identity: String,
    /// What tells it from others of the same meaning.
    pub kin: Kin,
    /// For people.
    pub name: String,
    /// Makes the sink's subtasks and its committer.
    pub sink: Arc<dyn SinkFactory>,
    /// What it is given.
    pub input: SchemaRef,
}

/// A function over whole batches, without state.
pub trait BatchFn: Send + Sync {
    /// The rows that come out for these.
    fn apply(&self, rows: RecordBatch) -> Result<RecordBatch, OperatorError>;
}

/// What rows say about event time.
pub trait WatermarkFn: Send + Sync {
    /// The largest value of the `WATERMARK FOR` expression over the batch; rows where it is null are ignored.
    fn watermark(&self, rows: &RecordBatch) -> Result<Option<Timestamp>, OperatorError>;
}
