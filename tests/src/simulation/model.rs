//! What must be true of log, state and keys, whatever happened to the disk.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tally_domain::{Position, Toggles};
use tally_ingress::auth::{KeyId, KeyInfo};
use tally_projector::StateDump;

use super::events::PARTITIONS;
use super::stack::{Contents, Results};
use crate::fold::{self, Folded};

/// What was found wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// Something that was acknowledged, or read once, is not there any more.
    Lost(String),
    /// Something counts twice, or is there although it was told to be not written.
    Doubled(String),
    /// An append is there by half.
    Half(String),
    /// What is whole is refused.
    Refused(String),
    /// The state was set aside and rebuilt, although nothing had damaged it.
    Rebuilt,
    /// The state is not the log's fold.
    OtherState(String),
}

/// What is known of the log.
#[derive(Debug, Default)]
pub struct LogModel {
    /// Acknowledged, or read once.
    there: BTreeMap<Position, Vec<u8>>,
    /// Told to be not written, or found to be not there.
    never: BTreeSet<Vec<u8>>,
    /// Of unknown fate, by append.
    perhaps: Vec<Vec<Vec<u8>>>,
    /// How many records were acknowledged.
    pub acknowledged: u64,
    /// How many of unknown fate were there.
    pub kept: u64,
    /// How many of them were not.
    pub gone: u64,
}

impl LogModel {
    /// Takes in what became of an append of these values, in these partitions.
    pub fn settle(&mut self, values: Vec<(u32, Vec<u8>)>, results: Results) {
        let mut unknown = Vec::new();
        for ((partition, value), result) in values.into_iter().zip(results) {
            match result {
                Ok(offset) => {
                    self.acknowledged += 1;
                    self.there.insert(Position { partition, offset }, value);
                }
                Err(tally_log::AppendError::FateUnknown(_)) => unknown.push(value),
                Err(_) => {
                    self.never.insert(value);
                }
            }
        }
        self.perhaps.push(unknown);
    }

    /// Looks at what the log holds now: what was there is there, at its place; what is new was of
    /// unknown fate, and is whole.
    pub fn look(&mut self, found: &Contents, wrong: &mut Vec<Wrong>) {
        let found: BTreeMap<Position, &Vec<u8>> = found.iter().map(|(p, v)| (*p, v)).collect();
        for (position, value) in &self.there {
            match found.get(position) {
                Some(there) if *there == value => {}
                other => wrong.push(Wrong::Lost(format!(
                    "{position:?} held {}, and holds {:?}",
                    String::from_utf8_lossy(value),
                    other.map(|there| String::from_utf8_lossy(there))
                ))),
            }
        }
        let values: BTreeSet<&Vec<u8>> = found.values().copied().collect();
        if values.len() < found.len() {
            wrong.push(Wrong::Doubled("one record stands at two places".to_owned()));
        }
        let new: BTreeSet<&Vec<u8>> = found
            .iter()
            .filter(|(position, _)| !self.there.contains_key(position))
            .map(|(_, value)| *value)
            .collect();
        for value in new.iter().filter(|value| self.never.contains(**value)) {
            let value = String::from_utf8_lossy(value);
            wrong.push(Wrong::Doubled(format!(
                "{value} was told to be not written"
            )));
        }
        let mut explained = 0;
        for append in &self.perhaps {
            let there = append.iter().filter(|value| new.contains(value)).count();
            if there != 0 && there != append.len() {
                wrong.push(Wrong::Half(format!("{there} of {} records", append.len())));
            }
            explained += there;
        }
        if explained != new.len() {
            wrong.push(Wrong::Doubled("records come from nowhere".to_owned()));
        }
        self.there = found.iter().map(|(p, v)| (*p, (*v).clone())).collect();
        for value in std::mem::take(&mut self.perhaps).into_iter().flatten() {
            if values.contains(&value) {
                self.kept += 1;
            } else {
                self.gone += 1;
                self.never.insert(value);
            }
        }
    }
}

/// The fold of a log, done again by other code than the service's.
#[must_use]
pub fn folded(contents: &Contents) -> Folded {
    let lines = contents.iter().map(|(position, value)| {
        let Position { partition, offset } = position;
        match serde_json::from_slice::<Value>(value) {
            Ok(event) => json!({"partition": partition, "offset": offset, "event": event}),
            Err(error) => json!({
                "partition": partition, "offset": offset,
                "error": error.to_string(), "raw_base64": "",
            }),
        }
        .to_string()
    });
    let lines: Vec<String> = lines.collect();
    fold::fold(lines.iter().map(String::as_str), PARTITIONS)
}

