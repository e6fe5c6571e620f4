//! The names of files, which a crash may take or bring back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Chance;

/// Which file a name leads to.
pub(super) type Names = BTreeMap<PathBuf, usize>;

/// What was done to names.
#[derive(Clone)]
pub(super) enum NameChange {
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf, usize),
    /// All that is below.
    RenameDir(PathBuf, PathBuf),
    Remove(PathBuf, usize),
}

impl NameChange {
    /// Whether it is durable once that folder is synced.
    pub(super) fn is_in(&self, dir: &Path) -> bool {
        match self {
            Self::Create(path, _) | Self::Remove(path, _) => path.parent() == Some(dir),
            Self::Rename(from, to, _) | Self::RenameDir(from, to) => {
                from.parent() == Some(dir) || to.parent() == Some(dir)
            }
        }
    }

    /// Does it to names that may lack what came before it.
    pub(super) fn apply(&self, names: &mut Names) {
        match self {
            Self::Create(path, content) => {
                names.insert(path.clone(), *content);
            }
            Self::Rename(from, to, content) => {
                if names.get(from) == Some(content) {
                    names.remove(from);
                }
                names.insert(to.clone(), *content);
            }
            Self::RenameDir(from, to) => {
                let inside = |path: &PathBuf| Some(to.join(path.strip_prefix(from).ok()?));
                let moved = names.iter().filter_map(|(path, content)| {
                    let to = inside(path)?;
                    Some((path.clone(), to, *content))
                });
                for (path, to, content) in moved.collect::<Vec<_>>() {
                    names.remove(&path);
                    names.insert(to, content);
                }
            }
            Self::Remove(path, content) => {
                if names.get(path) == Some(content) {
                    names.remove(path);
                }
            }
        }
    }
}

/// What a crash leaves of names, by those that are durable and what was done since.
pub(super) fn after_crash(durable: &Names, pending: &[NameChange], chance: &mut Chance) -> Names {
    let mut names = durable.clone();
    match chance.below(3) {
        // Each for itself.
        0 => {
            for change in pending {
                if chance.below(2) == 0 {
                    change.apply(&mut names);
                }
            }
        }
        // In order, as a journal keeps them.
        1 => {
            let kept = chance.below(pending.len() + 1);
            pending[..kept].iter().for_each(|c| c.apply(&mut names));
        }
        _ => pending.iter().for_each(|c| c.apply(&mut names)),
    }
    names
}
