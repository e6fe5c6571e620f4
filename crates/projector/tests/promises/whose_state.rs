//! Promise 8: state belongs to one log, and what can't be trusted is rebuilt or refused.

use std::path::Path;
use std::time::Duration;

use tally_domain::{InteractionType, LogId};
use tally_projector::OpenError;
use tally_projector::identity::{Fit, Identity};
use tally_projector::store::{SledStore, Store as _, layout};

use crate::common::{
    LIMIT, MemoryLog, Opening, PARTITIONS, catch_up, event, folded, history, open, refusal,
    try_open,
};

/// A log, and its state written down cleanly in a folder.
fn written() -> (MemoryLog, tempfile::TempDir) {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.add_all(&history(0, 200));
    let projector = open(&log, dir.path());
    projector.stop(LIMIT).unwrap();
    (log, dir)
}

fn store(dir: &Path) -> SledStore {
    SledStore::open(&dir.join("sled"), 1 << 20).unwrap()
}

/// How many states were set aside in a folder.
pub(crate) fn set_aside(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir).unwrap();
    names
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("set-aside")
        })
        .count()
}

/// Opens with a log that is not the state's, twice, and gives the refusal; then sees that the
/// right log still finds its state as it was.
fn refused(own: &MemoryLog, other: &MemoryLog, dir: &Path) -> OpenError {
    let first = refusal(try_open(other, dir));
    let second = refusal(try_open(other, dir));
    assert_eq!(first.to_string(), second.to_string());
    let opening = Opening::default();
    let projector = opening.open(own, dir);
    catch_up(&projector);
    assert_eq!(opening.replayed(), 0, "the state was kept");
    assert_eq!(projector.dump().unwrap(), folded(own));
    assert_eq!(set_aside(dir), 0);
    first
}

