//! A state that is put in the place of another: whatever is cut short when, there is one good state,
//! and never half of each.

use std::path::Path;
use std::sync::Arc;

use tally_domain::{Counters, InteractionType, Outcome};
use tally_log::EventLog;
use tally_log::storage::RealStorage;
use tally_projector::store::values::{Change, EntryKey, bucket_key, buckets_each, merged};
use tally_projector::store::{SledStore, Store as _, layout};
use tally_projector::swap::{self, Incoming};
use tally_projector::{EventFate, Options, Projector, StateError, verify};

use crate::common::{
    FaultyDisk, LIMIT, MemoryLog, Opening, catch_up, event, eventually, folded, history, open,
    options, photograph, resource, user, wait, waiter,
};

/// The state's counters of `resource(3)` say something else.
pub(crate) fn lie(log: &MemoryLog, dir: &Path, counters: Counters) {
    let partitions = log.identity.partitions;
    let (buckets, resource) = (buckets_each(partitions), resource(3));
    let bucket = EntryKey::counters(resource).bucket(buckets);
    let key = bucket_key(resource.partition(partitions), bucket);
    let store = SledStore::open(&dir.join("sled"), 1 << 20).unwrap();
    let sealed = store.get(&key).unwrap().unwrap();
    let change = Change::counters(resource, &counters, buckets);
    let value = merged(layout::open(&key, &sealed).unwrap(), &[change]).unwrap();
    let sealed = layout::seal(&key, value);
    store.put(&key, Some(&sealed)).unwrap();
    store.flush().unwrap();
}

pub(crate) const WRONG: Counters = Counters {
    views: 1_000_000,
    likes: 0,
    shares: 0,
    bookmarks: 0,
    comments: 0,
};

/// A state with a lie in it, and a shadow without.
fn with_shadow(log: &MemoryLog, dir: &Path) {
    log.add_all(&history(0, 300));
    open(log, dir).stop(LIMIT).unwrap();
    lie(log, dir, WRONG);
    open(log, &Incoming::Shadow.dir(dir)).stop(LIMIT).unwrap();
    Incoming::Shadow.set_ready(&RealStorage, dir).unwrap();
}

pub(crate) fn views(projector: &Projector) -> u64 {
    projector
        .read(resource(3), &user(1))
        .unwrap()
        .counters
        .views
}

/// Protects every number after a rebuild: the new state is the fold, who waited meanwhile is told, and
/// the old one is there to come back to.
#[test]
fn a_shadow_takes_its_place_and_the_old_one_comes_back() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    with_shadow(&log, dir.path());
    let projector = open(&log, dir.path());
    catch_up(&projector);
    assert_eq!(views(&projector), WRONG.views);
    // Its event comes when the new state is there already.
    let like = event(77, 5, InteractionType::Like, None);
    let told = waiter(&projector, &like);
    projector.swap(Incoming::Shadow).unwrap();
    log.add(&like);
    let Ok(EventFate::Folded(verdict)) = wait(told) else {
        panic!("not folded");
    };
    assert_eq!(verdict.outcome, Outcome::Applied);
    catch_up(&projector);
    assert_eq!(projector.dump().unwrap(), folded(&log));
    // The same once more, as by somebody who was not told, is refused and changes nothing.
    assert!(
        projector.swap(Incoming::Shadow).is_err(),
        "there is no shadow"
    );
    assert_eq!(projector.dump().unwrap(), folded(&log));
    assert!(swap::recall_previous(&RealStorage, dir.path()).unwrap());
    assert!(
        projector.swap(Incoming::Recalled).is_err(),
        "it is not ready"
    );
    Incoming::Recalled
        .set_ready(&RealStorage, dir.path())
        .unwrap();
    projector.swap(Incoming::Recalled).unwrap();
    catch_up(&projector);
    assert_eq!(views(&projector), WRONG.views);
    let read = projector.read(resource(5), &user(77)).unwrap();
    assert!(read.toggles.liked, "it has caught up");
}

/// Protects the state against a crash or a disk that fails at any step of a swap: the next opening has
/// the old state or the new one, whole, and nothing of one is taken for the other's.
#[test]
fn a_swap_that_is_cut_short_is_finished_or_did_not_begin() {
    let (log, before) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    with_shadow(&log, before.path());
    // Something of an earlier swap is in the way.
    open(&log, &before.path().join("previous"))
        .stop(LIMIT)
        .unwrap();
    let mut seen = [0, 0];
    for step in 0.. {
        let dir = tempfile::tempdir().unwrap();
        photograph(before.path(), dir.path());
        let disk = FaultyDisk::default();
        disk.watch(Some(step));
        let cut_short = swap::swap(&disk, dir.path(), Incoming::Shadow).is_err();
        let projector = open(&log, dir.path());
        catch_up(&projector);
        let is_new = views(&projector) != WRONG.views;
        seen[usize::from(is_new)] += 1;
        if is_new {
            assert_eq!(projector.dump().unwrap(), folded(&log), "step {step}");
            let previous = dir.path().join("previous/sled");
            assert!(previous.exists(), "step {step}");
        } else {
            assert!(cut_short, "step {step}");
        }
        assert!(!dir.path().join("swap").exists(), "step {step}");
        let status = projector.status();
        assert_eq!(
            status.started_at, status.head_at_start,
            "step {step}: nothing was lost"
        );
        if !cut_short {
            break;
        }
    }
    assert!(seen[0] > 0 && seen[1] > 10, "{seen:?}");
}

