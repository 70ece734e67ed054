//! A subtask's inputs: a queue a channel, bounded by the bytes that it keeps alive, and the commands of the control plane.
//!
//! One thread takes, any thread puts, and nobody waits to put. A channel that holds its window of bytes is full: its sender is
//! told so with the batch that filled it, sends no further one, and is woken when half of the window is free. So a channel holds
//! at most its window and one batch. What comes from other workers is bounded by credits. A channel that is held back during an
//! alignment fills up and thereby stops its producer, and nobody else.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use weir_protocol::CheckpointId;

use crate::api::counters::Stopwatch;
use crate::api::source::Waker;
use crate::seam::{ChannelId, Element, Remote, Stopped};

/// What the control plane, or a source's own thread, tells a subtask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Begin.
    Run,
    /// Take part in a checkpoint, as a source.
    Trigger(CheckpointId),
    /// Take no part in it, nor in older ones.
    Cancel(CheckpointId),
    /// The longest an alignment may take.
    AlignmentTimeout(Option<Duration>),
    /// Read nothing, as a source, or read on.
    Hold(bool),
}

/// What a subtask gets when it asks for its next input.
#[derive(Debug)]
pub(crate) enum Taken {
    /// From a channel.
    Element(usize, Element),
    /// From the control plane.
    Command(Command),
    /// There is none: the source has something, an output has room, or the deadline has come.
    Nothing,
    /// The attempt is being stopped.
    Stopped,
}

/// The inputs of one subtask.
pub(crate) struct Gate {
    inner: Mutex<Inner>,
    /// There is something to take.
    ready: Condvar,
    window: usize,
    remote: Option<Arc<dyn Remote>>,
}

struct Inner {
    queues: Vec<Queue>,
    commands: VecDeque<Command>,
    woken: bool,
    stopped: bool,
    /// What the taker waits for, while it waits.
    wanted: Option<Wanted>,
    /// The channel that is asked first next time, so that none starves.
    turn: usize,
}

struct Queue {
    elements: VecDeque<(Element, usize)>,
    bytes: usize,
    /// Taken out but not yet granted to the sender.
    ungranted: usize,
    /// The channel's id if its sender is on another worker.
    remote: Option<ChannelId>,
    /// The channel is full; its sender, on this worker, is woken when it has room.
    full: Option<Waker>,
}

/// What a taker waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// Commands and all elements.
    Everything,
    /// Commands, and barriers and cancels that stand first.
    Barriers,
}

/// What is to be done, without the lock, once something has been taken out.
#[derive(Default)]
struct After {
    /// Credits that go back to a sender on another worker.
    grant: Option<(ChannelId, u64)>,
    /// A sender on this worker that has room again.
    room: Option<Waker>,
}

/// A channel is asked for more once it is half empty: threads that hand over batch by batch would only switch.
const REFILL: usize = 2;
/// Credits go back when they make up this part of the window: a message for each batch would be too many.
const GRANT: usize = 4;

impl Gate {
    /// A gate with these channels, which are `Some` where the sender is on another worker.
    pub(crate) fn new(channels: &[Option<ChannelId>], window: usize, remote: Option<Arc<dyn Remote>>) -> Self {
        let queues = channels
            .iter()
            .map(|remote| Queue { elements: VecDeque::new(), bytes: 0, ungranted: 0, remote: *remote, full: None })
            .collect();
        let inner = Inner { queues, commands: VecDeque::new(), woken: false, stopped: false, wanted: None, turn: 0 };
        Self { inner: Mutex::new(inner), ready: Condvar::new(), window, remote }
    }

    /// Puts an element in from a thread of this worker. Never waits; `true` says that the channel is full, and that `room` will
    /// be called when it is no more.
    pub(crate) fn send(&self, channel: usize, element: Element, cost: usize, room: &Waker) -> Result<bool, Stopped> {
        let mut inner = self.inner.lock();
        if inner.stopped {
            return Err(Stopped);
        }
        let queue = &mut inner.queues[channel];
        if queue.full.is_none() && queue.bytes + cost >= self.window {
            queue.full = Some(room.clone());
        }
        let full = queue.full.is_some();
        self.put(inner, channel, element, cost);
        Ok(full)
    }

