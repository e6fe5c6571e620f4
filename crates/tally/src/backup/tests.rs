//! Backups taken, damaged, cut short and restored, on a disk that forgets.
//!
//! `TALLY_BACKUP_DAMAGES` sets how many damages are tried (800), `TALLY_BACKUP_SEED` which (7).

use std::sync::Arc;
use std::time::Duration;

use tally_domain::{EventTime, Resource, ResourceType, UserId};
use tally_ingress::auth::KeysFile;
use tally_ingress::catalogue::Catalogue;
use tally_log::embedded::{EmbeddedLog, EmbeddedOptions, LogView};
use tally_log::simulation::{Chance, SimDisk};
use tally_log::storage::Storage;
use tally_log::{EventLog, LogMetrics, NewRecord, blocking};

use super::manifest::Manifest;
use super::*;
use crate::data_dir::{RESTORING, refuse_unfinished};
use crate::test_events;

const PARTITIONS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(60);

fn data() -> &'static Path {
    Path::new("/data")
}

fn backup() -> &'static Path {
    Path::new("/backup")
}

fn restored() -> &'static Path {
    Path::new("/restored")
}

/// Nobody watches.
struct Silent;

impl Watch for Silent {
    fn begins(&mut self, _: Step, _: u64) {}
    fn moved(&mut self, _: u64) {}
}

/// An installation that is written.
struct Writing {
    disk: SimDisk,
    interactions: Arc<dyn EventLog>,
    catalogue: Arc<dyn EventLog>,
}

fn open(disk: &SimDisk, dir: &Path, partitions: u32) -> Arc<dyn EventLog> {
    let options = EmbeddedOptions {
        partitions,
        segment_bytes: 4096,
        ..EmbeddedOptions::default()
    };
    let metrics = LogMetrics::unregistered().unwrap();
    let storage = Arc::new(disk.clone());
    let (log, recovery) = EmbeddedLog::open(storage, dir, "test", options, &metrics).unwrap();
    assert_eq!(recovery.cut_bytes, 0, "{recovery:?}");
    Arc::new(log)
}

impl Writing {
    /// Opens the installation in `dir`.
    fn at(disk: &SimDisk, dir: &Path) -> Self {
        Self {
            disk: disk.clone(),
            interactions: open(disk, &dir.join(LOG), PARTITIONS),
            catalogue: open(disk, &dir.join(CATALOGUE), 1),
        }
    }

    /// Records so many events, a few at once, and makes their resources known.
    fn record(&self, numbers: std::ops::Range<u64>) {
        let records: Vec<_> = numbers.map(event).collect();
        let resources = (0..17).map(|id| Resource::new(ResourceType::Quest, id).unwrap());
        let catalogue = Catalogue::open(Arc::clone(&self.catalogue)).unwrap();
        catalogue.add(&resources.collect::<Vec<_>>()).unwrap();
        for some in records.chunks(4) {
            let answered = blocking::append(self.interactions.as_ref(), some.to_vec()).unwrap();
            let results = answered.recv_timeout(PATIENCE).unwrap();
            assert!(results.iter().all(Result::is_ok), "{results:?}");
        }
    }

    /// As a backup beside it sees it now.
    fn now(&self) -> Installation {
        let view = |folder: &str, log: &Arc<dyn EventLog>| {
            let metrics = LogMetrics::unregistered().unwrap();
            let storage = Arc::new(self.disk.clone());
            let view = LogView::open(storage, &data().join(folder), "view", &metrics).unwrap();
            view.advance(&log.head().unwrap()).unwrap();
            view
        };
        Installation {
            at: EventTime::from_millis(1),
            interactions: view(LOG, &self.interactions),
            catalogue: view(CATALOGUE, &self.catalogue),
            keys: Some(data().join(KEYS)),
        }
    }

    fn close(self) {
        self.interactions.close(PATIENCE).unwrap();
        self.catalogue.close(PATIENCE).unwrap();
    }
}

fn event(number: u64) -> NewRecord {
    test_events::event(number, 1_000 + number, PARTITIONS)
}

