//! `tally rebuild`: the state folded anew from the log, compared with the one that serves, and put in
//! its place.
//!
//! The new state is made in a folder of its own by this process, so that a running server has nothing
//! to do with it but at the end: sled has one lock for a whole process. Whatever ends this process
//! before that leaves the serving state as it is, and the next run goes on from what there is.

use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::Registry;
use serde::Serialize;
use tally_domain::{Offset, Partition};
use tally_ingress::inspect;
use tally_ingress::management::rebuild::RebuildProgress;
use tally_log::storage::{Lock, RealStorage};
use tally_log::{EventLog, LimitedLog};
use tally_projector::swap::{self, Incoming};
use tally_projector::{Difference, Options, OtherFold, Projector, RenewalProgress, verify};

use super::source::Source;
use crate::config::Config;
use crate::failure::{Failure, with_causes};
use crate::output;
use crate::progress::Progress;
use crate::serve::open;

/// Between two looks at how far the fold is.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Between two words to the server of how far it is.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// A round of catching up that took less is the last: the rest comes partition by partition.
const CLOSE_ENOUGH: Duration = Duration::from_secs(1);
/// The most rounds: with a rate below that of what comes in it would never end.
const MAX_ROUNDS: u32 = 1_000;
/// How long the server's fold may take to reach where the rebuilt state is.
const SERVER_LAG: Duration = Duration::from_secs(60);

/// What `tally rebuild` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RebuildArgs {
    /// Compare only: nothing takes the place of anything
    #[arg(long)]
    dry_run: bool,
    /// Fold at most so many events a second
    #[arg(long, value_name = "EVENTS", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Only this partition; of the others the new state has what is stored
    #[arg(long, value_name = "NUMBER", conflicts_with = "roll_back")]
    partition: Option<Partition>,
    /// Bring back the state that was used before the last rebuild, once it has caught up
    #[arg(long, conflicts_with = "dry_run")]
    roll_back: bool,
    /// Print JSON: a line for each difference, then one for the whole
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  tally rebuild
  tally rebuild --dry-run --rate 100000
  tally rebuild --partition 3
  tally rebuild --roll-back

Folds the whole log into a new state, catches up with what comes in meanwhile, compares it with the
stored state, and puts it in its place; the old one is kept for --roll-back. A running server serves
all the while and has the new state after a moment; its other settings for memory hold for this
process too. Ended early, also by a kill, it has changed nothing, and the next run goes on.

A state that another version of the fold wrote is made anew without a comparison; a server does so by itself.

Exit code 0 where it is done, also where the states differed; with --dry-run 1 where they differ.";

/// What came of it.
#[derive(Serialize)]
struct Line {
    events: u64,
    /// Of the one partition, where it was one.
    digest: String,
    /// `None` where the state was another fold's.
    differences: Option<usize>,
    swapped: bool,
}

/// Rebuilds.
pub(crate) fn run(args: &RebuildArgs, config: &Config) -> Result<ExitCode, Failure> {
    let source = Source::open(config)?;
    if let Source::Held { projector, .. } = &source
        && projector.is_renewing()
    {
        return renew(args, projector);
    }
    let dir = config.data_dir.join("state");
    let _alone = lock(&dir)?;
    let partitions = source.partitions(args.partition)?;
    if let (Some(partition), true) = (args.partition, args.dry_run) {
        return compare_only(args, partition, &source);
    }
    // One that was ended is of no use to any other.
    Incoming::Seeded.remove(&dir).map_err(Failure::of)?;
    let incoming = match args.partition {
        Some(partition) => {
            source.seed(partition)?;
            Incoming::Seeded
        }
        None if args.roll_back => {
            recall(&dir)?;
            Incoming::Recalled
        }
        None => Incoming::Shadow,
    };
    let mut rebuild = Rebuild::begin(args, config, source, &dir, incoming)?;
    let done = rebuild.catch_up();
    let done = done.and_then(|()| rebuild.compare(partitions, args.json));
    let (digest, differences) = match done {
        Ok(done) => done,
        Err(error) => {
            rebuild.tell_end();
            return Err(error);
        }
    };
    let events = rebuild.events();
    rebuild.finish(args.dry_run, &dir)?;
    let line = Line {
        events,
        digest,
        differences: Some(differences),
        swapped: !args.dry_run,
    };
    say(&line, args.json)?;
    Ok(if args.dry_run && differences > 0 {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    })
}

