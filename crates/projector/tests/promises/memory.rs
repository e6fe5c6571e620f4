//! Promise 9, bounded memory, with promises 1, 3 and 4: values leave memory and come back, and
//! nobody can tell by any number.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use tally_domain::{InteractionType, Outcome};
use tally_projector::{EventFate, Options, Projector};

use crate::common::{
    FaultyDisk, LIMIT, MemoryLog, Opening, catch_up, event, folded, history, options, user,
    verdicts, wait, waiter,
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
