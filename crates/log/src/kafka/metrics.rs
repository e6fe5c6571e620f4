//! What librdkafka's clients say of themselves, as Prometheus sees it.
//!
//! The label `client` is one of a few words of ours; `broker` is a broker's number, `-1` for the
//! servers that were asked first.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::{GaugeVec, HistogramVec, IntCounterVec, IntGaugeVec, Registry, Result};
use rdkafka::statistics::{Broker, Statistics};

use crate::metric::{Declare, Label, Metric, Unit, Values, When};
use crate::metrics::LOG;

/// The metrics of all clients; clones are the same metrics.
#[derive(Debug, Clone)]
pub struct KafkaMetrics {
    queued_messages: IntGaugeVec,
    queued_bytes: IntGaugeVec,
    prefetched_messages: IntGaugeVec,
    prefetched_bytes: IntGaugeVec,
    messages: IntCounterVec,
    bytes: IntCounterVec,
    brokers: BrokerMetrics,
    delivery: HistogramVec,
    commits: IntCounterVec,
    pub(super) renewed: IntCounterVec,
}

/// The brokers' part of it.
#[derive(Debug, Clone)]
struct BrokerMetrics {
    requests: IntCounterVec,
    request_failures: IntCounterVec,
    connects: IntCounterVec,
    disconnects: IntCounterVec,
    up: IntGaugeVec,
    rtt: GaugeVec,
    in_flight: IntGaugeVec,
}

/// 0.2 ms (a broker on this host) to 10 s (a deadline).
const DELIVERY_SECONDS: &[f64] = &[
    0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1., 2., 5., 10.,
];

/// Each log has three: one that writes, one that asks, and one word for all that read.
const CLIENT: Label = Label::words("client", || {
    vec![
        "interactions-producer",
        "interactions-control",
        "interactions-reader",
        "catalogue-producer",
        "catalogue-control",
        "catalogue-reader",
        "dead_letters-producer",
        "dead_letters-control",
        "dead_letters-reader",
    ]
});

const BROKER: Label = Label {
    name: "broker",
    values: Values::Brokers,
};
const DIRECTION: Label = Label::words("direction", || vec!["sent", "received"]);

/// What stands in a table of Kafka's alone.
const fn gauge(name: &'static str, unit: Unit, help: &'static str) -> Metric {
    Metric::gauge(name, unit, help).only(When::Kafka)
}

const fn counter(name: &'static str, unit: Unit, help: &'static str) -> Metric {
    Metric::counter(name, unit, help).only(When::Kafka)
}

const MESSAGES_UNIT: Unit = Unit::Number("messages");
const REQUESTS_UNIT: Unit = Unit::Number("requests");

