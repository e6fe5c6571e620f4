//! Damage below what was synced is refused or found, never silently wrong.

use std::path::PathBuf;

use tally_domain::Position;
use tally_log::embedded::{Damage, EmbeddedLog, EmbeddedOptions, OpenError, check};
use tally_log::{Batch, EventLog as _, ReadError};

use crate::support::{
    Contents, GROUP_BYTES, HEADER_BYTES, PATIENCE, append_one, dir, fill, from, last_segment, open,
    open_with, read_all, segment, small,
};
use tally_log::simulation::SimDisk;

/// A log of this many sealed segments.
fn closed(segments: u32) -> (SimDisk, Contents) {
    const GROUPS: u32 = 25;
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let contents = fill(&log, "a", GROUPS * (segments - 1) + 5);
    log.close(PATIENCE).unwrap();
    drop(log);
    assert_eq!(last_segment(&disk), segment(segments.into()));
    (disk.copy(), contents)
}

/// Everything that is read of a log, or where and how it is refused.
fn outcome(disk: &SimDisk) -> Result<Contents, Damage> {
    let (log, _) = match open_with(disk, small()) {
        Ok(opened) => opened,
        Err(OpenError::Damaged { damage }) => return Err(damage),
        Err(OpenError::OtherVersion { file, found }) => {
            return Err(Damage {
                file,
                byte: 0,
                what: format!("version {found}"),
            });
        }
        Err(other) => panic!("{other}"),
    };
    read_all(&log).map_err(|error| match error {
        ReadError::Damaged { place, what } => {
            let (file, byte) = place.split_once(", byte ").unwrap();
            Damage {
                file: PathBuf::from(file),
                byte: byte.parse().unwrap(),
                what,
            }
        }
        ReadError::OutOfRange { .. } | ReadError::Unavailable(_) | ReadError::Replaced(_) => {
            panic!("{error}")
        }
    })
}

/// One changed bit, at any byte of a log that was closed: the check finds it, in that file, at or
/// before that byte's frame; nobody reads a record that is wrong or misses one.
#[test]
fn every_changed_byte_of_a_closed_log_is_found() {
    let (disk, contents) = closed(2);
    let last = segment(2);
    let end = check(&disk, dir()).unwrap();
    assert!(end.is_whole());
    assert_eq!(end.records, contents.len() as u64);
    for file in disk.files() {
        for byte in 0..disk.bytes(&file).len() {
            let changed = disk.copy();
            changed.edit(&file, |bytes| bytes[byte] ^= 1 << (byte % 8));
            let at = format!("{} {byte}", file.display());
            if let Ok(report) = check(&changed, dir()) {
                let told = report.damage.first();
                // A last segment without its footer looks like one that was being written.
                let torn = report.torn.filter(|torn| torn.file == last);
                assert!(
                    told.is_some_and(|d| d.file == file && d.byte <= byte as u64)
                        || torn.is_some_and(|torn| file == last && torn.byte <= byte as u64),
                    "{at}: {told:?}"
                );
            }
            match outcome(&changed) {
                Err(damage) => assert_eq!(damage.file, file, "{at}"),
                Ok(read) => {
                    assert_eq!(file, last, "{at}");
                    assert!(read == contents, "{at}");
                }
            }
        }
    }
}

/// In the segment that was being written when the process was killed, a changed byte in any group
/// but the last is refused, since a later group says that it was synced; and nothing is changed.
#[test]
fn damage_before_the_last_group_of_a_killed_log_is_refused() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    fill(&log, "a", 11);
    append_one(&log, 0, b"last").unwrap();
    let bytes_of_last = 40 + 24 + 3 + 4 + 1;
    drop(log);
    let disk = disk.copy();
    let file = segment(1);
    let report = check(&disk, dir()).unwrap();
    let last = usize::try_from(report.bytes).unwrap() - bytes_of_last;
    for byte in 0..last {
        let changed = disk.copy();
        changed.edit(&file, |bytes| bytes[byte] ^= 1 << (byte % 8));
        let before = contents_of(&changed);
        let refused = open_with(&changed, small()).err();
        match refused {
            Some(OpenError::Damaged { damage }) => {
                assert_eq!(damage.file, file);
                assert!(damage.byte <= byte as u64, "{byte}: {damage}");
            }
            Some(OpenError::OtherVersion { .. }) if (8..12).contains(&byte) => {}
            other => panic!("{byte}: {other:?}"),
        }
        assert_eq!(contents_of(&changed), before, "{byte}");
        let report = check(&changed, dir()).unwrap();
        assert!(!report.is_whole(), "{byte}");
    }
}

