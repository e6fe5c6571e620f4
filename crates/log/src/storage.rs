//! The narrow seam through which every file is touched: the log's segments, the checkpoint's redo
//! file, the keys file. [`RealStorage`] is the disk; a simulated one can stand in for it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

    /// The length.
    ///
    /// # Errors
    /// As the system says.
    fn len(&self) -> io::Result<u64>;

    /// Makes all earlier writes and the length durable. After an error nothing is known of them.
    ///
    /// # Errors
    /// As the system says.
    fn sync_data(&self) -> io::Result<()>;
}

/// Holds a lock until dropped.
pub trait Lock: Send + Sync {}

/// A place with files and folders.
pub trait Storage: Send + Sync {
    /// Opens a file that is there for reading and writing.
    ///
    /// # Errors
    /// As the system says.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;

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

    /// The names in a folder, sorted.
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
