//! The log on librdkafka's mock cluster, which fails on demand: what each failure of a broker means
//! to those who append. Durability and restarts are the real broker's tests.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use tally_domain::{LogId, Offset, Partition};

use super::{KafkaLog, KafkaMetrics, KafkaOptions, Topic, TopicDescription, TopicKind};
use crate::conformance::{PARTITIONS, PATIENCE, SMALL_QUEUE_RECORDS, TestLog};
use crate::contract::{AppendError, AppendRefused, EventLog, LogHealth, NewRecord};
use crate::metrics::LogMetrics;

/// A topic on a mock cluster of its own.
struct Mock {
    cluster: MockCluster<'static, DefaultProducerContext>,
    topic: Topic,
    options: KafkaOptions,
}

fn mock() -> Mock {
    let cluster = MockCluster::new(1).unwrap();
    let topic = Topic {
        name: "test".to_owned(),
        kind: TopicKind::Interactions,
        partitions: PARTITIONS,
    };
    let partitions = i32::try_from(PARTITIONS).unwrap();
    cluster.create_topic(&topic.name, partitions, 1).unwrap();
    let options = KafkaOptions {
        bootstrap_servers: cluster.bootstrap_servers(),
        delivery_timeout: Duration::from_secs(2),
        ..KafkaOptions::default()
    };
    Mock {
        cluster,
        topic,
        options,
    }
}

impl Mock {
    fn open_with(&self, options: &KafkaOptions) -> Arc<KafkaLog> {
        // The mock knows nothing of configurations, and has no controller that would tell ids.
        let description = TopicDescription {
            name: self.topic.name.clone(),
            id: LogId::nil(),
            partitions: Vec::new(),
            configs: BTreeMap::new(),
        };
        let metrics = LogMetrics::unregistered().unwrap();
        let kafka = KafkaMetrics::unregistered().unwrap();
        let both = (&metrics, &kafka);
        Arc::new(KafkaLog::start(options, &self.topic, "test", &description, both).unwrap())
    }

    fn open(&self) -> Arc<KafkaLog> {
        self.open_with(&self.options)
    }

    /// What the next `times` requests to produce are answered with.
    fn produce_errors(&self, error: RDKafkaRespErr, times: usize) {
        let errors = vec![error; times];
        self.cluster.request_errors(RDKafkaApiKey::Produce, &errors);
    }
}

impl TestLog for Mock {
    fn open(&self) -> Arc<dyn EventLog> {
        Mock::open(self)
    }

    fn open_with_small_queue(&self) -> Arc<dyn EventLog> {
        self.open_with(&KafkaOptions {
            max_queue_records: SMALL_QUEUE_RECORDS,
            ..self.options.clone()
        })
    }

    fn remove_oldest(&self) {
        panic!("the mock cluster removes nothing on demand");
    }
}

// All but what the mock can't do: it removes nothing on demand, and keeps 5 MiB of a partition.
crate::conformance_suite! { mock;
    acknowledged_records_have_rising_offsets
    one_append_keeps_its_order
    every_append_is_called_back_once
    threads_append_at_once
    an_invalid_record_refuses_its_whole_append
    records_may_be_empty_or_large
    a_full_queue_refuses_at_once
    closing_finishes_what_was_accepted
    nothing_is_appended_after_closing
    what_was_appended_is_read_in_order
    a_reader_has_its_partitions_alone
    positions_outside_are_refused
    a_wake_is_never_lost
    a_wait_ends_without_records
    readers_do_not_disturb_each_other
    an_empty_log_starts_at_its_head
    the_identity_never_changes
    acknowledged_records_survive_closing
    acknowledged_records_survive_a_kill
    a_kill_calls_everybody_back
}

type Results = Vec<Result<Offset, AppendError>>;

fn try_append(log: &KafkaLog, partition: Partition) -> Result<Receiver<Results>, AppendRefused> {
    let (done, results) = mpsc::channel();
    let record = NewRecord {
        partition,
        key: b"key".to_vec(),
        value: b"value".to_vec(),
        traceparent: None,
    };
    let done = move |all| done.send(all).unwrap_or_default();
    log.append(vec![record], Box::new(done))?;
    Ok(results)
}