crate::metrics! {
    /// The metrics of Kafka's clients.
    pub METRICS:
    QUEUED_MESSAGES = gauge(
        "tally_kafka_queued_messages", MESSAGES_UNIT,
        "Messages that wait in a producer or are on their way.",
    ).by(&[CLIENT]);
    QUEUED_BYTES = gauge(
        "tally_kafka_queued_bytes", Unit::Bytes,
        "Bytes of messages that wait in a producer or are on their way.",
    ).by(&[CLIENT]);
    PREFETCHED_MESSAGES = gauge(
        "tally_kafka_prefetched_messages", MESSAGES_UNIT,
        "Messages that a consumer has fetched and not yet given out.",
    ).by(&[CLIENT]);
    PREFETCHED_BYTES = gauge(
        "tally_kafka_prefetched_bytes", Unit::Bytes,
        "Bytes of messages that a consumer has fetched and not yet given out.",
    ).by(&[CLIENT]);
    MESSAGES = counter(
        "tally_kafka_messages_total", MESSAGES_UNIT,
        "Messages sent or received.",
    ).by(&[CLIENT, DIRECTION]);
    BYTES = counter(
        "tally_kafka_bytes_total", Unit::Bytes,
        "Bytes sent to or received from brokers, all requests.",
    ).by(&[CLIENT, DIRECTION]);
    REQUESTS = counter(
        "tally_kafka_requests_total", REQUESTS_UNIT,
        "Requests to brokers.",
    ).by(&[CLIENT, BROKER]);
    REQUEST_FAILURES = counter(
        "tally_kafka_request_failures_total", REQUESTS_UNIT,
        "Requests that failed, by kind: timeout, send, receive, retry.",
    ).by(&[CLIENT, BROKER, Label::words("kind", || vec!["timeout", "send", "receive", "retry"])]);
    CONNECTS = counter(
        "tally_kafka_connects_total", Unit::Number("connections"),
        "Connections tried, successes and failures.",
    ).by(&[CLIENT, BROKER]);
    DISCONNECTS = counter(
        "tally_kafka_disconnects_total", Unit::Number("connections"),
        "Connections that ended.",
    ).by(&[CLIENT, BROKER]);
    BROKER_UP = gauge(
        "tally_kafka_broker_up", Unit::Flag,
        "1 while there is a connection to the broker, else 0.",
    ).by(&[CLIENT, BROKER]);
    BROKER_RTT = gauge(
        "tally_kafka_broker_rtt_seconds", Unit::Seconds,
        "Round trip of requests to the broker over the last window, by quantile.",
    ).by(&[CLIENT, BROKER, Label::words("quantile", || vec!["0.5", "0.99"])]);
    IN_FLIGHT = gauge(
        "tally_kafka_requests_in_flight", REQUESTS_UNIT,
        "Requests to the broker that wait for an answer.",
    ).by(&[CLIENT, BROKER]);
    DELIVERY_DURATION = Metric::histogram(
        "tally_kafka_delivery_duration_seconds", Unit::Seconds,
        "From an append to its last record's acknowledgement by all in-sync replicas, or its failure.",
        DELIVERY_SECONDS,
    ).by(&[LOG]).only(When::Kafka);
    COMMITS = counter(
        "tally_kafka_commits_total", Unit::Number("commits"),
        "Commits of the group's offsets, which only tools read, by result.",
    ).by(&[CLIENT, Label::words("result", || vec!["ok", "failed"])]);
    PRODUCERS_RENEWED = counter(
        "tally_kafka_producers_renewed_total", Unit::Number("producers"),
        "Producers replaced: after an error, or with a record that took too long.",
    ).by(&[LOG]);
}

impl KafkaMetrics {
    /// Registers everything, once for all clients.
    ///
    /// # Errors
    /// Where a name is taken.
    pub fn register(registry: &Registry) -> Result<Self> {
        Self::declare(Declare::with(registry))
    }

    /// Metrics that nobody reads, for commands and tests.
    ///
    /// # Errors
    /// Never in practice: the names are fixed and valid.
    pub fn unregistered() -> Result<Self> {
        Self::declare(Declare::nowhere())
    }

    fn declare(declare: Declare<'_>) -> Result<Self> {
        Ok(Self {
            queued_messages: declare.gauges(&QUEUED_MESSAGES)?,
            queued_bytes: declare.gauges(&QUEUED_BYTES)?,
            prefetched_messages: declare.gauges(&PREFETCHED_MESSAGES)?,
            prefetched_bytes: declare.gauges(&PREFETCHED_BYTES)?,
            messages: declare.counters(&MESSAGES)?,
            bytes: declare.counters(&BYTES)?,
            brokers: BrokerMetrics {
                requests: declare.counters(&REQUESTS)?,
                request_failures: declare.counters(&REQUEST_FAILURES)?,
                connects: declare.counters(&CONNECTS)?,
                disconnects: declare.counters(&DISCONNECTS)?,
                up: declare.gauges(&BROKER_UP)?,
                rtt: declare.float_gauges(&BROKER_RTT)?,
                in_flight: declare.gauges(&IN_FLIGHT)?,
            },
            delivery: declare.histograms(&DELIVERY_DURATION)?,
            commits: declare.counters(&COMMITS)?,
            renewed: declare.counters(&PRODUCERS_RENEWED)?,
        })
    }

    pub(super) fn delivery(&self, log: &str) -> prometheus::Histogram {
        // There from the start, so that the first one is seen as a rise.
        self.renewed.with_label_values(&[log]);
        self.delivery.with_label_values(&[log])
    }

    pub(super) fn client(&self, label: &str) -> ClientMetrics {
        ClientMetrics {
            all: self.clone(),
            label: label.into(),
            before: Arc::default(),
        }
    }
}

