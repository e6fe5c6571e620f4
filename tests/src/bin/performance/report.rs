//! The runs as a table, and what follows from them.

use serde_json::{Value, json};

use crate::runs::{Placement, Run, Subject};

/// The table's first line.
pub(crate) const HEADINGS: &str = "run             req/s   p50 ms   p99 ms  p99.9 ms  server µs/req  cores  RAM MiB  generator µs/req";

/// All runs of one placement and number of connections.
pub(crate) struct Placed {
    placement: Placement,
    connections: u32,
    pub(crate) runs: Vec<Run>,
}

/// One run as a line of the table.
pub(crate) fn row(label: &str, run: &Run) -> String {
    row_of(label, &|path| figure(run, path))
}

fn row_of(label: &str, figure: &dyn Fn(&str) -> f64) -> String {
    format!(
        "{label:<12} {:>8.0} {:>8.2} {:>8.2} {:>9.2} {:>14.1} {:>6.2} {:>8.0} {:>17.1}",
        figure("/rate_per_second"),
        figure("/latency_us/p50") / 1e3,
        figure("/latency_us/p99") / 1e3,
        figure("/latency_us/p999") / 1e3,
        figure("/server/cpu_us_per_request"),
        figure("/server/cores_busy"),
        figure("/server/resident_bytes") / f64::from(1 << 20),
        figure("/generator_cpu_us"),
    )
}

/// A figure of the generator's JSON; not a number where it has none.
fn figure(run: &Run, path: &str) -> f64 {
    run.bench
        .pointer(path)
        .and_then(Value::as_f64)
        .unwrap_or(f64::NAN)
}

impl Placed {
    pub(crate) fn new(placement: &Placement, connections: u32) -> Self {
        Self {
            placement: placement.clone(),
            connections,
            runs: Vec::new(),
        }
    }

    /// Where everything ran.
    pub(crate) fn title(&self) -> String {
        let Placement { server, generator } = &self.placement;
        let connections = self.connections;
        if self.placement.is_apart() {
            format!("server on cores {server}, generator on {generator}, {connections} connections")
        } else {
            format!("server and generator on cores {server}, {connections} connections")
        }
    }

    fn median(&self, subject: Subject, path: &str) -> f64 {
        let mut figures: Vec<f64> = self
            .runs
            .iter()
            .filter(|run| run.subject == subject && !run.open)
            .map(|run| figure(run, path))
            .collect();
        figures.sort_unstable_by(f64::total_cmp);
        match figures.len() {
            0 => f64::NAN,
            runs if runs % 2 == 0 => f64::midpoint(figures[runs / 2 - 1], figures[runs / 2]),
            runs => figures[runs / 2],
        }
    }

    fn ratio(&self) -> f64 {
        let rate = |subject| self.median(subject, "/rate_per_second");
        rate(Subject::Tally) / rate(Subject::Bare)
    }

    /// The medians, the share of bare actix, and the syncs.
    pub(crate) fn summary(&self) -> String {
        let median = |subject: Subject| {
            let label = format!("median {}", subject.name());
            row_of(&label, &|path| self.median(subject, path))
        };
        format!(
            "{}\n{}\ntally reaches {:.0} % of the bare handler's rate{}",
            median(Subject::Bare),
            median(Subject::Tally),
            100.0 * self.ratio(),
            self.syncs().unwrap_or_default(),
        )
    }

    /// What the newest closed run of the service says of its log's syncs.
    fn syncs(&self) -> Option<String> {
        let run = self
            .runs
            .iter()
            .rev()
            .find(|run| !run.open && run.log.is_some())?;
        let log = run.log.as_ref()?.as_object()?;
        let ending = |end: &str| {
            let found = log
                .iter()
                .find(|(name, _)| name.contains("sync") && name.ends_with(end));
            found.and_then(|(_, value)| value.as_f64())
        };
        let (seconds, syncs) = (ending("_sum")?, ending("_count")?);
        let acknowledged = run.bench.pointer("/acknowledged")?.as_f64()?;
        Some(format!(
            "; its log synced {syncs:.0} times, {:.0} µs each, {:.0} events a sync",
            seconds * 1e6 / syncs,
            acknowledged / syncs
        ))
    }

    /// Everything, with every run as the generator printed it.
    pub(crate) fn to_json(&self) -> Value {
        let runs: Vec<Value> = self
            .runs
            .iter()
            .map(|run| {
                json!({"subject": run.subject.name(), "open_loop": run.open,
                       "bench": run.bench, "log_metrics": run.log})
            })
            .collect();
        json!({
            "server_cores": self.placement.server, "generator_cores": self.placement.generator,
            "connections": self.connections,
            "median_rate_bare": self.median(Subject::Bare, "/rate_per_second"),
            "median_rate_tally": self.median(Subject::Tally, "/rate_per_second"),
            "tally_of_bare": self.ratio(),
            "median_cpu_us_tally": self.median(Subject::Tally, "/server/cpu_us_per_request"),
            "runs": runs,
        })
    }
}
