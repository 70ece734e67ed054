//! What a job that starts from nothing has to read. Folders and topics change while the workers look, so that two of them may
//! find different things; all take what the first of them has written down, before the first row is read.
//!
//! Where a source asks for it, an attempt that restores the same as one before it, and has no positions either, also takes what that
//! one had found: a job that begins at the end of a topic and fails before its first checkpoint goes on where it began, and not at
//! what is the end by then.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use weir_protocol::{
    Attempt, CheckpointId, WorkerId,
    paths::{self, Object},
    record::{decode, encode},
    rpc::Peer,
};
use weir_storage::{Created, JobStore};

use crate::{
    api::{
        error::OperatorError,
        failure::Failure,
        graph::{JobGraph, SourceNode, StageHead},
        sink::OutputOwner,
    },
    deploy::blocking,
};

/// The second says whose they are.
const INPUTS_VERSION: u32 = 2;

/// The splits of all sources, by the source's identity.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inputs {
    version: u32,
    /// As from [`crate::api::source::SourceFactory::splits`].
    pub splits: BTreeMap<String, Vec<Value>>,
    /// For whom they were found; nobody in version 1, which serves its own attempt alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    of: Option<Of>,
}

/// Whoever restores the same, with the same plan, in the same run of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Of {
    pub(crate) uid: String,
    pub(crate) cluster: String,
    pub(crate) fingerprint: String,
    /// The record restored.
    pub(crate) restores: Option<CheckpointId>,
    /// The one that is left behind: a job that is told to start from nothing begins anew.
    pub(crate) leaves: Option<CheckpointId>,
}

impl Of {
    pub(crate) fn new(
        owner: &OutputOwner,
        graph: &JobGraph,
        restores: Option<CheckpointId>,
        leaves: Option<CheckpointId>,
    ) -> Self {
        let OutputOwner { uid, cluster, .. } = owner;
        Self { uid: uid.clone(), cluster: cluster.clone(), fingerprint: graph.fingerprint.clone(), restores, leaves }
    }
}

fn sources(graph: &JobGraph) -> impl Iterator<Item = &SourceNode> {
    graph.stages.iter().filter_map(|stage| match &stage.head {
        StageHead::Source(node) => Some(node),
        StageHead::Inputs(_) => None,
    })
}

impl Inputs {
    /// Asks every source. Blocking.
    pub fn look(graph: &JobGraph, parallelism: u32) -> Result<Self, Failure> {
        Self::look_beside(BTreeMap::new(), graph, parallelism)
    }

    /// Asks those of which nothing is known.
    fn look_beside(
        mut splits: BTreeMap<String, Vec<Value>>,
        graph: &JobGraph,
        parallelism: u32,
    ) -> Result<Self, Failure> {
        for node in sources(graph) {
            if splits.contains_key(&node.identity) {
                continue;
            }
            let found = node.source.splits(parallelism);
            let found = found.map_err(|error| OperatorError::from(error).in_operator(&node.name));
            splits.insert(node.identity.clone(), found.map_err(|error| Failure::of_subtask(0, &error))?);
        }
        Ok(Self { version: INPUTS_VERSION, splits, of: None })
    }
}

/// What attempts before this one have found for the sources whose start is fixed once.
async fn fixed(
    graph: &JobGraph,
    store: &JobStore,
    attempt: Attempt,
    of: &Of,
) -> Result<BTreeMap<String, Vec<Value>>, Failure> {
    let once = || sources(graph).filter(|node| node.source.starts_once()).map(|node| &node.identity);
    // Without a uid nobody can tell whose attempts were before.
    if of.uid.is_empty() || once().next().is_none() {
        return Ok(BTreeMap::new());
    }
    let listed = store.list(paths::INPUTS).await?;
    let before = |path: &String| match paths::parse(path) {
        Some(Object::Inputs(of, _)) if of < attempt => Some(of),
        _ => None,
    };
    let earlier = listed.into_iter().map(|stored| stored.path).filter_map(|path| Some((before(&path)?, path)));
    let Some((_, path)) = earlier.max() else { return Ok(BTreeMap::new()) };
    let bytes = store.get(&path).await?;
    let mut inputs: Inputs = decode(&path, &bytes, INPUTS_VERSION).map_err(|error| Failure::io(&error))?;
    if inputs.of.as_ref() != Some(of) {
        return Ok(BTreeMap::new());
    }
    inputs.splits.retain(|identity, _| once().any(|once| once == identity));
    Ok(inputs.splits)
}

/// What the subtasks of `attempt` have to read: the same for each of its workers, as `peers` lists them.
pub(crate) async fn agree(
    graph: &Arc<JobGraph>,
    store: &JobStore,
    attempt: Attempt,
    parallelism: u32,
    peers: &[Peer],
    of: Of,
) -> Result<Inputs, Failure> {
    let known = fixed(graph, store, attempt, &of).await?;
    let found = {
        let graph = Arc::clone(graph);
        blocking(move || Inputs::look_beside(known, &graph, parallelism)).await?
    };
    let found = Inputs { of: Some(of), ..found };
    let first = match peers {
        [] => return Ok(found),
        [_] if sources(graph).all(|node| !node.source.starts_once()) => return Ok(found),
        [first, ..] => first,
    };
    // With a process's id in its name: an attempt of this number may have been before, of a job that was deleted.
    let path = paths::inputs(attempt, &WorkerId(first.worker.clone()));
    match store.create(&path, encode(&found).into()).await? {
        Created::New | Created::Same => Ok(found),
        // One that cannot be read is this attempt's alone: the next writes its own.
        Created::Taken(first) => decode(&path, &first, INPUTS_VERSION).map_err(|error| Failure::io(&error)),
    }
}
