//! The alignment of barriers: which checkpoint a subtask is gathering barriers for, which channels it holds back meanwhile,
//! and when it gives up. Pure: events in, actions out; the time is part of the event.
//!
//! An ended channel counts as aligned, for nothing comes from it any more. An *idle* channel does not: idleness is about
//! event time, and rows that an idle sender counts as sent before its barrier may still be under way. Its barrier comes, since
//! idle subtasks answer barriers like all others.
//!
//! With the last barrier an alignment is *complete*: nothing more is taken in. The subtask may still be in the midst of rows
//! that came before; it freezes once it is ready. Until then the checkpoint can be given up like any other.

use std::time::{Duration, Instant};

use weir_protocol::CheckpointId;
use weir_protocol::settings::CheckpointMode;

/// What happens at a subtask's inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A barrier has come through a channel.
    Barrier {
        /// Which channel.
        channel: usize,
        /// Of which checkpoint.
        id: CheckpointId,
    },
    /// The coordinator has triggered a checkpoint at a source.
    Trigger(CheckpointId),
    /// A channel has ended.
    Ended {
        /// Which channel.
        channel: usize,
    },
    /// The coordinator, or a subtask upstream, has given this checkpoint up, and with it all older ones.
    Cancel(CheckpointId),
    /// The subtask is between rows, and holds none back: if all barriers are there, it can freeze.
    Ready,
    /// Time has passed.
    Tick,
}

/// What a subtask has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// All barriers are there, and the subtask is ready: send the barrier on, and freeze.
    Freeze {
        /// The checkpoint.
        id: CheckpointId,
        /// From the first barrier to now.
        align: Duration,
    },
    /// An alignment is given up; its channels are free.
    GiveUp {
        /// The checkpoint.
        id: CheckpointId,
        /// Why.
        why: Why,
    },
    /// Tell everyone downstream that this checkpoint will get no barrier.
    SendCancel(CheckpointId),
}

/// Why an alignment is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A barrier of a newer checkpoint has come.
    Overtaken(CheckpointId),
    /// Someone has cancelled it.
    Cancelled,
    /// It has taken too long.
    Timeout,
}

/// The state of a subtask's alignment.
#[derive(Clone, Debug)]
pub struct Alignment {
    mode: CheckpointMode,
    timeout: Option<Duration>,
    channels: Vec<Channel>,
    current: Option<Current>,
    /// The highest id that is finished, or given up, or can no longer be completed here.
    last: CheckpointId,
}

#[derive(Clone, Copy, Debug, Default)]
struct Channel {
    ended: bool,
    has_barrier: bool,
}

#[derive(Clone, Copy, Debug)]
struct Current {
    id: CheckpointId,
    since: Instant,
}

impl Alignment {
    /// No barrier has come yet.
    pub fn new(channels: usize, mode: CheckpointMode, timeout: Option<Duration>) -> Self {
        Self { mode, timeout, channels: vec![Channel::default(); channels], current: None, last: CheckpointId(0) }
    }

    /// The longest an alignment may take from now on.
    pub const fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    /// Nothing may be taken out of this channel now.
    pub fn is_held(&self, channel: usize) -> bool {
        let holds = self.mode == CheckpointMode::ExactlyOnce || self.is_complete();
        holds && self.current.is_some() && self.channels[channel].has_barrier
    }

    /// All barriers of a checkpoint are there: [`Event::Ready`] has to come.
    pub fn is_complete(&self) -> bool {
        self.current.is_some() && self.channels.iter().all(|channel| channel.ended || channel.has_barrier)
    }

    /// When [`Event::Tick`] has to come.
    pub fn deadline(&self) -> Option<Instant> {
        Some(self.current?.since + self.timeout?)
    }

