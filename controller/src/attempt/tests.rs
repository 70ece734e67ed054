//! What follows from what, as tables and short stories.

use weir_protocol::record::{RecordRef, Restores};
use weir_protocol::{CheckpointId, JobName, RecordNumber, Term};

use super::*;

pub(super) const POLICY: RestartPolicy = RestartPolicy {
    initial_backoff: Duration::from_secs(1),
    max_backoff: Duration::from_mins(1),
    reset_after: Duration::from_mins(10),
    max_failures: None,
};
pub(super) const RECORD: RecordRef = RecordRef { id: CheckpointId(7), term: Term(1), number: RecordNumber(3) };

fn taken_over(attempt: u64) -> Event {
    Event::TakenOver { opening: opening(attempt), order: Vec::new() }
}

/// A job on its way: the machine, the time, and the number of the newest attempt.
struct Job {
    machine: AttemptMachine,
    now: Millis,
    attempt: u64,
}

fn worker(n: u32) -> WorkerId {
    WorkerId(format!("w{n}"))
}

pub(super) fn opening(attempt: u64) -> Arc<Opening> {
    Arc::new(Opening {
        version: 1,
        term: Term(attempt),
        attempt: Attempt(attempt),
        job: JobName { namespace: "n".into(), name: "j".into() },
        coordinator: "c".into(),
        owner: "o".into(),
        cluster: "k".into(),
        restores: Restores::Nothing,
        commits: None,
        accepts_lost_output: false,
        workers: 2,
        slots: 2,
        max_parallelism: 128,
        fingerprint: "f".into(),
        wish: None,
    })
}

fn version(number: u64, size: Size) -> Version {
    Version { number, size, template: "t".into(), planned: true }
}

fn start() -> Action {
    Action::StartWorker { version: 1 }
}

fn take_over(resume: bool) -> Action {
    Action::TakeOver { resume, version: 1 }
}

/// Actions without what is only to be shown.
fn quiet(actions: Vec<Action>) -> Vec<Action> {
    actions.into_iter().filter(|action| !matches!(action, Action::Note(_))).collect()
}

impl Job {
    fn new(policy: RestartPolicy, size: Size) -> Self {
        Self { machine: AttemptMachine::new(policy, version(1, size)), now: Millis(1_000_000), attempt: 0 }
    }

    /// Two workers that run the first attempt.
    fn running(policy: RestartPolicy) -> Self {
        let mut job = Self::new(policy, Size { workers: 2, standby: 0 });
        job.on(Event::Start);
        job.ready(1);
        job.ready(2);
        job.deploys(&[1, 2]);
        job
    }

    fn on(&mut self, event: Event) -> Vec<Action> {
        quiet(self.machine.on(self.now, event))
    }

    fn after(&mut self, span: Duration) -> &mut Self {
        self.now = self.now + span;
        self
    }

    fn ready(&mut self, n: u32) -> Vec<Action> {
        self.on(Event::WorkerReady { worker: worker(n), attempt: Attempt(0), deploying: false, template: "t".into() })
    }

    fn lose(&mut self, n: u32) -> Vec<Action> {
        self.on(Event::WorkerLost { worker: worker(n), cause: "killed".into() })
    }

    fn failure(&self, kind: FailureKind) -> Failure {
        Failure {
            worker: worker(1),
            attempt: Attempt(self.attempt),
            operator: "sum".into(),
            subtask: 0,
            kind,
            message: "no number".into(),
        }
    }

    fn fail(&mut self, kind: FailureKind) -> Vec<Action> {
        let failure = self.failure(kind);
        self.on(Event::TaskFailed(failure))
    }

    /// The takeover ends well, and these workers deploy.
    fn deploys(&mut self, workers: &[u32]) {
        self.attempt += 1;
        let deploy = self.on(taken_over(self.attempt));
        let expected = workers.iter().map(|n| worker(*n)).collect();
        assert_eq!(deploy, [Action::Deploy { opening: opening(self.attempt), workers: expected, version: 1 }]);
        let mut last = Vec::new();
        for n in workers {
            last = self.on(Event::Deployed { worker: worker(*n), attempt: Attempt(self.attempt) });
        }
        assert!(matches!(last[..], [Action::Run { resumed: false, .. }]), "{last:?}");
        assert!(self.machine.is_running());
    }
}

fn restarts_at_once() -> [Action; 2] {
    [Action::DropCoordinator, take_over(false)]
}

#[test]
fn a_job_starts_its_workers_while_it_takes_over_and_runs_when_all_are_deployed() {
    let mut job = Job::new(POLICY, Size { workers: 2, standby: 0 });
    assert_eq!(job.on(Event::Start), [start(), start(), take_over(false)]);
    assert_eq!(job.ready(1), []);
    assert_eq!(job.on(taken_over(1)), []);
    let deploy = Action::Deploy { opening: opening(1), workers: vec![worker(1), worker(2)], version: 1 };
    assert_eq!(job.ready(2), [deploy]);
    assert_eq!(job.on(Event::Deployed { worker: worker(2), attempt: Attempt(1) }), []);
    let run = Action::Run { opening: opening(1), workers: vec![worker(1), worker(2)], resumed: false };
    assert_eq!(job.on(Event::Deployed { worker: worker(1), attempt: Attempt(1) }), [run]);
}

#[test]
fn a_lost_worker_is_replaced_at_once_and_the_survivor_keeps_its_place() {
    let mut job = Job::running(POLICY);
    let [drop, again] = restarts_at_once();
    assert_eq!(job.lose(1), [drop, start(), again]);
    assert_eq!(job.ready(3), []);
    job.deploys(&[3, 2]);
}

#[test]
fn a_standby_takes_a_lost_workers_place_before_a_new_one_is_up() {
    let mut job = Job::new(POLICY, Size { workers: 2, standby: 1 });
    job.on(Event::Start);
    for n in 1..=3 {
        job.ready(n);
    }
    job.deploys(&[1, 2]);
    job.after(Duration::from_mins(1));
    assert!(job.lose(2).contains(&start()), "a new standby");
    job.deploys(&[1, 3]);
    assert_eq!(job.ready(4), []);
    assert_eq!(job.lose(4), [start()], "a lost standby stops nothing");
}

#[test]
fn two_workers_lost_together_are_one_restart() {
    let mut job = Job::running(POLICY);
    let [drop, again] = restarts_at_once();
    assert_eq!(job.lose(1), [drop, start(), again]);
    assert_eq!(job.lose(2), [start()]);
    job.ready(3);
    job.ready(4);
    job.deploys(&[3, 4]);
}

#[test]
fn a_worker_lost_again_soon_waits_for_the_back_off() {
    for (ran, waits) in [(0, true), (9, true), (10, false), (60, false)] {
        let mut job = Job::running(POLICY);
        job.lose(1);
        job.ready(3);
        job.deploys(&[3, 2]);
        let actions = job.after(Duration::from_secs(ran)).lose(2);
        let [drop, again] = restarts_at_once();
        if waits {
            assert_eq!(actions, [drop, start()], "after {ran} s");
            assert_eq!(job.machine.next_wake(), Some(job.now + Duration::from_secs(1)));
            assert_eq!(job.after(Duration::from_millis(999)).on(Event::Tick), []);
            assert_eq!(job.after(Duration::from_millis(1)).on(Event::Tick), [again]);
        } else {
            assert_eq!(actions, [drop, start(), again], "after {ran} s");
        }
    }
}

