//! What there is in a cluster: brokers, topics, partitions and their leaders, settings; and making topics.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest, DescribeConfigsRequest,
    MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use tokio::time::Instant;
use uuid::Uuid;

use crate::client::{Client, Lane, address};
use crate::error::KafkaError;

/// How long brokers may take to make or delete topics.
const ADMIN_MS: i32 = 30_000;
/// A topic that was just made is not known to every broker at once.
const NEW_TOPIC: Duration = Duration::from_secs(5);
const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;

/// A broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Its number in the cluster.
    pub id: i32,
    /// `host:port`.
    pub address: String,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number in the topic.
    pub id: i32,
    /// Who is asked for its records; `None` while there is nobody.
    pub leader: Option<i32>,
    /// Counts its leaders.
    pub leader_epoch: i32,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Which of all topics that ever had this name; nil from brokers that do not say.
    pub id: Uuid,
    /// The cluster's own.
    pub internal: bool,
    /// In the order of their numbers.
    pub partitions: Vec<Partition>,
}

/// What a cluster says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Its id, if it has one.
    pub id: Option<String>,
    /// Its brokers.
    pub brokers: Vec<Broker>,
    /// The topics that were asked for, and are there.
    pub topics: BTreeMap<String, Topic>,
    /// Those that were asked for, and why they are not there.
    pub missing: BTreeMap<String, KafkaError>,
}

/// A topic to be made.
#[derive(Clone, Debug)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: i32,
    /// How many copies; -1 for the cluster's default.
    pub replicas: i16,
    /// Its settings.
    pub config: Vec<(String, String)>,
}

impl NewTopic {
    /// With the cluster's default of copies and settings.
    pub fn new(name: &str, partitions: i32) -> Self {
        Self { name: name.to_string(), partitions, replicas: -1, config: Vec::new() }
    }
}

pub(crate) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_string()))
}

impl Client {
    /// Looks at these topics; none means all that may be seen. Topics that are not there are no error.
    pub async fn cluster(&self, topics: Option<&[String]>) -> Result<Cluster, KafkaError> {
        let deadline = Instant::now() + NEW_TOPIC;
        loop {
            let cluster = self.retrying(|| self.look(topics)).await?;
            let is_unknown = |error: &KafkaError| error.is(ResponseError::UnknownTopicOrPartition);
            if Instant::now() >= deadline || !cluster.missing.values().any(is_unknown) {
                return Ok(cluster);
            }
            tokio::time::sleep(self.settings().retry_wait).await;
        }
    }

    pub(crate) async fn look(&self, topics: Option<&[String]>) -> Result<Cluster, KafkaError> {
        let asked = topics.map(|topics| {
            topics.iter().map(|name| MetadataRequestTopic::default().with_name(Some(topic_name(name)))).collect()
        });
        let request = MetadataRequest::default().with_topics(asked).with_allow_auto_topic_creation(false);
        let connection = self.any().await?;
        let response = self.ask(&connection, &request).await?;
        KafkaError::check(response.error_code, || format!("broker {}, looking at topics", connection.address()))?;
        let brokers: HashMap<_, _> =
            response.brokers.iter().map(|broker| (broker.node_id.0, address(&broker.host, broker.port))).collect();
        self.learn(brokers);
        cluster_of(response, connection.address())
    }

    /// One topic, which must be there.
    pub async fn topic(&self, name: &str) -> Result<Topic, KafkaError> {
        let mut cluster = self.cluster(Some(&[name.to_string()])).await?;
        let missing = cluster.missing.remove(name);
        cluster.topics.remove(name).ok_or_else(|| {
            missing.unwrap_or_else(|| {
                KafkaError::answered(ResponseError::UnknownTopicOrPartition, format!("topic {name}"))
            })
        })
    }

