//! Records that others wrote, and what others see of ours.

use std::collections::BTreeMap;
use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tally_tests::binary::workspace;
use tally_tests::fold::{assert_state_is_fold_of_log, kafka_partition};
use tally_tests::kafka::{Kafka, Record, keyed_producer, prefix, topic};
use tally_tests::server::interaction_request;
use tally_tests::{Folder, Server, wait};

const PARTITIONS: u32 = 16;

/// A record's key and value: an event as the documents describe it, made by nobody of ours.
fn event(n: u64, kind: &str, id: u64, interaction: &str) -> (String, String) {
    let value = json!({
        "v": 1, "id": format!("0193a6f0-7b3e-7c4a-9d3e-{n:012x}"), "at": "2024-11-24T03:50:12.345Z",
        "user": "someone", "resource_type": kind, "resource_id": id,
        "interaction_type": interaction, "by": "another program",
    });
    (format!("{kind}:{id}"), value.to_string())
}

fn partition_of(kind: &str, id: u64) -> u64 {
    u64::from(kafka_partition(&format!("{kind}:{id}"), PARTITIONS))
}

fn described(name: &str) -> jsonschema::Validator {
    let path = workspace().join("docs").join(name);
    let text = fs::read_to_string(path).expect("a schema");
    let schema = serde_json::from_str(&text).expect("JSON");
    let options = jsonschema::options().should_validate_formats(true);
    options.build(&schema).expect("a schema")
}

/// That each record's value is as described, and its headers too.
fn assert_as_described(records: &[Record], schema: &str) {
    let described = described(schema);
    assert!(!records.is_empty(), "no records for {schema}");
    for record in records {
        let value = record.json();
        let wrong: Vec<String> = described
            .iter_errors(&value)
            .map(|error| error.to_string())
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}: {record:?}");
        assert_eq!(
            record.header("content-type"),
            Some("application/json"),
            "{record:?}"
        );
        assert_eq!(record.header("schema-version"), Some("1"), "{record:?}");
    }
}

/// Waits until the server has folded all that `kcat` reads; the records.
fn folded(kafka: &Kafka, server: &Server) -> Vec<Record> {
    let records = kafka.records(&topic(server.folder(), "interactions"));
    wait::until("the fold of all records", || {
        let state = server.folder().run(&["state", "cat"]).json_lines();
        let positions = state[0]["state"]["positions"].as_array().cloned();
        let next: u64 = positions?.iter().filter_map(Value::as_u64).sum();
        (next >= u64::try_from(records.len()).expect("few")).then_some(())
    });
    records
}

/// That `tally log cat` shows what `kcat` reads, record by record.
fn assert_log_cat_is(folder: &Folder, records: &[Record]) {
    let lines = folder.run(&["log", "cat"]).json_lines();
    let mut shown: BTreeMap<(u64, u64), Value> = BTreeMap::new();
    for line in lines {
        let at = |name: &str| line[name].as_u64().expect("a number");
        shown.insert((at("partition"), at("offset")), line.clone());
    }
    assert_eq!(shown.len(), records.len());
    for record in records {
        let line = &shown[&(record.partition, record.offset)];
        if line.get("event").is_some() {
            assert_eq!(line["event"], record.json(), "{record:?}");
        } else {
            assert_eq!(
                line["raw_base64"],
                STANDARD.encode(&record.value),
                "{record:?}"
            );
            assert!(line["error"].is_string(), "{line}");
        }
    }
}

