//! A damaged log is cut off where it is whole before, and nothing of it is destroyed.

use std::path::{Path, PathBuf};

use tally_log::embedded::{Cut, RepairError, check, repair};
use tally_log::simulation::{Op, SimDisk};
use tally_log::storage::Storage as _;

use crate::support::{Contents, PATIENCE, dir, fill, open, read_all, segment};
use tally_log::EventLog as _;

fn aside() -> &'static Path {
    Path::new("/cut")
}

/// A closed log of a few segments.
fn closed() -> (SimDisk, Contents) {
    closed_with(60)
}

/// One of so many records.
fn closed_with(records: u32) -> (SimDisk, Contents) {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let all = fill(&log, "a", records);
    log.close(PATIENCE).unwrap();
    drop(log);
    (disk.copy(), all)
}

/// The log's segments with what they hold.
fn segments(disk: &SimDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = disk.files();
    files.retain(|file| file.starts_with(dir()) && file.extension().is_some());
    files
        .into_iter()
        .map(|f| (f.clone(), disk.bytes(&f)))
        .collect()
}

fn cut(disk: &SimDisk, file: &Path, byte: u64, to: Option<&Path>) -> Result<Cut, RepairError> {
    repair(disk, dir(), (file, byte), to)
}

/// Sees that a cut log is sound, has exactly what stood before the cut, and takes appends.
fn is_sound(disk: &SimDisk, all: &Contents, cut: &Cut) {
    let report = check(disk, dir()).unwrap();
    assert!(report.is_whole() && report.torn.is_none(), "{report:?}");
    let (log, _) = open(disk);
    let left = read_all(&log).unwrap();
    let after = |partition: u32| cut.next_offsets[partition as usize].0;
    let mut expected = all.clone();
    expected.retain(|(position, _)| position.offset < after(position.partition));
    assert_eq!(left, expected);
    let given_up = cut
        .next_offsets
        .iter()
        .map(|(after, before)| before - after);
    assert_eq!(given_up.sum::<u64>(), (all.len() - left.len()) as u64);
    fill(&log, "b", 4);
}

/// Wherever it is cut: what is before stays, what is behind is told and kept aside.
#[test]
fn a_cut_keeps_what_is_before_and_moves_the_rest_aside() {
    let (whole, all) = closed();
    let files = segments(&whole);
    assert!(files.len() > 2);
    for (file, bytes) in &files {
        for byte in (0..bytes.len() as u64).step_by(97) {
            let disk = whole.copy();
            let planned = cut(&disk, file, byte, None).unwrap();
            assert_eq!(segments(&disk), files, "a plan changes nothing");
            let done = cut(&disk, file, byte, Some(aside())).unwrap();
            assert_eq!(done.aside.as_deref(), Some(aside()));
            assert_eq!(
                Cut {
                    aside: None,
                    ..done.clone()
                },
                planned
            );
            assert!(done.byte <= byte && done.whole_from_the_beginning);
            for (gone, bytes) in files.iter().filter(|(other, _)| other >= file) {
                let kept = aside().join(gone.file_name().unwrap());
                assert_eq!(&disk.bytes(&kept), bytes, "{gone:?}");
            }
            is_sound(&disk, &all, &done);
        }
    }
}

/// Damage is told by the check with file and byte; a cut there makes the log sound again, and one
/// behind it is refused with the place where to cut.
#[test]
fn a_cut_at_the_damage_makes_the_log_sound() {
    let (whole, all) = closed();
    for at in [0, 100, 300, 900, 2_000] {
        let disk = whole.copy();
        disk.edit(&segment(2), |bytes| bytes[at] ^= 1);
        let report = check(&disk, dir()).unwrap();
        let damage = &report.damage[0];
        assert_eq!(damage.file, segment(2));
        if at > 100 {
            let behind = cut(&disk, &segment(2), 3_900, Some(aside())).unwrap_err();
            let why = behind.to_string();
            assert!(why.contains(&format!("byte {}", damage.byte)), "{why}");
        }
        let done = cut(&disk, &damage.file, damage.byte, Some(aside())).unwrap();
        is_sound(&disk, &all, &done);
    }
    let nowhere = cut(&whole, &segment(99), 0, None).unwrap_err();
    assert!(matches!(nowhere, RepairError::NoSuchFile(_)));
}

