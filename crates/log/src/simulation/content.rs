//! What a file holds: for whoever reads it, and after a crash.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Chance;

/// A disk writes these whole.
pub(super) const SECTOR: usize = 512;

/// A file's content.
#[derive(Clone, Default)]
pub(super) struct Content {
    /// What is read.
    pub(super) live: Vec<u8>,
    /// What no crash takes.
    pub(super) durable: Vec<u8>,
    /// What was done since to what is durable.
    pub(super) pending: Vec<Change>,
}

#[derive(Clone)]
pub(super) enum Change {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

fn write(bytes: &mut Vec<u8>, at: usize, new: &[u8]) {
    let end = at + new.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(new);
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, new) => write(bytes, *at, new),
            Self::SetLen(len) => bytes.resize(*len, 0),
        }
    }

    /// The sectors it changes in a file of that length, and the length after it.
    fn reach(&self, len: usize) -> (Range<usize>, usize) {
        match self {
            Self::Write(at, new) => {
                let end = at + new.len();
                (at / SECTOR..end.div_ceil(SECTOR), len.max(end))
            }
            // What is cut off reads as zero where the file grows again.
            Self::SetLen(to) => (to / SECTOR..len.div_ceil(SECTOR), *to),
        }
    }

    /// Does to one sector what it does to the file.
    fn apply_to(&self, sector: usize, bytes: &mut [u8]) {
        let start = sector * SECTOR;
        let end = (start + SECTOR).min(bytes.len());
        match self {
            Self::Write(at, new) => {
                let (from, to) = (start.max(*at), end.min(at + new.len()));
                if from < to {
                    bytes[from..to].copy_from_slice(&new[from - at..to - at]);
                }
            }
            Self::SetLen(len) => {
                let from = start.max(*len);
                if from < end {
                    bytes[from..end].fill(0);
                }
            }
        }
    }
}

impl Content {
    pub(super) fn holding(bytes: Vec<u8>) -> Self {
        Self {
            live: bytes.clone(),
            durable: bytes,
            pending: Vec::new(),
        }
    }

    pub(super) fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    pub(super) fn synced(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            change.apply(&mut self.durable);
        }
    }

    /// A sync failed: the data are lost although they are read, and a later sync does not bring
    /// them. With chance, some sectors got there. The length is no page; it stays as it was.
    pub(super) fn sync_failed(&mut self, chance: Option<&mut Chance>) {
        let sizes = |change: &Change| matches!(change, Change::SetLen(_));
        let kept = self.pending.iter().filter(|change| sizes(change));
        let kept = kept.cloned().collect();
        if let Some(chance) = chance {
            self.durable = self.some_sectors(chance);
        }
        self.pending = kept;
    }

    /// What a crash leaves.
    pub(super) fn after_crash(&self, chance: &mut Chance) -> Vec<u8> {
        if self.pending.is_empty() {
            return self.durable.clone();
        }
        match chance.below(4) {
            0 => self.durable.clone(),
            1 => self.first(self.pending.len(), chance),
            2 => self.first(chance.below(self.pending.len()), chance),
            _ => self.some_sectors(chance),
        }
    }

    /// The first so many changes, and the next one torn at a sector.
    fn first(&self, count: usize, chance: &mut Chance) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for change in &self.pending[..count] {
            change.apply(&mut bytes);
        }
        if let Some(Change::Write(at, new)) = self.pending.get(count) {
            let sectors = at / SECTOR..(at + new.len()).div_ceil(SECTOR);
            let torn = (sectors.start + chance.below(sectors.len() + 1)) * SECTOR;
            let torn = torn.clamp(*at, at + new.len());
            if torn > *at {
                write(&mut bytes, *at, &new[..torn - at]);
            }
        }
        bytes
    }

    /// Of every sector one of its contents since the last sync, and of the lengths any.
    fn some_sectors(&self, chance: &mut Chance) -> Vec<u8> {
        let mut len = self.durable.len();
        let mut lens = vec![len];
        let mut touched: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (number, change) in self.pending.iter().enumerate() {
            let (sectors, after) = change.reach(len);
            for sector in sectors {
                touched.entry(sector).or_default().push(number);
            }
            len = after;
            lens.push(len);
        }
        let longest = lens.iter().copied().max().unwrap_or_default();
        let mut bytes = self.durable.clone();
        bytes.resize(longest, 0);
        for (sector, changes) in touched {
            let kept = chance.below(changes.len() + 1);
            for number in &changes[..kept] {
                self.pending[*number].apply_to(sector, &mut bytes);
            }
        }
        bytes.truncate(lens[chance.below(lens.len())]);
        bytes
    }
}
