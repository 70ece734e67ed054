//! A client of Kafka, for Weir's connectors: it reads partitions from given offsets, and writes in transactions that any process can end.
//!
//! What is said on the wire is encoded by `kafka-protocol`; connections, retries, batches of records, fetching and producing are
//! here. There are no consumer groups: which partition is read by whom, and from where, stands in Weir's checkpoints.
//!
//! Everything that waits has a time-out, everything that gathers has a bound, and every error says which broker, topic or
//! transaction it is about and what can be done.
#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::too_many_lines))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod api;
mod client;
mod compress;
mod connection;
mod error;
mod fetch;
mod meta;
mod offsets;
mod produce;
mod properties;
mod records;
mod sasl;
mod security;
pub mod testing;
mod transactions;

pub use client::Client;
pub use compress::Compression;
pub use error::{ErrorKind, KafkaError};
pub use fetch::{Assigned, Chunk, Fetcher, FetcherSettings, Isolation, Progress};
pub use kafka_protocol::error::ResponseError as Code;
pub use meta::{Broker, Cluster, NewTopic, Partition, Topic};
pub use offsets::At;
pub use produce::{Cut, Producer, ProducerSettings, Row};
pub use properties::{
    Properties, PropertyDoc, PropertyError, Purpose, Reset, known_properties, properties_without_effect,
};
pub use records::{BatchBuilder, Header, RecordBatch, RecordRange, batches, headers};
pub use sasl::{Mechanism, Sasl};
pub use security::{Certificates, Settings};
pub use transactions::{ActiveProducer, Ended, Identity, ListedTransaction, Transaction, TransactionState};
pub use uuid::Uuid;
