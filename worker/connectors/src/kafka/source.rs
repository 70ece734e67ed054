//! The source: each split is a partition, read ahead by the fetcher and decoded here. Of partitions that have records the one
//! furthest back in event time comes first. What its offsets are stands in checkpoints; the group's follow.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use weir_engine::Timestamp;
use weir_engine::api::counters::Counters;
use weir_engine::api::error::SourceError;
use weir_engine::api::source::{Source, SourceContext, SourceFactory, SourcePoll, Waker};
use weir_kafka::{Assigned, At, Chunk, Client, Fetcher, KafkaError, Progress, RecordBatch, RecordRange, Reset, Topic};
use weir_runtime::clock;

use super::options::Sides;
use super::rows::{Decoder, Pushed, Record, Within};
use super::split::{Split, find};
use super::start::{Reading, failed, splits, topics_now, wait};
use crate::spec::TableSpec;

/// A batch ends at so many bytes of keys and values, even if it has few rows.
const BATCH_BYTES: usize = 1 << 20;

/// See the module.
pub(super) struct KafkaSourceFactory {
    pub(super) table: TableSpec,
    pub(super) sides: Sides,
    pub(super) reading: Arc<Reading>,
    pub(super) notes: Arc<Notes>,
}

impl SourceFactory for KafkaSourceFactory {
    fn splits(&self, _parallelism: u32) -> Result<Vec<serde_json::Value>, SourceError> {
        let splits = wait(splits(&self.reading))?;
        splits.iter().map(|split| Ok(serde_json::to_value(split)?)).collect()
    }

    fn create(&self, ctx: &SourceContext) -> Result<Box<dyn Source>, SourceError> {
        let splits = ctx.splits.iter().map(Split::read).collect::<Result<Vec<_>, _>>()?;
        let client = Client::new(self.reading.properties.settings.clone());
        let client = client.map_err(|error| failed(&error, "reading"))?;
        let assigned = splits.iter().map(assigned).collect();
        let waker = ctx.waker.clone();
        // It wakes whoever polls.
        let fetcher = Fetcher::start(
            client.clone(),
            &ctx.runtime,
            self.reading.properties.fetcher.clone(),
            assigned,
            move || waker.wake(),
        );
        let news = Arc::new(News { events: Mutex::default(), waker: ctx.waker.clone() });
        let mut source = KafkaSource {
            decoder: Decoder::new(&self.table, &self.sides)?,
            reading: Arc::clone(&self.reading),
            client,
            fetcher,
            splits: splits.into_iter().map(Partition::new).collect(),
            news,
            discovering: None,
            runtime: ctx.runtime.clone(),
            counters: Arc::clone(&ctx.counters),
        };
        for (index, partition) in source.splits.iter().enumerate() {
            if partition.split.is_done() {
                source.fetcher.stop(index);
            }
        }
        source.discover();
        Ok(Box::new(source))
    }

    fn bounded(&self) -> bool {
        self.reading.bound.is_some()
    }

    fn starts_once(&self) -> bool {
        true
    }

    fn follows_records(&self) -> bool {
        self.reading.properties.commits_offsets
    }

    fn recorded(&self, splits: Vec<serde_json::Value>) -> BoxFuture<'static, ()> {
        let offsets = splits.iter().filter_map(|split| Split::read(split).ok()).filter(|split| !split.fresh);
        self.notes.newest.lock().replace(offsets.map(|split| ((split.topic, split.partition), split.offset)).collect());
        let (notes, reading) = (Arc::clone(&self.notes), Arc::clone(&self.reading));
        Box::pin(async move { notes.write(&reading).await })
    }
}

/// How far each partition has been read.
type Offsets = Vec<((String, i32), i64)>;

/// Offsets on their way to the group: the newest, one after the other.
#[derive(Default)]
pub(super) struct Notes {
    newest: Mutex<Option<Offsets>>,
    client: tokio::sync::Mutex<Option<Client>>,
}

