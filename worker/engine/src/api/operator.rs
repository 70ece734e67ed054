//! What an operator is: synchronous code on a subtask's thread, fed with batches, watermarks and timers.

use std::ops::Range;
use std::sync::Arc;

use weir_protocol::part::Item;
use weir_state::{Frozen, SubtaskState, TableShape};

use crate::api::batch::Batch;
use crate::api::clock::Clock;
use crate::api::counters::Counters;
use crate::api::error::OperatorError;
use crate::api::time::{MIN_WATERMARK, Timestamp};

/// Makes an operator's subtasks.
pub trait OperatorFactory: Send + Sync {
    /// Called once a subtask and attempt, on the subtask's thread, after its state has been restored.
    fn create(&self, ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError>;

    /// The tables that [`Self::create`] opens, each of them and no other. They stand in every part, and a restore refuses what
    /// was written as something else before anything is opened.
    fn tables(&self) -> Vec<TableShape> {
        Vec::new()
    }

    /// Its operators' [`Operator::watermark_out`] is not always what they are told. Event time is then different before and after
    /// them, which a snapshot must be able to say.
    fn holds_back(&self) -> bool {
        false
    }
}

/// What an operator is given at its start.
pub struct OperatorContext {
    /// Which subtask this is.
    pub subtask: u32,
    /// Subtasks a stage.
    pub parallelism: u32,
    /// Key groups.
    pub max_parallelism: u32,
    /// The name under which it asks for tables: its identity, or the one that its state was first written with.
    pub identity: String,
    /// The subtask's keyed state, shared by the operators of the chain.
    pub state: SubtaskState,
    /// Restored non-keyed items that were dealt to this subtask.
    pub items: Vec<Item>,
    /// What is late since before the restore.
    pub restored_watermarks: RestoredWatermarks,
    /// What the subtask counts.
    pub counters: Arc<Counters>,
    /// Processing time.
    pub clock: Arc<dyn Clock>,
    /// Where an operator's own I/O runs.
    pub runtime: tokio::runtime::Handle,
    /// Bytes that this operator may keep in caches of its own, beside its tables.
    pub cache_bytes: usize,
}

/// The event time that each key group had reached in the checkpoint: late before the restore is late after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoredWatermarks {
    start: u32,
    floors: Vec<Timestamp>,
}

impl RestoredWatermarks {
    /// Floors of the key groups from `start` on.
    pub const fn new(start: u32, floors: Vec<Timestamp>) -> Self {
        Self { start, floors }
    }

    /// Nothing was restored.
    pub const fn none() -> Self {
        Self::new(0, Vec::new())
    }

    /// The same floor for all these key groups.
    pub fn uniform(groups: Range<u32>, floor: Timestamp) -> Self {
        Self { start: groups.start, floors: vec![floor; groups.len()] }
    }

    /// The floor of a key group; [`MIN_WATERMARK`] where nothing was restored.
    pub fn of(&self, key_group: u32) -> Timestamp {
        key_group.checked_sub(self.start).and_then(|i| self.floors.get(i as usize)).copied().unwrap_or(MIN_WATERMARK)
    }

    /// The key groups that this knows about.
    pub fn groups(&self) -> Range<u32> {
        self.start..self.start + self.floors.len() as u32
    }

    /// The lowest floor: what the whole subtask may start from.
    pub fn lowest(&self) -> Timestamp {
        self.floors.iter().copied().min().unwrap_or(MIN_WATERMARK)
    }

    /// The highest floor.
    pub fn highest(&self) -> Timestamp {
        self.floors.iter().copied().max().unwrap_or(MIN_WATERMARK)
    }

    /// All key groups have the same floor, so that [`Self::lowest`] says everything.
    pub fn is_uniform(&self) -> bool {
        self.lowest() == self.highest()
    }
}

/// How many rows a piece has at most, about: what an operator puts out at once where much comes out of little.
pub const PIECE_ROWS: usize = 4096;