/// A disk with an installation of so many events that is closed.
fn closed(events: u64) -> SimDisk {
    let disk = SimDisk::default();
    disk.be_quiet();
    let writing = Writing::at(&disk, data());
    writing.record(0..events);
    keys(&disk, data())
        .create(&UserId::new("42").unwrap())
        .unwrap();
    writing.close();
    disk
}

/// A disk with a backup of it.
fn with_backup(events: u64) -> (SimDisk, Proof) {
    let disk = closed(events);
    let writing = Writing::at(&disk, data());
    let (_, proof) = take(&storage(&disk), &writing.now(), backup(), &mut Silent).unwrap();
    writing.close();
    (disk, proof)
}

fn storage(disk: &SimDisk) -> Arc<dyn Storage> {
    Arc::new(disk.clone())
}

fn keys(disk: &SimDisk, dir: &Path) -> KeysFile {
    KeysFile::on(storage(disk), dir.join(KEYS))
}

/// As the command does it, which locks the folder before.
fn put_back(disk: &SimDisk) -> Result<Restored, BackupError> {
    let manifest = Manifest::read(disk, backup())?;
    let made = disk.create_dir_all(restored());
    made.map_err(BackupError::io("made", restored()))?;
    let from = (backup(), &manifest);
    restore(&storage(disk), from, restored(), &mut Silent)
}

fn files(disk: &SimDisk, dir: &Path) -> Vec<PathBuf> {
    let mut files = disk.files();
    files.retain(|file| file.starts_with(dir));
    files
}

/// Protects everybody who backs up beside a running server: what came before is in it, what came
/// meanwhile is not, a log can be written on, and the keys hold.
#[test]
fn what_was_there_comes_back_and_goes_on() {
    let disk = closed(100);
    let writing = Writing::at(&disk, data());
    writing.record(100..150);
    let now = writing.now();
    // The writer goes on to another file meanwhile.
    writing.record(150..250);
    let (manifest, taken) = take(&storage(&disk), &now, backup(), &mut Silent).unwrap();
    assert_eq!(manifest.logs.events(), 150);
    assert_eq!(taken.resources, 17);
    assert!(manifest.has_keys());
    assert_eq!(Manifest::read(&disk, backup()).unwrap(), manifest);
    writing.close();

    let back = put_back(&disk).unwrap();
    assert!(back.compared);
    assert_eq!(back.proof, taken);
    assert!(!disk.exists(&restored().join(RESTORING)).unwrap());
    assert_eq!(
        keys(&disk, restored()).list().unwrap(),
        keys(&disk, data()).list().unwrap()
    );
    let again = Writing::at(&disk, restored());
    assert_eq!(
        again.interactions.identity().id,
        manifest.logs.interactions.id
    );
    assert_eq!(
        again.interactions.head().unwrap(),
        manifest.logs.interactions.next_offsets
    );
    // The same events once more come to the same state as without a backup between.
    again.record(150..250);
    again.close();
    let (one, other) = (Writing::at(&disk, restored()), Writing::at(&disk, data()));
    let heads = [&one, &other].map(|writing| writing.interactions.head().unwrap());
    assert_eq!(heads[0], heads[1]);
}

/// Protects the data that are there, and a backup from being mixed with another.
#[test]
fn folders_that_are_used_are_refused() {
    let (disk, _) = with_backup(20);
    let writing = Writing::at(&disk, data());
    let again = take(&storage(&disk), &writing.now(), backup(), &mut Silent);
    let again = again.map(|_| ()).unwrap_err().to_string();
    assert!(again.contains("--to"), "{again}");
    writing.close();
    put_back(&disk).unwrap();
    let before = disk.files();
    let twice = put_back(&disk).unwrap_err().to_string();
    assert!(twice.contains("--data-dir"), "{twice}");
    assert_eq!(disk.files(), before);
    let (disk, _) = with_backup(20);
    disk.delete(&backup().join(manifest::FILE));
    let none = put_back(&disk).unwrap_err().to_string();
    assert!(none.contains("--from"), "{none}");
}

