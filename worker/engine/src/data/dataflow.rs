//! Builds the subtasks of one attempt on one worker, connects them, starts their threads and ends them.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::{Condvar, Mutex};
use tokio_util::sync::CancellationToken;
use weir_protocol::CheckpointId;
use weir_runtime::clock;
use weir_state::{OpenState, SubtaskState};

use crate::api::counters::Counters;
use crate::api::error::{BuildError, FailureKind, OperatorError};
use crate::api::graph::{Exchange, JobGraph, SourceNode, Stage, StageHead, StageId};
use crate::api::operator::OperatorContext;
use crate::api::sink::SinkContext;
use crate::api::source::{SourceContext, Waker};
use crate::api::time::MIN_WATERMARK;
use crate::data::alignment::Alignment;
use crate::data::chain::{Chain, FirstOutput, Node, SinkEnd, Tail};
use crate::data::channel;
use crate::data::eventtime::EventTime;
use crate::data::exchange::ExchangeOutput;
use crate::data::gate::{Command, Gate, InboundSink};
use crate::data::splits::{SplitState, Splits};
use crate::data::subtask::{Head, InputsHead, SourceHead, Subtask};
use crate::data::watermark::Watermarks;
use crate::seam::{
    AttemptStats, BuildAttempt, ChannelId, OPERATOR_CACHES_PERCENT, OperatorStats, Report, Restored, SubtaskStats,
};

/// The backend of stages without keyed state: their operators are given a state that nobody writes to.
const NO_BACKEND: &str = "memory";

/// A subtask's stack: an expression is evaluated and dropped level by level, and the planner lets through 3,000 levels. Only what
/// is used takes memory.
const SUBTASK_STACK: usize = 32 << 20;

/// The subtasks of one attempt on this worker, built and started; they wait for [`Self::run`]. Dropping it stops them.
pub struct RunningAttempt {
    subtasks: Vec<Handle>,
    inbound: InboundSink,
    reports: Receiver<Report>,
    ended: Arc<Ended>,
    /// Cancelled when the attempt is stopped, for whoever waits for storage.
    stopped: CancellationToken,
    /// When its subtasks were told to run.
    began: OnceLock<Instant>,
}

/// How a subtask's start went.
type Built = (StageId, u32, Result<(), OperatorError>);

/// What is kept of a subtask while its thread runs.
struct Handle {
    stage: StageId,
    subtask: u32,
    is_source: bool,
    has_sink: bool,
    names: Arc<StageNames>,
    gate: Arc<Gate>,
    counters: Arc<Counters>,
    finished: Arc<AtomicBool>,
    state: Arc<Mutex<Option<SubtaskState>>>,
}

/// What the parts of a stage are called when they are counted.
struct StageNames {
    stage: String,
    source: Option<String>,
    operators: Vec<String>,
    sink: Option<String>,
}

/// Which threads have ended, with all that they held dropped.
#[derive(Default)]
struct Ended {
    subtasks: Mutex<BTreeSet<(StageId, u32)>>,
    more: Condvar,
}

/// The channels that lead into one subtask.
struct Inbound {
    gate: Arc<Gate>,
    inputs: Vec<usize>,
}

impl RunningAttempt {
    /// Restores state and creates the operators, on the subtasks' own threads, side by side. Blocks until all stand, or one
    /// has failed and all have ended.
    pub fn build(build: BuildAttempt) -> Result<Self, BuildError> {
        let build = Arc::new(build);
        let (inbound, routes) = connect(&build);
        let (report, reports) = unbounded();
        let subtasks = build.graph.stages.len() * build.subtasks.len();
        let (built, ready) = bounded(subtasks);
        let mut attempt = Self {
            subtasks: Vec::with_capacity(subtasks),
            inbound: InboundSink::new(routes),
            reports,
            ended: Arc::default(),
            stopped: build.stopped.clone(),
            began: OnceLock::new(),
        };
        let started = attempt.start_all(&build, &inbound, &report, &built);
        drop((report, built));
        if let Err(error) = started.and_then(|()| attempt.wait_until_ready(&build, &ready)) {
            // Whoever is told of the failure may build the next attempt at once, over the same files.
            attempt.stop();
            attempt.ended.wait(attempt.subtasks.len(), None);
            return Err(error);
        }
        Ok(attempt)
    }

