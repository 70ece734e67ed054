//! A subtask turned by hand, between a gate that the test fills and one that it empties.

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use crossbeam_channel::{Receiver, unbounded};
use parking_lot::Mutex;
use weir_protocol::settings::CheckpointMode;

use super::*;
use crate::api::clock::ManualClock;
use crate::api::counters::Stopwatch;
use crate::api::graph::Exchange;
use crate::api::operator::{Operator, OperatorSnapshot, Output, RestoredWatermarks};
use crate::api::source::Waker;
use crate::data::chain::{FirstOutput, Node, Tail};
use crate::data::channel::Sender as ChannelSender;
use crate::data::exchange::ExchangeOutput;

/// Rows of a piece.
const PIECE: i64 = 100;

/// More than a piece takes, and less than two.
const WINDOW: usize = 1500;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
}

fn rows(numbers: impl IntoIterator<Item = i64>) -> Batch {
    let column = Arc::new(Int64Array::from_iter_values(numbers));
    Batch::inserts(RecordBatch::try_new(schema(), vec![column]).unwrap())
}

fn numbers(batch: &Batch) -> Vec<i64> {
    batch.rows.column(0).as_primitive::<Int64Type>().values().to_vec()
}

/// Makes `times` rows of each row, `row * times` and what follows, a piece at a time.
struct Explode {
    times: i64,
    rest: Vec<i64>,
}

