//! What the embedded log does on this machine: appends a second, each waited for; how long they
//! take; what a sync costs; how fast it is read, and opened again.
//!
//! `cargo run --release -p tally-log --example append_rate [FOLDER [SECONDS [WAITERS]]]`
//!
//! FOLDER (a temporary one below the current folder where it is not given) says which disk is
//! measured; it is left empty. WAITERS (512) appends of one record of 128 bytes are on their way at
//! any time: whenever one is acknowledged, the thread that waits for it makes the next.

#[path = "measure/histogram.rs"]
mod measured;

use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use prometheus::Registry;
use prometheus::proto::MetricFamily;
use tally_domain::{Partition, Position};
use tally_log::embedded::{EmbeddedLog, EmbeddedOptions, check};
use tally_log::storage::RealStorage;
use tally_log::{Batch, EventLog, LogMetrics, NewRecord};

use measured::{Histogram, float};

type Failure = Box<dyn Error + Send + Sync>;

const KEY: &[u8] = b"ai_note:15";
const RECORD_BYTES: usize = 128;
const SUBMITTERS: usize = 2;
const DEADLINE: Duration = Duration::from_secs(60);

struct Settings {
    seconds: u64,
    waiters: usize,
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let parent = arguments.next().unwrap_or_else(|| ".".to_owned());
    let settings = Settings {
        seconds: arguments.next().map_or(Ok(10), |n| n.parse())?,
        waiters: arguments.next().map_or(Ok(512), |n| n.parse())?,
    };
    let folder = tempfile::Builder::new()
        .prefix("append_rate-")
        .tempdir_in(parent)?;
    machine(folder.path())?;
    let log = folder.path().join("log");
    append(&log, &settings)?;
    reopen(&log)?;
    say(format!("peak memory      {} MiB", memory("VmHWM:")));
    Ok(())
}

#[expect(
    clippy::print_stdout,
    reason = "printing the measurement is what this program is for"
)]
fn say(line: impl AsRef<str>) {
    println!("{}", line.as_ref());
}

/// What is measured on, and what one write and sync of it cost without a log.
fn machine(folder: &Path) -> Result<(), Failure> {
    const TRIES: usize = 1_000;
    let cpus = thread::available_parallelism()?;
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split(": ").nth(1));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    say(format!(
        "machine          {cpus} CPUs, {}, load {load} before",
        model.unwrap_or("unknown")
    ));
    let mut file = fs::File::create(folder.join("sync"))?;
    file.write_all(&vec![0; 4096 * TRIES])?;
    file.sync_all()?;
    let mut taken = Histogram::new();
    for at in 0..TRIES as u64 {
        let started = Instant::now();
        std::os::unix::fs::FileExt::write_all_at(&file, &[1; 4096], 4096 * at)?;
        file.sync_data()?;
        taken.add(started.elapsed());
    }
    say(format!(
        "disk             4 KiB written and synced: p50 {} ms, p99 {} ms",
        taken.millis(0.5),
        taken.millis(0.99)
    ));
    Ok(())
}

fn open(dir: &Path, registry: &Registry) -> Result<(EmbeddedLog, Duration), Failure> {
    let started = Instant::now();
    let (log, _) = EmbeddedLog::open(
        Arc::new(RealStorage),
        dir,
        "measured",
        EmbeddedOptions::default(),
        &LogMetrics::register(registry)?,
    )?;
    Ok((log, started.elapsed()))
}

/// A closed loop of appends, then a kill.
fn append(dir: &Path, settings: &Settings) -> Result<(), Failure> {
    let registry = Registry::new();
    let (log, _) = open(dir, &registry)?;
    let options = EmbeddedOptions::default();
    say(format!(
        "settings         {} waiters on {SUBMITTERS} threads, {RECORD_BYTES} bytes a record, {} \
         partitions, segments of {} MiB, {} s",
        settings.waiters,
        options.partitions,
        options.segment_bytes >> 20,
        settings.seconds
    ));
    let started = Instant::now();
    let end = started + Duration::from_secs(settings.seconds);
    let waiters = settings.waiters / SUBMITTERS;
    let (taken, early) = thread::scope(|scope| {
        let threads: Vec<_> = (0..SUBMITTERS)
            .map(|_| scope.spawn(|| submit(&log, waiters, end)))
            .collect();
        thread::sleep(Duration::from_secs(settings.seconds) / 5);
        let early = memory("VmRSS:");
        let mut all = Histogram::new();
        for thread in threads {
            all.merge(&thread.join().map_err(|_| "a thread panicked")??);
        }
        Ok::<_, Failure>((all, early))
    })?;
    let elapsed = started.elapsed().as_secs_f64();
    say(format!(
        "appends          {:.0} a second, each synced: p50 {} ms, p99 {} ms, p99.9 {} ms",
        rate(taken.count, elapsed),
        taken.millis(0.5),
        taken.millis(0.99),
        taken.millis(0.999)
    ));
    let metrics = registry.gather();
    let (records, groups) = histogram(&metrics, "tally_log_group_records");
    let (seconds, syncs) = histogram(&metrics, "tally_log_sync_duration_seconds");
    say(format!(
        "groups           {:.0} a second, {:.0} records each; write and sync {:.3} ms each, {:.0} % \
         of the time",
        rate(groups, elapsed),
        records / float(groups.max(1)),
        seconds * 1e3 / float(syncs.max(1)),
        seconds / elapsed * 100.
    ));
    say(format!(
        "memory           {early} MiB after a fifth of the time, {} MiB at the end",
        memory("VmRSS:")
    ));
    drop(log);
    Ok(())
}

