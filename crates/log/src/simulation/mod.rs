//! A simulated disk, for tests: what is not synced may be lost, torn or reordered in a crash, and
//! every operation can be made to fail.
//!
//! `kill -9` leaves the page cache as it is, so it proves nothing about a sync. [`SimDisk`] does:
//!
//! - **Data** is kept, dropped or left at an older content sector by sector (512 bytes), each sector
//!   separately; or up to some sector, as a write that was torn.
//! - **Sizes** are separate from data: a file may have its length and zeros, or data and not the
//!   length for it.
//! - **Names** (created, renamed, removed) are each kept or dropped separately until their folder is
//!   synced. A rename is atomic, as POSIX says. Syncing a file does not make its name durable.
//! - **A failed sync** loses what it should have made durable, although it reads back, and no later
//!   sync brings it: so Linux does, which marks the pages clean.
//! - **A write that fails** has written some of it, up to any byte: what `write_all` makes of short
//!   writes on a full disk.
//!
//! Everything is decided by seeds, so that what was found once is found again.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "it is part of test suites: what can't be is a bug in a test"
)]

mod chance;
mod content;
mod disk;
mod files;
mod names;
mod op;

pub use chance::Chance;
pub use disk::SimDisk;
pub use op::Op;
