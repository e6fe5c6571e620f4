//! Snapshots: the newest that is whole, and the log's tail, are the fold of the whole log; what is not
//! whole is never used.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use tally_domain::InteractionType;
use tally_fuzz::{fuzz, way};
use tally_log::storage::RealStorage;
use tally_projector::snapshot::file;
use tally_projector::store::{Store, StoreError};
use tally_projector::swap::Incoming;
use tally_projector::{OpenError, Options, Projector, SnapshotError, SnapshotName, StateDump};

use crate::common::objects::Folder;
use crate::common::{
    FaultyStore, LIMIT, MemoryLog, Opening, catch_up, event, folded, history, options, refusal,
};

fn keeping(folder: &Folder, keep: usize) -> Opening {
    Opening::with(Options {
        snapshots: Some(folder.snapshots(keep)),
        ..options()
    })
}

/// Takes snapshots; their names.
fn take(projector: &Projector) -> Vec<SnapshotName> {
    let mut names = Vec::new();
    projector
        .take_snapshots(&mut |taken| names.push(taken.name))
        .unwrap();
    names
}

fn all(folder: &Folder, log: &MemoryLog) -> Vec<SnapshotName> {
    let names = folder.snapshots(1).list(log.identity.id).unwrap();
    names.into_values().flatten().collect()
}

/// Two snapshots of each partition, some events apart, and a tail; what the log comes to.
fn with_snapshots(folder: &Folder, log: &MemoryLog) -> StateDump {
    let dir = tempfile::tempdir().unwrap();
    let projector = keeping(folder, 2).open(log, dir.path());
    for part in 0..2 {
        log.add_all(&history(part * 200, 200));
        catch_up(&projector);
        assert_eq!(take(&projector).len(), 4);
    }
    log.add_all(&history(400, 50));
    folded(log)
}

/// Opens a new state, which must be the fold; how many records were replayed.
fn restores(folder: &Folder, log: &MemoryLog, dir: &Path, fold: &StateDump) -> u64 {
    let opening = keeping(folder, 2);
    let projector = opening.open(log, dir);
    catch_up(&projector);
    assert_eq!(projector.dump().unwrap(), *fold);
    let replayed = opening.replayed();
    projector.stop(LIMIT).unwrap();
    drop(projector);
    // And what is written down is that.
    let projector = Opening::default().open(log, dir);
    catch_up(&projector);
    assert_eq!(projector.dump().unwrap(), *fold);
    replayed
}

/// Few, unless `PROPTEST_CASES` says how many.
fn cases() -> ProptestConfig {
    let said = std::env::var("PROPTEST_CASES").is_ok();
    let config = ProptestConfig::default();
    ProptestConfig {
        cases: if said { config.cases } else { 24 },
        failure_persistence: None,
        ..config
    }
}

proptest! {
    #![proptest_config(cases())]

    /// Protects every number after a restore: whatever the history, whenever snapshots were taken, and
    /// however much of the log is gone that they have, the live state, a rebuilt one, and snapshot and tail
    /// are the fold of the whole log, and go on as it would.
    #[test]
    fn snapshot_and_tail_are_the_fold(
        seed in 0..1_000_000_u64,
        parts in prop::collection::vec(0..120_u64, 1..4),
        tail in 0..60_u64,
        letters in 0..3_usize,
        truncated in any::<bool>(),
    ) {
        let (log, kept) = (MemoryLog::new(), tempfile::tempdir().unwrap());
        let (folder, dir) = (Folder::new(kept.path()), tempfile::tempdir().unwrap());
        let projector = keeping(&folder, 2).open(&log, dir.path());
        let mut from = seed;
        for part in parts {
            log.add_all(&history(from, part));
            for letter in 0..letters {
                log.add_raw(u32::try_from(letter).unwrap(), b"key", b"no event");
            }
            from += part;
            catch_up(&projector);
            take(&projector);
        }
        log.add_all(&history(from, tail));
        catch_up(&projector);
        let covered = projector.covered().unwrap();
        let fold = folded(&log);
        prop_assert_eq!(&projector.dump().unwrap(), &fold);
        let rebuilt = tempfile::tempdir().unwrap();
        let rebuilt = Opening::default().open(&log, rebuilt.path());
        catch_up(&rebuilt);
        prop_assert_eq!(&rebuilt.dump().unwrap(), &fold);
        let whole = log.clone_records();
        if truncated {
            log.truncate(&covered);
        }
        let restored = tempfile::tempdir().unwrap();
        restores(&folder, &log, restored.path(), &fold);
        // Keys, letters and toggles too decide what comes next.
        let restored = Opening::default().open(&log, restored.path());
        for more in history(seed, 40) {
            log.add(&more);
            whole.add(&more);
        }
        catch_up(&restored);
        prop_assert_eq!(restored.dump().unwrap(), folded(&whole));
    }
}

