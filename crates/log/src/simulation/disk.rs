//! The disk itself: files, names, what was done to them, and what fails.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::Chance;
use super::content::{Change, Content};
use super::names::{self, NameChange, Names};
use super::op::Op;

/// Says which operations fail, and how.
type Fault = Box<dyn FnMut(&Path, Op) -> Option<io::ErrorKind> + Send>;

/// Says of which files and folders a sync is left out.
type Forgotten = Box<dyn Fn(&Path) -> bool + Send>;

/// The disk; clones are the same one.
#[derive(Clone, Default)]
pub struct SimDisk(pub(super) Arc<Mutex<State>>);

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk")
            .field("files", &self.files())
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
pub(super) struct State {
    pub(super) dirs: BTreeSet<PathBuf>,
    pub(super) names: Names,
    pub(super) durable_names: Names,
    pub(super) pending_names: Vec<NameChange>,
    pub(super) contents: Vec<Content>,
    pub(super) locked: BTreeSet<PathBuf>,
    /// What was done, where somebody wants to know.
    pub(super) done: Vec<(PathBuf, Op)>,
    pub(super) quiet: bool,
    /// How many changes there were to the contents.
    pub(super) version: i64,
    pub(super) changes_left: Option<usize>,
    pub(super) dead: bool,
    pub(super) fault: Option<Fault>,
    pub(super) forgotten: Option<Forgotten>,
    pub(super) chance: Option<Chance>,
}

impl State {
    /// Notes an operation; an error where it fails. At the moment of the crash an operation fails
    /// whose effect may be there.
    pub(super) fn attempt(&mut self, path: &Path, op: Op) -> Result<(), (io::Error, bool)> {
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
        if !self.quiet {
            self.done.push((path.to_owned(), op));
        }
        if let Some(fault) = &mut self.fault
            && let Some(kind) = fault(path, op)
        {
            return Err((kind.into(), false));
        }
        Ok(())
    }

    pub(super) fn forgets(&self, path: &Path) -> bool {
        self.forgotten.as_ref().is_some_and(|forgets| forgets(path))
    }

    pub(super) fn name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }

    pub(super) fn put(&mut self, path: &Path, op: Op, change: NameChange) -> io::Result<()> {
        let attempted = self.attempt(path, op);
        if matches!(attempted, Ok(()) | Err((_, true))) {
            self.name(change);
        }
        attempted.map_err(|(error, _)| error)
    }

    pub(super) fn name_of(&self, content: usize) -> PathBuf {
        let mut names = self.names.iter();
        let found = names.find(|(_, id)| **id == content);
        found.map(|(path, _)| path.clone()).unwrap_or_default()
    }

    pub(super) fn change(&mut self, content: usize, change: Change) {
        self.version += 1;
        self.contents[content].change(change);
    }

    /// How much of a write that fails is written.
    pub(super) fn part_of(&mut self, len: usize) -> usize {
        match &mut self.chance {
            Some(chance) => chance.below(len + 1),
            None => len / 2,
        }
    }
}

impl SimDisk {
    /// A disk whose faults differ with the seed: how much of a write that fails is written, and what
    /// of a failed sync got there.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        let disk = Self::default();
        disk.0.lock().chance = Some(Chance::new(seed));
        disk
    }

    /// From now on this decides what fails.
    pub fn set_fault(
        &self,
        fault: impl FnMut(&Path, Op) -> Option<io::ErrorKind> + Send + 'static,
    ) {
        self.0.lock().fault = Some(Box::new(fault));
    }

    /// From now on nothing fails.
    pub fn heal(&self) {
        self.0.lock().fault = None;
    }

    /// After this many more changes the machine crashes.
    pub fn crash_after(&self, changes: usize) {
        self.0.lock().changes_left = Some(changes);
    }

    /// Whether it did.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        self.0.lock().dead
    }

    /// From now on a sync of these files and folders says that it is done, and does nothing: as code
    /// does that has the sync taken out, or a disk that lies.
    pub fn forget_syncs(&self, of: impl Fn(&Path) -> bool + Send + 'static) {
        self.0.lock().forgotten = Some(Box::new(of));
    }

    /// From now on what is done is not remembered for [`done`](Self::done): for long runs.
    pub fn be_quiet(&self) {
        self.0.lock().quiet = true;
    }

    /// The disk after the machine crashed: of what was not synced anything may be there.
    #[must_use]
    pub fn after_crash(&self, seed: u64) -> Self {
        let state = self.0.lock();
        let chance = &mut Chance::new(seed);
        let names = names::after_crash(&state.durable_names, &state.pending_names, chance);
        let mut contents: Vec<_> = state.contents.iter().map(|_| Vec::new()).collect();
        // What has no name any more is gone.
        for id in names.values() {
            contents[*id] = state.contents[*id].after_crash(chance);
        }
        let mut after = Self::holding(state.dirs.clone(), names, contents);
        if state.chance.is_some() {
            after = after.seeded(chance.any());
        }
        after
    }

    fn seeded(self, seed: u64) -> Self {
        self.0.lock().chance = Some(Chance::new(seed));
        self
    }

    /// The same disk after the process was killed: all is there, and not all of it is durable.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let state = self.0.lock();
        Self(Arc::new(Mutex::new(State {
            dirs: state.dirs.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            pending_names: state.pending_names.clone(),
            contents: state.contents.clone(),
            chance: state.chance.clone(),
            ..State::default()
        })))
    }

    /// A copy of what can be read now, durable.
    #[must_use]
    pub fn copy(&self) -> Self {
        let state = self.0.lock();
        let live = state.contents.iter().map(|content| content.live.clone());
        Self::holding(state.dirs.clone(), state.names.clone(), live.collect())
    }

    fn holding(dirs: BTreeSet<PathBuf>, names: Names, contents: Vec<Vec<u8>>) -> Self {
        Self(Arc::new(Mutex::new(State {
            dirs,
            durable_names: names.clone(),
            names,
            contents: contents.into_iter().map(Content::holding).collect(),
            ..State::default()
        })))
    }

    /// Changes a file behind everybody's back.
    ///
    /// # Panics
    /// Where there is none.
    pub fn edit(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.0.lock();
        let content = state.names[path];
        let content = &mut state.contents[content];
        edit(&mut content.live);
        content.durable.clone_from(&content.live);
        content.pending.clear();
    }

    /// Removes a file behind everybody's back.
    ///
    /// # Panics
    /// Where there is none.
    pub fn delete(&self, path: &Path) {
        let mut state = self.0.lock();
        state.names.remove(path).unwrap();
        state.durable_names.remove(path);
    }

    /// What a file holds.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn bytes(&self, path: &Path) -> Vec<u8> {
        let state = self.0.lock();
        state.contents[state.names[path]].live.clone()
    }

    /// All files but locks, by name.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let state = self.0.lock();
        let names = state.names.keys().filter(|path| !path.ends_with("lock"));
        names.cloned().collect()
    }

    /// What was done since this was last asked.
    pub fn done(&self) -> Vec<(PathBuf, Op)> {
        std::mem::take(&mut self.0.lock().done)
    }
}