/// Protects that others may write: events by Kafka's console producer and by a Java program land in
/// our partitions, need no entry in the catalogue, and count as those over HTTP do.
#[test]
fn records_of_other_producers_are_folded_alike() {
    let kafka = Kafka::shared();
    let folder = kafka.folder();
    let server = folder.start();
    let name = topic(&folder, "interactions");
    let by_java: Vec<_> = (0..40)
        .map(|n| event(n, "podcast", n, ["view", "like"][usize::from(n % 2 == 1)]))
        .chain([
            event(50, "ai_note", 15, "like"),
            event(51, "quest", 42, "share"),
        ])
        .collect();
    let partitions = kafka.java_send(&name, &by_java);
    for ((key, _), partition) in by_java.iter().zip(partitions) {
        assert_eq!(
            partition,
            u64::from(kafka_partition(key, PARTITIONS)),
            "{key}"
        );
    }
    let by_console: Vec<_> = (100..120)
        .map(|n| event(n, "ai_video", n, "comment"))
        .chain([
            event(150, "ai_note", 15, "like"),
            event(151, "quest", 42, "share"),
        ])
        .collect();
    kafka.console_send(&name, &by_console);
    for interaction in ["like", "share"] {
        let answer = server.interact("quest", 42, interaction).ok();
        assert_eq!(answer["outcome"], "applied", "{answer}");
    }
    let records = folded(kafka, &server);
    assert_eq!(records.len(), by_java.len() + by_console.len() + 2);
    assert_log_cat_is(&folder, &records);
    let folded = assert_state_is_fold_of_log(&folder);
    assert_eq!(folded.dead_letters, 0);
    let outcome = |n: u64| folded.outcomes[&format!("0193a6f0-7b3e-7c4a-9d3e-{n:012x}")];
    assert_eq!([outcome(50), outcome(150)], ["applied", "no_change"]);
    let quest = server.resource("quest", 42).ok();
    assert_eq!(quest["counters"]["shares"], 3, "{quest}");
    assert_eq!(quest["counters"]["likes"], 1, "{quest}");
}

/// The four kinds of bad records, each between good ones: partition, key, value, reason.
fn bad_records() -> Vec<(u64, String, String, &'static str)> {
    let home = partition_of("quest", 42);
    let (key, good) = event(1, "quest", 42, "view");
    let changed = |from: &str, to: &str| {
        let changed = good.replace(from, to);
        assert_ne!(changed, good);
        changed
    };
    vec![
        (home, key.clone(), "{no event".to_owned(), "undecodable"),
        (
            home,
            key.clone(),
            changed("\"v\":1", "\"v\":3"),
            "unknown_version",
        ),
        (
            (home + 1) % u64::from(PARTITIONS),
            key.clone(),
            good.clone(),
            "wrong_partition",
        ),
        (home, key, changed("2024-", "2099-"), "future_time"),
    ]
}

/// Protects a partition from one bad record: it is kept, counted, shown and exported as it was,
/// and those after it are folded.
#[test]
fn a_bad_record_among_good_ones_becomes_a_dead_letter() {
    let kafka = Kafka::shared();
    let folder = kafka.folder();
    let server = folder.start();
    let name = topic(&folder, "interactions");
    let bad = bad_records();
    let mut views = 0;
    for (partition, key, value, reason) in &bad {
        kafka.send_to(&name, *partition, key, value);
        views += 1;
        let answer = server.interact("quest", 42, "view").ok();
        assert_eq!(answer["visible"], true, "after {reason}: {answer}");
        assert_eq!(
            answer["counters"]["views"], views,
            "after {reason}: {answer}"
        );
    }
    let records = folded(kafka, &server);
    assert_log_cat_is(&folder, &records);
    assert_eq!(assert_state_is_fold_of_log(&folder).dead_letters, 4);
    let counted = server
        .metrics()
        .sum("tally_projector_dead_letters_total", &[]);
    assert_eq!(counted, 4.);

    let exported = wait::until("the export", || {
        let exported = kafka.records(&topic(&folder, "dead-letters"));
        (exported.len() >= bad.len()).then_some(exported)
    });
    assert_eq!(exported.len(), bad.len());
    assert_as_described(&exported, "dead-letter.schema.json");
    let listed = folder.run(&["dead-letters", "list"]).ok();
    for (partition, key, value, reason) in &bad {
        assert!(listed.contains(reason), "no {reason} in: {listed}");
        let of_reason = |record: &&Record| record.json()["reason"] == *reason;
        let letter = exported.iter().find(of_reason).expect(reason);
        let original = records.iter().find(|record| record.value == *value);
        let original = original.expect("the record itself");
        assert_eq!(
            (letter.partition, &letter.key),
            (*partition, key),
            "{reason}"
        );
        let letter = letter.json();
        assert_eq!(letter["partition"], original.partition);
        assert_eq!(letter["offset"], original.offset);
        assert_eq!(letter["key_base64"], STANDARD.encode(key));
        assert_eq!(letter["value_base64"], STANDARD.encode(value));
    }
    // They are state: a rebuild finds the same four, and exports none of them twice for nothing.
    server.stop();
    let again = folder.run(&["dead-letters", "list"]).ok();
    assert_eq!(again, listed, "without a server too");
    fs::remove_dir_all(folder.data_dir().join("state")).expect("the state's folder");
    let server = folder.start();
    assert_eq!(folder.run(&["dead-letters", "list"]).ok(), listed);
    assert_eq!(
        server.resource("quest", 42).ok()["counters"]["views"],
        views
    );
}