/// Protects from a snapshot that is not as it was written: each byte of it is looked at, and the one
/// before is used, or the log.
#[test]
fn a_damaged_one_is_refused_and_the_one_before_is_used() {
    let (log, kept) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let folder = Folder::new(kept.path());
    let fold = with_snapshots(&folder, &log);
    let names = all(&folder, &log);
    let (newest, before) = (names[0], names[1]);
    assert_eq!(newest.partition, before.partition);
    let spool = tempfile::tempdir().unwrap();
    let snapshots = folder.snapshots(2);
    let path = folder.path(&newest.to_string());
    let good = fs::read(&path).unwrap();
    let refused = |what: &str| {
        let error = snapshots.check(&newest, spool.path()).unwrap_err();
        assert!(
            matches!(error, SnapshotError::Damaged { .. }),
            "{what}: {error}"
        );
    };
    snapshots.check(&newest, spool.path()).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&path, &bad).unwrap();
        refused(&format!("byte {at}"));
    }
    for length in (0..good.len()).step_by(7) {
        fs::write(&path, &good[..length]).unwrap();
        refused(&format!("cut at {length}"));
    }
    fs::write(&path, [&good[..], b"x"].concat()).unwrap();
    refused("a byte more");
    fs::copy(folder.path(&before.to_string()), &path).unwrap();
    refused("the one before under its name");
    // The one before is good, and then none is.
    let dir = tempfile::tempdir().unwrap();
    let tail = restores(&folder, &log, dir.path(), &fold);
    let between = newest.next_offset - before.next_offset;
    assert_eq!(tail, 50 + between);
    fs::write(folder.path(&before.to_string()), b"").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let tail = restores(&folder, &log, dir.path(), &fold);
    assert_eq!(tail, 50 + newest.next_offset);
}

/// Protects from half a restore: whatever write of it fails, the next start has the fold.
#[test]
fn a_restore_that_is_cut_short_is_done_again() {
    let (log, kept) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let folder = Folder::new(kept.path());
    let fold = with_snapshots(&folder, &log);
    let mut fails = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        let open = move |dir: &Path| -> Result<Box<dyn Store>, StoreError> {
            let store = FaultyStore::open(dir)?;
            store.fail_at(fails);
            Ok(Box::new(store))
        };
        let opening = keeping(&folder, 2);
        let opened = Projector::open_on(
            Box::new(open),
            log.arc(),
            Arc::new(RealStorage),
            dir.path(),
            opening.options.clone(),
            &opening.registry,
        );
        let cut_short = opened.is_err();
        drop(opened);
        let tail = restores(&folder, &log, dir.path(), &fold);
        assert_eq!(tail, 50, "write {fails}");
        if !cut_short {
            break;
        }
        fails += 1;
    }
    assert!(fails > 20, "{fails}");
}

/// Protects a log whose beginning is gone: it is never taken for the whole, and without snapshots that can
/// be read there is no state.
#[test]
fn without_snapshots_a_truncated_log_is_refused() {
    let (log, kept) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let folder = Folder::new(kept.path());
    let fold = with_snapshots(&folder, &log);
    folder.set_gone(true);
    // The log is whole, and folds without them.
    let dir = tempfile::tempdir().unwrap();
    let opening = keeping(&folder, 2);
    let projector = opening.open(&log, dir.path());
    catch_up(&projector);
    assert_eq!(projector.dump().unwrap(), fold);
    assert_eq!(opening.replayed(), 450);
    drop(projector);
    let covered: Vec<_> = [0, 2, 4, 6]
        .map(|place| all_offsets(&folder, &log)[place])
        .into();
    log.truncate(&covered);
    let dir = tempfile::tempdir().unwrap();
    let error = refusal(keeping(&folder, 2).try_open(&log, dir.path()));
    assert!(matches!(error, OpenError::Snapshots { .. }), "{error:?}");
    let error = refusal(Opening::default().try_open(&log, dir.path()));
    assert!(matches!(error, OpenError::Truncated { .. }), "{error:?}");
    folder.set_gone(false);
    assert_eq!(restores(&folder, &log, dir.path(), &fold), 50);
    // Older ones than the log begins with are no help.
    let newest = all(&folder, &log)[0];
    fs::remove_file(folder.path(&newest.to_string())).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let error = refusal(keeping(&folder, 2).try_open(&log, dir.path()));
    assert!(matches!(error, OpenError::Truncated { .. }), "{error:?}");
}

