//! A state far larger than its memory: folds millions of resources and toggles under a hard limit of
//! memory, and checks what came out by an independent fold.
//!
//! `cargo run --release -p tally-projector --example memory_budget -- [--resources 10000000]
//! [--toggles 20000000] [--memory-limit 512] [--memory 96] [--cache 8] [--changes 50000] [--dir DIR]`
//! (sizes in MiB)
//!
//! The log is made up as it is read, and so takes no memory: each resource is viewed once, each
//! toggle set once, in an order that has nothing to do with where a value stands, and a tenth of
//! all that comes again, so that values are read back. Every hundredth event has an idempotency
//! key. The fold runs in a process of its own that may not have more memory than the limit
//! (`RLIMIT_DATA`); another process reads the state it left, and the parent folds the same events
//! with nothing but counters and bits.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource as Limit, Rlimit, setrlimit};
use tally_domain::remembered::{Fingerprint, RememberedKey};
use tally_domain::{
    Counters, Digest, Event, EventId, EventTime, IdempotencyKey, InteractionType, LogId, Offset,
    Position, Resource, ResourceType, Toggles, UserId,
};
use tally_log::storage::RealStorage;
use tally_log::{
    AppendDone, AppendError, AppendRefused, Batch, EventLog, LogHealth, LogIdentity, LogReader,
    NewRecord, ReadError,
};
use tally_projector::{Options, Projector};

const PARTITIONS: u32 = 16;
/// 2026-11-24T03:50:12.345Z.
const START_MILLIS: u64 = 1_795_492_212_345;
/// What a read gives at most, in bytes.
const BATCH_BYTES: usize = 1 << 20;

type Failed = Box<dyn Error>;

#[derive(Debug, Clone, Copy)]
struct History {
    resources: u64,
    toggles: u64,
}

impl History {
    fn events(self) -> u64 {
        let once = self.resources + self.toggles;
        once + once / 10
    }

    /// The event at a place of the history.
    fn event(self, at: u64) -> Result<Event, Failed> {
        let once = self.resources + self.toggles;
        // An affine order of all that comes once; a prime beyond any sensible count.
        let order = |n: u64| u128::from(n) * 2_654_435_761 % u128::from(once);
        let (n, again) = if at % 11 == 10 {
            (at / 11, true)
        } else {
            (at / 11 * 10 + at % 11, false)
        };
        let n = u64::try_from(if again { order(n * 7) } else { order(n) })?;
        let (id, user, interaction) = match n.checked_sub(self.resources) {
            None => (n, n % 1_000, InteractionType::View),
            Some(k) => {
                let (id, turn) = (k % self.resources, k / self.resources);
                let interaction = if turn.is_multiple_of(2) {
                    InteractionType::Like
                } else {
                    InteractionType::Bookmark
                };
                (id, (id * 31 + turn * 1_000_003) % 100_000_007, interaction)
            }
        };
        let key = at.is_multiple_of(100).then(|| format!("key-{at}"));
        Ok(Event {
            id: EventId::from_u128(u128::from(at) + 1),
            at: EventTime::from_millis(START_MILLIS),
            user: UserId::new(user.to_string())?,
            resource: Resource::new(ResourceType::Quest, id)?,
            interaction,
            idempotency_key: key.map(IdempotencyKey::new).transpose()?,
        })
    }

    /// The same history folded by a few lines of its own, a partition at a time.
    fn digest(self) -> Result<Digest, Failed> {
        let mut digest = Digest::default();
        for partition in 0..PARTITIONS {
            let mut counters: HashMap<u64, Counters> = HashMap::new();
            let (mut liked, mut bookmarked) = (HashSet::new(), HashSet::new());
            let mut keys = 0;
            for at in 0..self.events() {
                let event = self.event(at)?;
                if event.resource.partition(PARTITIONS) != partition {
                    continue;
                }
                let id = event.resource.id.get();
                if let Some(key) = &event.idempotency_key {
                    let key = RememberedKey {
                        fingerprint: Fingerprint::of(&event.user, event.resource, key),
                        at: event.at,
                        interaction: event.interaction,
                    };
                    digest.add_key(partition, keys, &key);
                    keys += 1;
                }
                let of = counters.entry(id).or_default();
                let user: u64 = event.user.as_str().parse()?;
                match event.interaction {
                    InteractionType::View => of.views += 1,
                    InteractionType::Like => of.likes += u64::from(liked.insert((id, user))),
                    InteractionType::Bookmark => {
                        of.bookmarks += u64::from(bookmarked.insert((id, user)));
                    }
                    InteractionType::Unlike
                    | InteractionType::Share
                    | InteractionType::Unbookmark
                    | InteractionType::Comment => return Err("not in this history".into()),
                }
            }
            for (id, counters) in &counters {
                digest.add_counters(Resource::new(ResourceType::Quest, *id)?, counters);
            }
            for (id, user) in liked.union(&bookmarked) {
                let on = (*id, *user);
                let toggles = Toggles {
                    liked: liked.contains(&on),
                    bookmarked: bookmarked.contains(&on),
                };
                let resource = Resource::new(ResourceType::Quest, *id)?;
                digest.add_toggles(resource, &user.to_string(), toggles);
            }
        }
        Ok(digest)
    }
}