fn append(log: &KafkaLog) -> Result<Offset, AppendError> {
    let results = try_append(log, 0).unwrap();
    results.recv_timeout(PATIENCE).unwrap().remove(0)
}

fn wait_until<T>(what: &str, mut holds: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = holds() {
            return found;
        }
        assert!(Instant::now() < until, "{what} does not come");
        std::thread::yield_now();
    }
}

/// Protects the answer: each refusal of a broker is what it is, and the log takes the next append.
#[test]
fn each_refusal_of_a_broker_has_its_error() {
    let test = mock();
    let log = test.open();
    assert_eq!(append(&log), Ok(0));
    test.produce_errors(
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        1,
    );
    let error = append(&log).unwrap_err();
    assert!(matches!(error, AppendError::Unauthorized(_)), "{error:?}");
    assert!(matches!(log.health(), LogHealth::Unreachable(_)));
    // The library takes the topic for closed until it has asked again.
    let offset = wait_until("the topic", || append(&log).ok());
    test.produce_errors(RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, 1);
    let error = append(&log).unwrap_err();
    assert!(matches!(error, AppendError::TooLarge(_)), "{error:?}");
    assert_eq!(append(&log), Ok(offset + 1));
    assert_eq!(log.health(), LogHealth::Ok);
}

/// Protects against a 503 for what passes by itself.
#[test]
fn what_passes_by_itself_is_tried_again() {
    let test = mock();
    let log = test.open();
    for (offset, error) in (0..).zip([
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT,
    ]) {
        test.produce_errors(error, 2);
        assert_eq!(append(&log), Ok(offset), "{error:?}");
    }
}

/// Protects the deadline: too few replicas for too long is an error in time, certainly not written.
#[test]
fn too_few_replicas_for_too_long_is_not_written() {
    let test = mock();
    let log = test.open();
    test.produce_errors(
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        10_000,
    );
    let from = Instant::now();
    let error = append(&log).unwrap_err();
    assert!(matches!(error, AppendError::TimedOut(_)), "{error:?}");
    assert!(from.elapsed() < PATIENCE / 2);
    test.cluster.clear_request_errors(RDKafkaApiKey::Produce);
    assert_eq!(append(&log), Ok(0));
}

/// Protects promise 1: a broker that takes a record and does not say so leaves its fate unknown.
#[test]
fn an_answer_that_does_not_come_leaves_the_fate_unknown() {
    let test = mock();
    let log = test.open();
    assert_eq!(append(&log), Ok(0));
    let longer = test.options.delivery_timeout * 4;
    test.cluster.broker_round_trip_time(-1, longer).unwrap();
    let error = append(&log).unwrap_err();
    assert!(matches!(error, AppendError::FateUnknown(_)), "{error:?}");
}

/// Protects clients from waiting for nothing: a cluster that is away refuses at once, says so, and
/// is used again when it is back.
#[test]
fn a_cluster_that_is_away_refuses_at_once_until_it_is_back() {
    let test = mock();
    let log = test.open();
    assert_eq!(append(&log), Ok(0));
    test.cluster.broker_down(-1).unwrap();
    wait_until("the health", || {
        matches!(log.health(), LogHealth::Unreachable(_)).then_some(())
    });
    let refused = wait_until("a refusal", || try_append(&log, 0).err());
    assert!(
        matches!(refused, AppendRefused::Unreachable(_)),
        "{refused:?}"
    );
    assert!(log.head().is_err());
    test.cluster.broker_up(-1).unwrap();
    wait_until("the health", || {
        (log.health() == LogHealth::Ok).then_some(())
    });
    append(&log).unwrap();
}

/// Protects the log from the end of one producer: another takes its place, nothing is left untold.
#[test]
fn a_producer_that_is_lost_is_replaced() {
    let test = mock();
    let log = test.open();
    assert_eq!(append(&log), Ok(0));
    log.break_producer(&CString::new("on purpose").unwrap());
    let offset = wait_until("a new producer", || append(&log).ok());
    assert!(offset >= 1, "{offset}");
    let metrics = log.renewed_producers();
    assert_eq!(metrics, 1);
    log.close(PATIENCE).unwrap();
}