fn all_offsets(folder: &Folder, log: &MemoryLog) -> Vec<u64> {
    folder.set_gone(false);
    let offsets = all(folder, log);
    folder.set_gone(true);
    offsets.iter().map(|name| name.next_offset).collect()
}

/// Protects what is kept: before anything goes, what stays was read. A damaged one, one of another history
/// or of a log that was put back counts as none, is taken again, and is never restored from.
#[test]
fn what_is_of_no_use_counts_as_none() {
    let (log, kept) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let folder = Folder::new(kept.path());
    let fold = with_snapshots(&folder, &log);
    let before = all(&folder, &log);
    // The log is put back to where the first ones were, and goes on otherwise.
    let back = log.older(60);
    let dir = tempfile::tempdir().unwrap();
    let opening = keeping(&folder, 1);
    let projector = opening.open(&back, dir.path());
    catch_up(&projector);
    assert_eq!(projector.dump().unwrap(), folded(&back));
    back.add_all(&history(9_000, 20));
    catch_up(&projector);
    let taken = take(&projector);
    assert_eq!(taken.len(), 4);
    // Those of the other history are newer by their offsets, and neither pushed these out nor count.
    let covered = projector.covered().unwrap();
    assert_eq!(
        covered,
        taken
            .iter()
            .map(|name| name.next_offset)
            .collect::<Vec<_>>()
    );
    let other = tempfile::tempdir().unwrap();
    assert_eq!(restores(&folder, &back, other.path(), &folded(&back)), 0);
    drop(projector);
    // The log as it was is brought back by what is left of its own.
    let other = tempfile::tempdir().unwrap();
    assert!(restores(&folder, &log, other.path(), &fold) >= 50);
    // A damaged newest one is taken again, and nothing goes for its sake.
    let newest = before[0];
    fs::write(folder.path(&newest.to_string()), b"damaged").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let projector = keeping(&folder, 1).open(&log, dir.path());
    catch_up(&projector);
    let names = take(&projector);
    assert!(names.iter().any(|name| name.partition == newest.partition));
    let other = tempfile::tempdir().unwrap();
    assert_eq!(restores(&folder, &log, other.path(), &fold), 0);
}

/// Protects a rebuilt state from what was wrong before it: where another state has taken its place, all is
/// taken again, and those are the newest.
#[test]
fn a_rebuilt_state_is_taken_again() {
    let (log, kept) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let (folder, dir) = (Folder::new(kept.path()), tempfile::tempdir().unwrap());
    log.add_all(&history(0, 100));
    let shadow = Incoming::Shadow.dir(dir.path());
    let projector = keeping(&folder, 2).open(&log, dir.path());
    catch_up(&projector);
    let wrong = take(&projector);
    assert_eq!(take(&projector), []);
    let made = Opening::default().open(&log, &shadow);
    catch_up(&made);
    made.stop(LIMIT).unwrap();
    drop(made);
    Incoming::Shadow
        .set_ready(&RealStorage, dir.path())
        .unwrap();
    projector.swap(Incoming::Shadow).unwrap();
    // Also by the next life of the service.
    drop(projector);
    let projector = keeping(&folder, 2).open(&log, dir.path());
    catch_up(&projector);
    let right = take(&projector);
    assert_eq!(right.len(), wrong.len());
    for (wrong, right) in wrong.iter().zip(&right) {
        assert_eq!(wrong.next_offset, right.next_offset);
        assert!(wrong < right);
    }
    assert_eq!(take(&projector), []);
}

