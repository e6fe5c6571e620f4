//! Whether the log works, as far as is known, and whether its threads do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::contract::{AppendRefused, LogHealth};

/// How long a thread of ours may take to come back from the library before it counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(20);
/// How long after a failed delivery, with none that succeeded since, the log counts as in trouble.
const TROUBLE_LASTS: Duration = Duration::from_secs(5);

/// What keeps a log from working.
#[derive(Default)]
pub(super) struct Health {
    state: Mutex<State>,
    /// Whether appends are refused, for those that append.
    refuses: AtomicBool,
    /// Whether a delivery failed and none succeeded since, for those that succeed.
    troubled: AtomicBool,
    /// Whether a delivery succeeded since this was last asked.
    delivered: AtomicBool,
    pub(super) watchdog: Watchdog,
}

#[derive(Default)]
struct State {
    /// For good.
    failed: Option<String>,
    /// The cluster gives no answer; it is asked again and again.
    away: Option<String>,
    /// It answers, and can't take records of some partitions now.
    unfit: Option<String>,
    trouble: Option<(Instant, String)>,
}

impl Health {
    /// From now on nothing is appended or read.
    pub(super) fn fail(&self, why: String) {
        tracing::error!(why, "the log has failed; restart when it is mended");
        let mut state = self.state.lock();
        state.failed.get_or_insert(why);
        self.refuses.store(true, Ordering::Release);
    }

    pub(super) fn failed(&self) -> Option<String> {
        self.state.lock().failed.clone()
    }

    /// The cluster gave no answer.
    pub(super) fn away(&self, why: String) {
        let mut state = self.state.lock();
        if state.away.is_none() {
            tracing::warn!(why, "Kafka can't be reached; trying again");
        }
        state.away = Some(why);
        self.refuses.store(true, Ordering::Release);
    }

    pub(super) fn is_away(&self) -> Option<String> {
        self.state.lock().away.clone()
    }

    /// The cluster answers; `unfit` is what keeps it from taking records of some partitions.
    pub(super) fn answers(&self, unfit: Option<String>) {
        let mut state = self.state.lock();
        if state.away.take().is_some() {
            tracing::info!("Kafka can be reached again");
        }
        if state.unfit != unfit {
            match &unfit {
                Some(why) => tracing::warn!(why, "Kafka can't take all records now"),
                None => tracing::info!("Kafka can take all records again"),
            }
        }
        state.unfit = unfit;
        self.refuses
            .store(state.failed.is_some(), Ordering::Release);
    }

    /// A delivery failed.
    pub(super) fn trouble(&self, why: String) {
        self.state.lock().trouble = Some((Instant::now(), why));
        self.troubled.store(true, Ordering::Release);
    }

    /// Whether a delivery succeeded since this was last asked.
    pub(super) fn take_delivered(&self) -> bool {
        self.delivered.swap(false, Ordering::AcqRel)
    }

    /// A delivery succeeded.
    pub(super) fn delivered(&self) {
        if !self.delivered.load(Ordering::Relaxed) {
            self.delivered.store(true, Ordering::Release);
        }
        if self.troubled.load(Ordering::Acquire) {
            self.state.lock().trouble = None;
            self.troubled.store(false, Ordering::Release);
        }
    }

    /// Why appends are refused, where they are.
    pub(super) fn refuses(&self) -> Option<AppendRefused> {
        if !self.refuses.load(Ordering::Acquire) {
            return None;
        }
        let state = self.state.lock();
        let failed = state.failed.clone().map(AppendRefused::Closed);
        failed.or_else(|| state.away.clone().map(AppendRefused::Unreachable))
    }

    pub(super) fn log_health(&self) -> LogHealth {
        let state = self.state.lock();
        if let Some(why) = &state.failed {
            return LogHealth::Failed(why.clone());
        }
        if let Some(why) = self.watchdog.stuck() {
            return LogHealth::Failed(why);
        }
        if let Some(why) = state.away.as_ref().or(state.unfit.as_ref()) {
            return LogHealth::Unreachable(why.clone());
        }
        match &state.trouble {
            Some((at, why)) if at.elapsed() < TROUBLE_LASTS => LogHealth::Unreachable(why.clone()),
            Some(_) | None => LogHealth::Ok,
        }
    }
}

/// Knows when each thread that polls the library was last back from it.
pub(super) struct Watchdog {
    began: Instant,
    pulses: Mutex<Vec<Weak<Pulse>>>,
}

/// One thread's sign of life.
pub(super) struct Pulse {
    thread: String,
    began: Instant,
    /// Milliseconds after `began`.
    last: AtomicU64,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            pulses: Mutex::default(),
        }
    }
}

impl Watchdog {
    /// Watches a thread until it drops its pulse.
    pub(super) fn watch(&self, thread: &str) -> Arc<Pulse> {
        let pulse = Arc::new(Pulse {
            thread: thread.to_owned(),
            began: self.began,
            last: AtomicU64::new(0),
        });
        pulse.beat();
        let mut pulses = self.pulses.lock();
        pulses.retain(|pulse| pulse.strong_count() > 0);
        pulses.push(Arc::downgrade(&pulse));
        pulse
    }

    /// A thread that has not come back for too long.
    fn stuck(&self) -> Option<String> {
        let pulses = self.pulses.lock();
        let mut late = pulses.iter().filter_map(Weak::upgrade);
        let late = late.find(|pulse| pulse.still() >= STUCK_AFTER)?;
        let seconds = late.still().as_secs();
        let thread = &late.thread;
        Some(format!(
            "the thread {thread} has not come back from librdkafka for {seconds} s: restart"
        ))
    }
}

impl Pulse {
    pub(super) fn beat(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    fn still(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last)
    }
}
