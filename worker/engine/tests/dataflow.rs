//! The data plane as a whole: two stages on one or two workers, checkpoints at random points, stops and restores.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use support::{Checkpoint, Count, Deployment, Numbers, Published, WIDTH, Windows, column, graph, owner_of};
use weir_engine::data::dataflow::RunningAttempt;
use weir_engine::{
    Batch, Committer, Edge, Exchange, Item, ItemKind, JobGraph, Operator, OperatorContext, OperatorError,
    OperatorFactory, OperatorSnapshot, Output, Progress, Stage, StageHead, StageId,
};
use weir_protocol::settings::{CheckpointMode, FailureKind};

const KEYS: i64 = 13;

struct Bench {
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    numbers: Numbers,
    published: Published,
    graph: Arc<JobGraph>,
}

impl Bench {
    fn new(splits: usize, rows: i64, exchange: Exchange, operator: Arc<dyn OperatorFactory>) -> Self {
        Self::failing(splits, rows, exchange, operator, None)
    }

    fn failing(
        splits: usize,
        rows: i64,
        exchange: Exchange,
        operator: Arc<dyn OperatorFactory>,
        fail_at: Option<i64>,
    ) -> Self {
        let numbers = Numbers { splits, rows, keys: KEYS, allowed: Arc::new(AtomicI64::new(i64::MAX)), fail_at };
        let published = Published::default();
        let graph = Arc::new(graph(&numbers, exchange, operator, &published));
        Self {
            folder: tempfile::tempdir().unwrap(),
            runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap(),
            numbers,
            published,
            graph,
        }
    }

    fn allow(&self, rows: i64) {
        self.numbers.allowed.store(rows, Ordering::SeqCst);
    }

    fn deploy<'a>(&'a self, placement: &[u32], restore: Option<&'a Checkpoint>) -> Deployment<'a> {
        let mut next = 0;
        let placement = placement.iter().map(|slots| {
            next += slots;
            next - slots..next
        });
        Deployment {
            graph: &self.graph,
            placement: placement.collect(),
            mode: CheckpointMode::ExactlyOnce,
            alignment_timeout: None,
            restore,
            folder: self.folder.path(),
            runtime: &self.runtime,
        }
    }

    fn commit(&self, checkpoint: &Checkpoint) {
        self.runtime.block_on(Committer::commit(&self.published, &checkpoint.pending)).unwrap();
    }

    /// Runs to the end with checkpoints and stops at random points, and rescales where it may.
    fn run_with_stops(&self, seed: u64, placements: &[&[u32]]) {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let mut last: Option<Checkpoint> = None;
        let (mut id, mut allowed) = (0, 0);
        loop {
            let placement = placements[random.random_range(0..placements.len())];
            let mut workers = self.deploy(placement, last.as_ref()).start().unwrap();
            let mut stop_in = random.random_range(1..5);
            loop {
                allowed = (allowed + random.random_range(0..self.numbers.rows / 6)).min(self.numbers.rows);
                self.allow(allowed);
                if allowed == self.numbers.rows && random.random_bool(0.5) {
                    workers.all_finished().unwrap();
                }
                id += 1;
                workers.trigger(id);
                stop_in -= 1;
                if stop_in == 0 && random.random_bool(0.5) {
                    break;
                }
                let checkpoint = workers.complete(id).unwrap();
                self.commit(&checkpoint);
                let finished = checkpoint.finished;
                last = Some(checkpoint);
                if finished {
                    workers.stop();
                    return;
                }
                if stop_in == 0 {
                    break;
                }
            }
            workers.stop();
        }
    }
}

fn hash() -> Exchange {
    Exchange::Hash { keys: vec![0] }
}

/// Every count of every key once: split s has rows 0..rows, and row n has key n % KEYS.
fn expected_counts(splits: i64, rows: i64) -> Vec<(i64, i64)> {
    (0..KEYS)
        .flat_map(|key| {
            let of_key = (rows - key + KEYS - 1) / KEYS * splits;
            (1..=of_key).map(move |count| (key, count))
        })
        .collect()
}

fn expected_windows(splits: i64, rows: i64) -> Vec<(i64, i64)> {
    let mut sums = BTreeMap::<(i64, i64), i64>::new();
    for n in 0..rows {
        *sums.entry(((n / WIDTH + 1) * WIDTH, n % KEYS)).or_default() += n * splits;
    }
    let mut rows: Vec<_> = sums.into_iter().map(|((end, _), sum)| (end, sum)).collect();
    rows.sort_unstable();
    rows
}