/// The history as a log: an event's place is its offset, so that a partition has gaps.
struct MadeUpLog(History);

impl EventLog for MadeUpLog {
    fn identity(&self) -> LogIdentity {
        LogIdentity {
            id: LogId::from_u128(1),
            partitions: PARTITIONS,
        }
    }

    fn append(&self, _: Vec<NewRecord>, _: AppendDone) -> Result<(), AppendRefused> {
        Err(AppendRefused::Closed("it is made up".to_owned()))
    }

    fn reader(&self, from: &[Position]) -> Result<Box<dyn LogReader>, ReadError> {
        let next = from.iter().map(|position| position.offset).min();
        Ok(Box::new(MadeUpReader {
            history: self.0,
            from: from.to_vec(),
            next: next.unwrap_or_default(),
        }))
    }

    fn first(&self) -> Result<Vec<Offset>, ReadError> {
        Ok((0..PARTITIONS).map(|_| 0).collect())
    }

    fn head(&self) -> Result<Vec<Offset>, ReadError> {
        Ok((0..PARTITIONS).map(|_| self.0.events()).collect())
    }

    fn stalled_for(&self) -> Option<Duration> {
        None
    }

    fn health(&self) -> LogHealth {
        LogHealth::Ok
    }

    fn close(&self, _: Duration) -> Result<(), AppendError> {
        Ok(())
    }
}

struct MadeUpReader {
    history: History,
    from: Vec<Position>,
    next: Offset,
}

impl LogReader for MadeUpReader {
    fn next(&mut self, batch: &mut Batch, wait: Duration) -> Result<(), ReadError> {
        batch.clear();
        while self.next < self.history.events() && batch.byte_len() < BATCH_BYTES {
            let event = self.history.event(self.next);
            let event = event.map_err(|error| ReadError::Unavailable(error.to_string()))?;
            let partition = event.resource.partition(PARTITIONS);
            let mut mine = self.from.iter().filter(|from| from.partition == partition);
            if mine.next().is_some_and(|from| from.offset <= self.next) {
                let (key, value) = (event.resource.key(), tally_domain::encode(&event));
                batch.push(partition, self.next, START_MILLIS, key.as_bytes(), &value);
            }
            self.next += 1;
        }
        if batch.is_empty() {
            std::thread::sleep(wait.min(Duration::from_millis(1)));
        }
        Ok(())
    }

    fn positions(&self) -> Vec<Position> {
        let at = |from: &Position| Position {
            offset: from.offset.max(self.next),
            ..*from
        };
        self.from.iter().map(at).collect()
    }

    fn waker(&self) -> Box<dyn Fn() + Send + Sync> {
        Box::new(|| ())
    }
}

struct Args {
    history: History,
    limit: u64,
    memory: u64,
    cache: u64,
    changes: u64,
    dir: PathBuf,
    part: Option<String>,
}

impl Args {
    fn read() -> Result<Self, Failed> {
        let mut args = Self {
            history: History {
                resources: 10_000_000,
                toggles: 20_000_000,
            },
            limit: 512,
            memory: 96,
            cache: 8,
            changes: 50_000,
            dir: std::env::temp_dir(),
            part: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let value = words.next().ok_or("each argument has a value")?;
            match word.as_str() {
                "--resources" => args.history.resources = value.parse()?,
                "--toggles" => args.history.toggles = value.parse()?,
                "--memory-limit" => args.limit = value.parse()?,
                "--memory" => args.memory = value.parse()?,
                "--cache" => args.cache = value.parse()?,
                "--changes" => args.changes = value.parse()?,
                "--dir" => args.dir = PathBuf::from(value),
                "--part" => args.part = Some(value),
                _ => return Err(format!("unknown argument {word}").into()),
            }
        }
        Ok(args)
    }

