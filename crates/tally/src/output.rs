//! Standard output. A reader that goes away, as `head` does, ends the command quietly.

use std::io::{self, BufWriter, StdoutLock, Write};

use serde::Serialize;
use tally_ingress::inspect::InspectError;

use crate::failure::Failure;

/// Standard output, buffered.
pub(crate) fn stdout() -> BufWriter<StdoutLock<'static>> {
    BufWriter::with_capacity(64 << 10, io::stdout().lock())
}

/// What an error in writing to standard output means.
pub(crate) fn written(result: io::Result<()>) -> Result<(), Failure> {
    result.map_err(|error| {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::OutputClosed;
        }
        Failure::run(format!("standard output can't be written: {error}"))
    })
}

/// Writes one line of text.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    let mut out = stdout();
    written(writeln!(out, "{text}").and_then(|()| out.flush()))
}

/// Writes one line of text for a person, to standard error.
pub(crate) fn note(text: &str) {
    // If standard error is gone, there is nobody left to tell.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Writes one line of JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(Failure::of)?;
    line(&text)
}

/// What an error in writing logs or state to standard output means.
pub(crate) fn inspected(result: Result<(), InspectError>) -> Result<(), Failure> {
    match result {
        Ok(()) => Ok(()),
        Err(InspectError::Write(error)) => written(Err(error)),
        Err(error) => Err(Failure::Run(error.into())),
    }
}
