//! How many events a second the stateful operators take on one core, in the shapes of Nexmark q15 to q18: batches of 4096
//! events of which 46 in 50 are bids, with the generator's hot auctions and bidders. State in memory, or in RocksDB, without
//! source, exchange and sink: it is for comparing versions of the operators.
//!
//! `cargo run --release -p weir-operators --example agg_bench -- [events] [backend]`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use support::{World, bools, ints, schema, strings, time_type, times};
use weir_engine::OperatorFactory;
use weir_operators::{
    AggregateFunction::{Avg, Count, Max, Min, Sum},
    AggregateInput, AggregateSpec, Aggregation, Deduplicate, DeduplicateSpec, Keep, KeyedAggregate, KeyedAggregateSpec,
    LocalAggregate, LocalAggregateSpec, TimeSource, WindowAggregate, WindowAggregateSpec, WindowShape,
};

const BATCH_EVENTS: i64 = 4096;

/// auction, bidder, price, channel, day, minute, time, three price classes, url, extra.
fn bids() -> SchemaRef {
    schema(&[
        ("auction", DataType::Int64, false),
        ("bidder", DataType::Int64, false),
        ("price", DataType::Int64, false),
        ("channel", DataType::Utf8, false),
        ("day", DataType::Utf8, false),
        ("minute", DataType::Utf8, false),
        ("time", time_type(), false),
        ("low", DataType::Boolean, false),
        ("middle", DataType::Boolean, false),
        ("high", DataType::Boolean, false),
        ("url", DataType::Utf8, false),
        ("extra", DataType::Utf8, false),
    ])
}

fn batch(first: i64, random: &mut SmallRng) -> RecordBatch {
    let events: Vec<i64> = (first..first + BATCH_EVENTS).filter(|e| e % 50 > 3).collect();
    let (mut auctions, mut bidders, mut prices, mut channels, mut urls) = (vec![], vec![], vec![], vec![], vec![]);
    for e in &events {
        let (people, items) = (e / 50 + 1, e / 50 * 3 + 3);
        let hot = random.random_range(0..2) > 0;
        auctions.push(1000 + if hot { items / 100 * 100 } else { random.random_range((items - 100).max(0)..items) });
        let hot = random.random_range(0..4) > 0;
        bidders.push(
            1000 + if hot { people / 100 * 100 + 1 } else { random.random_range((people - 1000).max(0)..people) },
        );
        prices.push(10_f64.powf(random.random::<f64>() * 6.0).round() as i64 * 100);
        let channel = random.random_range(0..10_000);
        let names = ["Google", "Facebook", "Baidu", "Apple"];
        channels.push(if channel % 2 == 0 { names[channel / 2 % 4].to_owned() } else { format!("channel-{channel}") });
        urls.push(format!("https://www.nexmark.com/abc/def/ghi/item.htm?query=1&channel_id={channel}"));
    }
    let flag = |f: &dyn Fn(i64) -> bool| bools(prices.iter().map(|p| Some(f(*p))));
    let text = |s: &dyn Fn(usize) -> String| strings((0..events.len()).map(|i| Some(s(i))));
    let extra: String = "x".repeat(40);
    RecordBatch::try_new(
        bids(),
        vec![
            ints(auctions.iter().copied().map(Some)),
            ints(bidders.iter().copied().map(Some)),
            ints(prices.iter().copied().map(Some)),
            strings(channels.iter().map(|c| Some(c.as_str()))),
            text(&|i| format!("2026-11-{:02}", events[i] / 4_000_000 + 1)),
            text(&|i| format!("{:02}:{:02}", events[i] / 6_000_000 % 24, events[i] / 100_000 % 60)),
            times(events.iter().map(|e| e / 100)),
            flag(&|p| p < 10_000),
            flag(&|p| (10_000..1_000_000).contains(&p)),
            flag(&|p| p >= 1_000_000),
            strings(urls.iter().map(|c| Some(c.as_str()))),
            text(&|_| extra.clone()),
        ],
    )
    .unwrap()
}

fn counts(minute: bool) -> Vec<AggregateSpec> {
    let mut list = Vec::new();
    if minute {
        list.push(AggregateSpec::new("minute", Max, 5));
    }
    list.push(AggregateSpec::count_star("total_bids"));
    list.extend((7..10).map(|f| AggregateSpec::count_star(format!("bids{f}")).filter(f)));
    for (name, column) in [("bidders", 1), ("auctions", 0)] {
        list.push(AggregateSpec::new(name, Count, column).distinct());
        list.extend((7..10).map(|f| AggregateSpec::new(format!("{name}{f}"), Count, column).distinct().filter(f)));
    }
    list
}

fn q17() -> Vec<AggregateSpec> {
    let mut list = vec![AggregateSpec::count_star("total_bids")];
    list.extend((7..10).map(|f| AggregateSpec::count_star(format!("bids{f}")).filter(f)));
    list.extend([("min", Min), ("max", Max), ("avg", Avg), ("sum", Sum)].map(|(n, f)| AggregateSpec::new(n, f, 2)));
    list
}

struct Query {
    name: &'static str,
    local: Option<LocalAggregate>,
    operator: Box<dyn OperatorFactory>,
}

