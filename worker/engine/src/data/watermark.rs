//! The watermark of several inputs: the lowest of those that count. An idle input does not count, an ended one counts as
//! [`MAX_WATERMARK`]. The same rule holds for a subtask's channels and for a source's splits. Pure.

use crate::api::time::{MAX_WATERMARK, MIN_WATERMARK, Timestamp};

/// What has become of the common watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is this now. Also said when it is the same as before, but the whole is no longer idle.
    Watermark(Timestamp),
    /// Every input that has not ended is idle: whoever takes the watermark must not wait for it.
    Idle,
}

#[derive(Clone, Copy, Debug)]
struct Input {
    watermark: Timestamp,
    idle: bool,
    ended: bool,
}

/// The inputs and what they have in common.
#[derive(Clone, Debug)]
pub struct Watermarks {
    inputs: Vec<Input>,
    current: Timestamp,
    idle: bool,
    open: usize,
}

impl Watermarks {
    /// So many inputs, none of which has said anything. The common watermark begins at `floor`, which a restore gives.
    pub fn new(inputs: usize, floor: Timestamp) -> Self {
        let input = Input { watermark: MIN_WATERMARK, idle: false, ended: false };
        Self { inputs: vec![input; inputs], current: floor, idle: false, open: inputs }
    }

    /// One more input, which has said nothing.
    pub fn add(&mut self) {
        self.inputs.push(Input { watermark: MIN_WATERMARK, idle: false, ended: false });
        self.open += 1;
    }

    /// The common watermark; it never goes back.
    pub const fn current(&self) -> Timestamp {
        self.current
    }

    /// All inputs that have not ended are idle.
    pub const fn is_idle(&self) -> bool {
        self.idle
    }

    /// All inputs have ended.
    pub const fn is_ended(&self) -> bool {
        self.open == 0
    }

    /// This input does not count.
    pub fn is_input_idle(&self, input: usize) -> bool {
        self.inputs[input].idle
    }

    /// This input has ended.
    pub fn is_input_ended(&self, input: usize) -> bool {
        self.inputs[input].ended
    }

    /// What this input has said.
    pub fn of(&self, input: usize) -> Timestamp {
        self.inputs[input].watermark
    }

    /// An input says its watermark, and thereby that it is not idle.
    pub fn advance(&mut self, input: usize, watermark: Timestamp) -> Option<Change> {
        let one = &mut self.inputs[input];
        one.watermark = one.watermark.max(watermark);
        one.idle = false;
        self.update()
    }

    /// An input that is idle has this watermark, which counts when it is active again.
    pub fn set(&mut self, input: usize, watermark: Timestamp) {
        let one = &mut self.inputs[input];
        one.watermark = one.watermark.max(watermark);
    }

    /// An input counts again, with the watermark it had.
    pub fn activate(&mut self, input: usize) -> Option<Change> {
        if !self.inputs[input].idle {
            return None;
        }
        self.inputs[input].idle = false;
        self.update()
    }

    /// An input does not count until it is active again.
    pub fn set_idle(&mut self, input: usize) -> Option<Change> {
        self.inputs[input].idle = true;
        self.update()
    }

    /// An input has ended. When all have, the common watermark is [`MAX_WATERMARK`].
    pub fn end(&mut self, input: usize) -> Option<Change> {
        let one = &mut self.inputs[input];
        if !one.ended {
            one.ended = true;
            self.open -= 1;
        }
        self.update()
    }

    fn update(&mut self) -> Option<Change> {
        if self.open == 0 {
            let news = self.current < MAX_WATERMARK;
            self.current = MAX_WATERMARK;
            self.idle = false;
            return news.then_some(Change::Watermark(MAX_WATERMARK));
        }
        let lowest = self.inputs.iter().filter(|input| !input.idle && !input.ended).map(|input| input.watermark).min();
        match lowest {
            None => {
                let news = !self.idle;
                self.idle = true;
                news.then_some(Change::Idle)
            }
            Some(lowest) => {
                let news = self.idle || lowest > self.current;
                self.idle = false;
                self.current = self.current.max(lowest);
                news.then_some(Change::Watermark(self.current))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_lowest_input_holds_the_watermark_back() {
        let mut all = Watermarks::new(2, MIN_WATERMARK);
        assert_eq!(all.advance(0, 10), None);
        assert_eq!(all.advance(1, 5), Some(Change::Watermark(5)));
        assert_eq!(all.advance(1, 20), Some(Change::Watermark(10)));
        assert_eq!(all.advance(1, 30), None);
    }

    #[test]
    fn an_idle_input_does_not_hold_it_back_until_it_is_active_again() {
        let mut all = Watermarks::new(2, MIN_WATERMARK);
        assert_eq!(all.advance(0, 10), None);
        assert_eq!(all.set_idle(1), Some(Change::Watermark(10)));
        assert_eq!(all.set_idle(0), Some(Change::Idle));
        assert_eq!(all.activate(1), Some(Change::Watermark(10)));
        assert_eq!(all.advance(1, 3), None, "it never goes back");
        assert_eq!(all.advance(1, 12), Some(Change::Watermark(12)));
    }

    #[test]
    fn an_ended_input_counts_for_nothing_and_the_end_of_all_is_the_largest() {
        let mut all = Watermarks::new(2, 7);
        assert_eq!(all.end(0), None);
        assert_eq!(all.advance(1, 6), None, "below the restored floor");
        assert_eq!(all.set_idle(1), Some(Change::Idle));
        assert_eq!(all.end(1), Some(Change::Watermark(MAX_WATERMARK)));
        assert!(all.is_ended());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Advance(usize, i64),
        Idle(usize),
        Activate(usize),
        End(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0usize..3, 0i64..100).prop_map(|(input, watermark)| Step::Advance(input, watermark)),
            1 => (0usize..3).prop_map(Step::Idle),
            1 => (0usize..3).prop_map(Step::Activate),
            1 => (0usize..3).prop_map(Step::End),
        ]
    }

    proptest! {
        #[test]
        fn the_watermark_never_goes_back_and_never_passes_an_input_that_counted_at_the_time(
            steps in proptest::collection::vec(step(), 0..60),
        ) {
            let mut all = Watermarks::new(3, MIN_WATERMARK);
            let mut before = all.current();
            for step in steps {
                let change = match step {
                    Step::Advance(input, watermark) => all.advance(input, watermark),
                    Step::Idle(input) => all.set_idle(input),
                    Step::Activate(input) => all.activate(input),
                    Step::End(input) => all.end(input),
                };
                prop_assert!(all.current() >= before);
                if all.current() > before {
                    prop_assert_eq!(change, Some(Change::Watermark(all.current())));
                    for i in 0..3 {
                        prop_assert!(all.is_input_ended(i) || all.is_input_idle(i) || all.of(i) >= all.current());
                    }
                }
                before = all.current();
            }
        }
    }
}
