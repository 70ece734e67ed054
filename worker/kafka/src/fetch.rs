//! Reads partitions from given offsets, ahead of whoever takes the records.
//!
//! One request at a time is on its way to each broker, for all of its partitions that have room. A leader that moves, a broker that
//! restarts, a connection that breaks are looked after here, until they have lasted longer than a call may; what needs a decision (an
//! offset that is gone, a topic that is another now) stops that partition and is handed out.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use uuid::Uuid;

use crate::client::{Client, Lane};
use crate::error::{ErrorKind, KafkaError};
use crate::meta::{Cluster, topic_name};
use crate::records::{RecordBatch, RecordRange, batches};

/// The highest version of Fetch that names topics; later ones use their ids.
const FETCH_BY_NAME: i16 = 12;
/// How long a broker waits for records while other partitions of it have no room: they are asked for again soon.
const SHORT_WAIT: Duration = Duration::from_millis(20);

/// Which records are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// All.
    ReadUncommitted = 0,
    /// Those of transactions that were committed.
    #[default]
    ReadCommitted = 1,
}

/// Bounds and habits of a fetcher.
#[derive(Clone, Debug)]
pub struct FetcherSettings {
    /// Which records are given.
    pub isolation: Isolation,
    /// How long a broker waits for the first records.
    pub max_wait: Duration,
    /// How many bytes a broker waits for.
    pub min_bytes: i32,
    /// The most that one answer has.
    pub max_bytes: i32,
    /// The most that one partition has in one answer.
    pub partition_bytes: i32,
    /// The most that is held before it is taken, by all partitions together.
    pub buffered_bytes: usize,
}

impl Default for FetcherSettings {
    fn default() -> Self {
        Self {
            isolation: Isolation::default(),
            max_wait: Duration::from_millis(500),
            min_bytes: 1,
            max_bytes: 50 << 20,
            partition_bytes: 1 << 20,
            buffered_bytes: 32 << 20,
        }
    }
}

/// A partition to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// Its topic.
    pub topic: String,
    /// Which of all topics of this name; nil where the brokers do not say.
    pub topic_id: Uuid,
    /// Its number.
    pub partition: i32,
    /// The offset of the first record to be given.
    pub offset: i64,
}

/// How far a partition goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Behind the last record that all copies have.
    pub high_watermark: i64,
    /// Before the first transaction that has not ended.
    pub last_stable: i64,
}

/// A stretch of a partition's log.
#[derive(Debug)]
pub struct Chunk {
    /// The index of its partition.
    pub partition: usize,
    /// The offset behind it.
    pub end: i64,
    /// How far the partition goes.
    pub progress: Progress,
    from: i64,
    log: Bytes,
    isolation: Isolation,
    /// Producer and first offset of aborted transactions, the first last.
    aborted: Vec<(i64, i64)>,
    aborting: HashSet<i64>,
    _held: Held,
}

impl Chunk {
    /// The records of the next batch that has any to give, with the buffer that they stand in.
    pub fn next_batch(&mut self) -> Result<Option<(RecordBatch, Bytes, Vec<RecordRange>)>, KafkaError> {
        loop {
            let mut rest = batches(self.log.clone());
            let Some(batch) = rest.next().transpose()? else { return Ok(None) };
            let taken = length_of(&self.log);
            self.log = self.log.slice(taken..);
            if !self.is_given(&batch)? || batch.last_offset < self.from {
                continue;
            }
            let (buffer, mut records) = batch.unpack()?;
            records.retain(|record| record.offset >= self.from);
            if !records.is_empty() {
                return Ok(Some((batch, buffer, records)));
            }
        }
    }

    /// Not a control batch, nor part of a transaction that was aborted.
    fn is_given(&mut self, batch: &RecordBatch) -> Result<bool, KafkaError> {
        while let Some((producer, _)) = self.aborted.last().filter(|(_, first)| *first <= batch.last_offset) {
            self.aborting.insert(*producer);
            self.aborted.pop();
        }
        if batch.is_control() {
            if batch.is_abort()? {
                self.aborting.remove(&batch.producer_id);
            }
            return Ok(false);
        }
        let aborted = batch.is_transactional() && self.aborting.contains(&batch.producer_id);
        Ok(self.isolation == Isolation::ReadUncommitted || !aborted)
    }
}

