//! The fold against the slow model, and the rules one by one.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tally_domain::{
    Applied, Counters, DeadLetter, DeadLetterReason, Digest, Event, EventTime, IdempotencyKey,
    InteractionType, NoBacking, Outcome, PartitionState, Record, Resource, ResourceType, Rules,
    Toggles, UserId, encode,
};

use crate::history::{BASE, HOUR, Line, Scene, event_id, histories, lines, log, scenes};
use crate::model::Model;

/// Counters in the contract's order.
fn array(counters: Counters) -> [u64; 5] {
    let Counters {
        views,
        likes,
        shares,
        bookmarks,
        comments,
    } = counters;
    [views, likes, shares, bookmarks, comments]
}

fn apply(state: &mut PartitionState, line: &Line) -> Applied {
    match state.apply(line.record(), &NoBacking) {
        Ok(applied) => applied,
        Err(never) => match never {},
    }
}

/// The digest of a state of which nothing was ever forgotten.
pub(crate) fn digest(state: &PartitionState) -> Digest {
    let mut digest = Digest::default();
    for (resource, counters) in state.counters() {
        digest.add_counters(resource, &counters);
    }
    for (resource, user, toggles) in state.toggles() {
        digest.add_toggles(resource, user.as_str(), toggles);
    }
    for (sequence, key) in state.keys().holding() {
        digest.add_key(state.partition(), sequence, key);
    }
    digest
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Protects: every outcome, counter, toggle, remembered key and dead letter is what the
    /// design's rules say, in any history (promises 3, 5 and 7).
    #[test]
    fn the_fold_agrees_with_the_rules(scene in scenes(), steps in histories(150)) {
        let mut state = scene.state();
        let mut model = Model::new(scene);
        for line in lines(scene, &steps) {
            let applied = apply(&mut state, &line);
            prop_assert_eq!(&applied, &model.apply(&line), "at {:?}", line);
            prop_assert_eq!(state.next_offset(), model.next_offset());
            if let Applied::Folded { event, .. } = applied {
                prop_assert_eq!(state.last_event(), Some((line.offset, event.id)));
                // What the caller is told is the state as of this very event.
                let Ok((counters, toggles)) = state.read(event.resource, &event.user, &NoBacking);
                let counters = counters.unwrap();
                let resource = event.resource.to_string();
                prop_assert_eq!(Some(array(counters)), model.counters().get(&resource).copied());
                let scope = (event.user.to_string(), resource);
                let set = model.toggles().get(&scope).copied().unwrap_or_default();
                prop_assert_eq!((toggles.liked, toggles.bookmarked), set);
            }
        }

        let counters: BTreeMap<_, _> =
            state.counters().map(|(resource, all)| (resource.to_string(), array(all))).collect();
        prop_assert_eq!(&counters, &model.counters());
        let toggles: BTreeMap<_, _> = state
            .toggles()
            .filter(|(_, _, toggles)| *toggles != Toggles::NONE)
            .map(|(resource, user, toggles)| {
                ((user.to_string(), resource.to_string()), (toggles.liked, toggles.bookmarked))
            })
            .collect();
        prop_assert_eq!(&toggles, &model.toggles());

        // A counter is the number of users with the toggle set, counted from the fold's own toggles.
        for (resource, counters) in state.counters() {
            let on = |set: fn(Toggles) -> bool| {
                let users = state.toggles().filter(|(on, _, toggles)| *on == resource && set(*toggles));
                users.count() as u64
            };
            prop_assert_eq!(counters.likes, on(|toggles| toggles.liked));
            prop_assert_eq!(counters.bookmarks, on(|toggles| toggles.bookmarked));
        }

        let letters = state.take_changes().dead_letters;
        let seen: Vec<_> = letters.iter().map(|dead| (dead.position.offset, dead.reason)).collect();
        prop_assert_eq!(&seen, &model.dead_letters());
        prop_assert_eq!(state.dead_letter_count(), seen.len() as u64);
    }

    /// Protects: state is a function of the log. Dropped and folded again it has the same digest,
    /// whatever came twice on the way (promise 3).
    #[test]
    fn folding_again_gives_the_same_digest(scene in scenes(), steps in histories(100)) {
        let mut once = scene.state();
        for line in log(scene, &steps) {
            apply(&mut once, &line);
        }
        let mut with_replays = scene.state();
        for line in lines(scene, &steps) {
            apply(&mut with_replays, &line);
        }
        // And once more from the beginning, into the state that has it all.
        for line in log(scene, &steps) {
            prop_assert_eq!(apply(&mut with_replays, &line), Applied::Already);
        }
        prop_assert_eq!(digest(&once), digest(&with_replays));
    }
}

/// One partition that holds everything, and a way to write histories by hand.
struct Bench {
    state: PartitionState,
    next: u64,
}

const LIKE: InteractionType = InteractionType::Like;
const VIEW: InteractionType = InteractionType::View;

