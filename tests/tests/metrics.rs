//! What Prometheus gets is what the catalogue says, and no more than it says, whatever clients send.

use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

use tally_tests::binary::workspace;
use tally_tests::http::Connection;
use tally_tests::metrics::Catalogue;
use tally_tests::server::{INTERACT, LOCAL_KEY, Server, interaction_request, resource_path};
use tally_tests::{Folder, Request, wait};

/// Protects who reads `docs/metrics.md`: it is what the binary says. `UPDATE_DOCS=1` writes it.
#[test]
fn the_documentation_is_what_the_command_prints() {
    let path = workspace().join("docs/metrics.md");
    let printed = Folder::new().run(&["metrics"]).ok();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &printed).expect("the documentation");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == printed,
        "docs/metrics.md is not what `tally metrics` prints; UPDATE_DOCS=1 with this test writes it"
    );
}

/// Waits until everything that comes by itself is there.
fn settled(server: &Server) {
    wait::until("the first measures", || {
        let metrics = server.metrics();
        let there = |name: &str| metrics.sum(name, &[]) > 0.0;
        (there("tally_data_dir_size_bytes") && there("tally_log_head_timestamp_seconds"))
            .then_some(())
    });
}

/// Protects dashboards and alerts: every family, label and value of a real server's scrape is one of the
/// catalogue's, and the catalogue promises nothing that is never there.
#[test]
fn a_scrape_is_what_the_catalogue_says() {
    let folder = Folder::local();
    let catalogue = Catalogue::of(&folder);
    let server = folder.start();
    for interaction in ["like", "like", "view"] {
        assert_eq!(server.interact("quest", 42, interaction).status, 200);
    }
    assert_eq!(server.resource("quest", 42).status, 200);
    settled(&server);
    let metrics = wait::until("the log's head as it is", || {
        let metrics = server.metrics();
        (metrics.sum("tally_log_head_offset", &[]) == 3.0).then_some(metrics)
    });
    catalogue.check(&metrics, &["always"]);
    let like = ["resource_type=\"quest\"", "interaction_type=\"like\""];
    let counted = |outcome| {
        let labels = [like[0], like[1], outcome];
        metrics.sum("tally_interactions_total", &labels)
    };
    assert_eq!(counted("outcome=\"applied\""), 1.0);
    assert_eq!(counted("outcome=\"no_change\""), 1.0);
    assert_eq!(metrics.sum("tally_interactions_total", &[]), 3.0);
    let of = |name: &str, label: &str| metrics.sum(name, &[label]);
    assert_eq!(of("tally_projector_waits_total", "result=\"folded\""), 3.0);
    assert_eq!(
        metrics.sum("tally_projector_wait_duration_seconds_count", &[]),
        3.0
    );
    assert_eq!(
        metrics.sum("tally_projector_event_to_visible_seconds_count", &[]),
        3.0
    );
    let appends = "tally_log_append_duration_seconds_count";
    assert_eq!(of(appends, "log=\"interactions\""), 3.0);
    assert!(of(appends, "log=\"catalogue\"") >= 1.0, "it was seeded");
    assert_eq!(metrics.sum("tally_projector_lag_records", &[]), 0.0);
    assert_eq!(metrics.sum("tally_projector_lag_seconds", &[]), 0.0);
    let route = "tally_http_request_duration_seconds_count";
    assert_eq!(of(route, "route=\"interact\""), 3.0);
    let (left, size) = (
        "tally_data_dir_available_bytes",
        "tally_data_dir_size_bytes",
    );
    assert!(metrics.sum(left, &[]) > 0.0 && metrics.sum(left, &[]) <= metrics.sum(size, &[]));
}

/// Everything an attacker can put where a label might come from.
fn provoke(server: &Server, from: u64) {
    let to = server.api();
    for n in from..from + 20 {
        let (odd, long) = (format!("h{n}\"}}"), "x".repeat(200));
        let paths = [
            format!("/random/{n}"),
            format!("/{odd}{long}"),
            resource_path("nonsense", n),
            resource_path("quest", n),
            format!("{INTERACT}{n}"),
            format!("/docs/{n}"),
        ];
        for path in paths {
            let path = path.replace('"', "%22");
            for method in ["GET", "DELETE", "OPTIONS", &format!("M{n}")] {
                let _ = Request::new(method, &path)
                    .bearer(LOCAL_KEY)
                    .send(to)
                    .status;
            }
            let _ = Request::get(&path).send(server.management()).status;
        }
        for (kind, interaction) in [
            ("quest", "like"),
            (odd.as_str(), "like"),
            ("quest", odd.as_str()),
            (long.as_str(), long.as_str()),
        ] {
            let _ = interaction_request(kind, n, interaction).send(to).status;
        }
        let requests = [
            Request::post(INTERACT)
                .bearer(&format!("key-{n}"))
                .json("{}"),
            Request::post(INTERACT)
                .bearer(&format!("a.{n}.c"))
                .json("{}"),
            Request::post(INTERACT).json("{}"),
            Request::post(INTERACT).bearer(LOCAL_KEY).json("{"),
            Request::post(INTERACT)
                .bearer(LOCAL_KEY)
                .header("Content-Type", format!("a/{n}"))
                .body("{}"),
            interaction_request("quest", n, "view")
                .header("Idempotency-Key", format!("key-{n}"))
                .header("X-Request-Id", format!("id-{n}"))
                .header("User-Agent", format!("agent-{n}"))
                .header("traceparent", format!("00-{n:032x}-{n:016x}-01")),
        ];
        for request in requests {
            let _ = request.send(to).status;
        }
    }
}

/// Protects Prometheus from whoever sends requests: no family, label or value comes of them that the
/// catalogue does not have, the second time brings nothing new, and the bound that the documentation states
/// is kept.
#[test]
fn the_number_of_series_is_bounded_whatever_clients_send() {
    let folder = Folder::local().with("TALLY__CATALOGUE__MODE", "open");
    let catalogue = Catalogue::of(&folder);
    let server = folder.start();
    provoke(&server, 1_000_000);
    settled(&server);
    let before: BTreeSet<String> = server.metrics().series.into_keys().collect();
    provoke(&server, 2_000_000);
    let metrics = server.metrics();
    catalogue.check(&metrics, &["always"]);
    let after: BTreeSet<String> = metrics.series.keys().cloned().collect();
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.is_empty(), "new series: {new:?}");
    let most = catalogue.most_series(&["always"]);
    assert!(
        after.len() <= most,
        "{} series, more than {most}",
        after.len()
    );
    println!("{} series of at most {most}", after.len());
}

/// Says what a scrape costs, and protects it from costing more than anybody would wait for. The figure is
/// of this build: an optimised one needs a fraction.
#[test]
fn a_scrape_is_cheap() {
    let server = Folder::local().start();
    settled(&server);
    let mut connection = Connection::open(server.management()).expect("it listens");
    let mut times: Vec<_> = (0..50)
        .map(|_| {
            let began = Instant::now();
            let answer = connection
                .send(&Request::get("/metrics"))
                .expect("an answer");
            assert_eq!(answer.status, 200);
            began.elapsed()
        })
        .collect();
    times.sort();
    let series = server.metrics().series.len();
    println!(
        "{series} series: median {:?}, longest {:?}",
        times[25], times[49]
    );
    assert!(times[25].as_millis() < 500, "{times:?}");
}
