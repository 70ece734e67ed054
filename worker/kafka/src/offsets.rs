//! Where partitions begin and end, and what a group has noted.

use std::collections::{BTreeMap, HashMap};

use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{BrokerId, GroupId, ListOffsetsRequest, OffsetCommitRequest, OffsetFetchRequest};
use kafka_protocol::protocol::StrBytes;

use crate::client::{Client, Coordinator, Lane};
use crate::error::KafkaError;
use crate::fetch::Isolation;
use crate::meta::topic_name;

/// A place in a partition that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The first record that is still there.
    Earliest,
    /// Behind the last record that may be read.
    Latest,
    /// The first record of this time, in milliseconds, or later.
    Timestamp(i64),
}

impl At {
    const fn wire(self) -> i64 {
        match self {
            Self::Earliest => -2,
            Self::Latest => -1,
            Self::Timestamp(time) => time,
        }
    }
}

impl Client {
    /// Where each of these partitions has that place. `None`: no record is of that time or later.
    pub async fn list_offsets(
        &self,
        partitions: &[(String, i32, At)],
        isolation: Isolation,
    ) -> Result<BTreeMap<(String, i32), Option<i64>>, KafkaError> {
        self.retrying(|| self.list_once(partitions, isolation)).await
    }

    async fn list_once(
        &self,
        partitions: &[(String, i32, At)],
        isolation: Isolation,
    ) -> Result<BTreeMap<(String, i32), Option<i64>>, KafkaError> {
        let mut names: Vec<String> = partitions.iter().map(|(topic, ..)| topic.clone()).collect();
        names.sort();
        names.dedup();
        let cluster = self.cluster(Some(&names)).await?;
        let mut by_leader: HashMap<i32, BTreeMap<&str, Vec<ListOffsetsPartition>>> = HashMap::new();
        for (topic, partition, at) in partitions {
            if let Some(error) = cluster.missing.get(topic) {
                return Err(error.clone());
            }
            let found =
                cluster.topics.get(topic).and_then(|topic| topic.partitions.iter().find(|p| p.id == *partition));
            let found =
                found.ok_or_else(|| KafkaError::refused(format!("topic {topic} has no partition {partition}")))?;
            let none = || KafkaError::transient(format!("topic {topic}, partition {partition} has no leader now"));
            let leader = found.leader.ok_or_else(none)?;
            let asked = ListOffsetsPartition::default()
                .with_partition_index(*partition)
                .with_current_leader_epoch(-1)
                .with_timestamp(at.wire());
            by_leader.entry(leader).or_default().entry(topic).or_default().push(asked);
        }
        let mut places = BTreeMap::new();
        for (leader, topics) in by_leader {
            let unknown = || KafkaError::transient(format!("broker {leader} is not known"));
            let connection = self.connect(&self.address_of(leader).ok_or_else(unknown)?, Lane::Control).await?;
            let topics = topics.into_iter().map(|(name, partitions)| {
                ListOffsetsTopic::default().with_name(topic_name(name)).with_partitions(partitions)
            });
            let request = ListOffsetsRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_isolation_level(isolation as i8)
                .with_topics(topics.collect());
            for topic in self.ask(&connection, &request).await?.topics {
                for answer in topic.partitions {
                    KafkaError::check(answer.error_code, || {
                        let (topic, partition) = (topic.name.as_str(), answer.partition_index);
                        format!("offsets of topic {topic}, partition {partition}, broker {}", connection.address())
                    })?;
                    let place = Some(answer.offset).filter(|offset| *offset >= 0);
                    places.insert((topic.name.0.to_string(), answer.partition_index), place);
                }
            }
        }
        Ok(places)
    }

    /// What a group has noted for these partitions; what it has never noted is left out.
    pub async fn group_offsets(
        &self,
        group: &str,
        partitions: &[(String, i32)],
    ) -> Result<BTreeMap<(String, i32), i64>, KafkaError> {
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in partitions {
            topics.entry(topic).or_default().push(*partition);
        }
        let topics = topics.into_iter().map(|(name, partitions)| {
            OffsetFetchRequestTopic::default().with_name(topic_name(name)).with_partition_indexes(partitions)
        });
        let request = OffsetFetchRequest::default()
            .with_group_id(GroupId(StrBytes::from_string(group.to_string())))
            .with_topics(Some(topics.collect()))
            .with_require_stable(true);
        let answer = self
            .ask_coordinator(Coordinator::Group, group, &request, None, |answer| {
                let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
                let first = partitions.map(|partition| partition.error_code).find(|code| *code != 0);
                if answer.error_code == 0 { first.unwrap_or(0) } else { answer.error_code }
            })
            .await?;
        let noted = answer.topics.iter().flat_map(|topic| {
            let name = topic.name.0.to_string();
            topic.partitions.iter().map(move |partition| ((name.clone(), partition.partition_index), partition))
        });
        let noted = noted.filter(|(_, partition)| partition.committed_offset >= 0);
        Ok(noted.map(|(key, partition)| (key, partition.committed_offset)).collect())
    }

    /// Notes offsets in a group, for others to look at.
    pub async fn commit_offsets(&self, group: &str, offsets: &[((String, i32), i64)]) -> Result<(), KafkaError> {
        let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for ((topic, partition), offset) in offsets {
            let noted = OffsetCommitRequestPartition::default()
                .with_partition_index(*partition)
                .with_committed_offset(*offset)
                .with_committed_leader_epoch(-1)
                .with_committed_metadata(Some(StrBytes::default()));
            topics.entry(topic).or_default().push(noted);
        }
        let topics = topics.into_iter().map(|(name, partitions)| {
            OffsetCommitRequestTopic::default().with_name(topic_name(name)).with_partitions(partitions)
        });
        // Nobody else is a member of the group: then a generation of -1 may write.
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(StrBytes::from_string(group.to_string())))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(topics.collect());
        let code = |answer: &kafka_protocol::messages::OffsetCommitResponse| {
            let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
            partitions.map(|partition| partition.error_code).find(|code| *code != 0).unwrap_or(0)
        };
        self.ask_coordinator(Coordinator::Group, group, &request, None, code).await.map(drop)
    }
}