#[test]
fn the_first_loss_is_followed_at_once_even_while_the_first_attempt_deploys() {
    let mut job = Job::new(POLICY, Size { workers: 2, standby: 0 });
    job.on(Event::Start);
    job.ready(1);
    job.ready(2);
    job.on(taken_over(1));
    let [drop, again] = restarts_at_once();
    assert_eq!(job.lose(1), [drop.clone(), start(), again]);
    job.ready(3);
    assert!(matches!(job.on(taken_over(2))[..], [Action::Deploy { .. }]));
    assert_eq!(job.lose(3), [drop, start()], "and then with back-off");
}

#[test]
fn back_off_doubles_up_to_its_limit_and_is_forgotten_after_a_good_run() {
    // How long each attempt ran before its task failed, and how long is waited then, in seconds.
    let table = [(1, 1), (1, 2), (5, 4), (599, 8), (1, 16), (1, 32), (1, 60), (1, 60), (600, 1), (1, 2), (10_000, 1)];
    let mut job = Job::running(POLICY);
    for (ran, waits) in table {
        assert_eq!(job.after(Duration::from_secs(ran)).fail(FailureKind::BadInput), [Action::DropCoordinator]);
        assert_eq!(job.machine.next_wake(), Some(job.now + Duration::from_secs(waits)), "after {ran} s");
        assert_eq!(job.after(Duration::from_secs(waits)).on(Event::Tick), [take_over(false)]);
        job.deploys(&[1, 2]);
    }
}

#[test]
fn too_many_failures_in_a_row_end_the_job() {
    let mut job = Job::running(RestartPolicy { max_failures: Some(2), ..POLICY });
    for waits in [1, 2] {
        job.fail(FailureKind::Operator);
        job.after(Duration::from_secs(waits)).on(Event::Tick);
        job.deploys(&[1, 2]);
    }
    let actions = job.fail(FailureKind::Operator);
    let Some(Action::Ended(End::Failed { failure: Some(failure), reason })) = actions.last() else {
        panic!("{actions:?}")
    };
    assert_eq!(failure.message, "no number");
    assert_eq!(reason, "3 failures in a row, the last: no number");
    assert_eq!(job.on(Event::Tick), [], "an ended job asks for nothing");
}

#[test]
fn max_failures_of_zero_allows_no_restart_after_a_failure_but_lost_workers_do_not_count() {
    let mut job = Job::running(RestartPolicy { max_failures: Some(0), ..POLICY });
    for n in 3..10 {
        assert!(job.after(Duration::from_mins(1)).lose(n - 1).contains(&start()));
        job.ready(n);
        job.deploys(&[1, n]);
    }
    assert!(matches!(job.fail(FailureKind::Io).last(), Some(Action::Ended(End::Failed { .. }))));
}

#[test]
fn what_a_restart_cannot_mend_ends_the_job() {
    for kind in [FailureKind::Plan, FailureKind::StateMismatch, FailureKind::Corrupt] {
        let mut job = Job::running(POLICY);
        let actions = job.fail(kind);
        let stops = [worker(1), worker(2)].map(|worker| Action::StopWorker { worker });
        assert_eq!(actions[0], Action::DropCoordinator);
        assert_eq!(actions[1..3], stops);
        assert!(matches!(&actions[3], Action::Ended(End::Failed { failure: Some(_), .. })), "{actions:?}");
    }
}

#[test]
fn a_failure_of_an_older_attempt_is_not_heard() {
    let mut job = Job::running(POLICY);
    job.lose(2);
    job.ready(3);
    job.deploys(&[1, 3]);
    job.attempt = 1;
    assert_eq!(job.fail(FailureKind::Plan), []);
    assert!(job.machine.is_running());
}

#[test]
fn a_broken_stream_between_workers_waits_for_the_news_of_a_lost_one() {
    let mut job = Job::running(POLICY);
    assert_eq!(job.fail(FailureKind::PeerLost), []);
    assert_eq!(job.machine.next_wake(), Some(job.now + PEER_GRACE));
    let [drop, again] = restarts_at_once();
    assert_eq!(job.after(Duration::from_millis(20)).lose(2), [drop, start(), again]);
}

#[test]
fn a_broken_stream_between_workers_that_both_live_begins_a_new_attempt() {
    let mut job = Job::running(POLICY);
    job.fail(FailureKind::PeerLost);
    assert_eq!(job.after(PEER_GRACE).on(Event::Tick), restarts_at_once());
    job.deploys(&[1, 2]);
}

#[test]
fn a_takeover_that_storage_does_not_answer_is_tried_again() {
    let mut job = Job::new(POLICY, Size { workers: 2, standby: 0 });
    job.on(Event::Start);
    assert_eq!(job.on(Event::TakeOverFailed { reason: "timeout".into() }), []);
    assert_eq!(job.machine.next_wake(), Some(job.now + TAKE_OVER_RETRY));
    assert_eq!(job.after(TAKE_OVER_RETRY).on(Event::Tick), [take_over(false)]);
}

#[test]
fn a_refused_takeover_ends_the_job_and_its_workers() {
    let mut job = Job::new(POLICY, Size { workers: 1, standby: 0 });
    job.on(Event::Start);
    job.ready(1);
    let end = End::Refused { reason: "owned by another".into() };
    let actions = job.on(Event::TakeOverRefused { reason: "owned by another".into() });
    assert_eq!(actions, [Action::DropCoordinator, Action::StopWorker { worker: worker(1) }, Action::Ended(end)]);
}

#[test]
fn a_job_that_another_coordinates_ends_and_leaves_the_workers_alone() {
    let mut job = Job::running(POLICY);
    let end = End::Superseded { by: Some("c2".into()) };
    let actions = job.on(Event::Superseded { by: Some("c2".into()) });
    assert_eq!(actions, [Action::DropCoordinator, Action::Ended(end)]);
}

#[test]
fn a_worker_that_cannot_be_started_is_tried_again_after_a_back_off() {
    let mut job = Job::new(RestartPolicy { max_failures: Some(2), ..POLICY }, Size { workers: 1, standby: 0 });
    job.on(Event::Start);
    for waits in [1, 2] {
        assert_eq!(job.on(Event::StartFailed { template: "t".into(), reason: "no such file".into() }), []);
        assert_eq!(job.machine.next_wake(), Some(job.now + Duration::from_secs(waits)));
        assert_eq!(job.after(Duration::from_secs(waits)).on(Event::Tick), [start()]);
    }
    let actions = job.on(Event::StartFailed { template: "t".into(), reason: "no such file".into() });
    assert!(matches!(actions.last(), Some(Action::Ended(End::Failed { failure: None, .. }))), "{actions:?}");
}

#[test]
fn workers_that_cannot_be_started_together_are_one_try() {
    let mut job = Job::new(RestartPolicy { max_failures: Some(1), ..POLICY }, Size { workers: 3, standby: 0 });
    job.on(Event::Start);
    let failed = || Event::StartFailed { template: "t".into(), reason: "evicted".into() };
    for _ in 0..3 {
        assert_eq!(job.on(failed()), []);
    }
    assert_eq!(job.after(Duration::from_secs(1)).on(Event::Tick), [start(), start(), start()]);
    assert!(matches!(job.on(failed()).last(), Some(Action::Ended(End::Failed { .. }))));
}

