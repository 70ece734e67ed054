//! Transactions, which any process may end: id, producer id and epoch are all that it takes.
//!
//! An answer that was lost is asked for again with the same values and the same version of the request: brokers know the
//! repetition of what they have done. Where the answer says no more than that the transaction is not open, it is looked at: as long as
//! its id is not used again the broker remembers how it ended. What is not known to be committed is never taken for committed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, DescribeProducersRequest, DescribeTransactionsRequest,
    DescribeTransactionsResponse, EndTxnRequest, EndTxnResponse, InitProducerIdRequest, InitProducerIdResponse,
    ListTransactionsRequest, ProducerId, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;

use crate::api::Call;
use crate::client::{Client, Coordinator, Lane};
use crate::connection::Connection;
use crate::error::KafkaError;
use crate::meta::topic_name;

/// From here on each end of a transaction bumps its epoch, and the broker adds partitions by itself.
pub(crate) const END_BUMPS: i16 = 5;
/// The topic that holds what coordinators know; each of its partitions has a coordinator of its own.
const COORDINATORS_LOG: &str = "__transaction_state";
/// Epochs end here; the id that comes next begins anew at 0.
const LAST_EPOCH: i16 = i16::MAX - 1;

/// A producer's number and epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The number; -1 for none.
    pub id: i64,
    /// The epoch; -1 for none.
    pub epoch: i16,
}

impl Identity {
    /// No number: what is tried again may be written twice.
    pub const NONE: Self = Self { id: -1, epoch: -1 };
}

/// A transaction that has begun; all that it takes to end it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Its id.
    pub id: String,
    /// Who writes in it.
    pub producer: Identity,
    /// The version of the request that ends it: a repetition must have the same.
    pub version: i16,
}

/// What a coordinator knows of a transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionState {
    /// `Ongoing`, `PrepareCommit`, `CompleteCommit`, `PrepareAbort`, `CompleteAbort`, `Empty`, `Dead`, `PrepareEpochFence`.
    pub state: String,
    /// Whose transaction it is or was.
    pub producer: Identity,
    /// How long it may be open.
    pub timeout_ms: i32,
    /// When it began, in milliseconds; -1 if none is open.
    pub began_ms: i64,
}

/// A transactional id that a broker has told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedTransaction {
    /// The id.
    pub id: String,
    /// As in [`TransactionState::state`].
    pub state: String,
    /// Whose it is.
    pub producer_id: i64,
}

/// Who writes to a partition, as its leader knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveProducer {
    /// The producer's number.
    pub id: i64,
    /// Its epoch.
    pub epoch: i32,
    /// The number of its last record.
    pub last_sequence: i32,
    /// Where its open transaction begins.
    pub open_from: Option<i64>,
}

/// How the end of a transaction went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As was wished.
    Done,
    /// It ended otherwise, or nobody can tell how; the reason.
    Otherwise(String),
}

/// What an answer to `EndTxn` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Done,
    /// It cannot say how the transaction ended.
    Look,
    Failed,
}

const fn judge(code: Option<ResponseError>) -> Verdict {
    use ResponseError as E;
    match code {
        None => Verdict::Done,
        Some(
            E::InvalidTxnState
            | E::InvalidProducerEpoch
            | E::ProducerFenced
            | E::InvalidProducerIdMapping
            | E::TransactionalIdNotFound,
        ) => Verdict::Look,
        Some(_) => Verdict::Failed,
    }
}

/// What the look at a transaction means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Done,
    /// It is still open, or ending: to be asked again.
    Again,
    Otherwise(String),
}

/// Whether what the coordinator knows is this transaction's own end. Its id is not used again before its end is known, so another
/// producer's state says that somebody else has used it.
fn decide(transaction: &Transaction, state: Option<&TransactionState>, commit: bool) -> Seen {
    let otherwise = |what: String| Seen::Otherwise(format!("transaction {} {what}", transaction.id));
    let Some(state) = state else {
        return otherwise(
            "is not known to the brokers any more: it has expired (transactional.id.expiration.ms), and nobody can tell how it ended"
                .to_string(),
        );
    };
    let (ours, theirs) = (transaction.producer, state.producer);
    let same_epoch = ours == theirs;
    let bumped = ours.id == theirs.id && i32::from(theirs.epoch) == i32::from(ours.epoch) + 1;
    let rolled_over = ours.epoch >= LAST_EPOCH && theirs.id != ours.id && theirs.epoch == 0;
    let ours = same_epoch || bumped || (rolled_over && transaction.version >= END_BUMPS);
    let (wished, other) = if commit { ("Commit", "Abort") } else { ("Abort", "Commit") };
    match state.state.as_str() {
        name if ours && name == format!("Complete{wished}") => Seen::Done,
        name if ours && (name == format!("Prepare{wished}") || (name == "Ongoing" && same_epoch)) => Seen::Again,
        // Whoever fences a transaction aborts it: its own producer's next begin, or the broker after the time-out.
        name if name == format!("Complete{other}")
            || name == format!("Prepare{other}")
            || name == "PrepareEpochFence" =>
        {
            let why = if commit { "was aborted" } else { "was committed" };
            otherwise(format!(
                "{why}: it was open for longer than transaction.timeout.ms ({} ms), or its id was used by somebody else",
                state.timeout_ms
            ))
        }
        name => otherwise(format!(
            "cannot be told of: its id is {name} with producer {} and epoch {}, and ours were {} and {}; somebody else has used it",
            theirs.id, theirs.epoch, transaction.producer.id, transaction.producer.epoch
        )),
    }
}