impl Notes {
    async fn write(&self, reading: &Reading) {
        let mut client = self.client.lock().await;
        let (Some(group), Some(offsets)) = (&reading.properties.group, self.newest.lock().take()) else { return };
        let written = async {
            let client = match &mut *client {
                Some(client) => client,
                none @ None => none.insert(Client::new(reading.properties.settings.clone())?),
            };
            client.commit_offsets(group, &offsets).await
        };
        if let Err(error) = written.await {
            tracing::warn!(group, %error, "progress is not noted in the group; the checkpoint has it");
        }
    }
}

fn assigned(split: &Split) -> Assigned {
    Assigned { topic: split.topic.clone(), topic_id: split.id(), partition: split.partition, offset: split.offset }
}

/// What comes of questions that were asked beside reading.
enum Event {
    Topics(Vec<Topic>),
    /// Where to go on in a split whose offset is gone.
    Moved(usize, i64),
    Failed(SourceError),
}

struct News {
    events: Mutex<VecDeque<Event>>,
    waker: Waker,
}

impl News {
    fn tell(&self, event: Event) {
        self.events.lock().push_back(event);
        self.waker.wake();
    }
}

/// Ends with the source.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Records of a batch that are being given.
struct Open {
    batch: RecordBatch,
    buffer: Bytes,
    records: Vec<RecordRange>,
    at: usize,
}

struct Partition {
    split: Split,
    chunk: Option<Chunk>,
    open: Option<Open>,
    /// How far it goes, as the last answer said.
    progress: Option<Progress>,
    /// How far event time has got in it.
    reached: Option<Timestamp>,
    /// Its end has been told.
    ended: bool,
}

impl Partition {
    const fn new(split: Split) -> Self {
        Self { split, chunk: None, open: None, progress: None, reached: None, ended: false }
    }

    /// The next record is here.
    fn has(&self, fetcher: &Fetcher, index: usize) -> bool {
        self.open.is_some() || self.chunk.is_some() || fetcher.has(index)
    }

    /// Records that are there and have not been read, as far as is known.
    fn lag(&self, committed: bool) -> i64 {
        let end =
            self.progress.map_or(0, |progress| if committed { progress.last_stable } else { progress.high_watermark });
        end.min(self.split.stop.unwrap_or(i64::MAX)).saturating_sub(self.split.offset).max(0)
    }

    /// Reads what stands behind the records that were given. `false`: there is nothing here.
    fn open_next(&mut self, fetcher: &Fetcher, index: usize) -> Result<bool, KafkaError> {
        loop {
            if self.open.as_ref().is_some_and(|open| open.at < open.records.len()) {
                return Ok(true);
            }
            self.open = None;
            let chunk = match &mut self.chunk {
                Some(chunk) => chunk,
                none @ None => match fetcher.take(index) {
                    Some(chunk) => none.insert(chunk),
                    None => return Ok(false),
                },
            };
            self.progress = Some(chunk.progress);
            if let Some((batch, buffer, records)) = chunk.next_batch()? {
                self.open = Some(Open { batch, buffer, records, at: 0 });
                continue;
            }
            // Behind what is never given: marks of transactions, and what was aborted.
            self.split.offset = self.split.offset.max(chunk.end);
            self.split.fresh = false;
            self.chunk = None;
            if self.split.is_done() {
                return Ok(false);
            }
        }
    }
}

struct KafkaSource {
    decoder: Decoder,
    reading: Arc<Reading>,
    client: Client,
    fetcher: Fetcher,
    /// In the order of the engine's splits and the fetcher's partitions.
    splits: Vec<Partition>,
    news: Arc<News>,
    discovering: Option<Task>,
    runtime: Handle,
    counters: Arc<Counters>,
}

