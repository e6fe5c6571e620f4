//! Promises 3, 4, 5 and 7: a dead letter is replayed or dropped by an event of the log, once, wherever
//! it is, whatever is written, fails to be written or crashes in between.

use std::path::Path;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use tally_domain::{
    DeadLetter, Event, EventId, EventTime, InteractionType, LetterFate, Outcome, Position,
    SettleAction, Settlement, encode, encode_settlement,
};
use tally_projector::{EventFate, Mailbox, Options, Projector};
use tokio::sync::oneshot;

use crate::common::{
    FaultyDisk, LIMIT, MemoryLog, NOW, Opening, catch_up, event, eventually, folded, history,
    options, resource, settled, user, wait,
};

const HOUR: u64 = 3_600_000;

fn ahead(by: u64, id: u64, hours: u64) -> Event {
    Event {
        at: EventTime::from_millis(NOW + hours * HOUR),
        ..event(by, id, InteractionType::Like, Some(hours))
    }
}

/// A letter for its time alone, until so many hours have passed.
fn add_future(log: &MemoryLog, by: u64, id: u64, hours: u64) -> Position {
    let event = ahead(by, id, hours);
    let home = event.resource.partition(log.identity.partitions);
    log.add_raw(home, event.resource.key().as_bytes(), &encode(&event))
}

/// An event in the partition next to its own.
fn add_misplaced(log: &MemoryLog, by: u64, id: u64) -> (Position, Event) {
    let event = event(by, id, InteractionType::Share, None);
    let partitions = log.identity.partitions;
    let elsewhere = (event.resource.partition(partitions) + 1) % partitions;
    (log.add_raw(elsewhere, b"", &encode(&event)), event)
}

fn settlement(action: SettleAction, origin: Position, event: Option<Event>) -> Settlement {
    Settlement {
        id: EventId::now_v7(),
        at: EventTime::from_millis(NOW),
        action,
        origin,
        event: event.map(Box::new),
    }
}

type Told = (EventId, oneshot::Receiver<EventFate>);

/// Appends a decision where it belongs, and registers who waits for it.
fn add(log: &MemoryLog, projector: &Projector, settlement: &Settlement) -> Told {
    let event = settlement.event.as_ref();
    let home = event.map(|event| event.resource.partition(log.identity.partitions));
    let partition = home.unwrap_or(settlement.origin.partition);
    let told = projector.wait_for_event(partition, settlement.id, &Mailbox::direct());
    log.add_raw(partition, b"", &encode_settlement(settlement));
    (settlement.id, told.unwrap())
}

fn said(told: Told) -> LetterFate {
    match wait(told.1) {
        Ok(EventFate::Settled(fate)) => fate,
        other => panic!("{other:?}"),
    }
}

fn letters(projector: &Projector) -> Vec<Vec<DeadLetter>> {
    let partitions = 0..projector.log().identity().partitions;
    let of = |partition| {
        let mut from = Position {
            partition,
            offset: 0,
        };
        let mut all: Vec<DeadLetter> = Vec::new();
        loop {
            let page = projector.dead_letters(from, 3).unwrap();
            let Some(last) = page.last() else {
                return all;
            };
            from.offset = last.position.offset + 1;
            all.extend(page);
        }
    };
    partitions.map(of).collect()
}

fn tiny(disk: &FaultyDisk, memory: usize) -> Opening {
    Opening {
        storage: Arc::new(disk.clone()),
        ..Opening::with(Options {
            memory,
            ..options()
        })
    }
}

#[derive(Debug, Clone)]
enum Doing {
    /// So many events, of which some may wait for the store.
    Append(u64, u64),
    /// A letter for its time, so many hours ahead.
    Future(u64, u64),
    /// A letter in the wrong partition.
    Misplaced(u64),
    Garbage(u32),
    /// An hour passes.
    Later,
    /// Several decisions at once, each of a letter that there was once (counted round), with events
    /// between them.
    Settle(Vec<(usize, SettleAction)>),
    Checkpoint(usize),
    Crash,
}

fn doings() -> impl Strategy<Value = Vec<Doing>> {
    let action = proptest::sample::select(SettleAction::ALL);
    let doing = prop_oneof![
        2 => (any::<u32>(), 1u64..30).prop_map(|(seed, many)| Doing::Append(seed.into(), many)),
        3 => (0u64..8, 1u64..4).prop_map(|(id, hours)| Doing::Future(id, hours)),
        2 => (0u64..8).prop_map(Doing::Misplaced),
        1 => (0u32..4).prop_map(Doing::Garbage),
        1 => Just(Doing::Later),
        5 => vec((0usize..12, action), 1..5).prop_map(Doing::Settle),
        3 => (0usize..16).prop_map(Doing::Checkpoint),
        2 => Just(Doing::Crash),
    ];
    vec(doing, 1..24)
}

