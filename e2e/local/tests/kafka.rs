//! From Kafka through state to Kafka, exactly once, while workers, `weir` itself and the broker are killed: a reader of what is
//! committed finds every record once, and no transaction is left open.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::RngExt;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::runtime::Runtime;
use weir_e2e_local::{Job, Settings, Weir, seeded};
use weir_kafka::testing::{Kafka, PASSWORD, USER, Wishes};
use weir_kafka::{
    Assigned, At, Client, Fetcher, FetcherSettings, Identity, Isolation, NewTopic, Producer, ProducerSettings, Row,
};

/// `make soak` asks for a hundred.
const KILLS: u32 = 10;
const KEYS: i64 = 500;
const PARTITIONS: i32 = 4;
/// Rows for so many of which the job has to run a second, and seconds for each kill.
const RATE: i64 = 4_000;
const SECONDS_A_KILL: i64 = 3;
const PATIENCE: Duration = Duration::from_mins(2);
const TRANSACTION_TIMEOUT: Duration = Duration::from_mins(5);

struct World {
    kafka: Kafka,
    client: Client,
    runtime: Runtime,
}

impl World {
    fn new(test: &str) -> Option<Self> {
        // A restarted broker must be found where it was.
        let kafka = Kafka::start(test, &Wishes::default())?;
        let client = kafka.client();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        for (name, partitions) in [("numbers", PARTITIONS), ("copies", PARTITIONS), ("sums", PARTITIONS)] {
            runtime.block_on(client.create_topic(&NewTopic::new(name, partitions))).unwrap();
        }
        Some(Self { kafka, client, runtime })
    }

    fn sql(&self, rows: i64, guarantee: &str) -> String {
        let kafka = format!("'properties.bootstrap.servers' = '{}'", self.kafka.servers());
        let sink = format!(
            "{kafka}, 'sink.delivery-guarantee' = '{guarantee}', 'properties.transaction.timeout.ms' = '{}'",
            TRANSACTION_TIMEOUT.as_millis()
        );
        let stops: Vec<_> = (0..PARTITIONS)
            .map(|partition| format!("partition:{partition},offset:{}", of_partition(rows, partition)))
            .collect();
        format!(
            "CREATE TABLE numbers (n BIGINT, at TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL, part INT METADATA FROM 'partition' VIRTUAL)
  WITH ('connector' = 'kafka', 'topic' = 'numbers', {kafka}, 'properties.group.id' = 'the-job', 'format' = 'json', 'scan.startup.mode' = 'earliest-offset',
  'scan.bounded.mode' = 'specific-offsets', 'scan.bounded.specific-offsets' = '{}');
CREATE TABLE copies (n BIGINT, part INT) WITH ('connector' = 'kafka', 'topic' = 'copies', {sink}, 'format' = 'json');
CREATE TABLE sums (k BIGINT, c BIGINT, s BIGINT, PRIMARY KEY (k) NOT ENFORCED)
  WITH ('connector' = 'upsert-kafka', 'topic' = 'sums', {sink}, 'key.format' = 'json', 'value.format' = 'json');
INSERT INTO copies SELECT n, part FROM numbers;
INSERT INTO sums SELECT MOD(n, {KEYS}), COUNT(*), SUM(n) FROM numbers GROUP BY MOD(n, {KEYS});",
            stops.join(";")
        )
    }

    fn verify(&self, rows: i64) {
        let committed = |topic| committed(&self.runtime, &self.client, topic, PARTITIONS);
        let copies = committed("copies");
        let mut seen = BTreeSet::new();
        for copy in &copies {
            let (n, part) = (copy["n"].as_i64().unwrap(), copy["part"].as_i64().unwrap());
            assert!(seen.insert(n), "{n} was written twice");
            assert_eq!(part, n % i64::from(PARTITIONS), "where {n} was read");
        }
        assert_eq!(seen.len() as i64, rows, "{} rows were lost", rows - seen.len() as i64);
        let mut reached: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        for sum in committed("sums") {
            let [k, c, s] = ["k", "c", "s"].map(|name| sum[name].as_i64().unwrap());
            let before = reached.insert(k, (c, s));
            assert!(before.is_none_or(|(before, _)| before < c), "key {k} reached {c} after {before:?}");
        }
        for k in 0..KEYS {
            let (count, sum) = (k..rows).step_by(KEYS as usize).fold((0, 0), |(c, s), n| (c + 1, s + n));
            assert_eq!(reached.get(&k), Some(&(count, sum)), "key {k}");
        }
        let open = self.runtime.block_on(self.client.open_transactions("")).unwrap();
        assert!(open.is_empty(), "transactions are left open: {open:?}");
    }
}

