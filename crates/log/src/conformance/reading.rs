//! What is promised to those who read.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tally_domain::{Offset, Partition, Position};

use super::{
    PATIENCE, TestLog, append, append_all, assert_same, fill, of, positions, read_all, read_to,
    record,
};
use crate::batch::Batch;
use crate::contract::{EventLog, LogReader, ReadError};

/// Every partition comes back as it was appended, and the reader then stands at the head.
pub fn what_was_appended_is_read_in_order(test: &dyn TestLog) {
    let log = test.open();
    let mut appended = Vec::new();
    for label in ["a", "b", "c"] {
        appended.extend(fill(log.as_ref(), label, 100));
        assert_same(&read_all(log.as_ref()), &appended);
    }
}

/// A reader gives exactly the records at and above its positions, whichever those are; an offset
/// of a gap is as good as the one after it.
pub fn a_reader_starts_at_any_position(test: &dyn TestLog) {
    let log = test.open();
    let appended = fill(log.as_ref(), "a", 120);
    let (first, head) = (log.first().unwrap(), log.head().unwrap());
    let ends = positions(&head);
    for step in 0..=40 {
        let mut from = positions(&first);
        for (place, (position, head)) in (0..).zip(from.iter_mut().zip(&head)) {
            // Different places in different partitions: all at the start, all at the end, between.
            let part = (step + 13 * place) % 41;
            position.offset += (head - position.offset) * part / 40;
        }
        let mut reader = log.reader(&from).unwrap();
        let read = read_to(reader.as_mut(), &ends);
        let mut expected = appended.clone();
        expected.retain(|held| {
            let column = usize::try_from(held.position.partition).unwrap();
            held.position.offset >= from[column].offset
        });
        assert_same(&read, &expected);
    }
}

/// A reader of some partitions sees nothing of the others, and its positions are theirs.
pub fn a_reader_has_its_partitions_alone(test: &dyn TestLog) {
    let log = test.open();
    let appended = fill(log.as_ref(), "a", 100);
    let (first, head) = (
        positions(&log.first().unwrap()),
        positions(&log.head().unwrap()),
    );
    for partition in [0, 3] {
        let column = usize::try_from(partition).unwrap();
        let mut reader = log.reader(&[first[column]]).unwrap();
        assert_eq!(reader.positions(), [first[column]]);
        let read = read_to(reader.as_mut(), &[head[column]]);
        assert_eq!(
            read.iter().collect::<Vec<_>>(),
            of(partition, &appended),
            "{partition}"
        );
    }
}

/// The head is a position to wait at; past it there is none, nor in a partition that is not there.
pub fn positions_outside_are_refused(test: &dyn TestLog) {
    let log = test.open();
    fill(log.as_ref(), "a", 20);
    let head = log.head().unwrap();
    let at = |offset| Position {
        partition: 2,
        offset,
    };
    let reader = log.reader(&[at(head[2])]).unwrap();
    assert_eq!(reader.positions(), [at(head[2])]);
    for offset in [head[2] + 1, u64::MAX] {
        let refused = log.reader(&[at(offset)]).err();
        let Some(ReadError::OutOfRange {
            partition: 2,
            wanted,
            head: told,
            ..
        }) = refused
        else {
            panic!("{refused:?}");
        };
        assert_eq!((wanted, told), (offset, head[2]));
    }
    let nowhere = Position {
        partition: super::PARTITIONS,
        offset: 0,
    };
    assert!(log.reader(&[nowhere]).is_err());
}