#[test]
fn a_standby_that_cannot_be_started_does_not_end_a_running_job() {
    let mut job = Job::new(RestartPolicy { max_failures: Some(0), ..POLICY }, Size { workers: 1, standby: 1 });
    job.on(Event::Start);
    job.ready(1);
    job.deploys(&[1]);
    assert_eq!(job.on(Event::StartFailed { template: "t".into(), reason: "no memory".into() }), []);
    assert!(job.machine.is_running());
    assert_eq!(job.machine.next_wake(), Some(job.now + POLICY.max_backoff));
}

#[test]
fn a_stop_takes_a_last_checkpoint_and_ends_the_workers() {
    let mut job = Job::running(POLICY);
    assert_eq!(job.on(Event::Stop { last_checkpoint: true }), [Action::TakeLast]);
    let last = Last::Taken { record: RECORD, committed: true };
    let stops = [worker(1), worker(2)].map(|worker| Action::StopWorker { worker });
    let actions = job.on(Event::LastTaken(last.clone()));
    assert_eq!(actions[1..3], stops);
    assert_eq!(actions[3], Action::Ended(End::Stopped(Some(last))));
}

#[test]
fn a_second_stop_ends_at_once() {
    let mut job = Job::running(POLICY);
    job.on(Event::Stop { last_checkpoint: true });
    let actions = job.on(Event::Stop { last_checkpoint: true });
    assert_eq!(actions.last(), Some(&Action::Ended(End::Stopped(None))));
}

#[test]
fn a_stop_before_the_job_runs_ends_at_once() {
    let mut job = Job::new(POLICY, Size { workers: 2, standby: 0 });
    job.on(Event::Start);
    let actions = job.on(Event::Stop { last_checkpoint: true });
    assert_eq!(actions.last(), Some(&Action::Ended(End::Stopped(None))));
}

#[test]
fn a_worker_lost_during_the_last_checkpoint_ends_the_job_without_it() {
    let mut job = Job::running(POLICY);
    job.on(Event::Stop { last_checkpoint: true });
    let actions = job.lose(2);
    assert!(matches!(actions.last(), Some(Action::Ended(End::Stopped(Some(Last::Failed { .. }))))), "{actions:?}");
    assert!(!actions.contains(&start()));
}

#[test]
fn a_finished_job_succeeds() {
    let mut job = Job::running(POLICY);
    let actions = job.on(Event::Succeeded(RECORD));
    assert_eq!(actions.last(), Some(&Action::Ended(End::Succeeded(RECORD))));
}

// ---- resuming ----

impl Job {
    /// A controller comes to a job, and the platform has found so many workers.
    fn resuming(found: usize) -> Self {
        let mut job = Self::new(POLICY, Size { workers: 2, standby: 0 });
        let found = vec!["t".to_string(); found];
        assert_eq!(job.on(Event::Resume { found }), [take_over(true)]);
        job
    }

    fn runs(&mut self, n: u32, attempt: u64) -> Vec<Action> {
        self.welcomes(n, attempt, false)
    }

    fn welcomes(&mut self, n: u32, attempt: u64, deploying: bool) -> Vec<Action> {
        let attempt = Attempt(attempt);
        self.on(Event::WorkerReady { worker: worker(n), attempt, deploying, template: "t".into() })
    }

    fn deployed(&mut self, n: u32, attempt: u64) -> Vec<Action> {
        self.on(Event::Deployed { worker: worker(n), attempt: Attempt(attempt) })
    }
}

#[test]
fn a_running_attempt_is_resumed_in_the_order_that_is_known_and_without_a_new_deployment() {
    for (order, expected) in [(vec![2, 1], [2, 1]), (vec![], [1, 2]), (vec![2], [2, 1]), (vec![9, 2], [2, 1])] {
        let mut job = Job::resuming(2);
        let order = order.into_iter().map(worker).collect();
        assert_eq!(job.on(Event::TakenOver { opening: opening(4), order }), []);
        assert_eq!(job.runs(1, 4), []);
        let workers = expected.map(worker).to_vec();
        let run = Action::Run { opening: opening(4), workers, resumed: true };
        assert_eq!(job.runs(2, 4)[0], run);
        assert_eq!(job.machine.version(), 0, "what another has begun is not known");
    }
}

#[test]
fn an_attempt_whose_controller_died_while_it_was_deployed_runs_when_all_workers_have_restored_it() {
    let run =
        |workers: [u32; 2]| Action::Run { opening: opening(4), workers: workers.map(worker).to_vec(), resumed: true };
    let mut job = Job::resuming(2);
    job.on(taken_over(4));
    job.welcomes(1, 4, true);
    assert_eq!(job.welcomes(2, 4, false), [], "one restores it yet");
    assert!(!job.machine.is_running());
    assert!(job.machine.is_unsure(job.now), "another wish waits");
    assert_eq!(job.on(Event::Tick), [], "nobody is asked for a plan, and nothing is started");
    assert_eq!(job.deployed(1, 4)[0], run([1, 2]));
    assert!(job.machine.is_running());

    // It is done before the other has been heard.
    let mut early = Job::resuming(2);
    early.on(taken_over(4));
    early.welcomes(1, 4, true);
    assert_eq!(early.deployed(1, 4), []);
    assert_eq!(early.welcomes(2, 4, false)[0], run([1, 2]));

    let resuming = || {
        let mut job = Job::resuming(2);
        job.attempt = 4;
        job.on(taken_over(4));
        job.welcomes(1, 4, true);
        job.welcomes(2, 4, true);
        job
    };
    let [drop, again] = restarts_at_once();
    assert_eq!(resuming().lose(2), [drop.clone(), start(), again.clone()], "a worker is lost over it");
    // The one before would have gone back to what was taken up last.
    let mut unfit = resuming();
    assert_eq!(unfit.fail(FailureKind::StateMismatch), [drop, again], "what was deployed does not fit the state");
    unfit.deploys(&[1, 2]);
    let ended = resuming().on(Event::Stop { last_checkpoint: true });
    assert!(matches!(ended.last(), Some(Action::Ended(End::Stopped(None)))), "{ended:?}");
    let mut told_before = Job::resuming(2);
    told_before.on(Event::Stop { last_checkpoint: true });
    told_before.on(taken_over(4));
    told_before.welcomes(1, 4, true);
    let ended = told_before.welcomes(2, 4, true);
    assert!(matches!(ended.last(), Some(Action::Ended(End::Stopped(None)))), "{ended:?}");
}

#[test]
fn an_attempt_goes_on_only_if_all_its_workers_are_there() {
    let [drop, again] = restarts_at_once();

    let mut other = Job::resuming(2);
    other.on(taken_over(4));
    other.runs(1, 4);
    assert_eq!(other.runs(2, 3), [drop.clone(), again.clone()], "one runs something else");
    other.attempt = 4;
    other.deploys(&[1, 2]);

    let mut dies = Job::resuming(2);
    dies.on(taken_over(4));
    dies.runs(1, 4);
    let gone = Event::StartFailed { template: "t".into(), reason: "its pod is gone".into() };
    assert_eq!(dies.on(gone), [drop.clone(), start(), again.clone()], "one is gone before it answers");

    let mut lost = Job::resuming(2);
    lost.on(taken_over(4));
    lost.runs(1, 4);
    assert_eq!(lost.lose(1), [drop.clone(), start(), again.clone()], "one is lost after it has answered");

    let mut few = Job::resuming(1);
    assert_eq!(few.on(taken_over(4)), [drop.clone(), start(), again.clone()], "one was gone before");

    let mut silent = Job::resuming(2);
    silent.on(taken_over(4));
    silent.runs(1, 4);
    assert_eq!(silent.machine.next_wake(), Some(silent.now + RESUME_PATIENCE));
    let gives_up = Action::AbandonStarts { template: "t".into(), count: 1 };
    let actions = silent.after(RESUME_PATIENCE).on(Event::Tick);
    assert_eq!(actions, [gives_up, drop, start(), again], "one does not answer, and another takes its place");
}

