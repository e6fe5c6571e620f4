//! Dead letters as lines: what programs parse, and what people look at.

use std::sync::Arc;

use prometheus::Registry;
use serde_json::{Value, json};
use tally_log::ReadError;
use tally_log::storage::RealStorage;
use tally_projector::Options;

use super::*;
use crate::memory_log::MemoryLog;

const PARTITIONS: u32 = 4;
const APPENDED: u64 = 1_764_000_000_000;

struct World {
    log: MemoryLog,
    projector: Projector,
    _dir: tempfile::TempDir,
}

fn world(letters: &[(Partition, &[u8], &[u8])]) -> World {
    let dir = tempfile::tempdir().unwrap();
    let log = MemoryLog::new(PARTITIONS);
    log.set_append_time(APPENDED);
    for (partition, key, value) in letters {
        log.add(*partition, key, value);
    }
    let options = Options {
        sled_cache_bytes: 1 << 20,
        ..Options::default()
    };
    let storage = Arc::new(RealStorage);
    let projector =
        Projector::open(log.arc(), storage, dir.path(), options, &Registry::new()).unwrap();
    World {
        log,
        projector,
        _dir: dir,
    }
}

fn never() -> bool {
    false
}

fn lines(text: &[u8]) -> Vec<Value> {
    let lines = std::str::from_utf8(text).unwrap().lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn listed(world: &World, list: DeadLetterList) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    dead_letters(&world.projector, list, &mut out, &never).unwrap();
    let place = |line: &Value| {
        (
            line["partition"].as_u64().unwrap(),
            line["offset"].as_u64().unwrap(),
        )
    };
    lines(&out).iter().map(place).collect()
}

/// Protects the lines that programs parse, the end of the log included, and the payload's bytes.
#[test]
fn a_letter_is_a_line_with_its_reason_and_its_bytes() {
    let world = world(&[(3, b"the key", b"{}"), (1, b"\xff", b"\0\xfe")]);
    let mut out = Vec::new();
    dead_letters(
        &world.projector,
        DeadLetterList::default(),
        &mut out,
        &never,
    )
    .unwrap();
    let text = String::from_utf8(out.clone()).unwrap();
    let start = r#"{"partition":1,"offset":0,"reason":"undecodable","detail":""#;
    assert!(text.starts_with(start), "{text}");
    let mut found = lines(&out);
    for line in &mut found {
        let detail = line.as_object_mut().unwrap().remove("detail").unwrap();
        assert!(!detail.as_str().unwrap().is_empty());
    }
    let appended = EventTime::from_millis(APPENDED).to_string();
    assert_eq!(
        found,
        [
            json!({"partition": 1, "offset": 0, "reason": "undecodable",
                "append_time": appended, "key_base64": "/w=="}),
            json!({"partition": 3, "offset": 0, "reason": "undecodable",
                "append_time": appended, "key": "the key"}),
        ]
    );
    for (partition, value, value_base64) in [(3, Some("{}"), "e30="), (1, None, "AP4=")] {
        let position = Position {
            partition,
            offset: 0,
        };
        let mut out = Vec::new();
        dead_letter(&world.projector, position, &mut out, &never).unwrap();
        let line = &lines(&out)[0];
        assert_eq!(line.get("value").and_then(Value::as_str), value);
        assert_eq!(line["value_base64"], value_base64);
    }
}

/// Protects whoever looks for one kind, and whoever goes on from an offset: nothing is left out,
/// however many pages there are.
#[test]
fn a_list_can_be_narrowed_and_has_all() {
    let many: Vec<(Partition, &[u8], &[u8])> = (0..600).map(|_| (2, &b""[..], &b"x"[..])).collect();
    let world = world(&many);
    let newer = br#"{"v":99}"#;
    world.log.add(0, b"", newer);
    let all = listed(&world, DeadLetterList::default());
    let expected: Vec<_> = [(0, 0)]
        .into_iter()
        .chain((0..600).map(|n| (2, n)))
        .collect();
    assert_eq!(all, expected);
    let newest = DeadLetterList {
        partition: Some(2),
        from: Some(598),
        reason: None,
    };
    assert_eq!(listed(&world, newest), [(2, 598), (2, 599)]);
    let unknown = DeadLetterList {
        reason: Some(DeadLetterReason::UnknownVersion),
        ..DeadLetterList::default()
    };
    assert_eq!(listed(&world, unknown), [(0, 0)]);
}

/// Protects against taking nothing for an answer: no letter there, no such partition, and a fold
/// that has not come to the end are said, each as what it is.
#[test]
fn what_is_not_there_is_said() {
    let world = world(&[(0, b"", b"x")]);
    let show = |partition, offset| {
        let position = Position { partition, offset };
        dead_letter(&world.projector, position, &mut Vec::new(), &never)
    };
    let none = show(0, 1).unwrap_err();
    assert!(matches!(none, InspectError::NoDeadLetter(_)), "{none}");
    let said = none.to_string();
    assert!(said.contains("offset 1 of partition 0"), "{said}");
    let nowhere = show(PARTITIONS, 0).unwrap_err();
    assert!(matches!(
        nowhere,
        InspectError::NoSuchPartition {
            partition: PARTITIONS,
            last: 3
        }
    ));
    let damaged = ReadError::Damaged {
        place: "here".to_owned(),
        what: "all".to_owned(),
    };
    world.log.set_unreadable(Some(damaged));
    world.log.add(0, b"", b"unread");
    let behind = show(0, 7).unwrap_err();
    assert!(matches!(behind, InspectError::Behind(_)), "{behind}");
    let mut out = Vec::new();
    let listed = dead_letters(
        &world.projector,
        DeadLetterList::default(),
        &mut out,
        &never,
    );
    assert!(matches!(listed, Err(InspectError::Behind(_))), "{listed:?}");
    assert!(!lines(&out).is_empty(), "what there is is written");
}
