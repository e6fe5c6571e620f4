//! What Prometheus is told that only a disk can tell, measured now and then on a thread of its own: a disk
//! that hangs holds up this thread, and no scrape.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::{IntGauge, IntGaugeVec, Registry};
use tally_log::metric::Declare;
use tally_projector::Projector;

use super::background::Background;
use super::certificates::{self, Named};
use crate::config::{Config, LogKind};
use crate::failure::{Failure, with_causes};
use crate::metrics::{CERTIFICATE_EXPIRY, DATA_DIR_AVAILABLE, DATA_DIR_SIZE};

/// How often disk and store are measured.
const EVERY: Duration = Duration::from_secs(2);
/// How often certificates are read.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(60);

/// What is measured, and where it goes.
struct Measured {
    projector: Arc<Projector>,
    dir: PathBuf,
    available: IntGauge,
    size: IntGauge,
    certificates: Option<Certificates>,
}

struct Certificates {
    named: Vec<Named>,
    expiry: IntGaugeVec,
    due: Instant,
    /// What was wrong last, so that it is said once.
    wrong: Option<String>,
}

/// Measures from now on.
pub(super) fn start(
    config: &Config,
    projector: &Arc<Projector>,
    registry: &Registry,
) -> Result<Background, Failure> {
    let declare = Declare::with(registry);
    let mut measured = Measured {
        projector: Arc::clone(projector),
        dir: config.data_dir.clone(),
        available: declare.gauge(&DATA_DIR_AVAILABLE).map_err(Failure::of)?,
        size: declare.gauge(&DATA_DIR_SIZE).map_err(Failure::of)?,
        certificates: Certificates::of(config, declare)?,
    };
    Background::start("tally-measure", move |ended| {
        let mut due = Instant::now();
        while !ended.before(due) {
            if catch_unwind(AssertUnwindSafe(|| measured.now())).is_err() {
                tracing::error!("measuring for the metrics panicked; it is tried again");
            }
            due = Instant::now() + EVERY;
        }
    })
}

impl Measured {
    fn now(&mut self) {
        let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        match rustix::fs::statvfs(&self.dir) {
            Ok(disk) => {
                let bytes = |blocks: u64| gauge(blocks.saturating_mul(disk.f_frsize));
                self.available.set(bytes(disk.f_bavail));
                self.size.set(bytes(disk.f_blocks));
            }
            Err(error) => tracing::debug!(%error, "the file system of data_dir can't be asked"),
        }
        self.projector.measure();
        if let Some(certificates) = &mut self.certificates {
            certificates.look();
        }
    }
}

impl Certificates {
    /// `None` where the settings name none.
    fn of(config: &Config, declare: Declare<'_>) -> Result<Option<Self>, Failure> {
        let named = match config.log.kind {
            LogKind::Kafka => certificates::named(config),
            LogKind::Embedded => Vec::new(),
        };
        if named.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            named,
            expiry: declare.gauges(&CERTIFICATE_EXPIRY).map_err(Failure::of)?,
            due: Instant::now(),
            wrong: None,
        }))
    }

    fn look(&mut self) {
        if Instant::now() < self.due {
            return;
        }
        self.due = Instant::now() + CERTIFICATES_EVERY;
        let mut wrong = None;
        for named in &self.named {
            match named.valid_until() {
                Ok(until) => {
                    let until = i64::try_from(until).unwrap_or(i64::MAX);
                    self.expiry.with_label_values(&[named.name]).set(until);
                }
                // What was known stays; where nothing was, there is no series.
                Err(error) => wrong = Some(format!("{}: {}", named.name, with_causes(&error))),
            }
        }
        if wrong != self.wrong {
            if let Some(why) = &wrong {
                tracing::warn!(
                    why,
                    "it is not known until when a certificate is valid that kafka.properties names"
                );
            }
            self.wrong = wrong;
        }
    }
}
