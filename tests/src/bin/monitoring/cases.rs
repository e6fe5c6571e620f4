//! What must make each alert fire, and what the runbooks say ends it.

use std::fs;
use std::net::TcpStream;
use std::str::FromStr as _;

use rustix::process::{Resource as Limited, Rlimit, getrlimit, setrlimit};
use tally_domain::{Counters, Resource};
use tally_tests::kafka::Kafka;
use tally_tests::preload::Word;
use tally_tests::small_disk::SmallDisk;
use tally_tests::tamper::{Lie, tamper};
use tally_tests::{Folder, wait};

use crate::certificate;
use crate::poison;
use crate::scene::{FACTOR, Moment, Row, SLOWER, Scene};

/// A name, and what happens.
pub(crate) type Case = (&'static str, fn() -> Vec<Row>);

/// The longest first, so that they end together.
pub(crate) const CASES: [Case; 14] = [
    ("disk", disk),
    ("fold", fold),
    ("kafka", kafka),
    ("damaged-log", damaged_log),
    ("checkpoint", checkpoint),
    ("restarts", restarts),
    ("invariant", invariant),
    ("reopened", reopened),
    ("slow-disk", slow_disk),
    ("snapshots", snapshots),
    ("tokens", tokens),
    ("descriptors", descriptors),
    ("dead-letter", dead_letter),
    ("key", key),
];

/// A disk that fills up, is full, and is given room again.
fn disk() -> Vec<Row> {
    const LOW: &[&str] = &["TallyDiskSpaceLow", "TallyDiskAlmostFull"];
    const FULL: &[&str] = &[
        "TallyNotReady",
        "TallyAvailabilityFastBurn",
        "TallyAvailabilitySlowBurn",
    ];
    let folder = Folder::local();
    let disk = SmallDisk::mount(&folder, "256m");
    let folder = folder
        .with_data_in(disk.path())
        .with("TALLY__LOG__SEGMENT_SIZE", "4 MiB");
    let mut scene = Scene::start(folder, FACTOR, 100);
    scene.quiet(&[LOW, FULL].concat());
    let filled = Moment::now("a disk of 256 MiB is filled to 97 %");
    let ballast = disk.fill_to(0.03);
    scene.fires(&filled, LOW);
    scene.quiet(FULL);
    let full = Moment::now("the rest of it is filled");
    fs::remove_file(&ballast).expect("it is there");
    let ballast = disk.fill();
    scene.fires(&full, FULL);
    let freed = Moment::now("room is made");
    fs::remove_file(ballast).expect("space is freed");
    scene.clears(&freed, &[LOW, FULL].concat());
    let rows = scene.end();
    drop(disk);
    rows
}

/// A fold that gets nothing to read, and so stands still.
fn fold() -> Vec<Row> {
    const ALERTS: &[&str] = &[
        "TallyNoProgress",
        "TallyFreshnessFastBurn",
        "TallyFreshnessSlowBurn",
    ];
    let mut scene = Scene::start(Folder::local(), FACTOR, 100);
    scene.quiet(ALERTS);
    let blocked = Moment::now("reads of the log hang, and so does the fold");
    scene.control.set(Word::ReadMicros, 3_600_000_000);
    scene.fires(&blocked, ALERTS);
    let freed = Moment::now("reads go on");
    scene.control.set(Word::ReadMicros, 0);
    scene.clears(&freed, ALERTS);
    scene.end()
}

/// The only broker is killed; and a certificate that the settings name is about to expire.
fn kafka() -> Vec<Row> {
    const BROKER: &[&str] = &["TallyKafkaBrokerDown"];
    const CERTIFICATE: &[&str] = &["TallyCertificateExpires"];
    let kafka = Kafka::start(1);
    let folder = kafka.folder();
    let path = certificate::make(folder.root(), "ca.pem", 10);
    let started = Moment::now("a start with a certificate of 10 days");
    let mut scene = Scene::start(
        folder.with(certificate::SETTING, path.display()),
        FACTOR,
        100,
    );
    scene.fires(&started, CERTIFICATE);
    scene.quiet(BROKER);
    let changed = Moment::now("one of 100 days, and a restart");
    certificate::make(scene.folder.root(), "ca.pem", 100);
    scene.stop();
    scene.start_again();
    scene.clears(&changed, CERTIFICATE);
    scene.quiet(BROKER);
    let killed = Moment::now("the only broker is killed");
    kafka.kill(1);
    scene.fires(&killed, BROKER);
    let revived = Moment::now("it is started again");
    kafka.revive(1);
    scene.clears(&revived, BROKER);
    let rows = scene.end();
    drop(kafka);
    rows
}

/// A server that is gone, and one that does not stay.
fn restarts() -> Vec<Row> {
    const DOWN: &[&str] = &["TallyDown"];
    const RESTARTS: &[&str] = &["TallyRestarts"];
    let mut scene = Scene::start(Folder::local(), SLOWER, 100);
    scene.quiet(&[DOWN, RESTARTS].concat());
    let killed = Moment::now("kill -9");
    scene.kill();
    scene.fires(&killed, DOWN);
    let started = Moment::now("a start");
    scene.start_again();
    scene.clears(&started, DOWN);
    scene.quiet(RESTARTS);
    let again = Moment::now("kill -9 and a start, three times");
    for _ in 0..3 {
        scene.kill();
        scene.start_again();
        // A start is seen by its second, and only where it is scraped.
        let started = scene.metric("process_start_time_seconds");
        wait::until("a second", || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            (now.expect("after 1970").as_secs_f64() > started + 1.5).then_some(())
        });
    }
    scene.fires(&again, RESTARTS);
    let steady = Moment::now("it stays up");
    scene.clears(&steady, RESTARTS);
    scene.end()
}

