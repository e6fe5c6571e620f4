//! The memory of idempotency keys, restored at every phase of its queue.

use tally_domain::remembered::{Fingerprint, RememberedKey, RememberedKeys, Seen};
use tally_domain::{
    EventTime, IdempotencyKey, InteractionType, Resource, ResourceType, Rules, UserId,
};

use crate::history::{BASE, HOUR};

/// Every third comes again 30 h later, so that some are superseded while still in the queue.
fn key(number: u64) -> RememberedKey {
    let name = if number % 3 == 2 { number - 1 } else { number };
    let key = IdempotencyKey::new(format!("key {name}")).unwrap();
    let resource = Resource::new(ResourceType::Quest, 42).unwrap();
    RememberedKey {
        fingerprint: Fingerprint::of(&UserId::new("1").unwrap(), resource, &key),
        at: EventTime::from_millis(BASE + number * 30 * HOUR),
        interaction: if number.is_multiple_of(2) {
            InteractionType::View
        } else {
            InteractionType::Like
        },
    }
}

fn filled(rules: Rules, count: u64) -> RememberedKeys {
    let mut keys = RememberedKeys::new(rules);
    for number in 0..count {
        let RememberedKey {
            fingerprint,
            at,
            interaction,
        } = key(number);
        assert_eq!(keys.seen(fingerprint, at, interaction), Seen::New);
        keys.remember(key(number));
    }
    keys
}

/// Everything that can be asked of it.
fn answers(keys: &RememberedKeys, upto: u64) -> (u64, u64, Vec<(u64, RememberedKey)>, Vec<Seen>) {
    let seen = (0..upto).map(|number| {
        let RememberedKey {
            fingerprint, at, ..
        } = key(number);
        keys.seen(fingerprint, at, InteractionType::View)
    });
    let holding = keys.holding().map(|(sequence, key)| (sequence, *key));
    (
        keys.first_sequence(),
        keys.next_sequence(),
        holding.collect(),
        seen.collect(),
    )
}

/// Protects: keys restored from what was written down, at any number of keys and any length of
/// the memory, go on exactly as if the process had never stopped (promises 3 and 5).
#[test]
fn restored_at_any_phase_it_goes_on_as_before() {
    for key_count in 1..7u32 {
        let rules = Rules {
            key_count,
            ..Rules::CURRENT
        };
        for count in 0..20u64 {
            // Restored from all keys ever, from more than are needed, from just those needed.
            let needed = count.saturating_sub(u64::from(key_count));
            for first in [0, needed / 2, needed] {
                let mut whole = filled(rules, count);
                let mut restored = filled(rules, 9);
                restored.restore_from(first, (first..count).map(key));
                assert_eq!(whole.first_sequence(), needed);
                assert!(
                    whole
                        .since(0)
                        .map(|(sequence, _)| sequence)
                        .eq(needed..count)
                );
                for number in count..count + 14 {
                    assert_eq!(
                        answers(&whole, 40),
                        answers(&restored, 40),
                        "{key_count} {count} {first}"
                    );
                    assert!(whole.since(0).eq(restored.since(0)));
                    whole.remember(key(number));
                    restored.remember(key(number));
                }
            }
        }
    }
}

/// Protects: it may go on from a sequence with no keys at all; the first new key stands there.
#[test]
fn restored_from_nothing_it_begins_at_the_sequence() {
    for key_count in 1..5u32 {
        for first in 0..9 {
            let mut keys = RememberedKeys::new(Rules {
                key_count,
                ..Rules::CURRENT
            });
            keys.restore_from(first, []);
            assert_eq!(
                (keys.first_sequence(), keys.next_sequence()),
                (first, first)
            );
            for number in first..first + 11 {
                let RememberedKey {
                    fingerprint,
                    at,
                    interaction,
                } = key(number);
                assert_eq!(keys.seen(fingerprint, at, interaction), Seen::New);
                keys.remember(key(number));
                assert_eq!(keys.seen(fingerprint, at, interaction), Seen::Same);
                let oldest = (number + 1).saturating_sub(u64::from(key_count)).max(first);
                assert!(
                    keys.since(0)
                        .map(|(sequence, _)| sequence)
                        .eq(oldest..=number)
                );
            }
        }
    }
}

/// Protects: sequences past 2^32, where the table's half of them turns round, are told apart.
#[test]
fn sequences_past_32_bits_are_told_apart() {
    let start = u64::from(u32::MAX) - 5;
    let rules = Rules {
        key_count: 4,
        ..Rules::CURRENT
    };
    let mut keys = RememberedKeys::new(rules);
    keys.restore_from(start, []);
    for number in 0..12 {
        keys.remember(key(number));
        let holding: Vec<_> = keys.holding().map(|(at, key)| (at, *key)).collect();
        // Restored near zero, the same keys hold, with the same distances.
        let mut low = RememberedKeys::new(rules);
        low.restore_from(0, (0..=number).map(key));
        let expected: Vec<_> = low.holding().map(|(at, key)| (at + start, *key)).collect();
        assert_eq!(holding, expected);
    }
}

/// Protects: a remembered key reads back from its bytes as it was, to the last bit of the time.
#[test]
fn a_remembered_key_reads_back_as_it_was() {
    for interaction in InteractionType::ALL {
        for millis in [0, 1, BASE, EventTime::MAX_MILLIS] {
            let written = RememberedKey {
                at: EventTime::from_millis(millis),
                interaction: *interaction,
                ..key(7)
            };
            assert_eq!(
                RememberedKey::from_bytes(&written.to_bytes()),
                Some(written)
            );
        }
    }
    let mut bytes = key(0).to_bytes();
    bytes[23] = 7;
    assert_eq!(
        RememberedKey::from_bytes(&bytes),
        None,
        "there is no interaction of code 7"
    );
}

/// Protects: memory follows from N. Any number of keys leaves the last N.
#[test]
fn it_never_holds_more_than_its_count() {
    let rules = Rules {
        key_count: 64,
        ..Rules::CURRENT
    };
    let keys = filled(rules, 5_000);
    assert_eq!(keys.since(0).count(), 64);
    assert_eq!(keys.first_sequence(), 5_000 - 64);
    assert_eq!(keys.next_sequence(), 5_000);
}
