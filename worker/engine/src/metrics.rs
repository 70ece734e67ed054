//! What a worker says of itself to whoever watches it: numbers in Prometheus' text form, whether it lives, whether it is
//! ready.
//!
//! Nothing is counted here but checkpoints: the numbers are read, when somebody asks, from where subtasks count. Labels are
//! bounded by the plan and by this worker's slots: `job`, `operator` or `stage`, and `subtask`. What belongs to an attempt
//! begins anew with the next one, which for Prometheus is a counter's reset.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{
        MetricType,
        counter::ConstCounter,
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use weir_protocol::{Attempt, BUILD_VERSION, WorkerId};
use weir_runtime::clock;
use weir_state::StateMemory;

use crate::{
    api::{
        clock::Clock,
        counters::Counter,
        time::{MAX_WATERMARK, MIN_WATERMARK},
    },
    checkpoint::{commits::CommitStats, persist::SubtaskDone},
    data::dataflow::RunningAttempt,
    seam::SubtaskStats,
};

/// What all names begin with.
const PREFIX: &str = "weir_worker";
/// A control loop that has not turned for so long hangs: it turns four times a second, whatever the load.
const SILENT: Duration = Duration::from_mins(1);
/// The first bucket of durations, in seconds; each next one is twice as long, up to two minutes.
const SHORTEST: f64 = 0.001;
const BUCKETS: u16 = 18;

type Labels = Vec<(&'static str, String)>;

/// The numbers of one worker process. One a process.
pub struct Metrics {
    registry: Registry,
    watched: Arc<Watched>,
}

impl Metrics {
    pub(crate) fn new(worker: WorkerId, budget: u64, memory: StateMemory, clock: Arc<dyn Clock>) -> Self {
        let watched = Arc::new(Watched {
            worker,
            budget,
            memory,
            clock,
            began: clock::now(),
            turned_ms: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            acked: Counter::default(),
            declined: Counter::default(),
            phases: Mutex::default(),
            job: Mutex::default(),
            deployed: Mutex::default(),
        });
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(Arc::clone(&watched)));
        Self { registry, watched }
    }

    /// All numbers, in the text form that Prometheus reads.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Err(error) = text::encode(&mut text, &self.registry) {
            // A String takes whatever is written into it.
            tracing::error!(%error, "the metrics could not be written");
        }
        text
    }

    /// The control loop turns. A process of which this is not true does not mend itself.
    pub fn is_alive(&self) -> bool {
        let turned = Duration::from_millis(self.watched.turned_ms.load(Ordering::Relaxed));
        clock::since(self.watched.began).saturating_sub(turned) < SILENT
    }

    /// A coordinator may deploy here: the worker lives and has not been told to go.
    pub fn is_ready(&self) -> bool {
        self.is_alive() && !self.watched.leaving.load(Ordering::Relaxed)
    }

    pub(crate) fn turned(&self) {
        self.watched.turned_ms.store(clock::since(self.watched.began).as_millis() as u64, Ordering::Relaxed);
    }

    pub(crate) fn leaving(&self) {
        self.watched.leaving.store(true, Ordering::Relaxed);
    }

    pub(crate) fn of_job(&self, name: &str) {
        *self.watched.job.lock() = name.to_string();
    }

    pub(crate) fn deployed(&self, attempt: Attempt, running: &Arc<RunningAttempt>, commits: &Arc<CommitStats>) {
        let deployed = Deployed { attempt, running: Arc::downgrade(running), commits: Arc::clone(commits) };
        *self.watched.deployed.lock() = Some(deployed);
    }

    pub(crate) fn stopped(&self) {
        *self.watched.deployed.lock() = None;
        self.watched.phases.lock().clear();
    }

    pub(crate) fn acked(&self) {
        self.watched.acked.add(1);
    }

    /// A subtask of this stage has done its share of a checkpoint.
    pub(crate) fn persisted(&self, stage: &str, done: &SubtaskDone) {
        let mut stages = self.watched.phases.lock();
        let new = || PHASES.map(|_| Histogram::new(exponential_buckets(SHORTEST, 2.0, BUCKETS)));
        let phases = stages.entry(stage.to_string()).or_insert_with(new);
        for (histogram, took) in phases.iter().zip([done.align, done.pause, done.persist(), done.upload()]) {
            histogram.observe(took.as_secs_f64());
        }
    }

    pub(crate) fn declined(&self) {
        self.watched.declined.add(1);
    }
}

