//! The operators of a stage in one subtask, and where their rows go. Rows go from one operator to the next by a call, with
//! nothing allocated between them, as long as each is done with its rows by the time the next come.
//!
//! Nothing here waits. An operator that has put out as much as there is room for is *at work*: rows for it wait in its inbox,
//! and the output of whoever is before it is full. [`Chain::resume`] goes on with the operator nearest to the exit, whose rows
//! make room for all others.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::Sender;
use weir_protocol::CheckpointId;
use weir_protocol::part::Item;
use weir_runtime::clock;
use weir_state::Frozen;

use crate::api::batch::Batch;
use crate::api::counters::Counters;
use crate::api::error::OperatorError;
use crate::api::operator::{Operator, OperatorSnapshot, Output, Progress, RestoredWatermarks};
use crate::api::sink::Sink;
use crate::api::time::{MAX_WATERMARK, MIN_WATERMARK, Timestamp};
use crate::data::eventtime::EventTime;
use crate::data::exchange::ExchangeOutput;
use crate::seam::{Element, Prepared, Reached, Report};

/// One operator.
pub(crate) struct Node {
    operator: Box<dyn Operator>,
    identity: String,
    name: String,
    /// It keeps state, and a snapshot says what event time it has been told.
    stateful: bool,
    time: EventTime,
    /// The highest watermark that was sent on behind it.
    passed: Timestamp,
    /// Its last `process` has answered [`Progress::More`].
    at_work: bool,
    /// What came meanwhile: no more than one call before it puts out.
    inbox: VecDeque<Batch>,
}

impl Node {
    pub(crate) const fn new(operator: Box<dyn Operator>, identity: String, name: String) -> Self {
        let time = EventTime::restored(RestoredWatermarks::none());
        Self {
            operator,
            identity,
            name,
            stateful: false,
            time,
            passed: MIN_WATERMARK,
            at_work: false,
            inbox: VecDeque::new(),
        }
    }

    /// It keeps state, and had reached this event time.
    pub(crate) fn stateful(mut self, restored: RestoredWatermarks) -> Self {
        self.stateful = true;
        self.time = EventTime::restored(restored);
        self
    }

    fn is_busy(&self) -> bool {
        self.at_work || !self.inbox.is_empty()
    }
}

/// All operators of a subtask, in order, and its outputs.
pub(crate) struct Chain {
    nodes: Vec<Node>,
    tail: Tail,
    /// The highest watermark that has been sent.
    sent: Timestamp,
}

/// Where rows leave the chain.
pub(crate) struct Tail {
    pub(crate) sink: Option<SinkEnd>,
    pub(crate) outputs: Vec<ExchangeOutput>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) first_output: Arc<FirstOutput>,
    /// The index of the operator that is at work, to be named when it panics; the number of operators stands for the tail.
    pub(crate) at: usize,
}

/// A sink at the end.
pub(crate) struct SinkEnd {
    pub(crate) sink: Box<dyn Sink>,
    pub(crate) identity: String,
    pub(crate) name: String,
}

/// Tells when the first rows of an attempt have gone into a sink.
pub(crate) struct FirstOutput {
    told: AtomicBool,
    reports: Sender<Report>,
}

impl FirstOutput {
    pub(crate) const fn new(reports: Sender<Report>) -> Self {
        Self { told: AtomicBool::new(false), reports }
    }

    fn written(&self) {
        if !self.told.load(Ordering::Relaxed) && !self.told.swap(true, Ordering::Relaxed) {
            let _ = self.reports.send(Report::FirstOutput { at: clock::now() });
        }
    }
}

/// A call that goes through the operators one after the other, in pieces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Firing {
    what: What,
    /// The operator whose turn it is.
    at: usize,
    /// It has been called.
    begun: bool,
    /// Of a watermark: what the operators so far have let pass.
    time: Timestamp,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Watermark(Timestamp),
    End,
    /// For one operator only.
    Timer(Timestamp),
    /// A barrier is about to come.
    Barrier,
}

impl Firing {
    const fn of(what: What, at: usize) -> Self {
        Self { what, at, begun: false, time: MIN_WATERMARK }
    }

