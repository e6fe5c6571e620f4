//! Opening: one handle at a time, and refusals that change nothing.

use tally_log::embedded::{EmbeddedOptions, OpenError};
use tally_log::{AppendRefused, EventLog as _};

use crate::support::{
    PARTITIONS, PATIENCE, dir, fill, open, open_with, read_all, segment, small, try_append,
};
use tally_log::simulation::SimDisk;

/// A log is open once; it is free when it is closed or dropped.
#[test]
fn a_log_is_open_once() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let refused = open_with(&disk, small()).unwrap_err();
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    let checked = tally_log::embedded::check(&disk, dir()).unwrap_err();
    assert!(matches!(checked, OpenError::Locked { .. }), "{checked}");
    let mut expected = fill(&log, "a", 5);
    log.close(PATIENCE).unwrap();
    let (second, recovery) = open(&disk);
    assert!(recovery.clean);
    expected.extend(fill(&second, "b", 5));
    drop(second);
    let (third, recovery) = open(&disk);
    assert!(!recovery.clean);
    assert_eq!(recovery.recovered_records, 5);
    expected.sort();
    assert_eq!(read_all(&third).unwrap(), expected);
    // The one that was closed still reads what it knew.
    assert_eq!(read_all(&log).unwrap().len(), 5);
}

/// The number of partitions is fixed; the refusal says both numbers.
#[test]
fn another_number_of_partitions_is_refused() {
    let disk = SimDisk::default();
    drop(open(&disk));
    let other = EmbeddedOptions {
        partitions: PARTITIONS + 1,
        ..small()
    };
    let refused = open_with(&disk, other).unwrap_err();
    let OpenError::PartitionsDiffer { wanted, actual, .. } = refused else {
        panic!("{refused}");
    };
    assert_eq!((wanted, actual), (PARTITIONS + 1, PARTITIONS));
}

/// A format that this program does not know is left alone.
#[test]
fn another_version_is_refused() {
    let disk = SimDisk::default();
    drop(open(&disk));
    for (file, place, new) in [
        (segment(1), 8, 2),
        (dir().join("identity"), "tally-log ".len(), b'2'),
    ] {
        let other = disk.copy();
        other.edit(&file, |bytes| bytes[place] = new);
        let refused = open_with(&other, small()).unwrap_err();
        assert!(
            matches!(&refused, OpenError::OtherVersion { file: told, found: 2 } if *told == file),
            "{refused}"
        );
    }
}

/// Options out of bounds are refused by name before anything is made.
#[test]
fn options_have_bounds() {
    let with = |change: fn(&mut EmbeddedOptions)| {
        let mut options = small();
        change(&mut options);
        options
    };
    for (options, name) in [
        (with(|o| o.partitions = 0), "partitions"),
        (with(|o| o.partitions = 4097), "partitions"),
        (with(|o| o.segment_bytes = 4095), "segment_bytes"),
        (with(|o| o.segment_bytes = u64::MAX), "segment_bytes"),
        (with(|o| o.max_group_bytes = 1), "max_group_bytes"),
        (with(|o| o.max_group_bytes = usize::MAX), "max_group_bytes"),
        (with(|o| o.max_queue_bytes = 0), "max_queue_bytes"),
        (with(|o| o.max_queue_records = 0), "max_queue_records"),
    ] {
        let disk = SimDisk::default();
        let refused = open_with(&disk, options).unwrap_err();
        assert!(
            matches!(refused, OpenError::BadOption { option, .. } if option == name),
            "{name}: {refused}"
        );
        assert!(disk.files().is_empty());
    }
}

/// Sizes may change from start to start.
#[test]
fn sizes_may_change() {
    let disk = SimDisk::default();
    let mut expected = Vec::new();
    for (life, segment_bytes) in [4096, 65_536, 8192, 4096].into_iter().enumerate() {
        let options = EmbeddedOptions {
            segment_bytes,
            ..small()
        };
        let (log, _) = open_with(&disk, options).unwrap();
        expected.extend(fill(&log, &life.to_string(), 50));
        expected.sort();
        assert_eq!(read_all(&log).unwrap(), expected);
    }
}

/// Starts without an append leave no files behind.
#[test]
fn restarts_do_not_pile_up_files() {
    let disk = SimDisk::default();
    for life in 0..6 {
        let (log, recovery) = open(&disk);
        assert_eq!(recovery.created, life == 0);
        if life % 2 == 0 {
            log.close(PATIENCE).unwrap();
        }
        drop(log);
        assert_eq!(disk.files(), [segment(1), dir().join("identity")]);
    }
}

/// The bytes that wait are bounded too, and one append is no larger than a group.
#[test]
fn bytes_that_wait_are_bounded() {
    let disk = SimDisk::default();
    let options = EmbeddedOptions {
        max_group_bytes: 64 * 1024,
        ..small()
    };
    let (log, _) = open_with(&disk, options).unwrap();
    let refused = try_append(&log, &[(0, vec![0; 40_000]), (1, vec![0; 40_000])]);
    assert!(matches!(refused, Err(AppendRefused::Invalid(_))));
    assert_eq!(log.head().unwrap(), [0, 0, 0]);
}
