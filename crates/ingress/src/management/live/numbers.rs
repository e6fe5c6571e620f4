//! What the live page shows. All but the health reasons, the rebuild and the hottest resources is read by
//! name from the metrics that Prometheus gets, so that both say the same; what is not measured is left out.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus::proto::{Metric, MetricFamily, MetricType};
use serde::Serialize;
use tally_projector::HotResource;

use crate::management::readiness::Reason;
use crate::management::rebuild::RebuildProgress;

/// Over how long rates and quantiles are taken.
const WINDOW: Duration = Duration::from_secs(5);

/// What was counted up to a moment.
#[derive(Debug, Clone, Default)]
struct Counts {
    accepted: Option<f64>,
    refused: Option<f64>,
    errors: Option<f64>,
    by_type: Option<BTreeMap<String, f64>>,
    answers: Buckets,
    appends: Buckets,
    syncs: Buckets,
    visible: Buckets,
}

/// The moments of the window, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Window(VecDeque<(Instant, Counts)>);

/// All that is shown at a moment. Times are seconds, sizes bytes; what is `null` is not known.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    at_millis: u64,
    version: Option<String>,
    uptime_seconds: Option<f64>,
    status: &'static str,
    reasons: Vec<Reason>,
    /// Whether answers come from a state of another fold.
    stale: bool,
    per_second: Rates,
    answers: Quantiles,
    visible: Quantiles,
    waiting: Option<f64>,
    partitions: Vec<PartitionLag>,
    hot: Vec<HotShown>,
    resources: Option<f64>,
    rebuild: Option<RebuildProgress>,
    dead_letters: DeadLetters,
    log: LogShown,
    memory: Memory,
}

#[derive(Debug, Serialize)]
struct Rates {
    accepted: Option<f64>,
    refused: Option<f64>,
    errors: Option<f64>,
    by_type: Option<BTreeMap<String, f64>>,
}

#[derive(Debug, Serialize)]
struct Quantiles {
    p50: Option<f64>,
    p99: Option<f64>,
}

#[derive(Debug, Serialize)]
struct PartitionLag {
    partition: u32,
    records: f64,
    seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct HotShown {
    resource_type: &'static str,
    resource_id: u64,
    per_second: f64,
}

#[derive(Debug, Serialize)]
struct DeadLetters {
    kept: Option<f64>,
    oldest_timestamp_seconds: Option<f64>,
    to_export: Option<f64>,
}

#[derive(Debug, Serialize)]
struct LogShown {
    bytes: Option<f64>,
    errors: Option<f64>,
    append: Quantiles,
    sync: Quantiles,
}

#[derive(Debug, Serialize)]
struct Memory {
    process: Option<f64>,
    values: Option<f64>,
    store: Option<f64>,
    disk_available: Option<f64>,
    disk_size: Option<f64>,
}

impl Window {
    /// What is to be shown now, of the metrics as they are now.
    pub(super) fn show(
        &mut self,
        families: &[MetricFamily],
        reasons: Vec<Reason>,
        rebuild: Option<RebuildProgress>,
        hot: Vec<HotResource>,
    ) -> Shown {
        let all = All::of(families);
        let now = Instant::now();
        let counts = all.counts();
        while self.0.len() > 1
            && (self.0.get(1)).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW)
        {
            self.0.pop_front();
        }
        let since = self.0.front().map(|(at, before)| {
            let seconds = now.saturating_duration_since(*at).as_secs_f64();
            (seconds.max(0.001), before.clone())
        });
        let change = Change::of(since, &counts);
        self.0.push_back((now, counts));
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix = unix.unwrap_or_default();
        let started = all.gauge("process_start_time_seconds");
        Shown {
            at_millis: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
            version: all.label("tally_build_info", "version"),
            uptime_seconds: started.map(|started| (unix.as_secs_f64() - started).max(0.0)),
            status: if reasons.is_empty() {
                "ready"
            } else {
                "not_ready"
            },
            reasons,
            stale: all.gauge("tally_projector_stale") == Some(1.0),
            answers: change.answers,
            visible: change.visible,
            waiting: all.gauge("tally_projector_waiters"),
            partitions: all.partitions(),
            hot: hot.iter().map(HotShown::of).collect(),
            resources: all.gauge("tally_catalogue_resources"),
            rebuild,
            dead_letters: DeadLetters {
                kept: all.gauge("tally_projector_dead_letters"),
                oldest_timestamp_seconds: all
                    .gauge("tally_projector_oldest_dead_letter_timestamp_seconds")
                    .filter(|oldest| *oldest > 0.0),
                to_export: all.gauge("tally_projector_dead_letters_to_export"),
            },
            log: LogShown {
                bytes: all.gauge("tally_log_size_bytes"),
                errors: all.sum("tally_log_errors_total", |_| true),
                append: change.appends,
                sync: change.syncs,
            },
            memory: Memory {
                process: all.gauge("process_resident_memory_bytes"),
                values: all.gauge("tally_projector_memory_bytes"),
                store: all.gauge("tally_projector_store_bytes"),
                disk_available: all.gauge("tally_data_dir_available_bytes"),
                disk_size: all.gauge("tally_data_dir_size_bytes"),
            },
            per_second: change.rates,
        }
    }
}

