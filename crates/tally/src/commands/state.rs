//! `tally state`: what came of all events, the newest included.

use clap::Subcommand;
use tally_ingress::inspect;

use super::folder::{self, Place};
use crate::config::Config;
use crate::failure::Failure;
use crate::output;

/// What to do with the state.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  tally state cat\n  tally state cat --toggles\n  tally state info"
)]
pub(crate) enum StateCommand {
    /// Print the state, one line of JSON for each resource that has events
    #[command(after_help = CAT_EXAMPLES)]
    Cat {
        /// Print what users have set instead, one line for each user and resource
        #[arg(long)]
        toggles: bool,
    },
    /// Print the state's summary
    #[command(after_help = "Example:\n  tally state info")]
    Info,
}

const CAT_EXAMPLES: &str = "\
Examples:
  tally state cat
  tally state cat --toggles | grep '\"user\":\"1\"'

The first line has the next offset of each partition and the digest of the whole state: equal
digests mean equal counters, toggles and remembered idempotency keys.";

/// Prints what is asked for.
pub(crate) fn run(command: &StateCommand, config: &Config) -> Result<(), Failure> {
    let mut out = output::stdout();
    let place = Place::existing(config)?;
    match (command, &place) {
        (StateCommand::Cat { toggles }, Place::Server(client)) => {
            client.lines(&format!("/admin/state/cat?toggles={toggles}"), &mut out)
        }
        (StateCommand::Info, Place::Server(client)) => client.lines("/admin/state/info", &mut out),
        (StateCommand::Cat { toggles }, Place::Here { projector, .. }) => {
            let dump = inspect::dump(projector, &folder::never);
            let dump = dump.map_err(Failure::of)?;
            output::inspected(inspect::state_cat(&dump, *toggles, &mut out))
        }
        (StateCommand::Info, Place::Here { projector, opened }) => {
            let summary = inspect::summary(projector, &folder::never);
            let summary = summary.map_err(Failure::of)?;
            let log = opened.log.as_ref();
            output::inspected(inspect::state_info(log, &summary, &mut out))
        }
    }
}
