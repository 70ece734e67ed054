//! Writes records to the partitions of a topic: gathered into batches, packed, and sent to the leaders, each partition's one after
//! the other, so that their order and their sequence numbers hold whatever has to be tried again.
//!
//! A producer writes for one transaction, or for none; it does not begin or end it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use futures::{FutureExt, future::BoxFuture};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::client::{Client, Lane};
use crate::compress::Compression;
use crate::error::KafkaError;
use crate::meta::topic_name;
use crate::records::{BatchBuilder, Header};
use crate::transactions::{END_BUMPS, Identity, Transaction};

/// The highest version of Produce that does not itself add partitions to a transaction.
const PRODUCE_BEFORE_ADDING: i16 = 11;

/// Bounds and habits of a producer.
#[derive(Clone, Debug)]
pub struct ProducerSettings {
    /// How batches are packed.
    pub compression: Compression,
    /// A batch is closed at so many bytes, not packed.
    pub batch_bytes: usize,
    /// How long a batch that is not full waits for more.
    pub linger: Duration,
    /// -1: all copies that are in sync; 1: the leader's alone.
    pub acks: i16,
    /// How long a batch is tried again.
    pub delivery_timeout: Duration,
    /// The most that is held before the brokers have it.
    pub buffered_bytes: usize,
    /// The most in one request.
    pub request_bytes: usize,
}

impl Default for ProducerSettings {
    fn default() -> Self {
        Self {
            compression: Compression::default(),
            batch_bytes: 256 << 10,
            linger: Duration::from_millis(5),
            acks: -1,
            delivery_timeout: Duration::from_mins(2),
            buffered_bytes: 32 << 20,
            request_bytes: 8 << 20,
        }
    }
}

