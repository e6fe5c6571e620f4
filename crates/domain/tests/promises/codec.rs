//! The event codec: what was ever written is read for ever, and nothing else is taken for it.

use proptest::prelude::*;
use tally_domain::{
    DeadLetterReason, Entry, Event, EventTime, IdempotencyKey, InteractionType, Position, Resource,
    ResourceType, SettleAction, Settlement, UserId, decode, decode_entry, encode,
    encode_settlement,
};

use crate::history::interactions;

/// Every kind of event version 1 ever wrote, one a line. These bytes are in logs: the file only
/// grows. They were written by another program (Python's `json`) from the design's words.
pub(crate) const GOLDEN: &str = include_str!("../golden/events-v1.ndjson");

fn row(
    id: &str,
    at: u64,
    user: &str,
    (kind, resource_id): (ResourceType, u64),
    interaction: InteractionType,
    key: &str,
) -> Event {
    Event {
        id: id.parse().unwrap(),
        at: EventTime::from_millis(at),
        user: UserId::new(user).unwrap(),
        resource: Resource::new(kind, resource_id).unwrap(),
        interaction,
        // An empty one is none.
        idempotency_key: IdempotencyKey::new(key).ok(),
    }
}

/// Row by row what [`GOLDEN`] holds.
pub(crate) fn golden_events() -> Vec<Event> {
    use InteractionType::{Bookmark, Comment, Like, Share, Unbookmark};
    use ResourceType::{AiNote, Collection, Profile, Publication, Quest};
    let id = |n: u64| format!("0193a6f0-7b3e-7c4a-9d3e-{n:012x}");
    // 2026-11-24T03:50:12Z and 03:51:00Z.
    let [first, later] = [1_795_492_212_000, 1_795_492_260_000];

    let example = "0193a6f0-7b3e-7c4a-9d3e-2f1b5c6d7e8f";
    let mut rows = vec![row(
        example,
        first + 345,
        "1",
        (AiNote, 15),
        Bookmark,
        "k-1",
    )];
    let acts = || (0..).zip(ResourceType::ALL).zip(InteractionType::ALL);
    rows.extend(
        acts()
            .map(|((n, kind), act)| row(&id(n + 1), first + n + 1, "1", (*kind, n + 1), *act, "")),
    );
    rows.extend(acts().map(|((n, kind), act)| {
        row(
            &id(n + 8),
            later + n,
            "42",
            (*kind, n + 1),
            *act,
            &format!("key-{n}"),
        )
    }));
    let (leap_day, new_year) = (1_835_481_599_999, 1_767_225_600_000);
    let escaped = "a\"b\\c\n\t\u{1}\u{7f}/";
    let (longest_user, longest_key) = ("é".repeat(64), "~".repeat(255));
    let largest = (Publication, 9_223_372_036_854_775_807);
    let end = 253_402_300_799_999;
    rows.extend([
        row(
            &id(15),
            leap_day,
            "Зоя 🦀",
            (Profile, 9_007_199_254_740_993),
            Like,
            "",
        ),
        row(
            &id(16),
            new_year,
            escaped,
            (Profile, 2_147_483_648),
            Like,
            "\"\\/ ~",
        ),
        row(
            &id(17),
            end,
            &longest_user,
            largest,
            Unbookmark,
            &longest_key,
        ),
        row(&id(18), 0, "u", (Collection, 0), Comment, " "),
        row(
            "ffffffff-ffff-7fff-bfff-ffffffffffff",
            951_827_696_789,
            "0",
            (Quest, 42),
            Share,
            "",
        ),
    ]);
    rows
}

/// Protects: every event ever written is read as what it was, and the bytes are still written so.
#[test]
fn golden_events_are_read_and_written_to_the_byte() {
    let lines: Vec<_> = GOLDEN.lines().collect();
    let events = golden_events();
    assert_eq!(lines.len(), events.len());
    for (line, event) in lines.iter().zip(&events) {
        assert_eq!(&decode(line.as_bytes()).unwrap(), event, "{line}");
        assert_eq!(std::str::from_utf8(&encode(event)).unwrap(), *line);
    }
    for interaction in InteractionType::ALL {
        for keyed in [false, true] {
            let is = |event: &&Event| {
                event.interaction == *interaction && event.idempotency_key.is_some() == keyed
            };
            assert!(
                events.iter().any(|event| is(&event)),
                "{interaction} {keyed}"
            );
        }
    }
}