/// Protects everybody who restores: whatever is changed in whichever file of a backup is refused by the
/// file's name, and nothing is written.
#[test]
fn a_damaged_backup_is_refused_by_the_file() {
    let (disk, _) = with_backup(200);
    let all = files(&disk, backup());
    assert!(all.len() > 6, "{all:?}");
    let number = |name, default| {
        let text = std::env::var(name);
        text.map_or(default, |text| text.parse().unwrap())
    };
    let mut chance = Chance::new(number("TALLY_BACKUP_SEED", 7));
    let rounds = usize::try_from(number("TALLY_BACKUP_DAMAGES", 800)).unwrap();
    for round in 0..rounds {
        let disk = disk.copy();
        let file = &all[round % all.len()];
        let kind = chance.below(8);
        if kind == 0 {
            disk.delete(file);
        } else {
            disk.edit(file, |bytes| match kind {
                1 => bytes.truncate(chance.below(bytes.len())),
                2 => bytes.push(0),
                3 => {
                    let from = chance.below(bytes.len());
                    let before = bytes.clone();
                    bytes[from..].fill(0);
                    if *bytes == before {
                        bytes[from] ^= 1;
                    }
                }
                _ => {
                    let place = chance.below(bytes.len());
                    bytes[place] ^= 1 << chance.below(8);
                }
            });
        }
        let why = put_back(&disk)
            .map(|_| ())
            .expect_err("it is damaged")
            .to_string();
        let name = file.file_name().unwrap().to_string_lossy();
        assert!(why.contains(&*name), "round {round}: {why}");
        assert_eq!(
            files(&disk, restored()),
            Vec::<PathBuf>::new(),
            "round {round}"
        );
    }
}

/// Protects a restore against a disk that damages what it writes, behind every checksum of the backup:
/// the folder stays closed.
#[test]
fn what_is_not_as_it_was_written_is_never_opened() {
    let (disk, _) = with_backup(200);
    let at = disk.clone();
    let first = restored().join(LOG).join("00000000000000000001.log");
    disk.set_fault(move |path, op| {
        // The folder is synced after all of it was copied, and before it is proven.
        if path == restored().join(LOG) && op == tally_log::simulation::Op::SyncDir {
            return Some(std::io::ErrorKind::Other);
        }
        None
    });
    put_back(&at).unwrap_err();
    disk.heal();
    refuse_unfinished(&disk, restored()).unwrap_err();
    disk.edit(&first, |bytes| bytes[700] ^= 1);
    let manifest = Manifest::read(&disk, backup()).unwrap();
    let proven = proof::prove(&storage(&disk), restored(), &manifest.logs, 0, &mut Silent);
    let why = proven.unwrap_err().to_string();
    assert!(why.contains("00000000000000000001.log"), "{why}");
    put_back(&disk).unwrap();
    refuse_unfinished(&disk, restored()).unwrap();
}

/// Protects whoever relies on a backup: of a log that is damaged there is none, and the place is named.
#[test]
fn a_damaged_log_gives_no_backup() {
    let whole = closed(200);
    for file in [
        "log/00000000000000000002.log",
        "catalogue/00000000000000000001.log",
        KEYS,
    ] {
        let disk = whole.copy();
        disk.edit(&data().join(file), |bytes| bytes[200] ^= 1);
        let writing = Writing::at(&disk, data());
        let taken = take(&storage(&disk), &writing.now(), backup(), &mut Silent);
        let why = taken.map(|_| ()).unwrap_err().to_string();
        let name = file.rsplit('/').next().unwrap();
        assert!(why.contains(name), "{why}");
        assert!(!disk.exists(&backup().join(manifest::FILE)).unwrap());
        writing.close();
    }
}