/// The bytes of the first batch.
fn length_of(log: &[u8]) -> usize {
    log.get(8..12).and_then(|bytes| bytes.first_chunk::<4>()).map_or(log.len(), |bytes| {
        usize::try_from(i32::from_be_bytes(*bytes)).map_or(log.len(), |length| (length + 12).min(log.len()))
    })
}

#[derive(Debug)]
struct Held {
    bytes: usize,
    partition: Arc<AtomicUsize>,
    shared: Arc<Shared>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.partition.fetch_sub(self.bytes, Ordering::Relaxed);
        self.shared.buffered.fetch_sub(self.bytes, Ordering::Relaxed);
        self.shared.room.notify_one();
    }
}

struct Shared {
    queues: Mutex<Queues>,
    buffered: AtomicUsize,
    room: Notify,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shared({} bytes)", self.buffered.load(Ordering::Relaxed))
    }
}

#[derive(Default)]
struct Queues {
    chunks: Vec<VecDeque<Chunk>>,
    failures: VecDeque<(Option<usize>, KafkaError)>,
}

enum Command {
    Add(Assigned),
    Seek(usize, i64),
    Stop(usize),
}

/// See the module. Dropping it ends it.
#[derive(Debug)]
pub struct Fetcher {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
    task: AbortHandle,
    partitions: usize,
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fetcher {
    /// Begins to read these partitions on `runtime`. `wake` is called when there is something to take.
    pub fn start(
        client: Client,
        runtime: &tokio::runtime::Handle,
        settings: FetcherSettings,
        partitions: Vec<Assigned>,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            queues: Mutex::default(),
            buffered: AtomicUsize::new(0),
            room: Notify::new(),
            wake: Box::new(wake),
        });
        let (commands, orders) = mpsc::unbounded_channel();
        let reading = Reading::new(client, settings, Arc::clone(&shared));
        let task = runtime.spawn(reading.run(orders)).abort_handle();
        let mut fetcher = Self { shared, commands, task, partitions: 0 };
        for partition in partitions {
            fetcher.add(partition);
        }
        fetcher
    }

    /// Reads this one too. Gives its index.
    pub fn add(&mut self, partition: Assigned) -> usize {
        self.shared.queues.lock().chunks.push(VecDeque::new());
        // The task lives as long as this does.
        drop(self.commands.send(Command::Add(partition)));
        self.partitions += 1;
        self.partitions - 1
    }

    /// Reads a partition on from another offset; what is held of it is dropped.
    pub fn seek(&self, partition: usize, offset: i64) {
        drop(self.commands.send(Command::Seek(partition, offset)));
    }

    /// Reads a partition no further.
    pub fn stop(&self, partition: usize) {
        drop(self.commands.send(Command::Stop(partition)));
        if let Some(queue) = self.shared.queues.lock().chunks.get_mut(partition) {
            queue.clear();
        }
    }

    /// There is something to take of this partition.
    pub fn has(&self, partition: usize) -> bool {
        self.shared.queues.lock().chunks.get(partition).is_some_and(|queue| !queue.is_empty())
    }

    /// The next of this partition.
    pub fn take(&self, partition: usize) -> Option<Chunk> {
        self.shared.queues.lock().chunks.get_mut(partition).and_then(VecDeque::pop_front)
    }

    /// What went wrong.
    pub fn failure(&self) -> Option<(Option<usize>, KafkaError)> {
        self.shared.queues.lock().failures.pop_front()
    }
}

struct Partition {
    assigned: Assigned,
    leader: Option<(i32, i32)>,
    /// Part of a request that is on its way.
    asked: bool,
    stopped: bool,
    held: Arc<AtomicUsize>,
    /// Counts seeks: answers to what was asked before one are dropped.
    era: u64,
}

enum Done {
    Fetched { broker: i32, asked: Vec<(usize, u64)>, answer: Result<FetchResponse, KafkaError> },
    Refreshed(Result<Cluster, KafkaError>),
}

