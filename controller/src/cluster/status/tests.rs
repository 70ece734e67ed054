use std::sync::Arc;

use weir_protocol::{
    Attempt, CheckpointId, JobName, RecordNumber, Term, WorkerId,
    record::{RECORD_VERSION, Restores},
};

use super::*;
use crate::platform::{Obstacle, ObstacleKind, ProcessNumber, Trouble};

const NOW: &str = "2027-01-15T08:00:00.000Z";

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn opening(term: u64, attempt: u64) -> Arc<Opening> {
    Arc::new(Opening {
        version: RECORD_VERSION,
        term: Term(term),
        attempt: Attempt(attempt),
        job: JobName { namespace: "air".to_string(), name: "flights".to_string() },
        coordinator: "c".to_string(),
        owner: "u-1".to_string(),
        cluster: "k".to_string(),
        restores: Restores::Nothing,
        commits: None,
        accepts_lost_output: false,
        workers: 2,
        slots: 1,
        max_parallelism: 128,
        fingerprint: "f".to_string(),
        wish: None,
    })
}

fn record(id: u64, attempt: u64) -> Arc<Record> {
    Arc::new(Record {
        version: RECORD_VERSION,
        id: CheckpointId(id),
        term: Term(1),
        number: RecordNumber(id),
        attempt: Attempt(attempt),
        job: JobName { namespace: "air".to_string(), name: "flights".to_string() },
        is_final: false,
        parallelism: 2,
        max_parallelism: 128,
        fingerprint: "f".to_string(),
        parts: Vec::new(),
        completed_at_ms: 1_800_000_000_000,
        duration_ms: 180,
        state_bytes: 3 << 20,
        uploaded_bytes: 100,
    })
}