    /// Makes a topic.
    pub async fn create_topic(&self, topic: &NewTopic) -> Result<(), KafkaError> {
        let config = |(name, value): &(String, String)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_string(name.clone()))
                .with_value(Some(StrBytes::from_string(value.clone())))
        };
        let creatable = CreatableTopic::default()
            .with_name(topic_name(&topic.name))
            .with_num_partitions(topic.partitions)
            .with_replication_factor(topic.replicas)
            .with_configs(topic.config.iter().map(config).collect());
        let request = CreateTopicsRequest::default().with_topics(vec![creatable]).with_timeout_ms(ADMIN_MS);
        self.retrying(|| async {
            let connection = self.any().await?;
            let answer = self.ask(&connection, &request).await?;
            answer.topics.iter().try_for_each(|answer| {
                KafkaError::check(answer.error_code, || {
                    let detail = answer.error_message.as_ref().map(|text| format!(" ({text})")).unwrap_or_default();
                    format!("making the topic {}{detail}", topic.name)
                })
            })
        })
        .await
    }

    /// Deletes a topic.
    pub async fn delete_topic(&self, name: &str) -> Result<(), KafkaError> {
        let request = DeleteTopicsRequest::default().with_topic_names(vec![topic_name(name)]).with_timeout_ms(ADMIN_MS);
        self.retrying(|| async {
            let connection = self.any().await?;
            let answer = self.ask(&connection, &request).await?;
            answer
                .responses
                .iter()
                .try_for_each(|answer| KafkaError::check(answer.error_code, || format!("deleting the topic {name}")))
        })
        .await
    }

    /// Gives a topic so many partitions in all.
    pub async fn create_partitions(&self, name: &str, count: i32) -> Result<(), KafkaError> {
        // Without assignments the brokers choose.
        let topic =
            CreatePartitionsTopic::default().with_name(topic_name(name)).with_count(count).with_assignments(None);
        let request = CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(ADMIN_MS);
        self.retrying(|| async {
            let connection = self.any().await?;
            let answer = self.ask(&connection, &request).await?;
            answer.results.iter().try_for_each(|answer| {
                KafkaError::check(answer.error_code, || format!("adding partitions to the topic {name}"))
            })
        })
        .await
    }

    /// Removes the records of a partition before an offset, as retention does.
    pub async fn delete_records(&self, topic: &str, partition: i32, before: i64) -> Result<(), KafkaError> {
        let deleted = DeleteRecordsPartition::default().with_partition_index(partition).with_offset(before);
        let deleted = DeleteRecordsTopic::default().with_name(topic_name(topic)).with_partitions(vec![deleted]);
        let request = DeleteRecordsRequest::default().with_topics(vec![deleted]).with_timeout_ms(ADMIN_MS);
        self.retrying(|| async {
            let leader = self.topic(topic).await?.partitions.into_iter().find(|found| found.id == partition);
            let address = leader.and_then(|found| found.leader).and_then(|leader| self.address_of(leader));
            let none = || KafkaError::transient(format!("topic {topic}, partition {partition} has no leader now"));
            let connection = self.connect(&address.ok_or_else(none)?, Lane::Control).await?;
            let answer = self.ask(&connection, &request).await?;
            answer.topics.iter().flat_map(|topic| &topic.partitions).try_for_each(|answer| {
                KafkaError::check(answer.error_code, || {
                    format!("removing records of topic {topic}, partition {partition}")
                })
            })
        })
        .await
    }

    /// Settings of a topic, by name.
    pub async fn topic_config(&self, topic: &str, names: &[&str]) -> Result<BTreeMap<String, String>, KafkaError> {
        let connection = self.any().await?;
        self.config(&connection, RESOURCE_TOPIC, topic, names).await
    }

    /// Settings of a broker of the cluster, by name.
    pub async fn broker_config(&self, names: &[&str]) -> Result<BTreeMap<String, String>, KafkaError> {
        self.cluster(Some(&[])).await?;
        let broker = self.known_brokers().first().copied().unwrap_or_default();
        let none = || KafkaError::transient("the cluster names no broker");
        let connection = self.connect(&self.address_of(broker).ok_or_else(none)?, Lane::Control).await?;
        self.config(&connection, RESOURCE_BROKER, &broker.to_string(), names).await
    }

    async fn config(
        &self,
        connection: &crate::connection::Connection,
        kind: i8,
        of: &str,
        names: &[&str],
    ) -> Result<BTreeMap<String, String>, KafkaError> {
        let keys = names.iter().map(|name| StrBytes::from_string((*name).to_string())).collect();
        let resource = DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(StrBytes::from_string(of.to_string()))
            .with_configuration_keys(Some(keys));
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let answer = self.ask(connection, &request).await?;
        let mut found = BTreeMap::new();
        for result in &answer.results {
            KafkaError::check(result.error_code, || format!("broker {}, settings of {of}", connection.address()))?;
            let pairs = result
                .configs
                .iter()
                .filter_map(|config| config.value.as_ref().map(|value| (config.name.to_string(), value.to_string())));
            found.extend(pairs);
        }
        Ok(found)
    }
}

fn cluster_of(response: MetadataResponse, asked: &str) -> Result<Cluster, KafkaError> {
    let mut cluster = Cluster {
        id: response.cluster_id.map(|id| id.to_string()),
        brokers: response
            .brokers
            .iter()
            .map(|broker| Broker { id: broker.node_id.0, address: address(&broker.host, broker.port) })
            .collect(),
        ..Cluster::default()
    };
    for topic in response.topics {
        let Some(name) = topic.name.map(|name| name.0.to_string()) else { continue };
        if let Err(error) = KafkaError::check(topic.error_code, || format!("topic {name}, broker {asked}")) {
            if error.is_transient() {
                return Err(error);
            }
            cluster.missing.insert(name, error);
            continue;
        }
        let mut partitions: Vec<_> = topic
            .partitions
            .iter()
            .map(|partition| Partition {
                id: partition.partition_index,
                leader: Some(partition.leader_id.0).filter(|leader| *leader >= 0),
                leader_epoch: partition.leader_epoch,
            })
            .collect();
        partitions.sort_by_key(|partition| partition.id);
        let found = Topic { name: name.clone(), id: topic.topic_id, internal: topic.is_internal, partitions };
        cluster.topics.insert(name, found);
    }
    Ok(cluster)
}
