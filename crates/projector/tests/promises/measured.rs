//! What Prometheus is told: how far behind the fold is whatever ails it, and what came since the start.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tally_domain::InteractionType;
use tally_log::ReadError;

use crate::common::{
    LIMIT, MemoryLog, NOW, Opening, catch_up, event, eventually, history, resource,
};

const LAG: &str = "tally_projector_lag_seconds";
const RECORDS: &str = "tally_projector_lag_records";

/// The gauges of a family by partition.
fn by_partition(opening: &Opening, name: &str) -> BTreeMap<String, f64> {
    let families = opening.registry.gather();
    let family = families.iter().find(|family| family.name() == name);
    let metrics = family.map_or(&[][..], |family| family.get_metric());
    let one = |metric: &prometheus::proto::Metric| {
        let label = metric.get_label()[0].value().to_owned();
        (label, metric.get_gauge().get_value())
    };
    metrics.iter().map(one).collect()
}

/// Protects the alert on freshness where the fold is blocked: the lag is counted from the log's own head,
/// and grows by itself although the reader says nothing.
#[test]
fn a_blocked_fold_shows_a_lag_that_grows() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let opening = Opening::default();
    let projector = opening.open(&log, dir.path());
    log.add_all(&history(1, 50));
    catch_up(&projector);
    projector.head_seen(&log.arc().head(), Instant::now());
    projector.refresh_metrics();
    assert!(by_partition(&opening, LAG).values().all(|lag| *lag == 0.0));
    log.fail_reads(Some(ReadError::Unavailable("as the test wants".into())));
    log.await_failed_reads(1);
    let home = log.add(&event(1, 15, InteractionType::View, None));
    let home = home.partition.to_string();
    // Somebody looked a minute ago.
    let then = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
    projector.head_seen(&log.arc().head(), then);
    let look = || {
        projector.head_seen(&log.arc().head(), Instant::now());
        projector.refresh_metrics();
        (
            by_partition(&opening, LAG)[&home],
            by_partition(&opening, RECORDS)[&home],
        )
    };
    let (lag, records) = look();
    assert!(lag >= 60.0, "{lag}");
    assert_eq!(records, 1.0);
    eventually("a lag that grows", || look().0 > lag);
    log.fail_reads(None);
    eventually("a lag of nothing", || look() == (0.0, 0.0));
}

/// Protects the same where the fold has ended for good, and where the log does not say where its head is:
/// neither is a lag of zero.
#[test]
fn a_dead_fold_and_a_log_without_a_head_are_no_lag_of_zero() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let opening = Opening::default();
    let projector = opening.open(&log, dir.path());
    let home = resource(15).partition(log.identity.partitions);
    log.cut(home, true);
    eventually("an end", || projector.status().failure.is_some());
    projector.head_seen(&log.arc().head(), Instant::now());
    log.add(&event(1, 15, InteractionType::View, None));
    let then = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
    projector.head_seen(&log.arc().head(), then);
    projector.refresh_metrics();
    let label = home.to_string();
    assert!(by_partition(&opening, LAG)[&label] >= 60.0);
    assert_eq!(by_partition(&opening, RECORDS)[&label], 1.0);

    let opening = Opening::default();
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let projector = opening.open(&log, dir.path());
    projector.head_seen(&log.arc().head(), then);
    log.set_headless(true);
    projector.head_seen(&log.arc().head(), Instant::now());
    projector.refresh_metrics();
    assert_eq!(opening.counted("tally_log_head_errors_total"), 1);
    assert_eq!(
        by_partition(&opening, RECORDS),
        BTreeMap::new(),
        "nobody knows"
    );
    assert!(by_partition(&opening, LAG).values().all(|lag| *lag >= 60.0));
}

/// Protects the product's numbers: what a start replays was counted by the process before, and what is
/// folded again after the state was opened again was counted by this one.
#[test]
fn an_interaction_is_counted_when_it_comes_and_never_again() {
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    log.add_all(&history(1, 40));
    let opening = Opening::default();
    let projector = opening.open(&log, dir.path());
    catch_up(&projector);
    let counted = || opening.counted("tally_interactions_total");
    assert_eq!(counted(), 0, "it was there before");
    log.add_all(&history(41, 60));
    catch_up(&projector);
    assert_eq!(counted(), 60);
    // Nothing is written down, so all of it is folded again.
    projector.reopen(|_| Ok(())).unwrap();
    catch_up(&projector);
    assert!(opening.counted("tally_projector_events_total") >= 200);
    assert_eq!(counted(), 60);
    log.add_all(&history(101, 5));
    catch_up(&projector);
    assert_eq!(counted(), 65);
    let families = opening.registry.gather();
    let name = "tally_projector_event_to_visible_seconds";
    let family = families
        .iter()
        .find(|family| family.name() == name)
        .unwrap();
    assert_eq!(
        family.get_metric()[0].get_histogram().get_sample_count(),
        65
    );
    projector.stop(LIMIT).unwrap();
}

/// Protects the alert on old dead letters: the oldest of any partition, written down or not, and none where
/// there is none.
#[test]
fn the_oldest_dead_letter_is_known() {
    const OLDEST: &str = "tally_projector_oldest_dead_letter_timestamp_seconds";
    let (log, dir) = (MemoryLog::new(), tempfile::tempdir().unwrap());
    let opening = Opening::default();
    let projector = opening.open(&log, dir.path());
    projector.measure();
    assert_eq!(opening.gauge(OLDEST), 0.0);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let seconds = |millis: u64| millis as f64 / 1_000.0;
    for (number, partition) in (0u64..).zip([2, 0, 2]) {
        log.set_now(NOW + number * 1_000);
        log.add_raw(partition, b"key", b"poison");
        catch_up(&projector);
        projector.measure();
        assert_eq!(opening.gauge(OLDEST), seconds(NOW));
        projector.checkpoint().unwrap();
        projector.measure();
        assert_eq!(opening.gauge(OLDEST), seconds(NOW));
    }
}