/// Protects a serving state against a shadow that can't be used: it comes back by itself.
#[test]
fn a_shadow_that_is_refused_is_taken_out_again() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    with_shadow(&log, dir.path());
    let projector = open(&log, dir.path());
    catch_up(&projector);
    let other = MemoryLog::new();
    other.add_all(&history(9, 50));
    Incoming::Shadow.remove(dir.path()).unwrap();
    open(&other, &Incoming::Shadow.dir(dir.path()))
        .stop(LIMIT)
        .unwrap();
    Incoming::Shadow
        .set_ready(&RealStorage, dir.path())
        .unwrap();
    let refused = projector.swap(Incoming::Shadow).unwrap_err().to_string();
    assert!(
        refused.contains("another") || refused.contains("belongs"),
        "{refused}"
    );
    eventually("the old state", || projector.status().caught_up_once);
    assert_eq!(views(&projector), WRONG.views);
}

/// Protects readers: after the state was opened again nobody is shown less than before, while the log can't
/// be read to bring it there, and a position that is waited for is told.
#[test]
fn a_state_that_is_opened_again_shows_no_less_than_before() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let projector = open(&log, dir.path());
    log.add_all(&history(0, 100));
    catch_up(&projector);
    let partition = resource(3).partition(log.identity.partitions);
    let before = projector.read(resource(3), &user(1)).unwrap();
    // Nothing is written down: the next life begins with nothing.
    log.hold();
    projector.reopen(|_| Ok(())).unwrap();
    let read = projector.read(resource(3), &user(1));
    assert!(matches!(read, Err(StateError::Reopening)), "{read:?}");
    let newest = projector.read_newest(resource(3), &user(1)).unwrap();
    assert_eq!(newest.position, None);
    let position = before.position.unwrap();
    assert_eq!(position.partition, partition);
    let mailbox = tally_projector::Mailbox::direct();
    let told = projector.wait_for_position(position, &mailbox).unwrap();
    log.release();
    wait(told).unwrap();
    assert_eq!(projector.read(resource(3), &user(1)).unwrap(), before);
}

/// Protects a server whose state can't be opened again for now: its status asks for another try, which
/// finds everything.
#[test]
fn a_state_that_could_not_be_opened_again_is_tried_again() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let projector = open(&log, dir.path());
    log.add_all(&history(0, 100));
    catch_up(&projector);
    let full = || StateError::TimedOut("as the test wants it");
    let error = projector.reopen(|_| Err(full())).unwrap_err();
    assert!(error.passes(), "{error}");
    let status = projector.status();
    assert!(status.restart && status.reopening, "{status:?}");
    projector.reopen(|_| Ok(())).unwrap();
    catch_up(&projector);
    assert_eq!(projector.dump().unwrap(), folded(&log));
    assert!(projector.status().failure.is_none());
}

/// Protects every proof: over random histories, with keys, the state as it was folded step by step,
/// written down and dropped, is what a fold of the log alone comes to, partition by partition; and a
/// lie is found.
#[test]
fn a_state_is_its_own_proof() {
    for seed in 0..20 {
        let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
        let opening = Opening::with(Options {
            checkpoint_changes: 30,
            memory: 4_000,
            ..options()
        });
        let projector = opening.open(&log, dir.path());
        for part in 0..5 {
            log.add_all(&history(seed * 1_000 + part * 50, 50));
            catch_up(&projector);
            if part == 2 {
                projector.checkpoint().unwrap();
            }
        }
        let arc = log.arc();
        for partition in 0..log.identity.partitions {
            let stored = projector.dump_partition(partition).unwrap();
            let fold =
                verify::fold_partition(arc.as_ref(), partition, stored.next_offset, &mut |_| true);
            let fold = fold.unwrap();
            assert_eq!(verify::differences(&stored, &fold), []);
            assert_eq!(stored.digest(), fold.digest());
        }
        projector.stop(LIMIT).unwrap();
        drop(projector);
        if projector_has(&arc, 3) {
            lie(&log, dir.path(), WRONG);
            let projector = open(&log, dir.path());
            let partition = resource(3).partition(log.identity.partitions);
            let stored = projector.dump_partition(partition).unwrap();
            let fold =
                verify::fold_partition(arc.as_ref(), partition, stored.next_offset, &mut |_| true);
            assert_eq!(verify::differences(&stored, &fold.unwrap()).len(), 1);
        }
    }
}

/// Whether the log has events of that resource.
fn projector_has(log: &Arc<dyn EventLog>, id: u64) -> bool {
    let partitions = log.identity().partitions;
    let partition = resource(id).partition(partitions);
    let place = usize::try_from(partition).unwrap();
    let head = log.head().unwrap()[place];
    let fold = verify::fold_partition(log.as_ref(), partition, head, &mut |_| true).unwrap();
    fold.counters
        .iter()
        .any(|(found, _)| *found == resource(id))
}

/// Protects an operator's trust in a state that nobody compares: likes that are not the number of users
/// are found while it is used, and a right state is found right.
#[test]
fn invariants_are_checked_while_the_state_is_used() {
    let often = || {
        Opening::with(Options {
            check_interval: std::time::Duration::from_millis(1),
            ..options()
        })
    };
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.add_all(&history(0, 300));
    let opening = often();
    let projector = opening.open(&log, dir.path());
    catch_up(&projector);
    let passed = "tally_projector_invariants_checked_timestamp_seconds";
    eventually("a pass", || opening.gauge(passed) > 0.0);
    let violations = "tally_projector_invariant_violations_total";
    projector.stop(LIMIT).unwrap();
    drop(projector);
    assert_eq!(opening.counted(violations), 0);
    lie(
        &log,
        dir.path(),
        Counters {
            likes: 1_000,
            ..WRONG
        },
    );
    let opening = often();
    let projector = opening.open(&log, dir.path());
    eventually("a violation", || opening.counted(violations) > 0);
    assert!(
        projector.status().failure.is_none(),
        "it is said, and serves on"
    );
}
