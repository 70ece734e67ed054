//! Transactions that another process ends, against a real broker.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::{Duration, Instant};

use support::{topic, values, write_in};
use weir_kafka::testing::{Kafka, Wishes};
use weir_kafka::{Client, Code, Ended, Identity, Isolation, Transaction};

const MINUTE: Duration = Duration::from_mins(1);

async fn committed(client: &Client, topic: &str) -> Vec<String> {
    values(client, topic, Isolation::ReadCommitted).await
}

/// Begins with the newest way that the broker knows, or the one before.
async fn begin(client: &Client, id: &str, old: bool) -> Transaction {
    let mut transaction = client.begin(id, MINUTE).await.unwrap();
    assert_eq!(transaction.version, 5, "the broker of the tests bumps epochs");
    if old {
        transaction.version = 4;
    }
    transaction
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_read_and_what_is_open_or_aborted_is_not() {
    let Some(kafka) = Kafka::shared("what_is_committed_is_read") else { return };
    let client = kafka.client();
    for old in [false, true] {
        let topic = topic(&client, "isolation", 1).await;
        let [a, b, c] = ["a", "b", "c"].map(|id| format!("{topic}-{id}"));
        let (first, second) = (begin(&client, &a, old).await, begin(&client, &b, old).await);
        write_in(&client, &topic, &first, &["a1", "a2"]).await;
        write_in(&client, &topic, &second, &["b1"]).await;
        write_in(&client, &topic, &first, &[]).await;
        assert!(committed(&client, &topic).await.is_empty());
        assert_eq!(values(&client, &topic, Isolation::ReadUncommitted).await, ["a1", "a2", "b1"]);
        assert_eq!(client.end(&second, false).await.unwrap(), Ended::Done);
        assert_eq!(client.end(&first, true).await.unwrap(), Ended::Done);
        let third = begin(&client, &c, old).await;
        write_in(&client, &topic, &third, &["c1"]).await;
        assert_eq!(committed(&client, &topic).await, ["a1", "a2"]);
        assert_eq!(client.end(&third, true).await.unwrap(), Ended::Done);
        assert_eq!(committed(&client, &topic).await, ["a1", "a2", "c1"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_ends_a_dead_ones_transaction_as_often_as_it_is_told() {
    let Some(kafka) = Kafka::shared("another_process_ends") else { return };
    for old in [false, true] {
        let writer = kafka.client();
        let topic = topic(&writer, "dead", 1).await;
        let transaction = begin(&writer, &format!("{topic}-0"), old).await;
        write_in(&writer, &topic, &transaction, &["1", "2", "3"]).await;
        drop(writer);
        let other = kafka.client();
        for _ in 0..3 {
            assert_eq!(other.end(&transaction, true).await.unwrap(), Ended::Done);
        }
        // The broker does not know the repetition in another version, but it knows how the transaction ended.
        let otherwise = Transaction { version: if old { 5 } else { 4 }, ..transaction.clone() };
        assert_eq!(other.end(&otherwise, true).await.unwrap(), Ended::Done);
        assert_eq!(committed(&other, &topic).await, ["1", "2", "3"]);
        let Ended::Otherwise(why) = other.end(&transaction, false).await.unwrap() else { panic!("it was committed") };
        assert!(why.contains("was committed"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_aborted_or_whose_id_was_taken_is_never_said_to_be_committed() {
    let Some(kafka) = Kafka::shared("a_transaction_that_was_aborted") else { return };
    let client = kafka.client();
    for old in [false, true] {
        let topic = topic(&client, "lost", 1).await;
        // Aborted by whoever cleans up, as what nobody commits is.
        let cleaned = begin(&client, &format!("{topic}-cleaned"), old).await;
        write_in(&client, &topic, &cleaned, &["x"]).await;
        assert_eq!(client.end(&cleaned, false).await.unwrap(), Ended::Done);
        // Fenced by the next user of the id, which has committed since.
        let fenced = begin(&client, &format!("{topic}-fenced"), old).await;
        write_in(&client, &topic, &fenced, &["y"]).await;
        let next = begin(&client, &fenced.id, old).await;
        let Ended::Otherwise(why) = client.end(&fenced, true).await.unwrap() else { panic!("it was fenced") };
        assert!(why.contains(&fenced.id), "{why}");
        write_in(&client, &topic, &next, &["z"]).await;
        assert_eq!(client.end(&next, true).await.unwrap(), Ended::Done);
        // Not known at all.
        let unknown =
            Transaction { id: format!("{topic}-unknown"), producer: Identity { id: 1, epoch: 0 }, version: 5 };
        for lost in [&cleaned, &fenced, &unknown] {
            let ended = client.end(lost, true).await.unwrap();
            assert!(matches!(ended, Ended::Otherwise(_)), "{}: {ended:?}", lost.id);
        }
        assert_eq!(committed(&client, &topic).await, ["z"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_outlives_its_time_is_told_as_aborted() {
    let Some(kafka) = Kafka::shared("a_transaction_that_outlives_its_time") else { return };
    let client = kafka.client();
    let topic = topic(&client, "late", 1).await;
    let transaction = client.begin(&format!("{topic}-0"), Duration::from_millis(100)).await.unwrap();
    write_in(&client, &topic, &transaction, &["x"]).await;
    let deadline = Instant::now() + MINUTE;
    // The broker looks for what is too old every ten seconds.
    while client.describe(&transaction.id).await.unwrap().unwrap().state == "Ongoing" {
        assert!(Instant::now() < deadline, "the broker has not aborted it");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let Ended::Otherwise(why) = client.end(&transaction, true).await.unwrap() else { panic!("it was too late") };
    assert!(why.contains("transaction.timeout.ms (100 ms)"), "{why}");
    let error = client.begin("too-long", Duration::from_hours(1)).await.unwrap_err();
    assert!(error.is(Code::InvalidTransactionTimeout), "{error}");
    assert!(error.to_string().contains("transaction.max.timeout.ms"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_open_is_found_by_its_prefix_and_shut_out() {
    let Some(kafka) = Kafka::shared("what_is_left_open") else { return };
    let client = kafka.client();
    let topic = topic(&client, "open", 1).await;
    let prefix = format!("{topic}.*+");
    let mut left = Vec::new();
    for i in 0..3 {
        let transaction = begin(&client, &format!("{prefix}{i}"), i == 1).await;
        write_in(&client, &topic, &transaction, &["x"]).await;
        left.push(transaction);
    }
    assert_eq!(client.end(&left[2], true).await.unwrap(), Ended::Done);
    let mut open: Vec<_> = client.open_transactions(&prefix).await.unwrap().into_iter().map(|open| open.id).collect();
    open.sort();
    assert_eq!(open, [left[0].id.clone(), left[1].id.clone()]);
    for id in &open {
        client.begin(id, MINUTE).await.unwrap();
    }
    assert!(client.open_transactions(&prefix).await.unwrap().is_empty());
    // The one that was shut out writes no more.
    let zombie = support::producer(
        &client,
        &topic,
        1,
        left[0].producer,
        Some(&left[0]),
        weir_kafka::ProducerSettings::default(),
    );
    zombie.add(0, &weir_kafka::Row { value: Some(b"zombie"), ..weir_kafka::Row::default() }).unwrap();
    zombie.flush().await.unwrap_err();
    assert_eq!(committed(&client, &topic).await, ["x"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_a_broker_starts_again_what_is_open_is_listed_or_cannot_be_told() {
    let Some(mut kafka) = Kafka::start("while_a_broker_starts_again", &Wishes::default()) else { return };
    let client = kafka.client();
    let topic = topic(&client, "restarted", 1).await;
    let mut open = Vec::new();
    for i in 0..8 {
        let transaction = begin(&client, &format!("{topic}-{i}"), false).await;
        write_in(&client, &topic, &transaction, &["x"]).await;
        open.push(transaction.id);
    }
    for _ in 0..2 {
        let (prefix, asking, wanted) = (topic.clone(), kafka.client(), open.clone());
        kafka.kill(0);
        let listing = tokio::spawn(async move {
            let deadline = Instant::now() + 3 * MINUTE;
            loop {
                assert!(Instant::now() < deadline, "the broker does not come back");
                if let Ok(listed) = asking.open_transactions_now(&prefix).await {
                    let mut listed: Vec<_> = listed.into_iter().map(|listed| listed.id).collect();
                    listed.sort();
                    assert_eq!(listed, wanted, "the first list after a start");
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        tokio::task::block_in_place(|| kafka.revive(0));
        listing.await.unwrap();
    }
}
