//! Parts: what one worker contributes to a checkpoint. JSON with a version.
//!
//! Since version 2 a part says what its state is: [`Keeper`]s with their [`Table`]s, by which a restore knows that it reads
//! as an integer what was written as one, and to which of two operators that look alike each belongs.
//!
//! Since version 3 event time is an operator's: one that holds it back is ahead of those behind it.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    ids::{Attempt, CheckpointId, SubtaskIndex, WorkerId},
    stored::{FORMAT, Stored},
};

/// The version of parts that this build writes where nothing else is said.
pub const PART_VERSION: u32 = FORMAT;

/// One worker's manifest of one checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Part {
    /// The version that it has, or is to have, in storage.
    pub version: u32,
    /// The checkpoint.
    pub id: CheckpointId,
    /// The attempt that took it.
    pub attempt: Attempt,
    /// Who wrote this part.
    pub worker: WorkerId,
    /// A hash of the script that was planned. Empty in version 1.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub script: String,
    /// All sources, stateful operators and sinks of the plan, in the order of the script. None in version 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keepers: Vec<Keeper>,
    /// All subtasks of the worker.
    pub subtasks: Vec<SubtaskPart>,
}

impl Part {
    /// What the build before can read of it: nothing that says what state is, and identities, of operators and stages, as that build
    /// called them.
    #[must_use]
    pub fn into_version_1(mut self, called: &BTreeMap<String, String>) -> Self {
        let rename = |identity: &mut String| {
            if let Some(before) = called.get(identity) {
                identity.clone_from(before);
            }
        };
        self.version = 1;
        self.script.clear();
        self.keepers.clear();
        for subtask in &mut self.subtasks {
            rename(&mut subtask.stage);
            subtask.operators.iter_mut().for_each(|operator| rename(&mut operator.operator));
        }
        self.without_event_times()
    }

    /// What builds of version 2 can read of it: an operator has the event time of its stage. Where an operator
    /// holds event time back that would be wrong, and version 3 is written.
    #[must_use]
    pub fn into_version_2(mut self) -> Self {
        self.version = 2;
        self.without_event_times()
    }

    fn without_event_times(mut self) -> Self {
        let operators = self.subtasks.iter_mut().flat_map(|subtask| &mut subtask.operators);
        operators.for_each(|operator| operator.event_time = None);
        self
    }
}

impl Stored for Part {
    fn upgraded(version: u32, object: Value) -> Result<Self, serde_json::Error> {
        match version {
            1 => v1::upgraded(object),
            2 => v2::upgraded(object),
            _ => serde_json::from_value(object),
        }
    }
}

/// What keeps something in a checkpoint, and what tells it from others. Every part has it, so that each can be read alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Keeper {
    /// Its identity, by which its items are found; no other of the plan has it.
    pub operator: String,
    /// What it is.
    pub role: Role,
    /// The identity of its stage.
    pub stage: String,
    /// For people: `GroupAggregate(by k: SUM(v))`.
    pub name: String,
    /// Where it stands in the script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The identity that it shares with those that mean the same.
    pub family: String,
    /// Its place among those, in the order of the script, from 0.
    pub ordinal: u32,
    /// A hash of what the statement's other keepers are: a source has the statement's aggregation in it.
    pub statement: String,
    /// The statement's filters, which no identity has in it.
    pub discriminator: String,
    /// What its tables' rows stand under in the backend: the identity by which they were first written.
    pub rows_under: String,
    /// Its keyed state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<Table>,
}

impl Keeper {
    /// For people: the name, and the line of the script.
    pub fn in_words(&self) -> String {
        in_words(&self.name, self.line)
    }
}

/// A name as it stands in messages: in backquotes, with the line of the script where that is known.
pub fn in_words(name: &str, line: Option<u64>) -> String {
    line.map_or_else(|| format!("`{name}`"), |line| format!("`{name}` (line {line})"))
}

/// What a keeper is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Keeps positions.
    Source,
    /// Keeps keyed state.
    Operator,
    /// Keeps pending commits.
    Sink,
}

