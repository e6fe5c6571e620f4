//! `tally rebuild`: a state made anew while the old one serves, compared, put in its place, and back.

use std::path::Path;
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

/// Protects whoever mends one partition: it is named, compared, made anew alone and put in its place, beside a
/// server and without one, and comes back; the others stay as they are, right or wrong, and go on.
#[test]
fn one_partition_is_made_anew_and_the_others_stay() {
    let folder = Folder::new();
    let server = folder.start();
    for _ in 0..3 {
        for (kind, id) in [("quest", 42), ("ai_note", 15)] {
            assert_eq!(server.interact(kind, id, "view").status, 200);
        }
    }
    server.stop();
    let note = Resource::new(ResourceType::AiNote, 15).expect("a resource");
    let counters = Counters {
        views: 9,
        ..Counters::default()
    };
    tamper(&folder, 16, &[lie(7), Lie::Counters(note, counters)]);
    let quest = Resource::new(ResourceType::Quest, 42).expect("a resource");
    assert_ne!(quest.partition(16), note.partition(16));
    let (quest, note) = (
        quest.partition(16).to_string(),
        note.partition(16).to_string(),
    );
    let all = |server: &Server| {
        let of = |kind, id| server.resource(kind, id).ok()["counters"]["views"].clone();
        (of("quest", 42), of("ai_note", 15))
    };
    let dry = ["rebuild", "--dry-run", "--json", "--partition", &quest];
    let is = |code, args: &[&str]| {
        let ran = folder.run(args);
        assert_eq!(ran.status.code(), Some(code), "{args:?} {ran:?}");
        ran.stdout.lines().count()
    };
    assert_eq!(is(1, &dry), 2, "one difference, and the whole");
    let server = folder.start();
    assert_eq!(is(1, &dry), 2);
    assert_eq!(is(0, &["rebuild", "--json", "--partition", &quest]), 2);
    assert_eq!(all(&server), (3.into(), 9.into()));
    assert_eq!(is(0, &dry), 1);
    assert_eq!(server.interact("ai_note", 15, "view").status, 200);
    assert_eq!(server.interact("quest", 42, "view").status, 200);
    assert_eq!(all(&server), (4.into(), 10.into()));
    is(0, &["rebuild", "--roll-back"]);
    assert_eq!(all(&server), (8.into(), 10.into()));
    is(0, &["rebuild", "--roll-back"]);
    server.stop();
    is(1, &["verify"]);
    assert_eq!(is(0, &["rebuild", "--json", "--partition", &note]), 2);
    is(0, &["verify"]);
    let state = folder.data_dir().join("state");
    assert!(!state.join("seeded").exists() && state.join("previous").exists());
    assert_eq!(is(2, &["rebuild", "--partition", "16"]), 0);
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

/// The files of a state's folder, without those of stores.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a folder");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry
            .expect("an entry")
            .file_name()
            .to_string_lossy()
            .into_owned()
    };
    let mut names: Vec<_> = entries.map(name).collect();
    names.sort();
    names
}

/// Protects a serving state against a rebuild that is killed at any moment: it serves on, and the next
/// run ends well.
#[test]
fn a_killed_rebuild_leaves_a_good_state() {
    let folder = Folder::new();
    let server = folder.start();
    let load = Load::start(server.api(), 8);
    load.answers(5_000);
    load.stop().assert_only_conflicts_and_unavailable();
    for rate in ["500", "5000", "50000"] {
        let mut rebuild = folder.command(&["rebuild", "--rate", rate]);
        let rebuild = rebuild.stderr(Stdio::null()).stdout(Stdio::null());
        let mut rebuild = rebuild.spawn().expect("the binary starts");
        wait::until("a shadow", || {
            folder
                .data_dir()
                .join("state/shadow/sled")
                .exists()
                .then_some(())
        });
        assert_eq!(server.interact("quest", 42, "view").status, 200);
        rebuild.kill().expect("it can be killed");
        rebuild.wait().expect("it ends");
        assert_eq!(server.ready().status, 200);
    }
    let lines = folder.run(&["rebuild", "--json"]).json_lines();
    assert_eq!(last(&lines)["differences"], 0, "{lines:?}");
    server.wait_until_quiet();
    assert_state_is_fold_of_log(&folder);
    server.stop();
    assert_eq!(
        names(&folder.data_dir().join("state")),
        ["previous", "rebuild.lock", "retake", "sled"]
    );
    assert_eq!(folder.run(&["verify"]).status.code(), Some(0));
}
