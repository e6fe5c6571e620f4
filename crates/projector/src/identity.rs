//! Whose state this is. State is used only with the log it was folded from, by the fold that
//! folded it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tally_domain::{FOLD_VERSION, LogId, Offset, Partition, PartitionState, Position, Rules};
use tally_log::storage::Storage;
use tally_log::{EventLog, LogIdentity, OneRecord};

use crate::aside::set_aside;
use crate::error::{OpenError, StateError, with_causes};
use crate::mark::Mark;
use crate::metrics::Metrics;
use crate::old::OldState;
use crate::options::OtherFold;
use crate::redo::{Redo, RedoFile};
use crate::remains;
use crate::snapshot::Snapshots;
use crate::snapshot::restore::Newest;
use crate::store::layout::{self, Place};
use crate::store::{OpenStore, Store, StoreError, try_scan};
use crate::swap;

/// The store's folder in the state's.
pub(crate) const STORE: &str = "sled";

const DAMAGED: &str = "damaged";

/// What a state consists of, in its folder; the store first.
pub(crate) const STATE_FILES: [&str; 3] = [STORE, "redo", DAMAGED];

/// What state remembers of its log and its fold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The log's id.
    pub log: LogId,
    /// The log's number of partitions.
    pub partitions: u32,
    /// The version of the fold.
    pub fold_version: u32,
    /// How long an idempotency key holds, in milliseconds of event time.
    pub key_millis: u64,
    /// How many newer keys of its partition an idempotency key outlives.
    pub key_count: u32,
    /// How far an event's time may lie past the append time, in milliseconds.
    pub max_ahead_millis: u64,
    /// The version of the store's layout; the first one did not say so.
    #[serde(default = "first_layout")]
    pub layout: u32,
}

fn first_layout() -> u32 {
    1
}

/// What to do with state of an [`Identity`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fit {
    /// Use it.
    Ours,
    /// Another fold made it, or it has another layout: it is set aside and rebuilt from the log.
    OtherFold,
}

impl Identity {
    /// The identity of state that this build folds from a log.
    #[must_use]
    pub fn of(log: LogIdentity, rules: Rules) -> Self {
        Self {
            log: log.id,
            partitions: log.partitions,
            fold_version: FOLD_VERSION,
            key_millis: rules.key_millis,
            key_count: rules.key_count,
            max_ahead_millis: rules.max_ahead_millis,
            layout: layout::VERSION,
        }
    }

    /// As a value.
    ///
    /// # Errors
    /// Never for a value of this type; the serialiser's signature says so.
    pub fn to_value(&self) -> Result<Vec<u8>, StateError> {
        serde_json::to_vec(self).map_err(|error| StateError::Damaged(error.to_string()))
    }

    /// From a value.
    ///
    /// # Errors
    /// [`StateError::Damaged`].
    pub fn from_value(value: &[u8]) -> Result<Self, StateError> {
        serde_json::from_slice(value)
            .map_err(|error| StateError::Damaged(format!("the state's identity: {error}")))
    }

    /// Whether state of this identity may be used where `wanted` is at hand.
    ///
    /// # Errors
    /// [`OpenError::OtherLog`] and [`OpenError::OtherPartitionCount`].
    pub fn fit(&self, wanted: &Self) -> Result<Fit, OpenError> {
        if self.log != wanted.log {
            return Err(OpenError::OtherLog {
                state: self.log,
                log: wanted.log,
            });
        }
        if self.partitions != wanted.partitions {
            let (state, log) = (self.partitions, wanted.partitions);
            return Err(OpenError::OtherPartitionCount { state, log });
        }
        Ok(if self == wanted {
            Fit::Ours
        } else {
            Fit::OtherFold
        })
    }
}

/// State that may be used with the log at hand.
pub(crate) struct OpenedState {
    pub(crate) store: Box<dyn Store>,
    pub(crate) partitions: Vec<PartitionState>,
    pub(crate) identity: Identity,
    /// The number of the last checkpoint.
    pub(crate) checkpoint: u64,
    /// Whether the store held nothing.
    pub(crate) empty: bool,
}

/// A state that was found in its place.
pub(crate) enum Opening {
    /// It goes on.
    Ours(OpenedState),
    /// It can only be read; another has to be made.
    Old(OldState),
}

