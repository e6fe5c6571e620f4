//! `tally log`: what was recorded, event by event.

use std::io::Write;
use std::path::Path;

use clap::Subcommand;
use serde::Serialize;
use tally_domain::{Offset, Partition};
use tally_ingress::inspect::{self, LogCat};
use tally_ingress::management::admin::{CATALOGUE, INTERACTIONS};
use tally_log::embedded;
use tally_log::storage::RealStorage;

use super::copy::{self, CopyArgs};
use super::folder::{self, Folder};
use super::{repair, truncate};
use crate::client::Client;
use crate::config::{Config, LogKind};
use crate::data_dir::Access;
use crate::failure::Failure;
use crate::output;

/// What to do with the log.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  tally log cat --partition 3 --from 17\n  tally log info\n  tally log check\n  tally log copy --from embedded:./data --to kafka"
)]
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
    /// Cut a damaged log off where it is whole before: what comes after is given up
    #[command(after_help = REPAIR_EXAMPLES)]
    Repair(repair::RepairArgs),
    /// Remove the log's beginning, as far as snapshots have it
    #[command(after_help = truncate::EXAMPLES)]
    Truncate(truncate::TruncateArgs),
    /// Copy a log and its catalogue into another, in files or on Kafka, and prove it
    Copy(CopyArgs),
}

const REPAIR_EXAMPLES: &str = "\
Examples:
  tally log check
  tally log repair --cut-at log/00000000000000000003.log:18432
  tally log repair --cut-at log/00000000000000000003.log:18432 --yes

A position is FILE:BYTE as `tally log check` prints it: the log holds all partitions in one order, so
one place in a file cuts all of them. Everything from the group on in which the byte lies is given up.
Without --yes it only says what that would be, and ends with code 2. What is cut is moved to a folder
beside the log, with the state, which is folded again from what is left of the log.";

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
    match command {
        LogCommand::Cat(args) => match Folder::existing(config)? {
            Folder::Server(client) => client.lines(&path(args), &mut out),
            Folder::Opened(opened) => {
                let log = opened.log.as_ref();
                let cat = LogCat {
                    partition: args.partition,
                    from: args.from,
                    follow: args.follow,
                };
                output::inspected(inspect::log_cat(log, cat, &mut out, &folder::never))
            }
        },
        LogCommand::Info => match Folder::existing(config)? {
            Folder::Server(client) => client.lines("/admin/log/info", &mut out),
            Folder::Opened(opened) => {
                let (log, catalogue) = (opened.log.as_ref(), opened.catalogue_log.as_ref());
                output::inspected(inspect::log_info(log, INTERACTIONS, &mut out))?;
                output::inspected(inspect::log_info(catalogue, CATALOGUE, &mut out))
            }
        },
        LogCommand::Truncate(args) => truncate::run(args, config),
        LogCommand::Repair(args) => repair::run(args, config),
        LogCommand::Copy(args) => copy::run(args, config),
        LogCommand::Check if config.log.kind == LogKind::Kafka => match Folder::existing(config)? {
            Folder::Server(client) => client.lines("/admin/log/check", &mut out),
            Folder::Opened(opened) => {
                let (log, catalogue) = (opened.log.as_ref(), opened.catalogue_log.as_ref());
                let never = &folder::never;
                output::inspected(inspect::log_check(log, INTERACTIONS, &mut out, never))?;
                output::inspected(inspect::log_check(catalogue, CATALOGUE, &mut out, never))
            }
        },
        LogCommand::Check => match folder::existing(config)? {
            Access::Server(server) => Client::new(&server).lines("/admin/log/check", &mut out),
            Access::Held(held) => check(held.path(), &mut out),
        },
    }
}

/// One log as it was found.
#[derive(Serialize)]
struct CheckLine<'a> {
    log: &'a str,
    checked: bool,
    records: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    torn_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    damage: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    more_damage: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Reads the files without opening the logs, which a damaged one refuses.
fn check(dir: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let mut whole = true;
    for (folder, log) in [("log", INTERACTIONS), ("catalogue", CATALOGUE)] {
        let report = embedded::check(&RealStorage, &dir.join(folder));
        let report = report.map_err(Failure::of)?;
        whole &= report.is_whole();
        let line = CheckLine {
            log,
            checked: report.is_whole(),
            records: report.records,
            bytes: report.bytes,
            torn_bytes: report.torn.as_ref().map(|torn| torn.bytes),
            damage: report.damage.iter().map(ToString::to_string).collect(),
            more_damage: report.more_damage,
        };
        let line = serde_json::to_string(&line).map_err(Failure::of)?;
        output::written(writeln!(out, "{line}"))?;
    }
    output::written(out.flush())?;
    if whole {
        return Ok(());
    }
    Err(Failure::run(
        "the log is damaged where the lines above say; restore those files from a backup, or give up what comes after with `tally log repair --cut-at FILE:BYTE`",
    ))
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
