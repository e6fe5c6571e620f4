//! Whatever bytes come: no panic, nothing taken for what it is not, the same result again.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tally_domain::codec::SCHEMA_VERSION;
use tally_domain::digest::Digest;
use tally_domain::{
    Applied, DecodeError, Entry, LetterFate, LogId, NoBacking, PartitionState, PositionToken,
    Record, Rules, decode, decode_entry, encode, encode_settlement,
};
use tally_fuzz::{fuzz, way};

/// 2026-11-24T03:50:12.345Z, near the events of the corpus.
const APPENDED_MILLIS: u64 = 1_795_492_212_345;

const EVENT_WORDS: &[&str] = &[
    "\"v\":",
    "\"id\":",
    "\"at\":",
    "\"user\":",
    "\"resource_type\":",
    "\"resource_id\":",
    "\"interaction_type\":",
    "\"idempotency_key\":",
    "\"kind\":",
    "\"origin\":{\"partition\":0,\"offset\":",
    "\"event\":{\"v\":1,",
    "replay",
    "drop",
    "quest",
    "profile",
    "unlike",
    "comment",
    "null",
    "{}",
    "[[[[",
    "\\u0000",
    "\\ud800",
    "9999-12-31T23:59:60Z",
    "+14:00",
    "é",
];

/// Protects everything that reads the log: what decodes is written and read again as the same event,
/// and what does not says why.
#[test]
fn fuzz_events() {
    fuzz("events", EVENT_WORDS, |bytes| match decode_entry(bytes) {
        Ok(Entry::Settlement(settlement)) => {
            let written = encode_settlement(&settlement);
            let again = decode_entry(&written).expect("what was written is a settlement");
            assert_eq!(again, Entry::Settlement(settlement.clone()));
            assert!(decode(&written).is_err(), "it is no interaction");
            let brings = settlement.event.is_some();
            way(format!("{:?}{brings}", settlement.action))
        }
        Ok(Entry::Event(event)) => {
            let written = encode(&event);
            let again = decode(&written).expect("what was written is an event");
            assert_eq!(again, event);
            assert_eq!(encode(&again), written);
            way(format!(
                "{:?}{}",
                event.interaction,
                event.idempotency_key.is_some()
            ))
        }
        Err(DecodeError::UnknownVersion(version)) => {
            assert!(version > u64::from(SCHEMA_VERSION));
            way("a newer version")
        }
        Err(error @ DecodeError::NotAnEvent(_)) => way(error),
    });
}

/// Protects the fold from what other producers put into a topic: each record is folded or kept as a
/// dead letter, and the same history makes the same state.
#[test]
fn fuzz_records() {
    fuzz("records", EVENT_WORDS, |bytes| {
        let (state, ways) = folded(bytes);
        let (again, _) = folded(bytes);
        assert_eq!(digest(&state), digest(&again));
        way(ways)
    });
}

/// A line is a record; what stands before a tab is its key.
fn folded(bytes: &[u8]) -> (PartitionState, String) {
    let mut state = PartitionState::new(0, 1, Rules::CURRENT);
    let (mut ways, mut folded, mut dead) = (String::new(), 0, 0);
    for (offset, line) in (0..).zip(bytes.split(|byte| *byte == b'\n')) {
        let tab = line.iter().position(|byte| *byte == b'\t');
        let (key, value) = tab.map_or((&[][..], line), |at| (&line[..at], &line[at + 1..]));
        let record = Record {
            offset,
            append_time_millis: APPENDED_MILLIS,
            key,
            value,
        };
        let Ok(applied) = state.apply(record, &NoBacking);
        match applied {
            Applied::Folded { event, outcome } => {
                assert_eq!(decode(value).expect("an event"), event);
                folded += 1;
                ways.push_str(outcome.as_str());
            }
            Applied::DeadLetter(reason) => {
                dead += 1;
                let kept = state.new_dead_letters(0).next_back().expect("it is kept");
                assert_eq!(
                    (kept.reason, &*kept.value, &*kept.key),
                    (reason, value, key)
                );
                ways.push_str(&format!("{reason:?}"));
            }
            Applied::Settled { fate, .. } => {
                ways.push_str(&format!("{fate:?}"));
                match fate {
                    LetterFate::Folded(_) => folded += 1,
                    LetterFate::Still(_) | LetterFate::Dropped | LetterFate::Gone => {}
                }
            }
            Applied::Already => panic!("offset {offset} is new"),
        }
        assert_eq!(state.next_offset(), offset + 1);
    }
    let counts = state.letter_counts();
    assert_eq!(counts.ever, dead);
    let kept = u64::try_from(state.new_dead_letters(0).count()).expect("few");
    assert_eq!(counts.now(), kept);
    let counted: u64 = state
        .counters()
        .map(|(_, counters)| counters.views + counters.shares + counters.comments)
        .sum();
    assert!(counted <= folded, "{counted} counted of {folded}");
    (state, ways)
}

fn digest(state: &PartitionState) -> Digest {
    let mut digest = Digest::default();
    for (resource, counters) in state.counters() {
        digest.add_counters(resource, &counters);
    }
    for (resource, user, toggles) in state.toggles() {
        digest.add_toggles(resource, user.as_str(), toggles);
    }
    digest
}

/// Protects readers by position: a text is a token in one spelling only, and a token with a right
/// checksum is read for what it says.
#[test]
fn fuzz_positions() {
    let log = LogId::from_u128(0x0193_a6f0_7b3e_7c4a_9d3e_2f1b_5c6d_7e8f);
    fuzz("positions", &["AQ", "-", "_", "=", "AAAA"], |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let parsed = text.parse::<PositionToken>();
        if let Ok(token) = parsed {
            assert_eq!(token.to_string(), text);
            return way(format!("{:?}", token.position_in(log).map(drop)));
        }
        // What is no token is made one, where it has the bytes of one.
        let Ok(mut bytes) = URL_SAFE_NO_PAD.decode(&*text) else {
            return way("no base64");
        };
        bytes.resize(25, 0);
        bytes[0] = 1;
        let check = crc32c::crc32c(&bytes[..21]);
        bytes[21..].copy_from_slice(&check.to_le_bytes());
        let sealed = URL_SAFE_NO_PAD.encode(&bytes);
        let token: PositionToken = sealed.parse().expect("a token with a right checksum");
        assert_eq!(token.to_string(), sealed);
        let at = token.position;
        assert_eq!(at.partition.to_le_bytes(), bytes[9..13]);
        assert_eq!(at.offset.to_le_bytes(), bytes[13..21]);
        way("made one")
    });
}
