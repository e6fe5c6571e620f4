//! The way through the log: what each fate is answered with.

use futures_util::FutureExt;
use futures_util::future::join_all;
use prometheus::Registry;
use tally_domain::ResourceType;
use tally_log::storage::RealStorage;
use tally_log::{LogHealth, ReadError};
use tally_projector::Options;
use tempfile::TempDir;

use super::*;
use crate::memory_log::{Fate, MemoryLog};

const PARTITIONS: u32 = 4;
/// Longer than any test may take, for limits that are not to be reached.
const LONG: Duration = Duration::from_secs(60);
/// For limits that are to be reached.
const SHORT: Duration = Duration::from_millis(30);

/// A log in memory and a projector that follows it.
struct World {
    registry: Registry,
    log: MemoryLog,
    projector: Arc<Projector>,
    metrics: Metrics,
    _dir: TempDir,
}

impl World {
    fn new() -> Self {
        Self::with_waiters(10_000)
    }

    fn with_waiters(max_waiters: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = MemoryLog::new(PARTITIONS);
        let registry = Registry::new();
        let options = Options {
            sled_cache_bytes: 1 << 20,
            max_waiters,
            ..Options::default()
        };
        let storage = Arc::new(RealStorage);
        let projector = Projector::open(log.arc(), storage, dir.path(), options, &registry);
        Self {
            projector: Arc::new(projector.unwrap()),
            metrics: Metrics::register(&registry).unwrap(),
            registry,
            log,
            _dir: dir,
        }
    }

    fn ingest(&self, verdict: Duration, log: Duration) -> Ingest {
        let limits = WaitLimits { verdict, log };
        let projector = Arc::clone(&self.projector);
        Ingest::start(self.log.arc(), projector, limits, self.metrics.clone())
    }

    fn waiters(&self) -> usize {
        self.projector.status().waiters
    }

    /// How many waits for the fold came to `folded`, `timed_out` and `gone`.
    fn waits(&self) -> [u64; 3] {
        let families = self.registry.gather();
        let name = "tally_projector_waits_total";
        let family = families
            .iter()
            .find(|family| family.name() == name)
            .unwrap();
        ["folded", "timed_out", "gone"].map(|result| {
            let mut all = family.get_metric().iter();
            let of_it = all.find(|metric| metric.get_label()[0].value() == result);
            of_it.unwrap().get_counter().get_value() as u64
        })
    }

    fn records(&self) -> usize {
        (0..PARTITIONS).map(|p| self.log.values(p).len()).sum()
    }

    /// The fold sees nothing of what is appended from now on.
    fn stop_the_fold(&self) {
        let away = ReadError::Unavailable("as the test wants it".to_owned());
        self.log.set_unreadable(Some(away));
    }
}

fn quest(id: u64) -> Resource {
    Resource::new(ResourceType::Quest, id).unwrap()
}

async fn record(ingest: &Ingest, on: u64, what: InteractionType) -> Result<Recorded, ApiError> {
    let user = UserId::new("someone").unwrap();
    ingest.record(user, quest(on), what, None, None).await
}

async fn with_key(ingest: &Ingest, what: InteractionType) -> Result<Recorded, ApiError> {
    let key = IdempotencyKey::new("k").ok();
    let user = UserId::new("someone").unwrap();
    ingest.record(user, quest(1), what, key, None).await
}

/// Protects the answer: the verdict on this very event, the state with it, and where it stands.
#[actix_web::test]
async fn the_answer_is_the_verdict_on_ones_own_event() {
    let world = World::new();
    let ingest = world.ingest(LONG, LONG);
    let home = quest(1).partition(PARTITIONS);
    for (offset, outcome, likes) in [(0, Outcome::Applied, 1), (1, Outcome::NoChange, 1)] {
        let liked = record(&ingest, 1, InteractionType::Like).await.unwrap();
        assert_eq!(
            (liked.outcome, liked.counters.likes),
            (Some(outcome), likes)
        );
        assert!(liked.toggles.liked);
        let position = Position {
            partition: home,
            offset,
        };
        assert_eq!(liked.position, PositionToken::new(ingest.log_id, position));
        let kept = &world.log.values(home)[usize::try_from(offset).unwrap()];
        assert!(kept.contains(&liked.event_id.to_string()), "{kept}");
    }
    assert_eq!(world.waiters(), 0);
    assert_eq!(world.waits(), [2, 0, 0]);
}

