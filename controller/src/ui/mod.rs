//! What a person sees of a run: with a terminal a live view, without one plain lines. Only shows; decides nothing.

mod live;
mod plain;
pub mod text;

use std::time::Duration;

use console::Term;

pub use live::Live;
pub use plain::Plain;

/// What is to be seen of a run.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The job's name.
    pub job: String,
    /// One word: starting, running, recovering, stopping …
    pub state: String,
    /// The current attempt; 0 before the first.
    pub attempt: u64,
    /// Since the run began.
    pub elapsed: Duration,
    /// Rows read by sources, in all and a second.
    pub rows_in: Flow,
    /// Rows written by sinks.
    pub rows_out: Flow,
    /// Rows that came too late.
    pub late_rows: u64,
    /// Rows that were skipped because they could not be read.
    pub skipped_rows: u64,
    /// The event time reached, in milliseconds since the epoch.
    pub watermark_ms: Option<i64>,
    /// All input has ended.
    pub input_ended: bool,
    /// The workers, by number.
    pub workers: Vec<WorkerView>,
    /// The newest completed checkpoint.
    pub checkpoint: Option<CheckpointView>,
    /// Checkpoints aborted since.
    pub failed_checkpoints: u32,
}

/// An amount and its speed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    /// Over all attempts of this run. What an attempt reads again counts again.
    pub total: u64,
    /// A second, of late.
    pub rate: f64,
}

/// One worker.
#[derive(Clone, Debug)]
pub struct WorkerView {
    /// Its number in this run.
    pub number: u64,
    /// Its process id.
    pub pid: Option<u32>,
    /// One word: starting, ready, running.
    pub state: &'static str,
    /// Rows a second that its sources read.
    pub rate: f64,
    /// Of its subtasks' time, how much is work.
    pub busy: f64,
    /// Bytes of state.
    pub state_bytes: u64,
}

/// A completed checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointView {
    /// Its id.
    pub id: u64,
    /// From the trigger to the record.
    pub duration: Duration,
    /// Bytes of state that it names.
    pub state_bytes: u64,
    /// Bytes uploaded for it.
    pub uploaded_bytes: u64,
    /// The longest pause of processing.
    pub pause: Option<Duration>,
    /// How long ago it completed.
    pub age: Duration,
}

/// How much an event line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Only where every line is wanted: a completed checkpoint, which the live view shows anyway.
    Routine,
    /// Something changed.
    Change,
    /// Something good that was waited for.
    Good,
    /// Something went wrong.
    Bad,
}

/// Shows a run.
pub trait Ui: Send {
    /// One event, in one line.
    fn event(&mut self, weight: Weight, line: &str);
    /// A line that a worker printed.
    fn printed(&mut self, line: &str);
    /// The state of things. Called several times a second; how often it is shown is the view's affair.
    fn show(&mut self, view: &View);
    /// Nothing more comes.
    fn finish(&mut self, view: &View);
}

/// The live view where somebody looks, else plain lines.
pub fn choose(plain: bool) -> Box<dyn Ui> {
    let terminal = Term::stderr();
    if terminal.features().is_attended() && !plain { Box::new(Live::new()) } else { Box::new(Plain::new()) }
}