/// Where old records were removed, the first position moves up, what is below is refused, and the
/// rest is as it was.
pub fn removed_records_are_out_of_range(test: &dyn TestLog) {
    let log = test.open();
    let mut appended = fill(log.as_ref(), "a", 300);
    let before = log.first().unwrap();
    log.close(PATIENCE).unwrap();
    test.kill(log);
    test.remove_oldest();
    let log = test.open();
    let first = log.first().unwrap();
    let mut pairs = (0..).zip(before.iter().zip(&first));
    let (partition, offset) = pairs
        .find_map(|(partition, (before, first))| (before < first).then_some((partition, *before)))
        .unwrap();
    let refused = log.reader(&[Position { partition, offset }]).err();
    let column = usize::try_from(partition).unwrap();
    let Some(ReadError::OutOfRange { first: told, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(told, first[column]);
    appended.retain(|held| {
        held.position.offset >= first[usize::try_from(held.position.partition).unwrap()]
    });
    assert!(!appended.is_empty());
    assert_same(&read_all(log.as_ref()), &appended);
}

/// A truncation removes from the beginning, and nothing at or past the offsets it is given; all offsets stay
/// what they are, for a reader, after a restart, and for what comes, also where nothing is left.
pub fn a_truncation_removes_the_oldest_alone(test: &dyn TestLog) {
    let log = test.open();
    let mut appended = fill(log.as_ref(), "a", 300);
    let head = log.head().unwrap();
    let quarter: Vec<Offset> = head.iter().map(|head| head / 4).collect();
    let half: Vec<Offset> = head.iter().map(|head| head / 2).collect();
    let nothing = log.truncate(&log.first().unwrap()).unwrap();
    assert_eq!(nothing.records, 0);
    assert_same(&read_all(log.as_ref()), &appended);
    let truncated = log.truncate(&quarter).unwrap();
    let first = log.first().unwrap();
    assert!(truncated.records > 0, "{truncated:?}");
    assert_eq!(first.iter().sum::<Offset>(), truncated.records);
    // Several at once do what one does, beside somebody who appends.
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| log.truncate(&half).unwrap());
        }
        appended.extend(fill(log.as_ref(), "beside", 50));
    });
    let (first, head) = (log.first().unwrap(), log.head().unwrap());
    assert!(first.iter().zip(&half).all(|(first, half)| first <= half));
    let column = |partition: Partition| usize::try_from(partition).unwrap();
    appended.retain(|held| held.position.offset >= first[column(held.position.partition)]);
    assert_same(&read_all(log.as_ref()), &appended);
    assert_eq!(log.head().unwrap(), head);
    let opened_again = |log: Arc<dyn EventLog>, first: Vec<Offset>| {
        log.close(PATIENCE).unwrap();
        test.kill(log);
        let log = test.open();
        assert_eq!(
            (log.first().unwrap(), log.head().unwrap()),
            (first, head.clone())
        );
        log
    };
    let log = opened_again(log, first);
    // Past the end is up to the end.
    let past: Vec<Offset> = head.iter().map(|head| head + 1_000).collect();
    log.truncate(&past).unwrap();
    let first = log.first().unwrap();
    assert!(first.iter().zip(&head).all(|(first, head)| first <= head));
    assert_eq!(log.head().unwrap(), head);
    let log = opened_again(log, first);
    let after = fill(log.as_ref(), "b", 8);
    for held in &after {
        assert!(held.position.offset >= head[column(held.position.partition)]);
    }
    appended.retain(|held| {
        held.position.offset >= log.first().unwrap()[column(held.position.partition)]
    });
    appended.extend(after);
    assert_same(&read_all(log.as_ref()), &appended);
}

/// A reader at the head gets a record soon after it is appended, not when its wait is over.
pub fn a_reader_waits_for_what_comes(test: &dyn TestLog) {
    let log = test.open();
    fill(log.as_ref(), "a", 5);
    let mut reader = log.reader(&positions(&log.head().unwrap())).unwrap();
    for number in 0..20_u32 {
        let started = Instant::now();
        let read = thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let mut batch = Batch::new();
                reader.next(&mut batch, 2 * PATIENCE).unwrap();
                batch.iter().map(|r| r.value.to_vec()).collect::<Vec<_>>()
            });
            append_all(log.as_ref(), vec![record(number % 4, number.to_le_bytes())]);
            waits.join().unwrap()
        });
        assert_eq!(read, [number.to_le_bytes()]);
        assert!(started.elapsed() < PATIENCE);
    }
}