    /// The event time that the chain has been told, or is being told.
    pub(crate) const fn told(&self) -> Option<Timestamp> {
        match self.what {
            What::Watermark(watermark) if self.begun || self.at > 0 => Some(watermark),
            _ => None,
        }
    }

    pub(crate) const fn watermark(watermark: Timestamp) -> Self {
        Self { time: watermark, ..Self::of(What::Watermark(watermark), 0) }
    }

    pub(crate) const fn end() -> Self {
        Self::of(What::End, 0)
    }

    pub(crate) const fn timer(operator: usize, now: Timestamp) -> Self {
        Self::of(What::Timer(now), operator)
    }

    /// Lets all operators put out what they need not keep.
    pub(crate) const fn barrier() -> Self {
        Self::of(What::Barrier, 0)
    }
}

/// What the operators and the sink of a chain contribute to a snapshot.
pub(crate) struct ChainSnapshot {
    pub(crate) frozen: Vec<Frozen>,
    pub(crate) items: Vec<(String, Vec<Item>)>,
    /// The event time of each stateful operator.
    pub(crate) event_times: Vec<(String, Reached)>,
    pub(crate) prepared: Option<Prepared>,
}

impl Chain {
    pub(crate) const fn new(nodes: Vec<Node>, tail: Tail) -> Self {
        Self { nodes, tail, sent: MIN_WATERMARK }
    }

    /// The name of what is at work.
    pub(crate) fn at_work(&self) -> &str {
        self.nodes.get(self.tail.at).map_or_else(|| self.tail.name(), |node| &node.name)
    }

    /// No operator is in the midst of rows.
    pub(crate) fn is_idle(&self) -> bool {
        !self.nodes.iter().any(Node::is_busy)
    }

    /// Rows can leave the chain; looks again at outputs that were full.
    pub(crate) fn has_room(&mut self) -> bool {
        let mut full = false;
        for output in &mut self.tail.outputs {
            // All of them: one that has room again may have rows that wait for it.
            full |= output.look();
        }
        !full
    }

    /// Rows for the first operator of an idle chain.
    pub(crate) fn process(&mut self, input: usize, batch: Batch) -> Result<(), OperatorError> {
        Link::start(self).process(input, batch)
    }

    /// Does one piece of what operators are in the midst of. There must be room.
    pub(crate) fn resume(&mut self) -> Result<(), OperatorError> {
        match self.nodes.iter().rposition(Node::is_busy) {
            Some(last) => Link::of(self, last).resume(),
            None => Ok(()),
        }
    }

    /// Goes on with a firing, in an idle chain, until it is done, or an operator has rows in the midst, or there is no room.
    pub(crate) fn step(&mut self, firing: &mut Firing) -> Result<Progress, OperatorError> {
        while firing.at < self.nodes.len() {
            if !self.is_idle() || (self.tail.is_full() && !matches!(firing.what, What::Barrier)) {
                return Ok(Progress::More);
            }
            if self.step_one(firing)? == Progress::More {
                return Ok(Progress::More);
            }
            firing.at = if matches!(firing.what, What::Timer(_)) { self.nodes.len() } else { firing.at + 1 };
            firing.begun = false;
        }
        if !self.is_idle() {
            return Ok(Progress::More);
        }
        firing.begun = true;
        match firing.what {
            What::Watermark(_) => {
                self.sent = self.sent.max(firing.time);
                self.send_watermark()?;
            }
            What::End => self.signal(&Element::EndOfInput)?,
            What::Timer(_) | What::Barrier => {}
        }
        Ok(Progress::Done)
    }

    fn step_one(&mut self, firing: &mut Firing) -> Result<Progress, OperatorError> {
        if matches!(firing.what, What::Watermark(_)) {
            return self.step_watermark(firing);
        }
        let what = firing.what;
        firing.begun = true;
        Link::of(self, firing.at).call(|operator, out| match what {
            What::Watermark(_) => Ok(Progress::Done),
            What::End => operator.end_of_input(out),
            What::Timer(now) => operator.on_timer(now, out),
            What::Barrier => operator.before_barrier(out).map(|()| Progress::Done),
        })
    }