#[test]
fn an_attempt_in_which_a_task_failed_while_nobody_looked_is_not_resumed() {
    for (kind, waits) in [(FailureKind::Operator, true), (FailureKind::Corrupt, false)] {
        let mut job = Job::resuming(2);
        job.on(taken_over(4));
        job.runs(1, 4);
        job.attempt = 4;
        let actions = job.fail(kind);
        assert_eq!(actions[0], Action::DropCoordinator);
        assert_eq!(job.machine.next_wake().is_some(), waits);
        assert_eq!(matches!(actions.last(), Some(Action::Ended(End::Failed { .. }))), !waits, "{actions:?}");
    }
    let mut torn = Job::resuming(2);
    torn.on(taken_over(4));
    torn.runs(1, 4);
    torn.attempt = 4;
    assert_eq!(torn.fail(FailureKind::PeerLost), restarts_at_once(), "a peer was lost, and the other may be there yet");
    let mut older = Job::resuming(2);
    older.on(taken_over(4));
    older.runs(1, 3);
    older.attempt = 3;
    assert_eq!(older.fail(FailureKind::Operator), [], "of an older attempt");
}

#[test]
fn a_resumed_attempt_that_is_what_is_wanted_goes_on_as_that_with_its_standby() {
    let size = Size { workers: 2, standby: 1 };
    let unplanned = Version { planned: false, ..version(1, size) };
    let mut job = Job { machine: AttemptMachine::new(POLICY, unplanned), now: Millis(0), attempt: 4 };
    job.on(Event::Resume { found: vec!["t".into(); 3] });
    job.on(taken_over(4));
    job.runs(1, 4);
    job.runs(2, 4);
    assert_eq!(job.machine.version(), 0);
    let notes = job.machine.on(job.now, Event::Change { version: version(2, size), same: true });
    assert_eq!(notes, [Action::Note(Note::Applied { version: 2 })]);
    assert_eq!(job.machine.version(), 2);
    assert_eq!(job.runs(3, 0), [], "the third is the standby");
}

#[test]
fn a_stop_while_an_attempt_is_resumed_takes_its_last_checkpoint() {
    let stop = || Event::Stop { last_checkpoint: true };
    // It is told before it is known whether anything runs, before the takeover has succeeded, or after.
    for when in 0..3 {
        let mut job = Job::new(POLICY, Size { workers: 2, standby: 0 });
        let found = Event::Resume { found: vec!["t".into(); 2] };
        for (at, event) in [found, taken_over(3)].into_iter().enumerate() {
            if at == when {
                assert_eq!(job.on(stop()), []);
            }
            job.on(event);
        }
        if when == 2 {
            assert_eq!(job.on(stop()), []);
        }
        job.runs(1, 3);
        let actions = job.runs(2, 3);
        assert!(matches!(&actions[..], [.., Action::TakeLast]), "{actions:?}");
        assert!(matches!(job.on(Event::LastTaken(TAKEN)).last(), Some(Action::Ended(End::Stopped(Some(_))))));
    }
    // Nothing runs, and nothing is begun.
    let mut job = Job::new(POLICY, Size { workers: 2, standby: 0 });
    assert_eq!(job.on(stop()), []);
    assert!(matches!(job.on(Event::Start).last(), Some(Action::Ended(End::Stopped(None)))));
    // No last checkpoint is wanted, and none is taken of what is found: it could retire the one that is.
    let mut job = Job::new(POLICY, Size { workers: 2, standby: 0 });
    assert_eq!(job.on(Event::Stop { last_checkpoint: false }), []);
    let actions = job.on(Event::Resume { found: vec!["t".into(); 2] });
    assert_eq!(actions, [Action::DropCoordinator, Action::Ended(End::Stopped(None))]);
    // It cannot be resumed, and nothing is begun anew for it.
    let mut job = Job::resuming(2);
    job.on(stop());
    job.on(taken_over(3));
    job.runs(1, 3);
    let actions = job.after(RESUME_PATIENCE).on(Event::Tick);
    assert!(matches!(actions.last(), Some(Action::Ended(End::Stopped(None)))), "{actions:?}");
}

#[test]
fn another_wish_can_wait_until_it_is_known_whether_what_runs_is_what_was_wanted_last() {
    let unplanned = Version { planned: false, ..version(1, Size { workers: 2, standby: 0 }) };
    let resumed = |template: &str| {
        let version = Version { template: template.into(), ..unplanned.clone() };
        let mut job = Job { machine: AttemptMachine::new(POLICY, version), now: Millis(0), attempt: 4 };
        assert!(job.machine.is_unsure(job.now));
        job.on(Event::Resume { found: vec!["t".into(); 2] });
        assert!(job.machine.is_unsure(job.now));
        job.on(taken_over(4));
        job.runs(1, 4);
        assert!(job.machine.is_unsure(job.now));
        job.runs(2, 4);
        job
    };
    let mut job = resumed("t");
    assert!(job.machine.is_unsure(job.now), "a worker is asked");
    job.on(Event::Planned { version: 1, planned: Planned::Fits { same: true } });
    assert!(!job.machine.is_unsure(job.now));
    // The next version is refused: there is one to go back to, and a lost worker of it is replaced.
    job.on(change(Version { planned: false, ..version(2, Size { workers: 2, standby: 0 }) }));
    let failure = job.failure(FailureKind::Plan);
    job.on(Event::Planned { version: 2, planned: Planned::Refused { failure } });
    let [drop, again] = hands_over(1);
    assert_eq!(job.lose(2), [drop, start(), again]);
    // What was wanted last needs other workers, whose image may never come: nothing is waited for.
    let job = resumed("u");
    assert!(!job.machine.is_unsure(job.now));
    // One of its workers is gone: what was wanted last is deployed anew first, but not waited for without end.
    let mut job = Job::resuming(2);
    job.on(taken_over(4));
    job.runs(1, 4);
    let [drop, again] = hands_over(1);
    assert_eq!(
        job.on(Event::StartFailed { template: "t".into(), reason: "its pod is gone".into() }),
        [drop, start(), again]
    );
    assert!(job.machine.is_unsure(job.now));
    assert!(!job.machine.is_unsure(job.now + LAST_VERSION_PATIENCE));
    job.attempt = 4;
    job.ready(3);
    job.deploys(&[1, 3]);
    assert!(!job.machine.is_unsure(job.now));
}

