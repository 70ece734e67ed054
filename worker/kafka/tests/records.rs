//! Reading and writing, against a real broker.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;

use support::{Reader, producer, topic, values};
use weir_kafka::testing::{Kafka, Wishes};
use weir_kafka::{
    At, Code, Compression, FetcherSettings, Header, Identity, Isolation, NewTopic, ProducerSettings, Row, headers,
};

type Read = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>, i64);

#[tokio::test(flavor = "multi_thread")]
async fn records_of_every_packing_come_back_with_keys_headers_tombstones_and_times() {
    let Some(kafka) = Kafka::shared("records_of_every_packing_come_back") else { return };
    let client = kafka.client();
    for compression in Compression::ALL {
        let topic = topic(&client, "packed", 1).await;
        let identity = client.init_producer(None).await.unwrap();
        let settings = ProducerSettings { compression, batch_bytes: 2000, ..ProducerSettings::default() };
        let writer = producer(&client, &topic, 1, identity, None, settings);
        let mut written: Vec<Read> = Vec::new();
        for i in 0..500i64 {
            let key = (i % 3 > 0).then(|| format!("key {i}").into_bytes());
            let value = (i % 7 > 0).then(|| format!("value {i} {}", "x".repeat(i as usize)).into_bytes());
            let name = format!("h{i}");
            let with = [Header { name: &name, value: Some(b"1") }, Header { name: "none", value: None }];
            let with = &with[..(i % 3) as usize];
            let row =
                Row { key: key.as_deref(), value: value.as_deref(), headers: with, timestamp: 1_700_000_000_000 - i };
            writer.add(0, &row).unwrap();
            let with = with.iter().map(|header| (header.name.to_string(), header.value.map(<[u8]>::to_vec))).collect();
            let timestamp = row.timestamp;
            written.push((key, value, with, timestamp));
        }
        writer.flush().await.unwrap();
        // A packing that the broker could not read it would have refused.
        let reader = Reader::new(&client, &topic, &[(0, 100)], FetcherSettings::default()).await;
        let mut read: Vec<(i64, Read)> = Vec::new();
        while read.len() < 400 {
            let Some(mut chunk) = reader.fetcher.take(0) else {
                tokio::task::yield_now().await;
                continue;
            };
            while let Some((_, buffer, records)) = chunk.next_batch().unwrap() {
                read.extend(records.into_iter().map(|record| {
                    let field = |range: Option<std::ops::Range<usize>>| range.map(|range| buffer[range].to_vec());
                    let with = headers(&buffer[record.headers]);
                    let with = with.map(|header| (header.name.to_string(), header.value.map(<[u8]>::to_vec))).collect();
                    (record.offset, (field(record.key), field(record.value), with, record.timestamp))
                }));
            }
        }
        let wanted: Vec<_> = (100..500).zip(written.into_iter().skip(100)).collect();
        assert_eq!(read, wanted, "{compression:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn places_are_found_by_time_and_what_a_group_has_noted_is_told() {
    let Some(kafka) = Kafka::shared("places_are_found_by_time") else { return };
    let client = kafka.client();
    let topic = topic(&client, "places", 2).await;
    let identity = client.init_producer(None).await.unwrap();
    let writer = producer(&client, &topic, 2, identity, None, ProducerSettings::default());
    for i in 0..10 {
        writer.add(0, &Row { value: Some(b"x"), timestamp: 1000 * i, ..Row::default() }).unwrap();
    }
    writer.flush().await.unwrap();
    let place = async |at| {
        let asked = [(topic.clone(), 0, at), (topic.clone(), 1, at)];
        let found = client.list_offsets(&asked, Isolation::ReadCommitted).await.unwrap();
        (found[&(topic.clone(), 0)], found[&(topic.clone(), 1)])
    };
    assert_eq!(place(At::Earliest).await, (Some(0), Some(0)));
    assert_eq!(place(At::Latest).await, (Some(10), Some(0)));
    assert_eq!(place(At::Timestamp(4500)).await, (Some(5), None));
    assert_eq!(place(At::Timestamp(10_000)).await, (None, None));

    let partitions = [(topic.clone(), 0), (topic.clone(), 1)];
    let group = format!("group of {topic}");
    assert_eq!(client.group_offsets(&group, &partitions).await.unwrap(), BTreeMap::new());
    client.commit_offsets(&group, &[(partitions[0].clone(), 7)]).await.unwrap();
    let noted = client.group_offsets(&group, &partitions).await.unwrap();
    assert_eq!(noted, [(partitions[0].clone(), 7)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_that_is_gone_and_a_topic_that_is_another_are_told_and_a_place_can_be_sought() {
    let Some(kafka) = Kafka::shared("an_offset_that_is_gone") else { return };
    let client = kafka.client();
    let topic = topic(&client, "gone", 1).await;
    let write = async || {
        let identity = client.init_producer(None).await.unwrap();
        let writer = producer(&client, &topic, 1, identity, None, ProducerSettings::default());
        for i in 0..10 {
            writer.add(0, &Row { value: Some(i.to_string().as_bytes()), ..Row::default() }).unwrap();
        }
        writer.flush().await.unwrap();
    };
    write().await;
    client.delete_records(&topic, 0, 6).await.unwrap();
    let reader = Reader::new(&client, &topic, &[(0, 2)], FetcherSettings::default()).await;
    let (partition, error) = reader.failure().await;
    assert_eq!(partition, Some(0));
    assert!(error.is_offset_gone() && error.to_string().contains("retention"), "{error}");
    assert!(error.to_string().contains("offset 2"), "{error}");
    reader.fetcher.seek(0, 6);
    let read = reader.values_to(0, 10).await.unwrap();
    assert_eq!(read.first(), Some(&(6, "6".to_string())));

    client.delete_topic(&topic).await.unwrap();
    let again = async || client.create_topic(&NewTopic::new(&topic, 1)).await;
    while let Err(error) = again().await {
        assert!(error.is(Code::TopicAlreadyExists), "{error}");
    }
    write().await;
    let (_, error) = reader.failure().await;
    let (missing, other) = (error.is(Code::UnknownTopicOrPartition), error.is(Code::InconsistentTopicId));
    assert!(missing || other, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_partition_that_nobody_takes_does_not_hold_up_the_others_nor_fill_the_memory() {
    let Some(kafka) = Kafka::shared("one_partition_that_nobody_takes") else { return };
    let client = kafka.client();
    let topic = topic(&client, "full", 2).await;
    let identity = client.init_producer(None).await.unwrap();
    let writer = producer(&client, &topic, 2, identity, None, ProducerSettings::default());
    let value = vec![b'x'; 10_000];
    for i in 0..2000 {
        writer.add(i % 2, &Row { value: Some(&value), ..Row::default() }).unwrap();
        if writer.is_full() {
            writer.room().await.unwrap();
        }
    }
    writer.flush().await.unwrap();
    let settings =
        FetcherSettings { buffered_bytes: 2 << 20, partition_bytes: 256 << 10, ..FetcherSettings::default() };
    let reader = Reader::new(&client, &topic, &[(0, 0), (1, 0)], settings).await;
    assert_eq!(reader.values_to(1, 1000).await.unwrap().len(), 1000);
    let mut waiting = 0;
    while let Some(chunk) = reader.fetcher.take(0) {
        waiting = chunk.end;
        if reader.fetcher.has(0) {
            std::mem::forget(chunk);
        } else {
            break;
        }
    }
    assert!(waiting < 300, "{waiting} records of 10 kB were held");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_with_what_to_do() {
    let Some(kafka) = Kafka::shared("what_cannot_be_is_refused") else { return };
    let client = kafka.client();
    let error = client.topic("no-such-topic").await.unwrap_err().to_string();
    assert!(error.contains("topic no-such-topic") && error.contains("create the topic"), "{error}");
    let topic = topic(&client, "small", 1).await;
    let writer = producer(&client, &topic, 1, Identity::NONE, None, ProducerSettings::default());
    writer.add(0, &Row { value: Some(&vec![1; 3 << 20]), ..Row::default() }).unwrap();
    let error = writer.flush().await.unwrap_err().to_string();
    assert!(error.contains(&topic) && error.contains("max.message.bytes"), "{error}");
    assert!(values(&client, &topic, Isolation::ReadUncommitted).await.is_empty());
    assert!(
        client.broker_config(&["transaction.max.timeout.ms"]).await.unwrap()["transaction.max.timeout.ms"] == "900000"
    );
    assert_eq!(client.topic_config(&topic, &["cleanup.policy"]).await.unwrap()["cleanup.policy"], "delete");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_and_comes_back_loses_and_doubles_nothing() {
    let Some(mut kafka) = Kafka::start("a_broker_that_is_killed", &Wishes::default()) else { return };
    let client = kafka.client();
    let topic = topic(&client, "killed", 2).await;
    let identity = client.init_producer(None).await.unwrap();
    let settings =
        ProducerSettings { batch_bytes: 500, linger: std::time::Duration::ZERO, ..ProducerSettings::default() };
    let writer = producer(&client, &topic, 2, identity, None, settings);
    let reader = Reader::new(&client, &topic, &[(0, 0), (1, 0)], FetcherSettings::default()).await;
    for i in 0..3000 {
        writer.add(i % 2, &Row { value: Some((i / 2).to_string().as_bytes()), ..Row::default() }).unwrap();
        if i % 1000 == 500 {
            kafka.kill(0);
            kafka.revive(0);
        }
    }
    writer.flush().await.unwrap();
    for partition in 0..2 {
        let read = reader.values_to(partition, 1500).await.unwrap();
        let wanted: Vec<_> = (0..1500).map(|i| (i, i.to_string())).collect();
        assert_eq!(read, wanted, "partition {partition}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_moves_is_followed_by_readers_and_writers() {
    let wishes = Wishes { more_brokers: 1, ..Wishes::default() };
    let Some(mut kafka) = Kafka::start("a_leader_that_moves", &wishes) else { return };
    let client = kafka.client();
    let topic = "moves".to_string();
    let mut made = NewTopic::new(&topic, 4);
    made.replicas = 2;
    let deadline = std::time::Instant::now() + support::PATIENCE;
    // The second broker may not have joined yet.
    while let Err(error) = client.create_topic(&made).await {
        assert!(std::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let identity = client.init_producer(None).await.unwrap();
    let settings = ProducerSettings { batch_bytes: 500, ..ProducerSettings::default() };
    let writer = producer(&client, &topic, 4, identity, None, settings);
    let reader = Reader::new(&client, &topic, &[(0, 0), (1, 0), (2, 0), (3, 0)], FetcherSettings::default()).await;
    let leaders = async || {
        let found = client.topic(&topic).await.unwrap().partitions;
        found.iter().filter_map(|partition| partition.leader).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(leaders().await.len(), 2, "both lead");
    for i in 0..4000 {
        writer.add(i % 4, &Row { value: Some((i / 4).to_string().as_bytes()), ..Row::default() }).unwrap();
        if i == 2000 {
            kafka.kill(1);
        }
    }
    writer.flush().await.unwrap();
    assert_eq!(leaders().await.len(), 1);
    for partition in 0..4 {
        let read = reader.values_to(partition, 1000).await.unwrap();
        assert_eq!(read, (0..1000).map(|i| (i, i.to_string())).collect::<Vec<_>>(), "partition {partition}");
    }
}