/// Every kind of replay and drop that version 2 ever wrote, written by the same other program. The
/// file only grows.
const GOLDEN_SETTLEMENTS: &str = include_str!("../golden/events-v2.ndjson");

/// Row by row what [`GOLDEN_SETTLEMENTS`] holds.
fn golden_settlements() -> Vec<Settlement> {
    let id = |n: u64| format!("0193a6f0-7b3e-7c4a-9d3e-{n:012x}");
    let (then, later) = (1_795_492_212_345, 1_795_598_100_000);
    let settled = |n, action, (partition, offset), event: Option<Event>, at| Settlement {
        id: id(n).parse().unwrap(),
        at: EventTime::from_millis(at),
        action,
        origin: Position { partition, offset },
        event: event.map(Box::new),
    };
    let (like, comment) = (InteractionType::Like, InteractionType::Comment);
    let quest = (ResourceType::Quest, 42);
    let brought = row(&id(4), then, "42", quest, like, "k-1");
    let largest = (ResourceType::Profile, 9_223_372_036_854_775_807);
    let far = row(&id(6), then, "Зоя 🦀", largest, comment, "");
    let (replay, drop) = (SettleAction::Replay, SettleAction::Drop);
    vec![
        settled(1, replay, (3, 17), None, later),
        settled(2, drop, (0, 0), None, later),
        settled(3, replay, (5, 3), Some(brought), later),
        settled(5, replay, (u32::MAX, u64::MAX), Some(far), 0),
        settled(
            7,
            drop,
            (15, 9_007_199_254_740_993),
            None,
            EventTime::MAX_MILLIS,
        ),
    ]
}

/// Protects: every replay and drop ever written is read as what it was, and the bytes are still
/// written so; none is ever taken for an interaction.
#[test]
fn golden_settlements_are_read_and_written_to_the_byte() {
    let lines: Vec<_> = GOLDEN_SETTLEMENTS.lines().collect();
    let settlements = golden_settlements();
    assert_eq!(lines.len(), settlements.len());
    for (line, settlement) in lines.iter().zip(&settlements) {
        let read = decode_entry(line.as_bytes()).unwrap();
        assert_eq!(read, Entry::Settlement(settlement.clone()), "{line}");
        let written = encode_settlement(settlement);
        assert_eq!(std::str::from_utf8(&written).unwrap(), *line);
        assert_eq!(tally_domain::codec::written_version(&written), 2);
        assert_eq!(reason(line.as_bytes()), Some(DeadLetterReason::Undecodable));
    }
    for event in GOLDEN.lines() {
        assert_eq!(tally_domain::codec::written_version(event.as_bytes()), 1);
    }
}

/// Protects: what is almost a replay or a drop is refused, and one that brings an event of a newer
/// version is told from damage, so that nothing is lost on an older build (promise 7).
#[test]
fn what_is_almost_a_settlement_is_a_dead_letter() {
    let lines: Vec<_> = GOLDEN_SETTLEMENTS.lines().collect();
    let (replay, brings) = (lines[0], lines[2]);
    let said = |line: &str, from: &str, to: &str| {
        assert!(line.contains(from), "{from}");
        let changed = line.replacen(from, to, 1);
        decode_entry(changed.as_bytes()).map_err(|error| error.reason())
    };
    let undecodable = Err(DeadLetterReason::Undecodable);
    for (line, from, to) in [
        (replay, "\"kind\":\"replay\",", ""),
        (replay, "\"replay\"", "\"repeat\""),
        (replay, "\"replay\"", "null"),
        (replay, "\"partition\":3", "\"partition\":-1"),
        (replay, "\"partition\":3", "\"partition\":4294967296"),
        (replay, "\"offset\":17", "\"offset\":\"17\""),
        (replay, ",\"origin\":{\"partition\":3,\"offset\":17}", ""),
        (replay, "\"v\":2", "\"v\":1"),
        (brings, "\"user\":\"42\",", ""),
        (brings, "\"event\":{\"v\":1", "\"event\":{\"v\":0"),
        (brings, "\"event\":{\"v\":1", "\"event\":{\"v\":2"),
    ] {
        assert_eq!(said(line, from, to), undecodable, "{from} -> {to}");
    }
    let newer = Err(DeadLetterReason::UnknownVersion);
    assert_eq!(said(replay, "\"v\":2", "\"v\":3"), newer);
    let event = "\"event\":{\"v\":1";
    assert_eq!(said(brings, event, "\"event\":{\"v\":3"), newer);
    let unread = "\"event\":{\"v\":3,\"what\":{\"ever\":1}},\"later\":{\"v\":1";
    assert_eq!(said(brings, event, unread), newer);
    // What a later writer adds is ignored.
    let added = said(replay, "{\"v\":2", "{\"by\":{\"user\":1},\"v\":2");
    assert_eq!(added, Ok(Entry::Settlement(golden_settlements().remove(0))));
}

