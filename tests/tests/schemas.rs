//! What is published about the records in Kafka (`docs/`) agrees with the code that writes and
//! reads them. Real records are held against it by the Kafka suite.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use prometheus::Registry;
use serde_json::{Value, json};
use tally_domain::{
    DeadLetter, DeadLetterReason, Entry, InteractionType, ResourceType, SettleAction, decode,
    decode_entry, encode, encode_settlement,
};
use tally_log::embedded::{EmbeddedLog, EmbeddedOptions};
use tally_log::storage::RealStorage;
use tally_log::{Batch, EventLog, LogMetrics, NewRecord};
use tally_projector::{Options, Projector};
use tally_tests::binary::workspace;
use tally_tests::wait;

const EVENT: &str = "event.schema.json";
const SETTLEMENT: &str = "settlement.schema.json";
const CHANGE: &str = "resource-change.schema.json";
const DEAD_LETTER: &str = "dead-letter.schema.json";

fn document(name: &str) -> String {
    let path = workspace().join("docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn schema(name: &str) -> Value {
    serde_json::from_str(&document(name)).expect("JSON")
}

fn validator(name: &str) -> jsonschema::Validator {
    let options = jsonschema::options().should_validate_formats(true);
    options.build(&schema(name)).expect("a schema")
}

/// Protects readers of the topic from events that are not as described: everything version 1 ever
/// wrote, and everything that this build writes.
#[test]
fn every_event_that_was_ever_written_is_as_described() {
    let described = validator(EVENT);
    let golden = workspace().join("crates/domain/tests/golden/events-v1.ndjson");
    let golden = fs::read_to_string(golden).expect("the golden events");
    for line in golden.lines() {
        let again = encode(&decode(line.as_bytes()).expect("an event"));
        for bytes in [line.as_bytes(), &again] {
            let event = serde_json::from_slice(bytes).expect("JSON");
            let wrong = described.iter_errors(&event).map(|error| error.to_string());
            assert_eq!(wrong.collect::<Vec<_>>(), Vec::<String>::new(), "{line}");
        }
    }
    assert!(golden.lines().count() >= 20);
}

/// The same of replays and drops, which are all that version 2 ever wrote; and that what the
/// description refuses would be a dead letter.
#[test]
fn every_replay_and_drop_is_as_described() {
    let (described, event) = (validator(SETTLEMENT), validator(EVENT));
    let golden = workspace().join("crates/domain/tests/golden/events-v2.ndjson");
    let golden = fs::read_to_string(golden).expect("the golden events");
    assert!(golden.lines().count() >= 5);
    for line in golden.lines() {
        let Ok(Entry::Settlement(settlement)) = decode_entry(line.as_bytes()) else {
            panic!("no settlement: {line}");
        };
        for bytes in [line.as_bytes(), &encode_settlement(&settlement)] {
            let value: Value = serde_json::from_slice(bytes).expect("JSON");
            let wrong = described.iter_errors(&value).map(|error| error.to_string());
            assert_eq!(wrong.collect::<Vec<_>>(), Vec::<String>::new(), "{line}");
            assert!(!event.is_valid(&value), "it is no interaction: {line}");
            if let Some(brought) = value.get("event") {
                assert!(event.is_valid(brought), "{line}");
            }
        }
        for (name, changed) in [
            ("v", json!(1)),
            ("v", json!(3)),
            ("kind", json!("other")),
            ("kind", json!(1)),
            ("id", json!("0193a6f0")),
            ("at", json!("2026-11-24")),
            ("origin", json!({"partition": 1})),
            ("origin", json!({"partition": -1, "offset": 1})),
            ("origin", json!({"partition": 1, "offset": "1"})),
            ("event", json!({"v": 1})),
        ] {
            let mut value: Value = serde_json::from_str(line).expect("JSON");
            value[name] = changed;
            assert!(!described.is_valid(&value), "{value}");
            assert!(
                decode_entry(value.to_string().as_bytes()).is_err(),
                "{value}"
            );
        }
    }
}

/// An event with one field as given; `null` takes the field away.
fn event_with(name: &str, value: &Value) -> Value {
    let mut event = json!({
        "v": 1, "id": "0193a6f0-7b3e-7c4a-9d3e-2f1b5c6d7e8f", "at": "2026-11-24T03:50:12.345Z",
        "user": "1", "resource_type": "ai_note", "resource_id": 15, "interaction_type": "view",
        "idempotency_key": "k-1",
    });
    let fields = event.as_object_mut().expect("an object");
    if value.is_null() {
        fields.remove(name);
    } else {
        fields.insert(name.to_owned(), value.clone());
    }
    event
}

/// Protects who writes events by the description alone: what it allows is folded, and what it
/// refuses would be a dead letter.
#[test]
fn what_the_description_allows_is_what_is_read() {
    let described = validator(EVENT);
    let long = |text: &str, times: usize| Value::from(text.repeat(times));
    let allowed = [
        ("idempotency_key", Value::Null),
        ("idempotency_key", long("~", 255)),
        ("idempotency_key", json!(" ")),
        ("id", json!("0193A6F0-7B3E-7C4A-9D3E-2F1B5C6D7E8F")),
        ("id", json!("00000000-0000-4000-8000-000000000000")),
        ("at", json!("1970-01-01T00:00:00Z")),
        ("at", json!("2026-11-24T05:50:12.345678901+02:00")),
        ("at", json!("9999-12-31T23:59:59.999Z")),
        ("user", long("a", 128)),
        ("resource_id", json!(0)),
        ("resource_id", json!(9_223_372_036_854_775_807_u64)),
        ("unknown", json!({"of": "later"})),
    ];
    for (name, value) in allowed {
        let event = event_with(name, &value);
        assert!(described.is_valid(&event), "{event}");
        let read = decode(event.to_string().as_bytes());
        assert!(read.is_ok(), "{event}: {read:?}");
    }
    let mut refused = vec![
        ("v", json!(0)),
        ("v", json!(2)),
        ("v", json!("1")),
        ("id", json!("0193a6f0")),
        ("id", json!(1)),
        ("at", json!("2026-11-24")),
        ("at", json!("2026-13-24T03:50:12.345Z")),
        ("at", json!("1969-12-31T23:59:59.999Z")),
        ("at", json!(1_795_492_212_345_u64)),
        ("user", json!("")),
        ("user", long("a", 129)),
        ("user", json!(1)),
        ("resource_type", json!("AI_NOTE")),
        ("resource_id", json!(-1)),
        ("resource_id", json!(9_223_372_036_854_775_808_u64)),
        ("resource_id", json!("15")),
        ("interaction_type", json!("dislike")),
        ("idempotency_key", json!("")),
        ("idempotency_key", long("~", 256)),
        ("idempotency_key", json!("é")),
        ("idempotency_key", json!("a\nb")),
    ];
    let required = schema(EVENT)["required"].clone();
    let required: Vec<&str> = required
        .as_array()
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    assert_eq!(required.len(), 7);
    refused.extend(required.into_iter().map(|name| (name, Value::Null)));
    for (name, value) in refused {
        let event = event_with(name, &value);
        assert!(!described.is_valid(&event), "{event}");
        assert!(decode(event.to_string().as_bytes()).is_err(), "{event}");
    }
    // What a schema can't say stands there in words: bytes, and how an integer is written.
    for (name, value) in [("user", long("é", 65)), ("resource_id", json!(15.0))] {
        let event = event_with(name, &value);
        assert!(decode(event.to_string().as_bytes()).is_err(), "{event}");
        let words = schema(EVENT)["properties"][name]["description"].to_string();
        assert!(
            words.contains("bytes") || words.contains("15.0"),
            "{name}: {words}"
        );
    }
}

/// Protects the words in the descriptions: they are those of the code, all of them.
#[test]
fn the_descriptions_know_every_word() {
    let words = |name: &str, field: &str| schema(name)["properties"][field]["enum"].clone();
    let types: Vec<&str> = ResourceType::ALL.iter().map(|one| one.as_str()).collect();
    let interactions: Vec<&str> = InteractionType::ALL
        .iter()
        .map(|one| one.as_str())
        .collect();
    let reasons: Vec<&str> = DeadLetterReason::ALL
        .iter()
        .map(|one| one.as_str())
        .collect();
    assert_eq!(words(EVENT, "resource_type"), json!(types));
    assert_eq!(words(CHANGE, "resource_type"), json!(types));
    assert_eq!(words(EVENT, "interaction_type"), json!(interactions));
    let actions: Vec<&str> = SettleAction::ALL.iter().map(|one| one.as_str()).collect();
    assert_eq!(words(SETTLEMENT, "kind"), json!(actions));
    assert_eq!(words(CHANGE, "action"), json!(["add", "retire"]));
    assert_eq!(words(DEAD_LETTER, "reason"), json!(reasons));
    let detail = &schema(DEAD_LETTER)["properties"]["detail"]["maxLength"];
    assert_eq!(*detail, json!(DeadLetter::MAX_DETAIL_CHARS));
    for name in [EVENT, SETTLEMENT, CHANGE, DEAD_LETTER] {
        let schema = schema(name);
        let draft = "https://json-schema.org/draft/2020-12/schema";
        assert_eq!(schema["$schema"], draft, "{name}");
        assert_ne!(schema["additionalProperties"], false, "{name}");
        let described = validator(name);
        let examples = schema["examples"].as_array().expect("examples");
        assert!(!examples.is_empty(), "{name}");
        for example in examples {
            assert!(described.is_valid(example), "{name}: {example}");
            for field in schema["required"].as_array().expect("required fields") {
                let mut less = example.clone();
                let field = field.as_str().expect("a name");
                less.as_object_mut().expect("an object").remove(field);
                assert!(!described.is_valid(&less), "{name} without {field}");
            }
        }
    }
}

fn log_in(dir: &Path) -> Arc<dyn EventLog> {
    let options = EmbeddedOptions {
        partitions: 2,
        segment_bytes: 8 << 20,
        ..EmbeddedOptions::default()
    };
    let metrics = LogMetrics::unregistered().expect("metrics");
    let storage = Arc::new(RealStorage);
    let opened = EmbeddedLog::open(storage, dir, "a log", options, &metrics);
    Arc::new(opened.expect("a log").0)
}

/// Everything in partition 1: key and value.
fn records(log: &dyn EventLog) -> Vec<(Vec<u8>, Vec<u8>)> {
    let from = tally_domain::Position {
        partition: 1,
        offset: 0,
    };
    let mut reader = log.reader(&[from]).expect("a reader");
    let (mut batch, mut records) = (Batch::new(), Vec::new());
    while reader.positions()[0].offset < log.head().expect("the head")[1] {
        let next = reader.next(&mut batch, Duration::from_secs(1));
        next.expect("records");
        let both =
            |record: tally_log::BatchRecord<'_>| (record.key.to_vec(), record.value.to_vec());
        records.extend(batch.iter().map(both));
    }
    records
}

/// Protects readers of the copies: whole ones and those that would be too large are as described,
/// and what the description says of them is there.
#[test]
fn every_copy_of_a_dead_letter_is_as_described() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = log_in(&dir.path().join("log"));
    let to = log_in(&dir.path().join("copies"));
    let letters = [b"garbage".to_vec(), vec![0xff; 900_000], Vec::new()];
    let appended = letters.iter().map(|value| NewRecord {
        partition: 1,
        key: b"ai_note:15".to_vec(),
        value: value.clone(),
        traceparent: None,
    });
    let (tell, told) = sync_channel(1);
    let done = Box::new(move |results| tell.send(results).expect("somebody waits"));
    log.append(appended.collect(), done).expect("room");
    assert!(told.recv().expect("an answer").iter().all(Result::is_ok));

    let (state, storage) = (dir.path().join("state"), Arc::new(RealStorage));
    let (options, registry) = (Options::default(), Registry::new());
    let projector = Projector::open(Arc::clone(&log), storage, &state, options, &registry);
    let projector = projector.expect("a projector");
    let export = projector.export_dead_letters(Arc::clone(&to));
    export.expect("an export");
    let copies = wait::until("the copies", || {
        let copies = records(to.as_ref());
        (copies.len() == letters.len()).then_some(copies)
    });
    let described = validator(DEAD_LETTER);
    for (offset, ((key, copy), letter)) in copies.iter().zip(&letters).enumerate() {
        let copy: Value = serde_json::from_slice(copy).expect("JSON");
        let wrong = described.iter_errors(&copy).map(|error| error.to_string());
        assert_eq!(wrong.collect::<Vec<_>>(), Vec::<String>::new(), "{copy}");
        let known = &schema(DEAD_LETTER)["properties"];
        let fields = copy.as_object().expect("an object").keys();
        for field in fields {
            assert!(known.get(field).is_some(), "{field} is not described");
        }
        assert_eq!(copy["log"], log.identity().id.to_string());
        assert_eq!(copy["offset"], offset);
        let whole = letter.len() < 900_000;
        assert_eq!(key.as_slice(), if whole { &b"ai_note:15"[..] } else { b"" });
        let omitted = (!whole).then_some(letter.len() + b"ai_note:15".len());
        assert_eq!(copy.get("omitted_bytes"), omitted.map(Value::from).as_ref());
        for (field, there) in [("key_base64", whole), ("value_base64", whole)] {
            assert_eq!(copy.get(field).is_some(), there, "{copy}");
            // Neither both ways nor none.
            let mut other = copy.clone();
            let fields = other.as_object_mut().expect("an object");
            if fields.remove(field).is_none() {
                fields.insert(field.to_owned(), json!(""));
            }
            assert!(!described.is_valid(&other), "{other}");
        }
    }
}

