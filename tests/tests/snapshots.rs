//! Snapshots of the state: taken beside a load, listed, checked; a state that is lost or refused comes
//! back from them and the log's tail; the log's beginning goes as far as they reach, and no further.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tally_tests::fold::{assert_state_is_fold_of_log, state};
use tally_tests::load::Load;
use tally_tests::{Folder, wait};

/// A folder whose snapshots are in another.
fn with_snapshots(kept: &Path) -> Folder {
    Folder::new()
        .with("TALLY__LOG__SEGMENT_SIZE", "64 KiB")
        .with("TALLY__LOG__PARTITIONS", "4")
        .with("TALLY__SNAPSHOTS__URL", url(kept))
        .with("TALLY__SNAPSHOTS__KEEP", "2")
}

fn url(kept: &Path) -> String {
    format!("file://{}", kept.display())
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn first_offsets(folder: &Folder) -> Vec<u64> {
    let lines = folder.run(&["log", "info"]).json_lines();
    let of_log = lines.iter().filter(|line| line["log"] == "interactions");
    of_log.filter_map(|line| line["first"].as_u64()).collect()
}

fn sum(lines: &[Value], name: &str) -> u64 {
    lines.iter().filter_map(|line| line[name].as_u64()).sum()
}

/// Protects a lost state: beside a load snapshots are taken, of what moved alone; without the state the next
/// start has them and the tail, and what it serves is the fold of the log.
#[test]
fn a_lost_state_comes_back_from_snapshots_and_tail() {
    let kept = tempfile::tempdir().expect("a folder");
    let folder = with_snapshots(kept.path());
    let mut server = folder.start();
    let load = Load::start(server.api(), 4);
    load.answers(300);
    let taken = folder.run(&["snapshot", "create"]).json_lines();
    assert!(!taken.is_empty());
    load.answers(300);
    let taken = folder.run(&["snapshot", "create"]).json_lines();
    let covered = sum(&taken, "next_offset");
    load.answers(300);
    let told = load.stop();
    server.wait_until_quiet();
    let listed = folder.run(&["snapshot", "list"]).json_lines();
    assert_eq!(listed.len(), 2 * taken.len());
    let checked = folder.run(&["snapshot", "check"]);
    assert!(checked.status.success(), "{checked:?}");
    let metrics = server.metrics();
    assert!(metrics.sum("tally_projector_snapshot_bytes_total", &[]) > 0.0);
    server.kill();
    fs::remove_dir_all(folder.data_dir().join("state")).expect("it is there");
    let server = folder.start();
    server.wait_until_quiet();
    let tail = folded_tail(&folder, covered);
    assert_eq!(server.events_folded(), tail);
    let folded = assert_state_is_fold_of_log(&folder);
    told.assert_all_there(&folded);
    server.stop();
    assert_state_is_fold_of_log(&folder);
    // On command, too, and offline.
    let digest = state(&folder).digest;
    let restored = folder.run(&["snapshot", "restore"]);
    assert!(restored.status.success(), "{restored:?}");
    assert!(restored.stdout.contains(&digest), "{restored:?}");
    assert_eq!(folder.run(&["verify"]).status.code(), Some(0));
}

#[expect(clippy::cast_precision_loss, reason = "a small count")]
fn folded_tail(folder: &Folder, covered: u64) -> f64 {
    let heads: u64 = state(folder).positions.iter().sum();
    (heads - covered) as f64
}

/// Protects the log's beginning: it goes only where every kept snapshot has it, said before it is done; then
/// the state comes back without it, and never without a snapshot.
#[test]
fn the_log_is_cut_off_as_far_as_snapshots_reach() {
    let kept = tempfile::tempdir().expect("a folder");
    let folder = with_snapshots(kept.path());
    let mut server = folder.start();
    let load = Load::start(server.api(), 4);
    load.answers(1_500);
    let none = folder.run(&["log", "truncate"]);
    assert_eq!(none.status.code(), Some(0), "{none:?}");
    let taken = folder.run(&["snapshot", "create"]).json_lines();
    load.answers(1_500);
    let said = folder.run(&["log", "truncate"]);
    assert_eq!(said.status.code(), Some(2), "{said:?}");
    assert!(said.stderr.contains("--yes"), "{said:?}");
    assert_eq!(first_offsets(&folder), [0; 4]);
    let done = folder.run(&["log", "truncate", "--yes"]).json_lines();
    assert!(sum(&done, "removed_records") > 0, "{done:?}");
    let first = first_offsets(&folder);
    assert_eq!(first.iter().sum::<u64>(), sum(&done, "removed_records"));
    for line in &taken {
        let partition = usize::try_from(line["partition"].as_u64().expect("a number"));
        let first = first[partition.expect("a small number")];
        assert!(
            first <= line["next_offset"].as_u64().expect("a number"),
            "{line}"
        );
    }
    load.answers(500);
    drop(load.stop());
    server.wait_until_quiet();
    let digest = state(&folder).digest;
    server.kill();
    assert_eq!(folder.run(&["log", "check"]).status.code(), Some(0));
    // What can't be proven any more is said, and not taken for a difference.
    let verify = folder.run(&["verify"]);
    assert!(!verify.status.success(), "{verify:?}");
    assert!(verify.stderr.contains("begins at"), "{verify:?}");
    fs::remove_dir_all(folder.data_dir().join("state")).expect("it is there");
    let server = folder.start();
    server.wait_until_quiet();
    assert_eq!(state(&folder).digest, digest);
    let rebuilt = folder.run(&["rebuild", "--json"]).json_lines();
    assert_eq!(rebuilt.last().expect("a line")["digest"], digest.as_str());
    server.stop();
    fs::remove_dir_all(folder.data_dir().join("state")).expect("it is there");
    for file in files(kept.path()) {
        fs::write(file, b"damaged").expect("it is ours");
    }
    let refused = folder.run(&["state", "info"]);
    assert!(!refused.status.success(), "{refused:?}");
    assert!(refused.stderr.contains("begins at"), "{refused:?}");
    assert_eq!(folder.run(&["snapshot", "check"]).status.code(), Some(1));
}

/// Protects from snapshots that are old when they are needed: a server takes them by itself, and keeps so
/// many.
#[test]
fn a_server_takes_them_in_time() {
    let kept = tempfile::tempdir().expect("a folder");
    let folder = with_snapshots(kept.path()).with("TALLY__SNAPSHOTS__INTERVAL", "1s");
    let server = folder.start();
    let mut seen = std::collections::BTreeSet::new();
    wait::until("five snapshots", || {
        assert_eq!(server.interact("quest", 42, "view").status, 200);
        let files = files(kept.path());
        assert!(files.len() <= 3, "{files:?}");
        seen.extend(files);
        (seen.len() >= 5).then_some(())
    });
    assert!(
        server
            .metrics()
            .sum("tally_projector_last_snapshot_timestamp_seconds", &[])
            > 0.0
    );
    assert_eq!(
        server
            .metrics()
            .sum("tally_projector_snapshot_errors_total", &[]),
        0.0
    );
    server.stop();
}

/// Protects a server whose place for snapshots is away: it serves, says what to do, and a log that needs
/// them is not opened without.
#[test]
fn a_folder_that_is_not_mounted_stops_nobody() {
    let kept = tempfile::tempdir().expect("a folder");
    let away = kept.path().join("away");
    let folder = with_snapshots(&away);
    let server = folder.start();
    assert_eq!(server.interact("quest", 42, "view").status, 200);
    let refused = folder.run(&["snapshot", "create"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains("mount"), "{refused:?}");
    fs::create_dir(&away).expect("a folder");
    assert!(folder.run(&["snapshot", "create"]).status.success());
    server.stop();
    // What can't be restored from is no reason to give a state up.
    fs::remove_dir_all(&away).expect("it is there");
    let refused = folder.run(&["snapshot", "restore"]);
    assert!(!refused.status.success(), "{refused:?}");
    fs::create_dir(&away).expect("a folder");
    let refused = folder.run(&["snapshot", "restore"]);
    assert!(refused.stderr.contains("no snapshot"), "{refused:?}");
    let server = folder.start();
    assert_eq!(server.events_folded(), 0.0, "the state is as it was");
    server.stop();
}
