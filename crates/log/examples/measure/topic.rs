//! A topic to measure on.

use std::error::Error;

use tally_log::LogMetrics;
use tally_log::kafka::{
    Cluster, KafkaLog, KafkaMetrics, KafkaOptions, Replication, Topic, TopicKind,
};

pub(crate) const PARTITIONS: u32 = 16;

pub(crate) fn options(servers: &str) -> KafkaOptions {
    KafkaOptions {
        bootstrap_servers: servers.to_owned(),
        ..KafkaOptions::default()
    }
}

/// Opens a topic as the service does; it is made where there is none.
pub(crate) fn open(servers: &str, name: &str) -> Result<KafkaLog, Box<dyn Error + Send + Sync>> {
    let options = options(servers);
    let topic = Topic {
        name: name.to_owned(),
        kind: TopicKind::Interactions,
        partitions: PARTITIONS,
    };
    let replication = Replication {
        factor: 0,
        min_insync: 0,
    };
    Cluster::connect(&options)?.create(&topic, replication)?;
    let (metrics, kafka) = (LogMetrics::unregistered()?, KafkaMetrics::unregistered()?);
    let (log, _) = KafkaLog::open(&options, &topic, "log", &metrics, &kafka)?;
    Ok(log)
}
