//! The digest: the same for the same items in any order, another for any other item.

use proptest::prelude::*;
use tally_domain::remembered::{Fingerprint, RememberedKey};
use tally_domain::{
    Applied, Counters, Digest, EventTime, InteractionType, NoBacking, PartitionState, Record,
    Resource, ResourceType, Rules, Toggles, encode,
};

use crate::codec::golden_events;

/// The golden events folded in order, in a log of one partition, worked out by another program
/// (Python, with its own BLAKE3) from the digest's description. State with this fold version is on
/// disks: where this changes, [`tally_domain::FOLD_VERSION`] must change too.
const GOLDEN: &str = "v2:372fc878568f2f7f5c71a247276bf059620f68d9d2e3100574388c2eb0801d7e";
/// The first remembered key of the same fold, by the same program.
const GOLDEN_KEY: &str = "0ef4ad14475926f9e1522b26c06ec2d479eeac0ba2010004";

/// Protects: what the fold makes of a fixed history, to the bit, on every machine and in every
/// build of this fold version (promise 3).
#[test]
fn the_golden_history_has_the_golden_digest() {
    let mut state = PartitionState::new(0, 1, Rules::CURRENT);
    for (offset, event) in (0..).zip(golden_events()) {
        let value = encode(&event);
        let record = Record {
            offset,
            append_time_millis: EventTime::MAX_MILLIS,
            key: b"",
            value: &value,
        };
        let Ok(applied) = state.apply(record, &NoBacking);
        assert!(matches!(applied, Applied::Folded { .. }), "{applied:?}");
    }
    assert_eq!(crate::fold::digest(&state).to_string(), GOLDEN);
    let (_, first) = state.keys().since(0).next().unwrap();
    let hex: String = first
        .to_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hex, GOLDEN_KEY);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    Counters(Resource, Counters),
    Toggles(Resource, &'static str, Toggles),
    Key(u32, u64, RememberedKey),
}

fn of(items: &[Item]) -> Digest {
    let mut digest = Digest::default();
    for item in items {
        match *item {
            Item::Counters(resource, counters) => digest.add_counters(resource, &counters),
            Item::Toggles(resource, user, toggles) => digest.add_toggles(resource, user, toggles),
            Item::Key(partition, sequence, key) => digest.add_key(partition, sequence, &key),
        }
    }
    digest
}

fn items() -> impl Strategy<Value = Item> {
    let resource = || {
        (proptest::sample::select(ResourceType::ALL), 0u64..3)
            .prop_map(|(kind, id)| Resource::new(kind, id).unwrap())
    };
    let counters =
        any::<[u64; 5]>().prop_map(|[views, likes, shares, bookmarks, comments]| Counters {
            views,
            likes,
            shares,
            bookmarks,
            comments,
        });
    let toggles = (1u8..4).prop_map(|bits| Toggles::from_bits(bits).unwrap());
    let user = proptest::sample::select(vec!["1", "2", "12", "é"]);
    let key = (
        any::<[u8; 16]>(),
        0u64..1_000,
        proptest::sample::select(InteractionType::ALL),
    );
    let key = key.prop_map(|(fingerprint, at, interaction)| RememberedKey {
        fingerprint: Fingerprint(fingerprint),
        at: EventTime::from_millis(at),
        interaction,
    });
    prop_oneof![
        (resource(), counters).prop_map(|(resource, counters)| Item::Counters(resource, counters)),
        (resource(), user, toggles)
            .prop_map(|(on, user, toggles)| Item::Toggles(on, user, toggles)),
        (0u32..16, any::<u64>(), key)
            .prop_map(|(partition, at, key)| Item::Key(partition, at, key)),
    ]
}

