//! From a record's parts, or from what there is to read, to what each new subtask starts with. Pure: no I/O, so that a table can test it.
//!
//! Keyed snapshots go to every subtask whose key groups they overlap. Non-keyed items are dealt out anew: item i of an
//! operator to subtask i modulo the parallelism. Pending commits are dealt to workers in the same way, since any process can
//! carry them out. Which of it is whose says [`super::matching`].

use std::{collections::BTreeMap, ops::Range};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use weir_protocol::{
    CheckpointId,
    part::{EventTime, Item, ItemKind, Part, SubtaskPart},
    record::Record,
};
use weir_state::key_group_range;

use crate::{
    api::{
        failure::Failure,
        graph::{JobGraph, SourceNode, Stage, StageHead, StageId},
        operator::RestoredWatermarks,
        time::{MIN_WATERMARK, Timestamp},
    },
    data::splits::SplitState,
    restore::{
        inputs::Inputs,
        matching::{Matched, subtasks},
    },
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

/// Deals out what parts hold. They fit the plan as `matched` says; they are all parts of one record. What is new in the plan starts
/// with nothing.
pub fn deal(
    graph: &JobGraph,
    parallelism: u32,
    record: &Record,
    parts: &[Part],
    matched: &Matched,
) -> Result<Dealt, Failure> {
    let mut dealt = Dealt::default();
    complete(record, parts)?;
    for stage in &graph.stages {
        // A stage that keeps nothing has only its event time and its end.
        let from =
            matched.stage_of(stage).or_else(|| keepers(stage).next().is_none().then_some(stage.identity.as_str()));
        let mut old: Vec<&SubtaskPart> =
            subtasks(parts).filter(|subtask| Some(subtask.stage.as_str()) == from).collect();
        old.sort_by_key(|subtask| subtask.subtask);
        let floors = watermarks(record, &old, None);
        let event_times = event_times(record, &old, stage, matched);
        let keeps = stage.operators.iter().any(|node| node.state.is_some() && matched.of(&node.identity).is_some());
        for subtask in 0..parallelism {
            let groups = key_group_range(subtask, parallelism, record.max_parallelism);
            let range = groups.start as usize..groups.end as usize;
            let restored = Restored {
                keyed: old
                    .iter()
                    .filter(|_| keeps)
                    .filter_map(|subtask| subtask.keyed.as_ref())
                    .filter(|keyed| overlap(&(keyed.key_group_start..keyed.key_group_end), &groups))
                    .cloned()
                    .collect(),
                local_snapshot: None,
                items: BTreeMap::new(),
                finished: !old.is_empty() && old.iter().all(|subtask| subtask.finished),
                watermarks: RestoredWatermarks::new(groups.start, floors[range.clone()].to_vec()),
                event_times: event_times
                    .iter()
                    .map(|(operator, floors)| {
                        (operator.clone(), RestoredWatermarks::new(groups.start, floors[range.clone()].to_vec()))
                    })
                    .collect(),
            };
            dealt.restored.insert((stage.id, subtask), restored);
        }
    }
    deal_items(graph, parallelism, parts, matched, &mut dealt)?;
    Ok(dealt)
}

/// Every stage that a record's parts know has all of its subtasks.
fn complete(record: &Record, parts: &[Part]) -> Result<(), Failure> {
    let mut stages: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    let known = parts.iter().flat_map(|part| &part.keepers).map(|keeper| keeper.stage.as_str());
    stages.extend(known.map(|stage| (stage, Vec::new())));
    for subtask in subtasks(parts) {
        stages.entry(&subtask.stage).or_default().push(subtask.subtask.0);
    }
    for (stage, mut found) in stages {
        found.sort_unstable();
        if found.iter().copied().ne(0..record.parallelism) {
            return Err(Failure::corrupt(
                &record.reference().path(),
                &format!("names {} subtasks of stage `{stage}` instead of {}", found.len(), record.parallelism),
            ));
        }
    }
    Ok(())
}

fn overlap(a: &Range<u32>, b: &Range<u32>) -> bool {
    a.start < b.end && b.start < a.end
}

/// The event time that each key group had reached: at the head of the stage, or at one of its operators, which has that of the head
/// where it says nothing else.
fn watermarks(record: &Record, old: &[&SubtaskPart], operator: Option<&str>) -> Vec<Timestamp> {
    let mut floors = vec![MIN_WATERMARK; record.max_parallelism as usize];
    for subtask in old {
        let groups = key_group_range(subtask.subtask.0, record.parallelism, record.max_parallelism);
        let (each, reached) = match operator.and_then(|operator| event_time_of(subtask, operator)) {
            Some(own) => (own.key_group_watermarks.as_slice(), own.watermark_ms),
            None => {
                let keyed = subtask.keyed.as_ref();
                (keyed.map_or(&[][..], |keyed| &keyed.key_group_watermarks), subtask.watermark_ms)
            }
        };
        for (i, group) in groups.enumerate() {
            floors[group as usize] = each.get(i).copied().or(reached).unwrap_or(MIN_WATERMARK);
        }
    }
    floors
}

fn event_time_of<'p>(subtask: &'p SubtaskPart, operator: &str) -> Option<&'p EventTime> {
    subtask.operators.iter().find(|part| part.operator == operator)?.event_time.as_ref()
}

