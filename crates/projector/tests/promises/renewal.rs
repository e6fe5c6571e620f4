//! A state of another fold answers, and says so, while the log is folded anew beside it; whatever is cut short
//! when, there is one good state.

use std::path::Path;
use std::time::Instant;

use tally_domain::{InteractionType, Outcome};
use tally_log::storage::RealStorage;
use tally_projector::store::{layout, values};
use tally_projector::swap::Incoming;
use tally_projector::{EventFate, OpenError, Options, OtherFold, Projector, StateError};

use crate::common::{
    FaultyDisk, LIMIT, MemoryLog, Opening, catch_up, event, folded, history, open, options,
    photograph, refusal, resource, user, wait, waiter,
};
use crate::swap::{WRONG, lie, views};
use crate::whose_state::{damage_value, make_other, make_other_fold, set_aside};

fn serving() -> Opening {
    Opening::with(Options {
        other_fold: OtherFold::Serve,
        ..options()
    })
}

/// One that does not come to its end.
fn slowly() -> Opening {
    Opening::with(Options {
        other_fold: OtherFold::Serve,
        renewal_rate: Some(1),
        ..options()
    })
}

/// A state that another fold has written, whose numbers are others.
fn of_other_fold() -> (MemoryLog, tempfile::TempDir) {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.add_all(&history(0, 300));
    open(&log, dir.path()).stop(LIMIT).unwrap();
    lie(&log, dir.path(), WRONG);
    make_other_fold(&log, dir.path());
    (log, dir)
}

/// Makes it anew, to the end; `false` where the state failed.
fn renew(projector: &Projector) -> bool {
    let until = Instant::now() + LIMIT;
    let done = projector.renew(&mut |_| {
        assert!(Instant::now() < until, "it never ends");
        projector.status().failure.is_none()
    });
    done.unwrap()
}

fn is_renewed(log: &MemoryLog, projector: &Projector, dir: &Path) {
    assert!(!projector.is_stale() && !projector.is_renewing());
    catch_up(projector);
    assert_eq!(projector.dump().unwrap(), folded(log));
    assert!(dir.join("previous/sled").exists());
    assert!(!dir.join("shadow").exists());
    assert_eq!(set_aside(dir), 0);
}

/// Protects whoever updates: the old numbers are there at once, marked, and as of their position; events are
/// taken; and then the numbers are the new fold's, unmarked, without a step back.
#[test]
fn an_old_state_answers_and_says_so_until_the_new_one_does() {
    let (log, dir) = of_other_fold();
    let opening = serving();
    let projector = opening.open(&log, dir.path());
    let stale = |is: f64| {
        projector.refresh_metrics();
        assert_eq!(opening.gauge("tally_projector_stale"), is);
        assert_eq!(projector.status().stale, is > 0.0);
        assert_eq!(projector.is_stale(), is > 0.0);
    };
    stale(1.0);
    assert_eq!(opening.counted("tally_projector_rebuilds_total"), 1);
    let old = projector.read(resource(3), &user(1)).unwrap();
    assert!(old.stale);
    assert_eq!(old.counters, WRONG);
    let fold = folded(&log);
    let toggles = fold.toggles.iter();
    let mut toggles = toggles.filter(|(of, by, _)| (*of, by) == (resource(3), &user(1)));
    assert_eq!(old.toggles, toggles.next().map(|t| t.2).unwrap_or_default());
    let position = old.position.unwrap();
    let place = usize::try_from(position.partition).unwrap();
    assert_eq!(position.offset + 1, fold.positions[place]);
    // However far the new one is: nobody sees it before it takes its place.
    catch_up(&projector);
    let like = event(77, 3, InteractionType::Like, None);
    let told = waiter(&projector, &like);
    log.add(&like);
    let Ok(EventFate::Folded(verdict)) = wait(told) else {
        panic!("not folded");
    };
    assert_eq!(verdict.outcome, Outcome::Applied);
    assert_ne!(verdict.counters.views, WRONG.views, "of the new fold");
    assert_eq!(projector.read(resource(3), &user(1)).unwrap(), old);
    assert_eq!(projector.read_newest(resource(3), &user(1)).unwrap(), old);
    assert!(projector.status().failure.is_none());
    assert!(renew(&projector));
    stale(0.0);
    let new = projector.read(resource(3), &user(77)).unwrap();
    assert!(!new.stale && new.toggles.liked);
    assert!(new.position.unwrap().offset > position.offset);
    is_renewed(&log, &projector, dir.path());
    assert!(renew(&projector), "there is nothing to do");
    projector.stop(LIMIT).unwrap();
    drop(projector);
    // Once.
    let opening = serving();
    let projector = opening.open(&log, dir.path());
    assert!(!projector.is_renewing());
    assert_eq!(opening.replayed(), 0);
}