/// Protects who reads our topics by the documents: keys, headers, traces and values are as they
/// say, in the partition that the key belongs to.
#[test]
fn our_records_are_as_documented() {
    let kafka = Kafka::shared();
    let folder = kafka.folder();
    let server = folder.start();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let traced = interaction_request("quest", 42, "like")
        .header("traceparent", &parent)
        .header("Idempotency-Key", "k-1");
    let traced = traced.send(server.api()).ok();
    for interaction in ["view", "share", "bookmark"] {
        assert_eq!(server.interact("ai_note", 15, interaction).status, 200);
    }
    let _ = folder.run(&["resources", "add", "profile", "9"]).ok();
    let _ = folder.run(&["resources", "retire", "profile", "9"]).ok();

    let records = folded(kafka, &server);
    assert_eq!(records.len(), 4);
    assert_as_described(&records, "event.schema.json");
    for record in &records {
        let event = record.json();
        let kind = event["resource_type"].as_str().expect("a type");
        assert_eq!(record.key, format!("{kind}:{}", event["resource_id"]));
        assert_eq!(
            record.partition,
            u64::from(kafka_partition(&record.key, PARTITIONS))
        );
        let traceparent = record.header("traceparent").expect("a trace");
        let parts: Vec<&str> = traceparent.split('-').collect();
        let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        assert_eq!(lengths, [2, 32, 16, 2], "{traceparent}");
        if event["id"] == traced["event_id"] {
            assert_eq!(parts[1], trace, "the request's trace goes on");
            assert_eq!(event["idempotency_key"], "k-1");
        } else {
            let id = event["id"].as_str().expect("an id").replace('-', "");
            assert_eq!(parts[1], id, "a trace that begins with the event");
        }
    }
    let changes = kafka.records(&topic(&folder, "resources"));
    assert_as_described(&changes, "resource-change.schema.json");
    let last = changes.last().expect("a change");
    assert_eq!((last.partition, last.key.as_str()), (0, "profile:9"));
    assert_eq!(last.json()["action"], "retire");
    assert_log_cat_is(&folder, &records);
    assert_state_is_fold_of_log(&folder);
}

/// Protects operators' own tools: the group shows how far the fold is, in Kafka's own words.
#[test]
fn lag_tools_see_how_far_the_fold_is() {
    let kafka = Kafka::shared();
    let folder = kafka.folder();
    let server = folder.start();
    for _ in 0..5 {
        assert_eq!(server.interact("quest", 42, "view").status, 200);
    }
    let group = format!("{}-projector", prefix(&folder));
    let name = topic(&folder, "interactions");
    let args = [
        "consumer.group.ConsumerGroupCommand",
        "--describe",
        "--group",
        &group,
    ];
    let home = partition_of("quest", 42).to_string();
    // GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG …
    let shown = wait::until("lag 0 of the partition", || {
        let shown = kafka.cli(&args);
        let of_home = |line: &&str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.get(1..6) == Some(&[name.as_str(), home.as_str(), "5", "5", "0"])
        };
        shown.lines().find(of_home).map(str::to_owned)
    });
    println!("{shown}");
    // Kafka's answer to a commit comes a moment later.
    wait::until("a commit that is counted", || {
        let labels = ["client=\"interactions-control\"", "result=\"ok\""];
        let counted = server.metrics().sum("tally_kafka_commits_total", &labels);
        (counted >= 1.).then_some(())
    });
}

/// Protects the golden partitions: they are what Kafka's own Java client computes, here and now.
#[test]
fn the_golden_partitions_are_those_of_the_java_client() {
    let path = workspace().join("crates/domain/tests/golden/kafka-partitions.csv");
    let golden = fs::read_to_string(path).expect("the golden partitions");
    let rows: Vec<&str> = golden
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let (header, keys) = rows.split_first().expect("a header");
    let counts: Vec<&str> = header.split(',').skip(2).collect();
    let args = [&["partitions"], counts.as_slice()].concat();
    let made = keyed_producer(&args, &keys.join("\n"));
    assert_eq!(made.lines().collect::<Vec<_>>(), rows);
    assert!(keys.len() >= 200);
}