/// A table of an operator's keyed state: what its keys and rows are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Table {
    /// Its name within the operator.
    pub name: String,
    /// What its rows stand under in the backend, made of the operator's `rows_under` and the name.
    pub id: u32,
    /// How its keys stand in the backend.
    pub kind: TableKind,
    /// The SQL types of the key's columns.
    pub key: Vec<String>,
    /// What a row holds, in order, with SQL types.
    pub row: Vec<String>,
    /// How long rows are.
    pub layout: Layout,
    /// By which code a row becomes bytes, with a version: `accumulators/1`.
    pub codec: String,
    /// A hash of kind, key, row, layout and codec: the same exactly where rows can be read as they were written.
    pub schema: String,
}

/// How keys stand in a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TableKind {
    /// By key.
    Table,
    /// By a slice of time, then by key.
    Slices,
}

/// How long rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Layout {
    /// Each has so many bytes.
    Fixed(u64),
    /// Each has its own length.
    Variable,
}

impl fmt::Display for TableKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Table => "a table",
            Self::Slices => "slices of time",
        })
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(bytes) => write!(f, "rows of {bytes} bytes"),
            Self::Variable => f.write_str("rows of any length"),
        }
    }
}

/// One subtask's share of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SubtaskPart {
    /// The stage's stable identity.
    pub stage: String,
    /// Which of its subtasks.
    pub subtask: SubtaskIndex,
    /// It had reached the end of its input.
    pub finished: bool,
    /// The event time it had reached, in milliseconds since the epoch.
    pub watermark_ms: Option<i64>,
    /// Its keyed state, of all its operators.
    pub keyed: Option<KeyedSnapshot>,
    /// Its operators' non-keyed state, dealt out anew at each restore.
    pub operators: Vec<OperatorPart>,
    /// Batches that were in its input channels; empty while checkpoints are aligned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channel_state: Vec<ChannelState>,
}

/// Keyed state of one subtask as files, or inline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyedSnapshot {
    /// The backend that wrote it.
    pub backend: String,
    /// The first key group it holds.
    pub key_group_start: u32,
    /// One past the last.
    pub key_group_end: u32,
    /// The watermark of each key group, where they differ after a rescale; else empty and the subtask's holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_group_watermarks: Vec<i64>,
    /// The files, all needed.
    pub files: Vec<FileRef>,
}

/// One local state file and where its bytes stand in storage.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileRef {
    /// Its name in the backend's folder.
    pub name: String,
    /// The object that holds it, below the job's prefix. Small files share one.
    pub path: String,
    /// Where it begins in the object.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Its CRC-32C.
    pub crc32c: u32,
    /// The bytes themselves, base64, where the backend carries its snapshots in the ack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<String>,
}

/// Non-keyed state of one operator in one subtask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OperatorPart {
    /// The operator's identity, which survives edits elsewhere in the script.
    pub operator: String,
    /// Self-contained items: split positions, pending commits.
    pub items: Vec<Item>,
    /// The event time that it had been told, where that is not its stage's: an operator before it holds event time back, or a
    /// barrier passed amid a firing. None in versions 1 and 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_time: Option<EventTime>,
}

impl OperatorPart {
    /// Without items, and with the event time of its stage.
    pub fn new(operator: &str) -> Self {
        Self { operator: operator.to_string(), items: Vec::new(), event_time: None }
    }
}

/// How far event time had got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventTime {
    /// In milliseconds since the epoch.
    pub watermark_ms: Option<i64>,
    /// That of each key group, where they differ after a rescale; else empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_group_watermarks: Vec<i64>,
}

/// One self-contained piece of non-keyed state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// Its content, in the operator's own format.
    pub value: serde_json::Value,
}

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ItemKind {
    /// A source's split with its position, highest timestamp and idleness.
    Split,
    /// A sink transaction that checkpoint's completion publishes.
    Commit,
    /// Anything else an operator keeps.
    Other,
}

/// Batches that were under way in one channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChannelState {
    /// Which channel.
    pub channel: ChannelName,
    /// Arrow IPC frames, in order.
    pub file: FileRef,
}

