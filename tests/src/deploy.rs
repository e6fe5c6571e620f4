//! What is shipped for Prometheus and Grafana (`deploy/`), as tests read it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::binary::workspace;

/// A dashboard's file.
#[derive(Debug)]
pub struct Dashboard {
    /// Its name without `.json`.
    pub name: String,
    /// What is in it.
    pub json: Value,
}

/// One query of a panel.
#[derive(Debug, Clone)]
pub struct Query {
    /// Dashboard, panel, and what the query is called there.
    pub place: String,
    /// PromQL, with Grafana's variables in it.
    pub expr: String,
}

/// How names of metrics begin that we or Prometheus give.
const METRICS: [&str; 8] = [
    "ALERTS",
    "instance:",
    "job:",
    "process_",
    "scrape_",
    "tally:",
    "tally_",
    "up",
];

/// The folder `deploy/`.
#[must_use]
pub fn folder() -> PathBuf {
    workspace().join("deploy")
}

/// All dashboards, by name.
///
/// # Panics
/// When a file is no JSON.
#[must_use]
pub fn dashboards() -> Vec<Dashboard> {
    let mut all: Vec<Dashboard> = texts(&folder().join("grafana/dashboards"), "json")
        .into_iter()
        .map(|(name, text)| Dashboard {
            json: serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}")),
            name,
        })
        .collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

/// The files of rules, by name without `.yml`.
#[must_use]
pub fn rules() -> Vec<(String, String)> {
    texts(&folder().join("prometheus/rules"), "yml")
}

/// The tests of the rules, likewise.
#[must_use]
pub fn rule_tests() -> Vec<(String, String)> {
    texts(&folder().join("prometheus/tests"), "yml")
}

fn texts(dir: &Path, extension: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut texts: Vec<(String, String)> = paths
        .filter(|path| path.extension().is_some_and(|end| end == extension))
        .map(|path| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let text = fs::read_to_string(&path).expect("a text");
            (name.into_owned(), text)
        })
        .collect();
    assert!(!texts.is_empty(), "no .{extension} in {}", dir.display());
    texts.sort();
    texts
}

impl Dashboard {
    /// Its panels, without the headings of rows.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn panels(&self) -> Vec<&Value> {
        let panels = self.json["panels"].as_array().expect("panels");
        panels
            .iter()
            .filter(|panel| panel["type"] != "row")
            .collect()
    }

    /// The queries of its panels.
    #[must_use]
    pub fn queries(&self) -> Vec<Query> {
        let of_panel = |panel: &&Value| -> Vec<Query> {
            let title = panel["title"].as_str().unwrap_or_default();
            let targets: &[Value] = panel["targets"].as_array().map_or(&[], Vec::as_slice);
            let query = |target: &Value| {
                let legend = target["legendFormat"].as_str().unwrap_or_default();
                let legend = legend.replace("{{", "").replace("}}", "");
                Query {
                    place: format!("{}: {title} {legend}", self.name)
                        .trim_end()
                        .to_owned(),
                    expr: target["expr"].as_str().unwrap_or_default().to_owned(),
                }
            };
            targets.iter().map(query).collect()
        };
        self.panels().iter().flat_map(of_panel).collect()
    }

    /// Its variables, by name, with the query that gives their values.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        let all = self.json["templating"]["list"].as_array();
        let variable = |variable: &Value| {
            let name = variable["name"].as_str().unwrap_or_default().to_owned();
            let query = match &variable["query"] {
                Value::String(query) => query,
                query => query["query"].as_str().unwrap_or_default(),
            };
            (name, query.to_owned())
        };
        all.expect("variables").iter().map(variable).collect()
    }
}

/// The names of metrics that a query has, each with its labels as written (`up{job="tally"}`).
#[must_use]
pub fn selectors(expr: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = expr;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '"' || c == '{') {
        let at = &rest[start..];
        let end = match at.as_bytes()[0] {
            b'"' => quoted(at),
            b'{' => braced(at),
            _ => {
                let name = at.find(|c| !in_name(c)).unwrap_or(at.len());
                let labels = match at[name..].starts_with('{') {
                    true => braced(&at[name..]),
                    false => 0,
                };
                let known = |begin: &&&str| match **begin {
                    "up" | "ALERTS" => &at[..name] == **begin,
                    begin => at[..name].starts_with(begin),
                };
                if METRICS.iter().any(|begin| known(&begin)) {
                    found.push(at[..name + labels].to_owned());
                }
                name + labels
            }
        };
        rest = &at[end.max(1)..];
    }
    found
}

fn in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// The length of the string in quotes that this begins with.
fn quoted(text: &str) -> usize {
    text[1..].find('"').map_or(text.len(), |end| end + 2)
}

/// The length of what is in braces, that this begins with.
fn braced(text: &str) -> usize {
    let mut in_quotes = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => in_quotes = !in_quotes,
            '}' if !in_quotes => return at + 1,
            _ => (),
        }
    }
    text.len()
}

/// The same rules or settings with each duration (`for: 5m`, `[1h]`) divided by `factor`, for a
/// proof that can't wait for days. Nothing else is changed: no expression, no threshold, no name.
#[must_use]
pub fn shortened(text: &str, factor: u64) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let line_of_words = line.trim_start().starts_with('#');
        let mut rest = line;
        while let Some(start) = rest
            .find(|c: char| c.is_ascii_digit())
            .filter(|_| !line_of_words)
        {
            let before = rest[..start].chars().next_back();
            let digits = rest[start..]
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len() - start);
            let (number, after) = rest[start..].split_at(digits);
            let unit = after.find(|c| !in_name(c)).unwrap_or(after.len());
            out.push_str(&rest[..start]);
            let alone = before.is_none_or(|c| !in_name(c) && c != '.' && c != '"');
            match millis(number, &after[..unit]).filter(|_| alone) {
                Some(millis) => {
                    out.push_str(&format!("{}ms", (millis / factor).max(1)));
                    rest = &after[unit..];
                }
                None => {
                    out.push_str(number);
                    rest = after;
                }
            }
        }
        out.push_str(rest);
    }
    out
}

fn millis(number: &str, unit: &str) -> Option<u64> {
    let each = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(number.parse::<u64>().ok()? * each)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects the proof that queries name what exists: names in labels, strings and functions are none.
    #[test]
    fn selectors_are_the_names_with_their_labels() {
        let expr = r#"sum by (job) (rate(tally_a_total{x="{}", y=~"tally_no"}[5m])) / up > 1
            or label_replace(job:tally:b_5m, "tally_no", "up", "", "") or upper"#;
        let found = selectors(expr);
        assert_eq!(
            found,
            [
                r#"tally_a_total{x="{}", y=~"tally_no"}"#,
                "up",
                "job:tally:b_5m"
            ]
        );
    }

    /// Protects the proof of the alerts: what is tried differs from what is shipped by durations alone.
    #[test]
    fn only_durations_are_shortened() {
        let rule = "# after 5m\n- record: a:b_5m\n  expr: rate(c{le=\"1\", q=\"5m\"}[5m]) > 3 * 0.5 + 86400\n  for: 1h\n";
        let short = "# after 5m\n- record: a:b_5m\n  expr: rate(c{le=\"1\", q=\"5m\"}[5000ms]) > 3 * 0.5 + 86400\n  for: 60000ms\n";
        assert_eq!(shortened(rule, 60), short);
    }
}