#[test]
fn after_a_resume_a_worker_is_asked_for_the_plan_of_what_is_wanted() {
    let unplanned = Version { planned: false, ..version(1, Size { workers: 2, standby: 0 }) };
    let mut job = Job { machine: AttemptMachine::new(POLICY, unplanned), now: Millis(0), attempt: 4 };
    job.on(Event::Resume { found: vec!["t".into(); 2] });
    job.on(taken_over(4));
    job.runs(1, 4);
    let actions = job.runs(2, 4);
    assert_eq!(actions[1..], [Action::Plan { worker: worker(1), version: 1 }]);
    job.on(Event::Planned { version: 1, planned: Planned::Fits { same: true } });
    assert_eq!(job.machine.version(), 1);
    assert_eq!(job.on(Event::Tick), [], "nothing is to be done");
}

// ---- planning ----

#[test]
fn where_no_plan_is_known_the_first_worker_is_asked_before_anything_is_taken_over() {
    let unplanned = Version { planned: false, ..version(1, Size { workers: 2, standby: 0 }) };
    let mut job = Job { machine: AttemptMachine::new(POLICY, unplanned), now: Millis(0), attempt: 0 };
    assert_eq!(job.on(Event::Start), [start(), start()]);
    let ask = |n| Action::Plan { worker: worker(n), version: 1 };
    assert_eq!(job.ready(1), [ask(1)]);
    assert_eq!(job.ready(2), [], "one is enough");
    assert_eq!(job.lose(1), [start(), ask(2)], "if it is lost another is asked");
    assert_eq!(job.on(Event::Planned { version: 1, planned: Planned::Unreachable }), []);
    assert_eq!(job.after(PLAN_RETRY).on(Event::Tick), [ask(2)]);
    assert_eq!(job.on(Event::Planned { version: 1, planned: Planned::Fits { same: false } }), [take_over(false)]);
    job.ready(3);
    job.deploys(&[3, 2]);
}

fn crash() -> Planned {
    Planned::Crashed { reason: "it took more than 45 s".into() }
}

#[test]
fn a_job_whose_planning_crashes_three_times_fails_with_the_cause() {
    let unplanned = Version { planned: false, ..version(1, Size { workers: 2, standby: 0 }) };
    let mut job = Job { machine: AttemptMachine::new(POLICY, unplanned), now: Millis(0), attempt: 0 };
    job.on(Event::Start);
    job.ready(1);
    let ask = Action::Plan { worker: worker(1), version: 1 };
    for _ in 1..PLAN_CRASHES {
        assert_eq!(job.on(Event::Planned { version: 1, planned: crash() }), []);
        assert_eq!(job.after(PLAN_RETRY).on(Event::Tick), std::slice::from_ref(&ask));
    }
    let actions = job.on(Event::Planned { version: 1, planned: crash() });
    let Some(Action::Ended(End::Failed { failure: Some(failure), reason })) = actions.last() else {
        panic!("{actions:?}")
    };
    assert_eq!(failure.kind, FailureKind::Plan);
    assert!(reason.contains("3 times") && reason.contains("it took more than 45 s"), "{reason}");
}

#[test]
fn a_worker_that_is_lost_while_it_plans_counts_also_where_the_call_broke_first() {
    let unplanned = Version { planned: false, ..version(1, Size { workers: 2, standby: 0 }) };
    let mut job = Job { machine: AttemptMachine::new(POLICY, unplanned), now: Millis(0), attempt: 0 };
    job.on(Event::Start);
    job.ready(1);
    job.lose(1);
    let ask = |n| Action::Plan { worker: worker(n), version: 1 };
    assert_eq!(job.ready(2), [ask(2)]);
    assert_eq!(job.on(Event::Planned { version: 1, planned: Planned::Unreachable }), []);
    job.lose(2);
    assert_eq!(job.ready(3), [ask(3)]);
    // One that is there still only could not be reached.
    assert_eq!(job.on(Event::Planned { version: 1, planned: Planned::Unreachable }), []);
    assert_eq!(job.after(PLAN_RETRY).on(Event::Tick), [ask(3)]);
    let actions = job.lose(3);
    let Some(Action::Ended(End::Failed { reason, .. })) = actions.last() else { panic!("{actions:?}") };
    assert!(reason.contains("the worker that was planning it was lost: killed"), "{reason}");
}

#[test]
fn a_plan_that_comes_out_forgets_the_crashes_before_it() {
    let unplanned = |number| Version { planned: false, ..version(number, Size { workers: 2, standby: 0 }) };
    let mut job = Job { machine: AttemptMachine::new(POLICY, unplanned(1)), now: Millis(0), attempt: 0 };
    job.on(Event::Start);
    job.ready(1);
    for planned in [crash(), crash(), Planned::Fits { same: false }] {
        job.on(Event::Planned { version: 1, planned });
        job.after(PLAN_RETRY).on(Event::Tick);
    }
    assert!(!job.machine.is_changing());
    assert!(matches!(job.machine.phase, Phase::TakingOver { .. }), "{:?}", job.machine);
}

fn unplannable() -> Failure {
    Failure {
        worker: worker(0),
        attempt: Attempt(0),
        operator: String::new(),
        subtask: 0,
        kind: FailureKind::Plan,
        message: "no such table".into(),
    }
}

#[test]
fn a_job_whose_script_does_not_plan_fails_before_anything_is_written() {
    let unplanned = Version { planned: false, ..version(1, Size { workers: 1, standby: 0 }) };
    let mut job = Job { machine: AttemptMachine::new(POLICY, unplanned), now: Millis(0), attempt: 0 };
    job.on(Event::Start);
    job.ready(1);
    let refused = Planned::Refused { failure: unplannable() };
    let actions = job.on(Event::Planned { version: 1, planned: refused });
    assert!(matches!(actions.last(), Some(Action::Ended(End::Failed { failure: Some(_), .. }))), "{actions:?}");
}

// ---- changing ----

const TAKEN: Last = Last::Taken { record: RECORD, committed: true };

fn change(version: Version) -> Event {
    Event::Change { version, same: false }
}

impl Job {
    /// The takeover for another version ends well, and these workers deploy it.
    fn deploys_version(&mut self, workers: &[u32], version: u64) {
        self.attempt += 1;
        let deploy = self.on(taken_over(self.attempt));
        let expected = workers.iter().map(|n| worker(*n)).collect();
        assert_eq!(deploy, [Action::Deploy { opening: opening(self.attempt), workers: expected, version }]);
    }

    fn run_version(&mut self, workers: &[u32], version: u64) -> Vec<Action> {
        self.deploys_version(workers, version);
        let mut last = Vec::new();
        for n in workers {
            last = self.on(Event::Deployed { worker: worker(*n), attempt: Attempt(self.attempt) });
        }
        assert!(matches!(last[0], Action::Run { resumed: false, .. }), "{last:?}");
        last.split_off(1)
    }

    fn ready_from(&mut self, n: u32, template: &str) -> Vec<Action> {
        self.on(Event::WorkerReady {
            worker: worker(n),
            attempt: Attempt(0),
            deploying: false,
            template: template.into(),
        })
    }
}

fn hands_over(version: u64) -> [Action; 2] {
    [Action::DropCoordinator, Action::TakeOver { resume: false, version }]
}

#[test]
fn more_workers_are_there_before_the_last_checkpoint_is_taken() {
    let mut job = Job::running(POLICY);
    let more = Action::StartWorker { version: 2 };
    assert_eq!(job.on(change(version(2, Size { workers: 4, standby: 0 }))), [more.clone(), more]);
    assert_eq!(job.ready(3), []);
    assert_eq!(job.ready(4), [Action::TakeLast]);
    assert!(job.machine.is_running());
    assert_eq!(job.on(Event::LastTaken(TAKEN)), hands_over(2));
    assert_eq!(job.run_version(&[1, 2, 3, 4], 2), [], "who was there stays where it was");
}

