//! Nothing above the log knows which one it has: the black-box tests of the embedded log, as they
//! are, with Kafka under them.

use std::process::Command;

use tally_tests::binary::{profile, target_dir, workspace};
use tally_tests::kafka::{Kafka, ON_KAFKA};

/// The test programs that run on Kafka as they are, and what of each is about the files of the
/// embedded log.
const PROGRAMS: [(&str, &[&str]); 6] = [
    ("contract", &[]),
    ("errors", &[]),
    ("answers", &[]),
    ("verify", &[]),
    ("rebuild", &[]),
    (
        "durability",
        &[
            "a_torn_tail_is_cut_and_nothing_else",
            "a_position_past_the_head_is_refused",
        ],
    ),
];

/// Runs a test program with its new folders on the shared broker.
fn on_kafka(program: &str, embedded_only: &[&str]) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["test", "--locked", "-p", "tally-tests", "--test", program])
        .arg("--target-dir")
        .arg(target_dir())
        .arg(profile())
        .current_dir(workspace())
        .env(ON_KAFKA, Kafka::shared().bootstrap());
    command.args(["--", "--test-threads", "4"]);
    for name in embedded_only {
        command.args(["--skip", name]);
    }
    let output = command.output().expect("cargo runs");
    let [said, errors] = [output.stdout, output.stderr].map(|bytes| {
        let text = String::from_utf8_lossy(&bytes);
        text.into_owned()
    });
    assert!(output.status.success(), "{program}:\n{said}\n{errors}");
    let passed = said.lines().find(|line| line.starts_with("test result:"));
    println!("{program} on Kafka: {}", passed.unwrap_or_default());
    assert!(!said.contains(" 0 passed"), "{said}");
}

/// Protects the promises from a log that keeps them in its own way: what clients see on Kafka is
/// what they see on the embedded log.
#[test]
fn what_holds_on_the_embedded_log_holds_on_kafka() {
    for (program, embedded_only) in PROGRAMS {
        on_kafka(program, embedded_only);
    }
}
