//! Copies between two logs in files, and what goes wrong on the way.

mod log;

use std::time::{SystemTime, UNIX_EPOCH};

use tally_domain::{EventTime, SettleAction, Settlement, encode_settlement};
use tally_log::NewRecord;

use super::*;
use crate::test_events;
use log::{Fault, TestLog};

const PARTITIONS: u32 = 4;

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

fn event(number: u64, at: u64) -> NewRecord {
    test_events::event(number, at, PARTITIONS)
}

fn events(numbers: std::ops::Range<u64>) -> Vec<NewRecord> {
    let at = now();
    numbers.map(|number| event(number, at)).collect()
}

/// What is no event.
fn garbage(partition: Partition) -> NewRecord {
    NewRecord {
        partition,
        key: b"x".to_vec(),
        value: b"\xff garbage".to_vec(),
        traceparent: None,
    }
}

/// What a copy says on its way.
#[derive(Default)]
struct Said {
    steps: Vec<(Step, u64)>,
    left_out: Vec<Position>,
}

impl Watch for Said {
    fn begins(&mut self, step: Step, offsets: u64) {
        self.steps.push((step, offsets));
    }
    fn moved(&mut self, _: u64) {}
    fn left_out(&mut self, position: Position) {
        self.left_out.push(position);
    }
}

fn copy(source: &TestLog, destination: &TestLog) -> Result<(Copied, Proof, Said), CopyError> {
    let mut said = Said::default();
    let mut copying = Copying::begin(source, destination, &mut said)?;
    let copied = copying.run(&mut said)?;
    Ok((copied, copying.prove(&mut said)?, said))
}

fn failed(source: &TestLog, destination: &TestLog) -> (CopyError, String) {
    let error = copy(source, destination).map(|_| ()).unwrap_err();
    let text = error.to_string();
    (error, text)
}

fn counts(copied: u64, already_there: u64, left_out: u64) -> Copied {
    Copied {
        copied,
        already_there,
        left_out,
        gaps: false,
    }
}

/// Protects every record and its place, of any content, and the digest that proves it.
#[test]
fn a_copy_has_the_same_records_and_folds_to_the_same() {
    let mut records = events(0..500);
    records.insert(100, garbage(1));
    records.insert(200, garbage(3));
    // In a partition that is not its own.
    let mut stray = event(1_000, now());
    stray.partition = (stray.partition + 1) % PARTITIONS;
    records.insert(300, stray);
    let (source, destination) = (TestLog::of(&records), TestLog::new());
    let (copied, proof, said) = copy(&source, &destination).unwrap();
    assert_eq!(copied, counts(503, 0, 0));
    assert_eq!(destination.records(), source.records());
    assert_eq!(proof.source, proof.destination);
    assert_ne!(proof.source, Digest::default());
    assert_eq!(said.steps, [(Step::Copying, 503), (Step::Proving, 503)]);
    // Once more, there is nothing to do, and the same proof.
    let (copied, again, _) = copy(&source, &destination).unwrap();
    assert_eq!((copied, again), (counts(0, 503, 0), proof));
}

/// Protects records that are larger than a chunk, or many more than one.
#[test]
fn what_does_not_fit_into_one_chunk_is_copied_in_order() {
    let mut records = events(0..20_000);
    let large = NewRecord {
        value: vec![b'x'; 1 << 20],
        ..garbage(0)
    };
    records.insert(10_000, large);
    let source = TestLog::of(&records);
    let destination = TestLog::faulty([Fault::QueueFull, Fault::None, Fault::QueueFull]);
    let (copied, proof, _) = copy(&source, &destination).unwrap();
    assert_eq!(copied, counts(20_001, 0, 0));
    assert_eq!(destination.records(), source.records());
    assert_eq!(proof.source, proof.destination);
}

/// Protects counters from events that never counted: the destination would take them later than the
/// source did.
#[test]
fn an_event_from_too_far_in_the_future_is_left_out_and_named() {
    let ahead = |number| event(number, now() + 3_600_000);
    let (first, second) = (ahead(1), ahead(2));
    let records = [
        events(0..50),
        vec![first.clone()],
        events(50..99),
        vec![second],
    ]
    .concat();
    let source = TestLog::of(&records);
    let destination = TestLog::new();
    let (copied, proof, said) = copy(&source, &destination).unwrap();
    assert_eq!(copied, counts(99, 0, 2));
    assert_eq!(proof.source, proof.destination);
    let partitions: Vec<_> = said.left_out.iter().map(|at| at.partition).collect();
    assert!(partitions.contains(&first.partition), "{:?}", said.left_out);
    let of = |log: &TestLog| log.records().concat();
    assert!(of(&source).iter().any(|(_, value)| *value == first.value));
    assert!(
        !of(&destination)
            .iter()
            .any(|(_, value)| *value == first.value)
    );
    // It is not taken for a difference when the copy is continued.
    source.add(&events(100..150));
    let (copied, proof, said) = copy(&source, &destination).unwrap();
    assert_eq!((copied, said.left_out.len()), (counts(50, 99, 2), 2));
    assert_eq!(proof.source, proof.destination);
}