/// Protects the proof at the end: a copy that folds to anything else than the backup says stays closed, and
/// only a digest of another version of the fold is not compared.
#[test]
fn a_restore_that_folds_to_another_state_stays_closed() {
    let (disk, _) = with_backup(20);
    let rewritten = |digest: String| {
        let disk = disk.copy();
        let mut manifest = Manifest::read(&disk, backup()).unwrap();
        disk.delete(&backup().join(manifest::FILE));
        manifest.digest = digest;
        manifest.write(&disk, backup()).unwrap();
        (put_back(&disk), disk)
    };
    let (other, at) = rewritten(tally_domain::Digest::default().to_string());
    let why = other.unwrap_err().to_string();
    assert!(why.contains("folds to"), "{why}");
    refuse_unfinished(&at, restored()).unwrap_err();
    let (older, at) = rewritten(format!("v1:{}", "0".repeat(64)));
    assert!(!older.unwrap().compared);
    refuse_unfinished(&at, restored()).unwrap();
}

/// Runs something on a copy of a disk that crashes after ever more changes, until it does not, and
/// shows what a crash left, in several ways.
fn crashed(
    disk: &SimDisk,
    run: impl Fn(&SimDisk) -> bool,
    look: impl Fn(usize, &SimDisk),
) -> usize {
    for changes in 0.. {
        let disk = disk.copy();
        disk.be_quiet();
        disk.crash_after(changes);
        let done = run(&disk);
        if !disk.has_crashed() {
            assert!(done);
            return changes;
        }
        look(changes, &disk.after_kill());
        for seed in 0..6 {
            let seed = seed + 1_000 * u64::try_from(changes).unwrap();
            look(changes, &disk.after_crash(seed));
        }
    }
    unreachable!("it ends once it does not crash")
}

/// Protects whoever trusts that there is a backup: killed or without power at any moment, what is left is
/// no backup, or all of it.
#[test]
fn a_backup_that_is_cut_short_is_none() {
    let disk = closed(60);
    let taken = |disk: &SimDisk| {
        let metrics = LogMetrics::unregistered().unwrap();
        let view = |folder: &str, heads: &[u64]| {
            let dir = data().join(folder);
            let view = LogView::open(storage(disk), &dir, "view", &metrics).unwrap();
            view.advance(heads).unwrap();
            view
        };
        let report = |folder: &str| {
            let dir = data().join(folder);
            tally_log::embedded::check_copy(disk, &dir).unwrap().heads
        };
        let from = Installation {
            at: EventTime::from_millis(1),
            interactions: view(LOG, &report(LOG)),
            catalogue: view(CATALOGUE, &report(CATALOGUE)),
            keys: Some(data().join(KEYS)),
        };
        take(&storage(disk), &from, backup(), &mut Silent)
    };
    let whole = taken(&disk.copy()).unwrap().1;
    let crashes = crashed(
        &disk,
        |disk| taken(disk).is_ok(),
        |changes, disk| match put_back(disk) {
            Ok(back) => assert_eq!(back.proof, whole, "after {changes} changes"),
            Err(BackupError::NoBackup { .. }) => {}
            Err(other) => panic!("after {changes} changes: {other}"),
        },
    );
    assert!(crashes > 20, "{crashes}");
}

/// Protects everybody from half an installation: killed or without power at any moment of a restore, the
/// folder has nothing, or nobody opens it, or all is there; and a restore after that ends well.
#[test]
fn a_restore_that_is_cut_short_serves_nothing() {
    let (disk, proof) = with_backup(60);
    let crashes = crashed(
        &disk,
        |disk| put_back(disk).is_ok(),
        |changes, disk| {
            let opens = refuse_unfinished(disk, restored()).is_ok();
            let some = !files(disk, restored()).is_empty();
            if opens && some {
                let manifest = Manifest::read(disk, backup()).unwrap();
                let found =
                    proof::prove(&storage(disk), restored(), &manifest.logs, 0, &mut Silent);
                assert_eq!(found.unwrap(), proof, "after {changes} changes");
                let twice = put_back(disk).map(|_| ()).unwrap_err();
                assert!(matches!(twice, BackupError::Taken { .. }), "{twice}");
            } else {
                let back = put_back(disk).unwrap();
                assert_eq!(back.proof, proof, "after {changes} changes");
                refuse_unfinished(disk, restored()).unwrap();
            }
        },
    );
    assert!(crashes > 20, "{crashes}");
}
