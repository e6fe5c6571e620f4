//! A part of a file in memory, which moves forward over it in large reads.

use std::io;
use std::sync::Arc;

use crate::storage::File;

/// How much is read at once, where there is as much.
pub(crate) const CHUNK: usize = 1024 * 1024;

/// Keeps at most this much memory; a longer read (a large record) is given back.
const KEEP: usize = 2 * CHUNK;

pub(crate) struct Window {
    file: Arc<dyn File>,
    buffer: Vec<u8>,
    start: u64,
    filled: usize,
}

impl Window {
    pub(crate) fn new(file: Arc<dyn File>) -> Self {
        Self {
            file,
            buffer: Vec::new(),
            start: 0,
            filled: 0,
        }
    }

    pub(crate) fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// Reads from the file what is asked for next, also where it is in memory.
    pub(crate) fn forget(&mut self) {
        self.filled = 0;
    }

    /// All bytes from `at` that are in memory, at least `need`; what is read ends at `limit`.
    /// `None` where fewer than `need` lie before `limit`. An error of kind `UnexpectedEof` where
    /// the file ends before.
    pub(crate) fn get(&mut self, at: u64, need: usize, limit: u64) -> io::Result<Option<&[u8]>> {
        let left = limit.saturating_sub(at);
        if left < need as u64 {
            return Ok(None);
        }
        let have = at
            .checked_sub(self.start)
            .and_then(|from| usize::try_from(from).ok())
            .filter(|from| from.saturating_add(need) <= self.filled);
        let from = match have {
            Some(from) => from,
            None => {
                self.fill(at, need, left)?;
                0
            }
        };
        Ok(self.buffer.get(from..self.filled))
    }

    fn fill(&mut self, at: u64, need: usize, left: u64) -> io::Result<()> {
        // CHUNK where there is as much before the limit, and never less than what is needed.
        let want = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(CHUNK)
            .max(need);
        self.filled = 0;
        if self.buffer.len() < want {
            self.buffer.resize(want, 0);
        } else if self.buffer.len() > KEEP && want <= KEEP {
            self.buffer.truncate(KEEP);
            self.buffer.shrink_to_fit();
        }
        self.file
            .read_exact_at(self.buffer.get_mut(..want).unwrap_or_default(), at)?;
        self.start = at;
        self.filled = want;
        Ok(())
    }
}
