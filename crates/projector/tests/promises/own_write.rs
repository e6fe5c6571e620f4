//! Promise 2, read your own write: the verdict a waiter gets is the state as of its own event.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;
use tally_domain::{InteractionType, Outcome, Toggles};
use tally_projector::{EventFate, Mailbox};

use crate::common::{LIMIT, MemoryLog, event, history, open, verdicts, wait, waiter};

/// Protects: every waiter gets the outcome, position, counters and toggles as of its own event,
/// though all events come in one batch whose later events change them.
#[test]
fn a_verdict_is_as_of_its_own_event() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let projector = open(&log, dir.path());
    let events = history(0, 400);
    let waiters: Vec<_> = events
        .iter()
        .map(|event| (event.id, waiter(&projector, event)))
        .collect();
    log.add_all(&events);

    let expected: HashMap<_, _> = verdicts(&log).into_iter().collect();
    for (id, waiter) in waiters {
        assert_eq!(wait(waiter), Ok(EventFate::Folded(expected[&id])));
    }
    let outcomes = expected.values().map(|verdict| verdict.outcome);
    for outcome in [
        Outcome::Applied,
        Outcome::NoChange,
        Outcome::Duplicate,
        Outcome::Conflict,
    ] {
        assert!(
            outcomes.clone().any(|other| other == outcome),
            "{outcome:?}"
        );
    }
    assert_eq!(projector.status().waiters, 0);
}

/// Protects: a duplicate and a conflict are told with their own positions and with the state as
/// it is by then, not with the first event's.
#[test]
fn a_duplicate_and_a_conflict_have_their_own_positions() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let projector = open(&log, dir.path());
    let events = [
        event(1, 15, InteractionType::Like, Some(7)),
        event(2, 15, InteractionType::Like, None),
        event(1, 15, InteractionType::Like, Some(7)),
        event(1, 15, InteractionType::Share, Some(7)),
    ];
    let waiters = events.each_ref().map(|event| waiter(&projector, event));
    let positions = log.add_all(&events);
    let verdicts = waiters.map(|waiter| match wait(waiter).unwrap() {
        EventFate::Folded(verdict) => verdict,
        fate @ (EventFate::DeadLetter(_)
        | EventFate::Settled(_)
        | EventFate::Refused(_)
        | EventFate::Failed(_)) => {
            panic!("{fate:?}")
        }
    });

    assert_eq!(verdicts.map(|verdict| verdict.position).to_vec(), positions);
    assert_eq!(
        verdicts.map(|verdict| verdict.outcome),
        [
            Outcome::Applied,
            Outcome::Applied,
            Outcome::Duplicate,
            Outcome::Conflict,
        ]
    );
    assert_eq!(verdicts.map(|verdict| verdict.counters.likes), [1, 2, 2, 2]);
    assert_eq!(verdicts.map(|verdict| verdict.counters.shares), [0; 4]);
    let liked = Toggles {
        liked: true,
        bookmarked: false,
    };
    assert_eq!(verdicts.map(|verdict| verdict.toggles), [liked; 4]);
}

/// Protects: what is read after the verdict holds the event as well, and its position is not
/// before the event's.
#[test]
fn a_read_after_the_verdict_has_the_event() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let projector = open(&log, dir.path());
    for event in history(0, 50) {
        let waiter = waiter(&projector, &event);
        let position = log.add(&event);
        let Ok(EventFate::Folded(verdict)) = wait(waiter) else {
            panic!("not folded");
        };
        let view = projector.read(event.resource, &event.user).unwrap();
        assert_eq!(
            (view.counters, view.toggles),
            (verdict.counters, verdict.toggles)
        );
        assert_eq!(
            (view.position, verdict.position),
            (Some(position), position)
        );
    }
}

/// A waker whose call lasts until the test has looked.
struct Meeting {
    woken: SyncSender<()>,
    looked: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Wake for Meeting {
    fn wake(self: Arc<Self>) {
        // Where the test has ended in between, nobody looks any more.
        let _ = self.woken.send(());
        let _ = self.looked.lock().recv_timeout(LIMIT);
    }
}

/// Protects: the waiters of one mailbox are all served by one wake-up per batch: when it comes,
/// everything the batch completed is there.
#[test]
fn a_mailbox_is_woken_once_per_batch() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let projector = open(&log, dir.path());
    let (mailbox, task) = Mailbox::new();
    let (woken, wakes) = sync_channel(0);
    let (look, looked) = sync_channel(1);
    let waker = Waker::from(Arc::new(Meeting {
        woken,
        looked: Mutex::new(looked),
    }));
    let mut context = Context::from_waker(&waker);
    let mut task = pin!(task.run());
    assert_eq!(task.as_mut().poll(&mut context), Poll::Pending);

    let events: Vec<_> = (0..20)
        .map(|by| event(by, 15, InteractionType::Like, None))
        .collect();
    let partition = events[0].resource.partition(log.identity.partitions);
    let waiters: Vec<_> = events
        .iter()
        .map(|event| {
            projector
                .wait_for_event(partition, event.id, &mailbox)
                .unwrap()
        })
        .collect();
    log.add_all(&events);
    wakes.recv_timeout(LIMIT).unwrap();
    assert_eq!(task.as_mut().poll(&mut context), Poll::Pending);
    look.send(()).unwrap();
    for mut waiter in waiters {
        assert!(matches!(waiter.try_recv(), Ok(EventFate::Folded(_))));
    }
    drop(projector);
    assert!(wakes.try_recv().is_err(), "woken again");
}
