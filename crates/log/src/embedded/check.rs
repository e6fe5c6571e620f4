//! Reads every checksum of a log that is not open, and tells all that is wrong.
//!
//! Opening stops at the first thing that is wrong and reads as little as it can; this reads all
//! there is, looks behind what is damaged for what is not, and changes nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tally_domain::{LogId, Offset};

use super::frames::{Step, Walk, Wrong};
use super::identity;
use super::index::Index;
use super::layout::{Footer, GroupHeader, Mark, Seed, header_bytes};
use super::options::{Damage, MAX_PARTITIONS, OpenError};
use super::segment::{self, FileEnd, SegmentInfo};
use super::window::Window;
use crate::contract::LogIdentity;
use crate::storage::{File, Storage};

/// More is only counted.
const MAX_DAMAGE: usize = 1_000;

/// What a log's folder holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckReport {
    /// Which log it is, where any file could say so.
    pub identity: Option<LogIdentity>,
    /// Segment files.
    pub segments: u64,
    /// Groups that are whole: each is one write and one sync.
    pub groups: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of the files, without the length that is only set ahead.
    pub bytes: u64,
    /// The first offset of every partition.
    pub first: Vec<Offset>,
    /// The offset after the last of every partition, as far as it could be read.
    pub heads: Vec<Offset>,
    /// What a killed process left at the end and never acknowledged; the next start cuts it off.
    pub torn: Option<Torn>,
    /// What is wrong, by file and place; at most 1,000 entries.
    pub damage: Vec<Damage>,
    /// How much more is wrong.
    pub more_damage: u64,
}

/// A write that was never acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// The file.
    pub file: PathBuf,
    /// Where it begins.
    pub byte: u64,
    /// How many bytes it has.
    pub bytes: u64,
}

impl CheckReport {
    /// Whether all that was acknowledged is there as it was written. A torn end is no damage.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.damage.is_empty()
    }

    fn add(&mut self, file: &Path, byte: u64, what: impl Into<String>) {
        if self.damage.len() >= MAX_DAMAGE {
            self.more_damage += 1;
            return;
        }
        self.damage.push(Damage {
            file: file.to_owned(),
            byte,
            what: what.into(),
        });
    }
}

/// Reads every checksum of the log in `dir`, which must not be open anywhere. It takes as long as
/// reading all of its files does, and little memory. Nothing is changed.
///
/// # Errors
/// [`OpenError`] where there is no log, or it is open, or the folder can't be read. Damage is no
/// error: it is in the report, and so is a file that can't be read.
pub fn check(storage: &dyn Storage, dir: &Path) -> Result<CheckReport, OpenError> {
    // Where there is no such folder, locking would make one.
    storage.list(dir).map_err(OpenError::io("listed", dir))?;
    let _lock = super::lock(storage, dir)?;
    // Whoever held it until now may have added files.
    check_copy(storage, dir)
}

/// As [`check`], of a copy that nobody opens: takes no lock, which would be one more file in it.
///
/// # Errors
/// As [`check`].
pub fn check_copy(storage: &dyn Storage, dir: &Path) -> Result<CheckReport, OpenError> {
    let names = storage.list(dir).map_err(OpenError::io("listed", dir))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|n| segment::number_of(n)).collect();
    numbers.sort_unstable();
    let mut report = CheckReport {
        segments: numbers.len() as u64,
        ..CheckReport::default()
    };
    report.identity = identify(storage, dir, &numbers, &mut report)?;
    let Some(identity) = report.identity else {
        return Ok(report);
    };
    let mut before: Option<End> = None;
    for (place, number) in numbers.iter().enumerate() {
        if let Some(end) = &before
            && end.number + 1 != *number
        {
            let path = segment::path_of(dir, end.number + 1);
            let missing = number - end.number - 1;
            report.add(&path, 0, format!("{missing} files are not there from here"));
            before = None;
        }
        let path = segment::path_of(dir, *number);
        let checked = Checking {
            identity,
            number: *number,
            path: &path,
            last: place + 1 == numbers.len(),
            report: &mut report,
        };
        let checked = storage
            .open(&path)
            .and_then(|file| checked.segment(file, before.as_ref()));
        before = match checked {
            Ok(end) => Some(end),
            Err(error) => {
                report.add(&path, 0, format!("the file can't be read: {error}"));
                None
            }
        };
    }
    report.heads = before.map(|end| end.next).unwrap_or_default();
    Ok(report)
}