fn id_of(id: &str) -> TransactionalId {
    TransactionalId(StrBytes::from_string(id.to_string()))
}

impl Client {
    /// Begins anew with this transactional id: whoever used it before is shut out, and what was open is **aborted**.
    pub async fn begin(&self, id: &str, time_out: Duration) -> Result<Transaction, KafkaError> {
        let producer = self.init_producer(Some((id, time_out))).await?;
        let coordinator = self.retrying(|| self.coordinator(Coordinator::Transaction, id)).await?;
        let versions = coordinator.versions();
        let most = if versions.bumps_epochs() { END_BUMPS } else { END_BUMPS - 1 };
        let version = versions.pick_up_to::<EndTxnRequest>(most, coordinator.address())?;
        Ok(Transaction { id: id.to_string(), producer, version })
    }

    /// A producer id with an epoch; without a transactional id it is good for idempotent writes.
    pub async fn init_producer(&self, transactional: Option<(&str, Duration)>) -> Result<Identity, KafkaError> {
        let time_out = transactional.map_or(Duration::from_mins(1), |(_, time_out)| time_out);
        let request = InitProducerIdRequest::default()
            .with_transactional_id(transactional.map(|(id, _)| id_of(id)))
            .with_transaction_timeout_ms(i32::try_from(time_out.as_millis()).unwrap_or(i32::MAX))
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let answer: InitProducerIdResponse = match transactional {
            Some((id, _)) => {
                self.ask_coordinator(Coordinator::Transaction, id, &request, None, |answer: &InitProducerIdResponse| {
                    answer.error_code
                })
                .await?
            }
            None => {
                self.retrying(|| async {
                    let connection = self.any().await?;
                    let answer = self.ask(&connection, &request).await?;
                    KafkaError::check(answer.error_code, || {
                        format!("broker {}, asking for a producer id", connection.address())
                    })?;
                    Ok(answer)
                })
                .await?
            }
        };
        Ok(Identity { id: answer.producer_id.0, epoch: answer.producer_epoch })
    }

    /// Makes partitions part of a transaction; only where the broker does not by itself.
    pub(crate) async fn add_partitions(
        &self,
        transaction: &Transaction,
        topic: &str,
        partitions: &[i32],
    ) -> Result<(), KafkaError> {
        let topics =
            AddPartitionsToTxnTopic::default().with_name(topic_name(topic)).with_partitions(partitions.to_vec());
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(id_of(&transaction.id))
            .with_v3_and_below_producer_id(ProducerId(transaction.producer.id))
            .with_v3_and_below_producer_epoch(transaction.producer.epoch)
            .with_v3_and_below_topics(vec![topics]);
        let code = |answer: &AddPartitionsToTxnResponse| {
            let topics = answer.results_by_topic_v3_and_below.iter();
            let mut codes =
                topics.flat_map(|topic| &topic.results_by_partition).map(|result| result.partition_error_code);
            // One that is refused makes the others "not attempted".
            let refused = codes.clone().find(|code| *code != 0 && *code != ResponseError::OperationNotAttempted.code());
            refused.or_else(|| codes.find(|code| *code != 0)).unwrap_or(0)
        };
        self.ask_coordinator(Coordinator::Transaction, &transaction.id, &request, None, code).await.map(drop)
    }