/// The event time of the stage's operators that had been told another than its head, by their identity in the plan. The old
/// subtasks are those of the stage that it goes on with.
fn event_times(
    record: &Record,
    old: &[&SubtaskPart],
    stage: &Stage,
    matched: &Matched,
) -> Vec<(String, Vec<Timestamp>)> {
    let stateful = stage.operators.iter().filter(|node| node.state.is_some());
    let found = stateful.filter_map(|node| Some((&node.identity, &matched.of(&node.identity)?.operator)));
    let own = found.filter(|(_, stored)| old.iter().any(|subtask| event_time_of(subtask, stored).is_some()));
    own.map(|(identity, stored)| (identity.clone(), watermarks(record, old, Some(stored)))).collect()
}

fn deal_items(
    graph: &JobGraph,
    parallelism: u32,
    parts: &[Part],
    matched: &Matched,
    dealt: &mut Dealt,
) -> Result<(), Failure> {
    // The first item of each old subtask, then the second of each, and so on: with the same parallelism as before every item
    // that was dealt in turn goes back to where it was.
    let mut old: Vec<&SubtaskPart> = subtasks(parts).collect();
    old.sort_by_key(|subtask| subtask.subtask);
    let mut items: BTreeMap<&str, Vec<(usize, &Item)>> = BTreeMap::new();
    for subtask in old {
        for operator in &subtask.operators {
            items.entry(&operator.operator).or_default().extend(operator.items.iter().enumerate());
        }
    }
    let stages: BTreeMap<&str, StageId> =
        graph.stages.iter().flat_map(|stage| keepers(stage).map(|keeper| (keeper, stage.id))).collect();
    for (operator, mut items) in items {
        // What the plan has no more, and nobody is owed, is left behind.
        let Some(planned) = matched.planned_of(operator) else { continue };
        items.sort_by_key(|(place, _)| *place);
        let mut turn = 0;
        for (_, item) in items {
            if item.kind == ItemKind::Commit {
                dealt.commits.entry(planned.to_string()).or_default().push(read_pending(operator, item)?);
                continue;
            }
            let stage = stages.get(planned).copied();
            let restored = stage.and_then(|stage| dealt.restored.get_mut(&(stage, turn % parallelism)));
            if let Some(restored) = restored {
                restored.items.entry(planned.to_string()).or_default().push(item.clone());
            }
            turn += 1;
        }
    }
    Ok(())
}

fn read_pending(operator: &str, item: &Item) -> Result<PendingCommit, Failure> {
    serde_json::from_value(item.value.clone()).map_err(|error| {
        Failure::corrupt(&format!("a pending commit of `{operator}`"), &format!("is not readable ({error})"))
    })
}

/// The pending commits of a record whose state is not restored.
pub fn pending(parts: &[Part]) -> Result<PendingCommits, Failure> {
    let mut pending = PendingCommits::new();
    for operator in subtasks(parts).flat_map(|subtask| &subtask.operators) {
        for item in operator.items.iter().filter(|item| item.kind == ItemKind::Commit) {
            pending.entry(operator.operator.clone()).or_default().push(read_pending(&operator.operator, item)?);
        }
    }
    Ok(pending)
}

/// Adds to what was dealt what there is to read for each source that a record knows nothing of: split i goes to subtask i modulo
/// the parallelism. Without a record that is every source.
pub fn deal_inputs(
    graph: &JobGraph,
    parallelism: u32,
    inputs: &Inputs,
    matched: &Matched,
    dealt: &mut Dealt,
) -> Result<(), Failure> {
    for (stage, node) in new_sources(graph, matched) {
        let splits = inputs.splits.get(&node.identity).ok_or_else(|| {
            let message = format!("nobody has looked what there is to read for `{}`", node.name);
            Failure::mismatch(&node.name, message)
        })?;
        for (split, subtask) in splits.iter().zip((0..parallelism).cycle()) {
            let restored = dealt.restored.entry((stage, subtask)).or_default();
            let item = SplitState::initial(split.clone()).to_item();
            restored.items.entry(node.identity.clone()).or_default().push(item);
        }
    }
    Ok(())
}