#[test]
fn a_job_runs_to_its_end_and_its_last_checkpoint_says_so() {
    let bench = Bench::new(3, 1000, hash(), Arc::new(Count));
    let mut workers = bench.deploy(&[2], None).start().unwrap();
    workers.all_finished().unwrap();
    workers.trigger(1);
    let checkpoint = workers.complete(1).unwrap();
    assert!(checkpoint.finished);
    bench.commit(&checkpoint);
    assert_eq!(bench.published.rows(), expected_counts(3, 1000));
    let stats = workers.stats()[0];
    assert_eq!((stats.source_rows, stats.sink_rows, stats.late_rows), (3000, 3000, 0));
    assert_eq!((stats.finished_subtasks, stats.subtasks, stats.watermark_ms), (4, 4, i64::MAX));
    assert_eq!(workers.first_outputs, 1);
    assert_eq!(workers.parallelism(), 2);
    workers.stop();
}

#[test]
fn rows_of_a_key_meet_in_the_subtask_that_owns_its_key_group() {
    struct Owners;
    struct OwnersOperator(u32, u32);
    impl OperatorFactory for Owners {
        fn create(&self, ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
            Ok(Box::new(OwnersOperator(ctx.subtask, ctx.parallelism)))
        }
    }
    impl Operator for OwnersOperator {
        fn process(&mut self, _: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError> {
            for key in column(&batch, 0) {
                assert_eq!(owner_of(*key, self.1), self.0, "key {key}");
            }
            out.emit(support::pair_rows(&[(i64::from(self.0), batch.len() as i64)]))?;
            Ok(Progress::Done)
        }
    }
    for parallelism in [1, 2, 3, 5] {
        let bench = Bench::new(2, 5000, hash(), Arc::new(Owners));
        let mut workers = bench.deploy(&[parallelism], None).start().unwrap();
        workers.all_finished().unwrap();
        workers.trigger(1);
        bench.commit(&workers.complete(1).unwrap());
        let rows = bench.published.rows();
        assert_eq!(rows.iter().map(|row| row.1).sum::<i64>(), 10_000);
        workers.stop();
    }
}

#[test]
fn other_exchanges_bring_every_row_once_or_to_everyone() {
    for (exchange, copies) in
        [(Exchange::Forward, 1), (Exchange::Rebalance, 1), (Exchange::Single, 1), (Exchange::Broadcast, 3)]
    {
        let bench = Bench::new(3, 700, exchange.clone(), Arc::new(Count));
        let mut workers = bench.deploy(&[2, 1], None).start().unwrap();
        workers.all_finished().unwrap();
        let rows: Vec<_> = workers.stats().iter().map(|stats| stats.sink_rows).collect();
        assert_eq!(rows.iter().sum::<u64>(), 2100 * copies, "{exchange:?}");
        if exchange == Exchange::Single {
            assert!(rows.contains(&0), "all rows go to one subtask, and thereby to one worker: {rows:?}");
        }
        workers.stop();
    }
}

#[test]
fn nothing_is_lost_or_counted_twice_over_random_checkpoints_stops_and_rescales() {
    for seed in 0..6 {
        let bench = Bench::new(3, 1500, hash(), Arc::new(Count));
        bench.run_with_stops(seed, &[&[2], &[1, 1], &[2, 1], &[1]]);
        assert_eq!(bench.published.rows(), expected_counts(3, 1500), "seed {seed}");
    }
}

/// The source's rows go two ways, and meet again in one stage: as where two queries of a UNION ALL read one table.
fn two_ways(graph: &JobGraph) -> JobGraph {
    let (source, last) = (graph.stages[0].clone(), graph.stages[1].clone());
    let edge = |from: u32, exchange| Edge { from: StageId(from), exchange, schema: support::schema() };
    let way = |id: u32| Stage {
        id: StageId(id),
        identity: format!("way {id}"),
        head: StageHead::Inputs(vec![edge(0, Exchange::Forward)]),
        ..source.clone()
    };
    let meeting = vec![edge(1, hash()), edge(2, hash())];
    let last = Stage { id: StageId(3), head: StageHead::Inputs(meeting), ..last };
    JobGraph { stages: vec![source.clone(), way(1), way(2), last], ..graph.clone() }
}

#[test]
fn rows_that_go_two_ways_and_meet_again_are_there_twice_over_checkpoints_stops_and_rescales() {
    for seed in 20..24 {
        let mut bench = Bench::new(3, 900, hash(), Arc::new(Count));
        bench.graph = Arc::new(two_ways(&bench.graph));
        bench.run_with_stops(seed, &[&[2], &[1, 1], &[2, 1], &[1]]);
        assert_eq!(bench.published.rows(), expected_counts(6, 900), "seed {seed}");
        let mut bench = Bench::new(2, 900, hash(), Arc::new(Windows));
        bench.graph = Arc::new(two_ways(&bench.graph));
        bench.run_with_stops(seed, &[&[2], &[1, 1]]);
        assert_eq!(bench.published.rows(), expected_windows(4, 900), "seed {seed}");
    }
}

#[test]
fn a_firing_that_a_barrier_interrupts_goes_on_after_the_restore() {
    for seed in 10..16 {
        let bench = Bench::new(2, 1500, hash(), Arc::new(Windows));
        bench.run_with_stops(seed, &[&[2], &[1, 1]]);
        assert_eq!(bench.published.rows(), expected_windows(2, 1500), "seed {seed}");
    }
}

#[test]
fn a_subtask_without_splits_is_finished_at_once_and_holds_nothing_back() {
    let bench = Bench::new(1, 1000, hash(), Arc::new(Windows));
    bench.allow(500);
    let mut workers = bench.deploy(&[3], None).start().unwrap();
    workers.until(|workers| (workers.stats()[0].watermark_ms == 498).then_some(())).unwrap();
    assert_eq!(workers.finished.len(), 2);
    workers.trigger(1);
    let checkpoint = workers.complete(1).unwrap();
    assert!(!checkpoint.finished);
    workers.stop();
    bench.allow(1000);
    let mut workers = bench.deploy(&[3], Some(&checkpoint)).start().unwrap();
    workers.all_finished().unwrap();
    workers.stop();
}

#[test]
fn a_restore_from_the_last_checkpoint_is_finished_at_once_and_writes_nothing() {
    let bench = Bench::new(2, 300, hash(), Arc::new(Windows));
    let mut workers = bench.deploy(&[2], None).start().unwrap();
    workers.all_finished().unwrap();
    workers.trigger(7);
    let last = workers.complete(7).unwrap();
    workers.stop();
    let mut workers = bench.deploy(&[1, 1], Some(&last)).start().unwrap();
    workers.all_finished().unwrap();
    workers.trigger(8);
    let again = workers.complete(8).unwrap();
    assert!(again.finished && again.pending.is_empty());
    workers.stop();
}

#[test]
fn at_least_once_takes_checkpoints_too() {
    let bench = Bench::new(2, 2000, hash(), Arc::new(Count));
    bench.allow(1000);
    let mut deployment = bench.deploy(&[1, 1], None);
    deployment.mode = CheckpointMode::AtLeastOnce;
    let mut workers = deployment.start().unwrap();
    workers.trigger(1);
    assert!(!workers.complete(1).unwrap().finished);
    bench.allow(2000);
    workers.all_finished().unwrap();
    workers.trigger(2);
    assert!(workers.complete(2).unwrap().finished);
    workers.stop();
}

#[test]
fn a_cancelled_checkpoint_leaves_the_job_running_and_the_next_one_complete() {
    let bench = Bench::new(2, 5000, hash(), Arc::new(Count));
    bench.allow(1000);
    let mut workers = bench.deploy(&[1, 1], None).start().unwrap();
    // Only one of two sources is told: the second stage cannot align.
    workers.attempts[0].trigger(weir_protocol::CheckpointId(1));
    workers.attempts.iter().for_each(|attempt| attempt.cancel(weir_protocol::CheckpointId(1)));
    bench.allow(5000);
    workers.trigger(2);
    let checkpoint = workers.complete(2).unwrap();
    assert_eq!(checkpoint.id, 2);
    workers.all_finished().unwrap();
    workers.stop();
}

#[test]
fn an_alignment_that_cannot_complete_is_given_up_after_its_timeout_and_the_rows_flow_on() {
    let bench = Bench::new(2, 3000, hash(), Arc::new(Count));
    bench.allow(1000);
    let mut deployment = bench.deploy(&[1, 1], None);
    deployment.alignment_timeout = Some(Duration::from_millis(20));
    let mut workers = deployment.start().unwrap();
    workers.attempts[0].trigger(weir_protocol::CheckpointId(1));
    workers.until(|workers| (workers.declined.len() == 2).then_some(())).unwrap();
    bench.allow(3000);
    workers.all_finished().unwrap();
    workers.trigger(2);
    let checkpoint = workers.complete(2).unwrap();
    bench.commit(&checkpoint);
    assert_eq!(bench.published.rows().len(), 6000);
    workers.stop();
}

#[test]
fn a_source_that_fails_is_reported_with_its_name_and_kind() {
    let bench = Bench::failing(1, 1000, hash(), Arc::new(Count), Some(500));
    let mut workers = bench.deploy(&[1], None).start().unwrap();
    let error = workers.all_finished().unwrap_err();
    assert_eq!(error.kind, FailureKind::BadInput);
    assert_eq!(error.to_string(), "numbers: numbers.txt:17: no number");
    workers.stop();
}

#[test]
fn a_panic_in_an_operator_is_a_failure_that_names_it() {
    struct Panics;
    impl OperatorFactory for Panics {
        fn create(&self, _: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
            Ok(Box::new(Self))
        }
    }
    impl Operator for Panics {
        fn process(&mut self, _: usize, _: Batch, _: &mut dyn Output) -> Result<Progress, OperatorError> {
            panic!("the cat sat on it");
        }
    }
    let bench = Bench::new(1, 1000, hash(), Arc::new(Panics));
    let mut workers = bench.deploy(&[1], None).start().unwrap();
    let error = workers.all_finished().unwrap_err();
    assert_eq!(error.to_string(), "operator: panicked: the cat sat on it");
    workers.stop();
}

#[test]
fn an_operator_that_cannot_be_made_fails_the_build_and_leaves_no_thread() {
    struct Refuses;
    impl OperatorFactory for Refuses {
        fn create(&self, _: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
            Err(OperatorError::new(FailureKind::StateMismatch, "it was a sum"))
        }
    }
    let bench = Bench::new(1, 10, hash(), Arc::new(Refuses));
    let error = bench.deploy(&[2], None).start().err().unwrap();
    assert_eq!(error.error.kind, FailureKind::StateMismatch);
    assert_eq!(error.stage, "stage 1");
}

/// Makes of each row as many as it says, with the numbers from 1 on beside its key, a piece at a time.
struct Explode(i64);

struct ExplodeOperator {
    times: i64,
    rows: Vec<i64>,
    at: (usize, i64),
    /// `process` has been called, and has not been answered with `Done`.
    in_the_midst: bool,
}

/// Rows of a piece.
const PIECE: i64 = 1000;

impl OperatorFactory for Explode {
    fn create(&self, _: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(ExplodeOperator { times: self.0, rows: Vec::new(), at: (0, 0), in_the_midst: false }))
    }
}

