//! Opening: what a folder holds, what of it is true, and making all of that durable.
//!
//! Reads the headers of all segments, the footers of the last two, and, where the last one has
//! none (the process was killed), that segment from its beginning. Nothing is changed before it
//! is known that nothing is damaged. Then:
//!
//! 1. what is left of files that were being made is removed;
//! 2. the last segment is synced, since what was read may be in the page cache alone; an unsealed
//!    one is cut off behind its last valid group and sealed;
//! 3. a last segment without a record is removed, so that restarts don't pile up empty files;
//! 4. a new segment is made for what comes.
//!
//! Killed anywhere in between, the next start finds a state that is one of those above.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tally_domain::{LogId, Offset};

use super::frames::{Step, Walk};
use super::identity;
use super::index::Index;
use super::layout::{Footer, GroupHeader, Mark, Seed, SegmentHeader, header_bytes};
use super::options::{EmbeddedOptions, OpenError};
use super::segment::{self, Failure, FileEnd, NEW, SegmentInfo};
use super::window::Window;
use crate::contract::LogIdentity;
use crate::storage::{File, Storage};

/// What was found when a log was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// The log was not there and was created.
    pub created: bool,
    /// The log was closed before; nothing had to be looked through.
    pub clean: bool,
    /// Records found in the segment that was being written when the process was killed. All of
    /// them are kept and durable now.
    pub recovered_records: u64,
    /// Bytes cut off its end: writes that were never acknowledged, torn by the kill.
    pub cut_bytes: u64,
    /// Where they stood, where there were any.
    pub cut_at: Option<(PathBuf, u64)>,
}

/// An opened log, ready to be written.
pub(crate) struct Opened {
    pub(crate) identity: LogIdentity,
    pub(crate) segments: Vec<Arc<SegmentInfo>>,
    pub(crate) sealed_bytes: u64,
    pub(crate) heads: Vec<Offset>,
    pub(crate) last_append_time_millis: u64,
    /// The last segment, which is new.
    pub(crate) file: Arc<dyn File>,
    pub(crate) recovery: Recovery,
}

struct Opening<'a> {
    storage: &'a dyn Storage,
    dir: &'a Path,
    partitions: u32,
}

/// The last segment as it was found.
struct Last {
    info: SegmentInfo,
    file: Arc<dyn File>,
    /// Where its data ends.
    place: u64,
    /// Where the last group begins: those before it say that they were synced.
    last_group: u64,
    footer: Footer,
    /// The whole file's length, where it is sealed already.
    sealed: Option<u64>,
}

fn failed(path: &Path) -> impl Fn(Failure) -> OpenError + '_ {
    move |failure| match failure {
        Failure::Write(cause) => OpenError::io("written", path)(cause),
        Failure::Sync(cause) => OpenError::io("synced", path)(cause),
    }
}

/// Opens the log in a folder that this process has locked.
pub(crate) fn open(
    storage: &dyn Storage,
    dir: &Path,
    options: &EmbeddedOptions,
) -> Result<Opened, OpenError> {
    let opening = Opening {
        storage,
        dir,
        partitions: options.partitions,
    };
    let names = storage.list(dir).map_err(OpenError::io("listed", dir))?;
    let numbers = opening.numbers(&names)?;
    let mut recovery = Recovery::default();
    let identity = opening.identity(numbers.is_empty(), &mut recovery)?;
    let mut headers = Vec::new();
    let mut sealed_bytes = 0;
    let mut last_file = None;
    for number in numbers {
        let (info, file) = header(storage, dir, identity, number, headers.last())?;
        let size = file.size().map_err(OpenError::io("read", &info.path))?;
        headers.push(info);
        if let Some((_, size)) = last_file.replace((file, size)) {
            sealed_bytes += size;
        }
    }
    let mut heads = vec![0; usize::try_from(options.partitions).unwrap_or_default()];
    let mut time = 0;
    let mut number = 1;
    recovery.clean = !recovery.created;
    if let (Some(info), Some((file, size))) = (headers.pop(), last_file) {
        opening.before_last(identity.id, headers.last(), &info)?;
        let last = opening.last(identity.id, info, file, size, &mut recovery)?;
        heads.clone_from(&last.footer.ends);
        time = last.footer.last_append_time_millis;
        number = last.info.number;
        opening.remove_unfinished(&names)?;
        if let Some((info, size)) = opening.keep(identity.id, last)? {
            sealed_bytes += size;
            number += 1;
            headers.push(info);
        }
    } else {
        opening.remove_unfinished(&names)?;
    }
    let begun = SegmentHeader {
        log: identity.id,
        number,
        created_millis: segment::unix_millis().max(time),
        base: heads.clone(),
    };
    let path = segment::path_of(dir, number);
    let (info, file) =
        segment::create(storage, dir, &begun, options.segment_bytes).map_err(failed(&path))?;
    headers.push(info);
    Ok(Opened {
        identity,
        segments: headers.into_iter().map(Arc::new).collect(),
        sealed_bytes,
        heads,
        last_append_time_millis: begun.created_millis,
        file,
        recovery,
    })
}