fn says(error: &OpenError, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

/// Protects: another log's state is refused, with both logs named and what to do.
#[test]
fn another_logs_state_is_refused() {
    let (log, dir) = written();
    let other = MemoryLog::new();
    other.add_all(&history(0, 300));
    let error = refused(&log, &other, dir.path());
    assert!(matches!(error, OpenError::OtherLog { .. }), "{error}");
    let (ours, theirs) = (log.identity.id.to_string(), other.identity.id.to_string());
    says(
        &error,
        &[
            &ours,
            &theirs,
            "restore the log",
            "move the state folder away",
        ],
    );
}

/// Protects: state of another number of partitions is refused, with both numbers and what to do.
#[test]
fn another_number_of_partitions_is_refused() {
    let (log, dir) = written();
    let other = MemoryLog::with(log.identity.id, PARTITIONS + 3);
    let error = refused(&log, &other, dir.path());
    assert!(
        matches!(error, OpenError::OtherPartitionCount { state: 4, log: 7 }),
        "{error}"
    );
    says(
        &error,
        &["4 partitions", "has 7", "move the state folder away"],
    );
}

/// Protects: an older copy of the log is refused, not followed from where it ends.
#[test]
fn a_log_that_ends_before_the_state_is_refused() {
    let (log, dir) = written();
    let error = refused(&log, &log.older(10), dir.path());
    assert!(
        matches!(error, OpenError::AheadOfLog { head: 10, .. }),
        "{error}"
    );
    says(&error, &["ends at 10", "Restore the newest log"]);
}

/// Protects: an older copy that has been appended to since is refused: the same offset holds
/// another event.
#[test]
fn another_history_is_refused() {
    let (log, dir) = written();
    let other = log.older(10);
    other.add_all(&history(200, 400));
    let error = refused(&log, &other, dir.path());
    assert!(matches!(error, OpenError::OtherHistory { .. }), "{error}");
    says(&error, &["another history", "Restore the log", "holds"]);

    // Where the record is no event at all, too.
    let other = log.older(10);
    for partition in 0..PARTITIONS {
        for _ in 0..200 {
            other.add_raw(partition, b"", b"poison");
        }
    }
    let error = refused(&log, &other, dir.path());
    says(&error, &["something that is not an event"]);
}

/// Protects: a log cut past the checkpoint is refused, since events between are gone; one cut
/// exactly at it, or before it, is not.
#[test]
fn a_log_cut_past_the_state_is_refused() {
    let (log, dir) = written();
    let at_the_checkpoint = folded(&log);
    log.truncate_to_head();
    let projector = open(&log, dir.path());
    assert_eq!(projector.dump().unwrap(), at_the_checkpoint);
    log.add_all(&history(200, 50));
    catch_up(&projector);
    drop(projector);

    log.truncate_to_head();
    let error = refusal(try_open(&log, dir.path()));
    assert!(matches!(error, OpenError::Truncated { .. }), "{error}");
    says(
        &error,
        &[
            "the log begins at",
            "are gone",
            "Restore a log that reaches back",
        ],
    );

    // Without any state the beginning is missing just as well.
    let nowhere = tempfile::tempdir().unwrap();
    let error = refusal(try_open(&log, nowhere.path()));
    assert!(
        matches!(error, OpenError::Truncated { next_offset: 0, .. }),
        "{error}"
    );
}

/// Writes an identity as another fold would have.
pub(crate) fn make_other_fold(log: &MemoryLog, dir: &Path) {
    make_other(log, dir, layout::VERSION);
}

/// The same, in another layout.
pub(crate) fn make_other(log: &MemoryLog, dir: &Path, layout_version: u32) {
    let ours = Identity::of(log.identity, tally_domain::Rules::CURRENT);
    let other = Identity {
        fold_version: ours.fold_version + 1,
        layout: layout_version,
        ..ours
    };
    let sealed = layout::seal(layout::IDENTITY, other.to_value().unwrap());
    let store = store(dir);
    store.put(layout::IDENTITY, Some(&sealed)).unwrap();
    store.flush().unwrap();
}

/// Protects: state of another fold version is rebuilt, the old one set aside, not refused.
#[test]
fn another_folds_state_is_rebuilt() {
    let (log, dir) = written();
    make_other_fold(&log, dir.path());
    let opening = Opening::default();
    let projector = opening.open(&log, dir.path());
    catch_up(&projector);
    assert_eq!(projector.dump().unwrap(), folded(&log));
    assert_eq!(opening.replayed(), 200);
    assert_eq!(opening.counted("tally_projector_rebuilds_total"), 1);
    assert_eq!(set_aside(dir.path()), 1);
    projector.stop(LIMIT).unwrap();
    drop(projector);

    // Once.
    let opening = Opening::default();
    let projector = opening.open(&log, dir.path());
    assert_eq!(opening.counted("tally_projector_rebuilds_total"), 0);
    assert!(projector.status().caught_up_once);
}

/// Protects: state of another fold is not thrown away where the log can't bring it back.
#[test]
fn another_folds_state_stays_where_the_log_is_cut() {
    let (log, dir) = written();
    make_other_fold(&log, dir.path());
    log.truncate_to_head();
    let error = refusal(try_open(&log, dir.path()));
    says(&error, &["fold", "reaches back"]);
    assert_eq!(set_aside(dir.path()), 0);
    assert!(store(dir.path()).get(layout::IDENTITY).unwrap().is_some());
}

/// What is wrong with a value.
pub(crate) fn damage_value(dir: &Path, key: &[u8]) {
    let store = store(dir);
    let mut value = store.get(key).unwrap().unwrap();
    value[0] ^= 1;
    store.put(key, Some(&value)).unwrap();
    store.flush().unwrap();
}

/// The keys that a start reads.
fn read_at_start(log: &MemoryLog, dir: &Path) -> Vec<Vec<u8>> {
    let partition = event(1, 15, InteractionType::Like, None)
        .resource
        .partition(log.identity.partitions);
    let mut keys = vec![layout::IDENTITY.to_vec(), layout::partition_key(partition)];
    let prefix = layout::prefix(b'k', partition);
    let scanned = store(dir).scan(&prefix, &mut |key, _| {
        keys.push(key.to_vec());
        Ok(())
    });
    scanned.unwrap();
    assert!(keys.len() > 2);
    keys
}

/// Protects: a damaged value brings a rebuild, where the log is whole; the damaged state is kept
/// for whoever wants to know why.
#[test]
fn damaged_state_is_rebuilt() {
    let (log, dir) = written();
    for (times, key) in (1..).zip(read_at_start(&log, dir.path())) {
        damage_value(dir.path(), &key);
        let opening = Opening::default();
        let projector = opening.open(&log, dir.path());
        catch_up(&projector);
        assert_eq!(opening.replayed(), 200);
        assert_eq!(opening.counted("tally_projector_rebuilds_total"), 1);
        assert_eq!(projector.dump().unwrap(), folded(&log));
        // Two of them at most: each is as large as the state.
        assert_eq!(set_aside(dir.path()), usize::min(times, 2));
        projector.stop(Duration::from_secs(30)).unwrap();
    }
}

/// Protects: of the states set aside the newest stay, by their numbers and not by their letters,
/// and what only looks like one is left alone.
#[test]
fn the_newest_states_set_aside_stay() {
    let (log, dir) = written();
    for name in [
        "set-aside-999",
        "set-aside-1000",
        "set-aside-1000-9",
        "set-aside-1000-10",
        "set-aside-mine",
    ] {
        std::fs::create_dir_all(dir.path().join(name).join("sled")).unwrap();
    }
    make_other_fold(&log, dir.path());
    let projector = open(&log, dir.path());
    catch_up(&projector);
    assert_eq!(set_aside(dir.path()), 3);
    for name in ["set-aside-1000-10", "set-aside-mine"] {
        assert!(dir.path().join(name).exists(), "{name}");
    }
}

/// Protects: a missing value is damage too: keys that were remembered, a partition's place, the
/// identity.
#[test]
fn missing_state_is_rebuilt() {
    let (log, dir) = written();
    for key in read_at_start(&log, dir.path()) {
        let store = store(dir.path());
        store.put(&key, None).unwrap();
        store.flush().unwrap();
        drop(store);
        let projector = open(&log, dir.path());
        catch_up(&projector);
        assert_eq!(projector.dump().unwrap(), folded(&log), "{key:?}");
        projector.stop(Duration::from_secs(30)).unwrap();
    }
}

/// Protects: damaged state is refused where the log can't bring it back, and stays as it is.
#[test]
fn damaged_state_is_refused_where_the_log_is_cut() {
    let (log, dir) = written();
    let keys = read_at_start(&log, dir.path());
    log.truncate_to_head();
    for key in keys {
        damage_value(dir.path(), &key);
        let error = refusal(try_open(&log, dir.path()));
        assert!(matches!(error, OpenError::Irreparable { .. }), "{error}");
        assert_eq!(set_aside(dir.path()), 0);
        damage_value(dir.path(), &key);
    }
    assert!(try_open(&log, dir.path()).is_ok(), "the damage was undone");
}

/// Protects: state that is damaged is still nobody else's: as long as anything of it says so, it is not
/// set aside and folded again from another log, an older one, or one of another history.
#[test]
fn damaged_state_of_another_log_is_refused() {
    let (log, dir) = written();
    let restored = |records| {
        let older = log.older(10);
        older.add_all(&history(200, records));
        older
    };
    type Is = fn(&OpenError) -> bool;
    let others: [(MemoryLog, Is); 3] = [
        (MemoryLog::new(), |error| {
            matches!(error, OpenError::OtherLog { .. })
        }),
        (restored(0), |error| {
            matches!(error, OpenError::AheadOfLog { .. })
        }),
        (restored(400), |error| {
            matches!(error, OpenError::OtherHistory { .. })
        }),
    ];
    let refuses = |is: Is, other: &MemoryLog, what: &str| {
        let error = refusal(try_open(other, dir.path()));
        assert!(is(&error), "{what}: {error}");
        assert_eq!(set_aside(dir.path()), 0, "{what}");
    };
    let mark = dir.path().join("damaged");
    std::fs::write(&mark, "as somebody found").unwrap();
    for (other, is) in &others {
        refuses(*is, other, "a mark");
    }
    std::fs::remove_file(&mark).unwrap();
    for key in read_at_start(&log, dir.path()) {
        damage_value(dir.path(), &key);
        for (other, is) in &others {
            // Only the identity names the log; another one is then shorter, or has other events.
            let is: Is = if key == layout::IDENTITY {
                |error| {
                    let ahead = matches!(error, OpenError::AheadOfLog { .. });
                    ahead || matches!(error, OpenError::OtherHistory { .. })
                }
            } else {
                *is
            };
            refuses(is, other, &format!("{key:?}"));
        }
        damage_value(dir.path(), &key);
    }
    std::fs::write(&mark, "as somebody found").unwrap();
    let opening = Opening::default();
    let projector = opening.open(&log, dir.path());
    catch_up(&projector);
    assert_eq!(projector.dump().unwrap(), folded(&log));
    assert_eq!(opening.counted("tally_projector_rebuilds_total"), 1);
}

/// Protects: state that somebody else has open is refused, not taken for damaged and set aside
/// under the other's hands.
#[test]
fn state_in_use_is_refused() {
    let (log, dir) = written();
    let projector = open(&log, dir.path());
    let error = refusal(try_open(&log, dir.path()));
    assert!(matches!(error, OpenError::Held(_)), "{error}");
    says(&error, &["in use", "stop that first"]);
    assert_eq!(set_aside(dir.path()), 0);
    log.add_all(&history(200, 10));
    catch_up(&projector);
    projector.stop(LIMIT).unwrap();
}

/// Protects: the identity that every state so far has been stamped with is still read.
#[test]
fn the_identity_reads_back() {
    let written = br#"{"log":"0193a6f0-7b3e-7c4a-9d3e-2f1b5c6d7e8f","partitions":16,"fold_version":2,"key_millis":86400000,"key_count":262144,"max_ahead_millis":300000,"layout":3}"#;
    let identity = Identity::from_value(written).unwrap();
    let log = tally_log::LogIdentity {
        id: LogId::parse_str("0193a6f0-7b3e-7c4a-9d3e-2f1b5c6d7e8f").unwrap(),
        partitions: 16,
    };
    assert_eq!(identity, Identity::of(log, tally_domain::Rules::CURRENT));
    assert_eq!(identity.to_value().unwrap(), written);

    // Earlier ones are others, and rebuilt; the first layout did not say so.
    for layout in ["", ",\"layout\":2"] {
        let earlier = format!(
            r#"{{"log":"0193a6f0-7b3e-7c4a-9d3e-2f1b5c6d7e8f","partitions":16,"fold_version":1,"key_millis":86400000,"key_count":262144,"max_ahead_millis":300000{layout}}}"#
        );
        let earlier = Identity::from_value(earlier.as_bytes()).unwrap();
        assert_eq!(earlier.fit(&identity).unwrap(), Fit::OtherFold);
    }
}