fn aggregate(name: &'static str, group: Vec<usize>, aggregates: Vec<AggregateSpec>, two_phase: bool) -> Query {
    let aggregation = Aggregation { input: bids(), group, aggregates };
    let local = two_phase.then(|| {
        LocalAggregate::new(LocalAggregateSpec { aggregation: aggregation.clone(), window: None, retract_input: false })
            .unwrap()
    });
    let input = if two_phase { AggregateInput::Partials } else { AggregateInput::Rows };
    let spec = KeyedAggregateSpec { aggregation, input, retract_input: false, update_before: true };
    Query { name, local, operator: Box::new(KeyedAggregate::new(spec).unwrap()) }
}

fn window(name: &'static str, group: Vec<usize>, aggregate: AggregateSpec, shape: WindowShape) -> Query {
    let aggregation = Aggregation { input: bids(), group, aggregates: vec![aggregate] };
    let time = TimeSource::Event(6);
    let local =
        LocalAggregateSpec { aggregation: aggregation.clone(), window: Some((shape, time)), retract_input: false };
    let spec = WindowAggregateSpec { aggregation, input: AggregateInput::Partials, window: shape, time };
    Query {
        name,
        local: Some(LocalAggregate::new(local).unwrap()),
        operator: Box::new(WindowAggregate::new(spec).unwrap()),
    }
}

fn last_bid(update_before: bool) -> Query {
    let columns = [0, 1, 2, 3, 10, 6, 11];
    let input = schema(&columns.map(|c| {
        let schema = bids();
        let field = schema.field(c);
        let name: &'static str = Box::leak(field.name().clone().into_boxed_str());
        (name, field.data_type().clone(), false)
    }));
    let spec =
        DeduplicateSpec { input, keys: vec![1, 0], order: TimeSource::Event(5), keep: Keep::Last, update_before };
    let name = if update_before { "q18" } else { "q18 without -U" };
    Query { name, local: None, operator: Box::new(Deduplicate::new(spec).unwrap()) }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let events: i64 = arguments.next().and_then(|a| a.parse().ok()).unwrap_or(2_000_000);
    let backend = arguments.next().unwrap_or_else(|| "memory".to_owned());
    let mut random = SmallRng::seed_from_u64(42);
    let batches: Vec<RecordBatch> = (0..events / BATCH_EVENTS).map(|i| batch(i * BATCH_EVENTS, &mut random)).collect();
    let queries = [
        aggregate(
            "kc (two-phase)",
            vec![1],
            vec![AggregateSpec::count_star("c"), AggregateSpec::new("s", Sum, 2)],
            true,
        ),
        aggregate("q15 (one-phase)", vec![4], counts(false), false),
        aggregate("q15 (two-phase)", vec![4], counts(false), true),
        aggregate("q16 (one-phase)", vec![3, 4], counts(true), false),
        aggregate("q16 (two-phase)", vec![3, 4], counts(true), true),
        aggregate("q17 (one-phase)", vec![0, 4], q17(), false),
        aggregate("q17 (two-phase)", vec![0, 4], q17(), true),
        window("q5 (hop)", vec![0], AggregateSpec::count_star("c"), WindowShape::hop(2000, 10_000)),
        window("q7 (tumble)", vec![], AggregateSpec::new("m", Max, 2), WindowShape::tumble(10_000)),
        last_bid(true),
        last_bid(false),
    ];
    println!("{:18} {:>12} {:>12} {:>12} {:>12}", "query", "events/s", "local ns/ev", "keyed ns/ev", "rows out");
    for query in queries {
        run(&query, &batches, &backend);
    }
}

fn run(query: &Query, batches: &[RecordBatch], backend: &str) {
    let mut world = World::with_backend(backend);
    let mut local = query.local.as_ref().map(|l| world.start(l, 1, &[]).remove(0));
    let mut subtasks = world.start(query.operator.as_ref(), 1, &[]);
    let (mut before, mut after, mut rows) = (0.0, 0.0, 0);
    for (i, batch) in batches.iter().enumerate() {
        let batch = if query.name.starts_with("q18") {
            batch.project(&[0, 1, 2, 3, 10, 6, 11]).unwrap()
        } else {
            batch.clone()
        };
        let began = Instant::now();
        let inputs: Vec<RecordBatch> = match &mut local {
            None => vec![batch],
            Some(local) => {
                local.process(batch);
                if i % 10 == 9 {
                    local.timers(i64::MAX);
                }
                local.take().into_iter().map(|b| b.rows).collect()
            }
        };
        let middle = Instant::now();
        for input in inputs {
            subtasks[0].process(input);
        }
        let watermark = (i as i64 + 1) * BATCH_EVENTS / 100 - 1;
        subtasks[0].watermark(watermark);
        rows += subtasks[0].take().iter().map(weir_engine::Batch::len).sum::<usize>();
        after += middle.elapsed().as_secs_f64();
        before += (middle - began).as_secs_f64();
    }
    let events = batches.len() as f64 * BATCH_EVENTS as f64;
    println!(
        "{:18} {:>12.0} {:>12.1} {:>12.1} {:>12}",
        query.name,
        events / (before + after),
        before / events * 1e9,
        after / events * 1e9,
        rows
    );
}
