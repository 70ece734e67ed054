//! One subtask: the thread's loop. It takes what comes to its gate, or polls its source, and drives the chain.
//!
//! Everything happens in order on this thread. It waits in three places only: for input, for room in an output, and inside an
//! operator that reads its state; stopping the attempt ends the first two.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::Sender;
use weir_protocol::CheckpointId;
use weir_state::SubtaskState;

use crate::api::batch::Batch;
use crate::api::clock::Clock;
use crate::api::counters::{Counters, Stopwatch};
use crate::api::error::OperatorError;
use crate::api::graph::{SourceNode, StageId};
use crate::api::operator::{Progress, RestoredWatermarks};
use crate::api::source::{Source, SourcePoll};
use crate::api::time::{MAX_WATERMARK, MIN_WATERMARK, Timestamp};
use crate::data::alignment::{Action, Alignment, Event, Why};
use crate::data::chain::{Chain, Firing};
use crate::data::exchange::TARGET_ROWS;
use crate::data::gate::{Command, Gate, Taken};
use crate::data::splits::Splits;
use crate::data::watermark::{Change, Watermarks};
use crate::seam::{Element, Report, SubtaskSnapshot};

/// One parallel instance of a stage.
pub(crate) struct Subtask {
    pub(crate) stage: StageId,
    /// Which of the stage's subtasks.
    pub(crate) index: u32,
    pub(crate) gate: Arc<Gate>,
    pub(crate) head: Head,
    pub(crate) chain: Chain,
    pub(crate) alignment: Alignment,
    /// The highest watermark that the chain has been told, or is being told.
    pub(crate) watermark: Timestamp,
    /// What was restored, until the watermark has passed all of it.
    pub(crate) floors: RestoredWatermarks,
    /// Of a stage that keeps keyed state.
    pub(crate) state: Option<SubtaskState>,
    pub(crate) reports: Sender<Report>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) running: bool,
    /// It has reached the end of its input. It only answers barriers.
    pub(crate) finished: Arc<AtomicBool>,
    /// It had done so before the restore.
    pub(crate) restored_finished: bool,
}

/// Where the subtask's rows come from.
pub(crate) enum Head {
    Source(Box<SourceHead>),
    Inputs(InputsHead),
}

/// A source and its splits.
pub(crate) struct SourceHead {
    pub(crate) node: SourceNode,
    /// Not there where nothing is to be read, and dropped at the end.
    pub(crate) source: Option<Box<dyn Source>>,
    pub(crate) splits: Splits,
}

/// The channels of a gate.
pub(crate) struct InputsHead {
    /// Which input of the first operator each channel belongs to.
    pub(crate) inputs: Vec<usize>,
    pub(crate) watermarks: Watermarks,
}

impl SourceHead {
    fn poll(&mut self) -> Result<SourcePoll, OperatorError> {
        let Some(source) = &mut self.source else { return Ok(SourcePoll::End) };
        let poll = source.poll(TARGET_ROWS)?;
        match poll {
            SourcePoll::Rows { split, .. } | SourcePoll::SplitFinished(split) if split >= self.splits.len() => {
                let message = format!("the source answered for split {split} of {}", self.splits.len());
                Err(OperatorError::operator(message))
            }
            poll => Ok(poll),
        }
    }

    /// Tells the source how far event time has got in a split.
    fn tell_event_time(&mut self, split: usize) {
        if let (Some(source), Some(reached)) = (&mut self.source, self.splits.reached(split)) {
            source.event_time(split, reached);
        }
    }

    /// Marks the splits that have given nothing for too long.
    fn find_idle(&mut self, now: Instant) -> Option<Change> {
        let source = &self.source;
        self.splits.find_idle(now, |split| source.as_ref().is_some_and(|source| source.holds_back(split)))
    }

    /// Asks the source for its positions.
    fn note_positions(&mut self) -> Result<(), OperatorError> {
        if let Some(source) = &mut self.source {
            let positions = source.snapshot()?;
            if positions.len() != self.splits.len() {
                let (found, expected) = (positions.len(), self.splits.len());
                return Err(OperatorError::operator(format!(
                    "the source gave {found} positions for {expected} splits"
                )));
            }
            self.splits.set_positions(positions);
        }
        Ok(())
    }
}

impl Subtask {
    /// Runs until the attempt is stopped, which is no error.
    pub(crate) fn run(&mut self) -> Result<(), OperatorError> {
        match self.run_to_stop() {
            Err(error) if error.is_stopped() => Ok(()),
            result => result,
        }
    }