/// Protects the overview: it speaks of our topics and leads to the schemas that there are.
#[test]
fn the_overview_leads_to_every_schema() {
    let overview = document("asyncapi.yaml");
    assert!(overview.contains("\nasyncapi: 3.0.0\n"));
    let values = |key: &str| -> BTreeSet<String> {
        let lines = overview
            .lines()
            .filter_map(|line| line.trim().strip_prefix(key));
        lines.map(|value| value.trim().to_owned()).collect()
    };
    let topics = [
        "tally.interactions",
        "tally.resources",
        "tally.dead-letters",
    ];
    assert_eq!(values("address:"), topics.map(str::to_owned).into());
    let files: BTreeSet<String> = values("$ref: ./").into_iter().collect();
    assert_eq!(
        files,
        [EVENT, SETTLEMENT, CHANGE, DEAD_LETTER]
            .map(str::to_owned)
            .into()
    );
    // References inside lead to a line with that name at its place.
    for place in values("$ref: \"#/") {
        let place = place.trim_end_matches('"');
        let mut rest = overview.as_str();
        for (depth, part) in place.split('/').enumerate() {
            let line = format!("\n{}{part}:", "  ".repeat(depth));
            let at = rest.find(&line).unwrap_or_else(|| panic!("no {place}"));
            rest = &rest[at + 1..];
        }
    }
}