impl KafkaSource {
    /// Looks for new partitions, again and again.
    fn discover(&mut self) {
        let Some(interval) = self.reading.discovery.filter(|_| self.reading.bound.is_none()) else { return };
        let (client, reading, news) = (self.client.clone(), Arc::clone(&self.reading), Arc::clone(&self.news));
        let looking = async move {
            loop {
                match topics_now(&client, &reading.topics).await {
                    Ok(topics) => news.tell(Event::Topics(topics)),
                    // A topic that is gone is found by whoever reads it.
                    Err(error) => tracing::warn!(%error, "new partitions could not be looked for"),
                }
                tokio::time::sleep(interval).await;
            }
        };
        self.discovering = Some(Task(self.runtime.spawn(looking).abort_handle()));
    }

    fn heed(&mut self, event: Event) -> Result<Option<SourcePoll>, SourceError> {
        match event {
            Event::Failed(error) => return Err(error),
            Event::Topics(topics) => return self.find(&topics),
            Event::Moved(index, offset) => {
                let partition = &mut self.splits[index];
                // What is passed over is counted, as far as it was to be read: a log alone would tell nobody.
                if !partition.split.fresh {
                    self.counters.skipped_rows.add(u64::try_from(offset - partition.split.offset).unwrap_or(0));
                }
                partition.split.offset = offset;
                (partition.chunk, partition.open) = (None, None);
                self.fetcher.seek(index, offset);
            }
        }
        Ok(None)
    }

    /// Takes over what has come. That it was found and that it is here comes into one snapshot.
    fn find(&mut self, topics: &[Topic]) -> Result<Option<SourcePoll>, SourceError> {
        let mut known: Vec<Split> = self.splits.iter().map(|partition| partition.split.clone()).collect();
        let found = find(&mut known, topics);
        for (partition, split) in self.splits.iter_mut().zip(known) {
            partition.split = split;
        }
        if found.is_empty() {
            return Ok(None);
        }
        let values = found.iter().map(|split| Ok(serde_json::to_value(split)?)).collect::<Result<_, SourceError>>()?;
        for split in found {
            tracing::info!(topic = split.topic, partition = split.partition, "a partition was found");
            self.fetcher.add(assigned(&split));
            self.splits.push(Partition::new(split));
        }
        Ok(Some(SourcePoll::SplitsAdded(values)))
    }

    /// What the fetcher cannot mend.
    fn mend(&mut self, index: Option<usize>, error: &KafkaError) -> Result<(), SourceError> {
        let what = || self.reading_what(index);
        let Some(index) = index.filter(|_| error.is_offset_gone()) else { return Err(failed(error, &what())) };
        let partition = &self.splits[index];
        let at = match self.reading.properties.reset {
            _ if partition.split.fresh => At::Earliest,
            Some(Reset::Earliest) => At::Earliest,
            Some(Reset::Latest) => At::Latest,
            Some(Reset::None) | None => {
                let remedy = "start the job anew, or set 'properties.auto.offset.reset' = 'earliest' or 'latest' to go on without them";
                return Err(SourceError::bad_input(format!("{}: {error}; {remedy}", what())));
            }
        };
        tracing::warn!(topic = partition.split.topic, partition = partition.split.partition, offset = partition.split.offset, ?at, %error, "records are gone that were to be read; reading goes on without them");
        let key = (partition.split.topic.clone(), partition.split.partition);
        let (client, news, isolation) =
            (self.client.clone(), Arc::clone(&self.news), self.reading.properties.fetcher.isolation);
        let what = what();
        self.runtime.spawn(async move {
            let found = client.list_offsets(&[(key.0.clone(), key.1, at)], isolation).await;
            news.tell(match found {
                Ok(found) => Event::Moved(index, found.get(&key).copied().flatten().unwrap_or_default()),
                Err(error) => Event::Failed(failed(&error, &what)),
            });
        });
        Ok(())
    }

    fn reading_what(&self, index: Option<usize>) -> String {
        match index.and_then(|index| self.splits.get(index)) {
            Some(partition) => format!("reading {}, offset {}", partition.split.place(), partition.split.offset),
            None => "reading".to_string(),
        }
    }

