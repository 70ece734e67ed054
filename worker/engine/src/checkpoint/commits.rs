//! Pending commits of one worker: what its sinks have cut and no record is known to cover, and what was dealt to it at a
//! restore. They stand in every part until their commit has been carried out.
//!
//! A commit publishes everything up to its id. It may be told again at any time, and then finds nothing left to do.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use weir_protocol::{
    CheckpointId,
    part::{Item, ItemKind},
};

use crate::{
    api::{counters::Counter, failure::chain, sink::Committer},
    deploy::restore::{PendingCommit, PendingCommits},
};

/// Committers by their sink's identity.
pub type Committers = BTreeMap<String, Arc<dyn Committer>>;

/// The first wait after a failed commit. It doubles up to [`LONGEST_WAIT`]: what a record names must be published sometime.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How commits fare in one attempt, for whoever watches.
#[derive(Debug, Default)]
pub struct CommitStats {
    failed: Counter,
    pending: AtomicUsize,
    failing: Mutex<Option<String>>,
}

impl CommitStats {
    /// Tries that failed. Each is tried again.
    pub fn failed(&self) -> u64 {
        self.failed.get()
    }

    /// Pre-commits that wait for their commit.
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Why the newest try failed; `None` once one has succeeded.
    pub fn failing(&self) -> Option<String> {
        self.failing.lock().clone()
    }

    fn tried(&self, failure: Option<String>) {
        if failure.is_some() {
            self.failed.add(1);
        }
        *self.failing.lock() = failure;
    }
}

/// The table.
pub struct Commits {
    committers: Committers,
    pending: PendingCommits,
    /// The highest id whose record is known to exist.
    wanted: Option<CheckpointId>,
    /// The id that a [`CommitJob`] is carrying out.
    running: Option<CheckpointId>,
    stats: Arc<CommitStats>,
}

impl Commits {
    /// With what was dealt to this worker at a restore.
    pub fn new(committers: Committers, pending: PendingCommits) -> Self {
        let commits = Self { committers, pending, wanted: None, running: None, stats: Arc::default() };
        commits.count();
        commits
    }

    /// How commits fare.
    pub fn stats(&self) -> &Arc<CommitStats> {
        &self.stats
    }

    fn count(&self) {
        self.stats.pending.store(self.pending.values().map(Vec::len).sum(), Ordering::Relaxed);
    }

    /// A sink has cut a transaction.
    pub fn add(&mut self, operator: String, pending: PendingCommit) {
        self.pending.entry(operator).or_default().push(pending);
        self.count();
    }

    /// What a part of checkpoint `id` carries on, by operator.
    pub fn items(&self, id: CheckpointId) -> impl Iterator<Item = (&str, Vec<Item>)> {
        let item = |pending: &PendingCommit| Item {
            kind: ItemKind::Commit,
            value: serde_json::to_value(pending).unwrap_or_default(),
        };
        self.pending.iter().map(move |(operator, pending)| {
            (operator.as_str(), pending.iter().filter(|pending| pending.checkpoint <= id).map(item).collect())
        })
    }

    /// The record of `id` exists. Gives the job to spawn, unless one is running: then the next follows it.
    pub fn commit(&mut self, id: CheckpointId) -> Option<CommitJob> {
        self.wanted = self.wanted.max(Some(id));
        self.next_job()
    }

    /// A job is done: all up to its id is published. Gives the next one if more was wanted meanwhile.
    pub fn done(&mut self, id: CheckpointId) -> Option<CommitJob> {
        self.running = None;
        for pending in self.pending.values_mut() {
            pending.retain(|pending| pending.checkpoint > id);
        }
        self.count();
        if self.wanted > Some(id) { self.next_job() } else { None }
    }

    fn next_job(&mut self) -> Option<CommitJob> {
        let id = self.wanted?;
        if self.running.is_some() {
            return None;
        }
        self.running = Some(id);
        let share = |(operator, pending): (&String, &Vec<PendingCommit>)| {
            let due = pending.iter().filter(|pending| pending.checkpoint <= id);
            let values: Vec<Value> = due.map(|pending| pending.value.clone()).collect();
            let committer = self.committers.get(operator)?;
            (!values.is_empty()).then(|| (operator.clone(), Arc::clone(committer), values))
        };
        let shares = self.pending.iter().filter_map(share).collect();
        Some(CommitJob { id, shares, stats: Arc::clone(&self.stats) })
    }
}

/// Publishes everything up to one id.
pub struct CommitJob {
    /// Up to here.
    pub id: CheckpointId,
    shares: Vec<(String, Arc<dyn Committer>, Vec<Value>)>,
    stats: Arc<CommitStats>,
}