    /// Starts the threads. At a failure some have been started.
    fn start_all(
        &mut self,
        build: &Arc<BuildAttempt>,
        inbound: &HashMap<(StageId, u32), Inbound>,
        report: &Sender<Report>,
        built: &Sender<Built>,
    ) -> Result<(), BuildError> {
        let first_output = Arc::new(FirstOutput::new(report.clone()));
        for (stage, names) in build.graph.stages.iter().zip(stage_names(&build.graph)) {
            let names = Arc::new(names);
            for subtask in &build.subtasks {
                let failed =
                    |error| BuildError { stage: stage.name.clone(), subtask: *subtask, error: Box::new(error) };
                let key = (stage.id, *subtask);
                let handle = Handle {
                    stage: stage.id,
                    subtask: *subtask,
                    is_source: matches!(stage.head, StageHead::Source(_)),
                    has_sink: stage.sink.is_some(),
                    names: Arc::clone(&names),
                    gate: Arc::clone(&inbound[&key].gate),
                    counters: Arc::new(Counters::of_chain(stage.operators.len())),
                    finished: Arc::default(),
                    state: Arc::default(),
                };
                let maker = Maker {
                    build: Arc::clone(build),
                    stage: stage.id.0 as usize,
                    subtask: *subtask,
                    inputs: inbound[&key].inputs.clone(),
                    gate: Arc::clone(&handle.gate),
                    counters: Arc::clone(&handle.counters),
                    finished: Arc::clone(&handle.finished),
                    state: Arc::clone(&handle.state),
                    first_output: Arc::clone(&first_output),
                    reports: report.clone(),
                    outputs: outputs(build, inbound, stage, *subtask).map_err(failed)?,
                    stopped: self.stopped.clone(),
                };
                let (built, ended) = (built.clone(), Arc::clone(&self.ended));
                thread::Builder::new()
                    .name(format!("weir-{}-{subtask}", stage.id.0))
                    .stack_size(SUBTASK_STACK)
                    .spawn(move || {
                        run_thread(maker, &built);
                        ended.add(key);
                    })
                    .map_err(|error| {
                        failed(OperatorError::new(FailureKind::Io, "a thread could not be started").because(error))
                    })?;
                self.subtasks.push(handle);
            }
        }
        Ok(())
    }

    fn wait_until_ready(&self, build: &BuildAttempt, ready: &Receiver<Built>) -> Result<(), BuildError> {
        for _ in 0..self.subtasks.len() {
            let Ok((stage, subtask, result)) = ready.recv() else { break };
            if let Err(error) = result {
                let stage = build.graph.stages[stage.0 as usize].name.clone();
                return Err(BuildError { stage, subtask, error: Box::new(error) });
            }
        }
        Ok(())
    }

    /// Delivers elements of other workers.
    pub fn inbound(&self) -> InboundSink {
        self.inbound.clone()
    }

    /// What subtasks report. Clones share one queue.
    pub fn reports(&self) -> Receiver<Report> {
        self.reports.clone()
    }

    /// Subtasks begin.
    pub fn run(&self) {
        self.began.get_or_init(clock::now);
        self.command(Command::Run);
    }

    /// Sources take their snapshot and put a barrier into their output.
    pub fn trigger(&self, id: CheckpointId) {
        for subtask in self.subtasks.iter().filter(|subtask| subtask.is_source) {
            subtask.gate.command(Command::Trigger(id));
        }
    }

    /// No subtask takes part in this checkpoint or an older one any more; held channels are freed.
    pub fn cancel(&self, id: CheckpointId) {
        self.command(Command::Cancel(id));
    }

    /// The longest an alignment may take from now on; `None` is no limit.
    pub fn set_alignment_timeout(&self, timeout: Option<Duration>) {
        self.command(Command::AlignmentTimeout(timeout));
    }

    /// Sources read nothing, or read on.
    pub fn hold(&self, hold: bool) {
        for subtask in self.subtasks.iter().filter(|subtask| subtask.is_source) {
            subtask.gate.command(Command::Hold(hold));
        }
    }

    fn command(&self, command: Command) {
        self.subtasks.iter().for_each(|subtask| subtask.gate.command(command));
    }

    /// Tells all subtasks to end and wakes them; does not wait.
    pub fn stop(&self) {
        self.stopped.cancel();
        for subtask in &self.subtasks {
            subtask.gate.stop();
            subtask.state.lock().take();
        }
    }

