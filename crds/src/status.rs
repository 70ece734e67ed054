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

/// What is known of a job: a copy of what storage holds, made again when it is lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamJobStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling, Stalled, Checkpointed, Succeeded, Failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "condition_list")]
    pub conditions: Vec<Condition>,
    /// The number of the current deployment, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    /// The newest term. A lower one never writes over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<u64>,
    /// Worker pods of the current attempt that run, standbys aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Worker pods that run, of those that the attempt needs, and standbys: `2/2`, `1/2`, `2/2+1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<String>,
    /// Selects the job's worker pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The state that the newest checkpoint names, for people: `104.2 MiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_size: Option<String>,
    /// How checkpoints are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointStatus>,
    /// The last value of `spec.restoreFrom` that was acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<RestoredFrom>,
}

/// A value of `spec.restoreFrom` that was acted upon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoredFrom {
    /// The record's path, or `previous`.
    pub value: String,
    /// When, RFC 3339.
    #[schemars(schema_with = "date_time")]
    pub at: String,
}

/// How checkpoints are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointStatus {
    /// The newest that completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<LatestCheckpoint>,
    /// How many failed since, one after the other.
    #[serde(default)]
    pub failed_since_latest: u32,
    /// What the current attempt was restored from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<RestoredCheckpoint>,
}

/// A completed checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LatestCheckpoint {
    /// Its id.
    pub id: u64,
    /// The URL of its record.
    pub record: String,
    /// When the record was made, RFC 3339.
    #[schemars(schema_with = "date_time")]
    pub completed_at: String,
    /// From the trigger to the record.
    pub duration: Duration,
    /// Bytes of state that it names.
    pub state_bytes: u64,
    /// Bytes that were uploaded for it.
    pub uploaded_bytes: u64,
}

/// What an attempt was restored from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoredCheckpoint {
    /// The checkpoint's id.
    pub id: u64,
    /// When, RFC 3339.
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
        "description": "Ready, Reconciling, Stalled, Checkpointed, Succeeded, Failed.",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {"type": "string", "description": "Which."},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it holds."},
                "observedGeneration": {
                    "type": "integer",
                    "format": "int64",
                    "description": "The generation of the spec that it is about.",
                },
                "lastTransitionTime": {
                    "type": "string",
                    "format": "date-time",
                    "description": "Since when the status is this.",
                },
                "reason": {"type": "string", "description": "Why, in one word; docs/runbook.md says what to do."},
                "message": {"type": "string", "description": "Why, for people."},
            },
        },
    })
}
