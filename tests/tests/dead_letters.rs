//! `tally dead-letters replay` and `drop` over the real binary, with a server and without.

use std::fs;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tally_domain::EventTime;
use tally_log::embedded::{EmbeddedLog, EmbeddedOptions};
use tally_log::storage::RealStorage;
use tally_log::{EventLog, LogMetrics, NewRecord};
use tally_tests::fold::{assert_state_is_fold_of_log, kafka_partition};
use tally_tests::{Folder, wait};

const PARTITIONS: u32 = 16;
/// How long after its append an event may be dated.
const AHEAD_MILLIS: u64 = 300_000;

/// Appends to the log of a folder that no server holds, as nobody can over HTTP: key, value and
/// partition as given.
fn append(folder: &Folder, records: Vec<NewRecord>) {
    let options = EmbeddedOptions {
        partitions: PARTITIONS,
        ..EmbeddedOptions::default()
    };
    let (metrics, dir) = (LogMetrics::unregistered(), folder.data_dir().join("log"));
    let metrics = metrics.expect("metrics");
    let opened = EmbeddedLog::open(Arc::new(RealStorage), &dir, "a log", options, &metrics);
    let (log, _) = opened.expect("the log");
    let (tell, told) = sync_channel(1);
    let done = Box::new(move |results| tell.send(results).expect("somebody waits"));
    log.append(records, done).expect("room");
    assert!(told.recv().expect("an answer").iter().all(Result::is_ok));
    log.close(Duration::from_secs(10)).expect("closed");
}

fn home() -> u32 {
    kafka_partition("quest:42", PARTITIONS)
}

/// An event of quest 42, so many milliseconds from now.
fn event(number: u64, version: u64, interaction: &str, ahead: u64) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = u64::try_from(now.expect("after 1970").as_millis()).expect("a time");
    let event = json!({
        "v": version, "id": format!("0193a6f0-7b3e-7c4a-9d3e-{number:012x}"),
        "at": EventTime::from_millis(now + ahead).to_string(), "user": "someone",
        "resource_type": "quest", "resource_id": 42, "interaction_type": interaction,
    });
    event.to_string().into_bytes()
}

/// A folder with one interaction, and four dead letters: no event, a newer version, the wrong
/// partition, and one whose time comes in a moment.
fn poisoned() -> Folder {
    let folder = Folder::local();
    let server = folder.start();
    assert_eq!(server.interact("quest", 42, "view").status, 200);
    server.stop();
    let record = |partition, value| NewRecord {
        partition,
        key: b"quest:42".to_vec(),
        value,
        traceparent: None,
    };
    append(
        &folder,
        vec![
            record(home(), b"no event".to_vec()),
            record(home(), event(1, 9, "view", 0)),
            record((home() + 1) % PARTITIONS, event(2, 1, "view", 0)),
            record(home(), event(3, 1, "like", AHEAD_MILLIS + 3_000)),
        ],
    );
    folder
}

fn reasons(folder: &Folder) -> Vec<String> {
    let lines = folder.run(&["dead-letters", "list"]).json_lines();
    let mut reasons: Vec<String> = lines
        .iter()
        .map(|line| line["reason"].as_str().expect("a reason").to_owned())
        .collect();
    reasons.sort_unstable();
    reasons
}

/// What a command came to, as its last line says, and how it ended.
fn settled(folder: &Folder, args: &[&str]) -> (Value, Option<i32>, String) {
    let args = [&["dead-letters"], args, &["--yes"]].concat();
    let ran = folder.run(&args);
    let last = ran.stdout.lines().last().expect("a last line");
    let last: Value = serde_json::from_str(last).expect("JSON");
    (last["settled"].clone(), ran.status.code(), ran.stderr)
}

/// Protects operators: nothing happens unasked, each letter comes to what it can, once, with a server
/// and without; requests go on meanwhile; the gap is seen in list and metric; and a rebuild decides
/// alike.
#[test]
fn dead_letters_are_replayed_and_dropped_once_and_for_good() {
    let folder = poisoned();
    let all = [
        "future_time",
        "undecodable",
        "unknown_version",
        "wrong_partition",
    ];
    assert_eq!(reasons(&folder), all);
    let unasked = folder.run(&["dead-letters", "replay"]);
    assert_eq!(unasked.status.code(), Some(2), "{unasked:?}");
    assert!(
        unasked.stderr.contains("4 dead letters to replay"),
        "{unasked:?}"
    );
    assert!(unasked.stderr.contains("--yes"), "{unasked:?}");
    assert_eq!(reasons(&folder), all);

    let server = folder.start();
    let gauge = || server.metrics().sum("tally_projector_dead_letters", &[]);
    let counters = || server.resource("quest", 42).ok()["counters"].clone();
    assert_eq!(gauge(), 4.);
    let (line, code, said) = settled(&folder, &["replay", "--reason", "wrong_partition"]);
    assert_eq!(
        (&line["folded"], code),
        (&json!(1), Some(0)),
        "{line} {said}"
    );
    assert!(said.contains("1 folded"), "{said}");
    assert_eq!(counters()["views"], 2);
    let time = [
        "replay",
        "--reason",
        "future_time",
        "--rate",
        "100",
        "--limit",
        "5",
    ];
    let (line, ..) = wait::until("the time of the event", || {
        let replayed = settled(&folder, &time);
        (replayed.0["folded"] == 1).then_some(replayed)
    });
    assert_eq!(line["still"], 0, "{line}");
    assert_eq!(counters()["likes"], 1);
    assert_eq!(
        server.interact("quest", 42, "view").ok()["counters"]["views"],
        3
    );
    let (line, code, said) = settled(&folder, &["replay"]);
    let left = json!({"action": "replay", "dead_letters": 2, "folded": 0, "dropped": 0,
        "still": 2, "gone": 0});
    assert_eq!((line, code), (left, Some(1)), "{said}");
    assert!(said.contains("2 dead letters can't be folded"), "{said}");
    wait::until("the gauge", || (gauge() == 2.).then_some(()));
    let place = home().to_string();
    let one = ["drop", "--partition", place.as_str(), "--offset", "1"];
    let (line, code, _) = settled(&folder, &one);
    assert_eq!((&line["dropped"], code), (&json!(1), Some(0)), "{line}");
    assert_eq!(reasons(&folder), ["unknown_version"]);
    server.stop();
    without_a_server(&folder);
}

/// The last one, unknown_version, is dropped, and the state is thrown away.
fn without_a_server(folder: &Folder) {
    let (line, code, _) = settled(folder, &["drop", "--reason", "unknown_version"]);
    assert_eq!((&line["dropped"], code), (&json!(1), Some(0)), "{line}");
    let (line, code, _) = settled(folder, &["drop"]);
    assert_eq!(
        (&line["dead_letters"], code),
        (&json!(0), Some(0)),
        "{line}"
    );
    assert_eq!(reasons(folder), Vec::<String>::new());
    assert_eq!(assert_state_is_fold_of_log(folder).dead_letters, 0);

    let info = || folder.run(&["state", "info"]).json_lines();
    let before = info();
    assert_eq!(before[0]["state"]["dead_letters"], 0);
    fs::remove_dir_all(folder.data_dir().join("state")).expect("the state");
    assert_eq!(info(), before, "a rebuild decides alike");
}
