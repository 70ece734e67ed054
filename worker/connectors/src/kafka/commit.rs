//! The second phase: what a record names is committed, by whoever is told, as often as it is told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use weir_engine::api::error::{FailureKind, SinkError};
use weir_engine::api::sink::Committer;
use weir_kafka::{Client, Ended, Identity, KafkaError, ListedTransaction, Transaction};
use weir_protocol::Attempt;
use weir_runtime::clock;

use super::ids::{Owner, Pools};

/// The form of a pending commit.
const VERSION: u32 = 1;
/// Transactions that are ended at once.
const AT_ONCE: usize = 16;
/// Within so long of its start an attempt looks with each commit for what earlier ones begin late, and then as often.
const STRAGGLERS: Duration = Duration::from_mins(1);
/// A commit waits no longer for that.
const SWEEP: Duration = Duration::from_secs(5);
/// Of so many that are lost the names are said; there may be hundreds.
const LOST_NAMED: usize = 3;

/// All that it takes to commit a transaction, but the keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Pending {
    kafka: u32,
    /// Some of the brokers.
    servers: Vec<String>,
    topic: String,
    transactional_id: String,
    producer_id: i64,
    producer_epoch: i16,
    /// The version of the request that ends it.
    end_version: i16,
}

impl Pending {
    pub(super) fn of(transaction: &Transaction, topic: &str, servers: &[String]) -> Self {
        Self {
            kafka: VERSION,
            servers: servers.to_vec(),
            topic: topic.to_string(),
            transactional_id: transaction.id.clone(),
            producer_id: transaction.producer.id,
            producer_epoch: transaction.producer.epoch,
            end_version: transaction.version,
        }
    }

    fn read(value: &serde_json::Value) -> Result<Self, SinkError> {
        let pending = Self::deserialize(value).map_err(|error| {
            SinkError::bad_input(format!("{value} is no pending commit of a Kafka table")).because(error)
        })?;
        if pending.kafka > VERSION {
            return Err(SinkError::bad_input(format!("{value} is a pending commit of a later build")));
        }
        Ok(pending)
    }

    fn transaction(&self) -> Transaction {
        Transaction {
            id: self.transactional_id.clone(),
            producer: Identity { id: self.producer_id, epoch: self.producer_epoch },
            version: self.end_version,
        }
    }
}

/// See the module.
pub(super) struct KafkaCommitter {
    pub(super) client: Client,
    pub(super) topic: String,
    /// The table is written in transactions.
    pub(super) transactional: bool,
    pub(super) owner: Owner,
    pub(super) attempt: Attempt,
    pub(super) timeout: Duration,
    pub(super) pools: Arc<Pools>,
    pub(super) sweeping: Sweeping,
}

/// What is known after the start: one committer of an attempt, which has cleaned, cleans again now and then.
///
/// A worker that was cut off, or told to stop a moment later than the others, may begin to write in a transaction after that, and the
/// last message of one that died may come late. Its rows are nobody's, and its transaction would hold up readers.
#[derive(Debug, Default)]
pub(super) struct Sweeping(Mutex<Option<Swept>>);

#[derive(Debug)]
struct Swept {
    keep: BTreeSet<String>,
    began: Instant,
    last: Instant,
}

impl Sweeping {
    fn begin(&self, keep: &BTreeSet<String>, now: Instant) {
        self.0.lock().replace(Swept { keep: keep.clone(), began: now, last: now });
    }

    /// What is to be kept, if it is time: with each commit at first, when the stragglers come, and then now and then.
    fn due(&self, now: Instant) -> Option<BTreeSet<String>> {
        let mut swept = self.0.lock();
        let swept = swept.as_mut()?;
        let is_due = now - swept.began < STRAGGLERS || now - swept.last >= STRAGGLERS;
        is_due.then(|| {
            swept.last = now;
            swept.keep.clone()
        })
    }
}

#[async_trait]
impl Committer for KafkaCommitter {
    async fn commit(&self, pending: &[serde_json::Value]) -> Result<(), SinkError> {
        let pending = pending.iter().map(Pending::read).collect::<Result<Vec<_>, _>>()?;
        let end = |pending| async move { (pending, self.client.end(&Pending::transaction(pending), true).await) };
        let ending: Vec<_> = pending.iter().map(end).collect();
        let ended: Vec<_> = futures::stream::iter(ending).buffer_unordered(AT_ONCE).collect().await;
        outcome(ended)?;
        self.sweep().await;
        Ok(())
    }

