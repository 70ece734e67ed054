//! A subtask's inputs: a queue a channel, bounded by the bytes that it keeps alive, and the commands of the control plane.
//!
//! One thread takes, any thread puts. A local producer of a batch waits while its channel is full; everything else, and
//! everything from other workers (bounded by credits), is put at once. A channel that is held back during an alignment fills
//! up and thereby stops its producer, and nobody else.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use weir_protocol::CheckpointId;

use crate::api::counters::Stopwatch;
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
}

/// What a subtask gets when it asks for its next input.
#[derive(Debug)]
pub(crate) enum Taken {
    /// From a channel.
    Element(usize, Element),
    /// From the control plane.
    Command(Command),
    /// The source has something, or the deadline has come.
    Nothing,
    /// The attempt is being stopped.
    Stopped,
}

/// The inputs of one subtask.
pub(crate) struct Gate {
    inner: Mutex<Inner>,
    /// There is something to take.
    ready: Condvar,
    /// There is room in some channel.
    room: Condvar,
    window: usize,
    remote: Option<Arc<dyn Remote>>,
}

struct Inner {
    queues: Vec<Queue>,
    commands: VecDeque<Command>,
    woken: bool,
    stopped: bool,
    taker_waits: bool,
    putters_wait: usize,
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
            .map(|remote| Queue { elements: VecDeque::new(), bytes: 0, ungranted: 0, remote: *remote })
            .collect();
        let inner = Inner {
            queues,
            commands: VecDeque::new(),
            woken: false,
            stopped: false,
            taker_waits: false,
            putters_wait: 0,
            turn: 0,
        };
        Self { inner: Mutex::new(inner), ready: Condvar::new(), room: Condvar::new(), window, remote }
    }

    /// Puts an element in from a thread of this worker. A batch waits until there is room; one that is larger than the whole
    /// window goes in alone.
    pub(crate) fn send(
        &self,
        channel: usize,
        element: Element,
        cost: usize,
        waiting: &Stopwatch,
    ) -> Result<(), Stopped> {
        let mut inner = self.inner.lock();
        if cost > 0 && inner.queues[channel].is_full(cost, self.window) && !inner.stopped {
            inner.putters_wait += 1;
            waiting.during(|| {
                while inner.queues[channel].is_full(cost, self.window) && !inner.stopped {
                    self.room.wait(&mut inner);
                }
            });
            inner.putters_wait -= 1;
        }
        if inner.stopped {
            return Err(Stopped);
        }
        self.put(inner, channel, element, cost);
        Ok(())
    }

    /// Puts an element in that came from another worker. Never waits: its credits bound it.
    pub(crate) fn deliver(&self, channel: usize, element: Element, cost: usize) {
        let inner = self.inner.lock();
        if !inner.stopped {
            self.put(inner, channel, element, cost);
        }
    }

    fn put(&self, mut inner: MutexGuard<'_, Inner>, channel: usize, element: Element, cost: usize) {
        let queue = &mut inner.queues[channel];
        queue.bytes += cost;
        queue.elements.push_back((element, cost));
        self.notify(inner);
    }

    /// Hands a command to the subtask.
    pub(crate) fn command(&self, command: Command) {
        let mut inner = self.inner.lock();
        inner.commands.push_back(command);
        self.notify(inner);
    }

    /// Wakes the subtask.
    pub(crate) fn wake(&self) {
        let mut inner = self.inner.lock();
        inner.woken = true;
        self.notify(inner);
    }

    fn notify(&self, mut inner: MutexGuard<'_, Inner>) {
        if inner.taker_waits {
            inner.taker_waits = false;
            drop(inner);
            self.ready.notify_one();
        }
    }

    /// Ends all waiting here, for good, and drops what is queued.
    pub(crate) fn stop(&self) {
        let mut inner = self.inner.lock();
        inner.stopped = true;
        inner.queues.iter_mut().for_each(|queue| queue.elements.clear());
        drop(inner);
        self.ready.notify_all();
        self.room.notify_all();
    }

    /// The next command or element out of a channel that is not held; waits until there is one, or until the deadline.
    pub(crate) fn next(&self, held: impl Fn(usize) -> bool, deadline: Option<Instant>, waiting: &Stopwatch) -> Taken {
        let mut inner = self.inner.lock();
        if let Some(taken) = self.take(&mut inner, &held) {
            return self.settle(inner, taken);
        }
        let taken = waiting.during(|| {
            loop {
                inner.taker_waits = true;
                let late = match deadline {
                    None => {
                        self.ready.wait(&mut inner);
                        false
                    }
                    Some(deadline) => self.ready.wait_until(&mut inner, deadline).timed_out(),
                };
                inner.taker_waits = false;
                if let Some(taken) = self.take(&mut inner, &held) {
                    return taken;
                }
                if late {
                    return (Taken::Nothing, None);
                }
            }
        });
        self.settle(inner, taken)
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
        if inner.stopped {
            return Taken::Stopped;
        }
        if let Some(command) = inner.commands.pop_front() {
            return Taken::Command(command);
        }
        for (channel, queue) in inner.queues.iter_mut().enumerate() {
            let first = queue.elements.front();
            if matches!(first, Some((Element::Barrier(_) | Element::Cancel(_), _)))
                && !held(channel)
                && let Some((element, _)) = queue.elements.pop_front()
            {
                return Taken::Element(channel, element);
            }
        }
        Taken::Nothing
    }

    fn take(&self, inner: &mut Inner, held: impl Fn(usize) -> bool) -> Option<(Taken, Option<(ChannelId, u64)>)> {
        if inner.stopped {
            return Some((Taken::Stopped, None));
        }
        if let Some(command) = inner.commands.pop_front() {
            return Some((Taken::Command(command), None));
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
            inner.turn = (channel + 1) % channels;
            return Some((Taken::Element(channel, element), grant));
        }
        std::mem::take(&mut inner.woken).then_some((Taken::Nothing, None))
    }

    /// Wakes producers and grants credits for what has been taken, without the lock.
    fn settle(&self, inner: MutexGuard<'_, Inner>, (taken, grant): (Taken, Option<(ChannelId, u64)>)) -> Taken {
        let room = match taken {
            Taken::Element(channel, _) => inner.putters_wait > 0 && inner.queues[channel].bytes <= self.window / REFILL,
            _ => false,
        };
        drop(inner);
        if room {
            self.room.notify_all();
        }
        if let (Some((channel, bytes)), Some(remote)) = (grant, &self.remote) {
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
    fn is_full(&self, cost: usize, window: usize) -> bool {
        self.bytes > 0 && self.bytes + cost > window
    }

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

    use arrow::datatypes::SchemaRef;
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

    #[test]
    fn a_producer_waits_while_its_channel_is_full_and_no_channel_holds_more_than_its_window() {
        let gate = Gate::new(&[None, None], 100, None);
        let sent = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..50 {
                    gate.send(0, element(n), 40, &Stopwatch::default()).unwrap();
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            });
            until(|| sent.load(Ordering::SeqCst) == 2);
            assert_eq!(gate.queued_bytes(0), 80);
            // Another channel, and what costs nothing, is not stopped by it.
            gate.send(1, element(-1), 40, &Stopwatch::default()).unwrap();
            gate.send(0, Element::Barrier(CheckpointId(1)), 0, &Stopwatch::default()).unwrap();
            let mut seen = Vec::new();
            while seen.len() < 50 {
                assert!(gate.queued_bytes(0) <= 100);
                if let Taken::Element(0, Element::Watermark(n)) = next(&gate) {
                    seen.push(n);
                }
            }
            assert_eq!(seen, (0..50).collect::<Vec<_>>());
        });
    }

    #[test]
    fn a_batch_larger_than_the_window_goes_in_alone() {
        let gate = Gate::new(&[None], 100, None);
        gate.send(0, element(1), 1000, &Stopwatch::default()).unwrap();
        thread::scope(|scope| {
            let second = scope.spawn(|| gate.send(0, element(2), 1000, &Stopwatch::default()));
            until(|| gate.inner.lock().putters_wait == 1);
            assert!(matches!(next(&gate), Taken::Element(0, Element::Watermark(1))));
            assert!(matches!(next(&gate), Taken::Element(0, Element::Watermark(2))));
            second.join().unwrap().unwrap();
        });
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
    fn stopping_ends_every_wait() {
        let gate = Gate::new(&[None], 10, None);
        gate.send(0, element(1), 10, &Stopwatch::default()).unwrap();
        thread::scope(|scope| {
            let putter = scope.spawn(|| gate.send(0, element(2), 10, &Stopwatch::default()));
            let taker = scope.spawn(|| gate.next(|_| true, None, &Stopwatch::default()));
            until(|| {
                let inner = gate.inner.lock();
                inner.putters_wait == 1 && inner.taker_waits
            });
            gate.stop();
            assert_eq!(putter.join().unwrap(), Err(Stopped));
            assert!(matches!(taker.join().unwrap(), Taken::Stopped));
        });
    }

    #[derive(Default)]
    struct Grants(Mutex<Vec<(ChannelId, u64)>>);

    impl Remote for Grants {
        fn sender(&self, _channel: ChannelId, _schema: SchemaRef) -> Box<dyn RemoteSender> {
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