/// Protects the disk: what a process left on its way when it was killed goes at the next start.
#[test]
fn what_was_on_its_way_goes() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let spool = dir.path().join("snapshots");
    fs::create_dir_all(&spool).unwrap();
    fs::write(spool.join("3.1.2.0"), b"half").unwrap();
    drop(Opening::default().open(&log, dir.path()));
    assert!(!spool.exists());
}

/// Protects a start from a snapshot of any bytes, also where its checksum is right: it is damaged, or what it
/// says is in it.
#[test]
fn fuzz_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshot");
    fuzz(
        "snapshots",
        &["TALLYSN1", "next_offset", "partition"],
        |input| {
            let Some((first, bytes)) = input.split_first() else {
                return 0;
            };
            let mut bytes = bytes.to_vec();
            let sealed = *first != b'a' && bytes.len() > 32;
            if sealed {
                let end = bytes.len() - 32;
                let check = blake3::hash(&bytes[..end]);
                bytes[end..].copy_from_slice(check.as_bytes());
            }
            fs::write(&path, &bytes).unwrap();
            match file::check(&path, "one") {
                Ok((header, _)) => {
                    assert_eq!(
                        SnapshotName::parse(&header.name().to_string()),
                        Some(header.name())
                    );
                    way(format!("whole {sealed}"))
                }
                Err(SnapshotError::Damaged { what, .. }) => way(format!("{sealed} {what}")),
                Err(error) => panic!("{error}"),
            }
        },
    );
}

/// The corpus is made of what is taken. With `FUZZ_WRITE_CORPUS` set to a folder it is written there.
#[test]
fn the_corpus_has_a_snapshot() {
    let kept = tempfile::tempdir().unwrap();
    let (folder, log) = (Folder::new(kept.path()), MemoryLog::new());
    let dir = tempfile::tempdir().unwrap();
    let projector = keeping(&folder, 1).open(&log, dir.path());
    log.add_all(&history(7, 12));
    log.add_raw(0, b"key", b"no event");
    catch_up(&projector);
    let name = take(&projector)[0];
    let bytes = fs::read(folder.path(&name.to_string())).unwrap();
    assert!(file::check(&folder.path(&name.to_string()), "one").is_ok());
    if let Some(to) = std::env::var_os("FUZZ_WRITE_CORPUS") {
        let to = Path::new(&to).join("snapshots");
        fs::create_dir_all(&to).unwrap();
        fs::write(to.join("as-it-is"), [b"a", &bytes[..]].concat()).unwrap();
        fs::write(to.join("sealed"), [b"s", &bytes[..]].concat()).unwrap();
    }
}

/// Protects the place they are kept in, and what may be cut off: so many are kept, what has not moved is
/// not taken again, and the log is covered up to the oldest whole one that is kept.
#[test]
fn the_newest_are_kept_and_cover_the_log() {
    let (log, kept) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let (folder, dir) = (Folder::new(kept.path()), tempfile::tempdir().unwrap());
    let projector = keeping(&folder, 2).open(&log, dir.path());
    assert_eq!(take(&projector), []);
    assert_eq!(projector.covered().unwrap(), [0; 4]);
    let mut names = Vec::new();
    for _ in 0..3 {
        log.add(&event(1, 3, InteractionType::View, None));
        catch_up(&projector);
        let taken = take(&projector);
        let [name] = taken[..] else {
            panic!("{taken:?}");
        };
        names.push(name);
    }
    assert_eq!(take(&projector), []);
    assert_eq!(all(&folder, &log), [names[2], names[1]]);
    let place = usize::try_from(names[0].partition).unwrap();
    let mut covered = [0; 4];
    covered[place] = 2;
    assert_eq!(projector.covered().unwrap(), covered);
    // A damaged one counts as none.
    fs::write(folder.path(&names[1].to_string()), b"").unwrap();
    covered[place] = 3;
    assert_eq!(projector.covered().unwrap(), covered);
    fs::write(folder.path(&names[2].to_string()), b"").unwrap();
    assert_eq!(projector.covered().unwrap(), [0; 4]);
    folder.set_gone(true);
    let error = projector.take_snapshots(&mut |_| {}).unwrap_err();
    assert!(matches!(error, SnapshotError::Objects(_)), "{error:?}");
}
