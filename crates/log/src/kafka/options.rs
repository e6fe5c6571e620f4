//! How a cluster is reached, the bounds, and why a log can't be opened.

use std::time::Duration;

use super::properties::{Properties, PropertyError};

/// How a cluster is reached, and how large things may get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaOptions {
    /// Brokers to ask first, as `host:port`, with commas between them.
    pub bootstrap_servers: String,
    /// Whatever else librdkafka is told.
    pub properties: Properties,
    /// The group whose offsets show, to tools, how far the fold is.
    pub group_id: String,
    /// How long a record may wait until all in-sync replicas have it. Past it the append fails, so
    /// it is shorter than a request may take.
    pub delivery_timeout: Duration,
    /// At most how many bytes of appends may wait to be acknowledged.
    pub max_queue_bytes: usize,
    /// At most how many records may.
    pub max_queue_records: usize,
    /// About how many bytes each reader fetches ahead of what it gave out.
    pub max_prefetch_bytes: usize,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            bootstrap_servers: "localhost:9092".to_owned(),
            properties: Properties::default(),
            group_id: "tally-projector".to_owned(),
            delivery_timeout: Duration::from_secs(5),
            max_queue_bytes: 64 * 1024 * 1024,
            max_queue_records: 262_144,
            max_prefetch_bytes: 32 * 1024 * 1024,
        }
    }
}

/// Why a topic can't be opened as a log, or can't be asked about. Nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// A property of librdkafka is none, or not to be set.
    #[error(transparent)]
    Property(#[from] PropertyError),
    /// No broker answers.
    #[error("Kafka can't be reached at {servers} (setting kafka.bootstrap_servers): {why}")]
    Unreachable {
        /// Who was asked.
        servers: String,
        /// What was heard last.
        why: String,
    },
    /// A broker answers, and does not let us in.
    #[error(
        "Kafka at {servers} does not let us in: {why}. Look at the credentials and certificates in kafka.properties"
    )]
    NotLetIn {
        /// Who was asked.
        servers: String,
        /// What was heard.
        why: String,
    },
    /// We may not do what has to be done.
    #[error("Kafka does not allow us to {doing}: {why}. Grant it to our principal (an ACL)")]
    NotAllowed {
        /// What was tried, as in `describe topic tally.interactions`.
        doing: String,
        /// What was heard.
        why: String,
    },
    /// There is no such topic.
    #[error("there is no topic {topic}: make it with `tally topics create`")]
    TopicMissing {
        /// Its name.
        topic: String,
    },
    /// The topic is not as it must be.
    #[error("topic {topic} can't be used: {}", findings.join("; "))]
    TopicUnfit {
        /// Its name.
        topic: String,
        /// What is wrong, and what to do.
        findings: Vec<String>,
    },
    /// Anything else that a client says.
    #[error("Kafka can't be asked to {doing}: {why}")]
    Failed {
        /// What was tried.
        doing: String,
        /// What was heard.
        why: String,
    },
}
