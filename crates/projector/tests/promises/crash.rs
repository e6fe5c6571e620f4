//! Promise 4, exactly once into state: a checkpoint is there whole or not at all, whichever of its
//! steps a crash or an error hits.

use std::path::Path;

use tally_log::simulation::{Op, SimDisk};
use tally_log::storage::Storage as _;
use tally_projector::redo::{Redo, RedoFile};
use tally_projector::store::{SledStore, Store, layout};
use tally_projector::{OpenError, Projector, StateError, StoreError};

use crate::common::{
    FaultyDisk, FaultyStore, LIMIT, MemoryLog, Opening, catch_up, eventually, folded, history,
    photograph, recovers, refusal, waiter,
};

/// What a checkpoint does to the state's folder, in order; the store's puts come before `remove`.
const STEPS: [&str; 9] = [
    "create redo.tmp",
    "write redo.tmp",
    "write redo.tmp",
    "write redo.tmp",
    "sync redo.tmp",
    "rename redo.tmp",
    "sync_dir ",
    "remove redo",
    "sync_dir ",
];

/// The first step at which the redo file stands under its name.
const RENAMED: usize = 6;

/// How many events come before each of the two checkpoints.
const EACH: u64 = 150;

/// A log and its state: one checkpoint written, a second one due.
struct Scene {
    log: MemoryLog,
    dir: tempfile::TempDir,
    disk: FaultyDisk,
    opening: Opening,
}

