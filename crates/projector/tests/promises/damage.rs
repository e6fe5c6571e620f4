//! The store is a cache of the log: whatever of it is damaged, the answer is a rebuild or a
//! refusal, never a wrong number.

use std::path::Path;

use tally_domain::{InteractionType, Resource};
use tally_projector::redo::Redo;
use tally_projector::store::{SledStore, Store as _, values};
use tally_projector::{OpenError, StateError};

use crate::common::{
    FaultyDisk, LIMIT, MemoryLog, Opening, catch_up, event, eventually, folded, history, open,
    recovers, refusal, resource, try_open, user, wait, waiter,
};

const EVENTS: u64 = 300;

/// A log, and its state written down in two checkpoints.
fn written() -> (MemoryLog, tempfile::TempDir) {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let projector = open(&log, dir.path());
    log.add_all(&history(0, EVENTS / 2));
    catch_up(&projector);
    projector.checkpoint().unwrap();
    log.add_all(&history(EVENTS / 2, EVENTS / 2));
    projector.stop(LIMIT).unwrap();
    (log, dir)
}

/// A redo as a crash leaves it, of what the store has already.
fn redo_of(dir: &Path) -> Vec<u8> {
    let store = SledStore::open(&dir.join("sled"), 1 << 20).unwrap();
    let mut redo = Redo::default();
    let scanned = store.scan(b"", &mut |key, value| {
        redo.put(key, Some(value));
        Ok(())
    });
    scanned.unwrap();
    redo.to_file()
}

/// Protects: a redo reads back only as it was written: no byte may differ, none be missing or
/// more.
#[test]
fn a_redo_is_whole_or_none() {
    let mut redo = Redo::default();
    redo.put(b"key", Some(b"value"));
    redo.put(b"gone", None);
    redo.put(b"", Some(b""));
    let file = redo.to_file();
    let read = Redo::from_file(file.clone()).unwrap();
    assert_eq!(read.puts(), 3);
    let puts: Vec<_> = read.iter().collect();
    let expected: [(&[u8], Option<&[u8]>); 3] =
        [(b"key", Some(b"value")), (b"gone", None), (b"", Some(b""))];
    assert_eq!(puts, expected);

    for at in 0..file.len() {
        assert!(
            Redo::from_file(file[..at].to_vec()).is_none(),
            "cut at {at}"
        );
        for bit in 0..8 {
            let mut damaged = file.clone();
            damaged[at] ^= 1 << bit;
            assert!(Redo::from_file(damaged).is_none(), "bit {bit} of {at}");
        }
    }
    assert!(Redo::from_file([file, vec![0]].concat()).is_none());
}

/// Protects: a damaged redo file may stand for a checkpoint half put into the store, so the state
/// is rebuilt where the log is whole, and refused where it is not.
#[test]
fn a_damaged_redo_file_is_not_put_and_not_ignored() {
    let (log, dir) = written();
    let whole = redo_of(dir.path());
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let redo = dir.path().join("redo");
    for damaged in [
        Vec::new(),
        whole[..whole.len() - 1].to_vec(),
        flipped.clone(),
    ] {
        std::fs::write(&redo, damaged).unwrap();
        recovers(&log, dir.path(), EVENTS..=EVENTS);
        assert!(!redo.exists());
    }

    log.truncate_to_head();
    std::fs::write(&redo, flipped).unwrap();
    let error = refusal(try_open(&log, dir.path()));
    assert!(matches!(error, OpenError::Irreparable { .. }), "{error}");
    assert!(redo.exists());
    // The whole one is fine.
    std::fs::write(&redo, whole).unwrap();
    assert!(try_open(&log, dir.path()).is_ok());
}

/// The key of the bucket with a resource's counters.
fn counters_in(log: &MemoryLog, resource: Resource) -> Vec<u8> {
    let partitions = log.identity.partitions;
    let bucket = values::EntryKey::counters(resource).bucket(values::buckets_each(partitions));
    values::bucket_key(resource.partition(partitions), bucket)
}

fn damage_value(dir: &Path, key: &[u8]) {
    let store = SledStore::open(&dir.join("sled"), 1 << 20).unwrap();
    let mut value = store.get(key).unwrap().unwrap();
    value[0] ^= 1;
    store.put(key, Some(&value)).unwrap();
    store.flush().unwrap();
}

