//! `tally dead-letters replay` and `drop`.

use std::io::{self, IsTerminal as _, Write};
use std::num::NonZeroU32;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use tally_domain::{DeadLetterReason, Offset, Partition, SettleAction};
use tally_ingress::inspect::{self, Settled, Settling, ToSettle};

use super::dead_letters::parse_reason;
use super::folder::{self, Place};
use crate::config::Config;
use crate::failure::Failure;
use crate::output;

/// Which dead letters, and how.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SettleArgs {
    /// Only those of this partition
    #[arg(long, value_name = "N")]
    partition: Option<Partition>,
    /// Only the one at this offset of the partition
    #[arg(long, value_name = "N", requires = "partition")]
    offset: Option<Offset>,
    /// Only this reason: undecodable, unknown_version, wrong_partition or future_time
    #[arg(long, value_name = "REASON", value_parser = parse_reason)]
    reason: Option<DeadLetterReason>,
    /// At most so many, in the order of partitions and offsets
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// At most so many a second
    #[arg(long, value_name = "N")]
    rate: Option<NonZeroU32>,
    /// Do not ask; needed where there is no terminal
    #[arg(long)]
    yes: bool,
}

pub(super) const REPLAY_EXAMPLES: &str = "\
Examples:
  tally dead-letters replay --reason future_time
  tally dead-letters replay --partition 3 --offset 17 --yes
  tally dead-letters replay --limit 1000 --rate 100 --yes | tail -1

A replay is an event of the log: the fold judges the dead letter as if the log had taken it now. What
came since stays as it is. What can be folded is a dead letter no more, what can't stays one (exit
code 1). Doing it again never counts anything twice. Standard output has a line of JSON for each, and
{\"settled\":{…}} as the last.";

pub(super) const DROP_EXAMPLES: &str = "\
Examples:
  tally dead-letters drop --reason undecodable --limit 10
  tally dead-letters drop --partition 3 --offset 17 --yes

A drop is an event of the log: the dead letter is kept no longer, and no rebuild brings it back. Its
record stays in the log. Standard output has a line of JSON for each, and {\"settled\":{…}} as the last.";

fn settle(
    place: &Place,
    action: SettleAction,
    settling: Settling,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    match place {
        Place::Server(client) => {
            let path = format!("/admin/dead-letters/{}", action.as_str());
            client.post_lines(&path, &settling, out)
        }
        Place::Here { projector, .. } => output::inspected(inspect::settle(
            projector,
            action,
            settling,
            out,
            &folder::never,
        )),
    }
}

/// Says how many there are, asks, and does it.
pub(super) fn run(action: SettleAction, args: &SettleArgs, config: &Config) -> Result<(), Failure> {
    let place = Place::existing(config)?;
    let settling = Settling {
        partition: args.partition,
        offset: args.offset,
        reason: args.reason,
        limit: args.limit,
        rate: args.rate,
        dry_run: true,
    };
    let mut said = Vec::new();
    settle(&place, action, settling, &mut said)?;
    let Some(Said::ToSettle(ToSettle { dead_letters, .. })) = Said::of(&said) else {
        return Err(Failure::run(
            "the server says nothing of how many there are",
        ));
    };
    if dead_letters > 0 {
        confirm(action, dead_letters, args.yes)?;
    }
    let settling = Settling {
        // Never more than was said.
        limit: Some(dead_letters),
        dry_run: false,
        ..settling
    };
    let mut lines = Lines::new(dead_letters);
    let worked = settle(&place, action, settling, &mut lines);
    lines.bar.finish_and_clear();
    worked?;
    let Some(settled) = lines.settled else {
        return Err(Failure::run("the answer broke off; run it again"));
    };
    conclude(&settled)
}

fn letters(many: u64) -> String {
    match many {
        1 => "1 dead letter".to_owned(),
        _ => format!("{many} dead letters"),
    }
}

/// Says how many, and asks whether to go on.
fn confirm(action: SettleAction, many: u64, yes: bool) -> Result<(), Failure> {
    let (letters, what) = (letters(many), action.as_str());
    if yes {
        output::note(&format!("{letters} to {what}"));
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::Usage(format!(
            "{letters} to {what}; nothing was changed: with --yes it is done, without it there has to be a terminal to ask on"
        )));
    }
    // Where it can't be written there is nobody to answer either.
    let _ = write!(io::stderr(), "{letters} to {what}. Go on? [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    read.map_err(Failure::of)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::Usage("nothing was changed".to_owned())),
    }
}

/// Says what came of it, for people; the last line of the output says it for programs.
fn conclude(settled: &Settled) -> Result<(), Failure> {
    let Settled {
        action,
        dead_letters,
        folded,
        dropped,
        still,
        gone,
    } = *settled;
    let of = letters(dead_letters);
    output::note(&match action {
        SettleAction::Replay => {
            format!("Of {of}: {folded} folded, {still} still can't be folded, {gone} gone")
        }
        SettleAction::Drop => format!("Of {of}: {dropped} dropped, {gone} gone"),
    });
    if still == 0 {
        return Ok(());
    }
    Err(Failure::run(format!(
        "{} can't be folded and stayed: `tally dead-letters list` has the reasons; upgrade for unknown_version, wait for future_time, drop what is of no use",
        letters(still)
    )))
}

/// A line that is for the command too.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    ToSettle(ToSettle),
    Settled(Settled),
}

impl Said {
    fn of(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}

/// Standard output, whose lines are counted and the last one read.
struct Lines {
    out: Box<dyn Write>,
    line: Vec<u8>,
    bar: ProgressBar,
    settled: Option<Settled>,
}

impl Lines {
    fn new(many: u64) -> Self {
        // Where the lines are on the terminal, they are the progress.
        let shown = io::stderr().is_terminal() && !io::stdout().is_terminal();
        let bar = if shown {
            let style = ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} ({eta})");
            ProgressBar::new(many)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        } else {
            ProgressBar::hidden()
        };
        Self {
            out: Box::new(output::stdout()),
            line: Vec::new(),
            bar,
            settled: None,
        }
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if !part.ends_with(b"\n") {
                continue;
            }
            match Said::of(&self.line) {
                Some(Said::Settled(settled)) => self.settled = Some(settled),
                Some(Said::ToSettle(_)) | None => self.bar.inc(1),
            }
            self.line.clear();
        }
        self.out.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
