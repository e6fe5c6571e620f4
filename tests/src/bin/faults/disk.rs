//! Disks: full, failing, hanging, read-only.

use std::fs;
use std::path::Path;

use tally_tests::Folder;
use tally_tests::small_disk::SmallDisk;

use crate::scene::{Row, Scene};
use tally_tests::preload::Word;

/// Promise 1 on a full disk: refused, not lost; and it goes on by itself.
pub(crate) fn full(folder: Folder) -> Row {
    let disk = SmallDisk::mount(&folder, "64m");
    let folder = folder
        .with_data_in(disk.path())
        .with("TALLY__LOG__SEGMENT_SIZE", "4 MiB");
    let mut scene = Scene::start(folder);
    let ballast = disk.fill();
    scene.answer(503);
    scene.not_ready("disk_full");
    scene.says("No space left");
    scene.reads_go_on();
    fs::remove_file(ballast).expect("space is freed");
    scene.server.wait_until_ready();
    let row = scene.end();
    drop(disk);
    row
}

/// After a failed sync nothing is known of the pages: no append is taken until a restart.
pub(crate) fn failed_sync(folder: Folder) -> Row {
    let mut scene = Scene::start(folder);
    scene.control.set(Word::SyncErrors, 1);
    scene.answer(503);
    scene.not_ready("log_failed");
    scene.says("Input/output error");
    // The disk works again, and still nothing is taken.
    scene.answers(100);
    scene.answer(503);
    scene.reads_go_on();
    scene.restart();
    scene.end()
}

/// A write that fails is of known fate.
pub(crate) fn failed_write(folder: Folder) -> Row {
    let mut scene = Scene::start(folder);
    scene.control.set(Word::WriteErrno, 5);
    scene.answer(503);
    scene.not_ready("log_failed");
    scene.says("Input/output error");
    scene.reads_go_on();
    scene.control.set(Word::WriteErrno, 0);
    scene.restart();
    scene.end()
}

/// A disk that hangs: who waits is told in time, nothing piles up, and it goes on when it does.
pub(crate) fn stalled(folder: Folder) -> Row {
    let folder = folder.with("TALLY__MANAGEMENT__STALLED_AFTER", "2s");
    let mut scene = Scene::start(folder);
    let before = scene.server.resident_bytes();
    scene.control.set(Word::SyncsHang, 1);
    scene.not_ready("stalled");
    scene.says("stalled");
    scene.answer(503);
    scene.reads_go_on();
    let grown = scene.server.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "it grew by {grown} bytes");
    scene.control.set(Word::SyncsHang, 0);
    scene.end()
}

/// Read-only file systems are refused at start.
pub(crate) fn read_only(folder: Folder) -> Row {
    let disk = SmallDisk::mount(&folder, "64m");
    let folder = folder.with_data_in(disk.path());
    let mut scene = Scene::start(folder);
    scene.stop();
    disk.remount("ro");
    scene.refuses_to_start(&["Read-only", "data"]);
    disk.remount("rw");
    scene.restart();
    let row = scene.end();
    drop(disk);
    row
}

/// A folder that belongs to somebody else is refused at start.
pub(crate) fn no_permission(folder: Folder) -> Row {
    // Root may do everything but for this; nobody else needs it.
    let folder = folder.through(&[
        "setpriv",
        "--bounding-set=-dac_override,-dac_read_search",
        "--inh-caps=-all",
    ]);
    let mut scene = Scene::start(folder);
    scene.stop();
    let data = scene.folder.data_dir();
    let log = data.join("log");
    allow(&log, 0o000);
    scene.refuses_to_start(&["ermission denied", "log"]);
    allow(&log, 0o700);
    scene.restart();
    scene.end()
}

fn allow(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the folder is ours");
}
