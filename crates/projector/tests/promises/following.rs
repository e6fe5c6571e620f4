//! Promise 6, never silently stuck, and the ways to end: what the log's errors, a clean stop and a
//! sudden end do to the fold and to those who wait for it.

use std::sync::Arc;
use std::time::Duration;

use tally_domain::{InteractionType, Outcome, Position};
use tally_log::ReadError;
use tally_projector::{EventFate, Mailbox, Options, StateError};

use crate::common::{
    FaultyDisk, LIMIT, MemoryLog, Opening, catch_up, event, eventually, folded, history, open,
    options, wait, waiter,
};

/// Protects: a log that can't be read for a while is asked again, with nothing lost and no
/// failure left behind.
#[test]
fn an_unavailable_log_is_asked_again() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let projector = open(&log, dir.path());
    log.fail_reads(Some(ReadError::Unavailable(
        "the broker is away".to_owned(),
    )));
    let events = history(0, 100);
    let last = waiter(&projector, &events[99]);
    log.add_all(&events);
    log.await_failed_reads(2);
    log.fail_reads(None);
    assert!(wait(last).is_ok());
    catch_up(&projector);
    assert_eq!(projector.status().failure, None);
    assert_eq!(projector.dump().unwrap(), folded(&log));
}

/// Protects: a damaged log stops the fold loudly: the status says what and where, those who wait
/// are let go at once, and so are those who come later.
#[test]
fn a_damaged_log_stops_the_fold_and_says_so() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let projector = open(&log, dir.path());
    let events = history(0, 50);
    log.add_all(&events);
    catch_up(&projector);
    let like = event(1, 15, InteractionType::Like, None);
    let waiting = waiter(&projector, &like);
    let nowhere = Position {
        partition: like.resource.partition(log.identity.partitions),
        offset: 1_000,
    };
    let position = projector.wait_for_position(nowhere, &Mailbox::direct());
    log.fail_reads(Some(ReadError::Damaged {
        place: "segment 7, byte 42".to_owned(),
        what: "its checksum is wrong".to_owned(),
    }));
    assert!(wait(waiting).is_err());
    assert!(wait(position.unwrap()).is_err());
    assert!(wait(waiter(&projector, &like)).is_err(), "a later one");
    assert_eq!(projector.status().waiters, 0);
    let failure = projector.status().failure.unwrap();
    for part in ["segment 7, byte 42", "its checksum is wrong", "backup"] {
        assert!(failure.contains(part), "{failure}");
    }
    let stopped = projector.stop(LIMIT);
    assert!(matches!(stopped, Err(StateError::Failed(why)) if why == failure));

    // What was applied before is still answered, and nothing is wrong after a repair.
    let view = projector.read(events[0].resource, &events[0].user).unwrap();
    assert!(view.position.is_some());
    drop(projector);
    log.fail_reads(None);
    let projector = open(&log, dir.path());
    catch_up(&projector);
    assert_eq!(projector.dump().unwrap(), folded(&log));
}

/// Protects: a partition that is cut or made anew stops alone, loudly; the others are folded as
/// before, and what came of them is written down at the end.
#[test]
fn a_partition_that_is_given_up_stops_alone() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let projector = open(&log, dir.path());
    log.add_all(&history(0, 50));
    catch_up(&projector);
    let like = event(1, 15, InteractionType::Like, None);
    let cut = like.resource.partition(log.identity.partitions);
    let waiting = waiter(&projector, &like);
    log.cut(cut, true);
    assert!(wait(waiting).is_err());
    assert!(wait(waiter(&projector, &like)).is_err(), "a later one");
    let failure = projector.status().failure.unwrap();
    assert!(failure.contains(&format!("partition {cut}")), "{failure}");

    let before = projector.status().partitions;
    let events = history(50, 50);
    let of_cut =
        |event: &tally_domain::Event| event.resource.partition(log.identity.partitions) == cut;
    log.add_all(&events);
    for event in events.iter().filter(|event| !of_cut(event)) {
        let head = log.arc().head().unwrap();
        let partition = event.resource.partition(log.identity.partitions);
        let offset = head[usize::try_from(partition).unwrap()] - 1;
        let position = Position { partition, offset };
        let applied = projector.wait_for_position(position, &Mailbox::direct());
        assert_eq!(wait(applied.unwrap()), Ok(()));
    }
    let place = usize::try_from(cut).unwrap();
    assert_eq!(projector.status().partitions[place], before[place]);
    let stopped = projector.stop(LIMIT);
    assert!(matches!(stopped, Err(StateError::Failed(why)) if why == failure));
    assert_eq!(projector.status().changed, 0, "all is written down");
}

