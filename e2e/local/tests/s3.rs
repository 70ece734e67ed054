//! A job whose checkpoints, input and output are all in buckets of a real S3 server, with workers killed on the way.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;

use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use tokio::runtime::Runtime;
use weir_e2e_local::{Job, Settings};
use weir_storage::minio::Minio;

const FILES: u64 = 4;
const ROWS_A_FILE: u64 = 10_000;
const KEYS: u64 = 100;
const KILLS: usize = 3;

/// The server and a runtime to ask it with.
struct Buckets {
    server: Minio,
    runtime: Runtime,
}

impl Buckets {
    fn keys(&self, bucket: &str, below: &str) -> Vec<String> {
        let client = self.server.client(bucket);
        let list = client.list(Some(&Path::from(below))).map_ok(|object| object.location.to_string());
        self.runtime.block_on(list.try_collect()).unwrap()
    }

    /// Objects of the output that readers see.
    fn published(&self) -> Vec<String> {
        let mut keys = self.keys("data", "out");
        keys.retain(|key| !key.starts_with("out/_unfinished/"));
        keys
    }

    fn text(&self, bucket: &str, key: &str) -> String {
        let client = self.server.client(bucket);
        let bytes = self.runtime.block_on(async { client.get(&Path::from(key)).await?.bytes().await }).unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    /// Records that are not empty: those of retired checkpoints are.
    fn checkpoints(&self) -> usize {
        self.keys("jobs", "buckets").iter().filter(|key| key.contains("/parts/")).count()
    }

    /// The counts that the changelog leaves; fails where a row of it comes twice.
    fn counts(&self) -> BTreeMap<u64, u64> {
        let mut rows: BTreeMap<(u64, u64), i64> = BTreeMap::new();
        for key in self.published() {
            for line in self.text("data", &key).lines() {
                let row: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
                let key = (row["k"].as_u64().unwrap(), row["c"].as_u64().unwrap());
                *rows.entry(key).or_default() += if row["op"] == "-U" { -1 } else { 1 };
            }
        }
        rows.retain(|_, n| *n != 0);
        assert!(rows.values().all(|n| *n == 1), "a count was reached twice");
        rows.into_keys().collect()
    }
}

#[test]
fn checkpoints_input_and_output_in_buckets_are_exact_through_kills() {
    let test = "checkpoints_input_and_output_in_buckets_are_exact_through_kills";
    let Some(server) = Minio::start(test, &["jobs", "data"]) else { return };
    let buckets = Buckets { server, runtime: Runtime::new().unwrap() };
    let client = buckets.server.client("data");
    for file in 0..FILES {
        let rows: String = (0..ROWS_A_FILE).map(|row| format!("{}\n", file * ROWS_A_FILE + row)).collect();
        buckets.runtime.block_on(client.put(&Path::from(format!("in/{file}.csv")), rows.into())).unwrap();
    }
    let endpoint = buckets.server.endpoint();
    let sql = format!(
        "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 's3://data/in', 'format' = 'csv',
  's3.endpoint' = '{endpoint}', 'scan.rate-limit' = '4000');
CREATE TABLE sums (k BIGINT, c BIGINT) WITH ('connector' = 'filesystem', 'path' = 's3://data/out', 'format' = 'json',
  's3.endpoint' = '{endpoint}', 'changelog' = 'true');
INSERT INTO sums SELECT MOD(n, {KEYS}), COUNT(*) FROM numbers GROUP BY MOD(n, {KEYS});"
    );
    let storage = format!("{{url: \"s3://jobs/buckets\", endpoint: \"{endpoint}\", region: us-east-1}}");
    let settings = Settings { storage: Some(storage), ..Settings::default() };
    let mut job = Job::new("buckets", &settings, &sql);
    job.environment = buckets.server.environment().to_vec();
    job.environment.retain(|(name, _)| *name != "AWS_ENDPOINT_URL");

    let mut weir = job.start(&[]);
    for _ in 0..KILLS {
        let seen = buckets.published().len();
        weir.until("output of another checkpoint", || buckets.published().len() > seen);
        if let Some(worker) = weir.workers().first() {
            weir.kill_worker(*worker);
        }
    }
    weir.succeed();
    assert!(buckets.checkpoints() > 0, "the state is in the other bucket");
    let counts = buckets.counts();
    assert_eq!(counts.len() as u64, KEYS);
    assert!(counts.values().all(|count| *count == FILES * ROWS_A_FILE / KEYS), "{counts:?}");
}
