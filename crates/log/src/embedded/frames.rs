//! Groups and records read from a file and checked, one at a time.
//!
//! Results are nested: the outer error is of the file, the inner one says what is wrong with the
//! bytes.

use std::io;

use tally_domain::Offset;

use super::layout::{GROUP_HEADER, GroupHeader, RECORD_HEADER, RecordFrame, Seed, may_be_group};
use super::window::{CHUNK, Window};

/// What is wrong with the bytes, as the middle of a sentence.
pub(crate) type Wrong = &'static str;

/// The header of the group at `place`, which ends at `limit` or before.
#[inline]
pub(crate) fn group_at(
    window: &mut Window,
    seed: Seed,
    place: u64,
    limit: u64,
) -> io::Result<Result<GroupHeader, Wrong>> {
    let Some(bytes) = window.get(place, GROUP_HEADER, limit)? else {
        return Ok(Err("the group's header is cut off"));
    };
    Ok(match GroupHeader::decode(seed, place, bytes) {
        Ok(group) if group.bytes > limit - place => Err("the group goes past the end of the data"),
        other => other,
    })
}

/// The record at `place`, in a group that ends at `end`, and how many bytes it has.
#[inline]
pub(crate) fn record_at(
    window: &mut Window,
    seed: Seed,
    place: u64,
    end: u64,
) -> io::Result<Result<(RecordFrame<'_>, u64), Wrong>> {
    const PAST: Wrong = "a record goes past the end of its group";
    let Some(bytes) = window.get(place, RECORD_HEADER, end)? else {
        return Ok(Err(PAST));
    };
    let Some(header) = bytes.first_chunk() else {
        return Ok(Err(PAST));
    };
    let len = RecordFrame::bytes(header);
    let Ok(need) = usize::try_from(len) else {
        return Ok(Err(PAST));
    };
    // Checked before the read, so that a damaged length asks for no memory.
    let Some(bytes) = window.get(place, need, end)? else {
        return Ok(Err(PAST));
    };
    let frame = bytes.get(..need).unwrap_or_default();
    Ok(RecordFrame::decode(seed, place, frame).map(|record| (record, len)))
}

/// After its last record a group has only the zeros that pad it.
pub(crate) fn padding_at(
    window: &mut Window,
    place: u64,
    end: u64,
) -> io::Result<Result<(), Wrong>> {
    const WRONG: Wrong = "a group does not end where it says";
    let Some(len) = end.checked_sub(place).filter(|len| *len < 8) else {
        return Ok(Err(WRONG));
    };
    #[expect(clippy::cast_possible_truncation, reason = "it is below 8")]
    let len = len as usize;
    let Some(bytes) = window.get(place, len, end)? else {
        return Ok(Err(WRONG));
    };
    let zero = bytes.iter().take(len).all(|byte| *byte == 0);
    Ok(if zero { Ok(()) } else { Err(WRONG) })
}

/// Walks over the groups of one segment and checks everything.
pub(crate) struct Walk {
    window: Window,
    seed: Seed,
    limit: u64,
    /// Where the next group starts.
    pub(crate) place: u64,
    /// The partitions' next offsets there.
    pub(crate) next: Vec<Offset>,
    staged: Vec<Offset>,
    /// Of a partition where records may be missing before the next one.
    gap: Vec<bool>,
}

/// One step of a walk.
pub(crate) enum Step {
    /// A whole and valid group; the walk stands behind it.
    Group(GroupHeader),
    /// The limit is reached.
    End,
    /// What stands here is no valid group; the walk stands still.
    Bad(Wrong),
}

impl Walk {
    pub(crate) fn new(
        window: Window,
        seed: Seed,
        place: u64,
        limit: u64,
        next: Vec<Offset>,
    ) -> Self {
        Self {
            window,
            seed,
            limit,
            place,
            staged: next.clone(),
            gap: vec![false; next.len()],
            next,
        }
    }

    pub(crate) fn step(&mut self) -> io::Result<Step> {
        if self.place >= self.limit {
            return Ok(Step::End);
        }
        self.staged.clone_from(&self.next);
        match self.group() {
            Ok(Ok(group)) => {
                self.place += group.bytes;
                std::mem::swap(&mut self.next, &mut self.staged);
                Ok(Step::Group(group))
            }
            Ok(Err(wrong)) => Ok(Step::Bad(wrong)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Ok(Step::Bad("the file ends before"))
            }
            Err(error) => Err(error),
        }
    }

    fn group(&mut self) -> io::Result<Result<GroupHeader, Wrong>> {
        let group = match group_at(&mut self.window, self.seed, self.place, self.limit)? {
            Ok(group) => group,
            Err(wrong) => return Ok(Err(wrong)),
        };
        let end = self.place + group.bytes;
        let mut place = self.place + GROUP_HEADER as u64;
        for _ in 0..group.records {
            let (record, len) = match record_at(&mut self.window, self.seed, place, end)? {
                Ok(found) => found,
                Err(wrong) => return Ok(Err(wrong)),
            };
            let column = usize::try_from(record.partition).unwrap_or(usize::MAX);
            let Some(next) = self.staged.get_mut(column) else {
                return Ok(Err("a record names a partition that is not there"));
            };
            if record.offset != *next {
                let gap = self.gap.get(column).is_some_and(|gap| *gap);
                if !gap || record.offset < *next {
                    return Ok(Err("a record does not have the offset that comes next"));
                }
            }
            if let Some(gap) = self.gap.get_mut(column) {
                *gap = false;
            }
            *next = record.offset.saturating_add(1);
            place += len;
        }
        let padding = padding_at(&mut self.window, place, end)?;
        Ok(padding.map(|()| group))
    }

    /// The place and header of the next valid group header after where the walk stands that
    /// `wanted` takes, and the end of the last byte that is not zero before it or the limit.
    pub(crate) fn search(
        &mut self,
        wanted: &dyn Fn(&GroupHeader) -> bool,
    ) -> io::Result<(Option<(u64, GroupHeader)>, u64)> {
        let mut place = self.place;
        let mut written = place;
        while place < self.limit {
            let left = usize::try_from(self.limit - place).unwrap_or(usize::MAX);
            let Some(bytes) = self.window.get(place, left.min(CHUNK), self.limit)? else {
                break;
            };
            let (words, rest) = bytes.as_chunks::<8>();
            for (here, word) in (place..).step_by(8).zip(words) {
                let Some(end) = word.iter().rposition(|byte| *byte != 0) else {
                    continue;
                };
                written = written.max(here + end as u64 + 1);
                if here == self.place || !may_be_group(word) {
                    continue;
                }
                let from = usize::try_from(here - place).unwrap_or(usize::MAX);
                let header = bytes.get(from..).unwrap_or_default();
                // One that is cut off here is looked at whole in the next part.
                match GroupHeader::decode(self.seed, here, header) {
                    Ok(group) if wanted(&group) => return Ok((Some((here, group)), written)),
                    Ok(_) | Err(_) => {}
                }
            }
            if bytes.len() >= left {
                if rest.iter().any(|byte| *byte != 0) {
                    written = self.limit;
                }
                break;
            }
            // The next part begins with what could be the start of a header here.
            place += (8 * words.len() - GROUP_HEADER) as u64;
        }
        Ok((None, written))
    }

    /// Goes on at a group that [`search`](Self::search) found, behind records that can't be read.
    pub(crate) fn resume(&mut self, place: u64) {
        self.place = place;
        self.gap.fill(true);
    }
}
