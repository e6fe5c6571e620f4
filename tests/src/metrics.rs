//! What a scrape says.

use std::collections::{BTreeMap, BTreeSet};

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
            let Some((_, inside)) = series.split_once('{') else {
                continue;
            };
            for label in inside.trim_end_matches('}').split("\",") {
                let (name, value) = label.split_once("=\"").expect("a label");
                let value = value.trim_end_matches('"').to_owned();
                labels.entry(name.to_owned()).or_default().insert(value);
            }
        }
        labels
    }
}
