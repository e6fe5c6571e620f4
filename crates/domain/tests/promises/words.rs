//! The words: their texts, their codes, their bounds.

use tally_domain::{
    DeadLetterReason, IdempotencyKey, InteractionType, Outcome, Resource, ResourceId, ResourceType,
    Toggles, UserId,
};

/// Protects: the contract's words and their order, which is part of the state's encoding.
#[test]
fn words_and_codes_never_change() {
    let kinds = "quest ai_note ai_expert podcast collection publication ai_video profile";
    let acts = "view like unlike share bookmark unbookmark comment";
    let words: Vec<_> = ResourceType::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(words.join(" "), kinds);
    let words: Vec<_> = InteractionType::ALL
        .iter()
        .map(|act| act.as_str())
        .collect();
    assert_eq!(words.join(" "), acts);
    for (code, kind) in (0u8..).zip(ResourceType::ALL) {
        assert_eq!(
            (kind.code(), ResourceType::from_code(code)),
            (code, Some(*kind))
        );
        assert_eq!(kind.as_str().parse(), Ok(*kind));
        assert_eq!(serde_json::to_string(kind).unwrap(), format!("\"{kind}\""));
        assert_eq!(
            serde_json::from_str::<ResourceType>(&format!("\"{kind}\"")).unwrap(),
            *kind
        );
    }
    for (code, act) in (0u8..).zip(InteractionType::ALL) {
        assert_eq!(
            (act.code(), InteractionType::from_code(code)),
            (code, Some(*act))
        );
        assert_eq!(act.as_str().parse(), Ok(*act));
        assert_eq!(serde_json::to_string(act).unwrap(), format!("\"{act}\""));
    }
    assert_eq!(ResourceType::from_code(8), None);
    assert_eq!(InteractionType::from_code(7), None);
    for wrong in ["", "Quest", " quest", "quest ", "quests", "ai-note"] {
        assert!(wrong.parse::<ResourceType>().is_err(), "{wrong}");
    }
}

/// Protects: JSON and metric labels say the same words.
#[test]
fn outcomes_and_reasons_say_the_same_everywhere() {
    for outcome in Outcome::ALL {
        assert_eq!(
            serde_json::to_string(outcome).unwrap(),
            format!("\"{}\"", outcome.as_str())
        );
    }
    for reason in DeadLetterReason::ALL {
        assert_eq!(
            serde_json::to_string(reason).unwrap(),
            format!("\"{}\"", reason.as_str())
        );
    }
}

/// Protects: the bounds of users, keys and ids, to the byte.
#[test]
fn bounds_are_kept_to_the_byte() {
    assert!(UserId::new("").is_err());
    assert!(UserId::new("u".repeat(128)).is_ok());
    assert!(UserId::new("u".repeat(129)).is_err());
    assert!(UserId::new("é".repeat(64)).is_ok());
    assert!(UserId::new("é".repeat(65)).is_err());
    assert!(IdempotencyKey::new("").is_err());
    assert!(IdempotencyKey::new("~".repeat(255)).is_ok());
    assert!(IdempotencyKey::new("~".repeat(256)).is_err());
    for wrong in ["\u{1f}", "\u{7f}", "é", "a\nb", "a\0"] {
        assert!(IdempotencyKey::new(wrong).is_err(), "{wrong:?}");
    }
    assert!(ResourceId::try_from(9_223_372_036_854_775_807).is_ok());
    assert!(ResourceId::try_from(9_223_372_036_854_775_808).is_err());
}

/// Protects: a resource has one text, the record key, and only that text is read as it.
#[test]
fn a_resource_has_one_text() {
    for kind in ResourceType::ALL {
        for id in [0, 1, 9, 10, 15, 4_294_967_296, ResourceId::MAX] {
            let resource = Resource::new(*kind, id).unwrap();
            let text = format!("{}:{id}", kind.as_str());
            assert_eq!(resource.key(), text);
            assert_eq!(resource.to_string(), text);
            assert_eq!(text.parse(), Ok(resource));
        }
    }
    for wrong in [
        "",
        ":",
        "quest",
        "quest:",
        ":42",
        "quest:+42",
        "quest:042",
        "quest:-0",
        "quest:4 2",
        "quest: 42",
        "quest:42:",
        "Quest:42",
        "quest:9223372036854775808",
        "quest:99999999999999999999",
        "quest:4.0",
    ] {
        assert!(wrong.parse::<Resource>().is_err(), "{wrong}");
    }
}

/// Protects: toggles read back from their bits, and other bits are refused.
#[test]
fn toggles_read_back_from_their_bits() {
    let bits = [(false, false), (true, false), (false, true), (true, true)];
    for (bits, (liked, bookmarked)) in (0u8..).zip(bits) {
        let toggles = Toggles { liked, bookmarked };
        assert_eq!(toggles.to_bits(), bits);
        assert_eq!(Toggles::from_bits(bits), Some(toggles));
    }
    assert!((4..=255).all(|bits| Toggles::from_bits(bits).is_none()));
}
