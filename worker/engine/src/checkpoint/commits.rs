//! Pending commits of one worker: what its sinks have cut and no record is known to cover, and what was dealt to it at a
//! restore. They stand in every part until their commit has been carried out.
//!
//! A commit publishes everything up to its id. It may be told again at any time, and then finds nothing left to do. What was
//! published stands in this worker's latest part still; once a record stands whose part does not carry it, no restore brings
//! it again, and the sink may forget it.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use parking_lot::Mutex;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use weir_protocol::{
    CheckpointId,
    part::{Item, ItemKind},
    settings::FailureKind,
};

use crate::{
    api::{
        counters::Counter,
        error::SinkError,
        failure::{Failure, chain},
        sink::Committer,
    },
    restore::deal::{PendingCommit, PendingCommits},
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

/// What is published and may come again, since a record may name it.
struct Published {
    operator: String,
    value: Value,
    /// The last part that carries it.
    carried: CheckpointId,
}

/// The table.
pub struct Commits {
    committers: Committers,
    pending: PendingCommits,
    published: Vec<Published>,
    /// The highest id whose record is known to exist.
    wanted: Option<CheckpointId>,
    /// The id that a [`CommitJob`] is carrying out.
    running: Option<CheckpointId>,
    /// The checkpoint of the last part that was made, or that was restored.
    parted: CheckpointId,
    /// Lost output is given up.
    accepts_lost: bool,
    stats: Arc<CommitStats>,
}

impl Commits {
    /// With what was dealt to this worker at a restore, of the record of checkpoint `parted`. `accepts_lost`: output that is
    /// lost is given up, and only told of.
    pub fn new(committers: Committers, pending: PendingCommits, parted: CheckpointId, accepts_lost: bool) -> Self {
        let commits = Self {
            committers,
            pending,
            published: Vec::new(),
            wanted: None,
            running: None,
            parted,
            accepts_lost,
            stats: Arc::default(),
        };
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

    /// The part of checkpoint `id` has been made of [`Self::items`].
    pub fn parted(&mut self, id: CheckpointId) {
        self.parted = self.parted.max(id);
    }

    /// The record of `id` exists. Gives the job to spawn, unless one is running: then the next follows it.
    pub fn commit(&mut self, id: CheckpointId) -> Option<CommitJob> {
        self.wanted = self.wanted.max(Some(id));
        self.next_job()
    }

    /// The record of `id` exists: what its part does not carry comes no more. Gives what is to be forgotten, by committer.
    pub fn recorded(&mut self, id: CheckpointId) -> Vec<(Arc<dyn Committer>, Vec<Value>)> {
        let mut forgotten: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for published in self.published.extract_if(.., |published| published.carried < id) {
            forgotten.entry(published.operator).or_default().push(published.value);
        }
        let committer = |operator: &str| self.committers.get(operator).map(Arc::clone);
        forgotten.into_iter().filter_map(|(operator, values)| Some((committer(&operator)?, values))).collect()
    }

    /// A job is done: all up to its id is published. Gives the next one if more was wanted meanwhile.
    pub fn done(&mut self, id: CheckpointId) -> Option<CommitJob> {
        self.running = None;
        let carried = self.parted;
        for (operator, pending) in &mut self.pending {
            let done = pending.extract_if(.., |pending| pending.checkpoint <= id);
            self.published.extend(done.map(|done| Published {
                operator: operator.clone(),
                value: done.value,
                carried,
            }));
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
        let mut shares: BTreeMap<(CheckpointId, &String), Share> = BTreeMap::new();
        for (operator, pending) in &self.pending {
            let Some(committer) = self.committers.get(operator) else { continue };
            for due in pending.iter().filter(|pending| pending.checkpoint <= id) {
                let share = shares.entry((due.checkpoint, operator)).or_insert_with(|| Share {
                    operator: operator.clone(),
                    checkpoint: due.checkpoint,
                    committer: Arc::clone(committer),
                    values: Vec::new(),
                });
                share.values.push(due.value.clone());
            }
        }
        let shares = shares.into_values().collect();
        Some(CommitJob { id, shares, accepts_lost: self.accepts_lost, stats: Arc::clone(&self.stats) })
    }
}

/// What one sink has cut for one checkpoint.
struct Share {
    operator: String,
    checkpoint: CheckpointId,
    committer: Arc<dyn Committer>,
    values: Vec<Value>,
}

/// What became of one try at a [`Share`].
enum Tried {
    Published,
    Again(SinkError),
    Failed(Failure),
}

impl Share {
    async fn publish(&self, accepts_lost: bool) -> Tried {
        let Self { operator, checkpoint, committer, values } = self;
        let failed = |failure: Failure| Tried::Failed(Failure { operator: operator.clone(), ..failure });
        // Connectors may be a user's own code.
        match AssertUnwindSafe(async { committer.commit(values).await }).catch_unwind().await {
            Ok(Ok(())) => Tried::Published,
            Ok(Err(error)) if error.kind == FailureKind::OutputLost => {
                let what = chain(&error);
                if accepts_lost {
                    tracing::warn!(%checkpoint, operator, what, "output is lost, and given up as asked for");
                    return Tried::Published;
                }
                let message = format!("output of checkpoint {checkpoint} cannot be published: {what}");
                failed(Failure::new(FailureKind::OutputLost, message))
            }
            Ok(Err(error)) => Tried::Again(error),
            Err(panic) => failed(Failure::panicked(&format!("the commit of checkpoint {checkpoint}"), &*panic)),
        }
    }
}

/// How a [`CommitJob`] ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitEnd {
    /// All is published.
    Published,
    /// The attempt is over; a later one does it.
    Stopped,
    /// It cannot be done; all else is published. The attempt has failed.
    Failed(Failure),
}

/// Publishes everything up to one id.
pub struct CommitJob {
    /// Up to here.
    pub id: CheckpointId,
    /// The oldest first.
    shares: Vec<Share>,
    accepts_lost: bool,
    stats: Arc<CommitStats>,
}

impl CommitJob {
    /// Tries until all is published, or the attempt is stopped, or what is left cannot be published.
    pub async fn run(mut self, stopped: CancellationToken) -> CommitEnd {
        let mut wait = FIRST_WAIT;
        loop {
            let (mut again, mut why, mut failure) = (Vec::new(), None, None);
            for share in self.shares {
                match share.publish(self.accepts_lost).await {
                    Tried::Published => {}
                    Tried::Failed(failed) => drop(failure.get_or_insert(failed)),
                    Tried::Again(error) => {
                        let (error, operator) = (chain(&error), &share.operator);
                        tracing::warn!(checkpoint = %self.id, operator, error, "a commit failed and is repeated");
                        why = Some(format!("{operator}: {error}"));
                        again.push(share);
                    }
                }
            }
            self.stats.tried(why);
            if let Some(failure) = failure {
                return CommitEnd::Failed(failure);
            }
            if again.is_empty() {
                return CommitEnd::Published;
            }
            self.shares = again;
            tokio::select! {
                () = stopped.cancelled() => return CommitEnd::Stopped,
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
    struct Output {
        all: Mutex<Vec<Value>>,
        forgotten: Mutex<Vec<Value>>,
        fail: AtomicUsize,
        /// What is not there any more.
        lost: Option<&'static str>,
        /// It has a fault.
        panics: bool,
    }

    #[async_trait::async_trait]
    impl Committer for Output {
        async fn commit(&self, pending: &[Value]) -> Result<(), SinkError> {
            if self.fail.load(Ordering::SeqCst) > 0 {
                self.fail.fetch_sub(1, Ordering::SeqCst);
                return Err(SinkError::io("not now"));
            }
            assert!(!self.panics, "the connector's own fault");
            let lost = |value: &&Value| value.as_str() == self.lost;
            self.all.lock().extend(pending.iter().filter(|value| !lost(value)).cloned());
            match pending.iter().find(lost) {
                Some(lost) => Err(SinkError::new(FailureKind::OutputLost, format!("{lost} is lost"))),
                None => Ok(()),
            }
        }

        async fn clean(&self, _keep: &[Value]) -> Result<(), SinkError> {
            Ok(())
        }

        async fn forget(&self, published: &[Value]) {
            self.forgotten.lock().extend_from_slice(published);
        }
    }

    fn table(published: &Arc<Output>, pending: &[(u64, &str)]) -> Commits {
        table_that(published, pending, false)
    }

    fn table_that(published: &Arc<Output>, pending: &[(u64, &str)], accepts_lost: bool) -> Commits {
        let committer: Arc<dyn Committer> = Arc::clone(published) as _;
        let committers = Committers::from([("sink".to_string(), committer)]);
        let mut commits = Commits::new(committers, PendingCommits::new(), CheckpointId(0), accepts_lost);
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
        let published = Arc::new(Output::default());
        let mut commits = table(&published, &[(3, "a"), (4, "b"), (5, "c")]);
        let job = commits.commit(CheckpointId(4)).unwrap();
        assert_eq!(job.run(CancellationToken::new()).await, CommitEnd::Published);
        assert!(commits.done(CheckpointId(4)).is_none());
        assert_eq!(*published.all.lock(), [json!("a"), json!("b")]);
        let again = commits.commit(CheckpointId(4)).unwrap();
        assert_eq!(again.run(CancellationToken::new()).await, CommitEnd::Published);
        assert_eq!(published.all.lock().len(), 2);
    }

    #[tokio::test]
    async fn what_is_pending_stands_in_every_part_until_its_commit_is_done() {
        let published = Arc::new(Output::default());
        let mut commits = table(&published, &[(3, "a"), (4, "b")]);
        assert_eq!((carried(&commits, 3), carried(&commits, 4), carried(&commits, 5)), (1, 2, 2));
        let job = commits.commit(CheckpointId(3)).unwrap();
        assert_eq!(carried(&commits, 5), 2, "told is not done");
        assert_eq!(job.run(CancellationToken::new()).await, CommitEnd::Published);
        commits.done(CheckpointId(3));
        assert_eq!(carried(&commits, 5), 1);
    }

    #[tokio::test]
    async fn a_commit_that_comes_during_another_follows_it() {
        let published = Arc::new(Output::default());
        let mut commits = table(&published, &[(3, "a"), (4, "b")]);
        let first = commits.commit(CheckpointId(3)).unwrap();
        assert!(commits.commit(CheckpointId(4)).is_none());
        assert_eq!(first.run(CancellationToken::new()).await, CommitEnd::Published);
        let second = commits.done(CheckpointId(3)).unwrap();
        assert_eq!(second.id, CheckpointId(4));
        assert_eq!(second.run(CancellationToken::new()).await, CommitEnd::Published);
        assert!(commits.done(CheckpointId(4)).is_none());
        assert_eq!(*published.all.lock(), [json!("a"), json!("b")]);
    }

    #[tokio::test]
    async fn a_commit_that_fails_is_repeated_until_it_succeeds() {
        let published = Arc::new(Output { fail: AtomicUsize::new(2), ..Output::default() });
        let mut commits = table(&published, &[(3, "a")]);
        let stats = Arc::clone(commits.stats());
        assert_eq!((stats.failed(), stats.pending(), stats.failing()), (0, 1, None));
        let job = commits.commit(CheckpointId(3)).unwrap();
        let mut running = std::pin::pin!(job.run(CancellationToken::new()));
        assert!(futures::poll!(&mut running).is_pending());
        assert_eq!((stats.failed(), stats.failing()), (1, Some("sink: not now".to_string())));
        assert_eq!(running.await, CommitEnd::Published);
        assert_eq!(*published.all.lock(), [json!("a")]);
        commits.done(CheckpointId(3));
        assert_eq!((stats.failed(), stats.pending(), stats.failing()), (2, 0, None));
    }

    #[tokio::test]
    async fn lost_output_ends_the_attempt_and_all_else_is_published_first() {
        let published = Arc::new(Output { lost: Some("b"), ..Output::default() });
        let mut commits = table(&published, &[(3, "a"), (4, "b"), (5, "c")]);
        let job = commits.commit(CheckpointId(5)).unwrap();
        let CommitEnd::Failed(failure) = job.run(CancellationToken::new()).await else { panic!("it is lost") };
        assert_eq!((failure.kind, failure.operator.as_str()), (FailureKind::OutputLost, "sink"));
        assert!(failure.kind.is_fatal(), "a restart would find the same");
        assert_eq!(failure.message, "output of checkpoint 4 cannot be published: \"b\" is lost");
        assert_eq!(*published.all.lock(), [json!("a"), json!("c")]);
        assert_eq!(carried(&commits, 5), 3, "nothing counts as done");
    }

    #[tokio::test]
    async fn lost_output_is_given_up_where_that_is_asked_for() {
        let published = Arc::new(Output { lost: Some("b"), ..Output::default() });
        let mut commits = table_that(&published, &[(3, "a"), (4, "b"), (5, "c")], true);
        let job = commits.commit(CheckpointId(5)).unwrap();
        assert_eq!(job.run(CancellationToken::new()).await, CommitEnd::Published);
        assert!(commits.done(CheckpointId(5)).is_none());
        assert_eq!((published.all.lock().len(), carried(&commits, 5)), (2, 0));
    }

    #[tokio::test]
    async fn a_panic_in_a_connectors_commit_is_a_failure_that_says_so() {
        let published = Arc::new(Output { panics: true, ..Output::default() });
        let mut commits = table(&published, &[(3, "a")]);
        let job = commits.commit(CheckpointId(3)).unwrap();
        let CommitEnd::Failed(failure) = job.run(CancellationToken::new()).await else { panic!("it panicked") };
        assert_eq!((failure.kind, failure.operator.as_str()), (FailureKind::Operator, "sink"));
        assert_eq!(failure.message, "the commit of checkpoint 3 panicked: the connector's own fault");
    }

    #[tokio::test]
    async fn what_is_published_is_forgotten_once_a_record_stands_that_does_not_carry_it() {
        let published = Arc::new(Output::default());
        let mut commits = table(&published, &[(3, "a"), (4, "b")]);
        let publish = async |commits: &mut Commits, id: u64| {
            let job = commits.commit(CheckpointId(id)).unwrap();
            assert_eq!(job.run(CancellationToken::new()).await, CommitEnd::Published);
            commits.done(CheckpointId(id));
        };
        let forgotten = |commits: &mut Commits, id: u64| -> Vec<Value> {
            commits.recorded(CheckpointId(id)).into_iter().flat_map(|(_, values)| values).collect()
        };
        commits.parted(CheckpointId(4));
        publish(&mut commits, 3).await;
        // The record of 4 carries it still, and so does a part that was made meanwhile.
        assert!(forgotten(&mut commits, 4).is_empty());
        commits.parted(CheckpointId(5));
        publish(&mut commits, 4).await;
        assert_eq!(forgotten(&mut commits, 5), [json!("a")]);
        assert_eq!(forgotten(&mut commits, 6), [json!("b")]);
        assert!(forgotten(&mut commits, 7).is_empty());
    }
}