fn say(line: &Line, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(line);
    }
    let compared = match line.differences {
        Some(0) => "no differences from the stored state".to_owned(),
        Some(many) => format!("{many} differences from the stored state"),
        None => "the stored state was of another version of the fold".to_owned(),
    };
    let swapped = match (line.swapped, line.differences) {
        (true, Some(_)) => {
            "The rebuilt state is in use; `tally rebuild --roll-back` brings the one before back."
        }
        (true, None) => {
            "The rebuilt state is in use; the one before is in state/previous, for the version that wrote it."
        }
        (false, _) => "Nothing was changed.",
    };
    output::line(&format!(
        "{} events folded: {compared}\nDigest  {}\n{swapped}",
        line.events, line.digest
    ))
}

/// Folds one partition in memory, and says how the stored state differs.
fn compare_only(
    args: &RebuildArgs,
    partition: Partition,
    source: &Source,
) -> Result<ExitCode, Failure> {
    let stored = source.stored(partition)?;
    let log = LimitedLog::new(Arc::clone(source.log()), args.rate).map_err(Failure::of)?;
    // The log may have grown since it was looked at.
    log.advance(&source.heads()?);
    let mut progress = Progress::new();
    progress.begins("folding the log", stored.next_offset);
    let mut events = 0;
    let folded = verify::fold_partition(&log, partition, stored.next_offset, &mut |records| {
        events += records;
        progress.moved(records);
        true
    });
    let folded = folded.map_err(|error| progress.failed(error))?;
    progress.ends();
    let differences = verify::differences(&stored, &folded);
    show(partition, &differences, args.json)?;
    let line = Line {
        events,
        digest: folded.digest().to_string(),
        differences: Some(differences.len()),
        swapped: false,
    };
    say(&line, args.json)?;
    Ok(ExitCode::from(u8::from(!differences.is_empty())))
}

/// Writes differences: where they are the output, or for a person beside it.
fn show(partition: Partition, differences: &[Difference], json: bool) -> Result<(), Failure> {
    let mut out: Box<dyn std::io::Write> = if json {
        Box::new(output::stdout())
    } else {
        Box::new(std::io::stderr())
    };
    output::inspected(inspect::differences(partition, differences, &mut out))
}

/// Makes a state anew that another version of the fold wrote, as a server does by itself.
fn renew(args: &RebuildArgs, projector: &Projector) -> Result<ExitCode, Failure> {
    if args.dry_run || args.roll_back || args.rate.is_some() || args.partition.is_some() {
        return Err(Failure::run(
            "the state was written by another version of the fold, and there is nothing to compare it with or to go back to: `tally rebuild` alone makes it anew, and a server does so by itself",
        ));
    }
    let mut shown = Progress::new();
    let (mut events, mut begun) = (0, false);
    let mut why = None;
    let done = projector.renew(&mut |progress| {
        if let Some(RenewalProgress { records, of }) = progress {
            if !std::mem::replace(&mut begun, true) {
                shown.begins("folding the log", of);
            }
            shown.moved(records.saturating_sub(events));
            events = events.max(records);
        }
        why = projector.status().failure;
        why.is_none()
    });
    shown.ends();
    if !done.map_err(Failure::of)? {
        let why = why.unwrap_or_default();
        return Err(Failure::run(format!("the new state can't be made: {why}")));
    }
    let summary = inspect::summary(projector, &super::folder::never).map_err(Failure::of)?;
    let line = Line {
        events: summary.positions.iter().sum(),
        digest: summary.digest.to_string(),
        differences: None,
        swapped: true,
    };
    say(&line, args.json)?;
    Ok(ExitCode::SUCCESS)
}