/// What is written down.
enum Found {
    Ours(OpenedState),
    OtherFold(Identity, Box<dyn Store>),
}

/// Opens the state of a log. State that is damaged or of another fold is set aside, where the log and
/// the snapshots can bring it back, and nothing that is left of the state says that it is another
/// log's, or a newer one's; of another fold it may stay, too, and be read. Whatever else fails changes
/// nothing.
pub(crate) fn open_state(
    log: &dyn EventLog,
    storage: &dyn Storage,
    dir: &Path,
    open_store: &OpenStore,
    (snapshots, other_fold): (Option<&Snapshots>, OtherFold),
    metrics: &Metrics,
) -> Result<Opening, OpenError> {
    let wanted = Identity::of(log.identity(), Rules::CURRENT);
    storage
        .create_dir_all(dir)
        .map_err(StateError::file(dir, "made"))?;
    swap::finish(storage, dir)?;
    let (cause, newest) = match read_state(storage, dir, open_store, &wanted) {
        Ok(Found::Ours(opened))
            if opened.empty && snapshots.is_some() && log.head()?.iter().any(|head| *head > 0) =>
        {
            // The store is opened again for them.
            drop(opened);
            let newest = Newest::find(snapshots, log, dir, &wanted)?;
            return begin(log, storage, dir, open_store, &wanted, newest);
        }
        Ok(Found::Ours(opened)) => {
            check_against(log, &places(&opened.partitions))?;
            return Ok(Opening::Ours(opened));
        }
        Ok(Found::OtherFold(found, store)) => {
            if other_fold == OtherFold::Refuse {
                let (found, ours) = (found.fold_version, wanted.fold_version);
                return Err(OpenError::NotThisFold { found, ours });
            }
            let serve = other_fold == OtherFold::Serve;
            let old = serve.then(|| read_old(store, &found)).flatten();
            // Whole, the log alone is enough.
            let newest = match &old {
                Some(_) if log.first()?.iter().all(|first| *first == 0) => Newest::none(),
                Some(_) | None => Newest::find(snapshots, log, dir, &wanted)?,
            };
            if let Some(Position { partition, offset }) = newest.gap(log)? {
                return Err(OpenError::OtherFold {
                    partition,
                    first: offset,
                });
            }
            if let Some(old) = old {
                check_against(log, old.places())?;
                return Ok(Opening::Old(old));
            }
            ("fold_version", newest)
        }
        Err(OpenError::State(StateError::Store(error))) if !error.damage => {
            return Err(OpenError::store(error));
        }
        Err(OpenError::State(cause @ (StateError::Damaged(_) | StateError::Store(_)))) => {
            tracing::error!(error = %cause, "the state can't be used; it is a cache of the log");
            let newest = Newest::find(snapshots, log, dir, &wanted)?;
            if let Some(Position { partition, offset }) = newest.gap(log)? {
                return Err(OpenError::Irreparable {
                    partition,
                    first: offset,
                    cause,
                });
            }
            ("damage", newest)
        }
        Err(error) => return Err(error),
    };
    remains::check(log, storage, dir, open_store, &wanted)?;
    let aside = set_aside(storage, dir, &STATE_FILES)?;
    tracing::warn!(cause, set_aside = %aside.display(), "the state is rebuilt from the log");
    metrics.rebuilds.with_label_values(&[cause]).inc();
    begin(log, storage, dir, open_store, &wanted, newest)
}

/// A state of another fold, where it can be read for answers.
fn read_old(store: Box<dyn Store>, found: &Identity) -> Option<OldState> {
    let whole = last_checkpoint(store.as_ref());
    match whole.and_then(|_| OldState::open(store, found)) {
        Ok(old) => old,
        Err(error) => {
            let error = with_causes(&error);
            tracing::error!(error, "the state of another fold can't be read for answers");
            None
        }
    }
}

