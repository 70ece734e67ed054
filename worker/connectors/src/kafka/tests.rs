//! Source and sink against a real broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use tokio::runtime::Runtime;
use weir_engine::api::batch::{Batch, RowKind};
use weir_engine::api::error::FailureKind;
use weir_engine::api::sink::{CommitContext, SinkContext};
use weir_engine::api::source::SourcePoll;
use weir_kafka::testing::Kafka as Broker;
use weir_kafka::{
    Assigned, At, Client, Fetcher, FetcherSettings, Identity, Isolation, NewTopic, Producer, ProducerSettings, Row,
    Uuid,
};
use weir_protocol::{Attempt, CheckpointId, JobName};

use super::{Kafka, UpsertKafka};
use crate::spec::{ChangelogMode, ConnectorFactory, Metadata, TableSpec};
use crate::testing::{SourceTest, run_of, sink_context};

/// A machine with much to do answers slowly.
const PATIENCE: Duration = Duration::from_mins(1);

/// A topic of a test's own, and what it takes to fill it.
struct Topic {
    broker: &'static Broker,
    client: Client,
    runtime: Runtime,
    name: String,
    partitions: i32,
}

impl Topic {
    fn new(test: &str, partitions: i32) -> Option<Self> {
        let broker = Broker::shared(test)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let name = format!("{test}-{}", Uuid::new_v4());
        let client = broker.client();
        runtime.block_on(client.create_topic(&NewTopic::new(&name, partitions))).unwrap();
        Some(Self { broker, client, runtime, name, partitions })
    }

    /// Another of this broker.
    fn beside(&self, suffix: &str, partitions: i32) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (name, client) = (format!("{}{suffix}", self.name), self.broker.client());
        runtime.block_on(client.create_topic(&NewTopic::new(&name, partitions))).unwrap();
        Self { broker: self.broker, client, runtime, name, partitions }
    }

    fn write(&self, partition: usize, rows: &[(Option<&str>, Option<&str>, i64)]) {
        let _entered = self.runtime.enter();
        let partitions = partition.max(self.partitions as usize - 1) + 1;
        let producer = Producer::start(
            self.client.clone(),
            self.runtime.handle(),
            ProducerSettings::default(),
            &self.name,
            partitions,
            Identity::NONE,
            None,
        );
        for (key, value, timestamp) in rows {
            let row = Row {
                key: key.map(str::as_bytes),
                value: value.map(str::as_bytes),
                headers: &[],
                timestamp: *timestamp,
            };
            producer.add(partition, &row).unwrap();
        }
        self.runtime.block_on(producer.flush()).unwrap();
    }

    fn numbers(&self, partition: usize, numbers: std::ops::Range<i64>) {
        let texts: Vec<_> = numbers.map(|n| (format!("{{\"n\":{n}}}"), n)).collect();
        let rows: Vec<_> = texts.iter().map(|(text, n)| (None, Some(text.as_str()), 1000 + n)).collect();
        self.write(partition, &rows);
    }

    fn table(&self, fields: Vec<Field>) -> TableSpec {
        TableSpec::new("t", Arc::new(Schema::new(fields)))
            .with("connector", "kafka")
            .with("topic", &self.name)
            .with("properties.bootstrap.servers", &self.broker.servers())
            .with("format", "json")
    }

    /// A table of numbers that is read from the first record on.
    fn of_numbers(&self) -> TableSpec {
        self.table(vec![Field::new("n", DataType::Int64, true)]).with("scan.startup.mode", "earliest-offset")
    }

    /// What readers of this isolation see: key, value, partition, timestamp.
    fn records(&self, isolation: Isolation) -> Vec<(Option<String>, Option<String>, i32, i64)> {
        let id = self.runtime.block_on(self.client.topic(&self.name)).unwrap().id;
        let mut found = Vec::new();
        for partition in 0..self.partitions {
            let asked = [(self.name.clone(), partition, At::Latest)];
            let ends = self.runtime.block_on(self.client.list_offsets(&asked, isolation)).unwrap();
            let end = ends[&(self.name.clone(), partition)].unwrap();
            let assigned = Assigned { topic: self.name.clone(), topic_id: id, partition, offset: 0 };
            let settings = FetcherSettings { isolation, ..FetcherSettings::default() };
            let fetcher = Fetcher::start(self.client.clone(), self.runtime.handle(), settings, vec![assigned], || ());
            let (mut at, deadline) = (0, Instant::now() + PATIENCE);
            while at < end {
                assert!(Instant::now() < deadline, "the topic was not read in time: {:?}", fetcher.failure());
                let Some(mut chunk) = fetcher.take(0) else {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                };
                while let Some((_, buffer, records)) = chunk.next_batch().unwrap() {
                    let text = |range: Option<std::ops::Range<usize>>| {
                        range.map(|range| String::from_utf8_lossy(&buffer[range]).to_string())
                    };
                    found.extend(records.into_iter().map(|r| (text(r.key), text(r.value), partition, r.timestamp)));
                }
                at = chunk.end;
            }
        }
        found
    }

    fn committed(&self) -> Vec<String> {
        self.records(Isolation::ReadCommitted).into_iter().filter_map(|(_, value, ..)| value).collect()
    }
}

