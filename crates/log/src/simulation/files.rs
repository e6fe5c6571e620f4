//! The disk as everybody reaches it: files and names.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::content::{Change, Content};
use super::disk::{SimDisk, State};
use super::names::NameChange;
use super::op::Op;
use crate::storage::{File, Lock, Stamp, Storage};

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
            Some(Change::Write(at, mut bytes)) if !state.dead => {
                bytes.truncate(state.part_of(bytes.len()));
                state.change(self.content, Change::Write(at, bytes));
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
        let path = state.name_of(self.content);
        if state.forgets(&path) {
            return attempted;
        }
        let State {
            contents, chance, ..
        } = &mut *state;
        let content = &mut contents[self.content];
        match attempted {
            Ok(()) => content.synced(),
            Err(_) => content.sync_failed(chance.as_mut()),
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

    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.open(path)
    }

    fn stamp(&self, path: &Path) -> io::Result<Option<Stamp>> {
        let state = self.0.lock();
        Ok(state.names.get(path).map(|id| Stamp {
            file: (0, *id as u64),
            len: state.contents[*id].live.len() as u64,
            modified: (state.version, 0),
            changed: (state.version, 0),
        }))
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        if !self.exists(path)? {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(path.to_owned())
    }

    fn keep_owner(&self, _old: &Path, _new: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.0.lock();
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !path.parent().is_some_and(|dir| state.dirs.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let content = state.contents.len();
        state.contents.push(Content::default());
        let change = NameChange::Create(path.to_owned(), content);
        state.put(path, Op::Create, change)?;
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            content,
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.dirs.contains(path) {
            return Ok(());
        }
        let attempted = state.attempt(path, Op::CreateDir);
        if matches!(attempted, Ok(()) | Err((_, true))) {
            let all = path.ancestors().map(Path::to_owned);
            state.dirs.extend(all);
        }
        attempted.map_err(|(error, _)| error)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.0.lock();
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let all = state.names.keys().chain(&state.dirs);
        let inside = all.filter(|path| path.parent() == Some(dir));
        let names = inside.filter_map(|path| path.file_name());
        let mut names: Vec<_> = names.map(PathBuf::from).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.0.lock();
        Ok(state.names.contains_key(path) || state.dirs.contains(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let change = match state.names.get(from) {
            Some(content) => NameChange::Rename(from.to_owned(), to.to_owned(), *content),
            None if state.dirs.contains(from) => {
                NameChange::RenameDir(from.to_owned(), to.to_owned())
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        let is_dir = matches!(change, NameChange::RenameDir(..));
        state.put(to, Op::Rename, change)?;
        if is_dir {
            let moved = |dir: &PathBuf| Some((dir.clone(), to.join(dir.strip_prefix(from).ok()?)));
            for (old, new) in state.dirs.iter().filter_map(moved).collect::<Vec<_>>() {
                state.dirs.remove(&old);
                state.dirs.insert(new);
            }
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let content = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let change = NameChange::Remove(path.to_owned(), content);
        state.put(path, Op::Remove, change)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state
            .attempt(dir, Op::SyncDir)
            .map_err(|(error, _)| error)?;
        if state.forgets(dir) {
            return Ok(());
        }
        let pending = std::mem::take(&mut state.pending_names);
        let (synced, kept): (Vec<_>, Vec<_>) =
            pending.into_iter().partition(|change| change.is_in(dir));
        for change in &synced {
            change.apply(&mut state.durable_names);
        }
        state.pending_names = kept;
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        if !self.0.lock().locked.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(SimLock(self.clone(), path.to_owned()))))
    }
}