    fn run_to_stop(&mut self) -> Result<(), OperatorError> {
        // What comes before the run is nobody's time.
        let uncounted = Stopwatch::default();
        while !self.running {
            // Inputs wait in the gate until the coordinator says so; no element is taken.
            match self.gate.next(|_| true, None, &uncounted) {
                Taken::Command(command) => self.command(command)?,
                Taken::Stopped => return Err(OperatorError::stopped()),
                Taken::Nothing | Taken::Element(..) => {}
            }
        }
        if self.restored_finished {
            self.watermark = MAX_WATERMARK;
            self.counters.set_watermark(MAX_WATERMARK);
            self.chain.send_watermark(MAX_WATERMARK)?;
            self.chain.signal(&Element::EndOfInput)?;
            self.say_finished();
        } else {
            self.resume_event_time()?;
        }
        match self.head {
            Head::Source(_) => self.run_source(),
            Head::Inputs(_) => self.run_inputs(),
        }
    }

    /// Tells the chain the event time of the snapshot, so that a firing which its barrier interrupted goes on.
    fn resume_event_time(&mut self) -> Result<(), OperatorError> {
        let changes = match &mut self.head {
            Head::Source(head) => {
                let changes = head.splits.restore(Instant::now());
                (0..head.splits.len()).for_each(|split| head.tell_event_time(split));
                changes
            }
            Head::Inputs(head) => vec![Change::Watermark(head.watermarks.current())],
        };
        for change in changes {
            if change != Change::Watermark(MIN_WATERMARK) {
                self.changed(change)?;
            }
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Relaxed)
    }

    fn run_inputs(&mut self) -> Result<(), OperatorError> {
        loop {
            let deadline = self.deadline();
            let alignment = &self.alignment;
            match self.gate.next(|channel| alignment.is_held(channel), deadline, &self.counters.idle) {
                Taken::Element(channel, element) => self.element(channel, element)?,
                Taken::Command(command) => self.command(command)?,
                Taken::Nothing => {}
                Taken::Stopped => return Ok(()),
            }
            self.keep_time(Instant::now())?;
        }
    }

    fn run_source(&mut self) -> Result<(), OperatorError> {
        loop {
            let poll = match &mut self.head {
                Head::Source(head) if !self.finished.load(Ordering::Relaxed) => {
                    if head.splits.is_ended() {
                        self.finish()?;
                        continue;
                    }
                    match self.gate.try_command() {
                        Taken::Nothing => head.poll().map_err(|error| error.in_operator(&head.node.name))?,
                        Taken::Command(command) => {
                            self.command(command)?;
                            continue;
                        }
                        Taken::Stopped | Taken::Element(..) => return Ok(()),
                    }
                }
                _ => SourcePoll::Pending { until: None },
            };
            let now = Instant::now();
            match poll {
                SourcePoll::Rows { split, rows } => {
                    self.rows(now, split, rows)?;
                    let after = Instant::now();
                    if let Head::Source(head) = &mut self.head {
                        head.splits.was_away(after - now);
                    }
                    self.keep_time(after)?;
                }
                SourcePoll::SplitFinished(split) => self.end_splits(split..split + 1)?,
                SourcePoll::End => {
                    let splits = self.splits().map_or(0, |splits| splits.len());
                    self.end_splits(0..splits)?;
                }
                SourcePoll::Pending { until } => {
                    self.keep_time(now)?;
                    let deadline = until.into_iter().chain(self.deadline()).min();
                    match self.gate.next(|_| false, deadline, &self.counters.idle) {
                        Taken::Command(command) => self.command(command)?,
                        Taken::Stopped => return Ok(()),
                        Taken::Nothing | Taken::Element(..) => {}
                    }
                }
            }
        }
    }

    fn splits(&mut self) -> Option<&mut Splits> {
        match &mut self.head {
            Head::Source(head) => Some(&mut head.splits),
            Head::Inputs(_) => None,
        }
    }

