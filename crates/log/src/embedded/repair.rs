//! Cuts a damaged log off where it is whole before, and says what is given up by that.
//!
//! What stands behind the cut is moved aside, never destroyed: later segments as they are, and a
//! copy of the one that is cut. Stopped anywhere in between it can be done again:
//!
//! 1. the segment that is cut is copied to the folder aside, and synced;
//! 2. later segments are moved there, the last one first, so that no hole ever stands between two;
//! 3. what stays of the segment is written to a new file, sealed, and renamed over it; or it is moved
//!    too, where nothing of it is left.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tally_domain::Offset;

use super::frames::{Step, Walk};
use super::identity;
use super::index::Index;
use super::layout::{Footer, Seed, header_bytes};
use super::options::OpenError;
use super::segment::{self, Failure, FileEnd, NEW};
use super::window::Window;
use crate::contract::LogIdentity;
use crate::storage::{File, Storage};

/// How much is copied at once, in bytes.
const PART: usize = 1 << 20;

/// What a cut gives up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cut {
    /// The file that is cut.
    pub file: PathBuf,
    /// Where: the beginning of the group in which the place lies that was asked for.
    pub byte: u64,
    /// Files behind it, which go whole.
    pub later_files: u64,
    /// Records that can be read behind the cut, and are given up.
    pub records: u64,
    /// Of each partition: the next offset after the cut, and before it as far as that can be told.
    pub next_offsets: Vec<(Offset, Offset)>,
    /// Append times of the first and the last group that can be read behind the cut, in
    /// milliseconds since 1970.
    pub times: Option<(u64, u64)>,
    /// The first offset of every partition is 0, so that a state can be folded again from the log.
    pub whole_from_the_beginning: bool,
    /// Where what was cut is kept, once it was done.
    pub aside: Option<PathBuf>,
}

impl Cut {
    /// How many partitions lose records.
    #[must_use]
    pub fn partitions(&self) -> usize {
        let lose = self.next_offsets.iter();
        lose.filter(|(after, before)| after < before).count()
    }
}

/// Why a log is not cut there. Nothing was changed, but where it [failed in the midst](Self::Halfway).
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// As for opening it.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no such segment.
    #[error("there is no segment {0} in the log; `tally log check` prints where it is damaged")]
    NoSuchFile(PathBuf),
    /// It is damaged before that already.
    #[error(
        "{file} is damaged at byte {byte} already ({what}), before the place that was given: cut there",
        file = file.display()
    )]
    DamagedBefore {
        /// The file.
        file: PathBuf,
        /// Where.
        byte: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The disk failed while the log was cut.
    #[error(
        "the log is cut in part, and what is moved so far stands in {aside}: nothing is lost, make the same cut again",
        aside = aside.display()
    )]
    Halfway {
        /// Where what is cut is kept.
        aside: PathBuf,
        /// What failed.
        #[source]
        cause: OpenError,
    },
}

/// The part of a segment that stays.
struct Kept {
    footer: Footer,
    place: u64,
    file: Arc<dyn File>,
    seed: Seed,
}

struct Repair<'a> {
    storage: &'a dyn Storage,
    dir: &'a Path,
    identity: LogIdentity,
    numbers: Vec<u64>,
    cut: Cut,
}

/// Cuts the log in `dir`, which must not be open anywhere, at a byte of one of its segments' files, or
/// where one is missing between others; or only says what that would give up, where `aside` is `None`.
/// The folder `aside` is made.
///
/// # Errors
/// [`RepairError`]; after [`RepairError::Halfway`] the same can be done again.
pub fn repair(
    storage: &dyn Storage,
    dir: &Path,
    (file, byte): (&Path, u64),
    aside: Option<&Path>,
) -> Result<Cut, RepairError> {
    // Where there is no such folder, locking would make one.
    storage.list(dir).map_err(OpenError::io("listed", dir))?;
    let _lock = super::lock(storage, dir)?;
    // Whoever held it until now may have added files.
    let names = storage.list(dir).map_err(OpenError::io("listed", dir))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|n| segment::number_of(n)).collect();
    numbers.sort_unstable();
    let number = file
        .file_name()
        .and_then(|n| segment::number_of(Path::new(n)));
    // One that is missing between others is a place to cut too: the check names it.
    let all = numbers.first().copied().zip(numbers.last().copied());
    let number = number.filter(|number| all.is_some_and(|(a, z)| (a..=z).contains(number)));
    let number = number.ok_or_else(|| RepairError::NoSuchFile(file.to_owned()))?;
    let identity = identity::read(storage, dir)?;
    let identity = identity
        .ok_or_else(|| OpenError::damaged(&dir.join(identity::FILE), 0, "the file is not there"))?;
    let mut repair = Repair {
        storage,
        dir,
        identity,
        numbers,
        cut: Cut {
            file: segment::path_of(dir, number),
            ..Cut::default()
        },
    };
    let kept = repair.plan(number, byte)?;
    if let Some(aside) = aside {
        let done = repair.carry_out(number, kept, aside);
        done.map_err(|cause| RepairError::Halfway {
            aside: aside.to_owned(),
            cause,
        })?;
        repair.cut.aside = Some(aside.to_owned());
    }
    Ok(repair.cut)
}