/// Protects retries: the same key is a duplicate with an event of its own, or a conflict.
#[actix_web::test]
async fn a_key_that_comes_again_is_a_duplicate_or_a_conflict() {
    let world = World::new();
    let ingest = world.ingest(LONG, LONG);
    let first = with_key(&ingest, InteractionType::View).await.unwrap();
    let retry = with_key(&ingest, InteractionType::View).await.unwrap();
    assert_eq!(first.outcome, Some(Outcome::Applied));
    assert_eq!(retry.outcome, Some(Outcome::Duplicate));
    assert_eq!(retry.counters.views, 1);
    assert_ne!(first.event_id, retry.event_id);
    assert_ne!(first.position, retry.position);
    let other = with_key(&ingest, InteractionType::Share).await;
    assert_eq!(other, Err(ApiError::KeyReused));
}

/// Protects clients from taking for recorded what is not, and for lost what may be there.
#[actix_web::test]
async fn what_the_log_does_not_acknowledge_is_503_of_its_kind() {
    let world = World::new();
    let ingest = world.ingest(LONG, LONG);
    let started = std::time::Instant::now();
    let text = || "as the test wants it".to_owned();
    // What is of unknown fate then is never known.
    world.log.set_health(LogHealth::Failed(text()));
    let refused = Fate::Refused;
    let failed = Fate::Failed;
    let unavailable = ApiError::Unavailable;
    let cases = [
        (
            refused(AppendRefused::QueueFull { queued_bytes: 1 }),
            unavailable(TOO_MANY),
        ),
        (
            refused(AppendRefused::Closed(text())),
            unavailable(NOT_WRITTEN),
        ),
        (
            refused(AppendRefused::Unreachable(text())),
            unavailable(UNREACHABLE),
        ),
        (
            failed(AppendError::NotWritten(text())),
            unavailable(NOT_WRITTEN),
        ),
        (
            failed(AppendError::DiskFull(text())),
            unavailable(DISK_FULL),
        ),
        (
            failed(AppendError::TimedOut(text())),
            unavailable(TIMED_OUT),
        ),
        (
            failed(AppendError::Unauthorized(text())),
            unavailable(UNAUTHORIZED),
        ),
        (
            failed(AppendError::TooLarge(text())),
            unavailable(TOO_LARGE),
        ),
        (
            failed(AppendError::FateUnknown(text())),
            ApiError::FateUnknown,
        ),
        (Fate::Panics, ApiError::FateUnknown),
    ];
    for (fate, error) in cases {
        world.log.set_fate(fate.clone());
        let both = [
            record(&ingest, 1, InteractionType::View),
            record(&ingest, 2, InteractionType::View),
        ];
        for answer in join_all(both).await {
            assert_eq!(answer, Err(error.clone()), "{fate:?}");
        }
        assert_eq!(world.waiters(), 0, "{fate:?}");
    }
    assert!(started.elapsed() < LONG, "told at once");
    // The thread's way into the log is as good as before.
    world.log.set_health(LogHealth::Ok);
    world.log.set_fate(Fate::Taken);
    let view = record(&ingest, 1, InteractionType::View).await.unwrap();
    assert_eq!((view.outcome, world.records()), (Some(Outcome::Applied), 1));
}

