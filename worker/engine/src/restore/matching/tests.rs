//! Statements that are exchanged, edited, added and removed over what another plan has stored.

use weir_protocol::{
    Attempt, CheckpointId, JobName, RecordNumber, SubtaskIndex, Term, WorkerId,
    part::{OperatorPart, PART_VERSION, SubtaskPart},
    record::RECORD_VERSION,
    settings::FailureKind,
};
use weir_state::{RowLayout, TableKind};

use super::*;
use crate::{Operator, OperatorContext, OperatorError, OperatorFactory, StageId, testing};

const MAX: u32 = 8;

/// An operator that is never made.
struct Described(Vec<TableShape>);

impl OperatorFactory for Described {
    fn create(&self, _ctx: &OperatorContext) -> Result<Box<dyn Operator>, OperatorError> {
        Err(OperatorError::operator("never runs"))
    }

    fn tables(&self) -> Vec<TableShape> {
        self.0.clone()
    }
}

fn table(key: &str, row: &str) -> TableShape {
    TableShape {
        name: "groups".into(),
        kind: TableKind::Table,
        key: vec![key.into()],
        row: vec![row.into()],
        layout: RowLayout::Fixed(9),
        codec: "accumulators/1",
    }
}

/// `INSERT INTO sink SELECT … FROM source WHERE <filter> GROUP BY <key>`, one a line.
struct Statement {
    key: &'static str,
    filter: &'static str,
    tables: Vec<TableShape>,
}

fn by(key: &'static str, filter: &'static str) -> Statement {
    Statement { key, filter, tables: vec![table("INT", "COUNT")] }
}

#[derive(Default)]
struct Numbers(BTreeMap<String, u32>);

impl Numbers {
    fn next(&mut self, family: &str) -> (String, u32) {
        let ordinal = *self.0.entry(family.to_string()).and_modify(|ordinal| *ordinal += 1).or_default();
        (if ordinal == 0 { family.to_string() } else { format!("{family}-{}", ordinal + 1) }, ordinal)
    }
}

/// The plan of these, as the SQL planner numbers it; identities of the build before had `old-` in front.
fn plan(fingerprint: &str, statements: &[Statement]) -> JobGraph {
    let one = testing::counting_graph(1, 1);
    let (mut now, mut before) = (Numbers::default(), Numbers::default());
    let mut graph = JobGraph { stages: Vec::new(), fingerprint: fingerprint.into(), ..one.clone() };
    for (line, Statement { key, filter, tables }) in statements.iter().enumerate() {
        let mut kin = |family: &str| {
            let (identity, ordinal) = now.next(family);
            let kin = Kin {
                family: family.to_string(),
                ordinal,
                statement: format!("by {key}"),
                discriminator: (*filter).to_string(),
                line: Some(line as u64 + 1),
                aliases: vec![before.next(&format!("old-{family}")).0],
                rows_under: String::new(),
            };
            (identity, kin)
        };
        for mut stage in one.stages.clone() {
            stage.id = StageId(graph.stages.len() as u32);
            match &mut stage.head {
                StageHead::Source(node) => {
                    (node.identity, node.kin) = kin("source-0000000000000000");
                    stage.identity = format!("stage of {}", node.identity);
                    stage.aliases = vec![format!("old stage of {}", node.identity)];
                }
                StageHead::Inputs(edges) => edges[0].from = StageId(stage.id.0 - 1),
            }
            for node in &mut stage.operators {
                (node.identity, node.kin) = kin(&format!("count-{key}"));
                node.name = format!("Count(by {key})");
                node.factory = std::sync::Arc::new(Described(tables.clone()));
                stage.identity = format!("stage of {}", node.identity);
                stage.aliases = vec![format!("old stage of {}", node.identity)];
            }
            if let Some(node) = &mut stage.sink {
                (node.identity, node.kin) = kin("sink-0000000000000000");
                node.kin.aliases.clear();
            }
            graph.stages.push(stage);
        }
    }
    graph
}

fn record(graph: &JobGraph) -> Record {
    Record {
        version: RECORD_VERSION,
        id: CheckpointId(5),
        term: Term(1),
        number: RecordNumber(3),
        attempt: Attempt(1),
        job: JobName { namespace: "default".into(), name: "job".into() },
        is_final: false,
        parallelism: 1,
        max_parallelism: MAX,
        fingerprint: graph.fingerprint.clone(),
        parts: Vec::new(),
        completed_at_ms: 0,
        duration_ms: 0,
        state_bytes: 0,
        uploaded_bytes: 0,
    }
}