/// A channel, by what it leads to, so that it is the same in another plan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChannelName {
    /// The identity of the operator that takes the rows in.
    pub consumer: String,
    /// Which of its inputs.
    pub input: u32,
    /// The subtask that sends.
    pub from: SubtaskIndex,
    /// The subtask that receives.
    pub to: SubtaskIndex,
}

/// Version 1: nothing said of what state is, and channels by the number of their edge.
mod v1 {
    use serde::Deserialize;
    use serde_json::Value;

    use super::{KeyedSnapshot, v2::OperatorPart};
    use crate::ids::{Attempt, CheckpointId, SubtaskIndex, WorkerId};

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Part {
        version: u32,
        id: CheckpointId,
        attempt: Attempt,
        worker: WorkerId,
        subtasks: Vec<SubtaskPart>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct SubtaskPart {
        stage: String,
        subtask: SubtaskIndex,
        finished: bool,
        watermark_ms: Option<i64>,
        keyed: Option<KeyedSnapshot>,
        operators: Vec<OperatorPart>,
        #[serde(default)]
        channel_state: Vec<Never>,
    }

    /// No build ever wrote channel state into version 1.
    #[derive(Deserialize)]
    enum Never {}

    pub(super) fn upgraded(object: Value) -> Result<super::Part, serde_json::Error> {
        let Part { version, id, attempt, worker, subtasks } = serde_json::from_value(object)?;
        let subtask = |subtask: SubtaskPart| super::SubtaskPart {
            stage: subtask.stage,
            subtask: subtask.subtask,
            finished: subtask.finished,
            watermark_ms: subtask.watermark_ms,
            keyed: subtask.keyed,
            operators: subtask.operators.into_iter().map(OperatorPart::upgraded).collect(),
            channel_state: subtask.channel_state.into_iter().map(|never| match never {}).collect(),
        };
        let subtasks = subtasks.into_iter().map(subtask).collect();
        Ok(super::Part { version, id, attempt, worker, script: String::new(), keepers: Vec::new(), subtasks })
    }
}

/// Version 2: all operators of a stage have its event time.
mod v2 {
    use serde::Deserialize;
    use serde_json::Value;

    use super::{ChannelState, Item, Keeper, KeyedSnapshot};
    use crate::ids::{Attempt, CheckpointId, SubtaskIndex, WorkerId};

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Part {
        version: u32,
        id: CheckpointId,
        attempt: Attempt,
        worker: WorkerId,
        #[serde(default)]
        script: String,
        #[serde(default)]
        keepers: Vec<Keeper>,
        subtasks: Vec<SubtaskPart>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct SubtaskPart {
        stage: String,
        subtask: SubtaskIndex,
        finished: bool,
        watermark_ms: Option<i64>,
        keyed: Option<KeyedSnapshot>,
        operators: Vec<OperatorPart>,
        #[serde(default)]
        channel_state: Vec<ChannelState>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    pub(super) struct OperatorPart {
        operator: String,
        items: Vec<Item>,
    }

    impl OperatorPart {
        pub(super) fn upgraded(self) -> super::OperatorPart {
            super::OperatorPart { operator: self.operator, items: self.items, event_time: None }
        }
    }

    pub(super) fn upgraded(object: Value) -> Result<super::Part, serde_json::Error> {
        let Part { version, id, attempt, worker, script, keepers, subtasks } = serde_json::from_value(object)?;
        let subtask = |subtask: SubtaskPart| super::SubtaskPart {
            stage: subtask.stage,
            subtask: subtask.subtask,
            finished: subtask.finished,
            watermark_ms: subtask.watermark_ms,
            keyed: subtask.keyed,
            operators: subtask.operators.into_iter().map(OperatorPart::upgraded).collect(),
            channel_state: subtask.channel_state,
        };
        let subtasks = subtasks.into_iter().map(subtask).collect();
        Ok(super::Part { version, id, attempt, worker, script, keepers, subtasks })
    }
}