fn numbers_of(rows: &RecordBatch) -> Vec<i64> {
    rows.column(0).as_primitive::<Int64Type>().values().to_vec()
}

/// Polls until there are so many numbers; says how many splits were added.
fn read(test: &mut SourceTest, count: usize) -> (Vec<i64>, usize) {
    let (mut numbers, mut added) = (Vec::new(), 0);
    let deadline = Instant::now() + PATIENCE;
    while numbers.len() < count {
        assert!(Instant::now() < deadline, "only {} of {count} rows came", numbers.len());
        match test.poll(7) {
            SourcePoll::Rows { rows, .. } => numbers.extend(numbers_of(&rows)),
            SourcePoll::SplitsAdded(splits) => added += splits.len(),
            SourcePoll::SplitFinished(_) => {}
            SourcePoll::Pending { .. } => std::thread::sleep(Duration::from_millis(1)),
            SourcePoll::End => break,
        }
    }
    numbers.sort_unstable();
    (numbers, added)
}

fn start(table: &TableSpec) -> SourceTest {
    SourceTest::start(&*Kafka.source(table).unwrap(), 1)
}

fn all_of(table: &TableSpec) -> Vec<i64> {
    let mut numbers = Vec::new();
    start(table).run(100, |_, rows| numbers.extend(numbers_of(&rows)));
    numbers.sort_unstable();
    numbers
}

#[test]
fn rows_come_once_from_all_partitions_and_from_any_snapshot_on() {
    let Some(topic) = Topic::new("rows_come_once", 3) else { return };
    for partition in 0..3 {
        topic.numbers(partition, partition as i64 * 100..partition as i64 * 100 + 50);
    }
    let table = topic.of_numbers();
    let mut test = start(&table);
    let (mut first, _) = read(&mut test, 60);
    let splits = test.snapshot();
    assert_eq!(splits.len(), 3);
    topic.numbers(1, 150..170);
    let factory = Kafka.source(&table).unwrap();
    let mut restored = SourceTest::restored(&*factory, 1, splits);
    let (rest, _) = read(&mut restored, 170 - first.len());
    first.extend(rest);
    first.sort_unstable();
    let expected: Vec<i64> = (0..50).chain(100..170).chain(200..250).collect();
    assert_eq!(first, expected);
    assert_eq!(restored.counters.source_lag.get(), Some(0), "all is read");
}

