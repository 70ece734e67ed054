use std::time::Instant;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use weir_crds::RequestedCheckpoint;
use weir_storage::S3Keys;

use super::*;
use crate::cluster::{
    identity::Identity,
    plan::Begin,
    reconcile::facts::Supervised,
    status,
    validate::{tests::resource, validate},
};

fn job(extra: &str, generation: i64) -> ValidJob {
    let mut resource = resource(extra);
    resource.metadata.generation = Some(generation);
    validate(&resource, "weir/worker:1", &[]).unwrap()
}

fn accepted(job: &ValidJob) -> Accepted {
    let image = "weir/worker:1".to_string();
    Accepted { generation: job.generation, spec: job.spec.clone(), image, restored_from: None }
}

fn keys(id: &str) -> S3Keys {
    S3Keys { access_key_id: id.to_string(), secret_access_key: "s".to_string(), session_token: None }
}

/// Nothing is there of this job but its resource.
fn new(job: &ValidJob) -> Wanted {
    Wanted {
        problem: None,
        asked: None,
        job: Some(job.clone()),
        keys: Keys::With(Some(keys("a"))),
        accepted: None,
        held: Held { pods_unknown: true, ..Held::default() },
        pods: Some(Vec::new()),
        now: Instant::now(),
    }
}

/// A supervisor runs this version of it.
fn running(job: &ValidJob) -> Wanted {
    let supervised = Supervised {
        job: plan::with_template(job, "weir/worker:1".to_string(), Some(&keys("a"))),
        asked: vec![accepted(job)],
        ending: false,
        checkpoint: None,
        keys: Some(keys("a")),
    };
    let said = status::Facts { run: Run::Running, running: Some(job.generation), ..status::Facts::default() };
    let held = Held { supervisor: Some(supervised), said, ..Held::default() };
    Wanted { accepted: Some(accepted(job)), held, pods: None, ..new(job) }
}

fn of(subject: Subject, finalized: bool) -> Facts {
    let identity = Identity { namespace: "air".to_string(), name: "flights".to_string(), uid: "u-1".to_string() };
    Facts { identity, generation: 1, finalized, subject }
}

/// The names of the steps, in their order, and after how many seconds the job is looked at again.
fn course(facts: &Facts) -> (String, Option<u64>) {
    let decision = decide(facts);
    let name = |step: &Step| match step {
        Step::Say(None) => "fine".to_string(),
        Step::Say(Some(problem)) => problem.reason.to_string(),
        Step::Next { step, .. } => format!("{step:?}"),
        Step::StopForGood { kill, last_checkpoint } => format!("StopForGood({kill}, {last_checkpoint})"),
        other => format!("{other:?}").split(['(', ' ']).next().unwrap_or_default().to_string(),
    };
    let names: Vec<String> = decision.steps.iter().map(name).collect();
    (names.join(" "), decision.again.map(|again| again.as_secs()))
}

#[test]
fn a_job_goes_from_its_resource_to_a_supervisor_in_this_order() {
    let (plain, more) = (job("", 1), job("  workers: {replicas: 3}\n", 2));
    let wrong = || Some(Problem::spec("no"));
    let missing = Problem { reason: reasons::STORAGE_SECRET_MISSING, message: String::new() };
    let foreign = Problem { reason: reasons::INVALID_STORAGE, message: String::new() };
    let (soon, later) = (Some(LOOK_SOON.as_secs()), Some(LOOK_AGAIN.as_secs()));
    let cases = vec![
        ("it is new", new(&plain), false, "Hold Apply fine NoWorkers Start(Newest)", later),
        ("it is held already", new(&plain), true, "Apply fine NoWorkers Start(Newest)", later),
        (
            "its keys are not there",
            Wanted { keys: Keys::Missing(missing), ..new(&plain) },
            false,
            "Hold StorageSecretMissing",
            soon,
        ),
        (
            "it may not use the controller's",
            Wanted { keys: Keys::NotAllowed(foreign), ..new(&plain) },
            true,
            "InvalidStorage",
            later,
        ),
        (
            "it is wrong, and nothing ever ran",
            Wanted { problem: wrong(), job: None, ..new(&plain) },
            true,
            "InvalidSpec",
            None,
        ),
        (
            "it is wrong, and runs",
            Wanted { problem: wrong(), job: None, ..running(&plain) },
            true,
            "InvalidSpec KeepUp",
            later,
        ),
        (
            "it is wrong, and another leader ran a good version",
            Wanted { problem: wrong(), accepted: Some(accepted(&plain)), ..new(&plain) },
            true,
            "InvalidSpec Apply InvalidSpec NoWorkers Start(Newest)",
            later,
        ),
        ("it runs as it is to", running(&plain), true, "Apply fine KeepRunning", later),
        (
            "it runs, and more of it is wanted",
            Wanted { job: Some(more), ..running(&plain) },
            true,
            "Apply fine KeepRunning Change { empty: false }",
            later,
        ),
        (
            "its keys have changed",
            Wanted { keys: Keys::With(Some(keys("b"))), ..running(&plain) },
            true,
            "Apply fine KeepRunning LetGo",
            later,
        ),
    ];
    for (name, wanted, finalized, steps, again) in cases {
        let facts = of(Subject::Wanted(Box::new(wanted)), finalized);
        assert_eq!(course(&facts), (steps.to_string(), again), "{name}");
    }
}

