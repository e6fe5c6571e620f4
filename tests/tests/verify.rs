//! `tally verify`: the stored state is the fold of the log, and where it is not, what differs is named.

use std::str::FromStr as _;

use serde_json::json;
use tally_domain::{Counters, Resource, Toggles, UserId};
use tally_tests::Folder;
use tally_tests::load::Load;
use tally_tests::tamper::{Lie, tamper};

const ALL: &[&str] = &["verify", "--json"];

/// Protects the proof's own truth: a state that is right is found right, from the folder and beside a
/// server under load, whose log moves and rolls over to other files meanwhile.
#[test]
fn a_state_that_is_right_is_found_right() {
    let folder = Folder::new()
        .with("TALLY__LOG__SEGMENT_SIZE", "4 MiB")
        .with("TALLY__PROJECTOR__CHECKPOINT_INTERVAL", "100ms");
    let server = folder.start();
    let load = Load::start(server.api(), 8);
    for round in 1..4 {
        load.answers(round * 300);
        let lines = folder.run(ALL).json_lines();
        assert_eq!(lines.len(), 16, "{lines:?}");
        for line in &lines {
            assert_eq!(line["equal"], true, "{line}");
            assert_eq!(line["stored_digest"], line["folded_digest"], "{line}");
        }
    }
    load.stop().assert_only_conflicts_and_unavailable();
    server.stop();
    let said = folder.run(&["verify"]).ok();
    assert!(said.contains("16 partitions"), "{said}");
    let one = folder
        .run(&["verify", "--partition", "3", "--json"])
        .json_lines();
    assert_eq!(one.len(), 1);
    let wrong = folder.run(&["verify", "--partition", "16"]);
    assert_eq!(wrong.status.code(), Some(2));
}

/// Protects everybody who trusts a number: values changed in the store with right checksums, which
/// nothing else would notice, are named one by one, from the folder and beside a server.
#[test]
fn every_changed_value_is_named() {
    let folder = Folder::new();
    let server = folder.start();
    assert_eq!(server.interact("quest", 42, "view").status, 200);
    assert_eq!(server.interact("ai_note", 15, "like").status, 200);
    assert_eq!(server.interact("ai_expert", 7, "bookmark").status, 200);
    server.stop();

    let resource = |text| Resource::from_str(text).expect("a resource");
    let user = |text| UserId::new(text).expect("a user");
    let counters = Counters {
        views: 7,
        ..Counters::default()
    };
    let liked = Toggles {
        liked: true,
        bookmarked: false,
    };
    let lies = [
        Lie::Counters(resource("quest:42"), counters),
        Lie::Counters(resource("podcast:9"), counters),
        Lie::Toggles(resource("ai_note:15"), user("1"), Toggles::NONE),
        Lie::Toggles(resource("quest:42"), user("nobody"), liked),
    ];
    tamper(&folder, 16, &lies);
    let none = json!({"liked": false, "bookmarked": false});
    let liked = json!({"liked": true, "bookmarked": false});
    let named = [
        ("quest", 42, None, "counters", json!(7), json!(1)),
        ("podcast", 9, None, "counters", json!(7), json!(null)),
        (
            "ai_note",
            15,
            Some("1"),
            "toggles",
            none.clone(),
            liked.clone(),
        ),
        ("quest", 42, Some("nobody"), "toggles", liked, none),
    ];
    let check = || {
        let ran = folder.run(ALL);
        assert_eq!(ran.status.code(), Some(1), "{ran:?}");
        let parse = |line| serde_json::from_str(line).expect("a line of JSON");
        let all: Vec<serde_json::Value> = ran.stdout.lines().map(parse).collect();
        let found: Vec<_> = all.iter().filter(|line| line["equal"].is_null()).collect();
        assert_eq!(found.len(), named.len(), "{found:?}");
        for (kind, id, user, what, stored, folded) in &named {
            let is = |line: &&&serde_json::Value| {
                line["resource_type"] == *kind
                    && line["resource_id"] == *id
                    && line["user"].as_str() == *user
            };
            let line = found.iter().find(is);
            let line = line.unwrap_or_else(|| panic!("{kind}:{id} {user:?} in {found:?}"));
            let views = |side: &str| match *what {
                "counters" => line[what][side]["views"].clone(),
                _ => line[what][side].clone(),
            };
            assert_eq!(
                (&views("stored"), &views("folded")),
                (stored, folded),
                "{line}"
            );
        }
    };
    check();
    let server = folder.start();
    check();
    server.stop();
}