/// All values of a topic for readers of what is committed, in the order of each partition.
fn committed(runtime: &Runtime, client: &Client, topic: &str, partitions: i32) -> Vec<serde_json::Value> {
    let id = runtime.block_on(client.topic(topic)).unwrap().id;
    let mut found = Vec::new();
    for partition in 0..partitions {
        let asked = [(topic.to_string(), partition, At::Latest)];
        let key = (topic.to_string(), partition);
        let end = |isolation| runtime.block_on(client.list_offsets(&asked, isolation)).unwrap()[&key].unwrap();
        // A broker says that a transaction has ended before its partitions show it. What is left open stays so for longer.
        let shown = Instant::now() + TRANSACTION_TIMEOUT / 5;
        let mut ends = (end(Isolation::ReadCommitted), end(Isolation::ReadUncommitted));
        while ends.0 != ends.1 && Instant::now() < shown {
            std::thread::sleep(Duration::from_millis(50));
            ends = (end(Isolation::ReadCommitted), end(Isolation::ReadUncommitted));
        }
        let (stable, high) = ends;
        assert!(stable == high, "{topic}, partition {partition}: {}", still_open(runtime, client, topic, partition));
        let assigned = Assigned { topic: topic.to_string(), topic_id: id, partition, offset: 0 };
        let settings = FetcherSettings::default();
        let fetcher = Fetcher::start(client.clone(), runtime.handle(), settings, vec![assigned], || ());
        let (mut at, deadline) = (0, Instant::now() + PATIENCE);
        while at < stable {
            assert!(Instant::now() < deadline, "{topic} was not read in time: {:?}", fetcher.failure());
            let Some(mut chunk) = fetcher.take(0) else {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            };
            while let Some((_, buffer, records)) = chunk.next_batch().unwrap() {
                let values = records.into_iter().filter_map(|record| record.value);
                found.extend(values.map(|range| serde_json::from_slice::<serde_json::Value>(&buffer[range]).unwrap()));
            }
            at = chunk.end;
        }
    }
    found
}

/// Who holds up the readers of a partition, as its leader and the coordinators know it.
fn still_open(runtime: &Runtime, client: &Client, topic: &str, partition: i32) -> String {
    let producers = runtime.block_on(client.producers(topic, partition)).unwrap();
    let open: Vec<_> = producers.into_iter().filter(|producer| producer.open_from.is_some()).collect();
    let listed = runtime.block_on(client.transactions("")).unwrap();
    let ids = listed
        .iter()
        .filter(|listed| listed.state == "Ongoing" || open.iter().any(|producer| producer.id == listed.producer_id));
    let known: Vec<_> =
        ids.map(|listed| (&listed.id, runtime.block_on(client.describe(&listed.id)).unwrap())).collect();
    format!("a transaction is open: {open:?}; the coordinators say {known:?}")
}

/// How many of so many rows a partition has.
fn of_partition(rows: i64, partition: i32) -> i64 {
    (i64::from(partition)..rows).step_by(PARTITIONS as usize).count() as i64
}

/// Writes the numbers, in their order, at this rate and no further than is allowed, whatever becomes of the broker meanwhile.
fn feed(client: Client, rows: i64, rate: i64, allowed: Arc<AtomicI64>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let identity = runtime.block_on(client.init_producer(None)).unwrap();
        let settings = ProducerSettings::default();
        let producer =
            Producer::start(client, runtime.handle(), settings, "numbers", PARTITIONS as usize, identity, None);
        let began = Instant::now();
        for n in 0..rows {
            let due = Duration::from_secs_f64(n as f64 / rate as f64);
            // Once all is allowed the rest comes as fast as it can.
            let waits = |allowed: i64| n >= allowed || (allowed < rows && began.elapsed() < due);
            while waits(allowed.load(Ordering::Relaxed)) {
                std::thread::sleep(Duration::from_millis(5));
            }
            let text = format!("{{\"n\":{n}}}");
            // A broker that starts again forgets producers whose last record seems to be older than a day, and then takes for new
            // what they send again.
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
            let row = Row { value: Some(text.as_bytes()), timestamp: now, ..Row::default() };
            producer.add((n % i64::from(PARTITIONS)) as usize, &row).unwrap();
            runtime.block_on(producer.room()).unwrap();
        }
        runtime.block_on(producer.flush()).unwrap();
    })
}

fn start(job: &Job) -> Weir {
    job.start(&[])
}

#[test]
fn every_record_comes_once_through_kills_of_workers_and_of_weir() {
    through_kills(false);
}

#[test]
fn every_record_comes_once_through_kills_of_the_broker_too() {
    through_kills(true);
}