/// A byte of an old file of the log is another one.
fn damaged_log() -> Vec<Row> {
    const ALERTS: &[&str] = &["TallyLogDamaged"];
    let folder = Folder::local()
        .with("TALLY__LOG__SEGMENT_SIZE", "64 KiB")
        .with("TALLY__LOG__CHECK_RATE", "100 MiB");
    let mut scene = Scene::start(folder, FACTOR, 400);
    wait::until("files that are written to no more", || {
        (scene.metric("tally_log_segments") > 4.0).then_some(())
    });
    scene.quiet(ALERTS);
    scene.stop();
    let path = scene.folder.data_dir().join("log/00000000000000000001.log");
    let good = fs::read(&path).expect("the first file");
    let mut bad = good.clone();
    bad[20_000] ^= 1;
    fs::write(&path, bad).expect("the first file");
    let damaged = Moment::now("a byte of an old file is changed, and a start");
    scene.start_again();
    scene.fires(&damaged, ALERTS);
    let restored = Moment::now("the file from a backup, and a restart");
    scene.stop();
    fs::write(&path, good).expect("the first file");
    scene.start_again();
    scene.clears(&restored, ALERTS);
    scene.end()
}

/// The state can't be written down.
fn checkpoint() -> Vec<Row> {
    const ALERTS: &[&str] = &["TallyCheckpointStuck"];
    let folder = Folder::local().with("TALLY__PROJECTOR__CHECKPOINT_INTERVAL", "1s");
    let mut scene = Scene::start(folder, SLOWER, 100);
    scene.holds("changes(tally_projector_last_checkpoint_timestamp_seconds[1m]) > 4");
    scene.quiet(ALERTS);
    let hangs = Moment::now("syncs of the state hang");
    scene.control.set(Word::StateSyncsHang, 1);
    scene.fires(&hangs, ALERTS);
    let goes_on = Moment::now("they go on");
    scene.control.set(Word::StateSyncsHang, 0);
    scene.clears(&goes_on, ALERTS);
    scene.end()
}

/// A number in the state is a lie.
fn invariant() -> Vec<Row> {
    const ALERTS: &[&str] = &["TallyInvariantViolation"];
    let folder = Folder::local().with("TALLY__PROJECTOR__CHECK_INTERVAL", "1s");
    let mut scene = Scene::start(folder, FACTOR, 100);
    scene.quiet(ALERTS);
    scene.stop();
    let likes = Counters {
        likes: 7,
        ..Counters::default()
    };
    let resource = Resource::from_str("quest:42").expect("a resource");
    tamper(&scene.folder, 16, &[Lie::Counters(resource, likes)]);
    let lied = Moment::now("likes of nobody are put into the stored state");
    scene.start_again();
    scene.fires(&lied, ALERTS);
    let named = scene.folder.run(&["verify"]);
    assert!(named.failed().contains("42"), "verify names it");
    let rebuilt = Moment::now("tally rebuild");
    let _ = scene.folder.run(&["rebuild"]).ok();
    scene.clears(&rebuilt, ALERTS);
    scene.end()
}

/// A thread that folds breaks off.
fn reopened() -> Vec<Row> {
    const ALERTS: &[&str] = &["TallyStateReopened"];
    let mut scene = Scene::start(Folder::local(), FACTOR, 100);
    scene.quiet(ALERTS);
    let panicked = Moment::now("a panic in a thread that folds");
    scene.control.panic_at_file_in("tally-fold");
    scene.fires(&panicked, ALERTS);
    let over = Moment::now("nothing more happens");
    scene.clears(&over, ALERTS);
    scene.end()
}

/// A disk that takes its time.
fn slow_disk() -> Vec<Row> {
    const ALERTS: &[&str] = &["TallyAppendSlow"];
    let mut scene = Scene::start(Folder::local(), SLOWER, 50);
    scene.quiet(ALERTS);
    let slow = Moment::now("each sync takes 0.7 s");
    scene.control.set(Word::SyncMicros, 700_000);
    scene.fires(&slow, ALERTS);
    let fast = Moment::now("it takes what it took before");
    scene.control.set(Word::SyncMicros, 0);
    scene.clears(&fast, ALERTS);
    scene.end()
}

