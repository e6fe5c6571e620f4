//! A disk that fails, is full, or is slow.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tally_domain::Position;
use tally_log::embedded::{EmbeddedOptions, OpenError};
use tally_log::{
    AppendError, AppendRefused, Batch, EventLog as _, LogHealth, NewRecord, ReadError,
};

use crate::support::{
    HEADER_BYTES, PARTITIONS, PATIENCE, append, append_one, fill, from, open, open_with, read_all,
    read_from, small, try_append,
};
use tally_log::simulation::{Op, SimDisk};

/// Lets the next sync wait until the sender is used or dropped; the receiver is told when it waits.
fn hold_next_sync(disk: &SimDisk) -> (mpsc::Sender<()>, mpsc::Receiver<()>) {
    let (let_go, held) = mpsc::channel();
    let (started, starts) = mpsc::channel();
    let mut once = Some((held, started));
    disk.set_fault(move |_, op| {
        if op == Op::Sync
            && let Some((held, started)) = once.take()
        {
            started.send(()).unwrap_or_default();
            held.recv().unwrap_or_default();
        }
        None
    });
    (let_go, starts)
}

fn syncs(disk: &SimDisk) -> usize {
    let done = disk.done().into_iter();
    done.filter(|(_, op)| *op == Op::Sync).count()
}

/// Nothing is acknowledged, readable or counted to the head before its sync is done; and all that
/// gathers meanwhile shares the next one.
#[test]
fn acknowledged_means_synced() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let mut reader = log.reader(&from(&[0, 0, 0])).unwrap();
    let (let_go, starts) = hold_next_sync(&disk);
    let first = append(&log, &[(0, b"first".to_vec())]);
    starts.recv_timeout(PATIENCE).unwrap();
    let rest: Vec<_> = (0..100)
        .map(|number| append(&log, &[(number % PARTITIONS, vec![1; 4])]))
        .collect();
    assert!(first.try_recv().is_err());
    assert_eq!(log.head().unwrap(), [0, 0, 0]);
    let mut batch = Batch::new();
    reader.next(&mut batch, Duration::ZERO).unwrap();
    assert!(batch.is_empty());
    drop(let_go);
    for results in rest.iter().chain([&first]) {
        results.recv_timeout(PATIENCE).unwrap()[0].clone().unwrap();
    }
    // The first group's was not done yet when it was held; one more for the hundred.
    assert_eq!(syncs(&disk), 2 + 2, "and two for the files of a new log");
    let read = read_all(&log).unwrap();
    assert_eq!(read.len(), 101);
}

/// After a failed sync nobody knows what the disk holds: the group's fate is unknown, what waits
/// behind it was not written, and nothing is taken until the log is opened again.
#[test]
fn a_failed_sync_ends_all_appends() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let before = fill(&log, "a", 10);
    let (started, starts) = mpsc::channel();
    let (let_go, held) = mpsc::channel::<()>();
    disk.set_fault(move |_, op| {
        (op == Op::Sync).then(|| {
            started.send(()).unwrap_or_default();
            held.recv().unwrap_or_default();
            io::ErrorKind::Other
        })
    });
    let unknown = append(&log, &[(0, b"x".to_vec()), (1, b"x".to_vec())]);
    starts.recv_timeout(PATIENCE).unwrap();
    let behind = append(&log, &[(0, b"y".to_vec())]);
    drop(let_go);
    for result in unknown.recv_timeout(PATIENCE).unwrap() {
        assert!(
            matches!(result, Err(AppendError::FateUnknown(_))),
            "{result:?}"
        );
    }
    let behind = behind.recv_timeout(PATIENCE).unwrap();
    assert!(
        matches!(behind[..], [Err(AppendError::NotWritten(_))]),
        "{behind:?}"
    );
    let refused = try_append(&log, &[(0, b"z".to_vec())]);
    assert!(matches!(refused, Err(AppendRefused::Closed(_))));
    assert!(matches!(log.health(), LogHealth::Failed(_)));
    disk.heal();
    assert_eq!(read_all(&log).unwrap(), before);
    // The folder is this handle's until it is closed, though nothing writes any more.
    let locked = open_with(&disk, small());
    assert!(matches!(locked, Err(OpenError::Locked { .. })));
    log.close(PATIENCE).unwrap();
    let (log, _) = open(&disk);
    assert_eq!(log.health(), LogHealth::Ok);
    let mut read = read_all(&log).unwrap();
    read.retain(|(_, value)| value != b"x");
    assert_eq!(read, before);
    fill(&log, "b", 3);
}

