//! A log that another process has open, for reading alone.
//!
//! What may be read is known by its writer only: a group may be in the file and not be synced yet.
//! So a view shows nothing by itself. Whoever has it asks the process that writes for its heads and
//! [advances](LogView::advance) the view to them; they are true of the disk, and so is what is shown.
//! Nothing of the folder is locked or changed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tally_domain::Offset;

use super::EmbeddedLog;
use super::frames::{Step, Walk};
use super::identity;
use super::layout::{Mark, Seed, header_bytes};
use super::options::{EmbeddedOptions, OpenError};
use super::queue::{Ended, Stop};
use super::recovery::{self, Opened, Recovery};
use super::segment::{self, FileEnd, SegmentInfo};
use super::shared::Shared;
use super::window::Window;
use crate::contract::{EventLog, ReadError};
use crate::metrics::LogMetrics;
use crate::storage::Storage;

/// How often a file is read again that does not show yet what its writer says is there.
const TRIES: u32 = 50;

/// The pause between them.
const PAUSE: Duration = Duration::from_millis(20);

/// A log that another process writes, shown as far as it was [advanced](Self::advance). Nothing of its
/// folder is locked or changed.
#[derive(Debug)]
pub struct LogView {
    log: Arc<EmbeddedLog>,
    at: Mutex<At>,
}

/// A file of a log, and how much of it a view shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// The file.
    pub path: PathBuf,
    /// So many bytes from its beginning.
    pub bytes: u64,
}

/// Up to where the view shows the log.
#[derive(Debug)]
struct At {
    segment: Arc<SegmentInfo>,
    place: u64,
    next: Vec<Offset>,
}

impl LogView {
    /// Opens the log in `dir`, which shows nothing yet; `name` is its label in `metrics`.
    ///
    /// # Errors
    /// [`OpenError`] where there is no log, or its first file can't be read.
    pub fn open(
        storage: Arc<dyn Storage>,
        dir: &Path,
        name: &str,
        metrics: &LogMetrics,
    ) -> Result<Self, OpenError> {
        let identity = identity::read(storage.as_ref(), dir)?.ok_or_else(|| {
            let cause = io::Error::new(io::ErrorKind::NotFound, "there is no log in this folder");
            OpenError::io("opened", &dir.join(identity::FILE))(cause)
        })?;
        let names = storage.list(dir).map_err(OpenError::io("listed", dir))?;
        let first = names.iter().filter_map(|name| segment::number_of(name));
        let number = first.min().unwrap_or(1);
        let (segment, file) = recovery::header(storage.as_ref(), dir, identity, number, None)?;
        let segment = Arc::new(segment);
        let at = At {
            place: header_bytes(identity.partitions),
            next: segment.base.clone(),
            segment: Arc::clone(&segment),
        };
        let options = EmbeddedOptions {
            partitions: identity.partitions,
            ..EmbeddedOptions::default()
        };
        let opened = Opened {
            identity,
            heads: segment.base.clone(),
            segments: vec![segment],
            sealed_bytes: 0,
            last_append_time_millis: 0,
            file,
            recovery: Recovery::default(),
        };
        let mut shared = super::share(storage, dir, name, &options, metrics, opened);
        shared.foreign = true;
        shared
            .queue
            .close("another process writes it", Stop::Abandon);
        shared.queue.ended(Ended { unfinished: None });
        Ok(Self {
            log: Arc::new(EmbeddedLog::without_writer(shared)),
            at: Mutex::new(at),
        })
    }

    /// The log, as far as it is shown.
    #[must_use]
    pub fn log(&self) -> Arc<dyn EventLog> {
        Arc::clone(&self.log) as Arc<dyn EventLog>
    }

    /// The files in which that stands which is shown: the identity's, then the segments' in their order.
    /// Only the last one may still be written, behind the bytes told here, which are whole groups and
    /// synced. So a copy of as many bytes of each file is a log that can be opened, whatever its writer
    /// does meanwhile, and holds what is shown and no record more.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] where a file can't be looked at.
    pub fn files(&self) -> Result<Vec<LogFile>, ReadError> {
        let shared = &self.log.shared;
        let size = |path: &Path| {
            let size = shared
                .storage
                .open_to_read(path)
                .and_then(|file| file.size());
            size.map_err(|error| unreadable(path, &error))
        };
        let state = shared.state.lock();
        let (segments, synced) = (state.segments.clone(), state.synced);
        drop(state);
        let identity = shared.dir.join(identity::FILE);
        let mut files = vec![LogFile {
            bytes: size(&identity)?,
            path: identity,
        }];
        for segment in segments {
            let bytes = if segment.number == synced.segment {
                synced.place
            } else {
                size(&segment.path)?
            };
            let path = segment.path.clone();
            files.push(LogFile { path, bytes });
        }
        Ok(files)
    }

