//! When the next interaction starts: at once when a connection is free (closed loop), or at fixed
//! times whatever the answers do (open loop).
//!
//! In the open loop a thread's fixed times are handed to its connections in order. One that comes
//! free when a time is already past takes it at once; the interaction's latency counts from the
//! fixed time, so waiting for a free connection is part of it. A connection with nothing due is
//! parked, and the pacer hands it the next time when that comes. The pacer waits on a timer
//! descriptor: the runtime's own timer only knows whole milliseconds.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::worker::Plan;

/// The times of the run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// The first interaction.
    pub(super) start: Instant,
    /// The end of the warm-up.
    pub(super) measured_from: Instant,
    /// Nothing starts at or after this; `None` where the number of requests ends the run.
    pub(super) end: Option<Instant>,
}

impl Window {
    /// Whether an interaction with this intended start is measured.
    pub(super) fn measures(&self, intended: Instant) -> bool {
        intended >= self.measured_from && self.end.is_none_or(|end| intended < end)
    }
}

/// A connection waiting for its next time.
#[derive(Debug, Default)]
pub(super) struct Parking {
    given: Cell<Option<Instant>>,
    wake: Notify,
}

/// One thread's starts.
#[derive(Debug)]
pub(super) struct Schedule {
    plan: Arc<Plan>,
    window: Window,
    left: Cell<u64>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    /// Nanoseconds between two starts of the whole run.
    step: f64,
    /// This thread takes every `threads`-th start, from `thread` on.
    thread: u64,
    threads: u64,
    next: Cell<u64>,
    parked: RefCell<VecDeque<Rc<Parking>>>,
    someone_parked: Notify,
    finished: Cell<bool>,
    timer: AsyncFd<OwnedFd>,
}

impl Schedule {
    /// The starts of thread `thread`. Must be called inside the thread's runtime.
    ///
    /// # Errors
    /// Where the system gives no timer descriptor.
    pub(super) fn new(plan: Arc<Plan>, thread: u64, window: Window) -> io::Result<Self> {
        let threads = plan.threads.max(1);
        let left = plan.requests.map_or(u64::MAX, |total| {
            total / threads + u64::from(thread < total % threads)
        });
        let open = match plan.rate {
            None => None,
            Some(rate) => Some(Open {
                step: 1e9 / rate,
                thread,
                threads,
                next: Cell::new(0),
                parked: RefCell::default(),
                someone_parked: Notify::new(),
                finished: Cell::new(false),
                timer: timer()?,
            }),
        };
        Ok(Self {
            plan,
            window,
            left: Cell::new(left),
            open,
        })
    }

    /// The times of the run.
    pub(super) const fn window(&self) -> &Window {
        &self.window
    }

    /// The intended start of this connection's next interaction, when it may start; `None` when
    /// the run is over.
    pub(super) async fn next(&self, parking: &Rc<Parking>) -> Option<Instant> {
        let now = Instant::now();
        let Some(open) = &self.open else {
            return (!self.over(now)).then(|| self.take(now));
        };
        let due = self.due(open, open.next.get());
        if self.over(due) || open.finished.get() {
            return None;
        }
        if due <= now {
            open.next.set(open.next.get() + 1);
            return Some(self.take(due));
        }
        open.parked.borrow_mut().push_back(Rc::clone(parking));
        open.someone_parked.notify_one();
        parking.wake.notified().await;
        parking.given.take()
    }

    /// How many starts of the open loop came due before the end and were never taken.
    pub(super) fn missed(&self) -> u64 {
        let (Some(open), Some(end)) = (&self.open, self.window.end) else {
            return 0;
        };
        let until = end.min(Instant::now());
        (open.next.get()..)
            .take_while(|start| self.due(open, *start) < until)
            .fold(0, |missed, _| missed + 1)
            .min(self.left.get())
    }

    /// Hands out the open loop's times until the run is over; returns at once in the closed loop.
    ///
    /// # Errors
    /// Where the timer descriptor fails.
    pub(super) async fn pace(&self, stopping: impl Future<Output = ()>) -> io::Result<()> {
        let Some(open) = &self.open else {
            return Ok(());
        };
        let paced = tokio::select! {
            paced = self.hand_out(open) => paced,
            () = stopping => Ok(()),
        };
        open.finished.set(true);
        for parking in open.parked.borrow_mut().drain(..) {
            parking.wake.notify_one();
        }
        paced
    }

    async fn hand_out(&self, open: &Open) -> io::Result<()> {
        loop {
            let due = self.due(open, open.next.get());
            if self.over(due) {
                return Ok(());
            }
            if open.parked.borrow().is_empty() {
                open.someone_parked.notified().await;
                continue;
            }
            open.wait_until(due).await?;
            // While this waited, a connection that came free may have taken the time.
            let due = self.due(open, open.next.get());
            if due > Instant::now() || self.over(due) {
                continue;
            }
            let Some(parking) = open.parked.borrow_mut().pop_front() else {
                continue;
            };
            open.next.set(open.next.get() + 1);
            parking.given.set(Some(self.take(due)));
            parking.wake.notify_one();
        }
    }

    fn over(&self, at: Instant) -> bool {
        self.left.get() == 0
            || self.window.end.is_some_and(|end| at >= end)
            || self.plan.stop.load(Ordering::Relaxed)
    }

    fn take(&self, start: Instant) -> Instant {
        self.left.set(self.left.get().saturating_sub(1));
        start
    }

    fn due(&self, open: &Open, start: u64) -> Instant {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a run of a day has far fewer than 2^52 nanoseconds and starts"
        )]
        let after = ((start * open.threads + open.thread) as f64 * open.step) as u64;
        self.window.start + Duration::from_nanos(after)
    }
}

#[expect(
    deprecated,
    reason = "its successor is an unsafe fn for descriptors that may change; an OwnedFd does not"
)]
fn timer() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)
}

impl Open {
    async fn wait_until(&self, due: Instant) -> io::Result<()> {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let none = Timespec::default();
        let value = Itimerspec {
            it_interval: none,
            it_value: Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            },
        };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &value)?;
        loop {
            let mut ready = self.timer.readable().await?;
            let mut expirations = [0_u8; 8];
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut expirations)?));
            match read {
                Ok(read) => return read.map(|_| ()),
                Err(_would_block) => {}
            }
        }
    }
}
