//! What happens to a process: limits, clocks, signals, another one of its kind.

use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tally_tests::{Folder, wait};

use crate::scene::{Row, Scene};
use tally_tests::preload::Word;

/// One folder, one server.
pub(crate) fn two_servers(folder: Folder) -> Row {
    let mut scene = Scene::start(folder);
    let pid = scene.server.pid().to_string();
    scene.refuses_to_start(&["data", &pid]);
    scene.answer(200);
    scene.still_ready();
    scene.end()
}

/// Connections that use up the file descriptors cost no event, and nobody who is connected.
pub(crate) fn no_descriptors(folder: Folder) -> Row {
    let folder = folder.through(&["prlimit", "--nofile=256:256"]);
    let mut scene = Scene::start(folder);
    let api = scene.server.api();
    let idle: Vec<TcpStream> = (0..400)
        .map(|_| TcpStream::connect(api).expect("the system's queue takes it"))
        .collect();
    scene.answers(2_000);
    scene.still_ready();
    scene.says("open files");
    drop(idle);
    scene.answer(200);
    scene.end()
}

/// No memory is to be had any more: it goes on with what it has, or ends and says so.
pub(crate) fn no_memory(folder: Folder) -> Row {
    let mut scene = Scene::start(folder);
    let pid = Pid::from_raw(i32::try_from(scene.server.pid()).expect("a pid")).expect("a pid");
    let status = fs::read_to_string(format!("/proc/{}/status", scene.server.pid()));
    let status = status.expect("/proc has our child");
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let size = size.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    let size: u64 = size.expect("a number of kB");
    let limit = Some(size << 10);
    let limit = Rlimit {
        current: limit,
        maximum: limit,
    };
    prlimit(Some(pid), Resource::As, limit).expect("our child's limit");
    let api = scene.server.api();
    let connections: Vec<TcpStream> = (0..2_000)
        .filter_map(|_| TcpStream::connect(api).ok())
        .collect();
    let ended = wait::within(Duration::from_secs(5), || scene.server.ended());
    if let Some(ended) = ended {
        assert!(!ended.success(), "{ended}");
        scene.says("memory allocation of");
        scene.no_answer("none: it ended", "none");
    } else {
        scene.answers(500);
        scene.answer(200);
        scene.still_ready();
        scene.note("nothing: it goes on with what it has");
    }
    drop(connections);
    // What is asked of it at the end takes memory too.
    scene.restart();
    scene.end()
}

/// The wall clock is set forward by an hour.
pub(crate) fn clock_forward(folder: Folder) -> Row {
    clock(folder, -3_600, 0)
}

/// The wall clock is set back by an hour.
pub(crate) fn clock_back(folder: Folder) -> Row {
    clock(folder, 0, -3_600)
}

fn clock(folder: Folder, before: i64, after: i64) -> Row {
    let mut scene = Scene::start(folder);
    scene.control.set(Word::ClockSeconds, before);
    scene.answers(500);
    scene.control.set(Word::ClockSeconds, after);
    scene.answers(500);
    scene.answer(200);
    scene.still_ready();
    scene.note("nothing: order is the log's, not the clock's");
    scene.end()
}

/// A stop in the midst of a replay is a clean one, and the next start goes on.
pub(crate) fn stop_in_replay(folder: Folder) -> Row {
    let folder = folder.with("TALLY__LOG__SEGMENT_SIZE", "1 MiB");
    let mut scene = Scene::start(folder);
    scene.answers(8_000);
    scene.stop();
    fs::remove_dir_all(scene.folder.data_dir().join("state")).expect("the state is in a folder");
    scene.control.set(Word::ReadMicros, 400_000);
    scene.spawn();
    scene.not_ready("replaying");
    scene.reads_go_on();
    scene.stop();
    scene.says("stopp");
    scene.no_answer("200 on GET", "503 replaying");
    scene.control.set(Word::ReadMicros, 0);
    scene.restart();
    scene.end()
}

/// A process that stands still and goes on has missed nothing.
pub(crate) fn stopped_and_continued(folder: Folder) -> Row {
    let mut scene = Scene::start(folder);
    let pid = Pid::from_raw(i32::try_from(scene.server.pid()).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::STOP).expect("our child");
    // Longer than a request may wait for the fold.
    let never: Option<()> = wait::within(Duration::from_secs(4), || None);
    assert!(never.is_none());
    kill_process(pid, Signal::CONT).expect("our child");
    scene.answers(500);
    scene.answer(200);
    scene.server.wait_until_ready();
    scene.still_ready();
    scene.note("nothing");
    scene.end()
}