/// Protects a deployment that is taken back, and one that is ended in between: the old state stays as it was,
/// a stop does not wait for the whole log, and the next start goes on from what there is.
#[test]
fn a_renewal_that_is_ended_goes_on_at_the_next_start() {
    let (log, dir) = of_other_fold();
    let projector = slowly().open(&log, dir.path());
    let before = projector.read(resource(3), &user(1)).unwrap();
    projector.stop(LIMIT).unwrap();
    drop(projector);
    let projector = serving().open(&log, dir.path());
    catch_up(&projector);
    projector.stop(LIMIT).unwrap();
    drop(projector);
    let opening = serving();
    let projector = opening.open(&log, dir.path());
    assert_eq!(projector.read(resource(3), &user(1)).unwrap(), before);
    assert!(renew(&projector));
    assert_eq!(opening.replayed(), 0, "it was all there");
    is_renewed(&log, &projector, dir.path());
}

/// Protects the state against a crash or a disk that fails at any step: the next start has the old one whole
/// and answers from it, or the new one whole.
#[test]
fn a_renewal_that_is_cut_short_at_any_step_ends_well() {
    let (log, before) = of_other_fold();
    let (mut old, mut new) = (0, 0);
    for step in 0.. {
        let dir = tempfile::tempdir().unwrap();
        photograph(before.path(), dir.path());
        let disk = FaultyDisk::default();
        disk.watch(Some(step));
        let mut opening = Opening::on(&disk);
        opening.options.other_fold = OtherFold::Serve;
        let ended = match opening.try_open(&log, dir.path()) {
            Err(_) => false,
            Ok(projector) => {
                catch_up(&projector);
                // As a kill would: nothing is tried again.
                let done = projector.renew(&mut |_| disk.steps().len() <= step);
                done.is_ok_and(|done| done)
            }
        };
        let met = disk.steps().len() > step;
        let projector = serving().open(&log, dir.path());
        if projector.is_renewing() {
            assert_eq!(views(&projector), WRONG.views, "step {step}");
            old += 1;
        } else {
            new += 1;
        }
        assert!(renew(&projector), "step {step}");
        is_renewed(&log, &projector, dir.path());
        assert!(ended || met, "step {step}");
        if !met {
            break;
        }
    }
    assert!(old > 5 && new > 5, "{old} {new}");
}