/// Reads every checksum of one segment that is sealed, and adds what is wrong to the report.
pub(crate) fn check_segment(
    identity: LogIdentity,
    segment: &SegmentInfo,
    file: Arc<dyn File>,
    report: &mut CheckReport,
) -> io::Result<()> {
    let checking = Checking {
        identity,
        number: segment.number,
        path: &segment.path,
        last: false,
        report,
    };
    checking.segment(file, None).map(drop)
}

/// The log's identity, from its file or else from the first segment that tells it.
fn identify(
    storage: &dyn Storage,
    dir: &Path,
    numbers: &[u64],
    report: &mut CheckReport,
) -> Result<Option<LogIdentity>, OpenError> {
    let path = dir.join(identity::FILE);
    match identity::read(storage, dir) {
        Ok(Some(identity)) => return Ok(Some(identity)),
        Ok(None) if numbers.is_empty() => {
            let cause = io::Error::new(io::ErrorKind::NotFound, "there is no log in this folder");
            return Err(OpenError::io("opened", &path)(cause));
        }
        Ok(None) => report.add(&path, 0, "the file is not there, and segments are"),
        Err(OpenError::Damaged { damage }) => report.damage.push(damage),
        Err(other) => return Err(other),
    }
    let told = |number: &u64| {
        let path = segment::path_of(dir, *number);
        let file = storage.open(&path).ok()?;
        let partitions = segment::read_partitions(file.as_ref()).ok()?;
        let header = (partitions <= MAX_PARTITIONS)
            .then(|| segment::read_header(file.as_ref(), &path, partitions).ok())??;
        Some(LogIdentity {
            id: header.log,
            partitions,
        })
    };
    Ok(numbers.iter().find_map(told))
}

/// Where a segment ended.
struct End {
    number: u64,
    next: Vec<Offset>,
    append_time_millis: u64,
}

/// One segment that is looked at.
struct Checking<'a> {
    identity: LogIdentity,
    number: u64,
    path: &'a Path,
    last: bool,
    report: &'a mut CheckReport,
}

/// What the groups of a segment add up to.
struct Found {
    groups: u64,
    records: u64,
    append_time_millis: u64,
    /// All groups were whole.
    whole: bool,
}

