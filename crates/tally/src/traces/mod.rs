//! Spans on their way to a collector: gathered, and posted in the background. Requests never wait for
//! it: past a bound spans are dropped, and counted.
//!
//! - `otlp`: how they are written
//! - [`post`]: how they are sent
//!
//! OpenTelemetry's own crates (0.33) are not used: they are eleven more to build, protobuf's code among
//! them, for one kind of request that stands in JSON in the protocol; and what their batch processor
//! drops it says in a log line at its end, and in no metric.

mod otlp;
pub(crate) mod post;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use prometheus::{IntCounter, Registry};
use tally_ingress::traces::{Span, SpanSink, Traces};
use tally_log::metric::Declare;

use crate::config::TraceSettings;
use crate::failure::Failure;
use crate::metrics::{TRACES_DROPPED, TRACES_EXPORTED};
use otlp::Resource;
use post::{Answer, Post};

/// The most spans that wait to be sent: about 3 MiB.
const MAX_WAITING: usize = 12_288;
/// The most spans in one request.
const BATCH: usize = 1_024;
/// How long spans wait for others to be sent with.
const GATHER: Duration = Duration::from_secs(1);
/// How long a request may take.
const POST_LIMIT: Duration = Duration::from_secs(10);
/// How often a batch is tried, and the pause before the second time; it doubles.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// How long a stop may take, at most.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Starts what sends spans where the settings say so. The metrics are there in any case.
///
/// # Errors
/// Where the address needs TLS and this host trusts nobody, or the system gives no thread.
pub(crate) fn start(
    settings: Option<&TraceSettings>,
    registry: &Registry,
) -> Result<Option<Exporter>, Failure> {
    let metrics = Metrics::register(registry).map_err(Failure::of)?;
    let Some(settings) = settings else {
        return Ok(None);
    };
    let exporter = Exporter::start(settings, post::collector(settings)?, metrics);
    exporter.map(Some).map_err(Failure::of)
}

/// Why spans were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// Too many wait already.
    QueueFull,
    /// The collector can't be reached, or can't take anything.
    Unreachable,
    /// The collector does not want them.
    Rejected,
    /// The server stops, and there was no time to send them.
    Stopped,
}

impl Dropped {
    pub(crate) const ALL: [(Self, &'static str); 4] = [
        (Self::QueueFull, "queue_full"),
        (Self::Unreachable, "unreachable"),
        (Self::Rejected, "rejected"),
        (Self::Stopped, "stopped"),
    ];
}

/// What Prometheus sees of traces; there also where nothing is traced. Clones are the same.
#[derive(Clone)]
pub(crate) struct Metrics {
    exported: IntCounter,
    dropped: Arc<Vec<(Dropped, IntCounter)>>,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// Where a name is taken.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let declare = Declare::with(registry);
        let exported = declare.counter(&TRACES_EXPORTED)?;
        let dropped = declare.counters(&TRACES_DROPPED)?;
        let reasons = Dropped::ALL.iter().map(|(why, word)| {
            let counter = dropped.get_metric_with_label_values(&[word])?;
            Ok((*why, counter))
        });
        let dropped = reasons.collect::<prometheus::Result<_>>()?;
        Ok(Self {
            exported,
            dropped: Arc::new(dropped),
        })
    }

    fn dropped(&self, why: Dropped, spans: usize) {
        let mut all = self.dropped.iter();
        if let Some((_, counter)) = all.find(|(other, _)| *other == why) {
            counter.inc_by(u64::try_from(spans).unwrap_or(u64::MAX));
        }
    }
}

/// What waits to be sent. Requests put spans in, one thread takes them out.
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    wake: Condvar,
    ended: Condvar,
    metrics: Metrics,
}

#[derive(Default)]
struct Inner {
    spans: VecDeque<Span>,
    /// How many are on their way.
    sending: usize,
    /// Until when what waits may still be sent, once the server stops.
    stop: Option<Instant>,
    ended: bool,
}

impl SpanSink for Queue {
    fn take(&self, spans: Vec<Span>) {
        let mut inner = self.inner.lock();
        if inner.ended {
            return self.metrics.dropped(Dropped::Stopped, spans.len());
        }
        let before = inner.spans.len();
        if before + spans.len() > MAX_WAITING {
            return self.metrics.dropped(Dropped::QueueFull, spans.len());
        }
        inner.spans.extend(spans);
        if before < BATCH && inner.spans.len() >= BATCH {
            self.wake.notify_one();
        }
    }
}

/// The thread that sends spans; clones are of the same.
#[derive(Clone)]
pub(crate) struct Exporter {
    queue: Arc<Queue>,
    ratio: f64,
}

