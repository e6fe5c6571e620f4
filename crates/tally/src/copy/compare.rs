//! Whether the destination is the beginning of the source, byte for byte.
//!
//! Each partition of the destination is hashed as a whole, then as many records of the source's: one
//! pass over each, whatever the number of partitions. Only where the hashes differ are both read
//! again, side by side, to say where.

use std::ops::ControlFlow;

use sha2::{Digest as _, Sha256};
use tally_domain::{Partition, Position};
use tally_log::BatchRecord;

use super::fold::Fold;
use super::read::{self, End, Reader, below};
use super::{Copied, CopyError, Copying, Instead, Step, Watch, fate};

/// So many records of a partition, hashed in their order.
#[derive(Clone, Default)]
struct Hashed {
    records: u64,
    hash: Sha256,
}

impl Hashed {
    fn add(&mut self, record: BatchRecord<'_>) {
        self.records += 1;
        for part in [record.key, record.value] {
            self.hash
                .update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            self.hash.update(part);
        }
    }

    fn is(&self, other: &Self) -> bool {
        self.records == other.records
            && self.hash.clone().finalize() == other.hash.clone().finalize()
    }
}

fn at<T>(list: &mut [T], partition: Partition) -> Option<&mut T> {
    list.get_mut(usize::try_from(partition).ok()?)
}

impl Copying<'_> {
    /// Reads the destination, and as much of the source, which is then folded so far.
    pub(super) fn compare(&mut self, watch: &mut dyn Watch) -> Result<(), CopyError> {
        let (from, end) = (self.destination.beginning()?, self.destination.head()?);
        let held = read::offsets(&from, &end);
        if held == 0 {
            return Ok(());
        }
        watch.begins(Step::Comparing, held.saturating_mul(2));
        let mut there = vec![Hashed::default(); end.len()];
        self.destination.through(&from, &end, &mut |records| {
            for record in records {
                if let Some(there) = at(&mut there, record.position.partition) {
                    there.add(*record);
                }
            }
            watch.moved(read::count(records));
            Ok(ControlFlow::Continue(()))
        })?;
        self.done.already_there = there.iter().map(|there| there.records).sum();
        self.compare_source(&there, watch)?;
        let there = &mut self.done.already_there;
        *there = there.saturating_sub(self.done.left_out);
        Ok(())
    }

    fn compare_source(&mut self, there: &[Hashed], watch: &mut dyn Watch) -> Result<(), CopyError> {
        let wanted = |partition: Partition| {
            let place = usize::try_from(partition).ok();
            place
                .and_then(|place| there.get(place))
                .filter(|there| there.records > 0)
        };
        let from = self.next.iter().copied();
        let from: Vec<Position> = from.filter(|p| wanted(p.partition).is_some()).collect();
        let mut open = from.len();
        let mut found = vec![Hashed::default(); there.len()];
        let (fold, done, next) = (&mut self.fold, &mut self.done, &mut self.next);
        let mut differs = None;
        self.source.through(&from, &self.end, &mut |records| {
            for record in records {
                let partition = record.position.partition;
                let (Some(wanted), Some(found)) = (wanted(partition), at(&mut found, partition))
                else {
                    continue;
                };
                // What comes after what is there is read again when it is copied.
                if found.records == wanted.records {
                    continue;
                }
                if let Some(next) = at(next, partition) {
                    next.offset = record.position.offset.saturating_add(1);
                }
                let fate = fate(fold, done, *record, watch)?;
                found.add(fate.record(*record));
                watch.moved(1);
                if found.records < wanted.records {
                    continue;
                }
                open = open.saturating_sub(1);
                if !found.is(wanted) {
                    differs = Some(partition);
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(if open == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        let shorter = || {
            let both = (0..).zip(there.iter().zip(&found));
            let mut shorter = both.filter(|(_, (there, found))| found.records < there.records);
            shorter.next().map(|(partition, _)| partition)
        };
        match differs.or_else(shorter) {
            Some(partition) => Err(self.locate(partition)?),
            None => Ok(()),
        }
    }

    /// The first record of a partition in which both logs differ.
    fn locate(&self, partition: Partition) -> Result<CopyError, CopyError> {
        let ends = (self.end.clone(), self.destination.head()?);
        let mut source = Cursor::new(&self.source, partition, ends.0)?;
        let mut destination = Cursor::new(&self.destination, partition, ends.1)?;
        let mut fold = Fold::new(self.source.log().identity().partitions);
        let mut to = 0;
        loop {
            let mine = source.next(&mut |record| {
                let fate = fate(&mut fold, &mut Copied::default(), record, &mut Nobody);
                fate.ok().and_then(|fate| fate.instead)
            })?;
            let theirs = destination.next(&mut |_| None)?;
            let from = mine.as_ref().map(|(position, _, _)| position.offset);
            if let Some((position, _, _)) = &theirs {
                to = position.offset;
            }
            let same = match (&mine, &theirs) {
                (Some((_, key, value)), Some((_, their_key, their_value))) => {
                    key == their_key && value == their_value
                }
                (Some(_) | None, None) | (None, Some(_)) => false,
            };
            if !same {
                return Ok(CopyError::Differs {
                    partition,
                    from,
                    to,
                });
            }
        }
    }
}

/// Nobody wants to know: it was said before.
struct Nobody;

impl Watch for Nobody {
    fn begins(&mut self, _: Step, _: u64) {}
    fn moved(&mut self, _: u64) {}
    fn left_out(&mut self, _: Position) {}
}

/// A record's position, key and value.
type Owned = (Position, Vec<u8>, Vec<u8>);

/// One partition, record by record.
struct Cursor<'a> {
    reader: Reader<'a>,
    end: Vec<u64>,
    waiting: std::collections::VecDeque<Owned>,
}

impl<'a> Cursor<'a> {
    fn new(log: &'a End<'a>, partition: Partition, end: Vec<u64>) -> Result<Self, CopyError> {
        let mut from = log.beginning()?;
        from.retain(|position| position.partition == partition);
        Ok(Self {
            reader: log.reader(&from)?,
            end,
            waiting: std::collections::VecDeque::new(),
        })
    }

    /// The next record, or what stands in its place; `None` at the end.
    fn next(
        &mut self,
        instead: &mut dyn FnMut(BatchRecord<'_>) -> Option<Instead>,
    ) -> Result<Option<Owned>, CopyError> {
        while self.waiting.is_empty() {
            let Some(batch) = self.reader.more(&self.end)? else {
                return Ok(None);
            };
            for record in batch.iter() {
                if below(&self.end, record.position) {
                    let Instead { key, value } = instead(record).unwrap_or_else(|| Instead {
                        key: record.key.to_vec(),
                        value: record.value.to_vec(),
                    });
                    self.waiting.push_back((record.position, key, value));
                }
            }
        }
        Ok(self.waiting.pop_front())
    }
}