impl Checking<'_> {
    fn damaged(&mut self, byte: u64, what: impl Into<String>) {
        self.report.add(self.path, byte, what);
    }

    fn segment(mut self, file: Arc<dyn File>, before: Option<&End>) -> io::Result<End> {
        let LogIdentity { id, partitions } = self.identity;
        let size = file.size()?;
        let mut end = self.header(id, file.as_ref(), before)?;
        let seed = Seed::new(id, self.number);
        let (limit, footer) = match segment::read_end(file.as_ref(), seed, size, partitions)? {
            FileEnd::Sealed(place, footer) => (place, Some(footer)),
            FileEnd::Bad(place, wrong) => {
                if !self.last {
                    self.damaged(place, wrong);
                }
                (size, None)
            }
            FileEnd::Open(place) => {
                if !self.last {
                    let what = "the segment has no footer, and it is not the last one";
                    self.damaged(place, what);
                }
                (size, None)
            }
        };
        let start = header_bytes(partitions);
        let mut walk = Walk::new(Window::new(file), seed, start, limit, end.next);
        let found = self.groups(&mut walk, footer.as_ref(), end.append_time_millis)?;
        if let Some(footer) = &footer {
            self.footer(limit, footer, &found, &walk.next);
        }
        self.report.groups += found.groups;
        self.report.records += found.records;
        self.report.bytes += if footer.is_some() { size } else { walk.place };
        end.next = walk.next;
        end.append_time_millis = found.append_time_millis;
        Ok(end)
    }

    /// Checks the header, and says where the segment begins: as its header says, or else as the
    /// one before ended.
    fn header(&mut self, log: LogId, file: &dyn File, before: Option<&End>) -> io::Result<End> {
        let partitions = self.identity.partitions;
        let columns = usize::try_from(partitions).unwrap_or_default();
        let mut end = End {
            number: self.number,
            next: before.map_or_else(|| vec![0; columns], |before| before.next.clone()),
            append_time_millis: before.map_or(0, |before| before.append_time_millis),
        };
        let header = match segment::read_header(file, self.path, partitions) {
            Ok(header) => header,
            Err(OpenError::Io { cause, .. }) => return Err(cause),
            Err(OpenError::Damaged { damage }) => {
                self.damaged(damage.byte, damage.what);
                return Ok(end);
            }
            Err(other) => {
                self.damaged(0, other.to_string());
                return Ok(end);
            }
        };
        if header.log != log {
            self.damaged(0, "the segment belongs to another log");
        }
        if header.number != self.number {
            self.damaged(0, "the file's name is not the segment's number");
        }
        if before.is_some_and(|before| before.next != header.base) {
            self.damaged(0, "the segment does not begin where the one before ends");
        }
        if header.created_millis < end.append_time_millis {
            self.damaged(0, "the segment was made before the one before ended");
        }
        if self.report.first.is_empty() {
            self.report.first.clone_from(&header.base);
        }
        end.next = header.base;
        end.append_time_millis = header.created_millis;
        Ok(end)
    }

    /// Goes over all groups, and behind damaged ones on with the next whole one.
    fn groups(&mut self, walk: &mut Walk, footer: Option<&Footer>, time: u64) -> io::Result<Found> {
        let none = Index::new(self.identity.partitions);
        let index = footer.map_or(&none, |footer| &footer.index);
        let mut entries = index.entries().peekable();
        let mut found = Found {
            groups: 0,
            records: 0,
            append_time_millis: time,
            whole: true,
        };
        loop {
            let place = walk.place;
            while let Some((at, offsets)) = entries.next_if(|(at, _)| *at <= place) {
                if at < place || offsets != walk.next {
                    self.damaged(at, "the footer's index is wrong about this place");
                }
            }
            match walk.step()? {
                Step::Group(group) => {
                    if group.append_time_millis < found.append_time_millis {
                        self.damaged(place, "the append time falls");
                    }
                    found.append_time_millis = group.append_time_millis;
                    found.groups += 1;
                    found.records += u64::from(group.records);
                }
                Step::End => break,
                Step::Bad(wrong) => {
                    found.whole = false;
                    if !self.bad(walk, wrong, footer.is_some())? {
                        break;
                    }
                    // What the index says of a place that can't be reached is of no use.
                    while entries.next_if(|(at, _)| *at < walk.place).is_some() {}
                }
            }
        }
        Ok(found)
    }

    /// Tells of a bad place, and goes on to the next whole group; `false` where there is none.
    fn bad(&mut self, walk: &mut Walk, wrong: Wrong, sealed: bool) -> io::Result<bool> {
        let here = Mark {
            segment: self.number,
            place: walk.place,
        };
        // Without a footer only a later group can say that something was acknowledged.
        let acknowledged = |later: &GroupHeader| sealed || later.synced > here;
        let (later, written) = walk.search(&acknowledged)?;
        if let Some((place, _)) = later {
            self.damaged(here.place, wrong);
            walk.resume(place);
            return Ok(true);
        }
        if sealed {
            self.damaged(here.place, wrong);
        } else if self.last && written > here.place {
            self.report.torn = Some(Torn {
                file: self.path.to_owned(),
                byte: here.place,
                bytes: written - here.place,
            });
        }
        Ok(false)
    }

    fn footer(&mut self, place: u64, footer: &Footer, found: &Found, next: &[Offset]) {
        if !found.whole {
            // It counts what can't be read.
            return;
        }
        let told = (footer.records, footer.groups);
        if told != (found.records, found.groups)
            || footer.ends != next
            || footer.last_append_time_millis != found.append_time_millis
        {
            self.damaged(place, "the footer does not say what the segment holds");
        }
    }
}