    /// Commits or aborts a transaction of whatever process; again and again has the same outcome, as long as its id is not used
    /// for another.
    pub async fn end(&self, transaction: &Transaction, commit: bool) -> Result<Ended, KafkaError> {
        let request = EndTxnRequest::default()
            .with_transactional_id(id_of(&transaction.id))
            .with_producer_id(ProducerId(transaction.producer.id))
            .with_producer_epoch(transaction.producer.epoch)
            .with_committed(commit);
        self.retrying(|| async {
            let answer = self.end_once(transaction, &request).await;
            let code = match answer {
                Ok(answer) => ResponseError::try_from_code(answer.error_code),
                Err(error) => return Err(error),
            };
            match judge(code) {
                Verdict::Done => Ok(Ended::Done),
                Verdict::Failed => Err(KafkaError::check(code.map_or(0, |code| code.code()), || {
                    format!("ending transaction {}", transaction.id)
                })
                .err()
                .unwrap_or_else(|| KafkaError::transient("no answer"))),
                Verdict::Look => match decide(transaction, self.describe(&transaction.id).await?.as_ref(), commit) {
                    Seen::Done => Ok(Ended::Done),
                    Seen::Otherwise(why) => Ok(Ended::Otherwise(why)),
                    Seen::Again => {
                        Err(KafkaError::transient(format!("transaction {} has not ended yet", transaction.id)))
                    }
                },
            }
        })
        .await
        .map_err(|error| error.while_doing(format!("transaction {}", transaction.id)))
    }

    async fn end_once(&self, transaction: &Transaction, request: &EndTxnRequest) -> Result<EndTxnResponse, KafkaError> {
        let connection = self.coordinator(Coordinator::Transaction, &transaction.id).await?;
        // Refuses to end it in another version than the one that may have been used before.
        let version = connection.versions().pick_up_to::<EndTxnRequest>(transaction.version, connection.address())?;
        if version != transaction.version {
            return Err(KafkaError::refused(format!(
                "broker {} does not take the version of EndTxn ({}) that transaction {} began with; it was downgraded",
                connection.address(),
                transaction.version,
                transaction.id
            )));
        }
        let answer = connection.call(request, version, self.settings().request_timeout).await;
        let transient = match &answer {
            Ok(answer) => KafkaError::check(answer.error_code, || {
                format!("broker {}, {:?}", connection.address(), EndTxnRequest::KEY)
            })
            .err()
            .filter(KafkaError::is_transient),
            Err(error) => Some(error.clone()),
        };
        if let Some(error) = transient {
            self.forget(Coordinator::Transaction, &transaction.id);
            return Err(error);
        }
        answer
    }

