//! Disks and stores that fail at a chosen step, or are photographed before each.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tally_log::storage::{File, Lock, RealStorage, Stamp, Storage};
use tally_projector::StoreError;
use tally_projector::store::{SledStore, Store, Visit};

/// Copies a folder as it is now: what a crash at this moment would leave.
pub(crate) fn photograph(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let copy = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            photograph(&entry.path(), &copy);
        } else {
            std::fs::copy(entry.path(), copy).unwrap();
        }
    }
}

#[derive(Default)]
struct Watch {
    /// Every step that changes something, since the last [`FaultyDisk::watch`].
    steps: Vec<String>,
    fail_at: Option<usize>,
    /// Every step fails.
    broken: bool,
    /// What to photograph before each step, and where to: in folders 0, 1…
    photos: Option<(PathBuf, PathBuf)>,
}

/// The disk, watched; clones are the same.
#[derive(Clone, Default)]
pub(crate) struct FaultyDisk(Arc<Mutex<Watch>>);

impl FaultyDisk {
    /// Counts steps from 0 again, and fails the one of that number, where one is given.
    pub(crate) fn watch(&self, fail_at: Option<usize>) {
        *self.0.lock() = Watch {
            fail_at,
            ..Watch::default()
        };
    }

    /// Fails every step from now on, until it is [watched](Self::watch) anew.
    pub(crate) fn fail_all(&self) {
        *self.0.lock() = Watch {
            broken: true,
            ..Watch::default()
        };
    }

    /// Counts steps from 0 again, and photographs `dir` before each.
    pub(crate) fn watch_and_photograph(&self, dir: &Path, album: &Path) {
        *self.0.lock() = Watch {
            photos: Some((dir.to_owned(), album.to_owned())),
            ..Watch::default()
        };
    }

    /// The steps since then: what was done to which file.
    pub(crate) fn steps(&self) -> Vec<String> {
        self.0.lock().steps.clone()
    }

    fn step(&self, what: &str, path: &Path) -> io::Result<()> {
        let mut watch = self.0.lock();
        let number = watch.steps.len();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let step = format!("{what} {name}");
        watch.steps.push(step);
        if let Some((dir, album)) = &watch.photos {
            photograph(dir, &album.join(number.to_string()));
        }
        if watch.broken || watch.fail_at == Some(number) {
            return Err(io::Error::other("the disk is gone"));
        }
        Ok(())
    }

    fn file(&self, path: &Path, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(WatchedFile {
            disk: self.clone(),
            path: path.to_owned(),
            file,
        })
    }
}

struct WatchedFile {
    disk: FaultyDisk,
    path: PathBuf,
    file: Arc<dyn File>,
}

impl File for WatchedFile {
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, at)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        if let Err(error) = self.disk.step("write", &self.path) {
            // As a full disk does: some of it is there.
            self.file.write_all_at(&bytes[..bytes.len() / 2], at)?;
            return Err(error);
        }
        self.file.write_all_at(bytes, at)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.step("set_len", &self.path)?;
        self.file.set_len(len)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.step("sync", &self.path)?;
        self.file.sync_data()
    }
}

