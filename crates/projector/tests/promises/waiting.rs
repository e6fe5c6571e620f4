//! Promise 9, bounded waiters: all are told or let go, and there are never more than the limit.

use std::time::Duration;

use tally_domain::{InteractionType, Position};
use tally_log::AppendError;
use tally_projector::{EventFate, Mailbox, Options, TooManyWaiters};

use crate::common::{
    MemoryLog, Opening, catch_up, event, eventually, history, open, options, resource, user, wait,
    waiter,
};

/// Protects: who waits for a position is told as soon as its record is applied, at once where it
/// is already, and not before.
#[test]
fn a_position_is_told_once_applied() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let projector = open(&log, dir.path());
    let next = Position {
        partition: resource(15).partition(log.identity.partitions),
        offset: 1,
    };
    let mut early = projector
        .wait_for_position(next, &Mailbox::direct())
        .unwrap();
    let first = log.add(&event(1, 15, InteractionType::Like, None));
    catch_up(&projector);
    assert!(
        early.try_recv().is_err(),
        "only the one before it is applied"
    );
    let mut applied = projector
        .wait_for_position(first, &Mailbox::direct())
        .unwrap();
    assert_eq!(applied.try_recv(), Ok(()), "already applied");

    log.hold();
    let second = log.add(&event(2, 15, InteractionType::Like, None));
    let third = log.add(&event(3, 15, InteractionType::Like, None));
    let mut waiters =
        [second, third].map(|at| projector.wait_for_position(at, &Mailbox::direct()).unwrap());
    for waiter in &mut waiters {
        assert!(waiter.try_recv().is_err(), "not applied yet");
    }
    log.release();
    for waiter in waiters {
        assert_eq!(wait(waiter), Ok(()));
    }
    let view = projector.read(resource(15), &user(1)).unwrap();
    assert_eq!((view.counters.likes, view.position), (3, Some(third)));
}

/// Protects: offsets that no record has (Kafka's transaction markers) keep nobody waiting, within
/// the log or at its end, and a projector that has passed them has caught up.
#[test]
fn a_gap_counts_as_applied() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let like = event(1, 15, InteractionType::Like, None);
    let before = log.add(&like);
    log.skip(before.partition, 5);
    log.add(&event(2, 15, InteractionType::Like, None));
    log.skip(before.partition, 5);
    let projector = open(&log, dir.path());
    for offset in [0, 3, 6, 11] {
        let position = Position {
            partition: before.partition,
            offset,
        };
        let applied = projector
            .wait_for_position(position, &Mailbox::direct())
            .unwrap();
        assert_eq!(wait(applied), Ok(()), "offset {offset}");
    }
    assert!(projector.status().caught_up_once);
    projector.stop(Duration::from_secs(30)).unwrap();
    drop(projector);

    // The gap at the end is not part of the state, but is passed again.
    let projector = open(&log, dir.path());
    eventually("caught up", || projector.status().caught_up_once);
    let view = projector.read(like.resource, &like.user).unwrap();
    assert_eq!(view.counters.likes, 2);
}

