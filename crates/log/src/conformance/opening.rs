//! What is promised over the end of a process.

use super::{
    PARTITIONS, PATIENCE, TestLog, append, assert_rising, assert_same, fill, read_all, record,
};
use crate::contract::LogHealth;

/// Of a log without records first and head are the same, in every partition.
pub fn an_empty_log_starts_at_its_head(test: &dyn TestLog) {
    let log = test.open();
    let partitions = usize::try_from(PARTITIONS).unwrap();
    assert_eq!(log.first().unwrap().len(), partitions);
    assert_eq!(log.first().unwrap(), log.head().unwrap());
    assert_eq!(log.health(), LogHealth::Ok);
    assert!(read_all(log.as_ref()).is_empty());
}

/// State belongs to one log: its identity is the same in every life.
pub fn the_identity_never_changes(test: &dyn TestLog) {
    let log = test.open();
    let identity = log.identity();
    assert_eq!(identity.partitions, PARTITIONS);
    for _ in 0..2 {
        fill(log.as_ref(), "a", 2);
    }
    log.close(PATIENCE).unwrap();
    test.kill(log);
    for _ in 0..3 {
        let log = test.open();
        assert_eq!(log.identity(), identity);
        test.kill(log);
    }
}

/// Offsets go on where they were, and everything is there, after clean ends.
pub fn acknowledged_records_survive_closing(test: &dyn TestLog) {
    let mut appended = Vec::new();
    for life in ["a", "b", "c", "d"] {
        let log = test.open();
        assert_same(&read_all(log.as_ref()), &appended);
        appended.extend(fill(log.as_ref(), life, 40));
        log.close(PATIENCE).unwrap();
        test.kill(log);
    }
    assert_rising(&appended);
    assert_same(&read_all(test.open().as_ref()), &appended);
}

/// The same after kills.
pub fn acknowledged_records_survive_a_kill(test: &dyn TestLog) {
    let mut appended = Vec::new();
    for life in ["a", "b", "c", "d"] {
        let log = test.open();
        assert_same(&read_all(log.as_ref()), &appended);
        appended.extend(fill(log.as_ref(), life, 40));
        test.kill(log);
    }
    assert_rising(&appended);
    assert_same(&read_all(test.open().as_ref()), &appended);
}

/// Where a log ends with appends that wait, each is told once, and what it was told is true.
pub fn a_kill_calls_everybody_back(test: &dyn TestLog) {
    let log = test.open();
    let waiting: Vec<_> = (0..2_000_u32)
        .map(|number| append(log.as_ref(), vec![record(number % 4, number.to_le_bytes())]))
        .collect();
    test.kill(log);
    let mut told = Vec::new();
    for (number, results) in (0_u32..).zip(waiting) {
        let results = results.recv_timeout(PATIENCE).unwrap();
        assert_eq!(results.len(), 1);
        if let Some(Ok(offset)) = results.into_iter().next() {
            told.push((number % 4, offset, number.to_le_bytes()));
        }
    }
    let read = read_all(test.open().as_ref());
    for (partition, offset, value) in told {
        let found = read
            .iter()
            .find(|held| (held.position.partition, held.position.offset) == (partition, offset));
        assert!(found.is_some_and(|held| held.value == value), "{found:?}");
    }
}