impl Operator for Explode {
    fn process(&mut self, _: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        assert!(self.rest.is_empty(), "rows came amid others");
        self.rest = numbers(&batch).into_iter().flat_map(|n| n * self.times..(n + 1) * self.times).collect();
        self.resume(out)
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        while !self.rest.is_empty() {
            let piece = self.rest.len().min(PIECE as usize);
            out.emit(rows(self.rest.drain(..piece)))?;
            if !self.rest.is_empty() && out.is_full() {
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }

    fn next_timer(&self) -> Option<Timestamp> {
        (!self.rest.is_empty()).then_some(0)
    }

    fn on_timer(&mut self, _: Timestamp, _: &mut dyn Output) -> Result<Progress, OperatorError> {
        panic!("a timer came amid rows")
    }

    fn on_watermark(&mut self, _: Timestamp, _: &mut dyn Output) -> Result<Progress, OperatorError> {
        assert!(self.rest.is_empty(), "a watermark came amid rows");
        Ok(Progress::Done)
    }

    fn freeze(&mut self, _: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        assert!(self.rest.is_empty(), "frozen amid rows");
        Ok(())
    }
}

/// Holds rows back until a barrier comes, and then has more of them than a piece.
#[derive(Default)]
struct Hold(Vec<i64>);

impl Operator for Hold {
    fn process(&mut self, _: usize, batch: Batch, _: &mut dyn Output) -> Result<Progress, OperatorError> {
        self.0.extend(numbers(&batch));
        Ok(Progress::Done)
    }

    fn before_barrier(&mut self, out: &mut dyn Output) -> Result<(), OperatorError> {
        self.0.drain(..).try_for_each(|n| out.emit(rows([n])))
    }

    fn freeze(&mut self, _: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        assert!(self.0.is_empty());
        Ok(())
    }
}

/// A subtask with so many inputs, and the gate that its only output leads into.
struct Bench {
    subtask: Subtask,
    downstream: Arc<Gate>,
    reports: Receiver<Report>,
}

impl Bench {
    fn new(channels: usize, operators: Vec<Box<dyn Operator>>) -> Self {
        let gate = Arc::new(Gate::new(&vec![None; channels], usize::MAX, None));
        let downstream = Arc::new(Gate::new(&[None], WINDOW, None));
        let home = Arc::clone(&gate);
        let sender = ChannelSender::local(Arc::clone(&downstream), 0, Waker::new(move || home.wake()));
        let output = ExchangeOutput::new(&Exchange::Forward, 0, 16, &schema(), vec![sender]).unwrap();
        let counters = Arc::new(Counters::of_chain(operators.len()));
        let (report, reports) = unbounded();
        let node = |(i, operator)| {
            let name = format!("operator {i}");
            Node::new(operator, name.clone(), name).stateful(RestoredWatermarks::none())
        };
        let nodes: Vec<Node> = operators.into_iter().enumerate().map(node).collect();
        let tail = Tail {
            sink: None,
            outputs: vec![output],
            counters: Arc::clone(&counters),
            first_output: Arc::new(FirstOutput::new(report.clone())),
            at: nodes.len(),
        };
        let subtask = Subtask {
            stage: StageId(1),
            index: 0,
            gate,
            head: Head::Inputs(InputsHead {
                inputs: vec![0; channels],
                watermarks: Watermarks::new(channels, MIN_WATERMARK),
            }),
            chain: Chain::new(nodes, tail),
            alignment: Alignment::new(channels, CheckpointMode::ExactlyOnce, None),
            work: VecDeque::new(),
            flushing: None,
            time: EventTime::restored(RestoredWatermarks::none()),
            state: None,
            reports: report,
            counters,
            clock: Arc::new(ManualClock::at(1)),
            running: true,
            held: false,
            finished: Arc::default(),
            restored_finished: false,
        };
        Self { subtask, downstream, reports }
    }

    /// As if its operators had been told these before a restore.
    fn restored(&mut self, times: &[Option<Timestamp>]) {
        let floor = |time: &Option<Timestamp>| RestoredWatermarks::uniform(0..1, time.unwrap_or(MIN_WATERMARK));
        self.subtask.chain.restore_event_times(times.iter().map(floor));
        if let Head::Inputs(head) = &mut self.subtask.head {
            head.watermarks = Watermarks::new(1, times[0].unwrap_or(MIN_WATERMARK));
        }
        self.subtask.resume_event_time();
    }

    fn exploding(channels: usize, times: i64) -> Self {
        Self::new(channels, vec![Box::new(Explode { times, rest: Vec::new() })])
    }

    fn put(&self, channel: usize, element: Element) {
        self.subtask.gate.deliver(channel, element, 0);
    }

    fn barrier(&self, channel: usize, id: u64) {
        self.put(channel, Element::Barrier(CheckpointId(id)));
    }

    fn turn(&mut self, times: usize) {
        (0..times).for_each(|_| self.subtask.turn().unwrap());
    }

    /// Turns more often than there are pieces that the output takes before it is full.
    fn turn_until_it_waits(&mut self) {
        for _ in 0..100 {
            // Where it would wait, it goes on.
            self.subtask.gate.wake();
            self.turn(1);
        }
    }

    /// What has come out, and makes room by taking it.
    fn take(&self) -> Vec<Element> {
        let mut elements = Vec::new();
        let now = Some(Instant::now());
        while let Taken::Element(_, element) = self.downstream.next(|_| false, now, &Stopwatch::default()) {
            elements.push(element);
        }
        elements
    }

    /// Turns and takes until nothing comes any more.
    fn drain(&mut self) -> Vec<Element> {
        let mut all = Vec::new();
        loop {
            self.turn_until_it_waits();
            let elements = self.take();
            if elements.is_empty() {
                return all;
            }
            all.extend(elements);
        }
    }

    fn declined(&self) -> Vec<u64> {
        let declined = |report| if let Report::Declined { id, .. } = report { Some(id.0) } else { None };
        self.reports.try_iter().filter_map(declined).collect()
    }
}

/// All rows up to each other element.
fn flat(elements: &[Element]) -> Vec<Result<i64, Element>> {
    let one = |element: &Element| match element {
        Element::Batch(batch) => numbers(batch).into_iter().map(Ok).collect(),
        other => vec![Err(other.clone())],
    };
    elements.iter().flat_map(one).collect()
}

#[test]
fn rows_that_explode_fill_the_output_to_its_window_and_a_piece_and_go_on_as_it_empties() {
    let mut bench = Bench::exploding(1, 10_000);
    bench.put(0, Element::Batch(rows([0])));
    bench.turn_until_it_waits();
    let mut seen = Vec::new();
    loop {
        let taken = bench.take();
        if taken.is_empty() {
            break;
        }
        let batches =
            taken.iter().map(|element| if let Element::Batch(batch) = element { batch.held_bytes() } else { 0 });
        let batches: Vec<usize> = batches.collect();
        let queued: usize = batches.iter().sum();
        assert!(queued - batches[batches.len() - 1] < WINDOW, "{batches:?}");
        seen.extend(flat(&taken));
        bench.turn_until_it_waits();
    }
    assert_eq!(seen, (0..10_000).map(Ok).collect::<Vec<_>>());
}

#[test]
fn a_barrier_waits_for_the_rows_before_it_and_giving_it_up_does_not() {
    let mut bench = Bench::exploding(1, 1000);
    bench.put(0, Element::Batch(rows([0])));
    bench.barrier(0, 1);
    bench.put(0, Element::Batch(rows([1])));
    bench.turn_until_it_waits();
    assert!(bench.subtask.alignment.is_complete(), "the barrier is heard amid rows");
    bench.subtask.gate.command(Command::Cancel(CheckpointId(1)));
    bench.turn(1);
    assert_eq!(bench.declined(), [1]);
    // It goes on at once, past the rows that wait for room.
    let cancel = bench.take().pop();
    assert_eq!(cancel, Some(Element::Cancel(CheckpointId(1))));

    bench.barrier(0, 2);
    let all = flat(&bench.drain());
    let barrier = Err(Element::Barrier(CheckpointId(2)));
    assert_eq!(all.iter().position(|one| *one == barrier), Some(all.len() - 1), "{all:?}");
    assert_eq!(all[all.len() - 2], Ok(1999));
    let frozen = bench.reports.try_iter().filter(|report| matches!(report, Report::Frozen { .. })).count();
    assert_eq!(frozen, 1);
}

#[test]
fn amid_rows_the_barrier_of_another_channel_is_taken_and_its_rows_are_not() {
    let mut bench = Bench::exploding(2, 1000);
    bench.put(0, Element::Batch(rows([0])));
    bench.turn_until_it_waits();
    bench.barrier(1, 1);
    bench.put(1, Element::Batch(rows([5])));
    bench.put(0, Element::Batch(rows([1])));
    bench.turn_until_it_waits();
    assert!(bench.subtask.alignment.is_held(1) && !bench.subtask.alignment.is_complete());
    bench.barrier(0, 1);
    let all = flat(&bench.drain());
    let place = all.iter().position(Result::is_err).unwrap();
    assert_eq!(all[place], Err(Element::Barrier(CheckpointId(1))));
    assert_eq!(all[..place], (0..2000).map(Ok).collect::<Vec<_>>());
    assert_eq!(all[place + 1..], (5000..6000).map(Ok).collect::<Vec<_>>());
}

#[test]
fn a_watermark_is_told_and_sent_after_the_rows_before_it() {
    let mut bench = Bench::exploding(1, 1000);
    bench.put(0, Element::Batch(rows([0])));
    bench.put(0, Element::Watermark(7));
    bench.put(0, Element::EndOfInput);
    let all = flat(&bench.drain());
    assert_eq!(all[..1000], (0..1000).map(Ok).collect::<Vec<_>>());
    let rest = [Element::Watermark(7), Element::Watermark(MAX_WATERMARK), Element::EndOfInput];
    assert_eq!(all[1000..], rest.map(Err));
    assert!(bench.subtask.is_finished());
}

#[test]
fn what_an_operator_holds_back_until_a_barrier_passes_all_operators_before_any_is_frozen() {
    let explode = |times| Box::new(Explode { times, rest: Vec::new() });
    let mut bench =
        Bench::new(1, vec![Box::new(Hold::default()), explode(30), Box::new(Hold::default()), explode(300)]);
    bench.put(0, Element::Batch(rows([0, 1, 2])));
    bench.barrier(0, 1);
    let all = flat(&bench.drain());
    let (last, before) = all.split_last().unwrap();
    assert_eq!(*last, Err(Element::Barrier(CheckpointId(1))));
    assert_eq!(before, (0..3 * 30 * 300).map(Ok).collect::<Vec<_>>());
}

/// Keeps what event time it has been told, and notes that when it is frozen.
struct Listen {
    told: Option<Timestamp>,
    frozen: Arc<Mutex<Vec<Option<Timestamp>>>>,
}

impl Operator for Listen {
    fn process(&mut self, _: usize, _: Batch, _: &mut dyn Output) -> Result<Progress, OperatorError> {
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, watermark: Timestamp, _: &mut dyn Output) -> Result<Progress, OperatorError> {
        self.told = Some(watermark);
        Ok(Progress::Done)
    }

    fn freeze(&mut self, _: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        self.frozen.lock().push(self.told);
        Ok(())
    }
}

#[test]
fn the_event_time_of_a_snapshot_is_what_the_operators_have_been_told() {
    let frozen = Arc::new(Mutex::new(Vec::new()));
    let mut bench = Bench::new(1, vec![Box::new(Listen { told: None, frozen: Arc::clone(&frozen) })]);
    // The barrier is heard while the watermark has been taken in, and its firing has not begun.
    for n in 1..=3 {
        bench.put(0, Element::Watermark(n * 10));
        bench.barrier(0, n as u64);
    }
    bench.drain();
    let of_report =
        |report| if let Report::Frozen { snapshot, .. } = report { Some(snapshot.event_time.watermark) } else { None };
    let written: Vec<_> = bench.reports.try_iter().filter_map(of_report).collect();
    assert_eq!(written.len(), 3);
    assert_eq!(written, *frozen.lock());
}

/// Holds event time back by this much, and notes each watermark that it is told, as `1000 × its number` and the watermark, in so
/// many calls.
struct Behind {
    number: i64,
    by: Timestamp,
    calls: i64,
    called: i64,
}

impl Behind {
    fn boxed(number: i64, by: Timestamp, calls: i64) -> Box<dyn Operator> {
        Box::new(Self { number, by, calls, called: 0 })
    }
}

impl Operator for Behind {
    fn process(&mut self, _: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        out.emit(batch)?;
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, watermark: Timestamp, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        self.called += 1;
        out.emit(rows([self.number * 1000 + watermark.min(999)]))?;
        if self.called < self.calls {
            return Ok(Progress::More);
        }
        self.called = 0;
        Ok(Progress::Done)
    }

    fn watermark_out(&self, watermark: Timestamp) -> Timestamp {
        if watermark == MAX_WATERMARK { watermark } else { watermark - self.by }
    }
}

#[test]
fn an_operator_that_holds_event_time_back_does_so_for_all_behind_it_until_the_end() {
    let mut bench = Bench::new(1, vec![Behind::boxed(1, 0, 1), Behind::boxed(2, 10, 1), Behind::boxed(3, 5, 1)]);
    bench.put(0, Element::Watermark(100));
    bench.put(0, Element::Idle);
    bench.put(0, Element::Watermark(100));
    bench.put(0, Element::EndOfInput);
    let fired = [Ok(1100), Ok(2100), Ok(3090), Err(Element::Watermark(85)), Err(Element::Idle)];
    let active = [Err(Element::Watermark(85))];
    let ended = [Ok(1999), Ok(2999), Ok(3999), Err(Element::Watermark(MAX_WATERMARK)), Err(Element::EndOfInput)];
    assert_eq!(flat(&bench.drain()), [&fired[..], &active, &ended].concat());
}

/// What a snapshot says of each operator.
fn event_times(snapshot: &SubtaskSnapshot, operators: usize) -> Vec<Option<Timestamp>> {
    let of = |name: &str| snapshot.event_times.iter().find(|(operator, _)| operator == name);
    let reached = |i| of(&format!("operator {i}")).map_or(&snapshot.event_time, |(_, reached)| reached);
    (0..operators).map(|i| reached(i).watermark).collect()
}

/// Event time as a snapshot may say it: at every place of a barrier, the restored subtask goes on as if there had been none.
#[test]
fn a_barrier_amid_a_firing_finds_each_operator_at_its_own_event_time_and_a_restore_goes_on_there() {
    let operators = || vec![Behind::boxed(1, 0, 2), Behind::boxed(2, 10, 3), Behind::boxed(3, 0, 2)];
    let mut seen = std::collections::BTreeSet::new();
    for turns in 0..12 {
        let mut bench = Bench::new(1, operators());
        bench.put(0, Element::Watermark(100));
        bench.drain();
        bench.put(0, Element::Watermark(200));
        for _ in 0..turns {
            bench.subtask.gate.wake();
            bench.turn(1);
        }
        bench.subtask.gate.deliver(0, Element::Barrier(CheckpointId(1)), 0);
        bench.drain();
        let snapshot = bench.reports.try_iter().find_map(|report| match report {
            Report::Frozen { snapshot, .. } => Some(snapshot),
            _ => None,
        });
        let times = event_times(&snapshot.unwrap(), 3);
        seen.insert(times.clone());

        let mut again = Bench::new(1, operators());
        again.restored(&times);
        let rows = flat(&again.drain());
        let last = times.iter().enumerate().map(|(i, time)| {
            let told = time.unwrap().max(if i < 2 { times[0].unwrap() } else { times[0].unwrap() - 10 });
            Ok((i as i64 + 1) * 1000 + told)
        });
        for one in last {
            assert!(rows.contains(&one), "{times:?}: {rows:?} lacks {one:?}");
        }
        assert!(rows.contains(&Err(Element::Watermark(times[0].unwrap() - 10))), "{rows:?}");
    }
    let at = |a, b, c| vec![Some(a), Some(b), Some(c)];
    let all = [at(100, 100, 90), at(200, 100, 90), at(200, 200, 90), at(200, 200, 190)];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), all);
}
