//! Parts: what one worker contributes to a checkpoint. JSON with a version.

use serde::{Deserialize, Serialize};

use crate::ids::{Attempt, CheckpointId, SubtaskIndex, WorkerId};

/// The version of parts that this build writes. It reads this one and no other.
pub const PART_VERSION: u32 = 1;

/// One worker's manifest of one checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Part {
    /// [`PART_VERSION`].
    pub version: u32,
    /// The checkpoint.
    pub id: CheckpointId,
    /// The attempt that took it.
    pub attempt: Attempt,
    /// Who wrote this part.
    pub worker: WorkerId,
    /// All subtasks of the worker.
    pub subtasks: Vec<SubtaskPart>,
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
    /// The exchange and the pair of subtasks.
    pub channel: u64,
    /// Arrow IPC frames, in order.
    pub file: FileRef,
}