fn through_kills(of_the_broker: bool) {
    let Some(mut world) = World::new("every_record_comes_once_through_kills") else { return };
    let mut random = seeded("kafka kills");
    let kills = std::env::var("WEIR_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let restart = "  restart: {initialBackoff: 10ms, maxBackoff: 200ms}\n".to_string();
    let settings =
        Settings { workers: 2, slots: 2, standby: 1, interval: "250ms", more: restart, ..Settings::default() };
    let rows = (i64::from(kills) + 1) * SECONDS_A_KILL * RATE;
    let job = Job::new("kafka", &settings, &world.sql(rows, "exactly-once"));
    // The job cannot end before it was killed often enough.
    let of_a_kill = SECONDS_A_KILL * RATE;
    let allowed = Arc::new(AtomicI64::new(of_a_kill));
    let feeding = feed(world.client.clone(), rows, RATE, Arc::clone(&allowed));
    let mut weir = start(&job);
    let (mut killed, mut whole, mut brokers) = (0, 0, 0);
    // What plans the script is a process too, and no worker.
    let mut starting = true;
    while killed < kills {
        allowed.store((i64::from(killed) + 1) * of_a_kill, Ordering::Relaxed);
        let kind = random.random_range(0..10);
        if kind > 1 || std::mem::take(&mut starting) {
            let seen = job.newest_id();
            weir.until("a checkpoint after the last kill", || job.newest_id() > seen);
        }
        std::thread::sleep(Duration::from_millis(random.random_range(0..700)));
        assert!(!weir.has_ended(), "the job ended before it was killed {kills} times\n{}", weir.said());
        match kind {
            9 => {
                weir.kill();
                weir = start(&job);
                starting = true;
                whole += 1;
                killed += 1;
            }
            8 if of_the_broker => {
                world.kafka.kill(0);
                std::thread::sleep(Duration::from_millis(random.random_range(0..1000)));
                world.kafka.revive(0);
                brokers += 1;
                killed += 1;
            }
            _ => {
                let mut workers = weir.workers();
                if !workers.is_empty() {
                    let victim = workers.swap_remove(random.random_range(0..workers.len()));
                    killed += u32::from(weir.kill_worker(victim));
                }
            }
        }
    }
    allowed.store(rows, Ordering::Relaxed);
    feeding.join().unwrap();
    weir.succeed();
    println!(
        "{killed} kills: {whole} of weir itself, {brokers} of the broker; {rows} rows, checkpoint {}",
        job.newest_id()
    );
    world.verify(rows);
}

#[test]
fn without_a_kill_every_record_comes_once() {
    let Some(world) = World::new("without_a_kill_every_record") else { return };
    let job = Job::new("kafka-whole", &Settings::default(), &world.sql(20_000, "exactly-once"));
    let feeding = feed(world.client.clone(), 20_000, 1_000_000, Arc::new(AtomicI64::new(20_000)));
    start(&job).succeed();
    feeding.join().unwrap();
    world.verify(20_000);
    let noted = world.runtime.block_on(world.client.group_offsets("the-job", &[("numbers".to_string(), 0)])).unwrap();
    assert_eq!(noted.values().copied().collect::<Vec<_>>(), [5_000], "the group's offset follows the checkpoint");
}

const DOCS: &str = include_str!("../../../docs/connectors/kafka.md");

/// The first script of the documentation, as it stands there.
#[test]
fn the_example_of_the_documentation_runs() {
    let Some(kafka) = Kafka::start("the_example_of_the_documentation", &Wishes::default()) else { return };
    let (_, script) = DOCS.split_once("```sql\n").expect("an example");
    let (script, _) = script.split_once("```").expect("its end");
    let (client, runtime) = (kafka.client(), Runtime::new().unwrap());
    for name in ["orders", "revenue"] {
        runtime.block_on(client.create_topic(&NewTopic::new(name, 1))).unwrap();
    }
    let producer = {
        let _entered = runtime.enter();
        let settings = ProducerSettings::default();
        Producer::start(client.clone(), runtime.handle(), settings, "orders", 1, Identity::NONE, None)
    };
    for (id, customer, amount) in [(1, "ada", "10.50"), (2, "bob", "1.25"), (3, "ada", "4.50")] {
        let text = format!("{{\"id\":{id},\"customer\":\"{customer}\",\"amount\":{amount}}}");
        producer.add(0, &Row { value: Some(text.as_bytes()), timestamp: 1, ..Row::default() }).unwrap();
    }
    runtime.block_on(producer.flush()).unwrap();
    let job = Job::new("docs", &Settings::default(), &script.replace("localhost:9092", &kafka.servers()));
    start(&job).succeed();
    let rows = committed(&runtime, &client, "revenue", 1);
    let last = |customer: &str| rows.iter().rfind(|row| row["customer"] == customer).expect("a row").clone();
    assert_eq!(last("ada"), serde_json::json!({"customer": "ada", "orders": 2, "amount": 15.00}));
    assert_eq!(last("bob"), serde_json::json!({"customer": "bob", "orders": 1, "amount": 1.25}));
}

/// An authority, and what it signs for the broker and for a client, as files.
fn certificates(folder: &Path) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    std::fs::write(folder.join("authority.pem"), authority.pem()).unwrap();
    let issuer = Issuer::from_params(&params, &key);
    for (name, host) in [("broker", "127.0.0.1"), ("client", "client")] {
        let key = KeyPair::generate().unwrap();
        let signed = CertificateParams::new(vec![host.to_string()]).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), format!("{}{}", key.serialize_pem(), signed.pem())).unwrap();
    }
}

