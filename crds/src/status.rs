//! What a job reports. The object store is the truth; all of this is a copy that can be thrown away and made again.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::duration::Duration;

/// The types of conditions, by the conventions of kstatus.
pub mod conditions {
    /// The newest spec runs as it says.
    pub const READY: &str = "Ready";
    /// The controller is on its way to what the spec says.
    pub const RECONCILING: &str = "Reconciling";
    /// The controller cannot get there without somebody's help.
    pub const STALLED: &str = "Stalled";
    /// The current attempt has a record, and failures stay tolerable.
    pub const CHECKPOINTED: &str = "Checkpointed";
    /// All input ended, and all output is published.
    pub const SUCCEEDED: &str = "Succeeded";
    /// The job was given up.
    pub const FAILED: &str = "Failed";
}

/// The state of a job as the controller sees it: a copy of what storage holds, written again if it is lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamJobStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling, Stalled, Checkpointed, Succeeded, Failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "condition_list")]
    pub conditions: Vec<Condition>,
    /// The number of the current attempt, from 1. Each deployment of the job on its workers is an attempt: the first, and
    /// one after each failure, replacement of a worker, and change that does not take effect at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    /// The number of the current term, the time in which one coordinator completes checkpoints. A status of a lower term
    /// never replaces one of a higher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<u64>,
    /// The number of workers that run in the current attempt, without standbys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// How many workers run of those that the attempt needs, and how many stand by: `2/2`, `1/2`, `2/2+1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<String>,
    /// The label selector of the job's worker pods, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The size of the state in the newest checkpoint, for people: `104.2 MiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_size: Option<String>,
    /// The newest checkpoint, and how checkpoints fare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointStatus>,
    /// The value of `spec.restoreFrom` that acted last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<RestoredFrom>,
}

/// A value of `spec.restoreFrom` that has acted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoredFrom {
    /// The record's path, or `previous`.
    pub value: String,
    /// When it acted, RFC 3339.
    #[schemars(schema_with = "date_time")]
    pub at: String,
}

/// The newest checkpoint, and how checkpoints fare.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointStatus {
    /// The newest completed checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<LatestCheckpoint>,
    /// How many checkpoints have failed since then, in a row.
    #[serde(default)]
    pub failed_since_latest: u32,
    /// The checkpoint that the current attempt was restored from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<RestoredCheckpoint>,
    /// The checkpoint that somebody asked for last, by the annotation `weir.dev/checkpoint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested: Option<RequestedCheckpoint>,
}

/// A checkpoint that somebody has asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestedCheckpoint {
    /// The value of the annotation `weir.dev/checkpoint`. Each value acts once.
    pub value: String,
    /// The checkpoint's id.
    pub id: u64,
    /// When it was completed, or failed, RFC 3339.
    #[schemars(schema_with = "date_time")]
    pub at: String,
    /// Why it failed. Absent if it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// A completed checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LatestCheckpoint {
    /// The checkpoint's id.
    pub id: u64,
    /// The URL of the checkpoint's record, which `spec.restoreFrom.record` takes.
    pub record: String,
    /// When the checkpoint was completed, RFC 3339.
    #[schemars(schema_with = "date_time")]
    pub completed_at: String,
    /// How long the checkpoint took, from its trigger to its completion.
    pub duration: Duration,
    /// The size of the state in the checkpoint, in bytes.
    pub state_bytes: u64,
    /// How many bytes were uploaded for the checkpoint.
    pub uploaded_bytes: u64,
}

/// The checkpoint that an attempt was restored from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoredCheckpoint {
    /// The checkpoint's id.
    pub id: u64,
    /// When the attempt was restored, RFC 3339.
    #[schemars(schema_with = "date_time")]
    pub at: String,
}

fn date_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

/// The schema of `metav1.Condition`, as a list keyed by type, so that two writers do not overwrite each other's.
fn condition_list(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "description": "The conditions Ready, Reconciling, Stalled, Checkpointed, Succeeded and Failed.",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {"type": "string", "description": "The type of the condition."},
                "status": {
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                    "description": "Whether the condition holds.",
                },
                "observedGeneration": {
                    "type": "integer",
                    "format": "int64",
                    "description": "The generation of the spec that the condition describes.",
                },
                "lastTransitionTime": {
                    "type": "string",
                    "format": "date-time",
                    "description": "When the status last changed.",
                },
                "reason": {
                    "type": "string",
                    "description": "The reason of the status, in one word; docs/runbook.md says what to do.",
                },
                "message": {"type": "string", "description": "The reason of the status, for people."},
            },
        },
    })
}
