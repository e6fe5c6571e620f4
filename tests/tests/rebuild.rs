//! `tally rebuild`: a state made anew while the old one serves, compared, put in its place, and back.

use std::process::Stdio;

use tally_domain::{Counters, Resource, ResourceType};
use tally_tests::fold::{assert_state_is_fold_of_log, state};
use tally_tests::load::Load;
use tally_tests::tamper::{Lie, tamper};
use tally_tests::{Folder, Server, wait};

fn last(lines: &[serde_json::Value]) -> &serde_json::Value {
    lines.last().expect("a last line")
}

/// A wrong number in the stored state, which only a rebuild mends.
fn lie(views: u64) -> Lie {
    let resource = Resource::new(ResourceType::Quest, 42).expect("a resource");
    let counters = Counters {
        views,
        ..Counters::default()
    };
    Lie::Counters(resource, counters)
}

fn views(server: &Server) -> u64 {
    let read = server.resource("quest", 42);
    assert_eq!(read.status, 200, "{}", read.text());
    read.json()["counters"]["views"].as_u64().expect("a number")
}

/// Protects everybody who rebuilds a serving state: under load no answer is an error or wrong, the
/// states are found equal, the new one serves, and the old one comes back and has caught up.
#[test]
fn a_serving_state_is_rebuilt_swapped_and_brought_back() {
    let folder = Folder::new()
        .with("TALLY__LOG__SEGMENT_SIZE", "4 MiB")
        // Nobody may be forgotten; how long it takes is the machine's.
        .with("TALLY__PROJECTOR__WAIT_LIMIT", "30s");
    let server = folder.start();
    let load = Load::start(server.api(), 8);
    load.answers(2_000);
    for (round, args) in [
        &["rebuild", "--dry-run", "--json"][..],
        &["rebuild", "--json"],
        &["rebuild", "--roll-back", "--json"],
        &["rebuild", "--roll-back", "--json"],
        &["rebuild", "--json", "--rate", "1000000"],
    ]
    .into_iter()
    .enumerate()
    {
        let lines = folder.run(args).json_lines();
        assert_eq!(lines.len(), 1, "{args:?}: {lines:?}");
        assert_eq!(last(&lines)["differences"], 0, "{lines:?}");
        assert_eq!(last(&lines)["swapped"], round > 0, "{lines:?}");
        load.answers(500);
        assert_eq!(server.ready().status, 200);
    }
    let told = load.stop();
    told.assert_only_conflicts_and_unavailable();
    assert_eq!(
        told.refused
            .iter()
            .filter(|(status, _)| *status == 503)
            .count(),
        0
    );
    let invisible = told
        .acknowledged
        .iter()
        .filter(|answer| answer["visible"] != true);
    assert_eq!(invisible.count(), 0);
    assert_eq!(
        server.metrics().sum("tally_projector_reopened_total", &[]),
        4.0
    );
    server.wait_until_quiet();
    let folded = assert_state_is_fold_of_log(&folder);
    told.assert_all_there(&folded);
    server.stop();
    assert_state_is_fold_of_log(&folder);
}

/// Protects whoever trusts the comparison: a wrong number is named, a dry run changes nothing, a
/// rebuild mends it, a roll-back brings it back, through a server and without one.
#[test]
fn a_wrong_number_is_named_and_mended() {
    let folder = Folder::new();
    let server = folder.start();
    for _ in 0..3 {
        assert_eq!(server.interact("quest", 42, "view").status, 200);
    }
    server.stop();
    let right = state(&folder).digest;
    tamper(&folder, 16, &[lie(7)]);

    let named = |ran: &tally_tests::Ran| {
        let first: serde_json::Value =
            serde_json::from_str(ran.stdout.lines().next().expect("a line")).expect("JSON");
        assert_eq!(first["counters"]["stored"]["views"], 7, "{first}");
        assert_eq!(first["counters"]["folded"]["views"], 3, "{first}");
    };
    let dry = folder.run(&["rebuild", "--dry-run", "--json"]);
    assert_eq!(dry.status.code(), Some(1), "{dry:?}");
    named(&dry);
    assert!(!folder.data_dir().join("state/shadow").exists());
    let server = folder.start();
    assert_eq!(views(&server), 7);
    let made = folder.run(&["rebuild", "--json"]);
    assert!(made.status.success(), "{made:?}");
    named(&made);
    assert_eq!(views(&server), 3);
    assert_eq!(folder.run(&["verify"]).status.code(), Some(0));
    server.stop();
    assert_eq!(state(&folder).digest, right);
    let back = folder.run(&["rebuild", "--roll-back", "--json"]);
    assert!(back.status.success(), "{back:?}");
    assert_eq!(folder.run(&["verify"]).status.code(), Some(1));
    let again = folder.run(&["rebuild", "--roll-back"]);
    assert!(again.status.success(), "{again:?}");
    assert_eq!(folder.run(&["verify"]).status.code(), Some(0));
}