#[test]
fn reading_begins_and_ends_where_the_table_says() {
    let Some(topic) = Topic::new("reading_begins", 1) else { return };
    topic.numbers(0, 0..20);
    let bounded = || topic.of_numbers().with("scan.bounded.mode", "latest-offset");
    assert_eq!(all_of(&bounded()), (0..20).collect::<Vec<_>>());
    let at = |mode: &str| bounded().with("scan.startup.mode", mode);
    assert_eq!(all_of(&at("latest-offset")), [0; 0]);
    let of = |table: TableSpec| all_of(&table);
    assert_eq!(of(at("timestamp").with("scan.startup.timestamp-millis", "1015")), [15, 16, 17, 18, 19]);
    assert_eq!(of(at("timestamp").with("scan.startup.timestamp-millis", "2000")), [0; 0]);
    let specific = at("specific-offsets").with("scan.startup.specific-offsets", "partition:0,offset:17");
    assert_eq!(of(specific.clone()), [17, 18, 19]);
    let until = specific.with("scan.bounded.mode", "specific-offsets");
    assert_eq!(of(until.with("scan.bounded.specific-offsets", "partition:0,offset:19")), [17, 18]);
    let until = bounded().with("scan.bounded.mode", "timestamp");
    assert_eq!(of(until.with("scan.bounded.timestamp-millis", "1003")), [0, 1, 2]);
}

#[test]
fn a_groups_offsets_follow_the_records_and_can_be_begun_from() {
    let Some(topic) = Topic::new("a_groups_offsets", 2) else { return };
    topic.numbers(0, 0..10);
    topic.numbers(1, 100..110);
    let group = format!("g-{}", topic.name);
    let of_group = topic.of_numbers().with("scan.startup.mode", "group-offsets").with("properties.group.id", &group);
    let factory = Kafka.source(&of_group).unwrap();
    let nothing = factory.splits(1).unwrap_err().to_string();
    assert!(nothing.contains("has noted no offset") && nothing.contains("auto.offset.reset"), "{nothing}");
    let with_reset = of_group.clone().with("properties.auto.offset.reset", "earliest");
    let factory = Kafka.source(&with_reset).unwrap();
    assert!(factory.follows_records());
    let mut test = SourceTest::start(&*factory, 1);
    read(&mut test, 20);
    topic.runtime.block_on(factory.recorded(test.snapshot()));
    topic.numbers(0, 10..13);
    let table = of_group.with("scan.bounded.mode", "latest-offset");
    assert_eq!(all_of(&table), [10, 11, 12]);
    let until = topic.of_numbers().with("scan.bounded.mode", "group-offsets").with("properties.group.id", &group);
    assert_eq!(all_of(&until).len(), 20);
}

#[test]
fn partitions_and_topics_that_come_later_are_found_once() {
    let Some(topic) = Topic::new("partitions_that_come", 1) else { return };
    topic.numbers(0, 0..5);
    let pattern = format!("{}.*", topic.name);
    let mut table =
        topic.of_numbers().with("topic-pattern", &pattern).with("scan.topic-partition-discovery.interval", "50 ms");
    table.options.remove("topic");
    let factory = Kafka.source(&table).unwrap();
    let mut test = SourceTest::start(&*factory, 1);
    assert_eq!(read(&mut test, 5), ((0..5).collect(), 0));
    topic.runtime.block_on(topic.client.create_partitions(&topic.name, 3)).unwrap();
    topic.numbers(2, 50..55);
    assert_eq!(read(&mut test, 5), ((50..55).collect(), 2));
    let splits = test.snapshot();
    assert_eq!(splits.len(), 3);
    drop(test);
    // While nobody reads; and another subtask has the children.
    let other = topic.beside("-other", 2);
    other.numbers(1, 70..75);
    topic.numbers(1, 90..93);
    let mut restored = SourceTest::restored(&*factory, 2, splits);
    let (numbers, added) = read(&mut restored, 8);
    assert_eq!((numbers, added), ((70..75).chain(90..93).collect(), 2));
}

