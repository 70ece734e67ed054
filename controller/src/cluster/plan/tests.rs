use super::*;
use crate::cluster::validate::{tests::resource, validate};

/// A job with this below `spec`, at this generation.
fn wanted(extra: &str, generation: i64) -> ValidJob {
    let mut resource = resource(extra);
    resource.metadata.generation = Some(generation);
    validate(&resource, "weir/worker:2", &[]).unwrap()
}

fn accepted(job: &ValidJob) -> Accepted {
    Accepted {
        generation: job.generation,
        spec: job.spec.clone(),
        image: "weir/worker:1".to_string(),
        restored_from: None,
    }
}

fn nothing() -> There<'static> {
    There {
        supervisor: Supervisor::None,
        accepted: None,
        pods: false,
        ended: false,
        refused: false,
        unfit: false,
        stuck: None,
        restored_from: None,
    }
}

fn runs(job: &ValidJob) -> There<'_> {
    There { supervisor: Supervisor::Runs { job: &job.job, generation: job.generation }, ..nothing() }
}

#[test]
fn a_running_job_is_changed_by_as_little_as_will_do() {
    let plain = wanted("", 1);
    let cases = [
        ("nothing changed", wanted("", 1), Step::Rest),
        ("more workers", wanted("  workers: {replicas: 3}\n", 2), Step::Change { empty: false }),
        ("more slots", wanted("  workers: {slots: 3}\n", 2), Step::Change { empty: false }),
        ("a restart policy", wanted("  restart: {maxFailures: 3}\n", 2), Step::Configure),
        ("a label of the resource", wanted("", 2), Step::Configure),
        (
            "suspended",
            wanted("  suspend: true\n", 2),
            Step::Stop { last_checkpoint: true, why: "spec.suspend is true" },
        ),
        (
            "another checkpoint",
            wanted("  restoreFrom: {record: terms/1/1}\n", 2),
            Step::Stop { last_checkpoint: false, why: "spec.restoreFrom names another checkpoint" },
        ),
        (
            "stateless, of another size",
            wanted("  workers: {replicas: 3}\n  upgrade: {mode: Stateless}\n", 2),
            Step::Change { empty: false },
        ),
        (
            "stateless, another backend",
            wanted("  state: {backend: memory}\n  upgrade: {mode: Stateless}\n", 2),
            Step::Change { empty: true },
        ),
    ];
    let took_up = accepted(&plain);
    for (name, wanted, expected) in cases {
        assert_eq!(decide(&wanted, &There { accepted: Some(&took_up), ..runs(&plain) }), expected, "{name}");
    }
}

#[test]
fn a_wish_acts_once_wherever_it_is_written_down() {
    let plain = wanted("", 1);
    let wish = wanted("  restoreFrom: {record: terms/1/1}\n", 2);
    let done = There { restored_from: Some("terms/1/1"), ..runs(&plain) };
    assert_eq!(decide(&wish, &done), Step::Configure);
    let kept = Accepted { restored_from: Some("terms/1/1".to_string()), ..accepted(&plain) };
    assert_eq!(decide(&wish, &There { accepted: Some(&kept), ..runs(&plain) }), Step::Configure);
    assert_eq!(decide(&wish, &nothing()), Step::Start(Begin::Wish("terms/1/1".to_string())));
}