#[test]
fn a_worker_lost_while_the_last_checkpoint_is_taken_is_no_failure_of_the_job() {
    let policy = RestartPolicy { max_failures: Some(0), ..POLICY };
    let mut job = Job::running(policy);
    assert_eq!(job.on(change(version(2, Size { workers: 1, standby: 0 }))), [Action::TakeLast]);
    assert_eq!(job.fail(FailureKind::PeerLost), [], "its peer says it first");
    assert_eq!(job.on(Event::LastTaken(Last::Failed { reason: "a session broke".into() })), [Action::CarryOn]);
    assert_eq!(job.lose(2), hands_over(2));
}

#[test]
fn fewer_workers_hand_over_at_once_and_the_surplus_is_stopped_when_the_next_attempt_runs() {
    let mut job = Job::running(POLICY);
    assert_eq!(job.on(change(version(2, Size { workers: 1, standby: 0 }))), [Action::TakeLast]);
    assert_eq!(job.on(Event::LastTaken(TAKEN)), hands_over(2));
    assert_eq!(job.run_version(&[1], 2), [Action::StopWorker { worker: worker(2) }]);
}

#[test]
fn another_image_is_planned_by_its_first_worker_and_all_of_them_are_there_before_the_old_ones_go() {
    let mut job = Job::running(POLICY);
    let next = Version { template: "u".into(), planned: false, ..version(2, Size { workers: 2, standby: 0 }) };
    let more = Action::StartWorker { version: 2 };
    assert_eq!(job.on(change(next)), std::slice::from_ref(&more), "one, to see whether the script plans");
    assert_eq!(job.ready_from(3, "u"), [Action::Plan { worker: worker(3), version: 2 }]);
    assert_eq!(job.on(Event::Planned { version: 2, planned: Planned::Fits { same: true } }), [more]);
    assert_eq!(job.ready_from(4, "u"), [Action::TakeLast], "the same plan, but other workers");
    assert_eq!(job.on(Event::LastTaken(TAKEN)), hands_over(2));
    let stops = [1, 2].map(|n| Action::StopWorker { worker: worker(n) });
    assert_eq!(job.run_version(&[3, 4], 2), stops);
}

#[test]
fn a_change_whose_planning_crashes_three_times_is_refused_and_what_runs_runs_on() {
    let policy = RestartPolicy { max_failures: Some(0), ..POLICY };
    for lost in [false, true] {
        let mut job = Job::running(policy);
        let next = Version { template: "u".into(), planned: false, ..version(2, Size { workers: 2, standby: 0 }) };
        job.on(change(next));
        let mut last = Vec::new();
        for n in 3..3 + PLAN_CRASHES {
            let asked = if lost || n == 3 { job.ready_from(n, "u") } else { job.after(PLAN_RETRY).on(Event::Tick) };
            let planner = if lost { worker(n) } else { worker(3) };
            assert_eq!(asked, [Action::Plan { worker: planner.clone(), version: 2 }]);
            last = job.machine.on(
                job.now,
                if lost {
                    Event::WorkerLost { worker: planner, cause: "out of memory".into() }
                } else {
                    Event::Planned { version: 2, planned: crash() }
                },
            );
        }
        let told = |action: &Action| matches!(action, Action::Note(Note::ChangeRefused { version: 2, reason }) if reason.contains("3 times"));
        assert!(last.iter().any(told), "{last:?}");
        assert!(job.machine.is_running() && !job.machine.is_changing());
        assert_eq!(job.machine.version(), 1);
        assert_eq!(job.after(PLAN_PAUSE).on(Event::Tick), [], "it is not asked again");
    }
}

#[test]
fn a_change_whose_planning_crashed_says_so_while_it_is_tried_again() {
    let mut job = Job::running(POLICY);
    job.on(change(Version { planned: false, ..version(2, Size { workers: 2, standby: 0 }) }));
    let actions = job.machine.on(job.now, Event::Planned { version: 2, planned: crash() });
    let waits = |action: &Action| matches!(action, Action::Note(Note::ChangeWaits { version: 2, reason }) if reason.contains("it took more than 45 s"));
    assert!(actions.iter().any(waits), "{actions:?}");
}

#[test]
fn what_was_resumed_is_not_refused_however_often_planning_crashes() {
    let unplanned = Version { planned: false, ..version(1, Size { workers: 2, standby: 0 }) };
    let mut job = Job { machine: AttemptMachine::new(POLICY, unplanned), now: Millis(0), attempt: 1 };
    job.on(Event::Resume { found: vec!["t".into(); 2] });
    job.on(taken_over(1));
    for n in [1, 2] {
        let attempt = Attempt(1);
        job.on(Event::WorkerReady { worker: worker(n), attempt, deploying: false, template: "t".into() });
    }
    assert!(job.machine.is_running());
    for _ in 0..5 {
        job.on(Event::Planned { version: 1, planned: crash() });
        let asked = job.after(PLAN_PAUSE).on(Event::Tick);
        assert_eq!(asked, [Action::Plan { worker: worker(1), version: 1 }]);
    }
    assert!(job.machine.is_running());
}

#[test]
fn a_change_that_does_not_plan_touches_nothing_and_its_worker_goes() {
    let mut job = Job::running(POLICY);
    let next = Version { template: "u".into(), planned: false, ..version(2, Size { workers: 2, standby: 0 }) };
    job.on(change(next));
    job.ready_from(3, "u");
    let refused = Planned::Refused { failure: unplannable() };
    let actions = job.machine.on(job.now, Event::Planned { version: 2, planned: refused });
    let told = Note::ChangeRefused { version: 2, reason: "no such table".into() };
    assert_eq!(actions, [Action::Note(told), Action::StopWorker { worker: worker(3) }]);
    assert!(job.machine.is_running());
}

#[test]
fn a_change_that_the_state_does_not_fit_is_taken_back_before_it_runs() {
    for kind in [FailureKind::StateMismatch, FailureKind::Plan] {
        let mut job = Job::running(POLICY);
        job.on(change(version(2, Size { workers: 2, standby: 0 })));
        job.on(Event::LastTaken(TAKEN));
        job.deploys_version(&[1, 2], 2);
        assert_eq!(job.fail(kind), hands_over(1), "back to what ran");
        job.deploys(&[1, 2]);
        assert_eq!(job.on(Event::Tick), [], "and it stays at that");
    }
    let mut job = Job::running(POLICY);
    job.on(change(version(2, Size { workers: 2, standby: 0 })));
    job.on(Event::LastTaken(TAKEN));
    job.deploys_version(&[1, 2], 2);
    assert!(matches!(job.fail(FailureKind::Corrupt).last(), Some(Action::Ended(_))), "this is not the change's fault");
}

#[test]
fn old_workers_serve_again_when_another_image_is_taken_back() {
    let mut job = Job::running(POLICY);
    let next = Version { template: "u".into(), ..version(2, Size { workers: 2, standby: 0 }) };
    job.on(change(next));
    job.ready_from(3, "u");
    job.ready_from(4, "u");
    job.on(Event::LastTaken(TAKEN));
    job.deploys_version(&[3, 4], 2);
    let failure = Failure {
        worker: worker(3),
        attempt: Attempt(job.attempt),
        operator: "sum".into(),
        subtask: 0,
        kind: FailureKind::StateMismatch,
        message: "the state of sum differs".into(),
    };
    assert_eq!(job.on(Event::TaskFailed(failure)), hands_over(1));
    let stops = [3, 4].map(|n| Action::StopWorker { worker: worker(n) });
    assert_eq!(job.run_version(&[1, 2], 1), stops);
}

