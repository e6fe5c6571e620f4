//! What the tests of the Kafka log share.

use std::sync::Arc;
use std::time::Duration;

use futures_executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tally_domain::LogId;
use tally_log::LogMetrics;
use tally_log::kafka::{
    Cluster, KafkaLog, KafkaMetrics, KafkaOptions, OpenError, Replication, Topic, TopicKind,
};

/// One replica is all a single broker has.
const ONE: Replication = Replication {
    factor: 1,
    min_insync: 1,
};

/// A topic of one test.
pub(crate) struct InTopic {
    pub(crate) topic: Topic,
    pub(crate) options: KafkaOptions,
}

/// The broker that the tests run on.
pub(crate) fn servers() -> String {
    std::env::var("TALLY_TEST_KAFKA").expect(
        "TALLY_TEST_KAFKA names the bootstrap servers of a broker: tests/kafka/kafka.sh start 1",
    )
}

impl InTopic {
    /// A new topic.
    pub(crate) fn new(partitions: u32) -> Self {
        let options = KafkaOptions {
            bootstrap_servers: servers(),
            group_id: format!("test-{}", LogId::now_v7()),
            ..KafkaOptions::default()
        };
        let topic = Topic {
            name: format!("test.{}", LogId::now_v7()),
            kind: TopicKind::Interactions,
            partitions,
        };
        let cluster = Cluster::connect(&options).unwrap();
        assert!(cluster.create(&topic, ONE).unwrap());
        Self { topic, options }
    }

    pub(crate) fn try_open(&self, options: &KafkaOptions) -> Result<KafkaLog, OpenError> {
        let metrics = LogMetrics::unregistered().unwrap();
        let kafka = KafkaMetrics::unregistered().unwrap();
        KafkaLog::open(options, &self.topic, "test", &metrics, &kafka).map(|(log, _)| log)
    }

    pub(crate) fn open(&self) -> Arc<KafkaLog> {
        Arc::new(self.try_open(&self.options).unwrap())
    }

    pub(crate) fn admin(&self) -> AdminClient<DefaultClientContext> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.options.bootstrap_servers);
        config.create().unwrap()
    }

    /// Removes everything below these offsets, by partition number.
    pub(crate) fn remove_below(&self, offsets: &[u64]) {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in (0..).zip(offsets) {
            let offset = Offset::Offset(i64::try_from(*offset).unwrap());
            list.add_partition_offset(&self.topic.name, partition, offset)
                .unwrap();
        }
        let limits = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        let removed = block_on(self.admin().delete_records(&list, &limits)).unwrap();
        for element in removed.elements() {
            element.error().unwrap();
        }
    }
}
