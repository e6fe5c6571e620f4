//! What was acknowledged survives, and state is a function of the log.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tally_tests::fold::{assert_state_is_fold_of_log, fold_log, state};
use tally_tests::load::Load;
use tally_tests::server::{LOCAL_KEY, Server, interaction_request, resource_path};
use tally_tests::{Folder, Request, wait};

/// Load until `answers` came.
fn load(server: &Server, answers: usize) -> Load {
    let load = Load::start(server.api(), 8);
    load.answers(answers);
    load
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let folder = Folder::new();
    let server = folder.start();
    let running = load(&server, 500);
    server.kill9();
    let told = running.stop();
    told.assert_only_conflicts_and_unavailable();

    let offline = assert_state_is_fold_of_log(&folder);
    told.assert_all_there(&offline);
    let offline_state = state(&folder);
    let server = folder.start();
    let online = assert_state_is_fold_of_log(&folder);
    assert_eq!(online, offline, "a restart adds nothing and loses nothing");
    assert_eq!(state(&folder), offline_state);
    assert_eq!(server.interact("quest", 42, "view").status, 200);
}

#[test]
fn sigterm_under_load_finishes_what_was_accepted_and_ends_with_0() {
    let folder = Folder::new();
    let mut server = folder.start();
    let running = load(&server, 300);
    // Twice: whoever stops a whole group of processes signals its leader again.
    server.sigterm();
    server.sigterm();
    let status = server.wait_for_end();
    assert_eq!(status.code(), Some(0), "{}", server.output());
    let told = running.stop();
    told.assert_only_conflicts_and_unavailable();
    let folded = assert_state_is_fold_of_log(&folder);
    told.assert_all_there(&folded);
    assert!(!folder.data_dir().join("server.json").exists());

    // A clean stop wrote the state down: nothing is folded again.
    let server = folder.start();
    assert_eq!(
        server.metrics().sum("tally_projector_events_total", &[]),
        0.0
    );
}

#[test]
fn state_is_a_cache_of_the_log() {
    let folder = Folder::new();
    let server = folder.start();
    let told = load(&server, 300).stop();
    server.stop();
    let before = state(&folder);
    fs::remove_dir_all(folder.data_dir().join("state")).expect("the state is in a folder");
    let server = folder.start();
    assert_eq!(state(&folder), before, "the digest too");
    let folded = assert_state_is_fold_of_log(&folder);
    told.assert_all_there(&folded);
    let replayed = server.metrics().sum("tally_projector_events_total", &[]);
    assert_eq!(replayed, count(folded.outcomes.len()));
}

fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).expect("few"))
}

/// The keys that were used before a restart still hold after it, whether they come from the
/// checkpoint or from the replayed tail.
#[test]
fn idempotency_keys_outlive_the_process() {
    let folder = Folder::new();
    let share = |server: &Server, key: &str| {
        let request = interaction_request("quest", 42, "share").header("Idempotency-Key", key);
        request.send(server.api()).ok()
    };
    let server = folder.start();
    assert_eq!(share(&server, "checkpointed")["outcome"], "applied");
    server.stop();
    let server = folder.start();
    assert_eq!(share(&server, "replayed")["outcome"], "applied");
    server.kill9();
    let server = folder.start();
    for key in ["checkpointed", "replayed"] {
        let answer = share(&server, key);
        assert_eq!(answer["outcome"], "duplicate", "{key}");
        assert_eq!(answer["counters"]["shares"], 2, "{key}");
    }
}

#[test]
fn one_folder_has_one_server() {
    let folder = Folder::new();
    let first = folder.start();
    let refused = folder.run(&["serve"]).failed();
    let pid = first.pid().to_string();
    assert!(
        refused.contains(&pid),
        "it names the other process: {refused}"
    );
    let data_dir = folder.data_dir().display().to_string();
    assert!(
        refused.contains(&data_dir),
        "it names the folder: {refused}"
    );
    assert_eq!(
        first.interact("quest", 42, "view").status,
        200,
        "the first goes on"
    );
}

/// The newest file below the folder's log that changed between two moments, as it was at both.
fn changed_file(
    before: &[(PathBuf, Vec<u8>)],
    after: &[(PathBuf, Vec<u8>)],
) -> (PathBuf, usize, usize) {
    let changed = |(path, now): &&(PathBuf, Vec<u8>)| {
        let earlier = before.iter().find(|(known, _)| known == path);
        path.components().any(|part| part.as_os_str() == "log")
            && earlier.is_some_and(|(_, then)| then != now)
    };
    let (path, now) = after.iter().find(changed).expect("the log has grown");
    let (_, then) = before
        .iter()
        .find(|(known, _)| known == path)
        .expect("known");
    let differs = |at: &usize| then.get(*at) != now.get(*at);
    let first = (0..now.len()).find(differs).expect("a difference");
    let last = (0..now.len()).rfind(differs).expect("a difference");
    (path.clone(), first, last)
}