    /// Aborts what attempts before have left open, and no record names: it would hold up readers until its time-out.
    async fn clean(&self, keep: &[serde_json::Value]) -> Result<(), SinkError> {
        if !self.owner.known {
            return Ok(());
        }
        let keep = keep.iter().map(Pending::read).collect::<Result<Vec<_>, _>>()?;
        if !self.transactional && keep.is_empty() {
            return Ok(());
        }
        let keep: BTreeSet<_> = keep.into_iter().map(|pending| pending.transactional_id).collect();
        let open = match self.client.open_transactions(&self.owner.prefix).await {
            Ok(open) => open,
            Err(error) if error.is_transient() => return Err(self.failed(&error)),
            Err(error) => {
                tracing::warn!(topic = self.topic, %error, "what earlier attempts have left open cannot be listed, and holds up readers until its time-out");
                return Ok(());
            }
        };
        self.abort(open, &keep).await.map_err(|error| self.failed(&error))?;
        self.sweeping.begin(&keep, clock::now());
        Ok(())
    }

    async fn forget(&self, published: &[serde_json::Value]) {
        for pending in published.iter().filter_map(|value| Pending::read(value).ok()) {
            self.pools.release(&pending.transactional_id);
        }
    }

    fn understands(&self, pending: &serde_json::Value) -> bool {
        Pending::read(pending).is_ok_and(|pending| pending.servers == self.client.settings().bootstrap)
    }
}

impl KafkaCommitter {
    /// Aborts what came after this attempt had cleaned. What is committed stays so whatever becomes of this.
    async fn sweep(&self) {
        let Some(keep) = self.sweeping.due(clock::now()) else { return };
        let swept = tokio::time::timeout(SWEEP, async {
            let open = self.client.open_transactions_now(&self.owner.prefix).await?;
            self.abort(open, &keep).await
        });
        if let Err(error) =
            swept.await.unwrap_or_else(|_| Err(KafkaError::refusal(format!("no answer within {SWEEP:?}"))))
        {
            tracing::debug!(topic = self.topic, %error, "whether an earlier attempt has left a transaction open is looked at again later");
        }
    }

    /// Aborts those of these that nobody will ever commit.
    async fn abort(&self, open: Vec<ListedTransaction>, keep: &BTreeSet<String>) -> Result<(), KafkaError> {
        for id in lingering(open.into_iter().map(|open| open.id), &self.owner, self.attempt, keep) {
            tracing::info!(topic = self.topic, id, "a transaction that an earlier attempt has left open is aborted");
            // Whoever begins with a name aborts what is open under it, and shuts out whoever began before.
            self.client.begin(&id, self.timeout).await?;
        }
        Ok(())
    }

    fn failed(&self, error: &KafkaError) -> SinkError {
        failed(error, &self.topic)
    }
}

/// Of the transactions that are open those that nobody will ever commit.
fn lingering(
    open: impl Iterator<Item = String>,
    owner: &Owner,
    attempt: Attempt,
    keep: &BTreeSet<String>,
) -> Vec<String> {
    open.filter(|id| owner.attempt_of(id).is_some_and(|of| of < attempt) && !keep.contains(id)).collect()
}

/// As the engine tells it: writing is tried again by the next attempt, whatever it was.
pub(super) fn failed(error: &KafkaError, topic: &str) -> SinkError {
    SinkError::io(format!("writing to topic {topic}: {error}"))
}

/// What failed is tried again; what is lost counts only where all else is committed.
fn outcome(ended: Vec<(&Pending, Result<Ended, KafkaError>)>) -> Result<(), SinkError> {
    let mut lost = Vec::new();
    for (pending, ended) in ended {
        match ended {
            Ok(Ended::Done) => {}
            Ok(Ended::Otherwise(why)) => lost.push((pending, why)),
            Err(error) => return Err(failed(&error, &pending.topic)),
        }
    }
    if lost.is_empty() {
        return Ok(());
    }
    let named = lost.iter().take(LOST_NAMED).map(|(pending, why)| {
        format!(
            "rows of topic {} in transaction {} (producer {}, epoch {}): {why}",
            pending.topic, pending.transactional_id, pending.producer_id, pending.producer_epoch
        )
    });
    let named = named.collect::<Vec<_>>().join("; ");
    let more = lost.len().saturating_sub(LOST_NAMED);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    Err(SinkError::new(FailureKind::OutputLost, format!("{named}{more}")))
}

