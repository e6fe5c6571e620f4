//! A segment file of any bytes: opened, checked and read without a panic, and what is read is what was
//! written at that position.
//!
//! Frames have checksums, so mutations alone would only ever meet those. The first byte of an input
//! says whether they are made right again, as the layout has them; what is behind them is met then.

use std::path::Path;

use tally_domain::{LogId, Position};
use tally_fuzz::{fuzz, way};
use tally_log::EventLog as _;
use tally_log::embedded::layout::{FORMAT_VERSION, GROUP_HEADER, RECORD_HEADER, header_bytes};
use tally_log::embedded::{EmbeddedOptions, OpenError, check};
use tally_log::simulation::SimDisk;
use tally_log::storage::Storage as _;

use crate::support::{
    Contents, PARTITIONS, append, dir, last_segment, open_with, read_all, segment, small,
};

/// The log of the corpus.
const LOG: LogId = LogId::from_u128(0x0193_a6f0_7b3e_4c4a_9d3e_2f1b_5c6d_7e8f);

const WORDS: &[&str] = &["TALLYSEG", "TGRP", "TALLYEND", "TEND", "key"];

/// First byte of an input: checksums stand as they are, or are made right.
const AS_IT_IS: u8 = b'a';

fn options() -> EmbeddedOptions {
    small()
}

/// A disk with the log's identity and, where given, its first segment.
fn disk_with(first: Option<&[u8]>) -> SimDisk {
    let disk = SimDisk::default();
    disk.create_dir_all(dir()).unwrap();
    let text = format!("tally-log {FORMAT_VERSION}\nid {LOG}\npartitions {PARTITIONS}\n");
    let checksum = crc32c::crc32c(text.as_bytes());
    put(
        &disk,
        &dir().join("identity"),
        format!("{text}crc32c {checksum:08x}\n").as_bytes(),
    );
    if let Some(bytes) = first {
        put(&disk, &segment(1), bytes);
    }
    disk.copy()
}

fn put(disk: &SimDisk, path: &Path, bytes: &[u8]) {
    disk.create(path).unwrap().write_all_at(bytes, 0).unwrap();
}

/// What every segment of the corpus has at a position.
fn written(position: Position) -> Vec<u8> {
    let Position { partition, offset } = position;
    format!("{partition} {offset} ")
        .repeat(1 + usize::try_from(offset % 5).unwrap())
        .into_bytes()
}

/// Protects readers and the next start from whatever a disk may hold.
#[test]
fn fuzz_segments() {
    fuzz("segments", WORDS, |input| {
        let Some((first, bytes)) = input.split_first() else {
            return 0;
        };
        if *first == AS_IT_IS {
            let went = opened(bytes, |contents| {
                for (position, value) in contents {
                    assert_eq!(*value, written(*position), "at {position}");
                }
            });
            return way(went);
        }
        let mut bytes = bytes.to_vec();
        seal(&mut bytes);
        way(format!("sealed {}", opened(&bytes, |_| {})))
    });
}

/// Checks, opens, reads and opens again; what stands in it is the same each time.
fn opened(bytes: &[u8], all: impl Fn(&Contents)) -> String {
    let disk = disk_with(Some(bytes));
    let report = check(&disk, dir());
    let log = match open_with(&disk, options()) {
        Ok((log, _)) => log,
        Err(error) => {
            // `Damaged` names file and byte; the words after them say which way it went.
            assert!(
                !matches!(error, OpenError::Locked { .. }),
                "nobody has it open"
            );
            return error.to_string();
        }
    };
    let contents = match read_all(&log) {
        Ok(contents) => contents,
        Err(error) => return format!("read: {error}"),
    };
    all(&contents);
    for pair in contents.windows(2) {
        assert!(pair[0].0 < pair[1].0, "{} twice or out of order", pair[0].0);
    }
    drop(log);
    let report = report.unwrap();
    if report.damage.is_empty() {
        assert_eq!(report.records, contents.len() as u64, "{report:?}");
    }
    let (again, recovery) = open_with(&disk, options()).unwrap();
    assert_eq!(recovery.cut_bytes, 0, "it was cut before");
    assert_eq!(read_all(&again).unwrap(), contents);
    format!("{} {}", contents.len().min(1), report.torn.is_some())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..)?.first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*field)).ok()
}

