//! Reads sealed segments in the background, again and again, at a bounded rate, so that damage is
//! found while there is a backup, and not when somebody needs the file.
//!
//! What it finds is said in the service's log and in metrics. It stops nothing: appends and readers
//! of other places have no part in it, and a reader that comes to the place is refused by itself.

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::check::{CheckReport, check_segment};
use super::segment::{self, SegmentInfo};
use super::shared::Shared;
use crate::storage::File;

/// The shortest time from the start of one pass to the start of the next.
const PASS_EVERY: Duration = Duration::from_secs(6 * 3_600);

/// How soon it looks again where there is no sealed segment yet.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Tells the patrol to end.
#[derive(Default)]
pub(crate) struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    pub(crate) fn stop(&self) {
        *self.stopped.lock() = true;
        self.changed.notify_all();
    }

    fn stopped(&self) -> bool {
        *self.stopped.lock()
    }

    /// `false` where it was stopped meanwhile.
    fn pause(&self, until: Instant) -> bool {
        let mut stopped = self.stopped.lock();
        while !*stopped && Instant::now() < until {
            self.changed.wait_until(&mut stopped, until);
        }
        !*stopped
    }
}

/// A file that is read no faster than so many bytes a second.
struct Paced {
    file: Arc<dyn File>,
    shared: Arc<Shared>,
    stop: Arc<Stop>,
    rate: u64,
}

impl File for Paced {
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let began = Instant::now();
        self.file.read_exact_at(buffer, at)?;
        let bytes = buffer.len() as u64;
        self.shared.metrics.checked_bytes.inc_by(bytes);
        let micros = bytes.saturating_mul(1_000_000) / self.rate.max(1);
        if self.stop.pause(began + Duration::from_micros(micros)) {
            return Ok(());
        }
        Err(io::Error::other("the log is closed"))
    }

    fn write_all_at(&self, _bytes: &[u8], _at: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Goes round until it is told to stop; `rate` in bytes a second.
pub(crate) fn run(shared: &Arc<Shared>, stop: &Arc<Stop>, rate: u64) {
    if catch_unwind(AssertUnwindSafe(|| rounds(shared, stop, rate))).is_err() {
        tracing::error!(
            log = shared.name,
            "the background check of the log panicked and has ended; `tally log check` does the same"
        );
    }
}

fn rounds(shared: &Arc<Shared>, stop: &Arc<Stop>, rate: u64) {
    let mut told = BTreeSet::new();
    while !stop.stopped() {
        let began = Instant::now();
        let segments = shared.state.lock().segments.clone();
        let Some((_, sealed)) = segments
            .split_last()
            .filter(|(_, sealed)| !sealed.is_empty())
        else {
            stop.pause(began + LOOK_AGAIN);
            continue;
        };
        let mut damaged = 0;
        for segment in sealed {
            damaged += look_at(shared, stop, rate, segment, &mut told);
            if stop.stopped() {
                return;
            }
            let gauge = i64::try_from(damaged).unwrap_or(i64::MAX);
            // Less than the pass before found is known only at the end of this one.
            let known = &shared.metrics.check_damage;
            known.set(known.get().max(gauge));
        }
        let metrics = &shared.metrics;
        metrics
            .check_damage
            .set(i64::try_from(damaged).unwrap_or(i64::MAX));
        let now = segment::unix_millis() / 1_000;
        metrics
            .check_passed
            .set(i64::try_from(now).unwrap_or(i64::MAX));
        stop.pause(began + PASS_EVERY);
    }
}

/// Reads one segment; how many places of it are damaged. Each is told once.
fn look_at(
    shared: &Arc<Shared>,
    stop: &Arc<Stop>,
    rate: u64,
    segment: &SegmentInfo,
    told: &mut BTreeSet<String>,
) -> u64 {
    let mut report = CheckReport::default();
    let checked = shared.storage.open_to_read(&segment.path).and_then(|file| {
        let paced: Arc<dyn File> = Arc::new(Paced {
            file,
            shared: Arc::clone(shared),
            stop: Arc::clone(stop),
            rate,
        });
        check_segment(shared.identity, segment, paced, &mut report)
    });
    if stop.stopped() || shared.is_removed(segment.number) {
        return 0;
    }
    let mut damage: Vec<String> = report.damage.iter().map(ToString::to_string).collect();
    if let Err(error) = checked {
        damage.push(format!("{} can't be read: {error}", segment.path.display()));
    }
    for what in &damage {
        if told.insert(what.clone()) {
            tracing::error!(
                log = shared.name,
                what,
                "the log is damaged, in a part that is not written any more: restore the file from a backup; `tally log check` tells all of it"
            );
        }
    }
    (damage.len() as u64).saturating_add(report.more_damage)
}
