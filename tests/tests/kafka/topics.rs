//! Topics: made, checked, and refused where they would lose history.

use std::fs;

use serde_json::json;
use tally_tests::kafka::{Kafka, topic};
use tally_tests::{Folder, Server, wait};

use crate::support::{assert_says, does_not_serve, refuses_to_serve};

/// Sets a property of a topic by Kafka's own tool.
fn alter(kafka: &Kafka, topic: &str, config: &str) {
    kafka.cli(&[
        "kafka.admin.ConfigCommand",
        "--alter",
        "--entity-type",
        "topics",
        "--entity-name",
        topic,
        "--add-config",
        config,
    ]);
}

fn topic_command(kafka: &Kafka, args: &[&str]) -> String {
    kafka.cli(&[&["TopicCommand"], args].concat())
}

/// Deletes the records of a partition below an offset.
fn delete_records(kafka: &Kafka, folder: &Folder, partition: u64, below: u64) {
    let file = folder.root().join("delete.json");
    let topic = topic(folder, "interactions");
    let what = json!({"version": 1, "partitions": [
        {"topic": topic, "partition": partition, "offset": below}]});
    fs::write(&file, what.to_string()).expect("a file");
    let file = file.display().to_string();
    kafka.cli(&["DeleteRecordsCommand", "--offset-json-file", &file]);
}

/// Where quest 42 is, with 16 partitions.
fn home() -> u64 {
    u64::from(tally_tests::fold::kafka_partition("quest:42", 16))
}

fn views(server: &Server, count: u64) {
    for _ in 0..count {
        let answer = server.interact("quest", 42, "view").ok();
        assert_eq!(answer["outcome"], "applied");
    }
}

/// Protects the way to a first start: the refusal says what to do, and doing it is enough.
#[test]
fn a_missing_topic_is_refused_and_made_by_topics_create() {
    let kafka = Kafka::shared();
    let folder = kafka.folder_without_topics();
    let said = refuses_to_serve(&folder);
    assert_says(&said, &["tally topics create"]);
    let listed = topic_command(kafka, &["--list"]);
    assert!(
        !listed.contains(&topic(&folder, "interactions")),
        "auto-created: {listed}"
    );
    for _ in 0..2 {
        let _ = folder.run(&["topics", "create"]).ok();
    }
    let _ = folder.run(&["topics", "check"]).ok();
    let described = folder.run(&["topics", "describe"]).ok();
    for kind in ["interactions", "resources", "dead-letters"] {
        assert!(described.contains(&topic(&folder, kind)), "{described}");
    }
    let server = folder.start();
    views(&server, 1);
    let interactions = topic(&folder, "interactions");
    let described = topic_command(kafka, &["--describe", "--topic", &interactions]);
    assert_says(
        &described,
        &["PartitionCount: 16", "message.timestamp.type=LogAppendTime"],
    );
    // One topic that is gone is as bad as all of them.
    server.stop();
    topic_command(
        kafka,
        &["--delete", "--topic", &topic(&folder, "dead-letters")],
    );
    let said = refuses_to_serve(&folder);
    assert_says(
        &said,
        &["tally topics create", &topic(&folder, "dead-letters")],
    );
}

/// Protects every key's partition: with another count it is elsewhere, and its past with it.
#[test]
fn another_partition_count_is_refused() {
    let kafka = Kafka::shared();
    let folder = kafka.folder();
    let name = topic(&folder, "interactions");
    topic_command(kafka, &["--alter", "--topic", &name, "--partitions", "17"]);
    assert_says(
        &refuses_to_serve(&folder),
        &[&name, "17", "16", "log.partitions"],
    );
    let said = folder.run(&["topics", "check"]).failed();
    assert_says(&said, &[&name, "17"]);
}

/// Protects the log's beginning: what Kafka would delete or thin out is history that the next
/// rebuild would miss, and without append times no future event is known as one.
#[test]
fn a_topic_that_would_lose_history_is_refused_by_the_property() {
    let kafka = Kafka::shared();
    let folder = kafka.folder();
    let interactions = topic(&folder, "interactions");
    let cases = [
        (
            interactions.as_str(),
            "retention.ms=3600000",
            "retention.ms=-1",
        ),
        (
            &interactions,
            "retention.bytes=1000000",
            "retention.bytes=-1",
        ),
        (
            &interactions,
            "cleanup.policy=compact",
            "cleanup.policy=delete",
        ),
        (
            &interactions,
            "message.timestamp.type=CreateTime",
            "message.timestamp.type=LogAppendTime",
        ),
        (
            &topic(&folder, "resources"),
            "cleanup.policy=delete",
            "cleanup.policy=compact",
        ),
    ];
    for (name, bad, good) in cases {
        alter(kafka, name, bad);
        let property = bad.split('=').next().unwrap_or_default();
        assert_says(&refuses_to_serve(&folder), &[name, property]);
        assert_says(
            &folder.run(&["topics", "check"]).failed(),
            &[name, property],
        );
        alter(kafka, name, good);
    }
    let _ = folder.run(&["topics", "check"]).ok();
    views(&folder.start(), 1);
}

