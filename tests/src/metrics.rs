//! What a scrape says.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::Folder;

/// A scrape in Prometheus's text format.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Each series as written (`name{label="value"}`), with its value.
    pub series: BTreeMap<String, f64>,
    /// Each family's type: `counter`, `gauge` or `histogram`.
    pub types: BTreeMap<String, String>,
    /// Each family's help text.
    pub help: BTreeMap<String, String>,
}

impl Metrics {
    /// Reads a scrape.
    ///
    /// # Panics
    /// When a line is not in the format.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a type");
                metrics.types.insert(name.to_owned(), kind.to_owned());
            } else if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
                metrics.help.insert(name.to_owned(), help.to_owned());
            } else {
                let (series, value) = line.rsplit_once(' ').expect("a series and a value");
                let value = value.parse().expect("a number");
                metrics.series.insert(series.to_owned(), value);
            }
        }
        metrics
    }

    /// The sum over all series of a family whose text holds each of `labels` (`code="200"`).
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let of_family = |series: &&String| {
            let family = series.split('{').next() == Some(name);
            family && labels.iter().all(|label| series.contains(label))
        };
        let matching = self.series.iter().filter(|(series, _)| of_family(series));
        matching.map(|(_, value)| value).sum()
    }

    /// The names of all labels, with all values each has.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for series in self.series.keys() {
            for (name, value) in labels_of(series) {
                labels.entry(name).or_default().insert(value);
            }
        }
        labels
    }
}

/// The labels of a series and their values.
fn labels_of(series: &str) -> Vec<(String, String)> {
    let Some((_, inside)) = series.split_once('{') else {
        return Vec::new();
    };
    let labels = inside.trim_end_matches('}').split("\",");
    let one = |label: &str| {
        let (name, value) = label.split_once("=\"").expect("a label");
        (name.to_owned(), value.trim_end_matches('"').to_owned())
    };
    labels.map(one).collect()
}

/// The catalogue of metrics, as `tally metrics --json` gives it.
#[derive(Debug)]
pub struct Catalogue(BTreeMap<String, Value>);

impl Catalogue {
    /// The binary's, with the folder's settings.
    ///
    /// # Panics
    /// When the command fails, or a name is there twice.
    #[must_use]
    pub fn of(folder: &Folder) -> Self {
        let mut all = BTreeMap::new();
        for entry in folder.run(&["metrics", "--json"]).json_lines() {
            let name = entry["name"].as_str().expect("a name").to_owned();
            assert!(all.insert(name.clone(), entry).is_none(), "{name} twice");
        }
        Self(all)
    }

    fn when(entry: &Value, whens: &[&str]) -> bool {
        entry["when"]
            .as_str()
            .is_some_and(|when| whens.contains(&when))
    }

    /// How many series there are at most of the metrics that such servers have.
    #[must_use]
    pub fn most_series(&self, whens: &[&str]) -> usize {
        let entries = self.0.values().filter(|entry| Self::when(entry, whens));
        let series = entries.map(|entry| entry["most_series"].as_u64().expect("a number"));
        series.sum::<u64>().try_into().expect("a small number")
    }

    /// Holds a scrape to it: what is there is described, with its type, help, labels and their values; and
    /// what such servers have is there.
    ///
    /// # Panics
    /// When it is not so.
    pub fn check(&self, metrics: &Metrics, whens: &[&str]) {
        for (name, kind) in &metrics.types {
            let entry = self.0.get(name);
            let entry = entry.unwrap_or_else(|| panic!("{name} is not in the catalogue"));
            assert_eq!(entry["type"], kind.as_str(), "{name}");
            assert_eq!(entry["help"], metrics.help[name].as_str(), "{name}");
            assert!(
                Self::when(entry, whens),
                "{name} is there although {}",
                entry["when"]
            );
        }
        for series in metrics.series.keys() {
            self.check_series(metrics, series);
        }
        let expected = self.0.iter().filter(|(_, entry)| Self::when(entry, whens));
        let missing: Vec<_> = expected
            .map(|(name, _)| name)
            .filter(|name| !metrics.types.contains_key(*name))
            .collect();
        assert!(
            missing.is_empty(),
            "in the catalogue, and never exported: {missing:?}"
        );
    }

    fn check_series(&self, metrics: &Metrics, series: &str) {
        let name = series.split('{').next().expect("a name");
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|end| name.strip_suffix(end))
            .find(|family| {
                metrics
                    .types
                    .get(*family)
                    .is_some_and(|kind| kind == "histogram")
            });
        let entry = &self.0[family.unwrap_or(name)];
        let mut found = labels_of(series);
        found.retain(|(label, _)| label != "le");
        let known: Vec<&Value> = entry["labels"].as_array().expect("labels").iter().collect();
        assert_eq!(found.len(), known.len(), "labels of {series}");
        for (label, value) in found {
            let known = known.iter().find(|known| known["name"] == label.as_str());
            let known = known.unwrap_or_else(|| panic!("{series} has a label {label}"));
            let fits = match &known["values"] {
                Value::Array(words) => words.iter().any(|word| *word == value.as_str()),
                Value::String(what) if what == "partitions" || what == "brokers" => {
                    value.parse::<i32>().is_ok()
                }
                _ => true,
            };
            assert!(fits, "{series}: {value} is no value of {label}");
        }
    }
}
