//! A simulated disk. What is not synced may be lost in a crash, sector by sector; every operation
//! can be made to fail, and is remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tally_log::storage::{File, Lock, Storage};

/// A disk writes these whole.
const SECTOR: usize = 512;

/// One operation; `at` and `len` in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Open,
    Create,
    Read { at: u64, len: u64 },
    Write { at: u64, len: u64 },
    SetLen(u64),
    Sync,
    Rename,
    Remove,
    SyncDir,
}

impl Op {
    fn changes(self) -> bool {
        !matches!(self, Self::Open | Self::Read { .. })
    }

    /// Where it wrote, if it did.
    pub(crate) fn written(self) -> Option<Range<u64>> {
        if let Self::Write { at, len } = self {
            return Some(at..at + len);
        }
        None
    }

    /// How many bytes it read.
    pub(crate) fn read(self) -> u64 {
        if let Self::Read { len, .. } = self {
            return len;
        }
        0
    }
}

/// Says which operations fail, and how.
type Fault = Box<dyn FnMut(&Path, Op) -> Option<io::ErrorKind> + Send>;

/// The disk; clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    dirs: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    pending_names: Vec<NameChange>,
    contents: Vec<Content>,
    locked: BTreeSet<PathBuf>,
    done: Vec<(PathBuf, Op)>,
    changes_left: Option<usize>,
    dead: bool,
    fault: Option<Fault>,
}

#[derive(Clone, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

#[derive(Clone)]
enum NameChange {
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

/// Random enough to choose what a crash leaves, and the same for the same seed.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bound = u64::try_from(bound).unwrap();
        usize::try_from((mixed ^ (mixed >> 31)) % bound).unwrap()
    }
}

fn write(bytes: &mut Vec<u8>, at: usize, new: &[u8]) {
    let end = at + new.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(new);
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, new) => write(bytes, *at, new),
            Self::SetLen(len) => bytes.resize(*len, 0),
        }
    }

    /// What of it reached the disk: all, nothing, or some sectors.
    fn apply_partly(&self, bytes: &mut Vec<u8>, chance: &mut Chance) {
        match (chance.below(3), self) {
            (0, _) => {}
            (1, Self::Write(at, new)) => {
                let mut from = 0;
                while from < new.len() {
                    let to = ((at + from) / SECTOR + 1) * SECTOR - at;
                    let to = to.min(new.len());
                    if chance.below(2) == 0 {
                        write(bytes, at + from, &new[from..to]);
                    }
                    from = to;
                }
            }
            _ => self.apply(bytes),
        }
    }
}

fn rename(names: &mut BTreeMap<PathBuf, usize>, change: &NameChange) {
    match change {
        NameChange::Create(path, content) => {
            names.insert(path.clone(), *content);
        }
        NameChange::Rename(from, to) => {
            let content = names.remove(from).unwrap();
            names.insert(to.clone(), content);
        }
        NameChange::Remove(path) => {
            names.remove(path);
        }
    }
}

impl State {
    /// Notes an operation; an error where it fails. At the moment of the crash an operation fails
    /// whose effect may be there.
    fn attempt(&mut self, path: &Path, op: Op) -> Result<(), (io::Error, bool)> {
        if self.dead {
            return Err((io::Error::other("the machine is off"), false));
        }
        if op.changes()
            && let Some(left) = &mut self.changes_left
        {
            if *left == 0 {
                self.dead = true;
                return Err((io::Error::other("the machine crashes"), true));
            }
            *left -= 1;
        }
        self.done.push((path.to_owned(), op));
        if let Some(fault) = &mut self.fault
            && let Some(kind) = fault(path, op)
        {
            return Err((kind.into(), false));
        }
        Ok(())
    }

    fn name(&mut self, change: NameChange) {
        rename(&mut self.names, &change);
        self.pending_names.push(change);
    }

    fn name_of(&self, content: usize) -> PathBuf {
        let mut names = self.names.iter();
        let found = names.find(|(_, id)| **id == content);
        found.map(|(path, _)| path.clone()).unwrap_or_default()
    }

    fn change(&mut self, content: usize, change: Change) {
        let content = &mut self.contents[content];
        change.apply(&mut content.live);
        content.pending.push(change);
    }
}

impl SimDisk {
    /// From now on this decides what fails.
    pub(crate) fn set_fault(
        &self,
        fault: impl FnMut(&Path, Op) -> Option<io::ErrorKind> + Send + 'static,
    ) {
        self.0.lock().fault = Some(Box::new(fault));
    }

    /// From now on nothing fails.
    pub(crate) fn heal(&self) {
        self.0.lock().fault = None;
    }

    /// After this many more changes the machine crashes.
    pub(crate) fn crash_after(&self, changes: usize) {
        self.0.lock().changes_left = Some(changes);
    }

    /// The disk after the machine crashed: of what was not synced anything may be there.
    pub(crate) fn after_crash(&self, seed: u64) -> Self {
        let state = self.0.lock();
        let chance = &mut Chance::new(seed);
        let mut names = state.durable_names.clone();
        let kept = chance.below(state.pending_names.len() + 1);
        for change in &state.pending_names[..kept] {
            rename(&mut names, change);
        }
        let contents = state.contents.iter().map(|content| {
            let mut bytes = content.durable.clone();
            for change in &content.pending {
                change.apply_partly(&mut bytes, chance);
            }
            bytes
        });
        Self::holding(state.dirs.clone(), names, contents.collect())
    }