    /// Shows the log up to these heads, which its writer gave out. It never shows less than before.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] and [`ReadError::Unavailable`]; what was shown before stays.
    pub fn advance(&self, heads: &[Offset]) -> Result<(), ReadError> {
        let mut at = self.at.lock();
        let shared = &self.log.shared;
        let mut tries = 0;
        while at.next.iter().zip(heads).any(|(next, head)| next < head) {
            if at.step(shared, heads)? {
                tries = 0;
                continue;
            }
            tries += 1;
            if tries > TRIES {
                return Err(ReadError::Damaged {
                    place: format!("{}, byte {}", at.segment.path.display(), at.place),
                    what: "the writer says that more is there, and no whole group follows"
                        .to_owned(),
                });
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}

fn unreadable(path: &Path, error: &io::Error) -> ReadError {
    ReadError::Unavailable(format!("{}: {error}", path.display()))
}

impl At {
    /// Goes on by some groups or by a file, and shows them; `false` where there is nothing to see.
    fn step(&mut self, shared: &Shared, heads: &[Offset]) -> Result<bool, ReadError> {
        let path = self.segment.path.clone();
        let file = shared.storage.open_to_read(&path);
        let file = file.map_err(|error| unreadable(&path, &error))?;
        let seed = Seed::new(shared.identity.id, self.segment.number);
        let partitions = shared.identity.partitions;
        let size = file.size().map_err(|error| unreadable(&path, &error))?;
        // A file that is being sealed meanwhile is looked at again.
        let sealed = match segment::read_end(file.as_ref(), seed, size, partitions) {
            Ok(FileEnd::Sealed(place, footer)) => Some((place, footer.ends)),
            Ok(FileEnd::Open(_) | FileEnd::Bad(..)) => None,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(unreadable(&path, &error)),
        };
        let below = |ends: &[Offset]| ends.iter().zip(heads).all(|(end, head)| end <= head);
        if let Some((place, ends)) = &sealed
            && below(ends)
        {
            // Whoever reads the file checks that all of it is there.
            self.place = *place;
            self.next.clone_from(ends);
            return Ok(self.enter_next(shared)? || self.show(shared));
        }
        let limit = sealed.map_or(size, |(place, _)| place);
        let window = Window::new(file);
        let mut walk = Walk::new(window, seed, self.place, limit, self.next.clone());
        while walk.next.iter().zip(heads).any(|(next, head)| next < head) {
            match walk.step().map_err(|error| unreadable(&path, &error))? {
                Step::Group(_) if below(&walk.next) => {
                    self.place = walk.place;
                    self.next.clone_from(&walk.next);
                }
                Step::Group(_) => {
                    return Err(ReadError::Unavailable(
                        "the heads asked for lie inside a group; ask the writer again".to_owned(),
                    ));
                }
                Step::End | Step::Bad(_) => break,
            }
        }
        Ok(self.show(shared))
    }

    /// Goes to the next file, where there is one.
    fn enter_next(&mut self, shared: &Shared) -> Result<bool, ReadError> {
        let number = self.segment.number + 1;
        let path = segment::path_of(&shared.dir, number);
        let there = shared.storage.exists(&path);
        if !there.map_err(|error| unreadable(&path, &error))? {
            return Ok(false);
        }
        let storage = shared.storage.as_ref();
        let before = Some(self.segment.as_ref());
        let opened = recovery::header(storage, &shared.dir, shared.identity, number, before);
        let (segment, _) = opened.map_err(|error| ReadError::Damaged {
            place: path.display().to_string(),
            what: error.to_string(),
        })?;
        if segment.base != self.next {
            return Err(ReadError::Damaged {
                place: path.display().to_string(),
                what: "it does not begin where the one before ends".to_owned(),
            });
        }
        self.segment = Arc::new(segment);
        self.place = header_bytes(shared.identity.partitions);
        self.show(shared);
        Ok(true)
    }

    /// Lets readers see all up to here; whether that is more than before.
    fn show(&self, shared: &Shared) -> bool {
        let synced = Mark {
            segment: self.segment.number,
            place: self.place,
        };
        let mut state = shared.state.lock();
        let more = synced > state.synced;
        if more {
            if state
                .segments
                .last()
                .is_none_or(|last| last.number < self.segment.number)
            {
                state.segments.push(Arc::clone(&self.segment));
            }
            state.synced = synced;
            state.heads.clone_from(&self.next);
            shared.moved.notify_all();
        }
        more
    }
}