/// A waker ends a wait, one that begins after it was called too, with an empty batch.
pub fn a_wake_is_never_lost(test: &dyn TestLog) {
    let log = test.open();
    let mut reader = log.reader(&positions(&log.head().unwrap())).unwrap();
    let waker = reader.waker();
    let started = Instant::now();
    let mut batch = Batch::new();
    for _ in 0..20 {
        thread::scope(|scope| {
            scope.spawn(&waker);
            reader.next(&mut batch, 2 * PATIENCE).unwrap();
        });
        assert!(batch.is_empty());
    }
    waker();
    reader.next(&mut batch, 2 * PATIENCE).unwrap();
    assert!(started.elapsed() < PATIENCE);
}

/// Where nothing comes, a wait ends, and the batch of before is gone; one of nothing too.
pub fn a_wait_ends_without_records(test: &dyn TestLog) {
    let log = test.open();
    let appended = fill(log.as_ref(), "a", 5);
    let mut reader = log.reader(&positions(&log.first().unwrap())).unwrap();
    let head = positions(&log.head().unwrap());
    assert_same(&read_to(reader.as_mut(), &head), &appended);
    let mut batch = Batch::new();
    batch.push(0, 0, 0, b"of", b"before");
    for wait in [Duration::ZERO, Duration::from_millis(10)] {
        reader.next(&mut batch, wait).unwrap();
        assert!(batch.is_empty());
        assert_eq!(reader.positions(), head);
    }
}

/// Each reader has its own place; one that is slow neither loses records nor holds others up.
pub fn readers_do_not_disturb_each_other(test: &dyn TestLog) {
    let log = test.open();
    let first = positions(&log.first().unwrap());
    let mut slow = log.reader(&first).unwrap();
    let mut quick = log.reader(&first).unwrap();
    let mut appended = fill(log.as_ref(), "a", 20);
    let head = positions(&log.head().unwrap());
    assert_same(&read_to(quick.as_mut(), &head), &appended);
    assert_eq!(slow.positions(), first);
    appended.extend(fill(log.as_ref(), "b", 200));
    let head = positions(&log.head().unwrap());
    read_to(quick.as_mut(), &head);
    assert_same(&read_to(slow.as_mut(), &head), &appended);
}

/// A batch stays at about 1 MiB; a record that is larger alone comes alone.
pub fn batches_are_bounded(test: &dyn TestLog) {
    const MIB: usize = 1024 * 1024;
    let log = test.open();
    let appends: Vec<_> = [MIB, 10, MIB, MIB, 400_000, 400_000, 400_000, 400_000]
        .into_iter()
        .map(|len| append(log.as_ref(), vec![record(1, vec![7; len])]))
        .collect();
    for results in &appends {
        super::acknowledged(results);
    }
    for number in 0..2_000_usize {
        let len = number % 5 * 400;
        append(log.as_ref(), vec![record(2, vec![7; len])]);
    }
    log.close(PATIENCE).unwrap();
    let head = positions(&log.head().unwrap());
    let mut reader = log.reader(&positions(&log.first().unwrap())).unwrap();
    let mut read = 0;
    while reader.positions() != head {
        let batch = next(reader.as_mut());
        read += batch.len();
        assert!(
            batch.len() == 1 || batch.byte_len() <= MIB + MIB / 8,
            "{} bytes in {} records",
            batch.byte_len(),
            batch.len()
        );
    }
    assert_eq!(read, appends.len() + 2_000);
}

fn next(reader: &mut dyn LogReader) -> Batch {
    let mut batch = Batch::new();
    reader.next(&mut batch, Duration::from_millis(100)).unwrap();
    batch
}

/// The log gives the append time; within a partition it does not fall, over a restart neither.
pub fn append_times_do_not_fall(test: &dyn TestLog) {
    /// The first second of 2020.
    const LONG_AGO_MILLIS: u64 = 1_577_836_800_000;
    let log = test.open();
    fill(log.as_ref(), "a", 20);
    test.kill(log);
    let log = test.open();
    fill(log.as_ref(), "b", 20);
    let head = positions(&log.head().unwrap());
    let mut reader = log.reader(&positions(&log.first().unwrap())).unwrap();
    let mut newest = [LONG_AGO_MILLIS; 4];
    while reader.positions() != head {
        for record in next(reader.as_mut()).iter() {
            let newest = &mut newest[usize::try_from(record.position.partition).unwrap()];
            assert!(record.append_time_millis >= *newest);
            *newest = record.append_time_millis;
        }
    }
}
