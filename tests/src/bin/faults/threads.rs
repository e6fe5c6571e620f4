//! A panic in one thread after the other, of those that every server on files has and that do
//! something on their own which a fault can be put into: writer and checker of the log, fold,
//! checkpoint, keys, catalogue, readiness, requests. The process says so, and is not ready until
//! somebody restarts it, or goes on whole, with its state opened again where that may be half done; it
//! never lives on by half in silence. Threads of Kafka's log, of token keys and of what is read or sent beside these are not
//! here.

use tally_tests::{Folder, Request, wait};

use crate::scene::{Row, Scene};
use tally_tests::preload::Word;

/// The thread that writes and syncs the log.
pub(crate) fn writer(folder: Folder) -> Row {
    let mut scene = Scene::start(folder);
    scene.control.panic_at_file_in("interactions-writer");
    scene.answer(503);
    scene.not_ready("log_failed");
    scene.says("panicked");
    scene.restart();
    scene.end()
}

/// A thread that folds: what it left half done is forgotten, and folded again.
pub(crate) fn fold(folder: Folder) -> Row {
    // Nobody may be forgotten; how long it takes is the machine's.
    let mut scene = Scene::start(folder.with("TALLY__PROJECTOR__WAIT_LIMIT", "30s"));
    scene.control.panic_at_file_in("tally-fold");
    scene.says("panicked");
    scene.opened_again();
    scene.answer(200);
    scene.server.wait_until_ready();
    scene.still_ready();
    scene.end()
}

/// The thread that looks through the old files of the log.
pub(crate) fn patrol(folder: Folder) -> Row {
    let folder = folder.with("TALLY__LOG__SEGMENT_SIZE", "4 MiB");
    let mut scene = Scene::start(folder);
    let segments = || {
        scene
            .server
            .metrics()
            .sum("tally_log_segments", &["log=\"interactions\""])
    };
    wait::until("a segment is sealed", || (segments() > 1.0).then_some(()));
    scene.control.panic_at_file_in("interactions-patrol");
    scene.restart();
    scene.load_again();
    scene.says("panicked");
    scene.answer(200);
    scene.still_ready();
    scene.end()
}

/// The thread that writes the state down.
pub(crate) fn checkpoint(folder: Folder) -> Row {
    let folder = folder
        .with("TALLY__PROJECTOR__CHECKPOINT_INTERVAL", "1s")
        .with("TALLY__PROJECTOR__WAIT_LIMIT", "30s");
    let mut scene = Scene::start(folder);
    scene.control.panic_at_file_in("tally-checkpoint");
    scene.says("panicked");
    scene.opened_again();
    scene.answer(200);
    scene.server.wait_until_ready();
    scene.still_ready();
    scene.end()
}

/// The thread that follows the file of keys: a change is seen all the same.
pub(crate) fn keys(folder: Folder) -> Row {
    let mut scene = Scene::start(folder);
    scene.control.panic_at_file_in("tally-keys");
    let created = scene.folder.run(&["keys", "create", "--user", "7"]).ok();
    let key = created
        .split_whitespace()
        .find(|word| word.starts_with("tally_"));
    let key = key.expect("a key").to_owned();
    let api = scene.server.api();
    wait::until("the new key is known", || {
        let request = Request::get("/api/v1/metrics/resources/quest/42/").bearer(&key);
        (request.send(api).status == 200).then_some(())
    });
    scene.answer(200);
    scene.says("panicked");
    scene.still_ready();
    scene.end()
}

/// The thread that follows the catalogue.
pub(crate) fn catalogue(folder: Folder) -> Row {
    let mut scene = Scene::start(folder);
    scene.control.panic_at_file_in("tally-catalogue");
    // It is told that the change is not visible, and the server that it sees none any more.
    let said = scene.folder.run(&["resources", "add", "quest", "43"]);
    scene.not_ready("log_failed");
    scene.says("panicked");
    scene.answer(200);
    assert!(!said.status.success(), "{said:?}");
    scene.restart();
    scene.end()
}

/// The thread that looks whether the service is ready.
pub(crate) fn readiness(folder: Folder) -> Row {
    let mut scene = Scene::start(folder);
    // It looks at the wall clock when it has something to say.
    scene.control.panic_at_wall_clock_in("tally-readiness");
    scene.control.set(Word::SyncsHang, 1);
    scene.says("panicked");
    scene.not_ready("stalled");
    scene.control.set(Word::SyncsHang, 0);
    scene.server.wait_until_ready();
    scene.answer(200);
    scene.still_ready();
    scene.end()
}

/// A thread that serves requests: its connections end, and another takes its place.
pub(crate) fn server(folder: Folder) -> Row {
    let mut scene = Scene::start(folder);
    scene.control.panic_at_clock_in("actix-rt");
    scene.says("panicked");
    scene.answer(200);
    scene.server.wait_until_ready();
    scene.still_ready();
    scene.end()
}