/// Protects state from another topic of the same name: its offsets mean something else.
#[test]
fn a_topic_that_was_made_again_is_refused() {
    let kafka = Kafka::shared();
    let folder = kafka.folder();
    let server = folder.start();
    views(&server, 3);
    server.stop();
    let name = topic(&folder, "interactions");
    topic_command(kafka, &["--delete", "--topic", &name]);
    wait::until("the topic's end", || {
        let listed = topic_command(kafka, &["--list"]);
        (!listed.lines().any(|line| line == name)).then_some(())
    });
    let _ = folder.run(&["topics", "create"]).ok();
    let said = refuses_to_serve(&folder);
    assert_says(&said, &["belongs to log"]);
    // The numbers are still those of the old log, or none: never those of an empty one.
    let _ = folder.run(&["state", "cat"]).failed();
}

/// Protects readers while a server runs: the topic is taken away under it and made again, and it
/// says that it is not ready instead of answering from what is no longer there.
#[test]
fn a_topic_that_is_made_again_while_serving_ends_readiness() {
    let kafka = Kafka::shared();
    let folder = kafka.folder();
    let mut server = folder.start();
    views(&server, 3);
    let name = topic(&folder, "interactions");
    topic_command(kafka, &["--delete", "--topic", &name]);
    let reasons = server.wait_until_not_ready();
    println!("deleted while serving: {reasons}");
    let answer = server.interact("quest", 42, "view");
    assert_ne!(answer.status, 200, "{}", answer.text());
    let _ = folder.run(&["topics", "create"]).ok();
    // A new topic is another log: nothing but another start can tell what to do.
    let answer = server.interact("quest", 42, "view");
    assert!(
        answer.status != 200 || answer.json()["visible"] == false,
        "{}",
        answer.text()
    );
    let reasons = server.wait_until_not_ready();
    println!("made again while serving: {reasons}");
    server.kill9();
    assert_says(&refuses_to_serve(&folder), &["belongs to log"]);
}

/// Protects from a silent jump over what was deleted before it was folded.
#[test]
fn a_log_truncated_past_the_checkpoint_is_refused() {
    let kafka = Kafka::shared();
    let folder = kafka.folder();
    let server = folder.start();
    views(&server, 3);
    server.stop();
    // Three more that this state has never seen, and the first two of them are gone.
    let event = |n: u64| {
        let id = format!("0193a6f0-7b3e-7c4a-9d3e-{n:012x}");
        let value = json!({"v": 1, "id": id, "at": "2024-11-24T03:50:12.345Z", "user": "1",
            "resource_type": "quest", "resource_id": 42, "interaction_type": "view"});
        ("quest:42".to_owned(), value.to_string())
    };
    let name = topic(&folder, "interactions");
    kafka.console_send(&name, &[event(1), event(2), event(3)]);
    delete_records(kafka, &folder, home(), 5);
    let said = refuses_to_serve(&folder);
    assert_says(&said, &["begins at 5", &format!("partition {}", home())]);
    // Nor is it rebuilt from what is left.
    fs::remove_dir_all(folder.data_dir()).expect("the data folder");
    assert_says(&refuses_to_serve(&folder), &["begins at"]);
}

/// Protects from the same jump while a server runs that could not read for a while.
#[test]
fn a_log_truncated_below_the_reader_is_no_harm() {
    let kafka = Kafka::shared();
    let folder = kafka.folder();
    let server = folder.start();
    views(&server, 3);
    delete_records(kafka, &folder, home(), 2);
    views(&server, 1);
    let state = server.resource("quest", 42).ok();
    assert_eq!(state["counters"]["views"], 4, "{state}");
    // What was folded is in the checkpoint, which covers what is gone.
    server.stop();
    let server = folder.start();
    let state = server.resource("quest", 42).ok();
    assert_eq!(state["counters"]["views"], 4, "{state}");
}

/// Protects from a line of configuration, and from a riddle: what would break a promise is refused
/// by name and with the reason, and what librdkafka does not know by name.
#[test]
fn a_property_that_would_break_a_promise_is_refused() {
    let folder = Kafka::shared().folder();
    let with = |name: &str, value: &str| {
        let name = name.to_uppercase().replace('.', "__");
        let setting = format!("TALLY__KAFKA__PROPERTIES__{name}");
        folder.clone().with(&setting, value)
    };
    let forbidden = [
        ("acks", "1", "200"),
        ("enable.idempotence", "false", "200"),
        (
            "bootstrap.servers",
            "elsewhere:9092",
            "kafka.bootstrap_servers",
        ),
        ("auto.offset.reset", "latest", "state"),
        ("delivery.timeout.ms", "1000", "kafka.delivery_timeout"),
        ("isolation.level", "read_uncommitted", "transaction"),
    ];
    for (name, value, why) in forbidden {
        let said = refuses_to_serve(&with(name, value));
        assert_says(&said, &["kafka.properties", name, why]);
    }
    let said = does_not_serve(&with("no.such.property", "wonderland"));
    assert_says(&said, &["no.such.property"]);
    assert!(!said.contains("wonderland"), "{said}");
    views(&with("linger.ms", "1").start(), 1);
}
