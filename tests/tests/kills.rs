//! `kill -9` in the middle of everything that changes state or log as a whole: rebuild, swap, snapshot, cutting the
//! log off, restore. There is one good state each time, and it is the one that was.
//!
//! `TALLY_KILLS` sets how often each of them is killed (2), `TALLY_CRASH_SEED` repeats the choices of an earlier
//! run. The kills are spread evenly over the time that the whole took, and each says what it met.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tally_tests::crash::{Chance, number_from_env};
use tally_tests::fold::{assert_state_is_fold_of_log, state};
use tally_tests::{Folder, Server, wait};

/// From so many on each operation must have been met in its middle.
const MANY: u64 = 20;
/// Events of the installation that is killed, and resources that they are about.
const EVENTS: &str = "4000";
const RESOURCES: &str = "400";

/// What was proven once, and is put in place again and again: a log, its state, and snapshots of some of it.
struct Template {
    folder: Folder,
    /// The state's digest; the state is the tests' own fold of the log.
    digest: String,
}

fn snapshots(folder: &Folder) -> PathBuf {
    folder.root().join("snapshots")
}

fn empty() -> Folder {
    let folder = Folder::local()
        .with("TALLY__LOG__SEGMENT_SIZE", "64 KiB")
        .with("TALLY__LOG__PARTITIONS", "4")
        .with("TALLY__SNAPSHOTS__INTERVAL", "1h")
        .with("TALLY__SNAPSHOTS__KEEP", "2");
    let url = format!("file://{}", snapshots(&folder).display());
    fs::create_dir(snapshots(&folder)).expect("a new folder");
    folder.with("TALLY__SNAPSHOTS__URL", url)
}

fn template() -> &'static Template {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let folder = empty();
        let server = folder.start();
        let load = |events: &str| {
            let args = ["--requests", events, "--resources", RESOURCES];
            let more = ["--users", "20", "--connections", "8", "--idempotency-keys"];
            let _ = folder.run(&[&["bench"][..], &args, &more].concat()).ok();
        };
        load(EVENTS);
        let _ = folder.run(&["snapshot", "create"]).ok();
        // The tail that they don't have.
        load("200");
        server.stop();
        assert_state_is_fold_of_log(&folder);
        let digest = state(&folder).digest;
        Template { folder, digest }
    })
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.expect("cp").success());
}

/// Puts the template's files in place of what there is of this folder.
fn put_back(folder: &Folder) {
    let from = &template().folder;
    copy(&from.data_dir(), &folder.data_dir());
    copy(&snapshots(from), &snapshots(folder));
}

fn of_template() -> Folder {
    let folder = empty();
    put_back(&folder);
    folder
}

/// There is the one good state, whoever looks: also in what the state's folder consists of.
fn assert_good(folder: &Folder) {
    assert_eq!(state(folder).digest, template().digest);
    assert!(!folder.data_dir().join("state/swap").exists());
}

/// What comes without the state is the same: snapshots and tail, or all of the log.
fn assert_good_without_state(folder: &Folder) {
    fs::remove_dir_all(folder.data_dir().join("state")).expect("it is there");
    assert_good(folder);
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let name = |entry: std::io::Result<fs::DirEntry>| {
        let name = entry.expect("an entry").file_name();
        name.to_string_lossy().into_owned()
    };
    let mut names: Vec<_> = entries.map(name).collect();
    names.sort();
    names
}

fn spawn(folder: &Folder, args: &[&str]) -> Child {
    let mut command = folder.command(args);
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the binary starts")
}

/// When something is killed.
#[derive(Clone, Copy)]
struct Moment {
    round: u64,
    /// So long after it was begun.
    after: Duration,
}

