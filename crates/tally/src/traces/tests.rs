//! What becomes of spans where the collector is as it likes.

use std::sync::mpsc;

use super::*;

fn spans(many: usize) -> Vec<Span> {
    let span = Span {
        trace_id: [1; 16],
        span_id: [2; 8],
        parent_id: None,
        name: "test",
        kind: tally_ingress::traces::SpanKind::Server,
        start: 1,
        end: 2,
        error: None,
        attributes: Vec::new(),
    };
    vec![span; many]
}

/// A collector that answers as it is told, in order, and takes everything after. It says when it was
/// asked.
struct Told(Mutex<VecDeque<Answer>>, mpsc::Sender<()>);

impl Post for Told {
    fn post(&self, _: &[u8], _: Duration) -> Answer {
        let next = self.0.lock().pop_front();
        // Not every test listens.
        let _ = self.1.send(());
        next.unwrap_or_else(|| Answer::Taken(Vec::new()))
    }
}

/// A collector that never answers, until the test ends.
struct Silent(mpsc::Receiver<()>);

impl Post for Silent {
    fn post(&self, _: &[u8], _: Duration) -> Answer {
        let ended = self.0.recv();
        Answer::Away(format!("{ended:?}"))
    }
}

fn exporter(post: Box<dyn Post>) -> Exporter {
    let settings = TraceSettings {
        url: "http://collector.invalid/v1/traces".to_owned(),
        ratio: 1.,
        service_name: "tally".to_owned(),
        headers: Vec::new(),
    };
    let metrics = Metrics::register(&Registry::new()).unwrap();
    Exporter::start(&settings, post, metrics).unwrap()
}

fn told(answers: &[Answer]) -> (Exporter, mpsc::Receiver<()>) {
    let answers = answers.iter().cloned().collect();
    let (asked, asks) = mpsc::channel();
    (exporter(Box::new(Told(Mutex::new(answers), asked))), asks)
}

/// Exported, and dropped by reason.
fn counts(exporter: &Exporter) -> (u64, [u64; 4]) {
    let metrics = &exporter.queue.metrics;
    let dropped = Dropped::ALL.map(|(why, _)| {
        let counter = metrics.dropped.iter().find(|(other, _)| *other == why);
        counter.unwrap().1.get()
    });
    (metrics.exported.get(), dropped)
}

const PATIENCE: Duration = Duration::from_secs(60);

/// Protects the count of what is lost: every span is either exported or dropped for a reason.
#[test]
fn every_span_is_counted_once() {
    let away = Answer::Away("as the test wants it".to_owned());
    let refused = Answer::Refused("as the test wants it".to_owned());
    let partial = Answer::Taken(br#"{"partialSuccess":{"rejectedSpans":"2"}}"#.to_vec());
    for (answers, wanted) in [
        (vec![], (3, [0, 0, 0, 0])),
        (vec![away; 3], (0, [0, 3, 0, 0])),
        (vec![refused], (0, [0, 0, 3, 0])),
        (vec![partial], (1, [0, 0, 2, 0])),
    ] {
        let (exporter, _) = told(&answers);
        exporter.queue.take(spans(3));
        // What waits is sent at a stop, once.
        exporter.stop(PATIENCE);
        assert_eq!(counts(&exporter), wanted, "{answers:?}");
        exporter.queue.take(spans(2));
        let (_, [.., stopped]) = counts(&exporter);
        assert_eq!(stopped, 2, "after the end nothing is taken");
    }
}

/// Protects spans from a collector that is away for a moment only.
#[test]
fn what_is_not_taken_at_once_is_tried_again() {
    let away = Answer::Away("as the test wants it".to_owned());
    let (exporter, asks) = told(&[away]);
    exporter.queue.take(spans(BATCH));
    asks.recv_timeout(PATIENCE).unwrap();
    // A stop shortens the pause.
    exporter.stop(PATIENCE);
    let taken = u64::try_from(BATCH).unwrap();
    assert_eq!(counts(&exporter), (taken, [0; 4]));
}

/// Protects requests and memory from a collector that never answers: what it can't be given is dropped at
/// once, and a stop waits for it no longer than it may.
#[test]
fn a_silent_collector_holds_nobody_up() {
    let (end, ended) = mpsc::channel();
    let exporter = exporter(Box::new(Silent(ended)));
    let more = 100;
    for _ in 0..MAX_WAITING / BATCH + more {
        exporter.queue.take(spans(BATCH));
    }
    let (exported, [full, others @ ..]) = counts(&exporter);
    // One batch may be on its way.
    let least = u64::try_from(BATCH * (more - 1)).unwrap();
    assert!(full >= least, "{full} of at least {least}");
    assert_eq!((exported, others), (0, [0; 3]));
    exporter.stop(Duration::from_millis(50));
    let (_, [_, _, _, stopped]) = counts(&exporter);
    let all = BATCH * (MAX_WAITING / BATCH + more);
    assert_eq!(full + stopped, u64::try_from(all).unwrap());
    drop(end);
}
