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

/// The times from one failed checkpoint to the next trigger, in milliseconds, at this interval and pause.
fn pauses_after_failures(interval: u64, min_pause: u64, failures: usize) -> Vec<u64> {
    let ms = std::time::Duration::from_millis;
    let (mut coordinator, _) = leads(opening(None));
    let policy = Policy { interval: ms(interval), min_pause: ms(min_pause), ..coordinator.policy };
    coordinator.on(NOW, Event::Configure(policy));
    let mut now = NOW;
    let mut pauses = Vec::new();
    for _ in 0..=failures {
        let due = coordinator.next_wake().unwrap();
        pauses.push(u64::try_from((due - now).as_millis()).unwrap());
        now = due;
        assert!(triggers(&coordinator.on(now, Event::Tick)));
        let id = coordinator.collecting().unwrap();
        let declined = Event::Declined { worker: worker(0), attempt: Attempt(2), id, reason: "no".into() };
        coordinator.on(now, declined);
    }
    pauses.split_off(1)
}

#[test]
fn what_fails_at_once_is_tried_ever_more_rarely_whatever_the_interval_is() {
    assert_eq!(pauses_after_failures(10, 0, 7), [500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
    assert_eq!(pauses_after_failures(3_000, 0, 4), [3_000, 3_000, 3_000, 4_000]);
    assert_eq!(pauses_after_failures(60_000, 0, 7), [60_000; 7]);
    assert_eq!(pauses_after_failures(10, 9_000, 6), [9_000, 9_000, 9_000, 9_000, 9_000, 10_000]);
}

#[test]
fn an_outage_is_followed_by_one_checkpoint_and_not_by_all_that_were_missed() {
    let (mut coordinator, _) = leads(opening(None));
    coordinator.on(NOW, Event::SessionLost { worker: worker(0) });
    assert_eq!(coordinator.next_wake(), None, "nothing is triggered that nobody answers");
    let later = NOW + std::time::Duration::from_hours(1);
    let opened = Event::SessionOpened { worker: worker(0), highest_checkpoint: CheckpointId(7) };
    coordinator.on(later, opened);
    let actions = coordinator.on(later, Event::Tick);
    assert_eq!(actions.iter().filter(|action| matches!(action, Action::Trigger { .. })).count(), 1);
    let id = coordinator.collecting().unwrap();
    let declined = Event::Declined { worker: worker(0), attempt: Attempt(2), id, reason: "no".into() };
    coordinator.on(later, declined);
    assert!(!triggers(&coordinator.on(later, Event::Tick)));
    assert_eq!(coordinator.next_wake(), Some(later + std::time::Duration::from_secs(1)), "the interval counts anew");
}

#[test]
fn a_new_pace_counts_from_the_last_trigger_and_for_the_checkpoint_under_way() {
    let (mut coordinator, _) = leads(opening(None));
    let second = std::time::Duration::from_secs(1);
    let slower = Policy { interval: 600 * second, ..coordinator.policy };
    coordinator.on(NOW, Event::Configure(slower));
    assert_eq!(coordinator.next_wake(), Some(NOW + 600 * second));
    coordinator.on(NOW, Event::Configure(Policy { interval: 2 * second, timeout: 5 * second, ..slower }));
    assert_eq!(coordinator.next_wake(), Some(NOW + 2 * second));
    coordinator.on(NOW + 2 * second, Event::Tick);
    assert_eq!(coordinator.next_wake(), Some(NOW + 7 * second));
    coordinator.on(NOW + 2 * second, Event::Configure(Policy { timeout: 20 * second, ..slower }));
    assert_eq!(coordinator.next_wake(), Some(NOW + 22 * second), "also one that is under way");
}
