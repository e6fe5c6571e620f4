//! Dead letters replayed or dropped, as events of the log that the fold decides.
//!
//! A few at a time: they are appended, and the fold's word on each is waited for, before the next few.
//! So however many there are, they never stand in the way of requests.
//!
//! A letter whose event belongs in another partition goes in two steps: a replay there, that brings the
//! event along, and once that is folded, a drop of the letter. Where it breaks off in between, the
//! letter is still one, and its next replay is a duplicate in the other partition.

use std::io::Write;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tally_domain::{
    DeadLetter, DeadLetterReason, EventId, LetterFate, Offset, Outcome, Partition, Position,
    SettleAction, Settlement, decode, encode_settlement,
};
use tally_log::{AppendError, NewRecord, TraceParent, blocking};
use tally_projector::{EventFate, Mailbox, Projector};
use tokio::sync::oneshot::{Receiver, error::TryRecvError};

use super::dead_letters::partitions;
use super::state::catch_up;
use super::{InspectError, write_line};
use crate::clock;

/// How many letters are on their way at once.
const AT_ONCE: usize = 64;
/// How many letters are looked through at once where most are not wanted.
const LOOKED_AT: usize = 256;
/// How long the log's queue may stay full.
const ROOM: Duration = Duration::from_secs(30);
/// Between two looks at what is waited for.
const STEP: Duration = Duration::from_millis(2);
/// Between two looks whether to stop, while the log is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a state that failed may take until it is opened again.
const RECOVERED_WITHIN: Duration = Duration::from_secs(30);

/// Which dead letters to replay or drop, and how.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settling {
    /// Those of this partition only.
    #[serde(default)]
    pub partition: Option<Partition>,
    /// The one at this offset of that partition only.
    #[serde(default)]
    pub offset: Option<Offset>,
    /// Those with this reason only.
    #[serde(default)]
    pub reason: Option<DeadLetterReason>,
    /// At most so many, by partition and offset.
    #[serde(default)]
    pub limit: Option<u64>,
    /// At most so many a second.
    #[serde(default)]
    pub rate: Option<NonZeroU32>,
    /// Only say how many there are.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a dry run says: `{"to_settle":{"action":"replay","dead_letters":3}}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToSettle {
    /// What is to be done.
    pub action: SettleAction,
    /// With how many.
    pub dead_letters: u64,
}

/// What came of it: `{"settled":{"action":"replay","dead_letters":3,"folded":2,…}}`, the last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// What was done.
    pub action: SettleAction,
    /// With how many.
    pub dead_letters: u64,
    /// Those that were folded, or had been folded before.
    pub folded: u64,
    /// Those that were given up.
    pub dropped: u64,
    /// Those that still can't be folded, and stay.
    pub still: u64,
    /// Those that somebody else had settled meanwhile.
    pub gone: u64,
}

#[derive(Serialize)]
struct Line {
    partition: Partition,
    offset: Offset,
    fate: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<DeadLetterReason>,
}

#[derive(Serialize)]
struct ToSettleLine {
    to_settle: ToSettle,
}

#[derive(Serialize)]
struct SettledLine {
    settled: Settled,
}

impl Settled {
    /// Counts a letter, and makes its line.
    fn add(&mut self, position: Position, fate: LetterFate) -> Line {
        let Position { partition, offset } = position;
        let (count, fate, outcome, reason) = match fate {
            LetterFate::Folded(outcome) => (&mut self.folded, "folded", Some(outcome), None),
            LetterFate::Still(reason) => (&mut self.still, "still", None, Some(reason)),
            LetterFate::Dropped => (&mut self.dropped, "dropped", None, None),
            LetterFate::Gone => (&mut self.gone, "gone", None, None),
        };
        *count += 1;
        self.dead_letters += 1;
        Line {
            partition,
            offset,
            fate,
            outcome,
            reason,
        }
    }
}