/// One parallel instance of an operator.
///
/// # Consistency
/// All calls come from one thread. What an operator puts out during a call belongs before the next [`Self::freeze`]; what it
/// holds back must be in the snapshot. After a restore it is created from that snapshot and sees exactly the rows that came
/// after it; `on_watermark` is then called with the watermark that it had been told, so that a firing which a barrier interrupted
/// goes on. What it had been told is its own: operators before it may hold event time back, or be ahead in a firing.
///
/// # Emission
/// No operator waits for room. [`Output::emit`] takes whatever it is given, and [`Output::is_full`] says that it should be the
/// last for now. An operator is called only while its output has room, so that one piece can always be put out. Before each
/// further one it asks, and where the output is full it answers [`Progress::More`] and is called again when there is room: with
/// the same arguments, or for [`Self::process`] by [`Self::resume`]. A piece has some [`PIECE_ROWS`] rows, or as many as the
/// batch it was made of, where an operator puts out a row or two for each that comes in. So no output ever holds more than its
/// limit and one piece, whatever an operator makes of a row, and meanwhile commands, cancels and the barriers of other channels
/// are heard.
///
/// # Barriers
/// Between two calls of `on_watermark`, `on_timer` or `end_of_input` a barrier may pass: `freeze` is called, and must keep how
/// far the firing has got. **Within the rows of one `process` none does**: until it, or the `resume` after it, has answered
/// [`Progress::Done`], an operator is not frozen, has no timer or watermark, and gets no other rows. So what it has made of half
/// a batch never needs to be in a snapshot. An aligned barrier belongs behind all that comes of the rows before it, and waits
/// for its place among them; giving the checkpoint up does not wait. A barrier that overtakes need not wait either: what is left
/// of a batch is put out into what is saved of the channels, where no room is needed.
pub trait Operator: Send {
    /// Rows of an input; `input` is the index of the stage's edge for the first operator of a chain, and 0 for all others.
    /// [`Progress::More`] says that there is more to put out for these rows.
    fn process(&mut self, input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress, OperatorError>;

    /// Goes on with the rows of the last `process`, which has answered [`Progress::More`].
    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        let _ = out;
        Ok(Progress::Done)
    }

    /// Event time has reached `watermark`: rows at or before it are late from now on. Called with growing values, and with the
    /// same value again and again while it answers [`Progress::More`]; between two such calls a barrier may pass, but no row
    /// comes. [`Progress::Done`] says that all is out and the watermark may be sent on.
    fn on_watermark(&mut self, watermark: Timestamp, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        let _ = (watermark, out);
        Ok(Progress::Done)
    }

    /// What is sent on for `watermark`, once `on_watermark` has answered with `Done` for it: who will still put out rows of earlier
    /// times holds event time back. Never above `watermark`, and [`MAX_WATERMARK`](crate::MAX_WATERMARK) for itself; what is below an
    /// earlier answer counts for nothing. The factory says of an operator that has this that it
    /// [holds event time back](OperatorFactory::holds_back).
    fn watermark_out(&self, watermark: Timestamp) -> Timestamp {
        watermark
    }

    /// When [`Self::on_timer`] is to be called, in processing time.
    fn next_timer(&self) -> Option<Timestamp> {
        None
    }

    /// Processing time has reached [`Self::next_timer`]. The contract is that of `on_watermark`.
    fn on_timer(&mut self, now: Timestamp, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        let _ = (now, out);
        Ok(Progress::Done)
    }

    /// No row comes any more. Called after `on_watermark(MAX_WATERMARK)` has been answered with `Done`; the contract is the same.
    fn end_of_input(&mut self, out: &mut dyn Output) -> Result<Progress, OperatorError> {
        let _ = out;
        Ok(Progress::Done)
    }

    /// A barrier is about to be sent on: whoever holds rows back only to save work puts them out here and need not keep them
    /// in the snapshot. Called whether there is room or not, since the barrier would else wait for it: so what is held back that
    /// way is bounded. Whoever is in the midst of a firing can still note how far it has got.
    fn before_barrier(&mut self, out: &mut dyn Output) -> Result<(), OperatorError> {
        let _ = out;
        Ok(())
    }

    /// Swaps the dirty generations of its tables and copies the rest of its state. Only this pauses processing, so it does
    /// nothing that waits. Also called after the end of input.
    fn freeze(&mut self, snapshot: &mut OperatorSnapshot) -> Result<(), OperatorError> {
        let _ = snapshot;
        Ok(())
    }
}

/// What an operator contributes to a checkpoint.
#[derive(Default)]
pub struct OperatorSnapshot {
    /// Frozen generations of its tables.
    pub frozen: Vec<Frozen>,
    /// Self-contained items of non-keyed state.
    pub items: Vec<Item>,
}

/// Where an operator's rows go.
pub trait Output {
    /// Hands rows on; never waits. An empty batch is dropped.
    fn emit(&mut self, batch: Batch) -> Result<(), OperatorError>;

    /// No more should be put out for now: whoever has more answers [`Progress::More`].
    fn is_full(&self) -> bool;
}

/// Whether a call has to be repeated, or resumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// All is out.
    #[default]
    Done,
    /// There is more to put out; call again.
    More,
}
