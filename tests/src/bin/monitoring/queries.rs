//! Each query of each dashboard and each rule on a server under load: its value, or why it has none.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tally_tests::deploy::{self, Query};
use tally_tests::wait;

use crate::prometheus::{Pace, Prometheus, Rule, Sample};
use crate::show::Show;

/// How long load is scraped before anything is asked.
const LOAD: Duration = Duration::from_secs(20);

/// Series that are not there until what they count has happened, by what is in their selector, and
/// why their absence says that all is well.
const ABSENT: &[(&str, &str)] = &[
    ("ALERTS{", "no alert fires"),
    ("status=~\"5..\"", "no request has failed"),
    ("tally_log_errors_total", "nothing went wrong in a log"),
    ("tally_projector_rebuilds_total", "no state was set aside"),
    (
        "tally_kafka_request_failures_total",
        "no request to a broker has failed",
    ),
    ("tally_kafka_commits_total", "no commit was due yet"),
    (
        "tally_kafka_producers_renewed_total",
        "no producer was replaced",
    ),
];

/// What only a server on Kafka has.
const OF_KAFKA: [&str; 2] = ["tally_kafka_", "tally_certificate_"];

/// Why a whole query may be empty although all its series are there: what it compares does not hold.
const NOTHING_TO_SAY: &str = "all series are there; the condition does not hold";
const NOT_OBSERVED: &str = "all series are there; nothing was observed in the window";

/// What came of one query.
struct Row {
    place: String,
    found: Result<String, String>,
}

/// Prints the table; whether everything had a value or a good reason.
pub(crate) fn run(with_kafka: bool) -> bool {
    let show = Show::start(with_kafka);
    let pace = Pace {
        factor: 1,
        interval: Duration::from_millis(500),
    };
    let prometheus = Prometheus::start(&show.targets(), pace);
    show.be_busy(LOAD);
    let known = known_series(&prometheus, &show);
    let mut rows = Vec::new();
    for dashboard in deploy::dashboards() {
        for (name, query) in dashboard.variables() {
            if name != "datasource" {
                rows.push(variable(&prometheus, &dashboard.name, &name, &query));
            }
        }
        for query in dashboard.queries() {
            rows.push(panel(&prometheus, &known, &query, with_kafka));
        }
    }
    let rules = prometheus.rules().expect("Prometheus has rules");
    rows.extend(
        rules
            .iter()
            .map(|one| rule(&prometheus, &known, one, with_kafka)),
    );
    println!("| query | value, or why there is none |\n|---|---|");
    for row in &rows {
        let found = match &row.found {
            Ok(found) => found.clone(),
            Err(why) => format!("**WRONG**: {why}"),
        };
        println!("| {} | {} |", row.place, found.replace('|', "/"));
    }
    let wrong = rows.iter().filter(|row| row.found.is_err()).count();
    println!(
        "{} queries and rules, {wrong} wrong; {} series in a scrape{}",
        rows.len(),
        show.series(),
        if with_kafka { "" } else { "; without Kafka" }
    );
    show.end();
    wrong == 0
}

/// Names that a query may have: what the servers give out, what Prometheus adds, what rules make.
fn known_series(prometheus: &Prometheus, show: &Show) -> BTreeSet<String> {
    let mut known = show.names();
    known.extend(["up", "scrape_duration_seconds", "ALERTS"].map(str::to_owned));
    let rules = prometheus.rules().expect("Prometheus has rules");
    let recorded = rules.into_iter().filter(|rule| !rule.is_alert);
    known.extend(recorded.map(|rule| rule.name));
    known
}

fn variable(prometheus: &Prometheus, dashboard: &str, name: &str, query: &str) -> Row {
    let found = prometheus.label_values(&filled(query));
    Row {
        place: format!("{dashboard}: ${name}"),
        found: match found {
            Ok(values) if values.is_empty() => Err("no values".to_owned()),
            Ok(values) => Ok(values.join(", ")),
            Err(error) => Err(error),
        },
    }
}

fn panel(prometheus: &Prometheus, known: &BTreeSet<String>, query: &Query, kafka: bool) -> Row {
    let expr = filled(&query.expr);
    Row {
        place: query.place.clone(),
        found: looked_at(prometheus, known, &expr, kafka),
    }
}

fn rule(prometheus: &Prometheus, known: &BTreeSet<String>, rule: &Rule, kafka: bool) -> Row {
    let kind = if rule.is_alert { "alert" } else { "rule" };
    let found = match rule.health.as_str() {
        "ok" => looked_at(prometheus, known, &rule.query, kafka),
        health => Err(format!("{health}: {}", rule.error)),
    };
    Row {
        place: format!("{kind} {}", rule.name),
        found,
    }
}

/// With what Grafana puts in place of its variables.
fn filled(expr: &str) -> String {
    expr.replace("$__rate_interval", "1m")
        .replace("$__range", "1h")
        .replace("$job", ".*")
        .replace("$instance", ".*")
        .replace("$type", ".*")
}

fn looked_at(
    prometheus: &Prometheus,
    known: &BTreeSet<String>,
    expr: &str,
    kafka: bool,
) -> Result<String, String> {
    let selectors = deploy::selectors(expr);
    for selector in &selectors {
        let name = selector.split('{').next().unwrap_or_default();
        if !known.contains(name) && reason(selector, kafka).is_none() {
            return Err(format!("no metric {name}"));
        }
    }
    let samples = prometheus.query(expr)?;
    let numbers: Vec<&Sample> = samples.iter().filter(|one| !one.value.is_nan()).collect();
    if let Some(first) = numbers.first() {
        let more = match numbers.len() {
            1 => String::new(),
            more => format!(" and {} more", more - 1),
        };
        return Ok(format!("{first}{more}"));
    }
    let mut reasons = BTreeSet::new();
    for selector in &selectors {
        if prometheus.query(selector)?.is_empty() {
            let why = reason(selector, kafka).ok_or(format!("no series {selector}"))?;
            reasons.insert(why);
        }
    }
    if let Some(why) = reasons.first() {
        return Ok(format!("none: {why}"));
    }
    let compares = [" > ", " < ", " == ", "unless"]
        .iter()
        .any(|word| expr.contains(word));
    match (samples.is_empty(), compares) {
        (false, _) => Ok(format!("none: {NOT_OBSERVED}")),
        (true, true) => Ok(format!("none: {NOTHING_TO_SAY}")),
        (true, false) => Err("empty although its series are there".to_owned()),
    }
}

fn reason(selector: &str, kafka: bool) -> Option<&'static str> {
    if OF_KAFKA.iter().any(|begin| selector.starts_with(begin)) && !kafka {
        return Some("no Kafka in this run");
    }
    let found = ABSENT.iter().find(|(part, _)| selector.contains(part));
    found.map(|(_, why)| *why)
}

/// The management listeners of servers, as Prometheus is told.
pub(crate) fn addresses(servers: &[&tally_tests::Server]) -> Vec<SocketAddr> {
    servers.iter().map(|server| server.management()).collect()
}

/// Calls `work` again and again for so long.
pub(crate) fn keep_on(limit: Duration, mut work: impl FnMut()) {
    let done: Option<()> = wait::within(limit, || {
        work();
        None
    });
    assert!(done.is_none(), "it never answers");
}
