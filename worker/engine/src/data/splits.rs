//! The splits of one source subtask: how far event time has got in each, which are idle, which are finished. All of it is in
//! the snapshot, beside each split's position. Pure; the time is given.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use weir_protocol::part::{Item, ItemKind};

use crate::api::time::{MIN_WATERMARK, Timestamp};
use crate::data::watermark::{Change, Watermarks};

/// A split as it stands in a checkpoint: what the engine knows around what the source knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SplitState {
    /// The source's own: position and all that it needs to go on.
    pub split: serde_json::Value,
    /// The split's watermark; none before its first row.
    pub watermark_ms: Option<Timestamp>,
    /// It gives no rows and does not hold back the watermark.
    pub idle: bool,
    /// It will give no rows any more.
    pub finished: bool,
}

impl SplitState {
    /// A split that nothing has been read of.
    pub const fn initial(split: serde_json::Value) -> Self {
        Self { split, watermark_ms: None, idle: false, finished: false }
    }

    /// As an item of a part.
    pub fn to_item(&self) -> Item {
        // The type has no map with keys that are not strings, and no failing serializer: it always serializes.
        Item { kind: ItemKind::Split, value: serde_json::to_value(self).unwrap_or_default() }
    }

    /// Back from an item; `None` for an item of another kind.
    pub fn from_item(item: &Item) -> Option<Result<Self, serde_json::Error>> {
        (item.kind == ItemKind::Split).then(|| Self::deserialize(&item.value))
    }
}

/// All splits of one subtask.
pub(crate) struct Splits {
    states: Vec<SplitState>,
    watermarks: Watermarks,
    idle_timeout: Option<Duration>,
    /// When each split last gave rows, on a clock that stands still while the subtask does not ask for rows: a split is not
    /// idle because nobody had the time to read it.
    active: Vec<Instant>,
    away: Duration,
}

impl Splits {
    /// Goes on from these states.
    pub(crate) fn new(states: Vec<SplitState>, idle_timeout: Option<Duration>, now: Instant) -> Self {
        let mut watermarks = Watermarks::new(states.len(), MIN_WATERMARK);
        for (i, state) in states.iter().enumerate() {
            if state.idle {
                watermarks.set_idle(i);
            }
            if state.finished {
                watermarks.end(i);
            }
        }
        let active = vec![now; states.len()];
        Self { states, watermarks, idle_timeout, active, away: Duration::ZERO }
    }

    /// Says again what the restored splits had said, and what that makes of the common watermark.
    /// From `now` on splits can become idle.
    pub(crate) fn restore(&mut self, now: Instant) -> Vec<Change> {
        self.active.fill(now);
        let mut changes = Vec::new();
        for (i, state) in self.states.iter().enumerate() {
            match state.watermark_ms {
                // It does not count, and must not for a moment: what the others have yet to say may be before it.
                Some(watermark) if state.idle => self.watermarks.set(i, watermark),
                Some(watermark) => changes.extend(self.watermarks.advance(i, watermark)),
                None => {}
            }
        }
        if self.watermarks.is_idle() && changes.last() != Some(&Change::Idle) {
            changes.push(Change::Idle);
        }
        changes
    }

    /// A split has been found.
    pub(crate) fn add(&mut self, split: serde_json::Value, now: Instant) {
        self.states.push(SplitState::initial(split));
        self.watermarks.add();
        self.active.push(self.clock(now));
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.watermarks.is_ended()
    }

    /// The source's own values, which it is created from.
    pub(crate) fn values(&self) -> Vec<serde_json::Value> {
        self.states.iter().map(|state| state.split.clone()).collect()
    }

    pub(crate) const fn len(&self) -> usize {
        self.states.len()
    }

    /// The subtask has been busy with rows, or waiting for room, for so long, and has not asked for more.
    pub(crate) fn was_away(&mut self, time: Duration) {
        self.away += time;
    }

    fn clock(&self, now: Instant) -> Instant {
        now.checked_sub(self.away).unwrap_or(now)
    }

