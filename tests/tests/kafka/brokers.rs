//! Brokers that die, freeze, and come back. Nothing that was acknowledged is missing, and the
//! service is ready again by itself.

use std::sync::mpsc;
use std::time::Duration;

use tally_tests::fold::{Folded, assert_state_is_fold_of_log};
use tally_tests::kafka::{Kafka, topic};
use tally_tests::load::Load;
use tally_tests::server::interaction_request;
use tally_tests::{Folder, Server, wait};

use crate::support::{assert_says, assert_unavailable};

/// Ends a load and holds what its clients were told against the log and the state.
fn check(folder: &Folder, server: &mut Server, load: Load) -> Folded {
    server.wait_until_ready();
    let told = load.stop();
    told.assert_only_conflicts_and_unavailable();
    println!(
        "{} acknowledged, {} refused",
        told.acknowledged.len(),
        told.refused.len()
    );
    server.wait_until_quiet();
    let folded = assert_state_is_fold_of_log(folder);
    told.assert_all_there(&folded);
    folded
}

/// Protects acknowledged interactions from the end of one broker of three: writes go on with two
/// in sync, whichever it is that is gone, and it is taken in again when it is back.
#[test]
fn one_broker_of_three_is_not_missed() {
    let kafka = Kafka::start(3);
    let folder = kafka.folder();
    let mut server = folder.start();
    let load = Load::start(server.api(), 8);
    load.answers(200);
    for node in [1, 2, 3] {
        kafka.kill(node);
        // Two of three have it: interactions are taken, with this one gone.
        wait::until("a 200 with a broker gone", || {
            let answer = server.interact("quest", 42, "view");
            (answer.status == 200).then_some(())
        });
        load.answers(200);
        kafka.revive(node);
        load.answers(200);
    }
    check(&folder, &mut server, load);
}

/// Protects from leaders that move: who wrote to one goes on with the next.
#[test]
fn leaders_move_under_load() {
    let kafka = Kafka::start(3);
    let folder = kafka.folder();
    let mut server = folder.start();
    let load = Load::start(server.api(), 8);
    load.answers(200);
    for node in [1, 2, 3] {
        // A clean end hands its partitions on; the election gives them back.
        kafka.stop(node);
        load.answers(100);
        kafka.revive(node);
        kafka.cli(&[
            "LeaderElectionCommand",
            "--election-type",
            "preferred",
            "--all-topic-partitions",
        ]);
        load.answers(100);
    }
    let name = topic(&folder, "interactions");
    let described = kafka.cli(&["TopicCommand", "--describe", "--topic", &name]);
    for node in 1..=3 {
        assert_says(&described, &[&format!("Leader: {node}")]);
    }
    check(&folder, &mut server, load);
}

/// Protects the meaning of a 200 where too few replicas are in sync: none is given, and when the
/// brokers are back the service is, with nothing lost that was acknowledged.
#[test]
fn with_two_of_three_brokers_gone_nothing_is_acknowledged() {
    let kafka = Kafka::start(3);
    let folder = kafka.folder();
    let mut server = folder.start();
    let load = Load::start(server.api(), 4);
    load.answers(200);
    kafka.kill(2);
    kafka.kill(3);
    let reasons = server.wait_until_not_ready();
    println!("two of three gone: {reasons}");
    let key = "while-two-are-gone";
    let share = interaction_request("quest", 42, "share").header("Idempotency-Key", key);
    assert_unavailable(&share.send(server.api()));
    kafka.revive_all(&[2, 3]);
    server.wait_until_ready();
    // Its fate may have been unknown; the key makes it one.
    wait::until("the same again", || {
        let answer = share.send(server.api());
        (answer.status == 200).then_some(())
    });
    load.answers(100);
    check(&folder, &mut server, load);
    assert_shared_once(&folder, key);
}