/// Compares the state with the fold of the log.
pub fn compare(contents: &Contents, state: &StateDump, wrong: &mut Vec<Wrong>) {
    let folded = folded(contents);
    let counters: BTreeMap<_, _> = state
        .counters
        .iter()
        .map(|(resource, c)| {
            let counts = [c.views, c.likes, c.shares, c.bookmarks, c.comments];
            ((resource.kind.to_string(), resource.id.get()), counts)
        })
        .collect();
    if counters != folded.counters {
        let sum = |all: &BTreeMap<_, [u64; 5]>| all.values().flatten().sum::<u64>();
        let (ours, theirs) = (sum(&folded.counters), sum(&counters));
        let what = format!(
            "counters {counters:?} are not the fold's {:?}",
            folded.counters
        );
        wrong.push(match theirs.cmp(&ours) {
            std::cmp::Ordering::Less => Wrong::Lost(what),
            std::cmp::Ordering::Greater => Wrong::Doubled(what),
            std::cmp::Ordering::Equal => Wrong::OtherState(what),
        });
    }
    let toggles: BTreeMap<_, _> = state
        .toggles
        .iter()
        .map(|(resource, user, toggles)| {
            let resource = (resource.kind.to_string(), resource.id.get());
            let Toggles { liked, bookmarked } = *toggles;
            ((resource, user.as_str().to_owned()), (liked, bookmarked))
        })
        .collect();
    if toggles != folded.toggles {
        let what = format!(
            "toggles {toggles:?} are not the fold's {:?}",
            folded.toggles
        );
        wrong.push(Wrong::OtherState(what));
    }
    for (partition, next) in (0u64..).zip(&state.positions) {
        let expected = folded.next_offsets.get(&partition).copied().unwrap_or(0);
        if *next != expected {
            let what = format!("partition {partition} is at {next}, not at {expected}");
            wrong.push(Wrong::OtherState(what));
        }
    }
    if state.dead_letters != folded.dead_letters {
        let (are, expected) = (state.dead_letters, folded.dead_letters);
        wrong.push(Wrong::OtherState(format!(
            "{are} dead letters, not {expected}"
        )));
    }
}

/// What is known of the keys.
#[derive(Debug, Default)]
pub struct KeysModel {
    /// Whether a key was told to be revoked; `None` where that is not known.
    keys: BTreeMap<KeyId, Option<bool>>,
    /// How many may be there of which no id was told.
    perhaps: usize,
}

impl KeysModel {
    /// A key was made, or may have been.
    pub fn created(&mut self, id: Option<KeyId>) {
        match id {
            Some(id) => {
                self.keys.insert(id, Some(false));
            }
            None => self.perhaps += 1,
        }
    }

    /// A key was revoked, or may have been.
    pub fn revoked(&mut self, id: KeyId, certainly: bool) {
        self.keys.insert(id, certainly.then_some(true));
    }

    /// A key that holds.
    #[must_use]
    pub fn holding(&self) -> Option<KeyId> {
        let mut all = self.keys.iter();
        all.find(|(_, revoked)| **revoked == Some(false))
            .map(|(id, _)| *id)
    }

    /// How many keys are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Looks at the keys that are there now.
    pub fn look(&mut self, found: &[KeyInfo], wrong: &mut Vec<Wrong>) {
        let there: BTreeMap<KeyId, bool> = found
            .iter()
            .map(|key| (key.id, key.revoked_at.is_some()))
            .collect();
        for (id, revoked) in &self.keys {
            match (there.get(id), revoked) {
                (None, _) => wrong.push(Wrong::Lost(format!("key {id}"))),
                (Some(is), Some(told)) if is != told => {
                    wrong.push(Wrong::Lost(format!("the revocation of key {id}")));
                }
                (Some(_), _) => {}
            }
        }
        let new = there
            .keys()
            .filter(|id| !self.keys.contains_key(id))
            .count();
        // They may come and go: a file that is read is not synced by that.
        if new > self.perhaps {
            wrong.push(Wrong::Doubled(format!("{new} keys come from nowhere")));
        }
    }
}
