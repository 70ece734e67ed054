//! How many events a CPU-second the Nexmark source makes, in the shapes that a query may ask for. One thread.
//!
//! `cargo run --release -p weir-connectors --example nexmark_rate [events]`

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::{DataType, Schema, SchemaRef};
use weir_connectors::{ConnectorRegistry, TableSpec, nexmark_schema};
use weir_engine::api::clock::SystemClock;
use weir_engine::api::counters::Counters;
use weir_engine::api::source::{SourceContext, SourcePoll, Waker};

/// The worker's allocator: the system's gives large buffers back at once, and every batch would pay for fresh pages.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What the engine asks for at a time.
const BATCH: usize = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let events: u64 = std::env::args().nth(1).map_or(Ok(10_000_000), |text| text.parse())?;
    let rows = nexmark_schema();
    let bids = bids(&rows)?;
    let flat =
        |all: &str| TableSpec::new("bids", Arc::clone(&bids)).with("type", "bid").with("generate.all-columns", all);
    let mut only_bids = TableSpec::new("events", Arc::clone(&rows));
    only_bids.projection = Some(vec![0, 3]);
    let mut two_columns = flat("false");
    two_columns.projection = Some(vec![1, 2]);
    println!("{:<44} {:>12} {:>16}", "columns", "events/s", "per CPU-second");
    for (name, table) in [
        ("event_type and three ROWs", TableSpec::new("events", rows)),
        ("event_type and the ROW of bids", only_bids),
        ("bids flat, every column of every kind made", flat("true")),
        ("bids flat, all of a bid's columns", flat("false")),
        ("bids flat, bidder and price", two_columns),
    ] {
        // Twice, so that the shared data and the allocator are warm.
        run(&table, events / 10)?;
        let (time, cpu) = run(&table, events)?;
        let per = |time: Duration| (events as f64 / time.as_secs_f64()) as u64;
        println!("{name:<44} {:>12} {:>16}", per(time), per(cpu));
    }
    Ok(())
}

fn bids(rows: &SchemaRef) -> Result<SchemaRef, Box<dyn Error>> {
    match rows.field_with_name("bid")?.data_type() {
        DataType::Struct(fields) => Ok(Arc::new(Schema::new(fields.clone()))),
        other => Err(format!("bid is no ROW but {other}").into()),
    }
}

fn run(table: &TableSpec, events: u64) -> Result<(Duration, Duration), Box<dyn Error>> {
    let table = table.clone().with("connector", "nexmark").with("events.num", &events.to_string());
    let factory = ConnectorRegistry::with_builtin().source(&table)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut source = factory.create(&SourceContext {
        subtask: 0,
        parallelism: 1,
        splits: factory.splits(1)?,
        counters: Arc::new(Counters::default()),
        clock: Arc::new(SystemClock),
        waker: Waker::none(),
        runtime: runtime.handle().clone(),
    })?;
    let (start, cpu) = (Instant::now(), cpu_time()?);
    while !matches!(source.poll(BATCH)?, SourcePoll::End) {}
    Ok((start.elapsed(), cpu_time()?.saturating_sub(cpu)))
}

/// What this thread has spent on a processor.
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let text = std::fs::read_to_string(Path::new("/proc/thread-self/schedstat"))?;
    let nanoseconds = text.split_whitespace().next().ok_or("schedstat is empty")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}