impl Bench {
    fn new(key_count: u32) -> Self {
        let scene = Scene {
            partition: 0,
            partitions: 1,
            key_count,
        };
        Self {
            state: scene.state(),
            next: 0,
        }
    }

    fn event(
        &self,
        user: &str,
        id: u64,
        interaction: InteractionType,
        key: &str,
        at: u64,
    ) -> Event {
        Event {
            id: event_id(self.next),
            at: EventTime::from_millis(BASE + at),
            user: UserId::new(user).unwrap(),
            resource: Resource::new(ResourceType::Quest, id).unwrap(),
            interaction,
            idempotency_key: IdempotencyKey::new(key).ok(),
        }
    }

    fn append(&mut self, value: &[u8], append_time_millis: u64) -> Applied {
        let record = Record {
            offset: self.next,
            append_time_millis,
            key: b"any",
            value,
        };
        self.next += 1;
        let Ok(applied) = self.state.apply(record, &NoBacking);
        applied
    }

    /// The outcome of `user` doing something to a quest with a key (none when empty), so many
    /// milliseconds after the beginning.
    fn act(&mut self, user: &str, id: u64, what: InteractionType, key: &str, at: u64) -> Outcome {
        let event = self.event(user, id, what, key, at);
        match self.append(&encode(&event), BASE + at) {
            Applied::Folded { outcome, .. } => outcome,
            refused @ (Applied::DeadLetter(_) | Applied::Settled { .. } | Applied::Already) => {
                panic!("{refused:?}")
            }
        }
    }
}

/// Protects: a key holds for 24 h of event time after its FIRST event, to the millisecond, and a
/// repetition does not renew it (promise 5).
#[test]
fn a_key_holds_a_day_from_its_first_event_and_is_never_renewed() {
    let mut bench = Bench::new(100);
    assert_eq!(bench.act("1", 1, VIEW, "k", 0), Outcome::Applied);
    assert_eq!(bench.act("1", 1, VIEW, "k", 23 * HOUR), Outcome::Duplicate);
    assert_eq!(bench.act("1", 1, LIKE, "k", 23 * HOUR), Outcome::Conflict);
    assert_eq!(
        bench.act("1", 1, VIEW, "k", 24 * HOUR - 1),
        Outcome::Duplicate
    );
    // A clock that is behind does not get past the key.
    let event = bench.event("1", 1, VIEW, "k", 0);
    let early = Event {
        at: EventTime::from_millis(BASE - 48 * HOUR),
        ..event
    };
    let folded = bench.append(&encode(&early), BASE);
    assert!(matches!(
        folded,
        Applied::Folded {
            outcome: Outcome::Duplicate,
            ..
        }
    ));
    // 24 h after the first it is free, however often it came in between, and holds anew.
    assert_eq!(bench.act("1", 1, LIKE, "k", 24 * HOUR), Outcome::Applied);
    assert_eq!(
        bench.act("1", 1, LIKE, "k", 48 * HOUR - 1),
        Outcome::Duplicate
    );
    assert_eq!(
        bench.act("1", 1, VIEW, "k", 48 * HOUR - 1),
        Outcome::Conflict
    );
    assert_eq!(bench.act("1", 1, VIEW, "k", 48 * HOUR), Outcome::Applied);
}

/// Protects: a key holds until N newer keys have come, where only new keys count: not events
/// without one, not duplicates, not conflicts (promise 5).
#[test]
fn a_key_outlives_so_many_newer_keys_and_no_more() {
    for count in 1..5u32 {
        let mut bench = Bench::new(count);
        assert_eq!(bench.act("1", 1, VIEW, "k", 0), Outcome::Applied);
        for newer in 1..count {
            assert_eq!(
                bench.act("2", 2, VIEW, &format!("{newer}"), 0),
                Outcome::Applied
            );
            assert_eq!(
                bench.act("2", 2, VIEW, &format!("{newer}"), 0),
                Outcome::Duplicate
            );
            assert_eq!(
                bench.act("2", 2, LIKE, &format!("{newer}"), 0),
                Outcome::Conflict
            );
            assert_eq!(bench.act("2", 2, VIEW, "", 0), Outcome::Applied);
            assert_eq!(
                bench.act("1", 1, VIEW, "k", 0),
                Outcome::Duplicate,
                "{count}"
            );
        }
        assert_eq!(bench.act("2", 2, VIEW, "last", 0), Outcome::Applied);
        assert_eq!(bench.act("1", 1, VIEW, "k", 0), Outcome::Applied, "{count}");
    }
}

