//! Measures the client against a broker: `rate SERVERS [RECORDS] [COMPRESSION]`. A topic of four partitions is written in
//! transactions of 100,000 records of 100 bytes, and read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use weir_kafka::{
    Assigned, Client, Compression, Ended, Fetcher, FetcherSettings, NewTopic, Producer, ProducerSettings, Row,
    Settings, Uuid,
};

const PARTITIONS: usize = 4;
const IN_TRANSACTION: usize = 100_000;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let servers = arguments.next().ok_or("rate SERVERS [RECORDS] [COMPRESSION]")?;
    let records: usize = arguments.next().map_or(Ok(5_000_000), |text| text.parse())?;
    let packing = arguments.next().unwrap_or_else(|| "none".to_string());
    let compression = Compression::named(&packing).ok_or("no such compression")?;
    let client = Client::new(Settings::new(servers.split(',').map(str::to_string).collect()))?;
    let topic = format!("rate-{}", Uuid::new_v4());
    client.create_topic(&NewTopic::new(&topic, PARTITIONS as i32)).await?;

    let value = [b'x'; 100];
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as i64;
    let start = Instant::now();
    for first in (0..records).step_by(IN_TRANSACTION) {
        let transaction = client.begin("rate", Duration::from_mins(1)).await?;
        let settings = ProducerSettings { compression, ..ProducerSettings::default() };
        let (runtime, by) = (Handle::current(), transaction.producer);
        let writer =
            Producer::start(client.clone(), &runtime, settings, &topic, PARTITIONS, by, Some(transaction.clone()));
        for i in first..(first + IN_TRANSACTION).min(records) {
            writer.add(i % PARTITIONS, &Row { value: Some(&value), timestamp: now, ..Row::default() })?;
            if writer.is_full() {
                writer.room().await?;
            }
        }
        writer.flush().await?;
        if client.end(&transaction, true).await? != Ended::Done {
            return Err("a transaction was lost".into());
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "written {:.0} records/s, {:.1} MB/s, in transactions",
        records as f64 / seconds,
        records as f64 / seconds / 1e4
    );

    let id = client.topic(&topic).await?.id;
    let assigned = (0..PARTITIONS).map(|partition| Assigned {
        topic: topic.clone(),
        topic_id: id,
        partition: partition as i32,
        offset: 0,
    });
    let woken = Arc::new(Notify::new());
    let wakes = Arc::clone(&woken);
    let start = Instant::now();
    let fetcher =
        Fetcher::start(client.clone(), &Handle::current(), FetcherSettings::default(), assigned.collect(), move || {
            wakes.notify_one();
        });
    let mut read = 0;
    while read < records {
        if let Some((_, error)) = fetcher.failure() {
            return Err(error.into());
        }
        let mut some = false;
        for partition in 0..PARTITIONS {
            while let Some(mut chunk) = fetcher.take(partition) {
                some = true;
                while let Some((_, _, records)) = chunk.next_batch()? {
                    read += records.len();
                }
            }
        }
        if !some {
            woken.notified().await;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("read {:.0} records/s, {:.1} MB/s", read as f64 / seconds, read as f64 / seconds / 1e4);
    Ok(())
}
