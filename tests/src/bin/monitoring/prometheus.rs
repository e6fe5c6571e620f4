//! A Prometheus of our own, with the configuration and the rules that are shipped.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tally_tests::deploy;
use tally_tests::{Request, wait};
use tempfile::TempDir;

/// The target that the shipped configuration names.
const SHIPPED_TARGET: &str = "\"tally:8081\"";

/// A running Prometheus. Dropped, it is killed, and its data goes.
pub(crate) struct Prometheus {
    child: Child,
    address: SocketAddr,
    dir: TempDir,
}

/// How the shipped files are changed for a run: nothing else is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// What the durations of the rules are divided by.
    pub(crate) factor: u64,
    /// How often is scraped and evaluated.
    pub(crate) interval: Duration,
}

/// One series of an answer.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// Its labels but `job` and `instance`.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// Whether an alert is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AlertState {
    Inactive,
    Pending,
    Firing,
}

/// A rule, as Prometheus has it.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) query: String,
    pub(crate) is_alert: bool,
    pub(crate) health: String,
    pub(crate) error: String,
    pub(crate) state: AlertState,
    /// What its annotations came to, for each alert that is there.
    pub(crate) descriptions: Vec<String>,
}

impl Prometheus {
    /// Starts one that scrapes these management listeners, and waits until it answers.
    pub(crate) fn start(targets: &[SocketAddr], pace: Pace) -> Self {
        let dir = TempDir::with_prefix("tally-prometheus-").expect("a temporary folder");
        fs::create_dir(dir.path().join("rules")).expect("a folder");
        for (name, text) in deploy::rules() {
            let path = dir.path().join("rules").join(name + ".yml");
            fs::write(path, deploy::shortened(&text, pace.factor)).expect("a file");
        }
        let shipped = deploy::folder().join("prometheus/prometheus.yml");
        let shipped = fs::read_to_string(shipped).expect("the shipped configuration");
        let config = dir.path().join("prometheus.yml");
        fs::write(&config, configured(&shipped, targets, pace)).expect("a file");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let said = File::create(dir.path().join("said")).expect("a file");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .expect("prometheus is there: apt-get install prometheus");
        let mut prometheus = Self {
            child,
            address,
            dir,
        };
        wait::until("Prometheus", || {
            let ended = prometheus.child.try_wait().expect("a child of ours");
            assert!(ended.is_none(), "Prometheus ended: {}", prometheus.said());
            let answer = Request::get("/-/ready").try_send(address).ok()?;
            (answer.status == 200).then_some(())
        });
        prometheus
    }

    /// All it has said.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join("said")).unwrap_or_default()
    }

    fn get(&self, target: &str) -> Result<Value, String> {
        let answer = Request::get(target).try_send(self.address);
        let answer = answer.map_err(|error| error.to_string())?.json();
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].clone()),
            _ => Err(answer["error"].to_string()),
        }
    }

    /// What a query gives now.
    pub(crate) fn query(&self, expr: &str) -> Result<Vec<Sample>, String> {
        let data = self.get(&format!("/api/v1/query?query={}", escaped(expr)))?;
        let one = |value: &Value| -> Option<f64> { value.get(1)?.as_str()?.parse().ok() };
        if data["resultType"] == "scalar" {
            let value = one(&data["result"]).ok_or("no number")?;
            return Ok(vec![Sample {
                labels: BTreeMap::new(),
                value,
            }]);
        }
        let all: &[Value] = data["result"].as_array().map_or(&[], Vec::as_slice);
        let sample = |series: &Value| {
            let labels = series["metric"].as_object()?.iter();
            let labels = labels
                .filter(|(name, _)| !["job", "instance", "__name__"].contains(&name.as_str()));
            let labels = labels.map(|(name, value)| {
                let value = value.as_str().unwrap_or_default();
                (name.clone(), value.to_owned())
            });
            Some(Sample {
                labels: labels.collect(),
                value: one(&series["value"])?,
            })
        };
        all.iter()
            .map(|series| sample(series).ok_or_else(|| format!("no sample: {series}")))
            .collect()
    }

    /// The values of a label, by a query of a dashboard's variable (`label_values(up, job)`).
    pub(crate) fn label_values(&self, query: &str) -> Result<Vec<String>, String> {
        let inside = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')'));
        let (series, label) = inside
            .and_then(|inside| inside.rsplit_once(", "))
            .ok_or("no label_values")?;
        let data = self.get(&format!(
            "/api/v1/label/{label}/values?match[]={}",
            escaped(series)
        ))?;
        let values = data.as_array().ok_or("no values")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(values.iter().map(text).collect())
    }

    /// All rules.
    pub(crate) fn rules(&self) -> Result<Vec<Rule>, String> {
        let data = self.get("/api/v1/rules")?;
        let groups = data["groups"].as_array().ok_or("no groups")?;
        let rules = groups.iter().flat_map(|group| {
            let rules: &[Value] = group["rules"].as_array().map_or(&[], Vec::as_slice);
            rules
        });
        Ok(rules.map(rule).collect())
    }

    /// How an alert stands.
    pub(crate) fn alert(&self, name: &str) -> Option<Rule> {
        let rules = self.rules().ok()?;
        rules.into_iter().find(|rule| rule.name == name)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Already ended is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- Prometheus said:\n{}", self.said());
        }
    }
}

fn rule(value: &Value) -> Rule {
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let alerts: &[Value] = value["alerts"].as_array().map_or(&[], Vec::as_slice);
    let description = |alert: &Value| {
        let said = alert["annotations"]["description"].as_str();
        said.unwrap_or_default().to_owned()
    };
    Rule {
        name: text("name"),
        query: text("query"),
        is_alert: value["type"] == "alerting",
        health: text("health"),
        error: text("lastError"),
        state: match value["state"].as_str() {
            Some("firing") => AlertState::Firing,
            Some("pending") => AlertState::Pending,
            _ => AlertState::Inactive,
        },
        descriptions: alerts.iter().map(description).collect(),
    }
}

/// The shipped configuration with these targets and this interval.
fn configured(shipped: &str, targets: &[SocketAddr], pace: Pace) -> String {
    assert!(
        shipped.contains(SHIPPED_TARGET),
        "no target {SHIPPED_TARGET}"
    );
    let targets: Vec<String> = targets.iter().map(|one| format!("\"{one}\"")).collect();
    let interval = format!("{}ms", pace.interval.as_millis());
    let line = |line: &str| {
        let timing = [
            "scrape_interval:",
            "scrape_timeout:",
            "evaluation_interval:",
        ];
        let at = timing
            .iter()
            .find_map(|name| Some(line.find(name)? + name.len()));
        match at.filter(|_| !line.trim_start().starts_with('#')) {
            Some(at) => format!("{} {interval}\n", &line[..at]),
            None => format!("{}\n", line.replace(SHIPPED_TARGET, &targets.join(", "))),
        }
    };
    shipped.lines().map(line).collect()
}

/// As it stands in a URL's query.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'~' => {
                out.push(char::from(byte))
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value;
        match value {
            _ if value == value.trunc() && value.abs() < 1e15 => write!(f, "{value:.0}")?,
            _ => write!(f, "{value:.4}")?,
        }
        if !self.labels.is_empty() {
            let labels: Vec<&str> = self.labels.values().map(String::as_str).collect();
            write!(f, " ({})", labels.join(" "))?;
        }
        Ok(())
    }
}