fn workers(states: &[&'static str]) -> Fact {
    let worker = |(number, state): (usize, &&'static str)| WorkerView {
        number: number as u64 + 1,
        pid: None,
        state,
        rate: 0.0,
        busy: 0.0,
        state_bytes: 0,
    };
    Fact::Workers(states.iter().enumerate().map(worker).collect())
}

fn opened(term: u64, attempt: u64, restored: Option<Arc<Record>>, why: Why) -> Fact {
    Fact::TermOpened { opening: opening(term, attempt), restored, why }
}

fn running(attempt: u64) -> Fact {
    Fact::Running { attempt: Attempt(attempt), generation: Some(1), resumed: false, recovery: None }
}

fn lost() -> Fact {
    Fact::WorkerLost {
        worker: WorkerId("w".to_string()),
        name: "flights-worker-x".to_string(),
        cause: "the pod is gone".to_string(),
        position: Some(0),
    }
}

fn aborted(failed: u32, beyond_tolerable: bool) -> Fact {
    Fact::Aborted { id: CheckpointId(9), reason: "storage is away".to_string(), failed, beyond_tolerable }
}

fn fold(facts: &[Fact]) -> Facts {
    let mut folded = Facts { generation: 1, run: Run::Starting, ..Facts::default() };
    for fact in facts {
        folded.fold(fact, NOW);
    }
    folded
}

/// A job that runs and has a checkpoint.
fn well() -> Vec<Fact> {
    vec![
        opened(1, 1, None, Why::Start),
        workers(&["running", "running"]),
        running(1),
        Fact::Completed { record: record(1, 1), pause: None },
    ]
}

/// Status and reason of one condition.
fn said(facts: &Facts, kind: &str) -> String {
    let status = facts.status(&[], at(0));
    let condition = status.conditions.into_iter().find(|condition| condition.type_ == kind).unwrap();
    format!("{} {}", condition.status, condition.reason)
}

fn message(facts: &Facts, kind: &str) -> String {
    let status = facts.status(&[], at(0));
    status.conditions.into_iter().find(|condition| condition.type_ == kind).unwrap().message
}

fn waits(kind: ObstacleKind) -> Fact {
    Fact::WorkerWaits { process: ProcessNumber(1), obstacle: Some(Obstacle { kind, reason: "0/1 nodes".to_string() }) }
}

#[test]
fn output_that_cannot_be_published_is_told_until_it_can() {
    let failing = Fact::Publishing { failure: Some("403 for part 1".to_string()) };
    let mut facts = fold(&[well(), vec![failing]].concat());
    facts.latest = Some(latest(&record(1, 1), "s3://bucket/r"));
    assert_eq!(said(&facts, "Checkpointed"), "False OutputUnpublished");
    assert_eq!(said(&facts, "Ready"), "True Running", "rows are read and counted all the while");
    facts.fold(&Fact::Publishing { failure: None }, NOW);
    assert_eq!(said(&facts, "Checkpointed"), "True Completed");
}

#[test]
fn sources_that_are_held_back_are_told_of_with_the_cause() {
    let failing = Fact::Publishing { failure: Some("403 for part 1".to_string()) };
    let held = Fact::HeldBack { waiting: Some(10_001) };
    let mut facts = fold(&[well(), vec![failing, held]].concat());
    facts.latest = Some(latest(&record(1, 1), "s3://bucket/r"));
    assert_eq!(said(&facts, "Checkpointed"), "False OutputHeldBack");
    let status = facts.status(&[], at(0));
    assert!(status.conditions.iter().any(|condition| condition.message.contains("403 for part 1")));
    facts.fold(&Fact::HeldBack { waiting: None }, NOW);
    assert_eq!(said(&facts, "Checkpointed"), "False OutputUnpublished");
}

#[test]
fn output_that_is_lost_stalls_the_job_and_names_the_way_on() {
    let failure = Failure {
        worker: weir_protocol::WorkerId("w".to_string()),
        attempt: weir_protocol::Attempt(1),
        operator: "copies".to_string(),
        subtask: 0,
        kind: FailureKind::OutputLost,
        message: "output of checkpoint 7 cannot be published: the file /out/part-1 is lost".to_string(),
    };
    let mut facts = fold(&well());
    facts.ended_with(&Outcome::Failed(failure));
    assert_eq!(said(&facts, "Stalled"), "True OutputLost");
    assert_eq!(said(&facts, "Ready"), "False OutputLost");
    let status = facts.status(&[], at(0));
    let message = &status.conditions.iter().find(|condition| condition.type_ == "Stalled").unwrap().message;
    assert!(message.contains("checkpoint 7") && message.contains("/out/part-1"), "{message}");
    assert!(message.contains("acceptLostOutput"), "{message}");
}

#[test]
fn what_is_suspended_is_told_from_storage_alone() {
    let before = |record: Option<&Record>| {
        let mut facts = fold(&[opened(7, 3, None, Why::Start), workers(&["running", "running"]), running(3)]);
        if let Some(record) = record {
            facts.fold(&Fact::Completed { record: Arc::new(record.clone()), pause: None }, NOW);
            facts.latest = Some(latest(record, "s3://bucket/r"));
        }
        facts.ended_with(&Outcome::Stopped);
        facts
    };
    // The newest record is of this attempt, of the one before, or there is none.
    for (number, newest) in [(0, Some(record(5, 3))), (1, Some(record(5, 2))), (2, None)] {
        let mut found = Facts { generation: 1, run: Run::Suspended(None), ..Facts::default() };
        found.found(&opening(7, 3), newest.as_deref().map(|record| (record, "s3://bucket/r")));
        let (found, told) = (found.status(&[], at(0)), before(newest.as_deref()).status(&[], at(0)));
        assert_eq!(
            (found.attempt, found.term, &found.checkpoint),
            (told.attempt, told.term, &told.checkpoint),
            "{number}"
        );
        let conditions = |status: StreamJobStatus| status.conditions.into_iter().map(|c| (c.type_, c.status, c.reason));
        assert!(conditions(found).eq(conditions(told)), "{number}");
    }
}

#[test]
fn storage_that_does_not_answer_while_a_record_is_made_is_told_until_it_does() {
    let mut facts = fold(&well());
    facts.latest = Some(latest(&record(1, 1), "s3://bucket/r"));
    let doubt = |tries| Fact::RecordInDoubt { record: record(2, 1).reference(), reason: "timed out".into(), tries };
    facts.fold(&doubt(1), NOW);
    assert_eq!(said(&facts, "Checkpointed"), "True Completed");
    facts.fold(&doubt(2), NOW);
    assert_eq!(said(&facts, "Checkpointed"), "False StorageUnreachable");
    assert_eq!(said(&facts, "Ready"), "True Running");
    facts.fold(&Fact::Completed { record: record(2, 1), pause: None }, NOW);
    assert_eq!(said(&facts, "Checkpointed"), "True Completed");
}

/// What happens, and Ready, Reconciling and Stalled after it.
type Case = (&'static str, Facts, &'static str, &'static str, &'static str);

fn follow(cases: Vec<Case>) {
    for (name, facts, ready, reconciling, stalled) in cases {
        let found = [conditions::READY, conditions::RECONCILING, conditions::STALLED].map(|kind| said(&facts, kind));
        assert_eq!(found, [ready, reconciling, stalled].map(str::to_string), "{name}");
        let messages = [conditions::READY, conditions::RECONCILING].map(|kind| message(&facts, kind));
        assert_ne!(messages[0], messages[1], "{name}: one says what the other does");
    }
}

/// A job that runs well, and then this.
fn then(more: &[Fact]) -> Facts {
    fold(&[well(), more.to_vec()].concat())
}

fn change(mut facts: Facts, change: fn(&mut Facts)) -> Facts {
    change(&mut facts);
    facts
}

#[test]
fn conditions_follow_what_keeps_workers_from_coming() {
    let away = Fact::Storage { failure: Some("reading terms/0000000001/opening failed".to_string()) };
    let changing = Fact::ChangeWaits { generation: 2, reason: "no last checkpoint: no ack".to_string() };
    let newer: fn(&mut Facts) = |facts| facts.generation = 2;
    follow(vec![
        ("starting", fold(&[]), "False Starting", "True Starting", "False Fine"),
        ("no room", fold(&[waits(ObstacleKind::NoRoom)]), "False Unschedulable", "True Starting", "False Fine"),
        ("no image", fold(&[waits(ObstacleKind::Image)]), "False ImagePullFailed", "True Starting", "False Fine"),
        (
            "an init container that does not end",
            fold(&[waits(ObstacleKind::Initializing)]),
            "False WorkersWaiting",
            "True Starting",
            "False Fine",
        ),
        (
            "a limit",
            fold(&[waits(ObstacleKind::Refused)]),
            "False ObjectsRefused",
            "True Starting",
            "True ObjectsRefused",
        ),
        (
            "a lost worker that a quota does not let come back",
            then(&[lost(), waits(ObstacleKind::Quota)]),
            "False ObjectsRefused",
            "True Recovering",
            "True ObjectsRefused",
        ),
        (
            "a standby that a quota does not let come",
            then(&[waits(ObstacleKind::Quota)]),
            "True Running",
            "False Done",
            "False Fine",
        ),
        (
            "a newer spec that a quota has no room for",
            change(then(&[waits(ObstacleKind::Quota)]), newer),
            "False ObjectsRefused",
            "True Changing",
            "True ObjectsRefused",
        ),
        (
            "a newer spec that waits for a last checkpoint, and storage is away",
            change(then(&[changing, away]), newer),
            "False StorageUnreachable",
            "True Changing",
            "False Fine",
        ),
    ]);
}

#[test]
fn conditions_follow_what_befalls_a_job_that_runs() {
    let beside = |lasting: bool| Fact::Beside { trouble: Some(Trouble { lasting, reason: "logs has ended".into() }) };
    follow(vec![
        ("a dead sidecar", then(&[beside(true)]), "False SidecarsFail", "False Done", "True SidecarsFail"),
        ("a sidecar that is not ready", then(&[beside(false)]), "False WorkersWaiting", "False Done", "False Fine"),
        (
            "a sidecar that is well again",
            then(&[beside(true), Fact::Beside { trouble: None }]),
            "True Running",
            "False Done",
            "False Fine",
        ),
        ("running", fold(&well()), "True Running", "False Done", "False Fine"),
        ("a worker is lost", then(&[lost()]), "False Recovering", "True Recovering", "False Fine"),
        (
            "and the image of the next cannot be pulled",
            then(&[lost(), waits(ObstacleKind::Image)]),
            "False ImagePullFailed",
            "True Recovering",
            "False Fine",
        ),
        (
            "it comes back",
            then(&[lost(), opened(2, 2, Some(record(1, 1)), Why::Failure), running(2)]),
            "True Running",
            "False Done",
            "False Fine",
        ),
        (
            "it backs off",
            then(&[lost(), Fact::Restarting { after: Duration::from_secs(2), failures: 2 }]),
            "False BackingOff",
            "True BackingOff",
            "False Fine",
        ),
    ]);
}

#[test]
fn conditions_follow_the_spec_and_the_end() {
    follow(vec![
        (
            "a newer spec",
            change(then(&[]), |facts| facts.generation = 2),
            "False Changing",
            "True Changing",
            "False Fine",
        ),
        (
            "a newer spec, whose workers cannot be",
            change(then(&[waits(ObstacleKind::NoRoom)]), |facts| facts.generation = 2),
            "False Unschedulable",
            "True Changing",
            "False Fine",
        ),
        (
            "a newer spec that is wrong",
            change(then(&[]), |facts| {
                facts.generation = 2;
                facts.spec = Some(Problem::spec("no"));
            }),
            "False InvalidSpec",
            "False Done",
            "True InvalidSpec",
        ),
        (
            "a change that was refused",
            change(then(&[Fact::ChangeRefused { generation: 2, reason: "1:8: no column x".to_string() }]), |facts| {
                facts.generation = 2;
            }),
            "False ChangeRefused",
            "False Done",
            "True ChangeRefused",
        ),
        (
            "suspended",
            change(then(&[]), |facts| facts.ended_with(&Outcome::Stopped)),
            "False Suspended",
            "False Done",
            "False Fine",
        ),
        (
            "succeeded",
            change(then(&[]), |facts| facts.ended_with(&Outcome::Succeeded)),
            "True Succeeded",
            "False Done",
            "False Fine",
        ),
        (
            "given up",
            change(then(&[]), |facts| facts.ended_with(&Outcome::GivenUp("too often".to_string()))),
            "False GivenUp",
            "False Done",
            "True GivenUp",
        ),
        (
            "its supervisor panicked",
            change(then(&[]), |facts| facts.ended_with(&Outcome::Panicked("injected".to_string()))),
            "False SupervisorFailed",
            "False Done",
            "True SupervisorFailed",
        ),
        (
            "the storage is another's",
            change(then(&[]), |facts| {
                let refusal = Refusal::OwnedByAnother { owner: "o".to_string(), cluster: "c".to_string() };
                facts.ended_with(&Outcome::Refused(Some(refusal), "no".to_string()));
            }),
            "False StorageOwnedByAnother",
            "False Done",
            "True StorageOwnedByAnother",
        ),
        (
            "deleted",
            change(then(&[]), |facts| facts.deleting = Some("going".to_string())),
            "False Deleting",
            "True Deleting",
            "False Fine",
        ),
    ]);
}

#[test]
fn what_is_in_the_way_is_said_as_long_as_it_is() {
    let mut facts = fold(&[waits(ObstacleKind::NoRoom)]);
    assert!(facts.stands_still(), "nobody has work, and nothing comes");
    facts.fold(&Fact::WorkerWaits { process: ProcessNumber(1), obstacle: None }, NOW);
    assert_eq!(said(&facts, "Ready"), "False Starting", "it has a node, and pulls its image");
    assert!(!facts.stands_still());
    facts.fold(&waits(ObstacleKind::Quota), NOW);
    facts.fold(&workers(&["running", "running"]), NOW);
    assert_eq!(said(&facts, "Ready"), "False Starting", "it was called off");
    let mut facts = fold(&[well(), vec![waits(ObstacleKind::NoRoom)]].concat());
    assert!(!facts.stands_still(), "they work");
    facts.fold(&Fact::HandedOver, NOW);
    assert!(facts.stands_still());
}

#[test]
fn storage_that_does_not_answer_is_said_before_what_follows_from_it() {
    let away = || Fact::Storage { failure: Some("reading terms/0000000001/opening failed".to_string()) };
    let mut facts = fold(&[well(), vec![away(), aborted(5, true)]].concat());
    facts.latest = Some(latest(&record(1, 1), "s3://bucket/r"));
    assert_eq!(said(&facts, "Checkpointed"), "False StorageUnreachable");
    let text = message(&facts, "Checkpointed");
    assert!(text.contains("reading terms/0000000001/opening failed") && text.contains("5 checkpoints"), "{text}");
    facts.fold(&Fact::Storage { failure: None }, NOW);
    assert_eq!(said(&facts, "Checkpointed"), "False CheckpointsFail");
    // A new leader does not find it better than it is.
    let mut next = Facts::of(&facts.status(&[], at(0)), 1);
    next.fold(&opened(2, 1, Some(record(1, 1)), Why::Resume), NOW);
    assert_eq!((next.failed, said(&next, "Checkpointed").as_str()), (5, "False CheckpointsFail"));
    assert_eq!(message(&next, "Checkpointed"), message(&facts, "Checkpointed"));
}

#[test]
fn checkpointed_is_about_the_current_attempt_and_tolerable_failures() {
    let with_latest = |facts: Facts| Facts { latest: Some(latest(&record(1, 1), "s3://b/terms/1/1")), ..facts };
    let then = |more: &[Fact]| with_latest(fold(&[well(), more.to_vec()].concat()));
    for (name, facts, expected) in [
        ("before the first", fold(&well()[..3]), "False NoCheckpointYet"),
        ("after it", then(&[]), "True Completed"),
        ("some fail", then(&[aborted(1, false)]), "True Completed"),
        ("too many fail", then(&[aborted(4, true)]), "False CheckpointsFail"),
        (
            "one completes again",
            then(&[aborted(4, true), Fact::Completed { record: record(2, 1), pause: None }]),
            "True Completed",
        ),
        (
            "the next attempt has none",
            then(&[lost(), opened(2, 2, Some(record(1, 1)), Why::Failure)]),
            "False NoCheckpointYet",
        ),
        (
            "the attempt goes on under another controller",
            then(&[opened(2, 1, Some(record(1, 1)), Why::Resume)]),
            "True Completed",
        ),
    ] {
        assert_eq!(said(&facts, conditions::CHECKPOINTED), expected, "{name}");
    }
}

#[test]
fn the_time_of_a_condition_changes_only_with_its_status() {
    let first = fold(&well()).status(&[], at(0));
    let mut later = fold(&well());
    later.latest = Some(latest(&record(7, 1), "s3://b/7"));
    let second = later.status(&first.conditions, at(60));
    let third = fold(&[well(), vec![lost()]].concat()).status(&second.conditions, at(90));
    let time = |status: &StreamJobStatus, kind: &str| {
        status.conditions.iter().find(|condition| condition.type_ == kind).unwrap().last_transition_time.0
    };
    assert_eq!(time(&second, conditions::READY), at(0));
    assert_eq!(time(&second, conditions::CHECKPOINTED), at(60));
    assert_eq!(time(&third, conditions::READY), at(90));
    assert_eq!(time(&third, conditions::STALLED), at(0));
}

#[test]
fn a_new_leader_reads_back_what_it_needs() {
    let mut facts = fold(&well());
    facts.latest = Some(latest(&record(1, 1), "s3://b/1"));
    let status = facts.status(&[], at(0));
    let back = Facts::of(&status, 1);
    assert_eq!((back.attempt, back.term, back.latest.clone()), (facts.attempt, facts.term, facts.latest.clone()));
    assert!(back.in_attempt && !back.ended());
    facts.ended_with(&Outcome::Succeeded);
    assert!(Facts::of(&facts.status(&[], at(0)), 2).ended());
    facts.ended_with(&Outcome::GivenUp("x".to_string()));
    let failed = facts.status(&[], at(0));
    assert!(Facts::of(&failed, 1).ended());
    assert!(!Facts::of(&failed, 2).ended(), "another spec is tried");
    let message = |facts: &Facts| match &facts.run {
        Run::Failed(problem) => problem.message.clone(),
        run => panic!("{run:?}"),
    };
    assert!(message(&facts).starts_with("x; any change of the spec tries again"), "{}", message(&facts));
    assert_eq!(message(&Facts::of(&failed, 1)), message(&facts), "the remedy is told once");
}

#[test]
fn numbers_stand_where_people_look() {
    let mut facts = fold(&[well(), vec![workers(&["running", "running", "ready"])]].concat());
    facts.latest = Some(latest(&record(1, 1), "s3://b/1"));
    let status = facts.status(&[], at(0));
    assert_eq!(status.workers.as_deref(), Some("2/2+1"));
    assert_eq!(status.replicas, Some(2));
    assert_eq!(status.state_size.as_deref(), Some("3.0 MiB"));
    let shown = status.checkpoint.unwrap().latest.unwrap();
    assert_eq!(shown.completed_at, "2027-01-15T08:00:00.000Z");
}
