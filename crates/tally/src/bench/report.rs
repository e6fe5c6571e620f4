//! The figures of a run, for a person and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Everything a run has to say. Times are in the unit of their name.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) target: String,
    pub(super) settings: Settings,
    /// How long was measured.
    pub(super) measured_seconds: f64,
    /// Whether a signal ended the run.
    pub(super) interrupted: bool,
    /// Acknowledged interactions, the warm-up's included.
    pub(super) acknowledged: u64,
    pub(super) acknowledged_while_measuring: u64,
    /// Acknowledged a second while measuring.
    pub(super) rate_per_second: f64,
    pub(super) latency_us: Latency,
    pub(super) statuses: BTreeMap<u16, u64>,
    /// Only counted for a ledger.
    pub(super) outcomes: BTreeMap<String, u64>,
    pub(super) not_visible: u64,
    pub(super) refused: u64,
    pub(super) retries: u64,
    pub(super) connection_errors: u64,
    pub(super) reconnects: u64,
    pub(super) fate_unknown: u64,
    /// Due before the end (open loop), or taken up while the server was away, and never sent.
    pub(super) not_sent: u64,
    /// CPU of this process for each acknowledged interaction while measuring.
    pub(super) generator_cpu_us: Option<f64>,
    pub(super) server: Option<Server>,
    pub(super) unexpected: BTreeMap<String, u64>,
    /// Whether everything went as it should: the exit code says the same.
    pub(super) as_expected: bool,
}

/// How the run was set.
#[derive(Debug, Serialize)]
pub(super) struct Settings {
    pub(super) loop_kind: &'static str,
    pub(super) rate: Option<f64>,
    pub(super) connections: u32,
    pub(super) threads: u64,
    pub(super) users: usize,
    pub(super) resources: usize,
    pub(super) zipf: f64,
    pub(super) seed: u64,
    pub(super) idempotency_keys: bool,
    pub(super) ledger: bool,
    pub(super) warmup_seconds: f64,
}

/// Microseconds from the intended start to the whole answer.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    pub(super) count: u64,
    pub(super) min: f64,
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
}

/// The server's process while measuring.
#[derive(Debug, Serialize)]
pub(super) struct Server {
    pub(super) pid: u32,
    /// CPU time, user and system.
    pub(super) cpu_seconds: f64,
    /// The same for each acknowledged interaction.
    pub(super) cpu_us_per_request: f64,
    /// How many cores it kept busy.
    pub(super) cores_busy: f64,
    /// Memory in RAM at the end.
    pub(super) resident_bytes: Option<u64>,
}

impl Latency {
    /// From nanoseconds.
    pub(super) fn of(nanos: &Histogram<u64>) -> Self {
        let micros = |nanos: u64| {
            #[expect(clippy::cast_precision_loss, reason = "three digits are kept")]
            let micros = nanos as f64 / 1e3;
            micros
        };
        let at = |quantile| micros(nanos.value_at_quantile(quantile));
        Self {
            count: nanos.len(),
            min: micros(nanos.min()),
            mean: nanos.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: micros(nanos.max()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.settings;
        write!(f, "{}, {} loop", self.target, settings.loop_kind)?;
        if let Some(rate) = settings.rate {
            write!(f, " at {rate}/s")?;
        }
        writeln!(
            f,
            ", {} connections, {} threads, {} users, {} resources, Zipf {}",
            settings.connections,
            settings.threads,
            settings.users,
            settings.resources,
            settings.zipf
        )?;
        if self.interrupted {
            writeln!(f, "interrupted: the figures are of the time until then")?;
        }
        writeln!(
            f,
            "acknowledged   {} in {:.2} s = {:.0}/s",
            self.acknowledged_while_measuring, self.measured_seconds, self.rate_per_second
        )?;
        let latency = &self.latency_us;
        writeln!(
            f,
            "latency        p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
            Millis(latency.p50),
            Millis(latency.p90),
            Millis(latency.p99),
            Millis(latency.p999),
            Millis(latency.max)
        )?;
        if let Some(server) = &self.server {
            write!(
                f,
                "server CPU     {:.1} µs a request, {:.2} cores busy",
                server.cpu_us_per_request, server.cores_busy
            )?;
            if let Some(bytes) = server.resident_bytes {
                write!(f, ", {} MiB in RAM", bytes >> 20)?;
            }
            writeln!(f)?;
        }
        if let Some(cpu) = self.generator_cpu_us {
            writeln!(f, "generator CPU  {cpu:.1} µs a request")?;
        }
        self.fmt_counts(f)?;
        for (what, times) in &self.unexpected {
            writeln!(f, "unexpected     {times} × {what}")?;
        }
        Ok(())
    }
}

impl Report {
    fn fmt_counts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "answers       ")?;
        for (status, times) in &self.statuses {
            write!(f, " {status}: {times}")?;
        }
        writeln!(f)?;
        if !self.outcomes.is_empty() {
            write!(f, "outcomes      ")?;
            for (outcome, times) in &self.outcomes {
                write!(f, " {outcome}: {times}")?;
            }
            writeln!(f)?;
        }
        let counts = [
            ("not visible yet", self.not_visible),
            ("refused", self.refused),
            ("retries", self.retries),
            ("connection errors", self.connection_errors),
            ("reconnects", self.reconnects),
            ("fate unknown", self.fate_unknown),
            ("not sent", self.not_sent),
        ];
        for (what, count) in counts.iter().filter(|(_, count)| *count > 0) {
            writeln!(f, "{what:<14} {count}")?;
        }
        Ok(())
    }
}

struct Millis(f64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ms", self.0 / 1e3)
    }
}
