//! A damaged log is cut off where it is whole before, and nothing of it is destroyed.

use std::path::{Path, PathBuf};

use tally_log::embedded::{Cut, RepairError, check, repair};
use tally_log::simulation::SimDisk;

use crate::support::{Contents, PATIENCE, dir, fill, open, read_all, segment};
use tally_log::EventLog as _;

fn aside() -> &'static Path {
    Path::new("/cut")
}

/// A closed log of a few segments.
fn closed() -> (SimDisk, Contents) {
    let disk = SimDisk::default();
    let (log, _) = open(&disk);
    let all = fill(&log, "a", 60);
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

/// A repair that is cut off itself can be done again, and loses nothing of what stands before.
#[test]
fn a_repair_can_be_done_again_after_a_crash() {
    let (whole, all) = closed();
    for changes in 0..20 {
        for seed in 0..10 {
            let disk = whole.copy();
            disk.crash_after(changes);
            let _ = cut(&disk, &segment(2), 900, Some(aside()));
            let disk = disk.after_crash(seed);
            let again = Path::new("/again");
            let done = cut(&disk, &segment(2), 900, Some(again)).unwrap();
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
