//! One subtask: the thread's loop. It takes what comes to its gate, or polls its source, and drives the chain.
//!
//! Everything happens in order on this thread. What has been taken in is done piece by piece, and is all done before the next is
//! taken in. It waits in one place, at the head of the loop: for input, or for room in an output. Commands, barriers and cancels
//! end either wait, and are looked at between any two pieces. Beside that only an operator that reads its state, and a sink, take
//! their time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::Sender;
use weir_protocol::CheckpointId;
use weir_runtime::clock;
use weir_state::SubtaskState;

use crate::api::batch::Batch;
use crate::api::clock::Clock;
use crate::api::counters::{Counters, Stopwatch};
use crate::api::error::OperatorError;
use crate::api::graph::{SourceNode, StageId};
use crate::api::operator::Progress;
use crate::api::source::{Source, SourcePoll};
use crate::api::time::{MAX_WATERMARK, MIN_WATERMARK, Timestamp};
use crate::data::alignment::{Action, Alignment, Event, Why};
use crate::data::chain::{Chain, Firing};
use crate::data::eventtime::EventTime;
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
    /// What has been taken in, and is not done yet.
    pub(crate) work: VecDeque<Work>,
    /// Operators are putting out what they need not keep, for the checkpoint whose barriers are all there.
    pub(crate) flushing: Option<Firing>,
    /// What the head of the chain has been told, or is being told.
    pub(crate) time: EventTime,
    /// Of a stage that keeps keyed state.
    pub(crate) state: Option<SubtaskState>,
    pub(crate) reports: Sender<Report>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) running: bool,
    /// A source reads nothing, though it could.
    pub(crate) held: bool,
    /// It has reached the end of its input. It only answers barriers.
    pub(crate) finished: Arc<AtomicBool>,
    /// It had done so before the restore.
    pub(crate) restored_finished: bool,
}

/// Something that was taken in, and what the chain has to be told of it.
pub(crate) enum Work {
    /// Rows for the first operator. No checkpoint comes between what they are taken out of and the chain.
    Rows { input: usize, batch: Batch },
    /// Event time has changed.
    Changed(Change),
    /// Event time comes to its end, where it has not.
    EventTimeEnds,
    /// A firing that has begun.
    Fire(Firing),
    /// The end of all input is through.
    Finish,
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
    /// Since when it has not been asked for rows, because of others that are not through, or because it is held.
    pub(crate) away: Option<Instant>,
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

    /// It can be asked for rows again.
    fn is_back(&mut self, now: Instant) {
        if let Some(since) = self.away.take() {
            self.splits.was_away(now.saturating_duration_since(since));
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
            self.time.tell(MAX_WATERMARK);
            self.counters.set_watermark(MAX_WATERMARK);
            self.chain.end_event_time()?;
            self.chain.signal(&Element::EndOfInput)?;
            self.say_finished();
        } else {
            self.resume_event_time();
        }
        loop {
            self.turn()?;
        }
    }

    /// One turn of the loop.
    fn turn(&mut self) -> Result<(), OperatorError> {
        match self.go_on()? {
            Taken::Command(command) => self.command(command)?,
            Taken::Element(channel, element) => self.element(channel, element)?,
            Taken::Nothing => {}
            Taken::Stopped => return Err(OperatorError::stopped()),
        }
        self.keep_time(clock::now())
    }

    /// Does a piece of what is not done yet, or, where all is done and there is room, takes the next input. Gives what has come
    /// meanwhile.
    fn go_on(&mut self) -> Result<Taken, OperatorError> {
        if self.is_busy() {
            if self.step()? {
                return Ok(if self.is_busy() { self.try_barrier() } else { Taken::Nothing });
            }
        } else if self.chain.has_room() {
            return self.take();
        }
        Ok(self.wait_for_room())
    }