struct Life {
    log: MemoryLog,
    now: u64,
    disk: FaultyDisk,
    memory: usize,
    /// Every letter that ever was, with its event where that belongs elsewhere.
    all: Vec<(Position, Option<Event>)>,
}

impl Life {
    fn open(&self, dir: &Path) -> Projector {
        tiny(&self.disk, self.memory).open(&self.log, dir)
    }

    fn settle(&self, projector: &Projector, decisions: &[(usize, SettleAction)]) -> Vec<Told> {
        let mut told = Vec::new();
        for (which, action) in decisions {
            let Some((origin, event)) = self.all.get(which % self.all.len().max(1)) else {
                continue;
            };
            // What belongs elsewhere is replayed there, and stays a letter here.
            let event = event.clone().filter(|_| *action == SettleAction::Replay);
            told.push(add(
                &self.log,
                projector,
                &settlement(*action, *origin, event),
            ));
            self.log
                .add_all(&history(u64::try_from(*which).unwrap(), 2));
        }
        told
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Protects: what becomes of every replay and drop, every number, and the dead letters that are
    /// left are those of one fold of the log in memory; and a rebuild has them too.
    #[test]
    fn a_letter_is_settled_once_whatever_happens(doings in doings(), tiny: bool) {
        let (dir, rebuilt) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut life = Life {
            log: MemoryLog::new(),
            now: NOW,
            disk: FaultyDisk::default(),
            memory: if tiny { 1_000 } else { options().memory },
            all: Vec::new(),
        };
        let mut projector = life.open(dir.path());
        for doing in doings {
            match doing {
                Doing::Append(seed, many) => drop(life.log.add_all(&history(seed, many))),
                Doing::Future(id, hours) => {
                    life.all.push((add_future(&life.log, id % 2, id, hours), None));
                }
                Doing::Misplaced(id) => {
                    let (position, event) = add_misplaced(&life.log, id % 2, id);
                    life.all.push((position, Some(event)));
                }
                Doing::Garbage(partition) => {
                    life.all.push((life.log.add_raw(partition, b"k", b"\xff"), None));
                }
                Doing::Later => {
                    life.now += HOUR;
                    life.log.set_now(life.now);
                }
                Doing::Settle(decisions) => {
                    let told = life.settle(&projector, &decisions);
                    let (expected, _) = settled(&life.log);
                    for told in told {
                        let id = told.0;
                        prop_assert_eq!(said(told), expected[&id]);
                    }
                }
                Doing::Checkpoint(fail_at) => {
                    life.disk.watch(Some(fail_at));
                    // One that fails is no harm.
                    let _ = projector.checkpoint();
                    life.disk.watch(None);
                }
                Doing::Crash => {
                    drop(projector);
                    projector = life.open(dir.path());
                }
            }
            catch_up(&projector);
            prop_assert_eq!(projector.status().failure, None);
            prop_assert_eq!(projector.dump().unwrap(), folded(&life.log));
            let (_, left) = settled(&life.log);
            let counted: u64 = projector.status().partitions.iter().map(|p| p.dead_letters).sum();
            prop_assert_eq!(counted, left.iter().map(Vec::len).sum::<usize>() as u64);
            prop_assert_eq!(letters(&projector), left);
        }
        projector.stop(LIMIT).unwrap();
        let again = life.open(rebuilt.path());
        catch_up(&again);
        prop_assert_eq!(again.dump().unwrap(), folded(&life.log));
        prop_assert_eq!(letters(&again), settled(&life.log).1);
    }
}

/// Protects: a replay is judged by its own time, counts once, and leaves nothing; one that comes too
/// early leaves the letter; the last event that a start reads again may be one.
#[test]
fn a_replay_counts_once_its_time_has_come() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let opening = Opening::default();
    let projector = opening.open(&log, dir.path());
    let origin = add_future(&log, 1, 15, 2);
    catch_up(&projector);
    projector.checkpoint().unwrap();
    let replay = || settlement(SettleAction::Replay, origin, None);
    let early = said(add(&log, &projector, &replay()));
    let reason = tally_domain::DeadLetterReason::FutureTime;
    assert_eq!(early, LetterFate::Still(reason));
    log.set_now(NOW + 2 * HOUR);
    let applied = said(add(&log, &projector, &replay()));
    assert_eq!(applied, LetterFate::Folded(Outcome::Applied));
    for checkpoint in [false, true] {
        if checkpoint {
            projector.checkpoint().unwrap();
        }
        assert_eq!(said(add(&log, &projector, &replay())), LetterFate::Gone);
        let dropped = settlement(SettleAction::Drop, origin, None);
        assert_eq!(said(add(&log, &projector, &dropped)), LetterFate::Gone);
    }
    let view = projector.read(resource(15), &user(1)).unwrap();
    assert_eq!(view.counters.likes, 1);
    assert_eq!(opening.counted("tally_projector_events_total"), 1);
    projector.refresh_metrics();
    assert_eq!(opening.gauge("tally_projector_dead_letters"), 0.0);
    projector.stop(LIMIT).unwrap();
    drop(projector);
    let projector = crate::common::open(&log, dir.path());
    assert_eq!(projector.dump().unwrap(), folded(&log));
}