/// One client's part of it.
#[derive(Clone)]
pub(super) struct ClientMetrics {
    all: KafkaMetrics,
    label: Arc<str>,
    /// What each counter stood at when the client spoke last: it counts from its own beginning.
    before: Arc<Mutex<HashMap<(i32, &'static str), u64>>>,
}

impl ClientMetrics {
    /// Takes in what the client says.
    pub(super) fn update(&self, statistics: &Statistics) {
        let (all, client) = (&self.all, &*self.label);
        let gauge = |gauge: &IntGaugeVec, value: u64| {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            gauge.with_label_values(&[client]).set(value);
        };
        gauge(&all.queued_messages, statistics.msg_cnt);
        gauge(&all.queued_bytes, statistics.msg_size);
        let partitions = || {
            let topics = statistics.topics.values();
            topics.flat_map(|topic| topic.partitions.values())
        };
        let fetched = partitions().map(|partition| unsigned(partition.fetchq_cnt));
        gauge(&all.prefetched_messages, fetched.sum());
        let fetched = partitions().map(|partition| partition.fetchq_size);
        gauge(&all.prefetched_bytes, fetched.sum());
        let both = [
            (&all.messages, "sent", "txmsgs", unsigned(statistics.txmsgs)),
            (
                &all.messages,
                "received",
                "rxmsgs",
                unsigned(statistics.rxmsgs),
            ),
            (
                &all.bytes,
                "sent",
                "tx_bytes",
                unsigned(statistics.tx_bytes),
            ),
            (
                &all.bytes,
                "received",
                "rx_bytes",
                unsigned(statistics.rx_bytes),
            ),
        ];
        for (counter, direction, name, value) in both {
            let more = self.more((-2, name), value);
            counter.with_label_values(&[client, direction]).inc_by(more);
        }
        for broker in statistics.brokers.values() {
            self.broker(broker);
        }
        self.missing(statistics);
    }

    pub(super) fn committed(&self, well: bool) {
        let result = if well { "ok" } else { "failed" };
        let commits = &self.all.commits;
        commits.with_label_values(&[&*self.label, result]).inc();
    }

    fn broker(&self, broker: &Broker) {
        let (all, client) = (&self.all.brokers, &*self.label);
        // Connections of the library's own that stand for no broker.
        if broker.source == "logical" || broker.source == "internal" {
            return;
        }
        let number = broker.nodeid.to_string();
        let labels: [&str; 2] = [client, &number];
        all.up
            .with_label_values(&labels)
            .set(i64::from(broker.state == "UP"));
        all.in_flight
            .with_label_values(&labels)
            .set(broker.waitresp_cnt);
        let id = broker.nodeid;
        let counters = [
            (&all.requests, "tx", broker.tx),
            (
                &all.connects,
                "connects",
                unsigned(broker.connects.unwrap_or(0)),
            ),
            (
                &all.disconnects,
                "disconnects",
                unsigned(broker.disconnects.unwrap_or(0)),
            ),
        ];
        for (counter, name, value) in counters {
            let more = self.more((id, name), value);
            counter.with_label_values(&labels).inc_by(more);
        }
        let failures = [
            ("timeout", broker.req_timeouts),
            ("send", broker.txerrs),
            ("receive", broker.rxerrs),
            ("retry", broker.txretries),
        ];
        for (kind, value) in failures {
            let more = self.more((id, kind), value);
            all.request_failures
                .with_label_values(&[client, &number, kind])
                .inc_by(more);
        }
        if let Some(rtt) = &broker.rtt {
            for (quantile, micros) in [("0.5", rtt.p50), ("0.99", rtt.p99)] {
                let seconds = std::time::Duration::from_micros(unsigned(micros)).as_secs_f64();
                all.rtt
                    .with_label_values(&[client, &number, quantile])
                    .set(seconds);
            }
        }
    }

    /// A broker that is not spoken of any more has no connection: the client forgets those that the cluster
    /// does not name, which is what it does with one that is down.
    fn missing(&self, statistics: &Statistics) {
        let spoken_of = |id: i32| {
            let mut brokers = statistics.brokers.values();
            brokers.any(|broker| broker.nodeid == id)
        };
        let before = self.before.lock();
        let known = before.keys().filter(|(_, name)| *name == "tx");
        for (id, _) in known.filter(|(id, _)| !spoken_of(*id)) {
            let labels: [&str; 2] = [&*self.label, &id.to_string()];
            self.all.brokers.up.with_label_values(&labels).set(0);
        }
    }

    fn more(&self, key: (i32, &'static str), value: u64) -> u64 {
        let mut before = self.before.lock();
        let before = before.entry(key).or_default();
        value.saturating_sub(std::mem::replace(before, value))
    }
}

/// librdkafka counts in signed numbers, and nothing of it is ever below zero.
fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
