//! What Prometheus sees of the public API, declared once. Labels are words of ours, never
//! anything a client sent.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_web::http::{Method, StatusCode};
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, Registry, Result};
use tally_log::metric::Declare;

use super::route::Route;
use crate::auth::AuthError;
use crate::metrics as m;

/// Methods with a label of their own; the last stands for all others.
pub(crate) const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other",
];
/// Statuses that the API answers with; the last stands for all others.
pub(crate) const STATUSES: [&str; 14] = [
    "200", "204", "308", "400", "401", "404", "405", "408", "413", "415", "422", "500", "503",
    "other",
];

/// What became of an interaction on its way into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IngestResult {
    /// Folded, and answered with the verdict.
    Folded,
    /// In the log, but answered before it was folded.
    Late,
    /// Refused before anything was written.
    Refused,
    /// Certainly not in the log.
    NotWritten,
    /// In the log, or not.
    FateUnknown,
    /// In the log, and kept as a dead letter by the fold.
    DeadLetter,
    /// Nobody waited for the answer any more.
    ClientGone,
}

impl IngestResult {
    pub(crate) const ALL: [(Self, &'static str); 7] = [
        (Self::Folded, "folded"),
        (Self::Late, "late"),
        (Self::Refused, "refused"),
        (Self::NotWritten, "not_written"),
        (Self::FateUnknown, "fate_unknown"),
        (Self::DeadLetter, "dead_letter"),
        (Self::ClientGone, "client_gone"),
    ];
}

/// The API's metrics; clones are the same metrics.
#[derive(Clone)]
pub(crate) struct Metrics {
    requests: Arc<RequestCounters>,
    /// By route.
    seconds: Arc<Vec<Histogram>>,
    pub(crate) in_flight: IntGauge,
    results: Arc<Vec<(IngestResult, IntCounter)>>,
    pub(crate) batch_records: Histogram,
    /// By reason.
    not_authenticated: Arc<Vec<(AuthError, IntCounter)>>,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// Where a name is taken.
    pub(crate) fn register(registry: &Registry) -> Result<Self> {
        let declare = Declare::with(registry);
        let seconds = declare.histograms(&m::HTTP_DURATION)?;
        let results = declare.counters(&m::INGESTED)?;
        let not_authenticated = declare.counters(&m::AUTH_FAILURES)?;
        Ok(Self {
            requests: Arc::new(RequestCounters::new(declare.counters(&m::HTTP_REQUESTS)?)),
            seconds: Arc::new(
                Route::LABELS
                    .iter()
                    .map(|route| seconds.get_metric_with_label_values(&[route]))
                    .collect::<Result<_>>()?,
            ),
            not_authenticated: Arc::new(
                AuthError::all()
                    .map(|error| {
                        let reason = [error.reason()];
                        Ok((
                            error,
                            not_authenticated.get_metric_with_label_values(&reason)?,
                        ))
                    })
                    .collect::<Result<_>>()?,
            ),
            in_flight: declare.gauge(&m::HTTP_IN_FLIGHT)?,
            results: Arc::new(
                IngestResult::ALL
                    .iter()
                    .map(|(result, word)| {
                        Ok((*result, results.get_metric_with_label_values(&[word])?))
                    })
                    .collect::<Result<_>>()?,
            ),
            batch_records: declare.histogram(&m::INGEST_BATCH)?,
        })
    }

    /// Notes an answer.
    pub(crate) fn answered(
        &self,
        route: Route,
        method: &Method,
        status: StatusCode,
        took: Duration,
    ) {
        if let Some(counter) = self.requests.get(route, method.as_str(), status.as_str()) {
            counter.inc();
        }
        if let Some(histogram) = self.seconds.get(route.place()) {
            histogram.observe(took.as_secs_f64());
        }
    }

    /// Notes a request that is refused for who it comes from.
    pub(crate) fn not_authenticated(&self, error: AuthError) {
        let mut all = self.not_authenticated.iter();
        if let Some((_, counter)) = all.find(|(other, _)| *other == error) {
            counter.inc();
        }
    }

    /// Notes what became of an interaction.
    pub(crate) fn ingested(&self, result: IngestResult) {
        if let Some((_, counter)) = self.results.iter().find(|(other, _)| *other == result) {
            counter.inc();
        }
    }
}

/// A counter for each route, method and status, made when it is first wanted.
struct RequestCounters {
    family: IntCounterVec,
    made: Vec<OnceLock<Option<IntCounter>>>,
}

impl RequestCounters {
    fn new(family: IntCounterVec) -> Self {
        let many = Route::LABELS.len() * METHODS.len() * STATUSES.len();
        let made = (0..many).map(|_| OnceLock::new()).collect();
        let counters = Self { family, made };
        for (route, method) in [(Route::Interact, "POST"), (Route::Resource(None), "GET")] {
            for status in ["500", "503"] {
                // There from the start, so that the first failures are seen as a rise.
                let _ = counters.get(route, method, status);
            }
        }
        counters
    }

    fn get(&self, route: Route, method: &str, status: &str) -> Option<&IntCounter> {
        let (method, method_label) = label(&METHODS, method)?;
        let (status, status_label) = label(&STATUSES, status)?;
        let route_label = Route::LABELS.get(route.place())?;
        let place = (route.place() * METHODS.len() + method) * STATUSES.len() + status;
        let labels = [*route_label, method_label, status_label];
        let make = || self.family.get_metric_with_label_values(&labels).ok();
        self.made.get(place)?.get_or_init(make).as_ref()
    }
}

/// A word's place in a list and the word itself; those of the last where it is not in it.
fn label<'a>(all: &[&'a str], word: &str) -> Option<(usize, &'a str)> {
    let last = all.len().checked_sub(1)?;
    let place = all.iter().position(|other| *other == word).unwrap_or(last);
    Some((place, all.get(place)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects Prometheus from series that clients make up.
    #[test]
    fn what_clients_send_is_never_a_label() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        for number in 0..50_u16 {
            let method = Method::from_bytes(format!("M{number}").as_bytes()).unwrap();
            let status = StatusCode::from_u16(900 + number).unwrap();
            metrics.answered(Route::None, &method, status, Duration::ZERO);
        }
        metrics.answered(
            Route::Interact,
            &Method::POST,
            StatusCode::OK,
            Duration::ZERO,
        );
        let requests = registry.gather();
        let requests = requests
            .iter()
            .find(|f| f.name() == "tally_http_requests_total")
            .unwrap();
        let mut series: Vec<String> = requests
            .get_metric()
            .iter()
            .map(|metric| {
                let labels = metric
                    .get_label()
                    .iter()
                    .map(|label| label.value().to_owned());
                format!(
                    "{} {}",
                    labels.collect::<Vec<_>>().join(" "),
                    metric.get_counter().get_value()
                )
            })
            .collect();
        series.sort();
        // Failures are there before the first.
        let failures = |series: &String| series.ends_with(" 0");
        assert_eq!(series.iter().filter(|one| failures(one)).count(), 4);
        series.retain(|one| !failures(one));
        assert_eq!(series, ["POST interact 200 1", "other none other 50"]);
    }
}