    /// Tells an operator what the ones before it have let pass, unless it has been told that already. What it is told from here on
    /// is its event time in a snapshot: a firing that has not begun is none of it.
    fn step_watermark(&mut self, firing: &mut Firing) -> Result<Progress, OperatorError> {
        let Some(node) = self.nodes.get_mut(firing.at) else { return Ok(Progress::Done) };
        if !firing.begun {
            firing.time = node.time.next(firing.time);
            if firing.time > node.time.told() {
                node.time.tell(firing.time);
                firing.begun = true;
            }
        }
        let watermark = firing.time;
        if firing.begun
            && Link::of(self, firing.at).call(|operator, out| operator.on_watermark(watermark, out))? == Progress::More
        {
            return Ok(Progress::More);
        }
        if let Some(node) = self.nodes.get_mut(firing.at) {
            node.passed = node.passed.max(node.operator.watermark_out(watermark).min(watermark));
            firing.time = node.passed;
        }
        Ok(Progress::Done)
    }

    /// The earliest timer, and whose it is.
    pub(crate) fn next_timer(&self) -> Option<(Timestamp, usize)> {
        let timers = self.nodes.iter().enumerate();
        timers.filter_map(|(i, node)| node.operator.next_timer().map(|timer| (timer, i))).min()
    }

    /// Sends the chain's watermark on, after the rows that came before it. The same again says that the subtask is no longer idle.
    pub(crate) fn send_watermark(&mut self) -> Result<(), OperatorError> {
        let sent = self.sent;
        self.tail.outputs.iter_mut().try_for_each(|output| output.watermark(sent))
    }

    /// As if its operators had been restored with these.
    #[cfg(test)]
    pub(crate) fn restore_event_times(&mut self, floors: impl IntoIterator<Item = RestoredWatermarks>) {
        let nodes = self.nodes.iter_mut().zip(floors);
        nodes.for_each(|(node, floors)| node.time = EventTime::restored(floors));
    }

    /// Event time was at its end before the restore.
    pub(crate) fn end_event_time(&mut self) -> Result<(), OperatorError> {
        self.nodes.iter_mut().for_each(|node| node.time.tell(MAX_WATERMARK));
        self.sent = MAX_WATERMARK;
        self.send_watermark()
    }

    /// Sends what comes after all rows so far.
    pub(crate) fn signal(&mut self, element: &Element) -> Result<(), OperatorError> {
        self.tail.outputs.iter_mut().try_for_each(|output| output.signal(element))
    }

    /// Sends a cancel, ahead of rows that are being gathered.
    pub(crate) fn cancel(&mut self, id: CheckpointId) -> Result<(), OperatorError> {
        self.tail.outputs.iter_mut().try_for_each(|output| output.cancel(id))
    }

    /// When rows that are being gathered have to be sent.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.tail.outputs.iter().filter_map(ExchangeOutput::deadline).min()
    }

    /// Sends the rows that have waited long enough.
    pub(crate) fn flush_due(&mut self, now: Instant) -> Result<(), OperatorError> {
        self.tail
            .outputs
            .iter_mut()
            .filter(|output| output.deadline().is_some_and(|deadline| deadline <= now))
            .try_for_each(ExchangeOutput::flush_due)
    }

    /// Freezes all operators in order, and cuts the sink's transaction.
    pub(crate) fn freeze(&mut self, id: CheckpointId) -> Result<ChainSnapshot, OperatorError> {
        let mut frozen = Vec::new();
        let mut items = Vec::new();
        let mut event_times = Vec::new();
        for (i, node) in self.nodes.iter_mut().enumerate() {
            self.tail.at = i;
            let mut snapshot = OperatorSnapshot::default();
            node.operator.freeze(&mut snapshot).map_err(|error| error.in_operator(&node.name))?;
            frozen.extend(snapshot.frozen);
            if !snapshot.items.is_empty() {
                items.push((node.identity.clone(), snapshot.items));
            }
            if node.stateful {
                event_times.push((node.identity.clone(), node.time.reached()));
            }
        }
        self.tail.at = self.nodes.len();
        let prepared = match &mut self.tail.sink {
            None => None,
            Some(end) => {
                let job = end.sink.prepare(id).map_err(|error| OperatorError::from(error).in_operator(&end.name))?;
                Some(Prepared { operator: end.identity.clone(), job })
            }
        };
        Ok(ChainSnapshot { frozen, items, event_times, prepared })
    }
}

