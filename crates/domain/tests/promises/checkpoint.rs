//! Checkpoints and crashes against one uninterrupted fold.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use tally_domain::remembered::RememberedKey;
use tally_domain::state::Changes;
use tally_domain::{
    Applied, Backing, Counters, DeadLetter, Digest, Event, EventId, EventTime, InteractionType,
    LetterCounts, NoBacking, PartitionState, Position, Record, Resource, ResourceType, Rules,
    Toggles, UserId,
};

use crate::fold::digest;
use crate::history::{Line, Scene, histories, log, scenes};

/// What is written down.
#[derive(Debug, Default)]
struct Written {
    next_offset: u64,
    last_event: Option<(u64, EventId)>,
    counters: BTreeMap<Resource, Counters>,
    toggles: BTreeMap<(Resource, UserId), Toggles>,
    keys: BTreeMap<u64, RememberedKey>,
    dead_letters: BTreeMap<u64, DeadLetter>,
    moved: BTreeSet<Position>,
    letter_counts: LetterCounts,
}

/// A backing whose next answers may be an error.
struct Reader<'a> {
    written: &'a Written,
    answers_before_an_error: Cell<Option<u32>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Unreadable;

impl Reader<'_> {
    fn answer(&self) -> Result<(), Unreadable> {
        match self.answers_before_an_error.get() {
            None => Ok(()),
            Some(0) => Err(Unreadable),
            Some(more) => {
                self.answers_before_an_error.set(Some(more - 1));
                Ok(())
            }
        }
    }
}

impl Backing for Reader<'_> {
    type Error = Unreadable;
    fn counters(&self, resource: Resource) -> Result<Option<Counters>, Unreadable> {
        self.answer()?;
        Ok(self.written.counters.get(&resource).copied())
    }
    fn toggles(&self, resource: Resource, user: &UserId) -> Result<Option<Toggles>, Unreadable> {
        self.answer()?;
        Ok(self.written.toggles.get(&(resource, user.clone())).copied())
    }
    fn dead_letter(&self, offset: u64) -> Result<Option<DeadLetter>, Unreadable> {
        self.answer()?;
        Ok(self.written.dead_letters.get(&offset).cloned())
    }
    fn moved(&self, origin: Position) -> Result<bool, Unreadable> {
        self.answer()?;
        Ok(self.written.moved.contains(&origin))
    }
}

impl Written {
    fn reader(&self, answers_before_an_error: Option<u32>) -> Reader<'_> {
        Reader {
            written: self,
            answers_before_an_error: Cell::new(answers_before_an_error),
        }
    }

    fn write(&mut self, scene: Scene, changes: Changes, prune: bool) {
        let once: BTreeSet<_> = changes
            .counters
            .iter()
            .map(|(resource, _)| resource)
            .collect();
        assert_eq!(
            once.len(),
            changes.counters.len(),
            "each changed value once"
        );
        let once: BTreeSet<_> = changes
            .toggles
            .iter()
            .map(|(on, user, _)| (on, user))
            .collect();
        assert_eq!(once.len(), changes.toggles.len(), "each changed value once");

        self.next_offset = changes.next_offset;
        self.last_event = changes.last_event;
        self.letter_counts = changes.letter_counts;
        for offset in changes.gone_dead_letters {
            let gone = self.dead_letters.remove(&offset);
            assert!(
                gone.is_some(),
                "what was never written down is not taken away"
            );
        }
        let letters = changes.dead_letters.into_iter();
        self.dead_letters
            .extend(letters.map(|letter| (letter.position.offset, letter)));
        self.moved.extend(changes.moved);
        self.counters.extend(changes.counters);
        for (resource, user, toggles) in changes.toggles {
            if toggles == Toggles::NONE {
                self.toggles.remove(&(resource, user));
            } else {
                self.toggles.insert((resource, user), toggles);
            }
        }
        // More came than are remembered: those in between are gone, those before are of no use.
        let newest = self.keys.last_key_value().map(|(sequence, _)| *sequence);
        let first_new = changes.keys.first().map(|(sequence, _)| *sequence);
        if newest
            .zip(first_new)
            .is_some_and(|(newest, new)| newest + 1 < new)
        {
            self.keys.clear();
        }
        self.keys.extend(changes.keys);
        while prune && self.keys.len() > scene.key_count as usize {
            self.keys.pop_first();
        }
    }

    fn restored(&self, scene: Scene) -> PartitionState {
        let first = self.keys.first_key_value().map_or(0, |(first, _)| *first);
        let in_a_row = (first..).zip(self.keys.keys()).all(|(due, at)| due == *at);
        assert!(in_a_row, "no key is missing: {:?}", self.keys.keys());
        let mut state = scene.state();
        state.restore(
            self.next_offset,
            self.last_event,
            self.letter_counts,
            first,
            self.keys.values().copied(),
        );
        state
    }

    fn digest(&self, scene: Scene) -> Digest {
        let mut digest = Digest::default();
        for (resource, counters) in &self.counters {
            digest.add_counters(*resource, counters);
        }
        for ((resource, user), toggles) in &self.toggles {
            digest.add_toggles(*resource, user.as_str(), *toggles);
        }
        for (sequence, key) in self.restored(scene).keys().holding() {
            digest.add_key(scene.partition, sequence, key);
        }
        digest
    }
}