/// The item with one of its fields another.
fn changed(item: Item, field: usize) -> Item {
    let other = |resource: Resource| Resource::new(resource.kind, resource.id.get() + 1).unwrap();
    let other_kind = |resource: Resource| Resource {
        kind: ResourceType::from_code((resource.kind.code() + 1) % 8).unwrap(),
        ..resource
    };
    match item {
        Item::Counters(resource, mut counters) => {
            match field % 7 {
                0 => counters.views ^= 1,
                1 => counters.likes ^= 1,
                2 => counters.shares ^= 1,
                3 => counters.bookmarks ^= 1 << 63,
                4 => counters.comments ^= 1 << 40,
                5 => return Item::Counters(other(resource), counters),
                _ => return Item::Counters(other_kind(resource), counters),
            }
            Item::Counters(resource, counters)
        }
        Item::Toggles(resource, user, toggles) => match field % 4 {
            0 => Item::Toggles(resource, "21", toggles),
            1 => Item::Toggles(other(resource), user, toggles),
            2 => Item::Toggles(other_kind(resource), user, toggles),
            _ => Item::Toggles(
                resource,
                user,
                Toggles::from_bits(toggles.to_bits() % 3 + 1).unwrap(),
            ),
        },
        Item::Key(partition, sequence, mut key) => {
            match field % 5 {
                0 => return Item::Key(partition + 1, sequence, key),
                1 => return Item::Key(partition, sequence ^ 1, key),
                2 => key.fingerprint.0[15] ^= 1,
                3 => key.at = EventTime::from_millis(key.at.as_millis() + 1),
                _ => {
                    let code = (key.interaction.code() + 1) % 7;
                    key.interaction = InteractionType::from_code(code).unwrap();
                }
            }
            Item::Key(partition, sequence, key)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Protects: equal states have equal digests however their items are ordered or grouped, so
    /// that partitions and backings may be walked in any order (promise 3).
    #[test]
    fn order_and_grouping_do_not_matter(
        items in proptest::collection::vec(items(), 1..30),
        swaps in proptest::collection::vec(any::<(usize, usize)>(), 0..30),
        split: usize,
    ) {
        let mut shuffled = items.clone();
        for (a, b) in swaps {
            shuffled.swap(a % items.len(), b % items.len());
        }
        prop_assert_eq!(of(&items), of(&shuffled));
        let (left, right) = shuffled.split_at(split % items.len());
        let mut sum = of(left);
        sum.add_digest(of(right));
        prop_assert_eq!(of(&items), sum);
        prop_assert_eq!(of(&items).to_string(), sum.to_string());
    }

    /// Protects: a digest covers every field of every item: one that differs, is missing or is
    /// there twice gives another digest (promise 3).
    #[test]
    fn every_field_counts(
        items in proptest::collection::vec(items(), 1..10),
        place: usize,
        field: usize,
    ) {
        let place = place % items.len();
        let mut other = items.clone();
        other[place] = changed(items[place], field);
        prop_assert_ne!(items[place], other[place]);
        prop_assert_ne!(of(&items), of(&other));
        other.remove(place);
        prop_assert_ne!(of(&items), of(&other));
        other.extend([items[place], items[place]]);
        prop_assert_ne!(of(&items), of(&other));
    }
}

/// Protects: a sum carries over all its words, where each item alone does not show it.
#[test]
fn carries_reach_the_highest_word() {
    // Adding a digest 2^k times to itself moves its bits up by k; all 256 of them at the end.
    let resource = Resource::new(ResourceType::Quest, 42).unwrap();
    let mut digest = of(&[Item::Counters(resource, Counters::default())]);
    let zero = Digest::default();
    let mut doublings = 0;
    while digest != zero {
        digest.add_digest(digest);
        doublings += 1;
        assert!(
            doublings <= 256,
            "twice itself 256 times is nothing left, modulo 2^256"
        );
    }
    assert!(
        doublings > 192,
        "{doublings} doublings: the lowest bit went through all the words"
    );
}

/// Protects: nothing set is the same as never touched; counters that are all zero are not the same
/// as no events.
#[test]
fn nothing_set_is_nothing_but_zero_counters_are_something() {
    let resource = Resource::new(ResourceType::Quest, 42).unwrap();
    let zero = Digest::default();
    assert_eq!(of(&[Item::Toggles(resource, "1", Toggles::NONE)]), zero);
    assert_ne!(of(&[Item::Counters(resource, Counters::default())]), zero);
}
