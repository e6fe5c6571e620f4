//! Promise 7, for others: every dead letter is copied, in order, whatever ends or fails when.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tally_domain::{LogId, Offset, Partition};
use tally_log::{AppendError, AppendRefused, ReadError};
use tally_projector::store::{SledStore, Store as _, layout};
use tally_projector::{OpenError, Projector};

use crate::common::{
    Appends, LIMIT, MemoryLog, NOW, Opening, PARTITIONS, catch_up, eventually, folded, history,
    open,
};

/// By partition: where each letter stood, and what its value was.
type Letters = BTreeMap<Partition, Vec<(Offset, Vec<u8>)>>;

fn new_log() -> MemoryLog {
    MemoryLog::with(LogId::now_v7(), PARTITIONS)
}

/// Adds letters to every partition, between events.
fn add_letters(log: &MemoryLog, many: u8, letters: &mut Letters) {
    for n in 0..many {
        log.add_all(&history(u64::from(n) * 7, 7));
        for partition in 0..PARTITIONS {
            let value = vec![0xff, n, u8::try_from(partition).unwrap()];
            let key = format!("key-{n}");
            let position = log.add_raw(partition, key.as_bytes(), &value);
            let of_partition = letters.entry(partition).or_default();
            of_partition.push((position.offset, value));
        }
    }
}

/// What was copied, as it stands there.
fn copies(to: &MemoryLog) -> Letters {
    let mut copies = Letters::new();
    to.each(|partition, record| {
        let Ok(copy) = serde_json::from_slice::<Value>(record.value) else {
            return;
        };
        assert_eq!(copy["v"], 1);
        assert_eq!(copy["partition"], partition);
        let value = copy["value_base64"].as_str().unwrap_or_default();
        let letter = (
            copy["offset"].as_u64().unwrap(),
            STANDARD.decode(value).unwrap(),
        );
        copies.entry(partition).or_default().push(letter);
    });
    copies
}

/// The copies without those that came again.
fn once(copies: Letters) -> Letters {
    let without = |letters: Vec<(Offset, Vec<u8>)>| {
        let mut seen = Vec::new();
        for letter in letters {
            if !seen.contains(&letter) {
                seen.push(letter);
            }
        }
        seen
    };
    copies
        .into_iter()
        .map(|(partition, letters)| (partition, without(letters)))
        .collect()
}

/// Protects: a letter whose damage nobody but the copies has met stops nothing of the fold, but is said,
/// and the next start brings it back.
#[test]
fn damage_that_the_copies_meet_is_rebuilt() {
    let (log, to, dir) = (new_log(), new_log(), tempfile::tempdir().unwrap());
    let mut letters = Letters::new();
    add_letters(&log, 3, &mut letters);
    open(&log, dir.path()).stop(LIMIT).unwrap();
    let key = layout::dead_letter_key(2, letters[&2][1].0);
    let store = SledStore::open(&dir.path().join("sled"), 1 << 20).unwrap();
    let mut value = store.get(&key).unwrap().unwrap();
    value[0] ^= 1;
    store.put(&key, Some(&value)).unwrap();
    store.flush().unwrap();
    drop(store);

    let projector = exporting(&Opening::default(), &log, &to, dir.path());
    eventually("the damage is said", || projector.status().restart);
    let failure = projector.status().failure.unwrap();
    assert!(failure.contains("damaged"), "{failure}");
    drop(projector);
    let opening = Opening::default();
    let projector = exporting(&opening, &log, &to, dir.path());
    assert_eq!(opening.counted("tally_projector_rebuilds_total"), 1);
    eventually("all copies", || once(copies(&to)) == letters);
    drop(projector);
}

fn exporting(opening: &Opening, log: &MemoryLog, to: &MemoryLog, dir: &Path) -> Projector {
    let projector = opening.open(log, dir);
    projector.export_dead_letters(to.arc()).unwrap();
    projector
}

