//! From a record's parts, or from what there is to read, to what each new subtask starts with. Pure: no I/O, so that a table can test it.
//!
//! Keyed snapshots go to every subtask whose key groups they overlap. Non-keyed items are dealt out anew: item i of an
//! operator to subtask i modulo the parallelism. Pending commits are dealt to workers in the same way, since any process can
//! carry them out. Before anything is dealt the parts are held against the plan, and refused by the operator's name.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use weir_protocol::{
    CheckpointId,
    part::{Item, ItemKind, Part, SubtaskPart},
    record::Record,
};
use weir_state::key_group_range;

use crate::{
    api::{
        failure::Failure,
        graph::{JobGraph, Stage, StageHead, StageId},
        operator::RestoredWatermarks,
        time::{MIN_WATERMARK, Timestamp},
    },
    data::splits::SplitState,
    deploy::inputs::Inputs,
    seam::Restored,
};

/// A sink transaction that is published once a record covers it, as it stands in a part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PendingCommit {
    /// The checkpoint that cut it.
    pub checkpoint: CheckpointId,
    /// The sink's own description of it.
    pub value: Value,
}

/// Pending commits by the sink's identity.
pub type PendingCommits = BTreeMap<String, Vec<PendingCommit>>;

/// What a record holds, or what there is to read from the beginning, dealt out to the subtasks of a new attempt.
#[derive(Debug, Default)]
pub struct Dealt {
    /// For every subtask of every stage.
    pub restored: BTreeMap<(StageId, u32), Restored>,
    /// All pending commits of the record.
    pub commits: PendingCommits,
}

/// The operators of a stage that have something in a checkpoint: source, stateful operators, sink.
pub fn keepers(stage: &Stage) -> impl Iterator<Item = &str> {
    let source = match &stage.head {
        StageHead::Source(source) => Some(source.identity.as_str()),
        StageHead::Inputs(_) => None,
    };
    let stateful = stage.operators.iter().filter(|operator| operator.state.is_some());
    let sink = stage.sink.as_ref().map(|sink| sink.identity.as_str());
    source.into_iter().chain(stateful.map(|operator| operator.identity.as_str())).chain(sink)
}

/// Refuses a record that does not fit the plan. Touches nothing.
pub fn check(graph: &JobGraph, max_parallelism: u32, record: &Record, parts: &[Part]) -> Result<(), Failure> {
    if record.max_parallelism != max_parallelism {
        return Err(Failure::mismatch(
            "",
            format!(
                "maxParallelism is {max_parallelism}, and the checkpoint was taken with {}: it is fixed once there is state; \
                 set it back to {}",
                record.max_parallelism, record.max_parallelism
            ),
        ));
    }
    let planned: BTreeSet<(&str, &str)> = graph
        .stages
        .iter()
        .flat_map(|stage| keepers(stage).map(|operator| (stage.identity.as_str(), operator)))
        .collect();
    let stored: BTreeSet<(&str, &str)> = subtasks(parts)
        .flat_map(|subtask| {
            subtask.operators.iter().map(|operator| (subtask.stage.as_str(), operator.operator.as_str()))
        })
        .collect();
    let missing = stored.difference(&planned).next();
    let added = planned.difference(&stored).next();
    let remedy = "write the SQL as it was when the checkpoint was taken, or start without state";
    match (missing, added) {
        (None, None) => Ok(()),
        (Some((_, missing)), None) => Err(Failure::mismatch(
            missing,
            format!("operator `{missing}` has state in the checkpoint and is not in the plan any more; {remedy}"),
        )),
        (None, Some((_, added))) => Err(Failure::mismatch(
            added,
            format!("operator `{added}` is in the plan and has no state in the checkpoint; {remedy}"),
        )),
        (Some((_, missing)), Some((_, added))) if missing == added => Err(Failure::mismatch(
            missing,
            format!("operator `{missing}` stands in another stage than in the checkpoint; {remedy}"),
        )),
        (Some((_, missing)), Some((_, added))) => Err(Failure::mismatch(
            missing,
            format!(
                "operator `{missing}` has state in the checkpoint and is not in the plan any more, which has `{added}` \
                 instead; {remedy}"
            ),
        )),
    }
}

