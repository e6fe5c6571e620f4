//! What Kafka leaves between records, takes away before them, or puts into their place.

use std::time::{Duration, Instant};

use futures_executor::block_on;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminOptions, NewPartitions};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tally_domain::Position;
use tally_log::conformance::PATIENCE;
use tally_log::kafka::{KafkaLog, KafkaOptions};
use tally_log::{AppendRefused, Batch, EventLog as _, LogHealth, LogReader, ReadError};

use crate::support::{InTopic, append, append_all, at, read_until, values};

/// A producer of transactions, as others may use one on our topic.
fn transactional(test: &InTopic) -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &test.options.bootstrap_servers)
        .set("transactional.id", &test.topic.name)
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer
}

fn send(producer: &BaseProducer, test: &InTopic, partition: i32, value: &str) {
    let record = BaseRecord::to(&test.topic.name)
        .partition(partition)
        .key("key")
        .payload(value);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(PATIENCE).unwrap();
}

/// Protects readiness and every wait for a position: control records are no lag, and what a
/// transaction gave up does not count.
#[test]
fn a_reader_moves_over_what_is_not_given_out() {
    let test = InTopic::new(1);
    let log = test.open();
    append_all(log.as_ref(), &[(0, "before")]);
    let producer = transactional(&test);
    for (value, commits) in [("committed", true), ("given up", false)] {
        producer.begin_transaction().unwrap();
        send(&producer, &test, 0, value);
        if commits {
            producer.commit_transaction(PATIENCE).unwrap();
        } else {
            producer.abort_transaction(PATIENCE).unwrap();
        }
    }
    // Three records and two markers, which the broker writes when it has answered already.
    let until = Instant::now() + PATIENCE;
    while log.head().unwrap() != [5] {
        assert!(Instant::now() < until, "{:?}", log.head());
    }
    let mut reader = log.reader(&[at(0, 0)]).unwrap();
    let read = read_until(reader.as_mut(), &[at(0, 5)]);
    assert_eq!(values(&read), ["before", "committed"]);
    // What comes after is given out as ever.
    append_all(log.as_ref(), &[(0, "after")]);
    let read = read_until(reader.as_mut(), &[at(0, 6)]);
    assert_eq!(values(&read), ["after"]);
    // A gap is a place to begin at, and holds no record.
    let mut reader = log.reader(&[at(0, 2)]).unwrap();
    let read = read_until(reader.as_mut(), &[at(0, 6)]);
    assert_eq!(values(&read), ["after"]);
    let records = log.records_at(&[at(0, 0), at(0, 2), at(0, 5)]).unwrap();
    let records: Vec<_> = records
        .iter()
        .map(|record| record.as_ref().map(|record| record.value.as_slice()))
        .collect();
    assert_eq!(records, [Some(&b"before"[..]), None, Some(b"after")]);
}

/// Protects a partition with little from one with much: neither waits for the end of the other.
#[test]
fn partitions_are_served_fairly() {
    let test = InTopic::new(4);
    let small_steps = KafkaOptions {
        max_prefetch_bytes: 2 << 20,
        ..test.options.clone()
    };
    let log = test.try_open(&small_steps).unwrap();
    let large = "x".repeat(100_000);
    for _ in 0..300 {
        append(&log, &[(0, &large)]).recv_timeout(PATIENCE).unwrap();
    }
    for partition in 1..4 {
        append_all(&log, &[(partition, "small")]);
    }
    let first: Vec<Position> = (0..4).map(|partition| at(partition, 0)).collect();
    let mut reader = log.reader(&first).unwrap();
    let mut batch = Batch::new();
    let mut of_large = 0;
    while reader.positions()[1..]
        .iter()
        .any(|position| position.offset == 0)
    {
        reader.next(&mut batch, PATIENCE).unwrap();
        of_large += batch
            .iter()
            .filter(|record| record.position.partition == 0)
            .count();
    }
    assert!(of_large < 200, "{of_large} of 300 came before the others");
}