    /// Tells the chain the event time of the snapshot, so that a firing which its barrier interrupted goes on.
    fn resume_event_time(&mut self) {
        let changes = match &mut self.head {
            Head::Source(head) => {
                let changes = head.splits.restore(clock::now());
                (0..head.splits.len()).for_each(|split| head.tell_event_time(split));
                changes
            }
            Head::Inputs(head) => vec![Change::Watermark(head.watermarks.current())],
        };
        let changes = changes.into_iter().filter(|change| *change != Change::Watermark(MIN_WATERMARK));
        self.work.extend(changes.map(Work::Changed));
    }

    fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Relaxed)
    }

    /// Something is not done yet.
    fn is_busy(&self) -> bool {
        !self.work.is_empty() || !self.chain.is_idle() || self.alignment.is_complete()
    }

    fn try_barrier(&self) -> Taken {
        self.gate.try_barrier(|channel| self.alignment.is_held(channel))
    }

    /// Waits until an output may have room, or something has come that needs none.
    fn wait_for_room(&mut self) -> Taken {
        if let Head::Source(head) = &mut self.head {
            head.away.get_or_insert_with(clock::now);
        }
        let deadline = self.alignment.deadline().into_iter().chain(self.chain.deadline()).min();
        let alignment = &self.alignment;
        self.gate.next_barrier(|channel| alignment.is_held(channel), deadline, &self.counters.backpressured)
    }

    /// Takes the next input, and waits for it.
    fn take(&mut self) -> Result<Taken, OperatorError> {
        match self.head {
            Head::Source(_) if !self.held && !self.is_finished() => self.take_from_source(),
            Head::Source(_) => {
                let deadline = self.deadline();
                Ok(self.gate.next(|_| false, deadline, &self.counters.idle))
            }
            Head::Inputs(_) => {
                let deadline = self.deadline();
                let alignment = &self.alignment;
                Ok(self.gate.next(|channel| alignment.is_held(channel), deadline, &self.counters.idle))
            }
        }
    }

    fn take_from_source(&mut self) -> Result<Taken, OperatorError> {
        match self.gate.try_command() {
            Taken::Nothing => {}
            taken => return Ok(taken),
        }
        let Head::Source(head) = &mut self.head else { return Ok(Taken::Nothing) };
        if head.splits.is_ended() {
            self.finish();
            return Ok(Taken::Nothing);
        }
        match head.poll().map_err(|error| error.in_operator(&head.node.name))? {
            SourcePoll::Rows { split, rows } => self.rows(clock::now(), split, rows)?,
            SourcePoll::SplitFinished(split) => self.end_splits(split..split + 1),
            SourcePoll::SplitsAdded(splits) => {
                let now = clock::now();
                for split in splits {
                    head.splits.add(split, now);
                }
            }
            SourcePoll::End => {
                let splits = head.splits.len();
                self.end_splits(0..splits);
            }
            SourcePoll::Pending { until } => {
                let deadline = until.into_iter().chain(self.deadline()).min();
                return Ok(self.gate.next(|_| false, deadline, &self.counters.idle));
            }
        }
        Ok(Taken::Nothing)
    }

    /// Does the next piece of what is not done yet. `false`: it needs room in an output.
    fn step(&mut self) -> Result<bool, OperatorError> {
        let room = self.chain.has_room();
        if !self.chain.is_idle() {
            if room {
                self.chain.resume()?;
            }
            return Ok(room);
        }
        // What has been taken out of the source, or of a channel, has to be in the chain.
        if self.alignment.is_complete() && !self.work.iter().any(|work| matches!(work, Work::Rows { .. })) {
            self.step_to_barrier()?;
            return Ok(true);
        }
        match self.work.front_mut() {
            Some(Work::Rows { .. } | Work::Fire(_)) if !room => return Ok(false),
            Some(Work::Fire(firing)) => {
                let progress = self.chain.step(firing)?;
                // Only now: a barrier can pass before a firing begins, and what no operator knows of is no event time of the snapshot.
                if let Some(watermark) = firing.told() {
                    self.time.tell(watermark);
                    self.counters.set_watermark(watermark);
                }
                if progress == Progress::Done {
                    self.work.pop_front();
                }
                return Ok(true);
            }
            _ => {}
        }
        match self.work.pop_front() {
            Some(Work::Rows { input, batch }) => self.chain.process(input, batch)?,
            Some(Work::Changed(change)) => self.changed(change)?,
            Some(Work::EventTimeEnds) if self.time.told() < MAX_WATERMARK => self.fire_watermark(MAX_WATERMARK),
            Some(Work::Finish) => self.end()?,
            Some(Work::EventTimeEnds | Work::Fire(_)) | None => {}
        }
        Ok(true)
    }

    /// All barriers of a checkpoint are there, and no rows are in the midst.
    fn step_to_barrier(&mut self) -> Result<(), OperatorError> {
        if !self.is_finished() {
            let flushing = self.flushing.get_or_insert(Firing::barrier());
            if self.chain.step(flushing)? == Progress::More {
                return Ok(());
            }
        }
        self.flushing = None;
        self.event(clock::now(), Event::Ready)
    }

    /// Rows out of the source.
    fn rows(&mut self, now: Instant, split: usize, rows: arrow::array::RecordBatch) -> Result<(), OperatorError> {
        let Head::Source(head) = &mut self.head else { return Ok(()) };
        self.counters.source_rows.add(rows.num_rows() as u64);
        self.work.extend(head.splits.activate(split, now).map(Work::Changed));
        head.away = Some(now);
        let name = |error: OperatorError| error.in_operator(&head.node.name);
        let rows = match &head.node.prepare {
            Some(prepare) => prepare.apply(rows).map_err(name)?,
            None => rows,
        };
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let watermark = match &head.node.watermark {
            Some(watermark) => watermark.watermark(&rows).map_err(name)?,
            None => None,
        };
        self.work.push_back(Work::Rows { input: 0, batch: Batch::inserts(rows) });
        if let Some(watermark) = watermark {
            let change = head.splits.advance(split, watermark);
            head.tell_event_time(split);
            self.work.extend(change.map(Work::Changed));
        }
        Ok(())
    }

    fn end_splits(&mut self, splits: std::ops::Range<usize>) {
        let Head::Source(head) = &mut self.head else { return };
        self.work.extend(splits.filter_map(|split| head.splits.end(split)).map(Work::Changed));
    }

    /// Something out of a channel.
    fn element(&mut self, channel: usize, element: Element) -> Result<(), OperatorError> {
        let finished = self.is_finished();
        let Head::Inputs(head) = &mut self.head else { return Ok(()) };
        let change = match element {
            Element::Barrier(id) => return self.event(clock::now(), Event::Barrier { channel, id }),
            Element::Cancel(id) => return self.event(clock::now(), Event::Cancel(id)),
            Element::EndOfInput => {
                let change = head.watermarks.end(channel);
                let ended = head.watermarks.is_ended();
                self.event(clock::now(), Event::Ended { channel })?;
                if finished {
                    return Ok(());
                }
                self.work.extend(change.map(Work::Changed));
                if ended {
                    self.finish();
                }
                return Ok(());
            }
            // Nothing but barriers matters after the end.
            _ if finished => return Ok(()),
            Element::Batch(batch) => {
                let input = head.inputs[channel];
                self.work.push_back(Work::Rows { input, batch });
                return Ok(());
            }
            Element::Watermark(watermark) => head.watermarks.advance(channel, watermark),
            Element::Idle => head.watermarks.set_idle(channel),
        };
        self.work.extend(change.map(Work::Changed));
        Ok(())
    }

    fn changed(&mut self, change: Change) -> Result<(), OperatorError> {
        match change {
            Change::Idle => self.chain.signal(&Element::Idle),
            // The same again only says that this subtask is no longer idle.
            Change::Watermark(watermark) if watermark <= self.time.told() => self.chain.send_watermark(),
            Change::Watermark(watermark) => {
                self.fire_watermark(watermark);
                Ok(())
            }
        }
    }

    fn fire_watermark(&mut self, watermark: Timestamp) {
        self.work.push_front(Work::Fire(Firing::watermark(watermark)));
    }

    /// The end of all input.
    fn finish(&mut self) {
        self.work.extend([Work::EventTimeEnds, Work::Fire(Firing::end()), Work::Finish]);
    }

    fn end(&mut self) -> Result<(), OperatorError> {
        if let Head::Source(head) = &mut self.head {
            head.note_positions().map_err(|error| error.in_operator(&head.node.name))?;
            head.source = None;
        }
        self.say_finished();
        Ok(())
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
            Command::Trigger(id) => self.event(clock::now(), Event::Trigger(id)),
            Command::Cancel(id) => self.event(clock::now(), Event::Cancel(id)),
            Command::AlignmentTimeout(timeout) => {
                self.alignment.set_timeout(timeout);
                Ok(())
            }
            Command::Hold(hold) => {
                self.hold(hold);
                Ok(())
            }
        }
    }

    /// A source reads nothing, or reads on. A split that was not read is not idle for that.
    fn hold(&mut self, hold: bool) {
        self.held = hold;
        if hold && let Head::Source(head) = &mut self.head {
            head.away.get_or_insert_with(clock::now);
        }
    }

    fn event(&mut self, now: Instant, event: Event) -> Result<(), OperatorError> {
        let actions = self.alignment.on(now, event);
        if !self.alignment.is_complete() {
            self.flushing = None;
        }
        for action in actions {
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
        self.chain.signal(&Element::Barrier(id))?;
        let began = clock::now();
        let mut items = Vec::new();
        if let Head::Source(head) = &mut self.head {
            head.note_positions().map_err(|error| error.in_operator(&head.node.name))?;
            items.push((head.node.identity.clone(), head.splits.items()));
        }
        let chain = self.chain.freeze(id)?;
        items.extend(chain.items);
        let event_time = self.time.reached();
        let event_times = chain.event_times.into_iter().filter(|(_, of_operator)| *of_operator != event_time).collect();
        let snapshot = SubtaskSnapshot {
            frozen: chain.frozen,
            items,
            prepared: chain.prepared,
            finished,
            event_time,
            event_times,
            pause: clock::since(began),
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

    /// Does what is due.
    fn keep_time(&mut self, now: Instant) -> Result<(), OperatorError> {
        self.tick(now)?;
        if self.chain.deadline().is_some_and(|deadline| deadline <= now) {
            self.chain.flush_due(now)?;
        }
        // What is due by a clock comes after what is not done yet, and may need room.
        if self.is_finished() || self.is_busy() || !self.chain.has_room() {
            return Ok(());
        }
        if !self.held
            && let Head::Source(head) = &mut self.head
        {
            head.is_back(now);
            if head.splits.deadline().is_some_and(|deadline| deadline <= now) {
                self.work.extend(head.find_idle(now).map(Work::Changed));
            }
        }
        if let Some((timer, operator)) = self.chain.next_timer() {
            let time = self.clock.now_ms();
            if timer <= time {
                self.work.push_back(Work::Fire(Firing::timer(operator, time)));
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

    /// When [`Self::keep_time`] has something to do, where all is done and there is room.
    fn deadline(&self) -> Option<Instant> {
        let mut deadline = self.alignment.deadline().into_iter().chain(self.chain.deadline()).min();
        if !self.is_finished() {
            let idle = match &self.head {
                Head::Source(head) if !self.held => head.splits.deadline(),
                Head::Source(_) | Head::Inputs(_) => None,
            };
            let timer = self.chain.next_timer().map(|(timer, _)| clock::now() + self.clock.wait(timer));
            deadline = deadline.into_iter().chain(idle).chain(timer).min();
        }
        deadline
    }

    fn report(&self, report: Report) {
        // Nobody takes reports any more only while the attempt is being stopped.
        let _ = self.reports.send(report);
    }
}

#[cfg(test)]
mod tests;
