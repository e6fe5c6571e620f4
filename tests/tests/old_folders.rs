//! Data folders of every version there was open, and say what they said: `tests/fixtures/` has one for
//! each version of the fold and each layout of the state, as it was left by a clean stop. Their states answer
//! until this version's fold has made its own.

use std::process::Command;

use tally_domain::{Counters, Resource, ResourceType};
use tally_tests::binary::workspace;
use tally_tests::fold::{assert_state_is_fold_of_log, state};
use tally_tests::load::{Load, Told};
use tally_tests::tamper::{Lie, make_older_fold, tamper};
use tally_tests::{Folder, Ran, Response, Server, wait};

/// A fixture, what `tally state cat` said of it, and how many resources its catalogue has.
struct Old {
    name: &'static str,
    counters: &'static [(&'static str, u64, [u64; 5])],
    resources: usize,
}

const ALL: &[Old] = &[Old {
    name: "fold-1",
    counters: &[
        ("quest", 42, [2, 2, 1, 2, 1]),
        ("ai_note", 15, [1, 1, 1, 1, 1]),
        ("ai_expert", 7, [1, 1, 1, 1, 1]),
    ],
    resources: 6,
}];

fn unpack(old: &Old) -> Folder {
    let folder = Folder::new();
    let archive = workspace().join(format!("tests/fixtures/{}.tar.gz", old.name));
    std::fs::create_dir(folder.data_dir()).expect("a new folder");
    let status = Command::new("tar")
        .args(["--strip-components=1", "-xzf"])
        .arg(archive)
        .arg("-C")
        .arg(folder.data_dir())
        .status();
    assert!(status.expect("tar is there").success());
    folder
}

fn check(old: &Old, folder: &Folder) {
    let state = state(folder);
    let wanted = old.counters.iter();
    let wanted = wanted.map(|(kind, id, counters)| (((*kind).to_owned(), *id), *counters));
    assert_eq!(state.counters, wanted.collect());
    let verified = folder.run(&["verify"]);
    assert!(verified.status.success(), "{verified:?}");
}

/// Protects everybody who updates: the folder opens without and with a server, says the same numbers,
/// keeps its keys and resources, takes new events, and proves itself.
#[test]
fn every_old_folder_opens_and_goes_on() {
    for old in ALL {
        let folder = unpack(old);
        let lines = |ran: Ran| ran.ok().lines().count();
        check(old, &folder);
        assert_eq!(lines(folder.run(&["resources", "list"])), old.resources);
        assert_eq!(lines(folder.run(&["keys", "list"])), 2, "a head and a key");
        let server = folder.start();
        for (kind, id, counters) in old.counters {
            let read = server.resource(kind, *id).ok();
            let [views, likes, shares, bookmarks, comments] = *counters;
            let wanted = serde_json::json!({
                "views": views, "likes": likes, "shares": shares, "bookmarks": bookmarks, "comments": comments,
            });
            assert_eq!(read["counters"], wanted, "{kind}:{id}");
        }
        assert_eq!(server.interact("quest", 42, "view").status, 200);
        server.wait_until_quiet();
        assert_state_is_fold_of_log(&folder);
        server.stop();
        let verified = folder.run(&["verify"]);
        assert!(verified.status.success(), "{verified:?}");
    }
}

/// A number that only the old state has.
fn lie(folder: &Folder, views: u64) {
    let resource = Resource::new(ResourceType::Quest, 42).expect("a resource");
    let counters = Counters {
        views,
        ..Counters::default()
    };
    tamper(folder, 16, &[Lie::Counters(resource, counters)]);
}

/// The same folder, whose servers make a state anew so slowly that they are seen at it.
fn slow(folder: &Folder, rate: u64) -> Folder {
    let folder = folder.clone();
    folder.with("TALLY__PROJECTOR__REBUILD_RATE", rate)
}

fn stale(server: &Server) -> bool {
    server.metrics().sum("tally_projector_stale", &[]) > 0.0
}

fn marked(answer: &Response) -> bool {
    answer.header("tally-state") == Some("stale")
}