/// In the order in which a checkpoint goes through them.
const PHASES: [&str; 4] = ["align", "freeze", "persist", "upload"];

/// What the numbers are read from.
struct Watched {
    worker: WorkerId,
    budget: u64,
    memory: StateMemory,
    clock: Arc<dyn Clock>,
    began: Instant,
    /// When the control loop turned last, in milliseconds after `began`.
    turned_ms: AtomicU64,
    leaving: AtomicBool,
    acked: Counter,
    declined: Counter,
    /// By the stage's name.
    phases: Mutex<BTreeMap<String, [Histogram; 4]>>,
    /// Its name; empty until a coordinator has said it.
    job: Mutex<String>,
    deployed: Mutex<Option<Deployed>>,
}

struct Deployed {
    attempt: Attempt,
    /// What is stopped is not kept for being watched.
    running: Weak<RunningAttempt>,
    commits: Arc<CommitStats>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl Collector for Watched {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families { encoder, job: self.job.lock().clone() };
        self.of_process(&mut families)?;
        let (attempt, subtasks) = {
            let deployed = self.deployed.lock();
            let Some(deployed) = &*deployed else { return families.gauge("attempt", ATTEMPT, [(Vec::new(), 0.0)]) };
            of_commits(&mut families, &deployed.commits)?;
            (deployed.attempt, deployed.running.upgrade().map(|running| running.subtasks()).unwrap_or_default())
        };
        families.gauge("attempt", ATTEMPT, [(Vec::new(), attempt.0 as f64)])?;
        of_subtasks(&mut families, &subtasks, self.clock.now_ms())
    }
}

const ATTEMPT: &str = "The attempt that stands here, 0 for none";

impl Watched {
    fn of_process(&self, families: &mut Families<'_>) -> fmt::Result {
        let info = vec![("worker", self.worker.0.clone()), ("version", BUILD_VERSION.to_string())];
        families.gauge("build", "Which process and build this is; always 1", [(info, 1.0)])?;
        let bytes = [
            ("budget", Some(self.budget)),
            ("rows", Some(self.memory.row_bytes() as u64)),
            ("rocksdb", Some(self.memory.rocksdb_bytes() as u64)),
            ("resident", resident_bytes()),
        ];
        families.gauge(
            "memory_bytes",
            "The budget that this worker obeys, what tables and RocksDB hold of it, and what the process has in memory",
            bytes.into_iter().filter_map(|(of, bytes)| Some((vec![("of", of.to_string())], bytes? as f64))),
        )?;
        let outcomes = [("acked", &self.acked), ("declined", &self.declined)];
        families.counter(
            "checkpoints",
            "Checkpoints that this worker has acknowledged or declined",
            outcomes.map(|(outcome, count)| (vec![("outcome", outcome.to_string())], count.get() as f64)),
        )?;
        families.histograms(
            "checkpoint_seconds",
            "How long the phases of checkpoints took, of each subtask",
            self.phases.lock().iter().flat_map(|(stage, phases)| {
                PHASES.iter().zip(phases).map(move |(phase, histogram)| {
                    (vec![("stage", stage.clone()), ("phase", (*phase).to_string())], histogram)
                })
            }),
        )
    }
}

fn of_commits(families: &mut Families<'_>, commits: &CommitStats) -> fmt::Result {
    let pending = commits.pending() as f64;
    families.gauge("pending_commits", "Pre-commits of sinks that wait for their commit", [(Vec::new(), pending)])?;
    let failed = commits.failed() as f64;
    families.counter("failed_commits", "Commits that failed and are tried again", [(Vec::new(), failed)])
}