impl Scene {
    fn new() -> Self {
        let disk = FaultyDisk::default();
        let opening = Opening::on(&disk);
        Self {
            log: MemoryLog::new(),
            dir: tempfile::tempdir().unwrap(),
            disk,
            opening,
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn begin(&self, projector: &Projector) {
        self.log.add_all(&history(0, EACH));
        catch_up(projector);
        projector.checkpoint().unwrap();
        self.log.add_all(&history(EACH, EACH));
        catch_up(projector);
    }

    fn open(&self) -> Projector {
        let projector = self.opening.open(&self.log, self.path());
        self.begin(&projector);
        projector
    }

    /// The state's folder as it was before each step of the second checkpoint, and after the last.
    fn photographed() -> (Self, tempfile::TempDir) {
        let (scene, album) = (Self::new(), tempfile::tempdir().unwrap());
        let projector = scene.open();
        scene.disk.watch_and_photograph(scene.path(), album.path());
        projector.checkpoint().unwrap();
        assert_eq!(scene.disk.steps(), STEPS);
        photograph(scene.path(), &album.path().join(STEPS.len().to_string()));
        (scene, album)
    }
}

/// The number of the last checkpoint that a store holds.
fn last_checkpoint(dir: &Path) -> u64 {
    let store = SledStore::open(&dir.join("sled"), 1 << 20).unwrap();
    let sealed = store.get(layout::ENDED).unwrap().unwrap();
    layout::number_from(layout::open(layout::ENDED, &sealed).unwrap()).unwrap()
}

fn redo_in(dir: &Path) -> Redo {
    let file = RedoFile::new(&tally_log::storage::RealStorage, dir);
    file.read().unwrap().unwrap()
}

/// Protects: before the redo file has its name durably the store is untouched, and before it is
/// removed the store has everything; a crash between any two steps loses and doubles nothing, and
/// replays at most what the checkpoint holds.
#[test]
fn a_crash_between_any_two_steps() {
    let (scene, album) = Scene::photographed();
    for step in 0..=STEPS.len() {
        let photo = album.path().join(step.to_string());
        let copy = tempfile::tempdir().unwrap();
        photograph(&photo, copy.path());
        let stored = if step <= RENAMED { 1 } else { 2 };
        assert_eq!(last_checkpoint(copy.path()), stored, "step {step}");
        let replayed = if step < RENAMED { EACH } else { 0 };
        recovers(&scene.log, &photo, replayed..=replayed);
    }
}

/// Protects: whatever the disk has of a redo file that was not synced yet, it is not taken for one.
#[test]
fn a_draft_is_never_read() {
    let (scene, album) = Scene::photographed();
    let whole = std::fs::read(album.path().join("5/redo.tmp")).unwrap();
    assert!(Redo::from_file(whole.clone()).is_some());
    for torn in [
        Vec::new(),
        whole[..whole.len() / 2].to_vec(),
        vec![0; whole.len()],
        whole,
    ] {
        let crashed = tempfile::tempdir().unwrap();
        photograph(&album.path().join("0"), crashed.path());
        std::fs::write(crashed.path().join("redo.tmp"), torn).unwrap();
        recovers(&scene.log, crashed.path(), EACH..=EACH);
    }
}

/// Protects: a crash after any number of the store's puts, and one that keeps of all puts only a
/// later one, is repaired from the redo file.
#[test]
fn a_crash_among_the_puts() {
    let (scene, album) = Scene::photographed();
    let renamed = album.path().join(RENAMED.to_string());
    let redo = redo_in(&renamed);
    let puts: Vec<_> = redo.iter().collect();
    assert!(puts.len() > 40);
    let expected = folded(&scene.log);
    let crashed_with = |kept: &[(&[u8], Option<&[u8]>)]| {
        let crashed = tempfile::tempdir().unwrap();
        photograph(&renamed, crashed.path());
        let store = SledStore::open(&crashed.path().join("sled"), 1 << 20).unwrap();
        for (key, value) in kept {
            store.put(key, *value).unwrap();
        }
        drop(store);
        let opening = Opening::default();
        let projector = opening.open(&scene.log, crashed.path());
        assert_eq!(projector.dump().unwrap(), expected);
        assert!(projector.status().caught_up_once);
        catch_up(&projector);
        assert_eq!(opening.replayed(), 0);
        assert!(!crashed.path().join("redo").exists());
    };
    for count in 0..=puts.len() {
        crashed_with(&puts[..count]);
    }
    for put in &puts {
        crashed_with(std::slice::from_ref(put));
    }
}

/// Protects: a redo file is put only into a store that has the checkpoint before it: into another
/// it would bring some values and hide that the others are gone.
#[test]
fn a_redo_file_without_its_store_is_damage() {
    let (scene, album) = Scene::photographed();
    let renamed = album.path().join(RENAMED.to_string());
    std::fs::remove_dir_all(renamed.join("sled")).unwrap();
    recovers(&scene.log, &renamed, 2 * EACH..=2 * EACH);
}

/// Protects: a crash or an error while a start finishes a checkpoint is no harm either.
#[test]
fn a_crash_while_recovering() {
    let (scene, album) = Scene::photographed();
    let renamed = album.path().join(RENAMED.to_string());
    for step in 0..3 {
        let crashed = tempfile::tempdir().unwrap();
        photograph(&renamed, crashed.path());
        let disk = FaultyDisk::default();
        let opening = Opening::on(&disk);
        disk.watch(Some(step));
        let error = refusal(opening.try_open(&scene.log, crashed.path()));
        assert_eq!(disk.steps(), STEPS[RENAMED..=RENAMED + step]);
        assert!(format!("{error:?}").contains("the disk is gone"));
        recovers(&scene.log, crashed.path(), 0..=0);
    }
}

/// Protects: an error of the store while a start finishes a checkpoint, as a full disk or too many open
/// files bring it, is a refusal and no damage: nothing is set aside or folded again, and a later start
/// finds the state as it was.
#[test]
fn what_the_store_cannot_do_at_a_start_is_no_damage() {
    let (scene, album) = Scene::photographed();
    let renamed = album.path().join(RENAMED.to_string());
    let failing = |fails: fn(&FaultyStore)| {
        let open = move |dir: &Path| -> Result<Box<dyn Store>, StoreError> {
            let store = FaultyStore::open(dir)?;
            fails(&store);
            Ok(Box::new(store))
        };
        let log = scene.log.arc();
        let storage = std::sync::Arc::new(tally_log::storage::RealStorage);
        let registry = prometheus::Registry::new();
        let options = crate::common::options();
        let opened = Projector::open_on(Box::new(open), log, storage, &renamed, options, &registry);
        let error = refusal(opened);
        assert!(matches!(error, OpenError::State(_)), "{error}");
        assert!(error.to_string().contains("start again"), "{error}");
    };
    failing(FaultyStore::fail_reads);
    failing(|store| store.fail_at(0));
    failing(|store| store.fail_at(3));
    for entry in std::fs::read_dir(&renamed).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(!name.to_string_lossy().starts_with("set-aside"), "{name:?}");
    }
    recovers(&scene.log, &renamed, 0..=0);
}

/// Protects: an error at any step of a checkpoint fails that checkpoint alone: the fold goes on,
/// the next one writes everything, and a crash in between finds a whole one.
#[test]
fn an_error_at_any_step() {
    for step in 0..STEPS.len() {
        let scene = Scene::new();
        let projector = scene.open();
        scene.disk.watch(Some(step));
        let error = projector.checkpoint().unwrap_err();
        assert!(matches!(error, StateError::Redo { .. }), "{error}");
        assert_eq!(scene.disk.steps(), STEPS[..=step]);
        let errors = "tally_projector_checkpoint_errors_total";
        assert_eq!(scene.opening.counted(errors), 1);
        let status = projector.status();
        // What is not written counts still; from the removal on the store has it.
        assert_eq!(status.changed > 0, step <= RENAMED, "{}", status.changed);
        assert_eq!(status.failure, None);
        let crashed = tempfile::tempdir().unwrap();
        photograph(scene.path(), crashed.path());

        // New values of the same keys, and others.
        scene.log.add_all(&history(2 * EACH, EACH));
        catch_up(&projector);
        assert_eq!(projector.dump().unwrap(), folded(&scene.log));
        scene.disk.watch(None);
        projector.checkpoint().unwrap();
        assert_eq!(projector.status().changed, 0);
        drop(projector);
        recovers(&scene.log, scene.path(), 0..=0);
        recovers(&scene.log, crashed.path(), EACH..=2 * EACH);
    }
}

/// Protects: tries that fail again and again take no more memory than the values they would
/// write, and lose none.
#[test]
fn many_failed_checkpoints_are_one() {
    let scene = Scene::new();
    let projector = scene.open();
    let mut most = 0;
    for n in 2..12 {
        scene.disk.watch(Some(n % (RENAMED + 1)));
        projector.checkpoint().unwrap_err();
        let changed = projector.status().changed;
        if n == 6 {
            most = changed;
        }
        assert!(n <= 6 || changed <= most + 40, "{changed} after {most}");
        scene.log.add_all(&history(EACH, EACH));
        catch_up(&projector);
    }
    scene.disk.watch(None);
    projector.stop(LIMIT).unwrap();
    drop(projector);
    recovers(&scene.log, scene.path(), 0..=0);
}

/// Protects: once a put or a flush has failed the store is not written again, since it might say
/// that it is flushed and forget all the same; the status says to restart, and a restart finishes
/// the checkpoint from the redo file.
#[test]
fn a_store_that_failed_is_not_written_again() {
    let puts = usize::try_from(Scene::photographed().0.redo_puts()).unwrap();
    for failing in [0, 1, puts / 2, puts - 1, puts] {
        let scene = Scene::new();
        let (projector, store) = scene.opening.open_faulty(&scene.log, scene.path());
        scene.begin(&projector);
        store.fail_at(failing);
        let error = projector.checkpoint().unwrap_err();
        assert!(matches!(error, StateError::Store(_)), "{error}");
        let failure = projector.status().failure.unwrap();
        assert!(failure.contains("restart"), "{failure}");

        scene.log.add_all(&history(2 * EACH, EACH));
        catch_up(&projector);
        assert_eq!(projector.dump().unwrap(), folded(&scene.log));
        let again = projector.checkpoint();
        assert!(matches!(again, Err(StateError::Failed(_))), "{again:?}");
        assert!(matches!(projector.stop(LIMIT), Err(StateError::Failed(_))));
        assert_eq!(store.writes(), failing + 1);
        drop((projector, store));
        recovers(&scene.log, scene.path(), EACH..=EACH);
    }
}

impl Scene {
    /// How many puts the second checkpoint has.
    fn redo_puts(&self) -> u64 {
        let puts = self
            .opening
            .counted("tally_projector_checkpoint_puts_total");
        let first = Self::new();
        let projector = first.opening.open(&first.log, first.path());
        first.begin(&projector);
        puts - first
            .opening
            .counted("tally_projector_checkpoint_puts_total")
    }
}

/// Protects: a store that can't be read stops the fold of what needs it, loudly, with nothing half
/// folded.
#[test]
fn a_store_that_cannot_be_read_stops_the_fold() {
    let scene = Scene::new();
    drop(scene.open());
    let (projector, store) = Opening::default().open_faulty(&scene.log, scene.path());
    catch_up(&projector);
    store.fail_reads();
    let more = history(2 * EACH, EACH);
    let last = waiter(&projector, &more[more.len() - 1]);
    let unknown = crate::common::event(99, 1_000, tally_domain::InteractionType::Like, None);
    let unread = waiter(&projector, &unknown);
    scene.log.add(&unknown);
    eventually("a failure", || projector.status().failure.is_some());
    let failure = projector.status().failure.unwrap();
    assert!(failure.contains("restart"), "{failure}");
    drop(store);
    // Who waits is told all the same, once the store is opened again.
    projector.reopen(|_| Ok(())).unwrap();
    assert!(crate::common::wait(unread).is_ok());
    assert!(projector.status().failure.is_none());
    drop((projector, last));
    recovers(&scene.log, scene.path(), EACH + 1..=EACH + 1);
}

/// Protects: a read of the store that panics stops the fold of what needs it, loudly, with nothing
/// half folded: what was folded before can be written down, and the next start goes on from there.
#[test]
fn a_read_that_panics_stops_the_fold() {
    let scene = Scene::new();
    drop(scene.open());
    let (projector, store) = Opening::default().open_faulty(&scene.log, scene.path());
    catch_up(&projector);
    let unknown = crate::common::event(99, 1_000, tally_domain::InteractionType::Like, None);
    let unread = waiter(&projector, &unknown);
    let trap = store.trap_read();
    scene.log.add(&unknown);
    trap.caught();
    assert!(projector.status().failure.is_none());
    trap.spring();
    eventually("a failure", || projector.status().restart);
    projector.checkpoint().unwrap();
    drop(store);
    projector.reopen(|_| Ok(())).unwrap();
    assert!(crate::common::wait(unread).is_ok());
    drop(projector);
    recovers(&scene.log, scene.path(), 1..=1);
}

/// Protects: after a checkpoint that panicked none is written, as the values it had collected are
/// gone from what is marked as changed.
#[test]
fn after_a_panic_in_a_checkpoint_none_is_written() {
    let scene = Scene::new();
    let (projector, store) = scene.opening.open_faulty(&scene.log, scene.path());
    scene.begin(&projector);
    store.panic_at(1);
    let checkpoint = std::panic::AssertUnwindSafe(|| projector.checkpoint());
    assert!(std::panic::catch_unwind(checkpoint).is_err());
    scene.log.add_all(&history(2 * EACH, EACH));
    catch_up(&projector);
    let again = projector.checkpoint();
    assert!(matches!(again, Err(StateError::Failed(_))), "{again:?}");
    assert_eq!(store.writes(), 2);
    drop((projector, store));
    recovers(&scene.log, scene.path(), EACH..=EACH);
}

/// Protects: a redo file that was read at a start is there at the next one, whatever the power does
/// meanwhile: its name may not have been durable, where the folder's sync failed or a kill came first.
#[test]
fn a_redo_file_that_was_read_stays() {
    let dir = Path::new("/state");
    let disk = SimDisk::default();
    disk.create_dir_all(dir).unwrap();
    let mut redo = Redo::default();
    redo.put(b"key", Some(b"value"));
    disk.set_fault(|_, op| (op == Op::SyncDir).then_some(std::io::ErrorKind::Other));
    RedoFile::new(&disk, dir).write(&redo).unwrap_err();
    let killed = disk.after_kill();
    assert!(RedoFile::new(&killed, dir).read().unwrap().is_some());
    for seed in 0..100 {
        let left = killed.after_crash(seed);
        let read = RedoFile::new(&left, dir).read().unwrap();
        assert!(read.is_some(), "seed {seed}");
    }
}