    /// The channel is still full.
    pub(crate) fn is_full(&self, channel: usize) -> bool {
        let inner = self.inner.lock();
        inner.queues[channel].full.is_some() && !inner.stopped
    }

    /// Puts an element in that came from another worker. Never waits: its credits bound it.
    pub(crate) fn deliver(&self, channel: usize, element: Element, cost: usize) {
        let inner = self.inner.lock();
        if !inner.stopped {
            self.put(inner, channel, element, cost);
        }
    }

    fn put(&self, mut inner: MutexGuard<'_, Inner>, channel: usize, element: Element, cost: usize) {
        // Whoever waits for a barrier would only look at rows and wait again.
        let least = if matches!(element, Element::Batch(_)) { Wanted::Everything } else { Wanted::Barriers };
        let queue = &mut inner.queues[channel];
        queue.bytes += cost;
        queue.elements.push_back((element, cost));
        self.notify(inner, least);
    }

    /// Hands a command to the subtask.
    pub(crate) fn command(&self, command: Command) {
        let mut inner = self.inner.lock();
        inner.commands.push_back(command);
        self.notify(inner, Wanted::Barriers);
    }

    /// Wakes the subtask.
    pub(crate) fn wake(&self) {
        let mut inner = self.inner.lock();
        inner.woken = true;
        self.notify(inner, Wanted::Barriers);
    }

    /// Wakes the taker if what there is matters to it: barriers and commands always do.
    fn notify(&self, mut inner: MutexGuard<'_, Inner>, least: Wanted) {
        if inner.wanted.is_some_and(|wanted| wanted == Wanted::Everything || least == Wanted::Barriers) {
            inner.wanted = None;
            drop(inner);
            self.ready.notify_one();
        }
    }

    /// Ends all waiting here, for good, and drops what is queued.
    pub(crate) fn stop(&self) {
        let mut inner = self.inner.lock();
        inner.stopped = true;
        inner.queues.iter_mut().for_each(|queue| queue.elements.clear());
        // Their senders find out when they send, or are stopped themselves.
        let senders: Vec<Waker> = inner.queues.iter_mut().filter_map(|queue| queue.full.take()).collect();
        drop(inner);
        self.ready.notify_all();
        senders.iter().for_each(Waker::wake);
    }

    /// The next command or element out of a channel that is not held; waits until there is one, or until the deadline.
    pub(crate) fn next(&self, held: impl Fn(usize) -> bool, deadline: Option<Instant>, waiting: &Stopwatch) -> Taken {
        self.wait(Wanted::Everything, deadline, waiting, |inner| self.take(inner, &held))
    }

    /// The next command, or a barrier or cancel that stands first in a channel that is not held; waits until there is one, or
    /// until the deadline.
    pub(crate) fn next_barrier(
        &self,
        held: impl Fn(usize) -> bool,
        deadline: Option<Instant>,
        waiting: &Stopwatch,
    ) -> Taken {
        self.wait(Wanted::Barriers, deadline, waiting, |inner| Self::take_barrier(inner, &held))
    }

    fn wait(
        &self,
        wanted: Wanted,
        deadline: Option<Instant>,
        waiting: &Stopwatch,
        mut take: impl FnMut(&mut Inner) -> Option<(Taken, After)>,
    ) -> Taken {
        let mut inner = self.inner.lock();
        if let Some((taken, after)) = take(&mut inner) {
            drop(inner);
            return self.settle(taken, after);
        }
        let (taken, after) = waiting.during(|| {
            loop {
                inner.wanted = Some(wanted);
                let late = match deadline {
                    None => {
                        self.ready.wait(&mut inner);
                        false
                    }
                    Some(deadline) => self.ready.wait_until(&mut inner, deadline).timed_out(),
                };
                inner.wanted = None;
                if let Some(taken) = take(&mut inner) {
                    return taken;
                }
                if late {
                    return (Taken::Nothing, After::default());
                }
            }
        });
        drop(inner);
        self.settle(taken, after)
    }