/// One rebuild at a time.
fn lock(dir: &Path) -> Result<Box<dyn Lock>, Failure> {
    let lock = swap::alone(&RealStorage, dir).map_err(Failure::of)?;
    lock.ok_or_else(|| {
        Failure::run(format!(
            "another rebuild of {} is under way: wait for it, or end it",
            dir.display()
        ))
    })
}

/// Makes the previous state the one that catches up.
fn recall(dir: &Path) -> Result<(), Failure> {
    if swap::recall_previous(&RealStorage, dir).map_err(Failure::of)? {
        return Ok(());
    }
    Err(Failure::run(
        "there is no state to go back to: `tally rebuild` keeps the one before",
    ))
}

/// A state that is made beside the one that serves.
struct Rebuild {
    incoming: Incoming,
    source: Source,
    log: Arc<LimitedLog>,
    shadow: Projector,
    started_at: Vec<Offset>,
    progress: Progress,
    began: Instant,
    told: Instant,
}

impl Rebuild {
    fn begin(
        args: &RebuildArgs,
        config: &Config,
        source: Source,
        dir: &Path,
        incoming: Incoming,
    ) -> Result<Self, Failure> {
        incoming
            .set_unready(&RealStorage, dir)
            .map_err(Failure::of)?;
        let heads = source.heads()?;
        let log = LimitedLog::new(Arc::clone(source.log()), args.rate).map_err(Failure::of)?;
        // What an earlier run left is somewhere below.
        log.advance(&heads);
        let log = Arc::new(log);
        let whole = log.first().map_err(Failure::of)?;
        let whole = whole.iter().all(|first| *first == 0);
        let options = open::projector_options(config)?;
        let options = Options {
            // A crash costs time alone here, and each checkpoint is a sync on the server's disk.
            checkpoint_interval: Duration::from_secs(60),
            check_interval: Duration::ZERO,
            // From the beginning, where there is one: no state before has a part in it.
            snapshots: options
                .snapshots
                .filter(|_| !whole && incoming != Incoming::Seeded),
            other_fold: match incoming {
                Incoming::Shadow => OtherFold::SetAside,
                Incoming::Seeded | Incoming::Recalled => OtherFold::Refuse,
            },
            ..options
        };
        let shadow = Self::open(&log, incoming, &incoming.dir(dir), options)?;
        let started_at = shadow.status().started_at;
        let now = Instant::now();
        Ok(Self {
            incoming,
            source,
            log,
            shadow,
            started_at,
            progress: Progress::new(),
            began: now,
            told: now,
        })
    }

    fn open(
        log: &Arc<LimitedLog>,
        incoming: Incoming,
        shadow: &Path,
        options: Options,
    ) -> Result<Projector, Failure> {
        let of_log = Arc::clone(log) as Arc<dyn EventLog>;
        let storage = Arc::new(RealStorage);
        Projector::open(of_log, storage, shadow, options, &Registry::new()).map_err(|error| {
            let why = with_causes(&error);
            Failure::run(match incoming {
                Incoming::Shadow | Incoming::Seeded => format!(
                    "the state can't be made anew in {}: {why}. Remove that folder to begin from the start",
                    shadow.display(),
                ),
                Incoming::Recalled => format!("the state before can't come back: {why}"),
            })
        })
    }

    /// Events that are in the new state, of this run.
    fn events(&self) -> u64 {
        let status = self.shadow.status();
        let pairs = status.partitions.iter().zip(&self.started_at);
        pairs
            .map(|(partition, from)| partition.next_offset.saturating_sub(*from))
            .sum()
    }

    /// Folds until the new state is where the log is.
    fn catch_up(&mut self) -> Result<(), Failure> {
        for rounds in 0..MAX_ROUNDS {
            let heads = self.source.heads()?;
            let round = Instant::now();
            let pairs = heads.iter().zip(&self.started_at);
            let total = pairs.map(|(head, from)| head.saturating_sub(*from)).sum();
            self.log.advance(&heads);
            if rounds == 0 {
                self.progress.begins("folding the log", total);
            }
            self.reach(&heads, Some(total))?;
            if round.elapsed() < CLOSE_ENOUGH {
                return Ok(());
            }
        }
        Err(Failure::run(
            "more came in than was folded: give it a higher --rate, or none",
        ))
    }

