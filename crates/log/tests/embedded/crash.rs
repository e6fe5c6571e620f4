//! Crashes and kills at every point, with a disk that loses what was not synced.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;

use proptest::prelude::*;
use tally_domain::Position;
use tally_log::embedded::{EmbeddedLog, check};
use tally_log::{AppendError, AppendRefused, EventLog as _};

use crate::support::{
    Contents, PARTITIONS, PATIENCE, Results, append, append_one, dir, fill, open, open_with,
    read_all, segment, small, try_append,
};
use tally_log::simulation::{Op, SimDisk};

/// What somebody does with a log.
#[derive(Debug, Clone)]
enum Action {
    /// An append of values of these lengths.
    Append(Vec<usize>),
    /// Waits for all appends that were not waited for.
    Wait,
    /// So many writes fail since the disk is full.
    Full(usize),
}

/// How a life ends; a crash or kill may come in the midst of it.
#[derive(Debug, Clone)]
enum End {
    Close,
    Kill { after: usize },
    Crash { after: usize, seed: u64 },
}

#[derive(Debug, Clone)]
struct Life {
    actions: Vec<Action>,
    end: End,
}

fn lives() -> impl Strategy<Value = Vec<Life>> {
    let len = prop_oneof![4 => 0..200_usize, 1 => 0..6000_usize];
    let append = prop::collection::vec(len, 1..5).prop_map(Action::Append);
    let action = prop_oneof![
        12 => append,
        4 => Just(Action::Wait),
        1 => (1..4_usize).prop_map(Action::Full),
    ];
    let after = || prop_oneof![0..12_usize, 0..120_usize];
    let end = prop_oneof![
        1 => Just(End::Close),
        2 => after().prop_map(|after| End::Kill { after }),
        4 => (after(), any::<u64>()).prop_map(|(after, seed)| End::Crash { after, seed }),
    ];
    let life = (prop::collection::vec(action, 0..25), end)
        .prop_map(|(actions, end)| Life { actions, end });
    prop::collection::vec(life, 1..6)
}

/// What is known of an append that was made.
struct Made {
    records: Vec<(u32, Vec<u8>)>,
    results: Receiver<Results>,
}

/// What must be true of a log, whatever happened.
#[derive(Default)]
struct Model {
    /// Acknowledged, or read once.
    there: BTreeMap<Position, Vec<u8>>,
    /// Told to be not written.
    never: Vec<Vec<u8>>,
    /// Of unknown fate, by append.
    perhaps: Vec<Vec<Vec<u8>>>,
    made: u32,
}

impl Model {
    fn act(&mut self, log: &EmbeddedLog, disk: &SimDisk, actions: &[Action]) -> Vec<Made> {
        let mut waiting: Vec<Made> = Vec::new();
        for action in actions {
            match action {
                Action::Append(lens) => {
                    let records: Vec<_> = lens.iter().map(|len| self.record(*len)).collect();
                    match try_append(log, &records) {
                        Ok(results) => waiting.push(Made { records, results }),
                        Err(AppendRefused::Closed(_)) => break,
                        Err(other) => panic!("{other}"),
                    }
                }
                Action::Wait => self.settle(std::mem::take(&mut waiting)),
                Action::Full(count) => {
                    let left = AtomicUsize::new(*count);
                    disk.set_fault(move |_, op| {
                        let writes = matches!(op, Op::Write { .. } | Op::Create);
                        let fails = writes
                            && left
                                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                                    left.checked_sub(1)
                                })
                                .is_ok();
                        fails.then_some(io::ErrorKind::StorageFull)
                    });
                }
            }
        }
        waiting
    }

    /// No two records are the same.
    fn record(&mut self, len: usize) -> (u32, Vec<u8>) {
        self.made += 1;
        let mut value = self.made.to_le_bytes().to_vec();
        value.resize(4 + len, 7);
        (self.made % PARTITIONS, value)
    }

    /// Takes in what the log says of appends.
    fn settle(&mut self, waiting: Vec<Made>) {
        for Made { records, results } in waiting {
            let results = results.recv_timeout(PATIENCE).unwrap();
            assert_eq!(results.len(), records.len());
            let mut unknown = Vec::new();
            for (result, (partition, value)) in results.into_iter().zip(records) {
                match result {
                    Ok(offset) => {
                        let position = Position { partition, offset };
                        assert_eq!(self.there.insert(position, value), None);
                    }
                    Err(AppendError::FateUnknown(_)) => unknown.push(value),
                    Err(_) => {
                        self.never.push(value);
                    }
                }
            }
            self.perhaps.push(unknown);
        }
    }

    /// What was there is there, at its place; what is new was of unknown fate, and whole.
    fn look(&mut self, found: Contents) {
        let found: BTreeMap<_, _> = found.into_iter().collect();
        for (position, value) in &self.there {
            assert_eq!(found.get(position), Some(value), "{position:?}");
        }
        let is_new = |(position, _): &(&Position, &Vec<u8>)| !self.there.contains_key(position);
        let new: Vec<_> = found.iter().filter(is_new).map(|(_, v)| v).collect();
        for value in &new {
            assert!(!self.never.contains(value), "it was told to be not written");
        }
        let mut explained = 0;
        for append in &self.perhaps {
            let there = append.iter().filter(|value| new.contains(value)).count();
            assert!(there == 0 || there == append.len(), "half of an append");
            explained += there;
        }
        assert_eq!(explained, new.len(), "records from nowhere");
        self.there = found;
        // What was not found is cut off for good.
        for value in std::mem::take(&mut self.perhaps).into_iter().flatten() {
            if !self.there.values().any(|there| *there == value) {
                self.never.push(value);
            }
        }
    }

    fn open(&mut self, disk: &SimDisk) {
        let (log, _) = open(disk);
        self.look(read_all(&log).unwrap());
    }
}