fn subtasks(parts: &[Part]) -> impl Iterator<Item = &SubtaskPart> {
    parts.iter().flat_map(|part| &part.subtasks)
}

/// Deals out what parts hold. They fit the plan, see [`check`]; they are all parts of one record.
pub fn deal(graph: &JobGraph, parallelism: u32, record: &Record, parts: &[Part]) -> Result<Dealt, Failure> {
    let mut dealt = Dealt::default();
    for stage in &graph.stages {
        let mut old: Vec<&SubtaskPart> = subtasks(parts).filter(|subtask| subtask.stage == stage.identity).collect();
        old.sort_by_key(|subtask| subtask.subtask);
        let expected = (0..record.parallelism).collect::<Vec<_>>();
        if old.iter().map(|subtask| subtask.subtask.0).ne(expected) {
            let found = old.len();
            return Err(Failure::corrupt(
                &record.reference().path(),
                &format!("names {found} subtasks of stage `{}` instead of {}", stage.identity, record.parallelism),
            ));
        }
        let floors = watermarks(record, &old);
        for subtask in 0..parallelism {
            let groups = key_group_range(subtask, parallelism, record.max_parallelism);
            let range = groups.start as usize..groups.end as usize;
            let restored = Restored {
                keyed: old
                    .iter()
                    .filter_map(|subtask| subtask.keyed.as_ref())
                    .filter(|keyed| overlap(&(keyed.key_group_start..keyed.key_group_end), &groups))
                    .cloned()
                    .collect(),
                local_snapshot: None,
                items: BTreeMap::new(),
                finished: old.iter().all(|subtask| subtask.finished),
                watermarks: RestoredWatermarks::new(groups.start, floors[range].to_vec()),
            };
            dealt.restored.insert((stage.id, subtask), restored);
        }
        deal_items(stage, parallelism, &old, &mut dealt)?;
    }
    Ok(dealt)
}

fn overlap(a: &Range<u32>, b: &Range<u32>) -> bool {
    a.start < b.end && b.start < a.end
}

/// The event time that each key group had reached.
fn watermarks(record: &Record, old: &[&SubtaskPart]) -> Vec<Timestamp> {
    let mut floors = vec![MIN_WATERMARK; record.max_parallelism as usize];
    for subtask in old {
        let groups = key_group_range(subtask.subtask.0, record.parallelism, record.max_parallelism);
        let each = subtask.keyed.as_ref().map_or(&[][..], |keyed| &keyed.key_group_watermarks);
        for (i, group) in groups.enumerate() {
            floors[group as usize] = each.get(i).copied().or(subtask.watermark_ms).unwrap_or(MIN_WATERMARK);
        }
    }
    floors
}

fn deal_items(stage: &Stage, parallelism: u32, old: &[&SubtaskPart], dealt: &mut Dealt) -> Result<(), Failure> {
    // The first item of each old subtask, then the second of each, and so on: with the same parallelism as before every item
    // that was dealt in turn goes back to where it was.
    let mut items: BTreeMap<&str, Vec<(usize, &Item)>> = BTreeMap::new();
    for subtask in old {
        for operator in &subtask.operators {
            items.entry(&operator.operator).or_default().extend(operator.items.iter().enumerate());
        }
    }
    for (operator, mut items) in items {
        items.sort_by_key(|(place, _)| *place);
        let mut turn = 0;
        for (_, item) in items {
            if item.kind == ItemKind::Commit {
                let pending = serde_json::from_value(item.value.clone()).map_err(|error| {
                    Failure::corrupt(
                        &format!("a pending commit of `{operator}`"),
                        &format!("is not readable ({error})"),
                    )
                })?;
                dealt.commits.entry(operator.to_string()).or_default().push(pending);
                continue;
            }
            if let Some(restored) = dealt.restored.get_mut(&(stage.id, turn % parallelism)) {
                restored.items.entry(operator.to_string()).or_default().push(item.clone());
            }
            turn += 1;
        }
    }
    Ok(())
}