    /// Waits until all subtasks have ended, after [`Self::stop`]. Gives those that have not within `timeout`.
    pub fn join(&self, timeout: Duration) -> Vec<(StageId, u32)> {
        let ended = self.ended.wait(self.subtasks.len(), Some(clock::now() + timeout));
        self.subtasks
            .iter()
            .map(|subtask| (subtask.stage, subtask.subtask))
            .filter(|subtask| !ended.contains(subtask))
            .collect()
    }

    /// All subtasks here have reached the end of their input.
    pub fn is_finished(&self) -> bool {
        self.subtasks.iter().all(|subtask| subtask.finished.load(Ordering::Relaxed))
    }

    /// What has been counted.
    pub fn stats(&self) -> AttemptStats {
        let sum = |count: fn(&Counters) -> u64| self.subtasks.iter().map(|subtask| count(&subtask.counters)).sum();
        let lowest = |sinks: bool| {
            let subtasks = self.subtasks.iter().filter(|subtask| subtask.has_sink || !sinks);
            subtasks.map(|subtask| subtask.counters.watermark()).min()
        };
        let idle_us: u64 = sum(|counters| counters.idle.get());
        let backpressured_us: u64 = sum(|counters| counters.backpressured.get());
        let elapsed = self.ran_us() * self.subtasks.len() as u64;
        AttemptStats {
            source_rows: sum(|counters| counters.source_rows.get()),
            sink_rows: sum(|counters| counters.sink_rows.get()),
            late_rows: sum(|counters| counters.late_rows.get()),
            skipped_rows: sum(|counters| counters.skipped_rows.get()),
            watermark_ms: lowest(true).or_else(|| lowest(false)).unwrap_or(MIN_WATERMARK),
            state_bytes: self
                .subtasks
                .iter()
                .filter_map(|subtask| subtask.state.lock().as_ref().map(SubtaskState::bytes))
                .sum(),
            finished_subtasks: self.subtasks.iter().filter(|subtask| subtask.finished.load(Ordering::Relaxed)).count()
                as u32,
            subtasks: self.subtasks.len() as u32,
            busy_us: elapsed.saturating_sub(idle_us + backpressured_us),
            idle_us,
            backpressured_us,
        }
    }
}

impl RunningAttempt {
    fn ran_us(&self) -> u64 {
        self.began.get().map(|began| clock::since(*began).as_micros() as u64).unwrap_or_default()
    }

    /// What a stage is called where it is counted.
    pub fn stage_name(&self, stage: StageId) -> Option<&str> {
        self.subtasks.iter().find(|subtask| subtask.stage == stage).map(|subtask| subtask.names.stage.as_str())
    }

    /// What each subtask has counted.
    pub fn subtasks(&self) -> Vec<SubtaskStats> {
        let elapsed = self.ran_us();
        self.subtasks.iter().map(|subtask| subtask.stats(elapsed)).collect()
    }
}

impl Handle {
    fn stats(&self, elapsed_us: u64) -> SubtaskStats {
        let counters = &self.counters;
        let (idle_us, backpressured_us) = (counters.idle.get(), counters.backpressured.get());
        let source = self.names.source.iter().map(|name| OperatorStats {
            name: name.clone(),
            rows_in: None,
            rows_out: Some(counters.source_rows.get()),
        });
        let operators = self.names.operators.iter().enumerate().map(|(i, name)| OperatorStats {
            name: name.clone(),
            rows_in: Some(counters.passed(i)),
            rows_out: Some(counters.passed(i + 1)),
        });
        let sink = self.names.sink.iter().map(|name| OperatorStats {
            name: name.clone(),
            rows_in: Some(counters.sink_rows.get()),
            rows_out: None,
        });
        SubtaskStats {
            stage: self.names.stage.clone(),
            subtask: self.subtask,
            operators: source.chain(operators).chain(sink).collect(),
            late_rows: counters.late_rows.get(),
            unmatched_retractions: counters.unmatched_retractions.get(),
            skipped_rows: counters.skipped_rows.get(),
            source_lag: counters.source_lag.get().map(|lag| lag.max(0).cast_unsigned()),
            watermark_ms: counters.watermark(),
            state_bytes: self.state.lock().as_ref().map(SubtaskState::bytes),
            finished: self.finished.load(Ordering::Relaxed),
            busy_us: elapsed_us.saturating_sub(idle_us + backpressured_us),
            idle_us,
            backpressured_us,
        }
    }
}