/// Protects: past the limit nobody is taken, and whoever is served, forgotten or failed makes
/// room.
#[test]
fn no_more_wait_than_the_limit() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let limits = Options {
        max_waiters: 3,
        ..options()
    };
    let projector = Opening::with(limits).open(&log, dir.path());
    let events: Vec<_> = (0..3)
        .map(|by| event(by, 15, InteractionType::Like, None))
        .collect();
    let partition = events[0].resource.partition(log.identity.partitions);
    let mut waiters: Vec<_> = events.iter().map(|e| waiter(&projector, e)).collect();
    let full = TooManyWaiters { limit: 3 };
    let mailbox = Mailbox::direct();
    let one_more = event(9, 15, InteractionType::Like, None);
    let position = Position {
        partition,
        offset: 0,
    };
    let refused = projector.wait_for_event(partition, one_more.id, &mailbox);
    assert_eq!(refused.unwrap_err(), full);
    let refused = projector.wait_for_position(position, &mailbox);
    assert_eq!(refused.unwrap_err(), full);

    // Forgotten: its receiver sees that nobody will answer.
    projector.forget_event(partition, events[2].id);
    assert!(wait(waiters.pop().unwrap()).is_err());
    assert_eq!(projector.status().waiters, 2);
    // Failed: the append's error reaches the waiter.
    let error = AppendError::NotWritten("disk".to_owned());
    projector.fail_event(partition, events[1].id, error.clone());
    assert_eq!(wait(waiters.pop().unwrap()), Ok(EventFate::Failed(error)));
    assert_eq!(projector.status().waiters, 1);
    // Served.
    log.add(&events[0]);
    assert!(wait(waiters.pop().unwrap()).is_ok());
    assert_eq!(projector.status().waiters, 0);
    // What was let go is let go once only.
    projector.forget_event(partition, events[2].id);
    projector.forget_event(partition, events[0].id);
    assert_eq!(projector.status().waiters, 0);
    assert!(projector.wait_for_position(position, &mailbox).is_ok());
}

/// Protects: an event that is waited for twice takes one place, and the later waiter is told.
#[test]
fn an_event_has_one_waiter() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let projector = open(&log, dir.path());
    let like = event(1, 15, InteractionType::Like, None);
    let earlier = waiter(&projector, &like);
    let later = waiter(&projector, &like);
    assert!(wait(earlier).is_err());
    assert_eq!(projector.status().waiters, 1);
    log.add(&like);
    assert!(wait(later).is_ok());
    assert_eq!(projector.status().waiters, 0);
}

/// Protects: a partition that the log does not have takes no waiter's place for ever.
#[test]
fn an_unknown_partition_keeps_nobody() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let projector = open(&log, dir.path());
    let like = event(1, 15, InteractionType::Like, None);
    let mailbox = Mailbox::direct();
    let waiter = projector.wait_for_event(99, like.id, &mailbox).unwrap();
    assert!(wait(waiter).is_err());
    let position = Position {
        partition: 99,
        offset: 0,
    };
    let waiter = projector.wait_for_position(position, &mailbox).unwrap();
    assert!(wait(waiter).is_err());
    assert_eq!(projector.status().waiters, 0);
}

/// Protects: position waiters that were given up leave by themselves, before what they wait for
/// comes; those that are still awaited stay.
#[test]
fn abandoned_position_waiters_leave() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let often = Options {
        checkpoint_interval: Duration::from_millis(5),
        ..options()
    };
    let projector = Opening::with(often).open(&log, dir.path());
    let kept = Position {
        partition: 1,
        offset: 0,
    };
    let mailbox = Mailbox::direct();
    let awaited = projector.wait_for_position(kept, &mailbox).unwrap();
    for offset in 0..100 {
        let position = Position {
            partition: 1,
            offset,
        };
        drop(projector.wait_for_position(position, &mailbox).unwrap());
    }
    eventually("the abandoned ones left", || {
        projector.status().waiters == 1
    });
    log.add_raw(1, b"", b"whatever");
    assert_eq!(wait(awaited), Ok(()));
    assert_eq!(projector.status().waiters, 0);
}

/// Protects: waiting and folding at the same time loses no wake-up: whoever looks for a position
/// just as it is applied is told.
#[test]
fn no_wake_up_is_lost() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let projector = open(&log, dir.path());
    let events = history(0, 2_000);
    std::thread::scope(|scope| {
        let (positions, added) = std::sync::mpsc::channel();
        let log = &log;
        scope.spawn(move || {
            for event in &events {
                positions.send(log.add(event)).unwrap();
            }
        });
        for position in added {
            let applied = projector.wait_for_position(position, &Mailbox::direct());
            assert_eq!(wait(applied.unwrap()), Ok(()));
        }
    });
    assert_eq!(projector.status().waiters, 0);
}