impl Repair<'_> {
    /// Finds where to cut, and what that gives up. `None` where nothing of the segment stays.
    fn plan(&mut self, number: u64, byte: u64) -> Result<Option<Kept>, RepairError> {
        let kept = self.kept(number, byte)?;
        let next = match &kept {
            Some(kept) => kept.footer.ends.clone(),
            None => self.base(number)?,
        };
        self.cut.byte = kept.as_ref().map_or(0, |kept| kept.place);
        self.cut.next_offsets = next.iter().map(|next| (*next, *next)).collect();
        let first = self.numbers.first().copied().unwrap_or(number);
        let base = if first == number && kept.is_none() {
            vec![0; next.len()]
        } else {
            self.base(first)?
        };
        self.cut.whole_from_the_beginning = base.iter().all(|offset| *offset == 0);
        let later: Vec<u64> = self
            .numbers
            .iter()
            .copied()
            .filter(|n| *n > number)
            .collect();
        self.cut.later_files = later.len() as u64;
        let from = self.cut.byte.max(header_bytes(self.identity.partitions));
        // What can't be read is given up too, and not counted.
        let _ = self.count(number, from, next.clone());
        for number in later {
            let start = header_bytes(self.identity.partitions);
            let next = self.base(number).unwrap_or_else(|_| next.clone());
            let _ = self.count(number, start, next);
        }
        Ok(kept)
    }

    /// The next offsets where a segment begins: as its header says, or as the one before ends.
    fn base(&self, number: u64) -> Result<Vec<Offset>, OpenError> {
        let partitions = self.identity.partitions;
        let header = |number| {
            let path = segment::path_of(self.dir, number);
            let file = self
                .storage
                .open(&path)
                .map_err(OpenError::io("opened", &path))?;
            segment::read_header(file.as_ref(), &path, partitions)
        };
        match header(number) {
            Ok(header) => Ok(header.base),
            Err(error) => {
                // Files between may be missing: then it is there that the log ends.
                let before = self.numbers.iter().copied().rfind(|n| *n < number);
                let Some(before) = before else {
                    return Err(error);
                };
                let path = segment::path_of(self.dir, before);
                let io = OpenError::io("read", &path);
                let file = self.storage.open(&path).map_err(&io)?;
                let size = file.size().map_err(&io)?;
                let seed = Seed::new(self.identity.id, before);
                match segment::read_end(file.as_ref(), seed, size, partitions).map_err(&io)? {
                    FileEnd::Sealed(_, footer) => Ok(footer.ends),
                    FileEnd::Open(_) | FileEnd::Bad(..) => Err(error),
                }
            }
        }
    }

    fn kept(&self, number: u64, byte: u64) -> Result<Option<Kept>, RepairError> {
        let path = &self.cut.file;
        let start = header_bytes(self.identity.partitions);
        if byte < start || !self.numbers.contains(&number) {
            return Ok(None);
        }
        let io = OpenError::io("read", path);
        let file = self
            .storage
            .open(path)
            .map_err(OpenError::io("opened", path))?;
        let header = segment::read_header(file.as_ref(), path, self.identity.partitions)?;
        let size = file.size().map_err(&io)?;
        let seed = Seed::new(self.identity.id, number);
        let partitions = self.identity.partitions;
        let limit = match segment::read_end(file.as_ref(), seed, size, partitions).map_err(&io)? {
            FileEnd::Sealed(place, _) => place,
            FileEnd::Open(_) | FileEnd::Bad(..) => size,
        };
        let mut footer = Footer {
            records: 0,
            groups: 0,
            last_append_time_millis: header.created_millis,
            ends: Vec::new(),
            index: Index::new(self.identity.partitions),
        };
        let window = Window::new(Arc::clone(&file));
        let mut walk = Walk::new(window, seed, start, limit, header.base);
        let place = loop {
            let (place, next) = (walk.place, walk.next.clone());
            footer.ends.clone_from(&next);
            if place >= byte {
                break place;
            }
            match walk.step().map_err(&io)? {
                // The group in which the place lies goes.
                Step::Group(_) if walk.place > byte => break place,
                Step::Group(group) => {
                    footer.index.note(place, &next);
                    footer.records += u64::from(group.records);
                    footer.groups += 1;
                    footer.last_append_time_millis = group.append_time_millis;
                }
                Step::End => break place,
                Step::Bad(what) => {
                    return Err(RepairError::DamagedBefore {
                        file: path.clone(),
                        byte: place,
                        what,
                    });
                }
            }
        };
        Ok((footer.records > 0).then_some(Kept {
            footer,
            place,
            file,
            seed,
        }))
    }

    /// Counts what can be read of a segment from a place on.
    fn count(&mut self, number: u64, from: u64, next: Vec<Offset>) -> Result<(), OpenError> {
        let path = segment::path_of(self.dir, number);
        let io = OpenError::io("read", &path);
        let file = self.storage.open(&path).map_err(&io)?;
        let limit = file.size().map_err(&io)?;
        let seed = Seed::new(self.identity.id, number);
        let mut walk = Walk::new(Window::new(file), seed, from, limit, next);
        loop {
            match walk.step().map_err(&io)? {
                Step::Group(group) => {
                    self.cut.records += u64::from(group.records);
                    let time = group.append_time_millis;
                    let first = self.cut.times.map_or(time, |(first, _)| first);
                    self.cut.times = Some((first, time));
                }
                Step::End => break,
                Step::Bad(_) => {
                    let (later, _) = walk.search(&|_| true).map_err(&io)?;
                    let Some((place, _)) = later else { break };
                    walk.resume(place);
                }
            }
        }
        for ((_, before), next) in self.cut.next_offsets.iter_mut().zip(&walk.next) {
            *before = (*before).max(*next);
        }
        Ok(())
    }

    fn carry_out(&self, number: u64, kept: Option<Kept>, aside: &Path) -> Result<(), OpenError> {
        let storage = self.storage;
        storage
            .create_dir_all(aside)
            .map_err(OpenError::io("made", aside))?;
        // What is synced into it is durable only where its own name is.
        let above = aside.parent().unwrap_or(self.dir);
        let synced = storage.sync_dir(above);
        synced.map_err(OpenError::io("synced", above))?;
        let path = &self.cut.file;
        if let Some(kept) = &kept {
            let to = aside.join(path.file_name().unwrap_or_default());
            self.keep(kept.file.as_ref(), &to)?;
        }
        let all_of_it = kept.is_none() && self.numbers.contains(&number);
        let all_of_it = all_of_it.then_some(number);
        let later = self.numbers.iter().copied().filter(|n| *n > number);
        for number in later.collect::<Vec<_>>().into_iter().rev().chain(all_of_it) {
            let from = segment::path_of(self.dir, number);
            let to = segment::path_of(aside, number);
            storage
                .rename(&from, &to)
                .map_err(OpenError::io("moved", &from))?;
            for dir in [aside, self.dir] {
                storage
                    .sync_dir(dir)
                    .map_err(OpenError::io("synced", dir))?;
            }
        }
        match kept {
            Some(kept) => self.replace(path, &kept),
            None => Ok(()),
        }
    }

    /// Puts a segment with what stays of it, sealed, in its place.
    fn replace(&self, path: &Path, kept: &Kept) -> Result<(), OpenError> {
        let mut new = path.as_os_str().to_owned();
        new.push(NEW);
        let new = PathBuf::from(new);
        let file = self.copy(kept.file.as_ref(), &new, kept.place)?;
        let sealed = segment::seal(file.as_ref(), kept.seed, kept.place, &kept.footer);
        sealed.map_err(|failure| match failure {
            Failure::Write(cause) => OpenError::io("written", &new)(cause),
            Failure::Sync(cause) => OpenError::io("synced", &new)(cause),
        })?;
        let renamed = self.storage.rename(&new, path);
        renamed.map_err(OpenError::io("replaced", path))?;
        let synced = self.storage.sync_dir(self.dir);
        synced.map_err(OpenError::io("synced", self.dir))
    }

    /// Copies the first bytes of a file to another one, which is made anew.
    fn copy(&self, source: &dyn File, to: &Path, size: u64) -> Result<Arc<dyn File>, OpenError> {
        let failed = OpenError::io("copied to", to);
        if self.storage.exists(to).map_err(&failed)? {
            self.storage.remove(to).map_err(&failed)?;
        }
        let copy = self.storage.create(to).map_err(&failed)?;
        let mut at = 0;
        while at < size {
            let left = usize::try_from(size - at).unwrap_or(PART);
            let mut part = vec![0; left.min(PART)];
            source.read_exact_at(&mut part, at).map_err(&failed)?;
            copy.write_all_at(&part, at).map_err(&failed)?;
            at += part.len() as u64;
        }
        Ok(copy)
    }

    /// A copy of all of a file, durable before anything is cut.
    fn keep(&self, source: &dyn File, to: &Path) -> Result<(), OpenError> {
        let failed = OpenError::io("copied to", to);
        let copy = self.copy(source, to, source.size().map_err(&failed)?)?;
        copy.sync_data().map_err(&failed)?;
        let dir = to.parent().unwrap_or(self.dir);
        let synced = self.storage.sync_dir(dir);
        synced.map_err(OpenError::io("synced", dir))
    }
}
