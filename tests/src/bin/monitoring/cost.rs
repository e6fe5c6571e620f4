//! What a scrape costs under full load: throughput with and without one, in turns, and how long it takes.

use std::time::{Duration, Instant};

use serde_json::Value;
use tally_tests::machine::Machine;
use tally_tests::{Folder, Request, Server, wait};

/// How often Prometheus would scrape at its busiest; the shipped configuration says 15 s.
const EVERY: Duration = Duration::from_secs(1);
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
    let median = ratios[ratios.len() / 2];
    let slowest = scrapes.last().copied().unwrap_or_default();
    let middle = scrapes[scrapes.len() / 2];
    let cost = (1.0 - median) * 100.0;
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
    println!("throughput  {cost:.2} % less in the median of the pairs; at most {PERCENT} %");
    server.stop();
    cost < PERCENT && middle < LIMIT
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
    let rate = &figures["per_second"];
    rate.as_f64()
        .unwrap_or_else(|| panic!("no per_second: {figures}"))
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