/// Protects: a log that a reader can't go on with at all ends the fold of all it reads.
#[test]
fn a_partition_that_is_not_given_up_stops_its_worker() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let opening = Opening::with(Options {
        workers: 1,
        ..options()
    });
    let projector = opening.open(&log, dir.path());
    let waiting: Vec<_> = (0..4)
        .map(|partition| {
            let nowhere = Position {
                partition,
                offset: 1_000,
            };
            projector.wait_for_position(nowhere, &Mailbox::direct())
        })
        .collect();
    log.cut(2, false);
    for waiting in waiting {
        assert!(wait(waiting.unwrap()).is_err());
    }
    let failure = projector.status().failure.unwrap();
    assert!(failure.contains("partition 2"), "{failure}");
}

/// Protects: one partition that has stopped does not stop the others when far too much changed:
/// they wait for the checkpoint, which still comes.
#[test]
fn a_stopped_partition_leaves_the_others_their_checkpoints() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let opening = Opening::with(Options {
        checkpoint_changes: 5,
        ..options()
    });
    let projector = opening.open(&log, dir.path());
    log.cut(0, true);
    eventually("a failure", || projector.status().failure.is_some());
    let like = |by: u64, id: u64| event(by, id, InteractionType::Like, None);
    let elsewhere =
        |event: &tally_domain::Event| event.resource.partition(log.identity.partitions) != 0;
    for turn in 0..5 {
        let many = (0..200).map(|n| like(turn * 200 + n, n));
        let events: Vec<_> = many.filter(elsewhere).collect();
        let told: Vec<_> = events
            .iter()
            .map(|event| waiter(&projector, event))
            .collect();
        log.add_all(&events);
        for told in told {
            assert!(matches!(wait(told), Ok(EventFate::Folded(_))));
        }
    }
}

/// Protects: tools that show how far a log's readers are see what is applied, gaps included.
#[test]
fn the_log_is_told_how_far_the_fold_is() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let projector = open(&log, dir.path());
    log.add_all(&history(0, 100));
    eventually("all is told", || log.applied() == log.arc().head().unwrap());
    let before = projector.status().last_progress;
    eventually("a gap is progress", || {
        log.skip(2, 3);
        projector.status().last_progress > before
    });
    eventually("the gap is told", || {
        log.applied() == log.arc().head().unwrap()
    });
    let next_offset = projector.status().partitions[2].next_offset;
    assert_eq!(log.applied()[2], next_offset);
}

/// Protects: a clean stop applies all that the log holds and writes it down, so that the next
/// start replays nothing, even where far more changed than a checkpoint should hold.
#[test]
fn a_clean_stop_leaves_nothing_to_replay() {
    for checkpoint_changes in [10, 250_000] {
        let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
        let opening = Opening::with(Options {
            checkpoint_changes,
            ..options()
        });
        let projector = opening.open(&log, dir.path());
        log.hold();
        for n in 0..20 {
            log.add_all(&history(n * 50, 50));
        }
        log.release();
        projector.stop(LIMIT).unwrap();
        assert_eq!(projector.status().changed, 0);
        // A second stop finds everything done.
        projector.stop(LIMIT).unwrap();
        drop(projector);

        let opening = Opening::default();
        let projector = opening.open(&log, dir.path());
        assert!(projector.status().caught_up_once);
        catch_up(&projector);
        assert_eq!(opening.replayed(), 0);
        assert_eq!(projector.dump().unwrap(), folded(&log));
    }
}

/// Protects: a cluster that is away holds no stop up, and what was applied is written down.
#[test]
fn a_stop_does_not_need_the_log() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let projector = open(&log, dir.path());
    log.add_all(&history(0, 100));
    catch_up(&projector);
    log.set_headless(true);
    projector.stop(LIMIT).unwrap();
    drop(projector);
    log.set_headless(false);
    let opening = Opening::default();
    let projector = opening.open(&log, dir.path());
    catch_up(&projector);
    assert_eq!(opening.replayed(), 0);
    assert_eq!(projector.dump().unwrap(), folded(&log));
}

/// Protects: a stop that can't apply everything in time says so when the time is over, and what
/// is missing is replayed.
#[test]
fn a_stop_ends_at_its_deadline() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let projector = open(&log, dir.path());
    log.hold();
    log.add_all(&history(0, 50));
    let (ended, end) = std::sync::mpsc::channel();
    let stopping = std::thread::spawn(move || {
        ended
            .send(projector.stop(Duration::from_millis(20)))
            .unwrap();
        // A second one finds the threads ended, and not all applied.
        ended.send(projector.stop(LIMIT)).unwrap();
    });
    for _ in 0..2 {
        let stopped = end.recv_timeout(LIMIT).expect("it ends");
        assert!(
            matches!(stopped, Err(StateError::TimedOut(_))),
            "{stopped:?}"
        );
    }
    stopping.join().unwrap();
    log.release();
    let projector = open(&log, dir.path());
    catch_up(&projector);
    assert_eq!(projector.dump().unwrap(), folded(&log));
}

