//! Follows the source of the keys: a thread of its own looks at files each second, and at an
//! address now and then, or when a token names a key that is not known.
//!
//! Whoever sends tokens can make up names of keys. So the address is asked no more often than
//! `min_refresh` whatever comes, and a name that it did not have is not asked about again for a
//! while.

use std::hash::BuildHasher as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use parking_lot::{Condvar, Mutex};
use prometheus::{Gauge, IntCounter, IntGauge, Registry};
use tally_log::metric::Declare;
use tokio::sync::watch;

use super::keys::Keys;
use super::source::{KeySource, Look, Stamp};
use super::{Algorithm, JwtKeysError};
use crate::metrics::{JWT_KEY_READS, JWT_KEYS, JWT_KEYS_READ};

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After how long keys that stay bad are said to be bad again.
const REMIND_AFTER: Duration = Duration::from_secs(60);
/// How long a request waits for a look that its token asked for.
const WAIT: Duration = Duration::from_secs(2);
/// How long a name that was not there is not asked about again.
const ABSENT_FOR: Duration = Duration::from_secs(60);
/// How many such names are remembered.
const MAX_ABSENT: usize = 1_024;

/// When the source is looked at.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    /// After a look that went well.
    every: Duration,
    /// After one that did not.
    retry: Duration,
    /// The least time between two that tokens ask for; `None` where they can't.
    on_demand: Option<Duration>,
    /// How long keys hold that can't be looked at; `None` for ever.
    keep: Option<Duration>,
}

/// Knows the keys. Follows their source until it is dropped.
pub(super) struct Follower {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    keys: ArcSwap<Keys>,
    demand: Mutex<Demand>,
    wake: Condvar,
    /// How many looks there were.
    looks: watch::Sender<u64>,
    schedule: Schedule,
    names: foldhash::fast::RandomState,
    metrics: Metrics,
}

/// What is asked of the thread.
#[derive(Default)]
struct Demand {
    ended: bool,
    /// A look is wanted, or under way because it was.
    wanted: bool,
    /// When the last one ended.
    last: Option<Instant>,
    /// Hashes of names that were asked about, and when.
    absent: HashMap<u64, Instant>,
}

struct Metrics {
    good: IntCounter,
    failed: IntCounter,
    keys: IntGauge,
    read_at: Gauge,
}

/// What the thread knows of the source.
struct Watched {
    source: KeySource,
    algorithms: Vec<Algorithm>,
    stamp: Option<Stamp>,
    good: Instant,
    /// When the source was last said to be bad; `None` while it is good.
    said: Option<Instant>,
}

impl Follower {
    /// Reads the keys where they are in files, and starts to follow them.
    pub(super) fn start(
        source: KeySource,
        algorithms: Vec<Algorithm>,
        registry: &Registry,
    ) -> Result<Self, JwtKeysError> {
        Self::looking_every(LOOK_EVERY, source, algorithms, registry)
    }

