//! What can be done on a disk.

use std::ops::Range;

/// One operation; `at` and `len` in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// A file is opened.
    Open,
    /// A file is made.
    Create,
    /// A folder is made, and those above it.
    CreateDir,
    /// Some of a file is read.
    Read {
        /// From here.
        at: u64,
        /// So much.
        len: u64,
    },
    /// Some of a file is written.
    Write {
        /// From here.
        at: u64,
        /// So much.
        len: u64,
    },
    /// A file gets this length.
    SetLen(u64),
    /// A file is synced.
    Sync,
    /// A file or folder gets another name.
    Rename,
    /// A file is removed.
    Remove,
    /// A folder is synced.
    SyncDir,
}

impl Op {
    pub(super) fn changes(self) -> bool {
        !matches!(self, Self::Open | Self::Read { .. })
    }

    /// Where it wrote, if it did.
    #[must_use]
    pub fn written(self) -> Option<Range<u64>> {
        if let Self::Write { at, len } = self {
            return Some(at..at + len);
        }
        None
    }

    /// How many bytes it read.
    #[must_use]
    pub fn read(self) -> u64 {
        if let Self::Read { len, .. } = self {
            return len;
        }
        0
    }
}