/// Where files are missing between others, the check names the first of them, and a cut there leaves
/// what stands before.
#[test]
fn a_cut_where_a_file_is_missing_makes_the_log_sound() {
    let (whole, all) = closed_with(140);
    let files = segments(&whole);
    assert!(files.len() > 3);
    for gone in [1..2, 1..3, 2..3] {
        let disk = whole.copy();
        for (file, _) in &files[gone.clone()] {
            disk.remove(file).unwrap();
        }
        let damage = check(&disk, dir()).unwrap().damage.remove(0);
        assert_eq!(damage.file, files[gone.start].0);
        for (file, _) in &files[gone.clone()] {
            let same = cut(&disk, file, 0, None).unwrap();
            assert_eq!(same.later_files, (files.len() - gone.end) as u64);
        }
        let done = cut(&disk, &damage.file, damage.byte, Some(aside())).unwrap();
        assert_eq!(done.later_files, (files.len() - gone.end) as u64);
        for (later, bytes) in &files[gone.end..] {
            let kept = aside().join(later.file_name().unwrap());
            assert_eq!(&disk.bytes(&kept), bytes, "{later:?}");
        }
        is_sound(&disk, &all, &done);
    }
}

/// An error of the disk in the midst of it says that it is half done, and what to do.
#[test]
fn a_cut_that_fails_half_way_says_so() {
    let (whole, all) = closed();
    let disk = whole.copy();
    let mut renames = 0;
    disk.set_fault(move |_, op| {
        renames += usize::from(op == Op::Rename);
        (renames == 2).then_some(std::io::ErrorKind::Other)
    });
    let failed = cut(&disk, &segment(2), 0, Some(aside())).unwrap_err();
    assert!(matches!(failed, RepairError::Halfway { .. }), "{failed}");
    assert!(failed.to_string().contains("cut again"), "{failed}");
    disk.heal();
    let done = cut(&disk, &segment(2), 0, Some(Path::new("/again"))).unwrap();
    let report = check(&disk, dir()).unwrap();
    assert!(report.is_whole(), "{report:?}");
    let (log, _) = open(&disk);
    let left = read_all(&log).unwrap();
    assert!(left.len() < all.len() && done.later_files < 2, "{done:?}");
}

/// A repair that is cut off itself can be done again, and loses nothing: what stands before the cut is
/// in the log, what stands behind it is in one of the folders aside.
#[test]
fn a_repair_can_be_done_again_after_a_crash() {
    let (whole, all) = closed();
    let files = segments(&whole);
    let again = Path::new("/again");
    for changes in 0..20 {
        for seed in 0..10 {
            let disk = whole.copy();
            disk.crash_after(changes);
            let _ = cut(&disk, &segment(2), 900, Some(aside()));
            let disk = disk.after_crash(seed);
            let done = cut(&disk, &segment(2), 900, Some(again)).unwrap();
            for (file, bytes) in files.iter().filter(|(file, _)| *file >= segment(2)) {
                let name = file.file_name().unwrap();
                let kept = [aside(), again].map(|folder| folder.join(name));
                let kept = kept.iter().filter(|file| disk.files().contains(file));
                let whole = kept.filter(|file| disk.bytes(file) == *bytes).count();
                assert!(whole > 0, "{file:?} {changes} {seed}");
            }
            let report = check(&disk, dir()).unwrap();
            assert!(report.is_whole(), "{report:?}");
            let (log, _) = open(&disk);
            let left = read_all(&log).unwrap();
            let after = |partition: u32| done.next_offsets[partition as usize].0;
            let mut expected = all.clone();
            expected.retain(|(position, _)| position.offset < after(position.partition));
            assert_eq!(left, expected, "{changes} {seed}");
        }
    }
}

/// A log that is open is left alone.
#[test]
fn a_log_in_use_is_not_cut() {
    let (disk, _) = closed();
    let (log, _) = open(&disk);
    let before = segments(&disk);
    let refused = cut(&disk, &segment(1), 0, Some(aside())).unwrap_err();
    assert!(
        refused.to_string().contains("open in another process"),
        "{refused}"
    );
    assert_eq!(segments(&disk), before);
    drop(log);
}