/// The sources whose positions are in no record.
pub fn new_sources<'g>(
    graph: &'g JobGraph,
    matched: &'g Matched,
) -> impl Iterator<Item = (StageId, &'g SourceNode)> + 'g {
    graph.stages.iter().filter_map(move |stage| match &stage.head {
        StageHead::Source(node) if matched.of(&node.identity).is_none() => Some((stage.id, node)),
        _ => None,
    })
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
        settings::{FailureKind, Permissions},
    };

    use super::*;
    use crate::{restore::matching, testing};

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
                script: String::new(),
                keepers: matching::describe(graph),
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
                .map(|operator| OperatorPart { items: items(operator), ..OperatorPart::new(operator) })
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

    /// What fits is dealt.
    fn fitted(graph: &JobGraph, parallelism: u32, parts: &[Part]) -> Result<Dealt, Failure> {
        let record = record(2);
        let matched = matching::fit(graph, MAX, Permissions::default(), &record, parts)?;
        deal(graph, parallelism, &record, parts, &matched)
    }

    fn splits_of(dealt: &Dealt, subtask: u32) -> Vec<String> {
        let items = &dealt.restored[&(StageId(0), subtask)].items["source"];
        items.iter().map(|item| item.value.as_str().unwrap().to_string()).collect()
    }

    #[test]
    fn with_the_same_parallelism_every_split_goes_back_to_its_subtask() {
        let graph = testing::counting_graph(1, 1);
        let dealt = fitted(&graph, 2, &parts(&graph, 2)).unwrap();
        assert_eq!(splits_of(&dealt, 0), ["a0", "b0"]);
        assert_eq!(splits_of(&dealt, 1), ["a1", "b1"]);
        assert_eq!(dealt.restored[&(StageId(1), 1)].keyed.len(), 1);
    }

    #[test]
    fn with_another_parallelism_nothing_is_lost_and_key_groups_go_to_their_owners() {
        let graph = testing::counting_graph(1, 1);
        let dealt = fitted(&graph, 3, &parts(&graph, 2)).unwrap();
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
    fn an_operator_that_had_been_told_less_than_its_stage_is_told_so_again() {
        let graph = testing::counting_graph(1, 1);
        let mut parts = parts(&graph, 2);
        let behind = EventTime { watermark_ms: Some(70), key_group_watermarks: vec![70, 70, 70, 90] };
        parts[1].subtasks[1].operators[0].event_time = Some(behind);
        let dealt = fitted(&graph, 3, &parts).unwrap();
        let of = |subtask: u32, group: u32| dealt.restored[&(StageId(1), subtask)].event_time("count").of(group);
        assert_eq!((of(0, 0), of(1, 3), of(1, 4), of(2, 7)), (0, 0, 70, 90));
        let head = &dealt.restored[&(StageId(1), 2)];
        assert_eq!((head.watermarks.of(7), head.event_time("sink").of(7)), (100, 100));
    }

    #[test]
    fn a_stage_is_finished_only_if_all_its_subtasks_were() {
        let graph = testing::counting_graph(1, 1);
        let mut parts = parts(&graph, 2);
        assert!(!fitted(&graph, 2, &parts).unwrap().restored[&(StageId(0), 0)].finished);
        parts.iter_mut().flat_map(|part| &mut part.subtasks).for_each(|subtask| subtask.finished = true);
        assert!(fitted(&graph, 2, &parts).unwrap().restored[&(StageId(0), 0)].finished);
    }

    #[test]
    fn pending_commits_are_shared_among_workers_and_each_has_one_owner() {
        let graph = testing::counting_graph(1, 1);
        let dealt = fitted(&graph, 2, &parts(&graph, 2)).unwrap();
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
    fn of_a_record_that_is_left_behind_the_pending_commits_are_read_whatever_the_plan_is() {
        let graph = testing::counting_graph(1, 1);
        let parts = parts(&graph, 2);
        let mut all = pending(&parts).unwrap();
        let mut dealt = fitted(&graph, 2, &parts).unwrap().commits;
        for commits in [&mut all, &mut dealt] {
            assert_eq!(commits.keys().collect::<Vec<_>>(), ["sink"]);
            for commits in commits.values_mut() {
                commits.sort_by_key(|commit| commit.checkpoint);
            }
        }
        assert_eq!(all["sink"].len(), dealt["sink"].len());
        assert!(all["sink"].iter().all(|commit| dealt["sink"].contains(commit)));
    }

    #[test]
    fn a_record_that_lacks_a_subtask_is_not_restored() {
        let graph = testing::counting_graph(1, 1);
        let mut parts = parts(&graph, 2);
        parts[1].subtasks.remove(0);
        let failure = fitted(&graph, 2, &parts).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Corrupt);
        assert!(failure.message.contains("terms/0000000001/0000000003"), "{failure}");
    }
}
