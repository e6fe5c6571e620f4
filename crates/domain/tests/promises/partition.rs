//! Partitions are Kafka's; position tokens are ours.

use proptest::prelude::*;
use tally_domain::partition::partition_of;
use tally_domain::{LogId, Position, PositionToken, Resource, TokenError};

const GOLDEN: &str = include_str!("../golden/kafka-partitions.csv");

fn from_hex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

/// Protects: any keyed Java producer picks our partition.
#[test]
fn partitions_are_those_of_kafkas_java_client() {
    let mut rows = GOLDEN.lines().filter(|line| !line.starts_with('#'));
    let header = rows.next().unwrap().split(',').skip(2);
    let counts: Vec<u32> = header.map(|count| count.parse().unwrap()).collect();
    assert_eq!(counts, [16, 1, 3, 1024]);
    let (mut keys, mut resources) = (0, 0);
    for row in rows {
        let mut cells = row.split(',');
        let key = from_hex(cells.next().unwrap());
        let hash: u32 = cells.next().unwrap().parse().unwrap();
        // 2^31 partitions leave the whole of the hash that counts.
        assert_eq!(partition_of(&key, 1 << 31), hash & 0x7fff_ffff, "{row}");
        let partitions: Vec<u32> = cells.map(|cell| cell.parse().unwrap()).collect();
        for (count, partition) in counts.iter().zip(&partitions) {
            assert_eq!(partition_of(&key, *count), *partition, "{row} of {count}");
        }
        let resource = std::str::from_utf8(&key)
            .ok()
            .and_then(|key| key.parse::<Resource>().ok());
        if let Some(resource) = resource {
            assert_eq!(resource.partition(16), partitions[0], "{row}");
            resources += 1;
        }
        keys += 1;
    }
    assert_eq!((keys, resources), (200, 144));
    assert_eq!(partition_of(b"any", 0), 0, "no partitions are read as one");
}

const LOG: LogId = LogId::from_u128(0x0193_a6f0_7b3e_7c4a_9d3e_2f1b_5c6d_7e8f);

/// Tokens of [`LOG`], worked out by another program from the layout's description.
const GOLDEN_TOKENS: [(u32, u64, &str); 3] = [
    (3, 17, "AQGTpvB7PnxKAwAAABEAAAAAAAAAB3uXmw"),
    (0, 0, "AQGTpvB7PnxKAAAAAAAAAAAAAAAAxHNPBQ"),
    (u32::MAX, u64::MAX, "AQGTpvB7PnxK________________K8CfFQ"),
];

/// Protects: tokens that clients hold keep their meaning over versions of the service.
#[test]
fn tokens_keep_their_text() {
    for (partition, offset, text) in GOLDEN_TOKENS {
        let position = Position { partition, offset };
        assert_eq!(PositionToken::new(LOG, position).to_string(), text);
        let token: PositionToken = text.parse().unwrap();
        assert_eq!(token.position_in(LOG), Ok(position));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Protects: a token names its position and its log, and no other log's.
    #[test]
    fn a_token_names_its_position_and_log(log: u128, other: u64, partition: u32, offset: u64) {
        let position = Position { partition, offset };
        let log = LogId::from_u128(log);
        let text = PositionToken::new(log, position).to_string();
        prop_assert_eq!(text.len(), 34);
        let token: PositionToken = text.parse().unwrap();
        prop_assert_eq!(token.position_in(log), Ok(position));
        let (first, second) = log.as_u64_pair();
        let other = LogId::from_u64_pair(first ^ other.max(1), second);
        prop_assert_eq!(token.position_in(other), Err(TokenError::OtherLog));
    }

    /// Protects: a token that was changed in any one character, cut or lengthened is malformed,
    /// never another position.
    #[test]
    fn a_changed_token_is_malformed(partition: u32, offset: u64, with in "\\PC") {
        let token = PositionToken::new(LOG, Position { partition, offset });
        let text = token.to_string();
        for place in 0..text.len() {
            let changed = format!("{}{with}{}", &text[..place], &text[place + 1..]);
            let expected = if changed == text { Ok(token) } else { Err(TokenError::Malformed) };
            prop_assert_eq!(changed.parse(), expected);
            prop_assert_eq!(text[..place].parse::<PositionToken>(), Err(TokenError::Malformed));
        }
        for longer in [format!("{text}A"), format!("{text}="), format!("{text}AAAA"), format!(" {text}"), text.repeat(1_000)] {
            prop_assert_eq!(longer.parse::<PositionToken>(), Err(TokenError::Malformed));
        }
    }
}

/// Protects: every character of the alphabet at every place, the last one's unused bits too.
#[test]
fn every_flipped_character_is_malformed() {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=";
    for (_, _, text) in GOLDEN_TOKENS {
        for place in 0..text.len() {
            for with in alphabet.chars() {
                let changed = format!("{}{with}{}", &text[..place], &text[place + 1..]);
                assert_eq!(
                    changed.parse::<PositionToken>().is_ok(),
                    changed == text,
                    "{changed}"
                );
            }
        }
    }
}

/// Protects: a token of another version is refused although its checksum is right.
#[test]
fn a_token_of_another_version_is_malformed() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let mut bytes = URL_SAFE_NO_PAD.decode(GOLDEN_TOKENS[0].2).unwrap();
    bytes[0] = 2;
    let check = crc32c::crc32c(&bytes[..21]).to_le_bytes();
    bytes[21..].copy_from_slice(&check);
    let text = URL_SAFE_NO_PAD.encode(bytes);
    assert_eq!(text.parse::<PositionToken>(), Err(TokenError::Malformed));
}