#[test]
fn a_new_leader_finishes_what_the_last_one_began() {
    let plain = wanted("", 1);
    let took_up = accepted(&plain);
    let with_pods = There { accepted: Some(&took_up), pods: true, ..nothing() };
    let without = There { accepted: Some(&took_up), ..nothing() };
    let unknown = There { pods: true, ..nothing() };
    let stateless = wanted("  state: {backend: memory}\n  upgrade: {mode: Stateless}\n", 2);
    let wish = wanted("  restoreFrom: {record: terms/1/1}\n", 2);
    let cases = [
        ("it runs", &plain, &with_pods, Step::Start(Begin::Newest)),
        ("it runs, and another is wanted", &wanted("  workers: {replicas: 3}\n", 2), &with_pods, Step::StartAccepted),
        ("it is stopped for another", &wanted("  workers: {replicas: 3}\n", 2), &without, Step::Start(Begin::Newest)),
        ("it is stopped for a stateless one", &stateless, &without, Step::Start(Begin::Nothing)),
        ("it runs, and a stateless one is wanted", &stateless, &with_pods, Step::StartAccepted),
        ("it is stopped for another checkpoint", &wish, &without, Step::Start(Begin::Wish("terms/1/1".to_string()))),
        ("it runs, and another checkpoint is wished for", &wish, &with_pods, Step::StartAccepted),
        ("what runs is nobody's, and a checkpoint is wished for", &wish, &unknown, Step::Clear),
        ("it is to be suspended", &wanted("  suspend: true\n", 2), &with_pods, Step::StartAccepted),
        ("it is suspended", &wanted("  suspend: true\n", 2), &without, Step::Rest),
        ("it has never run", &plain, &nothing(), Step::Start(Begin::Newest)),
    ];
    for (name, wanted, there, expected) in cases {
        assert_eq!(decide(wanted, there), expected, "{name}");
    }
}

#[test]
fn what_ended_or_cannot_run_rests_until_the_spec_changes() {
    let plain = wanted("", 1);
    let took_up = accepted(&plain);
    let ended = There { accepted: Some(&took_up), ended: true, ..nothing() };
    assert_eq!(decide(&plain, &ended), Step::Rest);
    assert_eq!(decide(&plain, &There { pods: true, ..ended.clone() }), Step::Clear);
    assert_eq!(decide(&wanted("  workers: {slots: 2}\n", 2), &ended), Step::Start(Begin::Newest));
    let refused = There { refused: true, ..ended.clone() };
    assert_eq!(
        decide(&wanted("  workers: {slots: 2}\n", 2), &refused),
        Step::Rest,
        "what ran has ended, and that is all"
    );
    let stuck = There { stuck: Some(1), ..nothing() };
    assert_eq!(decide(&plain, &stuck), Step::Rest);
    assert_eq!(decide(&wanted("", 2), &stuck), Step::Start(Begin::Newest));
    assert_eq!(decide(&plain, &There { supervisor: Supervisor::Ending, ..nothing() }), Step::Rest);
}

#[test]
fn a_newer_default_image_restarts_no_worker() {
    let plain = wanted("", 1);
    let took_up = accepted(&plain);
    assert_eq!(settled_image(&plain, None), "weir/worker:2");
    assert_eq!(settled_image(&plain, Some(&took_up)), "weir/worker:1");
    assert_eq!(settled_image(&wanted("  restart: {maxFailures: 3}\n", 2), Some(&took_up)), "weir/worker:1");
    assert_eq!(settled_image(&wanted("  workers: {slots: 2}\n", 2), Some(&took_up)), "weir/worker:2");
    assert_eq!(settled_image(&wanted("  workers: {image: mine}\n", 2), Some(&took_up)), "mine");
}

#[test]
fn a_stateless_upgrade_leaves_behind_what_did_not_fit_even_where_nothing_was_taken_up_here() {
    let stateless = wanted("  upgrade: {mode: Stateless}\n", 2);
    let unfit = There { unfit: true, stuck: Some(1), ..nothing() };
    assert_eq!(decide(&stateless, &unfit), Step::Start(Begin::Nothing));
    assert_eq!(decide(&wanted("", 2), &unfit), Step::Start(Begin::Newest));
    assert_eq!(decide(&stateless, &nothing()), Step::Start(Begin::Newest), "applied again, it goes on");
    let from_the_start = There { stuck: Some(2), ..unfit.clone() };
    assert_eq!(decide(&stateless, &from_the_start), Step::Start(Begin::Nothing), "it says already what is to be done");
    let took_up = accepted(&stateless);
    let ran = There { accepted: Some(&took_up), ..from_the_start };
    assert_eq!(decide(&stateless, &ran), Step::Rest, "what has run is not left behind without another word");
}