    /// Rows out of the source.
    fn rows(&mut self, now: Instant, split: usize, rows: arrow::array::RecordBatch) -> Result<(), OperatorError> {
        let Head::Source(head) = &mut self.head else { return Ok(()) };
        self.counters.source_rows.add(rows.num_rows() as u64);
        let active = head.splits.activate(split, now);
        let name = |error: OperatorError| error.in_operator(&head.node.name);
        let rows = match &head.node.prepare {
            Some(prepare) => prepare.apply(rows).map_err(name)?,
            None => rows,
        };
        let watermark = match &head.node.watermark {
            Some(watermark) if rows.num_rows() > 0 => watermark.watermark(&rows).map_err(name)?,
            _ => None,
        };
        if let Some(change) = active {
            self.changed(change)?;
        }
        self.chain.process(0, Batch::inserts(rows))?;
        if let Some(watermark) = watermark
            && let Head::Source(head) = &mut self.head
        {
            let change = head.splits.advance(split, watermark);
            head.tell_event_time(split);
            if let Some(change) = change {
                self.changed(change)?;
            }
        }
        Ok(())
    }

    fn end_splits(&mut self, splits: std::ops::Range<usize>) -> Result<(), OperatorError> {
        for split in splits {
            if let Some(change) = self.splits().and_then(|splits| splits.end(split)) {
                self.changed(change)?;
            }
        }
        Ok(())
    }

    /// Something out of a channel.
    fn element(&mut self, channel: usize, element: Element) -> Result<(), OperatorError> {
        let now = Instant::now();
        let finished = self.is_finished();
        let Head::Inputs(head) = &mut self.head else { return Ok(()) };
        let change = match element {
            Element::Barrier(id) => return self.event(now, Event::Barrier { channel, id }),
            Element::Cancel(id) => return self.event(now, Event::Cancel(id)),
            Element::EndOfInput => {
                let change = head.watermarks.end(channel);
                let ended = head.watermarks.is_ended();
                self.event(now, Event::Ended { channel })?;
                if finished {
                    return Ok(());
                }
                if let Some(change) = change {
                    self.changed(change)?;
                }
                return if ended { self.finish() } else { Ok(()) };
            }
            // Nothing but barriers matters after the end.
            _ if finished => return Ok(()),
            Element::Batch(batch) => {
                let input = head.inputs[channel];
                return self.chain.process(input, batch);
            }
            Element::Watermark(watermark) => head.watermarks.advance(channel, watermark),
            Element::Idle => head.watermarks.set_idle(channel),
        };
        change.map_or(Ok(()), |change| self.changed(change))
    }

    fn changed(&mut self, change: Change) -> Result<(), OperatorError> {
        match change {
            Change::Idle => self.chain.signal(&Element::Idle),
            // The same again only says that this subtask is no longer idle.
            Change::Watermark(watermark) if watermark <= self.watermark => self.chain.send_watermark(self.watermark),
            Change::Watermark(watermark) => {
                self.watermark = watermark;
                self.counters.set_watermark(watermark);
                self.fire(Firing::watermark(watermark))
            }
        }
    }

    /// Fires piece by piece; between two pieces a barrier can pass.
    fn fire(&mut self, mut firing: Firing) -> Result<(), OperatorError> {
        while self.chain.step(&mut firing)? == Progress::More {
            loop {
                let alignment = &self.alignment;
                match self.gate.try_barrier(|channel| alignment.is_held(channel)) {
                    Taken::Command(command) => self.command(command)?,
                    Taken::Element(channel, Element::Barrier(id)) => {
                        self.event(Instant::now(), Event::Barrier { channel, id })?;
                    }
                    Taken::Element(_, Element::Cancel(id)) => self.event(Instant::now(), Event::Cancel(id))?,
                    Taken::Element(..) | Taken::Nothing => break,
                    Taken::Stopped => return Err(OperatorError::stopped()),
                }
            }
            self.tick(Instant::now())?;
        }
        Ok(())
    }

    /// The end of all input.
    fn finish(&mut self) -> Result<(), OperatorError> {
        self.changed_to_end()?;
        self.fire(Firing::end())?;
        if let Head::Source(head) = &mut self.head {
            head.note_positions().map_err(|error| error.in_operator(&head.node.name))?;
            head.source = None;
        }
        self.say_finished();
        Ok(())
    }

    fn changed_to_end(&mut self) -> Result<(), OperatorError> {
        if self.watermark < MAX_WATERMARK { self.changed(Change::Watermark(MAX_WATERMARK)) } else { Ok(()) }
    }

    fn say_finished(&mut self) {
        self.finished.store(true, Ordering::Relaxed);
        self.report(Report::Finished { stage: self.stage, subtask: self.index });
    }