fn events() -> impl Strategy<Value = Event> {
    let user = "\\PC{1,32}|[\\x00-\\x7f]{1,128}"
        .prop_filter_map("1..=128 bytes", |user| UserId::new(user).ok());
    let key = "[ -~]{1,255}".prop_map(|key| IdempotencyKey::new(key).unwrap());
    let at = (0..=EventTime::MAX_MILLIS).prop_map(EventTime::from_millis);
    let kind = proptest::sample::select(ResourceType::ALL);
    let id = prop_oneof![0u64..100, 0..=(i64::MAX as u64)];
    let resource = (kind, id).prop_map(|(kind, id)| Resource::new(kind, id).unwrap());
    let id = any::<u128>().prop_map(uuid::Uuid::from_u128);
    (
        id,
        at,
        user,
        resource,
        interactions(),
        proptest::option::of(key),
    )
        .prop_map(
            |(id, at, user, resource, interaction, idempotency_key)| Event {
                id,
                at,
                user,
                resource,
                interaction,
                idempotency_key,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Protects: any event is read back as it was written, is one line, and is JSON to others.
    #[test]
    fn an_event_reads_back_as_it_was_written(event in events()) {
        let bytes = encode(&event);
        prop_assert!(!bytes.contains(&b'\n'));
        prop_assert_eq!(&decode(&bytes).unwrap(), &event);
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        prop_assert_eq!(&json["v"], 1);
        prop_assert_eq!(&json["user"], event.user.as_str());
        prop_assert_eq!(json.get("idempotency_key").is_some(), event.idempotency_key.is_some());
    }

    /// Protects: no bytes make the reader fall over, not even ones that are almost an event.
    #[test]
    fn damaged_bytes_are_refused_or_read(event in events(), place in any::<usize>(), byte: u8, cut: bool) {
        let mut bytes = encode(&event);
        let place = place % bytes.len();
        if cut {
            bytes.truncate(place);
            prop_assert!(decode(&bytes).is_err());
        } else {
            bytes[place] = byte;
            if let Ok(read) = decode(&bytes) {
                prop_assert_eq!(decode(&encode(&read)).unwrap(), read);
            }
        }
    }
}

fn reason(bytes: &[u8]) -> Option<DeadLetterReason> {
    decode(bytes).err().map(|error| error.reason())
}

/// The design's example with one part replaced.
fn with(part: &str, replacement: &str) -> Vec<u8> {
    let line = GOLDEN.lines().next().unwrap();
    assert!(line.contains(part), "{part}");
    line.replacen(part, replacement, 1).into_bytes()
}

/// Protects: fields a later writer adds, their order and the space between them don't matter; an
/// absent and a null key are the same.
#[test]
fn unknown_fields_order_and_space_are_ignored() {
    let event = decode(with("", "").as_slice()).unwrap();
    for bytes in [
        with("{", "{\"later\":{\"deep\":[1,null,\"x\"]},"),
        with("{", " \n\t\r{ "),
        with(":15,", " : 15 ,"),
        with("{\"v\":1,", "{")
            .strip_suffix(b"}")
            .map(|head| [head, b",\"v\":1} \n"].concat())
            .unwrap(),
        with("ai_note", "\\u0061i_note"),
        with("2026-11-24T03:50:12.345Z", "2026\\u002d11-24T03:50:12.345Z"),
    ] {
        assert_eq!(
            decode(&bytes).unwrap(),
            event,
            "{}",
            String::from_utf8_lossy(&bytes)
        );
    }
    let without = decode(&with(",\"idempotency_key\":\"k-1\"", "")).unwrap();
    let null = decode(&with("\"k-1\"", "null")).unwrap();
    assert_eq!(without.idempotency_key, None);
    assert_eq!(without, null);
}

/// Protects: a newer version is told from damage, whatever the rest of it looks like, so that an
/// operator knows to upgrade and not to look for a broken producer (promise 7).
#[test]
fn a_newer_version_is_told_from_damage() {
    let unknown = Some(DeadLetterReason::UnknownVersion);
    for bytes in [
        with("\"v\":1", "\"v\":3"),
        with("\"v\":1", "\"v\":18446744073709551615"),
        b"{\"v\":3}".to_vec(),
        b"{\"who\":[1,2],\"v\":3,\"id\":7}".to_vec(),
    ] {
        assert_eq!(
            reason(&bytes),
            unknown,
            "{}",
            String::from_utf8_lossy(&bytes)
        );
    }
}

/// Protects: what is not an event of a known version is undecodable, however near it comes
/// (promise 7).
#[test]
fn what_is_not_an_event_is_undecodable() {
    let undecodable = Some(DeadLetterReason::Undecodable);
    let in_an_array = br#"[1,"0193a6f0-7b3e-7c4a-9d3e-2f1b5c6d7e8f","2026-11-24T03:50:12.345Z","1","ai_note",15,"view"]"#;
    for bytes in [
        b"".to_vec(),
        b"null".to_vec(),
        b"[2]".to_vec(),
        b"{}".to_vec(),
        b"{\"v\":2".to_vec(),
        b"{\"v\":2} {\"v\":2}".to_vec(),
        b"{\"v\":\"2\"}".to_vec(),
        b"{\"v\":2.0}".to_vec(),
        b"{\"v\":-2}".to_vec(),
        in_an_array.to_vec(),
        format!("{{\"deep\":{}", "[".repeat(100_000)).into_bytes(),
        with("{", "\u{feff}{"),
        with("\"v\":1", "\"v\":0"),
        with("\"v\":1,", ""),
        with("\"v\":1", "\"v\":1,\"v\":1"),
        with("\"user\":\"1\"", "\"user\":\"1\",\"user\":\"1\""),
        with("\"user\":\"1\"", "\"user\":1"),
        with("\"user\":\"1\"", "\"user\":\"\""),
        with(
            "\"user\":\"1\"",
            &format!("\"user\":\"{}\"", "u".repeat(129)),
        ),
        with("\"user\":\"1\",", ""),
        with("k-1", ""),
        with("k-1", "é"),
        with("k-1", "\\u007f"),
        with("k-1", &"k".repeat(256)),
        with("\"k-1\"", "1"),
        with("ai_note", "AI_NOTE"),
        with("\"ai_note\"", "{\"ai_note\":null}"),
        with("\"ai_note\"", "1"),
        with("bookmark", "follow"),
        with(":15,", ":-1,"),
        with(":15,", ":15.0,"),
        with(":15,", ":\"15\","),
        with(":15,", ":9223372036854775808,"),
        with("0193a6f0-7b3e", "0193a6f0-7b3"),
        with("2026-11-24T03:50:12.345Z", "2026-11-24"),
        with("\"2026-11-24T03:50:12.345Z\"", "1795492212345"),
        [b"{\"v\":1,\"user\":\"".as_slice(), &[0xff, 0xfe], b"\"}"].concat(),
    ] {
        assert_eq!(
            reason(&bytes),
            undecodable,
            "{}",
            String::from_utf8_lossy(&bytes)
        );
    }
}

/// Protects: events of other producers, whose times have another offset, no or more decimals.
#[test]
fn times_of_other_producers_are_read() {
    let at =
        |text| decode(&with("2026-11-24T03:50:12.345Z", text)).map(|event| event.at.as_millis());
    for (text, millis) in [
        ("2026-11-24T05:50:12.345+02:00", 1_795_492_212_345),
        ("2026-11-23T20:20:12.345-07:30", 1_795_492_212_345),
        ("2026-11-24T03:50:12Z", 1_795_492_212_000),
        ("2026-11-24T03:50:12.345999999Z", 1_795_492_212_345),
        ("2026-11-24T03:50:12.3+00:00", 1_795_492_212_300),
        ("2026-11-24t03:50:12.345z", 1_795_492_212_345),
        ("2026-06-30T23:59:60Z", 1_782_863_999_000),
    ] {
        assert_eq!(at(text).ok(), Some(millis), "{text}");
    }
}
