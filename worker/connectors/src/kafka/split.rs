//! A partition as a split, and the rule by which partitions that come later are found.
//!
//! There is no coordinator. Each partition that was there when its topic was first seen is the *parent* of those that come later with
//! the same number modulo how many there were, and knows how many partitions its topic had when it last looked. Parent and child are in
//! one snapshot from the moment of the finding, so that no restore finds a partition twice, or never, whoever has them then. Of
//! a pattern the split that is first of all also knows all topics that were found.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weir_engine::api::error::SourceError;
use weir_kafka::{Topic, Uuid};

/// The form of a split.
const VERSION: u32 = 1;

/// The position in a partition: all that it takes to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Split {
    version: u32,
    pub(super) topic: String,
    /// Which of all topics of this name; empty where the brokers do not say.
    pub(super) topic_id: String,
    pub(super) partition: i32,
    /// The next record's.
    pub(super) offset: i64,
    /// Before this one reading ends; none for nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stop: Option<i64>,
    /// It was found after its topic, and nothing of it has been read: it is read from the first record that is there.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) fresh: bool,
    /// How many partitions its topic had when that was first seen; 0 for one that came later.
    #[serde(default, skip_serializing_if = "is_zero")]
    of: i32,
    /// How many its topic had when it was last looked at.
    #[serde(default, skip_serializing_if = "is_zero")]
    known: i32,
    /// Of a pattern's first split: the topics that were found, with their ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    topics: Option<BTreeMap<String, String>>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for references")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for references")]
const fn is_zero(number: &i32) -> bool {
    *number == 0
}

impl Split {
    pub(super) fn read(value: &serde_json::Value) -> Result<Self, SourceError> {
        let refused = |why: &str| SourceError::bad_input(format!("{value} is no position in a topic{why}"));
        if value.get("version").and_then(serde_json::Value::as_u64).is_some_and(|version| version > VERSION.into()) {
            return Err(refused(" that this build can read: it is a later one's"));
        }
        Self::deserialize(value).map_err(|error| refused("").because(error))
    }

    pub(super) fn id(&self) -> Uuid {
        Uuid::parse_str(&self.topic_id).unwrap_or_default()
    }

    /// As messages name it.
    pub(super) fn place(&self) -> String {
        format!("topic {}, partition {}", self.topic, self.partition)
    }

    /// All has been read that is to be.
    pub(super) fn is_done(&self) -> bool {
        self.stop.is_some_and(|stop| self.offset >= stop)
    }
}

fn text_of(id: Uuid) -> String {
    if id.is_nil() { String::new() } else { id.to_string() }
}

/// The splits of topics that are seen for the first time; `offset` says where each begins and ends.
pub(super) fn splits_of(
    topics: &[Topic],
    by_pattern: bool,
    offset: impl Fn(&str, i32) -> (i64, Option<i64>),
) -> Vec<Split> {
    let mut splits: Vec<Split> = topics.iter().flat_map(|topic| parents(topic, &offset)).collect();
    if by_pattern && let Some(first) = splits.first_mut() {
        first.topics = Some(topics.iter().map(|topic| (topic.name.clone(), text_of(topic.id))).collect());
    }
    splits
}

fn parents(topic: &Topic, offset: &impl Fn(&str, i32) -> (i64, Option<i64>)) -> Vec<Split> {
    let count = topic.partitions.len() as i32;
    let split = |partition: i32| {
        let (offset, stop) = offset(&topic.name, partition);
        Split {
            version: VERSION,
            topic: topic.name.clone(),
            topic_id: text_of(topic.id),
            partition,
            offset,
            stop,
            fresh: false,
            of: count,
            known: count,
            topics: None,
        }
    };
    topic.partitions.iter().map(|partition| split(partition.id)).collect()
}