/// Protects a true answer where the log does not know: the fold does, once it sees the event.
#[actix_web::test]
async fn an_event_of_unknown_fate_that_the_fold_sees_has_its_verdict() {
    let world = World::new();
    let patient = world.ingest(LONG, LONG);
    let first = with_key(&patient, InteractionType::View).await.unwrap();
    assert_eq!(first.outcome, Some(Outcome::Applied));
    // Told of it within the limit for the verdict, and past it.
    for (verdict, outcome) in [
        (LONG, Ok(Some(Outcome::Duplicate))),
        (Duration::ZERO, Ok(Some(Outcome::Duplicate))),
    ] {
        let ingest = world.ingest(verdict, LONG);
        world.stop_the_fold();
        world.log.set_fate(Fate::Unknown);
        let mut again = Box::pin(with_key(&ingest, InteractionType::View));
        let mut other = Box::pin(with_key(&ingest, InteractionType::Share));
        for waiting in [&mut again, &mut other] {
            assert!(timeout(SHORT, waiting).await.is_err(), "it waits");
        }
        assert_eq!(world.waiters(), 2);
        world.log.set_unreadable(None);
        assert_eq!(again.await.map(|recorded| recorded.outcome), outcome);
        assert_eq!(other.await, Err(ApiError::KeyReused));
        assert_eq!(world.waiters(), 0);
    }
}

/// Protects a client from waiting for ever for an event that never comes: until the limit of the
/// log, which holds from the append on.
#[actix_web::test]
async fn an_event_of_unknown_fate_is_waited_for_until_the_limit() {
    let world = World::new();
    let unknown = AppendError::FateUnknown("as the test wants it".to_owned());
    world.log.set_fate(Fate::Failed(unknown));
    let ingest = world.ingest(LONG, LONG * 5);
    tokio::time::pause();
    let started = Instant::now();
    let answer = record(&ingest, 1, InteractionType::View).await;
    assert_eq!(answer, Err(ApiError::FateUnknown));
    assert_eq!(started.elapsed().as_secs(), 5 * LONG.as_secs());
    assert_eq!(world.waiters(), 0);
}

/// Protects a client's trace from being cut, and each record from having none.
#[actix_web::test]
async fn the_trace_is_the_requests_or_begins_with_the_event() {
    let world = World::new();
    let ingest = world.ingest(LONG, LONG);
    let home = quest(1).partition(PARTITIONS);
    let own = record(&ingest, 1, InteractionType::View).await.unwrap();
    let clients: TraceParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        .parse()
        .unwrap();
    let user = UserId::new("someone").unwrap();
    let traced = ingest.record(user, quest(1), InteractionType::View, None, Some(clients));
    assert!(traced.await.is_ok());
    let begun = TraceParent::of_event(own.event_id);
    assert_eq!(world.log.traces(home), [Some(begun), Some(clients)]);
}

/// Protects the promise that a success is durable: a fold that is late does not fail what is in
/// the log, but what the log has said nothing of is no success either.
#[actix_web::test]
async fn past_the_limit_the_log_decides() {
    let world = World::new();
    world.stop_the_fold();
    let ingest = world.ingest(SHORT, SHORT * 4);
    let late = record(&ingest, 1, InteractionType::Like).await.unwrap();
    assert_eq!(
        (late.outcome, late.counters.likes, late.toggles.liked),
        (None, 0, false)
    );
    let position = Position {
        partition: quest(1).partition(PARTITIONS),
        offset: 0,
    };
    assert_eq!(late.position, PositionToken::new(ingest.log_id, position));
    assert_eq!(world.waiters(), 0, "nobody waits for it any more");

    world.log.set_fate(Fate::Silent);
    let silent = record(&ingest, 1, InteractionType::Like).await;
    assert_eq!(silent, Err(ApiError::FateUnknown));
    assert_eq!(world.waiters(), 0);

    // The verdict may come after the limit, and is as good.
    let patient = world.ingest(Duration::ZERO, LONG);
    let mut answer = Box::pin(record(&patient, 2, InteractionType::View));
    assert_eq!((&mut answer).now_or_never(), None);
    world.log.set_unreadable(None);
    assert_eq!(answer.await.unwrap().outcome, Some(Outcome::Applied));
    assert_eq!(world.waits(), [0, 3, 0], "each was past its limit");
}