/// A full disk refuses appends one by one, and with space again they go on with the offsets that
/// come next, in the same segment and where a new one can't be made.
#[test]
fn a_full_disk_is_got_over() {
    let kinds: [fn(Op) -> bool; 3] = [
        |op| matches!(op, Op::Write { .. }),
        |op| matches!(op, Op::Create),
        |op| matches!(op, Op::SetLen(_)),
    ];
    for fails in kinds {
        let disk = SimDisk::default();
        let (log, _) = open(&disk);
        let mut expected = fill(&log, "a", 10);
        let full = move |_: &_, op| fails(op).then_some(io::ErrorKind::StorageFull);
        disk.set_fault(full);
        // Over the end of the segment, since a new one takes other operations.
        let mut failed = None;
        for number in 0..30 {
            let (partition, value) = (number % PARTITIONS, vec![1; 100]);
            match append_one(&log, partition, &value) {
                Ok(offset) => expected.push((Position { partition, offset }, value)),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        assert!(
            matches!(failed, Some(AppendError::DiskFull(_))),
            "{failed:?}"
        );
        assert!(matches!(log.health(), LogHealth::DiskFull(_)));
        let head = log.head().unwrap();
        disk.heal();
        expected.extend(fill(&log, "c", 60));
        assert_eq!(log.health(), LogHealth::Ok);
        expected.sort();
        assert_eq!(read_all(&log).unwrap(), expected);
        assert!(
            log.head()
                .unwrap()
                .iter()
                .zip(head)
                .all(|(now, then)| *now == then + 20)
        );
        log.close(PATIENCE).unwrap();
        drop(log);
        assert_eq!(read_all(&open(&disk).0).unwrap(), expected);
    }
}

/// A process that is out of file descriptors can't make the next segment for a while. Nothing was
/// lost by that, so it must not end the log.
#[test]
fn a_folder_that_cannot_be_opened_is_got_over() {
    for fails in [Op::Create, Op::Rename, Op::SyncDir] {
        let disk = SimDisk::default();
        let (log, _) = open(&disk);
        let mut expected = fill(&log, "a", 10);
        disk.set_fault(move |_, op| (op == fails).then_some(io::ErrorKind::Other));
        let refused = (0..30).find_map(|number| {
            let (partition, value) = (number % PARTITIONS, vec![1; 100]);
            match append_one(&log, partition, &value) {
                Ok(offset) => {
                    expected.push((Position { partition, offset }, value));
                    None
                }
                Err(error) => Some(error),
            }
        });
        assert!(
            matches!(refused, Some(AppendError::NotWritten(_))),
            "{fails:?}: {refused:?}"
        );
        disk.heal();
        expected.extend(fill(&log, "c", 60));
        assert_eq!(log.health(), LogHealth::Ok, "{fails:?}");
        drop(log);
        expected.sort();
        assert_eq!(read_all(&open(&disk).0).unwrap(), expected, "{fails:?}");
    }
}

/// Where nobody appends, the log finds out by itself that the disk has space again.
#[test]
fn a_disk_with_space_again_is_noticed() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let (told, tries) = mpsc::channel();
    disk.set_fault(move |_, op| {
        let writes = matches!(op, Op::Write { .. });
        writes.then(|| {
            told.send(()).unwrap_or_default();
            io::ErrorKind::StorageFull
        })
    });
    append_one(&log, 0, b"x").unwrap_err();
    // The append's write, then one that the log tries by itself.
    tries.recv_timeout(PATIENCE).unwrap();
    tries.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(log.health(), LogHealth::DiskFull(_)));
    disk.heal();
    let deadline = Instant::now() + PATIENCE;
    while log.health() != LogHealth::Ok {
        assert!(Instant::now() < deadline);
        thread::yield_now();
    }
    let expected = fill(&log, "a", 3);
    assert_eq!(read_all(&log).unwrap(), expected);
    drop(log);
    assert_eq!(read_all(&open(&disk).0).unwrap(), expected);
}