/// Protects: a value whose damage no start would see is found when the fold needs it: the fold
/// stops rather than go on from it, and the state is rebuilt where it is opened again; who waits for
/// the event is told then.
#[test]
fn damage_that_the_fold_meets_is_rebuilt() {
    let (log, dir) = written();
    let view = event(1, 3, InteractionType::View, None);
    damage_value(dir.path(), &counters_in(&log, view.resource));
    let opening = Opening::default();
    let projector = opening.open(&log, dir.path());
    catch_up(&projector);
    assert_eq!(opening.replayed(), 0, "nobody has seen it");
    let told = waiter(&projector, &view);
    log.add(&view);
    eventually("a failure", || projector.status().failure.is_some());
    let failure = projector.status().failure.unwrap();
    for part in ["damaged", "restart"] {
        assert!(failure.contains(part), "{failure}");
    }
    projector.reopen(|_| Ok(())).unwrap();
    assert!(wait(told).is_ok());
    catch_up(&projector);
    eventually("all is counted", || opening.replayed() == EVENTS + 1);
    assert_eq!(projector.dump().unwrap(), folded(&log));
}

/// Protects: the same where an answer or a copy of the state needs the value; and where the log
/// can't bring it back, the next start refuses.
#[test]
fn damage_that_an_answer_meets_is_rebuilt_or_refused() {
    for cut in [false, true] {
        let (log, dir) = written();
        damage_value(dir.path(), &counters_in(&log, resource(3)));
        let projector = open(&log, dir.path());
        let read = projector.read(resource(3), &user(1));
        assert!(matches!(read, Err(StateError::Damaged(_))), "{read:?}");
        assert!(projector.read(resource(4), &user(1)).is_ok());
        assert!(matches!(projector.dump(), Err(StateError::Damaged(_))));
        let status = projector.status();
        assert!(status.restart && status.failure.unwrap().contains("damaged"));
        drop(projector);
        if cut {
            log.truncate_to_head();
            let error = refusal(try_open(&log, dir.path()));
            assert!(matches!(error, OpenError::Irreparable { .. }), "{error}");
        } else {
            recovers(&log, dir.path(), EVENTS..=EVENTS);
        }
    }
}

/// Protects: damage that a checkpoint meets while it writes, as where sled panics, is left word of as
/// well: the store is not believed again.
#[test]
fn damage_that_a_checkpoint_meets_is_rebuilt() {
    let (log, dir) = written();
    let (projector, store) = Opening::default().open_faulty(&log, dir.path());
    log.add_all(&history(EVENTS, 10));
    catch_up(&projector);
    store.damage_at(1);
    projector.checkpoint().unwrap_err();
    let status = projector.status();
    assert!(status.restart && status.failure.is_some(), "{status:?}");
    assert!(dir.path().join("damaged").exists());
    drop((projector, store));
    recovers(&log, dir.path(), EVENTS + 10..=EVENTS + 10);
}

/// sled's data file.
fn data_file(dir: &Path) -> std::path::PathBuf {
    dir.join("sled/db")
}

/// Opens a state whose store was damaged from outside, and sees that it is the fold of the log.
fn survives(log: &MemoryLog, dir: &Path, what: &str) {
    let projector = open(log, dir);
    catch_up(&projector);
    let dump = projector.dump();
    if let Ok(dump) = dump {
        assert_eq!(dump, folded(log), "{what}");
    }
    drop(projector);
    // What was found out then is repaired now.
    let projector = open(log, dir);
    catch_up(&projector);
    assert_eq!(projector.dump().unwrap(), folded(log), "{what}");
}

/// Protects: a store that lost its newest writes, or all, is never taken for whole: sled recovers
/// what stands before the cut and says nothing.
#[test]
fn a_store_that_lost_its_end_is_not_believed() {
    let (log, dir) = written();
    survives_cuts(&log, dir.path(), 24, "two checkpoints");
}

