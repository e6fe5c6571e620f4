//! How snapshots are called.

use std::fmt;

use tally_domain::{LogId, Offset, Partition};

const END: &str = ".snapshot";

/// `LOG/PARTITION/OFFSET-MILLIS-FOLD-LAYOUT.snapshot`: the log's id, the partition with 5 digits, the next
/// offset with 20, when it was taken, in milliseconds since 1970 with 14, and the versions of the fold and
/// of the store's layout. Later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotName {
    /// The log that it was folded from.
    pub log: LogId,
    /// The partition.
    pub partition: Partition,
    /// Everything below is in it.
    pub next_offset: Offset,
    /// When it was taken, in milliseconds since 1970.
    pub made_millis: u64,
    /// The version of the fold.
    pub fold_version: u32,
    /// The version of the store's layout.
    pub layout: u32,
}

impl SnapshotName {
    /// From a name; `None` where it is none of ours.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('/');
        let (log, partition, rest) = (parts.next()?, parts.next()?, parts.next()?);
        let mut rest = rest.strip_suffix(END)?.split('-');
        let mut next = || rest.next();
        let (offset, millis, fold, store) = (next()?, next()?, next()?, next()?);
        let parsed = Self {
            log: log.parse().ok()?,
            partition: partition.parse().ok()?,
            next_offset: offset.parse().ok()?,
            made_millis: millis.parse().ok()?,
            fold_version: fold.parse().ok()?,
            layout: store.parse().ok()?,
        };
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{:05}/{:020}-{:014}-{}-{}{END}",
            self.log,
            self.partition,
            self.next_offset,
            self.made_millis,
            self.fold_version,
            self.layout
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects the way back: a name is read as it was written, and nothing else is taken for one.
    #[test]
    fn names_are_read_back() {
        let name = SnapshotName {
            log: LogId::now_v7(),
            partition: 3,
            next_offset: 42,
            made_millis: 1_795_000_000_000,
            fold_version: 2,
            layout: 3,
        };
        let text = name.to_string();
        assert_eq!(SnapshotName::parse(&text), Some(name));
        let longer = format!("{text}/x");
        let shorter = text.replace("00003", "3");
        for other in ["", "a/b/c", &longer, &shorter, &text.to_uppercase()] {
            assert_eq!(SnapshotName::parse(other), None, "{other}");
        }
    }
}