/// Opens a segment and reads its header, which must follow on the one before.
pub(crate) fn header(
    storage: &dyn Storage,
    dir: &Path,
    log: LogIdentity,
    number: u64,
    before: Option<&SegmentInfo>,
) -> Result<(SegmentInfo, Arc<dyn File>), OpenError> {
    let path = segment::path_of(dir, number);
    let file = storage
        .open(&path)
        .map_err(OpenError::io("opened", &path))?;
    let header = segment::read_header(file.as_ref(), &path, log.partitions)?;
    let wrong = |what| Err(OpenError::damaged(&path, 0, what));
    if header.log != log.id {
        return wrong("the segment belongs to another log");
    }
    if header.number != number {
        return wrong("the file's name is not the segment's number");
    }
    if header.base.len() as u64 != u64::from(log.partitions) {
        return wrong("the segment has another number of partitions");
    }
    let falls = |before: &SegmentInfo| {
        let mut pairs = before.base.iter().zip(&header.base);
        pairs.any(|(before, after)| before > after)
    };
    if before.is_some_and(falls) {
        return wrong("its offsets begin below those of the segment before");
    }
    let info = SegmentInfo {
        number,
        path,
        created_millis: header.created_millis,
        base: header.base,
    };
    Ok((info, file))
}

impl Opening<'_> {
    /// Reads which log this is, and makes it where there is nothing.
    fn identity(&self, empty: bool, recovery: &mut Recovery) -> Result<LogIdentity, OpenError> {
        match identity::read(self.storage, self.dir)? {
            Some(found) if found.partitions == self.partitions => {
                if empty {
                    // Its name may be in the page cache alone: no segment's may last longer.
                    self.storage
                        .sync_dir(self.dir)
                        .map_err(OpenError::io("synced", self.dir))?;
                }
                Ok(found)
            }
            Some(found) => Err(OpenError::PartitionsDiffer {
                dir: self.dir.to_owned(),
                wanted: self.partitions,
                actual: found.partitions,
            }),
            None if empty => {
                recovery.created = true;
                identity::create(self.storage, self.dir, self.partitions)
            }
            None => Err(OpenError::damaged(
                &self.dir.join(identity::FILE),
                0,
                "the file is not there, and segments are",
            )),
        }
    }

    /// The segments' numbers, which have no holes.
    fn numbers(&self, names: &[PathBuf]) -> Result<Vec<u64>, OpenError> {
        let mut numbers: Vec<u64> = names.iter().filter_map(|n| segment::number_of(n)).collect();
        numbers.sort_unstable();
        for pair in numbers.windows(2) {
            if let [before, after] = pair
                && before + 1 != *after
            {
                let path = segment::path_of(self.dir, before + 1);
                return Err(OpenError::damaged(&path, 0, "the file is not there"));
            }
        }
        Ok(numbers)
    }

    /// The segment before the last one must end where the last one begins.
    fn before_last(
        &self,
        log: LogId,
        before: Option<&SegmentInfo>,
        last: &SegmentInfo,
    ) -> Result<(), OpenError> {
        let Some(before) = before else {
            return Ok(());
        };
        let path = &before.path;
        let io = OpenError::io("read", path);
        let file = self
            .storage
            .open(path)
            .map_err(OpenError::io("opened", path))?;
        let size = file.size().map_err(&io)?;
        let seed = Seed::new(log, before.number);
        match segment::read_end(file.as_ref(), seed, size, self.partitions).map_err(&io)? {
            FileEnd::Sealed(_, footer) if footer.ends == last.base => Ok(()),
            FileEnd::Sealed(place, _) => Err(OpenError::damaged(
                path,
                place,
                "the segment does not end where the next one begins",
            )),
            FileEnd::Bad(place, wrong) => Err(OpenError::damaged(path, place, wrong)),
            FileEnd::Open(place) => Err(OpenError::damaged(
                path,
                place,
                "the segment has no footer, and it is not the last one",
            )),
        }
    }

    /// What the last segment holds; looked through from its beginning where it is not sealed.
    fn last(
        &self,
        log: LogId,
        info: SegmentInfo,
        file: Arc<dyn File>,
        size: u64,
        recovery: &mut Recovery,
    ) -> Result<Last, OpenError> {
        let seed = Seed::new(log, info.number);
        let end = segment::read_end(file.as_ref(), seed, size, self.partitions)
            .map_err(OpenError::io("read", &info.path))?;
        if let FileEnd::Sealed(place, footer) = end {
            return Ok(Last {
                info,
                file,
                place,
                last_group: place,
                footer,
                sealed: Some(size),
            });
        }
        recovery.clean = false;
        let start = header_bytes(self.partitions);
        let window = Window::new(Arc::clone(&file));
        let mut walk = Walk::new(window, seed, start, size, info.base.clone());
        let mut last_group = start;
        let footer = self.look_through(&info, &mut walk, recovery, &mut last_group)?;
        Ok(Last {
            last_group,
            place: walk.place,
            info,
            file,
            footer,
            sealed: None,
        })
    }

    /// Reads all valid groups. What follows on them is torn, unless a later group says that it was
    /// acknowledged.
    fn look_through(
        &self,
        info: &SegmentInfo,
        walk: &mut Walk,
        recovery: &mut Recovery,
        last_group: &mut u64,
    ) -> Result<Footer, OpenError> {
        let io = OpenError::io("read", &info.path);
        let mut footer = Footer {
            records: 0,
            groups: 0,
            last_append_time_millis: info.created_millis,
            ends: Vec::new(),
            index: Index::new(self.partitions),
        };
        let wrong = loop {
            let (place, next) = (walk.place, walk.next.clone());
            match walk.step().map_err(&io)? {
                Step::Group(group) => {
                    *last_group = place;
                    footer.index.note(place, &next);
                    footer.records += u64::from(group.records);
                    footer.groups += 1;
                    footer.last_append_time_millis =
                        footer.last_append_time_millis.max(group.append_time_millis);
                }
                Step::End => break None,
                Step::Bad(wrong) => break Some(wrong),
            }
        };
        if let Some(wrong) = wrong {
            let here = Mark {
                segment: info.number,
                place: walk.place,
            };
            let acknowledged = |later: &GroupHeader| later.synced > here;
            let (later, written) = walk.search(&acknowledged).map_err(&io)?;
            if let Some((later, _)) = later {
                return Err(OpenError::damaged(
                    &info.path,
                    here.place,
                    format!("{wrong}, and the group at byte {later} says that it was synced"),
                ));
            }
            recovery.cut_bytes = written - here.place;
            if recovery.cut_bytes > 0 {
                recovery.cut_at = Some((info.path.clone(), here.place));
            }
        }
        recovery.recovered_records = footer.records;
        footer.ends.clone_from(&walk.next);
        Ok(footer)
    }

    /// Removes files that were being made when the process was killed.
    fn remove_unfinished(&self, names: &[PathBuf]) -> Result<(), OpenError> {
        let ours = |name: &&PathBuf| {
            let name = name.to_str().and_then(|name| name.strip_suffix(NEW));
            name.is_some_and(|name| {
                name == identity::FILE || segment::number_of(Path::new(name)).is_some()
            })
        };
        for name in names.iter().filter(ours) {
            let path = self.dir.join(name);
            // The identity's was replaced and renamed where the log was just created.
            if self
                .storage
                .exists(&path)
                .map_err(OpenError::io("looked for", &path))?
            {
                self.storage
                    .remove(&path)
                    .map_err(OpenError::io("removed", &path))?;
            }
        }
        Ok(())
    }

    /// Seals the last segment where it is not, or removes it where it holds nothing. Returns it
    /// with its length where it stays.
    fn keep(&self, log: LogId, last: Last) -> Result<Option<(SegmentInfo, u64)>, OpenError> {
        let path = &last.info.path;
        if last.footer.records == 0 {
            self.storage
                .remove(path)
                .map_err(OpenError::io("removed", path))?;
            self.storage
                .sync_dir(self.dir)
                .map_err(OpenError::io("synced", self.dir))?;
            return Ok(None);
        }
        // What was found may be in the page cache alone, a footer too, so it is synced. But a sync that
        // failed in an earlier life leaves pages that read back, are clean, and are
        // on no disk: what may be so is written again.
        let from = if last.sealed.is_some() {
            last.place
        } else {
            last.last_group
        };
        let end = last.sealed.unwrap_or(last.place);
        let mut bytes = vec![0; usize::try_from(end - from).unwrap_or_default()];
        last.file
            .read_exact_at(&mut bytes, from)
            .and_then(|()| last.file.write_all_at(&bytes, from))
            .map_err(OpenError::io("written", path))?;
        last.file
            .sync_data()
            .map_err(OpenError::io("synced", path))?;
        if let Some(size) = last.sealed {
            return Ok(Some((last.info, size)));
        }
        let seed = Seed::new(log, last.info.number);
        let size = segment::seal(last.file.as_ref(), seed, last.place, &last.footer)
            .map_err(failed(path))?;
        Ok(Some((last.info, size)))
    }
}