    fn open(&self) -> Result<Projector, Failed> {
        let options = Options {
            workers: 1,
            checkpoint_changes: usize::try_from(self.changes)?,
            sled_cache_bytes: self.cache << 20,
            memory: usize::try_from(self.memory << 20)?,
            ..Options::default()
        };
        let log = Arc::new(MadeUpLog(self.history));
        let registry = prometheus::Registry::new();
        let storage = Arc::new(RealStorage);
        let projector = Projector::open(log, storage, &self.dir, options, &registry)?;
        Ok(projector)
    }
}

/// A field of `/proc/self/status`, in MiB; 0 where there is none.
fn mib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1_024
}

/// Folds everything, within the limit.
#[expect(clippy::print_stdout, reason = "this is what it is for")]
fn fold(args: &Args) -> Result<(), Failed> {
    let bytes = Some(args.limit << 20);
    let limit = Rlimit {
        current: bytes,
        maximum: bytes,
    };
    setrlimit(Limit::Data, limit)?;
    let started = Instant::now();
    let projector = args.open()?;
    let (mut said, mut before) = (Instant::now(), 0);
    while !projector.status().caught_up_once {
        std::thread::sleep(Duration::from_millis(20));
        let status = projector.status();
        if let Some(why) = status.failure {
            return Err(why.into());
        }
        if said.elapsed() >= Duration::from_secs(10) {
            let done = status.partitions.iter().map(|p| p.next_offset).min();
            let done = done.unwrap_or_default();
            let rate = (done - before) * 1_000 / u64::try_from(said.elapsed().as_millis())?;
            println!(
                "{done} events, {rate}/s, {} MiB counted, {} MiB resident",
                status.memory >> 20,
                mib("VmRSS")
            );
            (said, before) = (Instant::now(), done);
        }
    }
    let reading = Instant::now();
    let reads = 100_000.min(args.history.events());
    for n in 0..reads {
        let event = args.history.event(n * 7_919 % args.history.events())?;
        let view = projector.read(event.resource, &event.user)?;
        if view.counters == Counters::default() {
            return Err(format!("{} is lost", event.resource).into());
        }
    }
    let read = reading.elapsed();
    projector.stop(Duration::from_secs(3_600))?;
    let rate = args.history.events() * 1_000 / u64::try_from(started.elapsed().as_millis())?;
    println!(
        "folded and written: {} events in {} s, {rate}/s; {reads} reads at {} us each; at most {} MiB resident, of {} MiB allowed",
        args.history.events(),
        started.elapsed().as_secs(),
        read.as_micros() / u128::from(reads),
        mib("VmHWM"),
        args.limit,
    );
    Ok(())
}

/// This program again, on a part of the work.
fn part(args: &Args, part: &str, dir: &Path) -> Result<Command, Failed> {
    let mut command = Command::new(std::env::current_exe()?);
    for (name, value) in [
        ("--resources", args.history.resources),
        ("--toggles", args.history.toggles),
        ("--memory-limit", args.limit),
        ("--memory", args.memory),
        ("--cache", args.cache),
        ("--changes", args.changes),
    ] {
        command.arg(name).arg(value.to_string());
    }
    command.arg("--dir").arg(dir).args(["--part", part]);
    // glibc gives each thread memory of its own, and keeps most of what large blocks leave.
    command.env("MALLOC_ARENA_MAX", "1");
    for name in ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"] {
        command.env(name, "262144");
    }
    Ok(command)
}

#[expect(clippy::print_stdout, reason = "this is what it is for")]
fn main() -> Result<(), Failed> {
    let args = Args::read()?;
    match args.part.as_deref() {
        Some("fold") => return fold(&args),
        Some(_) => {
            println!("{}", args.open()?.dump()?.digest);
            return Ok(());
        }
        None => {}
    }
    let History { resources, toggles } = args.history;
    println!(
        "{resources} resources and {toggles} toggles in {} MiB: projector.memory {} MiB, projector.cache_size {} MiB, projector.checkpoint_changes {}, {} cores",
        args.limit,
        args.memory,
        args.cache,
        args.changes,
        std::thread::available_parallelism()?
    );
    let dir = tempfile::tempdir_in(&args.dir)?;
    if !part(&args, "fold", dir.path())?.status()?.success() {
        return Err("the fold did not end well".into());
    }
    let state = part(&args, "digest", dir.path())?.output()?;
    let state = String::from_utf8(state.stdout)?;
    let expected = args.history.digest()?.to_string();
    println!("state    {}\nexpected {expected}", state.trim());
    if state.trim() != expected {
        return Err("the state is not the fold of the history".into());
    }
    println!("checked: the state is the fold of the history");
    Ok(())
}