fn contents_of(disk: &SimDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let files = disk.files().into_iter();
    files
        .map(|file| (file.clone(), disk.bytes(&file)))
        .collect()
}

/// The check goes on behind what is damaged, and tells all of it.
#[test]
fn the_check_tells_all_that_is_wrong() {
    let (disk, contents) = closed(4);
    let whole = check(&disk, dir()).unwrap();
    let flip = |number, byte: u64| {
        let byte = usize::try_from(byte).unwrap();
        disk.edit(&segment(number), |bytes| bytes[byte] ^= 1);
    };
    // The first record's key, and that of a group further on; a header; a footer.
    flip(1, HEADER_BYTES + 40 + 25);
    flip(1, HEADER_BYTES + 5 * GROUP_BYTES + 40 + 25);
    flip(2, 20);
    let footer = disk.bytes(&segment(3)).len() as u64 - 20;
    flip(3, footer);
    let report = check(&disk, dir()).unwrap();
    let told: Vec<_> = report.damage.iter().map(|d| (&d.file, d.byte)).collect();
    let [one, two, three] = [segment(1), segment(2), segment(3)];
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!(told[0], (&one, HEADER_BYTES));
    assert_eq!(told[1], (&one, HEADER_BYTES + 5 * GROUP_BYTES));
    assert_eq!(told[2], (&two, 0));
    assert_eq!(told[3].0, &three);
    // All but the two damaged groups.
    assert_eq!(report.records, contents.len() as u64 - 2);
    assert_eq!(report.heads, whole.heads);
    assert_eq!(report.identity, whole.identity);

    disk.delete(&segment(2));
    disk.delete(&dir().join("identity"));
    let report = check(&disk, dir()).unwrap();
    let told: Vec<_> = report.damage.iter().map(|d| d.to_string()).collect();
    assert!(told[0].starts_with("/log/identity, byte 0"), "{told:?}");
    assert!(told[3].contains("1 files are not there"), "{told:?}");
    assert_eq!(report.identity, whole.identity);
}

/// A segment that is not there, or is another log's, is refused.
#[test]
fn missing_and_foreign_segments_are_refused() {
    let (disk, _) = closed(4);
    let (other, _) = closed(4);
    let missing = disk.copy();
    missing.delete(&segment(2));
    assert_eq!(outcome(&missing).unwrap_err().file, segment(2));
    for number in 1..=4 {
        let foreign = disk.copy();
        foreign.edit(&segment(number), |bytes| {
            *bytes = other.bytes(&segment(number));
        });
        let damage = outcome(&foreign).unwrap_err();
        assert_eq!(damage.file, segment(number));
        assert_eq!(damage.what, "the segment belongs to another log");
    }
    let no_identity = disk.copy();
    no_identity.delete(&dir().join("identity"));
    assert_eq!(
        outcome(&no_identity).unwrap_err().file,
        dir().join("identity")
    );
    // An older copy of a segment is whole in itself, and does not fit to the next.
    let shorter = SimDisk::default();
    drop(open(&shorter));
    let older = disk.copy();
    older.edit(&segment(3), |bytes| *bytes = disk.bytes(&segment(2)));
    assert_eq!(outcome(&older).unwrap_err().file, segment(3));
}

/// Values that hold whole groups and footers of the log, at any alignment, never pass for any.
#[test]
fn values_that_look_like_frames_are_values() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let mut expected = fill(&log, "a", 5);
    let groups = disk.bytes(&segment(1))[usize_of(HEADER_BYTES)..1000].to_vec();
    let (closed, _) = closed(4);
    let mut copied = groups;
    copied.extend(closed.bytes(&segment(1)));
    for shift in 0..8 {
        let mut value = vec![0; shift];
        value.extend_from_slice(&copied);
        let offset = append_one(&log, 1, &value).unwrap();
        expected.push((
            Position {
                partition: 1,
                offset,
            },
            value,
        ));
        expected.sort();
        let killed = disk.copy();
        assert_eq!(outcome(&killed), Ok(expected.clone()), "shift {shift}");
        // The group is torn right at its start, so that what it holds is searched.
        let torn = disk.copy();
        let file = last_segment(&torn);
        torn.edit(&file, |bytes| bytes[usize_of(HEADER_BYTES)] ^= 1);
        let report = check(&torn, dir()).unwrap();
        assert!(report.is_whole(), "shift {shift}: {:?}", report.damage);
        let (log, recovery) = open(&torn);
        assert_eq!(recovery.cut_at, Some((file, HEADER_BYTES)));
        assert_eq!(read_all(&log).unwrap().len(), expected.len() - 1);
    }
}