    /// Takes an event and says what follows, in order.
    pub fn on(&mut self, now: Instant, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Barrier { channel, id } => self.barrier(now, channel, id, &mut actions),
            Event::Trigger(id) => {
                if id > self.last && self.current.is_none_or(|current| current.id < id) {
                    self.begin(now, id, &mut actions);
                }
            }
            Event::Ended { channel } => self.channels[channel].ended = true,
            Event::Ready => self.freeze(now, &mut actions),
            Event::Cancel(id) => {
                if id > self.last {
                    if let Some(current) = self.current
                        && current.id <= id
                    {
                        self.give_up(Why::Cancelled, &mut actions);
                    }
                    // What is being aligned may be newer than what is cancelled: it goes on, and older ones are gone anyway.
                    if self.current.is_none() {
                        self.last = id;
                        actions.retain(|action| !matches!(action, Action::SendCancel(_)));
                        actions.push(Action::SendCancel(id));
                    }
                }
            }
            Event::Tick => {
                if self.deadline().is_some_and(|deadline| deadline <= now) {
                    self.give_up(Why::Timeout, &mut actions);
                }
            }
        }
        actions
    }

    fn barrier(&mut self, now: Instant, channel: usize, id: CheckpointId, actions: &mut Vec<Action>) {
        if id <= self.last || self.current.is_some_and(|current| id < current.id) {
            return;
        }
        if self.current.is_none_or(|current| current.id < id) {
            self.begin(now, id, actions);
        }
        self.channels[channel].has_barrier = true;
    }

    fn begin(&mut self, now: Instant, id: CheckpointId, actions: &mut Vec<Action>) {
        if self.current.is_some() {
            self.give_up(Why::Overtaken(id), actions);
        }
        self.current = Some(Current { id, since: now });
    }

    fn freeze(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some(current) = self.current.filter(|_| self.is_complete()) else { return };
        self.release(current.id);
        actions.push(Action::Freeze { id: current.id, align: now.saturating_duration_since(current.since) });
    }

    fn give_up(&mut self, why: Why, actions: &mut Vec<Action>) {
        let Some(current) = self.current else { return };
        self.release(current.id);
        actions.push(Action::GiveUp { id: current.id, why });
        actions.push(Action::SendCancel(current.id));
    }

    fn release(&mut self, id: CheckpointId) {
        self.last = self.last.max(id);
        self.current = None;
        for channel in &mut self.channels {
            channel.has_barrier = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: u64) -> CheckpointId {
        CheckpointId(n)
    }

    fn barrier(channel: usize, n: u64) -> Event {
        Event::Barrier { channel, id: id(n) }
    }

    fn freeze(n: u64) -> Action {
        Action::Freeze { id: id(n), align: Duration::ZERO }
    }

    fn give_up(n: u64, why: Why) -> Action {
        Action::GiveUp { id: id(n), why }
    }

    fn cancel(n: u64) -> Action {
        Action::SendCancel(id(n))
    }

    /// Events one after the other, with what each must bring in a subtask that is always ready; all at the same time.
    fn table(mode: CheckpointMode, channels: usize, steps: &[(Event, &[Action], &[usize])]) {
        let now = Instant::now();
        let mut alignment = Alignment::new(channels, mode, None);
        for (i, (event, actions, held)) in steps.iter().enumerate() {
            let mut all = alignment.on(now, *event);
            all.extend(alignment.on(now, Event::Ready));
            assert_eq!(all, *actions, "step {i}: {event:?}");
            let now_held: Vec<usize> = (0..channels).filter(|channel| alignment.is_held(*channel)).collect();
            assert_eq!(now_held, *held, "held after step {i}: {event:?}");
        }
    }

    use CheckpointMode::{AtLeastOnce, ExactlyOnce};

    #[test]
    fn channels_are_held_until_all_barriers_are_there() {
        table(
            ExactlyOnce,
            3,
            &[
                (barrier(1, 1), &[], &[1]),
                (barrier(0, 1), &[], &[0, 1]),
                (barrier(2, 1), &[freeze(1)], &[]),
                (barrier(2, 2), &[], &[2]),
            ],
        );
    }

    #[test]
    fn at_least_once_waits_for_all_barriers_and_holds_no_channel() {
        table(AtLeastOnce, 2, &[(barrier(0, 1), &[], &[]), (barrier(1, 1), &[freeze(1)], &[])]);
    }

    #[test]
    fn a_higher_barrier_cancels_the_alignment_of_a_lower_one() {
        table(
            ExactlyOnce,
            2,
            &[
                (barrier(0, 1), &[], &[0]),
                (barrier(1, 2), &[give_up(1, Why::Overtaken(id(2))), cancel(1)], &[1]),
                (barrier(0, 2), &[freeze(2)], &[]),
            ],
        );
    }

    #[test]
    fn a_barrier_not_above_the_last_finished_or_cancelled_is_dropped() {
        table(
            ExactlyOnce,
            2,
            &[
                (barrier(0, 3), &[], &[0]),
                (barrier(1, 3), &[freeze(3)], &[]),
                (barrier(1, 3), &[], &[]),
                (barrier(0, 2), &[], &[]),
                (Event::Cancel(id(5)), &[cancel(5)], &[]),
                (barrier(0, 5), &[], &[]),
                (barrier(0, 4), &[], &[]),
                (barrier(0, 6), &[], &[0]),
                (barrier(1, 5), &[], &[0]),
                (barrier(1, 6), &[freeze(6)], &[]),
            ],
        );
    }

    #[test]
    fn a_cancel_frees_the_channels_is_sent_on_once_and_spares_a_newer_alignment() {
        table(
            ExactlyOnce,
            2,
            &[
                (barrier(0, 1), &[], &[0]),
                (Event::Cancel(id(2)), &[give_up(1, Why::Cancelled), cancel(2)], &[]),
                (Event::Cancel(id(2)), &[], &[]),
                (Event::Cancel(id(1)), &[], &[]),
                (barrier(1, 2), &[], &[]),
                (barrier(1, 4), &[], &[1]),
                (Event::Cancel(id(3)), &[], &[1]),
                (barrier(0, 4), &[freeze(4)], &[]),
            ],
        );
    }

    #[test]
    fn an_ended_channel_counts_as_aligned_before_and_during_an_alignment() {
        table(
            ExactlyOnce,
            3,
            &[
                (Event::Ended { channel: 0 }, &[], &[]),
                (barrier(1, 1), &[], &[1]),
                (Event::Ended { channel: 2 }, &[freeze(1)], &[]),
                (Event::Ended { channel: 1 }, &[], &[]),
                (barrier(1, 2), &[freeze(2)], &[]),
                (barrier(2, 2), &[], &[]),
            ],
        );
    }

    #[test]
    fn a_trigger_freezes_a_source_at_once_and_an_old_one_does_nothing() {
        table(
            ExactlyOnce,
            0,
            &[
                (Event::Trigger(id(2)), &[freeze(2)], &[]),
                (Event::Trigger(id(2)), &[], &[]),
                (Event::Cancel(id(3)), &[cancel(3)], &[]),
                (Event::Trigger(id(3)), &[], &[]),
                (Event::Trigger(id(4)), &[freeze(4)], &[]),
            ],
        );
    }

    #[test]
    fn an_alignment_that_takes_too_long_is_given_up_by_itself() {
        let begin = Instant::now();
        let timeout = Duration::from_secs(5);
        let mut alignment = Alignment::new(2, ExactlyOnce, Some(timeout));
        assert_eq!(alignment.deadline(), None);
        assert_eq!(alignment.on(begin, barrier(0, 1)), []);
        assert_eq!(alignment.deadline(), Some(begin + timeout));
        assert_eq!(alignment.on(begin + timeout / 2, Event::Tick), []);
        assert_eq!(alignment.on(begin + timeout, Event::Tick), [give_up(1, Why::Timeout), cancel(1)]);
        assert!(!alignment.is_held(0));
        assert_eq!(alignment.on(begin + timeout, barrier(1, 1)), []);
        assert_eq!(alignment.deadline(), None);
    }

    /// With two channels in the midst of rows: all barriers are there, and it is not ready.
    fn complete(mode: CheckpointMode, timeout: Option<Duration>) -> (Alignment, Instant) {
        let begin = Instant::now();
        let mut alignment = Alignment::new(2, mode, timeout);
        assert_eq!(alignment.on(begin, barrier(0, 1)), []);
        assert_eq!(alignment.on(begin, Event::Ready), []);
        assert!(!alignment.is_complete());
        assert_eq!(alignment.on(begin, barrier(1, 1)), []);
        assert!(alignment.is_complete());
        (alignment, begin)
    }

    #[test]
    fn a_subtask_in_the_midst_of_rows_takes_nothing_in_and_freezes_when_it_is_ready() {
        for mode in [ExactlyOnce, AtLeastOnce] {
            let (mut alignment, begin) = complete(mode, None);
            assert!(alignment.is_held(0) && alignment.is_held(1), "{mode:?}");
            let align = Duration::from_millis(7);
            assert_eq!(alignment.on(begin + align, Event::Ready), [Action::Freeze { id: id(1), align }]);
            assert!(!alignment.is_complete() && !alignment.is_held(0));
            assert_eq!(alignment.on(begin + align, Event::Ready), []);
        }
    }

    #[test]
    fn a_complete_alignment_is_given_up_like_any_other_while_the_subtask_is_not_ready() {
        let timeout = Duration::from_secs(5);
        let ways: [(Event, &[Action]); 3] = [
            (Event::Cancel(id(1)), &[give_up(1, Why::Cancelled), cancel(1)]),
            (Event::Tick, &[give_up(1, Why::Timeout), cancel(1)]),
            (Event::Trigger(id(2)), &[give_up(1, Why::Overtaken(id(2))), cancel(1)]),
        ];
        for (event, actions) in ways {
            let (mut alignment, begin) = complete(ExactlyOnce, Some(timeout));
            assert_eq!(alignment.on(begin + timeout, event), actions);
            assert_eq!(alignment.on(begin + timeout, Event::Ready), [], "{event:?}");
        }
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => Just(Event::Ready),
            8 => (0usize..3, 1u64..8).prop_map(|(channel, n)| barrier(channel, n)),
            1 => (0usize..3).prop_map(|channel| Event::Ended { channel }),
            1 => (1u64..8).prop_map(|n| Event::Cancel(id(n))),
            1 => Just(Event::Tick),
        ]
    }

    proptest! {
        /// Whatever comes: ids that are frozen only grow, an id is frozen or given up at most once, nothing is held without an
        /// alignment, and a freeze has seen a barrier of its id, or the end, on every channel.
        #[test]
        fn an_alignment_ends_once_and_only_with_all_barriers(events in proptest::collection::vec(event(), 0..80)) {
            let now = Instant::now();
            let mut alignment = Alignment::new(3, ExactlyOnce, Some(Duration::from_secs(1)));
            let mut seen = [[false; 8]; 3];
            let mut ended = [false; 3];
            let mut highest = 0;
            for (i, event) in events.into_iter().enumerate() {
                match event {
                    Event::Barrier { channel, .. } if alignment.is_held(channel) => continue,
                    Event::Barrier { channel, id } => seen[channel][id.0 as usize] = true,
                    Event::Ended { channel } => ended[channel] = true,
                    _ => {}
                }
                for action in alignment.on(now + Duration::from_millis(i as u64 * 200), event) {
                    match action {
                        Action::Freeze { id, .. } => {
                            prop_assert!(id.0 > highest);
                            highest = id.0;
                            for channel in 0..3 {
                                prop_assert!(ended[channel] || seen[channel][id.0 as usize]);
                            }
                        }
                        Action::GiveUp { id, .. } => {
                            prop_assert!(id.0 > highest);
                            highest = id.0;
                        }
                        Action::SendCancel(id) => highest = highest.max(id.0),
                    }
                }
                if alignment.deadline().is_none() {
                    prop_assert!((0..3).all(|channel| !alignment.is_held(channel)));
                }
            }
        }
    }
}