/// Protects: a letter whose event belongs elsewhere is folded there once, however often its replay
/// comes and wherever a crash leaves the drop of the letter itself.
#[test]
fn a_misplaced_letter_counts_once_where_it_belongs() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let mut projector = crate::common::open(&log, dir.path());
    let (origin, event) = add_misplaced(&log, 1, 15);
    let here = settlement(SettleAction::Replay, origin, None);
    let still = LetterFate::Still(tally_domain::DeadLetterReason::WrongPartition);
    assert_eq!(said(add(&log, &projector, &here)), still);
    let there = || settlement(SettleAction::Replay, origin, Some(event.clone()));
    let mut outcome = Outcome::Applied;
    for checkpoint in [false, true, false] {
        let fate = said(add(&log, &projector, &there()));
        assert_eq!(fate, LetterFate::Folded(outcome));
        outcome = Outcome::Duplicate;
        if checkpoint {
            projector.checkpoint().unwrap();
        }
        drop(projector);
        projector = crate::common::open(&log, dir.path());
        catch_up(&projector);
        assert_eq!(
            letters(&projector).concat().len(),
            1,
            "it is not dropped yet"
        );
    }
    let dropped = settlement(SettleAction::Drop, origin, None);
    assert_eq!(said(add(&log, &projector, &dropped)), LetterFate::Dropped);
    assert_eq!(letters(&projector).concat().len(), 0);
    let view = projector.read(resource(15), &user(1)).unwrap();
    assert_eq!(view.counters.shares, 1);
    assert_eq!(projector.dump().unwrap(), folded(&log));
}

/// Protects a start whose tail is full of replays: more than are read from the store at once, each
/// needing values too, are all folded, in their order.
#[test]
fn many_replays_behind_a_checkpoint_are_folded() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let origins: Vec<_> = (0..200).map(|n| add_future(&log, n, n % 9, 1)).collect();
    let disk = FaultyDisk::default();
    let projector = tiny(&disk, 1_000).open(&log, dir.path());
    catch_up(&projector);
    projector.stop(LIMIT).unwrap();
    drop(projector);
    log.set_now(NOW + HOUR);
    for origin in origins.iter().chain(&origins) {
        let replay = settlement(SettleAction::Replay, *origin, None);
        log.add_raw(origin.partition, b"", &encode_settlement(&replay));
    }
    let projector = tiny(&disk, 1_000).open(&log, dir.path());
    catch_up(&projector);
    assert_eq!(projector.dump().unwrap(), folded(&log));
    assert_eq!(projector.dump().unwrap().dead_letters, 0);
    let likes: u64 = projector
        .dump()
        .unwrap()
        .counters
        .iter()
        .map(|(_, c)| c.likes)
        .sum();
    assert_eq!(likes, 200);
}

/// Protects the export: what is settled before its copy is made is not waited for.
#[test]
fn a_letter_that_is_settled_is_not_left_to_export() {
    let (log, to) = (MemoryLog::new(), MemoryLog::new());
    let dir = tempfile::tempdir().unwrap();
    let opening = Opening::default();
    let projector = opening.open(&log, dir.path());
    let first = log.add_raw(0, b"", b"first");
    let second = log.add_raw(0, b"", b"second");
    for origin in [first, second] {
        let dropped = settlement(SettleAction::Drop, origin, None);
        assert_eq!(said(add(&log, &projector, &dropped)), LetterFate::Dropped);
    }
    log.add_raw(0, b"", b"third");
    catch_up(&projector);
    projector.export_dead_letters(to.arc()).unwrap();
    eventually("the third is copied, and nothing is left", || {
        opening.counted("tally_projector_dead_letters_exported_total") == 1
            && opening.gauge("tally_projector_dead_letters_to_export") == 0.0
    });
    let fourth = log.add_raw(0, b"", b"fourth");
    let dropped = settlement(SettleAction::Drop, fourth, None);
    assert_eq!(said(add(&log, &projector, &dropped)), LetterFate::Dropped);
    log.add_raw(0, b"", b"fifth");
    eventually("the fifth too", || {
        opening.counted("tally_projector_dead_letters_exported_total") >= 2
            && opening.gauge("tally_projector_dead_letters_to_export") == 0.0
    });
    projector.stop(LIMIT).unwrap();
}
