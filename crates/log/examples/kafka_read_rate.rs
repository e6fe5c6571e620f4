//! How fast a topic is read through the log, records alone, from its first record to its end.
//!
//! `cargo run --release -p tally-log --example kafka_read_rate SERVERS [TOPIC [EVENTS [RUNS]]]`
//!
//! The topic is made where there is none, and filled where it has fewer events. Two rates are
//! printed: the whole, from the call for a reader on, and from the first batch on.

#[path = "measure/cpu.rs"]
mod cpu;
#[path = "measure/events.rs"]
mod events;
#[path = "measure/topic.rs"]
mod topic;

use std::error::Error;
use std::time::{Duration, Instant};

use tally_domain::{Offset, Position};
use tally_log::kafka::KafkaLog;
use tally_log::{Batch, EventLog};

use cpu::Threads;

type Failure = Box<dyn Error + Send + Sync>;

const WAIT: Duration = Duration::from_secs(60);

#[expect(
    clippy::print_stdout,
    reason = "printing the measurement is what this program is for"
)]
fn say(line: impl AsRef<str>) {
    println!("{}", line.as_ref());
}

fn positions(offsets: Vec<Offset>) -> Vec<Position> {
    let pairs = (0..).zip(offsets);
    pairs
        .map(|(partition, offset)| Position { partition, offset })
        .collect()
}

fn count(records: usize) -> f64 {
    u32::try_from(records).map_or(f64::INFINITY, f64::from)
}

fn run(log: &KafkaLog) -> Result<String, Failure> {
    let (first, head) = (positions(log.first()?), positions(log.head()?));
    let (before, started) = (Threads::now(), Instant::now());
    let mut reader = log.reader(&first)?;
    let mut batch = Batch::new();
    reader.next(&mut batch, WAIT)?;
    let (after_first, of_first) = (Instant::now(), batch.len());
    let (mut records, mut bytes, mut batches) = (batch.len(), batch.byte_len(), 1);
    while reader.positions() != head {
        reader.next(&mut batch, WAIT)?;
        records += batch.len();
        bytes += batch.byte_len();
        batches += 1;
    }
    let (all, rest) = (started.elapsed(), after_first.elapsed());
    let mib = count(bytes) / f64::from(1 << 20);
    let cpu = Threads::now().since(&before, count(records));
    Ok(format!(
        "{:.0} records/s, {:.0} MiB/s; from the first batch on {:.0} records/s; {records} records in {batches} batches; {cpu}",
        count(records) / all.as_secs_f64(),
        mib / all.as_secs_f64(),
        count(records - of_first) / rest.as_secs_f64(),
    ))
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let servers = arguments.next().ok_or("SERVERS are missing")?;
    let name = arguments.next();
    let name = name.unwrap_or_else(|| "tally-read-rate".to_owned());
    let events = arguments.next().map_or(Ok(3_000_000), |n| n.parse())?;
    let runs: u32 = arguments.next().map_or(Ok(5), |n| n.parse())?;
    let log = topic::open(&servers, &name)?;
    events::fill(&log, events)?;
    for _ in 0..runs {
        say(format!("read        {}", run(&log)?));
    }
    Ok(())
}
