//! How fast a topic becomes state on disk: events per second from the first read until all is
//! applied, checkpoints going on meanwhile, and which thread has the CPU time.
//!
//! `cargo run --release -p tally-projector --example kafka_follow_rate SERVERS [TOPIC [EVENTS [RUNS [WORKERS]]]]`
//!
//! The topic is made where there is none, and filled where it has fewer events; each run has a new
//! state folder.

#[path = "../../log/examples/measure/cpu.rs"]
mod cpu;
#[path = "../../log/examples/measure/events.rs"]
mod events;
#[path = "../../log/examples/measure/topic.rs"]
mod topic;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tally_log::EventLog;
use tally_log::storage::RealStorage;
use tally_projector::{Options, Projector};

use cpu::Threads;

type Failure = Box<dyn Error + Send + Sync>;

const LIMIT: Duration = Duration::from_secs(600);

#[expect(
    clippy::print_stdout,
    reason = "printing the measurement is what this program is for"
)]
fn say(line: impl AsRef<str>) {
    println!("{}", line.as_ref());
}

fn run(log: &Arc<dyn EventLog>, options: &Options, events: f64) -> Result<String, Failure> {
    let dir = tempfile::tempdir()?;
    let registry = prometheus::Registry::new();
    let (before, started) = (Threads::now(), Instant::now());
    let storage = Arc::new(RealStorage);
    let log = Arc::clone(log);
    let projector = Projector::open(log, storage, dir.path(), options.clone(), &registry)?;
    while !projector.status().caught_up_once {
        std::thread::sleep(Duration::from_millis(1));
        if started.elapsed() > LIMIT {
            return Err("it does not catch up".into());
        }
    }
    let applied = started.elapsed();
    // While its threads live.
    let cpu = Threads::now().since(&before, events);
    projector.stop(LIMIT)?;
    let written = started.elapsed();
    Ok(format!(
        "applied at {:.0} events/s, applied and written at {:.0} events/s; {cpu}",
        events / applied.as_secs_f64(),
        events / written.as_secs_f64(),
    ))
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let servers = arguments.next().ok_or("SERVERS are missing")?;
    let name = arguments.next();
    let name = name.unwrap_or_else(|| "tally-read-rate".to_owned());
    let events = arguments.next().map_or(Ok(3_000_000), |n| n.parse())?;
    let runs: u32 = arguments.next().map_or(Ok(3), |n| n.parse())?;
    let options = Options {
        workers: arguments.next().map_or(Ok(1), |n| n.parse())?,
        ..Options::default()
    };
    let log = topic::open(&servers, &name)?;
    let there = events::fill(&log, events)?;
    let log: Arc<dyn EventLog> = Arc::new(log);
    let there = u32::try_from(there).map_or(f64::INFINITY, f64::from);
    for _ in 0..runs {
        say(format!("follow      {}", run(&log, &options, there)?));
    }
    Ok(())
}
