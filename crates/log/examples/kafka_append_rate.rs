//! What the log on Kafka does beside a bare rdkafka producer: appends a second at several numbers of
//! waiters, how long they take, and the CPU time of each.
//!
//! `cargo run --release -p tally-log --example kafka_append_rate SERVERS [ROUNDS [SECONDS [WAITERS [ONLY…]]]]`
//!
//! All have the same loop on two threads: a waiter's next record is sent when its last one was
//! acknowledged. They differ in what sends:
//!
//! - `bare`: rdkafka's `ThreadedProducer` with our properties, and a number for each delivery
//! - `bare+headers`: the same, with the headers that our records have
//! - `single`: our log, an append for each record
//! - `turns`: our log as the service uses it: what is ready in one turn of a thread is one append,
//!   so a waiter also waits for the others of its turn (in the service it does not: the fold answers)
//! - `parted`: the same with an append for each partition
//!
//! Runs alternate, each round in the other direction than the one before. WAITERS are numbers with
//! commas between them, ONLY names of what sends: shares are of the first one then.

#[path = "measure/cpu.rs"]
mod cpu;
#[path = "measure/histogram.rs"]
mod measured;
#[path = "measure/topic.rs"]
mod topic;

use std::error::Error;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tally_log::kafka::KafkaLog;
use tally_log::{EventLog, NewRecord};

use cpu::Threads;
use measured::{Histogram, float};

type Failure = Box<dyn Error + Send + Sync>;

const KEY: &[u8] = b"ai_note:15";
const VALUE_BYTES: usize = 190;
const SUBMITTERS: usize = 2;
/// Load before anything counts.
const WARMUP: Duration = Duration::from_millis(500);
const DEADLINE: Duration = Duration::from_secs(30);
/// As the service's.
const MAX_RECORDS: usize = 1_024;

#[expect(
    clippy::print_stdout,
    reason = "printing the measurement is what this program is for"
)]
fn say(line: impl AsRef<str>) {
    println!("{}", line.as_ref());
}

/// A thread's waiters whose records were acknowledged.
#[derive(Default)]
struct Mailbox {
    acknowledged: Mutex<(Vec<usize>, bool)>,
    came: Condvar,
}

impl Mailbox {
    fn put(&self, waiters: &[usize], good: bool) {
        let mut acknowledged = self.acknowledged.lock();
        let first = acknowledged.0.is_empty();
        acknowledged.0.extend_from_slice(waiters);
        acknowledged.1 |= !good;
        drop(acknowledged);
        if first {
            self.came.notify_one();
        }
    }

    /// Waits for some, and puts them into an empty list.
    fn take(&self, waiters: &mut Vec<usize>) -> Result<(), Failure> {
        let mut acknowledged = self.acknowledged.lock();
        while acknowledged.0.is_empty() {
            if self.came.wait_for(&mut acknowledged, DEADLINE).timed_out() {
                return Err("nothing is acknowledged any more".into());
            }
        }
        if acknowledged.1 {
            return Err("an append failed".into());
        }
        std::mem::swap(&mut acknowledged.0, waiters);
        Ok(())
    }
}

type Mailboxes = [Arc<Mailbox>; SUBMITTERS];

/// What sends.
trait Sends: Sync {
    /// Sends a record for each of a thread's waiters, which its mailbox gets back.
    fn send(&self, thread: usize, waiters: &[usize], turn: usize) -> Result<(), Failure>;
}

fn partition(waiter: usize, turn: usize) -> u32 {
    u32::try_from((waiter + turn) % 16).unwrap_or(0) % topic::PARTITIONS
}

struct Bare {
    producer: ThreadedProducer<Context>,
    topic: String,
    headers: Option<OwnedHeaders>,
    value: Vec<u8>,
}

struct Context(Mailboxes);

impl ClientContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        if let Some(mailbox) = self.0.get(number % SUBMITTERS) {
            mailbox.put(&[number / SUBMITTERS], result.is_ok());
        }
    }
}

impl Sends for Bare {
    fn send(&self, thread: usize, waiters: &[usize], turn: usize) -> Result<(), Failure> {
        for waiter in waiters {
            let number = waiter * SUBMITTERS + thread;
            let partition = i32::try_from(partition(*waiter, turn))?;
            let mut record = BaseRecord::with_opaque_to(&self.topic, number)
                .partition(partition)
                .key(KEY)
                .payload(&self.value);
            if let Some(headers) = &self.headers {
                record = record.headers(headers.clone());
            }
            self.producer.send(record).map_err(|(error, _)| error)?;
        }
        Ok(())
    }
}

/// What goes into one append of ours.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Single,
    Turns,
    Parted,
}

