//! Appending, for whoever has a thread to wait on.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use tally_domain::Offset;

use crate::contract::{AppendError, AppendRefused, EventLog, NewRecord};

/// Between two tries where the log's queue is full.
const PAUSE: Duration = Duration::from_millis(10);

/// What became of an append's records, in the order given.
pub type AppendResults = Vec<Result<Offset, AppendError>>;

/// Appends records, and gives where what became of them comes. Where nothing ever comes the sender is
/// dropped.
///
/// # Errors
/// As [`EventLog::append`].
pub fn append(
    log: &dyn EventLog,
    records: Vec<NewRecord>,
) -> Result<Receiver<AppendResults>, AppendRefused> {
    let (answer, answered) = sync_channel(1);
    let done = Box::new(move |results| {
        // Nobody waits any more where this fails.
        let _ = answer.send(results);
    });
    log.append(records, done)?;
    Ok(answered)
}

/// The same, again and again `until` there is room for them in the log's queue; `go_on` is asked before
/// each pause.
///
/// # Errors
/// As [`EventLog::append`], or what `go_on` says.
pub fn append_when_room<E: From<AppendRefused>>(
    log: &dyn EventLog,
    records: impl Fn() -> Vec<NewRecord>,
    until: Instant,
    go_on: impl Fn() -> Result<(), E>,
) -> Result<Receiver<AppendResults>, E> {
    loop {
        match append(log, records()) {
            Err(AppendRefused::QueueFull { .. }) if Instant::now() < until => {
                go_on()?;
                std::thread::sleep(PAUSE);
            }
            taken => return Ok(taken?),
        }
    }
}

/// Waits for what became of an append, as long as `go_on`, which is asked every `step`, says so.
///
/// # Errors
/// [`AppendError::FateUnknown`] where the log never says, or what `go_on` says.
pub fn results<E: From<AppendError>>(
    answered: &Receiver<AppendResults>,
    step: Duration,
    go_on: impl Fn() -> Result<(), E>,
) -> Result<AppendResults, E> {
    loop {
        match answered.recv_timeout(step) {
            Ok(results) => return Ok(results),
            Err(RecvTimeoutError::Timeout) => go_on()?,
            Err(RecvTimeoutError::Disconnected) => {
                let why = "the log said nothing of it".to_owned();
                return Err(AppendError::FateUnknown(why).into());
            }
        }
    }
}
