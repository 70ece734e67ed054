//! What the tests against a broker share.
#![allow(dead_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use weir_kafka::{
    Assigned, Client, Fetcher, FetcherSettings, Identity, Isolation, KafkaError, NewTopic, Producer, ProducerSettings,
    Row, Transaction,
};

/// A machine with much to do answers slowly.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A topic of a test's own.
pub async fn topic(client: &Client, name: &str, partitions: i32) -> String {
    let name = format!("{name}-{}", weir_kafka::Uuid::new_v4());
    client.create_topic(&NewTopic::new(&name, partitions)).await.unwrap();
    name
}

/// A producer that writes to a topic.
pub fn producer(
    client: &Client,
    topic: &str,
    partitions: usize,
    identity: Identity,
    transaction: Option<&Transaction>,
    settings: ProducerSettings,
) -> Producer {
    Producer::start(client.clone(), &Handle::current(), settings, topic, partitions, identity, transaction.cloned())
}

/// Writes these values, in a transaction, and waits until they are there.
pub async fn write_in(client: &Client, topic: &str, transaction: &Transaction, values: &[&str]) {
    let identity = transaction.producer;
    let writer = producer(client, topic, 1, identity, Some(transaction), ProducerSettings::default());
    for value in values {
        writer.add(0, &Row { value: Some(value.as_bytes()), timestamp: 1, ..Row::default() }).unwrap();
    }
    writer.flush().await.unwrap();
}

/// A fetcher, with what tells that there is something.
pub struct Reader {
    pub fetcher: Fetcher,
    woken: Arc<Notify>,
}

impl Reader {
    pub async fn new(client: &Client, topic: &str, partitions: &[(i32, i64)], settings: FetcherSettings) -> Self {
        let id = client.topic(topic).await.unwrap().id;
        let assigned = partitions.iter().map(|(partition, offset)| Assigned {
            topic: topic.to_string(),
            topic_id: id,
            partition: *partition,
            offset: *offset,
        });
        let woken = Arc::new(Notify::new());
        let wakes = Arc::clone(&woken);
        let fetcher = Fetcher::start(client.clone(), &Handle::current(), settings, assigned.collect(), move || {
            wakes.notify_one();
        });
        Self { fetcher, woken }
    }

    /// The values up to this offset of the partition with this index, with their offsets.
    pub async fn values_to(&self, partition: usize, end: i64) -> Result<Vec<(i64, String)>, KafkaError> {
        let mut values = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some((_, error)) = self.fetcher.failure() {
                return Err(error);
            }
            while let Some(mut chunk) = self.fetcher.take(partition) {
                while let Some((_, buffer, records)) = chunk.next_batch()? {
                    let value = |range| String::from_utf8_lossy(&buffer[range]).to_string();
                    let read = records.into_iter().map(|record| (record.offset, value(record.value.unwrap_or(0..0))));
                    values.extend(read);
                }
                if chunk.end >= end {
                    return Ok(values);
                }
            }
            assert!(Instant::now() < deadline, "read {} records in time, and not to {end}", values.len());
            drop(tokio::time::timeout(Duration::from_secs(1), self.woken.notified()).await);
        }
    }

    /// The next failure.
    pub async fn failure(&self) -> (Option<usize>, KafkaError) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(failure) = self.fetcher.failure() {
                return failure;
            }
            assert!(Instant::now() < deadline, "no failure in time");
            drop(tokio::time::timeout(Duration::from_secs(1), self.woken.notified()).await);
        }
    }
}

/// All values that a partition has for readers of this isolation.
pub async fn values(client: &Client, topic: &str, isolation: Isolation) -> Vec<String> {
    let key = (topic.to_string(), 0);
    let ends = client.list_offsets(&[(topic.to_string(), 0, weir_kafka::At::Latest)], isolation).await.unwrap();
    let end = ends[&key].unwrap();
    if end == 0 {
        return Vec::new();
    }
    let reader =
        Reader::new(client, topic, &[(0, 0)], FetcherSettings { isolation, ..FetcherSettings::default() }).await;
    reader.values_to(0, end).await.unwrap().into_iter().map(|(_, value)| value).collect()
}