/// A disk that hangs gives no error: that nothing is finished is all that can be seen.
#[test]
fn a_sync_that_hangs_shows_as_a_stall() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    assert_eq!(log.stalled_for(), None);
    let (let_go, starts) = hold_next_sync(&disk);
    let answer = append(&log, &[(0, b"x".to_vec())]);
    starts.recv().unwrap();
    let first = log.stalled_for().unwrap();
    assert!(log.stalled_for().unwrap() >= first);
    drop(let_go);
    answer.recv_timeout(PATIENCE).unwrap();
    assert_eq!(log.stalled_for(), None);
}

/// Appends that come while the disk hangs must not make it look as if something was finished.
#[test]
fn newer_appends_do_not_hide_a_stall() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let (let_go, starts) = hold_next_sync(&disk);
    let first = append(&log, &[(0, b"x".to_vec())]);
    starts.recv_timeout(PATIENCE).unwrap();
    let hung = Instant::now();
    let second = append(&log, &[(1, b"y".to_vec())]);
    let asked = Instant::now();
    let began = asked.checked_sub(log.stalled_for().unwrap()).unwrap();
    assert!(began <= hung, "the newer append began it anew");
    drop(let_go);
    for answer in [first, second] {
        answer.recv_timeout(PATIENCE).unwrap();
    }
    assert_eq!(log.stalled_for(), None);
}

/// A write that fails and can't be undone leaves what nobody can promise anything about.
#[test]
fn a_write_that_cannot_be_undone_is_of_unknown_fate() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let expected = fill(&log, "a", 3);
    disk.set_fault(|_, op| {
        matches!(op, Op::Write { .. } | Op::SetLen(_)).then_some(io::ErrorKind::Other)
    });
    let error = append_one(&log, 0, b"x").unwrap_err();
    assert!(matches!(error, AppendError::FateUnknown(_)), "{error}");
    assert!(matches!(log.health(), LogHealth::Failed(_)));
    drop(log);
    disk.heal();
    assert_eq!(read_all(&open(&disk).0).unwrap(), expected);
}

/// A disk that can't be read is no damage, and the reader goes on when it can.
#[test]
fn a_failed_read_is_tried_again() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let expected = fill(&log, "a", 40);
    let mut reader = log.reader(&from(&[0, 0, 0])).unwrap();
    disk.set_fault(|_, op| {
        matches!(op, Op::Read { .. } | Op::Open).then_some(io::ErrorKind::Other)
    });
    let mut batch = Batch::new();
    let error = reader.next(&mut batch, PATIENCE).unwrap_err();
    assert!(matches!(error, ReadError::Unavailable(_)), "{error}");
    assert_eq!(reader.positions(), from(&[0, 0, 0]));
    disk.heal();
    reader.next(&mut batch, PATIENCE).unwrap();
    assert_eq!(batch.len(), expected.len());
}

/// A deadline that is over is an error, and what was accepted is still told.
#[test]
fn closing_has_a_deadline() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let (let_go, starts) = hold_next_sync(&disk);
    let results = append(&log, &[(0, b"x".to_vec())]);
    starts.recv_timeout(PATIENCE).unwrap();
    let error = log.close(Duration::ZERO).unwrap_err();
    assert!(matches!(error, AppendError::FateUnknown(_)), "{error}");
    drop(let_go);
    results.recv_timeout(PATIENCE).unwrap()[0].clone().unwrap();
    log.close(PATIENCE).unwrap();
}