/// Protects: whoever reads the copies finds every letter, with its key, reason, place and bytes.
#[test]
fn a_copy_has_all_of_its_letter() {
    let (log, to, dir) = (new_log(), new_log(), tempfile::tempdir().unwrap());
    log.add_raw(3, b"\xfe the key", b"\xff the value");
    let opening = Opening::default();
    let projector = exporting(&opening, &log, &to, dir.path());
    eventually("a copy", || to.arc().head().unwrap()[3] == 1);
    let mut found = Vec::new();
    to.each(|partition, record| {
        assert_eq!((partition, record.key), (3, &b"\xfe the key"[..]));
        found.push(serde_json::from_slice::<Value>(record.value).unwrap());
    });
    let copy = &found[0];
    assert_eq!(copy["log"], log.identity.id.to_string());
    assert_eq!(copy["reason"], "undecodable");
    assert_ne!(copy["detail"], "");
    assert_eq!(
        (&copy["partition"], &copy["offset"]),
        (&3.into(), &0.into())
    );
    let appended = tally_domain::EventTime::from_millis(NOW).to_string();
    assert_eq!(copy["append_time"], appended);
    assert_eq!(copy["key_base64"], STANDARD.encode(b"\xfe the key"));
    assert_eq!(copy["value_base64"], STANDARD.encode(b"\xff the value"));
    eventually("it is counted", || {
        opening.counted("tally_projector_dead_letters_exported_total") == 1
            && opening.gauge("tally_projector_dead_letters_to_export") == 0.0
    });
    projector.stop(LIMIT).unwrap();
}

/// Protects: a restart goes on after the last copy, with the state written down or to be folded
/// anew, and whatever stands behind the last copy.
#[test]
fn a_restart_goes_on_after_the_last_copy() {
    let (log, to, dir) = (new_log(), new_log(), tempfile::tempdir().unwrap());
    let mut letters = Letters::new();
    for turn in 0..6u32 {
        let fresh = tempfile::tempdir().unwrap();
        let opening = Opening::default();
        let dir = if turn % 2 == 0 {
            dir.path()
        } else {
            fresh.path()
        };
        let projector = exporting(&opening, &log, &to, dir);
        add_letters(&log, 5, &mut letters);
        eventually("all copies", || copies(&to) == letters);
        catch_up(&projector);
        eventually("none are left", || {
            opening.gauge("tally_projector_dead_letters_to_export") == 0.0
        });
        let counted = opening.counted("tally_projector_dead_letters_exported_total");
        assert_eq!(counted, 20, "turn {turn}");
        if turn % 3 == 0 {
            projector.stop(LIMIT).unwrap();
        }
        drop(projector);
        assert_eq!(copies(&to), letters, "turn {turn}: none came twice");
        match turn {
            1 => (0..PARTITIONS).for_each(|partition| to.skip(partition, 40)),
            2 => (0..PARTITIONS).for_each(|partition| to.skip(partition, 2_000)),
            3 => drop(to.add_raw(2, b"", b"of somebody else")),
            _ => {}
        }
    }
}

/// Protects: nothing is lost however often the process is killed, and the copies of a partition are
/// in their order but for some that come again.
#[test]
fn nothing_is_lost_whenever_it_ends() {
    let (log, to, dir) = (new_log(), new_log(), tempfile::tempdir().unwrap());
    let mut letters = Letters::new();
    add_letters(&log, 40, &mut letters);
    let total = || -> u64 { to.arc().head().unwrap().iter().sum() };
    for kill_at in (1..150).step_by(7) {
        let projector = exporting(&Opening::default(), &log, &to, dir.path());
        eventually("some copies", || total() >= kill_at);
        if kill_at % 2 == 0 {
            projector.checkpoint().unwrap();
        }
    }
    let projector = exporting(&Opening::default(), &log, &to, dir.path());
    eventually("all copies", || once(copies(&to)) == letters);
    drop(projector);
    assert_eq!(once(copies(&to)), letters);
}

/// Protects: a log of dead letters that is away, or fails, is tried again until all is there, and
/// the fold does not wait for it.
#[test]
fn what_fails_is_tried_again() {
    let (log, to, dir) = (new_log(), new_log(), tempfile::tempdir().unwrap());
    let mut letters = Letters::new();
    let opening = Opening::default();
    let away = || "as the test wants it".to_owned();
    to.fail_reads(Some(ReadError::Unavailable(away())));
    to.add_raw(0, b"", b"of somebody else");
    let projector = exporting(&opening, &log, &to, dir.path());
    add_letters(&log, 4, &mut letters);
    catch_up(&projector);
    assert_eq!(projector.dump().unwrap(), folded(&log));
    to.await_failed_reads(2);
    to.set_appends(Appends::Refused(AppendRefused::Unreachable(away())));
    to.fail_reads(None);
    eventually("they wait", || {
        opening.gauge("tally_projector_dead_letters_to_export") == 16.0
    });
    assert_eq!(copies(&to), Letters::new());
    for (turn, error) in [
        AppendError::FateUnknown(away()),
        AppendError::TimedOut(away()),
    ]
    .into_iter()
    .enumerate()
    {
        to.set_appends(Appends::Failing(error));
        let wanted = 2 * (turn as u64 + 1);
        eventually("every second copy", || {
            opening.counted("tally_projector_dead_letters_exported_total") >= wanted
        });
    }
    to.set_appends(Appends::Taken);
    eventually("all copies", || once(copies(&to)) == letters);
    assert_eq!(projector.status().failure, None);
}