fn set(bytes: &mut [u8], at: usize, checksum: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Makes every checksum right that stands where the layout says that one is.
fn seal(bytes: &mut [u8]) {
    let start = usize::try_from(header_bytes(PARTITIONS)).unwrap();
    if let Some(header) = bytes.get(..start - 4) {
        let checksum = crc32c::crc32c(header);
        set(bytes, start - 4, checksum);
    }
    let seed = crc32c::crc32c_append(crc32c::crc32c(LOG.as_bytes()), &1_u64.to_le_bytes());
    let seeded = |place: usize, kind: u32, bytes: &[u8]| {
        crc32c::crc32c_append(seed ^ u32::try_from(place).unwrap() ^ kind, bytes)
    };
    let mut at = start;
    while bytes
        .get(at..)
        .is_some_and(|rest| rest.starts_with(b"TGRP"))
    {
        let (Some(header), Some(len)) =
            (bytes.get(at + 8..at + GROUP_HEADER), u32_at(bytes, at + 8))
        else {
            break;
        };
        let checksum = seeded(at, 1, header);
        let records = u32_at(bytes, at + 12).unwrap_or_default();
        set(bytes, at + 4, checksum);
        let mut record = at + GROUP_HEADER;
        for _ in 0..records {
            let sizes = u32_at(bytes, record + 16).zip(u32_at(bytes, record + 20));
            let Some((key, value)) = sizes else { break };
            let end = record + RECORD_HEADER + key + value;
            let Some(checked) = bytes.get(record + 4..end) else {
                break;
            };
            let checksum = seeded(record, 0, checked);
            set(bytes, record, checksum);
            record = end;
        }
        at += len.max(8);
    }
    let tail = bytes.len().checked_sub(16);
    let Some(tail) = tail.filter(|_| bytes.ends_with(b"TEND")) else {
        return;
    };
    let place = u32_at(bytes, tail).filter(|place| place % 8 == 0);
    if let Some(checked) = place.and_then(|place| bytes.get(place..tail + 8)) {
        let checksum = seeded(place.unwrap_or_default(), 2, checked);
        set(bytes, tail + 8, checksum);
    }
}

/// The corpus is made of real segments: this says how, and that they are still what this code writes.
/// With `FUZZ_WRITE_CORPUS` set to a folder it writes them there.
#[test]
fn the_corpus_is_what_the_log_writes() {
    let folder = std::env::var_os("FUZZ_WRITE_CORPUS");
    let disk = disk_with(None);
    let (log, _) = open_with(&disk, options()).unwrap();
    let mut next = [0; PARTITIONS as usize];
    let mut grow = |groups: u32| {
        for group in 0..groups {
            let mut records = Vec::new();
            for record in 0..=group % 3 {
                let partition = (group + record) % PARTITIONS;
                let offset = next[partition as usize];
                next[partition as usize] += 1;
                let position = Position { partition, offset };
                records.push((partition, written(position)));
            }
            let results = append(&log, &records).recv().unwrap();
            assert!(results.iter().all(Result::is_ok));
        }
        disk.bytes(&last_segment(&disk))
    };
    let open = grow(5);
    let larger = grow(6);
    log.close(std::time::Duration::from_secs(60)).unwrap();
    let sealed = disk.bytes(&segment(1));
    for (name, bytes) in [("open", &open), ("larger", &larger), ("sealed", &sealed)] {
        let went = opened(bytes, |contents| {
            assert!(contents.iter().all(|(at, value)| *value == written(*at)));
        });
        assert!(went.starts_with('1'), "{name}: {went}");
        let mut again = bytes.clone();
        seal(&mut again);
        assert!(
            again == *bytes,
            "{name}: the checksums are those of the layout"
        );
        if let Some(folder) = &folder {
            // Of the length set ahead, enough to be seen.
            let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
            let kept = &bytes[..(end + 64).min(bytes.len())];
            for (kind, first) in [("", AS_IT_IS), ("-sealed", b's')] {
                let path = Path::new(folder).join(format!("{name}{kind}"));
                std::fs::write(path, [&[first], kept].concat()).unwrap();
            }
        }
    }
}