struct Ours {
    log: Arc<KafkaLog>,
    shape: Shape,
    mailboxes: Mailboxes,
    value: Vec<u8>,
}

impl Sends for Ours {
    fn send(&self, thread: usize, waiters: &[usize], turn: usize) -> Result<(), Failure> {
        match self.shape {
            Shape::Single => self.append(thread, waiters, turn, 1),
            Shape::Turns => self.append(thread, waiters, turn, MAX_RECORDS),
            Shape::Parted => {
                let mut sorted = waiters.to_vec();
                sorted.sort_unstable_by_key(|waiter| partition(*waiter, turn));
                let same = |a: &usize, b: &usize| partition(*a, turn) == partition(*b, turn);
                let mut parts = sorted.chunk_by(same);
                parts.try_for_each(|part| self.append(thread, part, turn, MAX_RECORDS))
            }
        }
    }
}

impl Ours {
    fn append(
        &self,
        thread: usize,
        waiters: &[usize],
        turn: usize,
        at_once: usize,
    ) -> Result<(), Failure> {
        for waiters in waiters.chunks(at_once) {
            let record = |waiter: &usize| NewRecord {
                partition: partition(*waiter, turn),
                key: KEY.to_vec(),
                value: self.value.clone(),
                traceparent: None,
            };
            let records = waiters.iter().map(record).collect();
            let mailbox = self.mailboxes.get(thread).cloned().unwrap_or_default();
            let waiters = waiters.to_vec();
            self.log.append(
                records,
                Box::new(move |results| {
                    mailbox.put(&waiters, results.iter().all(Result::is_ok));
                }),
            )?;
        }
        Ok(())
    }
}

/// The properties of our producer, as it sets them.
fn properties(servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (name, value) in [
        ("bootstrap.servers", servers),
        ("socket.nagle.disable", "true"),
        ("socket.keepalive.enable", "true"),
        ("statistics.interval.ms", "5000"),
        ("message.max.bytes", "1310720"),
        ("linger.ms", "0"),
        ("acks", "all"),
        ("enable.idempotence", "true"),
        ("max.in.flight", "5"),
        ("delivery.timeout.ms", "5000"),
        ("queue.buffering.max.messages", "362144"),
        ("queue.buffering.max.kbytes", "1507328"),
    ] {
        config.set(name, value);
    }
    config
}

fn bare(servers: &str, topic: &str, headers: bool, mailboxes: &Mailboxes) -> Result<Bare, Failure> {
    let context = Context(mailboxes.clone());
    let producer = ThreadedProducer::from_config_and_context(&properties(servers), context)?;
    let header = |key, value| Header {
        key,
        value: Some(value),
    };
    let ours = || {
        OwnedHeaders::new_with_capacity(3)
            .insert(header("content-type", "application/json"))
            .insert(header("schema-version", "1"))
    };
    // As a log that is opened: reached before anything counts.
    let _ = producer.client().fetch_metadata(Some(topic), DEADLINE)?;
    Ok(Bare {
        producer,
        topic: topic.to_owned(),
        headers: headers.then(ours),
        value: vec![b'x'; VALUE_BYTES],
    })
}

/// What came of a run.
#[derive(Clone, Copy)]
struct Run {
    rate: f64,
    p50: f64,
    p99: f64,
}

impl Run {
    fn line(&self, label: &str) -> String {
        let Self { rate, p50, p99 } = self;
        format!("{label:<22} {rate:>9.0} appends/s   p50 {p50:>7.2} ms   p99 {p99:>7.2} ms")
    }
}

/// Sends until the end and waits for all; how long each took that counts.
fn submit(
    sends: &dyn Sends,
    mailbox: &Mailbox,
    thread: usize,
    waiters: usize,
    (counts, end): (Instant, Instant),
) -> Result<Histogram, Failure> {
    let mut taken = Histogram::new();
    let mut started = vec![Instant::now(); waiters];
    let mut ready: Vec<usize> = (0..waiters).collect();
    let mut waiting = 0;
    for turn in 0.. {
        let now = Instant::now();
        if now < end {
            for waiter in &ready {
                if let Some(since) = started.get_mut(*waiter) {
                    *since = now;
                }
            }
            sends.send(thread, &ready, turn)?;
            waiting += ready.len();
        }
        if waiting == 0 {
            break;
        }
        ready.clear();
        mailbox.take(&mut ready)?;
        waiting -= ready.len();
        let now = Instant::now();
        for waiter in &ready {
            if let Some(since) = started.get(*waiter)
                && (counts..end).contains(&now)
            {
                taken.add(now - *since);
            }
        }
    }
    Ok(taken)
}

