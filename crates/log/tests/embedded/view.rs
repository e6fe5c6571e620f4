//! A log is read while another process writes it: all that its writer gave out, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use tally_domain::Position;
use tally_log::embedded::{LogView, check_copy};
use tally_log::simulation::SimDisk;
use tally_log::storage::Storage as _;
use tally_log::{Batch, EventLog as _, LogMetrics, ReadError};

use crate::support::{Contents, PATIENCE, append_one, dir, fill, from, open, read_all, segment};

fn view(disk: &SimDisk) -> LogView {
    let metrics = LogMetrics::unregistered().unwrap();
    LogView::open(Arc::new(disk.clone()), dir(), "view", &metrics).unwrap()
}

/// Protects rebuild and proof beside a running server: over many files, at any moment of the
/// writer's, the view has what lies below the heads, whole, and no record more.
#[test]
fn a_view_shows_the_log_up_to_the_heads_it_was_given() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let early = view(&disk);
    let mut all: Contents = Vec::new();
    for round in 0..40 {
        all.extend(fill(&log, "shown", 1 + round % 7));
        let heads = log.head().unwrap();
        let late = (round % 5 == 0).then(|| view(&disk));
        let unseen = fill(&log, "not yet", 3);
        for view in late.iter().chain([&early]) {
            view.advance(&heads).unwrap();
            assert_eq!(view.log().head().unwrap(), heads);
            all.sort();
            assert_eq!(read_all(view.log().as_ref()).unwrap(), all, "round {round}");
            // What was shown stays.
            view.advance(&vec![0; heads.len()]).unwrap();
            assert_eq!(view.log().head().unwrap(), heads);
        }
        all.extend(unseen);
    }
    assert!(disk.files().contains(&segment(10)));
    let heads = log.head().unwrap();
    log.close(PATIENCE).unwrap();
    drop(log);
    early.advance(&heads).unwrap();
    // The next life of the writer goes on in another file.
    let (log, _) = open(&disk);
    all.extend(fill(&log, "again", 5));
    early.advance(&log.head().unwrap()).unwrap();
    all.sort();
    assert_eq!(read_all(early.log().as_ref()).unwrap(), all);
}

/// The files that a view names, as many bytes of each as it says, on a disk of their own.
fn copied(disk: &SimDisk, view: &LogView) -> SimDisk {
    let copy = SimDisk::default();
    copy.create_dir_all(dir()).unwrap();
    for file in view.files().unwrap() {
        let bytes = disk.bytes(&file.path);
        let part = &bytes[..usize::try_from(file.bytes).unwrap()];
        let to = copy.create(&file.path).unwrap();
        to.write_all_at(part, 0).unwrap();
    }
    copy
}

/// Protects backups beside a running server: at any moment of the writer's, the files of a view are a
/// whole log, which has what is shown and no record more, and goes on from there.
#[test]
fn a_copy_of_a_views_files_is_a_log_up_to_its_heads() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let early = view(&disk);
    let mut all: Contents = Vec::new();
    for round in 0..30 {
        early.advance(&log.head().unwrap()).unwrap();
        let unseen = fill(&log, "not yet", round % 6);
        let copy = copied(&disk, &early);
        let report = check_copy(&copy, dir()).unwrap();
        assert!(report.is_whole() && report.torn.is_none(), "{report:?}");
        assert_eq!(report.heads, early.log().head().unwrap());
        assert!(!copy.exists(&dir().join("lock")).unwrap());
        let (opened, recovery) = open(&copy);
        assert_eq!(recovery.cut_bytes, 0, "round {round}");
        assert_eq!(read_all(&opened).unwrap(), all, "round {round}");
        all.extend(unseen);
        all.sort();
    }
    assert!(disk.files().contains(&segment(3)));
    // Of one that was closed as well, where the last file is sealed.
    early.advance(&log.head().unwrap()).unwrap();
    log.close(PATIENCE).unwrap();
    let (opened, _) = open(&copied(&disk, &early));
    assert_eq!(read_all(&opened).unwrap(), all);
}

/// Protects against a reader that sleeps although there is more.
#[test]
fn a_reader_of_a_view_wakes_when_it_advances() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let view = view(&disk);
    let mut reader = view.log().reader(&from(&[0, 0, 0])).unwrap();
    let reading = std::thread::spawn(move || {
        let mut batch = Batch::new();
        reader.next(&mut batch, PATIENCE).unwrap();
        let first = batch.iter().next().map(|record| record.position);
        (first, reader.positions())
    });
    let offset = append_one(&log, 1, b"one").unwrap();
    view.advance(&log.head().unwrap()).unwrap();
    let (first, positions) = reading.join().unwrap();
    let partition = 1;
    assert_eq!(first, Some(Position { partition, offset }));
    assert_eq!(positions, from(&[0, 1, 0]));
}

/// Protects against folding what is not there: heads that no file bears out are an error, also
/// where a group is damaged.
#[test]
fn what_is_not_in_the_files_is_an_error() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let contents = fill(&log, "a", 9);
    let mut heads = log.head().unwrap();
    let view_of_all = view(&disk);
    view_of_all.advance(&heads).unwrap();
    heads[2] += 1;
    let error = view_of_all.advance(&heads).unwrap_err();
    assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
    // What was shown before stays.
    assert_eq!(read_all(view_of_all.log().as_ref()).unwrap(), contents);

    heads[2] -= 1;
    disk.edit(&segment(1), |bytes| bytes[300] ^= 1);
    let error = view(&disk).advance(&heads).unwrap_err();
    assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
    let mut reader = view_of_all.log().reader(&from(&[0, 0, 0])).unwrap();
    let mut batch = Batch::new();
    let mut read = reader.next(&mut batch, Duration::ZERO);
    for _ in 0..9 {
        read = read.and_then(|()| reader.next(&mut batch, Duration::ZERO));
    }
    assert!(matches!(read, Err(ReadError::Damaged { .. })), "{read:?}");
}

/// Protects a view's folder: nothing is appended through it, and nothing is written there.
#[test]
fn nothing_is_appended_through_a_view() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    fill(&log, "a", 3);
    let view = view(&disk);
    view.advance(&log.head().unwrap()).unwrap();
    let refused = view.log().append(Vec::new(), Box::new(drop));
    assert!(refused.is_err());
    view.log().close(Duration::ZERO).unwrap();
    drop(view);
    append_one(&log, 0, b"the writer goes on").unwrap();
}

/// Protects from a lost file that is taken for one that was cut off: the log itself knows what it has
/// removed, and only whoever reads beside it goes by what is there.
#[test]
fn a_lost_file_is_damage_and_one_that_was_cut_off_is_none() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    for _ in 0..40 {
        fill(&log, "a", 4);
    }
    assert!(disk.files().contains(&segment(4)));
    let beside = view(&disk);
    beside.advance(&log.head().unwrap()).unwrap();
    log.truncate(&log.head().unwrap()).unwrap();
    let read = read_all(beside.log().as_ref());
    assert!(matches!(read, Err(ReadError::Unavailable(_))), "{read:?}");
    read_all(&log).unwrap();
    for _ in 0..40 {
        fill(&log, "b", 4);
    }
    let mut files = disk.files();
    files.retain(|file| file.extension().is_some_and(|end| end == "log"));
    disk.delete(&files[0]);
    let read = read_all(&log);
    assert!(matches!(read, Err(ReadError::Damaged { .. })), "{read:?}");
}
