//! A topic of a Kafka cluster as a log.
//!
//! ```text
//!  append ──► producer (acks=all, idempotent) ──► topic ──► reader: assign, batches on a thread
//!               │ delivery reports                  ▲         of its own, through a bounded channel
//!               ▼                                   │
//!             callback                           control: head, topic id, applied offsets, watchdog
//! ```
//!
//! A topic's partitions are the log's, and the topic's id is the log's: a topic that was deleted and
//! made again has another id, so state never mixes two of them. Where reading begins is said by who
//! reads; the group's offsets are written for tools that show lag, and never read.
//!
//! In reading order:
//!
//! - [`log`]: the log itself
//! - [`options`]: how a cluster is reached, and the bounds
//! - [`properties`]: librdkafka's own settings, and those that would break a promise
//! - [`topics`]: what our topics must be like; making, describing and checking them

pub mod log;
pub mod options;
pub mod properties;
pub mod topics;

pub use log::{KafkaLog, KafkaMetrics};
pub use options::{KafkaOptions, OpenError};
pub use properties::{Properties, PropertyError};
pub use topics::{
    Cluster, Finding, PartitionDescription, Replication, Topic, TopicDescription, TopicKind,
};
