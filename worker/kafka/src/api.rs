//! Which messages the client sends, and in which versions.
//!
//! The lowest versions are those that brokers from 2.4 on take; the highest are what this client knows how to mean. Where versions mean
//! different things the place that sends says so: fetching by topic id begins with 13, transactions whose partitions the
//! broker adds by itself with Produce 12 and `EndTxn` 5.

use std::collections::HashMap;

use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, ApiKey, ApiVersionsResponse, CreatePartitionsRequest,
    CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteRecordsRequest, DeleteRecordsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    DescribeProducersRequest, DescribeProducersResponse, DescribeTransactionsRequest, DescribeTransactionsResponse,
    EndTxnRequest, EndTxnResponse, FetchRequest, FetchResponse, FindCoordinatorRequest, FindCoordinatorResponse,
    InitProducerIdRequest, InitProducerIdResponse, ListOffsetsRequest, ListOffsetsResponse, ListTransactionsRequest,
    ListTransactionsResponse, MetadataRequest, MetadataResponse, OffsetCommitRequest, OffsetCommitResponse,
    OffsetFetchRequest, OffsetFetchResponse, ProduceRequest, ProduceResponse, SaslAuthenticateRequest,
    SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion};

use crate::error::KafkaError;

/// A request with its response.
pub(crate) trait Call: Encodable + HeaderVersion + Send + Sync {
    const KEY: ApiKey;
    const MIN: i16;
    const MAX: i16;
    type Response: Decodable + HeaderVersion + Send;
}

macro_rules! calls {
    ($($request:ty => $response:ty, $key:ident, $min:literal..=$max:literal;)*) => {
        $(impl Call for $request {
            const KEY: ApiKey = ApiKey::$key;
            const MIN: i16 = $min;
            const MAX: i16 = $max;
            type Response = $response;
        })*
    };
}

calls! {
    MetadataRequest => MetadataResponse, Metadata, 7..=13;
    ListOffsetsRequest => ListOffsetsResponse, ListOffsets, 4..=7;
    FetchRequest => FetchResponse, Fetch, 11..=16;
    ProduceRequest => ProduceResponse, Produce, 7..=12;
    FindCoordinatorRequest => FindCoordinatorResponse, FindCoordinator, 1..=3;
    InitProducerIdRequest => InitProducerIdResponse, InitProducerId, 1..=5;
    AddPartitionsToTxnRequest => AddPartitionsToTxnResponse, AddPartitionsToTxn, 0..=3;
    EndTxnRequest => EndTxnResponse, EndTxn, 0..=5;
    DescribeTransactionsRequest => DescribeTransactionsResponse, DescribeTransactions, 0..=0;
    ListTransactionsRequest => ListTransactionsResponse, ListTransactions, 0..=2;
    DescribeProducersRequest => DescribeProducersResponse, DescribeProducers, 0..=0;
    OffsetCommitRequest => OffsetCommitResponse, OffsetCommit, 7..=8;
    OffsetFetchRequest => OffsetFetchResponse, OffsetFetch, 5..=7;
    CreateTopicsRequest => CreateTopicsResponse, CreateTopics, 4..=7;
    DeleteTopicsRequest => DeleteTopicsResponse, DeleteTopics, 3..=5;
    CreatePartitionsRequest => CreatePartitionsResponse, CreatePartitions, 1..=3;
    DeleteRecordsRequest => DeleteRecordsResponse, DeleteRecords, 1..=2;
    DescribeConfigsRequest => DescribeConfigsResponse, DescribeConfigs, 2..=4;
    SaslHandshakeRequest => SaslHandshakeResponse, SaslHandshake, 1..=1;
    SaslAuthenticateRequest => SaslAuthenticateResponse, SaslAuthenticate, 0..=2;
}

/// The name of a feature that a whole cluster has agreed on: 2 and above are transactions whose epoch each end bumps.
const TRANSACTION_VERSION: &str = "transaction.version";

/// What a broker understands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Versions {
    ranges: HashMap<i16, (i16, i16)>,
    transaction_version: i16,
}

impl Versions {
    pub(crate) fn of(response: &ApiVersionsResponse) -> Self {
        Self {
            ranges: response.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect(),
            transaction_version: response
                .finalized_features
                .iter()
                .find(|feature| feature.name.as_str() == TRANSACTION_VERSION)
                .map_or(0, |feature| feature.max_version_level),
        }
    }

    /// The highest version that both sides know.
    pub(crate) fn pick<C: Call>(&self, address: &str) -> Result<i16, KafkaError> {
        self.pick_up_to::<C>(C::MAX, address)
    }

    /// The same, and not above `most`.
    pub(crate) fn pick_up_to<C: Call>(&self, most: i16, address: &str) -> Result<i16, KafkaError> {
        let (lowest, highest) = self.ranges.get(&(C::KEY as i16)).copied().unwrap_or((0, -1));
        let version = highest.min(C::MAX).min(most);
        if version < C::MIN || version < lowest {
            return Err(KafkaError::refused(format!(
                "broker {address} takes {:?} in versions {lowest} to {highest}, and this client sends {} to {}: brokers from Kafka 2.4 on are \
                 understood, for transactions from 3.0 on",
                C::KEY,
                C::MIN,
                C::MAX.min(most)
            )));
        }
        Ok(version)
    }

    /// The broker adds the partitions of a transaction by itself, and each end bumps the epoch.
    pub(crate) fn bumps_epochs(&self) -> bool {
        let takes = |key: ApiKey, version: i16| {
            self.ranges.get(&(key as i16)).is_some_and(|(low, high)| (*low..=*high).contains(&version))
        };
        self.transaction_version >= 2 && takes(ApiKey::EndTxn, 5) && takes(ApiKey::Produce, 12)
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::api_versions_response::ApiVersion;

    use super::*;

    fn broker(key: ApiKey, min: i16, max: i16) -> Versions {
        let api = ApiVersion::default().with_api_key(key as i16).with_min_version(min).with_max_version(max);
        Versions::of(&ApiVersionsResponse::default().with_api_keys(vec![api]))
    }

    #[test]
    fn the_highest_version_that_both_sides_know_is_spoken() {
        assert_eq!(broker(ApiKey::Fetch, 4, 18).pick::<FetchRequest>("b").unwrap(), 16);
        assert_eq!(broker(ApiKey::Fetch, 4, 12).pick::<FetchRequest>("b").unwrap(), 12);
        assert_eq!(broker(ApiKey::EndTxn, 0, 5).pick_up_to::<EndTxnRequest>(4, "b").unwrap(), 4);
        let error = broker(ApiKey::Fetch, 0, 10).pick::<FetchRequest>("old:9092").unwrap_err();
        assert!(error.to_string().contains("old:9092") && error.to_string().contains("Kafka 2.4"), "{error}");
        assert!(broker(ApiKey::Fetch, 17, 20).pick::<FetchRequest>("b").is_err());
        assert!(broker(ApiKey::Produce, 0, 11).pick::<FetchRequest>("b").is_err());
    }
}