struct Reading {
    client: Client,
    settings: FetcherSettings,
    partitions: Vec<Partition>,
    shared: Arc<Shared>,
    under_way: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Brokers with a request on its way.
    asked: HashSet<i32>,
    refreshing: bool,
    /// Leaders are to be looked for.
    stale: bool,
    /// Since when nothing but trouble.
    trouble: Option<Instant>,
    retry_at: Option<Instant>,
}

impl Reading {
    fn new(client: Client, settings: FetcherSettings, shared: Arc<Shared>) -> Self {
        Self {
            client,
            settings,
            partitions: Vec::new(),
            shared,
            under_way: FuturesUnordered::new(),
            asked: HashSet::new(),
            refreshing: false,
            stale: true,
            trouble: None,
            retry_at: None,
        }
    }

    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Command>) {
        let shared = Arc::clone(&self.shared);
        loop {
            self.refresh();
            self.ask();
            let retry_at = self.retry_at;
            tokio::select! {
                Some(done) = self.under_way.next(), if !self.under_way.is_empty() => self.heed(done),
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                () = shared.room.notified() => {}
                () = tokio::time::sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {
                    self.retry_at = None;
                }
            }
        }
    }

    fn obey(&mut self, order: Command) {
        match order {
            Command::Add(assigned) => {
                let held = Arc::default();
                self.partitions.push(Partition { assigned, leader: None, asked: false, stopped: false, held, era: 0 });
                self.stale = true;
            }
            Command::Seek(index, offset) => {
                if let Some(partition) = self.partitions.get_mut(index) {
                    partition.assigned.offset = offset;
                    partition.era += 1;
                    partition.stopped = false;
                    if let Some(queue) = self.shared.queues.lock().chunks.get_mut(index) {
                        queue.clear();
                    }
                }
            }
            Command::Stop(index) => {
                if let Some(partition) = self.partitions.get_mut(index) {
                    partition.stopped = true;
                    partition.era += 1;
                }
            }
        }
    }

    /// Looks for leaders, if need be.
    fn refresh(&mut self) {
        if !self.stale || self.refreshing || self.retry_at.is_some() || self.partitions.is_empty() {
            return;
        }
        let mut topics: Vec<_> = self.partitions.iter().map(|partition| partition.assigned.topic.clone()).collect();
        topics.sort();
        topics.dedup();
        let client = self.client.clone();
        (self.refreshing, self.stale) = (true, false);
        self.under_way.push(Box::pin(async move { Done::Refreshed(client.cluster(Some(&topics)).await) }));
    }

    /// Sends a request to each broker that has none, for all of its partitions that have room.
    fn ask(&mut self) {
        if self.retry_at.is_some() {
            return;
        }
        let share = self.settings.buffered_bytes / self.partitions.len().max(1);
        let share = share.max(self.settings.partition_bytes as usize);
        let is_full = self.shared.buffered.load(Ordering::Relaxed) >= self.settings.buffered_bytes;
        let mut due: BTreeMap<i32, (Vec<usize>, bool)> = BTreeMap::new();
        for (index, partition) in self.partitions.iter().enumerate() {
            let Some((leader, _)) = partition.leader.filter(|_| !partition.stopped && !partition.asked) else {
                continue;
            };
            if self.asked.contains(&leader) {
                continue;
            }
            let (indexes, others) = due.entry(leader).or_default();
            if is_full || partition.held.load(Ordering::Relaxed) >= share {
                *others = true;
            } else {
                indexes.push(index);
            }
        }
        for (broker, (indexes, others)) in due {
            if !indexes.is_empty() {
                self.ask_broker(broker, &indexes, others);
            }
        }
    }

    fn ask_broker(&mut self, broker: i32, indexes: &[usize], others: bool) {
        let mut topics: BTreeMap<(String, Uuid), Vec<FetchPartition>> = BTreeMap::new();
        let mut asked = Vec::with_capacity(indexes.len());
        for &index in indexes {
            let partition = &mut self.partitions[index];
            partition.asked = true;
            asked.push((index, partition.era));
            let assigned = &partition.assigned;
            let fetched = FetchPartition::default()
                .with_partition(assigned.partition)
                .with_current_leader_epoch(partition.leader.map_or(-1, |(_, epoch)| epoch))
                .with_fetch_offset(assigned.offset)
                .with_log_start_offset(-1)
                .with_partition_max_bytes(self.settings.partition_bytes);
            topics.entry((assigned.topic.clone(), assigned.topic_id)).or_default().push(fetched);
        }
        let by_name = topics.keys().any(|(_, id)| id.is_nil());
        let topics = topics.into_iter().map(|((name, id), partitions)| {
            FetchTopic::default().with_topic(topic_name(&name)).with_topic_id(id).with_partitions(partitions)
        });
        let wait = if others { self.settings.max_wait.min(SHORT_WAIT) } else { self.settings.max_wait };
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(wait.as_millis() as i32)
            .with_min_bytes(self.settings.min_bytes)
            .with_max_bytes(self.settings.max_bytes)
            .with_isolation_level(self.settings.isolation as i8)
            .with_session_epoch(-1)
            .with_topics(topics.collect());
        self.asked.insert(broker);
        let client = self.client.clone();
        self.under_way.push(Box::pin(async move {
            let answer = fetch(&client, broker, &request, by_name, wait).await;
            Done::Fetched { broker, asked, answer }
        }));
    }

    fn heed(&mut self, done: Done) {
        match done {
            Done::Refreshed(Ok(cluster)) => {
                self.refreshing = false;
                self.learn(&cluster);
            }
            Done::Refreshed(Err(error)) => {
                self.refreshing = false;
                self.stale = true;
                self.troubled(error);
            }
            Done::Fetched { broker, asked, answer } => {
                self.asked.remove(&broker);
                for (index, _) in &asked {
                    self.partitions[*index].asked = false;
                }
                let answer = answer.and_then(|answer| {
                    KafkaError::check(answer.error_code, || format!("reading from broker {broker}"))?;
                    Ok(answer)
                });
                match answer {
                    Ok(answer) => self.receive(&asked, answer),
                    Err(error) => {
                        self.stale = true;
                        self.troubled(error);
                    }
                }
            }
        }
    }

    /// Something went wrong that may pass: all waits a moment. What has lasted too long, or cannot pass, is handed out.
    fn troubled(&mut self, error: KafkaError) {
        let since = *self.trouble.get_or_insert_with(Instant::now);
        let settings = self.client.settings();
        let wait = since.elapsed().max(settings.retry_wait).min(settings.retry_wait_max);
        if !error.is_transient() || since.elapsed() > settings.call_timeout {
            self.trouble = None;
            self.fail(None, error);
        }
        self.retry_at = Some(Instant::now() + wait);
    }

    fn fail(&mut self, index: Option<usize>, error: KafkaError) {
        let stopped = self.partitions.iter_mut().enumerate().filter(|(i, _)| index.is_none_or(|index| index == *i));
        stopped.for_each(|(_, partition)| partition.stopped = true);
        self.shared.queues.lock().failures.push_back((index, error));
        (self.shared.wake)();
    }

    fn learn(&mut self, cluster: &Cluster) {
        let mut failures = Vec::new();
        let mut leaderless = None;
        let mut not_asked = false;
        for (index, partition) in self.partitions.iter_mut().enumerate().filter(|(_, partition)| !partition.stopped) {
            let assigned = &partition.assigned;
            let Some(topic) = cluster.topics.get(&assigned.topic) else {
                match cluster.missing.get(&assigned.topic) {
                    Some(error) => failures.push((index, error.clone())),
                    // It came while others were asked for.
                    None => not_asked = true,
                }
                continue;
            };
            if !assigned.topic_id.is_nil() && topic.id != assigned.topic_id {
                let what = format!("topic {}", assigned.topic);
                failures.push((index, KafkaError::answered(ResponseError::InconsistentTopicId, what)));
                continue;
            }
            let found = topic.partitions.iter().find(|found| found.id == assigned.partition);
            partition.leader = found.and_then(|found| Some((found.leader?, found.leader_epoch)));
            if partition.leader.is_none() {
                let what = format!("topic {}, partition {} has no leader now", assigned.topic, assigned.partition);
                leaderless = Some(KafkaError::transient(what));
            }
        }
        for (index, error) in failures {
            self.fail(Some(index), error);
        }
        self.stale |= not_asked;
        if let Some(error) = leaderless {
            self.stale = true;
            self.troubled(error);
        }
    }

    fn receive(&mut self, asked: &[(usize, u64)], answer: FetchResponse) {
        // Before 13 topics are named, and ids are nil.
        let by_place: HashMap<(String, Uuid, i32), (usize, u64)> = asked
            .iter()
            .flat_map(|&(index, era)| {
                let assigned = &self.partitions[index].assigned;
                [
                    ((assigned.topic.clone(), Uuid::nil(), assigned.partition), (index, era)),
                    ((String::new(), assigned.topic_id, assigned.partition), (index, era)),
                ]
            })
            .collect();
        let mut trouble = None;
        let mut given = false;
        for topic in answer.responses {
            for data in topic.partitions {
                let place = (topic.topic.0.to_string(), topic.topic_id, data.partition_index);
                let Some(&(index, era)) = by_place.get(&place) else { continue };
                if self.partitions[index].era != era || self.partitions[index].stopped {
                    continue;
                }
                match self.accept(index, data) {
                    Ok(more) => given |= more,
                    Err(error) if may_pass(&error) => trouble = Some(error),
                    Err(error) => self.fail(Some(index), error),
                }
            }
        }
        match trouble {
            None => self.trouble = None,
            Some(error) => {
                self.stale = true;
                self.troubled(error);
            }
        }
        if given {
            (self.shared.wake)();
        }
    }

    /// Queues what came of a partition; says whether there was anything.
    fn accept(&mut self, index: usize, data: PartitionData) -> Result<bool, KafkaError> {
        let partition = &mut self.partitions[index];
        let assigned = &mut partition.assigned;
        let place =
            || format!("topic {}, partition {}, offset {}", assigned.topic, assigned.partition, assigned.offset);
        KafkaError::check(data.error_code, place)?;
        let Some(log) = data.records.filter(|log| !log.is_empty()) else { return Ok(false) };
        let end = end_of(&log).ok_or_else(|| {
            KafkaError::corrupt(format!("{}: the broker gave {} bytes that hold no whole batch", place(), log.len()))
        })?;
        let mut aborted: Vec<_> = data
            .aborted_transactions
            .unwrap_or_default()
            .into_iter()
            .map(|aborted| (aborted.producer_id.0, aborted.first_offset))
            .collect();
        aborted.sort_unstable_by_key(|(_, first)| std::cmp::Reverse(*first));
        let bytes = log.len();
        partition.held.fetch_add(bytes, Ordering::Relaxed);
        self.shared.buffered.fetch_add(bytes, Ordering::Relaxed);
        let chunk = Chunk {
            partition: index,
            end: end.max(assigned.offset),
            progress: Progress { high_watermark: data.high_watermark, last_stable: data.last_stable_offset },
            from: assigned.offset,
            log,
            isolation: self.settings.isolation,
            aborted,
            aborting: HashSet::new(),
            _held: Held { bytes, partition: Arc::clone(&partition.held), shared: Arc::clone(&self.shared) },
        };
        assigned.offset = chunk.end;
        if let Some(queue) = self.shared.queues.lock().chunks.get_mut(index) {
            queue.push_back(chunk);
        }
        Ok(true)
    }
}

