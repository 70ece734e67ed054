//! Where a job that starts from nothing reads, and where it ends: offsets, fixed before the first row.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use weir_engine::api::error::SourceError;
use weir_kafka::{At, Client, ErrorKind, Isolation, KafkaError, Properties, Reset, Topic};

use super::options::{Place, Topics};
use super::split::{Split, splits_of};

type Partition = (String, i32);
type Offsets = BTreeMap<Partition, i64>;

/// What a table says of reading.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) properties: Properties,
    pub(super) topics: Topics,
    pub(super) start: Place,
    pub(super) bound: Option<Place>,
    /// How often new partitions are looked for.
    pub(super) discovery: Option<Duration>,
}

/// As the engine tells it.
pub(super) fn failed(error: &KafkaError, what: &str) -> SourceError {
    let message = format!("{what}: {error}");
    if error.kind == ErrorKind::Transient { SourceError::io(message) } else { SourceError::bad_input(message) }
}

/// Waits for a future, from a thread that may block.
pub(super) fn wait<T>(future: impl Future<Output = Result<T, SourceError>>) -> Result<T, SourceError> {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        return runtime.block_on(future);
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// The topics that are to be read, as they are now. All that are named have to be there.
pub(super) async fn topics_now(client: &Client, topics: &Topics) -> Result<Vec<Topic>, KafkaError> {
    match topics {
        Topics::List(names) => {
            let mut cluster = client.cluster(Some(names)).await?;
            if let Some((_, error)) = cluster.missing.pop_first() {
                return Err(error);
            }
            Ok(cluster.topics.into_values().collect())
        }
        Topics::Pattern(pattern) => {
            let cluster = client.cluster(None).await?;
            let matches = |topic: &Topic| !topic.internal && pattern.is_match(&topic.name);
            Ok(cluster.topics.into_values().filter(matches).collect())
        }
    }
}

/// The splits of a job that starts from nothing.
pub(super) async fn splits(reading: &Reading) -> Result<Vec<Split>, SourceError> {
    let failed = |error| failed(&error, "where to begin to read");
    let client = Client::new(reading.properties.settings.clone()).map_err(failed)?;
    let topics = topics_now(&client, &reading.topics).await.map_err(failed)?;
    if topics.is_empty() {
        return Err(SourceError::bad_input(
            "no topic matches 'topic-pattern', or may be seen; make one, correct the pattern, or grant the right to describe topics",
        ));
    }
    let partitions: Vec<Partition> = topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.name.clone(), partition.id)))
        .collect();
    let starts = Asking { client: &client, reading, partitions: &partitions };
    let begins = starts.begins().await.map_err(failed)?;
    let ends = starts.ends().await.map_err(failed)?;
    check(reading, &begins, &partitions)?;
    let by_pattern = matches!(reading.topics, Topics::Pattern(_));
    Ok(splits_of(&topics, by_pattern, |topic, partition| {
        let key = (topic.to_string(), partition);
        let begin = begins.get(&key).copied().unwrap_or_default();
        (begin, ends.as_ref().map(|ends| ends.get(&key).copied().unwrap_or(begin)))
    }))
}

/// Each partition has a place to begin at.
fn check(reading: &Reading, begins: &Offsets, partitions: &[Partition]) -> Result<(), SourceError> {
    let Some((topic, partition)) = partitions.iter().find(|partition| !begins.contains_key(*partition)) else {
        return Ok(());
    };
    let group = reading.properties.group.as_deref().unwrap_or_default();
    Err(SourceError::bad_input(format!(
        "topic {topic}, partition {partition}: the group {group} has noted no offset; give 'properties.auto.offset.reset' = 'earliest' or \
         'latest', or another 'scan.startup.mode'"
    )))
}

struct Asking<'a> {
    client: &'a Client,
    reading: &'a Reading,
    partitions: &'a [Partition],
}

impl Asking<'_> {
    async fn begins(&self) -> Result<Offsets, KafkaError> {
        let reset = match self.reading.properties.reset {
            Some(Reset::Earliest) => Some(At::Earliest),
            Some(Reset::Latest) => Some(At::Latest),
            Some(Reset::None) | None => None,
        };
        match &self.reading.start {
            Place::Earliest => self.at(self.partitions, At::Earliest).await,
            Place::Latest => self.at(self.partitions, At::Latest).await,
            Place::Timestamp(time) => self.since(*time).await,
            Place::Group => self.of_group(Offsets::new(), reset).await,
            Place::Specific(offsets) => {
                let named = |partition: &Partition| Some((partition.clone(), *offsets.get(&partition.1)?));
                self.of_group(self.partitions.iter().filter_map(named).collect(), Some(At::Earliest)).await
            }
        }
    }

    /// None where reading goes on for ever.
    async fn ends(&self) -> Result<Option<Offsets>, KafkaError> {
        let Some(bound) = &self.reading.bound else { return Ok(None) };
        let ends = match bound {
            Place::Earliest | Place::Latest => self.at(self.partitions, At::Latest).await?,
            Place::Timestamp(time) => self.since(*time).await?,
            Place::Group => self.of_group(Offsets::new(), None).await?,
            Place::Specific(offsets) => {
                let named = |partition: &Partition| Some((partition.clone(), *offsets.get(&partition.1)?));
                self.partitions.iter().filter_map(named).collect()
            }
        };
        Ok(Some(ends))
    }

    async fn at(&self, partitions: &[Partition], at: At) -> Result<Offsets, KafkaError> {
        if partitions.is_empty() {
            return Ok(Offsets::new());
        }
        let asked: Vec<_> = partitions.iter().map(|(topic, partition)| (topic.clone(), *partition, at)).collect();
        let found = self.client.list_offsets(&asked, self.isolation()).await?;
        Ok(found.into_iter().filter_map(|(partition, offset)| Some((partition, offset?))).collect())
    }

    const fn isolation(&self) -> Isolation {
        self.reading.properties.fetcher.isolation
    }

    /// The first record of this time or later; behind the last where there is none.
    async fn since(&self, time: i64) -> Result<Offsets, KafkaError> {
        let mut found = self.at(self.partitions, At::Timestamp(time)).await?;
        let rest = self.without(&found);
        found.extend(self.at(&rest, At::Latest).await?);
        Ok(found)
    }

    /// These, then what the group has noted, then this place.
    async fn of_group(&self, mut found: Offsets, or: Option<At>) -> Result<Offsets, KafkaError> {
        let rest = self.without(&found);
        if let Some(group) = self.reading.properties.group.as_ref().filter(|_| !rest.is_empty()) {
            found.extend(self.client.group_offsets(group, &rest).await?);
        }
        if let Some(at) = or {
            let rest = self.without(&found);
            found.extend(self.at(&rest, at).await?);
        }
        Ok(found)
    }

    fn without(&self, found: &Offsets) -> Vec<Partition> {
        self.partitions.iter().filter(|partition| !found.contains_key(*partition)).cloned().collect()
    }
}
