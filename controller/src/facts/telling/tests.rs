use std::sync::Arc;

use weir_protocol::{
    Attempt, CheckpointId, JobName, RecordNumber, Term, WorkerId,
    record::{Opening, RECORD_VERSION, Record, RecordRef, Restores},
};

use super::*;
use crate::{
    attempt::Failure,
    platform::{Obstacle, ObstacleKind, ProcessNumber, Trouble},
};

fn opening() -> Arc<Opening> {
    Arc::new(Opening {
        version: RECORD_VERSION,
        term: Term(1),
        attempt: Attempt(2),
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

fn record(is_final: bool) -> Arc<Record> {
    Arc::new(Record {
        version: RECORD_VERSION,
        id: CheckpointId(7),
        term: Term(1),
        number: RecordNumber(7),
        attempt: Attempt(2),
        job: JobName { namespace: "air".to_string(), name: "flights".to_string() },
        is_final,
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

fn reference() -> RecordRef {
    RecordRef { id: CheckpointId(7), term: Term(1), number: RecordNumber(7) }
}

fn failure(kind: FailureKind, operator: &str) -> Failure {
    let (worker, message) = (WorkerId("w".to_string()), "it broke".to_string());
    Failure { worker, attempt: Attempt(2), operator: operator.to_string(), subtask: 1, kind, message }
}

fn waits(kind: ObstacleKind) -> Fact {
    let obstacle = Some(Obstacle { kind, reason: "pull of 10.0.0.1".to_string() });
    Fact::WorkerWaits { process: ProcessNumber(1), obstacle }
}

fn aborted(failed: u32, beyond_tolerable: bool) -> Fact {
    Fact::Aborted { id: CheckpointId(7), reason: "late".to_string(), failed, beyond_tolerable }
}

fn opened(restored: bool, why: Why) -> Fact {
    Fact::TermOpened { opening: opening(), restored: restored.then(|| record(false)), why }
}

fn text(text: &str) -> String {
    text.to_string()
}

/// Each fact, and its row in one line: `weight line | reason: note <cause> | program`, with a dash for what is not told.
#[rustfmt::skip]
fn table() -> Vec<(Fact, &'static str)> {
    let lasting = |lasting: bool| Fact::Beside { trouble: Some(Trouble { lasting, reason: text("side died") }) };
    let lost = |position| Fact::WorkerLost { worker: WorkerId(text("w")), name: text("worker 1"), cause: text("kill 9"), position };
    let doubt = |tries| Fact::RecordInDoubt { record: reference(), reason: text("503"), tries };
    let planned = |warnings: &[&str]| Fact::Planned { generation: 3, fingerprint: text("f"), warnings: warnings.iter().map(|w| text(w)).collect() };
    let taken = Last::Taken { record: reference(), committed: true };
    vec![
        (Fact::Workers(Vec::new()), "- | - | -"),
        (waits(ObstacleKind::Image), "Bad worker 1 waits: pull of 10.0.0.1 | !WorkerWaits: a worker does not come up: pull of 10.0.0.1 <pull of #.#.#.#> | -"),
        (waits(ObstacleKind::Initializing), "Bad worker 1 waits: pull of 10.0.0.1 | - | -"),
        (Fact::WorkerWaits { process: ProcessNumber(1), obstacle: None }, "- | - | -"),
        (Fact::WorkerLeaves { name: text("worker 1"), reason: text("drain of n1") }, "Change worker 1 is to go (drain of n1); its place is handed over | WorkerLeaves: worker 1 is to go (drain of n1); its place is handed over <drain of n#> | -"),
        (lost(Some(0)), "Bad worker 1 lost: kill 9 | !WorkerLost: worker 1 was lost: kill 9 <worker 1> | workerLost"),
        (lost(None), "Bad worker 1 lost: kill 9 | !WorkerLost: worker 1 was lost: kill 9 <worker 1> | workerLost"),
        (Fact::WorkerEnded { name: text("worker 1"), how: text("code 3") }, "Bad worker 1 has ended: code 3 | !WorkerLost: worker 1 has ended: code 3 <the end of worker 1> | -"),
        (Fact::StartFailed { reason: text("no pods") }, "Bad a worker did not start: no pods | !WorkerStartFailed: a worker did not start: no pods <a worker did not start: no pods> | -"),
        (lasting(true), "Bad side died | !SidecarsFail: side died <side died> | -"),
        (lasting(false), "Bad side died | - | -"),
        (Fact::Beside { trouble: None }, "Good what stands beside the workers runs as it should | - | -"),
        (Fact::Printed { process: ProcessNumber(1), line: text("+I[1]") }, "- | - | -"),
        (opened(true, Why::Start), "Change restored from checkpoint 7 with 3.0 MiB of state | - | -"),
        (opened(true, Why::Resume), "Change resumed after checkpoint 7 with 3.0 MiB of state | - | -"),
        (opened(true, Why::Failure), "Change rolled back to checkpoint 7 with 3.0 MiB of state | - | -"),
        (opened(true, Why::Change), "Change going on from checkpoint 7 with 3.0 MiB of state | - | -"),
        (opened(false, Why::Start), "- | - | -"),
        (Fact::TakeOverFailed { reason: text("503") }, "Bad storage does not answer, trying again: 503 | !StorageUnreachable: storage does not answer, tried again: 503 <storage does not answer, tried again: #> | -"),
        (Fact::Deploying { attempt: Attempt(2), workers: 2, slots: 1 }, "Change attempt 2: 2 workers with 1 slots each | - | deploying"),
        (Fact::Running { attempt: Attempt(2), generation: None, resumed: true, recovery: None }, "Good running on | - | running"),
        (Fact::Running { attempt: Attempt(2), generation: Some(1), resumed: false, recovery: None }, "Good running | - | running"),
        (Fact::FirstOutput(Breakdown::new("start")), "- | - | firstOutput"),
        (Fact::TaskFailed(failure(FailureKind::Plan, "")), "Bad failed: it broke | !TaskFailed: attempt 2: it broke <it broke> | taskFailed"),
        (Fact::TaskFailed(failure(FailureKind::OutputLost, "sink")), "Bad failed: sink, subtask 1: it broke | !OutputLost: attempt 2: sink, subtask 1: it broke <sink, subtask #: it broke> | taskFailed"),
        (Fact::Restarting { after: Duration::ZERO, failures: 0 }, "- | - | -"),
        (Fact::Restarting { after: Duration::from_secs(2), failures: 3 }, "Change restarting in 2.0 s (failure 3 in a row) | BackingOff: failure 3 in a row; the next attempt begins in 2.0 s <the restart policy> | -"),
        (Fact::Completed { record: record(false), pause: None }, "Routine checkpoint 7 in 180 ms: state 3.0 MiB, uploaded 100 B | Checkpointed: checkpoint 7 in 180 ms: state 3.0 MiB <the first of an attempt> | checkpoint"),
        (Fact::Completed { record: record(true), pause: None }, "Routine checkpoint 7 in 180 ms: state 3.0 MiB, uploaded 100 B, the last one | Checkpointed: checkpoint 7 in 180 ms: state 3.0 MiB <the first of an attempt> | checkpoint"),
        (Fact::Requested { value: text("v2"), id: CheckpointId(7), failure: None }, "Good checkpoint 7, which was asked for, is complete | Checkpointed: checkpoint 7 is complete, as \"v2\" has asked <v2> | requested"),
        (Fact::Requested { value: text("v2"), id: CheckpointId(7), failure: Some(text("late")) }, "Bad checkpoint 7, which was asked for, has failed: late | !CheckpointFailed: checkpoint 7, for which \"v2\" has asked, failed: late <v2> | requested"),
        (aborted(2, false), "Bad checkpoint 7 aborted: late | !CheckpointFailed: checkpoint 7 failed (2 in a row): late <late> | aborted"),
        (aborted(3, true), "Bad checkpoint 7 aborted: late; more than tolerableFailures | - | aborted"),
        (doubt(1), "Bad whether checkpoint 7 is complete is not known yet (try 1): 503 | - | -"),
        (doubt(2), "Bad whether checkpoint 7 is complete is not known yet (try 2): 503 | !StorageUnreachable: storage does not answer, tried again: 503 <storage does not answer, tried again: #> | -"),
        (Fact::Storage { failure: Some(text("503")) }, "Bad storage does not answer: 503 | !StorageUnreachable: storage does not answer, tried again: 503 <storage does not answer, tried again: #> | -"),
        (Fact::Storage { failure: None }, "Good storage answers again | - | -"),
        (Fact::Committed { id: CheckpointId(7) }, "- | - | committed"),
        (Fact::Publishing { failure: Some(text("full")) }, "Bad output waits to be published: full | !OutputUnpublished: the output of complete checkpoints cannot be published, tried again: full <the output of complete checkpoints cannot be published, tried again: full> | -"),
        (Fact::Publishing { failure: None }, "Good output is published again | OutputPublished: output is published again <output is published again> | -"),
        (Fact::HeldBack { waiting: Some(9) }, "Bad 9 files or objects of a worker wait to be published: sources are held back | !OutputHeldBack: 9 files or objects of a worker wait to be published: sources are held back <# files or objects of a worker wait to be published: sources are held back> | -"),
        (Fact::HeldBack { waiting: None }, "Good sources read on | OutputPublished: sources read on <sources read on> | -"),
        (planned(&[]), "- | - | -"),
        (planned(&["state grows", "no key"]), "Bad warning: state grows; no key | !1PlanWarning: state grows; no key <3> | -"),
        (Fact::ChangeWaits { generation: 3, reason: text("for workers") }, "Change the change waits: for workers | - | -"),
        (Fact::HandingOver { generation: 3 }, "Change handing over: a last checkpoint, then the next attempt | Changing: a last checkpoint is taken, then the next attempt begins <3> | -"),
        (Fact::HandedOver, "- | - | -"),
        (Fact::ChangeApplied { generation: 3 }, "Change the change holds, without a new attempt | Changed: generation 3 holds, without a new attempt <3> | -"),
        (Fact::ChangeRefused { generation: 3, reason: text("no such column") }, "Bad the change is refused: no such column | !ChangeRefused: generation 3 is refused, the last good version runs on: no such column <3> | -"),
        (Fact::Stopping { why: text("Ctrl-C"), last_checkpoint: true }, "Change Ctrl-C: a last checkpoint, then an end | Stopping: Ctrl-C: a last checkpoint, then an end <Ctrl-C: a last checkpoint, then an end> | -"),
        (Fact::Stopping { why: text("Ctrl-C"), last_checkpoint: false }, "Change Ctrl-C: an end | Stopping: Ctrl-C: an end <Ctrl-C: an end> | -"),
        (Fact::Killed, "Bad stopping at once; the next run goes on from the newest checkpoint | - | -"),
        (Fact::Ended(End::Succeeded(reference())), "Good finished: all input is read, all output up to checkpoint 7 is published | Succeeded: finished: all output up to checkpoint 7 is published <finished: all output up to checkpoint # is published> | -"),
        (Fact::Ended(End::Stopped(Some(taken))), "Good stopped; running again goes on from checkpoint 7 | Suspended: all workers are stopped <all workers are stopped> | -"),
        (Fact::Ended(End::Stopped(None)), "- | Suspended: all workers are stopped <all workers are stopped> | -"),
        (Fact::Ended(End::Failed { failure: None, reason: text("too often") }), "- | !Failed: too often <too often> | -"),
        (Fact::Ended(End::Refused { reason: text("another's") }), "- | !Stalled: another's <another's> | -"),
        (Fact::Ended(End::Superseded { by: None }), "- | !Stalled: another coordinator coordinates the job now <another coordinator coordinates the job now> | -"),
        (Fact::Ended(End::Superseded { by: Some(text("b")) }), "- | !Stalled: b coordinates the job now <b coordinates the job now> | -"),
    ]
}

fn row(telling: &Telling) -> String {
    let dash = || "-".to_string();
    let line = telling.line.as_ref().map_or_else(dash, |(weight, line)| format!("{weight:?} {line}"));
    let event = telling.event.as_ref().map_or_else(dash, |told| {
        let (warning, once) = (if told.warning { "!" } else { "" }, if told.once { "1" } else { "" });
        format!("{warning}{once}{}: {} <{}>", told.reason, told.note, told.cause)
    });
    let program = telling.program.as_ref().map_or_else(dash, |(name, _)| (*name).to_string());
    format!("{line} | {event} | {program}")
}

#[test]
fn each_fact_is_told_in_these_words() {
    for (fact, expected) in table() {
        assert_eq!(row(&fact.telling()), expected, "{fact:?}");
    }
}

#[test]
fn programs_are_told_numbers_and_not_words() {
    let program = |fact: &Fact| fact.telling().program.map(|(_, facts)| facts);
    let completed = Fact::Completed { record: record(true), pause: Some(Duration::from_micros(1500)) };
    let facts = json!({"id": 7, "attempt": 2, "durationMs": 180, "stateBytes": 3 << 20, "uploadedBytes": 100, "pauseUs": 1500,
        "final": true});
    assert_eq!(program(&completed), Some(facts));
    assert_eq!(program(&aborted(3, false)), Some(json!({"id": 7, "reason": "late", "failed": 3})));
    let failed = Fact::TaskFailed(failure(FailureKind::OutputLost, "sink"));
    let facts =
        json!({"kind": FailureKind::OutputLost.as_str(), "operator": "sink", "subtask": 1, "message": "it broke"});
    assert_eq!(program(&failed), Some(facts));
}

#[test]
fn a_recovery_is_told_in_full_once_it_is_over() {
    let mut recovery = Breakdown::new("worker");
    recovery.deploying(2);
    recovery.running();
    assert!(recovery.first_output(2, Duration::from_millis(5)));
    let line = |fact: Fact| fact.telling().line.map(|(weight, line)| format!("{weight:?} {line}")).unwrap_or_default();
    let running =
        Fact::Running { attempt: Attempt(2), generation: None, resumed: false, recovery: Some(recovery.clone()) };
    assert!(line(running).starts_with("Good running again after "));
    assert!(line(Fact::FirstOutput(recovery)).ends_with(" after the failure was seen"));
}