/// Replays or drops dead letters, by partition and offset, and writes a line for each:
/// `{"partition":3,"offset":17,"fate":"folded","outcome":"applied"}`; `fate` is `folded`, `still` (with
/// the `reason`), `dropped` or `gone`. The last line is [`Settled`]'s, or in a dry run the only one
/// [`ToSettle`]'s. `stop` is asked now and then.
///
/// # Errors
/// [`InspectError`]; what was decided before stands, and doing it again never counts twice.
pub fn settle(
    projector: &Projector,
    action: SettleAction,
    settling: Settling,
    out: &mut dyn Write,
    stop: &dyn Fn() -> bool,
) -> Result<(), InspectError> {
    let mut letters = Letters::new(projector, settling)?;
    catch_up(projector, stop)?;
    let mut settled = Settled {
        action,
        dead_letters: 0,
        folded: 0,
        dropped: 0,
        still: 0,
        gone: 0,
    };
    if settling.dry_run {
        while let Some(some) = letters.next(LOOKED_AT, stop)? {
            settled.dead_letters += u64::try_from(some.len()).unwrap_or(0);
        }
        let Settled {
            action,
            dead_letters,
            ..
        } = settled;
        let to_settle = ToSettle {
            action,
            dead_letters,
        };
        write_line(out, &ToSettleLine { to_settle })?;
        return Ok(out.flush()?);
    }
    let pace = Pace::new(settling.rate);
    while let Some(some) = letters.next(pace.at_once(), stop)? {
        let sender = Sender { projector, stop };
        let fates = sender.settle(action, &some)?;
        for (letter, fate) in some.iter().zip(fates) {
            write_line(out, &settled.add(letter.position, fate))?;
        }
        out.flush()?;
        pace.wait(settled.dead_letters, stop)?;
    }
    tracing::info!(?settled, "dead letters were settled");
    write_line(out, &SettledLine { settled })?;
    Ok(out.flush()?)
}

/// The letters that are wanted, a few at a time.
struct Letters<'a> {
    projector: &'a Projector,
    settling: Settling,
    partitions: std::ops::Range<Partition>,
    next: Offset,
    left: u64,
}

impl<'a> Letters<'a> {
    fn new(projector: &'a Projector, settling: Settling) -> Result<Self, InspectError> {
        Ok(Self {
            projector,
            settling,
            partitions: partitions(projector, settling.partition)?,
            next: settling.offset.unwrap_or_default(),
            left: settling.limit.unwrap_or(u64::MAX),
        })
    }

    fn wanted(&self, letter: &DeadLetter) -> bool {
        let Settling { offset, reason, .. } = self.settling;
        offset.is_none_or(|offset| offset == letter.position.offset)
            && reason.is_none_or(|reason| reason == letter.reason)
    }

    /// The next ones, not none; `None` where there are no more.
    fn next(
        &mut self,
        at_most: usize,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<DeadLetter>>, InspectError> {
        let mut found: Vec<DeadLetter> = Vec::new();
        while self.left > 0 && found.is_empty() {
            if stop() {
                return Err(InspectError::Stopped);
            }
            let Some(partition) = self.partitions.clone().next() else {
                return Ok(None);
            };
            let offset = self.next;
            let from = Position { partition, offset };
            let look = self.settling.reason.map_or(at_most, |_| LOOKED_AT);
            let page = self.projector.dead_letters(from, look)?;
            let past = |offset: Offset| self.settling.offset.is_some_and(|only| offset > only);
            let Some(last) = page.last().filter(|_| !past(offset)) else {
                self.partitions.next();
                self.next = 0;
                continue;
            };
            self.next = last.position.offset.saturating_add(1);
            for letter in page {
                if found.len() >= at_most || self.left == 0 {
                    self.next = letter.position.offset;
                    break;
                }
                if self.wanted(&letter) {
                    self.left -= 1;
                    found.push(letter);
                }
            }
        }
        Ok(Some(found).filter(|found| !found.is_empty()))
    }
}

/// Holds a rate.
struct Pace {
    rate: Option<NonZeroU32>,
    started: Instant,
}

impl Pace {
    fn new(rate: Option<NonZeroU32>) -> Self {
        let started = Instant::now();
        Self { rate, started }
    }

    /// At most a tenth of a second's.
    fn at_once(&self) -> usize {
        let tenth = self.rate.map(|rate| rate.get() / 10);
        let tenth = tenth.and_then(|tenth| usize::try_from(tenth).ok());
        tenth.unwrap_or(AT_ONCE).clamp(1, AT_ONCE)
    }

    fn wait(&self, done: u64, stop: &dyn Fn() -> bool) -> Result<(), InspectError> {
        let Some(rate) = self.rate else {
            return Ok(());
        };
        let micros = done.saturating_mul(1_000_000) / u64::from(rate.get());
        let due = self.started + Duration::from_micros(micros);
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            if stop() {
                return Err(InspectError::Stopped);
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}

/// Appends decisions, and waits for what the fold makes of them.
struct Sender<'a> {
    projector: &'a Projector,
    stop: &'a dyn Fn() -> bool,
}

/// A decision on its way.
struct OnItsWay {
    partition: Partition,
    id: EventId,
    fate: Receiver<EventFate>,
}

impl Sender<'_> {
    /// What becomes of each letter.
    fn settle(
        &self,
        action: SettleAction,
        letters: &[DeadLetter],
    ) -> Result<Vec<LetterFate>, InspectError> {
        let decisions = letters.iter().map(|letter| self.decide(action, letter));
        let decisions: Vec<_> = decisions.collect();
        let moves = |letter: &DeadLetter, partition| partition != letter.position.partition;
        let moved: Vec<bool> = letters
            .iter()
            .zip(&decisions)
            .map(|(letter, (partition, _))| moves(letter, *partition))
            .collect();
        let fates = self.send(decisions)?;
        let folded = letters.iter().zip(&moved).zip(&fates);
        let left = folded.filter_map(|((letter, moved), fate)| {
            let here = letter.position.partition;
            let drop = || (here, decision(SettleAction::Drop, letter.position));
            (*moved && matches!(fate, LetterFate::Folded(_))).then(drop)
        });
        // Whether it is dropped now or was before: it counts in its own partition.
        self.send(left.collect())?;
        Ok(fates)
    }