impl Operator for ExplodeOperator {
    fn process(&mut self, _: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        assert!(!self.in_the_midst, "other rows came before the last ones were done");
        self.rows = column(&batch, 0).to_vec();
        self.at = (0, 0);
        self.resume(out)
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        self.in_the_midst = true;
        while let Some(key) = self.rows.get(self.at.0) {
            let end = (self.at.1 + PIECE).min(self.times);
            let rows: Vec<_> = (self.at.1..end).map(|n| (*key, n + 1)).collect();
            self.at = if end == self.times { (self.at.0 + 1, 0) } else { (self.at.0, end) };
            out.emit(support::pair_rows(&rows))?;
            if self.at.0 < self.rows.len() && out.is_full() {
                return Ok(Progress::More);
            }
        }
        self.in_the_midst = false;
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, _: i64, _: &mut dyn Output) -> Result<Progress, OperatorError> {
        assert!(!self.in_the_midst, "a watermark came amid rows");
        Ok(Progress::Done)
    }

    fn freeze(&mut self, _: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        assert!(!self.in_the_midst, "it was frozen amid rows");
        Ok(())
    }
}

/// Takes rows while nobody holds the lock, and drops them.
struct Plug(Arc<Mutex<()>>);

impl OperatorFactory for Plug {
    fn create(&self, _: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(Self(Arc::clone(&self.0))))
    }
}

