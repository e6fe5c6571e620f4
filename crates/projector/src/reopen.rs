//! The state closed and opened again beneath whoever waits: to recover it, or to put another in its place.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tally_domain::Offset;

use crate::error::{OpenError, StateError, with_causes};
use crate::life::{Lasting, Life};
use crate::projector::Projector;
use crate::swap::{self, Incoming};

/// How long a read waits for a state that is being opened again.
const REOPEN_PATIENCE: Duration = Duration::from_secs(1);

/// Between two looks whether it is.
const REOPEN_LOOK: Duration = Duration::from_millis(2);

/// How often a swapped state is tried to be opened where that may pass, and the pause before.
const SWAP_TRIES: u32 = 5;
const SWAP_PAUSE: Duration = Duration::from_millis(200);

/// What is known while the state is opened again.
#[derive(Default)]
pub(crate) struct Reopening {
    /// Up to where answers have been given: the next offset of each partition.
    pub(crate) seen: Vec<Offset>,
    /// Whether the last try failed.
    pub(crate) failed: bool,
}

impl Projector {
    /// What lives now.
    pub(crate) fn life(&self) -> Result<Arc<Life>, StateError> {
        self.current.read().clone().ok_or(StateError::Reopening)
    }

    /// The same, for whom a moment is worth waiting: opening a whole state again takes less.
    pub(crate) fn life_soon(&self) -> Result<Arc<Life>, StateError> {
        self.life_where(|_| true)
    }

    /// Waits a moment for a life of which something is true.
    pub(crate) fn life_where(
        &self,
        holds: impl Fn(&Life) -> bool,
    ) -> Result<Arc<Life>, StateError> {
        let until = Instant::now() + REOPEN_PATIENCE;
        loop {
            match self.life() {
                Ok(life) if holds(&life) => return Ok(life),
                _ if Instant::now() >= until => return Err(StateError::Reopening),
                Ok(_) | Err(_) => std::thread::sleep(REOPEN_LOOK),
            }
        }
    }

    /// Closes the state, does something to its folder, and opens it again: what is damaged is then
    /// rebuilt, and what is another state takes the place of the one that was. Whoever waits for an
    /// event or a position goes on waiting. What was not written down is folded again; until then reads
    /// are refused that would see less than before.
    ///
    /// # Errors
    /// [`OpenError`]; there is no state then, and the status asks for another try.
    pub fn reopen(
        &self,
        between: impl FnOnce(&Path) -> Result<(), StateError>,
    ) -> Result<(), OpenError> {
        self.reopen_where(|_| true, between)
    }

    /// The same of this life alone: where there is another meanwhile, or none, nothing is done.
    pub(crate) fn reopen_this(
        &self,
        this: &Weak<Life>,
        between: impl FnOnce(&Path) -> Result<(), StateError>,
    ) -> Result<(), OpenError> {
        let is_this = |life: Option<&Arc<Life>>| {
            life.is_some_and(|life| std::ptr::eq(Arc::as_ptr(life), this.as_ptr()))
        };
        self.reopen_where(is_this, between)
    }

    fn reopen_where(
        &self,
        holds: impl FnOnce(Option<&Arc<Life>>) -> bool,
        between: impl FnOnce(&Path) -> Result<(), StateError>,
    ) -> Result<(), OpenError> {
        let mut reopening = self.reopening.lock();
        if !holds(self.current.read().as_ref()) {
            return Ok(());
        }
        let reopened = self.close_and_open(&mut reopening, between);
        reopening.failed = reopened.is_err();
        reopened
    }

    fn close_and_open(
        &self,
        reopening: &mut Reopening,
        between: impl FnOnce(&Path) -> Result<(), StateError>,
    ) -> Result<(), OpenError> {
        let life = self.current.write().take();
        if let Some(life) = life {
            reopening.seen = life.seen();
            life.end()?;
        }
        between(&self.lasting.dir)?;
        let (seen, other_fold) = (reopening.seen.clone(), self.lasting.options.other_fold);
        let life = Life::begin(&self.lasting, seen, other_fold)?;
        let life = Arc::new(life);
        *self.current.write() = Some(Arc::clone(&life));
        // Only now: whoever came before found no life, and left it to this.
        life.complete_positions();
        self.lasting.metrics.reopened.inc();
        Ok(())
    }

    /// Puts a state that is [ready](Incoming::set_ready) in the place of the one that is used, which is
    /// kept as the previous one. Where the new one is refused, the one that was comes back.
    ///
    /// # Errors
    /// Where none is ready or it is refused: the state is then as it was. Where it can't be opened for a
    /// reason that may pass, it is opened later, as any state that failed.
    pub fn swap(&self, incoming: Incoming) -> Result<(), OpenError> {
        let Lasting { storage, dir, .. } = &self.lasting;
        let storage = storage.as_ref();
        if self.life()?.renewal.is_some() {
            return Err(StateError::Renewing.into());
        }
        // Whoever copies the state holds it open, perhaps for long.
        let _no_copy = self.copying.lock();
        if !incoming.is_ready(storage, dir)? {
            return Err(swap::not_ready().into());
        }
        // So that whoever comes back to it has little to fold.
        self.checkpoint()?;
        let mut opened = self.reopen(|dir| swap::swap(storage, dir, incoming));
        for _ in 0..SWAP_TRIES {
            match &opened {
                // One that was begun is finished by any opening.
                Err(error) if error.passes() => {
                    std::thread::sleep(SWAP_PAUSE);
                    opened = self.reopen(|dir| {
                        if incoming.is_ready(storage, dir)? {
                            return swap::swap(storage, dir, incoming);
                        }
                        Ok(())
                    });
                }
                Ok(()) | Err(_) => break,
            }
        }
        let Err(refused) = opened else {
            return Ok(());
        };
        if refused.passes() || incoming.is_ready(storage, dir)? {
            return Err(refused);
        }
        let why = with_causes(&refused);
        tracing::error!(why, "the new state is refused; the one before comes back");
        self.reopen(|dir| {
            if swap::recall_previous(storage, dir)? {
                Incoming::Recalled.set_ready(storage, dir)?;
                swap::swap(storage, dir, Incoming::Recalled)?;
            }
            Ok(())
        })?;
        Err(refused)
    }
}
