//! A record that can't be folded, appended as nobody can over HTTP.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use tally_log::embedded::{EmbeddedLog, EmbeddedOptions};
use tally_log::storage::RealStorage;
use tally_log::{EventLog, LogMetrics, NewRecord};
use tally_tests::Folder;
use tally_tests::preload::{Control, Word};

/// Appends one to the log in this folder, that no server holds.
pub(crate) fn append(log: &Path) {
    let metrics = LogMetrics::unregistered().expect("metrics");
    let options = EmbeddedOptions {
        partitions: 16,
        ..EmbeddedOptions::default()
    };
    let opened = EmbeddedLog::open(Arc::new(RealStorage), log, "a log", options, &metrics);
    let (log, _) = opened.expect("the log");
    let (tell, told) = sync_channel(1);
    let record = NewRecord {
        partition: 3,
        key: b"quest:42".to_vec(),
        value: b"no event".to_vec(),
        traceparent: None,
    };
    let done = Box::new(move |results| tell.send(results).expect("somebody waits"));
    log.append(vec![record], done).expect("room");
    assert!(told.recv().expect("an answer").iter().all(Result::is_ok));
    log.close(Duration::from_secs(10)).expect("closed");
}

/// The same in a folder that has no log yet, hours ago: by a process of its own, whose clock is set back.
pub(crate) fn append_hours_ago(folder: &Folder, hours: i64) {
    fs::create_dir(folder.data_dir()).expect("a folder without data");
    let there = Folder::local();
    let (clock, control) = Control::over(there);
    control.set(Word::ClockSeconds, -3_600 * hours);
    let setting = |name| clock.setting(name).expect("the control's setting");
    let program = std::env::current_exe().expect("this program has a path");
    let status = Command::new(program)
        .arg("poison")
        .arg(folder.data_dir().join("log"))
        .env("LD_PRELOAD", setting("LD_PRELOAD"))
        .env("FAULTS_CONTROL", setting("FAULTS_CONTROL"))
        .status();
    assert!(status.expect("this program starts").success());
}
