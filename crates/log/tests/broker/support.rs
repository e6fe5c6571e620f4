//! What the tests of the Kafka log share.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use futures_executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tally_domain::{LogId, Offset as LogOffset, Partition, Position};
use tally_log::conformance::PATIENCE;
use tally_log::kafka::{
    Cluster, KafkaLog, KafkaMetrics, KafkaOptions, OpenError, Replication, Topic, TopicKind,
};
use tally_log::{AppendError, Batch, EventLog, LogMetrics, LogReader, NewRecord};

/// One replica is all a single broker has.
pub(crate) const ONE: Replication = Replication {
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
        let test = Self { topic, options };
        test.create();
        test
    }

    pub(crate) fn create(&self) {
        let cluster = Cluster::connect(&self.options).unwrap();
        assert!(cluster.create(&self.topic, ONE).unwrap());
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

pub(crate) fn at(partition: Partition, offset: LogOffset) -> Position {
    Position { partition, offset }
}

pub(crate) fn record(partition: Partition, value: &str) -> NewRecord {
    NewRecord {
        partition,
        key: b"key".to_vec(),
        value: value.as_bytes().to_vec(),
        traceparent: None,
    }
}

/// Appends and does not wait.
pub(crate) fn append(
    log: &KafkaLog,
    records: &[(Partition, &str)],
) -> Receiver<Vec<Result<LogOffset, AppendError>>> {
    let (done, results) = mpsc::channel();
    let records = records
        .iter()
        .map(|(partition, value)| record(*partition, value));
    let done = move |all| done.send(all).unwrap_or_default();
    log.append(records.collect(), Box::new(done)).unwrap();
    results
}

/// Appends and waits until all are acknowledged.
pub(crate) fn append_all(log: &KafkaLog, records: &[(Partition, &str)]) {
    for result in append(log, records).recv_timeout(PATIENCE).unwrap() {
        result.unwrap();
    }
}

/// Everything up to where the reader stands at these positions.
pub(crate) fn read_until(reader: &mut dyn LogReader, ends: &[Position]) -> Vec<(Position, String)> {
    let until = Instant::now() + PATIENCE;
    let mut batch = Batch::new();
    let mut read = Vec::new();
    while reader.positions() != ends {
        assert!(Instant::now() < until, "stands at {:?}", reader.positions());
        reader.next(&mut batch, Duration::from_millis(100)).unwrap();
        read.extend(batch.iter().map(|record| {
            let value = String::from_utf8_lossy(record.value).into_owned();
            (record.position, value)
        }));
    }
    read
}

pub(crate) fn values(read: &[(Position, String)]) -> Vec<String> {
    read.iter().map(|(_, value)| value.clone()).collect()
}