/// What an earlier `close` was too impatient for is not taken for done by a later one.
#[test]
fn a_second_close_says_what_was_not_finished() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let (let_go, held) = mpsc::channel::<()>();
    let (started, starts) = mpsc::channel();
    let mut once = Some((held, started));
    disk.set_fault(move |_, op| {
        let (held, started) = once.take_if(|_| op == Op::Sync)?;
        started.send(()).unwrap_or_default();
        held.recv().unwrap_or_default();
        Some(io::ErrorKind::Other)
    });
    let answer = append(&log, &[(0, b"x".to_vec())]);
    starts.recv().unwrap();
    log.close(Duration::ZERO).unwrap_err();
    drop(let_go);
    answer.recv_timeout(PATIENCE).unwrap();
    for _ in 0..2 {
        let error = log.close(PATIENCE).unwrap_err();
        assert!(matches!(error, AppendError::FateUnknown(_)), "{error}");
    }
}

/// A callback that panics is its maker's fault, and the log goes on.
#[test]
fn a_callback_that_panics_does_not_stop_the_log() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let record = NewRecord {
        partition: 0,
        key: Vec::new(),
        value: b"x".to_vec(),
        traceparent: None,
    };
    log.append(vec![record], Box::new(|_| panic!("on purpose")))
        .unwrap();
    assert_eq!(append_one(&log, 0, b"y").unwrap(), 1);
}

fn bytes_read(disk: &SimDisk) -> u64 {
    disk.done().into_iter().map(|(_, op)| op.read()).sum()
}

/// A start, and a reader that starts late, read next to nothing of a long log.
#[test]
fn neither_a_start_nor_a_late_reader_reads_the_whole_log() {
    const SEGMENT: u64 = 4096 + 512;
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let expected = fill(&log, "a", 4_000);
    log.close(PATIENCE).unwrap();
    drop(log);
    let segments = disk.files().len() as u64;
    assert!(segments > 150);
    disk.done();
    let (log, _) = open(&disk);
    let read = bytes_read(&disk);
    assert!(read < segments * HEADER_BYTES + 2 * SEGMENT, "{read}");

    let head = log.head().unwrap();
    let late: Vec<_> = head.iter().map(|head| head - 5).collect();
    disk.done();
    let found = read_from(&log, &from(&late)).unwrap();
    assert_eq!(found.len(), 15);
    assert!(found.iter().all(|record| expected.contains(record)));
    let read = bytes_read(&disk);
    assert!(read < 4 * SEGMENT, "{read}");

    read_from(&log, &from(&head)).unwrap();
    assert_eq!(bytes_read(&disk), 0);
}

/// Inside a large segment a reader starts near its position, in the one that is written and in a
/// sealed one; and segments with nothing for it are passed over.
#[test]
fn a_reader_starts_near_its_position() {
    const NEAR: u64 = 3 * 1024 * 1024;
    let disk = SimDisk::default();
    let large = EmbeddedOptions {
        segment_bytes: 64 * 1024 * 1024,
        ..small()
    };
    let (log, _) = open_with(&disk, large.clone()).unwrap();
    append_one(&log, 2, b"first").unwrap();
    for number in 0..200_u32 {
        append_one(&log, number % 2, &vec![7; 100_000]).unwrap();
    }
    append_one(&log, 2, b"last").unwrap();
    let at_end = from(&[100, 99, 1]);
    disk.done();
    assert_eq!(read_from(&log, &at_end).unwrap().len(), 2);
    assert!(bytes_read(&disk) < NEAR);
    log.close(PATIENCE).unwrap();
    drop(log);
    let (log, _) = open_with(&disk, large).unwrap();
    disk.done();
    assert_eq!(read_from(&log, &at_end).unwrap().len(), 2);
    let read = bytes_read(&disk);
    assert!(read < NEAR, "{read}");
}