/// Cuts copies of a store at so many places, and sees that each survives.
fn survives_cuts(log: &MemoryLog, dir: &Path, parts: u64, what: &str) {
    let length = std::fs::metadata(data_file(dir)).unwrap().len();
    for part in 0..parts {
        let damaged = tempfile::tempdir().unwrap();
        crate::common::photograph(dir, damaged.path());
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(data_file(damaged.path()))
            .unwrap();
        file.set_len(length * part / parts).unwrap();
        let what = format!("{what}, cut at {part}/{parts}");
        survives(log, damaged.path(), &what);
    }
}

/// Protects: the same where a checkpoint failed at any of its steps and a later one went well:
/// the numbers that show a loss are used once, and the last one stands at the end alone.
#[test]
fn a_store_that_lost_its_end_after_a_failed_checkpoint_is_not_believed() {
    /// The steps that a checkpoint has outside of the store.
    const STEPS: usize = 9;
    for step in 0..STEPS {
        let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
        let disk = FaultyDisk::default();
        let opening = Opening::on(&disk);
        let projector = opening.open(&log, dir.path());
        log.add_all(&history(0, EVENTS / 2));
        catch_up(&projector);
        projector.checkpoint().unwrap();
        log.add_all(&history(EVENTS / 2, EVENTS / 2));
        catch_up(&projector);
        disk.watch(Some(step));
        projector.checkpoint().unwrap_err();
        disk.watch(None);
        // Without keys, as missing keys would give the loss away.
        let more = history(EVENTS, EVENTS).into_iter();
        let more = more.map(|event| tally_domain::Event {
            idempotency_key: None,
            ..event
        });
        log.add_all(&more.collect::<Vec<_>>());
        catch_up(&projector);
        projector.checkpoint().unwrap();
        drop(projector);
        survives_cuts(&log, dir.path(), 60, &format!("failed at step {step}"));
    }
}

/// Protects: garbage anywhere in the store's files.
#[test]
fn a_store_with_garbage_is_not_believed() {
    let (log, dir) = written();
    let whole = std::fs::read(data_file(dir.path())).unwrap();
    for part in 0..24 {
        let damaged = tempfile::tempdir().unwrap();
        crate::common::photograph(dir.path(), damaged.path());
        let mut bytes = whole.clone();
        let at = bytes.len() * part / 24;
        let end = (at + 97).min(bytes.len());
        bytes[at..end].iter_mut().for_each(|byte| *byte ^= 0x5a);
        std::fs::write(data_file(damaged.path()), bytes).unwrap();
        survives(&log, damaged.path(), &format!("garbage at {part}/24"));
    }
    let conf = dir.path().join("sled/conf");
    std::fs::write(conf, b"garbage").unwrap();
    survives(&log, dir.path(), "garbage in conf");
}

/// All files of a store, by their paths in its folder.
fn files_in(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files.extend(files_in(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files.sort();
    files
}

/// Protects: any of the store's files missing, empty, cut, or with bytes flipped anywhere: its
/// snapshot and its settings too.
#[test]
fn any_damage_to_any_file_of_the_store_is_survived() {
    let (log, dir) = written();
    let files = files_in(&dir.path().join("sled"));
    assert!(files.len() > 1, "{files:?}");
    for file in &files {
        let name = file.strip_prefix(dir.path()).unwrap();
        let whole = std::fs::read(file).unwrap();
        let damaged_with = |what: &str, bytes: Option<Vec<u8>>| {
            let damaged = tempfile::tempdir().unwrap();
            crate::common::photograph(dir.path(), damaged.path());
            match bytes {
                Some(bytes) => std::fs::write(damaged.path().join(name), bytes).unwrap(),
                None => std::fs::remove_file(damaged.path().join(name)).unwrap(),
            }
            let what = format!("{}: {what}", name.display());
            survives(&log, damaged.path(), &what);
        };
        damaged_with("missing", None);
        damaged_with("empty", Some(Vec::new()));
        damaged_with("cut", Some(whole[..whole.len() / 2].to_vec()));
        let mut seed = 42u64;
        for _ in 0..12 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let Some(at) = (seed >> 33).checked_rem(whole.len() as u64) else {
                break;
            };
            let mut flipped = whole.clone();
            flipped[usize::try_from(at).unwrap()] ^= 1 << (seed >> 61);
            damaged_with(&format!("a bit flipped at {at}"), Some(flipped));
        }
    }
}
