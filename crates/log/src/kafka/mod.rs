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
//! - [`options`]: how a cluster is reached, the bounds, and why a log can't be opened
//! - [`properties`]: librdkafka's own settings, and those that would break a promise
//! - [`topics`]: what our topics must be like; making, describing and checking them
//! - `log`: the log itself, put together of
//!   - `producer`: appends on their way; `delivery`: what becomes of them; `ages`: their deadline
//!   - `reader`: batches, on a thread of their own
//!   - `control`: what is asked: ends, the topic's id; and the offsets that others see
//!   - `health`: whether log and threads work
//! - `client`, `native`: librdkafka's clients as we set them up; what the safe wrapper lacks
//! - `metrics`: what Prometheus sees of the clients

mod ages;
mod client;
mod control;
mod delivery;
mod health;
mod log;
mod metrics;
mod native;
pub mod options;
mod producer;
pub mod properties;
mod reader;
#[cfg(test)]
mod tests;
pub mod topics;

pub use log::KafkaLog;
pub use metrics::{KafkaMetrics, METRICS};
pub use options::{KafkaOptions, OpenError};
pub use properties::{Properties, PropertyError};
pub use topics::{
    Cluster, Finding, PartitionDescription, Replication, Topic, TopicDescription, TopicKind,
};