    /// The decision on a letter, and the partition that it goes to.
    fn decide(&self, action: SettleAction, letter: &DeadLetter) -> (Partition, Settlement) {
        let mut settlement = decision(action, letter.position);
        let here = letter.position.partition;
        match (action, decode(&letter.value)) {
            (SettleAction::Replay, Ok(event)) => {
                let partitions = self.projector.log().identity().partitions;
                let home = event.resource.partition(partitions);
                if home != here {
                    settlement.event = Some(Box::new(event));
                }
                (home, settlement)
            }
            (SettleAction::Replay, Err(_)) | (SettleAction::Drop, _) => (here, settlement),
        }
    }

    fn send(
        &self,
        decisions: Vec<(Partition, Settlement)>,
    ) -> Result<Vec<LetterFate>, InspectError> {
        if decisions.is_empty() {
            return Ok(Vec::new());
        }
        let mut waiting = Waiting(self.projector, Vec::new());
        let mut records = Vec::new();
        let mailbox = Mailbox::direct();
        for (partition, settlement) in decisions {
            let id = settlement.id;
            let fate = self.projector.wait_for_event(partition, id, &mailbox)?;
            waiting.1.push(OnItsWay {
                partition,
                id,
                fate,
            });
            let event = settlement.event.as_ref();
            let key = event.map(|event| event.resource.key());
            records.push(NewRecord {
                partition,
                key: key.map_or_else(Vec::new, |key| key.as_bytes().to_vec()),
                value: encode_settlement(&settlement),
                traceparent: Some(TraceParent::of_event(id)),
            });
        }
        self.append(&records)?;
        let fates = waiting.1.iter_mut();
        fates.map(|on_its_way| self.fate(on_its_way)).collect()
    }

    /// Returns once all of it is in the log.
    fn append(&self, records: &[NewRecord]) -> Result<(), InspectError> {
        let until = Instant::now() + ROOM;
        let go_on = || self.go_on();
        let log = self.projector.log().as_ref();
        let answered = blocking::append_when_room(log, || records.to_vec(), until, go_on)?;
        let results = blocking::results(&answered, LOOK_EVERY, go_on)?;
        let all: Result<Vec<Offset>, AppendError> = results.into_iter().collect();
        Ok(all.map(drop)?)
    }

    fn go_on(&self) -> Result<(), InspectError> {
        if (self.stop)() {
            return Err(InspectError::Stopped);
        }
        Ok(())
    }

    fn fate(&self, on_its_way: &mut OnItsWay) -> Result<LetterFate, InspectError> {
        let mut failed_since = None;
        loop {
            match on_its_way.fate.try_recv() {
                Ok(EventFate::Settled(fate)) => return Ok(fate),
                // A fold that does not know what it is: nothing changed.
                Ok(EventFate::DeadLetter(reason)) => return Ok(LetterFate::Still(reason)),
                Ok(EventFate::Refused(refused)) => return Err(refused.into()),
                Ok(EventFate::Failed(error)) => return Err(error.into()),
                Ok(EventFate::Folded(_)) | Err(TryRecvError::Closed) => {
                    return Err(InspectError::Behind(self.failure()));
                }
                Err(TryRecvError::Empty) => {}
            }
            let status = self.projector.status();
            if status.failure.is_none() || status.reopening {
                failed_since = None;
            } else if !status.restart
                || failed_since.get_or_insert_with(Instant::now).elapsed() > RECOVERED_WITHIN
            {
                return Err(InspectError::Behind(self.failure()));
            }
            self.go_on()?;
            std::thread::sleep(STEP);
        }
    }

    fn failure(&self) -> String {
        let failure = self.projector.status().failure;
        failure.unwrap_or_else(|| "the fold has stopped".to_owned())
    }
}

fn decision(action: SettleAction, origin: Position) -> Settlement {
    Settlement {
        id: EventId::now_v7(),
        at: clock::now(),
        action,
        origin,
        event: None,
    }
}

/// What is waited for, and no longer when this is dropped.
struct Waiting<'a>(&'a Projector, Vec<OnItsWay>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        for on_its_way in &self.1 {
            self.0.forget_event(on_its_way.partition, on_its_way.id);
        }
    }
}

#[cfg(test)]
mod tests;