/// Beside what is always transient: a broker that does not know a partition yet, or not any more. Metadata says which.
fn may_pass(error: &KafkaError) -> bool {
    error.is_transient()
        || [ResponseError::UnknownTopicOrPartition, ResponseError::UnknownTopicId, ResponseError::InconsistentTopicId]
            .into_iter()
            .any(|code| error.is(code))
}

async fn fetch(
    client: &Client,
    broker: i32,
    request: &FetchRequest,
    by_name: bool,
    wait: Duration,
) -> Result<FetchResponse, KafkaError> {
    let unknown = || KafkaError::transient(format!("broker {broker} is not known"));
    let address = client.address_of(broker).ok_or_else(unknown)?;
    let connection = client.connect(&address, Lane::Fetch).await?;
    let most = if by_name { FETCH_BY_NAME } else { i16::MAX };
    let version = connection.versions().pick_up_to::<FetchRequest>(most, &address)?;
    connection.call(request, version, client.settings().request_timeout + wait).await
}

/// The offset behind the last whole batch.
fn end_of(log: &Bytes) -> Option<i64> {
    let mut end = None;
    let mut rest = &log[..];
    loop {
        let length = rest.get(8..12)?.first_chunk::<4>().map(|bytes| i32::from_be_bytes(*bytes));
        let length = length.and_then(|length| usize::try_from(length).ok()).map(|length| length + 12);
        let Some(batch) = length.and_then(|length| rest.get(..length)).filter(|batch| batch.len() >= 27) else {
            return end;
        };
        let base = i64::from_be_bytes(*batch.first_chunk::<8>()?);
        let delta = i32::from_be_bytes(*batch[23..].first_chunk::<4>()?);
        // What is older than format 2 is refused when it is read.
        end = Some(base.saturating_add(i64::from(delta)).saturating_add(1));
        rest = &rest[batch.len()..];
        if rest.len() < 12 {
            return end;
        }
    }
}