#[derive(Debug, Clone, Copy)]
enum Doing {
    /// Apply so many records.
    Apply(usize),
    /// The backing can't be read after so many answers, and later can.
    ApplyUnreadable(u32),
    /// Take the changes and write them down.
    Checkpoint,
    /// The same, then drop from memory what can be read again.
    CheckpointAndForget,
    /// Drop from memory what is unchanged, in between.
    Forget,
    /// Drop some of what is unchanged and not used lately.
    Sweep(u64),
    /// Die with the changes taken but not written.
    CrashInCheckpoint,
    /// Die.
    Crash,
}

fn doings() -> impl Strategy<Value = Vec<Doing>> {
    let doing = prop_oneof![
        6 => (1usize..12).prop_map(Doing::Apply),
        3 => (0u32..4).prop_map(Doing::ApplyUnreadable),
        3 => Just(Doing::Checkpoint),
        2 => Just(Doing::CheckpointAndForget),
        1 => Just(Doing::Forget),
        3 => (1u64..20).prop_map(|n| Doing::Sweep(n * PartitionState::TURN / 16)),
        1 => Just(Doing::CrashInCheckpoint),
        2 => Just(Doing::Crash),
    ];
    vec(doing, 1..40)
}

/// How many values are in memory.
fn in_memory(state: &PartitionState) -> usize {
    state.counters().count() + state.toggles().count()
}

/// A server's life: what is in memory, what is written down.
struct Life<'a> {
    scene: Scene,
    log: &'a [Line],
    expected: &'a [Applied],
    state: PartitionState,
    written: Written,
}