/// Deals out what there is to read to the subtasks of an attempt that starts from nothing: split i to subtask i modulo the
/// parallelism.
pub fn deal_inputs(graph: &JobGraph, parallelism: u32, inputs: &Inputs) -> Result<Dealt, Failure> {
    let mut dealt = Dealt::default();
    for stage in &graph.stages {
        let StageHead::Source(node) = &stage.head else { continue };
        let splits = inputs.splits.get(&node.identity).ok_or_else(|| {
            let message = format!("nobody has looked what there is to read for `{}`", node.name);
            Failure::mismatch(&node.name, message)
        })?;
        for (split, subtask) in splits.iter().zip((0..parallelism).cycle()) {
            let restored = dealt.restored.entry((stage.id, subtask)).or_default();
            let item = SplitState::initial(split.clone()).to_item();
            restored.items.entry(node.identity.clone()).or_default().push(item);
        }
    }
    Ok(dealt)
}

/// The share of worker `index` of `workers` of all pending commits.
pub fn share_of(commits: &PendingCommits, index: usize, workers: usize) -> PendingCommits {
    let share = |pending: &Vec<PendingCommit>| pending.iter().skip(index).step_by(workers.max(1)).cloned().collect();
    commits.iter().map(|(operator, pending)| (operator.clone(), share(pending))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weir_protocol::{
        Attempt, JobName, RecordNumber, SubtaskIndex, Term, WorkerId,
        part::{KeyedSnapshot, OperatorPart, PART_VERSION},
        record::RECORD_VERSION,
        settings::FailureKind,
    };

    use super::*;
    use crate::testing;

    const MAX: u32 = 8;

    fn record(parallelism: u32) -> Record {
        Record {
            version: RECORD_VERSION,
            id: CheckpointId(5),
            term: Term(1),
            number: RecordNumber(3),
            attempt: Attempt(1),
            job: JobName { namespace: "default".into(), name: "job".into() },
            is_final: false,
            parallelism,
            max_parallelism: MAX,
            fingerprint: String::new(),
            parts: Vec::new(),
            completed_at_ms: 0,
            duration_ms: 0,
            state_bytes: 0,
            uploaded_bytes: 0,
        }
    }

    /// One part a subtask, each with the keepers of the test graph.
    fn parts(graph: &JobGraph, parallelism: u32) -> Vec<Part> {
        (0..parallelism)
            .map(|subtask| Part {
                version: PART_VERSION,
                id: CheckpointId(5),
                attempt: Attempt(1),
                worker: WorkerId(format!("worker {subtask}")),
                subtasks: graph.stages.iter().map(|stage| subtask_part(stage, subtask, parallelism)).collect(),
            })
            .collect()
    }

    fn subtask_part(stage: &Stage, subtask: u32, parallelism: u32) -> SubtaskPart {
        let groups = key_group_range(subtask, parallelism, MAX);
        let source = matches!(stage.head, StageHead::Source(_));
        let items = |operator: &str| match (source, operator) {
            (true, _) => vec![split(&format!("a{subtask}")), split(&format!("b{subtask}"))],
            (false, "sink") => vec![commit(4, subtask), commit(5, subtask)],
            (false, _) => Vec::new(),
        };
        SubtaskPart {
            stage: stage.identity.clone(),
            subtask: SubtaskIndex(subtask),
            finished: subtask == 0,
            watermark_ms: Some(i64::from(subtask) * 100),
            keyed: stage.stateful.then(|| KeyedSnapshot {
                backend: "memory".into(),
                key_group_start: groups.start,
                key_group_end: groups.end,
                key_group_watermarks: Vec::new(),
                files: Vec::new(),
            }),
            operators: keepers(stage)
                .map(|operator| OperatorPart { operator: operator.to_string(), items: items(operator) })
                .collect(),
            channel_state: Vec::new(),
        }
    }

    fn split(name: &str) -> Item {
        Item { kind: ItemKind::Split, value: json!(name) }
    }

    fn commit(checkpoint: u64, subtask: u32) -> Item {
        let pending = PendingCommit { checkpoint: CheckpointId(checkpoint), value: json!(format!("file {subtask}")) };
        Item { kind: ItemKind::Commit, value: serde_json::to_value(pending).unwrap() }
    }

    fn splits_of(dealt: &Dealt, subtask: u32) -> Vec<String> {
        let items = &dealt.restored[&(StageId(0), subtask)].items["source"];
        items.iter().map(|item| item.value.as_str().unwrap().to_string()).collect()
    }

    #[test]
    fn with_the_same_parallelism_every_split_goes_back_to_its_subtask() {
        let graph = testing::counting_graph(1, 1);
        let dealt = deal(&graph, 2, &record(2), &parts(&graph, 2)).unwrap();
        assert_eq!(splits_of(&dealt, 0), ["a0", "b0"]);
        assert_eq!(splits_of(&dealt, 1), ["a1", "b1"]);
        assert_eq!(dealt.restored[&(StageId(1), 1)].keyed.len(), 1);
    }

    #[test]
    fn with_another_parallelism_nothing_is_lost_and_key_groups_go_to_their_owners() {
        let graph = testing::counting_graph(1, 1);
        let dealt = deal(&graph, 3, &record(2), &parts(&graph, 2)).unwrap();
        let mut all: Vec<_> = (0..3).flat_map(|subtask| splits_of(&dealt, subtask)).collect();
        all.sort();
        assert_eq!(all, ["a0", "a1", "b0", "b1"]);
        let starts = |subtask| {
            let keyed = &dealt.restored[&(StageId(1), subtask)].keyed;
            keyed.iter().map(|keyed| keyed.key_group_start).collect::<Vec<_>>()
        };
        assert_eq!((starts(0), starts(1), starts(2)), (vec![0], vec![0, 4], vec![4]));
        let middle = &dealt.restored[&(StageId(1), 1)].watermarks;
        assert_eq!((middle.of(3), middle.of(4)), (0, 100));
    }

    #[test]
    fn a_stage_is_finished_only_if_all_its_subtasks_were() {
        let graph = testing::counting_graph(1, 1);
        let mut parts = parts(&graph, 2);
        assert!(!deal(&graph, 2, &record(2), &parts).unwrap().restored[&(StageId(0), 0)].finished);
        parts.iter_mut().flat_map(|part| &mut part.subtasks).for_each(|subtask| subtask.finished = true);
        assert!(deal(&graph, 2, &record(2), &parts).unwrap().restored[&(StageId(0), 0)].finished);
    }

    #[test]
    fn pending_commits_are_shared_among_workers_and_each_has_one_owner() {
        let graph = testing::counting_graph(1, 1);
        let dealt = deal(&graph, 2, &record(2), &parts(&graph, 2)).unwrap();
        assert_eq!(dealt.commits["sink"].len(), 4);
        let shares: Vec<_> = (0..3).map(|index| share_of(&dealt.commits, index, 3)["sink"].clone()).collect();
        assert_eq!(shares.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1]);
        let mut all = shares.concat();
        all.sort_by_key(|pending| (pending.value.to_string(), pending.checkpoint));
        let mut before = dealt.commits["sink"].clone();
        before.sort_by_key(|pending| (pending.value.to_string(), pending.checkpoint));
        assert_eq!(all, before);
    }

    #[test]
    fn a_restore_that_does_not_fit_names_the_operator_that_differs() {
        let graph = testing::counting_graph(1, 1);
        let parts = parts(&graph, 2);
        assert_eq!(check(&graph, MAX, &record(2), &parts), Ok(()));

        let mut changed = graph.clone();
        changed.stages[1].operators[0].identity = "count by carrier".into();
        let failure = check(&changed, MAX, &record(2), &parts).unwrap_err();
        assert_eq!((failure.kind, failure.operator.as_str()), (FailureKind::StateMismatch, "count"));
        assert!(failure.message.contains("`count by carrier` instead"), "{failure}");

        let mut dropped = graph.clone();
        dropped.stages[1].sink = None;
        assert_eq!(check(&dropped, MAX, &record(2), &parts).unwrap_err().operator, "sink");

        let failure = check(&graph, 16, &record(2), &parts).unwrap_err();
        assert!(failure.message.contains("maxParallelism is 16"), "{failure}");
    }

    #[test]
    fn a_record_that_lacks_a_subtask_is_not_restored() {
        let graph = testing::counting_graph(1, 1);
        let mut parts = parts(&graph, 2);
        parts[1].subtasks.remove(0);
        let failure = deal(&graph, 2, &record(2), &parts).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Corrupt);
        assert!(failure.message.contains("terms/0000000001/0000000003"), "{failure}");
    }
}
