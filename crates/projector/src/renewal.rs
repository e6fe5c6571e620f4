//! The log folded anew beside a state that another version of the fold wrote, which answers meanwhile.
//!
//! The new state is made in the shadow's folder, and followed by whoever waits for an event; the old one is
//! only read. A crash leaves the old one as it was, and the next opening goes on with the shadow. Once it is
//! where the log is, the two change places as in any [swap].

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tally_domain::{Offset, Partition, Resource, UserId};
use tally_log::storage::Lock;
use tally_log::{EventLog, LimitedLog};

use crate::error::{OpenError, StateError, with_causes};
use crate::identity::{self, OpenedState, Opening};
use crate::life::{Lasting, Life};
use crate::old::OldState;
use crate::options::OtherFold;
use crate::projector::{Projector, View};
use crate::store::StoreError;
use crate::swap::{self, Incoming};

/// Between two looks at how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A round of catching up that took less is the last: what came meanwhile is folded in a moment.
const CLOSE_ENOUGH: Duration = Duration::from_secs(1);

/// The pause after something that may pass.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// What a life begins with.
pub(crate) struct Opened {
    pub(crate) state: OpenedState,
    /// The state's folder.
    pub(crate) dir: PathBuf,
    /// The log as it is read.
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) renewal: Option<Renewal>,
}

/// A state that is made beside one of another fold.
pub(crate) struct Renewal {
    /// `None` once it can't be read any more.
    old: RwLock<Option<Arc<OldState>>>,
    begins_at: Vec<Offset>,
    stale: Arc<AtomicBool>,
    _alone: Box<dyn Lock>,
}

/// Opens the state of a log, or the one that is made beside it.
pub(crate) fn open(lasting: &Lasting, other_fold: OtherFold) -> Result<Opened, OpenError> {
    lasting.stale.store(false, Ordering::Release);
    let (storage, dir) = (lasting.storage.as_ref(), &lasting.dir);
    let snapshots = lasting.options.snapshots.as_ref();
    let open = |dir, other_fold| {
        identity::open_state(
            lasting.log.as_ref(),
            storage,
            dir,
            &lasting.store,
            (snapshots, other_fold),
            &lasting.metrics,
        )
    };
    let old = match open(dir, other_fold)? {
        Opening::Ours(state) => {
            return Ok(Opened {
                state,
                dir: dir.clone(),
                log: Arc::clone(&lasting.log),
                renewal: None,
            });
        }
        Opening::Old(old) => old,
    };
    let alone = swap::alone(storage, dir)?.ok_or_else(|| {
        let why = "a rebuild of it is under way, perhaps one that the server before had".to_owned();
        OpenError::Held(StoreError::held(why))
    })?;
    Incoming::Shadow.set_unready(storage, dir)?;
    let shadow = Incoming::Shadow.dir(dir);
    let Opening::Ours(state) = open(&shadow, OtherFold::SetAside)? else {
        // What is set aside is not given out.
        return Err(StateError::Renewing.into());
    };
    lasting
        .metrics
        .rebuilds
        .with_label_values(&["fold_version"])
        .inc();
    tracing::warn!(
        "the state was written by another version of the fold: it answers, marked as stale, while the log is folded anew beside it"
    );
    lasting.stale.store(true, Ordering::Release);
    let log = &lasting.log;
    Ok(Opened {
        state,
        dir: shadow,
        log: match lasting.options.renewal_rate {
            Some(rate) => Arc::new(LimitedLog::paced(Arc::clone(log), rate)),
            None => Arc::clone(log),
        },
        renewal: Some(Renewal {
            begins_at: old.next_offsets(),
            old: RwLock::new(Some(Arc::new(old))),
            stale: Arc::clone(&lasting.stale),
            _alone: alone,
        }),
    })
}

impl Renewal {
    /// Up to where the old state has answered.
    pub(crate) fn begins_at(&self) -> Vec<Offset> {
        self.begins_at.clone()
    }

    fn lose_old(&self, error: &StateError) {
        let error = with_causes(error);
        tracing::error!(
            error,
            "the state of another fold can't be read any more; answers come when the log is folded"
        );
        *self.old.write() = None;
        self.stale.store(false, Ordering::Release);
    }
}

impl Life {
    /// The state of another fold that answers, where one does.
    pub(crate) fn old(&self) -> Option<Arc<OldState>> {
        self.renewal.as_ref()?.old.read().clone()
    }

