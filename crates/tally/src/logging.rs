//! Log lines, on standard error: for people on a terminal, JSON otherwise.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Logging};

/// What libraries say of their own start, and of each request that is no HTTP: a client must not fill
/// the log. A setting that names them comes later and wins.
const QUIET: &str = "actix_http=off,actix_server=warn,sled=warn";

/// Starts logging. A second call does nothing.
pub(crate) fn start(logging: &Logging) {
    // The settings were checked; should they disagree all the same, log what matters.
    let filter = EnvFilter::try_new(format!("{QUIET},{}", logging.level))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    let json = match logging.format {
        LogFormat::Auto => !terminal,
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    let started = if json {
        lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .try_init()
    } else {
        lines.with_ansi(terminal).try_init()
    };
    if let Err(error) = started {
        tracing::debug!(error, "logging was started before");
    }
}

/// Starts logging for a command that is done soon: only what is wrong, for people.
pub(crate) fn start_quiet() {
    start(&Logging {
        format: LogFormat::Human,
        level: "error".to_owned(),
    });
}
