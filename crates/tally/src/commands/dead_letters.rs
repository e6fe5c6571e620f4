//! `tally dead-letters`: records that could not be folded, with the reason and their bytes; and what
//! becomes of them.

use std::io::Write;

use clap::Subcommand;
use tally_domain::{DeadLetterReason, Offset, Partition, Position, SettleAction};
use tally_ingress::inspect::{self, DeadLetterList, InspectError};
use tally_projector::Projector;

use super::folder::{self, Place};
use super::settle::{self, SettleArgs};
use crate::config::Config;
use crate::failure::Failure;
use crate::output;

/// What to do with the dead letters.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  tally dead-letters list --reason undecodable\n  tally dead-letters show 3 17\n  tally dead-letters replay --reason future_time"
)]
pub(crate) enum DeadLettersCommand {
    /// Print all dead letters, one line of JSON each, without their values
    #[command(after_help = LIST_EXAMPLES)]
    List {
        /// Only this partition
        #[arg(long, value_name = "N")]
        partition: Option<Partition>,
        /// Only this reason: undecodable, unknown_version, wrong_partition or future_time
        #[arg(long, value_name = "REASON", value_parser = parse_reason)]
        reason: Option<DeadLetterReason>,
    },
    /// Print one dead letter with its value
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// The partition it stands in
        #[arg(value_name = "PARTITION")]
        partition: Partition,
        /// Its offset there
        #[arg(value_name = "OFFSET")]
        offset: Offset,
    },
    /// Fold dead letters now that can be folded; asks first
    #[command(after_help = settle::REPLAY_EXAMPLES)]
    Replay(SettleArgs),
    /// Give dead letters up for good; asks first
    #[command(after_help = settle::DROP_EXAMPLES)]
    Drop(SettleArgs),
}

const LIST_EXAMPLES: &str = "\
Examples:
  tally dead-letters list
  tally dead-letters list --partition 3
  tally dead-letters list --reason unknown_version | wc -l

Lines are in the order of partitions and offsets; a key that is no text is \"key_base64\".";

const SHOW_EXAMPLES: &str = "\
Examples:
  tally dead-letters show 3 17
  tally dead-letters show 3 17 | jq -r .value_base64 | base64 -d

\"value\" is there where the value is text, \"value_base64\" always.";

pub(super) fn parse_reason(text: &str) -> Result<DeadLetterReason, String> {
    let all = DeadLetterReason::ALL;
    let found = all.iter().find(|reason| reason.as_str() == text);
    found.copied().ok_or_else(|| {
        let words: Vec<&str> = all.iter().map(|reason| reason.as_str()).collect();
        format!("a reason is one of {}", words.join(", "))
    })
}

/// Prints what is asked for, or does it.
pub(crate) fn run(command: &DeadLettersCommand, config: &Config) -> Result<(), Failure> {
    match *command {
        DeadLettersCommand::List { partition, reason } => {
            let list = DeadLetterList {
                partition,
                from: None,
                reason,
            };
            print(&list_path(list), config, |projector, out| {
                inspect::dead_letters(projector, list, out, &folder::never)
            })
        }
        DeadLettersCommand::Show { partition, offset } => {
            let position = Position { partition, offset };
            print(&show_path(position), config, |projector, out| {
                inspect::dead_letter(projector, position, out, &folder::never)
            })
        }
        DeadLettersCommand::Replay(ref args) => settle::run(SettleAction::Replay, args, config),
        DeadLettersCommand::Drop(ref args) => settle::run(SettleAction::Drop, args, config),
    }
}

fn print(
    path: &str,
    config: &Config,
    here: impl Fn(&Projector, &mut dyn Write) -> Result<(), InspectError>,
) -> Result<(), Failure> {
    let mut out = output::stdout();
    match &Place::existing(config)? {
        Place::Server(client) => client.lines(path, &mut out),
        Place::Here { projector, .. } => output::inspected(here(projector, &mut out)),
    }
}

fn list_path(list: DeadLetterList) -> String {
    let partition = list
        .partition
        .map(|partition| format!("partition={partition}"));
    let reason = list
        .reason
        .map(|reason| format!("reason={}", reason.as_str()));
    let query: Vec<String> = partition.into_iter().chain(reason).collect();
    format!("/admin/dead-letters?{}", query.join("&"))
}

fn show_path(Position { partition, offset }: Position) -> String {
    format!("/admin/dead-letters/{partition}/{offset}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects what the command asks a server for, and the words that it takes.
    #[test]
    fn the_server_is_asked_for_the_same() {
        let future = parse_reason("future_time").ok();
        assert_eq!(future, Some(DeadLetterReason::FutureTime));
        let said = parse_reason("future").unwrap_err();
        assert!(said.contains("future_time"), "{said}");
        for (partition, reason, wanted) in [
            (None, None, "/admin/dead-letters?"),
            (Some(3), None, "/admin/dead-letters?partition=3"),
            (
                Some(3),
                future,
                "/admin/dead-letters?partition=3&reason=future_time",
            ),
        ] {
            let list = DeadLetterList {
                partition,
                from: None,
                reason,
            };
            assert_eq!(list_path(list), wanted);
        }
        let position = Position {
            partition: 3,
            offset: 17,
        };
        assert_eq!(show_path(position), "/admin/dead-letters/3/17");
    }
}
