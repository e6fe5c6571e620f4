//! Promise 9, bounded memory, with promises 1, 3 and 4: values leave memory and come back, and
//! nobody can tell by any number.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use tally_domain::{Event, InteractionType, Outcome};
use tally_projector::{EventFate, Options, Projector};
use tokio::sync::oneshot;

use crate::common::{
    FaultyDisk, FaultyStore, LIMIT, MemoryLog, Opening, PARTITIONS, ReadTrap, catch_up, event,
    eventually, folded, history, options, resource, user, verdicts, wait, waiter,
};

#[derive(Debug, Clone)]
enum Doing {
    /// So many events are appended and waited for.
    Append { seed: u64, count: u64 },
    /// They are appended while others read and checkpoints are written.
    AppendAmid { seed: u64 },
    /// A checkpoint fails at this step of it, or is written where it has fewer.
    Checkpoint { fail_at: usize },
    /// The process dies, and another comes.
    Crash,
}

fn doings() -> impl Strategy<Value = Vec<Doing>> {
    let doing = prop_oneof![
        5 => (any::<u32>(), 1u64..80).prop_map(|(seed, count)| Doing::Append {
            seed: seed.into(),
            count,
        }),
        3 => any::<u32>().prop_map(|seed| Doing::AppendAmid { seed: seed.into() }),
        3 => (0usize..16).prop_map(|fail_at| Doing::Checkpoint { fail_at }),
        2 => Just(Doing::Crash),
    ];
    vec(doing, 1..16)
}

/// Room for a dozen values, so that nearly all are dropped as soon as they are written.
fn tiny(disk: &FaultyDisk) -> Opening {
    Opening {
        storage: Arc::new(disk.clone()),
        ..Opening::with(Options {
            memory: 1_000,
            ..options()
        })
    }
}

fn append(log: &MemoryLog, projector: &Projector, seed: u64, count: u64) {
    let events = history(seed, count);
    let waiters: Vec<_> = events
        .iter()
        .map(|event| (event.id, waiter(projector, event)))
        .collect();
    log.add_all(&events);
    let expected: HashMap<_, _> = verdicts(log).into_iter().collect();
    for (id, waiter) in waiters {
        assert_eq!(wait(waiter), Ok(EventFate::Folded(expected[&id])));
    }
}

fn append_amid(log: &MemoryLog, projector: &Projector, seed: u64) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..20 {
                log.add_all(&history(seed + n * 7, 7));
            }
        });
        scope.spawn(|| {
            for event in history(seed, 100) {
                projector.read(event.resource, &event.user).unwrap();
            }
        });
        for _ in 0..3 {
            projector.checkpoint().unwrap();
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Protects: with room for hardly anything, every verdict, every answer and the digest are
    /// those of a fold with all the memory there is, whatever is read, written, fails to be written
    /// or crashes in between.
    #[test]
    fn a_tiny_budget_changes_no_number(doings in doings()) {
        let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
        let disk = FaultyDisk::default();
        let mut projector = tiny(&disk).open(&log, dir.path());
        for doing in doings {
            match doing {
                Doing::Append { seed, count } => append(&log, &projector, seed, count),
                Doing::AppendAmid { seed } => append_amid(&log, &projector, seed),
                Doing::Checkpoint { fail_at } => {
                    disk.watch(Some(fail_at));
                    // One that fails is no harm.
                    let _ = projector.checkpoint();
                    disk.watch(None);
                }
                Doing::Crash => {
                    drop(projector);
                    projector = tiny(&disk).open(&log, dir.path());
                }
            }
            catch_up(&projector);
            prop_assert_eq!(projector.status().failure, None);
            let expected = folded(&log);
            for (resource, counters) in &expected.counters {
                let read = projector.read(*resource, &user(1)).unwrap();
                prop_assert_eq!(read.counters, *counters);
            }
            prop_assert_eq!(projector.dump().unwrap(), expected);
        }
        projector.stop(LIMIT).unwrap();
    }
}

