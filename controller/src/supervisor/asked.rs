//! Checkpoints that somebody has asked for, and waits for. Pure.

use weir_protocol::CheckpointId;

/// So many are waited for at once; what is asked for beyond is served by the same checkpoint, and told of no more.
const MOST: usize = 64;

/// Who asked, and which checkpoint serves it: the first that is triggered afterwards.
#[derive(Debug, Default)]
pub(super) struct Asked(Vec<(String, Option<CheckpointId>)>);

impl Asked {
    /// Somebody asks. Who asks twice is told once.
    pub(super) fn ask(&mut self, value: String) {
        if self.0.len() < MOST && self.0.iter().all(|(asked, _)| *asked != value) {
            self.0.push((value, None));
        }
    }

    /// Somebody waits.
    pub(super) fn waits(&self) -> bool {
        !self.0.is_empty()
    }

    /// A checkpoint was triggered: it serves all who have asked up to now. Whether there is any.
    pub(super) fn triggered(&mut self, id: CheckpointId) -> bool {
        for (_, serves) in &mut self.0 {
            serves.get_or_insert(id);
        }
        self.0.iter().any(|(_, serves)| *serves == Some(id))
    }

    /// The attempt is over, and its checkpoints with it: another one has to serve.
    pub(super) fn given_up(&mut self) {
        for (_, serves) in &mut self.0 {
            *serves = None;
        }
    }

    /// A checkpoint has ended. Gives who is to be told.
    pub(super) fn ended(&mut self, id: CheckpointId) -> Vec<String> {
        self.0.extract_if(.., |(_, serves)| *serves == Some(id)).map(|(value, _)| value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_is_served_by_the_first_checkpoint_that_is_triggered_afterwards() {
        let mut asked = Asked::default();
        assert!(!asked.waits());
        assert!(!asked.triggered(CheckpointId(1)));
        asked.ask("a".to_string());
        assert!(asked.ended(CheckpointId(1)).is_empty(), "that one began before");
        assert!(asked.triggered(CheckpointId(2)));
        asked.ask("b".to_string());
        asked.ask("a".to_string());
        assert_eq!(asked.ended(CheckpointId(2)), ["a"]);
        asked.triggered(CheckpointId(3));
        asked.given_up();
        assert!(asked.ended(CheckpointId(3)).is_empty() && asked.waits(), "a new attempt serves it");
        asked.triggered(CheckpointId(4));
        assert_eq!(asked.ended(CheckpointId(4)), ["b"]);
        assert!(!asked.waits());
    }

    #[test]
    fn those_who_wait_are_bounded() {
        let mut asked = Asked::default();
        (0..10 * MOST).for_each(|n| asked.ask(n.to_string()));
        asked.triggered(CheckpointId(1));
        assert_eq!(asked.ended(CheckpointId(1)).len(), MOST);
    }
}
