//! `tally log`: what was recorded, event by event.

use clap::Subcommand;
use tally_domain::{Offset, Partition};
use tally_ingress::inspect::{self, LogCat};
use tally_ingress::management::admin::{CATALOGUE, INTERACTIONS};

use super::folder::{self, Folder};
use crate::config::Config;
use crate::failure::Failure;
use crate::output;

/// What to do with the log.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  tally log cat --partition 3 --from 17\n  tally log info\n  tally log check")]
pub(crate) enum LogCommand {
    /// Print the log, one line of JSON for each record
    #[command(after_help = CAT_EXAMPLES)]
    Cat(CatArgs),
    /// Print what the logs are and how far they reach
    #[command(after_help = "Example:\n  tally log info")]
    Info,
    /// Read everything there is and check all checksums
    #[command(after_help = "Example:\n  tally log check && echo sound")]
    Check,
}

const CAT_EXAMPLES: &str = "\
Examples:
  tally log cat | head
  tally log cat --partition 3 --from 17
  tally log cat --follow

A line is {\"partition\":3,\"offset\":17,\"event\":{…}}; what is no event has \"error\" and
\"raw_base64\" instead. Lines of one partition are in the order of their offsets.";

/// Which part of the log.
#[derive(Debug, clap::Args)]
pub(crate) struct CatArgs {
    /// Only this partition
    #[arg(long, value_name = "N")]
    partition: Option<Partition>,
    /// From this offset of the partition [default: its first]
    #[arg(long, value_name = "OFFSET", requires = "partition")]
    from: Option<Offset>,
    /// Go on with what comes, until interrupted
    #[arg(long, short = 'f')]
    follow: bool,
}

/// Prints what is asked for.
pub(crate) fn run(command: &LogCommand, config: &Config) -> Result<(), Failure> {
    let mut out = output::stdout();
    match (command, Folder::existing(config)?) {
        (LogCommand::Cat(args), Folder::Server(client)) => client.lines(&path(args), &mut out),
        (LogCommand::Cat(args), Folder::Opened(opened)) => {
            let CatArgs { partition, from, follow } = *args;
            let cat = LogCat { partition, from, follow };
            output::inspected(inspect::log_cat(opened.log.as_ref(), cat, &mut out, &folder::never))
        }
        (LogCommand::Info, Folder::Server(client)) => client.lines("/admin/log/info", &mut out),
        (LogCommand::Info, Folder::Opened(opened)) => {
            output::inspected(inspect::log_info(opened.log.as_ref(), INTERACTIONS, &mut out))?;
            let catalogue = opened.catalogue_log.as_ref();
            output::inspected(inspect::log_info(catalogue, CATALOGUE, &mut out))
        }
        (LogCommand::Check, Folder::Server(client)) => client.lines("/admin/log/check", &mut out),
        (LogCommand::Check, Folder::Opened(opened)) => {
            for (log, name) in [(&opened.log, INTERACTIONS), (&opened.catalogue_log, CATALOGUE)] {
                let checked = inspect::log_check(log.as_ref(), name, &mut out, &folder::never);
                output::inspected(checked)?;
            }
            Ok(())
        }
    }
}

fn path(args: &CatArgs) -> String {
    let mut path = format!("/admin/log/cat?follow={}", args.follow);
    if let Some(partition) = args.partition {
        path.push_str(&format!("&partition={partition}"));
    }
    if let Some(from) = args.from {
        path.push_str(&format!("&from={from}"));
    }
    path
}