/// Opens a state that is empty but for what the snapshots have.
fn begin(
    log: &dyn EventLog,
    storage: &dyn Storage,
    dir: &Path,
    open_store: &OpenStore,
    wanted: &Identity,
    newest: Newest,
) -> Result<Opening, OpenError> {
    if !newest.is_empty() {
        let store = open_store(&dir.join(STORE)).map_err(OpenError::store)?;
        newest.put_into(store.as_ref(), wanted)?;
    }
    let Found::Ours(fresh) = read_state(storage, dir, open_store, wanted)? else {
        return Err(StateError::Damaged("an empty store has content".to_owned()).into());
    };
    check_against(log, &places(&fresh.partitions))?;
    Ok(Opening::Ours(fresh))
}

/// Reads what is written down.
fn read_state(
    storage: &dyn Storage,
    dir: &Path,
    open_store: &OpenStore,
    wanted: &Identity,
) -> Result<Found, OpenError> {
    if let Some(what) = damage_mark(storage, dir).text()? {
        return Err(StateError::Damaged(what).into());
    }
    let redo_file = RedoFile::new(storage, dir);
    let redo = redo_file.read()?;
    let store = open_store(&dir.join(STORE)).map_err(StateError::Store)?;
    if let Some(redo) = redo {
        check_continues(&redo, store.as_ref())?;
        tracing::info!(
            puts = redo.puts(),
            "a checkpoint was cut short; it is finished now"
        );
        redo.apply(store.as_ref()).map_err(StateError::Store)?;
        redo_file.remove()?;
    }
    let stored = store.get(layout::IDENTITY).map_err(StateError::Store)?;
    if let Some(sealed) = &stored {
        let found = Identity::from_value(layout::open(layout::IDENTITY, sealed)?)?;
        if found.fit(wanted)? == Fit::OtherFold {
            return Ok(Found::OtherFold(found, store));
        }
    }
    let checkpoint = last_checkpoint(store.as_ref())?;
    if stored.is_none() != (checkpoint == 0) {
        let what = "the state's identity or checkpoint number is missing".to_owned();
        return Err(StateError::Damaged(what).into());
    }
    let partitions: Result<Vec<_>, StateError> = (0..wanted.partitions)
        .map(|partition| restore(store.as_ref(), partition, wanted))
        .collect();
    Ok(Found::Ours(OpenedState {
        partitions: partitions?,
        store,
        identity: wanted.clone(),
        checkpoint,
        empty: stored.is_none(),
    }))
}

/// A checkpoint's number in the store; 0 where there was none.
fn number(store: &dyn Store, key: &[u8]) -> Result<u64, StateError> {
    match store.get(key)? {
        Some(sealed) => layout::open(key, &sealed).and_then(layout::number_from),
        None => Ok(0),
    }
}

/// Refuses a redo whose predecessor the store has lost: putting it would hide that.
fn check_continues(redo: &Redo, store: &dyn Store) -> Result<(), StateError> {
    let first = redo.iter().next().filter(|(key, _)| *key == layout::BEGUN);
    let Some((key, Some(sealed))) = first else {
        return Err(StateError::Damaged(
            "the redo file has no checkpoint number".to_owned(),
        ));
    };
    let begun = layout::open(key, sealed).and_then(layout::number_from)?;
    let ended = number(store, layout::ENDED)?;
    if ended == begun || ended.checked_add(1) == Some(begun) {
        Ok(())
    } else {
        let what = format!("the redo file has checkpoint {begun}, but the store is at {ended}");
        Err(StateError::Damaged(what))
    }
}

/// The number of the checkpoint that the store holds, whole; 0 where there was none.
fn last_checkpoint(store: &dyn Store) -> Result<u64, StateError> {
    let (begun, ended) = (number(store, layout::BEGUN)?, number(store, layout::ENDED)?);
    if begun == ended {
        Ok(ended)
    } else {
        let what = format!("checkpoint {begun} is not whole, the last that is has number {ended}");
        Err(StateError::Damaged(what))
    }
}

