//! What is promised to those who append.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use super::{
    PATIENCE, SMALL_QUEUE_RECORDS, TestLog, acknowledged, append, append_all, assert_rising,
    assert_same, fill, held, of, read_all, record,
};
use crate::contract::{AppendDone, AppendRefused, NewRecord};

/// Offsets of a partition strictly increase in append order, and the head is above all of them.
pub fn acknowledged_records_have_rising_offsets(test: &dyn TestLog) {
    let log = test.open();
    let appended = fill(log.as_ref(), "a", 50);
    assert_rising(&appended);
    let head = log.head().unwrap();
    for (partition, head) in (0..).zip(head) {
        let last = of(partition, &appended).last().map(|r| r.position.offset);
        assert!(last.is_some_and(|last| last < head), "{last:?} {head}");
    }
}

/// The results of one append are in the order of its records, and those of a partition rise.
pub fn one_append_keeps_its_order(test: &dyn TestLog) {
    let log = test.open();
    let records: Vec<_> = (0..200_u32)
        .map(|number| record(number * 7 % 4, number.to_le_bytes()))
        .collect();
    let appended = append_all(log.as_ref(), records);
    assert_rising(&appended);
    assert_same(&read_all(log.as_ref()), &appended);
}

/// A callback comes exactly once for what was not refused, an append of nothing too, never for
/// what was, and never on the thread that appends.
pub fn every_append_is_called_back_once(test: &dyn TestLog) {
    let log = test.open();
    let calls = Arc::new(AtomicUsize::new(0));
    let (done, results) = mpsc::channel();
    let counted = || -> AppendDone {
        let (calls, done) = (Arc::clone(&calls), done.clone());
        Box::new(move |results| {
            calls.fetch_add(1, Ordering::SeqCst);
            done.send((results.len(), thread::current().id()))
                .unwrap_or_default();
        })
    };
    for len in [1_u32, 0, 3] {
        let records = (0..len).map(|number| record(number, "x")).collect();
        log.append(records, counted()).unwrap();
        let (found, by) = results.recv_timeout(PATIENCE).unwrap();
        assert_eq!(u32::try_from(found).unwrap(), len);
        assert_ne!(by, thread::current().id());
    }
    let invalid = vec![record(u32::MAX, "x")];
    assert!(log.append(invalid, counted()).is_err());
    log.close(PATIENCE).unwrap();
    assert!(log.append(vec![record(0, "x")], counted()).is_err());
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

/// Nothing is lost, doubled or turned around where many threads append.
pub fn threads_append_at_once(test: &dyn TestLog) {
    let log = test.open();
    let each = |label: u32| {
        let log = log.as_ref();
        move || {
            let waiting: Vec<_> = (0..250_u32)
                .map(|number| {
                    let records = vec![record(label % 2, format!("{label} {number}"))];
                    (records.clone(), append(log, records))
                })
                .collect();
            let done = waiting.into_iter();
            done.flat_map(|(records, results)| held(records, acknowledged(&results)))
                .collect::<Vec<_>>()
        }
    };
    let appended: Vec<Vec<_>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|label| scope.spawn(each(label))).collect();
        let ended = threads.into_iter().map(|thread| thread.join().unwrap());
        ended.collect()
    });
    for of_one in &appended {
        assert_rising(of_one);
    }
    let mut all = appended.concat();
    all.sort_by_key(|held| held.position.offset);
    assert_same(&read_all(log.as_ref()), &all);
}

/// An append that is refused leaves nothing, of its valid records neither.
pub fn an_invalid_record_refuses_its_whole_append(test: &dyn TestLog) {
    let log = test.open();
    fill(log.as_ref(), "a", 3);
    let head = log.head().unwrap();
    let long_key = NewRecord {
        key: vec![0; 64 * 1024 + 1],
        ..record(1, "x")
    };
    let too_long = record(1, vec![0; 1024 * 1024 + 1]);
    let nowhere = record(super::PARTITIONS, "x");
    for invalid in [long_key, too_long, nowhere] {
        let records = vec![record(0, "x"), invalid, record(2, "x")];
        let refused = log.append(records, Box::new(|_| panic!("it was refused")));
        assert!(
            matches!(refused, Err(AppendRefused::Invalid(_))),
            "{refused:?}"
        );
    }
    assert_eq!(log.head().unwrap(), head);
}