impl Operator for Plug {
    fn process(&mut self, _: usize, _: Batch, _: &mut dyn Output) -> Result<Progress, OperatorError> {
        drop(self.0.lock());
        Ok(Progress::Done)
    }
}

/// Counts rows by key, and puts the counts out at the end, one a call.
struct Tally;

struct TallyOperator(BTreeMap<i64, i64>);

impl OperatorFactory for Tally {
    fn create(&self, ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        let entries = ctx.items.iter().map(|item| serde_json::from_value::<(i64, i64)>(item.value.clone()).unwrap());
        Ok(Box::new(TallyOperator(entries.collect())))
    }
}

impl Operator for TallyOperator {
    fn process(&mut self, _: usize, batch: Batch, _: &mut dyn Output) -> Result<Progress, OperatorError> {
        for key in column(&batch, 0) {
            *self.0.entry(*key).or_default() += 1;
        }
        Ok(Progress::Done)
    }

    fn end_of_input(&mut self, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        let Some(entry) = self.0.pop_first() else { return Ok(Progress::Done) };
        out.emit(support::pair_rows(&[entry]))?;
        Ok(Progress::More)
    }

    fn freeze(&mut self, snapshot: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        let item = |entry| Item { kind: ItemKind::Other, value: serde_json::to_value(entry).unwrap() };
        snapshot.items.extend(self.0.iter().map(item));
        Ok(())
    }
}