/// Protects from a broker that is there and does not answer: past the delivery's deadline it is a
/// 503 that says what is known, and when the broker goes on the service does.
#[test]
fn a_frozen_broker_is_a_503_and_no_end() {
    let kafka = Kafka::start(1);
    let folder = kafka.folder();
    let mut server = folder.start();
    let load = Load::start(server.api(), 4);
    load.answers(100);
    kafka.freeze(1);
    let key = "while-it-is-frozen";
    let share = interaction_request("quest", 42, "share").header("Idempotency-Key", key);
    let answer = share.send(server.api());
    assert_unavailable(&answer);
    let reasons = server.wait_until_not_ready();
    println!("frozen: {} {reasons}", answer.text());
    assert_says(&reasons, &["kafka_unreachable"]);
    // What is known can still be read.
    assert_eq!(server.resource("quest", 42).status, 200);
    kafka.thaw(1);
    server.wait_until_ready();
    wait::until("the same again", || {
        let answer = share.send(server.api());
        (answer.status == 200).then_some(())
    });
    load.answers(100);
    check(&folder, &mut server, load);
    assert_shared_once(&folder, key);
}

/// Protects against records that a producer sends twice: what a broker may have, and has not
/// acknowledged, is never sent again under another identity, whatever else ran out of time.
#[test]
fn what_a_broker_may_have_is_never_sent_again() {
    let kafka = Kafka::start(1);
    // Requests are given up before their records are.
    let folder = kafka
        .folder()
        .with("TALLY__KAFKA__PROPERTIES__SOCKET__TIMEOUT__MS", "4000")
        .with("TALLY__KAFKA__DELIVERY_TIMEOUT", "9s");
    let mut server = folder.start();
    assert_eq!(server.interact("quest", 42, "view").status, 200);
    kafka.freeze(1);
    let (api, (told, answers)) = (server.api(), mpsc::channel());
    let shares = (0..5).map(|number| {
        let told = told.clone();
        // One after the other, so that they don't run out of time together.
        let early = answers.recv_timeout(Duration::from_millis(600));
        assert!(early.is_err(), "nothing is answered yet: {early:?}");
        let (kind, id) = [("ai_note", 15), ("ai_expert", 7), ("quest", 42)][number % 3];
        std::thread::spawn(move || {
            let share = interaction_request(kind, id, "share");
            told.send(share.send(api).status).unwrap_or_default();
        })
    });
    let shares: Vec<_> = shares.collect();
    // The first have run out of time, and others have been tried.
    wait::until("a record of unknown fate", || {
        let of = ["kind=\"fate_unknown\""];
        (server.metrics().sum("tally_log_errors_total", &of) > 0.0).then_some(())
    });
    kafka.thaw(1);
    for share in shares {
        share.join().expect("a client");
    }
    server.wait_until_ready();
    assert_eq!(server.interact("quest", 42, "view").status, 200);
    server.wait_until_quiet();
    let folded = assert_state_is_fold_of_log(&folder);
    let doubled: Vec<_> = folded
        .records_of_event
        .iter()
        .filter(|(_, records)| **records > 1)
        .collect();
    assert!(doubled.is_empty(), "{doubled:?}");
}

/// Protects a start: a cluster that is not there yet is waited for, or its absence is said.
#[test]
fn a_broker_that_comes_late_is_found() {
    let kafka = Kafka::start(1);
    let folder = kafka.folder();
    let server = folder.start();
    assert_eq!(server.interact("quest", 42, "view").status, 200);
    kafka.kill(1);
    // A clean stop does not need the broker, and ends in time.
    server.stop();
    let said = crate::support::does_not_serve(&folder);
    assert_says(&said, &["kafka", "kafka.bootstrap_servers"]);
    kafka.revive(1);
    let server = folder.start();
    let state = server.resource("quest", 42).ok();
    assert_eq!(state["counters"]["views"], 1, "{state}");
}

/// Of all records under that key, one counts.
fn assert_shared_once(folder: &Folder, key: &str) {
    let folded = assert_state_is_fold_of_log(folder);
    let of_key = |line: &serde_json::Value| line["event"]["idempotency_key"] == key;
    let lines = folder.run(&["log", "cat"]).json_lines();
    let outcomes: Vec<&str> = lines
        .iter()
        .filter(|line| of_key(line))
        .filter_map(|line| line["event"]["id"].as_str())
        .map(|id| folded.outcomes[id])
        .collect();
    let counted = outcomes.iter().filter(|one| **one == "applied").count();
    assert_eq!(counted, 1, "{outcomes:?}");
}