/// The one part that a worker with this plan writes.
fn part(graph: &JobGraph) -> Part {
    let entry = |operator: &str| OperatorPart::new(operator);
    let subtask = |stage: &Stage| SubtaskPart {
        stage: stage.identity.clone(),
        subtask: SubtaskIndex(0),
        finished: false,
        watermark_ms: None,
        keyed: None,
        operators: crate::restore::deal::keepers(stage).map(entry).collect(),
        channel_state: Vec::new(),
    };
    Part {
        version: PART_VERSION,
        id: CheckpointId(5),
        attempt: Attempt(1),
        worker: WorkerId("w".into()),
        script: graph.script.clone(),
        keepers: describe(graph),
        subtasks: graph.stages.iter().map(subtask).collect(),
    }
}

const NONE: Permissions = Permissions { allow_new_state: false, allow_dropped_state: false };
const NEW: Permissions = Permissions { allow_new_state: true, allow_dropped_state: false };
const DROPPED: Permissions = Permissions { allow_new_state: false, allow_dropped_state: true };

/// The lines of the statements in the old plan whose counts and positions those of the new one go on with; 0 is a new start.
fn restored(new: &JobGraph, old: &JobGraph, permissions: Permissions) -> Result<Vec<(u64, u64)>, Failure> {
    let matched = fit(new, MAX, permissions, &record(old), &[part(old)])?;
    let lines: BTreeMap<String, u64> =
        describe(old).into_iter().map(|keeper| (keeper.operator, keeper.line.unwrap())).collect();
    let line = |identity: &str| matched.of(identity).map_or(0, |found| lines[&found.operator]);
    Ok(new
        .stages
        .chunks(2)
        .map(|statement| {
            let StageHead::Source(source) = &statement[0].head else { panic!("a source comes first") };
            (line(&source.identity), line(&statement[1].operators[0].identity))
        })
        .collect())
}

#[test]
fn statements_that_change_places_keep_their_own_state() {
    let old = plan("old", &[by("k", "a = 1"), by("k", "a = 2")]);
    let new = plan("new", &[by("k", "a = 2"), by("k", "a = 1")]);
    assert_eq!(restored(&new, &old, NONE), Ok(vec![(2, 2), (1, 1)]));
    // Rows go on to stand where they were first written, and the next checkpoint says so.
    let mut settled = new.clone();
    let matched = fit(&new, MAX, NONE, &record(&old), &[part(&old)]).unwrap();
    matched.settle(&mut settled, PART_VERSION);
    let under = |graph: &JobGraph| {
        let keepers = describe(graph).into_iter().filter(|keeper| keeper.role == Role::Operator);
        keepers.map(|keeper| (keeper.operator, keeper.rows_under)).collect::<Vec<_>>()
    };
    let swapped = vec![("count-k".into(), "count-k-2".into()), ("count-k-2".into(), "count-k".into())];
    assert_eq!(under(&settled), swapped);
    let mut again = new.clone();
    fit(&new, MAX, NONE, &record(&new), &[part(&settled)]).unwrap().settle(&mut again, PART_VERSION);
    assert_eq!(under(&again), swapped, "after a crash");
    assert!(!fits_version_1(&settled), "version 1 would exchange them");
    assert!(fits_version_1(&new));
}

#[test]
fn the_plan_that_took_the_checkpoint_is_restored_by_order_whatever_its_statements_look_like() {
    let twice = || plan("same", &[by("k", ""), by("k", "")]);
    assert_eq!(restored(&twice(), &twice(), NONE), Ok(vec![(1, 1), (2, 2)]));
    // Another planner of the same script.
    let (mut old, mut new) = (twice(), plan("another", &[by("k", "a = 1"), by("k", "a = 2")]));
    (old.script, new.script) = ("script".into(), "script".into());
    assert_eq!(restored(&new, &old, NONE), Ok(vec![(1, 1), (2, 2)]));
}

#[test]
fn statements_that_are_the_same_in_all_are_interchangeable_while_none_is_missing() {
    let old = plan("old", &[by("k", "a = 1"), by("k", "a = 1"), by("j", "")]);
    let new = plan("new", &[by("j", ""), by("k", "a = 1"), by("k", "a = 1")]);
    assert_eq!(restored(&new, &old, NONE), Ok(vec![(3, 3), (1, 1), (2, 2)]));
    let fewer = plan("new", &[by("j", ""), by("k", "a = 1")]);
    let failure = restored(&fewer, &old, DROPPED).unwrap_err();
    assert!(failure.message.contains("cannot be told"), "{failure}");
}

