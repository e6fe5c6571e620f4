//! `tally backup` and `tally restore`: a whole installation copied while it serves, and put back.
//!
//! `TALLY_BACKUP_KILLS` sets how often each of the two is killed (10), `TALLY_CRASH_SEED` repeats the
//! choices of an earlier run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tally_tests::crash::{Chance, number_from_env};
use tally_tests::fold::{assert_state_is_fold_of_log, state};
use tally_tests::load::Load;
use tally_tests::server::interaction_request;
use tally_tests::{Folder, Ran, Server, wait};

/// A folder of many small files.
fn small_files() -> Folder {
    Folder::local().with("TALLY__LOG__SEGMENT_SIZE", "64 KiB")
}

fn backup_dir(folder: &Folder) -> PathBuf {
    folder.root().join("backup")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of letters")
}

fn backup(folder: &Folder, to: &Path) -> Ran {
    folder.run(&["backup", "--to", text(to), "--json"])
}

fn restore(folder: &Folder, from: &Path) -> Ran {
    folder.run(&["restore", "--from", text(from), "--json"])
}

/// The one line of what came of it.
fn line(ran: Ran) -> serde_json::Value {
    let mut lines = ran.json_lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.remove(0)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn folder_with_events(events: usize) -> Folder {
    let folder = small_files();
    let server = folder.start();
    let load = Load::start(server.api(), 8);
    load.answers(events);
    load.stop().assert_only_conflicts_and_unavailable();
    server.stop();
    folder
}

/// Protects everybody who backs up a serving installation: under load, all that was acknowledged before is
/// in the backup; restored, it is the fold of its log, with keys, resources and idempotency keys, and
/// goes on.
#[test]
fn a_backup_of_a_serving_installation_comes_back_whole() {
    let folder = small_files();
    let server = folder.start();
    let key = folder.run(&["keys", "create", "--user", "42"]).ok();
    let _ = folder.run(&["resources", "add", "podcast", "77"]).ok();
    let once = |server: &Server| {
        let request = interaction_request("podcast", 77, "view").header("Idempotency-Key", "once");
        let answer = request.send(server.api());
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["outcome"].clone()
    };
    assert_eq!(once(&server), "applied");
    let before = Load::start(server.api(), 8);
    before.answers(2_000);
    let before = before.stop();
    let meanwhile = Load::start(server.api(), 8);
    meanwhile.answers(200);
    let backup_dir = backup_dir(&folder);
    let made = line(backup(&folder, &backup_dir));
    meanwhile.answers(200);
    let meanwhile = meanwhile.stop();
    meanwhile.assert_only_conflicts_and_unavailable();
    assert_eq!(server.ready().status, 200);
    let total = before.acknowledged.len() + meanwhile.acknowledged.len();
    let events = made["events"].as_u64().expect("a number");
    assert!(events > u64::try_from(before.acknowledged.len()).expect("few"));
    assert_eq!(made["keys"], true, "{made}");
    assert_eq!(made["resources"], 4, "{made}");
    server.kill9();

    let other = small_files();
    let back = line(restore(&other, &backup_dir));
    assert_eq!(back["digest"], made["digest"]);
    assert_eq!(
        (&back["events"], &back["compared"]),
        (&made["events"], &true.into())
    );
    let restored = other.start();
    let folded = assert_state_is_fold_of_log(&other);
    before.assert_all_there(&folded);
    assert!(folded.outcomes.len() <= total + 1 + before.refused.len() + meanwhile.refused.len());
    assert_eq!(state(&other).digest, made["digest"]);
    assert_eq!(once(&restored), "duplicate");
    let answer = tally_tests::server::resource_path("podcast", 77);
    let answer = tally_tests::Request::get(&answer).bearer(key.trim());
    assert_eq!(answer.send(restored.api()).status, 200);
    let load = Load::start(restored.api(), 4);
    load.answers(200);
    load.stop().assert_only_conflicts_and_unavailable();
    restored.stop();
    assert_eq!(other.run(&["verify"]).status.code(), Some(0));
    assert_state_is_fold_of_log(&other);
}

/// Protects what is there: a backup goes into no folder that is used, a restore into none with data, and
/// each says what to do instead, also on Kafka.
#[test]
fn what_cannot_be_is_refused_in_words() {
    let folder = folder_with_events(50);
    let dir = backup_dir(&folder);
    let refused = |ran: Ran, words: &[&str]| {
        assert_eq!(ran.status.code(), Some(2), "{ran:?}");
        for word in words {
            assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
        }
    };
    let none = small_files();
    refused(restore(&none, &dir), &["--from", "no backup"]);
    assert!(!none.data_dir().exists());
    let made = line(backup(&folder, &dir));
    refused(backup(&folder, &dir), &["--to", "not empty"]);
    refused(restore(&folder, &dir), &["--data-dir", "already"]);
    let server = folder.start();
    let held = restore(&folder, &dir);
    assert_eq!(held.status.code(), Some(1));
    assert!(held.stderr.contains("--data-dir"), "{}", held.stderr);
    server.stop();
    let kafka = small_files()
        .with("TALLY__LOG__KIND", "kafka")
        .with("TALLY__KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1");
    refused(
        backup(&kafka, &dir.join("x")),
        &["log.kind", "tally log copy"],
    );
    refused(restore(&kafka, &dir), &["log.kind", "tally log copy"]);
    let nothing = small_files().run(&["backup", "--to", "x"]).failed();
    assert!(nothing.contains("there is no data in"), "{nothing}");
    // An empty folder, as a mount point is, is as good as none.
    fs::create_dir(none.data_dir()).expect("a new folder");
    assert_eq!(line(restore(&none, &dir))["digest"], made["digest"]);
    assert_state_is_fold_of_log(&none);
}

/// Protects keys that are kept elsewhere: they are not copied in silence, nor left out in silence.
#[test]
fn keys_that_are_kept_elsewhere_are_not_in_it() {
    let folder = small_files();
    let keys = folder.root().join("elsewhere.json");
    let folder = folder.with("TALLY__AUTH__KEYS_FILE", text(&keys));
    folder.start().stop();
    let _ = folder.run(&["keys", "create", "--user", "42"]).ok();
    let ran = backup(&folder, &backup_dir(&folder));
    assert!(ran.stderr.contains("auth.keys_file"), "{}", ran.stderr);
    assert_eq!(line(ran)["keys"], false);
    assert!(!backup_dir(&folder).join("keys.json").exists());
}

/// Protects everybody who restores: a changed byte in any file is refused by the file's name, and no
/// data folder is made of it. (Hundreds more are tried beside the code.)
#[test]
fn a_changed_byte_is_refused_by_the_file() {
    let folder = folder_with_events(1_000);
    let dir = backup_dir(&folder);
    let _ = folder.run(&["keys", "create", "--user", "42"]).ok();
    let made = line(backup(&folder, &dir));
    let all = files(&dir);
    assert!(all.len() > 7, "{all:?}");
    let other = small_files();
    let mut chance = Chance::from_env();
    for file in &all {
        let whole = fs::read(file).expect("a file");
        let mut bytes = whole.clone();
        let place = usize::try_from(chance.below(bytes.len() as u64)).expect("a place");
        bytes[place] ^= 1 << chance.below(8);
        fs::write(file, &bytes).expect("a file of ours");
        let refused = restore(&other, &dir);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        let name = file.file_name().expect("a name").to_string_lossy();
        assert!(refused.stderr.contains(&*name), "{}", refused.stderr);
        assert!(!other.data_dir().join("log").exists());
        fs::write(file, &whole).expect("a file of ours");
    }
    assert_eq!(line(restore(&other, &dir))["digest"], made["digest"]);
}

/// Protects an operator with a damaged log: the folder that a backup could not be made in is named, and a
/// segment of a backup made before mends it.
#[test]
fn a_segment_of_a_backup_mends_a_damaged_log() {
    let folder = folder_with_events(2_000);
    let dir = backup_dir(&folder);
    let made = line(backup(&folder, &dir));
    let name = "log/00000000000000000001.log";
    let damaged = folder.data_dir().join(name);
    let mut bytes = fs::read(&damaged).expect("a file");
    bytes[5_000] ^= 1;
    fs::write(&damaged, &bytes).expect("a file of ours");
    let no_backup = folder.root().join("no-backup");
    let refused = backup(&folder, &no_backup);
    assert_eq!(refused.status.code(), Some(1));
    for word in ["00000000000000000001.log", "no backup"] {
        assert!(refused.stderr.contains(word), "{}", refused.stderr);
    }
    assert!(!no_backup.join("backup.json").exists());
    fs::copy(dir.join(name), &damaged).expect("a file of ours");
    let _ = folder.run(&["log", "check"]).ok();
    assert_eq!(state(&folder).digest, made["digest"]);
}

/// Runs a command again and again and kills it at a random moment of the time that it took once.
fn killed(folder: &Folder, args: &[&str], took: Duration, mut look: impl FnMut()) {
    let mut chance = Chance::from_env();
    let most = u64::try_from(took.as_micros()).expect("short");
    for _ in 0..number_from_env("TALLY_BACKUP_KILLS", 10) {
        let mut child = folder.command(args);
        let child = child.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = child.spawn().expect("the binary starts");
        let moment = Duration::from_micros(chance.below(most));
        let _ = wait::within(moment, || child.try_wait().expect("a child of ours"));
        child.kill().expect("a child of ours");
        child.wait().expect("a child of ours");
        look();
    }
}

/// Protects whoever finds a backup: one that was killed at any moment is refused or whole, and the
/// server that it was made beside serves on.
#[test]
fn a_killed_backup_is_none_or_whole() {
    let folder = folder_with_events(5_000);
    let server = folder.start();
    let dir = backup_dir(&folder);
    let began = Instant::now();
    let made = line(backup(&folder, &dir));
    let took = began.elapsed();
    let other = small_files();
    fs::remove_dir_all(&dir).expect("a folder");
    let args = ["backup", "--to", text(&dir)];
    let mut none = 0;
    killed(&folder, &args, took, || {
        if dir.join("backup.json").exists() {
            let back = line(restore(&other, &dir));
            assert_eq!(back["compared"], true);
            assert!(back["events"].as_u64() >= made["events"].as_u64(), "{back}");
            fs::remove_dir_all(other.data_dir()).expect("a folder");
        } else {
            assert!(restore(&other, &dir).failed().contains("no backup"));
            none += 1;
        }
        let _ = fs::remove_dir_all(&dir);
        assert_eq!(server.interact("quest", 42, "view").status, 200);
    });
    assert!(none > 0, "none was cut short");
    server.stop();
}

/// Protects everybody from half an installation: after a restore that was killed at any moment the folder
/// has nothing, or no server opens it and says why, or all is there; and the next restore ends well.
#[test]
fn a_killed_restore_serves_nothing() {
    let folder = folder_with_events(5_000);
    let dir = backup_dir(&folder);
    let made = line(backup(&folder, &dir));
    let other = small_files();
    let began = Instant::now();
    assert_eq!(line(restore(&other, &dir))["digest"], made["digest"]);
    let took = began.elapsed();
    let data = other.data_dir();
    fs::remove_dir_all(&data).expect("a folder");
    let args = ["restore", "--from", text(&dir)];
    let mut unfinished = 0;
    killed(&other, &args, took, || {
        if data.join("restoring").exists() {
            unfinished += 1;
            for args in [&["serve"][..], &["log", "info"], &["keys", "list"]] {
                let refused = other.run(args).failed();
                assert!(refused.contains("tally restore"), "{refused}");
            }
        } else if data.join("log").exists() {
            assert_eq!(state(&other).digest, made["digest"]);
            fs::remove_dir_all(&data).expect("a folder");
        }
    });
    assert!(unfinished > 0, "none was cut short");
    assert_eq!(line(restore(&other, &dir))["digest"], made["digest"]);
    assert_eq!(other.run(&["verify"]).status.code(), Some(0));
    assert_state_is_fold_of_log(&other);
}
