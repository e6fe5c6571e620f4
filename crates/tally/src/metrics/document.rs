//! The catalogue of metrics for people and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};
use tally_log::metric::{Extent, Kind, Metric, Values, When};

use super::{PARTS, Part};

/// What the documentation counts with: the default number of partitions, and three brokers.
const DEFAULT: Extent = Extent {
    partitions: 16,
    brokers: 4,
};

const HEAD: &str = "\
# Metrics

Every metric at the management listener's `/metrics`, in Prometheus's text format. This page is what
`tally metrics` prints, and is made from the entries that the metrics are declared from
(`UPDATE_DOCS=1 cargo test -p tally-tests --test metrics` writes it anew); `tally metrics --json` is the
same for programs.

A scrape waits 25 ms at most for the log to say where its head is, and never for a disk; what is there then
is what was known last, and `tally_log_head_timestamp_seconds` says since when. A counter begins at 0 with
the process.
";

/// Everything as Markdown.
pub(crate) fn markdown() -> String {
    let mut text = HEAD.to_owned();
    bound(&mut text);
    for part in PARTS {
        section(&mut text, part);
    }
    text
}

/// How many series there are at most, by what decides that.
fn bound(text: &mut String) {
    let series = |extent, kafka: bool| -> usize {
        let metrics = PARTS.iter().flat_map(|part| part.metrics);
        let counted = metrics.filter(|metric| kafka || metric.when != When::Kafka);
        counted.map(|metric| metric.series(extent)).sum()
    };
    let extent = |partitions, brokers| Extent {
        partitions,
        brokers,
    };
    let base = series(extent(0, 0), false);
    let partition = series(extent(1, 0), false) - base;
    let kafka = series(extent(0, 0), true) - base;
    let broker = series(extent(0, 1), true) - base - kafka;
    let (embedded, cluster) = (series(DEFAULT, false), series(DEFAULT, true));
    let _ = write!(
        text,
        "
## How many series

No label is anything that a client sent: each is one of the words below, a partition, or a broker. So
there are never more series than **{base}, and {partition} for each partition** of the log; on Kafka
{kafka} more, and {broker} for each broker and for the servers asked first. With 16 partitions that is
**{embedded}**, and on Kafka with three brokers **{cluster}**. Most servers have fewer: a series of
`tally_http_requests_total` comes with the first such request. A test sends the server what an attacker
would and counts.
"
    );
}

fn section(text: &mut String, part: &Part) {
    let _ = write!(text, "\n## {}\n", part.about);
    for metric in part.metrics {
        entry(text, metric);
    }
}

fn entry(text: &mut String, metric: &Metric) {
    let Metric {
        name, unit, help, ..
    } = metric;
    let kind = metric.kind.as_str();
    let _ = write!(
        text,
        "\n### `{name}`\n\n{help}\n\n- {kind}, {}",
        unit.as_str()
    );
    match metric.when {
        When::Always => {}
        when @ (When::Kafka | When::Tokens | When::Certificates) => {
            let _ = write!(text, "; {}", when.as_str());
        }
    }
    text.push('\n');
    for label in metric.labels {
        let values = match label.values {
            Values::Words(words) => words().join(", "),
            Values::Partitions => "a partition's number".to_owned(),
            Values::Brokers => "a broker's number; -1 for the servers asked first".to_owned(),
            Values::One => "one".to_owned(),
        };
        let _ = writeln!(text, "- `{}`: {values}", label.name);
    }
    if let Kind::Histogram(buckets) = metric.kind {
        let bounds: Vec<String> = buckets.iter().map(f64::to_string).collect();
        let _ = writeln!(text, "- buckets up to {}", bounds.join(", "));
    }
    let series = metric.series(DEFAULT);
    if series > 1 {
        let _ = writeln!(
            text,
            "- at most {series} series with 16 partitions and 3 brokers"
        );
    }
}

/// One metric as JSON; `partitions` are those of the settings.
pub(crate) fn json(metric: &Metric, partitions: usize) -> Value {
    let labels = metric.labels.iter().map(|label| {
        let values = match label.values {
            Values::Words(words) => json!(words()),
            Values::Partitions => json!("partitions"),
            Values::Brokers => json!("brokers"),
            Values::One => json!("one"),
        };
        json!({"name": label.name, "values": values})
    });
    let buckets = match metric.kind {
        Kind::Histogram(buckets) => json!(buckets),
        Kind::Counter | Kind::Gauge => Value::Null,
    };
    let when = match metric.when {
        When::Always => "always",
        When::Kafka => "kafka",
        When::Tokens => "tokens",
        When::Certificates => "certificates",
    };
    let extent = Extent {
        partitions,
        ..DEFAULT
    };
    json!({
        "name": metric.name,
        "type": metric.kind.as_str(),
        "unit": metric.unit.as_str(),
        "help": metric.help,
        "labels": labels.collect::<Vec<_>>(),
        "buckets": buckets,
        "when": when,
        "most_series": metric.series(extent),
    })
}