impl Tail {
    fn name(&self) -> &str {
        self.sink.as_ref().map_or("exchange", |sink| &sink.name)
    }

    /// Some output holds as much as it should.
    fn is_full(&self) -> bool {
        self.outputs.iter().any(ExchangeOutput::is_full)
    }

    fn write(&mut self, batch: Batch) -> Result<(), OperatorError> {
        if let Some((last, others)) = self.outputs.split_last_mut() {
            for output in others {
                output.batch(batch.clone()).map_err(|error| error.in_operator("exchange"))?;
            }
            if let Some(end) = &mut self.sink {
                write(end, batch.clone(), &self.counters, &self.first_output)?;
            }
            return last.batch(batch).map_err(|error| error.in_operator("exchange"));
        }
        match &mut self.sink {
            Some(end) => write(end, batch, &self.counters, &self.first_output),
            None => Ok(()),
        }
    }
}

fn write(end: &mut SinkEnd, batch: Batch, counters: &Counters, first: &FirstOutput) -> Result<(), OperatorError> {
    let rows = batch.len() as u64;
    end.sink.write(batch).map_err(|error| OperatorError::from(error).in_operator(&end.name))?;
    counters.sink_rows.add(rows);
    first.written();
    Ok(())
}

/// What an operator puts its rows into: the operators after it, and the tail.
struct Link<'a> {
    nodes: &'a mut [Node],
    tail: &'a mut Tail,
    /// The index of the first of `nodes`.
    index: usize,
}

impl<'a> Link<'a> {
    fn start(chain: &'a mut Chain) -> Self {
        Self::of(chain, 0)
    }

    fn of(chain: &'a mut Chain, index: usize) -> Self {
        Self { nodes: &mut chain.nodes[index..], tail: &mut chain.tail, index }
    }

    fn process(&mut self, input: usize, batch: Batch) -> Result<(), OperatorError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.tail.counters.pass(self.index, batch.len());
        let Some(node) = self.nodes.first_mut() else {
            let before = std::mem::replace(&mut self.tail.at, self.index);
            self.tail.write(batch)?;
            self.tail.at = before;
            return Ok(());
        };
        if node.at_work {
            // Only the first operator has more than one input, and what comes to it is given to an idle chain.
            node.inbox.push_back(batch);
            return Ok(());
        }
        self.work(|operator, out| operator.process(input, batch, out))
    }

    /// Goes on with the first operator here, which is in the midst of rows.
    fn resume(&mut self) -> Result<(), OperatorError> {
        let Some(node) = self.nodes.first_mut() else { return Ok(()) };
        if node.at_work {
            return self.work(|operator, out| operator.resume(out));
        }
        match node.inbox.pop_front() {
            Some(batch) => self.work(|operator, out| operator.process(0, batch, out)),
            None => Ok(()),
        }
    }

    /// Has the first operator here do something with its rows.
    fn work(
        &mut self,
        work: impl FnOnce(&mut dyn Operator, &mut dyn Output) -> Result<Progress, OperatorError>,
    ) -> Result<(), OperatorError> {
        let progress = self.call(work)?;
        if let Some(node) = self.nodes.first_mut() {
            node.at_work = progress == Progress::More;
        }
        Ok(())
    }

    /// Calls the first operator here, with an output into the others.
    fn call<T: Default>(
        &mut self,
        call: impl FnOnce(&mut dyn Operator, &mut dyn Output) -> Result<T, OperatorError>,
    ) -> Result<T, OperatorError> {
        let Some((node, nodes)) = self.nodes.split_first_mut() else { return Ok(T::default()) };
        let before = std::mem::replace(&mut self.tail.at, self.index);
        let mut out = Link { nodes, tail: &mut *self.tail, index: self.index + 1 };
        let result = call(&mut *node.operator, &mut out).map_err(|error| error.in_operator(&node.name))?;
        self.tail.at = before;
        Ok(result)
    }
}

impl Output for Link<'_> {
    fn emit(&mut self, batch: Batch) -> Result<(), OperatorError> {
        self.process(0, batch)
    }

    fn is_full(&self) -> bool {
        self.tail.is_full() || self.nodes.iter().any(Node::is_busy)
    }
}