#[test]
fn records_that_are_gone_end_the_job_or_are_passed_over_as_the_table_says() {
    let Some(topic) = Topic::new("records_that_are_gone", 1) else { return };
    topic.numbers(0, 0..20);
    let table = topic.of_numbers();
    let mut test = start(&table);
    read(&mut test, 7);
    let splits = test.snapshot();
    drop(test);
    topic.runtime.block_on(topic.client.delete_records(&topic.name, 0, 15)).unwrap();
    let mut failing = SourceTest::restored(&*Kafka.source(&table).unwrap(), 1, splits.clone());
    let deadline = Instant::now() + PATIENCE;
    let error = loop {
        match failing.try_poll(10) {
            Err(error) => break error.to_string(),
            Ok(_) => assert!(Instant::now() < deadline, "nothing failed"),
        }
    };
    assert!(error.contains(&format!("reading topic {}, partition 0, offset 7", topic.name)), "{error}");
    assert!(error.contains("'properties.auto.offset.reset'"), "{error}");
    let going_on = table.with("properties.auto.offset.reset", "earliest");
    let mut test = SourceTest::restored(&*Kafka.source(&going_on).unwrap(), 1, splits);
    assert_eq!(read(&mut test, 5).0, [15, 16, 17, 18, 19]);
    assert_eq!(test.counters.skipped_rows.get(), 8, "records 7 to 14");
}

#[test]
fn a_topic_that_was_made_anew_is_not_taken_for_the_old_one() {
    let Some(topic) = Topic::new("a_topic_made_anew", 1) else { return };
    topic.numbers(0, 0..20);
    let table = topic.of_numbers();
    let mut test = start(&table);
    read(&mut test, 7);
    let splits = test.snapshot();
    drop(test);
    topic.runtime.block_on(topic.client.delete_topic(&topic.name)).unwrap();
    let made = Instant::now() + PATIENCE;
    while topic.runtime.block_on(topic.client.create_topic(&NewTopic::new(&topic.name, 1))).is_err() {
        assert!(Instant::now() < made, "the topic could not be made anew");
    }
    topic.numbers(0, 0..20);
    let mut failing = SourceTest::restored(&*Kafka.source(&table).unwrap(), 1, splits);
    let deadline = Instant::now() + PATIENCE;
    let error = loop {
        match failing.try_poll(10) {
            Err(error) => break error.to_string(),
            Ok(SourcePoll::Rows { rows, .. }) => panic!("rows of another topic: {rows:?}"),
            Ok(_) => assert!(Instant::now() < deadline, "nothing failed"),
        }
    };
    assert!(error.contains("deleted and made again") || error.contains("create the topic"), "{error}");
}

#[test]
fn a_bad_record_is_told_with_its_place_or_skipped_and_counted() {
    let Some(topic) = Topic::new("a_bad_record", 1) else { return };
    topic.write(0, &[(None, Some("{\"n\":1}"), 0), (None, Some("{\"n\":"), 0), (None, Some("{\"n\":3}"), 0)]);
    let table = topic.of_numbers().with("scan.bounded.mode", "latest-offset");
    let error = start(&table).try_run(10, |_, _| ()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("topic {}, partition 0, offset 1: its value: ", topic.name)), "{error}");
    let mut skipping = start(&table.with("json.ignore-parse-errors", "true"));
    let mut numbers = Vec::new();
    skipping.run(10, |_, rows| numbers.extend(numbers_of(&rows)));
    assert_eq!((numbers, skipping.counters.skipped_rows.get()), (vec![1, 3], 1));
}

/// A sink of a job, in one of its attempts.
struct SinkTest {
    factory: Arc<dyn weir_engine::api::sink::SinkFactory>,
    runtime: Arc<Runtime>,
    job: JobName,
    /// Each test is a run of its own: whoever cleans aborts what earlier attempts of the same run have open.
    uid: String,
}

impl SinkTest {
    fn new(topic: &Topic, factory: Arc<dyn weir_engine::api::sink::SinkFactory>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let job = JobName { namespace: "n".into(), name: "j".into() };
        Self { factory, runtime: Arc::new(runtime), job, uid: topic.name.clone() }
    }

    fn context(&self, attempt: u64) -> SinkContext {
        let owner = run_of(&self.uid);
        SinkContext { attempt: Attempt(attempt), owner, ..sink_context(&self.job, &self.runtime) }
    }

    fn create(&self, attempt: u64) -> Box<dyn weir_engine::api::sink::Sink> {
        self.factory.create(&self.context(attempt)).unwrap()
    }

    fn committer(&self, attempt: u64) -> Arc<dyn weir_engine::api::sink::Committer> {
        let context = CommitContext {
            job: self.job.clone(),
            owner: run_of(&self.uid),
            attempt: Attempt(attempt),
            sink: "sink".to_string(),
        };
        self.factory.committer(&context).unwrap()
    }