    /// What the brokers know of a transactional id; `None`: nothing.
    pub async fn describe(&self, id: &str) -> Result<Option<TransactionState>, KafkaError> {
        let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![id_of(id)]);
        let code = |answer: &DescribeTransactionsResponse| {
            let codes = answer.transaction_states.iter().map(|state| state.error_code);
            codes.into_iter().find(|code| *code != 0).unwrap_or(0)
        };
        let asked = self.ask_coordinator(Coordinator::Transaction, id, &request, None, code).await;
        let answer = match asked {
            Err(error) if error.is(ResponseError::TransactionalIdNotFound) => return Ok(None),
            asked => asked?,
        };
        Ok(answer.transaction_states.first().map(|state| TransactionState {
            state: state.transaction_state.to_string(),
            producer: Identity { id: state.producer_id.0, epoch: state.producer_epoch },
            timeout_ms: state.transaction_timeout_ms,
            began_ms: state.transaction_start_time_ms,
        }))
    }

    /// The open transactions whose ids begin so. All coordinators are asked: while one is starting or moving, it is waited for.
    pub async fn open_transactions(&self, prefix: &str) -> Result<Vec<ListedTransaction>, KafkaError> {
        self.retrying(|| self.list_transactions(prefix, &["Ongoing"])).await
    }

    /// The same, and not tried again.
    pub async fn open_transactions_now(&self, prefix: &str) -> Result<Vec<ListedTransaction>, KafkaError> {
        self.list_transactions(prefix, &["Ongoing"]).await
    }

    /// Transactions whose ids begin so, whatever their state.
    pub async fn transactions(&self, prefix: &str) -> Result<Vec<ListedTransaction>, KafkaError> {
        self.retrying(|| self.list_transactions(prefix, &[])).await
    }

    async fn list_transactions(
        &self,
        prefix: &str,
        states: &'static [&'static str],
    ) -> Result<Vec<ListedTransaction>, KafkaError> {
        // A broker that has just started lists nothing, and says so without an error, until it is told what it coordinates; and it may
        // name no broker at all. So each partition of the coordinators' log must have been somebody's.
        let probes = probes(prefix, self.coordinated().await?);
        let mut unseen: BTreeSet<usize> = (0..probes.len()).collect();
        let mut found = Vec::new();
        for broker in self.known_brokers() {
            let unknown = || KafkaError::transient(format!("broker {broker} is not known"));
            let connection = self.connect(&self.address_of(broker).ok_or_else(unknown)?, Lane::Control).await?;
            for seen in self.coordinates(&connection, &probes).await? {
                unseen.remove(&seen);
            }
            let version = connection.versions().pick::<ListTransactionsRequest>(connection.address())?;
            let mut request = ListTransactionsRequest::default()
                .with_state_filters(states.iter().map(|state| StrBytes::from_static_str(state)).collect())
                .with_duration_filter(-1);
            if version >= 2 {
                // Saves what other jobs have open; what counts is looked at below.
                let pattern = format!("^\\Q{prefix}\\E.*$");
                request = request.with_transactional_id_pattern(Some(StrBytes::from_string(pattern)));
            }
            let answer = connection.call(&request, version, self.settings().request_timeout).await?;
            KafkaError::check(answer.error_code, || format!("broker {}, listing transactions", connection.address()))?;
            let ours = answer.transaction_states.iter().filter(|state| state.transactional_id.starts_with(prefix));
            found.extend(ours.map(|state| ListedTransaction {
                id: state.transactional_id.0.to_string(),
                state: state.transaction_state.to_string(),
                producer_id: state.producer_id.0,
            }));
        }
        if !unseen.is_empty() {
            let what = format!(
                "{} of {} partitions of {COORDINATORS_LOG} have no coordinator now",
                unseen.len(),
                probes.len()
            );
            return Err(KafkaError::transient(what));
        }
        Ok(found)
    }

    /// How many partitions the coordinators' log has; 0 while there never was a transaction, and where it may not be looked at.
    async fn coordinated(&self) -> Result<usize, KafkaError> {
        let name = COORDINATORS_LOG.to_string();
        let mut cluster = self.look(Some(std::slice::from_ref(&name))).await?;
        Ok(cluster.topics.remove(&name).map_or(0, |topic| topic.partitions.len()))
    }

    /// Which of the partitions that these ids belong to a broker coordinates.
    async fn coordinates(&self, connection: &Connection, probes: &[String]) -> Result<Vec<usize>, KafkaError> {
        if probes.is_empty() {
            return Ok(Vec::new());
        }
        let request = DescribeTransactionsRequest::default()
            .with_transactional_ids(probes.iter().map(|probe| id_of(probe)).collect());
        let answer = self.ask(connection, &request).await?;
        let place = |id: &TransactionalId| probes.iter().position(|probe| *probe == *id.0);
        let seen = answer.transaction_states.iter().filter(|state| {
            let code = ResponseError::try_from_code(state.error_code);
            // Nobody has used them. Without the right to ask nothing can be told, and what is listed must do.
            matches!(
                code,
                None | Some(ResponseError::TransactionalIdNotFound | ResponseError::TransactionalIdAuthorizationFailed)
            )
        });
        Ok(seen.filter_map(|state| place(&state.transactional_id)).collect())
    }

    /// Who writes to a partition, and from where on in a transaction that has not ended there; for messages.
    pub async fn producers(&self, topic: &str, partition: i32) -> Result<Vec<ActiveProducer>, KafkaError> {
        let asked = TopicRequest::default().with_name(topic_name(topic)).with_partition_indexes(vec![partition]);
        let request = DescribeProducersRequest::default().with_topics(vec![asked]);
        self.retrying(|| async {
            let leader = self.topic(topic).await?.partitions.into_iter().find(|found| found.id == partition);
            let address = leader.and_then(|found| found.leader).and_then(|leader| self.address_of(leader));
            let none = || KafkaError::transient(format!("topic {topic}, partition {partition} has no leader now"));
            let connection = self.connect(&address.ok_or_else(none)?, Lane::Control).await?;
            let answer = self.ask(&connection, &request).await?;
            let mut found = Vec::new();
            for answer in answer.topics.iter().flat_map(|topic| &topic.partitions) {
                KafkaError::check(answer.error_code, || format!("producers of topic {topic}, partition {partition}"))?;
                found.extend(answer.active_producers.iter().map(|producer| ActiveProducer {
                    id: producer.producer_id.0,
                    epoch: producer.producer_epoch,
                    last_sequence: producer.last_sequence,
                    open_from: Some(producer.current_txn_start_offset).filter(|offset| *offset >= 0),
                }));
            }
            Ok(found)
        })
        .await
    }
}