/// Protects: a partition that takes no copies holds up those of no other.
#[test]
fn one_partition_that_fails_holds_up_no_other() {
    let (log, to, dir) = (new_log(), new_log(), tempfile::tempdir().unwrap());
    let mut letters = Letters::new();
    add_letters(&log, 30, &mut letters);
    to.set_appends(Appends::FailingIn(1));
    let projector = exporting(&Opening::default(), &log, &to, dir.path());
    let mut others = letters.clone();
    others.remove(&1);
    eventually("the others", || copies(&to) == others);
    to.set_appends(Appends::Taken);
    eventually("all copies", || copies(&to) == letters);
    drop(projector);
}

/// Protects: a letter that is too large for its copy holds up nothing: it is copied without its
/// bytes, which the state keeps.
#[test]
fn a_letter_too_large_to_copy_is_named() {
    for appends in [
        Appends::Taken,
        Appends::UpTo {
            bytes: 1_000,
            alone: true,
        },
        Appends::UpTo {
            bytes: 1_000,
            alone: false,
        },
    ] {
        let bytes = match appends {
            Appends::UpTo { .. } => 2_000,
            Appends::Taken | Appends::Refused(_) | Appends::Failing(_) | Appends::FailingIn(_) => {
                1 << 20
            }
        };
        let (log, to, dir) = (new_log(), new_log(), tempfile::tempdir().unwrap());
        let mut letters = Letters::new();
        add_letters(&log, 1, &mut letters);
        log.add_raw(1, b"key", &vec![0xff; bytes]);
        add_letters(&log, 1, &mut letters);
        to.set_appends(appends);
        let projector = exporting(&Opening::default(), &log, &to, dir.path());
        eventually("all copies", || {
            copies(&to).values().map(Vec::len).sum::<usize>() == 9
        });
        let mut omitted = Vec::new();
        to.each(|partition, record| {
            let copy: Value = serde_json::from_slice(record.value).unwrap();
            if let Some(bytes) = copy["omitted_bytes"].as_u64() {
                assert_eq!((partition, record.key), (1, &b""[..]));
                omitted.push(usize::try_from(bytes).unwrap());
            }
        });
        assert_eq!(omitted, [bytes + 3]);
        drop(projector);
        let projector = exporting(&Opening::default(), &log, &to, dir.path());
        add_letters(&log, 1, &mut letters);
        eventually("later ones", || {
            copies(&to).values().map(Vec::len).sum::<usize>() == 13
        });
        drop(projector);
    }
}

/// Protects letters of a log that was made anew: copies of the old one's are not theirs.
#[test]
fn copies_of_another_log_are_not_ours() {
    let to = new_log();
    for turn in 1..3usize {
        let (log, dir) = (new_log(), tempfile::tempdir().unwrap());
        add_letters(&log, 3, &mut Letters::new());
        let projector = exporting(&Opening::default(), &log, &to, dir.path());
        eventually("all copies", || {
            copies(&to).values().map(Vec::len).sum::<usize>() == turn * 12
        });
        drop(projector);
    }
}

/// Protects the place of a copy: a log with other partitions is refused, and says what to do.
#[test]
fn another_number_of_partitions_is_refused() {
    let (log, dir) = (new_log(), tempfile::tempdir().unwrap());
    let to = MemoryLog::with(LogId::now_v7(), PARTITIONS + 1);
    let projector = open(&log, dir.path());
    let refused = projector.export_dead_letters(to.arc()).unwrap_err();
    assert!(matches!(
        refused,
        OpenError::ExportPartitions { export: 5, log: 4 }
    ));
    let said = refused.to_string();
    assert!(said.contains("create it anew with 4"), "{said}");
}