    fn commit(&self, attempt: u64, pending: &[serde_json::Value]) -> Result<(), weir_engine::SinkError> {
        self.runtime.block_on(self.committer(attempt).commit(pending))
    }
}

fn batch(numbers: &[i64]) -> Batch {
    let schema = Schema::new(vec![Field::new("n", DataType::Int64, true)]);
    let column = Arc::new(Int64Array::from_iter_values(numbers.iter().copied()));
    Batch::inserts(RecordBatch::try_new(Arc::new(schema), vec![column]).unwrap())
}

fn values(numbers: &[i64]) -> Vec<String> {
    numbers.iter().map(|n| format!("{{\"n\":{n}}}")).collect()
}

fn exactly_once(topic: &Topic) -> TableSpec {
    topic
        .table(vec![Field::new("n", DataType::Int64, true)])
        .with("sink.delivery-guarantee", "exactly-once")
        .with("properties.transaction.timeout.ms", "60000")
}

#[test]
fn rows_written_at_least_once_are_there_when_a_checkpoint_is_prepared() {
    let Some(topic) = Topic::new("written_at_least_once", 4) else { return };
    let fields = vec![
        Field::new("id", DataType::Utf8, true),
        Field::new("n", DataType::Int64, true),
        Field::new("at", DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, Some("UTC".into())), true),
    ];
    let mut table = topic.table(fields).with("key.format", "raw").with("key.fields", "id");
    table = table.with("value.fields-include", "EXCEPT_KEY");
    table.metadata.insert(2, Metadata { key: "timestamp".to_string(), is_virtual: false });
    let test = SinkTest::new(&topic, Kafka.sink(&table).unwrap());
    let mut sink = test.create(1);
    let columns: Vec<arrow::array::ArrayRef> = vec![
        Arc::new(StringArray::from(vec![Some("21"), Some("foobar"), None])),
        Arc::new(Int64Array::from(vec![1, 2, 3])),
        Arc::new(
            arrow::array::TimestampMillisecondArray::from(vec![Some(5000), Some(6000), Some(7000)])
                .with_timezone("UTC"),
        ),
    ];
    sink.write(Batch::inserts(RecordBatch::try_new(Arc::clone(&table.schema), columns).unwrap())).unwrap();
    let pending = sink.prepare(CheckpointId(1)).unwrap()().unwrap();
    assert!(pending.is_empty(), "there is nothing to commit");
    let mut records = topic.records(Isolation::ReadCommitted);
    records.sort();
    let row = |key: Option<&str>, n: i64| (key.map(str::to_string), Some(format!("{{\"n\":{n}}}")));
    let rows: Vec<_> = records.iter().map(|(key, value, ..)| (key.clone(), value.clone())).collect();
    assert_eq!(rows, [row(None, 3), row(Some("21"), 1), row(Some("foobar"), 2)]);
    let by_key: BTreeMap<_, _> =
        records.iter().map(|(key, _, partition, time)| (key.as_deref(), (*partition, *time))).collect();
    // Kafka's own hash of these keys, without its sign, modulo 4.
    assert_eq!(by_key[&Some("21")], ((-973_932_308_i32).rem_euclid(4), 5000));
    assert_eq!(by_key[&Some("foobar")], ((-790_332_482_i32).rem_euclid(4), 6000));
}

