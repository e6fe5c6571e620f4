//! Prints what a rebuild costs those who are served meanwhile: the latency of live requests at a fixed rate,
//! alone and beside `tally rebuild`, its roll-back and the rebuild after it, on a log of millions of events.
//!
//! ```sh
//! cargo run --release -p tally-tests --bin rebuild_performance
//! ```
//!
//! It fails where the states differ, or a request was refused or not answered. Only loopback traffic.

use std::process::Stdio;
use std::time::Instant;

use clap::Parser;
use serde_json::Value;
use tally_tests::fold::state;
use tally_tests::machine::Machine;
use tally_tests::{Folder, binary};

/// Measures a rebuild under load on this machine.
#[derive(Debug, Parser)]
#[command(name = "rebuild_performance")]
struct Args {
    /// Events in the log before the first rebuild
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    events: u32,
    /// Live requests a second, at fixed times
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Events a second that the rebuild folds at most; 0: as many as it can
    #[arg(long, default_value_t = 0)]
    rebuild_rate: u32,
    /// Seconds of live requests without a rebuild
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
}

/// The figures of `tally bench` with these options.
fn bench(folder: &Folder, options: &[&str]) -> Value {
    let mut args = vec!["bench", "--json", "--users", "200", "--resources", "100000"];
    args.extend(options);
    let mut command = folder.command(&args);
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.expect("`tally bench`");
    assert!(output.status.success(), "{}", output.status);
    serde_json::from_slice(&output.stdout).expect("figures")
}

fn figure(figures: &Value, pointer: &str) -> f64 {
    let value = figures.pointer(pointer).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("no {pointer} in {figures}"))
}

/// Says what live requests met, and returns their p99 in ms.
fn say(what: &str, figures: &Value) -> f64 {
    for none in ["/refused", "/fate_unknown", "/connection_errors"] {
        assert!(figure(figures, none) == 0.0, "{none}: {figures}");
    }
    let millis = |name: &str| figure(figures, &format!("/latency_us/{name}")) / 1e3;
    println!(
        "{what:<22} p50 {:>8.2} ms  p99 {:>8.2} ms  p99.9 {:>8.2} ms  max {:>8.2} ms  not visible {}",
        millis("p50"),
        millis("p99"),
        millis("p999"),
        millis("max"),
        figure(figures, "/not_visible"),
    );
    millis("p99")
}

fn main() {
    let args = Args::parse();
    println!("{}", Machine::look(&binary::target_dir()));
    println!("settings    {args:?}");
    let folder = Folder::new();
    let server = folder.start();
    let began = Instant::now();
    let _ = bench(&folder, &["--requests", &args.events.to_string()]);
    println!("{} events in {:.0?}", args.events, began.elapsed());
    let (rate, seconds) = (args.rate.to_string(), format!("{}s", args.seconds));
    let live = [
        "--rate",
        &rate,
        "--duration",
        &seconds,
        "--connections",
        "64",
    ];
    let alone = say("alone", &bench(&folder, &live));
    for commands in [
        &["rebuild", "--json"][..],
        &["rebuild", "--roll-back", "--json"],
        &["rebuild", "--json"],
    ] {
        let mut rebuild = commands.to_vec();
        let slow = args.rebuild_rate.to_string();
        if args.rebuild_rate > 0 && !commands.contains(&"--roll-back") {
            rebuild.extend(["--rate", &slow]);
        }
        let began = Instant::now();
        let mut command = folder.command(&rebuild);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let child = child.expect("`tally rebuild`");
        let beside = say(&rebuild.join(" "), &bench(&folder, &live));
        let output = child.wait_with_output().expect("a rebuild");
        assert!(output.status.success(), "{}", output.status);
        let line: Value = serde_json::from_slice(&output.stdout).expect("what came of it");
        assert_eq!(line["differences"], 0, "{line}");
        println!(
            "{:22} {} events in {:.1?}, p99 {:.2} times that alone",
            "",
            line["events"],
            began.elapsed(),
            beside / alone
        );
        let said = server.output();
        let closed = said
            .lines()
            .rfind(|line| line.contains("closed and opened again"));
        println!("{:22} {}", "", closed.unwrap_or_default());
    }
    server.wait_until_quiet();
    println!("digest      {}", state(&folder).digest);
    server.stop();
}
