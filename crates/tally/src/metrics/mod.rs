//! Every metric that a server has: the tables of all crates, joined, and the binary's own.
//!
//! - [`document`]: what they say, as `docs/metrics.md` and as lines of JSON

pub(crate) mod document;

use tally_log::metric::{Label, Metric, Unit, Values, When};

/// Certificates that the settings may name.
pub(crate) const KAFKA_CLIENT: &str = "kafka_client";
pub(crate) const KAFKA_CA: &str = "kafka_ca";

const VERSION: Label = Label {
    name: "version",
    values: Values::One,
};
const CERTIFICATE: Label = Label::words("certificate", || vec![KAFKA_CLIENT, KAFKA_CA]);

tally_log::metrics! {
    /// The binary's own metrics.
    pub(crate) OWN:
    BUILD_INFO = Metric::gauge(
        "tally_build_info", Unit::Flag,
        "Always 1; the labels say what runs.",
    ).by(&[VERSION]);
    DATA_DIR_AVAILABLE = Metric::gauge(
        "tally_data_dir_available_bytes", Unit::Bytes,
        "What the file system of data_dir has left for this process. Looked at every 2 s.",
    );
    DATA_DIR_SIZE = Metric::gauge(
        "tally_data_dir_size_bytes", Unit::Bytes,
        "Size of the file system of data_dir. Looked at every 2 s.",
    );
    CERTIFICATE_EXPIRY = Metric::gauge(
        "tally_certificate_expiry_timestamp_seconds", Unit::Timestamp,
        "Until when a certificate is valid that the settings name: kafka_client, the first in ssl.certificate.location or ssl.certificate.pem; kafka_ca, the one in ssl.ca.location or ssl.ca.pem that ends first. Files are read once a minute, here; a client uses what it read at the start.",
    ).by(&[CERTIFICATE]).only(When::Certificates);
}

/// What the `prometheus` crate says of the process; it declares them by itself.
const PROCESS: &[Metric] = &[
    Metric::counter(
        "process_cpu_seconds_total",
        Unit::Seconds,
        "Total user and system CPU time spent in seconds.",
    ),
    Metric::gauge(
        "process_open_fds",
        Unit::Number("files"),
        "Number of open file descriptors.",
    ),
    Metric::gauge(
        "process_max_fds",
        Unit::Number("files"),
        "Maximum number of open file descriptors.",
    ),
    Metric::gauge(
        "process_virtual_memory_bytes",
        Unit::Bytes,
        "Virtual memory size in bytes.",
    ),
    Metric::gauge(
        "process_resident_memory_bytes",
        Unit::Bytes,
        "Resident memory size in bytes.",
    ),
    Metric::gauge(
        "process_start_time_seconds",
        Unit::Seconds,
        "Start time of the process since unix epoch in seconds.",
    ),
    Metric::gauge(
        "process_threads",
        Unit::Number("threads"),
        "Number of OS threads in the process.",
    ),
];

/// A part of the catalogue, with what it is about.
pub(crate) struct Part {
    pub(crate) about: &'static str,
    pub(crate) metrics: &'static [Metric],
}

/// Everything, in the order of the documentation.
pub(crate) const PARTS: &[Part] = &[
    Part {
        about: "HTTP, catalogue, rebuild, tokens",
        metrics: tally_ingress::METRICS,
    },
    Part {
        about: "Fold and state",
        metrics: tally_projector::METRICS,
    },
    Part {
        about: "Log",
        metrics: tally_log::METRICS,
    },
    Part {
        about: "Kafka's clients",
        metrics: tally_log::kafka::METRICS,
    },
    Part {
        about: "Build, disk, certificates",
        metrics: OWN,
    },
    Part {
        about: "Process (Linux)",
        metrics: PROCESS,
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tally_log::metric::Kind;

    use super::*;

    fn all() -> impl Iterator<Item = &'static Metric> {
        PARTS.iter().flat_map(|part| part.metrics)
    }

    /// Protects dashboards: a name means one thing, and says its unit as Prometheus wants it.
    #[test]
    fn names_are_unique_and_say_their_units() {
        let mut names = BTreeSet::new();
        for metric in all() {
            let name = metric.name;
            assert!(names.insert(name), "{name} is there twice");
            assert!(
                name.starts_with("tally_") || name.starts_with("process_"),
                "{name}"
            );
            let total = name.ends_with("_total");
            assert_eq!(total, metric.kind == Kind::Counter, "{name}");
            let bare = name.trim_end_matches("_total");
            assert!(
                bare.ends_with(metric.unit.suffix()),
                "{name} is in {:?}",
                metric.unit
            );
            assert!(metric.help.ends_with('.'), "{name}: {}", metric.help);
        }
    }

    /// Protects Prometheus from a label without a bound, and percentiles from buckets in disorder.
    #[test]
    fn labels_and_buckets_are_sound() {
        for metric in all() {
            for label in metric.labels {
                if let Values::Words(words) = label.values {
                    let words = words();
                    let different: BTreeSet<_> = words.iter().collect();
                    assert!(
                        !words.is_empty() && different.len() == words.len(),
                        "{}",
                        metric.name
                    );
                }
            }
            if let Kind::Histogram(buckets) = metric.kind {
                assert!(buckets.is_sorted_by(|a, b| a < b), "{}", metric.name);
            }
        }
    }

    /// Protects the promise of freshness: whether it is kept is read off one bucket.
    #[test]
    fn one_second_is_a_bucket_of_what_is_visible() {
        let name = "tally_projector_event_to_visible_seconds";
        let metric = all().find(|metric| metric.name == name).unwrap();
        assert!(matches!(metric.kind, Kind::Histogram(buckets) if buckets.contains(&1.)));
    }
}