    /// The same disk after the process was killed: all is there, and not all of it is durable.
    pub(crate) fn after_kill(&self) -> Self {
        let state = self.0.lock();
        Self(Arc::new(Mutex::new(State {
            dirs: state.dirs.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            pending_names: state.pending_names.clone(),
            contents: state.contents.clone(),
            ..State::default()
        })))
    }

    /// A copy of what can be read now, durable.
    pub(crate) fn copy(&self) -> Self {
        let state = self.0.lock();
        let live = state.contents.iter().map(|content| content.live.clone());
        Self::holding(state.dirs.clone(), state.names.clone(), live.collect())
    }

    fn holding(
        dirs: BTreeSet<PathBuf>,
        names: BTreeMap<PathBuf, usize>,
        contents: Vec<Vec<u8>>,
    ) -> Self {
        let content = |bytes: Vec<u8>| Content {
            live: bytes.clone(),
            durable: bytes,
            pending: Vec::new(),
        };
        Self(Arc::new(Mutex::new(State {
            dirs,
            durable_names: names.clone(),
            names,
            contents: contents.into_iter().map(content).collect(),
            ..State::default()
        })))
    }

    /// Changes a file behind the log's back.
    pub(crate) fn edit(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.0.lock();
        let content = state.names[path];
        let content = &mut state.contents[content];
        edit(&mut content.live);
        content.durable.clone_from(&content.live);
        content.pending.clear();
    }

    /// Removes a file behind the log's back.
    pub(crate) fn delete(&self, path: &Path) {
        let mut state = self.0.lock();
        state.names.remove(path).unwrap();
        state.durable_names.remove(path);
    }

    pub(crate) fn bytes(&self, path: &Path) -> Vec<u8> {
        let state = self.0.lock();
        state.contents[state.names[path]].live.clone()
    }

    /// All files but locks, by name.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let state = self.0.lock();
        let names = state.names.keys().filter(|path| !path.ends_with("lock"));
        names.cloned().collect()
    }

    /// What was done since this was last asked.
    pub(crate) fn done(&self) -> Vec<(PathBuf, Op)> {
        std::mem::take(&mut self.0.lock().done)
    }

    fn put(&self, path: &Path, op: Op, change: NameChange) -> io::Result<()> {
        let mut state = self.0.lock();
        match state.attempt(path, op) {
            Ok(()) => state.name(change),
            Err((error, perhaps)) => {
                if perhaps {
                    state.name(change);
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

struct SimFile {
    disk: SimDisk,
    content: usize,
}

impl SimFile {
    fn attempt(&self, op: Op, change: Option<Change>) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let path = state.name_of(self.content);
        let attempted = state.attempt(&path, op);
        let perhaps = matches!(attempted, Ok(()) | Err((_, true)));
        match change {
            Some(change) if perhaps => state.change(self.content, change),
            // A write that fails has written some of it.
            Some(Change::Write(at, bytes)) if !state.dead => {
                let half = bytes[..bytes.len() / 2].to_vec();
                state.change(self.content, Change::Write(at, half));
            }
            Some(_) | None => {}
        }
        attempted.map_err(|(error, _)| error)
    }
}

fn usize_of(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

impl File for SimFile {
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let len = buffer.len() as u64;
        self.attempt(Op::Read { at, len }, None)?;
        let state = self.disk.0.lock();
        let live = &state.contents[self.content].live;
        let bytes = live.get(usize_of(at)..usize_of(at + len));
        let bytes = bytes.ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let len = bytes.len() as u64;
        let change = Change::Write(usize_of(at), bytes.to_vec());
        self.attempt(Op::Write { at, len }, Some(change))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.attempt(Op::SetLen(len), Some(Change::SetLen(usize_of(len))))
    }

    fn size(&self) -> io::Result<u64> {
        let state = self.disk.0.lock();
        Ok(state.contents[self.content].live.len() as u64)
    }

    fn sync_data(&self) -> io::Result<()> {
        let attempted = self.attempt(Op::Sync, None);
        let mut state = self.disk.0.lock();
        if state.dead {
            return attempted;
        }
        let content = &mut state.contents[self.content];
        let pending = std::mem::take(&mut content.pending);
        if attempted.is_ok() {
            let mut durable = std::mem::take(&mut content.durable);
            for change in &pending {
                change.apply(&mut durable);
            }
            content.durable = durable;
        } else {
            content.pending = pending
                .into_iter()
                .filter(|c| matches!(c, Change::SetLen(_)))
                .collect();
        }
        attempted
    }
}

struct SimLock(SimDisk, PathBuf);

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.0.lock().locked.remove(&self.1);
    }
}

impl Storage for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.0.lock();
        state.attempt(path, Op::Open).map_err(|(error, _)| error)?;
        let content = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            content,
        }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.0.lock();
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let content = state.contents.len();
        state.contents.push(Content::default());
        drop(state);
        self.put(
            path,
            Op::Create,
            NameChange::Create(path.to_owned(), content),
        )?;
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            content,
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.lock().dirs.insert(path.to_owned());
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.0.lock();
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        let names = inside.filter_map(|path| path.file_name());
        Ok(names.map(PathBuf::from).collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.0.lock().names.contains_key(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let change = NameChange::Rename(from.to_owned(), to.to_owned());
        self.put(to, Op::Rename, change)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.put(path, Op::Remove, NameChange::Remove(path.to_owned()))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state
            .attempt(dir, Op::SyncDir)
            .map_err(|(error, _)| error)?;
        state.durable_names = state.names.clone();
        state.pending_names.clear();
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        if !self.0.lock().locked.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(SimLock(self.clone(), path.to_owned()))))
    }
}
