//! What is shipped for Prometheus and Grafana, as far as it can be held without either: what each
//! panel and each alert must have. That queries give values, and that alerts fire, the program
//! `monitoring` shows.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use tally_tests::binary::workspace;
use tally_tests::deploy::{self, Dashboard, selectors};

fn nothing_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn steps(panel: &Value) -> usize {
    let steps = &panel["fieldConfig"]["defaults"]["thresholds"]["steps"];
    steps.as_array().map_or(0, Vec::len)
}

/// Protects who looks at a panel and must know what it shows, in what, and when it is bad.
#[test]
fn every_panel_has_a_unit_a_description_and_a_place_of_its_own() {
    let mut wrong = Vec::new();
    for dashboard in deploy::dashboards() {
        let mut ids = BTreeSet::new();
        let mut cells = BTreeSet::new();
        for panel in dashboard.panels() {
            let place = format!("{}: {}", dashboard.name, text(panel, "title"));
            let defaults = &panel["fieldConfig"]["defaults"];
            if text(panel, "title").is_empty() || !ids.insert(panel["id"].to_string()) {
                wrong.push(format!("{place}: no title, or its id is taken"));
            }
            if !text(panel, "description").ends_with('.') {
                wrong.push(format!("{place}: no description"));
            }
            if text(defaults, "unit").is_empty() || steps(panel) == 0 {
                wrong.push(format!("{place}: no unit, or no thresholds"));
            }
            if text(&panel["datasource"], "uid") != "${datasource}" {
                wrong.push(format!("{place}: another source than the variable's"));
            }
            let at = |name: &str| panel["gridPos"][name].as_u64().unwrap_or_default();
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    if x >= 24 || !cells.insert((x, y)) {
                        wrong.push(format!("{place}: lies over another, or outside"));
                    }
                }
            }
        }
        if dashboard.panels().iter().all(|panel| steps(panel) < 2) {
            wrong.push(format!("{}: no panel warns", dashboard.name));
        }
    }
    wrong.dedup();
    nothing_wrong(&wrong);
}

/// Protects who has two servers, or two Prometheuses: each query keeps to what was chosen above.
#[test]
fn every_query_keeps_to_the_variables() {
    let mut wrong = Vec::new();
    let mut uids = BTreeSet::new();
    for dashboard in deploy::dashboards() {
        let name = &dashboard.name;
        if !uids.insert(text(&dashboard.json, "uid").to_owned()) {
            wrong.push(format!("{name}: its uid is taken"));
        }
        let queries = dashboard.queries();
        let variables = names_of_variables(&dashboard);
        for needed in ["datasource", "job", "instance"] {
            if !variables.contains(needed) {
                wrong.push(format!("{name}: no variable {needed}"));
            }
        }
        for variable in variables.iter().filter(|one| *one != "datasource") {
            let used = format!("\"${variable}\"");
            if !queries.iter().any(|query| query.expr.contains(&used)) {
                wrong.push(format!("{name}: nothing uses ${variable}"));
            }
        }
        for query in &queries {
            let place = &query.place;
            let selectors = selectors(&query.expr);
            if selectors.is_empty() {
                wrong.push(format!("{place}: no metric in {}", query.expr));
            }
            for one in selectors.iter().filter(|one| !one.starts_with("ALERTS{")) {
                let recorded = one.starts_with("job:");
                if !one.contains("job=~\"$job\"")
                    || !recorded && !one.contains("instance=~\"$instance\"")
                {
                    wrong.push(format!("{place}: {one} is of all servers"));
                }
                if one.starts_with("tally_interactions_total") && !one.contains("$type") {
                    wrong.push(format!("{place}: {one} is of all types"));
                }
            }
        }
    }
    nothing_wrong(&wrong);
}

fn names_of_variables(dashboard: &Dashboard) -> BTreeSet<String> {
    let variables = dashboard.variables();
    variables.into_iter().map(|(name, _)| name).collect()
}

/// The alerts of the rules: name, and the text up to the next rule.
fn alerts() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (_, text) in deploy::rules() {
        for part in text.split("- alert: ").skip(1) {
            let end = part.find("\n      - ").unwrap_or(part.len());
            let (name, rest) = part[..end].split_once('\n').expect("a rule has lines");
            all.push((name.to_owned(), rest.to_owned()));
        }
    }
    assert!(!all.is_empty());
    all
}

/// Protects who is woken: each alert says how urgent it is, what is the matter, and where it stands
/// what to do; and each is tested to fire and not to fire.
#[test]
fn every_alert_has_a_severity_words_a_runbook_and_tests() {
    let runbooks = fs::read_to_string(workspace().join("docs/runbooks.md")).expect("the runbooks");
    let tests: String = deploy::rule_tests()
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    let mut wrong = Vec::new();
    for (name, rule) in alerts() {
        if !["severity: page", "severity: ticket"]
            .iter()
            .any(|one| rule.contains(one))
        {
            wrong.push(format!("{name}: no severity"));
        }
        for needed in ["summary: ", "description: "] {
            if !rule.contains(needed) {
                wrong.push(format!("{name}: no {needed}"));
            }
        }
        let url = format!("runbook_url: docs/runbooks.md#{}", name.to_lowercase());
        if !rule.contains(&url) || !runbooks.contains(&format!("\n## {name}\n")) {
            wrong.push(format!("{name}: no {url}, or no such section"));
        }
        let query = format!("alertname=\"{name}\", alertstate=\"firing\"");
        let checks: Vec<&str> = tests
            .split("- expr: ")
            .filter(|part| part.contains(&query))
            .collect();
        let quiet = checks
            .iter()
            .filter(|check| check.contains("exp_samples: []"))
            .count();
        if quiet == 0 || quiet == checks.len() {
            wrong.push(format!("{name}: not tested to fire and not to fire"));
        }
    }
    let sections = runbooks.lines().filter_map(|line| line.strip_prefix("## "));
    let known: Vec<String> = alerts().into_iter().map(|(name, _)| name).collect();
    for section in sections {
        if !known.iter().any(|name| name == section) {
            wrong.push(format!("docs/runbooks.md: {section} is no alert"));
        }
    }
    nothing_wrong(&wrong);
}

/// Protects Prometheus's time: what is recorded is used by an alert or a panel.
#[test]
fn what_is_recorded_is_used() {
    let rules: String = deploy::rules().into_iter().map(|(_, text)| text).collect();
    let mut used: Vec<String> = alerts().into_iter().map(|(_, rule)| rule).collect();
    let dashboards = deploy::dashboards();
    let queries = dashboards.iter().flat_map(Dashboard::queries);
    used.extend(queries.map(|query| query.expr));
    let records: Vec<&str> = rules.split("- record: ").skip(1).collect();
    used.extend(
        records
            .iter()
            .map(|rule| rule.split_once('\n').expect("lines").1.to_owned()),
    );
    let used = used.join("\n");
    let mut wrong = Vec::new();
    for record in records {
        let name = record.lines().next().unwrap_or_default();
        if !used.contains(name) {
            wrong.push(format!("{name} is recorded and not used"));
        }
    }
    nothing_wrong(&wrong);
}

/// Protects the hours of who edits a dashboard in vain: the files are JSON as it is shipped, with a
/// line for each part of a panel.
#[test]
fn dashboards_stay_readable() {
    for entry in fs::read_dir(deploy::folder().join("grafana/dashboards")).expect("a folder") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a text");
        let longest = text.lines().map(str::len).max().unwrap_or_default();
        assert!(longest < 700, "{}: a line of {longest}", path.display());
    }
}