/// Protects: a key is scoped to (user, resource), is recorded for `no_change` too, and changes
/// nothing when it is repeated (promise 5).
#[test]
fn a_key_is_of_one_user_and_resource_and_recorded_for_no_change_too() {
    let mut bench = Bench::new(100);
    assert_eq!(bench.act("1", 1, LIKE, "k", 0), Outcome::Applied);
    assert_eq!(bench.act("2", 1, LIKE, "k", 0), Outcome::Applied);
    assert_eq!(bench.act("1", 2, LIKE, "k", 0), Outcome::Applied);
    assert_eq!(bench.act("1", 1, LIKE, "other", 0), Outcome::NoChange);
    assert_eq!(bench.act("1", 1, LIKE, "other", 1), Outcome::Duplicate);
    assert_eq!(bench.act("1", 1, VIEW, "other", 1), Outcome::Conflict);
    // The parts of the scope can't run into each other: user "1" + key "2k", user "12" + key "k".
    assert_eq!(bench.act("1", 3, VIEW, "2k", 0), Outcome::Applied);
    assert_eq!(bench.act("12", 3, VIEW, "k", 0), Outcome::Applied);
    let resource = Resource::new(ResourceType::Quest, 1).unwrap();
    let user = UserId::new("1").unwrap();
    let Ok((counters, toggles)) = bench.state.read(resource, &user, &NoBacking);
    assert_eq!(counters.map(array), Some([0, 2, 0, 0, 0]));
    assert!(toggles.liked && !toggles.bookmarked);
}

/// Protects: the rules of this fold version: 24 h, 5 min and N. Other ones are another version.
#[test]
fn the_current_rules_are_those_of_this_version() {
    assert_eq!(Rules::CURRENT.key_millis, 24 * HOUR);
    assert_eq!(Rules::CURRENT.max_ahead_millis, HOUR / 12);
    assert_eq!(Rules::CURRENT.key_count, 262_144);
}

/// Protects: an event exactly 5 min past its append time counts, one millisecond more is a dead
/// letter that takes no key and touches no counter (promise 7).
#[test]
fn an_event_from_the_future_is_a_dead_letter_and_consumes_nothing() {
    let mut bench = Bench::new(100);
    let event = bench.event("1", 1, VIEW, "k", HOUR);
    let five_minutes = HOUR / 12;
    let future = bench.append(&encode(&event), BASE + HOUR - five_minutes - 1);
    assert_eq!(future, Applied::DeadLetter(DeadLetterReason::FutureTime));
    assert_eq!(bench.state.counters().count(), 0);
    assert_eq!(bench.state.last_event(), None);
    let folded = bench.append(&encode(&event), BASE + HOUR - five_minutes);
    let outcome = Outcome::Applied;
    assert_eq!(folded, Applied::Folded { event, outcome });
}

/// Protects: a dead letter keeps the record whole, with reason and position; its words for a
/// person are bounded though the record is not; what follows it is folded (promises 7 and 9).
#[test]
fn a_dead_letter_keeps_the_record_whole_and_stops_nothing() {
    let mut bench = Bench::new(100);
    bench.act("1", 1, VIEW, "", 0);
    let before = bench.state.changed();
    let event = bench.event("1", 1, VIEW, "", 0);
    let text = String::from_utf8(encode(&event)).unwrap();
    let value = text
        .replace("\"view\"", &format!("\"{}\"", "é".repeat(400_000)))
        .into_bytes();
    let dead = bench.append(&value, BASE + 7);
    assert_eq!(dead, Applied::DeadLetter(DeadLetterReason::Undecodable));
    assert!(
        bench.state.changed() > before + 800_000 / 128,
        "its bytes bring a checkpoint nearer"
    );
    assert_eq!(bench.act("1", 1, VIEW, "", 0), Outcome::Applied);

    let changes = bench.state.take_changes();
    assert_eq!(changes.letter_counts.now(), 1);
    let [letter] = changes.dead_letters.as_slice() else {
        panic!("one dead letter");
    };
    assert_eq!((letter.position.partition, letter.position.offset), (0, 1));
    assert_eq!(letter.append_time_millis, BASE + 7);
    assert_eq!(
        (letter.key.as_slice(), &letter.value),
        (b"any".as_slice(), &value)
    );
    assert_eq!(letter.detail.chars().count(), DeadLetter::MAX_DETAIL_CHARS);
    assert_eq!(bench.state.changed(), 0);
}

/// Protects: keys alone bring a checkpoint nearer too, since they take memory until then.
#[test]
fn new_keys_count_as_changes() {
    let mut bench = Bench::new(3);
    bench.act("1", 1, VIEW, "", 0);
    bench.state.take_changes();
    assert_eq!(
        bench.act("1", 1, InteractionType::Unlike, "a", 0),
        Outcome::NoChange
    );
    assert_eq!(bench.state.changed(), 1);
    for key in ["b", "c", "d", "e"] {
        bench.act("1", 1, InteractionType::Unlike, key, 0);
    }
    assert_eq!(bench.state.changed(), 3, "a forgotten one takes none");
    assert_eq!(bench.state.take_changes().keys.len(), 3);
    assert_eq!(bench.state.changed(), 0);
}

/// Protects: a counter that is full stays full, and does not turn to zero.
#[test]
fn a_full_counter_stays_full() {
    let full = Counters {
        views: u64::MAX,
        ..Counters::default()
    };
    let (_, after, _) = tally_domain::fold::decide(full, Toggles::NONE, VIEW);
    assert_eq!(after, full);
}