    /// A split is about to give rows.
    pub(crate) fn activate(&mut self, split: usize, now: Instant) -> Option<Change> {
        self.active[split] = self.clock(now);
        self.watermarks.activate(split)
    }

    /// A split has given rows that say this about event time.
    pub(crate) fn advance(&mut self, split: usize, watermark: Timestamp) -> Option<Change> {
        if self.watermarks.is_input_ended(split) || watermark <= self.watermarks.of(split) {
            return None;
        }
        self.watermarks.advance(split, watermark)
    }

    /// A split has given its last row.
    pub(crate) fn end(&mut self, split: usize) -> Option<Change> {
        self.watermarks.end(split)
    }

    /// Marks the splits that have given nothing for too long. One that the source holds back has not been asked.
    pub(crate) fn find_idle(&mut self, now: Instant, held_back: impl Fn(usize) -> bool) -> Option<Change> {
        let timeout = self.idle_timeout?;
        let now = self.clock(now);
        let mut change = None;
        for (i, active) in self.active.iter_mut().enumerate() {
            let counts = !self.watermarks.is_input_ended(i) && !self.watermarks.is_input_idle(i);
            if !counts || *active + timeout > now {
                continue;
            }
            if held_back(i) {
                *active = now;
            } else {
                change = self.watermarks.set_idle(i).or(change);
            }
        }
        change
    }

    /// How far event time has got in a split, if it has given rows.
    pub(crate) fn reached(&self, split: usize) -> Option<Timestamp> {
        Some(self.watermarks.of(split)).filter(|reached| *reached > MIN_WATERMARK)
    }

