//! The narrow seam through which every file is touched: the log's segments, the checkpoint's redo
//! file, the keys file. [`RealStorage`] is the disk; a simulated one can stand in for it.

use std::fs::{self, DirBuilder, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    chown,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Data of users: nobody but the owner reads it.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// An open file. All methods may be called from any thread.
pub trait File: Send + Sync {
    /// Reads exactly `buffer.len()` bytes at `at`; an error of kind `UnexpectedEof` where the file
    /// ends before.
    ///
    /// # Errors
    /// As the system says.
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;

    /// Writes all bytes at `at`. Not durable until [`sync_data`](Self::sync_data).
    ///
    /// # Errors
    /// As the system says; some of the bytes may have been written.
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Sets the length; new bytes read as zero.
    ///
    /// # Errors
    /// As the system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// As the system says.
    fn size(&self) -> io::Result<u64>;

    /// Makes all earlier writes and the length durable. After an error nothing is known of them.
    ///
    /// # Errors
    /// As the system says.
    fn sync_data(&self) -> io::Result<()>;
}

/// Holds a lock until dropped.
pub trait Lock: Send + Sync {}

/// Tells one content of a file from another without reading it: equal stamps, equal content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Which file, and on which device.
    pub file: (u64, u64),
    /// Its length in bytes.
    pub len: u64,
    /// When its content changed last: seconds since 1970, and nanoseconds.
    pub modified: (i64, i64),
    /// When anything of it did: a copy that keeps the times of what it copies is noticed too.
    pub changed: (i64, i64),
}

/// A place with files and folders.
pub trait Storage: Send + Sync {
    /// Opens a file that is there for reading and writing.
    ///
    /// # Errors
    /// As the system says.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Opens a file that is there for reading alone, which needs no right to write it.
    ///
    /// # Errors
    /// As the system says.
    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// What a file's stamp is now; `None` where there is no file.
    ///
    /// # Errors
    /// As the system says.
    fn stamp(&self, path: &Path) -> io::Result<Option<Stamp>>;

    /// The path of the file that a link leads to; the path itself where it is no link.
    ///
    /// # Errors
    /// As the system says, also where there is no such file.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf>;

    /// Gives `new` the owner, group and mode of `old`, where that is there: a file that is replaced
    /// stays readable for whoever could read it.
    ///
    /// # Errors
    /// As the system says: only root may give a file to another user.
    fn keep_owner(&self, old: &Path, new: &Path) -> io::Result<()>;

    /// Makes a new file, readable by its owner only; an error of kind `AlreadyExists` where there
    /// is one. The name is durable after [`sync_dir`](Self::sync_dir) on its folder.
    ///
    /// # Errors
    /// As the system says.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Makes a folder and those above it, and makes their names durable.
    ///
    /// # Errors
    /// As the system says.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// The names in a folder (names alone, no paths), sorted.
    ///
    /// # Errors
    /// As the system says.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// Whether there is something of that name.
    ///
    /// # Errors
    /// As the system says.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Gives a file another name, replacing what has it. Durable after `sync_dir`.
    ///
    /// # Errors
    /// As the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable after `sync_dir`.
    ///
    /// # Errors
    /// As the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// As the system says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Locks a file (made where it is not there) for this process alone; `None` where another
    /// process holds it.
    ///
    /// # Errors
    /// As the system says.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>>;
}

/// The disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealStorage;

#[derive(Debug)]
struct RealFile(fs::File);

#[derive(Debug)]
struct RealLock {
    // The lock goes with the handle; `unlock` is not needed.
    _file: fs::File,
}

impl Lock for RealLock {}

impl File for RealFile {
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, at)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

impl Storage for RealStorage {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile(fs::File::open(path)?)))
    }

    fn stamp(&self, path: &Path) -> io::Result<Option<Stamp>> {
        let metadata = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        Ok(Some(Stamp {
            file: (metadata.dev(), metadata.ino()),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }))
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        fs::canonicalize(path)
    }

    fn keep_owner(&self, old: &Path, new: &Path) -> io::Result<()> {
        let before = match fs::metadata(old) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let made = fs::metadata(new)?;
        if (made.uid(), made.gid()) != (before.uid(), before.gid()) {
            chown(new, Some(before.uid()), Some(before.gid()))?;
        }
        fs::set_permissions(new, fs::Permissions::from_mode(before.mode() & 0o777))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        Ok(Arc::new(RealFile(options.mode(FILE_MODE).open(path)?)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        // The parent of a relative path of one name is the empty path: the current folder.
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if path.is_dir() {
            // Whoever made it may have been killed before its name was durable.
            return match self.sync_dir(parent) {
                // Not ours to read, so not made by us either; or a file system that has no such sync.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput
                    ) =>
                {
                    Ok(())
                }
                other => other,
            };
        }
        self.create_dir_all(parent)?;
        match DirBuilder::new().mode(DIR_MODE).create(path) {
            // Another process was quicker.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            other => other?,
        }
        self.sync_dir(parent)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let names = fs::read_dir(dir)?.map(|entry| Ok(PathBuf::from(entry?.file_name())));
        let mut names = names.collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        fs::exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.mode(FILE_MODE).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(RealLock { _file: file }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data of users must not be readable by others, whatever the umask.
    #[test]
    fn files_and_folders_are_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        RealStorage.create_dir_all(&inner).unwrap();
        RealStorage.create(&inner.join("file")).unwrap();
        let _lock = RealStorage.lock(&inner.join("lock")).unwrap().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir.path().join("a")), DIR_MODE);
        assert_eq!(mode(&inner), DIR_MODE);
        assert_eq!(mode(&inner.join("file")), FILE_MODE);
        assert_eq!(mode(&inner.join("lock")), FILE_MODE);
        assert_eq!(
            RealStorage.list(&inner).unwrap(),
            [PathBuf::from("file"), PathBuf::from("lock")]
        );
    }

    /// The errors that callers tell apart by their kind.
    #[test]
    fn errors_have_the_kinds_that_are_promised() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert_eq!(
            RealStorage.open(&path).err().unwrap().kind(),
            io::ErrorKind::NotFound
        );
        let file = RealStorage.create(&path).unwrap();
        assert_eq!(
            RealStorage.create(&path).err().unwrap().kind(),
            io::ErrorKind::AlreadyExists
        );
        file.write_all_at(b"abc", 2).unwrap();
        assert_eq!(file.size().unwrap(), 5);
        let mut bytes = [1; 5];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"\0\0abc");
        let short = file.read_exact_at(&mut bytes, 1).err().unwrap();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
    }

    /// Protects a server that reads a file as another user or group than the one that replaces it.
    #[test]
    fn a_replacement_keeps_mode_and_owner() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        fs::write(&new, "n").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        RealStorage.keep_owner(&old, &new).unwrap();
        assert_eq!(mode(&new), 0o600, "nothing to keep");
        fs::write(&old, "o").unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o640)).unwrap();
        // Only root can make the owners differ to begin with.
        let given = chown(&old, Some(65_534), Some(65_534)).is_ok();
        RealStorage.keep_owner(&old, &new).unwrap();
        assert_eq!(mode(&new), 0o640);
        let owner = fs::metadata(&new).unwrap().uid();
        assert_eq!(owner == 65_534, given);
    }

    /// A lock is held by one handle, within one process too, and goes with it.
    #[test]
    fn a_lock_is_held_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = RealStorage.lock(&path).unwrap();
        assert!(held.is_some());
        assert!(RealStorage.lock(&path).unwrap().is_none());
        drop(held);
        assert!(RealStorage.lock(&path).unwrap().is_some());
    }
}
