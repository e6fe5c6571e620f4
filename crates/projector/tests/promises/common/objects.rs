//! Objects in a folder, which a test can take away.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tally_projector::Snapshots;
use tally_projector::snapshot::{ObjectError, Objects};

/// Clones are the same objects.
#[derive(Clone)]
pub(crate) struct Folder {
    dir: PathBuf,
    gone: Arc<AtomicBool>,
}

impl Folder {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            gone: Arc::default(),
        }
    }

    /// The newest so many of each partition.
    pub(crate) fn snapshots(&self, keep: usize) -> Snapshots {
        Snapshots::in_objects(Arc::new(self.clone()), keep)
    }

    /// From now on it can't be reached, or can be again.
    pub(crate) fn set_gone(&self, gone: bool) {
        self.gone.store(gone, Ordering::SeqCst);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn reached<T>(&self, name: &str, done: std::io::Result<T>) -> Result<T, ObjectError> {
        let error = |why: String| ObjectError {
            name: name.to_owned(),
            doing: "reached",
            place: self.place(),
            why,
        };
        if self.gone.load(Ordering::SeqCst) {
            return Err(error("it is gone".to_owned()));
        }
        done.map_err(|cause| error(cause.to_string()))
    }
}

impl Objects for Folder {
    fn place(&self) -> String {
        self.dir.display().to_string()
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, ObjectError> {
        let mut names = Vec::new();
        let mut folders = vec![self.dir.join(prefix)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(&self.dir).unwrap();
                    names.push(name.to_str().unwrap().to_owned());
                }
            }
        }
        self.reached(prefix, Ok(names))
    }

    fn put(&self, name: &str, file: &Path) -> Result<(), ObjectError> {
        let to = self.path(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        self.reached(name, fs::copy(file, to).map(drop))
    }

    fn get(&self, name: &str, file: &Path) -> Result<(), ObjectError> {
        self.reached(name, fs::copy(self.path(name), file).map(drop))
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        self.reached(name, fs::remove_file(self.path(name)))
    }
}
