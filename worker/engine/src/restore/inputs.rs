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
    restore::blocking,
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
    /// For whom they were found. Version 1, which did not say it, served its own attempt alone.
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
    // One of another build does not say whose it is, or says it in other words.
    let Ok(mut inputs) = decode::<Inputs>(&path, &bytes, INPUTS_VERSION) else { return Ok(BTreeMap::new()) };
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use serde_json::json;
    use weir_protocol::{JobName, settings::StorageSettings};

    use super::*;
    use crate::{Source, SourceContext, SourceError, SourceFactory, testing::counting_graph};

    /// What goes on growing, such as a topic: each look finds its end further on.
    struct Topic {
        end: AtomicI64,
        once: bool,
    }

    impl SourceFactory for Topic {
        fn splits(&self, _parallelism: u32) -> Result<Vec<Value>, SourceError> {
            Ok(vec![json!(self.end.fetch_add(10, Ordering::Relaxed))])
        }

        fn create(&self, _ctx: &SourceContext) -> Result<Box<dyn Source>, SourceError> {
            Err(SourceError::bad_input("nobody reads it here"))
        }

        fn bounded(&self) -> bool {
            false
        }

        fn starts_once(&self) -> bool {
            self.once
        }
    }

    struct Job {
        store: JobStore,
        graph: Arc<JobGraph>,
        _folder: tempfile::TempDir,
    }

    impl Job {
        fn new(once: bool) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let url = format!("file://{}/store", folder.path().display());
            let name = JobName { namespace: "default".into(), name: "topic".into() };
            let store = JobStore::open(&StorageSettings { url, endpoint: None, region: None }, &name).unwrap();
            let mut graph = counting_graph(1, 1);
            if let StageHead::Source(node) = &mut graph.stages[0].head {
                node.source = Arc::new(Topic { end: AtomicI64::new(0), once });
            }
            Self { store, graph: Arc::new(graph), _folder: folder }
        }

        fn of(&self, restores: Option<u64>) -> Of {
            let owner = OutputOwner { uid: "u".into(), ..OutputOwner::default() };
            Of::new(&owner, &self.graph, restores.map(CheckpointId), None)
        }

        /// Where a worker of an attempt, which has so many, begins to read.
        async fn begins(&self, attempt: u64, workers: usize, of: Of) -> i64 {
            let peer = |n| Peer { worker: format!("w{attempt}{n}"), ..Peer::default() };
            let peers: Vec<_> = (0..workers).map(peer).collect();
            let inputs = agree(&self.graph, &self.store, Attempt(attempt), 1, &peers, of).await.unwrap();
            inputs.splits["source"][0].as_i64().unwrap()
        }
    }

    #[tokio::test]
    async fn a_start_that_is_fixed_once_holds_for_the_attempts_that_follow() {
        let job = Job::new(true);
        assert_eq!(job.begins(1, 1, job.of(None)).await, 0);
        assert_eq!(job.begins(2, 2, job.of(None)).await, 0, "it failed before its first checkpoint");
        assert_eq!(job.begins(2, 2, job.of(None)).await, 0, "its other worker");
        assert_eq!(job.begins(4, 1, job.of(None)).await, 0);
        assert_eq!(job.begins(5, 1, job.of(Some(7))).await, 10, "another restore has other positions");
        assert_eq!(job.begins(6, 1, job.of(Some(7))).await, 10);
        let anew = Of { leaves: Some(CheckpointId(9)), ..job.of(None) };
        assert_eq!(job.begins(7, 1, anew).await, 20, "told to start from nothing");
        let edited = Of { fingerprint: "another".into(), ..job.of(None) };
        assert_eq!(job.begins(8, 1, edited).await, 30, "another plan");
        let elsewhere = Of { uid: "v".into(), ..job.of(None) };
        assert_eq!(job.begins(9, 1, elsewhere).await, 40, "another run");
    }

    #[tokio::test]
    async fn what_may_be_looked_at_again_is() {
        let job = Job::new(false);
        assert_eq!(job.begins(1, 2, job.of(None)).await, 0);
        assert_eq!(job.begins(1, 2, job.of(None)).await, 0, "what the first of an attempt has found holds for all");
        assert_eq!(job.begins(2, 2, job.of(None)).await, 20, "a file that was bad may have been corrected");
    }

    #[tokio::test]
    async fn what_another_build_has_found_serves_its_own_attempt_alone() {
        let job = Job::new(true);
        let first = r#"{"version":1,"splits":{"source":[77]}}"#;
        let path = paths::inputs(Attempt(1), &WorkerId("w10".into()));
        job.store.create(&path, first.into()).await.unwrap();
        assert_eq!(job.begins(2, 1, job.of(None)).await, 0);
    }

    #[test]
    fn inputs_are_read_as_they_were_written() {
        let text = r#"{"version":2,"splits":{"source":[0]},"of":{"uid":"u","cluster":"c","fingerprint":"f","restores":null,"leaves":4}}"#;
        let inputs: Inputs = decode("inputs/2", text.as_bytes(), INPUTS_VERSION).unwrap();
        assert_eq!(serde_json::to_string(&inputs).unwrap(), text);
    }
}
