//! The dead letters of the state, the end of the log included.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use tally_domain::{DeadLetter, DeadLetterReason, EventTime, Offset, Partition, Position};
use tally_projector::Projector;

use super::state::catch_up;
use super::{InspectError, write_line};

/// How many letters are taken from the state at once.
const AT_ONCE: usize = 256;

/// Which dead letters to write.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeadLetterList {
    /// Those of this partition only.
    pub partition: Option<Partition>,
    /// From this offset of that partition on; the first where it is absent.
    pub from: Option<Offset>,
    /// Those with this reason only.
    pub reason: Option<DeadLetterReason>,
}

#[derive(Serialize)]
struct Line<'a> {
    partition: Partition,
    offset: Offset,
    reason: DeadLetterReason,
    detail: &'a str,
    append_time: EventTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

fn write_letter(out: &mut dyn Write, letter: &DeadLetter, whole: bool) -> io::Result<()> {
    let text = std::str::from_utf8;
    let (key, value) = (text(&letter.key).ok(), text(&letter.value).ok());
    let Position { partition, offset } = letter.position;
    let line = Line {
        partition,
        offset,
        reason: letter.reason,
        detail: &letter.detail,
        append_time: EventTime::from_millis(letter.append_time_millis),
        key,
        key_base64: key.is_none().then(|| STANDARD.encode(&letter.key)),
        value: value.filter(|_| whole),
        value_base64: whole.then(|| STANDARD.encode(&letter.value)),
    };
    write_line(out, &line)
}

pub(super) fn partitions(
    projector: &Projector,
    only: Option<Partition>,
) -> Result<std::ops::Range<Partition>, InspectError> {
    let many = projector.log().identity().partitions;
    match only {
        None => Ok(0..many),
        Some(partition) if partition < many => Ok(partition..partition.saturating_add(1)),
        Some(partition) => {
            let last = many.saturating_sub(1);
            Err(InspectError::NoSuchPartition { partition, last })
        }
    }
}

/// Writes dead letters, a line for each, by partition and offset:
/// `{"partition":3,"offset":17,"reason":"undecodable","detail":"…","append_time":"…","key":"…"}`,
/// with `key_base64` for a key that is no text. `stop` is asked now and then.
///
/// # Errors
/// [`InspectError`], also where the fold has stopped before the end of the log: then what there is
/// was written before.
pub fn dead_letters(
    projector: &Projector,
    list: DeadLetterList,
    out: &mut dyn Write,
    stop: &dyn Fn() -> bool,
) -> Result<(), InspectError> {
    let partitions = partitions(projector, list.partition)?;
    let caught_up = catch_up(projector, stop).map(drop);
    for partition in partitions {
        let mut from = Position {
            partition,
            offset: list.from.unwrap_or_default(),
        };
        loop {
            if stop() {
                return Err(InspectError::Stopped);
            }
            let letters = projector.dead_letters(from, AT_ONCE)?;
            let Some(last) = letters.last() else {
                break;
            };
            from.offset = last.position.offset.saturating_add(1);
            let wanted = letters
                .iter()
                .filter(|letter| list.reason.is_none_or(|reason| reason == letter.reason));
            for letter in wanted {
                write_letter(out, letter, false)?;
            }
        }
    }
    out.flush()?;
    caught_up
}

/// Writes one dead letter as a line with its value: `value` where it is text, and `value_base64`.
///
/// # Errors
/// [`InspectError::NoDeadLetter`] where none stands there; what else [`dead_letters`] has.
pub fn dead_letter(
    projector: &Projector,
    position: Position,
    out: &mut dyn Write,
    stop: &dyn Fn() -> bool,
) -> Result<(), InspectError> {
    partitions(projector, Some(position.partition))?;
    let caught_up = catch_up(projector, stop).map(drop);
    let letters = projector.dead_letters(position, 1)?;
    match letters.first().filter(|first| first.position == position) {
        Some(letter) => {
            write_letter(out, letter, true)?;
            Ok(out.flush()?)
        }
        // It may be one that the fold has not come to.
        None => caught_up.and(Err(InspectError::NoDeadLetter(position))),
    }
}

#[cfg(test)]
mod tests;
