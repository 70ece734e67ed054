//! What the exhaustive checker does not ask: bounds. Orders of events are its business.

use super::*;
use weir_protocol::{
    JobName,
    record::{RECORD_VERSION, Restores},
};

const NOW: Millis = Millis(1_000_000);

fn opening(commits: Option<RecordRef>) -> Arc<Opening> {
    Arc::new(Opening {
        version: RECORD_VERSION,
        term: Term(2),
        attempt: Attempt(2),
        job: JobName { namespace: "n".into(), name: "j".into() },
        coordinator: "c".into(),
        owner: "o".into(),
        cluster: "k".into(),
        restores: Restores::Nothing,
        commits,
        accepts_lost_output: false,
        workers: 2,
        slots: 1,
        max_parallelism: 128,
        fingerprint: "f".into(),
        wish: None,
    })
}

fn worker(number: usize) -> WorkerId {
    WorkerId(format!("w{number}"))
}

fn leads(opening: Arc<Opening>) -> (Coordinator, Vec<Action>) {
    let second = std::time::Duration::from_secs(1);
    let policy = Policy {
        interval: second,
        min_pause: std::time::Duration::ZERO,
        timeout: 60 * second,
        tolerable_failures: 3,
        retain: 3,
        status_interval: second,
        retry: RETRY,
    };
    let start = Start {
        opening,
        workers: vec![worker(0), worker(1)],
        restored: None,
        inherited: Vec::new(),
        highest_id: CheckpointId(7),
        failed: 0,
    };
    Coordinator::new(NOW, policy, start)
}

fn pending(number: usize, commits: u64) -> Event {
    Event::Pending { worker: worker(number), attempt: Attempt(2), commits }
}

fn holds(actions: &[Action]) -> Vec<bool> {
    let hold = |action: &Action| if let Action::Hold(hold) = action { Some(*hold) } else { None };
    actions.iter().filter_map(hold).collect()
}

fn triggers(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Trigger { .. }))
}

#[test]
fn sources_are_held_back_while_a_worker_has_too_much_to_publish() {
    let (mut coordinator, _) = leads(opening(None));
    assert!(holds(&coordinator.on(NOW, pending(0, MOST_PENDING))).is_empty());
    let actions = coordinator.on(NOW, pending(1, MOST_PENDING + 1));
    assert_eq!(holds(&actions), [true]);
    assert!(actions.contains(&Action::Note(Note::HeldBack { commits: MOST_PENDING + 1 })), "{actions:?}");
    assert!(holds(&coordinator.on(NOW, pending(1, MOST_PENDING + 2))).is_empty(), "once is enough");
    // Nothing more is cut meanwhile, but for what cannot wait.
    let later = NOW + std::time::Duration::from_secs(5);
    assert!(!triggers(&coordinator.on(later, Event::Tick)));
    assert_eq!(coordinator.next_wake(), None);
    assert!(triggers(&coordinator.on(later, Event::TakeLast)));
}

#[test]
fn sources_go_on_when_all_workers_have_little_to_publish() {
    let (mut coordinator, _) = leads(opening(None));
    coordinator.on(NOW, pending(0, MOST_PENDING + 1));
    coordinator.on(NOW, pending(1, MOST_PENDING + 1));
    assert!(holds(&coordinator.on(NOW, pending(0, 0))).is_empty(), "the other has as much as before");
    assert!(holds(&coordinator.on(NOW, pending(1, MOST_PENDING / 2 + 1))).is_empty(), "it does not flutter");
    let later = NOW + std::time::Duration::from_secs(5);
    let actions = coordinator.on(later, pending(1, MOST_PENDING / 2));
    assert_eq!(holds(&actions), [false]);
    assert!(actions.contains(&Action::Note(Note::LetGo)), "{actions:?}");
    assert!(triggers(&coordinator.on(later, Event::Tick)));
}

#[test]
fn a_worker_that_comes_back_is_told_to_hold_back_too() {
    let (mut coordinator, _) = leads(opening(None));
    coordinator.on(NOW, pending(0, MOST_PENDING + 1));
    coordinator.on(NOW, Event::SessionLost { worker: worker(1) });
    let opened = Event::SessionOpened { worker: worker(1), highest_checkpoint: CheckpointId(7) };
    assert_eq!(holds(&coordinator.on(NOW, opened)), [true]);
    let other = Event::Pending { worker: worker(0), attempt: Attempt(1), commits: 0 };
    assert!(holds(&coordinator.on(NOW, other)).is_empty(), "of another attempt");
}

#[test]
fn what_a_record_that_was_left_behind_has_promised_is_committed_first() {
    let left = RecordRef { id: CheckpointId(7), term: Term(1), number: RecordNumber(3) };
    let (mut coordinator, actions) = leads(opening(Some(left)));
    for number in [0, 1] {
        let commit = Action::Commit { worker: worker(number), id: CheckpointId(7) };
        assert!(actions.contains(&commit), "{actions:?}");
    }
    let committed = |number| Event::Committed { worker: worker(number), attempt: Attempt(2), id: CheckpointId(7) };
    coordinator.on(NOW, committed(0));
    let actions = coordinator.on(NOW, committed(1));
    assert!(actions.contains(&Action::Note(Note::Committed { id: CheckpointId(7) })), "{actions:?}");
}