#[test]
fn one_edited_filter_leaves_the_other_where_it_is_and_two_are_refused_by_name_and_line() {
    let old = plan("old", &[by("k", "a = 1"), by("k", "a = 2")]);
    let one = plan("new", &[by("k", "a = 2"), by("k", "a = 3")]);
    assert_eq!(restored(&one, &old, NONE), Ok(vec![(2, 2), (1, 1)]));
    let alone = restored(&plan("new", &[by("k", "a = 3")]), &plan("old", &[by("k", "a = 1")]), NONE);
    assert_eq!(alone, Ok(vec![(1, 1)]));

    let two = plan("new", &[by("k", "a = 3"), by("k", "a = 4")]);
    let failure = restored(&two, &old, NONE).unwrap_err();
    assert_eq!((failure.kind, failure.operator.as_str()), (FailureKind::StateMismatch, "Count(by k)"));
    for part in [
        "`Count(by k)` (line 1) with WHERE a = 1 and `Count(by k)` (line 2) with WHERE a = 2",
        "the plan has `Count(by k)` (line 1) with WHERE a = 3 and `Count(by k)` (line 2) with WHERE a = 4",
        "one of the statements at a time",
    ] {
        assert!(failure.message.contains(part), "{failure}");
    }
}

#[test]
fn what_is_new_or_gone_is_refused_by_name_until_it_is_allowed() {
    let one = plan("one", &[by("k", "")]);
    let two = plan("two", &[by("k", ""), by("j", "")]);

    let failure = restored(&two, &one, DROPPED).unwrap_err();
    assert_eq!(failure.kind, FailureKind::StateMismatch);
    for part in ["`Count(by j)` (line 2)", "are in the plan and have no state", "set spec.upgrade.allowNewState: true"]
    {
        assert!(failure.message.contains(part), "{failure}");
    }
    assert_eq!(restored(&two, &one, NEW), Ok(vec![(1, 1), (0, 0)]));

    let failure = restored(&one, &two, NEW).unwrap_err();
    for part in ["`Count(by j)` (line 2)", "not in the plan any more", "spec.upgrade.allowDroppedState: true"] {
        assert!(failure.message.contains(part), "{failure}");
    }
    assert_eq!(restored(&one, &two, DROPPED), Ok(vec![(1, 1)]));

    let other = plan("other", &[by("j", "")]);
    let failure = restored(&other, &one, NEW).unwrap_err();
    assert!(failure.message.contains("`Count(by k)` (line 1) has state"), "{failure}");
    let both = Permissions { allow_new_state: true, allow_dropped_state: true };
    assert_eq!(restored(&other, &one, both), Ok(vec![(1, 0)]));
}

#[test]
fn another_name_than_the_state_that_stays_is_given_to_what_starts_anew() {
    let old = plan("old", &[by("k", "a = 1")]);
    let new = plan("new", &[by("k", "a = 2"), by("k", "a = 1")]);
    assert_eq!(restored(&new, &old, NEW), Ok(vec![(0, 0), (1, 1)]));
    let mut settled = new.clone();
    fit(&new, MAX, NEW, &record(&old), &[part(&old)]).unwrap().settle(&mut settled, PART_VERSION);
    let under: Vec<String> = describe(&settled)
        .into_iter()
        .filter(|keeper| keeper.role == Role::Operator)
        .map(|keeper| keeper.rows_under)
        .collect();
    assert_eq!(under, ["count-k+", "count-k"]);
}

#[test]
fn a_type_that_has_changed_is_refused_with_operator_table_and_both_types() {
    let old = plan("old", &[by("k", "")]);
    let changed = |shape: TableShape| plan("new", &[Statement { tables: vec![shape], ..by("k", "") }]);
    let cases = [
        (table("BIGINT", "COUNT"), "its table `groups` has the key (INT) in the checkpoint and (BIGINT) in the plan"),
        (table("INT", "SUM INT"), "its table `groups` has the row (COUNT) in the checkpoint and (SUM INT) in the plan"),
        (
            TableShape { kind: TableKind::Slices, ..table("INT", "COUNT") },
            "the form of a table in the checkpoint and of slices of time in the plan",
        ),
        (
            TableShape { layout: RowLayout::Variable, ..table("INT", "COUNT") },
            "rows of 9 bytes in the checkpoint and rows of any length in the plan",
        ),
        (
            TableShape { codec: "accumulators/2", ..table("INT", "COUNT") },
            "written as accumulators/1 in the checkpoint and as accumulators/2 in the plan",
        ),
        (
            TableShape { name: "others".into(), ..table("INT", "COUNT") },
            "its table `groups` is in the checkpoint and not in the plan",
        ),
    ];
    for (shape, expected) in cases {
        let failure = restored(&changed(shape), &old, NONE).unwrap_err();
        assert_eq!((failure.kind, failure.operator.as_str()), (FailureKind::StateMismatch, "Count(by k)"));
        assert!(failure.message.contains("`Count(by k)` (line 1)"), "{failure}");
        assert!(failure.message.contains(expected), "{failure}");
    }
    assert_eq!(restored(&changed(table("INT", "COUNT")), &old, NONE), Ok(vec![(1, 1)]));
}