/// The names of all stages and of what is in them. Where a name comes again it gets a number: one name for two would be
/// counted as one.
fn stage_names(graph: &JobGraph) -> Vec<StageNames> {
    fn distinct(seen: &mut BTreeMap<String, usize>, name: &str) -> String {
        let times = seen.entry(name.to_string()).or_default();
        *times += 1;
        if *times == 1 { name.to_string() } else { format!("{name} #{times}") }
    }
    let (mut stages, mut parts) = (BTreeMap::new(), BTreeMap::new());
    let names = |stage: &Stage| StageNames {
        stage: distinct(&mut stages, &stage.name),
        source: match &stage.head {
            StageHead::Source(source) => Some(distinct(&mut parts, &source.name)),
            StageHead::Inputs(_) => None,
        },
        operators: stage.operators.iter().map(|operator| distinct(&mut parts, &operator.name)).collect(),
        sink: stage.sink.as_ref().map(|sink| distinct(&mut parts, &sink.name)),
    };
    graph.stages.iter().map(names).collect()
}

impl Drop for RunningAttempt {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Ended {
    fn add(&self, subtask: (StageId, u32)) {
        self.subtasks.lock().insert(subtask);
        self.more.notify_all();
    }

    fn wait(&self, count: usize, deadline: Option<Instant>) -> BTreeSet<(StageId, u32)> {
        let mut subtasks = self.subtasks.lock();
        while subtasks.len() < count {
            match deadline {
                None => self.more.wait(&mut subtasks),
                Some(deadline) if self.more.wait_until(&mut subtasks, deadline).timed_out() => break,
                Some(_) => {}
            }
        }
        subtasks.clone()
    }
}

/// The subtasks that send to `to` on an edge.
fn senders(exchange: &Exchange, to: u32, parallelism: u32) -> std::ops::Range<u32> {
    if *exchange == Exchange::Forward { to..to + 1 } else { 0..parallelism }
}

type Routes = HashMap<u64, (Arc<Gate>, usize)>;

/// Makes all gates; the routes are of the channels that come from other workers.
fn connect(build: &BuildAttempt) -> (HashMap<(StageId, u32), Inbound>, Routes) {
    let window = build.channel_window();
    let mut channels: HashMap<(StageId, u32), Vec<(ChannelId, usize)>> = HashMap::new();
    for (edge, stage, input, node) in build.graph.edges() {
        for to in &build.subtasks {
            let senders = senders(&node.exchange, *to, build.parallelism);
            let ids = senders.map(|from| (ChannelId { edge, from, to: *to }, input));
            channels.entry((stage.id, *to)).or_default().extend(ids);
        }
    }
    let mut all = HashMap::new();
    let mut routes = HashMap::new();
    for stage in &build.graph.stages {
        for subtask in &build.subtasks {
            let channels = channels.remove(&(stage.id, *subtask)).unwrap_or_default();
            let remote = |id: ChannelId| (!build.subtasks.contains(&id.from)).then_some(id);
            let senders: Vec<_> = channels.iter().map(|(id, _)| remote(*id)).collect();
            let gate = Arc::new(Gate::new(&senders, window, Some(Arc::clone(&build.remote))));
            for (i, id) in senders.iter().enumerate().filter_map(|(i, id)| id.map(|id| (i, id))) {
                routes.insert(id.pack(), (Arc::clone(&gate), i));
            }
            let inputs = channels.iter().map(|(_, input)| *input).collect();
            all.insert((stage.id, *subtask), Inbound { gate, inputs });
        }
    }
    (all, routes)
}

/// The outputs of a subtask, one for each edge that leads away from its stage.
fn outputs(
    build: &BuildAttempt,
    inbound: &HashMap<(StageId, u32), Inbound>,
    stage: &Stage,
    subtask: u32,
) -> Result<Vec<ExchangeOutput>, OperatorError> {
    let mut outputs = Vec::new();
    let home = Arc::clone(&inbound[&(stage.id, subtask)].gate);
    let room = Waker::new(move || home.wake());
    for (edge, target, input, node) in build.graph.edges().filter(|(_, _, _, node)| node.from == stage.id) {
        let targets = if node.exchange == Exchange::Forward { subtask..subtask + 1 } else { 0..build.parallelism };
        let senders = targets
            .map(|to| {
                let id = ChannelId { edge, from: subtask, to };
                match inbound.get(&(target.id, to)) {
                    Some(there) => {
                        let index = channel_index(there, input, node, id);
                        channel::Sender::local(Arc::clone(&there.gate), index, room.clone())
                    }
                    None => channel::Sender::Remote { sender: build.remote.sender(id, room.clone()), channel: id },
                }
            })
            .collect();
        outputs.push(ExchangeOutput::new(&node.exchange, subtask, build.max_parallelism, &node.schema, senders)?);
    }
    Ok(outputs)
}

/// Channels stand in a gate by input, and within an input by sender.
fn channel_index(there: &Inbound, input: usize, edge: &crate::api::graph::Edge, id: ChannelId) -> usize {
    let first = there.inputs.iter().position(|other| *other == input).unwrap_or(0);
    if edge.exchange == Exchange::Forward { first } else { first + id.from as usize }
}

/// What a subtask's thread makes its subtask of.
struct Maker {
    build: Arc<BuildAttempt>,
    stage: usize,
    subtask: u32,
    inputs: Vec<usize>,
    gate: Arc<Gate>,
    counters: Arc<Counters>,
    finished: Arc<AtomicBool>,
    state: Arc<Mutex<Option<SubtaskState>>>,
    first_output: Arc<FirstOutput>,
    reports: Sender<Report>,
    outputs: Vec<ExchangeOutput>,
    stopped: CancellationToken,
}

/// A subtask's thread from beginning to end. No panic leaves it.
fn run_thread(maker: Maker, built: &Sender<Built>) {
    let (stage, subtask) = (StageId(maker.stage as u32), maker.subtask);
    let reports = maker.reports.clone();
    let made = catch_unwind(AssertUnwindSafe(|| maker.make()))
        .unwrap_or_else(|panic| Err(panicked(panic.as_ref()).in_operator("the subtask's start")));
    let mut running = match made {
        Ok(running) => running,
        Err(error) => {
            let _ = built.send((stage, subtask, Err(error)));
            return;
        }
    };
    let _ = built.send((stage, subtask, Ok(())));
    let result = catch_unwind(AssertUnwindSafe(|| running.run()));
    let result = result
        .unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
        .map_err(|error| error.in_operator(running.chain.at_work()));
    if let Err(error) = result {
        tracing::error!(
            stage = stage.0,
            subtask,
            error = error.describe(),
            operator = error.operator,
            "a subtask failed"
        );
        let _ = reports.send(Report::Failed { stage, subtask, error });
    }
    if catch_unwind(AssertUnwindSafe(|| drop(running))).is_err() {
        tracing::error!(stage = stage.0, subtask, "an operator panicked while it was dropped");
    }
}

fn panicked(panic: &(dyn Any + Send)) -> OperatorError {
    let text = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_string());
    OperatorError::operator(format!("panicked: {text}"))
}