    /// The next command, if there is one; never waits.
    pub(crate) fn try_command(&self) -> Taken {
        let mut inner = self.inner.lock();
        if inner.stopped {
            return Taken::Stopped;
        }
        inner.commands.pop_front().map_or(Taken::Nothing, Taken::Command)
    }

    /// The next command, or a barrier or cancel that stands first in a channel that is not held; never waits.
    pub(crate) fn try_barrier(&self, held: impl Fn(usize) -> bool) -> Taken {
        let mut inner = self.inner.lock();
        Self::take_barrier(&mut inner, &held).map_or(Taken::Nothing, |(taken, _)| taken)
    }

    fn take_command(inner: &mut Inner) -> Option<(Taken, After)> {
        let taken = if inner.stopped { Taken::Stopped } else { Taken::Command(inner.commands.pop_front()?) };
        Some((taken, After::default()))
    }

    fn take_barrier(inner: &mut Inner, held: &impl Fn(usize) -> bool) -> Option<(Taken, After)> {
        if let Some(taken) = Self::take_command(inner) {
            return Some(taken);
        }
        for (channel, queue) in inner.queues.iter_mut().enumerate() {
            let first = queue.elements.front();
            if matches!(first, Some((Element::Barrier(_) | Element::Cancel(_), _)))
                && !held(channel)
                && let Some((element, _)) = queue.elements.pop_front()
            {
                return Some((Taken::Element(channel, element), After::default()));
            }
        }
        std::mem::take(&mut inner.woken).then_some((Taken::Nothing, After::default()))
    }

    fn take(&self, inner: &mut Inner, held: &impl Fn(usize) -> bool) -> Option<(Taken, After)> {
        if let Some(taken) = Self::take_command(inner) {
            return Some(taken);
        }
        let channels = inner.queues.len();
        for step in 0..channels {
            let channel = (inner.turn + step) % channels;
            if held(channel) {
                continue;
            }
            let queue = &mut inner.queues[channel];
            let Some((element, cost)) = queue.elements.pop_front() else { continue };
            queue.bytes -= cost;
            let grant = queue.grant(cost, self.window);
            let room = if queue.bytes <= self.window / REFILL { queue.full.take() } else { None };
            inner.turn = (channel + 1) % channels;
            return Some((Taken::Element(channel, element), After { grant, room }));
        }
        std::mem::take(&mut inner.woken).then_some((Taken::Nothing, After::default()))
    }

    /// Wakes a producer and grants credits for what has been taken, without the lock.
    fn settle(&self, taken: Taken, after: After) -> Taken {
        if let Some(room) = after.room {
            room.wake();
        }
        if let (Some((channel, bytes)), Some(remote)) = (after.grant, &self.remote) {
            remote.grant(channel, bytes);
        }
        taken
    }

    #[cfg(test)]
    fn queued_bytes(&self, channel: usize) -> usize {
        self.inner.lock().queues[channel].bytes
    }
}

impl Queue {
    fn grant(&mut self, cost: usize, window: usize) -> Option<(ChannelId, u64)> {
        let channel = self.remote?;
        self.ungranted += cost;
        if self.ungranted < (window / GRANT).max(1) {
            return None;
        }
        Some((channel, std::mem::take(&mut self.ungranted) as u64))
    }
}

/// Delivers elements from other workers into the subtasks of this one; cheap to clone.
#[derive(Clone)]
pub struct InboundSink {
    routes: Arc<HashMap<u64, (Arc<Gate>, usize)>>,
}

impl InboundSink {
    pub(crate) fn new(routes: HashMap<u64, (Arc<Gate>, usize)>) -> Self {
        Self { routes: Arc::new(routes) }
    }

