//! A state that another version of the fold wrote answers while the log is folded anew beside it; then the new
//! one takes its place, beneath the requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tally_ingress::management::Management;
use tally_ingress::management::rebuild::RebuildProgress;
use tally_projector::{Projector, RenewalProgress};

use crate::failure::{Failure, with_causes};

/// Between two looks whether there is one.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two words of how far it is.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Ends the thread that waits with whoever waits for it.
struct Ended(Arc<AtomicBool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Sees a state through that is made anew, whenever one is: a state of another fold may also be put in the
/// place of the one that serves. Returns why it can't go on, and never else.
pub(super) async fn make_new(projector: &Arc<Projector>, management: &Arc<Management>) -> Failure {
    let ended = Ended(Arc::default());
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        look.tick().await;
        if !projector.is_renewing() {
            continue;
        }
        let stop = Arc::clone(&ended.0);
        let (projector, management) = (Arc::clone(projector), Arc::clone(management));
        let renewing = tokio::task::spawn_blocking(move || {
            let mut teller = Teller::new(&management);
            projector.renew(&mut |progress| {
                teller.tell(progress);
                !stop.load(Ordering::Acquire)
            })
        });
        match renewing.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                let why = with_causes(&error);
                return Failure::run(format!("the state that was made anew can't be used: {why}"));
            }
            Err(error) => return Failure::of(error),
        }
    }
}

/// Says now and then how far it is.
struct Teller<'a> {
    management: &'a Management,
    began: Instant,
    told: Option<Instant>,
}

impl<'a> Teller<'a> {
    fn new(management: &'a Management) -> Self {
        Self {
            management,
            began: Instant::now(),
            told: None,
        }
    }

    fn tell(&mut self, progress: Option<RenewalProgress>) {
        let due = self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY);
        let (Some(RenewalProgress { records, of }), true) = (progress, due) else {
            return;
        };
        self.told = Some(Instant::now());
        self.management.rebuilding(Some(RebuildProgress::since(
            self.began,
            "folding the log",
            records,
            of,
        )));
    }
}

impl Drop for Teller<'_> {
    fn drop(&mut self) {
        self.management.rebuilding(None);
    }
}
