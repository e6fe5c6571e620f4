//! Where snapshots are kept: objects with names, in a folder or a bucket.

use std::path::Path;

/// Why objects can't be listed, read or written.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{name} can't be {doing} in {place}: {why}")]
pub struct ObjectError {
    /// The object, or what the names begin with.
    pub name: String,
    /// listed, read, written, removed.
    pub doing: &'static str,
    /// Where they are kept.
    pub place: String,
    /// What was said.
    pub why: String,
}

/// Named objects. Each is there whole or not at all; names have `/` between their parts.
pub trait Objects: Send + Sync {
    /// Where that is, for people.
    fn place(&self) -> String;

    /// The names that begin with `prefix`, which ends in `/`.
    ///
    /// # Errors
    /// [`ObjectError`]; none where there are no such names.
    fn list(&self, prefix: &str) -> Result<Vec<String>, ObjectError>;

    /// Writes a file as an object; it is durable when this returns.
    ///
    /// # Errors
    /// [`ObjectError`].
    fn put(&self, name: &str, file: &Path) -> Result<(), ObjectError>;

    /// Reads an object into a file, which is made or written over.
    ///
    /// # Errors
    /// [`ObjectError`], also where it is not there.
    fn get(&self, name: &str, file: &Path) -> Result<(), ObjectError>;

    /// Removes an object; nothing where it is not there.
    ///
    /// # Errors
    /// [`ObjectError`].
    fn delete(&self, name: &str) -> Result<(), ObjectError>;
}
