//! `tally log copy` between the embedded log and Kafka, there and back.

use serde_json::Value;
use tally_tests::kafka::Kafka;
use tally_tests::{Folder, wait};

/// So many events that a copy can be killed on its way.
const EVENTS: &str = "60000";

fn embedded(folder: &Folder) -> String {
    format!("embedded:{}", folder.data_dir().display())
}

/// Copies, with the settings of the folder that knows the cluster.
fn copy(on: &Folder, from: &str, to: &str) -> Value {
    let args = ["log", "copy", "--from", from, "--to", to, "--json"];
    let mut lines = on.run(&args).json_lines();
    let said = lines.remove(0);
    assert_eq!(said["equal"], true, "{said}");
    said
}

fn digest(folder: &Folder) -> Value {
    folder.run(&["state", "info"]).json_lines()[0]["state"]["digest"].clone()
}

/// Protects whoever moves in, or out again: every event is there once, also where the copy was
/// killed on its way, and every log folds to the same state.
#[test]
fn there_and_back_every_log_folds_to_the_same() {
    let first = Folder::local();
    let server = first.start();
    let args = ["bench", "--requests", EVENTS, "--idempotency-keys"];
    assert!(first.run(&args).status.success());
    server.stop();
    let wanted = digest(&first);

    let on_kafka = Kafka::shared().folder();
    let source = embedded(&first);
    let mut killed = on_kafka
        .command(&["log", "copy", "--from", &source, "--to", "kafka"])
        .spawn()
        .expect("the command starts");
    wait::until("records on Kafka", || {
        let info = on_kafka.run(&["log", "info"]).json_lines();
        (info[0]["records"].as_u64() > Some(0)).then_some(())
    });
    // It may have ended by itself.
    let _ = killed.kill();
    killed.wait().expect("a child of ours");

    let there = copy(&on_kafka, &source, "kafka");
    println!("there, after a kill: {there}");
    assert_ne!(there["already_there"], 0, "{there}");
    let events = there["already_there"]
        .as_u64()
        .zip(there["copied"].as_u64());
    let wanted_events: u64 = EVENTS.parse().expect("a number");
    assert_eq!(
        events.map(|(before, now)| before + now),
        Some(wanted_events)
    );
    assert_eq!(digest(&on_kafka), wanted);

    let last = Folder::local();
    let back = copy(&on_kafka, "kafka", &embedded(&last));
    println!("back: {back}");
    assert_eq!(back["copied"], wanted_events);
    assert_eq!(digest(&last), wanted);
}
