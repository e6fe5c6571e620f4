//! Rules about the source itself that no compiler knows: who may depend on whom, how long a file
//! may get, what must not stand in it, and links that lead somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tally_tests::binary::workspace;

/// A file longer than this wants splitting.
const LINES: usize = 500;

/// Files that may be longer, up to this many lines, and why. A number here only ever falls.
const LONGER: &[(&str, usize, &str)] = &[];

/// Our crates from the bottom up. Each may depend on those before it, on none after it.
const LAYERS: [&str; 5] = [
    "tally-domain",
    "tally-log",
    "tally-projector",
    "tally-ingress",
    "tally",
];

/// Crates of tests alone, which nothing that is shipped depends on.
const TESTS: [&str; 2] = ["tally-tests", "tally-fuzz"];

/// What has the form it has on purpose: compared byte for byte, or inputs of fuzz targets.
const AS_IT_IS: [&str; 2] = ["golden", "tests/fuzz/corpus/"];

/// Crates that only some of ours may name: the start of the name, who may, and why.
const ONLY: &[(&str, &[&str], &str)] = &[
    (
        "actix",
        &["tally-ingress", "tally"],
        "HTTP ends at the ingress; the binary wires it",
    ),
    (
        "utoipa",
        &["tally-ingress", "tally"],
        "HTTP ends at the ingress",
    ),
    (
        "sled",
        &["tally-projector"],
        "it stands behind the projector's store",
    ),
    (
        "rdkafka",
        &["tally-log"],
        "Kafka is one implementation of the log",
    ),
    ("clap", &["tally"], "only the binary has a command line"),
    ("figment", &["tally"], "only the binary reads configuration"),
    (
        "tracing-subscriber",
        &["tally"],
        "only the binary decides where logs go",
    ),
    ("ureq", &["tally"], "only the binary is a client"),
];

/// What the domain must not name: anything that waits, does I/O, or asks for time or chance.
const NOT_IN_DOMAIN: &[&str] = &[
    "actix",
    "async",
    "futures",
    "getrandom",
    "mio",
    "parking_lot",
    "prometheus",
    "rand",
    "rustix",
    "tempfile",
    "tokio",
    "tracing",
    "ureq",
];

/// Every source file of ours: path from the workspace's folder, and text.
fn files(extensions: &[&str]) -> Vec<(String, String)> {
    let root = workspace().canonicalize().expect("the workspace");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // In a worktree it is a file.
            if name == ".git" {
                continue;
            }
            if path.is_dir() {
                if !["target", "data"].contains(&&*name) {
                    folders.push(path);
                }
                continue;
            }
            let extension = path.extension().unwrap_or_default().to_string_lossy();
            if extensions.is_empty() || extensions.contains(&&*extension) {
                // What is no text has no rules here.
                if let Ok(text) = fs::read_to_string(&path) {
                    let path = path.strip_prefix(&root).expect("below the workspace");
                    found.push((path.display().to_string(), text));
                }
            }
        }
    }
    assert!(!found.is_empty(), "no files with {extensions:?}");
    found.sort();
    found
}

/// What each of our crates names: dependencies and build dependencies, not those of its tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(workspace())
        .output()
        .expect("cargo metadata");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let name = |value: &Value| value["name"].as_str().expect("a name").to_owned();
    let named = |package: &Value| {
        let all = package["dependencies"].as_array().expect("dependencies");
        all.iter()
            .filter(|one| one["kind"] != "dev")
            .map(name)
            .collect()
    };
    packages
        .iter()
        .map(|package| (name(package), named(package)))
        .collect()
}

fn nothing_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn dependencies_point_one_way() {
    let dependencies = dependencies();
    let mut wrong = Vec::new();
    for (layer, name) in LAYERS.iter().enumerate() {
        let named = dependencies
            .get(*name)
            .unwrap_or_else(|| panic!("no crate {name}"));
        for above in &LAYERS[layer..] {
            if named.contains(*above) {
                wrong.push(format!("{name} depends on {above}, which lies above it"));
            }
        }
    }
    for (name, named) in &dependencies {
        let ours = LAYERS.contains(&name.as_str());
        if !ours && !TESTS.contains(&name.as_str()) {
            wrong.push(format!("{name} has no place in LAYERS"));
        }
        for dependency in named {
            if ours && TESTS.contains(&dependency.as_str()) {
                wrong.push(format!("{name} depends on the tests"));
            }
            for (start, may, why) in ONLY {
                if ours && dependency.starts_with(start) && !may.contains(&name.as_str()) {
                    wrong.push(format!("{name} names {dependency}: {why}"));
                }
            }
        }
    }
    for dependency in &dependencies["tally-domain"] {
        if NOT_IN_DOMAIN
            .iter()
            .any(|start| dependency.starts_with(start))
        {
            wrong.push(format!("tally-domain names {dependency}: it is pure"));
        }
    }
    nothing_wrong(&wrong);
}

