//! Promise 7: a poison record stops nothing and loses nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tally_domain::{DeadLetter, DeadLetterReason, Event, EventTime, InteractionType, Position};
use tally_projector::store::{SledStore, Store as _, layout};
use tally_projector::{EventFate, Projector, StateError};

use crate::common::{
    FaultyDisk, MemoryLog, NOW, Opening, catch_up, event, folded, history, open, resource, user,
    wait, waiter,
};

const MINUTES: u64 = 60_000;

fn newer_version() -> Vec<u8> {
    let known = tally_domain::encode(&event(1, 15, InteractionType::Like, None));
    String::from_utf8(known)
        .unwrap()
        .replace("\"v\":1", "\"v\":3")
        .into_bytes()
}

fn minutes_ahead(minutes: u64) -> Event {
    Event {
        at: EventTime::from_millis(NOW + minutes * MINUTES),
        ..event(1, 15, InteractionType::Like, None)
    }
}

/// One poison of every kind, between sound events; with the reason each must be kept for.
fn poisoned(log: &MemoryLog) -> BTreeMap<Position, (DeadLetterReason, Vec<u8>)> {
    let home = resource(15).partition(log.identity.partitions);
    let elsewhere = (home + 1) % log.identity.partitions;
    let misplaced = tally_domain::encode(&event(1, 15, InteractionType::Share, None));
    let future = tally_domain::encode(&minutes_ahead(6));
    let kinds = [
        (
            home,
            b"\0 not an event \xff".to_vec(),
            DeadLetterReason::Undecodable,
        ),
        (home, Vec::new(), DeadLetterReason::Undecodable),
        (home, newer_version(), DeadLetterReason::UnknownVersion),
        (elsewhere, misplaced, DeadLetterReason::WrongPartition),
        (home, future, DeadLetterReason::FutureTime),
    ];
    let mut expected = BTreeMap::new();
    for (number, (partition, value, reason)) in (0u64..).zip(kinds) {
        log.add_all(&history(number * 10, 10));
        let position = log.add_raw(partition, b"the key", &value);
        expected.insert(position, (reason, value));
    }
    log.add_all(&history(50, 10));
    expected
}

/// What the store holds of dead letters, by position: reason and record.
fn stored(dir: &Path, partitions: u32) -> BTreeMap<Position, (String, serde_json::Value)> {
    let store = SledStore::open(&dir.join("sled"), 1 << 20).unwrap();
    let mut found = BTreeMap::new();
    for partition in 0..partitions {
        let prefix = layout::prefix(b'd', partition);
        let scanned = store.scan(&prefix, &mut |key, sealed| {
            let offset = u64::from_be_bytes(key[5..].try_into().unwrap());
            let value = layout::open(key, sealed).unwrap();
            let letter: serde_json::Value = serde_json::from_slice(value).unwrap();
            let reason = letter["reason"].as_str().unwrap().to_owned();
            found.insert(Position { partition, offset }, (reason, letter));
            Ok(())
        });
        scanned.unwrap();
    }
    found
}

/// Protects: each kind of poison is kept whole, with its reason and position, counted, once,
/// whatever restarts come; and the events around it are folded as if it were not there.
#[test]
fn poison_is_kept_and_stops_nothing() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let expected = poisoned(&log);
    let opening = Opening::default();
    let projector = opening.open(&log, dir.path());
    catch_up(&projector);
    assert_eq!(projector.dump().unwrap(), folded(&log));
    assert_eq!(projector.dump().unwrap().dead_letters, 5);
    assert_eq!(opening.counted("tally_projector_dead_letters_total"), 5);
    assert_eq!(projector.status().failure, None);
    projector.checkpoint().unwrap();
    drop(projector);

    // Killed and restarted, with new poison.
    let position = log.add_raw(0, b"", b"again");
    let projector = open(&log, dir.path());
    catch_up(&projector);
    let status = projector.status();
    let counted: u64 = status.partitions.iter().map(|p| p.dead_letters).sum();
    assert_eq!(counted, 6);
    projector.stop(Duration::from_secs(30)).unwrap();
    drop(projector);

    let mut expected = expected;
    expected.insert(position, (DeadLetterReason::Undecodable, b"again".to_vec()));
    let stored = stored(dir.path(), log.identity.partitions);
    let positions: Vec<_> = expected.keys().collect();
    assert_eq!(stored.keys().collect::<Vec<_>>(), positions);
    for ((position, (reason, value)), (_, letter)) in expected.iter().zip(stored.values()) {
        assert_eq!(letter["reason"], reason.as_str(), "{position}");
        assert_eq!(letter["value"], serde_json::json!(value), "{position}");
        assert_eq!(letter["append_time_millis"], NOW);
        assert_ne!(letter["detail"], "");
    }
}

