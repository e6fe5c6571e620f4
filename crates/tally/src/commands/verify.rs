//! `tally verify`: the stored state against a fold of the log by itself.

use std::process::ExitCode;

use serde::Serialize;
use tally_domain::{Offset, Partition};
use tally_ingress::inspect;
use tally_projector::{Difference, PartitionDump, verify};

use super::source::Source;
use crate::config::Config;
use crate::failure::Failure;
use crate::output;
use crate::progress::Progress;

/// What `tally verify` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VerifyArgs {
    /// Only this partition
    #[arg(long, value_name = "NUMBER")]
    partition: Option<Partition>,
    /// Print JSON: a line for each difference, then one for its partition
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  tally verify
  tally verify --partition 3 --json

Folds the log from its beginning, partition by partition, and compares what comes of it with the
stored state: counters, users' toggles, remembered idempotency keys, the number of dead letters. It
reads nothing that the server made but the log. Beside a running server it reads the log's files by
itself, and asks the server only for its state. It takes the memory of one partition's state.

Exit code 0 where all is equal, 1 where anything differs.";

/// How a partition was found.
#[derive(Serialize)]
struct Line {
    partition: Partition,
    next_offset: Offset,
    stored_digest: String,
    folded_digest: String,
    differences: usize,
    equal: bool,
}

/// Compares, and says what differs.
pub(crate) fn run(args: &VerifyArgs, config: &Config) -> Result<ExitCode, Failure> {
    let source = Source::open(config)?;
    let all = source.partitions(args.partition)?;
    let records = records(&source, all.clone())?;
    let mut progress = Progress::new();
    progress.begins("folding the log", records);
    let mut lines = Vec::new();
    for partition in all {
        let (stored, folded) = both(&source, partition, &mut progress)?;
        let differences = verify::differences(&stored, &folded);
        let line = Line {
            partition,
            next_offset: stored.next_offset,
            stored_digest: stored.digest().to_string(),
            folded_digest: folded.digest().to_string(),
            differences: differences.len(),
            equal: differences.is_empty(),
        };
        say(&line, &differences, args.json)?;
        lines.push(line);
    }
    progress.ends();
    let differ = lines.iter().filter(|line| !line.equal).count();
    if !args.json {
        output::line(&match differ {
            0 => format!(
                "{} partitions: the state is the fold of the log",
                lines.len()
            ),
            _ => format!(
                "{differ} of {} partitions differ from the fold of the log: `tally rebuild` makes the state anew",
                lines.len()
            ),
        })?;
    }
    Ok(if differ == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// How many records there are to fold, about.
fn records(source: &Source, partitions: std::ops::Range<Partition>) -> Result<u64, Failure> {
    let heads = source.heads()?;
    let first = source.log().first().map_err(Failure::of)?;
    let each = heads.iter().zip(first).zip(0..);
    let each = each.filter(|(_, partition)| partitions.contains(partition));
    Ok(each
        .map(|((head, first), _)| head.saturating_sub(first))
        .sum())
}

/// A partition as it is stored, and as the log comes to up to the same position.
fn both(
    source: &Source,
    partition: Partition,
    progress: &mut Progress,
) -> Result<(PartitionDump, PartitionDump), Failure> {
    let stored = source.stored(partition)?;
    // The log may have grown since it was looked at.
    source.heads()?;
    let mut moved = |records| {
        progress.moved(records);
        true
    };
    let log = source.log().as_ref();
    let folded = verify::fold_partition(log, partition, stored.next_offset, &mut moved);
    Ok((stored, folded.map_err(|error| progress.failed(error))?))
}

fn say(line: &Line, differences: &[Difference], json: bool) -> Result<(), Failure> {
    if json {
        let mut out = output::stdout();
        output::inspected(inspect::differences(line.partition, differences, &mut out))?;
        return output::json(line);
    }
    if line.equal {
        return Ok(());
    }
    let mut out = output::stdout();
    output::inspected(inspect::differences(line.partition, differences, &mut out))?;
    drop(out);
    output::line(&format!(
        "partition {}: {} differences up to offset {}",
        line.partition, line.differences, line.next_offset
    ))
}