impl Exporter {
    /// Starts it.
    ///
    /// # Errors
    /// Where the system has no more threads.
    pub(crate) fn start(
        settings: &TraceSettings,
        post: Box<dyn Post>,
        metrics: Metrics,
    ) -> io::Result<Self> {
        let queue = Arc::new(Queue {
            inner: Mutex::default(),
            wake: Condvar::new(),
            ended: Condvar::new(),
            metrics,
        });
        let mut sender = Sender {
            queue: Arc::clone(&queue),
            resource: Resource {
                service_name: settings.service_name.clone(),
                instance_id: uuid::Uuid::now_v7().to_string(),
            },
            post,
            away: false,
        };
        let thread = thread::Builder::new().name("traces".to_owned());
        thread.spawn(move || sender.run())?;
        let ratio = settings.ratio;
        Ok(Self { queue, ratio })
    }

    /// What the API is told: which requests to trace, and where their spans go.
    pub(crate) fn traces(&self) -> Traces {
        let sink = Arc::clone(&self.queue);
        Traces {
            ratio: self.ratio,
            sink,
        }
    }

    /// Sends what waits, in no more time than is left and a few seconds; what can't be sent by then is
    /// dropped.
    pub(crate) fn stop(&self, left: Duration) {
        let until = Instant::now() + left.min(STOP_LIMIT);
        let mut inner = self.queue.inner.lock();
        inner.stop = Some(until);
        self.queue.wake.notify_one();
        while !inner.ended {
            if self.queue.ended.wait_until(&mut inner, until).timed_out() {
                let left = inner.spans.len() + inner.sending;
                inner.spans.clear();
                inner.ended = true;
                drop(inner);
                self.queue.metrics.dropped(Dropped::Stopped, left);
                tracing::warn!("not all traces were sent before the end");
                return;
            }
        }
    }
}

struct Sender {
    queue: Arc<Queue>,
    resource: Resource,
    post: Box<dyn Post>,
    /// The last batch was not taken, which has been said.
    away: bool,
}

impl Sender {
    fn run(&mut self) {
        loop {
            let (spans, stop) = self.next();
            if !spans.is_empty() {
                self.send(&spans, stop);
            } else if stop.is_some() {
                break;
            }
        }
        self.queue.inner.lock().ended = true;
        self.queue.ended.notify_all();
    }

    /// What is to be sent next, and until when, once the server stops.
    fn next(&self) -> (Vec<Span>, Option<Instant>) {
        let mut inner = self.queue.inner.lock();
        if inner.spans.len() < BATCH && inner.stop.is_none() {
            let until = Instant::now() + GATHER;
            let more = |inner: &mut Inner| inner.spans.len() < BATCH && inner.stop.is_none();
            self.queue.wake.wait_while_until(&mut inner, more, until);
        }
        let many = inner.spans.len().min(BATCH);
        inner.sending = many;
        (inner.spans.drain(..many).collect(), inner.stop)
    }

    fn send(&mut self, spans: &[Span], stop: Option<Instant>) {
        let metrics = self.queue.metrics.clone();
        let Ok(body) = otlp::body(&self.resource, spans) else {
            return metrics.dropped(Dropped::Rejected, spans.len());
        };
        let mut stop = stop;
        for left in (0..TRIES).rev() {
            let limit = stop.map_or(POST_LIMIT, |until| {
                until.saturating_duration_since(Instant::now())
            });
            if limit.is_zero() {
                return metrics.dropped(Dropped::Stopped, spans.len());
            }
            let why = match self.post.post(&body, limit.min(POST_LIMIT)) {
                Answer::Taken(answer) => {
                    let rejected = usize::try_from(otlp::rejected(&answer)).unwrap_or(usize::MAX);
                    return self.taken(spans.len(), rejected.min(spans.len()));
                }
                Answer::Refused(why) => {
                    metrics.dropped(Dropped::Rejected, spans.len());
                    return self.say(&why);
                }
                Answer::Away(why) => why,
            };
            if left == 0 || stop.is_some() {
                metrics.dropped(Dropped::Unreachable, spans.len());
                return self.say(&why);
            }
            stop = self.pause(PAUSE * (1 << (TRIES - 1 - left)));
        }
    }

    /// Waits before the next try, less where the server stops; until when there is time then.
    fn pause(&self, pause: Duration) -> Option<Instant> {
        let mut inner = self.queue.inner.lock();
        let until = Instant::now() + pause;
        let going = |inner: &mut Inner| inner.stop.is_none();
        self.queue.wake.wait_while_until(&mut inner, going, until);
        inner.stop
    }

    fn taken(&mut self, spans: usize, rejected: usize) {
        let metrics = &self.queue.metrics;
        let taken = u64::try_from(spans.saturating_sub(rejected));
        metrics.exported.inc_by(taken.unwrap_or(u64::MAX));
        metrics.dropped(Dropped::Rejected, rejected);
        if std::mem::take(&mut self.away) {
            tracing::info!("traces are taken again");
        }
    }

    /// Says once why nothing is taken, until something is.
    fn say(&mut self, why: &str) {
        if !std::mem::replace(&mut self.away, true) {
            tracing::warn!(
                why,
                "traces are not taken by the collector of tracing.otlp_endpoint, and are dropped; requests are answered all the same"
            );
        }
    }
}

#[cfg(test)]
mod tests;
