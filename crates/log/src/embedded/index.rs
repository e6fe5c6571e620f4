//! Where in a segment to start reading for an offset: a sparse index of its groups.

use tally_domain::{Offset, Partition};

use super::layout::index_interval;

/// Places of some groups, each with the next offset of every partition there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Index {
    partitions: usize,
    interval: u64,
    places: Vec<u64>,
    /// `partitions` offsets for each place.
    offsets: Vec<Offset>,
}

impl Index {
    pub(crate) fn new(partitions: u32) -> Self {
        Self {
            partitions: usize::try_from(partitions).unwrap_or(usize::MAX),
            interval: index_interval(partitions),
            places: Vec::new(),
            offsets: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (u64, &[Offset])> {
        let offsets = self.offsets.chunks_exact(self.partitions.max(1));
        self.places.iter().copied().zip(offsets)
    }

    pub(crate) fn push(&mut self, place: u64, next: &[Offset]) {
        self.places.push(place);
        self.offsets.extend_from_slice(next);
    }

    /// Takes the group at `place` in where the last entry is far enough away. `next` is what the
    /// partitions' next offsets are before the group.
    pub(crate) fn note(&mut self, place: u64, next: &[Offset]) {
        let far = |last: &u64| place.saturating_sub(*last) >= self.interval;
        if self.places.last().is_none_or(far) {
            self.push(place, next);
        }
    }

    /// A place at or before the group that holds `offset`, as near as the index knows; `None`
    /// where the offset lies before all of it.
    pub(crate) fn locate(&self, partition: Partition, offset: Offset) -> Option<u64> {
        let column = usize::try_from(partition).ok()?;
        // partition_point over entries, of which only one column matters.
        let (mut low, mut high) = (0, self.places.len());
        while low < high {
            let middle = low.midpoint(high);
            let there = self.offsets.get(middle * self.partitions + column)?;
            if *there <= offset {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.places.get(low.checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader must start at or before its record, and not far before it.
    #[test]
    fn the_nearest_entry_before_an_offset_is_found() {
        let mut index = Index::new(2);
        index.push(80, &[10, 20]);
        index.push(800, &[15, 20]);
        index.push(8000, &[15, 30]);
        assert_eq!(index.locate(0, 9), None);
        assert_eq!(index.locate(0, 10), Some(80));
        assert_eq!(index.locate(0, 14), Some(80));
        assert_eq!(index.locate(0, 15), Some(8000));
        assert_eq!(index.locate(1, 20), Some(800));
        assert_eq!(index.locate(1, 29), Some(800));
        assert_eq!(index.locate(1, 30), Some(8000));
        assert_eq!(index.locate(2, 0), None);
    }

    /// The index must stay small beside the data.
    #[test]
    fn groups_near_the_last_entry_are_left_out() {
        let mut index = Index::new(1);
        let interval = index_interval(1);
        for place in [72, 80, 71 + interval, 72 + interval, 80 + interval] {
            index.note(place, &[place]);
        }
        let places: Vec<u64> = index.entries().map(|(place, _)| place).collect();
        assert_eq!(places, [72, 72 + interval]);
    }
}
