//! What a scrape costs under full load: throughput with and without one, in turns, and how long it takes.

use std::time::{Duration, Instant};

use serde_json::Value;
use tally_tests::machine::Machine;
use tally_tests::{Folder, Request, Server, wait};

/// How often Prometheus would scrape at its busiest; the shipped configuration says 15 s.
const EVERY: Duration = Duration::from_secs(1);
/// Scrapes that processor time is measured over.
const SCRAPES: u32 = 300;
/// What a scrape may cost, in percent of the throughput, and how long one may take.
const PERCENT: f64 = 1.0;
const LIMIT: Duration = Duration::from_millis(50);

/// Measures and prints; whether both are within what they may be.
pub(crate) fn run(rounds: u32, seconds: u32) -> bool {
    let folder = Folder::local();
    println!("{}", Machine::look(folder.root()));
    let server = folder.start();
    println!(
        "settings    {rounds} pairs of {seconds} s, 256 connections, one server; a scrape each second or none"
    );
    let _ = bench(&folder, 3);
    let mut ratios = Vec::new();
    let mut scrapes = Vec::new();
    println!("| pair | without /s | with /s | with / without |\n|---:|---:|---:|---:|");
    for round in 1..=rounds {
        // What comes second may be slower by itself: turn about.
        let (without, with) = if round % 2 == 1 {
            let without = bench(&folder, seconds);
            (without, scraped(&folder, &server, seconds, &mut scrapes))
        } else {
            let with = scraped(&folder, &server, seconds, &mut scrapes);
            (bench(&folder, seconds), with)
        };
        ratios.push(with / without);
        println!(
            "| {round} | {without:.0} | {with:.0} | {:.4} |",
            with / without
        );
    }
    ratios.sort_by(f64::total_cmp);
    scrapes.sort_unstable();
    let spread = (ratios[ratios.len() - 1] - ratios[0]) * 100.0;
    let median = ratios[ratios.len() / 2];
    let slowest = scrapes.last().copied().unwrap_or_default();
    let middle = scrapes[scrapes.len() / 2];
    let cost = (1.0 - median) * 100.0;
    let cpu = cpu_of_a_scrape(&server);
    let share = cpu.as_secs_f64() / EVERY.as_secs_f64() / cores() * 100.0;
    let body = Request::get("/metrics").send(server.management()).body;
    println!(
        "series      {} in {} bytes",
        server.metrics().series.len(),
        body.len()
    );
    println!(
        "scrape      {} of them: median {:.1} ms, slowest {:.1} ms; at most {} ms",
        scrapes.len(),
        millis(middle),
        millis(slowest),
        LIMIT.as_millis()
    );
    println!(
        "processor   {:.2} ms of a core for a scrape: {share:.3} % of all cores with one each second; at most {PERCENT} %",
        millis(cpu)
    );
    println!(
        "throughput  {cost:.2} % less in the median of the pairs, which differ by {spread:.1} %"
    );
    server.stop();
    // What is within the pairs' own noise says nothing; the processor's time does.
    share < PERCENT && cost < PERCENT.max(spread) && middle < LIMIT
}

fn cores() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64)
}

/// The server's processor time for one scrape, over many without other load.
fn cpu_of_a_scrape(server: &Server) -> Duration {
    let before = cpu(server);
    for _ in 0..SCRAPES {
        let _ = Request::get("/metrics").send(server.management());
    }
    (cpu(server) - before) / SCRAPES
}

/// Processor time of the server so far, user and system.
fn cpu(server: &Server) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid()));
    let stat = stat.expect("/proc has our child");
    // The name may have blanks; the fields after it are counted from 3.
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    let ticks = fields.split_ascii_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|one| one.parse::<u64>().expect("ticks")).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Interactions a second in a closed loop.
fn bench(folder: &Folder, seconds: u32) -> f64 {
    let duration = format!("{seconds}s");
    let said = folder
        .run(&["bench", "--json", "--duration", &duration])
        .ok();
    let figures: Value = serde_json::from_str(&said).expect("one JSON object");
    let rate = &figures["rate_per_second"];
    rate.as_f64()
        .unwrap_or_else(|| panic!("no rate_per_second: {figures}"))
}

/// The same, with a scrape each second.
fn scraped(folder: &Folder, server: &Server, seconds: u32, took: &mut Vec<Duration>) -> f64 {
    let management = server.management();
    std::thread::scope(|scope| {
        let bench = scope.spawn(|| bench(folder, seconds));
        while !bench.is_finished() {
            let started = Instant::now();
            let answer = Request::get("/metrics").send(management);
            assert_eq!(answer.status, 200);
            took.push(started.elapsed());
            let _ = wait::within(EVERY, || bench.is_finished().then_some(()));
        }
        bench.join().expect("the load")
    })
}