impl CommitJob {
    /// Tries until all is published, or the attempt is stopped: then `false`, and a later attempt does it.
    pub async fn run(mut self, stopped: CancellationToken) -> bool {
        let mut wait = FIRST_WAIT;
        loop {
            let mut failed = Vec::new();
            let mut why = None;
            for (operator, committer, values) in self.shares {
                if let Err(error) = committer.commit(&values).await {
                    let error = chain(&error);
                    tracing::warn!(checkpoint = %self.id, operator, error, "a commit failed and is repeated");
                    why = Some(format!("{operator}: {error}"));
                    failed.push((operator, committer, values));
                }
            }
            self.stats.tried(why);
            if failed.is_empty() {
                return true;
            }
            self.shares = failed;
            tokio::select! {
                () = stopped.cancelled() => return false,
                () = tokio::time::sleep(wait) => wait = (2 * wait).min(LONGEST_WAIT),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::error::SinkError;

    #[derive(Default)]
    struct Published {
        all: Mutex<Vec<Value>>,
        fail: AtomicUsize,
    }

    #[async_trait::async_trait]
    impl Committer for Published {
        async fn commit(&self, pending: &[Value]) -> Result<(), SinkError> {
            if self.fail.load(Ordering::SeqCst) > 0 {
                self.fail.fetch_sub(1, Ordering::SeqCst);
                return Err(SinkError::io("not now"));
            }
            self.all.lock().extend_from_slice(pending);
            Ok(())
        }

        async fn clean(&self, _keep: &[Value]) -> Result<(), SinkError> {
            Ok(())
        }
    }

    fn table(published: &Arc<Published>, pending: &[(u64, &str)]) -> Commits {
        let committer: Arc<dyn Committer> = Arc::clone(published) as _;
        let mut commits = Commits::new([("sink".to_string(), committer)].into(), PendingCommits::new());
        for (id, name) in pending {
            commits.add("sink".into(), PendingCommit { checkpoint: CheckpointId(*id), value: json!(name) });
        }
        commits
    }

    fn carried(commits: &Commits, id: u64) -> usize {
        commits.items(CheckpointId(id)).map(|(_, items)| items.len()).sum()
    }

    #[tokio::test]
    async fn a_commit_publishes_all_up_to_its_id_and_a_second_one_nothing() {
        let published = Arc::new(Published::default());
        let mut commits = table(&published, &[(3, "a"), (4, "b"), (5, "c")]);
        let job = commits.commit(CheckpointId(4)).unwrap();
        assert!(job.run(CancellationToken::new()).await);
        assert!(commits.done(CheckpointId(4)).is_none());
        assert_eq!(*published.all.lock(), [json!("a"), json!("b")]);
        let again = commits.commit(CheckpointId(4)).unwrap();
        assert!(again.run(CancellationToken::new()).await);
        assert_eq!(published.all.lock().len(), 2);
    }

    #[tokio::test]
    async fn what_is_pending_stands_in_every_part_until_its_commit_is_done() {
        let published = Arc::new(Published::default());
        let mut commits = table(&published, &[(3, "a"), (4, "b")]);
        assert_eq!((carried(&commits, 3), carried(&commits, 4), carried(&commits, 5)), (1, 2, 2));
        let job = commits.commit(CheckpointId(3)).unwrap();
        assert_eq!(carried(&commits, 5), 2, "told is not done");
        assert!(job.run(CancellationToken::new()).await);
        commits.done(CheckpointId(3));
        assert_eq!(carried(&commits, 5), 1);
    }

    #[tokio::test]
    async fn a_commit_that_comes_during_another_follows_it() {
        let published = Arc::new(Published::default());
        let mut commits = table(&published, &[(3, "a"), (4, "b")]);
        let first = commits.commit(CheckpointId(3)).unwrap();
        assert!(commits.commit(CheckpointId(4)).is_none());
        assert!(first.run(CancellationToken::new()).await);
        let second = commits.done(CheckpointId(3)).unwrap();
        assert_eq!(second.id, CheckpointId(4));
        assert!(second.run(CancellationToken::new()).await);
        assert!(commits.done(CheckpointId(4)).is_none());
        assert_eq!(*published.all.lock(), [json!("a"), json!("b")]);
    }

    #[tokio::test]
    async fn a_commit_that_fails_is_repeated_until_it_succeeds() {
        let published = Arc::new(Published { fail: AtomicUsize::new(2), ..Published::default() });
        let mut commits = table(&published, &[(3, "a")]);
        let stats = Arc::clone(commits.stats());
        assert_eq!((stats.failed(), stats.pending(), stats.failing()), (0, 1, None));
        let job = commits.commit(CheckpointId(3)).unwrap();
        let mut running = std::pin::pin!(job.run(CancellationToken::new()));
        assert!(futures::poll!(&mut running).is_pending());
        assert_eq!((stats.failed(), stats.failing()), (1, Some("sink: not now".to_string())));
        assert!(running.await);
        assert_eq!(*published.all.lock(), [json!("a")]);
        commits.done(CheckpointId(3));
        assert_eq!((stats.failed(), stats.pending(), stats.failing()), (2, 0, None));
    }
}