    /// What that has of a resource and a user; `None` where there is none, or none any more.
    ///
    /// # Errors
    /// What may pass: only damage ends it.
    pub(crate) fn read_old(
        &self,
        partition: Partition,
        resource: Resource,
        user: &UserId,
    ) -> Result<Option<View>, StateError> {
        let Some(old) = self.old() else {
            return Ok(None);
        };
        match old.read(partition, resource, user) {
            Ok(view) => Ok(Some(view)),
            Err(error) if error.is_damage() => {
                if let Some(renewal) = &self.renewal {
                    renewal.lose_old(&error);
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// How far a state is that is made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RenewalProgress {
    /// Records folded since the opening.
    pub records: u64,
    /// Of so many that the log held beyond that when it was last looked at.
    pub of: u64,
}

/// What has to be folded before the log is looked at again.
struct Round {
    began: Instant,
    life: Weak<Life>,
    heads: Vec<Offset>,
}

/// What a look at a round found.
enum Looked {
    /// There is none to follow: the log has to be asked, or the state is being opened again.
    Nothing,
    Behind(RenewalProgress),
    /// All of it is folded.
    There,
}

impl Projector {
    /// Whether answers come from a state that another version of the fold wrote: what is asked for is then
    /// not worth waiting for.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.lasting.stale.load(Ordering::Acquire)
    }

    /// Whether a state is made anew beside one that another version of the fold wrote.
    #[must_use]
    pub fn is_renewing(&self) -> bool {
        self.life().is_ok_and(|life| life.renewal.is_some())
    }

    /// Waits until a state that is made anew beside one of another fold is where the log is, and puts it in
    /// its place; at once where there is none. `each` is told now and then how far it is, and whether to go
    /// on is its answer. `false` where it said no.
    ///
    /// # Errors
    /// [`OpenError`], where the new state can't be opened in its place. What may pass is tried again.
    pub fn renew(
        &self,
        each: &mut dyn FnMut(Option<RenewalProgress>) -> bool,
    ) -> Result<bool, OpenError> {
        let mut round: Option<Round> = None;
        loop {
            let mut pause = LOOK_EVERY;
            let mut progress = None;
            match self.life() {
                Ok(life) if life.renewal.is_none() => return Ok(true),
                Ok(life) => match round
                    .as_ref()
                    .map_or(Looked::Nothing, |round| round.look(&life))
                {
                    Looked::Nothing => round = self.round(&life),
                    Looked::Behind(how_far) => progress = Some(how_far),
                    Looked::There => {
                        let close = round.take().filter(|r| r.began.elapsed() < CLOSE_ENOUGH);
                        if let Some(Round { life: this, .. }) = close {
                            drop(life);
                            if !self.take_place(&this)? {
                                pause = RETRY_EVERY;
                            }
                        }
                    }
                },
                // Whoever opens it again sees to that.
                Err(_) => round = None,
            }
            if !each(progress) {
                return Ok(false);
            }
            std::thread::sleep(pause);
        }
    }

    /// What the log has more than is folded; none where it can't be asked.
    fn round(&self, life: &Arc<Life>) -> Option<Round> {
        let heads = self.log().head().ok()?;
        Some(Round {
            began: Instant::now(),
            life: Arc::downgrade(life),
            heads,
        })
    }

    /// Puts the state that was made in the place of the old one, unless it was opened again meanwhile.
    /// `false` where that can't be done for now.
    fn take_place(&self, this: &Weak<Life>) -> Result<bool, OpenError> {
        // Whoever copies the state holds it open, perhaps for long.
        let _no_copy = self.copying.lock();
        let later = |why: String| tracing::error!(why, "the new state can't take its place yet");
        // So that there is little to fold again.
        if let Err(error) = self.checkpoint() {
            later(with_causes(&error));
            return Ok(false);
        }
        let storage = self.lasting.storage.as_ref();
        let taken = self.reopen_this(this, |dir| {
            Incoming::Shadow.set_ready(storage, dir)?;
            swap::swap(storage, dir, Incoming::Shadow)
        });
        match taken {
            Ok(()) => Ok(true),
            Err(error) if error.passes() => {
                later(with_causes(&error));
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

impl Round {
    fn look(&self, life: &Arc<Life>) -> Looked {
        if !std::ptr::eq(self.life.as_ptr(), Arc::as_ptr(life)) {
            return Looked::Nothing;
        }
        let mut progress = RenewalProgress { records: 0, of: 0 };
        let mut there = true;
        let shared = &life.shared;
        let each = shared.slots.iter().zip(&self.heads).zip(&shared.started_at);
        for ((slot, head), from) in each {
            let next = slot.next_offset.load(Ordering::SeqCst);
            there &= next >= *head;
            progress.records += next.min(*head).saturating_sub(*from);
            progress.of += head.saturating_sub(*from);
        }
        if there {
            Looked::There
        } else {
            Looked::Behind(progress)
        }
    }
}
