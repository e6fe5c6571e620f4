//! `tally rebuild`: the state folded anew from the log, compared with the one that serves, and put in
//! its place.
//!
//! The new state is made in a folder of its own by this process, so that a running server has nothing
//! to do with it but at the end: sled has one lock for a whole process. Whatever ends this process
//! before that leaves the serving state as it is, and the next run goes on from what there is.

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use prometheus::Registry;
use serde::Serialize;
use tally_domain::{Offset, Partition};
use tally_ingress::inspect;
use tally_ingress::management::rebuild::RebuildProgress;
use tally_log::storage::{Lock, RealStorage, Storage as _};
use tally_log::{EventLog, LimitedLog};
use tally_projector::swap::{self, Incoming};
use tally_projector::{OpenError, Options, Projector, verify};

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
/// How many changed values bring a checkpoint, at least.
const CHANGES: usize = 2_000_000;
/// A round of catching up that took less is the last: the rest comes partition by partition.
const CLOSE_ENOUGH: Duration = Duration::from_secs(1);
/// The most rounds: with a rate below that of what comes in it would never end.
const MAX_ROUNDS: u32 = 1_000;
/// How much lower than the server's the priority is, as `nice` counts: a tenth of a core where all want one.
const KIND: i32 = 10;
/// Between two looks whether it comes nearer to the log's end with that.
const NEARER_EVERY: Duration = Duration::from_secs(10);
/// With fewer records than this left it is near, whether or not it comes nearer.
const FAR: u64 = 100_000;
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
  tally rebuild --roll-back

Folds the whole log into a new state, catches up with what comes in meanwhile, compares it with the
stored state, and puts it in its place; the old one is kept for --roll-back. A running server serves
all the while and has the new state after a moment; its other settings for memory hold for this
process too. Ended early, also by a kill, it has changed nothing, and the next run goes on.

Exit code 0 where it is done, also where the states differed; with --dry-run 1 where they differ.";

/// What came of it.
#[derive(Serialize)]
struct Line {
    events: u64,
    digest: String,
    differences: usize,
    swapped: bool,
}

/// Rebuilds.
pub(crate) fn run(args: &RebuildArgs, config: &Config) -> Result<ExitCode, Failure> {
    let source = Source::open(config)?;
    let dir = config.data_dir.join("state");
    let _alone = lock(&dir)?;
    let incoming = if args.roll_back {
        recall(&dir)?;
        Incoming::Recalled
    } else {
        Incoming::Shadow
    };
    let mut rebuild = Rebuild::begin(args, config, source, &dir, incoming)?;
    let done = rebuild.catch_up("folding the log").and_then(|()| {
        let compared = rebuild.compare(args.json)?;
        if !args.dry_run {
            rebuild.come_close()?;
        }
        Ok(compared)
    });
    rebuild.tell_end();
    let (digest, differences) = done?;
    let events = rebuild.events();
    rebuild.finish(args.dry_run, &dir)?;
    let line = Line {
        events,
        digest,
        differences,
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
        0 => "no differences from the stored state".to_owned(),
        many => format!("{many} differences from the stored state"),
    };
    let swapped = if line.swapped {
        "The rebuilt state is in use; `tally rebuild --roll-back` brings the one before back."
    } else {
        "Nothing was changed."
    };
    output::line(&format!(
        "{} events folded: {compared}\nDigest  {}\n{swapped}",
        line.events, line.digest
    ))
}

/// One rebuild at a time.
fn lock(dir: &Path) -> Result<Box<dyn Lock>, Failure> {
    let path = dir.join("rebuild.lock");
    let lock = RealStorage.lock(&path).map_err(Failure::of)?;
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
    shadow: Arc<Projector>,
    started_at: Vec<Offset>,
    progress: Progress,
    began: Instant,
    told: Instant,
    kindness: Option<Kindness>,
}

/// The lower priority that everything here has beside a server.
struct Kindness {
    looked: Instant,
    /// How many records it was from the log's end then.
    left: u64,
    /// A thread with the priority from before opens what it is given again, whose threads then have that too.
    reopen: mpsc::Sender<Arc<Projector>>,
    reopened: mpsc::Receiver<Result<(), OpenError>>,
}

