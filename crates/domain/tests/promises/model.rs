//! The rules again, slow and plain, from the words of the design and not from the code: sets of
//! users, sums, and a list of every key that ever came.

use std::collections::{BTreeMap, BTreeSet};

use tally_domain::{
    Applied, DeadLetterReason, Event, LetterFate, Outcome, Position, SettleAction, Settlement,
};

use crate::history::{Line, Meaning, Scene};

const DAY_MILLIS: u64 = 24 * 60 * 60 * 1_000;

/// Who did what to what, as text.
type UserOn = (String, String);

struct Key {
    scope: UserOn,
    key: String,
    at: u64,
    interaction: String,
}

/// One partition's state.
pub(crate) struct Model {
    key_count: usize,
    next_offset: u64,
    resources: BTreeSet<String>,
    sums: BTreeMap<(String, &'static str), u64>,
    liked: BTreeSet<UserOn>,
    bookmarked: BTreeSet<UserOn>,
    keys: Vec<Key>,
    /// By offset: why, and the event that it would be, where its time alone is wrong.
    dead_letters: BTreeMap<u64, (DeadLetterReason, Option<Event>)>,
    partition: u32,
    /// What was folded here of other partitions' dead letters.
    moved: BTreeSet<Position>,
}

impl Model {
    pub(crate) fn new(scene: Scene) -> Self {
        Self {
            key_count: usize::try_from(scene.key_count).unwrap(),
            next_offset: 0,
            resources: BTreeSet::new(),
            sums: BTreeMap::new(),
            liked: BTreeSet::new(),
            bookmarked: BTreeSet::new(),
            keys: Vec::new(),
            dead_letters: BTreeMap::new(),
            partition: scene.partition,
            moved: BTreeSet::new(),
        }
    }

    /// What must become of a record.
    pub(crate) fn apply(&mut self, line: &Line) -> Applied {
        if line.offset < self.next_offset {
            return Applied::Already;
        }
        self.next_offset = line.offset + 1;
        let (reason, event) = match &line.meaning {
            Meaning::Event(event) => {
                return Applied::Folded {
                    event: event.clone(),
                    outcome: self.fold(event),
                };
            }
            Meaning::Settle(settlement) => {
                return Applied::Settled {
                    settlement: settlement.clone(),
                    fate: self.settle(settlement, line.append_time_millis),
                };
            }
            Meaning::Undecodable => (DeadLetterReason::Undecodable, None),
            Meaning::UnknownVersion => (DeadLetterReason::UnknownVersion, None),
            Meaning::WrongPartition => (DeadLetterReason::WrongPartition, None),
            Meaning::Future(event) => (DeadLetterReason::FutureTime, Some(event.clone())),
        };
        self.dead_letters.insert(line.offset, (reason, event));
        Applied::DeadLetter(reason)
    }

    /// A replay folds what is a dead letter and can be folded by now, once; a drop gives it up.
    fn settle(&mut self, settlement: &Settlement, append_time_millis: u64) -> LetterFate {
        let in_time = |event: &Event| event.at.as_millis() <= append_time_millis + 300_000;
        let origin = settlement.origin;
        if origin.partition != self.partition {
            let event = settlement.event.as_deref().unwrap();
            return if self.moved.contains(&origin) {
                LetterFate::Folded(Outcome::Duplicate)
            } else if in_time(event) {
                self.moved.insert(origin);
                LetterFate::Folded(self.fold(event))
            } else {
                LetterFate::Still(DeadLetterReason::FutureTime)
            };
        }
        let Some((reason, event)) = self.dead_letters.get(&origin.offset).cloned() else {
            return LetterFate::Gone;
        };
        match (settlement.action, event.filter(in_time)) {
            (SettleAction::Drop, _) => {
                self.dead_letters.remove(&origin.offset);
                LetterFate::Dropped
            }
            (SettleAction::Replay, Some(event)) => {
                self.dead_letters.remove(&origin.offset);
                LetterFate::Folded(self.fold(&event))
            }
            // What stands in the wrong partition here is an event or a decision for another one.
            (SettleAction::Replay, None) => LetterFate::Still(reason),
        }
    }

    fn fold(&mut self, event: &Event) -> Outcome {
        let resource = event.resource.to_string();
        let scope = (event.user.to_string(), resource.clone());
        let interaction = event.interaction.as_str();
        self.resources.insert(resource.clone());

        if let Some(key) = &event.idempotency_key {
            let at = event.at.as_millis();
            // "A key holds for 24 h of event time after its first event or until N newer keys
            // have come in its partition, whichever is first."
            let first = self
                .keys
                .iter()
                .rev()
                .enumerate()
                .find(|(_, known)| known.scope == scope && known.key == key.as_str());
            if let Some((newer, first)) = first
                && newer < self.key_count
                && at < first.at + DAY_MILLIS
            {
                return if first.interaction == interaction {
                    Outcome::Duplicate
                } else {
                    Outcome::Conflict
                };
            }
            // "It is never renewed, it is recorded for no_change too."
            self.keys.push(Key {
                scope: scope.clone(),
                key: key.as_str().to_owned(),
                at,
                interaction: interaction.to_owned(),
            });
        }

        let changed = match interaction {
            "like" => self.liked.insert(scope),
            "unlike" => self.liked.remove(&scope),
            "bookmark" => self.bookmarked.insert(scope),
            "unbookmark" => self.bookmarked.remove(&scope),
            counted => {
                let name = match counted {
                    "view" => "views",
                    "share" => "shares",
                    "comment" => "comments",
                    other => panic!("what is {other}?"),
                };
                *self.sums.entry((resource, name)).or_default() += 1;
                true
            }
        };
        if changed {
            Outcome::Applied
        } else {
            Outcome::NoChange
        }
    }

    /// Each resource that has events, with views, likes, shares, bookmarks and comments.
    pub(crate) fn counters(&self) -> BTreeMap<String, [u64; 5]> {
        let sum = |resource: &str, name| {
            let key = (resource.to_owned(), name);
            self.sums.get(&key).copied().unwrap_or(0)
        };
        let users = |set: &BTreeSet<UserOn>, resource: &str| {
            let on = set.iter().filter(|(_, on)| on == resource);
            u64::try_from(on.count()).unwrap()
        };
        self.resources
            .iter()
            .map(|resource| {
                let counters = [
                    sum(resource, "views"),
                    users(&self.liked, resource),
                    sum(resource, "shares"),
                    users(&self.bookmarked, resource),
                    sum(resource, "comments"),
                ];
                (resource.clone(), counters)
            })
            .collect()
    }

    /// Each user with something set on a resource, with liked and bookmarked.
    pub(crate) fn toggles(&self) -> BTreeMap<UserOn, (bool, bool)> {
        self.liked
            .union(&self.bookmarked)
            .map(|scope| {
                let set = (self.liked.contains(scope), self.bookmarked.contains(scope));
                (scope.clone(), set)
            })
            .collect()
    }

    pub(crate) fn dead_letters(&self) -> Vec<(u64, DeadLetterReason)> {
        let letters = self.dead_letters.iter();
        letters
            .map(|(offset, (reason, _))| (*offset, *reason))
            .collect()
    }

    pub(crate) fn next_offset(&self) -> u64 {
        self.next_offset
    }
}
