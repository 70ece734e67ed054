//! How far event time has got at one place of a subtask: at its head, or at one of its operators. Pure.

use crate::api::operator::RestoredWatermarks;
use crate::api::time::{MIN_WATERMARK, Timestamp};
use crate::seam::Reached;

/// What has been told since the restore, and what had been told before it.
#[derive(Clone, Debug)]
pub(crate) struct EventTime {
    told: Timestamp,
    /// What was restored, until `told` has passed all of it.
    floors: RestoredWatermarks,
}

impl EventTime {
    /// Nothing has been told yet.
    pub(crate) const fn restored(floors: RestoredWatermarks) -> Self {
        Self { told: MIN_WATERMARK, floors }
    }

    /// The highest watermark that has been told since the restore.
    pub(crate) const fn told(&self) -> Timestamp {
        self.told
    }

    /// What is to be told when this watermark comes: never less than before, also than before the restore.
    pub(crate) fn next(&self, watermark: Timestamp) -> Timestamp {
        watermark.max(self.told).max(self.floors.lowest())
    }

    pub(crate) fn tell(&mut self, watermark: Timestamp) {
        self.told = self.told.max(watermark);
    }

    /// What a snapshot says of it.
    pub(crate) fn reached(&mut self) -> Reached {
        if self.floors.highest() <= self.told {
            self.floors = RestoredWatermarks::default();
        }
        let groups = self.floors.groups();
        Reached {
            watermark: Some(self.told).filter(|told| *told > MIN_WATERMARK),
            key_groups: groups.map(|group| self.floors.of(group).max(self.told)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_groups_are_told_apart_until_the_last_of_them_has_been_passed() {
        let mut time = EventTime::restored(RestoredWatermarks::new(4, vec![10, 30]));
        assert_eq!(time.reached(), Reached { watermark: None, key_groups: vec![10, 30] });
        assert_eq!(time.next(5), 10, "event time does not go back over a restore");
        time.tell(20);
        assert_eq!(time.next(15), 20);
        assert_eq!(time.reached(), Reached { watermark: Some(20), key_groups: vec![20, 30] });
        time.tell(30);
        assert_eq!(time.reached(), Reached { watermark: Some(30), key_groups: Vec::new() });
    }
}