/// The place for snapshots is none any more.
fn snapshots() -> Vec<Row> {
    const ALERTS: &[&str] = &["TallySnapshotsFail"];
    let folder = Folder::local();
    let kept = folder.root().join("kept");
    let away = folder.root().join("away");
    fs::create_dir(&kept).expect("a folder");
    let folder = folder
        .with(
            "TALLY__SNAPSHOTS__URL",
            format!("file://{}", kept.display()),
        )
        .with("TALLY__SNAPSHOTS__INTERVAL", "1s");
    let mut scene = Scene::start(folder, FACTOR, 100);
    scene.quiet(ALERTS);
    let lost = Moment::now("a file stands where their folder was");
    fs::rename(&kept, &away).expect("it is ours");
    fs::write(&kept, "no folder").expect("it is ours");
    scene.fires(&lost, ALERTS);
    let back = Moment::now("the folder is back");
    fs::remove_file(&kept).expect("it is ours");
    fs::rename(&away, &kept).expect("it is ours");
    scene.clears(&back, ALERTS);
    scene.end()
}

/// The secret that tokens are checked with is too short to be one.
fn tokens() -> Vec<Row> {
    const ALERTS: &[&str] = &["TallyTokenKeysUnreadable"];
    const SECRET: &str = "a secret of at least thirty-two bytes";
    let folder = Folder::local();
    let secret = folder.root().join("secret");
    fs::write(&secret, SECRET).expect("a file");
    let folder = folder
        .with("TALLY__AUTH__JWT__ALGORITHMS", "HS256")
        .with("TALLY__AUTH__JWT__SECRET_FILES", secret.display());
    let mut scene = Scene::start(folder, SLOWER, 0);
    scene.quiet(ALERTS);
    let broken = Moment::now("the file of a token's secret is too short");
    fs::write(&secret, "short").expect("a file");
    scene.fires(&broken, ALERTS);
    let mended = Moment::now("the file is as it was");
    fs::write(&secret, SECRET).expect("a file");
    scene.clears(&mended, ALERTS);
    scene.end()
}

/// Connections that take the file descriptors away.
fn descriptors() -> Vec<Row> {
    const ALERTS: &[&str] = &["TallyFileDescriptorsLow"];
    // The server keeps 512 for everything but connections.
    const LIMIT: f64 = 4_096.0;
    let folder = Folder::local().through(&["prlimit", "--nofile=4096:4096"]);
    let mut scene = Scene::start(folder, FACTOR, 0);
    scene.quiet(ALERTS);
    let Rlimit { maximum, .. } = getrlimit(Limited::Nofile);
    let ours = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Limited::Nofile, ours).expect("up to what is allowed");
    let taken = Moment::now("3,400 idle connections, with 4,096 file descriptors");
    let api = scene.server.api();
    let idle: Vec<TcpStream> = (0..3_400)
        .map(|_| TcpStream::connect(api).expect("the system's queue takes it"))
        .collect();
    scene.fires(&taken, ALERTS);
    assert!(scene.metric("process_open_fds") > LIMIT * 0.8);
    let closed = Moment::now("they are closed");
    drop(idle);
    scene.clears(&closed, ALERTS);
    scene.end()
}

/// A record that can't be folded, and that nobody has looked at.
fn dead_letter() -> Vec<Row> {
    const ALERTS: &[&str] = &["TallyDeadLetterOld"];
    let folder = Folder::local();
    // Times of appends never go back, so it is the log's first record.
    poison::append_hours_ago(&folder, 2);
    let waits = Moment::now("a start on a log with a record of two hours ago that is no event");
    let mut scene = Scene::start(folder, FACTOR, 0);
    scene.fires(&waits, ALERTS);
    let letters = scene.folder.run(&["dead-letters", "list"]).json_lines();
    let letter = letters.first().expect("a dead letter");
    let place = |name: &str| letter[name].to_string();
    let dropped = Moment::now("tally dead-letters drop");
    let args = [
        "dead-letters",
        "drop",
        "--partition",
        &place("partition"),
        "--offset",
        &place("offset"),
        "--yes",
    ];
    let _ = scene.folder.run(&args).ok();
    scene.clears(&dropped, ALERTS);
    scene.end()
}

/// An API key that holds for a few more days.
fn key() -> Vec<Row> {
    const ALERTS: &[&str] = &["TallyApiKeyExpires"];
    let mut scene = Scene::start(Folder::local(), FACTOR, 0);
    scene.quiet(ALERTS);
    let args = [
        "keys",
        "create",
        "--user",
        "7",
        "--expires-in",
        "6d",
        "--json",
    ];
    let created = scene.folder.run(&args).json_lines();
    let soon = Moment::now("a key of 6 days");
    scene.fires(&soon, ALERTS);
    let id = created
        .first()
        .and_then(|key| key["id"].as_str())
        .expect("a key's id");
    let args = ["keys", "create", "--user", "7", "--expires-in", "90d"];
    let _ = scene.folder.run(&args).ok();
    let revoked = Moment::now("one of 90 days in its place, tally keys revoke");
    let _ = scene.folder.run(&["keys", "revoke", id]).ok();
    scene.clears(&revoked, ALERTS);
    scene.end()
}