impl Storage for FaultyDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.file(path, RealStorage.open(path)?))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        RealStorage.open_to_read(path)
    }

    fn stamp(&self, path: &Path) -> io::Result<Option<Stamp>> {
        RealStorage.stamp(path)
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        RealStorage.resolve(path)
    }

    fn keep_owner(&self, old: &Path, new: &Path) -> io::Result<()> {
        RealStorage.keep_owner(old, new)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.step("create", path)?;
        Ok(self.file(path, RealStorage.create(path)?))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealStorage.create_dir_all(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        RealStorage.list(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealStorage.exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("rename", from)?;
        RealStorage.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step("remove", path)?;
        RealStorage.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.step("sync_dir", Path::new(""))?;
        RealStorage.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        RealStorage.lock(path)
    }
}

#[derive(Default)]
struct Plan {
    writes: usize,
    fail_at: Option<usize>,
    /// Panic there instead.
    panic: bool,
    /// Say that it is damage.
    damage: bool,
    unreadable: bool,
    reads: usize,
    /// Catches the read of that number.
    trap: Option<(usize, Arc<ReadTrap>)>,
}

/// Catches a read of a store, and holds it.
#[derive(Default)]
pub(crate) struct ReadTrap {
    /// Whether a read is in it, and whether it may go on, and to panic.
    state: Mutex<(bool, bool, bool)>,
    changed: Condvar,
}

impl ReadTrap {
    /// Waits until a read is in it.
    pub(crate) fn caught(&self) {
        let mut state = self.state.lock();
        while !state.0 {
            let waited = self.changed.wait_for(&mut state, super::LIMIT);
            assert!(!waited.timed_out(), "nobody reads");
        }
    }

    /// Lets the read panic.
    pub(crate) fn spring(&self) {
        *self.state.lock() = (true, true, true);
        self.changed.notify_all();
    }

    /// Lets the read go on.
    pub(crate) fn release(&self) {
        self.state.lock().1 = true;
        self.changed.notify_all();
    }

    fn enter(&self) {
        let mut state = self.state.lock();
        state.0 = true;
        self.changed.notify_all();
        // A test that failed meanwhile shall end.
        while !state.1 && !self.changed.wait_for(&mut state, super::LIMIT).timed_out() {}
        assert!(!state.2, "the trap");
    }
}

/// sled, watched; clones are the same.
#[derive(Clone)]
pub(crate) struct FaultyStore {
    store: Arc<SledStore>,
    plan: Arc<Mutex<Plan>>,
}

impl FaultyStore {
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        Ok(Self {
            store: Arc::new(SledStore::open(dir, 1 << 20)?),
            plan: Arc::default(),
        })
    }

    /// Counts puts and flushes from 0 again, and fails the one of that number alone.
    pub(crate) fn fail_at(&self, number: usize) {
        *self.plan.lock() = Plan {
            fail_at: Some(number),
            ..Plan::default()
        };
    }

    /// The same, and says that the store is damaged.
    pub(crate) fn damage_at(&self, number: usize) {
        *self.plan.lock() = Plan {
            fail_at: Some(number),
            damage: true,
            ..Plan::default()
        };
    }

    /// The same, with a panic.
    pub(crate) fn panic_at(&self, number: usize) {
        *self.plan.lock() = Plan {
            fail_at: Some(number),
            panic: true,
            ..Plan::default()
        };
    }

    /// Counts from 0 again, and catches the next read.
    pub(crate) fn trap_read(&self) -> Arc<ReadTrap> {
        self.trap_read_at(0)
    }

    /// Counts from 0 again, and catches the read of that number.
    pub(crate) fn trap_read_at(&self, number: usize) -> Arc<ReadTrap> {
        let trap = Arc::new(ReadTrap::default());
        *self.plan.lock() = Plan {
            trap: Some((number, Arc::clone(&trap))),
            ..Plan::default()
        };
        trap
    }

    pub(crate) fn fail_reads(&self) {
        self.plan.lock().unreadable = true;
    }

    /// How many reads there were since.
    pub(crate) fn reads(&self) -> usize {
        self.plan.lock().reads
    }

    /// How many puts and flushes there were since.
    pub(crate) fn writes(&self) -> usize {
        self.plan.lock().writes
    }

    fn write(&self, doing: &'static str) -> Result<(), StoreError> {
        let mut plan = self.plan.lock();
        plan.writes += 1;
        if plan.fail_at == Some(plan.writes - 1) {
            assert!(!plan.panic, "as planned");
            return Err(StoreError {
                damage: plan.damage,
                ..broken(doing)
            });
        }
        Ok(())
    }
}

fn broken(doing: &'static str) -> StoreError {
    StoreError {
        doing,
        why: "the disk is gone".to_owned(),
        damage: false,
    }
}

impl Store for FaultyStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let trap = {
            let mut plan = self.plan.lock();
            if plan.unreadable {
                return Err(broken("get"));
            }
            plan.reads += 1;
            let number = plan.reads - 1;
            plan.trap.take_if(|(at, _)| *at == number)
        };
        if let Some((_, trap)) = trap {
            trap.enter();
        }
        self.store.get(key)
    }

    fn scan_from(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        self.store.scan_from(prefix, from, visit)
    }

    fn put(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        self.write("put")?;
        self.store.put(key, value)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.write("flush")?;
        self.store.flush()
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.store.disk_bytes()
    }
}