#[cfg(test)]
mod tests {
    use weir_engine::api::sink::OutputOwner;

    use super::*;

    fn pending(id: &str) -> Pending {
        let producer = Identity { id: 7, epoch: 3 };
        Pending::of(&Transaction { id: id.to_string(), producer, version: 5 }, "orders", &["a:9092".to_string()])
    }

    #[test]
    fn a_pending_commit_is_read_as_it_was_written_and_a_later_builds_is_refused() {
        let text = r#"{"kafka":1,"servers":["a:9092"],"topic":"orders","transactionalId":"t","producerId":7,"producerEpoch":3,"endVersion":5}"#;
        assert_eq!(serde_json::to_string(&pending("t")).unwrap(), text);
        assert_eq!(Pending::read(&serde_json::from_str(text).unwrap()).unwrap(), pending("t"));
        let later = text.replace("\"kafka\":1", "\"kafka\":2");
        assert!(Pending::read(&serde_json::from_str(&later).unwrap()).unwrap_err().to_string().contains("later build"));
        assert!(Pending::read(&serde_json::json!({"unfinished": "x"})).is_err());
    }

    #[test]
    fn what_is_lost_is_told_with_topic_and_transaction_and_only_once_nothing_is_to_be_tried_again() {
        let all = ["a", "b", "c", "d", "e"].map(pending);
        let lost = |pending| (pending, Ok(Ended::Otherwise("transaction x was aborted".to_string())));
        let error = outcome(all.iter().map(lost).collect()).unwrap_err();
        assert_eq!(error.kind, FailureKind::OutputLost);
        let text = error.to_string();
        assert!(text.starts_with("rows of topic orders in transaction a (producer 7, epoch 3): "), "{text}");
        assert!(text.ends_with("and 2 more"), "{text}");
        let broken = (&all[0], Err(KafkaError::refusal("not now")));
        let error = outcome(vec![lost(&all[1]), broken]).unwrap_err();
        assert_eq!(error.kind, FailureKind::Io, "it is tried again, and then what is lost is told");
        assert!(outcome(vec![(&all[0], Ok(Ended::Done))]).is_ok());
    }

    #[test]
    fn what_comes_late_is_looked_for_with_each_commit_at_first_and_then_now_and_then() {
        let (sweeping, began) = (Sweeping::default(), Instant::now());
        assert_eq!(sweeping.due(began), None, "only who cleaned cleans again");
        let keep: BTreeSet<_> = ["kept".to_string()].into();
        sweeping.begin(&keep, began);
        let due: Vec<_> = [0, 1, 59, 60, 61, 118, 119, 120, 178, 179]
            .into_iter()
            .filter(|second| sweeping.due(began + Duration::from_secs(*second)).is_some_and(|kept| kept == keep))
            .collect();
        assert_eq!(due, [0, 1, 59, 119, 179]);
    }

    #[test]
    fn only_what_lower_attempts_of_this_owner_left_and_no_record_names_is_aborted() {
        let run = |uid: &str| OutputOwner { uid: uid.to_string(), ..OutputOwner::default() };
        let (ours, theirs) = (Owner::new("weir", &run("u"), "s"), Owner::new("weir", &run("v"), "s"));
        let id = |owner: &Owner, attempt| format!("{}0", owner.writer(Attempt(attempt), "w", 0));
        let kept = id(&ours, 4).replace("-w-", "-x-");
        let open = [id(&ours, 3), id(&ours, 4), kept.clone(), id(&ours, 5), id(&ours, 6), id(&theirs, 3)];
        let aborted = lingering(open.into_iter(), &ours, Attempt(5), &[kept].into());
        assert_eq!(aborted, [id(&ours, 3), id(&ours, 4)]);
    }
}