/// A record to be written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Row<'a> {
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` for a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: &'a [Header<'a>],
    /// Milliseconds since the epoch.
    pub timestamp: i64,
}

struct Sealed {
    bytes: Bytes,
    /// Its size before packing, which is what counts as held.
    size: usize,
    since: Instant,
}

#[derive(Default)]
struct Partition {
    open: BatchBuilder,
    sealed: VecDeque<Sealed>,
    sequence: i32,
    sending: bool,
    /// Batches that were ever closed, and that the brokers have.
    closed: u64,
    written: u64,
}

/// All that was added before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut(Vec<u64>);

struct Shared {
    partitions: Mutex<Vec<Partition>>,
    buffered: AtomicUsize,
    work: Notify,
    progress: Notify,
    failure: Mutex<Option<KafkaError>>,
    settings: ProducerSettings,
    producer: Identity,
    transactional: bool,
}

impl Shared {
    fn seal(&self, partition: &mut Partition) -> Result<(), KafkaError> {
        let (count, size) = (partition.open.len(), partition.open.size());
        let producer =
            (self.producer.id, self.producer.epoch, if self.producer.id < 0 { -1 } else { partition.sequence });
        let bytes = partition.open.seal(self.settings.compression, producer, self.transactional)?;
        // Sequence numbers begin again at 0 behind the highest.
        partition.sequence = ((i64::from(partition.sequence) + i64::from(count)) & i64::from(i32::MAX)) as i32;
        partition.sealed.push_back(Sealed { bytes, size, since: Instant::now() });
        partition.closed += 1;
        Ok(())
    }

    fn fail(&self, error: KafkaError) {
        self.failure.lock().get_or_insert(error);
        self.progress.notify_waiters();
    }
}

/// See the module. Dropping it drops what is not sent.
pub struct Producer {
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Producer({:?})", self.shared.producer)
    }
}

impl Producer {
    /// Writes to a topic of so many partitions, as this producer, in this transaction.
    pub fn start(
        client: Client,
        runtime: &tokio::runtime::Handle,
        settings: ProducerSettings,
        topic: &str,
        partitions: usize,
        producer: Identity,
        transaction: Option<Transaction>,
    ) -> Self {
        let shared = Arc::new(Shared {
            partitions: Mutex::new(std::iter::repeat_with(Partition::default).take(partitions).collect()),
            buffered: AtomicUsize::new(0),
            work: Notify::new(),
            progress: Notify::new(),
            failure: Mutex::new(None),
            settings,
            producer,
            transactional: transaction.is_some(),
        });
        let sending = Sending {
            client,
            topic: topic.to_string(),
            transaction,
            shared: Arc::clone(&shared),
            leaders: HashMap::new(),
            added: HashSet::new(),
            stale: true,
        };
        Self { shared, task: runtime.spawn(sending.run()).abort_handle() }
    }

    /// Adds a record. It is held here until the broker has it: see [`Self::is_full`].
    pub fn add(&self, partition: usize, row: &Row<'_>) -> Result<(), KafkaError> {
        let mut partitions = self.shared.partitions.lock();
        let Some(partition) = partitions.get_mut(partition) else {
            return Err(KafkaError::refused(format!("the topic has no partition {partition}")));
        };
        let before = if partition.open.is_empty() { 0 } else { partition.open.size() };
        partition.open.push(row.key, row.value, row.headers, row.timestamp);
        self.shared.buffered.fetch_add(partition.open.size() - before, Ordering::Relaxed);
        if partition.open.size() >= self.shared.settings.batch_bytes {
            self.shared.seal(partition)?;
            self.shared.work.notify_one();
        } else if before == 0 {
            self.shared.work.notify_one();
        }
        Ok(())
    }

    /// Too much is held: [`Self::room`] is to be waited for.
    pub fn is_full(&self) -> bool {
        self.shared.buffered.load(Ordering::Relaxed) >= self.shared.settings.buffered_bytes
    }

    /// Waits until there is room again. An error of any record comes here.
    pub async fn room(&self) -> Result<(), KafkaError> {
        self.until(|| !self.is_full()).await
    }

    /// Closes what is open: what is added later does not count for this cut.
    pub fn cut(&self) -> Result<Cut, KafkaError> {
        let mut cut = Vec::new();
        for partition in self.shared.partitions.lock().iter_mut() {
            if !partition.open.is_empty() {
                self.shared.seal(partition)?;
            }
            cut.push(partition.closed);
        }
        self.shared.work.notify_one();
        Ok(Cut(cut))
    }

    /// Waits until the brokers have all that was added before the cut.
    pub async fn written(&self, cut: &Cut) -> Result<(), KafkaError> {
        self.until(|| {
            let partitions = self.shared.partitions.lock();
            partitions.iter().zip(&cut.0).all(|(partition, closed)| partition.written >= *closed)
        })
        .await
    }

    /// Waits until the brokers have all that was added.
    pub async fn flush(&self) -> Result<(), KafkaError> {
        let cut = self.cut()?;
        self.written(&cut).await
    }

    async fn until(&self, done: impl Fn() -> bool) -> Result<(), KafkaError> {
        loop {
            let progress = self.shared.progress.notified();
            tokio::pin!(progress);
            // From here on no notification is missed.
            progress.as_mut().enable();
            if let Some(error) = self.shared.failure.lock().clone() {
                return Err(error);
            }
            if done() {
                return Ok(());
            }
            progress.await;
        }
    }

    /// What went wrong, if anything did: then nothing more is sent.
    pub fn failure(&self) -> Option<KafkaError> {
        self.shared.failure.lock().clone()
    }
}

/// A request on its way: which partitions it has batches of.
struct Sent {
    partitions: Vec<usize>,
    broker: i32,
    answer: Result<ProduceResponse, KafkaError>,
}

struct Sending {
    client: Client,
    topic: String,
    transaction: Option<Transaction>,
    shared: Arc<Shared>,
    leaders: HashMap<usize, i32>,
    /// Partitions that are part of the transaction.
    added: HashSet<usize>,
    stale: bool,
}

impl Sending {
    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        if let Err(error) = self.send_all().await {
            shared.fail(error);
        }
    }

    /// Ends with the first error that cannot be mended.
    async fn send_all(&mut self) -> Result<(), KafkaError> {
        let mut under_way: FuturesUnordered<BoxFuture<'static, Sent>> = FuturesUnordered::new();
        let mut busy: HashSet<i32> = HashSet::new();
        let mut wait = self.client.settings().retry_wait;
        loop {
            let due = self.due()?;
            if !due.is_empty() {
                self.prepare(&due).await?;
                for (broker, partitions) in self.by_leader(&due, &busy) {
                    busy.insert(broker);
                    under_way.push(self.request(broker, partitions));
                }
                if self.stale {
                    // A partition has no leader. It is looked for again, with the patience of a batch.
                    tokio::time::sleep(wait).await;
                    wait = (2 * wait).min(self.client.settings().retry_wait_max);
                    continue;
                }
            }
            tokio::select! {
                Some(sent) = under_way.next(), if !under_way.is_empty() => {
                    busy.remove(&sent.broker);
                    match self.heed(sent)? {
                        None => wait = self.client.settings().retry_wait,
                        Some(error) => {
                            tracing::debug!(%error, topic = self.topic, "a batch is sent again");
                            self.stale = true;
                            tokio::time::sleep(wait).await;
                            wait = (2 * wait).min(self.client.settings().retry_wait_max);
                        }
                    }
                }
                () = self.shared.work.notified() => {
                    // Rows come one batch behind the other; those that come now go together.
                    if under_way.is_empty() && !self.is_urgent() {
                        tokio::time::sleep(self.shared.settings.linger).await;
                    }
                }
            }
        }
    }

    /// Some batch is closed already.
    fn is_urgent(&self) -> bool {
        self.shared.partitions.lock().iter().any(|partition| !partition.sealed.is_empty())
    }

    /// Partitions with something to be sent and nothing on its way. What is open and waits for nothing is closed.
    fn due(&self) -> Result<Vec<usize>, KafkaError> {
        let mut partitions = self.shared.partitions.lock();
        let mut due = Vec::new();
        for (index, partition) in partitions.iter_mut().enumerate().filter(|(_, partition)| !partition.sending) {
            if partition.sealed.is_empty() && !partition.open.is_empty() {
                self.shared.seal(partition)?;
            }
            if let Some(first) = partition.sealed.front() {
                if first.since.elapsed() > self.shared.settings.delivery_timeout {
                    return Err(KafkaError::transient(format!(
                        "topic {}, partition {index}: records were not taken within {:?} (properties.delivery.timeout.ms)",
                        self.topic, self.shared.settings.delivery_timeout
                    )));
                }
                due.push(index);
            }
        }
        Ok(due)
    }

    /// Knows the leaders, and has the partitions in the transaction.
    async fn prepare(&mut self, due: &[usize]) -> Result<(), KafkaError> {
        if self.stale || due.iter().any(|index| !self.leaders.contains_key(index)) {
            let topic = self.client.topic(&self.topic).await?;
            let leaders = topic.partitions.iter();
            self.leaders = leaders.filter_map(|partition| Some((partition.id as usize, partition.leader?))).collect();
            self.stale = false;
        }
        let Some(transaction) = self.transaction.as_ref().filter(|transaction| transaction.version < END_BUMPS) else {
            return Ok(());
        };
        let new: Vec<i32> = due.iter().filter(|index| !self.added.contains(index)).map(|index| *index as i32).collect();
        if !new.is_empty() {
            self.client.add_partitions(transaction, &self.topic, &new).await?;
            self.added.extend(new.iter().map(|index| *index as usize));
        }
        Ok(())
    }

    fn by_leader(&mut self, due: &[usize], busy: &HashSet<i32>) -> BTreeMap<i32, Vec<usize>> {
        let mut by_leader: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        for index in due {
            match self.leaders.get(index) {
                Some(leader) if !busy.contains(leader) => by_leader.entry(*leader).or_default().push(*index),
                Some(_) => {}
                None => self.stale = true,
            }
        }
        by_leader
    }

    fn request(&self, broker: i32, mut indexes: Vec<usize>) -> BoxFuture<'static, Sent> {
        let mut partitions = self.shared.partitions.lock();
        let mut data = Vec::with_capacity(indexes.len());
        let mut bytes = 0;
        indexes.retain(|index| {
            let Some(partition) = partitions.get_mut(*index) else { return false };
            let Some(first) = partition.sealed.front() else { return false };
            if bytes > 0 && bytes + first.bytes.len() > self.shared.settings.request_bytes {
                return false;
            }
            bytes += first.bytes.len();
            partition.sending = true;
            let batch = Some(first.bytes.clone());
            data.push(PartitionProduceData::default().with_index(*index as i32).with_records(batch));
            true
        });
        drop(partitions);
        let id = self.transaction.as_ref().map(|transaction| {
            kafka_protocol::messages::TransactionalId(kafka_protocol::protocol::StrBytes::from_string(
                transaction.id.clone(),
            ))
        });
        let topic = TopicProduceData::default().with_name(topic_name(&self.topic)).with_partition_data(data);
        let request = ProduceRequest::default()
            .with_transactional_id(id)
            .with_acks(self.shared.settings.acks)
            .with_timeout_ms(self.client.settings().request_timeout.as_millis() as i32)
            .with_topic_data(vec![topic]);
        let adds = self.transaction.as_ref().is_none_or(|transaction| transaction.version >= END_BUMPS);
        let most = if adds { i16::MAX } else { PRODUCE_BEFORE_ADDING };
        let client = self.client.clone();
        async move {
            let answer = produce(&client, broker, &request, most).await;
            Sent { partitions: indexes, broker, answer }
        }
        .boxed()
    }

    /// What is written goes; gives an error that may pass, if there was one.
    fn heed(&mut self, sent: Sent) -> Result<Option<KafkaError>, KafkaError> {
        let mut partitions = self.shared.partitions.lock();
        for index in &sent.partitions {
            partitions[*index].sending = false;
        }
        let answer = match sent.answer {
            Ok(answer) => answer,
            Err(error) if error.is_transient() => return Ok(Some(error)),
            Err(error) => return Err(error),
        };
        let mut passing = None;
        let mut answered = HashSet::new();
        for result in answer.responses.iter().flat_map(|topic| &topic.partition_responses) {
            let index = result.index as usize;
            if !sent.partitions.contains(&index) {
                continue;
            }
            answered.insert(index);
            let checked = KafkaError::check(result.error_code, || {
                let detail = result.error_message.as_ref().map(|text| format!(" ({text})")).unwrap_or_default();
                format!("writing to topic {}, partition {index}{detail}", self.topic)
            });
            match checked {
                Err(error) if error.is(ResponseError::DuplicateSequenceNumber) => {}
                Err(error) if error.is_transient() || error.is(ResponseError::UnknownTopicOrPartition) => {
                    passing = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
                Ok(()) => {}
            }
            if let Some(done) = partitions[index].sealed.pop_front() {
                partitions[index].written += 1;
                self.shared.buffered.fetch_sub(done.size, Ordering::Relaxed);
            }
        }
        if answered.len() < sent.partitions.len() {
            passing = Some(KafkaError::transient(format!("topic {}: the broker has left out partitions", self.topic)));
        }
        drop(partitions);
        self.shared.progress.notify_waiters();
        // There may be more to send, which nobody tells of.
        self.shared.work.notify_one();
        Ok(passing)
    }
}

async fn produce(
    client: &Client,
    broker: i32,
    request: &ProduceRequest,
    most: i16,
) -> Result<ProduceResponse, KafkaError> {
    let unknown = || KafkaError::transient(format!("broker {broker} is not known"));
    let address = client.address_of(broker).ok_or_else(unknown)?;
    let connection = client.connect(&address, Lane::Produce).await?;
    let version = connection.versions().pick_up_to::<ProduceRequest>(most, &address)?;
    // The broker itself may wait for as long as it is told.
    connection.call(request, version, 2 * client.settings().request_timeout).await
}