/// Appends until the end and waits for all; how long each took.
fn submit(log: &EmbeddedLog, waiters: usize, end: Instant) -> Result<Histogram, Failure> {
    let (done, acknowledged) = mpsc::channel::<bool>();
    let mut taken = Histogram::new();
    let mut started = vec![Instant::now(); waiters];
    let mut partition: Partition = 0;
    for _ in 0..waiters {
        one(log, &mut partition, &done)?;
    }
    // Acknowledgements come in the order of the appends, so each is the oldest that waits.
    let mut waiting = waiters;
    let mut oldest = 0;
    while waiting > 0 {
        if !acknowledged.recv_timeout(DEADLINE)? {
            return Err("an append failed".into());
        }
        let now = Instant::now();
        let Some(since) = started.get_mut(oldest) else {
            break;
        };
        taken.add(now - *since);
        *since = now;
        oldest = (oldest + 1) % waiters;
        if now < end {
            one(log, &mut partition, &done)?;
        } else {
            waiting -= 1;
        }
    }
    Ok(taken)
}

fn one(log: &EmbeddedLog, partition: &mut Partition, done: &Sender<bool>) -> Result<(), Failure> {
    let record = NewRecord {
        partition: *partition,
        key: KEY.to_vec(),
        value: vec![b'x'; RECORD_BYTES - KEY.len()],
        traceparent: None,
    };
    *partition = (*partition + 1) % EmbeddedOptions::default().partitions;
    let done = done.clone();
    log.append(
        vec![record],
        Box::new(move |results| {
            let good = results.iter().all(Result::is_ok);
            done.send(good).unwrap_or_default();
        }),
    )?;
    Ok(())
}

/// Opens after the kill and after a clean end, reads everything, and checks everything.
fn reopen(dir: &Path) -> Result<(), Failure> {
    let (log, after_kill) = open(dir, &Registry::new())?;
    log.close(DEADLINE)?;
    drop(log);
    let (log, after_close) = open(dir, &Registry::new())?;
    say(format!(
        "open             {:.1} ms after a kill, {:.1} ms after a clean end",
        after_kill.as_secs_f64() * 1e3,
        after_close.as_secs_f64() * 1e3
    ));
    let started = Instant::now();
    let positions = |offsets: Vec<u64>| -> Vec<Position> {
        let pairs = (0..).zip(offsets);
        pairs
            .map(|(partition, offset)| Position { partition, offset })
            .collect()
    };
    let head = positions(log.head()?);
    let mut reader = log.reader(&positions(log.first()?))?;
    let mut batch = Batch::new();
    let (mut records, mut bytes) = (0, 0);
    while reader.positions() != head {
        reader.next(&mut batch, DEADLINE)?;
        records += batch.len() as u64;
        bytes += batch.byte_len() as u64;
    }
    let elapsed = started.elapsed().as_secs_f64();
    say(format!(
        "read             {:.0} records a second, {:.0} MiB/s, checksums checked; {records} records",
        rate(records, elapsed),
        rate(bytes, elapsed) / f64::from(1 << 20)
    ));
    drop(reader);
    drop(log);
    let started = Instant::now();
    let report = check(&RealStorage, dir)?;
    let elapsed = started.elapsed().as_secs_f64();
    if !report.is_whole() || report.records != records {
        return Err(format!("the log is not whole: {report:?}").into());
    }
    say(format!(
        "check            {:.0} MiB/s, {} segments",
        rate(report.bytes, elapsed) / f64::from(1 << 20),
        report.segments
    ));
    Ok(())
}

fn rate(count: u64, seconds: f64) -> f64 {
    float(count >> 10) * 1024. / seconds
}

/// Sum and count of a histogram that was exported.
fn histogram(metrics: &[MetricFamily], name: &str) -> (f64, u64) {
    let family = metrics.iter().find(|family| family.name() == name);
    let metric = family.and_then(|family| family.get_metric().first());
    metric.map_or((0., 0), |metric| {
        let histogram = metric.get_histogram();
        (histogram.get_sample_sum(), histogram.get_sample_count())
    })
}

/// What the system says of this process's memory, in MiB.
fn memory(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) >> 10
}