/// A crash can leave the last group of appends half written. It was not acknowledged, so it goes;
/// everything before it stays.
#[test]
fn a_torn_tail_is_cut_and_nothing_else() {
    for keep in [0.0, 0.1, 0.5, 0.99] {
        // No checkpoint has what is to be torn: state past the log's head is refused.
        let folder = Folder::new()
            .with("TALLY__LOG__SEGMENT_SIZE", "4 MiB")
            .with("TALLY__PROJECTOR__CHECKPOINT_INTERVAL", "1h");
        let server = folder.start();
        let told = load(&server, 100).stop();
        let before = folder.files();
        let last = server.interact("quest", 42, "comment").ok();
        let after = folder.files();
        server.kill9();

        let (path, first_byte, last_byte) = changed_file(&before, &after);
        let mut bytes = fs::read(&path).expect("the segment");
        let length = count(last_byte - first_byte + 1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "below length"
        )]
        let kept = (length * keep) as usize;
        for byte in &mut bytes[first_byte + kept..=last_byte] {
            *byte = !*byte;
        }
        fs::write(&path, bytes).expect("the segment");

        let server = folder.start();
        let cut = server.metrics().sum("tally_log_torn_bytes_total", &[]);
        assert!(cut > 0.0 && server.output().contains("was cut off"));
        let folded = assert_state_is_fold_of_log(&folder);
        told.assert_all_there(&folded);
        let torn = last["event_id"].as_str().expect("an id");
        assert!(
            !folded.records_of_event.contains_key(torn),
            "half a group is none"
        );
        let again = server.interact("quest", 42, "comment").ok();
        server.kill9();
        let folded = fold_log(&folder);
        assert_eq!(
            folded.records_of_event[again["event_id"].as_str().expect("an id")],
            1
        );
    }
}

/// A log can be the same and yet be as it was before: a token given out since lies past its head,
/// and who waits for that would wait for ever.
#[test]
fn a_position_past_the_head_is_refused() {
    let token = |server: &Server| {
        let answer = server.interact("quest", 42, "view").ok();
        answer["position"].as_str().expect("a token").to_owned()
    };
    let status = |server: &Server, token: &str| {
        let path = format!("{}?at_least={token}", resource_path("quest", 42));
        let request = Request::get(&path).bearer(LOCAL_KEY);
        request.send(server.api()).status
    };
    let folder = Folder::new();
    let server = folder.start();
    let early = token(&server);
    server.stop();
    let copy = Folder::new();
    copy_dir(&folder.data_dir(), &copy.data_dir());
    let server = folder.start();
    let late = token(&server);
    assert_eq!(status(&server, &late), 200);
    let behind = copy.start();
    assert_eq!(status(&behind, &late), 400);
    assert_eq!(status(&behind, &early), 200);
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a file is copied");
        }
    }
}

#[test]
fn log_cat_can_be_narrowed_and_followed() {
    let folder = Folder::new();
    let server = folder.start();
    let told = load(&server, 100).stop();
    let all = folder.run(&["log", "cat"]).json_lines();
    assert!(all.len() >= told.acknowledged.len());
    let shape = ["event", "offset", "partition"];
    for line in &all {
        let names: Vec<_> = line.as_object().expect("an object").keys().collect();
        assert_eq!(names, shape, "{line}");
    }
    let of = |partition: &Value, from: u64| -> Vec<Value> {
        let in_it = |line: &&Value| line["partition"] == *partition;
        let wanted = all
            .iter()
            .filter(in_it)
            .filter(|line| line["offset"].as_u64() >= Some(from));
        wanted.cloned().collect()
    };
    let partition = &all[0]["partition"];
    let number = partition.to_string();
    let one = folder
        .run(&["log", "cat", "--partition", &number])
        .json_lines();
    assert_eq!(one, of(partition, 0));
    let middle = one[one.len() / 2]["offset"].as_u64().expect("an offset");
    let from = [
        "log",
        "cat",
        "--partition",
        &number,
        "--from",
        &middle.to_string(),
    ];
    let rest = folder.run(&from).json_lines();
    assert_eq!(rest, of(partition, middle));
    assert!(rest.len() < one.len());
    let none = folder.run(&["log", "cat", "--partition", "16"]).failed();
    assert!(none.contains("16"), "it says which: {none}");

    let output = folder.root().join("followed");
    let mut follow = folder
        .command(&["log", "cat", "--follow"])
        .stdout(fs::File::create(&output).expect("a file"))
        .spawn()
        .expect("the command starts");
    let lines = |text: &str| text.lines().count();
    let text = || fs::read_to_string(&output).expect("the output");
    wait::until("what is there", || {
        (lines(&text()) >= all.len()).then_some(())
    });
    let new = server.interact("quest", 42, "view").ok();
    let id = new["event_id"].as_str().expect("an id");
    wait::until("what comes", || text().contains(id).then_some(()));
    // A clean stop is a clean end for who follows.
    server.stop();
    let ended = follow.wait().expect("a child of ours");
    assert!(ended.success(), "{ended}");

    assert_eq!(
        folder.run(&["log", "cat"]).json_lines().len(),
        all.len() + 1,
        "offline too"
    );
    for command in [["log", "info"], ["log", "check"], ["state", "info"]] {
        assert!(!folder.run(&command).ok().is_empty(), "{command:?}");
    }
}