#[test]
fn a_supervisor_that_ends_is_not_told_to_let_go_too() {
    let mut wanted = Wanted { keys: Keys::With(Some(keys("b"))), ..running(&job("", 1)) };
    wanted.held.supervisor.as_mut().unwrap().ending = true;
    let facts = of(Subject::Wanted(Box::new(wanted)), true);
    assert_eq!(course(&facts).0, "Apply fine KeepRunning");
}

#[test]
fn the_version_that_runs_is_kept_and_not_the_one_that_was_asked_for_last() {
    let (plain, more) = (job("", 1), job("  workers: {replicas: 3}\n", 2));
    let mut wanted = Wanted { job: Some(more.clone()), ..running(&plain) };
    wanted.held.supervisor.as_mut().unwrap().asked.push(accepted(&more));
    let facts = of(Subject::Wanted(Box::new(wanted)), true);
    let kept = decide(&facts).steps.into_iter().find_map(|step| match step {
        Step::KeepRunning(accepted) => Some(accepted.generation),
        _ => None,
    });
    assert_eq!(kept, Some(1));
}

#[test]
fn a_job_that_rests_has_a_status_also_where_nobody_wrote_one() {
    let suspended = job("  suspend: true\n", 1);
    let resting = |run: Run, term: Option<u64>| {
        let mut wanted = new(&suspended);
        wanted.pods = None;
        wanted.held.said = status::Facts { run, term, ..status::Facts::default() };
        course(&of(Subject::Wanted(Box::new(wanted)), true)).0
    };
    assert_eq!(resting(Run::Unknown, None), "Apply fine SaySuspended ReadBack");
    assert_eq!(resting(Run::Unknown, Some(3)), "Apply fine SaySuspended ReadBack");
    assert_eq!(resting(Run::Suspended(None), Some(3)), "Apply fine");
    assert_eq!(resting(Run::Suspended(None), None), "Apply fine ReadBack");
    assert_eq!(resting(Run::Succeeded, Some(3)), "Apply fine");
}

#[test]
fn what_is_stuck_is_tried_again_when_its_time_has_come() {
    let plain = job("", 1);
    let now = Instant::now();
    let stuck = |until: Option<Instant>| {
        let mut wanted = Wanted { now, ..new(&plain) };
        wanted.held.stuck = Some((1, until));
        wanted.held.said.term = Some(1);
        wanted.held.said.run = Run::Stalled(Problem::spec("no"));
        course(&of(Subject::Wanted(Box::new(wanted)), true)).0
    };
    assert_eq!(stuck(None), "Apply fine NoWorkers");
    assert_eq!(stuck(Some(now + Duration::from_secs(1))), "Apply fine NoWorkers");
    assert_eq!(stuck(Some(now)), "Apply fine NoWorkers Start(Newest)");
}

#[test]
fn a_wish_stops_what_runs_and_is_handed_on_to_be_looked_for() {
    let wish = job("  restoreFrom: {record: terms/1/1}\n", 2);
    let wanted = Wanted { job: Some(wish), ..running(&job("", 1)) };
    let decision = decide(&of(Subject::Wanted(Box::new(wanted)), true));
    let Some(Step::Next { step, wish, .. }) = decision.steps.last() else { panic!("{decision:?}") };
    assert!(matches!(step, plan::Step::Stop { last_checkpoint: false, .. }), "{step:?}");
    assert_eq!(wish.as_deref(), Some("terms/1/1"));
}

