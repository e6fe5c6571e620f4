//! Why keys can't be read or changed.

use std::io;
use std::path::{Path, PathBuf};

use super::{KeyId, MAX_BYTES, MAX_KEYS, UNCHECKED, VERSION};

/// Why keys can't be read or changed. No text has a secret in it, nor anything else of the file.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file is there and can't be read.
    #[error("the API keys in {path} can't be read: {cause}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// It is not what was written.
    #[error(
        "the API keys in {path} are damaged: line {line}, column {column}: {what}. Restore the file from a backup, or move it away and create the keys anew",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// Where in it, in bytes.
        column: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// It reads well, and is not what was written.
    #[error(
        "the API keys in {path} are damaged: they are not those that its check was made of. Restore the file from a backup, or move it away and create the keys anew; by hand it can't be changed",
        path = path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Two keys have the same id.
    #[error(
        "the API keys in {path} are damaged: key {id} is there twice. Restore the file from a backup, or move it away and create the keys anew",
        path = path.display()
    )]
    Twice {
        /// The file.
        path: PathBuf,
        /// Which.
        id: KeyId,
    },
    /// Another version of this program wrote it.
    #[error(
        "the API keys in {path} have version {found}; this program reads versions {UNCHECKED} to {VERSION}: use the program that wrote them",
        path = path.display()
    )]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// It is larger than keys can be.
    #[error(
        "the API keys in {path} take more than {MAX_BYTES} bytes: this is another file, see the setting auth.keys_file",
        path = path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Another change does not end.
    #[error(
        "the API keys in {path} are being changed by another process; try again",
        path = path.display()
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The change could not be written.
    #[error("the API keys can't be changed: {path} can't be {doing}: {cause}", path = path.display())]
    Write {
        /// What could not.
        path: PathBuf,
        /// made, written, …
        doing: &'static str,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// There are as many keys as may be.
    #[error("there are {MAX_KEYS} API keys, the most that can be; revoke some first")]
    TooMany,
    /// No key has that id.
    #[error("no API key has the id {0}; `tally keys list` shows them")]
    Unknown(KeyId),
    /// No secret can be made.
    #[error("the system gives no random bytes: {0}")]
    Random(#[source] getrandom::Error),
    /// The file can't be followed.
    #[error("the thread that watches the API keys can't be started: {0}")]
    Thread(#[source] io::Error),
}

pub(super) fn write_error<'a>(
    doing: &'static str,
    path: &'a Path,
) -> impl Fn(io::Error) -> KeysError + 'a {
    move |cause| KeysError::Write {
        path: path.to_owned(),
        doing,
        cause,
    }
}