impl Maker {
    fn stage(&self) -> &Stage {
        &self.build.graph.stages[self.stage]
    }

    fn make(mut self) -> Result<Subtask, OperatorError> {
        let build = Arc::clone(&self.build);
        let stage = &build.graph.stages[self.stage];
        let nothing = Restored::default();
        let restored = build.restored.get(&(stage.id, self.subtask)).unwrap_or(&nothing);
        let state = self.open_state(restored)?;
        if stage.stateful {
            *self.state.lock() = Some(state.clone());
        }
        let head = self.head(restored)?;
        let nodes = self.nodes(restored, &state)?;
        let sink = self.sink()?;
        let tail = Tail {
            sink,
            outputs: std::mem::take(&mut self.outputs),
            counters: Arc::clone(&self.counters),
            first_output: Arc::clone(&self.first_output),
            at: nodes.len(),
        };
        Ok(Subtask {
            stage: stage.id,
            index: self.subtask,
            alignment: Alignment::new(self.inputs.len(), build.mode, build.alignment_timeout),
            gate: self.gate,
            head,
            chain: Chain::new(nodes, tail),
            work: VecDeque::new(),
            flushing: None,
            time: EventTime::restored(restored.watermarks.clone()),
            state: stage.stateful.then_some(state),
            reports: self.reports,
            counters: self.counters,
            clock: Arc::clone(&build.clock),
            running: false,
            held: false,
            finished: self.finished,
            restored_finished: restored.finished,
        })
    }

    fn open_state(&self, restored: &Restored) -> Result<SubtaskState, OperatorError> {
        let build = &self.build;
        let stateful = self.stage().stateful;
        let open = OpenState {
            dir: build.state_dir.join(format!("{}-{}", self.stage, self.subtask)),
            backend: if stateful { build.state_backend.clone() } else { NO_BACKEND.to_string() },
            options: if stateful { build.state_options.clone() } else { BTreeMap::default() },
            registry: Arc::clone(&build.registry),
            memory: build.state_memory.clone(),
            subtask: self.subtask,
            parallelism: build.parallelism,
            max_parallelism: build.max_parallelism,
            restore: if stateful { restored.keyed.clone() } else { Vec::new() },
            store: build.store.clone(),
            runtime: build.runtime.clone(),
            local_snapshot: if stateful { restored.local_snapshot.clone() } else { None },
            stopped: self.stopped.clone(),
        };
        Ok(SubtaskState::open(open)?)
    }