#[test]
fn what_version_1_stored_is_found_by_the_names_of_the_build_before() {
    let old = plan("old", &[by("k", "a = 1"), by("k", "a = 2")]);
    let mut before = old.clone();
    Matched::default().settle(&mut before, 1);
    let part = part(&before).into_version_1(&called_before(&before));
    assert!(part.keepers.is_empty());
    assert_eq!(part.subtasks[1].operators[0].operator, "old-count-k");
    assert_eq!(part.subtasks[3].stage, "old stage of count-k-2");

    // The same script under this build: its fingerprint is another, and the order is all that there is to go by.
    let new = plan("new", &[by("k", "a = 1"), by("k", "a = 2")]);
    let matched = fit(&new, MAX, NONE, &record(&old), std::slice::from_ref(&part)).unwrap();
    let found = |identity: &str| matched.of(identity).map(|found| (found.operator.as_str(), found.stage.as_str()));
    assert_eq!(found("count-k"), Some(("old-count-k", "old stage of count-k")));
    assert_eq!(found("count-k-2"), Some(("old-count-k-2", "old stage of count-k-2")));
    assert_eq!(found("source-0000000000000000-2").map(|found| found.0), Some("old-source-0000000000000000-2"));
    assert_eq!(found("sink-0000000000000000").map(|found| found.0), Some("sink-0000000000000000"));

    // With one of them gone nothing says which.
    let fewer = plan("new", &[by("k", "a = 2")]);
    let failure = fit(&fewer, MAX, DROPPED, &record(&old), &[part]).unwrap_err();
    assert!(failure.message.contains("cannot be told"), "{failure}");
}

#[test]
fn key_groups_are_fixed_once_there_is_state() {
    let graph = plan("same", &[by("k", "")]);
    let failure = fit(&graph, 16, NONE, &record(&graph), &[part(&graph)]).unwrap_err();
    assert!(failure.message.contains("maxParallelism is 16"), "{failure}");
}

#[test]
fn an_identity_is_split_from_its_number_and_not_from_its_hash() {
    let cases = [
        ("aggregate-0123456789abcdef", ("aggregate-0123456789abcdef", 0)),
        ("aggregate-0123456789abcdef-2", ("aggregate-0123456789abcdef", 1)),
        ("window-aggregate-0000000000000012", ("window-aggregate-0000000000000012", 0)),
        ("window-aggregate-0000000000000012-13", ("window-aggregate-0000000000000012", 12)),
        ("count", ("count", 0)),
    ];
    for (identity, expected) in cases {
        assert_eq!(told_apart(identity), expected, "{identity}");
    }
}

/// The plan of two statements over one source, with the plan in which each has its own beside it.
fn sharing() -> JobGraph {
    let apart = plan("apart", &[by("k", "a = 1"), by("k", "a = 2")]);
    let mut shared = JobGraph { fingerprint: "shared".into(), ..apart.clone() };
    shared.stages.remove(2);
    shared.stages[2].id = StageId(2);
    shared.stages[2].head = shared.stages[1].head.clone();
    shared.apart = Some(Box::new(apart));
    shared
}

fn chosen(graph: &JobGraph, old: &JobGraph, permissions: Permissions) -> Result<String, Failure> {
    let chosen = choose(Arc::new(graph.clone()), MAX, permissions, &record(old), &[part(old)]);
    chosen.map(|(graph, _)| graph.fingerprint.clone())
}

#[test]
fn what_was_written_by_statements_that_shared_nothing_goes_on_so_and_what_was_shared_stays_shared() {
    let shared = sharing();
    let before = shared.apart.as_deref().unwrap();
    let both = Permissions { allow_new_state: true, allow_dropped_state: true };
    for permissions in [NONE, NEW, DROPPED, both] {
        assert_eq!(chosen(&shared, before, permissions), Ok("apart".to_string()), "two positions are not one");
        assert_eq!(chosen(&shared, &shared, permissions), Ok("shared".to_string()));
    }
    // A statement that comes to another reads on with it.
    let alone = plan("alone", &[by("k", "a = 1")]);
    assert_eq!(chosen(&shared, &alone, NEW), Ok("shared".to_string()));
    let refused = chosen(&shared, &plan("other", &[by("j", "")]), NONE).unwrap_err();
    assert_eq!(refused.kind, FailureKind::StateMismatch);
}
