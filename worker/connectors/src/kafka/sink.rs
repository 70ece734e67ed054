//! The sink: rows to records, sent beside processing.
//!
//! *At least once*: a checkpoint waits until the brokers have all rows before it. *Exactly once*: each checkpoint's rows are in a
//! transaction of their own, whose end is the commit. It is open from its first row to that, so that
//! `transaction.timeout.ms` bounds how long a checkpoint may take, and how late a restore may come. What is left open by an attempt that
//! died holds up readers of what is committed; the next attempt aborts it.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit, TimestampMillisecondType};
use arrow::error::ArrowError;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weir_engine::api::batch::{Batch, RowKind};
use weir_engine::api::error::SinkError;
use weir_engine::api::sink::{CommitContext, Committer, PrepareJob, Sink, SinkContext, SinkFactory};
use weir_kafka::{Client, Identity, KafkaError, Producer, Properties, Row, Transaction};
use weir_protocol::CheckpointId;
use weir_runtime::clock;

use super::commit::{KafkaCommitter, Pending, Sweeping, failed};
use super::ids::{Owner, Pools};
use super::murmur::partition_of;
use super::options::{Guarantee, Partitioner, Side, Sides};
use crate::formats::encode::Messages;

/// How long a transaction may be open where nothing is said.
pub(super) const TRANSACTION_TIMEOUT: Duration = Duration::from_mins(10);

/// What a table says of writing.
pub(super) struct Writing {
    pub(super) topic: String,
    pub(super) sides: Sides,
    /// The column of the records' times.
    pub(super) timestamp: Option<usize>,
    pub(super) properties: Properties,
    pub(super) partitioner: Partitioner,
    pub(super) guarantee: Guarantee,
    /// What the names of transactions begin with.
    pub(super) prefix: String,
    pub(super) rows: Rows,
}

/// What the rows do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// They are only put.
    Inserts,
    /// They are put and taken away by their key.
    Upserts,
    /// What each does stands in the value.
    Changes,
}

impl Writing {
    pub(super) fn transaction_timeout(&self) -> Duration {
        self.properties.transaction_timeout.unwrap_or(TRANSACTION_TIMEOUT)
    }
}

/// See the module.
pub(super) struct KafkaSinkFactory {
    pub(super) writing: Arc<Writing>,
    pub(super) pools: Arc<Pools>,
}

/// Where a sink's futures run, and when they are of no use any more.
#[derive(Clone)]
struct Io {
    runtime: Handle,
    stopped: CancellationToken,
}

impl Io {
    /// From a thread that may block.
    fn wait<T>(&self, topic: &str, future: impl Future<Output = Result<T, KafkaError>>) -> Result<T, SinkError> {
        self.runtime.block_on(async {
            tokio::select! {
                () = self.stopped.cancelled() => Err(SinkError::io("the attempt is being stopped")),
                result = future => result.map_err(|error| failed(&error, topic)),
            }
        })
    }
}

impl SinkFactory for KafkaSinkFactory {
    fn create(&self, ctx: &SinkContext) -> Result<Box<dyn Sink>, SinkError> {
        let writing = Arc::clone(&self.writing);
        let io = Io { runtime: ctx.runtime.clone(), stopped: ctx.stopped.clone() };
        let client =
            Client::new(writing.properties.settings.clone()).map_err(|error| failed(&error, &writing.topic))?;
        let partitions = io.wait(&writing.topic, client.topic(&writing.topic))?.partitions.len();
        let owner = Owner::new(&writing.prefix, &ctx.owner, &ctx.sink);
        self.pools.keep_only(&owner.attempt(ctx.attempt));
        let names =
            Names { pools: Arc::clone(&self.pools), writer: owner.writer(ctx.attempt, &ctx.worker.0, ctx.subtask) };
        let mut sink = KafkaSink {
            to: To { client, partitions, io, writing },
            open: Open::Nothing,
            before: None,
            names,
            partition: ctx.subtask as usize % partitions.max(1),
        };
        sink.open = sink.first()?;
        Ok(Box::new(sink))
    }

    fn committer(&self, ctx: &CommitContext) -> Result<Arc<dyn Committer>, SinkError> {
        let writing = &self.writing;
        let client =
            Client::new(writing.properties.settings.clone()).map_err(|error| failed(&error, &writing.topic))?;
        Ok(Arc::new(KafkaCommitter {
            client,
            topic: writing.topic.clone(),
            transactional: writing.guarantee == Guarantee::ExactlyOnce,
            owner: Owner::new(&writing.prefix, &ctx.owner, &ctx.sink),
            attempt: ctx.attempt,
            timeout: writing.transaction_timeout(),
            pools: Arc::clone(&self.pools),
            sweeping: Sweeping::default(),
        }))
    }
}

