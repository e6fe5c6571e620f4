//! What `tally bench` can be told.

use std::path::PathBuf;
use std::time::Duration;

use tally_domain::Resource;

const EXAMPLES: &str = "\
Examples:
  tally bench                                    10 s of load on the server of the local folder
  tally bench --duration 60s --rate 20000        20,000 a second at fixed times (open loop)
  tally bench --ledger acked.ndjson --idempotency-keys --tolerate-disconnects --duration 2m
                                                 while the server is killed and restarted
  tally bench --url http://127.0.0.1:8080 --key local-dev-key --resource ai_note:15 --requests 1000

It sends real interactions: they stay in the log and in the counters. On a local folder it makes
API keys for its users (bench-0, bench-1, …), which it revokes at the end, and registers its
resources. Elsewhere it uses the keys given, and its resources must exist.";

/// Load on a server: a mix of interactions over Zipf-distributed resources and users.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BenchArgs {
    /// Connections held open; each has one request under way at a time
    #[arg(long, short = 'c', default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(super) connections: u32,
    /// How long to measure, as in 500ms, 30s or 2m [default: 10s, unless --requests is given]
    #[arg(long, short = 'd', value_parser = parse_duration)]
    pub(super) duration: Option<Duration>,
    /// Stop after this many interactions
    #[arg(long, short = 'n', value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) requests: Option<u64>,
    /// Load before measuring starts; its answers are in the ledger but not in the figures
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    pub(super) warmup: Duration,
    /// Interactions a second at fixed times, whether or not earlier ones were answered (open
    /// loop). Latency counts from the fixed time. Without it each connection sends its next
    /// interaction when the last was answered (closed loop)
    #[arg(long, short = 'r', value_parser = parse_rate)]
    pub(super) rate: Option<f64>,
    /// How many resources, over all resource types
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) resources: u32,
    /// The id of the first resource of each type
    #[arg(long, default_value_t = 1_000_000)]
    pub(super) first_id: u64,
    /// Use these resources instead, most popular first, as in ai_note:15; may be repeated
    #[arg(long = "resource", value_name = "TYPE:ID", conflicts_with_all = ["resources", "first_id"])]
    pub(super) resource: Vec<Resource>,
    /// How many users; with --key and --keys-from there are as many as keys
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) users: u32,
    /// Exponent of the Zipf distributions of resources and users; 0 makes all alike
    #[arg(long, default_value_t = 0.99, value_parser = parse_exponent)]
    pub(super) zipf: f64,
    /// Seed of the choices; the same seed and threads choose the same interactions
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Threads that make load [default: the cores this process may use]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub(super) threads: Option<u16>,
    /// Append a line of JSON for each acknowledged interaction, and one with
    /// "acknowledged":false for each whose fate is unknown
    #[arg(long, value_name = "FILE")]
    pub(super) ledger: Option<PathBuf>,
    /// Send an Idempotency-Key with each interaction, and retry under the same key after a lost
    /// connection or a 503
    #[arg(long)]
    pub(super) idempotency_keys: bool,
    /// Retries of one interaction, and of one connection attempt, before giving up; not limited
    /// with --tolerate-disconnects
    #[arg(long, default_value_t = 8)]
    pub(super) retries: u32,
    /// Keep going and reconnect, with growing pauses of at most 500 ms, while the server is away
    #[arg(long)]
    pub(super) tolerate_disconnects: bool,
    /// How long to wait for an answer before the connection counts as lost
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub(super) timeout: Duration,
    /// Print one JSON object with all figures
    #[arg(long)]
    pub(super) json: bool,
    /// A server elsewhere, as in http://127.0.0.1:8080 [default: the local folder's]
    #[arg(long)]
    pub(super) url: Option<String>,
    /// API key or JWT for --url; may be repeated
    #[arg(
        long,
        env = "TALLY_BENCH_KEY",
        hide_env_values = true,
        requires = "url"
    )]
    pub(super) key: Vec<String>,
    /// A file of credentials for --url, a line each: KEY, or USER KEY to have users in the ledger
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(super) keys_from: Option<PathBuf>,
    /// Report CPU and memory of this process as the server's [default: the local folder's server]
    #[arg(long, value_name = "PID")]
    pub(super) server_pid: Option<u32>,
}

impl BenchArgs {
    /// How long to measure; `None` where only the number of requests ends the run.
    pub(super) fn measured(&self) -> Option<Duration> {
        match (self.duration, self.requests) {
            (None, None) => Some(Duration::from_secs(10)),
            (duration, _) => duration,
        }
    }
}

/// A whole number and a unit: `500ms`, `30s`, `2m`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is not a duration; write 500ms, 30s or 2m"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" if number <= 86_400 => Ok(Duration::from_secs(number)),
        "m" if number <= 1_440 => Ok(Duration::from_secs(number * 60)),
        "s" | "m" => Err("a run is at most a day long".to_owned()),
        other => Err(format!("{other:?} is not a unit; write 500ms, 30s or 2m")),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.01..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("a rate is a number of interactions a second, 0.01 to 10000000".to_owned()),
    }
}

fn parse_exponent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(exponent) if (0.0..=10.0).contains(&exponent) => Ok(exponent),
        _ => Err("an exponent is a number from 0 to 10".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects the units a person writes; a bare number is refused, not guessed.
    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["10", "s", "", "-1s", "1.5s", "3h", "99999999s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?}");
        }
    }

    /// Protects against a rate that would divide by zero or a distribution that panics.
    #[test]
    fn rates_and_exponents_are_finite_and_in_range() {
        assert_eq!(parse_rate("20000"), Ok(20_000.0));
        assert_eq!(parse_exponent("0"), Ok(0.0));
        for wrong in ["0", "-1", "NaN", "inf", "x"] {
            assert!(parse_rate(wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["-0.1", "NaN", "inf", "x"] {
            assert!(parse_exponent(wrong).is_err(), "{wrong:?}");
        }
    }
}