fn of_subtasks(families: &mut Families<'_>, subtasks: &[SubtaskStats], now_ms: i64) -> fmt::Result {
    let operators = || {
        subtasks.iter().flat_map(|subtask| {
            subtask.operators.iter().map(|operator| {
                let labels = vec![("operator", operator.name.clone()), ("subtask", subtask.subtask.to_string())];
                (labels, operator)
            })
        })
    };
    let rows_in = operators().filter_map(|(labels, operator)| Some((labels, operator.rows_in? as f64)));
    families.counter("rows_in", "Rows that came into an operator or sink", rows_in)?;
    let rows_out = operators().filter_map(|(labels, operator)| Some((labels, operator.rows_out? as f64)));
    families.counter("rows_out", "Rows that came out of a source or operator", rows_out)?;

    let labels =
        |subtask: &SubtaskStats| vec![("stage", subtask.stage.clone()), ("subtask", subtask.subtask.to_string())];
    let each =
        |number: fn(&SubtaskStats) -> f64| subtasks.iter().map(move |subtask| (labels(subtask), number(subtask)));
    families.counter("busy_seconds", "Time that a subtask's thread has worked", each(|s| s.busy_us as f64 / 1e6))?;
    families.counter("idle_seconds", "Time that it has waited for input", each(|s| s.idle_us as f64 / 1e6))?;
    families.counter(
        "backpressured_seconds",
        "Time that it has waited for room in an output",
        each(|s| s.backpressured_us as f64 / 1e6),
    )?;
    families.counter("late_rows", "Rows left out since the watermark had passed them", each(|s| s.late_rows as f64))?;
    families.counter(
        "unmatched_retractions",
        "Rows that were taken back though they were not there",
        each(|s| s.unmatched_retractions as f64),
    )?;
    families.counter(
        "skipped_rows",
        "Input rows that could not be read, and were skipped as an option says",
        each(|s| s.skipped_rows as f64),
    )?;
    families.gauge(
        "source_lag_records",
        "Records that are there for a source and not read yet, where it knows",
        subtasks.iter().filter_map(|subtask| Some((labels(subtask), subtask.source_lag? as f64))),
    )?;
    families.gauge(
        "state_bytes",
        "Bytes of keyed state",
        subtasks.iter().filter_map(|subtask| Some((labels(subtask), subtask.state_bytes? as f64))),
    )?;
    families.gauge(
        "watermark_lag_seconds",
        "How far event time is behind the clock; nothing before the first watermark and after the last",
        subtasks
            .iter()
            .filter(|subtask| subtask.watermark_ms > MIN_WATERMARK && subtask.watermark_ms < MAX_WATERMARK)
            .map(|subtask| (labels(subtask), now_ms.saturating_sub(subtask.watermark_ms) as f64 / 1e3)),
    )?;
    families.gauge(
        "finished",
        "1 once a subtask has reached the end of its input",
        each(|subtask| f64::from(u8::from(subtask.finished))),
    )
}

/// Writes families of numbers, each with the job's name.
struct Families<'a> {
    encoder: DescriptorEncoder<'a>,
    job: String,
}

impl Families<'_> {
    fn gauge(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, values.into_iter().map(|(labels, v)| (labels, ConstGauge::new(v))))
    }

    fn counter(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) -> fmt::Result {
        let values = values.into_iter().map(|(labels, value)| (labels, ConstCounter::new(value)));
        self.family(name, help, MetricType::Counter, values)
    }

    fn histograms<'h>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (Labels, &'h Histogram)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Histogram, values.map(|(labels, histogram)| (labels, histogram.clone())))
    }

    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        values: impl Iterator<Item = (Labels, impl EncodeMetric)>,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, kind)?;
        for (mut labels, value) in values {
            labels.insert(0, ("job", self.job.clone()));
            value.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// What the kernel says this process has in memory.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}
