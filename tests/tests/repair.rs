//! A damaged log is refused by name, checked, and cut off where somebody says so.

use std::fs;

use tally_tests::fold::assert_state_is_fold_of_log;
use tally_tests::{Folder, load::Load};

/// Protects whoever has a damaged log and no backup: the check says where, a repair without `--yes`
/// says what it would give up and changes nothing, one with it leaves a sound log, keeps what it cut,
/// and the server starts with the fold of what is left. And protects a log in use, and one in another
/// folder than the place that is given.
#[test]
fn a_damaged_log_is_cut_where_the_check_says_and_serves_again() {
    let folder = Folder::new().with("TALLY__LOG__SEGMENT_SIZE", "4 MiB");
    let server = folder.start();
    let running = Load::start(server.api(), 8);
    running.answers(400);
    let _ = running.stop();
    let segment = folder.data_dir().join("log/00000000000000000001.log");
    let place = format!("{}:20000", segment.display());
    let in_use = folder.run(&["log", "repair", "--cut-at", &place, "--yes"]);
    assert!(in_use.failed().contains("stop it first"));
    server.stop();

    let mut bytes = fs::read(&segment).expect("the segment");
    bytes[20_000] ^= 1;
    fs::write(&segment, &bytes).expect("the segment");
    let checked = folder.run(&["log", "check"]);
    let line: serde_json::Value =
        serde_json::from_str(checked.stdout.lines().next().expect("a line")).expect("JSON");
    let why = checked.failed();
    assert!(why.contains("tally log repair --cut-at"), "{why}");
    let damage = line["damage"][0].as_str().expect("a damage");
    let (file, rest) = damage.split_once(", byte ").expect("a place");
    let byte = rest.split(':').next().expect("a byte");
    let place = format!("{file}:{byte}");

    let other = Folder::new();
    let _ = other.run(&["resources", "add", "quest", "1"]).ok();
    let elsewhere = other.run(&["log", "repair", "--cut-at", &place, "--yes"]);
    assert_eq!(elsewhere.status.code(), Some(2), "{}", elsewhere.stderr);
    assert!(
        elsewhere.stderr.contains("data_dir"),
        "{}",
        elsewhere.stderr
    );

    let before = folder.files();
    let plan = folder.run(&["log", "repair", "--cut-at", &place]);
    assert_eq!(plan.status.code(), Some(2));
    let would: serde_json::Value = serde_json::from_str(&plan.stdout).expect("JSON");
    assert_eq!(would["done"], false);
    assert!(would["records"].as_u64() > Some(0), "{would}");
    let same = |(path, bytes): &(std::path::PathBuf, Vec<u8>)| {
        path.ends_with("lock") || before.contains(&(path.clone(), bytes.clone()))
    };
    assert!(folder.files().iter().all(same), "a plan changes nothing");

    let done = folder
        .run(&["log", "repair", "--cut-at", &place, "--yes"])
        .ok();
    let done: serde_json::Value = serde_json::from_str(&done).expect("JSON");
    assert_eq!(done["done"], true);
    assert_eq!(done["records"], would["records"]);
    let kept = done["kept_in"].as_str().expect("a folder");
    let kept = std::path::Path::new(kept);
    let kept = folder.root().join(kept);
    let copy = fs::read(kept.join("00000000000000000001.log")).expect("a copy");
    assert_eq!(copy, bytes);
    assert!(kept.join("state").is_dir(), "it was ahead of what is left");
    let _ = folder.run(&["log", "check"]).ok();
    let server = folder.start();
    assert_state_is_fold_of_log(&folder);
    assert_eq!(server.interact("quest", 42, "view").status, 200);
}
