//! What can go wrong, and what may be done about it.

use std::fmt;

use kafka_protocol::error::ResponseError;

/// What may be done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The network, or a broker that is busy with itself: trying again later may help.
    Transient,
    /// A setting, a right or a topic is not as it must be: somebody has to change something.
    Refused,
    /// Bytes that are not what they should be.
    Corrupt,
    /// Another producer has taken over the transactional id, or the transaction was ended by somebody else.
    Fenced,
    /// Offsets that were to be read are not there (any more).
    OffsetGone,
}

/// An error, told with the broker, topic or transaction that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaError {
    /// What may be done about it.
    pub kind: ErrorKind,
    /// What the broker answered, if it did.
    pub code: Option<ResponseError>,
    message: String,
}

impl KafkaError {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, code: None, message: message.into() }
    }

    pub(crate) fn transient(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Transient, message)
    }

    /// Something that has to be changed, as whoever uses the client says it.
    pub fn refusal(message: impl Into<String>) -> Self {
        Self::refused(message)
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, message)
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// What a broker answered to `doing`.
    pub(crate) fn answered(code: ResponseError, doing: impl fmt::Display) -> Self {
        let remedy = remedy(code);
        let remedy = if remedy.is_empty() { String::new() } else { format!("; {remedy}") };
        Self { kind: kind_of(code), code: Some(code), message: format!("{doing}: {}{remedy}", name_of(code)) }
    }

    /// An error code of a response: `Ok` for 0.
    pub(crate) fn check(code: i16, doing: impl FnOnce() -> String) -> Result<(), Self> {
        match ResponseError::try_from_code(code) {
            None => Ok(()),
            Some(code) => Err(Self::answered(code, doing())),
        }
    }

    /// Whether the broker answered this.
    pub fn is(&self, code: ResponseError) -> bool {
        self.code == Some(code)
    }

    /// Trying again may help.
    pub fn is_transient(&self) -> bool {
        self.kind == ErrorKind::Transient
    }

    /// The same, with what it was needed for before it.
    #[must_use]
    pub fn while_doing(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for KafkaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for KafkaError {}

/// As Kafka's documentation writes it: `UNKNOWN_TOPIC_OR_PARTITION (3)`.
fn name_of(code: ResponseError) -> String {
    if let ResponseError::Unknown(code) = code {
        return format!("the broker answered with error {code}");
    }
    let mut name = String::new();
    for (i, letter) in format!("{code:?}").chars().enumerate() {
        if letter.is_uppercase() && i > 0 {
            name.push('_');
        }
        name.extend(letter.to_uppercase());
    }
    format!("the broker answered {name} ({})", code.code())
}

fn kind_of(code: ResponseError) -> ErrorKind {
    use ResponseError as E;
    match code {
        E::OffsetOutOfRange => ErrorKind::OffsetGone,
        E::CorruptMessage => ErrorKind::Corrupt,
        E::InvalidProducerEpoch | E::ProducerFenced | E::InvalidProducerIdMapping | E::InvalidTxnState => {
            ErrorKind::Fenced
        }
        // Answers of brokers that are starting, electing or moving, which Kafka's own clients also try again.
        E::LeaderNotAvailable
        | E::NotLeaderOrFollower
        | E::RequestTimedOut
        | E::BrokerNotAvailable
        | E::ReplicaNotAvailable
        | E::NetworkException
        | E::CoordinatorLoadInProgress
        | E::CoordinatorNotAvailable
        | E::NotCoordinator
        | E::NotEnoughReplicas
        | E::NotEnoughReplicasAfterAppend
        | E::NotController
        | E::ConcurrentTransactions
        | E::KafkaStorageError
        | E::FetchSessionIdNotFound
        | E::InvalidFetchSessionEpoch
        | E::ListenerNotFound
        | E::FencedLeaderEpoch
        | E::UnknownLeaderEpoch
        | E::OffsetNotAvailable
        | E::PreferredLeaderNotAvailable
        | E::EligibleLeadersNotAvailable
        | E::UnstableOffsetCommit
        | E::ThrottlingQuotaExceeded => ErrorKind::Transient,
        _ => ErrorKind::Refused,
    }
}

/// What the reader of the message can do.
const fn remedy(code: ResponseError) -> &'static str {
    use ResponseError as E;
    match code {
        E::UnknownTopicOrPartition => {
            "create the topic, or correct its name; without the right to describe it, it is unknown too"
        }
        E::UnknownTopicId | E::InconsistentTopicId => {
            "the topic was deleted and made again, and its offsets mean other records: start the job anew"
        }
        E::TopicAuthorizationFailed => "grant the user the right to read, write and describe the topic",
        E::GroupAuthorizationFailed => "grant the user the right to read the group",
        E::ClusterAuthorizationFailed => "grant the user the right to write idempotently on the cluster",
        E::TransactionalIdAuthorizationFailed => {
            "grant the user the right to write and describe transactional ids with this prefix"
        }
        E::SaslAuthenticationFailed => "check the user's name and password in 'properties.sasl.jaas.config'",
        E::UnsupportedSaslMechanism => "set 'properties.sasl.mechanism' to one that the broker offers",
        E::InvalidTransactionTimeout => {
            "lower 'properties.transaction.timeout.ms', or raise the broker's transaction.max.timeout.ms"
        }
        E::MessageTooLarge | E::RecordListTooLarge => {
            "lower 'properties.batch.size', or raise the topic's max.message.bytes"
        }
        E::OffsetOutOfRange => "the records were removed by the topic's retention, or the topic was made again",
        E::UnsupportedForMessageFormat => "the topic's messages are older than Kafka 0.11: copy them into a new topic",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_with_kafkas_name_for_it_and_what_can_be_done() {
        let error = KafkaError::check(3, || "topic orders, broker 127.0.0.1:9092".to_string()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "topic orders, broker 127.0.0.1:9092: the broker answered UNKNOWN_TOPIC_OR_PARTITION (3); create the topic, or correct its name; \
             without the right to describe it, it is unknown too"
        );
        assert_eq!(error.kind, ErrorKind::Refused);
        assert!(KafkaError::check(0, String::new).is_ok());
        let odd = KafkaError::check(999, || "x".to_string()).unwrap_err();
        assert_eq!(odd.to_string(), "x: the broker answered with error 999");
    }

    #[test]
    fn brokers_that_move_are_tried_again_and_what_is_gone_is_not() {
        for (code, kind) in [
            (6, ErrorKind::Transient),
            (15, ErrorKind::Transient),
            (51, ErrorKind::Transient),
            (1, ErrorKind::OffsetGone),
            (2, ErrorKind::Corrupt),
            (48, ErrorKind::Fenced),
            (90, ErrorKind::Fenced),
            (29, ErrorKind::Refused),
            (58, ErrorKind::Refused),
        ] {
            assert_eq!(KafkaError::check(code, String::new).unwrap_err().kind, kind, "{code}");
        }
    }
}