/// Protects a client from waiting for a fold that has ended for good.
#[actix_web::test]
async fn an_event_in_the_log_is_a_success_although_the_fold_has_ended() {
    let world = World::new();
    let damaged = ReadError::Damaged {
        place: "here".to_owned(),
        what: "all".to_owned(),
    };
    world.log.set_unreadable(Some(damaged));
    let ingest = world.ingest(LONG, LONG);
    let started = std::time::Instant::now();
    let mut answer = record(&ingest, 1, InteractionType::View).await;
    // The first may be what the fold fails at.
    for _ in 0..2 {
        assert_eq!(answer.map(|recorded| recorded.outcome), Ok(None));
        answer = record(&ingest, 1, InteractionType::View).await;
    }
    assert!(started.elapsed() < LONG);
}

/// Protects the promise of what may follow an append: no success that does not count, and no error
/// that says nothing of the event.
#[actix_web::test]
async fn a_dead_letter_is_of_unknown_fate() {
    let world = World::new();
    world.log.set_append_time(0);
    let ingest = world.ingest(LONG, LONG);
    let answer = record(&ingest, 1, InteractionType::View).await;
    assert_eq!(answer, Err(ApiError::FateUnknown));
}

/// Protects a client from waiting longer for a log that hangs than was promised.
#[actix_web::test]
async fn a_log_that_says_nothing_is_waited_for_once() {
    let world = World::new();
    world.log.set_fate(Fate::Silent);
    // The event is there, and the fold would answer with it.
    world.stop_the_fold();
    let ingest = world.ingest(LONG, LONG * 5);
    tokio::time::pause();
    let started = Instant::now();
    let answer = record(&ingest, 1, InteractionType::View).await;
    assert_eq!(answer, Err(ApiError::FateUnknown));
    assert_eq!(started.elapsed().as_secs(), 5 * LONG.as_secs());
}

/// Protects memory, and the events of clients that hang up: recorded all the same, waited for by
/// nobody.
#[actix_web::test]
async fn a_client_that_hangs_up_leaves_no_waiter() {
    let world = World::new();
    world.stop_the_fold();
    let ingest = world.ingest(LONG, LONG);
    {
        let hung_up = record(&ingest, 1, InteractionType::View);
        assert!(tokio::time::timeout(SHORT, hung_up).await.is_err());
    }
    assert_eq!((world.waiters(), world.records()), (0, 1));
    // Hung up before the turn of the append.
    let one_look = record(&ingest, 1, InteractionType::View).now_or_never();
    assert_eq!(one_look, None);
    assert_eq!(world.waiters(), 0);
    world.log.set_unreadable(None);
    let view = record(&ingest, 1, InteractionType::View).await.unwrap();
    assert_eq!((view.counters.views, world.records()), (3, 3));
}

/// Protects the rate: requests of one turn share one append, up to a bound.
#[actix_web::test]
async fn requests_of_one_turn_are_one_append() {
    let world = World::new();
    let ingest = world.ingest(LONG, LONG);
    let turns = [(100, 1), (1, 1), (crate::api::batch::MAX_RECORDS + 5, 2)];
    for (many, appends) in turns {
        let before = world.log.appends();
        let id = |n: usize| u64::try_from(n).unwrap();
        let turn = (0..many).map(|n| record(&ingest, id(n), InteractionType::View));
        for (n, answer) in join_all(turn).await.into_iter().enumerate() {
            assert_eq!(answer.unwrap().outcome, Some(Outcome::Applied), "{n}");
        }
        assert_eq!(world.log.appends() - before, appends, "{many} requests");
    }
}

/// Protects memory, and a refused client from half a record.
#[actix_web::test]
async fn past_the_bound_of_waiters_nothing_is_appended() {
    let world = World::with_waiters(3);
    let ingest = world.ingest(LONG, LONG);
    let all = join_all((0..5).map(|n| record(&ingest, n, InteractionType::View))).await;
    let refused = all
        .iter()
        .filter(|answer| **answer == Err(ApiError::Unavailable(TOO_MANY)));
    assert_eq!((refused.count(), world.records()), (2, 3));
    assert!(record(&ingest, 1, InteractionType::View).await.is_ok());
}