    /// The next rows of a split. `None`: what there was is no rows.
    fn rows(&mut self, index: usize, max: usize) -> Result<Option<arrow::array::RecordBatch>, SourceError> {
        let mut bytes = 0;
        while self.decoder.len() < max && bytes < BATCH_BYTES {
            let partition = &mut self.splits[index];
            let more = partition.open_next(&self.fetcher, index);
            let more = more.map_err(|error| failed(&error, &format!("reading {}", partition.split.place())))?;
            let Some(open) = partition.open.as_mut().filter(|_| more) else { break };
            let range = &open.records[open.at];
            if partition.split.stop.is_some_and(|stop| range.offset >= stop) {
                partition.split.offset = range.offset;
                break;
            }
            let field = |range: &Option<std::ops::Range<usize>>| range.clone().map(|range| &open.buffer[range]);
            let record = Record {
                within: Within {
                    topic: &partition.split.topic,
                    partition: partition.split.partition,
                    leader_epoch: open.batch.leader_epoch,
                    log_append_time: open.batch.is_log_append_time(),
                },
                offset: range.offset,
                timestamp: range.timestamp,
                key: field(&range.key),
                value: field(&range.value),
            };
            bytes += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
            if self.decoder.push(&record)? == Pushed::Skipped {
                self.counters.skipped_rows.add(1);
            }
            partition.split.offset = range.offset + 1;
            partition.split.fresh = false;
            open.at += 1;
        }
        let rows = self.decoder.finish()?;
        Ok((rows.num_rows() > 0).then_some(rows))
    }

    fn count_lag(&self) {
        let committed = self.reading.properties.fetcher.isolation == weir_kafka::Isolation::ReadCommitted;
        self.counters.source_lag.set(self.splits.iter().map(|partition| partition.lag(committed)).sum());
    }

    /// Partitions whose end is not told, those furthest back in event time first.
    fn in_order(&self) -> Vec<usize> {
        let mut open: Vec<usize> = (0..self.splits.len()).filter(|&index| !self.splits[index].ended).collect();
        open.sort_by_key(|&index| self.splits[index].reached);
        open
    }
}

impl Source for KafkaSource {
    fn poll(&mut self, max_rows: usize) -> Result<SourcePoll, SourceError> {
        while let Some((index, error)) = self.fetcher.failure() {
            self.mend(index, &error)?;
        }
        loop {
            let event = self.news.events.lock().pop_front();
            let Some(event) = event else { break };
            if let Some(added) = self.heed(event)? {
                return Ok(added);
            }
        }
        if let Some(index) = self.splits.iter().position(|partition| !partition.ended && partition.split.is_done()) {
            self.fetcher.stop(index);
            let partition = &mut self.splits[index];
            (partition.ended, partition.chunk, partition.open) = (true, None, None);
            return Ok(SourcePoll::SplitFinished(index));
        }
        let order = self.in_order();
        if order.is_empty() {
            return Ok(SourcePoll::End);
        }
        for index in order {
            if !self.splits[index].has(&self.fetcher, index) {
                continue;
            }
            let rows = self.rows(index, max_rows.max(1))?;
            self.count_lag();
            return Ok(match rows {
                Some(rows) => SourcePoll::Rows { split: index, rows },
                None => SourcePoll::Pending { until: Some(clock::now()) },
            });
        }
        Ok(SourcePoll::Pending { until: None })
    }

    fn event_time(&mut self, split: usize, reached: Timestamp) {
        if let Some(partition) = self.splits.get_mut(split) {
            partition.reached = Some(reached);
        }
    }

    /// It has records, here or on their way.
    fn holds_back(&self, split: usize) -> bool {
        let committed = self.reading.properties.fetcher.isolation == weir_kafka::Isolation::ReadCommitted;
        self.splits.get(split).is_some_and(|partition| {
            !partition.ended && (partition.has(&self.fetcher, split) || partition.lag(committed) > 0)
        })
    }

    fn snapshot(&mut self) -> Result<Vec<serde_json::Value>, SourceError> {
        self.splits.iter().map(|partition| Ok(serde_json::to_value(&partition.split)?)).collect()
    }
}
