//! One segment file: its name, how it is made, sealed, and what its two ends say.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tally_domain::Offset;

use super::layout::{
    FOOTER_TAIL, Footer, HeaderError, PARTITIONS_AT, Seed, SegmentHeader, header_bytes,
};
use super::options::OpenError;
use crate::storage::{File, Storage};

/// The end of the name of a file that is being made.
pub(crate) const NEW: &str = ".new";

/// A segment as everyone knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentInfo {
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    pub(crate) created_millis: u64,
    /// The next offset of every partition where it begins.
    pub(crate) base: Vec<Offset>,
}

/// What kind of file operation failed. After a failed sync nothing is known of what was written.
#[derive(Debug)]
pub(crate) enum Failure {
    Write(io::Error),
    Sync(io::Error),
}

/// Milliseconds since 1970.
pub(crate) fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

pub(crate) fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.log"))
}

/// The number of a segment by its file's name.
pub(crate) fn number_of(name: &Path) -> Option<u64> {
    let digits = name.to_str()?.strip_suffix(".log")?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
}

/// Makes a file under another name, writes and syncs it, and gives it its name. Whatever an
/// earlier try left is replaced.
pub(crate) fn make_file(
    storage: &dyn Storage,
    path: &Path,
    bytes: &[u8],
    len: u64,
) -> Result<Arc<dyn File>, Failure> {
    let mut new = path.as_os_str().to_owned();
    new.push(NEW);
    let new = PathBuf::from(new);
    if storage.exists(&new).map_err(Failure::Write)? {
        storage.remove(&new).map_err(Failure::Write)?;
    }
    let file = storage.create(&new).map_err(Failure::Write)?;
    file.set_len(len).map_err(Failure::Write)?;
    file.write_all_at(bytes, 0).map_err(Failure::Write)?;
    file.sync_data().map_err(Failure::Sync)?;
    storage.rename(&new, path).map_err(Failure::Write)?;
    if let Some(dir) = path.parent() {
        // Nothing that was acknowledged rests on this name yet, and another attempt makes file and
        // name anew: a folder that could not be opened for want of descriptors is no end.
        storage.sync_dir(dir).map_err(Failure::Write)?;
    }
    Ok(file)
}

/// Makes a segment with nothing but a header, durable, its length set: space is taken as it is written.
pub(crate) fn create(
    storage: &dyn Storage,
    dir: &Path,
    header: &SegmentHeader,
    segment_bytes: u64,
) -> Result<(SegmentInfo, Arc<dyn File>), Failure> {
    let path = path_of(dir, header.number);
    let bytes = header.encode();
    let file = make_file(
        storage,
        &path,
        &bytes,
        segment_bytes.max(bytes.len() as u64),
    )?;
    let info = SegmentInfo {
        number: header.number,
        path,
        created_millis: header.created_millis,
        base: header.base.clone(),
    };
    Ok((info, file))
}

/// Cuts the file off at `place`, where its data ends, and writes the footer there. Returns the
/// file's length.
pub(crate) fn seal(
    file: &dyn File,
    seed: Seed,
    place: u64,
    footer: &Footer,
) -> Result<u64, Failure> {
    let bytes = footer.encode(seed, place);
    file.set_len(place).map_err(Failure::Write)?;
    file.write_all_at(&bytes, place).map_err(Failure::Write)?;
    file.sync_data().map_err(Failure::Sync)?;
    Ok(place + bytes.len() as u64)
}

/// Reads and checks a segment's header.
pub(crate) fn read_header(
    file: &dyn File,
    path: &Path,
    partitions: u32,
) -> Result<SegmentHeader, OpenError> {
    let damaged = |what| OpenError::damaged(path, 0, what);
    let len = usize::try_from(header_bytes(partitions)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; len];
    match file.read_exact_at(&mut bytes, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(damaged("the file is shorter than a segment's header"));
        }
        other => other.map_err(OpenError::io("read", path))?,
    }
    SegmentHeader::decode(&bytes).map_err(|error| match error {
        HeaderError::OtherVersion(found) => OpenError::OtherVersion {
            file: path.to_owned(),
            found,
        },
        HeaderError::Malformed(what) => damaged(what),
    })
}

/// How many partitions a segment's header speaks of, without checking it.
pub(crate) fn read_partitions(file: &dyn File) -> io::Result<u32> {
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, PARTITIONS_AT)?;
    Ok(u32::from_le_bytes(bytes))
}

/// What stands at the end of a segment's file.
pub(crate) enum FileEnd {
    /// Nothing that looks like a footer; the end of one would be here.
    Open(u64),
    /// Something that looks like one, and is not whole.
    Bad(u64, &'static str),
    /// Its place and what it says.
    Sealed(u64, Footer),
}

/// Reads the end of a segment's file of `size` bytes.
pub(crate) fn read_end(
    file: &dyn File,
    seed: Seed,
    size: u64,
    partitions: u32,
) -> io::Result<FileEnd> {
    let Some(tail_at) = size.checked_sub(FOOTER_TAIL as u64) else {
        return Ok(FileEnd::Open(0));
    };
    let mut tail = [0; FOOTER_TAIL];
    file.read_exact_at(&mut tail, tail_at)?;
    let Some(place) = Footer::place(&tail, size).filter(|at| *at >= header_bytes(partitions))
    else {
        return Ok(FileEnd::Open(tail_at));
    };
    let Ok(len) = usize::try_from(size - place) else {
        return Ok(FileEnd::Open(tail_at));
    };
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, place)?;
    Ok(match Footer::decode(seed, place, &bytes) {
        Ok(footer) if footer.ends.len() as u64 == u64::from(partitions) => {
            FileEnd::Sealed(place, footer)
        }
        Ok(_) => FileEnd::Bad(place, "the footer is of another number of partitions"),
        Err(wrong) => FileEnd::Bad(place, wrong),
    })
}