    fn command(&mut self, command: Command) -> Result<(), OperatorError> {
        match command {
            Command::Run => {
                self.running = true;
                Ok(())
            }
            Command::Trigger(id) => self.event(Instant::now(), Event::Trigger(id)),
            Command::Cancel(id) => self.event(Instant::now(), Event::Cancel(id)),
            Command::AlignmentTimeout(timeout) => {
                self.alignment.set_timeout(timeout);
                Ok(())
            }
        }
    }

    fn event(&mut self, now: Instant, event: Event) -> Result<(), OperatorError> {
        for action in self.alignment.on(now, event) {
            match action {
                Action::Freeze { id, align } => self.checkpoint(id, align)?,
                Action::SendCancel(id) => self.chain.cancel(id)?,
                Action::GiveUp { id, why } => {
                    let reason = match why {
                        Why::Overtaken(by) => format!("the barrier of checkpoint {by} came before all of {id}"),
                        Why::Cancelled => "it was cancelled during alignment".to_string(),
                        Why::Timeout => "its alignment took longer than the timeout".to_string(),
                    };
                    self.report(Report::Declined { id, stage: self.stage, subtask: self.index, reason });
                }
            }
        }
        Ok(())
    }

    /// Sends the barrier on, and freezes.
    fn checkpoint(&mut self, id: CheckpointId, align: std::time::Duration) -> Result<(), OperatorError> {
        let finished = self.is_finished();
        if !finished {
            self.chain.before_barrier()?;
        }
        self.chain.signal(&Element::Barrier(id))?;
        let began = Instant::now();
        let mut items = Vec::new();
        if let Head::Source(head) = &mut self.head {
            head.note_positions().map_err(|error| error.in_operator(&head.node.name))?;
            items.push((head.node.identity.clone(), head.splits.items()));
        }
        let chain = self.chain.freeze(id)?;
        items.extend(chain.items);
        let snapshot = SubtaskSnapshot {
            frozen: chain.frozen,
            items,
            prepared: chain.prepared,
            finished,
            watermark: Some(self.watermark).filter(|watermark| *watermark > MIN_WATERMARK),
            key_group_watermarks: self.key_group_watermarks(),
            pause: began.elapsed(),
            align,
        };
        self.report(Report::Frozen {
            stage: self.stage,
            subtask: self.index,
            id,
            snapshot: Box::new(snapshot),
            state: self.state.clone(),
        });
        Ok(())
    }

    /// The event time of each key group, as long as what was restored for some is higher than the watermark.
    fn key_group_watermarks(&mut self) -> Vec<Timestamp> {
        if self.floors.highest() <= self.watermark {
            self.floors = RestoredWatermarks::default();
            return Vec::new();
        }
        self.floors.groups().map(|group| self.floors.of(group).max(self.watermark)).collect()
    }

    /// Does what is due.
    fn keep_time(&mut self, now: Instant) -> Result<(), OperatorError> {
        self.tick(now)?;
        if self.chain.deadline().is_some_and(|deadline| deadline <= now) {
            self.chain.flush_due(now)?;
        }
        if self.is_finished() {
            return Ok(());
        }
        if let Head::Source(head) = &mut self.head
            && head.splits.deadline().is_some_and(|deadline| deadline <= now)
            && let Some(change) = head.find_idle(now)
        {
            self.changed(change)?;
        }
        if let Some((timer, operator)) = self.chain.next_timer() {
            let time = self.clock.now_ms();
            if timer <= time {
                self.fire(Firing::timer(operator, time))?;
            }
        }
        Ok(())
    }

    fn tick(&mut self, now: Instant) -> Result<(), OperatorError> {
        match self.alignment.deadline() {
            Some(deadline) if deadline <= now => self.event(now, Event::Tick),
            _ => Ok(()),
        }
    }

    /// When [`Self::keep_time`] has something to do.
    fn deadline(&mut self) -> Option<Instant> {
        let mut deadline = self.alignment.deadline().into_iter().chain(self.chain.deadline()).min();
        if !self.is_finished() {
            let idle = self.splits().and_then(|splits| splits.deadline());
            let timer = self.chain.next_timer().map(|(timer, _)| Instant::now() + self.clock.wait(timer));
            deadline = deadline.into_iter().chain(idle).chain(timer).min();
        }
        deadline
    }

    fn report(&self, report: Report) {
        // Nobody takes reports any more only while the attempt is being stopped.
        let _ = self.reports.send(report);
    }
}
