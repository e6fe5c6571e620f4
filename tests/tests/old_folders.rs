//! Data folders of every version there was open, and say what they said: `tests/fixtures/` has one for
//! each version of the fold and each layout of the state, as it was left by a clean stop.

use std::process::Command;

use tally_tests::binary::workspace;
use tally_tests::fold::{assert_state_is_fold_of_log, state};
use tally_tests::{Folder, Ran};

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