fn live(model: &mut Model, disk: SimDisk, life: &Life) -> SimDisk {
    if let End::Kill { after } | End::Crash { after, .. } = life.end {
        disk.crash_after(after);
    }
    if let Ok((log, _)) = open_with(&disk, small()) {
        let found = read_all(&log);
        if let Ok(found) = found {
            model.look(found);
        }
        let waiting = model.act(&log, &disk, &life.actions);
        if matches!(life.end, End::Close) {
            log.close(PATIENCE).unwrap_or_default();
        }
        drop(log);
        model.settle(waiting);
    }
    match life.end {
        End::Close | End::Kill { .. } => disk.after_kill(),
        End::Crash { seed, .. } => disk.after_crash(seed),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done, and wherever the process or the machine dies: what was acknowledged or
    /// read once stays, what was told to be not written never appears, and no append is there by
    /// half. Recovery may be killed too.
    #[test]
    fn what_was_acknowledged_is_there_and_nothing_is_half_there(lives in lives()) {
        let mut model = Model::default();
        let mut disk = SimDisk::default();
        for life in &lives {
            disk = live(&mut model, disk, life);
        }
        model.open(&disk);
        let report = check(&disk, dir()).unwrap();
        prop_assert!(report.is_whole(), "{:?}", report.damage);
        prop_assert_eq!(report.records, model.there.len() as u64);
    }
}

/// Protects a log that is just being made: killed at any step, and then the machine at any step of the
/// next start, it opens. (A name that only the page cache had was lost, while that of a file made after it
/// stayed.)
#[test]
fn a_log_that_is_being_made_survives_a_kill_and_then_a_crash() {
    for killed in 0..12 {
        for crashed in 0..12 {
            for seed in 0..24 {
                let life = |end| Life {
                    actions: Vec::new(),
                    end,
                };
                let mut model = Model::default();
                let kill = life(End::Kill { after: killed });
                let disk = live(&mut model, SimDisk::default(), &kill);
                let crash = life(End::Crash {
                    after: crashed,
                    seed,
                });
                let disk = live(&mut model, disk, &crash);
                model.open(&disk);
            }
        }
    }
}

/// A killed log with 20 acknowledged groups and one more, of three records, that was written and
/// not acknowledged; and where that one stands.
fn with_a_last_group() -> (SimDisk, Contents, Range<u64>) {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let acknowledged = fill(&log, "a", 20);
    disk.done();
    disk.set_fault(|_, op| (op == Op::Sync).then_some(io::ErrorKind::Other));
    let last = (0..3).map(|partition| (partition, vec![0xff; 50]));
    let results = append(&log, &last.collect::<Vec<_>>()).recv_timeout(PATIENCE);
    for result in results.unwrap() {
        assert!(matches!(result, Err(AppendError::FateUnknown(_))));
    }
    drop(log);
    let written = disk.done().into_iter().find_map(|(_, op)| op.written());
    (disk.copy(), acknowledged, written.unwrap())
}

type Tear<'a> = &'a dyn Fn(&mut Vec<u8>);

/// A write that was torn at any byte is cut off and reported, and what was acknowledged before it
/// is there; a write that is whole is kept.
#[test]
fn a_torn_end_is_cut_off_at_every_byte() {
    let (disk, acknowledged, last) = with_a_last_group();
    let file = segment(1);
    let size = disk.bytes(&file).len();
    let (start, end) = (usize_of(last.start), usize_of(last.end));
    for cut in start..=end {
        let tears: [Tear<'_>; 3] = [
            &|bytes| bytes.truncate(cut),
            &|bytes| bytes[cut..].fill(0),
            &|bytes| bytes[cut..size].fill(0xa5),
        ];
        for (tear, how) in tears.into_iter().zip(["cut", "zeros", "garbage"]) {
            let torn = disk.copy();
            torn.edit(&file, tear);
            let report = check(&torn, dir()).unwrap();
            assert!(report.is_whole(), "{how} at {cut}: {report:?}");
            let (log, recovery) = open(&torn);
            let mut read = read_all(&log).unwrap();
            // Its last byte is a zero that pads it.
            let whole = cut == end || (cut == end - 1 && how == "zeros");
            if whole {
                assert_eq!(recovery.recovered_records, report.records, "{how} at {cut}");
                read.retain(|(_, value)| value != &[0xff; 50]);
            }
            assert_eq!(read, acknowledged, "{how} at {cut}");
            let left = how == "garbage" || (cut != start && !whole);
            let place = if whole { last.end } else { last.start };
            let told = left.then(|| (file.clone(), place));
            assert_eq!(recovery.cut_at, told, "{how} at {cut}");
            assert_eq!(
                report.torn.map(|torn| (torn.file, torn.byte)),
                told,
                "{how} at {cut}"
            );
            assert_eq!(recovery.cut_bytes > 0, left, "{how} at {cut}");
        }
    }
}

fn usize_of(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

/// What a killed process wrote and did not sync is synced before anybody reads it: a crash of the
/// machine right after can't take it back. A footer that was not synced neither.
#[test]
fn what_is_recovered_is_synced_before_it_is_read() {
    for sealed in [false, true] {
        let disk = SimDisk::default();
        let (log, _) = open(&disk);
        let mut expected = fill(&log, "a", 2);
        disk.set_fault(|_, op| (op == Op::Sync).then_some(io::ErrorKind::Other));
        if sealed {
            log.close(PATIENCE).unwrap();
        } else {
            append_one(&log, 2, b"unknown").unwrap_err();
            expected.push((
                Position {
                    partition: 2,
                    offset: 0,
                },
                b"unknown".to_vec(),
            ));
            expected.sort();
        }
        drop(log);
        let disk = disk.after_kill();
        let (log, recovery) = open(&disk);
        assert_eq!(recovery.clean, sealed);
        let synced = disk.done();
        assert!(synced.contains(&(segment(1), Op::Sync)), "{synced:?}");
        assert_eq!(read_all(&log).unwrap(), expected);
        drop(log);
        for seed in 0..200 {
            let (log, _) = open(&disk.after_crash(seed));
            assert_eq!(read_all(&log).unwrap(), expected, "seed {seed}");
        }
    }
}

/// After a failed sync Linux takes the pages for clean: they read back, and a later sync has nothing
/// to do. What a start keeps of them it must write again, or a power cut takes it after all.
#[test]
fn what_a_failed_sync_left_is_written_again() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let mut expected = fill(&log, "a", 2);
    let mut once = true;
    disk.set_fault(move |_, op| {
        (op == Op::Sync && std::mem::take(&mut once)).then_some(io::ErrorKind::Other)
    });
    append_one(&log, 2, b"unknown").unwrap_err();
    drop(log);
    let disk = disk.after_kill();
    let (log, _) = open(&disk);
    let partition = 2;
    let offset = 0;
    expected.push((Position { partition, offset }, b"unknown".to_vec()));
    expected.sort();
    assert_eq!(read_all(&log).unwrap(), expected, "readers are given it");
    expected.extend(fill(&log, "b", 3));
    drop(log);
    expected.sort();
    for seed in 0..20 {
        let (log, _) = open(&disk.after_crash(seed));
        assert_eq!(read_all(&log).unwrap(), expected, "seed {seed}");
    }
}

/// A write that failed half-way may have left all of a group but its padding. Who was told that it was
/// not written must not find it there after a power cut, or a retry counts twice.
#[test]
fn what_was_told_to_be_not_written_does_not_come_back() {
    for seed in 0..400 {
        let disk = SimDisk::with_seed(seed);
        let (log, _) = open(&disk);
        let expected = fill(&log, "a", 2);
        let mut once = true;
        disk.set_fault(move |_, op| {
            let fails = matches!(op, Op::Write { .. }) && std::mem::take(&mut once);
            fails.then_some(io::ErrorKind::StorageFull)
        });
        let refused = append_one(&log, 2, b"not written").unwrap_err();
        assert!(matches!(refused, AppendError::DiskFull(_)), "{refused}");
        drop(log);
        let (log, _) = open(&disk.after_crash(seed));
        assert_eq!(read_all(&log).unwrap(), expected, "seed {seed}");
    }
}