impl Life<'_> {
    /// The place in the log of the next record to apply.
    fn place(&self) -> usize {
        let next = self.state.next_offset();
        self.log.partition_point(|line| line.offset < next)
    }

    fn apply(&mut self, count: usize) -> Result<(), TestCaseError> {
        let place = self.place();
        for (line, expected) in self.log.iter().zip(self.expected).skip(place).take(count) {
            let applied = self.state.apply(line.record(), &self.written.reader(None));
            prop_assert_eq!(applied.as_ref(), Ok(expected), "at {}", line.offset);
        }
        Ok(())
    }

    /// A record is applied whole, or the error leaves everything as it was.
    fn apply_unreadable(&mut self, answers: u32) -> Result<(), TestCaseError> {
        let place = self.place();
        let Some((line, expected)) = self.log.iter().zip(self.expected).nth(place) else {
            return Ok(());
        };
        let seen = |state: &PartitionState| {
            let letters = state.letter_counts();
            (digest(state), state.changed(), in_memory(state), letters)
        };
        let before = seen(&self.state);
        let reader = self.written.reader(Some(answers));
        match self.state.apply(line.record(), &reader) {
            Ok(applied) => prop_assert_eq!(&applied, expected),
            Err(Unreadable) => {
                prop_assert_eq!(seen(&self.state), before);
                prop_assert_eq!(self.place(), place);
            }
        }
        Ok(())
    }

    fn checkpoint(&mut self) {
        let changes = self.state.take_changes();
        assert_eq!(self.state.changed(), 0);
        self.written
            .write(self.scene, changes, self.scene.partition.is_multiple_of(2));
    }

    fn run(&mut self, doing: Doing) -> Result<(), TestCaseError> {
        match doing {
            Doing::Apply(count) => self.apply(count)?,
            Doing::ApplyUnreadable(answers) => self.apply_unreadable(answers)?,
            Doing::Checkpoint => self.checkpoint(),
            Doing::CheckpointAndForget => {
                self.checkpoint();
                self.state.forget_unchanged();
                prop_assert_eq!(in_memory(&self.state), 0);
            }
            Doing::Forget => self.state.forget_unchanged(),
            Doing::Sweep(part) => self.state.sweep(part),
            Doing::CrashInCheckpoint => {
                self.state.take_changes();
                self.state = self.written.restored(self.scene);
            }
            Doing::Crash => self.state = self.written.restored(self.scene),
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Protects: whenever checkpoints are written, whenever the process dies, whatever is dropped
    /// from memory or can't be read for a while, every outcome and the digest are those of one
    /// uninterrupted fold, and each dead letter is kept once, until it is settled (promises 3, 4, 5 and 7).
    #[test]
    fn checkpoints_and_crashes_change_nothing(
        scene in scenes(),
        steps in histories(120),
        doings in doings(),
    ) {
        let log = log(scene, &steps);
        let mut whole = scene.state();
        let expected: Vec<_> = log
            .iter()
            .map(|line| {
                let Ok(applied) = whole.apply(line.record(), &NoBacking);
                applied
            })
            .collect();

        let mut life = Life {
            scene,
            log: &log,
            expected: &expected,
            state: scene.state(),
            written: Written::default(),
        };
        for doing in doings {
            life.run(doing)?;
        }
        life.apply(usize::MAX)?;
        for (resource, counters) in whole.counters() {
            for user in ["1", "2", "Зоя", "nobody"].map(|user| UserId::new(user).unwrap()) {
                let read = life.state.read(resource, &user, &life.written.reader(None));
                let Ok((_, toggles)) = whole.read(resource, &user, &NoBacking);
                prop_assert_eq!(read, Ok((Some(counters), toggles)));
            }
        }
        life.checkpoint();

        prop_assert_eq!(life.written.digest(scene), digest(&whole));
        let whole = whole.take_changes();
        prop_assert_eq!(life.written.next_offset, whole.next_offset);
        prop_assert_eq!(life.written.last_event, whole.last_event);
        prop_assert_eq!(life.written.letter_counts, whole.letter_counts);
        let letters: Vec<_> = life.written.dead_letters.into_values().collect();
        prop_assert_eq!(letters, whole.dead_letters);
        let moved: Vec<_> = life.written.moved.into_iter().collect();
        prop_assert_eq!(moved, whole.moved);
    }
}

/// Protects what is used most: the hand goes over a small table no faster than over a large one, so
/// that what was used since it came by last stays.
#[test]
fn a_small_table_is_swept_no_faster_than_a_large_one() {
    let mut state = PartitionState::new(0, 1, Rules::CURRENT);
    let hot = [1, 2, 3].map(|id| Resource::new(ResourceType::Quest, id).unwrap());
    for n in 0..10_000 {
        let event = Event {
            id: EventId::from_u128(n + 1),
            at: EventTime::from_millis(1),
            user: UserId::new(format!("user-{n}")).unwrap(),
            resource: hot[usize::try_from(n % 3).unwrap()],
            interaction: InteractionType::Like,
            idempotency_key: None,
        };
        let key = event.resource.key();
        let record = Record {
            offset: u64::try_from(n).unwrap(),
            append_time_millis: 1,
            key: key.as_bytes(),
            value: &tally_domain::encode(&event),
        };
        let Ok(applied) = state.apply(record, &NoBacking);
        assert!(matches!(applied, Applied::Folded { .. }));
    }
    state.take_changes();
    let all = state.memory();
    for _ in 0..3 {
        for resource in hot {
            assert!(state.has_counters(resource), "{resource} was used");
        }
        for _ in 0..16 {
            state.sweep(PartitionState::TURN / 16);
        }
    }
    assert!(state.memory() < all / 100, "what was not used is gone");
}

/// Protects a server in open mode from resources that are chosen to fall into one place of a table: where
/// they stand differs from table to table.
#[test]
fn where_a_value_stands_cannot_be_foreseen() {
    let order = || {
        let mut state = PartitionState::new(0, 1, Rules::CURRENT);
        let user = UserId::new("1").unwrap();
        for id in 0..1_000 {
            let resource = Resource::new(ResourceType::Quest, id).unwrap();
            state.keep_read(resource, &user, Some(Counters::default()), Toggles::NONE);
        }
        let all = state.counters().map(|(resource, _)| resource);
        all.collect::<Vec<_>>()
    };
    assert_ne!(order(), order());
}