/// Protects: whoever waits for an event that became a dead letter is told so, with the reason.
#[test]
fn the_waiter_of_a_dead_letter_is_told() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let projector = open(&log, dir.path());
    let future = minutes_ahead(6);
    let just_in_time = minutes_ahead(5);
    let waiters = [&future, &just_in_time].map(|event| waiter(&projector, event));
    log.add_all(&[future, just_in_time]);
    let [future, just_in_time] = waiters.map(|waiter| wait(waiter).unwrap());
    assert_eq!(future, EventFate::DeadLetter(DeadLetterReason::FutureTime));
    assert!(matches!(just_in_time, EventFate::Folded(_)));
    let view = projector.read(resource(15), &user(1)).unwrap();
    assert_eq!(view.counters.likes, 1);

    // Waited for in the partition it was sent to, which is not its home.
    let misplaced = event(1, 15, InteractionType::Share, None);
    let home = misplaced.resource.partition(log.identity.partitions);
    let elsewhere = (home + 1) % log.identity.partitions;
    let mailbox = tally_projector::Mailbox::direct();
    let waiter = projector.wait_for_event(elsewhere, misplaced.id, &mailbox);
    log.add_raw(elsewhere, b"ai_note:15", &tally_domain::encode(&misplaced));
    let reason = DeadLetterReason::WrongPartition;
    assert_eq!(wait(waiter.unwrap()), Ok(EventFate::DeadLetter(reason)));
}

/// All dead letters of a partition, in pages of so many.
fn paged(projector: &Projector, partition: u32, at_most: usize) -> Vec<DeadLetter> {
    let mut all: Vec<DeadLetter> = Vec::new();
    let mut offset = 0;
    loop {
        let page = projector
            .dead_letters(Position { partition, offset }, at_most)
            .unwrap();
        assert!(page.len() <= at_most);
        let Some(last) = page.last() else {
            return all;
        };
        offset = last.position.offset + 1;
        all.extend(page);
    }
}

/// Protects: every dead letter can be read, once and in order, wherever it is: written down, taken
/// by a checkpoint that failed, or new; and the bytes are the record's.
#[test]
fn dead_letters_are_read_wherever_they_are() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let disk = FaultyDisk::default();
    let opening = Opening::on(&disk);
    let projector = opening.open(&log, dir.path());
    let mut expected = Vec::new();
    let mut add = |many: u8| {
        log.add_all(&history(0, 20));
        for n in 0..many {
            let value = [b'\xff', n];
            expected.push((log.add_raw(1, &[b'k', n], &value), value.to_vec()));
            log.add_raw(2, b"", b"of another partition");
        }
        catch_up(&projector);
        expected.clone()
    };
    for (many, disk_fails) in [(0, false), (5, false), (4, true), (3, true), (0, false)] {
        let expected = add(many);
        for at_most in [1, 4, 100] {
            let found = paged(&projector, 1, at_most);
            let found: Vec<_> = found
                .into_iter()
                .map(|letter| (letter.position, letter.value))
                .collect();
            assert_eq!(found, expected, "{many} more, {at_most} at a time");
        }
        disk.watch(disk_fails.then_some(0));
        assert_eq!(projector.checkpoint().is_err(), disk_fails);
        assert_eq!(paged(&projector, 1, 3).len(), expected.len());
    }
    let letter = &paged(&projector, 1, 1)[0];
    assert_eq!(letter.reason, DeadLetterReason::Undecodable);
    assert_eq!(
        (&*letter.key, letter.append_time_millis),
        (&b"k\0"[..], NOW)
    );
    let nowhere = Position {
        partition: 99,
        offset: 0,
    };
    let refused = projector.dead_letters(nowhere, 1);
    assert!(matches!(refused, Err(StateError::NoSuchPartition(99))));
}

/// Protects memory: a page of large letters has few of them.
#[test]
fn a_page_is_bounded_in_bytes() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let projector = open(&log, dir.path());
    for _ in 0..5 {
        log.add_raw(0, b"", &vec![0xff; 600 << 10]);
    }
    catch_up(&projector);
    let from = Position {
        partition: 0,
        offset: 0,
    };
    assert_eq!(projector.dead_letters(from, 100).unwrap().len(), 2);
    assert_eq!(paged(&projector, 0, 100).len(), 5);
}