/// Every worker of a job shows what the broker demands: a name and password in each way, or a certificate.
#[test]
fn a_job_reads_and_writes_where_the_broker_demands_certificates_or_passwords() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let file = |name: &str| folder.path().join(name);
    let wishes = Wishes { tls: Some((file("broker.pem"), file("authority.pem"))), ..Wishes::default() };
    let Some(kafka) = Kafka::start("a_job_reads_and_writes_where_the_broker_demands", &wishes) else { return };
    let (client, runtime) = (kafka.client(), Runtime::new().unwrap());
    let rows = 1_000;
    let trust = format!("'properties.ssl.truststore.location' = '{}'", file("authority.pem").display());
    let sasl = |mechanism: &str, module: &str, password: &str| {
        format!(
            "'properties.bootstrap.servers' = '{}', {trust}, 'properties.security.protocol' = 'SASL_SSL', 'properties.sasl.mechanism' = '{mechanism}',
  'properties.sasl.jaas.config' = 'org.apache.kafka.common.security.{module} required username=\"{USER}\" password=\"{password}\";'",
            kafka.sasl_server()
        )
    };
    let tls = format!(
        "'properties.bootstrap.servers' = '{}', {trust}, 'properties.security.protocol' = 'SSL', 'properties.ssl.keystore.location' = '{}'",
        kafka.tls_server(),
        file("client.pem").display()
    );
    let ways = [
        sasl("SCRAM-SHA-512", "scram.ScramLoginModule", PASSWORD),
        sasl("SCRAM-SHA-256", "scram.ScramLoginModule", PASSWORD),
        sasl("PLAIN", "plain.PlainLoginModule", PASSWORD),
        tls,
    ];
    // Each is written in one way and read in the next.
    let topics: Vec<_> = (0..ways.len()).map(|way| format!("secured-{way}")).collect();
    for topic in &topics {
        runtime.block_on(client.create_topic(&NewTopic::new(topic, PARTITIONS))).unwrap();
    }
    let once = "'sink.delivery-guarantee' = 'exactly-once', 'properties.transaction.timeout.ms' = '60000'";
    let table = |name: &str, topic: &str, more: &str| {
        format!(
            "CREATE TABLE {name} (n BIGINT) WITH ('connector' = 'kafka', 'topic' = '{topic}', 'format' = 'json', {more});\n"
        )
    };
    for (way, secured) in ways.iter().enumerate() {
        let mut sql = if way == 0 {
            let rows = format!(
                "'connector' = 'datagen', 'number-of-rows' = '{rows}', 'fields.n.kind' = 'sequence', 'fields.n.start' = '1', 'fields.n.end' = '{rows}'"
            );
            format!("CREATE TABLE source (n BIGINT) WITH ({rows});\n")
        } else {
            let bounds = "'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset'";
            table("source", &topics[way - 1], &format!("{}, {bounds}", ways[way]))
        };
        sql += &table("sink", &topics[way], &format!("{secured}, {once}"));
        sql += "INSERT INTO sink SELECT n FROM source;";
        let settings = Settings { workers: 1, ..Settings::default() };
        start(&Job::new(&format!("secured-{way}"), &settings, &sql)).succeed();
        let mut seen: Vec<_> = committed(&runtime, &client, &topics[way], PARTITIONS)
            .iter()
            .map(|value| value["n"].as_i64().unwrap())
            .collect();
        seen.sort_unstable();
        assert!(seen.iter().copied().eq(1..=rows), "way {way}: {} rows", seen.len());
    }
    let wrong = table(
        "source",
        &topics[0],
        &format!(
            "{}, 'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset'",
            sasl("PLAIN", "plain.PlainLoginModule", "not it")
        ),
    );
    let sql = format!(
        "{wrong}CREATE TABLE sink (n BIGINT) WITH ('connector' = 'blackhole');\nINSERT INTO sink SELECT n FROM source;"
    );
    let settings = Settings { workers: 1, more: "  restart: {maxFailures: 0}\n".to_string(), ..Settings::default() };
    let (status, said) = start(&Job::new("secured-wrong", &settings, &sql)).wait();
    assert!(!status.success(), "{said}");
    assert!(said.contains("properties.sasl.jaas.config") && !said.contains("not it"), "{said}");
}