/// The names that a subtask begins transactions with.
struct Names {
    pools: Arc<Pools>,
    writer: String,
}

/// What is written to.
struct To {
    client: Client,
    partitions: usize,
    io: Io,
    writing: Arc<Writing>,
}

impl To {
    fn producer(&self, identity: Identity, transaction: Option<Transaction>) -> Producer {
        Producer::start(
            self.client.clone(),
            &self.io.runtime,
            self.writing.properties.producer.clone(),
            &self.writing.topic,
            self.partitions,
            identity,
            transaction,
        )
    }
}

/// What rows are written in.
enum Open {
    Nothing,
    /// No transactions: the same for ever.
    Always(Arc<Producer>),
    /// The next transaction, which has no rows yet: then nothing is open at the brokers.
    Next(JoinHandle<Result<Transaction, KafkaError>>),
    In(Transaction, Arc<Producer>),
}

struct KafkaSink {
    to: To,
    open: Open,
    /// What the last checkpoint's rows were written with: the rows after them must stand behind them.
    before: Option<Arc<Producer>>,
    names: Names,
    /// Where rows without a key go next.
    partition: usize,
}

impl KafkaSink {
    /// Asks the brokers for what the first rows are written in: whoever may not write, or not for so long, is told at the start.
    fn first(&self) -> Result<Open, SinkError> {
        let topic = &self.to.writing.topic;
        if self.to.writing.guarantee == Guarantee::ExactlyOnce {
            let next = self.begin();
            let transaction = self.to.io.wait(topic, joined(next))?;
            return Ok(Open::Next(self.to.io.runtime.spawn(std::future::ready(Ok(transaction)))));
        }
        let identity = if self.to.writing.properties.idempotent {
            self.to.io.wait(topic, self.to.client.init_producer(None))?
        } else {
            Identity::NONE
        };
        Ok(Open::Always(Arc::new(self.to.producer(identity, None))))
    }

    fn begin(&self) -> JoinHandle<Result<Transaction, KafkaError>> {
        let id = self.names.pools.take(&self.names.writer);
        let (client, timeout) = (self.to.client.clone(), self.to.writing.transaction_timeout());
        self.to.io.runtime.spawn(async move { client.begin(&id, timeout).await })
    }

    fn producer(&mut self) -> Result<Arc<Producer>, SinkError> {
        let transaction = match std::mem::replace(&mut self.open, Open::Nothing) {
            Open::Always(producer) => {
                self.open = Open::Always(Arc::clone(&producer));
                return Ok(producer);
            }
            Open::In(transaction, producer) => {
                self.open = Open::In(transaction, Arc::clone(&producer));
                return Ok(producer);
            }
            Open::Next(next) => self.to.io.wait(&self.to.writing.topic, joined(next))?,
            Open::Nothing => self.to.io.wait(&self.to.writing.topic, joined(self.begin()))?,
        };
        // Two producers are two connections: what one sends later may be written earlier.
        if let Some(before) = self.before.take() {
            self.to.io.wait(&self.to.writing.topic, before.flush())?;
        }
        let producer = Arc::new(self.to.producer(transaction.producer, Some(transaction.clone())));
        self.open = Open::In(transaction, Arc::clone(&producer));
        Ok(producer)
    }

    /// Rows without a key go to one partition a batch, the next one's to the next.
    fn turn(&mut self) {
        if self.to.writing.partitioner == Partitioner::Default {
            self.partition = (self.partition + 1) % self.to.partitions.max(1);
        }
    }

    fn partition_of(&self, key: Option<&[u8]>) -> usize {
        match (self.to.writing.partitioner, key) {
            (Partitioner::Default, Some(key)) => partition_of(key, self.to.partitions),
            _ => self.partition,
        }
    }
}

async fn joined(next: JoinHandle<Result<Transaction, KafkaError>>) -> Result<Transaction, KafkaError> {
    next.await.unwrap_or_else(|error| Err(KafkaError::refusal(format!("beginning a transaction: {error}"))))
}

/// The columns of key or value.
fn columns(side: &Side, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = side.columns.iter().map(|&column| Arc::clone(rows.column(column))).collect();
    RecordBatch::try_new(Arc::clone(&side.schema), columns)
}

/// What the record of a row is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Value,
    /// Only a key: what it stood for is gone.
    Tombstone,
}