/// Protects a copy that was interrupted: it is continued, and everything is there once.
#[test]
fn a_copy_that_failed_is_continued() {
    let records = events(0..20_000);
    let source = TestLog::of(&records[..2_000]);
    let destination = TestLog::faulty([Fault::NotWritten]);
    let (error, text) = failed(&source, &destination);
    assert!(
        matches!(
            error,
            CopyError::Append {
                copied: 0,
                gap: false,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(text.contains("Running it again continues"), "{text}");
    // Some of each partition is there, as after a kill.
    destination.add(&records[..700]);
    *destination.faults.lock() = [Fault::None, Fault::Closed].into();
    source.add(&records[2_000..12_000]);
    let (error, text) = failed(&source, &destination);
    let CopyError::Refused { copied, .. } = error else {
        panic!("{error:?}");
    };
    assert!((1..11_300).contains(&copied), "{copied}");
    assert!(
        text.contains(&format!("{copied} records were copied")),
        "{text}"
    );
    assert!(text.contains("Running it again continues"), "{text}");
    let (done, proof, said) = copy(&source, &destination).unwrap();
    assert_eq!(done, counts(11_300 - copied, 700 + copied, 0));
    assert_eq!(said.steps[0], (Step::Comparing, 2 * (700 + copied)));
    assert_eq!(destination.records(), source.records());
    assert_eq!(proof.source, proof.destination);
}

/// Protects whoever would continue what can't be continued.
#[test]
fn a_gap_in_the_destination_is_said_at_once_and_found_the_next_time() {
    let source = TestLog::of(&events(0..100));
    let destination = TestLog::faulty([Fault::FirstMissing]);
    let (error, text) = failed(&source, &destination);
    assert!(
        matches!(
            error,
            CopyError::Append {
                copied: 99,
                gap: true,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(text.contains("empty it, and copy again"), "{text}");
    let (error, text) = failed(&source, &destination);
    assert!(
        matches!(
            error,
            CopyError::Differs {
                from: Some(0),
                to: 0,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(text.contains("Nothing was copied"), "{text}");
}

/// Protects a log that is not this source's copy from being mixed with it.
#[test]
fn a_destination_that_is_another_log_is_refused_with_the_place() {
    let records = events(0..300);
    let source = TestLog::of(&records);
    // One byte of one key in the middle of a partition.
    let mut other = records.clone();
    let partition = records[0].partition;
    let of_it = |records: &[NewRecord]| {
        let mut all = (0..records.len()).filter(|at| records[*at].partition == partition);
        all.nth(7).unwrap()
    };
    let at = of_it(&records);
    other[at].key.push(b'!');
    let destination = TestLog::of(&other[..200]);
    let before = destination.records();
    let (error, text) = failed(&source, &destination);
    assert!(
        matches!(error, CopyError::Differs { partition: p, from: Some(7), to: 7 } if p == partition),
        "{error:?}"
    );
    for part in [
        format!("partition {partition}"),
        "offset 7 of the destination".to_owned(),
    ] {
        assert!(text.contains(&part), "{part:?} in {text}");
    }
    assert_eq!(destination.records(), before, "nothing was appended");

    // More than the source has.
    let destination = TestLog::of(&records);
    destination.add(&[garbage(2)]);
    let (error, text) = failed(&source, &destination);
    assert!(
        matches!(
            error,
            CopyError::Differs {
                partition: 2,
                from: None,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(text.contains("no more records"), "{text}");
}

/// Protects resources from changing their partition, and a copy from hiding what is gone.
#[test]
fn logs_of_another_shape_are_refused() {
    let source = TestLog::of(&events(0..10));
    let (error, text) = failed(&source, &TestLog::with_partitions(8));
    assert!(
        matches!(error, CopyError::Partitions { from: 4, to: 8 }),
        "{error:?}"
    );
    assert!(text.contains("log.partitions"), "{text}");
    for side in [Side::Source, Side::Destination] {
        let (mut source, mut destination) = (TestLog::new(), TestLog::new());
        let cut = match side {
            Side::Source => &mut source,
            Side::Destination => &mut destination,
        };
        cut.first = 17;
        let (error, text) = failed(&source, &destination);
        assert!(
            matches!(
                error,
                CopyError::Truncated {
                    first: 17,
                    partition: 2,
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(
            text.contains(&format!("the {side} begins at offset 17")),
            "{text}"
        );
    }
}

/// Protects the proof: it reads what is there, not what was sent.
#[test]
fn a_record_of_somebody_else_makes_the_digests_differ() {
    let source = TestLog::of(&events(0..10));
    let destination = TestLog::faulty([Fault::Foreign(event(1_000, now()))]);
    let (copied, proof, _) = copy(&source, &destination).unwrap();
    assert_eq!(copied, counts(10, 0, 0));
    assert_ne!(proof.source, proof.destination);
}

/// Protects the trace of a copied event, for logs whose records have headers.
#[test]
fn a_copied_event_begins_a_trace_of_its_own() {
    let (source, destination) = (TestLog::of(&[event(7, now()), garbage(0)]), TestLog::new());
    let _ = copy(&source, &destination).unwrap();
    let mut traces = destination.traces.lock().clone();
    traces.sort_by_key(Option::is_some);
    let wanted = TraceParent::of_event(EventId::from_u128(7));
    assert_eq!(traces, [None, Some(wanted)]);
}

/// A decision on what stands there.
fn settlement(action: SettleAction, partition: Partition, offset: u64) -> NewRecord {
    let value = encode_settlement(&Settlement {
        id: EventId::from_u128(77),
        at: EventTime::from_millis(now()),
        action,
        origin: Position { partition, offset },
        event: None,
    });
    NewRecord {
        partition,
        key: Vec::new(),
        value,
        traceparent: None,
    }
}

/// Protects replays and drops in a copy: each comes to the same there, for a letter that was left out
/// too, and a copy that is continued is the same copy.
#[test]
fn replays_and_drops_come_to_the_same_in_a_copy() {
    let (replay, drop) = (SettleAction::Replay, SettleAction::Drop);
    let early = now() + 300_000 + 1_500;
    let (replayed, dropped) = (event(1, early), event(18, early));
    let partition = replayed.partition;
    assert_eq!(dropped.partition, partition);
    let source = TestLog::of(&[garbage(partition), replayed.clone(), dropped.clone()]);
    source.add(&events(0..50));
    source.add(&[settlement(drop, partition, 2)]);
    // Too early at first.
    let before = source.head().unwrap()[partition as usize];
    while now() < early - 300_000 {
        source.add(&[settlement(replay, partition, 1)]);
    }
    source.add(&[
        settlement(replay, partition, 0),
        settlement(replay, partition, 1),
        settlement(replay, partition, 1),
        settlement(drop, partition, 0),
    ]);
    source.add(&events(50..60));
    assert!(source.head().unwrap()[partition as usize] > before + 5);

    let destination = TestLog::new();
    let (copied, proof, _) = copy(&source, &destination).unwrap();
    assert_eq!(copied.left_out, 2);
    assert_eq!(proof.source, proof.destination);
    assert_eq!(destination.head().unwrap(), source.head().unwrap());
    let there = destination.records();
    let there = &there[partition as usize];
    let stands = |letter: &NewRecord| there.iter().filter(|(_, v)| *v == letter.value).count();
    assert_eq!([stands(&replayed), stands(&dropped)], [1, 0]);
    let (again, same, _) = copy(&source, &destination).unwrap();
    assert_eq!((again.copied, again.already_there), (0, copied.copied));
    assert_eq!(same, proof);
}

/// Protects from a letter of another place: where the source has gaps a replay or a drop would name
/// another offset in the copy, and is not copied.
#[test]
fn a_replay_behind_a_gap_is_not_copied() {
    let (mut fold, mut done) = (Fold::new(PARTITIONS), Copied::default());
    let mut copied = |offset, record: &NewRecord| {
        let record = BatchRecord {
            position: Position {
                partition: 1,
                offset,
            },
            append_time_millis: now(),
            key: &record.key,
            value: &record.value,
        };
        fate(&mut fold, &mut done, record, &mut Said::default()).map(|_| ())
    };
    let drop = settlement(SettleAction::Drop, 1, 0);
    copied(0, &garbage(1)).unwrap();
    copied(1, &drop).unwrap();
    copied(3, &garbage(1)).unwrap();
    let text = copied(4, &drop).unwrap_err().to_string();
    assert!(
        text.contains("partition 1") && text.contains("at offset 4"),
        "{text}"
    );
    assert!(text.contains("gaps"), "{text}");
}