    /// Waits until everything below these offsets is folded; says how far it is where there is a total.
    fn reach(&mut self, heads: &[Offset], total: Option<u64>) -> Result<(), Failure> {
        let mut before = self.events();
        loop {
            let status = self.shadow.status();
            if let Some(why) = status.failure {
                return Err(Failure::run(format!("the new state can't be made: {why}")));
            }
            let events = self.events();
            if let Some(total) = total {
                self.progress.moved(events.saturating_sub(before));
                self.tell(events, total);
            }
            before = events;
            let mut both = status.partitions.iter().zip(heads);
            if both.all(|(partition, head)| partition.next_offset >= *head) {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Says to the server how far it is. That the server does not listen is no reason to end.
    fn tell(&mut self, events: u64, of: u64) {
        if self.told.elapsed() < TELL_EVERY {
            return;
        }
        self.told = Instant::now();
        let progress = RebuildProgress::since(self.began, "folding the log", events, of);
        if let Err(error) = self.source.tell(Some(&progress)) {
            tracing::warn!(error = %error.into_error(), "the server was not told of the rebuild");
        }
    }

    fn tell_end(&self) {
        if let Err(error) = self.source.tell(None) {
            tracing::warn!(error = %error.into_error(), "the server was not told of the rebuild's end");
        }
    }

    /// Compares both states partition by partition, each at one position; the new one's digest, and in
    /// how much they differ.
    fn compare(
        &mut self,
        partitions: Range<Partition>,
        json: bool,
    ) -> Result<(String, usize), Failure> {
        let many = partitions.end.saturating_sub(partitions.start);
        self.progress.begins("comparing", many.into());
        let mut found = 0;
        let mut digest = tally_domain::Digest::default();
        for partition in partitions {
            let stored = self.stored(partition)?;
            let mut until = self.log.head().map_err(Failure::of)?;
            if let Some(until) = usize::try_from(partition)
                .ok()
                .and_then(|at| until.get_mut(at))
            {
                *until = stored.next_offset;
            }
            self.source.heads()?;
            self.log.advance(&until);
            self.reach(&until, None)?;
            let new = self.shadow.dump_partition(partition).map_err(Failure::of)?;
            digest.add_digest(new.digest());
            let differences = verify::differences(&stored, &new);
            found += differences.len();
            show(partition, &differences, json)?;
            self.progress.moved(1);
        }
        self.progress.ends();
        Ok((digest.to_string(), found))
    }

    /// A partition's stored state, at least as far as the new one is.
    fn stored(&self, partition: Partition) -> Result<tally_projector::PartitionDump, Failure> {
        let until = Instant::now() + SERVER_LAG;
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        let at = self.log.head().map_err(Failure::of)?;
        let at = at.get(place).copied().unwrap_or_default();
        loop {
            let stored = self.source.stored(partition)?;
            if stored.next_offset >= at {
                return Ok(stored);
            }
            if Instant::now() >= until {
                return Err(Failure::run(
                    "the server's own fold does not get to where the log was: see its /readyz",
                ));
            }
            // Each try is a whole partition.
            std::thread::sleep(TELL_EVERY);
        }
    }

    /// Writes the new state down, and puts it in its place.
    fn finish(self, dry_run: bool, dir: &Path) -> Result<(), Failure> {
        let limit = Duration::from_secs(600);
        self.tell_end();
        let stopped = self.shadow.stop(limit).map_err(|error| {
            Failure::run(format!(
                "the new state can't be written down: {}",
                with_causes(&error)
            ))
        });
        drop(self.shadow);
        stopped?;
        if dry_run {
            return self.incoming.remove(dir).map_err(Failure::of);
        }
        self.incoming
            .set_ready(&RealStorage, dir)
            .map_err(Failure::of)?;
        self.source.swap(dir, self.incoming)
    }
}