fn restore(
    store: &dyn Store,
    partition: Partition,
    identity: &Identity,
) -> Result<PartitionState, StateError> {
    let mut state = PartitionState::new(partition, identity.partitions, Rules::CURRENT);
    let key = layout::partition_key(partition);
    let Some(sealed) = store.get(&key)? else {
        for prefix in layout::partition_prefixes(partition) {
            if holds_any(store, &prefix)? {
                let what = format!("the place in the log of partition {partition} is missing");
                return Err(StateError::Damaged(what));
            }
        }
        return Ok(state);
    };
    let place = Place::from_value(layout::open(&key, &sealed)?)?;
    let mut chunks = Vec::new();
    try_scan(store, &layout::prefix(b'k', partition), |key, sealed| {
        chunks.push(layout::open(key, sealed).and_then(layout::chunk_from)?);
        Ok::<_, StateError>(())
    })?;
    chunks.sort_unstable_by_key(|(first, _)| *first);
    let oldest = place.next_key.saturating_sub(u64::from(identity.key_count));
    let keys: Vec<_> = chunks
        .into_iter()
        .flat_map(|(first, keys)| (first..).zip(keys))
        .filter(|(sequence, _)| (oldest..place.next_key).contains(sequence))
        .collect();
    let expected = (oldest..place.next_key).map(Some).chain([None]);
    let found = keys
        .iter()
        .map(|(sequence, _)| Some(*sequence))
        .chain([None]);
    if !expected.eq(found) {
        let what = format!("remembered keys of partition {partition} are missing");
        return Err(StateError::Damaged(what));
    }
    state.restore(
        place.next_offset,
        place.last_event,
        place.letters,
        oldest,
        keys.into_iter().map(|(_, key)| key),
    );
    Ok(state)
}

/// Whether the store has a key with a prefix.
fn holds_any(store: &dyn Store, prefix: &[u8]) -> Result<bool, StateError> {
    let mut any = false;
    let scanned = store.scan(prefix, &mut |_, _| {
        any = true;
        Err(StoreError::ended("the first key is enough"))
    });
    if any {
        return Ok(true);
    }
    scanned.map(|()| false).map_err(StateError::Store)
}

/// The mark that says that the stored state was found to be damaged while it was used, which a
/// start would not notice by itself: it reads only what it needs. Its text is what was damaged.
pub(crate) fn damage_mark<'a>(storage: &'a dyn Storage, dir: &'a Path) -> Mark<'a> {
    Mark::new(storage, dir, DAMAGED)
}

/// Where partitions stand in the log, as far as that is checked.
fn places(partitions: &[PartitionState]) -> Vec<(Partition, Place)> {
    let place = |state: &PartitionState| Place {
        next_offset: state.next_offset(),
        last_event: state.last_event(),
        ..Place::default()
    };
    let all = partitions.iter();
    all.map(|state| (state.partition(), place(state))).collect()
}

/// Refuses state that this log did not make.
pub(crate) fn check_against(
    log: &dyn EventLog,
    places: &[(Partition, Place)],
) -> Result<(), OpenError> {
    let (firsts, heads) = (log.first()?, log.head()?);
    let at = |offsets: &[Offset], partition: Partition| {
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        offsets.get(place).copied().unwrap_or_default()
    };
    let mut last_events = Vec::new();
    for (partition, place) in places {
        let (partition, next_offset) = (*partition, place.next_offset);
        let (first, head) = (at(&firsts, partition), at(&heads, partition));
        if next_offset > head {
            return Err(OpenError::AheadOfLog {
                partition,
                next_offset,
                head,
            });
        }
        if next_offset < first {
            return Err(OpenError::Truncated {
                partition,
                next_offset,
                first,
            });
        }
        let last = place.last_event.filter(|(offset, _)| *offset >= first);
        last_events.extend(last.map(|(offset, id)| (Position { partition, offset }, id)));
    }
    let positions: Vec<Position> = last_events.iter().map(|(position, _)| *position).collect();
    let found = log.records_at(&positions)?;
    for ((Position { partition, offset }, id), found) in last_events.into_iter().zip(found) {
        let found = event_in(found);
        if found != id.to_string() {
            return Err(OpenError::OtherHistory {
                partition,
                offset,
                state: id,
                log: found,
            });
        }
    }
    Ok(())
}

/// The id of the event in a record, or what is there instead.
fn event_in(record: Option<OneRecord>) -> String {
    match record.map(|record| tally_domain::decode_entry(&record.value)) {
        Some(Ok(entry)) => entry.id().to_string(),
        Some(Err(_)) => "something that is not an event".to_owned(),
        None => "no record".to_owned(),
    }
}