    /// Puts an element into its channel; `cost` is what it has spent of the channel's credits. Never waits. `false` says that
    /// no such channel leads here.
    pub fn deliver(&self, channel: ChannelId, element: Element, cost: usize) -> bool {
        match self.routes.get(&channel.pack()) {
            Some((gate, index)) => {
                gate.deliver(*index, element, cost);
                true
            }
            None => false,
        }
    }

    /// All channels that lead here from other workers.
    pub fn channels(&self) -> impl Iterator<Item = ChannelId> {
        self.routes.keys().map(|packed| ChannelId::unpack(*packed))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use parking_lot::Mutex;

    use super::*;
    use crate::seam::RemoteSender;

    const SOON: Duration = Duration::from_secs(20);

    fn element(n: i64) -> Element {
        Element::Watermark(n)
    }

    fn next(gate: &Gate) -> Taken {
        gate.next(|_| false, Some(Instant::now() + SOON), &Stopwatch::default())
    }

    fn until(what: impl Fn() -> bool) {
        let deadline = Instant::now() + SOON;
        while !what() {
            assert!(Instant::now() < deadline, "waited in vain");
            thread::yield_now();
        }
    }

    /// What wakes a taker, and what it must then be given.
    type Wake<'a> = (&'a dyn Fn(), fn(&Taken) -> bool);

