//! `tally serve`. How a server is put together is in [`crate::serve`].

use std::process::ExitCode;

use crate::config::Config;
use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  tally serve                                       the local default, data in ./data
  tally serve --config config/production.toml
  TALLY__API__LISTEN=127.0.0.1:9000 tally serve     any setting, from the environment

SIGTERM or Ctrl-C stops it: it finishes what it accepted, writes down the state, and ends with 0.
A second signal, a second later or more, ends it at once; nothing acknowledged is lost by
that.";

/// What `serve` takes: the settings say everything.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ServeArgs {}

/// Serves until it is stopped.
pub(crate) fn run(ServeArgs {}: &ServeArgs, config: &Config) -> Result<ExitCode, Failure> {
    crate::serve::run(config)
}