/// Protects a mended state against the wrong one before it: a roll-back that is killed is no rebuild, and
/// a rebuild after it folds the log.
#[test]
fn a_killed_roll_back_brings_no_wrong_number_back() {
    let folder = Folder::new();
    let server = folder.start();
    for _ in 0..3 {
        assert_eq!(server.interact("quest", 42, "view").status, 200);
    }
    server.stop();
    tamper(&folder, 16, &[lie(7)]);
    let server = folder.start();
    assert!(folder.run(&["rebuild"]).status.success());
    assert_eq!(views(&server), 3);
    // As a kill leaves it: taken out, and not put back.
    let state = folder.data_dir().join("state");
    std::fs::rename(state.join("previous"), state.join("recalled")).expect("it is there");
    let dry = folder.run(&["rebuild", "--dry-run", "--json"]).json_lines();
    assert_eq!(last(&dry)["differences"], 0, "{dry:?}");
    let made = folder.run(&["rebuild", "--json"]).json_lines();
    assert_eq!(last(&made)["differences"], 0, "{made:?}");
    assert_eq!(views(&server), 3);
    // What was used before the last rebuild is right.
    assert!(folder.run(&["rebuild", "--roll-back"]).status.success());
    assert_eq!(views(&server), 3);
    assert_eq!(folder.run(&["verify"]).status.code(), Some(0));
    server.stop();
}

/// Protects an operator against what can't be: nothing to go back to, two at once.
#[test]
fn what_cannot_be_is_refused_in_words() {
    let folder = Folder::new();
    folder.start().stop();
    let said = folder.run(&["rebuild", "--roll-back"]).failed();
    assert!(said.contains("no state to go back to"), "{said}");
    let both = folder.run(&["rebuild", "--roll-back", "--dry-run"]);
    assert_eq!(both.status.code(), Some(2));
}

/// The priorities of a process's threads that fold, as `nice` counts.
fn nice_of_folds(pid: u32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let one = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        let (start, rest) = stat.rsplit_once(") ")?;
        let nice = rest.split(' ').nth(16)?.parse().ok();
        nice.filter(|_| start.contains("(tally-fold-"))
    };
    tasks.flatten().filter_map(one).collect()
}

/// Protects who is served from a rebuild beside them: its fold has a lower priority than the server's.
#[test]
fn a_rebuild_beside_a_server_is_kind() {
    let folder = Folder::new();
    let server = folder.start();
    let load = Load::start(server.api(), 4);
    load.answers(500);
    drop(load.stop());
    let mut rebuild = folder.command(&["rebuild", "--rate", "10"]);
    let rebuild = rebuild.stderr(Stdio::null()).stdout(Stdio::null());
    let mut rebuild = rebuild.spawn().expect("the binary starts");
    let of_rebuild = wait::until("threads that fold", || {
        Some(nice_of_folds(rebuild.id())).filter(|folds| !folds.is_empty())
    });
    let of_server = nice_of_folds(server.pid());
    rebuild.kill().expect("it can be killed");
    rebuild.wait().expect("it ends");
    for (of_rebuild, of_server) in of_rebuild.iter().zip(&of_server) {
        assert_eq!(*of_rebuild, (of_server + 10).min(19));
    }
    assert!(!of_server.is_empty());
    server.stop();
}
