//! What the tests share: a log in memory that can be given gaps, cut, swapped and broken; short
//! ways to make events; and the fold of a whole log to compare with.

mod faults;
mod log;
pub(crate) mod objects;
mod reference;

use std::future::Future;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::Registry;
use tally_domain::{
    Event, EventId, EventTime, IdempotencyKey, InteractionType, Position, Resource, ResourceType,
    UserId,
};
use tally_log::storage::{RealStorage, Storage};
use tally_projector::store::Store;
use tally_projector::{EventFate, Mailbox, OpenError, Options, Projector, StoreError};
use tokio::sync::oneshot;

pub(crate) use self::faults::{FaultyDisk, FaultyStore, ReadTrap, photograph};
pub(crate) use self::log::{Appends, MemoryLog, NOW, PARTITIONS};
pub(crate) use self::reference::{folded, folded_below, settled, verdicts};

/// Longer than anything here takes, so that a test that waits in vain ends.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn options() -> Options {
    // Checkpoints only when a test asks: what a crash finds is then the test's choice.
    Options {
        workers: 2,
        checkpoint_interval: Duration::from_secs(3_600),
        sled_cache_bytes: 1 << 20,
        ..Options::default()
    }
}

/// How a test opens a projector.
pub(crate) struct Opening {
    pub(crate) options: Options,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) registry: Registry,
}

impl Default for Opening {
    fn default() -> Self {
        Self {
            options: options(),
            storage: Arc::new(RealStorage),
            registry: Registry::new(),
        }
    }
}

impl Opening {
    pub(crate) fn with(options: Options) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// On a disk that a test can break.
    pub(crate) fn on(disk: &FaultyDisk) -> Self {
        Self {
            storage: Arc::new(disk.clone()),
            ..Self::default()
        }
    }

    pub(crate) fn try_open(&self, log: &MemoryLog, dir: &Path) -> Result<Projector, OpenError> {
        let storage = Arc::clone(&self.storage);
        let options = self.options.clone();
        Projector::open(log.arc(), storage, dir, options, &self.registry)
    }

    /// Opens on a store that a test can break.
    pub(crate) fn open_faulty(&self, log: &MemoryLog, dir: &Path) -> (Projector, FaultyStore) {
        let opened = Arc::new(parking_lot::Mutex::new(None));
        let seen = Arc::clone(&opened);
        let open = move |dir: &Path| -> Result<Box<dyn Store>, StoreError> {
            let store = FaultyStore::open(dir)?;
            *seen.lock() = Some(store.clone());
            Ok(Box::new(store))
        };
        let storage = Arc::clone(&self.storage);
        let options = self.options.clone();
        let log = log.arc();
        let projector =
            Projector::open_on(Box::new(open), log, storage, dir, options, &self.registry).unwrap();
        let store = opened.lock().take().unwrap();
        (projector, store)
    }

    pub(crate) fn open(&self, log: &MemoryLog, dir: &Path) -> Projector {
        self.try_open(log, dir).unwrap()
    }

    /// A counter, summed over its labels.
    pub(crate) fn counted(&self, name: &str) -> u64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.map_or(&[][..], |family| family.get_metric());
        let sum: f64 = metrics
            .iter()
            .map(|metric| metric.get_counter().get_value())
            .sum();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small count"
        )]
        let whole = sum as u64;
        whole
    }

    /// A gauge that has no labels.
    pub(crate) fn gauge(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        family.unwrap().get_metric()[0].get_gauge().get_value()
    }

    /// How many records were folded or kept as dead letters since the start.
    pub(crate) fn replayed(&self) -> u64 {
        self.counted("tally_projector_events_total")
            + self.counted("tally_projector_dead_letters_total")
    }
}

/// Opens what a crash left: of `log`, so many records must be replayed, and then the state must
/// be the log's fold; and again after a clean stop and a new start.
pub(crate) fn recovers(log: &MemoryLog, dir: &Path, replayed: RangeInclusive<u64>) {
    let opening = Opening::default();
    let projector = opening.open(log, dir);
    catch_up(&projector);
    let count = opening.replayed();
    assert!(replayed.contains(&count), "{count} were replayed");
    assert_eq!(projector.dump().unwrap(), folded(log));
    projector.stop(LIMIT).unwrap();
    drop(projector);

    let opening = Opening::default();
    let projector = opening.open(log, dir);
    catch_up(&projector);
    assert_eq!(opening.replayed(), 0);
    assert_eq!(projector.dump().unwrap(), folded(log));
}

pub(crate) fn try_open(log: &MemoryLog, dir: &Path) -> Result<Projector, OpenError> {
    Opening::default().try_open(log, dir)
}

pub(crate) fn open(log: &MemoryLog, dir: &Path) -> Projector {
    try_open(log, dir).unwrap()
}

/// The refusal of an opening that must not succeed.
pub(crate) fn refusal(opened: Result<Projector, OpenError>) -> OpenError {
    match opened {
        Ok(_) => panic!("it opened"),
        Err(error) => error,
    }
}

/// Runs a future to its end, or fails the test.
pub(crate) fn wait<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime
        .block_on(async { tokio::time::timeout(LIMIT, future).await })
        .unwrap()
}

/// Waits for something another thread does and tells nobody of.
pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is() {
        assert!(started.elapsed() < LIMIT, "never came: {what}");
        std::thread::yield_now();
    }
}

/// Waits until everything that is in the log now is applied.
pub(crate) fn catch_up(projector: &Projector) {
    let mailbox = Mailbox::direct();
    for (partition, head) in (0..).zip(projector.log().head().unwrap()) {
        if let Some(offset) = head.checked_sub(1) {
            let position = Position { partition, offset };
            let applied = projector.wait_for_position(position, &mailbox).unwrap();
            wait(applied).unwrap();
        }
    }
}

/// Registers a waiter that is woken by itself.
pub(crate) fn waiter(projector: &Projector, event: &Event) -> oneshot::Receiver<EventFate> {
    let partition = event
        .resource
        .partition(projector.log().identity().partitions);
    projector
        .wait_for_event(partition, event.id, &Mailbox::direct())
        .unwrap()
}

pub(crate) fn resource(id: u64) -> Resource {
    Resource::new(ResourceType::AiNote, id).unwrap()
}

pub(crate) fn user(name: u64) -> UserId {
    UserId::new(format!("user-{name}")).unwrap()
}

pub(crate) fn event(by: u64, id: u64, interaction: InteractionType, key: Option<u64>) -> Event {
    Event {
        id: EventId::now_v7(),
        at: EventTime::from_millis(NOW),
        user: user(by),
        resource: resource(id),
        interaction,
        idempotency_key: key.map(|key| IdempotencyKey::new(format!("key-{key}")).unwrap()),
    }
}

/// Every interaction by a few users on a few resources, so that toggles flip, keys come again with
/// the same interaction and with another, and every partition has something.
pub(crate) fn history(seed: u64, length: u64) -> Vec<Event> {
    let all = InteractionType::ALL;
    (seed..seed + length)
        .map(|n| {
            let mixed = mix(n);
            let kind = usize::try_from(mixed % 7).unwrap();
            let key = (mixed >> 8 & 1 == 0).then_some(mixed >> 16 & 3);
            event(mixed >> 24 & 3, mixed >> 32 & 15, all[kind], key)
        })
        .collect()
}

/// Steele, Lea and Flood's SplitMix64: numbers without a pattern, the same ones always.
fn mix(n: u64) -> u64 {
    let mut mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}