    fn head(&self, restored: &Restored) -> Result<Head, OperatorError> {
        match &self.stage().head {
            StageHead::Inputs(_) => {
                let watermarks = Watermarks::new(self.inputs.len(), restored.watermarks.lowest());
                Ok(Head::Inputs(InputsHead { inputs: self.inputs.clone(), watermarks }))
            }
            StageHead::Source(node) => {
                self.source(node, restored).map(Box::new).map(Head::Source).map_err(|e| e.in_operator(&node.name))
            }
        }
    }

    fn source(&self, node: &SourceNode, restored: &Restored) -> Result<SourceHead, OperatorError> {
        let build = &self.build;
        let items = restored.items.get(&node.identity).map_or(&[][..], Vec::as_slice);
        let states =
            items.iter().filter_map(SplitState::from_item).collect::<Result<Vec<_>, _>>().map_err(|error| {
                OperatorError::new(FailureKind::StateMismatch, "a restored split is not readable").because(error)
            })?;
        let splits = Splits::new(states, node.idle_timeout, clock::now());
        let gate = Arc::clone(&self.gate);
        let source = if splits.is_ended() || restored.finished {
            None
        } else {
            Some(node.source.create(&SourceContext {
                subtask: self.subtask,
                parallelism: build.parallelism,
                splits: splits.values(),
                counters: Arc::clone(&self.counters),
                clock: Arc::clone(&build.clock),
                waker: Waker::new(move || gate.wake()),
                runtime: build.runtime.clone(),
            })?)
        };
        Ok(SourceHead { node: node.clone(), source, splits, away: None })
    }

    fn nodes(&self, restored: &Restored, state: &SubtaskState) -> Result<Vec<Node>, OperatorError> {
        let build = &self.build;
        let stateful = build.graph.stages.iter().flat_map(|stage| &stage.operators).filter(|node| node.state.is_some());
        let sharers = stateful.count().max(1) * build.subtasks.len().max(1);
        let cache_bytes = (build.memory_budget / 100 * OPERATOR_CACHES_PERCENT) as usize / sharers;
        let mut nodes = Vec::with_capacity(self.stage().operators.len());
        for node in &self.stage().operators {
            let ctx = OperatorContext {
                subtask: self.subtask,
                parallelism: build.parallelism,
                max_parallelism: build.max_parallelism,
                identity: node.rows_under().to_string(),
                state: state.clone(),
                items: restored.items.get(&node.identity).cloned().unwrap_or_default(),
                restored_watermarks: restored.event_time(&node.identity).clone(),
                counters: Arc::clone(&self.counters),
                clock: Arc::clone(&build.clock),
                runtime: build.runtime.clone(),
                cache_bytes,
            };
            let operator = node.factory.create(&ctx).map_err(|error| error.in_operator(&node.name))?;
            let opened = state.check_opened(node.rows_under(), &node.factory.tables());
            opened.map_err(|error| OperatorError::from(error).in_operator(&node.name))?;
            let made = Node::new(operator, node.identity.clone(), node.name.clone());
            let floors = || restored.event_time(&node.identity).clone();
            nodes.push(if node.state.is_some() { made.stateful(floors()) } else { made });
        }
        Ok(nodes)
    }

    fn sink(&self) -> Result<Option<SinkEnd>, OperatorError> {
        let build = &self.build;
        let Some(node) = &self.stage().sink else { return Ok(None) };
        let ctx = SinkContext {
            job: build.job.clone(),
            owner: build.owner.clone(),
            sink: node.identity.clone(),
            attempt: build.attempt,
            worker: build.worker.clone(),
            subtask: self.subtask,
            parallelism: build.parallelism,
            counters: Arc::clone(&self.counters),
            runtime: build.runtime.clone(),
            stopped: self.stopped.clone(),
        };
        let sink = node.sink.create(&ctx).map_err(|error| OperatorError::from(error).in_operator(&node.name))?;
        Ok(Some(SinkEnd { sink, identity: node.identity.clone(), name: node.name.clone() }))
    }
}