/// Keys and values may be empty, and as long as the contract says.
pub fn records_may_be_empty_or_large(test: &dyn TestLog) {
    let log = test.open();
    let new = |key: Vec<u8>, value: Vec<u8>| NewRecord {
        partition: 1,
        key,
        value,
        traceparent: None,
    };
    let large = |len: usize| -> Vec<u8> { (0..=255).cycle().take(len).collect() };
    let mut appended = Vec::new();
    for one in [
        new(Vec::new(), Vec::new()),
        new(large(64 * 1024), large(1024 * 1024)),
        new(Vec::new(), b"value".to_vec()),
        new(b"key".to_vec(), Vec::new()),
        new(large(64 * 1024), Vec::new()),
        new(Vec::new(), large(1024 * 1024)),
    ] {
        appended.extend(append_all(log.as_ref(), vec![one]));
    }
    assert_same(&read_all(log.as_ref()), &appended);
}

/// A queue at its bound refuses at once, takes appends again once it has room, and whatever it
/// took comes back.
pub fn a_full_queue_refuses_at_once(test: &dyn TestLog) {
    let log = test.open_with_small_queue();
    let (let_go, held_back) = mpsc::channel::<()>();
    let (started, starts) = mpsc::channel();
    // Nobody may do this; here it keeps the log from getting on.
    let blocks = move |_| {
        started.send(()).unwrap_or_default();
        held_back.recv().unwrap_or_default();
    };
    log.append(vec![record(0, "first")], Box::new(blocks))
        .unwrap();
    starts.recv_timeout(PATIENCE).unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let mut accepted = 0;
    let refused = loop {
        let calls = Arc::clone(&calls);
        let done = move |_| {
            calls.fetch_add(1, Ordering::SeqCst);
        };
        match log.append(vec![record(0, "more")], Box::new(done)) {
            Ok(()) => accepted += 1,
            Err(refused) => break refused,
        }
        assert!(accepted <= SMALL_QUEUE_RECORDS, "the queue has no bound");
    };
    assert!(
        matches!(refused, AppendRefused::QueueFull { .. }),
        "{refused:?}"
    );
    assert!(accepted > 0);
    drop(let_go);
    // Those before it are done when this one is, or it is refused while they are not.
    let last = loop {
        let (done, results) = mpsc::channel();
        let done = move |all| done.send(all).unwrap_or_default();
        match log.append(vec![record(0, "last")], Box::new(done)) {
            Ok(()) => break acknowledged(&results),
            Err(AppendRefused::QueueFull { .. }) => thread::yield_now(),
            Err(other) => panic!("{other}"),
        }
    };
    log.close(PATIENCE).unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), accepted);
    let read = read_all(log.as_ref());
    assert_eq!(read.len(), accepted + 2);
    assert_eq!(read.last().map(|r| r.position.offset), last.last().copied());
}

/// What was accepted before is durable and called back when `close` returns.
pub fn closing_finishes_what_was_accepted(test: &dyn TestLog) {
    let log = test.open();
    let appends = (0..500_u32).map(|number| {
        let records = vec![record(number % 4, number.to_le_bytes())];
        (records.clone(), append(log.as_ref(), records))
    });
    let waiting: Vec<_> = appends.collect();
    log.close(PATIENCE).unwrap();
    let mut appended = Vec::new();
    for (records, results) in waiting {
        let results = results.try_recv().unwrap();
        let offsets = results.into_iter().map(Result::unwrap).collect();
        appended.extend(held(records, offsets));
    }
    assert_same(&read_all(log.as_ref()), &appended);
    test.kill(log);
    assert_same(&read_all(test.open().as_ref()), &appended);
}

/// A closed log says so, closes twice, and is still read.
pub fn nothing_is_appended_after_closing(test: &dyn TestLog) {
    let log = test.open();
    let appended = fill(log.as_ref(), "a", 10);
    log.close(PATIENCE).unwrap();
    let refused = log.append(vec![record(0, "x")], Box::new(|_| panic!("it was refused")));
    assert!(
        matches!(refused, Err(AppendRefused::Closed(_))),
        "{refused:?}"
    );
    assert_same(&read_all(log.as_ref()), &appended);
    log.close(PATIENCE).unwrap();
}