/// Protects: a record that an older fold kept as a dead letter is folded in its place.
#[test]
fn a_dead_letter_of_the_old_fold_is_folded_in_its_place() {
    let (before, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let now = MemoryLog::with(before.identity.id, before.identity.partitions);
    let mut all = history(0, 50);
    let unread = event(5, 3, InteractionType::Like, None);
    let partition = unread.resource.partition(before.identity.partitions);
    for log in [&before, &now] {
        log.add_all(&all);
    }
    // What this fold does not read is to the older one what this one reads.
    before.add_raw(partition, b"", b"not yet");
    now.add(&unread);
    all = vec![event(5, 3, InteractionType::Unlike, None)];
    for log in [&before, &now] {
        log.add_all(&all);
    }
    let projector = open(&before, dir.path());
    projector.stop(LIMIT).unwrap();
    assert_eq!(projector.dump().unwrap().dead_letters, 1);
    drop(projector);
    make_other_fold(&before, dir.path());
    let projector = serving().open(&now, dir.path());
    assert!(renew(&projector));
    let dump = projector.dump().unwrap();
    assert_eq!(dump, folded(&now));
    assert_eq!(dump.dead_letters, 0);
}

/// Protects readers: an old state that turns out to be damaged is given up, and nobody is shown what is half
/// made.
#[test]
fn a_damaged_old_state_answers_nothing() {
    let (log, dir) = of_other_fold();
    let key = {
        let buckets = values::buckets_each(log.identity.partitions);
        let bucket = values::EntryKey::counters(resource(3)).bucket(buckets);
        values::bucket_key(resource(3).partition(log.identity.partitions), bucket)
    };
    damage_value(dir.path(), &key);
    let projector = slowly().open(&log, dir.path());
    assert!(projector.is_stale());
    let read = projector.read(resource(3), &user(1));
    assert!(matches!(read, Err(StateError::Reopening)), "{read:?}");
    assert!(!projector.is_stale() && projector.is_renewing());
    drop(projector);
    let projector = serving().open(&log, dir.path());
    assert!(renew(&projector));
    is_renewed(&log, &projector, dir.path());
}

/// Protects: a layout that this version does not read, an older or a newer one, is set aside and folded again in
/// its place, as is one whose last checkpoint is not whole; where the log is cut it is refused.
#[test]
fn an_old_state_that_can_not_be_read_is_folded_again_in_its_place() {
    for version in [layout::OLDEST_READ - 1, layout::VERSION + 1] {
        let (log, dir) = of_other_fold();
        make_other(&log, dir.path(), version);
        let projector = serving().open(&log, dir.path());
        assert!(!projector.is_renewing() && !projector.is_stale());
        catch_up(&projector);
        assert_eq!(projector.dump().unwrap(), folded(&log));
        assert_eq!(set_aside(dir.path()), 1);
    }
    let (log, dir) = of_other_fold();
    log.truncate_to_head();
    let error = refusal(serving().try_open(&log, dir.path()));
    assert!(matches!(error, OpenError::OtherFold { .. }), "{error}");
    assert_eq!(set_aside(dir.path()), 0);
}

/// Protects an older state from another log, and a state that is made from a second one that makes it, from
/// snapshots and from a swap.
#[test]
fn what_must_not_be_while_a_state_is_made_anew_is_refused() {
    let (log, dir) = of_other_fold();
    let error = refusal(serving().try_open(&log.older(10), dir.path()));
    assert!(matches!(error, OpenError::AheadOfLog { .. }), "{error}");
    let refusing = Opening::with(Options {
        other_fold: OtherFold::Refuse,
        ..options()
    });
    let error = refusal(refusing.try_open(&log, dir.path()));
    assert!(matches!(error, OpenError::NotThisFold { .. }), "{error}");
    let projector = serving().open(&log, dir.path());
    assert!(projector.swap(Incoming::Shadow).is_err());
    let other = tally_projector::swap::alone(&RealStorage, dir.path()).unwrap();
    assert!(other.is_none(), "nobody else makes one");
    assert!(projector.is_renewing());
}

/// Protects a start after an update, while somebody makes a state beside the one that is used: it is a rebuild and
/// no refusal. Nothing of the other fold is shown then.
#[test]
fn a_start_beside_a_rebuild_folds_the_log_anew() {
    let (log, dir) = of_other_fold();
    let alone = tally_projector::swap::alone(&RealStorage, dir.path()).unwrap();
    assert!(alone.is_some());
    let projector = serving().open(&log, dir.path());
    assert!(!projector.is_stale() && !projector.is_renewing());
    catch_up(&projector);
    assert_eq!(projector.dump().unwrap(), folded(&log));
    assert_eq!(set_aside(dir.path()), 1);
    drop(alone);
    projector.stop(LIMIT).unwrap();
}