impl HotShown {
    fn of(hot: &HotResource) -> Self {
        Self {
            resource_type: hot.resource.kind.as_str(),
            resource_id: hot.resource.id.get(),
            per_second: hot.per_second,
        }
    }
}

/// What became other since the window's beginning.
struct Change {
    rates: Rates,
    answers: Quantiles,
    appends: Quantiles,
    syncs: Quantiles,
    visible: Quantiles,
}

impl Change {
    fn of(since: Option<(f64, Counts)>, counts: &Counts) -> Self {
        // Without a moment before there are no rates yet.
        let before = since.as_ref().map(|(_, before)| before);
        let seconds = since.as_ref().map(|(seconds, _)| *seconds);
        let rate = |then: Option<f64>, now: Option<f64>| {
            let (seconds, now) = (seconds?, now?);
            Some(((now - then.unwrap_or_default()) / seconds).max(0.0))
        };
        let by_type = counts.by_type.as_ref().map(|words| {
            let rates = words.iter().filter_map(|(word, now)| {
                let then = before.and_then(|before| before.by_type.as_ref()?.get(word));
                Some((word.clone(), rate(then.copied(), Some(*now))?))
            });
            rates.collect()
        });
        let quantiles = |of: fn(&Counts) -> &Buckets| {
            before.map_or(Quantiles::NONE, |before| of(counts).since(of(before)))
        };
        Self {
            rates: Rates {
                accepted: rate(before.and_then(|b| b.accepted), counts.accepted),
                refused: rate(before.and_then(|b| b.refused), counts.refused),
                errors: rate(before.and_then(|b| b.errors), counts.errors),
                by_type,
            },
            answers: quantiles(|counts| &counts.answers),
            appends: quantiles(|counts| &counts.appends),
            syncs: quantiles(|counts| &counts.syncs),
            visible: quantiles(|counts| &counts.visible),
        }
    }
}

impl Quantiles {
    const NONE: Self = Self {
        p50: None,
        p99: None,
    };
}

/// The metrics by their names.
struct All<'a>(BTreeMap<&'a str, &'a MetricFamily>);

impl<'a> All<'a> {
    fn of(families: &'a [MetricFamily]) -> Self {
        let named = families.iter().map(|family| (family.name(), family));
        Self(named.collect())
    }