/// Protects: dropped without a stop, the projector writes nothing, as in a crash; so tests that
/// drop it test crashes.
#[test]
fn a_drop_writes_nothing() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let opening = Opening::default();
    let projector = opening.open(&log, dir.path());
    log.add_all(&history(0, 30));
    catch_up(&projector);
    projector.checkpoint().unwrap();
    log.add_all(&history(30, 20));
    catch_up(&projector);
    drop(projector);

    let opening = Opening::default();
    let projector = opening.open(&log, dir.path());
    catch_up(&projector);
    assert_eq!(opening.replayed(), 20);
    assert_eq!(projector.dump().unwrap(), folded(&log));
}

/// Protects: memory does not grow with the state: with too many values in it, a checkpoint drops
/// those it wrote, and what was dropped is answered and folded from the store.
#[test]
fn written_values_leave_memory() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let small = Opening::with(Options {
        memory: 10_000,
        ..options()
    });
    let projector = small.open(&log, dir.path());
    for by in 0..20 {
        let events: Vec<_> = (0..20)
            .map(|id| event(by, id, InteractionType::Like, None))
            .collect();
        log.add_all(&events);
        catch_up(&projector);
        projector.checkpoint().unwrap();
        assert!(projector.status().memory <= 10_000);
    }
    assert_eq!(projector.dump().unwrap(), folded(&log));
    let unlike = event(3, 7, InteractionType::Unlike, None);
    let told = waiter(&projector, &unlike);
    log.add(&unlike);
    let Ok(EventFate::Folded(verdict)) = wait(told) else {
        panic!("not folded");
    };
    assert_eq!(verdict.outcome, Outcome::Applied);
    assert_eq!(verdict.counters.likes, 19);

    // With enough room everything stays.
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let projector = open(&log, dir.path());
    log.add_all(&history(0, 300));
    catch_up(&projector);
    let before = projector.status().memory;
    projector.checkpoint().unwrap();
    assert_eq!(projector.status().memory, before);
}

/// Protects: when many values changed a checkpoint comes before its time, and when far too many
/// did the fold waits for it; both end.
#[test]
fn many_changes_bring_a_checkpoint() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let opening = Opening::with(Options {
        checkpoint_changes: 20,
        ..options()
    });
    let projector = opening.open(&log, dir.path());
    for n in 0..40 {
        log.add_all(&history(n * 25, 25));
    }
    catch_up(&projector);
    eventually("a checkpoint", || {
        projector.status().last_checkpoint.is_some() && projector.status().changed < 20
    });
    assert!(opening.counted("tally_projector_checkpoint_puts_total") > 0);
    drop(projector);
    let projector = open(&log, dir.path());
    catch_up(&projector);
    assert_eq!(projector.dump().unwrap(), folded(&log));
}

/// Protects: memory is bounded also where the store has failed and nothing can be written any
/// more: the fold ends there.
#[test]
fn the_fold_ends_where_nothing_can_be_written_any_more() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let opening = Opening::with(Options {
        checkpoint_changes: 20,
        ..options()
    });
    let (projector, store) = opening.open_faulty(&log, dir.path());
    store.fail_at(0);
    let like = |by: u64, id: u64| event(by, id, InteractionType::Like, None);
    let many: Vec<_> = (0..200).map(|by| like(by, by)).collect();
    log.add_all(&many);
    eventually("a failure", || projector.status().failure.is_some());
    assert!(projector.status().failure.unwrap().contains("restart"));
    // Workers that went on would follow: what comes is read as it comes.
    let mut added = 200;
    eventually("the workers' end", || {
        let more = added..added + 100;
        log.add_all(&more.map(|by| like(by, by)).collect::<Vec<_>>());
        added += 100;
        let partitions = projector.status().partitions;
        let applied: u64 = partitions.iter().map(|p| p.next_offset).sum();
        added > applied + 10_000
    });
    assert!(matches!(projector.stop(LIMIT), Err(StateError::Failed(_))));
    let changed = u64::try_from(projector.status().changed).unwrap();
    assert!(
        (80..added - 9_000).contains(&changed),
        "{changed} of {added}"
    );
    drop((projector, store));
    let projector = open(&log, dir.path());
    catch_up(&projector);
    assert_eq!(projector.dump().unwrap(), folded(&log));
}

/// Protects: one checkpoint that fails does not hold the fold for the whole time between two
/// checkpoints.
#[test]
fn a_failed_checkpoint_is_tried_again_soon() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let disk = FaultyDisk::default();
    let opening = Opening {
        storage: Arc::new(disk.clone()),
        ..Opening::with(Options {
            checkpoint_changes: 20,
            ..options()
        })
    };
    let projector = opening.open(&log, dir.path());
    disk.watch(Some(0));
    let like = |by: u64| event(by, by, InteractionType::Like, None);
    log.add_all(&(0..200).map(like).collect::<Vec<_>>());
    eventually("a failed one", || {
        opening.counted("tally_projector_checkpoint_errors_total") == 1
    });
    log.add_all(&(200..400).map(like).collect::<Vec<_>>());
    catch_up(&projector);
    assert_eq!(projector.dump().unwrap(), folded(&log));
}