    /// When [`Self::find_idle`] has something to find.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let timeout = self.idle_timeout?;
        self.active
            .iter()
            .enumerate()
            .filter(|(i, _)| !self.watermarks.is_input_ended(*i) && !self.watermarks.is_input_idle(*i))
            .map(|(_, active)| *active + timeout + self.away)
            .min()
    }

    /// Notes the positions that the source has given.
    pub(crate) fn set_positions(&mut self, positions: Vec<serde_json::Value>) {
        debug_assert_eq!(positions.len(), self.states.len());
        for (state, position) in self.states.iter_mut().zip(positions) {
            state.split = position;
        }
    }

    /// The items of a snapshot.
    pub(crate) fn items(&mut self) -> Vec<Item> {
        for (i, state) in self.states.iter_mut().enumerate() {
            let reached = self.watermarks.of(i);
            state.watermark_ms = Some(reached).filter(|reached| *reached > MIN_WATERMARK);
            state.idle = self.watermarks.is_input_idle(i);
            state.finished = self.watermarks.is_input_ended(i);
        }
        self.states.iter().map(SplitState::to_item).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn splits(n: usize, idle_timeout: Option<Duration>, now: Instant) -> Splits {
        Splits::new((0..n).map(|i| SplitState::initial(json!(i))).collect(), idle_timeout, now)
    }

    #[test]
    fn a_split_that_has_not_begun_holds_the_watermark_back_until_it_is_idle() {
        let now = Instant::now();
        let timeout = Duration::from_secs(3);
        let mut splits = splits(2, Some(timeout), now);
        assert_eq!(splits.activate(0, now + timeout / 2), None);
        assert_eq!(splits.advance(0, 10), None);
        assert_eq!(splits.deadline(), Some(now + timeout));
        assert_eq!(splits.find_idle(now + timeout, asked), Some(Change::Watermark(10)));
        assert_eq!(splits.find_idle(now + timeout * 2, asked), Some(Change::Idle));
        assert_eq!(splits.deadline(), None);
        assert_eq!(splits.activate(1, now + timeout * 2), Some(Change::Watermark(10)));
        let forever = Splits::new(vec![SplitState::initial(json!(0))], None, now).find_idle(now + timeout * 9, asked);
        assert_eq!(forever, None);
    }

    /// The source asks every split.
    fn asked(_: usize) -> bool {
        false
    }

    #[test]
    fn a_split_that_the_source_holds_back_holds_back_the_watermark() {
        let (now, timeout) = (Instant::now(), Duration::from_secs(3));
        let mut splits = splits(2, Some(timeout), now);
        splits.advance(0, 10);
        splits.advance(1, 90);
        assert_eq!(splits.find_idle(now + timeout, |_| true), None);
        assert_eq!(splits.deadline(), Some(now + timeout * 2));
        assert_eq!(splits.advance(0, 100), Some(Change::Watermark(90)), "not 100: the other may go on at 90");
        assert_eq!(splits.find_idle(now + timeout * 2, |split| split == 0), Some(Change::Watermark(100)));
        assert_eq!((splits.reached(0), splits.reached(1)), (Some(100), Some(90)));
    }

    #[test]
    fn a_split_that_is_found_holds_the_watermark_where_it_is_and_stands_in_the_snapshot() {
        let (now, timeout) = (Instant::now(), Duration::from_secs(3));
        let mut splits = splits(1, Some(timeout), now);
        assert_eq!(splits.advance(0, 10), Some(Change::Watermark(10)));
        splits.add(json!("found"), now);
        assert_eq!(splits.advance(0, 90), None, "the new one may have rows of 11");
        assert_eq!(splits.advance(1, 40), Some(Change::Watermark(40)));
        splits.set_positions(vec![json!("a"), json!("b")]);
        let states: Vec<_> = splits.items().iter().map(|item| SplitState::from_item(item).unwrap().unwrap()).collect();
        assert_eq!((states.len(), &states[1].split, states[1].watermark_ms), (2, &json!("b"), Some(40)));
        splits.end(0);
        assert!(!splits.is_ended());
    }

    #[test]
    fn time_in_which_nobody_reads_makes_no_split_idle() {
        let now = Instant::now();
        let timeout = Duration::from_secs(3);
        let mut splits = splits(2, Some(timeout), now);
        splits.was_away(timeout);
        assert_eq!(splits.find_idle(now + timeout, asked), None);
        assert_eq!(splits.deadline(), Some(now + timeout * 2));
        assert_eq!(splits.find_idle(now + timeout * 2, asked), Some(Change::Idle));
    }

    #[test]
    fn event_time_idleness_and_end_come_back_from_the_snapshot() {
        let now = Instant::now();
        let mut before = splits(4, Some(Duration::ZERO), now);
        before.find_idle(now, asked);
        before.activate(0, now);
        before.advance(0, 7);
        before.activate(1, now);
        before.advance(1, 9);
        before.end(1);
        before.set_positions(vec![json!("a"), json!("b"), json!("c"), json!("d")]);
        let items = before.items();
        let states: Vec<_> = items.iter().map(|item| SplitState::from_item(item).unwrap().unwrap()).collect();
        assert_eq!(states[0], SplitState { split: json!("a"), watermark_ms: Some(7), idle: false, finished: false });
        assert!(states[1].finished && states[2].idle);
        let mut after = Splits::new(states, None, now);
        assert_eq!(after.restore(now).last(), Some(&Change::Watermark(7)));
        assert_eq!(after.items(), items);
        after.end(0);
        assert!(!after.is_ended());
    }

    #[test]
    fn a_split_that_comes_back_idle_does_not_move_the_watermark_on() {
        let (now, timeout) = (Instant::now(), Duration::from_secs(3));
        let mut before = splits(2, Some(timeout), now);
        before.advance(0, 100);
        before.advance(1, 50);
        assert_eq!(before.find_idle(now + timeout, asked), Some(Change::Idle));
        let states = before.items().iter().map(|item| SplitState::from_item(item).unwrap().unwrap()).collect();
        let mut after = Splits::new(states, Some(timeout), now);
        assert_eq!(after.restore(now), [Change::Idle]);
        assert_eq!(after.activate(1, now), Some(Change::Watermark(50)), "rows after that are in time, as they were");
    }
}
