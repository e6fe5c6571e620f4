//! A log that is shown up to given offsets, at a rate: to exactly one position, and without end to nothing.

use std::sync::Arc;
use std::time::Duration;

use tally_domain::{Offset, Position};
use tally_log::simulation::SimDisk;
use tally_log::{Batch, EventLog, LimitedLog, LogReader};

use crate::support::{append, from, open_with, small};

/// What comes until all below these offsets was shown, by partition; not for ever.
fn shown(reader: &mut dyn LogReader, until: &[Offset]) -> Vec<Vec<Offset>> {
    let mut shown = vec![Vec::new(); until.len()];
    let mut batch = Batch::new();
    for _ in 0..1_000 {
        let at = reader.positions();
        if at.iter().map(|at| at.offset).eq(until.iter().copied()) {
            return shown;
        }
        reader.next(&mut batch, Duration::from_millis(10)).unwrap();
        for record in batch.iter() {
            let Position { partition, offset } = record.position;
            shown[partition as usize].push(offset);
        }
    }
    panic!(
        "it stands still at {:?}, before {until:?}",
        reader.positions()
    );
}

/// Protects a rebuild beside a server under load: a partition is shown to its end although the others are held
/// far behind, with more between than is read at once. (It never came to its end.)
#[test]
fn a_partition_is_shown_while_others_are_held_far_behind() {
    const EACH: u64 = 400;
    let disk = SimDisk::default();
    let (log, _) = open_with(
        &disk,
        tally_log::embedded::EmbeddedOptions {
            segment_bytes: 16 << 20,
            max_queue_bytes: 8 << 20,
            ..small()
        },
    )
    .unwrap();
    for _ in 0..EACH {
        let records = [0, 1, 2].map(|partition| (partition, vec![b'x'; 10_000]));
        append(&log, &records).recv().unwrap();
    }
    let log: Arc<dyn EventLog> = Arc::new(log);
    let limited = LimitedLog::new(Arc::clone(&log), None).unwrap();
    let mut reader = limited.reader(&from(&[0, 0, 0])).unwrap();
    let mut all = vec![Vec::new(); 3];
    for until in [
        [10, 10, 10],
        [10, EACH, 10],
        [10, EACH, EACH - 1],
        [11, EACH, EACH],
        [EACH, EACH, EACH],
    ] {
        limited.advance(&until);
        for (all, more) in all.iter_mut().zip(shown(reader.as_mut(), &until)) {
            all.extend(more);
        }
        for (all, until) in all.iter().zip(until) {
            assert_eq!(*all, (0..until).collect::<Vec<_>>());
        }
    }
}

/// Protects whoever is watched for standing still: however low the rate, what is handed over at once is little.
#[test]
fn a_rate_hands_over_a_part_of_a_second_at_once() {
    let disk = SimDisk::default();
    let (log, _) = open_with(&disk, small()).unwrap();
    let records: Vec<_> = (0..50).map(|n| (n % 3, vec![b'x'; 10])).collect();
    append(&log, &records).recv().unwrap();
    let log: Arc<dyn EventLog> = Arc::new(log);
    let heads = log.head().unwrap();
    let limited = LimitedLog::paced(Arc::clone(&log), 40);
    let mut reader = limited.reader(&from(&[0, 0, 0])).unwrap();
    let mut batch = Batch::new();
    let mut seen = vec![0; 3];
    while seen != heads {
        reader.next(&mut batch, Duration::from_secs(1)).unwrap();
        assert!(batch.len() <= 10, "{} of 40 a second", batch.len());
        for record in batch.iter() {
            let Position { partition, offset } = record.position;
            assert_eq!(seen[partition as usize], offset);
            seen[partition as usize] += 1;
        }
        let positions: Vec<Offset> = reader.positions().iter().map(|at| at.offset).collect();
        assert_eq!(positions, seen);
    }
}
