//! What a job that starts from nothing has to read. Folders and topics change while the workers look, so that two of them may
//! find different things; all take what the first of them has written down.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use weir_protocol::{
    Attempt, WorkerId, paths,
    record::{decode, encode},
    rpc::Peer,
};
use weir_storage::{Created, JobStore};

use crate::{
    api::{
        error::OperatorError,
        failure::Failure,
        graph::{JobGraph, StageHead},
    },
    deploy::blocking,
};

const INPUTS_VERSION: u32 = 1;

/// The splits of all sources, by the source's identity.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inputs {
    version: u32,
    /// As from [`crate::api::source::SourceFactory::splits`].
    pub splits: BTreeMap<String, Vec<Value>>,
}

impl Inputs {
    /// Asks every source. Blocking.
    pub fn look(graph: &JobGraph, parallelism: u32) -> Result<Self, Failure> {
        let mut splits = BTreeMap::new();
        for stage in &graph.stages {
            let StageHead::Source(node) = &stage.head else { continue };
            let found = node.source.splits(parallelism);
            let found = found.map_err(|error| OperatorError::from(error).in_operator(&node.name));
            splits.insert(node.identity.clone(), found.map_err(|error| Failure::of_subtask(0, &error))?);
        }
        Ok(Self { version: INPUTS_VERSION, splits })
    }
}

/// What the subtasks of `attempt` have to read: the same for each of its workers, as `peers` lists them.
pub(crate) async fn agree(
    graph: &Arc<JobGraph>,
    store: &JobStore,
    attempt: Attempt,
    parallelism: u32,
    peers: &[Peer],
) -> Result<Inputs, Failure> {
    let found = {
        let graph = Arc::clone(graph);
        blocking(move || Inputs::look(&graph, parallelism)).await?
    };
    let [first, _, ..] = peers else { return Ok(found) };
    // With a process's id in its name: an attempt of this number may have been before, of a job that was deleted.
    let path = paths::inputs(attempt, &WorkerId(first.worker.clone()));
    match store.create(&path, encode(&found).into()).await? {
        Created::New | Created::Same => Ok(found),
        // One that cannot be read is this attempt's alone: the next writes its own.
        Created::Taken(first) => decode(&path, &first, INPUTS_VERSION).map_err(|error| Failure::io(&error)),
    }
}
