//! Every metric of both listeners, described. Labels are words of ours, never anything a client sent.

use tally_log::metric::{Label, Metric, Unit, When};

use crate::api::metrics::{IngestResult, METHODS, STATUSES};
use crate::api::route::Route;
use crate::auth::AuthError;

const REQUESTS: Unit = Unit::Number("requests");
const INTERACTIONS: Unit = Unit::Number("interactions");
const RESOURCES: Unit = Unit::Number("resources");

const ROUTE: Label = Label::words("route", || Route::LABELS.to_vec());
const METHOD: Label = Label::words("method", || METHODS.to_vec());
const STATUS: Label = Label::words("status", || STATUSES.to_vec());
const RESULT: Label = Label::words("result", || {
    IngestResult::ALL.iter().map(|(_, word)| *word).collect()
});
const REASON: Label = Label::words("reason", || {
    AuthError::all().map(AuthError::reason).collect()
});

/// From a tenth of a millisecond to ten seconds: a fast disk's sync, up to a slow one's limit.
const SECONDS: &[f64] = &[
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0,
];
const BATCH: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0,
];

tally_log::metrics! {
    /// The metrics of both listeners.
    pub METRICS:
    HTTP_REQUESTS = Metric::counter(
        "tally_http_requests_total", REQUESTS,
        "Requests answered by the public API, by route, method and status. A route is a template, never a path: interact (/api/v1/metrics/interact/), resource (/api/v1/metrics/resources/{type}/{id}/), openapi, docs, none for any other path.",
    ).by(&[ROUTE, METHOD, STATUS]);
    HTTP_DURATION = Metric::histogram(
        "tally_http_request_duration_seconds", Unit::Seconds,
        "From a request's head to its answer, by route.",
        SECONDS,
    ).by(&[ROUTE]);
    HTTP_IN_FLIGHT = Metric::gauge(
        "tally_http_requests_in_flight", REQUESTS,
        "Requests of the public API that are not answered yet.",
    );
    AUTH_FAILURES = Metric::counter(
        "tally_http_auth_failures_total", REQUESTS,
        "Requests that did not say validly whom they come from, by why.",
    ).by(&[REASON]);
    INGESTED = Metric::counter(
        "tally_ingest_interactions_total", INTERACTIONS,
        "Interactions that were valid, by what became of them on their way.",
    ).by(&[RESULT]);
    INGEST_BATCH = Metric::histogram(
        "tally_ingest_batch_records", INTERACTIONS,
        "Interactions handed to the log in one append.",
        BATCH,
    );
    READY = Metric::gauge(
        "tally_ready", Unit::Flag,
        "1 while the server is ready for requests, else 0.",
    );
    CATALOGUE_RESOURCES = Metric::gauge(
        "tally_catalogue_resources", RESOURCES,
        "Resources that exist in the catalogue.",
    );
    CATALOGUE_SKIPPED = Metric::gauge(
        "tally_catalogue_skipped_records", Unit::Number("records"),
        "Records of the catalogue's log that could not be read as a change.",
    );
    REBUILD_RATIO = Metric::gauge(
        "tally_rebuild_ratio", Unit::Ratio,
        "How much of the log a running rebuild has folded, 0 to 1; 0 where none runs.",
    );
    REBUILD_REMAINING = Metric::gauge(
        "tally_rebuild_remaining_seconds", Unit::Seconds,
        "How long a running rebuild takes until it has caught up; 0 where none runs.",
    );
    JWT_KEY_READS = Metric::counter(
        "tally_jwt_key_reads_total", Unit::Number("reads"),
        "Reads of the keys that tokens are checked with, by how they went; files that stay as they were are not counted.",
    ).by(&[Label::words("result", || vec!["ok", "failed"])]).only(When::Tokens);
    JWT_KEYS = Metric::gauge(
        "tally_jwt_keys", Unit::Number("keys"),
        "Keys that tokens are checked with; 0 where none could be read.",
    ).only(When::Tokens);
    JWT_KEYS_READ = Metric::gauge(
        "tally_jwt_keys_read_timestamp_seconds", Unit::Timestamp,
        "When the keys that tokens are checked with were last read, in seconds since 1970; 0 where they never were.",
    ).only(When::Tokens);
}
