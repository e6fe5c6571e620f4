//! What a broker says to appends, and what others see of them.

use std::time::{Duration, Instant};

use futures_executor::block_on;
use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tally_log::conformance::PATIENCE;
use tally_log::{AppendError, EventLog as _, NewRecord, TraceParent};

use crate::support::{InTopic, append, append_all, at, record};

/// Protects the answer: a record that the topic is too small for is not written, and said so.
#[test]
fn a_record_too_large_for_the_topic_is_said_to_be() {
    let test = InTopic::new(1);
    let small = AlterConfig::new(ResourceSpecifier::Topic(&test.topic.name))
        .set("max.message.bytes", "10000")
        .set("retention.ms", "-1")
        .set("retention.bytes", "-1")
        .set("message.timestamp.type", "LogAppendTime");
    let limits = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    block_on(test.admin().alter_configs([&small], &limits)).unwrap()[0]
        .as_ref()
        .unwrap();
    let log = test.open();
    let large = "x".repeat(100_000);
    let results = append(log.as_ref(), &[(0, &large)]);
    let results = results.recv_timeout(PATIENCE).unwrap();
    assert!(
        matches!(results[..], [Err(AppendError::TooLarge(_))]),
        "{results:?}"
    );
    append_all(log.as_ref(), &[(0, "small")]);
    assert_eq!(log.head().unwrap(), [1]);
}

fn consumer(test: &InTopic) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", &test.options.bootstrap_servers)
        .set("group.id", &test.options.group_id)
        .set("enable.auto.commit", "false")
        .create()
        .unwrap()
}

/// Protects others' readers: key, headers and the broker's own time are on every record.
#[test]
fn records_say_what_they_are() {
    let test = InTopic::new(1);
    let log = test.open();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let traced = NewRecord {
        traceparent: Some(trace.parse::<TraceParent>().unwrap()),
        ..record(0, "traced")
    };
    let (done, results) = std::sync::mpsc::channel();
    let done = move |all| done.send(all).unwrap_or_default();
    log.append(vec![traced, record(0, "plain")], Box::new(done))
        .unwrap();
    results.recv_timeout(PATIENCE).unwrap();
    let consumer = consumer(&test);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&test.topic.name, 0, Offset::Offset(0))
        .unwrap();
    consumer.assign(&list).unwrap();
    for expected in [Some(trace), None] {
        let message = consumer.poll(PATIENCE).unwrap().unwrap();
        assert_eq!(message.key(), Some(&b"key"[..]));
        let headers = message.headers().unwrap();
        let header = |name: &str| {
            let mut all = headers.iter();
            let found = all.find(|header| header.key == name);
            found.and_then(|header| {
                header
                    .value
                    .map(|value| String::from_utf8_lossy(value).into_owned())
            })
        };
        assert_eq!(header("content-type").as_deref(), Some("application/json"));
        assert_eq!(header("schema-version").as_deref(), Some("1"));
        assert_eq!(header("traceparent").as_deref(), expected);
    }
}

/// Protects ordinary lag tools: the group's offsets follow what was applied.
#[test]
fn the_group_shows_what_was_applied() {
    let test = InTopic::new(2);
    let log = test.open();
    append_all(log.as_ref(), &[(0, "a"), (0, "b"), (1, "c")]);
    log.applied(&[at(0, 2), at(1, 1)]);
    let consumer = consumer(&test);
    let mut list = TopicPartitionList::new();
    list.add_partition_range(&test.topic.name, 0, 1);
    let until = Instant::now() + PATIENCE;
    loop {
        let committed = consumer.committed_offsets(list.clone(), PATIENCE).unwrap();
        let offsets: Vec<_> = committed
            .elements()
            .iter()
            .map(|one| one.offset())
            .collect();
        if offsets == [Offset::Offset(2), Offset::Offset(1)] {
            break;
        }
        assert!(Instant::now() < until, "{offsets:?}");
    }
}