    fn family(&self, name: &str) -> Option<&'a MetricFamily> {
        self.0.get(name).copied()
    }

    /// The sum over those whose labels fit; nothing where there is no such metric.
    fn sum(&self, name: &str, fits: impl Fn(&Metric) -> bool) -> Option<f64> {
        let family = self.family(name)?;
        let fitting = family.get_metric().iter().filter(|metric| fits(metric));
        let values = fitting.map(|metric| value(family, metric));
        Some(values.sum())
    }

    fn gauge(&self, name: &str) -> Option<f64> {
        self.sum(name, |_| true)
    }

    fn label(&self, name: &str, label: &str) -> Option<String> {
        let metric = self.family(name)?.get_metric().first()?;
        label_of(metric, label).map(str::to_owned)
    }

    fn buckets(&self, name: &str, fits: impl Fn(&Metric) -> bool) -> Buckets {
        let metrics = self.family(name).into_iter();
        let metrics = metrics.flat_map(MetricFamily::get_metric);
        let mut all = Buckets::default();
        for metric in metrics.filter(|metric| fits(metric)) {
            all.add(metric);
        }
        all
    }

    fn counts(&self) -> Counts {
        let interact = |metric: &Metric| label_of(metric, "route") == Some("interact");
        let status = |first: char| {
            move |metric: &Metric| {
                label_of(metric, "status").is_some_and(|status| status.starts_with(first))
            }
        };
        let accepted = |metric: &Metric| {
            matches!(
                label_of(metric, "result"),
                Some("folded" | "late" | "dead_letter" | "client_gone")
            )
        };
        let of_interactions =
            |metric: &Metric| label_of(metric, "log").is_none_or(|log| log == "interactions");
        let by_type = self.family("tally_interactions_total").map(|family| {
            let mut words = BTreeMap::new();
            for metric in family.get_metric() {
                if let Some(word) = label_of(metric, "interaction_type") {
                    *words.entry(word.to_owned()).or_default() += value(family, metric);
                }
            }
            words
        });
        Counts {
            accepted: self.sum("tally_ingest_interactions_total", accepted),
            refused: self.sum("tally_http_requests_total", status('4')),
            errors: self.sum("tally_http_requests_total", status('5')),
            by_type,
            answers: self.buckets("tally_http_request_duration_seconds", interact),
            appends: self.buckets("tally_log_append_duration_seconds", of_interactions),
            syncs: self.buckets("tally_log_sync_duration_seconds", of_interactions),
            visible: self.buckets("tally_projector_event_to_visible_seconds", |_| true),
        }
    }

    fn partitions(&self) -> Vec<PartitionLag> {
        let by_partition = |name: &str| -> BTreeMap<u32, f64> {
            let families = self.family(name).into_iter();
            let all = families.flat_map(|family| {
                let metrics = family.get_metric().iter();
                metrics.map(move |metric| (label_of(metric, "partition"), value(family, metric)))
            });
            all.filter_map(|(partition, value)| Some((partition?.parse().ok()?, value)))
                .collect()
        };
        let seconds = by_partition("tally_projector_lag_seconds");
        let records = by_partition("tally_projector_lag_records");
        records
            .into_iter()
            .map(|(partition, records)| PartitionLag {
                partition,
                records,
                seconds: seconds.get(&partition).copied(),
            })
            .collect()
    }
}

fn label_of<'a>(metric: &'a Metric, name: &str) -> Option<&'a str> {
    let mut labels = metric.get_label().iter();
    let label = labels.find(|label| label.name() == name);
    label.map(prometheus::proto::LabelPair::value)
}

fn value(family: &MetricFamily, metric: &Metric) -> f64 {
    match family.get_field_type() {
        MetricType::COUNTER => metric.get_counter().get_value(),
        MetricType::GAUGE => metric.get_gauge().get_value(),
        MetricType::SUMMARY | MetricType::UNTYPED | MetricType::HISTOGRAM => 0.0,
    }
}

/// A histogram: upper bounds, and how many were up to there.
#[derive(Debug, Clone, Default)]
struct Buckets {
    bounds: Vec<(f64, u64)>,
    all: u64,
}

impl Buckets {
    fn add(&mut self, metric: &Metric) {
        let histogram = metric.get_histogram();
        self.all += histogram.get_sample_count();
        for (place, bucket) in histogram.get_bucket().iter().enumerate() {
            match self.bounds.get_mut(place) {
                Some((_, count)) => *count += bucket.cumulative_count(),
                None => {
                    let bound = (bucket.upper_bound(), bucket.cumulative_count());
                    self.bounds.push(bound);
                }
            }
        }
    }

    fn since(&self, before: &Self) -> Quantiles {
        Quantiles {
            p50: self.quantile(before, 0.5),
            p99: self.quantile(before, 0.99),
        }
    }

    /// As Prometheus estimates it: evenly within a bucket, the last bound past all of them. Nothing
    /// where nothing came.
    fn quantile(&self, before: &Self, quantile: f64) -> Option<f64> {
        let all = count(self.all.saturating_sub(before.all));
        if all == 0.0 {
            return None;
        }
        let rank = quantile * all;
        let (mut lower, mut below) = (0.0, 0.0);
        for (place, (bound, up_to)) in self.bounds.iter().enumerate() {
            let then = before.bounds.get(place).map_or(0, |(_, count)| *count);
            let up_to = count(up_to.saturating_sub(then));
            if !bound.is_finite() {
                break;
            }
            if up_to >= rank {
                let within = (rank - below) / (up_to - below).max(1.0);
                return Some(lower + (bound - lower) * within);
            }
            (lower, below) = (*bound, up_to);
        }
        Some(lower)
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is for rates and quantiles")]
fn count(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