#[test]
fn a_last_checkpoint_that_fails_is_tried_again_while_the_job_runs_on_and_then_done_without() {
    let mut job = Job::running(POLICY);
    assert_eq!(job.on(change(version(2, Size { workers: 1, standby: 0 }))), [Action::TakeLast]);
    let failed = || Event::LastTaken(Last::Failed { reason: "declined".into() });
    for _ in 1..HAND_OVER_TRIES {
        assert_eq!(job.on(failed()), [Action::CarryOn]);
        assert!(job.machine.is_running());
        assert_eq!(job.machine.next_wake(), Some(job.now + HAND_OVER_RETRY));
        assert_eq!(job.after(HAND_OVER_RETRY).on(Event::Tick), [Action::TakeLast]);
    }
    assert_eq!(job.on(failed()), hands_over(2));
}

#[test]
fn a_job_that_does_not_run_is_changed_at_once() {
    // A back-off after a failure that the change may mend.
    let mut job = Job::running(POLICY);
    assert_eq!(job.fail(FailureKind::Operator), [Action::DropCoordinator]);
    let take_over = Action::TakeOver { resume: false, version: 2 };
    assert_eq!(job.on(change(version(2, Size { workers: 2, standby: 0 }))), [take_over]);

    // Nothing has ever run, and no worker comes.
    let mut job = Job::new(POLICY, Size { workers: 1, standby: 0 });
    job.on(Event::Start);
    job.on(taken_over(1));
    let next = Version { template: "u".into(), ..version(2, Size { workers: 1, standby: 0 }) };
    let actions = job.on(change(next));
    assert!(actions.contains(&Action::StartWorker { version: 2 }), "{actions:?}");
    assert!(actions.contains(&Action::TakeOver { resume: false, version: 2 }), "{actions:?}");
    assert!(actions.contains(&Action::AbandonStarts { template: "t".into(), count: 1 }), "{actions:?}");
}

#[test]
fn a_worker_lost_while_a_change_waits_is_replaced_as_ever() {
    let mut job = Job::running(POLICY);
    job.on(change(version(2, Size { workers: 3, standby: 0 })));
    let [drop, again] = restarts_at_once();
    assert_eq!(job.lose(2), [drop, Action::StartWorker { version: 2 }, again], "two are there, three are not");
    job.ready(4);
    job.deploys(&[1, 4]);
    assert_eq!(job.ready(5), [Action::TakeLast]);
}

#[test]
fn a_worker_lost_when_all_is_ready_for_the_change_makes_the_next_attempt_the_changed_one() {
    let mut job = Job::running(POLICY);
    job.on(change(version(2, Size { workers: 1, standby: 0 })));
    assert_eq!(job.lose(2), hands_over(2));
}

#[test]
fn old_workers_make_room_for_new_ones_that_nothing_else_has_room_for() {
    let mut job = Job::running(POLICY);
    let next = Version { template: "u".into(), ..version(2, Size { workers: 2, standby: 0 }) };
    job.on(change(next));
    job.ready_from(3, "u");
    assert_eq!(job.on(blocked("u", true)), []);
    assert_eq!(job.machine.next_wake(), Some(job.now + NO_ROOM_PATIENCE));
    assert_eq!(job.after(NO_ROOM_PATIENCE).on(Event::Tick), [Action::TakeLast]);
    let [drop, again] = hands_over(2);
    let stop = |n| Action::StopWorker { worker: worker(n) };
    assert_eq!(job.on(Event::LastTaken(TAKEN)), [drop, stop(1), stop(2), again]);
    job.attempt += 1;
    assert_eq!(job.on(taken_over(2)), []);
    let deploy = job.ready_from(4, "u");
    assert!(matches!(deploy[..], [Action::Deploy { version: 2, .. }]), "{deploy:?}");
}

/// Something is in the way of workers of a template: that there is no room for them, or something that room would not mend.
fn blocked(template: &str, room: bool) -> Event {
    let by = Some(Blocked { room, reason: "0/1 nodes are available".into() });
    Event::Blocked { template: template.into(), by }
}

/// Two workers run, and others are wanted, of which none has room; what they are to run is not planned.
fn without_room_for_one() -> Job {
    let mut job = Job::running(POLICY);
    let next = Version { template: "u".into(), planned: false, ..version(2, Size { workers: 2, standby: 0 }) };
    assert_eq!(job.on(change(next)), [Action::StartWorker { version: 2 }]);
    assert_eq!(job.on(blocked("u", true)), []);
    assert_eq!(job.after(NO_ROOM_PATIENCE).on(Event::Tick), [Action::TakeLast]);
    let stop = |n| Action::StopWorker { worker: worker(n) };
    let more = Action::StartWorker { version: 2 };
    assert_eq!(job.on(Event::LastTaken(TAKEN)), [Action::DropCoordinator, stop(1), stop(2), more]);
    job
}

#[test]
fn old_workers_make_room_also_where_there_is_none_for_a_single_new_one() {
    let mut job = without_room_for_one();
    job.on(Event::Blocked { template: "u".into(), by: None });
    assert_eq!(job.ready_from(3, "u"), [Action::Plan { worker: worker(3), version: 2 }]);
    let planned = Event::Planned { version: 2, planned: Planned::Fits { same: true } };
    assert_eq!(job.on(planned), [Action::TakeOver { resume: false, version: 2 }]);
    assert_eq!(job.ready_from(4, "u"), []);
    assert_eq!(job.run_version(&[3, 4], 2), []);
    assert_eq!(job.on(blocked("u", true)), []);
    assert_eq!(job.after(NO_ROOM_PATIENCE).on(Event::Tick), [], "it runs, and that is that");
}

#[test]
fn what_does_not_come_or_does_not_plan_although_the_old_workers_went_is_refused_and_they_come_back() {
    let back = |actions: Vec<Action>, reason: &str| {
        let told = |action: &Action| match action {
            Action::Note(Note::ChangeRefused { version: 2, reason: said }) => said.contains(reason),
            _ => false,
        };
        assert!(actions.iter().any(told), "{actions:?}");
        let actions = quiet(actions);
        assert_eq!(actions.iter().filter(|action| **action == start()).count(), 2, "{actions:?}");
        assert!(actions.contains(&take_over(false)), "{actions:?}");
    };
    let mut job = without_room_for_one();
    assert_eq!(job.machine.next_wake(), Some(job.now + NO_ROOM_PATIENCE), "a minute from then on");
    job.after(NO_ROOM_PATIENCE);
    let actions = job.machine.on(job.now, Event::Tick);
    back(actions, "0/1 nodes are available");
    job.ready(3);
    job.ready(4);
    job.deploys(&[3, 4]);
    assert_eq!(job.after(NO_ROOM_PATIENCE).on(Event::Tick), [], "and it stays at that");

    let mut job = without_room_for_one();
    job.ready_from(3, "u");
    let refused = Planned::Refused { failure: unplannable() };
    let actions = job.machine.on(job.now, Event::Planned { version: 2, planned: refused });
    back(actions, "no such table");
}