#[test]
fn upserts_put_rows_under_their_key_and_take_them_away_with_tombstones() {
    let Some(topic) = Topic::new("upserts_put_rows", 1) else { return };
    let fields = vec![Field::new("k", DataType::Int64, false), Field::new("v", DataType::Utf8, true)];
    let mut table = topic.table(fields).with("value.format", "json").with("key.format", "json");
    table.options.remove("format");
    table.primary_key = vec![0];
    table.changelog = ChangelogMode::Upsert;
    let test = SinkTest::new(&topic, UpsertKafka.sink(&table).unwrap());
    let mut sink = test.create(1);
    let columns: Vec<arrow::array::ArrayRef> =
        vec![Arc::new(Int64Array::from(vec![1, 1, 1, 2])), Arc::new(StringArray::from(vec!["a", "a", "b", "c"]))];
    let rows = RecordBatch::try_new(Arc::clone(&table.schema), columns).unwrap();
    let kinds = vec![RowKind::Insert, RowKind::UpdateBefore, RowKind::UpdateAfter, RowKind::Delete];
    sink.write(Batch::with_kinds(rows, kinds)).unwrap();
    sink.prepare(CheckpointId(1)).unwrap()().unwrap();
    let text = |key: i64, value: Option<&str>| {
        (Some(format!("{{\"k\":{key}}}")), value.map(|value| format!("{{\"k\":{key},\"v\":\"{value}\"}}")))
    };
    let records: Vec<_> =
        topic.records(Isolation::ReadCommitted).into_iter().map(|(key, value, ..)| (key, value)).collect();
    assert_eq!(records, [text(1, Some("a")), text(1, Some("b")), text(2, None)]);
}

#[test]
fn a_format_that_says_what_rows_do_takes_changes_and_is_not_read() {
    let Some(topic) = Topic::new("a_format_of_changes", 1) else { return };
    let table = topic.table(vec![Field::new("n", DataType::Int64, true)]).with("format", "debezium-json");
    assert_eq!(Kafka.accepts(&table).unwrap(), crate::Accepts::Changes);
    assert!(Kafka.source(&table).map(drop).unwrap_err().to_string().contains("not be read yet"));
    let test = SinkTest::new(&topic, Kafka.sink(&TableSpec { changelog: ChangelogMode::Retract, ..table }).unwrap());
    let mut sink = test.create(1);
    let rows =
        Batch::with_kinds(batch(&[1, 1, 2]).rows, vec![RowKind::Insert, RowKind::UpdateBefore, RowKind::UpdateAfter]);
    sink.write(rows).unwrap();
    sink.prepare(CheckpointId(1)).unwrap()().unwrap();
    let put = |n: i64| format!("{{\"before\":null,\"after\":{{\"n\":{n}}},\"op\":\"c\"}}");
    let taken = "{\"before\":{\"n\":1},\"after\":null,\"op\":\"d\"}".to_string();
    assert_eq!(topic.committed(), [put(1), taken, put(2)]);
}

#[test]
fn a_checkpoints_rows_appear_with_its_commit_from_any_process_and_once() {
    let Some(topic) = Topic::new("rows_appear_with_commit", 1) else { return };
    let table = exactly_once(&topic);
    let test = SinkTest::new(&topic, Kafka.sink(&table).unwrap());
    let mut sink = test.create(1);
    sink.write(batch(&[1, 2])).unwrap();
    let first = sink.prepare(CheckpointId(1)).unwrap()().unwrap();
    sink.write(batch(&[3])).unwrap();
    let second = sink.prepare(CheckpointId(2)).unwrap()().unwrap();
    assert_eq!((first.len(), second.len()), (1, 1));
    assert!(sink.prepare(CheckpointId(3)).unwrap()().unwrap().is_empty(), "no rows, no transaction");
    assert!(topic.committed().is_empty());
    drop(sink);
    // Another process, which has only what the record holds.
    let other = SinkTest::new(&topic, Kafka.sink(&table).unwrap());
    other.commit(2, &second).unwrap();
    other.commit(2, &first).unwrap();
    other.commit(3, &[first, second].concat()).unwrap();
    assert_eq!(topic.committed(), values(&[1, 2, 3]));
}