fn next_error(reader: &mut dyn LogReader) -> ReadError {
    let mut batch = Batch::new();
    loop {
        match reader.next(&mut batch, PATIENCE) {
            // It tries again by itself.
            Ok(()) | Err(ReadError::Unavailable(_)) => {}
            Err(error) => return error,
        }
    }
}

/// Protects against a silent jump: records that were removed under a reader stop its partition, and
/// no other.
#[test]
fn what_is_removed_under_a_reader_stops_its_partition() {
    let test = InTopic::new(2);
    let small_steps = KafkaOptions {
        max_prefetch_bytes: 1 << 20,
        ..test.options.clone()
    };
    let log = test.try_open(&small_steps).unwrap();
    let large = "x".repeat(200_000);
    for _ in 0..100 {
        append(&log, &[(0, &large)]).recv_timeout(PATIENCE).unwrap();
    }
    append_all(&log, &[(1, "one")]);
    let mut reader = log.reader(&[at(0, 0), at(1, 0)]).unwrap();
    // It has fetched a part, and is held up by us. Then what it comes to next goes away.
    let mut batch = Batch::new();
    reader.next(&mut batch, PATIENCE).unwrap();
    let head = log.head().unwrap();
    test.remove_below(&[head[0], 0]);
    let error = next_error(reader.as_mut());
    let ReadError::OutOfRange {
        partition: 0,
        wanted,
        first,
        head: told,
    } = error
    else {
        panic!("{error:?}");
    };
    assert!(wanted < first, "{wanted} {first}");
    assert_eq!((first, told), (head[0], head[0]));
    append_all(&log, &[(0, "new"), (1, "two")]);
    let read = read_until(reader.as_mut(), &[at(1, 2)]);
    assert!(values(&read).contains(&"two".to_owned()));
    assert!(!values(&read).contains(&"new".to_owned()), "a jump");
}

fn wait_for_failure(log: &KafkaLog) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        if let LogHealth::Failed(why) = log.health() {
            return why;
        }
        assert!(Instant::now() < until, "{:?}", log.health());
        std::thread::yield_now();
    }
}

/// Protects the numbers from another log in the place of ours: nothing of it is read, nothing is
/// appended to it, and the log says so.
#[test]
fn a_topic_that_was_made_again_is_another_log() {
    let test = InTopic::new(1);
    let log = test.open();
    append_all(log.as_ref(), &[(0, "old")]);
    let mut reader = log.reader(&[at(0, 1)]).unwrap();
    let limits = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    let name = test.topic.name.as_str();
    block_on(test.admin().delete_topics(&[name], &limits)).unwrap()[0]
        .as_ref()
        .unwrap();
    test.create();
    let why = wait_for_failure(&log);
    assert!(why.contains("made again"), "{why}");
    assert!(matches!(
        next_error(reader.as_mut()),
        ReadError::Replaced(_)
    ));
    let refused = append_refused(&log);
    assert!(matches!(refused, AppendRefused::Closed(_)), "{refused}");
    assert_ne!(log.identity(), test.open().identity());
}

fn append_refused(log: &KafkaLog) -> AppendRefused {
    let record = crate::support::record(0, "x");
    log.append(vec![record], Box::new(|_| {})).unwrap_err()
}

/// Protects each resource's place: it follows from the number of partitions.
#[test]
fn more_partitions_are_another_log() {
    let test = InTopic::new(2);
    let log = test.open();
    let limits = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    let more = NewPartitions::new(&test.topic.name, 3);
    block_on(test.admin().create_partitions([&more], &limits)).unwrap()[0]
        .as_ref()
        .unwrap();
    let why = wait_for_failure(&log);
    assert!(why.contains("3 partitions"), "{why}");
    let refused = test.try_open(&test.options).unwrap_err().to_string();
    assert!(refused.contains("log.partitions to 3"), "{refused}");
}