/// Protects: an event whose values are in memory is folded while another partition's wait for the
/// store, and so are answers given.
#[test]
fn the_store_holds_up_nobody_who_does_not_need_it() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.add_all(&history(0, 200));
    crate::common::open(&log, dir.path()).stop(LIMIT).unwrap();
    let one = Opening::with(Options {
        workers: 1,
        ..options()
    });
    let (projector, store) = one.open_faulty(&log, dir.path());
    catch_up(&projector);
    let like = |id| event(1, id, InteractionType::Like, None);
    let hot = like(3);
    let cold = (1_000..).map(like);
    let partition = |event: &tally_domain::Event| event.resource.partition(4);
    let cold = cold
        .into_iter()
        .find(|cold| partition(cold) != partition(&hot));
    let cold = cold.unwrap();
    // From now on it is in memory.
    let told = waiter(&projector, &hot);
    log.add(&hot);
    wait(told).unwrap();

    let trap = store.trap_read();
    let held_up = waiter(&projector, &cold);
    log.add(&cold);
    trap.caught();
    let again = event(1, 3, InteractionType::Unlike, None);
    let told = waiter(&projector, &again);
    log.add(&again);
    let Ok(EventFate::Folded(verdict)) = wait(told) else {
        panic!("not folded");
    };
    assert_eq!(verdict.outcome, Outcome::Applied);
    let view = projector.read(again.resource, &again.user).unwrap();
    assert!(!view.toggles.liked);
    // The cold one's partition can be asked for what is in memory too: its lock is free.
    assert!(projector.checkpoint().is_ok());
    trap.spring();
    drop(store);
    crate::common::eventually("a failure", || projector.status().restart);
    projector.reopen(|_| Ok(())).unwrap();
    assert!(wait(held_up).is_ok());
}

/// How many values one batch of [`views`] has, and what they are counted as, about, in bytes.
const BATCH: u64 = 50;
const BATCH_BYTES: usize = 50 * 150;

/// A view of each of so many resources.
fn views(first: u64, many: u64) -> Vec<Event> {
    (first..first + many)
        .map(|id| event(1, id, InteractionType::View, None))
        .collect()
}

/// Protects: remembered keys, which are never dropped, may take many times the budget: values still
/// have a quarter of it, and while they fit there, none is dropped and no checkpoint comes for it.
#[test]
fn many_remembered_keys_leave_values_their_room() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let memory = 60_000;
    let opening = Opening::with(Options {
        memory,
        ..options()
    });
    let (projector, store) = opening.open_faulty(&log, dir.path());
    let keyed = |key| event(1, 15, InteractionType::View, Some(key));
    log.add_all(&(0..5_000).map(keyed).collect::<Vec<_>>());
    catch_up(&projector);
    assert!(projector.status().memory > 2 * memory);
    projector.checkpoint().unwrap();
    let puts = opening.counted("tally_projector_checkpoint_puts_total");
    for key in 5_000..5_100 {
        log.add(&keyed(key));
        catch_up(&projector);
    }
    let again = opening.counted("tally_projector_checkpoint_puts_total");
    assert_eq!(again, puts, "nothing called for a checkpoint");
    store.fail_reads();
    let read = projector.read(resource(15), &user(2)).unwrap();
    assert_eq!(read.counters.views, 5_100, "it was not dropped");
}

/// Protects the bound on what waits for a checkpoint where checkpoints fail: values count, not the
/// puts that they are packed into.
#[test]
fn what_could_not_be_written_counts_by_values() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let disk = FaultyDisk::default();
    let opening = Opening::on(&disk);
    let projector = opening.open(&log, dir.path());
    let keyed = |key| event(1, 15, InteractionType::View, Some(key));
    log.add_all(&(0..1_000).map(keyed).collect::<Vec<_>>());
    catch_up(&projector);
    assert_eq!(projector.status().changed, 1_001);
    disk.fail_all();
    for _ in 0..3 {
        projector.checkpoint().unwrap_err();
        assert_eq!(projector.status().changed, 1_001);
    }
    disk.watch(None);
    projector.checkpoint().unwrap();
    assert_eq!(projector.status().changed, 0);
}