/// What kills met, by name; the middle is any that is neither before nor after.
#[derive(Default)]
struct Met(BTreeMap<&'static str, u64>);

const BEFORE: &str = "before";
const AFTER: &str = "after";

/// Kills so often as is asked for, at moments spread over the time that the whole takes, and prints what was met.
fn killed(what: &str, whole: Duration, mut kill: impl FnMut(Moment) -> &'static str) {
    let kills = number_from_env("TALLY_KILLS", 2);
    let mut chance = Chance::from_env();
    let micros = u64::try_from(whole.as_micros()).expect("short").max(1);
    let began = Instant::now();
    let mut met = Met::default();
    for round in 0..kills {
        let after = (micros * round + chance.below(micros)) / kills;
        let after = Duration::from_micros(after);
        *met.0.entry(kill(Moment { round, after })).or_default() += 1;
    }
    let took = began.elapsed();
    println!(
        "{what}: {kills} kills within {whole:.1?} met {:?}; {took:.0?}",
        met.0
    );
    let middle: u64 = met
        .0
        .iter()
        .filter(|(name, _)| ![BEFORE, AFTER].contains(name))
        .map(|(_, count)| *count)
        .sum();
    assert!(
        kills < MANY || middle > kills / 10,
        "{what} was not met in its middle"
    );
}

fn took(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

/// Kills the command, the server, or both, as the round says; whether the command had ended by itself.
fn kill_in_turn(round: u64, command: &mut Child, server: &mut Server) -> bool {
    let ended = command.try_wait().expect("a child of ours").is_some();
    if !round.is_multiple_of(3) {
        server.kill();
    }
    if round % 3 != 1 {
        command.kill().expect("a child of ours");
    }
    command.wait().expect("a child of ours");
    ended
}

fn start_again(folder: &Folder, mut server: Server, round: u64) -> Server {
    if round.is_multiple_of(3) {
        // It may be opening the state that has just taken its place.
        server.wait_until_ready();
        return server;
    }
    folder.start()
}

/// Protects a serving state against a rebuild that is killed, or whose server is, at any moment of it: what is
/// served is what was, and the next rebuild ends well.
#[test]
fn a_rebuild_is_killed_and_nothing_is_changed() {
    let folder = of_template();
    let mut server = Some(folder.start());
    let whole = took(|| drop(folder.run(&["rebuild"]).ok()));
    let dir = folder.data_dir().join("state");
    killed("rebuild", whole, |Moment { round, after }| {
        let mut of_round = server.take().expect("a server");
        let mut rebuild = spawn(&folder, &["rebuild"]);
        wait::out(after);
        let ended = kill_in_turn(round, &mut rebuild, &mut of_round);
        let shadow = dir.join("shadow");
        let met = match () {
            () if ended => AFTER,
            () if dir.join("swap").exists() => "between the steps of the swap",
            () if shadow.join("ready").exists() => "folded and compared",
            () if shadow.exists() => "with a shadow",
            () => BEFORE,
        };
        server = Some(start_again(&folder, of_round, round));
        assert_good(&folder);
        if round % 10 == 9 {
            let line = folder.run(&["rebuild", "--json"]).json_lines();
            assert_eq!(line.last().expect("a line")["differences"], 0);
            assert_good(&folder);
        }
        met
    });
    let server = server.expect("a server");
    assert_eq!(server.interact("quest", 42, "view").status, 200);
    let _ = folder.run(&["rebuild"]).ok();
    assert_state_is_fold_of_log(&folder);
    server.stop();
    let state = names(&dir);
    for left in ["shadow", "recalled", "swap", "discarded", "redo"] {
        assert!(!state.iter().any(|name| name == left), "{state:?}");
    }
    assert_eq!(folder.run(&["verify"]).status.code(), Some(0));
}

/// Protects a state whose place another takes: killed at any moment of the swap, the next start has one of the
/// two, whole, and the other can be brought back.
#[test]
fn a_swap_is_killed_and_one_state_is_there() {
    let folder = of_template();
    let mut server = Some(folder.start());
    let _ = folder.run(&["rebuild"]).ok();
    let dir = folder.data_dir().join("state");
    let ready = ["shadow/ready", "recalled/ready"].map(|name| dir.join(name));
    let is_ready = || ready.iter().any(|ready| ready.exists());
    let begins = |command: &mut Child| {
        let begun = wait::closely(wait::DEADLINE, || {
            let mut ended = || command.try_wait().expect("a child of ours").is_some();
            (is_ready() || ended()).then_some(())
        });
        begun.expect("a state that is ready");
    };
    let whole = {
        let mut back = spawn(&folder, &["rebuild", "--roll-back"]);
        begins(&mut back);
        took(|| assert!(back.wait().expect("a child of ours").success()))
    };
    killed("swap", whole, |Moment { round, after }| {
        let mut of_round = server.take().expect("a server");
        let args: &[&str] = match dir.join("previous/sled").exists() && round % 2 == 0 {
            true => &["rebuild", "--roll-back"],
            false => &["rebuild"],
        };
        let mut rebuild = spawn(&folder, args);
        begins(&mut rebuild);
        let marker = dir.join("swap");
        if round % 2 == 0 {
            wait::out(after);
        } else {
            // Its steps take a moment only.
            let ends = || (marker.exists() || !is_ready()).then_some(());
            let _ = wait::closely(wait::DEADLINE, ends);
            wait::out(after / 64);
        }
        // The server's it is.
        let ended = kill_in_turn(1 + round % 2, &mut rebuild, &mut of_round);
        let met = match () {
            () if ended => AFTER,
            () if marker.exists() => "between its steps",
            () if is_ready() => BEFORE,
            () => "with the state closed",
        };
        server = Some(folder.start());
        assert_good(&folder);
        if round % 10 == 9 {
            let _ = folder.run(&["rebuild"]).ok();
            assert_good(&folder);
            let _ = folder.run(&["rebuild", "--roll-back"]).ok();
            assert_good(&folder);
        }
        met
    });
    server.expect("a server").stop();
    assert_state_is_fold_of_log(&folder);
    assert_eq!(folder.run(&["verify"]).status.code(), Some(0));
}

/// Protects what is kept elsewhere: killed while snapshots are taken, by a server or without one, none of those
/// there is damaged, and the state comes back from them.
#[test]
fn taking_snapshots_is_killed_and_none_is_damaged() {
    let folder = of_template();
    let kept = snapshots(&folder);
    let count = || {
        names(&kept)
            .iter()
            .map(|log| files(&kept.join(log)))
            .sum::<usize>()
    };
    let before = count();
    let whole = {
        let server = folder.start();
        let whole = took(|| drop(folder.run(&["snapshot", "create"]).ok()));
        server.stop();
        whole
    };
    assert!(count() > before);
    killed("snapshot", whole, |Moment { round, after }| {
        put_back(&folder);
        let server = (round % 2 == 0).then(|| folder.start());
        let mut create = spawn(&folder, &["snapshot", "create"]);
        wait::out(after);
        let ended = create.try_wait().expect("a child of ours").is_some();
        if let Some(mut server) = server {
            server.kill();
        } else {
            create.kill().expect("a child of ours");
        }
        create.wait().expect("a child of ours");
        let spooled = !names(&folder.data_dir().join("state/snapshots")).is_empty();
        let met = match count() - before {
            _ if ended => AFTER,
            0 if !spooled => BEFORE,
            0 => "with the first one written",
            _ => "with some taken",
        };
        let checked = folder.run(&["snapshot", "check"]);
        assert!(checked.status.success(), "{checked:?}");
        assert_good(&folder);
        assert_good_without_state(&folder);
        met
    });
}

fn files(dir: &Path) -> usize {
    let of = |name: &String| match dir.join(name) {
        path if path.is_dir() => files(&path),
        _ => 1,
    };
    names(dir).iter().map(of).sum()
}

/// Protects the log whose beginning goes: killed while it does, by a server or without one, the log is whole from
/// where it begins, and snapshots have what is gone.
#[test]
fn cutting_the_log_off_is_killed_and_nothing_is_lost() {
    let folder = of_template();
    let segments = || names(&folder.data_dir().join("log")).len();
    let first = |folder: &Folder| -> u64 {
        let lines = folder.run(&["log", "info"]).json_lines();
        let of_log = lines.iter().filter(|line| line["log"] == "interactions");
        of_log.filter_map(|line| line["first"].as_u64()).sum()
    };
    let args = ["log", "truncate", "--yes"];
    let whole = {
        let server = folder.start();
        let whole = took(|| drop(folder.run(&args).ok()));
        server.stop();
        whole
    };
    assert!(first(&folder) > 0);
    killed("truncate", whole, |Moment { round, after }| {
        put_back(&folder);
        let server = (round % 2 == 0).then(|| folder.start());
        let before = segments();
        let mut truncate = spawn(&folder, &args);
        if round % 4 < 2 {
            wait::out(after);
        } else {
            // Removing files takes a moment only.
            let begins = || {
                let ended = truncate.try_wait().expect("a child of ours").is_some();
                (ended || segments() < before).then_some(())
            };
            let _ = wait::closely(wait::DEADLINE, begins);
            wait::out(after / 256);
        }
        let ended = truncate.try_wait().expect("a child of ours").is_some();
        if let Some(mut server) = server {
            server.kill();
        } else {
            truncate.kill().expect("a child of ours");
        }
        truncate.wait().expect("a child of ours");
        let met = match segments() < before {
            _ if ended => AFTER,
            true => "with files removed",
            false => BEFORE,
        };
        let checked = folder.run(&["log", "check"]);
        assert!(checked.status.success(), "{checked:?}");
        assert_good(&folder);
        assert_good_without_state(&folder);
        met
    });
}

/// Protects a state that is brought back: killed while that is done, by the command or by a start that finds no
/// state, the next start has the one good state.
#[test]
fn a_restore_is_killed_and_the_next_start_has_the_state() {
    let folder = of_template();
    let whole = took(|| drop(folder.run(&["snapshot", "restore"]).ok()));
    let dir = folder.data_dir().join("state");
    let aside = || {
        names(&dir)
            .iter()
            .filter(|name| name.starts_with("set-aside"))
            .count()
    };
    killed("restore", whole, |Moment { round, after }| {
        put_back(&folder);
        let by_start = round % 2 == 1;
        let args: &[&str] = if by_start {
            fs::remove_dir_all(&dir).expect("it is there");
            &["serve"]
        } else {
            &["snapshot", "restore"]
        };
        let said = folder.root().join("said");
        let mut command = folder.command(args);
        let command = command.stdout(Stdio::null());
        let command = command.stderr(fs::File::create(&said).expect("a new file"));
        let mut restore = command.spawn().expect("the binary starts");
        wait::out(after);
        let ended = restore.try_wait().expect("a child of ours").is_some();
        restore.kill().expect("a child of ours");
        restore.wait().expect("a child of ours");
        let said = fs::read_to_string(&said).expect("what it said");
        let restored = said.matches("is restored from its snapshot").count();
        let met = match restored {
            _ if ended => AFTER,
            4 => "with all partitions restored",
            0 if dir.join("sled").exists() && (by_start || aside() > 0) => "with a store begun",
            0 if aside() > 0 => "with the state set aside",
            0 => BEFORE,
            _ => "with some partitions restored",
        };
        assert_good(&folder);
        let server = folder.start();
        assert_good(&folder);
        server.stop();
        met
    });
}
