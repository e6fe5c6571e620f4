//! `tally log truncate`: the log's beginning removed, as far as snapshots have it.

use tally_ingress::inspect::{self, TruncatedLine, Truncating, TruncatingLine};

use super::folder::{self, Place};
use crate::config::Config;
use crate::failure::Failure;
use crate::output;

/// What `tally log truncate` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct TruncateArgs {
    /// Do it; without, it only says what it would do, and ends with code 2
    #[arg(long)]
    yes: bool,
}

pub(crate) const EXAMPLES: &str = "\
Examples:
  tally log truncate
  tally log truncate --yes

Removes the oldest records that every snapshot which is kept has, all of which are read before, and that
are in the state as it is written down; files in whole, so the log may keep some more. What is removed can't
be folded again: no later version of the fold starts on what is left, `tally verify` proves nothing for those
partitions, `tally rebuild` begins at the snapshots, and `tally backup` refuses such a log. Make a backup before, or
copy it with `tally log copy`, where that may be wanted.";

fn truncate(place: &Place, dry_run: bool) -> Result<Vec<u8>, Failure> {
    let truncating = Truncating { dry_run };
    let mut lines = Vec::new();
    match place {
        Place::Server(client) => {
            client.post_lines("/admin/log/truncate", &truncating, &mut lines)?;
        }
        Place::Here { projector, opened } => {
            inspect::catch_up(projector, &folder::never).map_err(Failure::of)?;
            let log = opened.log.as_ref();
            let done = inspect::truncate(projector, log, truncating, &mut lines);
            output::inspected(done)?;
        }
    }
    Ok(lines)
}

/// Says what would go, and removes it.
pub(super) fn run(args: &TruncateArgs, config: &Config) -> Result<(), Failure> {
    let lines = truncate(&Place::existing(config)?, !args.yes)?;
    let mut may_go = 0;
    for line in lines.split(|byte| *byte == b'\n') {
        if let Ok(line) = serde_json::from_slice::<TruncatingLine>(line) {
            may_go += line.below.saturating_sub(line.first);
            output::json(&line)?;
        } else if let Ok(line) = serde_json::from_slice::<TruncatedLine>(line) {
            return output::json(&line);
        }
    }
    if args.yes {
        return Err(Failure::run("the answer broke off; run it again"));
    }
    if may_go == 0 {
        output::note("Nothing may go: no snapshot reaches past the log's beginning.");
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "{may_go} records may go, and can't be folded again then; nothing was changed: with --yes it is done"
    )))
}