/// Protects the bound on memory where checkpoints fail: the fold goes on after the first one that
/// does, and waits at twice the budget whatever number of them fails, until one goes well.
#[test]
fn checkpoints_that_fail_do_not_lift_the_bound_on_memory() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let disk = FaultyDisk::default();
    let memory = 100_000;
    let opening = Opening {
        storage: Arc::new(disk.clone()),
        ..Opening::with(Options {
            memory,
            workers: 1,
            ..options()
        })
    };
    let projector = opening.open(&log, dir.path());
    disk.fail_all();
    let taken = || projector.status().memory;
    let mut next = 0;
    while taken() <= 2 * memory {
        log.add_all(&views(next, BATCH));
        next += BATCH;
        let folded = || {
            let next_offsets = projector.status().partitions.into_iter();
            next_offsets.map(|at| at.next_offset).sum::<u64>() == next
        };
        eventually("a fold that waits for no checkpoint", || {
            if taken() > memory && !folded() {
                let _ = projector.checkpoint();
            }
            folded()
        });
    }
    for _ in 0..40 {
        log.add_all(&views(next, BATCH));
        next += BATCH;
        projector.checkpoint().unwrap_err();
    }
    assert!(taken() <= 2 * memory + 2 * BATCH_BYTES, "{}", taken());
    disk.watch(None);
    catch_up(&projector);
    assert_eq!(projector.dump().unwrap(), folded(&log));
}

/// A stored state, opened by one worker on a store that can be held, and one of its values that is
/// in memory.
fn cold(log: &MemoryLog, dir: &std::path::Path) -> (Projector, FaultyStore, Event) {
    log.add_all(&history(0, 200));
    crate::common::open(log, dir).stop(LIMIT).unwrap();
    let one = Opening::with(Options {
        workers: 1,
        ..options()
    });
    let (projector, store) = one.open_faulty(log, dir);
    catch_up(&projector);
    let hot = event(1, 3, InteractionType::Like, None);
    let told = waiter(&projector, &hot);
    log.add(&hot);
    wait(told).unwrap();
    (projector, store, hot)
}

/// Views of so many resources that were never seen, in another partition than `hot`.
fn cold_views(hot: &Event, many: usize) -> Vec<Event> {
    let other = (hot.resource.partition(PARTITIONS) + 1) % PARTITIONS;
    let ids = (1_000..).filter(|id| resource(*id).partition(PARTITIONS) == other);
    let views = ids.map(|id| event(1, id, InteractionType::View, None));
    views.take(many).collect()
}

/// Somebody has a verdict while a read of the store is held up.
fn is_told_before(trap: &ReadTrap, told: oneshot::Receiver<EventFate>) {
    trap.caught();
    assert!(matches!(wait(told), Ok(EventFate::Folded(_))));
    trap.release();
}

/// Protects: an event that is decided is answered at once, also where so much waits for the store that
/// the worker has to wait as well.
#[test]
fn what_is_decided_is_told_before_the_store_is_waited_for() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let (projector, store, hot) = cold(&log, dir.path());
    let trap = store.trap_read();
    let mut events = cold_views(&hot, 1);
    let long = "k".repeat(200);
    for n in 0..20_000 {
        let key = tally_domain::IdempotencyKey::new(format!("{long}-{n}")).unwrap();
        events.push(Event {
            id: tally_domain::EventId::now_v7(),
            idempotency_key: Some(key),
            ..events[0].clone()
        });
    }
    let again = event(1, 3, InteractionType::Unlike, None);
    let told = waiter(&projector, &again);
    events.push(again);
    log.add_all(&events);
    is_told_before(&trap, told);
    catch_up(&projector);
    assert_eq!(projector.dump().unwrap(), folded(&log));
}

/// Protects: what is loaded is folded in portions, so that who waits for the first of many is not
/// answered after the last.
#[test]
fn a_long_backlog_is_loaded_in_portions() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let (projector, store, hot) = cold(&log, dir.path());
    let events = cold_views(&hot, 2_500);
    let trap = store.trap_read_at(2_200);
    let told = waiter(&projector, &events[0]);
    log.add_all(&events);
    is_told_before(&trap, told);
    catch_up(&projector);
    assert_eq!(projector.dump().unwrap(), folded(&log));
}

/// Protects: a stop whose time is over waits for one read of the store at most.
#[test]
fn nothing_more_is_loaded_once_it_is_over() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let (projector, store, hot) = cold(&log, dir.path());
    let trap = store.trap_read();
    log.add_all(&cold_views(&hot, 900));
    trap.caught();
    projector.stop(std::time::Duration::ZERO).unwrap_err();
    trap.release();
    drop(projector);
    assert_eq!(store.reads(), 1);
}