#[test]
fn a_status_that_says_that_state_did_not_fit_reaches_the_plan() {
    let mut wanted = new(&job("  upgrade: {mode: Stateless}\n", 2));
    wanted.held.said.run =
        Run::Stalled(Problem { reason: reasons::STATE_MISMATCH, message: "another program".to_string() });
    let decision = decide(&of(Subject::Wanted(Box::new(wanted)), true));
    let Some(Step::Next { step, .. }) = decision.steps.last() else { panic!("{decision:?}") };
    assert_eq!(*step, plan::Step::Start(Begin::Nothing));
}

#[test]
fn a_deletion_stops_the_workers_then_leaves_storage_then_lets_the_resource_go() {
    let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
    let deleted = |removes: bool, supervised: bool, storage_left: bool, seconds: i64| Deleted {
        valid: Some(job("", 1)),
        removes,
        since: Time(at(0)),
        now: at(seconds),
        supervised,
        pods: Vec::new(),
        storage_left,
    };
    let soon = Some(LOOK_AT_DELETION.as_secs());
    let cases = [
        (deleted(false, true, false, 1), true, "SayDeleting StopForGood(false, true) RemovePods", soon),
        (deleted(true, true, false, 1), true, "SayDeleting StopForGood(false, false) RemovePods", soon),
        (deleted(false, true, false, 61), true, "SayDeleting StopForGood(true, true) LeaveStorage", soon),
        (deleted(false, false, false, 1), true, "SayDeleting StopForGood(false, true) LeaveStorage", soon),
        (deleted(false, false, true, 1), true, "SayDeleting StopForGood(false, true) Release", None),
        (deleted(false, false, false, 1), false, "SayDeleting StopForGood(false, true)", None),
    ];
    for (deleted, finalized, steps, again) in cases {
        let what = format!("{deleted:?}");
        assert_eq!(course(&of(Subject::Deleted(Box::new(deleted)), finalized)), (steps.to_string(), again), "{what}");
    }
}

#[test]
fn what_cannot_be_read_is_said_and_does_not_stand_in_the_way_of_its_deletion() {
    let unreadable = |deleted: bool| Subject::Unreadable { error: "sql: a number".to_string(), deleted };
    for (deleted, finalized, steps) in
        [(false, true, "InvalidSpec"), (false, false, "InvalidSpec"), (true, true, "Release"), (true, false, "")]
    {
        assert_eq!(course(&of(unreadable(deleted), finalized)), (steps.to_string(), None));
    }
    let said = decide(&of(unreadable(false), true)).steps;
    let [Step::Say(Some(problem))] = said.as_slice() else { panic!("{said:?}") };
    assert!(problem.message.contains("sql: a number") && problem.message.contains("CRD"), "{}", problem.message);
}

#[test]
fn a_value_of_the_annotation_asks_for_one_checkpoint_of_what_runs() {
    let asked = |asked: &str, wanted: Wanted| Wanted { asked: Some(asked.to_string()), ..wanted };
    let plain = job("", 1);
    let served = |value: &str| {
        let mut wanted = running(&plain);
        let (value, at) = (value.to_string(), "2026-01-01T00:00:00Z".to_string());
        wanted.held.said.requested = Some(RequestedCheckpoint { value, id: 3, at, failure: None });
        wanted
    };
    let under_way = |value: &str, ending: bool| {
        let mut wanted = running(&plain);
        let supervisor = wanted.held.supervisor.as_mut().unwrap();
        (supervisor.checkpoint, supervisor.ending) = (Some(value.to_string()), ending);
        wanted
    };
    let wrong = Wanted { problem: Some(Problem::spec("no")), job: None, ..running(&plain) };
    for (wanted, expected) in vec![
        (asked("1", running(&plain)), true),
        (running(&plain), false),
        (asked("1", served("1")), false),
        (asked("2", served("1")), true),
        (asked("1", under_way("1", false)), false),
        (asked("2", under_way("1", false)), true),
        (asked("2", under_way("1", true)), false),
        // What runs is asked, whatever the newest spec is.
        (asked("1", wrong), true),
        // It waits until something runs.
        (asked("1", new(&plain)), false),
    ] {
        let (value, decision) = (wanted.asked.clone(), decide(&of(Subject::Wanted(Box::new(wanted)), true)));
        let step = value.map(Step::Checkpoint);
        assert_eq!(step.is_some_and(|step| decision.steps.contains(&step)), expected, "{decision:?}");
    }
}