fn run(
    sends: &dyn Sends,
    mailboxes: &Mailboxes,
    waiters: usize,
    seconds: u64,
) -> Result<(Run, String), Failure> {
    let counts = Instant::now() + WARMUP;
    let lasting = Duration::from_secs(seconds);
    let span = (counts, counts + lasting);
    // Threads live until their CPU time was asked.
    let counted = Barrier::new(SUBMITTERS + 1);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(mailboxes)
            .map(|(thread, mailbox)| {
                let waiters = waiters / SUBMITTERS;
                let counted = &counted;
                scope.spawn(move || {
                    let taken = submit(sends, mailbox, thread, waiters, span);
                    counted.wait();
                    taken
                })
            })
            .collect();
        thread::sleep(WARMUP);
        let before = Threads::now();
        thread::sleep(lasting);
        let after = Threads::now();
        counted.wait();
        let mut all = Histogram::new();
        for thread in threads {
            all.merge(&thread.join().map_err(|_| "a thread panicked")??);
        }
        let run = Run {
            rate: float(all.count) / lasting.as_secs_f64(),
            p50: all.millis(0.5),
            p99: all.millis(0.99),
        };
        Ok((run, after.since(&before, float(all.count))))
    })
}

fn median(runs: &[Run]) -> Run {
    let of = |figure: fn(&Run) -> f64| {
        let mut figures: Vec<f64> = runs.iter().map(figure).collect();
        figures.sort_unstable_by(f64::total_cmp);
        let at = |place: usize| figures.get(place).copied().unwrap_or(f64::NAN);
        let many = figures.len();
        f64::midpoint(at(many.saturating_sub(1) / 2), at(many / 2))
    };
    Run {
        rate: of(|run| run.rate),
        p50: of(|run| run.p50),
        p99: of(|run| run.p99),
    }
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let servers = arguments.next().ok_or("SERVERS are missing")?;
    let rounds: u32 = arguments.next().map_or(Ok(5), |n| n.parse())?;
    let seconds: u64 = arguments.next().map_or(Ok(3), |n| n.parse())?;
    let waiters = arguments.next().unwrap_or_else(|| "64,512,4096".to_owned());
    let waiters: Vec<usize> = waiters
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let only: Vec<String> = arguments.collect();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let name = format!("tally-append-rate-{}", now.as_millis());
    let other = format!("{name}-bare");
    let log = Arc::new(topic::open(&servers, &name)?);
    // Made alike, and closed again.
    drop(topic::open(&servers, &other)?);
    let mailboxes = Mailboxes::default();
    let ours = |shape| Ours {
        log: Arc::clone(&log),
        shape,
        mailboxes: mailboxes.clone(),
        value: vec![b'x'; VALUE_BYTES],
    };
    let all: [(&str, Box<dyn Sends>); 5] = [
        ("bare", Box::new(bare(&servers, &other, false, &mailboxes)?)),
        ("turns", Box::new(ours(Shape::Turns))),
        ("single", Box::new(ours(Shape::Single))),
        ("parted", Box::new(ours(Shape::Parted))),
        (
            "bare+headers",
            Box::new(bare(&servers, &other, true, &mailboxes)?),
        ),
    ];
    let mut all = Vec::from(all);
    all.retain(|(label, _)| only.is_empty() || only.iter().any(|only| only == label));
    say(format!(
        "settings    {rounds} rounds of {seconds} s, {} bytes a record, {} partitions, waiters on {SUBMITTERS} threads",
        KEY.len() + VALUE_BYTES,
        topic::PARTITIONS
    ));
    // A broker that has just started, and its compiler: this does not count.
    for (_, sends) in &all {
        let most = waiters.iter().max().copied().unwrap_or(SUBMITTERS);
        run(sends.as_ref(), &mailboxes, most, seconds)?;
    }
    for waiters in waiters {
        say(format!("\n{waiters} waiters"));
        let mut runs: Vec<Vec<Run>> = vec![Vec::new(); all.len()];
        for round in 1..=rounds {
            let mut order: Vec<_> = all.iter().zip(&mut runs).collect();
            if round.is_multiple_of(2) {
                order.reverse();
            }
            for ((label, sends), runs) in order {
                let (run, cpu) = run(sends.as_ref(), &mailboxes, waiters, seconds)?;
                say(format!("{}   {cpu}", run.line(&format!("{round} {label}"))));
                runs.push(run);
            }
        }
        let first = all.first().map_or("none", |(label, _)| label);
        let base = runs.first().map_or(f64::NAN, |runs| median(runs).rate);
        for ((label, _), runs) in all.iter().zip(&runs) {
            let run = median(runs);
            let label = format!("median {label}");
            let share = 100. * run.rate / base;
            say(format!("{}   {share:.0} % of {first}", run.line(&label)));
        }
    }
    Ok(())
}