/// Finds what these splits have to take over of the topics as they are now, and notes that it was.
pub(super) fn find(splits: &mut [Split], topics: &[Topic]) -> Vec<Split> {
    let mut found = Vec::new();
    for split in &mut *splits {
        let same = |topic: &&Topic| topic.name == split.topic && text_of(topic.id) == split.topic_id;
        if let Some(topic) = topics.iter().find(same).filter(|_| split.of > 0) {
            let count = topic.partitions.len() as i32;
            let children = (split.known..count).filter(|partition| partition % split.of == split.partition % split.of);
            found.extend(children.map(|partition| Split {
                partition,
                offset: 0,
                fresh: true,
                of: 0,
                known: 0,
                topics: None,
                ..split.clone()
            }));
            split.known = split.known.max(count);
        }
    }
    if let Some(keeper) = splits.iter_mut().find_map(|split| split.topics.as_mut()) {
        for topic in topics {
            if !keeper.contains_key(&topic.name) {
                keeper.insert(topic.name.clone(), text_of(topic.id));
                found.extend(parents(topic, &|_, _| (0, None)).into_iter().map(|split| Split { fresh: true, ..split }));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use weir_kafka::Partition;

    use super::*;

    fn topic(name: &str, partitions: i32) -> Topic {
        let partition = |id| Partition { id, leader: Some(1), leader_epoch: 0 };
        Topic {
            name: name.to_string(),
            id: Uuid::from_u128(name.len() as u128),
            internal: false,
            partitions: (0..partitions).map(partition).collect(),
        }
    }

    fn places(splits: &[Split]) -> Vec<(String, i32)> {
        splits.iter().map(|split| (split.topic.clone(), split.partition)).collect()
    }

    proptest! {
        /// Whoever has the splits, and however they are dealt out anew in between: each partition is found, and once.
        #[test]
        fn every_partition_that_comes_is_found_once(
            first in 1..5_i32,
            steps in proptest::collection::vec((0..4_i32, any::<bool>(), 1..5_usize, any::<u64>()), 1..12),
        ) {
            let mut topics = vec![topic("a", first), topic("bb", 2)];
            let mut all = splits_of(&topics, true, |_, _| (7, None));
            for (more, another, subtasks, deal) in steps {
                let count = topics[0].partitions.len() as i32 + more;
                topics[0] = topic("a", count);
                if another {
                    topics.push(topic(&"c".repeat(topics.len() + 1), 1 + more));
                }
                // A restore: the splits go through their stored form, to any subtask.
                let mut shares: Vec<Vec<Split>> = vec![Vec::new(); subtasks];
                for (index, split) in all.drain(..).enumerate() {
                    let stored = serde_json::to_value(&split).unwrap();
                    shares[(deal as usize).wrapping_add(index * 7) % subtasks].push(Split::read(&stored).unwrap());
                }
                for share in &mut shares {
                    let found = find(share, &topics);
                    prop_assert!(found.iter().all(|split| split.fresh && split.offset == 0));
                    share.extend(found);
                    prop_assert!(find(share, &topics).is_empty(), "what was found is not found again");
                }
                all = shares.into_iter().flatten().collect();
                let expected: BTreeSet<_> = topics
                    .iter()
                    .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.name.clone(), partition.id)))
                    .collect();
                prop_assert_eq!(places(&all).len(), expected.len());
                prop_assert_eq!(places(&all).into_iter().collect::<BTreeSet<_>>(), expected);
            }
        }
    }

    #[test]
    fn a_topic_that_was_made_anew_gives_no_partitions_to_the_old_ones() {
        let mut splits = splits_of(&[topic("a", 2)], false, |_, _| (0, None));
        let anew = Topic { id: Uuid::from_u128(99), ..topic("a", 5) };
        assert!(find(&mut splits, &[anew]).is_empty());
        assert_eq!(places(&find(&mut splits, &[topic("a", 3), topic("other", 1)])), [("a".to_string(), 2)]);
    }

    #[test]
    fn a_position_is_read_as_it_was_written_and_a_later_builds_is_refused() {
        let text = r#"{"version":1,"topic":"a","topicId":"00000000-0000-0000-0000-000000000001","partition":1,"offset":42,"of":2,"known":2}"#;
        let splits = splits_of(&[topic("a", 2)], false, |_, _| (42, None));
        assert_eq!(serde_json::to_string(&splits[1]).unwrap(), text);
        assert_eq!(Split::read(&serde_json::from_str(text).unwrap()).unwrap(), splits[1]);
        let later = text.replace("\"version\":1", "\"version\":2");
        let error = Split::read(&serde_json::from_str(&later).unwrap()).unwrap_err().to_string();
        assert!(error.contains("a later one's"), "{error}");
    }
}