/// The job with further stages behind the operator; the sink is behind the last of them.
fn with_stages(bench: &Bench, operators: Vec<Arc<dyn OperatorFactory>>, exchange: &Exchange) -> Arc<JobGraph> {
    let mut graph = (*bench.graph).clone();
    for operator in operators {
        let mut last = graph.stages[1].clone();
        let before = StageId(graph.stages.len() as u32 - 1);
        last.id = StageId(before.0 + 1);
        last.sink = graph.stages[before.0 as usize].sink.take();
        last.name = format!("stage {}", last.id.0);
        last.operators[0].factory = operator;
        last.operators[0].identity = format!("operator {}", last.id.0);
        let edge = Edge { from: before, exchange: exchange.clone(), schema: support::pairs() };
        last.head = StageHead::Inputs(vec![edge]);
        graph.stages.push(last);
    }
    Arc::new(graph)
}

/// Whatever the second stage puts out stops at the third, until the lock is free.
fn plugged(bench: &mut Bench, plug: &Arc<Mutex<()>>) {
    bench.graph = with_stages(bench, vec![Arc::new(Plug(Arc::clone(plug)))], &Exchange::Rebalance);
}

#[test]
fn stopping_wakes_threads_that_wait_for_room_and_for_input() {
    let plug = Arc::new(Mutex::new(()));
    let mut bench = Bench::new(2, 100_000, hash(), Arc::new(Explode(i64::MAX)));
    plugged(&mut bench, &plug);
    let held = plug.lock();
    let mut workers = bench.deploy(&[1, 1], None).start().unwrap();
    workers.until(|workers| (workers.stats().iter().all(|stats| stats.backpressured_us > 0)).then_some(())).unwrap();
    assert!(!workers.attempts.iter().any(RunningAttempt::is_finished));
    drop(held);
    workers.stop();
}

#[test]
fn what_is_under_way_stays_within_the_windows_and_a_piece_whatever_an_operator_makes_of_a_row() {
    let plug = Arc::new(Mutex::new(()));
    let mut bench = Bench::new(2, 1000, hash(), Arc::new(Explode(i64::MAX)));
    plugged(&mut bench, &plug);
    let held = plug.lock();
    let mut workers = bench.deploy(&[1, 1], None).start().unwrap();
    let exploding = |workers: &support::Workers| {
        let subtasks = workers.attempts.iter().flat_map(RunningAttempt::subtasks);
        subtasks.filter(|subtask| subtask.stage == "stage 1").collect::<Vec<_>>()
    };
    let waits = |workers: &mut support::Workers| {
        exploding(workers).iter().all(|subtask| subtask.backpressured_us > 0).then_some(())
    };
    workers.until(waits).unwrap();
    let rows: u64 = exploding(&workers).iter().map(|subtask| subtask.operators[0].rows_out.unwrap()).sum();
    // Each subtask has two channels, and beside each the third stage holds one piece, at which it stands.
    let (row, pieces) = (2 * size_of::<i64>() as u64, 2 * 2 * 2);
    let window = weir_engine::seam::channel_window(&bench.graph, 2, support::BUDGET) as u64;
    let most = 2 * 2 * window / row + pieces * PIECE as u64;
    assert!(rows <= most, "{rows} rows are under way, {most} may be");
    drop(held);
    workers.stop();
}

#[test]
fn full_outputs_on_all_sides_come_to_an_end_over_checkpoints_stops_and_rescales() {
    const ROWS: i64 = 400;
    for seed in 20..23 {
        let mut bench = Bench::new(2, ROWS, hash(), Arc::new(Explode(128)));
        bench.graph = with_stages(&bench, vec![Arc::new(Explode(4)), Arc::new(Tally)], &hash());
        bench.run_with_stops(seed, &[&[2], &[1, 1], &[2, 1]]);
        let of_key = |key| (key, (ROWS - key + KEYS - 1) / KEYS * 2 * 128 * 4);
        assert_eq!(bench.published.rows(), (0..KEYS).map(of_key).collect::<Vec<_>>(), "seed {seed}");
    }
}