/// An id for each partition of the coordinators' log, of which there are so many. They begin as asked, so that whoever may look at
/// those ids may look at these.
fn probes(prefix: &str, partitions: usize) -> Vec<String> {
    let mut found: BTreeMap<usize, String> = BTreeMap::new();
    let mut number = 0u64;
    while found.len() < partitions {
        let probe = format!("{prefix}probe-{number}");
        found.entry(coordinated_in(&probe, partitions)).or_insert(probe);
        number += 1;
    }
    found.into_values().collect()
}

/// The partition of the coordinators' log that an id belongs to: its hash as Java's, by the number of partitions.
fn coordinated_in(id: &str, partitions: usize) -> usize {
    let hash = id.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    hash.checked_abs().map_or(0, |hash| hash as usize % partitions.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction(version: i16, epoch: i16) -> Transaction {
        Transaction { id: "t".to_string(), producer: Identity { id: 7, epoch }, version }
    }

    fn state(name: &str, id: i64, epoch: i16) -> TransactionState {
        TransactionState { state: name.to_string(), producer: Identity { id, epoch }, timeout_ms: 60_000, began_ms: -1 }
    }

    #[test]
    fn only_an_end_that_was_wished_is_done_and_what_is_open_is_asked_again() {
        for (version, epoch, name, id, seen_epoch, wanted) in [
            (4, 3, "CompleteCommit", 7, 3, Seen::Done),
            (5, 3, "CompleteCommit", 7, 4, Seen::Done),
            (5, LAST_EPOCH, "CompleteCommit", 8, 0, Seen::Done),
            (4, 3, "PrepareCommit", 7, 3, Seen::Again),
            (5, 3, "PrepareCommit", 7, 4, Seen::Again),
            (4, 3, "Ongoing", 7, 3, Seen::Again),
        ] {
            let seen = decide(&transaction(version, epoch), Some(&state(name, id, seen_epoch)), true);
            assert_eq!(seen, wanted, "{version} {epoch} {name} {id} {seen_epoch}");
        }
        assert_eq!(decide(&transaction(5, 3), Some(&state("CompleteAbort", 7, 4)), false), Seen::Done);
    }

    #[test]
    fn what_is_not_known_to_be_committed_is_told_and_never_taken_for_committed() {
        for (name, id, epoch, part) in [
            ("CompleteAbort", 7, 4, "was aborted"),
            ("PrepareAbort", 7, 4, "was aborted"),
            ("PrepareEpochFence", 7, 4, "was aborted"),
            ("CompleteCommit", 7, 9, "somebody else has used it"),
            ("CompleteCommit", 8, 0, "somebody else has used it"),
            ("Ongoing", 7, 4, "somebody else has used it"),
            ("Empty", 7, 4, "somebody else has used it"),
            ("Dead", 7, 3, "somebody else has used it"),
        ] {
            match decide(&transaction(5, 3), Some(&state(name, id, epoch)), true) {
                Seen::Otherwise(why) => assert!(why.contains(part), "{name}: {why}"),
                seen => panic!("{name} {id} {epoch}: {seen:?}"),
            }
        }
        assert!(matches!(decide(&transaction(5, 3), None, true), Seen::Otherwise(why) if why.contains("expired")));
        assert!(matches!(decide(&transaction(5, 3), Some(&state("CompleteCommit", 7, 4)), false), Seen::Otherwise(_)));
    }

    #[test]
    fn an_id_belongs_to_the_partition_that_kafka_says_and_there_is_a_probe_for_each() {
        // "polygenelubricants".hashCode() is the lowest integer, whose absolute value Kafka takes for 0.
        for (id, partitions, wanted) in
            [("a", 50, 47), ("hello", 50, 22), ("weir-1", 50, 3), ("polygenelubricants", 7, 0)]
        {
            assert_eq!(coordinated_in(id, partitions), wanted, "{id}");
        }
        for partitions in [0, 1, 4, 50] {
            let probes = probes("weir-", partitions);
            let places: Vec<_> = probes.iter().map(|probe| coordinated_in(probe, partitions)).collect();
            assert_eq!(places, (0..partitions).collect::<Vec<_>>());
            assert!(probes.iter().all(|probe| probe.starts_with("weir-")));
        }
    }

    #[test]
    fn answers_that_cannot_tell_are_looked_at_and_others_count() {
        assert_eq!(judge(None), Verdict::Done);
        for code in [47, 48, 49, 90, 105] {
            assert_eq!(judge(ResponseError::try_from_code(code)), Verdict::Look, "{code}");
        }
        for code in [53, 35, 1000] {
            assert_eq!(judge(ResponseError::try_from_code(code)), Verdict::Failed, "{code}");
        }
    }
}
