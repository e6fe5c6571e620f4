//! `tally metrics`: every metric that a server has, and what it means.

use clap::Args;

use crate::config::Config;
use crate::failure::Failure;
use crate::metrics::{PARTS, document};
use crate::output;

/// Which form.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tally metrics\n  tally metrics --json | jq -r .name")]
pub(crate) struct MetricsArgs {
    /// A line of JSON for each, instead of the text
    #[arg(long)]
    json: bool,
}

/// Prints it.
pub(crate) fn run(args: &MetricsArgs, config: &Config) -> Result<(), Failure> {
    if !args.json {
        return output::line(document::markdown().trim_end());
    }
    let partitions = usize::try_from(config.log.partitions.as_u32()).unwrap_or(usize::MAX);
    for metric in PARTS.iter().flat_map(|part| part.metrics) {
        output::line(&document::json(metric, partitions).to_string())?;
    }
    Ok(())
}