    /// Whether it has been woken.
    fn bell() -> (Waker, Arc<AtomicUsize>) {
        let rung = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&rung);
        (Waker::new(move || _ = count.fetch_add(1, Ordering::SeqCst)), rung)
    }

    #[test]
    fn a_channel_is_full_with_its_window_of_bytes_and_its_producer_is_woken_when_half_is_free() {
        let gate = Gate::new(&[None, None], 100, None);
        let (room, rung) = bell();
        let send = |channel, n| gate.send(channel, element(n), 40, &room).unwrap();
        assert_eq!([send(0, 0), send(0, 1), send(0, 2)], [false, false, true]);
        assert!(gate.is_full(0) && !gate.is_full(1));
        // Another channel, and what costs nothing, is not stopped by it.
        assert!(!send(1, -1));
        assert!(gate.send(0, Element::Barrier(CheckpointId(1)), 0, &room).unwrap());
        let held = |channel| channel == 1;
        let watch = Stopwatch::default();
        assert!(matches!(gate.next(held, None, &watch), Taken::Element(0, Element::Watermark(0))));
        assert!(gate.is_full(0), "80 of 100 bytes are still there");
        assert!(matches!(gate.next(held, None, &watch), Taken::Element(0, Element::Watermark(1))));
        assert!(!gate.is_full(0));
        assert_eq!((gate.queued_bytes(0), rung.load(Ordering::SeqCst)), (40, 1));
    }

    #[test]
    fn a_batch_larger_than_the_window_goes_in_and_fills_the_channel_until_it_is_taken() {
        let gate = Gate::new(&[None], 100, None);
        let (room, rung) = bell();
        assert!(gate.send(0, element(1), 1000, &room).unwrap());
        assert!(matches!(next(&gate), Taken::Element(0, Element::Watermark(1))));
        assert!(!gate.is_full(0));
        assert_eq!(rung.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn who_waits_for_barriers_is_woken_by_them_by_commands_and_by_room_but_not_by_rows() {
        let gate = Gate::new(&[None, None], 100, None);
        let rows =
            crate::Batch::inserts(arrow::array::RecordBatch::new_empty(Arc::new(arrow::datatypes::Schema::empty())));
        let watch = Stopwatch::default();
        let wakes: [Wake<'_>; 3] = [
            (&|| gate.deliver(1, Element::Barrier(CheckpointId(1)), 0), |taken| {
                matches!(taken, Taken::Element(1, Element::Barrier(_)))
            }),
            (&|| gate.command(Command::Run), |taken| matches!(taken, Taken::Command(Command::Run))),
            (&|| gate.wake(), |taken| matches!(taken, Taken::Nothing)),
        ];
        for (wake, expected) in wakes {
            thread::scope(|scope| {
                let taker = scope.spawn(|| gate.next_barrier(|_| false, None, &watch));
                until(|| gate.inner.lock().wanted == Some(Wanted::Barriers));
                gate.deliver(0, Element::Batch(rows.clone()), 10);
                assert_eq!(gate.inner.lock().wanted, Some(Wanted::Barriers), "rows woke it");
                wake();
                let taken = taker.join().unwrap();
                assert!(expected(&taken), "{taken:?}");
            });
        }
    }

    #[test]
    fn a_held_channel_keeps_its_elements_and_the_others_flow() {
        let gate = Gate::new(&[None, None], 100, None);
        gate.deliver(0, element(1), 0);
        gate.deliver(1, element(2), 0);
        let held = |channel| channel == 0;
        let watch = Stopwatch::default();
        assert!(matches!(gate.next(held, None, &watch), Taken::Element(1, Element::Watermark(2))));
        assert!(matches!(gate.next(held, Some(Instant::now()), &watch), Taken::Nothing));
        assert!(matches!(gate.next(|_| false, None, &watch), Taken::Element(0, Element::Watermark(1))));
    }

    #[test]
    fn between_the_pieces_of_a_firing_only_commands_and_barriers_that_stand_first_are_taken() {
        let gate = Gate::new(&[None, None], 100, None);
        gate.deliver(0, element(1), 0);
        gate.deliver(0, Element::Barrier(CheckpointId(1)), 0);
        gate.deliver(1, Element::Barrier(CheckpointId(1)), 0);
        gate.command(Command::Cancel(CheckpointId(7)));
        assert!(matches!(gate.try_barrier(|_| false), Taken::Command(Command::Cancel(_))));
        assert!(matches!(gate.try_barrier(|_| false), Taken::Element(1, Element::Barrier(_))));
        assert!(matches!(gate.try_barrier(|_| false), Taken::Nothing));
    }

    #[test]
    fn stopping_ends_every_wait_and_wakes_who_had_found_a_channel_full() {
        let gate = Gate::new(&[None], 10, None);
        let (room, rung) = bell();
        assert!(gate.send(0, element(1), 10, &room).unwrap());
        thread::scope(|scope| {
            let taker = scope.spawn(|| gate.next(|_| true, None, &Stopwatch::default()));
            until(|| gate.inner.lock().wanted.is_some());
            gate.stop();
            assert!(matches!(taker.join().unwrap(), Taken::Stopped));
        });
        assert_eq!(rung.load(Ordering::SeqCst), 1);
        assert_eq!(gate.send(0, element(2), 10, &room), Err(Stopped));
        assert!(matches!(gate.next_barrier(|_| false, None, &Stopwatch::default()), Taken::Stopped));
    }

    #[derive(Default)]
    struct Grants(Mutex<Vec<(ChannelId, u64)>>);

    impl Remote for Grants {
        fn sender(&self, _channel: ChannelId, _room: Waker) -> Box<dyn RemoteSender> {
            unreachable!("nothing is sent")
        }

        fn grant(&self, channel: ChannelId, bytes: u64) {
            self.0.lock().push((channel, bytes));
        }
    }

    #[test]
    fn credits_go_back_to_the_sender_of_what_was_taken_out_a_quarter_window_at_a_time() {
        let grants = Arc::new(Grants::default());
        let channel = ChannelId { edge: 0, from: 3, to: 1 };
        let gate = Arc::new(Gate::new(&[None, Some(channel)], 100, Some(grants.clone())));
        let inbound = InboundSink::new(HashMap::from([(channel.pack(), (gate.clone(), 1))]));
        for n in 0..4 {
            assert!(inbound.deliver(channel, element(n), 20));
            gate.deliver(0, element(n), 20);
        }
        assert!(!inbound.deliver(ChannelId { edge: 1, ..channel }, element(0), 0));
        assert!(grants.0.lock().is_empty(), "nothing is granted before it is taken");
        for _ in 0..8 {
            next(&gate);
        }
        assert_eq!(*grants.0.lock(), vec![(channel, 40), (channel, 40)]);
    }
}