    pub(super) fn looking_every(
        pause: Duration,
        source: KeySource,
        algorithms: Vec<Algorithm>,
        registry: &Registry,
    ) -> Result<Self, JwtKeysError> {
        let schedule = Schedule::of(&source, pause);
        let metrics = Metrics::register(registry)?;
        let mut watched = Watched {
            source,
            algorithms,
            stamp: None,
            good: Instant::now(),
            said: None,
        };
        let mut keys = Arc::<Keys>::default();
        // An issuer that is away keeps nobody from starting who has an API key.
        let at_once = schedule.on_demand.is_none();
        if at_once {
            if let Look::New(stamp, read) = watched.source.look(&watched.algorithms, None)? {
                metrics.read(read.len());
                watched.stamp = Some(stamp);
                keys = read;
            }
            watched.source.warn_of_readable_secrets();
        }
        let shared = Arc::new(Shared {
            keys: ArcSwap::new(keys),
            demand: Mutex::new(Demand {
                wanted: !at_once,
                ..Demand::default()
            }),
            wake: Condvar::new(),
            looks: watch::Sender::new(0),
            schedule,
            names: foldhash::fast::RandomState::default(),
            metrics,
        });
        let followed = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("tally-jwt-keys".to_owned())
            .spawn(move || followed.follow(&mut watched))
            .map_err(JwtKeysError::Thread)?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// The keys that hold now.
    pub(super) fn keys(&self) -> arc_swap::Guard<Arc<Keys>> {
        self.shared.keys.load()
    }

    /// Asks for a look, where a token named a key that is not known and one may be had now.
    pub(super) fn want(&self, kid: Option<&str>) {
        let Some(least) = self.shared.schedule.on_demand else {
            return;
        };
        let (now, name) = (Instant::now(), self.shared.names.hash_one(kid));
        let mut demand = self.shared.demand.lock();
        let within = |since: Option<&Instant>, limit: Duration| {
            since.is_some_and(|since| now.duration_since(*since) < limit)
        };
        if demand.wanted
            || within(demand.last.as_ref(), least)
            || within(demand.absent.get(&name), ABSENT_FOR)
        {
            return;
        }
        if demand.absent.len() >= MAX_ABSENT {
            // The least time between looks is then the only bound.
            demand.absent.clear();
        }
        demand.absent.insert(name, now);
        demand.wanted = true;
        self.shared.wake.notify_all();
    }

    /// Waits, within a bound, for a look that is wanted or under way; returns at once where none is.
    pub(super) async fn looked(&self) {
        // Before it is asked whether one is wanted: its end is not missed then.
        let mut looks = self.shared.looks.subscribe();
        if self.shared.demand.lock().wanted {
            // Too late is as good as not at all: the token is looked at once more either way.
            let _ = tokio::time::timeout(WAIT, looks.changed()).await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.shared.demand.lock().ended = true;
        self.shared.wake.notify_all();
        // A look at an address may take seconds; nobody waits for it, and it changes nothing.
        let at_once = self.shared.schedule.on_demand.is_none();
        if let Some(thread) = self.thread.take().filter(|_| at_once) {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl Schedule {
    fn of(source: &KeySource, pause: Duration) -> Self {
        match source {
            KeySource::Secrets(_) | KeySource::PublicKeys(_) | KeySource::JwksFile(_) => Self {
                every: pause,
                retry: pause,
                on_demand: None,
                keep: None,
            },
            KeySource::JwksUrl {
                refresh,
                min_refresh,
                keep,
                ..
            } => Self {
                every: *refresh,
                retry: *min_refresh,
                on_demand: Some(*min_refresh),
                keep: Some(*keep),
            },
        }
    }
}

impl Shared {
    fn follow(&self, watched: &mut Watched) {
        let mut due = Instant::now() + self.schedule.every;
        loop {
            {
                let mut demand = self.demand.lock();
                while !demand.ended && !demand.wanted && Instant::now() < due {
                    self.wake.wait_until(&mut demand, due);
                }
                if demand.ended {
                    return;
                }
            }
            let good = self.look(watched);
            let now = Instant::now();
            due = now
                + if good {
                    self.schedule.every
                } else {
                    self.schedule.retry
                };
            {
                let mut demand = self.demand.lock();
                demand.wanted = false;
                demand.last = Some(now);
                if !good {
                    // Nothing was learned of any name.
                    demand.absent.clear();
                }
            }
            self.looks
                .send_modify(|looks| *looks = looks.wrapping_add(1));
        }
    }

    /// One look; whether it went well.
    fn look(&self, watched: &mut Watched) -> bool {
        let look = catch_unwind(AssertUnwindSafe(|| {
            watched.source.look(&watched.algorithms, watched.stamp)
        }));
        let look = look.unwrap_or_else(|_| {
            Err(JwtKeysError::Url(
                "can't be had: a panic, see above".to_owned(),
            ))
        });
        let setting = watched.source.setting();
        match look {
            Ok(look) => {
                let again = watched.said.take().is_some();
                watched.good = Instant::now();
                if let Look::New(stamp, keys) = look {
                    watched.stamp = Some(stamp);
                    tracing::info!(setting, keys = keys.len(), "keys of tokens read");
                    self.metrics.read(keys.len());
                    self.keys.store(keys);
                } else {
                    self.metrics.looked(self.schedule.on_demand.is_some());
                    if again {
                        tracing::info!(setting, "the keys of tokens can be read again");
                    }
                }
                true
            }
            Err(error) => {
                self.failed(watched, &error);
                false
            }
        }
    }

    /// Says it, now and then, and ends keys that were taken out of their set, or that nobody
    /// vouched for in too long.
    fn failed(&self, watched: &mut Watched, error: &JwtKeysError) {
        self.metrics.failed.inc();
        let taken_out = matches!(error, JwtKeysError::NoKey { .. });
        let over = self
            .schedule
            .keep
            .is_some_and(|keep| watched.good.elapsed() > keep);
        let keys = self.keys.load().len();
        if (taken_out || over) && keys > 0 {
            // The same content may come again, and is then other keys than none.
            watched.stamp = None;
            watched.said = Some(Instant::now());
            self.keys.store(Arc::default());
            self.metrics.keys.set(0);
            let why = if taken_out {
                "its key was taken out of the set"
            } else {
                "its keys could not be read for longer than auth.jwt.jwks_keep"
            };
            tracing::error!(%error, "no token is valid any more: {why}");
        } else if watched
            .said
            .is_none_or(|said| said.elapsed() >= REMIND_AFTER)
        {
            watched.said = Some(Instant::now());
            if keys > 0 {
                tracing::error!(
                    %error,
                    keys,
                    "the keys of tokens can't be read; those read before hold meanwhile"
                );
            } else {
                tracing::error!(%error, "no token is valid: there are no keys to check it with");
            }
        }
    }
}

impl Metrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let declare = Declare::with(registry);
        let reads = declare.counters(&JWT_KEY_READS)?;
        Ok(Self {
            good: reads.get_metric_with_label_values(&["ok"])?,
            failed: reads.get_metric_with_label_values(&["failed"])?,
            keys: declare.gauge(&JWT_KEYS)?,
            read_at: declare.float_gauge(&JWT_KEYS_READ)?,
        })
    }

    fn read(&self, keys: usize) {
        self.keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
        self.looked(true);
    }

    fn looked(&self, counts: bool) {
        if counts {
            self.good.inc();
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.read_at
            .set(now.unwrap_or_default().as_secs_f64().floor());
    }
}

#[cfg(test)]
mod tests;
