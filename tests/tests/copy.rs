//! `tally log copy` between folders, and what the commands for Kafka say where there is none.

use std::fs;

use serde_json::Value;
use tally_tests::{Folder, Server};

/// A folder on which a server took some interactions, and is stopped.
fn recorded() -> Folder {
    let folder = Folder::new().with("TALLY__LOG__PARTITIONS", 4);
    let server = folder.start();
    interact(&server);
    server.stop();
    folder
}

fn interact(server: &Server) {
    for id in [("quest", 42), ("ai_note", 15), ("ai_expert", 7)] {
        for kind in ["view", "like", "bookmark", "view", "unlike"] {
            assert_eq!(server.interact(id.0, id.1, kind).status, 200);
        }
    }
}

fn embedded(folder: &Folder) -> String {
    format!("embedded:{}", folder.data_dir().display())
}

fn copy_command(from: &Folder, to: &Folder, more: &[&str]) -> Vec<String> {
    let (from, to) = (embedded(from), embedded(to));
    let args = ["log", "copy", "--from", &from, "--to", &to];
    args.iter()
        .chain(more)
        .map(|arg| (*arg).to_owned())
        .collect()
}

fn copy(from: &Folder, to: &Folder) -> Value {
    let args = copy_command(from, to, &["--json"]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut lines = from.run(&args).json_lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.remove(0)
}

fn refused(from: &Folder, to: &Folder) -> String {
    let args = copy_command(from, to, &[]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    from.run(&args).failed()
}

fn digest(folder: &Folder) -> Value {
    let state = folder.run(&["state", "info"]).json_lines();
    state[0]["state"]["digest"].clone()
}

/// Protects whoever moves a log: events, catalogue and numbers are the same, and the server goes on
/// there; the digest that the copy prints is the one that the state has.
#[test]
fn a_copied_folder_serves_on_with_the_same_numbers() {
    let from = recorded();
    assert!(
        from.run(&["resources", "add", "podcast", "1", "2"])
            .status
            .success()
    );
    // Of another number of partitions: the copy has the source's.
    let to = Folder::new().with("TALLY__LOG__PARTITIONS", 8);
    let first = copy(&from, &to);
    assert_eq!(first["copied"], 15);
    assert_eq!(first["already_there"], 0);
    assert_eq!(first["left_out"], 0);
    assert_eq!(first["resources_copied"], 5);
    assert_eq!(first["equal"], true);
    assert_eq!(first["source_digest"], first["destination_digest"]);
    assert_eq!(first["source_digest"], digest(&from));
    assert_eq!(digest(&to), digest(&from));
    let lists = [&from, &to].map(|folder| folder.run(&["resources", "list"]).ok());
    assert_eq!(lists[0], lists[1]);

    let server = from.start();
    interact(&server);
    server.stop();
    let second = copy(&from, &to);
    assert_eq!(second["copied"], 15);
    assert_eq!(second["already_there"], 15);
    assert_eq!(second["resources_already_there"], 5);
    assert_eq!(second["destination_digest"], digest(&from));

    let to = to.with("TALLY__LOG__PARTITIONS", 4);
    let server = to.start();
    let state = server.resource("quest", 42).ok();
    assert_eq!(state["counters"]["views"], 4);
    assert_eq!(server.interact("podcast", 2, "view").status, 200);
    server.stop();
    // Now the copy has more than the source.
    let error = refused(&from, &to);
    for part in ["partition", "no more records", "Nothing was copied"] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
}

/// Protects a log from being read and written while a server appends to it.
#[test]
fn a_folder_that_a_server_holds_is_refused_with_what_to_do() {
    let from = recorded();
    let to = Folder::new().with("TALLY__LOG__PARTITIONS", 4);
    let held_by = |server: &Server| {
        let error = refused(&from, &to);
        let pid = format!("(pid {})", server.pid());
        for part in ["data folder", pid.as_str(), "stop it"] {
            assert!(error.contains(part), "{part:?} in {error}");
        }
    };
    let server = from.start();
    held_by(&server);
    server.stop();
    let _ = copy(&from, &to);
    let server = to.start();
    held_by(&server);
    server.stop();
}

/// Protects against a copy that does nothing, or something else than was meant.
#[test]
fn a_copy_names_two_logs_that_can_be_there() {
    let from = recorded();
    let error = refused(&from, &from);
    assert!(error.contains("the same log"), "{error}");
    let empty = Folder::new();
    let error = refused(&empty, &from);
    assert!(error.contains("there is no log in"), "{error}");
    assert!(!empty.data_dir().exists(), "nothing is made there");
    for (other, wanted) in [
        ("embedded:", "embedded:PATH"),
        ("./data", "embedded:PATH"),
        ("kafka", "kafka.bootstrap_servers"),
    ] {
        let args = ["log", "copy", "--from", &embedded(&from), "--to", other];
        let error = from.run(&args).failed();
        assert!(error.contains(wanted), "{error}");
    }
}

/// Protects the operator who has not said which cluster.
#[test]
fn topics_need_a_cluster_that_is_named() {
    let folder = Folder::new();
    for command in ["create", "check", "describe"] {
        let ran = folder.run(&["topics", command]);
        assert_eq!(ran.status.code(), Some(2));
        let error = ran.failed();
        for part in ["kafka.bootstrap_servers", "log.kind"] {
            assert!(error.contains(part), "{part:?} in {error}");
        }
    }
    assert!(!folder.data_dir().exists(), "nothing is made for it");
}

/// Protects the cluster's password, which stands in a file, from everything that a command prints.
#[test]
fn secrets_of_kafka_are_read_from_files_and_never_shown() {
    let folder = Folder::new();
    let secret = folder.root().join("password");
    fs::write(&secret, "hunter2-of-kafka\n").expect("a file");
    let path = secret.display().to_string();
    let folder = folder
        .with("TALLY__KAFKA__PROPERTY_FILES__SASL__PASSWORD", &path)
        .with(
            "TALLY__KAFKA__PROPERTIES__SSL__KEY__PASSWORD",
            "hunter2-of-the-key",
        );
    let shown = folder.run(&["config", "show"]).ok();
    for part in [
        "kafka.properties.\"ssl.key.password\" = \"***\"  # the environment variable TALLY__KAFKA__PROPERTIES__SSL__KEY__PASSWORD",
        &format!("kafka.property_files.\"sasl.password\" = \"{path}\"  # the environment variable"),
    ] {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }
    assert!(!shown.contains("hunter2"), "{shown}");

    let both = folder
        .clone()
        .with("TALLY__KAFKA__PROPERTIES__SASL__PASSWORD", "hunter2-twice");
    let error = both.run(&["config", "check"]).failed();
    assert!(
        error.contains("kafka.property_files.\"sasl.password\""),
        "{error}"
    );
    assert!(!error.contains("hunter2"), "{error}");

    fs::remove_file(&secret).expect("it was there");
    let ran = folder.run(&["config", "check"]);
    assert_eq!(ran.status.code(), Some(2));
    let error = ran.failed();
    for part in ["kafka.property_files.\"sasl.password\"", path.as_str()] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
}