impl KafkaError {
    /// An offset that was to be read is not there any more, or not yet.
    pub fn is_offset_gone(&self) -> bool {
        self.kind == ErrorKind::OffsetGone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Settings, Topic};

    fn topic(name: &str, partitions: i32) -> Topic {
        let partition = |id| crate::Partition { id, leader: Some(1), leader_epoch: 0 };
        Topic {
            name: name.to_string(),
            id: Uuid::nil(),
            internal: false,
            partitions: (0..partitions).map(partition).collect(),
        }
    }

    fn cluster(topics: &[(&str, i32)]) -> Cluster {
        let topics = topics.iter().map(|(name, partitions)| ((*name).to_string(), topic(name, *partitions)));
        Cluster { topics: topics.collect(), ..Cluster::default() }
    }

    fn add(reading: &mut Reading, topic: &str, partition: i32) {
        let assigned = Assigned { topic: topic.to_string(), topic_id: Uuid::nil(), partition, offset: 0 };
        reading.shared.queues.lock().chunks.push(VecDeque::new());
        reading.obey(Command::Add(assigned));
    }

    fn reading() -> Reading {
        let shared = Shared {
            queues: Mutex::default(),
            buffered: AtomicUsize::new(0),
            room: Notify::new(),
            wake: Box::new(|| ()),
        };
        let client = Client::new(Settings::new(vec!["127.0.0.1:1".to_string()])).unwrap();
        Reading::new(client, FetcherSettings::default(), Arc::new(shared))
    }