#[test]
fn another_wish_while_the_old_workers_have_gone_takes_the_place_of_the_first() {
    let mut job = without_room_for_one();
    job.ready_from(3, "u");
    let next = Version { template: "v".into(), planned: false, ..version(3, Size { workers: 2, standby: 0 }) };
    let actions = job.on(change(next));
    assert!(actions.contains(&Action::StopWorker { worker: worker(3) }), "it has the room: {actions:?}");
    assert!(actions.contains(&Action::StartWorker { version: 3 }), "{actions:?}");
    assert_eq!(job.ready_from(4, "v"), [Action::Plan { worker: worker(4), version: 3 }]);
}

#[test]
fn what_the_state_does_not_fit_gives_its_room_back() {
    let mut job = without_room_for_one();
    job.ready_from(3, "u");
    job.on(Event::Planned { version: 2, planned: Planned::Fits { same: false } });
    job.ready_from(4, "u");
    job.deploys_version(&[3, 4], 2);
    let failure = Failure { worker: worker(3), ..job.failure(FailureKind::StateMismatch) };
    let actions = job.on(Event::TaskFailed(failure));
    let stop = |n| Action::StopWorker { worker: worker(n) };
    assert_eq!(actions, [stop(3), stop(4), Action::DropCoordinator, start(), start(), take_over(false)]);
}

#[test]
fn nobody_goes_for_workers_that_room_would_not_help() {
    let mut job = Job::running(POLICY);
    let next = Version { template: "u".into(), ..version(2, Size { workers: 2, standby: 0 }) };
    job.on(change(next));
    job.on(blocked("u", false));
    assert_eq!(job.machine.next_wake(), None);
    assert_eq!(job.after(NO_ROOM_PATIENCE).on(Event::Tick), []);
    // From now on it is room, and a moment later there is some: what pulls its image is not waited for in vain.
    job.on(blocked("u", true));
    assert_eq!(job.machine.next_wake(), Some(job.now + NO_ROOM_PATIENCE));
    job.on(Event::Blocked { template: "u".into(), by: None });
    assert_eq!(job.machine.next_wake(), None);
}

#[test]
fn a_job_that_is_to_grow_goes_on_until_there_is_room() {
    let mut job = Job::running(POLICY);
    job.on(change(version(2, Size { workers: 3, standby: 0 })));
    job.on(blocked("t", true));
    assert_eq!(job.machine.next_wake(), None);
    assert_eq!(job.after(NO_ROOM_PATIENCE).on(Event::Tick), []);
    assert_eq!(job.ready(3), [Action::TakeLast]);
}

#[test]
fn what_is_no_longer_wanted_while_it_starts_is_called_off() {
    let mut job = Job::running(POLICY);
    job.on(change(version(2, Size { workers: 4, standby: 0 })));
    let off = Action::AbandonStarts { template: "t".into(), count: 2 };
    assert_eq!(job.on(Event::Change { version: version(3, Size { workers: 2, standby: 0 }), same: true }), [off]);
    assert_eq!(job.machine.version(), 3);
}

#[test]
fn a_change_that_is_called_off_while_it_is_handed_over_is_none() {
    let mut job = Job::running(POLICY);
    job.on(change(version(2, Size { workers: 1, standby: 0 })));
    job.on(Event::Change { version: version(3, Size { workers: 2, standby: 0 }), same: true });
    assert_eq!(job.on(Event::LastTaken(TAKEN)), [Action::CarryOn]);
    assert!(job.machine.is_running());
}

#[test]
fn a_stop_while_handing_over_waits_for_the_checkpoint_under_way() {
    let mut job = Job::running(POLICY);
    job.on(change(version(2, Size { workers: 1, standby: 0 })));
    assert_eq!(job.on(Event::Stop { last_checkpoint: true }), []);
    assert_eq!(job.on(Event::LastTaken(TAKEN)).last(), Some(&Action::Ended(End::Stopped(Some(TAKEN)))));
}

// ---- leaving ----

#[test]
fn a_worker_that_is_to_go_is_replaced_before_it_goes() {
    let mut job = Job::running(POLICY);
    assert_eq!(job.on(Event::WorkerLeaving { worker: worker(1) }), [Action::Checkpoint, start()]);
    assert_eq!(job.on(Event::WorkerLeaving { worker: worker(1) }), [], "told once");
    assert_eq!(job.ready(3), [Action::TakeLast]);
    let [drop, again] = restarts_at_once();
    let stop = Action::StopWorker { worker: worker(1) };
    assert_eq!(job.on(Event::LastTaken(TAKEN)), [drop, again, stop], "nothing is left for it to do");
    assert_eq!(job.run_version(&[3, 2], 1), []);
}

#[test]
fn a_worker_that_is_to_go_is_not_kept_where_no_successor_can_come() {
    let mut job = Job::running(POLICY);
    job.on(Event::WorkerLeaving { worker: worker(1) });
    assert_eq!(job.on(blocked("t", false)), []);
    assert_eq!(job.machine.next_wake(), Some(job.now + SUCCESSOR_PATIENCE));
    assert_eq!(job.after(SUCCESSOR_PATIENCE).on(Event::Tick), [Action::TakeLast]);
    let [drop, again] = restarts_at_once();
    let stop = |n| Action::StopWorker { worker: worker(n) };
    assert_eq!(job.on(Event::LastTaken(TAKEN)), [drop, again, stop(1)]);
    assert_eq!(job.on(taken_over(2)), [], "it stands still");
    // Nor is the other, which has no work any more.
    assert_eq!(job.on(Event::WorkerLeaving { worker: worker(2) }), [stop(2), start()]);
    job.on(Event::Blocked { template: "t".into(), by: None });
    job.ready(3);
    let deploy = job.ready(4);
    assert!(matches!(deploy[..], [Action::Deploy { .. }]), "{deploy:?}");
}

#[test]
fn a_standby_takes_the_place_of_one_that_is_to_go_at_once() {
    let mut job = Job::new(POLICY, Size { workers: 2, standby: 1 });
    job.on(Event::Start);
    for n in 1..=3 {
        job.ready(n);
    }
    job.deploys(&[1, 2]);
    let actions = job.on(Event::WorkerLeaving { worker: worker(2) });
    assert_eq!(actions, [Action::Checkpoint, start(), Action::TakeLast]);
    assert_eq!(job.on(Event::WorkerLeaving { worker: worker(3) }), [start()], "the standby is to go, too");
    assert_eq!(job.on(Event::LastTaken(TAKEN)), [Action::CarryOn, Action::StopWorker { worker: worker(3) }]);
}

#[test]
fn a_worker_that_goes_before_its_place_is_handed_over_is_a_lost_one() {
    let mut job = Job::running(POLICY);
    job.on(Event::WorkerLeaving { worker: worker(1) });
    assert_eq!(job.lose(1), restarts_at_once(), "its successor is on its way already");
    job.ready(3);
    job.deploys(&[3, 2]);
}

#[test]
fn standbys_come_and_go_without_a_new_attempt() {
    let mut job = Job::running(POLICY);
    assert_eq!(job.on(Event::Standby(1)), [start()]);
    assert_eq!(job.ready(3), []);
    assert_eq!(job.on(Event::Standby(0)), [Action::StopWorker { worker: worker(3) }]);
}