/// Protects whoever updates a service that is used: the old numbers are there, marked, what comes is taken at
/// once, a kill changes none of that, and then the numbers are the new fold's and the old state is kept.
#[test]
fn an_old_state_answers_until_the_new_one_is_made() {
    for old in ALL {
        let folder = unpack(old);
        lie(&folder, 7);
        let server = slow(&folder, 1).start();
        let ready = server.ready();
        assert!(ready.json()["stale"].is_string(), "{}", ready.text());
        assert!(stale(&server));
        let viewed = server.interact("quest", 42, "view");
        assert!(marked(&viewed));
        let viewed = viewed.ok();
        assert_eq!(viewed["visible"], false, "{viewed}");
        assert_eq!(viewed["outcome"], serde_json::Value::Null, "{viewed}");
        assert_eq!(viewed["counters"]["views"], 7, "{viewed}");
        let read = server.resource("quest", 42);
        assert!(marked(&read));
        assert_eq!(read.ok()["counters"]["views"], 7);
        let said = folder.run(&["rebuild"]).failed();
        assert!(said.contains("another rebuild"), "{said}");
        server.kill9();

        let server = folder.start();
        wait::until("the new state", || (!stale(&server)).then_some(()));
        let read = server.resource("quest", 42);
        assert!(!marked(&read));
        let (_, _, [views, ..]) = old.counters[0];
        assert_eq!(
            read.ok()["counters"]["views"],
            views + 1,
            "the event is there"
        );
        assert!(server.ready().json()["stale"].is_null());
        assert_state_is_fold_of_log(&folder);
        assert!(folder.data_dir().join("state/previous/sled").exists());
        server.stop();
        let said = folder.run(&["rebuild", "--roll-back"]).failed();
        assert!(
            said.contains("another version of the fold") || said.contains("by version"),
            "{said}"
        );
        assert!(folder.run(&["verify"]).status.success());
    }
}

/// Protects the same without a server: a look at a folder leaves its old state, and `tally rebuild` makes it
/// anew.
#[test]
fn an_old_state_is_made_anew_without_a_server() {
    for old in ALL {
        let folder = unpack(old);
        check(old, &folder);
        let state = folder.data_dir().join("state");
        assert!(!state.join("previous").exists(), "it was looked at alone");
        let said = folder.run(&["rebuild", "--dry-run"]).failed();
        assert!(said.contains("another version of the fold"), "{said}");
        let lines = folder.run(&["rebuild", "--json"]).json_lines();
        assert_eq!(lines.last().expect("a line")["swapped"], true, "{lines:?}");
        assert!(state.join("previous/sled").exists());
        check(old, &folder);
        let lines = folder.run(&["rebuild", "--dry-run", "--json"]).json_lines();
        assert_eq!(lines.last().expect("a line")["differences"], 0, "{lines:?}");
    }
}

/// Protects every acknowledged event and every number where a server that makes a state anew is killed again
/// and again, under load.
#[test]
fn a_server_that_is_killed_while_it_makes_a_state_anew_loses_nothing() {
    let folder = Folder::new();
    let mut all = Told::default();
    let mut take = |told: Told| {
        told.assert_only_conflicts_and_unavailable();
        all.acknowledged.extend(told.acknowledged);
    };
    let server = folder.start();
    let load = Load::start(server.api(), 8);
    load.answers(3_000);
    take(load.stop());
    server.stop();
    lie(&folder, 1_000_000);
    make_older_fold(&folder);
    for rate in [1, 1_000, 10_000, 100_000, 0] {
        let server = slow(&folder, rate).start();
        let load = Load::start(server.api(), 8);
        load.answers(300);
        server.kill9();
        take(load.stop());
    }
    let server = folder.start();
    wait::until("the new state", || (!stale(&server)).then_some(()));
    server.wait_until_quiet();
    let folded = assert_state_is_fold_of_log(&folder);
    all.assert_all_there(&folded);
    server.stop();
    assert!(folder.run(&["verify"]).status.success());
}