    /// Metadata was asked for before the partition came: the answer knows nothing of it, and that says nothing.
    #[tokio::test]
    async fn a_partition_that_comes_while_metadata_is_refreshed_is_asked_for_again_and_not_taken_for_gone() {
        // The first of a topic that was not asked for, and one more of a topic that had fewer.
        for (new, id) in [("b", 0), ("a", 1)] {
            let mut reading = reading();
            add(&mut reading, "a", 0);
            reading.refresh();
            assert!(reading.refreshing && !reading.stale);
            add(&mut reading, new, id);
            reading.refresh();
            assert_eq!(reading.under_way.len(), 1, "one is on its way");
            reading.heed(Done::Refreshed(Ok(cluster(&[("a", 1)]))));
            assert!(reading.shared.queues.lock().failures.is_empty(), "{new} {id}");
            assert!(reading.stale, "{new} {id} is looked for again");
            let leaders: Vec<_> = reading.partitions.iter().map(|partition| partition.leader).collect();
            assert_eq!(leaders, [Some((1, 0)), None]);
            reading.retry_at = None;
            reading.refresh();
            reading.heed(Done::Refreshed(Ok(cluster(&[("a", 2), ("b", 1)]))));
            assert!(reading.partitions.iter().all(|partition| partition.leader.is_some() && !partition.stopped));
            assert!(!reading.stale);
        }
    }

    #[tokio::test]
    async fn a_topic_that_was_asked_for_and_is_not_there_is_told() {
        let mut reading = reading();
        add(&mut reading, "a", 0);
        reading.refresh();
        let gone = KafkaError::answered(ResponseError::UnknownTopicOrPartition, "topic a");
        let missing = std::iter::once(("a".to_string(), gone.clone())).collect();
        reading.heed(Done::Refreshed(Ok(Cluster { missing, ..Cluster::default() })));
        assert_eq!(reading.shared.queues.lock().failures.pop_front(), Some((Some(0), gone)));
        assert!(reading.partitions[0].stopped);
    }
}