impl Kindness {
    /// Lowers this thread's priority, and with it that of all that it starts from now on.
    fn begin() -> Result<Self, Failure> {
        let ((reopen, asked), (done, reopened)) = (mpsc::channel(), mpsc::channel());
        let thread = std::thread::Builder::new().name("tally-raise".to_owned());
        let raise = move || {
            for shadow in asked {
                let shadow: Arc<Projector> = shadow;
                let opened = shadow.reopen(|_| Ok(()));
                drop(shadow);
                if done.send(opened).is_err() {
                    return;
                }
            }
        };
        thread.spawn(raise).map_err(Failure::of)?;
        rustix::process::nice(KIND).map_err(Failure::of)?;
        Ok(Self {
            looked: Instant::now(),
            left: u64::MAX,
            reopen,
            reopened,
        })
    }
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
            checkpoint_changes: options.checkpoint_changes.max(CHANGES),
            check_interval: Duration::ZERO,
            // From the beginning, where there is one: no state before has a part in it.
            snapshots: options.snapshots.filter(|_| !whole),
            ..options
        };
        // Before any thread is started that shall have it too.
        let kindness = source.is_beside().then(Kindness::begin).transpose()?;
        // With a rate it is as slow as somebody wants it.
        let kindness = kindness.filter(|_| args.rate.is_none());
        let shadow = Arc::new(Self::open(&log, &incoming.dir(dir), options)?);
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
            kindness,
        })
    }

    /// Where a server that takes the whole processor leaves so little that more comes in than is folded, folds on
    /// with the server's priority: a thread can't raise its own, so the state gets new ones.
    fn keep_up(&mut self) -> Result<(), Failure> {
        let Some(kindness) = &mut self.kindness else {
            return Ok(());
        };
        if kindness.looked.elapsed() < NEARER_EVERY {
            return Ok(());
        }
        kindness.looked = Instant::now();
        let heads: u64 = self.source.heads()?.iter().sum();
        let next = self.shadow.status().partitions;
        let next: u64 = next.iter().map(|one| one.next_offset).sum();
        let left = heads.saturating_sub(next);
        if left < FAR || std::mem::replace(&mut kindness.left, left) > left {
            return Ok(());
        }
        self.progress
            .note("More comes in than is folded: the rebuild takes the server's priority.");
        self.shadow.checkpoint().map_err(Failure::of)?;
        let ended = || Failure::run("the thread that opens the new state again has ended");
        let asked = kindness.reopen.send(Arc::clone(&self.shadow));
        asked.map_err(|_| ended())?;
        let reopened = kindness.reopened.recv().map_err(|_| ended())?;
        self.kindness = None;
        reopened.map_err(Failure::of)
    }

    fn open(log: &Arc<LimitedLog>, shadow: &Path, options: Options) -> Result<Projector, Failure> {
        let of_log = Arc::clone(log) as Arc<dyn EventLog>;
        let storage = Arc::new(RealStorage);
        Projector::open(of_log, storage, shadow, options, &Registry::new()).map_err(|error| {
            Failure::run(format!(
                "the state can't be made anew in {}: {}. Remove that folder to begin from the start",
                shadow.display(),
                with_causes(&error)
            ))
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
    fn catch_up(&mut self, step: &str) -> Result<(), Failure> {
        for rounds in 0..MAX_ROUNDS {
            let heads = self.source.heads()?;
            let round = Instant::now();
            let pairs = heads.iter().zip(&self.started_at);
            let total: u64 = pairs.map(|(head, from)| head.saturating_sub(*from)).sum();
            self.log.advance(&heads);
            if rounds == 0 {
                let left = total.saturating_sub(self.events());
                self.progress.begins(step, left);
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

    /// Folds what came in while it was compared, with next to nothing left to write down at the end: what comes in
    /// after that, the server folds while everybody waits.
    fn come_close(&mut self) -> Result<(), Failure> {
        self.shadow.checkpoint().map_err(Failure::of)?;
        self.catch_up("catching up")
    }

    /// Waits until everything below these offsets is folded; says how far it is where there is a total.
    fn reach(&mut self, heads: &[Offset], total: Option<u64>) -> Result<(), Failure> {
        let mut before = self.events();
        loop {
            let status = self.shadow.status();
            if let Some(why) = status.failure {
                return Err(Failure::run(format!("the new state can't be made: {why}")));
            }
            self.keep_up()?;
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
        let seconds = self.began.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "it is a rate, for people")]
        let (done, left) = (events as f64, of.saturating_sub(events) as f64);
        let rate = done / seconds;
        let progress = RebuildProgress {
            step: "folding the log".to_owned(),
            events,
            of,
            rate,
            remaining_seconds: (rate > 0.0).then_some(left / rate),
        };
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
    fn compare(&mut self, json: bool) -> Result<(String, usize), Failure> {
        let partitions = self.log.identity().partitions;
        self.progress.begins("comparing", partitions.into());
        let mut found = 0;
        let mut digest = tally_domain::Digest::default();
        for partition in 0..partitions {
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
            let mut out: Box<dyn std::io::Write> = if json {
                Box::new(output::stdout())
            } else {
                Box::new(std::io::stderr())
            };
            output::inspected(inspect::differences(partition, &differences, &mut out))?;
            drop(out);
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