fn holds(kind: RowKind, rows: Rows) -> Result<Option<Holds>, SinkError> {
    match kind {
        _ if rows == Rows::Changes => Ok(Some(Holds::Value)),
        RowKind::Insert => Ok(Some(Holds::Value)),
        _ if rows == Rows::Inserts => {
            Err(SinkError::bad_input("an update or delete came to a table that takes inserts only"))
        }
        RowKind::UpdateAfter => Ok(Some(Holds::Value)),
        // The row after it has the same key.
        RowKind::UpdateBefore => Ok(None),
        RowKind::Delete => Ok(Some(Holds::Tombstone)),
    }
}

/// Times as milliseconds.
fn millis(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let zone = match array.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    cast(array, &DataType::Timestamp(TimeUnit::Millisecond, zone))
}

impl Sink for KafkaSink {
    fn write(&mut self, batch: Batch) -> Result<(), SinkError> {
        if batch.is_empty() {
            return Ok(());
        }
        let producer = self.producer()?;
        let writing = Arc::clone(&self.to.writing);
        let Sides { key, value } = &writing.sides;
        let values = columns(value, &batch.rows)?;
        let keys = key.as_ref().map(|side| columns(side, &batch.rows)).transpose()?;
        let mut values = Messages::of(&value.format, &values)?;
        let mut keys = match (key, &keys) {
            (Some(side), Some(keys)) => Some(Messages::of(&side.format, keys)?),
            _ => None,
        };
        let times = writing.timestamp.map(|column| millis(batch.rows.column(column))).transpose()?;
        let times = times.as_ref().map(AsArray::as_primitive::<TimestampMillisecondType>);
        let now = clock::wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        self.turn();
        let (mut key_bytes, mut value_bytes) = (Vec::new(), Vec::new());
        for row in 0..batch.len() {
            let kind = batch.kind(row);
            let Some(holds) = holds(kind, writing.rows)? else { continue };
            let has_key = match &mut keys {
                Some(keys) => keys.write(row, kind, &mut key_bytes)?,
                None => false,
            };
            let has_value = holds == Holds::Value && values.write(row, kind, &mut value_bytes)?;
            let key = has_key.then_some(key_bytes.as_slice());
            let timestamp = times.filter(|times| times.is_valid(row)).map_or(now, |times| times.value(row));
            let record = Row { key, value: has_value.then_some(value_bytes.as_slice()), headers: &[], timestamp };
            producer.add(self.partition_of(key), &record).map_err(|error| failed(&error, &writing.topic))?;
            if producer.is_full() {
                self.to.io.wait(&writing.topic, producer.room())?;
            }
        }
        match producer.failure() {
            Some(error) => Err(failed(&error, &writing.topic)),
            None => Ok(()),
        }
    }

    fn prepare(&mut self, _id: CheckpointId) -> Result<PrepareJob, SinkError> {
        let (io, topic) = (self.to.io.clone(), self.to.writing.topic.clone());
        match std::mem::replace(&mut self.open, Open::Nothing) {
            Open::In(transaction, producer) => {
                self.open = Open::Next(self.begin());
                self.before = Some(Arc::clone(&producer));
                let pending = Pending::of(&transaction, &topic, &self.to.writing.properties.settings.bootstrap);
                Ok(Box::new(move || {
                    io.wait(&topic, producer.flush())?;
                    Ok(vec![serde_json::to_value(pending)?])
                }))
            }
            Open::Always(producer) => {
                self.open = Open::Always(Arc::clone(&producer));
                let cut = producer.cut().map_err(|error| failed(&error, &topic))?;
                Ok(Box::new(move || {
                    io.wait(&topic, producer.written(&cut))?;
                    Ok(Vec::new())
                }))
            }
            // There were no rows.
            open => {
                self.open = open;
                Ok(Box::new(|| Ok(Vec::new())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_by_key_is_put_or_taken_away_and_one_of_inserts_only_put() {
        let all = [RowKind::Insert, RowKind::UpdateBefore, RowKind::UpdateAfter, RowKind::Delete];
        let of = all.map(|kind| holds(kind, Rows::Upserts).unwrap());
        assert_eq!(of, [Some(Holds::Value), None, Some(Holds::Value), Some(Holds::Tombstone)]);
        assert_eq!(holds(RowKind::Insert, Rows::Inserts).unwrap(), Some(Holds::Value));
        for kind in &all[1..] {
            assert!(holds(*kind, Rows::Inserts).is_err());
        }
        assert!(all.iter().all(|kind| holds(*kind, Rows::Changes).unwrap() == Some(Holds::Value)));
    }
}
