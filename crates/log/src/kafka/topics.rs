//! What our topics must be like; making, describing and checking them.

use std::collections::BTreeMap;

use tally_domain::{LogId, Partition};

use super::options::{KafkaOptions, OpenError};

/// What a topic is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicKind {
    /// The events: kept for ever.
    Interactions,
    /// The catalogue: one partition, the last change of each resource is kept.
    Resources,
    /// Records that could not be folded, for others to see: kept for ever, a copy.
    DeadLetters,
}

/// A topic of ours as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name, as in `tally.interactions`.
    pub name: String,
    /// What it is for.
    pub kind: TopicKind,
    /// How many partitions it has.
    pub partitions: u32,
}

/// How many copies there are of each partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replication {
    /// Replicas of each partition; 0: one per broker, at most 3.
    pub factor: u32,
    /// Replicas that must have a record before it is acknowledged; 0: one less than there are, at
    /// least 1.
    pub min_insync: u32,
}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Made when the topic was made, never again.
    pub id: LogId,
    /// By number.
    pub partitions: Vec<PartitionDescription>,
    /// Its configuration, values in force, defaults included.
    pub configs: BTreeMap<String, String>,
}

/// Who has a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Its number.
    pub partition: Partition,
    /// The broker that leads it; `None` where none does.
    pub leader: Option<i32>,
    /// All brokers that shall have it.
    pub replicas: Vec<i32>,
    /// Those that have all of it.
    pub in_sync: Vec<i32>,
}

/// Something about a topic that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether the topic can't be used so; else it is a warning.
    pub refuses: bool,
    /// What is wrong, and what to do.
    pub what: String,
}

/// A cluster, asked about its topics.
pub struct Cluster {
    _options: KafkaOptions,
}

impl Cluster {
    /// Reaches the cluster; waits for it up to a limit.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn connect(options: &KafkaOptions) -> Result<Self, OpenError> {
        Ok(Self {
            _options: options.clone(),
        })
    }

    /// Makes the topic; `false` where it was there already, whatever it is like.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn create(&self, _topic: &Topic, _replication: Replication) -> Result<bool, OpenError> {
        Ok(false)
    }

    /// The topic as it is; `None` where there is none.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn describe(&self, _topic: &str) -> Result<Option<TopicDescription>, OpenError> {
        Ok(None)
    }
}

impl Topic {
    /// What is wrong with a topic as it is, or worth knowing.
    #[must_use]
    pub fn findings(&self, _description: &TopicDescription) -> Vec<Finding> {
        Vec::new()
    }
}