#[test]
fn what_a_dead_attempt_left_open_is_aborted_and_what_a_record_names_is_kept() {
    let Some(topic) = Topic::new("what_a_dead_attempt_left", 1) else { return };
    let test = SinkTest::new(&topic, Kafka.sink(&exactly_once(&topic)).unwrap());
    let mut dead = test.create(1);
    dead.write(batch(&[1])).unwrap();
    let recorded = dead.prepare(CheckpointId(1)).unwrap()().unwrap();
    dead.write(batch(&[2])).unwrap();
    let given_up = dead.prepare(CheckpointId(2)).unwrap()().unwrap();
    dead.write(batch(&[3])).unwrap();
    dead.prepare(CheckpointId(3)).unwrap()().unwrap();
    drop(dead);
    let prefix = super::ids::Owner::new("weir", &run_of(&topic.name), "sink").prefix;
    let open = || topic.runtime.block_on(topic.client.open_transactions(&prefix)).unwrap().len();
    assert_eq!(open(), 3);
    test.runtime.block_on(test.committer(1).clean(&recorded)).unwrap();
    assert_eq!(open(), 3, "an attempt does not touch its own");
    test.runtime.block_on(test.committer(2).clean(&recorded)).unwrap();
    assert_eq!(open(), 1);
    let mut alive = test.create(2);
    alive.write(batch(&[2, 3])).unwrap();
    let again = alive.prepare(CheckpointId(4)).unwrap()().unwrap();
    test.commit(2, &recorded).unwrap();
    test.commit(2, &again).unwrap();
    assert_eq!(topic.committed(), values(&[1, 2, 3]));
    // A record that promises what was given up cannot be kept, and that is said.
    let lost = test.commit(3, &given_up).unwrap_err();
    assert_eq!(lost.kind, FailureKind::OutputLost);
    assert!(lost.to_string().contains(&format!("rows of topic {}", topic.name)), "{lost}");
}

#[test]
fn what_a_replaced_attempt_begins_after_the_next_has_cleaned_is_aborted_beside_a_commit() {
    let Some(topic) = Topic::new("what_a_replaced_attempt_begins", 1) else { return };
    let test = SinkTest::new(&topic, Kafka.sink(&exactly_once(&topic)).unwrap());
    // Cut off, and not stopped.
    let mut replaced = test.create(1);
    let next = test.committer(2);
    test.runtime.block_on(next.clean(&[])).unwrap();
    replaced.write(batch(&[1])).unwrap();
    let late = replaced.prepare(CheckpointId(1)).unwrap()().unwrap();
    let id = late[0]["transactionalId"].as_str().unwrap();
    let state = || topic.runtime.block_on(topic.client.describe(id)).unwrap().unwrap().state;
    assert_eq!(state(), "Ongoing");
    let mut alive = test.create(2);
    alive.write(batch(&[2])).unwrap();
    let pending = alive.prepare(CheckpointId(2)).unwrap()().unwrap();
    test.commit(2, &pending).unwrap();
    assert_eq!(state(), "Ongoing", "a committer that has not cleaned does not know what is to be kept");
    test.runtime.block_on(next.commit(&pending)).unwrap();
    assert_ne!(state(), "Ongoing");
    assert_eq!(topic.committed(), values(&[2]));
    assert_eq!(test.commit(3, &late).unwrap_err().kind, FailureKind::OutputLost);
}

#[test]
fn a_transaction_that_has_timed_out_is_lost_output_and_never_taken_for_committed() {
    let Some(topic) = Topic::new("a_transaction_timed_out", 1) else { return };
    let table = exactly_once(&topic).with("properties.transaction.timeout.ms", "1000");
    let test = SinkTest::new(&topic, Kafka.sink(&table).unwrap());
    let mut sink = test.create(1);
    sink.write(batch(&[1])).unwrap();
    let pending = sink.prepare(CheckpointId(1)).unwrap()().unwrap();
    let id = pending[0]["transactionalId"].as_str().unwrap().to_string();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let state = topic.runtime.block_on(topic.client.describe(&id)).unwrap().unwrap();
        if state.state == "CompleteAbort" {
            break;
        }
        assert!(Instant::now() < deadline, "it is still {}", state.state);
        std::thread::sleep(Duration::from_millis(50));
    }
    let lost = test.commit(2, &pending).unwrap_err();
    assert_eq!(lost.kind, FailureKind::OutputLost);
    assert!(lost.to_string().contains("transaction.timeout.ms"), "{lost}");
    assert!(topic.committed().is_empty());
}

