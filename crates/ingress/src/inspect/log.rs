//! The records of a log, and what it is.

use std::io::{self, Write};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use tally_domain::{LogId, Offset, Partition, Position, decode_entry};
use tally_log::{Batch, BatchRecord, EventLog, LogHealth};

use super::{InspectError, write_line};

/// How long a reader waits before it looks whether it shall stop.
const STEP: Duration = Duration::from_millis(100);

/// Which part of a log to write.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogCat {
    /// This partition only.
    pub partition: Option<Partition>,
    /// From this offset of that partition; the first where it is absent.
    pub from: Option<Offset>,
    /// Go on with what comes, until asked to stop.
    pub follow: bool,
}

/// Writes the records up to the head at its start, each partition in offset order:
/// `{"partition":3,"offset":17,"event":{…}}`, or `error` and `raw_base64` for what is no event.
/// `stop` is asked now and then.
///
/// # Errors
/// [`InspectError`]; what was written before stands.
pub fn log_cat(
    log: &dyn EventLog,
    cat: LogCat,
    out: &mut dyn Write,
    stop: &dyn Fn() -> bool,
) -> Result<(), InspectError> {
    let head = log.head()?;
    let mut from = Vec::new();
    for (partition, first) in (0..).zip(log.first()?) {
        if cat.partition.is_none_or(|wanted| wanted == partition) {
            let offset = cat.from.unwrap_or(first);
            from.push(Position { partition, offset });
        }
    }
    if let (Some(partition), true) = (cat.partition, from.is_empty()) {
        let last = log.identity().partitions.saturating_sub(1);
        return Err(InspectError::NoSuchPartition { partition, last });
    }
    let end = if cat.follow { None } else { Some(head) };
    let mut line = Vec::new();
    let walked = walk(log, &from, end.as_deref(), stop, &mut |records| {
        for record in records {
            line.clear();
            write_record(&mut line, record)?;
            out.write_all(&line)?;
        }
        // Whoever follows wants to see it now.
        if cat.follow { out.flush() } else { Ok(()) }
    });
    // What was read before an error is worth having.
    out.flush()?;
    match walked {
        Err(InspectError::Stopped) if cat.follow => Ok(()),
        other => other,
    }
}

/// Reads from the given positions to `end`, or for ever, and hands over what lies below it.
fn walk(
    log: &dyn EventLog,
    from: &[Position],
    end: Option<&[Offset]>,
    stop: &dyn Fn() -> bool,
    each: &mut dyn FnMut(&mut dyn Iterator<Item = BatchRecord<'_>>) -> io::Result<()>,
) -> Result<(), InspectError> {
    let below_end = |position: Position| {
        let place = usize::try_from(position.partition).ok();
        end.is_none_or(|end| {
            place
                .and_then(|at| end.get(at))
                .is_some_and(|end| position.offset < *end)
        })
    };
    let mut reader = log.reader(from)?;
    let mut batch = Batch::new();
    loop {
        if end.is_some() && !reader.positions().into_iter().any(below_end) {
            return Ok(());
        }
        if stop() {
            return Err(InspectError::Stopped);
        }
        reader.next(&mut batch, STEP)?;
        each(&mut batch.iter().filter(|record| below_end(record.position)))?;
    }
}

#[derive(Serialize)]
struct Undecodable<'a> {
    partition: Partition,
    offset: Offset,
    error: &'a str,
    raw_base64: &'a str,
}

/// One record as a line.
fn write_record(line: &mut Vec<u8>, record: BatchRecord<'_>) -> io::Result<()> {
    let Position { partition, offset } = record.position;
    match decode_entry(record.value).map(|_| std::str::from_utf8(record.value)) {
        Ok(Ok(event)) => {
            write!(
                line,
                "{{\"partition\":{partition},\"offset\":{offset},\"event\":"
            )?;
            // As it stands in the log. A line break in JSON is only ever space between tokens,
            // and here it would break the line.
            line.extend(event.trim().bytes().map(|byte| {
                if matches!(byte, b'\n' | b'\r') {
                    b' '
                } else {
                    byte
                }
            }));
            line.extend_from_slice(b"}\n");
            Ok(())
        }
        Ok(Err(error)) => write_undecodable(line, record, &error.to_string()),
        Err(error) => write_undecodable(line, record, &error.to_string()),
    }
}

fn write_undecodable(line: &mut Vec<u8>, record: BatchRecord<'_>, error: &str) -> io::Result<()> {
    let Position { partition, offset } = record.position;
    let raw_base64 = STANDARD.encode(record.value);
    write_line(
        line,
        &Undecodable {
            partition,
            offset,
            error,
            raw_base64: &raw_base64,
        },
    )
}