/// A manifest can be right and the code still reach for the clock or the disk.
#[test]
fn the_domain_asks_for_no_time_no_chance_and_no_io() {
    let banned = [
        "std::time",
        "SystemTime",
        "Instant::",
        "std::fs",
        "std::io::std",
        "std::net",
        "std::env",
        "std::thread",
        "Uuid::now",
        "new_v4",
        "::random",
        "async fn",
        ".await",
        "Timestamp::now",
        "Zoned::now",
    ];
    let mut wrong = Vec::new();
    for (path, text) in files(&["rs"]) {
        if !path.starts_with("crates/domain/src/") {
            continue;
        }
        for word in banned
            .iter()
            .filter(|word| without_comments(&text).contains(**word))
        {
            wrong.push(format!("{path} has {word}"));
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn files_stay_short() {
    let mut wrong = Vec::new();
    let files = files(&["rs"]);
    for (path, text) in &files {
        let allowed = LONGER.iter().find(|(file, _, _)| file == path);
        let limit = allowed.map_or(LINES, |(_, lines, _)| *lines);
        let lines = text.lines().count();
        if lines > limit {
            wrong.push(format!(
                "{path} has {lines} lines, more than {limit}: split it"
            ));
        }
    }
    for (path, limit, _) in LONGER {
        let lines = files
            .iter()
            .find(|(file, _)| file == path)
            .map(|(_, text)| text.lines().count());
        if lines.is_none_or(|lines| lines <= LINES || lines + 20 < *limit) {
            wrong.push(format!(
                "{path} has {lines:?} lines now: lower its number in LONGER"
            ));
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let mut wrong = Vec::new();
    for (path, text) in files(&["rs"]) {
        if !text.starts_with("//!") && !text.starts_with("#![doc = include_str!") {
            wrong.push(format!("{path} does not start with //!"));
        }
    }
    nothing_wrong(&wrong);
}

/// Words are put together here, so that this file is not the first to break its own rule.
#[test]
fn nothing_stands_there_that_does_not_belong() {
    let everywhere = [
        concat!("/wo", "rk/"),
        concat!("arti", "factory"),
        concat!("index.", "crates.io"),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("<<<<", "<<<"),
        concat!(">>>>", ">>>"),
    ];
    let mut wrong = Vec::new();
    for (path, text) in files(&[]) {
        let as_it_is = AS_IT_IS.iter().any(|part| path.contains(part));
        if path == "Cargo.lock" {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            for word in everywhere.iter().filter(|word| line.contains(**word)) {
                wrong.push(format!("{path}:{} has {word}", number + 1));
            }
            if line.ends_with([' ', '\t']) && !as_it_is {
                wrong.push(format!("{path}:{} ends in blanks", number + 1));
            }
        }
        if !text.is_empty() && !text.ends_with('\n') && !as_it_is {
            wrong.push(format!("{path} has no newline at its end"));
        }
    }
    nothing_wrong(&wrong);
}

/// A test that is skipped protects nothing, and one that waits by the clock fails one day.
#[test]
fn tests_are_neither_ignored_nor_wait_by_the_clock() {
    let ignored = concat!("#[ig", "nore");
    let sleeps = concat!("sle", "ep(");
    // The one place where a condition is asked for again and again.
    let may_sleep = "tests/src/wait.rs";
    let mut wrong = Vec::new();
    for (path, text) in files(&["rs"]) {
        if text.contains(ignored) {
            wrong.push(format!("{path} ignores a test"));
        }
        let of_tests = path.contains("tests/") || path.ends_with("tests.rs");
        let tests = if of_tests {
            text.as_str()
        } else {
            text.split_once("\n#[cfg(test)]\n")
                .map_or("", |(_, tests)| tests)
        };
        if tests.contains(sleeps) && path != may_sleep {
            wrong.push(format!(
                "{path}: a test sleeps; wait for a condition instead"
            ));
        }
    }
    nothing_wrong(&wrong);
}

/// An exception to a lint is `expect` with a reason: it goes when it is needed no more.
#[test]
fn lints_are_expected_with_a_reason_never_allowed() {
    let allow = concat!("[al", "low(");
    let mut wrong = Vec::new();
    for (path, text) in files(&["rs"]) {
        // What the test programs of one crate share is used by some of them and not by others.
        let shared = path.contains("/tests/common/");
        if !shared && without_comments(&text).contains(allow) {
            wrong.push(format!(
                "{path} has an allow; write #[expect(…, reason = \"…\")]"
            ));
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    let documents = files(&["md"]);
    for needed in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        let there = documents.iter().any(|(path, _)| path == needed);
        assert!(there, "there is no {needed}");
    }
    let mut wrong = Vec::new();
    for (path, text) in &documents {
        let folder = workspace()
            .join(path)
            .parent()
            .map(Path::to_owned)
            .unwrap_or_default();
        for target in links(text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file: PathBuf = if file.is_empty() {
                workspace().join(path)
            } else {
                folder.join(file)
            };
            if !file.exists() {
                wrong.push(format!("{path}: {target} is not there"));
            } else if !anchor.is_empty() && file.extension().is_some_and(|end| end == "md") {
                let text = fs::read_to_string(&file).expect("a text");
                if !anchors(&text).contains(anchor) {
                    wrong.push(format!("{path}: {target} has no such heading"));
                }
            }
        }
    }
    nothing_wrong(&wrong);
}

/// The targets of `[text](target)`, outside of code.
fn links(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    prose
        .flat_map(|part| part.split("](").skip(1))
        .filter_map(|rest| rest.split([')', ' ']).next())
        .collect()
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| -> String {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words
            .chars()
            .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

fn without_comments(text: &str) -> String {
    let code = |line: &&str| !line.trim_start().starts_with("//");
    text.lines().filter(code).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_rules_find_what_they_look_for() {
    assert_eq!(
        links("[a](b.md#c) ```[x](y)``` ![d](e \"t\")"),
        ["b.md#c", "e"]
    );
    assert!(anchors("# One `two`, three\n").contains("one-two-three"));
    assert_eq!(without_comments("a\n  // b\nc"), "a\nc");
}