#[test]
fn names_are_used_again_only_after_their_commit_is_forgotten() {
    let Some(topic) = Topic::new("names_are_used_again", 1) else { return };
    let test = SinkTest::new(&topic, Kafka.sink(&exactly_once(&topic)).unwrap());
    let mut sink = test.create(1);
    let committer = test.committer(1);
    let (mut ids, mut expected) = (std::collections::BTreeSet::new(), Vec::new());
    for n in 0..40 {
        sink.write(batch(&[n])).unwrap();
        let pending = sink.prepare(CheckpointId(n as u64 + 1)).unwrap()().unwrap();
        ids.insert(pending[0]["transactionalId"].as_str().unwrap().to_string());
        test.runtime.block_on(async {
            committer.commit(&pending).await.unwrap();
            committer.forget(&pending).await;
        });
        expected.push(n);
    }
    assert_eq!(topic.committed(), values(&expected));
    assert!(ids.len() <= 12, "{} names for one transaction at a time", ids.len());
}

#[test]
fn a_time_out_beyond_the_brokers_is_refused_at_the_start() {
    let Some(topic) = Topic::new("a_time_out_beyond", 1) else { return };
    let table = exactly_once(&topic).with("properties.transaction.timeout.ms", "86400000");
    let test = SinkTest::new(&topic, Kafka.sink(&table).unwrap());
    let error = test.factory.create(&test.context(1)).map(drop).unwrap_err().to_string();
    assert!(error.contains("transaction.max.timeout.ms"), "{error}");
}

#[test]
fn a_declaration_that_cannot_be_is_refused_with_what_to_do() {
    let table = |options: &[(&str, &str)]| {
        let fields = vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)];
        let table = TableSpec::new("t", Arc::new(Schema::new(fields)))
            .with("topic", "x")
            .with("properties.bootstrap.servers", "a:1")
            .with("format", "json")
            .with("scan.startup.mode", "earliest-offset");
        options.iter().fold(table, |table, (key, value)| table.with(key, value))
    };
    for (options, message, remedy) in [
        (&[("scan.startup.mode", "group-offsets")][..], "no group is named", "properties.group.id"),
        (&[("scan.startup.mode", "earliest")], "'earliest' is not", "earliest-offset"),
        (&[("scan.startup.timestamp-millis", "5")], "has no meaning", "'timestamp'"),
        (&[("scan.startup.mode", "timestamp")], "is missing", "milliseconds"),
        (&[("key.fields", "a")], "without 'key.format'", "key.format"),
        (&[("key.format", "json"), ("key.fields", "c")], "no such column", "names of columns"),
        (&[("key.format", "raw"), ("key.fields", "a;b")], "a raw key is one column", "another format"),
        (&[("value.format", "csv")], "mean the same", "one of them out"),
        (&[("csv.null-literal", "x")], "has no meaning with 'format' = 'json'", "other format"),
        (&[("json.ignore-errors", "true")], "has no option", "json.ignore-parse-errors"),
        (&[("properties.isolation.levle", "x")], "is not known", "isolation.level"),
        (&[("topic-pattern", "x.*")], "'topic' and 'topic-pattern'", "one of them"),
        (&[("scan.bounded.mode", "earliest-offset")], "is not", "latest-offset"),
        (&[("key.fields-prefix", "k_"), ("key.format", "json"), ("key.fields", "a")], "does not begin with", "name"),
    ] {
        let error = Kafka.source(&table(options)).map(drop).unwrap_err();
        assert!(error.to_string().contains(message), "{options:?}: {error}");
        assert!(error.remedy().contains(remedy), "{options:?}: {}", error.remedy());
    }
    let mut with_offset = table(&[]);
    with_offset.metadata.insert(0, Metadata { key: "offset".to_string(), is_virtual: false });
    let error = Kafka.sink(&with_offset).map(drop).unwrap_err();
    assert!(error.remedy().contains("VIRTUAL"), "{error}");
    let upserts = table(&[("key.format", "json"), ("value.format", "json")]);
    let error = UpsertKafka.accepts(&upserts).unwrap_err();
    assert!(error.to_string().contains("'format' has no meaning"), "{error}");
}
