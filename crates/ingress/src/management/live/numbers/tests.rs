//! What is shown of metrics as Prometheus has them.

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::*;
use crate::management::readiness::Code;

fn shown(window: &mut Window, registry: &Registry) -> serde_json::Value {
    let shown = window.show(&registry.gather(), Vec::new(), None, Vec::new());
    serde_json::to_value(shown).unwrap()
}

/// As if the window's newest moment was so long ago.
fn age(window: &mut Window, seconds: u64) {
    for (at, _) in &mut window.0 {
        *at = at.checked_sub(Duration::from_secs(seconds)).unwrap();
    }
}

fn counter(registry: &Registry, name: &str, labels: &[&str]) -> IntCounterVec {
    let counter = IntCounterVec::new(Opts::new(name, "-"), labels).unwrap();
    registry.register(Box::new(counter.clone())).unwrap();
    counter
}

/// Protects a page that is opened while the server starts, or reads of a build that measures less: what
/// is not known is said to be unknown, and is no zero.
#[test]
fn what_is_not_measured_is_null() {
    let mut window = Window::default();
    let reasons = vec![Reason::new(Code::Starting, "opening the log")];
    let shown = window.show(&Registry::new().gather(), reasons, None, Vec::new());
    let shown = serde_json::to_value(shown).unwrap();
    assert_eq!(shown["status"], "not_ready");
    assert_eq!(shown["reasons"][0]["code"], "starting");
    for path in [
        "/version",
        "/per_second/accepted",
        "/per_second/by_type",
        "/answers/p99",
        "/visible/p99",
        "/log/bytes",
        "/memory/process",
        "/dead_letters/kept",
        "/rebuild",
    ] {
        assert_eq!(
            shown.pointer(path),
            Some(&serde_json::Value::Null),
            "{path}"
        );
    }
    assert_eq!(shown["partitions"], serde_json::json!([]));
}

/// Protects whoever looks after an update from taking old numbers for new ones.
#[test]
fn answers_of_before_an_update_are_said_to_be_that() {
    let registry = Registry::new();
    let stale = IntGauge::new("tally_projector_stale", "-").unwrap();
    registry.register(Box::new(stale.clone())).unwrap();
    for is in [0, 1] {
        stale.set(is);
        assert_eq!(shown(&mut Window::default(), &registry)["stale"], is == 1);
    }
}

/// Protects the rates: of what came within the window, by what it is, and none before there are two
/// moments to compare.
#[test]
fn rates_are_of_what_came_within_the_window() {
    let registry = Registry::new();
    let results = counter(&registry, "tally_ingest_interactions_total", &["result"]);
    let requests = counter(&registry, "tally_http_requests_total", &["route", "status"]);
    let types = counter(
        &registry,
        "tally_interactions_total",
        &["resource_type", "interaction_type", "outcome"],
    );
    results.with_label_values(&["folded"]).inc_by(1_000);
    let mut window = Window::default();
    let first = shown(&mut window, &registry);
    assert_eq!(first["per_second"]["accepted"], serde_json::Value::Null);
    age(&mut window, 2);
    results.with_label_values(&["folded"]).inc_by(30);
    results.with_label_values(&["late"]).inc_by(10);
    results.with_label_values(&["refused"]).inc_by(500);
    requests.with_label_values(&["interact", "404"]).inc_by(8);
    requests.with_label_values(&["interact", "503"]).inc_by(2);
    requests.with_label_values(&["interact", "200"]).inc_by(99);
    let like = types.with_label_values(&["quest", "like", "applied"]);
    like.inc_by(4);
    types
        .with_label_values(&["ai_note", "like", "no_change"])
        .inc_by(6);
    let second = shown(&mut window, &registry);
    let near = |path: &str, wanted: f64| {
        let value = second.pointer(path).and_then(serde_json::Value::as_f64);
        let value = value.unwrap_or(f64::NAN);
        assert!((value - wanted).abs() < wanted * 0.3, "{path}: {value}");
    };
    near("/per_second/accepted", 20.0);
    near("/per_second/refused", 4.0);
    near("/per_second/errors", 1.0);
    near("/per_second/by_type/like", 5.0);
    // What came before the window's beginning is over.
    for _ in 0..4 {
        age(&mut window, 3);
        let _ = shown(&mut window, &registry);
    }
    let later = shown(&mut window, &registry);
    assert_eq!(later["per_second"]["accepted"], 0.0);
    assert!(window.0.len() <= 8, "{} moments", window.0.len());
}

/// Protects the quantiles: of the answers within the window alone, as Prometheus estimates them, and of the
/// one route that counts.
#[test]
fn quantiles_are_of_what_came_within_the_window() {
    let registry = Registry::new();
    let options = HistogramOpts::new("tally_http_request_duration_seconds", "-");
    let options = options.buckets(vec![0.001, 0.01, 0.1]);
    let seconds = HistogramVec::new(options, &["route"]).unwrap();
    registry.register(Box::new(seconds.clone())).unwrap();
    let interact = seconds.with_label_values(&["interact"]);
    for _ in 0..1_000 {
        interact.observe(5.0);
    }
    let mut window = Window::default();
    let _ = shown(&mut window, &registry);
    age(&mut window, 1);
    let none = shown(&mut window, &registry);
    assert_eq!(none["answers"]["p50"], serde_json::Value::Null);
    age(&mut window, 1);
    for _ in 0..98 {
        interact.observe(0.005);
        seconds.with_label_values(&["docs"]).observe(5.0);
    }
    interact.observe(0.05);
    interact.observe(0.05);
    let some = shown(&mut window, &registry);
    let of = |name: &str| some["answers"][name].as_f64().unwrap();
    assert!((0.005..0.006).contains(&of("p50")), "{}", of("p50"));
    assert!((0.05..0.06).contains(&of("p99")), "{}", of("p99"));
    age(&mut window, 6);
    interact.observe(5.0);
    let past_all = shown(&mut window, &registry);
    assert_eq!(past_all["answers"]["p50"], 0.1, "the last bound there is");
}

/// Protects the bars: each partition by its number, in their order, with the seconds where they are
/// measured.
#[test]
fn partitions_are_shown_in_order() {
    let registry = Registry::new();
    let gauge = |name: &str| {
        let gauge = IntGaugeVec::new(Opts::new(name, "-"), &["partition"]).unwrap();
        registry.register(Box::new(gauge.clone())).unwrap();
        gauge
    };
    let records = gauge("tally_projector_lag_records");
    for partition in 0..12i64 {
        let label = partition.to_string();
        records.with_label_values(&[&label]).set(partition * 10);
    }
    let seconds = gauge("tally_projector_lag_seconds");
    seconds.with_label_values(&["11"]).set(3);
    let shown = shown(&mut Window::default(), &registry);
    let partitions = shown["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), 12);
    let last = serde_json::json!({"partition": 11, "records": 110.0, "seconds": 3.0});
    assert_eq!(partitions[11], last);
    assert_eq!(partitions[2]["seconds"], serde_json::Value::Null);
}
