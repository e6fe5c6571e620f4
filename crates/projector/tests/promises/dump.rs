//! Promise 3: a copy of the whole state is the fold of the log up to the copy's own positions,
//! whatever goes on while it is made.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tally_projector::{Options, Projector};

use crate::common::{
    LIMIT, MemoryLog, Opening, catch_up, eventually, folded, folded_below, history, open, options,
};

/// Events and checkpoints go on while copies are made; each must be the fold up to its positions.
fn copies_are_folds(log: &MemoryLog, projector: &Projector) {
    let (done, copies) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut positions = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..200 {
                log.add_all(&history(1_000 + n * 10, 10));
                std::thread::yield_now();
                if n % 50 == 0 {
                    // The second copy from now on began after these events, and ends before others.
                    catch_up(projector);
                    let enough = copies.load(Ordering::Acquire) + 2;
                    eventually("a copy", || copies.load(Ordering::Acquire) >= enough);
                }
            }
            catch_up(projector);
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let dump = projector.dump().unwrap();
            assert_eq!(dump, folded_below(log, &dump.positions));
            positions.push(dump.positions);
            copies.fetch_add(1, Ordering::Release);
        }
    });
    positions.dedup();
    assert!(positions.len() > 2, "no copy was made in between");
    let dump = projector.dump().unwrap();
    assert_eq!(dump, folded(log));
    // The summary is of the same, without a copy.
    let summary = projector.summary().unwrap();
    assert_eq!(summary.digest, dump.digest);
    assert_eq!(summary.positions, dump.positions);
    let count = |many: usize| u64::try_from(many).unwrap();
    assert_eq!(summary.resources, count(dump.counters.len()));
    assert_eq!(summary.toggles, count(dump.toggles.len()));
    assert_eq!(summary.remembered_keys, dump.remembered_keys);
}

/// Protects: a copy made while everything is in memory, and while checkpoints are written.
#[test]
fn a_copy_is_a_fold_up_to_its_positions() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let often = Opening::with(Options {
        checkpoint_changes: 50,
        memory: 3_000,
        ..options()
    });
    copies_are_folds(&log, &often.open(&log, dir.path()));
}

/// Protects: a copy of which some is in the store alone, some in memory alone, and some in both
/// with the store's being older.
#[test]
fn a_copy_joins_memory_and_store() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.add_all(&history(0, 500));
    open(&log, dir.path()).stop(LIMIT).unwrap();
    let projector = open(&log, dir.path());
    assert_eq!(projector.dump().unwrap(), folded(&log));
    copies_are_folds(&log, &projector);
}