#[derive(Serialize)]
struct LogLine<'a> {
    log: &'a str,
    id: LogId,
    partitions: u32,
    records: u64,
    health: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Serialize)]
struct PartitionLine<'a> {
    log: &'a str,
    partition: Partition,
    first: Offset,
    head: Offset,
}

/// Writes what a log is and how far it reaches: a line for the log, then one for each partition.
///
/// # Errors
/// [`InspectError`].
pub fn log_info(log: &dyn EventLog, name: &str, out: &mut dyn Write) -> Result<(), InspectError> {
    let (first, head) = (log.first()?, log.head()?);
    let identity = log.identity();
    let (health, detail) = match log.health() {
        LogHealth::Ok => ("ok", None),
        LogHealth::Failed(why) => ("failed", Some(why)),
        LogHealth::DiskFull(why) => ("disk_full", Some(why)),
        LogHealth::Unreachable(why) => ("unreachable", Some(why)),
    };
    let records = first
        .iter()
        .zip(&head)
        .map(|(first, head)| head.saturating_sub(*first))
        .sum();
    let line = LogLine {
        log: name,
        id: identity.id,
        partitions: identity.partitions,
        records,
        health,
        detail,
    };
    write_line(out, &line)?;
    for (partition, (first, head)) in (0..).zip(first.into_iter().zip(head)) {
        write_line(
            out,
            &PartitionLine {
                log: name,
                partition,
                first,
                head,
            },
        )?;
    }
    Ok(out.flush()?)
}

#[derive(Serialize)]
struct CheckedLine<'a> {
    log: &'a str,
    checked: bool,
    records: u64,
    bytes: u64,
}

/// Reads all records up to the head at its start, and with them all checksums; writes how many
/// there were.
///
/// # Errors
/// [`InspectError::Read`] at the first damage, which names the place.
pub fn log_check(
    log: &dyn EventLog,
    name: &str,
    out: &mut dyn Write,
    stop: &dyn Fn() -> bool,
) -> Result<(), InspectError> {
    let end = log.head()?;
    let from: Vec<Position> = (0..)
        .zip(log.first()?)
        .map(|(partition, offset)| Position { partition, offset })
        .collect();
    let (mut records, mut bytes) = (0u64, 0u64);
    walk(log, &from, Some(&end), stop, &mut |batch| {
        for record in batch {
            let size = record.key.len().saturating_add(record.value.len());
            records += 1;
            bytes += u64::try_from(size).unwrap_or(u64::MAX);
        }
        Ok(())
    })?;
    write_line(
        out,
        &CheckedLine {
            log: name,
            checked: true,
            records,
            bytes,
        },
    )?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(value: &[u8]) -> String {
        let mut batch = Batch::new();
        batch.push(3, 17, 0, b"ai_note:15", value);
        let mut line = Vec::new();
        for record in batch.iter() {
            write_record(&mut line, record).unwrap();
        }
        String::from_utf8(line).unwrap()
    }

    /// Protects the event as it stands in the log, fields of later versions included.
    #[test]
    fn an_event_is_shown_as_it_stands_in_the_log() {
        let event = r#"{"v":1,"id":"0193a6f0-7b3e-7c4a-9d3e-2f1b5c6d7e8f","at":"2026-11-24T03:50:12.345Z","user":"1","resource_type":"ai_note","resource_id":15,"interaction_type":"bookmark","later":1}"#;
        let wanted = format!("{{\"partition\":3,\"offset\":17,\"event\":{event}}}\n");
        assert_eq!(line(event.as_bytes()), wanted);
        // Another writer may have put line breaks into it.
        let spread = format!("\r\n{}\n", event.replace(',', ",\n "));
        let shown = line(spread.as_bytes());
        assert_eq!(shown.matches('\n').count(), 1);
        let (shown, wanted): (serde_json::Value, serde_json::Value) = (
            serde_json::from_str(&shown).unwrap(),
            serde_json::from_str(&wanted).unwrap(),
        );
        assert_eq!(shown, wanted);
    }

    /// Protects the bytes of what is no event: they can be had back.
    #[test]
    fn what_is_no_event_is_shown_with_its_bytes() {
        for bytes in [&b"\xff\xfe\n"[..], b"", b"{}", br#"{"v":99}"#, b"[1,\n2]"] {
            let shown: serde_json::Value = serde_json::from_str(&line(bytes)).unwrap();
            assert_eq!(
                (&shown["partition"], &shown["offset"]),
                (&3.into(), &17.into())
            );
            assert!(
                shown["error"]
                    .as_str()
                    .is_some_and(|error| !error.is_empty())
            );
            let raw = shown["raw_base64"].as_str().unwrap();
            assert_eq!(STANDARD.decode(raw).unwrap(), bytes);
            assert!(shown.get("event").is_none());
        }
    }
}