/// Looking for what is whole behind a damaged group, the check does not take copies of earlier
/// groups of the same segment, which are in its values, for groups.
#[test]
fn the_check_does_not_find_groups_in_values() {
    let disk = SimDisk::default();
    let large = EmbeddedOptions {
        segment_bytes: 1024 * 1024,
        ..small()
    };
    let (log, _) = open_with(&disk, large).unwrap();
    fill(&log, "a", 5);
    let groups = disk.bytes(&segment(1))[usize_of(HEADER_BYTES)..1000].to_vec();
    let mut copied_at = Vec::new();
    for shift in 0..8 {
        let before: u64 = disk
            .done()
            .iter()
            .filter_map(|(_, op)| op.written())
            .map(|w| w.end)
            .max()
            .unwrap();
        copied_at.push(usize_of(before));
        let mut value = vec![0; shift];
        value.extend_from_slice(&groups);
        append_one(&log, 1, &value).unwrap();
    }
    fill(&log, "b", 5);
    log.close(PATIENCE).unwrap();
    drop(log);
    for at in copied_at {
        let damaged = disk.copy();
        damaged.edit(&segment(1), |bytes| bytes[at] ^= 1);
        let report = check(&damaged, dir()).unwrap();
        assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
        assert_eq!(report.damage[0].byte, at as u64);
        assert_eq!(report.records, 5 + 8 + 5 - 1);
    }
}

fn usize_of(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

/// What rots while the log is open is found by whoever reads it: whole records before it are given
/// out, then the error, again and again, with file and byte.
#[test]
fn a_reader_stops_at_damage() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let contents = fill(&log, "a", 9);
    let third = HEADER_BYTES + 2 * GROUP_BYTES;
    disk.edit(&segment(1), |bytes| {
        bytes[usize_of(third) + 100] ^= 1;
    });
    let mut reader = log.reader(&from(&[0, 0, 0])).unwrap();
    let mut batch = Batch::new();
    reader.next(&mut batch, PATIENCE).unwrap();
    assert_eq!(batch.len(), 2);
    for _ in 0..3 {
        let error = reader.next(&mut batch, PATIENCE).unwrap_err();
        let ReadError::Damaged { place, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(
            *place,
            format!("{}, byte {}", segment(1).display(), third + 40)
        );
        assert!(batch.is_empty());
        assert_eq!(reader.positions(), from(&[1, 1, 0]));
    }
    // Undone, it goes on where it stood.
    disk.edit(&segment(1), |bytes| {
        bytes[usize_of(third) + 100] ^= 1;
    });
    reader.next(&mut batch, PATIENCE).unwrap();
    assert_eq!(batch.len(), contents.len() - 2);
}

/// What rots in an old segment is found while the log is open, by nobody's reading: counted and no
/// hindrance to appends.
#[test]
fn damage_of_an_old_segment_is_found_in_the_background() {
    let (disk, _) = closed(3);
    disk.edit(&segment(1), |bytes| bytes[500] ^= 1);
    let registry = prometheus::Registry::new();
    let metrics = tally_log::LogMetrics::register(&registry).unwrap();
    let options = EmbeddedOptions {
        check_rate: 1 << 30,
        ..small()
    };
    let storage = std::sync::Arc::new(disk.clone());
    let opened = EmbeddedLog::open(storage, dir(), "test", options, &metrics);
    let (log, _) = opened.unwrap();
    let gauge = |name: &str| {
        let families = registry.gather();
        let family = families
            .iter()
            .find(|family| family.name() == name)
            .unwrap();
        family.get_metric()[0].get_gauge().get_value()
    };
    let started = std::time::Instant::now();
    while gauge("tally_log_check_last_pass_timestamp_seconds") == 0.0 {
        assert!(started.elapsed() < PATIENCE, "no pass was finished");
        std::thread::yield_now();
    }
    assert!((gauge("tally_log_check_damaged_places") - 1.0).abs() < 0.1);
    append_one(&log, 0, b"goes on").unwrap();
    log.close(PATIENCE).unwrap();
}
